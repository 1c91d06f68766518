//! Names, lengths, leftovers, and paths that mean something on one machine only.

use crate::source::{Repository, files_below, relative, root};
use std::fs;
use std::path::Path;

/// Lines of a file that holds one concept.
const LINES_MAX: usize = 800;
/// Files over it that are allowed, and how many there may be: this number only goes down.
const LONG_FILES_MAX: usize = 0;

/// File and folder names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types", "manager"];

/// Files past the limit, and a list that could be shorter. An entry is `path`.
pub(crate) fn long_files(repository: &Repository, list: &[String]) -> Vec<String> {
    let mut offences = Vec::new();
    let long: Vec<_> = repository
        .sources
        .iter()
        .map(|source| (&source.path, source.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .collect();
    for (path, lines) in &long {
        if !list.contains(path) {
            offences.push(format!("{path}: {lines} lines"));
        }
    }
    for entry in list {
        if !long.iter().any(|(path, _)| *path == entry) {
            offences.push(format!("long_files.txt: {entry} is not long any more, or gone: strike it out"));
        }
    }
    if list.len() > LONG_FILES_MAX {
        offences.push(format!("long_files.txt: {} entries, {LONG_FILES_MAX} are allowed", list.len()));
    }
    offences
}

/// Files and folders with an empty name, also as the last word of a longer one.
pub(crate) fn empty_names(repository: &Repository) -> Vec<String> {
    let mut offences = Vec::new();
    for source in &repository.sources {
        for part in source.parts() {
            let stem = part.strip_suffix(".rs").unwrap_or(part);
            let last = stem.rsplit('_').next().unwrap_or(stem);
            if EMPTY_NAMES.contains(&last) {
                offences.push(format!("{}: '{part}'", source.path));
            }
        }
    }
    offences
}

/// Markers of unfinished work. They are put together here so that this file has none.
pub(crate) fn unfinished(repository: &Repository) -> Vec<String> {
    let never = [concat!("FIX", "ME"), concat!("XX", "X")];
    let later = concat!("TO", "DO");
    let macros = [concat!("to", "do!"), concat!("unimpl", "emented!")];
    let mut offences = Vec::new();
    for source in &repository.sources {
        for (index, (comment, code)) in source.comments.lines().zip(source.code.lines()).enumerate() {
            let without_issue = comment.split(later).skip(1).any(|after| {
                !after.strip_prefix("(#").is_some_and(|issue| issue.starts_with(|c: char| c.is_ascii_digit()))
            });
            let bad = never.iter().any(|word| comment.contains(word))
                || without_issue
                || macros.iter().any(|call| names_macro(code, call));
            if bad {
                let line = source.text.lines().nth(index).unwrap_or_default();
                offences.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    offences
}

/// Whether code calls this macro, and not one whose name ends the same.
fn names_macro(code: &str, call: &str) -> bool {
    code.match_indices(call).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Places of this machine, named in any text file of the repository.
pub(crate) fn machine_paths(_repository: &Repository) -> Vec<String> {
    let root = root();
    let mut places =
        vec![concat!("/ho", "me/").to_owned(), concat!("/ro", "ot/").to_owned(), concat!("/Use", "rs/").to_owned()];
    places.extend(ancestors(&root));
    let mut offences = Vec::new();
    for path in text_files(&root) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // not text: data, golden files
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(place) = place_in(line, &places) {
                offences.push(format!("{}:{}: {place}", relative(&root, &path), index + 1));
            }
        }
    }
    offences
}

/// The folders that the checkout lies in, but those that every machine has.
fn ancestors(root: &Path) -> Vec<String> {
    let everywhere = ["tmp", "usr", "var", "opt", "srv", "mnt", "media", "run", "data", "src"];
    let mut found = Vec::new();
    for folder in root.ancestors() {
        let text = folder.to_string_lossy();
        let name = text.trim_start_matches('/');
        if !name.is_empty() && !everywhere.contains(&name) {
            found.push(format!("{text}/"));
        }
    }
    found
}

/// A place named in a line as the beginning of a path, not as a part of a longer one.
fn place_in<'a>(line: &str, places: &'a [String]) -> Option<&'a String> {
    places.iter().find(|place| {
        line.match_indices(place.as_str())
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}/".contains(c)))
    })
}

/// What people wrote: no lock files, no licence, no build products.
fn text_files(root: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for folder in ["wal", "net", "engine", "bench", "fuzz", "docs", ".ci", ".make", ".cargo", ".config"] {
        files.extend(files_below(&root.join(folder)));
    }
    for name in ["README.md", "CHANGELOG.md", "Makefile", "Cargo.toml", "deny.toml", ".clippy.toml", ".gitignore"] {
        files.push(root.join(name));
    }
    files
}

#[test]
fn a_long_file_is_found_and_a_stale_entry_too() {
    let long = "\n".repeat(LINES_MAX + 1);
    let repository = Repository::of(&[("wal/src/a.rs", &long), ("wal/src/b.rs", "")]);
    assert_eq!(long_files(&repository, &[]).len(), 1);
    let listed = ["wal/src/a.rs".to_owned()];
    assert_eq!(long_files(&repository, &listed).len(), usize::from(LONG_FILES_MAX == 0));
    let stale = ["wal/src/b.rs".to_owned()];
    assert!(long_files(&repository, &stale).iter().any(|offence| offence.contains("strike it out")));
}

#[test]
fn an_empty_name_is_found_at_any_place() {
    let bad = ["wal/src/utils.rs", "engine/src/node/shard_manager.rs", "net/tests/common/mod.rs"];
    for path in bad {
        assert_eq!(empty_names(&Repository::of(&[(path, "")])).len(), 1, "{path}");
    }
    assert!(empty_names(&Repository::of(&[("wal/src/commonly_read.rs", "")])).is_empty());
}

#[test]
fn unfinished_work_is_found() {
    let found = |code: &str| unfinished(&Repository::of(&[("wal/src/a.rs", code)])).len();
    assert_eq!(found(concat!("// FIX", "ME later")), 1);
    assert_eq!(found(concat!("// TO", "DO later")), 1);
    assert_eq!(found(concat!("// TO", "DO(#12): later")), 0);
    assert_eq!(found(concat!("fn f() { to", "do!() }")), 1);
    assert_eq!(found(concat!("fn f() { unimpl", "emented!(\"x\") }")), 1);
    assert_eq!(found("fn f() { \"nothing to do!\"; into_do!() }"), 0);
}

#[test]
fn a_path_of_a_machine_is_found() {
    let places = ["/ho".to_owned() + "me/", "/x/y/".to_owned()];
    assert!(place_in("see /x/y/z", &places).is_some());
    assert!(place_in(concat!("`/ho", "me/ann/towline`"), &places).is_some());
    assert!(place_in("src/x/y/z and $HOME/x", &places).is_none());
    assert_eq!(ancestors(Path::new("/a/b")), ["/a/b/", "/a/"]);
    assert_eq!(ancestors(Path::new("/tmp/b")), ["/tmp/b/"]);
}

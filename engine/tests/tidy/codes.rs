//! Codes of errors: each number stands for one thing, and the book says what it means.

use crate::source::{Repository, Source, files_below, relative};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The crates whose errors have codes.
const CRATES: &[&str] = &["engine/src/", "wal/src/", "net/src/"];

/// Numbers that two errors return, each with the reason. A number that no longer is one of these is struck out.
pub(crate) const SHARED: &[Shared] = &[
    (1008, "a failed log: said to who submits, and to who waits for what was taken"),
    (1009, "a closed log: as above"),
    (1103, "the system refuses to read: said by a read and by a verification"),
    (5102, "a closed node: said to who submits, and to who waits for what was not sealed"),
];

/// As many numbers a range names at the most: a longer one is a table of contents, and says nothing of each.
const RANGE_MAX: u16 = 10;

/// A number that stands for two things, and why.
pub(crate) type Shared = (u16, &'static str);

/// A page of the book: its path, its text.
pub(crate) type Page = (String, String);

/// The pages of the book.
pub(crate) fn pages(root: &Path) -> Vec<Page> {
    let paths = files_below(&root.join("docs/src")).into_iter();
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (relative(root, &path), fs::read_to_string(&path).unwrap_or_default())).collect()
}

/// Codes that no page names, numbers that stand for two things and are not among those that may, and those that may and don't.
pub(crate) fn unnamed_or_shared(repository: &Repository, pages: &[Page], may: &[Shared]) -> Vec<String> {
    let named: BTreeSet<u16> = pages.iter().flat_map(|(_, text)| numbers_named(text)).collect();
    let mut places: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for (number, place) in repository.sources.iter().flat_map(returned) {
        places.entry(number).or_default().push(place);
    }
    let mut offences = Vec::new();
    for (number, places) in &places {
        if !named.contains(number) {
            offences.push(format!("{}: TW-{number} is on no page", places[0]));
        }
        if places.len() > 1 && !may.iter().any(|(shared, _)| shared == number) {
            offences.push(format!("TW-{number} stands for two things: {}", places.join(", ")));
        }
    }
    for (number, reason) in may {
        if places.get(number).map_or(0, Vec::len) < 2 {
            offences.push(format!("TW-{number} is shared no more ({reason}): strike it out of codes.rs"));
        }
    }
    offences
}

/// Codes of which a table in the sources' documentation says another class than the book, or which the book's tables lack.
pub(crate) fn of_two_classes(repository: &Repository, pages: &[Page]) -> Vec<String> {
    let mut book: BTreeMap<u16, String> = BTreeMap::new();
    for (number, class) in pages.iter().flat_map(|(_, text)| text.lines()).flat_map(classes) {
        book.entry(number).or_insert(class);
    }
    let mut offences = Vec::new();
    for source in repository.sources.iter().filter(|source| is_ours(source)) {
        for (index, line) in source.comments.lines().enumerate() {
            for (number, class) in classes(line.trim_start().trim_start_matches(['/', '!']).trim_start()) {
                let other = match book.get(&number) {
                    Some(other) if *other == class => continue,
                    Some(other) => format!("'{other}'"),
                    None => "in no table".to_owned(),
                };
                let place = format!("{}:{}", source.path, index + 1);
                offences.push(format!("{place}: TW-{number} is '{class}' here and {other} in the book"));
            }
        }
    }
    offences
}

fn is_ours(source: &Source) -> bool {
    CRATES.iter().any(|folder| source.path.starts_with(folder))
}

/// The numbers that a file's errors return as their codes, each with its place: literals in the body of a `fn code`, and
/// constants `CODE`.
fn returned(source: &Source) -> Vec<(u16, String)> {
    if !is_ours(source) {
        return Vec::new();
    }
    let (text, code): (Vec<_>, Vec<_>) = (source.text.lines().collect(), source.code.lines().collect());
    let mut found = Vec::new();
    // How deep in the body of a `fn code`; none: outside.
    let mut depth: Option<i32> = None;
    for (index, line) in code.iter().enumerate() {
        if source.is_test_line(index + 1) {
            break;
        }
        let begins = line.contains("fn code(");
        let is_constant = line.contains("const CODE:");
        if begins {
            depth = Some(0);
        }
        if depth.is_none() && !is_constant {
            continue;
        }
        // Strings are blanks in the code, comments are none of it.
        let bare = words(line).filter_map(four_digits);
        let strings = text[index].split('"').skip(1).step_by(2).filter(|_| text[index].contains("\"TW-"));
        let quoted = strings.filter_map(|string| four_digits(string.strip_prefix("TW-")?));
        found.extend(bare.chain(quoted).map(|number| (number, format!("{}:{}", source.path, index + 1))));
        if let Some(open) = depth.as_mut() {
            let count = |brace: char| i32::try_from(line.matches(brace).count()).unwrap_or(0);
            *open += count('{') - count('}');
            if *open <= 0 && line.contains('}') {
                depth = None;
            }
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn four_digits(word: &str) -> Option<u16> {
    (word.len() == 4 && word.chars().all(|c| c.is_ascii_digit())).then(|| word.parse().ok())?
}

/// The numbers that a page names: `TW-1001`, `TW-1001 to TW-1004`; in a table of codes also without `TW-`.
fn numbers_named(text: &str) -> Vec<u16> {
    let (mut named, mut in_table) = (Vec::new(), false);
    for line in text.lines() {
        let first_cell = line.strip_prefix('|').and_then(|rest| rest.split('|').next());
        in_table = first_cell.is_some_and(|cell| in_table || cell.trim() == "code");
        if let Some(cell) = first_cell.filter(|_| in_table) {
            named.extend(numbers(cell, ""));
        }
        named.extend(numbers(line, "TW-"));
    }
    named
}

/// Numbers behind this prefix, and those between two that `to` joins.
fn numbers(text: &str, prefix: &str) -> Vec<u16> {
    let mut found = Vec::new();
    let (mut last, mut is_range) = (None, false);
    for word in text.split(|c: char| !c.is_alphanumeric() && c != '-') {
        if let Some(number) = word.strip_prefix(prefix).and_then(four_digits) {
            if let Some(from) = last.filter(|from| is_range && number > *from && number - from < RANGE_MAX) {
                found.extend(from + 1..number);
            }
            found.push(number);
            (last, is_range) = (Some(number), false);
        } else if !word.is_empty() {
            is_range = word == "to" && last.is_some();
        }
    }
    found
}

/// Of a row `| codes | class | ..`: each code and the class, if it says one.
fn classes(line: &str) -> Vec<(u16, String)> {
    let mut cells = line.strip_prefix('|').into_iter().flat_map(|rest| rest.split('|')).map(str::trim);
    let (Some(codes), Some(class)) = (cells.next(), cells.next()) else { return Vec::new() };
    let words = ["retry", "re-route", "fix the request", "operator", "damage", "reopen", "the state's own"];
    if !words.iter().any(|word| class.contains(word)) {
        return Vec::new();
    }
    numbers(codes, "TW-").into_iter().map(|number| (number, class.to_owned())).collect()
}

#[cfg(test)]
fn offences(code: &str, page: &str) -> Vec<String> {
    offences_where(code, page, &[])
}

#[cfg(test)]
fn offences_where(code: &str, page: &str, may: &[Shared]) -> Vec<String> {
    let repository = Repository::of(&[("wal/src/a.rs", code)]);
    unnamed_or_shared(&repository, &[("docs/src/a.md".to_owned(), page.to_owned())], may)
}

#[test]
fn a_code_that_no_page_names_is_found() {
    let numbers = "impl A {\n    const fn code(&self) -> u16 {\n        match self {\n            \
                   Self::A { .. } => 2001,\n        }\n    }\n}\n";
    assert_eq!(offences(numbers, ""), ["wal/src/a.rs:4: TW-2001 is on no page"]);
    assert_eq!(offences(numbers, "see 2001").len(), 1);
    assert!(offences(numbers, "see TW-2001.").is_empty());
    assert!(offences(numbers, "| code | name |\n|--:|---|\n| 2001 | a |").is_empty());
    assert_eq!(offences(numbers, "| bytes | name |\n|--:|---|\n| 2001 | a |").len(), 1);
    assert!(offences(numbers, "`TW-1999 to TW-2002`").is_empty());
    assert_eq!(offences(numbers, "TW-1001 to TW-2999: the log").len(), 1, "a table of contents");
    assert_eq!(offences(numbers, "TW-1999, TW-2002").len(), 1);

    let strings = "fn code(&self) -> String {\n    match self {\n        A => \"TW-2001\".into(), // 2002\n        \
                   B => format!(\"TW-{:04}\", 1),\n    }\n}\nfn other() -> u16 { 2003 }\n";
    assert_eq!(offences(strings, ""), ["wal/src/a.rs:3: TW-2001 is on no page"]);
    assert_eq!(offences("pub const CODE: u16 = 2001;\n", "").len(), 1);
    assert_eq!(offences("const fn code(self) -> u8 { 1 }\nconst MAX: u16 = 2001;\n", "").len(), 0);
    assert_eq!(offences("#[cfg(test)]\nmod tests {\n    fn code() -> u16 { 2001 }\n}\n", "").len(), 0);
}

#[test]
fn a_number_that_stands_for_two_things_is_found() {
    let one = "fn code(&self) -> u16 { 2001 }\n";
    let two = format!("{one}{one}");
    assert_eq!(offences(&two, "TW-2001"), ["TW-2001 stands for two things: wal/src/a.rs:1, wal/src/a.rs:2"]);
    let arms = "fn code(&self) -> u16 {\n    match self {\n        A => 2001,\n        B => 2001,\n    }\n}\n";
    assert_eq!(offences(arms, "TW-2001").len(), 1);
    let may = [(2001, "a reason")];
    assert!(offences_where(&two, "TW-2001", &may).is_empty(), "it is on the list");
    for other in [one, "fn other() -> u16 { 2001 }\n"] {
        assert!(offences_where(other, "TW-2001", &may)[0].contains("strike it out"), "{other}");
    }
}

#[test]
fn a_class_that_is_another_in_the_book_is_found() {
    let book = [("docs/src/a.md".to_owned(), "| TW-2001 | retry | a |\n| TW-2002 | damage | b |\n".to_owned())];
    let found = |line: &str| of_two_classes(&Repository::of(&[("engine/src/a.rs", line)]), &book);
    assert!(found("/// | TW-2001 | retry | as you like |\n").is_empty());
    assert!(found("/// | TW-2001 | | see there |\n").is_empty());
    assert_eq!(
        found("/// | TW-2003 | retry | no |\n"),
        ["engine/src/a.rs:1: TW-2003 is 'retry' here and in no table in the book"]
    );
    assert_eq!(
        found("fn a() {}\n//! | TW-2001, TW-2002 | damage | no |\n"),
        ["engine/src/a.rs:2: TW-2001 is 'damage' here and 'retry' in the book"]
    );
}

//! The top level of the repository, and the links between its documents.

use crate::source::{files_below, relative};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Everything at the top level but dot-files.
const TOP: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "deny.toml",
    "docs",
    "engine",
    "fuzz",
    "net",
    "wal",
];

/// Entries at the top level that are too many or too few. What git does not track is not looked at; without
/// git, only what is missing is found.
pub(crate) fn top_level(root: &Path) -> Vec<String> {
    let there: Vec<String> =
        TOP.iter().filter(|name| root.join(name).exists()).map(|name| (*name).to_owned()).collect();
    let tracked = Command::new("git").arg("-C").arg(root).arg("ls-files").output();
    let tracked = tracked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    compare(&there, &tracked)
}

fn compare(there: &[String], tracked: &str) -> Vec<String> {
    let mut offences: Vec<_> = TOP
        .iter()
        .filter(|name| !there.iter().any(|found| found == *name))
        .map(|name| format!("{name} is missing"))
        .collect();
    let mut tops: Vec<_> = tracked.lines().filter_map(|path| path.split('/').next()).collect();
    tops.dedup();
    for name in tops {
        if !name.starts_with('.') && !TOP.contains(&name) {
            offences.push(format!("{name} has no place there"));
        }
    }
    offences
}

/// Links of the README, the change log and the book to files that do not exist.
pub(crate) fn dead_links(root: &Path) -> Vec<String> {
    let mut documents = vec![root.join("README.md"), root.join("CHANGELOG.md"), root.join("bench/data/README.md")];
    documents.extend(files_below(&root.join("docs")));
    let mut offences = Vec::new();
    for document in documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(document).unwrap_or_default();
        let folder = document.parent().unwrap_or(root);
        for (line, target) in links(&text) {
            if !folder.join(&target).exists() {
                offences.push(format!("{}:{line}: {target}", relative(root, document)));
            }
        }
    }
    offences
}

/// The relative links of a Markdown text, each with its line, without the part behind `#`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for after in line.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                found.push((index + 1, file.to_owned()));
            }
        }
    }
    found
}

#[test]
fn what_is_too_many_or_too_few_at_the_top_is_found() {
    let all: Vec<_> = TOP.iter().map(|name| (*name).to_owned()).collect();
    let tracked = "README.md\n.ci/run\nengine/src/lib.rs\nengine/src/x.rs\n";
    assert!(compare(&all, tracked).is_empty());
    assert_eq!(compare(&all, "scripts/x.sh\nscripts/y.sh\n"), ["scripts has no place there"]);
    assert_eq!(compare(&all[1..], tracked), ["CHANGELOG.md is missing"]);
    assert!(compare(&all, "").is_empty());
}

#[test]
fn links_are_found_and_code_is_left_out() {
    let text = "see [a](a.md#x), [b](https://b.c/d.md) and [c](#here)\n```\n[d](d.md)\n```\n- [e](../e.md)\n";
    assert_eq!(links(text), [(1, "a.md".to_owned()), (5, "../e.md".to_owned())]);
}

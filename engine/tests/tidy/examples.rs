//! Examples in the documentation of public types.

use crate::source::{Repository, Source};

/// The crates that others build on; bench and fuzz measure and test these.
const CRATES: &[&str] = &["wal/src/", "net/src/", "engine/src/"];

/// Public types that no example shows.
pub(crate) fn types_without_one(repository: &Repository) -> Vec<String> {
    let kept = |source: &&Source| CRATES.iter().any(|folder| source.path.starts_with(folder));
    repository.sources.iter().filter(kept).flat_map(in_source).collect()
}

fn in_source(source: &Source) -> Vec<String> {
    let (text, code): (Vec<_>, Vec<_>) = (source.text.lines().collect(), source.code.lines().collect());
    let mut offences = Vec::new();
    for (at, line) in code.iter().enumerate() {
        let mut words = line.split_whitespace();
        let is_type =
            words.next() == Some("pub") && matches!(words.next(), Some("struct" | "enum" | "trait" | "union"));
        if !is_type || source.is_test_line(at + 1) {
            continue;
        }
        // Its documentation and attributes: up to a line between items, or the end of the one before.
        let ends_before = |at: &usize| text[*at].trim().is_empty() || code[*at].trim_end().ends_with(['}', '{', ';']);
        let from = (0..at).rev().find(ends_before).map_or(0, |before| before + 1);
        let above = text[from..at].join("\n");
        // What a program's user reads as its help has no place for code.
        let is_help = ["Parser", "Subcommand", "Args"].iter().any(|name| derives(&above, name));
        if !above.contains("/// ```") && !is_help && !above.contains("#[doc(hidden)]") {
            let name = words.next().unwrap_or_default();
            offences.push(format!("{}:{}: {name}", source.path, at + 1));
        }
    }
    offences
}

fn derives(above: &str, name: &str) -> bool {
    let words = |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
    above.lines().any(|line| line.trim_start().starts_with("#[derive(") && words(line))
}

#[test]
fn a_public_type_without_an_example_is_found_and_no_other() {
    let found = |code: &str| types_without_one(&Repository::of(&[("wal/src/a.rs", code)])).len();
    assert_eq!(found("/// A.\npub struct A;\n"), 1);
    assert_eq!(found("/// ```\n/// a();\n/// ```\npub struct A;\n/// B.\npub struct B;\n"), 1);
    assert_eq!(
        found("/// ```\n/// a();\n/// ```\n#[derive(Debug)]\n#[error(\n    \"{a} \\\n     b\"\n)]\npub enum A {\n"),
        0
    );
    assert_eq!(found("mod m {\n    /// Inside.\n    pub trait A {}\n}\n"), 1);
    assert_eq!(found("/// Help.\n#[derive(Debug, clap::Args)]\npub struct A;\n"), 0);
    assert_eq!(found("struct A;\npub(crate) enum B {}\nfn f() { \"\npub struct C;\n\" }\n"), 0);
    assert_eq!(found("#[cfg(test)]\nmod tests {\n    pub struct A;\n}\n"), 0);
}

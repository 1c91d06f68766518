//! The paths that a piece of code names: `use` trees spelled out, and paths in expressions and types.

/// A path as written, segment by segment, and the line (from 1) it stands on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl NamedPath {
    /// Whether it begins with these segments.
    pub(crate) fn begins_with(&self, prefix: &[&str]) -> bool {
        self.segments.len() >= prefix.len() && self.segments.iter().zip(prefix).all(|(a, b)| a == b)
    }

    /// With `::` between.
    pub(crate) fn text(&self) -> String {
        self.segments.join("::")
    }
}

/// Every path with at least two segments, and every path of a `use`.
///
/// `code` has no comments and no literals in it.
pub(crate) fn paths(code: &str) -> Vec<NamedPath> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let word = tokens[at].text;
        let follows = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        // `use<..>` is a bound, not an import.
        if word == "use" && follows(1) != "<" {
            at = use_tree(&tokens, at + 1, &[], &mut found);
        } else if is_word(word) && follows(1) == "::" && is_word(follows(2)) {
            let line = tokens[at].line;
            let mut segments = vec![word.to_owned()];
            while tokens.get(at + 1).is_some_and(|token| token.text == "::")
                && tokens.get(at + 2).is_some_and(|token| is_word(token.text))
            {
                segments.push(tokens[at + 2].text.to_owned());
                at += 2;
            }
            found.push(NamedPath { line, segments });
            at += 1;
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one tree of a `use` from token `at`; the position behind it.
fn use_tree(tokens: &[Token<'_>], mut at: usize, prefix: &[String], found: &mut Vec<NamedPath>) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| !matches!(token.text, "}" | ";")) {
                    let behind = use_tree(tokens, at, &segments, found);
                    let comma = tokens.get(behind).is_some_and(|token| token.text == ",");
                    // A token that is no tree is stepped over: odd code must not hold the reader up.
                    at = if comma || behind == at { behind + 1 } else { behind };
                }
                return at + 1;
            }
            "as" => {
                at += 2;
                break;
            }
            word if is_word(word) || word == "*" => {
                segments.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    if segments.len() > prefix.len() {
        found.push(NamedPath { line, segments });
    }
    at
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::`, and single characters.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = if is_word_char(first) {
            rest.find(|c| !is_word_char(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if first == '\n' {
            line += 1;
        } else if !first.is_whitespace() {
            tokens.push(Token { text: &rest[..length], line });
        }
        rest = &rest[length..];
    }
    tokens
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word_char)
}

#[cfg(test)]
fn texts(code: &str) -> Vec<String> {
    paths(code).iter().map(NamedPath::text).collect()
}

#[test]
fn a_use_tree_is_spelled_out() {
    assert_eq!(
        texts("pub use crate::{model::{Lsn, Epoch as E}, node::*}; use std::fs;"),
        ["crate::model::Lsn", "crate::model::Epoch", "crate::node::*", "std::fs"]
    );
    assert_eq!(texts("use tokio;"), ["tokio"]);
    assert_eq!(texts("use ::bincode::{self, Encode};"), ["bincode::self", "bincode::Encode"]);
}

#[test]
fn paths_in_expressions_and_types_are_seen() {
    assert_eq!(
        texts("let a: super::x::Y<Vec<u8>> = crate::node::open::<u8>(); Instant::now()"),
        ["super::x::Y", "crate::node::open", "Instant::now"]
    );
}

#[test]
fn a_path_has_the_line_it_stands_on() {
    let found = paths("fn a() {}\nuse crate::{\n    a::B,\n    c::D,\n};\n");
    let lines: Vec<_> = found.iter().map(|path| path.line).collect();
    assert_eq!(lines, [3, 4]);
}

#[test]
fn broken_or_odd_code_does_not_stop_the_reader() {
    assert_eq!(texts("fn f() -> impl Fn() + use<'a> {} use ; use {;"), Vec::<String>::new());
}

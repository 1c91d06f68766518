//! The repository's sources as the rules see them: code without comments and literals, comments by themselves.

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust sources of the workspace and of fuzz/.
pub(crate) struct Repository {
    pub(crate) sources: Vec<Source>,
}

/// One Rust file.
pub(crate) struct Source {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Comments and literals replaced by spaces, line breaks kept.
    pub(crate) code: String,
    /// Everything else replaced by spaces, line breaks kept.
    pub(crate) comments: String,
    /// The first line (from 1) of the tests at its end; past the last line where there are none.
    pub(crate) tests_from: usize,
}

impl Repository {
    /// Reads all of it; a folder that does not exist yet is no offence.
    pub(crate) fn read() -> Self {
        let root = root();
        let mut sources = Vec::new();
        for folder in ["wal", "net", "engine", "bench", "fuzz"] {
            for path in files_below(&root.join(folder)) {
                if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    sources.push(Source::new(&relative(&root, &path), &text));
                }
            }
        }
        assert!(!sources.is_empty(), "no sources below {}", root.display());
        Self { sources }
    }

    /// A repository of these files, for the rules' own tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self { sources: files.iter().map(|(path, text)| Source::new(path, text)).collect() }
    }
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let tests_from = if is_test_file(path) { 1 } else { first_line_of_tests(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, comments, tests_from }
    }

    /// Its folder and file names.
    pub(crate) fn parts(&self) -> Vec<&str> {
        self.path.split('/').collect()
    }

    /// Whether a line (from 1) belongs to tests.
    pub(crate) const fn is_test_line(&self, line: usize) -> bool {
        line >= self.tests_from
    }
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Asked at run time: a shared target directory may hold a test that was built in another checkout.
    let engine = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    engine.parent().unwrap_or(&engine).to_path_buf()
}

/// The lines of a list in `tidy/`, without comments and blanks.
pub(crate) fn list(name: &str) -> Vec<String> {
    let path = root().join("engine/tests/tidy").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries(&text)
}

fn entries(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// Every file below a folder, sorted; build products and hidden folders left out.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if path.is_dir() {
            let product =
                matches!(&*name, "target" | "artifacts" | "coverage") || (name == "book" && folder.ends_with("docs"));
            if !product && !name.starts_with('.') {
                found.extend(files_below(&path));
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A path from the root, with `/`.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.join("/")
}

fn is_test_file(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let file = parts.next().unwrap_or_default();
    file.ends_with("_test.rs") || file == "tests.rs" || parts.any(|folder| matches!(folder, "tests" | "benches"))
}

/// Where an inline `#[cfg(test)] mod tests { .. }` begins: tests sit at the end of their file.
fn first_line_of_tests(code: &str) -> usize {
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(") {
        let start = from + found;
        let rest = &code[start..];
        let condition = rest.find(']').map_or(rest, |end| &rest[..end]);
        let is_test = condition.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "test");
        let mut after = rest[condition.len()..].trim_start_matches(']').trim_start();
        while after.starts_with("#[") {
            after = after.find(']').map_or("", |end| after[end + 1..].trim_start());
        }
        let item = after.find(['{', ';']).map_or("", |end| &after[..=end]);
        let inline_module = item.ends_with('{') && item.split_whitespace().any(|word| word == "mod");
        if is_test && inline_module {
            return code[..start].matches('\n').count() + 1;
        }
        from = start + 1;
    }
    usize::MAX
}

/// The code and the comments of a text, each with everything else blanked.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut comments = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let (end, kind) = token(&chars, at);
        for &c in &chars[at..end] {
            let blank = if c == '\n' { '\n' } else { ' ' };
            code.push(if kind == Kind::Code { c } else { blank });
            comments.push(if kind == Kind::Comment { c } else { blank });
        }
        at = end;
    }
    (code, comments)
}

#[derive(PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Where the piece that begins at `at` ends, and what it is.
fn token(chars: &[char], at: usize) -> (usize, Kind) {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
    match chars[at] {
        '/' if next(1) == '/' => {
            let length = chars[at..].iter().take_while(|&&c| c != '\n').count();
            (at + length, Kind::Comment)
        }
        '/' if next(1) == '*' => (end_of_block_comment(chars, at), Kind::Comment),
        '"' => (end_of_string(chars, at + 1, 0, true), Kind::Literal),
        '\'' if next(1) == '\\' => {
            let close = chars[at + 3..].iter().position(|&c| c == '\'');
            (close.map_or(chars.len(), |length| at + 3 + length + 1), Kind::Literal)
        }
        '\'' if next(2) == '\'' => (at + 3, Kind::Literal),
        c if c.is_alphabetic() || c == '_' => {
            let length = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
            let word: String = chars[at..at + length].iter().collect();
            let mut quote = at + length;
            let raw = matches!(word.as_str(), "r" | "br" | "cr");
            let mut hashes = 0;
            while raw && chars.get(quote) == Some(&'#') {
                hashes += 1;
                quote += 1;
            }
            let prefix = raw || matches!(word.as_str(), "b" | "c");
            if prefix && chars.get(quote) == Some(&'"') {
                (end_of_string(chars, quote + 1, hashes, !raw), Kind::Literal)
            } else {
                (at + length, Kind::Code)
            }
        }
        _ => (at + 1, Kind::Code),
    }
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < chars.len() {
        let pair = (chars[at], chars.get(at + 1).copied().unwrap_or('\0'));
        match pair {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of a string whose content begins at `at`, closed by a quote and this many hashes.
fn end_of_string(chars: &[char], mut at: usize, hashes: usize, escapes: bool) -> usize {
    while at < chars.len() {
        if escapes && chars[at] == '\\' {
            at += 2;
            continue;
        }
        if chars[at] == '"' {
            let closing = chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count();
            if closing == hashes {
                return at + 1 + hashes;
            }
        }
        at += 1;
    }
    chars.len()
}

#[test]
fn comments_and_literals_are_told_from_code() {
    let text = "a(\"// no \\\" {\"); // yes \"x\"\nlet c = '\"'; let l: &'static str = r#\"/* no \" */\"#; /* a /* b */ c */ d";
    let source = Source::new("wal/src/x.rs", text);
    assert!(source.code.contains("a("));
    assert!(source.code.contains("&'static str ="));
    assert!(source.code.trim_end().ends_with('d'));
    assert!(!source.code.contains("no") && !source.code.contains("yes"));
    assert!(source.comments.contains("// yes \"x\""));
    assert!(source.comments.contains("/* a /* b */ c */"));
    assert!(!source.comments.contains("no"));
    assert_eq!(source.code.matches('\n').count(), 1);
}

#[test]
fn tests_at_the_end_of_a_file_are_found() {
    let code = "fn a() {}\n#[cfg(test)]\nmod a_test;\n#[cfg(feature = \"x\")]\nmod b {}\n#[cfg(test)]\n#[expect(lint)]\nmod tests {\n}\n";
    let source = Source::new("wal/src/a.rs", code);
    assert_eq!(source.tests_from, 6);
    assert!(source.is_test_line(7) && !source.is_test_line(5));
    assert_eq!(Source::new("wal/src/a.rs", "fn a() {}").tests_from, usize::MAX);
    assert_eq!(Source::new("wal/src/a_test.rs", "").tests_from, 1);
    assert_eq!(Source::new("wal/tests/it/main.rs", "").tests_from, 1);
}

#[test]
fn lists_have_comments_and_blanks() {
    assert_eq!(entries("# why\n\n a b \nc\n"), ["a b", "c"]);
}

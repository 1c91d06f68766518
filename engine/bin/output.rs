//! [`Output`]: what a command prints on standard output, for people or as JSON.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;
use std::io::{self, Write as _};

/// The flag that every command has.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Format {
    /// Print JSON (one object a line) instead of text for people
    #[arg(long)]
    pub(crate) json: bool,
}

/// Standard output, in one of the two ways.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { json: format.json }
    }

    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints one thing: the object, or the text.
    pub(crate) fn both(self, object: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { line(&object().to_string()) } else { line(&text()) }
    }

    /// Prints an object, if JSON is wanted.
    pub(crate) fn object(self, object: impl FnOnce() -> Value) -> io::Result<()> {
        if self.json { line(&object().to_string()) } else { Ok(()) }
    }

    /// Prints text, if people read it.
    pub(crate) fn text(self, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { Ok(()) } else { line(&text()) }
    }
}

/// One line. That its reader went away (`| head`) is told by an error of its own kind; see `Failure::tell`.
fn line(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A table without lines around it, its columns after the first to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Names and values, a line each, the values below one another.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Bytes as people read them; what is not text stands as hexadecimal digits.
pub(crate) fn readable(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| format!("0x{}", hex(bytes)), str::to_owned)
}

/// Bytes in JSON: a string if they are text, otherwise an object that says how they are written.
pub(crate) fn json_bytes(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes)
        .map_or_else(|_| serde_json::json!({ "hex": hex(bytes) }), |text| Value::String(text.to_owned()))
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size with its unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5, 1536, 3 << 30].map(size), ["5 B", "1.5 KiB", "3.0 GiB"]);
    }

    #[test]
    fn a_table_has_its_figures_to_the_right() {
        let text = table(&["node", "applied"], [vec!["1".into(), "7".into()], vec!["2".into(), "12345678".into()]]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].ends_with(" 7") && lines[2].ends_with("12345678"), "{text}");
    }

    #[test]
    fn bytes_that_are_not_text_are_written_as_digits() {
        assert_eq!(readable(&[0xff, 0x01]), "0xff01");
        assert_eq!(json_bytes(b"a").to_string(), "\"a\"");
        assert_eq!(json_bytes(&[0xff]).to_string(), "{\"hex\":\"ff\"}");
    }
}

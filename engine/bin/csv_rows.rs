//! [`Rows`]: a CSV file, plain or packed with zstd, as rows: each with its exact bytes, its key and its line.
//!
//! What a row's bytes are: the text of the file from the row's first character to its last, without the line end
//! (LF or CRLF), quotes and line ends inside quotes included. Nothing is unescaped or written anew, so that what
//! is stored can be compared with the file. The `csv` crate decides where a row ends and what its fields are.

use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use towline::model::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// Bytes of the file read at a time.
const BUFFER_BYTES: usize = 64 * 1024;
/// The first bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// One data row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its number, from 1; the header is not counted.
    pub(crate) number: u64,
    /// The line it begins in, from 1; the header's included.
    pub(crate) line: u64,
    /// The field of the key column, unescaped.
    pub(crate) key: Bytes,
    /// The row's bytes.
    pub(crate) raw: Bytes,
}

/// Why rows can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RowError {
    /// The file can't be opened or read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system, or zstd, says.
        source: io::Error,
    },
    /// There is no header.
    #[error("{}: the file is empty, a header line was expected", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key column is not in the header.
    #[error("{}:1: there is no column {column:?}; there are {columns}", .path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column wanted.
        column: String,
        /// Those of the header.
        columns: String,
    },
    /// A row does not parse.
    #[error("{}:{line}: row {number} {why}", .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line it begins in.
        line: u64,
        /// The row's number.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// The rows of a file, in order, in bounded memory.
pub(crate) struct Rows {
    path: PathBuf,
    reader: csv::Reader<Kept>,
    columns: usize,
    key_column: usize,
    rows: u64,
    /// Bytes and line ends of the file consumed.
    end: u64,
    lines: u64,
}

impl Rows {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path, key_column: &str) -> Result<Self, RowError> {
        let failed = |source| RowError::Read { path: path.to_owned(), source };
        let source = unpacked(File::open(path).map_err(failed)?).map_err(failed)?;
        Self::of(path, source, key_column)
    }

    fn of(path: &Path, source: Box<dyn Read + Send>, key_column: &str) -> Result<Self, RowError> {
        let kept = Kept { source, bytes: Vec::new(), taken: 0, has_ended: false };
        let reader =
            ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(BUFFER_BYTES).from_reader(kept);
        let mut rows = Self { path: path.to_owned(), reader, columns: 0, key_column: 0, rows: 0, end: 0, lines: 0 };
        let Some((header, ..)) = rows.record()? else { return Err(RowError::Empty { path: rows.path }) };
        rows.columns = header.len();
        let found = header.iter().position(|name| name == key_column.as_bytes());
        rows.key_column = found.ok_or_else(|| RowError::NoColumn {
            path: rows.path.clone(),
            column: key_column.to_owned(),
            columns: header.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join(", "),
        })?;
        Ok(rows)
    }

    /// The next row; none at the end of the file.
    ///
    /// # Errors
    /// The row does not parse, with its place. No row follows one that does not.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>, RowError> {
        let Some((record, raw, line)) = self.record()? else { return Ok(None) };
        self.rows += 1;
        let number = self.rows;
        let wrong = |why: String| Err(RowError::Row { path: self.path.clone(), line, number, why });
        if self.reader.get_ref().is_at_end() && has_open_quote(&raw) {
            return wrong("opens a quote that is never closed".into());
        }
        if record.len() != self.columns {
            return wrong(format!("has {} fields, the header has {}", record.len(), self.columns));
        }
        let key = record.get(self.key_column).unwrap_or_default();
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return wrong(format!("has a key of {} bytes, 1 to {KEY_BYTES_MAX} are possible", key.len()));
        }
        if raw.len() > VALUE_BYTES_MAX {
            return wrong(format!("has {} bytes, {VALUE_BYTES_MAX} are possible", raw.len()));
        }
        Ok(Some(Row { number, line, key: Bytes::copy_from_slice(key), raw }))
    }

    fn unread(&self, error: csv::Error) -> RowError {
        let path = self.path.clone();
        let source = match error.into_kind() {
            csv::ErrorKind::Io(source) => source,
            other => io::Error::other(format!("{other:?}")),
        };
        if source.kind() != io::ErrorKind::FileTooLarge {
            return RowError::Read { path, source };
        }
        let why = format!("is longer than {VALUE_BYTES_MAX} bytes: perhaps it opens a quote that is never closed");
        RowError::Row { path, line: self.lines + 1, number: self.rows + 1, why }
    }

    /// The next record, its bytes, and the line it begins in.
    fn record(&mut self) -> Result<Option<(ByteRecord, Bytes, u64)>, RowError> {
        let mut record = ByteRecord::new();
        let is_there = self.reader.read_byte_record(&mut record).map_err(|error| self.unread(error))?;
        if !is_there {
            return Ok(None);
        }
        let end = self.reader.position().byte();
        let length = usize::try_from(end.saturating_sub(self.end)).unwrap_or(usize::MAX);
        self.end = end;
        let bytes = self.reader.get_mut().take(length);
        // Line ends around the row are not its own: the csv crate skips empty lines, and reads the LF of a CRLF
        // with the row that follows. A row that begins or ends with one of its own has it in quotes.
        let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let leading = bytes.iter().take_while(is_line_end).count();
        let trailing = bytes.iter().skip(leading).rev().take_while(is_line_end).count();
        let newlines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let line = self.lines + newlines(bytes.get(..leading).unwrap_or_default()) + 1;
        self.lines += newlines(&bytes);
        let raw = bytes.slice(leading..bytes.len() - trailing);
        Ok(Some((record, raw, line)))
    }
}

/// Whether a row ends inside a quoted field. Only a quote at a field's beginning opens one.
fn has_open_quote(raw: &[u8]) -> bool {
    let (mut is_quoted, mut is_start) = (false, true);
    let mut bytes = raw.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if is_start => is_quoted = true,
            // Doubled, it is one that belongs to the field.
            b'"' if is_quoted && bytes.next_if(|next| **next == b'"').is_none() => is_quoted = false,
            _ => {}
        }
        is_start = !is_quoted && *byte == b',';
    }
    is_quoted
}

/// A source that keeps what was read from it until it is taken.
struct Kept {
    source: Box<dyn Read + Send>,
    bytes: Vec<u8>,
    /// Bytes at the front that were taken already; given back when they are many, so that not every row moves
    /// what is behind it.
    taken: usize,
    /// The source said that nothing follows.
    has_ended: bool,
}

impl Kept {
    /// Whether nothing follows what was taken, as far as was read.
    const fn is_at_end(&self) -> bool {
        self.has_ended && self.taken == self.bytes.len()
    }

    fn take(&mut self, length: usize) -> Bytes {
        let end = self.taken.saturating_add(length).min(self.bytes.len());
        let bytes = Bytes::copy_from_slice(self.bytes.get(self.taken..end).unwrap_or_default());
        self.taken = end;
        if self.taken >= BUFFER_BYTES {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        bytes
    }
}

impl Read for Kept {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A row that was never ended must not be kept for ever.
        if self.bytes.len() - self.taken > VALUE_BYTES_MAX + 2 * BUFFER_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let length = self.source.read(buffer)?;
        self.has_ended |= length == 0 && !buffer.is_empty();
        self.bytes.extend_from_slice(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

/// The file, unpacked if its first bytes say that it is packed, whatever its name.
fn unpacked(file: File) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let is_packed = io::BufRead::fill_buf(&mut file)?.starts_with(&ZSTD_MAGIC);
    if is_packed { Ok(Box::new(zstd::stream::read::Decoder::with_buffer(file)?)) } else { Ok(Box::new(file)) }
}

/// The SHA-256 of a file as it lies on the disk: packed and unpacked are two files.
pub(crate) fn sha256(path: &Path) -> Result<[u8; 32], RowError> {
    let failed = |source| RowError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hasher.finalize().into()),
            length => hasher.update(buffer.get(..length).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>, RowError> {
        let source = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
        let mut rows = Rows::of(Path::new("flights.csv"), source, "plane")?;
        let mut all = Vec::new();
        while let Some(row) = rows.next_row()? {
            all.push(row);
        }
        Ok(all)
    }

    fn raw(text: &str) -> Vec<String> {
        rows(text).unwrap().iter().map(|row| String::from_utf8(row.raw.to_vec()).unwrap()).collect()
    }

    fn refused(text: &str) -> String {
        rows(text).unwrap_err().to_string()
    }

    #[test]
    fn each_row_has_its_number_its_line_its_key_and_its_bytes() {
        let all = rows("day,plane\n1,N1\n2,N2\n").unwrap();
        let seen: Vec<_> = all.iter().map(|row| (row.number, row.line, &row.key[..], &row.raw[..])).collect();
        assert_eq!(seen, [(1, 2, &b"N1"[..], &b"1,N1"[..]), (2, 3, b"N2", b"2,N2")]);
    }

    #[test]
    fn a_quoted_line_end_belongs_to_its_row_and_is_kept_as_it_is() {
        let text = "plane,note\nN1,\"two\nlines\"\nN2,\"say \"\"hi\"\"\"\n\"N,3\",\"\r\n\"\nN4,x";
        assert_eq!(raw(text), ["N1,\"two\nlines\"", "N2,\"say \"\"hi\"\"\"", "\"N,3\",\"\r\n\"", "N4,x"]);
        let all = rows(text).unwrap();
        assert_eq!(all.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4, 5, 7]);
        assert_eq!(&all[2].key[..], b"N,3", "the key is unescaped");
    }

    #[test]
    fn both_line_ends_and_empty_lines_are_no_part_of_a_row() {
        assert_eq!(raw("day,plane\r\n1,N1\r\n\r\n2,N2\r\n"), ["1,N1", "2,N2"]);
        let lines: Vec<_> = rows("day,plane\r\n1,N1\r\n\r\n2,N2").unwrap().iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 4]);
        assert_eq!(raw("day,plane\n\n1,N1\n\n\n2,N2"), ["1,N1", "2,N2"]);
    }

    #[test]
    fn rows_longer_than_the_buffer_are_whole() {
        let long = "x".repeat(3 * BUFFER_BYTES);
        let text = format!("plane,note\n{}", format!("N1,{long}\nN2,short\n").repeat(3));
        let all = raw(&text);
        assert_eq!(all.len(), 6);
        assert!(all.iter().step_by(2).all(|row| row.len() == long.len() + 3));
        assert!(all.iter().skip(1).step_by(2).all(|row| row == "N2,short"));
    }

    #[test]
    fn a_row_with_too_few_or_too_many_fields_is_refused_at_its_line() {
        assert_eq!(refused("day,plane\n1,N1\n2\n"), "flights.csv:3: row 2 has 1 fields, the header has 2");
        assert_eq!(refused("day,plane\n1,N1,x\n"), "flights.csv:2: row 1 has 3 fields, the header has 2");
    }

    #[test]
    fn a_quote_that_is_never_closed_is_refused_where_it_begins() {
        let said = refused("day,plane\n1,N1\n2,\"N2\n3,N3\n");
        assert_eq!(said, "flights.csv:3: row 2 opens a quote that is never closed");
    }

    #[test]
    fn a_quote_inside_a_field_opens_nothing() {
        assert_eq!(raw("size,plane\n1,N1\n5\",N2\"x"), ["1,N1", "5\",N2\"x"]);
        assert_eq!(raw("size,plane\n\"a\"\"\",N1"), ["\"a\"\"\",N1"]);
    }

    #[test]
    fn a_row_that_never_ends_is_refused_before_it_is_all_in_memory() {
        let text = format!("day,plane\n1,N1\n2,\"{}", "x\n".repeat(VALUE_BYTES_MAX));
        assert!(refused(&text).starts_with("flights.csv:3: row 2 is longer than 16777216 bytes"));
    }

    #[test]
    fn a_missing_column_is_named_beside_those_that_are_there() {
        assert_eq!(refused("day,tail\n1,N1\n"), "flights.csv:1: there is no column \"plane\"; there are day, tail");
        assert_eq!(refused(""), "flights.csv: the file is empty, a header line was expected");
    }

    #[test]
    fn an_empty_key_is_refused() {
        let said = refused("day,plane\n1,\n");
        assert_eq!(said, "flights.csv:2: row 1 has a key of 0 bytes, 1 to 4096 are possible");
    }

    #[test]
    fn a_packed_file_has_the_rows_of_the_plain_one() {
        let directory = tempfile::tempdir().unwrap();
        let (plain, packed) = (directory.path().join("a.csv"), directory.path().join("no-suffix"));
        let text = b"day,plane\n1,N1\n2,N2\n";
        std::fs::write(&plain, text).unwrap();
        std::fs::write(&packed, zstd::bulk::compress(text, 3).unwrap()).unwrap();
        for path in [plain, packed] {
            let mut rows = Rows::open(&path, "plane").unwrap();
            assert_eq!(rows.next_row().unwrap().unwrap().raw, "1,N1");
            assert_eq!(rows.next_row().unwrap().unwrap().raw, "2,N2");
            assert!(rows.next_row().unwrap().is_none());
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let said = Rows::open(Path::new("no/such.csv"), "plane").err().unwrap().to_string();
        assert!(said.starts_with("no/such.csv: "), "{said}");
    }
}

//! The records of a batch: what the log holds as bytes, read as the engine reads it.

use crate::failure::Failure;
use crate::output::{hex, json_bytes};
use bytes::Bytes;
use serde_json::Value;
use towline::model::{CatalogRecord, ControlRecord, Expect, Lsn, Operation, Record};
use towline_wal::{Batch, BatchKind};

/// One record.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) lsn: Lsn,
    /// As it was encoded.
    pub(super) bytes: Bytes,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Of replication, in words.
    Control(String),
    Data(Record),
}

/// Hands the records of a batch over, one after another.
pub(super) fn each(batch: &Batch, take: &mut dyn FnMut(Read) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut lsn = batch.first_lsn();
    for block in batch.blocks() {
        // A block holds no more than its batch says for all of them.
        let mut bytes = block.decode(usize::try_from(batch.header().raw_len)?)?;
        if batch.kind() == BatchKind::Control {
            // Of the catalog's log, or of a shard's.
            let words = match (CatalogRecord::decode(&bytes), ControlRecord::decode(&bytes)) {
                (Ok(record), _) => format!("{record:?}"),
                (_, Ok(record)) => format!("{record:?}"),
                (_, Err(error)) => error.to_string(),
            };
            take(Read { lsn, bytes, content: Content::Control(words) })?;
            lsn = lsn.next();
            continue;
        }
        while !bytes.is_empty() {
            let whole = bytes.clone();
            let record = Record::decode(&mut bytes)?;
            let encoded = whole.slice(..whole.len() - bytes.len());
            take(Read { lsn, bytes: encoded, content: Content::Data(record) })?;
            lsn = lsn.next();
        }
    }
    Ok(())
}

/// What is said of records that can't be told.
pub(super) fn not_records(first: Lsn, last: Lsn, why: &Failure) -> String {
    format!("LSN {first} to {last}: not records that this build reads: {}", why.sentence())
}

impl Read {
    /// As JSON.
    pub(super) fn object(&self) -> Value {
        let lsn = self.lsn.get();
        match &self.content {
            Content::Control(words) => serde_json::json!({ "lsn": lsn, "control": words }),
            Content::Data(record) => {
                let operations: Vec<_> = record.operations.iter().map(operation).collect();
                serde_json::json!({ "lsn": lsn, "operations": operations })
            }
        }
    }

    /// In words, without the LSN; `show` writes keys and values.
    pub(super) fn words(&self, show: fn(&[u8]) -> String) -> String {
        match &self.content {
            Content::Control(words) => words.clone(),
            Content::Data(record) => {
                record.operations.iter().map(|operation| describe(operation, show)).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

fn operation(operation: &Operation) -> Value {
    let key = json_bytes(operation.key());
    match operation {
        Operation::Put { value, .. } => serde_json::json!({ "put": key, "value": json_bytes(value) }),
        Operation::Delete { .. } => serde_json::json!({ "delete": key }),
        Operation::DeleteRange { end, .. } => serde_json::json!({ "delete_range": key, "end": json_bytes(end) }),
        Operation::Append { expect, metadata, value, .. } => serde_json::json!({
            "append": key, "expect": expectation(*expect), "metadata": hex(metadata), "value": json_bytes(value),
        }),
        Operation::TrimStream { before, .. } => serde_json::json!({ "trim_stream": key, "before": before }),
        Operation::DeleteStream { .. } => serde_json::json!({ "delete_stream": key }),
        other => serde_json::json!({ "other": format!("{other:?}") }),
    }
}

fn expectation(expect: Expect) -> Value {
    match expect {
        Expect::Any => "any".into(),
        Expect::Absent => "absent".into(),
        Expect::Present => "present".into(),
        Expect::Version(version) => version.into(),
        other => format!("{other:?}").into(),
    }
}

fn describe(operation: &Operation, show: fn(&[u8]) -> String) -> String {
    let key = show(operation.key());
    match operation {
        Operation::Put { value, .. } => format!("put {key} = {}", show(value)),
        Operation::Delete { .. } => format!("delete {key}"),
        Operation::DeleteRange { end, .. } => format!("delete {key} up to {}", show(end)),
        Operation::Append { expect, value, .. } => {
            format!("append to {key} (expect {}): {}", expectation(*expect), show(value))
        }
        Operation::TrimStream { before, .. } => format!("trim {key} before {before}"),
        Operation::DeleteStream { .. } => format!("delete stream {key}"),
        other => format!("{other:?}"),
    }
}

/// Bytes on one line: text as it is, but for backslashes and control characters; what is not text as `\xNN`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_bytes_are_one_line_and_text_stays_readable() {
        assert_eq!(escaped("Zürich, \"a\"".as_bytes()), "Zürich, \"a\"");
        assert_eq!(escaped(b"a\nb\\c\xff\0"), "a\\nb\\\\c\\xff\\u{0}");
    }
}

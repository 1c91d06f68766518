//! [`Survey`]: what a file holds, before any of it is sent: which file it is, how many rows, which streams.

use crate::csv_rows::{RowError, Rows, sha256};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;

/// A file, read once.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The file's SHA-256.
    pub(crate) file: [u8; 32],
    /// Rows up to the end, or to the first that does not parse (the load will come to it and say so).
    pub(crate) rows: u64,
    /// The streams they go to.
    pub(crate) streams: BTreeSet<Bytes>,
}

/// Reads a file from its beginning.
///
/// # Errors
/// It can't be read, or has no such column.
pub(crate) fn survey(path: &Path, key_column: &str) -> Result<Survey, RowError> {
    let mut rows = Rows::open(path, key_column)?;
    let mut survey = Survey { file: sha256(path)?, rows: 0, streams: BTreeSet::new() };
    loop {
        match rows.next_row() {
            Ok(Some(row)) => {
                survey.rows = row.number;
                survey.streams.insert(row.key);
            }
            Ok(None) | Err(RowError::Row { .. }) => return Ok(survey),
            Err(error) => return Err(error),
        }
    }
}

//! What the demonstration claims, read from the logs and from the CSV file.

use crate::commands::BatchLine;
use crate::csv_rows::{Rows, sha256};
use crate::load::Origin;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use tokio::task::JoinSet;
use towline::client::Client;
use towline::model::request::Direction;

/// Streams read back at a time.
const STREAMS_AT_A_TIME: usize = 64;
/// Events asked for at a time.
const PAGE: u32 = 1000;

/// The CSV file, by stream: each row's number and bytes.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) rows: u64,
    file: [u8; 32],
    streams: BTreeMap<Bytes, Vec<(u64, Bytes)>>,
}

impl Expected {
    pub(super) fn read(path: &Path, key_column: &str) -> Result<Self> {
        let mut rows = Rows::open(path, key_column)?;
        let mut expected = Self { rows: 0, file: sha256(path)?, streams: BTreeMap::new() };
        while let Some(row) = rows.next_row()? {
            expected.rows = row.number;
            expected.streams.entry(row.key).or_default().push((row.number, row.raw));
        }
        Ok(expected)
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Reads every stream back from a node and compares it with the file, row by row.
    pub(super) async fn compare(&self, client: &Client) -> Result<()> {
        let mut reads = JoinSet::new();
        let mut streams = self.streams.iter();
        loop {
            while reads.len() < STREAMS_AT_A_TIME
                && let Some((stream, rows)) = streams.next()
            {
                let (client, stream, rows, file) = (client.clone(), stream.clone(), rows.clone(), self.file);
                reads.spawn(async move { compare_stream(&client, &stream, &rows, &file).await });
            }
            match reads.join_next().await {
                Some(compared) => compared??,
                None => return Ok(()),
            }
        }
    }
}

async fn compare_stream(client: &Client, stream: &[u8], rows: &[(u64, Bytes)], file: &[u8; 32]) -> Result<()> {
    let name = String::from_utf8_lossy(stream).into_owned();
    let (mut from, mut expected) = (1, rows.iter());
    loop {
        let page = client.read_stream(stream, from, Direction::Forward, PAGE).await?;
        for event in &page.events {
            let Some((row, raw)) = expected.next() else {
                bail!("stream {name} has an event {} that is no row of the file", event.version);
            };
            let origin = Origin { file: *file, row: *row, skipped: 0 };
            let found = Origin::decode(&event.metadata);
            if event.version != from || event.value != raw[..] || found != Some(origin) {
                let is = found.map_or_else(|| "no row of any file".to_owned(), |found| format!("row {}", found.row));
                bail!("event {} of stream {name} should be row {row} of the file, and is {is}", event.version);
            }
            from += 1;
        }
        if !page.more || page.events.is_empty() {
            break;
        }
    }
    match expected.next() {
        None => Ok(()),
        Some((row, _)) => bail!("stream {name} lacks row {row} of the file"),
    }
}

/// The batches of a data directory's only log, oldest first, as `towline wal inspect --batches --json` prints them.
pub(super) async fn batches(data: &Path) -> Result<Vec<BatchLine>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["wal", "inspect", "--batches", "--json"]).arg(data).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        bail!("{}: wal inspect: {}", data.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8(output.stdout).context("wal inspect")?;
    // The lines about the directory, its segments and the log lack a batch's fields.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The last LSN of a log.
pub(super) fn end(batches: &[BatchLine]) -> u64 {
    batches.last().map_or(0, |batch| batch.last_lsn)
}

/// That two logs are the same, batch by batch, byte by byte.
pub(super) fn same(one: &[BatchLine], other: &[BatchLine], names: (usize, usize)) -> Result<()> {
    if let Some((a, b)) = one.iter().zip(other).find(|(a, b)| a != b) {
        let (a_name, b_name) = names;
        bail!("the logs of nodes {a_name} and {b_name} differ at LSN {}: {a:?} and {b:?}", a.first_lsn);
    }
    if one.len() != other.len() {
        bail!("the logs of nodes {} and {} have {} and {} batches", names.0, names.1, one.len(), other.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first_lsn: u64, sha256: &str) -> BatchLine {
        BatchLine {
            log: "1".into(),
            kind: "data".into(),
            epoch: "1024.1".into(),
            first_lsn,
            last_lsn: first_lsn,
            records: 1,
            bytes: 100,
            raw_bytes: 80,
            chain: "0".into(),
            sha256: sha256.into(),
        }
    }

    #[test]
    fn logs_that_differ_in_one_byte_or_in_length_are_told_apart() {
        let log = [batch(1, "a"), batch(2, "b")];
        assert!(same(&log, &log, (1, 2)).is_ok());
        let changed = same(&log, &[batch(1, "a"), batch(2, "c")], (1, 2)).unwrap_err().to_string();
        assert!(changed.starts_with("the logs of nodes 1 and 2 differ at LSN 2"), "{changed}");
        assert!(same(&log, &log[..1], (1, 3)).is_err());
    }
}

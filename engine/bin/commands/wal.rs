//! `towline wal inspect DIR` and `towline wal verify DIR`.

use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, count, hex, json_bytes, readable, size, table};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use towline::model::{ControlRecord, Expect, LogId, Lsn, Operation, Record};
use towline_wal::inspect;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print what lies in a log directory: its logs, and each batch with its checksum
    Inspect(InspectArgs),
    /// Read and check every byte of a log directory; exit code 3 if anything is damaged
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A log directory, or a node's data directory
    directory: PathBuf,
    /// Print this log only (32 hexadecimal digits)
    #[arg(long, value_name = "ID")]
    log: Option<LogId>,
    /// Print the records of each batch too
    #[arg(long)]
    records: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// A log directory, or a node's data directory
    directory: PathBuf,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// One log, as a line of JSON; its batches follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub(crate) log: String,
    pub(crate) first_lsn: u64,
    pub(crate) last_lsn: u64,
    pub(crate) batches: u64,
}

/// One batch, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchLine {
    pub(crate) log: String,
    pub(crate) kind: String,
    pub(crate) epoch: String,
    pub(crate) first_lsn: u64,
    pub(crate) last_lsn: u64,
    pub(crate) records: u32,
    /// Bytes as they lie in the log, header included.
    pub(crate) bytes: u64,
    /// Bytes of the payload before compression.
    pub(crate) raw_bytes: u64,
    pub(crate) chain: String,
    /// Of the batch's bytes.
    pub(crate) sha256: String,
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Inspect(args) => inspect(args),
        Command::Verify(args) => verify(args),
    }
}

/// A node keeps its log in `wal` below its data directory; both can be named.
fn log_directory(named: &Path) -> PathBuf {
    let below = named.join("wal");
    if !named.join("MANIFEST").exists() && below.join("MANIFEST").exists() { below } else { named.to_owned() }
}

fn damaged(directory: &Path, error: impl Into<anyhow::Error>) -> Failure {
    // A directory without anything of a log in it is none: a wrong path, not damage.
    let is_log = std::fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            name == "MANIFEST" || name.to_string_lossy().ends_with(".seg")
        })
    });
    let exit = if is_log { Exit::Unhealthy } else { Exit::Failed };
    Failure::new(exit, error.into().context(directory.display().to_string()))
}

fn inspect(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let directory = log_directory(&args.directory);
    let view = inspect::inspect(&directory).map_err(|error| damaged(&directory, error))?;
    let logs = inspect::logs(&directory).map_err(|error| damaged(&directory, error))?;
    let groups: usize = view.segments.iter().map(|segment| segment.groups.len()).sum();
    output.both(
        || {
            serde_json::json!({
                "directory": directory, "directory_uuid": hex(&view.directory_uuid),
                "segment_bytes": view.segment_bytes, "segments": view.segments.len(), "groups": groups,
                "clean_close": view.report.clean_close, "intact": view.report.is_intact(),
            })
        },
        || {
            let (segments, bytes) = (view.segments.len(), size(view.segment_bytes));
            let end =
                if view.report.clean_close { "closed in good order" } else { "open, or not closed in good order" };
            format!("{}: {segments} segments of {bytes}, {groups} groups; {end}", directory.display())
        },
    )?;
    let is_named = |log: &LogId| args.log.is_none_or(|named| named == *log);
    let named: Vec<_> = logs.into_iter().filter(|(log, ..)| is_named(log)).collect();
    if let (Some(log), true) = (args.log, named.is_empty()) {
        return Err(Failure::say(Exit::Failed, format!("{}: there is no log {log}", directory.display())));
    }
    for (log, first, last, batches) in named {
        let line =
            LogLine { log: log.to_string(), first_lsn: first.get(), last_lsn: last.get(), batches: batches as u64 };
        print_log(output, &directory, log, &line, args.records)?;
    }
    Ok(if view.report.is_intact() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn print_log(output: Output, directory: &Path, log: LogId, line: &LogLine, with_records: bool) -> Result<(), Failure> {
    let batches = inspect::batches(directory, log).map_err(|error| damaged(directory, error))?;
    output.both(
        || serde_json::json!(line),
        || format!("\nlog {log}: LSN {} to {} in {} batches", line.first_lsn, line.last_lsn, line.batches),
    )?;
    let mut rows = Vec::new();
    for batch in &batches {
        let header = batch.header();
        let line = BatchLine {
            log: log.to_string(),
            kind: format!("{:?}", batch.kind()).to_lowercase(),
            epoch: batch.epoch().to_string(),
            first_lsn: batch.first_lsn().get(),
            last_lsn: batch.last_lsn().get(),
            records: header.record_count,
            bytes: batch.bytes().len() as u64,
            raw_bytes: u64::from(header.raw_len),
            chain: header.chain.to_string(),
            sha256: hex(&Sha256::digest(batch.bytes())),
        };
        let mut records = Vec::new();
        if with_records {
            let mut lsn = batch.first_lsn();
            for block in batch.blocks() {
                // A block holds no more than its batch says for all of them.
                let bytes = block.decode(header.raw_len as usize)?;
                let read = if line.kind == "control" { control(lsn, &bytes) } else { data(lsn, bytes)? };
                lsn = lsn.advance(read.len() as u64);
                records.extend(read);
            }
        }
        output.object(|| {
            let mut object = serde_json::json!(line);
            if with_records && let Value::Object(object) = &mut object {
                object.insert("contents".to_owned(), records.iter().map(|record| record.0.clone()).collect());
            }
            object
        })?;
        let mut row = vec![line.kind, line.epoch, line.first_lsn.to_string(), line.last_lsn.to_string()];
        row.extend([line.records.to_string(), size(line.bytes), line.chain]);
        row.push(line.sha256.get(..16).unwrap_or_default().to_owned());
        rows.push(row);
        // Beside the batch's line, where people look for them; the table of batches stands alone without.
        rows.extend(records.into_iter().map(|(_, text)| vec![String::new(), text]));
    }
    let header = ["kind", "epoch", "first", "last", "records", "bytes", "chain", "sha256"];
    output.text(|| if with_records { plain(rows) } else { table(&header, rows) })?;
    Ok(())
}

fn plain(rows: Vec<Vec<String>>) -> String {
    rows.iter().map(|row| row.join("  ")).collect::<Vec<_>>().join("\n")
}

/// A control record, as JSON and as text.
fn control(lsn: Lsn, bytes: &[u8]) -> Vec<(Value, String)> {
    let text = ControlRecord::decode(bytes).map_or_else(|error| error.to_string(), |record| format!("{record:?}"));
    vec![(serde_json::json!({ "lsn": lsn.get(), "control": text }), format!("{lsn}  {text}"))]
}

/// The records of a block, as JSON and as text.
fn data(first: Lsn, mut bytes: Bytes) -> Result<Vec<(Value, String)>, Failure> {
    let (mut all, mut lsn) = (Vec::new(), first);
    while !bytes.is_empty() {
        let record = Record::decode(&mut bytes)?;
        let operations: Vec<_> = record.operations.iter().map(operation).collect();
        let text = record.operations.iter().map(describe).collect::<Vec<_>>().join("; ");
        all.push((serde_json::json!({ "lsn": lsn.get(), "operations": operations }), format!("{lsn}  {text}")));
        lsn = lsn.next();
    }
    Ok(all)
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

fn describe(operation: &Operation) -> String {
    let key = readable(operation.key());
    match operation {
        Operation::Put { value, .. } => format!("put {key} = {}", readable(value)),
        Operation::Delete { .. } => format!("delete {key}"),
        Operation::DeleteRange { end, .. } => format!("delete {key} up to {}", readable(end)),
        Operation::Append { expect, value, .. } => {
            format!("append to {key} (expect {}): {}", expectation(*expect), readable(value))
        }
        Operation::TrimStream { before, .. } => format!("trim {key} before {before}"),
        Operation::DeleteStream { .. } => format!("delete stream {key}"),
        other => format!("{other:?}"),
    }
}

fn verify(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let directory = log_directory(&args.directory);
    let found = inspect::verify(&directory).map_err(|error| damaged(&directory, error))?;
    let ranges: Vec<_> = found.report.damaged.iter().chain(&found.batches_bad).collect();
    output.both(
        || {
            let damaged: Vec<_> = ranges
                .iter()
                .map(|range| {
                    serde_json::json!({
                        "log": range.log.to_string(), "first_lsn": range.first.get(), "last_lsn": range.last.get(),
                        "file": range.file, "offset": range.offset,
                    })
                })
                .collect();
            let cuts: Vec<_> = found
                .report
                .cuts
                .iter()
                .map(|cut| serde_json::json!({ "log": cut.log.to_string(), "from_lsn": cut.from.get() }))
                .collect();
            serde_json::json!({
                "directory": directory, "good": found.is_good(), "batches_good": found.batches_good,
                "clean_close": found.report.clean_close, "segments_missing": found.report.segments_missing,
                "damaged": damaged, "cuts": cuts,
            })
        },
        || {
            let verdict = if found.is_good() { "good" } else { "DAMAGED" };
            let mut lines =
                vec![format!("{}: {verdict}, {} batches read", directory.display(), count(found.batches_good))];
            lines.extend(ranges.iter().map(|range| {
                let (log, first, last) = (range.log, range.first, range.last);
                format!("  log {log}, LSN {first} to {last}: {} at byte {} can't be read", range.file, range.offset)
            }));
            lines.extend(found.report.segments_missing.iter().map(|number| format!("  segment {number} is missing")));
            lines.extend(found.report.cuts.iter().map(|cut| {
                format!("  log {}: what followed LSN {} was torn, and never acknowledged here", cut.log, cut.from)
            }));
            lines.join("\n")
        },
    )?;
    Ok(if found.is_good() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

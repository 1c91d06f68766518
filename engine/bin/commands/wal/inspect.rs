//! `towline wal inspect DIR`.

use super::records::{each, escaped, not_records};
use super::{damage_words, log_directory, path_object, refused};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, count, hex, size, table};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use towline::model::{LogId, Lsn};
use towline_wal::inspect::{Batches, DirectoryView, GroupView, SegmentView, Wanted};
use towline_wal::io::RealIo;
use towline_wal::{Batch, ReadError};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A log directory, or a node's data directory
    directory: PathBuf,
    /// Print the batches of this log (1 to 32 hexadecimal digits), and no other log
    #[arg(long, value_name = "ID")]
    log: Option<LogId>,
    /// Print the batches of every log
    #[arg(long)]
    batches: bool,
    /// Print the records of each batch too
    #[arg(long)]
    records: bool,
    /// Print each group, with what it says beside its batches: truncations, hard states and so on
    #[arg(long)]
    groups: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// One segment, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SegmentLine {
    segment: u64,
    file: String,
    /// Which life of the directory began it.
    life: u64,
    first_group: u64,
    last_group: u64,
    groups: u64,
    batches: u64,
    /// Bytes of groups and the header.
    bytes_used: u64,
    footer: bool,
    findings: Vec<String>,
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

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let directory = log_directory(&args.directory);
    let refuse = |error| refused(&directory, error);
    let mut batches = Batches::open(&directory, Wanted::default()).map_err(refuse)?;
    let mut logs = batches.logs();
    logs.retain(|(log, ..)| args.log.is_none_or(|named| named == *log));
    if let (Some(log), true) = (args.log, logs.is_empty()) {
        return Err(Failure::say(Exit::Failed, format!("{}: there is no log {log}", directory.display())));
    }
    // Of a segment no more is kept than its line.
    let mut segments = Vec::new();
    let view = batches.directory(&mut |segment| {
        segments.push(segment_line(&segment));
        ControlFlow::Continue(())
    });
    let view = view.map_err(refuse)?;
    print_directory(output, &directory, &view, &segments)?;
    print_segments(output, &view, &segments)?;
    if args.groups {
        let mut printed = Ok(());
        let read = batches.directory(&mut |segment| {
            printed = print_groups(output, &segment);
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        printed?;
        read.map_err(refuse)?;
    }
    let logs: Vec<_> = logs.into_iter().map(log_line).collect();
    let mut is_good = view.report.is_intact();
    if args.log.is_none() && !args.batches && !args.records {
        logs.iter().try_for_each(|(_, line)| output.object(|| serde_json::json!(line)))?;
        output.text(|| format!("\n{}", log_table(&logs)))?;
    } else {
        for (log, line) in &logs {
            is_good &= print_batches(output, &mut batches, *log, line, args.records)?;
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn print_directory(
    output: Output,
    directory: &Path,
    view: &DirectoryView,
    segments: &[SegmentLine],
) -> Result<(), Failure> {
    let groups: u64 = segments.iter().map(|segment| segment.groups).sum();
    output.both(
        || {
            serde_json::json!({
                "directory": path_object(directory), "directory_uuid": hex(&view.directory_uuid),
                "segment_bytes": view.segment_bytes, "segments": segments.len(), "groups": groups,
                "segments_ready": view.segments_ready, "segments_missing": view.report.segments_missing,
                "clean_close": view.report.clean_close, "intact": view.report.is_intact(),
            })
        },
        || {
            let (segments, bytes) = (segments.len(), size(view.segment_bytes));
            let end =
                if view.report.clean_close { "closed in good order" } else { "open, or not closed in good order" };
            let mut lines =
                vec![format!("{}: {segments} segments of {bytes}, {groups} groups; {end}", directory.display())];
            lines.extend(view.report.damaged.iter().map(damage_words));
            lines.extend(view.report.segments_missing.iter().map(|n| format!("segment {n} is missing or unreadable")));
            lines.join("\n")
        },
    )?;
    Ok(())
}

fn print_segments(output: Output, view: &DirectoryView, lines: &[SegmentLine]) -> Result<(), Failure> {
    lines.iter().try_for_each(|line| output.object(|| serde_json::json!(line)))?;
    output.text(|| {
        let header = ["segment", "life", "groups", "first", "last", "batches", "used", "footer", "findings"];
        let rows = lines.iter().map(|line| {
            let findings = if line.findings.is_empty() { String::new() } else { line.findings.len().to_string() };
            vec![
                line.segment.to_string(),
                line.life.to_string(),
                line.groups.to_string(),
                line.first_group.to_string(),
                line.last_group.to_string(),
                line.batches.to_string(),
                size(line.bytes_used),
                if line.footer { "yes" } else { "no" }.to_owned(),
                findings,
            ]
        });
        let mut text = format!("\n{}", table(&header, rows));
        for finding in lines.iter().flat_map(|line| &line.findings) {
            text.push_str(&format!("\n  {finding}"));
        }
        if let (Some(first), Some(last)) = (view.segments_ready.first(), view.segments_ready.last()) {
            text.push_str(&format!("\nready for use: {first} to {last}"));
        }
        text
    })?;
    Ok(())
}

fn segment_line(segment: &SegmentView) -> SegmentLine {
    let last = segment.groups.last();
    SegmentLine {
        segment: segment.number,
        file: segment.file.clone(),
        life: segment.incarnation,
        first_group: segment.first_group,
        last_group: last.map_or(segment.first_group, |group| group.number),
        groups: segment.groups.len() as u64,
        batches: segment.groups.iter().map(|group| group.batches.len() as u64).sum(),
        bytes_used: last.map_or(0, |group| group.offset + group.bytes),
        footer: segment.footer,
        findings: segment.findings.iter().map(ToString::to_string).collect(),
    }
}

fn print_groups(output: Output, segment: &SegmentView) -> Result<(), Failure> {
    output.text(|| format!("\nsegment {}", segment.number))?;
    for group in &segment.groups {
        output.both(|| group_object(segment.number, group), || group_words(group))?;
    }
    Ok(())
}

fn group_object(segment: u64, group: &GroupView) -> Value {
    let batches: Vec<_> = group
        .batches
        .iter()
        .map(|batch| {
            serde_json::json!({
                "log": batch.log.to_string(), "first_lsn": batch.first.get(), "last_lsn": batch.last.get(),
                "offset": batch.offset, "bytes": batch.bytes, "good": batch.header.is_some(),
            })
        })
        .collect();
    serde_json::json!({
        "segment": segment, "group": group.number, "offset": group.offset, "group_bytes": group.bytes,
        "durable_through": group.durable_through, "closing": group.closing, "group_batches": batches,
        "group_records": group.records,
    })
}

fn group_words(group: &GroupView) -> String {
    let (number, offset, bytes) = (group.number, group.offset, size(group.bytes));
    let mut lines =
        vec![format!("  group {number} at byte {offset}, {bytes}; durable through {}", group.durable_through)];
    lines.extend(group.batches.iter().map(|batch| {
        let (log, first, last) = (batch.log, batch.first, batch.last);
        let state = if batch.header.is_some() { "" } else { ", which can't be read" };
        format!("    log {log}: batch of LSN {first} to {last}, {} bytes at byte {}{state}", batch.bytes, batch.offset)
    }));
    lines.extend(group.records.iter().map(|words| format!("    {words}")));
    lines.join("\n")
}

fn log_line((log, first, last, batches): (LogId, Lsn, Lsn, usize)) -> (LogId, LogLine) {
    let line = LogLine {
        log: log.to_string(),
        first_lsn: first.get(),
        last_lsn: last.get(),
        batches: u64::try_from(batches).unwrap_or(u64::MAX),
    };
    (log, line)
}

fn log_table(logs: &[(LogId, LogLine)]) -> String {
    let rows = logs.iter().map(|(_, line)| {
        vec![line.log.clone(), line.first_lsn.to_string(), line.last_lsn.to_string(), count(line.batches)]
    });
    table(&["log", "first", "last", "batches"], rows)
}

/// Prints a log's batches; whether all of them can be read.
fn print_batches(
    output: Output,
    batches: &mut Batches<RealIo>,
    log: LogId,
    line: &LogLine,
    with_records: bool,
) -> Result<bool, Failure> {
    batches.restart(Wanted { log: Some(log), ..Wanted::default() });
    output.both(
        || serde_json::json!(line),
        || format!("\nlog {log}: LSN {} to {} in {} batches", line.first_lsn, line.last_lsn, line.batches),
    )?;
    let (mut rows, mut is_good) = (Rows { output, with_records, rows: Vec::new(), is_printed: false }, true);
    for batch in batches {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                is_good = false;
                output.object(|| serde_json::json!({ "unreadable": error.to_string() }))?;
                if let ReadError::Corrupt { first, last, .. } = error {
                    rows.push(vec!["damaged".to_owned(), String::new(), first.to_string(), last.to_string()])?;
                }
                continue;
            }
        };
        let line = batch_line(&batch);
        let (mut records, mut unknown) = (Vec::new(), None);
        if with_records {
            let mut next = batch.first_lsn();
            let read = each(&batch, &mut |record| {
                next = record.lsn.next();
                records.push((record.object(), format!("{}  {}", record.lsn, record.words(escaped))));
                Ok(())
            });
            // Another application's batch, or a newer release's: the next one may be read.
            unknown = read.err().map(|failure| not_records(next, batch.last_lsn(), &failure));
            is_good &= unknown.is_none();
        }
        output.object(|| {
            let mut object = serde_json::json!(line);
            if with_records && let Value::Object(object) = &mut object {
                object.insert("contents".to_owned(), records.iter().map(|record| record.0.clone()).collect());
                object.extend(unknown.iter().map(|words| ("not_read".to_owned(), words.as_str().into())));
            }
            object
        })?;
        let mut row = vec![line.kind, line.epoch, line.first_lsn.to_string(), line.last_lsn.to_string()];
        row.extend([line.records.to_string(), size(line.bytes), line.chain]);
        row.push(line.sha256.get(..16).unwrap_or_default().to_owned());
        rows.push(row)?;
        // Beside the batch's line, where people look for them; the table of batches stands alone without.
        records
            .into_iter()
            .map(|(_, text)| text)
            .chain(unknown)
            .try_for_each(|text| rows.push(vec![String::new(), text]))?;
    }
    rows.finish()?;
    Ok(is_good)
}

/// The lines of a log's batches, for people: with records one by one, otherwise as tables of so many.
struct Rows {
    output: Output,
    with_records: bool,
    rows: Vec<Vec<String>>,
    is_printed: bool,
}

impl Rows {
    /// A log may have any number of batches, and memory has an end.
    const ROWS_MAX: usize = 1000;

    fn push(&mut self, row: Vec<String>) -> Result<(), Failure> {
        if self.with_records {
            self.output.text(|| row.join("  "))?;
            return Ok(());
        }
        self.rows.push(row);
        if self.rows.len() < Self::ROWS_MAX { Ok(()) } else { self.print() }
    }

    fn print(&mut self) -> Result<(), Failure> {
        let header = ["kind", "epoch", "first", "last", "records", "bytes", "chain", "sha256"];
        self.is_printed = true;
        self.output.text(|| table(&header, self.rows.drain(..)))?;
        // Those of JSON are printed already.
        self.rows.clear();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let is_due = !self.with_records && (!self.rows.is_empty() || !self.is_printed);
        if is_due { self.print() } else { Ok(()) }
    }
}

fn batch_line(batch: &Batch) -> BatchLine {
    let header = batch.header();
    BatchLine {
        log: batch.log().to_string(),
        kind: format!("{:?}", batch.kind()).to_lowercase(),
        epoch: batch.epoch().to_string(),
        first_lsn: batch.first_lsn().get(),
        last_lsn: batch.last_lsn().get(),
        records: header.record_count,
        bytes: batch.bytes().len() as u64,
        raw_bytes: u64::from(header.raw_len),
        chain: header.chain.to_string(),
        sha256: hex(&Sha256::digest(batch.bytes())),
    }
}

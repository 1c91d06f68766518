//! `towline wal verify DIR`.

use super::{damage_object, damage_words, log_directory, path_object, refused};
use crate::failure::Failure;
use crate::output::{Format, Output, count};
use crate::progress::Progress;
use serde_json::Value;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use towline_wal::inspect::{VerifyReport, verify_with};
use towline_wal::io::RealIo;

pub(super) const CODES: &str = "Exit codes: 0 good, also with a torn tail, which is told: nobody was promised it; \
    1 it could not be done (no log, no permission, a newer format); 3 something is damaged.";

/// Segments from which on it is worth saying how far it is.
const SEGMENTS_MANY: u64 = 8;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A log directory, or a node's data directory
    directory: PathBuf,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let directory = log_directory(&args.directory);
    let is_quiet = args.quiet || output.is_json() || !std::io::stderr().is_terminal();
    let mut progress: Option<Progress> = None;
    let found = verify_with(&mut RealIo::read_only(&directory), &mut |at| {
        let is_many = at.segments_total >= SEGMENTS_MANY;
        let shown = progress.get_or_insert_with(|| Progress::of("segments", at.segments_total, !is_many || is_quiet));
        shown.show(at.segments, "");
    });
    if let Some(progress) = &progress {
        progress.finish();
    }
    let found = found.map_err(|error| refused(&directory, error))?;
    output.both(|| object(&directory, &found), || words(&directory, &found))?;
    Ok(if found.is_good() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// What a verification found, as JSON.
pub(super) fn object(directory: &Path, found: &VerifyReport) -> Value {
    let report = &found.report;
    let damaged: Vec<_> = found.damaged().into_iter().map(damage_object).collect();
    let cuts: Vec<_> = report
        .cuts
        .iter()
        .map(|cut| serde_json::json!({ "log": cut.log.to_string(), "from_lsn": cut.from.get() }))
        .collect();
    let torn = found.torn().map(|torn| {
        serde_json::json!({ "segment": torn.segment, "offset": torn.offset, "group": torn.group, "what": torn.to_string() })
    });
    let findings: Vec<_> = report.findings.iter().chain(&found.findings).map(ToString::to_string).collect();
    let doubtful: Vec<_> = report
        .doubtful_hard_states
        .iter()
        .map(|(log, kind)| serde_json::json!({ "log": log.to_string(), "kind": format!("{kind:?}").to_lowercase() }))
        .collect();
    serde_json::json!({
        "directory": path_object(directory), "good": found.is_good(), "batches_good": found.batches_good,
        "clean_close": report.clean_close, "segments_missing": report.segments_missing, "damaged": damaged,
        "cuts": cuts, "torn": torn, "findings": findings, "doubtful_hard_states": doubtful,
        "losses_unknown": report.losses_unknown,
        "unread": report.unread.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What a verification found, for people.
pub(super) fn words(directory: &Path, found: &VerifyReport) -> String {
    let report = &found.report;
    let verdict = if found.is_good() { "good" } else { "DAMAGED" };
    let mut lines = vec![format!("{}: {verdict}, {} batches read", directory.display(), count(found.batches_good))];
    lines.extend(found.damaged().into_iter().map(|range| format!("  {}", damage_words(range))));
    lines.extend(report.segments_missing.iter().map(|number| format!("  segment {number} is missing or unreadable")));
    lines.extend(report.doubtful_hard_states.iter().map(|(log, kind)| {
        let kind = format!("{kind:?}").to_lowercase();
        format!("  log {log}: its {kind} may be older than what was promised")
    }));
    if report.losses_unknown > 0 {
        let times = count(report.losses_unknown);
        lines.push(format!("  {times} times something was lost of which nothing tells whose it was"));
    }
    lines.extend(report.findings.iter().map(|finding| format!("  {finding}")));
    lines.extend(found.findings.iter().map(|finding| format!("  {finding}; the segment's footer stands for it")));
    lines.extend(report.unread.iter().map(|failure| {
        format!("  {failure}: it may have been acknowledged, so an open is refused; a repair gives it up")
    }));
    if let Some(torn) = found.torn().filter(|_| report.unread.is_empty()) {
        let dropped = report.groups_dropped;
        let behind =
            if dropped > 0 { format!(", and {} good groups behind it", count(dropped)) } else { String::new() };
        lines.push(format!("  the next open ends the log there: it drops group {}{behind}", torn.group));
    }
    lines.extend(report.cuts.iter().map(|cut| {
        format!("  log {}: records may be missing from LSN {} on; the next open records that again", cut.log, cut.from)
    }));
    lines.join("\n")
}

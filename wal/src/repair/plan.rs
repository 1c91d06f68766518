//! What a repair would do, as data, and in words.

use std::collections::BTreeSet;
use std::fmt;

use super::{RepairOptions, segment_file};
use crate::core::{DamagedSlot, Index};
use crate::error::OpenError;
use crate::format::ids::{LogId, LogPosition, Lsn};
use crate::format::manifest::MANIFEST_NAME;
use crate::format::record::HardStateKind;
use crate::io::{Io, IoFailure, segment_name};
use crate::recovery::replay::Replay;
use crate::recovery::report::{DamagedRange, Finding};
use crate::recovery::survey::Survey;

/// What is to do, and what that costs.
///
/// ```
/// use towline_wal::repair::{RepairOptions, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// assert!(!plan.is_empty() && plan.unmendable.is_empty());
/// let told = plan.to_string();
/// assert!(told.contains("the log is truncated to LSN 1: LSN 2 to 3 are given up"), "{told}");
/// assert!(plan.backup_bytes() > 64 << 10, "the segment and the manifest are copied first");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairPlan {
    /// The directory's uuid.
    pub directory_uuid: [u8; 16],
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The newest life that wrote the directory.
    pub life: u64,
    /// The newest segment that was written to: what has a higher number is of the repair, or of a later life.
    pub segment_last: u64,
    /// The manifest is made anew.
    pub manifest: Option<ManifestRepair>,
    /// The logs that are damaged.
    pub logs: Vec<LogRepair>,
    /// Where the files are torn, if they are: every open drops what is behind, and so does the repair's own.
    pub torn: Option<Finding>,
    /// What can't be read behind that place, so that nobody knows whether it was acknowledged, and every open is refused: it is
    /// given up with what is torn, and each log keeps a cut from where it ends then.
    pub unread: Vec<IoFailure>,
    /// What is wrong and stays so.
    pub unmendable: Vec<Unmendable>,
    /// What is copied before anything is changed.
    pub files: Vec<BackupFile>,
}

/// A manifest that is lost, and agreed on by the segments' headers.
///
/// ```
/// use towline_wal::io::Io;
/// use towline_wal::repair::{RepairOptions, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = three();
/// disk.remove("MANIFEST").unwrap();
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// let lost = plan.manifest.unwrap();
/// assert!(plan.to_string().contains(lost.why));
/// assert_eq!(plan.segment_bytes, 64 << 10, "as the segments say");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestRepair {
    /// What is wrong with the one that is there.
    pub why: &'static str,
}

/// What becomes of a damaged log.
///
/// ```
/// use towline_wal::repair::{RepairOptions, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// let repair = &plan.logs[0];
/// assert_eq!((repair.kept.unwrap().records(), repair.given_up.records()), (1, 2));
/// assert_eq!(repair.given_up_readable, 1, "the third one, behind the damage");
/// assert_eq!(repair.cut_from.get(), 2, "from here on its owner has to fetch");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRepair {
    /// The log.
    pub log: LogId,
    /// What can't be read, by LSN.
    pub damaged: Vec<DamagedRange>,
    /// What is done.
    pub action: RepairAction,
    /// What the log holds afterwards, if anything.
    pub kept: Option<LsnRange>,
    /// What it holds no more.
    pub given_up: LsnRange,
    /// How many records of that could still have been read.
    pub given_up_readable: u64,
    /// From where on something may be missing: this is recorded, and stands until the log's owner settles it.
    pub cut_from: Lsn,
}

/// How damage is let go.
///
/// ```
/// use towline_wal::repair::{RepairAction, RepairOptions, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// let action = plan.logs[0].action;
/// match action {
///     RepairAction::Truncate { to } => println!("it ends at LSN {} then", to.lsn),
///     RepairAction::Release { to } => println!("it starts behind LSN {} then", to.lsn),
///     _ => {}
/// }
/// assert_eq!((action.boundary().lsn.get(), matches!(action, RepairAction::Truncate { .. })), (1, true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairAction {
    /// The log ends here, at the last boundary before the damage.
    Truncate {
        /// Its new end.
        to: LogPosition,
    },
    /// The log starts here, at the first boundary known behind the damage.
    Release {
        /// Its new start.
        to: LogPosition,
    },
}

impl RepairAction {
    /// Where the log ends or starts afterwards.
    #[must_use]
    pub const fn boundary(self) -> LogPosition {
        match self {
            Self::Truncate { to } | Self::Release { to } => to,
        }
    }
}

/// Records from the first to the last.
///
/// ```
/// use towline_wal::repair::{RepairOptions, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// let (kept, given_up) = (plan.logs[0].kept.unwrap(), plan.logs[0].given_up);
/// assert_eq!((kept.to_string(), given_up.to_string()), ("LSN 1".to_owned(), "LSN 2 to 3".to_owned()));
/// assert_eq!(given_up.records(), 2, "the last one is one of them");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LsnRange {
    /// The first.
    pub first: Lsn,
    /// The last.
    pub last: Lsn,
}

/// What no repair mends.
///
/// ```
/// use towline_wal::io::{Io, segment_name};
/// use towline_wal::repair::{RepairOptions, Unmendable, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = long();
/// disk.remove(&segment_name(2)).unwrap();
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// assert!(!plan.logs.is_empty(), "the log is truncated before the hole");
/// let missed = Unmendable::MissingSegment { segment: 2 };
/// assert!(plan.unmendable.contains(&missed), "and the segment is missed all the same");
/// assert!(plan.to_string().contains(&format!("not mended: {missed}")));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unmendable {
    /// A segment's file is not there, or nothing in it tells what it is. It is missed until the owners of all logs that may
    /// have been in it have settled their cuts.
    MissingSegment {
        /// Its number.
        segment: u64,
    },
    /// Something was lost that had been durable, and nothing tells whose it was.
    UnknownLosses {
        /// How often.
        count: u64,
    },
    /// A hard state may be older than what was promised; certain again once its owner sets it.
    DoubtfulHardState {
        /// The log.
        log: LogId,
        /// Which.
        kind: HardStateKind,
    },
}

/// A file to copy.
///
/// ```
/// use towline_wal::io::Io;
/// use towline_wal::repair::{README_NAME, Repair, RepairOptions};
/// use towline_wal::vdisk::VirtualDisk;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
/// let files = repair.plan().files.clone();
/// let mut copy = VirtualDisk::new();
/// repair.execute(&mut copy, "in an example").unwrap();
/// for file in &files {
///     assert_eq!(copy.len(&file.name), Ok(file.bytes));
/// }
/// assert!(copy.len(README_NAME).is_ok(), "which says how to go back");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl RepairPlan {
    /// Whether there is nothing to do. (Something may be wrong all the same: see [`RepairPlan::unmendable`].)
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.manifest.is_none() && self.logs.is_empty() && self.unread.is_empty()
    }

    /// Bytes to copy.
    #[must_use]
    pub fn backup_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl LsnRange {
    fn new(first: Lsn, last: Lsn) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// How many records.
    #[must_use]
    pub fn records(self) -> u64 {
        self.first.distance_to(self.last).map_or(0, |distance| distance.saturating_add(1))
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "LSN {}", self.first)
        } else {
            write!(f, "LSN {} to {}", self.first, self.last)
        }
    }
}

impl fmt::Display for Unmendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingSegment { segment } => {
                write!(
                    f,
                    "segment {segment} is missing or unreadable; it is missed until every log's owner has settled"
                )
            }
            Self::UnknownLosses { count } => {
                write!(
                    f,
                    "{count} times something was lost of which nothing tells whose it was, perhaps of a log unknown here"
                )
            }
            Self::DoubtfulHardState { log, kind } => {
                let kind = format!("{kind:?}").to_lowercase();
                write!(f, "log {log}: its {kind} may be older than what was said; only its owner can set it again")
            }
        }
    }
}

impl fmt::Display for LogRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}", self.log)?;
        for DamagedRange { first, last, file, offset, .. } in &self.damaged {
            let range = LsnRange { first: *first, last: *last };
            write!(f, "\n  {range} can't be read: {file} at byte {offset}")?;
        }
        let (given_up, readable) = (self.given_up, self.given_up_readable);
        match self.action {
            RepairAction::Truncate { to } => write!(f, "\n  the log is truncated to LSN {}: {given_up}", to.lsn)?,
            RepairAction::Release { to } => write!(f, "\n  the log is released up to LSN {}: {given_up}", to.lsn)?,
        }
        let many = given_up.records() > 1;
        write!(f, " {} given up", if many { "are" } else { "is" })?;
        if readable > 0 {
            let verb = if readable == 1 { "1 record of which could" } else { "records of which could" };
            let count = if readable == 1 { String::new() } else { format!("{readable} ") };
            write!(f, ", {count}{verb} still be read")?;
        }
        match self.kept {
            Some(kept) => write!(f, "\n  {kept} {} kept", if kept.records() > 1 { "are" } else { "is" })?,
            None => write!(f, "\n  nothing is left in it")?,
        }
        write!(
            f,
            "\n  that records may be missing from LSN {} on stays recorded, until its owner settles it",
            self.cut_from
        )
    }
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        if let Some(ManifestRepair { why }) = self.manifest {
            let bytes = self.segment_bytes;
            lines.push(format!("MANIFEST {why}: it is made anew, as the segments say (each of {bytes} bytes)"));
        }
        lines.extend(self.logs.iter().map(ToString::to_string));
        if let Some(Finding { segment, offset, group, .. }) = self.torn {
            let file = segment_name(segment);
            let what =
                if self.unread.is_empty() { "any open drops what is behind" } else { "what is behind is given up" };
            lines.push(format!("{file} is torn at byte {offset}, group {group}: {what}"));
        }
        for failure in &self.unread {
            lines.push(format!("what can't be read there may have been acknowledged ({failure}): it is given up"));
            lines.push(
                "that records may be missing from the ends of logs stays recorded, until their owners settle it"
                    .to_owned(),
            );
        }
        if self.is_empty() {
            lines.push("nothing that a repair mends is damaged".to_owned());
        } else {
            let names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
            lines.push(format!("copied first, {} bytes: {}", self.backup_bytes(), names.join(", ")));
        }
        lines.extend(self.unmendable.iter().map(|what| format!("not mended: {what}")));
        f.write_str(&lines.join("\n"))
    }
}

/// Decides what is to do about what was found.
pub(super) fn make(
    survey: &mut Survey,
    io: &mut dyn Io,
    names: &[String],
    manifest: Option<&'static str>,
    options: RepairOptions,
) -> Result<RepairPlan, OpenError> {
    let damaged: Vec<LogId> =
        survey.replay.index.iter().filter(|(_, state)| state.is_damaged()).map(|(log, _)| log).collect();
    let logs: Vec<LogRepair> = damaged.into_iter().map(|log| repair(&mut survey.replay, io, log, options)).collect();
    let report = &survey.replay.report;
    // What was found, and what holds something that goes. What an open drops anyway it may wipe out.
    let mut segments: BTreeSet<u64> = report.findings.iter().map(|finding| finding.segment).collect();
    for log in &logs {
        segments.extend(segments_of(&survey.replay.index, log));
    }
    let mut files = Vec::new();
    let has_manifest = names.iter().any(|name| name == MANIFEST_NAME).then(|| MANIFEST_NAME.to_owned());
    let segment_files = segments.iter().filter_map(|segment| segment_file(names, *segment));
    for name in has_manifest.into_iter().chain(segment_files) {
        files.push(BackupFile { bytes: io.len(&name)?, name });
    }
    let missing = report.segments_missing.iter().map(|segment| Unmendable::MissingSegment { segment: *segment });
    let unknown =
        Some(Unmendable::UnknownLosses { count: report.losses_unknown }).filter(|_| report.losses_unknown > 0);
    let doubtful = report.doubtful_hard_states.iter();
    let doubtful = doubtful.map(|(log, kind)| Unmendable::DoubtfulHardState { log: *log, kind: *kind });
    Ok(RepairPlan {
        directory_uuid: survey.manifest.directory,
        segment_bytes: survey.manifest.segment_bytes,
        life: survey.replay.incarnation,
        segment_last: survey.live.last().copied().unwrap_or(0),
        manifest: manifest.map(|why| ManifestRepair { why }),
        torn: report.findings.iter().rev().find(|finding| finding.row.is_end()).copied(),
        unread: report.unread.clone(),
        unmendable: missing.chain(unknown).chain(doubtful).collect(),
        logs,
        files,
    })
}

/// Loads what it takes to know the log's boundaries around `lsn`.
fn load(replay: &mut Replay, io: &mut dyn Io, log: LogId, lsn: Lsn) {
    let Some(segment) = replay.index.index_needed(log, lsn) else { return };
    if let Some(request) = replay.index_request(segment) {
        replay.index.cache.insert(request.load(io));
    }
}

/// Decides about one log, which is damaged.
fn repair(replay: &mut Replay, io: &mut dyn Io, log: LogId, options: RepairOptions) -> LogRepair {
    let damaged = replay.index.log(log).still_damaged();
    let first = damaged.iter().map(|range| range.first).min().unwrap_or(Lsn::FIRST);
    let last = damaged.iter().map(|range| range.last).max().unwrap_or(first);
    load(replay, io, log, first.prev());
    let start = replay.index.log(log).start;
    let before = replay.index.boundary_at_or_before(log, first.prev()).unwrap_or(start);
    let behind = if options.keep_tail && before == start { boundary_behind(replay, io, log, last) } else { None };
    let end = replay.index.end(log).lsn.max(last);
    let (action, kept, given_up) = match behind {
        Some(to) => (RepairAction::Release { to }, (to.lsn.next(), end), (start.lsn.next(), to.lsn)),
        None => (RepairAction::Truncate { to: before }, (start.lsn.next(), before.lsn), (before.lsn.next(), end)),
    };
    let given_up = LsnRange { first: given_up.0, last: given_up.1 };
    LogRepair {
        log,
        kept: LsnRange::new(kept.0, kept.1),
        given_up_readable: given_up.records().saturating_sub(covered(&damaged, given_up)),
        given_up,
        action,
        damaged: damaged.iter().map(|range| range.of(log)).collect(),
        cut_from: replay.index.log(log).cut.map_or(first, |cut| cut.min(first)),
    }
}

/// The first boundary of the log that is known at or behind `last`, if a batch follows it or ends there.
fn boundary_behind(replay: &mut Replay, io: &mut dyn Io, log: LogId, last: Lsn) -> Option<LogPosition> {
    if replay.index.end(log).lsn <= last {
        return None;
    }
    load(replay, io, log, last);
    if let Some(at) = replay.index.position_at(log, last) {
        return Some(at);
    }
    // Nothing of what the batch there continues is left: it goes with the damage, and its end is the boundary.
    let next = last.next();
    let inside = replay.index.get(log)?.run_at(next).map(|run| run.first.max(next));
    load(replay, io, log, inside.unwrap_or(next));
    let state = replay.index.get(log)?;
    let end = match state.run_at(next) {
        Some(run) => {
            let entries = replay.index.cache.entries(run.segment, log)?;
            entries.get(entries.partition_point(|entry| entry.last < next))?.last
        }
        None => state.slots.get(state.slot_at(next))?.last,
    };
    // Nothing must be left behind it that is not whole.
    replay.index.position_at(log, end).filter(|at| at.lsn < replay.index.end(log).lsn)
}

/// How many records of a range are in damaged ranges, which come by their first LSN.
fn covered(damaged: &[DamagedSlot], within: LsnRange) -> u64 {
    let (mut count, mut from) = (0_u64, within.first);
    for range in damaged {
        let part = LsnRange::new(range.first.max(from), range.last.min(within.last));
        if let Some(part) = part {
            count = count.saturating_add(part.records());
            from = part.last.next();
        }
    }
    count
}

/// The segments that hold something of what is given up, or held what is damaged.
fn segments_of(index: &Index, repair: &LogRepair) -> BTreeSet<u64> {
    let Some(state) = index.get(repair.log) else { return BTreeSet::new() };
    let LsnRange { first, last } = repair.given_up;
    let runs = state.runs.iter().filter(|run| run.first <= last && run.end.lsn >= first).map(|run| run.segment);
    let slots = state.slots.iter().filter(|slot| slot.first <= last && slot.last >= first).map(|slot| slot.segment);
    let damaged = state.damaged.iter().map(|range| range.segment);
    runs.chain(slots).chain(damaged).filter(|segment| *segment != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_that_overlaps_is_counted_once() {
        let slot = |first, last| DamagedSlot { first: Lsn::new(first), last: Lsn::new(last), segment: 1, offset: 0 };
        let within = LsnRange { first: Lsn::new(3), last: Lsn::new(10) };
        assert_eq!(covered(&[slot(1, 4), slot(4, 5), slot(4, 4), slot(9, 20)], within), 5);
        assert_eq!(covered(&[], within), 0);
    }
}

//! A directory read from outside: segments, groups, batches, and whether they are good. Nothing is written and no
//! lock is taken; beside a running writer the newest groups may be missing or look torn.
//!
//! ```
//! use towline_wal::{inspect, Options, Wal};
//! let dir = tempfile::tempdir().unwrap();
//! let options = Options { segment_bytes: 64 << 10, ..Options::default() };
//! let (wal, _) = Wal::open(dir.path(), options).unwrap();
//! wal.close().unwrap();
//! let seen = inspect::inspect(dir.path()).unwrap();
//! assert_eq!(seen.segments.len(), 1);
//! assert!(seen.segments[0].groups.last().unwrap().closing);
//! assert!(inspect::verify(dir.path()).unwrap().is_good());
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::{fmt, vec};

use crate::core::segment_index::{IndexEntry, SegmentIndex};
use crate::core::{DamagedSlot, Extent, Slot};
use crate::error::{OpenError, ReadError};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::ids::{Epoch, LogId, Lsn};
use crate::format::record::Record;
use crate::format::segment::SegmentHeader;
use crate::io::{Io, RealIo, segment_name};
use crate::limits::INDEX_BYTES_DEFAULT;
use crate::recovery::report::{DamagedRange, Finding, OpenReport};
use crate::recovery::scan::{Bound, Image, Scanned, ScannedGroup, scan};
use crate::recovery::survey::{Reader, Survey, read_manifest, read_summary, survey};
use crate::recovery::table::GroupRow;

pub use crate::error::InspectError;

/// A directory's content, as it stands in the files, truncated batches included.
///
/// ```
/// use towline_wal::inspect::inspect_io;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = three();
/// // `disk` holds a log of three batches.
/// let seen = inspect_io(&mut disk).unwrap();
/// assert_eq!(seen.segment_bytes, 64 << 10);
/// let batches = seen.segments.iter().flat_map(|segment| &segment.groups).map(|group| group.batches.len());
/// assert_eq!(batches.sum::<usize>(), 3);
/// assert!(seen.report.is_intact() && !seen.report.clean_close, "its process was killed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryView {
    /// The directory's uuid.
    pub directory_uuid: [u8; 16],
    /// Bytes of a segment, as the manifest says.
    pub segment_bytes: u64,
    /// Segments with groups, oldest first; none where they are handed over one by one.
    pub segments: Vec<SegmentView>,
    /// Segments ready for use.
    pub segments_ready: Vec<u64>,
    /// What an open would report.
    pub report: OpenReport,
}

/// One segment.
///
/// ```
/// use towline_wal::GroupRow;
/// use towline_wal::inspect::inspect_io;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let segment = &inspect_io(&mut disk).unwrap().segments[0];
/// assert_eq!(segment.file, "0000000000000001.seg");
/// assert!(!segment.footer, "it is the active one");
/// let rows: Vec<_> = segment.findings.iter().map(|finding| finding.row).collect();
/// assert_eq!(rows, [GroupRow::G2]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentView {
    /// Its number.
    pub number: u64,
    /// Its file's name.
    pub file: String,
    /// The writer's incarnation.
    pub incarnation: u64,
    /// The number of its first group.
    pub first_group: u64,
    /// Whether it has a good footer.
    pub footer: bool,
    /// Its groups.
    pub groups: Vec<GroupView>,
    /// Everything else that the scan found.
    pub findings: Vec<Finding>,
}

/// One group.
///
/// ```
/// use towline_wal::inspect::inspect_io;
/// use towline_wal::{Entry, HardStateKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// let vow = Entry::HardState { log, kind: HardStateKind::Promise, bytes: "epoch 1".into() };
/// core.submit(vec![Entry::Batch(batch(&core, log, b"hello")), vow]).unwrap();
/// run(&mut core, &mut disk);
/// let groups = inspect_io(&mut disk).unwrap().segments.remove(0).groups;
/// // Submitted together, and so in one group, all of which is there or nothing.
/// let group = groups.iter().find(|group| !group.batches.is_empty()).unwrap();
/// assert!(group.records.iter().any(|record| record.ends_with("hard state Promise of 7 bytes")), "{group:?}");
/// assert!(group.durable_through < group.number, "the next one says that this one was durable");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupView {
    /// Its number.
    pub number: u64,
    /// Byte in the segment.
    pub offset: u64,
    /// Bytes with padding.
    pub bytes: u64,
    /// The last group known durable when this one was built.
    pub durable_through: u64,
    /// Whether the log was closed in good order behind it.
    pub closing: bool,
    /// Its batches.
    pub batches: Vec<BatchView>,
    /// Its other records in words, in their order: truncations, hard states and so on.
    pub records: Vec<String>,
}

/// One batch.
///
/// ```
/// use towline_wal::inspect::inspect_io;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let segment = inspect_io(&mut disk).unwrap().segments.remove(0);
/// for batch in segment.groups.iter().flat_map(|group| &group.batches) {
///     println!("LSN {} to {}: {} bytes at {}", batch.first, batch.last, batch.bytes, batch.offset);
///     assert_eq!(batch.header.is_some(), batch.first.get() != 2);
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchView {
    /// The log.
    pub log: LogId,
    /// First LSN.
    pub first: Lsn,
    /// Last LSN.
    pub last: Lsn,
    /// The epoch.
    pub epoch: Epoch,
    /// Byte in the segment.
    pub offset: u64,
    /// Bytes of the batch.
    pub bytes: u32,
    /// The header, if the batch is good.
    pub header: Option<BatchHeader>,
}

/// What [`verify`] found.
///
/// ```
/// use towline_wal::inspect::verify_io;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let report = verify_io(&mut disk).unwrap();
/// assert!(!report.is_good());
/// assert_eq!(report.batches_good, 2);
/// let damaged: Vec<_> = report.damaged().iter().map(|range| (range.log, range.first.get())).collect();
/// assert_eq!(damaged, [(log, 2)]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What an open would report.
    pub report: OpenReport,
    /// Batches of all logs read and found good.
    pub batches_good: u64,
    /// Batches that can't be read, beyond those that the report names.
    pub batches_bad: Vec<DamagedRange>,
    /// Groups that are not good, behind good footers, at which an open does not look. What they said of what is still
    /// there, the footers say too: by themselves they are no damage, and go with their segments.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether everything that should be there is. A torn tail is good: nobody was promised it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.report.is_intact() && self.batches_bad.is_empty()
    }

    /// Where the log's files are torn, if they are: the next open ends the log before that place, and records the report's
    /// cuts.
    #[must_use]
    pub fn torn(&self) -> Option<Finding> {
        self.report.findings.iter().rev().find(|finding| finding.row.is_end()).copied()
    }

    /// Everything that can't be read, by log and LSN.
    #[must_use]
    pub fn damaged(&self) -> Vec<&DamagedRange> {
        let mut all: Vec<&DamagedRange> = self.report.damaged.iter().chain(&self.batches_bad).collect();
        all.sort_by_key(|range| (range.log, range.first));
        all
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.row {
            GroupRow::G1 => "good",
            GroupRow::G2 => "some of it is damaged, and it had been durable",
            GroupRow::G3 => "torn: some of it is bad, and nothing proves that it had been durable",
            GroupRow::G4 => "its header is damaged, and it had been durable",
            GroupRow::G5 => "torn: its header is bad, and nothing proves that it had been durable",
            GroupRow::G6 => "the header of another place stands there, and it had been durable: look at the device",
            GroupRow::G7 => "torn: the header of another place stands there: look at the device",
            GroupRow::G8 => "it had been durable, and nothing is there: look at the device",
            GroupRow::G9 => "torn: nothing is there, and later groups are",
            GroupRow::G10 => "the end",
        };
        write!(f, "{} at byte {}, group {}: {what}", segment_name(self.segment), self.offset, self.group)
    }
}

/// How far [`verify_with`] is: told before each segment, and once more behind the last.
///
/// ```
/// use towline_wal::inspect::verify_with;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = long();
/// let mut last = None;
/// let report = verify_with(&mut disk, &mut |progress| {
///     println!("{} of {} segments", progress.segments, progress.segments_total);
///     last = Some(progress);
/// });
/// assert!(report.unwrap().is_good());
/// let last = last.unwrap();
/// assert_eq!(last.segments, last.segments_total, "it is told before each, and at the end");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Segments read.
    pub segments: u64,
    /// Segments in all.
    pub segments_total: u64,
}

fn look(io: &mut dyn Io) -> Result<Survey, OpenError> {
    look_with(io, batches_max())
}

/// Beside a writer files are used again, replaced and removed while they are read: what is wrong is believed when a second
/// look finds the same.
fn look_with(io: &mut dyn Io, batches_max: u64) -> Result<Survey, OpenError> {
    look_by(io, &mut |io| look_once(io, batches_max))
}

/// As [`look_with`], by another look.
pub(crate) fn look_by<E: Clone + PartialEq>(
    io: &mut dyn Io,
    look: &mut dyn FnMut(&mut dyn Io) -> Result<Survey, E>,
) -> Result<Survey, E> {
    let mut known = None;
    for _ in 0..LOOKS_MAX {
        io.look_again();
        let found = look(io);
        let wrong = match &found {
            Ok(survey) if survey.replay.report.is_intact() => return found,
            Ok(Survey { replay, .. }) => Ok((
                replay.report.damaged.clone(),
                replay.report.segments_missing.clone(),
                replay.report.doubtful_hard_states.clone(),
            )),
            Err(error) => Err(error.clone()),
        };
        if known.as_ref() == Some(&wrong) {
            return found;
        }
        known = Some(wrong);
    }
    io.look_again();
    look(io)
}

/// A writer that changes what is there that often has changed it between any two looks.
const LOOKS_MAX: usize = 4;

fn look_once(io: &mut dyn Io, batches_max: u64) -> Result<Survey, OpenError> {
    let Some(manifest) = read_manifest(io, None)? else {
        return Err(OpenError::Manifest { why: "is missing: this is not the directory of a log" });
    };
    survey(io, manifest, Reader::Guest, batches_max)
}

/// Batches that are known one by one, as in a log with the default options.
pub(crate) fn batches_max() -> u64 {
    u64::try_from(INDEX_BYTES_DEFAULT / size_of::<Slot>()).unwrap_or(u64::MAX)
}

/// Reads a directory. All of its groups and batches are in memory at once: for more than a small one see
/// [`Batches::directory`].
///
/// # Errors
/// [`OpenError`], as an open would say it.
pub fn inspect(dir: impl AsRef<Path>) -> Result<DirectoryView, OpenError> {
    inspect_io(&mut RealIo::read_only(dir.as_ref()))
}

/// As [`inspect`], on any [`Io`].
///
/// # Errors
/// [`OpenError`], as an open would say it.
pub fn inspect_io(io: &mut dyn Io) -> Result<DirectoryView, OpenError> {
    let survey = look(io)?;
    let mut segments = Vec::new();
    let view = directory(&survey, io, &mut |segment| {
        segments.push(segment);
        ControlFlow::Continue(())
    })?;
    Ok(DirectoryView { segments, ..view })
}

/// A directory's view, its segments handed over one after another.
fn directory(
    survey: &Survey,
    io: &mut dyn Io,
    take: &mut dyn FnMut(SegmentView) -> ControlFlow<()>,
) -> Result<DirectoryView, OpenError> {
    for (number, header) in &survey.headers {
        let image = Image::read(io, *number, header.segment_bytes).map_err(OpenError::from);
        let result = match image.and_then(|image| survey.scan(io, &image, header, survey.bound(*number))) {
            Ok(result) if result.findings.is_empty() || !survey.is_gone(io, *number)? => result,
            Err(error) if !survey.is_gone(io, *number)? => return Err(error),
            // A writer has given it up meanwhile.
            Ok(_) | Err(_) => continue,
        };
        let groups = result.scanned.iter().filter_map(|item| match item {
            Scanned::Group(group) => Some(group_view(group)),
            Scanned::Gap { .. } => None,
        });
        let view = SegmentView {
            number: *number,
            file: segment_name(*number),
            incarnation: header.incarnation,
            first_group: header.first_group,
            footer: read_summary(io, *number, &survey.manifest).is_some(),
            groups: groups.collect(),
            findings: result.findings,
        };
        if take(view).is_break() {
            break;
        }
    }
    Ok(DirectoryView {
        directory_uuid: survey.manifest.directory,
        segment_bytes: survey.manifest.segment_bytes,
        segments: Vec::new(),
        segments_ready: survey.ready.iter().copied().collect(),
        report: survey.replay.report.clone(),
    })
}

fn group_view(group: &ScannedGroup) -> GroupView {
    let own = group.own.as_deref().unwrap_or_default();
    let entries = own.iter().filter_map(Record::batch);
    let batches: Vec<BatchView> = entries
        .zip(&group.batches)
        .map(|(entry, batch)| BatchView {
            log: entry.log,
            first: entry.first,
            last: entry.last,
            epoch: entry.epoch,
            offset: u64::from(entry.offset),
            bytes: entry.len,
            header: batch.as_ref().map(|batch| *batch.header()),
        })
        .collect();
    GroupView {
        number: group.header.number,
        offset: group.header.offset,
        bytes: u64::from(group.header.total_len),
        durable_through: group.header.durable_through,
        closing: group.header.flags.closing,
        records: own.iter().filter(|record| !matches!(record, Record::Batch(_))).map(Record::to_string).collect(),
        batches,
    }
}

/// Reads every batch of every log, as its owner would see it, and every group's header and directory. Left unread are
/// blocks behind a segment's last group, but for its footer, and what lies in segments that are retired; beside a writer also
/// what it retires meanwhile.
///
/// # Errors
/// [`OpenError`], as an open would say it.
pub fn verify(dir: impl AsRef<Path>) -> Result<VerifyReport, OpenError> {
    verify_io(&mut RealIo::read_only(dir.as_ref()))
}

/// As [`verify`], on any [`Io`].
///
/// # Errors
/// [`OpenError`], as an open would say it.
pub fn verify_io(io: &mut dyn Io) -> Result<VerifyReport, OpenError> {
    verify_with(io, &mut |_| {})
}

/// As [`verify_io`]; tells how far it is.
///
/// # Errors
/// [`OpenError`], as an open would say it.
pub fn verify_with(io: &mut dyn Io, progress: &mut dyn FnMut(VerifyProgress)) -> Result<VerifyReport, OpenError> {
    report(look(io)?, io, progress)
}

fn report(
    survey: Survey,
    io: &mut dyn Io,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, OpenError> {
    let ReadAll { good, bad, findings } = read_all(&survey, io, progress)?;
    let batches_bad = bad.iter().map(|(log, range)| range.of(*log)).collect();
    Ok(VerifyReport { report: survey.replay.report, batches_good: good, batches_bad, findings })
}

/// What reading everything found, beyond what the survey's report says.
#[derive(Debug, Default)]
pub(crate) struct ReadAll {
    /// Batches that are good.
    pub(crate) good: u64,
    /// What can't be read of the logs.
    pub(crate) bad: Vec<(LogId, DamagedSlot)>,
    /// Groups that are not good, in segments that the survey knows by their footers.
    findings: Vec<Finding>,
}

/// Reads every batch of every log, and the groups of which the survey read footers only.
pub(crate) fn read_all(
    survey: &Survey,
    io: &mut dyn Io,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<ReadAll, OpenError> {
    let mut all = ReadAll::default();
    let segments_total = u64::try_from(survey.replay.segments.len()).unwrap_or(u64::MAX);
    for (segments, (number, segment)) in (0..).zip(survey.replay.segments.iter()) {
        progress(VerifyProgress { segments, segments_total });
        let (known_bad, known_findings) = (all.bad.len(), all.findings.len());
        let image =
            if segment.footer_was_found { Image::read(io, number, survey.manifest.segment_bytes).ok() } else { None };
        if let (Some(image), Some(header)) = (&image, survey.headers.get(&number)) {
            let header = SegmentHeader { first_group: segment.first_group, ..header.clone() };
            let bound = Bound { last_group: Some(segment.last_group), is_sealed: true };
            all.findings.extend(scan(image, &header, bound)?.findings);
        }
        for part in parts(survey, io, number, None) {
            let (log, range) = match part {
                Part::Batch(extent) => {
                    if image.as_ref().is_some_and(|image| image.has(&extent)) || extent.read(io).is_ok() {
                        all.good += 1;
                        continue;
                    }
                    (extent.log, extent.damaged())
                }
                Part::Unknown(log, range) => (log, range),
            };
            let covers = |known: &DamagedRange| known.first <= range.first && known.last >= range.last;
            if !survey.replay.report.damaged.iter().any(|known| known.log == log && covers(known)) {
                all.bad.push((log, range));
            }
        }
        let is_bad = all.bad.len() > known_bad || all.findings.len() > known_findings;
        if is_bad && survey.is_gone(io, number)? {
            all.bad.truncate(known_bad);
            all.findings.truncate(known_findings);
        }
    }
    progress(VerifyProgress { segments: segments_total, segments_total });
    Ok(all)
}

/// A batch that lies in a range of a segment's file, in part at least, and is not known to be damaged; also one of which
/// can't be told where it lies.
pub(crate) fn good_batch_within(
    survey: &Survey,
    io: &mut dyn Io,
    segment: u64,
    range: &Range<u64>,
) -> Option<DamagedRange> {
    let batches = parts(survey, io, segment, None).into_iter().filter_map(|part| match part {
        Part::Batch(extent) => {
            let end = extent.offset.saturating_add(u64::from(extent.len));
            (extent.offset < range.end && end > range.start).then(|| (extent.log, extent.damaged()))
        }
        Part::Unknown(log, range) => Some((log, range)),
    });
    let is_good = |(log, batch): &(LogId, DamagedSlot)| {
        let damaged = survey.replay.index.get(*log).map_or(&[][..], |state| &state.damaged);
        !damaged.iter().any(|known| known.first <= batch.first && known.last >= batch.last)
    };
    batches.into_iter().find(is_good).map(|(log, batch)| batch.of(log))
}

impl Extent {
    /// The batch's place, as that of damage.
    pub(crate) const fn damaged(&self) -> DamagedSlot {
        let Self { first, last, segment, offset, .. } = *self;
        DamagedSlot { first, last, segment, offset }
    }
}

/// Which batches are wanted.
///
/// ```
/// use towline_wal::Lsn;
/// use towline_wal::inspect::{Batches, Wanted};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = three();
/// // `disk` holds a log of three batches.
/// let newer = Wanted { log: Some(log), from: Lsn::new(2), ..Wanted::default() };
/// let mut batches = Batches::open_io(disk, newer).unwrap();
/// assert_eq!(batches.by_ref().count(), 2);
/// batches.restart(Wanted::default());
/// assert_eq!(batches.count(), 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Of this log only; `None`: of all.
    pub log: Option<LogId>,
    /// From the batch on that holds this LSN.
    pub from: Lsn,
    /// Up to the batch that holds this LSN.
    pub to: Lsn,
}

impl Default for Wanted {
    /// Everything.
    fn default() -> Self {
        Self { log: None, from: Lsn::FIRST, to: Lsn::MAX }
    }
}

impl Wanted {
    fn covers(&self, log: LogId, first: Lsn, last: Lsn) -> bool {
        self.log.is_none_or(|wanted| wanted == log) && first <= self.to && last >= self.from
    }
}

/// The batches of a directory one after another, as their owners would see them: each log's in its order, several logs as
/// they lie in the files. One batch and one segment's index are in memory at a time, never a whole log.
///
/// A batch that can't be read is an error in its place, and the next one follows. What is so damaged that no batch is known
/// there is told by [`Batches::damaged`].
///
/// ```
/// use towline_wal::ReadError;
/// use towline_wal::inspect::{Batches, Wanted};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let mut read = Vec::new();
/// for batch in Batches::open_io(disk, Wanted::default()).unwrap() {
///     match batch {
///         Ok(batch) => read.push(batch.first_lsn().get()),
///         Err(ReadError::Corrupt { first, .. }) => eprintln!("LSN {first} can't be read"),
///         Err(error) => panic!("{error}"),
///     }
/// }
/// assert_eq!(read, [1, 3], "what lies behind the damage is read all the same");
/// ```
#[derive(Debug)]
pub struct Batches<I> {
    io: I,
    survey: Survey,
    wanted: Wanted,
    segments: VecDeque<u64>,
    parts: vec::IntoIter<Part>,
}

impl Batches<RealIo> {
    /// Of a directory, which is only read.
    ///
    /// # Errors
    /// [`OpenError`], as an open would say it.
    pub fn open(dir: impl AsRef<Path>, wanted: Wanted) -> Result<Self, OpenError> {
        Self::open_io(RealIo::read_only(dir.as_ref()), wanted)
    }
}

impl<I: Io> Batches<I> {
    /// Of any [`Io`].
    ///
    /// # Errors
    /// [`OpenError`], as an open would say it.
    pub fn open_io(mut io: I, wanted: Wanted) -> Result<Self, OpenError> {
        let survey = look(&mut io)?;
        let mut batches = Self { io, survey, wanted, segments: VecDeque::new(), parts: Vec::new().into_iter() };
        batches.restart(wanted);
        Ok(batches)
    }

    /// Begins again with what is wanted now, as the directory was when it was opened.
    pub fn restart(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        self.segments = self.survey.replay.segments.iter().map(|(number, _)| number).collect();
        self.parts = Vec::new().into_iter();
    }

    /// The directory's view, whatever is wanted of its batches. Its segments go to `take`, oldest first, one in memory at a
    /// time, until it ends that.
    ///
    /// # Errors
    /// [`OpenError::Io`], [`OpenError::NewerFormat`].
    pub fn directory(
        &mut self,
        take: &mut dyn FnMut(SegmentView) -> ControlFlow<()>,
    ) -> Result<DirectoryView, OpenError> {
        directory(&self.survey, &mut self.io, take)
    }

    /// The logs, whatever is wanted, with their first and last LSN and the number of batches.
    pub fn logs(&mut self) -> Vec<(LogId, Lsn, Lsn, usize)> {
        let index = &self.survey.replay.index;
        let folded: BTreeSet<u64> = index.iter().flat_map(|(_, state)| &state.runs).map(|run| run.segment).collect();
        let mut counts: BTreeMap<LogId, usize> = index.iter().map(|(log, state)| (log, state.slots.len())).collect();
        for segment in folded {
            let loaded = load_index(&self.survey, &mut self.io, segment);
            for (log, state) in index.iter() {
                let runs = state.runs.iter().filter(|run| run.segment == segment);
                let known = runs.flat_map(|run| run.batches(run.first, entries(loaded.as_ref(), log)));
                *counts.entry(log).or_default() += known.filter(Result::is_ok).count();
            }
        }
        let count = |log| counts.get(&log).copied().unwrap_or(0);
        index.iter().map(|(log, state)| (log, state.start.lsn.next(), state.end().lsn, count(log))).collect()
    }

    /// Whether the log is there at all.
    #[must_use]
    pub fn has_log(&self, log: LogId) -> bool {
        self.survey.replay.index.get(log).is_some()
    }

    /// The damaged ranges among what is wanted, as an open would report them. Batches in them may be read all the same,
    /// or fail.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedRange> {
        let all = self.survey.replay.report.damaged.iter();
        all.filter(|range| self.wanted.covers(range.log, range.first, range.last)).cloned().collect()
    }
}

impl<I: Io> Iterator for Batches<I> {
    type Item = Result<Batch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.parts.next() {
                Some(Part::Batch(extent)) => return Some(extent.read(&mut self.io)),
                Some(Part::Unknown(log, range)) => return Some(Err(range.of(log).into())),
                None => {}
            }
            let segment = self.segments.pop_front()?;
            let mut parts = parts(&self.survey, &mut self.io, segment, self.wanted.log);
            parts.retain(|part| match part {
                Part::Batch(extent) => self.wanted.covers(extent.log, extent.first, extent.last),
                Part::Unknown(log, range) => self.wanted.covers(*log, range.first, range.last),
            });
            self.parts = parts.into_iter();
        }
    }
}

/// All batches of one log, oldest first, as its owner would see them: for logs that fit into memory, see [`Batches`].
///
/// # Errors
/// [`InspectError`]: the directory can't be opened, or a batch can't be read; the first such is told.
pub fn batches(dir: impl AsRef<Path>, log: LogId) -> Result<Vec<Batch>, InspectError> {
    let wanted = Wanted { log: Some(log), ..Wanted::default() };
    let mut batches = Batches::open(dir, wanted)?.collect::<Result<Vec<Batch>, ReadError>>()?;
    // What was put again lies behind what followed it.
    batches.sort_by_key(Batch::first_lsn);
    Ok(batches)
}

/// The logs of a directory with their first and last LSN and the number of batches.
///
/// # Errors
/// [`OpenError`], as an open would say it.
pub fn logs(dir: impl AsRef<Path>) -> Result<Vec<(LogId, Lsn, Lsn, usize)>, OpenError> {
    Ok(Batches::open(dir, Wanted::default())?.logs())
}

/// Something of a log in a segment.
#[derive(Debug)]
enum Part {
    /// Where a batch lies.
    Batch(Extent),
    /// Records of which is known only that they were there.
    Unknown(LogId, DamagedSlot),
}

/// What a segment holds that is still its logs', in the order of the file.
fn parts(survey: &Survey, io: &mut dyn Io, segment: u64, only: Option<LogId>) -> Vec<Part> {
    let logs = || survey.replay.index.iter().filter(|(log, _)| only.is_none_or(|only| only == *log));
    let folded = logs().any(|(_, state)| state.runs.iter().any(|run| run.segment == segment));
    let index = if folded { load_index(survey, io, segment) } else { None };
    let mut parts = Vec::new();
    for (log, state) in logs() {
        let run = state.runs.iter().find(|run| run.segment == segment);
        let entries = entries(index.as_ref(), log);
        // What was put again counts, wherever it lies, and not what it lies over.
        let counts = |first, last| !state.mends.covers(first, last);
        // What is unknown stands behind the batch before it.
        let mut at = 0;
        for part in run.into_iter().flat_map(|run| run.batches(run.first, entries)) {
            match part {
                Ok(entry) if !counts(entry.first, entry.last) => {}
                Err((first, last)) if !counts(first, last) => {}
                Ok(entry) => {
                    at = u64::from(entry.offset);
                    parts.push((at, Part::Batch(Extent::entry(log, state, segment, entry))));
                }
                Err((first, last)) => {
                    parts.push((at, Part::Unknown(log, DamagedSlot { first, last, segment, offset: 0 })));
                }
            }
        }
        let slots = state.slots.iter().filter(|slot| counts(slot.first, slot.last)).chain(state.mends.slots());
        let slots = slots.filter(|slot| slot.segment == segment);
        parts.extend(slots.map(|slot| (u64::from(slot.offset), Part::Batch(Extent::of(log, slot)))));
    }
    parts.sort_by_key(|(at, _)| *at);
    parts.into_iter().map(|(_, part)| part).collect()
}

/// A segment's index. Once more, if the device refused: what is not known then is told as what can't be read.
fn load_index(survey: &Survey, io: &mut dyn Io, segment: u64) -> Option<SegmentIndex> {
    let request = survey.replay.index_request(segment)?;
    let index = request.load(io);
    Some(if index.is_partial() { request.load(io) } else { index })
}

fn entries(index: Option<&SegmentIndex>, log: LogId) -> &[IndexEntry] {
    index.and_then(|index| index.logs().get(&log)).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
#[path = "inspect_test.rs"]
mod tests;

//! A compacted segment's file: what is live in several segments, read, checked and written as one.
//!
//! Its groups carry the numbers of the source groups that they stand for: each one's number is that of the last of them, so
//! they rise, with holes, up to the last group of the last source. Nothing is copied but batches that were live when the
//! plan was made and, where dead batches in older segments need them, the records that killed those.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::core::LogCore;
use crate::format::batch::Batch;
use crate::format::footer::Footer;
use crate::format::group::{GroupFlags, GroupIdentity, Place, encode_group, front_len};
use crate::format::ids::{LogId, LogPosition};
use crate::format::layout::len_u32;
use crate::format::record::{BATCH_RECORD_BYTES, BatchEntry, Record, repeat_records};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::io::{Io, IoFailure, read_exact, segment_name, unready_name, zeroes};
use crate::limits::{BLOCK_BYTES, COMPACTED_GROUP_BYTES_MAX, FOOTER_BYTES_MAX};
use crate::recovery::index::final_batches;
use crate::recovery::scan::{Bound, Image, Scanned, ScannedGroup, scan};

/// What to copy, and where to.
///
/// ```
/// use towline_wal::io::{IoOp, execute};
/// use towline_wal::{Entry, LogId, Lsn, Options};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&Options { slack_segments: 0, ..options });
/// # let kept = LogId::new(2);
/// for i in 0..24 {
///     append(&mut core, &mut disk, if i % 4 == 0 { kept } else { log }, &[7; 9000]);
/// }
/// // Each segment holds something of both logs, and most of it is let go.
/// core.submit(vec![Entry::Release { log, before: Lsn::MAX }]).unwrap();
/// let mut compacted = 0;
/// while let Some(request) = core.poll_io() {
///     if let IoOp::Compact(plan) = &request.op {
///         println!("{} bytes at most, by {plan:?}", request.op.bytes());
///         compacted += 1;
///     }
///     let result = execute(&mut disk, &request);
///     core.on_io(request.id, result);
/// }
/// assert!(compacted >= 1 && core.stats().compactions == compacted);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionPlan {
    pub(crate) directory: [u8; 16],
    pub(crate) segment_bytes: u64,
    /// The number of the lowest source, which the new segment takes.
    pub(crate) number: u64,
    pub(crate) salt: u64,
    /// The segments that are live now.
    pub(crate) live: Vec<(u64, u64)>,
    pub(crate) sources: Vec<Source>,
    /// Some of their records killed something in other segments that are still there.
    pub(crate) keeps_kills: bool,
    /// What the new file takes, at most.
    pub(crate) bytes: u64,
}

/// A segment to copy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) last_group: u64,
    pub(crate) live: Vec<LiveRange>,
}

/// What is live of a log in a source: all batches between two positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveRange {
    pub(crate) log: LogId,
    pub(crate) before: LogPosition,
    pub(crate) end: LogPosition,
}

/// Writes the compacted segment under its unready name, and syncs it.
///
/// # Errors
/// `InvalidData`: a source does not hold what it should; nothing that can't be read is passed over. `FileTooLarge`: what
/// is live does not fit one segment. Otherwise what the disk said. What was written is removed again.
pub(crate) fn write(io: &mut dyn Io, plan: &CompactionPlan) -> Result<(), IoFailure> {
    let name = unready_name(plan.number);
    io.create(&name)?;
    let written = copy(io, plan, &name);
    if written.is_err() {
        // If it can't be removed, the next open does it.
        drop(io.remove(&name));
    }
    written
}

fn copy(io: &mut dyn Io, plan: &CompactionPlan, name: &str) -> Result<(), IoFailure> {
    let mut output: Option<Output<'_>> = None;
    for source in &plan.sources {
        let (header, groups) = read(io, plan, source)?;
        let output = output.get_or_insert_with(|| Output::new(plan, &header, name, groups.first()));
        // The next segment's header names the last segment that the last source stood for.
        output.header.sources.extend(header.sources.iter().copied().filter(|number| *number > source.segment).max());
        output.header.sources.push(source.segment);
        let live = live_places(source, &groups).ok_or_else(|| unsound(source.segment))?;
        for group in groups {
            output.take(io, source, group, &live)?;
        }
    }
    output.map_or_else(|| Err(unsound(plan.number)), |output| output.finish(io))
}

fn unsound(segment: u64) -> IoFailure {
    IoFailure::new(std::io::ErrorKind::InvalidData, "compact", &segment_name(segment))
}

/// All groups of a source, each of them good.
fn read(
    io: &mut dyn Io,
    plan: &CompactionPlan,
    source: &Source,
) -> Result<(SegmentHeader, Vec<ScannedGroup>), IoFailure> {
    let bad = || unsound(source.segment);
    let block = read_exact(io, &segment_name(source.segment), 0, SEGMENT_HEADER_BYTES)?;
    let header = SegmentHeader::decode(&block).map_err(|_| bad())?;
    if header.number != source.segment || header.salt != source.salt || header.directory != plan.directory {
        return Err(bad());
    }
    let image = Image::read(io, source.segment, plan.segment_bytes)?;
    let bound = Bound { last_group: Some(source.last_group), is_sealed: true };
    let found = scan(&image, &header, bound).map_err(|_| bad())?;
    if !found.findings.is_empty() || found.last_group != source.last_group {
        return Err(bad());
    }
    let groups = found.scanned.into_iter().map(|item| match item {
        Scanned::Group(group) => Ok(*group),
        Scanned::Gap { .. } => Err(bad()),
    });
    Ok((header, groups.collect::<Result<_, _>>()?))
}

/// Where the batches lie that are to be copied, with what each of them follows. LSNs alone don't tell: what a truncation cut
/// off was written again. `None`: they are not what the index says is here.
fn live_places(source: &Source, groups: &[ScannedGroup]) -> Option<BTreeMap<u32, LogPosition>> {
    let of = final_batches(groups);
    let mut places = BTreeMap::new();
    for range in &source.live {
        let mut before = range.before;
        for entry in of.get(&range.log).into_iter().flatten() {
            if entry.first > range.before.lsn && entry.last <= range.end.lsn {
                places.insert(entry.offset, before);
                before = entry.position();
            }
        }
        // Each of them is seen to follow the one before it when it is copied.
        if before != range.end {
            return None;
        }
    }
    Some(places)
}

/// Whether a record killed something for good.
const fn is_kill(record: &Record) -> bool {
    matches!(record, Record::Truncate { .. } | Record::Remove { .. } | Record::Reset { .. } | Record::Settled { .. })
}

/// A record or a batch on its way.
enum Kept {
    Record(Record),
    Batch(BatchEntry, LogPosition, Bytes),
}

/// The group that is being gathered, with what it says of where it comes from.
#[derive(Default)]
struct Pending {
    kept: Vec<Kept>,
    directory_len: usize,
    batches_len: usize,
    number: u64,
    incarnation: u64,
    durable_through: u64,
}

struct Output<'a> {
    plan: &'a CompactionPlan,
    name: &'a str,
    header: SegmentHeader,
    footer: Footer,
    offset: u64,
    repeat: Vec<u8>,
    pending: Pending,
    written: u64,
}

impl<'a> Output<'a> {
    fn new(plan: &'a CompactionPlan, first: &SegmentHeader, name: &'a str, group: Option<&ScannedGroup>) -> Self {
        // As the first source's first group does, it says what the group before the segment held.
        let mut repeat = Vec::new();
        for record in group.iter().flat_map(|group| &group.repeated) {
            record.encode(&mut repeat);
        }
        let header = SegmentHeader { salt: plan.salt, live: plan.live.clone(), sources: Vec::new(), ..first.clone() };
        Self {
            plan,
            name,
            header,
            footer: Footer::default(),
            offset: u64::from(len_u32(SEGMENT_HEADER_BYTES)),
            repeat,
            pending: Pending::default(),
            written: 0,
        }
    }

    fn take(
        &mut self,
        io: &mut dyn Io,
        source: &Source,
        group: ScannedGroup,
        live: &BTreeMap<u32, LogPosition>,
    ) -> Result<(), IoFailure> {
        let mut kept = Vec::new();
        let mut batches = group.batches.into_iter();
        for record in group.own.into_iter().flatten() {
            match record {
                Record::Batch(entry) => {
                    let batch: Option<Batch> = batches.next().flatten();
                    let batch = batch.ok_or_else(|| unsound(source.segment))?;
                    if let Some(before) = live.get(&entry.offset) {
                        if !batch.follows(before) {
                            return Err(unsound(source.segment));
                        }
                        kept.push(Kept::Batch(entry, *before, batch.bytes().clone()));
                    }
                }
                // A segment in which one is live is not compacted.
                Record::Mended(_) => drop(batches.next()),
                record if self.plan.keeps_kills && is_kill(&record) => kept.push(Kept::Record(record)),
                _ => {}
            }
        }
        let directory: usize = kept.iter().map(Kept::directory_len).sum();
        let batches: usize = kept.iter().map(Kept::batch_len).sum();
        let directory_max = LogCore::directory_bytes_max(self.plan.segment_bytes);
        let over = self.pending.directory_len + directory > directory_max
            || self.pending.batches_len + batches > COMPACTED_GROUP_BYTES_MAX;
        if over && !self.pending.kept.is_empty() {
            self.flush(io)?;
        }
        let pending = &mut self.pending;
        pending.kept.extend(kept);
        pending.directory_len += directory;
        pending.batches_len += batches;
        pending.number = group.header.number;
        pending.incarnation = group.header.incarnation;
        pending.durable_through = group.header.durable_through;
        Ok(())
    }

    /// Writes what is gathered as a group.
    fn flush(&mut self, io: &mut dyn Io) -> Result<(), IoFailure> {
        let pending = std::mem::take(&mut self.pending);
        let front = front_len(pending.directory_len, self.repeat.len());
        let mut at = u32::try_from(self.offset).unwrap_or(u32::MAX).saturating_add(len_u32(front));
        let (mut own, mut batches) = (Vec::with_capacity(pending.kept.len()), Vec::new());
        for kept in pending.kept {
            match kept {
                Kept::Record(record) => {
                    self.footer.record(&record);
                    own.push(record);
                }
                Kept::Batch(entry, before, bytes) => {
                    let entry = BatchEntry { offset: at, ..entry };
                    at = at.saturating_add(entry.len);
                    self.footer.batch(entry, before);
                    own.push(Record::Batch(entry));
                    batches.push(bytes);
                }
            }
        }
        let identity = GroupIdentity {
            flags: GroupFlags { compacted: true, ..GroupFlags::default() },
            place: Place { salt: self.plan.salt, segment: self.plan.number, offset: self.offset },
            number: pending.number,
            incarnation: pending.incarnation,
            durable_through: pending.durable_through,
        };
        let repeat = std::mem::replace(&mut self.repeat, repeat_records(&own));
        let (header, slices) = encode_group(&identity, &own, &repeat, &batches);
        let end = self.offset + u64::from(header.total_len);
        if end + BLOCK_BYTES + self.footer.room_with(0) > self.plan.segment_bytes {
            return Err(IoFailure::new(std::io::ErrorKind::FileTooLarge, "compact", self.name));
        }
        io.write_at(self.name, self.offset, &slices)?;
        (self.offset, self.written) = (end, pending.number);
        Ok(())
    }

    /// The last group, which may be empty: the segment's last group is that of its last source. Then footer and header.
    fn finish(mut self, io: &mut dyn Io) -> Result<(), IoFailure> {
        self.flush(io)?;
        self.header.sources.sort_unstable();
        self.header.sources.dedup();
        (self.footer.last_group, self.footer.end) = (self.written, self.offset);
        let room = self.footer.room_with(0);
        if room > u64::from(len_u32(FOOTER_BYTES_MAX)) {
            return Err(IoFailure::new(std::io::ErrorKind::FileTooLarge, "compact", self.name));
        }
        // A block of zeroes ends the scan of who doesn't know where the groups end.
        io.write_at(self.name, self.offset, &[zeroes(usize::try_from(BLOCK_BYTES).unwrap_or(0))])?;
        let (offset, footer) = self.footer.encode_before(&self.header, self.offset + BLOCK_BYTES + room);
        io.write_at(self.name, offset, &[Bytes::from(footer)])?;
        io.write_at(self.name, 0, &[Bytes::from(self.header.encode())])?;
        // DURABLE: the whole file, before it takes the place of what it was made from (attacked by
        // `every_crash_leaves_a_state_that_holds_all_that_was_acknowledged`).
        io.sync_data(self.name)
    }
}

impl Kept {
    fn directory_len(&self) -> usize {
        match self {
            Self::Record(record) => record.encoded_len(),
            Self::Batch(..) => BATCH_RECORD_BYTES,
        }
    }

    fn batch_len(&self) -> usize {
        match self {
            Self::Record(_) => 0,
            Self::Batch(_, _, bytes) => bytes.len(),
        }
    }
}

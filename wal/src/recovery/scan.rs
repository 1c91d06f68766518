//! One segment, group by group, by the table of groups.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::cmp::Reverse;

use bytes::Bytes;

use super::report::Finding;
use super::table::{GroupEvidence, GroupRow, GroupSeen, group_row};
use crate::core::Extent;
use crate::error::OpenError;
use crate::format::batch::{BATCH_VERSION, Batch, BatchError};
use crate::format::group::{BatchesSum, GROUP_VERSION, GroupHeader, HeaderSeen, Place, front_len};
use crate::format::record::{BatchEntry, Record, RecordError};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::io::{Aligned, Io, IoFailure, segment_name};
use crate::limits::{BLOCK_BYTES, GROUP_HEADER_BYTES};

/// What a scan reports, in the order of the files.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A group, of which some batches may be bad.
    Group(Box<ScannedGroup>),
    /// Groups that had been durable and are not there.
    Gap { first: u64, last: u64 },
}

#[derive(Debug)]
pub(crate) struct ScannedGroup {
    pub(crate) header: GroupHeader,
    /// `None`: the directory is bad.
    pub(crate) own: Option<Vec<Record>>,
    pub(crate) repeated: Vec<Record>,
    /// The good batches, by their places in the own directory's order; `None`: bad.
    pub(crate) batches: Vec<Option<Batch>>,
}

/// What is known of a segment from outside.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound {
    /// A later segment was activated behind this group: it and all before had been durable, nothing after counts.
    pub(crate) last_group: Option<u64>,
    /// A later segment was activated: whatever is here had been durable, also if nothing tells which group was the last.
    pub(crate) is_sealed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct ScanResult {
    pub(crate) scanned: Vec<Scanned>,
    pub(crate) findings: Vec<Finding>,
    /// Where the accepted groups end, and the last of them.
    pub(crate) end: u64,
    pub(crate) last_group: u64,
    /// The end is a cut: what was behind it may have been durable.
    pub(crate) cut: bool,
    /// If the cut group's directory was good: what it held. Otherwise anything may have been there.
    pub(crate) cut_records: Option<Vec<Record>>,
    pub(crate) groups_dropped: u64,
    /// Blocks behind the end that look like groups, or like torn ones.
    pub(crate) remains: Vec<u64>,
    /// Something could not be read that decides: with it, the log may go on behind the end, or nothing be damaged.
    pub(crate) unread: Option<IoFailure>,
}

impl ScanResult {
    /// Whether there is a cut, or damage.
    pub(crate) fn is_bad(&self) -> bool {
        self.cut || !self.findings.is_empty()
    }

    /// Of two scans of the same bytes, the one that shows more of them.
    pub(crate) fn better(self, other: Self) -> Self {
        let shown = |result: &Self| {
            let groups = result.scanned.iter().filter_map(|item| match item {
                Scanned::Group(group) => Some(group.batches.iter().flatten().count()),
                Scanned::Gap { .. } => None,
            });
            (result.last_group, Reverse(result.findings.len()), groups.sum::<usize>(), result.unread.is_none())
        };
        if shown(&other) >= shown(&self) { other } else { self }
    }
}

/// A segment in memory. Blocks that can't be read are filled with a pattern that is no group and not blank.
pub(crate) struct Image {
    bytes: Bytes,
    /// The last block that could not be read.
    unreadable: Option<Unreadable>,
    /// The last one that the system refused, which says nothing about the file.
    refused: Option<Unreadable>,
}

/// A block that could not be read.
#[derive(Debug, Clone)]
struct Unreadable {
    failure: IoFailure,
    /// The byte behind it.
    end: u64,
}

const UNREADABLE: u8 = 0xEE;

impl Image {
    /// At most `bytes_max` bytes of the file: what is behind a segment's size is not its own.
    pub(crate) fn read(io: &mut dyn Io, segment: u64, bytes_max: u64) -> Result<Self, IoFailure> {
        let name = segment_name(segment);
        let len = usize::try_from(io.len(&name)?.min(bytes_max)).unwrap_or(0);
        let block = usize::try_from(BLOCK_BYTES).unwrap_or(4096);
        if let Some(bytes) = io.take_read(&name, len) {
            return Ok(Self { bytes, unreadable: None, refused: None });
        }
        let mut memory = Aligned::default();
        let (mut unreadable, mut refused) = (None, None);
        for (i, chunk) in memory.room(len).chunks_mut(block.saturating_mul(256)).enumerate() {
            let start = i.saturating_mul(block).saturating_mul(256);
            if io.read_once(&name, as_u64(start), chunk).is_ok_and(|n| n == chunk.len()) {
                continue;
            }
            // Again by 4 KiB: one bad sector must not take its neighbours with it.
            for (j, small) in chunk.chunks_mut(block).enumerate() {
                let at = start.saturating_add(j.saturating_mul(block));
                match io.read_at(&name, as_u64(at), small) {
                    Ok(n) if n == small.len() => {}
                    Ok(_) => small.fill(UNREADABLE),
                    Err(failure) => {
                        let block = Unreadable { failure, end: as_u64(at.saturating_add(small.len())) };
                        if block.failure.is_refusal() {
                            refused = Some(block.clone());
                        }
                        unreadable = Some(block);
                        small.fill(UNREADABLE);
                    }
                }
            }
        }
        Ok(Self { bytes: Bytes::from_owner(memory), unreadable, refused })
    }

    /// Why some of it could not be read, if so.
    pub(crate) fn unreadable(&self) -> Option<IoFailure> {
        self.unreadable.as_ref().map(|block| block.failure.clone())
    }

    /// Why something behind this byte could not be read, if so.
    fn unreadable_behind(&self, at: u64) -> Option<IoFailure> {
        self.unreadable.as_ref().filter(|block| block.end > at).map(|block| block.failure.clone())
    }

    /// Whether the batch is here.
    pub(crate) fn has(&self, extent: &Extent) -> bool {
        self.at(extent.offset, extent.bytes_len()).is_some_and(|bytes| extent.verify(bytes).is_some())
    }

    /// Headers of groups that say of themselves that they belong where they are, of whichever activation.
    pub(crate) fn own_groups(&self, segment: u64) -> impl Iterator<Item = GroupHeader> {
        let places = (as_u64(SEGMENT_HEADER_BYTES)..as_u64(self.bytes.len())).step_by(SEGMENT_HEADER_BYTES);
        places.filter_map(move |offset| match GroupHeader::decode(&self.at(offset, GROUP_HEADER_BYTES)?) {
            HeaderSeen::Valid(header) if header.segment == segment && header.offset == offset => Some(header),
            _ => None,
        })
    }

    /// Where the last group of the segment's activation ends, as far as headers tell.
    pub(crate) fn groups_end(&self, segment: &SegmentHeader) -> u64 {
        let groups = self.own_groups(segment.number).filter(|group| group.salt == segment.salt);
        groups.map(|group| group.offset.saturating_add(u64::from(group.total_len))).max().unwrap_or(0)
    }

    /// The image without what is behind this byte.
    pub(crate) fn up_to(&self, end: u64) -> Self {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.bytes.len());
        Self { bytes: self.bytes.slice(..end), unreadable: self.unreadable.clone(), refused: self.refused.clone() }
    }

    fn at(&self, offset: u64, len: usize) -> Option<Bytes> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

struct Scan<'a> {
    image: &'a Image,
    segment: &'a SegmentHeader,
    bound: Bound,
    at: u64,
    expect: u64,
    /// Valid headers behind the first thing that was not good; made when first needed.
    later: Option<Vec<GroupHeader>>,
    result: ScanResult,
}

/// Scans a segment.
pub(crate) fn scan(image: &Image, segment: &SegmentHeader, bound: Bound) -> Result<ScanResult, OpenError> {
    let at = as_u64(SEGMENT_HEADER_BYTES);
    let result = ScanResult { end: at, last_group: segment.first_group.saturating_sub(1), ..ScanResult::default() };
    let mut scan = Scan { image, segment, bound, at, expect: segment.first_group, later: None, result };
    while scan.bound.last_group.is_none_or(|last| scan.expect <= last) {
        if scan.step()?.is_none() {
            scan.result.unread = scan.unread();
            return Ok(scan.result);
        }
    }
    scan.result.unread = scan.unread();
    // Whatever is behind the end was dropped when the next segment was activated.
    let end = scan.at;
    scan.result.remains = scan.valid_headers(end).iter().map(|header| header.offset).collect();
    scan.result.remains.push(end);
    Ok(scan.result)
}

impl Scan<'_> {
    /// What could not be read, and decides. Of what the device can't read, that is what stands where the log was cut, or behind:
    /// it may be the group, or what proves it. (Proven, it is damage.) Of what the system refuses, all: asked again, it would not
    /// be damage either.
    fn unread(&self) -> Option<IoFailure> {
        let cut = if self.result.cut { self.image.unreadable_behind(self.at) } else { None };
        let refused = self.image.refused.as_ref().filter(|block| {
            let end_is_open = self.bound.last_group.is_none() && block.end > self.at;
            end_is_open || !self.result.findings.is_empty()
        });
        cut.or_else(|| refused.map(|block| block.failure.clone()))
    }

    /// One place; `None`: the end.
    fn step(&mut self) -> Result<Option<()>, OpenError> {
        let place = Place { salt: self.segment.salt, segment: self.segment.number, offset: self.at };
        // A file that ends here has nothing here.
        let bytes = self.image.at(self.at, GROUP_HEADER_BYTES).unwrap_or_else(|| crate::io::zeroes(GROUP_HEADER_BYTES));
        let seen = match GroupHeader::decode_at(&bytes, place) {
            HeaderSeen::Newer(found) => return Err(self.newer(found)),
            HeaderSeen::Valid(header) if !self.is_expected(header.number) => HeaderSeen::Misplaced,
            seen => seen,
        };
        let mut group = None;
        let seen = match seen {
            HeaderSeen::Valid(header) => {
                let (scanned, good) = self.content(header)?;
                group = Some(scanned);
                if good { GroupSeen::Good } else { GroupSeen::BadContent }
            }
            HeaderSeen::Misplaced => GroupSeen::Misplaced,
            HeaderSeen::BlankOrOld => GroupSeen::BlankOrOld,
            HeaderSeen::Bad | HeaderSeen::Newer(_) => GroupSeen::BadHeader,
        };
        if seen == GroupSeen::Good
            && let Some(group) = group
        {
            self.accept(group);
            return Ok(Some(()));
        }
        let (proven, later) = self.proof(seen, group.as_ref().map_or(0, |g| g.header.total_len));
        let row = group_row(&GroupEvidence { seen, proven, later });
        if row != GroupRow::G10 {
            let (segment, offset, group) = (self.segment.number, self.at, self.expect);
            self.result.findings.push(Finding { row, segment, offset, group });
        }
        Ok(self.follow(row, group))
    }

    /// Does what the row says. `None`: the end.
    fn follow(&mut self, row: GroupRow, group: Option<ScannedGroup>) -> Option<()> {
        if row == GroupRow::G2 {
            self.accept(group?);
            return Some(());
        }
        if row.is_end() {
            self.result.cut = row != GroupRow::G10;
            if row != GroupRow::G10 {
                self.result.remains = self.later.iter().flatten().map(|header| header.offset).collect();
                self.result.remains.push(self.at);
            }
            self.result.cut_records = group.and_then(|g| g.own);
            let dropped =
                self.later.as_ref().map_or(0, |later| later.iter().filter(|h| h.number > self.expect).count());
            self.result.groups_dropped = as_u64(dropped);
            if dropped > 0 {
                // They may have been of other logs.
                self.result.cut_records = None;
            }
            return None;
        }
        let (at, expect) = (self.at, self.expect);
        let next = self.later.iter().flatten().find(|h| h.offset > at && h.number > expect).copied();
        match next {
            Some(header) => {
                self.result.scanned.push(Scanned::Gap { first: expect, last: header.number.saturating_sub(1) });
                (self.at, self.expect) = (header.offset, header.number);
            }
            None => {
                // Proven from outside, and nothing good is left in this segment.
                let last = self.bound.last_group.unwrap_or(self.expect);
                self.result.scanned.push(Scanned::Gap { first: expect, last });
                (self.result.last_group, self.expect) = (last, last.saturating_add(1));
                return None;
            }
        }
        Some(())
    }

    fn accept(&mut self, group: ScannedGroup) {
        self.at = self.at.saturating_add(u64::from(group.header.total_len));
        self.expect = group.header.number.saturating_add(1);
        (self.result.end, self.result.last_group) = (self.at, group.header.number);
        self.result.scanned.push(Scanned::Group(Box::new(group)));
    }

    /// Groups are numbered without holes; in a compacted segment each stands for those before it that are gone.
    fn is_expected(&self, number: u64) -> bool {
        if self.segment.sources.is_empty() {
            return number == self.expect;
        }
        number >= self.expect && self.bound.last_group.is_none_or(|last| number <= last)
    }

    /// P and L for the group expected here.
    fn proof(&mut self, seen: GroupSeen, skip: u32) -> (bool, bool) {
        let (at, expect) = (self.at, self.expect);
        if self.later.is_none() {
            // Inside a group that is there, bytes are its batches', not groups'.
            let from = at.saturating_add(u64::from(skip).max(BLOCK_BYTES));
            self.later = Some(self.valid_headers(from));
        }
        let later: Vec<&GroupHeader> =
            self.later.iter().flatten().filter(|h| h.offset > at && h.number > expect).collect();
        let outside = self.bound.last_group.is_some_and(|last| last >= expect);
        let sealed = self.bound.is_sealed && self.bound.last_group.is_none();
        let outside = outside || (sealed && (seen != GroupSeen::BlankOrOld || !later.is_empty()));
        let proven = outside || later.iter().any(|h| h.durable_through >= expect);
        (proven, !later.is_empty())
    }

    fn valid_headers(&self, from: u64) -> Vec<GroupHeader> {
        let mut headers: Vec<GroupHeader> = Vec::new();
        let mut offset = from;
        while let Some(bytes) = self.image.at(offset, GROUP_HEADER_BYTES) {
            let place = Place { salt: self.segment.salt, segment: self.segment.number, offset };
            let mut step = BLOCK_BYTES;
            if let HeaderSeen::Valid(header) = GroupHeader::decode_at(&bytes, place)
                && headers.last().is_none_or(|last| last.number < header.number)
            {
                headers.push(header);
                step = u64::from(header.total_len);
            }
            offset = offset.saturating_add(step);
        }
        headers
    }

    /// A group's directory and batches, and whether all of it is good.
    fn content(&self, header: GroupHeader) -> Result<(ScannedGroup, bool), OpenError> {
        let len = usize::try_from(header.total_len).unwrap_or(usize::MAX);
        let bytes = self.image.at(self.at, len).unwrap_or_default();
        let (own, repeated) = match header.directories(&bytes) {
            Ok(directories) => directories,
            Err(RecordError::Newer { found }) => return Err(self.newer(found)),
            Err(RecordError::Malformed) => {
                return Ok((ScannedGroup { header, own: None, repeated: Vec::new(), batches: Vec::new() }, false));
            }
        };
        let mut sum = BatchesSum::default();
        let mut batches = Vec::new();
        let own_len = usize::try_from(header.own_len).unwrap_or(usize::MAX);
        let repeated_len = usize::try_from(header.repeated_len).unwrap_or(usize::MAX);
        let mut at = self.at.saturating_add(as_u64(front_len(own_len, repeated_len)));
        let entries = own.iter().filter_map(Record::batch);
        for entry in entries {
            let stored = self.image.at(at, usize::try_from(entry.len).unwrap_or(usize::MAX)).unwrap_or_default();
            sum.add(&stored);
            let here = u64::from(entry.offset) == at;
            let batch = match Batch::decode(stored) {
                Err(BatchError::Version { found }) => return Err(self.newer_batch(found)),
                decoded => decoded.ok(),
            };
            batches.push(batch.filter(|batch| here && is_entry(batch, entry)));
            at = at.saturating_add(u64::from(entry.len));
        }
        let whole = batches.iter().all(Option::is_some);
        let good = whole && sum.finish() == header.batches_sum;
        if whole && !good {
            // Good batches, but not those that were written here: none of them is what this group promised.
            batches.fill(None);
        }
        Ok((ScannedGroup { header, own: Some(own), repeated, batches }, good))
    }

    fn newer_batch(&self, found: u8) -> OpenError {
        OpenError::NewerFormat { file: segment_name(self.segment.number), found, known: BATCH_VERSION }
    }

    fn newer(&self, found: u8) -> OpenError {
        OpenError::NewerFormat { file: segment_name(self.segment.number), found, known: GROUP_VERSION }
    }
}

/// Whether a batch is the one that the directory names.
pub(crate) fn is_entry(batch: &Batch, entry: &BatchEntry) -> bool {
    batch.log() == entry.log && batch.first_lsn() == entry.first && batch.position() == entry.position()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::{BatchBuilder, BatchKind};
    use crate::format::block::{Block, Compression};
    use crate::format::group::{GroupFlags, GroupIdentity, encode_group};
    use crate::format::ids::{Epoch, LogId, LogPosition};
    use crate::format::segment::LogFilesEnd;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            directory: [1; 16],
            number: 1,
            first_group: 1,
            salt: 5,
            predecessor: LogFilesEnd::default(),
            incarnation: 1,
            segment_bytes: 65536,
            live: vec![(1, 1)],
            sources: Vec::new(),
        }
    }

    /// A segment of one group with one batch, whose header says `sum` of its batches.
    fn image(sum: Option<u64>) -> Image {
        let log = LogId::new(1);
        let block = Block::encode(Bytes::from_static(b"x"), 1, Compression::Never);
        let start = LogPosition::origin(log);
        let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), start, 0).block(block).seal().unwrap();
        let at = batch.position();
        let (first, last, len) = (batch.first_lsn(), batch.last_lsn(), 96 + 16 + 1);
        let entry = BatchEntry { log, first, last, epoch: at.epoch, offset: 4096 + 128 + 72, len, chain: at.chain };
        let identity = GroupIdentity {
            flags: GroupFlags::default(),
            place: Place { salt: 5, segment: 1, offset: 4096 },
            number: 1,
            incarnation: 1,
            durable_through: 0,
        };
        let own = [Record::Batch(entry)];
        let (mut header, slices) = encode_group(&identity, &own, &[], &[batch.bytes().clone()]);
        let mut group = slices.concat();
        header.batches_sum = sum.unwrap_or(header.batches_sum);
        group.splice(..GROUP_HEADER_BYTES, header.encode());
        let mut bytes = segment().encode();
        bytes.extend(group);
        Image { bytes: Bytes::from(bytes), unreadable: None, refused: None }
    }

    #[test]
    fn good_batches_that_are_not_the_ones_written_here_are_not_accepted() {
        let good = scan(&image(None), &segment(), Bound::default()).unwrap();
        assert_eq!((good.last_group, good.findings.len()), (1, 0));
        let other = scan(&image(Some(7)), &segment(), Bound::default()).unwrap();
        assert_eq!((other.last_group, other.findings.len()), (0, 1));
        assert_eq!(other.findings.first().map(|finding| finding.row), Some(GroupRow::G3));
    }
}

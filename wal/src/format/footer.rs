//! A sealed segment's footer: what the segment holds, so that opening reads footers, not data.
//!
//! It lies in whole blocks at the end of the file, in two parts: the summary, which an open reads, and the offsets, which
//! only who reads batches needs. The file's last 64 bytes are the trailer, which tells where they are.
//!
//! | at | field of the summary | type |
//! |---|---|---|
//! | 0 | magic `TWFT`, format version 2, zero 3 | 8 |
//! | 8 | last group of the segment | u64 |
//! | 16 | offset of the end of the segment's groups | u64 |
//! | 24 | number of logs | u32 |
//! | 28 | bytes of records | u32 |
//! | 32 | copy of the segment's header | 4096 |
//! | 4128 | records that outlive the segment's batches, as in a directory | |
//! | … | the logs | |
//!
//! Records are applied before the batches, but those of what was put again (*mended*), which come last and are applied behind
//! them: a truncation stays only if it reaches below the first batch that the
//! segment still has of its log. Each log: log id 16, first LSN 8, last LSN 8, chain before the first batch 8, chain
//! at the end 8, epoch before the first batch (8, 4), number of epochs 4, number of batches 4, bytes of batches 4; then
//! the epochs (version 8, term 4, zero 4, first LSN 8).
//!
//! The offsets follow the summary: for each log, in the same order, its batches (first LSN 8, last LSN 8, chain 8,
//! offset 4, length 4).
//!
//! Trailer: magic `TWFE` 4, format version 2, zero 3, directory uuid 16, segment number 8, footer's offset 8, length of
//! the summary 4 and its CRC-32 4, length of the offsets 4 and their CRC-32 4, zero 4, CRC-32 of the 60 bytes before 4.
//!
//! Version 1 had one part. It is not read any more: a footer that can't be read is rebuilt by a scan.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;

use super::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use super::layout::{Fields, PutFields, Short, len_u32, round_up};
use super::record::{BATCH_RECORD_BYTES, BatchEntry, HardStateKind, Record, decode_records};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::limits::{BLOCK_BYTES, FOOTER_BYTES_MAX, NUMBERS_MAX};

const MAGIC: [u8; 4] = *b"TWFT";
const TRAILER_MAGIC: [u8; 4] = *b"TWFE";
/// The version of the footer format that this code writes.
pub(crate) const FOOTER_VERSION: u8 = 2;
/// Bytes at the file's end that tell where the footer is.
pub(crate) const TRAILER_BYTES: usize = 64;
const FRONT_BYTES: usize = 32 + SEGMENT_HEADER_BYTES;
const LOG_BYTES: usize = 72;
const EPOCH_BYTES: usize = 24;
const OFFSET_BYTES: usize = 32;
/// The most that one batch adds to a footer.
pub(crate) const FOOTER_BYTES_PER_BATCH: usize = LOG_BYTES + EPOCH_BYTES + OFFSET_BYTES;

/// One log's part of a footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FooterLog {
    /// What the first batch follows. Its LSN is the one before the first batch.
    pub(crate) before: LogPosition,
    /// The batches, oldest first.
    pub(crate) batches: Vec<BatchEntry>,
}

/// What a segment holds; gathered while it fills.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Footer {
    pub(crate) last_group: u64,
    pub(crate) end: u64,
    /// By the order in which they were written.
    records: BTreeMap<u64, Record>,
    /// Which of them are of a log and a sort.
    places: BTreeMap<(LogId, Sort), Vec<u64>>,
    next_record: u64,
    /// Batches that were put again, by their first LSN.
    mends: BTreeMap<(LogId, Lsn), BatchEntry>,
    pub(crate) logs: BTreeMap<LogId, FooterLog>,
    /// At least the bytes of the body without the fixed front.
    growth: usize,
}

/// Records of a log that are superseded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    /// Cuts, and their ends.
    Cut,
    /// A hard state, and that it is in doubt.
    HardState(HardStateKind),
    Other,
}

impl Sort {
    const ALL: [Self; 6] = [
        Self::Cut,
        Self::HardState(HardStateKind::Promise),
        Self::HardState(HardStateKind::Assignment),
        Self::HardState(HardStateKind::Snapshot),
        Self::HardState(HardStateKind::Owner),
        Self::Other,
    ];

    const fn of(record: &Record) -> Self {
        match record {
            Record::Cut { .. } | Record::Settled { .. } => Self::Cut,
            Record::HardState { kind, .. } | Record::Mention { kind, .. } => Self::HardState(*kind),
            _ => Self::Other,
        }
    }
}

impl Footer {
    /// Takes a batch that was written to the segment, behind `before`.
    pub(crate) fn batch(&mut self, entry: BatchEntry, before: LogPosition) {
        self.growth = self.growth.saturating_add(FOOTER_BYTES_PER_BATCH);
        let log = self.logs.entry(entry.log).or_insert_with(|| FooterLog { before, batches: Vec::new() });
        log.batches.push(entry);
    }

    /// Takes a record that was written to the segment.
    pub(crate) fn record(&mut self, record: &Record) {
        match record {
            Record::Batch(_) | Record::Closing { .. } => return,
            Record::Mended(entry) => return self.mend(entry),
            Record::Truncate { log, to } => {
                self.give_up_mends(*log, |entry| entry.last > to.lsn);
                if let Some(state) = self.logs.get_mut(log) {
                    while state.batches.pop_if(|entry| entry.last > to.lsn).is_some() {}
                    if !state.batches.is_empty() {
                        return;
                    }
                    self.logs.remove(log);
                }
            }
            Record::Remove { log } => {
                self.give_up_mends(*log, |_| true);
                self.logs.remove(log);
                self.supersede(*log, |_| true);
            }
            Record::Reset { log, .. } => {
                self.give_up_mends(*log, |_| true);
                self.logs.remove(log);
                // What stays true of the log, or ends what older segments say of it, stays.
                self.supersede(*log, |sort| sort == Sort::Other);
            }
            Record::HardState { log, kind, .. } => {
                self.supersede(*log, |sort| sort == Sort::HardState(*kind));
            }
            Record::Settled { log } => {
                self.supersede(*log, |sort| sort == Sort::Cut);
            }
            Record::Anchor { log, at } => {
                self.give_up_mends(*log, |entry| entry.last <= at.lsn);
                self.anchor(*log, at);
            }
            Record::Cut { .. } | Record::Mention { .. } | Record::Retirement { .. } | Record::Gone { .. } => {}
        }
        self.growth = self.growth.saturating_add(record.encoded_len());
        if let Some(log) = record.log() {
            self.places.entry((log, Sort::of(record))).or_default().push(self.next_record);
        }
        self.records.insert(self.next_record, record.clone());
        self.next_record = self.next_record.saturating_add(1);
    }

    /// What outlives the batches, in the order in which it was written.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    fn mend(&mut self, entry: &BatchEntry) {
        self.give_up_mends(entry.log, |other| other.first <= entry.last && other.last >= entry.first);
        self.growth = self.growth.saturating_add(BATCH_RECORD_BYTES);
        self.mends.insert((entry.log, entry.first), *entry);
    }

    fn give_up_mends(&mut self, log: LogId, which: impl Fn(&BatchEntry) -> bool) {
        if self.mends.is_empty() {
            return;
        }
        let before = self.mends.len();
        self.mends.retain(|(of, _), entry| *of != log || !which(entry));
        let gone = before.saturating_sub(self.mends.len());
        self.growth = self.growth.saturating_sub(gone.saturating_mul(BATCH_RECORD_BYTES));
    }

    /// Takes the log's records of some sorts out. Each was put in once: however many records there are, no other is looked at.
    fn supersede(&mut self, log: LogId, which: impl Fn(Sort) -> bool) {
        for sort in Sort::ALL.into_iter().filter(|sort| which(*sort)) {
            for place in self.places.remove(&(log, sort)).unwrap_or_default() {
                let record = self.records.remove(&place);
                self.growth = self.growth.saturating_sub(record.map_or(0, |record| record.encoded_len()));
            }
        }
    }

    /// Records are applied before batches: those that the anchor releases must not be there.
    fn anchor(&mut self, log: LogId, at: &LogPosition) {
        let Some(state) = self.logs.get_mut(&log) else { return };
        let gone = state.batches.partition_point(|entry| entry.last <= at.lsn);
        if gone > 0 {
            state.batches.drain(..gone);
            state.before = *at;
        }
        if state.batches.is_empty() {
            self.logs.remove(&log);
        }
    }

    /// Bytes of its records and batches, at most.
    pub(crate) const fn growth(&self) -> usize {
        self.growth
    }

    /// Bytes on disk that a footer with `more` bytes of growth needs at most.
    pub(crate) fn room_with(&self, more: usize) -> u64 {
        let body = FRONT_BYTES.saturating_add(self.growth).saturating_add(more).saturating_add(TRAILER_BYTES);
        round_up(u64::from(len_u32(body)), BLOCK_BYTES)
    }

    fn summary(&self, header: &SegmentHeader) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRONT_BYTES.saturating_add(self.growth));
        let mut records = Vec::new();
        for record in self.records() {
            record.encode(&mut records);
        }
        for entry in self.mends.values() {
            Record::Mended(*entry).encode(&mut records);
        }
        out.put_bytes(&MAGIC);
        out.put_u8(FOOTER_VERSION);
        out.put_zeroes(3);
        out.put_u64(self.last_group);
        out.put_u64(self.end);
        out.put_u32(len_u32(self.logs.len()));
        out.put_u32(len_u32(records.len()));
        out.put_bytes(&header.encode());
        out.put_bytes(&records);
        for (log, state) in &self.logs {
            put_log(&mut out, *log, state);
        }
        out
    }

    fn offsets(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in self.logs.values().flat_map(|log| &log.batches) {
            out.put_u64(entry.first.get());
            out.put_u64(entry.last.get());
            out.put_u64(entry.chain.get());
            out.put_u32(entry.offset);
            out.put_u32(entry.len);
        }
        out
    }

    /// The footer for the end of a segment's file: where it starts, and its bytes.
    pub(crate) fn encode(&self, header: &SegmentHeader) -> (u64, Vec<u8>) {
        self.encode_before(header, header.segment_bytes)
    }

    /// The footer for the end of a file of `file_bytes`, or of a longer one if it does not fit behind the groups.
    pub(crate) fn encode_before(&self, header: &SegmentHeader, file_bytes: u64) -> (u64, Vec<u8>) {
        let mut bytes = self.summary(header);
        let (summary_len, summary_crc) = (len_u32(bytes.len()), crc32fast::hash(&bytes));
        let offsets = self.offsets();
        let (offsets_len, offsets_crc) = (len_u32(offsets.len()), crc32fast::hash(&offsets));
        bytes.put_bytes(&offsets);
        let len = u64::from(len_u32(bytes.len()));
        let room = round_up(len.saturating_add(u64::from(len_u32(TRAILER_BYTES))), BLOCK_BYTES);
        let offset = file_bytes.max(self.end.saturating_add(room)).saturating_sub(room);
        let fill = usize::try_from(room).unwrap_or(0).saturating_sub(TRAILER_BYTES).saturating_sub(bytes.len());
        bytes.put_zeroes(fill);
        let (directory, segment) = (header.directory, header.number);
        let trailer = Trailer { directory, segment, offset, summary_len, summary_crc, offsets_len, offsets_crc };
        bytes.put_bytes(&trailer.encode());
        (offset, bytes)
    }
}

/// One log's part of a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SummaryLog {
    pub(crate) log: LogId,
    /// What the first batch follows. Its LSN is the one before the first batch.
    pub(crate) before: LogPosition,
    pub(crate) end: LogPosition,
    /// The epochs of the batches, each with the first LSN that it has in the segment.
    pub(crate) epochs: Vec<(Epoch, Lsn)>,
    pub(crate) batches: u32,
    /// Bytes of the batches.
    pub(crate) bytes: u32,
}

/// What a sealed segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) header: SegmentHeader,
    pub(crate) last_group: u64,
    pub(crate) end: u64,
    pub(crate) records: Vec<Record>,
    pub(crate) logs: Vec<SummaryLog>,
}

impl Summary {
    /// Reads a summary, whose checksum the trailer gave.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Self::fields(bytes).ok().flatten()
    }

    fn fields(bytes: &[u8]) -> Result<Option<Self>, Short> {
        let mut f = Fields::new(bytes);
        let (magic, version, zero) = (f.array::<4>()?, f.u8()?, f.zeroes(3)?);
        let (last_group, end, log_count, record_len) = (f.u64()?, f.u64()?, f.u32()?, f.u32()?);
        let header = SegmentHeader::decode(f.bytes(SEGMENT_HEADER_BYTES)?);
        let records = decode_records(f.bytes(usize::try_from(record_len).map_err(|_| Short)?)?);
        let (Ok(header), Ok(records)) = (header, records) else {
            return Ok(None);
        };
        if magic != MAGIC || version != FOOTER_VERSION || !zero || last_group > NUMBERS_MAX {
            return Ok(None);
        }
        let mut logs = Vec::new();
        for _ in 0..log_count {
            let Some(log) = log_fields(&mut f)? else {
                return Ok(None);
            };
            logs.push(log);
        }
        Ok(f.is_empty().then_some(Self { header, last_group, end, records, logs }))
    }

    /// Reads the offsets, whose checksum the trailer gave: each log's batches, in the order of the summary.
    pub(crate) fn offsets(&self, bytes: &[u8]) -> Option<Vec<Vec<BatchEntry>>> {
        let mut f = Fields::new(bytes);
        let mut logs = Vec::with_capacity(self.logs.len());
        for log in &self.logs {
            let mut batches = Vec::new();
            for _ in 0..log.batches {
                batches.push(log.entry(&mut f).ok().flatten()?);
            }
            let agrees = batches.first().is_some_and(|b: &BatchEntry| b.first == log.before.lsn.next())
                && batches.last().is_some_and(|b| b.position() == log.end)
                && batches.is_sorted_by(|a, b| a.last < b.first);
            if !agrees {
                return None;
            }
            logs.push(batches);
        }
        f.is_empty().then_some(logs)
    }
}

impl SummaryLog {
    fn entry(&self, f: &mut Fields<'_>) -> Result<Option<BatchEntry>, Short> {
        let (first, last, chain) = (Lsn::new(f.u64()?), Lsn::new(f.u64()?), Chain::new(f.u64()?));
        let (offset, len) = (f.u32()?, f.u32()?);
        let after = self.epochs.partition_point(|(_, start)| *start <= first);
        let epoch = after.checked_sub(1).and_then(|i| self.epochs.get(i)).map(|(epoch, _)| *epoch);
        Ok(epoch.map(|epoch| BatchEntry { log: self.log, first, last, epoch, offset, len, chain }))
    }
}

fn put_log(out: &mut Vec<u8>, log: LogId, state: &FooterLog) {
    let mut epochs: Vec<(Epoch, Lsn)> = Vec::new();
    for entry in &state.batches {
        if epochs.last().is_none_or(|(epoch, _)| *epoch != entry.epoch) {
            epochs.push((entry.epoch, entry.first));
        }
    }
    let last = state.batches.last().map_or(state.before, BatchEntry::position);
    out.put_u128(log.as_u128());
    out.put_u64(state.batches.first().map_or(Lsn::ZERO, |entry| entry.first).get());
    out.put_u64(last.lsn.get());
    out.put_u64(state.before.chain.get());
    out.put_u64(last.chain.get());
    out.put_u64(state.before.epoch.version);
    out.put_u32(state.before.epoch.term);
    out.put_u32(len_u32(epochs.len()));
    out.put_u32(len_u32(state.batches.len()));
    out.put_u32(state.batches.iter().fold(0, |sum, entry| sum.saturating_add(entry.len)));
    for (epoch, first) in epochs {
        out.put_u64(epoch.version);
        out.put_u32(epoch.term);
        out.put_u32(0);
        out.put_u64(first.get());
    }
}

fn log_fields(f: &mut Fields<'_>) -> Result<Option<SummaryLog>, Short> {
    let log = LogId::new(f.u128()?);
    let (first, last) = (Lsn::new(f.u64()?), Lsn::new(f.u64()?));
    let (before_chain, last_chain) = (Chain::new(f.u64()?), Chain::new(f.u64()?));
    let epoch = Epoch { version: f.u64()?, term: f.u32()? };
    let (epoch_count, batches, bytes) = (f.u32()?, f.u32()?, f.u32()?);
    let mut epochs = Vec::new();
    for _ in 0..epoch_count {
        let epoch = Epoch { version: f.u64()?, term: f.u32()? };
        if f.u32()? != 0 {
            return Ok(None);
        }
        epochs.push((epoch, Lsn::new(f.u64()?)));
    }
    let before = LogPosition { epoch, lsn: first.prev(), chain: before_chain };
    let starts = epochs.first().is_some_and(|(_, start)| *start == first);
    let rises = epochs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
    let agrees = starts && rises && batches > 0 && first > Lsn::ZERO && first <= last;
    let Some((epoch, _)) = epochs.last().copied().filter(|(_, start)| agrees && *start <= last) else {
        return Ok(None);
    };
    let end = LogPosition { epoch, lsn: last, chain: last_chain };
    Ok(Some(SummaryLog { log, before, end, epochs, batches, bytes }))
}

/// The file's last 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) directory: [u8; 16],
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) summary_len: u32,
    pub(crate) summary_crc: u32,
    pub(crate) offsets_len: u32,
    pub(crate) offsets_crc: u32,
}

impl Trailer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.put_bytes(&TRAILER_MAGIC);
        out.put_u8(FOOTER_VERSION);
        out.put_zeroes(3);
        out.put_bytes(&self.directory);
        out.put_u64(self.segment);
        out.put_u64(self.offset);
        for field in [self.summary_len, self.summary_crc, self.offsets_len, self.offsets_crc] {
            out.put_u32(field);
        }
        out.put_zeroes(4);
        let crc = crc32fast::hash(&out);
        out.put_u32(crc);
        out
    }

    /// `None`: no good trailer; the footer is then rebuilt by a scan, whatever the reason.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; TRAILER_BYTES] = bytes.try_into().ok()?;
        let (body, crc) = bytes.split_at(TRAILER_BYTES.saturating_sub(4));
        let mut f = Fields::new(body);
        let good = f.array::<4>().ok()? == TRAILER_MAGIC
            && f.u8().ok()? == FOOTER_VERSION
            && f.zeroes(3).ok()?
            && Fields::new(crc).u32().ok()? == crc32fast::hash(body);
        let trailer = Self {
            directory: f.array().ok()?,
            segment: f.u64().ok()?,
            offset: f.u64().ok()?,
            summary_len: f.u32().ok()?,
            summary_crc: f.u32().ok()?,
            offsets_len: f.u32().ok()?,
            offsets_crc: f.u32().ok()?,
        };
        let len = u64::from(trailer.summary_len).saturating_add(u64::from(trailer.offsets_len));
        let bounded = usize::try_from(len).is_ok_and(|len| len <= FOOTER_BYTES_MAX);
        (good && bounded && f.zeroes(4).ok()?).then_some(trailer)
    }

    /// Batches that the footer names.
    pub(crate) fn batches(&self) -> u64 {
        u64::from(self.offsets_len).div_euclid(u64::from(len_u32(OFFSET_BYTES)))
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may index what it made")]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// What is left of the records, found by looking at all of them each time.
    fn superseded(records: &mut Vec<Record>, by: &Record) {
        let of = by.log();
        records.retain(|r| match by {
            Record::Remove { .. } => r.log() != of,
            Record::Reset { .. } => {
                r.log() != of || matches!(r, Record::HardState { .. } | Record::Cut { .. } | Record::Settled { .. })
            }
            Record::HardState { kind, .. } => {
                !matches!(r, Record::HardState { kind: other, .. } if other == kind) || r.log() != of
            }
            Record::Settled { .. } => !matches!(r, Record::Cut { .. } | Record::Settled { .. }) || r.log() != of,
            _ => true,
        });
    }

    #[test]
    fn records_stay_in_their_order_until_they_are_superseded_and_their_room_is_given_back() {
        let mut state = 11_u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((state >> 33) % n).unwrap()
        };
        for _ in 0..100 {
            let (mut footer, mut plain) = (Footer::default(), Vec::new());
            for n in 0..120 {
                let log = LogId::new(u128::from(below(4) < 2) + 1);
                let at = LogPosition { lsn: Lsn::new(n), ..LogPosition::origin(log) };
                let (kind, bytes) = (HardStateKind::ALL[below(4)], Bytes::from(vec![7; below(9)]));
                let record = match below(12) {
                    0 => Record::Remove { log },
                    1 => Record::Reset { log, to: at },
                    2 | 3 => Record::Cut { log, from: at.lsn },
                    4 => Record::Settled { log },
                    5 => Record::Anchor { log, at },
                    6 => Record::Truncate { log, to: at },
                    7 => Record::Retirement { segment: n },
                    _ => Record::HardState { log, kind, bytes },
                };
                footer.record(&record);
                superseded(&mut plain, &record);
                plain.push(record);
                assert!(footer.records().eq(&plain));
                assert_eq!(footer.growth, plain.iter().map(Record::encoded_len).sum::<usize>());
                let places = footer.places.values().map(Vec::len).sum::<usize>();
                assert_eq!(places, plain.iter().filter(|record| record.log().is_some()).count(), "none is left behind");
            }
        }
    }
}

//! A segment's header: the first 4 KiB of the file, alone in its block.
//!
//! | at | field | type | why |
//! |---|---|---|---|
//! | 0 | magic `TWSG` | 4 | |
//! | 4 | format version, 2 | u8 | |
//! | 5 | zero | 3 | |
//! | 8 | directory uuid | 16 | a segment of another directory is refused |
//! | 24 | segment number | u64 | a file under another's name is seen |
//! | 32 | number of the first group | u64 | |
//! | 40 | salt, new at each activation | u64 | see the group's header |
//! | 48 | predecessor: segment number | u64 | where the log ended when this segment was activated: all of it had been durable, nothing behind it counts |
//! | 56 | predecessor: its last group | u64 | |
//! | 64 | predecessor: offset of its end | u64 | |
//! | 72 | incarnation of the writer | u64 | |
//! | 80 | bytes of the segment | u64 | |
//! | 88 | number of live ranges | u32 | |
//! | 92 | number of sources | u32 | |
//! | 96 | live ranges: of each the numbers left out before it, and one less than it has | LEB128 | a missing segment is missed |
//! | … | sources, if compacted: of each segment replaced the numbers left out before it | LEB128 | |
//! | 4092 | CRC-32 of all bytes before, frozen for all versions | u32 | a newer format is told from rot |
//!
//! Ranges and sources rise, ranges with a number between them, and each number has its shortest code: there is one way to
//! say a list. Numbers start at 1. Version 1, which is read for ever, has first and last of each range and each source as
//! 8 bytes.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::layout::{Fields, PutFields, Short, is_zero, len_u32};
use crate::limits::{COMPACTION_SOURCES_MAX, LIVE_BYTES_KEPT_MAX, NUMBERS_MAX, SOURCES_MAX};

const MAGIC: [u8; 4] = *b"TWSG";
/// The version of the segment format that this code writes.
pub(crate) const SEGMENT_VERSION: u8 = 2;
/// The version before, with numbers as they are.
const PLAIN_VERSION: u8 = 1;
/// Live ranges that version 1 has at most.
const PLAIN_RANGES_MAX: u32 = 192;
/// Bytes of the header: one block.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 4096;
/// Bytes for live ranges and sources.
const LISTS_BYTES: usize = SEGMENT_HEADER_BYTES - 96 - 4;
/// Bytes that a number takes at most.
const NUMBER_BYTES_MAX: usize = 9;

const _: () = assert!(NUMBERS_MAX < 1 << (7 * NUMBER_BYTES_MAX));
const _: () = assert!(
    LIVE_BYTES_KEPT_MAX + 6 * 2 * NUMBER_BYTES_MAX + 2 * COMPACTION_SOURCES_MAX * NUMBER_BYTES_MAX <= LISTS_BYTES,
    "what is kept, with holes that are made at once, has its room beside the sources of a compacted segment"
);

/// Where the log ended when a segment was activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogFilesEnd {
    pub(crate) segment: u64,
    pub(crate) group: u64,
    pub(crate) offset: u64,
}

/// A segment's header, as fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) directory: [u8; 16],
    pub(crate) number: u64,
    pub(crate) first_group: u64,
    pub(crate) salt: u64,
    pub(crate) predecessor: LogFilesEnd,
    pub(crate) incarnation: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) live: Vec<(u64, u64)>,
    pub(crate) sources: Vec<u64>,
}

/// Why a block is not a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentHeaderFault {
    Blank,
    Bad,
    Newer(u8),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.sources.len() <= SOURCES_MAX, "bounded by limits.rs");
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.put_bytes(&MAGIC);
        out.put_u8(SEGMENT_VERSION);
        out.put_zeroes(3);
        out.put_bytes(&self.directory);
        let end = &self.predecessor;
        for field in [self.number, self.first_group, self.salt, end.segment, end.group, end.offset] {
            out.put_u64(field);
        }
        out.put_u64(self.incarnation);
        out.put_u64(self.segment_bytes);
        out.put_u32(len_u32(self.live.len()));
        out.put_u32(len_u32(self.sources.len()));
        let mut before = 0;
        for (first, last) in &self.live {
            put_number(&mut out, skipped(before, *first));
            put_number(&mut out, last.saturating_sub(*first));
            before = *last;
        }
        before = 0;
        for source in &self.sources {
            put_number(&mut out, skipped(before, *source));
            before = *source;
        }
        assert!(out.len() <= SEGMENT_HEADER_BYTES.saturating_sub(4), "no hole is made for which there is no room");
        out.put_zeroes(SEGMENT_HEADER_BYTES.saturating_sub(4).saturating_sub(out.len()));
        let crc = crc32fast::hash(&out);
        out.put_u32(crc);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SegmentHeaderFault> {
        let block = bytes.first_chunk::<SEGMENT_HEADER_BYTES>().ok_or(SegmentHeaderFault::Bad)?;
        if is_zero(block) {
            return Err(SegmentHeaderFault::Blank);
        }
        let (body, crc) = block.split_at(SEGMENT_HEADER_BYTES.saturating_sub(4));
        if !body.starts_with(&MAGIC) || Fields::new(crc).u32() != Ok(crc32fast::hash(body)) {
            return Err(SegmentHeaderFault::Bad);
        }
        match body.get(4) {
            Some(&(PLAIN_VERSION | SEGMENT_VERSION)) => {
                Self::fields(body).ok().flatten().ok_or(SegmentHeaderFault::Bad)
            }
            version => Err(SegmentHeaderFault::Newer(version.copied().unwrap_or(0))),
        }
    }

    fn fields(body: &[u8]) -> Result<Option<Self>, Short> {
        let mut f = Fields::new(body);
        f.bytes(4)?;
        let plain = f.u8()? == PLAIN_VERSION;
        let zero = f.zeroes(3)?;
        let directory = f.array()?;
        let (number, first_group, salt) = (f.u64()?, f.u64()?, f.u64()?);
        let predecessor = LogFilesEnd { segment: f.u64()?, group: f.u64()?, offset: f.u64()? };
        let (incarnation, segment_bytes) = (f.u64()?, f.u64()?);
        let (live_count, source_count) = (f.u32()?, f.u32()?);
        let sources_fit = usize::try_from(source_count).is_ok_and(|count| count <= SOURCES_MAX);
        // Of coded ranges there are no more than there are bytes: the first one that is not there ends the loop.
        if !zero || !sources_fit || (plain && live_count > PLAIN_RANGES_MAX) {
            return Ok(None);
        }
        let lists = if plain {
            plain_lists(&mut f, live_count, source_count)?
        } else {
            coded_lists(&mut f, live_count, source_count)?
        };
        let Some((live, sources)) = lists else { return Ok(None) };
        let numbers = [number, first_group, predecessor.segment, predecessor.group, incarnation];
        if !f.zeroes(f.remaining())? || numbers.iter().any(|n| *n > NUMBERS_MAX) || first_group == 0 {
            return Ok(None);
        }
        Ok(Some(Self { directory, number, first_group, salt, predecessor, incarnation, segment_bytes, live, sources }))
    }
}

/// Live ranges and sources.
type Lists = (Vec<(u64, u64)>, Vec<u64>);

/// `None`: they are not in their order, or no numbers of segments.
fn plain_lists(f: &mut Fields<'_>, live_count: u32, source_count: u32) -> Result<Option<Lists>, Short> {
    let (mut live, mut sources) = (Vec::new(), Vec::new());
    for _ in 0..live_count {
        live.push((f.u64()?, f.u64()?));
    }
    for _ in 0..source_count {
        sources.push(f.u64()?);
    }
    let within = |first: u64, last: u64| 0 < first && first <= last && last <= NUMBERS_MAX;
    let good = live.iter().all(|(first, last)| within(*first, *last))
        && live.is_sorted_by(|a, b| a.1.saturating_add(1) < b.0)
        && sources.iter().all(|source| within(*source, *source))
        && sources.is_sorted_by(|a, b| a < b);
    Ok(good.then_some((live, sources)))
}

/// As [`plain_lists`], of version 2.
fn coded_lists(f: &mut Fields<'_>, live_count: u32, source_count: u32) -> Result<Option<Lists>, Short> {
    let (mut live, mut sources) = (Vec::new(), Vec::new());
    let mut before = 0;
    for _ in 0..live_count {
        let (Some(skipped), Some(more)) = (number(f)?, number(f)?) else { return Ok(None) };
        let first = behind(before, skipped);
        let last = first.saturating_add(more);
        if last > NUMBERS_MAX || (before > 0 && skipped == 0) {
            return Ok(None);
        }
        live.push((first, last));
        before = last;
    }
    before = 0;
    for _ in 0..source_count {
        let Some(skipped) = number(f)? else { return Ok(None) };
        before = behind(before, skipped);
        if before > NUMBERS_MAX {
            return Ok(None);
        }
        sources.push(before);
    }
    Ok(Some((live, sources)))
}

/// The numbers between two that rise.
fn skipped(before: u64, next: u64) -> u64 {
    debug_assert!(before < next, "numbers rise");
    next.saturating_sub(before).saturating_sub(1)
}

const fn behind(before: u64, skipped: u64) -> u64 {
    before.saturating_add(skipped).saturating_add(1)
}

/// Bytes that a header takes to name a range of live segments, behind one that ends with `before` (0: it is the first).
pub(crate) fn range_bytes(before: u64, first: u64, last: u64) -> usize {
    number_bytes(skipped(before, first)).saturating_add(number_bytes(last.saturating_sub(first)))
}

fn number_bytes(number: u64) -> usize {
    let bits = u64::BITS.saturating_sub(number.leading_zeros()).max(1);
    usize::try_from(bits.div_ceil(7)).unwrap_or(NUMBER_BYTES_MAX)
}

/// LEB128: seven bits a byte, the lowest first; the highest bit says that there is more.
fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest > 0x7f {
        out.put_u8(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
        rest >>= 7;
    }
    out.put_u8(u8::try_from(rest).unwrap_or(0));
}

/// `None`: it is longer than it need be, or above all numbers.
fn number(f: &mut Fields<'_>) -> Result<Option<u64>, Short> {
    let mut number = 0_u64;
    for i in 0..NUMBER_BYTES_MAX {
        let byte = f.u8()?;
        number |= u64::from(byte & 0x7f) << i.saturating_mul(7);
        if byte & 0x80 == 0 {
            let shortest = byte > 0 || i == 0;
            return Ok((shortest && number <= NUMBERS_MAX).then_some(number));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may index what it made")]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            directory: [1; 16],
            number: 9,
            first_group: 4,
            salt: 5,
            predecessor: LogFilesEnd::default(),
            incarnation: 1,
            segment_bytes: 1 << 16,
            live: vec![(1, 3), (7, 9)],
            sources: Vec::new(),
        }
    }

    /// The header as bytes with other lists, and a good checksum.
    fn forged(version: u8, counts: [u32; 2], lists: &[u8]) -> Vec<u8> {
        let mut bytes = header().encode();
        bytes.truncate(SEGMENT_HEADER_BYTES - 4);
        bytes[4] = version;
        bytes[88..92].copy_from_slice(&counts[0].to_le_bytes());
        bytes[92..96].copy_from_slice(&counts[1].to_le_bytes());
        bytes[96..].fill(0);
        bytes[96..96 + lists.len()].copy_from_slice(lists);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        bytes
    }

    fn plain(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn a_list_that_names_no_segments_is_bad() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
        let good = forged(1, [2, 1], &plain(&[1, 3, 7, 9, 4]));
        assert_eq!(SegmentHeader::decode(&good), Ok(SegmentHeader { sources: vec![4], ..header() }));
        let good = forged(2, [2, 2], &[0, 2, 3, 2, 4, 0]);
        assert_eq!(SegmentHeader::decode(&good), Ok(SegmentHeader { sources: vec![5, 6], ..header() }));
        let bad: &[(u8, [u32; 2], Vec<u8>)] = &[
            (1, [1, 0], plain(&[3, 2])),
            (1, [1, 0], plain(&[0, 2])),
            (1, [1, 0], plain(&[9, NUMBERS_MAX + 1])),
            (1, [1, 0], plain(&[u64::MAX, u64::MAX])),
            // Out of order, touching, twice.
            (1, [2, 0], plain(&[7, 9, 1, 3])),
            (1, [2, 0], plain(&[1, 3, 4, 9])),
            (1, [0, 2], plain(&[5, 5])),
            (1, [PLAIN_RANGES_MAX + 1, 0], Vec::new()),
            // Touching; longer than need be; too large; a sum that is too large; more than there are.
            (2, [2, 0], vec![0, 2, 0, 2]),
            (2, [1, 0], vec![0x80, 0, 2]),
            (2, [1, 0], vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0]),
            (2, [1, 0], vec![0xff; 10]),
            (2, [1, 0], [[0xff; 8].as_slice(), &[0x3f], &[0xff; 8], &[0x3f]].concat()),
            (2, [u32::MAX, 0], Vec::new()),
            (2, [0, u32::MAX], Vec::new()),
            (2, [1, 0], vec![0, 2, 1]),
        ];
        for (version, counts, lists) in bad {
            let seen = SegmentHeader::decode(&forged(*version, *counts, lists));
            assert_eq!(seen, Err(SegmentHeaderFault::Bad), "{version} {counts:?} {lists:?}");
        }
    }

    #[test]
    fn every_list_that_has_its_room_is_read_as_it_was_written() {
        let mut state = 23_u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut most = 0;
        for _ in 0..2000 {
            let (mut live, mut bytes, mut before) = (Vec::new(), 0, 0);
            let bits = [1, 6, 9, 30, 58][usize::try_from(below(5)).unwrap()];
            for _ in 0..below(2000) {
                let first =
                    before + u64::from(before > 0) + 1 + below(1 << bits.min(31)) * (1 << (bits - bits.min(31)));
                let last = first + below(1 << bits.min(9));
                bytes += range_bytes(before, first, last);
                if last > NUMBERS_MAX || bytes > LIVE_BYTES_KEPT_MAX {
                    break;
                }
                live.push((first, last));
                before = last;
            }
            let mut sources: Vec<u64> = (0..below(64)).map(|_| below(1 << 31) * (1 << (bits.max(2) / 2)) + 1).collect();
            sources.sort_unstable();
            sources.dedup();
            most = most.max(live.len());
            let header = SegmentHeader { live, sources, ..header() };
            let bytes = header.encode();
            assert_eq!(bytes.len(), SEGMENT_HEADER_BYTES);
            assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        }
        assert!(most > 1500, "{most}");
    }

    #[test]
    fn what_version_1_could_say_has_its_room_in_version_2() {
        // As many numbers of nine bytes as there are below the bound, the others of eight.
        let (mut live, mut before) = (Vec::new(), 0);
        for i in 0..u64::from(PLAIN_RANGES_MAX) {
            let step = if i < 30 { 1 << 56 } else { 1 << 49 };
            live.push((before + step + 1, before + 2 * step + 1));
            before = live[live.len() - 1].1;
        }
        let sources = (1..=96).map(|n| n * ((1 << 55) + (1 << 53))).collect();
        let header = SegmentHeader { live, sources, ..header() };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

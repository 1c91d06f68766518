//! A segment's header: the first 4 KiB of the file, alone in its block.
//!
//! | at | field | type | why |
//! |---|---|---|---|
//! | 0 | magic `TWSG` | 4 | |
//! | 4 | format version, 1 | u8 | |
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
//! | 96 | live ranges: first and last segment number | 16 each | a missing segment is missed |
//! | … | sources, if compacted: segment numbers replaced | 8 each | |
//! | 4092 | CRC-32 of all bytes before, frozen for all versions | u32 | a newer format is told from rot |
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::layout::{Fields, PutFields, Short, is_zero, len_u32};
use crate::limits::{LIVE_RANGES_MAX, NUMBERS_MAX, SOURCES_MAX};

const MAGIC: [u8; 4] = *b"TWSG";
/// The version of the segment format that this code writes.
pub(crate) const SEGMENT_VERSION: u8 = 1;
/// Bytes of the header: one block.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 4096;

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
        assert!(self.live.len() <= LIVE_RANGES_MAX && self.sources.len() <= SOURCES_MAX, "bounded by limits.rs");
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
        for (first, last) in &self.live {
            out.put_u64(*first);
            out.put_u64(*last);
        }
        for source in &self.sources {
            out.put_u64(*source);
        }
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
            Some(&SEGMENT_VERSION) => Self::fields(body).ok().flatten().ok_or(SegmentHeaderFault::Bad),
            version => Err(SegmentHeaderFault::Newer(version.copied().unwrap_or(0))),
        }
    }

    fn fields(body: &[u8]) -> Result<Option<Self>, Short> {
        let mut f = Fields::new(body);
        f.bytes(5)?;
        let zero = f.zeroes(3)?;
        let directory = f.array()?;
        let (number, first_group, salt) = (f.u64()?, f.u64()?, f.u64()?);
        let predecessor = LogFilesEnd { segment: f.u64()?, group: f.u64()?, offset: f.u64()? };
        let (incarnation, segment_bytes) = (f.u64()?, f.u64()?);
        let (live_count, source_count) = (f.u32()?, f.u32()?);
        let within = |count: u32, max| usize::try_from(count).is_ok_and(|count| count <= max);
        if !zero || !within(live_count, LIVE_RANGES_MAX) || !within(source_count, SOURCES_MAX) {
            return Ok(None);
        }
        let mut live = Vec::new();
        for _ in 0..live_count {
            live.push((f.u64()?, f.u64()?));
        }
        if live.iter().any(|(first, last)| first > last || *last > NUMBERS_MAX) {
            return Ok(None);
        }
        let mut sources = Vec::new();
        for _ in 0..source_count {
            sources.push(f.u64()?);
        }
        let numbers = [number, first_group, predecessor.segment, predecessor.group, incarnation];
        if !f.zeroes(f.remaining())? || numbers.iter().any(|n| *n > NUMBERS_MAX) || first_group == 0 {
            return Ok(None);
        }
        Ok(Some(Self { directory, number, first_group, salt, predecessor, incarnation, segment_bytes, live, sources }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_what_is_live_that_names_no_segments_is_bad() {
        let header = SegmentHeader {
            directory: [1; 16],
            number: 9,
            first_group: 4,
            salt: 5,
            predecessor: LogFilesEnd::default(),
            incarnation: 1,
            segment_bytes: 1 << 16,
            live: vec![(1, 3), (7, 9)],
            sources: Vec::new(),
        };
        assert_eq!(SegmentHeader::decode(&header.encode()).as_ref(), Ok(&header));
        for range in [(3, 2), (9, NUMBERS_MAX + 1), (u64::MAX, u64::MAX)] {
            let bad = SegmentHeader { live: vec![range], ..header.clone() };
            assert_eq!(SegmentHeader::decode(&bad.encode()), Err(SegmentHeaderFault::Bad));
        }
    }
}

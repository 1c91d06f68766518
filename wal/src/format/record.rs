//! Records of a group's directory: what the group holds, and the log's own facts.
//!
//! Each starts with 8 bytes: kind u8, version u8, zero u16, body length u32; then the body.
//!
//! | kind | record | body (bytes) |
//! |---|---|---|
//! | 1 | batch | log 16, first LSN 8, last LSN 8, epoch.version 8, epoch.term 4, offset in the segment 4, length 4, zero 4, chain 8 |
//! | 2 | truncate | position (48) of the new end |
//! | 3 | remove | log 16 |
//! | 4 | anchor | position (48) of the last released batch |
//! | 5 | reset | position (48) at which the log now starts |
//! | 6 | hard state | log 16, kind 1, zero 3, length 4, bytes |
//! | 7 | cut | log 16, first LSN of the uncertain suffix 8 |
//! | 8 | retirement | segment 8 |
//! | 9 | closing | incarnation 8 |
//! | 10 | mention of a hard state: where a directory is repeated, that one was set; in a group's own, that the newest one may be lost | log 16, kind 1, zero 7 |
//! | 11 | settled: the log's cut is over | log 16 |
//! | 12 | gone: no segment from the first to the last is there any more | first segment 8, last segment 8 |
//! | 13 | mended: a batch of the group, put again where the log was damaged | as of a batch |
//!
//! A position is: log 16, LSN 8, epoch.version 8, epoch.term 4, zero 4, chain 8.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::fmt;

use bytes::Bytes;

use super::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use super::layout::{Fields, PutFields, Short, len_u32};
use crate::limits::HARD_STATE_BYTES_MAX;

/// Bytes before each record's body.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Bytes of a batch's record.
pub(crate) const BATCH_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 64;
const VERSION: u8 = 1;

/// Which of a log's hard states: facts that its owner must not forget. The bytes are opaque to the log.
///
/// ```
/// use towline_wal::{Entry, HardStateKind, Lsn};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// for vow in ["epoch 1", "epoch 2"] {
///     let entry = Entry::HardState { log, kind: HardStateKind::Promise, bytes: vow.into() };
///     wal.submit(vec![entry]).unwrap().wait().unwrap();
/// }
/// assert_eq!(wal.hard_state(log, HardStateKind::Promise).unwrap(), "epoch 2", "the newest of each kind stands");
/// assert_eq!(wal.hard_state(log, HardStateKind::Assignment), None);
/// assert_eq!(wal.end(log).lsn, Lsn::ZERO, "it takes no LSN");
/// # wal.close().unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HardStateKind {
    /// What a voter promised.
    Promise = 1,
    /// The newest assignment known.
    Assignment = 2,
    /// A snapshot's installation.
    Snapshot = 3,
    /// Whatever else the owner keeps.
    Owner = 4,
}

impl HardStateKind {
    pub(crate) const ALL: [Self; 4] = [Self::Promise, Self::Assignment, Self::Snapshot, Self::Owner];

    #[expect(clippy::as_conversions, reason = "the discriminant is the code on disk")]
    const fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// Where one batch lies, and which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchEntry {
    pub(crate) log: LogId,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) epoch: Epoch,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) chain: Chain,
}

impl BatchEntry {
    pub(crate) const fn position(&self) -> LogPosition {
        LogPosition { epoch: self.epoch, lsn: self.last, chain: self.chain }
    }
}

/// One record of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Batch(BatchEntry),
    Truncate { log: LogId, to: LogPosition },
    Remove { log: LogId },
    Anchor { log: LogId, at: LogPosition },
    Reset { log: LogId, to: LogPosition },
    HardState { log: LogId, kind: HardStateKind, bytes: Bytes },
    Cut { log: LogId, from: Lsn },
    Retirement { segment: u64 },
    Closing { incarnation: u64 },
    Mention { log: LogId, kind: HardStateKind },
    Settled { log: LogId },
    Gone { first: u64, last: u64 },
    Mended(BatchEntry),
}

/// Bytes that are no record of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// A kind or version of a later release: the bytes are good, and not for us.
    Newer { found: u8 },
    /// Not a record.
    Malformed,
}

impl From<Short> for RecordError {
    fn from(_: Short) -> Self {
        Self::Malformed
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(BatchEntry { log, first, last, .. }) => write!(f, "batch {first} to {last} of log {log}"),
            Self::Truncate { log, to } => write!(f, "log {log} truncated to {to}"),
            Self::Remove { log } => write!(f, "log {log} removed"),
            Self::Anchor { log, at } => write!(f, "log {log} released up to {at}"),
            Self::Reset { log, to } => write!(f, "log {log} reset to {to}"),
            Self::HardState { log, kind, bytes } => {
                write!(f, "log {log}: hard state {kind:?} of {} bytes", bytes.len())
            }
            Self::Cut { log, from } => write!(f, "log {log} may lack records from {from} on"),
            Self::Retirement { segment } => write!(f, "segment {segment} retired"),
            Self::Closing { incarnation } => write!(f, "closed in good order in life {incarnation}"),
            Self::Mention { log, kind } => write!(f, "log {log}: its hard state {kind:?} is in doubt"),
            Self::Settled { log } => write!(f, "log {log} is whole again"),
            Self::Gone { first, last } => write!(f, "segments {first} to {last} are gone"),
            Self::Mended(BatchEntry { log, first, last, .. }) => {
                write!(f, "batch {first} to {last} of log {log}, which was damaged, again")
            }
        }
    }
}

impl Record {
    const fn kind_code(&self) -> u8 {
        match self {
            Self::Batch(_) => 1,
            Self::Truncate { .. } => 2,
            Self::Remove { .. } => 3,
            Self::Anchor { .. } => 4,
            Self::Reset { .. } => 5,
            Self::HardState { .. } => 6,
            Self::Cut { .. } => 7,
            Self::Retirement { .. } => 8,
            Self::Closing { .. } => 9,
            Self::Mention { .. } => 10,
            Self::Settled { .. } => 11,
            Self::Gone { .. } => 12,
            Self::Mended(_) => 13,
        }
    }

    /// The log that the record is about, if it is about one.
    pub(crate) const fn log(&self) -> Option<LogId> {
        match self {
            Self::Batch(entry) | Self::Mended(entry) => Some(entry.log),
            Self::Truncate { log, .. }
            | Self::Remove { log }
            | Self::Anchor { log, .. }
            | Self::Reset { log, .. }
            | Self::HardState { log, .. }
            | Self::Cut { log, .. }
            | Self::Mention { log, .. }
            | Self::Settled { log } => Some(*log),
            Self::Retirement { .. } | Self::Closing { .. } | Self::Gone { .. } => None,
        }
    }

    /// The batch that it names, whose bytes the group holds.
    pub(crate) const fn batch(&self) -> Option<&BatchEntry> {
        match self {
            Self::Batch(entry) | Self::Mended(entry) => Some(entry),
            _ => None,
        }
    }

    /// Bytes of the record with its header.
    pub(crate) fn encoded_len(&self) -> usize {
        let body = match self {
            Self::Batch(_) | Self::Mended(_) => 64,
            Self::Truncate { .. } | Self::Anchor { .. } | Self::Reset { .. } => 48,
            Self::Remove { .. } | Self::Settled { .. } | Self::Gone { .. } => 16,
            Self::HardState { bytes, .. } => bytes.len().saturating_add(24),
            Self::Cut { .. } | Self::Mention { .. } => 24,
            Self::Retirement { .. } | Self::Closing { .. } => 8,
        };
        RECORD_HEADER_BYTES.saturating_add(body)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u8(self.kind_code());
        out.put_u8(VERSION);
        out.put_u16(0);
        out.put_u32(len_u32(self.encoded_len().saturating_sub(RECORD_HEADER_BYTES)));
        match self {
            Self::Batch(entry) | Self::Mended(entry) => {
                out.put_u128(entry.log.as_u128());
                out.put_u64(entry.first.get());
                out.put_u64(entry.last.get());
                out.put_u64(entry.epoch.version);
                out.put_u32(entry.epoch.term);
                out.put_u32(entry.offset);
                out.put_u32(entry.len);
                out.put_u32(0);
                out.put_u64(entry.chain.get());
            }
            Self::Truncate { log, to: at } | Self::Anchor { log, at } | Self::Reset { log, to: at } => {
                out.put_u128(log.as_u128());
                put_position(out, at);
            }
            Self::Remove { log } | Self::Settled { log } => out.put_u128(log.as_u128()),
            Self::HardState { log, kind, bytes } => {
                out.put_u128(log.as_u128());
                out.put_u8(kind.code());
                out.put_zeroes(3);
                out.put_u32(len_u32(bytes.len()));
                out.put_bytes(bytes);
            }
            Self::Cut { log, from } => {
                out.put_u128(log.as_u128());
                out.put_u64(from.get());
            }
            Self::Retirement { segment: n } | Self::Closing { incarnation: n } => out.put_u64(*n),
            Self::Mention { log, kind } => {
                out.put_u128(log.as_u128());
                out.put_u8(kind.code());
                out.put_zeroes(7);
            }
            Self::Gone { first, last } => {
                out.put_u64(*first);
                out.put_u64(*last);
            }
        }
        debug_assert_eq!(out.len(), start.saturating_add(self.encoded_len()));
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, RecordError> {
        let (kind, version, zero, len) = (fields.u8()?, fields.u8()?, fields.u16()?, fields.u32()?);
        let mut body = Fields::new(fields.bytes(usize::try_from(len).map_err(|_| Short)?)?);
        if version != VERSION || !(1..=13).contains(&kind) {
            return Err(RecordError::Newer { found: version.max(2) });
        }
        let record = Self::decode_body(kind, &mut body)?;
        if zero == 0 && body.is_empty() { Ok(record) } else { Err(RecordError::Malformed) }
    }

    fn decode_body(kind: u8, f: &mut Fields<'_>) -> Result<Self, RecordError> {
        if kind == 8 {
            return Ok(Self::Retirement { segment: f.u64()? });
        }
        if kind == 9 {
            return Ok(Self::Closing { incarnation: f.u64()? });
        }
        if kind == 12 {
            let (first, last) = (f.u64()?, f.u64()?);
            return if first <= last { Ok(Self::Gone { first, last }) } else { Err(RecordError::Malformed) };
        }
        let log = LogId::new(f.u128()?);
        Ok(match kind {
            1 => Self::Batch(batch_entry(log, f)?),
            2 => Self::Truncate { log, to: position(f)? },
            3 => Self::Remove { log },
            4 => Self::Anchor { log, at: position(f)? },
            5 => Self::Reset { log, to: position(f)? },
            6 => {
                let kind = HardStateKind::from_code(f.u8()?).ok_or(RecordError::Newer { found: 2 })?;
                let zero = f.zeroes(3)?;
                let len = usize::try_from(f.u32()?).map_err(|_| Short)?;
                if !zero || len > HARD_STATE_BYTES_MAX {
                    return Err(RecordError::Malformed);
                }
                Self::HardState { log, kind, bytes: Bytes::copy_from_slice(f.bytes(len)?) }
            }
            7 => Self::Cut { log, from: Lsn::new(f.u64()?) },
            11 => Self::Settled { log },
            13 => Self::Mended(batch_entry(log, f)?),
            _ => {
                let kind = HardStateKind::from_code(f.u8()?).ok_or(RecordError::Newer { found: 2 })?;
                if !f.zeroes(7)? {
                    return Err(RecordError::Malformed);
                }
                Self::Mention { log, kind }
            }
        })
    }
}

fn batch_entry(log: LogId, f: &mut Fields<'_>) -> Result<BatchEntry, RecordError> {
    let (first, last) = (Lsn::new(f.u64()?), Lsn::new(f.u64()?));
    let epoch = Epoch { version: f.u64()?, term: f.u32()? };
    let (offset, len, zero, chain) = (f.u32()?, f.u32()?, f.u32()?, Chain::new(f.u64()?));
    if zero != 0 || first == Lsn::ZERO || last < first {
        return Err(RecordError::Malformed);
    }
    Ok(BatchEntry { log, first, last, epoch, offset, len, chain })
}

fn put_position(out: &mut Vec<u8>, at: &LogPosition) {
    out.put_u64(at.lsn.get());
    out.put_u64(at.epoch.version);
    out.put_u32(at.epoch.term);
    out.put_u32(0);
    out.put_u64(at.chain.get());
}

fn position(f: &mut Fields<'_>) -> Result<LogPosition, RecordError> {
    let lsn = Lsn::new(f.u64()?);
    let epoch = Epoch { version: f.u64()?, term: f.u32()? };
    let (zero, chain) = (f.u32()?, Chain::new(f.u64()?));
    if zero == 0 { Ok(LogPosition { epoch, lsn, chain }) } else { Err(RecordError::Malformed) }
}

/// All records of a directory, which must be nothing else.
pub(crate) fn decode_records(bytes: &[u8]) -> Result<Vec<Record>, RecordError> {
    let mut fields = Fields::new(bytes);
    let mut records = Vec::new();
    while !fields.is_empty() {
        records.push(Record::decode(&mut fields)?);
    }
    Ok(records)
}

/// How the next group repeats this group's records: everything that changes a log in full, hard states by name.
pub(crate) fn repeat_records(own: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in own {
        match record {
            Record::HardState { log, kind, .. } => Record::Mention { log: *log, kind: *kind }.encode(&mut out),
            other => other.encode(&mut out),
        }
    }
    out
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may index bytes that it made")]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Record> {
        let log = LogId::new(3);
        let at = LogPosition { epoch: Epoch::new(2, 3), lsn: Lsn::new(9), chain: Chain::new(77) };
        let (first, last) = (Lsn::new(4), Lsn::new(9));
        vec![
            Record::Batch(BatchEntry { log, first, last, epoch: at.epoch, offset: 8192, len: 200, chain: at.chain }),
            Record::Truncate { log, to: at },
            Record::Remove { log },
            Record::Anchor { log, at },
            Record::Reset { log, to: at },
            Record::HardState { log, kind: HardStateKind::Promise, bytes: Bytes::from_static(b"vow") },
            Record::Cut { log, from: Lsn::new(10) },
            Record::Retirement { segment: 5 },
            Record::Closing { incarnation: 6 },
            Record::Mention { log, kind: HardStateKind::Owner },
            Record::Settled { log },
            Record::Gone { first: 6, last: 9 },
            Record::Mended(BatchEntry { log, first, last, epoch: at.epoch, offset: 8192, len: 200, chain: at.chain }),
        ]
    }

    #[test]
    fn every_record_reads_back_in_the_length_that_it_announces() {
        let mut bytes = Vec::new();
        for record in one_of_each() {
            let before = bytes.len();
            record.encode(&mut bytes);
            assert_eq!(bytes.len() - before, record.encoded_len(), "{record:?}");
        }
        assert_eq!(decode_records(&bytes).unwrap(), one_of_each());
    }

    #[test]
    fn an_unknown_kind_is_a_newer_format_and_a_cut_short_record_is_malformed() {
        let mut bytes = Vec::new();
        Record::Retirement { segment: 5 }.encode(&mut bytes);
        assert_eq!(decode_records(&bytes[..15]), Err(RecordError::Malformed));
        bytes[0] = 14;
        assert_eq!(decode_records(&bytes), Err(RecordError::Newer { found: 2 }));
    }
}

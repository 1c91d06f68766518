//! What is there, and where to read it.

use bytes::Bytes;

use super::index::LogState;
use super::{Cut, Life, LogCore, Slot, Stats};
use crate::error::ReadError;
use crate::format::batch::Batch;
use crate::format::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use crate::format::record::HardStateKind;
use crate::io::{Io, read_exact, segment_name};
use crate::limits::BATCH_BYTES_MAX;

/// Where one batch lies, and which it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// The segment's number.
    pub segment: u64,
    /// Byte in the segment.
    pub offset: u64,
    /// Bytes of the batch.
    pub len: u32,
    /// The log.
    pub log: LogId,
    /// First LSN of the batch.
    pub first: Lsn,
    /// Last LSN of the batch.
    pub last: Lsn,
    /// The chain at its end.
    pub chain: Chain,
}

impl Extent {
    pub(crate) fn of(log: LogId, slot: &Slot) -> Self {
        let Slot { segment, offset, len, first, last, chain, .. } = *slot;
        Self { segment, offset: u64::from(offset), len, log, first, last, chain }
    }

    /// Reads the batch and checks that it is the one: bytes, log, LSNs, chain.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if it is not, or if the medium can't read it, twice.
    pub fn read(&self, io: &mut dyn Io) -> Result<Batch, ReadError> {
        // One more attempt: what flips on the way is not damage.
        let sound = self.bytes_len() <= BATCH_BYTES_MAX;
        for _ in 0..if sound { 2 } else { 0 } {
            let bytes = read_exact(io, &segment_name(self.segment), self.offset, self.bytes_len());
            if let Some(batch) = bytes.ok().and_then(|bytes| self.verify(Bytes::from(bytes))) {
                return Ok(batch);
            }
        }
        Err(self.corrupt())
    }

    /// The batch, if these bytes are it.
    pub(crate) fn verify(&self, bytes: Bytes) -> Option<Batch> {
        let batch = Batch::decode(bytes).ok()?;
        let same = batch.log() == self.log && batch.first_lsn() == self.first && batch.header().chain == self.chain;
        same.then_some(batch)
    }

    pub(crate) fn bytes_len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    fn corrupt(&self) -> ReadError {
        let Self { log, first, last, segment, offset, .. } = *self;
        ReadError::Corrupt { log, first, last, file: segment_name(segment), offset }
    }
}

impl LogCore {
    /// The end of what was accepted.
    #[must_use]
    pub fn end(&self, log: LogId) -> LogPosition {
        self.index.end(log)
    }

    /// The end of what was written, and can be read.
    #[must_use]
    pub fn written_end(&self, log: LogId) -> LogPosition {
        self.index.get(log).map_or_else(|| LogPosition::origin(log), |state| state.written)
    }

    /// The end of what is durable.
    #[must_use]
    pub fn durable_end(&self, log: LogId) -> LogPosition {
        self.index.get(log).map_or_else(|| LogPosition::origin(log), |state| state.durable)
    }

    /// Where the log starts: its origin, or behind what was released.
    #[must_use]
    pub fn start(&self, log: LogId) -> LogPosition {
        self.index.get(log).map_or_else(|| LogPosition::origin(log), |state| state.start)
    }

    /// The position at `lsn`, if a batch ends there or the log starts there.
    #[must_use]
    pub fn position_at(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        match self.index.get(log) {
            Some(state) => state.position_at(lsn),
            None => (lsn == Lsn::ZERO).then(|| LogPosition::origin(log)),
        }
    }

    /// The last batch boundary at or before `lsn`; `None` before the log's start.
    #[must_use]
    pub fn boundary_at_or_before(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        match self.index.get(log) {
            Some(state) => state.boundary_at_or_before(lsn),
            None => Some(LogPosition::origin(log)),
        }
    }

    /// The epochs of the log's batches, each with the first LSN it has here, oldest first.
    #[must_use]
    pub fn epochs(&self, log: LogId) -> Vec<(Epoch, Lsn)> {
        let mut epochs: Vec<(Epoch, Lsn)> = Vec::new();
        for slot in self.index.get(log).map_or(&[][..], |state| &state.slots) {
            if epochs.last().is_none_or(|(epoch, _)| *epoch != slot.epoch) {
                epochs.push((slot.epoch, slot.first));
            }
        }
        epochs
    }

    /// The newest accepted hard state of a kind.
    #[must_use]
    pub fn hard_state(&self, log: LogId, kind: HardStateKind) -> Option<Bytes> {
        self.index.get(log)?.hard.get(&kind).cloned()
    }

    /// All logs, in the order of their ids.
    #[must_use]
    pub fn logs(&self) -> Vec<LogId> {
        self.index.iter().map(|(log, _)| log).collect()
    }

    /// The logs from which something may be missing, and from where: what an open dropped without proof that it was
    /// never acknowledged, or found damaged, in this life or an earlier one; until [`Entry::Settle`](super::Entry::Settle).
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        self.index.iter().filter_map(|(log, state)| state.cut.map(|from| Cut { log, from })).collect()
    }

    /// Ranges of the log that were durable and can't be read.
    #[must_use]
    pub fn damaged(&self, log: LogId) -> Vec<(Lsn, Lsn)> {
        self.index.get(log).map_or_else(Vec::new, |s| s.damaged.iter().map(|d| (d.first, d.last)).collect())
    }

    /// Where to read whole batches, from the one that contains `from`, up to about `max_bytes` but at least one;
    /// empty at the end of what is written. Damage ends the plan before it, or is the answer if it comes first.
    ///
    /// # Errors
    /// [`ReadError::Released`] before the log's start, [`ReadError::Corrupt`] on damage.
    pub fn plan_read(&self, log: LogId, from: Lsn, max_bytes: usize) -> Result<Vec<Extent>, ReadError> {
        let Some(state) = self.index.get(log) else {
            return Ok(Vec::new());
        };
        if from <= state.start.lsn && state.start.lsn > Lsn::ZERO {
            return Err(ReadError::Released { log, start: state.start.lsn });
        }
        let mut plan = Vec::new();
        let (mut bytes, mut next) = (0_usize, from);
        for slot in state.slots.iter().skip(state.slot_at(from)) {
            let len = usize::try_from(slot.len).unwrap_or(usize::MAX);
            let fits = plan.is_empty() || bytes.saturating_add(len) <= max_bytes;
            if slot.last > state.written.lsn || !fits {
                break;
            }
            if let Some(error) = damage_between(log, state, next, slot.last) {
                return if plan.is_empty() { Err(error) } else { Ok(plan) };
            }
            plan.push(Extent::of(log, slot));
            bytes = bytes.saturating_add(len);
            next = slot.last.next();
        }
        match damage_between(log, state, next, next) {
            Some(error) if plan.is_empty() => Err(error),
            _ => Ok(plan),
        }
    }

    /// Counts since the open.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            queue_bytes: self.queue_bytes,
            active_segment: self.active.as_ref().map_or(0, |active| active.header.number),
            segments_ready: self.ready.len(),
            disk_full: self.no_room,
            poisoned: matches!(self.life, Life::Poisoned(_)),
            ..self.stats
        }
    }

    /// This life of the directory: rises at every open.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The directory's uuid.
    #[must_use]
    pub const fn directory_uuid(&self) -> [u8; 16] {
        self.directory
    }
}

fn damage_between(log: LogId, state: &LogState, first: Lsn, last: Lsn) -> Option<ReadError> {
    let range = state.damaged.iter().find(|range| range.first <= last && range.last >= first)?;
    let file = if range.segment == 0 { "(unknown)".to_owned() } else { segment_name(range.segment) };
    Some(ReadError::Corrupt { log, first: range.first, last: range.last, file, offset: range.offset })
}

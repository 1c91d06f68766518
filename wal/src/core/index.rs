//! What the log holds, in memory: per log its batches in order, its hard states, its damage.
//!
//! One entry a batch, 56 bytes. [`Index`] is changed by the same operations when entries are submitted and when
//! a directory is read back.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::format::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use crate::format::record::{BatchEntry, HardStateKind};

/// A batch of the log: what it is, and where it lies once its group is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) epoch: Epoch,
    pub(crate) chain: Chain,
    /// 0: accepted, in no group yet.
    pub(crate) segment: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

const _: () = assert!(size_of::<Slot>() <= 64, "memory of a log is this times its batches");

impl Slot {
    pub(crate) const fn placed(entry: &BatchEntry, segment: u64) -> Self {
        let BatchEntry { first, last, epoch, chain, offset, len, .. } = *entry;
        Self { first, last, epoch, chain, segment, offset, len }
    }

    pub(crate) const fn end(&self) -> LogPosition {
        LogPosition { epoch: self.epoch, lsn: self.last, chain: self.chain }
    }
}

/// A range that was durable and can't be read, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DamagedSlot {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    /// 0: unknown.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// One log.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    /// Where the log starts: its origin, or behind what was released or reset.
    pub(crate) start: LogPosition,
    pub(crate) slots: Vec<Slot>,
    pub(crate) written: LogPosition,
    pub(crate) durable: LogPosition,
    pub(crate) hard: BTreeMap<HardStateKind, Bytes>,
    pub(crate) damaged: Vec<DamagedSlot>,
    /// First LSN of what may be missing, until the log's owner settled it.
    pub(crate) cut: Option<Lsn>,
}

impl LogState {
    fn new(start: LogPosition) -> Self {
        Self {
            start,
            slots: Vec::new(),
            written: start,
            durable: start,
            hard: BTreeMap::new(),
            damaged: Vec::new(),
            cut: None,
        }
    }

    pub(crate) fn end(&self) -> LogPosition {
        self.slots.last().map_or(self.start, Slot::end)
    }

    /// Index of the first batch whose last LSN is at least `lsn`.
    pub(crate) fn slot_at(&self, lsn: Lsn) -> usize {
        // Most questions are about the end.
        if self.slots.last().is_none_or(|slot| slot.last < lsn) {
            return self.slots.len();
        }
        self.slots.partition_point(|slot| slot.last < lsn)
    }

    pub(crate) fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
        if lsn == self.start.lsn {
            return Some(self.start);
        }
        self.slots.get(self.slot_at(lsn)).filter(|slot| slot.last == lsn).map(Slot::end)
    }

    pub(crate) fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        if lsn < self.start.lsn {
            return None;
        }
        let after = self.slots.partition_point(|slot| slot.last <= lsn);
        Some(after.checked_sub(1).and_then(|i| self.slots.get(i)).map_or(self.start, Slot::end))
    }

    pub(crate) fn has(&self, position: &LogPosition) -> bool {
        self.position_at(position.lsn).as_ref() == Some(position)
    }

    pub(crate) fn push(&mut self, slot: Slot) {
        self.slots.push(slot);
    }

    pub(crate) fn truncate(&mut self, to: LogPosition) {
        while self.slots.pop_if(|slot| slot.last > to.lsn).is_some() {}
        for mark in [&mut self.written, &mut self.durable] {
            if mark.lsn > to.lsn {
                *mark = to;
            }
        }
        self.damaged.retain(|range| range.first <= to.lsn);
        for range in &mut self.damaged {
            range.last = range.last.min(to.lsn);
        }
    }

    pub(crate) fn reset(&mut self, to: LogPosition) {
        self.slots.clear();
        self.damaged.clear();
        self.cut = None;
        (self.start, self.written, self.durable) = (to, to, to);
    }

    /// Everything up to `at` was released.
    pub(crate) fn release(&mut self, at: LogPosition) {
        let gone = self.slots.partition_point(|slot| slot.last <= at.lsn);
        self.slots.drain(..gone);
        self.damaged.retain(|range| range.last > at.lsn);
        if self.start.lsn < at.lsn {
            self.start = at;
        }
        for mark in [&mut self.written, &mut self.durable] {
            if mark.lsn < at.lsn {
                *mark = at;
            }
        }
    }
}

/// All logs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    logs: BTreeMap<LogId, LogState>,
}

impl Index {
    pub(crate) fn get(&self, log: LogId) -> Option<&LogState> {
        self.logs.get(&log)
    }

    pub(crate) fn get_mut(&mut self, log: LogId) -> Option<&mut LogState> {
        self.logs.get_mut(&log)
    }

    /// The log, made empty if it is not there.
    pub(crate) fn log(&mut self, log: LogId) -> &mut LogState {
        self.logs.entry(log).or_insert_with(|| LogState::new(LogPosition::origin(log)))
    }

    pub(crate) fn remove(&mut self, log: LogId) {
        self.logs.remove(&log);
    }

    pub(crate) fn len(&self) -> usize {
        self.logs.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LogId, &LogState)> {
        self.logs.iter().map(|(log, state)| (*log, state))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (LogId, &mut LogState)> {
        self.logs.iter_mut().map(|(log, state)| (*log, state))
    }

    pub(crate) fn end(&self, log: LogId) -> LogPosition {
        self.get(log).map_or_else(|| LogPosition::origin(log), LogState::end)
    }
}

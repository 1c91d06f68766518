//! The batches at the end of the log that are not applied yet, in memory, with the callers who wait for them.

use super::completion::{Completion, Reached, Written};
use super::shard::now;
use super::stages::{Stages, Times};
use crate::model::limits::{APPLY_RAW_BYTES_MAX, BATCH_BYTES_TARGET};
use crate::model::{Lsn, ShardId};
use crate::pipeline::Position;
use crate::state::Applied;
use std::collections::VecDeque;
use towline_wal::Batch;

/// A batch with those who wait for its records.
pub(super) struct Part {
    pub(super) batch: Batch,
    pub(super) completions: Vec<Completion>,
    pub(super) times: Times,
    /// Somebody waits for no more than that it is durable.
    wants_durable: bool,
}

impl Part {
    fn nobody_waits(&self) -> bool {
        self.completions.iter().all(Completion::is_told)
    }
}

/// What to apply next.
pub(super) enum ApplyTask {
    /// These batches, which follow what is applied.
    Parts(Vec<Part>),
    /// What lies behind `after` in the log, and ends at or before `until`; nobody waits for it here.
    Range { after: Lsn, until: Lsn },
    /// To panic.
    #[cfg(test)]
    Explode,
}

/// What is applied in one write, in the making. It is bounded twice: in bytes as they are stored, and as they are in memory,
/// since what shrinks well is little to read and much to hold.
pub(super) struct Portion {
    bytes: usize,
    bytes_max: usize,
    raw_bytes: usize,
}

impl Portion {
    /// Of about so many bytes as they are stored.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { bytes: 0, bytes_max, raw_bytes: 0 }
    }

    /// Takes this batch, if what it has leaves any room. The first always goes in, and the last one may go beyond the bounds.
    pub(super) fn takes(&mut self, batch: &Batch) -> bool {
        let has_room = self.bytes == 0 || self.bytes < self.bytes_max && self.raw_bytes < APPLY_RAW_BYTES_MAX;
        if has_room {
            self.bytes += batch.bytes().len();
            self.raw_bytes += batch.header().raw_len as usize;
        }
        has_room
    }
}

/// A suffix of the log: its batches follow one another, and the last one is the log's last.
///
/// So whatever is applied and not in here lies before the first batch of this, and is read from the log. It is
/// bounded by forgetting its oldest batches, except those that somebody waits for: their number is bounded by the
/// sealing of batches, which pauses.
pub(super) struct Unapplied {
    parts: VecDeque<Part>,
    bytes: usize,
    bytes_max: usize,
}

impl Unapplied {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { parts: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Whether another batch of usual size may be sealed. One is, whatever the bound.
    pub(super) const fn has_room(&self) -> bool {
        self.bytes == 0 || self.bytes + BATCH_BYTES_TARGET <= self.bytes_max
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The log's new last batch.
    pub(super) fn push(&mut self, batch: Batch, completions: Vec<Completion>, times: Times) {
        if let Some(last) = self.parts.back() {
            assert_eq!(last.batch.last_lsn().next(), batch.first_lsn(), "batches reach the log in order");
        }
        self.bytes += batch.bytes().len();
        let wants_durable = completions.iter().any(Completion::is_durable);
        self.parts.push_back(Part { batch, completions, times, wants_durable });
        while self.bytes > self.bytes_max && self.parts.len() > 1 {
            if self.pop_front_if(Part::nobody_waits).is_none() {
                break;
            }
        }
    }

    /// The log ends at `to` now: who waited for what was behind it can't know what becomes of that.
    pub(super) fn truncate(&mut self, to: Lsn) {
        while let Some(last) = self.parts.pop_back_if(|last| last.batch.last_lsn() > to) {
            self.bytes -= last.batch.bytes().len();
            Completion::unknown_all(last.completions);
        }
    }

    /// Nothing of it follows the log any more: who waits for some of it.
    pub(super) fn take_all(&mut self) -> Vec<Completion> {
        self.bytes = 0;
        self.parts.drain(..).flat_map(|part| part.completions).collect()
    }

    /// What to apply behind `applied`, up to `applicable` and about `bytes_max` bytes; none if there is nothing.
    pub(super) fn take(&mut self, applied: Lsn, applicable: Lsn, bytes_max: usize) -> Option<ApplyTask> {
        let next = applied.next();
        let first = self.parts.front().map(|first| first.batch.first_lsn());
        if first != Some(next) {
            let until = first.map_or(applicable, |first| applicable.min(first.prev()));
            return (until >= next).then_some(ApplyTask::Range { after: applied, until });
        }
        let (mut parts, mut portion) = (Vec::new(), Portion::new(bytes_max));
        while let Some(part) =
            self.pop_front_if(|first| first.batch.last_lsn() <= applicable && portion.takes(&first.batch))
        {
            parts.push(part);
        }
        (!parts.is_empty()).then_some(ApplyTask::Parts(parts))
    }

    /// Everything up to `applied` is applied: what of it is still in here was read from the log.
    pub(super) fn forget(&mut self, applied: Lsn) {
        while let Some(stale) = self.pop_front_if(|first| first.batch.last_lsn() <= applied) {
            Completion::unknown_all(stale.completions);
        }
    }

    /// Everything up to `durable` is durable here: whoever waits for no more than that hears it, once `tells` heard up to where.
    pub(super) fn durable(&mut self, shard: ShardId, durable: Lsn, stages: &Stages, tells: impl Fn(Lsn)) {
        let now = now();
        for part in self.parts.iter_mut().take_while(|part| part.batch.last_lsn() <= durable) {
            if part.times.set_durable(now) {
                stages.durable(&part.times);
            }
            if std::mem::take(&mut part.wants_durable) {
                let first = Position { shard, epoch: part.batch.epoch(), lsn: part.batch.first_lsn() };
                tells(part.batch.last_lsn());
                Completion::reached(&mut part.completions, Reached::Durable, &first);
            }
        }
    }

    /// Whoever waits for something behind `committed` hears that it may or may not come to effect.
    pub(super) fn doubt(&mut self, committed: Lsn) {
        for part in self.parts.iter_mut().filter(|part| part.batch.last_lsn() > committed) {
            Completion::unknown_all(std::mem::take(&mut part.completions));
        }
    }

    /// Whether nobody waits.
    pub(super) fn nobody_waits(&self) -> bool {
        self.parts.iter().all(Part::nobody_waits)
    }

    fn pop_front_if(&mut self, fits: impl FnOnce(&Part) -> bool) -> Option<Part> {
        let part = self.parts.pop_front_if(|first| fits(first))?;
        self.bytes -= part.batch.bytes().len();
        Some(part)
    }
}

/// Whoever waits, with what became of just their record. Of many batches nobody waits: the LSN tells which outcome is
/// whose, not the place in the list. A record without an outcome leaves its writer in doubt.
pub(super) fn answers(shard: ShardId, parts: Vec<Part>, outcomes: Vec<Applied>) -> Vec<(Completion, Written)> {
    let mut outcomes = outcomes.into_iter().peekable();
    let mut answers = Vec::new();
    for Part { batch, completions, .. } in parts {
        let (epoch, mut lsn) = (batch.epoch(), batch.first_lsn());
        for completion in completions {
            while outcomes.next_if(|applied| applied.lsn < lsn).is_some() {}
            let found = outcomes.next_if(|applied| applied.lsn == lsn);
            match found.filter(|_| !completion.is_told()) {
                Some(Applied { outcome: Some(outcome), executed, .. }) => {
                    let (epoch, lsn) = executed.unwrap_or((epoch, lsn));
                    answers.push((completion, Written { shard, epoch, lsn, outcome }));
                }
                _ => completion.unknown(),
            }
            lsn = lsn.next();
        }
    }
    answers
}

#[cfg(test)]
#[path = "unapplied_test.rs"]
mod tests;

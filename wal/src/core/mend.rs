//! Batches that were put again where the log is damaged ([`Entry::Mend`](super::Entry::Mend)).
//!
//! They lie in other segments than their neighbours, so they stand beside the log's other batches and are looked for first:
//! what can't be read stays where it is, in its file, and every open finds it again. What is not covered by them is damaged.

use std::collections::BTreeMap;

use super::index::{Freed, IndexCache, LogState};
use super::{DamagedSlot, LogCore, Slot};
use crate::core::Extent;
use crate::error::{ReadError, SubmitError};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::ids::{LogId, LogPosition, Lsn};

/// A batch that was put again.
#[derive(Debug, Clone)]
pub(crate) struct Mended {
    pub(crate) slot: Slot,
    /// It can be read.
    pub(crate) is_written: bool,
}

/// What tells where a range ends of which no batch is known.
#[derive(Debug, Clone)]
pub(crate) enum Edge {
    /// A footer says so.
    At(LogPosition),
    /// The batch behind it, which must follow.
    Before(Box<BatchHeader>),
}

impl Edge {
    fn fits(&self, end: &LogPosition) -> bool {
        match self {
            Self::At(at) => at == end,
            Self::Before(next) => next.follows(end),
        }
    }
}

/// What of one log was put again, and what an open did not know to be damaged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mends {
    /// In the order of the log; none overlaps another.
    batches: Vec<Mended>,
    /// What a reader found.
    noted: Vec<DamagedSlot>,
    /// By the last LSN of the range that ends there.
    edges: BTreeMap<Lsn, Edge>,
}

impl Mends {
    /// The batch that holds `lsn`.
    pub(crate) fn at(&self, lsn: Lsn) -> Option<&Mended> {
        let i = self.batches.partition_point(|mended| mended.slot.last < lsn);
        self.batches.get(i).filter(|mended| mended.slot.first <= lsn)
    }

    /// Whether all of a range was put again.
    pub(crate) fn covers(&self, first: Lsn, last: Lsn) -> bool {
        let mut next = first;
        while let Some(mended) = self.at(next) {
            if mended.slot.last >= last {
                return true;
            }
            next = mended.slot.last.next();
        }
        false
    }

    /// The last batch that ends at or before `lsn`.
    pub(crate) fn at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        let after = self.batches.partition_point(|mended| mended.slot.last <= lsn);
        after.checked_sub(1).and_then(|i| self.batches.get(i)).map(|mended| mended.slot.end())
    }

    /// What a reader found.
    pub(crate) fn noted(&self) -> impl Iterator<Item = &DamagedSlot> {
        self.noted.iter()
    }

    pub(crate) fn end(&self) -> Option<LogPosition> {
        self.batches.last().map(|mended| mended.slot.end())
    }

    /// The first LSN behind `lsn` at which one begins.
    pub(crate) fn next_behind(&self, lsn: Lsn) -> Lsn {
        let i = self.batches.partition_point(|mended| mended.slot.first <= lsn);
        self.batches.get(i).map_or(Lsn::MAX, |mended| mended.slot.first)
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.batches.iter().map(|mended| &mended.slot)
    }

    pub(crate) fn is_in_order(&self) -> bool {
        self.batches.is_sorted_by(|a, b| a.slot.last < b.slot.first)
    }

    pub(crate) fn note_edge(&mut self, last: Lsn, edge: Edge) {
        self.edges.insert(last, edge);
    }

    /// It has a place now; the segment that it was in before, else 0. `None`: it is not there any more.
    pub(crate) fn place(&mut self, at: &LogPosition, segment: u64, offset: u32) -> Option<u64> {
        let mended = self.batches.iter_mut().find(|mended| mended.slot.end() == *at)?;
        mended.slot.offset = offset;
        Some(std::mem::replace(&mut mended.slot.segment, segment))
    }

    pub(crate) fn is_written(&mut self, last: Lsn, segment: u64, offset: u32) {
        let found = self.batches.iter_mut().find(|mended| mended.slot.last == last);
        if let Some(mended) = found.filter(|m| (m.slot.segment, m.slot.offset) == (segment, offset)) {
            mended.is_written = true;
        }
    }

    /// Puts one in; of those that it lies over nothing is left.
    fn put(&mut self, mended: Mended) -> Freed {
        let mut freed = Freed::default();
        let (first, last) = (mended.slot.first, mended.slot.last);
        self.give_up(&mut freed, |slot| slot.first <= last && slot.last >= first);
        let i = self.batches.partition_point(|other| other.slot.last < first);
        self.batches.insert(i, mended);
        freed
    }

    fn give_up(&mut self, freed: &mut Freed, which: impl Fn(&Slot) -> bool) {
        self.batches.retain(|mended| {
            let gone = which(&mended.slot);
            if gone {
                freed.take(mended.slot.segment, mended.slot.room());
            }
            !gone
        });
    }

    pub(crate) fn truncate(&mut self, to: Lsn, freed: &mut Freed) {
        self.give_up(freed, |slot| slot.last > to);
        self.noted.retain(|range| range.first <= to);
        self.noted.iter_mut().for_each(|range| range.last = range.last.min(to));
        self.edges.retain(|last, _| *last <= to);
    }

    pub(crate) fn release(&mut self, at: Lsn, freed: &mut Freed) {
        self.give_up(freed, |slot| slot.last <= at);
        self.noted.retain(|range| range.last > at);
        self.noted.iter_mut().for_each(|range| range.first = range.first.max(at.next()));
        self.edges.retain(|last, _| *last > at);
    }

    pub(crate) fn clear(&mut self, freed: &mut Freed) {
        self.give_up(freed, |_| true);
        *self = Self::default();
    }

    /// The ranges, in order and each LSN once, without what these batches cover: all of them, or those that can be read.
    fn uncovered<'a>(&self, ranges: impl Iterator<Item = &'a DamagedSlot>, by_written_only: bool) -> Vec<DamagedSlot> {
        let mut left: Vec<DamagedSlot> = Vec::new();
        for range in ranges {
            let mut next = range.first;
            let start = self.batches.partition_point(|mended| mended.slot.last < next);
            let over = self.batches.iter().skip(start).take_while(|mended| mended.slot.first <= range.last);
            for mended in over.filter(|mended| mended.is_written || !by_written_only) {
                let Slot { first, last, .. } = mended.slot;
                if next < first {
                    left.push(DamagedSlot { first: next, last: first.prev(), ..*range });
                }
                next = last.next();
            }
            if next <= range.last {
                left.push(DamagedSlot { first: next, ..*range });
            }
        }
        left.sort_by_key(|range| (range.first, range.last));
        let mut told = Lsn::ZERO;
        left.retain_mut(|range| {
            range.first = range.first.max(told.next());
            told = told.max(range.last);
            range.first <= range.last
        });
        left
    }
}

impl LogState {
    /// What can't be read and was not put again, in the order of the log.
    pub(crate) fn still_damaged(&self) -> Vec<DamagedSlot> {
        self.mends.uncovered(self.damaged.iter().chain(&self.mends.noted), false)
    }

    /// What a reader from `first` to `last` comes upon.
    pub(crate) fn damage_between(&self, first: Lsn, last: Lsn) -> Option<DamagedSlot> {
        let overlaps = |range: &&DamagedSlot| range.first <= last && range.last >= first;
        let near = self.damaged.iter().chain(&self.mends.noted).filter(overlaps);
        self.mends.uncovered(near, true).iter().find(overlaps).copied()
    }

    /// Damage that an open found and that is in the way of what is appended: it begins at or before `reaches`.
    pub(crate) fn damage_before(&self, reaches: Lsn) -> Option<Lsn> {
        let near = self.damaged.iter().filter(|range| range.first <= reaches);
        self.mends.uncovered(near, false).first().map(|range| range.first)
    }

    /// A batch that was put again is durable: what it lies over is damaged no more, in this life.
    pub(crate) fn is_mended(&mut self, end: Lsn, segment: u64) {
        let Some(mended) = self.mends.at(end).filter(|mended| mended.slot.segment == segment) else { return };
        let Slot { first, last, .. } = mended.slot;
        for ranges in [&mut self.damaged, &mut self.mends.noted] {
            let (over, mut left): (Vec<_>, Vec<_>) =
                ranges.drain(..).partition(|range| range.first <= last && range.last >= first);
            for range in over {
                left.extend(
                    Some(DamagedSlot { last: first.prev(), ..range }).filter(|range| range.first <= range.last),
                );
                left.extend(
                    Some(DamagedSlot { first: last.next(), ..range }).filter(|range| range.first <= range.last),
                );
            }
            *ranges = left;
        }
    }

    /// The same of all that an open found.
    pub(crate) fn all_are_mended(&mut self) {
        self.damaged = self.still_damaged();
    }

    /// Puts a batch again.
    pub(crate) fn mend(&mut self, slot: Slot, is_written: bool) -> Freed {
        self.note_epoch_within(slot.epoch, slot.first);
        self.note_segment(slot.segment);
        self.mends.put(Mended { slot, is_written })
    }

    fn covers(ranges: &[DamagedSlot], first: Lsn, last: Lsn) -> bool {
        let mut next = first;
        while next <= last {
            let Some(range) = ranges.iter().find(|range| range.first <= next && range.last >= next) else {
                return false;
            };
            next = range.last.next();
        }
        true
    }

    /// Whether the log may begin here, where nothing need name a batch's end: in damage, between what is known on both sides.
    pub(super) fn may_begin_at(&self, log: LogId, at: &LogPosition, cache: &IndexCache) -> bool {
        if at.lsn <= self.start.lsn {
            return true; // Whoever says it can't know: somebody else releases.
        }
        if let Some(there) = self.position_at(log, at.lsn, cache) {
            return there == *at && at.lsn <= self.durable.lsn;
        }
        let is_damaged = Self::covers(&self.still_damaged(), at.lsn, at.lsn) && at.lsn < self.durable.lsn;
        let before = self.boundary_at_or_before(log, at.lsn, cache).unwrap_or(self.start);
        let next = self.epochs.iter().find(|(_, first)| *first > at.lsn);
        let next = next.map_or_else(|| self.end().epoch, |(epoch, _)| *epoch);
        let leads_on = before.epoch <= at.epoch
            && at.epoch <= next
            && self.mends.edges.get(&at.lsn).is_none_or(|edge| edge.fits(at));
        let is_looked_up = self.index_needed(at.lsn, cache).is_none();
        is_looked_up && is_damaged && leads_on && !self.is_within_a_batch(log, at.lsn, cache)
    }

    /// Whether a batch is known that holds this LSN, and ends behind it.
    fn is_within_a_batch(&self, log: LogId, lsn: Lsn, cache: &IndexCache) -> bool {
        let holds = |first: Lsn, last: Lsn| first <= lsn && lsn < last;
        let slot = self.slots.get(self.slot_at(lsn));
        let within_run = || {
            let run = self.run_at(lsn)?;
            let known = run.batches(lsn, cache.entries(run.segment, log)?).next()?.ok()?;
            Some(holds(known.first, known.last))
        };
        self.mends.at(lsn).is_some_and(|mended| holds(mended.slot.first, mended.slot.last))
            || slot.is_some_and(|slot| holds(slot.first, slot.last))
            || within_run().unwrap_or(false)
    }

    /// Whether a batch may be put again: all that it holds is damaged, and it fits what is known on both sides. `staged`: what
    /// the same submission puts before it.
    pub(super) fn validate_mend(
        &self,
        batch: &Batch,
        staged: &[LogPosition],
        cache: &IndexCache,
    ) -> Result<(), SubmitError> {
        let log = batch.log();
        let (first, last, at) = (batch.first_lsn(), batch.last_lsn(), batch.position());
        if last <= self.start.lsn {
            return Ok(()); // Whoever asks for it can't know: somebody else releases.
        }
        let is_staged = staged.iter().any(|end| end.lsn >= first && end.lsn <= last);
        if is_staged || last > self.end().lsn || !Self::covers(&self.still_damaged(), first, last) {
            return Err(SubmitError::NotDamaged { log, first, last });
        }
        let before = staged.iter().find(|end| end.lsn == first.prev()).copied();
        let before = before.or_else(|| self.position_at(log, first.prev(), cache));
        let misfit = |end: LogPosition, why| {
            let (first_lsn, prev) = (first, batch.header().chain);
            Err(SubmitError::DoesNotFollow { log, first_lsn, prev, end, why })
        };
        let known = self.boundary_at_or_before(log, first.prev(), cache).unwrap_or(self.start);
        match before {
            None => return misfit(known, "what it follows is not known: what is damaged before it comes first"),
            Some(before) if !batch.follows(&before) => return misfit(before, "its chain continues another history"),
            Some(_) => {}
        }
        let there = self.position_at(log, last, cache);
        if let Some(there) = there.filter(|there| *there != at) {
            return misfit(there, "another batch was there");
        }
        if let Some(inside) = self.boundary_at_or_before(log, last.prev(), cache).filter(|inside| inside.lsn >= first) {
            return misfit(inside, "batches ended elsewhere there");
        }
        if there.is_none() && self.mends.edges.get(&last).is_some_and(|edge| !edge.fits(&at)) {
            return misfit(at, "what is behind it continues another history");
        }
        Ok(())
    }
}

impl LogCore {
    /// How many of these batches, from the first on, [`Entry::Mend`](super::Entry::Mend) would put again, one behind the other: they
    /// fit what is known on both sides of the damage, as far as the indexes that it takes are in memory
    /// ([`LogCore::index_needed`]).
    ///
    /// ```
    /// use towline_wal::{LogCore, Lsn};
    /// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
    /// # use set_up::*;
    /// # let (options, log) = (small(), LOG);
    /// # let mut disk = three();
    /// // `disk` holds a log of three batches. Another copy has them too.
    /// let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
    /// let plan = core.plan_read(log, Lsn::new(1), 1 << 20).unwrap();
    /// let copies: Vec<_> = plan.iter().map(|extent| extent.read(&mut disk).unwrap()).collect();
    /// assert_eq!(core.mendable(&copies[1..]), 0, "nothing is damaged");
    /// core.note_damaged(&plan[1]);
    /// assert_eq!(core.mendable(&copies[1..]), 1, "what is behind it is not");
    /// ```
    #[must_use]
    pub fn mendable(&self, batches: &[Batch]) -> usize {
        let mut staged = Vec::new();
        for batch in batches {
            let of = self.index.get(batch.log()).filter(|_| batch.bytes().len() <= self.batch_bytes_max());
            if of.is_none_or(|state| state.validate_mend(batch, &staged, &self.index.cache).is_err()) {
                break;
            }
            staged.push(batch.position());
        }
        staged.len()
    }

    /// Where a damaged range ends, if no batch of it is known by name there ([`LogCore::position_at`] tells nothing of `last`) and the
    /// footer of what lies behind says so.
    ///
    /// ```
    /// use towline_wal::{LogCore, Lsn};
    /// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
    /// # use set_up::*;
    /// # let (options, log) = (small(), LOG);
    /// # let mut disk = three();
    /// let (core, _) = LogCore::recover(&mut disk, &options).unwrap();
    /// assert_eq!(core.damage_end(log, Lsn::new(2)), None, "nothing is damaged there");
    /// ```
    #[must_use]
    pub fn damage_end(&self, log: LogId, last: Lsn) -> Option<LogPosition> {
        match self.index.get(log)?.mends.edges.get(&last)? {
            Edge::At(at) => Some(*at),
            Edge::Before(_) => None, // What it continues can be compared with it, and not be told.
        }
    }

    /// Says that a planned batch could not be read ([`Extent::read`]: `Corrupt`): from here on its range is damaged, as if an
    /// open had found that, and can be put again ([`Entry::Mend`](super::Entry::Mend)). Unlike what an open finds it does not keep the
    /// log from growing. It is forgotten with this life; who reads it then finds it again. `false`: it is not there any more.
    ///
    /// ```
    /// use towline_wal::{Entry, LogCore, Lsn};
    /// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
    /// # use set_up::*;
    /// # let (options, log) = (small(), LOG);
    /// # let mut disk = three();
    /// // `disk` holds a log of three batches. Another copy has them too.
    /// let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
    /// let plan = core.plan_read(log, Lsn::new(2), 1).unwrap();
    /// let copy = plan[0].read(&mut disk).unwrap();
    /// disk.flip_bit("0000000000000001.seg", plan[0].offset * 8 + 900);
    /// assert!(plan[0].read(&mut disk).is_err());
    /// assert!(core.note_damaged(&plan[0]));
    /// assert_eq!(core.damaged(log), [(Lsn::new(2), Lsn::new(2))]);
    /// core.submit(vec![Entry::Mend(copy.clone())]).unwrap();
    /// run(&mut core, &mut disk);
    /// assert!(core.damaged(log).is_empty());
    /// assert_eq!(core.plan_read(log, Lsn::new(2), 1).unwrap()[0].read(&mut disk).unwrap(), copy);
    /// ```
    pub fn note_damaged(&mut self, extent: &Extent) -> bool {
        let plan = self.plan_read(extent.log, extent.first, 1);
        if !plan.is_ok_and(|plan| plan.first().is_some_and(|first| first.is_same(extent))) {
            return false;
        }
        let Some(state) = self.index.get_mut(extent.log) else { return false };
        let mut freed = Freed::default();
        let is_it = |slot: &Slot| (slot.segment, u64::from(slot.offset)) == (extent.segment, extent.offset);
        state.mends.give_up(&mut freed, is_it);
        state.mends.noted.push(extent.damaged());
        self.freed(&freed);
        if let Some(segment) = self.segments.get_mut(extent.segment) {
            segment.is_damaged = true;
        }
        true
    }

    /// As [`LogCore::plan_read`]. A range of which nothing tells which batches it holds, since its segment's footer is lost and so
    /// are some of its groups, is damaged from here on, as what [`LogCore::note_damaged`] is told of: otherwise whoever comes upon
    /// it has nothing to show to the log's owner.
    ///
    /// ```
    /// use towline_wal::{LogCore, Lsn};
    /// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
    /// # use set_up::*;
    /// # let (options, log) = (small(), LOG);
    /// # let mut disk = three();
    /// let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
    /// let plan = core.plan_noting(log, Lsn::FIRST, 1 << 20).unwrap();
    /// assert_eq!((plan.len(), core.damaged(log).len()), (3, 0), "all of it has a name");
    /// ```
    ///
    /// # Errors
    /// As [`LogCore::plan_read`].
    pub fn plan_noting(&mut self, log: LogId, from: Lsn, bytes_max: usize) -> Result<Vec<Extent>, ReadError> {
        let plan = self.plan_read(log, from, bytes_max);
        if let Err(ReadError::Corrupt { first, last, .. }) = &plan {
            let gap = self.unknown_at(log, from).filter(|gap| gap.first <= *first && gap.last == *last);
            gap.into_iter().for_each(|gap| self.note_gap(log, gap));
        }
        plan
    }

    fn note_gap(&mut self, log: LogId, gap: DamagedSlot) {
        let Some(state) = self.index.get_mut(log) else { return };
        let known: Vec<_> = state.damaged.iter().chain(&state.mends.noted).copied().collect();
        if LogState::covers(&known, gap.first, gap.last) {
            return;
        }
        state.mends.noted.push(gap);
        if let Some(segment) = self.segments.get_mut(gap.segment) {
            segment.is_damaged = true;
        }
    }
}

//! What the log holds, in memory: per log its batches in order, its hard states, its damage.
//!
//! One [`Slot`] a batch for what is recent, 56 bytes; one [`Run`] for all batches of a log in a sealed segment whose footer
//! knows the rest. [`Index`] is changed by the same operations when entries are submitted and when a directory is
//! read back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::mend::Mends;
pub(super) use super::segment_index::IndexCache;
use super::segment_index::IndexEntry;
use crate::format::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use crate::format::record::{BatchEntry, HardStateKind, Record};

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

const _: () = assert!(size_of::<Slot>() * (ROOM_SHARE + 1) / ROOM_SHARE <= 64, "bytes of index for a batch");
const _: () = assert!(size_of::<Run>() <= size_of::<Slot>(), "a run is never more than the slots that it stands for");

/// A log's index has room for one in so many more than it holds: a vector by itself takes twice what it needs. Each push then
/// moves that many others at the most, on average.
const ROOM_SHARE: usize = 8;
/// Entries for which room is made at once.
const ROOM_MIN: usize = 4;

fn push_sparing<T>(entries: &mut VecDeque<T>, entry: T) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact((entries.len() / ROOM_SHARE).max(ROOM_MIN));
    }
    entries.push_back(entry);
}

/// Gives room back of which less than half is used. Not before: what was released is often followed by as much.
fn give_back<T>(entries: &mut VecDeque<T>) {
    if 2 * entries.len() + ROOM_MIN < entries.capacity() {
        entries.shrink_to(entries.len() + entries.len() / ROOM_SHARE);
    }
}

impl Slot {
    pub(crate) const fn placed(entry: &BatchEntry, segment: u64) -> Self {
        let BatchEntry { first, last, epoch, chain, offset, len, .. } = *entry;
        Self { first, last, epoch, chain, segment, offset, len }
    }

    pub(crate) const fn end(&self) -> LogPosition {
        LogPosition { epoch: self.epoch, lsn: self.last, chain: self.chain }
    }

    /// See [`room_of`].
    pub(crate) fn room(&self) -> u64 {
        room_of(1, u64::from(self.len))
    }
}

/// Bytes that batches take in a segment at most, with what directories and footer say of them.
pub(crate) fn room_of(batches: u64, bytes: u64) -> u64 {
    bytes + batches * ROOM_PER_BATCH
}

/// In its group's directory, again in the next one's, and in the footer.
const ROOM_PER_BATCH: u64 = 72 + 72 + 32;

/// All batches that a log has in one sealed segment. Where they lie and where each ends, the segment's footer tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) segment: u64,
    pub(crate) first: Lsn,
    pub(crate) end: LogPosition,
    /// What the segment counts as live for it: its batches' [`room_of`] when it was made.
    pub(crate) bytes: u64,
}

impl Run {
    /// The run's batches from `from` on, as its segment's index tells them, oldest first; `Err`: a range of which it tells
    /// nothing, though the run has it. An index read from groups, some of them damaged, has such.
    pub(crate) fn batches<'a>(
        &self,
        from: Lsn,
        entries: &'a [IndexEntry],
    ) -> impl Iterator<Item = Result<&'a IndexEntry, (Lsn, Lsn)>> + use<'a> {
        let (end, mut next) = (self.end, from.max(self.first));
        // What ends where the run does, and is another batch, is of a history that was cut off.
        let is_of_run =
            move |entry: &&IndexEntry| entry.last < end.lsn || (entry.last == end.lsn && entry.chain == end.chain);
        let start = entries.partition_point(|entry| entry.last < next);
        let mut within = entries.iter().skip(start).take_while(is_of_run).peekable();
        std::iter::from_fn(move || {
            let first = next;
            if first > end.lsn {
                return None;
            }
            let Some(entry) = within.next_if(|entry| entry.first <= first) else {
                let last = within.peek().map_or(end.lsn, |entry| entry.first.prev());
                next = last.next();
                return Some(Err((first, last)));
            };
            next = entry.last.next();
            Some(Ok(entry))
        })
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

/// A hard state, and the segment of its newest record; 0: it is on its way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) bytes: Bytes,
    pub(crate) segment: u64,
}

/// Live bytes that an operation took from segments, and where it left dead ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) bytes: BTreeMap<u64, u64>,
    /// The lowest segment that holds something which must not come back.
    from: Option<u64>,
    /// Some of it is on its way to a segment.
    unplaced: bool,
}

impl Freed {
    pub(super) fn take(&mut self, segment: u64, bytes: u64) {
        if segment == 0 {
            self.unplaced = true;
            return;
        }
        self.touch(segment);
        *self.bytes.entry(segment).or_insert(0) += bytes;
    }

    fn touch(&mut self, segment: u64) {
        self.from = Some(self.from.map_or(segment, |from| from.min(segment)));
    }

    /// The lowest segment that holds, or will hold, something which must not come back; `active` is where the next group
    /// goes at the earliest.
    pub(crate) fn lowest(&self, active: u64) -> Option<u64> {
        let unplaced = self.unplaced.then_some(active);
        self.from.map_or(unplaced, |from| Some(unplaced.map_or(from, |active| from.min(active))))
    }
}

/// What of a log a group holds, to be noted when it is written and when it is durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) log: LogId,
    pub(crate) to: Reached,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Reached {
    /// A batch, at its place in the segment.
    Batch { last: Lsn, offset: u32 },
    /// A batch that was put again, at its place in the segment.
    Mended { last: Lsn, offset: u32 },
    /// A reset to this position.
    Start(LogPosition),
}

/// One log.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    /// Where the log starts: its origin, or behind what was released or reset.
    pub(crate) start: LogPosition,
    /// The segment of the newest record that says so; 0: none, or it is on its way.
    pub(crate) start_in: u64,
    /// The older part of the history.
    pub(crate) runs: VecDeque<Run>,
    /// The newer part.
    pub(crate) slots: VecDeque<Slot>,
    /// The epochs of both, each with its first LSN.
    pub(super) epochs: VecDeque<(Epoch, Lsn)>,
    pub(crate) written: LogPosition,
    pub(crate) durable: LogPosition,
    pub(crate) hard: BTreeMap<HardStateKind, HardState>,
    /// Hard states in doubt: a newer one may be lost. With each, the segment of the newest record that says so; 0: it is on
    /// its way there.
    pub(crate) doubts: BTreeMap<HardStateKind, u64>,
    /// What the open found that can't be read; what of it was put again since is still named.
    pub(crate) damaged: Vec<DamagedSlot>,
    pub(crate) mends: Mends,
    /// First LSN of what may be missing, until the log's owner settled it.
    pub(crate) cut: Option<Lsn>,
    /// The segment of the newest record of the cut; 0: none, or it is on its way.
    pub(crate) cut_in: u64,
    /// The lowest segment with a record of the cut.
    pub(crate) cuts_from: Option<u64>,
    /// The lowest segment that holds anything of the log, or held it.
    pub(crate) oldest: Option<u64>,
}

impl LogState {
    fn new(start: LogPosition) -> Self {
        Self {
            start,
            start_in: 0,
            runs: VecDeque::new(),
            slots: VecDeque::new(),
            epochs: VecDeque::new(),
            written: start,
            durable: start,
            hard: BTreeMap::new(),
            doubts: BTreeMap::new(),
            damaged: Vec::new(),
            mends: Mends::default(),
            cut: None,
            cut_in: 0,
            cuts_from: None,
            oldest: None,
        }
    }

    pub(crate) fn end(&self) -> LogPosition {
        let end = self.slots.back().map_or_else(|| self.folded_end(), Slot::end);
        // Behind a truncation to what was put again, it is the last that there is.
        self.mends.end().filter(|mended| mended.lsn > end.lsn).unwrap_or(end)
    }

    /// Where the slots begin.
    fn folded_end(&self) -> LogPosition {
        self.runs.back().map_or(self.start, |run| run.end)
    }

    /// Whether some of it can't be read.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.still_damaged().is_empty()
    }

    /// Whether the log has no batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.slots.is_empty()
    }

    /// Index of the first slot whose last LSN is at least `lsn`.
    pub(crate) fn slot_at(&self, lsn: Lsn) -> usize {
        // Most questions are about the end or a little before it: in steps that double, from there.
        let is_behind = |i: usize| self.slots.get(i).is_none_or(|slot| slot.last >= lsn);
        let (mut low, mut high) = (0, self.slots.len());
        let mut step = 1;
        while let Some(at) = self.slots.len().checked_sub(step) {
            if !is_behind(at) {
                low = at + 1;
                break;
            }
            high = at;
            step *= 2;
        }
        while low < high {
            let middle = low.midpoint(high);
            if is_behind(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// The run that holds `lsn`, or the first behind it.
    pub(crate) fn run_at(&self, lsn: Lsn) -> Option<&Run> {
        self.runs.get(self.runs.partition_point(|run| run.end.lsn < lsn))
    }

    pub(crate) fn position_at(&self, log: LogId, lsn: Lsn, cache: &IndexCache) -> Option<LogPosition> {
        if lsn == self.start.lsn {
            return Some(self.start);
        }
        if let Some(mended) = self.mends.at(lsn) {
            return (mended.slot.last == lsn).then(|| mended.slot.end());
        }
        if lsn > self.folded_end().lsn {
            return self.slots.get(self.slot_at(lsn)).filter(|slot| slot.last == lsn).map(Slot::end);
        }
        let run = self.run_at(lsn)?;
        if run.end.lsn == lsn {
            return Some(run.end);
        }
        let entries = cache.entries(run.segment, log)?;
        let entry = entries.get(entries.partition_point(|entry| entry.last < lsn))?;
        (entry.last == lsn && lsn >= run.first).then(|| self.entry_end(entry))
    }

    fn entry_end(&self, entry: &IndexEntry) -> LogPosition {
        LogPosition { epoch: self.epoch_of(entry.first), lsn: entry.last, chain: entry.chain }
    }

    /// The epoch of the record at `lsn`, which the log has.
    pub(crate) fn epoch_of(&self, lsn: Lsn) -> Epoch {
        let after = self.epochs.partition_point(|(_, first)| *first <= lsn);
        after.checked_sub(1).and_then(|i| self.epochs.get(i)).map_or(self.start.epoch, |(epoch, _)| *epoch)
    }

    /// The last boundary at or before `lsn` that is known: of a run whose index is not loaded, only its end is.
    pub(crate) fn boundary_at_or_before(&self, log: LogId, lsn: Lsn, cache: &IndexCache) -> Option<LogPosition> {
        if lsn < self.start.lsn {
            return None;
        }
        let known = self.unmended_boundary(log, lsn, cache);
        Some(self.mends.at_or_before(lsn).filter(|mended| mended.lsn > known.lsn).unwrap_or(known))
    }

    fn unmended_boundary(&self, log: LogId, lsn: Lsn, cache: &IndexCache) -> LogPosition {
        let folded = self.folded_end();
        if lsn >= folded.lsn {
            let after = self.slots.partition_point(|slot| slot.last <= lsn);
            return after.checked_sub(1).and_then(|i| self.slots.get(i)).map_or(folded, Slot::end);
        }
        let after = self.runs.partition_point(|run| run.end.lsn <= lsn);
        let below = after.checked_sub(1).and_then(|i| self.runs.get(i)).map_or(self.start, |run| run.end);
        let inside = self.runs.get(after).and_then(|run| {
            let entries = cache.entries(run.segment, log)?;
            let entry = entries.get(entries.partition_point(|entry| entry.last <= lsn).checked_sub(1)?)?;
            (entry.last >= run.first).then(|| self.entry_end(entry))
        });
        inside.unwrap_or(below)
    }

    /// The earliest position that is known to keep no more than so many bytes behind it: batches with what directories and
    /// footers say of them. Of the older part it is the end of a segment.
    pub(crate) fn boundary_keeping(&self, bytes_max: u64) -> Lsn {
        let slots = self.slots.iter().rev().map(|slot| (slot.last, slot.room()));
        let runs = self.runs.iter().rev().map(|run| (run.end.lsn, run.bytes));
        let mut kept = 0_u64;
        for (last, bytes) in slots.chain(runs) {
            kept = kept.saturating_add(bytes);
            if kept > bytes_max {
                return last;
            }
        }
        self.start.lsn
    }

    /// The segment whose index must be loaded before anything can be said about the boundary at or before `lsn`, or about
    /// the batch that holds it.
    pub(crate) fn index_needed(&self, lsn: Lsn, cache: &IndexCache) -> Option<u64> {
        let run = self.run_at(lsn).filter(|run| lsn >= run.first)?;
        (!cache.is_whole(run.segment)).then_some(run.segment)
    }

    pub(crate) fn has(&self, log: LogId, position: &LogPosition, cache: &IndexCache) -> bool {
        self.position_at(log, position.lsn, cache).as_ref() == Some(position)
    }

    /// The position that a group brought the log to, if it is still of the log: a truncation, a reset, or the same batch
    /// written again may have overtaken it.
    pub(crate) fn reached(&self, mark: &Mark, segment: u64) -> Option<LogPosition> {
        match mark.to {
            Reached::Batch { last, offset } => {
                let slot = self.slots.get(self.slot_at(last)).filter(|slot| slot.last == last)?;
                ((slot.segment, slot.offset) == (segment, offset)).then(|| slot.end())
            }
            Reached::Mended { .. } => None,
            Reached::Start(to) => (self.start == to).then_some(to),
        }
    }

    /// Whether a position is one of the log's, as far as it can still change, and durable.
    pub(crate) fn is_durable(&self, at: &LogPosition) -> bool {
        let changes = at.lsn > self.folded_end().lsn;
        let is_mended = || self.mends.at(at.lsn).is_some_and(|mended| mended.slot.end() == *at);
        let is_there = || self.slots.get(self.slot_at(at.lsn)).is_some_and(|slot| slot.end() == *at) || is_mended();
        at.lsn <= self.durable.lsn && (!changes || is_there())
    }

    /// The epochs of the batches, each with the first LSN that it has here.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = (Epoch, Lsn)> {
        let (start, empty) = (self.start.lsn.next(), self.is_empty());
        self.epochs.iter().filter(move |_| !empty).map(move |(epoch, first)| (*epoch, start.max(*first)))
    }

    /// The epoch of the first batch.
    pub(crate) fn first_epoch(&self) -> Option<Epoch> {
        let run = self.runs.front().map(|run| run.first);
        run.or_else(|| self.slots.front().map(|slot| slot.first)).map(|first| self.epoch_of(first))
    }

    fn note_epoch(&mut self, epoch: Epoch, first: Lsn) {
        if self.epochs.back().is_none_or(|(last, _)| *last != epoch) {
            self.epochs.push_back((epoch, first));
        }
    }

    /// As [`Self::note_epoch`], of a batch among others.
    pub(super) fn note_epoch_within(&mut self, epoch: Epoch, first: Lsn) {
        let i = self.epochs.partition_point(|(other, _)| *other < epoch);
        match self.epochs.get_mut(i).filter(|(other, _)| *other == epoch) {
            Some((_, start)) => *start = first.min(*start),
            None => self.epochs.insert(i, (epoch, first)),
        }
        self.forget_epochs_before();
    }

    /// Of an epoch that ended where the log begins it has nothing.
    fn forget_epochs_before(&mut self) {
        while self.epochs.get(1).is_some_and(|(_, first)| *first <= self.start.lsn.next()) {
            self.epochs.pop_front();
        }
    }

    pub(super) fn note_segment(&mut self, segment: u64) {
        if segment != 0 {
            self.oldest = Some(self.oldest.map_or(segment, |oldest| oldest.min(segment)));
        }
    }

    pub(crate) fn push(&mut self, slot: Slot) {
        self.note_epoch(slot.epoch, slot.first);
        self.note_segment(slot.segment);
        push_sparing(&mut self.slots, slot);
    }

    /// Takes a sealed segment's batches as one, behind all that is known.
    pub(crate) fn push_run(&mut self, run: Run, epochs: &[(Epoch, Lsn)]) {
        for (epoch, first) in epochs {
            self.note_epoch(*epoch, *first);
        }
        self.note_segment(run.segment);
        if !self.slots.is_empty() {
            debug_assert!(false, "runs are the older part");
        }
        push_sparing(&mut self.runs, run);
    }

    /// Gives the batch that ends at `at` its place, and tells the one that it had before, else 0. `None`: the batch is not
    /// there any more.
    pub(crate) fn place(&mut self, at: &LogPosition, segment: u64, offset: u32) -> Option<u64> {
        self.note_segment(segment);
        let i = self.slot_at(at.lsn);
        let slot = self.slots.get_mut(i).filter(|slot| slot.end() == *at)?;
        slot.offset = offset;
        Some(std::mem::replace(&mut slot.segment, segment))
    }

    /// Notes that a record of the log lies in a segment now.
    pub(crate) fn place_record(&mut self, record: &Record, segment: u64) {
        self.note_segment(segment);
        match record {
            Record::HardState { kind, .. } => {
                if let Some(hard) = self.hard.get_mut(kind) {
                    hard.segment = segment;
                }
            }
            Record::Mention { kind, .. } => {
                if let Some(place) = self.doubts.get_mut(kind) {
                    *place = segment;
                }
            }
            Record::Anchor { .. } | Record::Reset { .. } => self.start_in = segment,
            Record::Cut { .. } if self.cut.is_some() => {
                self.cut_in = segment;
                self.cuts_from = Some(self.cuts_from.map_or(segment, |from| from.min(segment)));
            }
            _ => {}
        }
    }

    /// Everything is there again; the lowest segment with a record that says otherwise, or that will have one: `active` is
    /// where the next group goes at the earliest.
    pub(crate) fn settle(&mut self, active: u64) -> Option<u64> {
        let unplaced = (self.cut.is_some() && self.cut_in == 0).then_some(active);
        (self.cut, self.cut_in) = (None, 0);
        self.cuts_from.take().map(|from| unplaced.map_or(from, |active| from.min(active))).or(unplaced)
    }

    /// The segments of which [`LogState::records_in`] has something to tell; 0 where it is on its way.
    pub(crate) fn said_in(&self) -> BTreeSet<u64> {
        let hard = self.hard.values().map(|hard| hard.segment);
        hard.chain(self.doubts.values().copied()).chain([self.start_in, self.cut_in]).collect()
    }

    /// What only the segment says of the log, to be said again. Behind a hard state in doubt stands that it is: said again by
    /// itself, it would be certain.
    pub(crate) fn records_in(&self, log: LogId, segment: u64) -> Vec<Record> {
        let mut records = Vec::new();
        if self.start_in == segment {
            records.push(Record::Anchor { log, at: self.start });
        }
        if let Some(from) = self.cut.filter(|_| self.cut_in == segment) {
            records.push(Record::Cut { log, from });
        }
        for kind in HardStateKind::ALL {
            let hard = self.hard.get(&kind).filter(|hard| hard.segment == segment);
            records.extend(hard.map(|hard| Record::HardState { log, kind, bytes: hard.bytes.clone() }));
            if self.doubts.get(&kind).is_some_and(|place| hard.is_some() || *place == segment) {
                records.push(Record::Mention { log, kind });
            }
        }
        records
    }

    /// Turns the slots that lie in segments up to `segment` into runs.
    pub(crate) fn fold(&mut self, segment: u64) -> usize {
        let count = self.slots.partition_point(|slot| slot.segment != 0 && slot.segment <= segment);
        for slot in self.slots.drain(..count) {
            let bytes = slot.room();
            match self.runs.back_mut().filter(|run| run.segment == slot.segment) {
                Some(run) => (run.end, run.bytes) = (slot.end(), run.bytes + bytes),
                None => {
                    let run = Run { segment: slot.segment, first: slot.first, end: slot.end(), bytes };
                    push_sparing(&mut self.runs, run);
                }
            }
        }
        self.slots.shrink_to(self.slots.len() + self.slots.len() / ROOM_SHARE);
        count
    }

    /// The runs that lie in `sources` lie in `target` now, the lowest of them.
    pub(crate) fn merge_runs(&mut self, sources: &BTreeSet<u64>, target: u64) {
        let start = self.runs.partition_point(|run| run.segment < target);
        let count = self.runs.iter().skip(start).take_while(|run| sources.contains(&run.segment)).count();
        let merged = self.runs.drain(start..start + count).reduce(|all, run| Run {
            segment: target,
            first: all.first,
            end: run.end,
            bytes: all.bytes + run.bytes,
        });
        if let Some(run) = merged {
            self.runs.insert(start, Run { segment: target, ..run });
        }
        let last = sources.last().copied().unwrap_or(target);
        if let Some(oldest) = self.oldest.as_mut().filter(|oldest| (target..=last).contains(*oldest)) {
            *oldest = target;
        }
    }

    /// What of the log is live in a segment: all behind what its first batch there follows, up to the end of the last one.
    /// `Err`: there is a gap before it.
    pub(crate) fn live_in(&self, segment: u64) -> Result<Option<(LogPosition, LogPosition)>, ()> {
        let found = if let Ok(i) = self.runs.binary_search_by_key(&segment, |run| run.segment) {
            let before = i.checked_sub(1).and_then(|i| self.runs.get(i)).map_or(self.start, |run| run.end);
            self.runs.get(i).map(|run| (before, run.first, run.end))
        } else {
            let start = self.slots.partition_point(|slot| slot.segment != 0 && slot.segment < segment);
            let within = self.slots.iter().skip(start).take_while(|slot| slot.segment == segment);
            let before =
                start.checked_sub(1).and_then(|i| self.slots.get(i)).map_or_else(|| self.folded_end(), Slot::end);
            let first = self.slots.get(start).map(|slot| slot.first);
            within.last().zip(first).map(|(last, first)| (before, first, last.end()))
        };
        match found {
            Some((before, first, end)) if before.lsn.next() == first => Ok(Some((before, end))),
            Some(_) => Err(()),
            None => Ok(None),
        }
    }

    pub(crate) fn truncate(&mut self, to: LogPosition) -> Freed {
        let mut freed = Freed::default();
        while let Some(slot) = self.slots.pop_back_if(|slot| slot.last > to.lsn) {
            freed.take(slot.segment, slot.room());
        }
        while let Some(run) = self.runs.pop_back_if(|run| run.first > to.lsn) {
            freed.take(run.segment, run.bytes);
        }
        if let Some(run) = self.runs.back_mut().filter(|run| run.end.lsn > to.lsn) {
            run.end = to;
            freed.touch(run.segment);
        }
        while self.epochs.pop_back_if(|(_, first)| *first > to.lsn).is_some() {}
        if self.is_empty() {
            self.epochs.clear(); // What it begins behind was released: what comes next is of another epoch, perhaps.
        }
        for mark in [&mut self.written, &mut self.durable] {
            if mark.lsn > to.lsn {
                *mark = to;
            }
        }
        // Who reads what is left of the log's older segments finds the same gaps again, and needs to hear of their end.
        let was_mended = self.mends.end().is_some_and(|end| end.lsn > to.lsn);
        let was_damaged = was_mended || self.damaged.iter().any(|range| range.last > to.lsn);
        if let Some(oldest) = self.oldest.filter(|_| was_damaged) {
            freed.touch(oldest);
        }
        self.damaged.retain(|range| range.first <= to.lsn);
        for range in &mut self.damaged {
            range.last = range.last.min(to.lsn);
        }
        self.mends.truncate(to.lsn, &mut freed);
        self.give_back();
        freed
    }

    /// Forgets the history; the log starts at `to`. What may be missing is so still, from there on.
    pub(crate) fn reset(&mut self, log: LogId, to: LogPosition) -> Freed {
        let freed = self.clear();
        self.cut = self.cut.map(|_| to.lsn.next());
        // Nothing of what is now the log is in the files until the record of this is.
        (self.start, self.written, self.durable) = (to, LogPosition::origin(log), LogPosition::origin(log));
        self.start_in = 0;
        freed
    }

    /// Everything of the log that segments hold, and what is on its way to one: its records too, not only its batches.
    fn clear(&mut self) -> Freed {
        let mut freed = Freed { from: self.oldest, unplaced: true, ..Freed::default() };
        for slot in self.slots.drain(..) {
            freed.take(slot.segment, slot.room());
        }
        for run in self.runs.drain(..) {
            freed.take(run.segment, run.bytes);
        }
        self.epochs.clear();
        self.damaged.clear();
        self.mends.clear(&mut freed);
        self.give_back();
        freed
    }

    fn give_back(&mut self) {
        give_back(&mut self.slots);
        give_back(&mut self.runs);
    }

    /// Bytes of memory for its batches, with the room for more.
    pub(crate) fn index_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.runs.capacity() * size_of::<Run>()
    }

    /// Everything up to `at` was released.
    pub(crate) fn release(&mut self, at: LogPosition) -> Freed {
        let mut freed = Freed::default();
        while let Some(run) = self.runs.pop_front_if(|run| run.end.lsn <= at.lsn) {
            freed.take(run.segment, run.bytes);
        }
        let is_nameless =
            self.damaged.iter().chain(self.mends.noted()).any(|it| it.first <= at.lsn && at.lsn <= it.last);
        let parted = self.runs.front_mut().filter(|run| run.first <= at.lsn).map(|run| {
            run.first = at.lsn.next();
            run.end.epoch
        });
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.last <= at.lsn) {
            freed.take(slot.segment, slot.room());
        }
        self.damaged.retain(|range| range.last > at.lsn);
        for range in &mut self.damaged {
            range.first = range.first.max(at.lsn.next());
        }
        self.mends.release(at.lsn, &mut freed);
        if self.start.lsn < at.lsn {
            self.start = at;
            self.start_in = 0;
        }
        self.forget_epochs_before();
        if self.is_empty() {
            self.epochs.clear();
        }
        // Where the record of an epoch's beginning was lost, what is released tells that it is this one from here on at the earliest.
        // (Of a run that it parts where nothing has a name only the end is certain then.)
        if parted.filter(|_| is_nameless).or_else(|| self.first_epoch()).is_some_and(|epoch| epoch >= at.epoch) {
            while self.epochs.get(1).is_some_and(|(epoch, _)| *epoch <= at.epoch) {
                self.epochs.pop_front();
            }
            if let Some(front) = self.epochs.front_mut().filter(|(epoch, _)| *epoch <= at.epoch) {
                *front = (at.epoch, front.1.min(at.lsn.next()));
            }
        }
        self.give_back();
        freed
    }
}

/// All logs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    logs: BTreeMap<LogId, LogState>,
    /// What was loaded of runs.
    pub(crate) cache: IndexCache,
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

    pub(crate) fn remove(&mut self, log: LogId) -> Freed {
        self.logs.remove(&log).map_or_else(Freed::default, |mut state| state.clear())
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

    pub(crate) fn position_at(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        match self.get(log) {
            Some(state) => state.position_at(log, lsn, &self.cache),
            None => (lsn == Lsn::ZERO).then(|| LogPosition::origin(log)),
        }
    }

    pub(crate) fn boundary_at_or_before(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        match self.get(log) {
            Some(state) => state.boundary_at_or_before(log, lsn, &self.cache),
            None => Some(LogPosition::origin(log)),
        }
    }

    pub(crate) fn has(&self, log: LogId, position: &LogPosition) -> bool {
        self.get(log).is_some_and(|state| state.has(log, position, &self.cache))
    }

    pub(crate) fn index_needed(&self, log: LogId, lsn: Lsn) -> Option<u64> {
        self.get(log)?.index_needed(lsn, &self.cache)
    }

    /// Turns slots of segments up to this one into runs; how many slots that were.
    pub(crate) fn fold(&mut self, segment: u64) -> usize {
        self.logs.values_mut().map(|state| state.fold(segment)).sum()
    }
}

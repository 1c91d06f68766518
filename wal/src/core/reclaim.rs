//! What may go: a segment of which nothing is live any more is retired by a record, and its file is used again.
//!
//! What must hold, or the dead come back at some later open:
//! 1. A segment is retired behind everything that made it dead: the record goes through the same queue.
//! 2. What only it says and is still true (hard states, doubts of them, starts, cuts) is said again before it is retired.
//! 3. A segment with a record that killed something outlives the files of what it killed.
//! 4. What is gone is said again as well: else all that a segment's records retired would be missing once it is retired
//!    itself, if the header rots that was written since.
//! 5. A segment whose header says where the one before it ends outlives it, until that says so itself, in a footer.

use std::collections::{BTreeMap, BTreeSet};

use super::{Index, Item, Life, LogCore, Queued, Spare, live_set};
use crate::core::segments::ranges;
use crate::format::layout::len_u32;
use crate::format::record::Record;
use crate::io::{IoOp, IoRequest};
use crate::limits::RELOCATION_BYTES_MAX;

/// What is freed is at least so many times what must be said again for it: that lies in its group, again in the next one, in
/// the footer, and in what pads them.
const RELOCATION_SHARE: u64 = 8;

/// What the logs need of dead segments, by one look at each log, however many are dead.
///
/// That no batch of a log is in them is known: none of their bytes is live.
#[derive(Debug, Default, PartialEq)]
struct Needs {
    /// What only they say, log by log.
    said: BTreeMap<u64, Vec<Record>>,
    /// Those that hold what can't be read, and is still its log's.
    damaged: BTreeSet<u64>,
    /// Of some log something may be missing.
    any_doubt: bool,
}

impl Needs {
    fn of(index: &Index, dead: &BTreeSet<u64>) -> Self {
        let mut needs = Self::default();
        if dead.is_empty() {
            return needs;
        }
        for (log, state) in index.iter() {
            needs.any_doubt |= state.cut.is_some() || state.is_damaged();
            needs.damaged.extend(state.damaged.iter().map(|range| range.segment));
            for number in state.said_in().into_iter().filter(|number| dead.contains(number)) {
                let records = state.records_in(log, number);
                if !records.is_empty() {
                    needs.said.entry(number).or_default().extend(records);
                }
            }
        }
        needs
    }
}

/// Whether so much room is worth saying so many bytes of records again. If they took most of what they free, they would fill
/// the segments to which they go, and those be dead in their turn, for ever.
pub(super) fn is_worth(bytes: usize, freed: u64) -> bool {
    u64::from(len_u32(bytes)).saturating_mul(RELOCATION_SHARE) <= freed
}

impl LogCore {
    /// Looks for segments that nothing needs any more, if there may be some.
    pub(crate) fn reclaim(&mut self) {
        if !self.reclaim_due || !matches!(self.life, Life::Running) || self.closing.is_some() {
            return;
        }
        (self.reclaim_due, self.freed_bytes) = (false, 0);
        let active = self.active.as_ref().map(|active| active.header.number);
        let sealed = self.segments.iter().filter(|(number, _)| Some(*number) != active);
        let dead = sealed.filter(|(number, s)| s.is_dead() && !self.is_taken(*number));
        let dead: BTreeSet<u64> = dead.map(|(number, _)| number).collect();
        let mut needs = Needs::of(&self.index, &dead);
        let mut left = self.segments.staying();
        let left_bytes_max = live_set::bytes_max(self.options.segment_bytes);
        let (mut relocated, mut gone_is_said) = (0, false);
        // What can't be written must not stand in front of what gives room back.
        let must_fit = !self.next_segment_is_ready();
        for number in dead {
            if self.sealing.values().any(|sealing| *sealing == number)
                || left.bytes_without(number, number) > left_bytes_max.max(left.bytes())
            {
                continue;
            }
            let before = left.before(number).and_then(|before| Some((before, self.segments.get(before)?)));
            if let Some((before, segment)) = before.filter(|(_, before)| !before.has_footer) {
                if segment.footer_was_found && !self.is_taken(before) {
                    self.sync_footer(before);
                }
                continue;
            }
            // What was lost in it is looked for as long as it is there. (Hard states in doubt are on record.)
            let doubted = self.segments.get(number).is_some_and(|segment| segment.is_damaged);
            if needs.damaged.contains(&number) || (doubted && needs.any_doubt) {
                continue;
            }
            let gone = if gone_is_said { Vec::new() } else { self.what_is_gone() };
            let again = needs.said.remove(&number).unwrap_or_default();
            if !is_worth(again.iter().map(Record::encoded_len).sum(), self.options.segment_bytes) {
                continue;
            }
            let records: Vec<Record> =
                gone.into_iter().chain(again).chain([Record::Retirement { segment: number }]).collect();
            let waits_with_batches = !must_fit && !self.no_room;
            let place = if waits_with_batches { self.queue.len() } else { self.place_before_batches() };
            if must_fit && !self.has_room_for_records(place, &records) {
                continue;
            }
            self.enqueue_at(place, records.iter().cloned());
            gone_is_said = true;
            relocated += records.iter().map(Record::encoded_len).sum::<usize>();
            if let Some(segment) = self.segments.get_mut(number) {
                segment.retiring = true;
            }
            left.remove(number, number);
            if relocated > RELOCATION_BYTES_MAX {
                self.reclaim_due = true;
                return;
            }
        }
        self.consider_compaction();
    }

    /// Makes a footer durable that an earlier life wrote: what the open read may have been in the cache alone, and lost
    /// with it nothing would tell any more where the segment ends. If it is not on the medium, the segment is one without.
    ///
    /// When it is first needed and no earlier: a sync of a file of which nothing is dirty waits for the device all the same,
    /// and an open would wait for one of each segment.
    fn sync_footer(&mut self, segment: u64) {
        if self.sealing.values().any(|sealing| *sealing == segment) {
            return;
        }
        let Some(request) = self.index_request(segment) else { return };
        let id = self.io_id();
        self.sealing.insert(id, segment);
        // DURABLE: the footer, before the segment that says the same is retired (attacked by
        // `a_footer_found_in_the_cache_is_made_durable_before_the_next_segment_goes`, and by
        // `a_footer_whose_sync_failed_in_an_earlier_life_counts_as_missing`).
        self.seals.push_back(IoRequest { id, op: IoOp::ConfirmFooter(request) });
    }

    fn is_taken(&self, number: u64) -> bool {
        self.compaction.as_ref().is_some_and(|compaction| compaction.takes(number))
    }

    /// All numbers below the active segment's that are no segment any more, or will be none behind what is in the queue. As
    /// many records at most as there are ranges in a header, and one.
    fn what_is_gone(&self) -> Vec<Record> {
        // Until the name of the file that stands for them is durable, compacted ones are there.
        let there = self.segments.iter().filter(|(number, segment)| !segment.retiring || self.is_taken(*number));
        let there = ranges(there.map(|(number, _)| number));
        let mut first = 1;
        let mut gone = Vec::new();
        for (start, end) in there {
            if first < start {
                gone.push(Record::Gone { first, last: start - 1 });
            }
            first = end + 1;
        }
        gone
    }

    /// Behind all in the queue that makes something dead, and in front of the batches behind that: on a full disk they wait
    /// for the room that a retirement brings. A submission is not torn apart.
    pub(super) fn place_before_batches(&self) -> usize {
        let waits = |queued: &Queued| matches!(queued.item, Item::Batch { .. } | Item::Barrier);
        let last = self.queue.iter().rposition(|queued| !waits(queued)).map_or(0, |last| last + 1);
        let units = self.queue.iter().enumerate().skip(last.saturating_sub(1));
        let end = units.filter(|(_, queued)| queued.ends_unit).map(|(i, _)| i + 1).next();
        if last == 0 { 0 } else { end.unwrap_or(last) }
    }

    /// A record of the log's own, of which nobody waits.
    pub(super) fn enqueue(&mut self, record: Record) {
        self.enqueue_at(self.queue.len(), [record].into_iter());
    }

    fn enqueue_at(&mut self, place: usize, records: impl Iterator<Item = Record>) {
        for (place, record) in (place..).zip(records) {
            if let Record::Mention { log, kind } = &record
                && let Some(before) = place.checked_sub(1).and_then(|before| self.queue.get_mut(before))
                && before.item.is_hard_state(*log, *kind)
            {
                // A crash between the two would leave it certain.
                before.ends_unit = false;
            }
            let item = Item::Record { record, kills_from: None };
            self.queue_bytes += item.weight();
            self.queue.insert(place, Queued { item, ticket: None, ends_unit: true });
        }
    }

    /// The record that retires it is durable.
    pub(super) fn on_retired(&mut self, number: u64) {
        let Some(segment) = self.segments.get(number) else { return };
        let is_whole = !segment.compacted && !segment.is_damaged;
        self.segments.remove(number);
        self.index.cache.forget(number);
        self.spare.push_back(Spare { segment: number, is_whole });
        self.stats.retired += 1;
    }

    /// Keeps the index within its bound: the oldest batches are known by their segments' footers only.
    pub(super) fn fold(&mut self) {
        let slots_max = self.options.index_bytes_max / size_of::<super::Slot>();
        let mut slots: usize = self.index.iter().map(|(_, state)| state.slots.len()).sum();
        if slots <= slots_max {
            return;
        }
        let sealed: Vec<u64> = self.segments.iter().filter(|(_, s)| s.last_group > 0).map(|(n, _)| n).collect();
        for number in sealed {
            if slots <= slots_max || self.sealing.values().any(|sealing| *sealing == number) {
                return;
            }
            slots -= self.index.fold(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::{DamagedSlot, HardState};
    use crate::format::ids::{LogId, Lsn};
    use crate::format::record::HardStateKind;

    fn chance(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        }
    }

    #[test]
    fn one_look_at_each_log_finds_what_a_look_for_each_segment_does() {
        let mut below = chance(17);
        for _ in 0..300 {
            let mut index = Index::default();
            for n in 0..below(8) {
                let state = index.log(LogId::new(u128::from(n)));
                (state.start_in, state.cut_in) = (below(6), below(6));
                state.cut = (below(2) == 0).then_some(Lsn::FIRST);
                for kind in HardStateKind::ALL.into_iter().take(usize::try_from(below(5)).unwrap()) {
                    state.hard.insert(kind, HardState { bytes: Bytes::new(), segment: below(6) });
                    if below(3) == 0 {
                        state.doubts.insert(kind, below(6));
                    }
                }
                if below(4) == 0 {
                    let (first, last, segment) = (Lsn::FIRST, Lsn::new(2), below(6));
                    state.damaged.push(DamagedSlot { first, last, segment, offset: 0 });
                }
            }
            let dead: BTreeSet<u64> = (1..6).filter(|_| below(2) == 0).collect();
            let needs = Needs::of(&index, &dead);
            for number in dead {
                let said: Vec<Record> = index.iter().flat_map(|(log, state)| state.records_in(log, number)).collect();
                assert_eq!(needs.said.get(&number).cloned().unwrap_or_default(), said);
                let is_damaged = |range: &DamagedSlot| range.segment == number;
                let damaged = index.iter().any(|(_, state)| state.damaged.iter().any(is_damaged));
                assert_eq!(needs.damaged.contains(&number), damaged);
                let doubt = index.iter().any(|(_, state)| state.cut.is_some() || state.is_damaged());
                assert_eq!(needs.any_doubt, doubt);
            }
        }
    }
}

//! What may go: a segment of which nothing is live any more is retired by a record, and its file is used again.
//!
//! What must hold, or the dead come back at some later open:
//! 1. A segment is retired behind everything that made it dead: the record goes through the same queue.
//! 2. What only it says and is still true (hard states, starts, cuts) is said again before it is retired.
//! 3. A segment with a record that killed something outlives the files of what it killed.
//! 4. What is gone is said again as well: else all that a segment's records retired would be missing once it is retired
//!    itself, if the header rots that was written since.
//! 5. A segment whose header says where the one before it ends outlives it, until that says so itself, in a footer.

use super::{Item, Life, LogCore, Queued, Spare};
use crate::core::index::LogState;
use crate::core::segments::ranges;
use crate::format::record::Record;
use crate::io::{IoOp, IoRequest};
use crate::limits::{LIVE_RANGES_KEPT_MAX, RELOCATION_BYTES_MAX};

impl LogCore {
    /// Looks for segments that nothing needs any more, if there may be some.
    pub(super) fn reclaim(&mut self) {
        if !self.reclaim_due || !matches!(self.life, Life::Running) || self.closing.is_some() {
            return;
        }
        (self.reclaim_due, self.freed_bytes) = (false, 0);
        let dead = self.segments.iter().filter(|(number, s)| s.is_dead() && !self.is_taken(*number));
        let dead: Vec<u64> = dead.map(|(number, _)| number).collect();
        let (mut relocated, mut gone_is_said) = (0, false);
        for number in dead {
            if self.sealing.values().any(|sealing| *sealing == number) || !self.may_leave_a_hole(number) {
                continue;
            }
            if let Some((before, segment)) = self.segments.before(number).filter(|(_, before)| !before.has_footer) {
                if segment.footer_was_found && !self.is_taken(before) {
                    self.sync_footer(before);
                }
                continue;
            }
            // What was lost in it is doubted as long as it is there.
            let doubted = self.segments.get(number).is_some_and(|segment| segment.is_damaged);
            let needed =
                |state: &LogState| state.lives_in(number) || (doubted && (state.cut.is_some() || state.is_damaged()));
            if self.index.iter().any(|(_, state)| needed(state)) {
                continue;
            }
            let records: Vec<Record> =
                self.index.iter().flat_map(|(log, state)| state.records_in(log, number)).collect();
            relocated += records.iter().map(Record::encoded_len).sum::<usize>();
            if !std::mem::replace(&mut gone_is_said, true) {
                self.say_what_is_gone();
            }
            records.into_iter().for_each(|record| self.enqueue(record));
            self.enqueue(Record::Retirement { segment: number });
            if let Some(segment) = self.segments.get_mut(number) {
                segment.retiring = true;
            }
            if relocated > RELOCATION_BYTES_MAX {
                self.reclaim_due = true;
                return;
            }
        }
        self.consider_compaction();
    }

    /// Makes a footer durable that an earlier life wrote: what the open read may have been in the cache alone, and lost
    /// with it nothing would tell any more where the segment ends.
    ///
    /// When it is first needed and no earlier: a sync of a file of which nothing is dirty waits for the device all the same,
    /// and an open would wait for one of each segment.
    fn sync_footer(&mut self, segment: u64) {
        if self.sealing.values().any(|sealing| *sealing == segment) {
            return;
        }
        let id = self.io_id();
        self.sealing.insert(id, segment);
        // DURABLE: the footer, before the segment that says the same is retired (attacked by
        // `a_footer_found_in_the_cache_is_made_durable_before_the_next_segment_goes`).
        let op = IoOp::Seal { segment, offset: 0, slices: Vec::new(), wipe: Vec::new() };
        self.seals.push_back(IoRequest { id, op });
    }

    fn is_taken(&self, number: u64) -> bool {
        self.compaction.as_ref().is_some_and(|compaction| compaction.takes(number))
    }

    /// All numbers below the active segment's that are no segment any more, or will be none behind what is in the queue. As
    /// many records at most as there are ranges in a header, and one.
    fn say_what_is_gone(&mut self) {
        // Until the name of the file that stands for them is durable, compacted ones are there.
        let there = self.segments.iter().filter(|(number, segment)| !segment.retiring || self.is_taken(*number));
        let there = ranges(there.map(|(number, _)| number));
        let mut first = 1;
        for (start, end) in there {
            if first < start {
                self.enqueue(Record::Gone { first, last: start - 1 });
            }
            first = end + 1;
        }
    }

    /// Headers name live segments by ranges, and hold so many.
    fn may_leave_a_hole(&self, number: u64) -> bool {
        let left = self.segments.iter().filter(|(n, s)| !s.retiring && *n != number).map(|(n, _)| n);
        ranges(left).len() <= LIVE_RANGES_KEPT_MAX
    }

    /// A record of the log's own, of which nobody waits.
    pub(super) fn enqueue(&mut self, record: Record) {
        let item = Item::Record { record, kills_from: None };
        self.queue_bytes += item.weight();
        self.queue.push_back(Queued { item, ticket: None, ends_unit: true });
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

//! What may be accepted: everything is checked, then everything is changed.

use std::collections::BTreeMap;

use super::index::LogState;
use super::reclaim::is_worth;
use super::{Entry, Freed, HardState, Item, Life, LogCore, Queued, Slot, Ticket, WhenFull};
use crate::error::SubmitError;
use crate::format::batch::Batch;
use crate::format::footer::{FOOTER_BYTES_PER_BATCH, Footer};
use crate::format::ids::{LogId, LogPosition, Lsn};
use crate::format::layout::len_u32;
use crate::format::record::Record;
use crate::limits::{BLOCK_BYTES, HARD_STATE_BYTES_MAX, LOGS_MAX};

/// A log as the entries of one submission leave it, before any of it is applied.
struct Staged {
    /// What is left of the history that was there before.
    base: LogPosition,
    /// The ends of this submission's batches behind it.
    added: Vec<LogPosition>,
    /// Damage that this submission discards does not stand in its way.
    reset: bool,
    /// The same of damage behind what is left.
    is_cut: bool,
    /// The ends of what it puts again.
    mended: Vec<LogPosition>,
    /// Nothing more may be said of the log in this submission.
    is_over: bool,
}

impl Staged {
    fn end(&self) -> LogPosition {
        self.added.last().copied().unwrap_or(self.base)
    }
}

impl LogCore {
    /// Accepts entries in order; they complete together. If they fit a group they are in one, and after a crash all of them
    /// are there or none; otherwise in consecutive ones, and a prefix may be there.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing of the submission was taken.
    pub fn submit(&mut self, entries: Vec<Entry>) -> Result<Ticket, SubmitError> {
        self.submit_when(entries, WhenFull::Refuse)
    }

    /// As [`LogCore::submit`], saying what happens on a full disk.
    ///
    /// # Errors
    /// As [`LogCore::submit`].
    pub fn submit_when(&mut self, entries: Vec<Entry>, full: WhenFull) -> Result<Ticket, SubmitError> {
        self.admit(&entries, full)?;
        self.validate(&entries)?;
        if self.goes_ahead(&entries) {
            return Ok(self.accept_ahead(entries));
        }
        let last = entries.len() - 1;
        Ok(self.accept_all(entries.into_iter(), last))
    }

    /// As [`LogCore::submit`], of one batch, and without an allocation.
    ///
    /// # Errors
    /// As [`LogCore::submit`].
    pub fn submit_batch(&mut self, batch: Batch) -> Result<Ticket, SubmitError> {
        let entry = [Entry::Batch(batch)];
        self.admit(&entry, WhenFull::Refuse)?;
        self.validate(&entry)?;
        Ok(self.accept_all(entry.into_iter(), 0))
    }

    /// As [`LogCore::submit_batch`], of a batch that waited within a bound of its own, and is taken beyond that of the queue.
    pub(crate) fn take_in(&mut self, batch: Batch) -> Result<Ticket, SubmitError> {
        self.admit_life()?;
        let entry = [Entry::Batch(batch)];
        self.admit_room(&entry, WhenFull::Refuse)?;
        self.validate(&entry)?;
        Ok(self.accept_all(entry.into_iter(), 0))
    }

    /// Bytes of what was left that are taken in now. On a full disk all: batches are refused there, and must not lie in front of
    /// what gives room back.
    pub(crate) const fn inbox_room(&self) -> usize {
        if self.no_room { usize::MAX } else { self.queue_room() }
    }

    #[cfg(all(test, not(shuttle)))]
    pub(crate) const fn find_no_room(&mut self) {
        self.no_room = true;
    }

    pub(crate) const fn busy(&self) -> SubmitError {
        SubmitError::Busy { queue_bytes_max: self.options.queue_bytes_max }
    }

    /// Bytes that the queue takes now; anything if it is empty, otherwise a submission above the bound could never be made.
    pub(crate) const fn queue_room(&self) -> usize {
        if self.queue_bytes == 0 { usize::MAX } else { self.options.queue_bytes_max.saturating_sub(self.queue_bytes) }
    }

    fn accept_all(&mut self, entries: impl Iterator<Item = Entry>, last: usize) -> Ticket {
        let ticket = self.ticket();
        self.stats.submissions += 1;
        for (i, entry) in entries.enumerate() {
            let item = self.accept(entry);
            self.queue_bytes += item.weight();
            self.stats.entries += 1;
            let ticket = (i == last).then_some(ticket);
            self.queue.push_back(Queued { item, ticket, ends_unit: i == last });
        }
        ticket
    }

    /// On a full disk releases don't wait behind batches that wait for the room that they bring. What they release is durable, so
    /// it is nothing that is still in the queue.
    fn goes_ahead(&self, entries: &[Entry]) -> bool {
        self.no_room && entries.iter().all(|entry| matches!(entry, Entry::Release { .. } | Entry::Begin { .. }))
    }

    /// The records go in front of batches that wait; that they are durable is told in the order of tickets all the same.
    fn accept_ahead(&mut self, entries: Vec<Entry>) -> Ticket {
        let place = self.place_before_batches();
        let is_last = place == self.queue.len();
        let ticket = self.ticket();
        self.stats.submissions += 1;
        let last = entries.len() - 1;
        for (i, entry) in entries.into_iter().enumerate() {
            let item = self.accept(entry);
            self.queue_bytes += item.weight();
            self.stats.entries += 1;
            let ticket = (i == last && is_last).then_some(ticket);
            self.queue.insert(place + i, Queued { item, ticket, ends_unit: i == last });
        }
        if !is_last {
            self.queue.push_back(Queued { item: Item::Barrier, ticket: Some(ticket), ends_unit: true });
        }
        ticket
    }

    /// A ticket that completes when all that was accepted is durable; `None`: it is already.
    ///
    /// # Errors
    /// [`SubmitError::Poisoned`], [`SubmitError::Closed`].
    pub fn barrier(&mut self) -> Result<Option<Ticket>, SubmitError> {
        self.admit_life()?;
        if self.queue.is_empty() && self.in_flight.is_empty() {
            return Ok(None);
        }
        let ticket = self.ticket();
        if self.queue.is_empty()
            && let Some(group) = self.in_flight.back_mut()
        {
            group.tickets.push(ticket);
        } else {
            self.queue.push_back(Queued { item: Item::Barrier, ticket: Some(ticket), ends_unit: true });
        }
        Ok(Some(ticket))
    }

    fn admit_life(&self) -> Result<(), SubmitError> {
        match &self.life {
            Life::Running if self.closing.is_none() => Ok(()),
            Life::Running | Life::Closed => Err(SubmitError::Closed),
            Life::Poisoned(failure) => Err(SubmitError::Poisoned(failure.clone())),
        }
    }

    /// Whether the log as a whole takes more.
    fn admit(&mut self, entries: &[Entry], full: WhenFull) -> Result<(), SubmitError> {
        self.admit_life()?;
        if entries.is_empty() {
            return Err(SubmitError::Empty);
        }
        if entries.iter().map(weight).sum::<usize>() > self.queue_room() {
            return Err(self.busy());
        }
        self.admit_room(entries, full)
    }

    fn admit_room(&mut self, entries: &[Entry], full: WhenFull) -> Result<(), SubmitError> {
        if self.no_room && !self.has_room_for(entries) {
            self.retry_preparation = true;
            if full == WhenFull::Refuse {
                return Err(SubmitError::DiskFull);
            }
        }
        Ok(())
    }

    /// On a full disk only what certainly fits is accepted, so that what was accepted always becomes durable.
    fn has_room_for(&self, entries: &[Entry]) -> bool {
        let asked = entries.iter().map(|entry| {
            let (batch, weight) = (entry.batch_bytes(), weight(entry));
            (weight - batch, batch, if batch > 0 { FOOTER_BYTES_PER_BATCH } else { weight })
        });
        let reserve = entries.iter().map(|entry| self.reserve(entry)).max().unwrap_or(0);
        let is = |entry: &Entry| {
            (matches!(entry, Entry::Batch(_) | Entry::Mend(_)), matches!(entry, Entry::HardState { .. }))
        };
        let any = entries.iter().map(is).fold((false, false), |all, one| (all.0 || one.0, all.1 || one.1));
        if any.0 && !self.takes_batches() {
            return false;
        }
        if any.1 && !self.takes_hard_states(asked.clone().map(|(directory, ..)| directory).sum()) {
            return false;
        }
        let behind = if self.goes_ahead(entries) { self.place_before_batches() } else { self.queue.len() };
        self.has_room(behind, asked.clone(), reserve)
            || (any == (false, false) && self.may_give_room_in_the_next() && self.next_has_room(behind, asked, reserve))
    }

    /// A segment of the reserve says no more than may be said again, so that it can be given up.
    fn takes_hard_states(&self, bytes: usize) -> bool {
        let said = self.active.as_ref().map_or(0, |active| active.footer.growth());
        let waiting: usize = self.queue.iter().map(|queued| queued.item.footer_growth()).sum();
        self.ready.len() >= self.segments_reserved() || is_worth(said + waiting + bytes, self.options.segment_bytes)
    }

    /// The same for what the log itself has to say behind the first entries that wait.
    pub(super) fn has_room_for_records(&self, behind: usize, records: &[Record]) -> bool {
        // They go together, in as few groups as their directories fit.
        let directory_max = Self::directory_bytes_max(self.options.segment_bytes) - HARD_STATE_BYTES_MAX;
        let bytes: usize = records.iter().map(Record::encoded_len).sum();
        let full = (0..bytes / directory_max).map(|_| directory_max);
        self.has_room(behind, full.chain([bytes % directory_max]).map(|bytes| (bytes, 0, bytes)), 0)
    }

    /// Whether the first entries that wait and what is asked for, each a directory's bytes, a batch's and a footer's, certainly
    /// fit the active segment and leave the reserve free.
    fn has_room(&self, behind: usize, asked: impl Iterator<Item = (usize, usize, usize)>, reserve: u64) -> bool {
        let Some(active) = &self.active else { return false };
        let room = active.header.segment_bytes.saturating_sub(active.offset);
        self.is_room(room, &active.footer, behind, asked, reserve)
    }

    /// As [`Self::has_room`], of an empty segment.
    fn next_has_room(&self, behind: usize, asked: impl Iterator<Item = (usize, usize, usize)>, reserve: u64) -> bool {
        let room = self.options.segment_bytes.saturating_sub(BLOCK_BYTES);
        self.is_room(room, &Footer::default(), behind, asked, reserve)
    }

    fn is_room(
        &self,
        room: u64,
        footer: &Footer,
        behind: usize,
        asked: impl Iterator<Item = (usize, usize, usize)>,
        reserve: u64,
    ) -> bool {
        let waiting = self.queue.iter().take(behind).map(|queued| {
            let item = &queued.item;
            (item.directory_len(), item.batch_len(), item.footer_growth())
        });
        // The group that ends the log, and the zeroes behind it.
        let mut need = reserve + 3 * BLOCK_BYTES + u64::from(len_u32(2 * self.repeat.len()));
        let mut growth = 0;
        for (directory, batch, grows) in waiting.chain(asked) {
            // It could make a group of its own: a header, its directory and the one before, padding.
            need += 2 * BLOCK_BYTES + u64::from(len_u32(2 * directory)) + u64::from(len_u32(batch));
            growth += grows;
            if need + footer.room_with(growth) > room {
                return false;
            }
        }
        true
    }

    /// Bytes of the last segment that an entry leaves free on a full disk: batches to hard states, these to releases and
    /// others that may give room back, and those to what retires the segments that they empty.
    fn reserve(&self, entry: &Entry) -> u64 {
        // What a group of few records takes, with the zeroes behind it.
        let step = 2 * BLOCK_BYTES;
        match entry {
            Entry::Batch(_) | Entry::Mend(_) => (self.options.segment_bytes / 16).max(3 * step),
            Entry::HardState { .. } => (self.options.segment_bytes / 32).max(2 * step),
            Entry::Truncate { .. }
            | Entry::Settle { .. }
            | Entry::Release { .. }
            | Entry::Begin { .. }
            | Entry::Reset { .. }
            | Entry::Remove { .. } => step,
        }
    }

    fn validate(&self, entries: &[Entry]) -> Result<(), SubmitError> {
        if let [Entry::Batch(batch)] = entries {
            // As below, for what nearly every submission is.
            let (known, end) = (self.index.get(batch.log()), self.index.end(batch.log()));
            self.validate_batch(known, batch.last_lsn(), end, batch)?;
            return self.validate_logs(usize::from(known.is_none()));
        }
        let mut staged = BTreeMap::new();
        let mut new_logs = 0;
        for entry in entries {
            let log = entry.log();
            let known = self.index.get(log);
            let state = staged.entry(log).or_insert_with(|| {
                new_logs += usize::from(known.is_none());
                let (base, added, mended) = (self.index.end(log), Vec::new(), Vec::new());
                Staged { base, added, reset: false, is_cut: false, mended, is_over: false }
            });
            if state.is_over {
                return Err(SubmitError::NotLast { log });
            }
            match entry {
                Entry::Batch(batch) => {
                    let known = known.filter(|_| !state.reset);
                    // What a truncation cut off is over, and what lies behind the batch is not in its way yet.
                    let reaches = if state.is_cut { state.base.lsn } else { batch.last_lsn() };
                    self.validate_batch(known, reaches, state.end(), batch)?;
                    state.added.push(batch.position());
                }
                Entry::Mend(batch) => {
                    too_large(batch.bytes().len(), self.batch_bytes_max())?;
                    let (first, last) = (batch.first_lsn(), batch.last_lsn());
                    let is_other = state.reset || state.is_cut;
                    let known = known.filter(|_| !is_other).ok_or(SubmitError::NotDamaged { log, first, last })?;
                    known.validate_mend(batch, &state.mended, &self.index.cache)?;
                    state.mended.push(batch.position());
                }
                Entry::Truncate { log, to } => self.validate_truncate(*log, state, to)?,
                Entry::HardState { bytes, .. } => too_large(bytes.len(), HARD_STATE_BYTES_MAX)?,
                Entry::Settle { .. } => {}
                Entry::Reset { log, to } => {
                    // Before the first record there is but one position.
                    if to.lsn == Lsn::ZERO && *to != LogPosition::origin(*log) {
                        return Err(SubmitError::NotABoundary { log: *log, to: *to });
                    }
                    (state.base, state.reset) = (*to, true);
                    state.added.clear();
                }
                Entry::Begin { at, .. } => {
                    let known = known.filter(|_| !state.reset && !state.is_cut && state.mended.is_empty());
                    if known.is_none_or(|known| !known.may_begin_at(log, at, &self.index.cache)) {
                        return Err(SubmitError::NotABoundary { log, to: *at });
                    }
                    state.is_over = true;
                }
                Entry::Release { .. } | Entry::Remove { .. } => {
                    if known.is_none() {
                        return Err(SubmitError::UnknownLog { log });
                    }
                    state.is_over = true;
                }
            }
        }
        self.validate_logs(new_logs)
    }

    fn validate_logs(&self, new: usize) -> Result<(), SubmitError> {
        if self.index.len() + new > LOGS_MAX {
            return Err(SubmitError::TooManyLogs { logs_max: LOGS_MAX });
        }
        Ok(())
    }

    /// Whether a batch continues its log, which ends at `end`, and of which no damage begins up to `reaches`.
    fn validate_batch(
        &self,
        log: Option<&LogState>,
        reaches: Lsn,
        end: LogPosition,
        batch: &Batch,
    ) -> Result<(), SubmitError> {
        too_large(batch.bytes().len(), self.batch_bytes_max())?;
        // Also damage behind the log's end, where the boundary of a truncation was lost: what was written there would be taken for
        // damaged for ever.
        if let Some(from) = log.and_then(|log| log.damage_before(reaches)) {
            return Err(SubmitError::Damaged { log: batch.log(), from });
        }
        if !batch.follows(&end) {
            return Err(SubmitError::DoesNotFollow {
                log: batch.log(),
                first_lsn: batch.first_lsn(),
                prev: batch.header().chain,
                end,
                why: why_not(batch, &end),
            });
        }
        Ok(())
    }

    /// Changes the log; nothing here can fail.
    fn accept(&mut self, entry: Entry) -> Item {
        match entry {
            Entry::Batch(batch) => {
                let state = self.index.log(batch.log());
                let before = state.end();
                state.push(unplaced(&batch));
                Item::Batch { batch, before: Some(before) }
            }
            Entry::Mend(batch) => {
                let (log, state) = (batch.log(), self.index.log(batch.log()));
                if batch.last_lsn() <= state.start.lsn {
                    // Nothing is to be mended there any more; so something else is said that is so.
                    let at = state.start;
                    return Item::Record { record: Record::Anchor { log, at }, kills_from: None };
                }
                let freed = state.mend(unplaced(&batch), false);
                self.freed(&freed);
                Item::Batch { batch, before: None }
            }
            Entry::Truncate { log, to } => {
                let freed = self.index.log(log).truncate(to);
                self.killed(Record::Truncate { log, to }, &freed)
            }
            Entry::HardState { log, kind, bytes } => {
                let hard = HardState { bytes: bytes.clone(), segment: 0 };
                let state = self.index.log(log);
                state.hard.insert(kind, hard);
                // Whatever says the doubt again from here on stands in front of this one.
                state.doubts.remove(&kind);
                Item::Record { record: Record::HardState { log, kind, bytes }, kills_from: None }
            }
            Entry::Settle { log } => {
                let active = self.last_segment();
                let kills_from = self.index.log(log).settle(active);
                Item::Record { record: Record::Settled { log }, kills_from }
            }
            Entry::Release { log, before } => {
                let durable = self.durable_end(log).lsn;
                let at = self.index.boundary_at_or_before(log, before.prev().min(durable));
                let state = self.index.log(log);
                let at = at.unwrap_or(state.start);
                self.begin(log, at)
            }
            Entry::Begin { log, at } => {
                let start = self.index.log(log).start;
                self.begin(log, if at.lsn > start.lsn { at } else { start })
            }
            Entry::Reset { log, to } => {
                let freed = self.index.log(log).reset(log, to);
                self.killed(Record::Reset { log, to }, &freed)
            }
            Entry::Remove { log } => {
                let freed = self.index.remove(log);
                self.killed(Record::Remove { log }, &freed)
            }
        }
    }

    /// The log begins behind `at` from here on.
    fn begin(&mut self, log: LogId, at: LogPosition) -> Item {
        let freed = self.index.log(log).release(at);
        self.freed(&freed);
        // What is dead by it is so by the newest record of the start, which is kept as long as the log is.
        Item::Record { record: Record::Anchor { log, at }, kills_from: None }
    }

    /// A record that must outlive what it made dead.
    fn killed(&mut self, record: Record, freed: &Freed) -> Item {
        self.freed(freed);
        Item::Record { record, kills_from: freed.lowest(self.last_segment()) }
    }

    pub(super) fn freed(&mut self, freed: &Freed) {
        let emptied = self.segments.freed(&freed.bytes);
        self.freed_bytes += freed.bytes.values().sum::<u64>();
        // Not at each release: it takes a look at all segments.
        self.reclaim_due |= emptied || self.freed_bytes >= self.options.segment_bytes / 2;
    }

    fn validate_truncate(&self, log: LogId, staged: &mut Staged, to: &LogPosition) -> Result<(), SubmitError> {
        let refused = SubmitError::NotABoundary { log, to: *to };
        staged.is_cut = true;
        if to.lsn > staged.base.lsn {
            let kept = staged.added.iter().position(|at| at == to).ok_or(refused)?;
            staged.added.truncate(kept + 1);
            return Ok(());
        }
        let there = match self.index.get(log) {
            _ if staged.reset => *to == staged.base,
            None => *to == LogPosition::origin(log),
            Some(state) => state.has(log, to, &self.index.cache),
        };
        if !there {
            return Err(refused);
        }
        staged.base = *to;
        staged.added.clear();
        Ok(())
    }
}

/// A batch that has no place yet.
fn unplaced(batch: &Batch) -> Slot {
    let LogPosition { epoch, lsn: last, chain } = batch.position();
    let len = u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX);
    Slot { first: batch.first_lsn(), last, epoch, chain, segment: 0, offset: 0, len }
}

fn too_large(bytes: usize, bytes_max: usize) -> Result<(), SubmitError> {
    if bytes > bytes_max { Err(SubmitError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
}

fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Batch(batch) | Entry::Mend(batch) => batch.bytes().len() + crate::format::record::BATCH_RECORD_BYTES,
        Entry::Truncate { .. } | Entry::Release { .. } | Entry::Begin { .. } | Entry::Reset { .. } => 56,
        Entry::Settle { .. } | Entry::Remove { .. } => 24,
        Entry::HardState { bytes, .. } => bytes.len() + 32,
    }
}

fn why_not(batch: &Batch, end: &LogPosition) -> &'static str {
    if batch.first_lsn() != end.lsn.next() {
        "its first LSN is not the next one"
    } else if batch.epoch() < end.epoch {
        "its epoch is below the log's"
    } else if batch.header().prev_epoch != end.epoch {
        "it continues another epoch"
    } else {
        "its chain continues another history"
    }
}

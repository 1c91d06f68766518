//! What may be accepted: everything is checked, then everything is changed.

use std::collections::BTreeMap;

use super::index::LogState;
use super::{Entry, Item, Life, LogCore, Queued, Slot, Ticket, WhenFull};
use crate::error::SubmitError;
use crate::format::batch::Batch;
use crate::format::ids::{LogId, LogPosition, Lsn};
use crate::format::record::Record;
use crate::limits::{BLOCK_BYTES, HARD_STATE_BYTES_MAX, LOGS_MAX};

/// A log as the entries of one submission leave it, before any of it is applied.
struct Staged {
    /// What is left of the history that was there before.
    base: LogPosition,
    /// The ends of this submission's batches behind it.
    added: Vec<LogPosition>,
}

impl Staged {
    fn end(&self) -> LogPosition {
        self.added.last().copied().unwrap_or(self.base)
    }
}

impl LogCore {
    /// Accepts entries in order, in one group or in consecutive ones; they complete together.
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
        let ticket = self.ticket();
        let last = entries.len() - 1;
        self.stats.submissions += 1;
        for (i, entry) in entries.into_iter().enumerate() {
            let item = self.accept(entry);
            self.queue_bytes += item.weight();
            self.stats.entries += 1;
            self.queue.push_back(Queued { item, ticket: (i == last).then_some(ticket) });
        }
        Ok(ticket)
    }

    /// Whether the log as a whole takes more.
    fn admit(&mut self, entries: &[Entry], full: WhenFull) -> Result<(), SubmitError> {
        match &self.life {
            Life::Running if self.closing.is_none() => {}
            Life::Running | Life::Closed => return Err(SubmitError::Closed),
            Life::Poisoned(failure) => return Err(SubmitError::Poisoned(failure.clone())),
        }
        if entries.is_empty() {
            return Err(SubmitError::Empty);
        }
        let weight: usize = entries.iter().map(weight).sum();
        let queue_bytes_max = self.options.queue_bytes_max;
        // An empty queue takes anything, otherwise a submission above the bound could never be made.
        if self.queue_bytes > 0 && self.queue_bytes + weight > queue_bytes_max {
            return Err(SubmitError::Busy { queue_bytes_max });
        }
        if self.no_room && !self.has_room_for(weight, entries.len()) {
            self.retry_preparation = true;
            if full == WhenFull::Refuse {
                return Err(SubmitError::DiskFull);
            }
        }
        Ok(())
    }

    /// On a full disk only what certainly fits is accepted, so that what was accepted always becomes durable.
    fn has_room_for(&self, weight: usize, entries: usize) -> bool {
        // Each entry could make a group of its own: twice its directory, the header, the padding, its footer.
        let each = 2 * usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        let waiting = self.queue.len() + entries;
        let need = 2 * (self.queue_bytes + weight) + (waiting + 2) * each + 2 * self.repeat.len();
        let here = self.active.as_ref().map_or(0, |active| {
            let room = active.header.segment_bytes.saturating_sub(active.offset);
            room.saturating_sub(active.footer.room_with(need))
        });
        u64::try_from(need).is_ok_and(|need| need <= here)
    }

    fn validate(&self, entries: &[Entry]) -> Result<(), SubmitError> {
        if let [Entry::Batch(batch)] = entries {
            // As below, for what nearly every submission is.
            let (known, end) = (self.index.get(batch.log()), self.index.end(batch.log()));
            self.validate_batch(known, end.lsn, end, batch)?;
            return self.validate_logs(usize::from(known.is_none()));
        }
        let mut staged = BTreeMap::new();
        let mut new_logs = 0;
        for entry in entries {
            let log = match entry {
                Entry::Batch(batch) => batch.log(),
                Entry::Truncate { log, .. } | Entry::HardState { log, .. } | Entry::Settle { log } => *log,
            };
            let known = self.index.get(log);
            let state = staged.entry(log).or_insert_with(|| {
                new_logs += usize::from(known.is_none());
                Staged { base: self.index.end(log), added: Vec::new() }
            });
            match entry {
                Entry::Batch(batch) => {
                    self.validate_batch(known, state.base.lsn, state.end(), batch)?;
                    state.added.push(batch.position());
                }
                Entry::Truncate { log, to } => validate_truncate(*log, known, state, to)?,
                Entry::HardState { bytes, .. } => too_large(bytes.len(), HARD_STATE_BYTES_MAX)?,
                Entry::Settle { .. } => {}
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

    /// Whether a batch continues its log, of which the history up to `base` is left, and which ends at `end`.
    fn validate_batch(
        &self,
        log: Option<&LogState>,
        base: Lsn,
        end: LogPosition,
        batch: &Batch,
    ) -> Result<(), SubmitError> {
        too_large(batch.bytes().len(), self.batch_bytes_max())?;
        // Damage is outlived by a truncation below it, in this submission too.
        if let Some(range) = log.and_then(|log| log.damaged.iter().find(|range| range.first <= base)) {
            return Err(SubmitError::Damaged { log: batch.log(), from: range.first });
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
                let at = batch.position();
                state.push(Slot {
                    first: batch.first_lsn(),
                    last: at.lsn,
                    epoch: at.epoch,
                    chain: at.chain,
                    segment: 0,
                    offset: 0,
                    len: u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX),
                });
                Item::Batch { batch, before }
            }
            Entry::Truncate { log, to } => {
                self.index.log(log).truncate(to);
                Item::Record(Record::Truncate { log, to })
            }
            Entry::HardState { log, kind, bytes } => {
                self.index.log(log).hard.insert(kind, bytes.clone());
                Item::Record(Record::HardState { log, kind, bytes })
            }
            Entry::Settle { log } => {
                self.index.log(log).cut = None;
                Item::Record(Record::Settled { log })
            }
        }
    }
}

fn validate_truncate(
    log: LogId,
    known: Option<&LogState>,
    staged: &mut Staged,
    to: &LogPosition,
) -> Result<(), SubmitError> {
    let refused = SubmitError::NotABoundary { log, to: *to };
    if to.lsn > staged.base.lsn {
        let kept = staged.added.iter().position(|at| at == to).ok_or(refused)?;
        staged.added.truncate(kept + 1);
        return Ok(());
    }
    let there = known.map_or_else(|| *to == LogPosition::origin(log), |state| state.has(to));
    if !there {
        return Err(refused);
    }
    staged.base = *to;
    staged.added.clear();
    Ok(())
}

fn too_large(bytes: usize, bytes_max: usize) -> Result<(), SubmitError> {
    if bytes > bytes_max { Err(SubmitError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
}

fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Batch(batch) => batch.bytes().len() + crate::format::record::BATCH_RECORD_BYTES,
        Entry::Truncate { .. } => 56,
        Entry::Settle { .. } => 24,
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

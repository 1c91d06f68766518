//! What is durable, and what is poisoned. Completions are in the order of tickets, because groups become durable in
//! their order.

use super::index::Reached;
use super::{Completion, Cut, InFlight, Item, Life, LogCore, Queued, Syncing, Ticket};
use crate::error::WalError;
use crate::format::ids::LogPosition;
use crate::format::record::Record;
use crate::io::{IoFailure, IoId, IoOp, IoRequest};

impl LogCore {
    /// Takes the result of a request. An error of a write or sync poisons the log: what was being made durable is in
    /// doubt, and no later sync can prove it.
    pub fn on_io(&mut self, id: IoId, result: Result<(), IoFailure>) {
        if matches!(self.life, Life::Poisoned(_)) {
            return;
        }
        let aside = self.on_preparation(id, &result).or_else(|| self.on_compaction(id, &result));
        if let Some(done) = aside {
            if let Err(failure) = done {
                self.poison(failure);
            }
            return;
        }
        if let Err(failure) = result {
            // Where files are never written in place a footer may find no room, and a process no descriptor. It is not needed.
            let may_fail = failure.is_no_space() || failure.is_refusal() || failure.is_without_footer();
            let sealing = if may_fail { self.sealing.remove(&id) } else { None };
            let Some(segment) = sealing else {
                self.poison(failure);
                return;
            };
            if failure.is_without_footer()
                && let Some(segment) = self.segments.get_mut(segment)
            {
                // The next open writes another.
                segment.footer_was_found = false;
                self.look_again_behind_footers();
            }
            return;
        }
        if self.syncing.as_ref().is_some_and(|syncing| syncing.id == id) {
            self.on_synced();
        } else if let Some(segment) = self.sealing.remove(&id) {
            if let Some(segment) = self.segments.get_mut(segment) {
                segment.has_footer = true;
            }
            self.look_again_behind_footers();
            self.fold();
        } else {
            self.on_written(id);
        }
    }

    /// What a footer's want held up may go. Once for many that are read again: a look takes as long as there are segments.
    fn look_again_behind_footers(&mut self) {
        self.reclaim_due |= !self.seals.iter().any(|request| matches!(request.op, IoOp::ConfirmFooter(_)));
    }

    /// The next submission that is done, oldest first.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// A sync of what is written, if something is and none is under way.
    pub(crate) fn poll_sync(&mut self) -> Option<IoRequest> {
        let (segment, through) = self.unsynced()?;
        let id = self.io_id();
        self.syncing = Some(Syncing { id, through });
        Some(IoRequest { id, op: IoOp::Sync { segment } })
    }

    /// The segment and the last group of what the next sync is for; `None`: nothing is written, or a sync is under way.
    pub(super) fn unsynced(&self) -> Option<(u64, u64)> {
        let segment = self.in_flight.front().filter(|_| self.syncing.is_none())?.segment;
        let written = self.in_flight.iter().take_while(|group| group.writing.is_none() && group.segment == segment);
        written.last().map(|group| (segment, group.number))
    }

    fn on_written(&mut self, id: IoId) {
        let Some(i) = self.in_flight.iter().position(|group| group.writing == Some(id)) else {
            debug_assert!(false, "a result for request {id}, which is not under way");
            return;
        };
        let Some(group) = self.in_flight.get_mut(i) else {
            return;
        };
        group.writing = None;
        for mark in &group.marks {
            let Some(state) = self.index.get_mut(mark.log) else { continue };
            if let Reached::Mended { last, offset } = mark.to {
                state.mends.is_written(last, group.segment, offset);
            }
            if let Some(at) = state.reached(mark, group.segment).filter(|at| at.lsn > state.written.lsn) {
                state.written = at;
            }
        }
    }

    fn on_synced(&mut self) {
        let Some(Syncing { through, .. }) = self.syncing.take() else {
            return;
        };
        self.stats.syncs += 1;
        while let Some(group) = self.in_flight.pop_front_if(|group| group.number <= through) {
            assert_eq!(group.number, self.durable_group + 1, "groups become durable in order");
            self.durable_group = group.number;
            self.on_durable(group);
        }
    }

    /// The one place where something becomes durable.
    fn on_durable(&mut self, group: InFlight) {
        self.queue_bytes -= group.weight;
        for mark in &group.marks {
            let Some(state) = self.index.get_mut(mark.log) else { continue };
            if let Reached::Mended { last, .. } = mark.to {
                state.is_mended(last, group.segment);
            }
            if let Some(at) = state.reached(mark, group.segment).filter(|at| at.lsn > state.durable.lsn) {
                state.durable = at;
            }
        }
        for segment in group.retires {
            self.on_retired(segment);
        }
        if group.compacts
            && let Some(compaction) = &mut self.compaction
        {
            compaction.begin();
        }
        if group.closing {
            self.life = Life::Closed;
        }
        for ticket in group.tickets {
            self.complete(ticket, Ok(()));
        }
    }

    pub(super) fn complete(&mut self, ticket: Ticket, result: Result<(), WalError>) {
        self.completions.push_back(Completion { ticket, result });
    }

    /// Ends the log as a failed write does.
    pub(crate) fn fail(&mut self, failure: IoFailure) {
        if matches!(self.life, Life::Running) {
            self.poison(failure);
        }
    }

    fn poison(&mut self, failure: IoFailure) {
        let waiting: Vec<Ticket> = self
            .in_flight
            .iter()
            .flat_map(|group| group.tickets.iter().copied())
            .chain(self.queue.iter().filter_map(|queued| queued.ticket))
            .chain(self.closing.filter(|_| !self.in_flight.iter().any(|group| group.closing)))
            .collect();
        self.life = Life::Poisoned(failure.clone());
        for ticket in waiting {
            self.complete(ticket, Err(WalError::Poisoned(failure.clone())));
        }
        self.queue.clear();
        self.in_flight.clear();
        self.syncing = None;
        self.preparing = None;
        self.compaction = None;
        self.seals.clear();
        self.queue_bytes = 0;
    }

    /// Whether a write or sync failed: nothing is acknowledged any more until the log is reopened.
    #[must_use]
    pub const fn poisoned(&self) -> Option<&IoFailure> {
        match &self.life {
            Life::Poisoned(failure) => Some(failure),
            Life::Running | Life::Closed => None,
        }
    }

    /// What this open dropped, or found damaged, and which hard states it doubts, goes into its first groups.
    pub(crate) fn record_cuts(&mut self) {
        let cuts = self.cuts().into_iter().map(|Cut { log, from }| Record::Cut { log, from });
        let doubts = self.index.iter().flat_map(|(log, state)| state.doubts.keys().map(move |kind| (log, *kind)));
        let records: Vec<Record> = cuts.chain(doubts.map(|(log, kind)| Record::Mention { log, kind })).collect();
        for record in records {
            let item = Item::Record { record, kills_from: None };
            self.queue_bytes += item.weight();
            self.queue.push_back(Queued { item, ticket: None, ends_unit: true });
        }
    }

    /// Everything at the open is durable: recovery settled it.
    pub(crate) fn trust_recovered(&mut self) {
        for (_, state) in self.index.iter_mut() {
            let end: LogPosition = state.end();
            (state.written, state.durable) = (end, end);
        }
    }
}

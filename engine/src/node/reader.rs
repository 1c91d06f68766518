//! The log's reader: cold reads for followers that are behind, away from the sequencers' threads.
//!
//! One that catches up takes as much of the disk and of the network as there is, and whoever writes meanwhile waits for both. So
//! while something is written to this node's log, what is read for each node that is behind is paced ([`Pace`]): a bound, but always so
//! much more than is written that it comes nearer. While nothing is written it has all there is; and so has one for which writes
//! themselves wait, as it takes part in the only majority there is.

use super::shard::{Event, now};
use crate::model::{LogPosition, NodeId};
use crate::replica::ReadPurpose;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use towline_wal::{Batch, LogId, ReadError, Wal};

/// Read batches behind a position, for a peer.
pub(super) struct ReadTask {
    pub(super) log: LogId,
    pub(super) events: super::Inbox,
    pub(super) peer: NodeId,
    pub(super) session: u64,
    pub(super) purpose: ReadPurpose,
    pub(super) after: LogPosition,
    pub(super) bytes_max: usize,
    /// Nobody waits for it but the follower itself.
    pub(super) may_wait: bool,
}

pub(super) enum ReadOrder {
    Read(ReadTask),
    /// What waits to be read of this log for this node waits for nothing any more: writes need it now.
    Hurry {
        log: LogId,
        peer: NodeId,
    },
    End,
}

pub(super) struct ReaderThread {
    wal: Arc<Wal>,
    orders: Receiver<ReadOrder>,
    /// For each that is behind while something is written; 0: as many as there are.
    bytes_per_second: u64,
    load: Load,
    behind: BTreeMap<NodeId, Behind>,
}

/// A node for which reads are paced.
#[derive(Default)]
struct Behind {
    pace: Pace,
    /// To catch up, one of each shard at the most.
    waiting: VecDeque<ReadTask>,
}

impl ReaderThread {
    pub(super) fn new(wal: Arc<Wal>, orders: Receiver<ReadOrder>, catch_up_bytes_per_second: u64) -> Self {
        let (bytes_per_second, load) = (catch_up_bytes_per_second, Load::new(now()));
        Self { wal, orders, bytes_per_second, load, behind: BTreeMap::new() }
    }

    /// Runs until it is told to end.
    pub(super) fn run(mut self) {
        self.serve();
    }

    fn serve(&mut self) {
        loop {
            let next = self.behind.values().filter(|behind| !behind.waiting.is_empty()).map(|behind| behind.pace.free);
            let order = match next.min() {
                None => self.orders.recv().map_err(RecvTimeoutError::from),
                Some(at) => self.orders.recv_deadline(at),
            };
            match order {
                Ok(ReadOrder::Read(task)) => self.take(task),
                Ok(ReadOrder::Hurry { log, peer }) => self.hurry(log, peer),
                Ok(ReadOrder::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // One of each at a time: what else was ordered is looked at in between.
            let peers: Vec<NodeId> = self.behind.keys().copied().collect();
            peers.into_iter().for_each(|peer| self.take_turn(peer));
        }
    }

    /// One that waits already for the same follower is not wanted any more: feeding it began again elsewhere, or on another connection.
    fn take(&mut self, task: ReadTask) {
        if task.purpose == ReadPurpose::CatchUp
            && let Some(ReadTask { events, peer, session, .. }) = self.waiting(task.log, task.peer)
        {
            events.send(Event::LogUnread { peer, session });
        }
        if task.may_wait {
            self.behind.entry(task.peer).or_default().waiting.push_back(task);
        } else {
            self.read(task);
        }
    }

    /// Takes out what waits to be read of a log, for a node to catch up.
    fn waiting(&mut self, log: LogId, peer: NodeId) -> Option<ReadTask> {
        let waiting = &mut self.behind.get_mut(&peer)?.waiting;
        let at = waiting.iter().position(|task| task.log == log && task.purpose == ReadPurpose::CatchUp)?;
        waiting.remove(at)
    }

    fn hurry(&mut self, log: LogId, peer: NodeId) {
        if let Some(task) = self.waiting(log, peer) {
            self.read(task);
        }
    }

    fn take_turn(&mut self, peer: NodeId) {
        let begun = now();
        let Some(behind) = self.behind.get_mut(&peer).filter(|behind| behind.pace.free <= begun) else { return };
        let Some(task) = behind.waiting.pop_front() else { return };
        let bytes = self.read(task);
        let bound = self.bound(begun);
        if let Some(behind) = self.behind.get_mut(&peer) {
            behind.pace.took(bytes, begun, bound);
        }
    }

    /// So many bytes a second for one that is behind; none: as many as there are.
    fn bound(&mut self, at: Instant) -> Option<u64> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let wal = &self.wal;
        self.load.look(at, || {
            let stats = wal.stats();
            (stats.batch_bytes, stats.groups)
        });
        self.load.bound(self.bytes_per_second)
    }

    /// Gives how many bytes were read.
    fn read(&mut self, task: ReadTask) -> usize {
        let read = self.wal.read(task.log, task.after.lsn.next(), task.bytes_max);
        self.answer(task, read)
    }

    fn answer(&mut self, task: ReadTask, read: Result<Vec<Batch>, ReadError>) -> usize {
        if let Err(error @ ReadError::Io(failure)) = &read
            && failure.is_refusal()
        {
            // Nothing is known to be wrong with the log: no descriptor was left, perhaps. Nobody else would ask again.
            tracing::warn!(peer = %task.peer, after = %task.after.lsn, %error, "the log can't be read for a follower now: it is tried again");
            let behind = self.behind.entry(task.peer).or_default();
            behind.pace.free = behind.pace.free.max(now() + PAUSE_MAX);
            behind.waiting.push_back(task);
            return 0;
        }
        let ReadTask { events, peer, session, purpose, after, .. } = task;
        let batches = match read {
            Ok(batches) => batches,
            Err(error) => {
                if matches!(error, ReadError::Corrupt { .. }) {
                    events.send(Event::DamageFound);
                }
                // A follower never gets bad bytes (D13); it stays where it is until the range is there again.
                tracing::error!(%peer, after = %after.lsn, %error, "the log can't be read for a follower");
                Vec::new()
            }
        };
        let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
        events.send(Event::LogRead { peer, session, purpose, after, batches });
        bytes
    }
}

/// Nobody waits longer for a turn: by then it is to be seen how much is written.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// When the next read for a node that is behind may begin. What was not used is not saved up.
#[derive(Debug)]
struct Pace {
    free: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { free: now() }
    }
}

impl Pace {
    /// So many bytes were read by a read that began then.
    fn took(&mut self, bytes: usize, begun: Instant, bound: Option<u64>) {
        let Some(bound) = bound else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / bound.max(1) as f64).min(PAUSE_MAX);
        self.free = self.free.max(begun).checked_add(takes).unwrap_or(begun);
    }
}

/// How long it is looked at how much is written, before that is gone by.
const LOOK: Duration = Duration::from_millis(500);
/// What is written a second to this node's log below which nothing is held up: bytes, and groups. An idle cluster writes less of its
/// own accord; a single client that waits for each of its small writes does not, however slow it has become.
const QUIET: (f64, f64) = (65_536.0, 4.0);
/// So many times what is written is read, however low the bound: a follower that came no nearer would need a snapshot in the end.
const TIMES_WRITTEN: f64 = 2.0;

/// How much is written to this node's log.
#[derive(Debug)]
struct Load {
    looked: Instant,
    /// What had been written by then: bytes of batches, and groups.
    written: (u64, u64),
    /// Both, a second; none where it was not looked at for long.
    rate: Option<(f64, f64)>,
}

impl Load {
    const fn new(at: Instant) -> Self {
        Self { looked: at, written: (0, 0), rate: None }
    }

    fn look(&mut self, at: Instant, written: impl FnOnce() -> (u64, u64)) {
        let since = at.saturating_duration_since(self.looked);
        if since < LOOK {
            return;
        }
        let (batch_bytes, groups) = written();
        let a_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / since.as_secs_f64();
        let rate = (a_second(batch_bytes, self.written.0), a_second(groups, self.written.1));
        // Of a long time nothing is said about now.
        self.rate = (since < LOOK * 4).then_some(rate);
        (self.looked, self.written) = (at, (batch_bytes, groups));
    }

    /// Bytes a second for one that is behind, where so many are to do; none: as many as there are.
    fn bound(&self, bytes_per_second: u64) -> Option<u64> {
        match self.rate {
            Some((bytes, groups)) if bytes < QUIET.0 && groups < QUIET.1 => None,
            Some((bytes, _)) => Some(bytes_per_second.max((bytes * TIMES_WRITTEN) as u64)),
            // Until it is known, as if it were much.
            None => Some(bytes_per_second),
        }
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod tests;

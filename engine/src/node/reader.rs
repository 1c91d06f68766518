//! The log's reader: cold reads for followers that are behind, away from the sequencers' threads.
//!
//! One that catches up takes as much of the disk and of the network as there is, and whoever writes meanwhile waits for both. So
//! while something is written to this node's log, what is read for those who catch up is paced (`CatchUpPace`): a bound, but always so
//! much more than is written that they come nearer. While nothing is written they have all there is.

use super::shard::{Event, now};
use crate::model::{LogPosition, NodeId};
use crate::replica::ReadPurpose;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use towline_wal::{LogId, ReadError, Wal};

/// Read batches behind a position, for a peer.
pub(super) struct ReadTask {
    pub(super) log: LogId,
    pub(super) events: super::Inbox,
    pub(super) peer: NodeId,
    pub(super) session: u64,
    pub(super) purpose: ReadPurpose,
    pub(super) after: LogPosition,
    pub(super) bytes_max: usize,
}

pub(super) enum ReadOrder {
    Read(ReadTask),
    End,
}

pub(super) struct ReaderThread {
    wal: Arc<Wal>,
    orders: Receiver<ReadOrder>,
    pace: CatchUpPace,
    /// Whose turn is not yet: a peer has one such read of a shard, so there are no more than shards and peers.
    paced: VecDeque<ReadTask>,
}

impl ReaderThread {
    pub(super) fn new(wal: Arc<Wal>, orders: Receiver<ReadOrder>, catch_up_bytes_per_second: u64) -> Self {
        let pace = CatchUpPace::new(catch_up_bytes_per_second, now());
        Self { wal, orders, pace, paced: VecDeque::new() }
    }

    /// Runs until it is told to end.
    pub(super) fn run(mut self) {
        loop {
            let order = if self.paced.is_empty() {
                self.orders.recv().map_err(RecvTimeoutError::from)
            } else {
                self.orders.recv_deadline(self.pace.free)
            };
            match order {
                // Others wait for these: a new leader that can't begin, a log that is damaged.
                Ok(ReadOrder::Read(task)) if task.purpose != ReadPurpose::CatchUp => drop(self.read(task)),
                Ok(ReadOrder::Read(task)) => self.paced.push_back(task),
                Ok(ReadOrder::End) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            // One at a time: what else was ordered is looked at in between.
            if self.pace.free <= now()
                && let Some(task) = self.paced.pop_front()
            {
                let bytes = self.read(task);
                self.pace.took(bytes, now(), || self.wal.stats().batch_bytes);
            }
        }
    }

    /// Gives how many bytes were read.
    fn read(&self, task: ReadTask) -> usize {
        let ReadTask { log, events, peer, session, purpose, after, bytes_max } = task;
        let batches = match self.wal.read(log, after.lsn.next(), bytes_max) {
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

/// How long it is looked at how much is written, before that is gone by.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes written a second to this node's log below which nothing is held up: what an idle cluster writes of its own accord is less.
const QUIET_BYTES_PER_SECOND: u64 = 64 << 10;
/// So many times what is written is read, however low the bound: a follower that came no nearer would need a snapshot in the end.
const TIMES_WRITTEN: u64 = 2;
/// Nobody waits longer for a turn: it is to be seen how much is written by then.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// When the next read for a follower that is behind may begin. What was not used is not saved up.
#[derive(Debug)]
struct CatchUpPace {
    /// While others write; 0: as many as there are.
    bytes_per_second: u64,
    free: Instant,
    /// What the log had written when it was looked at last.
    looked: Instant,
    written: u64,
    /// Bytes written a second; none where it was not looked at for long.
    rate: Option<u64>,
}

impl CatchUpPace {
    const fn new(bytes_per_second: u64, at: Instant) -> Self {
        Self { bytes_per_second, free: at, looked: at, written: 0, rate: None }
    }

    /// So many bytes were read, up to now.
    fn took(&mut self, bytes: usize, at: Instant, written: impl FnOnce() -> u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let since = at.saturating_duration_since(self.looked);
        if since >= LOOK {
            let written = written();
            let new = written.saturating_sub(self.written);
            // Of a long time nothing is said about now.
            self.rate = (since < LOOK * 4).then(|| (new as f64 / since.as_secs_f64()) as u64);
            (self.looked, self.written) = (at, written);
        }
        let bound = match self.rate {
            Some(rate) if rate < QUIET_BYTES_PER_SECOND => return,
            // Until it is known, as if it were much.
            rate => self.bytes_per_second.max(rate.unwrap_or(0).saturating_mul(TIMES_WRITTEN)),
        };
        let takes = Duration::from_secs_f64(bytes as f64 / bound as f64).min(PAUSE_MAX);
        self.free = self.free.max(at).checked_add(takes).unwrap_or(at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inbox;
    use super::*;
    use crate::model::{Epoch, ShardId};
    use crate::pipeline::{Ready, SubmissionQueue};
    use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Entry};

    const MIB: usize = 1 << 20;

    /// How long these many reads of a mebibyte take, each of which takes a millisecond, while so much is written a second.
    fn takes(pace: &mut CatchUpPace, begin: Instant, reads: u32, written_per_second: u64) -> Duration {
        let mut at = begin;
        for _ in 0..reads {
            at = at.max(pace.free) + Duration::from_millis(1);
            let written = (at.saturating_duration_since(begin).as_secs_f64() * written_per_second as f64) as u64;
            pace.took(MIB, at, || written);
        }
        at.saturating_duration_since(begin)
    }

    #[test]
    fn who_catches_up_has_all_there_is_while_nothing_is_written_and_its_bound_while_something_is() {
        let begin = now();
        let pace = || CatchUpPace::new(16 * MIB as u64, begin);
        let alone = takes(&mut pace(), begin, 10_000, 1000);
        assert!(alone > Duration::from_secs(10) && alone < Duration::from_secs(12), "{alone:?}");
        let beside = takes(&mut pace(), begin, 160, 5 * MIB as u64);
        assert!(beside > Duration::from_secs(9) && beside < Duration::from_secs(11), "{beside:?}");
    }

    /// Otherwise it would never come near, and the log would be kept for it in vain.
    #[test]
    fn twice_as_much_is_read_as_is_written_however_low_the_bound() {
        let begin = now();
        let mut pace = CatchUpPace::new(1000, begin);
        let (mut at, mut read) = (begin, 0);
        let end = begin + Duration::from_secs(3600);
        let rate = 20 * MIB as u64;
        while at < end {
            at = at.max(pace.free) + Duration::from_millis(1);
            pace.took(MIB, at, || (at.saturating_duration_since(begin).as_secs_f64() * rate as f64) as u64);
            read += MIB as u64;
        }
        assert!(read > 3600 * rate, "{read} bytes");
    }

    /// While one who catches up waits for its turn, a new leader gets what it lacks, and the node closes.
    #[test]
    fn who_is_paced_holds_up_nobody_else_and_not_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(directory.path(), towline_wal::Options::default()).unwrap();
        let log = LogId::new(1);
        let origin = LogPosition::origin(log);
        let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), origin, 0)
            .block(Block::encode(vec![7; 1000].into(), 1, Compression::Never))
            .seal()
            .unwrap();
        wal.submit(vec![Entry::Batch(batch)]).unwrap().wait().unwrap();
        let bell = Ready::new().bell(ShardId::new(1));
        let queue = Arc::new(SubmissionQueue::new(8, 1 << 20, Arc::clone(&bell)));
        let (inbox, events) = Inbox::new(queue, bell);
        let (orders, taken) = crossbeam::channel::unbounded();
        let order = |purpose, session| {
            let (peer, events) = (NodeId::new(2), inbox.clone());
            let task = ReadTask { log, events, peer, session, purpose, after: origin, bytes_max: 1 << 20 };
            orders.send(ReadOrder::Read(task)).unwrap();
        };
        order(ReadPurpose::CatchUp, 1);
        order(ReadPurpose::CatchUp, 2);
        order(ReadPurpose::Fetch(Epoch::new(1, 1)), 3);
        orders.send(ReadOrder::End).unwrap();
        let mut reader = ReaderThread::new(Arc::new(wal), taken, 1);
        reader.pace.free = now() + Duration::from_secs(3600);
        reader.run();
        let read = std::iter::from_fn(|| events.next()).map(|event| match event {
            Event::LogRead { session, batches, .. } => (session, batches.len()),
            _ => unreachable!("nothing else is sent"),
        });
        assert_eq!(read.collect::<Vec<_>>(), [(3, 1)]);
    }

    #[test]
    fn without_a_bound_nobody_waits_or_looks() {
        let begin = now();
        let mut pace = CatchUpPace::new(0, begin);
        pace.took(usize::MAX, begin + Duration::from_secs(1), || unreachable!("nobody asks"));
        assert_eq!(pace.free, begin);
    }
}

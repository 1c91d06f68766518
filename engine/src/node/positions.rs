//! How far a shard is, for every thread that wants to know, and for those who wait until it is further.

use crate::model::{Lsn, NodeId};
use crate::pipeline::sync::{AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, wake};
use std::collections::BTreeMap;
#[cfg(feature = "cluster")]
use std::task::Poll;
use std::task::Waker;
use std::time::Instant;

/// The positions of one shard.
///
/// Whoever waits counts itself *before* it looks a last time, and whoever moves a position looks at the count *after*
/// that, both in one order of all (SeqCst): so either the one sees the new position, or the other sees somebody waiting.
#[derive(Debug)]
pub(super) struct Positions {
    applied: AtomicU64,
    /// Of what is not applied perhaps: up to here somebody was told that a write is durable.
    told_durable: AtomicU64,
    /// While the shard takes writes: where the epoch began in which it does. Otherwise 0.
    serving: AtomicU64,
    /// Who leads, as far as it is known; 0: it is not.
    leader: AtomicU64,
    /// The shard ended: nothing moves any more.
    ended: AtomicU64,
    /// Odd while the state is being replaced: then whoever reads finds a mix of two, or less.
    replaced: AtomicU64,
    /// What of the log nobody can mend; none: nothing is damaged, or somebody may yet.
    unmendable: Mutex<Option<(Lsn, Lsn)>>,
    /// How many ranges of the log can't be read.
    damaged: AtomicUsize,
    waiting: AtomicUsize,
    /// Who is called once, when anything moves: by a key of their own.
    line: Mutex<BTreeMap<u64, Waker>>,
    moved: Condvar,
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    Reached,
    TimedOut,
    /// It will not be reached: the shard has stopped.
    Ended,
}

impl Positions {
    pub(super) fn new(applied: Lsn) -> Self {
        Self {
            applied: AtomicU64::new(applied.get()),
            told_durable: AtomicU64::new(0),
            serving: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            unmendable: Mutex::new(None),
            damaged: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::new(BTreeMap::new()),
            moved: Condvar::new(),
        }
    }

    /// Of a shard of which it is known who leads.
    pub(super) fn led_by(self, leader: NodeId) -> Self {
        self.set_leader(Some(leader));
        self
    }

    /// Everything up to here is in the state.
    pub(super) fn applied(&self) -> Lsn {
        Lsn::new(self.applied.load(Ordering::SeqCst))
    }

    /// Up to where somebody was told that a write is durable, and waits for no more.
    pub(super) fn told_durable(&self) -> Lsn {
        Lsn::new(self.told_durable.load(Ordering::SeqCst))
    }

    /// Before anybody is told.
    pub(super) fn set_told_durable(&self, lsn: Lsn) {
        self.told_durable.fetch_max(lsn.get(), Ordering::SeqCst);
    }

    /// Where the epoch began in which writes are taken; none while they are not.
    pub(super) fn serving(&self) -> Option<Lsn> {
        let start = self.serving.load(Ordering::SeqCst);
        (start > 0).then(|| Lsn::new(start))
    }

    /// Where the log is damaged, and nobody can mend it ([`Replica::unmendable`](crate::replica::Replica::unmendable)). Whoever
    /// reads it too late or too early releases a little less, or what its state has all the same.
    pub(super) fn unmendable(&self) -> Option<(Lsn, Lsn)> {
        *self.unmendable.lock()
    }

    pub(super) fn set_unmendable(&self, range: Option<(Lsn, Lsn)>) {
        *self.unmendable.lock() = range;
    }

    /// How many ranges of the log are damaged: a number for whoever watches the node.
    pub(super) fn damaged(&self) -> usize {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(super) fn set_damaged(&self, ranges: usize) {
        self.damaged.store(ranges, Ordering::Relaxed);
    }

    /// Who leads, as far as it is known here. A hint for whoever is sent on: nobody waits for it, and it orders nothing.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leader = self.leader.load(Ordering::Relaxed);
        (leader > 0).then(|| NodeId::new(leader))
    }

    pub(super) fn set_leader(&self, leader: Option<NodeId>) {
        self.leader.store(leader.map_or(0, NodeId::get), Ordering::Relaxed);
    }

    pub(super) fn set_applied(&self, applied: Lsn) {
        self.applied.store(applied.get(), Ordering::SeqCst);
        self.tell();
    }

    /// How often the state was replaced; none while it is being. Who finds the same number behind a read as before it has read
    /// one state: what is written in between is seen only by who finds another number behind it.
    pub(super) fn replaced(&self) -> Option<u64> {
        Some(self.replaced.load(Ordering::SeqCst)).filter(|number| number % 2 == 0)
    }

    /// From here on the state is of no position. One thread at a time replaces it.
    pub(super) fn begin_replacing(&self) {
        if let Some(before) = self.replaced() {
            self.replaced.store(before + 1, Ordering::SeqCst);
        }
    }

    /// The state is one again.
    pub(super) fn end_replacing(&self) {
        if self.replaced().is_none() {
            self.replaced.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Writes are taken, in an epoch that began there; or not any more.
    pub(super) fn set_serving(&self, start: Option<Lsn>) {
        self.serving.store(start.map_or(0, Lsn::get), Ordering::SeqCst);
        self.tell();
    }

    /// Nothing moves any more.
    pub(super) fn end(&self) {
        self.serving.store(0, Ordering::SeqCst);
        self.ended.store(1, Ordering::SeqCst);
        self.tell();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst) != 0
    }

    /// Waits until `is_reached` says so of these positions.
    pub(super) fn wait(&self, deadline: Instant, is_reached: impl Fn(&Self) -> bool) -> Waited {
        if is_reached(self) {
            return Waited::Reached;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut line = self.line.lock();
        let waited = loop {
            if is_reached(self) {
                break Waited::Reached;
            }
            if self.has_ended() {
                break Waited::Ended;
            }
            if self.moved.wait_until(&mut line, deadline).timed_out() {
                break if is_reached(self) { Waited::Reached } else { Waited::TimedOut };
            }
        };
        drop(line);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        waited
    }

    /// Waits until `is_reached` says so of these positions, or the shard has ended; on no thread. It is called by a key of its own.
    ///
    /// Cancellation: without effect.
    #[cfg(feature = "cluster")]
    pub(super) async fn reach(&self, key: u64, is_reached: impl Fn(&Self) -> bool) {
        let called = Called { positions: self, key };
        std::future::poll_fn(|context| {
            let is_over = || is_reached(self) || self.has_ended();
            if is_over() {
                return Poll::Ready(());
            }
            self.call(called.key, context.waker());
            // Once more: what moved before that has called nobody.
            if is_over() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Calls this waker once, when anything moves from here on: whoever asks looks once more after this.
    pub(super) fn call(&self, key: u64, waker: &Waker) {
        let waker = waker.clone();
        let mut line = self.line.lock();
        let before = line.insert(key, waker);
        if before.is_none() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        // What its drop does is the executor's: not under the lock.
        drop(line);
        drop(before);
    }

    /// Nobody is called by this key any more.
    pub(super) fn forget(&self, key: u64) {
        // Under the lock no more than it takes: the drop of a waker is the executor's, and may end other feeds.
        let gone = self.line.lock().remove(&key);
        if gone.is_some() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let wakers = std::mem::take(&mut *self.line.lock());
        self.waiting.fetch_sub(wakers.len(), Ordering::SeqCst);
        self.moved.notify_all();
        wakers.into_values().for_each(wake);
    }
}

/// Whoever waits no more is not called.
#[cfg(feature = "cluster")]
struct Called<'a> {
    positions: &'a Positions,
    key: u64,
}

#[cfg(feature = "cluster")]
impl Drop for Called<'_> {
    fn drop(&mut self) {
        self.positions.forget(self.key);
    }
}

#[cfg(all(test, not(shuttle)))]
#[expect(clippy::disallowed_methods, reason = "a test reads clocks")]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// The answer came before the write was applied.
    #[test]
    fn what_was_told_to_be_durable_is_read_by_whoever_wants_what_is_newest() {
        use crate::model::{Read, Write};
        use crate::node::{Node, NodeOptions};
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let space = node.default_namespace();
        let first = space.write(Write::new().put("a", "1")).unwrap().wait().unwrap();
        let positions = Arc::clone(&node.shared.registry.shards()[0].positions);
        positions.set_told_durable(first.lsn.next());
        let hasty = space.clone().reading_within(Duration::from_millis(20));
        assert!(hasty.get("a", Read::Eventual).unwrap().is_some());
        assert!(hasty.get("a", Read::Linearizable).is_err(), "it waits for the next one");
        space.write(Write::new().put("a", "2")).unwrap().wait().unwrap();
        assert_eq!(space.get("a", Read::Linearizable).unwrap().unwrap().value, "2");
        node.close().unwrap();
    }

    #[test]
    fn who_waits_hears_when_it_is_reached_when_time_is_up_and_when_it_never_will_be() {
        let positions = Arc::new(Positions::new(Lsn::new(3)));
        assert_eq!(positions.wait(soon(), |p| p.applied() >= Lsn::new(3)), Waited::Reached);
        let late = Instant::now() + Duration::from_millis(5);
        assert_eq!(positions.wait(late, |p| p.applied() >= Lsn::new(4)), Waited::TimedOut);
        let other = Arc::clone(&positions);
        let waiting = std::thread::Builder::new().spawn(move || {
            let first = other.wait(soon(), |p| p.applied() >= Lsn::new(5));
            (first, other.wait(soon(), |p| p.serving().is_some()))
        });
        for lsn in 4..6 {
            positions.set_applied(Lsn::new(lsn));
        }
        while positions.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        positions.end();
        assert_eq!(waiting.unwrap().join().unwrap(), (Waited::Reached, Waited::Ended));
        assert_eq!(positions.waiting.load(Ordering::SeqCst), 0);
    }

    #[cfg(feature = "cluster")]
    #[test]
    fn who_waits_on_no_thread_hears_it_as_well_and_is_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let positions = Arc::new(Positions::new(Lsn::ZERO));
            let other = Arc::clone(&positions);
            let waiting = tokio::spawn(async move { other.reach(1, |positions| positions.serving().is_some()).await });
            let patient =
                tokio::time::timeout(Duration::from_millis(5), positions.reach(2, |p| p.applied() > Lsn::ZERO));
            patient.await.unwrap_err();
            assert_eq!(positions.waiting.load(Ordering::SeqCst), 1, "who gave up is not counted");
            positions.set_applied(Lsn::ZERO.next());
            positions.set_serving(Some(Lsn::ZERO.next()));
            waiting.await.unwrap();
            positions.end();
            positions.reach(3, |positions| positions.applied() > Lsn::new(7)).await;
            assert_eq!((positions.waiting.load(Ordering::SeqCst), positions.line.lock().len()), (0, 0));
        });
    }

    #[test]
    fn no_step_is_missed_by_one_who_waits_for_each() {
        let positions = Arc::new(Positions::new(Lsn::ZERO));
        let other = Arc::clone(&positions);
        let following = std::thread::Builder::new()
            .spawn(move || (1..=5_000).all(|n| other.wait(soon(), |p| p.applied() >= Lsn::new(n)) == Waited::Reached));
        for lsn in 1..=5_000 {
            positions.set_applied(Lsn::new(lsn));
        }
        assert!(following.unwrap().join().unwrap());
    }
}

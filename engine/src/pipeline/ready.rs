//! Who calls a thread that serves many shards, and which of them have work for it.
//!
//! Rules, by number; comments in the code name them:
//!
//! 1. Whoever gives a shard work rings its [`Bell`] *after* that. The bell puts the shard in the list unless it rang
//!    already: so each shard is in the list once at the most, and the list is as long as there are shards.
//! 2. The thread answers the bell *before* it looks at the shard's work. Both sides swap one word, so one comes first:
//!    either the look sees the work, or the ring sees an answered bell and puts the shard in the list again.
//! 3. Only the thread sleeps, in [`Ready::wait`], and only while `awake` is false. Whoever puts a shard in the list sets
//!    `awake` *after* that and unparks; a token of `unpark` is kept, so a call between the look and the sleep is not lost.

use super::sync::{AtomicBool, Backoff, CachePadded, Mutex, Ordering, SegQueue, thread};
use crate::model::ShardId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The shards of one thread that have work, in the order in which they were called.
///
/// ```
/// use towline::model::ShardId;
/// use towline::pipeline::Ready;
/// let ready = Ready::new();
/// let bell = ready.bell(ShardId::new(7));
/// bell.ring();
/// bell.ring();
/// assert_eq!(ready.next(), Some(ShardId::new(7)));
/// assert_eq!(ready.next(), None, "it is in the list once");
/// bell.answer();
/// bell.ring();
/// assert_eq!(ready.next(), Some(ShardId::new(7)));
/// ```
pub struct Ready {
    /// Rule 1.
    list: SegQueue<ShardId>,
    /// Rule 3.
    awake: CachePadded<AtomicBool>,
    thread: Mutex<Option<thread::Thread>>,
}

/// Calls the thread of one shard.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use towline::model::ShardId;
/// use towline::pipeline::Ready;
/// let (ready, work) = (Ready::new(), AtomicU64::new(0));
/// let bell = ready.bell(ShardId::new(7));
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         work.store(42, Ordering::Relaxed); // first the work, then the bell
///         bell.ring();
///     });
///     let shard = loop {
///         match ready.next() {
///             Some(shard) => break shard,
///             None => ready.wait(None),
///         }
///     };
///     assert_eq!(shard, bell.shard());
///     bell.answer(); // before it looks: what comes from here on rings again
///     assert_eq!(work.load(Ordering::Relaxed), 42);
/// });
/// ```
pub struct Bell {
    ready: Arc<Ready>,
    shard: ShardId,
    /// Rule 1: the shard is in the list, or about to be.
    rung: CachePadded<AtomicBool>,
}

impl Ready {
    /// An empty list.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            list: SegQueue::new(),
            awake: CachePadded::new(AtomicBool::new(true)),
            thread: Mutex::new(None),
        })
    }

    /// The bell of a shard that this thread serves.
    #[must_use]
    pub fn bell(self: &Arc<Self>, shard: ShardId) -> Arc<Bell> {
        Arc::new(Bell { ready: Arc::clone(self), shard, rung: CachePadded::new(AtomicBool::new(false)) })
    }

    /// The next shard that was called. For the thread, which answers the shard's bell and then looks at its work.
    #[must_use]
    pub fn next(&self) -> Option<ShardId> {
        self.list.pop()
    }

    /// How many shards are in the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Sleeps until a shard is called (or somebody called [`Ready::wake`]), or for about `timeout`. For the thread.
    pub fn wait(&self, timeout: Option<Duration>) {
        let backoff = Backoff::new();
        loop {
            // Rule 3: take the mark; whoever puts a shard in the list after this sets it again.
            if self.awake.swap(false, Ordering::SeqCst) || !self.list.is_empty() {
                return;
            }
            if !backoff.is_completed() {
                backoff.snooze();
                continue;
            }
            let mut thread = self.thread.lock();
            if thread.as_ref().is_none_or(|thread| thread.id() != thread::current().id()) {
                *thread = Some(thread::current());
                continue; // Who woke us before this line did not know whom to unpark.
            }
            drop(thread);
            match timeout {
                None => thread::park(),
                Some(timeout) => {
                    thread::park_timeout(timeout);
                    return;
                }
            }
        }
    }

    /// Wakes the thread, for something that is no shard's.
    pub fn wake(&self) {
        // Rule 3. A mark that is set already is on its way to be seen.
        if !self.awake.swap(true, Ordering::SeqCst)
            && let Some(thread) = &*self.thread.lock()
        {
            thread.unpark();
        }
    }
}

impl Bell {
    /// There is work for the shard.
    pub fn ring(&self) {
        // Rule 1.
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.ready.list.push(self.shard);
            self.ready.wake();
        }
    }

    /// Whoever gives work from here on rings again. For the thread, before it looks.
    pub fn answer(&self) {
        // Rule 2: a swap, not a store: it takes over what the last ring announced.
        self.rung.swap(false, Ordering::SeqCst);
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.shard
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").field("waiting", &self.list.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("shard", &self.shard).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread::Builder;

    #[test]
    fn what_many_give_to_many_shards_is_all_seen_by_one_thread_that_sleeps_in_between() {
        const SHARDS: u64 = 5;
        const GIVERS: u64 = 4;
        const EACH: u64 = 20_000;
        let ready = Ready::new();
        let shards: Arc<Vec<(Arc<Bell>, AtomicU64)>> =
            Arc::new((0..SHARDS).map(|shard| (ready.bell(ShardId::new(shard)), AtomicU64::new(0))).collect());
        let givers: Vec<_> = (0..GIVERS)
            .map(|giver| {
                let shards = Arc::clone(&shards);
                let body = move || {
                    for number in 0..EACH {
                        let (bell, given) = &shards[usize::try_from((giver + number) % SHARDS).unwrap()];
                        given.fetch_add(1, Ordering::Relaxed);
                        bell.ring();
                        if number % 1000 == 0 {
                            thread::yield_now();
                        }
                    }
                };
                Builder::new().spawn(body).unwrap()
            })
            .collect();
        let mut taken = 0;
        while taken < GIVERS * EACH {
            match ready.next() {
                Some(shard) => {
                    let (bell, given) = &shards[usize::try_from(shard.get()).unwrap()];
                    bell.answer();
                    taken += given.swap(0, Ordering::Relaxed);
                }
                None => ready.wait(None),
            }
        }
        givers.into_iter().for_each(|giver| giver.join().unwrap());
        assert!(ready.list.len() <= usize::try_from(SHARDS).unwrap());
    }

    #[test]
    fn a_wait_ends_at_its_time_and_when_it_is_woken_for_nothing() {
        let ready = Ready::new();
        ready.wait(Some(Duration::ZERO)); // It is awake at first.
        ready.wait(Some(Duration::from_millis(1)));
        ready.wake();
        ready.wait(None);
        assert_eq!(ready.next(), None);
    }
}

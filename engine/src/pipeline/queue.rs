//! The queue between producers and the shard's thread: bounded in writes and in bytes, lock-free where it matters.
//!
//! A node has thousands of them, and most are empty: its list takes memory in pieces of 31 places, as it is filled, and gives them back.
//!
//! Rules, by number; comments in the code name them:
//!
//! 1. `held` counts the writes that are in the list or about to be, and their bytes, in one word: a producer adds to it *before* it
//!    pushes, the consumer takes from it *after* it popped. So it is never below what the list holds, and neither bound is
//!    ever exceeded (but by one submission that is larger than the whole budget, which is taken alone). What was reserved
//!    is pushed: the list itself has no bound. `held` is 0 only when nothing is in the list or on its way.
//! 2. `CLOSED` is a bit of the same word: a producer reserves and looks at it in one step. Whoever reserved before
//!    it was set is counted, and the consumer's sweep ends only at 0: so everything is either swept or refused.
//! 3. The shard's [`Bell`] is rung *after* something was pushed, and after the queue was closed; how the consumer
//!    sleeps is the bell's matter.
//! 4. Producers that wait for room stand in a line, under a lock that the fast path never takes, each with its own
//!    condition variable; only the first tries, and nobody passes the line (otherwise a large write starves among
//!    small ones). `waiting` tells others that there is a line.
//! 5. The consumer calls the first of the line once half of the queue is free, and each that got in calls the
//!    next: one wake-up of the line fills half a queue, not one slot.
//! 6. `full` is looked at before room is: while a disk is full nothing new comes in, and who waits hears it. It is set before
//!    the line is called, under the line's lock, as the close is. A closed queue waits for no room: no disk is full to it.

use super::gathering::Gathering;
use super::ready::Bell;
use super::submission::Submission;
use super::sync::{AtomicU8, AtomicU64, AtomicUsize, Backoff, CachePadded, Condvar, Mutex, Ordering, SegQueue};
use crate::model::request::FailureClass;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The bit of `held` that says that nothing more is taken.
const CLOSED: u64 = 1 << 63;
/// One write in `held`: bytes lie below, half a tebibyte of them.
const ONE_WRITE: u64 = 1 << 39;
const BYTES_MASK: u64 = ONE_WRITE - 1;
/// Half of what there is room for: what is on its way on top of a bound never reaches the bits above.
const WRITES_MAX: usize = 1 << 23;
const BYTES_MAX: u64 = ONE_WRITE >> 1;

/// What a producer does when there is no room.
///
/// ```
/// use std::time::Duration;
/// use towline::model::Write;
/// use towline::node::{Node, NodeOptions};
/// use towline::pipeline::SubmitPolicy;
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let policy = SubmitPolicy::WaitFor(Duration::from_millis(50));
/// node.default_namespace().write_when(Write::new().put("a", "1"), policy)?.wait()?;
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitPolicy {
    /// Waits until there is room.
    Wait,
    /// Waits for so long at the most.
    WaitFor(Duration),
    /// Fails at once.
    Fail,
}

/// A disk that a shard writes to.
///
/// ```
/// use towline::model::ShardId;
/// use towline::pipeline::{Disk, Ready, Submission, SubmissionQueue, SubmitError, SubmitPolicy};
/// let queue = SubmissionQueue::new(16, 1024, Ready::new().bell(ShardId::new(1)));
/// queue.set_full(Disk::State, true);
/// // Also who would wait for room in the queue hears it at once: nobody knows how long that takes.
/// let (error, submission) = queue.submit(Submission::record("a".into(), ()), SubmitPolicy::Wait).unwrap_err();
/// assert_eq!(error, SubmitError::DiskFull(Disk::State));
/// assert!(error.to_string().starts_with("the disk of the state is full"));
/// queue.set_full(Disk::State, false);
/// assert!(queue.submit(submission, SubmitPolicy::Wait).is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disk {
    /// That of the log.
    Log = 1,
    /// That of the state.
    State = 2,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::State => "state",
        })
    }
}

/// Why a submission was not taken; it certainly has no effect.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5101 | retry | wait a moment: the node is slower than what is asked of it |
/// | TW-5102 | re-route | ask another node, or this one when it is open again |
/// | TW-5104 | operator | make room on that disk: within seconds writes are taken again |
///
/// ```
/// use towline::model::{ShardId, request::FailureClass};
/// use towline::pipeline::{Ready, Submission, SubmissionQueue, SubmitError, SubmitPolicy};
/// let queue = SubmissionQueue::new(1, 1024, Ready::new().bell(ShardId::new(1)));
/// queue.submit(Submission::record("a".into(), "first"), SubmitPolicy::Fail).map_err(|(error, _)| error)?;
/// let (error, second) = queue.submit(Submission::record("b".into(), "second"), SubmitPolicy::Fail).unwrap_err();
/// let SubmitError::Busy(busy) = error else { panic!("{error}") };
/// assert_eq!((busy.writes, busy.writes_max, error.class()), (1, 1, FailureClass::Retry));
///
/// queue.pop(); // the consumer took the first: there is room for the second, which came back
/// queue.submit(second, SubmitPolicy::Fail).map_err(|(error, _)| error)?;
/// queue.close();
/// let (error, _) = queue.submit(Submission::record("c".into(), "third"), SubmitPolicy::Wait).unwrap_err();
/// assert_eq!((error.code(), error.class()), (5102, FailureClass::ReRoute));
/// # Ok::<(), SubmitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// There is no room. Nothing was taken; try again after a pause.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The node is closing. Nothing was taken.
    #[error("the node is closing: nothing was taken")]
    Closed,
    /// A disk is full (faults D9, D10): what was taken before waits for room, reads go on. Nothing was taken.
    #[error("the disk of the {0} is full: nothing was taken, and nothing will be until there is room")]
    DiskFull(Disk),
}

impl SubmitError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Busy(_) => 5101,
            Self::Closed => 5102,
            Self::DiskFull(_) => 5104,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Busy(_) => FailureClass::Retry,
            Self::Closed => FailureClass::ReRoute,
            Self::DiskFull(_) => FailureClass::Operator,
        }
    }
}

/// What there was no room for: what the queue held at that moment, and how long to wait before another try.
///
/// ```
/// use towline::model::ShardId;
/// use towline::pipeline::{Ready, Submission, SubmissionQueue, SubmitError, SubmitPolicy};
/// let queue = SubmissionQueue::new(16, 8, Ready::new().bell(ShardId::new(1)));
/// queue.submit(Submission::record("6 byte".into(), ()), SubmitPolicy::Fail).map_err(|(error, _)| error)?;
/// let (error, again) = queue.submit(Submission::record("3 b".into(), ()), SubmitPolicy::Fail).unwrap_err();
/// let SubmitError::Busy(busy) = error else { panic!("{error}") };
/// assert_eq!((busy.bytes, busy.held_bytes, busy.bytes_max), (3, 6, 8));
/// # queue.pop();
/// std::thread::sleep(busy.after);
/// queue.submit(again, SubmitPolicy::Fail).map_err(|(error, _)| error)?;
/// # Ok::<(), SubmitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the queue has no room for {bytes} bytes: it holds {held_bytes} of {bytes_max} bytes and {writes} of {writes_max} writes, and \
     {waiting} wait for room; nothing was taken, try again in {} ms",
    .after.as_millis()
)]
#[non_exhaustive]
pub struct Busy {
    /// What was asked for.
    pub bytes: usize,
    /// What is in the queue, or on its way in.
    pub held_bytes: usize,
    /// Its bound ([`NodeOptions::queue_bytes`](crate::node::NodeOptions::queue_bytes)).
    pub bytes_max: usize,
    /// Writes in the queue.
    pub writes: usize,
    /// Their bound ([`NodeOptions::queue_slots`](crate::node::NodeOptions::queue_slots)).
    pub writes_max: usize,
    /// Who waits for room: nobody goes before them, also if there is room for less than what the first of them wants.
    pub waiting: usize,
    /// When half of the queue may be free: half of what a write waited in it lately, from [`Busy::AFTER_MIN`] to
    /// [`Busy::AFTER_MAX`]. Many who are refused at one time should not come back at one time: wait for a random part more.
    pub after: Duration,
}

impl Busy {
    /// The least that is asked to be waited for.
    pub const AFTER_MIN: Duration = Duration::from_millis(1);
    /// The most.
    pub const AFTER_MAX: Duration = Duration::from_secs(1);
}

/// A bounded queue of many producers and one consumer.
///
/// ```
/// use towline::model::ShardId;
/// use towline::pipeline::{Ready, Submission, SubmissionQueue, SubmitPolicy};
/// let ready = Ready::new();
/// let queue = SubmissionQueue::new(16, 1024, ready.bell(ShardId::new(1)));
/// queue.submit(Submission::record("bytes of a record".into(), "who waits"), SubmitPolicy::Wait)
///     .map_err(|(error, _)| error)?;
/// assert_eq!(ready.next(), Some(ShardId::new(1)));
/// assert_eq!(queue.pop().map(Submission::into_token), Some("who waits"));
/// # Ok::<(), towline::pipeline::SubmitError>(())
/// ```
pub struct SubmissionQueue<T> {
    list: SegQueue<Submission<T>>,
    writes_max: usize,
    bytes_max: u64,
    /// Rules 1 and 2.
    held: CachePadded<AtomicU64>,
    /// Rule 3.
    bell: Arc<Bell>,
    /// Rule 4.
    waiting: CachePadded<AtomicUsize>,
    /// Rule 6: a bit for each [`Disk`]. Read by everybody, written seldom.
    full: CachePadded<AtomicU8>,
    line: Mutex<VecDeque<Arc<Condvar>>>,
    gathering: Gathering,
    /// Microseconds that a write waited lately. No rule: an estimate.
    waited: AtomicUsize,
}

type Refused<T> = (SubmitError, Submission<T>);

impl<T> SubmissionQueue<T> {
    /// A queue with room for so many writes, and so many bytes, whose consumer this bell calls.
    #[must_use]
    pub fn new(slots: usize, bytes_max: usize, bell: Arc<Bell>) -> Self {
        Self {
            list: SegQueue::new(),
            writes_max: slots.clamp(1, WRITES_MAX),
            bytes_max: (bytes_max as u64).min(BYTES_MAX),
            held: CachePadded::new(AtomicU64::new(0)),
            bell,
            waiting: CachePadded::new(AtomicUsize::new(0)),
            full: CachePadded::new(AtomicU8::new(0)),
            line: Mutex::new(VecDeque::new()),
            gathering: Gathering::new(),
            waited: AtomicUsize::new(0),
        }
    }

    /// Puts a submission in the queue.
    ///
    /// # Errors
    /// There is no room, a disk is full, or the queue is closed; the submission comes back.
    pub fn submit(&self, submission: Submission<T>, policy: SubmitPolicy) -> Result<(), (SubmitError, Submission<T>)> {
        // Rule 4: a line that forms right now is passed once; it can't be passed for ever.
        let refused = if self.waiting.load(Ordering::Relaxed) > 0 && !self.is_closed() {
            submission
        } else {
            match self.try_submit(submission) {
                Err((SubmitError::Busy(_), submission)) => submission,
                done => return done,
            }
        };
        match policy {
            SubmitPolicy::Fail => Err((self.busy(refused.bytes()).into(), refused)),
            SubmitPolicy::Wait => self.submit_in_turn(refused, None),
            SubmitPolicy::WaitFor(timeout) => self.submit_in_turn(refused, Some(timeout)),
        }
    }

    fn submit_in_turn(&self, submission: Submission<T>, timeout: Option<Duration>) -> Result<(), Refused<T>> {
        let turn = Arc::new(Condvar::new());
        let mut line = self.line.lock();
        line.push_back(Arc::clone(&turn));
        // Rule 4. SeqCst pairs with `pop`: either it sees us in the line, or we see the room that it made; the lock
        // is held from here until we sleep, so its call comes after that.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut result = Err((self.busy(submission.bytes()).into(), submission));
        // Called under the lock, before each sleep: true means not yet.
        let mut try_in_turn = |line: &mut VecDeque<Arc<Condvar>>| {
            let is_first = line.front().is_some_and(|first| Arc::ptr_eq(first, &turn));
            // Who is not the first only hears; he must not get in, should there be room again at this moment (rule 4).
            let full = self.full_disk().filter(|_| !is_first);
            if let (Some(disk), Err((error, _))) = (full, &mut result) {
                *error = SubmitError::DiskFull(disk);
            } else if is_first || self.is_closed() {
                result = match std::mem::replace(&mut result, Ok(())) {
                    Err((SubmitError::Busy(_), submission)) => self.try_submit(submission),
                    done => done,
                };
            }
            matches!(result, Err((SubmitError::Busy(_), _)))
        };
        match timeout {
            Some(timeout) => {
                // Timed out or not: `result` says what the last look came to, which was at the last call.
                let _timed_out = turn.wait_while_for(&mut line, &mut try_in_turn, timeout);
            }
            None => turn.wait_while(&mut line, &mut try_in_turn),
        }
        line.retain(|other| !Arc::ptr_eq(other, &turn));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        // Rule 5: there may be room for the next; and if we gave up, the next is the first now.
        if let Some(next) = line.front() {
            next.notify_one();
        }
        result
    }

    fn try_submit(&self, submission: Submission<T>) -> Result<(), Refused<T>> {
        // Rule 6.
        if let Some(disk) = self.full_disk() {
            return Err((SubmitError::DiskFull(disk), submission));
        }
        match self.reserve(&submission) {
            Ok(()) => {
                self.push_reserved(submission);
                Ok(())
            }
            Err(why) => Err((why, submission)),
        }
    }

    /// What is said to one who finds no room for so many bytes now.
    pub(crate) fn busy(&self, bytes: usize) -> Busy {
        let waited = Duration::from_micros(self.waited.load(Ordering::Relaxed) as u64);
        let held = self.held.load(Ordering::SeqCst);
        Busy {
            bytes,
            held_bytes: bytes_of(held),
            bytes_max: bytes_of(self.bytes_max),
            writes: writes_of(held),
            writes_max: self.writes_max,
            waiting: self.waiting(),
            after: (waited / 2).clamp(Busy::AFTER_MIN, Busy::AFTER_MAX),
        }
    }

    /// Rules 1 and 2: the first step. SeqCst: one order with `waiting` (rule 4) and with `close`.
    pub(super) fn reserve(&self, submission: &Submission<T>) -> Result<(), SubmitError> {
        let with_room = |held: u64| {
            let has_room = writes_of(held) < self.writes_max
                && (held & BYTES_MASK).saturating_add(submission.bytes() as u64) <= self.bytes_max;
            let takes = held == 0 || (held & CLOSED == 0 && has_room);
            takes.then(|| held + charge(submission))
        };
        match self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, with_room) {
            Ok(_) => Ok(()),
            Err(held) if held & CLOSED == 0 => Err(self.busy(submission.bytes()).into()),
            Err(_) => Err(SubmitError::Closed),
        }
    }

    /// The second step: what was reserved is pushed.
    pub(super) fn push_reserved(&self, submission: Submission<T>) {
        self.list.push(submission);
        self.bell.ring();
    }

    /// The next submission, if one is there. For the consumer. Once the queue is closed, none means that nothing
    /// is there and nothing will be.
    pub fn pop(&self) -> Option<Submission<T>> {
        let backoff = Backoff::new();
        let submission = loop {
            if let Some(submission) = self.list.pop() {
                break submission;
            }
            // Rule 2: who reserved before the close is between two steps, and does not wait there.
            let held = self.held.load(Ordering::SeqCst);
            if held & CLOSED == 0 || held == CLOSED {
                return None;
            }
            backoff.snooze();
        };
        let charge = charge(&submission);
        let left = (self.held.fetch_sub(charge, Ordering::SeqCst) & !CLOSED) - charge;
        let half_free = left & BYTES_MASK <= self.bytes_max / 2 && writes_of(left) <= self.writes_max / 2;
        if half_free && self.waiting.load(Ordering::SeqCst) > 0 {
            // Rules 4 and 5. The lock: a producer between its look and its sleep is not missed.
            if let Some(first) = self.line.lock().front() {
                first.notify_one();
            }
        }
        Some(submission)
    }

    /// Takes nothing more; what is in the queue stays for the consumer, and whoever waits for room hears
    /// [`SubmitError::Closed`].
    pub fn close(&self) {
        self.held.fetch_or(CLOSED, Ordering::SeqCst);
        self.line.lock().iter().for_each(|turn| {
            turn.notify_one();
        });
        self.bell.ring();
    }

    /// From here on this disk is full, or is not: while one is, nothing new is taken, and whoever waits for room in the queue
    /// hears [`SubmitError::DiskFull`]. True if that is news.
    pub fn set_full(&self, disk: Disk, is_full: bool) -> bool {
        let bit = disk as u8;
        // Most often it is none: a look costs the producers nothing, a change does.
        if (self.full.load(Ordering::SeqCst) & bit != 0) == is_full {
            return false;
        }
        if !is_full {
            return self.full.fetch_and(!bit, Ordering::SeqCst) & bit != 0;
        }
        // Rule 6: a second call finds nobody in the line who does not know yet.
        let is_news = self.full.fetch_or(bit, Ordering::SeqCst) & bit == 0;
        if is_news {
            self.line.lock().iter().for_each(|turn| {
                turn.notify_one();
            });
        }
        is_news
    }

    /// The disk that is full, if one is, and the queue is open: once there is room, it takes submissions again.
    #[must_use]
    pub fn full_disk(&self) -> Option<Disk> {
        let full = self.full.load(Ordering::SeqCst);
        let disk = [Disk::Log, Disk::State].into_iter().find(|disk| full & *disk as u8 != 0);
        disk.filter(|_| !self.is_closed())
    }

    /// Where those wait who submit: the consumer turns it when it has popped what goes into one batch.
    #[must_use]
    pub const fn gathering(&self) -> &Gathering {
        &self.gathering
    }

    /// A write that was just taken had waited for so long in the queue: whoever finds it full is told when to come back. For the
    /// consumer.
    pub fn set_waited(&self, waited: Duration) {
        self.waited.store(usize::try_from(waited.as_micros()).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Whether nothing more is taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.held.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// Whether nothing waits, and nothing is on its way in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.load(Ordering::SeqCst) & !CLOSED == 0
    }

    /// Producers that wait for room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        bytes_of(self.held.load(Ordering::SeqCst))
    }
}

impl<T> fmt::Debug for SubmissionQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmissionQueue")
            .field("bytes", &self.bytes())
            .field("waiting", &self.waiting())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// What a submission takes of the budget.
fn charge<T>(submission: &Submission<T>) -> u64 {
    ONE_WRITE + submission.bytes() as u64
}

/// The bytes in `held`.
fn bytes_of(held: u64) -> usize {
    usize::try_from(held & BYTES_MASK).unwrap_or(usize::MAX)
}

/// The writes in `held`.
fn writes_of(held: u64) -> usize {
    usize::try_from((held & !CLOSED) / ONE_WRITE).unwrap_or(usize::MAX)
}

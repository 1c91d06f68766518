//! Who waits for submissions: threads and tasks at an event that they share, or calls.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use super::sync::{AtomicBool, AtomicU32, Futex, Mutex, Ordering};
use crate::core::{Completion, Ticket};
use crate::error::{SubmitError, WalError};

/// Nobody sleeps on the event.
const PENDING: u32 = 0;
/// Somebody does, or is about to.
const SLEPT_ON: u32 = 1;
const DONE: u32 = 2;

/// What all who wait for one group sleep on: however many they are, one call to the system wakes them.
#[derive(Debug)]
pub(super) struct Event {
    /// Release/Acquire: whoever sees `DONE` sees the result.
    state: Futex,
    result: OnceLock<Result<(), WalError>>,
    wakers: Mutex<Vec<Waker>>,
    /// How many of [`Waiters`]' entries are still to come for it, and one more for who made it, while others may join.
    parts: AtomicU32,
    /// What became of one that came to nothing: who shares an event shares the doubt.
    doubt: OnceLock<WalError>,
    /// Whether some of those who share it were refused, which concerns only them.
    has_refused: AtomicBool,
    /// By their places, which rise: they are looked at in the order in which they came.
    refused: Mutex<Vec<(u32, SubmitError)>>,
}

impl Event {
    /// Of one part, for who makes it to end by [`Event::part_done`].
    pub(super) fn new() -> Self {
        Self {
            state: Futex::default(),
            result: OnceLock::new(),
            wakers: Mutex::default(),
            parts: AtomicU32::new(1),
            doubt: OnceLock::new(),
            has_refused: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }

    /// Counts one more entry that it waits for. Under the log's lock, and before its maker's part is done.
    fn expect(&self) {
        self.parts.fetch_add(1, Ordering::Relaxed);
    }

    /// Whoever shares it is in doubt, and hears so when it is set. The first reason stands.
    pub(super) fn doubt(&self, error: WalError) {
        drop(self.doubt.set(error));
    }

    /// One of its parts has come to an end; the last one sets it.
    pub(super) fn part_done(&self, result: Result<(), WalError>) {
        if let Err(error) = result {
            self.doubt(error);
        }
        // Acquire and release: the last one sees the others' doubts.
        if self.parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.set(self.doubt.get().map_or(Ok(()), |error| Err(error.clone())));
        }
    }

    /// One of those who share it was refused. Under the log's lock, before it is set.
    pub(super) fn refuse(&self, place: u32, error: SubmitError) {
        let mut refused = self.refused.lock();
        debug_assert!(refused.last().is_none_or(|(last, _)| *last < place), "in the order in which they came");
        refused.push((place, error));
        drop(refused);
        self.has_refused.store(true, Ordering::Release);
    }

    /// What became of one of those who share it.
    fn outcome(&self, place: u32) -> Result<(), WalError> {
        if self.has_refused.load(Ordering::Acquire) {
            let refused = self.refused.lock();
            if let Ok(i) = refused.binary_search_by_key(&place, |(of, _)| *of)
                && let Some((_, error)) = refused.get(i)
            {
                return Err(WalError::Refused(error.clone()));
            }
        }
        self.result()
    }

    /// The first time decides.
    fn set(&self, result: Result<(), WalError>) {
        if self.result.set(result).is_err() {
            return;
        }
        if self.state.number().swap(DONE, Ordering::AcqRel) == SLEPT_ON {
            self.state.wake_all();
        }
        // Whoever registers after this sees that it is done. Without the lock: who is woken may ask at once, here or on
        // another thread.
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wake_all(wakers);
    }

    fn is_done(&self) -> bool {
        self.state.number().load(Ordering::Acquire) == DONE
    }

    fn wait(&self) {
        let state = self.state.number();
        while state.compare_exchange(PENDING, SLEPT_ON, Ordering::Acquire, Ordering::Acquire) != Err(DONE) {
            self.state.wait(SLEPT_ON);
        }
    }

    fn result(&self) -> Result<(), WalError> {
        // Set before anybody can see that it is done.
        self.result.get().cloned().unwrap_or(Err(WalError::Closed))
    }
}

/// An accepted submission: wait for it, or await it. Dropping it does not take the submission back.
///
/// ```
/// use towline_wal::Entry;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// let one = wal.submit(vec![Entry::Batch(batch(b"one"))]).unwrap();
/// let two = wal.submit(vec![Entry::Batch(batch(b"two"))]).unwrap();
/// two.wait().unwrap();
/// assert!(one.is_done(), "what was submitted before is durable too");
/// assert_eq!(one.wait(), Ok(()));
/// # wal.close().unwrap();
/// ```
#[derive(Debug)]
#[must_use = "until it is waited for, nobody knows whether the submission is durable"]
pub struct Pending {
    event: Arc<Event>,
    /// Its number among those who share the event, if it may still be refused.
    place: Option<u32>,
}

impl Pending {
    pub(super) const fn left(event: Arc<Event>, place: u32) -> Self {
        Self { event, place: Some(place) }
    }

    /// For what became of all who share the event, but for those who were refused.
    pub(super) const fn of_all(event: Arc<Event>) -> Self {
        Self { event, place: None }
    }

    fn outcome(&self) -> Result<(), WalError> {
        self.place.map_or_else(|| self.event.result(), |place| self.event.outcome(place))
    }

    /// Waits until the submission is durable, with everything before it. It waits as long as the disk takes: a
    /// deadline here could only turn a known outcome into an unknown one.
    ///
    /// # Errors
    /// [`WalError::Refused`], only of [`Wal::start_append`](super::Wal::start_append): nothing was taken. Others: whether it is
    /// durable is unknown until the log is reopened.
    pub fn wait(self) -> Result<(), WalError> {
        self.event.wait();
        self.outcome()
    }

    /// Whether waiting would return at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.event.is_done()
    }
}

impl Future for Pending {
    type Output = Result<(), WalError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.event.is_done() {
            return Poll::Ready(self.outcome());
        }
        let mut wakers = self.event.wakers.lock();
        if self.event.is_done() {
            return Poll::Ready(self.outcome());
        }
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Wakes tasks. Their executors' code runs here: a panic in it was reported by the panic hook, and must not take the log's
/// thread, for which others wait.
pub(super) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        drop(catch_unwind(AssertUnwindSafe(|| waker.wake())));
    }
}

/// Called once, with what became of a submission.
pub(super) type Call = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// What to do when submissions complete.
pub(super) enum Waiter {
    Event(Arc<Event>),
    Call(Call),
}

impl Waiter {
    /// Whether telling runs code of somebody else's.
    pub(super) const fn is_call(&self) -> bool {
        matches!(self, Self::Call(_))
    }

    pub(super) fn tell(self, result: Result<(), WalError>) {
        match self {
            Self::Event(event) => event.part_done(result),
            // A panic in it was reported by the panic hook; it is not this log's, whose thread must go on.
            Self::Call(call) => drop(catch_unwind(AssertUnwindSafe(|| call(result)))),
        }
    }
}

/// All who wait, in the order of tickets, which is that of completions.
pub(super) struct Waiters {
    waiting: VecDeque<Waiting>,
    /// Bytes of submissions that share an event at the most: those of a group, or the first of them would wait for the
    /// groups of the others.
    event_bytes_max: usize,
}

struct Waiting {
    /// The last submission that it stands for; all between the one before and this.
    last: Ticket,
    waiter: Waiter,
    /// Bytes of the submissions that share the event.
    bytes: usize,
    /// Whether further submissions may share the event.
    is_open: bool,
    /// What became of one of them that has completed.
    failed: Option<WalError>,
}

impl Waiters {
    pub(super) const fn new(event_bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), event_bytes_max }
    }

    /// A submission of so many bytes that somebody waits for.
    pub(super) fn join(&mut self, ticket: Ticket, bytes: usize) -> Pending {
        if let Some(Waiting { last, waiter: Waiter::Event(event), bytes: shared, is_open: true, .. }) =
            self.waiting.back_mut()
            && *shared + bytes <= self.event_bytes_max
        {
            (*last, *shared) = (ticket, *shared + bytes);
            return Pending::of_all(Arc::clone(event));
        }
        let event = Arc::new(Event::new());
        self.push(ticket, Waiter::Event(Arc::clone(&event)), bytes, true);
        Pending::of_all(event)
    }

    /// A submission whose waiter has an event already. It must be known here before any group that holds something of the
    /// event is built.
    pub(super) fn share(&mut self, ticket: Ticket, event: &Arc<Event>) {
        if let Some(Waiting { last, waiter: Waiter::Event(shared), .. }) = self.waiting.back_mut()
            && Arc::ptr_eq(shared, event)
        {
            *last = ticket;
            return;
        }
        event.expect();
        self.push(ticket, Waiter::Event(Arc::clone(event)), 0, false);
    }

    /// A submission that ends with a call.
    pub(super) fn call(&mut self, ticket: Ticket, call: Call) {
        self.push(ticket, Waiter::Call(call), 0, false);
    }

    fn push(&mut self, last: Ticket, waiter: Waiter, bytes: usize, is_open: bool) {
        self.waiting.push_back(Waiting { last, waiter, bytes, is_open, failed: None });
    }

    /// A group was built of what waits: what comes now belongs to a later one.
    pub(super) fn begin_next(&mut self) {
        if let Some(back) = self.waiting.back_mut() {
            back.is_open = false;
        }
    }

    /// Who is to be told of this completion, if it is the last that they wait for.
    pub(super) fn complete(&mut self, completion: Completion) -> Option<(Waiter, Result<(), WalError>)> {
        let front = self.waiting.front_mut()?;
        debug_assert!(completion.ticket <= front.last, "every submission has a waiter, and completes in order");
        if completion.ticket < front.last {
            // Who shares an event shares the doubt.
            front.failed = front.failed.take().or_else(|| completion.result.err());
            return None;
        }
        let Waiting { waiter, failed, .. } = self.waiting.pop_front()?;
        Some((waiter, failed.map_or(completion.result, Err)))
    }

    /// All that are left, when nothing completes any more.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiter> {
        self.waiting.drain(..).map(|waiting| waiting.waiter)
    }
}

#[cfg(all(test, not(shuttle)))]
#[path = "pending_test.rs"]
mod tests;

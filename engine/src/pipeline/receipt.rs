//! The promise to answer: a receipt for one write, which a thread waits for, or a future.

use super::gathering::EventCount;
use super::sync::{Condvar, Mutex, wake};
use crate::model::Written;
use crate::model::request::FailureClass;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Why a write has no outcome.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5102 | re-route | it has no effect: ask another node, or this one when it is open again |
/// | TW-5103 | retry | it may have an effect: try again with an expected version, or read what became of it |
/// | TW-5105 | re-route | it has no effect: ask the node that leads by now |
///
/// ```
/// use towline::model::request::FailureClass;
/// use towline::pipeline::{Receipt, WriteError, Written};
/// let (receipt, completer) = Receipt::<Written>::pair();
/// drop(completer); // the log stopped with the write in it
/// match receipt.wait() {
///     // Written again as it is, it could take effect twice: it has to expect a version, or to be a session's request.
///     Err(error @ WriteError::Unknown) => assert_eq!((error.code(), error.class()), (5103, FailureClass::Retry)),
///     other => panic!("{other:?}"),
/// }
/// let (receipt, completer) = Receipt::<Written>::pair();
/// completer.complete(Err(WriteError::Closed)); // the node closed before the write had a place in the log
/// assert!(receipt.wait().is_err_and(|error| error.has_no_side_effects()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It may or may not take effect: the node lost its leadership, or its log stopped, after it was sealed.
    /// Try again with an expected version, or read what became of it.
    #[error("the outcome of the write is unknown: it may or may not take effect")]
    Unknown,
    /// It was not sealed, and never will be: the node closed, or could not reach a majority of its voters. It has no effect.
    #[error("the node closed, or leads no more, before the write was sealed: it has no effect")]
    Closed,
    /// It was not sealed, and never will be: the node lost its leadership. It has no effect.
    #[error("the node lost its leadership before the write was sealed: it has no effect")]
    NotLeader,
}

impl WriteError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Closed => 5102,
            Self::Unknown => 5103,
            Self::NotLeader => 5105,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Closed | Self::NotLeader => FailureClass::ReRoute,
            Self::Unknown => FailureClass::Retry,
        }
    }

    /// Whether the write has certainly not taken effect, and will not.
    #[must_use]
    pub const fn has_no_side_effects(&self) -> bool {
        matches!(self, Self::Closed | Self::NotLeader)
    }
}

#[derive(Debug)]
struct Slot<T> {
    result: Option<Result<T, WriteError>>,
    waker: Option<Waker>,
    /// How many wait for a time at this moment.
    timed: u32,
}

#[derive(Debug)]
struct Shared<T> {
    slot: Mutex<Slot<T>>,
    /// Who waits for as long as it takes sleeps here, with others.
    place: Arc<EventCount>,
    /// And who does not, here.
    done: Condvar,
}

/// One write's answer, to come. Wait for it, or `.await` it; dropping it changes nothing for the write.
///
/// Waiting is safe to cancel: the answer stays until it is taken.
///
/// ```
/// use towline::model::{Epoch, Lsn, Outcome, ShardId};
/// use towline::pipeline::{Receipt, WriteError, Written};
/// let (receipt, completer) = Receipt::pair();
/// let (shard, epoch, outcome) = (ShardId::new(1024), Epoch::new(1, 1), Outcome::Applied { version: 1 });
/// let written = Written { shard, epoch, lsn: Lsn::FIRST, outcome };
/// completer.complete(Ok(written));
/// assert_eq!(receipt.wait(), Ok(written));
/// # let (receipt, completer) = Receipt::<Written>::pair();
/// # drop(completer);
/// # assert_eq!(receipt.wait(), Err(WriteError::Unknown));
/// ```
#[derive(Debug)]
#[must_use = "a write is not acknowledged until its receipt says so"]
pub struct Receipt<T = Written>(Arc<Shared<T>>);

/// The other end of a [`Receipt`]: completes it once; dropped without that, the receipt says
/// [`WriteError::Unknown`].
///
/// ```
/// use std::time::Duration;
/// use towline::pipeline::{Completer, Receipt, WriteError};
/// let (receipts, completers): (Vec<_>, Vec<_>) = (0..3).map(|_| Receipt::pair()).unzip();
/// let mut completers = completers.into_iter();
/// let lost = completers.next_back();
/// // Those of one batch are answered together.
/// Completer::complete_all(completers.zip([10, 11]).map(|(completer, lsn)| (completer, Ok(lsn))));
/// assert_eq!(receipts[1].wait_for(Duration::ZERO), Ok(Some(11)));
/// assert_eq!(receipts[2].wait_for(Duration::ZERO), Ok(None));
/// drop(lost);
/// assert_eq!(receipts[2].wait_for(Duration::ZERO), Err(WriteError::Unknown), "never silence, never success");
/// ```
#[derive(Debug)]
pub struct Completer<T = Written>(Option<Arc<Shared<T>>>);

impl<T: Copy> Receipt<T> {
    /// A receipt and its completer, by themselves; those of writes that are likely to be answered together come from a
    /// [`Gathering`](super::Gathering).
    pub fn pair() -> (Self, Completer<T>) {
        Self::pair_at(Arc::default())
    }

    /// A receipt whose owner sleeps at this place.
    pub(super) fn pair_at(place: Arc<EventCount>) -> (Self, Completer<T>) {
        let slot = Mutex::new(Slot { result: None, waker: None, timed: 0 });
        let shared = Arc::new(Shared { slot, place, done: Condvar::new() });
        (Self(Arc::clone(&shared)), Completer(Some(shared)))
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// The write has no outcome; see [`WriteError`].
    pub fn wait(self) -> Result<T, WriteError> {
        let look = || self.0.slot.lock().result;
        look().unwrap_or_else(|| self.0.place.wait_for(look))
    }

    /// Waits for the answer for so long at the most; none means not yet.
    ///
    /// # Errors
    /// The write has no outcome; see [`WriteError`].
    pub fn wait_for(&self, timeout: Duration) -> Result<Option<T>, WriteError> {
        let mut slot = self.0.slot.lock();
        if slot.result.is_none() && !timeout.is_zero() {
            slot.timed += 1;
            // Woken or timed out: either way the slot is looked at below.
            self.0.done.wait_while_for(&mut slot, |slot| slot.result.is_none(), timeout);
            slot.timed -= 1;
        }
        slot.result.transpose()
    }
}

impl<T: Copy> Future for Receipt<T> {
    type Output = Result<T, WriteError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.slot.lock();
        if let Some(result) = slot.result {
            return Poll::Ready(result);
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            let before = slot.waker.replace(context.waker().clone());
            // What its drop does is the executor's: not under the lock.
            drop(slot);
            drop(before);
        }
        Poll::Pending
    }
}

impl<T> Completer<T> {
    /// Answers.
    pub fn complete(self, result: Result<T, WriteError>) {
        if let Some(ready) = self.answer(result) {
            ready.wake();
        }
    }

    /// Answers many: all answers are there before the first who waits is woken, so that none of them runs while
    /// the others' answers are still on their way. Those who sleep at one place are woken at once.
    pub fn complete_all(answers: impl IntoIterator<Item = (Self, Result<T, WriteError>)>) {
        let mut places: Vec<Arc<EventCount>> = Vec::new();
        let mut others = Vec::new();
        for (own, result) in answers {
            let Some(ready) = own.answer(result) else { continue };
            // They come in the order in which they were submitted: mostly it is the last one.
            if !places.iter().rev().take(PLACES_LOOKED_AT).any(|place| Arc::ptr_eq(place, &ready.shared.place)) {
                places.push(Arc::clone(&ready.shared.place));
            }
            others.extend(ready.sleeps_apart().then_some(ready));
        }
        places.iter().for_each(|place| place.call());
        others.into_iter().for_each(Ready::wake_apart);
    }

    /// Sets the answer; what is left is to wake whoever waits.
    fn answer(mut self, result: Result<T, WriteError>) -> Option<Ready<T>> {
        self.0.take().map(|shared| Ready::of(shared, result))
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            Ready::of(shared, Err(WriteError::Unknown)).wake();
        }
    }
}

/// Of so many places before it is looked whether one is among them already: called once more, it costs a look of who sleeps.
const PLACES_LOOKED_AT: usize = 4;

/// An answered receipt whose owner may sleep.
struct Ready<T> {
    shared: Arc<Shared<T>>,
    waker: Option<Waker>,
    /// Somebody waits for a time.
    is_timed: bool,
}

impl<T> Ready<T> {
    fn of(shared: Arc<Shared<T>>, result: Result<T, WriteError>) -> Self {
        let (waker, is_timed) = {
            let mut slot = shared.slot.lock();
            slot.result = Some(result);
            (slot.waker.take(), slot.timed > 0)
        };
        Self { shared, waker, is_timed }
    }

    fn wake(self) {
        self.shared.place.call();
        self.wake_apart();
    }

    /// Whether somebody sleeps who is not woken at the place.
    const fn sleeps_apart(&self) -> bool {
        self.waker.is_some() || self.is_timed
    }

    fn wake_apart(self) {
        if self.is_timed {
            self.shared.done.notify_all();
        }
        if let Some(waker) = self.waker {
            wake(waker);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::model::{Epoch, Lsn, Outcome, ShardId};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    const WRITTEN: Written = Written {
        shard: ShardId::new(1024),
        epoch: Epoch { version: 1, term: 1 },
        lsn: Lsn::FIRST,
        outcome: Outcome::Applied { version: 1 },
    };

    #[test]
    fn a_receipt_hears_what_its_completer_says_and_before_that_nothing() {
        let (receipt, completer) = Receipt::pair();
        assert_eq!(receipt.wait_for(Duration::ZERO), Ok(None));
        completer.complete(Ok(WRITTEN));
        assert_eq!(receipt.wait_for(Duration::ZERO), Ok(Some(WRITTEN)));
        assert_eq!(receipt.wait(), Ok(WRITTEN));
    }

    #[test]
    fn a_dropped_completer_means_unknown_never_success() {
        let (receipt, completer) = Receipt::<Written>::pair();
        drop(completer);
        assert_eq!(receipt.wait(), Err(WriteError::Unknown));
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let (receipt, completer) = Receipt::pair();
        let waiting = std::thread::Builder::new().spawn(move || receipt.wait()).unwrap();
        completer.complete(Ok(WRITTEN));
        assert_eq!(waiting.join().unwrap(), Ok(WRITTEN));
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_from_being_woken() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::panic_any("of the executor");
            }
        }
        let (mut receipts, mut completers): (Vec<_>, Vec<_>) = (0..3).map(|_| Receipt::pair()).unzip();
        let waiting = receipts.pop().unwrap();
        let waiting = std::thread::Builder::new().spawn(move || waiting.wait()).unwrap();
        for receipt in &mut receipts {
            let waker = Waker::from(Arc::new(Panics));
            assert!(Pin::new(receipt).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(completers.remove(0));
        Completer::complete_all(completers.into_iter().map(|completer| (completer, Ok(WRITTEN))));
        assert_eq!(waiting.join().unwrap(), Ok(WRITTEN));
        assert_eq!(receipts.pop().unwrap().wait(), Ok(WRITTEN));
    }

    #[test]
    fn a_future_is_woken_and_many_answers_are_there_before_the_first_is() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (mut receipts, completers): (Vec<_>, Vec<_>) = (0..3).map(|_| Receipt::pair()).unzip();
        for receipt in &mut receipts {
            assert!(Pin::new(receipt).poll(&mut context).is_pending());
        }
        Completer::complete_all(completers.into_iter().map(|completer| (completer, Ok(WRITTEN))));
        assert_eq!(count.0.load(Ordering::SeqCst), 3, "each is woken once");
        for receipt in &mut receipts {
            assert_eq!(Pin::new(receipt).poll(&mut context), Poll::Ready(Ok(WRITTEN)));
        }
    }
}

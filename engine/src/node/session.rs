//! Sessions: a client's numbered requests, each of which takes effect once (I5).

use super::completion::Completion;
use super::error::WriteRefused;
use super::hosting::ShardHandle;
use super::namespace::Namespace;
use super::session_state::{Sent, SessionState};
use super::shard::{after, now};
use super::stages::Arrived;
use crate::model::limits::REQUESTS_WAITING_MAX;
use crate::model::request::FailureClass;
use crate::model::{ControlRecord, Outcome, Record, Rejection, RequestId, ShardId, session_id};
use crate::pipeline::{Receipt, Submission, SubmitError, SubmitPolicy, WriteError, Written};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a request takes at the most to be submitted: whoever takes longer waits for room.
const SUBMITTING_MAX: Duration = Duration::from_millis(1);

/// Why a session does not begin, or does not end.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6501 | operator | close sessions that nobody uses, or let the namespace's policy keep more |
/// | TW-5102 | re-route | begin another one at another node, or at this one when it is open again |
/// | TW-5103 | retry | whether it began is not known: begin another one, this one expires |
/// | TW-51xx, TW-611x | | see [`WriteRefused`] |
///
/// ```
/// use towline::model::{Policy, Rejection, request::FailureClass};
/// use towline::node::{NamespaceOptions, Node, NodeOptions, SessionError};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let policy = Policy { sessions_max: 1, ..Policy::default() };
/// let bank = node.create_namespace("bank", &NamespaceOptions::default().policy(policy))?;
/// let session = bank.open_session()?;
/// let error = bank.open_session().unwrap_err();
/// assert!(matches!(error, SessionError::Rejected(Rejection::TooManySessions { limit: 1 })));
/// assert_eq!(error.code(), 6501);
/// assert_eq!(error.class(), FailureClass::Operator, "it takes another policy, or clients that close theirs");
/// session.close()?;
/// bank.open_session()?.close()?;
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// It was not taken.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// Whether it began is not known: begin another one, this one expires.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A shard knows as many as it may.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl SessionError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Write(write) => write.code(),
            Self::Rejected(_) => 6501,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Refused(refused) => refused.class(),
            Self::Write(write) => write.class(),
            Self::Rejected(_) => FailureClass::Operator,
        }
    }
}

/// A session of one client in a namespace: its requests are numbered, and a request that is tried again is executed once
/// and answered as it was the first time.
///
/// Whoever must survive a crash takes a number first ([`Session::next_number`]), keeps [`Session::state`] and the request,
/// then submits it, and goes on after the crash by [`Namespace::resume_session`] and [`Session::retry`].
///
/// ```
/// use towline::model::{Expect, Write};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let bank = node.namespace("default")?;
/// let session = bank.open_session()?;
/// let transfer = Write::new().append("account-7", Expect::Any, "withdrew 30");
///
/// let number = session.next_number()?;
/// let kept = session.state();
/// let first = session.retry(number, &transfer)?.wait()?;
/// // A crash: nobody knows whether it was done. It is tried again.
/// let again = bank.resume_session(kept).retry(number, &transfer)?.wait()?;
/// assert_eq!(first, again, "withdrawn once");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Session {
    namespace: Namespace,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What each shard calls it.
    ids: BTreeMap<ShardId, u128>,
    /// Held while a request is submitted, which may have to wait for room: requests reach a shard in the order of their
    /// numbers. Nobody who is waked takes it.
    turn: Mutex<()>,
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    /// None: no number is left.
    next: Option<u64>,
    waiting: BTreeMap<u64, Option<Sent>>,
    last: BTreeMap<ShardId, u64>,
    /// Receipts that nobody holds any more: their requests are waited for until the answer is here.
    orphans: VecDeque<(u64, Receipt)>,
}

impl Numbers {
    /// The lowest number that is waited for when this one is, too.
    fn lowest_with(&self, number: u64) -> Result<u64, WriteRefused> {
        let lowest = self.waiting.keys().next().map_or(number, |lowest| number.min(*lowest));
        if number - lowest >= REQUESTS_WAITING_MAX {
            return Err(WriteRefused::TooManyWaiting { number, lowest });
        }
        Ok(lowest)
    }

    /// This number is used: what comes next is above it.
    fn use_up(&mut self, number: u64) {
        self.next = match self.next {
            Some(next) if next <= number => number.checked_add(1),
            next => next,
        };
    }

    /// Forgets what is answered, and nobody waits for.
    fn settle(&mut self) {
        while let Some((number, receipt)) = self.orphans.pop_front() {
            match receipt.wait_for(Duration::ZERO) {
                Ok(None) => {
                    self.orphans.push_front((number, receipt));
                    return;
                }
                Ok(Some(written)) if is_done(&written) => drop(self.waiting.remove(&number)),
                // In doubt, or out of order: it is waited for, until a retry brings the answer.
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Behind which request of the session this one comes in a shard.
    fn before(&self, number: u64, shard: ShardId) -> u64 {
        let last = self.last.get(&shard).copied().unwrap_or(0);
        if last < number {
            return last;
        }
        // Later ones are there already. Those before it that have their answer are no matter of order any more.
        let earlier = self.waiting.range(..number).rev();
        let mut in_shard = earlier.filter(|(_, sent)| sent.is_some_and(|sent| sent.shard == shard));
        in_shard.next().map_or(0, |(number, _)| *number)
    }
}

/// Whether there is nothing more to come of a request.
const fn is_done(written: &Written) -> bool {
    !matches!(written.outcome, Outcome::Rejected(Rejection::OutOfOrder { .. }))
}

/// The answer to one request of a session, to come. Once it is here the session no longer waits for it; an answer that is
/// *unknown*, or *out of order*, is waited for until a retry brings it.
///
/// Safe to drop before the answer: the session goes on waiting for it. To wait no longer, [`Session::give_up`].
///
/// ```
/// use towline::model::{Expect, Outcome, Write};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let bank = node.default_namespace();
/// # let session = bank.open_session()?;
/// let deposit = Write::new().append("account-7", Expect::Any, "+10");
/// let receipt = session.write(&deposit)?;
/// let number = receipt.number();
/// drop(receipt); // whoever asked for it went away
/// assert!(session.state().waiting.contains_key(&number), "the session goes on waiting");
///
/// let answer = session.retry(number, &deposit)?.wait()?;
/// assert_eq!(answer.outcome, Outcome::Applied { version: 1 }, "paid in once");
/// assert!(session.state().waiting.is_empty());
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a write is not acknowledged until its receipt says so"]
pub struct SessionReceipt {
    receipt: Option<Receipt>,
    number: u64,
    shared: Arc<Shared>,
}

impl Namespace {
    /// Opens a session: it is known to every shard of the namespace when this returns.
    ///
    /// # Errors
    /// A shard knows as many sessions as it may; or as for any write.
    pub fn open_session(&self) -> Result<Session, SessionError> {
        let record = ControlRecord::OpenSession { sessions_max: self.descriptor().policy.sessions_max };
        let mut receipts = Vec::new();
        for shard in self.shards() {
            receipts.push(self.control(shard, &record)?);
        }
        let (mut ids, mut failed) = (BTreeMap::new(), None);
        for receipt in receipts {
            match receipt.wait() {
                Ok(Written { outcome: Outcome::Applied { .. }, shard, epoch, lsn }) => {
                    ids.insert(shard, session_id(shard, epoch, lsn));
                }
                Ok(Written { outcome: Outcome::Rejected(rejection), .. }) => failed = Some(rejection.into()),
                Err(error) => failed = Some(error.into()),
            }
        }
        let session =
            self.resume_session(SessionState { ids, next: Some(1), waiting: BTreeMap::new(), last: BTreeMap::new() });
        match failed {
            Some(error) => {
                // Where it did begin it is of no use.
                if let Err(error) = session.close() {
                    tracing::debug!(%error, "a session that did not begin everywhere was not closed: it expires");
                }
                Err(error)
            }
            None => Ok(session),
        }
    }

    /// Goes on with a session. One that has expired meanwhile says so with the first request.
    #[must_use]
    pub fn resume_session(&self, state: SessionState) -> Session {
        let SessionState { ids, next, waiting, last } = state;
        let used = waiting.keys().last().copied().max(last.values().max().copied()).unwrap_or(0);
        let mut numbers = Numbers { next, waiting, last, orphans: VecDeque::new() };
        numbers.use_up(used);
        let shared = Shared { ids, turn: Mutex::new(()), numbers: Mutex::new(numbers) };
        Session { namespace: self.clone(), shared: Arc::new(shared) }
    }

    /// Submits a control record to one shard.
    pub(super) fn control(&self, shard: &ShardHandle, record: &ControlRecord) -> Result<Receipt, WriteRefused> {
        self.check_writable()?;
        let bytes = match record.encode() {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("records of sessions have a fixed length: {error}"),
        };
        let (receipt, completer) = shard.queue.gathering().pair();
        let submission = Submission::control(bytes, Arrived::now(Completion::Receipt(completer)));
        let submitted = shard.queue.submit(submission, SubmitPolicy::Wait);
        submitted.map_err(|(error, _)| self.refused(shard, error.into()))?;
        Ok(receipt)
    }
}

impl Session {
    /// All that is needed to go on with it.
    #[must_use]
    pub fn state(&self) -> SessionState {
        let numbers = self.shared.numbers.lock();
        let (next, waiting, last) = (numbers.next, numbers.waiting.clone(), numbers.last.clone());
        SessionState { ids: self.shared.ids.clone(), next, waiting, last }
    }

    /// Takes the next number, for a request that is to be kept before it is submitted ([`Session::retry`]). One that is taken
    /// and never used holds up the session in the end: [`Session::give_up`] it.
    ///
    /// # Errors
    /// [`WriteRefused::NumbersExhausted`], [`WriteRefused::TooManyWaiting`].
    pub fn next_number(&self) -> Result<u64, WriteRefused> {
        let mut numbers = self.shared.numbers.lock();
        numbers.settle();
        let number = numbers.next.ok_or(WriteRefused::NumbersExhausted)?;
        numbers.lowest_with(number)?;
        numbers.use_up(number);
        numbers.waiting.insert(number, None);
        Ok(number)
    }

    /// Submits a request with the next number, waiting for room in the queue: meanwhile it holds the thread that calls it, and
    /// all others that submit something in this session. On an executor's thread, use [`Session::write_when`]. It is executed in
    /// the order in which the session's requests were first submitted to its shard.
    ///
    /// # Errors
    /// As [`Namespace::write`]; too many requests wait for an answer, or no number is left.
    pub fn write(&self, write: impl AsRef<Record>) -> Result<SessionReceipt, WriteRefused> {
        self.write_when(write, SubmitPolicy::Wait)
    }

    /// As [`Session::write`], saying what happens when there is no room. What is refused had no number: the next request gets it.
    ///
    /// A session's requests are submitted one after the other. While one waits for room in [`Session::write`], each other finds
    /// none either, in whatever shard it lies; [`SubmitPolicy::Fail`] then holds the thread for a millisecond at the most.
    ///
    /// ```
    /// use towline::model::{Expect, Write};
    /// # use towline::node::{Node, NodeOptions};
    /// use towline::node::WriteRefused;
    /// use towline::pipeline::{SubmitError, SubmitPolicy};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// let session = node.default_namespace().open_session()?;
    /// let deposit = Write::new().append("account-7", Expect::Any, "+10");
    /// match session.write_when(&deposit, SubmitPolicy::Fail) {
    ///     Ok(receipt) => println!("paid in by {:?}", receipt.wait()?),
    ///     Err(WriteRefused::Submit(SubmitError::Busy(busy))) => println!("come back in {:?}", busy.after),
    ///     Err(refused) => return Err(refused.into()),
    /// }
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::write`]; there is no room, and it was not to wait, or not so long.
    pub fn write_when(&self, write: impl AsRef<Record>, policy: SubmitPolicy) -> Result<SessionReceipt, WriteRefused> {
        self.submit(None, write.as_ref(), policy)
    }

    /// Submits a request again, or for the first time if its number was only taken: it is executed once, however often it is
    /// tried, and every try hears the same. The write must be the same each time; another one is refused.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn retry(&self, number: u64, write: impl AsRef<Record>) -> Result<SessionReceipt, WriteRefused> {
        self.retry_when(number, write, SubmitPolicy::Wait)
    }

    /// As [`Session::retry`], saying what happens when there is no room, as [`Session::write_when`] does. A number that is
    /// refused stays taken: try it again.
    ///
    /// # Errors
    /// As [`Session::write_when`].
    pub fn retry_when(
        &self,
        number: u64,
        write: impl AsRef<Record>,
        policy: SubmitPolicy,
    ) -> Result<SessionReceipt, WriteRefused> {
        self.submit(Some(number), write.as_ref(), policy)
    }

    /// Waits no longer for the answer of a request, whatever it is: a late try of it is refused, not executed, as soon as the
    /// session's next request in that shard is.
    pub fn give_up(&self, number: u64) {
        self.shared.numbers.lock().waiting.remove(&number);
    }

    /// Ends the session: nothing is kept of it any more, and no request of it is ever executed again.
    ///
    /// # Errors
    /// As for any write; one that had expired is closed.
    pub fn close(self) -> Result<(), SessionError> {
        let mut receipts = Vec::new();
        for shard in self.namespace.shards() {
            if let Some(session) = self.shared.ids.get(&shard.descriptor.shard) {
                receipts.push(self.namespace.control(shard, &ControlRecord::CloseSession { session: *session })?);
            }
        }
        for receipt in receipts {
            receipt.wait()?;
        }
        Ok(())
    }

    /// The turn to submit, and how the queue is to be waited for then.
    fn turn(&self, policy: SubmitPolicy) -> Option<(MutexGuard<'_, ()>, SubmitPolicy)> {
        let turn = &self.shared.turn;
        Some(match policy {
            SubmitPolicy::Wait => (turn.lock(), policy),
            SubmitPolicy::WaitFor(time) => {
                let end = after(time);
                let turn = turn.try_lock_for(time)?;
                (turn, SubmitPolicy::WaitFor(end.saturating_duration_since(now())))
            }
            SubmitPolicy::Fail => (turn.try_lock_for(SUBMITTING_MAX)?, policy),
        })
    }

    fn submit(
        &self,
        number: Option<u64>,
        record: &Record,
        policy: SubmitPolicy,
    ) -> Result<SessionReceipt, WriteRefused> {
        let routed = self.namespace.route(record)?;
        let busy = || SubmitError::from(routed.queue.busy(record.encoded_len()));
        let (_turn, policy) = self.turn(policy).ok_or_else(busy)?;
        let is_new = number.is_none();
        let shard = routed.descriptor.shard;
        let (number, request, before) = {
            let mut numbers = self.shared.numbers.lock();
            numbers.settle();
            let number = number.or(numbers.next).ok_or(WriteRefused::NumbersExhausted)?;
            let ack_low = numbers.lowest_with(number)?;
            let before = numbers.waiting.get(&number).copied();
            let after = match before.flatten() {
                // There it may have been executed: here it would be so a second time.
                Some(sent) if sent.shard != shard => {
                    return Err(WriteRefused::OtherShard { number, first: sent.shard, now: shard });
                }
                Some(sent) => sent.after,
                None => numbers.before(number, shard),
            };
            // Nobody else takes the number from here on.
            numbers.use_up(number);
            numbers.waiting.insert(number, Some(Sent { shard, after }));
            // A shard that the session is not known to says so itself: 1 is no id.
            let session = self.shared.ids.get(&shard).copied().unwrap_or(1);
            (number, RequestId { session, number, ack_low, after }, before)
        };
        match self.namespace.write_when(Record { request, ..record.clone() }, policy) {
            Ok(receipt) => {
                let mut numbers = self.shared.numbers.lock();
                numbers.last.entry(shard).and_modify(|last| *last = number.max(*last)).or_insert(number);
                Ok(SessionReceipt { receipt: Some(receipt), number, shared: Arc::clone(&self.shared) })
            }
            Err(refused) => {
                // As it was: a number that was not in use before is not waited for.
                let mut numbers = self.shared.numbers.lock();
                match before {
                    Some(before) => drop(numbers.waiting.insert(number, before)),
                    None => drop(numbers.waiting.remove(&number)),
                }
                // Nobody has heard of the number, and nobody took one after it.
                if is_new && numbers.next == number.checked_add(1) {
                    numbers.next = Some(number);
                }
                Err(refused)
            }
        }
    }
}

impl SessionReceipt {
    /// The request's number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// The write has no outcome: the number stays one that is waited for, until a [`Session::retry`] of it has.
    pub fn wait(mut self) -> Result<Written, WriteError> {
        let receipt = self.receipt.take().ok_or(WriteError::Unknown)?;
        let written = receipt.wait()?;
        self.answered(&written);
        Ok(written)
    }

    /// Waits for the answer for so long at the most; none means not yet.
    ///
    /// # Errors
    /// As [`SessionReceipt::wait`].
    pub fn wait_for(&mut self, timeout: Duration) -> Result<Option<Written>, WriteError> {
        let found = self.receipt.as_ref().ok_or(WriteError::Unknown)?.wait_for(timeout)?;
        if let Some(written) = &found {
            self.answered(written);
        }
        Ok(found)
    }

    /// Nothing more is to come, or the same request is to be tried again.
    fn answered(&self, written: &Written) {
        if is_done(written) {
            self.shared.numbers.lock().waiting.remove(&self.number);
        }
    }
}

impl Future for SessionReceipt {
    type Output = Result<Written, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(receipt) = &mut self.receipt else { return Poll::Ready(Err(WriteError::Unknown)) };
        match Pin::new(receipt).poll(context) {
            Poll::Ready(Ok(written)) => {
                self.answered(&written);
                Poll::Ready(Ok(written))
            }
            other => other,
        }
    }
}

impl Drop for SessionReceipt {
    /// Nobody takes the answer: the session itself looks whether it is here, with its next request.
    fn drop(&mut self) {
        let Some(receipt) = self.receipt.take() else { return };
        let mut numbers = self.shared.numbers.lock();
        // Of one that was answered, or given up, nothing is waited for.
        if numbers.waiting.contains_key(&self.number) {
            numbers.orphans.push_back((self.number, receipt));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expect, Write};
    use crate::node::{Node, NodeOptions};

    #[test]
    fn who_does_not_wait_for_room_does_not_wait_for_one_of_the_session_who_does() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let session = node.default_namespace().open_session().unwrap();
        let write = Write::new().append("s", Expect::Any, "x");
        // As somebody holds it who waits for room.
        let turn = session.shared.turn.lock();
        for policy in [SubmitPolicy::Fail, SubmitPolicy::WaitFor(Duration::from_millis(2))] {
            let refused = session.write_when(&write, policy).map(drop).unwrap_err();
            assert!(matches!(refused, WriteRefused::Submit(SubmitError::Busy(_))), "{refused}");
            let refused = session.retry_when(7, &write, policy).map(drop).unwrap_err();
            assert!(matches!(refused, WriteRefused::Submit(SubmitError::Busy(_))), "{refused}");
        }
        drop(turn);
        let receipt = session.write_when(&write, SubmitPolicy::Fail).unwrap();
        assert_eq!(receipt.number(), 1);
        receipt.wait().unwrap();
        node.close().unwrap();
    }
}

//! Sessions: a client's numbered requests, each of which takes effect once (I5).

use super::completion::Completion;
use super::error::WriteRefused;
use super::hosting::ShardHandle;
use super::namespace::Namespace;
use super::shard::{after, now};
use super::stages::Arrived;
use crate::model::request::FailureClass;
use crate::model::{ControlRecord, Numbers, Outcome, Record, Rejection, SessionState, session_id};
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
    /// Held while a request is submitted, which may have to wait for room: requests reach a shard in the order of their
    /// numbers. Nobody who is waked takes it.
    turn: Mutex<()>,
    numbers: Mutex<(Numbers, Orphans)>,
}

/// Receipts that nobody holds any more: their requests are waited for until the answer is here.
type Orphans = VecDeque<(u64, Receipt)>;

/// Takes the answers that came to nobody.
fn settle(numbers: &mut Numbers, orphans: &mut Orphans) {
    while let Some((number, receipt)) = orphans.pop_front() {
        match receipt.wait_for(Duration::ZERO) {
            Ok(None) => {
                orphans.push_front((number, receipt));
                return;
            }
            Ok(Some(written)) => numbers.answered(number, &written.outcome),
            // In doubt: it is waited for, until a retry brings the answer.
            Err(_) => {}
        }
    }
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
        // Before any of them begins it: in a part of the shards it is of no use.
        self.shards().iter().try_for_each(|shard| self.check_writable(shard))?;
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
        let numbers = (Numbers::of(state), Orphans::new());
        let shared = Shared { turn: Mutex::new(()), numbers: Mutex::new(numbers) };
        Session { namespace: self.clone(), shared: Arc::new(shared) }
    }

    /// Submits a control record to one shard.
    pub(super) fn control(&self, shard: &ShardHandle, record: &ControlRecord) -> Result<Receipt, WriteRefused> {
        self.check_writable(shard)?;
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
        self.shared.numbers.lock().0.state()
    }

    /// Takes the next number, for a request that is to be kept before it is submitted ([`Session::retry`]). One that is taken
    /// and never used holds up the session in the end: [`Session::give_up`] it.
    ///
    /// # Errors
    /// [`WriteRefused::Number`].
    pub fn next_number(&self) -> Result<u64, WriteRefused> {
        let (numbers, orphans) = &mut *self.shared.numbers.lock();
        settle(numbers, orphans);
        Ok(numbers.take()?)
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
        self.shared.numbers.lock().0.give_up(number);
    }

    /// Ends the session: nothing is kept of it any more, and no request of it is ever executed again.
    ///
    /// # Errors
    /// As for any write; one that had expired is closed.
    pub fn close(self) -> Result<(), SessionError> {
        let (mut receipts, ids) = (Vec::new(), self.shared.numbers.lock().0.ids().clone());
        for shard in self.namespace.shards() {
            if let Some(session) = ids.get(&shard.descriptor.shard) {
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
        let routed = match self.namespace.route(record) {
            Ok(routed) => routed,
            Err(crossed) => {
                // As in `Namespace::prepare`.
                record.check()?;
                return Err(crossed.into());
            }
        };
        let busy = || SubmitError::from(routed.queue.busy(record.encoded_len()));
        let (_turn, policy) = self.turn(policy).ok_or_else(busy)?;
        let numbered = {
            let (numbers, orphans) = &mut *self.shared.numbers.lock();
            settle(numbers, orphans);
            numbers.submit(number, routed.descriptor.shard)?
        };
        let (request, number) = (numbered.request, numbered.request.number);
        let submitted = self.namespace.write_when(Record { request, ..record.clone() }, policy);
        let (numbers, _) = &mut *self.shared.numbers.lock();
        match submitted {
            Ok(receipt) => {
                numbers.submitted(numbered);
                Ok(SessionReceipt { receipt: Some(receipt), number, shared: Arc::clone(&self.shared) })
            }
            Err(refused) => {
                numbers.take_back(numbered);
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
        self.shared.numbers.lock().0.answered(self.number, &written.outcome);
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
        let (numbers, orphans) = &mut *self.shared.numbers.lock();
        // Of one that was answered, or given up, nothing is waited for.
        if numbers.is_waiting(self.number) {
            orphans.push_back((self.number, receipt));
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

//! Sessions: a client's numbered requests, each of which takes effect once (I5).

use super::completion::Completion;
use super::error::WriteRefused;
use super::hosting::ShardHandle;
use super::namespace::Namespace;
use super::stages::Arrived;
use crate::model::limits::REQUESTS_WAITING_MAX;
use crate::model::request::FailureClass;
use crate::model::{ControlRecord, Outcome, Record, Rejection, RequestId, ShardId, session_id};
use crate::pipeline::{Receipt, Submission, SubmitPolicy, WriteError, Written};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

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
/// let number = session.next_number();
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

/// All that is needed to go on with a session.
///
/// Two must not go on from one state: they would use the same numbers. Of two different requests by one number in one shard
/// the second is refused ([`Rejection::NumberReused`]); of two that are alike, or in two shards, nobody can tell.
///
/// ```
/// use towline::model::{Expect, Write};
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let bank = node.default_namespace();
/// let (session, write) = (bank.open_session()?, Write::new().append("account", Expect::Any, "+10"));
/// let number = session.next_number();
/// let kept = session.state();
/// let first = session.retry(number, &write)?.wait()?;
/// // After a crash of this program, that kept the state and the write somewhere:
/// let again = bank.resume_session(kept).retry(number, &write)?.wait()?;
/// assert_eq!(again, first, "executed once");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// What each shard calls it.
    pub ids: BTreeMap<ShardId, u128>,
    /// The first number that was never used.
    pub next: u64,
    /// The requests that have no answer yet: they can be tried again. With each, where it was submitted; none: nowhere yet.
    pub waiting: BTreeMap<u64, Option<Sent>>,
    /// The newest request of each shard.
    pub last: BTreeMap<ShardId, u64>,
}

/// Where a request was submitted: each further try goes there, behind the same one.
///
/// ```
/// use towline::model::{Expect, Write};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let bank = node.default_namespace();
/// let session = bank.open_session()?;
/// let paid_in = session.write(Write::new().append("account-7", Expect::Any, "+10"))?;
/// let paid_out = session.write(Write::new().append("account-7", Expect::Any, "-10"))?;
/// // Whoever goes on from this state tries each again in the shard where it was, and never the second before the first.
/// let waiting = session.state().waiting;
/// let sent = waiting[&paid_out.number()].expect("it was submitted");
/// assert_eq!(sent.after, paid_in.number());
/// assert_eq!(paid_out.wait()?.shard, sent.shard);
/// # paid_in.wait()?;
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The shard.
    pub shard: ShardId,
    /// The request of the session that comes before it there; 0: none.
    pub after: u64,
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
    next: u64,
    waiting: BTreeMap<u64, Option<Sent>>,
    last: BTreeMap<ShardId, u64>,
    /// Receipts that nobody holds any more: their requests are waited for until the answer is here.
    orphans: VecDeque<(u64, Receipt)>,
}

impl Numbers {
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
            self.resume_session(SessionState { ids, next: 1, waiting: BTreeMap::new(), last: BTreeMap::new() });
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
        let numbers = Numbers { next: next.max(used.saturating_add(1)), waiting, last, orphans: VecDeque::new() };
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
    #[must_use]
    pub fn next_number(&self) -> u64 {
        let mut numbers = self.shared.numbers.lock();
        let number = numbers.next;
        numbers.next = numbers.next.saturating_add(1);
        numbers.waiting.insert(number, None);
        number
    }

    /// Submits a request with the next number, waiting for room in the queue. It is executed in the order in which the session's
    /// requests were first submitted to its shard.
    ///
    /// # Errors
    /// As [`Namespace::write`]; or too many requests wait for an answer.
    pub fn write(&self, write: impl AsRef<Record>) -> Result<SessionReceipt, WriteRefused> {
        self.submit(None, write.as_ref())
    }

    /// Submits a request again, or for the first time if its number was only taken: it is executed once, however often it is
    /// tried, and every try hears the same. The write must be the same each time; another one is refused.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub fn retry(&self, number: u64, write: impl AsRef<Record>) -> Result<SessionReceipt, WriteRefused> {
        self.submit(Some(number), write.as_ref())
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

    fn submit(&self, number: Option<u64>, record: &Record) -> Result<SessionReceipt, WriteRefused> {
        let _turn = self.shared.turn.lock();
        let shard = self.namespace.route(record)?.descriptor.shard;
        let (number, request, before) = {
            let mut numbers = self.shared.numbers.lock();
            numbers.settle();
            let number = number.unwrap_or(numbers.next);
            let ack_low = numbers.waiting.keys().next().map_or(number, |lowest| number.min(*lowest));
            if number - ack_low >= REQUESTS_WAITING_MAX {
                return Err(WriteRefused::TooManyWaiting { lowest: ack_low });
            }
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
            numbers.next = numbers.next.max(number.saturating_add(1));
            numbers.waiting.insert(number, Some(Sent { shard, after }));
            // A shard that the session is not known to says so itself: 1 is no id.
            let session = self.shared.ids.get(&shard).copied().unwrap_or(1);
            (number, RequestId { session, number, ack_low, after }, before)
        };
        match self.namespace.write(Record { request, ..record.clone() }) {
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

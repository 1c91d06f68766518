//! [`Session`]: a client's numbered requests, tried again until they are answered, and executed once.

use super::error::{ClientError, UnknownCause, WriteError};
use super::handle::misunderstood;
use super::namespace::{Again, Namespace, answer_of, done};
use super::pauses::Pauses;
use super::receipt::{WriteReceipt, outcome_of};
use super::servers::first_key;
use crate::model::call::{Answer, Call};
use crate::model::request::FailureClass;
use crate::model::{
    NamespaceDescriptor, Numbered, Numbers, Outcome, Record, Rejection, SessionState, ShardId, Written,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Requests that take effect once, however often they are sent: what [`crate::node::Session`] is to the embedding program. A write whose
/// answer was lost is sent again by itself, with its number. Clones are one session.
///
/// Requests reach a shard in the order of their numbers, which is that in which the calls of [`Session::write`] were first polled; several
/// may be under way at a time.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{Expect, Outcome, Write};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// let bank = client.namespace("default");
/// let session = bank.open_session().await?;
/// let withdrawal = Write::new().append("account-7", Expect::Any, "-30");
/// let number = session.next_number()?;
/// // Kept before it is sent, with the write: whoever comes back after a crash goes on from here.
/// let kept = session.state().to_string();
/// let first = session.retry(number, &withdrawal).await?;
/// let again = bank.resume_session(kept.parse()?).await?.retry(number, &withdrawal).await?;
/// assert_eq!((again, first.outcome), (first, Outcome::Applied { version: 1 }), "thirty, not sixty");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Session {
    namespace: Namespace,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    descriptor: NamespaceDescriptor,
    /// Held while a request is sent: requests go out in the order of their numbers.
    turn: Mutex<()>,
    numbers: parking_lot::Mutex<Kept>,
    /// Told of each answer: whoever came before one that it must follow comes again then.
    answers: watch::Sender<()>,
}

/// The numbers, and the requests that were sent and for which no call waits any more: each is waited for until its answer is here.
#[derive(Debug)]
struct Kept {
    numbers: Numbers,
    orphans: VecDeque<(u64, WriteReceipt<Written>)>,
}

impl Kept {
    /// Takes the answers that came to nobody.
    fn settle(&mut self) {
        while let Some((number, mut receipt)) = self.orphans.pop_front() {
            match receipt.take() {
                None => return self.orphans.push_front((number, receipt)),
                Some(Ok(written)) => self.numbers.answered(number, &written.outcome),
                // In doubt, or refused when it may have been executed before: it is waited for until a retry brings the answer.
                Some(Err(_)) => {}
            }
        }
    }
}

/// A request that was sent. Dropped before its answer, the session itself looks for that with its next request.
struct Waiting<'a> {
    shared: &'a Shared,
    number: u64,
    receipt: Option<WriteReceipt<Written>>,
}

impl Waiting<'_> {
    async fn answer(mut self) -> Result<Written, WriteError> {
        let unknown = WriteError::Unknown { cause: UnknownCause::ConnectionLost };
        let answer = match &mut self.receipt {
            Some(receipt) => receipt.await,
            None => Err(unknown),
        };
        self.receipt = None;
        answer
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mut receipt) = self.receipt.take() else { return };
        receipt.leave_place();
        let Kept { numbers, orphans } = &mut *self.shared.numbers.lock();
        // One that was given up is not waited for.
        if numbers.is_waiting(self.number) {
            orphans.push_back((self.number, receipt));
        }
    }
}

/// A request that is not sent yet: if it fails, or its caller goes away, its number is as it was.
struct Sending<'a> {
    shared: &'a Shared,
    numbered: Option<Numbered>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if let Some(numbered) = self.numbered.take() {
            self.shared.numbers.lock().numbers.take_back(numbered);
        }
    }
}

impl Namespace {
    /// Begins a session in all shards of the namespace.
    ///
    /// Cancellation: a session that nobody knows may be left; it expires.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn open_session(&self) -> Result<Session, ClientError> {
        match self.ask(Call::OpenSession, Again::Yes).await? {
            Answer::Session(ids) => {
                let (ids, next) = (ids.into_iter().collect(), Some(1));
                self.resume_session(SessionState { ids, next, waiting: BTreeMap::new(), last: BTreeMap::new() }).await
            }
            other => Err(misunderstood(&other)),
        }
    }

    /// Goes on with a session that another program, or this one before a crash, has left: also one of an embedding program.
    ///
    /// # Errors
    /// No answer in time, or the server's: there is no such namespace.
    pub async fn resume_session(&self, state: SessionState) -> Result<Session, ClientError> {
        let kept = Kept { numbers: Numbers::of(state), orphans: VecDeque::new() };
        let (descriptor, numbers) = (self.descriptor().await?, parking_lot::Mutex::new(kept));
        let shared = Shared { descriptor, turn: Mutex::new(()), numbers, answers: watch::Sender::new(()) };
        Ok(Session { namespace: self.clone(), shared: Arc::new(shared) })
    }
}

impl Session {
    /// What to keep, to go on with it.
    #[must_use]
    pub fn state(&self) -> SessionState {
        let kept = &mut *self.shared.numbers.lock();
        kept.settle();
        kept.numbers.state()
    }

    /// A number for a request that is kept before it is sent: then [`Session::retry`] sends it.
    ///
    /// # Errors
    /// [`ClientError::Number`].
    pub fn next_number(&self) -> Result<u64, ClientError> {
        let kept = &mut *self.shared.numbers.lock();
        kept.settle();
        Ok(kept.numbers.take()?)
    }

    /// Writes, and is done when it is answered. It is sent again, by the same number, when an answer is lost, until the time of a
    /// request is over; what is sent last is waited for as long again.
    ///
    /// Cancellation: before it is sent, nothing was asked, and no number is used. After that it may or may not be executed, once, and
    /// its number is in [`Session::state`] until its answer comes, or that of a [`Session::retry`], or it is given up.
    ///
    /// # Errors
    /// The session gives no number, or the write is not legal: nothing was sent. [`WriteError::Unknown`]: it has no answer yet,
    /// and its number is in [`Session::state`].
    pub async fn write(&self, write: impl AsRef<Record>) -> Result<Written, SessionError> {
        self.submit(None, write.as_ref()).await
    }

    /// Sends the request of this number, for the first time or again: executed once, it is answered the same each time.
    ///
    /// Cancellation: as [`Session::write`].
    ///
    /// # Errors
    /// As [`Session::write`].
    pub async fn retry(&self, number: u64, write: impl AsRef<Record>) -> Result<Written, SessionError> {
        self.submit(Some(number), write.as_ref()).await
    }

    /// Waits for this number no more: what came of its request may be forgotten.
    pub fn give_up(&self, number: u64) {
        self.shared.numbers.lock().numbers.give_up(number);
    }

    /// Ends it: the servers forget it, and what came of its requests.
    ///
    /// # Errors
    /// No answer in time, or the server's. A session that is not closed expires.
    pub async fn close(self) -> Result<(), ClientError> {
        let ids = self.shared.numbers.lock().numbers.ids().iter().map(|(shard, id)| (*shard, *id)).collect();
        done(self.namespace.ask(Call::CloseSession { ids }, Again::Yes).await?)
    }

    async fn submit(&self, number: Option<u64>, record: &Record) -> Result<Written, SessionError> {
        record.check().map_err(ClientError::from)?;
        let shard = self.shard_of(record);
        let end = Instant::now() + self.namespace.client().request_timeout();
        // An earlier try of this number may have been executed: here, or by whoever had the session before.
        let mut in_doubt = number.is_some();
        let (mut number, mut sent, mut pauses) = (number, None, Pauses::new());
        loop {
            let waited = self.namespace.client().request_timeout();
            // From here on: the answer that is waited for may come before this one.
            let mut answers = self.shared.answers.subscribe();
            let sending = timeout_at(end, self.send(number, shard, record)).await;
            let (used, receipt) = match (sending.unwrap_or(Err(ClientError::Deadline { waited })), sent) {
                (Ok(sent), _) => sent,
                (Err(error), None) => return Err(error.into()),
                // Not this time; but before.
                (Err(_), Some(number)) => {
                    let source = WriteError::Unknown { cause: UnknownCause::ConnectionLost };
                    return Err(SessionError::Write { number, source });
                }
            };
            (number, sent) = (Some(used), Some(used));
            let waiting = Waiting { shared: &self.shared, number: used, receipt: Some(receipt) };
            let error = match waiting.answer().await {
                Ok(Written { outcome: Outcome::Rejected(Rejection::OutOfOrder { .. }), .. })
                    if Instant::now() < end =>
                {
                    // One before it was lost on the way, and is tried again beside this one.
                    None
                }
                Ok(written) => {
                    self.shared.numbers.lock().numbers.answered(used, &written.outcome);
                    self.shared.answers.send_replace(());
                    return Ok(written);
                }
                Err(error) => Some(error),
            };
            match error {
                Some(error @ WriteError::Refused(_)) if !self.is_worth_another(&error) && !in_doubt => {
                    // It has no effect and never will: whatever comes behind it must not wait for it.
                    self.shared.numbers.lock().numbers.give_up(used);
                    return Err(SessionError::Write { number: used, source: error });
                }
                Some(error) if !self.is_worth_another(&error) || Instant::now() >= end => {
                    let source = match error {
                        // This attempt has no effect; one before it may have.
                        WriteError::Refused(failure) if in_doubt => {
                            WriteError::Unknown { cause: UnknownCause::Server(failure) }
                        }
                        error => error,
                    };
                    return Err(SessionError::Write { number: used, source });
                }
                Some(error) => {
                    in_doubt |= !error.has_no_effect();
                    pauses.pass_after(error.failure()).await;
                }
                // Not for longer than that: otherwise whoever pauses would always have others before it that pause. Either way it is
                // looked once more.
                None => drop(timeout(pauses.next(), answers.changed()).await),
            }
        }
    }

    /// In its turn; done when it is sent.
    async fn send(
        &self,
        number: Option<u64>,
        shard: ShardId,
        record: &Record,
    ) -> Result<(u64, WriteReceipt<Written>), ClientError> {
        let _turn = self.shared.turn.lock().await;
        let numbered = {
            let kept = &mut *self.shared.numbers.lock();
            kept.settle();
            kept.numbers.submit(number, shard)?
        };
        let request = numbered.request;
        let mut sending = Sending { shared: &self.shared, numbered: Some(numbered) };
        let record = Record { request, ..record.clone() };
        let read = |answer| outcome_of(answer, |body| answer_of(body)?.written());
        let receipt = self.namespace.send_in_order(&record, shard, read).await?;
        if let Some(numbered) = sending.numbered.take() {
            self.shared.numbers.lock().numbers.submitted(numbered);
        }
        Ok((request.number, receipt))
    }

    /// Whether the same request, sent once more, may have an answer.
    fn is_worth_another(&self, error: &WriteError) -> bool {
        match error {
            WriteError::Unknown { cause: UnknownCause::Answer } => false,
            WriteError::Unknown { .. } => true,
            WriteError::Refused(failure) => self.namespace.client().is_worth_another(failure),
        }
    }

    /// Where the write lies, by the first key that it names; if it names keys of two shards, the server says so.
    fn shard_of(&self, record: &Record) -> ShardId {
        let shard = self.shared.descriptor.shard_of(first_key(record));
        shard.map_or(ShardId::new(0), |shard| shard.shard)
    }
}

/// Why a request of a session has no answer.
///
/// | code | class | what to do |
/// |---|---|---|
/// | all | | those of [`ClientError`]: nothing was sent; those of [`WriteError`] |
///
/// ```
/// use towline::client::{Client, ClientOptions, SessionError};
/// use towline::model::Write;
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// let session = client.namespace("default").open_session().await?;
/// match session.write(Write::new().put("", "an empty key")).await {
///     Err(SessionError::NotSent(error)) => assert_eq!(error.code(), "TW-7005", "it took no number"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// It was not sent.
    #[error(transparent)]
    NotSent(#[from] ClientError),
    /// It was sent, and is not answered.
    #[error("request {number} of the session: {source}")]
    Write {
        /// Its number: a [`Session::retry`] of it is executed once.
        number: u64,
        /// What is known of it.
        source: WriteError,
    },
}

impl SessionError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::NotSent(error) => error.code(),
            Self::Write { source, .. } => source.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::NotSent(error) => error.class(),
            Self::Write { source, .. } => source.class(),
        }
    }
}

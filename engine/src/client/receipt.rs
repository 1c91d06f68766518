//! [`WriteReceipt`]: the promise to answer of one write.

use super::error::{UnknownCause, WriteError};
use super::link::{Answer, Awaited, Link};
#[cfg(feature = "node")]
use crate::model::request::Failure;
use crate::model::request::ResponseBody;
use crate::model::{Epoch, Lsn, Outcome};
#[cfg(feature = "node")]
use crate::model::{Position, Written as Applied};
#[cfg(feature = "node")]
use crate::pipeline::Receipt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// A write that is committed, and applied on the server that answered.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{Expect, Outcome, Rejection, Write};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// let placed = Write::new().append("order-42", Expect::Absent, "placed");
/// let first = client.write(placed.record()).await?.await?;
/// assert_eq!(first.outcome, Outcome::Applied { version: 1 });
/// // A write whose condition does not hold lies in the log as well, and has no effect.
/// let second = client.write(placed.record()).await?.await?;
/// assert_eq!(second.outcome, Outcome::Rejected(Rejection::StreamVersion { index: 0, actual: 1 }));
/// assert!(second.lsn > first.lsn);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The epoch it lies in.
    pub epoch: Epoch,
    /// Its LSN.
    pub lsn: Lsn,
    /// What came of it: applied, or rejected because a condition did not hold.
    pub outcome: Outcome,
}

/// A write that was sent; a future of its outcome.
///
/// Cancellation: dropping it changes nothing but who hears the answer. The write goes its way, and keeps its
/// place among the requests in flight until it is answered or the connection ends. [`WriteReceipt::cancel`] asks for more.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{Lsn, Write};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// let mut receipts = Vec::new();
/// for number in 0..100 {
///     let sample = Write::new().put(format!("sample-{number}"), "x");
///     receipts.push(client.write(sample.record()).await?); // sent, and not waited for
/// }
/// let mut last = Lsn::ZERO;
/// for receipt in receipts {
///     let lsn = receipt.await?.lsn;
///     assert!(lsn > last, "they were received in the order in which they were sent");
///     last = lsn;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "whether the write took effect is known from its receipt only"]
pub struct WriteReceipt<T = Written> {
    coming: Coming,
    deadline: Pin<Box<Sleep>>,
    timeout: Duration,
    read: fn(Answer) -> Result<T, WriteError>,
    /// The connection lives as long as somebody waits for an answer from it, also when the client has gone on to another: a server
    /// that sends its clients elsewhere still answers what it took before.
    _link: Option<Arc<Link>>,
    /// Where no connection has it: the place among the requests in flight.
    place: Option<OwnedSemaphorePermit>,
}

/// Where an answer comes from.
#[derive(Debug)]
pub(super) enum Coming {
    /// A server.
    Server(Awaited),
    /// The node in this process: of a plain write, of one that is applied, of one that has its place.
    #[cfg(feature = "node")]
    Plain(Receipt<Applied>),
    #[cfg(feature = "node")]
    Written(Receipt<Applied>),
    #[cfg(feature = "node")]
    Placed(Receipt<Position>),
    /// It took nothing.
    #[cfg(feature = "node")]
    Refused(Option<Failure>),
}

impl Coming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answer> {
        #[cfg(feature = "node")]
        use crate::node::calls::{answered, written};
        match self {
            Self::Server(answer) => Pin::new(answer).poll(context),
            #[cfg(feature = "node")]
            Self::Plain(receipt) => Pin::new(receipt).poll(context).map(|result| Answer::Body(written(result))),
            #[cfg(feature = "node")]
            Self::Written(receipt) => Pin::new(receipt).poll(context).map(|result| Answer::Body(answered(result))),
            #[cfg(feature = "node")]
            Self::Placed(receipt) => Pin::new(receipt).poll(context).map(|result| Answer::Body(answered(result))),
            #[cfg(feature = "node")]
            Self::Refused(failure) => Poll::Ready(
                failure.take().map_or(Answer::ConnectionLost, |failure| Answer::Body(ResponseBody::Failed(failure))),
            ),
        }
    }
}

impl<T> WriteReceipt<T> {
    /// Of a server, at the other end of this connection.
    pub(super) fn of_server(
        answer: Awaited,
        link: Arc<Link>,
        timeout: Duration,
        read: fn(Answer) -> Result<T, WriteError>,
    ) -> Self {
        Self { _link: Some(link), ..Self::new(Coming::Server(answer.left_when_dropped()), timeout, read) }
    }

    /// Of the node in this process.
    #[cfg(feature = "node")]
    pub(super) fn of_node(
        coming: Coming,
        place: OwnedSemaphorePermit,
        timeout: Duration,
        read: fn(Answer) -> Result<T, WriteError>,
    ) -> Self {
        Self { place: Some(place), ..Self::new(coming, timeout, read) }
    }

    fn new(coming: Coming, timeout: Duration, read: fn(Answer) -> Result<T, WriteError>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        Self { coming, deadline, timeout, read, _link: None, place: None }
    }
}

impl<T> WriteReceipt<T> {
    /// Asks the server to take the write back if it has not begun it, say because it waits for room. Then it has no effect, and this
    /// receipt says so: [`WriteError::Refused`], TW-8009. Otherwise, and by a server that knows no such thing, it says what came of it.
    ///
    /// ```
    /// use towline::client::{Client, ClientOptions, WriteError};
    /// # #[cfg(feature = "cluster")] {
    /// # use towline::node::{Config, serve};
    /// # let directory = tempfile::tempdir()?;
    /// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
    /// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    /// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
    /// # let address = server.address().to_string();
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let client = Client::connect([address], ClientOptions::default()).await?;
    /// let receipt = client.namespace("default").put("a", "1").await?;
    /// receipt.cancel();
    /// match receipt.await {
    ///     Ok(written) => println!("it was too late: {:?}", written.outcome),
    ///     Err(WriteError::Refused(failure)) => assert_eq!(failure.code, 8009),
    ///     Err(unknown) => return Err(unknown.into()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # server.shutdown()?;
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(&self) {
        match &self.coming {
            Coming::Server(answer) => answer.cancel(),
            // What the node in this process took is in its queue: it is too late.
            #[cfg(feature = "node")]
            _ => {}
        }
    }

    /// Nobody waits for it now: its place is somebody else's.
    pub(super) fn leave_place(&mut self) {
        drop(self.place.take());
    }

    /// What came of it, if that is known already.
    pub(super) fn take(&mut self) -> Option<Result<T, WriteError>> {
        // Nobody is woken: it is looked at again.
        match self.coming.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some((self.read)(answer)),
            Poll::Pending => None,
        }
    }
}

impl<T> Future for WriteReceipt<T> {
    type Output = Result<T, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = self.coming.poll(context) {
            return Poll::Ready((self.read)(answer));
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(unknown(UnknownCause::Deadline(self.timeout))));
        }
        Poll::Pending
    }
}

/// What came of a plain write.
pub(super) const fn written(body: &ResponseBody) -> Option<Written> {
    match body {
        ResponseBody::Written { epoch: (version, term), lsn, outcome } => {
            let epoch = Epoch { version: *version, term: *term };
            Some(Written { epoch, lsn: Lsn::new(*lsn), outcome: *outcome })
        }
        _ => None,
    }
}

/// What is known of a write by an answer, in which `found` finds what came of it.
pub(super) fn outcome_of<T>(answer: Answer, found: impl FnOnce(&ResponseBody) -> Option<T>) -> Result<T, WriteError> {
    match answer {
        Answer::Body(ResponseBody::Failed(failure)) if failure.no_side_effects => Err(WriteError::Refused(failure)),
        Answer::Body(ResponseBody::Failed(failure)) => Err(unknown(UnknownCause::Server(failure))),
        Answer::Body(body) => found(&body).ok_or(unknown(UnknownCause::Answer)),
        Answer::ConnectionLost => Err(unknown(UnknownCause::ConnectionLost)),
    }
}

const fn unknown(cause: UnknownCause) -> WriteError {
    WriteError::Unknown { cause }
}

//! [`Client`]: what applications hold.

use super::connector;
use super::error::{ClientError, WriteError};
use super::link::{Answer, Awaited, Link, SendFailure};
use super::options::ClientOptions;
use super::pauses::Pauses;
use super::receipt::{WriteReceipt, Written, outcome_of};
use crate::model::codec::{self, CodecError};
use crate::model::request::{Direction, FailureClass, Request, RequestBody, ResponseBody, ServerStatus, StreamEvent};
use crate::model::{Epoch, Lsn, NodeId, Record};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

/// A connection to a cluster. Clones share it.
///
/// Everything it does is bounded: by [`ClientOptions::in_flight_max`] requests at a time, each by
/// [`ClientOptions::request_timeout`] and, where a server has to be found first, [`ClientOptions::connect_timeout`].
/// It needs a tokio runtime with time and I/O enabled.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::Write;
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let client = Client::connect([address], ClientOptions::default()).await?;
/// let reader = client.clone();
/// client.write(Write::new().put("stock/apple", "7").record()).await?.await?;
/// // What was answered is applied on the server that answered.
/// assert_eq!(reader.get(b"stock/apple").await?.map(|found| found.value), Some("7".into()));
/// assert!(reader.get(b"stock/pear").await?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    addresses: Vec<String>,
    options: ClientOptions,
    /// The connection in use. The lock is held while a new one is made, so that one is made and not many.
    link: Mutex<Current>,
    places: Arc<Semaphore>,
    connects: AtomicU64,
    /// Each connection adds to it, also one that is let go and still waits for answers.
    bytes_received: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Current {
    link: Option<Arc<Link>>,
    /// When the last attempt to find a server failed, and how: the answer for all who waited for it.
    failed: Option<(Instant, ClientError)>,
}

/// A key's value, as applied on the server that answered.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::{Expect, Write};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// client.write(Write::new().put("stock/apple", "7").record()).await?.await?;
/// let found = client.get(b"stock/apple").await?.expect("it was put");
///
/// let sale = Write::new().expect("stock/apple", Expect::Version(found.version)).put("stock/apple", "6");
/// assert!(client.write(sale.record()).await?.await?.outcome.applied().is_ok());
/// let second = client.write(sale.record()).await?.await?;
/// assert!(second.outcome.applied().is_err(), "of two who saw 7 apples, one sells");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionedValue {
    /// The LSN of the record that set it.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// Some events of a stream, as applied on the server that answered.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// use towline::model::request::Direction;
/// # use towline::model::{Expect, Write};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// # for event in ["placed", "paid", "sent"] {
/// #     client.write(Write::new().append("order-42", Expect::Any, event).record()).await?.await?;
/// # }
/// let (mut history, mut from) = (Vec::new(), 1);
/// loop {
///     let page = client.read_stream(b"order-42", from, Direction::Forward, 2).await?;
///     from = page.events.last().map_or(from, |event| event.version + 1);
///     history.extend(page.events.into_iter().map(|event| event.value));
///     if !page.more {
///         break;
///     }
/// }
/// assert_eq!(history, [b"placed".as_slice(), b"paid", b"sent"]);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamPage {
    /// The events, in the direction asked.
    pub events: Vec<StreamEvent>,
    /// The stream's version: its last event's number, 0 if it has none.
    pub head: u64,
    /// Whether there are more in that direction.
    pub more: bool,
    /// The position applied on the server.
    pub applied: Lsn,
}

/// The digest of a server's state, at a position.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// # use towline::model::Write;
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let client = Client::connect([address], ClientOptions::default()).await?;
/// client.write(Write::new().put("a", "1").record()).await?.await?;
/// let told = client.digest().await?;
/// // Here the node of that server; in a cluster, another one that has applied as much.
/// let (at, digest) = server.node().digest()?;
/// assert_eq!((told.epoch, told.applied, told.digest), (at.epoch, at.lsn, digest));
///
/// client.write(Write::new().put("a", "2").record()).await?.await?;
/// let later = client.digest().await?;
/// assert!(later.applied > told.applied && later.digest != told.digest);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateDigest {
    /// The epoch of the position.
    pub epoch: Epoch,
    /// The position applied.
    pub applied: Lsn,
    /// The digest: equal positions of one log have equal digests (I4).
    pub digest: [u8; 16],
}

/// Figures of a client.
///
/// ```
/// use towline::client::{Client, ClientOptions};
/// # use towline::model::Write;
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let client = Client::connect([address], ClientOptions::default()).await?;
/// for worker in [client.clone(), client.clone()] {
///     worker.write(Write::new().put("a", "1").record()).await?.await?;
/// }
/// // Clones share one connection. Where this number rises, servers or the network between are in trouble.
/// assert_eq!(client.stats().reconnects, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClientStats {
    /// Connections made beyond the first.
    pub reconnects: u64,
    /// Bytes of answers and deliveries received, over all connections, and of answers to the question who leads.
    pub bytes_received: u64,
}

impl Client {
    /// Connects: to the leader among these addresses, or to the first that answers ([`ClientOptions::route`]).
    ///
    /// Cancellation: nothing is left behind.
    ///
    /// # Errors
    /// [`ClientError::NoAddress`], [`ClientError::Unreachable`].
    pub async fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let places = options.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let client = Self {
            shared: Arc::new(Shared {
                addresses: addresses.into_iter().map(Into::into).collect(),
                options,
                link: Mutex::new(Current::default()),
                places: Arc::new(Semaphore::new(places)),
                connects: AtomicU64::new(0),
                bytes_received: Arc::default(),
            }),
        };
        client.link().await?;
        Ok(client)
    }

    /// Sends a write; done when it is sent, not when it is answered. Writes are received in the order in which
    /// these calls end, as long as the connection is the same. It waits for a place among the requests in flight,
    /// for a connection, and for room in the send buffer.
    ///
    /// Cancellation: it was not sent, and has no effect.
    ///
    /// # Errors
    /// It was not sent and has no effect.
    pub async fn write(&self, record: &Record) -> Result<WriteReceipt, ClientError> {
        let record = record.encode()?.to_vec();
        let namespace = &self.shared.options.namespace;
        self.send_write(namespace, RequestBody::Write { record }, |answer| outcome_of(answer, written)).await
    }

    pub(super) async fn send_write<T>(
        &self,
        namespace: &str,
        body: RequestBody,
        read: fn(Answer) -> Result<T, WriteError>,
    ) -> Result<WriteReceipt<T>, ClientError> {
        let timeout = self.shared.options.request_timeout.min(connector::WAIT_MAX);
        let deadline = Instant::now() + timeout;
        loop {
            let place = self.place(deadline).await?;
            let link = self.link().await?;
            // From here on its own time counts: what was spent on finding a server is not the server's.
            match self.send(&link, place, namespace, body.clone(), Instant::now() + timeout).await {
                Ok(answer) => return Ok(WriteReceipt::new(answer, timeout, link, read)),
                // It was certainly not sent, so this is the first attempt still.
                Err(ClientError::ConnectionLost) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A key's value.
    ///
    /// Cancellation: without effect, as for every read.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn get(&self, key: &[u8]) -> Result<Option<VersionedValue>, ClientError> {
        match self.ask(RequestBody::Get { key: key.to_vec() }).await? {
            ResponseBody::Value { value, .. } => {
                Ok(value.map(|(version, value)| VersionedValue { version, value: value.into() }))
            }
            other => Err(misunderstood(&other)),
        }
    }

    /// Events of a stream: forward from version `from`, or backward from it (0: from the end). The server may
    /// return fewer than `events_max`, and then says that there are more.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn read_stream(
        &self,
        stream: &[u8],
        from: u64,
        direction: Direction,
        events_max: u32,
    ) -> Result<StreamPage, ClientError> {
        match self.ask(RequestBody::ReadStream { stream: stream.to_vec(), from, direction, events_max }).await? {
            ResponseBody::Events { events, head, more, applied } => {
                Ok(StreamPage { events, head, more, applied: Lsn::new(applied) })
            }
            other => Err(misunderstood(&other)),
        }
    }

    /// The digest of the server's state.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn digest(&self) -> Result<StateDigest, ClientError> {
        match self.ask(RequestBody::Digest).await? {
            ResponseBody::Digest { epoch: (version, term), applied, digest } => {
                Ok(StateDigest { epoch: Epoch { version, term }, applied: Lsn::new(applied), digest })
            }
            other => Err(misunderstood(&other)),
        }
    }

    /// How the server is.
    ///
    /// # Errors
    /// No answer in time, or the server's.
    pub async fn status(&self) -> Result<ServerStatus, ClientError> {
        match self.ask(RequestBody::Status).await? {
            ResponseBody::Status(status) => Ok(status),
            other => Err(misunderstood(&other)),
        }
    }

    /// The node that is connected now, if one is.
    pub async fn node(&self) -> Option<NodeId> {
        self.shared.link.lock().await.link.as_ref().map(|link| link.node())
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        // Relaxed: figures for people, which order nothing.
        ClientStats {
            reconnects: self.shared.connects.load(Ordering::Relaxed).saturating_sub(1),
            bytes_received: self.shared.bytes_received.load(Ordering::Relaxed),
        }
    }

    pub(super) fn request_timeout(&self) -> Duration {
        self.shared.options.request_timeout.min(connector::WAIT_MAX)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.shared.options.connect_timeout.min(connector::WAIT_MAX)
    }

    /// A read: asked again after a lost connection or a 'not now', until its deadline.
    async fn ask(&self, body: RequestBody) -> Result<ResponseBody, ClientError> {
        self.ask_of(&self.shared.options.namespace, body, true).await
    }

    /// Asks until there is an answer, in the time of one request; of what changes something only while it was certainly not done.
    pub(super) async fn ask_of(
        &self,
        namespace: &str,
        body: RequestBody,
        again_when_lost: bool,
    ) -> Result<ResponseBody, ClientError> {
        let waited = self.shared.options.request_timeout;
        let deadline = Instant::now() + waited.min(connector::WAIT_MAX);
        let mut pauses = Pauses::new();
        loop {
            let error = match self.ask_once(namespace, body.clone(), deadline).await {
                Ok(ResponseBody::Failed(failure)) => ClientError::Refused(failure),
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                ClientError::ConnectionLost => again_when_lost,
                ClientError::Refused(failure) => {
                    matches!(failure.class, FailureClass::Retry | FailureClass::ReRoute)
                        && (again_when_lost || failure.no_side_effects)
                        // Sent on to itself: what is asked can't be done there.
                        && (failure.leader.is_none() || failure.leader != self.node().await)
                }
                _ => false,
            };
            let pause = pauses.next();
            if !again || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    async fn ask_once(
        &self,
        namespace: &str,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<ResponseBody, ClientError> {
        let place = self.place(deadline).await?;
        let link = self.link().await?;
        let answer = self.send(&link, place, namespace, body, deadline).await?;
        match timeout_at(deadline, answer).await {
            Ok(Answer::Body(body)) => Ok(body),
            Ok(Answer::ConnectionLost) => Err(ClientError::ConnectionLost),
            Err(_) => Err(ClientError::Deadline { waited: self.shared.options.request_timeout }),
        }
    }

    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, ClientError> {
        match timeout_at(deadline, Arc::clone(&self.shared.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(ClientError::Deadline { waited: self.shared.options.request_timeout }),
        }
    }

    async fn send(
        &self,
        link: &Link,
        place: OwnedSemaphorePermit,
        namespace: &str,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<Awaited, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let namespace = namespace.to_owned();
        let request = move |id| codec::encode(&Request { id, deadline_ms, namespace, body });
        link.send(place, deadline, request).await.map_err(|failure| match failure {
            SendFailure::Codec(CodecError::TooLarge { limit, value, .. }) => {
                ClientError::TooLarge(format!("it has {value} bytes, {limit} are possible"))
            }
            SendFailure::Codec(error) => error.into(),
            SendFailure::TooLong(error) => ClientError::TooLarge(error.to_string()),
            SendFailure::ConnectionLost => ClientError::ConnectionLost,
            SendFailure::NoRoom => ClientError::Deadline { waited: self.shared.options.request_timeout },
        })
    }

    /// A connection of one's own: whoever does not take what comes on it holds up nobody else.
    pub(super) async fn own_link(&self) -> Result<Link, ClientError> {
        let Shared { addresses, options, bytes_received, .. } = &*self.shared;
        let link = connector::connect(addresses, options, bytes_received).await?;
        // What it was asked, if anything, was who leads.
        link.end_requests();
        Ok(link)
    }

    /// The connection in use, or a new one.
    pub(super) async fn link(&self) -> Result<Arc<Link>, ClientError> {
        let asked = Instant::now();
        let mut current = self.shared.link.lock().await;
        if let Some(link) = current.link.as_ref().filter(|link| link.is_usable()) {
            return Ok(Arc::clone(link));
        }
        // Otherwise calls that wait for the same attempt would each make one more, one after the other.
        if let Some((_, error)) = current.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(error.clone());
        }
        // The old connection is let go; it closes when nobody waits for an answer from it any more.
        drop(current.link.take());
        let Shared { addresses, options, bytes_received, .. } = &*self.shared;
        let link = match connector::connect(addresses, options, bytes_received).await {
            Ok(link) => Arc::new(link),
            Err(error) => {
                current.failed = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        self.shared.connects.fetch_add(1, Ordering::Relaxed);
        current.link = Some(Arc::clone(&link));
        Ok(link)
    }
}

/// What came of a plain write.
const fn written(body: &ResponseBody) -> Option<Written> {
    match body {
        ResponseBody::Written { epoch: (version, term), lsn, outcome } => {
            let epoch = Epoch { version: *version, term: *term };
            Some(Written { epoch, lsn: Lsn::new(*lsn), outcome: *outcome })
        }
        _ => None,
    }
}

pub(super) fn misunderstood(body: &impl std::fmt::Debug) -> ClientError {
    let text = format!("{body:?}");
    let name = text.split([' ', '(', '{']).next().unwrap_or_default();
    ClientError::Answer(format!("{name} is not what was asked for"))
}

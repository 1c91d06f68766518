//! [`Client`]: what applications hold.

use super::connector;
use super::error::{ClientError, WriteError};
use super::feed::{Begin, Source, Subscription};
use super::link::{Answer, Awaited, Link, SendFailure};
#[cfg(feature = "node")]
use super::local::Local;
use super::options::{ClientOptions, DEFAULT_NAMESPACE};
use super::pauses::Pauses;
use super::receipt::{WriteReceipt, outcome_of, written};
use super::routing::ASK_PAUSE;
use super::servers::{About, Path, Servers};
use super::snapshot::Holder;
use crate::model::call::{Call, Reach};
use crate::model::codec::{self, CodecError};
use crate::model::request::{
    Direction, Failure, FailureClass, Request, RequestBody, ResponseBody, ServerStatus, StreamEvent, code,
};
use crate::model::{Epoch, Lsn, NodeId, Record};
#[cfg(feature = "node")]
use crate::node::{Node, NodeOptions, calls, failure};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// How long an answer may be on its way that says that the time was over: it says how far it came.
const ANSWER_GRACE: Duration = Duration::from_secs(3);
/// How long a leader may take to answer a read before it is looked whether another one leads by now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// By which code a server says that it holds as many moments as it may.
const TOO_MANY_SNAPSHOTS: u16 = 8020;

/// A connection to a cluster, or a node in this process: which of them, only the constructor says. Clones share it.
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
    way: Way,
    options: ClientOptions,
    /// Closed with the client.
    places: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

/// Who is asked.
#[derive(Debug)]
enum Way {
    Servers(Box<Servers>),
    /// The node in this process.
    #[cfg(feature = "node")]
    Node(Local),
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
    /// Connections made beyond the first of each.
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
        let servers = Servers::new(addresses.into_iter().map(Into::into).collect(), &options);
        // Whoever asks for another namespace needs nobody who leads the default one.
        let path = if options.namespace == DEFAULT_NAMESPACE { Path::HOME } else { Path::ANY };
        servers.link(&options, &path).await?;
        Ok(Self::by(Way::Servers(Box::new(servers)), options))
    }

    /// Opens a node in this process, and asks that: everything is as with [`Client::connect`], and nothing goes over a network.
    ///
    /// ```
    /// use towline::client::{Client, ClientOptions};
    /// use towline::model::Read;
    /// use towline::node::NodeOptions;
    /// async fn program(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
    ///     let shop = client.namespace("default");
    ///     shop.put("stock/apple", "7").await?.await?;
    ///     assert_eq!(shop.get("stock/apple", Read::Linearizable).await?.map(|found| found.value), Some("7".into()));
    ///     Ok(())
    /// }
    /// # let directory = tempfile::tempdir()?;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let client = Client::open(NodeOptions::alone(directory.path()), ClientOptions::default()).await?;
    /// // With `Client::connect(["db-1:7400"], ClientOptions::default()).await?` it is the same program.
    /// program(&client).await?;
    /// client.close().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ClientError::Refused`], with the code of [`OpenError`](crate::node::OpenError).
    #[cfg(feature = "node")]
    pub async fn open(node: NodeOptions, options: ClientOptions) -> Result<Self, ClientError> {
        let opened = tokio::task::spawn_blocking(|| Node::open(node)).await;
        let opened = opened.map_err(|_| ClientError::Refused(failure::unknown()))?;
        let node = opened.map_err(|error| ClientError::Refused(calls::of(error)))?;
        Ok(Self::embedded(node, options))
    }

    /// Asks a node in this process, which is open. When nobody has the node any more, it is closed.
    #[cfg(feature = "node")]
    #[must_use]
    pub fn embedded(node: impl Into<Arc<Node>>, options: ClientOptions) -> Self {
        Self::by(Way::Node(Local::new(node.into())), options)
    }

    fn by(way: Way, options: ClientOptions) -> Self {
        let places = options.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let (places, closed) = (Arc::new(Semaphore::new(places)), watch::Sender::new(false));
        Self { shared: Arc::new(Shared { way, options, places, closed }) }
    }

    /// Ends it, also for its clones and its feeds: closes the connections, or the node in this process
    /// ([`Node::close`](crate::node::Node::close)), whoever else has that. Writes without an answer are unknown from then on. A feed's own
    /// connection ends when the feed is asked for more, or dropped.
    ///
    /// To drop the last clone does the same if nobody else has the node; it tells nobody how it went, and holds the thread until the
    /// node is closed.
    ///
    /// # Errors
    /// The node was not closed cleanly: the code of [`CloseError`](crate::node::CloseError).
    pub async fn close(self) -> Result<(), ClientError> {
        self.shared.places.close();
        self.shared.closed.send_replace(true);
        match &self.shared.way {
            Way::Servers(servers) => {
                servers.close().await;
                Ok(())
            }
            #[cfg(feature = "node")]
            Way::Node(local) => local.close().await.map_err(ClientError::Refused),
        }
    }

    /// The node in this process, if that is asked.
    #[cfg(feature = "node")]
    #[must_use]
    pub fn embedded_node(&self) -> Option<&Node> {
        match &self.shared.way {
            Way::Node(local) => Some(local.node()),
            Way::Servers(_) => None,
        }
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
        let namespace = &self.shared.options.namespace;
        let about = About::record(record);
        self.send_write(namespace, record, None, about, |answer| outcome_of(answer, written)).await
    }

    /// Sends a write: a plain one, or a call that says how far it is to come.
    pub(super) async fn send_write<T>(
        &self,
        namespace: &str,
        record: &Record,
        reach: Option<Reach>,
        about: About,
        read: fn(Answer) -> Result<T, WriteError>,
    ) -> Result<WriteReceipt<T>, ClientError> {
        match &self.shared.way {
            Way::Servers(servers) => {
                let record = record.encode()?.to_vec();
                let body = match reach {
                    Some(reach) => RequestBody::Call(Call::Write { record, reach }),
                    None => RequestBody::Write { record },
                };
                self.send_to(servers, namespace, body, &about, read).await
            }
            #[cfg(feature = "node")]
            Way::Node(local) => {
                let timeout = self.request_timeout();
                let deadline = Instant::now() + timeout;
                record.check()?;
                let place = self.place(deadline).await?;
                let coming = local.write(namespace, record, reach, deadline).await;
                Ok(WriteReceipt::of_node(coming, place, timeout, read))
            }
        }
    }

    async fn send_to<T>(
        &self,
        servers: &Servers,
        namespace: &str,
        body: RequestBody,
        about: &About,
        read: fn(Answer) -> Result<T, WriteError>,
    ) -> Result<WriteReceipt<T>, ClientError> {
        let timeout = self.request_timeout();
        let deadline = Instant::now() + timeout;
        loop {
            let path = self.path(namespace, about, deadline).await;
            let place = self.place(deadline).await?;
            let link = servers.link(&self.shared.options, &path).await?;
            // From here on its own time counts: what was spent on finding a server is not the server's.
            match self.send(&link, &path, place, namespace, body.clone(), Instant::now() + timeout).await {
                Ok(answer) => return Ok(WriteReceipt::of_server(answer, link, timeout, read)),
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
        match self.ask_about(key, RequestBody::Get { key: key.to_vec() }).await? {
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
        let body = RequestBody::ReadStream { stream: stream.to_vec(), from, direction, events_max };
        match self.ask_about(stream, body).await? {
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

    /// The node that is connected now, if one is; or the one in this process.
    pub async fn node(&self) -> Option<NodeId> {
        match &self.shared.way {
            Way::Servers(servers) => servers.node().await,
            #[cfg(feature = "node")]
            Way::Node(local) => Some(local.node().identity().node),
        }
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        match &self.shared.way {
            Way::Servers(servers) => {
                let (reconnects, bytes_received) = servers.figures();
                ClientStats { reconnects, bytes_received }
            }
            #[cfg(feature = "node")]
            Way::Node(_) => ClientStats::default(),
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
        self.ask_of(&self.shared.options.namespace, body, &About::Nothing, true).await
    }

    /// The same, of a key or a stream: where its writes are applied first.
    async fn ask_about(&self, key: &[u8], body: RequestBody) -> Result<ResponseBody, ClientError> {
        self.ask_of(&self.shared.options.namespace, body, &About::Key(key.to_vec()), true).await
    }

    /// Asks until there is an answer, in the time of one request; of what changes something only while it was certainly not done.
    pub(super) async fn ask_of(
        &self,
        namespace: &str,
        body: RequestBody,
        about: &About,
        again_when_lost: bool,
    ) -> Result<ResponseBody, ClientError> {
        Ok(self.ask_holding(namespace, body, about, again_when_lost).await?.0)
    }

    /// The same; and who answered.
    async fn ask_holding(
        &self,
        namespace: &str,
        body: RequestBody,
        about: &About,
        again_when_lost: bool,
    ) -> Result<(ResponseBody, Holder), ClientError> {
        let deadline = Instant::now() + self.request_timeout();
        let mut pauses = Pauses::new();
        loop {
            let path = self.path(namespace, about, deadline).await;
            let answer = tokio::select! {
                biased;
                answer = self.ask_once(namespace, body.clone(), &path, deadline) => answer,
                () = self.is_led_elsewhere(namespace, about, &path, deadline), if again_when_lost => continue,
            };
            let (error, again) = match answer {
                Ok((ResponseBody::Failed(failure), holder)) => {
                    let again = self.is_worth_another(&failure)
                        && (again_when_lost || failure.no_side_effects)
                        // Sent on to itself: what is asked can't be done there.
                        && (failure.leader.is_none() || failure.leader != self.node_of(&holder).await)
                        // Whoever asks may hold them itself, and waits for nobody else then.
                        && failure.code != TOO_MANY_SNAPSHOTS;
                    (ClientError::Refused(failure), again)
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let again = error == ClientError::ConnectionLost && again_when_lost;
                    (error, again)
                }
            };
            let pause = pauses.after(error.failure());
            if !again || Instant::now() + pause >= deadline {
                return Err(error);
            }
            if !pause.is_zero() {
                sleep(pause).await; // A timer's shortest time is a millisecond.
            }
        }
    }

    /// Who answered.
    async fn node_of(&self, holder: &Holder) -> Option<NodeId> {
        match holder {
            Holder::Server(link) => Some(link.node()),
            #[cfg(feature = "node")]
            Holder::Node => self.node().await,
        }
    }

    /// Ends when another node is found to lead what is about this than the one to which the path goes. A leader that was cut
    /// off from the others does not answer a read, nor say that another one leads: it waits for them, and can't know it.
    async fn is_led_elsewhere(&self, namespace: &str, about: &About, path: &Path, deadline: Instant) {
        #[cfg_attr(
            not(feature = "node"),
            expect(irrefutable_let_patterns, reason = "with `node` there is another way")
        )]
        let Way::Servers(servers) = &self.shared.way else { return std::future::pending().await };
        while let left = deadline.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            sleep((left / 2).clamp(ASK_PAUSE, LOOK_AGAIN)).await;
            if servers.is_led_elsewhere(&self.shared.options, namespace, about, path, deadline).await {
                return;
            }
        }
        std::future::pending().await
    }

    async fn path(&self, namespace: &str, about: &About, deadline: Instant) -> Path {
        match &self.shared.way {
            Way::Servers(servers) => servers.path(&self.shared.options, namespace, about, deadline).await,
            #[cfg(feature = "node")]
            Way::Node(_) => Path::ANY,
        }
    }

    /// Whether the same, asked once more, may have another answer: also a refusal, where another server leads by then.
    pub(super) fn is_worth_another(&self, failure: &Failure) -> bool {
        // A node that is closed in this process is not open again by itself.
        matches!(failure.class, FailureClass::Retry | FailureClass::ReRoute)
            && (failure.code != code::CLOSING || matches!(self.shared.way, Way::Servers(_)))
    }

    async fn ask_once(
        &self,
        namespace: &str,
        body: RequestBody,
        path: &Path,
        deadline: Instant,
    ) -> Result<(ResponseBody, Holder), ClientError> {
        match &self.shared.way {
            Way::Servers(servers) => {
                let place = self.place(deadline).await?;
                let link = servers.link(&self.shared.options, path).await?;
                let answer = self.ask_on(&link, path, place, namespace, body, deadline).await?;
                Ok((answer, Holder::Server(link)))
            }
            #[cfg(feature = "node")]
            Way::Node(local) => {
                let _place = self.place(deadline).await?;
                let waited = self.shared.options.request_timeout;
                let asked = timeout_at(deadline, local.ask(namespace, body, deadline)).await;
                asked.map(|answer| (answer, Holder::Node)).map_err(|_| ClientError::Deadline { waited })
            }
        }
    }

    /// Asks where a connection leads, and nowhere else.
    async fn ask_on(
        &self,
        link: &Link,
        path: &Path,
        place: OwnedSemaphorePermit,
        namespace: &str,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<ResponseBody, ClientError> {
        let answer = self.send(link, path, place, namespace, body, deadline).await?;
        match timeout_at(deadline, answer).await {
            Ok(Answer::Body(body)) => Ok(body),
            Ok(Answer::ConnectionLost) => Err(ClientError::ConnectionLost),
            Err(_) => Err(ClientError::Deadline { waited: self.shared.options.request_timeout }),
        }
    }

    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, ClientError> {
        match timeout_at(deadline, Arc::clone(&self.shared.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(ClientError::Closed),
            Err(_) => Err(ClientError::Deadline { waited: self.shared.options.request_timeout }),
        }
    }

    async fn send(
        &self,
        link: &Link,
        path: &Path,
        place: OwnedSemaphorePermit,
        namespace: &str,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<Awaited, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        let namespace = namespace.to_owned();
        let request = move |id| codec::encode(&Request { id, deadline_ms, namespace, body });
        link.send(place, path.part.clone(), deadline, request).await.map_err(|failure| match failure {
            SendFailure::Codec(CodecError::TooLarge { limit, value, .. }) => {
                ClientError::TooLarge(format!("it has {value} bytes, {limit} are possible"))
            }
            SendFailure::Codec(error) => error.into(),
            SendFailure::TooLong(error) => ClientError::TooLarge(error.to_string()),
            SendFailure::ConnectionLost => ClientError::ConnectionLost,
            SendFailure::NoRoom => ClientError::Deadline { waited: self.shared.options.request_timeout },
        })
    }

    /// Is told when the client is closed.
    pub(super) fn closed(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    /// Begins a feed, on a connection of its own: whoever does not take what comes on it holds up nobody else.
    pub(super) async fn begin_feed(&self, wanted: Begin) -> Result<Source, ClientError> {
        if *self.shared.closed.borrow() {
            return Err(ClientError::Closed);
        }
        match &self.shared.way {
            Way::Servers(servers) => {
                let link = servers.own_link(&self.shared.options).await?;
                let (stream, deliveries) = link.open_feed(wanted.encode()?).await.map_err(|failure| match failure {
                    SendFailure::ConnectionLost | SendFailure::NoRoom => ClientError::ConnectionLost,
                    other => ClientError::TooLarge(format!("{other:?}")),
                })?;
                Ok(Source::Server(Subscription::new(link, stream, deliveries)))
            }
            #[cfg(feature = "node")]
            Way::Node(local) => {
                let begun = match wanted {
                    Begin::Subscribe(wanted) => local.subscribe(wanted).await,
                    Begin::Follow(wanted) => local.follow(wanted).await,
                };
                Ok(Source::Node(begun.map_err(ClientError::Refused)?))
            }
        }
    }

    /// Has a moment held, where what is about all keys is asked: a moment that nobody heard of is let go. And who holds it.
    pub(super) async fn hold(&self, namespace: &str, call: Call) -> Result<(ResponseBody, Holder), ClientError> {
        self.ask_holding(namespace, RequestBody::Call(call), &About::All, true).await
    }

    /// Asks who holds a moment.
    pub(super) async fn ask_holder(
        &self,
        holder: &Holder,
        namespace: &str,
        call: Call,
    ) -> Result<ResponseBody, ClientError> {
        let (deadline, body) = (Instant::now() + self.request_timeout(), RequestBody::Call(call));
        let answer = match holder {
            Holder::Server(link) => {
                let place = self.place(deadline).await?;
                self.ask_on(link, &Path::ANY, place, namespace, body, deadline).await?
            }
            #[cfg(feature = "node")]
            Holder::Node => self.ask_once(namespace, body, &Path::ANY, deadline).await?.0,
        };
        match answer {
            ResponseBody::Failed(failure) => Err(ClientError::Refused(failure)),
            answer => Ok(answer),
        }
    }

    /// Asks a node that shall lead, whoever leads now: over a connection of its own, and once, as it may have been done.
    pub(super) async fn ask_node(
        &self,
        node: NodeId,
        namespace: &str,
        call: Call,
        within: Duration,
    ) -> Result<ResponseBody, ClientError> {
        let body = RequestBody::Call(call);
        match &self.shared.way {
            Way::Servers(servers) => self.ask_node_of(servers, node, namespace, body, within).await,
            #[cfg(feature = "node")]
            Way::Node(local) => Ok(local.ask(namespace, body, Instant::now() + within).await),
        }
    }

    async fn ask_node_of(
        &self,
        servers: &Servers,
        node: NodeId,
        namespace: &str,
        body: RequestBody,
        within: Duration,
    ) -> Result<ResponseBody, ClientError> {
        let mut link = servers.link_to(&self.shared.options, node).await?;
        loop {
            let deadline = Instant::now() + within;
            let place = self.place(deadline).await?;
            let answer = self.send(&link, &Path::ANY, place, namespace, body.clone(), deadline).await?;
            match timeout_at(deadline + ANSWER_GRACE, answer.left_when_dropped()).await {
                Ok(Answer::Body(ResponseBody::Answer(crate::model::call::Answer::Elsewhere { address, .. })))
                    if link.node() != node =>
                {
                    link = servers.link_at(address, &self.shared.options, node).await?;
                    if link.node() != node {
                        let found = link.node();
                        return Err(ClientError::Answer(format!("node {node} was said to be where node {found} is")));
                    }
                }
                Ok(Answer::Body(body)) => return Ok(body),
                Ok(Answer::ConnectionLost) => return Err(ClientError::ConnectionLost),
                Err(_) => return Err(ClientError::Deadline { waited: within }),
            }
        }
    }

    /// Tells who holds a moment that nobody looks any more.
    pub(super) fn let_go(&self, holder: &Holder, namespace: &str, snapshot: u64) {
        match (holder, &self.shared.way) {
            (Holder::Server(link), _) => {
                let body = RequestBody::Call(Call::CloseSnapshot { snapshot });
                let namespace = namespace.to_owned();
                link.tell(move |id| codec::encode(&Request { id, deadline_ms: 0, namespace, body }));
            }
            #[cfg(feature = "node")]
            (Holder::Node, Way::Node(local)) => local.close_snapshot(snapshot),
            #[cfg(feature = "node")]
            (Holder::Node, Way::Servers(_)) => {}
        }
    }
}

pub(super) fn misunderstood(body: &impl std::fmt::Debug) -> ClientError {
    let text = format!("{body:?}");
    let name = text.split([' ', '(', '{']).next().unwrap_or_default();
    ClientError::Answer(format!("{name} is not what was asked for"))
}

//! The server: the node, its listener, its peers, and what clients ask.

use super::completion::{Callback, Completion};
use super::config::Config;
use super::failure;
use super::hosting::ShardHandle;
use super::peers::{EVENTS_WAITING, Greets, Network};
use super::stages::Arrived;
use super::transport::{Transport, resolve};
use super::{CloseError, NAMESPACE_NAME, Namespace, Node, NodeOptions, OpenError, ReadError};
use crate::model::codec;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::request::{Failure, FailureClass, Request, RequestBody, Response, ResponseBody};
use crate::model::{NodeId, Read, Record};
use crate::pipeline::{SubmitError, SubmitPolicy, WriteError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use towline_net::driver::{ConnectionHandle, EventReceiver, EventSink, Incoming, Listener, ListenerOptions};
use towline_net::{
    Event as NetEvent, GoAwayCode, PeerHello, ResetCode, Role, SendError, SendFlags, StreamId, StreamKind,
};

/// Events that one read of a stream returns at the most, whatever the client asks.
const EVENTS_MAX: usize = 10_000;
/// Bytes of events that one read of a stream returns at the most (one event is always returned whole).
const EVENTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
/// How long a write waits between two looks at a full queue. The connection reads nothing meanwhile: that is the
/// back-pressure its client feels.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// Connections at the most, and of these the places that clients can't take.
const CONNECTIONS_MAX: usize = 4096;
const PEERS_PLACES: usize = 64;
/// Open files of the state (its bound is 1,024), the log, and the process itself, with room to spare.
const FILES_OF_THE_NODE: usize = 1024 + 256;
/// Reads that are worked on at a time, and of one client's: each may hold [`EVENTS_BYTES_MAX`] in memory, until its
/// client took the answer.
const READS_MAX: usize = 16;
const READS_OF_A_CLIENT: usize = 4;
/// How long a client may take to make room for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Records from this size on are prepared away from the threads that move bytes.
const LARGE_RECORD_BYTES: usize = 16 * 1024;

/// Why a server does not start.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6031 | operator | free the address, or configure another |
/// | TW-6032 | operator | what the operating system says |
/// | TW-6033 | fix the request | add `[tls]`, or say `insecure_plaintext = true` |
/// | TW-6034 | fix the request | build the program with the feature `tls` |
/// | all others | | of the credentials: the table of `TlsError` in towline-net; of the node: [`OpenError`] |
///
/// ```
/// use std::net::TcpListener;
/// use towline::node::{Config, ServeError, serve};
/// # let directory = tempfile::tempdir()?;
/// let taken = TcpListener::bind("127.0.0.1:0")?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let mut config = Config::parse(&directory.path().join("node.toml"), text)?;
/// config.listen = taken.local_addr()?.to_string();
/// match serve(&config) {
///     Err(error @ ServeError::Listen { .. }) => {
///         assert_eq!(error.code(), 6031);
///         assert!(error.to_string().contains(&config.listen), "{error}");
///     }
///     other => panic!("{other:?}"),
/// }
/// assert!(!config.data_dir.exists(), "nothing was opened, nor made");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The node does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address of the configuration.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// Others could reach it over plain TCP.
    #[error("{address} is not loopback: listening there takes [tls], or insecure_plaintext = true")]
    Plaintext {
        /// What the address of the configuration was found to be.
        address: String,
    },
    /// The configuration wants TLS of a program that has none.
    #[error("the configuration has a section [tls], and this program is built without the feature `tls`")]
    NoTls,
    /// The credentials can't be used.
    #[cfg(feature = "tls")]
    #[error("{}", .0.sentence())]
    Tls(#[from] towline_net::driver::tls::TlsError),
    /// The runtime of the network does not start.
    #[error("the network's threads can't be started: {0}")]
    Runtime(io::Error),
}

impl ServeError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Open(open) => open.code(),
            Self::Listen { .. } => 6031,
            Self::Runtime(_) => 6032,
            Self::Plaintext { .. } => 6033,
            Self::NoTls => 6034,
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Open(open) => open.class(),
            Self::Listen { .. } | Self::Runtime(_) => FailureClass::Operator,
            Self::Plaintext { .. } | Self::NoTls => FailureClass::FixRequest,
            // Nobody is connected yet: all that can be wrong is in the files.
            #[cfg(feature = "tls")]
            Self::Tls(_) => FailureClass::Operator,
        }
    }
}

/// A running server.
///
/// ```
/// use towline::model::Read;
/// use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let config = Config::parse(&directory.path().join("node.toml"), text)?;
/// let server = serve(&config)?; // it says `listen = "127.0.0.1:0"`
/// assert_ne!(server.address().port(), 0, "where clients find it");
/// // The process that serves can use the node as if it were embedded.
/// let orders = server.node().default_namespace();
/// orders.put("order-42", "placed")?.wait()?;
/// assert!(orders.get("order-42", Read::Linearizable)?.is_some());
/// server.shutdown()?;
/// assert!(orders.put("order-43", "placed").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ServerHandle {
    node: Arc<Node>,
    runtime: Runtime,
    address: SocketAddr,
}

impl ServerHandle {
    /// Where it listens (the port that was found, where the configuration says 0).
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Waits until the node stops by itself, and says why. It serves nothing from then on: end the process, or shut
    /// this down and serve anew.
    pub async fn failed(&self) -> String {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.node.default_shard().health.on_failure(move |reason| drop(tell.send(reason)));
        told.await.unwrap_or_else(|_| "the node has stopped".to_owned())
    }

    /// Ends it: no more requests, what was taken is finished, the log is closed.
    ///
    /// # Errors
    /// As [`Node::close`].
    pub fn shutdown(self) -> Result<(), CloseError> {
        let closed = self.node.stop();
        self.runtime.shutdown_timeout(Duration::from_secs(2));
        closed
    }
}

/// Opens the node, listens, connects to the peers, and serves clients, on threads of its own.
///
/// # Errors
/// See [`ServeError`]; nothing runs then.
pub fn serve(config: &Config) -> Result<ServerHandle, ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("towline-net")
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let failed = |source| ServeError::Listen { address: config.listen.clone(), source };
    let transport = Transport::open(config)?;
    let address = runtime.block_on(resolve(&config.listen)).map_err(failed)?;
    transport.may_listen(config, address)?;
    let connections = connections_max();
    // Listen first: a port in use must not cost a recovery, and creates nothing.
    let listening = runtime.block_on(async {
        let options = ListenerOptions { connections_max: connections, ..ListenerOptions::default() };
        Listener::bind(address, options).await
    });
    let listener = listening.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let voters: Vec<NodeId> = config.nodes.iter().map(|node| node.id).collect();
    let node = Arc::new(Node::open(NodeOptions {
        directory: config.data_dir.clone(),
        cluster: Some(config.cluster),
        node: config.node,
        voters,
        leader: config.leader,
        log: config.log_options(),
        queue_bytes: config.queue_bytes,
        ..NodeOptions::alone(&config.data_dir)
    })?);
    let shard = node.default_shard();
    let network = Network {
        identity: *node.identity(),
        incarnation: node.shared.host.wal.incarnation(),
        log: shard.log,
        events: shard.events.clone(),
        sessions: Arc::new(AtomicU64::new(1)),
        transport,
    };
    network.transport.watch(&runtime, config);
    for peer in config.nodes.iter().filter(|peer| peer.id > config.node) {
        runtime.spawn(network.clone().dial(peer.id, peer.address.clone()));
    }
    let server = Server {
        peers: config.nodes.iter().map(|peer| (peer.id, peer.address.clone())).collect(),
        node: Arc::clone(&node),
        namespace: node.default_namespace(),
        shard,
        network,
        leader: config.leader,
        reading: Arc::new(Semaphore::new(READS_MAX)),
        clients: Arc::new(Semaphore::new(connections - PEERS_PLACES)),
    };
    runtime.spawn(server.accept(listener));
    Ok(ServerHandle { node, runtime, address })
}

/// How many connections are taken: what the limit on open files leaves beside the log and the state, which must not
/// fail for want of one.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let left = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(FILES_OF_THE_NODE);
    left.clamp(2 * PEERS_PLACES, CONNECTIONS_MAX)
}

#[derive(Debug, Clone)]
struct Server {
    node: Arc<Node>,
    namespace: Namespace,
    shard: Arc<ShardHandle>,
    network: Network,
    peers: BTreeMap<NodeId, String>,
    leader: NodeId,
    /// Reads that touch the disk at a time.
    reading: Arc<Semaphore>,
    /// Places for clients: fewer than there are connections, so that the other nodes always find one.
    clients: Arc<Semaphore>,
}

impl Server {
    async fn accept(self, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(incoming) => {
                    tokio::spawn(self.clone().greet(incoming));
                }
                Err(error) => {
                    // Out of descriptors, for example (P7): refuse politely by not accepting, and try again.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn greet(self, incoming: Incoming) {
        let (sink, events) = EventSink::channel(EVENTS_WAITING);
        let accepted = self.network.transport.accept(incoming, self.network.config(), sink).await;
        let Some(handle) = accepted else { return };
        let Ok(PeerHello { identity, .. }) = handle.ready().await else { return };
        let peer = NodeId::new(identity.node);
        match identity.role {
            Role::Node if self.peers.contains_key(&peer) && peer < self.node.identity().node => {
                self.network.session(peer, handle, events, Greets::Back).await;
            }
            Role::Client => match Arc::clone(&self.clients).try_acquire_owned() {
                Ok(_place) => self.client(handle, events).await,
                Err(_) => {
                    tracing::warn!("a client was turned away: there are too many");
                    handle.go_away(GoAwayCode::SHUTDOWN);
                    handle.close();
                }
            },
            role => {
                tracing::warn!(%peer, ?role, "a connection of nobody who is expected here was closed");
                handle.close();
            }
        }
    }

    /// One client's connection, until it ends. Its writes are taken in order; its reads wait for none of them.
    async fn client(self, handle: ConnectionHandle, mut events: EventReceiver) {
        let turns = Arc::new(Semaphore::new(READS_OF_A_CLIENT));
        // Bounded by the connection's credit, which goes back with each answer.
        let (writes, waiting) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(self.clone().write_in_order(waiting));
        let mut streams: BTreeMap<StreamId, Arc<Half>> = BTreeMap::new();
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::Opened { stream, kind: StreamKind::Request, .. } => {
                    streams.insert(stream, Arc::new(Half { handle: handle.clone(), stream }));
                }
                NetEvent::Opened { stream, .. } => handle.reset(stream, ResetCode::REFUSED),
                NetEvent::Message { stream, bytes, charge, .. } => {
                    let Some(half) = streams.get(&stream).map(Arc::clone) else {
                        handle.consumed(stream, charge);
                        continue;
                    };
                    let reply = Reply { half, charge };
                    match codec::decode::<Request>(&bytes) {
                        Ok(request) => self.request(request, reply, &turns, &writes).await,
                        Err(error) => {
                            tracing::warn!(%error, "a client's request can't be read: its connection is closed");
                            handle.close();
                        }
                    }
                }
                // Our half ends with the last answer that is still to come on it.
                NetEvent::Finished { stream } | NetEvent::Reset { stream, .. } => drop(streams.remove(&stream)),
                NetEvent::Closed { .. } => break,
                _ => {}
            }
        }
    }

    async fn request(
        &self,
        request: Request,
        reply: Reply,
        turns: &Arc<Semaphore>,
        writes: &tokio::sync::mpsc::UnboundedSender<WaitingWrite>,
    ) {
        let Request { id, deadline_ms, namespace, body } = request;
        if namespace != NAMESPACE_NAME {
            let failure = failure::unknown_namespace(&namespace);
            return reply.send(id, ResponseBody::Failed(failure));
        }
        match body {
            RequestBody::Write { record } => {
                let within = Duration::from_millis(u64::from(deadline_ms));
                let deadline = (deadline_ms > 0).then(|| tokio::time::Instant::now() + within);
                // Closed only when this connection's task is ended, and the connection with it.
                drop(writes.send(WaitingWrite { id, record, deadline, reply }));
            }
            read => self.read(id, read, reply, turns).await,
        }
    }

    async fn write_in_order(self, mut waiting: tokio::sync::mpsc::UnboundedReceiver<WaitingWrite>) {
        while let Some(write) = waiting.recv().await {
            self.write(write).await;
        }
    }

    async fn write(&self, write: WaitingWrite) {
        let WaitingWrite { id, record, deadline, reply } = write;
        let namespace = self.namespace.clone();
        let is_large = record.len() >= LARGE_RECORD_BYTES;
        let prepare = move || {
            let prepared = namespace.prepare(&decode(record)?);
            prepared.map(|(_, submission)| submission).map_err(|refused| failure::refused(&refused))
        };
        let prepared = if is_large {
            // It is compressed on its way: not on a thread that moves bytes.
            tokio::task::spawn_blocking(prepare).await.unwrap_or_else(|_| Err(failure::closing()))
        } else {
            prepare()
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return reply.send(id, ResponseBody::Failed(failure)),
        };
        let reply = Arc::new(reply);
        let answer = Arc::clone(&reply);
        let callback = Callback::new(move |result| answer.send(id, written(result)));
        let mut submission = prepared.for_token(Arrived::now(Completion::Callback(callback)));
        let failure = loop {
            if !self.node.is_serving() {
                break failure::not_serving(&self.node, self.leader);
            }
            let refused = match self.shard.queue.submit(submission, SubmitPolicy::Fail) {
                Ok(()) => return,
                Err((refused, back)) => {
                    submission = back;
                    refused
                }
            };
            let is_late = deadline.is_some_and(|deadline| deadline <= tokio::time::Instant::now());
            if !matches!(refused, SubmitError::Busy(_)) || is_late || reply.half.handle.is_closed() {
                break failure::refused(&refused.into());
            }
            tokio::time::sleep(FULL_QUEUE_PAUSE).await;
        };
        submission.into_token().caller.forget();
        reply.send(id, ResponseBody::Failed(failure));
    }

    /// Reads touch the disk: they are done away from the threads that move bytes, a few at a time.
    async fn read(&self, id: u64, read: RequestBody, reply: Reply, turns: &Arc<Semaphore>) {
        let Ok(turn) = Arc::clone(turns).acquire_owned().await else { return };
        let (server, reading) = (self.clone(), Arc::clone(&self.reading));
        tokio::spawn(async move {
            let body = match reading.acquire().await {
                Ok(_permit) => tokio::task::spawn_blocking(move || server.answer(read)).await,
                Err(_) => Ok(Err(failure::closing())),
            };
            let body = body.unwrap_or_else(|_| Err(failure::closing()));
            reply.send_in_turn(id, body.unwrap_or_else(ResponseBody::Failed)).await;
            drop(turn);
        });
    }
}

impl Server {
    fn answer(&self, read: RequestBody) -> Result<ResponseBody, Failure> {
        let applied = self.shard.positions.applied().get();
        let failed = |error: ReadError| failure::read(&error);
        match read {
            RequestBody::Get { key } => {
                let found = self.namespace.get(&key, Read::Eventual).map_err(failed)?;
                Ok(ResponseBody::Value { value: found.map(|found| (found.version, found.value.into())), applied })
            }
            RequestBody::ReadStream { stream, from, direction, events_max } => {
                let bounds = ((events_max as usize).min(EVENTS_MAX), EVENTS_BYTES_MAX);
                let read = self.namespace.read_stream(&stream, from, direction, bounds, Read::Eventual);
                let read = read.map_err(failed)?;
                Ok(ResponseBody::Events { events: read.events, head: read.head, more: read.more, applied })
            }
            RequestBody::Digest => {
                let (at, digest) = self.node.digest().map_err(failed)?;
                let epoch = (at.epoch.version, at.epoch.term);
                Ok(ResponseBody::Digest { epoch, applied: at.lsn.get(), digest })
            }
            RequestBody::Status => self.node.status().map(ResponseBody::Status).ok_or_else(failure::closing),
            other => Err(failure::bad_request(&format!("{other:?} is not a read"))),
        }
    }
}

fn decode(record: Vec<u8>) -> Result<Record, Failure> {
    let mut bytes = Bytes::from(record);
    let record = Record::decode(&mut bytes).map_err(|error| failure::bad_request(&error.to_string()))?;
    if bytes.is_empty() { Ok(record) } else { Err(failure::bad_request("bytes follow the record")) }
}

fn written(result: Result<super::completion::Written, WriteError>) -> ResponseBody {
    match result {
        Ok(written) => ResponseBody::Written {
            epoch: (written.epoch.version, written.epoch.term),
            lsn: written.lsn.get(),
            outcome: written.outcome,
        },
        Err(error) => ResponseBody::Failed(failure::write(&error)),
    }
}

/// A write that waits for its turn in the queue.
struct WaitingWrite {
    id: u64,
    record: Vec<u8>,
    /// The client gives up then: not submitted by that time, it has no effect.
    deadline: Option<tokio::time::Instant>,
    reply: Reply,
}

/// Our half of a client's stream; finished when nobody has anything to say on it any more.
struct Half {
    handle: ConnectionHandle,
    stream: StreamId,
}

impl Drop for Half {
    fn drop(&mut self) {
        self.handle.finish(self.stream);
    }
}

/// Where an answer goes.
struct Reply {
    half: Arc<Half>,
    charge: usize,
}

impl Reply {
    /// Sends the answer of a write; the request's credit goes back with it. These are small: a client whose buffer
    /// they fill reads none of them, and loses its connection rather than cost memory.
    fn send(&self, id: u64, body: ResponseBody) {
        let half = &self.half;
        let sent = codec::encode(&Response { id, body })
            .map(|bytes| half.handle.try_send(half.stream, bytes, SendFlags::default()));
        self.done(id, matches!(sent, Ok(Ok(()) | Err(SendError::StreamClosed))));
    }

    /// Sends the answer of a read, which may have to wait for room; the request's credit goes back with it.
    async fn send_in_turn(&self, id: u64, body: ResponseBody) {
        let half = &self.half;
        let sent = match codec::encode(&Response { id, body }) {
            Ok(bytes) => {
                let sending = half.handle.send(half.stream, bytes, SendFlags::default());
                matches!(tokio::time::timeout(ANSWER_TIMEOUT, sending).await, Ok(Ok(()) | Err(SendError::StreamClosed)))
            }
            Err(_) => false,
        };
        self.done(id, sent);
    }

    /// An answer on a stream that the client has reset is wanted by nobody; what else could not be sent ends the
    /// connection, since its client would wait for it.
    fn done(&self, id: u64, sent: bool) {
        if !sent {
            tracing::warn!(id, "an answer could not be sent: the client's connection is closed");
            self.half.handle.close();
        }
        self.half.handle.consumed(self.half.stream, self.charge);
    }
}

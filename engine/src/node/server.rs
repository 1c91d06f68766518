//! The server: the node, its listener, its peers, and its clients.

use super::access::{Authorizer, Caller, Door, Grants};
use super::config::Config;
use super::failure::FEEDS_MAX;
use super::held::SNAPSHOTS_MAX;
use super::peers::{EVENTS_WAITING, Greets, Network, Replicated};
use super::server_stats::ServerStats;
use super::transport::{Transport, resolve};
use super::{CloseError, Node, NodeOptions, OpenError};
use crate::control::ConfigMaster;
use crate::model::NodeId;
use crate::model::request::FailureClass;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use towline_net::driver::{EventSink, Incoming, Listener, ListenerOptions, MemoryBudget};
use towline_net::{GoAwayCode, PeerHello, Role};

/// Connections at the most, and of these the places that clients can't take.
const CONNECTIONS_MAX: usize = 4096;
const PEERS_PLACES: usize = 64;
/// Open files of the state (its bound is 1,024), the log, and the process itself, with room to spare.
const FILES_OF_THE_NODE: usize = 1024 + 256;
/// Sessions of all clients that are opened or closed at a time: each holds a thread until the log has it.
const OPENING_MAX: usize = 32;
/// Reads of all clients that are worked on at a time.
const READS_MAX: usize = 16;
/// Feeds that look at the log at a time: the others wait for their turn, which is short.
const SCANNING_MAX: usize = 16;

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
    server: Server,
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

    /// The server in numbers.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.server.stats()
    }

    /// Waits until the node stops by itself, any shard of it, and says why. It serves nothing from then on that can be relied on: end
    /// the process, or shut this down and serve anew.
    pub async fn failed(&self) -> String {
        let (tell, told) = tokio::sync::oneshot::channel();
        // Whoever waited may wait no more.
        self.node.shared.host.health.on_failure(move |reason| drop(tell.send(reason)));
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

/// Opens the node, listens, connects to the peers, and serves clients, on threads of its own. What clients may do is what the
/// configuration grants.
///
/// # Errors
/// See [`ServeError`]; nothing runs then.
pub fn serve(config: &Config) -> Result<ServerHandle, ServeError> {
    serve_with(config, Grants::new(config.grants.clone()))
}

/// As [`serve`], with a rule of the program's own for what clients may do. It alone decides: what the configuration grants plays
/// no part, unless it asks [`Grants`].
///
/// # Errors
/// See [`ServeError`]; nothing runs then.
pub fn serve_with(config: &Config, authorizer: impl Authorizer + 'static) -> Result<ServerHandle, ServeError> {
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
        let options = ListenerOptions::for_connections(connections);
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
        namespaces: config.namespaces.clone(),
        log: config.log_options(),
        queue_bytes: config.queue_bytes,
        quorum_lost_after: config.quorum_lost_after,
        retention: config.retention,
        follower_log_bytes: config.follower_log_bytes,
        snapshot_bytes_per_second: config.snapshot_bytes_per_second,
        catch_up_bytes_per_second: config.catch_up_bytes_per_second,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
        scrub_pause: config.scrub_pause,
        replay_bytes_max: config.replay_bytes_max,
        ..NodeOptions::alone(&config.data_dir)
    })?);
    let shards = node.shared.registry.named_shards().into_iter().map(|(name, shard)| {
        let named = ConfigMaster::named_log(shard.log, &name, &shard.descriptor);
        (shard.descriptor.shard, Replicated { named, events: shard.events.clone() })
    });
    let network = Network {
        identity: *node.identity(),
        incarnation: node.shared.host.wal.incarnation(),
        shards: Arc::new(shards.collect()),
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
        network,
        assignments: Arc::default(),
        reading: Arc::new(Semaphore::new(READS_MAX)),
        feeds: Arc::new(Semaphore::new(FEEDS_MAX)),
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        opening: Arc::new(Semaphore::new(OPENING_MAX)),
        scanning: Arc::new(Semaphore::new(SCANNING_MAX)),
        clients: Arc::new(Semaphore::new(connections - PEERS_PLACES)),
        clients_max: connections - PEERS_PLACES,
        memory: MemoryBudget::new(config.clients_bytes),
        listener: Arc::new(listener),
        requests: Arc::default(),
        door: Door::new(authorizer),
    };
    runtime.spawn(server.clone().accept());
    Ok(ServerHandle { node, runtime, address, server })
}

/// How many connections are taken: what the limit on open files leaves beside the log and the state, which must not
/// fail for want of one.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let left = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(FILES_OF_THE_NODE);
    left.clamp(2 * PEERS_PLACES, CONNECTIONS_MAX)
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) node: Arc<Node>,
    network: Network,
    peers: BTreeMap<NodeId, String>,
    /// Assignments by hand that were asked.
    pub(super) assignments: Arc<AtomicU64>,
    /// Reads that touch the disk at a time.
    pub(super) reading: Arc<Semaphore>,
    /// Sessions that are opened or closed at a time.
    pub(super) opening: Arc<Semaphore>,
    /// Places for moments that clients hold.
    pub(super) snapshots: Arc<Semaphore>,
    /// Places for feeds of all clients.
    pub(super) feeds: Arc<Semaphore>,
    /// Feeds that look at the log.
    pub(super) scanning: Arc<Semaphore>,
    /// Places for clients: fewer than there are connections, so that the other nodes always find one.
    clients: Arc<Semaphore>,
    clients_max: usize,
    /// For what clients ask and do not take, and send faster than it is done.
    memory: MemoryBudget,
    listener: Arc<Listener>,
    /// Requests of all clients that have no answer yet.
    pub(super) requests: Arc<AtomicUsize>,
    /// What clients may do.
    door: Door,
}

impl Server {
    fn stats(&self) -> ServerStats {
        ServerStats {
            clients: self.clients_max.saturating_sub(self.clients.available_permits()),
            // A figure for people, which orders nothing.
            requests: self.requests.load(Ordering::Relaxed),
            feeds: FEEDS_MAX.saturating_sub(self.feeds.available_permits()),
            denied: self.door.denied(),
            assignments: self.assignments.load(Ordering::Relaxed),
            held_bytes: self.memory.held(),
            ended_for_memory: self.memory.ended(),
            connections: self.listener.stats(),
        }
    }

    /// Where another node of the cluster is asked.
    pub(super) fn address_of_another(&self, node: NodeId) -> Option<String> {
        self.peers.get(&node).filter(|_| node != self.node.identity().node).cloned()
    }

    async fn accept(self) {
        loop {
            match self.listener.accept().await {
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
        let address = incoming.peer_addr();
        let accepted = self.network.transport.accept(incoming, self.network.config(), sink).await;
        let Some((handle, named)) = accepted else { return };
        let Ok(PeerHello { identity, .. }) = handle.ready().await else { return };
        let peer = NodeId::new(identity.node);
        match identity.role {
            Role::Node if self.peers.contains_key(&peer) && peer < self.node.identity().node => {
                self.network.session(peer, handle, events, Greets::First).await;
            }
            Role::Client => match Arc::clone(&self.clients).try_acquire_owned() {
                Ok(_place) => {
                    let caller = Caller::new(named, address);
                    self.memory.enroll(&handle, &caller.owner());
                    let access = self.door.of(caller);
                    self.client(access, handle, events).await;
                }
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
}

#[cfg(test)]
#[path = "server_test.rs"]
mod tests;

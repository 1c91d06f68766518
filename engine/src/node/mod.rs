//! Joins everything below: opens files, starts threads, reads clocks, and wires queue, sequencer, replica, log,
//! applier and network together. No decision in here is worth simulating; those are in the floors below.
//!
//! [`Node`] is one open data directory. Alone (one voter, itself) it is an embedded store; with `cluster`,
//! [`serve`] adds the network: peers for the replicas, requests for clients.
//!
//! # Threads
//! Each is named, and joined by [`Node::close`]:
//!
//! | thread | does |
//! |---|---|
//! | `towline-shard` | sequencer and replica of the shards that it serves: everything that is decided (`worker`, `shard`) |
//! | `towline-apply` | committed batches into RocksDB, outcomes to callers (`applier`) |
//! | `towline-keep` | what the policies let go of the logs (`keeper`) |
//! | `towline-scrub` | reads the log again, slowly, to find what rots at rest (`scrubber`) |
//! | `towline-read` | reads of the log for followers that are behind (`reader`) |
//! | `towline-give`, `towline-take` | snapshots, for and from other nodes (`snapshots`) |
//! | the log's own | writes and syncs (`towline_wal`) |
//! | `towline-net` | with `cluster`: tokio's, bytes between sockets and the threads above (`peers`, `server`) |
//!
//! How many of the first two there are, [`NodeOptions`] says.

mod applier;
mod assigning;
mod backlog;
mod backup;
#[cfg(any(feature = "cluster", feature = "client"))]
pub(crate) mod calls;
#[cfg(feature = "cluster")]
mod clients;
mod clock;
mod completion;
mod control_log;
mod damage;
#[cfg(feature = "cluster")]
mod deliveries;
mod error;
mod feed;
pub(crate) mod follower;
mod freshness;
mod gate;
mod health;
#[cfg(any(feature = "cluster", feature = "client"))]
pub(crate) mod held;
mod hosting;
mod identity;
mod inbox;
mod keeper;
mod layout;
#[cfg(feature = "cluster")]
mod layout_text;
mod log_budget;
#[cfg(feature = "metrics")]
mod metrics;
pub(crate) mod namespace;
mod namespaces;
mod open;
#[cfg(any(feature = "cluster", feature = "client"))]
mod operator;
mod outputs;
mod pins;
mod positions;
mod read_index;
mod reader;
mod rest;
mod scrubber;
mod session;
mod shard;
mod snapshots;
mod stages;
mod stats;
mod threads;
#[cfg(any(feature = "cluster", feature = "client"))]
mod touched;
mod trimmer;
mod unapplied;
mod unflushed;
mod votes;
mod worker;

#[cfg(feature = "cluster")]
pub mod access;
#[cfg(feature = "cluster")]
pub mod config;
#[cfg(any(feature = "cluster", feature = "client"))]
pub(crate) mod failure;
#[cfg(feature = "cluster")]
mod grants;
#[cfg(feature = "cluster")]
mod line;
#[cfg(feature = "cluster")]
mod peers;
#[cfg(feature = "cluster")]
mod refusals;
#[cfg(feature = "cluster")]
mod server;
#[cfg(feature = "cluster")]
mod server_stats;
#[cfg(feature = "cluster")]
mod transport;

use crate::control::{DEFAULT_NAME, DEFAULT_SHARD};
use crate::model::limits::{
    QUEUE_BYTES_DEFAULT, QUEUE_SLOTS_DEFAULT, QUORUM_LOST_AFTER_DEFAULT, UNAPPLIED_BYTES_DEFAULT,
};
use crate::model::request::{FailureClass, ServerStatus};
use crate::model::{ClusterId, LogPosition, NodeId, Policy, Retention, ShardId};
use crate::state::RocksOptions;
use crossbeam::channel::{Receiver, Sender};
use error::{log_class, log_code};
use gate::Gate;
use hosting::{Host, ShardHandle};
use inbox::Inbox;
use namespaces::Registry;
use parking_lot::{Mutex, RwLock};
use shard::{Event, after, now};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use threads::Threads;

pub use crate::model::{Budget, FollowerOptions, FollowerState, NamespaceOptions};
pub use crate::model::{Sent, SessionState, SessionStateError};
pub use backup::{BackupError, BackupOptions, BackupReport, ManifestError, restore, verify_backup};
#[cfg(feature = "cluster")]
pub use config::Config;
pub use control_log::CatalogLogError;
pub use error::{Error, NamespaceError, ReadError, WriteRefused};
pub use feed::{Feed, FeedError};
pub use follower::{FollowError, Follower};
pub use identity::{Identity, IdentityError};
pub use layout::{NamespaceLayout, NamespacesDiffer};
pub use namespace::{Namespace, READ_WITHIN_DEFAULT, Snapshot};
pub use open::OpenError;
#[cfg(feature = "cluster")]
pub use server::{ServeError, ServerHandle, serve, serve_with};
#[cfg(feature = "cluster")]
pub use server_stats::ServerStats;
pub use session::{Session, SessionError, SessionReceipt};
pub use snapshots::HalfReplaced;
pub use stages::{Distribution, LaneStats};
pub use stats::{NodeStats, ScrubStats, ShardStats};

/// The shard that every node has: the one of the default namespace.
pub const SHARD: ShardId = DEFAULT_SHARD;
/// The namespace that every node has.
pub const NAMESPACE_NAME: &str = DEFAULT_NAME;

/// How long closing waits for writes that can't finish; see [`NodeOptions::close_within`].
pub const CLOSE_WITHIN_DEFAULT: Duration = Duration::from_secs(10);

/// What an opening after a crash may have to replay; see [`NodeOptions::replay_bytes_max`]. A few seconds' work.
pub const REPLAY_BYTES_DEFAULT: u64 = 512 << 20;

/// What a leader keeps of its log for a follower that is behind; see [`NodeOptions::follower_log_bytes`].
pub const FOLLOWER_LOG_BYTES_DEFAULT: u64 = 1 << 30;

/// Of snapshots a second; see [`NodeOptions::snapshot_bytes_per_second`]. Half of what a network of a gigabit carries: the
/// others have the rest.
pub const SNAPSHOT_BYTES_PER_SECOND_DEFAULT: u64 = 64 << 20;

/// Of its log that a node reads a second for each node that is behind, while something is written; see
/// [`NodeOptions::catch_up_bytes_per_second`].
pub const CATCH_UP_BYTES_PER_SECOND_DEFAULT: u64 = 32 << 20;

/// Of its log that a node reads again a second, for what rots at rest; see [`NodeOptions::scrub_bytes_per_second`]. A
/// gibibyte takes some four minutes, a tebibyte three days, and no disk feels it.
pub const SCRUB_BYTES_PER_SECOND_DEFAULT: u64 = 4 << 20;

/// Between two such passes; see [`NodeOptions::scrub_pause`].
pub const SCRUB_PAUSE_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How a node is opened.
///
/// ```
/// use std::time::Duration;
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// let mut options = NodeOptions::alone(directory.path());
/// options.state.block_cache_bytes = 256 << 20;
/// options.close_within = Duration::from_secs(2);
/// Node::open(options)?.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeOptions {
    /// The data directory; made if it is missing.
    pub directory: PathBuf,
    /// The cluster; a directory of another one is refused. None: whatever the directory says, a new one otherwise.
    pub cluster: Option<ClusterId>,
    /// This node.
    pub node: NodeId,
    /// All voters, this node among them.
    pub voters: Vec<NodeId>,
    /// Which of them leads the default namespace's shard as long as nobody was assigned by hand; from then on, that one. The shards of
    /// other namespaces have each voter as their first leader in its turn.
    pub leader: NodeId,
    /// The namespaces that there are beside the default one, in an order that stays; made if they are missing. Of one of several nodes
    /// they are all that there are, and the same in all of them; one that is alone may have others.
    pub namespaces: Vec<NamespaceLayout>,
    /// The log's options. Its queue is made as large as a node needs it, and its segments must hold the largest
    /// write.
    pub log: towline_wal::Options,
    /// What the state may spend: memory, files, threads.
    pub state: RocksOptions,
    /// Bytes of the logs that an opening after a crash may have to replay, about: the state is flushed before there are more.
    pub replay_bytes_max: u64,
    /// How long a leader waits for a majority of the voters that is away, or comes no nearer to what waits for it, before it leads
    /// no more: then whoever waits hears so. It takes a new term when a majority is connected again.
    pub quorum_lost_after: Duration,
    /// Bytes of submissions that each shard's queue holds.
    pub queue_bytes: usize,
    /// Submissions that each shard's queue holds.
    pub queue_slots: usize,
    /// Bytes of sealed batches of each shard that wait to be durable, committed and applied, about: behind that its queue waits. One
    /// batch is sealed whatever this says, and what is being applied comes on top.
    pub unapplied_bytes: usize,
    /// Threads that decide the order of writes, each for its part of the shards: one is enough for a disk.
    pub sequencers: usize,
    /// Threads that apply committed writes, each for its part of the shards.
    pub appliers: usize,
    /// What the log of one of several nodes keeps, though nobody needs it any more. A node that is alone goes by the policies of
    /// its namespaces.
    pub retention: Retention,
    /// Bytes of its log that a leader keeps, if they are more than that, for followers that are connected, and behind a snapshot that
    /// somebody fetches. Whoever falls further behind is given a snapshot.
    pub follower_log_bytes: u64,
    /// Bytes of snapshots that it reads and sends a second, at the most; 0: as many as there are.
    pub snapshot_bytes_per_second: u64,
    /// Bytes of its log that it reads a second, at the most, for each node that is behind, while something is written to it (64 KiB
    /// or four groups a second): those who write would wait for the disk and the network as well. Never less than twice what is
    /// written, so that it comes nearer; nor less than one read, a mebibyte as a rule. As many as there are while nothing is written, and
    /// for one without which there is no majority. 0: as many as there are.
    pub catch_up_bytes_per_second: u64,
    /// Bytes of its log that it reads again a second, at the most, to find what rots at rest while another node has it:
    /// from that it comes back by itself. 0: it does not look.
    pub scrub_bytes_per_second: u64,
    /// How long it waits when it has read the whole log, before it begins again; a second at the least. After an opening it
    /// waits for ten minutes at the most.
    pub scrub_pause: Duration,
    /// How long [`Node::close`] waits for writes that can't finish, for want of a majority, before their callers hear
    /// that the outcome is unknown.
    pub close_within: Duration,
}

impl NodeOptions {
    /// A node by itself, in this directory.
    #[must_use]
    pub fn alone(directory: impl Into<PathBuf>) -> Self {
        let node = NodeId::new(1);
        Self {
            directory: directory.into(),
            cluster: None,
            node,
            voters: vec![node],
            leader: node,
            namespaces: Vec::new(),
            log: towline_wal::Options::default(),
            state: RocksOptions::default(),
            replay_bytes_max: REPLAY_BYTES_DEFAULT,
            quorum_lost_after: QUORUM_LOST_AFTER_DEFAULT,
            queue_bytes: QUEUE_BYTES_DEFAULT,
            queue_slots: QUEUE_SLOTS_DEFAULT,
            unapplied_bytes: UNAPPLIED_BYTES_DEFAULT,
            sequencers: 1,
            appliers: 1,
            retention: Policy::default().retention,
            follower_log_bytes: FOLLOWER_LOG_BYTES_DEFAULT,
            snapshot_bytes_per_second: SNAPSHOT_BYTES_PER_SECOND_DEFAULT,
            catch_up_bytes_per_second: CATCH_UP_BYTES_PER_SECOND_DEFAULT,
            scrub_bytes_per_second: SCRUB_BYTES_PER_SECOND_DEFAULT,
            scrub_pause: SCRUB_PAUSE_DEFAULT,
            close_within: CLOSE_WITHIN_DEFAULT,
        }
    }
}

/// One open data directory, with its threads.
///
/// ```
/// use towline::model::{Expect, Outcome};
/// use towline::node::{Node, NodeOptions};
/// let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let orders = node.namespace("default")?;
/// let written = orders.append("order-42", Expect::Absent, "placed")?.wait()?;
/// assert_eq!(written.outcome, Outcome::Applied { version: 1 });
/// node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    close_within: Duration,
    /// None once it is closed.
    threads: Mutex<Option<Threads>>,
}

/// What a node and the handles of its namespaces share.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    registry: Registry,
    host: Host,
    gate: Gate,
    segment_bytes: u64,
    /// Held alone by who lets go of the logs, from the look at the pins until it is done; by the others from their pin until
    /// they know where the log begins.
    letting_go: RwLock<()>,
    /// Dropped when the node begins to close: those who hold a moment of it hear that, and let it go.
    open: Mutex<Option<Sender<Infallible>>>,
    closing: Receiver<Infallible>,
    scrubbed: Mutex<ScrubStats>,
}

/// Why a node could not be closed cleanly.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6041 | operator | look at what the thread said when it ended, and open the node again |
/// | TW-6042 | fix the request | nothing is lost: end reads first; the directory is free when they have ended |
/// | TW-10xx | operator | what was acknowledged is there: see [`towline_wal::WalError`], and open the node again |
///
/// ```
/// use towline::node::{CloseError, Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let exit_code = match node.close() {
///     // In use: nothing is lost, and the directory stays held until that read has ended.
///     Ok(()) | Err(CloseError::InUse) => 0,
///     Err(error) => {
///         eprintln!("the node was not closed cleanly: {error}");
///         1
///     }
/// };
/// assert_eq!(exit_code, 0);
/// Node::open(NodeOptions::alone(directory.path()))?.close()?; // the directory is free
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The log could not be closed cleanly; what was acknowledged is there all the same.
    #[error("closing the log: {0}")]
    Log(#[from] towline_wal::WalError),
    /// A thread ended by a panic.
    #[error("the thread {0} ended by a panic")]
    Panicked(String),
    /// Somebody still reads the state: its files stay open until that ends.
    #[error("somebody still reads the state: its files are closed when that ends")]
    InUse,
}

impl CloseError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Log(log) => log_code(log.code()),
            Self::Panicked(_) => 6041,
            Self::InUse => 6042,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Log(log) => log_class(log.class()),
            Self::Panicked(_) => FailureClass::Operator,
            Self::InUse => FailureClass::FixRequest,
        }
    }
}

impl Node {
    /// Rewrites the state's files, while the node serves: what was deleted or overwritten before is in none of them afterwards. It
    /// takes as long as to read and write the whole state once. To erase what somebody wrote, also let the log go that far
    /// ([`Policy::retention`](crate::model::Policy)), and remember backups.
    ///
    /// ```
    /// use towline::model::Write;
    /// # use towline::node::{Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// # node.default_namespace().put("person-7", "Ada")?.wait()?;
    /// node.default_namespace().delete("person-7")?.wait()?;
    /// node.compact()?;
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The state can't be read or written, or the node is closed.
    pub fn compact(&self) -> Result<(), ReadError> {
        Ok(self.shared.gate.with(|store| store.compact()).ok_or(ReadError::Closed)??)
    }

    /// The namespace that every node has.
    #[must_use]
    pub fn default_namespace(&self) -> Namespace {
        match self.namespace(NAMESPACE_NAME) {
            Ok(namespace) => namespace,
            Err(error) => unreachable!("every catalog has the default namespace: {error}"),
        }
    }

    /// Whether this node takes writes of the default namespace now.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.default_shard().positions.serving().is_some()
    }

    /// Whether writes of a shard are taken now. Where nobody else votes, a shard that was just made leads in a moment: what comes waits in
    /// its queue.
    #[cfg(any(feature = "cluster", feature = "client"))]
    fn takes_writes_of(&self, shard: &ShardHandle) -> bool {
        if self.shared.host.is_alone() { self.is_serving() } else { shard.positions.serving().is_some() }
    }

    /// Whether this node has begun to lead a shard, and takes no writes of it yet.
    #[cfg(feature = "cluster")]
    fn comes_to_lead(&self, shard: &ShardHandle) -> bool {
        let positions = &shard.positions;
        positions.leader() == Some(self.identity().node) && positions.serving().is_none() && !positions.has_ended()
    }

    /// How the default namespace's shard is; none if it has ended, or its thread is too busy to say within two seconds.
    #[must_use]
    pub fn status(&self) -> Option<ServerStatus> {
        self.ask_status().recv_timeout(STATUS_WITHIN).ok()
    }

    /// Where the answer comes, soon.
    fn ask_status(&self) -> Receiver<ServerStatus> {
        let (reply, answer) = crossbeam::channel::bounded(1);
        self.default_shard().events.send(Event::Status(reply));
        answer
    }

    /// As [`Node::status`], for whoever must not hold a thread.
    #[cfg(feature = "cluster")]
    async fn status_soon(&self) -> Option<ServerStatus> {
        let (answer, end) = (self.ask_status(), tokio::time::Instant::now() + STATUS_WITHIN);
        let mut pause = Duration::from_micros(100);
        loop {
            match answer.try_recv() {
                Ok(status) => return Some(status),
                Err(crossbeam::channel::TryRecvError::Empty) if tokio::time::Instant::now() < end => {}
                Err(_) => return None,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Why a shard of the node has stopped by itself (its disk failed, say), if one has: it takes no more writes, and
    /// reads what was applied until then. Or why a thread has that serves all shards. Close the node and open it again.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.host.health.failure()
    }

    /// Whose directory this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// The digest of the default namespace's shard, and the position that it is of.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn digest(&self) -> Result<(LogPosition, [u8; 16]), ReadError> {
        let digests = self.default_namespace().digest()?;
        digests.first().map(|(_, at, digest)| (*at, *digest)).ok_or(ReadError::Closed)
    }

    /// Takes no more writes, finishes what was taken (for [`NodeOptions::close_within`] at the most), flushes the state,
    /// and closes the log with a synced closing group.
    ///
    /// # Errors
    /// The log could not be closed cleanly, a thread had panicked, or somebody reads the state still.
    pub fn close(self) -> Result<(), CloseError> {
        self.stop()
    }

    fn default_shard(&self) -> Arc<ShardHandle> {
        let default = self.shared.registry.named(NAMESPACE_NAME);
        match default.and_then(|served| served.shards.first().map(Arc::clone)) {
            Some(shard) => shard,
            None => unreachable!("every catalog has the default namespace with one shard"),
        }
    }

    pub(crate) fn stop(&self) -> Result<(), CloseError> {
        let Some(mut threads) = self.threads.lock().take() else { return Ok(()) };
        let deadline = after(self.close_within);
        drop(self.shared.open.lock().take());
        threads.end_attendants();
        self.shared.registry.close();
        self.shared.registry.shards().iter().for_each(|shard| shard.close(deadline));
        let panicked = threads.end();
        let flushed = self.shared.gate.with(|store| store.flush());
        if let Some(Err(error)) = flushed {
            tracing::warn!(%error, "the state was not flushed; the log replays it");
        }
        let is_closed = self.shared.gate.close(deadline.max(now() + CLOSE_STATE_WITHIN));
        self.shared.host.wal.close()?;
        if let Some(thread) = panicked {
            return Err(CloseError::Panicked(thread));
        }
        if is_closed { Ok(()) } else { Err(CloseError::InUse) }
    }
}

/// How long a shard's thread may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

/// How long closing waits for reads that are under way, at the least.
const CLOSE_STATE_WITHIN: Duration = Duration::from_secs(1);

impl Drop for Node {
    /// Closes like [`Node::close`]; an error can only be logged.
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the node was not closed cleanly");
        }
    }
}

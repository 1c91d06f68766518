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
//! | `towline-shard` | sequencer and replica: everything that is decided, in one place (`shard`) |
//! | `towline-apply` | committed batches into RocksDB, outcomes to callers (`applier`) |
//! | `towline-read` | reads of the log for followers that are behind (`reader`) |
//! | the log's own | writes and syncs (`towline_wal`) |
//! | `towline-net` | with `cluster`: tokio's, bytes between sockets and the threads above (`peers`, `server`) |

mod applier;
mod completion;
mod health;
mod identity;
mod open;
mod outputs;
mod reader;
mod shard;
mod unapplied;

#[cfg(feature = "cluster")]
pub mod config;
#[cfg(feature = "cluster")]
mod failure;
#[cfg(feature = "cluster")]
mod peers;
#[cfg(feature = "cluster")]
mod server;

use crate::model::request::{Direction, ServerStatus};
use crate::model::{ClusterId, LogPosition, Lsn, NamespaceId, NodeId, Record, RecordError, ShardId};
use crate::pipeline::{Receipt, Submission, SubmissionQueue, SubmitError, SubmitPolicy};
use crate::state::{self, RocksStore, StoreError, StreamRead};
use completion::Completion;
use crossbeam::channel::Sender;
use health::Health;
use parking_lot::Mutex;
use shard::{Event, Positions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(feature = "cluster")]
pub use config::Config;
pub use identity::{Identity, IdentityError};
pub use open::OpenError;
#[cfg(feature = "cluster")]
pub use server::{ServeError, ServerHandle, serve};

/// The only shard of this release, and its namespace.
pub const SHARD: ShardId = ShardId::new(1024);
/// The only namespace of this release.
pub const NAMESPACE: NamespaceId = NamespaceId::new(1);
/// Its name.
pub const NAMESPACE_NAME: &str = "default";

/// How long closing waits for writes that can't finish; see [`NodeOptions::close_within`].
pub const CLOSE_WITHIN_DEFAULT: Duration = Duration::from_secs(10);

/// How a node is opened.
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
    /// Which of them leads.
    pub leader: NodeId,
    /// The log's options. Its queue is made as large as a node needs it, and its segments must hold the largest
    /// write.
    pub log: towline_wal::Options,
    /// Bytes of submissions that the queue holds.
    pub queue_bytes: usize,
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
            log: towline_wal::Options::default(),
            queue_bytes: crate::model::limits::QUEUE_BYTES_DEFAULT,
            close_within: CLOSE_WITHIN_DEFAULT,
        }
    }
}

/// One open data directory, with its threads.
///
/// ```
/// use towline::model::{Expect, Operation, Outcome, Record};
/// use towline::node::{Node, NodeOptions};
/// let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let event = Operation::Append {
///     stream: "order-42".into(), expect: Expect::Absent, metadata: Default::default(), value: "placed".into(),
/// };
/// let written = node.write(&Record::of(vec![event]))?.wait()?;
/// assert_eq!(written.outcome, Outcome::Applied { version: 1 });
/// node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    leader: NodeId,
    close_within: Duration,
    queue: Arc<SubmissionQueue<Completion>>,
    events: Inbox,
    store: Arc<RocksStore>,
    positions: Arc<Positions>,
    health: Health,
    wal: Arc<towline_wal::Wal>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The way into the shard's thread: an event, and a nudge.
#[derive(Clone)]
struct Inbox {
    events: Sender<Event>,
    queue: Arc<SubmissionQueue<Completion>>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

impl Inbox {
    /// Delivers an event. When the shard's thread has ended there is nobody to hear it, and nothing is lost by
    /// that: whoever waited was told when it ended.
    fn send(&self, event: Event) {
        if self.events.send(event).is_ok() {
            self.queue.wake();
        }
    }
}

/// Why a write was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteRefused {
    /// It is not a legal write.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The queue has no room, or is closed.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Another node leads; this one will not take writes.
    #[error("node {0} leads the shard: write there")]
    NotLeader(NodeId),
}

/// Why a node could not be closed cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The log could not be closed cleanly; what was acknowledged is there all the same.
    #[error("closing the log: {0}")]
    Log(#[from] towline_wal::WalError),
    /// A thread ended by a panic.
    #[error("the thread {0} ended by a panic")]
    Panicked(String),
}

impl Node {
    /// Submits a write, waiting for room in the queue. The receipt says when it is committed and applied here; while
    /// a majority of the voters can't be reached, that is not soon.
    ///
    /// # Errors
    /// The write is not legal, another node leads, or the node is closing or has stopped.
    pub fn write(&self, record: &Record) -> Result<Receipt, WriteRefused> {
        let prepared = self.prepare(record)?;
        let (receipt, completer) = Receipt::pair();
        let submission = prepared.for_token(Completion::Receipt(completer));
        self.queue.submit(submission, SubmitPolicy::Wait).map_err(|(error, _)| error)?;
        Ok(receipt)
    }

    /// Checks and encodes a write: what can be said of it before it is queued.
    fn prepare(&self, record: &Record) -> Result<Submission<()>, WriteRefused> {
        if self.leader != self.identity.node {
            return Err(WriteRefused::NotLeader(self.leader));
        }
        state::check_record(record)?;
        Ok(Submission::record(record.encode()?, ()))
    }

    /// A key's version and value, as applied here.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        state::get_value(&self.store, NAMESPACE, key)
    }

    /// Events of a stream, as applied here: its version and its events are of one moment.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn read_stream(
        &self,
        stream: &[u8],
        from: u64,
        direction: Direction,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<StreamRead, StoreError> {
        // A snapshot: otherwise a page could hold events newer than the version that it tells.
        state::read_stream(&self.store.snapshot(), NAMESPACE, stream, from, direction, events_max, bytes_max)
    }

    /// The state's digest, and the position that it is of.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn digest(&self) -> Result<(LogPosition, [u8; 16]), StoreError> {
        state::digest_at(&self.store.snapshot(), SHARD)
    }

    /// The position applied here.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        Lsn::new(self.positions.applied.load(Ordering::Acquire))
    }

    /// Whether this node takes writes now.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.positions.serving.load(Ordering::Acquire) != 0
    }

    /// How things are; none if the shard's thread has ended, or is too busy to say within two seconds.
    #[must_use]
    pub fn status(&self) -> Option<ServerStatus> {
        let (reply, answer) = crossbeam::channel::bounded(1);
        self.events.send(Event::Status(reply));
        answer.recv_timeout(Duration::from_secs(2)).ok()
    }

    /// Why the node has stopped by itself (its disk failed, say), if it has: it takes no more writes, and reads what
    /// was applied until then. Close it and open it again.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.health.failure()
    }

    /// Whose directory this is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Takes no more writes, finishes what was taken (for [`NodeOptions::close_within`] at the most), and closes the
    /// log with a synced closing group.
    ///
    /// # Errors
    /// The log could not be closed cleanly, or a thread had panicked.
    pub fn close(self) -> Result<(), CloseError> {
        self.stop()
    }

    fn stop(&self) -> Result<(), CloseError> {
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "node is the floor that reads clocks")]
        let deadline = Instant::now() + self.close_within;
        self.events.send(Event::Close(deadline));
        let mut panicked = None;
        for thread in threads {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            if thread.join().is_err() {
                panicked = Some(name);
            }
        }
        self.wal.close()?;
        panicked.map_or(Ok(()), |name| Err(CloseError::Panicked(name)))
    }
}

impl Drop for Node {
    /// Closes like [`Node::close`]; an error can only be logged.
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the node was not closed cleanly");
        }
    }
}

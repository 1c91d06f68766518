//! Opening a node: whose directory it is, the log, the state, the replica, the threads.

use super::applier::{ApplierThread, NodeState};
use super::identity::{self, Identity, IdentityError};
use super::reader::ReaderThread;
use super::shard::{Event, Positions, ShardLog, ShardState, ShardThread};
use super::{Inbox, NAMESPACE, Node, NodeOptions, SHARD};
use crate::control::ConfigMaster;
use crate::model::codec::CodecError;
use crate::model::limits::QUEUE_SLOTS_DEFAULT;
use crate::model::{ClusterId, Lsn, NodeId, ShardDescriptor};
use crate::pipeline::{Sequencer, SubmissionQueue};
use crate::replica::{LogView as _, Promise, Replica};
use crate::state::{Applier, ApplyError, RocksStore, StoreError};
use crossbeam::channel::unbounded;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{Builder, JoinHandle};
use towline_wal::{HardStateKind, Wal};

/// Why a node does not open. Nothing was changed where that is possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory: whose it is, or what the operating system says of it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Log(#[from] towline_wal::OpenError),
    /// The state.
    #[error("the state: {0}")]
    State(#[from] StoreError),
    /// What the state says of itself.
    #[error("the state: {0}")]
    Apply(#[from] ApplyError),
    /// The promise in the log is not one.
    #[error("the promise in the log can't be read: {0}")]
    Promise(#[from] CodecError),
    /// The log is shorter than the state that was made of it: the disk, or a part of it, is of another time.
    #[error(
        "the state holds LSN {applied} and the log ends at {end}: the log's disk was rolled back or replaced; \
         this node must not vote with it: empty the data directory and let it catch up from its peers"
    )]
    RolledBack {
        /// What the state holds.
        applied: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// Node and voters don't fit together.
    #[error("node {0} is not among the voters, or the leader is not")]
    NotAVoter(NodeId),
    /// A thread can't be started.
    #[error("a thread can't be started: {0}")]
    Thread(std::io::Error),
}

impl Node {
    /// Opens a data directory: recovers the log, opens the state, starts the threads. A leader begins a new term.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory in use by another process is `Log(Locked)`, with who holds it.
    pub fn open(options: NodeOptions) -> Result<Self, OpenError> {
        if !options.voters.contains(&options.node) || !options.voters.contains(&options.leader) {
            return Err(OpenError::NotAVoter(options.node));
        }
        identity::create_durably(&options.directory)?;
        let found = identity::read(&options.directory)?;
        if let Some(found) = &found {
            let cluster = options.cluster.unwrap_or(found.cluster);
            identity::check(&options.directory, found, cluster, options.node)?;
        }
        // The log's lock holds the whole directory.
        let (wal, report) = Wal::open(options.directory.join("wal"), options.log.clone())?;
        tracing::info!(node = %options.node, ?report, "the log is open");
        let identity = match found {
            Some(identity) => identity,
            None => {
                let fresh = || *uuid::Uuid::now_v7().as_bytes();
                let cluster = options.cluster.unwrap_or_else(|| ClusterId::new(fresh()));
                let identity = Identity { cluster, node: options.node, directory: fresh() };
                identity::write(&options.directory, &identity)?;
                identity
            }
        };
        let shard = ShardDescriptor { shard: SHARD, namespace: NAMESPACE, start: Vec::new(), end: Vec::new() };
        let master = ConfigMaster::new(identity.cluster, shard.clone(), &options.voters);
        let store: NodeState = Arc::new(RocksStore::open(&options.directory.join("state"))?);
        let applier = Applier::open(Arc::clone(&store), shard, master.log())?;
        let wal = Arc::new(wal);
        start(options, identity, wal, store, applier, master)
    }
}

fn start(
    options: NodeOptions,
    identity: Identity,
    wal: Arc<Wal>,
    store: NodeState,
    applier: Applier<NodeState>,
    master: ConfigMaster,
) -> Result<Node, OpenError> {
    let log = master.log();
    let view = ShardLog { wal: &wal, log };
    let applied = applier.applied();
    if applied.lsn > view.end().lsn {
        return Err(OpenError::RolledBack { applied: applied.lsn, end: view.end().lsn });
    }
    let promise = wal.hard_state(log, HardStateKind::Promise).map_or(Ok(Promise::NONE), |b| Promise::decode(&b))?;
    let replica = Replica::open(options.node, log, promise, applied.lsn, &view);
    let queue = Arc::new(SubmissionQueue::new(QUEUE_SLOTS_DEFAULT, options.queue_bytes));
    let (event_sender, inbox) = unbounded::<Event>();
    let events = Inbox { events: event_sender, queue: Arc::clone(&queue) };
    let (apply_tasks, apply_inbox) = unbounded();
    let (read_tasks, read_inbox) = unbounded();
    let positions = Arc::new(Positions { applied: AtomicU64::new(applied.lsn.get()), serving: AtomicU64::new(0) });
    let apply_thread =
        ApplierThread { applier, wal: Arc::clone(&wal), log, tasks: apply_inbox, events: events.clone() };
    let read_thread = ReaderThread { wal: Arc::clone(&wal), log, tasks: read_inbox, events: events.clone() };
    let shard_thread = ShardThread {
        id: options.node,
        leads: options.leader == options.node,
        log,
        wal: Arc::clone(&wal),
        replica,
        master,
        sequencer: Sequencer::new(),
        queue: Arc::clone(&queue),
        inbox,
        events: events.clone(),
        applier: apply_tasks,
        reader: read_tasks,
        positions: Arc::clone(&positions),
        applied,
        state: ShardState::default(),
    };
    let threads = vec![
        spawn("towline-shard", move || shard_thread.run())?,
        spawn("towline-apply", move || apply_thread.run())?,
        spawn("towline-read", move || read_thread.run())?,
    ];
    Ok(Node { identity, queue, events, store, positions, wal, threads: Mutex::new(threads) })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)
}

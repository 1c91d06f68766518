//! Opening a node: whose directory it is, the log, the state, the replica, the threads.

use super::control_log::{CatalogLogError, ControlLog};
use super::error::{bytes_class, log_class, log_code};
use super::gate::Gate;
use super::health::Health;
use super::hosting::{Host, SnapshotLimits};
use super::identity::{self, Identity, IdentityError};
use super::layout::{self, NamespacesDiffer};
use super::namespaces::Registry;
use super::snapshots::{GiveOrder, GiverThread, HalfReplaced, SnapshotDesk, TakerThread};
use super::threads::Threads;
use super::{Node, NodeOptions, Shared};
use crate::control::{CatalogError, ConfigMaster};
use crate::model::codec::CodecError;
use crate::model::limits::{LOG_QUEUE_BYTES, LOG_STEP_BYTES_MAX};
use crate::model::request::FailureClass;
use crate::model::{ClusterId, DirectoryId, Epoch, Lsn, NodeId, ShardId};
use crate::state::{ApplyError, RocksStore, StoreError};
use crossbeam::channel::{bounded, unbounded};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::sync::Arc;
use towline_wal::limits::BATCH_BYTES_MAX;
use towline_wal::{HardStateKind, Wal};

/// Why a node does not open. Nothing was changed where that is possible.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6021 | damage, or operator | give it the right disk; or a newer release wrote it: install that |
/// | TW-6022 | operator | give it the right disk |
/// | TW-6023 | damage | restore a backup; where a majority of others is well, begin with an empty directory |
/// | TW-6024, TW-6025 | damage | give it the right disk: it must not vote with what is left |
/// | TW-6026 | operator | make a log with larger segments |
/// | TW-6027 | fix the request | name node and leader among the voters |
/// | TW-6028 | operator | name the namespaces as the directory has them, see [`NamespacesDiffer`] |
/// | TW-6029 | operator | what the operating system says |
/// | TW-6030 | damage, or operator | what the sentence says of the parts; they are needed to finish what was begun |
/// | TW-10xx | operator | see [`towline_wal::WalError`] |
/// | TW-1207 | fix the request | mend that option of the log |
/// | TW-12xx | damage, or operator | see [`towline_wal::OpenError`]; TW-1201: another process has it open |
/// | TW-601x, TW-641x, TW-52xx, TW-54xx | | see [`IdentityError`], [`CatalogLogError`], [`StoreError`], [`ApplyError`] |
/// | TW-55xx | damage | the catalog's log was written by something else: keep it, ask for help |
///
/// ```
/// use towline::node::{Node, NodeOptions, OpenError};
/// # let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// match Node::open(NodeOptions::alone(directory.path())) {
///     // Somebody has it: here this process itself.
///     Err(OpenError::Log(held)) => assert!(held.to_string().contains(&std::process::id().to_string())),
///     other => panic!("{other:?}"),
/// }
/// node.default_namespace().put("a", "1")?.wait()?; // the one who has it does not feel that
/// node.close()?;
/// Node::open(NodeOptions::alone(directory.path()))?.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    #[error("the state: {0}{remedy}", remedy = .0.remedy())]
    State(#[from] StoreError),
    /// What the state says of itself.
    #[error("the state: {0}{remedy}", remedy = .0.remedy())]
    Apply(#[from] ApplyError),
    /// The promise in the log is not one.
    #[error("the promise in the log can't be read: {0}")]
    Promise(#[from] CodecError),
    /// The log is shorter than the state that was made of it: the disk, or a part of it, is of another time.
    #[error(
        "the state holds LSN {applied} and the log ends at {end}: the log's disk was rolled back or replaced; \
         this node must not vote with what is left: give it the right disk, or, if a majority of the others is well, an empty one"
    )]
    RolledBack {
        /// What the state holds.
        applied: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// The state is older than the log's first record: it can't be made again from that.
    #[error(
        "the state holds LSN {applied} and the log begins behind {start}: the state was lost or replaced, and what it was \
         made of is released: begin with an empty directory, if a majority of others is well; otherwise restore a backup"
    )]
    StateLost {
        /// What the state holds.
        applied: Lsn,
        /// Where the log begins.
        start: Lsn,
    },
    /// The log holds batches of an epoch that this node never promised, as far as its promise can be read.
    #[error(
        "the log holds batches of epoch {found}, and the promise in it is of epoch {promised}: what this node \
         promised is lost, so it must not vote: give it the right disk, or, if a majority of the others is well, an empty one"
    )]
    PromiseLost {
        /// The promise found.
        promised: Epoch,
        /// The last epoch in the log.
        found: Epoch,
    },
    /// The place of the newest promise is damaged.
    #[error(
        "the group that held this node's newest promise is damaged: an older one must not stand in for it, so this \
         node must not vote: give it the right disk, or, if a majority of the others is well, an empty one"
    )]
    PromiseInDoubt,
    /// A crash came while a snapshot replaced the state.
    #[error(transparent)]
    HalfReplaced(#[from] HalfReplaced),
    /// The log can't be written.
    #[error(transparent)]
    WriteLog(#[from] towline_wal::WalError),
    /// The segments of the log are too small for the largest write.
    #[error(
        "the log's segments of {segment_bytes} bytes hold no batch of {needed} bytes, the largest write: make a \
             log with larger ones"
    )]
    SegmentsTooSmall {
        /// Bytes of a segment, as the log was made.
        segment_bytes: u64,
        /// Bytes of the largest batch.
        needed: usize,
    },
    /// Node and voters don't fit together.
    #[error("node {0} is not among the voters, or the leader is not")]
    NotAVoter(NodeId),
    /// The catalog of namespaces.
    #[error(transparent)]
    Catalog(#[from] CatalogLogError),
    /// The catalog names shards that make no namespace.
    #[error(transparent)]
    Namespaces(#[from] CatalogError),
    /// The configuration names other namespaces than the directory has.
    #[error(transparent)]
    NamespacesDiffer(#[from] NamespacesDiffer),
    /// A thread can't be started.
    #[error("a thread can't be started: {0}")]
    Thread(std::io::Error),
}

impl OpenError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Identity(identity) => identity.code(),
            Self::Log(log) => log_code(log.code()),
            Self::State(store) => store.code(),
            Self::Apply(apply) => apply.code(),
            Self::Promise(_) => 6021,
            Self::RolledBack { .. } => 6022,
            Self::StateLost { .. } => 6023,
            Self::PromiseLost { .. } => 6024,
            Self::PromiseInDoubt => 6025,
            Self::SegmentsTooSmall { .. } => 6026,
            Self::NotAVoter(_) => 6027,
            Self::Catalog(log) => log.code(),
            Self::Namespaces(catalog) => catalog.code(),
            Self::NamespacesDiffer(_) => 6028,
            Self::Thread(_) => 6029,
            Self::HalfReplaced(_) => 6030,
            Self::WriteLog(log) => log_code(log.code()),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Identity(identity) => identity.class(),
            Self::NotAVoter(_) | Self::Log(towline_wal::OpenError::Options { .. }) => FailureClass::FixRequest,
            Self::Log(log) => log_class(log.class()),
            Self::HalfReplaced(half) => half.class(),
            Self::WriteLog(log) => log_class(log.class()),
            Self::State(store) => store.class(),
            Self::Apply(apply) => apply.class(),
            Self::Promise(source) => bytes_class(source),
            // Nobody asked for a change: it is the log that says what can't be.
            Self::Catalog(CatalogLogError::Catalog(_)) | Self::Namespaces(_) => FailureClass::Damage,
            Self::Catalog(log) => log.class(),
            Self::StateLost { .. } | Self::PromiseLost { .. } | Self::PromiseInDoubt => FailureClass::Damage,
            Self::RolledBack { .. } | Self::SegmentsTooSmall { .. } | Self::NamespacesDiffer(_) | Self::Thread(_) => {
                FailureClass::Operator
            }
        }
    }
}

impl Node {
    /// Opens a data directory: recovers the log, opens the state, starts the threads. A leader begins a new term.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory in use by another process is `Log(Locked)`, with who holds it.
    pub fn open(options: NodeOptions) -> Result<Self, OpenError> {
        let _span = tracing::info_span!("open", node = %options.node).entered();
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
        let mut log_options = options.log.clone();
        let steps = options.sequencers.max(1).saturating_mul(LOG_STEP_BYTES_MAX);
        log_options.queue_bytes_max = log_options.queue_bytes_max.max(LOG_QUEUE_BYTES.saturating_add(steps));
        let (wal, report) = Wal::open(options.directory.join("wal"), log_options)?;
        tracing::info!(node = %options.node, ?report, "the log is open");
        if wal.batch_bytes_max() < BATCH_BYTES_MAX {
            let segment_bytes = report.segment_bytes;
            return Err(OpenError::SegmentsTooSmall { segment_bytes, needed: BATCH_BYTES_MAX });
        }
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
        let wal = Arc::new(wal);
        let lineage = |shard| ConfigMaster::lineage(identity.cluster, shard);
        let mut control = ControlLog::open(Arc::clone(&wal), lineage(CATALOG), report.losses_unknown)?;
        // Who votes alone promised nobody else: a promise of which no batch came (`PromiseLost`) is given again.
        let is_alone = options.voters.len() == 1;
        if is_alone {
            layout::settle_alone(&mut control, &options.namespaces)?;
        } else {
            let doubtful: BTreeSet<_> = report.doubtful_hard_states.iter().collect();
            let known = layout::catalog_of(&options.namespaces).map_err(CatalogLogError::Catalog)?;
            let mut shards = known.namespaces().flat_map(|namespace| &namespace.shards);
            if shards.any(|shard| doubtful.contains(&(lineage(shard.shard), HardStateKind::Promise))) {
                return Err(OpenError::PromiseInDoubt);
            }
            layout::settle(&mut control, &options.namespaces)?;
        }
        let store = Arc::new(RocksStore::open_with(&options.directory.join("state"), &options.state)?);
        start(options, identity, wal, report.segment_bytes, store, control)
    }
}

/// The shard that there is not: the catalog's log is named by it.
pub(super) const CATALOG: ShardId = ShardId::new(0);

/// Threads first, then the shards that they serve.
fn start(
    options: NodeOptions,
    identity: Identity,
    wal: Arc<Wal>,
    segment_bytes: u64,
    store: Arc<RocksStore>,
    control: ControlLog,
) -> Result<Node, OpenError> {
    let health = Arc::<Health>::default();
    let mut threads = Threads::new(Arc::clone(&health));
    let workers = (0..options.sequencers.max(1)).map(|_| threads.start_worker()).collect::<Result<_, _>>()?;
    let appliers = (0..options.appliers.max(1)).map(|_| threads.start_applier()).collect::<Result<_, _>>()?;
    let reader = threads.start_reader(&wal, options.catch_up_bytes_per_second)?;
    let ((give, give_orders), (take, take_orders)) = (unbounded(), unbounded());
    let desk = SnapshotDesk { give, take };
    let host = Host {
        cluster: identity.cluster,
        node: options.node,
        disk: DirectoryId::new(identity.directory),
        voters: options.voters,
        leader: options.leader,
        wal,
        budget: Arc::default(),
        buffers: Arc::default(),
        seed: uuid::Uuid::now_v7().as_u64_pair().1,
        quorum_lost_after: options.quorum_lost_after,
        queue_slots: options.queue_slots,
        queue_bytes: options.queue_bytes,
        unapplied_bytes: options.unapplied_bytes,
        workers,
        appliers,
        reader,
        desk,
        directory: options.directory,
        retention: options.retention,
        snapshots: SnapshotLimits {
            bytes_per_second: options.snapshot_bytes_per_second,
            log_bytes: options.follower_log_bytes,
        },
        health,
    };
    let registry = Registry::new(control, host.is_alone());
    let gate = Gate::new(Arc::clone(&store));
    let (open, closing) = bounded(0);
    let (letting_go, open) = (RwLock::new(()), Mutex::new(Some(open)));
    let scrubbed = Mutex::default();
    let shared =
        Arc::new(Shared { identity, registry, host, segment_bytes, gate, letting_go, open, closing, scrubbed });
    // Before the shards are served: from there on nothing fails, and they end when they are told to.
    threads.start_keeper(Arc::clone(&shared), options.replay_bytes_max)?;
    if options.scrub_bytes_per_second > 0 {
        threads.start_scrubber(Arc::clone(&shared), options.scrub_bytes_per_second, options.scrub_pause)?;
    }
    let giver = GiverThread::new(Arc::clone(&shared), give_orders);
    let taker = TakerThread::new(Arc::clone(&shared), take_orders);
    threads.start_snapshots(&shared.host.desk, giver, taker)?;
    // What somebody still fetches a snapshot before is kept: nothing goes until that is known.
    let nothing_goes = shared.letting_go.read();
    shared.registry.bring_up(&shared.host, &store)?;
    let (found, is_found) = bounded(0);
    if shared.host.desk.give.send(GiveOrder::Begin(found)).is_ok() {
        let Err(_found) = is_found.recv();
    }
    drop(nothing_goes);
    drop(store);
    let node = Node { shared, close_within: options.close_within, threads: Mutex::new(Some(threads)) };
    if let Err(error) = node.shared.registry.finish_drops(&node.shared.host, &node.shared.gate) {
        tracing::warn!(%error, "what a dropped namespace held is not all removed");
    }
    Ok(node)
}

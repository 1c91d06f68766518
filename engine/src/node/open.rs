//! Opening a node: whose directory it is, the log, the state, the replica, the threads.

use super::applier::{ApplierThread, ApplyStage};
use super::health::Health;
use super::identity::{self, Identity, IdentityError};
use super::reader::ReaderThread;
use super::shard::{Event, Positions, ShardLog, ShardState, ShardThread};
use super::{Inbox, NAMESPACE, Node, NodeOptions, SHARD};
use crate::control::ConfigMaster;
use crate::model::codec::CodecError;
use crate::model::limits::{LOG_QUEUE_BYTES, QUEUE_SLOTS_DEFAULT};
use crate::model::{ClusterId, Epoch, Lsn, NodeId, ShardDescriptor};
use crate::pipeline::{Sequencer, SubmissionQueue};
use crate::replica::{LogView as _, Promise, Replica};
use crate::state::{Applier, ApplyError, RocksStore, RocksWriter, StoreError};
use crossbeam::channel::unbounded;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use towline_wal::limits::BATCH_BYTES_MAX;
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
         this node must not vote with what is left (nor with an emptied directory: it may be the only one that \
         held a committed write): give it the right disk"
    )]
    RolledBack {
        /// What the state holds.
        applied: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// The log holds batches of an epoch that this node never promised, as far as its promise can be read.
    #[error(
        "the log holds batches of epoch {found}, and the promise in it is of epoch {promised}: what this node \
         promised is lost, so it must not vote: give it the right disk"
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
         node must not vote: give it the right disk"
    )]
    PromiseInDoubt,
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
        let mut log_options = options.log.clone();
        log_options.queue_bytes_max = log_options.queue_bytes_max.max(LOG_QUEUE_BYTES);
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
        let shard = ShardDescriptor { shard: SHARD, namespace: NAMESPACE, start: Vec::new(), end: Vec::new() };
        let master = ConfigMaster::new(identity.cluster, shard.clone(), &options.voters);
        // Who votes alone promised nobody else: a promise of which no batch came (`PromiseLost`) is given again.
        let has_others = options.voters.len() > 1;
        if has_others && report.doubtful_hard_states.contains(&(master.log(), HardStateKind::Promise)) {
            return Err(OpenError::PromiseInDoubt);
        }
        let store = Arc::new(RocksStore::open(&options.directory.join("state"))?);
        let applier = Applier::open(RocksWriter::new(Arc::clone(&store)), shard, master.log())?;
        let wal = Arc::new(wal);
        start(options, identity, wal, store, applier, master)
    }
}

fn start(
    options: NodeOptions,
    identity: Identity,
    wal: Arc<Wal>,
    store: Arc<RocksStore>,
    applier: Applier<RocksWriter>,
    master: ConfigMaster,
) -> Result<Node, OpenError> {
    let log = master.log();
    let view = ShardLog { wal: &wal, log };
    let applied = applier.applied();
    if applied.lsn > view.end().lsn {
        return Err(OpenError::RolledBack { applied: applied.lsn, end: view.end().lsn });
    }
    let promise = wal.hard_state(log, HardStateKind::Promise).map_or(Ok(Promise::NONE), |b| Promise::decode(&b))?;
    let found = view.end().epoch;
    if found > promise.epoch {
        return Err(OpenError::PromiseLost { promised: promise.epoch, found });
    }
    let replica = Replica::open(options.node, log, promise, applied.lsn, &view);
    let queue = Arc::new(SubmissionQueue::new(QUEUE_SLOTS_DEFAULT, options.queue_bytes));
    let (event_sender, inbox) = unbounded::<Event>();
    let events = Inbox { events: event_sender, queue: Arc::clone(&queue) };
    let (apply_tasks, apply_inbox) = unbounded();
    let (read_tasks, read_inbox) = unbounded();
    let positions = Arc::new(Positions { applied: AtomicU64::new(applied.lsn.get()), serving: AtomicU64::new(0) });
    let health = Health::default();
    let stage = ApplyStage { applier, wal: Arc::clone(&wal), log, positions: Arc::clone(&positions) };
    let stage = Arc::new(Mutex::new(stage));
    let apply_thread = ApplierThread { stage: Arc::clone(&stage), tasks: apply_inbox, events: events.clone() };
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
        stage,
        applier: apply_tasks,
        reader: read_tasks,
        positions: Arc::clone(&positions),
        health: health.clone(),
        applied,
        state: ShardState::new(),
    };
    let watch =
        |thread| Watch { thread, events: events.clone(), positions: Arc::clone(&positions), health: health.clone() };
    let threads = vec![
        spawn(watch(SHARD_THREAD), move || shard_thread.run())?,
        spawn(watch("towline-apply"), move || apply_thread.run())?,
        spawn(watch("towline-read"), move || read_thread.run())?,
    ];
    Ok(Node {
        identity,
        leader: options.leader,
        close_within: options.close_within,
        queue,
        events,
        store,
        positions,
        health,
        wal,
        threads: Mutex::new(threads),
    })
}

const SHARD_THREAD: &str = "towline-shard";

/// Tells when its thread ends by a panic: nobody must wait for it then.
struct Watch {
    thread: &'static str,
    events: Inbox,
    positions: Arc<Positions>,
    health: Health,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.positions.serving.store(0, Ordering::Release);
        let queue = &self.events.queue;
        queue.close();
        if self.thread == SHARD_THREAD {
            // This is the queue's consumer. Who waits for what was sealed hears by the drop of the completions.
            while let Some(submission) = queue.pop() {
                submission.into_token().closed();
            }
            self.health.fail("the thread towline-shard ended by a panic");
        }
        self.events.send(Event::Panicked(self.thread));
    }
}

fn spawn(watch: Watch, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let builder = Builder::new().name(watch.thread.to_owned());
    let watched = move || {
        let _watch = watch;
        body();
    };
    builder.spawn(watched).map_err(OpenError::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::completion::Completion;
    use crate::pipeline::{Receipt, Submission, SubmitPolicy, WriteError};

    /// A thread that panics on purpose, with everything that a node's threads are watched by.
    fn panic_in(
        thread: &'static str,
    ) -> (Health, Arc<SubmissionQueue<Completion>>, crossbeam::channel::Receiver<Event>) {
        let queue = Arc::new(SubmissionQueue::new(4, 1024));
        let (events, inbox) = unbounded();
        let events = Inbox { events, queue: Arc::clone(&queue) };
        let positions = Arc::new(Positions { applied: AtomicU64::new(0), serving: AtomicU64::new(1) });
        let health = Health::default();
        let (receipt, completer) = Receipt::pair();
        queue.submit(Submission::record("x".into(), Completion::Receipt(completer)), SubmitPolicy::Fail).ok().unwrap();
        let watch = Watch { thread, events, positions: Arc::clone(&positions), health: health.clone() };
        let joined = spawn(watch, || std::panic::panic_any("on purpose")).unwrap().join();
        assert!(joined.is_err() && queue.is_closed() && positions.serving.load(Ordering::Acquire) == 0);
        if thread == SHARD_THREAD {
            assert_eq!(receipt.wait(), Err(WriteError::Closed), "nobody waits for ever");
        }
        (health, queue, inbox)
    }

    #[test]
    fn a_panic_of_the_shards_thread_stops_the_node_and_is_told() {
        let (health, ..) = panic_in(SHARD_THREAD);
        assert!(health.failure().unwrap().contains(SHARD_THREAD));
    }

    #[test]
    fn a_panic_of_another_thread_is_told_to_the_shards() {
        let (_, queue, inbox) = panic_in("towline-apply");
        assert!(matches!(inbox.try_recv(), Ok(Event::Panicked("towline-apply"))));
        assert!(queue.pop().is_some(), "what was queued is left to the shard's thread");
    }
}

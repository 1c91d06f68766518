//! How a node is, in numbers, read at one time.

use super::hosting::ShardHandle;
use super::stages::LaneStats;
use super::{Node, ReadError};
use crate::model::{Lsn, NamespaceId, ShardId};
use crate::pipeline::Disk;
use crate::state::StateStats;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// What a shard counted since its node was opened. One thread at a time adds to them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    batches: AtomicU64,
    bytes: AtomicU64,
    records: AtomicU64,
    rejected: AtomicU64,
}

impl Counters {
    /// Bytes of batches applied.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// These were applied in one change: statistics, so the order in which others see them does not matter.
    pub(super) fn applied(&self, batches: u64, bytes: u64, records: u64, rejected: u64) {
        let counts =
            [(&self.batches, batches), (&self.bytes, bytes), (&self.records, records), (&self.rejected, rejected)];
        for (counter, more) in counts {
            counter.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// A node in numbers. Counters begin at 0 with each opening; the numbers of different shards are not of one moment.
///
/// ```
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// node.default_namespace().put("a", "1")?.wait()?;
/// let stats = node.stats()?;
/// println!("{} syncs, a write took {} µs", stats.log.syncs, stats.lanes[0].write.p99);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeStats {
    /// The log.
    pub log: towline_wal::Stats,
    /// How long the log's device has kept somebody waiting now; none: nobody waits.
    pub log_waiting: Option<Duration>,
    /// What reading the log again came to.
    pub scrub: ScrubStats,
    /// The state.
    pub state: StateStats,
    /// Where time goes, of each thread that seals with those that apply for it.
    pub lanes: Vec<LaneStats>,
    /// The shards, by namespace.
    pub shards: Vec<ShardStats>,
}

/// What the scrubber has done since the node was opened: it reads the log again and again, to find what rots at rest.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let scrub = node.stats()?.scrub;
/// assert_eq!(scrub.damaged_ranges, 0, "look at the disk");
/// let long_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
/// assert!(scrub.last_pass.is_none_or(|last| last > long_ago), "it takes too long: let it read faster");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubStats {
    /// How often it has read the whole log.
    pub passes: u64,
    /// Bytes of batches that were as they had been written.
    pub bytes: u64,
    /// Ranges of the log that can't be read. What stays damaged is counted in each pass.
    pub damaged_ranges: u64,
    /// When it had read the whole log last; none: it has not yet.
    pub last_pass: Option<SystemTime>,
    /// How many damaged ranges that pass found.
    pub last_pass_damaged_ranges: u64,
}

/// One shard in numbers.
///
/// ```
/// use towline::model::{Expect, Write};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let lock = Write::new().expect("lock", Expect::Absent).put("lock", "me");
/// for _ in 0..2 {
///     node.default_namespace().write(&lock)?.wait()?;
/// }
/// let stats = node.stats()?;
/// let shard = &stats.shards[0];
/// assert_eq!((shard.records, shard.rejected), (2, 1), "the second found the lock taken");
/// assert_eq!(shard.applied.distance_to(shard.end), Some(0), "nothing waits to be applied");
/// assert!(shard.is_serving && shard.failure.is_none() && shard.full_disk.is_none());
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Its namespace.
    pub namespace: NamespaceId,
    /// The shard.
    pub shard: ShardId,
    /// Whether it takes writes.
    pub is_serving: bool,
    /// Why it has stopped, if it has.
    pub failure: Option<String>,
    /// The disk for whose want of room it takes no writes, if that is so.
    pub full_disk: Option<Disk>,
    /// Everything up to here was let go of the log.
    pub released: Lsn,
    /// Everything up to here is in the state.
    pub applied: Lsn,
    /// Everything up to here is durable.
    pub durable: Lsn,
    /// The last record.
    pub end: Lsn,
    /// Bytes that wait in its queue.
    pub queue_bytes: usize,
    /// Callers that wait for room in it.
    pub queue_waiting: usize,
    /// Holds on its log: one of each feed, one of each follower that it knows, here or not, and one of each backup under way. A
    /// follower that is here counts twice, its feed and its name; who stayed where it is for too long holds nothing any more.
    pub pins: usize,
    /// Ranges of its log that can't be read now.
    pub damaged_ranges: usize,
    /// Batches applied.
    pub batches: u64,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// Records applied that have an outcome, rejected ones among them: writes, and what begins, ends and expires sessions. Those
    /// of replication itself are not counted.
    pub records: u64,
    /// Those of them that had no effect: also a session that was one too many, or had ended before it was closed.
    pub rejected: u64,
    /// Snapshots of its state that were offered to other nodes.
    pub snapshots_given: u64,
    /// Bytes of their parts that were read for them.
    pub snapshot_bytes_given: u64,
    /// Bytes of parts of snapshots that came from other nodes.
    pub snapshot_bytes_taken: u64,
    /// Parts of those that were found damaged, and came once more.
    pub snapshot_parts_damaged: u64,
    /// How often its state was replaced by one.
    pub snapshots_installed: u64,
}

impl Node {
    /// The node in numbers.
    ///
    /// ```
    /// # use towline::node::{Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// node.default_namespace().put("a", "1")?.wait()?;
    /// let stats = node.stats()?;
    /// let shard = &stats.shards[0];
    /// assert!(shard.is_serving && shard.records == 1 && shard.applied == shard.end);
    /// assert!(stats.log.syncs > 0 && stats.state.memory_bytes > 0);
    /// assert!(stats.lanes[0].write.count > 0, "how long a write takes, and in which stage");
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The state can't be read, or the node is closed.
    pub fn stats(&self) -> Result<NodeStats, ReadError> {
        let (shared, wal) = (&self.shared, &self.shared.host.wal);
        let state = shared.gate.with(|store| store.stats()).ok_or(ReadError::Closed)??;
        let of_shard = |shard: &Arc<ShardHandle>| {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counters = &shard.counters;
            ShardStats {
                namespace: shard.descriptor.namespace,
                shard: shard.descriptor.shard,
                is_serving: shard.positions.serving().is_some(),
                failure: shard.health.failure(),
                full_disk: shard.queue.full_disk(),
                // In the order of the chain of positions: each may have moved on before the next is read, none falls behind.
                released: wal.start_of(shard.log).lsn,
                applied: shard.positions.applied(),
                durable: wal.durable_end(shard.log).lsn,
                end: wal.end(shard.log).lsn,
                queue_bytes: shard.queue.bytes(),
                queue_waiting: shard.queue.waiting(),
                pins: shard.pins.count(),
                damaged_ranges: shard.positions.damaged(),
                batches: load(&counters.batches),
                bytes: load(&counters.bytes),
                records: load(&counters.records),
                rejected: load(&counters.rejected),
                snapshots_given: load(&shard.snapshots.given),
                snapshot_bytes_given: load(&shard.snapshots.given_bytes),
                snapshot_bytes_taken: load(&shard.snapshots.taken_bytes),
                snapshot_parts_damaged: load(&shard.snapshots.damaged_parts),
                snapshots_installed: load(&shard.snapshots.installed),
            }
        };
        let shards = shared.registry.shards().iter().map(of_shard).collect();
        let lanes = shared.host.workers.iter().map(|worker| worker.stages.stats()).collect();
        let scrub = shared.scrubbed.lock().clone();
        Ok(NodeStats { log: wal.stats(), log_waiting: wal.io_under_way(), scrub, state, lanes, shards })
    }
}

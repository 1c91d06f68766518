//! Every bound of the engine, with its unit and its reason (I10). Configuration may tighten them.
//!
//! The log has its own (`towline_wal::limits`), and so has the transport (`towline_net::limits`); the
//! assertions at the end of this file say how they fit together.

use std::time::Duration;

/// A user's key or stream name, in bytes: what a RocksDB key holds comfortably.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// A value or an event, in bytes: larger things belong in an object store, with a reference here.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The metadata of an event, in bytes: provenance, not content.
pub const METADATA_BYTES_MAX: usize = 4 * 1024;
/// One write as a record, in bytes, with everything in it.
pub const WRITE_BYTES_MAX: usize = 32 * 1024 * 1024 - 4 * 1024;
/// Operations of one write: it is applied as one step, and must not stop the others for long.
pub const OPERATIONS_MAX: usize = 10_000;
/// Preconditions of one write: as many as operations.
pub const PRECONDITIONS_MAX: usize = 10_000;
/// The name of a namespace, in bytes: it stands in paths, metrics and command lines.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 128;
/// Namespaces of a node, dropped ones among them until nothing is left of what they held.
pub const NAMESPACES_MAX: usize = 4096;
/// Shards of one namespace.
pub const SHARDS_OF_NAMESPACE_MAX: usize = 1024;
/// Shards of one node: at each opening every one of them writes, and has some kilobytes of memory from there on.
pub const SHARDS_MAX: usize = 16 * 1024;
/// Everything that the catalog holds, as one record, in bytes: it is read whole at each opening.
pub const CATALOG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes of the catalog after which it is written as a whole again: what an opening reads at the most.
pub const CATALOG_CHANGES_MAX: usize = 256;
/// Requests of one session between the lowest that its client still waits for and the newest: what is kept of them is
/// bounded by it.
pub const REQUESTS_WAITING_MAX: u64 = 16 * 1024;
/// Sessions that a shard knows at one time, unless its namespace's policy says otherwise.
pub const SESSIONS_DEFAULT: u64 = 1_000_000;
/// How long a session is known that is not used, unless its namespace's policy says otherwise: a week.
pub const SESSION_IDLE_SECONDS_DEFAULT: u64 = 7 * 24 * 60 * 60;
/// Voters of a shard: seven survive three losses; more only slow the majority.
pub const VOTERS_MAX: usize = 7;
/// Learners of a shard at one time.
pub const LEARNERS_MAX: usize = 8;
/// Epochs that a log summary names: one for each change of leader since the log began. Older ones are left
/// out from the front; a log that diverged further back is brought in by a snapshot.
pub const EPOCHS_NAMED_MAX: usize = 1024;
/// Damaged ranges that a replica names to others: more are told as one.
pub const DAMAGED_RANGES_NAMED_MAX: usize = 64;
/// A message between nodes, in bytes, batches included: at least one batch of the largest size fits.
pub const MESSAGE_BYTES_MAX: usize = 40 * 1024 * 1024;
/// Batches in one `Append`: bounds the work of one step.
pub const APPEND_BATCHES_MAX: usize = 256;

/// The sequencer closes a batch at this many bytes of records (a single larger record makes its own batch):
/// a sync costs the same up to 64 KiB, and a megabyte keeps the disk busy without holding up the wire.
pub const BATCH_BYTES_TARGET: usize = 1024 * 1024;
/// The sequencer closes a batch at this many records.
pub const BATCH_RECORDS_MAX: u32 = 8 * 1024;
/// Bytes of submissions that a shard's queue holds before producers wait or get `Busy`.
pub const QUEUE_BYTES_DEFAULT: usize = 16 * 1024 * 1024;
/// Submissions that a shard's queue holds: four callers with a thousand receipts each, in about 400 KiB if it is full.
pub const QUEUE_SLOTS_DEFAULT: usize = 4 * 1024;
/// Bytes of sealed batches of a shard that are not yet applied here before the sequencer pauses: it bounds what a slow
/// majority, or a slow state, can cost.
pub const UNAPPLIED_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Bytes given to a node's log by all its shards and not yet durable before they take no more, of clients or of peers: a slow
/// disk becomes waiting, never memory.
pub const UNDURABLE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that the log's queue of a node holds beside what each thread that takes steps may put on top of it: what is not
/// durable yet, and room for promises and their like. So the log never refuses for want of room what a replica has already
/// decided.
pub const LOG_QUEUE_BYTES: usize = UNDURABLE_BYTES_MAX + 4 * 1024 * 1024;
/// Bytes of the largest step of one thread.
pub const LOG_STEP_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// The smallest segment of a node's log: it holds a batch of the largest size, with what lies around it.
pub const LOG_SEGMENT_BYTES_MIN: u64 = 48 * 1024 * 1024;
/// Reads of the log that one peer may have waiting: one to catch up, and those of a conversation that began anew.
pub const PEER_READS_MAX: usize = 8;
/// Bytes sent to one follower and not yet durable there. More waits in the log, not in memory.
pub const FOLLOWER_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of messages of a shard that wait for one peer while the connection to it, which all shards share, takes no more: what a
/// follower's window holds, and what else is answered. Beyond that it reads nothing, and is disconnected.
pub const PEER_BACKLOG_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// Bytes of recent batches that a leader keeps in memory for followers that are nearly caught up.
pub const TAIL_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of one read of the log for a follower that is behind.
pub const CATCH_UP_READ_BYTES: usize = 1024 * 1024;
/// Bytes at which a chunk of a snapshot is full: as much as a read of the log for a follower that is behind.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// The largest chunk: one entry is always whole, however large its value.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 20 * 1024 * 1024;
/// Chunks of one snapshot: 16 TiB of them, which no shard holds; it bounds what a peer can make another expect.
pub const SNAPSHOT_CHUNKS_MAX: u32 = 16 * 1024 * 1024;
/// How long a leader goes on without a majority of its voters, unless it was opened with another bound: longer than a sync of a
/// sick disk or a new dial takes, and still a time for which a client waits.
pub const QUORUM_LOST_AFTER_DEFAULT: Duration = Duration::from_secs(5);

/// Bytes of batches, uncompressed, that are applied in one change: all of it is in memory until then. At least one batch is.
pub const APPLY_RAW_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = {
    assert!(KEY_BYTES_MAX + METADATA_BYTES_MAX + VALUE_BYTES_MAX < WRITE_BYTES_MAX);
    assert!(WRITE_BYTES_MAX < MESSAGE_BYTES_MAX);
    // One batch, however large, and the message around it.
    assert!(towline_wal::limits::BATCH_BYTES_MAX + 64 * 1024 <= MESSAGE_BYTES_MAX);
    // One entry, however large: its value, what stands before it, and its key, of which each byte may be two.
    assert!(VALUE_BYTES_MAX + METADATA_BYTES_MAX + 2 * KEY_BYTES_MAX + 1024 <= SNAPSHOT_CHUNK_BYTES_MAX);
    assert!(SNAPSHOT_CHUNK_BYTES_MAX + 64 * 1024 <= MESSAGE_BYTES_MAX);
    assert!(CATALOG_BYTES_MAX < WRITE_BYTES_MAX);
    assert!(SHARDS_OF_NAMESPACE_MAX <= SHARDS_MAX);
    assert!(
        2 * SHARDS_MAX < towline_wal::limits::LOGS_MAX,
        "each has a log, and one that it had before may not be gone yet"
    );
    assert!(BATCH_BYTES_TARGET <= WRITE_BYTES_MAX);
    assert!(BATCH_BYTES_TARGET <= FOLLOWER_WINDOW_BYTES);
    assert!(FOLLOWER_WINDOW_BYTES <= MESSAGE_BYTES_MAX);
    assert!(KEY_BYTES_MAX <= u16::MAX as usize);
};

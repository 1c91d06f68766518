//! Every bound of the log: its unit, its default and its reason, and how the bounds relate (I10).
//!
//! Configuration may tighten them; formats may never exceed them.

/// Bytes of one block of the files: a write group starts on such a boundary and is padded to it, and no block that
/// holds durable bytes is written again. 4 KiB is the page of every system we run on or a divisor of it, and
/// what disks write without reading first.
pub const BLOCK_BYTES: u64 = 4096;

/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 96;

/// Bytes of a block's header inside a batch's payload.
pub const PAYLOAD_BLOCK_HEADER_BYTES: usize = 16;

/// Bytes of a batch's payload after decompression: what a reader must be ready to hold for one batch.
pub const BATCH_RAW_BYTES_MAX: usize = 32 << 20;

/// Blocks in one batch: one per submitter. 4,096 submitters in one batch are more than a ring holds.
pub const BATCH_BLOCKS_MAX: usize = 4096;

/// Records in one batch. Bounds what a reader prepares for before it has read one of them.
pub const BATCH_RECORDS_MAX: u32 = 1 << 20;

/// Bytes of a whole batch on disk or wire. Stored blocks are never larger than raw ones (a block that does not
/// shrink is stored raw), so this is the raw bound and the headers.
pub const BATCH_BYTES_MAX: usize =
    BATCH_RAW_BYTES_MAX + BATCH_BLOCKS_MAX * PAYLOAD_BLOCK_HEADER_BYTES + BATCH_HEADER_BYTES;

/// Raw bytes below which a block is not compressed: the gain is under a sector, the cost is a context.
pub const COMPRESS_BYTES_MIN: usize = 4096;

/// A compressed block is kept when it has at most this share (percent) of the raw bytes; above it readers would
/// pay for nothing.
pub const COMPRESS_PERCENT_MAX: usize = 90;

/// Bytes of one hard state: a vote, an assignment. Not a place for data.
pub const HARD_STATE_BYTES_MAX: usize = 4096;

/// Bytes of a group's header.
pub const GROUP_HEADER_BYTES: usize = 128;

/// Bytes of a group's own directory. A group closes when it is full; the next group repeats it, so recovery
/// reads at most twice as much for one group.
pub const GROUP_DIRECTORY_BYTES_MAX: usize = 1 << 20;

/// Bytes of batches gathered into one group, unless a single batch is larger. Beyond a few MiB a larger
/// write gains no throughput and only delays those who wait for it.
pub const GROUP_BYTES_DEFAULT: usize = 4 << 20;

/// Bytes of a whole group on disk: the largest batch, or the configured maximum, with two directories, the
/// header and the padding.
pub const GROUP_BYTES_MAX: u64 =
    BATCH_BYTES_MAX as u64 + 2 * GROUP_DIRECTORY_BYTES_MAX as u64 + GROUP_HEADER_BYTES as u64 + BLOCK_BYTES;

/// Bytes of a segment file: large enough that rotation is rare, small enough that zero-filling one ahead and
/// reading one at recovery take a fraction of a second.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// The smallest segment: a header, a small group, a footer. For tests and simulation.
pub const SEGMENT_BYTES_MIN: u64 = 16 * BLOCK_BYTES;

/// The largest segment: offsets inside a segment are 32 bits wide in directories and in memory.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a segment header for the live segments, named by ranges of numbers, beyond which no hole is made among them. A
/// range takes 2 bytes, or 3 if it lies more than 128 numbers behind the one before: 1,100 to 1,650 have their room. Where
/// much is kept of what is long gone, each of them is one full segment.
pub const LIVE_BYTES_KEPT_MAX: usize = 3300;

/// Segments that one compacted segment may replace.
pub const SOURCES_MAX: usize = 96;

/// Segments kept ready (zero-filled, synced) beyond the active one: rotation never waits for a fill. That there is no room for
/// one more is known when a rotation has taken one, and then [`SEGMENTS_RESERVED`] are left.
pub const SEGMENTS_AHEAD_DEFAULT: u32 = SEGMENTS_RESERVED + 1;

/// Ready segments that batches leave to what gives room back, and to the next opens, when no more can be made. The first open
/// takes one, and keeps what it says there, since the segment before has batches. The next one takes the other, and has with it
/// the file of the first one again, and so on.
pub const SEGMENTS_RESERVED: u32 = 2;

/// Bytes of entries accepted and not yet durable. Beyond it a submission is `Busy`: a slow disk becomes waiting
/// at the producer, never memory.
pub const QUEUE_BYTES_DEFAULT: usize = 64 << 20;

/// Write groups in flight (written or being written, not yet durable). One is serial group commit: the next
/// group gathers while the last one syncs.
pub const GROUPS_IN_FLIGHT_DEFAULT: u32 = 1;

/// More groups in flight than this never helped a disk, and recovery's hole (table row G9) is as wide.
pub const GROUPS_IN_FLIGHT_MAX: u32 = 16;

/// Groups whose waiters are handed over and not yet told. Calls that take long then hold up writes, not memory.
pub const GROUPS_TOLD_MAX: usize = 16;

/// Bytes of one footer: per log and per batch some dozens of bytes. Rotation happens before a footer would outgrow
/// it or the room that is left.
pub const FOOTER_BYTES_MAX: usize = 16 << 20;

/// Numbers of segments, groups and incarnations: a file that says more is not ours, and one more never overflows.
pub const NUMBERS_MAX: u64 = 1 << 62;

/// Bytes of index in memory: half a million batches. Of older ones a log keeps one entry a segment.
pub const INDEX_BYTES_DEFAULT: usize = 32 << 20;

/// Bytes of the newest batches in memory: some dozens of groups, for followers that are nearly there.
pub const TAIL_CACHE_BYTES_DEFAULT: usize = 16 << 20;

/// Bytes of loaded indexes of older segments: the last few that readers asked for.
pub const INDEX_CACHE_BYTES_DEFAULT: usize = 16 << 20;

/// Bytes of hard states and the like that one pass writes again, so that the segments that had them can be retired: no
/// more than a group's directory, since writers wait behind them.
pub const RELOCATION_BYTES_MAX: usize = GROUP_DIRECTORY_BYTES_MAX;

/// Segments' worth of dead bytes that are left alone: what a burst of releases frees is often whole a moment later.
pub const SLACK_SEGMENTS_DEFAULT: u32 = 4;

/// Bytes a second of compaction, read and written: two segments a second, a small part of what a disk of today moves.
pub const BACKGROUND_BYTES_PER_SECOND_DEFAULT: u64 = 128 << 20;

/// Segments that one compaction takes at once: it reads each, and holds no more than one in memory.
pub const COMPACTION_SOURCES_MAX: usize = 32;

/// Bytes of batches in one group of a compacted segment, unless a single batch is larger.
pub const COMPACTED_GROUP_BYTES_MAX: usize = 1 << 20;

/// Missing segments that an open lists before it refuses: a directory that lost more has no log to speak of.
pub const SEGMENTS_MISSING_MAX: usize = 1024;

/// Logs in one write-ahead log: 10,000 shards of a node with room for their predecessors.
pub const LOGS_MAX: usize = 1 << 16;

const _: () = assert!(BATCH_RAW_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < u32::MAX as usize, "lengths in headers are 32 bits wide");
const _: () = assert!(GROUP_BYTES_MAX < u32::MAX as u64, "lengths in headers are 32 bits wide");
const _: () = assert!(HARD_STATE_BYTES_MAX * 2 < GROUP_DIRECTORY_BYTES_MAX, "a group holds any single record");
const _: () = assert!(SEGMENT_BYTES_MAX < u32::MAX as u64, "offsets in directories are 32 bits wide");
const _: () = assert!(
    GROUP_BYTES_MAX + BLOCK_BYTES + FOOTER_BYTES_MAX as u64 <= SEGMENT_BYTES_DEFAULT,
    "a default segment holds its header, the largest group and a footer"
);
const _: () =
    assert!(2 * COMPACTION_SOURCES_MAX <= SOURCES_MAX, "each source is named, and the last that it stood for");
const _: () =
    assert!(SEGMENT_BYTES_DEFAULT.is_multiple_of(BLOCK_BYTES) && SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(GROUPS_IN_FLIGHT_DEFAULT <= GROUPS_IN_FLIGHT_MAX);

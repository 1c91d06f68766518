//! Which snapshot: what its parts must add up to.

use super::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_MAX};
use towline_wal::{LogPosition, Lsn};

/// A snapshot of a shard's state, by all that whoever fetches it must know beforehand.
///
/// Two snapshots with the same id are the same bytes: so one that was fetched in part from one node is fetched to its end
/// from another.
///
/// ```
/// use towline::model::{Chain, Epoch, LogPosition, Lsn, SnapshotId};
/// let at = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(9), chain: Chain::new(7) };
/// let id = SnapshotId { at, chunks: 2, bytes: 1_500_000, digest: 0xfeed };
/// assert!(id.is_possible());
/// assert!(!SnapshotId { chunks: 0, ..id }.is_possible(), "a state says at least how far it is");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    /// Everything up to here was applied, and nothing behind it.
    pub at: LogPosition,
    /// In how many chunks it is sent.
    pub chunks: u32,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The hash of all of them, in order: `xxh3` of 128 bits, each chunk behind its length.
    pub digest: u128,
}

impl SnapshotId {
    /// Whether there can be such a snapshot: what a peer says is checked by this before anything is done about it.
    #[must_use]
    pub const fn is_possible(&self) -> bool {
        let bytes_max = self.chunks as u64 * SNAPSHOT_CHUNK_BYTES_MAX as u64;
        self.at.lsn.get() > Lsn::ZERO.get()
            && self.chunks > 0
            && self.chunks <= SNAPSHOT_CHUNKS_MAX
            && self.bytes >= self.chunks as u64
            && self.bytes <= bytes_max
    }
}

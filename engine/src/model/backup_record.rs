//! What a backup is: the one file that makes a folder of files one, written last.

use super::catalog_record::CatalogSnapshot;
use super::codec::{Decode, Encode, Enveloped};
use super::ids::{ClusterId, NodeId, ShardId};
use super::limits::{CATALOG_BYTES_MAX, SHARDS_MAX};

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BackupFile {
    /// Its path within the backup, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 (IEEE) of its content.
    pub crc: u32,
}

/// A position in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BackupPosition {
    /// The epoch's version.
    pub version: u64,
    /// The epoch's term.
    pub term: u32,
    /// The LSN.
    pub lsn: u64,
    /// The chain.
    pub chain: u64,
}

/// One shard's log in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BackupLog {
    /// The shard.
    pub shard: ShardId,
    /// Where the log begins: behind it its batches follow.
    pub start: BackupPosition,
    /// Where it ends, and what the state holds.
    pub end: BackupPosition,
    /// The file of its batches, each behind its length (u32).
    pub file: String,
}

/// Everything about a backup.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BackupManifest {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that it was taken of.
    pub node: NodeId,
    /// When: microseconds since 1970.
    pub time_micros: u64,
    /// Bytes of a segment of the node's log.
    pub segment_bytes: u64,
    /// The namespaces.
    pub catalog: CatalogSnapshot,
    /// The logs, by shard.
    pub logs: Vec<BackupLog>,
    /// All files but this one, by path.
    pub files: Vec<BackupFile>,
}

impl Enveloped for BackupManifest {
    const KIND: u16 = 0x0801;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 2 * CATALOG_BYTES_MAX + 1024 * SHARDS_MAX;
}

//! What a backup is: the one file that makes a folder of files one, written last.

use super::catalog_record::CatalogSnapshot;
use super::codec::{Decode, Encode, Enveloped};
use super::ids::{ClusterId, NodeId, ShardId};
use super::limits::{CATALOG_BYTES_MAX, SHARDS_MAX};

/// A file of a backup.
///
/// ```
/// use towline::model::BackupFile;
/// // What was noted when the file was copied:
/// let noted = BackupFile { path: "log/1024.log".into(), bytes: 5, crc: crc32fast::hash(b"hello") };
/// // And what is checked before it is restored:
/// let is_whole = |found: &[u8]| found.len() as u64 == noted.bytes && crc32fast::hash(found) == noted.crc;
/// assert!(is_whole(b"hello"));
/// assert!(!is_whole(b"hell") && !is_whole(b"hellO"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BackupFile {
    /// Its path within the backup: exactly two parts, a folder (`state` or `log`) and a name in it, with `/` between them.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 (IEEE) of its content.
    pub crc: u32,
}

/// A position in a log.
///
/// ```
/// use towline::model::{BackupPosition, Chain, Epoch, LogId, LogPosition, Lsn};
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let batch = |text: &'static str, behind| {
/// #     let block = Block::encode(text.into(), 1, Compression::Never);
/// #     BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), behind, 0).block(block).seal()
/// # };
/// let log = LogId::new(1);
/// let LogPosition { epoch, lsn, chain } = LogPosition::origin(log);
/// let start = BackupPosition { version: epoch.version, term: epoch.term, lsn: lsn.get(), chain: chain.get() };
///
/// // A restoration has the same position of it again: the backup's first batch must follow.
/// let epoch = Epoch::new(start.version, start.term);
/// let restored = LogPosition { epoch, lsn: Lsn::new(start.lsn), chain: Chain::new(start.chain) };
/// assert!(batch("first", LogPosition::origin(log))?.follows(&restored));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use towline::model::{BackupLog, BackupPosition, ShardId};
/// # use towline::model::{Epoch, LogId, LogPosition};
/// use towline_wal::Batch;
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let batch = |text: &'static str, behind| {
/// #     let block = Block::encode(text.into(), 1, Compression::Never);
/// #     BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), behind, 0).block(block).seal()
/// # };
/// # let of = |at: LogPosition| {
/// #     BackupPosition { version: at.epoch.version, term: at.epoch.term, lsn: at.lsn.get(), chain: at.chain.get() }
/// # };
/// # let origin = LogPosition::origin(LogId::new(1));
/// # let one = batch("one", origin)?;
/// # let two = batch("two", one.position())?;
/// # let (start, end) = (of(origin), of(two.position()));
/// # let mut bytes = Vec::new();
/// # for batch in [&one, &two] {
/// #     bytes.extend(u32::try_from(batch.bytes().len())?.to_le_bytes());
/// #     bytes.extend_from_slice(batch.bytes());
/// # }
/// let log = BackupLog { shard: ShardId::new(1024), start, end, file: "log/1024.log".into() };
/// // `bytes` is what the file holds.
/// let (mut rest, mut last) = (bytes.as_slice(), log.start.lsn);
/// while let Some((length, behind)) = rest.split_first_chunk() {
///     let (batch, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
///     (rest, last) = (behind, Batch::decode(batch.to_vec().into())?.last_lsn().get());
/// }
/// assert_eq!(last, log.end.lsn);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BackupLog {
    /// The shard.
    pub shard: ShardId,
    /// Where the log begins: behind it its batches follow.
    pub start: BackupPosition,
    /// Where it ends, and what the state holds.
    pub end: BackupPosition,
    /// The file of its batches, each behind its length (u32, little-endian); its path is made as [`BackupFile::path`].
    pub file: String,
}

/// Everything about a backup.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::{BackupManifest, ClusterId, CodecError, NodeId, codec};
/// let manifest = BackupManifest {
///     cluster: ClusterId::new([7; 16]),
///     node: NodeId::new(1),
///     time_micros: 0,
///     segment_bytes: 64 << 20,
///     catalog: Catalog::initial().snapshot(),
///     logs: vec![],
///     files: vec![],
/// };
/// let mut bytes = codec::encode(&manifest)?.to_vec();
/// assert_eq!(codec::decode::<BackupManifest>(&bytes)?, manifest);
/// bytes[20] ^= 1;
/// assert!(matches!(codec::decode::<BackupManifest>(&bytes), Err(CodecError::Checksum { .. })));
/// # Ok::<(), CodecError>(())
/// ```
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

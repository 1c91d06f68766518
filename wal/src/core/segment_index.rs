//! What a sealed segment holds, batch by batch: read from its footer when somebody asks, kept while there is room.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::ids::{Chain, LogId, Lsn};
use crate::io::{Io, IoFailure};
use crate::limits::INDEX_CACHE_BYTES_DEFAULT;

/// One batch of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) chain: Chain,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// Which segment's index to load, and how to know that it is the right one.
///
/// ```
/// use towline_wal::{LogCore, Lsn, Options, ReadError};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = long();
/// // `disk` holds a log that is longer than what of it may be kept in memory.
/// let (mut core, _) = LogCore::recover(&mut disk, &Options { index_bytes_max: 0, ..options }).unwrap();
/// let unknown = core.plan_read(log, Lsn::FIRST, 1 << 20);
/// assert!(matches!(unknown, Err(ReadError::NotLoaded { segment: 1 })));
/// let request = core.index_needed(log, Lsn::FIRST).unwrap();
/// core.install_index(request.load(&mut disk));
/// assert!(core.plan_read(log, Lsn::FIRST, 1 << 20).is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexRequest {
    pub(crate) directory: [u8; 16],
    pub(crate) segment: u64,
    /// The activation: a compacted segment has the number of the one that it replaced, and another salt.
    pub(crate) salt: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) first_group: u64,
    pub(crate) last_group: u64,
    pub(crate) compacted: bool,
}

impl IndexRequest {
    /// Reads the segment's index: from its footer, or, if that is damaged by now, from its groups. What the device
    /// refuses to read now is asked for again the next time.
    #[must_use]
    pub fn load(&self, io: &mut dyn Io) -> SegmentIndex {
        let (logs, failure) = crate::recovery::index::load(io, self);
        let logs: BTreeMap<LogId, Vec<IndexEntry>> = logs.into_iter().collect();
        let entries: usize = logs.values().map(Vec::len).sum();
        let bytes = entries * size_of::<IndexEntry>() + logs.len() * 64;
        SegmentIndex { segment: self.segment, salt: self.salt, bytes, logs: Arc::new(logs), failure }
    }
}

/// A segment's index, for [`crate::LogCore::install_index`].
///
/// ```
/// use towline_wal::{LogCore, Lsn, Options};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = long();
/// let (mut core, _) = LogCore::recover(&mut disk, &Options { index_bytes_max: 0, ..options }).unwrap();
/// // Read without the core, so that others go on with it meanwhile.
/// let request = core.index_needed(log, Lsn::FIRST).unwrap();
/// let index = request.load(&mut disk);
/// core.install_index(index);
/// assert_eq!(core.index_needed(log, Lsn::FIRST), None);
/// assert!(core.position_at(log, Lsn::FIRST).is_some(), "and where batches end is known");
/// ```
#[derive(Debug, Clone)]
pub struct SegmentIndex {
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    bytes: usize,
    logs: Arc<BTreeMap<LogId, Vec<IndexEntry>>>,
    failure: Option<IoFailure>,
}

impl SegmentIndex {
    /// Some of it could not be read, which may be otherwise the next time.
    pub(crate) const fn is_partial(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) fn logs(&self) -> &BTreeMap<LogId, Vec<IndexEntry>> {
        &self.logs
    }
}

/// The indexes in memory, the most recently loaded last.
#[derive(Debug, Clone)]
pub(crate) struct IndexCache {
    indexes: Vec<SegmentIndex>,
    bytes_max: usize,
}

impl Default for IndexCache {
    fn default() -> Self {
        Self { indexes: Vec::new(), bytes_max: INDEX_CACHE_BYTES_DEFAULT }
    }
}

/// No batch of the log: the segment's index is there, the log is not in it.
const NONE: &[IndexEntry] = &[];

impl IndexCache {
    /// The log's batches in a segment; `None`: not loaded.
    pub(crate) fn entries(&self, segment: u64, log: LogId) -> Option<&[IndexEntry]> {
        let index = self.indexes.iter().find(|index| index.segment == segment)?;
        Some(index.logs.get(&log).map_or(NONE, Vec::as_slice))
    }

    /// Whether all that there is of a segment's index is here.
    pub(crate) fn is_whole(&self, segment: u64) -> bool {
        self.indexes.iter().any(|index| index.segment == segment && index.failure.is_none())
    }

    /// Why not all of a segment's index could be read.
    pub(crate) fn failure(&self, segment: u64) -> Option<&IoFailure> {
        self.indexes.iter().find(|index| index.segment == segment)?.failure.as_ref()
    }

    /// Keeps an index, and gives up the oldest ones beyond the bound. The newest always stays: otherwise who asked for
    /// it would ask for ever.
    pub(crate) fn insert(&mut self, index: SegmentIndex) {
        self.forget(index.segment);
        self.indexes.push(index);
        let mut bytes: usize = self.indexes.iter().map(|index| index.bytes).sum();
        while bytes > self.bytes_max && self.indexes.len() > 1 {
            bytes -= self.indexes.remove(0).bytes;
        }
    }

    pub(crate) fn forget(&mut self, segment: u64) {
        self.indexes.retain(|index| index.segment != segment);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.indexes.iter().map(|index| index.bytes).sum()
    }
}

//! The state on disk: RocksDB behind the [`Store`] trait, its own log off.
//!
//! The node's log is the log: every write here goes without RocksDB's, and what a crash takes away is replayed
//! from the position that the last finished flush holds ([`RocksStore::persisted_applied`]). Flushes are atomic
//! across families, so that position is never ahead of the entries, nor behind them. The types to know are
//! [`RocksStore`], [`RocksWriter`], its one writer, and [`RocksSnapshot`], its content at one moment.

#[cfg(feature = "sim")]
mod crashing;
mod options;
#[cfg(test)]
mod rocks_test;
mod statistics;

use super::change_set::{Change, ChangeSet};
use super::follower::FollowerEntry;
use super::key;
use super::store::{Family, Order, Store, StoreError, View, Visitor};
use crate::model::{LogPosition, ShardId};
#[cfg(feature = "sim")]
pub(crate) use crashing::CrashingStore;
pub use options::RocksOptions;
use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, DBRawIterator, ErrorKind, FlushOptions, ReadOptions,
    ReadTier, Snapshot, WriteBatch, WriteOptions,
};
use statistics::Statistics;
pub use statistics::{RocksTimes, StateStats, StatisticsLevel};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The families of all shards of a node, in one RocksDB.
///
/// Reads go on while one writer commits: a [`RocksWriter`] shares the store with its readers.
///
/// ```
/// use towline::state::{ChangeSet, Family, RocksStore, Store, View};
/// let directory = tempfile::tempdir()?;
/// let mut store = RocksStore::open(&directory.path().join("state"))?;
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"k", b"v");
/// store.commit(&changes)?;
/// assert_eq!(store.get(Family::Values, b"k")?, Some(b"v".to_vec()));
/// store.flush()?; // from here on a crash leaves it there
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RocksStore {
    db: DB,
    writes: WriteOptions,
    /// As `writes`, but fails where those would wait.
    writes_now: WriteOptions,
    statistics: Statistics,
    compacting: Mutex<()>,
}

/// The writer of a [`RocksStore`] that others read meanwhile.
///
/// ```
/// use std::sync::Arc;
/// use towline::state::{ChangeSet, Family, RocksStore, RocksWriter, Store, View};
/// let directory = tempfile::tempdir()?;
/// let store = Arc::new(RocksStore::open(&directory.path().join("state"))?);
/// let mut writer = RocksWriter::new(Arc::clone(&store));
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"k", b"v");
/// writer.commit(&changes)?;
/// assert_eq!(store.get(Family::Values, b"k")?, Some(b"v".to_vec()), "whoever has the store sees it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RocksWriter {
    store: Arc<RocksStore>,
    waits: bool,
}

impl RocksWriter {
    /// A writer of this store. Of each shard there must be one only: what it computes from the shard's state, it writes.
    #[must_use]
    pub const fn new(store: Arc<RocksStore>) -> Self {
        Self { store, waits: true }
    }

    /// Whether a commit waits while flushes and compactions have to catch up (it does, until told otherwise), or
    /// fails with [`StoreError::Stalled`].
    pub const fn set_waits(&mut self, waits: bool) {
        self.waits = waits;
    }

    /// The store, to read or flush it.
    #[must_use]
    pub const fn shared(&self) -> &Arc<RocksStore> {
        &self.store
    }
}

/// The content of a [`RocksStore`] at one moment, however much is written meanwhile.
///
/// ```
/// use std::sync::Arc;
/// use towline::state::{ChangeSet, Family, RocksStore, RocksWriter, Store, View};
/// # let directory = tempfile::tempdir()?;
/// let store = Arc::new(RocksStore::open(&directory.path().join("state"))?);
/// let snapshot = store.snapshot();
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"k", b"v");
/// RocksWriter::new(Arc::clone(&store)).commit(&changes)?;
/// assert_eq!(snapshot.get(Family::Values, b"k")?, None);
/// assert_eq!(store.get(Family::Values, b"k")?, Some(b"v".to_vec()));
/// assert_eq!(store.stats()?.snapshots, 1, "as long as it is there, nothing that it shows is let go");
/// # drop(snapshot);
/// # assert_eq!(store.stats()?.snapshots, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RocksSnapshot<'a> {
    store: &'a RocksStore,
    snapshot: Snapshot<'a>,
}

impl RocksStore {
    /// Opens the state in a directory, or makes it, with the options of a small node.
    ///
    /// # Errors
    /// [`StoreError::Open`]: the directory can't be made or opened, or is in use; [`StoreError::Newer`]: a newer
    /// release wrote it; [`StoreError::Damaged`]: its files are.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with(directory, &RocksOptions::default())
    }

    /// As [`RocksStore::open`], with these options.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_with(directory: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Open { path: directory.to_owned(), reason };
        create_durably(directory).map_err(|error| refused(error.to_string()))?;
        let database = options.database();
        if directory.join("CURRENT").exists() {
            let found = DB::list_cf(&database, directory).map_err(|error| refused(error.into_string()))?;
            let known = |name: &&String| *name == "default" || Family::ALL.iter().any(|family| family.name() == *name);
            if let Some(family) = found.iter().find(|name| !known(name)) {
                return Err(StoreError::Newer { path: directory.to_owned(), family: family.clone() });
            }
        }
        let db =
            DB::open_cf_descriptors(&database, directory, options.families()).map_err(|error| match error.kind() {
                ErrorKind::Corruption => StoreError::Damaged { what: "opening", reason: error.into_string() },
                _ => refused(error.into_string()),
            })?;
        let options = |no_slowdown| {
            let mut options = WriteOptions::default();
            // Otherwise each write would go to two logs, and RocksDB's replay would not stop where ours begins.
            options.disable_wal(true);
            options.set_no_slowdown(no_slowdown);
            options
        };
        Ok(Self {
            db,
            writes: options(false),
            writes_now: options(true),
            statistics: Statistics::new(database),
            compacting: Mutex::default(),
        })
    }

    /// Writes everything committed so far to files, and waits until they are durable.
    ///
    /// # Errors
    /// A file can't be written. Nothing is lost: the log replays it.
    pub fn flush(&self) -> Result<(), StoreError> {
        let _span = tracing::debug_span!("flush").entered();
        let families = Family::ALL.into_iter().map(|family| self.family(family)).collect::<Result<Vec<_>, _>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        // DURABLE: RocksDB syncs the new files and then the manifest that names them, all families in one edit;
        // attacked by what_was_flushed_is_there_after_a_kill_and_the_rest_is_replayed.
        self.db.flush_cfs_opt(&families, &options).map_err(|error| backend("flushing", error))
    }

    /// Rewrites all files, while others read and write: what was deleted or overwritten before is in none of them afterwards (but
    /// for snapshots that are held, and files that somebody reads still). It reads and writes the whole state once.
    ///
    /// # Errors
    /// A file can't be read or written. Nothing is lost.
    pub fn compact(&self) -> Result<(), StoreError> {
        let _span = tracing::info_span!("compact").entered();
        self.flush()?;
        // One at a time: each sets an option, and sets it back.
        let alone = self.compacting.lock();
        let failed_before = self.stats()?.background_errors;
        let all: Option<&[u8]> = None;
        let mut options = CompactOptions::default();
        // Also what lies at the bottom, and was compacted before.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for family in Family::ALL {
            let handle = self.family(family)?;
            self.move_large_values(handle, 1.0)?;
            self.db.compact_range_cf_opt(handle, all, all, &options);
            self.move_large_values(handle, options::BLOB_OLD)?;
        }
        drop(alone);
        // The binding tells nothing of a compaction that failed: the count does, also where RocksDB has recovered by now.
        if self.stats()?.background_errors > failed_before {
            let reason =
                "a flush or compaction failed meanwhile: what was deleted may still be in the files".to_owned();
            return Err(StoreError::Backend { what: "compacting", reason });
        }
        Ok(())
    }

    /// In which part of the files of large values, the oldest first, a compaction moves what it passes.
    fn move_large_values(&self, family: &ColumnFamily, part: f64) -> Result<(), StoreError> {
        let part = part.to_string();
        let set = self.db.set_options_cf(family, &[("blob_garbage_collection_age_cutoff", part.as_str())]);
        set.map_err(|error| backend("compacting", error))
    }

    /// What the last finished flush holds of a shard: after a crash the state is there. The log may be released up
    /// to it, and no further. None: nothing of the shard was ever flushed.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn persisted_applied(&self, shard: ShardId) -> Result<Option<LogPosition>, StoreError> {
        let mut options = ReadOptions::default();
        // With RocksDB's log off this tier passes over everything that is in memory only.
        options.set_read_tier(ReadTier::Persisted);
        let meta = self.family(Family::Meta)?;
        let entry = self.db.get_pinned_cf_opt(meta, key::applied_key(shard), &options);
        let entry = entry.map_err(|error| backend("reading", error))?;
        entry.map(|entry| key::read_applied(&entry).map(|(_, applied)| applied)).transpose()
    }

    /// The state in numbers.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn stats(&self) -> Result<StateStats, StoreError> {
        let mut stats = StateStats::default();
        let number = |family, property: &str| {
            let found = self.db.property_int_value_cf(self.family(family)?, property);
            found.map(Option::unwrap_or_default).map_err(|error| backend("reading", error))
        };
        for family in Family::ALL {
            stats.memory_bytes += number(family, "rocksdb.cur-size-all-mem-tables")?;
            stats.file_bytes += number(family, "rocksdb.live-sst-files-size")?;
            stats.file_bytes += number(family, "rocksdb.live-blob-file-size")?;
            stats.large_value_files += number(family, "rocksdb.num-blob-files")?;
            stats.compaction_pending_bytes += number(family, "rocksdb.estimate-pending-compaction-bytes")?;
        }
        // These are of all families together.
        stats.cache_bytes = number(Family::Values, "rocksdb.block-cache-usage")?;
        // Counted with the family that every database has, and that holds nothing of ours.
        let errors = self.db.property_int_value("rocksdb.background-errors");
        stats.background_errors = errors.map(Option::unwrap_or_default).map_err(|error| backend("reading", error))?;
        stats.snapshots = number(Family::Values, "rocksdb.num-snapshots")?;
        stats.is_write_stopped = number(Family::Values, "rocksdb.is-write-stopped")? != 0;
        self.statistics.tell(&mut stats);
        Ok(stats)
    }

    /// What the last finished flush holds of a follower of a shard; none: nothing yet.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn persisted_follower(&self, shard: ShardId, name: &str) -> Result<Option<FollowerEntry>, StoreError> {
        let mut options = ReadOptions::default();
        // As of the applied position.
        options.set_read_tier(ReadTier::Persisted);
        let meta = self.family(Family::Meta)?;
        let entry = self.db.get_pinned_cf_opt(meta, key::follower_key(shard, name), &options);
        let entry = entry.map_err(|error| backend("reading", error))?;
        entry.map(|entry| key::read_follower(&entry)).transpose()
    }

    /// Copies the state as it is on the disk to a directory that is not there yet; on the same file system without copying a
    /// byte. All families are of one moment. The copies are not synced.
    ///
    /// # Errors
    /// The directory is there, or a file can't be written.
    pub fn checkpoint(&self, directory: &Path) -> Result<(), StoreError> {
        // All of it: what is in memory only is not in a checkpoint.
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.db).map_err(|error| backend("copying", error))?;
        checkpoint.create_checkpoint(directory).map_err(|error| backend("copying", error))
    }

    /// Opens a state that nobody writes, and writes nothing.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_read_only(directory: &Path) -> Result<Self, StoreError> {
        Self::open_read_only_with(directory, &RocksOptions::default())
    }

    /// As [`RocksStore::open_read_only`], with these options.
    ///
    /// # Errors
    /// As [`RocksStore::open`].
    pub fn open_read_only_with(directory: &Path, options: &RocksOptions) -> Result<Self, StoreError> {
        let mut database = options.database();
        database.create_if_missing(false);
        database.create_missing_column_families(false);
        let opened = DB::open_cf_descriptors_read_only(&database, directory, options.families(), false);
        let db = opened.map_err(|error| match error.kind() {
            ErrorKind::Corruption => StoreError::Damaged { what: "opening", reason: error.into_string() },
            _ => StoreError::Open { path: directory.to_owned(), reason: error.into_string() },
        })?;
        let statistics = Statistics::new(database);
        let (writes, writes_now) = (WriteOptions::default(), WriteOptions::default());
        Ok(Self { db, writes, writes_now, statistics, compacting: Mutex::default() })
    }

    /// The content at this moment.
    #[must_use]
    pub fn snapshot(&self) -> RocksSnapshot<'_> {
        RocksSnapshot { store: self, snapshot: self.db.snapshot() }
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily, StoreError> {
        // All are opened with the database; RocksDB would have refused otherwise.
        let missing = || StoreError::Backend { what: "reading", reason: format!("no family `{}`", family.name()) };
        self.db.cf_handle(family.name()).ok_or_else(missing)
    }

    fn commit_shared(&self, changes: &ChangeSet, options: &WriteOptions) -> Result<(), StoreError> {
        let _span = tracing::trace_span!("commit", changes = changes.len()).entered();
        let mut batch =
            WriteBatch::with_capacity_bytes(BATCH_HEADER_BYTES + changes.bytes() + CHANGE_HEADER_BYTES * changes.len());
        let mut handles = [self.family(Family::Values)?; Family::ALL.len()];
        for (handle, family) in handles.iter_mut().zip(Family::ALL) {
            *handle = self.family(family)?;
        }
        for change in changes.changes() {
            match change {
                Change::Put { family, key, value } => batch.put_cf(handles[family as usize], key, value),
                Change::Delete { family, key } => batch.delete_cf(handles[family as usize], key),
                Change::DeleteRange { family, start, end } => {
                    batch.delete_range_cf(handles[family as usize], start, end)
                }
            }
        }
        self.db.write_opt(batch, options).map_err(|error| match error.kind() {
            ErrorKind::Incomplete => StoreError::Stalled,
            _ => backend("writing", error),
        })
    }
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RocksSnapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksSnapshot").field("of", self.store).finish_non_exhaustive()
    }
}

impl View for RocksStore {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let found = self.db.get_pinned_cf(self.family(family)?, key).map_err(|error| backend("reading", error))?;
        Ok(found.map(|value| look(&value)).is_some())
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let entries = self.db.raw_iterator_cf_opt(self.family(family)?, ReadOptions::default());
        walk(entries, from, order, visit)
    }
}

impl View for RocksSnapshot<'_> {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let family = self.store.family(family)?;
        let found = self.snapshot.get_pinned_cf(family, key).map_err(|error| backend("reading", error))?;
        Ok(found.map(|value| look(&value)).is_some())
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        // A snapshot is read from end to end, once: it must not push what is hot out of the cache.
        options.fill_cache(false);
        let entries = self.snapshot.raw_iterator_cf_opt(self.store.family(family)?, options);
        walk(entries, from, order, visit)
    }
}

impl Store for RocksStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        self.commit_shared(changes, &self.writes)
    }
}

impl View for RocksWriter {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        self.store.show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.store.scan(family, from, order, visit)
    }
}

impl Store for RocksWriter {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        let options = if self.waits { &self.store.writes } else { &self.store.writes_now };
        self.store.commit_shared(changes, options)
    }
}

/// What RocksDB puts before the changes of a batch, and about before each of them.
const BATCH_HEADER_BYTES: usize = 12;
const CHANGE_HEADER_BYTES: usize = 8;

fn walk(mut entries: DBRawIterator<'_>, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
    match order {
        Order::Ascending => entries.seek(from),
        Order::Descending => entries.seek_for_prev(from),
    }
    while let Some((key, value)) = entries.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        match order {
            Order::Ascending => entries.next(),
            Order::Descending => entries.prev(),
        }
    }
    // The end of the entries and an error look the same to the loop: only the status tells.
    entries.status().map_err(|error| backend("reading", error))
}

fn backend(what: &'static str, error: rocksdb::Error) -> StoreError {
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged { what, reason: error.into_string() },
        ErrorKind::IOError if is_no_space(error.as_ref()) => StoreError::DiskFull { what, reason: error.into_string() },
        _ => StoreError::Backend { what, reason: error.into_string() },
    }
}

/// RocksDB has a subcode for a full disk, which does not come through the binding; its text does. Of this error alone it
/// recovers by itself, once there is room: a quota that is used up is another one to it, after which it has to be reopened.
fn is_no_space(message: &str) -> bool {
    message.contains("No space left on device")
}

/// Makes a directory and those above it that are missing, and syncs the parent of each: RocksDB syncs what is in
/// its directory, not the entry by which it is found (otherwise a power loss takes away a state that the log was
/// released for).
fn create_durably(directory: &Path) -> std::io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or_else(|| Path::new(""));
    create_durably(parent)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

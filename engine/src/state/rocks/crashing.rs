//! RocksDB under the simulator: the same store, in a directory of its own, that a crash takes back to what was flushed.

use super::{RocksStore, backend};
use crate::state::store::{Order, Store, StoreError, View, Visitor};
use crate::state::{ChangeSet, Family};
use rocksdb::checkpoint::Checkpoint;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of this process.
static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

/// A [`RocksStore`] in a temporary directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct CrashingStore {
    /// None: nobody has it open, for the moment.
    store: Option<RocksStore>,
    life: PathBuf,
    directory: PathBuf,
    lives: u64,
}

impl CrashingStore {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, StoreError> {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        // No power cut is real here: a disk's syncs would only take time, nine parts of ten.
        let memory = Some(Path::new("/dev/shm")).filter(|memory| has_room(memory)).map(Path::to_owned);
        let place = memory.unwrap_or_else(std::env::temp_dir);
        let directory = place.join(format!("towline-sim-{}-{number}", std::process::id()));
        // Of a process that had the same number, and was killed.
        remove_if_there(&directory)?;
        let life = directory.join("0");
        Ok(Self { store: Some(RocksStore::open(&life)?), life, directory, lives: 0 })
    }

    fn store(&self) -> Result<&RocksStore, StoreError> {
        let closed = || StoreError::Backend { what: "reading", reason: "a crash found no way back".to_owned() };
        self.store.as_ref().ok_or_else(closed)
    }

    /// As a node flushes its state.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.store()?.flush()
    }

    /// The process ends, or the power does: what RocksDB has in memory only is gone. All else is synced by then, since it writes no
    /// log of its own.
    ///
    /// A database that is closed flushes first. So the next life is one of copies of what the disk has (links of files that don't
    /// change), made before that.
    pub(crate) fn crash(&mut self) -> Result<(), StoreError> {
        self.lives += 1;
        let next = self.directory.join(self.lives.to_string());
        self.store()?.copy_of_the_disk(&next)?;
        self.store = None;
        remove(&self.life)?;
        self.store = Some(RocksStore::open(&next)?);
        self.life = next;
        Ok(())
    }
}

impl Drop for CrashingStore {
    fn drop(&mut self) {
        self.store = None;
        if let Err(error) = remove(&self.directory) {
            tracing::warn!(%error, "a state of the simulator stays");
        }
    }
}

/// What the states of a seed take at the most, several times over.
const ROOM_BYTES: u64 = 1 << 30;

/// Whether it is a directory with enough room: in a container it may be one of a few MiB.
fn has_room(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM_BYTES)
}

fn remove_if_there(directory: &Path) -> Result<(), StoreError> {
    if directory.exists() { remove(directory) } else { Ok(()) }
}

fn remove(directory: &Path) -> Result<(), StoreError> {
    fs::remove_dir_all(directory)
        .map_err(|error| StoreError::Open { path: directory.to_owned(), reason: error.to_string() })
}

impl RocksStore {
    /// What a crash at this moment would leave.
    fn copy_of_the_disk(&self, to: &Path) -> Result<(), StoreError> {
        let failed = |error| backend("copying", error);
        // No log is as long as this, so nothing is flushed for the sake of its length.
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint_with_log_size(to, u64::MAX))
            .map_err(failed)
    }
}

impl View for CrashingStore {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        self.store()?.show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.store()?.scan(family, from, order, visit)
    }
}

impl Store for CrashingStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        let closed = || StoreError::Backend { what: "writing", reason: "a crash found no way back".to_owned() };
        self.store.as_mut().ok_or_else(closed)?.commit(changes)
    }
}

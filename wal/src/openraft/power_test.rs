//! Power is lost while calls are under way: what the device was given and not told to sync is in no file.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::{Cursor, ErrorKind};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Waker};

use openraft::RaftLogId;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::{blank_ent, log_id};
use parking_lot::Condvar;
use tempfile::TempDir;

use super::*;
use crate::core::Options;
use crate::io::{Io, IoFailure, LockOutcome, RealIo};

openraft::declare_raft_types!(
    /// Entries with nothing in them are enough here.
    Types:
        D = u64,
        R = u64,
);

type Store = LogStore<Types>;

const LOG: LogId = LogId::new(1);

/// What the device was given: name, place, bytes.
type Unsynced = (String, u64, Vec<Bytes>);

#[derive(Default)]
struct Cache {
    unsynced: Vec<Unsynced>,
    /// Syncs do not return.
    is_closed: bool,
    /// One waits for that.
    is_asked: bool,
}

#[derive(Default)]
struct Gate {
    cache: Mutex<Cache>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        let mut cache = self.cache.lock();
        (cache.is_closed, cache.is_asked) = (closed, false);
        self.changed.notify_all();
    }

    fn wait_for_a_sync(&self) {
        let mut cache = self.cache.lock();
        while !cache.is_asked {
            self.changed.wait(&mut cache);
        }
    }
}

/// A directory whose files get what is written when it is synced. For the log's writer alone.
struct Device(RealIo, Arc<Gate>);

impl Io for Device {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.0.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.0.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.0.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.0.read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.1.cache.lock().unsynced.push((name.to_owned(), offset, slices.to_vec()));
        Ok(())
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        let mut cache = self.1.cache.lock();
        while cache.is_closed {
            cache.is_asked = true;
            self.1.changed.notify_all();
            self.1.changed.wait(&mut cache);
        }
        let (written, others) = std::mem::take(&mut cache.unsynced).into_iter().partition(|(file, ..)| file == name);
        cache.unsynced = others;
        drop(cache);
        let written: Vec<Unsynced> = written;
        written.iter().try_for_each(|(file, offset, slices)| self.0.write_at(file, *offset, slices))?;
        self.0.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.0.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.0.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.remove(name)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.settle(name)
    }

    fn entropy(&mut self) -> u64 {
        self.0.entropy()
    }

    fn process_id(&self) -> u32 {
        self.0.process_id()
    }
}

/// A store, and the power that its device runs on.
struct World {
    dir: TempDir,
    gate: Arc<Gate>,
    store: Store,
}

impl World {
    fn new() -> Self {
        let (dir, gate) = (tempfile::tempdir().unwrap(), Arc::new(Gate::default()));
        let behind = Arc::clone(&gate);
        let wal = Wal::open_with(dir.path(), &options(), |io| Box::new(Device(io, behind))).unwrap();
        let store = LogStore::open(Arc::new(wal), LOG).unwrap();
        Self { dir, gate, store }
    }

    /// The directory as it is found if power is lost now.
    fn without_power(&self) -> TempDir {
        copy(self.dir.path())
    }

    /// Makes a call of which the sync does not return; the directory as power lost in the middle leaves it. Then the call
    /// returns after all.
    fn cut(&mut self, call: impl AsyncFnOnce(&mut Store)) -> TempDir {
        self.gate.set(true);
        let mut call = pin!(call(&mut self.store));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(context).is_pending(), "it returned before the device was asked");
        self.gate.wait_for_a_sync();
        assert!(call.as_mut().poll(context).is_pending(), "it returned before the sync did");
        let cut = copy(self.dir.path());
        self.gate.set(false);
        run(call);
        cut
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Otherwise a test that fails at the closed gate waits for the log's writer for ever.
        self.gate.set(false);
    }
}

fn options() -> Options {
    Options { segment_bytes: 1 << 20, segments_ahead: 1, ..Options::default() }
}

fn copy(dir: &Path) -> TempDir {
    loop {
        let copy = tempfile::tempdir().unwrap();
        let copied = std::fs::read_dir(dir).unwrap().try_for_each(|file| {
            let file = file?;
            std::fs::copy(file.path(), copy.path().join(file.file_name())).map(drop)
        });
        match copied {
            Ok(()) => return copy,
            // A segment that is made ready got its name meanwhile.
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
        }
    }
}

fn open(dir: &TempDir) -> Store {
    LogStore::open(Arc::new(Wal::open(dir.path(), options()).unwrap().0), LOG).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<openraft::Entry<Types>> {
    indexes.map(|index| blank_ent(term, 0, index)).collect()
}

/// Term and index of all entries.
fn all(store: &mut Store) -> Vec<(u64, u64)> {
    let read = run(store.try_get_log_entries(..)).unwrap();
    read.iter().map(|entry| (entry.get_log_id().leader_id.term, entry.get_log_id().index)).collect()
}

fn ids(term: u64, indexes: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    indexes.map(|index| (term, index)).collect()
}

#[test]
fn a_vote_is_saved_when_it_is_durable_and_not_before() {
    let mut world = World::new();
    for term in 1..4 {
        let cut = world.cut(async |store| store.save_vote(&Vote::new(term, 1)).await.unwrap());
        let before = (term > 1).then(|| Vote::new(term - 1, 1));
        assert_eq!(run(open(&cut).read_vote()).unwrap(), before);
        assert_eq!(run(open(&world.without_power()).read_vote()).unwrap(), Some(Vote::new(term, 1)));
    }
}

#[test]
fn entries_are_acknowledged_when_they_are_durable_and_not_before() {
    let mut world = World::new();
    for end in [5, 10, 15] {
        let cut = world.cut(async |store| store.blocking_append(entries(1, end - 5..end)).await.unwrap());
        assert_eq!(all(&mut open(&cut)), ids(1, 0..end - 5));
        assert_eq!(all(&mut open(&world.without_power())), ids(1, 0..end));
    }
}

/// Otherwise a snapshot that contradicts the entries could be durable before they are gone.
#[test]
fn a_truncation_returns_when_it_is_durable_and_power_loss_leaves_all_of_it_or_nothing() {
    for since in 0..10 {
        let mut world = World::new();
        run(world.store.blocking_append(entries(1, 0..10))).unwrap();
        let cut = world.cut(async |store| store.truncate(log_id(1, 0, since)).await.unwrap());
        assert_eq!(all(&mut open(&cut)), ids(1, 0..10));
        assert_eq!(all(&mut open(&world.without_power())), ids(1, 0..since));
    }
}

#[test]
fn a_purge_is_durable_before_what_is_appended_next() {
    let mut world = World::new();
    run(world.store.blocking_append(entries(1, 0..10))).unwrap();
    world.gate.set(true);
    run(world.store.purge(log_id(1, 0, 6))).unwrap();
    assert_eq!(all(&mut open(&world.without_power())), ids(1, 0..10));
    let cut = world.cut(async |store| store.blocking_append(entries(1, 10..12)).await.unwrap());
    assert_eq!(all(&mut open(&cut)), ids(1, 0..10));
    assert_eq!(all(&mut open(&world.without_power())), ids(1, 7..12));
}

/// openraft truncates what contradicts a snapshot, and installs it. Power is lost when the snapshot is durable and the
/// truncation is not; at the restart it sees that the log is behind the snapshot, and purges up to it.
#[test]
fn entries_that_a_snapshot_replaced_do_not_come_back_with_a_truncation_that_power_loss_took() {
    let mut world = World::new();
    run(world.store.blocking_append(entries(3, 0..21))).unwrap();
    let cut = world.cut(async |store| store.truncate(log_id(3, 0, 3)).await.unwrap());
    let mut store = open(&cut);
    assert_eq!(all(&mut store), ids(3, 0..21));
    run(store.purge(log_id(5, 0, 10))).unwrap();
    assert_eq!(run(store.get_log_state()).unwrap().last_log_id, Some(log_id(5, 0, 10)));
    run(store.blocking_append(entries(5, 11..14))).unwrap();
    drop(store);
    let mut store = open(&cut);
    assert_eq!(all(&mut store), ids(5, 11..14));
    assert_eq!(run(store.get_log_state()).unwrap().last_purged_log_id, Some(log_id(5, 0, 10)));
}

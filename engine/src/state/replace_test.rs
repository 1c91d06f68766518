//! A state that is replaced in pieces, and the view that the parts are read from.

use super::replace::{Replacement, replacing_of};
use super::snapshot::{SnapshotError, take_snapshot};
use super::survey::{PartsCheck, Survey};
use super::{Applier, ChangeSet, Family, MemStore, Order, Store, StoreError, View, Visitor, digest};
use crate::model::{Epoch, LogId, NamespaceId, ShardDescriptor, ShardId, Write};
use bytes::Bytes;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

const LOG: LogId = LogId::new(7);
const CHUNK_BYTES: usize = 64 * 1024;

fn shard() -> ShardDescriptor {
    ShardDescriptor { shard: ShardId::new(3), namespace: NamespaceId::new(1), start: Vec::new(), end: Vec::new() }
}

/// A state of so many values of 50 KB, from this one on.
fn written(from: u32, count: u32) -> Applier<MemStore> {
    let mut applier = Applier::open(MemStore::new(), shard(), LOG).unwrap();
    for number in from..from + count {
        let write = Write::new().put(format!("key-{number}"), vec![0; 50_000]).append(
            format!("stream-{}", number % 3),
            crate::model::Expect::Any,
            number.to_string(),
        );
        let block = Block::encode(write.into_record().encode().unwrap(), 1, Compression::WhereItPays);
        let builder = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), applier.applied(), 0);
        applier.apply(&[builder.block(block).seal().unwrap()]).unwrap();
    }
    applier
}

/// Keeps its changes, as they are made: what a crash leaves is some first ones of them.
#[derive(Default)]
struct Watched {
    store: MemStore,
    changes: Vec<ChangeSet>,
}

impl View for Watched {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        self.store.show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        self.store.scan(family, from, order, visit)
    }
}

impl Store for Watched {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        self.changes.push(changes.clone());
        self.store.commit(changes)
    }
}

#[test]
fn each_part_is_read_again_by_itself_and_is_what_it_was() {
    let applier = written(0, 100);
    for chunk_bytes in [1, 1000, CHUNK_BYTES, 1 << 20] {
        let (id, chunks) = take_snapshot(applier.store(), &shard(), LOG, chunk_bytes).unwrap();
        let survey = Survey::of(applier.store(), &shard(), LOG, chunk_bytes, |_| true).unwrap().unwrap();
        assert_eq!(survey.id(), id);
        for (index, chunk) in (0..id.chunks).zip(&chunks).rev() {
            assert_eq!(survey.chunk(applier.store(), &shard(), LOG, index).unwrap(), chunk);
        }
        let beyond = survey.chunk(applier.store(), &shard(), LOG, id.chunks);
        assert!(matches!(beyond, Err(SnapshotError::Chunk { .. })));
    }
    let ended = Survey::of(applier.store(), &shard(), LOG, CHUNK_BYTES, |_| false).unwrap();
    assert!(ended.is_none(), "who takes it has enough");
}

#[test]
fn a_part_that_is_not_what_it_was_is_never_given() {
    let mut applier = written(0, 10);
    let survey = Survey::of(applier.store(), &shard(), LOG, CHUNK_BYTES, |_| true).unwrap().unwrap();
    let mut changes = ChangeSet::default();
    changes.put(Family::Values, super::key::user_key(shard().namespace, b"key-0"), b"rotten");
    applier.store_mut().commit(&changes).unwrap();
    let refused = survey.chunk(applier.store(), &shard(), LOG, 0);
    assert_eq!(refused, Err(SnapshotError::Chunk { index: 0 }));
}

#[test]
fn i4_a_state_is_replaced_in_bounded_pieces_and_all_that_a_crash_leaves_of_it_says_what_it_is() {
    let (new, old) = (written(1000, 300), written(0, 40));
    let (id, chunks) = take_snapshot(new.store(), &shard(), LOG, CHUNK_BYTES).unwrap();
    let shard = shard();
    let mut check = PartsCheck::new(&shard, LOG, id.at);
    chunks.iter().for_each(|chunk| check.add(chunk).unwrap());
    assert_eq!(check.end().unwrap(), id);

    let mut watched = Watched { store: old.store().clone(), changes: Vec::new() };
    let mut replacement = Replacement::begin(&mut watched, &shard, LOG, id.at).unwrap();
    chunks.iter().for_each(|chunk| replacement.add(chunk).unwrap());
    replacement.finish().unwrap();
    assert!(watched.changes.len() > 3, "in pieces");
    assert!(watched.changes.iter().all(|changes| changes.bytes() < 5 << 20), "I10");
    assert_eq!(digest(&watched.store).unwrap(), digest(new.store()).unwrap());
    assert_eq!(Applier::open(watched.store, shard.clone(), LOG).unwrap().applied(), id.at);

    // A crash behind each of the changes.
    let mut crashed = old.store().clone();
    for (number, changes) in watched.changes.iter().enumerate() {
        assert_eq!(replacing_of(&crashed, shard.shard).unwrap().is_some(), number > 0);
        assert_eq!(Applier::open(crashed.clone(), shard.clone(), LOG).is_err(), number > 0, "half a state is none");
        crashed.commit(changes).unwrap();
        let (mut again, shard) = (crashed.clone(), shard.clone());
        if replacing_of(&again, shard.shard).unwrap().is_none() {
            continue;
        }
        let mut replacement = Replacement::begin(&mut again, &shard, LOG, id.at).unwrap();
        chunks.iter().for_each(|chunk| replacement.add(chunk).unwrap());
        replacement.finish().unwrap();
        assert_eq!(digest(&again).unwrap(), digest(new.store()).unwrap(), "done once more, behind change {number}");
    }
    assert_eq!(replacing_of(&crashed, shard.shard).unwrap(), None);
}

#[test]
fn what_is_not_a_whole_snapshot_of_that_position_never_becomes_a_state() {
    let new = written(0, 10);
    let (id, chunks) = take_snapshot(new.store(), &shard(), LOG, CHUNK_BYTES).unwrap();
    let shard = shard();
    let replaced = |chunks: &[Bytes]| {
        let mut store = MemStore::new();
        let mut replacement = Replacement::begin(&mut store, &shard, LOG, id.at)?;
        chunks.iter().try_for_each(|chunk| replacement.add(chunk))?;
        replacement.finish()
    };
    assert_eq!(replaced(&chunks), Ok(()));
    assert_eq!(replaced(&chunks[..chunks.len() - 1]), Err(SnapshotError::Position), "its end is missing");
    let twice = [&chunks[..1], &chunks[..]].concat();
    assert_eq!(replaced(&twice), Err(SnapshotError::Chunk { index: 1 }), "out of order");
    let at = crate::model::LogPosition { lsn: id.at.lsn.next(), ..id.at };
    let mut check = PartsCheck::new(&shard, LOG, at);
    let refused = chunks.iter().try_for_each(|chunk| check.add(chunk));
    assert_eq!(refused, Err(SnapshotError::Position), "of another position");
}

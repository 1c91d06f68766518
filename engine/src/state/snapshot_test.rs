//! Snapshots: what they hold, and what is refused.

use super::snapshot::{SnapshotError, StagedSnapshot, install_snapshot, take_snapshot};
use super::{Applier, ChangeSet, Family, MemStore, Store, View, digest};
use crate::model::{
    ControlRecord, Epoch, LogId, LogPosition, NamespaceId, Outcome, Record, RequestId, ShardDescriptor, ShardId,
    SnapshotId, Write, session_id,
};
use bytes::Bytes;
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

const LOG: LogId = LogId::new(7);
const EPOCH: Epoch = Epoch { version: 1, term: 1 };

fn shard() -> ShardDescriptor {
    ShardDescriptor { shard: ShardId::new(3), namespace: NamespaceId::new(1), start: Vec::new(), end: Vec::new() }
}

fn batch(kind: BatchKind, raw: Bytes, prev: LogPosition) -> Batch {
    let block = Block::encode(raw, 1, Compression::Never);
    BatchBuilder::new(LOG, kind, EPOCH, prev, 0).block(block).seal().unwrap()
}

/// A state with values, a stream, a session with a result, and a rejected record.
fn applied() -> (Applier<MemStore>, Record) {
    let mut applier = Applier::open(MemStore::new(), shard(), LOG).unwrap();
    let open = ControlRecord::OpenSession { sessions_max: 10 }.encode().unwrap();
    let opened = batch(BatchKind::Control, open, applier.applied());
    let session = session_id(shard().shard, EPOCH, opened.first_lsn());
    applier.apply(&[opened]).unwrap();
    let mut request = Write::new().put("k", "first").append("s", crate::model::Expect::Any, "event").into_record();
    request.request = RequestId { session, number: 1, ack_low: 1, after: 0 };
    let refused = Write::new().expect("k", crate::model::Expect::Absent).put("k", "second").into_record();
    for record in [&request, &refused] {
        let next = batch(BatchKind::Data, record.encode().unwrap(), applier.applied());
        applier.apply(&[next]).unwrap();
    }
    (applier, request)
}

fn installed(id: &SnapshotId, chunks: &[Bytes]) -> Result<MemStore, SnapshotError> {
    let (mut store, mut changes) = (MemStore::new(), ChangeSet::default());
    let foreign = super::key::rejected_key(shard().namespace, LogId::new(1), id.at.lsn);
    changes.put(Family::Rejected, foreign, b"of another log");
    store.commit(&changes).unwrap();
    install_snapshot(&mut store, &shard(), LOG, id, chunks).map(|()| store)
}

#[test]
fn i5_whoever_goes_on_from_a_snapshot_knows_what_was_executed() {
    let (mut applier, request) = applied();
    for chunk_bytes in [1, 64, 1 << 20] {
        let (id, chunks) = take_snapshot(applier.store(), &shard(), LOG, chunk_bytes).unwrap();
        let mut store = MemStore::new();
        install_snapshot(&mut store, &shard(), LOG, &id, &chunks).unwrap();
        assert_eq!(digest(&store).unwrap(), digest(applier.store()).unwrap());
        assert_eq!(store.running_digest(), applier.store().running_digest());
        let mut copy = Applier::open(store, shard(), LOG).unwrap();
        assert_eq!(copy.applied(), applier.applied());
        let again = batch(BatchKind::Data, request.encode().unwrap(), copy.applied());
        let outcome = copy.apply(&[again]).unwrap();
        assert_eq!(outcome[0].outcome, Some(Outcome::Applied { version: 1 }));
        assert!(outcome[0].executed.is_some(), "not again");
    }
    let next = batch(BatchKind::Data, Write::new().delete("k").into_record().encode().unwrap(), applier.applied());
    applier.apply(&[next]).unwrap();
}

#[test]
fn what_was_there_before_is_gone_and_what_is_another_logs_stays() {
    let (applier, _) = applied();
    let (id, chunks) = take_snapshot(applier.store(), &shard(), LOG, 100).unwrap();
    let mut older = applier.into_store();
    let mut changes = ChangeSet::default();
    changes.put(Family::Values, super::key::user_key(shard().namespace, b"left over"), b"x");
    let foreign = super::key::user_key(NamespaceId::new(2), b"k");
    changes.put(Family::Values, &foreign, b"another namespace's");
    older.commit(&changes).unwrap();
    install_snapshot(&mut older, &shard(), LOG, &id, &chunks).unwrap();
    assert!(older.get(Family::Values, &foreign).unwrap().is_some());
    assert_eq!(take_snapshot(&older, &shard(), LOG, 100).unwrap(), (id, chunks), "the same content, the same bytes");
}

#[test]
fn d24_a_damaged_chunk_is_fetched_again_and_only_what_was_offered_is_whole() {
    let (applier, _) = applied();
    let (id, chunks) = take_snapshot(applier.store(), &shard(), LOG, 1).unwrap();
    let mut staged = StagedSnapshot::new(id);
    let fill = |staged: &mut StagedSnapshot| {
        while let Some(wanted) = staged.wanted() {
            staged.add(wanted, chunks[wanted as usize].clone());
        }
    };
    fill(&mut staged);
    staged.rot(2, 5);
    staged.verify();
    assert_eq!((staged.wanted(), staged.verified()), (Some(2), None), "those before it are kept");
    fill(&mut staged);
    staged.verify();
    assert_eq!(staged.verified(), Some(&chunks[..]));

    // Each as it came, and yet another snapshot: of a sender that lies, or does not know what it reads.
    let mut other = StagedSnapshot::new(SnapshotId { digest: id.digest ^ 1, ..id });
    fill(&mut other);
    other.verify();
    assert_eq!((other.wanted(), other.verified()), (Some(0), None));
}

#[test]
fn what_a_peer_sends_is_refused_if_it_is_no_state_of_this_shard() {
    let (applier, _) = applied();
    let (id, chunks) = take_snapshot(applier.store(), &shard(), LOG, 1).unwrap();
    installed(&id, &chunks).unwrap();
    let refused = |id: &SnapshotId, chunks: &[Bytes]| installed(id, chunks).unwrap_err();
    let mut swapped = chunks.clone();
    swapped.swap(0, 1);
    assert_eq!(refused(&id, &swapped), SnapshotError::Chunk { index: 1 }, "order is part of it");
    let cut = [chunks[0].slice(..chunks[0].len() - 1)];
    assert_eq!(refused(&id, &cut), SnapshotError::Chunk { index: 0 });
    assert_eq!(refused(&id, &chunks[..chunks.len() - 1]), SnapshotError::Position, "it does not say how far it is");
    let elsewhere = SnapshotId { at: LogPosition { lsn: id.at.lsn.next(), ..id.at }, ..id };
    assert_eq!(refused(&elsewhere, &chunks), SnapshotError::Position);
    let (foreign, parts) = (LogId::new(8), chunks.as_slice());
    let error = install_snapshot(&mut MemStore::new(), &shard(), foreign, &id, parts).unwrap_err();
    assert!(matches!(error, SnapshotError::Chunk { .. } | SnapshotError::Position), "{error}");
}

#[test]
fn two_releases_write_one_state_as_one_snapshot() {
    let (applier, _) = applied();
    let (id, chunks) = take_snapshot(applier.store(), &shard(), LOG, 100).unwrap();
    let file = crate::golden::check("state_snapshot.bin", &chunks.concat());
    assert_eq!(id.bytes, file.len() as u64);
}

//! Rot in a group that holds what the node promised: an older promise never stands in for it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::Vote;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use towline_wal::inspect::inspect;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Epoch, HardStateKind, Wal};

use super::{LOG, OTHER, Store, all, entries, ids, log_id, open, run, small};

const VOTE: HardStateKind = HardStateKind::Promise;
const PURGED: HardStateKind = HardStateKind::Snapshot;
const COMMITTED: HardStateKind = HardStateKind::Owner;

/// In a log of somebody else: groups that prove those before them.
fn write_others(wal: &Wal, batches: usize) {
    for _ in 0..batches {
        let block = Block::encode(Bytes::from(vec![1; 4000]), 1, Compression::Never);
        let next = BatchBuilder::new(OTHER, BatchKind::Data, Epoch::new(1, 1), wal.end(OTHER), 0).block(block);
        wal.append(next.seal().unwrap()).unwrap();
    }
}

/// Two votes, each in a group of its own, with what is done in between and behind.
fn vote_twice(dir: &Path, between: impl FnOnce(&Wal, &mut Store)) {
    let (wal, mut store) = open(dir);
    run(store.blocking_append(entries(1, 0..10))).unwrap();
    run(store.save_vote(&Vote::new(4, 1))).unwrap();
    between(&wal, &mut store);
    run(store.save_vote(&Vote::new(5, 1))).unwrap();
    write_others(&wal, 3);
    drop(store);
    wal.close().unwrap();
}

/// Flips a bit in the last group that sets a hard state of the kind: byte 40 of a group is in its header, byte 130 in its
/// directory.
fn rot(dir: &Path, kind: HardStateKind, byte: u64) {
    let says = format!("hard state {kind:?}");
    let segments = inspect(dir).unwrap().segments;
    let groups = segments.iter().flat_map(|segment| segment.groups.iter().map(move |group| (&segment.file, group)));
    let mut hit = groups.filter(|(_, group)| group.records.iter().any(|record| record.contains(&says)));
    let (file, group) = hit.next_back().unwrap();
    assert!(group.batches.is_empty(), "it holds nothing else");
    let path = dir.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(group.offset + byte).unwrap()] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// What an open of the store in a new life says.
fn refusal(dir: &Path) -> String {
    let wal = Arc::new(Wal::open(dir, small()).unwrap().0);
    Store::open(wal, LOG).unwrap_err().to_string()
}

#[test]
fn a_store_whose_newest_vote_is_damaged_does_not_open_and_one_that_is_whole_does() {
    for byte in [None, Some(40), Some(130)] {
        let dir = tempfile::tempdir().unwrap();
        vote_twice(dir.path(), |_, _| {});
        let Some(byte) = byte else {
            let (wal, mut store) = open(dir.path());
            assert_eq!(wal.doubtful_hard_states(LOG), []);
            assert_eq!(run(store.read_vote()).unwrap(), Some(Vote::new(5, 1)));
            continue;
        };
        rot(dir.path(), VOTE, byte);
        for life in 0..3 {
            let refused = refusal(dir.path());
            assert!(
                refused.contains("TW-1408") && refused.contains("vote twice"),
                "byte {byte}, life {life}: {refused}"
            );
        }
    }
}

/// The store does not open, but other logs of the directory go on, until the segment of the older vote is given up: what it
/// says is said again, behind the damage.
#[test]
fn a_vote_in_doubt_stays_so_when_the_older_one_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    vote_twice(dir.path(), |wal, store| {
        run(store.purge(log_id(1, 0, 9))).unwrap();
        write_others(wal, 300);
    });
    rot(dir.path(), VOTE, 40);
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    let (wal, first) = (Arc::new(wal), report.segments);
    assert_eq!(report.doubtful_hard_states, [(LOG, VOTE)]);
    assert!(first > 1, "the votes lie in two segments");
    assert!(Store::open(Arc::clone(&wal), LOG).is_err());
    assert!(Store::open(Arc::clone(&wal), LOG).is_err(), "nor at a second try");
    wal.release(OTHER, wal.end(OTHER).lsn).unwrap();
    write_others(&wal, 600);
    assert!(wal.stats().retired > 0);
    wal.close().unwrap();
    drop(wal);
    assert!(inspect(dir.path()).unwrap().segments.iter().all(|segment| segment.number > 1), "the older vote's is gone");
    let refused = refusal(dir.path());
    assert!(refused.contains("TW-1408"), "{refused}");
}

#[test]
fn a_purged_id_in_doubt_is_refused_and_what_was_committed_is_committed_again() {
    for (kind, code) in [(PURGED, Some("TW-1408")), (COMMITTED, None)] {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut store) = open(dir.path());
        run(store.blocking_append(entries(1, 0..10))).unwrap();
        run(store.purge(log_id(1, 0, 3))).unwrap();
        wal.sync().unwrap();
        run(store.save_committed(Some(log_id(1, 0, 5)))).unwrap();
        drop(store);
        wal.sync().unwrap();
        write_others(&wal, 3);
        wal.close().unwrap();
        drop(wal);
        rot(dir.path(), kind, 40);
        let (wal, report) = Wal::open(dir.path(), small()).unwrap();
        assert_eq!(report.doubtful_hard_states, [(LOG, kind)]);
        match (code, Store::open(Arc::new(wal), LOG)) {
            (Some(code), Err(refused)) => assert!(refused.to_string().contains(code), "{refused}"),
            (None, Ok(mut store)) => assert_eq!(run(all(&mut store)), ids(&entries(1, 4..10))),
            (_, opened) => panic!("{kind:?}: {opened:?}"),
        }
    }
}

#[test]
fn a_log_that_is_removed_takes_its_doubts_along() {
    let dir = tempfile::tempdir().unwrap();
    vote_twice(dir.path(), |_, _| {});
    rot(dir.path(), VOTE, 40);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(wal.doubtful_hard_states(LOG), [VOTE]);
    wal.remove_log(LOG).unwrap();
    assert_eq!(wal.doubtful_hard_states(LOG), []);
    drop(wal);
    let (_wal, mut store) = open(dir.path());
    assert_eq!(run(store.read_vote()).unwrap(), None);
}

#[test]
fn a_hard_state_that_is_set_anew_is_in_doubt_no_more() {
    let dir = tempfile::tempdir().unwrap();
    vote_twice(dir.path(), |_, _| {});
    rot(dir.path(), VOTE, 40);
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(wal.doubtful_hard_states(LOG), [VOTE]);
    assert_eq!(wal.doubtful_hard_states(OTHER), []);
    let set = |kind| towline_wal::Entry::HardState { log: LOG, kind, bytes: Bytes::from_static(b"7") };
    wal.submit(vec![set(COMMITTED)]).unwrap().wait().unwrap();
    assert_eq!(wal.doubtful_hard_states(LOG), [VOTE]);
    wal.submit(vec![set(VOTE)]).unwrap().wait().unwrap();
    assert_eq!(wal.doubtful_hard_states(LOG), []);
    drop(wal);
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!((report.doubtful_hard_states, wal.doubtful_hard_states(LOG)), (vec![], vec![]));
}

//! The openraft adapter: openraft's own suite, each of its tests by name, and what the suite does not ask.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use bytes::Bytes;
use openraft::storage::{RaftLogReaderExt, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite, log_id};
use openraft::{Entry, EntryPayload, LogId, LogState, RaftLogReader, StorageError, Vote};
use towline_wal::openraft::LogStore;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Epoch, Lsn, Options, SubmitError, Wal};

openraft::declare_raft_types!(
    /// A log of texts.
    pub Types:
        D = String,
        R = u64,
);

type Store = LogStore<Types>;
type Failed = StorageError<u64>;

const LOG: towline_wal::LogId = towline_wal::LogId::new(7);
const OTHER: towline_wal::LogId = towline_wal::LogId::new(8);

fn small() -> Options {
    Options { segment_bytes: 1 << 20, segments_ahead: 1, ..Options::default() }
}

fn open(dir: &Path) -> (Arc<Wal>, Store) {
    open_with(dir, small())
}

fn open_with(dir: &Path, options: Options) -> (Arc<Wal>, Store) {
    let wal = Arc::new(Wal::open(dir, options).unwrap().0);
    let store = LogStore::open(Arc::clone(&wal), LOG).unwrap();
    (wal, store)
}

fn reopen(dir: &Path, wal: &Arc<Wal>, store: Store) -> (Arc<Wal>, Store) {
    drop(store);
    wal.close().unwrap();
    open(dir)
}

/// The directory as the process leaves it if it is killed at this moment: what it still had in memory is not in it. What
/// power takes as well, the adapter's unit tests cut off.
fn killed(dir: &Path) -> tempfile::TempDir {
    loop {
        let copy = tempfile::tempdir().unwrap();
        let copied = std::fs::read_dir(dir).unwrap().try_for_each(|file| {
            let file = file?;
            std::fs::copy(file.path(), copy.path().join(file.file_name())).map(drop)
        });
        match copied {
            Ok(()) => return copy,
            // A segment that is made ready got its name meanwhile.
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{e}"),
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn entry(term: u64, index: u64, text: impl Into<String>) -> Entry<Types> {
    Entry { log_id: log_id(term, 0, index), payload: EntryPayload::Normal(text.into()) }
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry<Types>> {
    indexes.map(|index| entry(term, index, format!("{term}.{index}"))).collect()
}

/// A text that does not shrink by much.
fn noise(seed: u64, len: usize) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'0' + u8::try_from(state >> 58).unwrap())
    };
    (0..len).map(|_| next()).collect()
}

fn ids(entries: &[Entry<Types>]) -> Vec<(u64, u64)> {
    entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect()
}

async fn all(store: &mut Store) -> Vec<(u64, u64)> {
    ids(&store.try_get_log_entries(..).await.unwrap())
}

async fn last(store: &mut Store) -> Option<LogId<u64>> {
    store.get_log_state().await.unwrap().last_log_id
}

/// Keeps the log's writer at work for some time.
fn occupy(wal: &Wal) {
    let mut end = wal.end(OTHER);
    for _ in 0..8 {
        let block = Block::encode(Bytes::from(vec![1; 400_000]), 1, Compression::Never);
        let batch = BatchBuilder::new(OTHER, BatchKind::Data, Epoch::new(1, 1), end, 0).block(block).seal().unwrap();
        end = batch.position();
        drop(wal.submit(vec![towline_wal::Entry::Batch(batch)]).unwrap());
    }
}

#[path = "openraft/doubt.rs"]
mod doubt;
#[path = "openraft/machine.rs"]
mod machine;
#[path = "openraft/node.rs"]
mod node;
use machine::Machine;

mod suite {
    use super::*;

    struct Builder;

    /// The log closes before its directory goes.
    struct Guard(
        #[expect(dead_code, reason = "held")] Arc<Wal>,
        #[expect(dead_code, reason = "held")] tempfile::TempDir,
    );

    impl StoreBuilder<Types, Store, Machine, Guard> for Builder {
        async fn build(&self) -> Result<(Guard, Store, Machine), Failed> {
            let dir = tempfile::tempdir().unwrap();
            let (wal, store) = open(dir.path());
            Ok((Guard(wal, dir), store, Machine::default()))
        }
    }

    type Theirs = Suite<Types, Store, Machine, Builder, Guard>;

    #[test]
    fn test_all() {
        Theirs::test_all(Builder).unwrap();
    }

    #[test]
    fn transfer_snapshot() {
        run(Theirs::transfer_snapshot(&Builder)).unwrap();
    }

    macro_rules! each {
        ($($name:ident)*) => {$(
            #[test]
            fn $name() {
                run(async {
                    let (_guard, store, machine) = Builder.build().await.unwrap();
                    Theirs::$name(store, machine).await.unwrap();
                });
            }
        )*};
    }

    each! {
        last_membership_in_log_initial
        last_membership_in_log
        last_membership_in_log_multi_step
        get_membership_initial
        get_membership_from_log_and_empty_sm
        get_membership_from_empty_log_and_sm
        get_membership_from_log_le_sm_last_applied
        get_membership_from_log_gt_sm_last_applied_1
        get_membership_from_log_gt_sm_last_applied_2
        get_initial_state_without_init
        get_initial_state_membership_from_log_and_sm
        get_initial_state_with_state
        get_initial_state_last_log_gt_sm
        get_initial_state_last_log_lt_sm
        get_initial_state_log_ids
        get_initial_state_re_apply_committed
        save_vote
        get_log_entries
        limited_get_log_entries
        try_get_log_entry
        initial_logs
        get_log_state
        get_log_id
        last_id_in_log
        last_applied_state
        purge_logs_upto_0
        purge_logs_upto_5
        purge_logs_upto_20
        delete_logs_since_11
        delete_logs_since_0
        append_to_log
        snapshot_meta
        apply_single
        apply_multiple
    }
}

#[test]
fn what_was_saved_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(1, 0..8)).await.unwrap();
        store.blocking_append(entries(3, 8..12)).await.unwrap();
        store.save_vote(&Vote::new(4, 2)).await.unwrap();
        store.purge(log_id(1, 0, 2)).await.unwrap();
        store.save_committed(Some(log_id(3, 0, 9))).await.unwrap();
    });
    let (mut wal, mut store) = reopen(dir.path(), &wal, store);
    for _ in 0..2 {
        run(async {
            assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(4, 2)));
            assert_eq!(store.read_committed().await.unwrap(), Some(log_id(3, 0, 9)));
            let (last_purged_log_id, last_log_id) = (Some(log_id(1, 0, 2)), Some(log_id(3, 0, 11)));
            assert_eq!(store.get_log_state().await.unwrap(), LogState { last_purged_log_id, last_log_id });
            let read = store.try_get_log_entries(0..100).await.unwrap();
            assert_eq!(ids(&read), [ids(&entries(1, 3..8)), ids(&entries(3, 8..12))].concat());
            assert!(matches!(&read[0].payload, EntryPayload::Normal(text) if text == "1.3"));
            assert_eq!(store.in_doubt(), None);
        });
        (wal, store) = reopen(dir.path(), &wal, store);
    }
}

#[test]
fn an_entry_outlives_the_process_when_its_callback_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        for index in 0..20 {
            occupy(&wal);
            store.blocking_append([entry(1, index, "text")]).await.unwrap();
            assert!(wal.durable_end(LOG).lsn >= Lsn::new(index + 1), "index {index}");
        }
    });
    let copy = killed(dir.path());
    assert_eq!(run(all(&mut open(copy.path()).1)), ids(&entries(1, 0..20)));
}

#[test]
fn append_returns_before_the_disk_is_done_and_its_entries_can_be_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    let mut reader = run(store.get_log_reader());
    let mut seen_in_memory = 0;
    for index in 0..20 {
        occupy(&wal);
        let mut append = Box::pin(store.blocking_append([entry(1, index, "text")]));
        let waits = append.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        let read = run(reader.try_get_log_entries(index..)).unwrap();
        assert_eq!(ids(&read), [(1, index)]);
        seen_in_memory += u32::from(waits && wal.durable_end(LOG).lsn < Lsn::new(index + 1));
        if waits {
            run(append).unwrap();
        }
    }
    assert!(seen_in_memory > 0, "the disk was faster than memory, twenty times");
}

#[test]
fn a_vote_outlives_the_process_when_it_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    for term in 1..10 {
        occupy(&wal);
        run(store.save_vote(&Vote::new(term, 3))).unwrap();
        let copy = killed(dir.path());
        let (_wal, mut after) = open(copy.path());
        assert_eq!(run(after.read_vote()).unwrap(), Some(Vote::new(term, 3)));
    }
}

#[test]
fn a_commit_costs_no_sync_and_goes_with_the_next_submission() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(1, 0..3)).await.unwrap();
        let before = wal.stats();
        for index in 0..3 {
            store.save_committed(Some(log_id(1, 0, index))).await.unwrap();
        }
        assert_eq!(wal.stats().submissions, before.submissions);
        store.blocking_append(entries(1, 3..4)).await.unwrap();
        assert_eq!(wal.stats().submissions, before.submissions + 1);
    });
    let copy = killed(dir.path());
    let (_wal, mut after) = open(copy.path());
    assert_eq!(run(after.read_committed()).unwrap(), Some(log_id(1, 0, 2)));
}

#[test]
fn a_truncation_in_the_middle_of_a_batch_keeps_the_batchs_head_through_a_crash() {
    for since in 0..=10 {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut store) = open(dir.path());
        let kept = [ids(&entries(1, 0..3)), ids(&entries(2, 3..10))].concat();
        let kept = &kept[..usize::try_from(since).unwrap()];
        run(async {
            store.blocking_append([entries(1, 0..3), entries(2, 3..10)].concat()).await.unwrap();
            let before = wal.stats().submissions;
            store.truncate(log_id(2, 0, since)).await.unwrap();
            // One submission, which is one write group: nothing comes between the truncation and what it keeps.
            assert_eq!(wal.stats().submissions - before, u64::from(since < 10));
            assert_eq!(all(&mut store).await, kept);
            assert_eq!(last(&mut store).await.map(|id| (id.leader_id.term, id.index)), kept.last().copied());
            wal.sync().unwrap();
        });
        let copy = killed(dir.path());
        let (_wal, mut after) = open(copy.path());
        run(async {
            assert_eq!(all(&mut after).await, kept, "truncated since {since}");
            after.blocking_append(entries(5, since..since + 2)).await.unwrap();
            assert_eq!(all(&mut after).await, [kept, &ids(&entries(5, since..since + 2))].concat());
        });
    }
}

#[test]
fn a_truncation_of_what_is_not_durable_yet_is_as_good_as_any() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    for round in 0..10_u64 {
        let at = round * 5;
        occupy(&wal);
        let mut append = Box::pin(store.blocking_append(entries(round + 1, at..at + 10)));
        drop(append.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        drop(append);
        run(store.truncate(log_id(round + 1, 0, at + 5))).unwrap();
        assert_eq!(run(last(&mut store)), Some(log_id(round + 1, 0, at + 4)));
    }
    let expected: Vec<_> = (0..50).map(|index| (index / 5 + 1, index)).collect();
    assert_eq!(run(all(&mut store)), expected);
    let (_wal, mut store) = reopen(dir.path(), &wal, store);
    assert_eq!(run(all(&mut store)), expected);
}

#[test]
fn a_purge_in_the_middle_of_a_batch_is_exact() {
    for upto in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut store) = open(dir.path());
        let there = ids(&entries(1, upto + 1..10));
        run(async {
            store.blocking_append(entries(1, 0..6)).await.unwrap();
            store.blocking_append(entries(1, 6..10)).await.unwrap();
            let before = wal.stats().submissions;
            store.purge(log_id(1, 0, upto)).await.unwrap();
            assert_eq!(wal.stats().submissions, before + 1);
            // An older one changes nothing.
            store.purge(log_id(1, 0, 0)).await.unwrap();
            assert_eq!(all(&mut store).await, there);
            wal.sync().unwrap();
        });
        let released = wal.start_of(LOG).lsn.get();
        assert_eq!(
            released,
            if upto < 5 {
                0
            } else if upto < 9 {
                6
            } else {
                10
            },
            "whole batches go"
        );
        let copy = killed(dir.path());
        let (_wal, mut after) = open(copy.path());
        run(async {
            assert_eq!(all(&mut after).await, there, "purged up to {upto}");
            let state = after.get_log_state().await.unwrap();
            assert_eq!(state.last_purged_log_id, Some(log_id(1, 0, upto)));
            assert_eq!(state.last_log_id, Some(log_id(1, 0, 9)));
            assert!(after.try_get_log_entry(upto).await.unwrap().is_none());
            assert!(after.limited_get_log_entries(upto, 10).await.is_err(), "a purged entry was asked for");
            after.blocking_append(entries(2, 10..12)).await.unwrap();
            assert_eq!(all(&mut after).await, [&*there, &[(2, 10), (2, 11)]].concat());
        });
    }
}

#[test]
fn a_purge_beyond_the_end_lets_the_log_go_on_behind_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(1, 0..10)).await.unwrap();
        store.purge(log_id(2, 0, 99)).await.unwrap();
    });
    let (wal, mut store) = reopen(dir.path(), &wal, store);
    run(async {
        assert_eq!(all(&mut store).await, []);
        assert_eq!(last(&mut store).await, Some(log_id(2, 0, 99)));
        assert!(store.blocking_append(entries(2, 101..102)).await.is_err(), "a hole");
        store.blocking_append(entries(2, 100..103)).await.unwrap();
        store.truncate(log_id(2, 0, 100)).await.unwrap();
        assert_eq!(last(&mut store).await, Some(log_id(2, 0, 99)));
        store.blocking_append(entries(4, 100..103)).await.unwrap();
    });
    let (_wal, mut store) = reopen(dir.path(), &wal, store);
    assert_eq!(run(all(&mut store)), ids(&entries(4, 100..103)));
}

/// openraft purges up to a snapshot by its id alone. The entries there may be of another history, which the snapshot ended.
#[test]
fn a_purge_by_an_id_that_the_log_does_not_have_keeps_nothing_behind_it() {
    for (upto, kept) in [(log_id(5, 0, 10), 21), (log_id(3, 1, 10), 21), (log_id(3, 0, 10), 11), (log_id(5, 0, 20), 21)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut store) = open(dir.path());
        run(async {
            store.blocking_append(entries(3, 0..21)).await.unwrap();
            store.purge(upto).await.unwrap();
            // Once more, as after a restart.
            store.purge(upto).await.unwrap();
        });
        let (wal, mut store) = reopen(dir.path(), &wal, store);
        let kept = ids(&entries(3, kept..21));
        let next = kept.last().map_or(upto.index, |(_, index)| *index) + 1;
        run(async {
            let last_log_id = kept.last().map_or(upto, |(term, index)| log_id(*term, 0, *index));
            let state = LogState { last_purged_log_id: Some(upto), last_log_id: Some(last_log_id) };
            assert_eq!(store.get_log_state().await.unwrap(), state);
            assert_eq!(all(&mut store).await, kept, "purged up to {upto}");
            store.blocking_append(entries(5, next..next + 3)).await.unwrap();
        });
        let (_wal, mut store) = reopen(dir.path(), &wal, store);
        assert_eq!(run(all(&mut store)), [kept, ids(&entries(5, next..next + 3))].concat());
    }
}

#[test]
fn a_log_that_begins_behind_what_is_purged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(1, 0..5)).await.unwrap();
        store.blocking_append(entries(1, 5..10)).await.unwrap();
        store.purge(log_id(1, 0, 3)).await.unwrap();
    });
    drop(store);
    wal.release(LOG, Lsn::new(6)).unwrap();
    let refused = Store::open(wal, LOG).unwrap_err().to_string();
    assert!(refused.contains("TW-1407"), "{refused}");
}

#[test]
fn what_a_correct_caller_never_asks_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(3, 0..5)).await.unwrap();
        store.purge(log_id(3, 0, 1)).await.unwrap();
        for bad in [entries(3, 6..7), entries(3, 4..5), entries(2, 5..6)] {
            let refused = store.blocking_append(bad).await.unwrap_err();
            assert!(refused.into_defensive().is_some());
        }
        assert!(store.truncate(log_id(3, 0, 1)).await.unwrap_err().into_defensive().is_some());
        assert_eq!(all(&mut store).await, ids(&entries(3, 2..5)));
    });
}

#[test]
fn an_append_larger_than_a_batch_becomes_several_and_one_entry_that_fits_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    let large: Vec<_> = (0..60).map(|index| entry(1, index, noise(index, 50_000))).collect();
    run(async {
        store.blocking_append(large.clone()).await.unwrap();
        let read = store.try_get_log_entries(..).await.unwrap();
        assert_eq!(ids(&read), ids(&large));
        let some = store.limited_get_log_entries(10, 60).await.unwrap();
        assert!((1..50).contains(&some.len()), "{} of 3 MB", some.len());
        assert_eq!(some[0].log_id.index, 10);
        let bytes = wal.batch_bytes_max();
        let refused = store.blocking_append([entry(1, 60, "x".repeat(bytes))]).await.unwrap_err();
        assert!(refused.to_string().contains("TW-1402"), "{refused}");
        store.blocking_append([entry(1, 60, "x".repeat(bytes - 1000))]).await.unwrap();
        store.blocking_append(entries(1, 61..20_000)).await.unwrap();
    });
    let (_wal, mut store) = reopen(dir.path(), &wal, store);
    run(async {
        assert_eq!(all(&mut store).await.len(), 20_000);
        let read = store.try_get_log_entries(59..=59).await.unwrap();
        assert!(matches!(&read[0].payload, EntryPayload::Normal(text) if *text == noise(59, 50_000)));
    });
}

#[test]
fn terms_beyond_32_bits_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    let terms = [1, u64::from(u32::MAX), 1 << 32, (1 << 32) + 5, u64::MAX];
    let entries: Vec<_> = terms.iter().zip(0..).map(|(term, index)| entry(*term, index, "text")).collect();
    run(store.blocking_append(entries.clone())).unwrap();
    assert_eq!(wal.epochs(LOG).len(), terms.len(), "one epoch a term");
    let (_wal, mut store) = reopen(dir.path(), &wal, store);
    assert_eq!(run(all(&mut store)), ids(&entries));
}

#[test]
fn a_closed_log_takes_nothing_and_says_of_what() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(1, 0..5)).await.unwrap();
        wal.close().unwrap();
        let said = |result: Result<(), Failed>| result.unwrap_err().into_io().unwrap().to_string();
        let append = said(store.blocking_append(entries(1, 5..6)).await);
        assert!(append.contains("Write Log(") && append.contains("TW-1009"), "{append}");
        let vote = said(store.save_vote(&Vote::new(1, 1)).await);
        assert!(vote.contains("Write Vote") && vote.contains("TW-1009"), "{vote}");
        let truncate = said(store.truncate(log_id(1, 0, 3)).await);
        assert!(truncate.contains("Delete Log(") && truncate.contains("TW-1009"), "{truncate}");
        let purge = said(store.purge(log_id(1, 0, 3)).await);
        assert!(purge.contains("Delete Log(") && purge.contains("TW-1009"), "{purge}");
        // Nothing of it happened.
        assert_eq!(all(&mut store).await, ids(&entries(1, 0..5)));
    });
}

#[test]
fn a_poisoned_log_fails_the_append_that_waits_and_all_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_wal, mut store) = open(dir.path());
    run(async {
        store.blocking_append(entries(1, 0..5)).await.unwrap();
        // No new segment can be made any more.
        while dir.path().exists() {
            // A segment may get its name just then.
            drop(std::fs::remove_dir_all(dir.path()));
        }
        let large = (5..25).map(|index| entry(1, index, noise(index, 300_000)));
        let failed = store.blocking_append(large).await.unwrap_err().into_io().unwrap().to_string();
        assert!(failed.contains("TW-1008"), "{failed}");
        let behind = last(&mut store).await.unwrap().index + 1;
        for refused in [
            store.blocking_append([entry(1, behind, "behind")]).await,
            store.save_vote(&Vote::new(9, 9)).await,
            store.truncate(log_id(1, 0, 3)).await,
            store.purge(log_id(1, 0, 3)).await,
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("TW-1008"), "{refused}");
        }
    });
}

#[test]
fn damage_is_an_error_and_never_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    run(async {
        for index in 0..30 {
            store.blocking_append([entry(1, index, format!("needle-{index:02}"))]).await.unwrap();
        }
    });
    drop(store);
    wal.close().unwrap();
    let mut hit = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(9).position(|window| window == b"needle-11") {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            hit += 1;
        }
    }
    assert_eq!(hit, 1);
    let wal = Arc::new(Wal::open(dir.path(), small()).unwrap().0);
    let mut store = Store::open(Arc::clone(&wal), LOG).unwrap();
    run(async {
        assert_eq!(ids(&store.try_get_log_entries(0..11).await.unwrap()), ids(&entries(1, 0..11)));
        for range in [0..30, 11..12, 10..13] {
            let corrupt = store.try_get_log_entries(range).await.unwrap_err();
            assert!(corrupt.to_string().contains("TW-1101"), "{corrupt}");
        }
    });
}

#[test]
fn what_somebody_else_wrote_into_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, store) = open(dir.path());
    drop(store);
    let raw = |wal: &Wal, bytes: &'static [u8]| {
        let block = Block::encode(Bytes::from_static(bytes), 1, Compression::Never);
        let end = wal.end(LOG);
        let batch = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(0, 1), end, 0).block(block).seal().unwrap();
        wal.append(batch).unwrap();
    };
    let cases: [(&[u8], &str); 5] = [
        (b"\x02\0\0\0\0", "TW-1406"),
        (b"\x01\x09\0\0\0abc", "TW-1404"),
        (b"\x01", "TW-1404"),
        (b"\x01\x03\0\0\0\xff\xff\xff", "TW-1405"),
        (b"\0", "TW-1404"),
    ];
    for (bytes, code) in cases {
        raw(&wal, bytes);
        let refused = Store::open(Arc::clone(&wal), LOG).unwrap_err().to_string();
        assert!(refused.contains(code), "{refused}");
    }
}

#[test]
fn readers_beside_a_writer_that_cuts_and_purges_see_one_history_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open(dir.path());
    let reader = run(store.get_log_reader());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (mut reader, done) = (reader.clone(), &done);
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let read = run(reader.try_get_log_entries(..)).unwrap();
                    let read = ids(&read);
                    assert!(read.is_sorted_by(|a, b| a.1 + 1 == b.1 && a.0 <= b.0), "{read:?}");
                }
            });
        }
        run(async {
            let (mut end, mut term, mut history) = (0, 1, Vec::new());
            for round in 0..200_u64 {
                store.blocking_append(entries(term, end..end + 7)).await.unwrap();
                history.extend(entries(term, end..end + 7));
                end += 7;
                if round % 3 == 0 {
                    end -= round % 5 + 1;
                    store.truncate(log_id(term, 0, end)).await.unwrap();
                    history.truncate(usize::try_from(end).unwrap());
                    term += 1;
                }
                if round % 10 == 9 {
                    store.purge(history[history.len() - 21].log_id).await.unwrap();
                }
            }
        });
        done.store(true, Ordering::Release);
    });
    assert!(wal.stats().batch_bytes > 0);
}

#[test]
fn a_full_queue_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, mut store) = open_with(dir.path(), Options { queue_bytes_max: 100_000, ..small() });
    let done = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut busy = 0;
            while !done.load(Ordering::Acquire) {
                let block = Block::encode(Bytes::from(vec![1; 60_000]), 1, Compression::Never);
                let end = wal.end(OTHER);
                let next = BatchBuilder::new(OTHER, BatchKind::Data, Epoch::new(1, 1), end, 0).block(block);
                match wal.submit(vec![towline_wal::Entry::Batch(next.seal().unwrap())]) {
                    Err(SubmitError::Busy { .. }) => busy += 1,
                    submitted => drop(submitted.unwrap()),
                }
            }
            busy
        });
        run(async {
            for index in 0..10 {
                store.blocking_append([entry(1, index, "x".repeat(50_000))]).await.unwrap();
                store.save_vote(&Vote::new(index, 1)).await.unwrap();
            }
        });
        done.store(true, Ordering::Release);
        flood.join().unwrap()
    });
    assert!(busy > 0);
    assert_eq!(run(all(&mut store)).len(), 10);
}

//! RocksDB keeps what memory keeps, flushes all families at once, and tells what a flush holds.

use super::{RocksOptions, RocksStore, RocksWriter, StateStats, StatisticsLevel, View};
use crate::model::{LogPosition, Lsn, Operation, Record};
use crate::state::apply_test::{LOG, any_records, batches, open, run, shard};
use crate::state::{Applier, ChangeSet, Family, Order, Store, StoreError, digest, digest_of};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// What a kill leaves: the files as they are, with nothing closed or flushed.
fn image(of: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(of).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Of the values some are large here.
fn rocks(directory: &Path) -> Applier<RocksWriter> {
    let options = RocksOptions { large_value_bytes: 24, ..RocksOptions::default() };
    let store = RocksStore::open_with(directory, &options).unwrap();
    Applier::open(RocksWriter::new(Arc::new(store)), shard(), LOG).unwrap()
}

fn entries<V: View>(view: &V, family: Family, from: &[u8], order: Order) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    view.scan(family, from, order, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn i4_memory_and_rocksdb_agree_on_any_log_entry_by_entry(
        records in any_records(), cuts in prop::collection::vec(1_usize..6, 1..5),
        from in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let log = batches(&records, &cuts);
        let memory = run(open(Default::default()), &log, &[3]);
        let directory = tempfile::tempdir().unwrap();
        let disk = run(rocks(directory.path()), &log, &[1, 2]);
        prop_assert_eq!(disk.applied(), memory.applied());
        for family in Family::ALL {
            for order in [Order::Ascending, Order::Descending] {
                let from = if order == Order::Ascending { &from[..] } else { &[0xff; 40][..] };
                let (disk, memory) = (disk.store(), memory.store());
                prop_assert_eq!(entries(disk, family, from, order), entries(memory, family, from, order));
            }
        }
        prop_assert_eq!(digest(&disk.store().shared().snapshot()).unwrap(), digest(memory.store()).unwrap());
    }

    #[test]
    fn what_was_flushed_is_there_after_a_kill_and_the_rest_is_replayed(
        records in any_records(), flush_at in any::<prop::sample::Index>(), kill_at in any::<prop::sample::Index>(),
    ) {
        let log = batches(&records, &[1, 3, 2]);
        let (flush_at, kill_at) = (flush_at.index(log.len()), kill_at.index(log.len()));
        let directory = tempfile::tempdir().unwrap();
        let (before, after) = (directory.path().join("a/b"), directory.path().join("c"));
        let mut applier = rocks(&before);
        let mut flushed = None;
        for (index, batch) in log.iter().enumerate().take(kill_at + 1) {
            applier.apply(std::slice::from_ref(batch)).unwrap();
            if index == flush_at {
                applier.store().shared().flush().unwrap();
                flushed = Some(applier.applied());
            }
        }
        prop_assert_eq!(applier.store().shared().persisted_applied(shard().shard).unwrap(), flushed);
        image(&before, &after);
        let again = rocks(&after);
        let from = flushed.unwrap_or_else(|| LogPosition::origin(LOG));
        prop_assert_eq!(again.applied(), from, "all families are of one position");
        let again = run(again, &log, &[2]);
        let straight = run(open(Default::default()), &log, &[1]);
        let (at, found) = digest_of(&again.store().shared().snapshot(), &shard(), LOG).unwrap();
        prop_assert_eq!((at, found), (straight.applied(), digest(straight.store()).unwrap()), "I4");
    }
}

#[test]
fn a_flush_that_rocksdb_makes_by_itself_holds_all_families_of_one_position() {
    let directory = tempfile::tempdir().unwrap();
    let (before, after) = (directory.path().join("a"), directory.path().join("b"));
    // Memory runs full of values, so that it is their family that wants a flush.
    let options = RocksOptions { unflushed_bytes: 256 << 10, ..RocksOptions::default() };
    let store = Arc::new(RocksStore::open_with(&before, &options).unwrap());
    let mut applier = Applier::open(RocksWriter::new(Arc::clone(&store)), shard(), LOG).unwrap();
    let record = |number: usize| {
        let key = bytes::Bytes::from(format!("{number:06}"));
        Record::of(vec![Operation::Put { key, value: vec![7; 16 << 10].into() }])
    };
    let log = batches(&(0..200).map(record).collect::<Vec<_>>(), &[1]);
    applier = run(applier, &log, &[1]);
    let mut idle = rocksdb::WaitForCompactOptions::default();
    idle.set_flush(false);
    store.db.wait_for_compact(&idle).unwrap();
    let persisted = store.persisted_applied(shard().shard).unwrap().expect("RocksDB flushed by itself");
    assert!(persisted.lsn > Lsn::ZERO && persisted.lsn <= applier.applied().lsn);
    image(&before, &after);
    let again = rocks(&after);
    assert_eq!(again.applied(), persisted);
    let straight = run(open(Default::default()), &log[..usize::try_from(persisted.lsn.get()).unwrap()], &[1]);
    assert_eq!(digest(again.store()).unwrap(), digest(straight.store()).unwrap(), "I4: no entry is ahead or behind");
}

/// A million sessions were slow to use: each request read the filter of the file that held them, 1.5 MB, since it was larger
/// than its part of the cache and so never stayed there.
#[test]
fn the_filter_of_a_file_with_very_many_entries_stays_in_the_cache() {
    const ENTRIES: u64 = 1_500_000;
    let directory = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(directory.path()).unwrap();
    let key = |number: u64| number.swap_bytes().to_le_bytes().to_vec();
    for from in (0..ENTRIES).step_by(100_000) {
        let mut changes = ChangeSet::default();
        (from..from + 100_000).for_each(|number| changes.put(Family::Sessions, key(number), vec![1]));
        store.commit(&changes).unwrap();
    }
    store.flush().unwrap();
    // Written anew: the filters of files that a flush made stay in anyhow.
    let mut anew = rocksdb::CompactOptions::default();
    anew.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
    store.db.compact_range_cf_opt(store.family(Family::Sessions).unwrap(), None::<&[u8]>, None::<&[u8]>, &anew);
    for number in [3, ENTRIES / 2, ENTRIES - 1] {
        assert!(store.get(Family::Sessions, &key(number)).unwrap().is_some());
    }
    let filter = ENTRIES * 10 / 8;
    let cached = store.stats().unwrap().cache_bytes;
    assert!(cached >= filter, "{cached} bytes are cached, less than the filter's {filter}");
}

#[test]
fn a_snapshot_shows_one_moment_whatever_is_written_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(directory.path()).unwrap();
    let put = |value: &[u8]| {
        let mut changes = ChangeSet::default();
        changes.put(Family::Values, b"k", value);
        changes
    };
    store.commit(&put(b"1")).unwrap();
    let shared = Arc::new(store);
    let snapshot = shared.snapshot();
    let mut writer = RocksWriter::new(Arc::clone(&shared));
    writer.commit(&put(b"2")).unwrap();
    assert_eq!(snapshot.get(Family::Values, b"k").unwrap(), Some(b"1".to_vec()));
    assert_eq!(entries(&snapshot, Family::Values, b"", Order::Ascending).len(), 1);
    assert_eq!(shared.get(Family::Values, b"k").unwrap(), Some(b"2".to_vec()));
}

#[test]
fn a_state_in_use_a_file_in_the_way_and_a_newer_family_are_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let store = RocksStore::open(&path).unwrap();
    let error = RocksStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }) && error.to_string().contains("state"), "{error}");
    drop(store);

    std::fs::write(directory.path().join("file"), b"").unwrap();
    let error = RocksStore::open(&directory.path().join("file/state")).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");

    let options = RocksOptions::default();
    let mut db = rocksdb::DB::open_cf_descriptors(&options.database(), &path, options.families()).unwrap();
    db.create_cf("timers", &rocksdb::Options::default()).unwrap();
    drop(db);
    let error = RocksStore::open(&path).unwrap_err();
    assert!(matches!(&error, StoreError::Newer { family, .. } if family == "timers"), "{error}");
}

#[test]
fn a_damaged_file_is_an_error_that_says_damage_never_a_missing_key() {
    let directory = tempfile::tempdir().unwrap();
    let store = {
        let mut store = RocksStore::open(directory.path()).unwrap();
        let mut changes = ChangeSet::default();
        for number in 0..1000_u32 {
            changes.put(Family::Values, format!("{number:06}").into_bytes(), vec![7; 100]);
        }
        store.commit(&changes).unwrap();
        store.flush().unwrap();
        store
    };
    drop(store);
    let tables = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = tables.filter(|path| path.extension().is_some_and(|e| e == "sst")).collect();
    for path in &tables {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[100] ^= 0xff;
        std::fs::write(path, bytes).unwrap();
    }
    let outcome = RocksStore::open(directory.path()).and_then(|store| store.get(Family::Values, b"000001"));
    assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{outcome:?}");
}

#[test]
fn rocksdb_counts_and_measures_what_it_is_told_to() {
    let told = [StatisticsLevel::Off, StatisticsLevel::Counters, StatisticsLevel::Times].map(|level| {
        let directory = tempfile::tempdir().unwrap();
        let options = RocksOptions { statistics: level, ..RocksOptions::default() };
        let mut store = RocksStore::open_with(&directory.path().join("state"), &options).unwrap();
        for key in [b"a", b"b"] {
            let mut changes = ChangeSet::default();
            changes.put(Family::Values, key, vec![7; 1000]);
            store.commit(&changes).unwrap();
            store.flush().unwrap();
        }
        for _ in 0..3 {
            assert!(store.get(Family::Values, b"a").unwrap().is_some());
        }
        store.scan(Family::Values, b"", Order::Ascending, &mut |_, _| ControlFlow::Break(())).unwrap();
        store.stats().unwrap()
    });
    let counted = |stats: &StateStats| {
        let StateStats { get, seek, commit, flush, .. } = stats;
        ([get.count, seek.count, commit.count, flush.count], stats.cache_hits > 0, stats.flushed_bytes > 0)
    };
    assert_eq!(counted(&told[0]), ([0; 4], false, false));
    assert_eq!(counted(&told[1]), ([0; 4], true, true));
    let (counts, hits, flushed) = counted(&told[2]);
    assert!(counts[..3] == [3, 1, 2] && counts[3] >= 2 && hits && flushed, "{:?}", told[2]);
    assert!(told[2].flush.max > 0 && told[2].flush.sum >= told[2].flush.max && told[2].file_read.count > 0);
    assert!(told[2].filter_hits > 0, "the newer file does not hold it, says its filter");
}

/// One large value now and then: each flush makes a file of it, which holds little else.
#[test]
fn a_flush_makes_one_file_of_large_values_at_the_most_and_a_compaction_of_everything_merges_them() {
    const FLUSHES: u64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let mut store = RocksStore::open(&directory.path().join("state")).unwrap();
    let value = |number: u64| vec![number.to_le_bytes()[0]; 100_000];
    for number in 0..FLUSHES {
        let mut changes = ChangeSet::default();
        changes.put(Family::Values, number.to_le_bytes(), value(number));
        changes.put(Family::Values, [b"small", &number.to_le_bytes()[..]].concat(), b"v");
        store.commit(&changes).unwrap();
        store.flush().unwrap();
        assert!(store.stats().unwrap().large_value_files <= number + 1);
    }
    assert!(store.stats().unwrap().large_value_files > 1);
    store.compact().unwrap();
    assert_eq!(store.stats().unwrap().large_value_files, 1);
    for number in 0..FLUSHES {
        assert_eq!(store.get(Family::Values, &number.to_le_bytes()).unwrap(), Some(value(number)));
    }
}

//! Apply: deterministic, all or nothing, once.

use super::{
    Applier, ApplyError, BatchContentError, Family, MemStore, Order, Store, View, check_batch, digest, get_value,
    read_stream,
};
use crate::model::request::Direction;
use crate::model::{
    Assignment, ControlRecord, DirectoryId, Epoch, EpochStart, Expect, LogId, LogPosition, Lsn, NamespaceId, NodeId,
    Operation, Outcome, Precondition, Record, Rejection, ShardDescriptor, ShardId, Target,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

const NS: NamespaceId = NamespaceId::new(1);
pub(super) const LOG: LogId = LogId::new(5);

pub(super) fn shard() -> ShardDescriptor {
    ShardDescriptor { shard: ShardId::new(1024), namespace: NS, start: Vec::new(), end: Vec::new() }
}

pub(super) fn open(store: MemStore) -> Applier<MemStore> {
    Applier::open(store, shard(), LOG).unwrap()
}

fn batch(prev: LogPosition, records: &[Record]) -> Batch {
    let mut raw = BytesMut::new();
    records.iter().for_each(|record| record.encode_into(&mut raw).unwrap());
    let block = Block::encode(raw.freeze(), u32::try_from(records.len()).unwrap(), Compression::Never);
    let builder = BatchBuilder::new(LOG, BatchKind::Data, Epoch { version: 1, term: 1 }, prev, 1);
    builder.block(block).seal().unwrap()
}

pub(super) fn batches(records: &[Record], cuts: &[usize]) -> Vec<Batch> {
    let mut prev = LogPosition::origin(LOG);
    let mut out: Vec<Batch> = Vec::new();
    let mut rest = records;
    let mut cuts = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let count = cuts.next().unwrap_or(1).clamp(1, rest.len());
        let (head, tail) = rest.split_at(count);
        out.push(batch(prev, head));
        prev = out.last().unwrap().position();
        rest = tail;
    }
    out
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn put(key: &'static str, value: &'static str) -> Operation {
    Operation::Put { key: text(key), value: text(value) }
}

fn append(stream: &'static str, expect: Expect, value: &'static str) -> Operation {
    Operation::Append { stream: text(stream), expect, metadata: text("m"), value: text(value) }
}

fn outcomes(applier: &mut Applier<MemStore>, records: &[Record]) -> Vec<Outcome> {
    let batch = batch(applier.applied(), records);
    applier.apply(&[batch]).unwrap().into_iter().map(|applied| applied.outcome.unwrap()).collect()
}

#[test]
fn a_streams_versions_count_from_one_and_an_expected_version_is_held_to() {
    let mut applier = open(MemStore::new());
    let records = [
        Record::of(vec![append("s", Expect::Absent, "a"), append("s", Expect::Any, "b")]),
        Record::of(vec![append("s", Expect::Version(2), "c")]),
        Record::of(vec![append("s", Expect::Version(2), "late")]),
        Record::of(vec![append("s", Expect::Absent, "late")]),
    ];
    let got = outcomes(&mut applier, &records);
    let late = Outcome::Rejected(Rejection::StreamVersion { index: 0, actual: 3 });
    assert_eq!(got, [Outcome::Applied { version: 2 }, Outcome::Applied { version: 3 }, late, late]);
    let read = read_stream(applier.store(), NS, b"s", 1, Direction::Forward, 10, 1000).unwrap();
    let values: Vec<_> = read.events.iter().map(|event| event.value.as_slice()).collect();
    assert_eq!(values, [b"a", b"b", b"c"]);
    assert_eq!((read.head, read.more), (3, false));
    let last = read_stream(applier.store(), NS, b"s", 0, Direction::Backward, 1, 1000).unwrap();
    assert_eq!((last.events[0].version, last.more), (3, true));
}

#[test]
fn a_rejected_record_leaves_nothing_but_the_note_that_it_was_rejected() {
    let mut applier = open(MemStore::new());
    let record = Record::of(vec![put("k", "v"), append("s", Expect::Version(9), "x"), put("l", "w")]);
    let got = outcomes(&mut applier, &[record]);
    assert_eq!(got, [Outcome::Rejected(Rejection::StreamVersion { index: 1, actual: 0 })]);
    assert_eq!(get_value(applier.store(), NS, b"k").unwrap(), None);
    assert_eq!(get_value(applier.store(), NS, b"l").unwrap(), None);
}

#[test]
fn preconditions_see_the_records_before_them_in_the_same_batch() {
    let mut applier = open(MemStore::new());
    let on = |expect| Precondition { target: Target::Key, key: text("k"), expect };
    let with = |expect, operation| Record { preconditions: vec![on(expect)], ..Record::of(vec![operation]) };
    let got = outcomes(
        &mut applier,
        &[
            with(Expect::Absent, put("k", "1")),
            with(Expect::Absent, put("k", "2")),
            with(Expect::Version(1), Operation::Delete { key: text("k") }),
            with(Expect::Present, put("k", "3")),
        ],
    );
    assert_eq!(got[0], Outcome::Applied { version: 1 });
    assert_eq!(got[1], Outcome::Rejected(Rejection::Precondition { index: 0, actual: 1 }));
    assert_eq!(got[2], Outcome::Applied { version: 0 });
    assert_eq!(got[3], Outcome::Rejected(Rejection::Precondition { index: 0, actual: 0 }));
}

#[test]
fn deletes_of_ranges_streams_and_events_see_what_the_same_call_wrote() {
    let mut applier = open(MemStore::new());
    outcomes(&mut applier, &[Record::of(vec![put("a", "1"), append("s", Expect::Any, "1")])]);
    let range = Operation::DeleteRange { start: text("a"), end: text("c") };
    let trim = Operation::TrimStream { stream: text("s"), before: 2 };
    let got = outcomes(
        &mut applier,
        &[
            Record::of(vec![put("b", "2"), append("s", Expect::Any, "2")]),
            Record::of(vec![put("bb", "3"), range, put("c", "4"), trim]),
        ],
    );
    assert_eq!(got[1], Outcome::Applied { version: 2 });
    for (key, there) in [("a", false), ("b", false), ("bb", false), ("c", true)] {
        assert_eq!(get_value(applier.store(), NS, key.as_bytes()).unwrap().is_some(), there, "{key}");
    }
    let read = read_stream(applier.store(), NS, b"s", 1, Direction::Forward, 10, 1000).unwrap();
    assert_eq!(read.events.iter().map(|event| event.version).collect::<Vec<_>>(), [2]);
    outcomes(&mut applier, &[Record::of(vec![Operation::DeleteStream { stream: text("s") }])]);
    let got = outcomes(&mut applier, &[Record::of(vec![append("s", Expect::Absent, "again")])]);
    assert_eq!(got, [Outcome::Applied { version: 1 }]);
}

#[test]
fn a_batch_that_is_not_the_next_is_refused_and_one_that_is_applied_is_passed_over() {
    let mut applier = open(MemStore::new());
    let all = batches(&[Record::of(vec![put("a", "1")]), Record::of(vec![put("b", "1")])], &[1]);
    let error = applier.apply(&all[1..]).unwrap_err();
    assert_eq!(error, ApplyError::NotNext { applied: Lsn::ZERO, found: Lsn::new(2) });
    applier.apply(&all[..1]).unwrap();
    assert_eq!(applier.apply(&all).unwrap().len(), 1, "the first is passed over");
}

#[test]
fn a_batch_that_this_release_cannot_execute_is_found_before_it_can_commit() {
    let block = Block::encode(text("not a record"), 1, Compression::Never);
    let epoch = Epoch { version: 1, term: 1 };
    let builder = BatchBuilder::new(LOG, BatchKind::Data, epoch, LogPosition::origin(LOG), 1);
    let poison = builder.block(block).seal().unwrap();
    let error = check_batch(&poison).unwrap_err();
    assert!(matches!(error, ApplyError::Content(BatchContentError::Record { lsn: Lsn::FIRST, .. })), "{error}");
    let mut applier = open(MemStore::new());
    let before = digest(applier.store()).unwrap();
    assert!(applier.apply(&[poison]).is_err());
    assert_eq!(digest(applier.store()).unwrap(), before);
}

/// An `EpochStart` behind `prev` that says of the shard what `shard` says.
fn epoch_start(prev: LogPosition, term: u32, shard: ShardDescriptor) -> Batch {
    let epoch = Epoch { version: 1, term };
    let voters = vec![NodeId::new(1)];
    let assignment = Assignment {
        log: LOG,
        epoch,
        leader: NodeId::new(1),
        voters: voters.clone(),
        learners: Vec::new(),
        fence: voters,
        fence_quorum: 1,
        directories: [(NodeId::new(1), DirectoryId::default())].into(),
        founding: false,
        shard,
    };
    let raw = ControlRecord::EpochStart(EpochStart { assignment, parent: prev }).encode().unwrap();
    let builder = BatchBuilder::new(LOG, BatchKind::Control, epoch, prev, 1);
    builder.block(Block::encode(raw, 1, Compression::Never)).seal().unwrap()
}

#[test]
fn an_epoch_start_is_remembered_and_what_it_says_of_the_shard_stands() {
    let mut applier = open(MemStore::new());
    let narrow = ShardDescriptor { start: b"b".to_vec(), end: b"d".to_vec(), ..shard() };
    let start = epoch_start(applier.applied(), 1, narrow.clone());
    check_batch(&start).unwrap();
    let applied = applier.apply(&[start]).unwrap();
    assert_eq!((applied[0].lsn, applied[0].outcome), (Lsn::FIRST, None));
    let before = digest(applier.store()).unwrap();
    assert_eq!(before, digest(&MemStore::new()).unwrap(), "what a node knows of its shard is no content");

    let mut again = open(applier.into_store());
    assert_eq!(again.shard(), &narrow);
    assert_eq!(again.epoch_start().unwrap().unwrap().0, Lsn::FIRST);

    let foreign = ShardDescriptor { shard: ShardId::new(7), ..shard() };
    let error = again.apply(&[epoch_start(again.applied(), 2, foreign)]).unwrap_err();
    assert!(matches!(error, ApplyError::ForeignShard { found, .. } if found == ShardId::new(7)), "{error}");
}

#[test]
fn a_control_record_that_speaks_of_another_place_is_refused_before_it_can_commit() {
    let (one, two) = (LogPosition::origin(LOG), LogPosition { lsn: Lsn::new(4), ..LogPosition::origin(LOG) });
    let start = epoch_start(one, 1, shard());
    let raw = start.blocks().next().unwrap();
    let seal = |kind, epoch, prev| BatchBuilder::new(LOG, kind, epoch, prev, 1).block(raw.clone()).seal().unwrap();
    let epoch = Epoch { version: 1, term: 1 };
    check_batch(&seal(BatchKind::Control, epoch, one)).unwrap();
    let later = Epoch { version: 1, term: 2 };
    for (batch, wrong) in
        [(seal(BatchKind::Control, later, one), "epoch"), (seal(BatchKind::Control, epoch, two), "parent")]
    {
        let error = check_batch(&batch).unwrap_err();
        assert!(
            matches!(&error, ApplyError::Content(BatchContentError::Misplaced { field, .. }) if *field == wrong),
            "{error}"
        );
    }
    assert!(check_batch(&seal(BatchKind::Data, epoch, one)).is_err(), "a control record is no write");
}

#[test]
fn a_range_is_deleted_within_the_shards_own_keys_only() {
    let mut applier = open(MemStore::new());
    let keys = ["a", "b", "c", "d"];
    outcomes(&mut applier, &keys.map(|key| Record::of(vec![put(key, "v")])));
    let narrow = ShardDescriptor { start: b"b".to_vec(), end: b"d".to_vec(), ..shard() };
    let start = epoch_start(applier.applied(), 1, narrow);
    applier.apply(&[start]).unwrap();
    outcomes(&mut applier, &[Record::of(vec![Operation::DeleteRange { start: text("a"), end: text("z") }])]);
    let left = keys.map(|key| get_value(applier.store(), NS, key.as_bytes()).unwrap().is_some());
    assert_eq!(left, [true, false, false, true]);
}

#[test]
fn a_batch_of_another_history_that_ends_where_the_state_is_is_not_passed_over() {
    let mut applier = open(MemStore::new());
    outcomes(&mut applier, &[Record::of(vec![put("a", "1")])]);
    let other = batch(LogPosition::origin(LOG), &[Record::of(vec![put("a", "2")])]);
    assert!(matches!(applier.apply(&[other]), Err(ApplyError::Diverged { .. })));
    let foreign = Applier::open(applier.into_store(), shard(), LogId::new(6));
    assert!(matches!(foreign, Err(ApplyError::ForeignLog { .. })));
}

#[test]
fn a_call_that_fails_at_its_last_record_changes_nothing() {
    let mut applier = open(MemStore::new());
    let good = batch(applier.applied(), &[Record::of(vec![put("a", "1")])]);
    let block = Block::encode(text("not a record"), 1, Compression::Never);
    let epoch = Epoch { version: 1, term: 1 };
    let poison = BatchBuilder::new(LOG, BatchKind::Data, epoch, good.position(), 1).block(block).seal().unwrap();
    let error = applier.apply(&[good.clone(), poison]).unwrap_err();
    assert!(matches!(error, ApplyError::Content(BatchContentError::Record { .. })), "{error}");
    assert_eq!(applier.applied(), LogPosition::origin(LOG));
    assert_eq!(applier.store().running_digest(), 0);
    assert_eq!(applier.apply(&[good]).unwrap().len(), 1);
}

#[test]
fn rejected_records_are_state_under_the_name_of_their_log() {
    let mut applier = open(MemStore::new());
    outcomes(&mut applier, &[Record::of(vec![append("s", Expect::Present, "x")])]);
    let mut found = Vec::new();
    applier
        .store()
        .scan(Family::Rejected, &[], Order::Ascending, &mut |key, _| {
            found.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, [super::key::rejected_key(NS, LOG, Lsn::FIRST)]);
    assert_ne!(digest(applier.store()).unwrap(), digest(&MemStore::new()).unwrap());
}

#[test]
fn a_trimmed_stream_is_read_from_its_first_event_and_counts_on() {
    let mut applier = open(MemStore::new());
    let event = |value| Record::of(vec![append("s", Expect::Any, value)]);
    let trim = |before| Record::of(vec![Operation::TrimStream { stream: text("s"), before }]);
    let got = outcomes(&mut applier, &[event("a"), event("b"), event("c"), trim(3), trim(2), trim(0)]);
    assert_eq!(got[3..], [Outcome::Applied { version: 3 }; 3]);
    let read = |applier: &Applier<MemStore>, direction, from| {
        let read = read_stream(applier.store(), NS, b"s", from, direction, 10, 1000).unwrap();
        (read.events.iter().map(|event| event.version).collect::<Vec<_>>(), read.head, read.more)
    };
    assert_eq!(read(&applier, Direction::Forward, 1), (vec![3], 3, false));
    let got = outcomes(&mut applier, &[trim(u64::MAX)]);
    assert_eq!(got, [Outcome::Applied { version: 3 }]);
    assert_eq!(read(&applier, Direction::Backward, 0), (vec![], 3, false));
    let got = outcomes(&mut applier, &[event("d"), Record::of(vec![append("s", Expect::Absent, "x")])]);
    assert_eq!(got[0], Outcome::Applied { version: 4 });
    assert_eq!(got[1], Outcome::Rejected(Rejection::StreamVersion { index: 0, actual: 4 }));
    assert_eq!(read(&applier, Direction::Forward, 0), (vec![4], 4, false));
}

fn any_name() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff)], 1..3).prop_map(Bytes::from)
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let expect =
        prop_oneof![3 => Just(Expect::Any), 1 => Just(Expect::Absent), 1 => (0_u64..4).prop_map(Expect::Version)];
    let value = prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from);
    prop_oneof![
        3 => (any_name(), value.clone()).prop_map(|(key, value)| Operation::Put { key, value }),
        1 => any_name().prop_map(|key| Operation::Delete { key }),
        1 => (any_name(), any_name()).prop_map(|(start, end)| Operation::DeleteRange { start, end }),
        4 => (any_name(), expect, value).prop_map(|(stream, expect, value)| {
            Operation::Append { stream, expect, metadata: Bytes::new(), value }
        }),
        1 => (any_name(), 0_u64..5).prop_map(|(stream, before)| Operation::TrimStream { stream, before }),
        1 => any_name().prop_map(|stream| Operation::DeleteStream { stream }),
    ]
}

pub(super) fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let precondition = (any_name(), prop_oneof![Just(Expect::Absent), Just(Expect::Present)], any::<bool>()).prop_map(
        |(key, expect, stream)| {
            let target = if stream { Target::Stream } else { Target::Key };
            Precondition { target, key, expect }
        },
    );
    let record = (prop::collection::vec(precondition, 0..2), prop::collection::vec(any_operation(), 1..4))
        .prop_map(|(preconditions, operations)| Record { preconditions, ..Record::of(operations) });
    prop::collection::vec(record, 1..40)
}

/// Applies batches from where the state is, a few at a time.
pub(super) fn run<S: Store>(mut applier: Applier<S>, log: &[Batch], steps: &[usize]) -> Applier<S> {
    let mut steps = steps.iter().copied().cycle();
    while let Some(next) = log.iter().position(|batch| batch.first_lsn() > applier.applied().lsn) {
        let count = steps.next().unwrap_or(1).clamp(1, log.len() - next);
        applier.apply(&log[next..next + count]).unwrap();
    }
    applier
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn i4_the_state_depends_on_the_log_alone_not_on_how_it_was_cut_or_grouped(
        records in any_records(), cuts in prop::collection::vec(1_usize..6, 1..5),
        one in prop::collection::vec(1_usize..5, 1..5), other in prop::collection::vec(1_usize..5, 1..5),
    ) {
        let log = batches(&records, &cuts);
        let (one, other) = (run(open(MemStore::new()), &log, &one), run(open(MemStore::new()), &log, &other));
        prop_assert_eq!(digest(one.store()).unwrap(), digest(other.store()).unwrap());
        prop_assert_eq!(one.store().running_digest(), other.store().running_digest());
    }

    #[test]
    fn i4_a_replay_after_a_crash_at_any_point_gives_the_state_of_never_having_crashed(
        records in any_records(), flush_at in any::<prop::sample::Index>(), crash_at in any::<prop::sample::Index>(),
    ) {
        let log = batches(&records, &[1, 3, 2]);
        let straight = run(open(MemStore::new()), &log, &[1]);
        let (flush_at, crash_at) = (flush_at.index(log.len()), crash_at.index(log.len()));
        let mut applier = open(MemStore::new());
        for (index, batch) in log.iter().enumerate().take(crash_at + 1) {
            applier.apply(std::slice::from_ref(batch)).unwrap();
            if index == flush_at {
                applier.store_mut().flush();
            }
        }
        let mut store = applier.store().clone();
        store.crash();
        let again = run(open(store), &log, &[2]);
        prop_assert_eq!(again.applied(), straight.applied());
        prop_assert_eq!(digest(again.store()).unwrap(), digest(straight.store()).unwrap());
    }
}

//! Sessions: whatever is tried again, lost, late, or replayed, each request has one effect and one answer.

use super::apply_test::{LOG, open, shard};
use super::key;
use super::sessions::SESSIONS_OF_A_TRIM;
use super::{Applied, Applier, Family, MemStore, View as _, check_batch, digest, digest_of, read_stream, rejected};
use crate::model::limits::REQUESTS_WAITING_MAX;
use crate::model::request::Direction;
use crate::model::{
    ControlRecord, Epoch, Expect, LogPosition, Lsn, Operation, Outcome, Precondition, Record, Rejection, RequestId,
    Target, session_id,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

const EPOCH: Epoch = Epoch { version: 1, term: 1 };

/// What lies in the log at one LSN.
#[derive(Debug, Clone)]
enum Item {
    Write(Record),
    Control(ControlRecord),
}

fn batch(prev: LogPosition, items: &[Item]) -> Batch {
    let epoch = EPOCH;
    let block = |raw| Block::encode(raw, 1, Compression::Never);
    let is_control = matches!(items[0], Item::Control(_));
    let kind = if is_control { BatchKind::Control } else { BatchKind::Data };
    let mut builder = BatchBuilder::new(LOG, kind, epoch, prev, 1);
    for item in items {
        builder = builder.block(block(match item {
            Item::Write(record) => record.encode().unwrap(),
            Item::Control(record) => record.encode().unwrap(),
        }));
    }
    builder.seal().unwrap()
}

/// Batches of one kind each, of so many records at the most.
fn batches(items: &[Item], cuts: &[usize]) -> Vec<Batch> {
    let (mut prev, mut out, mut rest) = (LogPosition::origin(LOG), Vec::new(), items);
    let mut cuts = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let kind = |item: &Item| matches!(item, Item::Control(_));
        let alike = rest.iter().take_while(|item| kind(item) == kind(&rest[0])).count();
        let (head, tail) = rest.split_at(cuts.next().unwrap_or(1).clamp(1, alike));
        let sealed = batch(prev, head);
        check_batch(&sealed).unwrap();
        prev = sealed.position();
        out.push(sealed);
        rest = tail;
    }
    out
}

/// The first session that a test opens is at LSN 1.
fn name(session: u128) -> u128 {
    if session == session_id(shard().shard, EPOCH, Lsn::FIRST) { 1 } else { session }
}

fn request(session: u128, number: u64, ack_low: u64, after: u64) -> Record {
    // What it does tells whose it is, so that two effects of one request would show.
    let value = format!("{}/{number}", name(session)).into_bytes().into();
    let append = Operation::Append { stream: "s".into(), expect: Expect::Any, metadata: Default::default(), value };
    let request = RequestId { session, number, ack_low, after };
    Record { request, ..Record::of(vec![append]) }
}

fn opened() -> Item {
    Item::Control(ControlRecord::OpenSession { sessions_max: 3 })
}

/// Opens a session: its id.
fn begin(applier: &mut Applier<MemStore>) -> u128 {
    let applied = apply(applier, opened());
    assert_eq!(applied.outcome, Some(Outcome::Applied { version: applied.lsn.get() }));
    session_id(shard().shard, EPOCH, applied.lsn)
}

/// Applies one item more.
fn apply(applier: &mut Applier<MemStore>, item: Item) -> Applied {
    let batch = batch(applier.applied(), &[item]);
    applier.apply(&[batch]).unwrap().remove(0)
}

fn answer(applier: &mut Applier<MemStore>, record: Record) -> (Outcome, Option<Lsn>) {
    let applied = apply(applier, Item::Write(record));
    (applied.outcome.unwrap(), applied.executed.map(|(_, lsn)| lsn))
}

fn events(applier: &Applier<MemStore>) -> Vec<String> {
    let read = read_stream(applier.store(), shard().namespace, b"s", 1, Direction::Forward, usize::MAX, usize::MAX);
    read.unwrap().events.into_iter().map(|event| String::from_utf8(event.value).unwrap()).collect()
}

#[test]
fn a_retry_hears_what_came_of_the_first_and_where_and_has_no_effect() {
    let mut applier = open(MemStore::new());
    let id = begin(&mut applier);
    assert_eq!(answer(&mut applier, request(id, 1, 1, 0)), (Outcome::Applied { version: 1 }, None));
    let mut refused = request(id, 2, 1, 1);
    refused.preconditions.push(Precondition { target: Target::Key, key: "k".into(), expect: Expect::Present });
    let rejection = Outcome::Rejected(Rejection::Precondition { index: 0, actual: 0 });
    assert_eq!(answer(&mut applier, refused.clone()), (rejection, None));
    // By now it would be applied: but it was answered.
    let put = Operation::Put { key: "k".into(), value: "v".into() };
    apply(&mut applier, Item::Write(Record::of(vec![put])));
    assert_eq!(answer(&mut applier, refused), (rejection, Some(Lsn::new(3))));
    assert_eq!(answer(&mut applier, request(id, 1, 1, 0)), (Outcome::Applied { version: 1 }, Some(Lsn::new(2))));
    assert_eq!(events(&applier), ["1/1"]);
    let rejected = rejected(applier.store(), shard().namespace, LOG, Lsn::FIRST, Lsn::MAX).unwrap();
    assert_eq!(rejected, [3, 5, 6].map(Lsn::new), "a feed leaves retries out");
}

#[test]
fn i6_a_request_does_not_overtake_another_one_of_its_session_unless_it_gives_up_the_order() {
    let mut applier = open(MemStore::new());
    let id = begin(&mut applier);
    let late = Outcome::Rejected(Rejection::OutOfOrder { after: 1 });
    assert_eq!(answer(&mut applier, request(id, 2, 1, 1)).0, late);
    let free = Record { unordered: true, ..request(id, 3, 1, 1) };
    assert_eq!(answer(&mut applier, free).0, Outcome::Applied { version: 1 });
    answer(&mut applier, request(id, 1, 1, 0));
    assert_eq!(answer(&mut applier, request(id, 2, 1, 1)), (Outcome::Applied { version: 3 }, None), "it was not final");
    // One that was given up does not hold up those behind it, and does not come after them.
    assert_eq!(answer(&mut applier, request(id, 5, 5, 4)).0, Outcome::Applied { version: 4 });
    assert_eq!(answer(&mut applier, request(id, 4, 1, 2)).0, Outcome::Rejected(Rejection::Retired));
    assert_eq!(events(&applier), ["1/3", "1/1", "1/2", "1/5"]);
}

#[test]
fn a_session_that_is_unknown_closed_or_trimmed_executes_nothing_and_there_is_a_limit_to_them() {
    let mut applier = open(MemStore::new());
    let expired = Outcome::Rejected(Rejection::SessionExpired);
    assert_eq!(answer(&mut applier, request(7, 1, 1, 0)).0, expired);
    let [one, two, three] = [(); 3].map(|()| begin(&mut applier));
    let full = Outcome::Rejected(Rejection::TooManySessions { limit: 3 });
    assert_eq!(apply(&mut applier, opened()).outcome, Some(full));
    answer(&mut applier, request(one, 1, 1, 0));
    apply(&mut applier, Item::Control(ControlRecord::CloseSession { session: one }));
    assert_eq!(answer(&mut applier, request(one, 1, 1, 0)).0, expired, "never a second execution");
    assert_eq!(apply(&mut applier, Item::Control(ControlRecord::CloseSession { session: one })).outcome, Some(expired));
    begin(&mut applier);
    let used = apply(&mut applier, Item::Write(request(two, 1, 1, 0))).lsn;
    apply(&mut applier, Item::Control(ControlRecord::Trim { sessions_before: used, rejected_before: Lsn::ZERO }));
    assert_eq!(answer(&mut applier, request(three, 1, 1, 0)).0, expired);
    assert_eq!(answer(&mut applier, request(two, 2, 1, 1)).0, Outcome::Applied { version: 3 });
    begin(&mut applier);
    begin(&mut applier);
    assert_eq!(apply(&mut applier, opened()).outcome, Some(full));
}

#[test]
fn everything_of_a_session_goes_with_it_and_only_what_is_waited_for_is_kept() {
    let mut applier = open(MemStore::new());
    let id = begin(&mut applier);
    let mut log = Vec::new();
    for number in 1..=550_u64 {
        // Many are acknowledged at one time, or few.
        let step = if number < 300 { 100 } else { 10 };
        let ack_low = (number / step * step).max(1);
        log.push(request(id, number, ack_low, number - 1));
    }
    for record in log {
        answer(&mut applier, record);
    }
    let kept = |applier: &Applier<MemStore>| {
        let known = |number: &u64| answer(&mut applier.clone(), request(id, *number, 1, 0)).1.is_some();
        (1..=550).filter(known).collect::<Vec<_>>()
    };
    assert_eq!(kept(&applier), [550]);
    apply(&mut applier, Item::Control(ControlRecord::CloseSession { session: id }));
    assert_eq!(events(&applier).len(), 550);
    apply(&mut applier, Item::Write(Record::of(vec![Operation::DeleteStream { stream: "s".into() }])));
    let rejected_before = applier.applied().lsn.next();
    let forget = ControlRecord::Trim { sessions_before: Lsn::ZERO, rejected_before };
    apply(&mut applier, Item::Control(forget.clone()));
    // As if there never had been one.
    let mut empty = open(MemStore::new());
    let id = begin(&mut empty);
    apply(&mut empty, Item::Control(ControlRecord::CloseSession { session: id }));
    apply(&mut empty, Item::Control(forget));
    assert_eq!(digest(applier.store()).unwrap(), digest(empty.store()).unwrap(), "nothing is left");
}

#[test]
fn ids_that_no_client_makes_are_refused_before_they_are_in_a_log() {
    let refused = |number, ack_low, after| request(1, number, ack_low, after).encode().is_err();
    assert!(refused(0, 0, 0) && refused(1, 0, 0) && refused(1, 2, 0) && refused(3, 1, 3));
    assert!(refused(REQUESTS_WAITING_MAX + 1, 1, 0), "more than are kept");
    assert!(!refused(REQUESTS_WAITING_MAX, 1, 0) && !refused(u64::MAX, u64::MAX, 0));
    let without = Record { request: RequestId { number: 1, ..RequestId::default() }, ..request(1, 1, 1, 0) };
    assert!(without.encode().is_err());
}

/// One step of a client, or of whatever lies between it and the log.
#[derive(Debug, Clone)]
enum Step {
    /// A new request, which reaches the log or gets lost.
    New {
        session: u8,
        lost: bool,
    },
    /// An old one, tried again, or late.
    Again {
        which: prop::sample::Index,
    },
    /// The client has all answers up to here.
    Acknowledge {
        session: u8,
    },
    Open {
        session: u8,
    },
    Close {
        session: u8,
    },
    Trim {
        before: prop::sample::Index,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let session = || 0_u8..4;
    prop_oneof![
        8 => (session(), prop::bool::weighted(0.2)).prop_map(|(session, lost)| Step::New { session, lost }),
        8 => any::<prop::sample::Index>().prop_map(|which| Step::Again { which }),
        2 => session().prop_map(|session| Step::Acknowledge { session }),
        1 => session().prop_map(|session| Step::Open { session }),
        1 => session().prop_map(|session| Step::Close { session }),
        1 => any::<prop::sample::Index>().prop_map(|before| Step::Trim { before }),
    ]
}

/// What clients made of the steps: a log.
fn log_of(steps: &[Step]) -> Vec<Item> {
    struct Client {
        id: u128,
        number: u64,
        ack_low: u64,
    }
    let mut clients: Vec<_> = (1..=4).map(|id| Client { id, number: 0, ack_low: 1 }).collect();
    let (mut log, mut made) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::New { session, lost } => {
                let client = &mut clients[usize::from(*session)];
                let after = client.number;
                client.number += 1;
                let record = request(client.id, client.number, client.ack_low, after);
                made.push(record.clone());
                if !lost {
                    log.push(Item::Write(record));
                }
            }
            Step::Again { which } if !made.is_empty() => log.push(Item::Write(made[which.index(made.len())].clone())),
            Step::Again { .. } => {}
            Step::Acknowledge { session } => {
                let client = &mut clients[usize::from(*session)];
                client.ack_low = client.number.max(1);
            }
            Step::Open { session } => {
                log.push(opened());
                let id = session_id(shard().shard, EPOCH, Lsn::new(log.len() as u64));
                clients[usize::from(*session)] = Client { id, number: 0, ack_low: 1 };
            }
            Step::Close { session } => {
                let session = clients[usize::from(*session)].id;
                log.push(Item::Control(ControlRecord::CloseSession { session }));
            }
            Step::Trim { before } => {
                let before = Lsn::new(before.index(log.len() + 1) as u64);
                log.push(Item::Control(ControlRecord::Trim { sessions_before: before, rejected_before: before }));
            }
        }
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn i5_i6_each_request_has_one_effect_and_one_answer_in_its_sessions_order(
        steps in prop::collection::vec(any_step(), 1..120), cuts in prop::collection::vec(1_usize..6, 1..5),
    ) {
        let log = log_of(&steps);
        let mut applier = open(MemStore::new());
        let mut answers: BTreeMap<(u128, u64), Outcome> = BTreeMap::new();
        let mut effects = Vec::new();
        let mut lsn = 0_usize;
        for batch in batches(&log, &cuts) {
            for applied in applier.apply(&[batch]).unwrap() {
                let item = &log[lsn];
                lsn += 1;
                let (Item::Write(record), Some(outcome)) = (item, applied.outcome) else { continue };
                let id = (record.request.session, record.request.number);
                match outcome {
                    Outcome::Rejected(rejection) if !rejection.is_final() => prop_assert_eq!(applied.executed, None),
                    outcome => {
                        let first = answers.insert(id, outcome);
                        prop_assert_eq!(first.is_some(), applied.executed.is_some(), "{:?}", id);
                        prop_assert!(first.is_none_or(|first| first == outcome), "{:?}: one answer", id);
                        if applied.executed.is_none() {
                            effects.push(format!("{}/{}", name(id.0), id.1));
                        }
                    }
                }
            }
        }
        prop_assert_eq!(&events(&applier), &effects, "what was answered as executed is what is there");
        prop_assert_eq!(effects.iter().collect::<BTreeSet<_>>().len(), effects.len(), "once");
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for effect in &effects {
            let (session, number) = effect.split_once('/').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = last.insert(session.to_owned(), number).unwrap_or(0);
            prop_assert!(before < number, "I6: {effect} behind {before}");
        }
    }

    #[test]
    fn i4_i5_crashes_replays_and_other_groups_change_nothing_of_it(
        steps in prop::collection::vec(any_step(), 1..80), cuts in prop::collection::vec(1_usize..6, 1..5),
        group in 1_usize..5, flush_at in any::<prop::sample::Index>(), crash_at in any::<prop::sample::Index>(),
    ) {
        let log = batches(&log_of(&steps), &cuts);
        prop_assume!(!log.is_empty());
        let mut straight = open(MemStore::new());
        let told: Vec<_> = log.iter().flat_map(|batch| straight.apply(std::slice::from_ref(batch)).unwrap()).collect();
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
        let mut again = open(store);
        let mut retold = Vec::new();
        let kept = log.iter().filter(|batch| batch.first_lsn() > again.applied().lsn).cloned().collect::<Vec<_>>();
        for some in kept.chunks(group) {
            retold.extend(again.apply(some).unwrap());
        }
        prop_assert_eq!(&told[told.len() - retold.len()..], &retold[..], "the same answers");
        prop_assert_eq!(digest(again.store()).unwrap(), digest(straight.store()).unwrap());
        prop_assert_eq!(digest_of(again.store(), &shard(), LOG).unwrap().1, digest(straight.store()).unwrap());
    }
}

/// A million that expired at one time were one change: seconds without a write, and a gigabyte of memory.
#[test]
fn a_trim_takes_away_a_bounded_number_of_sessions_the_same_whatever_is_stored_already() {
    let trim = |lsn| Item::Control(ControlRecord::Trim { sessions_before: lsn, rejected_before: Lsn::ZERO });
    let count = SESSIONS_OF_A_TRIM + 5;
    let mut applier = open(MemStore::new());
    let open_one = Item::Control(ControlRecord::OpenSession { sessions_max: u64::MAX });
    let begin_one =
        |applier: &mut Applier<MemStore>| session_id(shard().shard, EPOCH, apply(applier, open_one.clone()).lsn);
    let ids: Vec<u128> = (0..count).map(|_| begin_one(&mut applier)).collect();
    let is_known = |applier: &Applier<MemStore>, id: &u128| {
        applier.store().get(Family::Sessions, &key::session_key(shard().namespace, LOG, *id)).unwrap().is_some()
    };
    // Two have what came of a request: one of few results, one of more than are deleted one by one.
    for (id, requests) in [(ids[0], 1), (ids[1], 100)] {
        for number in 1..=requests {
            answer(&mut applier, request(id, number, 1, number - 1));
        }
    }
    let before = applier.applied().lsn.next();
    let mut apart = applier.clone();
    let more = |applied: &Applied| applied.outcome == Some(Outcome::Applied { version: 1 });
    assert!(more(&apply(&mut apart, trim(before))));
    let left: Vec<_> = ids.iter().filter(|id| is_known(&apart, id)).collect();
    assert_eq!(left.len(), 5);
    assert!(!more(&apply(&mut apart, trim(before))));
    assert!(!ids.iter().any(|id| is_known(&apart, id)));

    // Some of them used in the very change that takes them away: the same go.
    let used: Vec<Item> = ids[..3].iter().map(|id| Item::Write(request(*id, 200, 200, 0))).collect();
    let mut together = applier.clone();
    for item in used.clone() {
        apply(&mut applier, item);
    }
    let before = applier.applied().lsn.next();
    apply(&mut applier, trim(before));
    let first = batch(together.applied(), &used);
    let second = batch(first.position(), &[trim(before)]);
    together.apply(&[first, second]).unwrap();
    assert_eq!(digest(applier.store()).unwrap(), digest(together.store()).unwrap(), "I4");
}

/// Where sessions live on, each trim looked at all of them again to find the few that do not.
#[test]
fn a_trim_looks_on_where_the_last_one_ended_and_begins_anew_at_the_end() {
    let trim = |lsn| Item::Control(ControlRecord::Trim { sessions_before: lsn, rejected_before: Lsn::ZERO });
    let more = |applied: &Applied| applied.outcome == Some(Outcome::Applied { version: 1 });
    let mut applier = open(MemStore::new());
    let open_one = Item::Control(ControlRecord::OpenSession { sessions_max: u64::MAX });
    let opened: Vec<Item> = (0..SESSIONS_OF_A_TRIM + 2).map(|_| open_one.clone()).collect();
    let mut apply_all = |items: &[Item]| {
        for some in items.chunks(100) {
            let some = batch(applier.applied(), some);
            applier.apply(&[some]).unwrap();
        }
    };
    apply_all(&opened);
    let first = Lsn::FIRST.get();
    let mut ids: Vec<u128> =
        (first..).take(opened.len()).map(|lsn| session_id(shard().shard, EPOCH, Lsn::new(lsn))).collect();
    ids.sort_unstable();
    let is_known = |applier: &Applier<MemStore>, id: u128| {
        applier.store().get(Family::Sessions, &key::session_key(shard().namespace, LOG, id)).unwrap().is_some()
    };
    let begun = Lsn::new(first + opened.len() as u64);
    // All are used again, but for one of the first and the last of all.
    let idle = [ids[3], ids[SESSIONS_OF_A_TRIM + 1]];
    let uses = ids.iter().filter(|id| !idle.contains(id)).map(|id| Item::Write(request(*id, 1, 1, 0)));
    apply_all(&uses.collect::<Vec<_>>());
    assert!(more(&apply(&mut applier, trim(begun))), "two are left to look at");
    assert!(!is_known(&applier, idle[0]) && is_known(&applier, idle[1]));
    // Whatever happens to sessions meanwhile: one before that place is looked at in the next round.
    let late = applier.applied().lsn.next();
    assert!(!more(&apply(&mut applier, trim(begun))));
    assert!(!is_known(&applier, idle[1]) && is_known(&applier, ids[0]));
    // The next round, with all of them idle by now.
    assert!(!more(&apply(&mut applier, trim(late))), "as many as one trim looks at");
    assert!(!ids.iter().any(|id| is_known(&applier, *id)));
}

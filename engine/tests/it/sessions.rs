//! Sessions of a node: once, in order, and the same answer, over retries, reopenings and lost states.

use std::path::Path;
use std::time::Duration;
use towline::model::limits::REQUESTS_WAITING_MAX;
use towline::model::request::{Direction, FailureClass};
use towline::model::{Expect, Filter, NumberError, Outcome, Policy, Read, Rejection, Since, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions, Sent, SessionError, SessionState, WriteRefused};
use towline::pipeline::{SubmitError, SubmitPolicy};

fn open(directory: &Path) -> Node {
    Node::open(NodeOptions::alone(directory)).unwrap()
}

fn event(stream: &str, value: impl ToString) -> Write {
    Write::new().append(stream.to_owned(), Expect::Any, value.to_string())
}

fn events(space: &Namespace, stream: &str) -> Vec<String> {
    let read = space.read_stream(stream, 1, Direction::Forward, (usize::MAX, usize::MAX), Read::Linearizable).unwrap();
    read.events.into_iter().map(|event| String::from_utf8(event.value).unwrap()).collect()
}

fn count(up_to: u64) -> Vec<String> {
    (1..=up_to).map(|number| number.to_string()).collect()
}

#[test]
fn i5_a_request_that_is_tried_again_after_any_end_has_one_effect_and_its_first_answer() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    let session = space.open_session().unwrap();
    let mut first = Vec::new();
    for number in 1..=20 {
        let stream = if number % 3 == 0 { "z" } else { "a" };
        assert_eq!(session.next_number().unwrap(), number);
        first.push(session.retry(number, event(stream, number)).unwrap().wait().unwrap());
        if number % 2 == 0 {
            // As if the answer had got lost.
            assert_eq!(
                session.retry(number, event(stream, number)).unwrap().wait().unwrap(),
                first[number as usize - 1]
            );
        }
    }
    let number = session.next_number().unwrap();
    let kept: SessionState = session.state().to_string().parse().unwrap();
    assert_eq!(kept.waiting.keys().copied().collect::<Vec<_>>(), [number]);
    let last = session.retry(number, event("a", number)).unwrap().wait().unwrap();
    node.close().unwrap();
    for lose_state in [false, true] {
        if lose_state {
            std::fs::remove_dir_all(directory.path().join("state")).unwrap();
        }
        let node = open(directory.path());
        let space = node.namespace("space").unwrap();
        let session = space.resume_session(kept.clone());
        assert_eq!(session.retry(number, event("a", number)).unwrap().wait().unwrap(), last);
        assert_eq!(events(&space, "a").len() + events(&space, "z").len(), 21);
        node.close().unwrap();
    }
}

#[test]
fn i6_requests_of_many_threads_of_one_session_are_each_executed_once_and_in_the_order_of_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut receipts = Vec::new();
                for _ in 0..100 {
                    receipts.push(session.write(event("s", "x")).unwrap());
                }
                for receipt in receipts {
                    let number = receipt.number();
                    let written = receipt.wait().unwrap();
                    assert_eq!(
                        written.outcome,
                        Outcome::Applied { version: number },
                        "in order: the first is the first"
                    );
                }
            });
        }
    });
    assert_eq!(events(&space, "s").len(), 400);
    assert!(session.state().waiting.is_empty());
    node.close().unwrap();
}

#[test]
fn what_nobody_waits_for_any_more_is_refused_when_it_comes_late() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    let late = session.next_number().unwrap();
    session.give_up(late);
    session.write(event("s", "2")).unwrap().wait().unwrap();
    let refused = session.retry(late, event("s", "1")).unwrap().wait().unwrap();
    assert_eq!(refused.outcome, Outcome::Rejected(Rejection::Retired));
    assert!(session.state().waiting.is_empty(), "there is nothing more to come of it");
    assert_eq!(events(&space, "s"), ["2"]);
    node.close().unwrap();
}

#[test]
fn a_session_that_is_closed_or_of_nobody_executes_nothing_and_there_is_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let policy = Policy { sessions_max: 2, ..Policy::default() };
    let space = node.create_namespace("space", &NamespaceOptions::default().policy(policy)).unwrap();
    let (one, two) = (space.open_session().unwrap(), space.open_session().unwrap());
    match space.open_session() {
        Err(SessionError::Rejected(Rejection::TooManySessions { limit: 2 })) => {}
        other => panic!("{other:?}"),
    }
    one.clone().close().unwrap();
    let expired = one.write(event("s", 1)).unwrap().wait().unwrap();
    assert_eq!(expired.outcome, Outcome::Rejected(Rejection::SessionExpired));
    assert!(one.state().waiting.is_empty(), "there is nothing more to come");
    let three = space.open_session().unwrap();
    for session in [two, three] {
        session.write(event("s", 1)).unwrap().wait().unwrap();
    }
    // Another namespace knows nothing of it.
    let foreign = node.default_namespace().resume_session(one.state());
    let refused = foreign.write(event("s", 1)).unwrap().wait().unwrap();
    assert_eq!(refused.outcome, Outcome::Rejected(Rejection::SessionExpired));
    assert_eq!(events(&space, "s").len(), 2);
    node.close().unwrap();
}

#[test]
fn a_feed_shows_a_request_once_however_often_it_was_tried() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    for number in 1..=10 {
        for _ in 0..3 {
            session.retry(number, event("s", number)).unwrap().wait().unwrap();
        }
    }
    let mut feed = space.subscribe(Since::Beginning, Filter::All).unwrap();
    let seen = std::iter::from_fn(|| feed.wait_for(Duration::ZERO).unwrap()).count();
    assert_eq!(seen, 10);
    assert_eq!(events(&space, "s"), count(10));
    node.close().unwrap();
}

/// What was submitted and lost is not overtaken by what is tried, or written, after it.
#[test]
fn i6_a_session_that_goes_on_keeps_the_order_of_what_was_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    let shard = session.write(event("s", 1)).unwrap().wait().unwrap().shard;
    // A crash took 2 and 3 before they were durable.
    let mut state = session.state();
    for number in 2..=3 {
        state.waiting.insert(number, Some(Sent { shard, after: number - 1 }));
        state.last.insert(shard, number);
    }
    let session = space.resume_session(state);
    let answer = |number: u64| session.retry(number, event("s", number)).unwrap().wait().unwrap().outcome;
    let late = |after| Outcome::Rejected(Rejection::OutOfOrder { after });
    assert_eq!(session.write(event("s", 4)).unwrap().wait().unwrap().outcome, late(3));
    assert_eq!(answer(3), late(2));
    assert_eq!(answer(4), late(3), "also when it is tried again");
    for number in 2..=4 {
        assert_eq!(answer(number), Outcome::Applied { version: number });
    }
    assert!(session.state().waiting.is_empty());
    assert_eq!(events(&space, "s"), count(4));
    node.close().unwrap();
}

#[test]
fn a_number_that_was_used_for_another_request_is_refused_not_answered_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    let old = session.state();
    session.write(event("s", 1)).unwrap().wait().unwrap();
    let other = space.resume_session(old).write(event("s", "another")).unwrap().wait().unwrap();
    assert_eq!(other.outcome, Outcome::Rejected(Rejection::NumberReused));
    assert_eq!(events(&space, "s"), count(1));
    node.close().unwrap();
}

#[test]
fn a_number_whose_request_went_to_one_shard_is_refused_for_another_and_stays_good_for_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    let session = space.open_session().unwrap();
    let number = session.next_number().unwrap();
    let receipt = session.retry(number, event("a", 1)).unwrap();
    let elsewhere = session.retry(number, event("z", 1)).map(drop);
    assert!(
        matches!(elsewhere, Err(WriteRefused::Number(NumberError::OtherShard { number: of, .. })) if of == number),
        "{elsewhere:?}"
    );
    let again = session.retry(number, event("a", 1)).unwrap().wait().unwrap();
    assert_eq!(receipt.wait().unwrap(), again);
    assert_eq!((events(&space, "a"), events(&space, "z")), (count(1), Vec::new()));
    node.close().unwrap();
}

#[test]
fn a_receipt_that_is_dropped_gives_nothing_up_and_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    for number in 1..=300 {
        drop(session.write(event("s", number)).unwrap());
    }
    let first = session.state().waiting.keys().next().copied();
    if let Some(first) = first {
        assert!(matches!(
            session.retry(first, event("s", first)).unwrap().wait().unwrap().outcome,
            Outcome::Applied { .. }
        ));
    }
    let last = session.write(event("s", 301)).unwrap().wait().unwrap();
    assert_eq!(last.outcome, Outcome::Applied { version: 301 });
    session.write(event("s", 302)).unwrap().wait().unwrap();
    assert!(session.state().waiting.is_empty(), "{:?}", session.state().waiting);
    // What is taken and never used is named when it holds the session up.
    let never = session.next_number().unwrap();
    let far = session.retry(never + 20_000, event("s", "far"));
    assert!(
        matches!(far.map(drop), Err(WriteRefused::Number(NumberError::TooManyWaiting { lowest, .. })) if lowest == never)
    );
    session.give_up(never);
    session.retry(never + 20_000, event("s", "far")).unwrap().wait().unwrap();
    node.close().unwrap();
}

/// A number that was handed out twice made the second of two like requests hear the answer of the first, and do nothing.
#[test]
fn i5_a_session_whose_last_number_is_used_refuses_what_is_new_and_still_answers_what_was() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    let exhausted = |session: &towline::node::Session| {
        let refused = session.write(event("s", "x")).map(drop).unwrap_err();
        assert!(matches!(refused, WriteRefused::Number(NumberError::Exhausted)), "{refused}");
        assert_eq!((refused.code(), refused.class()), (6118, FailureClass::FixRequest));
        assert!(matches!(session.next_number(), Err(WriteRefused::Number(NumberError::Exhausted))));
    };
    let last = session.retry(u64::MAX, event("s", "x")).unwrap().wait().unwrap();
    exhausted(&session);
    assert_eq!(session.retry(u64::MAX, event("s", "x")).unwrap().wait().unwrap(), last);
    exhausted(&space.resume_session(session.state().to_string().parse().unwrap()));
    assert_eq!(events(&space, "s"), ["x"]);

    let other = space.open_session().unwrap();
    let near = space.resume_session(SessionState { next: Some(u64::MAX), ..other.state() });
    assert_eq!(near.next_number().unwrap(), u64::MAX);
    exhausted(&near);
    near.give_up(u64::MAX);
    exhausted(&near);
    let near = space.resume_session(SessionState { next: Some(u64::MAX), ..other.state() });
    assert_eq!(near.write(event("s", "x")).unwrap().wait().unwrap().outcome, Outcome::Applied { version: 2 });
    exhausted(&near);
    assert_eq!(events(&space, "s"), ["x", "x"]);
    node.close().unwrap();
}

#[test]
fn more_numbers_than_may_wait_are_not_handed_out() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let session = node.default_namespace().open_session().unwrap();
    for number in 1..=REQUESTS_WAITING_MAX {
        assert_eq!(session.next_number().unwrap(), number);
    }
    assert!(matches!(session.next_number(), Err(WriteRefused::Number(NumberError::TooManyWaiting { lowest: 1, .. }))));
    session.give_up(1);
    assert_eq!(session.next_number().unwrap(), REQUESTS_WAITING_MAX + 1);
    node.close().unwrap();
}

#[test]
fn what_finds_no_room_in_the_queue_takes_no_number_from_the_session() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    (options.queue_bytes, options.unapplied_bytes) = (1, 1);
    let node = Node::open(options).unwrap();
    let space = node.default_namespace();
    let session = space.open_session().unwrap();
    let large = Write::new().put("k", vec![7; 1 << 20]);
    let (mut receipts, mut is_full) = (Vec::new(), false);
    for policy in [SubmitPolicy::Fail, SubmitPolicy::WaitFor(Duration::from_micros(1))] {
        for _ in 0..1000 {
            match session.write_when(&large, policy) {
                Ok(receipt) => receipts.push(receipt),
                Err(WriteRefused::Submit(SubmitError::Busy(busy))) => {
                    assert_eq!(busy.bytes_max, 1, "{busy}");
                    is_full = true;
                }
                Err(other) => panic!("{other}"),
            }
            if is_full {
                break;
            }
        }
        assert!(std::mem::take(&mut is_full), "more than fits was taken");
        receipts.push(session.write(&large).unwrap());
    }
    // A number that was taken for a retry stays so.
    let number = session.next_number().unwrap();
    let taken = std::iter::repeat_with(|| session.retry_when(number, &large, SubmitPolicy::Fail)).find_map(Result::ok);
    receipts.push(taken.unwrap());
    for (receipt, number) in receipts.into_iter().zip(1..) {
        assert_eq!(receipt.number(), number, "none is left out");
        assert!(matches!(receipt.wait().unwrap().outcome, Outcome::Applied { .. }));
    }
    assert!(session.state().waiting.is_empty());
    node.close().unwrap();
}

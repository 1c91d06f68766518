use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

fn key(id: u64) -> Key {
    (stream(), id)
}

fn stream() -> StreamId {
    StreamId::new(1)
}

fn now<F: Future>(future: F) -> Option<F::Output> {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn next(line: &Arc<Line<u64>>) -> Option<(Turn<u64>, u64)> {
    now(line.next()).flatten()
}

#[test]
fn what_waits_is_taken_out_and_what_has_begun_is_told_and_the_rest_stays_in_order() {
    let line = Line::new();
    assert!(line.is_idle());
    (1..=5).for_each(|id| line.push(key(id), id));
    let (first, one) = next(&line).unwrap();
    assert_eq!((one, first.is_stopped()), (1, false));
    assert!(now(first.stopped()).is_none());
    assert_eq!(line.cancel(key(3)), Some(3));
    assert_eq!(line.cancel(key(3)), None, "once");
    assert_eq!(line.cancel(key(1)), None, "it has begun");
    assert!(first.is_stopped() && now(first.stopped()).is_some() && now(first.stopped()).is_some());
    let rest: Vec<_> = std::iter::from_fn(|| next(&line).map(|(_, id)| id)).collect();
    assert_eq!(rest, [2, 4, 5]);
    assert!(!line.is_idle(), "one is not over");
    drop(first);
    assert!(line.is_idle());
    assert_eq!((line.cancel(key(1)), line.cancel(key(9))), (None, None));
    assert!(line.places.lock().of.is_empty());
}

#[test]
fn of_a_number_that_was_given_twice_the_later_is_cancelled_and_both_have_their_turn() {
    let line = Line::new();
    line.push(key(7), 1);
    line.push(key(7), 2);
    assert_eq!(line.cancel(key(7)), Some(2));
    let (turn, one) = next(&line).unwrap();
    line.push(key(7), 3);
    drop(turn);
    assert_eq!((one, line.cancel(key(7))), (1, Some(3)), "the end of the first takes nothing from the third");
}

#[test]
fn what_came_before_the_end_still_has_its_turn() {
    let line = Line::new();
    line.push(key(1), 1);
    line.close();
    assert_eq!(now(line.next()).unwrap().unwrap().1, 1);
    assert!(now(line.next()).unwrap().is_none());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push,
    Begin,
    /// Of the one that began first.
    End,
    Cancel(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Push), Just(Step::Begin), Just(Step::End), (0..20_u64).prop_map(Step::Cancel)]
}

proptest! {
    /// Each is taken out by a cancel, or has its turn: once, and in order. A cancel in between is told.
    #[test]
    fn each_is_taken_out_or_has_its_turn_and_never_both(steps in prop::collection::vec(any_step(), 0..200)) {
        let line = Line::new();
        let (mut pushed, mut waiting) = (0, VecDeque::new());
        let mut begun: VecDeque<(Turn<u64>, u64)> = VecDeque::new();
        let mut stopped = BTreeSet::new();
        for step in steps {
            match step {
                Step::Push => {
                    line.push(key(pushed), pushed);
                    waiting.push_back(pushed);
                    pushed += 1;
                }
                Step::Begin => {
                    let found = next(&line);
                    prop_assert_eq!(found.as_ref().map(|(_, id)| *id), waiting.pop_front());
                    begun.extend(found);
                }
                Step::End => drop(begun.pop_front()),
                Step::Cancel(id) => {
                    let place = waiting.iter().position(|waits| *waits == id);
                    prop_assert_eq!(line.cancel(key(id)), place.and_then(|place| waiting.remove(place)));
                    if begun.iter().any(|(_, is)| *is == id) {
                        stopped.insert(id);
                    }
                }
            }
            for (turn, id) in &begun {
                prop_assert_eq!(turn.is_stopped(), stopped.contains(id));
            }
            prop_assert_eq!(line.places.lock().of.len(), waiting.len() + begun.len());
        }
    }
}

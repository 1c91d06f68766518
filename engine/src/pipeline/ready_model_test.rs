//! The list of who is ready, and the thread that sleeps over it, in many orders of their steps. A call that does not come is
//! a deadlock here, which fails.

use super::sync::{AtomicBool, AtomicUsize, Ordering, check, thread};
use super::{Bell, Ready};
use crate::model::ShardId;
use std::sync::Arc;
use std::time::Duration;

/// A thread's list, its shards' bells, and how much work each shard has.
struct Model<const SHARDS: usize> {
    ready: Arc<Ready>,
    shards: [(Arc<Bell>, AtomicUsize); SHARDS],
}

impl<const SHARDS: usize> Model<SHARDS> {
    fn new() -> Arc<Self> {
        let ready = Ready::new();
        let shards = std::array::from_fn(|shard| (ready.bell(ShardId::new(shard as u64)), AtomicUsize::new(0)));
        Arc::new(Self { ready, shards })
    }

    /// Gives work to each shard in turn, so much in all.
    fn giver(self: &Arc<Self>, first: usize, amount: usize) -> thread::JoinHandle<()> {
        let model = Arc::clone(self);
        thread::spawn(move || {
            for n in first..first + amount {
                let (bell, work) = &model.shards[n % SHARDS];
                work.fetch_add(1, Ordering::SeqCst);
                bell.ring();
                model.check_length();
            }
        })
    }

    /// Takes so much work or a little more, and sleeps in between; how much.
    fn take(&self, amount: usize, timeout: Option<Duration>) -> usize {
        let mut taken = 0;
        while taken < amount {
            self.check_length();
            match self.ready.next() {
                Some(shard) => {
                    let (bell, work) = &self.shards[usize::try_from(shard.get()).unwrap()];
                    bell.answer();
                    taken += work.swap(0, Ordering::SeqCst);
                }
                None => self.ready.wait(timeout),
            }
        }
        taken
    }

    fn check_length(&self) {
        assert!(self.ready.len() <= SHARDS, "a shard is in the list twice");
    }
}

fn all_work_is_seen<const SHARDS: usize>(timeout: Option<Duration>) {
    let model = Model::<SHARDS>::new();
    let givers = [model.giver(0, 2), model.giver(1, 2), model.giver(0, 1)];
    assert_eq!(model.take(5, timeout), 5);
    givers.into_iter().for_each(|giver| giver.join().unwrap());
}

#[test]
fn all_work_of_one_shard_is_seen_and_it_is_in_the_list_once() {
    check(|| all_work_is_seen::<1>(None));
}

#[test]
fn all_work_of_two_shards_is_seen() {
    check(|| all_work_is_seen::<2>(None));
}

#[test]
fn who_sleeps_for_so_long_at_the_most_is_called_as_well() {
    check(|| all_work_is_seen::<2>(Some(Duration::MAX)));
    check(|| all_work_is_seen::<2>(Some(Duration::from_millis(1))));
}

#[test]
fn a_call_for_what_is_no_shards_is_heard() {
    check(|| {
        let model = Model::<1>::new();
        let orders = Arc::new(AtomicBool::new(false));
        let giver = model.giver(0, 1);
        let (other, ordered) = (Arc::clone(&model), Arc::clone(&orders));
        let orderer = thread::spawn(move || {
            ordered.store(true, Ordering::SeqCst);
            other.ready.wake();
        });
        let mut taken = 0;
        while taken < 1 || !orders.load(Ordering::SeqCst) {
            match model.ready.next() {
                Some(_) => {
                    model.shards[0].0.answer();
                    taken += model.shards[0].1.swap(0, Ordering::SeqCst);
                }
                None => model.ready.wait(None),
            }
        }
        giver.join().unwrap();
        orderer.join().unwrap();
    });
}

#[test]
fn a_thread_that_takes_over_from_another_is_called() {
    check(|| {
        let model = Model::<1>::new();
        let giver = model.giver(0, 1);
        let first = Arc::clone(&model);
        let first = thread::spawn(move || first.take(1, None));
        assert_eq!(first.join().unwrap(), 1);
        giver.join().unwrap();
        let giver = model.giver(0, 2);
        assert_eq!(model.take(2, None), 2);
        giver.join().unwrap();
    });
}

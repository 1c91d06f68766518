//! The queue in many orders of its callers' steps: nothing is lost or taken twice, the budget is kept, and nobody waits for
//! ever. A call that does not come is a deadlock here, which fails.

use super::sync::{check, thread};
use super::{Bell, Disk, Ready, Submission, SubmissionQueue, SubmitError, SubmitPolicy};
use crate::model::ShardId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BYTES_MAX: usize = 10;
/// Time may run out at any moment.
const A_MOMENT: SubmitPolicy = SubmitPolicy::WaitFor(Duration::from_millis(1));
/// Time does not run out, and the way there is that of who waits for so long at the most.
const FOR_EVER: SubmitPolicy = SubmitPolicy::WaitFor(Duration::MAX);

/// A queue, and what those around it know.
struct Model {
    ready: Arc<Ready>,
    bell: Arc<Bell>,
    queue: SubmissionQueue<u64>,
    /// The machine's own lock, never held over a step: what is counted adds no orders.
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// What the queue took, by token, with its bytes; a producer writes it down after that.
    accepted: BTreeMap<u64, usize>,
    /// What was taken out, in order; the consumer writes it down before it looks again.
    taken: Vec<u64>,
}

impl Model {
    fn new(slots: usize) -> Arc<Self> {
        let ready = Ready::new();
        let bell = ready.bell(ShardId::new(1));
        let queue = SubmissionQueue::new(slots, BYTES_MAX, Arc::clone(&bell));
        Arc::new(Self { ready, bell, queue, ledger: Mutex::default() })
    }

    fn submit(&self, bytes: usize, token: u64, policy: SubmitPolicy) -> Result<(), SubmitError> {
        match self.queue.submit(Submission::record(Bytes::from(vec![0; bytes]), token), policy) {
            Ok(()) => {
                self.ledger.lock().unwrap().accepted.insert(token, bytes);
                Ok(())
            }
            Err((error, back)) => {
                assert_eq!((back.bytes(), back.into_token()), (bytes, token), "another submission came back");
                Err(error)
            }
        }
    }

    /// A producer with submissions of these sizes; it ends early when the queue closes. What became of each.
    fn producer<const N: usize>(
        self: &Arc<Self>,
        number: u64,
        sizes: [usize; N],
        policy: SubmitPolicy,
    ) -> thread::JoinHandle<Vec<Result<(), SubmitError>>> {
        let model = Arc::clone(self);
        thread::spawn(move || {
            let mut results = Vec::new();
            for (bytes, token) in sizes.into_iter().zip(number * 10..) {
                results.push(model.submit(bytes, token, policy));
                if results.last() == Some(&Err(SubmitError::Closed)) {
                    break;
                }
            }
            results
        })
    }

    /// For the consumer. All that producers know to be in the queue is in it, so it must be within the budget.
    fn pop(&self) -> Option<u64> {
        {
            let ledger = self.ledger.lock().unwrap();
            let inside: Vec<_> = ledger.accepted.iter().filter(|(token, _)| !ledger.taken.contains(token)).collect();
            let bytes: usize = inside.iter().map(|(_, bytes)| **bytes).sum();
            assert!(bytes <= BYTES_MAX || inside.len() == 1, "the byte budget was exceeded: {inside:?}");
        }
        let token = self.queue.pop()?.into_token();
        let mut ledger = self.ledger.lock().unwrap();
        assert!(!ledger.taken.contains(&token), "taken twice: {token}");
        ledger.taken.push(token);
        Some(token)
    }

    /// The consumer, until the queue is closed and swept; called by the bell, as a shard's thread is.
    fn take_all(&self) {
        loop {
            let is_closed = self.queue.is_closed();
            match self.pop() {
                Some(_) => {}
                None if is_closed => return,
                None => {
                    self.ready.wait(None);
                    while self.ready.next().is_some() {
                        self.bell.answer();
                    }
                }
            }
        }
    }

    fn consumer(self: &Arc<Self>) -> thread::JoinHandle<()> {
        let model = Arc::clone(self);
        thread::spawn(move || model.take_all())
    }

    /// Everybody has gone: what was accepted was taken, each producer's in its order, and nothing is left.
    fn check_end(&self) {
        assert_eq!(self.pop(), None, "it came after the sweep");
        assert!(self.queue.is_empty() && self.queue.waiting() == 0, "{:?}", self.queue);
        let ledger = self.ledger.lock().unwrap();
        let mut taken = ledger.taken.clone();
        taken.sort_by_key(|token| token / 10);
        assert_eq!(taken, ledger.accepted.keys().copied().collect::<Vec<_>>(), "accepted, and taken in order");
    }
}

#[test]
fn what_waits_for_room_all_gets_in_within_the_budget_and_comes_out_once() {
    check(|| {
        let model = Model::new(2);
        let producers = [
            model.producer(1, [4, 4], SubmitPolicy::Wait),
            model.producer(2, [7, 3], FOR_EVER),
            model.producer(3, [15, 1], SubmitPolicy::Wait),
        ];
        let consumer = model.consumer();
        for producer in producers {
            assert_eq!(producer.join().unwrap(), [Ok(()), Ok(())]);
        }
        model.queue.close();
        consumer.join().unwrap();
        model.check_end();
    });
}

#[test]
fn who_does_not_wait_for_ever_is_refused_whole_and_keeps_nobody_out() {
    check(|| {
        // One place: who has it keeps the others' bytes out as well.
        let model = Model::new(1);
        let patient = [model.producer(1, [9], SubmitPolicy::Wait), model.producer(2, [1], FOR_EVER)];
        let impatient = [model.producer(3, [9, 2], SubmitPolicy::Fail), model.producer(4, [9], A_MOMENT)];
        let consumer = model.consumer();
        for producer in patient {
            assert_eq!(producer.join().unwrap(), [Ok(())]);
        }
        for producer in impatient {
            let results = producer.join().unwrap();
            assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(SubmitError::Busy(_)))), "{results:?}");
        }
        model.queue.close();
        consumer.join().unwrap();
        model.check_end();
    });
}

#[test]
fn after_a_close_everything_is_swept_or_refused() {
    check(|| {
        let model = Model::new(2);
        let producers = [
            model.producer(1, [4, 4], SubmitPolicy::Wait),
            model.producer(2, [9, 9], A_MOMENT),
            // No bytes, and yet something that the sweep must wait for.
            model.producer(3, [0, 3], SubmitPolicy::Fail),
        ];
        let closes = Arc::clone(&model);
        let closes = thread::spawn(move || closes.queue.close());
        model.take_all();
        // Whoever is on the way now must not get in any more; `check_end` looks once they are gone.
        for producer in producers {
            producer.join().unwrap();
        }
        closes.join().unwrap();
        model.check_end();
    });
}

#[test]
fn a_close_calls_all_who_wait() {
    check(|| {
        let model = Model::new(4);
        model.submit(BYTES_MAX, 0, SubmitPolicy::Fail).unwrap();
        let producers = [
            model.producer(1, [4], SubmitPolicy::Wait),
            model.producer(2, [4], FOR_EVER),
            model.producer(3, [4], SubmitPolicy::Wait),
        ];
        model.queue.close();
        for producer in producers {
            assert_eq!(producer.join().unwrap(), [Err(SubmitError::Closed)]);
        }
        model.take_all();
        model.check_end();
    });
}

#[test]
fn who_waits_hears_of_a_full_disk_and_what_is_in_the_queue_stays() {
    check(|| {
        let model = Model::new(4);
        model.submit(BYTES_MAX, 0, SubmitPolicy::Fail).unwrap();
        let producers = [model.producer(1, [4], SubmitPolicy::Wait), model.producer(2, [4], FOR_EVER)];
        model.queue.set_full(Disk::State, true);
        for producer in producers {
            assert_eq!(producer.join().unwrap(), [Err(SubmitError::DiskFull(Disk::State))]);
        }
        model.queue.set_full(Disk::State, false);
        assert_eq!(model.pop(), Some(0));
        model.submit(BYTES_MAX, 1, SubmitPolicy::Wait).unwrap();
        model.queue.close();
        model.take_all();
        model.check_end();
    });
}

#[test]
fn one_call_lets_in_all_of_the_line_that_fit() {
    check(|| {
        let model = Model::new(8);
        model.submit(BYTES_MAX, 0, SubmitPolicy::Fail).unwrap();
        let producers = [
            model.producer(1, [3], SubmitPolicy::Wait),
            model.producer(2, [3], FOR_EVER),
            model.producer(3, [3], SubmitPolicy::Wait),
        ];
        assert_eq!(model.pop(), Some(0));
        for producer in producers {
            assert_eq!(producer.join().unwrap(), [Ok(())]);
        }
        model.queue.close();
        model.take_all();
        model.check_end();
    });
}

#[test]
fn one_who_gives_up_lets_the_next_of_the_line_in() {
    check(|| {
        let model = Model::new(8);
        model.submit(6, 0, SubmitPolicy::Fail).unwrap();
        let large = model.producer(1, [9], A_MOMENT);
        let small = model.producer(2, [2, 2], SubmitPolicy::Wait);
        let large = large.join().unwrap();
        assert!(matches!(large[..], [Err(SubmitError::Busy(_))]), "{large:?}");
        assert_eq!(small.join().unwrap(), [Ok(()), Ok(())]);
        model.queue.close();
        model.take_all();
        model.check_end();
    });
}

#[test]
fn who_waits_in_line_is_not_passed_for_ever() {
    check(|| {
        let model = Model::new(8);
        model.submit(6, 0, SubmitPolicy::Fail).unwrap();
        let large = model.producer(1, [9], SubmitPolicy::Wait);
        let waits = Arc::clone(&model);
        let small = thread::spawn(move || {
            let is_in_line = waits.queue.waiting() > 0;
            for (policy, token) in [SubmitPolicy::Fail, A_MOMENT].into_iter().zip(20..) {
                let small = waits.submit(1, token, policy);
                // Nothing is taken meanwhile, so the large one is in line still.
                assert!(!is_in_line || matches!(small, Err(SubmitError::Busy(_))), "it passed the line");
            }
        });
        small.join().unwrap();
        model.queue.close();
        large.join().unwrap();
        model.take_all();
        model.check_end();
    });
}

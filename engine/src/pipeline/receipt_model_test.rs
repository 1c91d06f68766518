//! Receipts and their completers in many orders of their steps: each is answered once, and nobody who waits misses it. A call
//! that does not come is a deadlock here, which fails.

use super::sync::{AtomicUsize, Ordering, check, thread};
use super::{Completer, Gathering, Receipt, WriteError};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const A_MOMENT: Duration = Duration::from_millis(1);

/// The ways to wait, each on a thread of its own.
const WAYS: [fn(Receipt<u64>) -> Result<u64, WriteError>; 4] = [
    Receipt::wait,
    |receipt| receipt.wait_for(Duration::MAX).map(Option::unwrap),
    |receipt| {
        loop {
            if let Some(value) = receipt.wait_for(A_MOMENT)? {
                return Ok(value);
            }
        }
    },
    shuttle::future::block_on,
];

/// All at one place, as of writes that came between two turns of the sequencer.
fn pairs<const N: usize>() -> (Vec<Receipt<u64>>, Vec<Completer<u64>>) {
    let gathering = Gathering::new();
    (0..N).map(|_| gathering.pair()).unzip()
}

fn wait_for_each(receipts: Vec<Receipt<u64>>) -> Vec<thread::JoinHandle<Result<u64, WriteError>>> {
    receipts.into_iter().zip(WAYS).map(|(receipt, wait)| thread::spawn(move || wait(receipt))).collect()
}

#[test]
fn whoever_waits_hears_the_answer_however_it_waits() {
    check(|| {
        let (receipts, completers) = pairs::<4>();
        let waiting = wait_for_each(receipts);
        for (n, completer) in (0..).zip(completers) {
            completer.complete(Ok(n));
        }
        for (n, waiting) in (0..).zip(waiting) {
            assert_eq!(waiting.join().unwrap(), Ok(n));
        }
    });
}

#[test]
fn whoever_waits_hears_that_nobody_will_answer() {
    check(|| {
        let (receipts, completers) = pairs::<4>();
        let waiting = wait_for_each(receipts);
        drop(completers);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), Err(WriteError::Unknown));
        }
    });
}

/// Calls the thread that polls, and counts.
struct Caller {
    thread: thread::Thread,
    calls: AtomicUsize,
    /// What is answered with it.
    others: Mutex<Vec<Receipt<u64>>>,
}

impl Caller {
    fn new(others: Vec<Receipt<u64>>) -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), calls: AtomicUsize::new(0), others: Mutex::new(others) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        let others = std::mem::take(&mut *self.others.lock().unwrap());
        for other in others {
            assert!(other.wait_for(A_MOMENT).unwrap().is_some(), "called while another's answer was on its way");
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn poll(receipt: &mut Receipt<u64>, caller: &Arc<Caller>) -> Poll<Result<u64, WriteError>> {
    Pin::new(receipt).poll(&mut Context::from_waker(&Waker::from(Arc::clone(caller))))
}

#[test]
fn a_future_is_called_once_by_the_waker_of_its_last_poll() {
    check(|| {
        let (mut receipt, completer) = Receipt::pair();
        let completes = thread::spawn(move || completer.complete(Ok(7)));
        let [first, last] = [(); 2].map(|()| Caller::new(Vec::new()));
        let mut polled = poll(&mut receipt, &first);
        if polled.is_pending() {
            polled = poll(&mut receipt, &last);
            let is_last = polled.is_pending();
            while polled.is_pending() {
                if last.calls() == 0 {
                    thread::park();
                    continue;
                }
                polled = poll(&mut receipt, &last);
            }
            completes.join().unwrap();
            assert_eq!((first.calls(), last.calls()), if is_last { (0, 1) } else { (1, 0) });
        } else {
            completes.join().unwrap();
            assert_eq!((first.calls(), last.calls()), (0, 0), "it was answered before it was asked");
        }
        assert_eq!(polled, Poll::Ready(Ok(7)));
    });
}

#[test]
fn of_many_answers_all_are_there_before_the_first_who_waits_is_called() {
    check(|| {
        let (mut receipts, completers) = pairs::<3>();
        let mut first = receipts.remove(0);
        let completes =
            thread::spawn(move || Completer::complete_all((0..).map(Ok).zip(completers).map(|(n, c)| (c, n))));
        let caller = Caller::new(receipts);
        let mut polled = poll(&mut first, &caller);
        while polled.is_pending() {
            if caller.calls() == 0 {
                thread::park();
                continue;
            }
            polled = poll(&mut first, &caller);
        }
        assert_eq!(polled, Poll::Ready(Ok(0)));
        completes.join().unwrap();
    });
}

#[test]
fn many_answers_reach_all_who_wait_and_those_who_went_do_not_matter() {
    check(|| {
        let (mut receipts, completers) = pairs::<4>();
        let gone = receipts.remove(3);
        let waiting = wait_for_each(receipts);
        let gives_up = thread::spawn(move || {
            // A look and no more, as a future that is cancelled.
            let answer = gone.wait_for(A_MOMENT);
            assert!(matches!(answer, Ok(None | Some(3))), "{answer:?}");
        });
        Completer::complete_all((0..).map(Ok).zip(completers).map(|(n, completer)| (completer, n)));
        for (n, waiting) in (0..).zip(waiting) {
            assert_eq!(waiting.join().unwrap(), Ok(n));
        }
        gives_up.join().unwrap();
    });
}

/// Who wakes for an answer to others sleeps again, and hears its own.
#[test]
fn who_shares_a_place_with_another_batch_hears_its_own_answer() {
    check(|| {
        let gathering = Arc::new(Gathering::new());
        let submits = |n: u64| {
            let gathering = Arc::clone(&gathering);
            move || {
                let (receipt, completer) = gathering.pair();
                // The sequencer turns at some moment in between: it answers them together or apart.
                (n, receipt, completer)
            }
        };
        let submitting: Vec<_> = (0..3).map(|n| thread::spawn(submits(n))).collect();
        gathering.turn();
        let (mut answers, mut waiting) = (Vec::new(), Vec::new());
        for submitted in submitting {
            let (n, receipt, completer) = submitted.join().unwrap();
            answers.push((completer, Ok(n)));
            waiting.push((n, thread::spawn(move || receipt.wait())));
        }
        let second = answers.split_off(1);
        let first = thread::spawn(move || Completer::complete_all(answers));
        Completer::complete_all(second);
        first.join().unwrap();
        for (n, waiting) in waiting {
            assert_eq!(waiting.join().unwrap(), Ok(n));
        }
    });
}

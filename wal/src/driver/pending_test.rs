use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;

fn done(ticket: u64, result: Result<(), WalError>) -> Completion {
    Completion { ticket: Ticket(ticket), result }
}

/// Completes and tells.
fn tell(waiters: &mut Waiters, ticket: u64, result: Result<(), WalError>) {
    if let Some((waiter, result)) = waiters.complete(done(ticket, result)) {
        waiter.tell(result);
    }
}

#[test]
fn submissions_of_one_group_share_an_event_and_later_ones_have_their_own() {
    let mut waiters = Waiters::new(100);
    let first = [1, 2].map(|ticket| waiters.join(Ticket(ticket), 10));
    waiters.begin_next();
    let second = waiters.join(Ticket(3), 10);
    tell(&mut waiters, 1, Ok(()));
    assert!(first.iter().all(|pending| !pending.is_done()), "the group is not durable as a whole");
    tell(&mut waiters, 2, Ok(()));
    assert!(first.iter().all(Pending::is_done) && !second.is_done());
    tell(&mut waiters, 3, Ok(()));
    for pending in first.into_iter().chain([second]) {
        assert_eq!(pending.wait(), Ok(()));
    }
}

#[test]
fn nobody_waits_for_more_than_a_group_of_others() {
    let mut waiters = Waiters::new(100);
    let large = waiters.join(Ticket(1), 1000);
    let small = waiters.join(Ticket(2), 10);
    tell(&mut waiters, 1, Ok(()));
    assert!(large.is_done() && !small.is_done());
}

#[test]
fn a_call_between_keeps_its_turn() {
    let mut waiters = Waiters::new(100);
    let first = waiters.join(Ticket(1), 1);
    let called = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&called);
    waiters.call(Ticket(2), Box::new(move |_| counts.store(1, Ordering::Relaxed)));
    let last = waiters.join(Ticket(3), 1);
    tell(&mut waiters, 1, Ok(()));
    assert!(first.is_done() && called.load(Ordering::Relaxed) == 0);
    tell(&mut waiters, 2, Ok(()));
    assert!(!last.is_done() && called.load(Ordering::Relaxed) == 1);
}

#[test]
fn who_shares_an_event_shares_the_doubt() {
    let mut waiters = Waiters::new(100);
    let pending = [1, 2, 3].map(|ticket| waiters.join(Ticket(ticket), 1));
    tell(&mut waiters, 1, Ok(()));
    tell(&mut waiters, 2, Err(WalError::Closed));
    tell(&mut waiters, 3, Ok(()));
    for pending in pending {
        assert_eq!(pending.wait(), Err(WalError::Closed));
    }
}

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn tasks_are_woken_once_each_and_may_come_late() {
    let mut waiters = Waiters::new(100);
    let mut pending = waiters.join(Ticket(1), 1);
    let mut late = waiters.join(Ticket(2), 1);
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&counter));
    let mut context = Context::from_waker(&waker);
    for _ in 0..2 {
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
    }
    tell(&mut waiters, 2, Ok(()));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
    assert_eq!(Pin::new(&mut pending).poll(&mut context), Poll::Ready(Ok(())));
    assert_eq!(Pin::new(&mut late).poll(&mut context), Poll::Ready(Ok(())));
}

/// Asks at once whether it is done, as an executor may that runs tasks where they are woken.
struct Asks(Mutex<Option<Pending>>, AtomicUsize);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        if let Some(mut pending) = self.0.lock().take() {
            let waker = Waker::noop();
            assert_eq!(Pin::new(&mut pending).poll(&mut Context::from_waker(waker)), Poll::Ready(Ok(())));
            assert!(pending.event.wakers.try_lock().is_some(), "who is woken may register again");
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn who_is_woken_may_ask_at_once() {
    let mut waiters = Waiters::new(100);
    let mut pending = waiters.join(Ticket(1), 1);
    let asks = Arc::new(Asks(Mutex::new(Some(waiters.join(Ticket(2), 1))), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&asks));
    assert!(Pin::new(&mut pending).poll(&mut Context::from_waker(&waker)).is_pending());
    tell(&mut waiters, 2, Ok(()));
    assert_eq!(asks.1.load(Ordering::Relaxed), 1);
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("the executor's, not the log's");
    }
}

#[test]
fn a_panic_of_who_is_woken_is_not_the_logs() {
    let mut waiters = Waiters::new(100);
    let mut pending = [waiters.join(Ticket(1), 1), waiters.join(Ticket(2), 1)];
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    let wakers = [Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&counter))];
    for (pending, waker) in pending.iter_mut().zip(&wakers) {
        assert!(Pin::new(pending).poll(&mut Context::from_waker(waker)).is_pending());
    }
    tell(&mut waiters, 2, Ok(()));
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
}

#[test]
fn an_event_that_others_may_still_join_is_not_over_when_all_who_did_are_told() {
    let mut waiters = Waiters::new(100);
    let event = Arc::new(Event::new());
    let pending = Pending::left(Arc::clone(&event), 0);
    waiters.share(Ticket(1), &event);
    tell(&mut waiters, 1, Err(WalError::Closed));
    assert!(!pending.is_done());
    event.part_done(Ok(()));
    assert_eq!(pending.wait(), Err(WalError::Closed), "the last part does not speak for the others");
}

#[test]
fn threads_that_sleep_are_woken_together() {
    let event = Arc::new(Event::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                event.wait();
                assert_eq!(event.result(), Ok(()));
            });
        }
        while event.state.number().load(Ordering::Relaxed) != SLEPT_ON {
            std::thread::yield_now();
        }
        event.set(Ok(()));
    });
}

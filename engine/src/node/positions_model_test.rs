//! A shard's positions in many orders of the steps of who moves them and who waits. A call that does not come is a deadlock
//! here, which fails.

#![expect(clippy::disallowed_methods, reason = "a test reads clocks")]

use super::positions::{Positions, Waited};
use crate::model::Lsn;
use crate::pipeline::sync::{check, thread};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

/// So late that the model's clock never comes to it.
fn never() -> Instant {
    Instant::now() + Duration::from_secs(1 << 20)
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn moves(positions: &Arc<Positions>, lsns: std::ops::RangeInclusive<u64>) -> thread::JoinHandle<()> {
    let positions = Arc::clone(positions);
    thread::spawn(move || lsns.for_each(|lsn| positions.set_applied(Lsn::new(lsn))))
}

#[test]
fn who_waits_sees_each_step() {
    check(|| {
        let positions = Arc::new(Positions::new(Lsn::ZERO));
        let following = [1, 2].map(|every| {
            let positions = Arc::clone(&positions);
            thread::spawn(move || {
                for lsn in (every..=4).step_by(usize::try_from(every).unwrap()) {
                    assert_eq!(positions.wait(never(), |p| p.applied() >= Lsn::new(lsn)), Waited::Reached);
                }
            })
        });
        let moving = moves(&positions, 1..=4);
        following.into_iter().for_each(|thread| thread.join().unwrap());
        moving.join().unwrap();
    });
}

#[test]
fn who_waits_for_what_never_comes_hears_of_the_end_or_that_time_is_up() {
    check(|| {
        let positions = Arc::new(Positions::new(Lsn::ZERO));
        let [waits, is_impatient] = [0, 1].map(|_| Arc::clone(&positions));
        let waits = thread::spawn(move || {
            // The end takes back that writes are taken.
            let waited = waits.wait(never(), |p| p.serving().is_some());
            assert!(waited == Waited::Reached || waits.has_ended(), "{waited:?}");
            assert_eq!(waits.wait(never(), |p| p.applied() >= Lsn::new(9)), Waited::Ended);
        });
        let is_impatient = thread::spawn(move || {
            let soon = Instant::now() + Duration::from_millis(1);
            let waited = is_impatient.wait(soon, |p| p.applied() >= Lsn::new(9));
            assert!(matches!(waited, Waited::TimedOut | Waited::Ended), "{waited:?}");
        });
        positions.set_serving(Some(Lsn::FIRST));
        moves(&positions, 1..=2).join().unwrap();
        positions.end();
        waits.join().unwrap();
        is_impatient.join().unwrap();
    });
}

#[test]
fn who_asks_to_be_called_is_called_or_sees_it() {
    check(|| {
        let positions = Arc::new(Positions::new(Lsn::ZERO));
        let asking = [1, 2].map(|key| {
            let positions = Arc::clone(&positions);
            thread::spawn(move || {
                let waker = Waker::from(Arc::new(Unpark(thread::current())));
                loop {
                    positions.call(key, &waker);
                    if positions.applied() >= Lsn::new(2) {
                        break positions.forget(key);
                    }
                    thread::park();
                }
            })
        });
        // Those who are called are not counted twice, nor instead of one who waits.
        let waits = Arc::clone(&positions);
        let waits = thread::spawn(move || waits.wait(never(), |p| p.applied() >= Lsn::new(2)));
        let moving = moves(&positions, 1..=2);
        asking.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(waits.join().unwrap(), Waited::Reached);
        moving.join().unwrap();
    });
}

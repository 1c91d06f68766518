//! What is kept of a log although its policy would let it go: for those who still read it, within a budget.

use super::shard::now;
use crate::model::{Budget, Lsn};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The pins of one shard's log.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    pins: BTreeMap<u64, Held>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    /// Everything up to here may go.
    at: Lsn,
    since: Instant,
    budget: Budget,
}

/// One pin; dropped, it holds nothing any more.
#[derive(Debug)]
pub(super) struct Pin {
    pins: Arc<Pins>,
    key: u64,
    budget: Budget,
}

impl Pins {
    /// Keeps what lies behind a position.
    pub(super) fn pin(self: &Arc<Self>, at: Lsn, budget: Budget) -> Pin {
        self.pin_since(at, budget, now())
    }

    /// The same, for one who is there since this moment.
    pub(super) fn pin_since(self: &Arc<Self>, at: Lsn, budget: Budget, since: Instant) -> Pin {
        let mut table = self.0.lock();
        let key = table.next;
        table.next += 1;
        table.pins.insert(key, Held { at, since, budget });
        Pin { pins: Arc::clone(self), key, budget }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().pins.len()
    }

    /// The lowest position that a pin holds within its budget, if it is below `before`; `end` is the last record there is, and
    /// `keeping` tells the position that keeps so many bytes. Whoever stays where it is for too long, with something to read,
    /// loses its pin.
    pub(super) fn lowest(&self, before: Lsn, end: Lsn, keeping: impl Fn(u64) -> Lsn) -> Option<Lsn> {
        self.lowest_at(now(), before, end, keeping)
    }

    fn lowest_at(&self, at: Instant, before: Lsn, end: Lsn, keeping: impl Fn(u64) -> Lsn) -> Option<Lsn> {
        let low: Vec<(Lsn, u64)> = {
            let mut table = self.0.lock();
            table.pins.retain(|_, held| {
                if held.at >= end {
                    held.since = at;
                }
                at.saturating_duration_since(held.since) <= held.budget.age
            });
            let low = table.pins.values().filter(|held| held.at < before);
            low.map(|held| (held.at, held.budget.bytes)).collect()
        };
        // Of one that is too far behind its budget's bytes are kept, no more.
        low.into_iter().map(|(at, bytes)| at.max(keeping(bytes))).min()
    }
}

impl Pin {
    /// Whoever holds it was here just now, and does not move it.
    pub(super) fn touch(&self) {
        self.touch_at(now());
    }

    fn touch_at(&self, at: Instant) {
        if let Some(held) = self.pins.0.lock().pins.get_mut(&self.key) {
            held.since = at;
        }
    }

    /// Everything up to here may go.
    pub(super) fn move_to(&self, at: Lsn) {
        // Also when it was too old: who goes on has a pin again.
        let held = Held { at, since: now(), budget: self.budget };
        self.pins.0.lock().pins.insert(self.key, held);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.0.lock().pins.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const AGE: Duration = Duration::from_secs(60 * 60);
    const MOMENT: Duration = Duration::from_nanos(1);
    const HERE: Lsn = Lsn::new(5);
    const END: Lsn = Lsn::new(10);

    /// Pins with one that holds a position since a moment, and that moment.
    fn pinned() -> (Arc<Pins>, Pin, Instant) {
        let (pins, since) = (Arc::<Pins>::default(), now());
        let pin = pins.pin_since(HERE, Budget { bytes: u64::MAX, age: AGE }, since);
        (pins, pin, since)
    }

    /// What is kept at a moment for those who are not too old, of a log that may go as a whole.
    fn lowest(pins: &Pins, at: Instant, end: Lsn) -> Option<Lsn> {
        pins.lowest_at(at, end.next(), end, |_| Lsn::new(0))
    }

    #[test]
    fn a_pin_that_does_not_move_holds_until_its_age_and_lapses_behind_it() {
        let (pins, pin, since) = pinned();
        assert_eq!(lowest(&pins, since + AGE, END), Some(HERE));
        assert_eq!(lowest(&pins, since + AGE + MOMENT, END), None);
        assert_eq!(pins.count(), 0);
        pin.touch_at(since + AGE + MOMENT);
        assert_eq!(lowest(&pins, since, END), None, "a touch brings nothing back: the log may be gone");
        pin.move_to(HERE.next());
        assert_eq!(lowest(&pins, now(), END), Some(HERE.next()), "who goes on has a pin again");
    }

    #[test]
    fn a_touch_lets_a_pin_hold_for_its_age_from_then_on() {
        let (pins, pin, since) = pinned();
        let touched = since + AGE;
        pin.touch_at(touched);
        assert_eq!(lowest(&pins, touched + AGE, END), Some(HERE));
        assert_eq!(lowest(&pins, touched + AGE + MOMENT, END), None);
    }

    #[test]
    fn a_pin_at_the_end_of_the_log_does_not_age_until_there_is_something_to_read() {
        let (pins, _pin, since) = pinned();
        let late = since + AGE * 3;
        assert_eq!(lowest(&pins, late, HERE), Some(HERE));
        assert_eq!(lowest(&pins, late + AGE, END), Some(HERE));
        assert_eq!(lowest(&pins, late + AGE + MOMENT, END), None);
    }

    #[test]
    fn one_that_is_too_old_does_not_take_the_pins_of_others_along() {
        let (pins, _old, since) = pinned();
        let other = Lsn::new(7);
        let _young = pins.pin_since(other, Budget { bytes: u64::MAX, age: AGE }, since + AGE);
        assert_eq!(lowest(&pins, since + AGE, END), Some(HERE));
        assert_eq!(lowest(&pins, since + AGE + MOMENT, END), Some(other));
    }
}

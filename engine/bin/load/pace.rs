//! [`Pace`]: at most so many rows a second, evenly.

use std::time::Duration;

/// A pause is not made up for by more than this much of the rate, or a stall would end in a flood.
const BURST: Duration = Duration::from_millis(20);

/// When the next row may go. Time comes in as an argument: since the load's start.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Option<Duration>,
    next: Duration,
}

impl Pace {
    /// No rate: as fast as it goes.
    pub(crate) fn new(per_second: Option<f64>) -> Self {
        Self { interval: per_second.map(|rate| Duration::from_secs_f64(1.0 / rate)), next: Duration::ZERO }
    }

    /// How long the next row has to wait; if not at all, it is counted as gone.
    pub(crate) fn take(&mut self, now: Duration) -> Option<Duration> {
        let interval = self.interval?;
        if now < self.next {
            return Some(self.next - now);
        }
        self.next = self.next.max(now.saturating_sub(BURST)) + interval;
        None
    }

    /// A row that was counted did not go.
    pub(crate) fn put_back(&mut self) {
        self.next = self.next.saturating_sub(self.interval.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_at_the_rate_and_a_pause_makes_no_flood() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(Some(100.0));
        assert_eq!(pace.take(ms(50)), None);
        let mut gone = 1;
        while pace.take(ms(50)).is_none() {
            gone += 1;
        }
        assert_eq!(gone, 3, "20 ms of 100 a second, and the one that is due");
        assert_eq!(pace.take(ms(60)), None);
        assert_eq!(pace.take(ms(65)), Some(ms(5)));
        pace.put_back();
        assert_eq!(pace.take(ms(65)), None, "a row that was skipped costs no time");
        assert_eq!(Pace::new(None).take(ms(0)), None);
    }
}

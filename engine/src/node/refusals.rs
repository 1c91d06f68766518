//! [`Refusals`]: what the log says of those who were not let in, a line a second for each reason. A flood of strangers
//! would fill the disk by way of the log otherwise; how many there were stands in the listener's counters.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between two lines of one reason.
const PAUSE: Duration = Duration::from_secs(1);

/// The reasons that were told of, by their codes, of which there are as many as this program knows.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<u16, Told>>);

#[derive(Debug)]
struct Told {
    last: Instant,
    /// Since then, and not told.
    unsaid: u64,
}

impl Refusals {
    /// Tells of a refusal, or counts it for the next line of its reason.
    pub(super) fn tell(&self, now: Instant, address: SocketAddr, code: u16, reason: &dyn fmt::Display) {
        match self.unsaid_before(now, code) {
            Some(0) => tracing::warn!(%address, "a connection was refused: TW-{code}: {reason}"),
            Some(unsaid) => {
                tracing::warn!(%address, unsaid, "a connection was refused: TW-{code}: {reason} (and {unsaid} before it)");
            }
            None => {}
        }
    }

    /// How many of its reason were not told before this one; none: neither is this one.
    fn unsaid_before(&self, now: Instant, code: u16) -> Option<u64> {
        let mut reasons = self.0.lock();
        let Some(told) = reasons.get_mut(&code) else {
            reasons.insert(code, Told { last: now, unsaid: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(told.last) < PAUSE {
            told.unsaid += 1;
            return None;
        }
        told.last = now;
        Some(std::mem::take(&mut told.unsaid))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test reads clocks")]

    use super::*;
    use std::sync::Arc;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Keeps the sentences of all events.
    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Visit for Lines {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0.lock().push(format!("{value:?}"));
            }
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_thousand_refusals_in_a_second_are_a_line_for_each_reason_and_the_next_says_how_many_there_were() {
        let (lines, refusals, begin) = (Lines::default(), Refusals::default(), Instant::now());
        let address = SocketAddr::from(([10, 0, 0, 1], 7));
        tracing::subscriber::with_default(lines.clone(), || {
            for number in 0..1000 {
                refusals.tell(begin + Duration::from_micros(number * 900), address, 3013, &"of another cluster");
            }
            refusals.tell(begin, address, 3001, &"no such protocol");
            refusals.tell(begin + PAUSE, address, 3013, &"of another cluster");
            refusals.tell(begin + 3 * PAUSE, address, 3013, &"of another cluster");
        });
        assert_eq!(
            *lines.0.lock(),
            [
                "a connection was refused: TW-3013: of another cluster",
                "a connection was refused: TW-3001: no such protocol",
                "a connection was refused: TW-3013: of another cluster (and 999 before it)",
                "a connection was refused: TW-3013: of another cluster",
            ]
        );
    }
}

//! [`Refusals`]: what the log says of those who were not let in: each reason once a second. A flood of strangers would fill the
//! disk by way of the log otherwise; how many there were stands in the listener's counters.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Before the same sentence is said again.
const PAUSE: Duration = Duration::from_secs(1);

/// Sentences of one code within that: they name identities and sizes, which strangers choose.
const SENTENCES_MAX: usize = 8;

/// What was told of each code, of which there are as many as this program knows.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<u16, Told>>);

#[derive(Debug)]
struct Told {
    since: Instant,
    /// Since then.
    sentences: Vec<String>,
    /// Refusals of this code that were not told.
    unsaid: u64,
}

impl Refusals {
    /// Tells of a refusal, or counts it for the next line of its code.
    pub(super) fn tell(&self, now: Instant, address: SocketAddr, code: u16, reason: &dyn fmt::Display) {
        let reason = reason.to_string();
        match self.unsaid_before(now, code, &reason) {
            Some(0) => tracing::warn!(%address, "a connection was refused: TW-{code}: {reason}"),
            Some(unsaid) => tracing::warn!(
                %address,
                unsaid,
                "a connection was refused: TW-{code}: {reason} (and {unsaid} before it of which nothing was said)"
            ),
            None => {}
        }
    }

    /// How many of its code were not told before this one; none: neither is this one.
    fn unsaid_before(&self, now: Instant, code: u16, reason: &str) -> Option<u64> {
        let mut codes = self.0.lock();
        let told = codes.entry(code).or_insert_with(|| Told { since: now, sentences: Vec::new(), unsaid: 0 });
        if now.saturating_duration_since(told.since) >= PAUSE {
            told.since = now;
            told.sentences.clear();
        }
        if told.sentences.len() >= SENTENCES_MAX || told.sentences.iter().any(|sentence| sentence == reason) {
            told.unsaid += 1;
            return None;
        }
        told.sentences.push(reason.to_owned());
        Some(std::mem::take(&mut told.unsaid))
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test reads clocks")]

    use super::*;
    use std::sync::Arc;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Keeps the sentences of all events.
    #[derive(Debug, Clone, Default)]
    pub(in crate::node) struct Lines(pub(in crate::node) Arc<Mutex<Vec<String>>>);

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

    const CLUSTER: &str = "a connection was refused: TW-3013: of another cluster";

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
        let expected = [
            CLUSTER.to_owned(),
            "a connection was refused: TW-3001: no such protocol".to_owned(),
            format!("{CLUSTER} (and 999 before it of which nothing was said)"),
            CLUSTER.to_owned(),
        ];
        assert_eq!(*lines.0.lock(), expected);
    }

    /// One code stands for all that may be wrong with a certificate: the second reason must not hide behind the first, nor may
    /// a stranger who makes up names have a line for each.
    #[test]
    fn reasons_of_one_code_are_told_apart_up_to_a_bound() {
        let (lines, refusals, now) = (Lines::default(), Refusals::default(), Instant::now());
        let address = SocketAddr::from(([10, 0, 0, 1], 7));
        tracing::subscriber::with_default(lines.clone(), || {
            for number in 0..100 {
                refusals.tell(now, address, 3219, &format_args!("client/{number} is revoked"));
            }
        });
        assert_eq!(lines.0.lock().len(), SENTENCES_MAX);
        assert!(lines.0.lock()[1].ends_with("client/1 is revoked"));
    }
}

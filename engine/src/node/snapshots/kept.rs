//! How long a snapshot that others fetch is kept.

use crate::model::NodeId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One that nobody asks for: longer than a node takes to come back.
const UNASKED: Duration = Duration::from_secs(600);
/// And one that is asked for again and again, while hardly more of it is sent. It is not counted from when it was taken: one of
/// some tebibytes takes longer to send, and would never arrive.
const UNMOVED: Duration = Duration::from_secs(12 * 60 * 60);
/// With so many parts more (4 GiB, as a rule) that time begins anew. Not with each one: whoever asks for one now and then would
/// hold files for years that RocksDB has no use for. A part counts once for each node: so one of `n` parts, which `m` nodes fetch,
/// goes after `n * m / LEAP + 1` times [`UNMOVED`] at the latest.
const LEAP: u32 = 4096;
/// Whoever was sent all of one reads it once more, to look at it, and makes its state of it: at least so fast, a fifth of what was
/// measured. Until then it asks for nothing, and needs the log behind it when it has done.
const INSTALLED_PER_SECOND: u64 = 16 << 20;
/// One that was sent as a whole is hardly asked for any more: only if a connection broke with its last part on it.
const SENT: Duration = Duration::from_secs(10);

/// What is known of those who fetch one.
#[derive(Debug)]
pub(super) struct Kept {
    asked: Instant,
    /// When it was taken, or the last leap was done.
    moved: Instant,
    /// Parts since then.
    parts: u32,
    /// Each node to which it was offered.
    nodes: BTreeMap<NodeId, Fetch>,
}

/// How far a node has come.
#[derive(Debug, Default)]
struct Fetch {
    /// Behind the furthest part that it was sent.
    furthest: u32,
    /// Behind the last one since it was offered this; where a damaged one comes once more, that one.
    last: u32,
}

impl Kept {
    pub(super) const fn since(now: Instant) -> Self {
        Self { asked: now, moved: now, parts: 0, nodes: BTreeMap::new() }
    }

    /// Somebody asks, or waits to be heard.
    pub(super) const fn ask(&mut self, now: Instant) {
        self.asked = now;
    }

    /// A node is told of it.
    pub(super) fn offer(&mut self, to: NodeId, now: Instant) {
        self.ask(now);
        self.nodes.entry(to).or_default().last = 0;
    }

    /// A part goes to a node.
    pub(super) fn give(&mut self, to: NodeId, index: u32, now: Instant) {
        self.ask(now);
        let fetch = self.nodes.entry(to).or_default();
        fetch.last = index.saturating_add(1);
        if fetch.last <= fetch.furthest {
            return;
        }
        fetch.furthest = fetch.last;
        self.parts += 1;
        if self.parts >= LEAP {
            (self.moved, self.parts) = (now, 0);
        }
    }

    /// When somebody asked last.
    pub(super) const fn asked(&self) -> Instant {
        self.asked
    }

    /// When it goes, unless something comes of it until then.
    pub(super) fn ends(&self) -> Instant {
        (self.asked + UNASKED).min(self.moved + UNMOVED)
    }

    /// Whether every node to which it was offered was sent all of its parts, and has not come back.
    pub(super) fn is_sent(&self, parts: u32, now: Instant) -> bool {
        let all = !self.nodes.is_empty() && self.nodes.values().all(|fetch| fetch.last == parts);
        all && self.asked + SENT <= now
    }

    /// Which nodes were sent all of one that has so many parts. Whoever came back while it installed that was offered it again, and asks
    /// for nothing.
    pub(super) fn sent_to(&self, parts: u32) -> Vec<NodeId> {
        let has_all = |(node, fetch): (&NodeId, &Fetch)| (fetch.furthest == parts).then_some(*node);
        self.nodes.iter().filter_map(has_all).collect()
    }

    /// Until when the log behind it is kept, also when its files are gone, if so many bytes are installed until it is.
    pub(super) fn is_followed_until(&self, bytes: u64) -> Instant {
        self.asked + UNASKED + Duration::from_secs(bytes / INSTALLED_PER_SECOND)
    }

    /// As if all of it had been so much earlier.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        self.asked -= by;
        self.moved -= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::shard::now;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(60 * 60);
    const ONE: NodeId = NodeId::new(1);
    const OTHER: NodeId = NodeId::new(2);

    #[test]
    fn one_goes_that_nobody_asks_for_in_ten_minutes() {
        let start = now();
        let mut kept = Kept::since(start);
        assert_eq!(kept.ends(), start + UNASKED);
        kept.offer(ONE, start + MINUTE);
        assert_eq!(kept.ends(), start + MINUTE + UNASKED);
        kept.give(ONE, 0, start + 2 * MINUTE);
        assert_eq!(kept.ends(), start + 2 * MINUTE + UNASKED);
    }

    /// It was cut off twelve hours after it was taken: at 32 MiB a second nothing above 1.35 TiB ever arrived.
    #[test]
    fn one_that_takes_a_day_to_send_is_kept_until_all_of_it_is() {
        let start = now();
        let mut kept = Kept::since(start);
        let mut at = start;
        for index in 0..3_000_000 {
            at = start + Duration::from_millis(31) * index;
            assert!(at < kept.ends(), "part {index}");
            kept.give(ONE, index, at);
        }
        assert!(at > start + 24 * HOUR);
        // Nor is it taken away from a second node, which begins only now.
        for index in 0..3_000_000 {
            let at = at + Duration::from_millis(31) * index;
            assert!(at < kept.ends(), "part {index} of the second");
            kept.give(OTHER, index, at);
        }
    }

    #[test]
    fn nobody_holds_one_for_ever_by_asking_for_the_same_again_or_for_a_part_now_and_then() {
        let start = now();
        let (mut same, mut slow) = (Kept::since(start), Kept::since(start));
        for step in 0..12 * 60 / 5 {
            let at = start + 5 * MINUTE * step;
            same.give(ONE, 7, at);
            slow.give(ONE, step, at);
        }
        assert_eq!((same.ends(), slow.ends()), (start + UNMOVED, start + UNMOVED));
    }

    #[test]
    fn one_is_sent_when_every_node_that_was_offered_it_has_all_of_it_and_is_silent() {
        let start = now();
        let mut kept = Kept::since(start);
        assert!(!kept.is_sent(0, start + HOUR), "somebody fetched it in a former life, perhaps");
        kept.offer(ONE, start);
        kept.offer(OTHER, start);
        kept.give(ONE, 0, start);
        kept.give(ONE, 1, start);
        assert!(!kept.is_sent(2, start + HOUR), "the other one lacks it");
        kept.give(OTHER, 0, start);
        kept.give(OTHER, 1, start);
        assert!(kept.is_sent(2, start + SENT) && !kept.is_sent(3, start + SENT));
        assert_eq!((kept.sent_to(3), kept.sent_to(2)), (vec![], vec![ONE, OTHER]));
        assert_eq!(kept.is_followed_until(0), start + UNASKED);
        assert_eq!(kept.is_followed_until(100 << 30), start + UNASKED + Duration::from_secs(6_400));
        kept.offer(ONE, start + MINUTE);
        kept.offer(OTHER, start + MINUTE);
        assert_eq!(kept.sent_to(2), [ONE, OTHER], "they may be installing it");
        kept.give(OTHER, 1, start + MINUTE);
        assert!(!kept.is_sent(2, start + HOUR), "it came back");
        kept.give(ONE, 1, start + 2 * MINUTE);
        assert!(kept.is_sent(2, start + HOUR), "for the last part");
    }
}

//! How old what is applied here may be: bounded staleness, by this process's clock alone.
//!
//! A follower that asked its leader what a read must show ([`Input::Read`](super::Input::Read)) and has applied that shows
//! everything that was acknowledged before it *asked*. So it knows how old its state is at the most without any other node's
//! clock: as old as the question. Leases and closed time stamps need clocks that agree; this needs one that runs at about the
//! right rate. Reads that allow `t` cost one question in `t`, and a shard that nobody reads none.

use crate::model::Lsn;
use crate::model::mutant::{Mutant, planted};
use std::time::Duration;

/// What one replica's state is known to show.
///
/// Times are of a monotonic clock of this process, which counts also what the machine was suspended.
///
/// ```
/// use std::time::Duration;
/// use towline::model::Lsn;
/// use towline::replica::Freshness;
/// let second = Duration::from_secs(1);
/// let mut freshness = Freshness::default();
/// freshness.confirmed(second * 10, second * 11, Lsn::new(7)); // Asked at 10, answered at 11.
/// assert!(!freshness.covers(second * 12, second * 5, Lsn::new(6)), "what it must show is not applied");
/// assert!(freshness.covers(second * 12, second * 5, Lsn::new(7)), "it is two seconds old at the most");
/// assert!(!freshness.covers(second * 12, second, Lsn::new(7)), "which is more than one");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// When the newest question was asked whose answer is applied.
    shown: Option<Duration>,
    /// The oldest whose answer is not applied, and that.
    pending: Option<(Duration, Lsn)>,
    /// The newest.
    newest: Option<(Duration, Lsn)>,
}

impl Freshness {
    /// The question that was asked at `asked` has its answer, at `now`: everything acknowledged before it was asked is no further
    /// than `index`.
    pub fn confirmed(&mut self, asked: Duration, now: Duration, index: Lsn) {
        let asked = if planted(Mutant::FreshWhenHeard) { now } else { asked };
        if self.newest.is_none_or(|(newest, _)| newest < asked) {
            self.newest = Some((asked, index));
            self.pending.get_or_insert((asked, index));
        }
    }

    /// Whether a state with everything up to `applied` shows all that was acknowledged `staleness` before `now`, or earlier. Never of
    /// zero: a clock that is coarse shows one time at several moments.
    pub fn covers(&mut self, now: Duration, staleness: Duration, applied: Lsn) -> bool {
        self.age(now, applied).is_some_and(|age| age < staleness)
    }

    /// How old such a state is at the most; none if that is not known. A clock runs within one in a hundred of the true rate
    /// (docs/src/architecture.md): that much is added.
    pub fn age(&mut self, now: Duration, applied: Lsn) -> Option<Duration> {
        // The oldest that waits is kept until it is applied: where the state is always a little behind the newest answer, a newer
        // one in its place would never be reached.
        while let Some((asked, _)) = self.pending.filter(|(_, index)| *index <= applied) {
            self.shown = Some(asked);
            self.pending = self.newest.filter(|(newest, _)| *newest > asked);
        }
        let age = now.saturating_sub(self.shown?);
        Some(age + age / 99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_known_before_an_answer_is_applied() {
        let mut freshness = Freshness::default();
        assert!(!freshness.covers(seconds(1), Duration::MAX, Lsn::new(9)));
        freshness.confirmed(seconds(1), seconds(2), Lsn::new(9));
        assert_eq!(freshness.age(seconds(3), Lsn::new(8)), None);
        assert_eq!(freshness.age(seconds(100), Lsn::new(9)), Some(seconds(100)), "a slow clock may count 99 of 100");
    }

    #[test]
    fn a_state_that_is_always_behind_the_newest_answer_has_an_age_all_the_same() {
        let mut freshness = Freshness::default();
        for now in 1..100 {
            freshness.confirmed(seconds(now), seconds(now), Lsn::new(now));
            if now > 3 {
                let age = freshness.age(seconds(now), Lsn::new(now - 3)).unwrap();
                assert!(age <= seconds(8), "{age:?} at {now}");
            }
        }
    }

    proptest! {
        /// Against the whole history: what is told is never younger than what was asked and is applied.
        #[test]
        fn the_age_is_that_of_a_question_whose_answer_is_applied(
            steps in proptest::collection::vec((0_u64..5, 0_u64..4, 0_u64..20, 0_u64..20), 1..40),
        ) {
            let (mut freshness, mut history, mut now, mut applied) = (Freshness::default(), Vec::new(), 0, 0);
            for (passed, ago, ahead, more) in steps {
                now += passed;
                let asked = now.saturating_sub(ago);
                freshness.confirmed(seconds(asked), seconds(now), Lsn::new(applied + ahead));
                history.push((asked, applied + ahead));
                applied += more;
                let best = history.iter().filter(|(_, index)| *index <= applied).map(|(asked, _)| *asked).max();
                let age = freshness.age(seconds(now), Lsn::new(applied));
                let least = best.map(|best| seconds(now - best));
                prop_assert!(age.is_none_or(|age| least.is_some_and(|least| age >= least)), "{age:?}, {least:?}");
            }
        }
    }
}

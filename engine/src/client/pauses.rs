//! [`Pauses`]: how long a client waits before it tries again. The one rule of all that it tries.

use crate::model::request::Failure;
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;
use tokio::time::sleep;

/// Between two attempts, at the least and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The pauses between attempts, each about twice as long as the one before it. Jittered: otherwise all clients of a server that was
/// away would come back at one moment.
#[derive(Debug)]
pub(super) struct Pauses {
    rule: ExponentialBackoff,
    /// Whether the last one was none.
    was_none: bool,
}

impl Pauses {
    pub(super) fn new() -> Self {
        let rule = ExponentialBuilder::new().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX).with_jitter();
        Self { rule: rule.without_max_times().build(), was_none: false }
    }

    pub(super) fn next(&mut self) -> Duration {
        self.was_none = false;
        self.rule.next().unwrap_or(PAUSE_MAX)
    }

    /// Waits for as long as [`Pauses::after`] says.
    pub(super) async fn pass_after(&mut self, failure: Option<&Failure>) {
        let pause = self.after(failure);
        // A timer's shortest time is a millisecond.
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// The next one, if this was the answer: none if it says whom to ask instead. But not twice in succession: two servers may name
    /// each other.
    pub(super) fn after(&mut self, failure: Option<&Failure>) -> Duration {
        if self.was_none || failure.is_none_or(|failure| failure.leader.is_none()) {
            return self.next();
        }
        self.was_none = true;
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;
    use crate::model::request::FailureClass;

    #[test]
    fn whoever_is_told_whom_to_ask_asks_at_once_but_not_twice_in_succession() {
        let class = FailureClass::ReRoute;
        let failure = |leader| Failure { code: 8001, class, no_side_effects: true, message: String::new(), leader };
        let (named, unnamed) = (failure(Some(NodeId::new(2))), failure(None));
        let mut pauses = Pauses::new();
        let mut is_none = |failure: Option<&Failure>| pauses.after(failure).is_zero();
        assert!(!is_none(None) && !is_none(Some(&unnamed)));
        assert!(is_none(Some(&named)) && !is_none(Some(&named)) && is_none(Some(&named)));
        assert!(!is_none(Some(&unnamed)));
    }

    #[test]
    fn pauses_rise_to_their_bound_and_are_not_those_of_another_client() {
        let of_one = || {
            let mut pauses = Pauses::new();
            (0..20).map(|_| pauses.next()).collect::<Vec<_>>()
        };
        let (one, other) = (of_one(), of_one());
        assert!(one.iter().all(|pause| (PAUSE_MIN..=2 * PAUSE_MAX).contains(pause)), "{one:?}");
        assert!(one[0] < 3 * PAUSE_MIN && one[19] >= PAUSE_MAX, "{one:?}");
        assert_ne!(one, other);
    }
}

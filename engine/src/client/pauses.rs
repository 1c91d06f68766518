//! [`Pauses`]: how long a client waits before it tries again. The one rule of all that it tries.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

/// Between two attempts, at the least and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The pauses between attempts, each about twice as long as the one before it. Jittered: otherwise all clients of a server that was
/// away would come back at one moment.
#[derive(Debug)]
pub(super) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(super) fn new() -> Self {
        let rule = ExponentialBuilder::new().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX).with_jitter();
        Self(rule.without_max_times().build())
    }

    pub(super) fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

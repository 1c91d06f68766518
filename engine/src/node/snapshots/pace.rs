//! So many bytes a second, and no more.

use crate::node::shard::now;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// What was not used is not saved up: a pause is no reason to hurry afterwards.
#[derive(Debug)]
pub(super) struct Pace {
    /// 0: as many as there are.
    bytes_per_second: u64,
    /// When the next bytes may go.
    free: Instant,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free: now() }
    }

    /// Waits as long as these bytes take; false if the node closes.
    pub(super) fn took(&mut self, bytes: usize, closing: &Receiver<Infallible>) -> bool {
        let pause = self.pause_for(bytes, now());
        !matches!(closing.recv_timeout(pause), Err(RecvTimeoutError::Disconnected))
    }

    fn pause_for(&mut self, bytes: usize, at: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.free = self.free.max(at).checked_add(takes).unwrap_or(at);
        self.free.saturating_duration_since(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_a_pause_is_not_made_up_for() {
        let start = now();
        let mut pace = Pace { bytes_per_second: 1000, free: start };
        assert_eq!(pace.pause_for(500, start), Duration::from_millis(500));
        assert_eq!(pace.pause_for(500, start), Duration::from_millis(1000), "behind the first");
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.pause_for(500, later), Duration::from_millis(500));
        let mut unlimited = Pace { bytes_per_second: 0, free: start };
        assert_eq!(unlimited.pause_for(usize::MAX, start), Duration::ZERO);
    }
}

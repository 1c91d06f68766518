//! How old what is applied of a shard is at the most, for all who read it.

use crate::model::Lsn;
use crate::replica::Freshness;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is known of one shard.
#[derive(Debug, Default)]
pub(super) struct Known {
    freshness: Mutex<Freshness>,
    /// Somebody asks already, for those who read later.
    asks: AtomicBool,
}

impl Known {
    /// As [`Freshness::confirmed`].
    pub(super) fn confirmed(&self, asked: Duration, now: Duration, index: Lsn) {
        self.freshness.lock().confirmed(asked, now, index);
    }

    /// As [`Freshness::age`].
    pub(super) fn age(&self, now: Duration, applied: Lsn) -> Option<Duration> {
        self.freshness.lock().age(now, applied)
    }

    /// Whether it is the caller who is to ask now; then it says when it [has](Self::has_asked).
    pub(super) fn begins_to_ask(&self) -> bool {
        !self.asks.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_asked(&self) {
        self.asks.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_ahead_for_all_until_it_has_an_answer() {
        let known = Known::default();
        assert!(known.begins_to_ask());
        assert!(!known.begins_to_ask());
        known.has_asked();
        assert!(known.begins_to_ask());
    }
}

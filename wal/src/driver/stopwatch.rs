//! How long one thing has been under way, for others to look at.

#![expect(
    clippy::disallowed_methods,
    reason = "how long a device takes is for people and for health checks; the log's core has no clock"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Stopwatch {
    origin: Instant,
    /// Nanoseconds from the origin to the start, and 1; 0: nothing is under way. It guards nothing: relaxed.
    started: AtomicU64,
}

impl Stopwatch {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), started: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn start(&self) {
        self.started.store(self.now().saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.started.store(0, Ordering::Relaxed);
    }

    pub(super) fn running(&self) -> Option<Duration> {
        let started = self.started.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_nanos(self.now().saturating_sub(started)))
    }
}

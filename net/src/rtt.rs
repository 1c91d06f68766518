//! [`RttEstimate`]: how long a round trip takes, from Ping and Pong.

use std::time::Duration;

/// Round-trip times of a connection (RFC 6298, section 2; the smoothing of TCP).
///
/// It measures the peer's core as well as the path: a Pong is written by the peer's connection, not by its kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RttEstimate {
    /// The last sample.
    pub latest: Duration,
    /// The smoothed value.
    pub smoothed: Duration,
    /// The smoothed deviation.
    pub variation: Duration,
    /// The smallest sample.
    pub smallest: Duration,
}

impl RttEstimate {
    pub(crate) fn first(sample: Duration) -> Self {
        Self { latest: sample, smoothed: sample, variation: sample / 2, smallest: sample }
    }

    pub(crate) fn update(&mut self, sample: Duration) {
        let deviation = self.smoothed.abs_diff(sample);
        self.latest = sample;
        self.variation = self.variation.saturating_mul(3).saturating_add(deviation) / 4;
        self.smoothed = self.smoothed.saturating_mul(7).saturating_add(sample) / 8;
        self.smallest = self.smallest.min(sample);
    }
}

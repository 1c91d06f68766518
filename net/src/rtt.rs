//! [`RttEstimate`]: how long a round trip takes, from Ping and Pong.

use std::time::Duration;

/// Round-trip times of a connection (RFC 6298, section 2; the smoothing of TCP).
///
/// It measures the peer's core as well as the path: a Pong is written by the peer's connection, not by its kernel.
///
/// ```
/// use std::time::Duration;
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// let ms = Duration::from_millis;
/// assert_eq!(dialer.stats().rtt, None, "no Pong came yet");
/// // A Ping is due. It takes 20 ms to the peer, and the Pong as long.
/// let sent = dialer.next_deadline().ok_or("it has ended")?;
/// dialer.tick(sent);
/// let ping = dialer.poll_transmit(sent, 4096).unwrap_or_default().concat();
/// acceptor.receive(sent + ms(20), &ping)?;
/// let pong = acceptor.poll_transmit(sent + ms(20), 4096).unwrap_or_default().concat();
/// dialer.receive(sent + ms(40), &pong)?;
/// let rtt = dialer.stats().rtt.ok_or("a Pong came")?;
/// assert_eq!((rtt.latest, rtt.smallest, rtt.smoothed, rtt.variation), (ms(40), ms(40), ms(40), ms(20)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

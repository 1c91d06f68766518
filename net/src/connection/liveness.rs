//! Time: the bound on the handshake, pings, and the bound on silence (N5, N15).

use std::time::Duration;

use crate::error::ConnectionError;
use crate::mutant::{Mutant, planted};
use crate::rtt::RttEstimate;

use super::{Connection, ConnectionConfig, Phase};

#[derive(Debug)]
pub(super) struct Liveness {
    hello_deadline: Duration,
    last_heard: Duration,
    ping_due: Duration,
    /// The Ping that has no Pong yet; at most one, so a slow path is not filled with them.
    outstanding: Option<(u64, Option<Duration>)>,
    last_token: u64,
    /// The first Ping behind this side's GoAway: once it is answered, every Open that crossed the GoAway has come.
    drain_token: Option<u64>,
    is_drain_heard: bool,
    /// Since when, as far as was looked, messages wait and none of their bytes went.
    stalled_since: Option<Duration>,
    pub(super) rtt: Option<RttEstimate>,
}

impl Liveness {
    pub(super) fn new(now: Duration, config: &ConnectionConfig) -> Self {
        Self {
            hello_deadline: now.saturating_add(config.hello_timeout),
            last_heard: now,
            ping_due: now.saturating_add(config.ping_interval),
            outstanding: None,
            last_token: 0,
            drain_token: None,
            is_drain_heard: false,
            stalled_since: None,
            rtt: None,
        }
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.last_heard = self.last_heard.max(now);
    }

    /// Bytes of a message went on their way.
    pub(super) const fn progressed(&mut self) {
        self.stalled_since = None;
    }

    pub(super) fn on_ping_sent(&mut self, now: Duration, token: u64) {
        self.outstanding = Some((token, Some(now)));
    }

    /// A Pong that answers nothing is without effect: it may answer a Ping of long ago.
    pub(super) fn on_pong(&mut self, now: Duration, token: u64) {
        let Some((_, Some(sent))) = self.outstanding.filter(|(awaited, _)| *awaited == token) else {
            return;
        };
        self.outstanding = None;
        self.is_drain_heard |= self.drain_token.is_some_and(|first| token >= first);
        let sample = now.saturating_sub(sent);
        match &mut self.rtt {
            Some(rtt) => rtt.update(sample),
            None => self.rtt = Some(RttEstimate::first(sample)),
        }
    }
}

impl Connection {
    /// GoAway goes out: a Ping behind it asks whether the peer has heard it.
    pub(super) fn ask_whether_drain_is_heard(&mut self, now: Duration) {
        self.liveness.drain_token = Some(self.liveness.last_token.wrapping_add(1));
        self.ping_for_drain(now);
    }

    /// One Ping at a time: if another waits for its Pong, this one follows that.
    pub(super) fn ping_for_drain(&mut self, now: Duration) {
        if self.liveness.drain_token.is_some() && !self.liveness.is_drain_heard && self.liveness.outstanding.is_none() {
            self.ping(now);
        }
    }

    pub(super) const fn is_drain_heard(&self) -> bool {
        self.liveness.is_drain_heard
    }

    fn ping(&mut self, now: Duration) {
        let token = self.liveness.last_token.wrapping_add(1);
        self.liveness.last_token = token;
        self.liveness.outstanding = Some((token, None));
        self.liveness.ping_due = now.saturating_add(self.config.ping_interval);
        self.outbound.ping = Some(token);
    }

    /// Lets time pass. Harmless when called too often.
    pub fn tick(&mut self, now: Duration) {
        self.look_for_a_stall(now);
        if self.events.is_empty() {
            // What a burst of events made it grow to is given back.
            self.events.shrink_to_fit();
        }
        match self.phase {
            // I12: nor for longer than this.
            Phase::Greeting if now >= self.liveness.hello_deadline && !planted(Mutant::PatientGreeting) => {
                self.fail(ConnectionError::HelloTimeout);
            }
            Phase::Ready if now >= self.silence_deadline() => self.fail(ConnectionError::IdleTimeout),
            Phase::Ready if now >= self.liveness.ping_due && self.liveness.outstanding.is_none() => self.ping(now),
            _ => {}
        }
    }

    fn look_for_a_stall(&mut self, now: Duration) {
        if self.phase != Phase::Ready || self.queued_bytes() == 0 {
            self.liveness.stalled_since = None;
            return;
        }
        let since = *self.liveness.stalled_since.get_or_insert(now);
        if now >= since.saturating_add(self.config.stall_timeout) {
            self.fail(ConnectionError::StallTimeout);
        }
    }

    /// When [`Self::tick`] next has something to do; `None` once the connection has ended.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let liveness = &self.liveness;
        match self.phase {
            Phase::Greeting => Some(liveness.hello_deadline),
            Phase::Ready => {
                let ping = liveness.outstanding.is_none().then_some(liveness.ping_due);
                let stall = liveness.stalled_since.map(|since| since.saturating_add(self.config.stall_timeout));
                [ping, stall].into_iter().flatten().chain([self.silence_deadline()]).min()
            }
            Phase::Closed(_) => None,
        }
    }

    const fn silence_deadline(&self) -> Duration {
        self.liveness.last_heard.saturating_add(self.config.idle_timeout)
    }
}

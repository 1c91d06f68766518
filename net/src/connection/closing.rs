//! The end: wished for, drained, or forced by an error.

use crate::error::{ConnectionError, GoAwayCode};
use crate::event::Event;
use crate::hello::{HelloAck, Refusal};

use super::{Connection, Farewell, Outbound, Phase, Side};

impl Connection {
    /// Takes no more streams and lets those that are open end by themselves; with the last of them the connection
    /// ends ([`ConnectionError::Drained`]). A code that does not [drain](GoAwayCode::drains) counts as
    /// [`GoAwayCode::SHUTDOWN`]. Before Ready it is [`Self::close`].
    pub fn go_away(&mut self, reason: GoAwayCode) {
        if !self.is_ready() {
            return self.close();
        }
        if self.drains_here.is_none() {
            let reason = if reason.drains() { reason } else { GoAwayCode::SHUTDOWN };
            self.drains_here = Some(reason);
            self.outbound.go_away = Some(reason);
        }
    }

    /// Ends the connection now. What is queued and not handed out is dropped; the peer is told.
    pub fn close(&mut self) {
        self.fail(ConnectionError::ClosedHere);
    }

    /// The byte stream has ended or failed; no farewell can go. Harmless after the end.
    pub fn transport_ended(&mut self) {
        let spoke_tls = self.heard_tls();
        self.fail(if spoke_tls { ConnectionError::SpeaksTls } else { ConnectionError::TransportEnded });
    }

    /// What the peer proved who it is by has ended ([`ConnectionError::CertificateEnded`]): as [`Self::close`], and the peer
    /// hears why. Whoever drives the connection knows when.
    pub fn certificate_ended(&mut self) {
        self.fail(ConnectionError::CertificateEnded);
    }

    /// What this side holds for all its peers is more than it may, and for this one it holds most
    /// ([`ConnectionError::MemoryExceeded`]): as [`Self::close`], and the peer hears why. Whoever drives the connections knows when.
    pub fn memory_exceeded(&mut self) {
        self.fail(ConnectionError::MemoryExceeded);
    }

    pub(super) fn on_go_away(&mut self, code: GoAwayCode) -> Result<(), ConnectionError> {
        if !code.drains() {
            return Err(ConnectionError::ClosedByPeer { code });
        }
        // A second one says nothing new, and would be an event that the peer pays nothing for.
        if !self.drains_there {
            self.drains_there = true;
            self.push_event(Event::GoAway { reason: code });
        }
        Ok(())
    }

    /// The one way to the end: the first reason stays.
    pub(super) fn fail(&mut self, reason: ConnectionError) {
        if self.is_closed() {
            return;
        }
        let farewell = self.last_word(&reason);
        let sequence = self.outbound.sequence;
        // A HelloAck that still waits goes first: the peer needs it to read the farewell.
        let hello = self.outbound.hello.take().filter(|_| matches!(self.phase, Phase::Ready));
        self.outbound = Outbound { sequence, hello, farewell, ..Outbound::default() };
        self.streams.clear();
        self.lanes = Default::default();
        self.phase = Phase::Closed(reason.clone());
        self.events.push_back(Event::Closed { reason });
    }

    fn last_word(&self, reason: &ConnectionError) -> Option<Farewell> {
        let code = reason.code();
        let (ours, refusal) = (self.config.announced_protocol(), Refusal::new(code));
        match (reason, &self.phase) {
            // Nobody is there, or it has the last word already.
            (ConnectionError::TransportEnded | ConnectionError::ClosedByPeer { .. }, _) => None,
            (ConnectionError::ClosedHere | ConnectionError::Drained, _) if self.session_seed.is_some() => {
                Some(Farewell::GoAway(GoAwayCode::CLOSED))
            }
            (_, Phase::Ready) => Some(Farewell::GoAway(GoAwayCode(u32::from(code)))),
            // The acceptor heard a Hello, and answers in the frozen form. What is no Hello gets no answer.
            (ConnectionError::VersionMismatch { theirs, .. }, Phase::Greeting) if self.side == Side::Acceptor => {
                let refusal = Refusal::of_versions(code, ours, *theirs);
                Some(Farewell::Refusal(HelloAck::Refusal(refusal).encode()))
            }
            (
                ConnectionError::WrongCluster
                | ConnectionError::WrongNode { .. }
                | ConnectionError::WrongRole { .. }
                | ConnectionError::FeatureMissing { .. }
                | ConnectionError::LimitsUnusable { .. }
                | ConnectionError::HelloMalformed { .. },
                Phase::Greeting,
            ) if self.side == Side::Acceptor => Some(Farewell::Refusal(HelloAck::Refusal(refusal).encode())),
            // The dialer did not like the HelloAck, which it could read.
            (_, Phase::Greeting) if self.session_seed.is_some() => Some(Farewell::GoAway(GoAwayCode(u32::from(code)))),
            _ => None,
        }
    }
}

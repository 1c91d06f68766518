//! From the first byte to Ready: what each side checks of the other, in this order.
//!
//! 1. the frame (its CRC with seed 0, its kind, its length);
//! 2. the form of the payload;
//! 3. the cluster: that it is said, except by a client, and which it is, where one is expected;
//! 4. the role and the node, where they are expected;
//! 5. the version;
//! 6. the features;
//! 7. the limits.
//!
//! The first that fails ends the connection. What the other side hears of it: an acceptor answers a failure of 1 by
//! nothing, since those bytes are no Hello, and any other by a refusal, which says the code alone, or for want of a common
//! version also both ranges. A dialer says GoAway with the code from 3 on; without the peer's nonce, which stands in the
//! form, there is no frame that the peer could read.

use crate::error::ConnectionError;
use crate::event::Event;
use crate::frame::{FrameKind, session_seed};
use crate::hello::{Hello, HelloAck, Refusal};
use crate::identity::PeerHello;
use crate::limits::{FRAME_BYTES_CEILING, PeerLimits};

use super::{Connection, Phase, Side};

impl Connection {
    /// The kind of frame that comes before all others.
    pub(super) const fn awaited_greeting(&self) -> FrameKind {
        match self.side {
            Side::Dialer => FrameKind::HelloAck,
            Side::Acceptor => FrameKind::Hello,
        }
    }

    pub(super) fn on_greeting(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        match self.side {
            Side::Acceptor => self.on_hello(payload),
            Side::Dialer => self.on_hello_ack(payload),
        }
    }

    fn on_hello(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let hello = Hello::decode(payload).map_err(|error| ConnectionError::HelloMalformed { what: error.what })?;
        self.check_identity(&hello)?;
        let version = self.agree_version(&hello)?;
        let peer = self.agree(&hello, version)?;
        let answer = HelloAck::Welcome { version, hello: self.config.hello() };
        self.outbound.hello = Some((FrameKind::HelloAck, answer.encode()));
        self.session_seed = Some(session_seed(&hello.nonce, &self.config.nonce));
        self.become_ready(peer);
        Ok(())
    }

    fn on_hello_ack(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let answer = HelloAck::decode(payload).map_err(|error| ConnectionError::HelloMalformed { what: error.what })?;
        let (version, hello) = match answer {
            HelloAck::Refusal(Refusal { code, ours, .. }) => {
                let theirs = ours;
                let ours = self.config.announced_protocol();
                return Err(ConnectionError::Refused { code, ours, theirs });
            }
            HelloAck::Welcome { version, hello } => (version, hello),
        };
        // From here on both nonces are known: a farewell can say why.
        self.session_seed = Some(session_seed(&self.config.nonce, &hello.nonce));
        self.check_identity(&hello)?;
        if self.agree_version(&hello)? != version {
            return Err(ConnectionError::HelloMalformed { what: "the version chosen is not the smaller maximum" });
        }
        let peer = self.agree(&hello, version)?;
        self.become_ready(peer);
        Ok(())
    }

    fn check_identity(&self, hello: &Hello) -> Result<(), ConnectionError> {
        if let Some(what) = hello.identity.broken_rule() {
            return Err(ConnectionError::HelloMalformed { what });
        }
        if let Some(expected) = self.config.expect_cluster
            && hello.identity.cluster != expected
            && !(self.side == Side::Acceptor && hello.identity.seeks_cluster())
        {
            return Err(ConnectionError::WrongCluster);
        }
        if let Some(expected) = self.config.expect_role
            && hello.identity.role != expected
        {
            return Err(ConnectionError::WrongRole { expected, found: hello.identity.role });
        }
        match self.config.expect_node {
            Some(expected) if hello.identity.node != expected => {
                Err(ConnectionError::WrongNode { expected, found: hello.identity.node })
            }
            _ => Ok(()),
        }
    }

    fn agree_version(&self, hello: &Hello) -> Result<u16, ConnectionError> {
        let (ours, theirs) = (self.config.announced_protocol(), hello.protocol);
        ours.agree(theirs).ok_or(ConnectionError::VersionMismatch { ours, theirs })
    }

    fn agree(&self, hello: &Hello, version: u16) -> Result<PeerHello, ConnectionError> {
        let (ours, theirs) = (self.config.features, hello.features);
        let missing = (ours.needed & !theirs.offered) | (theirs.needed & !ours.offered);
        if missing != 0 {
            return Err(ConnectionError::FeatureMissing { missing });
        }
        if let Some(rule) = hello.limits.broken_rule() {
            return Err(ConnectionError::LimitsUnusable { rule });
        }
        let own = self.config.limits.frame_bytes_max;
        let frame_bytes_max = hello.limits.frame_bytes_max.min(own).min(FRAME_BYTES_CEILING);
        Ok(PeerHello {
            identity: hello.identity,
            protocol: version,
            protocol_range: hello.protocol,
            features: ours.offered & theirs.offered,
            limits: PeerLimits { frame_bytes_max, ..hello.limits },
        })
    }

    fn become_ready(&mut self, peer: PeerHello) {
        self.open_credit.raise(u64::from(peer.limits.streams_max));
        self.send_credit.raise(peer.limits.connection_window);
        self.peer = Some(peer);
        self.phase = Phase::Ready;
        self.push_event(Event::Ready { peer });
    }
}

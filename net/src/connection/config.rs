//! [`ConnectionConfig`]: what a side brings to a handshake.

use std::time::Duration;

use crate::error::ConfigError;
use crate::hello::Hello;
use crate::identity::{Features, Identity, ProtocolRange, Role};
use crate::limits::Limits;

/// What a side brings to a handshake, and how long it waits. [`Self::new`] has defaults for all but who it is.
///
/// ```
/// use towline_net::{ConnectionConfig, Identity, Limits, Role};
/// let me = Identity { cluster: [7; 16], node: 3, directory: [9; 16], incarnation: 12, role: Role::Node };
/// let mut config = ConnectionConfig::new(me, [0x5a; 16]); // take 16 fresh random bytes here
/// config.expect_cluster = Some([7; 16]);
/// config.limits = Limits { streams_max: 16, ..Limits::default() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConnectionConfig {
    /// Who this side is.
    pub identity: Identity,
    /// The cluster the peer must belong to.
    pub expect_cluster: Option<[u8; 16]>,
    /// The node the peer must be: addresses are reused.
    pub expect_node: Option<u64>,
    /// The part the peer must speak in: a client's certificate makes no node.
    pub expect_role: Option<Role>,
    /// Versions this side speaks.
    pub protocol: ProtocolRange,
    /// The operator's cap on them, for a roll-out that can be rolled back.
    pub protocol_cap: Option<u16>,
    /// Features of this side.
    pub features: Features,
    /// Bounds.
    pub limits: Limits,
    /// How long after a Pong (or the beginning) the next Ping goes.
    pub ping_interval: Duration,
    /// How long a peer may be silent. Three ping intervals find a half-open connection (N5).
    pub idle_timeout: Duration,
    /// How long messages may wait for a peer that takes none of them, though it answers pings: what waits is memory.
    pub stall_timeout: Duration,
    /// How long a peer may take for its Hello (N15).
    pub hello_timeout: Duration,
    /// 16 fresh random bytes: they tie frames to this session.
    pub nonce: [u8; 16],
}

impl ConnectionConfig {
    /// The defaults: version 1, no features, [`Limits::DEFAULT`], a ping each second, three seconds of silence, five
    /// for the handshake, 30 for a peer that takes nothing.
    #[must_use]
    pub const fn new(identity: Identity, nonce: [u8; 16]) -> Self {
        Self {
            identity,
            expect_cluster: None,
            expect_node: None,
            expect_role: None,
            protocol: crate::PROTOCOL,
            protocol_cap: None,
            features: Features { needed: 0, offered: 0 },
            limits: Limits::DEFAULT,
            ping_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(30),
            hello_timeout: Duration::from_secs(5),
            nonce,
        }
    }

    /// The versions this side announces: its own, under the operator's cap.
    #[must_use]
    pub fn announced_protocol(&self) -> ProtocolRange {
        let cap = self.protocol_cap.unwrap_or(u16::MAX);
        ProtocolRange::new(self.protocol.lowest, self.protocol.highest.min(cap))
    }

    /// The Hello that this configuration makes.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: self.announced_protocol(),
            features: self.features,
            identity: self.identity,
            limits: self.limits.announced(),
            nonce: self.nonce,
        }
    }

    /// Whether it can work.
    ///
    /// # Errors
    /// [`ConfigError`] names the relation that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate()?;
        self.identity.validate()?;
        let announced = self.announced_protocol();
        if announced.lowest == 0 || announced.lowest > announced.highest {
            return Err(ConfigError::Protocol { range: self.protocol, cap: self.protocol_cap });
        }
        let missing = self.features.needed & !self.features.offered;
        if missing != 0 {
            return Err(ConfigError::Features { missing });
        }
        if self.ping_interval.is_zero() || self.hello_timeout.is_zero() || self.stall_timeout.is_zero() {
            return Err(ConfigError::Times { rule: "0 < ping_interval, hello_timeout and stall_timeout" });
        }
        if self.idle_timeout <= self.ping_interval {
            return Err(ConfigError::Times { rule: "ping_interval < idle_timeout" });
        }
        Ok(())
    }
}

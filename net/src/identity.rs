//! Who is at the other end: [`Identity`] as each side says it of itself, and [`PeerHello`], what a handshake agreed.

use std::fmt;
use std::ops::RangeInclusive;

use crate::error::ConfigError;
use crate::limits::PeerLimits;

/// What a process says of itself in its Hello. Nothing here is proved: proof is the certificate's, a layer below.
///
/// ```
/// use towline_net::{Identity, Role};
/// let me = Identity { cluster: [7; 16], node: 3, directory: [9; 16], incarnation: 12, role: Role::Node };
/// assert_eq!(me.role, Role::Node);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's uuid. All zero means 'I do not know it yet', and only a client may say so.
    pub cluster: [u8; 16],
    /// The node's number within the cluster; a client says 0.
    pub node: u64,
    /// The uuid of the data directory behind the node; a client says zeros.
    pub directory: [u8; 16],
    /// One life of that directory in one process; it rises at every open.
    pub incarnation: u64,
    /// In which part it speaks.
    pub role: Role,
}

impl Identity {
    /// Whether this is a client that has still to learn which cluster it talks to.
    #[must_use]
    pub fn seeks_cluster(&self) -> bool {
        self.role == Role::Client && self.cluster == [0; 16]
    }

    /// The rule that it breaks by saying no cluster, in words; the same check for our own and for a peer's. Two nodes
    /// that both left it open would take each other for neighbours.
    pub(crate) fn broken_rule(&self) -> Option<&'static str> {
        (self.cluster == [0; 16] && self.role != Role::Client).then_some("only a client may leave its cluster open")
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if let Some(rule) = self.broken_rule() {
            return Err(ConfigError::Identity { rule });
        }
        // On the wire it is the byte alone: the peer would take it for the role that it knows by that byte.
        if Role::from_wire(self.role.to_wire()) != self.role {
            return Err(ConfigError::Identity { rule: "a role that this build knows is none of `Role::Unknown`" });
        }
        Ok(())
    }
}

/// In which part a peer speaks.
///
/// ```
/// use towline_net::{Event, Role};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let now = NOW;
/// # let mut dialer = config(1);
/// # dialer.identity.role = Role::Unknown(9);
/// # let (mut dialer, mut acceptor) = meet(dialer, config(2));
/// // The dialer is of a later version, and has a role that came with it.
/// let Some(Event::Ready { peer }) = acceptor.poll_event() else { panic!("roles are no reason to refuse") };
/// match peer.identity.role {
///     Role::Node | Role::Client => {} // Streams follow.
///     role => {
///         assert_eq!(role, Role::Unknown(9));
///         acceptor.close();
///     }
/// }
/// exchange(&mut dialer, &mut acceptor, now);
/// assert!(dialer.is_closed());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Role {
    /// A member of the cluster.
    Node,
    /// An application's connection.
    Client,
    /// A role that this build does not know, by its byte on the wire. The layer above decides whether to serve it. A
    /// configuration that hides a known role here (1, 2) is refused.
    Unknown(u8),
}

impl Role {
    pub(crate) const fn to_wire(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::Client => 2,
            Self::Unknown(byte) => byte,
        }
    }

    pub(crate) const fn from_wire(byte: u8) -> Self {
        match byte {
            1 => Self::Node,
            2 => Self::Client,
            other => Self::Unknown(other),
        }
    }
}

/// The protocol versions a side speaks, both ends included.
///
/// ```
/// use towline_net::{ConnectionConfig, ProtocolRange};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// // A roll-out: the new build speaks three versions, and is held back until all can follow.
/// let mut new = ConnectionConfig { protocol: ProtocolRange::new(1, 3), protocol_cap: Some(2), ..config(1) };
/// let old = ConnectionConfig { protocol: (1..=2).into(), ..config(2) };
/// assert_eq!(new.announced_protocol(), old.protocol);
/// let (dialer, _) = meet(new, old);
/// assert_eq!(dialer.peer().map(|peer| peer.protocol), Some(2));
/// // Without the cap they agree all the same.
/// new.protocol_cap = None;
/// let (_, acceptor) = meet(new, old);
/// let peer = acceptor.peer().ok_or("not ready")?;
/// assert_eq!((peer.protocol, peer.protocol_range.to_string()), (2, "1..=3".to_owned()));
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolRange {
    /// The oldest version spoken.
    pub lowest: u16,
    /// The newest version spoken.
    pub highest: u16,
}

impl ProtocolRange {
    /// The range `lowest ..= highest`.
    #[must_use]
    pub const fn new(lowest: u16, highest: u16) -> Self {
        Self { lowest, highest }
    }

    /// The version that two ranges agree on: the smaller maximum, if both speak it.
    ///
    /// ```
    /// use towline_net::ProtocolRange;
    /// assert_eq!(ProtocolRange::new(1, 3).agree(ProtocolRange::new(2, 5)), Some(3));
    /// assert_eq!(ProtocolRange::new(1, 2).agree(ProtocolRange::new(3, 5)), None);
    /// ```
    #[must_use]
    pub fn agree(self, other: Self) -> Option<u16> {
        let version = self.highest.min(other.highest);
        (version >= self.lowest && version >= other.lowest).then_some(version)
    }
}

impl From<RangeInclusive<u16>> for ProtocolRange {
    fn from(range: RangeInclusive<u16>) -> Self {
        Self::new(*range.start(), *range.end())
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.lowest, self.highest)
    }
}

/// Feature bits of a side: what it can do, and what it will not do without.
///
/// ```
/// use towline_net::{ConnectionConfig, ConnectionError, Features};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// const COMPRESSION: u64 = 1 << 0;
/// const FILTERS: u64 = 1 << 1;
/// let old = ConnectionConfig { features: Features { needed: 0, offered: COMPRESSION }, ..config(1) };
/// let mut new = ConnectionConfig { features: Features { needed: 0, offered: COMPRESSION | FILTERS }, ..config(2) };
/// let (dialer, _) = meet(old, new);
/// assert_eq!(dialer.peer().map(|peer| peer.features), Some(COMPRESSION), "what both offer");
/// new.features.needed = FILTERS;
/// let (_, acceptor) = meet(old, new);
/// assert_eq!(acceptor.closed_reason(), Some(&ConnectionError::FeatureMissing { missing: FILTERS }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// The peer must offer all of these, or there is no connection. A subset of `offered`.
    pub needed: u64,
    /// What this side can do.
    pub offered: u64,
}

/// What a handshake agreed, and what the peer said of itself.
///
/// ```
/// use towline_net::{ConnectionConfig, Event, Limits};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// let small_frames = Limits { frame_bytes_max: 4096, ..Limits::DEFAULT };
/// let (_, mut acceptor) = meet(ConnectionConfig { limits: small_frames, ..config(1) }, config(2));
/// let Some(Event::Ready { peer }) = acceptor.poll_event() else { panic!("nothing is in their way") };
/// assert_eq!((peer.identity.node, peer.identity.incarnation), (1, 1));
/// assert_eq!(peer.protocol, towline_net::PROTOCOL.highest);
/// assert_eq!(peer.limits.frame_bytes_max, 4096, "the smaller of both wishes");
/// assert_eq!(acceptor.peer(), Some(&peer), "it can be asked for later, too");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PeerHello {
    /// Who the peer says it is.
    pub identity: Identity,
    /// The version both sides speak from here on.
    pub protocol: u16,
    /// The versions the peer could speak.
    pub protocol_range: ProtocolRange,
    /// The features that both sides offer.
    pub features: u64,
    /// What the peer takes; `frame_bytes_max` is already the smaller of both sides' wishes.
    pub limits: PeerLimits,
}

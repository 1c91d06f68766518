//! Who is at the other end: [`Identity`] as each side says it of itself, and [`PeerHello`], what a handshake agreed.

use std::fmt;
use std::ops::RangeInclusive;

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
}

/// In which part a peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Role {
    /// A member of the cluster.
    Node,
    /// An application's connection.
    Client,
    /// A role that this build does not know. The layer above decides whether to serve it.
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// The peer must offer all of these, or there is no connection. A subset of `offered`.
    pub needed: u64,
    /// What this side can do.
    pub offered: u64,
}

/// What a handshake agreed, and what the peer said of itself.
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

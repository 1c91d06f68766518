//! What can go wrong, by operation. Every error has a number, under which the documentation has it (`TW-3001` is code
//! 3001). That of an error which ends a connection is also the code that travels in GoAway or in a refusal.

use crate::frame::StreamId;
use crate::identity::{ProtocolRange, Role};

/// What kind of fault an error is: what the caller should do about it.
///
/// ```
/// use towline_net::{ConnectionConfig, FaultClass};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// // Node 3 was to be found at this address; by now it is node 2's.
/// let wanted = ConnectionConfig { expect_node: Some(3), ..config(1) };
/// let (dialer, _) = meet(wanted, config(2));
/// let reason = dialer.closed_reason().ok_or("it has ended")?;
/// let next = match reason.class() {
///     FaultClass::Retry | FaultClass::Damage => "connect again, with back-off",
///     FaultClass::Reroute => "look up the address again",
///     _ => "tell a person",
/// };
/// assert_eq!(next, "look up the address again", "{reason}");
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FaultClass {
    /// Connect again, with back-off; send again what was not acknowledged.
    Retry,
    /// This is the wrong peer: look up the address again.
    Reroute,
    /// The caller asked for something that can't be.
    FixRequest,
    /// A person must look: configuration or versions do not fit.
    Operator,
    /// Bytes were damaged on their way. Connect again; if it repeats, suspect the path.
    Damage,
}

/// Why a connection ended. `receive` returns it, and [`Event::Closed`](crate::Event::Closed) carries it.
///
/// ```
/// use towline_net::{ConnectionError, FaultClass, GoAwayCode, Lane, SendFlags, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// let stream = dialer.open(StreamKind::Request, Lane::Request)?;
/// dialer.send(stream, "hello".into(), SendFlags::default())?;
/// let mut bytes = dialer.poll_transmit(now, 4096).unwrap_or_default().concat();
/// *bytes.last_mut().ok_or("empty")? ^= 1; // A bit flips on the way.
/// let reason = acceptor.receive(now, &bytes).unwrap_err();
/// assert!(matches!(reason, ConnectionError::PayloadChecksum { .. }));
/// assert_eq!((reason.code(), reason.class()), (3002, FaultClass::Damage));
/// // The peer hears the code.
/// exchange(&mut acceptor, &mut dialer, now);
/// assert_eq!(dialer.closed_reason(), Some(&ConnectionError::ClosedByPeer { code: GoAwayCode(3002) }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The header's CRC does not match: damage, bytes of another session, or not this protocol.
    #[error("frame header checksum does not match (frame {sequence})")]
    HeaderChecksum {
        /// The number of the frame that was expected.
        sequence: u32,
    },
    /// The payload's CRC does not match.
    #[error("frame payload checksum does not match (frame {sequence})")]
    PayloadChecksum {
        /// The frame's number.
        sequence: u32,
    },
    /// The frame says it is longer than agreed.
    #[error("frame of {length} bytes, the maximum is {max}")]
    FrameTooLong {
        /// Said by the header.
        length: u32,
        /// Agreed, or fixed for that kind.
        max: u32,
    },
    /// A frame kind below 128 that this version does not know.
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The byte.
        kind: u8,
    },
    /// A hole or a repeat in the peer's frames.
    #[error("frame number {found} where {expected} comes next")]
    Sequence {
        /// Next in order.
        expected: u32,
        /// In the header.
        found: u32,
    },
    /// A frame whose fields can't be.
    #[error("malformed frame of kind {kind}: {what}")]
    Malformed {
        /// The frame's kind.
        kind: u8,
        /// The rule it breaks.
        what: &'static str,
    },
    /// A frame that its stream's state does not allow.
    #[error("stream {stream}: {what}")]
    StreamState {
        /// The stream.
        stream: StreamId,
        /// The rule it breaks.
        what: &'static str,
    },
    /// The peer sent more than it was granted (`FlowViolation`).
    #[error("flow violation on stream {stream}: {used} bytes used, {granted} granted")]
    FlowViolation {
        /// The stream; 0 is the connection as a whole.
        stream: StreamId,
        /// What the peer's frames add up to.
        used: u64,
        /// What it was granted.
        granted: u64,
    },
    /// A message longer than this side announced to take.
    #[error("message of more than {max} bytes on stream {stream}")]
    MessageTooLong {
        /// The stream.
        stream: StreamId,
        /// Announced.
        max: u64,
    },
    /// The peer opened more streams than it was granted.
    #[error("more than {granted} streams opened")]
    StreamsExceeded {
        /// How many were granted since the beginning.
        granted: u64,
    },
    /// No complete Hello within the bound.
    #[error("no complete hello in time")]
    HelloTimeout,
    /// Nothing heard for too long.
    #[error("nothing heard from the peer in time")]
    IdleTimeout,
    /// The peer took nothing of what waits for it, for too long.
    #[error("the peer took nothing of what waits for it in time")]
    StallTimeout,
    /// The peer belongs to another cluster.
    #[error("the peer belongs to another cluster")]
    WrongCluster,
    /// The peer is not the node that was to be found at that address.
    #[error("the peer is node {found}, expected was node {expected}")]
    WrongNode {
        /// Asked for.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// The peer speaks in another part than its certificate names.
    #[error("the peer says it is a {found:?}, expected was a {expected:?}")]
    WrongRole {
        /// Expected.
        expected: Role,
        /// Said.
        found: Role,
    },
    /// No protocol version in common.
    #[error("no protocol version in common: this side speaks {ours}, the peer {theirs}")]
    VersionMismatch {
        /// This side's.
        ours: ProtocolRange,
        /// The peer's.
        theirs: ProtocolRange,
    },
    /// One side needs features that the other does not offer.
    #[error("feature bits {missing:#x} are needed and not offered")]
    FeatureMissing {
        /// The bits.
        missing: u64,
    },
    /// The peer announced limits that do not fit each other.
    #[error("the peer's limits do not hold: {rule}")]
    LimitsUnusable {
        /// The broken relation.
        rule: &'static str,
    },
    /// The first frame is a Hello whose contents can't be read.
    #[error("malformed hello: {what}")]
    HelloMalformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The peer refused the handshake.
    #[error("the peer refused the connection with code {code} (it speaks {theirs:?}, this side {ours})")]
    Refused {
        /// Its code: the number of the error on its side.
        code: u16,
        /// This side's versions.
        ours: ProtocolRange,
        /// The peer's versions, if it said them.
        theirs: Option<ProtocolRange>,
    },
    /// The peer has all the connections it takes. Used in a refusal only.
    #[error("the peer takes no more connections")]
    Busy,
    /// The byte stream ended without a GoAway.
    #[error("the byte stream ended")]
    TransportEnded,
    /// The peer closed with this code ([`GoAwayCode`]).
    #[error("the peer closed the connection with code {code}")]
    ClosedByPeer {
        /// Its code.
        code: GoAwayCode,
    },
    /// This side closed it.
    #[error("the connection was closed here")]
    ClosedHere,
    /// This side drained, and nothing is left.
    #[error("the connection has drained")]
    Drained,
    /// The peer's first bytes are a record of TLS, and this side speaks plain text. Never sent: the peer could not read it.
    #[error("the peer speaks TLS, and this side plain text: one of the two lacks its credentials")]
    SpeaksTls,
    /// What the peer proved who it is by has ended while the connection ran. It may come back with what holds.
    #[error("the peer's certificate has ended")]
    CertificateEnded,
    /// What this side holds for all its peers is more than it may, and for this one it held most. It may come back, and take what it asks for.
    #[error("the peer takes too little of what it asked for, and sends more than is done: memory is needed for others")]
    MemoryExceeded,
}

impl ConnectionError {
    /// The stable number: on the wire, in logs, in the documentation.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::HeaderChecksum { .. } => 3001,
            Self::PayloadChecksum { .. } => 3002,
            Self::FrameTooLong { .. } => 3003,
            Self::UnknownKind { .. } => 3004,
            Self::Sequence { .. } => 3005,
            Self::Malformed { .. } => 3006,
            Self::StreamState { .. } => 3007,
            Self::FlowViolation { .. } => 3008,
            Self::MessageTooLong { .. } => 3009,
            Self::StreamsExceeded { .. } => 3010,
            Self::HelloTimeout => 3011,
            Self::IdleTimeout => 3012,
            Self::StallTimeout => 3025,
            Self::WrongCluster => 3013,
            Self::WrongNode { .. } => 3014,
            Self::WrongRole { .. } => 3026,
            Self::VersionMismatch { .. } => 3015,
            Self::FeatureMissing { .. } => 3016,
            Self::LimitsUnusable { .. } => 3017,
            Self::HelloMalformed { .. } => 3018,
            Self::Refused { .. } => 3019,
            Self::Busy => 3020,
            Self::TransportEnded => 3021,
            Self::ClosedByPeer { .. } => 3022,
            Self::ClosedHere => 3023,
            Self::Drained => 3024,
            Self::SpeaksTls => 3140,
            Self::CertificateEnded => 3143,
            Self::MemoryExceeded => 3027,
        }
    }

    /// What to do about it. What the peer said is of the class of the code that it said.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Refused { code, .. } => class_of_code(*code as u32),
            Self::ClosedByPeer { code } => class_of_code(code.0),
            own => class_of_code(own.code() as u32),
        }
    }

    /// Whether the connection ended as somebody wished, not by a fault.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        match self {
            Self::ClosedHere | Self::Drained => true,
            Self::ClosedByPeer { code } => code.0 == GoAwayCode::CLOSED.0,
            _ => false,
        }
    }
}

/// The one place that knows which class a code is of, whichever side says it; `docs/src/protocol.md` has the same table.
/// Below 3000 a connection ends as somebody wished. A code that a later version brings is a person's to look up.
const fn class_of_code(code: u32) -> FaultClass {
    match code {
        3001 | 3002 | 3005 => FaultClass::Damage,
        3013 | 3014 => FaultClass::Reroute,
        0..=2999 | 3011 | 3012 | 3020..=3025 | 3027 | 3143 => FaultClass::Retry,
        _ => FaultClass::Operator,
    }
}

/// A configuration that can't work; found before anything is sent.
///
/// ```
/// use towline_net::{ConfigError, Connection, ProtocolRange, Side};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let now = NOW;
/// let mut config = config(1);
/// config.protocol = ProtocolRange::new(2, 3);
/// config.protocol_cap = Some(1); // The operator holds back what this build begins with.
/// match Connection::new(Side::Dialer, config, now) {
///     Err(ConfigError::Protocol { range, cap }) => assert_eq!((range.lowest, cap), (2, Some(1))),
///     other => panic!("{other:?}"),
/// }
/// config.protocol_cap = None;
/// assert_eq!(config.validate(), Ok(()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Bounds that do not fit each other.
    #[error("limits do not fit each other: {rule} does not hold")]
    Limits {
        /// The broken relation.
        rule: &'static str,
    },
    /// The lowest protocol version lies above the highest, or above the operator's cap.
    #[error("no protocol version left: {range} capped at {cap:?}")]
    Protocol {
        /// Configured.
        range: ProtocolRange,
        /// The operator's cap.
        cap: Option<u16>,
    },
    /// Features that are needed and not offered by this side itself.
    #[error("feature bits {missing:#x} are needed and not offered by this side itself")]
    Features {
        /// The bits.
        missing: u64,
    },
    /// A time span that is zero, or an idle timeout not above the ping interval.
    #[error("time spans do not fit each other: {rule} does not hold")]
    Times {
        /// The broken relation.
        rule: &'static str,
    },
    /// An identity that a peer would refuse, or take for another one.
    #[error("an identity that can't be: {rule}")]
    Identity {
        /// The broken rule.
        rule: &'static str,
    },
}

impl ConfigError {
    /// The stable number: in logs, in the documentation.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Limits { .. } => 3101,
            Self::Protocol { .. } => 3102,
            Self::Features { .. } => 3103,
            Self::Times { .. } => 3104,
            Self::Identity { .. } => 3105,
        }
    }

    /// What to do about it: another configuration, whichever relation it is.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        FaultClass::FixRequest
    }
}

/// Why a message was not queued. Nothing of it was.
///
/// ```
/// use towline_net::{Event, FaultClass, Lane, SendError, SendFlags, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(SMALL));
/// let stream = dialer.open(StreamKind::Replication, Lane::Replication)?;
/// let refused = loop {
///     if let Err(refused) = dialer.send(stream, vec![7; 4000].into(), SendFlags::default()) {
///         break refused;
///     }
/// };
/// assert_eq!(refused, SendError::Full);
/// exchange(&mut dialer, &mut acceptor, now); // What was queued goes.
/// assert_eq!(dialer.poll_event(), Some(Event::Writable { stream }));
/// // Waiting does not help where the peer takes 12 KiB at a time.
/// let refused = dialer.send(stream, vec![7; 13_000].into(), SendFlags::default());
/// assert_eq!(refused, Err(SendError::TooLong { length: 13_000, max: 12 << 10 }));
/// assert_eq!(refused.map_err(|refused| refused.class()), Err(FaultClass::FixRequest));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane's send buffer is full. Wait for [`Event::Writable`](crate::Event::Writable).
    #[error("the send buffer is full")]
    Full,
    /// Longer than the peer takes, or than this side's send buffer. Send less at a time.
    #[error("message of {length} bytes, the maximum is {max}")]
    TooLong {
        /// The message's.
        length: u64,
        /// Accepted.
        max: u64,
    },
    /// No such stream, or it was finished or reset. Open another.
    #[error("the stream takes no more messages")]
    StreamClosed,
    /// The connection has ended, or is not yet ready.
    #[error("the connection is not open")]
    ConnectionClosed,
}

impl SendError {
    /// The stable number: in logs, in the documentation.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Full => 3111,
            Self::TooLong { .. } => 3112,
            Self::StreamClosed => 3113,
            Self::ConnectionClosed => 3114,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::TooLong { .. } => FaultClass::FixRequest,
            Self::Full | Self::StreamClosed | Self::ConnectionClosed => FaultClass::Retry,
        }
    }
}

/// Why a stream was not opened.
///
/// ```
/// use towline_net::{FaultClass, GoAwayCode, Lane, OpenError, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(SMALL));
/// // The acceptor takes one stream at a time.
/// let call = dialer.open(StreamKind::Request, Lane::Request)?;
/// assert_eq!(dialer.open(StreamKind::Request, Lane::Request), Err(OpenError::StreamsExhausted));
/// dialer.finish(call);
/// exchange(&mut dialer, &mut acceptor, now);
/// acceptor.finish(call);
/// # assert!(messages(&mut acceptor).is_empty());
/// exchange(&mut dialer, &mut acceptor, now);
/// let call = dialer.open(StreamKind::Request, Lane::Request)?; // The first one is over.
/// exchange(&mut dialer, &mut acceptor, now);
/// acceptor.go_away(GoAwayCode::RESTART);
/// exchange(&mut dialer, &mut acceptor, now);
/// let refused = dialer.open(StreamKind::Request, Lane::Request).unwrap_err();
/// assert_eq!((refused, refused.code(), refused.class()), (OpenError::Draining, 3123, FaultClass::Reroute));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The handshake is not over. Wait for [`Event::Ready`](crate::Event::Ready).
    #[error("the handshake is not over")]
    NotReady,
    /// As many streams are open as the peer takes: finish some.
    #[error("the peer takes no more streams for now")]
    StreamsExhausted,
    /// This side has opened as many streams since the connection began as there are numbers for (2^31, less one).
    /// Connect anew.
    #[error("the connection has no numbers left for streams")]
    NumbersUsedUp,
    /// One side said GoAway. Connect anew.
    #[error("the connection drains")]
    Draining,
    /// The connection has ended.
    #[error("the connection has ended")]
    ConnectionClosed,
}

impl OpenError {
    /// The stable number: in logs, in the documentation.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::NotReady => 3121,
            Self::StreamsExhausted => 3122,
            Self::NumbersUsedUp => 3141,
            Self::Draining => 3123,
            Self::ConnectionClosed => 3124,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Draining => FaultClass::Reroute,
            Self::NotReady | Self::StreamsExhausted | Self::NumbersUsedUp | Self::ConnectionClosed => FaultClass::Retry,
        }
    }
}

/// Why a stream was reset. Codes from 256 on belong to the layer above.
///
/// ```
/// use towline_net::{Event, Lane, ResetCode, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// const NOT_LEADER: ResetCode = ResetCode(ResetCode::APPLICATION.0); // A code of one's own.
/// let call = dialer.open(StreamKind::Request, Lane::Request)?;
/// exchange(&mut dialer, &mut acceptor, now);
/// acceptor.reset(call, NOT_LEADER);
/// exchange(&mut dialer, &mut acceptor, now);
/// let next = match dialer.poll_event() {
///     Some(Event::Reset { code: NOT_LEADER, .. }) => "ask who leads",
///     Some(Event::Reset { code: ResetCode::REFUSED, .. }) => "send the same to another node",
///     other => panic!("{other:?}"),
/// };
/// assert_eq!(next, "ask who leads");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ResetCode(pub u32);

impl ResetCode {
    /// The answer to a Reset by a side that had not finished.
    pub const ANSWERED: Self = Self(0);
    /// Nobody wants the rest.
    pub const CANCELLED: Self = Self(1);
    /// Not looked at: the stream came after GoAway. Safe to send again elsewhere.
    pub const REFUSED: Self = Self(2);
    /// A stream kind that the peer does not know.
    pub const UNKNOWN_STREAM_KIND: Self = Self(3);
    /// The layer above failed.
    pub const INTERNAL: Self = Self(4);
    /// The first code that belongs to the layer above.
    pub const APPLICATION: Self = Self(256);
}

impl std::fmt::Display for ResetCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a side says GoAway: 1 to 15 drain, everything else ends the connection at once; from 3000 on it is the
/// [`ConnectionError::code`] of the side that speaks.
///
/// ```
/// use towline_net::{Event, GoAwayCode, Lane, SendFlags, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// let call = dialer.open(StreamKind::Request, Lane::Request)?;
/// exchange(&mut dialer, &mut acceptor, now);
/// acceptor.go_away(GoAwayCode::RESTART);
/// exchange(&mut dialer, &mut acceptor, now);
/// let Some(Event::GoAway { reason }) = dialer.poll_event() else { panic!("it was said") };
/// assert!(reason.drains(), "what is open goes on");
/// acceptor.send(call, "the answer".into(), SendFlags::default())?;
/// exchange(&mut dialer, &mut acceptor, now);
/// assert_eq!(messages(&mut dialer), ["the answer"]);
/// // What ends the connection at once: a wish, or an error.
/// assert!(!GoAwayCode::CLOSED.drains() && !GoAwayCode(3002).drains());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GoAwayCode(pub u32);

impl GoAwayCode {
    /// The process goes away for good.
    pub const SHUTDOWN: Self = Self(1);
    /// The process will be back.
    pub const RESTART: Self = Self(2);
    /// Too much work: go to another one.
    pub const OVERLOADED: Self = Self(3);
    /// The connection ends now, as wished.
    pub const CLOSED: Self = Self(16);

    /// Whether streams that are open may go on to their end.
    #[must_use]
    pub const fn drains(self) -> bool {
        matches!(self.0, 1..=15)
    }
}

impl std::fmt::Display for GoAwayCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

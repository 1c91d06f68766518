//! [`FrameHeader`]: the 24 bytes before every payload, and the numbers that stand in them.
//!
//! ```text
//!  0        4        8    9    10      12       16       20       24
//!  | CRC-32 | length |kind|lane| flags | stream | payload| frame  |  payload ...
//!  |        |        |    |    |       |        | CRC-32 | number |
//! ```
//! All integers are little-endian. The header's CRC-32 covers bytes 4 to 24 and is seeded with the session, so that
//! bytes of another session do not pass, and is checked before the length is believed. The frame number counts a
//! side's frames from 0 and wraps: a hole or a repeat is found even where every frame by itself is whole.

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fmt;

use crate::limits::HEADER_BYTES;

/// A stream of a connection. The dialer opens odd numbers, the acceptor even ones; 0 is the connection itself.
///
/// ```
/// use std::collections::BTreeMap;
/// use towline_net::{Event, Lane, SendFlags, StreamKind};
/// # use towline_net::{Limits, StreamId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// // Calls that wait for their answers.
/// let mut waiting = BTreeMap::new();
/// for question in ["left?", "right?"] {
///     let stream = dialer.open(StreamKind::Request, Lane::Request)?;
///     dialer.send(stream, question.into(), SendFlags::default())?;
///     waiting.insert(stream, question);
/// }
/// # exchange(&mut dialer, &mut acceptor, now);
/// # acceptor.send(StreamId::new(3), "yes".into(), SendFlags::default())?;
/// # exchange(&mut dialer, &mut acceptor, now);
/// // The second is answered first.
/// let Some(Event::Message { stream, .. }) = dialer.poll_event() else { panic!("an answer came") };
/// assert_eq!(waiting.remove(&stream), Some("right?"));
/// assert!(stream.is_dialers() && stream.get() == 3, "odd numbers are the dialer's");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(u32);

impl StreamId {
    /// The connection as a whole.
    pub const CONNECTION: Self = Self(0);

    /// The stream with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the dialer opened it.
    #[must_use]
    pub const fn is_dialers(self) -> bool {
        self.0 % 2 == 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a stream carries; the transport only tells it to the other side.
///
/// ```
/// use towline_net::{Event, Lane, ResetCode, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// dialer.open(StreamKind::Feed, Lane::Bulk)?;
/// exchange(&mut dialer, &mut acceptor, now);
/// let Some(Event::Opened { stream, kind, .. }) = acceptor.poll_event() else { panic!("it was opened") };
/// match kind {
///     StreamKind::Request => {} // Messages follow.
///     _ => acceptor.reset(stream, ResetCode::UNKNOWN_STREAM_KIND),
/// }
/// exchange(&mut dialer, &mut acceptor, now);
/// assert_eq!(dialer.poll_event(), Some(Event::Reset { stream, code: ResetCode::UNKNOWN_STREAM_KIND }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum StreamKind {
    /// Calls and their answers.
    Request,
    /// Appends and acknowledgements between replicas.
    Replication,
    /// A shard's state.
    Snapshot,
    /// Committed records to a subscriber.
    Feed,
    /// The control plane.
    Control,
}

impl StreamKind {
    pub(crate) const fn to_wire(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Replication => 2,
            Self::Snapshot => 3,
            Self::Feed => 4,
            Self::Control => 5,
        }
    }

    pub(crate) const fn from_wire(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Replication),
            3 => Some(Self::Snapshot),
            4 => Some(Self::Feed),
            5 => Some(Self::Control),
            _ => None,
        }
    }
}

/// What a frame is. Kinds below 128 must be understood; from 128 on they may be skipped.
///
/// ```
/// use towline_net::ConnectionError;
/// use towline_net::frame::{FrameHeader, FrameKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// # let seed = seed();
/// // Frames of kinds that this version does not know. A Hello came before them.
/// let frame = |kind, sequence| FrameHeader::for_payload(kind, b"", sequence).encode(seed);
/// assert_eq!((FrameKind::from_wire(200), FrameKind::from_wire(100)), (None, None));
/// acceptor.receive(now, &frame(200, 1))?;
/// assert!(FrameKind::is_skippable(200) && acceptor.stats().frames_skipped == 1);
/// assert_eq!(acceptor.receive(now, &frame(100, 2)), Err(ConnectionError::UnknownKind { kind: 100 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameKind {
    /// The dialer's first frame.
    Hello,
    /// The acceptor's answer, also when it refuses.
    HelloAck,
    /// A new stream.
    Open,
    /// A message, a part of one, or the end of a half of a stream.
    Data,
    /// A higher limit.
    Credit,
    /// The abrupt end of a stream.
    Reset,
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
    /// No more streams, or the end.
    GoAway,
}

impl FrameKind {
    /// The byte on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::HelloAck => 2,
            Self::Open => 3,
            Self::Data => 4,
            Self::Credit => 5,
            Self::Reset => 6,
            Self::Ping => 7,
            Self::Pong => 8,
            Self::GoAway => 9,
        }
    }

    /// The kind of a byte, if this version knows it.
    #[must_use]
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::HelloAck),
            3 => Some(Self::Open),
            4 => Some(Self::Data),
            5 => Some(Self::Credit),
            6 => Some(Self::Reset),
            7 => Some(Self::Ping),
            8 => Some(Self::Pong),
            9 => Some(Self::GoAway),
            _ => None,
        }
    }

    /// Whether a receiver that does not know this byte passes over the frame.
    #[must_use]
    pub const fn is_skippable(byte: u8) -> bool {
        byte >= 128
    }
}

/// The flag bits of a frame.
///
/// ```
/// use towline_net::frame::FrameFlags;
/// use towline_net::{Lane, SendFlags, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(SMALL));
/// # let stream = dialer.open(StreamKind::Replication, Lane::Replication)?;
/// # acceptor.receive(now, &said(&mut dialer, now))?;
/// // A batch, in frames of 1024 bytes at most.
/// dialer.send(stream, vec![7; 2500].into(), SendFlags { checksummed: true })?;
/// dialer.finish(stream);
/// # let frames = headers(&said(&mut dialer, now));
/// let flags: Vec<_> = frames.iter().map(|header| header.flags).collect();
/// let part = FrameFlags::CHECKSUMMED.with(FrameFlags::MORE);
/// assert_eq!(flags, [part, part, FrameFlags::CHECKSUMMED, FrameFlags::END]);
/// assert!(part.contains(FrameFlags::MORE) && !part.is_within(FrameFlags::MORE));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameFlags(pub u16);

impl FrameFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Data: more fragments of this message follow on this stream.
    pub const MORE: Self = Self(1);
    /// Data: the payload carries a checksum of its own; the payload CRC is 0 and not checked. Saves a pass over
    /// batches, and moves the duty to check to whoever reads the message.
    pub const CHECKSUMMED: Self = Self(2);
    /// Data: the sender's half of the stream ends here; no payload.
    pub const END: Self = Self(4);
    /// Credit: the limit counts streams that may be opened, not bytes.
    pub const STREAMS: Self = Self(8);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no bit outside of `allowed` is set.
    #[must_use]
    pub const fn is_within(self, allowed: Self) -> bool {
        self.0 & !allowed.0 == 0
    }
}

/// The header of a frame.
///
/// ```
/// use towline_net::frame::{FrameFlags, FrameHeader, FrameKind};
/// let header = FrameHeader::for_payload(FrameKind::Ping.to_wire(), b"12345678", 7);
/// let bytes = header.encode(0xfeed);
/// assert_eq!(FrameHeader::decode(&bytes, 0xfeed), Ok(header));
/// assert!(FrameHeader::decode(&bytes, 0xbeef).is_err(), "bytes of another session do not pass");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes of payload that follow.
    pub length: u32,
    /// The kind's byte; see [`FrameKind`].
    pub kind: u8,
    /// The lane's byte; see [`Lane`](crate::Lane).
    pub lane: u8,
    /// The flags.
    pub flags: FrameFlags,
    /// The stream, 0 for the connection.
    pub stream: u32,
    /// CRC-32 of the payload, unseeded; 0 with [`FrameFlags::CHECKSUMMED`].
    pub payload_crc: u32,
    /// The number of this frame among its sender's, modulo 2^32.
    pub sequence: u32,
}

/// The header's CRC does not match. Nothing else of it may be believed.
///
/// ```
/// use towline_net::ConnectionError;
/// use towline_net::frame::{FrameHeader, FrameKind, HeaderChecksumError};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// # let seed = seed();
/// let mut ping = FrameHeader::for_payload(FrameKind::Ping.to_wire(), &[0; 8], 1).encode(seed);
/// ping[4] ^= 0xff; // The length, on its way.
/// assert_eq!(FrameHeader::decode(&ping, seed), Err(HeaderChecksumError));
/// // A connection does not wait for a payload of that length: it ends.
/// assert_eq!(acceptor.receive(now, &ping), Err(ConnectionError::HeaderChecksum { sequence: 1 }));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame header checksum does not match")]
pub struct HeaderChecksumError;

impl FrameHeader {
    /// A header for a control frame of the connection, with the payload's CRC.
    #[must_use]
    pub fn for_payload(kind: u8, payload: &[u8], sequence: u32) -> Self {
        Self {
            length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            kind,
            lane: 0,
            flags: FrameFlags::NONE,
            stream: 0,
            payload_crc: crc32fast::hash(payload),
            sequence,
        }
    }

    /// The 24 bytes.
    #[must_use]
    pub fn encode(&self, session_seed: u32) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = self.length.to_le_bytes();
        let [f0, f1] = self.flags.0.to_le_bytes();
        let [s0, s1, s2, s3] = self.stream.to_le_bytes();
        let [p0, p1, p2, p3] = self.payload_crc.to_le_bytes();
        let [q0, q1, q2, q3] = self.sequence.to_le_bytes();
        let (kind, lane) = (self.kind, self.lane);
        let body = [l0, l1, l2, l3, kind, lane, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3, q0, q1, q2, q3];
        let [c0, c1, c2, c3] = seeded_crc(session_seed, &body).to_le_bytes();
        [c0, c1, c2, c3, l0, l1, l2, l3, kind, lane, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3, q0, q1, q2, q3]
    }

    /// Reads a header, its CRC first.
    ///
    /// # Errors
    /// [`HeaderChecksumError`]: damage, another session, or not this protocol.
    pub fn decode(bytes: &[u8; HEADER_BYTES], session_seed: u32) -> Result<Self, HeaderChecksumError> {
        let [c0, c1, c2, c3, body @ ..] = bytes;
        if u32::from_le_bytes([*c0, *c1, *c2, *c3]) != seeded_crc(session_seed, body) {
            return Err(HeaderChecksumError);
        }
        let [l0, l1, l2, l3, kind, lane, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3, q0, q1, q2, q3] = *body;
        Ok(Self {
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            kind,
            lane,
            flags: FrameFlags(u16::from_le_bytes([f0, f1])),
            stream: u32::from_le_bytes([s0, s1, s2, s3]),
            payload_crc: u32::from_le_bytes([p0, p1, p2, p3]),
            sequence: u32::from_le_bytes([q0, q1, q2, q3]),
        })
    }
}

/// CRC-32 (IEEE) of `bytes`, continued from `seed` as if `seed` were the CRC of what came before: zlib's
/// `crc32(bytes, seed)`.
fn seeded_crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The seed of a session: CRC-32 of the dialer's nonce and then the acceptor's. Hello and HelloAck use 0.
///
/// ```
/// let seed = towline_net::frame::session_seed(&[1; 16], &[2; 16]);
/// assert_ne!(seed, towline_net::frame::session_seed(&[2; 16], &[1; 16]));
/// ```
#[must_use]
pub fn session_seed(dialer_nonce: &[u8; 16], acceptor_nonce: &[u8; 16]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(dialer_nonce);
    hasher.update(acceptor_nonce);
    hasher.finalize()
}

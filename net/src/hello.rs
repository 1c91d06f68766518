//! [`Hello`] and [`HelloAck`]: the two payloads whose form is frozen for every version of the protocol to come.
//!
//! Eight bytes of magic, then tags: `tag u16, length u16, value`. Unknown tags are skipped, so that later versions may
//! say more; known tags have the lengths of the table below for ever, come at most once and in any order.
//!
//! | tag | bytes | value |
//! |----:|------:|-------|
//! |  1 |  4 | protocol versions: lowest u16, highest u16 |
//! |  2 | 16 | features: needed u64, offered u64 |
//! |  3 | 16 | cluster uuid |
//! |  4 |  8 | node id u64 |
//! |  5 | 16 | directory uuid |
//! |  6 |  8 | incarnation u64 |
//! |  7 |  1 | role: 1 node, 2 client |
//! |  8 |  4 | longest frame payload u32 |
//! |  9 |  8 | stream window u64 |
//! | 10 |  8 | connection window u64 |
//! | 11 |  8 | longest message u64 |
//! | 12 |  4 | streams u32 |
//! | 13 | 16 | nonce |
//! | 14 |  2 | HelloAck: the version chosen u16 |
//! | 15 |  6 | HelloAck that refuses: code u16, lowest u16, highest u16 of the side refused (0, 0: not read) |

#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use crate::identity::{Features, Identity, ProtocolRange, Role};
use crate::limits::PeerLimits;

/// The first bytes of every Hello and HelloAck.
pub const MAGIC: [u8; 8] = *b"TOWLINE\0";

/// The dialer's first word, and the larger part of the acceptor's answer.
///
/// ```
/// use towline_net::hello::Hello;
/// use towline_net::{ConnectionConfig, Identity, Role};
/// let me = Identity { cluster: [7; 16], node: 3, directory: [9; 16], incarnation: 12, role: Role::Node };
/// let hello = ConnectionConfig::new(me, [1; 16]).hello();
/// assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Hello {
    /// Versions spoken.
    pub protocol: ProtocolRange,
    /// Feature bits.
    pub features: Features,
    /// Who speaks.
    pub identity: Identity,
    /// What it takes.
    pub limits: PeerLimits,
    /// Fresh random bytes, which make the session's seed.
    pub nonce: [u8; 16],
}

/// The acceptor's answer.
///
/// ```
/// use towline_net::hello::{Hello, HelloAck};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// let welcome = HelloAck::Welcome { version: 1, hello: config(2).hello() };
/// let mut payload = welcome.encode();
/// assert_eq!(HelloAck::decode(&payload), Ok(welcome));
/// // A later version says more: tag 999 of one byte. It is passed over.
/// payload.extend([0xe7, 0x03, 1, 0, 42]);
/// assert_eq!(HelloAck::decode(&payload), Ok(welcome));
/// let error = HelloAck::decode(&config(1).hello().encode()).unwrap_err();
/// assert_eq!(error.what, "no version chosen", "this is a Hello");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HelloAck {
    /// The connection is open, in this version.
    Welcome {
        /// The version chosen.
        version: u16,
        /// The acceptor's own words.
        hello: Hello,
    },
    /// There will be no connection.
    Refusal(Refusal),
}

/// Why there will be no connection. It says the versions only where versions are the reason; to a stranger (another
/// cluster) it says nothing but the code.
///
/// ```
/// use towline_net::frame::{FrameHeader, FrameKind};
/// use towline_net::hello::{HelloAck, Refusal};
/// use towline_net::{Connection, ConnectionError, FaultClass, Side};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let now = NOW;
/// // One frame, and the socket is closed: the answer of a listener that has no room.
/// let payload = HelloAck::Refusal(Refusal::new(ConnectionError::Busy.code())).encode();
/// let header = FrameHeader::for_payload(FrameKind::HelloAck.to_wire(), &payload, 0).encode(0);
/// let mut dialer = Connection::new(Side::Dialer, config(1), now)?;
/// let refused = dialer.receive(now, &[&header[..], &payload].concat()).unwrap_err();
/// assert!(matches!(refused, ConnectionError::Refused { code: 3020, theirs: None, .. }));
/// assert_eq!(refused.class(), FaultClass::Retry);
/// # Ok::<(), towline_net::ConfigError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// [`ConnectionError::code`](crate::ConnectionError::code) of the side that refuses.
    pub code: u16,
    /// The versions of the side that refuses.
    pub ours: Option<ProtocolRange>,
    /// The versions of the side refused, as it was understood.
    pub theirs: Option<ProtocolRange>,
}

impl Refusal {
    /// A refusal that says its code only.
    #[must_use]
    pub const fn new(code: u16) -> Self {
        Self { code, ours: None, theirs: None }
    }

    /// A refusal for want of a common version, naming both ranges.
    #[must_use]
    pub const fn of_versions(code: u16, ours: ProtocolRange, theirs: ProtocolRange) -> Self {
        Self { code, ours: Some(ours), theirs: Some(theirs) }
    }
}

/// A payload that is not a Hello, or not a whole one.
///
/// ```
/// use towline_net::ConnectionError;
/// use towline_net::hello::{Hello, HelloAck, HelloError, Refusal};
/// use towline_net::limits::HEADER_BYTES;
/// # use towline_net::{Connection, Side, frame::{FrameHeader, FrameKind}};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, mut acceptor) = (NOW, Connection::new(Side::Acceptor, config(2), NOW)?);
/// assert_eq!(Hello::decode(b"GET / HTTP/1.1\r\n"), Err(HelloError { what: "wrong magic" }));
/// let payload = &config(1).hello().encode()[..20];
/// let error = Hello::decode(payload).unwrap_err();
/// assert_eq!(error.to_string(), "malformed hello: a value is cut off");
/// # let header = FrameHeader::for_payload(FrameKind::Hello.to_wire(), payload, 0).encode(0);
/// # let frame = [&header[..], payload].concat();
/// // A connection that gets it in a frame ends, and says the code.
/// let reason = acceptor.receive(now, &frame).unwrap_err();
/// assert_eq!(reason, ConnectionError::HelloMalformed { what: error.what });
/// let answer = acceptor.poll_transmit(now, 4096).unwrap_or_default().concat();
/// assert_eq!(HelloAck::decode(&answer[HEADER_BYTES..])?, HelloAck::Refusal(Refusal::new(reason.code())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed hello: {what}")]
pub struct HelloError {
    /// What is wrong.
    pub what: &'static str,
}

impl Hello {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = TagWriter::new();
        self.write(&mut out);
        out.bytes
    }

    fn write(&self, out: &mut TagWriter) {
        out.range(TAG_PROTOCOL, self.protocol);
        let [needed, offered] = [self.features.needed.to_le_bytes(), self.features.offered.to_le_bytes()];
        out.parts(TAG_FEATURES, &[&needed, &offered]);
        out.parts(TAG_CLUSTER, &[&self.identity.cluster]);
        out.parts(TAG_NODE, &[&self.identity.node.to_le_bytes()]);
        out.parts(TAG_DIRECTORY, &[&self.identity.directory]);
        out.parts(TAG_INCARNATION, &[&self.identity.incarnation.to_le_bytes()]);
        out.parts(TAG_ROLE, &[&[self.identity.role.to_wire()]]);
        out.parts(TAG_FRAME_MAX, &[&self.limits.frame_bytes_max.to_le_bytes()]);
        out.parts(TAG_STREAM_WINDOW, &[&self.limits.stream_window.to_le_bytes()]);
        out.parts(TAG_CONNECTION_WINDOW, &[&self.limits.connection_window.to_le_bytes()]);
        out.parts(TAG_MESSAGE_MAX, &[&self.limits.message_bytes_max.to_le_bytes()]);
        out.parts(TAG_STREAMS_MAX, &[&self.limits.streams_max.to_le_bytes()]);
        out.parts(TAG_NONCE, &[&self.nonce]);
    }

    /// Reads a payload; unknown tags are skipped.
    ///
    /// # Errors
    /// [`HelloError`] names the first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, HelloError> {
        Tags::read(payload)?.hello()
    }
}

impl HelloAck {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = TagWriter::new();
        match self {
            Self::Welcome { version, hello } => {
                hello.write(&mut out);
                out.parts(TAG_CHOSEN, &[&version.to_le_bytes()]);
            }
            Self::Refusal(refusal) => {
                if let Some(ours) = refusal.ours {
                    out.range(TAG_PROTOCOL, ours);
                }
                let theirs = refusal.theirs.unwrap_or(UNREAD);
                let (lowest, highest) = (theirs.lowest.to_le_bytes(), theirs.highest.to_le_bytes());
                out.parts(TAG_REFUSAL, &[&refusal.code.to_le_bytes(), &lowest, &highest]);
            }
        }
        out.bytes
    }

    /// Reads a payload; unknown tags are skipped.
    ///
    /// # Errors
    /// [`HelloError`] names the first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, HelloError> {
        let tags = Tags::read(payload)?;
        if let Some((code, theirs)) = tags.refusal {
            let theirs = (theirs != UNREAD).then_some(theirs);
            return Ok(Self::Refusal(Refusal { code, ours: tags.protocol, theirs }));
        }
        let version = tags.chosen.ok_or(HelloError { what: "no version chosen" })?;
        Ok(Self::Welcome { version, hello: tags.hello()? })
    }
}

struct TagWriter {
    bytes: Vec<u8>,
}

impl TagWriter {
    fn new() -> Self {
        Self { bytes: MAGIC.to_vec() }
    }

    fn parts(&mut self, tag: u16, parts: &[&[u8]]) {
        let value = parts.concat();
        // Every value above is a few bytes long.
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&tag.to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&value);
    }

    fn range(&mut self, tag: u16, range: ProtocolRange) {
        self.parts(tag, &[&range.lowest.to_le_bytes(), &range.highest.to_le_bytes()]);
    }
}

/// What was found, by tag.
#[derive(Default)]
struct Tags {
    protocol: Option<ProtocolRange>,
    features: Option<Features>,
    cluster: Option<[u8; 16]>,
    node: Option<u64>,
    directory: Option<[u8; 16]>,
    incarnation: Option<u64>,
    role: Option<Role>,
    frame_max: Option<u32>,
    stream_window: Option<u64>,
    connection_window: Option<u64>,
    message_max: Option<u64>,
    streams_max: Option<u32>,
    nonce: Option<[u8; 16]>,
    chosen: Option<u16>,
    refusal: Option<(u16, ProtocolRange)>,
}

impl Tags {
    fn read(payload: &[u8]) -> Result<Self, HelloError> {
        let mut rest = payload.strip_prefix(&MAGIC).ok_or(HelloError { what: "wrong magic" })?;
        let mut tags = Self::default();
        while !rest.is_empty() {
            let (head, after) = rest.split_first_chunk::<4>().ok_or(HelloError { what: "a tag is cut off" })?;
            let [t0, t1, l0, l1] = *head;
            let length = usize::from(u16::from_le_bytes([l0, l1]));
            let (value, after) = after.split_at_checked(length).ok_or(HelloError { what: "a value is cut off" })?;
            tags.take(u16::from_le_bytes([t0, t1]), value)?;
            rest = after;
        }
        Ok(tags)
    }

    fn take(&mut self, tag: u16, value: &[u8]) -> Result<(), HelloError> {
        match tag {
            TAG_PROTOCOL => once(&mut self.protocol, range(fixed(value)?)?),
            TAG_FEATURES => {
                let [needed, offered] = halves(value)?;
                once(&mut self.features, Features { needed, offered })
            }
            TAG_CLUSTER => once(&mut self.cluster, fixed(value)?),
            TAG_NODE => once(&mut self.node, u64::from_le_bytes(fixed(value)?)),
            TAG_DIRECTORY => once(&mut self.directory, fixed(value)?),
            TAG_INCARNATION => once(&mut self.incarnation, u64::from_le_bytes(fixed(value)?)),
            TAG_ROLE => {
                let [role] = fixed(value)?;
                once(&mut self.role, Role::from_wire(role))
            }
            TAG_FRAME_MAX => once(&mut self.frame_max, u32::from_le_bytes(fixed(value)?)),
            TAG_STREAM_WINDOW => once(&mut self.stream_window, u64::from_le_bytes(fixed(value)?)),
            TAG_CONNECTION_WINDOW => once(&mut self.connection_window, u64::from_le_bytes(fixed(value)?)),
            TAG_MESSAGE_MAX => once(&mut self.message_max, u64::from_le_bytes(fixed(value)?)),
            TAG_STREAMS_MAX => once(&mut self.streams_max, u32::from_le_bytes(fixed(value)?)),
            TAG_NONCE => once(&mut self.nonce, fixed(value)?),
            TAG_CHOSEN => once(&mut self.chosen, u16::from_le_bytes(fixed(value)?)),
            TAG_REFUSAL => {
                let [c0, c1, l0, l1, h0, h1] = fixed(value)?;
                let theirs = ProtocolRange::new(u16::from_le_bytes([l0, l1]), u16::from_le_bytes([h0, h1]));
                once(&mut self.refusal, (u16::from_le_bytes([c0, c1]), theirs))
            }
            _ => Ok(()),
        }
    }

    fn hello(&self) -> Result<Hello, HelloError> {
        let missing = HelloError { what: "a required tag is missing" };
        Ok(Hello {
            protocol: self.protocol.ok_or(missing)?,
            features: self.features.ok_or(missing)?,
            identity: Identity {
                cluster: self.cluster.ok_or(missing)?,
                node: self.node.ok_or(missing)?,
                directory: self.directory.ok_or(missing)?,
                incarnation: self.incarnation.ok_or(missing)?,
                role: self.role.ok_or(missing)?,
            },
            limits: PeerLimits {
                frame_bytes_max: self.frame_max.ok_or(missing)?,
                stream_window: self.stream_window.ok_or(missing)?,
                connection_window: self.connection_window.ok_or(missing)?,
                message_bytes_max: self.message_max.ok_or(missing)?,
                streams_max: self.streams_max.ok_or(missing)?,
            },
            nonce: self.nonce.ok_or(missing)?,
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), HelloError> {
    if place.replace(value).is_some() {
        return Err(HelloError { what: "a tag comes twice" });
    }
    Ok(())
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], HelloError> {
    value.try_into().map_err(|_| HelloError { what: "a known tag has a wrong length" })
}

fn halves(value: &[u8]) -> Result<[u64; 2], HelloError> {
    let both: [u8; 16] = fixed(value)?;
    let (first, second) = both.split_at(8);
    Ok([u64::from_le_bytes(fixed(first)?), u64::from_le_bytes(fixed(second)?)])
}

fn range(bytes: [u8; 4]) -> Result<ProtocolRange, HelloError> {
    let [l0, l1, h0, h1] = bytes;
    let range = ProtocolRange::new(u16::from_le_bytes([l0, l1]), u16::from_le_bytes([h0, h1]));
    if range.lowest > range.highest {
        return Err(HelloError { what: "the lowest version lies above the highest" });
    }
    Ok(range)
}

/// Versions begin at 1: zeros say that the other side's range was not read.
const UNREAD: ProtocolRange = ProtocolRange::new(0, 0);

const TAG_PROTOCOL: u16 = 1;
const TAG_FEATURES: u16 = 2;
const TAG_CLUSTER: u16 = 3;
const TAG_NODE: u16 = 4;
const TAG_DIRECTORY: u16 = 5;
const TAG_INCARNATION: u16 = 6;
const TAG_ROLE: u16 = 7;
const TAG_FRAME_MAX: u16 = 8;
const TAG_STREAM_WINDOW: u16 = 9;
const TAG_CONNECTION_WINDOW: u16 = 10;
const TAG_MESSAGE_MAX: u16 = 11;
const TAG_STREAMS_MAX: u16 = 12;
const TAG_NONCE: u16 = 13;
const TAG_CHOSEN: u16 = 14;
const TAG_REFUSAL: u16 = 15;

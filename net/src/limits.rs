//! Every bound of the transport (I10), with unit, default and reason, and how they relate.
//!
//! Two rules make a deadlock by flow control impossible. A sender starts a message only when the credit of its
//! stream and of the connection covers all of it, and a side may only announce a largest message that fits seven
//! eighths of its stream window (credit is updated at an eighth) and thirteen sixteenths of its connection window
//! (the lanes below [`Lane::Control`](crate::Lane::Control) leave it the last sixteenth). So each message that a
//! peer accepts can arrive as soon as what came before it was consumed.

use crate::error::ConfigError;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 24;

/// What a message costs beside its bytes, in credit: the receiver's books about it. Without it a peer could have
/// a receiver hold any number of empty messages for nothing.
pub const MESSAGE_OVERHEAD: u64 = 64;

/// The longest Hello or HelloAck payload. It bounds what a stranger can make us hold, together with the header:
/// room for an order of magnitude more tags than version 1 has.
pub const HELLO_BYTES_MAX: u32 = 4096;

/// The smallest `frame_bytes_max` that a side may announce: below it headers cost more than they carry.
pub const FRAME_BYTES_FLOOR: u32 = 1024;

/// The largest `frame_bytes_max` that is ever used, whatever both sides wish for: one frame is what a heartbeat
/// waits for at most.
pub const FRAME_BYTES_CEILING: u32 = 4 << 20;

/// What one side allows the other, and itself. Sizes are bytes.
///
/// ```
/// use towline_net::{ConnectionConfig, Lane, Limits, SendError, SendFlags, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// // One of very many peers: it is granted 4 MiB at a time, and 1 MiB for a message.
/// let limits = Limits {
///     message_bytes_max: 1 << 20,
///     stream_window: 2 << 20,
///     connection_window: 4 << 20,
///     ..Limits::DEFAULT
/// };
/// limits.validate()?;
/// let (mut dialer, _) = meet(config(1), ConnectionConfig { limits, ..config(2) });
/// let stream = dialer.open(StreamKind::Request, Lane::Request)?;
/// let refused = dialer.send(stream, vec![0; 2 << 20].into(), SendFlags::default());
/// assert_eq!(refused, Err(SendError::TooLong { length: 2 << 20, max: 1 << 20 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest payload of one frame, in bytes; the smaller of both sides' wishes counts. 128 KiB: a millisecond
    /// at 1 Gbit/s.
    pub frame_bytes_max: u32,
    /// Credit for each stream the peer sends on, in bytes: what a stopped consumer can make this side hold.
    pub stream_window: u64,
    /// Credit for all streams together, in bytes: what the peer may have sent and nobody has consumed. It costs twice
    /// that in memory at most, see [`Connection`](crate::Connection).
    pub connection_window: u64,
    /// The longest message this side takes, in bytes.
    pub message_bytes_max: u64,
    /// Streams that the peer may have open at a time.
    pub streams_max: u32,
    /// Bytes queued for sending, for each lane by itself, so that a stopped bulk transfer leaves room to the others.
    /// Four times this is what a peer that reads nothing costs.
    pub send_buffer_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Limits {
    /// A message of 24 MiB holds a value of 16 MiB with all its company; the windows follow from it.
    pub const DEFAULT: Self = Self {
        frame_bytes_max: 128 << 10,
        stream_window: 32 << 20,
        connection_window: 64 << 20,
        message_bytes_max: 24 << 20,
        streams_max: 256,
        send_buffer_max: 32 << 20,
    };

    /// The defaults, made large enough for messages of this many bytes.
    ///
    /// ```
    /// use towline_net::Limits;
    /// let limits = Limits::for_messages(100 << 20);
    /// assert_eq!(limits.message_bytes_max, 100 << 20);
    /// assert!(limits.validate().is_ok());
    /// ```
    #[must_use]
    pub const fn for_messages(message_bytes_max: u64) -> Self {
        let cost = message_bytes_max.saturating_add(MESSAGE_OVERHEAD);
        // A MiB more than the shares in `broken_rule` ask, so that their rounding does not matter.
        let stream = (cost / 7).saturating_mul(8).saturating_add(1 << 20);
        let connection = (cost / 13).saturating_mul(16).saturating_add(1 << 20);
        Self {
            message_bytes_max,
            stream_window: larger(stream, Self::DEFAULT.stream_window),
            connection_window: larger(connection, Self::DEFAULT.connection_window),
            send_buffer_max: larger(stream, Self::DEFAULT.send_buffer_max),
            ..Self::DEFAULT
        }
    }

    /// Whether the bounds fit each other.
    ///
    /// # Errors
    /// [`ConfigError::Limits`] names the first relation that does not hold.
    ///
    /// ```
    /// use towline_net::Limits;
    /// assert!(Limits::default().validate().is_ok());
    /// let wrong = Limits { message_bytes_max: 1 << 30, ..Limits::default() };
    /// assert!(wrong.validate().is_err());
    /// ```
    pub const fn validate(&self) -> Result<(), ConfigError> {
        if let Some(rule) = self.announced().broken_rule() {
            return Err(ConfigError::Limits { rule });
        }
        if self.send_buffer_max < self.message_bytes_max.saturating_add(MESSAGE_OVERHEAD) {
            return Err(ConfigError::Limits { rule: "message_bytes_max + 64 <= send_buffer_max" });
        }
        Ok(())
    }

    pub(crate) const fn announced(&self) -> PeerLimits {
        PeerLimits {
            frame_bytes_max: self.frame_bytes_max,
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            message_bytes_max: self.message_bytes_max,
            streams_max: self.streams_max,
        }
    }
}

/// The bounds that a side announces in its Hello: what it takes.
///
/// ```
/// use towline_net::{Lane, SendFlags, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(SMALL));
/// let limits = dialer.peer().ok_or("not ready")?.limits;
/// assert_eq!(limits.message_bytes_max, 12 << 10);
/// let stream = dialer.open(StreamKind::Snapshot, Lane::Bulk)?;
/// let state = [7; 30_000];
/// let mut taken = vec![];
/// for piece in state.chunks(limits.message_bytes_max as usize) {
///     dialer.send(stream, piece.to_vec().into(), SendFlags::default())?;
///     exchange(&mut dialer, &mut acceptor, now);
///     taken.extend(messages(&mut acceptor));
/// }
/// assert!(taken.len() == 3 && taken.concat() == state);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PeerLimits {
    /// Longest payload of one frame.
    pub frame_bytes_max: u32,
    /// First credit of each stream.
    pub stream_window: u64,
    /// First credit of the connection.
    pub connection_window: u64,
    /// Longest message.
    pub message_bytes_max: u64,
    /// Streams that the other side may open before it is granted more.
    pub streams_max: u32,
}

impl PeerLimits {
    /// The first relation that does not hold, in words; the same check for our own and for a peer's.
    pub(crate) const fn broken_rule(&self) -> Option<&'static str> {
        let cost = self.message_bytes_max.saturating_add(MESSAGE_OVERHEAD);
        if self.frame_bytes_max < FRAME_BYTES_FLOOR {
            return Some("1024 <= frame_bytes_max");
        }
        if self.message_bytes_max == 0 {
            return Some("1 <= message_bytes_max");
        }
        if cost > self.stream_window - self.stream_window / 8 {
            return Some("message_bytes_max + 64 <= 7/8 of stream_window");
        }
        if cost > usable_by_data(self.connection_window) - self.connection_window / 8 {
            return Some("message_bytes_max + 64 <= 13/16 of connection_window");
        }
        None
    }
}

const fn larger(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

/// The part of a connection window that lanes other than Control may use.
pub(crate) const fn usable_by_data(window: u64) -> u64 {
    window - window / 16
}

const _: () = assert!(Limits::DEFAULT.validate().is_ok(), "the default limits fit each other");
const _: () = assert!(HELLO_BYTES_MAX as usize + HEADER_BYTES <= 64 << 10, "before Ready at most 64 KiB are held");

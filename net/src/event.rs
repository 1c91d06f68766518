//! [`Event`]: what a connection tells the layer above.

use bytes::Bytes;

use crate::error::{ConnectionError, GoAwayCode, ResetCode};
use crate::frame::{StreamId, StreamKind};
use crate::identity::PeerHello;
use crate::lane::Lane;

/// What happened, in order. The events of one stream are in the order of the peer's frames.
///
/// ```
/// use towline_net::{Event, Lane, SendFlags, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// # let call = dialer.open(StreamKind::Request, Lane::Request)?;
/// # dialer.send(call, "hello".into(), SendFlags::default())?;
/// # dialer.finish(call);
/// # exchange(&mut dialer, &mut acceptor, now);
/// // The dialer's call came. The answer is the same in capitals.
/// while let Some(event) = acceptor.poll_event() {
///     match event {
///         Event::Opened { kind, .. } => assert_eq!(kind, StreamKind::Request),
///         Event::Message { stream, bytes, charge, .. } => {
///             acceptor.send(stream, bytes.to_ascii_uppercase().into(), SendFlags::default())?;
///             acceptor.consumed(stream, charge);
///         }
///         Event::Finished { stream } => acceptor.finish(stream),
///         newer => return Err(format!("not known here: {newer:?}").into()),
///     }
/// }
/// exchange(&mut acceptor, &mut dialer, now);
/// assert_eq!(messages(&mut dialer), ["HELLO"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The handshake is over; streams may be opened. Comes once, first.
    Ready {
        /// The peer, and what was agreed.
        peer: PeerHello,
    },
    /// The peer opened a stream.
    Opened {
        /// Its number.
        stream: StreamId,
        /// What it carries.
        kind: StreamKind,
        /// How urgent it is.
        lane: Lane,
    },
    /// A whole message.
    Message {
        /// On this stream.
        stream: StreamId,
        /// Its bytes.
        bytes: Bytes,
        /// What to hand to [`Connection::consumed`](crate::Connection::consumed) when done with it. Credit comes
        /// back by that and by nothing else.
        charge: usize,
        /// The sender said that the bytes carry a checksum of their own; the transport did not check them.
        checksummed: bool,
    },
    /// The peer sends no more on this stream. This side still may.
    Finished {
        /// The stream.
        stream: StreamId,
    },
    /// The peer ended the stream abruptly, both halves. Messages that came before were delivered.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        code: ResetCode,
    },
    /// After [`SendError::Full`](crate::SendError::Full): there is room again.
    Writable {
        /// The stream whose message was refused.
        stream: StreamId,
    },
    /// The peer drains: no new streams; those it had not seen are reset with [`ResetCode::REFUSED`].
    GoAway {
        /// Why.
        reason: GoAwayCode,
    },
    /// The connection has ended. Comes once, last.
    Closed {
        /// Why.
        reason: ConnectionError,
    },
}

impl Event {
    pub(crate) const fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Opened { stream, .. }
            | Self::Message { stream, .. }
            | Self::Finished { stream }
            | Self::Reset { stream, .. }
            | Self::Writable { stream } => Some(*stream),
            Self::Ready { .. } | Self::GoAway { .. } | Self::Closed { .. } => None,
        }
    }
}

//! [`Stats`]: what a connection did so far.

use crate::rtt::RttEstimate;

/// Counters and gauges of a connection; the counters only rise.
///
/// ```
/// use towline_net::{Lane, SendFlags, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(SMALL));
/// let stream = dialer.open(StreamKind::Replication, Lane::Replication)?;
/// // The consumer at the peer stands still. Its window of 16 KiB holds four of these.
/// for _ in 0..5 {
///     dialer.send(stream, vec![7; 4000].into(), SendFlags::default())?;
///     exchange(&mut dialer, &mut acceptor, now);
/// }
/// let (sender, receiver) = (dialer.stats(), acceptor.stats());
/// assert_eq!((sender.messages_sent, receiver.messages_received), (4, 4));
/// assert_eq!(receiver.unconsumed_bytes, 4 * 4064);
/// assert_eq!((sender.queued_bytes, sender.stream_stalls), (4064, 1), "the fifth waits here");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes taken from the peer, headers included.
    pub bytes_received: u64,
    /// Bytes handed out for the peer, headers included.
    pub bytes_sent: u64,
    /// Whole frames taken.
    pub frames_received: u64,
    /// Frames handed out.
    pub frames_sent: u64,
    /// Whole messages taken.
    pub messages_received: u64,
    /// Messages handed out to their last byte.
    pub messages_sent: u64,
    /// Frames of an unknown, skippable kind.
    pub frames_skipped: u64,
    /// Bytes that came for streams this side had reset.
    pub bytes_discarded: u64,
    /// How often a stream had a message and no credit of its own: its consumer at the peer is slow.
    pub stream_stalls: u64,
    /// How often a message waited for the connection's credit: the peer as a whole is slow.
    pub connection_stalls: u64,
    /// How often a message was refused for want of room in the send buffer.
    pub sends_refused: u64,
    /// Charges given back beyond what was delivered: a bug of the layer above, without effect here.
    pub overconsumed: u64,
    /// Bytes queued for sending now, 64 more for each message.
    pub queued_bytes: u64,
    /// Bytes delivered and not consumed now, 64 more for each message.
    pub unconsumed_bytes: u64,
    /// Streams open now.
    pub streams_open: u64,
    /// The round trip, once a Pong came.
    pub rtt: Option<RttEstimate>,
}

//! [`Stream`]: one of a connection's two-way streams, as this side sees it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::credit::{ReceiveCredit, SendCredit};
use crate::error::ResetCode;
use crate::lane::Lane;
use crate::limits::MESSAGE_OVERHEAD;

/// What the caller says about a message.
///
/// ```
/// use towline_net::SendFlags;
/// assert!(!SendFlags::default().checksummed);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendFlags {
    /// The bytes carry a checksum of their own, which their reader checks: the transport computes none.
    pub checksummed: bool,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) lane: Lane,
    /// Opened by the peer: its end gives the peer the right to open another.
    pub(crate) is_peers: bool,
    pub(crate) send: SendHalf,
    pub(crate) receive: ReceiveHalf,
    /// Events about the stream that the layer above has not taken yet.
    pub(crate) events_queued: u32,
}

#[derive(Debug)]
pub(crate) struct SendHalf {
    pub(crate) queue: VecDeque<Outgoing>,
    /// Bytes of the first message that went out.
    pub(crate) offset: usize,
    /// The first message has its credit.
    pub(crate) is_started: bool,
    pub(crate) credit: SendCredit,
    /// What the stream may still send in this turn; see [`crate::lane::LaneQueue`].
    pub(crate) deficit: i64,
    /// Whether the stream has its place in the lane's turns.
    pub(crate) is_scheduled: bool,
    pub(crate) state: SendState,
    /// Counted once for each time the stream ran out of credit.
    pub(crate) is_stalled: bool,
    /// Whether the stream is among those of its lane that are to hear of room.
    pub(crate) wants_room: bool,
}

/// The life of the sending half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendState {
    /// Takes messages.
    Open,
    /// The caller finished; END follows what is queued.
    Finishing,
    /// A Reset waits to be sent.
    Resetting(ResetCode),
    /// END or Reset was sent.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) bytes: Bytes,
    pub(crate) checksummed: bool,
}

impl Outgoing {
    pub(crate) fn cost(&self) -> u64 {
        message_cost(self.bytes.len())
    }
}

/// What a message costs in credit and in send buffer.
pub(crate) fn message_cost(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX).saturating_add(MESSAGE_OVERHEAD)
}

#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    pub(crate) credit: ReceiveCredit,
    pub(crate) assembly: Option<Assembly>,
    /// The last frame said that more of its message follows; known also while discarding, for the next frame's cost.
    pub(crate) is_mid_message: bool,
    pub(crate) state: ReceiveState,
}

/// The life of the receiving half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceiveState {
    /// Messages come.
    Open,
    /// This side reset the stream: what still comes is dropped, until the peer's END or Reset.
    Discarding,
    /// The peer's END came.
    Ended,
    /// The peer's Reset came.
    Reset,
}

/// A message of which some fragments came.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    pub(crate) bytes: BytesMut,
    /// What its frames cost, those still on their way included.
    pub(crate) charge: u64,
    pub(crate) checksummed: bool,
}

impl Stream {
    pub(crate) const fn new(lane: Lane, is_peers: bool, send_limit: u64, receive_window: u64) -> Self {
        Self {
            lane,
            is_peers,
            send: SendHalf {
                queue: VecDeque::new(),
                offset: 0,
                is_started: false,
                credit: SendCredit::new(send_limit),
                deficit: 0,
                is_scheduled: false,
                state: SendState::Open,
                is_stalled: false,
                wants_room: false,
            },
            receive: ReceiveHalf {
                credit: ReceiveCredit::new(receive_window),
                assembly: None,
                is_mid_message: false,
                state: ReceiveState::Open,
            },
            events_queued: 0,
        }
    }

    /// Nothing can happen on the stream any more, and nobody holds anything of it.
    pub(crate) fn is_over(&self) -> bool {
        self.send.state == SendState::Ended
            && matches!(self.receive.state, ReceiveState::Ended | ReceiveState::Reset)
            && self.events_queued == 0
            && self.receive.credit.unconsumed() == 0
    }
}

impl SendHalf {
    /// Whether the stream wants a turn: a message, or its END.
    pub(crate) fn has_work(&self) -> bool {
        match self.state {
            SendState::Open => !self.queue.is_empty(),
            SendState::Finishing => true,
            SendState::Resetting(_) | SendState::Ended => false,
        }
    }
}

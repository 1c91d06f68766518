//! [`Lane`]: what goes first. [`LaneQueue`]: whose turn it is within a lane.

use std::collections::VecDeque;

use crate::frame::StreamId;

/// The priority of a stream. A frame of a lower lane is sent only when no higher lane has one that may go.
///
/// ```
/// use towline_net::{Lane, SendFlags, StreamKind};
/// # use towline_net::Limits;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let (now, (mut dialer, mut acceptor)) = (NOW, ready(Limits::DEFAULT));
/// let state = dialer.open(StreamKind::Snapshot, Lane::Bulk)?;
/// let beats = dialer.open(StreamKind::Control, Lane::Control)?;
/// dialer.send(state, vec![0; 1 << 20].into(), SendFlags::default())?;
/// let first = dialer.poll_transmit(now, 1024).unwrap_or_default().concat();
/// acceptor.receive(now, &first)?; // The snapshot is on its way,
/// dialer.send(beats, "alive".into(), SendFlags::default())?;
/// exchange(&mut dialer, &mut acceptor, now);
/// let lengths: Vec<_> = messages(&mut acceptor).iter().map(|message| message.len()).collect();
/// assert_eq!(lengths, [5, 1 << 20], "and is overtaken");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Lane {
    /// Heartbeats, votes, acknowledgements: small, and late is wrong.
    Control,
    /// Appends to followers.
    Replication,
    /// Clients' calls.
    Request,
    /// Snapshots, catch-up: big, and late is only slow.
    Bulk,
}

impl Lane {
    /// All lanes, the first first.
    pub const ALL: [Self; 4] = [Self::Control, Self::Replication, Self::Request, Self::Bulk];

    pub(crate) const fn to_wire(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Replication => 1,
            Self::Request => 2,
            Self::Bulk => 3,
        }
    }

    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Control),
            1 => Some(Self::Replication),
            2 => Some(Self::Request),
            3 => Some(Self::Bulk),
            _ => None,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self.to_wire() as usize
    }
}

/// The streams of one lane that have something to send, in the order of their turns (deficit round-robin,
/// Shreedhar and Varghese 1995, in its surplus form: a turn may overdraw by one frame and pays it back).
#[derive(Debug, Default)]
pub(crate) struct LaneQueue {
    pub(crate) turns: VecDeque<StreamId>,
    /// Bytes queued on the lane's streams with [`MESSAGE_OVERHEAD`](crate::limits::MESSAGE_OVERHEAD) each, not yet
    /// handed out.
    pub(crate) queued: u64,
    /// The stream whose message waits for credit of the connection. Nobody of this lane or a lower one starts a
    /// message before it; otherwise small messages would take each returned byte and a large one would starve.
    pub(crate) waiting: Option<StreamId>,
    /// Streams whose caller was told that the buffer is full, and is to hear of room: each once, whoever was refused first before
    /// others. Whoever hears of it first takes most of it, and then stands behind all others.
    pub(crate) wants_room: VecDeque<StreamId>,
}

/// What a stream may send in one turn, in bytes. Small, so that a stream of small messages does not hold the lane
/// for the time of a whole frame; a large frame saves up over several turns.
pub(crate) const QUANTUM: i64 = 16 << 10;

//! What goes into a replica and what comes out: its whole contract with the world.

use crate::model::{Assignment, Epoch, LogPosition, Lsn, Message, NodeId};
use bytes::Bytes;
use towline_wal::Batch;

/// A replica's own log, as accepted by the WAL (durable or not yet): what its rules look up.
///
/// It shows the log before the step: the driver executes a step's outputs, all of them and in order, before the
/// next one.
pub trait LogView {
    /// The end of the log.
    fn end(&self) -> LogPosition;
    /// The end of what is durable.
    fn durable_end(&self) -> LogPosition;
    /// The position at `lsn` if a batch ends there, or the log begins there.
    fn position_at(&self, lsn: Lsn) -> Option<LogPosition>;
    /// The last batch boundary at or before `lsn`.
    fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition>;
    /// Each epoch in the log with its first LSN, ascending.
    fn epochs(&self) -> Vec<(Epoch, Lsn)>;
    /// From where the log may lack what was once durable (an uncertain cut at an open, or damage), until
    /// [`LogWrite::Settle`].
    fn suspect(&self) -> Option<Lsn>;
}

/// One thing that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Input {
    /// The control plane assigned the shard.
    Assign(Assignment),
    /// The control plane accepted that this epoch is activated.
    ActivationAccepted(Epoch),
    /// The sequencer sealed a batch, behind [`Replica::proposal_position`](super::Replica::proposal_position).
    Propose(Batch),
    /// A message came from a peer. Its batches' records were proven decodable (faults N11).
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The WAL made durable what [`Output::Persist`] with this ticket asked, and everything before it.
    Persisted(Ticket),
    /// The answer to [`Output::ReadLog`].
    LogRead {
        /// For whom.
        peer: NodeId,
        /// What for.
        purpose: ReadPurpose,
        /// Behind which position.
        after: LogPosition,
        /// The batches, in order; none if they can't be read now.
        batches: Vec<Batch>,
    },
    /// A connection to a peer stands, both ways; messages in flight on an older one are gone.
    PeerUp(NodeId),
    /// The connection to a peer is gone.
    PeerDown(NodeId),
}

/// One thing to do, in order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Output {
    /// Give this to the WAL, in this order, and say [`Input::Persisted`] when it is durable.
    Persist {
        /// Names it; tickets rise by one.
        ticket: Ticket,
        /// What to write.
        write: LogWrite,
    },
    /// Send a message to a peer.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Read batches for a peer from the log: whole ones, behind a position.
    ReadLog {
        /// For whom.
        peer: NodeId,
        /// Behind which position.
        after: LogPosition,
        /// How many bytes (one batch is always read whole).
        bytes_max: usize,
        /// What the batches are for.
        purpose: ReadPurpose,
    },
    /// Everything up to here is committed.
    Commit(Lsn),
    /// This epoch's start is durable on a majority: report it to the control plane.
    Activated(Epoch),
    /// Writes are taken from here on.
    Serving(Epoch),
    /// This replica no longer leads: a newer epoch was promised.
    Superseded {
        /// The epoch promised, here or at a peer.
        promised: Epoch,
    },
    /// The peer broke the protocol, or stands where it can't be helped: close the connection, begin anew.
    Disconnect {
        /// Which peer.
        peer: NodeId,
        /// Why, for the log.
        reason: DisconnectReason,
    },
}

/// Why a connection to a peer is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// Batches of one message do not follow one another.
    #[error("its batches do not follow one another")]
    BrokenChain,
    /// It acknowledges what it was never sent.
    #[error("it acknowledges more than it was sent")]
    ImpossibleAcknowledgement,
    /// It has no batches where it promised some.
    #[error("it lacks batches that it promised")]
    MissingBatches,
    /// Its history lacks what is known to be committed here.
    #[error("its history contradicts what is committed here: one of the two disks is not what it was")]
    ContradictsCommitted,
    /// It asks for a promise after which there could be no other.
    #[error("it names the last of all epochs")]
    ImpossibleEpoch,
}

/// What batches read from the log are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPurpose {
    /// A follower of this leader is behind.
    CatchUp,
    /// A new leader, of this epoch, fetches what it lacks.
    Fetch(Epoch),
}

/// Names one [`Output::Persist`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// One entry for the log.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LogWrite {
    /// Append this batch.
    Append(Batch),
    /// Forget everything behind this position.
    Truncate(LogPosition),
    /// Keep this promise (hard state).
    Promise(Bytes),
    /// The log lacks nothing any more: forget that it may ([`LogView::suspect`]).
    Settle,
}

//! What goes into a replica and what comes out: its whole contract with the world.

use super::{QuorumLost, ReadTicket};
use crate::model::{Assignment, DirectoryId, Epoch, EpochStart, LogPosition, Lsn, Message, NodeId, SnapshotId};
use bytes::Bytes;
use std::time::Duration;
use towline_wal::Batch;

/// A replica's own log, as accepted by the WAL (durable or not yet): what its rules look up.
///
/// It shows the log before the step: the driver executes a step's outputs, all of them and in order, before the
/// next one.
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, Lsn};
/// use towline::replica::LogView;
/// use towline_wal::Batch;
/// /// A log in memory: all of it is durable, and none of it was ever lost.
/// struct Memory(LogId, Vec<Batch>);
/// impl LogView for Memory {
///     fn start(&self) -> LogPosition { LogPosition::origin(self.0) }
///     fn end(&self) -> LogPosition { self.1.last().map_or(LogPosition::origin(self.0), Batch::position) }
///     fn durable_end(&self) -> LogPosition { self.end() }
///     fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
///         self.boundary_at_or_before(lsn).filter(|boundary| boundary.lsn == lsn)
///     }
///     fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
///         let before = self.1.iter().rev().map(Batch::position).find(|end| end.lsn <= lsn);
///         Some(before.unwrap_or(LogPosition::origin(self.0)))
///     }
///     fn epochs(&self) -> Vec<(Epoch, Lsn)> {
///         let starts = self.1.chunk_by(|one, next| one.epoch() == next.epoch());
///         starts.filter_map(|same| same.first()).map(|first| (first.epoch(), first.first_lsn())).collect()
///     }
///     fn suspect(&self) -> Option<Lsn> { None }
///     fn damaged(&self) -> Vec<(Lsn, Lsn)> { vec![] }
/// }
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let block = Block::encode("two".into(), 2, Compression::Never);
/// # let origin = LogPosition::origin(LogId::new(1));
/// # let batch = BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), origin, 0).block(block).seal()?;
/// # let log = Memory(LogId::new(1), vec![batch]);
/// // `log` has one batch, of two records.
/// assert_eq!(log.end().lsn, Lsn::new(2));
/// assert_eq!(log.position_at(Lsn::new(1)), None, "no batch ends there");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait LogView {
    /// Where the log begins: its origin, or behind what was released, or behind a snapshot.
    fn start(&self) -> LogPosition;
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
    /// What of the log can't be read, first and last LSN of each range, and was not put again ([`LogWrite::Mend`]).
    fn damaged(&self) -> Vec<(Lsn, Lsn)>;
    /// Where damage ends at `last`, if [`LogView::position_at`] can't tell, and what lies behind does.
    fn damage_end(&self, _last: Lsn) -> Option<LogPosition> {
        None
    }
    /// How many of these batches, from the first on, the log would take as [`LogWrite::Mend`], one behind the other. A log that knows
    /// no more of what is around its damage than [`LogView::position_at`] tells takes all.
    fn mendable(&self, batches: &[Batch]) -> usize {
        batches.len()
    }
    /// The last `EpochStart` of the log, or of the state, where the log has let go of it. It is asked for where each node is its own
    /// master ([`Replica::with_own_master`](super::Replica::with_own_master)).
    fn last_start(&self) -> Option<EpochStart> {
        None
    }
}

/// One thing that happened.
///
/// ```
/// use towline::model::{Epoch, Lsn, Message, NodeId};
/// use towline::replica::{Input, Output, Promise, Replica};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me, peer]);
/// # let log = Memory(master.log(), vec![]);
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// replica.step(0, Input::PeerUp(peer, Default::default()), &log);
/// let fence = Message::Fence { epoch: Epoch::new(1024, 1), leader: peer };
/// let asked = replica.step(0, Input::Message { from: peer, message: fence }, &log);
/// let [Output::Persist { ticket, .. }] = asked[..] else { return Err("the promise is to be made durable") };
/// let durable = replica.step(0, Input::Persisted(ticket), &log);
/// assert!(matches!(&durable[..], [Output::Send { message: Message::Promise { .. }, .. }]), "now it is said");
/// # Ok::<(), &str>(())
/// ```
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
    /// [`LogView::damaged`] tells other than it did: whoever reads the log came upon what can't be read, or some of that was released.
    DamageFound {
        /// Up to here the state has the log, or is about to: what is being applied was read before this was known.
        read: Lsn,
    },
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
    /// The answer to [`Output::TakeSnapshot`]: a snapshot of what is applied here, behind which the log goes on. None comes if
    /// none can be taken; the peer is fed nothing until it connects anew.
    SnapshotTaken {
        /// For whom.
        peer: NodeId,
        /// The epoch that was named.
        epoch: Epoch,
        /// What it is.
        snapshot: SnapshotId,
    },
    /// The answer to [`Output::ReadSnapshot`].
    SnapshotRead {
        /// For whom.
        peer: NodeId,
        /// The epoch that was named.
        epoch: Epoch,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        index: u32,
        /// The chunk; none if that snapshot is not kept any more.
        bytes: Option<Bytes>,
    },
    /// This part of what is staged is missing: it is asked for. One at a time, as fast as the driver likes.
    SnapshotWanted {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        index: u32,
    },
    /// All parts of a snapshot are staged, durably, and their digest is what was offered.
    SnapshotStaged(SnapshotId),
    /// The answer to [`Output::InstallSnapshot`]: the state is the snapshot's, durably.
    SnapshotInstalled(SnapshotId),
    /// Somebody wants to read what is committed now, or newer. Tickets rise, or name the newest once more that still
    /// waits. Who follows asks its leader.
    Read(ReadTicket),
    /// A connection to a peer stands, both ways, and this is the disk that it has; messages in flight on an older one are gone.
    PeerUp(NodeId, DirectoryId),
    /// The connection to a peer is gone.
    PeerDown(NodeId),
    /// Monotonic time since a moment that whoever drives the replica chose and keeps to, at
    /// [`Replica::next_tick`](super::Replica::next_tick) or later.
    Tick(Duration),
}

/// One thing to do, in order.
///
/// ```
/// use towline::model::Message;
/// use towline::replica::{Input, LogWrite, Output, Promise, Replica};
/// # use towline::model::{Epoch, Lsn, NodeId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me, peer]);
/// # let log = Memory(master.log(), vec![]);
/// # let assignment = master.assign(me, Epoch::ZERO).ok_or("no epoch is left")?;
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// replica.step(0, Input::PeerUp(peer, Default::default()), &log);
/// let (mut writes, mut sent) = (vec![], vec![]);
/// for output in replica.step(0, Input::Assign(assignment), &log) {
///     match output {
///         Output::Persist { write, .. } => writes.push(write),
///         Output::Send { to, message } => sent.push((to, message)),
///         other => return Err(format!("a new leader asks for nothing else yet: {other:?}")),
///     }
/// }
/// assert!(matches!(writes[..], [LogWrite::Promise(_)]), "it binds itself");
/// assert!(matches!(sent[..], [(to, Message::Fence { .. })] if to == peer), "and asks the other to");
/// # Ok::<(), String>(())
/// ```
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
    /// A peer needs what the log holds no more: take a snapshot of what is applied, or one taken before behind which the log
    /// goes on, and say [`Input::SnapshotTaken`].
    TakeSnapshot {
        /// Who needs it.
        peer: NodeId,
        /// In which epoch; the answer names it.
        epoch: Epoch,
    },
    /// Read a part of a snapshot that was taken, and say [`Input::SnapshotRead`].
    ReadSnapshot {
        /// For whom.
        peer: NodeId,
        /// In which epoch; the answer names it.
        epoch: Epoch,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        index: u32,
    },
    /// Keep the parts of this snapshot that come, instead of those of any other. If some are here already, they are not asked for
    /// again. Say by [`Input::SnapshotWanted`] which is the next, or [`Input::SnapshotStaged`] if none is missing.
    StageSnapshot {
        /// Which snapshot.
        snapshot: SnapshotId,
    },
    /// Keep this part, and ask for the next.
    StageChunk {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        index: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Replace the state by the snapshot that is staged, all of it at once, and say [`Input::SnapshotInstalled`] when that is
    /// durable. A log that is read meanwhile may end before the state.
    InstallSnapshot {
        /// Which snapshot.
        snapshot: SnapshotId,
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
    /// This replica no longer leads: it could not reach a majority. It never leads this epoch again; what it sealed and does not
    /// know to be committed may yet come to effect, under another leader.
    SteppedDown {
        /// The epoch that it led.
        epoch: Epoch,
        /// What it lacked.
        reason: QuorumLost,
    },
    /// The reads up to this one, of those that were taken, may be served once this is applied: nothing newer was committed
    /// anywhere when they came.
    ReadsConfirmed {
        /// The newest of them.
        up_to: ReadTicket,
        /// What they must show.
        index: Lsn,
    },
    /// The reads up to this one that have no answer can't be served here: this replica neither leads nor follows one who does, or
    /// not any more.
    ReadsRefused {
        /// The newest of them.
        up_to: ReadTicket,
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
///
/// ```
/// use towline::model::{Epoch, Lsn, Message, NodeId};
/// use towline::replica::{DisconnectReason, Input, Output, Promise, Replica};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me, peer]);
/// # let log = Memory(master.log(), vec![]);
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// let last_of_all = Message::Fence { epoch: Epoch::new(1024, u32::MAX), leader: peer };
/// match &replica.step(0, Input::Message { from: peer, message: last_of_all }, &log)[..] {
///     [Output::Disconnect { reason, .. }] => {
///         assert_eq!(*reason, DisconnectReason::ImpossibleEpoch);
///         assert_eq!(reason.to_string(), "it names the last of all epochs");
///     }
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(replica.promise(), Promise::NONE, "nothing was promised");
/// ```
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
///
/// ```
/// use towline::model::{Epoch, Lsn, Message, NodeId};
/// use towline::replica::{Input, Output, Promise, ReadPurpose, Replica};
/// # use towline::replica::LogView;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me, peer]);
/// # let log = Memory(master.log(), vec![]);
/// # let origin = log.end();
/// let epoch = Epoch::new(1024, 1);
/// let mut replica = Replica::open(me, master.log(), Promise { epoch, leader: Some(peer), disk: None }, Lsn::ZERO, &log);
/// let fetch = Message::Fetch { epoch, after: origin, bytes_max: 1 << 20 };
/// let asked = replica.step(0, Input::Message { from: peer, message: fetch }, &log);
/// let [Output::ReadLog { purpose, after, .. }] = asked[..] else { return Err("a read was expected") };
/// assert_eq!(purpose, ReadPurpose::Fetch(epoch));
/// // Whoever read gives the purpose back with the batches: it says what becomes of them.
/// let batches = log.1.clone();
/// let read = replica.step(0, Input::LogRead { peer, purpose, after, batches }, &log);
/// assert!(matches!(&read[..], [Output::Send { message: Message::Fetched { .. }, .. }]));
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPurpose {
    /// A follower of this leader is behind.
    CatchUp,
    /// A new leader, of this epoch, fetches what it lacks.
    Fetch(Epoch),
    /// A peer can't read what it has before this position.
    Mend {
        /// The epoch that the peer named.
        epoch: Epoch,
        /// What is behind it is not wanted.
        to: LogPosition,
    },
}

/// Names one [`Output::Persist`].
///
/// ```
/// use towline::model::{Epoch, Lsn, Message, NodeId};
/// use towline::replica::{Input, Output, Promise, Replica};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me, peer]);
/// # let log = Memory(master.log(), vec![]);
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// let mut tickets = vec![];
/// for term in [1, 2] {
///     let fence = Message::Fence { epoch: Epoch::new(1024, term), leader: peer };
///     for output in replica.step(0, Input::Message { from: peer, message: fence }, &log) {
///         if let Output::Persist { ticket, .. } = output {
///             tickets.push(ticket);
///         }
///     }
/// }
/// assert!(tickets[0] < tickets[1]);
/// let said = replica.step(0, Input::Persisted(tickets[1]), &log);
/// assert_eq!(said.len(), 1, "the later one covers both, and only the newer promise is said");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// One entry for the log.
///
/// ```
/// use towline::replica::{Input, LogView, LogWrite, Output, Promise, Replica};
/// # use towline::model::{Epoch, Lsn, NodeId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me]);
/// # let mut log = Memory(master.log(), vec![]);
/// # let assignment = master.assign(me, Epoch::ZERO).ok_or("no epoch is left")?;
/// # let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// # let mut inputs = vec![Input::Assign(assignment)];
/// # let mut writes = vec![];
/// # while let Some(input) = inputs.pop() {
/// #     for output in replica.step(0, input, &log) {
/// #         if let Output::Persist { ticket, write } = output {
/// #             writes.push(write);
/// #             inputs.push(Input::Persisted(ticket));
/// #         }
/// #     }
/// # }
/// // `writes` is what a replica wrote that was assigned the shard.
/// let mut promise = Promise::NONE;
/// for write in writes {
///     match write {
///         LogWrite::Append(batch) => log.1.push(batch),
///         LogWrite::Truncate(to) => log.1.retain(|batch| batch.last_lsn() <= to.lsn),
///         LogWrite::Promise(bytes) => promise = Promise::decode(&bytes)?,
///         _ => {} // `Settle`, `Mark`, `Reset`: this log never lacks anything.
///     }
/// }
/// assert_eq!(promise.leader, Some(me));
/// assert_eq!(log.epochs(), [(promise.epoch, Lsn::FIRST)], "behind the promise, the record that starts its epoch");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LogWrite {
    /// Append this batch.
    Append(Batch),
    /// Put this batch again, where the log is damaged.
    Mend(Batch),
    /// Forget everything behind this position.
    Truncate(LogPosition),
    /// Keep this promise (hard state).
    Promise(Bytes),
    /// Keep this [`InstallMark`](super::InstallMark) (hard state of the kind *snapshot*).
    Mark(Bytes),
    /// Forget the whole log and let it begin behind this position; in the same submission keep this mark.
    Reset {
        /// Where it begins.
        to: LogPosition,
        /// The [`InstallMark`](super::InstallMark).
        mark: Bytes,
    },
    /// The log lacks nothing any more: forget that it may ([`LogView::suspect`]).
    Settle,
}

//! What nodes say to one another about one shard's log.
//!
//! On the wire: an envelope ([`super::codec`]) whose body is the message without its batches, then the batches'
//! own bytes, one after the other, exactly as they lie in every log; the bytes of a snapshot's chunk follow it likewise. A message belongs to one replication
//! stream, whose first envelope ([`super::request::StreamHello`]) names the log.

use super::codec::{self, CodecError, Decode, Encode, Enveloped};
use super::ids::{DirectoryId, NodeId};
use super::limits::{
    APPEND_BATCHES_MAX, DAMAGED_RANGES_NAMED_MAX, EPOCHS_NAMED_MAX, MESSAGE_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX,
    VOTERS_MAX,
};
use super::snapshot_id::SnapshotId;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use towline_wal::{Batch, BatchError, BatchHeader, Chain, Epoch, LogPosition, Lsn};

/// A replica's log in a few numbers: enough to compare two histories.
///
/// ```
/// use towline::model::{Chain, Epoch, LogPosition, LogSummary, Lsn, Message};
/// let (first, second) = (Epoch::new(1024, 1), Epoch::new(1024, 2));
/// let end = LogPosition { epoch: second, lsn: Lsn::new(9), chain: Chain::new(7) };
/// let mut log = LogSummary { end, epochs: vec![(first, Lsn::new(1)), (second, Lsn::new(6))] };
/// let promise = |log| Message::Promise { epoch: Epoch::new(1024, 3), log, suspect: None, committed: Lsn::new(5), votes: None };
/// assert_eq!(Message::decode(&promise(log.clone()).encode()?)?, promise(log.clone()));
///
/// log.epochs.pop(); // It ends in an epoch that it does not name: that is no log.
/// assert!(Message::decode(&promise(log).encode()?).is_err());
/// # Ok::<(), towline::model::message::MessageError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSummary {
    /// The end of the log.
    pub end: LogPosition,
    /// Each epoch in the log with its first LSN, ascending; at most
    /// [`EPOCHS_NAMED_MAX`], the newest ones.
    pub epochs: Vec<(Epoch, Lsn)>,
}

/// One message between two replicas of a shard.
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, Lsn, Message};
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let batch = |text: &'static str, behind| {
/// #     let block = Block::encode(text.into(), 1, Compression::Never);
/// #     BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), behind, 0).block(block).seal()
/// # };
/// let epoch = Epoch::new(1, 1);
/// let prev = LogPosition::origin(LogId::new(1));
/// let batches = vec![batch("one", prev)?];
/// let append = Message::Append { epoch, prev, commit: Lsn::ZERO, batches: batches.clone() };
/// let bytes = append.encode()?;
/// assert!(bytes.ends_with(batches[0].bytes()), "a batch crosses the wire as it lies in the log");
/// assert_eq!(Message::decode(&bytes)?, append);
/// assert_eq!(append.appends(), Some((epoch, Lsn::new(1))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// A new leader asks for the promise to accept nothing older than its epoch.
    Fence {
        /// Its epoch.
        epoch: Epoch,
        /// Itself.
        leader: NodeId,
    },
    /// The promise, durable before it is said.
    Promise {
        /// The epoch promised.
        epoch: Epoch,
        /// The log, with what is still on its way to the disk: a new leader that takes that over makes it durable
        /// itself.
        log: LogSummary,
        /// From where the log may lack what was once durable (an uncertain cut, or damage).
        suspect: Option<Lsn>,
        /// The highest position known committed.
        committed: Lsn,
        /// Whose disks have the votes by the last epoch of that log. None: a master knows of all assignments, or there is no such epoch
        /// (of this version), or it can't be read; which of them it is, whoever hears it knows by the log's end.
        votes: Option<BTreeMap<NodeId, DirectoryId>>,
    },
    /// A newer epoch was promised: the asker is out of date.
    Refused {
        /// The epoch that is refused.
        epoch: Epoch,
        /// The epoch promised.
        promised: Epoch,
    },
    /// Batches for the log, behind `prev`.
    Append {
        /// The leader's epoch.
        epoch: Epoch,
        /// What lies before the first batch.
        prev: LogPosition,
        /// The leader's commit position.
        commit: Lsn,
        /// The batches, in order; may be empty (then it asks whether `prev` fits, and carries the commit position).
        batches: Vec<Batch>,
    },
    /// Everything up to here equals the leader's log and is durable.
    Appended {
        /// The epoch of the leader whose log it equals.
        epoch: Epoch,
        /// The durable end that equals the leader's log.
        durable: Lsn,
    },
    /// `prev` of an append is not in this log.
    Mismatch {
        /// The leader's epoch.
        epoch: Epoch,
        /// The position that did not fit.
        prev: Lsn,
        /// The log as it is.
        log: LogSummary,
    },
    /// A new leader asks a voter for batches that it lacks.
    Fetch {
        /// Its epoch.
        epoch: Epoch,
        /// What it has: batches behind this position are wanted.
        after: LogPosition,
        /// How many bytes at the most (one batch is always sent whole).
        bytes_max: u32,
    },
    /// The batches asked for; none where the position is not in this log.
    Fetched {
        /// The epoch of the asker.
        epoch: Epoch,
        /// The position asked for.
        after: LogPosition,
        /// The batches behind it.
        batches: Vec<Batch>,
    },
    /// A leader asks whether the promise to it still stands, before it serves reads.
    Confirm {
        /// Its epoch.
        epoch: Epoch,
        /// Which time it asks; the answer names it.
        round: u64,
    },
    /// It does: nothing newer was promised when this was said.
    Confirmed {
        /// The leader's epoch.
        epoch: Epoch,
        /// What it answers.
        round: u64,
    },
    /// What the other needs, this log holds no more: here is the state instead, and the log goes on behind it.
    SnapshotOffer {
        /// The epoch in which they speak: the leader's, or that of a new leader who fetches what it lacks.
        epoch: Epoch,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A part of the snapshot is wanted. Whoever takes it asks for one after the other: so it has what it can store, and
    /// goes on where it was when the connection breaks.
    SnapshotWanted {
        /// The epoch in which they speak.
        epoch: Epoch,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk, from 0.
        index: u32,
    },
    /// The part that was asked for.
    SnapshotChunk {
        /// The epoch in which they speak.
        epoch: Epoch,
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// Which chunk.
        index: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// What of the sender's log can't be read: all of it, and none where nothing is damaged any more. Said before the promise,
    /// and again when it changes.
    Damaged {
        /// The epoch that the sender promised.
        epoch: Epoch,
        /// The ranges, first and last LSN, in order.
        ranges: Vec<(Lsn, Lsn)>,
    },
    /// What lies between two positions of the sender's log is damaged: whoever has both has the very batches.
    MendWanted {
        /// The epoch that the sender promised; the answer names it.
        epoch: Epoch,
        /// Batches behind this position are wanted,
        after: LogPosition,
        /// up to this one.
        to: LogPosition,
        /// How many bytes at the most (one batch is always sent whole).
        bytes_max: u32,
    },
    /// The batches that were asked for; none where the positions are not in this log, or it can't read them either.
    Mend {
        /// The epoch that was named.
        epoch: Epoch,
        /// The position that was named.
        after: LogPosition,
        /// The batches behind it.
        batches: Vec<Batch>,
    },
    /// Somebody who follows wants to read what is committed now, or newer: what must it show?
    ReadIndex {
        /// The epoch that the sender promised.
        epoch: Epoch,
        /// Which question; the answer names it.
        number: u64,
    },
    /// Everything that was acknowledged when the question came is no further than this.
    ReadIndexed {
        /// The epoch that was named.
        epoch: Epoch,
        /// The question that was named.
        number: u64,
        /// The position; none if the sender does not lead, or leads no more.
        index: Option<Lsn>,
    },
}

/// Why bytes are not a message.
///
/// ```
/// use towline::model::message::MessageError;
/// use towline::model::{Epoch, LogId, LogPosition, Lsn, Message};
/// use towline_wal::BatchError;
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let batch = |text: &'static str, behind| {
/// #     let block = Block::encode(text.into(), 1, Compression::Never);
/// #     BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), behind, 0).block(block).seal()
/// # };
/// # let prev = LogPosition::origin(LogId::new(1));
/// # let batches = vec![batch("one", prev)?];
/// # let append = Message::Append { epoch: Epoch::new(1, 1), prev, commit: Lsn::ZERO, batches };
/// // `append` is a message with one batch.
/// let mut bytes = append.encode()?.to_vec();
/// let cut = Message::decode(&bytes[..bytes.len() - 1].to_vec().into());
/// assert_eq!(cut, Err(MessageError::Batches { stated: 1, found: 0 }));
/// if let Some(last) = bytes.last_mut() {
///     *last ^= 1;
/// }
/// assert_eq!(Message::decode(&bytes.into()), Err(MessageError::Batch(BatchError::PayloadCrc)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The envelope or its body.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A batch behind it.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Batches follow a message that carries none, or there are more or fewer than it says.
    #[error("the message says {stated} batches, {found} follow")]
    Batches {
        /// What it says.
        stated: usize,
        /// What follows.
        found: usize,
    },
    /// More epochs than a summary may name.
    #[error("a log summary names {0} epochs, more than {EPOCHS_NAMED_MAX}")]
    Epochs(usize),
    /// There can be no such snapshot, or it has no such chunk.
    #[error("a snapshot contradicts itself")]
    Snapshot,
    /// The bytes of a chunk are not what the message says of them.
    #[error("a snapshot's chunk is damaged")]
    Chunk,
    /// More votes than there can be, or two of a node.
    #[error("the votes contradict themselves")]
    Votes,
    /// Its epochs are not in order, or the last is not the one in which the log ends.
    #[error("a log summary contradicts itself")]
    Summary,
    /// Damaged ranges are not in order, or more than a message may name.
    #[error("the damaged ranges that it names are not in order, or too many")]
    Damaged,
}

#[derive(Encode, Decode, Clone, Copy)]
struct EpochV1(u64, u32);

#[derive(Encode, Decode, Clone, Copy)]
struct PositionV1 {
    epoch: EpochV1,
    lsn: u64,
    chain: u64,
}

#[derive(Encode, Decode)]
struct SummaryV1 {
    end: PositionV1,
    epochs: Vec<(EpochV1, u64)>,
}

/// The layout of a message's body, version 1. The order of the variants is part of the format.
#[derive(Encode, Decode)]
enum MessageV1 {
    Fence {
        epoch: EpochV1,
        leader: NodeId,
    },
    Promise {
        epoch: EpochV1,
        log: SummaryV1,
        suspect: Option<u64>,
        committed: u64,
    },
    Refused {
        epoch: EpochV1,
        promised: EpochV1,
    },
    Append {
        epoch: EpochV1,
        prev: PositionV1,
        commit: u64,
        batches: u32,
    },
    Appended {
        epoch: EpochV1,
        durable: u64,
    },
    Mismatch {
        epoch: EpochV1,
        prev: u64,
        log: SummaryV1,
    },
    Fetch {
        epoch: EpochV1,
        after: PositionV1,
        bytes_max: u32,
    },
    Fetched {
        epoch: EpochV1,
        after: PositionV1,
        batches: u32,
    },
    Confirm {
        epoch: EpochV1,
        round: u64,
    },
    Confirmed {
        epoch: EpochV1,
        round: u64,
    },
    SnapshotOffer {
        epoch: EpochV1,
        snapshot: SnapshotV1,
    },
    SnapshotWanted {
        epoch: EpochV1,
        snapshot: SnapshotV1,
        index: u32,
    },
    SnapshotChunk {
        epoch: EpochV1,
        snapshot: SnapshotV1,
        index: u32,
        bytes: u32,
        crc: u32,
    },
    Damaged {
        epoch: EpochV1,
        ranges: Vec<(u64, u64)>,
    },
    MendWanted {
        epoch: EpochV1,
        after: PositionV1,
        to: PositionV1,
        bytes_max: u32,
    },
    Mend {
        epoch: EpochV1,
        after: PositionV1,
        batches: u32,
    },
    /// A `Promise` that names the votes, ascending by node.
    PromiseOfDisks {
        epoch: EpochV1,
        log: SummaryV1,
        suspect: Option<u64>,
        committed: u64,
        votes: Vec<(NodeId, DirectoryId)>,
    },
    ReadIndex {
        epoch: EpochV1,
        number: u64,
    },
    ReadIndexed {
        epoch: EpochV1,
        number: u64,
        index: Option<u64>,
    },
}

#[derive(Encode, Decode)]
struct SnapshotV1 {
    at: PositionV1,
    chunks: u32,
    bytes: u64,
    digest: u128,
}

impl From<&SnapshotId> for SnapshotV1 {
    fn from(id: &SnapshotId) -> Self {
        Self { at: id.at.into(), chunks: id.chunks, bytes: id.bytes, digest: id.digest }
    }
}

impl TryFrom<SnapshotV1> for SnapshotId {
    type Error = MessageError;

    fn try_from(id: SnapshotV1) -> Result<Self, MessageError> {
        let id = Self { at: id.at.into(), chunks: id.chunks, bytes: id.bytes, digest: id.digest };
        if id.is_possible() { Ok(id) } else { Err(MessageError::Snapshot) }
    }
}

impl Enveloped for MessageV1 {
    const KIND: u16 = 0x0201;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64 * 1024;
}

impl From<Epoch> for EpochV1 {
    fn from(epoch: Epoch) -> Self {
        Self(epoch.version, epoch.term)
    }
}

impl From<EpochV1> for Epoch {
    fn from(EpochV1(version, term): EpochV1) -> Self {
        Self { version, term }
    }
}

impl From<LogPosition> for PositionV1 {
    fn from(position: LogPosition) -> Self {
        Self { epoch: position.epoch.into(), lsn: position.lsn.get(), chain: position.chain.get() }
    }
}

impl From<PositionV1> for LogPosition {
    fn from(position: PositionV1) -> Self {
        Self { epoch: position.epoch.into(), lsn: Lsn::new(position.lsn), chain: Chain::new(position.chain) }
    }
}

impl From<&LogSummary> for SummaryV1 {
    fn from(summary: &LogSummary) -> Self {
        let epochs = summary.epochs.iter().map(|(epoch, lsn)| ((*epoch).into(), lsn.get())).collect();
        Self { end: summary.end.into(), epochs }
    }
}

impl TryFrom<SummaryV1> for LogSummary {
    type Error = MessageError;

    fn try_from(summary: SummaryV1) -> Result<Self, MessageError> {
        if summary.epochs.len() > EPOCHS_NAMED_MAX {
            return Err(MessageError::Epochs(summary.epochs.len()));
        }
        let epochs = summary.epochs.into_iter().map(|(epoch, lsn)| (epoch.into(), Lsn::new(lsn))).collect();
        let summary = Self { end: summary.end.into(), epochs };
        let ascending = summary.epochs.is_sorted_by(|(a, a_start), (b, b_start)| a < b && a_start < b_start);
        let ends = summary.epochs.last().is_none_or(|(e, start)| *e == summary.end.epoch && *start <= summary.end.lsn);
        if ascending && ends { Ok(summary) } else { Err(MessageError::Summary) }
    }
}

impl Message {
    /// The epoch and last LSN of the batches of an `Append`; none if it has none, or this is another message.
    #[must_use]
    pub fn appends(&self) -> Option<(Epoch, Lsn)> {
        match self {
            Self::Append { epoch, batches, .. } => batches.last().map(|last| (*epoch, last.last_lsn())),
            _ => None,
        }
    }

    /// About how many bytes it takes beside its envelope: those of what it carries.
    #[cfg(feature = "node")]
    pub(crate) fn bytes_carried(&self) -> usize {
        match self {
            Self::Append { batches, .. } | Self::Fetched { batches, .. } | Self::Mend { batches, .. } => {
                batches.iter().map(|batch| batch.bytes().len()).sum()
            }
            Self::SnapshotChunk { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// Its bytes. Batches are joined behind the envelope; a message without any is the envelope alone.
    ///
    /// # Errors
    /// More epochs or batches than the limits allow.
    pub fn encode(&self) -> Result<Bytes, MessageError> {
        let (head, batches) = self.head()?;
        if batches.is_empty() {
            return Ok(head);
        }
        let total = batches.iter().fold(head.len(), |sum, batch| sum.saturating_add(batch.bytes().len()));
        let mut out = BytesMut::with_capacity(total);
        out.extend_from_slice(&head);
        for batch in batches {
            out.extend_from_slice(batch.bytes());
        }
        Ok(out.freeze())
    }

    /// The envelope, and the batches that follow it.
    fn head(&self) -> Result<(Bytes, &[Batch]), MessageError> {
        let count = |batches: &[Batch]| u32::try_from(batches.len()).unwrap_or(u32::MAX);
        let (body, batches): (MessageV1, &[Batch]) = match self {
            Self::Fence { epoch, leader } => (MessageV1::Fence { epoch: (*epoch).into(), leader: *leader }, &[]),
            Self::Promise { epoch, log, suspect, committed, votes } => {
                let (epoch, log, suspect) = ((*epoch).into(), log.into(), suspect.map(Lsn::get));
                let committed = committed.get();
                let body = match votes {
                    None => MessageV1::Promise { epoch, log, suspect, committed },
                    Some(votes) => {
                        let votes = votes.iter().map(|(node, directory)| (*node, *directory)).collect();
                        MessageV1::PromiseOfDisks { epoch, log, suspect, committed, votes }
                    }
                };
                (body, &[])
            }
            Self::Refused { epoch, promised } => {
                (MessageV1::Refused { epoch: (*epoch).into(), promised: (*promised).into() }, &[])
            }
            Self::Append { epoch, prev, commit, batches } => (
                MessageV1::Append {
                    epoch: (*epoch).into(),
                    prev: (*prev).into(),
                    commit: commit.get(),
                    batches: count(batches),
                },
                batches,
            ),
            Self::Appended { epoch, durable } => {
                (MessageV1::Appended { epoch: (*epoch).into(), durable: durable.get() }, &[])
            }
            Self::Mismatch { epoch, prev, log } => {
                (MessageV1::Mismatch { epoch: (*epoch).into(), prev: prev.get(), log: log.into() }, &[])
            }
            Self::Fetch { epoch, after, bytes_max } => {
                (MessageV1::Fetch { epoch: (*epoch).into(), after: (*after).into(), bytes_max: *bytes_max }, &[])
            }
            Self::Fetched { epoch, after, batches } => (
                MessageV1::Fetched { epoch: (*epoch).into(), after: (*after).into(), batches: count(batches) },
                batches,
            ),
            Self::Confirm { epoch, round } => (MessageV1::Confirm { epoch: (*epoch).into(), round: *round }, &[]),
            Self::Confirmed { epoch, round } => (MessageV1::Confirmed { epoch: (*epoch).into(), round: *round }, &[]),
            Self::SnapshotOffer { epoch, snapshot } => {
                (MessageV1::SnapshotOffer { epoch: (*epoch).into(), snapshot: snapshot.into() }, &[])
            }
            Self::SnapshotWanted { epoch, snapshot, index } => {
                (MessageV1::SnapshotWanted { epoch: (*epoch).into(), snapshot: snapshot.into(), index: *index }, &[])
            }
            Self::SnapshotChunk { epoch, snapshot, index, bytes } => {
                return Ok((encode_chunk(*epoch, snapshot, *index, bytes)?, &[]));
            }
            Self::Damaged { epoch, ranges } => {
                check_ranges(ranges)?;
                let ranges = ranges.iter().map(|(first, last)| (first.get(), last.get())).collect();
                (MessageV1::Damaged { epoch: (*epoch).into(), ranges }, &[])
            }
            Self::MendWanted { epoch, after, to, bytes_max } => {
                let (epoch, after, to) = ((*epoch).into(), (*after).into(), (*to).into());
                (MessageV1::MendWanted { epoch, after, to, bytes_max: *bytes_max }, &[])
            }
            Self::Mend { epoch, after, batches } => {
                let (epoch, after) = ((*epoch).into(), (*after).into());
                (MessageV1::Mend { epoch, after, batches: count(batches) }, batches)
            }
            Self::ReadIndex { epoch, number } => {
                (MessageV1::ReadIndex { epoch: (*epoch).into(), number: *number }, &[])
            }
            Self::ReadIndexed { epoch, number, index } => {
                let (epoch, index) = ((*epoch).into(), index.map(Lsn::get));
                (MessageV1::ReadIndexed { epoch, number: *number, index }, &[])
            }
        };
        if batches.len() > APPEND_BATCHES_MAX {
            return Err(MessageError::Batches { stated: APPEND_BATCHES_MAX, found: batches.len() });
        }
        Ok((codec::encode(&body)?, batches))
    }

    /// The message in these bytes. Batches share the buffer; each is checked whole.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            let error = CodecError::TooLarge { kind: MessageV1::KIND, limit: MESSAGE_BYTES_MAX, value: bytes.len() };
            return Err(error.into());
        }
        let (body, rest) = codec::decode_prefix::<MessageV1>(bytes)?;
        let mut rest = bytes.slice_ref(rest);
        let message = match body {
            MessageV1::Fence { epoch, leader } => Self::Fence { epoch: epoch.into(), leader },
            MessageV1::Promise { epoch, log, suspect, committed } => Self::Promise {
                epoch: epoch.into(),
                log: log.try_into()?,
                suspect: suspect.map(Lsn::new),
                committed: Lsn::new(committed),
                votes: None,
            },
            MessageV1::PromiseOfDisks { epoch, log, suspect, committed, votes } => Self::Promise {
                epoch: epoch.into(),
                log: log.try_into()?,
                suspect: suspect.map(Lsn::new),
                committed: Lsn::new(committed),
                votes: Some(votes_of(votes)?),
            },
            MessageV1::Refused { epoch, promised } => Self::Refused { epoch: epoch.into(), promised: promised.into() },
            MessageV1::Append { epoch, prev, commit, batches } => Self::Append {
                epoch: epoch.into(),
                prev: prev.into(),
                commit: Lsn::new(commit),
                batches: take_batches(&mut rest, batches as usize)?,
            },
            MessageV1::Appended { epoch, durable } => {
                Self::Appended { epoch: epoch.into(), durable: Lsn::new(durable) }
            }
            MessageV1::Mismatch { epoch, prev, log } => {
                Self::Mismatch { epoch: epoch.into(), prev: Lsn::new(prev), log: log.try_into()? }
            }
            MessageV1::Fetch { epoch, after, bytes_max } => {
                Self::Fetch { epoch: epoch.into(), after: after.into(), bytes_max }
            }
            MessageV1::Fetched { epoch, after, batches } => Self::Fetched {
                epoch: epoch.into(),
                after: after.into(),
                batches: take_batches(&mut rest, batches as usize)?,
            },
            MessageV1::Confirm { epoch, round } => Self::Confirm { epoch: epoch.into(), round },
            MessageV1::Confirmed { epoch, round } => Self::Confirmed { epoch: epoch.into(), round },
            MessageV1::SnapshotOffer { epoch, snapshot } => {
                Self::SnapshotOffer { epoch: epoch.into(), snapshot: snapshot.try_into()? }
            }
            MessageV1::SnapshotWanted { epoch, snapshot, index } => {
                let snapshot = chunk_of(snapshot, index)?;
                Self::SnapshotWanted { epoch: epoch.into(), snapshot, index }
            }
            MessageV1::SnapshotChunk { epoch, snapshot, index, bytes, crc } => {
                let snapshot = chunk_of(snapshot, index)?;
                Self::SnapshotChunk { epoch: epoch.into(), snapshot, index, bytes: take_chunk(&mut rest, bytes, crc)? }
            }
            MessageV1::Damaged { epoch, ranges } => {
                let ranges =
                    ranges.into_iter().map(|(first, last)| (Lsn::new(first), Lsn::new(last))).collect::<Vec<_>>();
                check_ranges(&ranges)?;
                Self::Damaged { epoch: epoch.into(), ranges }
            }
            MessageV1::MendWanted { epoch, after, to, bytes_max } => {
                Self::MendWanted { epoch: epoch.into(), after: after.into(), to: to.into(), bytes_max }
            }
            MessageV1::Mend { epoch, after, batches } => Self::Mend {
                epoch: epoch.into(),
                after: after.into(),
                batches: take_batches(&mut rest, batches as usize)?,
            },
            MessageV1::ReadIndex { epoch, number } => Self::ReadIndex { epoch: epoch.into(), number },
            MessageV1::ReadIndexed { epoch, number, index } => {
                Self::ReadIndexed { epoch: epoch.into(), number, index: index.map(Lsn::new) }
            }
        };
        if !rest.is_empty() {
            return Err(MessageError::Batches { stated: 0, found: 1 });
        }
        Ok(message)
    }
}

/// Ranges in order, none of them empty, no more than may be named.
fn check_ranges(ranges: &[(Lsn, Lsn)]) -> Result<(), MessageError> {
    let in_order = ranges.is_sorted_by(|one, next| one.1 < next.0) && ranges.iter().all(|(first, last)| first <= last);
    if in_order && ranges.len() <= DAMAGED_RANGES_NAMED_MAX { Ok(()) } else { Err(MessageError::Damaged) }
}

/// The votes, if each node has one: the disks that an assignment may name are of those who vote and of those to fence.
fn votes_of(votes: Vec<(NodeId, DirectoryId)>) -> Result<BTreeMap<NodeId, DirectoryId>, MessageError> {
    let is_possible = votes.len() <= 2 * VOTERS_MAX && votes.is_sorted_by(|(a, _), (b, _)| a < b);
    if is_possible { Ok(votes.into_iter().collect()) } else { Err(MessageError::Votes) }
}

/// The bytes of a chunk, if they are what the message says of them.
fn take_chunk(rest: &mut Bytes, bytes: u32, crc: u32) -> Result<Bytes, MessageError> {
    // Not more than what follows: a length is believed only so far.
    let length = (bytes as usize).min(rest.len());
    let chunk = rest.split_to(length);
    let is_whole = length == bytes as usize && length <= SNAPSHOT_CHUNK_BYTES_MAX && crc32fast::hash(&chunk) == crc;
    if is_whole { Ok(chunk) } else { Err(MessageError::Chunk) }
}

/// The snapshot, if it has a chunk of this number.
fn chunk_of(snapshot: SnapshotV1, index: u32) -> Result<SnapshotId, MessageError> {
    let snapshot = SnapshotId::try_from(snapshot)?;
    if index < snapshot.chunks { Ok(snapshot) } else { Err(MessageError::Snapshot) }
}

/// The envelope's checksum is of the body alone: so the body has one of the bytes behind it.
fn encode_chunk(epoch: Epoch, snapshot: &SnapshotId, index: u32, bytes: &Bytes) -> Result<Bytes, MessageError> {
    if bytes.len() > SNAPSHOT_CHUNK_BYTES_MAX {
        return Err(MessageError::Chunk);
    }
    let head = codec::encode(&MessageV1::SnapshotChunk {
        epoch: epoch.into(),
        snapshot: snapshot.into(),
        index,
        bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        crc: crc32fast::hash(bytes),
    })?;
    let mut out = BytesMut::with_capacity(head.len().saturating_add(bytes.len()));
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
    Ok(out.freeze())
}

fn take_batches(rest: &mut Bytes, stated: usize) -> Result<Vec<Batch>, MessageError> {
    if stated > APPEND_BATCHES_MAX {
        return Err(MessageError::Batches { stated, found: 0 });
    }
    let mut batches = Vec::new();
    while batches.len() < stated {
        if rest.is_empty() {
            return Err(MessageError::Batches { stated, found: batches.len() });
        }
        let length = BatchHeader::decode(rest)?.batch_len();
        if length > rest.len() {
            return Err(MessageError::Batches { stated, found: batches.len() });
        }
        batches.push(Batch::decode(rest.split_to(length))?);
    }
    Ok(batches)
}

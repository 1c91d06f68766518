//! Control records: what the replication machinery itself writes into a shard's log.
//!
//! A control batch (`BatchKind::Control`) holds a block for each record: an envelope ([`super::codec`]) whose kind is a
//! [`ControlKind`]. Kinds that this release does not execute are reserved by number, so that no other
//! meaning is ever given to them; a log that holds one is refused by name.

use super::codec::{self, CodecError, Decode, ENVELOPE_BYTES, Encode, Enveloped};
use super::ids::{DirectoryId, NamespaceId, NodeId, ShardId};
use super::limits::{LEARNERS_MAX, VOTERS_MAX};
use bytes::Bytes;
use std::collections::BTreeMap;
use towline_wal::{Batch, BatchKind, Chain, Epoch, LogId, LogPosition, Lsn};

/// Numbers of control records. A released number keeps its meaning for ever.
///
/// ```
/// use towline::model::{ControlKind, ControlRecord};
/// // It is the first field of the record's envelope.
/// let bytes = ControlRecord::OpenSession { sessions_max: 100 }.encode()?;
/// let number = u16::from_le_bytes([bytes[0], bytes[1]]);
/// assert_eq!(ControlKind::from_number(number), Some(ControlKind::OpenSession));
/// assert_eq!(ControlKind::from_number(0x01ff), None, "nobody gave it a meaning");
/// # Ok::<(), towline::model::control_record::ControlRecordError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u16)]
pub enum ControlKind {
    /// The first record of an epoch: who leads, who votes, and what came before it.
    EpochStart = 0x0101,
    /// Reserved: the home stops taking writes before a handover.
    Seal = 0x0102,
    /// Reserved: the last record of a version; the home moves.
    Handover = 0x0103,
    /// Reserved: the last record of a log that becomes two.
    Split = 0x0104,
    /// Reserved: the last record of two logs that become one.
    Merge = 0x0105,
    /// Reserved: a record that can't be applied is passed over.
    Void = 0x0106,
    /// Reserved: every replica hashes its state at this LSN.
    Digest = 0x0107,
    /// Sessions and rejected records before an LSN are forgotten.
    Trim = 0x0108,
    /// A client's session begins.
    OpenSession = 0x0109,
    /// A client's session ends.
    CloseSession = 0x010A,
    /// Reserved: the leader's proposal of what time it is.
    Time = 0x010B,
    /// Reserved: the policy in force from here on.
    Policy = 0x010C,
}

impl ControlKind {
    const ALL: [Self; 12] = [
        Self::EpochStart,
        Self::Seal,
        Self::Handover,
        Self::Split,
        Self::Merge,
        Self::Void,
        Self::Digest,
        Self::Trim,
        Self::OpenSession,
        Self::CloseSession,
        Self::Time,
        Self::Policy,
    ];

    /// The kind with this number, if one has it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Which keys of which namespace a shard holds.
///
/// ```
/// use towline::model::{NamespaceId, ShardDescriptor, ShardId};
/// use towline::shard::ShardMap;
/// let holds = |shard: &ShardDescriptor, key: &[u8]| {
///     shard.start.as_slice() <= key && (shard.end.is_empty() || key < shard.end.as_slice())
/// };
/// let map = ShardMap::split(NamespaceId::new(1), &[b"m".to_vec()], &[1024, 2048].map(ShardId::new))?;
/// let [low, high] = map.shards() else { return Err("one split point makes two shards".into()) };
/// assert!(holds(low, b"apple") && !holds(high, b"apple"));
/// assert!(holds(high, b"m") && !holds(low, b"m"), "the end is the first key beyond");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShardDescriptor {
    /// The shard.
    pub shard: ShardId,
    /// Its namespace.
    pub namespace: NamespaceId,
    /// The first key, included; empty: from the beginning.
    pub start: Vec<u8>,
    /// The first key beyond; empty: to the end.
    pub end: Vec<u8>,
}

/// Who leads and who votes, from one epoch on: made by the control plane, *activated* once its leader proved it.
///
/// ```
/// # use towline::control::ConfigMaster;
/// # use towline::model::{ClusterId, Epoch, NamespaceId, NodeId, ShardDescriptor, ShardId};
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut master = ConfigMaster::new(ClusterId::new([7; 16]), shard, &[1, 2, 3].map(NodeId::new));
/// let assignment = master.assign(NodeId::new(2), Epoch::ZERO).ok_or("no epoch is left")?;
/// assignment.check()?;
/// assert!(assignment.epoch > Epoch::ZERO);
/// assert_eq!(assignment.majority(), 2, "of three voters");
/// assert_eq!(assignment.fence, assignment.voters, "as the voters never change with this master");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The shard's log (its lineage).
    pub log: LogId,
    /// The epoch: unique, and above every earlier one of this shard.
    pub epoch: Epoch,
    /// The leader, one of the voters.
    pub leader: NodeId,
    /// The voters, ascending.
    pub voters: Vec<NodeId>,
    /// The learners, ascending; none of them a voter.
    pub learners: Vec<NodeId>,
    /// The voters of the last *activated* assignment, but for those whose disks are lost: those whom the leader fences.
    pub fence: Vec<NodeId>,
    /// How many of those to fence must promise: a majority of that assignment's voters, the lost ones among them; or more.
    pub fence_quorum: usize,
    /// The disk of each node with a vote, here or among those to fence. What another disk of the node says counts for nothing:
    /// it does not know what was promised. Nor does a node that has none here.
    pub directories: BTreeMap<NodeId, DirectoryId>,
    /// Nothing says whose the votes were before: it may only begin if no other log holds more than its leader's.
    pub founding: bool,
    /// What the shard holds.
    pub shard: ShardDescriptor,
}

/// The record that opens an epoch. Its parent proves the ancestry: a number alone proves none.
///
/// ```
/// use towline::model::{ControlRecord, EpochStart, LogPosition};
/// # use towline::control::ConfigMaster;
/// # use towline::model::{ClusterId, Epoch, NamespaceId, NodeId, ShardDescriptor, ShardId};
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut master = ConfigMaster::new(ClusterId::new([7; 16]), shard, &[1, 2, 3].map(NodeId::new));
/// # let assignment = master.assign(NodeId::new(2), Epoch::ZERO).ok_or("no epoch is left")?;
/// // The first epoch of a log stands on the log's origin: a log of another lineage has another one.
/// let parent = LogPosition::origin(assignment.log);
/// let start = ControlRecord::EpochStart(EpochStart { assignment, parent });
/// let bytes = start.encode()?;
/// assert_eq!(ControlRecord::decode(&bytes)?, start);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochStart {
    /// The assignment that it makes visible in the log.
    pub assignment: Assignment,
    /// The end of the record before it.
    pub parent: LogPosition,
}

impl EpochStart {
    /// The one that a batch holds, if it does: it is alone in it.
    #[must_use]
    pub(crate) fn in_batch(batch: &Batch) -> Option<Self> {
        if batch.header().kind != BatchKind::Control {
            return None;
        }
        let raw = batch.blocks().next()?.decode(EpochStartV2::BYTES_MAX + ENVELOPE_BYTES).ok()?;
        match ControlRecord::decode(&raw) {
            Ok(ControlRecord::EpochStart(start)) => Some(start),
            _ => None,
        }
    }

    /// Whose disks have the votes in this log, in this version of its epochs. A restored backup begins a version of its own: what
    /// its log says of before is of the disks of another cluster.
    #[must_use]
    pub(crate) fn votes(&self, log: LogId, version: u64) -> Option<&BTreeMap<NodeId, DirectoryId>> {
        let Assignment { log: of, epoch, directories, .. } = &self.assignment;
        (*of == log && epoch.version == version && !directories.is_empty()).then_some(directories)
    }
}

/// A control record that this release executes.
///
/// ```
/// use towline::model::{ControlRecord, Epoch, LogId, LogPosition, Lsn};
/// use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// let trim = ControlRecord::Trim { sessions_before: Lsn::new(40), rejected_before: Lsn::new(50) };
/// // Each is a block of its own, of one record, in a control batch.
/// let (log, block) = (LogId::new(1), Block::encode(trim.encode()?, 1, Compression::Never));
/// let batch = BatchBuilder::new(log, BatchKind::Control, Epoch::new(1, 1), LogPosition::origin(log), 0)
///     .block(block)
///     .seal()?;
/// for block in batch.blocks() {
///     assert_eq!(ControlRecord::decode(&block.decode(1024)?)?, trim);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "one is read at a time, and none is kept")]
pub enum ControlRecord {
    /// See [`EpochStart`].
    EpochStart(EpochStart),
    /// A session begins in this shard: from here on its requests are taken, each once. Its id is made of this
    /// record's place ([`session_id`]), so that none is given twice: an id that expired stays unknown for ever.
    OpenSession {
        /// How many sessions the shard may know: the policy in force where the record was made.
        sessions_max: u64,
    },
    /// A session ends in this shard.
    CloseSession {
        /// Which one.
        session: u128,
    },
    /// What is too old is forgotten: on every replica alike, and never by itself.
    Trim {
        /// Sessions that were last used before this end.
        sessions_before: Lsn,
        /// Of records before this it is forgotten which of them were rejected: a feed can't read them any more.
        rejected_before: Lsn,
    },
}

/// Why an assignment can't be followed.
///
/// ```
/// use towline::model::control_record::AssignmentError;
/// # use towline::control::ConfigMaster;
/// # use towline::model::{ClusterId, Epoch, NamespaceId, NodeId, ShardDescriptor, ShardId};
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut master = ConfigMaster::new(ClusterId::new([7; 16]), shard, &[1, 2, 3].map(NodeId::new));
/// let mut assignment = master.assign(NodeId::new(9), Epoch::ZERO).ok_or("no epoch is left")?;
/// assert_eq!(assignment.check(), Err(AssignmentError::LeaderNotVoter(NodeId::new(9))));
/// assignment.leader = NodeId::new(1);
/// assert_eq!(assignment.check(), Ok(()));
/// assignment.learners.push(NodeId::new(3));
/// assert_eq!(assignment.check(), Err(AssignmentError::Order), "node 3 has a vote already");
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignmentError {
    /// No voters, or more than the limit.
    #[error("an assignment has {0} voters; 1 to {VOTERS_MAX} are possible")]
    Voters(usize),
    /// More learners than the limit.
    #[error("an assignment has {0} learners; {LEARNERS_MAX} are possible")]
    Learners(usize),
    /// The lists are not ascending, or a node is in both.
    #[error("voters and learners must be ascending, and no node both")]
    Order,
    /// The leader has no vote.
    #[error("the leader {0} is not among the voters")]
    LeaderNotVoter(NodeId),
    /// So many promises can't be had, or are too few to bind a majority of those to fence.
    #[error("an assignment that fences {fence} voters asks for {needed} promises")]
    FenceQuorum {
        /// How many are to promise.
        fence: usize,
        /// How many promises are asked for.
        needed: usize,
    },
    /// A disk is named of a node without a vote.
    #[error("a disk is named of {0}, which has no vote")]
    DirectoryOfNobody(NodeId),
}

impl Assignment {
    /// What every assignment satisfies, when it is made and when it is read.
    ///
    /// # Errors
    /// See [`AssignmentError`].
    pub fn check(&self) -> Result<(), AssignmentError> {
        if self.voters.is_empty() || self.voters.len() > VOTERS_MAX {
            return Err(AssignmentError::Voters(self.voters.len()));
        }
        if self.fence.len() > VOTERS_MAX {
            return Err(AssignmentError::Voters(self.fence.len()));
        }
        if self.learners.len() > LEARNERS_MAX {
            return Err(AssignmentError::Learners(self.learners.len()));
        }
        let ascending = |nodes: &[NodeId]| nodes.is_sorted_by(|a, b| a < b);
        let lists = [&self.voters, &self.learners, &self.fence];
        if !lists.into_iter().all(|list| ascending(list)) || self.learners.iter().any(|l| self.voters.contains(l)) {
            return Err(AssignmentError::Order);
        }
        if !self.voters.contains(&self.leader) {
            return Err(AssignmentError::LeaderNotVoter(self.leader));
        }
        let (fence, needed) = (self.fence.len(), self.fence_quorum);
        if needed > fence || needed < majority_of(fence) {
            return Err(AssignmentError::FenceQuorum { fence, needed });
        }
        let has_vote = |node: &&NodeId| self.voters.contains(node) || self.fence.contains(node);
        if let Some(nobody) = self.directories.keys().find(|node| !has_vote(node)) {
            return Err(AssignmentError::DirectoryOfNobody(*nobody));
        }
        Ok(())
    }

    /// How many of the voters are a majority.
    #[must_use]
    pub const fn majority(&self) -> usize {
        majority_of(self.voters.len())
    }
}

/// How many of `voters` are a majority: the one place that says so.
#[must_use]
pub const fn majority_of(voters: usize) -> usize {
    voters / 2 + 1
}

/// The layout of [`EpochStart`], version 1.
#[derive(Encode, Decode)]
struct EpochStartV1 {
    log: u128,
    version: u64,
    term: u32,
    leader: NodeId,
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
    fence: Vec<NodeId>,
    shard: ShardDescriptor,
    parent_version: u64,
    parent_term: u32,
    parent_lsn: u64,
    parent_chain: u64,
}

impl Enveloped for EpochStartV1 {
    const KIND: u16 = ControlKind::EpochStart as u16;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 16 * 1024;
}

/// The layout of [`EpochStart`], version 2: says whose votes they are.
#[derive(Encode, Decode)]
struct EpochStartV2 {
    before: EpochStartV1,
    fence_quorum: u32,
    founding: bool,
    /// Ascending by node.
    directories: Vec<(NodeId, DirectoryId)>,
}

impl Enveloped for EpochStartV2 {
    const KIND: u16 = ControlKind::EpochStart as u16;
    const VERSION: u16 = 2;
    const BYTES_MAX: usize = 16 * 1024;
}

/// The id of the session that a shard's `OpenSession` at this place began: xxh3, 128 bits, of the shard, the epoch (version,
/// term) and the LSN, little-endian. The same LSN of another history, on a node that was restored, is another place.
#[must_use]
pub fn session_id(shard: ShardId, epoch: Epoch, opened: Lsn) -> u128 {
    let mut place = [0; 28];
    place[..8].copy_from_slice(&shard.get().to_le_bytes());
    place[8..16].copy_from_slice(&epoch.version.to_le_bytes());
    place[16..20].copy_from_slice(&epoch.term.to_le_bytes());
    place[20..].copy_from_slice(&opened.get().to_le_bytes());
    xxhash_rust::xxh3::xxh3_128(&place)
}

/// The layout of [`ControlRecord::OpenSession`], version 1.
#[derive(Encode, Decode)]
struct OpenSessionV1 {
    sessions_max: u64,
}

impl Enveloped for OpenSessionV1 {
    const KIND: u16 = ControlKind::OpenSession as u16;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 8;
}

/// The layout of [`ControlRecord::CloseSession`], version 1.
#[derive(Encode, Decode)]
struct CloseSessionV1 {
    session: u128,
}

impl Enveloped for CloseSessionV1 {
    const KIND: u16 = ControlKind::CloseSession as u16;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 16;
}

/// The layout of [`ControlRecord::Trim`], version 1.
#[derive(Encode, Decode)]
struct TrimV1 {
    sessions_before: u64,
    rejected_before: u64,
}

impl Enveloped for TrimV1 {
    const KIND: u16 = ControlKind::Trim as u16;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 16;
}

/// Why bytes are not a control record that this release executes.
///
/// ```
/// use towline::model::control_record::ControlRecordError;
/// use towline::model::{ControlKind, ControlRecord};
/// let mut bytes = ControlRecord::CloseSession { session: 7 }.encode()?.to_vec();
/// bytes[..2].copy_from_slice(&0x0104_u16.to_le_bytes()); // written by a later release
/// let refused = ControlRecord::decode(&bytes);
/// assert_eq!(refused, Err(ControlRecordError::Reserved(ControlKind::Split)), "refused by name, never passed over");
/// # Ok::<(), ControlRecordError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlRecordError {
    /// The envelope or its body.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A kind that is known by name, and executed by later releases only.
    #[error("control record {0:?} is reserved: this release does not execute it")]
    Reserved(ControlKind),
    /// A kind that nobody has given a meaning.
    #[error("control record kind {0:#06x} is not known here")]
    Unknown(u16),
    /// The assignment in it is not one.
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
}

impl ControlRecord {
    /// Its bytes: an envelope.
    ///
    /// # Errors
    /// The assignment in it is not legal.
    pub fn encode(&self) -> Result<Bytes, ControlRecordError> {
        match self {
            Self::EpochStart(EpochStart { assignment, parent }) => {
                assignment.check()?;
                let assignment = assignment.clone();
                let before = EpochStartV1 {
                    log: assignment.log.as_u128(),
                    version: assignment.epoch.version,
                    term: assignment.epoch.term,
                    leader: assignment.leader,
                    voters: assignment.voters,
                    learners: assignment.learners,
                    fence: assignment.fence,
                    shard: assignment.shard,
                    parent_version: parent.epoch.version,
                    parent_term: parent.epoch.term,
                    parent_lsn: parent.lsn.get(),
                    parent_chain: parent.chain.get(),
                };
                // It was checked: at most as many as there are to fence.
                let fence_quorum = u32::try_from(assignment.fence_quorum).unwrap_or(u32::MAX);
                let directories = assignment.directories.into_iter().collect();
                let founding = assignment.founding;
                Ok(codec::encode(&EpochStartV2 { before, fence_quorum, founding, directories })?)
            }
            Self::OpenSession { sessions_max } => Ok(codec::encode(&OpenSessionV1 { sessions_max: *sessions_max })?),
            Self::CloseSession { session } => Ok(codec::encode(&CloseSessionV1 { session: *session })?),
            Self::Trim { sessions_before, rejected_before } => {
                let (sessions_before, rejected_before) = (sessions_before.get(), rejected_before.get());
                Ok(codec::encode(&TrimV1 { sessions_before, rejected_before })?)
            }
        }
    }

    /// The control record in these bytes.
    ///
    /// # Errors
    /// Not an envelope, a reserved or unknown kind, or a body that is not legal.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlRecordError> {
        let number = bytes.first_chunk::<2>().map_or(0, |field| u16::from_le_bytes(*field));
        match ControlKind::from_number(number) {
            Some(ControlKind::EpochStart) => Self::epoch_start(bytes),
            Some(ControlKind::OpenSession) => {
                let OpenSessionV1 { sessions_max } = codec::decode(bytes)?;
                Ok(Self::OpenSession { sessions_max })
            }
            Some(ControlKind::CloseSession) => {
                let CloseSessionV1 { session } = codec::decode(bytes)?;
                Ok(Self::CloseSession { session })
            }
            Some(ControlKind::Trim) => {
                let TrimV1 { sessions_before, rejected_before } = codec::decode(bytes)?;
                let (sessions_before, rejected_before) = (Lsn::new(sessions_before), Lsn::new(rejected_before));
                Ok(Self::Trim { sessions_before, rejected_before })
            }
            Some(reserved) => Err(ControlRecordError::Reserved(reserved)),
            None => Err(ControlRecordError::Unknown(number)),
        }
    }

    fn epoch_start(bytes: &[u8]) -> Result<Self, ControlRecordError> {
        let (v1, fence_quorum, founding, directories) = match codec::decode::<EpochStartV2>(bytes) {
            // Before votes were disks': nothing is known of them.
            Err(CodecError::Version { found: EpochStartV1::VERSION, .. }) => {
                let v1: EpochStartV1 = codec::decode(bytes)?;
                let fence_quorum = majority_of(v1.fence.len()).min(v1.fence.len());
                (v1, fence_quorum, false, BTreeMap::new())
            }
            v2 => {
                let EpochStartV2 { before, fence_quorum, founding, directories } = v2?;
                if !directories.is_sorted_by(|(a, _), (b, _)| a < b) {
                    return Err(AssignmentError::Order.into());
                }
                (before, fence_quorum as usize, founding, directories.into_iter().collect())
            }
        };
        let assignment = Assignment {
            log: LogId::new(v1.log),
            epoch: Epoch { version: v1.version, term: v1.term },
            leader: v1.leader,
            voters: v1.voters,
            learners: v1.learners,
            fence: v1.fence,
            fence_quorum,
            directories,
            founding,
            shard: v1.shard,
        };
        assignment.check()?;
        let parent = LogPosition {
            epoch: Epoch { version: v1.parent_version, term: v1.parent_term },
            lsn: Lsn::new(v1.parent_lsn),
            chain: Chain::new(v1.parent_chain),
        };
        Ok(Self::EpochStart(EpochStart { assignment, parent }))
    }
}

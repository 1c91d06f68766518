//! The durable word of a voter: what it will not accept any more (I3).

use crate::model::codec::{self, CodecError, Decode, Encode, Enveloped};
use crate::model::{DirectoryId, Epoch, NodeId};
use bytes::Bytes;

/// No batch of an epoch below this one is accepted any more, and of this one only from this leader.
///
/// The leader is part of the promise: should two leaders ever claim one epoch (two configuration files that
/// disagree), a majority binds itself to one of them only. So is its disk: a node that lost it knows no more which epochs it has begun,
/// and an epoch has one history (I2).
///
/// ```
/// use towline::model::{DirectoryId, Epoch, NodeId};
/// use towline::replica::{Promise, Verdict};
/// let (one, two) = (NodeId::new(1), NodeId::new(2));
/// let (disk, other) = (Some(DirectoryId::new([1; 16])), Some(DirectoryId::new([2; 16])));
/// let promise = Promise { epoch: Epoch::new(1024, 3), leader: Some(one), disk };
/// // After a crash it binds as before: it is the log's hard state.
/// let promise = Promise::decode(&promise.encode()?)?;
/// assert_eq!(promise.verdict(Epoch::new(1024, 3), one, disk), Verdict::Kept);
/// assert_eq!(promise.verdict(Epoch::new(1024, 3), two, disk), Verdict::Refused, "one epoch, one leader");
/// assert_eq!(promise.verdict(Epoch::new(1024, 3), one, other), Verdict::Refused, "one epoch, one disk of it");
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The epoch.
    pub epoch: Epoch,
    /// Its leader; none before the first promise.
    pub leader: Option<NodeId>,
    /// The leader's disk, where that is known: a promise of an older release does not say, and then any is taken for the one.
    pub disk: Option<DirectoryId>,
}

#[derive(Encode, Decode)]
struct PromiseV1 {
    version: u64,
    term: u32,
    leader: Option<NodeId>,
}

impl Enveloped for PromiseV1 {
    const KIND: u16 = 0x0401;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64;
}

/// With the leader's disk.
#[derive(Encode, Decode)]
struct PromiseV2 {
    before: PromiseV1,
    disk: DirectoryId,
}

impl Enveloped for PromiseV2 {
    const KIND: u16 = PromiseV1::KIND;
    const VERSION: u16 = 2;
    const BYTES_MAX: usize = PromiseV1::BYTES_MAX;
}

impl Promise {
    /// Nothing promised yet.
    pub const NONE: Self = Self { epoch: Epoch::ZERO, leader: None, disk: None };

    /// Its bytes, as hard state of the log.
    ///
    /// # Errors
    /// None in practice: the layout has a fixed size below its limit.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        let v1 = PromiseV1 { version: self.epoch.version, term: self.epoch.term, leader: self.leader };
        match self.disk {
            Some(disk) => codec::encode(&PromiseV2 { before: v1, disk }),
            None => codec::encode(&v1),
        }
    }

    /// The promise in these bytes.
    ///
    /// # Errors
    /// The bytes are not a promise of a version known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (v1, disk) = match codec::decode::<PromiseV2>(bytes) {
            Err(CodecError::Version { found: PromiseV1::VERSION, .. }) => (codec::decode::<PromiseV1>(bytes)?, None),
            v2 => v2.map(|v2| (v2.before, Some(v2.disk)))?,
        };
        Ok(Self { epoch: Epoch { version: v1.version, term: v1.term }, leader: v1.leader, disk })
    }

    /// What this promise says to a leader of an epoch, which comes with this disk, as far as that is known.
    #[must_use]
    pub fn verdict(&self, epoch: Epoch, leader: NodeId, disk: Option<DirectoryId>) -> Verdict {
        let is_another = self.disk.zip(disk).is_some_and(|(promised, disk)| promised != disk);
        if epoch < self.epoch || (epoch == self.epoch && (self.leader != Some(leader) || is_another)) {
            Verdict::Refused
        } else if epoch == self.epoch {
            Verdict::Kept
        } else {
            Verdict::New
        }
    }
}

/// How an epoch and its leader stand to a promise.
///
/// ```
/// use towline::model::{Epoch, NodeId};
/// use towline::replica::{Promise, Verdict};
/// let leader = NodeId::new(1);
/// let promise = Promise { epoch: Epoch::new(1024, 3), leader: Some(leader), disk: None };
/// let verdicts = [2, 3, 4].map(|term| promise.verdict(Epoch::new(1024, term), leader, None));
/// assert_eq!(verdicts, [Verdict::Refused, Verdict::Kept, Verdict::New]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Older, or another leader's: not accepted.
    Refused,
    /// The one promised.
    Kept,
    /// Newer: a promise may be made.
    New,
}

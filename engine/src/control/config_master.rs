//! The master of a configuration file.

use crate::model::{Assignment, ClusterId, Epoch, LogId, NodeId, ShardDescriptor, ShardId};

/// The version of a shard's first home: counter 1, cluster ordinal 0 (`version = counter * 1024 + ordinal`).
const FIRST_VERSION: u64 = 1024;

/// Assigns one shard to a fixed set of voters; decisions only, no I/O.
///
/// A restart of the leader is a new term: it asks for an assignment newer than what it promised itself, and
/// hears of newer promises by its peers' refusals, so that it ends above the highest term that any majority
/// promised. Two files that name different leaders can't both win one epoch, as a promise binds a voter to one
/// leader; but they outbid one another for ever, safely and at a slow pace, until the files are mended.
///
/// ```
/// use towline::control::ConfigMaster;
/// use towline::model::{Epoch, NamespaceId, NodeId, ShardDescriptor, ShardId, ClusterId};
/// let shard = ShardDescriptor {
///     shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![],
/// };
/// let voters = [1, 2, 3].map(NodeId::new);
/// let mut master = ConfigMaster::new(ClusterId::new([7; 16]), shard, &voters);
/// let first = master.assign(NodeId::new(1), Epoch::ZERO).ok_or("no epoch is left")?;
/// let second = master.assign(NodeId::new(1), first.epoch).ok_or("no epoch is left")?;
/// assert!(second.epoch > first.epoch);
/// assert!(!master.accept_activation(first.epoch), "a newer assignment was made");
/// assert!(master.accept_activation(second.epoch));
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConfigMaster {
    log: LogId,
    shard: ShardDescriptor,
    voters: Vec<NodeId>,
    newest: Epoch,
}

impl ConfigMaster {
    /// The master of a shard with these voters.
    #[must_use]
    pub fn new(cluster: ClusterId, shard: ShardDescriptor, voters: &[NodeId]) -> Self {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        voters.dedup();
        Self { log: Self::lineage(cluster, shard.shard), shard, voters, newest: Epoch::ZERO }
    }

    /// The lineage of a shard's log. Every node computes the same from its configuration; a control plane mints
    /// one at random instead.
    #[must_use]
    pub fn lineage(cluster: ClusterId, shard: ShardId) -> LogId {
        let mut name = [0; 24];
        let (uuid, number) = name.split_at_mut(16);
        uuid.copy_from_slice(cluster.as_bytes());
        number.copy_from_slice(&shard.get().to_le_bytes());
        LogId::new(xxhash_rust::xxh3::xxh3_128(&name))
    }

    /// A new assignment to `leader`, newer than `promised` and than every earlier one of this master; none if there
    /// is no newer epoch.
    ///
    /// The voters to fence are those of the last activated assignment: with a fixed set, always the same.
    pub fn assign(&mut self, leader: NodeId, promised: Epoch) -> Option<Assignment> {
        let highest = promised.max(self.newest).max(Epoch { version: FIRST_VERSION, term: 0 });
        self.newest = Epoch { version: highest.version, term: highest.term.checked_add(1)? };
        Some(Assignment {
            log: self.log,
            epoch: self.newest,
            leader,
            voters: self.voters.clone(),
            learners: Vec::new(),
            fence: self.voters.clone(),
            shard: self.shard.clone(),
        })
    }

    /// A peer promised this epoch: the next assignment is newer.
    pub fn note_promised(&mut self, promised: Epoch) {
        self.newest = self.newest.max(promised);
    }

    /// Whether the activation of this epoch is accepted: only while it is the newest assigned (I1, I3).
    #[must_use]
    pub fn accept_activation(&self, epoch: Epoch) -> bool {
        epoch == self.newest
    }

    /// The shard's log.
    #[must_use]
    pub const fn log(&self) -> LogId {
        self.log
    }

    /// The voters, ascending.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }
}

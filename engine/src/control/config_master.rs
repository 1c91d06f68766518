//! The master of a configuration file.

use super::DEFAULT_SHARD;
use crate::model::control_record::majority_of;
use crate::model::mutant::{Mutant, planted};
use crate::model::{Assignment, ClusterId, DirectoryId, Epoch, LogId, NodeId, ShardDescriptor, ShardId};
use std::collections::BTreeMap;

/// The version of a shard's first home: counter 1, cluster ordinal 0 (`version = counter * 1024 + ordinal`).
const FIRST_VERSION: u64 = 1024;
/// Terms of one round: as many as a leader can restart in it, once a second for twelve days.
const ROUND_TERMS: u32 = 1 << 20;

/// Assigns one shard to a fixed set of voters; decisions only, no I/O.
///
/// Every node has one, for the leadership of that node. What keeps them apart is the *round*, 2^20 terms:
///
/// - The first round is of the leader that the configuration file names. Each later one is of one voter, in turn (the
///   round's number modulo the number of voters), so that no two nodes ever assign themselves the same epoch.
/// - A restart is the next term of the same round. It never begins another one: a leader that was superseded can restart
///   as often as it likes without coming above whoever superseded it.
/// - An assignment by hand begins the next round of its node above everything that the node knows.
///
/// A node that knew too little hears of newer promises by its peers' refusals. If they are of its own round, its disk has
/// forgotten them, and it renews above them; otherwise another one leads. Two files that name different leaders can't both win an
/// epoch of the first round, as a promise binds a voter to one leader.
///
/// A vote is a disk's. Whose disks have the votes, the last `EpochStart` in a node's own log says
/// ([`ConfigMaster::note_votes`]), and an assignment keeps to that: a majority of those disks is fenced. Whether a newer log says
/// otherwise, the leader hears with the promises, and goes by that. A voter that came with another disk ([`ConfigMaster::meet`]) has
/// its vote again in two steps ([`ConfigMaster::readmit`]), each an epoch of its own. Where no log says so yet (*founding*), as when a
/// cluster begins, an assignment names the disks that are here, and takes the promise of every voter; and who begins must have as
/// good a log as any other: an empty one takes over nobody's.
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
/// assert_eq!(first.fence_quorum, 3, "a cluster begins with all of its nodes");
/// master.note_votes(Some(voters.map(|voter| (voter, Default::default())).into()));
/// let third = master.assign(NodeId::new(1), second.epoch).ok_or("no epoch is left")?;
/// assert_eq!(third.fence_quorum, 2, "a majority of the disks that have the votes");
///
/// // By hand, node 2 begins a round: no restart of node 1 comes above it.
/// let mut other = master.clone();
/// let by_hand = other.assign_by_hand(NodeId::new(2), second.epoch).ok_or("no epoch is left")?;
/// let restarts = std::iter::from_fn(|| master.assign(NodeId::new(1), second.epoch)).take(1000);
/// assert!(restarts.last().is_some_and(|last| last.epoch < by_hand.epoch));
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConfigMaster {
    log: LogId,
    shard: ShardDescriptor,
    voters: Vec<NodeId>,
    newest: Epoch,
    /// The disks that have the votes, if it is known: of a majority of the voters, or more.
    votes: Option<BTreeMap<NodeId, DirectoryId>>,
    /// The disks with which voters came.
    present: BTreeMap<NodeId, DirectoryId>,
}

impl ConfigMaster {
    /// The master of a shard with these voters.
    #[must_use]
    pub fn new(cluster: ClusterId, shard: ShardDescriptor, voters: &[NodeId]) -> Self {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        voters.dedup();
        let log = Self::lineage(cluster, shard.shard);
        Self { log, shard, voters, newest: Epoch::ZERO, votes: None, present: BTreeMap::new() }
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

    /// What two nodes call a shard's log when they speak of it: with what each one's configuration says that the shard is, so that
    /// nodes whose configurations differ do not take one another's keys for their own. Of the default namespace there is nothing
    /// to say.
    #[must_use]
    pub fn named_log(log: LogId, namespace: &str, shard: &ShardDescriptor) -> LogId {
        if shard.shard == DEFAULT_SHARD {
            return log;
        }
        let mut told = log.as_u128().to_le_bytes().to_vec();
        told.extend(shard.namespace.get().to_le_bytes());
        for part in [namespace.as_bytes(), &shard.start, &shard.end] {
            told.extend((part.len() as u64).to_le_bytes());
            told.extend(part);
        }
        LogId::new(xxhash_rust::xxh3::xxh3_128(&told))
    }

    /// Whether a node assigns itself when it starts: the one to whom its own durable promise is, and before there is any promise the
    /// one that the configuration names as the first. Who votes alone always does.
    #[must_use]
    pub fn leads_at_start(&self, node: NodeId, first: NodeId, promised_to: Option<NodeId>) -> bool {
        self.is_alone() || promised_to.unwrap_or(first) == node
    }

    /// A new assignment to `leader`, which promised this itself: the next term of the same round, above all that was noted. None if the
    /// round is over, is not the newest, or is another node's.
    ///
    /// The voters to fence are those of the last activated assignment: with a fixed set, always the same.
    pub fn assign(&mut self, leader: NodeId, promised: Epoch) -> Option<Assignment> {
        let highest = self.highest(promised);
        // Nobody promises the last of all: no one could lead after it.
        let term = highest.term.checked_add(1).filter(|term| *term < u32::MAX)?;
        let epoch = Epoch { version: highest.version, term };
        let stays = round(epoch) == round(promised.max(FIRST)) && self.is_round_of(leader, epoch);
        // Of one voter nobody else can lead.
        (stays || self.is_alone()).then(|| self.issue(leader, epoch))
    }

    /// As [`ConfigMaster::assign`], to a leader that serves by the votes that were noted; and the next step is done for each voter that
    /// is here with another disk: the one that is not here has its vote no more; and if none has it, the one that is here.
    ///
    /// Not both at once (I1): of two sets of disks that follow one another, each majority of the one shares a disk with each of the
    /// other only if they name no voter's disk differently.
    pub fn readmit(&mut self, leader: NodeId, promised: Epoch) -> Option<Assignment> {
        let mut assignment = self.assign(leader, promised)?;
        for voter in &self.voters {
            let Some(here) = self.present.get(voter) else { continue };
            match assignment.directories.get(voter) {
                Some(votes) if votes == here => {}
                Some(_) if !planted(Mutant::SwapVotes) => drop(assignment.directories.remove(voter)),
                _ => drop(assignment.directories.insert(*voter, *here)),
            }
        }
        Some(assignment)
    }

    /// A voter came, with this disk.
    pub fn meet(&mut self, node: NodeId, directory: DirectoryId) {
        self.present.insert(node, directory);
    }

    /// The disks that have the votes, as the last `EpochStart` of the own log says; none where there is no such record, or it names
    /// no majority.
    pub fn note_votes(&mut self, votes: Option<BTreeMap<NodeId, DirectoryId>>) {
        let names = |votes: &BTreeMap<_, _>| self.voters.iter().filter(|voter| votes.contains_key(*voter)).count();
        let needed = majority_of(self.voters.len());
        // Who votes alone has nobody to ask, and nobody else could lead: also not with another disk.
        self.votes = votes.filter(|votes| names(votes) >= needed).filter(|_| !self.is_alone());
    }

    /// Whether it is known whose disks have the votes.
    #[must_use]
    pub const fn knows_votes(&self) -> bool {
        self.votes.is_some()
    }

    /// How many voters an assignment takes, of those whose word [counts](Self::counts).
    #[must_use]
    pub fn needed(&self) -> usize {
        let all = self.voters.len();
        if self.votes.is_some() { majority_of(all) } else { all }
    }

    /// Whether the word of a voter that came with this disk counts.
    #[must_use]
    pub fn counts(&self, voter: NodeId, directory: DirectoryId) -> bool {
        self.votes.as_ref().is_none_or(|votes| votes.get(&voter) == Some(&directory))
    }

    /// A new assignment to `leader` by hand: the next round that is its own, above `promised` and all that was noted. None if there is
    /// no such round any more, or `leader` does not vote.
    pub fn assign_by_hand(&mut self, leader: NodeId, promised: Epoch) -> Option<Assignment> {
        let highest = self.highest(promised);
        let next = highest.term / ROUND_TERMS + 1;
        let begins = |round: u32| Some(Epoch { version: highest.version, term: round.checked_mul(ROUND_TERMS)? });
        let mut rounds = (next..).take(self.voters.len()).map_while(begins);
        let own = rounds.find(|epoch| self.is_round_of(leader, *epoch))?;
        Some(self.issue(leader, own))
    }

    /// Whether a promise that was found newer than the last assignment is of the same round, and so of the same leader.
    #[must_use]
    pub fn is_of_the_same_round(&self, promised: Epoch) -> bool {
        round(promised) == round(self.newest)
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

    fn is_alone(&self) -> bool {
        self.voters.len() == 1
    }

    /// Whether the round of this epoch is this node's: each voter's in its turn. Who has the first one, the file says.
    fn is_round_of(&self, node: NodeId, epoch: Epoch) -> bool {
        let turn = (epoch.term / ROUND_TERMS) as usize;
        turn == 0 || self.voters.get(turn % self.voters.len()) == Some(&node)
    }

    fn highest(&self, promised: Epoch) -> Epoch {
        promised.max(self.newest).max(FIRST)
    }

    fn issue(&mut self, leader: NodeId, epoch: Epoch) -> Assignment {
        self.newest = epoch;
        let directories = self.votes.as_ref().unwrap_or(&self.present);
        let of_voters = directories.iter().filter(|(node, _)| self.voters.contains(node));
        Assignment {
            log: self.log,
            epoch,
            leader,
            voters: self.voters.clone(),
            learners: Vec::new(),
            fence: self.voters.clone(),
            fence_quorum: self.needed(),
            directories: of_voters.map(|(node, directory)| (*node, *directory)).collect(),
            founding: self.votes.is_none() && !self.is_alone(),
            shard: self.shard.clone(),
        }
    }
}

/// Below every epoch that is assigned.
const FIRST: Epoch = Epoch { version: FIRST_VERSION, term: 0 };

const fn round(epoch: Epoch) -> (u64, u32) {
    (epoch.version, epoch.term / ROUND_TERMS)
}

#[cfg(test)]
#[path = "config_master_test.rs"]
mod tests;

//! The scripted control plane: it decides who leads and who votes, and keeps its word whatever the script does.
//!
//! What the script draws may be as untimely as it likes; what is *assigned* obeys the protocol, here: epochs are
//! unique and rise, the leader is a voter, the voters to fence are those of the last activated assignment, and an
//! activation is accepted only while its assignment is the newest.

use crate::control::ConfigMaster;
use crate::model::control_record::majority_of;
use crate::model::{Assignment, ClusterId, DirectoryId, Epoch, LogId, NodeId, ShardDescriptor};
use std::collections::BTreeMap;

/// The version of the shard's only home.
const VERSION: u64 = 1024;

#[derive(Debug)]
pub(super) struct ScriptedMaster {
    log: LogId,
    shard: ShardDescriptor,
    /// Whom the first assignment fences.
    founders: Vec<NodeId>,
    /// The disk with which each node last came.
    directories: BTreeMap<NodeId, DirectoryId>,
    newest: Option<Assignment>,
    activated: Option<Assignment>,
    /// Every assignment whose activation was accepted.
    in_force: BTreeMap<Epoch, Assignment>,
}

/// What the control plane answers to a report of activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was the newest assignment, and is the activated one from here on.
    Accepted,
    /// It is the activated one already: the answer was lost.
    AcceptedBefore,
    /// A newer assignment was made, or this one never was.
    Refused,
}

impl ScriptedMaster {
    pub(super) fn new(cluster: ClusterId, shard: ShardDescriptor, founders: Vec<NodeId>) -> Self {
        let log = ConfigMaster::lineage(cluster, shard.shard);
        Self {
            log,
            shard,
            founders: ascending(founders),
            directories: BTreeMap::new(),
            newest: None,
            activated: None,
            in_force: BTreeMap::new(),
        }
    }

    /// A node starts, with this disk: its word counts in assignments from here on.
    pub(super) fn register(&mut self, node: NodeId, directory: DirectoryId) {
        self.directories.insert(node, directory);
    }

    /// Whether a voter of the newest assignment came with another disk since.
    pub(super) fn lacks_a_disk(&self) -> bool {
        let newest = self.newest.as_ref();
        newest.is_some_and(|newest| newest.voters.iter().any(|voter| !self.is_itself(newest, *voter)))
    }

    fn is_itself(&self, assignment: &Assignment, voter: NodeId) -> bool {
        assignment.directories.get(&voter) == self.directories.get(&voter)
    }

    /// Whom the next assignment fences, and how many of them it takes. A lost disk promises nothing any more, and the majority is
    /// still one of all that had a vote.
    fn to_fence(&self) -> (Vec<NodeId>, usize) {
        let Some(activated) = &self.activated else { return (self.founders.clone(), majority_of(self.founders.len())) };
        let there = activated.voters.iter().copied().filter(|voter| self.is_itself(activated, *voter));
        (there.collect(), activated.majority())
    }

    /// A new assignment, newer than every earlier one.
    pub(super) fn assign(&mut self, leader: NodeId, voters: Vec<NodeId>, learners: Vec<NodeId>) -> Assignment {
        let term = self.newest.as_ref().map_or(0, |newest| newest.epoch.term) + 1;
        let voters = ascending(voters);
        let mut learners = ascending(learners);
        learners.retain(|learner| !voters.contains(learner));
        let (fence, fence_quorum) = self.to_fence();
        let has_vote = |node: &NodeId| voters.contains(node) || fence.contains(node);
        let directories = self.directories.iter().filter(|(node, _)| has_vote(node)).map(|(n, d)| (*n, *d)).collect();
        let assignment = Assignment {
            log: self.log,
            epoch: Epoch { version: VERSION, term },
            leader,
            voters,
            learners,
            fence,
            fence_quorum,
            directories,
            founding: false,
            shard: self.shard.clone(),
        };
        assert_eq!(assignment.check(), Ok(()), "the script keeps to what may be assigned");
        self.newest = Some(assignment.clone());
        assignment
    }

    /// A leader reports that its epoch's start is durable on a majority (I1, I3).
    pub(super) fn hear_activated(&mut self, epoch: Epoch) -> Answer {
        let Some(newest) = self.newest.as_ref().filter(|newest| newest.epoch == epoch) else { return Answer::Refused };
        if self.in_force.insert(epoch, newest.clone()).is_some() {
            return Answer::AcceptedBefore;
        }
        self.activated = Some(newest.clone());
        Answer::Accepted
    }

    /// Whether a replica may know this epoch: the master made it.
    pub(super) fn has_made(&self, epoch: Epoch) -> bool {
        self.newest.as_ref().is_some_and(|newest| epoch <= newest.epoch)
    }

    /// The assignment of an epoch, if its activation was accepted.
    pub(super) fn in_force(&self, epoch: Epoch) -> Option<&Assignment> {
        self.in_force.get(&epoch)
    }

    pub(super) const fn newest(&self) -> Option<&Assignment> {
        self.newest.as_ref()
    }

    pub(super) const fn activated(&self) -> Option<&Assignment> {
        self.activated.as_ref()
    }

    /// Whether nothing newer than the activated assignment was made.
    pub(super) fn is_settled(&self) -> bool {
        self.activated.is_some() && self.activated.as_ref().map(|a| a.epoch) == self.newest.as_ref().map(|n| n.epoch)
    }

    /// The voters of the newest assignment; before the first, the founders.
    pub(super) fn newest_voters(&self) -> &[NodeId] {
        self.newest.as_ref().map_or(&self.founders, |newest| &newest.voters)
    }

    /// The voters whom the next assignment fences.
    pub(super) fn fence(&self) -> &[NodeId] {
        self.activated.as_ref().map_or(&self.founders, |activated| &activated.voters)
    }

    pub(super) fn learners(&self) -> &[NodeId] {
        self.newest.as_ref().map_or(&[], |newest| &newest.learners)
    }

    pub(super) const fn log(&self) -> LogId {
        self.log
    }
}

fn ascending(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::world::shard;

    fn nodes<const N: usize>(ids: [u64; N]) -> Vec<NodeId> {
        ids.map(NodeId::new).to_vec()
    }

    fn master() -> ScriptedMaster {
        ScriptedMaster::new(ClusterId::new([1; 16]), shard(), nodes([3, 1, 2]))
    }

    #[test]
    fn i3_the_fence_is_that_of_the_last_activated_assignment_however_many_were_made_since() {
        let mut master = master();
        let first = master.assign(NodeId::new(1), nodes([1, 2, 3]), vec![]);
        assert_eq!(first.fence, nodes([1, 2, 3]), "before the first, the founders");
        let second = master.assign(NodeId::new(4), nodes([4, 5]), vec![]);
        assert_eq!(second.fence, nodes([1, 2, 3]), "the first was never activated");
        let second = master.assign(NodeId::new(5), nodes([4, 5]), vec![]);
        assert_eq!(second.fence, nodes([1, 2, 3]), "and neither was the second");
        assert_eq!(master.hear_activated(second.epoch), Answer::Accepted);
        assert!(master.is_settled());
        let third = master.assign(NodeId::new(1), nodes([1, 4, 5]), nodes([2, 4]));
        assert_eq!((third.fence, third.learners), (nodes([4, 5]), nodes([2])), "a voter is no learner");
        assert!(!master.is_settled());
    }

    #[test]
    fn i1_a_lost_disk_promises_nothing_and_the_majority_is_one_of_all_that_had_a_vote() {
        let mut master = master();
        let disk = |number: u8| DirectoryId::new([number; 16]);
        (1..6).for_each(|node| master.register(NodeId::new(node), disk(1)));
        let first = master.assign(NodeId::new(1), nodes([1, 2, 3, 4]), vec![]);
        assert_eq!(first.directories, (1..5).map(|node| (NodeId::new(node), disk(1))).collect());
        assert_eq!(master.hear_activated(first.epoch), Answer::Accepted);
        assert!(!master.lacks_a_disk());
        master.register(NodeId::new(4), disk(2));
        assert!(master.lacks_a_disk());
        let second = master.assign(NodeId::new(1), nodes([1, 2, 3, 4]), vec![]);
        assert_eq!((second.fence, second.fence_quorum), (nodes([1, 2, 3]), 3), "of four, not of three");
        assert_eq!(second.directories[&NodeId::new(4)], disk(2));
        assert!(!master.lacks_a_disk());
    }

    #[test]
    fn i3_an_activation_is_accepted_only_while_it_is_the_newest_and_as_often_as_it_is_asked() {
        let mut master = master();
        let first = master.assign(NodeId::new(1), nodes([1, 2, 3]), vec![]);
        assert_eq!(master.hear_activated(first.epoch), Answer::Accepted);
        assert_eq!(master.hear_activated(first.epoch), Answer::AcceptedBefore);
        let second = master.assign(NodeId::new(2), nodes([1, 2, 3]), vec![]);
        assert!(second.epoch > first.epoch);
        assert_eq!(master.hear_activated(first.epoch), Answer::Refused);
        assert_eq!(master.in_force(second.epoch), None, "not yet");
        assert_eq!(master.in_force(first.epoch), Some(&first), "what it committed, counts");
        assert!(master.has_made(second.epoch) && !master.has_made(Epoch::new(VERSION, 3)));
    }
}

//! The scripted control plane: it decides who leads and who votes, and keeps its word whatever the script does.
//!
//! What the script draws may be as untimely as it likes; what is *assigned* obeys the protocol, here: epochs are
//! unique and rise, the leader is a voter, the voters to fence are those of the last activated assignment, and an
//! activation is accepted only while its assignment is the newest.

use crate::control::ConfigMaster;
use crate::model::{Assignment, ClusterId, Epoch, LogId, NodeId, ShardDescriptor};
use std::collections::BTreeMap;

/// The version of the shard's only home.
const VERSION: u64 = 1024;

#[derive(Debug)]
pub(super) struct ScriptedMaster {
    log: LogId,
    shard: ShardDescriptor,
    /// Whom the first assignment fences.
    founders: Vec<NodeId>,
    newest: Option<Assignment>,
    activated: Option<Assignment>,
    /// The voters of every epoch whose activation was accepted.
    in_force: BTreeMap<Epoch, Vec<NodeId>>,
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
        Self { log, shard, founders: ascending(founders), newest: None, activated: None, in_force: BTreeMap::new() }
    }

    /// A new assignment, newer than every earlier one.
    pub(super) fn assign(&mut self, leader: NodeId, voters: Vec<NodeId>, learners: Vec<NodeId>) -> Assignment {
        let term = self.newest.as_ref().map_or(0, |newest| newest.epoch.term) + 1;
        let voters = ascending(voters);
        let mut learners = ascending(learners);
        learners.retain(|learner| !voters.contains(learner));
        let assignment = Assignment {
            log: self.log,
            epoch: Epoch { version: VERSION, term },
            leader,
            voters,
            learners,
            fence: self.activated.as_ref().map_or(&self.founders, |activated| &activated.voters).clone(),
            shard: self.shard.clone(),
        };
        assert_eq!(assignment.check(), Ok(()), "the script keeps to what may be assigned");
        self.newest = Some(assignment.clone());
        assignment
    }

    /// A leader reports that its epoch's start is durable on a majority (I1, I3).
    pub(super) fn hear_activated(&mut self, epoch: Epoch) -> Answer {
        let Some(newest) = self.newest.as_ref().filter(|newest| newest.epoch == epoch) else { return Answer::Refused };
        if self.in_force.insert(epoch, newest.voters.clone()).is_some() {
            return Answer::AcceptedBefore;
        }
        self.activated = Some(newest.clone());
        Answer::Accepted
    }

    /// Whether a replica may know this epoch: the master made it.
    pub(super) fn has_made(&self, epoch: Epoch) -> bool {
        self.newest.as_ref().is_some_and(|newest| epoch <= newest.epoch)
    }

    /// The voters of an epoch, if its activation was accepted.
    pub(super) fn voters_in_force(&self, epoch: Epoch) -> Option<&[NodeId]> {
        self.in_force.get(&epoch).map(Vec::as_slice)
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
    fn i3_an_activation_is_accepted_only_while_it_is_the_newest_and_as_often_as_it_is_asked() {
        let mut master = master();
        let first = master.assign(NodeId::new(1), nodes([1, 2, 3]), vec![]);
        assert_eq!(master.hear_activated(first.epoch), Answer::Accepted);
        assert_eq!(master.hear_activated(first.epoch), Answer::AcceptedBefore);
        let second = master.assign(NodeId::new(2), nodes([1, 2, 3]), vec![]);
        assert!(second.epoch > first.epoch);
        assert_eq!(master.hear_activated(first.epoch), Answer::Refused);
        assert_eq!(master.voters_in_force(second.epoch), None, "not yet");
        assert_eq!(master.voters_in_force(first.epoch), Some(nodes([1, 2, 3]).as_slice()), "what it committed, counts");
        assert!(master.has_made(second.epoch) && !master.has_made(Epoch::new(VERSION, 3)));
    }
}

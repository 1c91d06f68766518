//! The master of the model: it makes the assignments of a script, in order, and accepts activations.
//!
//! What it must do and no replica can see to: it fences the voters of the last assignment whose activation it accepted,
//! and it accepts only the activation of the newest one.

use super::world::Fixed;
use crate::model::control_record::majority_of;
use crate::model::mutant::{Mutant, planted};
use crate::model::{Assignment, DirectoryId, Epoch, NamespaceId, NodeId, ShardDescriptor, ShardId};

const VERSION: u64 = 1024;

/// The epoch of an assignment by its place in the script.
pub(super) const fn epoch(turn: usize) -> Epoch {
    Epoch::new(VERSION, turn as u32 + 1)
}

/// The place of an epoch in the script.
pub(super) fn turn_of(epoch: Epoch) -> Option<usize> {
    usize::try_from(epoch.term).ok().and_then(|term| term.checked_sub(1))
}

/// The last assignment that was activated, given which were accepted.
pub(super) fn activated(accepted: u8) -> Option<usize> {
    accepted.checked_ilog2().map(|turn| turn as usize)
}

/// The next assignment of the script. `disk` tells the one with which a node last came; `lost` of an assignment that was made,
/// whether a voter's disk was lost since.
pub(super) fn assignment(
    fixed: &Fixed<'_>,
    turn: usize,
    accepted: u8,
    disk: impl Fn(NodeId) -> DirectoryId,
    lost: impl Fn(NodeId, usize) -> bool,
) -> Assignment {
    let to_fence = fenced(turn, accepted);
    let all = fixed.scope.voters(to_fence.unwrap_or(0));
    // Before the first is activated nothing is committed: the founders are whoever they are now.
    let is_there = |node: &&NodeId| to_fence.is_none_or(|turn| !lost(**node, turn));
    let fence: Vec<NodeId> = all.iter().filter(is_there).copied().collect();
    let voters = fixed.scope.voters(turn);
    let leader = fixed.scope.turns.get(turn).map_or(NodeId::new(1), |turn| turn.leader);
    Assignment {
        log: fixed.log,
        epoch: epoch(turn),
        leader,
        voters: voters.to_vec(),
        learners: Vec::new(),
        // A lost disk promises nothing, and the majority is one of all that had a vote.
        fence_quorum: majority_of(all.len()),
        directories: voters.iter().chain(&fence).map(|node| (*node, disk(*node))).collect(),
        fence,
        founding: false,
        shard: ShardDescriptor {
            shard: ShardId::new(1),
            namespace: NamespaceId::new(1),
            start: Vec::new(),
            end: Vec::new(),
        },
    }
}

/// I1: the voters of which assignment to fence. Those of one that was never activated may know nothing of what was committed.
fn fenced(turn: usize, accepted: u8) -> Option<usize> {
    if planted(Mutant::FenceAssigned) { turn.checked_sub(1) } else { activated(accepted) }
}

/// I1, I3: which activations may be accepted, by bit, when so many assignments were made: that of the newest.
pub(super) fn acceptable(assigned: u8) -> u8 {
    if planted(Mutant::AcceptSuperseded) {
        u8::MAX
    } else {
        1_u8.checked_shl(u32::from(assigned).saturating_sub(1)).unwrap_or(0)
    }
}

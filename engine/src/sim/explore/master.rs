//! The master of the model: it makes the assignments of a script, in order, and accepts activations.
//!
//! What it must do and no replica can see to: it fences the voters of the last assignment whose activation it accepted,
//! and it accepts only the activation of the newest one.

use super::scope::Scope;
use super::world::Fixed;
use crate::model::mutant::{Mutant, planted};
use crate::model::{Assignment, Epoch, NamespaceId, NodeId, ShardDescriptor, ShardId};

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

/// The next assignment of the script.
pub(super) fn assignment(fixed: &Fixed<'_>, turn: usize, accepted: u8) -> Assignment {
    let leader = fixed.scope.turns.get(turn).map_or(NodeId::new(1), |turn| turn.leader);
    Assignment {
        log: fixed.log,
        epoch: epoch(turn),
        leader,
        voters: fixed.scope.voters(turn).to_vec(),
        learners: Vec::new(),
        fence: fence(fixed.scope, turn, accepted).to_vec(),
        shard: ShardDescriptor {
            shard: ShardId::new(1),
            namespace: NamespaceId::new(1),
            start: Vec::new(),
            end: Vec::new(),
        },
    }
}

/// I1: whom to fence. Those of an assignment that was never activated may know nothing of what was committed.
fn fence(scope: &Scope, turn: usize, accepted: u8) -> &[NodeId] {
    let last = if planted(Mutant::FenceAssigned) { turn.checked_sub(1) } else { activated(accepted) };
    scope.voters(last.unwrap_or(0))
}

/// I1, I3: which activations may be accepted, by bit, when so many assignments were made: that of the newest.
pub(super) fn acceptable(assigned: u8) -> u8 {
    if planted(Mutant::AcceptSuperseded) {
        u8::MAX
    } else {
        1_u8.checked_shl(u32::from(assigned).saturating_sub(1)).unwrap_or(0)
    }
}

//! Assignments by hand: an operator makes this node the leader of a shard, whoever led it before.
//!
//! Before anything is promised, a majority of the voters must be connected: an operator who asks a node that is cut off has
//! changed nothing. From there on it is an assignment like any other, of the next round of this node's own
//! ([`ConfigMaster`](crate::control::ConfigMaster)), and what was promised can't be taken back: should it not come into force in
//! time, it stands until it does, or until a newer one is made.

use super::shard::{Shard, now};
#[cfg(any(feature = "cluster", feature = "client"))]
use crate::model::request::FailureClass;
use crate::model::{Epoch, NodeId};
use crossbeam::channel::Sender;
use std::time::Instant;

/// Epochs that one assignment by hand asks for, at the most: peers can have promised what this node has not heard of, and two
/// operators can want different leaders at a time.
const ATTEMPTS_MAX: u32 = 8;

/// Why an assignment by hand has not come into force.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-8030 | retry | nothing was changed: connect the node to the others, or assign one that is |
/// | TW-8031 | retry | it comes into force when a majority answers: look at the status, or assign another node |
/// | TW-8032 | retry | a newer assignment was made: look who leads, and assign again if that is not wanted |
/// | TW-8034 | operator | nothing came into force: assign the node that has the data |
/// | TW-8033 | operator | 4,096 rounds are used up: begin a new cluster from a backup |
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssignError {
    /// Too few voters are connected, and were until the time was over. Nothing was promised.
    #[error(
        "node {node} reaches {reached} of {voters} voters with the disks that have the votes, itself among them, and it \
         takes {needed}: nothing was changed"
    )]
    NoMajority { node: NodeId, reached: usize, voters: usize, needed: usize },
    /// Promised, and not in force yet.
    #[error(
        "node {node} does not serve in epoch {epoch} yet: the assignment stands, and comes into force when a majority answers"
    )]
    Unfinished { node: NodeId, epoch: Epoch },
    /// Another assignment is newer.
    #[error("a newer assignment was made: {}, in epoch {promised}", match .leader {
        Some(leader) => format!("node {leader} leads"),
        None => "another node leads".to_owned(),
    })]
    Superseded { leader: Option<NodeId>, promised: Epoch },
    /// It knows nothing of the votes, and another one holds more.
    #[error("no log of node {node} says whose the votes are, and another node's log holds more: assign that node")]
    Bettered { node: NodeId },
    /// There is no epoch left.
    #[error("no epoch is left above {promised} in which node {node} could lead")]
    NoEpoch { node: NodeId, promised: Epoch },
}

#[cfg(any(feature = "cluster", feature = "client"))]
impl AssignError {
    pub(crate) const fn code(&self) -> u16 {
        match self {
            Self::NoMajority { .. } => 8030,
            Self::Unfinished { .. } => 8031,
            Self::Superseded { .. } => 8032,
            Self::NoEpoch { .. } => 8033,
            Self::Bettered { .. } => 8034,
        }
    }

    pub(crate) const fn class(&self) -> FailureClass {
        match self {
            Self::NoMajority { .. } | Self::Unfinished { .. } | Self::Superseded { .. } => FailureClass::Retry,
            Self::NoEpoch { .. } | Self::Bettered { .. } => FailureClass::Operator,
        }
    }

    /// Whether this node certainly does not come to lead by it, now or later. Of [`Self::Bettered`] it says no more
    /// than that: the others have promised by then, so whoever led before leads no more.
    pub(crate) const fn has_no_side_effects(&self) -> bool {
        !matches!(self, Self::Unfinished { .. })
    }
}

/// Who waits until this node leads.
pub(super) struct AssignWaiter {
    pub(super) deadline: Instant,
    /// Dropped: the shard has ended.
    pub(super) answer: Sender<Result<Epoch, AssignError>>,
}

/// An assignment by hand that is not in force yet, with all who asked for it: they want the same.
#[derive(Default)]
pub(super) struct ByHand {
    waiting: Vec<AssignWaiter>,
    /// Of the newest attempt; none: too few voters are connected.
    epoch: Option<Epoch>,
    attempts: u32,
}

impl ByHand {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiter| waiter.deadline).min()
    }
}

impl Shard {
    /// Somebody wants this node to lead.
    pub(super) fn assign_by_hand(&mut self, waiter: AssignWaiter) {
        self.state.by_hand.get_or_insert_default().waiting.push(waiter);
        self.try_by_hand();
    }

    /// Begins, if an assignment by hand has only waited for the voters that are connected now.
    pub(super) fn try_by_hand(&mut self) {
        let waits = self.state.by_hand.as_ref().is_some_and(|by_hand| by_hand.epoch.is_none());
        if !waits {
            return;
        }
        self.note_votes();
        if self.reaches_enough() {
            self.begin_by_hand();
        }
    }

    fn begin_by_hand(&mut self) {
        let Some(by_hand) = &mut self.state.by_hand else { return };
        // Whatever it was about to renew is over with this.
        self.state.reassign = None;
        self.state.awaits_voters = false;
        self.state.forming_until = None;
        let promised = self.replica.promise().epoch;
        let Some(assignment) = self.master.assign_by_hand(self.id, promised) else {
            self.end_by_hand(&Err(AssignError::NoEpoch { node: self.id, promised }));
            return;
        };
        by_hand.epoch = Some(assignment.epoch);
        by_hand.attempts += 1;
        tracing::info!(node = %self.id, shard = %self.shard, epoch = %assignment.epoch, "assigned by hand: asking for promises");
        self.step(crate::replica::Input::Assign(assignment));
    }

    /// What it began came to nothing for want of a majority, and begins anew in the next term.
    pub(super) fn by_hand_is_renewed(&mut self, epoch: Epoch) {
        if let Some(begun) = self.state.by_hand.as_mut().and_then(|by_hand| by_hand.epoch.as_mut()) {
            *begun = epoch;
        }
    }

    /// It may not begin on what others hold.
    pub(super) fn by_hand_is_bettered(&mut self) {
        if self.state.by_hand.as_ref().is_some_and(|by_hand| by_hand.epoch.is_some()) {
            self.end_by_hand(&Err(AssignError::Bettered { node: self.id }));
        }
    }

    /// This node leads from here on.
    pub(super) fn by_hand_serves(&mut self, epoch: Epoch) {
        if self.state.by_hand.as_ref().is_some_and(|by_hand| by_hand.epoch == Some(epoch)) {
            self.end_by_hand(&Ok(epoch));
        }
    }

    /// What is next for a shard whose leadership was superseded: true if this is going to lead again.
    ///
    /// A peer that refuses has promised what this node did not know of: an assignment by hand is made again above that. But
    /// where this node has itself promised to another, that one is the newer: of two operators one has lost, and hears it.
    pub(super) fn by_hand_goes_on(&mut self, promised: Epoch) -> bool {
        let promise = self.replica.promise();
        let is_refused = promise.leader == Some(self.id);
        let Some(by_hand) = self.state.by_hand.as_ref().filter(|by_hand| by_hand.epoch.is_some()) else { return false };
        if is_refused && by_hand.attempts < ATTEMPTS_MAX {
            self.begin_by_hand();
            return self.state.by_hand.is_some();
        }
        let leader = promise.leader.filter(|_| !is_refused);
        self.end_by_hand(&Err(AssignError::Superseded { leader, promised }));
        false
    }

    /// Tells those whose time is over.
    pub(super) fn expire_by_hand(&mut self) {
        let (reached, voters, needed) = (self.voters_reached(), self.master.voters().len(), self.master.needed());
        let (node, now) = (self.id, now());
        let Some(by_hand) = &mut self.state.by_hand else { return };
        let error = by_hand.epoch.map_or(AssignError::NoMajority { node, reached, voters, needed }, |epoch| {
            AssignError::Unfinished { node, epoch }
        });
        for waiter in by_hand.waiting.extract_if(.., |waiter| waiter.deadline <= now) {
            // Whoever asked may be gone.
            let _unheard = waiter.answer.try_send(Err(error));
        }
        if by_hand.waiting.is_empty() {
            self.state.by_hand = None;
        }
    }

    fn end_by_hand(&mut self, result: &Result<Epoch, AssignError>) {
        if let Err(error) = result {
            tracing::warn!(node = %self.id, shard = %self.shard, "an assignment by hand has no effect: {error}");
        }
        for waiter in self.state.by_hand.take().into_iter().flat_map(|by_hand| by_hand.waiting) {
            // As above.
            let _unheard = waiter.answer.try_send(*result);
        }
    }
}

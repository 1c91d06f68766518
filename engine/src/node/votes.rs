//! Whose disks have the votes, and how a voter that came with another disk has its own again.
//!
//! A vote is a disk's ([`Assignment::directories`](crate::model::Assignment::directories)). The last `EpochStart` in the own log says
//! whose, unless a log that the voters tell with their promises is newer (`replica/votes.rs`). Who came with another disk has its vote
//! again in two epochs ([`ConfigMaster::readmit`](crate::control::ConfigMaster::readmit)).

use super::shard::{Shard, ShardLog, now};
use crate::model::{DirectoryId, Epoch, EpochStart, Lsn, NodeId};
use crate::replica::{Input, LogView as _, Phase};
use crate::state::epoch_start_of;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use towline_wal::ReadError;

/// A voter with another disk is fed first. When nobody lacks more LSNs than this, the pause is short.
const NEAR: u64 = 16_384;
/// How long it waits to try again, at first and at the most, if it came to nothing.
const READMIT_PAUSE: Duration = Duration::from_secs(1);
const READMIT_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Voters that are here with another disk than the one that has the vote.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    are_here: bool,
    /// Until when not to try again, and how long that was.
    not_before: Option<Instant>,
    pause: Duration,
    /// The epoch of the last step.
    asked: Option<Epoch>,
}

impl Newcomers {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.not_before
    }

    /// Whether it was to wait until now, and no longer.
    pub(super) fn are_due(&mut self, now: Instant) -> bool {
        self.not_before.take_if(|at| *at <= now).is_some()
    }

    /// Whether the next step may be done, but for what it takes.
    const fn may_be_asked_for(&self) -> bool {
        self.are_here && self.not_before.is_none()
    }

    /// A step is done, in this epoch: if it comes to nothing, it is a while until the next try, each time longer.
    fn ask(&mut self, epoch: Epoch, now: Instant) {
        self.pause = (self.pause * 2).clamp(READMIT_PAUSE, READMIT_PAUSE_MAX);
        self.not_before = Some(now + self.pause);
        self.asked = Some(epoch);
    }

    /// This node serves in an epoch: if that was the step, the next one need not wait.
    pub(super) fn came_to(&mut self, epoch: Epoch) {
        if self.asked == Some(epoch) {
            (self.not_before, self.pause) = (None, Duration::ZERO);
        }
    }

    /// Somebody is here with another disk, or nobody any more.
    fn note(&mut self, are_here: bool) {
        self.are_here = are_here;
        if !are_here {
            *self = Self::default();
        }
    }
}

/// The last `EpochStart` of a log. Where that is let go of, or can't be read, the state may have it; where it is not written yet, the one
/// before it stands.
pub(super) fn last_start(of: &ShardLog<'_>) -> Option<EpochStart> {
    let tell = |first: Lsn, error: &dyn std::fmt::Display| {
        tracing::error!(log = %of.log, %first, %error, "the start of an epoch can't be read");
    };
    for (epoch, first) in of.wal.epochs(of.log).into_iter().rev() {
        match of.wal.read(of.log, first, 1) {
            Ok(batches) => match batches.first().map(epoch_start_of) {
                Some(Ok(Some(start))) => return Some(start),
                None => continue,
                // The log begins within the epoch.
                Some(Ok(None)) => {}
                Some(Err(error)) => tell(first, &error),
            },
            Err(ReadError::Released { .. }) => {}
            Err(error) => tell(first, &error),
        }
        return start_in_state(of).filter(|start| start.assignment.epoch >= epoch);
    }
    start_in_state(of)
}

fn start_in_state(of: &ShardLog<'_>) -> Option<EpochStart> {
    match of.stage?.lock().applier.epoch_start() {
        Ok(found) => found.map(|(_, start): (Lsn, _)| start),
        Err(error) => {
            tracing::error!(log = %of.log, %error, "the last epoch in the state can't be read");
            None
        }
    }
}

impl Shard {
    /// Learns whose disks have the votes, before an epoch is asked for.
    pub(super) fn note_votes(&mut self) {
        let view = ShardLog { wal: &self.wal, log: self.log, stage: Some(&self.stage) };
        let version = self.replica.promise().epoch.version;
        // What a leader serves by may not be readable in its own log yet.
        let led = self.replica.assignment().filter(|_| self.replica.phase() == Some(Phase::Serving));
        let votes = match led {
            Some(assignment) => Some(assignment.directories.clone()),
            None => view.last_start().and_then(|start| start.votes(self.log, version).cloned()),
        };
        self.master.note_votes(votes);
    }

    /// The voters that are reached, this node among them, with the disk whose word counts.
    pub(super) fn voters_reached(&self) -> usize {
        let counts = |voter: &NodeId| self.directory_of(*voter).is_some_and(|disk| self.master.counts(*voter, disk));
        self.master.voters().iter().filter(|voter| counts(voter)).count()
    }

    /// Whether enough voters are reached for an assignment.
    pub(super) fn reaches_enough(&self) -> bool {
        self.voters_reached() >= self.master.needed()
    }

    fn directory_of(&self, node: NodeId) -> Option<DirectoryId> {
        if node == self.id {
            return Some(self.directory);
        }
        self.state.peers.get(&node).map(|peer| peer.directory)
    }

    /// A peer came, or this node leads from here on: is a voter here with another disk than the one that has its vote?
    pub(super) fn look_for_newcomers(&mut self) {
        let found = self.newcomers();
        self.state.newcomers.note(!found.is_empty());
        for (node, directory) in found {
            tracing::warn!(
                node = %self.id, shard = %self.shard, peer = %node, %directory,
                "a voter came with another disk: it is fed, and has no vote until it has everything"
            );
        }
    }

    fn newcomers(&self) -> BTreeMap<NodeId, DirectoryId> {
        let Some(assignment) = self.replica.assignment() else { return BTreeMap::new() };
        let here = assignment.voters.iter().filter_map(|voter| Some((*voter, self.directory_of(*voter)?)));
        here.filter(|(voter, directory)| assignment.directories.get(voter) != Some(directory)).collect()
    }

    /// Something came of a peer: if every voter is here, and those with another disk have nearly everything, an epoch begins that is a
    /// step to their votes.
    pub(super) fn readmit(&mut self) {
        if !self.state.newcomers.may_be_asked_for() || !self.may_readmit() {
            return;
        }
        self.note_votes();
        let promised = self.replica.promise().epoch;
        let Some(assignment) = self.master.readmit(self.id, promised) else {
            tracing::error!(node = %self.id, shard = %self.shard, %promised, "no term is left: assign a leader by hand");
            self.state.newcomers.ask(promised, now());
            return;
        };
        let epoch = assignment.epoch;
        self.state.newcomers.ask(epoch, now());
        tracing::info!(node = %self.id, shard = %self.shard, %epoch, "a step to the votes of the disks that are here");
        self.step(Input::Assign(assignment));
    }

    fn may_readmit(&self) -> bool {
        let is_over = self.state.closing.is_some() || self.state.failed;
        let serves = self.replica.phase() == Some(Phase::Serving) && !is_over;
        let Some(assignment) = self.replica.assignment().filter(|_| serves) else { return false };
        let is_here = |voter: &NodeId| self.directory_of(*voter).is_some();
        let end = self.replica.end().lsn.get();
        let is_near = |durable: Lsn| end.saturating_sub(durable.get()) <= NEAR;
        // Of the others as well: one that makes nothing durable would not promise in time.
        let followers = self.replica.followers();
        assignment.voters.iter().all(is_here) && followers.iter().all(|(.., durable)| is_near(*durable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn epoch(term: u32) -> Epoch {
        Epoch { version: 1024, term }
    }

    #[test]
    fn a_step_that_comes_to_nothing_is_tried_again_after_a_while_each_time_longer() {
        let mut newcomers = Newcomers::default();
        let mut at = now();
        assert!(!newcomers.may_be_asked_for(), "nobody is here");
        newcomers.note(true);
        for (term, seconds) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            assert!(newcomers.may_be_asked_for());
            newcomers.ask(epoch(term as u32), at);
            assert!(!newcomers.may_be_asked_for() && !newcomers.are_due(at));
            let due = newcomers.next_deadline().unwrap();
            assert_eq!(due - at, Duration::from_secs(seconds));
            at = due;
            assert!(newcomers.are_due(at));
        }
    }

    #[test]
    fn a_step_that_came_into_force_is_followed_by_the_next_at_once_and_another_epoch_says_nothing() {
        let mut newcomers = Newcomers::default();
        newcomers.note(true);
        newcomers.ask(epoch(5), now());
        newcomers.came_to(epoch(4));
        assert!(!newcomers.may_be_asked_for());
        newcomers.came_to(epoch(5));
        assert!(newcomers.may_be_asked_for());
        newcomers.ask(epoch(6), now());
        newcomers.note(false);
        newcomers.note(true);
        assert!(newcomers.may_be_asked_for(), "another one came");
    }
}

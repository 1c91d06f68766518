//! Whose disks have the votes, and how a voter that came with another disk has its own again.
//!
//! A vote is a disk's ([`Assignment::directories`](crate::model::Assignment::directories)). What the last `EpochStart` in the own log
//! says of that stands: one that gives a vote to another disk is in a log only behind everything that was committed before, and only
//! once every voter has promised its epoch ([`ConfigMaster`](crate::control::ConfigMaster)).

use super::shard::{Shard, now};
use crate::model::{DirectoryId, EpochStart, Lsn, NodeId};
use crate::replica::{Input, Phase};
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
}

impl Newcomers {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.not_before
    }

    /// Whether it was to wait until now, and no longer.
    pub(super) fn are_due(&mut self, now: Instant) -> bool {
        self.not_before.take_if(|at| *at <= now).is_some()
    }
}

impl Shard {
    /// Learns whose disks have the votes, before an epoch is asked for.
    pub(super) fn note_votes(&mut self) {
        // A restored backup begins a version of its own, on disks of its own.
        let version = self.replica.promise().epoch.version;
        let start = self.last_start().filter(|start| start.assignment.epoch.version == version);
        self.master.note_votes(start.map(|start| start.assignment.directories));
    }

    /// The last `EpochStart` of the own log. Where that is let go of, or can't be read, the state may have it; where it is not written
    /// yet, the one before it stands.
    fn last_start(&self) -> Option<EpochStart> {
        for (epoch, first) in self.wal.epochs(self.log).into_iter().rev() {
            match self.wal.read(self.log, first, 1) {
                Ok(batches) => match batches.first().map(epoch_start_of) {
                    Some(Ok(Some(start))) => return Some(start),
                    None => continue,
                    // The log begins within the epoch.
                    Some(Ok(None)) => {}
                    Some(Err(error)) => self.tell_unreadable(first, &error),
                },
                Err(ReadError::Released { .. }) => {}
                Err(error) => self.tell_unreadable(first, &error),
            }
            return self.start_in_state().filter(|start| start.assignment.epoch >= epoch);
        }
        self.start_in_state()
    }

    fn tell_unreadable(&self, first: Lsn, error: &dyn std::fmt::Display) {
        tracing::error!(node = %self.id, shard = %self.shard, %first, %error, "the start of an epoch can't be read");
    }

    fn start_in_state(&self) -> Option<EpochStart> {
        match self.stage.lock().applier.epoch_start() {
            Ok(found) => found.map(|(_, start): (Lsn, _)| start),
            Err(error) => {
                tracing::error!(node = %self.id, shard = %self.shard, %error, "the last epoch in the state can't be read");
                None
            }
        }
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
        let newcomers = &mut self.state.newcomers;
        newcomers.are_here = !found.is_empty();
        if found.is_empty() {
            *newcomers = Newcomers::default();
        }
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

    /// Something came of a peer: if every voter is here, and those with another disk have nearly everything, an epoch begins in which
    /// these have their votes again.
    pub(super) fn readmit(&mut self) {
        let newcomers = &self.state.newcomers;
        if !newcomers.are_here || newcomers.not_before.is_some() || !self.may_readmit() {
            return;
        }
        let newcomers = &mut self.state.newcomers;
        newcomers.pause = (newcomers.pause * 2).clamp(READMIT_PAUSE, READMIT_PAUSE_MAX);
        newcomers.not_before = Some(now() + newcomers.pause);
        let promised = self.replica.promise().epoch;
        let Some(assignment) = self.master.readmit(self.id, promised) else {
            tracing::error!(node = %self.id, shard = %self.shard, %promised, "no term is left: assign a leader by hand");
            return;
        };
        tracing::info!(node = %self.id, shard = %self.shard, epoch = %assignment.epoch, "it asks for the votes of the disks that are here");
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

//! Whose disks have the votes, and how a voter that came with another disk has its own again.
//!
//! A vote is a disk's ([`Assignment::directories`](crate::model::Assignment::directories)). The last `EpochStart` in the own log says
//! whose, unless a log that the voters tell with their promises is newer (`replica/votes.rs`). Who came with another disk has its vote
//! again in two epochs ([`ConfigMaster::readmit`](crate::control::ConfigMaster::readmit)).

use super::shard::{Shard, ShardLog, now};
use crate::model::{DirectoryId, Epoch, EpochStart, LogId, Lsn, NodeId, ShardId};
use crate::replica::{Input, LogView as _, Phase};
use crate::state::{RocksStore, epoch_start_of, last_epoch_start};
use std::collections::BTreeMap;
use std::sync::Arc;
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
        return of.state.and_then(StartInState::last).filter(|start| start.assignment.epoch >= epoch);
    }
    of.state.and_then(StartInState::last)
}

/// The last `EpochStart` that the state of a shard holds.
///
/// It is asked for on a sequencer's thread, which has other shards as well. So it is read beside whoever writes the state, and not
/// behind the lock of the [`ApplyStage`](super::applier::ApplyStage): an applier holds that as long as RocksDB makes it wait, and
/// who replaces the state by a snapshot for minutes.
pub(super) struct StartInState {
    log: LogId,
    shard: ShardId,
    store: Arc<RocksStore>,
    source: Source,
}

/// Where it comes from.
enum Source {
    State,
    /// From what the state held before it began to be replaced. Until that is done the log is the same, and so is what its last
    /// epoch says of the votes. What the state holds meanwhile, or that it holds nothing, is true of no log (I1).
    Before(Option<Box<EpochStart>>),
}

impl StartInState {
    pub(super) fn new(store: &Arc<RocksStore>, shard: ShardId, log: LogId) -> Self {
        Self { log, shard, store: Arc::clone(store), source: Source::State }
    }

    /// Nobody applies any more, and the state is about to be replaced.
    pub(super) fn begin_replacing(&mut self) {
        self.source = Source::Before(self.read().map(Box::new));
    }

    /// The state is a snapshot's, as a whole, and the log is about to begin there.
    pub(super) fn end_replacing(&mut self) {
        self.source = Source::State;
    }

    fn last(&self) -> Option<EpochStart> {
        match &self.source {
            Source::State => self.read(),
            Source::Before(start) => start.as_deref().cloned(),
        }
    }

    fn read(&self) -> Option<EpochStart> {
        match last_epoch_start(&*self.store, self.shard) {
            Ok(found) => found.map(|(_, start): (Lsn, _)| start),
            Err(error) => {
                tracing::error!(log = %self.log, %error, "the last epoch in the state can't be read");
                None
            }
        }
    }
}

impl Shard {
    /// Learns whose disks have the votes, before an epoch is asked for.
    pub(super) fn note_votes(&mut self) {
        let view = ShardLog { wal: &self.wal, log: self.log, state: Some(&self.start_in_state) };
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
                "a voter came with another disk: it is fed, and has no vote until it lacks little"
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
    use crate::model::{ControlRecord, LogPosition, SnapshotId};
    use crate::node::shard::tests::{epoch, unserved};
    use crate::node::snapshots::{Answer, Replacing};
    use crate::node::{Node, NodeOptions};
    use crate::state::Replacement;
    use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

    /// A shard that nobody serves. Whose disks have the votes only its state says: the log has let go of that.
    fn with_votes_in_its_state(node: &Node, store: &Arc<RocksStore>) -> Box<Shard> {
        let (host, mut shard) = (&node.shared.host, unserved(node, store, node.shared.host.node));
        let log = shard.log;
        for (voter, disk) in (1..=3).map(NodeId::new).zip(1..) {
            shard.master.meet(voter, DirectoryId::new([disk; 16]));
        }
        let assignment = shard.master.assign(host.node, Epoch::ZERO).unwrap();
        assert_eq!(assignment.epoch, epoch(1));
        let parent = LogPosition::origin(log);
        let record = ControlRecord::EpochStart(EpochStart { assignment, parent }).encode().unwrap();
        let block = Block::encode(record, 1, Compression::Never);
        let batch = BatchBuilder::new(log, BatchKind::Control, epoch(1), parent, 0).block(block).seal().unwrap();
        shard.stage.lock().applier.apply(&[batch]).unwrap();
        shard
    }

    /// The thread that asks has other shards. One that was given a snapshot held them all up for minutes.
    #[test]
    fn i1_whose_the_votes_are_is_told_at_once_and_as_before_while_the_state_is_written_or_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let voters = (1..=3).map(NodeId::new).collect();
        let node = Node::open(NodeOptions { voters, ..NodeOptions::alone(directory.path()) }).unwrap();
        let store = node.shared.gate.with(Arc::clone).unwrap();
        let mut shard = with_votes_in_its_state(&node, &store);
        // Whoever writes the state, or replaces it, holds this.
        let stage = Arc::clone(&shard.stage);
        let held = stage.lock();
        let (told, hears) = std::sync::mpsc::channel();
        let asking = std::thread::Builder::new().spawn(move || {
            shard.note_votes();
            told.send(()).unwrap();
            shard
        });
        let heard = hears.recv_timeout(Duration::from_secs(30));
        drop(held);
        let mut shard = asking.unwrap().join().unwrap();
        assert!(heard.is_ok(), "it waits for nobody");
        assert!(shard.master.knows_votes());

        let (log, descriptor) = (shard.log, stage.lock().applier.shard().clone());
        let at = LogPosition { lsn: Lsn::new(9), ..LogPosition::origin(log) };
        let snapshot = SnapshotId { at, chunks: 1, bytes: 1, digest: 0 };
        shard.state.replacing = Replacing::Waits(snapshot);
        shard.replace_when_idle();
        drop(Replacement::begin(stage.lock().applier.store_mut(), &descriptor, log, at).unwrap());
        shard.note_votes();
        assert!(shard.master.knows_votes(), "the log is the same until that is done");
        shard.snapshot_answered(Answer::Replaced(snapshot));
        shard.note_votes();
        assert!(!shard.master.knows_votes(), "from here on the state says it, and this one is half");
        drop((shard, stage, store));
        node.close().unwrap();
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

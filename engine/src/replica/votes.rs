//! Whose disks have the votes, where no master knows of all assignments: each node is its own, and the logs say it.
//!
//! Each `EpochStart` names the disks that vote in its epoch, so the last one in a log is the newest that its replica knows of. A voter
//! says with its promise what that is, and a new leader goes by the best log of all that are told: a majority of the disks that *that
//! one* names has to promise, and these have the votes in the new epoch as well. What its own log says may be of long ago: its
//! disk may have been replaced, and put back.
//!
//! Only a leader that serves changes them, in the epoch behind its own: it takes away the vote of a disk in whose place another
//! one is, or gives a vote to the disk of a voter that has none. Never both at once: so no two sets of disks that may be in force
//! at a time name two disks of one voter, and each majority of one shares a disk with each of the other.

use super::adopt::PromisedLog;
use super::leader::{Leadership, counts};
use super::{LogView, Phase, Replica};
use crate::model::control_record::majority_of;
use crate::model::mutant::{Mutant, planted};
use crate::model::{Assignment, DirectoryId, Epoch, EpochStart, Lsn, NodeId};
use std::collections::BTreeMap;

/// What an assignment says of the votes, before the promises say whether it may.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    directories: BTreeMap<NodeId, DirectoryId>,
    fence_quorum: usize,
    /// It changes those of this epoch, in which its leader served.
    changes: Option<Epoch>,
}

/// Whose log says by which disks promises are counted, and which these are.
type CountedBy = (Option<NodeId>, BTreeMap<NodeId, DirectoryId>);

/// The log by which promises are counted says whose the votes are, and nobody who has promised can read that.
#[derive(Debug, Clone, Copy)]
pub(super) struct VotesUnknown;

impl Asked {
    pub(super) fn new(assignment: &Assignment, changes: Option<Epoch>) -> Self {
        let Assignment { directories, fence_quorum, .. } = assignment;
        Self { directories: directories.clone(), fence_quorum: *fence_quorum, changes }
    }

    /// As [`Replica::fingerprint`].
    #[cfg(feature = "sim")]
    pub(super) fn fingerprint(&self, into: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let Self { directories, fence_quorum, changes } = self;
        (directories, fence_quorum, changes).hash(into);
    }
}

impl Replica {
    /// The same replica, of a node that is its own master, as the others are: nobody knows of all assignments, and the logs say whose
    /// disks have the votes.
    #[must_use]
    pub const fn with_own_master(mut self) -> Self {
        self.own_master = true;
        self
    }

    /// Whose disks have the votes by the last epoch of the own log, if each node is its own master.
    pub(super) fn own_votes(&self, log: &dyn LogView) -> Option<BTreeMap<NodeId, DirectoryId>> {
        if !self.own_master {
            return None;
        }
        // What a new leader has taken over may not be readable yet.
        let taken = self.leadership.as_ref().and_then(|l| l.tail.iter().rev().find_map(EpochStart::in_batch));
        let start = taken.or_else(|| log.last_start())?;
        let votes = start.votes(self.log_id, self.promise.epoch.version)?;
        (start.assignment.epoch == self.end.epoch).then(|| votes.clone())
    }

    /// The epoch whose votes this assignment changes, if it does; an error if it may not.
    ///
    /// I1: a disk is not replaced by another at once: a majority with the one and a majority with the other might share none.
    pub(super) fn changes_votes(&self, assignment: &Assignment) -> Result<Option<Epoch>, ()> {
        let serving = self.leadership.as_ref().filter(|leadership| leadership.phase() == Phase::Serving);
        let Some(before) = serving.map(|leadership| &leadership.assignment).filter(|_| self.own_master) else {
            return Ok(None);
        };
        let differs =
            |(node, disk): (&NodeId, &DirectoryId)| before.directories.get(node).is_some_and(|had| had != disk);
        if assignment.directories.iter().any(differs) && !is_alone(assignment) && !planted(Mutant::SwapVotes) {
            return Err(());
        }
        Ok((assignment.directories != before.directories).then_some(before.epoch))
    }

    /// Whether the own log ends in an epoch of this version whose start can't be read: then it says whose the votes are, and not here.
    fn own_votes_are_unread(&self, log: &dyn LogView) -> bool {
        let is_told = || log.last_start().is_some_and(|start| start.assignment.epoch == self.end.epoch);
        self.own_master && self.end.epoch.version == self.promise.epoch.version && !is_told()
    }

    /// I1: an epoch was to found, as the own log could not be read where it says whose the votes are. It can by now: then those have
    /// them. Otherwise whatever disks are here would start an epoch, over what others acknowledged that were replaced.
    fn found_no_more(&mut self, log: &dyn LogView) {
        let votes = self.own_votes(log);
        let Some(leadership) = self.leadership.as_mut().filter(|leadership| leadership.assignment.founding) else {
            return;
        };
        let Assignment { voters, .. } = &leadership.assignment;
        let named = votes.map_or(0, |votes| voters.iter().filter(|voter| votes.contains_key(voter)).count());
        if named >= majority_of(voters.len()) && !is_alone(&leadership.assignment) {
            leadership.assignment.founding = false;
        }
    }

    /// Before promises are counted: by which disks they are, and which the epoch names. Gives who has the log that says so, none if
    /// the assignment itself says it; and the disks. An error where a log says it, and nobody can read that yet.
    pub(super) fn count_by_logs(&mut self, log: &dyn LogView) -> Result<CountedBy, VotesUnknown> {
        self.found_no_more(log);
        let founds = self.leadership.as_ref().is_some_and(|leadership| leadership.assignment.founding);
        let founds_on_unread = founds && self.own_votes_are_unread(log);
        let Self { id, directory, connected, own_master, leadership, .. } = self;
        let Some(leadership) = leadership.as_mut().filter(|_| *own_master) else {
            let named = leadership.as_ref().map(|leadership| leadership.assignment.directories.clone());
            return Ok((None, named.unwrap_or_default()));
        };
        leadership.assignment.directories.clone_from(&leadership.wanted.directories);
        leadership.assignment.fence_quorum = leadership.wanted.fence_quorum;
        let named =
            leadership.newest(*id).and_then(|named| if founds_on_unread { Err(VotesUnknown) } else { Ok(named) });
        leadership.votes_unknown = named.is_err();
        let named = named?;
        let disk = |node: NodeId| if node == *id { Some(*directory) } else { connected.get(&node).copied() };
        let Assignment { voters, directories, fence_quorum, .. } = &mut leadership.assignment;
        if let Some((_, epoch, votes)) = &named {
            *fence_quorum = majority_of(voters.len());
            if leadership.wanted.changes != Some(*epoch) {
                directories.clone_from(votes);
            }
        }
        let by = named.as_ref().map_or(&leadership.assignment.directories, |(.., votes)| votes).clone();
        for (node, promise) in &mut leadership.promises {
            promise.counts = disk(*node).is_some_and(|disk| counts(&by, *node, disk));
        }
        let Leadership { assignment, progress, .. } = &mut **leadership;
        for (node, progress) in progress {
            progress.note_counts(disk(*node).is_some_and(|disk| counts(&assignment.directories, *node, disk)));
        }
        Ok((named.map(|(node, ..)| node), by))
    }
}

/// Whose log it is, its last epoch, and the votes that this names.
type Newest = (NodeId, Epoch, BTreeMap<NodeId, DirectoryId>);

impl Leadership {
    /// Who has the best log of all that promised, whether or not their word counts, its last epoch, and the votes that it names. None
    /// where it names none (there is nothing in it, or it is of another version), and where an epoch founds: that takes over nobody's
    /// log.
    ///
    /// I1: where it does name some, and they are not told, promises can't be counted: by what else is known here, a disk might
    /// count that has no vote any more. An epoch has one start, so anybody whose log ends in that epoch can tell.
    fn newest(&self, own: NodeId) -> Result<Option<Newest>, VotesUnknown> {
        if self.assignment.founding || is_alone(&self.assignment) || planted(Mutant::CountByOwnLog) {
            return Ok(None);
        }
        let rank = |promise: &PromisedLog| -> (Epoch, Lsn) { (promise.log.end.epoch, promise.log.end.lsn) };
        let Some(first) = self.promises.get_key_value(&own) else { return Ok(None) };
        let best =
            self.promises.iter().fold(first, |best, other| if rank(other.1) > rank(best.1) { other } else { best });
        let (node, epoch) = (*best.0, best.1.log.end.epoch);
        let mut ends_in_it = self.promises.values().filter(|promise| promise.log.end.epoch == epoch);
        match ends_in_it.find_map(|promise| promise.votes.clone()) {
            Some(votes) => Ok(Some((node, epoch, votes))),
            None if epoch.version == self.assignment.epoch.version => Err(VotesUnknown),
            None => Ok(None),
        }
    }
}

/// Who votes alone has nobody to ask, and nobody else could lead: also not with another disk.
fn is_alone(assignment: &Assignment) -> bool {
    assignment.voters.len() == 1
}

//! Adoption: which log a new leader takes over, and where two logs part.
//!
//! The best log is the one with the newest last epoch, and of those the longest. Not the longest alone: an
//! exhaustive search of an abstraction of this protocol loses a committed write under that rule.

use crate::model::mutant::{Mutant, planted};
use crate::model::{DirectoryId, Epoch, LogSummary, Lsn, NodeId};
use std::collections::BTreeMap;

/// What a voter said with its promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PromisedLog {
    /// Its log, as it was durable then.
    pub(super) log: LogSummary,
    /// What of it could not be read then.
    pub(super) damaged: Vec<(Lsn, Lsn)>,
    /// From where it may lack what was once durable.
    pub(super) suspect: Option<Lsn>,
    /// Whose disks have the votes by the last epoch of that log, where each node is its own master.
    pub(super) votes: Option<BTreeMap<NodeId, DirectoryId>>,
    /// Whether it is the word of the disk that has the vote. Of another one it only says from where that is to be fed.
    pub(super) counts: bool,
}

/// Whether these promises suffice to choose a log.
///
/// So many of the voters to fence must have promised as the assignment says, a majority or more. A voter whose log may have lost a suffix binds itself
/// like any other, but proves nothing about what that suffix held: so either the voters with whole logs are enough
/// by themselves, or every voter has spoken and nobody is left to ask (I1).
///
/// A voter of whose disks none has the vote is to be heard as well, whichever disk it has: what was lost may have given it the vote,
/// and then its log says so.
pub(super) fn enough(
    fence: &[NodeId],
    needed: usize,
    votes: &BTreeMap<NodeId, DirectoryId>,
    promises: &BTreeMap<NodeId, PromisedLog>,
) -> bool {
    if planted(Mutant::SkipFence) {
        return true;
    }
    let spoken = fence.iter().filter_map(|voter| promises.get(voter)).filter(|promise| promise.counts);
    let whole = spoken.clone().filter(|promise| promise.suspect.is_none() || planted(Mutant::TrustDoubt)).count();
    let is_heard =
        |voter: &NodeId| promises.get(voter).is_some_and(|promise| promise.counts || !votes.contains_key(voter));
    whole >= needed || (spoken.count() >= needed && fence.iter().all(is_heard))
}

/// The voter with the best log among the promises; `own` where none is better.
pub(super) fn best(own: NodeId, fence: &[NodeId], promises: &BTreeMap<NodeId, PromisedLog>) -> NodeId {
    if planted(Mutant::SkipAdoption) {
        return own;
    }
    let rank = |node: &NodeId| promises.get(node).filter(|promise| promise.counts).map(|promise| rank(&promise.log));
    let mut chosen = own;
    for voter in fence {
        if rank(voter) > rank(&chosen) {
            chosen = *voter;
        }
    }
    chosen
}

/// Who has the best log of all others that promised, whether or not their word counts.
pub(super) fn best_but(own: NodeId, promises: &BTreeMap<NodeId, PromisedLog>) -> Option<NodeId> {
    let others = promises.iter().filter(|(node, _)| **node != own);
    others.max_by_key(|(_, promise)| rank(&promise.log)).map(|(node, _)| *node)
}

/// How good a log is: the newer epoch wins, and of one epoch the longer log.
pub(super) fn rank(log: &LogSummary) -> (Epoch, Lsn) {
    if planted(Mutant::LongestLog) {
        return (Epoch { version: log.end.lsn.get(), term: 0 }, log.end.lsn);
    }
    (log.end.epoch, log.end.lsn)
}

/// A log as it is told: its epochs, and which LSNs can't be read. Behind some of these, the log may not know where an epoch begins:
/// it names the first LSN of it that it knows, and may know nothing of another epoch between the two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) log: &'a LogSummary,
    pub(super) damaged: &'a [(Lsn, Lsn)],
}

impl PromisedLog {
    pub(super) fn told(&self) -> Told<'_> {
        Told { log: &self.log, damaged: &self.damaged }
    }
}

impl Told<'_> {
    /// The damage that an LSN lies in.
    fn damage_at(&self, lsn: Lsn) -> Option<(Lsn, Lsn)> {
        self.damaged.iter().copied().find(|(first, last)| *first <= lsn && *last >= lsn)
    }

    /// The last LSN that is certainly of the epoch with this index: before damage, or where the log ends.
    fn last_of(&self, index: usize) -> Lsn {
        let Some((start, (_, next))) = self.log.epochs.get(index).zip(self.log.epochs.get(index + 1)) else {
            return self.log.end.lsn;
        };
        self.damage_at(next.prev()).map_or_else(|| next.prev(), |(first, _)| first.prev().max(start.1))
    }

    /// The last LSN that is certainly of this epoch.
    pub(super) fn last_certain_of(&self, epoch: Epoch) -> Option<Lsn> {
        self.log.epochs.iter().position(|(other, _)| *other == epoch).map(|index| self.last_of(index))
    }

    /// The oldest and the newest epoch that the record at `lsn` may be of.
    fn epochs_at(&self, lsn: Lsn) -> (Epoch, Epoch) {
        let after = self.log.epochs.partition_point(|(_, start)| *start <= lsn);
        let told = after.checked_sub(1).and_then(|i| self.log.epochs.get(i)).map_or(Epoch::ZERO, |(epoch, _)| *epoch);
        let next = self.log.epochs.get(after).filter(|(_, start)| {
            self.damage_at(lsn).is_some_and(|(_, last)| *start <= last.next()) // Where it begins is not known.
        });
        (told, next.map_or(told, |(epoch, _)| *epoch))
    }
}

/// The last LSN up to which two logs are certainly the same.
///
/// An epoch has one leader, and a leader writes one history: so two logs that both hold a record of an epoch are equal up to the
/// one's or the other's last record of it, whichever comes first. The highest such epoch decides. (The chain is checked
/// again on every batch that follows; this only says where to begin.) Both name the same LSN as where it begins, but for a log that
/// begins behind what was released, or behind a snapshot, and has its first epoch from there on only; and for one that is
/// damaged just before. LSN 0: they share no epoch that both name.
pub(super) fn common_point(ours: Told<'_>, theirs: Told<'_>) -> Lsn {
    for (index, (epoch, start)) in ours.log.epochs.iter().enumerate().rev() {
        let Some(position) = theirs.log.epochs.iter().position(|(other, _)| other == epoch) else { continue };
        let other = theirs.log.epochs[position].1;
        let (earlier, later, of) = if *start < other { (*start, other, theirs) } else { (other, *start, ours) };
        let is_hidden = || of.damage_at(later.prev()).is_some_and(|(first, _)| first <= earlier);
        if position == 0 || index == 0 || earlier == later || is_hidden() {
            return ours.last_of(index).min(theirs.last_of(position));
        }
    }
    Lsn::ZERO
}

/// Whether something of ours, behind what is certainly `shared`, may be in the other log as well: where that is damaged, and does not know
/// itself of which epoch it was. I1: it may be the only copy, and is not cut off for that; nor is what can't be read here either, as
/// then less logs than a majority may say that it was there. Gives where that damage ends.
pub(super) fn may_share_more(ours: Told<'_>, theirs: Told<'_>, shared: Lsn) -> Option<Lsn> {
    let mut readable = shared.next();
    while let Some((_, last)) = ours.damage_at(readable) {
        readable = last.next();
    }
    let may_be_one = |at: &Lsn| {
        let ((ours_oldest, ours_newest), (oldest, newest)) = (ours.epochs_at(*at), theirs.epochs_at(*at));
        *at <= ours.log.end.lsn && oldest < newest && oldest <= ours_newest && ours_oldest <= newest
    };
    let at = [shared.next(), readable].into_iter().find(may_be_one).filter(|_| !planted(Mutant::CutOffUntold))?;
    theirs.damage_at(at).map(|(_, last)| last)
}

/// Before the damage that an LSN lies in. A follower has no position there, and could not say whether one that it is told fits.
pub(super) fn before_damage(damaged: &[(Lsn, Lsn)], lsn: Lsn) -> Lsn {
    let damage = damaged.iter().find(|(first, last)| *first <= lsn && *last >= lsn);
    damage.map_or(lsn, |(first, _)| first.prev())
}

/// From which LSN on a log says what its epochs are: from the first, or from where it begins.
pub(super) fn told_from(log: &LogSummary) -> Lsn {
    log.epochs.first().map_or(Lsn::FIRST, |(_, start)| *start)
}

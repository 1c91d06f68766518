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
pub(super) fn enough(fence: &[NodeId], needed: usize, promises: &BTreeMap<NodeId, PromisedLog>) -> bool {
    if planted(Mutant::SkipFence) {
        return true;
    }
    let spoken = fence.iter().filter_map(|voter| promises.get(voter)).filter(|promise| promise.counts);
    let whole = spoken.clone().filter(|promise| promise.suspect.is_none() || planted(Mutant::TrustDoubt)).count();
    whole >= needed || spoken.count() == fence.len()
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

/// How good a log is: the newer epoch wins, and of one epoch the longer log.
pub(super) fn rank(log: &LogSummary) -> (Epoch, Lsn) {
    if planted(Mutant::LongestLog) {
        return (Epoch { version: log.end.lsn.get(), term: 0 }, log.end.lsn);
    }
    (log.end.epoch, log.end.lsn)
}

/// The last LSN up to which two logs are certainly the same.
///
/// An epoch has one leader, and a leader writes one history: so two logs that both hold an epoch, from the same
/// first LSN, are equal up to the shorter one's end of it. The highest such epoch decides. (The chain is checked
/// again on every batch that follows; this only says where to begin.) A log that begins behind what was released, or behind
/// a snapshot, has its first epoch from there on only. LSN 0: they share no epoch that both name.
pub(super) fn common_point(ours: &LogSummary, theirs: &LogSummary) -> Lsn {
    let last_of = |log: &LogSummary, index: usize| {
        log.epochs.get(index + 1).map_or(log.end.lsn, |(_, next_start)| next_start.prev())
    };
    for (index, (epoch, start)) in ours.epochs.iter().enumerate().rev() {
        let found = theirs.epochs.iter().position(|(other, _)| other == epoch);
        let same = |position: &usize| *position == 0 || index == 0 || theirs.epochs[*position].1 == *start;
        if let Some(position) = found.filter(same) {
            return last_of(ours, index).min(last_of(theirs, position));
        }
    }
    Lsn::ZERO
}

/// From which LSN on a log says what its epochs are: from the first, or from where it begins.
pub(super) fn told_from(log: &LogSummary) -> Lsn {
    log.epochs.first().map_or(Lsn::FIRST, |(_, start)| *start)
}

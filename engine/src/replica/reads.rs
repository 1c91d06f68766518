//! Linearizable reads by read-index: before a read is served, a majority of the voters confirms that it promised nothing
//! newer since the read came. One round of confirmations serves all reads that wait. (Ongaro, *Consensus: Bridging Theory and
//! Practice*, 6.4; the promise stands here where Raft has its term.)

use super::leader::counts;
use super::{Output, Phase, Replica, Verdict};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Epoch, Lsn, Message, NodeId};
use std::collections::BTreeSet;

/// Names a read. Whoever drives the replica gives rising numbers; a read is answered together with those before it.
///
/// ```
/// use towline::replica::{Input, Output, Promise, ReadTicket, Replica};
/// # use towline::model::{Epoch, Lsn, NodeId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let me = ME;
/// # let master = master(&[me]);
/// # let log = Memory(master.log(), vec![]);
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// let refused = replica.step(0, Input::Read(ReadTicket(1)), &log);
/// assert!(matches!(refused[..], [Output::ReadsRefused { up_to: ReadTicket(1) }]), "it does not lead");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadTicket(pub u64);

/// The reads that a leader has taken and not answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads {
    /// The number of the last round of this leadership.
    round: u64,
    under_way: Option<Round>,
    /// The newest read that came since that round began: its confirmations may be older than the read.
    waiting: Option<ReadTicket>,
}

#[derive(Debug, Clone)]
struct Round {
    up_to: ReadTicket,
    /// What was committed when the round began, and so when the reads came, or before.
    index: Lsn,
    confirmed: BTreeSet<NodeId>,
}

impl Reads {
    /// As [`Replica::fingerprint`].
    #[cfg(feature = "sim")]
    pub(super) fn fingerprint(&self, into: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let Self { round, under_way, waiting } = self;
        (round, waiting.map(|ReadTicket(number)| number)).hash(into);
        under_way.as_ref().map(|Round { up_to, index, confirmed }| (up_to.0, index, confirmed)).hash(into);
    }

    /// How many rounds came to their end.
    pub(super) fn rounds_ended(&self) -> u64 {
        self.round - u64::from(self.under_way.is_some())
    }

    /// The newest read that has no answer.
    pub(super) fn newest(&self) -> Option<ReadTicket> {
        self.waiting.or_else(|| self.under_way.as_ref().map(|round| round.up_to))
    }
}

impl Replica {
    /// Takes a read, which is answered by [`Output::ReadsConfirmed`] or [`Output::ReadsRefused`].
    pub(super) fn read(&mut self, ticket: ReadTicket, out: &mut Vec<Output>) {
        match self.leadership.as_mut().filter(|leadership| leadership.phase() == Phase::Serving) {
            None => out.push(Output::ReadsRefused { up_to: ticket }),
            Some(leadership) => {
                leadership.reads.waiting = Some(ticket);
                self.begin_round(out);
            }
        }
    }

    /// Begins a round for the reads that wait, if none is under way.
    pub(super) fn begin_round(&mut self, out: &mut Vec<Output>) {
        let committed = self.committed;
        let Some(leadership) = self.leadership.as_mut() else { return };
        // Before its own first commit a leader does not know what those before it committed.
        let knows_commit = leadership.start.is_some_and(|start| start <= committed);
        if leadership.reads.under_way.is_some() || !knows_commit {
            return;
        }
        let Some(up_to) = leadership.reads.waiting.take() else { return };
        leadership.reads.round += 1;
        leadership.reads.under_way = Some(Round { up_to, index: committed, confirmed: BTreeSet::new() });
        let (epoch, round) = (leadership.epoch(), leadership.reads.round);
        for voter in &leadership.assignment.voters {
            if leadership.progress.get(voter).is_some_and(super::progress::Progress::is_connected) {
                out.push(Output::Send { to: *voter, message: Message::Confirm { epoch, round } });
            }
        }
        self.end_round(out);
    }

    /// Asks a voter that has come back, and was not asked or may not have heard.
    pub(super) fn ask_again(&self, peer: NodeId, out: &mut Vec<Output>) {
        let Some(leadership) = &self.leadership else { return };
        let Some(under_way) = &leadership.reads.under_way else { return };
        if leadership.assignment.voters.contains(&peer) && !under_way.confirmed.contains(&peer) {
            let message = Message::Confirm { epoch: leadership.epoch(), round: leadership.reads.round };
            out.push(Output::Send { to: peer, message });
        }
    }

    /// A leader asks whether the promise to it still stands.
    pub(super) fn confirm(&self, from: NodeId, epoch: Epoch, round: u64, out: &mut Vec<Output>) {
        let message = match self.promise.verdict(epoch, from) {
            Verdict::Kept => Message::Confirmed { epoch, round },
            Verdict::Refused => Message::Refused { epoch, promised: self.promise.epoch },
            // Its Fence is still to come: that is answered.
            Verdict::New => return,
        };
        out.push(Output::Send { to: from, message });
    }

    pub(super) fn confirmed(&mut self, from: NodeId, epoch: Epoch, round: u64, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut().filter(|leadership| leadership.epoch() == epoch) else {
            return;
        };
        let counts = leadership.progress.get(&from).is_some_and(super::progress::Progress::counts);
        let is_voter = counts && leadership.assignment.voters.contains(&from);
        let reads = &mut leadership.reads;
        if let Some(under_way) = reads.under_way.as_mut().filter(|_| is_voter && round == reads.round) {
            under_way.confirmed.insert(from);
            self.end_round(out);
        }
    }

    /// Answers the reads of a round that a majority has confirmed, this leader among it.
    fn end_round(&mut self, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut() else { return };
        let majority = leadership.assignment.majority();
        let own = usize::from(counts(&leadership.assignment.directories, self.id, self.directory));
        let is_enough = |round: &mut Round| round.confirmed.len() + own >= majority || planted(Mutant::ReadUnconfirmed);
        if let Some(Round { up_to, index, .. }) = leadership.reads.under_way.take_if(is_enough) {
            out.push(Output::ReadsConfirmed { up_to, index });
            self.begin_round(out);
        }
    }

    /// Leads no more: whoever waits to read asks elsewhere.
    pub(super) fn end_leadership(&mut self, out: &mut Vec<Output>) -> bool {
        let Some(leadership) = self.leadership.take() else { return false };
        if let Some(up_to) = leadership.reads.newest().filter(|_| !planted(Mutant::ForgetReads)) {
            out.push(Output::ReadsRefused { up_to });
        }
        true
    }
}

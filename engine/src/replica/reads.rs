//! Linearizable reads by read-index: before a read is served, a majority of the voters confirms that it promised nothing
//! newer since the read came. One round of confirmations serves all reads that wait. (Ongaro, *Consensus: Bridging Theory and
//! Practice*, 6.4; the promise stands here where Raft has its term.)
//!
//! Who follows asks its leader, one question at a time for all who read there: what the leader answers is what a read of its own
//! would have to show. Nothing is sent as long as nobody reads.

use super::leader::counts;
use super::{Output, Phase, Replica, Verdict};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Epoch, Lsn, Message, NodeId};
use std::collections::{BTreeMap, BTreeSet};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadTicket(pub u64);

/// The reads that a leader has taken and not answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads {
    /// The number of the last round of this leadership.
    round: u64,
    under_way: Option<Round>,
    /// The newest read that came since that round began: its confirmations may be older than the read.
    waiting: Option<ReadTicket>,
    /// The followers that have asked since, each with its question.
    askers: BTreeMap<NodeId, u64>,
}

#[derive(Debug, Clone)]
struct Round {
    up_to: Option<ReadTicket>,
    askers: BTreeMap<NodeId, u64>,
    /// What was committed when the round began, and so when the reads came, or before.
    index: Lsn,
    confirmed: BTreeSet<NodeId>,
}

/// What a follower asks of its leader for the reads that it has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Questions {
    /// The read that was the newest when the question under way was asked: its number.
    asked: Option<ReadTicket>,
    /// The newest read that came since: the answer may be older than it.
    waiting: Option<ReadTicket>,
}

impl Reads {
    /// As [`Replica::fingerprint`].
    #[cfg(feature = "sim")]
    pub(super) fn fingerprint(&self, into: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let Self { round, under_way, waiting, askers } = self;
        (round, waiting, askers).hash(into);
        under_way
            .as_ref()
            .map(|Round { up_to, askers, index, confirmed }| (up_to, askers, index, confirmed))
            .hash(into);
    }

    /// How many rounds came to their end.
    pub(super) fn rounds_ended(&self) -> u64 {
        self.round - u64::from(self.under_way.is_some())
    }

    /// Whether somebody waits for an answer.
    pub(super) fn waits(&self) -> bool {
        self.under_way.is_some() || self.waiting.is_some() || !self.askers.is_empty()
    }

    /// The newest read of this node's that has no answer.
    fn newest(&self) -> Option<ReadTicket> {
        self.waiting.or_else(|| self.under_way.as_ref().and_then(|round| round.up_to))
    }

    /// What a peer asked is of no use to it any more.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.askers.remove(&peer);
        if let Some(under_way) = &mut self.under_way {
            under_way.askers.remove(&peer);
        }
        // Nobody is to be waited for, for nobody's sake.
        self.under_way.take_if(|round| round.up_to.is_none() && round.askers.is_empty());
    }
}

impl Replica {
    /// Takes a read, which is answered by [`Output::ReadsConfirmed`] or [`Output::ReadsRefused`].
    pub(super) fn read(&mut self, ticket: ReadTicket, out: &mut Vec<Output>) {
        match self.leadership.as_mut() {
            Some(leadership) if leadership.phase() == Phase::Serving => {
                leadership.reads.waiting = Some(ticket);
                self.begin_round(out);
            }
            Some(_) => out.push(Output::ReadsRefused { up_to: ticket }),
            None => {
                self.questions.waiting = Some(ticket);
                self.ask_leader(out);
            }
        }
    }

    /// Asks the leader that this replica follows for the reads that wait, if it can be asked and no question is under way.
    fn ask_leader(&mut self, out: &mut Vec<Output>) {
        if self.questions.asked.is_some() {
            return;
        }
        let Some(ticket) = self.questions.waiting.take() else { return };
        match self.promise.leader.filter(|leader| self.connected.contains_key(leader)) {
            None => out.push(Output::ReadsRefused { up_to: ticket }),
            Some(leader) => {
                self.questions.asked = Some(ticket);
                let message = Message::ReadIndex { epoch: self.promise.epoch, number: ticket.0 };
                out.push(Output::Send { to: leader, message });
            }
        }
    }

    /// A follower asks what a read that came there must show.
    pub(super) fn read_index(&mut self, from: NodeId, epoch: Epoch, number: u64, out: &mut Vec<Output>) {
        let serves = |leadership: &&mut Box<super::leader::Leadership>| {
            leadership.epoch() == epoch
                && leadership.phase() == Phase::Serving
                && leadership.progress.contains_key(&from)
        };
        let Some(leadership) = self.leadership.as_mut().filter(serves) else {
            out.push(Output::Send { to: from, message: Message::ReadIndexed { epoch, number, index: None } });
            return;
        };
        match leadership.reads.under_way.as_mut().filter(|_| planted(Mutant::JoinRound)) {
            Some(under_way) => under_way.askers.insert(from, number),
            None => leadership.reads.askers.insert(from, number),
        };
        self.begin_round(out);
    }

    /// The leader has answered, or does not lead.
    pub(super) fn read_indexed(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        (number, index): (u64, Option<Lsn>),
        out: &mut Vec<Output>,
    ) {
        let is_followed = self.promise.leader == Some(from) && self.promise.epoch == epoch;
        let Some(up_to) = self.questions.asked.filter(|asked| is_followed && asked.0 == number) else { return };
        match index {
            Some(index) => {
                self.questions.asked = None;
                out.push(Output::ReadsConfirmed { up_to, index });
                self.ask_leader(out);
            }
            None => self.refuse_questions(out),
        }
    }

    /// Whom this replica follows can't answer, or nobody knows whether it will: whoever waits to read asks again.
    pub(super) fn refuse_questions(&mut self, out: &mut Vec<Output>) {
        let Questions { asked, waiting } = std::mem::take(&mut self.questions);
        if let Some(up_to) = waiting.or(asked).filter(|_| !planted(Mutant::ForgetReads)) {
            out.push(Output::ReadsRefused { up_to });
        }
    }

    /// A connection began, or ended: what was asked on it has no answer.
    pub(super) fn forget_questions(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        if self.promise.leader == Some(peer) {
            self.refuse_questions(out);
        }
        if let Some(leadership) = &mut self.leadership {
            leadership.reads.forget(peer);
            self.begin_round(out);
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
        let (up_to, askers) = (leadership.reads.waiting.take(), std::mem::take(&mut leadership.reads.askers));
        if up_to.is_none() && askers.is_empty() {
            return;
        }
        leadership.reads.round += 1;
        leadership.reads.under_way = Some(Round { up_to, askers, index: committed, confirmed: BTreeSet::new() });
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
        let message = match self.verdict(epoch, from) {
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
        if let Some(Round { up_to, askers, index, .. }) = leadership.reads.under_way.take_if(is_enough) {
            let epoch = leadership.epoch();
            out.extend(up_to.map(|up_to| Output::ReadsConfirmed { up_to, index }));
            out.extend(askers.into_iter().map(|(to, number)| Output::Send {
                to,
                message: Message::ReadIndexed { epoch, number, index: Some(index) },
            }));
            self.begin_round(out);
        }
    }

    /// Leads no more: whoever waits to read asks elsewhere.
    pub(super) fn end_leadership(&mut self, out: &mut Vec<Output>) -> bool {
        let Some(leadership) = self.leadership.take() else { return false };
        if let Some(up_to) = leadership.reads.newest().filter(|_| !planted(Mutant::ForgetReads)) {
            out.push(Output::ReadsRefused { up_to });
        }
        let epoch = leadership.epoch();
        let asked = leadership.reads.under_way.into_iter().flat_map(|round| round.askers);
        let refused = asked.chain(leadership.reads.askers).filter(|_| !planted(Mutant::ForgetReads));
        out.extend(
            refused
                .map(|(to, number)| Output::Send { to, message: Message::ReadIndexed { epoch, number, index: None } }),
        );
        true
    }
}

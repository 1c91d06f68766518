//! What of the log can't be read any more, and how it comes back: from any replica that has it.
//!
//! A batch that rots at rest is still known by name: its LSNs, its epoch, and the chain at its end, which covers everything
//! before it. So a damaged log tells as well as any other *what it held* (`adopt`), and only can't give it away. What follows from that:
//! - It is never cut off for being damaged, nor is another log adopted over it: it may be the only one that tells of a record
//!   that is committed (I1, faults D15).
//! - It is not acknowledged past its damage, by nobody, the leader's own disk included: a majority that holds a record holds it
//!   whole (I1).
//! - A follower appends nothing behind damage before it is mended; a leader starts no epoch.
//!
//! Whoever has damage asks one peer after the other, its leader first, for the batches between two positions that it knows. Only
//! who has both has the very batches, since the chain at the second covers them. What comes must follow, batch by batch, and end
//! where the own log says that a batch ended; what does not is refused, counted, and asked for elsewhere.
//!
//! Where everybody who is connected was asked and has nothing, they may have released it, as everybody's states have it. Then:
//! - What the own state has, durably, the driver may release as well ([`Replica::unmendable`]).
//! - What it lacks comes with another's state: a snapshot, as if the log ended where it can still be read (`snapshot`).
//!
//! Otherwise it waits: for a peer to come, or to say that it was mended itself. A leader that waits so for as long as its
//! bound says leads no more, and says why (`quorum`); nothing is cut off (D16).

use super::adopt::best_but;
use super::{LogView, LogWrite, Output, Phase, Purpose, ReadPurpose, Replica};
use crate::model::limits::{CATCH_UP_READ_BYTES, DAMAGED_RANGES_NAMED_MAX};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Epoch, LogPosition, LogSummary, Lsn, Message, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use towline_wal::Batch;

/// The damage of one log, and what is known of that of others.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Damage {
    /// First and last LSN, in order.
    ranges: Vec<(Lsn, Lsn)>,
    /// Up to here the state has the log, or is about to, as its driver said: not up to where it might be read. Otherwise whoever comes
    /// upon damage on its way there would never be given another's state for it.
    read_to: Lsn,
    /// Who was asked, and for what.
    asked: Option<Asked>,
    /// Who has nothing of it, or is not believed.
    refused_by: BTreeSet<NodeId>,
    /// Its leader waits to hear whether a position fits that lies in damage.
    owes_answer: bool,
    /// The log takes nothing before it is cut off at its end: damage lies behind that.
    is_behind_end: bool,
    /// Who was asked for its state instead, and who ever was, of those who are there.
    state_of: Option<NodeId>,
    states_asked: BTreeSet<NodeId>,
    /// What the others said of theirs.
    peers: BTreeMap<NodeId, Vec<(Lsn, Lsn)>>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    of: NodeId,
    after: LogPosition,
    to: LogPosition,
}

impl std::hash::Hash for Asked {
    fn hash<H: std::hash::Hasher>(&self, into: &mut H) {
        let Self { of, after, to } = self;
        (of, after.lsn, after.epoch, after.chain, to.lsn, to.epoch, to.chain).hash(into);
    }
}

impl Damage {
    /// Of a log that was just opened, with a state that has everything up to `applied`.
    pub(super) fn of(log: &dyn LogView, applied: Lsn) -> Self {
        let (damaged, end) = (log.damaged(), log.end().lsn);
        let is_behind_end = damaged.iter().any(|(_, last)| *last > end);
        Self { ranges: within(damaged, end), read_to: applied, is_behind_end, ..Self::default() }
    }

    pub(super) fn ranges(&self) -> &[(Lsn, Lsn)] {
        &self.ranges
    }

    pub(super) fn is_none(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The last LSN before the first damage.
    pub(super) fn sound_to(&self) -> Lsn {
        self.ranges.first().map_or(Lsn::MAX, |(first, _)| first.prev())
    }

    /// Up to where the log can be read for the state: damage of what it holds already is not in the way, nor does what may be
    /// applied ever become less than what is.
    pub(super) fn readable_to(&self) -> Lsn {
        let next = self.ranges.iter().find(|(_, last)| *last > self.read_to);
        next.map_or(Lsn::MAX, |(first, _)| first.prev().max(self.read_to))
    }

    /// Whether there is damage that the state can't get over by the log, before this.
    pub(super) fn bars(&self, lsn: Lsn) -> bool {
        self.readable_to() < lsn
    }

    /// The state has everything up to here, from elsewhere.
    pub(super) fn state_is_at(&mut self, lsn: Lsn) {
        self.read_to = self.read_to.max(lsn);
        self.forget_states();
    }

    /// Who was asked for its state.
    pub(super) fn state_of(&self) -> Option<NodeId> {
        self.state_of
    }

    /// Whether the log has to be cut off where it ends before it takes anything: what is damaged behind that was cut off before, and
    /// the record of it was lost, or is not named by anything that is left. That something may be missing stays known.
    pub(super) fn take_behind_end(&mut self) -> bool {
        std::mem::take(&mut self.is_behind_end)
    }

    pub(super) fn ask_all_again(&mut self) {
        self.refused_by.clear();
        self.forget_states();
    }

    /// Whoever waited for an answer leads no more.
    pub(super) const fn owes_nothing(&mut self) {
        self.owes_answer = false;
    }

    fn forget_states(&mut self) {
        self.state_of = None;
        self.states_asked.clear();
    }

    /// Whether a peer said that it can't read this.
    pub(super) fn is_damaged_at(&self, peer: NodeId, lsn: Lsn) -> bool {
        self.peers.get(&peer).is_some_and(|ranges| ranges.iter().any(|(first, last)| *first <= lsn && *last >= lsn))
    }

    /// What a peer said that it can't read.
    pub(super) fn of_peer(&self, peer: NodeId) -> &[(Lsn, Lsn)] {
        self.peers.get(&peer).map_or(&[], Vec::as_slice)
    }

    /// The damage that holds all of these LSNs.
    pub(super) fn around(&self, first: Lsn, last: Lsn) -> Option<(Lsn, Lsn)> {
        self.ranges.iter().copied().find(|(from, to)| *from <= first && *to >= last)
    }

    /// A leader was found to have the same log beyond what is damaged first: what it lacked when it was asked, it has now.
    pub(super) fn matches(&mut self, leader: NodeId, before: Lsn, now: Lsn) {
        if self.ranges.first().is_some_and(|(_, last)| before <= *last && *last < now) {
            self.refused_by.remove(&leader);
        }
    }

    /// Whether a peer was asked, and has nothing of it though it can read that.
    fn was_refused_by(&self, peer: NodeId, first: Lsn) -> bool {
        self.refused_by.contains(&peer) && !self.is_damaged_at(peer, first)
    }

    /// Nothing is left of the log from here on. Whether that took damage away. Of what is left another end may be asked for, which
    /// others have.
    pub(super) fn cut_off(&mut self, to: Lsn) -> bool {
        let before = self.ranges.len();
        self.ranges = within(std::mem::take(&mut self.ranges), to);
        (self.asked, self.is_behind_end) = (None, false);
        self.refused_by.clear();
        self.ranges.len() < before
    }

    fn remove(&mut self, first: Lsn, last: Lsn) {
        let ranges = std::mem::take(&mut self.ranges);
        for (from, to) in ranges {
            if last < from || first > to {
                self.ranges.push((from, to));
                continue;
            }
            self.ranges.extend(Some((from, first.prev())).filter(|_| from < first));
            self.ranges.extend(Some((last.next(), to)).filter(|_| last < to));
        }
    }

    /// As others are told: a bound of ranges, the last of which may say too much.
    fn told(&self) -> Vec<(Lsn, Lsn)> {
        let mut told = self.ranges.clone();
        let last = told.last().map(|(_, last)| *last);
        told.truncate(DAMAGED_RANGES_NAMED_MAX);
        if let (Some(range), Some(last)) = (told.last_mut(), last) {
            range.1 = last;
        }
        told
    }
}

/// Whether a log that lets go of what nobody can mend, up to where the state is, begins there by the state's word alone
/// ([`Entry::Begin`](towline_wal::Entry::Begin)): that is in damage, and `known`, the last boundary up to there, is before it.
#[cfg(any(feature = "node", feature = "sim", test))]
pub(crate) fn begins_by_state(state: Lsn, known: Option<LogPosition>, damaged: &[(Lsn, Lsn)]) -> bool {
    known.is_none_or(|known| known.lsn < state) && damaged.iter().any(|(first, last)| *first <= state && state <= *last)
}

/// The first boundary at or behind `lsn` of a log that ends at `end`, behind that; as [`LogView::boundary_at_or_before`] tells.
pub(crate) fn first_boundary(
    lsn: Lsn,
    end: LogPosition,
    at_or_before: impl Fn(Lsn) -> Option<LogPosition>,
) -> LogPosition {
    let is_before = |at: &Lsn| at_or_before(*at).is_none_or(|known| known.lsn < lsn);
    let (mut low, mut high) = (lsn, end.lsn);
    if low >= high || !is_before(&low) {
        return at_or_before(low.min(high)).filter(|known| known.lsn == lsn).unwrap_or(end);
    }
    // Before `low` there is none, at or before `high` there is one.
    while low.next() < high {
        let middle = Lsn::new(low.get().midpoint(high.get()));
        if is_before(&middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    if high == end.lsn { end } else { at_or_before(high).unwrap_or(end) }
}

/// The ranges in order, as one where they touch, up to `end`.
fn within(mut ranges: Vec<(Lsn, Lsn)>, end: Lsn) -> Vec<(Lsn, Lsn)> {
    ranges.sort_unstable();
    let mut merged: Vec<(Lsn, Lsn)> = Vec::new();
    for (first, last) in ranges.into_iter().map(|(first, last)| (first, last.min(end))).filter(|(f, l)| f <= l) {
        match merged.last_mut() {
            Some((_, to)) if first <= to.next() => *to = last.max(*to),
            _ => merged.push((first, last)),
        }
    }
    merged
}

impl Replica {
    /// What of the log can't be read, and nobody gave again yet: first and last LSN, in order.
    #[must_use]
    pub fn damaged(&self) -> &[(Lsn, Lsn)] {
        self.damage.ranges()
    }

    /// What is damaged first, from one LSN to another, if nobody who is connected can give all of that: as far as the state has it,
    /// durably, and if there are other nodes, the log may as well begin behind it (where the state is, if nothing of the log names that).
    /// What is left then somebody may have.
    #[must_use]
    pub fn unmendable(&self) -> Option<(Lsn, Lsn)> {
        let (first, last) = self.damage.ranges.first().copied()?;
        let may_wait = self.damage.asked.is_some() || self.is_mending() || self.connected.is_empty();
        let has_not = |peer: &NodeId| self.damage.refused_by.contains(peer) || self.damage.is_damaged_at(*peer, first);
        // While a snapshot is being installed, the state is about to be another's, and the log is not the one that it came from.
        let may_wait = may_wait || self.installing.is_some();
        Some((first, last)).filter(|_| !may_wait && self.connected.keys().all(has_not))
    }

    fn is_mending(&self) -> bool {
        self.under_way.iter().any(|(_, purpose)| matches!(purpose, Purpose::Mended(..)))
    }

    /// How often a peer gave what does not fit the log where it is damaged.
    #[must_use]
    pub const fn mends_refused(&self) -> u64 {
        self.mends_refused
    }

    /// The driver came upon something that can't be read, or released it.
    pub(super) fn damage_found(&mut self, read: Lsn, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        self.damage.read_to = read;
        let under_way = self.under_way.iter().filter_map(|(_, purpose)| match purpose {
            Purpose::Mended(first, last) => Some((*first, *last)), // Not yet durable.
            _ => None,
        });
        let ranges = within(log.damaged().into_iter().chain(under_way).collect(), self.end.lsn);
        if ranges == self.damage.ranges {
            self.seek_mend(log, out);
            return;
        }
        self.damage.ranges = ranges;
        self.damage.asked = None;
        self.damage.ask_all_again();
        if self.damage.is_none() {
            self.is_whole(now_micros, log, out);
            return;
        }
        if planted(Mutant::TruncateDamage) {
            self.drop_damaged(log, out);
            return;
        }
        self.announce_damage(out);
        self.seek_mend(log, out);
    }

    /// The planted bug: what can't be read is cut off, as if it had never been there.
    pub(super) fn drop_damaged(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        if let Some((first, _)) = self.damage.ranges.first().copied() {
            self.committed = self.committed.min(first.prev());
            let to = self.boundary_at_or_before(first.prev(), log);
            self.truncate(to, out);
        }
    }

    /// Tells everybody what is damaged here: a leader that adopts asks elsewhere, and who was refused asks again.
    pub(super) fn announce_damage(&self, out: &mut Vec<Output>) {
        self.connected.keys().for_each(|peer| self.tell_damage(*peer, out));
    }

    pub(super) fn tell_damage(&self, to: NodeId, out: &mut Vec<Output>) {
        let message = Message::Damaged { epoch: self.promise.epoch, ranges: self.damage.told() };
        out.push(Output::Send { to, message });
    }

    pub(super) fn damage_told(
        &mut self,
        from: NodeId,
        ranges: Vec<(Lsn, Lsn)>,
        now_micros: u64,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        self.damage.refused_by.remove(&from);
        let progress = self.leadership.as_mut().and_then(|leadership| leadership.progress.get_mut(&from));
        if let Some((progress, (first, _))) = progress.zip(ranges.first()) {
            // I1: what it acknowledged before, that disk does not hold whole any more.
            progress.lower_durable(first.prev(), None);
        }
        if ranges.is_empty() {
            self.damage.peers.remove(&from);
        } else {
            self.damage.peers.insert(from, ranges);
        }
        self.seek_mend(log, out);
        self.adopt_if_stuck(now_micros, log, out);
    }

    /// A connection came: whoever is behind it may have what is missing.
    pub(super) fn damage_peer_up(&mut self, peer: NodeId, log: &dyn LogView, out: &mut Vec<Output>) {
        self.damage.refused_by.remove(&peer);
        self.damage.states_asked.remove(&peer);
        if !self.damage.is_none() {
            if planted(Mutant::TruncateDamage) {
                self.drop_damaged(log, out);
                return;
            }
            self.tell_damage(peer, out);
            self.seek_mend(log, out);
        }
    }

    pub(super) fn damage_peer_down(&mut self, peer: NodeId, log: &dyn LogView, out: &mut Vec<Output>) {
        self.damage.peers.remove(&peer);
        self.damage.asked = self.damage.asked.filter(|asked| asked.of != peer);
        self.damage.states_asked.remove(&peer);
        self.damage.state_of = self.damage.state_of.filter(|of| *of != peer);
        self.seek_mend(log, out);
        self.answer_at_last(None, log, out);
    }

    /// Asks for what is damaged first, unless somebody was asked already: the leader before others (a new leader: who has the best log of
    /// those that promised), and as soon as it can be. Otherwise one whose disk hangs, and who came first, would be waited for as long
    /// as its connection stands.
    pub(super) fn seek_mend(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some((first, last)) = self.damage.ranges.first().copied() else { return };
        if self.is_mending() || self.installing.is_some() {
            return;
        }
        let may = |peer: &NodeId| {
            self.connected.contains_key(peer)
                && !self.damage.refused_by.contains(peer)
                && !self.damage.is_damaged_at(*peer, first)
        };
        // Of a new leader the one whose log it takes over.
        let adopted = self.leadership.as_deref().filter(|l| !l.is_feeding()).map(|l| best_but(self.id, &l.promises));
        let first_of_all = adopted.unwrap_or(self.promise.leader).filter(may);
        if self.damage.asked.is_some_and(|asked| first_of_all.is_none_or(|peer| asked.of == peer)) {
            return;
        }
        let peer = first_of_all.or_else(|| self.connected.keys().copied().find(may));
        let Some((of, after)) = peer.zip(self.position_at(first.prev(), log)) else {
            self.seek_state(log, out);
            return;
        };
        let to = self.known_from(last, log);
        self.damage.asked = Some(Asked { of, after, to });
        let bytes_max = u32::try_from(CATCH_UP_READ_BYTES).unwrap_or(u32::MAX);
        let message = Message::MendWanted { epoch: self.promise.epoch, after, to, bytes_max };
        out.push(Output::Send { to: of, message });
    }

    /// What tells that another has the very batches up to `lsn`: the first position from there on that is known here. The nearest:
    /// whoever has that may lack all that comes later.
    fn known_from(&self, lsn: Lsn, log: &dyn LogView) -> LogPosition {
        if let Some(at) = self.position_at(lsn, log).or_else(|| log.damage_end(lsn)) {
            return at;
        }
        first_boundary(lsn, self.end, |lsn| Some(self.boundary_at_or_before(lsn, log)))
    }

    /// Nobody has what the state needs next: somebody's state has it. A follower says to its leader that its log ends where it can
    /// be read; a new leader asks those who promised, one after the other, for what is behind that. Who has released it offers a
    /// snapshot. A leader that feeds others already waits: if that does not help it gives up.
    fn seek_state(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        let sound = self.damage.sound_to();
        let is_due = self.unmendable().is_some() && self.damage.bars(self.end.lsn);
        let is_due = is_due && self.damage.state_of.is_none() && self.fetching.is_none();
        let Some(end) = self.position_at(sound, log).filter(|_| is_due) else { return };
        let epoch = self.promise.epoch;
        let may = |node: &NodeId| self.connected.contains_key(node) && !self.damage.states_asked.contains(node);
        let (to, message) = match &self.leadership {
            None => {
                let log = self.summary_to(end, log);
                // Before it is at work it does not hear that.
                let leader = self.promise.leader.filter(|leader| may(leader) && self.told_since_doubt.is_some());
                (leader, Message::Mismatch { epoch, prev: end.lsn, log })
            }
            Some(leadership) if leadership.phase == Phase::Mending => {
                let to = leadership.promises.keys().copied().find(may);
                (to, Message::Fetch { epoch, after: end, bytes_max: 1 })
            }
            Some(_) => return,
        };
        let Some(to) = to else { return };
        self.damage.state_of = Some(to);
        self.damage.states_asked.insert(to);
        out.push(Output::Send { to, message });
    }

    /// What a leader is told of the log while it is to give its state: the log ends where it can be read.
    pub(super) fn summary_told(&self, log: &dyn LogView) -> LogSummary {
        let end = self.damage.state_of.and_then(|_| self.position_at(self.damage.sound_to(), log));
        // Its state has what lies before this, and nothing else that it holds there has a name.
        self.summary_to(end.or_else(|| self.named(log)).unwrap_or(self.end), log)
    }

    fn summary_to(&self, end: LogPosition, log: &dyn LogView) -> LogSummary {
        let mut summary = self.summary(log);
        summary.epochs.retain(|(epoch, start)| *start <= end.lsn && *epoch <= end.epoch);
        if end.lsn > Lsn::ZERO && summary.epochs.last().is_none_or(|(epoch, _)| *epoch < end.epoch) {
            summary.epochs.push((end.epoch, end.lsn)); // Where it began has no name.
        }
        summary.end = end;
        summary
    }

    /// Who was asked for its state has none to offer: it has the log, or another one.
    pub(super) fn no_state_of(&mut self, peer: NodeId, log: &dyn LogView, out: &mut Vec<Output>) {
        if self.damage.state_of.take_if(|of| *of == peer).is_some() {
            self.seek_mend(log, out);
        }
    }

    /// A peer asks for what it can't read. Promises play no part: the two positions say all.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn mend_wanted(
        &self,
        from: NodeId,
        epoch: Epoch,
        after: LogPosition,
        to: LogPosition,
        bytes_max: u32,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let has = |at: LogPosition| self.position_at(at.lsn, log) == Some(at);
        let ours = (has(after) && has(to)) || planted(Mutant::TrustMend);
        let reads = ours && self.installing.is_none() && self.damage.sound_to() > after.lsn;
        if reads {
            let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(CATCH_UP_READ_BYTES);
            out.push(Output::ReadLog { peer: from, after, bytes_max, purpose: ReadPurpose::Mend { epoch, to } });
        } else {
            out.push(Output::Send { to: from, message: Message::Mend { epoch, after, batches: Vec::new() } });
        }
    }

    /// What was asked for came, or nothing.
    pub(super) fn mend_received(
        &mut self,
        from: NodeId,
        after: LogPosition,
        batches: Vec<Batch>,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let asked = self.damage.asked.filter(|asked| asked.of == from && asked.after == after);
        let Some((asked, (_, last))) = asked.zip(self.damage.ranges.first().copied()) else { return };
        self.damage.asked = None;
        let (mut at, mut fits) = (asked.after, true);
        let takes = log.mendable(&batches); // What is on both sides of the damage, the log alone knows.
        for (i, batch) in batches.into_iter().enumerate() {
            let there = self.position_at(batch.last_lsn(), log);
            if batch.last_lsn() > last {
                break;
            }
            fits = batch.follows(&at) && batch.log() == self.log_id && there.is_none_or(|at| at == batch.position());
            // I2: no epoch that is newer than what lies behind it.
            fits &= batch.epoch() <= asked.to.epoch && i < takes;
            if !fits && !planted(Mutant::TrustMend) {
                break;
            }
            at = batch.position();
            let purpose = Purpose::Mended(batch.first_lsn(), at.lsn);
            // DURABLE: only then it is acknowledged, fed or applied (attacked by
            // `every_crash_leaves_the_log_as_damaged_as_it_was_or_mended`).
            self.persist(LogWrite::Mend(batch), purpose, out);
        }
        self.mends_refused += u64::from(!fits);
        if at == asked.after {
            self.damage.refused_by.insert(from);
            self.seek_mend(log, out);
            self.answer_at_last(Some(from), log, out);
        }
    }

    /// A batch is there again, durably.
    pub(super) fn mended(
        &mut self,
        (first, last): (Lsn, Lsn),
        now_micros: u64,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        self.damage.remove(first, last);
        if !self.damage.is_none() {
            self.seek_mend(log, out);
            if !self.is_mending() {
                if std::mem::take(&mut self.damage.owes_answer) {
                    // What it was fed behind that was dropped: it says from where on it is to be fed again. What was put again since is
                    // progress, also if nobody gives the rest.
                    self.say_log(log, out);
                }
                self.adopt_if_stuck(now_micros, log, out);
            }
            return;
        }
        self.is_whole(now_micros, log, out);
    }

    /// Nothing is damaged any more: what waited for that goes on.
    fn is_whole(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        // A state was on its way for what is there again, perhaps. Otherwise it is offered again, and what is here of it counts.
        let was_fetching = self.fetching.take().is_some();
        self.damage.ask_all_again();
        self.damage.owes_nothing();
        self.announce_damage(out);
        let waits = was_fetching || self.leadership.as_deref().is_some_and(|l| l.mends_behind.is_some());
        match self.phase() {
            None => self.say_log_to_any(log, out),
            Some(Phase::Mending | Phase::Fencing) => self.adopt_again(now_micros, log, out),
            Some(Phase::Adopting { .. }) if waits => self.adopt_again(now_micros, log, out),
            Some(Phase::Adopting { .. }) => self.adopt_if_stuck(now_micros, log, out),
            Some(_) => self.advance_leader(log, out), // Its own disk counts again.
        }
    }

    /// Says what the log is to who leads: also to one that is not at work yet, and goes by what was promised.
    fn say_log_to_any(&self, log: &dyn LogView, out: &mut Vec<Output>) {
        let leader = self.promise.leader.filter(|leader| self.connected.contains_key(leader));
        let is_promised = !self.under_way.iter().any(|(_, purpose)| matches!(purpose, Purpose::Promise(_)));
        match leader {
            Some(leader) if self.told_since_doubt.is_none() && is_promised => self.say_promise(leader, log, out),
            _ => self.say_log(log, out),
        }
    }

    /// Somebody has more durably than it had: perhaps what it was asked for before it could read that.
    pub(super) fn ask_again_for_damage(
        &mut self,
        peer: NodeId,
        durable: Lsn,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let has = self.damage.ranges.first().is_some_and(|(first, _)| *first <= durable);
        if has && self.damage.refused_by.remove(&peer) {
            self.seek_mend(log, out);
        }
    }

    /// Whether, and from where on, a leader may put again what it feeds: see [`Self::mend_by`].
    pub(super) fn mending(&self) -> Option<Mending> {
        let (first, _) = self.damage.ranges.first().filter(|_| self.installing.is_none() && !self.is_mending())?;
        Some(Mending { next: *first, batches: Vec::new() })
    }

    /// A leader feeds what this log holds and can't read, from its memory perhaps: it is as good as asked for.
    pub(super) fn mend_by(
        &mut self,
        batch: &Batch,
        mending: &mut Option<Mending>,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let (first, last) = (batch.first_lsn(), batch.last_lsn());
        let Some(mending) = mending.as_mut().filter(|mending| mending.next == first) else {
            // What comes behind what is being put again is not taken, and is to be sent again when that is there.
            self.damage.owes_answer |= self.is_mending() && self.damage.around(first, last).is_some();
            return;
        };
        if self.damage.ranges.first().is_none_or(|(_, to)| last > *to) {
            return;
        }
        mending.batches.push(batch.clone());
        if log.mendable(&mending.batches) < mending.batches.len() {
            mending.batches.pop();
            return;
        }
        mending.next = last.next();
        self.damage.asked = None;
        self.persist(LogWrite::Mend(batch.clone()), Purpose::Mended(first, last), out);
    }

    /// What a leader's next batches are here, of which the first does not begin behind the own log. Where that is damaged, and no
    /// batch of it is known by name, those behind it tell: the chain covers all before.
    pub(super) fn compare(&self, from: NodeId, batches: &[Batch], log: &dyn LogView) -> Fed {
        let same = |is_same: bool| if is_same { Fed::Here } else { Fed::Another };
        let Some(next) = batches.first() else { return Fed::Unknown };
        let hidden = self.damage.around(next.first_lsn(), next.last_lsn());
        if self.held(next.epoch(), next.first_lsn(), next.last_lsn(), log) {
            return Fed::Here; // Whatever comes behind it, and whether or not the leader was able to give it before.
        }
        let is_led = self.leadership.is_none() && self.promise.leader == Some(from);
        if is_led && next.last_lsn() <= self.matched && self.is_unnamed_damage(next.last_lsn(), log) {
            return Fed::Here; // The two logs were found to be the same further on.
        }
        for batch in batches {
            let at = batch.position();
            if at.lsn > self.end.lsn || at.epoch > self.end.epoch {
                return Fed::Another;
            }
            match self.position_at(at.lsn, log) {
                Some(ours) => return same(ours == at),
                // I2: what is committed is in every leader's log.
                None if hidden.is_some() && next.first_lsn() <= self.committed => return Fed::Here,
                None if hidden.is_some() && self.damage.around(at.lsn, at.lsn).is_some() => {}
                None => return Fed::Another,
            }
        }
        // It does not have what is behind that: whom it feeds has lost it.
        let (first, _) = hidden.unwrap_or_default();
        if self.damage.was_refused_by(from, first) { Fed::Another } else { Fed::Unknown }
    }

    /// I1: whether what lies at these LSNs, and is not known by name, is this epoch's. Then it is what every log holds that has that epoch
    /// there: an epoch has one history (I2). Where each begins is known as long as nothing is in doubt; of damage without names that an
    /// open came upon, the log is. Nobody need have come upon it as damage yet: its names may be what can't be read at this moment.
    fn held(&self, epoch: Epoch, first: Lsn, last: Lsn, log: &dyn LogView) -> bool {
        let is_unread = self.suspect.is_none() && last <= self.end.lsn && self.position_at(last, log).is_none();
        is_unread && {
            let epochs = log.epochs();
            let is_of = |lsn: Lsn| {
                let before = epochs.partition_point(|(_, start)| *start <= lsn).checked_sub(1);
                before.and_then(|at| epochs.get(at)).is_some_and(|(of, _)| *of == epoch)
            };
            is_of(first) && is_of(last)
        }
    }

    /// Whether the log has this position of a log whose leader gives its state, which is committed: also where it can't read it.
    pub(super) fn holds(&self, at: LogPosition, log: &dyn LogView) -> bool {
        let is_committed = || at.lsn <= self.committed && self.damage.around(at.lsn, at.lsn).is_some();
        match self.position_at(at.lsn, log) {
            Some(ours) => ours == at,
            None => is_committed() || self.held(at.epoch, at.lsn, at.lsn, log),
        }
    }

    /// I1: whether it is known of a log in doubt, which can't name this position, that it has it all the same, as whoever gives that
    /// state has it: the two logs are the same up to something behind that, whose chain covers all before.
    pub(super) fn shares(&self, at: LogPosition, giver: NodeId, log: &dyn LogView) -> bool {
        self.is_unnamed_damage(at.lsn, log)
            && match &self.leadership {
                None => self.promise.leader == Some(giver) && at.lsn <= self.matched,
                Some(leadership) => leadership.promises.get(&giver).is_some_and(|promised| {
                    let end = promised.log.end;
                    at.lsn <= end.lsn && self.position_at(end.lsn, log) == Some(end)
                }),
            }
    }

    /// Whether it ends damage of which no batch is known by name, so that what is behind it can be read all the same. Whoever
    /// asks sees by the chain whether that follows.
    pub(super) fn can_read_behind(&self, lsn: Lsn, log: &dyn LogView) -> bool {
        self.damage.ranges.iter().any(|(_, last)| *last == lsn) && self.position_at(lsn, log).is_none()
    }

    /// Whether it can't say yet if a position of its leader is in its log: it has asked for what is damaged there, and says then what
    /// its log is. So it does of what comes behind that while some of it is being put again: it would be sent the same at once.
    pub(super) fn awaits_mend_at(&mut self, prev: Lsn, log: &dyn LogView) -> bool {
        let is_hidden = self.damage.around(prev, prev).is_some() && self.position_at(prev, log).is_none();
        let is_behind = self.is_mending() && prev > self.damage.sound_to();
        let awaits = is_behind || (is_hidden && self.damage.asked.is_some());
        self.damage.owes_answer |= awaits;
        awaits
    }

    /// A batch that lies in damage, or behind what may be cut off there, is not taken before what is being put again is there: it says
    /// then from where on it is to be fed. (Of what is behind its log's end it hears again when it is whole.)
    pub(super) fn owes_answer_for_mend(&mut self) {
        self.damage.owes_answer |= self.is_mending();
    }

    /// Nobody gives what it waits for, or its leader does not: it says what its log is all the same.
    fn answer_at_last(&mut self, refused_by: Option<NodeId>, log: &dyn LogView, out: &mut Vec<Output>) {
        let is_over = self.damage.asked.is_none() || self.promise.leader == refused_by;
        if is_over && std::mem::take(&mut self.damage.owes_answer) && self.damage.state_of.is_none() {
            self.say_log(log, out); // Who is asked for its state has heard it.
        }
    }
}

/// What a leader has put again in one step.
#[derive(Debug)]
pub(super) struct Mending {
    /// What is next.
    pub(super) next: Lsn,
    batches: Vec<Batch>,
}

/// How what a leader feeds stands to the own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fed {
    /// It is there.
    Here,
    /// Something else is there, or nothing yet.
    Another,
    /// That can't be said yet.
    Unknown,
}

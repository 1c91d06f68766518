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
//! where the own log says that a batch ended; what does not is refused, counted, and asked for elsewhere. Where everybody was
//! asked and has nothing, it waits: for a peer to come, or to say that it was mended itself. A leader that waits so for as long as its
//! bound says leads no more, and says why (`quorum`); nothing is cut off (D16).

use super::{LogView, LogWrite, Output, Phase, Purpose, ReadPurpose, Replica};
use crate::model::limits::{CATCH_UP_READ_BYTES, DAMAGED_RANGES_NAMED_MAX};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Epoch, LogPosition, Lsn, Message, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use towline_wal::Batch;

/// The damage of one log, and what is known of that of others.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Damage {
    /// First and last LSN, in order.
    ranges: Vec<(Lsn, Lsn)>,
    /// Up to here the log may have been read for the state before it was known to be damaged.
    read_to: Lsn,
    /// Who was asked, and for what.
    asked: Option<Asked>,
    /// Who has nothing of it, or is not believed.
    refused_by: BTreeSet<NodeId>,
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
        Self { ranges: within(log.damaged(), log.end().lsn), read_to: applied, ..Self::default() }
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

    /// Up to where the log can be read for the state: damage of what it may hold already is not in the way, nor does what may
    /// be applied ever become less.
    pub(super) fn readable_to(&self) -> Lsn {
        let next = self.ranges.iter().find(|(_, last)| *last > self.read_to);
        next.map_or(Lsn::MAX, |(first, _)| first.prev().max(self.read_to))
    }

    /// Whether a peer said that it can't read this.
    pub(super) fn is_damaged_at(&self, peer: NodeId, lsn: Lsn) -> bool {
        self.peers.get(&peer).is_some_and(|ranges| ranges.iter().any(|(first, last)| *first <= lsn && *last >= lsn))
    }

    /// Nothing is left of the log from here on. Whether that took damage away.
    pub(super) fn cut_off(&mut self, to: Lsn) -> bool {
        let before = self.ranges.len();
        self.ranges = within(std::mem::take(&mut self.ranges), to);
        self.asked = None;
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

    /// How often a peer gave what does not fit the log where it is damaged.
    #[must_use]
    pub const fn mends_refused(&self) -> u64 {
        self.mends_refused
    }

    /// The driver came upon something that can't be read.
    pub(super) fn damage_found(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        let under_way = self.under_way.iter().filter_map(|(_, purpose)| match purpose {
            Purpose::Mended(first, last) => Some((*first, *last)), // Not yet durable.
            _ => None,
        });
        let ranges = within(log.damaged().into_iter().chain(under_way).collect(), self.end.lsn);
        if ranges == self.damage.ranges {
            self.seek_mend(log, out);
            return;
        }
        self.damage.read_to = self.applicable();
        self.damage.ranges = ranges;
        self.damage.refused_by.clear();
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
        self.connected.iter().for_each(|peer| self.tell_damage(*peer, out));
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
        self.seek_mend(log, out);
    }

    /// Asks for what is damaged first, unless somebody was asked already: the leader before others.
    pub(super) fn seek_mend(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        let is_under_way = self.under_way.iter().any(|(_, purpose)| matches!(purpose, Purpose::Mended(..)));
        let Some((first, last)) = self.damage.ranges.first().copied() else { return };
        if self.damage.asked.is_some() || is_under_way || self.installing.is_some() {
            return;
        }
        let may = |peer: &NodeId| {
            self.connected.contains(peer)
                && !self.damage.refused_by.contains(peer)
                && !self.damage.is_damaged_at(*peer, first)
        };
        let peer = self.promise.leader.into_iter().chain(self.connected.iter().copied()).find(may);
        let Some((of, after)) = peer.zip(self.position_at(first.prev(), log)) else { return };
        let to = self.position_at(last, log).unwrap_or(self.end);
        self.damage.asked = Some(Asked { of, after, to });
        let bytes_max = u32::try_from(CATCH_UP_READ_BYTES).unwrap_or(u32::MAX);
        let message = Message::MendWanted { epoch: self.promise.epoch, after, to, bytes_max };
        out.push(Output::Send { to: of, message });
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
        for batch in batches {
            let there = self.position_at(batch.last_lsn(), log);
            if batch.last_lsn() > last {
                break;
            }
            fits = batch.follows(&at) && batch.log() == self.log_id && there.is_none_or(|at| at == batch.position());
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
            return;
        }
        self.damage.refused_by.clear();
        self.announce_damage(out);
        match self.phase() {
            None => self.say_log(log, out),
            Some(Phase::Mending) => self.adopt_again(now_micros, log, out),
            Some(_) => self.feed_all(log, out),
        }
    }
}

//! A leader that can't reach a majority stops leading: whoever waits for it hears so within a bound, instead of never.
//!
//! Safety needs none of it: what no majority holds is not acknowledged, however long it waits. It is for those who wait, and for
//! the control plane, which may know somebody who reaches a majority. Two things end a leadership when they last as long as the
//! bound: that fewer than a majority of the voters are connected; and that something waits for a majority which comes no nearer,
//! though connections stand (followers whose disks hang, links that are open at one end only). Writes and reads are watched
//! apart: a follower whose disk hangs still confirms reads.
//!
//! A third thing does, though it is not the majority's: that its own disk makes nothing durable of what the others have committed.
//! It may not apply that, so nobody would hear of a write from it again, and no read be served, as long as its disk hangs.
//!
//! What ends is the leadership, and nothing else. The log stays as it is, and so does the promise: this replica accepts nothing
//! older than the epoch that it led, never leads that epoch again, and follows whoever is assigned a newer one.
//!
//! An assignment that gets no quorum ends as well, in each phase before it serves. It would gather its promises on its own if
//! the voters came back, but until then the control plane would take it for a leader at work. To assign anew when they are back
//! costs one promise; and one that makes progress, be it as slow as a large log is fetched, does not end. Two waits are not
//! for a majority of others: in `Activating` the control plane is to answer; and a replica that is the only voter has nobody to
//! lose, and nobody who could lead in its place.

use super::leader::{Leadership, counts};
use super::mend::Damage;
use super::{LogView, Output, Phase, Replica};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Lsn, NodeId};
use std::time::Duration;

/// Ticks of one bound. Time is seen at ticks only: what begins between two counts from the second, so that a leadership ends
/// after the bound and one of these parts at the latest, and never before the bound.
const TICKS: u32 = 4;

/// Why a leader gave up.
///
/// ```
/// use std::time::Duration;
/// use towline::replica::{Input, Output, Promise, QuorumLost, Replica};
/// # use towline::model::{Epoch, Lsn, NodeId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me, peer]);
/// # let log = Memory(master.log(), vec![]);
/// # let assignment = master.assign(me, Epoch::ZERO).ok_or("no epoch is left")?;
/// let bound = Duration::from_secs(2);
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log).with_quorum_bound(bound);
/// replica.step(0, Input::Assign(assignment), &log);
/// // The peer never comes. Whoever drives the replica gives it the time when it asks for it.
/// let (mut now, mut said) = (Duration::ZERO, vec![]);
/// while let Some(at) = replica.next_tick() {
///     now = now.max(at);
///     said.extend(replica.step(0, Input::Tick(now), &log));
/// }
/// let [Output::SteppedDown { reason, .. }] = said[..] else { return Err("it has given up") };
/// assert_eq!((reason, now), (QuorumLost::VotersAway, bound));
/// assert_eq!(replica.phase(), None);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuorumLost {
    /// Fewer than a majority of the voters were connected.
    #[error("it is not connected to a majority of the voters")]
    VotersAway,
    /// A majority was connected, and what waited came no nearer to being durable there.
    #[error("a majority of the voters makes nothing durable")]
    NothingDurable,
    /// Nothing says here whose the votes are, and another voter's log holds more than this one's.
    #[error("no log says here whose the votes are, and another node's log holds more: assign that node")]
    Bettered,
    /// Everybody who was there has promised, and something of the log that is to be taken over can't be read by any of them: its
    /// records, or the one that says whose the votes are.
    #[error("a part of the log can't be read at any voter that it reaches")]
    Damaged,
    /// A majority has committed what came no nearer to being durable here (D26).
    #[error("its own disk makes nothing durable")]
    OwnDiskHangs,
    /// A majority was connected, and did not say that its promise still stands.
    #[error("a majority of the voters confirms no read")]
    NothingConfirmed,
}

/// What a leader watches of its majority.
#[derive(Debug, Clone, Default)]
pub(super) struct Quorum {
    /// The highest position that a majority held durably.
    secured: Lsn,
    /// The time of the last tick; none before the first of this leadership.
    last: Option<Duration>,
    voters: Watch,
    log: Watch,
    /// That what is committed can be read for the state, and what is taken over before an epoch starts on it.
    mended: Watch,
    own: Watch,
    reads: Watch,
}

/// One thing that is waited for.
#[derive(Debug, Clone, Default)]
struct Watch {
    /// How far it has come; none while nothing waits for it.
    reached: Option<Mark>,
    /// For how long it has come no further, as ticks told; none if there was no tick since.
    waited: Option<Duration>,
}

/// How far something has come: a stage, how far in that, and how much of the state is here that leads on from there.
type Mark = (u8, u64, u64);

impl Watch {
    fn look(&mut self, at: Option<Mark>) {
        match (self.reached, at) {
            (Some(before), Some(at)) if at <= before => {}
            _ => *self = Self { reached: at, waited: None },
        }
    }

    /// Time has passed; says how long it has waited.
    fn pass(&mut self, elapsed: Duration) -> Duration {
        if self.reached.is_some() {
            self.waited = Some(self.waited.map_or(Duration::ZERO, |waited| waited + elapsed));
        }
        self.waited.unwrap_or_default()
    }
}

impl Quorum {
    /// A majority holds this much.
    pub(super) fn note_secured(&mut self, secured: Lsn) {
        self.secured = self.secured.max(secured);
    }

    fn waits(&self) -> bool {
        [&self.voters, &self.log, &self.mended, &self.own, &self.reads].iter().any(|watch| watch.reached.is_some())
    }
}

/// How many of these voters are connected, with the disk that has the vote; the leader is, if it has one.
fn reached(leadership: &Leadership, leader: Option<NodeId>, voters: &[NodeId]) -> usize {
    let is_there = |voter: &NodeId| leadership.progress.get(voter).is_some_and(|p| p.is_connected() && p.counts());
    voters.iter().filter(|voter| Some(**voter) == leader || is_there(voter)).count()
}

/// How far the log is that a leader waits for: none while it waits for no voter.
fn log_mark(
    leadership: &Leadership,
    voters: &[NodeId],
    (committed, end): (Lsn, Lsn),
    damage: &Damage,
    fetched: u64,
) -> Option<Mark> {
    let secured = leadership.quorum.secured.get();
    match leadership.phase {
        Phase::Fencing => {
            let promised = voters.iter().filter(|voter| leadership.promises.contains_key(voter)).count();
            Some((0, promised as u64, 0))
        }
        Phase::Mending => None, // It has a watch of its own: it may come in the middle of adopting.
        // What it has of the other log, and of its own.
        Phase::Adopting { .. } => Some((2, end.get(), mend_mark(damage, fetched).1.saturating_add(fetched))),
        Phase::Starting => Some((3, secured, 0)),
        Phase::Activating => None,
        Phase::Serving => (committed < end).then_some((4, secured, 0)),
    }
}

/// How far it is with what it can't read.
fn mend_mark(damage: &Damage, fetched: u64) -> Mark {
    let damaged: u64 = damage.ranges().iter().map(|(first, last)| first.distance_to(*last).unwrap_or(0) + 1).sum();
    (0, (u64::MAX >> 1).saturating_sub(damaged), fetched)
}

impl Replica {
    /// The same replica, which leads without a majority for so long and no longer.
    ///
    /// A bound that is shorter than a healthy majority takes for its largest batch ends each leadership in which one is
    /// written; below four milliseconds there is none.
    #[must_use]
    pub fn with_quorum_bound(self, bound: Duration) -> Self {
        Self { quorum_bound: bound.max(Duration::from_millis(4)), ..self }
    }

    /// When it wants the next [`Input::Tick`](super::Input::Tick), on the clock of the ticks before; none while there is
    /// nothing to time, as in a shard that is idle and has its majority. A time that is past means at once.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        let quorum = &self.leadership.as_ref()?.quorum;
        quorum.waits().then(|| quorum.last.map_or(Duration::ZERO, |last| last + self.quorum_bound / TICKS))
    }

    /// After each step: notes what waits for a majority now, and whether it has come nearer.
    pub(super) fn watch_quorum(&mut self) {
        let (id, committed, durable, end) = (self.id, self.committed, self.durable.lsn, self.end.lsn);
        let fetched = self.state_fetched();
        let Some(leadership) = self.leadership.as_deref_mut() else { return };
        let assignment = &leadership.assignment;
        let (voters, needed) = match leadership.start {
            None => (&assignment.fence, assignment.fence_quorum),
            Some(_) => (&assignment.voters, assignment.majority()),
        };
        let is_alone = voters[..] == [id];
        let own_counts = counts(&assignment.directories, id, self.directory);
        let away = reached(leadership, own_counts.then_some(id), voters) < needed;
        let log = log_mark(leadership, voters, (committed, end), &self.damage, fetched).filter(|_| !is_alone);
        // What is committed can't be read for the state: nobody hears what became of a write. Other than the majority, it may come
        // nearer or not.
        let barred = leadership.phase == Phase::Serving && self.damage.bars(committed) && !is_alone;
        let mends = leadership.phase == Phase::Mending && !is_alone;
        let mended = (barred || mends).then(|| mend_mark(&self.damage, fetched));
        let own = (durable < committed && !is_alone).then_some((0, durable.get(), 0));
        let reads = (leadership.reads.waits() && !is_alone).then(|| (0, leadership.reads.rounds_ended(), 0));
        let quorum = &mut leadership.quorum;
        quorum.voters.look(away.then_some((0, 0, 0)));
        quorum.log.look(log);
        quorum.mended.look(mended);
        quorum.own.look(own);
        quorum.reads.look(reads);
    }

    /// Time has passed: gives up what has lasted too long.
    ///
    /// Of a long time without a tick only a part counts: a process that stood still did not hear what the others said
    /// meanwhile, and hears it first.
    pub(super) fn tick(&mut self, now: Duration, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let bound = self.quorum_bound;
        let Some(leadership) = self.leadership.as_deref_mut() else { return };
        let quorum = &mut leadership.quorum;
        let elapsed = now.saturating_sub(quorum.last.unwrap_or(now)).min(bound / 2);
        quorum.last = Some(now);
        let waits = [
            (QuorumLost::VotersAway, quorum.voters.pass(elapsed)),
            (QuorumLost::NothingDurable, quorum.log.pass(elapsed)),
            (QuorumLost::Damaged, quorum.mended.pass(elapsed)),
            (QuorumLost::OwnDiskHangs, quorum.own.pass(elapsed)),
            (QuorumLost::NothingConfirmed, quorum.reads.pass(elapsed)),
        ];
        let lacks = matches!(leadership.phase, Phase::Adopting { .. }) && leadership.asked.is_none();
        let lacks = lacks || (leadership.phase == Phase::Fencing && leadership.votes_unknown);
        let lost = waits.into_iter().find(|(_, waited)| *waited >= bound);
        let lost = lost.map(|(reason, waited)| match reason {
            QuorumLost::NothingDurable if lacks => (QuorumLost::Damaged, waited),
            reason => (reason, waited),
        });
        match lost.filter(|_| !planted(Mutant::NeverStepDown)) {
            Some((reason, _)) => self.step_down(reason, out),
            // Of what its own disk could not say, or another's, nobody tells when it can.
            None => self.adopt_if_stuck(now_micros, log, out),
        }
    }

    /// Leads no more, and not this epoch again: I1, I7: from here on it acknowledges nothing and confirms no read.
    pub(super) fn step_down(&mut self, reason: QuorumLost, out: &mut Vec<Output>) {
        let epoch = self.promise.epoch;
        if !planted(Mutant::LeadAfterSteppingDown) {
            self.end_leadership(out);
        }
        out.push(Output::SteppedDown { epoch, reason });
    }
}

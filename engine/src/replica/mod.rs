//! One shard's agreement: a state machine without I/O, clock, thread or chance.
//!
//! [`Replica::step`] takes one [`Input`] and returns what to do, as [`Output`]s in order. The same code runs on
//! real threads (`node`), in the simulator (`sim`), and under exhaustive search.
//!
//! Every change of leader or voters is one mechanism, an [`Assignment`] with a newer
//! epoch: *fence* (a majority of the voters of the last activated assignment promise to accept nothing older),
//! *adopt* (the leader takes over the best log among the promises), *start* (an `EpochStart` becomes durable on a
//! majority of the new voters), *activate* (the control plane accepts it). Only then does anything of the epoch
//! commit. This is primary-backup with reconfiguration by an outside master (Vertical Paxos; PacificA), with
//! commit at a majority.
//!
//! Open these in order: `step` (what goes in and out), `promise` and `follower` (what a replica accepts),
//! `leader` (the phases), `adopt`, `commit` (one rule each), `progress` and `feed` (what followers are sent), `reads` (what a
//! linearizable read waits for), `freshness` (how old a follower's state is at the most), `votes` (whose disks vote, where each
//! node is its own master), `quorum` (when a leader gives up), `snapshot` and `mark` (the state, where the log is gone), `mend` (what can't be read, and comes back from another).

mod adopt;
#[cfg(test)]
mod adopt_test;
mod commit;
#[cfg(test)]
mod doubt_test;
mod feed;
#[cfg(feature = "sim")]
mod fingerprint;
mod follower;
mod freshness;
mod leader;
mod mark;
mod mend;
#[cfg(test)]
mod mend_test;
mod progress;
mod promise;
mod quorum;
#[cfg(test)]
mod quorum_test;
mod reads;
#[cfg(test)]
mod reads_test;
#[cfg(test)]
mod replica_test;
#[cfg(test)]
mod rules_test;
mod snapshot;
#[cfg(test)]
mod snapshot_test;
mod step;
#[cfg(test)]
mod transfer_test;
#[cfg(test)]
mod unnamed_test;
mod votes;
#[cfg(test)]
mod votes_test;

use crate::model::control_record::majority_of;
use crate::model::limits::{EPOCHS_NAMED_MAX, QUORUM_LOST_AFTER_DEFAULT};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Assignment, DirectoryId, Epoch, LogId, LogPosition, LogSummary, Lsn, NodeId};
use leader::Leadership;
use mend::Damage;
use snapshot::{Fetching, Installing};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use freshness::Freshness;
pub use leader::Phase;
pub use mark::{InstallMark, Opening};
#[cfg(any(feature = "node", feature = "sim"))]
pub(crate) use mend::{begins_by_state, first_boundary};
pub use promise::{Promise, Verdict};
pub use quorum::QuorumLost;
use reads::Questions;
pub use reads::ReadTicket;
pub use step::{DisconnectReason, Input, LogView, LogWrite, Output, ReadPurpose, Ticket};

/// One shard's replica on one node.
///
/// It is given its log's ends and its promise when the node opens, and from then on is told everything by
/// [`Input`]s. It begins as a follower, always: also the leader of a configuration file leads only by an
/// assignment of a new epoch.
///
/// ```
/// use towline::replica::{Input, LogWrite, Output, Promise, Replica};
/// # use std::collections::VecDeque;
/// # use towline::model::{Epoch, Lsn, NodeId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me]);
/// # let mut log = Memory(master.log(), vec![]);
/// # let assignment = master.assign(me, Epoch::ZERO).ok_or("no epoch is left")?;
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// let mut inputs = VecDeque::from([Input::Assign(assignment)]);
/// while let Some(input) = inputs.pop_front() {
///     for output in replica.step(0, input, &log) {
///         match output {
///             Output::Persist { ticket, write } => {
///                 if let LogWrite::Append(batch) = write {
///                     log.1.push(batch);
///                 }
///                 inputs.push_back(Input::Persisted(ticket)); // after its sync
///             }
///             Output::Activated(epoch) => inputs.push_back(Input::ActivationAccepted(epoch)),
///             _ => {} // There are no peers here.
///         }
///     }
/// }
/// assert_eq!(replica.committed(), Lsn::FIRST, "the epoch's first record");
/// assert!(replica.proposal_position().is_some(), "it takes writes");
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone)]
pub struct Replica {
    id: NodeId,
    /// The disk that it lies on.
    directory: DirectoryId,
    log_id: LogId,
    promise: Promise,
    /// The end of the log as accepted by the WAL, with this step's writes.
    end: LogPosition,
    /// The end of what is durable here.
    durable: LogPosition,
    /// The highest position known committed; at most `end`.
    committed: Lsn,
    /// Up to here the log equals that of the promised epoch's leader, as checked in this life.
    matched: Lsn,
    damage: Damage,
    mends_refused: u64,
    /// From here on the log may lack what it once held, durably.
    suspect: Option<Lsn>,
    /// The first commit position that the promised epoch's leader told this replica.
    told_since_doubt: Option<Lsn>,
    /// The disk with which the promised leader last came: it is that one's log which `matched` is about.
    led_from: Option<DirectoryId>,
    leadership: Option<Box<Leadership>>,
    /// What it asks of the leader that it follows, for those who read here.
    questions: Questions,
    /// The snapshot that it fetches, while it does.
    fetching: Option<Fetching>,
    /// The snapshot that is being installed: from the mark in the log until the state is replaced.
    installing: Option<Installing>,
    /// Where the last one lies that was installed, or where the state lay when it was opened, if the log holds that and can't name it.
    named: Option<LogPosition>,
    /// Who is connected, with which disk.
    connected: BTreeMap<NodeId, DirectoryId>,
    next_ticket: u64,
    /// What each write under way is for, in order.
    under_way: VecDeque<(Ticket, Purpose)>,
    /// How long it leads without a majority.
    quorum_bound: Duration,
    /// Whether nobody but the logs says whose disks have the votes.
    own_master: bool,
}

/// What happens when a write is durable.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// The log's end moves to here.
    Extend(LogPosition),
    /// Nothing more to say.
    Truncate,
    /// Nothing more to say.
    Settle,
    /// These LSNs are whole again.
    Mended(Lsn, Lsn),
    /// The state may be replaced.
    Mark,
    /// The log begins here, or held this already.
    Reset(LogPosition),
    /// The promise can be said.
    Promise(Promise),
}

impl Replica {
    /// The replica of a log that was just opened.
    ///
    /// `committed` is what the state had applied and kept (everything applied was committed); `promise` is the
    /// log's hard state.
    #[must_use]
    pub fn open(id: NodeId, log_id: LogId, promise: Promise, committed: Lsn, log: &dyn LogView) -> Self {
        let end = log.end();
        Self {
            id,
            directory: DirectoryId::default(),
            log_id,
            promise,
            end,
            durable: log.durable_end(),
            committed: committed.min(end.lsn),
            matched: Lsn::ZERO,
            damage: Damage::of(log, committed.min(end.lsn)),
            mends_refused: 0,
            suspect: log.suspect(),
            told_since_doubt: None,
            led_from: None,
            leadership: None,
            questions: Questions::default(),
            fetching: None,
            installing: None,
            named: None,
            connected: BTreeMap::new(),
            next_ticket: 0,
            under_way: VecDeque::new(),
            quorum_bound: QUORUM_LOST_AFTER_DEFAULT,
            own_master: false,
        }
    }

    /// The same replica, of this disk: a vote is a disk's.
    #[must_use]
    pub const fn on_directory(mut self, directory: DirectoryId) -> Self {
        self.directory = directory;
        self
    }

    /// One step: everything that follows from one input, at `now_micros` of the wall clock (it stamps batches,
    /// and decides nothing).
    pub fn step(&mut self, now_micros: u64, input: Input, log: &dyn LogView) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Assign(assignment) => self.assign(assignment, log, &mut out),
            Input::ActivationAccepted(epoch) => self.activation_accepted(epoch, log, &mut out),
            Input::Propose(batch) => self.propose(batch, log, &mut out),
            Input::Message { from, message } => self.message(from, message, now_micros, log, &mut out),
            Input::DamageFound { read } => self.damage_found(read, now_micros, log, &mut out),
            Input::Persisted(ticket) => self.persisted(ticket, now_micros, log, &mut out),
            Input::LogRead { peer, purpose, after, batches } => {
                self.log_read(peer, purpose, after, batches, log, &mut out);
            }
            Input::SnapshotTaken { peer, epoch, snapshot } => self.snapshot_taken(peer, epoch, snapshot, log, &mut out),
            Input::SnapshotRead { peer, epoch, snapshot, index, bytes } => {
                self.snapshot_read(peer, epoch, (snapshot, index), bytes, &mut out);
            }
            Input::SnapshotWanted { snapshot, index } => self.snapshot_wanted(snapshot, index, &mut out),
            Input::SnapshotStaged(snapshot) => self.snapshot_staged(snapshot, log, &mut out),
            Input::SnapshotInstalled(snapshot) => self.snapshot_installed(snapshot, log, &mut out),
            Input::Read(ticket) => self.read(ticket, &mut out),
            Input::PeerUp(peer, directory) => self.peer_up(peer, directory, log, &mut out),
            Input::PeerDown(peer) => self.peer_down(peer, now_micros, log, &mut out),
            Input::Tick(now) => self.tick(now, now_micros, log, &mut out),
        }
        self.watch_quorum();
        self.check();
        out
    }

    /// The epoch promised, and to whom.
    #[must_use]
    pub const fn promise(&self) -> Promise {
        self.promise
    }

    /// The highest position known committed.
    #[must_use]
    pub const fn committed(&self) -> Lsn {
        self.committed
    }

    /// The end of what is durable here.
    #[must_use]
    pub const fn durable(&self) -> LogPosition {
        self.durable
    }

    /// The end of the log, durable or not.
    #[must_use]
    pub const fn end(&self) -> LogPosition {
        self.end
    }

    /// What may be applied: committed, and durable here (the chain of positions), up to what can't be read, as an open found or a
    /// reader.
    #[must_use]
    pub fn applicable(&self) -> Lsn {
        self.committed.min(self.durable.lsn).min(self.damage.readable_to())
    }

    /// Whether the log took an `Append` of this epoch whose batches end at `last`.
    #[must_use]
    pub fn took(&self, epoch: Epoch, last: Lsn) -> bool {
        epoch == self.promise.epoch && last <= self.matched
    }

    /// How far this replica leads, if it does.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.leadership.as_ref().map(|leadership| leadership.phase())
    }

    /// What it leads by, if it leads.
    #[must_use]
    pub fn assignment(&self) -> Option<&Assignment> {
        self.leadership.as_ref().map(|leadership| &leadership.assignment)
    }

    /// Behind what the sequencer seals the next batch, and in which epoch; none while writes are not taken.
    #[must_use]
    pub fn proposal_position(&self) -> Option<(Epoch, LogPosition)> {
        let leadership = self.leadership.as_ref()?;
        (leadership.phase() == Phase::Serving).then_some((leadership.epoch(), self.end))
    }

    /// What a leader knows of the others: node, whether connected, durable position.
    #[must_use]
    pub fn followers(&self) -> Vec<(NodeId, bool, Lsn)> {
        self.leadership.as_ref().map_or_else(Vec::new, |leadership| leadership.followers())
    }

    /// Whether writes wait for what this follower lacks: this leads, and does not serve yet, or without it there is no majority that is
    /// connected and has what is committed.
    #[must_use]
    pub fn writes_need(&self, follower: NodeId) -> bool {
        let Some(leadership) = &self.leadership else { return false };
        let own_counts = leader::counts(&leadership.assignment.directories, self.id, self.directory);
        let own_has = own_counts && self.durable.lsn.min(self.damage.sound_to()) >= self.committed;
        let is_near = |voter: &&NodeId| {
            let progress = leadership.progress.get(*voter);
            let has = progress.is_some_and(|progress| progress.is_connected() && progress.counted() >= self.committed);
            **voter != follower && if **voter == self.id { own_has } else { has }
        };
        let voters = &leadership.assignment.voters;
        let may_commit = voters.iter().filter(is_near).count() >= majority_of(voters.len());
        voters.contains(&follower) && (leadership.phase() != Phase::Serving || !may_commit)
    }

    /// Whether a snapshot is being fetched or installed.
    #[must_use]
    pub const fn takes_a_snapshot(&self) -> bool {
        self.fetching.is_some() || self.installing.is_some()
    }

    /// How many have promised this leader's epoch, as far as it counts them.
    #[cfg(feature = "sim")]
    pub(crate) fn promises(&self) -> usize {
        self.leadership.as_ref().map_or(0, |leadership| leadership.promises.len())
    }

    /// Asserts what must be true of a replica between steps.
    pub fn check(&self) {
        assert!(self.durable.lsn <= self.end.lsn, "durable {} passes the end {}", self.durable.lsn, self.end.lsn);
        assert!(self.committed <= self.end.lsn, "I2: committed {} passes the end {}", self.committed, self.end.lsn);
        assert!(self.end.epoch <= self.promise.epoch, "I3: the log holds epoch {} past the promise", self.end.epoch);
        if let Some(leadership) = &self.leadership {
            assert_eq!(self.promise.leader, Some(self.id), "a leader is bound to itself");
            assert_eq!(self.promise.epoch, leadership.epoch(), "a leader leads the epoch that it promised");
            let kept = leadership.tail.back().map(towline_wal::Batch::position);
            assert!(kept.is_none_or(|kept| kept == self.end), "I2: what a leader keeps to feed is the end of its log");
        }
    }

    fn persist(&mut self, write: LogWrite, purpose: Purpose, out: &mut Vec<Output>) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.under_way.push_back((ticket, purpose));
        out.push(Output::Persist { ticket, write });
    }

    /// Appends a batch to the own log: the one place where the end moves forward.
    fn append(&mut self, batch: towline_wal::Batch, out: &mut Vec<Output>) {
        if self.damage.take_behind_end() {
            self.persist(LogWrite::Truncate(self.end), Purpose::Truncate, out);
        }
        self.end = batch.position();
        self.persist(LogWrite::Append(batch), Purpose::Extend(self.end), out);
    }

    /// Forgets a suffix that lost: the one place where the end moves back.
    fn truncate(&mut self, to: LogPosition, out: &mut Vec<Output>) {
        // I2: otherwise a committed batch would be replaced by another at the same LSN.
        assert!(to.lsn >= self.committed, "I2: truncation to {} below committed {}", to.lsn, self.committed);
        if self.is_named_by_snapshot(to) {
            self.reset(to, out); // The log knows no batch there to be cut off at, and all up to there is in the state.
            return;
        }
        self.named = self.named.filter(|named| named.lsn < to.lsn);
        self.end = to;
        if self.durable.lsn > to.lsn {
            self.durable = to;
        }
        self.matched = self.matched.min(to.lsn);
        if self.damage.cut_off(to.lsn) {
            self.announce_damage(out);
        }
        if let Some(leadership) = &mut self.leadership {
            leadership.truncate_tail(to.lsn);
        }
        self.persist(LogWrite::Truncate(to), Purpose::Truncate, out);
    }

    /// The position at `lsn` in the own log; `log` may not show this step's writes yet.
    fn position_at(&self, lsn: Lsn, log: &dyn LogView) -> Option<LogPosition> {
        if lsn == self.end.lsn {
            return Some(self.end);
        }
        let known = log.position_at(lsn).or_else(|| self.named(log).filter(|named| named.lsn == lsn));
        known.filter(|known| known.lsn <= self.end.lsn)
    }

    /// The same replica, of a state that was opened at this position: it names what the log has there and can't name.
    #[must_use]
    pub fn with_state_at(mut self, at: LogPosition, log: &dyn LogView) -> Self {
        self.named = Some(at).filter(|at| at.lsn <= self.committed && self.is_unnamed_damage(at.lsn, log));
        self
    }

    fn is_unnamed_damage(&self, lsn: Lsn, log: &dyn LogView) -> bool {
        self.damage.around(lsn, lsn).is_some() && log.position_at(lsn).is_none()
    }

    /// Where the state lies as it was opened or a snapshot brought it, durably, as long as the log has that and can't name it.
    fn named(&self, log: &dyn LogView) -> Option<LogPosition> {
        self.named.filter(|named| named.lsn > log.start().lsn && self.is_named_by_snapshot(*named))
    }

    fn is_named_by_snapshot(&self, at: LogPosition) -> bool {
        let is_put_again = self.under_way.iter().any(|(_, purpose)| match purpose {
            Purpose::Mended(first, last) => *first <= at.lsn && at.lsn <= *last,
            _ => false,
        });
        self.named == Some(at) && self.damage.around(at.lsn, at.lsn).is_some() && !is_put_again
    }

    fn boundary_at_or_before(&self, lsn: Lsn, log: &dyn LogView) -> LogPosition {
        if lsn >= self.end.lsn {
            return self.end;
        }
        // What the log has let go of may still be in a leader's memory, from where it is fed.
        let kept = || {
            let leadership = self.leadership.as_ref()?;
            let behind = leadership.tail.partition_point(|batch| batch.last_lsn() <= lsn);
            let last = behind.checked_sub(1).and_then(|last| leadership.tail.get(last));
            last.map(towline_wal::Batch::position).or_else(|| leadership.tail_after.filter(|after| after.lsn <= lsn))
        };
        let known = log.boundary_at_or_before(lsn).or_else(kept).unwrap_or_else(|| LogPosition::origin(self.log_id));
        self.named(log).filter(|named| known.lsn < named.lsn && named.lsn <= lsn).unwrap_or(known)
    }

    /// The own log in a few numbers.
    fn summary(&self, log: &dyn LogView) -> LogSummary {
        let mut epochs = log.epochs();
        epochs.retain(|(_, start)| *start <= self.end.lsn);
        if epochs.last().is_none_or(|(epoch, _)| *epoch < self.end.epoch) && self.end.lsn > Lsn::ZERO {
            // A leader's own `EpochStart`, written in this step, is not in the view yet; nor is any epoch whose names are lost but for
            // the log's end.
            epochs.push((self.end.epoch, self.end.lsn));
        }
        // A log that begins behind a snapshot says in which epoch that was: what is compared with it may have no later one.
        let start = log.start();
        if start.lsn > Lsn::ZERO && epochs.first().is_none_or(|(epoch, _)| *epoch > start.epoch) {
            epochs.insert(0, (start.epoch, start.lsn));
        }
        let excess = epochs.len().saturating_sub(EPOCHS_NAMED_MAX);
        epochs.drain(..excess);
        LogSummary { end: self.end, epochs }
    }

    fn persisted(&mut self, ticket: Ticket, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        while let Some((front, purpose)) = self.under_way.front().copied() {
            if front > ticket {
                break;
            }
            self.under_way.pop_front();
            match purpose {
                Purpose::Extend(position) => self.extended(position, log),
                Purpose::Truncate | Purpose::Settle => {}
                Purpose::Mended(first, last) => self.mended((first, last), now_micros, log, out),
                Purpose::Mark => self.marked(out),
                Purpose::Reset(to) => self.was_reset(to, now_micros, log, out),
                Purpose::Promise(promise) if promise == self.promise => self.promised(now_micros, log, out),
                Purpose::Promise(_) => {} // A newer one was made meanwhile; it will be said.
            }
        }
        self.settle_doubt(out);
        self.after_durable(log, out);
    }

    /// A batch is durable. It may have been truncated since: then the end is another.
    fn extended(&mut self, position: LogPosition, log: &dyn LogView) {
        if position.lsn > self.durable.lsn && self.position_at(position.lsn, log) == Some(position) {
            self.durable = position;
        }
    }

    /// Ends the doubt about this log once it certainly holds, durably, everything that it may have lost and that
    /// counted for something.
    ///
    /// What it acknowledged in earlier epochs is in the log that the promised epoch's leader adopted, so before that
    /// epoch's start. What it acknowledged in this epoch counted for no more than the leader had committed when it
    /// heard of the doubt, and the first commit position that it told since is no less. A leader itself has adopted.
    fn settle_doubt(&mut self, out: &mut Vec<Output>) {
        let promised = self.under_way.is_empty() && self.promise.leader.is_some();
        if self.suspect.is_some() && planted(Mutant::SettleEarly) && promised {
            self.suspect = None;
            self.persist(LogWrite::Settle, Purpose::Settle, out);
        }
        if self.suspect.is_none() || self.durable.epoch != self.promise.epoch || !self.damage.is_none() {
            return;
        }
        let whole = match &self.leadership {
            Some(leadership) => leadership.is_feeding(),
            None => self.told_since_doubt.is_some_and(|told| told <= self.durable.lsn.min(self.matched)),
        };
        if whole {
            self.suspect = None;
            self.persist(LogWrite::Settle, Purpose::Settle, out);
        }
    }

    fn after_durable(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        if self.leadership.is_some() {
            self.advance_leader(log, out);
        } else {
            self.acknowledge(out);
        }
    }
}

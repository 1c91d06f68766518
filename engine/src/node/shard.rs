//! One shard on this node: it carries what the sequencer, the replica, the log and the applier say to one another, and
//! decides nothing itself.
//!
//! It owns the sequencer and the replica. Everything reaches it as an [`Event`] in its inbox or as a submission in
//! the queue; whoever gives it either rings its bell, and a sequencer's thread ([`worker`](super::worker)) takes a
//! [`turn`](Shard::turn). What bounds the inbox: messages by the connections' credits, which go back when
//! a message was acted upon; log completions by the log's own queue; reads by a number a peer; the rest by being one
//! at a time. While the log has no room for another step, what peers say is kept for later, in order.

use super::applier::{Applied, ApplierError, ApplyOrder, ApplyStage, Attempt};
use super::assigning::{AssignWaiter, ByHand};
use super::backlog::Backlog;
use super::completion::Completion;
use super::health::Health;
use super::inbox::Events;
use super::log_budget::LogBudget;
use super::positions::Positions;
use super::read_index::ReadIndex;
use super::snapshots::{Answer, Replacing, SnapshotCounters, SnapshotDesk};
use super::stages::{Arrived, Stages};
use super::unapplied::{ApplyTask, Part, Unapplied};
use super::votes::{Newcomers, StartInState};
use crate::control::ConfigMaster;
use crate::model::limits::BATCH_BYTES_TARGET;
use crate::model::request::{FollowerStatus, ServerStatus};
use crate::model::{DirectoryId, Epoch, EpochStart, LogId, LogPosition, Lsn, Message, NodeId, ShardId, SnapshotId};
use crate::pipeline::{Buffers, Disk, Sequencer, SubmissionQueue};
use crate::replica::{Input, LogView, Phase, ReadPurpose, Replica, Ticket};
use bytes::Bytes;
use crossbeam::channel::Sender;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use towline_wal::{Batch, ReadError, Wal, WalError};

/// Rounds of one turn: then others of the thread have theirs.
const ROUNDS_MAX: usize = 16;
/// A batch of at most so many bytes is applied at once on this thread, if nothing else waits.
const APPLY_AT_ONCE_BYTES: usize = 16 * 1024;
/// How long it waits before it writes again to a state whose disk is full.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(500);
/// How long a leader whose disk has forgotten its terms waits before it asks for a newer one, at first and at the most: two that
/// different files name as the first outbid one another, and must not do so in a busy loop.
pub(super) const REASSIGN_PAUSE: Duration = Duration::from_millis(50);
pub(super) const REASSIGN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// One thing that reached the shard's thread.
pub(super) enum Event {
    /// The log made this durable.
    Persisted(Ticket),
    /// The log can't acknowledge anything any more.
    LogFailed(WalError),
    /// A peer's replication stream stands, and this is its disk.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    PeerUp(NodeId, DirectoryId, Arc<dyn PeerLink>),
    /// It is gone: that one, not a newer one.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    PeerDown(NodeId, u64),
    /// A message came on it, with what it holds of the connection's window; its records are known to decode.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    Message(NodeId, u64, Message, usize),
    /// The connection to a peer, that one, has room again.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    PeerWritable(NodeId, u64),
    /// Who read the log came upon what can't be read, or a part of it that can't was released.
    DamageFound,
    /// Batches that were asked for were read.
    LogRead { peer: NodeId, session: u64, purpose: ReadPurpose, after: LogPosition, batches: Vec<Batch> },
    /// Others were asked for since, and these were not read.
    LogUnread { peer: NodeId, session: u64 },
    /// The applier is done with its task, or can't be now.
    Applied(Attempt),
    /// What came of something that was to be done for a snapshot.
    Snapshot(Answer),
    /// Reads wait for a majority to confirm that this node leads.
    Read,
    /// Somebody wants to know how things are.
    Status(Sender<ServerStatus>),
    /// Somebody wants this node to lead.
    #[cfg_attr(
        not(any(feature = "cluster", feature = "client")),
        expect(dead_code, reason = "nobody asks from elsewhere")
    )]
    Assign(AssignWaiter),
    /// Finish what is sealed, then end; at this moment end whatever is not finished.
    Close(Instant),
    /// A thread of the node panicked at work for this shard.
    Panicked(&'static str),
    /// A turn of this shard is to panic, or an applier at work for it.
    #[cfg(test)]
    Explode { in_apply: bool },
}

/// A way to a peer. Its methods wait for no socket.
pub(super) trait PeerLink: Send + Sync {
    /// Which connection this is: rises with each.
    fn session(&self) -> u64;
    /// Queues a message.
    fn send(&self, message: Bytes) -> Sending;
    /// A message was acted upon: what it holds of the window goes back, now or, if the log took batches of it (the
    /// epoch and last LSN), with [`PeerLink::settle`].
    fn charge(&self, taken: Option<(Epoch, Lsn)>, charge: usize);
    /// Batches up to here are durable, or the epoch moved on: credit goes back.
    fn settle(&self, promised: Epoch, durable: Lsn);
    /// Closes the connection.
    fn disconnect(&self, reason: &str);
    /// Bytes sent on it, framing included.
    fn bytes_sent(&self) -> u64;
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
pub(super) enum Sending {
    /// It goes in its turn.
    Queued,
    /// There is no room for it now. When there is, the shard hears [`Event::PeerWritable`].
    Full,
    /// The connection or its stream is closed, or the message is longer than the other side takes.
    Refused,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing to do until somebody rings, or until this moment.
    Idle(Option<Instant>),
    /// There is more to do.
    Again,
    /// It has ended, and told everybody who waited.
    Finished,
}

pub(super) struct Shard {
    pub(super) id: NodeId,
    pub(super) directory: DirectoryId,
    pub(super) shard: ShardId,
    /// Whether it asks for a new term at its start.
    pub(super) leads_at_start: bool,
    pub(super) log: LogId,
    pub(super) wal: Arc<Wal>,
    pub(super) replica: Replica,
    pub(super) master: ConfigMaster,
    pub(super) sequencer: Sequencer<Arrived<Completion>>,
    pub(super) queue: Arc<SubmissionQueue<Arrived<Completion>>>,
    pub(super) inbox: Events,
    pub(super) events: super::Inbox,
    pub(super) stage: Arc<Mutex<ApplyStage>>,
    pub(super) start_in_state: StartInState,
    pub(super) stages: Arc<Stages>,
    pub(super) applier: Sender<ApplyOrder>,
    pub(super) reader: Sender<super::reader::ReadOrder>,
    pub(super) desk: SnapshotDesk,
    pub(super) snapshots: Arc<SnapshotCounters>,
    pub(super) positions: Arc<Positions>,
    pub(super) reads: Arc<ReadIndex>,
    pub(super) quorum_lost_after: Duration,
    pub(super) budget: Arc<LogBudget>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) health: Health,
    pub(super) applied: LogPosition,
    pub(super) state: ShardState,
    /// Dropped with the shard, and with the last task of it: who waits for its end hears by that.
    pub(super) alive: Sender<Infallible>,
}

/// What the thread keeps for itself.
pub(super) struct ShardState {
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) unapplied: Unapplied,
    /// What peers said while the log had no room.
    held: VecDeque<Event>,
    /// Inputs that follow from the outputs of the present step: they come after all of those.
    pub(super) inputs: VecDeque<Input>,
    pub(super) stepping: bool,
    pub(super) sealing: Sealing,
    pub(super) applying: bool,
    /// Nothing is applied while the state is replaced by a snapshot.
    pub(super) replacing: Replacing,
    /// Parts of a snapshot that wait to be written.
    pub(super) parts_waiting: Arc<AtomicUsize>,
    /// The snapshot of which parts may be on the disk.
    pub(super) staged: Option<SnapshotId>,
    /// What could not be applied because the disk of the state is full, or the log not to be read, and when to try again; it counts as
    /// being applied.
    parked: Option<(Instant, ApplyTask)>,
    /// An assignment by hand that is not in force yet.
    pub(super) by_hand: Option<ByHand>,
    /// When to ask for a newer epoch, and how long to wait the next time.
    pub(super) reassign: Option<Instant>,
    pub(super) reassign_pause: Duration,
    /// It is to lead, and asks for an epoch when enough voters are connected: before, it could do nothing with one.
    pub(super) awaits_voters: bool,
    /// It is to lead a log that no one has led, and until then writes wait for the voters.
    pub(super) forming_until: Option<Instant>,
    pub(super) newcomers: Newcomers,
    /// The replica's time begins here.
    began: Instant,
    pub(super) closing: Option<Instant>,
    pub(super) failed: bool,
    /// What of the log can't be read, as was told last.
    pub(super) damaged: Vec<(Lsn, Lsn)>,
    bytes_sent_before: u64,
    pub(super) batch_bytes: (u64, u64),
}

/// Who waits for the batch that is being proposed.
#[derive(Default)]
pub(super) struct Sealing {
    /// When the first whose time was noted came.
    pub(super) submitted: Option<Instant>,
    /// One a record, in LSN order.
    pub(super) completions: Vec<Completion>,
}

impl Sealing {
    fn unknown(self) {
        Completion::unknown_all(self.completions);
    }
}

pub(super) struct Peer {
    pub(super) link: Arc<dyn PeerLink>,
    pub(super) directory: DirectoryId,
    /// What finds no room on the connection.
    pub(super) backlog: Backlog,
    /// Reads of the log that wait for it, or for room on the connection.
    pub(super) reads: usize,
    /// Parts of snapshots that are read for it.
    pub(super) parts: usize,
    /// As long as this stands there is somebody to give a snapshot to.
    pub(super) here: Arc<()>,
}

impl ShardState {
    /// With so many bytes of batches that are not applied.
    pub(super) fn new(unapplied_bytes: usize, staged: Option<SnapshotId>) -> Self {
        Self {
            peers: BTreeMap::new(),
            unapplied: Unapplied::new(unapplied_bytes),
            held: VecDeque::new(),
            inputs: VecDeque::new(),
            stepping: false,
            sealing: Sealing::default(),
            applying: false,
            replacing: Replacing::No,
            parts_waiting: Arc::default(),
            staged,
            parked: None,
            by_hand: None,
            reassign: None,
            reassign_pause: REASSIGN_PAUSE,
            awaits_voters: false,
            forming_until: None,
            newcomers: Newcomers::default(),
            began: now(),
            closing: None,
            failed: false,
            damaged: Vec::new(),
            bytes_sent_before: 0,
            batch_bytes: (0, 0),
        }
    }
}

/// The log of one shard, as its replica looks at it.
pub(super) struct ShardLog<'a> {
    pub(super) wal: &'a Wal,
    pub(super) log: LogId,
    /// What the state says of it, once there is one.
    pub(super) state: Option<&'a StartInState>,
}

impl LogView for ShardLog<'_> {
    fn start(&self) -> LogPosition {
        self.wal.start_of(self.log)
    }

    fn end(&self) -> LogPosition {
        self.wal.end(self.log)
    }

    fn durable_end(&self) -> LogPosition {
        self.wal.durable_end(self.log)
    }

    fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
        self.wal.position_at(self.log, lsn)
    }

    fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        self.wal.boundary_at_or_before(self.log, lsn)
    }

    fn epochs(&self) -> Vec<(Epoch, Lsn)> {
        self.wal.epochs(self.log)
    }

    fn suspect(&self) -> Option<Lsn> {
        self.wal.cut_of(self.log)
    }

    fn damaged(&self) -> Vec<(Lsn, Lsn)> {
        self.wal.damaged(self.log)
    }

    fn damage_end(&self, last: Lsn) -> Option<LogPosition> {
        self.wal.damage_end(self.log, last)
    }

    fn mendable(&self, batches: &[Batch]) -> usize {
        self.wal.mendable(batches)
    }

    fn last_start(&self) -> Option<EpochStart> {
        super::votes::last_start(self)
    }
}

impl Shard {
    /// Begins: a leader asks for its epoch. Where no log says who has the votes, that takes every voter.
    pub(super) fn start(&mut self) {
        self.master.meet(self.id, self.directory);
        if !self.leads_at_start {
            return;
        }
        self.note_votes();
        if self.master.knows_votes() || self.reaches_enough() {
            self.assign();
        } else {
            let voters = self.master.voters();
            tracing::info!(node = %self.id, shard = %self.shard, ?voters, "a new log: it begins when every voter is connected");
            self.state.awaits_voters = true;
            self.state.forming_until = Some(after(self.quorum_lost_after));
        }
    }

    /// Does what there is to do, within bounds.
    pub(super) fn turn(&mut self) -> Turn {
        for _ in 0..ROUNDS_MAX {
            self.look_at_the_clock();
            let worked = self.round();
            if self.is_finished() {
                self.abandon();
                self.positions.end();
                self.reads.end();
                return Turn::Finished;
            }
            if !worked {
                return Turn::Idle(self.next_deadline());
            }
        }
        Turn::Again
    }

    /// Whether the log has room for the largest step: a replica's decision can't be taken back.
    fn has_room(&self) -> bool {
        self.budget.has_room(&self.events.bell)
    }

    fn round(&mut self) -> bool {
        let mut worked = self.handle_held();
        while let Some(event) = self.inbox.next() {
            worked = true;
            self.handle(event);
        }
        self.turn_away();
        self.look_at_damage();
        worked |= self.seal();
        worked |= self.apply();
        self.settle();
        // The chain of positions, which no floor below sees whole.
        // A log that begins behind a snapshot has nothing durable until that is: what was applied before is gone with it.
        let is_replaced = self.state.replacing != Replacing::No;
        assert!(is_replaced || self.applied.lsn <= self.replica.applicable(), "applied ≤ min(committed, durable)");
        worked
    }

    fn next_deadline(&self) -> Option<Instant> {
        let parked = self.state.parked.as_ref().map(|(at, _)| *at);
        let by_hand = self.state.by_hand.as_ref().and_then(ByHand::next_deadline);
        // A shard that has failed takes no steps, and so no ticks.
        let tick = self.replica.next_tick().filter(|_| !self.state.failed).map(|at| self.state.began + at);
        let times = self.state.reassign.into_iter().chain(self.state.closing).chain(self.state.forming_until);
        times.chain(self.state.newcomers.next_deadline()).chain(parked).chain(by_hand).chain(tick).min()
    }

    fn look_at_the_clock(&mut self) {
        if let Some(at) = self.replica.next_tick().filter(|_| !self.state.failed) {
            let elapsed = now().saturating_duration_since(self.state.began);
            if at <= elapsed {
                self.step(Input::Tick(elapsed));
            }
        }
        // It may have promised another leader by now.
        let is_to_lead = self.replica.promise().leader.map_or(self.leads_at_start, |leader| leader == self.id);
        if self.state.reassign.take_if(|at| *at <= now()).is_some() && is_to_lead {
            self.note_votes();
            if self.reaches_enough() {
                self.assign();
            } else {
                // The next peer that connects looks again.
                self.state.awaits_voters = true;
            }
        }
        self.state.forming_until.take_if(|until| *until <= now());
        self.expire_by_hand();
        if self.state.newcomers.are_due(now()) {
            self.readmit();
        }
        if let Some((_, task)) = self.state.parked.take_if(|(at, _)| *at <= now()) {
            self.hand_over(task);
        }
    }

    /// What peers said while the log had no room, now that it has some.
    fn handle_held(&mut self) -> bool {
        let mut worked = false;
        while !self.state.held.is_empty() && self.has_room() {
            let Some(event) = self.state.held.pop_front() else { break };
            worked = true;
            self.handle_peer(event);
        }
        worked
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Persisted(ticket) => {
                self.step(Input::Persisted(ticket));
                let tells = |lsn| self.positions.set_told_durable(lsn);
                self.state.unapplied.durable(self.shard, self.replica.durable().lsn, &self.stages, tells);
            }
            // At once: it takes no room in the log.
            Event::PeerWritable(peer, session) => self.send_waiting(peer, session),
            Event::DamageFound => self.damage_found(),
            Event::Read => {
                if let Some(newest) = self.reads.take() {
                    self.step(Input::Read(newest));
                }
            }
            Event::LogFailed(error) => self.fail(&format!("the log has stopped: {error}")),
            Event::Applied(applied) => {
                self.state.applying = false;
                self.attempted(applied);
                self.replace_when_idle();
            }
            Event::Snapshot(answer) => self.snapshot_answered(answer),
            Event::Status(reply) => {
                // Whoever asked may be gone.
                drop(reply.try_send(self.status()));
            }
            // Dropped, where it is too late: who waits hears by that.
            Event::Assign(waiter) if self.state.closing.is_none() && !self.state.failed => self.assign_by_hand(waiter),
            Event::Assign(_) => {}
            Event::Close(deadline) => {
                self.state.by_hand = None;
                self.state.closing = Some(deadline);
                self.queue.close();
            }
            Event::Panicked(thread) => self.fail(&format!("the thread {thread} panicked")),
            #[cfg(test)]
            Event::Explode { in_apply: false } => std::panic::panic_any("on purpose"),
            #[cfg(test)]
            Event::Explode { in_apply: true } => self.hand_over(ApplyTask::Explode),
            of_a_peer if self.state.held.is_empty() && self.has_room() => self.handle_peer(of_a_peer),
            of_a_peer => self.state.held.push_back(of_a_peer),
        }
    }

    fn handle_peer(&mut self, event: Event) {
        match event {
            // Each connection is a task of its own: one that is gone may be heard last.
            Event::PeerUp(peer, _, link)
                if self.state.peers.get(&peer).is_some_and(|there| there.link.session() > link.session()) =>
            {
                link.disconnect("a newer connection stands");
            }
            Event::PeerUp(peer, directory, link) => {
                if let Some(old) = self.state.peers.insert(
                    peer,
                    Peer { link, directory, backlog: Backlog::default(), reads: 0, parts: 0, here: Arc::default() },
                ) {
                    self.state.bytes_sent_before += old.link.bytes_sent();
                    old.link.disconnect("a newer connection stands");
                    self.step(Input::PeerDown(peer));
                }
                self.master.meet(peer, directory);
                self.step(Input::PeerUp(peer, directory));
                if std::mem::take(&mut self.state.awaits_voters) {
                    self.state.reassign = Some(now());
                }
                self.try_by_hand();
                self.look_for_newcomers();
                self.readmit();
            }
            Event::PeerDown(peer, session) => {
                let is_the_one = self.state.peers.get(&peer).is_some_and(|peer| peer.link.session() == session);
                if is_the_one {
                    self.forget_peer(peer);
                }
            }
            Event::Message(from, session, message, charge) => {
                let Some(peer) = self.state.peers.get(&from) else { return };
                let link = Arc::clone(&peer.link);
                if link.session() != session {
                    return;
                }
                let appends = message.appends();
                self.step(Input::Message { from, message });
                link.charge(appends.filter(|(epoch, last)| self.replica.took(*epoch, *last)), charge);
                self.readmit();
            }
            Event::LogRead { peer, session, purpose, after, batches } => {
                let Some(found) = self.state.peers.get_mut(&peer).filter(|found| found.link.session() == session)
                else {
                    return;
                };
                found.reads -= 1;
                self.step(Input::LogRead { peer, purpose, after, batches });
            }
            Event::LogUnread { peer, session } => {
                let found = self.state.peers.get_mut(&peer).filter(|found| found.link.session() == session);
                found.into_iter().for_each(|found| found.reads -= 1);
            }
            _ => {}
        }
    }

    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        if let Some(Peer { link, .. }) = self.state.peers.remove(&peer) {
            self.state.bytes_sent_before += link.bytes_sent();
            // Its stream may have ended alone: what of that is not durable yet takes the others' credit no longer.
            link.settle(self.replica.promise().epoch, Lsn::MAX);
            self.step(Input::PeerDown(peer));
        }
    }

    /// Of a shard that does not lead, and is not about to, nothing is sealed: whoever waits for that hears it.
    fn turn_away(&mut self) {
        // Until there is a promise, it is the one whom the file names.
        if self.replica.promise().leader.is_some() {
            self.positions.set_leader(self.known_leader());
        }
        let is_about_to = self.state.reassign.is_some() || self.state.forming_until.is_some();
        if self.replica.phase().is_some() || is_about_to {
            return;
        }
        self.refuse_queued(Completion::not_led);
    }

    /// Who leads, as far as it is known here. A node that others have left behind has only its own promise, to itself.
    pub(super) fn known_leader(&self) -> Option<NodeId> {
        let promised_to = self.replica.promise().leader;
        promised_to.filter(|leader| *leader != self.id || self.replica.phase().is_some())
    }

    /// Seals what waits in the queue, unless too much is sealed and not applied, or not durable.
    fn seal(&mut self) -> bool {
        let mut worked = false;
        while self.state.unapplied.has_room() {
            let Some((epoch, prev)) = self.replica.proposal_position() else { break };
            if (self.queue.is_empty() && self.sequencer.queued_bytes() == 0) || !self.has_room() {
                break;
            }
            while self.sequencer.queued_bytes() < BATCH_BYTES_TARGET {
                let Some(submission) = self.queue.pop() else { break };
                self.sequencer.push(submission);
            }
            self.queue.gathering().turn();
            let _span =
                tracing::trace_span!("seal", shard = %self.shard, bytes = self.sequencer.queued_bytes()).entered();
            let Some(sealed) = self.sequencer.seal(self.log, epoch, prev, wall_micros()) else { break };
            worked = true;
            let submitted = sealed.tokens.iter().find_map(|arrived| arrived.at);
            if let Some(submitted) = submitted {
                self.queue.set_waited(now().saturating_duration_since(submitted));
            }
            let completions = sealed.tokens.into_iter().map(|arrived| arrived.caller).collect();
            self.state.sealing = Sealing { submitted, completions };
            sealed.spent.into_iter().for_each(|buffer| self.buffers.give_back(buffer));
            self.step(Input::Propose(sealed.batch));
            // Taken when the batch was kept; left only if the log failed in this very step.
            std::mem::take(&mut self.state.sealing).unknown();
        }
        worked
    }

    /// Applies everything that is committed and durable here; one task at a time, so that what gathers meanwhile is
    /// applied in one write.
    fn apply(&mut self) -> bool {
        let may = self.may_apply() && !self.awaits_mend(self.applied.lsn.next());
        if self.state.applying || self.state.failed || !may {
            return false;
        }
        let applicable = self.replica.applicable();
        match self.state.unapplied.take(self.applied.lsn, applicable, BATCH_BYTES_TARGET * 4) {
            None => false,
            Some(ApplyTask::Parts(parts)) if self.is_worth_no_hand_over(&parts) => {
                let attempt = self.stage.lock().attempt(parts);
                self.attempted(attempt);
                true
            }
            Some(task) => {
                self.hand_over(task);
                false
            }
        }
    }

    fn is_worth_no_hand_over(&self, parts: &[Part]) -> bool {
        let bytes: usize = parts.iter().map(|part| part.batch.bytes().len()).sum();
        bytes <= APPLY_AT_ONCE_BYTES && self.inbox.is_empty() && self.queue.is_empty()
    }

    fn hand_over(&mut self, task: ApplyTask) {
        let (stage, events, alive) = (Arc::clone(&self.stage), self.events.clone(), self.alive.clone());
        let order = ApplyOrder::Apply { stage, task, events, alive };
        // If the applier has ended, the node is closing.
        self.state.applying = self.applier.send(order).is_ok();
    }

    fn attempted(&mut self, attempt: Attempt) {
        match attempt {
            Attempt::Done(applied) => self.note_applied(applied),
            Attempt::Stalled(parts) => self.hand_over(ApplyTask::Parts(parts)),
            // It stopped while an applier was at work; who waits for the task hears by its drop.
            Attempt::Full(_) | Attempt::Unread(..) if self.state.failed => {}
            Attempt::Full(task) => self.park(task),
            Attempt::Unread(task, error) => {
                tracing::warn!(node = %self.id, shard = %self.shard, %error, "the log can't be read now: it is tried again");
                self.state.applying = true;
                self.state.parked = Some((after(FULL_DISK_PAUSE), task));
            }
        }
    }

    /// Whether nothing is being applied. What waits for room does so no more: a snapshot holds it.
    pub(super) fn stops_applying(&mut self) -> bool {
        if self.state.parked.take().is_some() {
            self.state.applying = false;
        }
        !self.state.applying
    }

    /// The disk of the state is full (fault D10): what is committed waits, nothing new is taken, and it is tried again from time
    /// to time. RocksDB flushes what it holds as soon as there is room, and takes writes again then.
    fn park(&mut self, task: ApplyTask) {
        self.state.applying = true;
        self.state.parked = Some((after(FULL_DISK_PAUSE), task));
        if self.queue.set_full(Disk::State, true) {
            tracing::error!(node = %self.id, shard = %self.shard, "the disk of the state is full: writes wait for room");
        }
    }

    fn note_applied(&mut self, applied: Applied) {
        match applied {
            Ok(position) => {
                if self.queue.set_full(Disk::State, false) {
                    tracing::info!(node = %self.id, shard = %self.shard, "the disk of the state has room again");
                }
                self.applied = position;
                self.state.unapplied.forget(position.lsn);
                self.forget_staged(position.lsn);
            }
            Err(ApplierError::Read(ReadError::Corrupt { .. })) if self.may_be_mended() => {}
            // Whoever sealed it and whoever acknowledged it has looked whether it can be: what is wrong is more likely this node's.
            Err(error) => self.fail(&format!("a committed batch can't be applied: {error}{}", error.remedy())),
        }
    }

    /// Credit for what is durable goes back to the peers.
    fn settle(&self) {
        let (promised, durable) = (self.replica.promise().epoch, self.replica.durable().lsn);
        for peer in self.state.peers.values() {
            peer.link.settle(promised, durable);
        }
    }

    /// Nothing more is acknowledged, everybody who waits hears that the outcome is unknown, and the node is to be
    /// reopened.
    pub(super) fn fail(&mut self, reason: &str) {
        if std::mem::replace(&mut self.state.failed, true) {
            return;
        }
        tracing::error!(node = %self.id, shard = %self.shard, reason, "the shard has stopped: reopen the node");
        // The reason first: whoever is woken by the rest asks for it.
        self.health.fail(reason);
        self.queue.close();
        self.state.by_hand = None;
        self.abandon();
        self.positions.end();
        self.reads.end();
    }

    fn is_finished(&self) -> bool {
        if self.state.failed {
            // Status and closing are still answered.
            return self.state.closing.is_some();
        }
        let Some(deadline) = self.state.closing else { return false };
        let nothing_applicable = self.replica.applicable() <= self.applied.lsn;
        let nobody_waits = self.state.unapplied.nobody_waits();
        let nothing_queued = self.queue.is_empty() && self.sequencer.queued_bytes() == 0;
        let drained = nothing_applicable && nobody_waits && nothing_queued;
        let leads = self.replica.phase() == Some(Phase::Serving);
        !self.state.applying && (drained || !leads) || deadline <= now()
    }

    /// Whatever still waits ends now: queued writes were not sealed, sealed ones are in doubt.
    fn abandon(&mut self) {
        // Who waits for it hears by the drop.
        self.state.parked = None;
        self.state.unapplied.doubt(Lsn::ZERO);
        std::mem::take(&mut self.state.sealing).unknown();
        self.refuse_queued(Completion::closed);
    }

    /// Whoever waits for a write that is not sealed hears that it never will be, and why.
    pub(super) fn refuse_queued(&mut self, refuse: fn(Completion)) {
        self.sequencer.drain().into_iter().for_each(|arrived| refuse(arrived.caller));
        while let Some(submission) = self.queue.pop() {
            refuse(submission.into_token().caller);
        }
    }

    fn status(&self) -> ServerStatus {
        let promise = self.replica.promise();
        let sent: u64 = self.state.peers.values().map(|peer| peer.link.bytes_sent()).sum();
        ServerStatus {
            node: self.id,
            leader: self.known_leader(),
            serving: self.replica.phase() == Some(Phase::Serving) && !self.state.failed,
            epoch: (promise.epoch.version, promise.epoch.term),
            end: self.replica.end().lsn.get(),
            durable: self.replica.durable().lsn.get(),
            committed: self.replica.committed().get(),
            applied: self.applied.lsn.get(),
            wire_bytes_sent: self.state.bytes_sent_before + sent,
            log_bytes: self.wal.stats().group_bytes,
            batch_bytes: self.state.batch_bytes,
            followers: self
                .replica
                .followers()
                .into_iter()
                .map(|(node, connected, durable)| FollowerStatus { node, connected, durable: durable.get() })
                .collect(),
        }
    }
}

/// Stamps batches; decides nothing (P5).
pub(super) fn wall_micros() -> u64 {
    let since = wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// When it is, for people; decides nothing (P5).
#[expect(clippy::disallowed_methods, reason = "node is the floor that reads clocks")]
pub(super) fn wall_time() -> SystemTime {
    SystemTime::now()
}

/// The moment after this time; a century from now, if there is none.
pub(super) fn after(time: Duration) -> Instant {
    let now = now();
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(time.min(century)).unwrap_or(now)
}

/// Paces; decides nothing (P5).
#[expect(clippy::disallowed_methods, reason = "node is the floor that reads clocks")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
#[path = "shard_test.rs"]
pub(super) mod tests;

//! The shard's thread: it carries what the sequencer, the replica, the log and the applier say to one another, and
//! decides nothing itself.
//!
//! It owns the sequencer and the replica. Everything reaches it as an [`Event`] in its inbox or as a submission in
//! the queue, and it sleeps on both. What bounds the inbox: messages by the connections' credits, log completions
//! by the log's own queue, the rest by being one at a time.

use super::applier::{Applied, ApplyTask, Part};
use super::completion::Completion;
use crate::control::ConfigMaster;
use crate::model::limits::{BATCH_BYTES_TARGET, UNAPPLIED_BYTES_MAX};
use crate::model::request::{FollowerStatus, ServerStatus};
use crate::model::{Epoch, LogId, LogPosition, Lsn, Message, NodeId};
use crate::pipeline::{Sequencer, SubmissionQueue};
use crate::replica::{Input, LogView, LogWrite, Output, Phase, ReadPurpose, Replica, Ticket};
use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use towline_wal::{Batch, Entry, HardStateKind, Wal, WalError};

/// One thing that reached the shard's thread.
pub(super) enum Event {
    /// The log made this durable.
    Persisted(Ticket),
    /// The log can't acknowledge anything any more.
    LogFailed(WalError),
    /// A peer's replication stream stands.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    PeerUp(NodeId, Arc<dyn PeerLink>),
    /// It is gone: that one, not a newer one.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    PeerDown(NodeId, u64),
    /// A message came on it; its records are known to decode.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "a lone node has no peers"))]
    Message(NodeId, u64, Message),
    /// Batches that were asked for were read.
    LogRead { peer: NodeId, purpose: ReadPurpose, after: LogPosition, batches: Vec<Batch> },
    /// The applier is done with its task.
    Applied(Applied),
    /// Somebody wants to know how things are.
    Status(Sender<ServerStatus>),
    /// Finish what is sealed, then end.
    Close,
}

/// A way to a peer. Its methods never wait.
pub(super) trait PeerLink: Send + Sync {
    /// Which connection this is: rises with each.
    fn session(&self) -> u64;
    /// Queues a message; false if the connection is closed or its buffer is full.
    fn send(&self, message: Bytes) -> bool;
    /// Batches up to here are durable, or the epoch moved on: credit goes back.
    fn settle(&self, promised: Epoch, durable: Lsn);
    /// Closes the connection.
    fn disconnect(&self, reason: &str);
    /// Bytes sent on it, framing included.
    fn bytes_sent(&self) -> u64;
}

/// A batch that is in the log and not applied, with the callers who wait for its records.
struct Unapplied {
    batch: Batch,
    completions: Vec<Completion>,
}

/// What other threads may look at without asking.
#[derive(Debug, Default)]
pub(super) struct Positions {
    pub(super) applied: AtomicU64,
    pub(super) serving: AtomicU64,
}

pub(super) struct ShardThread {
    pub(super) id: NodeId,
    pub(super) leads: bool,
    pub(super) log: LogId,
    pub(super) wal: Arc<Wal>,
    pub(super) replica: Replica,
    pub(super) master: ConfigMaster,
    pub(super) sequencer: Sequencer<Completion>,
    pub(super) queue: Arc<SubmissionQueue<Completion>>,
    pub(super) inbox: Receiver<Event>,
    pub(super) events: super::Inbox,
    pub(super) applier: Sender<ApplyTask>,
    pub(super) reader: Sender<super::reader::ReadTask>,
    pub(super) positions: Arc<Positions>,
    pub(super) applied: LogPosition,
    pub(super) state: ShardState,
}

/// What the thread keeps for itself.
#[derive(Default)]
pub(super) struct ShardState {
    peers: BTreeMap<NodeId, Arc<dyn PeerLink>>,
    unapplied: VecDeque<Unapplied>,
    unapplied_bytes: usize,
    /// Who waits for the records of the batch that is being proposed.
    sealing: Vec<Completion>,
    applying: bool,
    closing: bool,
    failed: Option<WalError>,
    bytes_sent_before: u64,
    batch_bytes: (u64, u64),
}

/// The log of one shard, as its replica looks at it.
pub(super) struct ShardLog<'a> {
    pub(super) wal: &'a Wal,
    pub(super) log: LogId,
}

impl LogView for ShardLog<'_> {
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
        self.wal.cuts().iter().filter(|cut| cut.log == self.log).map(|cut| cut.from).min()
    }
}

impl ShardThread {
    /// Runs until closed.
    pub(super) fn run(mut self) {
        if self.leads {
            self.assign(self.replica.promise().epoch);
        }
        loop {
            let mut worked = false;
            while let Ok(event) = self.inbox.try_recv() {
                worked = true;
                self.handle(event);
            }
            worked |= self.seal();
            self.apply();
            self.settle();
            if self.state.closing && self.is_drained() {
                break;
            }
            if !worked {
                self.queue.wait();
            }
        }
        self.abandon();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Persisted(ticket) => self.step(Input::Persisted(ticket)),
            Event::LogFailed(error) => self.fail(error),
            Event::PeerUp(peer, link) => {
                if let Some(old) = self.state.peers.insert(peer, link) {
                    self.state.bytes_sent_before += old.bytes_sent();
                    old.disconnect("a newer connection stands");
                    self.step(Input::PeerDown(peer));
                }
                self.step(Input::PeerUp(peer));
            }
            Event::PeerDown(peer, session) => {
                if self.state.peers.get(&peer).is_some_and(|link| link.session() == session) {
                    self.forget_peer(peer);
                }
            }
            Event::Message(from, session, message) => {
                if self.state.peers.get(&from).is_some_and(|link| link.session() == session) {
                    self.step(Input::Message { from, message });
                }
            }
            Event::LogRead { peer, purpose, after, batches } => {
                self.step(Input::LogRead { peer, purpose, after, batches });
            }
            Event::Applied(applied) => self.note_applied(applied),
            Event::Status(reply) => {
                // Whoever asked may be gone.
                drop(reply.try_send(self.status()));
            }
            Event::Close => {
                self.state.closing = true;
                self.queue.close();
            }
        }
    }

    fn forget_peer(&mut self, peer: NodeId) {
        if let Some(link) = self.state.peers.remove(&peer) {
            self.state.bytes_sent_before += link.bytes_sent();
            self.step(Input::PeerDown(peer));
        }
    }

    fn step(&mut self, input: Input) {
        if self.state.failed.is_some() {
            return; // The log acknowledges nothing more; nothing may be promised on top of it.
        }
        let view = ShardLog { wal: &self.wal, log: self.log };
        for output in self.replica.step(wall_micros(), input, &view) {
            self.execute(output);
        }
    }

    fn execute(&mut self, output: Output) {
        match output {
            Output::Persist { ticket, write } => self.persist(ticket, write),
            Output::Send { to, message } => self.send(to, &message),
            Output::ReadLog { peer, after, bytes_max, purpose } => {
                let task = super::reader::ReadTask { peer, purpose, after, bytes_max };
                if self.reader.send(task).is_err() {
                    tracing::error!(node = %self.id, "the log's reader has ended");
                }
            }
            Output::Commit(_) => {}
            Output::Activated(epoch) => {
                if self.master.accept_activation(epoch) {
                    self.step(Input::ActivationAccepted(epoch));
                }
            }
            Output::Serving(epoch) => {
                tracing::info!(node = %self.id, %epoch, "serving");
                self.positions.serving.store(1, Ordering::Release);
            }
            Output::Superseded { promised } => {
                tracing::warn!(node = %self.id, %promised, "a newer epoch was promised");
                self.positions.serving.store(0, Ordering::Release);
                self.doubt_uncommitted();
                if self.leads {
                    self.assign(promised);
                }
            }
            Output::Disconnect { peer, reason } => {
                tracing::warn!(node = %self.id, %peer, %reason, "closing the connection");
                if let Some(link) = self.state.peers.get(&peer) {
                    link.disconnect(&reason.to_string());
                }
                self.forget_peer(peer);
            }
        }
    }

    fn assign(&mut self, promised: Epoch) {
        let assignment = self.master.assign(self.id, promised);
        self.step(Input::Assign(assignment));
    }

    fn persist(&mut self, ticket: Ticket, write: LogWrite) {
        let entry = match write {
            LogWrite::Append(batch) => {
                self.keep(batch.clone());
                Entry::Batch(batch)
            }
            LogWrite::Truncate(to) => {
                while let Some(last) = self.state.unapplied.pop_back_if(|last| last.batch.last_lsn() > to.lsn) {
                    self.state.unapplied_bytes -= last.batch.bytes().len();
                    last.completions.into_iter().for_each(Completion::unknown);
                }
                Entry::Truncate { log: self.log, to }
            }
            LogWrite::Promise(bytes) => Entry::HardState { log: self.log, kind: HardStateKind::Promise, bytes },
        };
        let events = self.events.clone();
        let done = move |result: Result<(), WalError>| match result {
            Ok(()) => events.send(Event::Persisted(ticket)),
            Err(error) => events.send(Event::LogFailed(error)),
        };
        if let Err(error) = self.wal.submit_with(vec![entry], done) {
            tracing::error!(node = %self.id, %error, "the log refuses a write");
            self.fail(WalError::from(error));
        }
    }

    /// Keeps a batch for the applier, if there is room; else the applier reads it from the log.
    fn keep(&mut self, batch: Batch) {
        let header = batch.header();
        self.state.batch_bytes.0 += u64::from(header.raw_len);
        self.state.batch_bytes.1 += batch.bytes().len() as u64;
        let completions = std::mem::take(&mut self.state.sealing);
        let fits = self.state.unapplied_bytes + batch.bytes().len() <= UNAPPLIED_BYTES_MAX;
        if fits || !completions.is_empty() {
            self.state.unapplied_bytes += batch.bytes().len();
            self.state.unapplied.push_back(Unapplied { batch, completions });
        }
    }

    fn send(&mut self, to: NodeId, message: &Message) {
        let sent = match message.encode() {
            Ok(bytes) => self.state.peers.get(&to).is_none_or(|link| link.send(bytes)),
            Err(error) => {
                tracing::error!(node = %self.id, peer = %to, %error, "a message does not fit its limits");
                false
            }
        };
        if !sent {
            // Its buffer is full, so it reads nothing: begin anew rather than hold more.
            if let Some(link) = self.state.peers.get(&to) {
                link.disconnect("its send buffer is full");
            }
            self.forget_peer(to);
        }
    }

    /// Seals what waits in the queue, unless too much is sealed and not applied.
    fn seal(&mut self) -> bool {
        let mut worked = false;
        while self.state.unapplied_bytes + BATCH_BYTES_TARGET <= UNAPPLIED_BYTES_MAX {
            let Some((epoch, prev)) = self.replica.proposal_position() else { break };
            while self.sequencer.queued_bytes() < BATCH_BYTES_TARGET {
                let Some(submission) = self.queue.pop() else { break };
                self.sequencer.push(submission);
            }
            let Some(sealed) = self.sequencer.seal(self.log, epoch, prev, wall_micros()) else { break };
            worked = true;
            self.state.sealing = sealed.tokens;
            self.step(Input::Propose(sealed.batch));
            // Taken when the batch was kept; left only if the log failed in this very step.
            std::mem::take(&mut self.state.sealing).into_iter().for_each(Completion::unknown);
        }
        worked
    }

    /// Hands the applier everything that is committed and durable here; one task at a time, so that what gathers
    /// meanwhile is applied in one write.
    fn apply(&mut self) {
        let applicable = self.replica.applicable();
        if self.state.applying || applicable <= self.applied.lsn {
            return;
        }
        let mut parts = Vec::new();
        let next = self.applied.lsn.next();
        if self.state.unapplied.front().is_some_and(|first| first.batch.first_lsn() == next) {
            let mut bytes = 0;
            while bytes < BATCH_BYTES_TARGET * 4 {
                let Some(first) = self.state.unapplied.pop_front_if(|first| first.batch.last_lsn() <= applicable)
                else {
                    break;
                };
                bytes += first.batch.bytes().len();
                self.state.unapplied_bytes -= first.batch.bytes().len();
                parts.push(Part { batch: first.batch, completions: first.completions });
            }
        }
        let task = if parts.is_empty() {
            let until = self.state.unapplied.front().map_or(applicable, |first| first.batch.first_lsn().prev());
            if until < next {
                return;
            }
            ApplyTask::Range { after: self.applied.lsn, until: until.min(applicable) }
        } else {
            ApplyTask::Parts(parts)
        };
        self.state.applying = self.applier.send(task).is_ok();
    }

    fn note_applied(&mut self, applied: Applied) {
        self.state.applying = false;
        match applied {
            Ok(position) => {
                self.applied = position;
                self.positions.applied.store(position.lsn.get(), Ordering::Release);
                while let Some(stale) =
                    self.state.unapplied.pop_front_if(|first| first.batch.last_lsn() <= position.lsn)
                {
                    self.state.unapplied_bytes -= stale.batch.bytes().len();
                    stale.completions.into_iter().for_each(Completion::unknown);
                }
            }
            Err(error) => {
                // Deterministic: the same on every replica. The shard stops; the log is kept.
                tracing::error!(node = %self.id, %error, "apply stops this shard");
                self.fail(WalError::Closed);
            }
        }
    }

    /// Credit for what is durable goes back to the peers.
    fn settle(&self) {
        let (promised, durable) = (self.replica.promise().epoch, self.replica.durable().lsn);
        for link in self.state.peers.values() {
            link.settle(promised, durable);
        }
    }

    /// The log is poisoned or closed: nothing more is acknowledged, everybody who waits hears that the outcome is
    /// unknown, and the process is to be reopened.
    fn fail(&mut self, error: WalError) {
        tracing::error!(node = %self.id, %error, "the log has stopped: reopen the node");
        self.positions.serving.store(0, Ordering::Release);
        self.queue.close();
        self.state.closing = true;
        self.state.failed = Some(error);
        self.abandon();
    }

    /// Sealed writes that may or may not be lost: their callers are told just that.
    fn doubt_uncommitted(&mut self) {
        let committed = self.replica.committed();
        for unapplied in &mut self.state.unapplied {
            if unapplied.batch.last_lsn() > committed {
                std::mem::take(&mut unapplied.completions).into_iter().for_each(Completion::unknown);
            }
        }
    }

    fn is_drained(&self) -> bool {
        let nothing_applicable = self.replica.applicable() <= self.applied.lsn && !self.state.applying;
        let nobody_waits = self.state.unapplied.iter().all(|unapplied| unapplied.completions.is_empty());
        let nothing_queued = self.queue.is_empty() && self.sequencer.queued_bytes() == 0;
        self.state.failed.is_some()
            || (nothing_applicable && nobody_waits && nothing_queued)
            || self.replica.phase() != Some(Phase::Serving) && !self.state.applying
    }

    /// Whatever still waits ends now: queued writes were not sealed, sealed ones are in doubt.
    fn abandon(&mut self) {
        for unapplied in self.state.unapplied.drain(..) {
            unapplied.completions.into_iter().for_each(Completion::unknown);
        }
        self.state.unapplied_bytes = 0;
        self.sequencer.drain().into_iter().for_each(Completion::closed);
        while let Some(submission) = self.queue.pop() {
            submission.into_token().closed();
        }
    }

    fn status(&self) -> ServerStatus {
        let promise = self.replica.promise();
        let sent: u64 = self.state.peers.values().map(|link| link.bytes_sent()).sum();
        ServerStatus {
            node: self.id,
            leader: promise.leader,
            serving: self.replica.phase() == Some(Phase::Serving) && self.state.failed.is_none(),
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
#[expect(clippy::disallowed_methods, reason = "node is the floor that reads clocks")]
fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

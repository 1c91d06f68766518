//! What a replica's outputs mean on real threads: each is carried out, in order; none is decided here.

use super::backlog::Waits;
use super::completion::{Completion, Reached};
use super::read_index::Confirmation;
use super::reader::{ReadOrder, ReadTask};
use super::shard::{Event, REASSIGN_PAUSE, REASSIGN_PAUSE_MAX, Sealing, Sending, Shard, ShardLog, now, wall_micros};
use super::snapshots::Replacing;
use super::stages::Times;
use crate::model::limits::PEER_READS_MAX;
use crate::model::{Epoch, LogId, LogPosition, Message, NodeId};
use crate::pipeline::Position;
use crate::replica::{Input, LogWrite, Output, QuorumLost, ReadPurpose, Ticket};
use bytes::Bytes;
use std::sync::Arc;
use towline_wal::{Batch, Entry, HardStateKind, WalError, WhenFull};

impl Shard {
    /// One step of the replica: all its outputs are executed, in order, before what follows from them is a step too.
    pub(super) fn step(&mut self, input: Input) {
        self.state.inputs.push_back(input);
        if std::mem::replace(&mut self.state.stepping, true) {
            return;
        }
        let mut may_need_others = false;
        while let Some(input) = self.state.inputs.pop_front() {
            may_need_others |= match &input {
                Input::PeerDown(_) | Input::DamageFound { .. } => true,
                Input::Message { message, .. } => matches!(message, Message::Damaged { .. }),
                _ => false,
            };
            if self.state.failed {
                continue; // The log acknowledges nothing more; nothing may be promised on top of it.
            }
            let view = ShardLog { wal: &self.wal, log: self.log, state: Some(&self.start_in_state) };
            for output in self.replica.step(wall_micros(), input, &view) {
                if !self.state.failed {
                    self.execute(output);
                }
            }
        }
        self.state.stepping = false;
        if may_need_others {
            self.hurry_reads();
        }
    }

    fn execute(&mut self, output: Output) {
        match output {
            Output::Persist { ticket, write } => self.persist(ticket, write),
            Output::Send { to, message } => self.send(to, message),
            Output::ReadLog { peer, after, bytes_max, purpose } => self.read(peer, after, bytes_max, purpose),
            Output::Commit(_) => {}
            of_a_snapshot @ (Output::TakeSnapshot { .. }
            | Output::ReadSnapshot { .. }
            | Output::StageSnapshot { .. }
            | Output::StageChunk { .. }
            | Output::InstallSnapshot { .. }) => self.do_for_a_snapshot(of_a_snapshot),
            Output::ReadsConfirmed { up_to, index } => self.reads.answer(up_to, &Confirmation::At(index)),
            Output::ReadsRefused { up_to } => self.reads.answer(up_to, &Confirmation::Refused),
            Output::Activated(epoch) => {
                if self.master.accept_activation(epoch) {
                    self.step(Input::ActivationAccepted(epoch));
                }
            }
            Output::Serving(epoch) => {
                tracing::info!(node = %self.id, %epoch, "serving");
                self.state.reassign_pause = REASSIGN_PAUSE;
                self.positions.set_serving(Some(self.replica.end().lsn));
                self.by_hand_serves(epoch);
                self.state.newcomers.came_to(epoch);
                self.look_for_newcomers();
                self.readmit();
            }
            Output::Superseded { promised } => self.superseded(promised),
            Output::SteppedDown { epoch, reason } => {
                tracing::warn!(node = %self.id, shard = %self.shard, %epoch, %reason, "leads no more");
                self.positions.set_serving(None);
                self.state.unapplied.doubt(self.replica.committed());
                // What was not sealed has no place in any log: it has no effect, and is not to wait until a majority is back.
                self.refuse_queued(Completion::not_led);
                if reason == QuorumLost::Bettered {
                    // Whoever connects next changes it, or an operator does.
                    self.state.awaits_voters = true;
                    self.by_hand_is_bettered();
                } else {
                    self.assign_later();
                }
            }
            Output::Disconnect { peer, reason } => self.disconnect(peer, &reason.to_string()),
        }
    }

    /// This node does not lead any more. It stays a follower, unless an operator wants it otherwise at this moment, or it is its own
    /// term that its disk has forgotten.
    fn superseded(&mut self, promised: Epoch) {
        // First: whoever hears of the rest is told whom to ask.
        self.positions.set_leader(self.known_leader());
        self.positions.set_serving(None);
        self.state.unapplied.doubt(self.replica.committed());
        let is_own = self.master.is_of_the_same_round(promised);
        self.master.note_promised(promised);
        if self.by_hand_goes_on(promised) {
            return;
        }
        let promise = self.replica.promise();
        if is_own && promise.leader == Some(self.id) {
            tracing::warn!(node = %self.id, %promised, "a newer term of its own was promised: it renews above that");
            self.assign_later();
            return;
        }
        let leader = promise.leader.filter(|leader| *leader != self.id);
        let leader = leader.map_or_else(|| "another node".to_owned(), |leader| format!("node {leader}"));
        tracing::warn!(node = %self.id, shard = %self.shard, %promised, "superseded: {leader} leads, and this node follows");
    }

    /// Asks for the next term.
    pub(super) fn assign(&mut self) {
        self.state.reassign = None;
        self.state.awaits_voters = false;
        self.state.forming_until = None;
        match self.master.assign(self.id, self.replica.promise().epoch) {
            Some(assignment) => {
                self.by_hand_is_renewed(assignment.epoch);
                self.step(Input::Assign(assignment));
            }
            None => {
                let promised = self.replica.promise().epoch;
                tracing::error!(node = %self.id, shard = %self.shard, %promised, "no term is left: assign a leader by hand");
            }
        }
    }

    /// The present epoch is over for this leader: it asks for a newer one after a pause, as soon as it is connected to enough voters.
    fn assign_later(&mut self) {
        self.state.reassign = Some(now() + self.state.reassign_pause);
        self.state.reassign_pause = (self.state.reassign_pause * 2).min(REASSIGN_PAUSE_MAX);
    }

    fn read(&mut self, peer: NodeId, after: LogPosition, bytes_max: usize, purpose: ReadPurpose) {
        let Some(found) = self.state.peers.get_mut(&peer) else { return };
        if found.reads >= PEER_READS_MAX {
            self.disconnect(peer, "it asks for more reads than it waits for");
            return;
        }
        found.reads += 1;
        if found.backlog.is_empty() {
            self.order_read(peer, after, bytes_max, purpose);
        } else {
            // What is read is to be sent, and holds memory until then.
            self.wait_for_room(peer, Waits::Read(after, bytes_max, purpose));
        }
    }

    fn order_read(&mut self, peer: NodeId, after: LogPosition, bytes_max: usize, purpose: ReadPurpose) {
        let Some(session) = self.state.peers.get(&peer).map(|found| found.link.session()) else { return };
        let events = self.events.clone();
        let may_wait = purpose == ReadPurpose::CatchUp && !self.replica.writes_need(peer);
        let task = ReadTask { log: self.log, events, peer, session, purpose, after, bytes_max, may_wait };
        if self.reader.send(ReadOrder::Read(task)).is_err() {
            tracing::error!(node = %self.id, "the log's reader has ended");
        }
    }

    /// Somebody is gone, or can't read what it had: writes may need now what waits for its turn to be read for others.
    fn hurry_reads(&self) {
        let waiting =
            self.state.peers.iter().filter(|(peer, found)| found.reads > 0 && self.replica.writes_need(**peer));
        for (peer, _) in waiting {
            if self.reader.send(ReadOrder::Hurry { log: self.log, peer: *peer }).is_err() {
                tracing::error!(node = %self.id, "the log's reader has ended");
            }
        }
    }

    pub(super) fn disconnect(&mut self, peer: NodeId, reason: &str) {
        tracing::warn!(node = %self.id, %peer, reason, "closing the connection");
        if let Some(found) = self.state.peers.get(&peer) {
            found.link.disconnect(reason);
        }
        self.forget_peer(peer);
    }

    fn persist(&mut self, ticket: Ticket, write: LogWrite) {
        let (entries, bytes) = match write {
            LogWrite::Append(batch) => {
                self.keep(batch.clone());
                let bytes = batch.bytes().len();
                (vec![Entry::Batch(batch)], bytes)
            }
            LogWrite::Mend(batch) => {
                let (first, last, bytes) = (batch.first_lsn(), batch.last_lsn(), batch.bytes().len());
                tracing::warn!(node = %self.id, shard = %self.shard, %first, %last, "a damaged range is put again");
                (vec![Entry::Mend(batch)], bytes)
            }
            LogWrite::Truncate(to) => {
                self.state.unapplied.truncate(to.lsn);
                (vec![Entry::Truncate { log: self.log, to }], 0)
            }
            LogWrite::Mark(bytes) => (vec![mark_entry(self.log, bytes)], 0),
            LogWrite::Reset { to, mark } => {
                super::snapshots::clear(&mut self.state.unapplied);
                if self.state.replacing == Replacing::No {
                    // The state came from a snapshot before, and until this is durable nothing is.
                    self.state.replacing = Replacing::Done(to);
                }
                (vec![Entry::Reset { log: self.log, to }, mark_entry(self.log, mark)], 0)
            }
            LogWrite::Settle => (vec![Entry::Settle { log: self.log }], 0),
            LogWrite::Promise(bytes) => {
                (vec![Entry::HardState { log: self.log, kind: HardStateKind::Promise, bytes }], 0)
            }
        };
        let events = self.events.clone();
        let taken = self.budget.take(bytes);
        let done = move |result: Result<(), WalError>| {
            drop(taken);
            match result {
                Ok(()) => events.send(Event::Persisted(ticket)),
                Err(error) => events.send(Event::LogFailed(error)),
            }
        };
        if let Err(error) = self.wal.submit_with(entries, WhenFull::Wait, done) {
            self.fail(&format!("the log takes no more: {error}"));
        }
    }

    /// Keeps a batch for the applier.
    fn keep(&mut self, batch: Batch) {
        let header = batch.header();
        self.state.batch_bytes.0 += u64::from(header.raw_len);
        self.state.batch_bytes.1 += batch.bytes().len() as u64;
        let Sealing { submitted, mut completions } = std::mem::take(&mut self.state.sealing);
        let times = Times::new(submitted, now());
        self.stages.sealed(&times, batch.header().record_count);
        let first = Position { shard: self.shard, epoch: batch.epoch(), lsn: batch.first_lsn() };
        Completion::reached(&mut completions, Reached::Placed, &first);
        self.state.unapplied.push(batch, completions, times);
    }

    fn send(&mut self, to: NodeId, message: Message) {
        let Some(peer) = self.state.peers.get(&to) else { return };
        if !peer.backlog.is_empty() {
            self.wait_for_room(to, Waits::Message(message));
            return;
        }
        match message.encode() {
            Ok(bytes) => match peer.link.send(bytes.clone()) {
                Sending::Queued => {}
                Sending::Full => self.wait_for_room(to, Waits::Encoded(bytes)),
                Sending::Refused => self.disconnect(to, "its connection takes nothing more"),
            },
            Err(error) => {
                tracing::error!(node = %self.id, peer = %to, %error, "a message does not fit its limits");
                self.disconnect(to, "a message for it can't be encoded");
            }
        }
    }

    fn wait_for_room(&mut self, peer: NodeId, waits: Waits) {
        let fits = self.state.peers.get_mut(&peer).is_none_or(|found| found.backlog.push(waits));
        if !fits {
            // It reads nothing: begin anew rather than hold more.
            self.disconnect(peer, "more waits to be sent to it than may");
        }
    }

    /// A peer's connection has room: what waited for that goes on, as far as it goes.
    pub(super) fn send_waiting(&mut self, peer: NodeId, session: u64) {
        loop {
            let found = self.state.peers.get_mut(&peer).filter(|found| found.link.session() == session);
            let Some((link, waits)) = found.and_then(|found| Some((Arc::clone(&found.link), found.backlog.pop()?)))
            else {
                return;
            };
            let bytes = match waits {
                Waits::Read(after, bytes_max, purpose) => {
                    self.order_read(peer, after, bytes_max, purpose);
                    continue;
                }
                Waits::Encoded(bytes) => Ok(bytes),
                Waits::Message(message) => message.encode(),
            };
            match bytes.map(|bytes| (link.send(bytes.clone()), bytes)) {
                Ok((Sending::Queued, _)) => {}
                Ok((Sending::Full, bytes)) => {
                    // In this form, so that it is not encoded again each time.
                    if let Some(found) = self.state.peers.get_mut(&peer) {
                        found.backlog.put_back(Waits::Encoded(bytes));
                    }
                    return;
                }
                Ok((Sending::Refused, _)) => return self.disconnect(peer, "its connection takes nothing more"),
                Err(error) => {
                    tracing::error!(node = %self.id, %peer, %error, "a message does not fit its limits");
                    return self.disconnect(peer, "a message for it can't be encoded");
                }
            }
        }
    }
}

const fn mark_entry(log: LogId, bytes: Bytes) -> Entry {
    Entry::HardState { log, kind: HardStateKind::Snapshot, bytes }
}

//! What `node` does with threads, done in virtual time: carries outputs of one part to the next.

use super::checker::Violation;
use super::event::Event;
use super::node::{ShardLog, SimNode};
use super::world::World;
use super::{network, workload};
use crate::model::limits::UNAPPLIED_BYTES_DEFAULT;
use crate::model::{Epoch, Lsn, NodeId};
use crate::pipeline::Submission;
use crate::replica::{Input, LogWrite, Output, Ticket};
use crate::state::check_batch;
use std::collections::VecDeque;
use std::time::Duration;
use towline_wal::io::{IoFailure, IoOp, IoRequest, execute};
use towline_wal::{Batch, Entry, HardStateKind};

/// What clients may leave in a node's queue. Small: a batch must fit the small segments of this world.
const QUEUED_BYTES_MAX: usize = 32 * 1024;

impl World {
    /// Feeds one input to a node's replica and does what it says: all of it, in order, before what follows from it
    /// is an input too, to this node or to another.
    pub(super) fn step(&mut self, id: NodeId, input: Input) -> Result<(), Violation> {
        let life = self.node(id).life;
        self.inputs.push_back((id, life, input));
        if std::mem::replace(&mut self.stepping, true) {
            return Ok(());
        }
        while let Some((id, life, input)) = self.inputs.pop_front() {
            self.touched.insert(id);
            let micros = u64::try_from(self.agenda.now().as_micros()).unwrap_or(u64::MAX);
            let log = self.log;
            if !self.is_alive(id, life) {
                continue;
            }
            let SimNode { running: Some(running), disk, .. } = self.node(id) else { continue };
            let outputs = running.replica.step(micros, input, &ShardLog::new(&mut running.log, disk, log));
            for output in outputs {
                self.execute(id, output)?;
            }
            self.leads_no_more(id)?;
        }
        self.stepping = false;
        Ok(())
    }

    fn execute(&mut self, id: NodeId, output: Output) -> Result<(), Violation> {
        match output {
            Output::Persist { ticket, write } => self.persist(id, ticket, write),
            Output::Send { to, message } => self.send(id, to, &message),
            Output::ReadLog { peer, after, bytes_max, purpose } => {
                if matches!(purpose, crate::replica::ReadPurpose::Fetch(_)) {
                    self.totals.adoptions += 1;
                }
                let log = self.log;
                let (batches, is_new_damage) = self.node(id).read(log, after.lsn, bytes_max)?;
                if is_new_damage {
                    self.tell(|| format!("node {id} comes upon what can't be read, behind {}", after.lsn));
                    self.find_damage(id)?;
                }
                self.step(id, Input::LogRead { peer, purpose, after, batches })
            }
            asked @ (Output::TakeSnapshot { .. }
            | Output::ReadSnapshot { .. }
            | Output::StageSnapshot { .. }
            | Output::StageChunk { .. }
            | Output::InstallSnapshot { .. }) => self.do_for_a_snapshot(id, asked),
            Output::Commit(_) => {
                self.witness_commit(id)?;
                self.schedule_apply(id);
                Ok(())
            }
            Output::Activated(epoch) => {
                let life = self.node(id).life;
                let delay = Duration::from_micros(self.chance.latency(1_000));
                self.agenda.schedule(delay, Event::Report { node: id, life, epoch });
                Ok(())
            }
            Output::Serving(epoch) => {
                self.tell(|| format!("node {id} serves epoch {epoch}"));
                Ok(())
            }
            Output::Superseded { promised } => {
                self.tell(|| format!("node {id} leads no more: epoch {promised} is promised"));
                self.forget_unanswered(id, true)?;
                let delay = Duration::from_micros(self.chance.latency(5_000));
                self.agenda.schedule(delay, Event::Superseded { node: id, promised });
                Ok(())
            }
            Output::SteppedDown { epoch, reason } => {
                self.totals.stepped_down += 1;
                self.tell(|| format!("node {id} leads epoch {epoch} no more: {reason}"));
                self.doubt(id, epoch)?;
                let delay = Duration::from_micros(self.chance.latency(5_000));
                self.agenda.schedule(delay, Event::SteppedDown { node: id, epoch });
                Ok(())
            }
            Output::ReadsConfirmed { up_to, index } => self.reads_confirmed(id, up_to, index),
            Output::ReadsRefused { up_to } => {
                self.reads_refused(id, up_to);
                Ok(())
            }
            Output::Disconnect { peer, reason } => {
                self.tell(|| format!("node {id} disconnects node {peer}: {reason}"));
                self.drop_link(id, peer)
            }
        }
    }

    /// Gives a write to the log.
    fn persist(&mut self, id: NodeId, ticket: Ticket, write: LogWrite) -> Result<(), Violation> {
        let log = self.log;
        let kind = HardStateKind::Snapshot;
        let entries = match write {
            LogWrite::Append(batch) => vec![Entry::Batch(batch)],
            LogWrite::Mend(batch) => {
                self.totals.mended += 1;
                self.tell(|| format!("node {id} puts LSN {} to {} again", batch.first_lsn(), batch.last_lsn()));
                let Some(SimNode { running: Some(running), disk, .. }) = self.nodes.get_mut(&id) else { return Ok(()) };
                for lsn in [batch.first_lsn().prev(), batch.last_lsn()] {
                    running.log.load_index(disk, log, lsn);
                }
                vec![Entry::Mend(batch)]
            }
            LogWrite::Truncate(to) => {
                self.totals.truncations += 1;
                self.tell(|| format!("node {id} truncates its log to {}", to.lsn));
                self.forget_behind(id, to.lsn)?;
                vec![Entry::Truncate { log, to }]
            }
            LogWrite::Mark(bytes) => vec![Entry::HardState { log, kind, bytes }],
            LogWrite::Reset { to, mark: bytes } => {
                self.tell(|| format!("node {id} lets its log begin behind {}", to.lsn));
                // Nothing here tells what becomes of what it sealed when it led.
                self.forget_unanswered(id, false)?;
                vec![Entry::Reset { log, to }, Entry::HardState { log, kind, bytes }]
            }
            LogWrite::Settle => vec![Entry::Settle { log }],
            LogWrite::Promise(bytes) => {
                vec![Entry::HardState { log, kind: HardStateKind::Promise, bytes }]
            }
        };
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        match running.log.submit(entries) {
            Ok(submitted) => {
                running.tickets.insert(submitted, ticket);
                Ok(())
            }
            // Poisoned (D6) in this very step: what was to be promised on top of it never is.
            Err(_) if running.log.poisoned().is_some() => self.stop(id, super::mischief::Death::Process),
            Err(error) => Err(Violation::new("I2", format!("node {id}: the log refuses: {error}"))),
        }
    }

    /// The writes that were sealed and not answered end as unknown; queued ones too.
    pub(super) fn forget_unanswered(&mut self, id: NodeId, queued_too: bool) -> Result<(), Violation> {
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        let mut lost: Vec<u64> = running.unanswered.drain(..).flat_map(|(_, _, writes)| writes).collect();
        if queued_too {
            lost.extend(running.sequencer.drain());
        }
        lost.into_iter().try_for_each(|write| self.answered(write, (Epoch::ZERO, Lsn::ZERO), None))
    }

    /// The log ends at `to` now: who waits for what was behind it can't know what becomes of that. Otherwise
    /// they would hear what others wrote at the same LSNs since.
    pub(super) fn forget_behind(&mut self, id: NodeId, to: Lsn) -> Result<(), Violation> {
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        let stays =
            |first: Lsn, writes: &[u64]| first.distance_to(to).is_some_and(|held| held >= writes.len() as u64 - 1);
        let (kept, lost): (VecDeque<_>, VecDeque<_>) =
            running.unanswered.drain(..).partition(|(_, first, writes)| stays(*first, writes));
        running.unanswered = kept;
        let mut lost = lost.into_iter().flat_map(|(_, _, writes)| writes);
        lost.try_for_each(|write| self.answered(write, (Epoch::ZERO, Lsn::ZERO), None))
    }

    /// Everything that a node can do at this moment.
    pub(super) fn pump(&mut self, id: NodeId) -> Result<(), Violation> {
        if self.nodes[&id].paused {
            return Ok(());
        }
        while self.pump_log(id)? | self.seal(id)? {}
        self.touched.remove(&id);
        self.schedule_apply(id);
        self.schedule_giving_up(id);
        self.settle_credit(id);
        self.transmit(id)?;
        self.schedule_tick(id);
        Ok(())
    }

    fn pump_log(&mut self, id: NodeId) -> Result<bool, Violation> {
        let mut worked = false;
        loop {
            let Some(running) = &mut self.node(id).running else { return Ok(worked) };
            let Some(request) = running.log.poll_io() else { break };
            worked = true;
            self.start_io(id, request);
        }
        loop {
            let Some(running) = &mut self.node(id).running else { return Ok(worked) };
            let Some(completion) = running.log.poll_completion() else { break };
            worked = true;
            let ticket = running.tickets.remove(&completion.ticket);
            match (ticket, completion.result) {
                (Some(ticket), Ok(())) => self.step(id, Input::Persisted(ticket))?,
                (None, Ok(())) => {}
                (_, Err(error)) => {
                    // Poisoned (D6): the process ends, and reopens from what the disk truly has.
                    self.tell(|| format!("node {id}: {error}"));
                    self.stop(id, super::mischief::Death::Process)?;
                    return Ok(true);
                }
            }
        }
        Ok(worked)
    }

    /// A write to the disk's cache happens at once, and is known a little later; anything with a sync in it
    /// happens when it is known.
    fn start_io(&mut self, id: NodeId, request: IoRequest) {
        let slowness = self.node(id).slowness;
        let sync = self.swarm.sync_micros;
        let micros = if is_durable(&request) { self.chance.latency(sync) * slowness } else { self.chance.latency(20) };
        self.node(id).writes += 1;
        let life = self.node(id).life;
        let result = if is_durable(&request) { None } else { Some(self.perform(id, &request)) };
        self.agenda.schedule(Duration::from_micros(micros), Event::Io { node: id, life, request, result });
    }

    pub(super) fn perform(&mut self, id: NodeId, request: &IoRequest) -> Result<(), IoFailure> {
        execute(&mut self.node(id).disk, request)
    }

    pub(super) fn io_done(
        &mut self,
        id: NodeId,
        life: u64,
        request: &IoRequest,
        result: Option<Result<(), IoFailure>>,
    ) {
        if !self.is_alive(id, life) {
            return;
        }
        self.node(id).writes -= 1;
        let result = result.unwrap_or_else(|| self.perform(id, request));
        if let Some(running) = &mut self.node(id).running {
            running.log.on_io(request.id, result);
        }
    }

    /// The sequencer seals whatever waits, unless too much is sealed and not applied.
    fn seal(&mut self, id: NodeId) -> Result<bool, Violation> {
        let micros = u64::try_from(self.agenda.now().as_micros()).unwrap_or(u64::MAX);
        let log = self.log;
        let Some(running) = &mut self.node(id).running else { return Ok(false) };
        let Some((epoch, prev)) = running.replica.proposal_position() else { return Ok(false) };
        if running.unanswered.len() * 1024 > UNAPPLIED_BYTES_DEFAULT {
            return Ok(false);
        }
        let Some(sealed) = running.sequencer.seal(log, epoch, prev, micros) else { return Ok(false) };
        running.unanswered.push_back((epoch, sealed.batch.first_lsn(), sealed.tokens));
        self.step(id, Input::Propose(sealed.batch))?;
        Ok(true)
    }

    pub(super) fn write(&mut self, client: u64) {
        if self.healed {
            return;
        }
        let pause = Duration::from_micros(self.chance.latency(self.swarm.pause_micros));
        self.agenda.schedule(pause, Event::Write { client });
        let Some(id) = self.serving() else { return };
        self.touched.insert(id);
        let value_max = self.swarm.value_max;
        for _ in 0..self.chance.between(1, self.swarm.burst_max) {
            let queued = self.nodes[&id].running.as_ref().map_or(0, |running| running.sequencer.queued_bytes());
            if queued > QUEUED_BYTES_MAX {
                return; // As a node that says it is busy.
            }
            if self.chance.per_mille(300) {
                self.totals.submitted += 1;
                let submission = self.sessions.submit(&mut self.chance, &mut self.next_write, value_max);
                if let (Some(submission), Some(running)) = (submission, &mut self.node(id).running) {
                    running.sequencer.push(submission);
                }
                continue;
            }
            let write = self.next_write;
            self.next_write += 1;
            self.totals.submitted += 1;
            let record = workload::record(&mut self.chance, write, value_max);
            let bytes = match record.encode() {
                Ok(bytes) => bytes,
                Err(error) => unreachable!("the workload stays within the limits: {error}"),
            };
            if let Some(running) = &mut self.node(id).running {
                running.sequencer.push(Submission::record(bytes, write));
            }
        }
    }

    fn schedule_apply(&mut self, id: NodeId) {
        let Some(running) = &mut self.node(id).running else { return };
        let next = running.applier.applied().lsn.next();
        let is_damaged = running.replica.damaged().iter().any(|(first, last)| *first <= next && *last >= next);
        if running.applying || next > running.replica.applicable() || is_damaged {
            return;
        }
        running.applying = true;
        let life = self.node(id).life;
        let delay = Duration::from_micros(self.chance.latency(200));
        self.agenda.schedule(delay, Event::Apply { node: id, life });
    }

    /// Applies what is committed and durable here, and answers the writes in it.
    pub(super) fn apply(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        if !self.is_alive(id, life) {
            return Ok(());
        }
        let log = self.log;
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        running.applying = false;
        let (applied, applicable) = (running.applier.applied().lsn, running.replica.applicable());
        if applied >= applicable {
            return Ok(());
        }
        let bytes_max = usize::try_from(self.chance.between(1, 64 * 1024)).unwrap_or(usize::MAX);
        let (mut batches, is_new_damage) = self.node(id).read(log, applied, bytes_max)?;
        if is_new_damage {
            self.tell(|| format!("node {id} comes upon what can't be read, and applies nothing behind {applied}"));
        }
        batches.retain(|batch| batch.last_lsn() <= applicable);
        if is_new_damage {
            let read = batches.last().map_or(applied, Batch::last_lsn);
            self.step(id, Input::DamageFound { read })?;
        }
        if batches.is_empty() {
            return Ok(());
        }
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        let effects = running
            .applier
            .apply(&batches)
            .map_err(|error| Violation::new("I4", format!("node {id} can't apply: {error}")))?;
        let (now, digest) = (running.applier.applied().lsn, running.applier.store().running_digest());
        assert!(now <= running.replica.applicable(), "the chain of positions: applied passes what may be applied");
        self.checker.on_applied(id, now, digest)?;
        for effect in effects {
            let Some(running) = &mut self.node(id).running else { break };
            let write = running.unanswered.iter().find_map(|(epoch, first, writes)| {
                let offset = first.distance_to(effect.lsn)?;
                writes.get(usize::try_from(offset).ok()?).map(|write| (*epoch, *write))
            });
            if let (Some((epoch, write)), Some(outcome)) = (write, effect.outcome) {
                let place = effect.executed.unwrap_or((epoch, effect.lsn));
                self.answered(write, place, Some(outcome))?;
            }
        }
        if let Some(running) = &mut self.node(id).running {
            running.unanswered.retain(|(_, first, writes)| {
                first.distance_to(now).is_none_or(|reached| reached + 1 < writes.len() as u64)
            });
        }
        if self.chance.per_mille(60) {
            let delay = Duration::from_micros(self.chance.latency(3_000));
            self.agenda.schedule(delay, Event::Flush { node: id, life });
        }
        self.schedule_apply(id);
        self.serve_reads(id)
    }

    pub(super) fn flush_state(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        if self.is_alive(id, life) {
            self.flush(id);
            self.release(id)?;
        }
        Ok(())
    }

    /// N11: what apply could not decode is refused before it reaches the log.
    pub(super) fn decodable(message: &crate::model::Message) -> bool {
        let (crate::model::Message::Append { batches, .. }
        | crate::model::Message::Fetched { batches, .. }
        | crate::model::Message::Mend { batches, .. }) = message
        else {
            return true;
        };
        batches.iter().all(|batch| check_batch(batch).is_ok())
    }

    fn settle_credit(&mut self, id: NodeId) {
        let Some(running) = &mut self.node(id).running else { return };
        let (promised, durable) = (running.replica.promise().epoch, running.replica.durable().lsn);
        for peer in running.peers.values_mut() {
            let settled = peer.replication.settle(promised, durable);
            if let Some(stream) = peer.stream.filter(|_| settled > 0) {
                peer.connection.consumed(stream, settled);
            }
        }
    }

    fn schedule_tick(&mut self, id: NodeId) {
        let now = self.agenda.now();
        let Some(running) = &mut self.node(id).running else { return };
        let connections = running.peers.values().filter_map(|peer| peer.connection.next_deadline());
        let Some(due) = connections.chain(running.replica.next_tick()).min() else { return };
        let due = due.max(now + Duration::from_millis(1));
        // One that comes sooner than the one that is scheduled is not to wait for that.
        if running.ticking.is_some_and(|at| at <= due) {
            return;
        }
        running.ticking = Some(due);
        let life = self.node(id).life;
        self.agenda.schedule(due.saturating_sub(now), Event::Tick { node: id, life });
    }

    pub(super) fn tick(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        if !self.is_alive(id, life) {
            return Ok(());
        }
        let now = self.agenda.now();
        if let Some(running) = &mut self.node(id).running {
            running.ticking = running.ticking.filter(|at| *at > now);
            for peer in running.peers.values_mut() {
                peer.connection.tick(now);
            }
            if running.replica.next_tick().is_some_and(|at| at <= now) {
                self.step(id, Input::Tick(now))?;
            }
        }
        network::close_dead(self, id)
    }
}

/// Whether a request ends with a sync: then it takes as long as one.
const fn is_durable(request: &IoRequest) -> bool {
    !matches!(request.op, IoOp::Write { .. })
}

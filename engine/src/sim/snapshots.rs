//! Logs that are released, and the snapshots that this makes necessary: what a driver does for a replica, in virtual time, and
//! what of it a crash leaves.

use super::checker::Violation;
use super::event::Event;
use super::fault::FaultKind;
use super::node::{ShardLog, SimNode, Staging};
use super::world::World;
use crate::model::{Epoch, Lsn, NodeId, SnapshotId};
use crate::replica::{Input, LogView as _, Output, begins_by_state, first_boundary};
use crate::state::{Applier, StagedSnapshot, install_snapshot, take_snapshot};
use bytes::Bytes;
use std::time::Duration;
use towline_wal::{Entry, SubmitError};

/// What takes time at a node that is given a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SnapshotStep {
    /// All chunks are there: they are synced, and looked at.
    Sync,
    /// The state is replaced.
    Install,
    /// The new state reaches the disk.
    Flush,
}

impl World {
    /// A state was flushed: the log before it may go, whatever the others have.
    pub(super) fn release(&mut self, id: NodeId) -> Result<(), Violation> {
        let (log, keep) = (self.log, self.swarm.kept_bytes);
        if let Some(running) = &mut self.node(id).running {
            running.giving_up = false;
        }
        let flushed = self.node(id).flushed();
        if let Some((_, last)) = self.unmendable(id).filter(|(first, _)| *first <= flushed) {
            let SimNode { running: Some(running), disk, .. } = self.node(id) else { return Ok(()) };
            let view = ShardLog::new(&mut running.log, disk, log);
            let to = first_boundary(last, view.end(), |lsn| view.boundary_at_or_before(lsn)).lsn.min(flushed);
            self.tell(|| {
                format!("of node {id} the log up to {to} is given up: nobody can mend it, and its state has it")
            });
            return self.let_go(id, to, true);
        }
        if !self.chance.per_mille(self.swarm.release_per_mille) {
            return Ok(());
        }
        let Some(running) = &self.node(id).running else { return Ok(()) };
        let to = if keep == 0 { flushed } else { flushed.min(running.log.boundary_keeping(log, keep)) };
        self.release_to(id, to)
    }

    /// What nobody can mend can be given up once the state has it on the disk.
    pub(super) fn schedule_giving_up(&mut self, id: NodeId) {
        let Some((first, _)) = self.unmendable(id) else { return };
        let node = self.node(id);
        let (life, slowness) = (node.life, node.slowness);
        let Some(running) = node.running.as_mut().filter(|running| !running.giving_up) else { return };
        if running.applier.applied().lsn >= first {
            running.giving_up = true;
            let delay = Duration::from_micros(self.chance.latency(3_000) * slowness);
            self.agenda.schedule(delay, Event::Flush { node: id, life });
        }
    }

    /// What nobody can mend of its log.
    fn unmendable(&self, id: NodeId) -> Option<(Lsn, Lsn)> {
        self.nodes[&id].running.as_ref()?.replica.unmendable()
    }

    /// Lets go of a log up to there. Damage may go with it, for whatever reason it goes: then its replica is told, which would ask
    /// for ever otherwise for what no log needs any more.
    pub(super) fn release_to(&mut self, id: NodeId, to: Lsn) -> Result<(), Violation> {
        self.let_go(id, to, false)
    }

    /// The same; of what is given up also where nothing of the log names where the state is.
    fn let_go(&mut self, id: NodeId, to: Lsn, is_given_up: bool) -> Result<(), Violation> {
        let log = self.log;
        let state = self.node(id).flushed_at.filter(|_| is_given_up);
        let SimNode { running: Some(running), disk, .. } = self.node(id) else { return Ok(()) };
        running.log.load_index(disk, log, to);
        let is_lost = begins_by_state(to, running.log.boundary_at_or_before(log, to), &running.log.damaged(log));
        let state = state.filter(|state| state.lsn == to && is_lost);
        let released = Entry::Release { log, before: to.next() };
        let (is_named, entry) = (state.is_none(), state.map_or(released, |at| Entry::Begin { log, at }));
        let was_damaged = !running.replica.damaged().is_empty();
        // What the log does not hold yet, behind a state that came from elsewhere, is not released.
        let may_go = to > running.log.start(log).lsn && to <= running.log.durable_end(log).lsn;
        if !may_go {
            return Ok(());
        }
        match running.log.submit(vec![entry]) {
            Err(error @ SubmitError::NotABoundary { .. }) => {
                return Err(Violation::new(
                    "I8",
                    format!("node {id} may not let its log begin where its state is: {error}"),
                ));
            }
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        self.totals.releases += 1;
        let how =
            if is_named { "releases its log" } else { "lets its log begin where its state is: nothing names a batch" };
        self.tell(|| format!("node {id} {how} up to {to}"));
        self.touched.insert(id);
        if was_damaged { self.find_damage(id) } else { Ok(()) }
    }

    fn answer_later(&mut self, id: NodeId, micros: u64, input: Input) {
        let life = self.node(id).life;
        let delay = Duration::from_micros(self.chance.latency(micros));
        self.agenda.schedule(delay, Event::Answer { node: id, life, input: Box::new(input) });
    }

    fn step_later(&mut self, id: NodeId, step: SnapshotStep) {
        let (life, slowness) = (self.node(id).life, self.node(id).slowness);
        let delay = Duration::from_micros(self.chance.latency(self.swarm.sync_micros) * slowness);
        self.agenda.schedule(delay, Event::Snapshot { node: id, life, step });
    }

    /// What a replica asks its driver for.
    pub(super) fn do_for_a_snapshot(&mut self, id: NodeId, asked: Output) -> Result<(), Violation> {
        match asked {
            Output::TakeSnapshot { peer, epoch } => return self.take_snapshot(id, peer, epoch),
            Output::ReadSnapshot { peer, epoch, snapshot, index } => {
                self.read_snapshot(id, (peer, epoch), (snapshot, index));
            }
            Output::StageSnapshot { snapshot } => self.stage(id, snapshot),
            Output::StageChunk { index, bytes, .. } => self.stage_chunk(id, index, bytes),
            Output::InstallSnapshot { .. } => self.step_later(id, SnapshotStep::Install),
            _ => {}
        }
        Ok(())
    }

    /// A snapshot for a peer: the last one, as long as the log goes on behind it.
    fn take_snapshot(&mut self, id: NodeId, peer: NodeId, epoch: Epoch) -> Result<(), Violation> {
        let (log, chunk_bytes) = (self.log, self.swarm.chunk_bytes);
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        let start = running.log.start(log).lsn;
        if running.taken.as_ref().is_none_or(|(taken, _)| taken.at.lsn < start) {
            let applier = &running.applier;
            let taken = take_snapshot(applier.store(), applier.shard(), log, chunk_bytes)
                .map_err(|error| Violation::new("I8", format!("node {id} can't take a snapshot: {error}")))?;
            running.taken = Some(taken);
        }
        let Some((snapshot, _)) = running.taken else { return Ok(()) };
        self.tell(|| {
            let SnapshotId { at, chunks, bytes, .. } = snapshot;
            format!("node {id} has a snapshot at {} for node {peer}: {chunks} chunks, {bytes} bytes", at.lsn)
        });
        self.answer_later(id, 500, Input::SnapshotTaken { peer, epoch, snapshot });
        Ok(())
    }

    fn read_snapshot(&mut self, id: NodeId, (peer, epoch): (NodeId, Epoch), part: (SnapshotId, u32)) {
        let (snapshot, index) = part;
        let taken = self.nodes[&id].running.as_ref().and_then(|running| running.taken.as_ref());
        let chunks = taken.filter(|(taken, _)| *taken == snapshot).map(|(_, chunks)| chunks);
        let bytes = chunks.and_then(|chunks| chunks.get(usize::try_from(index).ok()?).cloned());
        self.answer_later(id, 100, Input::SnapshotRead { peer, epoch, snapshot, index, bytes });
    }

    /// Chunks of this snapshot will come; some may be here already.
    fn stage(&mut self, id: NodeId, snapshot: SnapshotId) {
        let staging = &mut self.node(id).staging;
        if staging.as_ref().is_none_or(|staging| staging.snapshot.id() != snapshot) {
            *staging = Some(Staging { snapshot: StagedSnapshot::new(snapshot), synced: 0 });
        }
        let found = staging.as_ref().map_or(0, |staging| staging.snapshot.len());
        self.tell(|| format!("node {id} takes the snapshot at {}, from chunk {found} on", snapshot.at.lsn));
        self.totals.snapshots_resumed += u64::from(found > 0);
        self.ask_for_next(id);
    }

    fn stage_chunk(&mut self, id: NodeId, index: u32, bytes: Bytes) {
        let (rots, at) = (self.rot_next, self.chance.below(1 << 20));
        let Some(staging) = &mut self.node(id).staging else { return };
        staging.snapshot.add(index, bytes);
        if rots && !staging.snapshot.is_empty() {
            let last = staging.snapshot.len() - 1;
            staging.snapshot.rot(last, usize::try_from(at).unwrap_or(0));
            self.rot_next = false;
            self.count(FaultKind::SnapshotRot);
        }
        self.ask_for_next(id);
    }

    fn ask_for_next(&mut self, id: NodeId) {
        let Some(staging) = &self.node(id).staging else { return };
        let snapshot = staging.snapshot.id();
        match staging.snapshot.wanted() {
            Some(index) => self.answer_later(id, 50, Input::SnapshotWanted { snapshot, index }),
            None => self.step_later(id, SnapshotStep::Sync),
        }
    }

    pub(super) fn snapshot_step(&mut self, id: NodeId, life: u64, step: SnapshotStep) -> Result<(), Violation> {
        if !self.is_alive(id, life) {
            return Ok(());
        }
        match step {
            SnapshotStep::Sync => {
                let Some(staging) = &mut self.node(id).staging else { return Ok(()) };
                staging.snapshot.verify();
                staging.synced = staging.snapshot.len();
                let snapshot = staging.snapshot.id();
                if staging.snapshot.verified().is_some() {
                    self.step(id, Input::SnapshotStaged(snapshot))
                } else {
                    self.tell(|| format!("node {id}: what is staged of the snapshot is damaged"));
                    self.ask_for_next(id);
                    Ok(())
                }
            }
            SnapshotStep::Install => {
                let log = self.log;
                let SimNode { running: Some(running), staging: Some(staging), .. } = self.node(id) else {
                    return Ok(());
                };
                let Some(chunks) = staging.snapshot.verified() else { return Ok(()) };
                let failed = |error: &dyn std::fmt::Display| {
                    Violation::new("I4", format!("node {id} can't install a snapshot: {error}"))
                };
                let mut store = std::mem::take(running.applier.store_mut());
                let shard = running.applier.shard().clone();
                install_snapshot(&mut store, &shard, log, &staging.snapshot.id(), chunks).map_err(|e| failed(&e))?;
                running.applier = Applier::open(store, shard, log).map_err(|e| failed(&e))?;
                self.step_later(id, SnapshotStep::Flush);
                Ok(())
            }
            SnapshotStep::Flush => self.snapshot_installed(id),
        }
    }

    /// I4: the state is the snapshot's, and what others have there.
    fn snapshot_installed(&mut self, id: NodeId) -> Result<(), Violation> {
        self.flush(id);
        let Some(staging) = self.node(id).staging.take() else { return Ok(()) };
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        running.taken = None;
        let (applied, digest) = (running.applier.applied(), running.applier.store().running_digest());
        self.totals.snapshots += 1;
        self.tell(|| format!("node {id} has installed a snapshot: its state is at {}", applied.lsn));
        self.checker.on_applied(id, applied.lsn, digest)?;
        self.step(id, Input::SnapshotInstalled(staging.snapshot.id()))?;
        self.serve_reads(id)
    }

    /// Everything that is applied survives a crash from here on.
    pub(super) fn flush(&mut self, id: NodeId) {
        let node = self.node(id);
        if let Some(running) = &mut node.running {
            running.applier.store_mut().flush();
            node.flushed_at = Some(running.applier.applied());
        }
    }

    /// The power fails: of the chunks that no sync covers some first ones survive, and the last of them may be damaged.
    pub(super) fn lose_staged(&mut self, id: NodeId) {
        let Some(staging) = &self.nodes[&id].staging else { return };
        let unsynced = (staging.snapshot.len() - staging.synced) as u64;
        let kept = staging.synced + usize::try_from(self.chance.below(unsynced + 1)).unwrap_or(0);
        let (torn, at) = (self.chance.per_mille(300), self.chance.below(1 << 20));
        let Some(staging) = &mut self.node(id).staging else { return };
        staging.snapshot.keep(kept);
        if torn && kept > staging.synced {
            staging.snapshot.rot(kept - 1, usize::try_from(at).unwrap_or(0));
        }
    }

    /// What a replica's answer was scheduled for.
    pub(super) fn answer(&mut self, id: NodeId, life: u64, input: Input) -> Result<(), Violation> {
        if self.is_alive(id, life) { self.step(id, input) } else { Ok(()) }
    }
}

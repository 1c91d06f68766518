//! What breaks, when, and how it comes back.

use super::checker::Violation;
use super::event::Event;
use super::fault::FaultKind;
use super::world::World;
use crate::model::{Assignment, NodeId};
use std::time::Duration;
use towline_wal::vdisk::CrashKind;

/// How often, and how far apart, a power cut waits for a moment at which a victim writes.
const POWER_CUT_TRIES: u32 = 2_000;
const POWER_CUT_PAUSE: Duration = Duration::from_micros(130);

/// A storm of faults passes: in one that does not, a shard whose nodes lose power every two seconds does no work.
const STORM_MAX: Duration = Duration::from_secs(60);
const CALM_EVERY_MS: u64 = 1_000;

/// How a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The process alone: what it wrote stays in the disk's cache.
    Process,
    /// The power: unsynced sectors survive, tear or vanish; the state goes back to its last flush.
    Power,
}

impl World {
    /// One fault, drawn; and the time of the next.
    pub(super) fn fault(&mut self) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let is_over = self.agenda.now() > STORM_MAX;
        let every = if is_over { self.swarm.fault_every_ms.max(CALM_EVERY_MS) } else { self.swarm.fault_every_ms };
        let pause = self.chance.between(every / 2, every * 2);
        self.agenda.schedule(Duration::from_millis(pause), Event::Fault);
        let Some(kind) = self.swarm.fault(&mut self.chance) else { return Ok(()) };
        let leader = self.leader();
        let followers: Vec<NodeId> = self.ids.iter().copied().filter(|id| *id != leader).collect();
        let Some(follower) = self.chance.pick(&followers) else { return Ok(()) };
        // Half of what breaks breaks at the leader.
        let any = if self.chance.per_mille(500) { leader } else { follower };
        match kind {
            FaultKind::PowerCutFollower => self.power_cut(kind, vec![follower], POWER_CUT_TRIES),
            FaultKind::PowerCutLeader => self.power_cut(kind, vec![leader], POWER_CUT_TRIES),
            FaultKind::PowerCutAll => self.power_cut(kind, self.ids.clone(), POWER_CUT_TRIES),
            FaultKind::Kill => {
                self.count(kind);
                self.stop(any, Death::Process)
            }
            FaultKind::Corruption => {
                self.corruption_next = true;
                Ok(())
            }
            FaultKind::SnapshotRot => {
                self.rot_next = true;
                Ok(())
            }
            FaultKind::BitFlip | FaultKind::LostWrite | FaultKind::MisdirectedWrite => {
                self.rot(kind);
                Ok(())
            }
            FaultKind::LostNames => {
                self.rot_names(any);
                Ok(())
            }
            FaultKind::SlowDisk => {
                self.count(kind);
                self.node(any).slowness = self.chance_between(20, 400);
                let length = self.chance.between(100, 2_000);
                self.agenda.schedule(Duration::from_millis(length), Event::Recover { node: any });
                Ok(())
            }
            FaultKind::SyncError => {
                self.count(kind);
                self.node(any).disk.fail_sync_after(0);
                Ok(())
            }
            FaultKind::DiskEmptied => self.lose_disk(any),
            FaultKind::LeaderIsolated => self.isolate(kind, leader),
            FaultKind::Pause => {
                self.pause(any);
                Ok(())
            }
            FaultKind::ConnectionReset | FaultKind::Partition | FaultKind::OneWayCut | FaultKind::Stall => {
                let others: Vec<NodeId> = self.ids.iter().copied().filter(|id| *id != any).collect();
                let other = self.chance.pick(&others).unwrap_or(follower);
                let (from, to) = if self.chance.per_mille(500) { (any, other) } else { (other, any) };
                self.cut(kind, from, to)
            }
            _ => self.assign_badly(kind),
        }
    }

    /// A node's disk is lost, and it comes back with an empty one. Of no assignment are so many lost that a majority would be, nor is
    /// one that has the only copy of what rotted elsewhere.
    pub(super) fn lose_disk(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(activated) = self.master.activated() else { return Ok(()) };
        let keeps = |assignment: &Assignment| {
            let has = |voter: &&NodeId| Some(&self.nodes[*voter].directory()) == assignment.directories.get(voter);
            assignment.voters.iter().filter(|voter| **voter != id).filter(has).count() >= assignment.majority()
        };
        let keeps_a_majority = [Some(activated), self.master.newest()].into_iter().flatten().all(keeps);
        if !keeps_a_majority || !self.can_lose_disk_of(id) {
            return Ok(());
        }
        self.count(FaultKind::DiskEmptied);
        self.stop(id, Death::Power)?;
        self.tell(|| format!("node {id} will come back with an empty disk"));
        let log = self.log;
        self.node(id).empty_disk(log);
        Ok(())
    }

    /// A node talks to nobody, for about as long as a leader may lead alone. One at a time: of five that all talk to nobody none
    /// would ever lead.
    fn isolate(&mut self, kind: FaultKind, id: NodeId) -> Result<(), Violation> {
        let now = self.agenda.now();
        if now < self.isolated_until {
            return Ok(());
        }
        self.count(kind);
        let until =
            now + Duration::from_millis(self.chance.between(self.swarm.quorum_ms / 2, self.swarm.quorum_ms * 3));
        let is_told = self.chance.per_mille(500);
        self.isolated_until = until;
        self.tell(|| format!("node {id} talks to nobody until {until:?}"));
        for other in self.ids.clone().into_iter().filter(|other| *other != id) {
            self.cuts.extend([((id, other), until), ((other, id), until)]);
            if is_told {
                self.drop_link(id, other)?;
            }
        }
        Ok(())
    }

    /// Something happens between two nodes.
    fn cut(&mut self, kind: FaultKind, from: NodeId, to: NodeId) -> Result<(), Violation> {
        self.count(kind);
        let until = self.agenda.now() + Duration::from_millis(self.chance.between(50, 5_000));
        match kind {
            FaultKind::ConnectionReset => self.drop_link(from, to),
            FaultKind::Stall => {
                let link = self.links.get(&(from.min(to), from.max(to))).copied();
                self.tell(|| format!("link {link:?} between nodes {from} and {to} stalls until {until:?}"));
                self.stalls.extend(link.map(|link| (link, until)));
                Ok(())
            }
            FaultKind::OneWayCut => {
                self.tell(|| format!("nothing gets from node {from} to node {to} until {until:?}"));
                self.cuts.insert((from, to), until);
                Ok(())
            }
            _ => {
                let is_silent = self.chance.per_mille(500);
                self.tell(|| format!("nodes {from} and {to} are apart until {until:?}, silently: {is_silent}"));
                if !is_silent {
                    self.drop_link(from, to)?;
                }
                self.cuts.extend([((from, to), until), ((to, from), until)]);
                Ok(())
            }
        }
    }

    /// A process is stopped, and goes on after a while (P4).
    fn pause(&mut self, id: NodeId) {
        let node = self.node(id);
        if node.running.is_none() || std::mem::replace(&mut node.paused, true) {
            return;
        }
        let life = node.life;
        self.count(FaultKind::Pause);
        let length =
            if self.chance.per_mille(700) { self.chance.between(50, 2_000) } else { self.chance.between(50, 10_000) };
        self.tell(|| format!("node {id} is paused for {length} ms"));
        self.agenda.schedule(Duration::from_millis(length), Event::Resume { node: id, life });
    }

    /// What happens to a paused process waits in order, and disks finish what they were asked, though nobody looks.
    pub(super) fn put_off(&mut self, id: NodeId, mut event: Event) {
        if let Event::Io { life, request, result, .. } = &mut event
            && result.is_none()
            && self.is_alive(id, *life)
        {
            *result = Some(self.perform(id, request));
        }
        self.node(id).put_off.push(event);
    }

    pub(super) fn resume(&mut self, id: NodeId, life: u64) {
        if !self.is_alive(id, life) || !std::mem::take(&mut self.node(id).paused) {
            return;
        }
        self.touched.insert(id);
        for event in std::mem::take(&mut self.node(id).put_off) {
            self.agenda.schedule(Duration::ZERO, event);
        }
    }

    /// Whom the control plane wants to lead.
    pub(super) fn leader(&self) -> NodeId {
        self.master.newest().map_or(self.ids[0], |newest| newest.leader)
    }

    fn chance_between(&mut self, low: u64, high: u64) -> u64 {
        self.chance.between(low, high)
    }

    /// The power fails when a victim has bytes under way that no sync covers yet: that is when it hurts.
    pub(super) fn power_cut(&mut self, kind: FaultKind, victims: Vec<NodeId>, tries: u32) -> Result<(), Violation> {
        let writing = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.running.is_some() && node.writes > 0);
        if self.healed || (tries > 0 && !victims.iter().any(writing)) {
            if !self.healed {
                let again = Event::PowerCut { kind, victims, tries: tries - 1 };
                self.agenda.schedule(POWER_CUT_PAUSE, again);
            }
            return Ok(());
        }
        self.count(kind);
        victims.iter().try_for_each(|victim| self.stop(*victim, Death::Power))
    }

    /// A node dies, and starts again after a while.
    pub(super) fn stop(&mut self, id: NodeId, death: Death) -> Result<(), Violation> {
        if self.node(id).running.is_none() {
            return Ok(());
        }
        self.totals.crashes += 1;
        if id == self.leader() {
            self.totals.leader_restarts += 1;
        }
        self.tell(|| format!("node {id} dies ({death:?})"));
        let node = self.node(id);
        node.paused = false;
        node.put_off.clear();
        for (low, high) in self.pairs() {
            if low == id || high == id {
                self.drop_link(id, if low == id { high } else { low })?;
            }
        }
        self.forget_unanswered(id, true)?;
        self.reads.forget(id);
        let mut chance = self.chance.clone();
        let node = self.node(id);
        if let Some(running) = node.running.take() {
            node.before = Some(running.log);
            // What RocksDB has not flushed is in memory only: gone in either death.
            node.store = running.applier.into_store();
            node.store.crash();
        }
        if death == Death::Power {
            let before = node.disk.stats().lossy_crashes;
            let kind = if chance.per_mille(200) { CrashKind::DropAll } else { CrashKind::Chance };
            node.disk.crash(kind, &mut |bound| chance.below(bound));
            let lossy = node.disk.stats().lossy_crashes > before;
            self.chance = chance;
            self.lose_staged(id);
            if lossy {
                self.totals.crashes_with_loss += 1;
            }
        } else {
            node.disk.kill_process();
        }
        let away =
            if self.chance.per_mille(900) { self.chance.between(5, 1_500) } else { self.chance.between(5, 10_000) };
        self.agenda.schedule(Duration::from_millis(away), Event::Start { node: id });
        Ok(())
    }

    /// A node starts: recovery, then its links; and it asks the control plane whether it leads.
    pub(super) fn start(&mut self, id: NodeId) -> Result<(), Violation> {
        if self.node(id).running.is_some() {
            return Ok(());
        }
        let (options, shard, log) = (self.options.clone(), self.shard.clone(), self.log);
        let was = self.nodes[&id].before.is_some();
        if !self.node(id).open(&options, &shard, log)? {
            self.tell(|| format!("node {id} could not start: its disk failed"));
            self.agenda.schedule(Duration::from_millis(20), Event::Start { node: id });
            return Ok(());
        }
        self.touched.insert(id);
        let (life, end) = {
            let node = self.node(id);
            (node.life, node.running.as_ref().map(|running| running.replica.end().lsn))
        };
        self.tell(|| format!("node {id} starts, life {life}, again: {was}, log end {end:?}"));
        for (low, high) in self.pairs() {
            if low == id || high == id {
                self.agenda.schedule(Duration::from_millis(1), Event::Dial { low, high });
            }
        }
        let directory = self.nodes[&id].directory();
        self.master.register(id, directory);
        self.ask_for_assignment(id);
        Ok(())
    }
}

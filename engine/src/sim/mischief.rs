//! What breaks, when, and how it comes back.

use super::checker::Violation;
use super::event::Event;
use super::fault::FaultKind;
use super::world::World;
use crate::model::NodeId;
use std::time::Duration;
use towline_wal::vdisk::CrashKind;

/// How often, and how far apart, a power cut waits for a moment at which a victim writes.
const POWER_CUT_TRIES: u32 = 2_000;
const POWER_CUT_PAUSE: Duration = Duration::from_micros(130);

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
        let pause = self.chance.between(self.fault_every_ms / 2, self.fault_every_ms * 2);
        self.agenda.schedule(Duration::from_millis(pause), Event::Fault);
        let leader = self.leader;
        let followers: Vec<NodeId> = self.ids.iter().copied().filter(|id| *id != leader).collect();
        let Some(follower) = self.chance.pick(&followers) else { return Ok(()) };
        let ids = self.ids.clone();
        let any = self.chance.pick(&ids).unwrap_or(leader);
        let pairs = self.pairs();
        let (low, high) = self.chance.pick(&pairs).unwrap_or((leader, follower));
        match self.chance.pick(&FaultKind::ALL) {
            Some(kind @ FaultKind::PowerCutFollower) => self.power_cut(kind, vec![follower], POWER_CUT_TRIES),
            Some(kind @ FaultKind::PowerCutLeader) => self.power_cut(kind, vec![leader], POWER_CUT_TRIES),
            Some(kind @ FaultKind::PowerCutAll) => self.power_cut(kind, ids, POWER_CUT_TRIES),
            Some(kind @ FaultKind::Kill) => {
                self.count(kind);
                self.stop(any, Death::Process)
            }
            Some(kind @ FaultKind::ConnectionReset) => {
                self.count(kind);
                self.drop_link(low, high)
            }
            Some(kind @ FaultKind::Partition) => {
                self.count(kind);
                self.cuts.insert((low, high));
                let length = self.chance.between(50, 2_000);
                self.agenda.schedule(Duration::from_millis(length), Event::Heal { low, high });
                self.drop_link(low, high)
            }
            Some(FaultKind::Corruption) => {
                self.corruption_next = true;
                Ok(())
            }
            Some(kind @ FaultKind::SlowDisk) => {
                self.count(kind);
                self.node(any).slowness = self.chance_between(20, 400);
                let length = self.chance.between(100, 2_000);
                self.agenda.schedule(Duration::from_millis(length), Event::Recover { node: any });
                Ok(())
            }
            Some(kind @ FaultKind::SyncError) => {
                self.count(kind);
                self.node(any).disk.fail_sync_after(0);
                Ok(())
            }
            Some(kind @ FaultKind::LeaderMove) => {
                self.count(kind);
                self.leader = any;
                let node = self.node(any);
                let life = node.life;
                let promised = node.running.as_ref().map(|running| running.replica.promise().epoch);
                if let Some(promised) = promised {
                    self.agenda.schedule(Duration::ZERO, Event::Assign { node: any, life, promised });
                }
                Ok(())
            }
            None => Ok(()),
        }
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
        if id == self.leader {
            self.totals.leader_restarts += 1;
        }
        self.tell(|| format!("node {id} dies ({death:?})"));
        for (low, high) in self.pairs() {
            if low == id || high == id {
                self.drop_link(low, high)?;
            }
        }
        self.forget_unanswered(id, true)?;
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
            if lossy {
                self.totals.crashes_with_loss += 1;
            }
        } else {
            node.disk.kill_process();
        }
        let away = self.chance.between(5, 1_500);
        self.agenda.schedule(Duration::from_millis(away), Event::Start { node: id });
        Ok(())
    }

    /// A node starts: recovery, then its links, then (for the leader) a new assignment.
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
        if id == self.leader {
            let promised = self.nodes[&id].running.as_ref().map(|running| running.replica.promise().epoch);
            let promised = promised.unwrap_or(crate::model::Epoch::ZERO);
            self.agenda.schedule(Duration::from_millis(2), Event::Assign { node: id, life, promised });
        }
        Ok(())
    }
}

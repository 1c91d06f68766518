//! A shard comes up on this node: its state, its replica, its queue, and the threads that serve it.

use super::applier::{ApplyOrder, ApplyStage};
use super::clock;
use super::error::ReadError;
use super::follower::Followers;
use super::freshness::Known;
use super::health::Health;
use super::log_budget::LogBudget;
use super::open::OpenError;
use super::pins::Pins;
use super::positions::Positions;
use super::read_index::{Confirmation, ReadIndex};
use super::reader::ReadOrder;
use super::rest::Rest;
use super::shard::{Event, Shard, ShardLog, ShardState};
use super::snapshots::{self, SnapshotCounters, SnapshotDesk};
use super::stages::{Arrived, Stages};
use super::stats::Counters;
use super::votes::StartInState;
use super::worker::Order;
use super::{Inbox, completion::Completion};
use crate::control::{ConfigMaster, DEFAULT_SHARD};
use crate::model::{ClusterId, DirectoryId, Epoch, LogId, Lsn, NodeId, Retention, ShardDescriptor, ShardId};
use crate::pipeline::{Buffers, Ready, Sequencer, SubmissionQueue};
use crate::replica::{LogView as _, Promise, ReadTicket, Replica};
use crate::state::{Applier, RocksStore, RocksWriter};
use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use towline_wal::{HardStateKind, Wal};

/// What every shard of a node needs.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) disk: DirectoryId,
    pub(super) voters: Vec<NodeId>,
    /// Who leads the default namespace as long as there was no promise.
    pub(super) leader: NodeId,
    pub(super) wal: Arc<Wal>,
    pub(super) budget: Arc<LogBudget>,
    pub(super) buffers: Arc<Buffers>,
    /// By chance, of this life.
    pub(super) seed: u64,
    pub(super) quorum_lost_after: Duration,
    pub(super) queue_slots: usize,
    pub(super) queue_bytes: usize,
    pub(super) unapplied_bytes: usize,
    pub(super) workers: Vec<Desk>,
    pub(super) appliers: Vec<Sender<ApplyOrder>>,
    pub(super) reader: Sender<ReadOrder>,
    pub(super) desk: SnapshotDesk,
    pub(super) directory: PathBuf,
    /// What the log keeps where there are several nodes.
    pub(super) retention: Retention,
    pub(super) snapshots: SnapshotLimits,
    /// Whether the node has stopped by itself.
    pub(super) health: Arc<Health>,
}

/// What snapshots for others may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct SnapshotLimits {
    pub(super) bytes_per_second: u64,
    /// Of the log, behind one, and for a follower.
    pub(super) log_bytes: u64,
}

/// Where a worker takes its orders.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) ready: Arc<Ready>,
    pub(super) orders: Sender<Order>,
    pub(super) stages: Arc<Stages>,
}

impl Desk {
    pub(super) fn order(&self, order: Order) {
        // A worker that has ended serves no shard any more.
        if self.orders.send(order).is_ok() {
            self.ready.wake();
        }
    }
}

/// A shard on this node, for whoever asks something of it.
#[derive(Debug)]
pub(super) struct ShardHandle {
    pub(super) descriptor: ShardDescriptor,
    pub(super) log: LogId,
    pub(super) queue: Arc<SubmissionQueue<Arrived<Completion>>>,
    pub(super) events: Inbox,
    pub(super) positions: Arc<Positions>,
    pub(super) reads: Arc<ReadIndex>,
    freshness: Arc<Known>,
    pub(super) health: Health,
    pub(super) pins: Arc<Pins>,
    pub(super) followers: Followers,
    pub(super) counters: Arc<Counters>,
    pub(super) snapshots: Arc<SnapshotCounters>,
    pub(super) rest: Rest,
    /// Nothing comes out of it; it ends with the shard.
    alive: Receiver<Infallible>,
}

impl ShardHandle {
    /// Takes no more writes, and ends what is under way until then.
    pub(super) fn close(&self, deadline: Instant) {
        self.events.send(Event::Close(deadline));
    }

    /// Asks what a read must show that comes now: a majority, whether this node still leads, or the leader that it follows. The
    /// answer goes to whoever waits for it.
    pub(super) fn confirm(&self, waiter: impl FnOnce(Confirmation) + Send + 'static) -> ReadTicket {
        let (asked, freshness) = (clock::since_boot(), Arc::clone(&self.freshness));
        let note = move |confirmation| {
            if let Confirmation::At(index) = confirmation {
                freshness.confirmed(asked, clock::since_boot(), index);
            }
            waiter(confirmation);
        };
        self.reads.ask(note, || self.events.send(Event::Read))
    }

    /// How old what is applied here is at the most, if that is known.
    pub(super) fn age(&self) -> Option<Duration> {
        self.freshness.age(clock::since_boot(), self.positions.applied())
    }

    /// What a read is told that takes nothing older than that.
    pub(super) fn too_old(&self, allowed: Duration) -> ReadError {
        ReadError::TooOld { shard: self.descriptor.shard, allowed, age: self.age() }
    }

    /// Whether what is applied here is known to be younger than that. Half of it before the end, somebody is asked, so that whoever
    /// reads all the time never waits.
    pub(super) fn is_fresh(&self, staleness: Duration) -> bool {
        let Some(age) = self.age().filter(|age| *age < staleness) else { return false };
        if age > staleness / 2 && self.freshness.begins_to_ask() {
            let freshness = Arc::clone(&self.freshness);
            self.confirm(move |_| freshness.has_asked());
        }
        true
    }

    /// Waits until the shard has ended.
    pub(super) fn wait_for_the_end(&self) {
        let Err(_ended) = self.alive.recv();
    }
}

/// A shard that is ready to be served.
pub(super) struct Prepared {
    pub(super) shard: Box<Shard>,
    worker: usize,
    pub(super) handle: Arc<ShardHandle>,
}

impl Host {
    /// Brings a shard up as far as it goes without anybody serving it. Nothing is written, unless a snapshot was being installed:
    /// that is finished.
    pub(super) fn prepare(&self, store: &Arc<RocksStore>, shard: ShardDescriptor) -> Result<Prepared, OpenError> {
        let id = shard.shard;
        let master = ConfigMaster::new(self.cluster, shard.clone(), &self.voters);
        let log = master.log();
        snapshots::opening::finish(self, store, &shard, log)?;
        let applier = Applier::open(RocksWriter::new(Arc::clone(store)), shard.clone(), log)?.with_seed(self.seed);
        let view = ShardLog { wal: &self.wal, log, state: None };
        let applied = applier.applied();
        snapshots::opening::settle(self, &shard, log, applied, &view)?;
        let promise = self.promise(log, view.end().epoch)?;
        let replica = Replica::open(self.node, log, promise, applied.lsn, &view).on_directory(self.disk);
        let replica = replica.with_own_master().with_quorum_bound(self.quorum_lost_after).with_state_at(applied, &view);
        let turn = Self::turn(id);
        let worker = turn % self.workers.len();
        let bell = self.workers[worker].ready.bell(id);
        let queue = Arc::new(SubmissionQueue::new(self.queue_slots, self.queue_bytes, Arc::clone(&bell)));
        let (events, inbox) = Inbox::new(Arc::clone(&queue), bell);
        let first_leader = self.first_leader(id);
        let leader = promise.leader.unwrap_or(first_leader);
        let positions = Arc::new(Positions::new(applied.lsn).led_by(leader));
        let (reads, health, pins) = (Arc::<ReadIndex>::default(), Health::of_a_shard(&self.health), Arc::default());
        let followers = Followers::load(&pins, store, id)?;
        let (stage_positions, counters) = (Arc::clone(&positions), Arc::<Counters>::default());
        let stages = Arc::clone(&self.workers[worker].stages);
        let stage = ApplyStage {
            applier,
            wal: Arc::clone(&self.wal),
            log,
            positions: stage_positions,
            counters: Arc::clone(&counters),
            stages: Arc::clone(&stages),
        };
        let (snapshots, (alive, ended)) = (Arc::<SnapshotCounters>::default(), bounded(0));
        let handle = Arc::new(ShardHandle {
            descriptor: shard,
            log,
            queue: Arc::clone(&queue),
            events: events.clone(),
            positions: Arc::clone(&positions),
            freshness: Arc::default(),
            reads: Arc::clone(&reads),
            health: health.clone(),
            pins,
            followers,
            counters: Arc::clone(&counters),
            snapshots: Arc::clone(&snapshots),
            rest: Rest::default(),
            alive: ended,
        });
        let staged = snapshots::left_staged(&self.directory, id);
        let shard = Shard {
            id: self.node,
            directory: self.disk,
            shard: id,
            leads_at_start: master.leads_at_start(self.node, first_leader, promise.leader),
            log,
            wal: Arc::clone(&self.wal),
            replica,
            master,
            sequencer: Sequencer::new(),
            queue,
            inbox,
            events,
            stage: Arc::new(Mutex::new(stage)),
            start_in_state: StartInState::new(store, handle.descriptor.shard, log),
            stages,
            applier: self.appliers[turn % self.appliers.len()].clone(),
            reader: self.reader.clone(),
            desk: self.desk.clone(),
            snapshots,
            positions,
            reads,
            quorum_lost_after: self.quorum_lost_after,
            budget: Arc::clone(&self.budget),
            buffers: Arc::clone(&self.buffers),
            health,
            applied,
            state: ShardState::new(self.unapplied_bytes, staged),
            alive,
        };
        Ok(Prepared { shard: Box::new(shard), worker, handle })
    }

    /// What was promised of a log whose last batch is of this epoch.
    fn promise(&self, log: LogId, found: Epoch) -> Result<Promise, OpenError> {
        let promise =
            self.wal.hard_state(log, HardStateKind::Promise).map_or(Ok(Promise::NONE), |b| Promise::decode(&b))?;
        if found > promise.epoch {
            return Err(OpenError::PromiseLost { promised: promise.epoch, found });
        }
        Ok(promise)
    }

    /// Has it served from here on.
    pub(super) fn serve(&self, prepared: Prepared) -> Arc<ShardHandle> {
        let Prepared { shard, worker, handle } = prepared;
        self.workers[worker].order(Order::Host(shard));
        handle
    }

    /// The log of a shard.
    pub(super) fn log_of(&self, shard: ShardId) -> LogId {
        ConfigMaster::lineage(self.cluster, shard)
    }

    /// Who leads a shard as long as there was no promise: beside the default namespace's, each voter has its turn.
    fn first_leader(&self, shard: ShardId) -> NodeId {
        if shard == DEFAULT_SHARD {
            return self.leader;
        }
        let mut voters = self.voters.clone();
        voters.sort_unstable();
        voters.get(Self::turn(shard) % voters.len()).copied().unwrap_or(self.leader)
    }

    /// Shards are numbered one after another, a cluster's ordinal apart.
    fn turn(shard: ShardId) -> usize {
        usize::try_from(shard.get() / 1024).unwrap_or(0)
    }

    /// Whether nobody else votes: then this node alone decides of its namespaces.
    pub(super) fn is_alone(&self) -> bool {
        self.voters.len() == 1
    }

    /// Where a log ends.
    pub(super) fn end(&self, log: LogId) -> Lsn {
        self.wal.end(log).lsn
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{ShardDescriptor, ShardId};
    use crate::node::{Node, NodeOptions};
    use std::sync::Arc;

    /// Otherwise whoever knows the seed chooses keys that all fall together in the table of changes.
    #[test]
    fn the_seed_of_a_shards_changes_is_another_one_in_each_life() {
        let seeds = [(); 2].map(|()| {
            let directory = tempfile::tempdir().unwrap();
            let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
            let store = node.shared.gate.with(Arc::clone).unwrap();
            let first = node.shared.registry.shards()[0].descriptor.clone();
            let another = ShardDescriptor { shard: ShardId::new(7168), ..first };
            let prepared = node.shared.host.prepare(&store, another).unwrap();
            let seed = prepared.shard.stage.lock().applier.seed();
            drop((prepared, store));
            node.close().unwrap();
            seed
        });
        assert_ne!(seeds[0], seeds[1]);
    }
}

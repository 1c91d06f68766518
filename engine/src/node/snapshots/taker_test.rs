//! Snapshots for several shards, by orders as shards give them.

use super::*;
use crate::model::limits::SNAPSHOT_CHUNK_BYTES;
use crate::node::inbox::Events;
use crate::node::shard::Event;
use crate::node::{Node, NodeOptions, SHARD};
use crate::pipeline::{Ready, SubmissionQueue};
use crate::state::{RocksStore, Survey};
use crossbeam::channel::{Sender, unbounded};
use std::path::Path;
use std::sync::atomic::AtomicUsize;

/// A shard of a node, with a state of its own in this directory.
fn taking(node: &Node, shard: ShardDescriptor, events: &Inbox, state: &Path) -> Taking {
    let (host, id) = (&node.shared.host, shard.shard);
    let log = host.log_of(id);
    let store = Arc::new(RocksStore::open(state).unwrap());
    let positions = Arc::new(Positions::new(Lsn::ZERO));
    let stage = ApplyStage {
        applier: Applier::open(RocksWriter::new(store), shard, log).unwrap(),
        wal: Arc::clone(&host.wal),
        log,
        positions: Arc::clone(&positions),
        counters: Arc::default(),
        stages: Arc::default(),
    };
    let (stage, counters) = (Arc::new(Mutex::new(stage)), Arc::default());
    Taking { node: host.node, shard: id, log, events: events.clone(), stage, positions, counters }
}

/// A node with something in it, of which a snapshot is given; two shards that take one, and where their answers arrive.
struct World {
    taker: TakerThread,
    orders: Sender<TakeOrder>,
    events: Events,
    waiting: Arc<AtomicUsize>,
    one: Taking,
    other: Taking,
    whole: SnapshotId,
    parts: Vec<Bytes>,
    node: Node,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path().join("node"))).unwrap();
        node.default_namespace().put("k", "x").unwrap().wait().unwrap();
        let bell = Ready::new().bell(SHARD);
        let (inbox, events) = Inbox::new(Arc::new(SubmissionQueue::new(8, 1 << 20, Arc::clone(&bell))), bell);
        let shard = node.shared.registry.shards()[0].descriptor.clone();
        let another = ShardDescriptor { shard: ShardId::new(7168), ..shard.clone() };
        let one = taking(&node, shard.clone(), &inbox, &directory.path().join("one"));
        let other = taking(&node, another, &inbox, &directory.path().join("other"));
        let given = node.shared.gate.with(Arc::clone).unwrap();
        let survey = Survey::of(&*given, &shard, one.log, SNAPSHOT_CHUNK_BYTES, |_| true).unwrap().unwrap();
        let whole = survey.id();
        let part = |index| survey.chunk(&*given, &shard, one.log, index).unwrap();
        let parts = (0..whole.chunks).map(part).collect();
        let (orders, taken) = unbounded();
        let taker = TakerThread::new(Arc::clone(&node.shared), taken);
        let waiting = Arc::default();
        Self { taker, orders, events, waiting, one, other, whole, parts, node, _directory: directory }
    }

    fn part(&self, taking: &Taking, snapshot: SnapshotId, index: u32, bytes: Bytes) -> TakeOrder {
        let waits = PartWaits::take(&self.waiting).unwrap();
        TakeOrder::Part { taking: taking.clone(), snapshot, index, bytes, waits }
    }

    fn stage(&mut self, taking: &Taking, snapshot: SnapshotId) {
        self.taker.carry_out(TakeOrder::Stage { taking: taking.clone(), snapshot });
    }

    /// All parts but the last one are here.
    fn all_but_one(&mut self) -> TakeOrder {
        let one = self.one.clone();
        self.stage(&one, self.whole);
        for index in 0..self.whole.chunks {
            let part = self.part(&one, self.whole, index, self.parts[index as usize].clone());
            if index + 1 == self.whole.chunks {
                return part;
            }
            self.taker.carry_out(part);
        }
        unreachable!("it has parts")
    }

    fn forget_answers(&self) {
        while self.events.next().is_some() {}
    }

    /// The part that is wanted, by the answer that came first.
    fn wanted(&self) -> Option<(SnapshotId, u32)> {
        match self.events.next() {
            Some(Event::Snapshot(Answer::Taken(Input::SnapshotWanted { snapshot, index }))) => Some((snapshot, index)),
            _ => None,
        }
    }

    fn is_staged(&self) -> bool {
        let next = self.events.next();
        matches!(next, Some(Event::Snapshot(Answer::Taken(Input::SnapshotStaged(staged)))) if staged == self.whole)
    }

    /// What waits for its time has it.
    fn try_again(&mut self) {
        for (_, order) in std::mem::take(&mut self.taker.later).into_values() {
            self.taker.carry_out(order);
        }
    }

    fn staged_files(&self, of: &Taking) -> usize {
        let directory = taken(&self.node.shared.host.directory, of.shard);
        std::fs::read_dir(directory).map_or(0, Iterator::count)
    }
}

/// They waited until that was done: for so long, perhaps, that whoever gives them let go of the snapshot that they are of.
#[test]
fn parts_are_taken_for_others_while_those_of_one_are_looked_at_and_its_state_is_replaced() {
    let mut world = World::new();
    let (one, other) = (world.one.clone(), world.other.clone());
    let begun = SnapshotId { chunks: 3, bytes: 12, ..world.whole };
    world.stage(&other, begun);
    let last = world.all_but_one();
    world.forget_answers();

    world.orders.send(world.part(&other, begun, 0, "abcd".into())).unwrap();
    world.taker.carry_out(last);
    assert_eq!(world.wanted(), Some((begun, 1)), "before all of it is looked at");
    assert!(world.is_staged());

    world.orders.send(world.part(&other, begun, 1, "efgh".into())).unwrap();
    world.taker.carry_out(TakeOrder::Replace { taking: one.clone(), snapshot: world.whole });
    assert_eq!(world.wanted(), Some((begun, 2)), "before the state is replaced");
    let next = world.events.next();
    assert!(matches!(next, Some(Event::Snapshot(Answer::Replaced(replaced))) if replaced == world.whole));
    assert_eq!(one.stage.lock().applier.applied(), world.whole.at);
}

/// The last part was taken for one that came twice, and nothing followed: the shard had no state until its connection broke.
#[test]
fn what_can_not_be_looked_at_for_a_moment_is_looked_at_again() {
    let mut world = World::new();
    let last = world.all_but_one();
    world.forget_answers();
    let staged = |world: &mut World, is: bool| world.taker.staging.get_mut(&SHARD).unwrap().staged.set_readable(is);
    staged(&mut world, false);
    world.taker.carry_out(last);
    assert!(world.events.next().is_none());
    staged(&mut world, true);
    world.try_again();
    assert!(world.is_staged());
}

/// Another leader had it in its log: half a snapshot lay there until the node was opened again.
#[test]
fn what_is_staged_of_a_snapshot_that_nobody_needs_goes_and_one_that_is_needed_stays() {
    let mut world = World::new();
    let one = world.one.clone();
    drop(world.all_but_one());
    assert!(world.staged_files(&one) > 0);
    let another = SnapshotId { digest: 1, ..world.whole };
    world.taker.carry_out(TakeOrder::Forget { taking: one.clone(), snapshot: another });
    assert!(world.staged_files(&one) > 0);
    world.taker.carry_out(TakeOrder::Forget { taking: one.clone(), snapshot: world.whole });
    assert_eq!((world.staged_files(&one), world.taker.staging.len()), (0, 0));
}

/// A restart in the middle of fetching a large one: what is here is read, and the node may be closed meanwhile.
#[test]
fn a_node_that_closes_does_not_wait_until_all_that_is_staged_is_read() {
    let mut world = World::new();
    let one = world.one.clone();
    let begun = SnapshotId { chunks: 3, bytes: 12, ..world.whole };
    world.stage(&one, begun);
    let first = world.part(&one, begun, 0, "abcd".into());
    world.taker.carry_out(first);
    world.taker.staging.clear();
    world.forget_answers();
    drop(world.node.shared.open.lock().take());
    world.stage(&one, begun);
    assert!(world.events.next().is_none() && world.taker.staging.is_empty() && world.taker.later.is_empty());
    assert!(world.staged_files(&one) > 0, "and nothing of it is lost");
}

//! Snapshots for several shards, by orders as shards give them.

use super::*;
use crate::model::Lsn;
use crate::model::limits::SNAPSHOT_CHUNK_BYTES;
use crate::node::shard::Event;
use crate::node::{Node, NodeOptions, SHARD};
use crate::pipeline::{Ready, SubmissionQueue};
use crate::state::{RocksStore, Survey};
use crossbeam::channel::unbounded;
use std::path::Path;

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

/// They waited until that was done: for so long, perhaps, that whoever gives them let go of the snapshot that they are of.
#[test]
fn parts_are_taken_for_others_while_the_state_of_one_is_replaced() {
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
    let (whole, waiting) = (survey.id(), Arc::default());
    let part = |taking: &Taking, snapshot, index, bytes| {
        let waits = PartWaits::take(&waiting).unwrap();
        TakeOrder::Part { taking: taking.clone(), snapshot, index, bytes, waits }
    };
    let (orders, taken) = unbounded();
    let mut taker = TakerThread::new(Arc::clone(&node.shared), taken);
    taker.carry_out(TakeOrder::Stage { taking: one.clone(), snapshot: whole });
    for index in 0..whole.chunks {
        let bytes = survey.chunk(&*given, &shard, one.log, index).unwrap();
        taker.carry_out(part(&one, whole, index, bytes));
    }
    let begun = SnapshotId { chunks: 2, bytes: 8, ..whole };
    taker.carry_out(TakeOrder::Stage { taking: other.clone(), snapshot: begun });
    while events.next().is_some() {}

    orders.send(part(&other, begun, 0, "abcd".into())).unwrap();
    taker.carry_out(TakeOrder::Replace { taking: one.clone(), snapshot: whole });
    let first = match events.next() {
        Some(Event::Snapshot(Answer::Taken(Input::SnapshotWanted { snapshot, index }))) => Some((snapshot, index)),
        _ => None,
    };
    assert_eq!(first, Some((begun, 1)), "before the state is replaced");
    assert!(matches!(events.next(), Some(Event::Snapshot(Answer::Replaced(replaced))) if replaced == whole));
    assert_eq!(one.stage.lock().applier.applied(), whole.at);
    drop((taker, one, other, given));
    node.close().unwrap();
}

//! A shard and those who are connected to it, its events handed to it one by one.

use super::*;
use crate::model::{LogPosition, Message, ShardDescriptor, ShardId, SnapshotId};
use crate::node::{Node, NodeOptions};
use crate::replica::Promise;
use crate::state::RocksStore;
use parking_lot::Mutex;
use towline_wal::{Entry, HardStateKind};

pub(in crate::node) const fn epoch(term: u32) -> Epoch {
    Epoch { version: 1024, term }
}

/// A shard that nobody serves, and that has promised the first epoch to this leader.
pub(in crate::node) fn unserved(node: &Node, store: &Arc<RocksStore>, leader: NodeId) -> Box<Shard> {
    let host = &node.shared.host;
    let first = node.shared.registry.shards()[0].descriptor.clone();
    let descriptor = ShardDescriptor { shard: ShardId::new(7168), ..first };
    let log = host.log_of(descriptor.shard);
    let bytes = Promise { epoch: epoch(1), leader: Some(leader), ..Promise::NONE }.encode().unwrap();
    let promise = Entry::HardState { log, kind: HardStateKind::Promise, bytes };
    host.wal.submit(vec![promise]).unwrap().wait().unwrap();
    host.prepare(store, descriptor).unwrap().shard
}

/// The leader that it follows.
const LEADER: NodeId = NodeId::new(2);

/// A connection that takes everything, and what was done with it.
struct Link(u64, Mutex<Vec<String>>);

impl Link {
    fn new(session: u64) -> Arc<Self> {
        Arc::new(Self(session, Mutex::default()))
    }

    fn note(&self, what: String) {
        self.1.lock().push(what);
    }

    fn noted(&self) -> Vec<String> {
        std::mem::take(&mut self.1.lock())
    }
}

impl PeerLink for Link {
    fn session(&self) -> u64 {
        self.0
    }

    fn send(&self, _: Bytes) -> Sending {
        Sending::Queued
    }

    fn charge(&self, _: Option<(Epoch, Lsn)>, charge: usize) {
        self.note(format!("charge {charge}"));
    }

    fn settle(&self, promised: Epoch, durable: Lsn) {
        self.note(format!("settle {promised} {durable}"));
    }

    fn disconnect(&self, reason: &str) {
        self.note(format!("disconnect: {reason}"));
    }

    fn bytes_sent(&self) -> u64 {
        100
    }
}

/// With a shard of a node of three that follows [`LEADER`].
fn with_follower(test: impl FnOnce(&mut Shard)) {
    let directory = tempfile::tempdir().unwrap();
    let voters = (1..=3).map(NodeId::new).collect();
    let node = Node::open(NodeOptions { voters, ..NodeOptions::alone(directory.path()) }).unwrap();
    let store = node.shared.gate.with(Arc::clone).unwrap();
    let mut shard = unserved(&node, &store, LEADER);
    test(&mut shard);
    drop((shard, store));
    node.close().unwrap();
}

fn comes(shard: &mut Shard, link: &Arc<Link>) {
    let link = Arc::clone(link);
    shard.handle(Event::PeerUp(LEADER, DirectoryId::new([2; 16]), link));
}

fn says(shard: &mut Shard, link: &Link, message: Message) {
    shard.handle(Event::Message(LEADER, link.session(), message, 7));
}

/// Each connection is a task of its own, and what they say may come in any order.
#[test]
fn of_two_connections_to_one_peer_the_newer_one_stands_whichever_is_heard_of_last() {
    with_follower(|shard| {
        let [older, newer, newest] = [3, 5, 7].map(Link::new);
        comes(shard, &newer);
        comes(shard, &older);
        assert_eq!(older.noted(), ["disconnect: a newer connection stands"]);
        assert_eq!(newer.noted(), [""; 0]);
        // What the older one still says, and its end, are nobody's.
        let beat = || Message::Refused { epoch: Epoch::ZERO, promised: Epoch::ZERO };
        says(shard, &older, beat());
        shard.handle(Event::PeerDown(LEADER, older.session()));
        assert_eq!((older.noted(), newer.noted()), (vec![], vec![]));
        says(shard, &newer, beat());
        assert_eq!(newer.noted(), ["charge 7"]);
        comes(shard, &newest);
        assert_eq!(newer.noted(), ["disconnect: a newer connection stands"]);
        says(shard, &newest, beat());
        assert_eq!(newest.noted(), ["charge 7"]);
        assert_eq!(shard.status().wire_bytes_sent, 200, "of the one that stands, and of the one before it");
    });
}

/// Its stream may have ended alone. What the log took of it was not durable yet, and took the credit of all others on that connection
/// for ever.
#[test]
fn with_a_peer_that_is_gone_all_credit_that_it_holds_goes_back() {
    with_follower(|shard| {
        let link = Link::new(5);
        comes(shard, &link);
        shard.handle(Event::PeerDown(LEADER, link.session()));
        assert_eq!(link.noted(), [format!("settle {} {}", epoch(1), Lsn::MAX)]);
        assert!(shard.state.peers.is_empty());
    });
}

/// The replica waits for an answer about what it has staged. If that were gone, it would wait for ever.
#[test]
fn what_is_staged_stays_as_long_as_the_replica_waits_for_it() {
    with_follower(|shard| {
        let at = LogPosition { epoch: epoch(1), lsn: Lsn::new(9), ..LogPosition::origin(shard.log) };
        let snapshot = SnapshotId { at, chunks: 2, bytes: 2, digest: 7 };
        let link = Link::new(5);
        comes(shard, &link);
        says(shard, &link, Message::SnapshotOffer { epoch: epoch(1), snapshot });
        assert!(shard.replica.takes_a_snapshot());
        shard.state.staged = Some(snapshot);
        shard.forget_staged(at.lsn);
        assert_eq!(shard.state.staged, Some(snapshot));
        // With its leader goes what it waits for.
        shard.handle(Event::PeerDown(LEADER, link.session()));
        assert!(!shard.replica.takes_a_snapshot());
        shard.forget_staged(at.lsn.prev());
        assert_eq!(shard.state.staged, Some(snapshot), "not all of it has been applied");
        shard.forget_staged(at.lsn);
        assert_eq!(shard.state.staged, None);
    });
}

//! What is kept for others, by orders as shards give them.

use super::*;
use crate::node::inbox::Events;
use crate::node::shard::Event;
use crate::node::{NamespaceOptions, Node, NodeOptions, SHARD};
use crate::pipeline::{Ready, SubmissionQueue};
use crossbeam::channel::unbounded;

/// Longer than one is kept that nobody asks for.
const LONG: Duration = Duration::from_secs(3600);
const EPOCH: Epoch = Epoch { version: 1024, term: 1 };

/// A node, and where the answers for one peer arrive.
struct World {
    node: Node,
    inbox: Inbox,
    events: Events,
    here: Arc<()>,
    _directory: tempfile::TempDir,
}

impl World {
    /// With so many shards beside the default one, and something in each of all.
    fn new(others: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let points = (1..others).map(|at| vec![at]);
        let space = node.create_namespace("others", &NamespaceOptions::default().split_at(points)).unwrap();
        for at in 0..others {
            space.put(vec![at], "x").unwrap().wait().unwrap();
        }
        node.default_namespace().put("k", "x").unwrap().wait().unwrap();
        let bell = Ready::new().bell(SHARD);
        let queue = Arc::new(SubmissionQueue::new(8, 1 << 20, Arc::clone(&bell)));
        let (inbox, events) = Inbox::new(queue, bell);
        Self { node, inbox, events, here: Arc::default(), _directory: directory }
    }

    fn others(&self) -> Vec<ShardId> {
        let shards = self.node.shared.registry.shards();
        shards.iter().map(|handle| handle.descriptor.shard).filter(|shard| *shard != SHARD).collect()
    }

    /// One beside the node's own, and where it takes its orders.
    fn giver(&self) -> (GiverThread, Sender<GiveOrder>) {
        let (orders, taken) = unbounded();
        (GiverThread::new(Arc::clone(&self.node.shared), taken), orders)
    }

    fn ask(&self, shard: ShardId) -> Ask {
        let (counters, here) = (Arc::default(), Arc::downgrade(&self.here));
        Ask { shard, events: self.inbox.clone(), counters, peer: NodeId::new(2), session: 1, here }
    }

    fn take(&self, shard: ShardId) -> GiveOrder {
        GiveOrder::Take { ask: self.ask(shard), epoch: EPOCH }
    }

    fn read(&self, shard: ShardId, snapshot: SnapshotId, index: u32) -> GiveOrder {
        GiveOrder::Read { ask: self.ask(shard), epoch: EPOCH, snapshot, index }
    }

    /// Those that have come since the last time.
    fn answers(&self) -> Vec<Input> {
        let answers = std::iter::from_fn(|| self.events.next()).map(|event| match event {
            Event::Snapshot(Answer::Given { input, .. }) => input,
            _ => unreachable!("nothing else is sent"),
        });
        answers.collect()
    }
}

/// It was let go of behind the order of another shard, before the one that had waited behind that was looked at: so of two shards
/// that were fetched at a time each threw away the other's.
#[test]
fn one_that_somebody_in_line_asks_for_is_kept_however_long_others_were_at_work() {
    let world = World::new(1);
    let other = world.others()[0];
    let (mut giver, orders) = world.giver();
    let fetched = giver.offer(&world.ask(SHARD)).unwrap();
    // If that is gone, the next one is another one.
    world.node.default_namespace().put("k", "y").unwrap().wait().unwrap();
    giver.given.iter_mut().for_each(|given| given.kept.age(LONG));
    for order in [world.take(other), world.take(SHARD), GiveOrder::End] {
        orders.send(order).unwrap();
    }
    giver.run();
    let answers = world.answers();
    let [Input::SnapshotTaken { .. }, Input::SnapshotTaken { snapshot, .. }] = answers[..] else {
        panic!("two are offered: {answers:?}")
    };
    assert_eq!(snapshot, fetched);
}

/// Be it of the same shard.
#[test]
fn one_that_nobody_asks_for_is_let_go_while_others_are_fetched() {
    let mut world = World::new(1);
    let other = world.others()[0];
    let (mut giver, _orders) = world.giver();
    giver.offer(&world.ask(other)).unwrap();
    giver.offer(&world.ask(SHARD)).unwrap();
    world.node.default_namespace().put("k", "y").unwrap().wait().unwrap();
    let handle = giver.handle(SHARD).unwrap();
    let newer = giver.take(&handle).unwrap();
    let fetched = giver.survey(newer).unwrap();
    assert_eq!(giver.given.len(), 3);
    giver.given.iter_mut().for_each(|given| given.kept.age(LONG));
    giver.line.push_back(world.read(SHARD, fetched, 0));
    giver.let_go();
    assert_eq!(giver.given.iter().map(Given::shard).collect::<Vec<_>>(), [SHARD]);
    assert!(giver.given_of(fetched).is_some());
    // Whoever asked for it is gone.
    giver.given.iter_mut().for_each(|given| given.kept.age(LONG));
    world.here = Arc::default();
    giver.let_go();
    assert!(giver.given.is_empty());
}

/// It took longer to look at than one is kept of which nothing is sent: it was gone before anybody could ask for a part.
#[test]
fn one_is_kept_from_when_it_can_be_fetched() {
    let world = World::new(1);
    let (mut giver, _orders) = world.giver();
    let handle = giver.handle(SHARD).unwrap();
    let place = giver.take(&handle).unwrap();
    giver.given[place].kept.age(24 * LONG);
    giver.offer(&world.ask(SHARD)).unwrap();
    giver.let_go();
    assert_eq!(giver.given.len(), 1);
}

/// Each that was put off, and of which nobody hears any more, took one all the same, and kept it from others.
#[test]
fn nothing_is_taken_for_who_is_gone_and_the_last_order_of_each_is_the_one() {
    let mut world = World::new(1);
    let (mut giver, orders) = world.giver();
    for order in [world.take(SHARD), world.take(world.others()[0]), world.take(SHARD)] {
        orders.send(order).unwrap();
    }
    giver.gather();
    assert_eq!(giver.line.len(), 2);
    world.here = Arc::default();
    while let Some(order) = giver.line.pop_front() {
        giver.carry_out(order);
    }
    assert!(giver.given.is_empty() && giver.later.is_empty() && world.answers().is_empty());
}

/// Otherwise whoever fetches one waits for each part as long as it takes to read all of another.
#[test]
fn parts_are_read_for_others_while_one_is_surveyed() {
    let world = World::new(1);
    let other = world.others()[0];
    let (mut giver, orders) = world.giver();
    let fetched = giver.offer(&world.ask(SHARD)).unwrap();
    for order in [world.take(other), world.read(SHARD, fetched, 0), GiveOrder::End] {
        orders.send(order).unwrap();
    }
    giver.run();
    let answers = world.answers();
    let is_read_first =
        matches!(&answers[..], [Input::SnapshotRead { bytes: Some(_), .. }, Input::SnapshotTaken { .. }]);
    assert!(is_read_first, "{answers:?}");
}

/// A restart counted those of all shards together, and removed what lay beyond two.
#[test]
fn what_a_former_life_gave_of_each_shard_is_found_again() {
    let world = World::new(3);
    let shards = [world.others(), vec![SHARD]].concat();
    let (mut giver, _orders) = world.giver();
    for shard in &shards {
        giver.offer(&world.ask(*shard)).unwrap();
    }
    drop(giver);
    let (mut giver, _orders) = world.giver();
    giver.find();
    let mut found: Vec<u64> = giver.given.iter().map(|given| given.shard().get()).collect();
    let mut given: Vec<u64> = shards.iter().map(|shard| shard.get()).collect();
    found.sort_unstable();
    given.sort_unstable();
    assert_eq!(found, given);
}

/// A peer with an empty disk had as many made as the node leads shards, each with files open by the hundred.
#[test]
fn so_many_are_kept_at_a_time_and_who_needs_another_one_waits_until_one_is_sent() {
    let world = World::new(u8::try_from(GIVEN_MAX + 1).unwrap());
    let shards = world.others();
    let (mut giver, _orders) = world.giver();
    let offered: Vec<_> = shards[..GIVEN_MAX].iter().map(|shard| giver.offer(&world.ask(*shard)).unwrap()).collect();
    giver.carry_out(world.take(shards[GIVEN_MAX]));
    assert!(world.answers().is_empty());
    let (_, put_off) = giver.later.pop().unwrap();

    // For one nobody has asked for longer; but that is being fetched.
    let (fetched, sent) = (offered[0], offered[1]);
    for index in 0..sent.chunks {
        assert!(giver.read(&world.ask(shards[1]), sent, index).is_some());
    }
    giver.carry_out(put_off);
    assert!(world.answers().is_empty(), "a connection may have broken with the last part on it");
    let (_, put_off) = giver.later.pop().unwrap();
    giver.given.iter_mut().for_each(|given| given.kept.age(Duration::from_secs(60)));
    // Of what the same nodes were sent before some hundred gibibytes are being installed.
    let (until, log) = (after(LONG), giver.handle(shards[0]).unwrap());
    let pin = log.pins.pin(Lsn::ZERO, Budget { bytes: u64::MAX, age: Duration::MAX });
    giver.pins.push(Followed { until, shard: shards[0], nodes: vec![NodeId::new(2)], bytes: 200 << 30, _pin: pin });
    giver.carry_out(put_off);
    assert!(matches!(world.answers()[..], [Input::SnapshotTaken { .. }]));
    assert!(giver.pins.iter().all(|followed| followed.until >= until), "what comes behind them waits for them");
    assert_eq!((giver.given.len(), giver.later.len()), (GIVEN_MAX, 0));
    assert!(giver.given_of(fetched).is_some() && giver.given_of(sent).is_none());
    let pins = Arc::clone(&giver.handle(shards[1]).unwrap().pins);
    assert_eq!(pins.count(), 1, "whoever was sent it needs the log behind it");
    giver.pins.iter_mut().for_each(|followed| followed.until = now());
    giver.let_go();
    assert_eq!(pins.count(), 0);
}

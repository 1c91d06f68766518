//! What goes of a log, and what stays.

use super::*;
use crate::model::{Filter, Policy, Read, Since};
use crate::node::scrubber::tests::{noise, rot, until};
use crate::node::{
    Budget, FeedError, FollowError, FollowerOptions, Namespace, NamespaceOptions, Node, NodeOptions, OpenError,
};
use bytes::Bytes;

/// Batches of this many bytes, each by itself.
const VALUE_BYTES: usize = 10_000;

fn fill(space: &Namespace, writes: u32) {
    // Not alike, so that they do not shrink.
    let mut state = 1_u64;
    let mut byte = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    };
    for number in 0..writes {
        let value = Bytes::from_iter((0..VALUE_BYTES).map(|_| byte()));
        space.put(format!("key-{number}"), value).unwrap().wait().unwrap();
    }
}

fn with_policy(node: &Node, retention: Retention) -> Namespace {
    node.create_namespace("space", &NamespaceOptions::default().policy(Policy { retention, ..Policy::default() }))
        .unwrap()
}

fn start(node: &Node) -> Lsn {
    let shard = node.shared.registry.named("space").unwrap().shards[0].clone();
    node.shared.host.wal.start_of(shard.log).lsn
}

/// Releases what may go: whether more might.
fn release(node: &Node) -> bool {
    let (more, under_way) = node.shared.release_logs(&node.shared.everybody());
    under_way.map_or(Ok(()), Pending::wait).unwrap();
    more
}

/// Everything is on the disk, and the keeper has its look.
fn look(node: &Node) -> Lsn {
    node.shared.gate.with(|store| store.flush()).unwrap().unwrap();
    release(node);
    start(node)
}

#[test]
fn a_log_goes_beyond_its_bytes_but_nothing_that_is_not_flushed_and_a_late_reader_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::bytes(20 * VALUE_BYTES as u64));
    fill(&space, 60);
    release(&node);
    assert_eq!(start(&node), Lsn::ZERO, "a crash would have to replay it");
    let begins = look(&node);
    assert!((35..=50).contains(&begins.get()), "{begins}");
    match space.subscribe(Since::Beginning, Filter::All) {
        Err(FeedError::Compacted { oldest, .. }) => assert_eq!(oldest, begins.next()),
        other => panic!("{other:?}"),
    }
    let mut feed = space.subscribe(Since::Oldest, Filter::All).unwrap();
    assert_eq!(feed.wait().unwrap().lsn, begins.next());
    assert!(space.get("key-0", Read::Linearizable).unwrap().is_some(), "what it did stays");
    node.close().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.namespace("space").unwrap();
    assert!(space.get("key-0", Read::Linearizable).unwrap().is_some());
    fill(&space, 1);
    node.close().unwrap();
    // The state is gone, and what it was made of too: that is told, never made up.
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    let lost = Node::open(NodeOptions::alone(directory.path())).map(drop);
    assert!(matches!(lost, Err(OpenError::StateLost { start, .. }) if start >= begins), "{lost:?}");
}

#[test]
fn for_ever_is_for_ever_and_an_age_lets_go_what_is_older() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::Forever);
    fill(&space, 10);
    assert_eq!(look(&node), Lsn::ZERO);
    node.set_policy("space", Policy { retention: Retention::age(Duration::from_secs(3600)), ..Policy::default() })
        .unwrap();
    assert_eq!(look(&node), Lsn::ZERO);
    // No second of it is kept: everything that was sealed before this moment may go.
    node.set_policy("space", Policy { retention: Retention::age(Duration::ZERO), ..Policy::default() }).unwrap();
    let begins = look(&node);
    assert!(begins.get() >= 10, "{begins}");
    node.close().unwrap();
}

#[test]
fn the_age_is_found_among_batches_of_every_number_of_records() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::Forever);
    let mut receipts = Vec::new();
    for number in 0..500_u32 {
        receipts.push(space.put(format!("key-{number}"), "x").unwrap());
        if number % 7 == 0 {
            receipts.drain(..).for_each(|receipt| assert!(receipt.wait().is_ok()));
        }
    }
    receipts.drain(..).for_each(|receipt| assert!(receipt.wait().is_ok()));
    let log = node.shared.registry.named("space").unwrap().shards[0].log;
    let wal = &node.shared.host.wal;
    let batches = wal.read(log, Lsn::FIRST, usize::MAX).unwrap();
    for pair in batches.windows(2) {
        let cutoff = pair[1].header().time_micros;
        let mut expected = Lsn::ZERO;
        for batch in batches.iter().take_while(|batch| batch.header().time_micros < cutoff) {
            expected = batch.last_lsn();
        }
        assert_eq!(older_than_micros(wal, log, Lsn::ZERO, cutoff), expected);
    }
    assert_eq!(older_than_micros(wal, log, Lsn::ZERO, 0), Lsn::ZERO);
    assert_eq!(older_than_micros(wal, log, Lsn::ZERO, u64::MAX), wal.end(log).lsn);
    node.close().unwrap();
}

#[test]
fn a_reader_keeps_the_log_within_its_budget_and_hears_when_that_is_spent() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::bytes(0));
    let mut slow = space.subscribe(Since::Beginning, Filter::All).unwrap();
    let small = Budget { bytes: 30 * VALUE_BYTES as u64, ..Budget::default() };
    let mut poor = space.subscribe_within(Since::Beginning, Filter::All, small).unwrap();
    fill(&space, 20);
    assert!(look(&node) <= Lsn::FIRST, "both are within their budgets");
    assert_eq!(slow.wait().unwrap().lsn, Lsn::new(2), "behind the start of the epoch");
    fill(&space, 200);
    drop(slow);
    let begins = look(&node);
    assert!((150..=200).contains(&begins.get()), "{begins}");
    let compacted = loop {
        match poor.wait() {
            Ok(change) => assert!(change.lsn < begins, "what it had read before"),
            Err(error) => break error,
        }
    };
    assert!(matches!(compacted, FeedError::Compacted { oldest, .. } if oldest == begins.next()), "{compacted}");
    drop(poor);
    assert_eq!(look(&node), node.shared.host.end(node.shared.registry.named("space").unwrap().shards[0].log));
    node.close().unwrap();
}

#[test]
fn the_log_is_kept_for_a_follower_that_is_away_over_a_reopen_until_its_budget_is_spent() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::bytes(0));
    let budget = Budget { bytes: 100 * VALUE_BYTES as u64, ..Budget::default() };
    let options = FollowerOptions::since(Since::Beginning).budget(budget);
    drop(space.follow("away", &options).unwrap());
    fill(&space, 20);
    assert_eq!(look(&node), Lsn::ZERO);
    node.close().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = node.namespace("space").unwrap();
    assert_eq!(look(&node), Lsn::ZERO);
    let mut back = space.follow("away", &options).unwrap();
    assert_eq!(back.wait().unwrap().lsn, Lsn::new(2));
    back.acknowledge().unwrap();
    drop(back);
    assert_eq!(look(&node), Lsn::new(2), "what it is done with goes");
    fill(&space, 200);
    assert!(look(&node) > Lsn::new(100));
    let late = space.follow("away", &options).map(drop);
    assert!(matches!(late, Err(FollowError::Feed(FeedError::Compacted { .. }))), "{late:?}");
    space.forget_follower("away").unwrap();
    assert!(space.follow("away", &FollowerOptions::since(Since::Oldest)).is_ok());
    node.close().unwrap();
}

/// A crash leaves what the state on the disk says of a follower, not what it said last.
#[test]
fn what_a_follower_said_lets_the_log_go_only_when_it_is_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::bytes(0));
    let mut follower = space.follow("slow", &FollowerOptions::since(Since::Beginning)).unwrap();
    fill(&space, 20);
    for _ in 0..5 {
        follower.wait().unwrap();
    }
    follower.acknowledge().unwrap();
    let begins = look(&node);
    assert!((5..=6).contains(&begins.get()), "its feed holds the batch that it is in: {begins}");
    for _ in 0..10 {
        follower.wait().unwrap();
    }
    follower.acknowledge().unwrap();
    release(&node);
    assert!(start(&node) <= Lsn::new(6), "the next life may ask for it again");
    let begins = look(&node);
    assert!((15..=16).contains(&begins.get()), "{begins}");
    // A larger budget counts from now on.
    drop(follower);
    let budget = Budget { bytes: 1000 * VALUE_BYTES as u64, ..Budget::default() };
    drop(space.follow("slow", &FollowerOptions::since(Since::Beginning).budget(budget)).unwrap());
    fill(&space, 600);
    assert!((15..=16).contains(&look(&node).get()));
    node.close().unwrap();
}

#[test]
fn nothing_of_a_dropped_namespace_is_left_however_busy_it_was() {
    use crate::state::{Family, Order, View as _};
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    for _ in 0..6 {
        let space = with_policy(&node, Retention::Forever);
        let mut follower = space.follow("f", &FollowerOptions::since(Since::Beginning)).unwrap();
        let receipts: Vec<_> = (0..3000).map(|n| space.put(format!("key-{n}"), vec![1; 500]).unwrap()).collect();
        receipts[10].wait_for(Duration::from_secs(20)).unwrap();
        node.drop_namespace("space").unwrap();
        assert!(follower.acknowledge().is_err());
        for receipt in receipts {
            // One way or another, everybody hears.
            let _answer = receipt.wait();
        }
        let id = space.id().get();
        let left = node.shared.gate.with(|store| {
            let mut left = Vec::new();
            for family in Family::ALL {
                let mut see = |key: &[u8], _: &[u8]| {
                    let of_namespace = family != Family::Meta && key.starts_with(&id.swap_bytes().to_le_bytes());
                    let shards = &space.descriptor().shards;
                    let of_shard = |shard: u64| key.starts_with(&shard.swap_bytes().to_le_bytes());
                    let of_shards = family == Family::Meta && shards.iter().any(|shard| of_shard(shard.shard.get()));
                    if of_namespace || of_shards {
                        left.push((family, key.to_vec()));
                    }
                    std::ops::ControlFlow::Continue(())
                };
                store.scan(family, &[], Order::Ascending, &mut see).unwrap();
            }
            left
        });
        assert_eq!(left.unwrap(), []);
    }
    node.close().unwrap();
}

#[test]
fn nobody_begins_to_read_between_the_keepers_look_at_who_reads_and_what_goes() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::Forever);
    fill(&space, 10);
    let shard = node.shared.registry.named("space").unwrap().shards[0].clone();
    let (told, began) = bounded(1);
    std::thread::scope(|scope| {
        let looked = node.shared.letting_go.write();
        let space = &space;
        scope.spawn(move || told.send(space.subscribe(Since::Oldest, Filter::All)).unwrap());
        assert!(began.recv_timeout(Duration::from_millis(200)).is_err(), "it would begin at what goes now");
        assert_eq!(shard.pins.count(), 0);
        let before = node.shared.host.wal.boundary_at_or_before(shard.log, Lsn::new(5)).unwrap().lsn.next();
        node.shared.host.wal.submit(vec![Entry::Release { log: shard.log, before }]).unwrap().wait().unwrap();
        drop(looked);
        let mut feed = began.recv().unwrap().unwrap();
        assert_eq!(feed.wait().unwrap().lsn, before, "what is there when it begins stays");
    });
    node.close().unwrap();
}

/// A flush that was due and failed counted as done: the next came as late as after one that did not fail.
#[test]
fn a_flush_that_failed_is_tried_again_in_ten_seconds_and_one_that_did_not_in_ten_minutes() {
    let start = now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (flushed, failed) = (Pace::flushed(start), Pace::failed(start));
    assert!(flushed.lets_flush(start), "should there be too much to replay");
    assert!(!flushed.lets_release(at(599)) && flushed.lets_release(at(600)));
    assert!(!failed.lets_flush(at(9)) && !failed.lets_release(at(9)), "whatever it is for");
    assert!(failed.lets_flush(at(10)) && failed.lets_release(at(10)));
}

/// By default a gigabyte may have to be replayed, and RocksDB flushes by itself at 64 MiB: neither is reached here.
#[test]
fn the_bound_on_what_is_replayed_is_the_one_of_the_options() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    options.replay_bytes_max = 100_000;
    let node = Node::open(options).unwrap();
    let space = node.default_namespace();
    let flushed = || {
        let persisted = |store: &Arc<crate::state::RocksStore>| store.persisted_applied(crate::node::SHARD);
        node.shared.gate.with(persisted).unwrap().unwrap().is_some()
    };
    fill(&space, 20);
    let deadline = crate::node::shard::after(Duration::from_secs(20));
    while !flushed() {
        assert!(now() < deadline, "the keeper, which looks once a second, flushed nothing");
        space.put("k", "v").unwrap().wait().unwrap();
    }
    node.close().unwrap();
}

/// What nobody can mend goes though the policy would keep it, once the state has it on the disk: so the state is to be
/// flushed, or the log stays as it is, and what waits for that waits for ever.
#[test]
fn what_nobody_can_mend_goes_when_the_state_that_has_it_is_flushed_and_asks_for_that() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::Forever);
    fill(&space, 10);
    assert!(!release(&node), "the policy lets nothing go");
    let shard = node.shared.registry.named("space").unwrap().shards[0].clone();
    shard.positions.set_unmendable(Some((Lsn::new(4), Lsn::new(5))));
    assert!(release(&node), "more would go if the state were flushed");
    assert_eq!(start(&node), Lsn::ZERO, "a crash would have to replay it");
    node.shared.gate.with(|store| store.flush()).unwrap().unwrap();
    release(&node);
    assert_eq!(start(&node), Lsn::new(5));
    // Of what the state has a part only, that part goes; and nothing for what it has nothing of.
    shard.positions.set_unmendable(Some((Lsn::new(100), Lsn::new(200))));
    assert!(!release(&node) && start(&node) == Lsn::new(5), "it would bring nothing");
    let applied = shard.positions.applied();
    shard.positions.set_unmendable(Some((Lsn::new(8), Lsn::new(200))));
    release(&node);
    assert_eq!(start(&node), applied);
    shard.positions.set_unmendable(None);
    node.close().unwrap();
}

/// What can't be read has no age of its own, so nothing behind it ever had one either: the log of a lone node grew for ever.
#[test]
fn d12_what_can_t_be_read_goes_for_its_age_with_what_lies_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let space = with_policy(&node, Retention::Forever);
    let numbers = 0..12;
    for number in numbers.clone() {
        space.put(format!("key-{number}"), noise(number)).unwrap().wait().unwrap();
    }
    // The first ones of what is left, several in a row; and the last of all.
    for number in [2, 3, 4, 11] {
        rot(directory.path(), number);
    }
    let shard = node.shared.registry.named("space").unwrap().shards[0].clone();
    let (wal, log) = (&node.shared.host.wal, shard.log);
    let batches = wal.epochs(log).len() as u64 + numbers.end;
    let (mut next, mut damaged) = (Some(Lsn::FIRST), Vec::new());
    while let Some(from) = next {
        let (verified, behind) = wal.verify_part(log, from, Lsn::MAX).unwrap();
        (next, damaged) = (behind, [damaged, verified.damaged].concat());
    }
    assert_eq!((damaged.len(), wal.end(log).lsn.get()), (4, batches));
    shard.events.send(Event::DamageFound);
    until("the shard says so", || shard.positions.damaged() == 4);
    wal.release(log, damaged[0].first).unwrap();
    assert_eq!(look(&node), damaged[0].first.prev(), "it begins with what can't be read");
    node.set_policy("space", Policy { retention: Retention::age(Duration::ZERO), ..Policy::default() }).unwrap();
    assert_eq!(look(&node), damaged[3].first.prev(), "nothing behind the last one says how old that is");
    space.put("k", "v").unwrap().wait().unwrap();
    assert_eq!(look(&node), wal.end(log).lsn);
    until("the shard says that it is whole", || shard.positions.damaged() == 0);
    node.close().unwrap();
}

//! Namespaces of one node: made, used side by side, renamed, dropped, and there again after every kind of end.

use bytes::Bytes;
use std::path::Path;
use std::time::Duration;
use towline::control::CatalogError;
use towline::model::request::Direction;
use towline::model::{Epoch, Expect, Filter, Lsn, NodeId, Outcome, Policy, Read, Retention, Scan, Since, Token, Write};
use towline::node::{
    Error, FollowerOptions, Namespace, NamespaceError, NamespaceOptions, Node, NodeOptions, OpenError, ReadError,
    WriteRefused,
};
use towline::pipeline::Receipt;

fn options(directory: &Path) -> NodeOptions {
    NodeOptions::alone(directory)
}

fn open(directory: &Path) -> Node {
    Node::open(options(directory)).unwrap()
}

fn names(node: &Node) -> Vec<String> {
    node.namespaces().into_iter().map(|namespace| namespace.name).collect()
}

fn value(namespace: &Namespace, key: &str) -> Option<Bytes> {
    namespace.get(key, Read::Linearizable).unwrap().map(|found| found.value)
}

fn put(namespace: &Namespace, key: &'static str, value: &'static str) -> Outcome {
    namespace.put(key, value).unwrap().wait().unwrap().outcome
}

fn wait_for_all(receipts: Vec<Receipt>) {
    for receipt in receipts {
        receipt.wait().unwrap();
    }
}

#[test]
fn namespaces_are_apart_and_all_of_them_are_there_again_after_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let forever = Policy { retention: Retention::Forever, ..Policy::default() };
    let split = NamespaceOptions::default().policy(forever).split_at(["h", "p"]);
    let orders = node.create_namespace("orders", &split).unwrap();
    let other = node.create_namespace("other", &NamespaceOptions::default()).unwrap();
    for key in ["a", "h", "z"] {
        put(&orders, key, "of orders");
        put(&other, key, "of other");
    }
    node.rename_namespace("other", "renamed").unwrap();
    node.set_policy("default", forever).unwrap();
    assert_eq!(value(&other, "a").unwrap(), "of other", "a handle stays good");
    assert_eq!(other.descriptor().name, "renamed");
    node.close().unwrap();

    let node = open(directory.path());
    assert_eq!(names(&node), ["default", "orders", "renamed"]);
    assert!(node.namespaces().iter().take(2).all(|namespace| namespace.policy == forever));
    let (orders, other) = (node.namespace("orders").unwrap(), node.namespace("renamed").unwrap());
    assert_eq!(orders.descriptor().shards.len(), 3);
    for key in ["a", "h", "z"] {
        assert_eq!(value(&orders, key).unwrap(), "of orders");
        assert_eq!(value(&other, key).unwrap(), "of other");
        assert_eq!(value(&node.default_namespace(), key), None);
    }
    node.close().unwrap();
}

#[test]
fn what_is_not_flushed_and_not_closed_comes_back_from_the_logs_of_all_shards() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let split = NamespaceOptions::default().split_at(["h", "p"]);
    let orders = node.create_namespace("orders", &split).unwrap();
    for (key, value) in [("a", "1"), ("h", "2"), ("z", "3"), ("a", "4")] {
        put(&orders, key, value);
    }
    let digests = orders.digest().unwrap();
    node.close().unwrap();
    // As a crash that lost all that RocksDB had not flushed.
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    let node = open(directory.path());
    let orders = node.namespace("orders").unwrap();
    assert_eq!(["a", "h", "z"].map(|key| value(&orders, key).unwrap()), ["4", "2", "3"]);
    let content =
        |digests: &[(_, _, [u8; 16])]| digests.iter().map(|(shard, _, digest)| (*shard, *digest)).collect::<Vec<_>>();
    assert_eq!(content(&orders.digest().unwrap()), content(&digests), "I4");
    node.close().unwrap();
}

#[test]
fn a_dropped_namespace_is_gone_for_its_handles_for_its_successor_and_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let split = NamespaceOptions::default().split_at(["m"]);
    let doomed = node.create_namespace("doomed", &split).unwrap();
    for key in ["a", "z"] {
        put(&doomed, key, "1");
        doomed.append(key, Expect::Any, "event").unwrap().wait().unwrap();
    }
    let stays = node.create_namespace("stays", &NamespaceOptions::default()).unwrap();
    put(&stays, "a", "1");
    node.drop_namespace("doomed").unwrap();
    assert!(matches!(doomed.put("a", "2"), Err(WriteRefused::Dropped)));
    assert!(matches!(doomed.get("a", Read::Eventual), Err(ReadError::Dropped)));
    assert!(matches!(doomed.get("a", Read::Linearizable), Err(ReadError::Dropped | ReadError::NotYet { .. })));
    let unknown = node.namespace("doomed").map(drop).unwrap_err();
    assert!(matches!(unknown, NamespaceError::Catalog(CatalogError::Unknown(_))));
    let again = node.create_namespace("doomed", &NamespaceOptions::default()).unwrap();
    assert!(again.id() > doomed.id());
    assert_eq!(value(&again, "a"), None);
    let read = again.read_stream("a", 1, Direction::Forward, (10, 1000), Read::Linearizable).unwrap();
    assert_eq!(read.head, 0);
    put(&again, "a", "new");
    node.close().unwrap();
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    let node = open(directory.path());
    assert_eq!(names(&node), ["default", "stays", "doomed"]);
    assert_eq!(value(&node.namespace("doomed").unwrap(), "a").unwrap(), "new");
    assert_eq!(value(&node.namespace("stays").unwrap(), "a").unwrap(), "1");
    node.close().unwrap();
}

#[test]
fn a_write_or_a_range_across_shards_is_refused_with_both_keys_and_nothing_of_it_happens() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let split = NamespaceOptions::default().split_at(["m"]);
    let both = node.create_namespace("both", &split).unwrap();
    let refused = both.write(Write::new().put("a", "1").put("z", "1")).map(drop).unwrap_err();
    assert!(refused.to_string().contains("\"a\"") && refused.to_string().contains("\"z\""), "{refused}");
    let error = Error::from(refused);
    assert!(error.has_no_side_effects() && !error.is_retryable());
    assert!(matches!(both.write(Write::new().delete_range("a", "z")), Err(WriteRefused::CrossShard(_))));
    assert!(both.scan(&Scan::all(), Read::Linearizable).unwrap().entries.is_empty());
    node.close().unwrap();
}

#[test]
fn i7_a_token_of_one_shard_waits_for_that_shard_and_one_of_a_lost_epoch_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace().reading_within(Duration::from_millis(20));
    let written = space.put("a", "1").unwrap().wait().unwrap();
    let token: Token = written.token().to_string().parse().unwrap();
    assert_eq!(space.get("a", Read::AtLeast(token)).unwrap().unwrap().value, "1");
    let ahead = Token::at(written.shard, written.epoch, Lsn::new(written.lsn.get() + 1));
    match space.get("a", Read::AtLeast(ahead.clone())) {
        Err(ReadError::NotYet { wanted, applied, .. }) => assert!(wanted > applied && applied == written.lsn),
        other => panic!("{other:?}"),
    }
    let patient = node.default_namespace().reading_within(Duration::from_secs(20));
    let waiting = std::thread::Builder::new().spawn(move || patient.get("b", Read::AtLeast(ahead))).unwrap();
    space.put("b", "2").unwrap().wait().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap().unwrap().value, "2");
    let lost = Token::at(written.shard, Epoch::new(written.epoch.version, written.epoch.term + 7), written.lsn);
    assert!(matches!(space.get("a", Read::AtLeast(lost)), Err(ReadError::PositionLost { .. })));
    // A token of other shards asks nothing of this one.
    let elsewhere = Token::at(towline::model::ShardId::new(99), written.epoch, Lsn::new(u64::MAX));
    assert!(space.get("a", Read::AtLeast(elsewhere)).is_ok());
    assert_eq!(space.token().get(written.shard).unwrap().1, Lsn::new(written.lsn.get() + 1));
    node.close().unwrap();
}

#[test]
fn i7_a_linearizable_read_right_after_an_opening_shows_all_that_was_acknowledged_before() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..5_u32 {
        let node = open(directory.path());
        let space = node.default_namespace();
        for key in 0..round * 50 {
            assert!(value(&space, &format!("key-{key}")).is_some(), "round {round}, key {key}");
        }
        let receipts: Vec<_> =
            (round * 50..(round + 1) * 50).map(|key| space.put(format!("key-{key}"), "x").unwrap()).collect();
        wait_for_all(receipts);
        node.close().unwrap();
        // What was flushed is lost, so everything is replayed while the first reads come.
        std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    }
}

#[test]
fn scans_go_on_page_by_page_in_both_directions_across_shards_and_stay_in_their_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let split = NamespaceOptions::default().split_at(["key-030", "key-060"]);
    let space = node.create_namespace("space", &split).unwrap();
    let neighbour = node.create_namespace("neighbour", &NamespaceOptions::default()).unwrap();
    put(&neighbour, "key-000", "not of it");
    put(&node.default_namespace(), "zzz", "not of it");
    let keys: Vec<String> = (0..100).map(|number| format!("key-{number:03}")).collect();
    let receipts: Vec<_> = keys.iter().map(|key| space.put(key.clone(), key.clone()).unwrap()).collect();
    wait_for_all(receipts);
    for reverse in [false, true] {
        let mut scan = Scan::all().limit(7);
        if reverse {
            scan = scan.reverse();
        }
        let (mut found, mut pages, mut next) = (Vec::new(), 0, Some(scan));
        while let Some(scan) = next {
            let page = space.scan(&scan, Read::Linearizable).unwrap();
            assert!(page.entries.iter().all(|entry| entry.key == entry.value && entry.version > 0));
            found.extend(page.entries.into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()));
            (pages, next) = (pages + 1, page.next);
        }
        if reverse {
            found.reverse();
        }
        assert_eq!((found, pages), (keys.clone(), 15));
    }
    let count = |scan: Scan| space.scan(&scan, Read::Linearizable).unwrap().entries.len();
    assert_eq!(count(Scan::prefix("key-01")), 10);
    assert_eq!(count(Scan::range("key-010".."key-020").reverse()), 10);
    assert_eq!(count(Scan::range("key-010"..="key-020").reverse()), 11);
    assert_eq!(count(Scan::range("b".."a")), 0);
    assert_eq!(count(Scan::all().bytes(1)), 1, "one entry is always returned");
    node.close().unwrap();
}

#[test]
fn several_keys_of_one_moment_never_show_half_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    put(&space, "a", "0");
    put(&space, "b", "0");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 0..300 {
                let number = number.to_string();
                space.write(Write::new().put("a", number.clone()).put("b", number)).unwrap().wait().unwrap();
            }
        });
        while !writing.is_finished() {
            let found = space.multi_get(["a", "b"], Read::Eventual).unwrap();
            let values: Vec<_> = found.into_iter().map(|found| found.unwrap().value).collect();
            assert_eq!(values[0], values[1]);
            space
                .snapshot(Read::Eventual, |snapshot| {
                    let (one, at) = (snapshot.get("a")?.unwrap(), snapshot.token()?);
                    assert_eq!(snapshot.scan(&Scan::prefix("b"))?.entries[0].value, one.value);
                    assert_eq!(snapshot.token()?, at);
                    Ok(())
                })
                .unwrap();
        }
    });
    node.close().unwrap();
}

#[test]
fn handles_outlive_the_node_and_say_that_it_is_closed_and_the_directory_is_free_again() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.default_namespace();
    put(&space, "a", "1");
    node.close().unwrap();
    assert!(matches!(space.put("a", "2"), Err(WriteRefused::Submit(_))));
    assert!(matches!(space.get("a", Read::Eventual), Err(ReadError::Closed)));
    assert!(space.get("a", Read::Linearizable).is_err());
    open(directory.path()).close().unwrap();
}

#[test]
fn a_node_of_several_makes_no_namespaces_and_refuses_a_directory_that_has_some() {
    let directory = tempfile::tempdir().unwrap();
    let several = |path: &Path| {
        let mut several = options(path);
        several.voters = vec![NodeId::new(1), NodeId::new(2)];
        several
    };
    let node = Node::open(several(directory.path())).unwrap();
    let refused = node.create_namespace("x", &NamespaceOptions::default()).map(drop);
    assert!(matches!(refused, Err(NamespaceError::NotAlone(_))));
    // It is the one that the options name, and nobody has promised it anything.
    let hasty = node.default_namespace().reading_within(Duration::from_millis(50));
    assert!(matches!(hasty.get("a", Read::Linearizable), Err(ReadError::NotYet { .. })));
    node.close().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    node.create_namespace("x", &NamespaceOptions::default()).unwrap();
    node.close().unwrap();
    assert!(matches!(Node::open(several(directory.path())), Err(OpenError::NamespacesDiffer(_))));
}

#[test]
fn the_catalog_is_the_same_after_more_changes_than_it_keeps_apart() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    node.create_namespace("one", &NamespaceOptions::default()).unwrap();
    let policy = |number: u64| Policy { retention: Retention::bytes(number), ..Policy::default() };
    for number in 0..600 {
        node.set_policy("one", policy(number)).unwrap();
    }
    let before = node.namespaces();
    node.close().unwrap();
    let node = open(directory.path());
    assert_eq!(node.namespaces(), before);
    assert_eq!(node.namespace("one").unwrap().descriptor().policy, policy(599));
    node.close().unwrap();
}

#[test]
fn shards_on_several_threads_keep_their_own_order_and_answer_everybody() {
    let directory = tempfile::tempdir().unwrap();
    let mut several = options(directory.path());
    (several.sequencers, several.appliers) = (3, 2);
    let node = Node::open(several).unwrap();
    let points: Vec<String> = (1..8).map(|number| number.to_string()).collect();
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(points)).unwrap();
    std::thread::scope(|scope| {
        for shard in 0..8 {
            let space = &space;
            scope.spawn(move || {
                let mut receipts = Vec::new();
                for number in 0..200_u64 {
                    let event = number.to_string();
                    receipts.push(space.append(format!("{shard}-stream"), Expect::Any, event).unwrap());
                }
                for (receipt, version) in receipts.into_iter().zip(1..) {
                    assert_eq!(receipt.wait().unwrap().outcome, Outcome::Applied { version });
                }
            });
        }
    });
    for shard in 0..8 {
        let read =
            space.read_stream(format!("{shard}-stream"), 1, Direction::Forward, (1000, 1 << 20), Read::Linearizable);
        let values: Vec<_> =
            read.unwrap().events.into_iter().map(|event| String::from_utf8(event.value).unwrap()).collect();
        assert_eq!(values, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    }
    node.close().unwrap();
}

#[test]
fn the_numbers_of_each_shard_are_those_of_what_was_done_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    for number in 0..10 {
        let expect = if number % 2 == 0 { Expect::Any } else { Expect::Version(99) };
        space.append("a", expect, "event").unwrap().wait().unwrap();
    }
    let feed = space.subscribe(Since::Now, Filter::All).unwrap();
    let stats = node.stats().unwrap();
    let of = |index: usize| &stats.shards[index];
    assert_eq!(stats.shards.len(), 3);
    assert_eq!((of(1).records, of(1).rejected, of(2).records), (10, 5, 0));
    assert!(
        of(1).applied == of(1).end && of(1).durable == of(1).end && of(1).released == Lsn::ZERO && of(1).bytes > 500
    );
    assert_eq!((of(1).pins, of(2).pins, of(0).pins), (1, 1, 0));
    assert!(of(1).is_serving && of(1).failure.is_none() && of(1).queue_bytes == 0);
    drop(feed);
    assert_eq!(node.stats().unwrap().shards[1].pins, 0);
    // A follower holds by its name, and by its feed as long as it is here; a session is begun and ended in every shard.
    let follower = space.follow("mailer", &FollowerOptions::since(Since::Beginning)).unwrap();
    assert_eq!(node.stats().unwrap().shards[1].pins, 2);
    drop(follower);
    space.open_session().unwrap().close().unwrap();
    let stats = node.stats().unwrap();
    assert_eq!((stats.shards[1].pins, stats.shards[1].records, stats.shards[2].records), (1, 12, 2));
    node.close().unwrap();
}

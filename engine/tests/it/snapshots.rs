//! A node that needs what the others' logs hold no more is given the state, and the log behind it.

use crate::cluster::{Cluster, PATIENCE, until};
use crate::noise::noise;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use towline::client::{Client, ClientOptions, Route};
use towline::model::{Expect, Filter, NodeId, Outcome, Read, Since, Write};
use towline::node::{FeedError, Node, ReadError, ShardStats};

/// A log that keeps little, and a state that is flushed all the time.
const SMALL: &str = "[log]\nretention_bytes = 100_000\nfollower_bytes = 200_000_000\nreplay_bytes = 100_000";
const VALUE_BYTES: usize = 20_000;

fn with_rate(bytes_per_second: u64) -> String {
    format!("snapshot_bytes_per_second = {bytes_per_second}\n{SMALL}")
}

fn stats(cluster: &Cluster, index: usize) -> ShardStats {
    cluster.server(index).node().stats().unwrap().shards[0].clone()
}

fn put(node: &Node, number: u32) {
    let receipt = node.default_namespace().put(format!("key-{number}"), noise(number.into(), VALUE_BYTES)).unwrap();
    assert!(receipt.wait_for(PATIENCE).unwrap().is_some(), "an answer in time");
}

/// A cluster whose third node was away while the others wrote so many values, and let go of the log that it would need.
fn behind(limits: &str, values: u32) -> Cluster {
    let mut cluster = Cluster::limited(limits);
    fall_behind(&mut cluster, values);
    cluster
}

fn fall_behind(cluster: &mut Cluster, values: u32) {
    until("the leader serves", || cluster.server(0).node().is_serving());
    (0..3).for_each(|number| cluster.write_at(0, number));
    until("it is there", || cluster.applied(2) >= 3);
    cluster.stop(2);
    let node = cluster.server(0).node();
    let session = node.default_namespace().open_session().unwrap();
    let request = Write::new().append("once", Expect::Any, "x");
    session.write(&request).unwrap().wait().unwrap();
    (0..values).for_each(|number| put(node, number));
    for index in 0..2 {
        cluster.server(index).node().compact().unwrap();
        until("the log is let go", || stats(cluster, index).released.get() > u64::from(values / 2));
    }
    // Otherwise it is fed from what the leader still has in memory.
    cluster.stop(0);
    cluster.start(0);
    until("the leader serves again", || cluster.server(0).node().is_serving());
}

fn all_are_the_same(cluster: &Cluster) {
    let end = cluster.server(0).node().status().unwrap().end.max(cluster.server(2).node().status().unwrap().end);
    until("everybody applied everything", || (0..3).all(|index| cluster.applied(index) == end));
    let digests: Vec<_> = (0..3).map(|index| cluster.server(index).node().digest().unwrap()).collect();
    assert!(digests[0] == digests[1] && digests[0] == digests[2], "I4: {digests:?}");
}

fn parts(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.path(index).join("snapshots/taken-1024/PARTS")
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

#[test]
fn i4_a_follower_behind_the_logs_start_is_given_a_snapshot_and_the_log_behind_it_while_writes_go_on() {
    // Slow enough that some are written meanwhile.
    let mut cluster = behind(&with_rate(4_000_000), 300);
    // Before it comes back it is let behind everything that it had.
    assert!(stats(&cluster, 0).released.get() > 100);
    cluster.start(2);
    let (stop, written) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1000;
            while !stop.load(Ordering::SeqCst) {
                put(cluster.server(0).node(), number);
                number += 1;
                written.store(number - 1000, Ordering::SeqCst);
            }
        });
        let space = cluster.server(2).node().default_namespace();
        until("the snapshot is installed", || {
            // Whoever reads there meanwhile sees the old state or the new one.
            match space.multi_get(["key-0", "key-299"], Read::Eventual) {
                Ok(found) => assert_eq!(found[0].is_some(), found[1].is_some(), "never a mix of two"),
                Err(ReadError::Replaced { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            stats(&cluster, 2).snapshots_installed == 1
        });
        stop.store(true, Ordering::SeqCst);
    });
    assert!(written.into_inner() > 3, "writes went on");
    all_are_the_same(&cluster);
    let (given, taken) = (stats(&cluster, 0), stats(&cluster, 2));
    // More than one, where the log ran away from the first.
    assert!(given.snapshots_given >= 1);
    assert_eq!(taken.snapshot_parts_damaged, 0);
    assert!(taken.snapshot_bytes_taken > 300 * VALUE_BYTES as u64, "{taken:?}");
    assert!(taken.released.get() > 100, "its log begins where the snapshot ends");
    assert!(!parts(&cluster, 2).exists(), "nothing is left of the parts");
    // It goes on like any other: also through a restart.
    cluster.stop(2);
    put(cluster.server(0).node(), 5000);
    cluster.start(2);
    all_are_the_same(&cluster);
    assert_eq!(stats(&cluster, 2).snapshots_installed, 0, "of the log, this time");
    (0..3).for_each(|index| cluster.stop(index));
}

/// Its own log is older than what any other holds: it must have the state before it can lead.
#[test]
fn i1_i5_a_new_leader_that_needs_a_snapshot_takes_it_and_then_serves_and_its_sessions_are_known() {
    let mut cluster = behind(&with_rate(3_000_000), 300);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    cluster.start(2);
    until("it fetches", || stats(&cluster, 2).snapshot_bytes_taken > 0);
    let options = ClientOptions {
        route: Route::Any,
        request_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        ..ClientOptions::default()
    };
    let assigned = runtime.block_on(async {
        let client = Client::connect(cluster.addresses(), options).await.unwrap();
        client.namespace("default").assign_leader(None, NodeId::new(3), PATIENCE).await.unwrap()
    });
    assert_eq!(assigned.leader, NodeId::new(3));
    until("it leads", || cluster.server(2).node().is_serving());
    assert_eq!(stats(&cluster, 2).snapshots_installed, 1);
    let space = cluster.server(2).node().default_namespace();
    assert!(space.get("key-299", Read::Linearizable).unwrap().is_some(), "I1: what was acknowledged is there");
    let written = space.append("once", Expect::Version(1), "y").unwrap().wait().unwrap();
    assert_eq!(written.outcome, Outcome::Applied { version: 2 });
    all_are_the_same(&cluster);
    (0..3).for_each(|index| cluster.stop(index));
}

/// D24.
#[test]
fn a_staged_part_that_rots_is_found_before_it_is_used_and_it_alone_is_fetched_again() {
    let mut cluster = behind(&with_rate(3_000_000), 400);
    cluster.start(2);
    let path = parts(&cluster, 2);
    until("some parts are there", || length(&path) > 2_500_000);
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_200_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1_200_000).unwrap();
    until("the snapshot is installed", || stats(&cluster, 2).snapshots_installed == 1);
    let found = stats(&cluster, 2);
    assert_eq!(found.snapshot_parts_damaged, 1);
    assert!(found.snapshot_bytes_taken < 400 * VALUE_BYTES as u64 + 2_500_000, "no more than that: {found:?}");
    all_are_the_same(&cluster);
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn feeds_and_followers_of_clients_hear_that_their_place_in_the_log_is_gone() {
    let mut cluster = behind(&with_rate(6_000_000), 300);
    cluster.start(2);
    let space = cluster.server(2).node().default_namespace();
    let mut feed = space.subscribe(Since::Beginning, Filter::All).unwrap();
    let gone = loop {
        match feed.wait_for(PATIENCE) {
            Ok(Some(change)) => assert!(change.lsn.get() < 20, "what it had before: {}", change.lsn),
            Ok(None) => panic!("it waits for nothing"),
            // While the state is replaced: ask again.
            Err(FeedError::Read(ReadError::Replaced { .. })) => {}
            Err(error) => break error,
        }
    };
    let begins = stats(&cluster, 2).released;
    assert!(matches!(gone, FeedError::Compacted { oldest, .. } if oldest == begins.next()), "{gone} {begins}");
    assert_eq!(gone.code(), 6201, "{gone}");
    let mut feed = space.subscribe(Since::Oldest, Filter::All).unwrap();
    put(cluster.server(0).node(), 7777);
    assert!(feed.wait_for(PATIENCE).unwrap().is_some());
    drop(feed);
    all_are_the_same(&cluster);
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn each_of_several_nodes_lets_its_own_log_go_and_who_keeps_up_never_needs_a_snapshot() {
    let mut cluster = Cluster::limited(SMALL);
    until("the leader serves", || cluster.server(0).node().is_serving());
    (0..100).for_each(|number| put(cluster.server(0).node(), number));
    for index in 0..3 {
        cluster.server(index).node().compact().unwrap();
        until("each lets its own go", || stats(&cluster, index).released.get() > 50);
    }
    (100..150).for_each(|number| put(cluster.server(0).node(), number));
    all_are_the_same(&cluster);
    assert!((0..3).all(|index| stats(&cluster, index).snapshots_installed == 0), "who keeps up is fed by the log");
    (0..3).for_each(|index| cluster.stop(index));
}

mod full_disk {
    use super::*;
    use crate::full_disk::{directory, inside};
    use std::process::Command;

    /// D10, of the receiver: it says what it needs, waits, and goes on when there is room.
    #[test]
    fn a_snapshot_that_has_no_room_waits_for_it_and_harms_nobody() {
        inside("snapshots::full_disk::inner", "node-2/snapshots", 4);
    }

    #[test]
    #[ignore = "part of the test above, which makes its file system"]
    fn inner() {
        let place = directory();
        let small = place.join("node-2/snapshots");
        let mut cluster = Cluster::in_place(&with_rate(0), &place);
        fall_behind(&mut cluster, 300);
        cluster.start(2);
        until("it was offered one", || stats(&cluster, 0).snapshots_given > 0);
        (0..50).for_each(|number| put(cluster.server(0).node(), 10_000 + number));
        let found = stats(&cluster, 2);
        assert!(found.snapshots_installed == 0 && found.failure.is_none(), "{found:?}");
        assert!(length(&parts(&cluster, 2)) < 4 << 20);
        let space = cluster.server(2).node().default_namespace();
        assert!(space.get("key-0", Read::Eventual).is_ok(), "what it has is read");
        let remount = ["-o", "remount,size=64m", small.to_str().unwrap()];
        assert!(Command::new("mount").args(remount).status().unwrap().success());
        until("it goes on", || stats(&cluster, 2).snapshots_installed == 1);
        all_are_the_same(&cluster);
        (0..3).for_each(|index| cluster.stop(index));
    }
}

//! Linearizable reads among several nodes: a majority confirms that the one who is asked still leads.

use crate::cluster::{Cluster, until};
use std::time::Duration;
use tokio::task::block_in_place;
use towline::client::{Client, ClientOptions, Route};
use towline::model::{NodeId, Read, Scan};
use towline::node::{Namespace, ReadError};

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(600);

fn serving() -> Cluster {
    let cluster = Cluster::new();
    until("the leader serves", || cluster.server(0).node().is_serving());
    cluster
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn default(cluster: &Cluster, index: usize) -> Namespace {
    cluster.server(index).node().default_namespace()
}

#[test]
fn i7_a_read_of_the_leader_shows_what_was_acknowledged_and_a_follower_says_who_leads() {
    let mut cluster = serving();
    let space = default(&cluster, 0);
    for number in 0..50 {
        space.put("k", number.to_string()).unwrap().wait().unwrap();
        assert_eq!(space.get("k", Read::Linearizable).unwrap().unwrap().value, number.to_string());
    }
    assert_eq!(space.scan(&Scan::all(), Read::Linearizable).unwrap().entries.len(), 1);
    let refused = default(&cluster, 1).get("k", Read::Linearizable).unwrap_err();
    assert!(matches!(refused, ReadError::NotLeader(leader) if leader == NodeId::new(1)), "{refused}");
    // Of three, one may be gone.
    cluster.stop(2);
    assert!(space.get("k", Read::Linearizable).unwrap().is_some());
    (0..2).for_each(|index| cluster.stop(index));
    assert!(matches!(space.get("k", Read::Linearizable), Err(ReadError::Closed)));
}

#[test]
fn i7_without_a_majority_no_read_is_linearizable_and_all_that_wait_go_on_when_it_is_back() {
    let mut cluster = serving();
    default(&cluster, 0).put("k", "v").unwrap().wait().unwrap();
    (1..3).for_each(|index| cluster.stop(index));
    let hasty = default(&cluster, 0).reading_within(Duration::from_millis(200));
    let unconfirmed = hasty.get("k", Read::Linearizable).unwrap_err();
    assert!(matches!(unconfirmed, ReadError::Unconfirmed { .. }), "{unconfirmed}");
    assert_eq!(unconfirmed.code(), 6108);
    assert_eq!(hasty.get("k", Read::Eventual).unwrap().unwrap().value, "v", "others are served");
    let patient = default(&cluster, 0).reading_within(LONG);
    let read = |space: Namespace| move || space.get("k", Read::Linearizable).map(|found| found.unwrap().value);
    let waiting: Vec<_> = (0..20).map(|_| std::thread::Builder::new().spawn(read(patient.clone())).unwrap()).collect();
    cluster.start(1);
    for thread in waiting {
        assert_eq!(thread.join().unwrap().unwrap(), "v");
    }
    (0..2).for_each(|index| cluster.stop(index));
}

#[test]
fn i7_clients_elsewhere_read_so_too_and_those_that_wait_hold_up_nobody() {
    let mut cluster = serving();
    run(async {
        let options = ClientOptions { request_timeout: LONG, ..ClientOptions::default() };
        let address = cluster.server(0).address().to_string();
        let client = Client::connect([address], options).await.unwrap();
        let space = client.namespace("default");
        for number in 0..50 {
            space.put("k", number.to_string()).await.unwrap().await.unwrap();
            assert_eq!(space.get("k", Read::Linearizable).await.unwrap().unwrap().value, number.to_string());
        }
        let snapshot = space.snapshot(Read::Linearizable).await.unwrap();
        assert_eq!(snapshot.get("k").await.unwrap().unwrap().value, "49");
        drop(snapshot);
        block_in_place(|| (1..3).for_each(|index| cluster.stop(index)));
        let mut waiting: Vec<_> = (0..200)
            .map(|_| {
                let space = client.namespace("default");
                tokio::spawn(async move { space.get("k", Read::Linearizable).await })
            })
            .collect();
        let server = cluster.server(0);
        block_in_place(|| until("all of them wait", || server.stats().requests == 200));
        assert_eq!(space.get("k", Read::Eventual).await.unwrap().unwrap().value, "49");
        assert!(client.status().await.is_ok());
        // One that nobody waits for any more leaves.
        for gone in waiting.drain(100..) {
            gone.abort();
        }
        block_in_place(|| until("half of them have left", || server.stats().requests == 100));
        block_in_place(|| cluster.start(2));
        for read in waiting {
            assert_eq!(read.await.unwrap().unwrap().unwrap().value, "49");
        }
        client.close().await.unwrap();
    });
    cluster.stop(0);
    cluster.stop(2);
}

#[test]
fn i7_a_follower_shows_what_is_no_older_than_the_read_allows_and_says_so_where_it_can_t_know() {
    let mut cluster = serving();
    let space = default(&cluster, 0);
    let (newest, old) = (Read::MaxStaleness(Duration::ZERO), Read::MaxStaleness(LONG));
    for number in 0..50 {
        space.put("k", number.to_string()).unwrap().wait().unwrap();
        for index in 0..3 {
            let read = default(&cluster, index).get("k", newest.clone()).unwrap().unwrap();
            assert_eq!(read.value, number.to_string(), "node {}", index + 1);
        }
    }
    assert_eq!(default(&cluster, 1).scan(&Scan::all(), newest.clone()).unwrap().entries.len(), 1);
    cluster.stop(0);
    // Nobody leads. What was known is known: it is some moments old.
    let follower = default(&cluster, 1).reading_within(Duration::from_millis(200));
    assert_eq!(follower.get("k", old).unwrap().unwrap().value, "49");
    let refused = follower.get("k", newest).unwrap_err();
    assert!(matches!(refused, ReadError::TooOld { age: Some(age), .. } if age < LONG), "{refused}");
    assert_eq!(refused.code(), 6110);
    // Nor does it wait for longer than it is asked to; and who comes to lead answers those who wait.
    let patient = default(&cluster, 1).reading_within(LONG);
    let waiting =
        std::thread::Builder::new().spawn(move || patient.get("k", Read::MaxStaleness(Duration::ZERO))).unwrap();
    cluster.start(0);
    assert_eq!(waiting.join().unwrap().unwrap().unwrap().value, "49");
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn i7_a_follower_that_was_just_opened_asks_before_it_shows_anything() {
    let mut cluster = serving();
    default(&cluster, 0).put("k", "1").unwrap().wait().unwrap();
    cluster.stop(2);
    default(&cluster, 0).put("k", "2").unwrap().wait().unwrap();
    cluster.stop(0);
    cluster.start(2);
    let hasty = default(&cluster, 2).reading_within(Duration::from_millis(200));
    let refused = hasty.get("k", Read::MaxStaleness(LONG)).unwrap_err();
    assert!(matches!(refused, ReadError::TooOld { age: None, .. }), "it has asked nobody in this life: {refused}");
    cluster.start(0);
    let read = default(&cluster, 2).get("k", Read::MaxStaleness(LONG)).unwrap();
    assert_eq!(read.unwrap().value, "2", "a day may have passed while it was away");
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn i7_a_client_that_reaches_a_follower_only_reads_what_is_no_older_than_it_allows() {
    let mut cluster = serving();
    let space = default(&cluster, 0);
    run(async {
        let options =
            ClientOptions { route: Route::Any, request_timeout: Duration::from_secs(60), ..ClientOptions::default() };
        let client = Client::connect([cluster.server(2).address().to_string()], options).await.unwrap();
        let remote = client.namespace("default");
        for number in 0..50 {
            block_in_place(|| space.put("k", number.to_string()).unwrap().wait().unwrap());
            let read = remote.get("k", Read::MaxStaleness(Duration::ZERO)).await.unwrap();
            assert_eq!(read.unwrap().value, number.to_string());
        }
        let snapshot = remote.snapshot(Read::MaxStaleness(Duration::from_secs(5))).await.unwrap();
        assert!(snapshot.get("k").await.unwrap().is_some());
        drop(snapshot);
        client.close().await.unwrap();
    });
    (0..3).for_each(|index| cluster.stop(index));
}

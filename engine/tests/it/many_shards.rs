//! Many shards among three nodes, named in the configuration: each has its leader, and loses nothing when that one stops.

use crate::cluster::{Cluster, PATIENCE, until};
#[cfg(feature = "cli")]
use crate::processes::{Processes, free_addresses};
#[cfg(feature = "cli")]
use crate::proxy::{Mode, Proxy};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use towline::client::{Client, ClientError, ClientOptions, Namespace};
use towline::model::call::ShardPlace;
use towline::model::request::Direction;
use towline::model::{Expect, NodeId, Read, Scan, ShardId, Write};
use towline::node::WriteRefused;

/// Each letter of the keys below has a shard of its own.
const ORDERS: &str = "[[namespace]]\nname = \"orders\"\nsplit_at = [\"b\", \"c\", \"d\", \"e\", \"f\"]\n";
const LETTERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

async fn client(cluster: &Cluster) -> Client {
    Client::connect(cluster.addresses(), options()).await.unwrap()
}

fn options() -> ClientOptions {
    ClientOptions { request_timeout: PATIENCE, connect_timeout: PATIENCE, ..ClientOptions::default() }
}

/// Whether each shard of each namespace has a leader that takes writes, among these nodes.
fn all_are_led(cluster: &Cluster, nodes: &[usize]) -> bool {
    let mut led = BTreeMap::<ShardId, usize>::new();
    for index in nodes {
        for shard in cluster.server(*index).node().stats().unwrap().shards {
            *led.entry(shard.shard).or_default() += usize::from(shard.is_serving);
        }
    }
    led.values().all(|leaders| *leaders == 1)
}

async fn places(orders: &Namespace) -> Vec<ShardPlace> {
    orders.shards().await.unwrap()
}

fn leaders(places: &[ShardPlace]) -> BTreeSet<u64> {
    places.iter().filter_map(|place| place.leader).map(NodeId::get).collect()
}

/// Puts a key of each shard, each acknowledged, by a client that finds its leader.
async fn put(orders: &Namespace, number: u32) {
    for letter in LETTERS {
        let write = Write::new().put(format!("{letter}-{number:03}"), number.to_string());
        let end = Instant::now() + PATIENCE;
        loop {
            match orders.write(&write).await.unwrap().await {
                Ok(written) => break written.outcome.applied().map(drop).unwrap(),
                Err(refused) => assert!(refused.has_no_effect() && Instant::now() < end, "{letter}: {refused}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn check(orders: &Namespace, numbers: std::ops::Range<u32>) {
    for letter in LETTERS {
        for number in numbers.clone() {
            let key = format!("{letter}-{number:03}");
            let found = orders.get(&key, Read::Linearizable).await.unwrap();
            assert_eq!(found.map(|found| found.value), Some(number.to_string().into()), "{key}");
        }
    }
}

/// What a plain write was answered is applied where a plain read of its key goes, which says how far that shard is.
async fn check_plain_reads(cluster: &Cluster) {
    let options = ClientOptions { namespace: "orders".into(), ..options() };
    let plain = Client::connect(cluster.addresses(), options).await.unwrap();
    for letter in LETTERS {
        let stream = format!("{letter}-stream");
        let write = Write::new().append(stream.clone(), Expect::Any, "1");
        let written = plain.write(write.record()).await.unwrap().await.unwrap();
        let page = plain.read_stream(stream.as_bytes(), 1, Direction::Forward, 10).await.unwrap();
        assert_eq!(page.head, 1, "{stream}");
        assert!(page.applied >= written.lsn, "{stream}: {} at {}", written.lsn, page.applied);
    }
}

fn digests(cluster: &Cluster, index: usize) -> Vec<(ShardId, u64, [u8; 16])> {
    let digests = cluster.server(index).node().namespace("orders").unwrap().digest().unwrap();
    digests.into_iter().map(|(shard, at, digest)| (shard, at.lsn.get(), digest)).collect()
}

#[test]
fn i1_shards_led_by_different_nodes_lose_nothing_when_one_stops_and_its_shards_are_assigned_to_others() {
    let mut cluster = Cluster::limited(ORDERS);
    until("every shard is led", || all_are_led(&cluster, &[0, 1, 2]));
    let (client, stopped) = run(async {
        let client = client(&cluster).await;
        let orders = client.namespace("orders");
        let before = places(&orders).await;
        assert_eq!(leaders(&before), BTreeSet::from([1, 2, 3]), "each voter has its turn");
        for number in 0..20 {
            put(&orders, number).await;
        }
        check(&orders, 0..20).await;
        check_plain_reads(&cluster).await;
        let of_two = |place: &&ShardPlace| place.leader == Some(NodeId::new(2));
        let stopped: Vec<_> = before.iter().filter(of_two).map(|place| place.shard).collect();
        (client, stopped)
    });
    assert_eq!(stopped.len(), 2);
    cluster.stop(1);
    run(async {
        let (orders, third) = (client.namespace("orders"), NodeId::new(3));
        for shard in stopped {
            let assigned = orders.assign_leader(Some(shard), third, PATIENCE).await.unwrap();
            assert_eq!((assigned.shard, assigned.leader), (shard, third));
        }
        check(&orders, 0..20).await;
        for number in 20..40 {
            put(&orders, number).await;
        }
        check(&orders, 0..40).await;
    });
    cluster.start(1);
    until("all three have the same", || {
        let all = [0, 1, 2].map(|index| digests(&cluster, index));
        all[0] == all[1] && all[0] == all[2]
    });
    run(async {
        let orders = client.namespace("orders");
        assert_eq!(
            leaders(&places(&orders).await),
            BTreeSet::from([1, 3]),
            "who came back follows where another one was assigned"
        );
        put(&orders, 40).await;
        client.close().await.unwrap();
    });
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn what_is_of_one_shard_goes_to_its_leader_and_what_is_of_all_is_refused_where_several_lead() {
    let mut cluster = Cluster::limited(ORDERS);
    until("every shard is led", || all_are_led(&cluster, &[0, 1, 2]));
    // The embedding program hears of each shard by itself.
    let here = cluster.server(0).node().namespace("orders").unwrap();
    let answers = LETTERS.map(|letter| here.put(format!("{letter}-000"), "0").map(|receipt| receipt.wait().unwrap()));
    let refused = answers.iter().filter(|answer| matches!(answer, Err(WriteRefused::NotLeader(_)))).count();
    assert_eq!((answers.iter().filter(|answer| answer.is_ok()).count(), refused), (2, 4));
    run(async {
        let client = client(&cluster).await;
        let orders = client.namespace("orders");
        put(&orders, 0).await;
        let code = |error: ClientError| match error {
            ClientError::Refused(failure) => failure.code,
            other => panic!("{other}"),
        };
        assert_eq!(code(orders.scan(&Scan::all(), Read::Linearizable).await.unwrap_err()), 8035);
        assert_eq!(code(orders.multi_get(["a-000", "f-000"], Read::Linearizable).await.unwrap_err()), 8035);
        assert_eq!(code(orders.open_session().await.map(drop).unwrap_err()), 8035);
        // At a position, and eventually, every node answers of all shards: of those that others lead what it knows.
        let mut tries = 0..1000;
        loop {
            let token = orders.token().await.unwrap();
            let found = orders.scan(&Scan::all(), Read::AtLeast(token)).await.unwrap().entries.len();
            if found == 6 {
                break;
            }
            assert!(tries.next().is_some(), "it has {found} of 6 after ten seconds");
            sleep(Duration::from_millis(10)).await;
        }
        // What the error says to do: all of them at one node, which is not the one that leads the default namespace.
        for place in places(&orders).await {
            orders.assign_leader(Some(place.shard), NodeId::new(2), PATIENCE).await.unwrap();
        }
        asks_of_all(&orders, 6).await;
        client.close().await.unwrap();
    });
    (0..3).for_each(|index| cluster.stop(index));
}

/// What is about all keys, of which there are so many.
async fn asks_of_all(orders: &Namespace, keys: usize) {
    assert_eq!(orders.scan(&Scan::all(), Read::Linearizable).await.unwrap().entries.len(), keys);
    let snapshot = orders.snapshot(Read::Linearizable).await.unwrap();
    assert_eq!(snapshot.scan(&Scan::all()).await.unwrap().entries.len(), keys);
    let session = orders.open_session().await.unwrap();
    assert!(session.write(Write::new().put("a-999", "1")).await.unwrap().outcome.applied().is_ok());
    session.close().await.unwrap();
}

/// The story of a bug: it was asked of the node that leads the default namespace, which sent it on, and was asked again.
#[test]
fn what_is_about_all_keys_is_asked_of_the_node_that_leads_them_all() {
    let mut cluster = Cluster::limited("[[namespace]]\nname = \"orders\"\n");
    until("every shard is led", || all_are_led(&cluster, &[0, 1, 2]));
    run(async {
        let client = client(&cluster).await;
        let orders = client.namespace("orders");
        assert_eq!(leaders(&places(&orders).await), BTreeSet::from([3]), "node 1 leads the default namespace");
        orders.put("a-000", "0").await.unwrap().await.unwrap();
        asks_of_all(&orders, 1).await;
        client.close().await.unwrap();
    });
    (0..3).for_each(|index| cluster.stop(index));
}

/// The story of a bug: the client asked the first address who leads, and went on asking there: a node that is cut off from
/// the others answers, and does not know that another one leads by now.
#[cfg(feature = "cli")]
#[test]
fn a_leader_that_is_cut_off_and_answers_its_clients_is_left_for_the_one_that_was_assigned() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let addresses = free_addresses(3);
    let pairs = (0..3).flat_map(|from| (0..3).map(move |to| (from, to)));
    let ways: BTreeMap<_, _> =
        pairs.map(|(from, to)| ((from, to), Proxy::new(runtime.handle(), addresses[to].clone()))).collect();
    let limits = format!("quorum_seconds = 1\n{ORDERS}");
    let all = Processes::start_with(addresses, &limits, |from, to| ways[&(from, to)].address.clone());
    all.until("node 1 leads", 0, |status| status["serving"] == true);
    runtime.block_on(async {
        let client = all.client_within(Duration::from_secs(20)).await;
        let (orders, second) = (client.namespace("orders"), NodeId::new(2));
        put(&orders, 0).await;
        let of_first = |place: &ShardPlace| place.leader == Some(NodeId::new(1));
        let cut: Vec<_> = places(&orders).await.into_iter().filter(of_first).map(|place| place.shard).collect();
        assert_eq!(cut.len(), 2);
        for ((from, to), way) in &ways {
            if *from == 0 || *to == 0 {
                way.set(Mode::Cut);
            }
        }
        for shard in cut {
            orders.assign_leader(Some(shard), second, PATIENCE).await.unwrap();
        }
        check(&orders, 0..1).await;
        put(&orders, 1).await;
        check(&orders, 0..2).await;
        assert_eq!(client.node().await, Some(NodeId::new(1)), "of what it is asked otherwise nothing was refused");
        client.close().await.unwrap();
    });
}

/// Of a still cluster in so long, pings included: a frame of 200 shards would be 6,400 bytes at the least.
const STILL_BYTES: u64 = 1000;

/// Bytes that the nodes sent one another in so long, once all is still.
#[expect(clippy::disallowed_methods, reason = "what is counted is what comes in a time")]
fn bytes_in_peace(namespaces: &str) -> u64 {
    let mut cluster = Cluster::limited(namespaces);
    until("every shard is led", || all_are_led(&cluster, &[0, 1, 2]));
    let applied = |index: usize| {
        let stats = cluster.server(index).node().stats().unwrap();
        stats.shards.into_iter().map(|shard| (shard.shard, shard.applied)).collect::<Vec<_>>()
    };
    until("all followers have everything", || applied(0) == applied(1) && applied(0) == applied(2));
    let sent = || (0..3).map(|index| cluster.server(index).node().status().unwrap().wire_bytes_sent).sum::<u64>();
    let sent_in = |time| {
        let before = sent();
        std::thread::sleep(time);
        sent() - before
    };
    // The last acknowledgements are on their way.
    let mut tries = 0..200;
    while sent_in(Duration::from_millis(300)) > STILL_BYTES {
        assert!(tries.next().is_some(), "after a minute they still have something to say");
    }
    // Of two, the one in which nothing else happened.
    let bytes = sent_in(Duration::from_secs(3)).min(sent_in(Duration::from_secs(3)));
    (0..3).for_each(|index| cluster.stop(index));
    bytes
}

#[test]
fn idle_shards_send_nothing_and_a_heartbeat_is_of_a_pair_of_nodes() {
    let (one, many) = (bytes_in_peace(""), bytes_in_peace("[[namespace]]\nname = \"idle\"\nshards = 200\n"));
    assert!(one > 0, "the nodes ask one another whether they are there");
    assert!(many.abs_diff(one) <= STILL_BYTES, "{many} bytes with 201 shards, {one} with one");
}

/// What each shard may have on its way to a slow follower is more, of all together, than the connection takes. That closed it, for all of
/// them, again and again.
#[cfg(feature = "cli")]
#[test]
fn a_follower_behind_a_slow_way_keeps_its_connection_however_many_shards_it_is_fed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let addresses = free_addresses(3);
    let way = Proxy::new(runtime.handle(), addresses[2].clone());
    // As much of each as a follower's window holds, and a little more.
    const WRITES: u32 = 36;
    let letters: Vec<char> = ('a'..='n').collect();
    let split_at: Vec<String> = letters[1..].iter().map(|letter| format!("{letter:?}").replace('\'', "\"")).collect();
    let limits = format!("[[namespace]]\nname = \"orders\"\nsplit_at = [{}]\n", split_at.join(", "));
    let seen = |from, to: usize| if (from, to) == (0, 2) { way.address.clone() } else { addresses[to].clone() };
    let all = Processes::start_with(addresses.clone(), &limits, seen);
    all.until("node 1 leads", 0, |status| status["serving"] == true);
    runtime.block_on(async {
        let client = all.client_within(PATIENCE).await;
        let orders = client.namespace("orders");
        for place in places(&orders).await {
            orders.assign_leader(Some(place.shard), NodeId::new(1), PATIENCE).await.unwrap();
        }
        way.set(Mode::Slow);
        // Not alike, so that they do not shrink.
        let value = |number: u32| -> Vec<u8> {
            (0..65_536_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) ^ number).to_le_bytes()).collect()
        };
        for number in 0..WRITES {
            let mut receipts = Vec::new();
            for letter in &letters {
                let write = Write::new().put(format!("{letter}-{number:03}"), value(number * 131 + u32::from(*letter)));
                receipts.push(orders.write(&write).await.unwrap());
            }
            for receipt in receipts {
                receipt.await.unwrap();
            }
        }
        way.set(Mode::Open);
        client.close().await.unwrap();
    });
    // It has all: it can lead each of them at once, and lacks nothing.
    runtime.block_on(async {
        let client = all.client_within(PATIENCE).await;
        let orders = client.namespace("orders");
        for place in places(&orders).await {
            orders.assign_leader(Some(place.shard), NodeId::new(3), PATIENCE).await.unwrap();
        }
        for letter in &letters {
            let key = format!("{letter}-{:03}", WRITES - 1);
            assert!(orders.get(&key, Read::Linearizable).await.unwrap().is_some(), "{key}");
        }
    });
    assert!(!all.said(0).contains("closing the connection"), "{}", all.said(0));
}

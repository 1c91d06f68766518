//! A node that is behind in many shards: fed at a pace while something is written, and as fast as can be once writes need it.

use crate::cluster::{Cluster, PATIENCE, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use towline::client::{Client, ClientOptions};
use towline::model::{NodeId, ShardId};

/// Each with more than one read of the log takes: six values of this many bytes.
const SHARDS: usize = 48;
const VALUES: u32 = 6;
const VALUE_BYTES: u32 = 256 * 1024;
/// At this pace all of it takes over a minute.
const LIMITS: &str = "catch_up_bytes_per_second = 1_048_576\n";

/// All shards at one node.
fn lead_at(cluster: &Cluster, node: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options =
            ClientOptions { request_timeout: PATIENCE, connect_timeout: PATIENCE, ..ClientOptions::default() };
        let client = Client::connect(cluster.addresses(), options).await.unwrap();
        let orders = client.namespace("orders");
        for place in orders.shards().await.unwrap() {
            orders.assign_leader(Some(place.shard), NodeId::new(node), PATIENCE).await.unwrap();
        }
        client.close().await.unwrap();
    });
}

/// One key in each shard, named by its two digits.
fn put_in_each(cluster: &Cluster, leader: usize, value: impl Fn(usize) -> Vec<u8>, within: Duration) {
    let orders = cluster.server(leader).node().namespace("orders").unwrap();
    let receipts: Vec<_> =
        (0..SHARDS).map(|shard| orders.put(format!("{shard:02}-key"), value(shard)).unwrap()).collect();
    for (shard, receipt) in receipts.into_iter().enumerate() {
        assert!(receipt.wait_for(within).unwrap().is_some(), "shard {shard}: no answer within {within:?}");
    }
}

fn applied(cluster: &Cluster, node: usize) -> Vec<(ShardId, u64)> {
    let shards = cluster.server(node).node().stats().unwrap().shards;
    shards.iter().map(|shard| (shard.shard, shard.applied.get())).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test lets time go by in which it is fed")]
fn who_is_behind_is_fed_at_its_pace_and_in_every_shard_at_once_when_writes_need_it() {
    let points: Vec<String> = (1..SHARDS).map(|shard| format!("\"{shard:02}\"")).collect();
    let space = format!("[[namespace]]\nname = \"orders\"\nsplit_at = [{}]\n", points.join(", "));
    let mut cluster = Cluster::limited(&format!("{LIMITS}{space}"));
    until("the default shard is led", || cluster.server(0).node().is_serving());
    lead_at(&cluster, 1);
    cluster.stop(2);
    for number in 0..VALUES {
        // Not alike, so that they do not shrink.
        let value = |shard: usize| -> Vec<u8> {
            let seed = number * 131 + u32::try_from(shard).unwrap();
            (0..VALUE_BYTES / 4).flat_map(|at| (at.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes()).collect()
        };
        put_in_each(&cluster, 0, value, PATIENCE);
    }
    // Of what its followers lack a leader has nothing in memory that it did not write.
    lead_at(&cluster, 2);

    // Something is written all the time.
    let (ends, small) = (Arc::new(AtomicBool::new(false)), cluster.server(1).node().namespace("orders").unwrap());
    let is_over = Arc::clone(&ends);
    let writer = std::thread::spawn(move || {
        while !is_over.load(Ordering::SeqCst) {
            small.put("00-small", "x").unwrap().wait().unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    cluster.start(2);
    std::thread::sleep(Duration::from_secs(5));
    let (second, third) = (applied(&cluster, 1), applied(&cluster, 2));
    let behind = second.iter().zip(&third).filter(|(here, there)| here.0 == there.0 && here.1 > there.1).count();
    assert!(behind > SHARDS / 2, "it is fed at its pace: in {behind} shards it lacks something");

    // From here on a majority takes both of those that are left. At the pace the last shard would wait for a minute.
    cluster.stop(0);
    put_in_each(&cluster, 1, |_| b"more".to_vec(), Duration::from_secs(30));
    ends.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    [1, 2].into_iter().for_each(|index| cluster.stop(index));
}

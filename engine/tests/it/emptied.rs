//! Disks of real servers that are lost (fault O6): a vote is a disk's.

use crate::processes::{PATIENCE, Processes, free_addresses};
use serde_json::Value;
use std::process::Output;
use tokio::runtime::Runtime;
use towline::client::Client;
use towline::model::Read;

/// Writes so many keys behind those before, each acknowledged.
async fn write(client: &Client, numbers: std::ops::Range<u32>) {
    let space = client.namespace("default");
    for number in numbers {
        space.put(format!("{number:08}"), "x").await.unwrap().await.unwrap();
    }
}

async fn count(client: &Client, numbers: std::ops::Range<u32>) -> usize {
    let keys = numbers.map(|number| format!("{number:08}"));
    let found = client.namespace("default").multi_get(keys, Read::Linearizable).await.unwrap();
    found.iter().flatten().count()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn term(status: &Value) -> u64 {
    status["epoch"]["term"].as_u64().unwrap_or(0)
}

/// Three servers, of which node 1 leads, and 50 keys at each.
fn begun() -> (Runtime, Processes, Client) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let all = Processes::start_all();
    all.until("node 1 leads", 0, |status| status["serving"] == true);
    let client = runtime.block_on(all.client());
    runtime.block_on(write(&client, 0..50));
    (runtime, all, client)
}

/// In the first epoch behind that one nobody has the vote of the lost disk, in the second one the new disk has it.
fn has_its_vote_again(all: &Processes, leader: usize, before: u64) {
    let what = "the disk that is here has its vote";
    all.until(what, leader, |status| status["serving"] == true && term(status) >= before + 2);
}

/// What node 1 and node 3 acknowledged is at neither of the two that are left: nobody can lead.
#[test]
fn i1_a_voter_whose_disk_was_emptied_helps_nobody_to_lead_and_votes_again_when_it_has_everything() {
    let (runtime, mut all, client) = begun();
    all.kill(1);
    runtime.block_on(write(&client, 50..100));
    all.kill(0);
    all.kill(2);
    all.empty(2);
    all.start(1);
    all.start(2);
    for leader in ["2", "3"] {
        let refused = all.towline(&["shard", "assign", "--leader", leader, "--within", "2"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("TW-8030"), "{}", said(&refused));
    }
    // The one that has it all is back.
    all.start(0);
    let assigned = all.assign("2");
    assert_eq!(assigned["leader"], 2);
    assert_eq!(runtime.block_on(count(&client, 0..100)), 100, "I1");

    // It is fed, and the leader gives it its vote: then node 1 is not needed.
    has_its_vote_again(&all, 1, assigned["epoch"]["term"].as_u64().unwrap());
    all.kill(0);
    runtime.block_on(write(&client, 100..150));
    all.assign("3");
    assert_eq!(runtime.block_on(count(&client, 0..150)), 150, "I1");
    all.start(0);
    let end = all.status(2)["end"].clone();
    (0..3).for_each(|place| all.until("all have applied all", place, |status| status["applied"] == end));
    let digests = all.towline(&["digest", "--json"]);
    assert!(digests.status.success(), "I4: {}", said(&digests));
}

/// It promised nobody anything, as far as it knows, and the file says that it begins: not on what others hold. Two lost disks of
/// three would take with them what they alone acknowledged.
#[test]
fn i1_the_first_leader_comes_back_with_an_empty_disk_and_leads_nobody() {
    let (runtime, mut all, client) = begun();
    all.kill(0);
    all.empty(0);
    // One of the two that have everything is away: the other one and the empty disk are no majority.
    all.kill(1);
    all.start(0);
    let refused = all.towline(&["shard", "assign", "--leader", "1", "--within", "2"]);
    assert!(said(&refused).contains("TW-8030: node 1 reaches 2 of 3"), "{}", said(&refused));
    all.start(1);
    let refused = all.towline(&["shard", "assign", "--leader", "1", "--within", "60"]);
    assert!(said(&refused).contains("TW-8034"), "{}", said(&refused));
    let assigned = all.assign("2");
    assert_eq!(runtime.block_on(count(&client, 0..50)), 50, "I1");
    // Its new disk gets its vote.
    has_its_vote_again(&all, 1, assigned["epoch"]["term"].as_u64().unwrap());
    all.kill(2);
    runtime.block_on(write(&client, 50..60));
    // A majority of the disks is lost: what is left can't tell what was acknowledged, and nobody leads.
    (0..2).for_each(|place| all.kill(place));
    all.empty(0);
    all.empty(1);
    (0..3).for_each(|place| all.start(place));
    for leader in ["1", "2", "3"] {
        let refused = all.towline(&["shard", "assign", "--leader", leader, "--within", "3"]);
        let told = said(&refused);
        assert!(told.contains("TW-8034") || told.contains("TW-8030"), "{told}");
    }
    assert!((0..3).all(|place| all.status(place)["serving"] == false));
}

#[test]
fn a_cluster_begins_when_every_node_is_there_and_then_a_majority_is_enough() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let addresses = free_addresses(3);
    let direct = addresses.clone();
    let mut all = Processes::prepare(addresses, "", |_, to| direct[to].clone());
    all.start(0);
    all.start(1);
    all.until("two are there", 0, |status| status["node"] == 1);
    let refused = all.towline(&["shard", "assign", "--leader", "1", "--within", "2"]);
    assert!(said(&refused).contains("of 3 voters") && said(&refused).contains("it takes 3"), "{}", said(&refused));
    all.start(2);
    all.until("it begins", 0, |status| status["serving"] == true);
    let client = runtime.block_on(all.client_within(PATIENCE));
    runtime.block_on(write(&client, 0..10));
    (0..3).for_each(|place| all.kill(place));
    all.start(0);
    all.start(2);
    all.until("two are enough", 0, |status| status["serving"] == true);
    assert_eq!(runtime.block_on(count(&client, 0..10)), 10);
}

/// Its own log says that it has a vote, and node 2 has nothing of what its successor and node 1 acknowledged.
#[test]
fn i1_a_disk_that_is_put_back_in_the_place_of_its_successor_helps_nobody_to_lead() {
    let (runtime, mut all, client) = begun();
    let before = term(&all.status(0));
    all.kill(2);
    all.change_disks(2);
    all.start(2);
    has_its_vote_again(&all, 0, before);
    all.kill(1);
    runtime.block_on(write(&client, 50..100));
    all.kill(0);
    all.kill(2);
    all.change_disks(2);
    all.start(1);
    all.start(2);
    let refused = all.towline(&["shard", "assign", "--leader", "3", "--within", "3"]);
    assert!(said(&refused).contains("TW-8031"), "it asked, and is told of its successor: {}", said(&refused));
    let refused = all.towline(&["shard", "assign", "--leader", "2", "--within", "2"]);
    assert!(said(&refused).contains("TW-8030"), "{}", said(&refused));
    // The one that has it all is back: also the disk that was put back may lead then, by what it is told.
    all.start(0);
    let assigned = all.assign("3");
    assert_eq!(runtime.block_on(count(&client, 0..100)), 100, "I1");
    has_its_vote_again(&all, 2, assigned["epoch"]["term"].as_u64().unwrap());
    all.kill(0);
    runtime.block_on(write(&client, 100..150));
    assert_eq!(runtime.block_on(count(&client, 0..150)), 150, "I1");
}

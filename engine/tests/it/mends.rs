//! What rots in a node's log comes back from another one, or is not needed any more (faults D12 to D16).

use crate::cluster::{Cluster, PATIENCE, batches, until};
use crate::noise::noise;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use towline::model::Read;
use towline::node::Node;

const VALUE_BYTES: usize = 20_000;
/// A log that keeps little, and a state that is flushed all the time.
const LITTLE: &str = "[log]\nretention_bytes = 100_000\nfollower_bytes = 200_000_000\nreplay_bytes = 100_000";
const MUCH: &str = "[log]\nreplay_bytes = 100_000";

fn value(number: u64) -> Vec<u8> {
    noise(number, VALUE_BYTES)
}

fn put(node: &Node, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let receipt = node.default_namespace().put(format!("key-{number}"), value(number)).unwrap();
        assert!(receipt.wait_for(PATIENCE).unwrap().is_some(), "an answer in time");
    }
}

/// A bit of this value becomes another one where the log has it, under a node that runs, perhaps.
fn rot(wal: &Path, number: u64) {
    let wanted = value(number);
    for entry in std::fs::read_dir(wal).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(64).position(|window| window == &wanted[..64]) else { continue };
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(at as u64 + 40)).unwrap();
        file.write_all(&[bytes[at + 40] ^ 4]).unwrap();
        return;
    }
    panic!("the log of {} does not have value {number}", wal.display());
}

/// A cluster that has so many values in every log and in every state.
fn with_values(cluster: Cluster, count: u64) -> Cluster {
    until("the leader serves", || cluster.server(0).node().is_serving());
    put(cluster.server(0).node(), 0..count);
    all_are_the_same(&cluster);
    cluster
}

fn all_are_the_same(cluster: &Cluster) {
    let end = cluster.server(0).node().status().unwrap().end;
    until("everybody applied everything", || (0..3).all(|index| cluster.applied(index) == end));
    let digests: Vec<_> = (0..3).map(|index| cluster.server(index).node().digest().unwrap()).collect();
    assert!(digests[0] == digests[1] && digests[0] == digests[2], "I4: {digests:?}");
}

/// Stops all, and looks at their files.
fn logs_are_the_same(mut cluster: Cluster) {
    (0..3).for_each(|index| cluster.stop(index));
    let logs: Vec<_> = (0..3).map(|index| batches(&cluster.log_path(index))).collect();
    assert!(!logs[0].is_empty() && logs[0] == logs[1] && logs[0] == logs[2], "I2: byte by byte");
}

#[test]
fn what_rots_in_a_followers_log_comes_back_from_another_node() {
    let mut cluster = with_values(Cluster::new(), 30);
    cluster.stop(2);
    rot(&cluster.log_path(2), 7);
    rot(&cluster.log_path(2), 20);
    cluster.start(2);
    // It takes nothing behind the damage before that is mended.
    put(cluster.server(0).node(), 30..33);
    all_are_the_same(&cluster);
    logs_are_the_same(cluster);
}

/// What an opening finds damaged leaves a doubt, so it takes all voters. The one that was away needs from it what rotted.
#[test]
fn i1_a_leader_whose_log_rotted_has_it_mended_before_it_leads_and_feeds_it_then() {
    let mut cluster = with_values(Cluster::new(), 3);
    cluster.stop(2);
    put(cluster.server(0).node(), 3..30);
    cluster.stop(0);
    rot(&cluster.log_path(0), 11);
    cluster.start(0);
    cluster.start(2);
    until("the leader serves again", || cluster.server(0).node().is_serving());
    put(cluster.server(0).node(), 30..33);
    all_are_the_same(&cluster);
    logs_are_the_same(cluster);
}

#[test]
fn what_nobody_can_mend_is_given_up_where_the_state_has_it() {
    let mut cluster = Cluster::limited(LITTLE);
    until("the leader serves", || cluster.server(0).node().is_serving());
    cluster.stop(2);
    cluster.start_with(2, MUCH);
    put(cluster.server(0).node(), 0..50);
    all_are_the_same(&cluster);
    let released = |cluster: &Cluster, index| cluster.server(index).node().stats().unwrap().shards[0].released.get();
    for index in 0..3 {
        cluster.server(index).node().compact().unwrap();
    }
    until("the others let it go", || (0..2).all(|index| released(&cluster, index) > 30));
    assert!(released(&cluster, 2) < 5);
    cluster.stop(2);
    rot(&cluster.log_path(2), 7);
    cluster.start_with(2, MUCH);
    put(cluster.server(0).node(), 50..53);
    until("it is given up", || released(&cluster, 2) >= 8);
    all_are_the_same(&cluster);
    (0..3).for_each(|index| cluster.stop(index));
}

/// One record rots at all of them. Their states have it, so nothing is lost by it, and nobody needs it.
#[test]
fn i1_what_rots_in_every_log_and_is_in_every_state_stops_nobody() {
    let mut cluster = with_values(Cluster::new(), 30);
    for index in 0..3 {
        cluster.server(index).node().compact().unwrap();
        cluster.stop(index);
        rot(&cluster.log_path(index), 7);
    }
    (0..3).for_each(|index| cluster.start(index));
    until("the leader serves again", || cluster.server(0).node().is_serving());
    put(cluster.server(0).node(), 30..33);
    all_are_the_same(&cluster);
    for index in 0..3 {
        let space = cluster.server(index).node().default_namespace();
        for number in 0..33 {
            let found = space.get(format!("key-{number}"), Read::Eventual).unwrap();
            assert_eq!(found.map(|versioned| versioned.value), Some(value(number).into()), "I1: key-{number}");
        }
    }
    (0..3).for_each(|index| cluster.stop(index));
}

/// Nobody reads it, and no opening scans it: with the other copies it would be lost.
#[test]
fn d12_what_rots_at_rest_is_found_by_a_scrub_and_comes_back_from_another_node() {
    let cluster =
        with_values(Cluster::limited("[log]\nscrub_pause_seconds = 1\nscrub_bytes_per_second = 100_000_000"), 30);
    let scrub = |index| cluster.server(index).node().stats().unwrap().scrub;
    rot(&cluster.log_path(2), 7);
    rot(&cluster.log_path(2), 20);
    rot(&cluster.log_path(0), 11);
    for index in [0, 2] {
        until("a scrub finds it", || scrub(index).damaged_ranges > 0);
        let found = scrub(index).passes;
        until("another one finds it whole", || {
            let scrub = scrub(index);
            scrub.passes > found + 1 && scrub.last_pass_damaged_ranges == 0
        });
    }
    assert_eq!(scrub(1).damaged_ranges, 0);
    let damaged = |index| cluster.server(index).node().stats().unwrap().shards[0].damaged_ranges;
    until("the shards know", || [damaged(0), damaged(2)] == [0, 0]);
    put(cluster.server(0).node(), 30..33);
    all_are_the_same(&cluster);
    logs_are_the_same(cluster);
}

/// The file was closed in good order, with a footer, so no opening scans it: the applier is the first that reads it.
#[test]
fn d12_an_applier_that_comes_upon_rot_waits_for_another_node_and_goes_on() {
    let mut cluster = with_values(Cluster::limited("[log]\nscrub_bytes_per_second = 0"), 30);
    // A life later what was written before lies in a file that is full.
    cluster.stop(2);
    cluster.start(2);
    put(cluster.server(0).node(), 30..33);
    all_are_the_same(&cluster);
    cluster.stop(2);
    std::fs::remove_dir_all(cluster.path(2).join("state")).unwrap();
    rot(&cluster.log_path(2), 7);
    cluster.start(2);
    let end = cluster.server(0).node().status().unwrap().end;
    until("it has everything again", || {
        assert_eq!(cluster.server(2).node().failure(), None);
        cluster.applied(2) == end
    });
    all_are_the_same(&cluster);
    logs_are_the_same(cluster);
}

/// As before, and the others have let go of it: they have it in their states, and nobody in a log.
#[test]
fn d12_an_applier_that_comes_upon_rot_that_nobody_can_mend_is_given_anothers_state() {
    let [little, much] = [LITTLE, MUCH].map(|log| format!("{log}\nscrub_bytes_per_second = 0"));
    let mut cluster = Cluster::limited(&little);
    until("the leader serves", || cluster.server(0).node().is_serving());
    cluster.stop(2);
    cluster.start_with(2, &much);
    put(cluster.server(0).node(), 0..50);
    all_are_the_same(&cluster);
    cluster.stop(2);
    cluster.start_with(2, &much);
    // Nor does the leader have it in its memory.
    cluster.stop(0);
    cluster.start_with(0, &little);
    until("the leader serves again", || cluster.server(0).node().is_serving());
    put(cluster.server(0).node(), 50..53);
    all_are_the_same(&cluster);
    let released = |cluster: &Cluster, index| cluster.server(index).node().stats().unwrap().shards[0].released.get();
    (0..2).for_each(|index| cluster.server(index).node().compact().unwrap());
    until("the others let it go", || (0..2).all(|index| released(&cluster, index) > 30));
    assert!(released(&cluster, 2) < 5);
    cluster.stop(2);
    std::fs::remove_dir_all(cluster.path(2).join("state")).unwrap();
    rot(&cluster.log_path(2), 7);
    cluster.start_with(2, &much);
    let end = cluster.server(0).node().status().unwrap().end;
    until("it has everything again", || {
        assert_eq!(cluster.server(2).node().failure(), None);
        cluster.applied(2) == end
    });
    put(cluster.server(0).node(), 53..56);
    all_are_the_same(&cluster);
    (0..3).for_each(|index| cluster.stop(index));
}

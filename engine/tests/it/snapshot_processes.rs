//! Who gives a snapshot and who takes it, killed in the middle: both go on where they were.

use crate::noise::noise;
use crate::processes::{PATIENCE, Processes, free_addresses};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;
use towline::model::{Filter, Read, Since, Write};

/// Half a megabyte a second: there is a middle. Logs keep little, and the state is flushed all the time.
const LIMITS: &str = "snapshot_bytes_per_second = 1_000_000\nquorum_seconds = 2\n\
    [log]\nretention_bytes = 100_000\nfollower_bytes = 200_000_000\nreplay_bytes = 100_000";
const VALUES: u64 = 300;
const VALUE_BYTES: usize = 20_000;

fn staged(all: &Processes, name: &str) -> PathBuf {
    all.data(2).join("snapshots/taken-1024").join(name)
}

fn length(all: &Processes) -> u64 {
    fs::metadata(staged(all, "PARTS")).map_or(0, |found| found.len())
}

#[expect(clippy::disallowed_methods, reason = "a test waits for real servers")]
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Attacks what is durable of the parts, and what a giver keeps of a former life.
#[test]
fn i1_i4_a_receiver_and_a_sender_that_are_killed_in_the_middle_of_a_snapshot_go_on_where_they_were() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let addresses = free_addresses(3);
    let direct = addresses.clone();
    let mut all = Processes::start_with(addresses, LIMITS, |_, to| direct[to].clone());
    all.until("node 1 leads", 0, |status| status["serving"] == true);
    let client = runtime.block_on(all.client());
    let put = |number: u64| {
        let write = Write::new().put(format!("key-{number}"), noise(number, VALUE_BYTES));
        loop {
            let space = client.namespace("default");
            // Whoever hears nothing of it writes the same once more.
            if let Ok(receipt) = runtime.block_on(space.write(&write))
                && let Ok(written) = runtime.block_on(receipt)
            {
                break written;
            }
        }
    };
    put(0);
    all.until("node 3 has it", 2, |status| status["applied"].as_u64() >= Some(2));
    all.kill(2);
    for number in 1..VALUES {
        put(number);
    }
    // The logs are let go: a second for the look, and one for the flush before it.
    for place in 0..2 {
        let one = runtime.block_on(all.client_of(place));
        until("the log goes", || {
            put(VALUES);
            let feed = runtime.block_on(one.namespace("default").subscribe(Since::Beginning, Filter::All));
            feed.is_err_and(|error| error.code() == "TW-6201")
        });
    }
    // Otherwise it is fed from what the leader still has in memory.
    all.kill(0);
    all.start(0);
    all.until("node 1 leads again", 0, |status| status["serving"] == true);
    all.start(2);
    until("half of it is there", || length(&all) > 2_500_000);

    all.kill(2);
    let (here, offer) = (length(&all), fs::read(staged(&all, "OFFER")).unwrap());
    all.start(2);
    until("more of it is there", || length(&all) > here + 500_000);
    assert_eq!(fs::read(staged(&all, "OFFER")).unwrap(), offer, "it is the same one");

    all.kill(0);
    let here = length(&all);
    // What is written between is behind the snapshot; nobody leads, so nobody writes.
    all.start(0);
    all.until("node 1 leads again", 0, |status| status["serving"] == true);
    until("more of it is there, or all", || length(&all) > here || !staged(&all, "OFFER").exists());
    let again = fs::read(staged(&all, "OFFER"));
    assert!(again.map_or(true, |again| again == offer), "it goes on with what it has");

    put(VALUES + 1);
    let end = all.status(0)["end"].clone();
    for place in 0..3 {
        all.until("all have applied all", place, |status| status["applied"] == end);
    }
    let digests = all.towline(&["digest", "--json"]);
    assert!(digests.status.success(), "I4: {}", String::from_utf8_lossy(&digests.stderr));
    let of_the_third = runtime.block_on(all.client_of(2));
    let found = runtime.block_on(of_the_third.namespace("default").get("key-150", Read::Eventual)).unwrap();
    assert!(found.is_some(), "I1");
}

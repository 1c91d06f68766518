//! Real servers on disks that fail: what each fault does to its node, that the others go on, and that it comes back with everything.

use crate::bad_disk::{Calls, Effect, Rule};
use crate::noise::noise;
use crate::processes::{PATIENCE, Processes, free_addresses};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use towline::client::{Client, ClientError, ClientOptions, Route};
use towline::model::Read;

/// More than two blocks, so that half of a write is another one.
const VALUE_BYTES: usize = 10_000;
const LEADER: usize = 0;
const FOLLOWER: usize = 2;
const SEGMENTS: &str = "wal/*.seg";
/// The state is flushed all the time.
const FLUSHES: &str = "quorum_seconds = 1\n[log]\nreplay_bytes = 65_536";

struct Cluster {
    runtime: Runtime,
    all: Processes,
    client: Client,
    /// Of each key the number that was acknowledged last; more than it if one of those after it was not.
    acknowledged: BTreeMap<String, u64>,
    next: u64,
}

#[expect(clippy::disallowed_methods, reason = "a test waits for real servers")]
fn now() -> Instant {
    Instant::now()
}

/// One that waits neither for long nor for a leader that nobody has assigned.
async fn connect(addresses: &[String], route: Route) -> Result<Client, ClientError> {
    let (request_timeout, connect_timeout) = (Duration::from_secs(2), Duration::from_secs(4));
    let options = ClientOptions { route, request_timeout, connect_timeout, ..ClientOptions::default() };
    Client::connect(addresses.to_vec(), options).await
}

impl Cluster {
    /// A client of this node alone, whoever leads.
    fn client_of(&self, place: usize) -> Result<Client, ClientError> {
        self.runtime.block_on(connect(&self.all.addresses[place..=place], Route::Any))
    }

    /// Three servers, of which node 1 leads, and some keys at each.
    fn begin(limits: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let addresses = free_addresses(3);
        let direct = addresses.clone();
        let mut all = Processes::prepare(addresses, limits, |_, to| direct[to].clone()).with_bad_disks();
        (0..3).for_each(|place| all.start(place));
        all.until("node 1 leads", LEADER, |status| status["serving"] == true);
        let client = runtime.block_on(connect(&all.addresses, Route::Leader)).unwrap();
        let mut cluster = Self { runtime, all, client, acknowledged: BTreeMap::new(), next: 0 };
        cluster.write(20);
        assert!((0..3).all(|place| cluster.all.disk(place).calls() > 0), "the servers' calls are not looked at");
        cluster
    }

    /// One more write to one of a few keys.
    fn put(&mut self) -> Result<(), String> {
        self.next += 1;
        let (key, number) = (format!("key-{}", self.next % 97), self.next);
        let written = self.runtime.block_on(async {
            let receipt = self.client.namespace("default").put(key.clone(), value(number)).await;
            let receipt = receipt.map_err(|error| format!("{}: {error}", error.code()))?;
            receipt.await.map_err(|error| format!("{}: {error}", error.code()))
        });
        written.map(|_| {
            self.acknowledged.insert(key, number);
        })
    }

    /// So many are acknowledged, each at once.
    fn write(&mut self, count: u64) {
        for _ in 0..count {
            self.put().unwrap();
        }
    }

    /// Writes, whatever becomes of them, until something holds.
    fn write_until(&mut self, what: &str, mut holds: impl FnMut(&mut Processes) -> bool) {
        let begun = now();
        while !holds(&mut self.all) {
            drop(self.put());
            let said = || (0..3).map(|place| self.all.said(place)).collect::<String>();
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}\n{}", said());
        }
    }

    /// Somebody takes writes, after a moment.
    fn write_soon(&mut self) {
        let begun = now();
        while let Err(error) = self.put() {
            assert!(begun.elapsed() < PATIENCE, "{error}");
        }
    }

    /// Node 2 leads from now on, and takes writes.
    fn hand_over(&mut self) {
        let assigned = self.all.assign("2");
        assert_eq!(assigned["serving"], true, "{assigned}");
        self.write_soon();
        self.write(20);
    }

    /// The disk is well again, and its node is started.
    fn mend(&mut self, place: usize) {
        self.all.disk(place).heal();
        if !self.all.runs(place) {
            self.all.start(place);
        }
    }

    /// Whether all have applied all, and hold the same.
    fn is_one(&self) -> bool {
        let [one, other, third] = [0, 1, 2].map(|place| self.all.status(place));
        let ends = [&one, &other, &third].map(|status| (&status["end"], &status["applied"]));
        let is_all = one["end"].is_u64() && ends.iter().all(|(end, applied)| *end == &one["end"] && end == applied);
        is_all && self.all.towline(&["digest", "--json"]).status.success()
    }

    /// All hold the same, and everything that was acknowledged.
    fn settle(&mut self) {
        self.write_soon();
        let begun = now();
        // An epoch may begin meanwhile, as when an empty disk has its vote: then once more.
        while !self.is_one() {
            assert!(begun.elapsed() < PATIENCE, "I4: {:?}", [0, 1, 2].map(|place| self.all.status(place)));
        }
        for place in 0..3 {
            let client = self.client_of(place).unwrap();
            self.check(&client, &Read::Eventual).unwrap();
        }
    }

    /// Everything that was acknowledged is there, or something newer.
    fn check(&self, client: &Client, level: &Read) -> Result<(), ClientError> {
        for (key, number) in &self.acknowledged {
            let found = self.runtime.block_on(client.namespace("default").get(key, level.clone()))?;
            let found = found.unwrap_or_else(|| panic!("I1: {key} of {number} is gone")).value;
            let newer = (*number..=self.next).step_by(97).any(|number| found == value(number));
            assert!(newer, "I1: {key} has neither the value of {number} nor a newer one");
        }
        Ok(())
    }
}

impl Cluster {
    /// What is there was written, if it may be old.
    fn check_old(&self, client: &Client) -> Result<(), ClientError> {
        for first in 1..97 {
            let key = format!("key-{first}");
            let found = self.runtime.block_on(client.namespace("default").get(&key, Read::Eventual))?;
            let written = |found: &[u8]| (first..=self.next).step_by(97).any(|number| found == value(number));
            assert!(found.is_none_or(|found| written(&found.value)), "I8: {key} has what nobody wrote");
        }
        Ok(())
    }
}

fn value(number: u64) -> Vec<u8> {
    noise(number, VALUE_BYTES)
}

/// A rule that ends its node: it says why, and the others go on.
fn ends_loudly(limits: &str, place: usize, rule: Rule<'_>, says: &str) {
    let mut cluster = Cluster::begin(limits);
    cluster.all.disk(place).obey(&[rule]);
    let mut status = None;
    cluster.write_until("the node ends", |all| {
        status = all.ended(place);
        status.is_some()
    });
    assert!(cluster.all.disk(place).hits(0) > 0);
    let said = cluster.all.said(place);
    assert_eq!(status.unwrap().code(), Some(1), "{said}");
    assert!(said.contains("the shard has stopped") && said.contains(says), "{said}");
    if place == LEADER {
        cluster.hand_over();
    } else {
        cluster.write(20);
    }
    cluster.mend(place);
    cluster.settle();
}

/// Attacks the sync before an acknowledgement. What is lost by the sync that fails is lost for good, and the next one succeeds.
#[test]
fn d6_i1_a_sync_of_the_log_that_fails_ends_its_follower_and_what_it_was_for_counts_for_nothing() {
    ends_loudly("", FOLLOWER, Rule::new(Calls::WritesAndSyncs, Effect::Loses, SEGMENTS), "poisoned");
}

#[test]
fn d6_i1_a_sync_of_the_log_that_fails_ends_its_leader_and_what_it_was_for_counts_for_nothing() {
    ends_loudly("", LEADER, Rule::new(Calls::WritesAndSyncs, Effect::Loses, SEGMENTS), "poisoned");
}

/// Nothing is written to the default namespace: its shard never hears of the log that failed.
#[test]
fn d6_i1_a_node_whose_log_fails_ends_whichever_of_its_shards_was_written() {
    let mut cluster = Cluster::begin("[[namespace]]\nname = \"orders\"");
    cluster.all.disk(FOLLOWER).obey(&[Rule::new(Calls::WritesAndSyncs, Effect::Loses, SEGMENTS)]);
    let begun = now();
    let status = loop {
        // Whatever becomes of it.
        let _written =
            cluster.runtime.block_on(async { cluster.client.namespace("orders").put("k", "v").await.ok()?.await.ok() });
        if let Some(status) = cluster.all.ended(FOLLOWER) {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "it runs on: {}", cluster.all.said(FOLLOWER));
    };
    let said = cluster.all.said(FOLLOWER);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("poisoned") && said.contains("shard=2048"), "{said}");
    cluster.mend(FOLLOWER);
    cluster.settle();
}

/// A full disk that a sync tells of is not one that a write tells of: what was written is in doubt.
#[test]
fn d6_a_sync_of_the_log_that_finds_the_disk_full_ends_its_node() {
    ends_loudly("", FOLLOWER, Rule::new(Calls::Syncs, Effect::Fails(Effect::ENOSPC), SEGMENTS).often(1), "poisoned");
}

#[test]
fn d8_a_write_of_the_log_that_fails_ends_its_follower() {
    ends_loudly("", FOLLOWER, Rule::new(Calls::Writes, Effect::Fails(Effect::EIO), SEGMENTS).often(1), "poisoned");
}

#[test]
fn d8_a_write_of_the_log_that_fails_ends_its_leader() {
    ends_loudly("", LEADER, Rule::new(Calls::Writes, Effect::Fails(Effect::EIO), SEGMENTS).often(1), "poisoned");
}

#[test]
fn d8_calls_that_do_half_of_what_they_are_asked_for_or_are_interrupted_are_made_again() {
    let mut cluster = Cluster::begin("");
    let interrupted = Effect::Fails(rustix::io::Errno::INTR.raw_os_error());
    for place in [LEADER, FOLLOWER] {
        let half = Rule::new(Calls::Writes, Effect::Cuts, "wal/*");
        let never = Rule::new(Calls::Writes, interrupted, "wal/*").behind(3).often(3);
        cluster.all.disk(place).obey(&[half, never, Rule::new(Calls::Reads, Effect::Cuts, "*")]);
    }
    cluster.write(40);
    cluster.all.kill(FOLLOWER);
    cluster.all.start(FOLLOWER);
    cluster.write(20);
    assert!([LEADER, FOLLOWER].iter().all(|place| cluster.all.disk(*place).hits(0) > 10));
    cluster.settle();
}

/// A segment was made with all of its bytes: a file system that has no room to write them again tells of a disk that can't write.
#[test]
fn d9_a_disk_without_room_for_what_a_segment_holds_already_ends_its_node() {
    ends_loudly("", FOLLOWER, Rule::new(Calls::Writes, Effect::Fails(Effect::ENOSPC), SEGMENTS), "poisoned");
}

/// Room comes back, and nobody has to start anything.
fn has_no_room_for_its_state(place: usize) {
    let mut cluster = Cluster::begin(FLUSHES);
    cluster.all.disk(place).obey(&[Rule::new(Calls::Writes, Effect::Fails(Effect::ENOSPC), "state/*.sst")]);
    if place == LEADER {
        let (begun, mut told) = (now(), Vec::new());
        while !told.last().is_some_and(|error: &String| error.contains("TW-5104")) {
            told.extend(cluster.put().err());
            assert!(begun.elapsed() < PATIENCE, "it was never said: {told:?}");
        }
        let client = cluster.client_of(LEADER).unwrap();
        cluster.check(&client, &Read::Eventual).unwrap();
    } else {
        let begun = now();
        while cluster.all.disk(place).hits(0) == 0 {
            cluster.write(20);
            assert!(begun.elapsed() < PATIENCE, "its state was never flushed");
        }
        cluster.write(40);
    }
    cluster.all.disk(place).heal();
    cluster.settle();
    assert!(cluster.all.ended(place).is_none(), "{}", cluster.all.said(place));
}

#[test]
fn d10_while_the_disk_of_the_leaders_state_is_full_writes_are_refused_reads_go_on_and_room_is_enough() {
    has_no_room_for_its_state(LEADER);
}

#[test]
fn d10_while_the_disk_of_a_followers_state_is_full_the_others_go_on_and_room_is_enough() {
    has_no_room_for_its_state(FOLLOWER);
}

#[test]
fn d25_a_slow_disk_makes_its_node_slow_and_nothing_else() {
    let mut cluster = Cluster::begin("");
    for place in [LEADER, FOLLOWER] {
        cluster.all.disk(place).obey(&[Rule::new(Calls::Syncs, Effect::Slow(150), "*")]);
    }
    cluster.write(20);
    assert!(cluster.all.disk(LEADER).hits(0) >= 10);
    cluster.settle();
}

#[test]
fn d26_while_the_disk_of_a_follower_hangs_the_others_go_on_and_it_goes_on_when_its_disk_does() {
    let mut cluster = Cluster::begin("");
    cluster.all.disk(FOLLOWER).obey(&[Rule::new(Calls::Syncs, Effect::Hangs, "*")]);
    cluster.write(50);
    assert!(cluster.all.disk(FOLLOWER).hits(0) > 0);
    assert!(cluster.all.status(FOLLOWER)["node"] == 3, "it still says how it is");
    cluster.all.disk(FOLLOWER).heal();
    cluster.settle();
    assert!(cluster.all.ended(FOLLOWER).is_none());
}

/// The process is there, and its connections are: that must not hide that nothing of it becomes durable.
#[test]
fn d26_i1_a_leader_whose_disk_hangs_gives_up_and_another_one_is_assigned() {
    let mut cluster = Cluster::begin("quorum_seconds = 1");
    cluster.all.disk(LEADER).obey(&[Rule::new(Calls::Syncs, Effect::Hangs, "*")]);
    cluster.put().unwrap_err();
    cluster.all.until("it leads no more", LEADER, |status| status["serving"] == false);
    cluster.hand_over();
    cluster.all.disk(LEADER).heal();
    cluster.settle();
    // One that hangs is killed like any other.
    cluster.all.disk(LEADER).obey(&[Rule::new(Calls::Syncs, Effect::Hangs, "*")]);
    cluster.write(10);
    cluster.all.kill(LEADER);
    cluster.mend(LEADER);
    cluster.settle();
}

/// D7: of the state no more of the log is let go than what was flushed.
#[test]
fn d7_a_sync_of_the_state_that_fails_ends_its_node_whose_log_has_everything() {
    ends_loudly(FLUSHES, FOLLOWER, Rule::new(Calls::Syncs, Effect::Fails(Effect::EIO), "state/*"), "the log is whole");
}

#[test]
fn d7_a_write_of_the_state_that_fails_ends_its_leader_whose_log_has_everything() {
    ends_loudly(FLUSHES, LEADER, Rule::new(Calls::Writes, Effect::Fails(Effect::EIO), "state/*"), "the log is whole");
}

/// Each call that a node makes of its disk while it opens fails once: it opens all the same, or says why it does not.
#[test]
fn d7_i1_whichever_call_of_its_disk_fails_while_a_node_opens_it_opens_or_says_why_not() {
    let mut cluster = Cluster::begin(FLUSHES);
    let mut ended = 0;
    let numbers = [
        (Calls::Syncs, &[0, 4, 12][..]),
        (Calls::Writes, &[0, 4]),
        (Calls::Opens, &[0, 1, 4, 12]),
        (Calls::Names, &[0, 1]),
        (Calls::Reads, &[0, 4]),
    ];
    for (calls, numbers) in numbers {
        for skip in numbers.iter().copied() {
            cluster.all.kill(FOLLOWER);
            cluster.write(10);
            let rule = Rule::new(calls, Effect::Fails(Effect::EIO), "*").behind(skip).often(1);
            cluster.all.disk(FOLLOWER).obey(&[rule]);
            cluster.all.start(FOLLOWER);
            let end = cluster.all.status(LEADER)["end"].clone();
            let begun = now();
            let status = loop {
                match cluster.all.ended(FOLLOWER) {
                    Some(status) => break Some(status),
                    None if cluster.all.status(FOLLOWER)["applied"] == end => break None,
                    None => assert!(begun.elapsed() < PATIENCE, "{calls:?} {skip}: {}", cluster.all.said(FOLLOWER)),
                }
            };
            let said = cluster.all.said(FOLLOWER);
            let last = said.lines().last().unwrap_or_default();
            if let Some(status) = status {
                ended += 1;
                assert!(status.code().is_some_and(|code| code == 1 || code == 3), "{calls:?} {skip}: {status}: {said}");
                assert!(last.contains("os error 5") || last.contains("nput/output error"), "{calls:?} {skip}: {last}");
            }
            cluster.mend(FOLLOWER);
        }
    }
    assert!(ended > 5, "{ended}");
    cluster.settle();
}

/// D17: what is read wrong once is not damage for ever, and never what anybody is told.
#[test]
fn d17_i8_bits_that_are_read_wrong_are_never_served_and_nothing_is_given_up_for_them() {
    let mut cluster = Cluster::begin(FLUSHES);
    cluster.write(200);
    // Values of this size lie in no blob.
    for path in [SEGMENTS, "state/*.sst"] {
        cluster.all.kill(FOLLOWER);
        cluster.all.disk(FOLLOWER).obey(&[Rule::new(Calls::Reads, Effect::Flips, path).behind(1)]);
        cluster.all.start(FOLLOWER);
        let begun = now();
        while cluster.all.ended(FOLLOWER).is_none() && begun.elapsed() < Duration::from_secs(3) {
            // What it does not serve it says.
            if cluster.all.status(FOLLOWER)["node"] == 3
                && let Err(error) = cluster.client_of(FOLLOWER).and_then(|client| cluster.check_old(&client))
            {
                println!("{path}: {error}");
            }
            cluster.write(5);
        }
        let hits = cluster.all.disk(FOLLOWER).hits(0);
        println!("{path}: {hits} {}", cluster.all.last_words(FOLLOWER));
        assert!(hits > 0, "nothing of {path} was read");
        cluster.mend(FOLLOWER);
        cluster.settle();
    }
}

/// A bit of a log at rest is another one: `from_end` bytes before its last, of the segment that was written last.
fn rot(all: &Processes, place: usize, from_end: u64) {
    let entries = fs::read_dir(all.data(place).join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    // Those made ahead hold a header, and nothing else.
    let mut written: Vec<_> = segments.map(|path| (used(&fs::read(&path).unwrap()), path)).collect();
    written.retain(|(used, _)| *used > 8192);
    written.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    let (used, path) = written.pop().unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], u64::try_from(used).unwrap() - from_end);
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, at).unwrap();
}

/// Bytes until there are zeroes only.
fn used(bytes: &[u8]) -> usize {
    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

/// What node 1 and node 3 have acknowledged rots at node 3, as a torn tail would look: with node 2, which lacks it, it proves nothing.
#[test]
fn d12_i1_an_acknowledged_tail_that_rots_at_rest_is_missed_by_nobody_who_might_lead_without_it() {
    let mut cluster = Cluster::begin("");
    cluster.all.kill(1);
    cluster.write(30);
    cluster.all.kill(LEADER);
    cluster.all.kill(FOLLOWER);
    rot(&cluster.all, FOLLOWER, 1000);
    cluster.all.start(1);
    cluster.all.start(FOLLOWER);
    for leader in ["2", "3"] {
        let assigned = cluster.all.towline(&["shard", "assign", "--leader", leader, "--within", "3"]);
        assert!(!assigned.status.success(), "I1: it leads: {}", cluster.all.said(FOLLOWER));
    }
    // The one that has it all is back. If the other one refused to open, its disk is to be emptied, as its sentence says.
    cluster.all.start(LEADER);
    if let Some(status) = cluster.all.ended(FOLLOWER) {
        println!("{status}: {}", cluster.all.last_words(FOLLOWER));
        cluster.all.empty(FOLLOWER);
        cluster.all.start(FOLLOWER);
    }
    cluster.hand_over();
    cluster.settle();
}

#[test]
fn d12_i8_bits_of_a_log_that_rot_at_rest_are_never_served_and_its_node_comes_back_or_says_why_not() {
    let mut cluster = Cluster::begin("");
    cluster.write(100);
    cluster.all.kill(FOLLOWER);
    rot(&cluster.all, FOLLOWER, 200_000);
    cluster.write(20);
    cluster.all.start(FOLLOWER);
    let (begun, end) = (now(), cluster.all.status(LEADER)["end"].clone());
    let comes_back = loop {
        let status = cluster.all.status(FOLLOWER);
        if status["node"] == 3
            && let Err(error) = cluster.client_of(FOLLOWER).and_then(|client| cluster.check_old(&client))
        {
            println!("{error}");
        }
        if status["applied"] == end {
            break true;
        }
        if cluster.all.ended(FOLLOWER).is_some() {
            break false;
        }
        assert!(begun.elapsed() < PATIENCE, "it neither comes back nor ends: {}", cluster.all.said(FOLLOWER));
    };
    if !comes_back {
        let last = cluster.all.last_words(FOLLOWER);
        assert!(last.contains("TW-"), "it says why, and what to do: {last}");
        cluster.all.empty(FOLLOWER);
        cluster.all.start(FOLLOWER);
    }
    cluster.settle();
}

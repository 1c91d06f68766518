//! Three real servers, killed, stopped, cut off from one another, on disks that fail, and led by whoever is assigned, while clients
//! write and read.

use crate::bad_disk::{Calls, Effect, Rule};
use crate::history::{Seen, contradiction, not_once_each};
use crate::processes::{PATIENCE, Processes, free_addresses};
use crate::proxy::{Mode, Proxy};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use towline::client::{Client, SessionError, WriteError};
use towline::model::request::Direction;
use towline::model::{Expect, Outcome, Read, Value, Write};

const WRITERS: u64 = 3;
const REGISTER: &str = "register";

/// So many faults, by this seed; `TOWLINE_CHAOS=rounds,seed` asks for others.
fn wanted() -> (u32, u64) {
    let asked = std::env::var("TOWLINE_CHAOS").ok();
    let parts = asked.as_deref().and_then(|text| text.split_once(','));
    let parts = parts.map(|(rounds, seed)| (rounds.parse(), seed.parse()));
    match parts {
        Some((Ok(rounds), Ok(seed))) => (rounds, seed),
        Some(_) => panic!("TOWLINE_CHAOS is `rounds,seed`"),
        None => (10, u64::from(std::process::id())),
    }
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn place(&mut self) -> usize {
        usize::try_from(self.below(3)).unwrap()
    }

    fn moment(&mut self) -> Duration {
        Duration::from_millis(100 + self.below(1800))
    }
}

/// When the test began, and whether it is over.
#[derive(Clone)]
struct Clock {
    begun: Instant,
    is_over: Arc<AtomicBool>,
}

#[expect(clippy::disallowed_methods, reason = "a test waits for real servers")]
impl Clock {
    fn new() -> Self {
        Self { begun: Instant::now(), is_over: Arc::default() }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn pause(time: Duration) {
        std::thread::sleep(time);
    }
}

/// What a writer was told: what it saw, and the numbers of its stream that were acknowledged.
async fn write(client: Client, writer: u64, clock: Clock) -> (Vec<Seen>, Vec<u64>) {
    let session = loop {
        match client.namespace("default").open_session().await {
            Ok(session) => break session,
            Err(error) => assert!(!clock.is_over(), "no session: {error}"),
        }
    };
    let (mut seen, mut acknowledged, mut entry) = (Vec::new(), Vec::new(), 0_u64);
    while !clock.is_over() {
        entry += 1;
        let value = format!("{writer}-{entry}");
        let write = Write::new().append(format!("stream-{writer}"), Expect::Any, entry.to_string());
        let write = write.put(REGISTER, value.clone());
        let begun = clock.now();
        let mut number = None;
        // By its number, until it has an answer: it is executed once.
        let written = loop {
            let tried = match number {
                None => session.write(&write).await,
                Some(number) => session.retry(number, &write).await,
            };
            match tried {
                Ok(written) => break Some(written),
                Err(SessionError::Write { number: used, source: WriteError::Unknown { .. } }) => number = Some(used),
                Err(SessionError::Write { number: used, source: WriteError::Refused(failure) }) => {
                    assert!(failure.class != towline::model::request::FailureClass::Damage, "{failure:?}");
                    // Whether it was executed by an earlier try is not known: it is asked for again, by its number.
                    number = number.map(|_| used);
                }
                Err(_) => {}
            }
            if clock.is_over() && number.is_none() {
                break None;
            }
            assert!(clock.now() < begun + PATIENCE * 2, "{value} has no answer");
        };
        let Some(written) = written else { break };
        assert!(matches!(written.outcome, Outcome::Applied { .. }), "{written:?}");
        acknowledged.push(entry);
        seen.push(Seen { begun, ended: clock.now(), place: written.lsn.get(), value, is_write: true });
    }
    (seen, acknowledged)
}

/// Writes what fills short logs; whatever becomes of it.
async fn fill(client: Client, clock: Clock) {
    let mut number = 0;
    while !clock.is_over() {
        number += 1;
        let write = Write::new().put(format!("filling-{}", number % 50), crate::noise::noise(number, 8000));
        if let Ok(receipt) = client.namespace("default").write(&write).await {
            drop(receipt.await);
        }
    }
}

async fn read(client: Client, clock: Clock) -> Vec<Seen> {
    let mut seen = Vec::new();
    while !clock.is_over() {
        let begun = clock.now();
        // Whoever gets no answer has seen nothing.
        if let Ok(found) = client.namespace("default").get(REGISTER, Read::Linearizable).await {
            seen.push(shown(begun, clock.now(), found));
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    seen
}

fn shown(begun: Duration, ended: Duration, found: Option<Value>) -> Seen {
    let (place, value) = found.map_or_else(Default::default, |found| (found.version, found.value));
    Seen { begun, ended, place, value: String::from_utf8(value.to_vec()).unwrap(), is_write: false }
}

/// The ways between the nodes: of each pair those in both directions.
struct Ways(Vec<(usize, usize, Proxy)>);

impl Ways {
    fn set(&self, mode: Mode, concerns: impl Fn(usize, usize) -> bool) {
        self.0.iter().filter(|(from, to, _)| concerns(*from, *to)).for_each(|(.., proxy)| proxy.set(mode));
    }

    fn find(&self, from: usize, to: usize) -> String {
        let found = self.0.iter().find(|(a, b, _)| (*a, *b) == (from, to));
        found.map(|(.., proxy)| proxy.address.clone()).unwrap()
    }
}

/// Who looks on, and what it has seen.
struct Witness<'a> {
    runtime: &'a tokio::runtime::Runtime,
    clock: &'a Clock,
    seen: Vec<Seen>,
}

impl Witness<'_> {
    /// Somebody else leads now: what it acknowledges, the one who may not know it must not deny.
    fn ask_the_old_one(&mut self, all: &Processes, old: usize, new: usize) {
        let asked = async {
            let (writer, reader) = (all.client_of(new).await, all.client_of(old).await);
            let (begun, value) = (self.clock.now(), format!("witness-{}", self.seen.len()));
            let written = writer.namespace("default").put(REGISTER, value.clone()).await.ok()?.await.ok()?;
            let ended = self.clock.now();
            self.seen.push(Seen { begun, ended, place: written.lsn.get(), value, is_write: true });
            let begun = self.clock.now();
            let found = reader.namespace("default").get(REGISTER, Read::Linearizable).await.ok()?;
            self.seen.push(shown(begun, self.clock.now(), found));
            Some(())
        };
        // Whoever has no answer has seen nothing; and one that is stopped gives none.
        drop(self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), asked).await }));
    }
}

/// What a disk may do, in words as well.
fn ill_will(dice: &mut Dice) -> (Rule<'static>, &'static str) {
    let eio = Effect::Fails(Effect::EIO);
    let often = 1 + i32::try_from(dice.below(3)).unwrap();
    let skip = i32::try_from(dice.below(6)).unwrap();
    let (rule, told) = match dice.below(14) {
        0 | 1 => (Rule::new(Calls::WritesAndSyncs, Effect::Loses, "wal/*.seg"), "loses what it wrote to the log"),
        2 => (Rule::new(Calls::Syncs, eio, "wal*").often(often), "fails to sync the log"),
        3 => (Rule::new(Calls::Writes, eio, "wal/*").often(often), "fails to write the log"),
        4 => (Rule::new(Calls::Reads, eio, "wal/*"), "fails to read the log"),
        5 => (Rule::new(Calls::Reads, Effect::Flips, "wal/*.seg"), "reads bits of the log wrong"),
        6 => (Rule::new(Calls::Writes, Effect::Fails(Effect::ENOSPC), "wal/*"), "has no room for the log"),
        7 => (Rule::new(Calls::Writes, Effect::Fails(Effect::ENOSPC), "state/*"), "has no room for the state"),
        8 => (Rule::new(Calls::All, eio, "state/*").often(often), "fails with the state"),
        9 => (Rule::new(Calls::Syncs, Effect::Hangs, "*"), "hangs"),
        10 => (Rule::new(Calls::Syncs, Effect::Slow(40), "*"), "is slow"),
        11 => (Rule::new(Calls::Writes, Effect::Cuts, "*"), "writes by halves"),
        12 => (Rule::new(Calls::All, eio, "*").often(often), "fails with anything"),
        _ => (Rule::new(Calls::Names, eio, "*"), "gives no names"),
    };
    (rule.behind(skip), told)
}

/// A disk has a fault for a while, and whatever else happens meanwhile; who ended of it is started again.
fn harm_disk(all: &mut Processes, dice: &mut Dice) -> String {
    let (victim, other) = (dice.place(), dice.place());
    let leader = (0..3).find(|place| all.runs(*place) && all.status(*place)["serving"] == true);
    let victim = leader.filter(|_| dice.below(2) == 0).unwrap_or(victim);
    let (rule, told) = ill_will(dice);
    all.disk(victim).obey(&[rule]);
    let besides = match dice.below(4) {
        0 => {
            all.kill(other);
            Clock::pause(dice.moment() / 3);
            all.start(other);
            format!("and node {} killed", other + 1)
        }
        1 => assign_any(all, dice),
        _ => String::new(),
    };
    Clock::pause(dice.moment());
    let hits = all.disk(victim).hits(0);
    all.disk(victim).heal();
    if hits > 0 {
        // Who ends of it notices.
        Clock::pause(Duration::from_millis(300));
    }
    let ended = start_who_ended(all);
    format!("the disk of node {} {told} ({hits} times) {besides} {ended}", victim + 1)
}

/// Whoever has stopped ends, says why, and is started again.
fn start_who_ended(all: &mut Processes) -> String {
    let mut told = String::new();
    for place in 0..3 {
        if all.ended(place).is_some() || all.has_stopped(place) && all.ends(place).code() == Some(1) {
            told += &format!("and node {} ended ({}) ", place + 1, all.last_words(place));
            all.start(place);
        }
    }
    told
}

/// One fault, and its end.
fn harm(all: &mut Processes, ways: &Ways, dice: &mut Dice, witness: &mut Witness<'_>) -> String {
    let (victim, other) = (dice.place(), dice.place());
    let leader = (0..3).find(|place| all.runs(*place) && all.status(*place)["serving"] == true);
    let victim = leader.filter(|_| dice.below(2) == 0).unwrap_or(victim);
    let of_victim = |from: usize, to: usize| from == victim || to == victim;
    let one_way = |from: usize, to: usize| (from, to) == (victim, other);
    let told = match dice.below(9) {
        0 | 1 => {
            all.kill(victim);
            let assigned = if dice.below(2) == 0 { assign_any(all, dice) } else { String::new() };
            Clock::pause(dice.moment());
            all.start(victim);
            format!("node {} killed {assigned}", victim + 1)
        }
        2 | 3 => {
            all.signal(victim, Signal::STOP);
            let assigned = if dice.below(2) == 0 { assign_any(all, dice) } else { String::new() };
            Clock::pause(dice.moment());
            all.signal(victim, Signal::CONT);
            format!("node {} stopped {assigned}", victim + 1)
        }
        4 | 5 => {
            let mode = [Mode::Cut, Mode::Stalled][usize::try_from(dice.below(2)).unwrap()];
            ways.set(mode, of_victim);
            let new = (victim + 1 + usize::try_from(dice.below(2)).unwrap()) % 3;
            let assigned = if dice.below(3) > 0 { assign(all, new) } else { String::new() };
            witness.ask_the_old_one(all, victim, new);
            Clock::pause(dice.moment());
            format!("node {} {mode:?} {assigned}", victim + 1)
        }
        6 => {
            let mode = [Mode::Deaf, Mode::Mute, Mode::Slow][usize::try_from(dice.below(3)).unwrap()];
            ways.set(mode, one_way);
            Clock::pause(dice.moment());
            format!("from node {} to node {} {mode:?}", victim + 1, other + 1)
        }
        7 => lose_disk(all, dice, victim),
        _ => assign_any(all, dice),
    };
    ways.set(Mode::Open, |_, _| true);
    told
}

/// A disk is lost, and the node comes back with an empty one. One at a time: it has its vote again before anything else happens.
fn lose_disk(all: &mut Processes, dice: &mut Dice, victim: usize) -> String {
    let first = (victim + 1 + usize::try_from(dice.below(2)).unwrap()) % 3;
    all.kill(victim);
    all.empty(victim);
    let (leader, assigned) = assign_who_has_data(all, &[first, 3 - victim - first]);
    let before = assigned["epoch"]["term"].as_u64().unwrap_or(0);
    Clock::pause(dice.moment());
    all.start(victim);
    // One term takes the vote from the lost disk, the next gives it to the one that is here. One that follows another for another
    // reason is told from these by what comes after it.
    let (clock, last) = (Clock::new(), std::cell::Cell::new((0, Duration::ZERO)));
    let has_its_vote = |status: &serde_json::Value| {
        let term = status["epoch"]["term"].as_u64().unwrap_or(0);
        if status["serving"] != true || last.get().0 != term {
            last.set((term, clock.now()));
        }
        term >= before + 2 && clock.now() > last.get().1 + Duration::from_secs(2)
    };
    all.until("the empty disk has its vote", leader, has_its_vote);
    format!("node {} lost its disk, and node {} assigned", victim + 1, leader + 1)
}

/// Somebody leads from now on, or nobody can.
fn assign_any(all: &Processes, dice: &mut Dice) -> String {
    assign(all, dice.place())
}

fn assign(all: &Processes, leader: usize) -> String {
    if !all.runs(leader) {
        return "and nobody assigned".to_owned();
    }
    let number = (leader + 1).to_string();
    let output = all.towline(&["shard", "assign", "--leader", &number, "--within", "2", "--timeout", "3"]);
    format!("and node {number} assigned ({:?})", output.status.code())
}

#[test]
fn i1_i5_i6_i7_clients_see_one_history_through_kills_stops_cuts_and_assignments() {
    see_one_history("quorum_seconds = 1");
}

/// Logs that keep next to nothing, so that whoever was away is given a snapshot, by one that may be killed meanwhile.
#[test]
fn i1_i4_i5_i7_the_same_where_logs_are_so_short_that_who_was_away_needs_a_snapshot() {
    let limits = "quorum_seconds = 1\nsnapshot_bytes_per_second = 200_000\n\
        [log]\nretention_bytes = 1000\nfollower_bytes = 20_000\nreplay_bytes = 65_536";
    see_one_history(limits);
}

/// So many faults, and what they were. All is well behind them.
fn wreak(
    all: &mut Processes,
    ways: &Ways,
    dice: &mut Dice,
    witness: &mut Witness<'_>,
    (rounds, seed): (u32, u64),
) -> String {
    let (clock, mut story) = (witness.clock, Vec::new());
    // At once: a step may fail by itself.
    let mut tell = |line: String| {
        println!("{line}");
        story.push(line);
    };
    tell(format!("TOWLINE_CHAOS={rounds},{seed}"));
    // Of disks it is drawn aside: everything else is as it was drawn without them.
    let mut aside = Dice(dice.0.rotate_left(32) | 1);
    for _ in 0..rounds {
        let at = clock.now();
        let told = harm(all, ways, dice, witness);
        tell(format!("{at:.1?}: {told}"));
        Clock::pause(Duration::from_millis(dice.below(700)));
        if cfg!(target_os = "linux") && aside.below(2) == 0 {
            let at = clock.now();
            let told = harm_disk(all, &mut aside);
            tell(format!("{at:.1?}: {told}"));
        }
    }
    let late = start_who_ended(all);
    tell(format!("{:.1?}: all is well {late}", clock.now()));
    story.join("\n")
}

/// As an operator does: a node that lost its disk and has been given nothing yet, as a snapshot takes its time, says so (TW-8034), and
/// another one is assigned.
fn assign_who_has_data(all: &Processes, places: &[usize]) -> (usize, serde_json::Value) {
    for place in places.iter().copied() {
        match all.try_assign(&(place + 1).to_string()) {
            Ok(assigned) => return (place, assigned),
            Err(said) => assert!(said.contains("TW-8034") && all.emptied.contains(&place), "{said}"),
        }
    }
    panic!("nobody has the data");
}

fn see_one_history(limits: &str) {
    let (rounds, seed) = wanted();
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let addresses = free_addresses(3);
    let pairs = (0..3).flat_map(|from| (0..3).filter(move |to| *to != from).map(move |to| (from, to)));
    let ways: Vec<_> =
        pairs.map(|(from, to)| (from, to, Proxy::new(runtime.handle(), addresses[to].clone()))).collect();
    let ways = Ways(ways);
    let mut all = Processes::prepare(addresses, limits, |from, to| ways.find(from, to));
    if cfg!(target_os = "linux") {
        all = all.with_bad_disks();
    }
    (0..3).for_each(|place| all.start(place));
    all.until("node 1 leads", 0, |status| status["serving"] == true);

    let clock = Clock::new();
    let client = || runtime.block_on(all.client_within(Duration::from_secs(2)));
    let writers: Vec<_> = (0..WRITERS).map(|writer| runtime.spawn(write(client(), writer, clock.clone()))).collect();
    // Of each node one: whoever leads no more, and does not know it, is asked as well.
    let readers: Vec<_> =
        (0..3).map(|place| runtime.spawn(read(runtime.block_on(all.client_of(place)), clock.clone()))).collect();
    let filler = limits.contains("[log]").then(|| runtime.spawn(fill(client(), clock.clone())));
    let mut witness = Witness { runtime: &runtime, clock: &clock, seen: Vec::new() };
    let story = wreak(&mut all, &ways, &mut dice, &mut witness, (rounds, seed));
    let first = dice.place();
    let (leader, assigned) = assign_who_has_data(&all, &[first, (first + 1) % 3, (first + 2) % 3]);
    assert_eq!(assigned["serving"], true, "{assigned}\n{story}");
    Clock::pause(Duration::from_millis(500));
    clock.is_over.store(true, Ordering::SeqCst);

    if let Some(filler) = filler {
        runtime.block_on(filler).unwrap();
    }
    let (mut seen, mut told) = (witness.seen, Vec::new());
    for writer in writers {
        let (wrote, acknowledged) = runtime.block_on(writer).unwrap_or_else(|error| panic!("{error}\n{story}"));
        seen.extend(wrote);
        told.push(acknowledged);
    }
    let writes = seen.iter().filter(|seen| seen.is_write).count();
    for reader in readers {
        seen.extend(runtime.block_on(reader).unwrap());
    }
    assert!(writes > 50 && seen.len() - writes > 20, "{writes} writes, {} in all\n{story}", seen.len());
    assert_eq!(contradiction(&seen), None, "I7\n{story}");

    let client = runtime.block_on(all.client());
    let space = client.namespace("default");
    let last = runtime.block_on(space.get(REGISTER, Read::Linearizable)).unwrap().unwrap();
    let newest = seen.iter().map(|seen| seen.place).max();
    assert!(Some(last.version) >= newest, "I1: {last:?} {newest:?}\n{story}");
    for (writer, acknowledged) in told.iter().enumerate() {
        let stream = format!("stream-{writer}");
        let (mut found, mut from) = (Vec::new(), 1);
        loop {
            let read = space.read_stream(&stream, from, Direction::Forward, (1000, 1 << 20), Read::Linearizable);
            let read = runtime.block_on(read).unwrap();
            found.extend(
                read.events.iter().map(|event| std::str::from_utf8(&event.value).unwrap().parse::<u64>().unwrap()),
            );
            from = read.events.last().map_or(from, |event| event.version + 1);
            if !read.more {
                break;
            }
        }
        assert_eq!(not_once_each(&found, acknowledged), None, "{stream}\n{story}");
    }
    let end = all.status(leader)["end"].clone();
    // A disk's fault may have ended a node that noticed it late.
    let at = clock.now();
    while !(0..3).all(|place| all.status(place)["applied"] == end) {
        start_who_ended(&mut all);
        assert!(clock.now() < at + PATIENCE, "all have not applied all\n{story}");
    }
    let digests = all.towline(&["digest", "--json"]);
    assert!(digests.status.success(), "I4: {}\n{story}", String::from_utf8_lossy(&digests.stderr));
    let given = (0..3).filter(|place| all.data(*place).join("snapshots").exists()).count();
    println!("snapshots were given or taken by {given} of the nodes");
    println!("{writes} writes and {} reads", seen.len() - writes);
}

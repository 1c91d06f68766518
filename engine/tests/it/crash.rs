//! A node in a process of its own, which is killed in the middle of its work, again and again on one directory.
//!
//! What the process did is known by the lines that it said: what it says is in the pipe before the next write begins, so the
//! kill takes none of them away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use towline::model::request::Direction;
use towline::model::{
    Expect, Filter, Operation, Outcome, Policy, Read, Rejection, Retention, Scan, ShardId, Since, Write,
};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions, Session, SessionReceipt, SessionState};
use towline::pipeline::{Receipt, Written};

/// Where the inner process finds its node, and what it decides by.
const DIRECTORY: &str = "TOWLINE_CRASH_DIRECTORY";
const SEED: &str = "TOWLINE_CRASH_SEED";
const ROUND: &str = "TOWLINE_CRASH_ROUND";
/// What a line begins with that the outer test reads: the test harness says things too.
const MARK: &str = "> ";
const THREADS: u64 = 4;
const SHARDS: u64 = 4;
/// Requests of one thread that are under way.
const WINDOW: usize = 32;

/// The same number for the same parts (splitmix64).
fn random(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |state, part| {
        let mut mixed = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

fn open(directory: &Path, unflushed_bytes: usize) -> Node {
    let mut options = NodeOptions::alone(directory);
    (options.sequencers, options.appliers) = (3, 2);
    options.state.unflushed_bytes = unflushed_bytes;
    options.state.large_value_bytes = 256;
    Node::open(options).unwrap()
}

/// The namespace of these tests, whose log begins at the beginning; made by whoever comes first.
fn space(node: &Node) -> Namespace {
    let policy = Policy { retention: Retention::Forever, ..Policy::default() };
    let points = (1..SHARDS).map(|shard| shard.to_string()).collect::<Vec<_>>();
    let options = NamespaceOptions::default().policy(policy).split_at(points);
    node.namespace("space").or_else(|_| node.create_namespace("space", &options)).unwrap()
}

/// What the inner process is told. Where one of its threads fails, all of it ends: the outer test waits for its lines.
fn told() -> (PathBuf, u64, u64) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::exit(1);
    }));
    // The harness leaves a line unfinished.
    println!();
    let number = |name| std::env::var(name).expect("the outer test says it").parse().unwrap();
    (PathBuf::from(std::env::var_os(DIRECTORY).expect("the outer test names it")), number(SEED), number(ROUND))
}

/// A process that runs one test of this file, and is no more when this is dropped.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    errors: PathBuf,
}

impl Running {
    fn start(test: &str, directory: &Path, seed: u64, round: u64) -> Self {
        let errors = directory.join("errors");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("crash::{test}"), "--ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .env(SEED, seed.to_string())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines, errors }
    }

    /// Kills it as soon as it has said so many lines; all that it said until it was dead.
    fn kill_after(mut self, count: u64, context: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            if line.is_empty() {
                break;
            }
            if let Some(line) = line.strip_prefix(MARK).and_then(|line| line.strip_suffix('\n')) {
                said.push(line.to_owned());
                if said.len() as u64 == count {
                    self.child.kill().unwrap();
                }
            }
        }
        let errors = fs::read_to_string(&self.errors).unwrap();
        assert!(said.len() as u64 >= count, "{context}: it ended by itself after {} lines: {errors}", said.len());
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail of one that is gone only.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// One write of the load: round, thread, number in the thread.
type Id = (u64, u64, u64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
    Append,
    /// A put whose condition never holds.
    RefusedPut,
    /// An append that expects a version which the stream never has.
    RefusedAppend,
}

/// A write as its place and the seed say: the outer test knows it without being told.
struct Planned {
    id: Id,
    kind: Kind,
    is_request: bool,
    shard: u64,
    /// Its key's number in its thread and shard, and where its range ends.
    key: (u64, u64),
    random: u64,
}

const KEYS: u64 = 30;
const RANGE_KEYS: u64 = 3;

fn key_of(shard: u64, thread: u64, key: u64) -> String {
    format!("{shard}/{thread}/{key:02}")
}

fn stream_of(shard: u64, thread: u64) -> String {
    format!("{shard}/{thread}/stream")
}

fn planned(seed: u64, id: Id) -> Planned {
    let random = random(&[seed, id.0, id.1, id.2]);
    let kind = match random % 16 {
        0..=6 => Kind::Put,
        7 => Kind::Delete,
        8 => Kind::DeleteRange,
        9..=13 => Kind::Append,
        14 => Kind::RefusedPut,
        _ => Kind::RefusedAppend,
    };
    let key = (random >> 8) % KEYS;
    let end = if kind == Kind::DeleteRange { key + RANGE_KEYS } else { key + 1 };
    Planned {
        id,
        kind,
        is_request: (random >> 20).is_multiple_of(3),
        shard: (random >> 24) % SHARDS,
        key: (key, end),
        random,
    }
}

impl Planned {
    /// 10 bytes to 4 KiB that say whose they are, and that no compression makes less of.
    fn value(&self) -> Vec<u8> {
        let (round, thread, number) = self.id;
        let mut value = format!("{round} {thread} {number} ").into_bytes();
        let bytes = 10 + ((self.random >> 32) % 4087) as usize;
        let words = (0..).flat_map(|word| random(&[self.random, word]).to_le_bytes());
        let missing = bytes.saturating_sub(value.len());
        value.extend(words.take(missing));
        value
    }

    fn key(&self) -> String {
        key_of(self.shard, self.id.1, self.key.0)
    }

    fn stream(&self) -> String {
        stream_of(self.shard, self.id.1)
    }

    /// As it is submitted while the stream of its shard has this version.
    fn write(&self, head: u64) -> Write {
        let never = Expect::Version(u64::MAX);
        match self.kind {
            Kind::Put => Write::new().put(self.key(), self.value()),
            Kind::Delete => Write::new().delete(self.key()),
            Kind::DeleteRange => Write::new().delete_range(self.key(), key_of(self.shard, self.id.1, self.key.1)),
            Kind::Append if head == 0 => Write::new().append(self.stream(), Expect::Absent, self.value()),
            Kind::Append => Write::new().append(self.stream(), Expect::Version(head), self.value()),
            Kind::RefusedPut => Write::new().expect(self.key(), never).put(self.key(), self.value()),
            Kind::RefusedAppend => Write::new().append(self.stream(), never, self.value()),
        }
    }
}

enum Pending {
    Plain(Receipt),
    Request(SessionReceipt),
}

impl Pending {
    fn wait(self) -> Written {
        match self {
            Self::Plain(receipt) => receipt.wait().unwrap(),
            Self::Request(receipt) => receipt.wait().unwrap(),
        }
    }
}

/// Writes without an end, and says what is acknowledged: thread, number, version.
fn write_on(space: &Namespace, seed: u64, round: u64, thread: u64) {
    let session = space.open_session().unwrap();
    let head = |shard| {
        let stream = stream_of(shard, thread);
        space.read_stream(stream, 1, Direction::Forward, (1, 1), Read::Linearizable).unwrap().head
    };
    let mut heads: Vec<u64> = (0..SHARDS).map(head).collect();
    let mut waiting = VecDeque::new();
    for number in 1.. {
        let planned = planned(seed, (round, thread, number));
        let head = &mut heads[planned.shard as usize];
        let write = planned.write(*head);
        *head += u64::from(planned.kind == Kind::Append);
        let pending = if planned.is_request {
            Pending::Request(session.write(write).unwrap())
        } else {
            Pending::Plain(space.write(write).unwrap())
        };
        waiting.push_back((planned, pending));
        if waiting.len() == WINDOW {
            let (planned, pending) = waiting.pop_front().unwrap();
            let version = match (planned.kind, pending.wait().outcome) {
                (Kind::RefusedPut, Outcome::Rejected(Rejection::Precondition { .. }))
                | (Kind::RefusedAppend, Outcome::Rejected(Rejection::StreamVersion { .. })) => 0,
                (Kind::RefusedPut | Kind::RefusedAppend, outcome) => panic!("{outcome:?}"),
                (_, outcome) => outcome.applied().unwrap(),
            };
            println!("{MARK}{thread} {} {version}", planned.id.2);
        }
    }
}

/// What wrote a key last, and with which version if that is known; none: it is absent.
type Last = Option<(Id, Option<u64>)>;

/// What the state may hold after all that was acknowledged, and what was under way.
#[derive(Default)]
struct Model {
    /// What each key may hold.
    keys: BTreeMap<String, Vec<Last>>,
    appended: BTreeMap<String, Vec<(Id, u64)>>,
}

impl Model {
    /// What one process did.
    fn note(&mut self, seed: u64, round: u64, said: &[String]) {
        let mut versions = vec![Vec::new(); THREADS as usize];
        for line in said {
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            let [thread, number, version] = numbers[..] else { panic!("{line}") };
            versions[thread as usize].push(version);
            assert_eq!(number, versions[thread as usize].len() as u64, "each thread waits in order");
        }
        for (thread, versions) in (0..).zip(versions) {
            let under_way = std::iter::repeat_n(None, WINDOW);
            for (number, version) in (1..).zip(versions.into_iter().map(Some).chain(under_way)) {
                self.note_one(&planned(seed, (round, thread, number)), version);
            }
        }
    }

    fn note_one(&mut self, planned: &Planned, version: Option<u64>) {
        let written = match planned.kind {
            Kind::Put => Some((planned.id, version)),
            Kind::Delete | Kind::DeleteRange => None,
            Kind::Append => {
                let appended = self.appended.entry(planned.stream()).or_default();
                appended.extend(version.map(|version| (planned.id, version)));
                return;
            }
            Kind::RefusedPut | Kind::RefusedAppend => return,
        };
        for key in planned.key.0..planned.key.1 {
            let key = key_of(planned.shard, planned.id.1, key);
            let possible = self.keys.entry(key).or_insert_with(|| vec![None]);
            if version.is_some() {
                possible.clear();
            }
            possible.push(written);
        }
    }

    fn check(&self, space: &Namespace, seed: u64, context: &str) {
        let (mut found, mut next) = (BTreeMap::new(), Some(Scan::all()));
        while let Some(scan) = next {
            let page = space.scan(&scan, Read::Linearizable).unwrap();
            let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
            found.extend(page.entries.into_iter().map(|entry| (text(&entry.key), (entry.version, entry.value))));
            next = page.next;
        }
        for (key, possible) in &self.keys {
            let found = found.remove(key);
            let is_possible = possible.iter().any(|written| match (written, &found) {
                (None, None) => true,
                (Some((id, acknowledged)), Some((version, value))) => {
                    acknowledged.is_none_or(|acknowledged| acknowledged == *version)
                        && planned(seed, *id).value() == *value
                }
                _ => false,
            });
            let version = found.map(|(version, _)| version);
            assert!(is_possible, "{context}: {key} has version {version:?}, and may be {possible:?}");
        }
        assert!(found.is_empty(), "{context}: nobody wrote {:?}", found.keys());
        for (stream, appended) in &self.appended {
            check_stream(space, seed, (stream, appended), context);
        }
    }
}

/// A stream holds whole events, each once, in the order of its thread, and those that were acknowledged at their versions.
fn check_stream(space: &Namespace, seed: u64, (stream, appended): (&str, &[(Id, u64)]), context: &str) {
    let all = (usize::MAX, usize::MAX);
    let read = space.read_stream(stream, 1, Direction::Forward, all, Read::Linearizable).unwrap();
    let mut ids = Vec::new();
    for (event, version) in read.events.iter().zip(1..) {
        let mut numbers = event.value.split(|byte| *byte == b' ').map(String::from_utf8_lossy);
        let mut number = || numbers.next().unwrap().parse::<u64>().unwrap();
        let planned = planned(seed, (number(), number(), number()));
        assert!(planned.kind == Kind::Append && planned.stream() == stream, "{context}: {:?}", planned.id);
        assert!(event.value == planned.value() && event.version == version, "{context}: {:?}", planned.id);
        ids.push(planned.id);
    }
    assert!(ids.is_sorted_by(|one, other| one < other), "{context}: {stream}: {ids:?}");
    for (id, version) in appended {
        assert_eq!(ids.get(*version as usize - 1), Some(id), "{context}: version {version} of {stream}");
    }
}

/// The digest of each shard when all is applied that the log held, and how many records that took.
fn digests(node: &Node) -> (Vec<(ShardId, [u8; 16])>, u64) {
    let space = space(node);
    space.scan(&Scan::all().limit(1), Read::Linearizable).unwrap();
    let digests = space.digest().unwrap().into_iter().map(|(shard, _, digest)| (shard, digest)).collect();
    (digests, node.stats().unwrap().shards.iter().map(|shard| shard.records).sum())
}

/// The killed directory is only copied: each process but the first goes on from what a kill left.
#[test]
fn i4_what_a_killed_node_replays_from_its_last_flush_is_what_the_whole_log_makes_and_all_that_was_acknowledged() {
    for_each_seed(&[1], |seed| {
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let (mut replayed_some, mut replayed_less) = (false, false);
        for round in 1..=5 {
            let context = format!("seed {seed}, round {round}");
            let count = 500 + random(&[seed, round]) % 3000;
            let running = Running::start("writes", directory.path(), seed, round);
            model.note(seed, round, &running.kill_after(count, &context));

            let copy = tempfile::tempdir().unwrap();
            copy_directory(&directory.path().join("node"), copy.path());
            let node = open(copy.path(), 2 << 20);
            let (from_flush, replayed) = digests(&node);
            model.check(&space(&node), seed, &context);
            node.close().unwrap();
            // The log has one record more now, the start of an epoch: no part of what is compared.
            fs::remove_dir_all(copy.path().join("state")).unwrap();
            let node = open(copy.path(), 2 << 20);
            let (from_log, all) = digests(&node);
            node.close().unwrap();
            assert_eq!(from_flush, from_log, "I4, {context}: {replayed} of {all} records replayed");
            replayed_some |= replayed > 0;
            replayed_less |= replayed < all;
            eprintln!("{context}: {count} acknowledged, {replayed} of {all} records replayed");
        }
        assert!(replayed_some && replayed_less, "seed {seed}: no flush, or no kill behind one");
        let mut state = fs::read_dir(directory.path().join("node/state")).unwrap();
        let is_blob = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "blob");
        assert!(state.any(|entry| is_blob(entry.unwrap())), "seed {seed}: no value lies in a file of its own");
    });
}

/// One seed is what there is time for; more of them: `TOWLINE_CRASH_SEEDS=100..200`.
fn for_each_seed(seeds: &[u64], test: impl Fn(u64)) {
    match std::env::var("TOWLINE_CRASH_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("a range of seeds");
            (from.parse().unwrap()..to.parse().unwrap()).for_each(test);
        }
        Err(_) => seeds.iter().copied().for_each(test),
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own that is killed"]
fn writes() {
    let (directory, seed, round) = told();
    let node = open(&directory.join("node"), 2 << 20);
    let space = space(&node);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let space = &space;
            scope.spawn(move || write_on(space, seed, round, thread));
        }
    });
}

/// What a client of a session keeps: a file of lines, each written before what it tells is done.
struct Client {
    index: u64,
    file: File,
    session: Session,
    kept: Kept,
}

/// What the lines say.
#[derive(Default)]
struct Kept {
    state: Option<SessionState>,
    /// The stream of each request; its event is made of its number.
    requests: BTreeMap<u64, String>,
    /// The version, and all of the answer.
    answers: BTreeMap<u64, (u64, String)>,
    dropped: BTreeSet<u64>,
    given_up: BTreeSet<u64>,
}

impl Kept {
    fn read(path: &Path) -> Self {
        let mut kept = Self::default();
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number: u64 = words[1].parse().unwrap();
            match words[0] {
                "keep" => {
                    kept.state = Some(words[3].parse().unwrap());
                    if number > 0 {
                        kept.requests.insert(number, words[2].to_owned());
                    }
                }
                "answer" => drop(kept.answers.insert(number, (words[2].parse().unwrap(), words[3..].join(" ")))),
                "dropped" => drop(kept.dropped.insert(number)),
                "gave-up" => drop(kept.given_up.insert(number)),
                _ => panic!("{line}"),
            }
        }
        kept
    }
}

impl Client {
    /// Begins, or goes on where a kill left it: what waits is tried again, from the last one back, when none may overtake one
    /// that the kill took; and then in order, and twice.
    fn resume(space: &Namespace, directory: &Path, index: u64) -> Self {
        let path = directory.join(format!("session-{index}"));
        let kept = Kept::read(&path);
        let file = File::options().create(true).append(true).open(path).unwrap();
        let session = match &kept.state {
            Some(state) => space.resume_session(state.clone()),
            None => space.open_session().unwrap(),
        };
        let mut client = Self { index, file, session, kept };
        client.kept.given_up.iter().for_each(|number| client.session.give_up(*number));
        client.keep(0, "-");
        for number in client.session.state().waiting.into_keys().rev() {
            client.keep(0, "-");
            let written = client.retry(number).wait().unwrap();
            if !matches!(written.outcome, Outcome::Rejected(Rejection::OutOfOrder { .. })) {
                client.answered(number, &written);
            }
        }
        for number in client.session.state().waiting.into_keys() {
            for _ in 0..2 {
                client.keep(0, "-");
                let written = client.retry(number).wait().unwrap();
                client.answered(number, &written);
            }
        }
        client
    }

    fn say(&mut self, line: &str) {
        self.file.write_all(format!("{line}\n").as_bytes()).unwrap();
        println!("{MARK}{}", line.split(' ').next().unwrap_or_default());
    }

    /// Keeps the state, and a request if its number is not 0: before each submission, so that no answer is forgotten by the
    /// shard which this state still waits for. (But of dropped receipts: those the session itself waits for.)
    fn keep(&mut self, number: u64, stream: &str) {
        let state = self.session.state();
        self.say(&format!("keep {number} {stream} {state}"));
    }

    fn retry(&self, number: u64) -> SessionReceipt {
        let event = format!("{}-{number}", self.index);
        let write = Write::new().append(self.kept.requests[&number].clone(), Expect::Any, event);
        self.session.retry(number, write).unwrap()
    }

    fn answered(&mut self, number: u64, written: &Written) {
        let answer = format!("{written:?}");
        match written.outcome {
            Outcome::Applied { version } => match self.kept.answers.get(&number) {
                Some((_, first)) => assert_eq!(*first, answer, "I5: {}-{number}", self.index),
                None => {
                    self.say(&format!("answer {number} {version} {answer}"));
                    self.kept.answers.insert(number, (version, answer));
                }
            },
            Outcome::Rejected(Rejection::Retired) => {
                let nobody_waits = self.kept.dropped.contains(&number) || self.kept.given_up.contains(&number);
                assert!(nobody_waits, "I5: {}-{number} has no answer any more", self.index);
            }
            other => panic!("{}-{number}: {other:?}", self.index),
        }
    }

    /// Takes numbers without an end, and does with each what a client may do.
    fn work(&mut self, seed: u64, round: u64) {
        let mut pending = VecDeque::new();
        for step in 0.. {
            let random = random(&[seed, round, self.index, step]);
            let number = self.session.next_number().unwrap();
            let stream = format!("{}/{}", (random >> 8) % SHARDS, (random >> 16) % 2);
            self.kept.requests.insert(number, stream.clone());
            self.keep(number, &stream);
            match random % 16 {
                0 => self.give_up(number),
                1..=3 => {
                    let receipt = self.retry(number);
                    self.say(&format!("dropped {number}"));
                    self.kept.dropped.insert(number);
                    drop(receipt);
                }
                // Given up while it is under way; and then tried once more.
                4 => {
                    let first = self.retry(number);
                    self.give_up(number);
                    let late = self.retry(number);
                    for receipt in [first, late] {
                        self.answered(number, &receipt.wait().unwrap());
                    }
                }
                5 | 6 => {
                    for receipt in [self.retry(number), self.retry(number)] {
                        self.answered(number, &receipt.wait().unwrap());
                    }
                }
                7 => {
                    pending.push_back(self.retry(number));
                    let waiting = self.session.state().waiting;
                    let dropped = waiting.into_keys().find(|number| self.kept.dropped.contains(number));
                    if let Some(number) = dropped {
                        let written = self.retry(number).wait().unwrap();
                        self.answered(number, &written);
                    }
                }
                _ => pending.push_back(self.retry(number)),
            }
            if pending.len() == WINDOW {
                for receipt in pending.drain(..WINDOW / 2) {
                    let number = receipt.number();
                    self.answered(number, &receipt.wait().unwrap());
                }
            }
        }
    }

    fn give_up(&mut self, number: u64) {
        self.say(&format!("gave-up {number}"));
        self.kept.given_up.insert(number);
        self.session.give_up(number);
    }
}

const CLIENTS: u64 = 3;

#[test]
fn i5_i6_each_request_of_a_client_that_is_killed_with_its_node_has_one_effect_in_order_and_its_first_answer() {
    for_each_seed(&[1], |seed| {
        let directory = tempfile::tempdir().unwrap();
        for round in 1..=10 {
            let count = 1 + random(&[seed, round]) % 1500;
            let running = Running::start("requests", directory.path(), seed, round);
            running.kill_after(count, &format!("seed {seed}, round {round}"));
        }
        let node = open(&directory.path().join("node"), 256 << 10);
        let space = space(&node);
        let resume = |index| Client::resume(&space, directory.path(), index).kept;
        let kept: Vec<Kept> = (0..CLIENTS).map(resume).collect();

        // In the order of each shard, and by their streams.
        let (mut orders, mut streams) = (BTreeMap::<_, Vec<u64>>::new(), BTreeMap::<_, Vec<(u64, u64)>>::new());
        let mut feed = space.subscribe(Since::Beginning, Filter::All).unwrap();
        while let Some(change) = feed.wait_for(std::time::Duration::ZERO).unwrap() {
            for operation in change.operations {
                let Operation::Append { stream, value, .. } = operation else { panic!("{operation:?}") };
                let (client, number) = client_and_number(&value);
                orders.entry((change.shard, client)).or_default().push(number);
                let stream = String::from_utf8(stream.to_vec()).unwrap();
                streams.entry(stream).or_default().push((client, number));
            }
        }
        for ((shard, client), numbers) in orders {
            assert!(
                numbers.is_sorted_by(|one, other| one < other),
                "I5, I6, seed {seed}: {shard:?} {client}: {numbers:?}"
            );
        }
        let mut effects = BTreeMap::new();
        for (stream, log) in &streams {
            let all = (usize::MAX, usize::MAX);
            let read = space.read_stream(stream, 1, Direction::Forward, all, Read::Linearizable).unwrap();
            let found: Vec<_> = read.events.iter().map(|event| client_and_number(&event.value)).collect();
            assert_eq!(found, *log, "seed {seed}: the state is what the feed tells");
            for (event, version) in found.into_iter().zip(1_u64..) {
                assert_eq!(effects.insert(event, (stream, version)), None, "I5, seed {seed}: {event:?} twice");
            }
        }
        let (mut requests, mut answers) = (0, 0);
        for (client, kept) in (0..).zip(&kept) {
            (requests, answers) = (requests + kept.requests.len(), answers + kept.answers.len());
            for (number, stream) in &kept.requests {
                match (effects.remove(&(client, *number)), kept.answers.get(number)) {
                    (Some((of, version)), Some((told, _))) => {
                        assert_eq!((of, version), (stream, *told), "I5, seed {seed}: {client}-{number}");
                    }
                    (Some((of, _)), None) => assert_eq!(of, stream),
                    (None, Some(told)) => panic!("I5, seed {seed}: {client}-{number} is lost: {told:?}"),
                    (None, None) => {
                        assert!(kept.given_up.contains(number), "I5, seed {seed}: {client}-{number} is lost");
                    }
                }
            }
        }
        assert!(effects.is_empty(), "seed {seed}: nobody asked for {effects:?}");
        assert!(answers > 500 && requests > answers, "seed {seed}: {requests} requests, {answers} answers");
        eprintln!("seed {seed}: {requests} requests, {answers} answers");
        node.close().unwrap();
    });
}

fn client_and_number(event: &[u8]) -> (u64, u64) {
    let (client, number) = std::str::from_utf8(event).unwrap().split_once('-').unwrap();
    (client.parse().unwrap(), number.parse().unwrap())
}

#[test]
#[ignore = "run by the test above, in a process of its own that is killed"]
fn requests() {
    let (directory, seed, round) = told();
    let node = open(&directory.join("node"), 256 << 10);
    let space = space(&node);
    std::thread::scope(|scope| {
        for index in 0..CLIENTS {
            let (space, directory) = (&space, &directory);
            scope.spawn(move || Client::resume(space, directory, index).work(seed, round));
        }
    });
}

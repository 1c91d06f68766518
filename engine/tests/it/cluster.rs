//! Three nodes on loopback, in one process: identical logs, catch-up, a leader that comes back.

use bytes::Bytes;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use towline::model::limits::{VALUE_BYTES_MAX, WRITE_BYTES_MAX};
use towline::model::request::Direction;
use towline::model::{ClusterId, Expect, NodeId, Operation, Outcome, Read, Record};
use towline::node::{Config, ReadError, ServerHandle, WriteRefused, serve};
use towline::pipeline::WriteError;
use towline_wal::inspect;

const CLUSTER: &str = "0193aabb-ccdd-7eff-8000-010203040506";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    ports: Vec<u16>,
    servers: Vec<Option<ServerHandle>>,
    quorum_seconds: u64,
    /// More of the configuration.
    limits: String,
    /// Where it is, if not in a directory that goes with it.
    place: Option<std::path::PathBuf>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        // On a busy machine a node may take long to come back; who does not test it must not see its leader give up.
        let mut cluster = Self::of(600);
        (0..3).for_each(|index| cluster.start(index));
        cluster
    }

    /// One whose leader waits no longer for a majority than it must.
    pub(crate) fn hasty() -> Self {
        let mut cluster = Self::of(1);
        (0..3).for_each(|index| cluster.start(index));
        cluster
    }

    /// A cluster of three that has begun, with all of them, as it must; one is stopped since.
    pub(crate) fn without(missing: usize) -> Self {
        let mut cluster = Self::new();
        until("the cluster begins", || cluster.server(0).node().is_serving());
        cluster.stop(missing);
        cluster
    }

    fn of(quorum_seconds: u64) -> Self {
        // Held together while they are chosen, so that they differ.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(held);
        let servers = (0..3).map(|_| None).collect();
        let (limits, place) = (String::new(), None);
        Self { directory: tempfile::tempdir().unwrap(), ports, servers, quorum_seconds, limits, place }
    }

    /// With this in its configuration, behind what is in `[limits]`.
    pub(crate) fn limited(limits: &str) -> Self {
        Self::limited_in(limits, None)
    }

    /// The same, in a directory that stays.
    pub(crate) fn in_place(limits: &str, directory: &Path) -> Self {
        Self::limited_in(limits, Some(directory.to_owned()))
    }

    fn limited_in(limits: &str, place: Option<std::path::PathBuf>) -> Self {
        let mut cluster = Self::of(600);
        (cluster.limits, cluster.place) = (limits.to_owned(), place);
        (0..3).for_each(|index| cluster.start(index));
        cluster
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.config(0).cluster
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    fn config(&self, index: usize) -> Config {
        let mut text = format!(
            "cluster = \"{CLUSTER}\"\nnode_id = {}\ndata_dir = \"node-{index}\"\nlisten = \"127.0.0.1:{}\"\n\n\
             [shard]\nleader = 1\n\n[limits]\nquorum_seconds = {}\n{}\n",
            index + 1,
            self.ports[index],
            self.quorum_seconds,
            self.limits
        );
        for (peer, port) in self.ports.iter().enumerate() {
            text.push_str(&format!("\n[[node]]\nid = {}\naddress = \"127.0.0.1:{port}\"\n", peer + 1));
        }
        Config::parse(&self.place().join("node.toml"), &text).unwrap()
    }

    pub(crate) fn start(&mut self, index: usize) {
        let config = self.config(index);
        self.servers[index] = Some(serve(&config).unwrap());
    }

    /// The same, with this in its configuration and in that of all that start from now on.
    pub(crate) fn start_with(&mut self, index: usize, limits: &str) {
        limits.clone_into(&mut self.limits);
        self.start(index);
    }

    pub(crate) fn stop(&mut self, index: usize) {
        self.servers[index].take().unwrap().shutdown().unwrap();
    }

    pub(crate) fn server(&self, index: usize) -> &ServerHandle {
        self.servers[index].as_ref().unwrap()
    }

    fn write(&self, number: u64) {
        self.write_at(0, number);
    }

    pub(crate) fn write_at(&self, leader: usize, number: u64) {
        let append = Operation::Append {
            stream: Bytes::from(format!("stream-{}", number % 7)),
            expect: Expect::Any,
            metadata: Bytes::new(),
            value: Bytes::from(number.to_string()),
        };
        let receipt = self.server(leader).node().default_namespace().write(Record::of(vec![append])).unwrap();
        let written = receipt.wait_for(PATIENCE).unwrap().expect("an answer in time");
        assert!(matches!(written.outcome, Outcome::Applied { .. }));
    }

    pub(crate) fn applied(&self, index: usize) -> u64 {
        self.server(index).node().status().unwrap().applied
    }

    pub(crate) fn log_path(&self, index: usize) -> std::path::PathBuf {
        self.path(index).join("wal")
    }

    pub(crate) fn path(&self, index: usize) -> std::path::PathBuf {
        self.place().join(format!("node-{index}"))
    }

    fn place(&self) -> &Path {
        self.place.as_deref().unwrap_or_else(|| self.directory.path())
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for real servers")]
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Each batch of the one log in a directory, by its bytes.
pub(crate) fn batches(directory: &Path) -> Vec<Bytes> {
    let logs = inspect::logs(directory).unwrap();
    let (log, ..) = logs.first().expect("a log");
    inspect::batches(directory, *log).unwrap().into_iter().map(|batch| batch.bytes().clone()).collect()
}

#[test]
fn i2_three_nodes_hold_identical_logs_and_states_through_restarts_of_a_follower_and_of_the_leader() {
    let mut cluster = Cluster::new();
    until("the leader serves", || cluster.server(0).node().is_serving());
    (0..100).for_each(|number| cluster.write(number));
    cluster.stop(2);
    (100..200).for_each(|number| cluster.write(number));
    cluster.start(2);
    let end = cluster.server(0).node().status().unwrap().end;
    until("the follower catches up", || cluster.applied(2) == end);
    cluster.stop(0);
    cluster.start(0);
    until("the leader serves again, in a new term", || cluster.server(0).node().is_serving());
    (200..300).for_each(|number| cluster.write(number));
    let end = cluster.server(0).node().status().unwrap().end;
    until("everybody applied everything", || (0..3).all(|index| cluster.applied(index) == end));
    let digests: Vec<_> = (0..3).map(|index| cluster.server(index).node().digest().unwrap()).collect();
    assert_eq!(digests[0], digests[1], "I4");
    assert_eq!(digests[0], digests[2], "I4");
    (0..3).for_each(|index| cluster.stop(index));
    let logs: Vec<_> = (0..3).map(|index| batches(&cluster.log_path(index))).collect();
    assert!(logs[0].len() > 3);
    assert!(logs[0] == logs[1] && logs[0] == logs[2], "I2: the logs differ");
}

#[test]
fn a_write_waits_for_a_majority_and_goes_on_when_it_is_back() {
    let mut cluster = Cluster::new();
    until("the leader serves", || cluster.server(0).node().is_serving());
    cluster.stop(1);
    cluster.write(1);
    cluster.stop(2);
    let append = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v") };
    let receipt = cluster.server(0).node().default_namespace().write(Record::of(vec![append])).unwrap();
    assert_eq!(receipt.wait_for(Duration::from_millis(300)).unwrap(), None, "I1: one of three is no majority");
    cluster.start(1);
    assert!(receipt.wait_for(PATIENCE).unwrap().is_some());
    (0..2).for_each(|index| cluster.stop(index));
}

/// Bytes that do not shrink.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut state = seed | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..bytes).map(step).collect::<Vec<u8>>().into()
}

#[test]
fn a_write_of_the_largest_size_is_replicated_and_does_not_stop_those_behind_it() {
    let mut cluster = Cluster::new();
    until("the leader serves", || cluster.server(0).node().is_serving());
    let put = |key: &'static str, value| Operation::Put { key: Bytes::from_static(key.as_bytes()), value };
    let rest = WRITE_BYTES_MAX - VALUE_BYTES_MAX - 1024;
    let record = Record::of(vec![put("a", noise(1, VALUE_BYTES_MAX)), put("b", noise(2, rest))]);
    let receipts: Vec<_> =
        (0..3).map(|_| cluster.server(0).node().default_namespace().write(&record).unwrap()).collect();
    for receipt in receipts {
        assert!(receipt.wait_for(PATIENCE).unwrap().is_some(), "an answer in time");
    }
    (0..10).for_each(|number| cluster.write(number));
    let end = cluster.server(0).node().status().unwrap().end;
    until("everybody applied everything", || (0..3).all(|index| cluster.applied(index) == end));
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn a_follower_takes_no_writes_and_says_who_does() {
    let mut cluster = Cluster::new();
    let record = Record::of(vec![Operation::Delete { key: Bytes::from_static(b"k") }]);
    let refused = cluster.server(1).node().default_namespace().write(&record).map(drop).unwrap_err();
    assert!(matches!(refused, WriteRefused::NotLeader(leader) if leader == NodeId::new(1)), "{refused}");
    (0..3).for_each(|index| cluster.stop(index));
}

#[test]
fn a_leader_without_a_majority_gives_up_says_so_to_whoever_waits_and_leads_again_when_it_is_back() {
    let mut cluster = Cluster::hasty();
    until("the leader serves", || cluster.server(0).node().is_serving());
    (0..20).for_each(|number| cluster.write(number));
    (1..3).for_each(|index| cluster.stop(index));
    let space = cluster.server(0).node().default_namespace();
    let put = |key: &'static str| space.put(key, "v").unwrap();
    // It is in the log, so another leader may take it over; what waited behind it is refused without effect.
    let sealed = put("k").wait_for(PATIENCE);
    assert!(matches!(sealed, Err(WriteError::Unknown | WriteError::NotLeader)), "{sealed:?}");
    until("it gives up", || !cluster.server(0).node().is_serving());
    let late = put("late").wait_for(PATIENCE);
    assert_eq!(late, Err(WriteError::NotLeader), "TW-5105: it has no effect");
    let hasty = space.clone().reading_within(Duration::from_millis(100));
    let unread = hasty.get("k", Read::Linearizable).unwrap_err();
    assert!(matches!(unread, ReadError::NotYet { .. } | ReadError::Unconfirmed { .. }), "{unread}");
    assert!(space.get("k", Read::Eventual).is_ok());
    cluster.start(2);
    until("it leads again, in a new term", || cluster.server(0).node().is_serving());
    (20..40).for_each(|number| cluster.write(number));
    assert_eq!(space.get("late", Read::Linearizable).unwrap(), None);
    let end = cluster.server(0).node().status().unwrap().end;
    until("both applied everything", || [0, 2].into_iter().all(|index| cluster.applied(index) == end));
    assert_eq!(cluster.server(0).node().digest().unwrap(), cluster.server(2).node().digest().unwrap(), "I4");
    let read = space.read_stream("stream-0", 1, Direction::Forward, (100, 1 << 20), Read::Linearizable).unwrap();
    assert_eq!(read.head, 6, "0, 7, 14, 21, 28, 35");
    [0, 2].into_iter().for_each(|index| cluster.stop(index));
}

#[test]
fn a_leader_that_lost_its_majority_closes_all_the_same_and_says_that_the_outcome_is_unknown() {
    let mut cluster = Cluster::new();
    until("the leader serves", || cluster.server(0).node().is_serving());
    (1..3).for_each(|index| cluster.stop(index));
    let record = Record::of(vec![Operation::Delete { key: Bytes::from_static(b"k") }]);
    let receipt = cluster.server(0).node().default_namespace().write(&record).unwrap();
    cluster.stop(0);
    assert_eq!(receipt.wait_for(Duration::ZERO), Err(WriteError::Unknown));
}

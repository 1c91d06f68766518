//! Servers of one cluster, in one process, and a shard of one of them that is made to stand as a test wants it.

use super::*;
use crate::model::call::ReadAt;
use crate::model::{Lsn, Read};
use crate::node::Namespace;
use crate::node::feed::new_key;
use crate::node::hosting::ShardHandle;
use crate::node::refusals::tests::Lines;
use crate::node::scrubber::tests::{noise, put, rot, until};
use crate::node::shard::{Event as ShardEvent, now};

struct Servers {
    directory: tempfile::TempDir,
    ports: Vec<u16>,
    /// What stands in the configuration of each.
    more: Vec<String>,
    running: Vec<Option<ServerHandle>>,
}

impl Servers {
    /// One for each of these parts of a configuration; none runs.
    fn new(more: &[&str]) -> Self {
        // Held together while they are chosen, so that they differ.
        let held: Vec<_> = more.iter().map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let more = more.iter().map(|more| (*more).to_owned()).collect::<Vec<_>>();
        let running = more.iter().map(|_| None).collect();
        Self { directory: tempfile::tempdir().unwrap(), ports, more, running }
    }

    /// They run, and the first one leads the default namespace.
    fn serving(more: &[&str]) -> Self {
        let mut servers = Self::new(more);
        (0..more.len()).for_each(|index| servers.start(index));
        until("the first one leads", || servers.node(0).is_serving());
        servers
    }

    fn start(&mut self, index: usize) {
        let mut text = format!(
            "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = {}\ndata_dir = 'node-{index}'\n\
             listen = '127.0.0.1:{}'\nshard = {{ leader = 1 }}\nlimits = {{ quorum_seconds = 600 }}\n{}\n",
            index + 1,
            self.ports[index],
            self.more[index]
        );
        for (peer, port) in self.ports.iter().enumerate() {
            text.push_str(&format!("[[node]]\nid = {}\naddress = '127.0.0.1:{port}'\n", peer + 1));
        }
        let config = Config::parse(&self.directory.path().join("node.toml"), &text).unwrap();
        self.running[index] = Some(serve(&config).unwrap());
    }

    fn stop(&mut self, index: usize) {
        self.running[index].take().unwrap().shutdown().unwrap();
    }

    fn stop_all(mut self) {
        for server in self.running.drain(..).flatten() {
            server.shutdown().unwrap();
        }
    }

    fn server(&self, index: usize) -> &ServerHandle {
        self.running[index].as_ref().unwrap()
    }

    fn node(&self, index: usize) -> &Node {
        self.server(index).node()
    }

    fn shard(&self, index: usize, name: &str, number: usize) -> Arc<ShardHandle> {
        Arc::clone(&self.node(index).shared.registry.named(name).unwrap().shards[number])
    }

    fn default_shard(&self, index: usize) -> Arc<ShardHandle> {
        self.shard(index, crate::node::NAMESPACE_NAME, 0)
    }

    /// The one of this index has applied everything that the first one has in its log.
    fn has_all(&self, index: usize) -> bool {
        let end = self.node(0).status().unwrap().end;
        self.default_shard(index).positions.applied().get() == end
    }

    fn path(&self, index: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("node-{index}"))
    }

    async fn asker(&self, index: usize) -> (Asker, StreamId) {
        let asker = Asker::connect(self.server(index).address()).await;
        let stream = asker.open(StreamKind::Request);
        (asker, stream)
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn write(key: &str) -> RequestBody {
    RequestBody::Write { record: Write::new().put(key.to_owned(), "1").record().encode().unwrap().to_vec() }
}

fn read_no_older_than(staleness: Duration) -> RequestBody {
    let micros = u64::try_from(staleness.as_micros()).unwrap();
    RequestBody::Call(Call::MultiGet { keys: vec![b"k".to_vec()], read: ReadAt::MaxStaleness { micros } })
}

fn reads(space: &Namespace, staleness: Duration) -> bool {
    space.get("k", Read::MaxStaleness(staleness)).is_ok()
}

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_write_to_a_node_that_comes_to_lead_is_held_until_it_serves_and_then_answered() {
    let servers = Servers::serving(&["", "", ""]);
    let shard = servers.default_shard(0);
    let serving = shard.positions.serving();
    run(async {
        let (mut asker, stream) = servers.asker(0).await;
        for id in 0..2 {
            // The second time is another one: it is held again.
            shard.positions.set_serving(None);
            asker.ask(stream, id, write("k")).await;
            timeout(MOMENT, asker.message()).await.expect_err("it is held");
            shard.positions.set_serving(serving);
            let answer = asker.response().await;
            assert!(matches!(&answer, (answered, ResponseBody::Written { .. }) if *answered == id), "{answer:?}");
        }
    });
    servers.stop_all();
}

/// Each of its writes was held for a second of its own, and every other shard's behind it in the same line.
#[test]
fn a_shard_that_comes_to_lead_and_does_not_holds_up_those_of_others_once_and_no_longer() {
    const ORDERS: &str = "[[namespace]]\nname = 'orders'\nsplit_at = ['h', 'p']";
    const PAIRS: u64 = 12;
    let servers = Servers::serving(&[ORDERS; 3]);
    let stuck = servers.shard(0, "orders", 1);
    until("it leads that one as well", || stuck.positions.serving().is_some());
    let serving = stuck.positions.serving();
    stuck.positions.set_serving(None);
    run(async {
        let (mut asker, stream) = servers.asker(0).await;
        let begun = now();
        for id in 0..PAIRS {
            asker.ask_of("orders", stream, 2 * id, 0, write("k")).await;
            asker.ask(stream, 2 * id + 1, write("k")).await;
            let answers = [asker.response().await, asker.response().await];
            assert!(
                answers.iter().any(|(of, it)| *of == 2 * id && matches!(it, ResponseBody::Failed(_))),
                "{answers:?}"
            );
            let of_the_other =
                |(of, it): &(u64, ResponseBody)| of % 2 == 1 && matches!(it, ResponseBody::Written { .. });
            assert!(answers.iter().any(of_the_other), "{answers:?}");
        }
        let took = now().saturating_duration_since(begun);
        assert!(took < Duration::from_secs(PAIRS / 2), "one second for all of them: {took:?}");
        assert!(took > Duration::from_millis(900), "the first one is held: {took:?}");
        // Once it serves, that is over.
        stuck.positions.set_serving(serving);
        asker.ask_of("orders", stream, 100, 0, write("k")).await;
        assert!(matches!(asker.response().await, (100, ResponseBody::Written { .. })));
        stuck.positions.set_serving(None);
        asker.ask_of("orders", stream, 101, 0, write("k")).await;
        timeout(MOMENT, asker.message()).await.expect_err("it is held anew");
        stuck.positions.set_serving(serving);
        assert!(matches!(asker.response().await, (101, ResponseBody::Written { .. })));
    });
    servers.stop_all();
}

/// It was let go by the policy, while nobody was there who could say whether he has it: the replica heard nothing of that, and asked
/// from where it had no position any more.
#[test]
fn d12_damage_that_was_let_go_while_nobody_was_connected_is_forgotten_and_the_follower_goes_on() {
    const LITTLE: &str =
        "log = { retention_bytes = 100_000, follower_bytes = 200_000_000, scrub_bytes_per_second = 0 }";
    let mut servers = Servers::serving(&[LITTLE; 3]);
    let third = servers.default_shard(2);
    put(servers.node(0), 0..40);
    until("everybody has everything", || (0..3).all(|index| servers.has_all(index)));
    let (wal, log) = (Arc::clone(&servers.node(2).shared.host.wal), third.log);
    assert_eq!(wal.start_of(log).lsn, Lsn::ZERO, "nothing of it goes before the state is flushed");
    (0..2).for_each(|index| servers.stop(index));
    rot(&servers.path(2), 7);
    let damaged = wal.verify_part(log, Lsn::FIRST, Lsn::MAX).unwrap().0.damaged[0].last;
    third.events.send(ShardEvent::DamageFound);
    until("its replica knows", || third.positions.damaged() == 1);
    servers.node(2).shared.gate.with(|store| store.flush()).unwrap().unwrap();
    third.rest.disturb();
    until("it lets that go", || wal.start_of(log).lsn >= damaged);
    until("its replica knows that", || third.positions.damaged() == 0);
    (0..2).for_each(|index| servers.start(index));
    until("the first one leads again", || servers.node(0).is_serving());
    put(servers.node(0), 40..45);
    until("it acknowledges and applies what comes", || {
        let status = servers.node(0).status().unwrap();
        let third = status.followers.iter().find(|follower| follower.node.get() == 3);
        servers.has_all(2) && third.is_some_and(|third| third.durable == status.end)
    });
    drop((third, wal));
    servers.stop_all();
}

/// Embedded it was TW-6102, from elsewhere TW-6110.
#[test]
fn a_follower_that_knows_what_is_newest_and_does_not_apply_it_in_time_says_the_same_here_and_elsewhere() {
    let servers = Servers::serving(&["", "", ""]);
    let space = servers.node(0).default_namespace();
    space.put("k", "1").unwrap().wait().unwrap();
    until("the third one has it", || servers.has_all(2));
    let third = servers.default_shard(2);
    let ((held, is_held), (opens, gate)) = (bounded(1), bounded(0));
    third.positions.call(new_key(), &Waker::from(Arc::new(Holding { held, gate })));
    // Of this length it is applied by the applier, which calls whoever waits: and so the shard's own thread goes on.
    let large = [noise(1), noise(2), noise(3)].concat();
    space.put("large", large).unwrap().wait().unwrap();
    is_held.recv_timeout(PATIENCE).unwrap();
    space.put("k", "2").unwrap().wait().unwrap();
    let hasty = servers.node(2).default_namespace().reading_within(Duration::from_millis(500));
    let here = hasty.get("k", Read::MaxStaleness(Duration::ZERO)).unwrap_err();
    run(async {
        let (mut asker, stream) = servers.asker(2).await;
        asker.ask_within(stream, 1, 500, read_no_older_than(Duration::ZERO)).await;
        let elsewhere = match asker.response().await {
            (1, ResponseBody::Failed(failure)) => failure.code,
            other => panic!("{other:?}"),
        };
        assert_eq!((here.code(), elsewhere), (6110, 6110), "{here}");
    });
    drop(opens);
    let patient = servers.node(2).default_namespace().reading_within(PATIENCE);
    assert_eq!(patient.get("k", Read::MaxStaleness(Duration::ZERO)).unwrap().unwrap().value, "2");
    servers.stop_all();
}

#[test]
fn a_read_that_is_known_to_be_fresh_enough_does_not_stand_behind_those_for_which_others_are_asked() {
    let mut servers = Servers::serving(&["", "", ""]);
    servers.node(0).default_namespace().put("k", "1").unwrap().wait().unwrap();
    assert!(reads(&servers.node(2).default_namespace().reading_within(PATIENCE), Duration::ZERO));
    // Nobody can say any more what is newest.
    (0..2).for_each(|index| servers.stop(index));
    run(async {
        let (mut asker, stream) = servers.asker(2).await;
        for id in 0..20 {
            asker.ask_within(stream, id, 60_000, read_no_older_than(Duration::ZERO)).await;
        }
        asker.ask_within(stream, 100, 60_000, read_no_older_than(LONG)).await;
        let answer = asker.response().await;
        assert!(matches!(answer, (100, ResponseBody::Answer(Answer::Values(_)))), "{answer:?}");
    });
    servers.stop_all();
}

/// Half of the time before what it knows is too old, somebody is asked: once for all who read meanwhile.
#[test]
fn whoever_reads_all_the_time_never_waits_and_asks_twice_in_what_a_read_allows() {
    const STALENESS: Duration = Duration::from_secs(3);
    let servers = Servers::serving(&["", "", ""]);
    let third = servers.default_shard(2);
    let space = servers.node(2).default_namespace().reading_within(PATIENCE);
    assert!(reads(&space, Duration::ZERO));
    let number = || third.confirm(drop).0;
    let (begun, first) = (now(), number());
    while now().saturating_duration_since(begun) < 2 * STALENESS {
        assert!(third.is_fresh(STALENESS), "it waits, {:?} on", now().saturating_duration_since(begun));
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let asked = number() - first - 1;
    assert!((3..=5).contains(&asked), "{asked} questions in twice that time");
    servers.stop_all();
}

#[test]
fn a_read_from_elsewhere_of_a_shard_that_has_stopped_hears_that_at_once() {
    // Alone of three: nobody leads.
    let mut servers = Servers::new(&["", "", ""]);
    servers.start(0);
    let shard = servers.default_shard(0);
    run(async {
        let (mut asker, stream) = servers.asker(0).await;
        asker.ask_within(stream, 1, 60_000, read_no_older_than(Duration::ZERO)).await;
        timeout(MOMENT, asker.message()).await.expect_err("it waits for a leader");
        shard.events.send(ShardEvent::Explode { in_apply: false });
        asker.ask_within(stream, 2, 60_000, read_no_older_than(Duration::ZERO)).await;
        for _ in 0..2 {
            let answer = asker.response().await;
            assert!(matches!(&answer.1, ResponseBody::Failed(failure) if failure.code == 6107), "{answer:?}");
        }
    });
    servers.stop_all();
}

/// One that took the other's shard for its own would have keys that are not its own in its log.
#[test]
fn nodes_whose_files_differ_in_one_namespace_replicate_the_others_and_say_so() {
    let file = |point: &str| format!("[[namespace]]\nname = 'orders'\nsplit_at = ['{point}']");
    let lines = Lines::default();
    // Of all threads: each test has a process of its own, or the others write into this as well.
    let _is_set = tracing::subscriber::set_global_default(lines.clone());
    let servers = Servers::serving(&[&file("h"), &file("p")]);
    let sessions = |index: usize| servers.server(index).server.network.sessions.load(Ordering::Relaxed);
    let space = servers.node(0).default_namespace();
    let put = |value: &'static str| space.put("k", value).unwrap().wait_for(PATIENCE).unwrap().is_some();
    assert!(put("1"), "both of two have it");
    let before = [sessions(0), sessions(1)];
    let told = || lines.0.lock().iter().filter(|line| *line == "a shard is not replicated between the two").count();
    until("somebody says so of both shards", || told() >= 2);
    assert!(put("2"));
    for (index, number) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert_eq!(servers.shard(index, "orders", number).positions.serving(), None, "it has one vote of two");
    }
    assert!(put("3"));
    assert_eq!([sessions(0), sessions(1)], before, "the connection stands");
    servers.stop_all();
}

/// What is asked of one shard must not wait for another one that is being replaced.
#[test]
fn a_stream_is_read_while_the_state_of_another_shard_is_replaced() {
    use crate::model::Expect;
    use crate::model::request::Direction;
    const ORDERS: &str = "[[namespace]]\nname = 'orders'\nsplit_at = ['m']";
    let servers = Servers::serving(&[ORDERS; 3]);
    let another = servers.shard(0, "orders", 0);
    let mine = servers.shard(0, "orders", 1);
    until("it leads that one", || mine.positions.serving().is_some());
    let space = servers.node(0).namespace("orders").unwrap();
    space.append("z", Expect::Any, "x").unwrap().wait().unwrap();
    another.positions.begin_replacing();
    let read = |stream: &str| space.read_stream(stream, 1, Direction::Forward, (10, 1000), Read::Eventual);
    assert_eq!(read("z").unwrap().head, 1);
    assert_eq!(read("a").unwrap_err().code(), 6109);
    assert!(space.multi_get(["z"], Read::Eventual).is_ok());
    assert_eq!(space.multi_get(["z", "a"], Read::Eventual).unwrap_err().code(), 6109);
    another.positions.end_replacing();
    assert!(read("a").is_ok());
    servers.stop_all();
}

//! What a client hears of a namespace is what the embedding program hears of it.

use crate::noise::noise;
use std::path::Path;
use std::time::Duration;
use towline::client::{Client, ClientError, ClientOptions, Namespace, WriteError};
use towline::model::request::{Direction, FailureClass};
use towline::model::{
    Epoch, Expect, Filter, Lsn, NamespaceOptions, Outcome, Policy, Read, Rejection, Retention, Scan, ShardId, Since,
    Token, Write,
};
use towline::node::{Config, ServerHandle, serve};

fn server(directory: &Path, listen: &str) -> ServerHandle {
    let text = format!(
        "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '{listen}'\n\
         shard = {{ leader = 1 }}\nnode = [{{ id = 1, address = '127.0.0.1:7400' }}]"
    );
    serve(&Config::parse(&directory.join("node.toml"), &text).unwrap()).unwrap()
}

/// A server of its own, and a client of it.
fn with_client<F: Future<Output = ()>>(test: impl FnOnce(Client, std::sync::Arc<ServerHandle>) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let server = std::sync::Arc::new(server(directory.path(), "127.0.0.1:0"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = server.address().to_string();
    let shared = std::sync::Arc::clone(&server);
    runtime.block_on(async move {
        let client = Client::connect([address], ClientOptions::default()).await.unwrap();
        test(client, shared).await;
    });
    drop(runtime);
    std::sync::Arc::into_inner(server).unwrap().shutdown().unwrap();
}

async fn wrote(space: &Namespace, write: Write) -> towline::model::Written {
    space.write(write).await.unwrap().await.unwrap()
}

#[test]
fn a_client_reads_what_the_embedding_program_reads() {
    with_client(|client, server| async move {
        let space = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        let embedded = server.node().namespace("shop").unwrap();
        for number in 0..100 {
            let written = wrote(&space, Write::new().put(format!("key-{number:03}"), number.to_string())).await;
            assert_eq!(written.outcome, Outcome::Applied { version: written.lsn.get() });
            let write = Write::new().append("orders", Expect::Version(number), format!("event {number}"));
            assert_eq!(wrote(&space, write).await.outcome, Outcome::Applied { version: number + 1 });
        }
        let token = space.token().await.unwrap();
        assert_eq!(token, embedded.token());
        let levels = || [Read::Eventual, Read::AtLeast(token.clone()), Read::Linearizable];
        for read in levels() {
            assert_eq!(
                space.get("key-007", read.clone()).await.unwrap(),
                embedded.get("key-007", read.clone()).unwrap()
            );
            let keys = ["key-099", "none", "key-000"];
            let found = space.multi_get(keys, read.clone()).await.unwrap();
            assert_eq!(found, embedded.multi_get(keys, read.clone()).unwrap());
            assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
            let (mut pages, mut next) = (0, Some(Scan::prefix("key-").reverse().limit(33)));
            while let Some(scan) = next {
                let page = space.scan(&scan, read.clone()).await.unwrap();
                assert_eq!(page, embedded.scan(&scan, read.clone()).unwrap());
                (pages, next) = (pages + 1, page.next);
            }
            assert_eq!(pages, 4);
            for (direction, from) in [(Direction::Forward, 3), (Direction::Backward, 0)] {
                let bounds = (10, 1 << 20);
                let found = space.read_stream("orders", from, direction, bounds, read.clone()).await.unwrap();
                assert_eq!(found, embedded.read_stream("orders", from, direction, bounds, read.clone()).unwrap());
                assert!(found.more && found.events.len() == 10);
            }
        }
        assert_eq!(space.descriptor().await.unwrap(), embedded.descriptor());
        assert_eq!(client.namespaces().await.unwrap(), server.node().namespaces());
    });
}

#[test]
fn a_write_that_need_not_be_applied_is_answered_with_its_place_and_read_behind_it() {
    with_client(|client, _server| async move {
        let space = client.namespace("default");
        let durable = space.write_durable(Write::new().put("a", "1")).await.unwrap().await.unwrap();
        let buffered = space.write_buffered(Write::new().put("a", "2")).await.unwrap().await.unwrap();
        assert!(durable.lsn < buffered.lsn && durable.shard == buffered.shard);
        assert_eq!(space.get("a", Read::AtLeast(buffered.token())).await.unwrap().unwrap().value, "2");
        let conditional = Write::new().append("s", Expect::Absent, "x");
        let refused = space.write_durable(&conditional).await.unwrap().await.unwrap_err();
        assert_eq!((refused.code().as_str(), refused.class()), ("TW-6112", FailureClass::FixRequest));
        let rejected = wrote(&space, Write::new().append("s", Expect::Present, "x")).await.outcome;
        assert_eq!(rejected, Outcome::Rejected(Rejection::StreamVersion { index: 0, actual: 0 }));
    });
}

#[test]
fn namespaces_are_made_renamed_and_dropped_by_a_client_and_errors_have_the_codes_of_the_embedded_engine() {
    with_client(|client, server| async move {
        let policy = Policy { retention: Retention::bytes(1 << 20), ..Policy::default() };
        let space = client.create_namespace("a", &NamespaceOptions::default().policy(policy)).await.unwrap();
        wrote(&space, Write::new().put("k", "v")).await;
        client.rename_namespace("a", "b").await.unwrap();
        client.set_policy("b", Policy::default()).await.unwrap();
        assert_eq!(server.node().namespace("b").unwrap().descriptor().policy, Policy::default());
        let code = |error: ClientError| (error.code(), error.class());
        let unknown = space.get("k", Read::Eventual).await.unwrap_err();
        assert_eq!(code(unknown), ("TW-5513".into(), FailureClass::FixRequest));
        let options = NamespaceOptions::default();
        assert_eq!(code(client.create_namespace("b", &options).await.unwrap_err()).0, "TW-5512");
        assert_eq!(code(client.create_namespace("a/b", &options).await.unwrap_err()).0, "TW-5511");
        let renamed = client.namespace("b");
        assert_eq!(renamed.get("k", Read::Linearizable).await.unwrap().unwrap().value, "v");
        assert_eq!(code(renamed.get("", Read::Eventual).await.unwrap_err()).0, "TW-6101");
        let crossing = client.create_namespace("two", &options.clone().split_at(["m"])).await.unwrap();
        let refused = crossing.write(Write::new().put("a", "1").put("z", "1")).await.unwrap().await.unwrap_err();
        assert!(matches!(&refused, WriteError::Refused(failure) if failure.code == 5505), "{refused}");
        client.drop_namespace("b").await.unwrap();
        assert_eq!(code(renamed.get("k", Read::Eventual).await.unwrap_err()).0, "TW-5513");
        assert_eq!(code(client.drop_namespace("default").await.unwrap_err()).0, "TW-5514");
    });
}

/// It was waited for all of `connect_timeout`, and said that no server was found.
#[test]
fn to_connect_for_a_namespace_that_does_not_exist_says_so_at_once() {
    with_client(|_, server| async move {
        let long = Duration::from_secs(3600);
        let options = ClientOptions { namespace: "nobody".into(), connect_timeout: long, ..ClientOptions::default() };
        let error = Client::connect([server.address().to_string()], options).await.unwrap_err();
        assert_eq!((error.code().as_str(), error.class()), ("TW-8102", FailureClass::FixRequest));
    });
}

/// Otherwise four readers that wait for a position would stop everything else of their client.
#[test]
fn reads_that_wait_for_a_position_hold_up_no_write_and_end_at_their_deadline() {
    with_client(|client, _server| async move {
        let options = ClientOptions { request_timeout: Duration::from_millis(300), ..ClientOptions::default() };
        let address = _server.address().to_string();
        let impatient = Client::connect([address], options).await.unwrap().namespace("default");
        let space = client.namespace("default");
        let here = wrote(&space, Write::new().put("a", "1")).await;
        let ahead = Token::at(here.shard, here.epoch, Lsn::new(here.lsn.get() + 1));
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let (space, read) = (space.clone(), Read::AtLeast(ahead.clone()));
                tokio::spawn(async move { space.get("a", read).await })
            })
            .collect();
        let late = impatient.get("a", Read::AtLeast(Token::at(here.shard, here.epoch, Lsn::new(1 << 40)))).await;
        let late = late.unwrap_err();
        assert!(matches!(late.code().as_str(), "TW-6102" | "TW-7003"), "{late}");
        // It is what all of them wait for.
        wrote(&space, Write::new().put("a", "2")).await;
        for reader in waiting {
            assert_eq!(reader.await.unwrap().unwrap().unwrap().value, "2");
        }
    });
}

#[test]
fn a_feed_delivers_what_the_embedded_feed_delivers_also_of_several_shards_and_only_what_the_filter_admits() {
    with_client(|client, server| async move {
        let space = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        for number in 0..500 {
            let key = if number % 2 == 0 { format!("a-{number}") } else { format!("z-{number}") };
            wrote(&space, Write::new().put(key, vec![7; if number % 100 == 0 { 1 << 20 } else { 10 }])).await;
        }
        let embedded = server.node().namespace("shop").unwrap();
        for filter in [Filter::All, Filter::Prefix("a-1".into()), Filter::Key("z-7".into())] {
            let mut expected = embedded.subscribe(Since::Beginning, filter.clone()).unwrap();
            let mut feed = space.subscribe(Since::Beginning, filter.clone()).await.unwrap();
            let mut of_shard = std::collections::BTreeMap::<ShardId, Vec<_>>::new();
            let mut count = 0;
            while let Some(change) = expected.wait_for(Duration::ZERO).unwrap() {
                of_shard.entry(change.shard).or_default().push(change);
                count += 1;
            }
            let mut found = std::collections::BTreeMap::<ShardId, Vec<_>>::new();
            for _ in 0..count {
                let change = feed.next().await.unwrap();
                assert!(feed.token().get(change.shard) >= Some((change.epoch, change.lsn)));
                found.entry(change.shard).or_default().push(change);
            }
            assert_eq!(found, of_shard, "{filter:?}");
        }
        let nowhere = space.subscribe(Since::Now, Filter::Shard(ShardId::new(7))).await.unwrap_err();
        assert_eq!(nowhere.code(), "TW-6203");
        let here = wrote(&space, Write::new().put("a", "1")).await;
        let lost = Token::at(here.shard, Epoch::new(1, 1), here.lsn);
        let lost = space.subscribe(Since::Token(lost), Filter::All).await.unwrap_err();
        assert_eq!(lost.code(), "TW-6202");
        let unknown = client.namespace("none").subscribe(Since::Now, Filter::All).await.unwrap_err();
        assert_eq!(unknown.code(), "TW-5513");
    });
}

/// Back-pressure: who does not take keeps the server's memory, and its own, bounded; and others of the client go on.
#[test]
fn feeds_that_nobody_takes_hold_no_more_than_their_windows_and_stop_nobody_else() {
    with_client(|client, _server| async move {
        let space = client.namespace("default");
        let (mut one, mut other) = (
            space.subscribe(Since::Now, Filter::All).await.unwrap(),
            space.subscribe(Since::Now, Filter::All).await.unwrap(),
        );
        let before = client.stats().bytes_received;
        for number in 0..200 {
            // 200 MiB in all: more than any window.
            space
                .write_buffered(Write::new().put(format!("k{number}"), vec![7; 1 << 20]))
                .await
                .unwrap()
                .await
                .unwrap();
        }
        wrote(&space, Write::new().put("last", "1")).await;
        // As large as an answer may be.
        let keys = (0..19).map(|number| format!("k{number}"));
        assert_eq!(space.multi_get(keys, Read::Linearizable).await.unwrap().iter().flatten().count(), 19);
        let received = client.stats().bytes_received - before;
        assert!(received < 150 << 20, "{received} bytes came of 400 MiB: the rest waits at the server");
        for feed in [&mut other, &mut one] {
            for number in 0..200 {
                assert_eq!(feed.next().await.unwrap().operations[0].key(), format!("k{number}").as_str());
            }
            assert_eq!(feed.next().await.unwrap().operations[0].key(), "last");
        }
    });
}

/// All values were in memory before their bytes were counted.
#[test]
fn what_does_not_fit_into_one_answer_is_refused_before_it_is_read() {
    with_client(|client, _server| async move {
        let space = client.namespace("default");
        wrote(&space, Write::new().put("large", vec![7; 10 << 20])).await;
        for keys in [3, 10_000] {
            let refused = space.multi_get(vec!["large"; keys], Read::Eventual).await.unwrap_err();
            assert_eq!((refused.code().as_str(), refused.class()), ("TW-8101", FailureClass::FixRequest));
        }
        let refused = space.multi_get(vec!["none"; 10_001], Read::Eventual).await.unwrap_err();
        assert_eq!(refused.code(), "TW-8101");
        assert_eq!(space.multi_get(["large"], Read::Eventual).await.unwrap().len(), 1);
    });
}

/// More than its window holds is still to come then, and two changes never fit into one delivery.
#[test]
fn a_feed_goes_on_through_a_restart_of_its_server_where_it_was() {
    const CHANGES: u64 = 120;
    let directory = tempfile::tempdir().unwrap();
    let first = server(directory.path(), "127.0.0.1:0");
    let address = first.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let key = |number: u64| format!("k{number}");
    let (client, mut feed) = runtime.block_on(async {
        let client = Client::connect([address.clone()], ClientOptions::default()).await.unwrap();
        let space = client.namespace("default");
        for number in 0..CHANGES {
            wrote(&space, Write::new().put(key(number), noise(number, 700 << 10))).await;
        }
        let mut feed = space.subscribe(Since::Beginning, Filter::All).await.unwrap();
        for number in 0..20 {
            assert_eq!(feed.next().await.unwrap().operations[0].key(), key(number).as_str());
        }
        (client, feed)
    });
    first.shutdown().unwrap();
    let second = server(directory.path(), &address);
    runtime.block_on(async {
        let space = client.namespace("default");
        for number in 20..CHANGES {
            assert_eq!(feed.next().await.unwrap().operations[0].key(), key(number).as_str());
        }
        wrote(&space, Write::new().put("behind", "1")).await;
        assert_eq!(feed.next().await.unwrap().operations[0].key(), "behind");
        let mut again = space.subscribe(Since::Token(feed.token()), Filter::All).await.unwrap();
        wrote(&space, Write::new().put("at last", "1")).await;
        assert_eq!(again.next().await.unwrap().operations[0].key(), "at last");
    });
    drop(feed);
    drop(client);
    drop(runtime);
    second.shutdown().unwrap();
}

/// What is not read by a client that went away is not kept for it.
#[test]
fn the_feeds_of_a_client_that_is_gone_end() {
    with_client(|client, server| async move {
        let space = client.namespace("default");
        let pins = || server.node().stats().unwrap().shards[0].pins;
        let feeds: Vec<_> =
            [space.subscribe(Since::Now, Filter::All).await, space.subscribe(Since::Now, Filter::All).await]
                .into_iter()
                .map(Result::unwrap)
                .collect();
        assert_eq!(pins(), 2);
        drop(feeds);
        let other = Client::connect([server.address().to_string()], ClientOptions::default()).await.unwrap();
        let held = other.namespace("default").subscribe(Since::Now, Filter::All).await.unwrap();
        drop((held, other));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while pins() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{} pins are left", pins());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Between a client and a server, until it is told to cut everything that goes through it.
struct Proxy {
    address: String,
    cut: tokio::sync::broadcast::Sender<()>,
}

impl Proxy {
    async fn to(server: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cut = tokio::sync::broadcast::Sender::new(16);
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut cut) = (server.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }
}

/// Requests and answers are lost on their way, and the server goes and comes back: each request takes effect once, in order, and is
/// answered.
#[test]
fn i5_requests_of_a_session_have_one_effect_each_through_lost_connections_and_restarts_of_the_server() {
    const EACH: u64 = 150;
    let directory = tempfile::tempdir().unwrap();
    let mut running = server(directory.path(), "127.0.0.1:0");
    let address = running.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = ClientOptions { request_timeout: Duration::from_secs(60), ..ClientOptions::default() };
    let proxy = runtime.block_on(Proxy::to(address.clone()));
    let client = runtime.block_on(Client::connect([proxy.address.clone()], options)).unwrap();
    let session = runtime.block_on(client.namespace("default").open_session()).unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (session, told) = (session.clone(), told.clone());
            runtime.spawn(async move {
                for number in 1..=EACH {
                    let write = Write::new().append(format!("s{writer}"), Expect::Any, number.to_string());
                    let written = session.write(write).await.unwrap();
                    assert_eq!(written.outcome, Outcome::Applied { version: number }, "writer {writer}");
                    told.send(()).unwrap();
                }
            })
        })
        .collect();
    drop(told);
    let mut hear = |count| (0..count).for_each(|_| runtime.block_on(heard.recv()).unwrap());
    for _ in 0..2 {
        for _ in 0..8 {
            hear(20);
            // Whatever is under way then is in doubt.
            proxy.cut.send(()).unwrap();
        }
        hear(20);
        running.shutdown().unwrap();
        running = server(directory.path(), &address);
    }
    writers.into_iter().for_each(|writer| runtime.block_on(writer).unwrap());
    assert!(client.stats().reconnects >= 10, "{:?}", client.stats());
    runtime.block_on(async {
        let space = client.namespace("default");
        for writer in 0..4 {
            let bounds = (1000, 1 << 20);
            let stream = format!("s{writer}");
            let read = space.read_stream(&stream, 1, Direction::Forward, bounds, Read::Linearizable).await.unwrap();
            let values: Vec<_> = read.events.into_iter().map(|event| String::from_utf8(event.value).unwrap()).collect();
            assert_eq!(values, (1..=EACH).map(|number| number.to_string()).collect::<Vec<_>>(), "in order, each once");
        }
        assert_eq!(session.state().waiting.len(), 0);
        session.close().await.unwrap();
    });
    drop((client, runtime));
    running.shutdown().unwrap();
}

#[test]
fn a_session_goes_from_the_embedding_program_to_a_client_and_back_and_refuses_what_can_not_be() {
    with_client(|client, server| async move {
        let space = client.create_namespace("bank", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        let embedded = server.node().namespace("bank").unwrap();
        let (low, high) = (Write::new().append("a", Expect::Any, "1"), Write::new().append("z", Expect::Any, "1"));
        let begun = tokio::task::block_in_place(|| embedded.open_session().unwrap());
        let number = begun.next_number().unwrap();
        let first = tokio::task::block_in_place(|| begun.retry(number, &low).unwrap().wait().unwrap());
        let session = space.resume_session(begun.state()).await.unwrap();
        assert_eq!(session.retry(number, &low).await.unwrap(), first);
        let kept = session.next_number().unwrap();
        let second = session.retry(kept, &high).await.unwrap();
        let back = embedded.resume_session(session.state());
        let again = tokio::task::block_in_place(|| back.retry(kept, &high).unwrap().wait().unwrap());
        assert_eq!(again, second);
        let other = session.retry(kept, Write::new().append("z", Expect::Any, "2")).await.unwrap();
        assert_eq!(other.outcome, Outcome::Rejected(Rejection::NumberReused));
        let crossing = session.write(Write::new().put("a", "1").put("z", "1")).await.unwrap_err();
        assert_eq!((crossing.code().as_str(), crossing.class()), ("TW-5505", FailureClass::FixRequest));
        // A refused request is not waited for: what comes behind it is executed.
        for _ in 0..3 {
            session.write(Write::new().put("a", "1").put("z", "1")).await.unwrap_err();
            assert!(matches!(session.write(&low).await.unwrap().outcome, Outcome::Applied { .. }));
        }
        session.clone().close().await.unwrap();
        let expired = session.write(&low).await.unwrap();
        assert_eq!(expired.outcome, Outcome::Rejected(Rejection::SessionExpired));
    });
}

/// Otherwise nobody could ask again for what became of it.
#[test]
fn a_request_without_an_answer_keeps_its_number_and_is_executed_once() {
    let directory = tempfile::tempdir().unwrap();
    let running = server(directory.path(), "127.0.0.1:0");
    let address = running.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let second = Duration::from_secs(1);
    let options = ClientOptions { request_timeout: second, connect_timeout: second, ..ClientOptions::default() };
    let client = runtime.block_on(Client::connect([address.clone()], options)).unwrap();
    let session = runtime.block_on(client.namespace("default").open_session()).unwrap();
    let write = |number: u64| Write::new().append("s", Expect::Any, number.to_string());
    // A request is on its way when the server goes.
    let pending = runtime.spawn({
        let session = session.clone();
        async move {
            for number in 0.. {
                if session.write(write(number)).await.is_err() {
                    return number;
                }
            }
            unreachable!("there is always a next one")
        }
    });
    std::thread::yield_now();
    running.shutdown().unwrap();
    let last = runtime.block_on(pending).unwrap();
    let waiting: Vec<_> = session.state().waiting.into_keys().collect();
    let running = server(directory.path(), &address);
    runtime.block_on(async {
        for number in waiting {
            let answer = session.retry(number, write(last)).await.unwrap();
            assert_eq!(session.retry(number, write(last)).await.unwrap(), answer);
        }
        let last = session.write(write(u64::MAX)).await.unwrap();
        let Outcome::Applied { version } = last.outcome else { panic!("{last:?}") };
        let space = client.namespace("default");
        let read = space.read_stream("s", 0, Direction::Backward, (1, 1 << 20), Read::Linearizable).await.unwrap();
        assert_eq!(read.head, version);
        let mut events: Vec<_> = {
            let bounds = (10_000, 1 << 20);
            let read = space.read_stream("s", 1, Direction::Forward, bounds, Read::Linearizable).await.unwrap();
            read.events.into_iter().map(|event| event.value).collect()
        };
        let all = events.len();
        events.sort();
        events.dedup();
        assert_eq!(events.len(), all, "each payload once");
    });
    drop((client, runtime));
    running.shutdown().unwrap();
}

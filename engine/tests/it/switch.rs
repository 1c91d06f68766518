//! One program, whose constructor alone says whether the node is in its own process or elsewhere. Each test runs it both ways, and
//! holds what it saw the one way against what it saw the other way.

use crate::noise::noise;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use towline::client::{Client, ClientError, ClientOptions, Namespace, SessionError};
use towline::model::request::Direction;
use towline::model::{
    Budget, Epoch, Expect, Filter, FollowerOptions, Lsn, NamespaceOptions, Policy, Read, Retention, Scan, ShardId,
    Since, Token, Write, Written,
};
use towline::node::{Config, NodeOptions, ServerHandle, serve};

/// What a program saw, line by line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen(Vec<String>);

impl Seen {
    fn say(&mut self, what: &str, found: impl std::fmt::Debug) {
        self.0.push(format!("{what}: {found:?}"));
    }

    fn refused<T>(&mut self, what: &str, found: Result<T, ClientError>) {
        let error = found.err();
        self.say(what, error.map(|error| (error.code(), error.class())));
    }

    async fn write(&mut self, what: &str, space: &Namespace, write: Write) -> Option<Written> {
        match space.write(write).await.unwrap().await {
            Ok(written) => {
                self.say(what, (written.shard, written.epoch, written.lsn, written.outcome));
                Some(written)
            }
            Err(error) => {
                self.say(what, (error.code(), error.class(), error.has_no_effect()));
                None
            }
        }
    }
}

fn server(directory: &Path) -> ServerHandle {
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    serve(&Config::parse(&directory.join("node.toml"), text).unwrap()).unwrap()
}

/// Runs the program both ways, with these options of the client, and compares.
fn with_options<F: Future<Output = Seen>>(options: &ClientOptions, program: impl Fn(Client) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let embedded = runtime.block_on(async {
        let node = NodeOptions::alone(directory.path().join("embedded"));
        program(Client::open(node, options.clone()).await.unwrap()).await
    });
    assert!(!embedded.0.is_empty());
    // With several connections too: who uses the client sees nothing of them.
    for connections in [1, 3] {
        let server = server(&directory.path().join(format!("remote-{connections}")));
        let remote = runtime.block_on(async {
            let options = ClientOptions { connections, ..options.clone() };
            program(Client::connect([server.address().to_string()], options).await.unwrap()).await
        });
        server.shutdown().unwrap();
        for (at, (embedded, remote)) in embedded.0.iter().zip(&remote.0).enumerate() {
            assert_eq!(embedded, remote, "embedded and remote, at line {at}");
        }
        assert_eq!(embedded.0.len(), remote.0.len());
    }
    // On the only thread that there is, everything goes on as well.
    let alone = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let again = alone.block_on(async {
        let node = NodeOptions::alone(directory.path().join("alone"));
        program(Client::open(node, options.clone()).await.unwrap()).await
    });
    assert_eq!(embedded, again);
}

fn both_ways<F: Future<Output = Seen>>(program: impl Fn(Client) -> F) {
    with_options(&ClientOptions::default(), program);
}

#[test]
fn writes_and_reads_at_every_level() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        let mut last = Token::default();
        for number in 0..50 {
            let put = Write::new().put(format!("key-{number:03}"), number.to_string());
            last.extend(&seen.write("put", &space, put).await.unwrap().token());
            let append = Write::new().append_with("orders", Expect::Version(number), "till 3", format!("{number}"));
            last.extend(&seen.write("append", &space, append).await.unwrap().token());
        }
        let stale = Write::new().append("orders", Expect::Version(7), "late");
        seen.write("rejected", &space, stale).await;
        let guarded = Write::new().expect("key-001", Expect::Absent).put("key-001", "other");
        seen.write("guarded", &space, guarded).await;
        seen.write("delete", &space, Write::new().delete("key-002")).await;
        seen.write("two shards", &space, Write::new().put("a", "1").put("z", "1")).await;
        seen.say("token", space.token().await.unwrap().get(ShardId::new(1)));
        for read in [Read::Eventual, Read::AtLeast(last.clone()), Read::Linearizable] {
            seen.say("get", space.get("key-007", read.clone()).await.unwrap());
            seen.say("none", space.get("key-002", Read::Linearizable).await.unwrap());
            seen.say("several", space.multi_get(["key-049", "no", "key-000"], read.clone()).await.unwrap());
            let mut next = Some(Scan::prefix("key-").reverse().limit(17));
            while let Some(scan) = next {
                let page = space.scan(&scan, read.clone()).await.unwrap();
                seen.say("page", &page);
                next = page.next;
            }
            for (direction, from) in [(Direction::Forward, 3), (Direction::Backward, 0)] {
                let found = space.read_stream("orders", from, direction, (10, 1 << 20), read.clone()).await.unwrap();
                seen.say("stream", (found.events, found.head, found.more));
            }
        }
        let large = noise(7, 3 << 20);
        seen.write("large", &space, Write::new().put("large", large.clone())).await;
        assert_eq!(space.get("large", Read::Linearizable).await.unwrap().unwrap().value, large);
        client.close().await.unwrap();
        seen
    });
}

#[test]
fn writes_that_are_answered_before_they_are_applied() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.namespace("default");
        let durable = space.write_durable(Write::new().put("a", "1")).await.unwrap().await.unwrap();
        let buffered = space.write_buffered(Write::new().put("a", "2")).await.unwrap().await.unwrap();
        seen.say("places", (durable, buffered));
        seen.say("behind it", space.get("a", Read::AtLeast(buffered.token())).await.unwrap());
        let conditional = Write::new().append("s", Expect::Absent, "x");
        for refused in [
            space.write_durable(&conditional).await.unwrap().await.unwrap_err(),
            space.write_buffered(&conditional).await.unwrap().await.unwrap_err(),
        ] {
            seen.say("refused", (refused.code(), refused.class(), refused.has_no_effect(), refused.to_string()));
        }
        let record = Write::new().put("plain", "1").into_record();
        let plain = client.write(&record).await.unwrap().await.unwrap();
        seen.say("plain", (plain, client.get(b"plain").await.unwrap(), client.node().await));
        seen.say("status", client.status().await.unwrap().serving);
        seen
    });
}

#[test]
fn namespaces_and_what_they_refuse() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let policy = Policy { retention: Retention::bytes(1 << 20), ..Policy::default() };
        let options = NamespaceOptions::default();
        let space = client.create_namespace("a", &options.clone().policy(policy).split_at(["k"])).await.unwrap();
        seen.write("put", &space, Write::new().put("k", "v")).await;
        seen.say("descriptor", space.descriptor().await.unwrap());
        client.rename_namespace("a", "b").await.unwrap();
        client.set_policy("b", Policy::default()).await.unwrap();
        seen.say("all", client.namespaces().await.unwrap());
        seen.refused("by its old name", space.get("k", Read::Eventual).await);
        seen.write("by its old name", &space, Write::new().put("k", "v")).await;
        seen.refused("a feed by its old name", space.subscribe(Since::Now, Filter::All).await);
        seen.refused("a snapshot by its old name", space.snapshot(Read::Eventual).await);
        seen.refused("a session by its old name", space.open_session().await);
        seen.refused("taken", client.create_namespace("b", &options).await);
        seen.refused("no name", client.create_namespace("a/b", &options).await);
        seen.refused("split points", client.create_namespace("c", &options.clone().split_at(["z", "a"])).await);
        seen.refused("renamed to what is taken", client.rename_namespace("default", "b").await);
        let renamed = client.namespace("b");
        seen.say("renamed", renamed.get("k", Read::Linearizable).await.unwrap());
        client.drop_namespace("b").await.unwrap();
        seen.refused("dropped", renamed.get("k", Read::Eventual).await);
        seen.refused("dropped again", client.drop_namespace("b").await);
        seen.refused("the default one", client.drop_namespace("default").await);
        seen.say("all", client.namespaces().await.unwrap());
        seen
    });
}

#[test]
fn sessions_execute_each_request_once() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let policy = Policy { sessions_max: 1, ..Policy::default() };
        let options = NamespaceOptions::default().policy(policy).split_at(["m"]);
        let bank = client.create_namespace("bank", &options).await.unwrap();
        let session = bank.open_session().await.unwrap();
        seen.refused("a second one", bank.open_session().await);
        for number in 0..20 {
            let account = if number % 2 == 0 { "a" } else { "z" };
            let deposit = Write::new().append(account, Expect::Any, format!("+{number}"));
            seen.say("deposit", session.write(&deposit).await.unwrap());
        }
        let number = session.next_number().unwrap();
        let kept = session.state().to_string();
        let withdrawal = Write::new().append("a", Expect::Any, "-30");
        let first = session.retry(number, &withdrawal).await.unwrap();
        let resumed = bank.resume_session(kept.parse().unwrap()).await.unwrap();
        assert_eq!(resumed.retry(number, &withdrawal).await.unwrap(), first);
        seen.say("once", first);
        let other = session.retry(number, Write::new().append("a", Expect::Any, "-31")).await;
        seen.say("another by the same number", other.map(|written| written.outcome).map_err(|error| error.code()));
        let illegal = session.write(Write::new().put("", "x")).await;
        assert!(matches!(&illegal, Err(SessionError::NotSent(_))), "{illegal:?}");
        seen.say("illegal", illegal.map_err(|error| (error.code(), error.class())));
        let crossing = session.write(Write::new().put("a", "1").put("z", "1")).await;
        seen.say("two shards", crossing.map_err(|error| (error.code(), error.class())));
        let events = bank.read_stream("a", 1, Direction::Forward, (100, 1 << 20), Read::Linearizable).await.unwrap();
        seen.say("events", (events.head, events.events));
        session.close().await.unwrap();
        let late = resumed.write(Write::new().append("a", Expect::Any, "late")).await;
        seen.say("closed", late.map(|written| written.outcome).map_err(|error| (error.code(), error.class())));
        bank.open_session().await.unwrap().close().await.unwrap();
        client.drop_namespace("bank").await.unwrap();
        // It was executed, whatever is said of it now: "refused" would be heard as "without effect".
        let doubtful = resumed.retry(number, &withdrawal).await;
        assert!(
            matches!(&doubtful, Err(SessionError::Write { source, .. }) if !source.has_no_effect()),
            "{doubtful:?}"
        );
        seen.say("in doubt", doubtful.map(|written| written.outcome).map_err(|error| error.code()));
        seen
    });
}

#[test]
fn feeds_deliver_what_took_effect() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        for number in 0..300 {
            let key = if number % 2 == 0 { format!("a-{number}") } else { format!("z-{number}") };
            let value = vec![7; if number % 100 == 0 { 1 << 20 } else { 10 }];
            space.write_buffered(Write::new().put(key, value)).await.unwrap().await.unwrap();
        }
        space.write(Write::new().append("a-s", Expect::Version(9), "rejected")).await.unwrap().await.unwrap();
        space.put("a-last", "1").await.unwrap().await.unwrap();
        space.put("z-last", "1").await.unwrap().await.unwrap();
        for (filter, count) in [(Filter::Key("z-7".into()), 1), (Filter::Prefix("a-1".into()), 56), (Filter::All, 308)]
        {
            let mut feed = space.subscribe(Since::Beginning, filter.clone()).await.unwrap();
            let mut of_shard = BTreeMap::<ShardId, Vec<_>>::new();
            for _ in 0..count {
                let change = feed.next().await.unwrap();
                assert!(feed.token().get(change.shard) >= Some((change.epoch, change.lsn)));
                let keys: Vec<_> = change.operations.iter().map(|operation| operation.key().clone()).collect();
                of_shard.entry(change.shard).or_default().push((change.lsn, change.epoch, keys));
            }
            seen.say("changes", (&filter, of_shard));
            let nothing = tokio::time::timeout(Duration::from_millis(50), feed.next()).await;
            assert!(nothing.is_err(), "{filter:?}: {nothing:?}");
            // Cancelled, it has lost nothing.
            space.put("z-7", "again").await.unwrap().await.unwrap();
            if filter != Filter::Prefix("a-1".into()) {
                assert_eq!(feed.next().await.unwrap().operations[0].key(), "z-7");
            }
            let mut again = space.subscribe(Since::Token(feed.token()), filter.clone()).await.unwrap();
            space.put("z-7", "at last").await.unwrap().await.unwrap();
            space.put("a-1", "at last").await.unwrap().await.unwrap();
            let mut behind = Vec::new();
            for _ in 0..if filter == Filter::All { 2 } else { 1 } {
                behind.push(again.next().await.unwrap().operations[0].key().clone());
            }
            // Of two shards, either may come first.
            behind.sort();
            seen.say("behind a token", behind);
        }
        let here = space.put("a", "1").await.unwrap().await.unwrap();
        let lost = Token::at(here.shard, Epoch::new(1, 1), here.lsn);
        seen.refused("a lost position", space.subscribe(Since::Token(lost), Filter::All).await);
        seen.refused("no such shard", space.subscribe(Since::Now, Filter::Shard(ShardId::new(7))).await);
        let mut now = space.subscribe(Since::Now, Filter::All).await.unwrap();
        client.drop_namespace("shop").await.unwrap();
        let ended = now.next().await;
        seen.say("dropped", ended.is_err());
        seen
    });
}

#[test]
fn followers_come_back_to_what_they_were_not_done_with() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        let options = FollowerOptions::since(Since::Beginning)
            .filter(Filter::Prefix("a".into()))
            .budget(Budget { bytes: 1 << 30, age: Duration::from_secs(3600) });
        for number in 0..10 {
            space.put(format!("a-{number}"), "1").await.unwrap().await.unwrap();
        }
        let mut mailer = space.follow("mailer", &options).await.unwrap();
        let first = mailer.next().await.unwrap();
        for number in 1..5 {
            assert_eq!(mailer.next().await.unwrap().operations[0].key(), format!("a-{number}").as_str());
        }
        let fifth = mailer.token();
        mailer.acknowledge().await.unwrap();
        seen.say("known", space.followers().await.unwrap());
        seen.refused("a second one", space.follow("mailer", &options).await);
        mailer.next().await.unwrap();
        drop(mailer);
        let mut mailer = space.follow("mailer", &options).await.unwrap();
        seen.say("not acknowledged", mailer.next().await.unwrap().operations);
        mailer.seek(&first.token()).await.unwrap();
        seen.say("sought", (mailer.next().await.unwrap().operations, mailer.token().get(first.shard)));
        let lost = Token::at(first.shard, Epoch::new(1, 1), first.lsn);
        seen.refused("to where nothing is", mailer.seek(&lost).await);
        seen.say("goes on", mailer.next().await.unwrap().operations);
        mailer.seek(&fifth).await.unwrap();
        while mailer.next().await.unwrap().operations[0].key() != "a-9" {}
        mailer.acknowledge().await.unwrap();
        mailer.acknowledge().await.unwrap();
        drop(mailer);
        let mut mailer = space.follow("mailer", &options).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), mailer.next()).await.is_err(), "it is done with all");
        seen.refused("no name", space.follow("a/b", &options).await);
        drop(mailer);
        space.forget_follower("mailer").await.unwrap();
        seen.say("forgotten", space.followers().await.unwrap());
        let mut anew = space.follow("mailer", &options).await.unwrap();
        seen.say("anew", anew.next().await.unwrap().operations);
        seen
    });
}

#[test]
fn a_snapshot_is_one_moment_however_much_is_written_meanwhile() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.create_namespace("shop", &NamespaceOptions::default().split_at(["m"])).await.unwrap();
        for number in 0..100 {
            space.put(format!("k-{number:02}"), "before").await.unwrap().await.unwrap();
            space.append("orders", Expect::Any, format!("{number}")).await.unwrap().await.unwrap();
        }
        let (snapshot, mut feed) = space.snapshot_and_feed(Read::Linearizable, Filter::All).await.unwrap();
        seen.say("at", snapshot.token().positions().map(|(_, _, lsn)| lsn).collect::<Vec<_>>());
        for number in 0..100 {
            space.put(format!("k-{number:02}"), "after").await.unwrap().await.unwrap();
            space.append("orders", Expect::Any, "later").await.unwrap().await.unwrap();
        }
        let mut next = Some(Scan::all().limit(30));
        while let Some(scan) = next {
            let page = snapshot.scan(&scan).await.unwrap();
            assert!(page.entries.iter().all(|entry| entry.value == "before"));
            seen.say("page", (page.entries.len(), &page.next));
            next = page.next;
        }
        seen.say("get", snapshot.get("k-07").await.unwrap());
        seen.say("several", snapshot.multi_get(["k-99", "none"]).await.unwrap());
        let events = snapshot.read_stream("orders", 0, Direction::Backward, (3, 1 << 20)).await.unwrap();
        seen.say("events", (events.head, events.events, events.more));
        seen.refused("no key", snapshot.get("").await);
        seen.refused("too many keys", snapshot.multi_get(vec!["k"; 10_001]).await);
        // The feed begins exactly behind it.
        let mut behind = 0;
        while behind < 200 {
            let change = feed.next().await.unwrap();
            assert!(snapshot.token().get(change.shard).is_none_or(|(_, lsn)| lsn < change.lsn));
            behind += change.operations.len();
        }
        let far = Token::at(ShardId::new(1 << 20), Epoch::new(1, 1), Lsn::new(1 << 40));
        assert!(space.snapshot(Read::AtLeast(far)).await.is_ok(), "it is of another namespace's shard");
        client.drop_namespace("shop").await.unwrap();
        let dropped = snapshot.get("k-07").await;
        assert_eq!(dropped.as_ref().map_err(ClientError::code), Err("TW-6106".to_owned()));
        seen.refused("dropped", dropped);
        seen
    });
}

#[test]
fn snapshots_are_bounded_and_their_places_come_back() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.namespace("default");
        space.put("k", "v").await.unwrap().await.unwrap();
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(space.snapshot(Read::Eventual).await.unwrap());
        }
        for _ in 0..2 {
            // Otherwise it is tried again for as long as a request may take.
            let patience = tokio::time::timeout(Duration::from_millis(200), space.snapshot(Read::Eventual)).await;
            seen.say("one too many", patience.map(|refused| refused.err().map(|error| error.code())).ok());
        }
        seen.say("held", held.pop().unwrap().get("k").await.unwrap());
        // The thread that held it takes a moment to end.
        let mut tries = 0;
        while space.snapshot(Read::Eventual).await.is_err() {
            tries += 1;
            assert!(tries < 1000, "its place does not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen
    });
}

#[test]
fn what_can_not_be_is_refused_before_it_costs_anything() {
    let options = ClientOptions { request_timeout: Duration::from_secs(3), ..ClientOptions::default() };
    with_options(&options, |client| async move {
        let mut seen = Seen::default();
        let space = client.namespace("default");
        seen.refused("an empty key", space.get("", Read::Eventual).await);
        seen.refused("a long key", space.get(vec![1; 5000], Read::Eventual).await);
        seen.refused("an empty record", space.write(Write::new()).await);
        seen.refused("a record with an empty key", space.put("", "x").await);
        seen.refused("a value that is too large", space.put("k", vec![0; 17 << 20]).await);
        space.put("large", vec![7; 10 << 20]).await.unwrap().await.unwrap();
        seen.refused("more than an answer holds", space.multi_get(vec!["large"; 3], Read::Eventual).await);
        seen.refused("too many keys", space.multi_get(vec!["none"; 10_001], Read::Eventual).await);
        let here = space.put("k", "v").await.unwrap().await.unwrap();
        let ahead = Token::at(here.shard, here.epoch, Lsn::new(1 << 40));
        let late = space.get("k", Read::AtLeast(ahead)).await.unwrap_err();
        // The client's own patience, or the server's: they end at one time.
        assert!(matches!(late.code().as_str(), "TW-6102" | "TW-7003"), "{late}");
        let lost = Token::at(here.shard, Epoch::new(1, 1), here.lsn);
        seen.refused("a lost position", space.get("k", Read::AtLeast(lost)).await);
        let unknown = client.namespace("nobody");
        seen.refused("no such namespace", unknown.token().await);
        seen.write("no such namespace", &unknown, Write::new().put("k", "v")).await;
        seen
    });
}

#[test]
fn many_tasks_share_a_client_and_few_places() {
    let options = ClientOptions { in_flight_max: 4, ..ClientOptions::default() };
    with_options(&options, |client| async move {
        let mut seen = Seen::default();
        let space = client.namespace("default");
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let space = space.clone();
                tokio::spawn(async move {
                    for number in 0..10 {
                        let append = Write::new().append(format!("s-{task}"), Expect::Version(number), "x");
                        let written = space.write(append).await.unwrap().await.unwrap();
                        assert_eq!(written.outcome.applied().unwrap(), number + 1);
                        let key = format!("k-{task}");
                        space.put(key.clone(), number.to_string()).await.unwrap().await.unwrap();
                        let found = space.get(&key, Read::Linearizable).await.unwrap().unwrap();
                        assert_eq!(found.value, number.to_string());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        // Of writes that are sent and not waited for, those about one key take effect in their order.
        let mut receipts = Vec::new();
        for number in 0..4 {
            receipts.push(space.append("ordered", Expect::Version(number), "x").await.unwrap());
        }
        for receipt in receipts {
            seen.say("in order", receipt.await.unwrap().outcome);
        }
        seen
    });
}

#[test]
fn calls_that_are_dropped_leave_nothing_behind() {
    let options = ClientOptions { in_flight_max: 8, ..ClientOptions::default() };
    with_options(&options, |client| async move {
        let mut seen = Seen::default();
        let space = client.namespace("default");
        let here = space.put("k", "0").await.unwrap().await.unwrap();
        let ahead = Token::at(here.shard, here.epoch, Lsn::new(here.lsn.get() + 33));
        for number in 0..32 {
            let waiting = space.get("k", Read::AtLeast(ahead.clone()));
            assert!(tokio::time::timeout(Duration::from_millis(2), waiting).await.is_err());
            // Not waited for: it is written all the same.
            drop(space.put(format!("k-{number}"), "1").await.unwrap());
        }
        let last = space.put("k", "33").await.unwrap().await.unwrap();
        seen.say("all written", last.lsn.distance_to(Lsn::new(here.lsn.get() + 33)));
        seen.say("read", space.get("k", Read::AtLeast(ahead)).await.unwrap().map(|found| found.value));
        seen.say("all", space.scan(&Scan::prefix("k-"), Read::Linearizable).await.unwrap().entries.len());
        seen
    });
}

#[test]
fn what_is_closed_says_so_at_once_also_to_its_clones_and_feeds() {
    both_ways(|client| async move {
        let mut seen = Seen::default();
        let space = client.namespace("default");
        space.put("k", "v").await.unwrap().await.unwrap();
        let session = space.open_session().await.unwrap();
        let snapshot = space.snapshot(Read::Eventual).await.unwrap();
        let mut feed = space.subscribe(Since::Now, Filter::All).await.unwrap();
        let waiting = tokio::spawn(async move {
            let first = feed.next().await.map(drop);
            (first, feed.next().await.map(drop))
        });
        tokio::task::yield_now().await;
        client.clone().close().await.unwrap();
        let (first, second) = waiting.await.unwrap();
        seen.refused("the feed", first);
        seen.refused("the feed again", second);
        seen.refused("a read", space.get("k", Read::Eventual).await);
        seen.refused("a write", space.put("k", "v").await.map(drop));
        seen.refused("a snapshot", snapshot.get("k").await);
        seen.refused("a new one", space.snapshot(Read::Eventual).await);
        seen.refused("a new feed", space.subscribe(Since::Now, Filter::All).await);
        seen.refused("a follower", space.follow("f", &FollowerOptions::since(Since::Now)).await);
        seen.refused("a namespace", client.create_namespace("n", &NamespaceOptions::default()).await);
        let late = session.write(Write::new().put("k", "v")).await;
        seen.say("a session", late.map_err(|error| (error.code(), error.class())));
        let twice = client.close().await;
        seen.say("closed twice", twice.is_ok());
        seen
    });
}

/// What a program keeps, it finds again: the state, a token, a session, a follower.
#[test]
fn a_program_goes_on_where_it_was_after_a_restart_of_the_node() {
    async fn before(client: &Client) -> (String, String) {
        let space = client.namespace("default");
        for number in 0..10 {
            space.put(format!("k-{number}"), "1").await.unwrap().await.unwrap();
        }
        let mut follower = space.follow("f", &FollowerOptions::since(Since::Beginning)).await.unwrap();
        for _ in 0..3 {
            follower.next().await.unwrap();
        }
        follower.acknowledge().await.unwrap();
        let session = space.open_session().await.unwrap();
        let number = session.next_number().unwrap();
        let kept = session.state().to_string();
        session.retry(number, Write::new().append("s", Expect::Any, "once")).await.unwrap();
        (kept, space.token().await.unwrap().to_string())
    }
    async fn after(client: &Client, (kept, token): (String, String)) -> Seen {
        let (mut seen, space) = (Seen::default(), client.namespace("default"));
        let session = space.resume_session(kept.parse().unwrap()).await.unwrap();
        let again = session.retry(1, Write::new().append("s", Expect::Any, "once")).await.unwrap();
        seen.say("once", again.outcome);
        let token: Token = token.parse().unwrap();
        seen.say("state", space.get("k-9", Read::AtLeast(token)).await.unwrap());
        let mut follower = space.follow("f", &FollowerOptions::since(Since::Beginning)).await.unwrap();
        seen.say("follower", follower.next().await.unwrap().operations);
        seen
    }
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = || NodeOptions::alone(directory.path().join("embedded"));
    let embedded = runtime.block_on(async {
        let client = Client::open(node(), ClientOptions::default()).await.unwrap();
        let kept = before(&client).await;
        client.close().await.unwrap();
        after(&Client::open(node(), ClientOptions::default()).await.unwrap(), kept).await
    });
    let home = directory.path().join("remote");
    let first = server(&home);
    let kept = runtime.block_on(async {
        let client = Client::connect([first.address().to_string()], ClientOptions::default()).await.unwrap();
        before(&client).await
    });
    first.shutdown().unwrap();
    let second = server(&home);
    let remote = runtime.block_on(async {
        let client = Client::connect([second.address().to_string()], ClientOptions::default()).await.unwrap();
        after(&client, kept).await
    });
    second.shutdown().unwrap();
    assert_eq!(embedded, remote);
    assert_eq!(embedded.0.len(), 3);
}

#[test]
fn a_write_that_finds_no_room_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut node = NodeOptions::alone(directory.path());
        node.queue_bytes = 64 << 10;
        let client = Client::open(node, ClientOptions::default()).await.unwrap();
        let space = client.namespace("default");
        let mut receipts = Vec::new();
        for number in 0..500 {
            receipts.push(space.put(format!("k-{number}"), noise(number, 8 << 10)).await.unwrap());
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
        client.close().await.unwrap();
    });
}

/// A record of this size is prepared on another thread, which went on and queued it when its caller had gone: by a number that the next
/// request had as well.
#[test]
fn a_large_write_whose_caller_goes_away_before_it_is_queued_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::open(NodeOptions::alone(directory.path()), ClientOptions::default()).await.unwrap();
        let space = client.namespace("default");
        let session = space.open_session().await.unwrap();
        for number in 0..5_u64 {
            let large = Write::new().append("large", Expect::Any, noise(number, 1 << 20));
            // The one other thread has its hands full until the caller has gone.
            let (go, is_gone) = std::sync::mpsc::channel::<()>();
            let full = tokio::task::spawn_blocking(move || is_gone.recv());
            {
                let mut writing = std::pin::pin!(session.write(large));
                // So far that it lies before the other thread.
                assert!(
                    std::future::poll_fn(|context| std::task::Poll::Ready(writing.as_mut().poll(context)))
                        .await
                        .is_pending()
                );
            }
            go.send(()).unwrap();
            full.await.unwrap().unwrap();
            // What comes to that thread next is done when what lay before it has been.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(session.state().waiting.len(), 0, "its number is given to the next one");
            let small = session.write(Write::new().append("small", Expect::Any, "x")).await.unwrap();
            assert_eq!(small.outcome.applied().unwrap(), number + 1);
        }
        let left = space.read_stream("large", 1, Direction::Forward, (1, 1 << 20), Read::Linearizable).await.unwrap();
        assert_eq!(left.head, 0);
        client.close().await.unwrap();
    });
}

//! What a client waits for no more is not done, unless it has begun.

use crate::cluster::{Cluster, until};
use crate::noise::noise;
use crate::raw::{Raw, envelope};
use std::cell::Cell;
use std::time::Duration;
use tokio::task::block_in_place;
use towline::client::{Client, ClientOptions, WriteError};
use towline::model::call::{Call, ReadAt};
use towline::model::codec;
use towline::model::from_client::Cancel;
use towline::model::request::{Direction, FailureClass, RequestBody, ResponseBody};
use towline::model::{Epoch, Expect, Lsn, Outcome, Read, ShardId, Token, Write};
use towline::node::{Config, ServerHandle, WriteRefused, serve};
use towline::pipeline::SubmitPolicy;
use towline_net::StreamKind;

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(600);

fn server(directory: &std::path::Path) -> ServerHandle {
    let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
    serve(&Config::parse(&directory.join("node.toml"), text).unwrap()).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn options() -> ClientOptions {
    ClientOptions { request_timeout: LONG, ..ClientOptions::default() }
}

/// In half of the minute that a read might wait for its position.
async fn none_is_left(server: &ServerHandle) {
    let left = async {
        while server.stats().requests > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left).await.expect("they leave");
}

/// A position that is never reached, in the history of this server.
async fn far(client: &Client) -> Token {
    let here = client.namespace("default").put("a", "1").await.unwrap().await.unwrap();
    Token::at(here.shard, here.epoch, Lsn::new(1 << 40))
}

/// Four of them had kept everybody else of their client waiting until their deadline.
#[test]
fn reads_that_nobody_waits_for_any_more_leave_the_server_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    run(async {
        let client = Client::connect([server.address().to_string()], options()).await.unwrap();
        let read = Read::AtLeast(far(&client).await);
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let (space, read) = (client.namespace("default"), read.clone());
                tokio::spawn(async move { space.get("a", read).await })
            })
            .collect();
        block_in_place(|| until("all of them wait", || server.stats().requests == 20));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        none_is_left(&server).await;
        // Their places in flight are free as well, and the connection is the same.
        assert_eq!(client.get(b"a").await.unwrap().unwrap().value, "1");
        assert_eq!(client.stats().reconnects, 0);
    });
    server.shutdown().unwrap();
}

#[test]
fn the_reads_of_a_client_that_is_gone_end() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    run(async {
        let client = Client::connect([server.address().to_string()], options()).await.unwrap();
        let token = far(&client).await.encode().unwrap().to_vec();
        let gone = Raw::connect(server.address()).await;
        let stream = gone.open(StreamKind::Request);
        for id in 0..10 {
            let read = ReadAt::AtLeast { token: token.clone() };
            gone.ask(stream, id, RequestBody::Call(Call::MultiGet { keys: vec![b"a".to_vec()], read })).await;
        }
        block_in_place(|| until("all of them wait", || server.stats().requests == 10));
        gone.handle.close();
        none_is_left(&server).await;
        // Its requests end first, then its connection.
        block_in_place(|| until("only the other one is left", || server.stats().clients == 1));
    });
    server.shutdown().unwrap();
}

#[test]
fn of_a_number_that_is_answered_or_was_never_asked_a_cancel_says_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    run(async {
        let mut client = Raw::connect(server.address()).await;
        let stream = client.open(StreamKind::Request);
        let cancel = |id| codec::encode(&Cancel { id }).unwrap();
        client.send(stream, cancel(7)).await;
        client.ask(stream, 7, RequestBody::Status).await;
        assert!(matches!(client.response().await, (7, ResponseBody::Status(_))));
        client.send(stream, cancel(7)).await;
        client.send(stream, cancel(u64::MAX)).await;
        client.ask(stream, 8, RequestBody::Status).await;
        assert!(matches!(client.response().await, (8, ResponseBody::Status(_))), "nothing came in between");
        // One that is not as it should be is no request either: it is not known whose it was.
        client.send(stream, envelope(0x0305, b"seven")).await;
        tokio::time::timeout(Duration::from_secs(30), client.handle.closed()).await.unwrap();
    });
    server.shutdown().unwrap();
}

#[test]
fn a_read_that_waits_for_its_position_is_answered_as_cancelled_once() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    run(async {
        let mut client = Raw::connect(server.address()).await;
        let stream = client.open(StreamKind::Request);
        let token = Token::at(ShardId::new(1024), Epoch::new(1024, 1), Lsn::new(1 << 40)).encode().unwrap().to_vec();
        let read = ReadAt::AtLeast { token };
        let call = Call::MultiGet { keys: vec![b"a".to_vec()], read };
        // Of seven, four are at work and three wait for a turn: one of each is cancelled, then the rest.
        for id in 1..=7 {
            client.ask(stream, id, RequestBody::Call(call.clone())).await;
        }
        for id in [6, 2, 1, 3, 4, 5, 7] {
            client.send(stream, codec::encode(&Cancel { id }).unwrap()).await;
            let (answered, body) = client.response().await;
            let ResponseBody::Failed(failure) = body else { panic!("{body:?}") };
            assert_eq!((answered, failure.code, failure.class), (id, 8009, FailureClass::Retry));
            assert!(failure.no_side_effects);
        }
        client.ask(stream, 8, RequestBody::Status).await;
        assert!(matches!(client.response().await, (8, ResponseBody::Status(_))));
        none_is_left(&server).await;
    });
    server.shutdown().unwrap();
}

/// Writes until the queue takes no more, for want of a majority.
fn fill(server: &ServerHandle) {
    let space = server.node().default_namespace();
    for (number, size) in [4 << 20, 1 << 20, 1 << 14, 1 << 8, 1].into_iter().enumerate() {
        let value = noise(number as u64 + 1, size);
        let is_full = || match space.write_when(Write::new().put("fill", value.clone()), SubmitPolicy::Fail) {
            Ok(receipt) => {
                drop(receipt);
                false
            }
            Err(WriteRefused::Submit(_)) => true,
            Err(refused) => panic!("{refused}"),
        };
        // Room may come once more, when a batch is sealed.
        let looks = Cell::new(0);
        until("the queue stays full", || {
            looks.set(if is_full() { looks.get() + 1 } else { 0 });
            looks.get() == 20
        });
    }
}

#[test]
fn a_write_that_waits_for_room_and_is_cancelled_never_takes_effect_and_what_stands_behind_it_does() {
    let mut cluster = Cluster::without(2);
    until("the leader serves", || cluster.server(0).node().is_serving());
    cluster.stop(1);
    fill(cluster.server(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = cluster.server(0).address().to_string();
    let client = runtime.block_on(Client::connect([address], options())).unwrap();
    let space = client.namespace("default");
    let append = |stream: &'static str| {
        let space = space.clone();
        runtime.block_on(async move { space.append(stream, Expect::Any, "x").await }).unwrap()
    };
    let (head, behind, last) = (append("head"), append("behind"), append("last"));
    until("all of them wait", || cluster.server(0).stats().requests == 3);
    for (receipt, left) in [(behind, 2), (head, 1)] {
        receipt.cancel();
        let answer = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), receipt).await });
        let error = answer.expect("an answer in time").unwrap_err();
        assert!(matches!(&error, WriteError::Refused(failure) if failure.code == 8009), "{error}");
        until("its place is free", || cluster.server(0).stats().requests == left);
    }
    cluster.start(1);
    let written = runtime.block_on(last).unwrap();
    assert_eq!(written.outcome, Outcome::Applied { version: 1 });
    let node = cluster.server(0).node().default_namespace();
    for (stream, version) in [("head", 0), ("behind", 0), ("last", 1)] {
        let read = node.read_stream(stream, 1, Direction::Forward, (10, 1 << 20), Read::Eventual).unwrap();
        assert_eq!(read.head, version, "{stream}");
    }
    drop((space, client, runtime));
    (0..2).for_each(|index| cluster.stop(index));
}

/// Each is answered once, and what the answers say is what there is.
#[test]
fn cancels_that_race_with_answers_leave_each_write_with_one_of_two_ends() {
    const WRITES: u64 = 2000;
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    run(async {
        let client = Client::connect([server.address().to_string()], options()).await.unwrap();
        let space = client.namespace("default");
        let mut receipts = Vec::new();
        for number in 0..WRITES {
            let receipt = space.append("s", Expect::Any, number.to_string()).await.unwrap();
            if number % 3 != 0 {
                receipt.cancel();
            }
            if number % 5 == 0 {
                receipt.cancel();
            }
            receipts.push((number, receipt));
        }
        let mut applied = Vec::new();
        for (number, receipt) in receipts {
            match receipt.await {
                Ok(written) => {
                    applied.push(number.to_string().into_bytes());
                    assert_eq!(written.outcome, Outcome::Applied { version: applied.len() as u64 });
                }
                Err(WriteError::Refused(failure)) => assert_eq!(failure.code, 8009),
                Err(unknown) => panic!("{unknown}"),
            }
        }
        let read = space.read_stream("s", 1, Direction::Forward, (10_000, 16 << 20), Read::Linearizable).await.unwrap();
        assert_eq!(read.events.into_iter().map(|event| event.value).collect::<Vec<_>>(), applied);
        none_is_left(&server).await;
    });
    server.shutdown().unwrap();
}

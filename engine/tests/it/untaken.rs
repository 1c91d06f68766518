//! N10, P9: what clients ask for and do not take is bounded over all of them, and costs nobody else his connection.

use crate::raw::Raw;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use towline::model::call::Call;
use towline::model::codec;
use towline::model::request::{RequestBody, ResponseBody};
use towline::model::subscription::{FilterAt, SinceAt, Subscribe};
use towline::node::{Config, ServerHandle, serve};
use towline_net::{ConnectionError, GoAwayCode, Limits, StreamKind};

const MIB: u64 = 1 << 20;
const CLIENTS_BYTES: u64 = 64 * MIB;
const PATIENCE: Duration = Duration::from_secs(60);
const ENDED: ConnectionError = ConnectionError::ClosedByPeer { code: GoAwayCode(3027) };

/// A client that takes no more than its windows: what comes is never consumed.
const NARROW: Limits =
    Limits { stream_window: 24 << 20, connection_window: 28 << 20, message_bytes_max: 20 << 20, ..Limits::DEFAULT };

fn server(directory: &Path) -> ServerHandle {
    let text = format!(
        "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
         shard = {{ leader = 1 }}\nnode = [{{ id = 1, address = '127.0.0.1:7400' }}]\n\
         limits = {{ clients_bytes = {CLIENTS_BYTES} }}"
    );
    serve(&Config::parse(&directory.join("node.toml"), &text).unwrap()).unwrap()
}

fn put(server: &ServerHandle, key: &'static str, mebibytes: usize) {
    server.node().default_namespace().put(key, vec![7; mebibytes << 20]).unwrap().wait().unwrap();
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

async fn ask(client: &Raw, key: &str, times: u64) {
    for stream in 0..times {
        let of_its_own = client.open(StreamKind::Request);
        client.ask(of_its_own, stream, RequestBody::Get { key: key.into() }).await;
    }
}

async fn greedy(address: SocketAddr, last: u8) -> Raw {
    Raw::connect_from(last, address, NARROW).await
}

async fn ended(client: &Raw) -> ConnectionError {
    tokio::time::timeout(PATIENCE, client.handle.closed()).await.unwrap()
}

#[test]
fn forty_clients_that_take_nothing_are_bounded_together_and_hurt_nobody_who_takes_what_he_asks_for() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    put(&server, "large", 1);
    put(&server, "larger", 4);
    run(async {
        let address = server.address();
        let mut honest = Raw::connect(address).await;
        let stream = honest.open(StreamKind::Request);
        let mut clients = Vec::new();
        for number in 0..40 {
            let client = greedy(address, 2 + number % 4).await;
            ask(&client, "large", 80).await;
            clients.push(client);
        }
        let (mut most, mut answered, end) = (0, 0, Instant::now() + PATIENCE);
        // Each may have 28 MiB on its side of the network, and 52 that wait at the server: 2 GiB together.
        while server.stats().ended_for_memory < 30 {
            assert!(Instant::now() < end, "{:?}", server.stats());
            // A connection that ends is a panic there.
            honest.ask(stream, answered, RequestBody::Get { key: b"larger".to_vec() }).await;
            assert!(matches!(honest.response().await, (id, ResponseBody::Value { .. }) if id == answered));
            answered += 1;
            most = most.max(server.stats().held_bytes);
        }
        // Those that end give back what they held a moment later.
        assert!(most <= CLIENTS_BYTES * 3 / 2, "{} MiB were held", most / MIB);
        for client in &clients {
            if client.handle.is_closed() {
                assert_eq!(ended(client).await, ENDED);
            }
            client.handle.close();
        }
        while server.stats().held_bytes > 0 {
            assert!(Instant::now() < end, "{:?}", server.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        honest.ask(stream, answered, RequestBody::Call(Call::Token)).await;
        honest.response().await;
    });
    server.shutdown().unwrap();
}

/// A send buffer has room for two of these answers: the others wait for it.
#[test]
fn answers_that_wait_for_room_count_too() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    put(&server, "largest", 16);
    run(async {
        let client = greedy(server.address(), 2).await;
        ask(&client, "largest", 6).await;
        assert_eq!(ended(&client).await, ENDED);
    });
    assert_eq!(server.stats().ended_for_memory, 1);
    server.shutdown().unwrap();
}

/// Each feed looks at the log while little waits, and all of them do so at once.
#[test]
fn deliveries_that_wait_for_room_count_too() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path());
    put(&server, "largest", 16);
    run(async {
        let client = greedy(server.address(), 2).await;
        let from_the_beginning =
            Subscribe { namespace: "default".into(), since: SinceAt::Beginning, filter: FilterAt::All };
        for _ in 0..16 {
            let stream = client.open(StreamKind::Feed);
            client.send(stream, codec::encode(&from_the_beginning).unwrap()).await;
        }
        assert_eq!(ended(&client).await, ENDED);
    });
    assert_eq!(server.stats().ended_for_memory, 1);
    server.shutdown().unwrap();
}

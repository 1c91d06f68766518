//! The client against servers that speak the real protocol over real sockets, and misbehave on purpose.

use super::*;
use crate::model::codec;
use crate::model::from_client::FromClient;
use crate::model::request::{
    Direction, Failure, FailureClass, Request, RequestBody, Response, ResponseBody, ServerStatus,
};
use crate::model::subscription::{Delivery, Subscribe};
use crate::model::{NodeId, Operation, Outcome, Record};
use parking_lot::Mutex;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use towline_net::driver::{EventSink, Listener, ListenerOptions};
use towline_net::{ConnectionConfig, Event, Identity, Role, SendFlags, StreamKind};

/// What a server does about what it hears.
pub(super) enum Reaction {
    Answer(Vec<(u64, ResponseBody)>),
    Deliver(Vec<Delivery>),
    HangUp,
}

/// What a server hears.
#[derive(Debug)]
pub(super) enum Heard {
    Opened(StreamKind),
    Finished,
    Request(Request),
    Cancel(u64),
    Subscribe(Subscribe),
}

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test ends") });
}

/// Node `node` at a port of its own, until the runtime ends.
pub(super) async fn server(node: u64, react: impl Fn(Request) -> Reaction + Send + Sync + 'static) -> String {
    hearing(node, 0, move |heard| match heard {
        Heard::Request(request) => react(request),
        Heard::Opened(_) | Heard::Finished => Reaction::Answer(vec![]),
        other => panic!("it offers nothing of the kind: {other:?}"),
    })
    .await
}

/// One that offers features, and reacts to all that it hears.
pub(super) async fn hearing(
    node: u64,
    features: u64,
    react: impl Fn(Heard) -> Reaction + Send + Sync + 'static,
) -> String {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, ListenerOptions::default()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let react = Arc::new(react);
    tokio::spawn(async move {
        let mut connections = Vec::new();
        loop {
            let incoming = listener.accept().await.unwrap();
            let react = Arc::clone(&react);
            let sink = EventSink::callback_with_handle(move |handle, event| {
                let (stream, heard) = match event {
                    Event::Opened { stream, kind, .. } => (stream, Heard::Opened(kind)),
                    Event::Finished { stream } => (stream, Heard::Finished),
                    Event::Message { stream, bytes, charge, .. } => {
                        handle.consumed(stream, charge);
                        (stream, of_bytes(&bytes))
                    }
                    _ => return,
                };
                let say = |bytes| handle.try_send(stream, bytes, SendFlags::default()).unwrap();
                match react(heard) {
                    Reaction::Answer(answers) => {
                        answers.into_iter().for_each(|(id, body)| say(codec::encode(&Response { id, body }).unwrap()));
                    }
                    Reaction::Deliver(deliveries) => {
                        deliveries.iter().for_each(|delivery| say(codec::encode(delivery).unwrap()));
                    }
                    Reaction::HangUp => handle.close(),
                }
            });
            let identity =
                Identity { cluster: [7; 16], node, directory: [node as u8; 16], incarnation: 1, role: Role::Node };
            let mut config = ConnectionConfig::new(identity, [9; 16]);
            config.features.offered = features;
            connections.push(incoming.spawn(config, sink).unwrap());
        }
    });
    address
}

fn of_bytes(bytes: &[u8]) -> Heard {
    match FromClient::decode(bytes) {
        Ok(FromClient::Request(request)) => Heard::Request(request),
        Ok(FromClient::Cancel(cancel)) => Heard::Cancel(cancel.id),
        Ok(FromClient::Newer(head)) => panic!("{head:?}"),
        Err(_) => Heard::Subscribe(codec::decode(bytes).unwrap()),
    }
}

pub(super) fn status(node: u64, leader: u64, serving: bool) -> ResponseBody {
    ResponseBody::Status(ServerStatus {
        node: NodeId::new(node),
        leader: Some(NodeId::new(leader)),
        serving,
        epoch: (1024, 1),
        end: 0,
        durable: 0,
        committed: 0,
        applied: 0,
        wire_bytes_sent: 0,
        log_bytes: 0,
        batch_bytes: (0, 0),
        followers: Vec::new(),
    })
}

pub(super) fn one(id: u64, body: ResponseBody) -> Reaction {
    Reaction::Answer(vec![(id, body)])
}

pub(super) fn written(lsn: u64) -> ResponseBody {
    ResponseBody::Written { epoch: (1024, 1), lsn, outcome: Outcome::Applied { version: lsn } }
}

pub(super) fn failed(code: u16, class: FailureClass, no_side_effects: bool) -> ResponseBody {
    ResponseBody::Failed(Failure { code, class, no_side_effects, message: "no".into(), leader: None })
}

pub(super) fn put() -> Record {
    Record::of(vec![Operation::Put { key: "k".into(), value: "v".into() }])
}

pub(super) fn options() -> ClientOptions {
    ClientOptions {
        request_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        ..ClientOptions::default()
    }
}

/// A leader that answers every write with its request's number as the LSN.
pub(super) fn leads(node: u64) -> impl Fn(Request) -> Reaction + Send + Sync + 'static {
    move |request| match request.body {
        RequestBody::Status => one(request.id, status(node, node, true)),
        RequestBody::Write { .. } => one(request.id, written(request.id)),
        _ => one(request.id, failed(2001, FailureClass::FixRequest, true)),
    }
}

#[test]
fn the_leader_is_found_among_all_addresses() {
    run(async {
        let follower = server(2, |request| one(request.id, status(2, 1, false))).await;
        let leader = server(1, leads(1)).await;
        let client = Client::connect([follower, leader], options()).await.unwrap();
        assert_eq!(client.node().await, Some(NodeId::new(1)));
        let receipt = client.write(&put()).await.unwrap();
        assert!(matches!(receipt.await.unwrap().outcome, Outcome::Applied { .. }));
    });
}

#[test]
fn answers_in_any_order_find_their_requests() {
    run(async {
        let held = Mutex::new(Vec::new());
        let leader = server(1, move |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            _ => {
                let mut held = held.lock();
                held.push((request.id, written(request.id * 10)));
                if held.len() < 3 { Reaction::Answer(vec![]) } else { Reaction::Answer(held.drain(..).rev().collect()) }
            }
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        let mut receipts = Vec::new();
        for _ in 0..3 {
            receipts.push(client.write(&put()).await.unwrap());
        }
        let mut lsns = Vec::new();
        for receipt in receipts {
            lsns.push(receipt.await.unwrap().lsn.get());
        }
        assert_eq!(lsns, [20, 30, 40], "request 1 asked for the status");
    });
}

#[test]
fn a_lost_connection_makes_every_write_in_flight_unknown_and_the_next_one_connects_anew() {
    run(async {
        let writes = AtomicUsize::new(0);
        let leader = server(1, move |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            _ => match writes.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Reaction::Answer(vec![]),
                2 => Reaction::HangUp,
                _ => one(request.id, written(7)),
            },
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        let receipts = [
            client.write(&put()).await.unwrap(),
            client.write(&put()).await.unwrap(),
            client.write(&put()).await.unwrap(),
        ];
        for receipt in receipts {
            let error = receipt.await.unwrap_err();
            assert_eq!(error, WriteError::Unknown { cause: UnknownCause::ConnectionLost });
            assert!(!error.has_no_effect());
        }
        assert_eq!(client.write(&put()).await.unwrap().await.unwrap().lsn.get(), 7);
        assert_eq!(client.stats().reconnects, 1);
    });
}

#[test]
fn a_write_without_an_answer_in_time_is_unknown_not_failed() {
    run(async {
        let leader = server(1, |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            _ => Reaction::Answer(vec![]),
        })
        .await;
        let timeout = Duration::from_millis(50);
        let client = Client::connect([leader], ClientOptions { request_timeout: timeout, ..options() }).await.unwrap();
        let error = client.write(&put()).await.unwrap().await.unwrap_err();
        assert_eq!(error, WriteError::Unknown { cause: UnknownCause::Deadline(timeout) });
    });
}

#[test]
fn what_the_server_says_about_effects_is_kept_apart() {
    run(async {
        let writes = AtomicUsize::new(0);
        let leader = server(1, move |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            _ if writes.fetch_add(1, Ordering::Relaxed) == 0 => {
                one(request.id, failed(8003, FailureClass::Retry, true))
            }
            _ => one(request.id, failed(1004, FailureClass::Retry, false)),
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        let refused = client.write(&put()).await.unwrap().await.unwrap_err();
        assert!(refused.has_no_effect(), "{refused:?}");
        let unknown = client.write(&put()).await.unwrap().await.unwrap_err();
        assert!(matches!(unknown, WriteError::Unknown { cause: UnknownCause::Server(_) }), "{unknown:?}");
    });
}

#[test]
fn a_server_that_no_longer_leads_is_left_for_the_one_that_does() {
    run(async {
        let was_asked = AtomicUsize::new(0);
        let former = server(1, move |request| match request.body {
            RequestBody::Status => {
                let leads = was_asked.fetch_add(1, Ordering::Relaxed) == 0;
                one(request.id, status(1, if leads { 1 } else { 2 }, leads))
            }
            _ => one(request.id, failed(8001, FailureClass::ReRoute, true)),
        })
        .await;
        let leader = server(2, leads(2)).await;
        let client = Client::connect([former, leader], options()).await.unwrap();
        assert_eq!(client.node().await, Some(NodeId::new(1)));
        assert!(client.write(&put()).await.unwrap().await.unwrap_err().has_no_effect());
        client.write(&put()).await.unwrap().await.unwrap();
        assert_eq!(client.node().await, Some(NodeId::new(2)));
    });
}

/// The story of a bug: what a connection received was added when it was replaced, so a client that kept its connection
/// counted nothing for ever.
#[test]
fn bytes_received_are_those_of_the_connection_in_use_and_of_all_before_it() {
    run(async {
        let (sent, reads) = (Arc::new(AtomicU64::new(0)), AtomicUsize::new(0));
        let told = Arc::clone(&sent);
        let leader = server(1, move |request| {
            let body = match request.body {
                RequestBody::Status => status(1, 1, true),
                _ if reads.fetch_add(1, Ordering::Relaxed) == 1 => return Reaction::HangUp,
                _ => ResponseBody::Value { value: Some((4, b"v".to_vec())), applied: 9 },
            };
            let bytes = codec::encode(&Response { id: request.id, body: body.clone() }).unwrap();
            told.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            one(request.id, body)
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        for reconnects in [0, 1] {
            client.get(b"k").await.unwrap().unwrap();
            let stats = client.stats();
            assert_eq!((stats.reconnects, stats.bytes_received), (reconnects, sent.load(Ordering::Relaxed)));
        }
    });
}

#[test]
fn a_read_is_asked_again_after_a_lost_connection() {
    run(async {
        let reads = AtomicUsize::new(0);
        let leader = server(1, move |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            _ if reads.fetch_add(1, Ordering::Relaxed) == 0 => Reaction::HangUp,
            RequestBody::Get { .. } => {
                one(request.id, ResponseBody::Value { value: Some((4, b"v".to_vec())), applied: 9 })
            }
            _ => one(request.id, ResponseBody::Events { events: vec![], head: 3, more: false, applied: 9 }),
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        let value = client.get(b"k").await.unwrap().unwrap();
        assert_eq!((value.version, value.value.as_ref()), (4, b"v".as_slice()));
        let page = client.read_stream(b"s", 0, Direction::Backward, 1).await.unwrap();
        assert_eq!((page.head, page.applied.get()), (3, 9));
    });
}

#[test]
fn no_more_than_the_allowed_requests_are_in_flight() {
    run(async {
        let leader = server(1, |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            _ => Reaction::Answer(vec![]),
        })
        .await;
        let few = ClientOptions { in_flight_max: 2, request_timeout: Duration::from_millis(50), ..options() };
        let client = Client::connect([leader], few).await.unwrap();
        let _in_flight = [client.write(&put()).await.unwrap(), client.write(&put()).await.unwrap()];
        let third = client.write(&put()).await;
        assert!(matches!(third, Err(ClientError::Deadline { .. })), "{third:?}");
    });
}

#[test]
fn nobody_there_is_said_with_every_address_and_why() {
    run(async {
        let short = ClientOptions { connect_timeout: Duration::from_millis(100), ..options() };
        let follower = server(2, |request| one(request.id, status(2, 1, false))).await;
        let addresses = ["127.0.0.1:1".to_owned(), follower];
        let error = Client::connect(addresses, short.clone()).await.unwrap_err();
        let sentence = error.to_string();
        assert!(sentence.contains("127.0.0.1:1: ") && sentence.contains("node 2 follows node 1"), "{sentence}");
        let none = Client::connect(Vec::<String>::new(), short).await.unwrap_err();
        assert_eq!(none, ClientError::NoAddress);
    });
}

#[test]
fn a_follower_can_be_asked_by_name() {
    run(async {
        let follower = server(2, |request| one(request.id, status(2, 1, false))).await;
        let any = ClientOptions { route: Route::Any, ..options() };
        let client = Client::connect([follower], any).await.unwrap();
        assert_eq!(client.status().await.unwrap().node, NodeId::new(2));
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what is tested is how long many calls wait together")]
fn calls_that_wait_for_one_server_share_the_attempt_to_find_it() {
    run(async {
        let looks = AtomicU64::new(0);
        // It leads once, hangs up, and leads no more.
        let leader = server(1, move |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, looks.fetch_add(1, Ordering::Relaxed) == 0)),
            _ => Reaction::HangUp,
        })
        .await;
        let wait = Duration::from_millis(500);
        let client = Client::connect([leader], ClientOptions { connect_timeout: wait, ..options() }).await.unwrap();
        assert!(client.write(&put()).await.unwrap().await.is_err(), "it hangs up");
        let begun = std::time::Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let client = client.clone();
            calls.spawn(async move { client.get(b"k").await });
        }
        while let Some(call) = calls.join_next().await {
            assert!(matches!(call.unwrap(), Err(ClientError::Unreachable { .. })));
        }
        assert!(begun.elapsed() < wait * 8, "{:?} for 16 calls that may wait {wait:?}", begun.elapsed());
    });
}

//! What a client does about requests that nobody waits for any more.

use super::client_test::{Heard, Reaction, failed, hearing, one, options, put, run, server, status};
use super::link::Link;
use super::*;
use crate::model::call::{Answer, Call};
use crate::model::codec;
use crate::model::from_client::CANCEL;
use crate::model::namespace::{NamespaceDescriptor, Policy};
use crate::model::request::{FailureClass, Request, RequestBody, ResponseBody};
use crate::model::{Expect, NamespaceId, Outcome, Record, ShardDescriptor, ShardId, Write};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

/// Long enough for what is done to be done; nothing is measured by it.
const MOMENT: Duration = Duration::from_millis(50);

/// Lets a future begin, and drops it.
async fn begun_and_dropped(future: impl Future) {
    timeout(MOMENT, future).await.map(drop).expect_err("it waits");
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        yield_now().await;
    }
}

#[test]
fn a_read_that_is_dropped_is_cancelled_once_and_an_answered_one_and_a_write_are_not() {
    run(async {
        let heard = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let (told, reads) = (Arc::clone(&heard), Arc::clone(&heard));
        let leader = hearing(1, CANCEL, move |heard| match heard {
            Heard::Request(Request { id, body: RequestBody::Status, .. }) => one(id, status(1, 1, true)),
            Heard::Request(Request { id, body: RequestBody::Digest, .. }) => {
                one(id, ResponseBody::Digest { epoch: (1, 1), applied: 1, digest: [0; 16] })
            }
            Heard::Request(Request { id, body: RequestBody::Get { .. }, .. }) => {
                told.lock().0.push(id);
                Reaction::Answer(vec![])
            }
            Heard::Cancel(id) => {
                told.lock().1.push(id);
                Reaction::Answer(vec![])
            }
            _ => Reaction::Answer(vec![]),
        })
        .await;
        let few = ClientOptions { in_flight_max: 3, ..options() };
        let client = Client::connect([leader], few).await.unwrap();
        client.digest().await.unwrap();
        drop(client.write(&put()).await.unwrap());
        begun_and_dropped(client.get(b"k")).await;
        until(|| !reads.lock().1.is_empty()).await;
        // Whatever else was sent is there before this is answered.
        client.digest().await.unwrap();
        let (asked, cancelled) = &*heard.lock();
        assert_eq!((asked.len(), cancelled), (1, asked));
    });
}

#[test]
fn the_future_of_a_write_can_ask_for_it_to_be_taken_back() {
    run(async {
        let leader = hearing(1, CANCEL, move |heard| match heard {
            Heard::Request(Request { id, body: RequestBody::Status, .. }) => one(id, status(1, 1, true)),
            Heard::Cancel(id) => one(id, failed(8009, FailureClass::Retry, true)),
            _ => Reaction::Answer(vec![]),
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        let receipt = client.write(&put()).await.unwrap();
        receipt.cancel();
        assert!(matches!(receipt.await, Err(WriteError::Refused(failure)) if failure.code == 8009));
    });
}

/// It would take the message for a request that it can't read, and end the connection.
#[test]
fn n12_a_server_that_does_not_know_of_cancelling_is_sent_none() {
    run(async {
        let gets = Arc::new(Mutex::new(0));
        let count = Arc::clone(&gets);
        // It panics at a cancel.
        let leader = server(1, move |request| match request.body {
            RequestBody::Status => one(request.id, status(1, 1, true)),
            RequestBody::Digest => one(request.id, ResponseBody::Digest { epoch: (1, 1), applied: 1, digest: [0; 16] }),
            _ => {
                *count.lock() += 1;
                Reaction::Answer(vec![])
            }
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        begun_and_dropped(client.get(b"k")).await;
        let receipt = client.write(&put()).await.unwrap();
        receipt.cancel();
        client.digest().await.unwrap();
        assert_eq!((*gets.lock(), client.stats().reconnects), (2, 0));
    });
}

/// A place among the requests in flight was lost with each, for as long as the connection lived.
#[test]
fn a_request_that_is_dropped_before_it_is_sent_gives_its_place_back() {
    run(async {
        // Nothing is taken of what comes.
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = towline_net::driver::Listener::bind(any, Default::default()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let incoming = listener.accept().await.unwrap();
            let identity = towline_net::Identity {
                cluster: [7; 16],
                node: 1,
                directory: [1; 16],
                incarnation: 1,
                role: towline_net::Role::Node,
            };
            let config = towline_net::ConnectionConfig::new(identity, [9; 16]);
            let _held = incoming.spawn(config, towline_net::driver::EventSink::callback(|_| ())).unwrap();
            std::future::pending::<()>().await;
        });
        let link = Link::open(address, "127.0.0.1", &options(), &Arc::default()).await.map_err(drop).unwrap();
        let places = Arc::new(Semaphore::new(1000));
        let mut held = Vec::new();
        let far = Instant::now() + Duration::from_secs(3600);
        let record = vec![7; 100 << 10];
        let encode = |id| {
            let body = RequestBody::Write { record: record.clone() };
            codec::encode(&Request { id, deadline_ms: 0, namespace: "default".into(), body })
        };
        let full = loop {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            match timeout(MOMENT, link.send(place, None, far, encode)).await {
                Ok(sent) => held.push(sent.unwrap()),
                Err(_) => break places.available_permits(),
            }
        };
        assert_eq!(full, 1000 - held.len(), "the one that found no room took none");
    });
}

/// What a server of sessions answers: all but the writes.
fn of_sessions(request: &Request) -> Option<Reaction> {
    let shard = ShardId::new(1024);
    let answer = |answer| Some(one(request.id, ResponseBody::Answer(answer)));
    match &request.body {
        RequestBody::Status => Some(one(request.id, status(1, 1, true))),
        RequestBody::Call(Call::OpenSession) => answer(Answer::Session(vec![(shard, 0xfeed)])),
        RequestBody::Call(Call::Describe) => {
            let namespace = NamespaceId::new(1);
            let shards = vec![ShardDescriptor { shard, namespace, start: vec![], end: vec![] }];
            let (name, policy) = ("default".into(), Policy::default());
            answer(Answer::Namespace(NamespaceDescriptor { id: namespace, name, policy, shards }))
        }
        _ => None,
    }
}

fn request_of(body: &RequestBody) -> crate::model::RequestId {
    let RequestBody::Call(Call::Write { record, .. }) = body else { panic!("{body:?}") };
    Record::decode(&mut record.clone().into()).unwrap().request
}

fn applied(lsn: u64) -> ResponseBody {
    let outcome = Outcome::Applied { version: lsn };
    ResponseBody::Answer(Answer::Written { shard: ShardId::new(1024), epoch: (1024, 1), lsn, outcome })
}

/// It kept its number until it was given up: in the end no request had one.
#[test]
fn the_answer_of_a_session_s_request_that_nobody_waits_for_frees_its_number() {
    run(async {
        let seen = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let told = Arc::clone(&seen);
        let leader = server(1, move |request| {
            of_sessions(&request).unwrap_or_else(|| {
                let (requests, held) = &mut *told.lock();
                requests.push(request_of(&request.body));
                held.push((request.id, applied(requests.len() as u64)));
                // The first two wait for the third.
                if requests.len() < 3 { Reaction::Answer(vec![]) } else { Reaction::Answer(std::mem::take(held)) }
            })
        })
        .await;
        let client = Client::connect([leader], options()).await.unwrap();
        let session = client.namespace("default").open_session().await.unwrap();
        let write = Write::new().append("s", Expect::Any, "x");
        begun_and_dropped(session.write(&write)).await;
        begun_and_dropped(session.write(&write)).await;
        session.give_up(2);
        assert_eq!(session.state().waiting.keys().copied().collect::<Vec<_>>(), [1], "it was sent: it may be executed");
        session.write(&write).await.unwrap();
        assert!(session.state().waiting.is_empty());
        session.write(&write).await.unwrap();
        let said: Vec<_> =
            seen.lock().0.iter().map(|request| (request.number, request.ack_low, request.after)).collect();
        assert_eq!(said, [(1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 4, 3)]);
    });
}

#[test]
fn a_session_s_request_that_is_dropped_before_it_is_sent_uses_no_number() {
    run(async {
        let leader = server(1, move |request| of_sessions(&request).unwrap_or_else(|| Reaction::Answer(vec![]))).await;
        let one_place = ClientOptions { in_flight_max: 1, ..options() };
        let client = Client::connect([leader], one_place).await.unwrap();
        let session = client.namespace("default").open_session().await.unwrap();
        let before = session.state();
        let _takes_the_place = client.write(&put()).await.unwrap();
        begun_and_dropped(session.write(&put())).await;
        assert_eq!(session.state(), before);
        // One that was taken to be kept stays taken.
        let kept = session.next_number().unwrap();
        begun_and_dropped(session.retry(kept, &put())).await;
        assert_eq!(session.state().waiting.into_iter().collect::<Vec<_>>(), [(kept, None)]);
    });
}

#[test]
fn a_session_s_request_waits_for_its_turn_no_longer_than_a_request_may_take() {
    run(async {
        let leader = server(1, move |request| of_sessions(&request).unwrap_or_else(|| Reaction::Answer(vec![]))).await;
        let wait = Duration::from_millis(300);
        let one_place = ClientOptions { in_flight_max: 1, request_timeout: wait, ..options() };
        let client = Client::connect([leader], one_place).await.unwrap();
        let session = client.namespace("default").open_session().await.unwrap();
        let before = session.state();
        let _takes_the_place = client.write(&put()).await.unwrap();
        // One has the turn, and waits for a place; one after the other they would take a minute.
        let mut writes = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let session = session.clone();
            writes.spawn(async move { session.write(&put()).await });
        }
        while let Some(written) = writes.join_next().await {
            let error = written.unwrap().unwrap_err();
            assert!(matches!(error, SessionError::NotSent(ClientError::Deadline { .. })), "{error}");
        }
        assert_eq!(session.state(), before);
    });
}

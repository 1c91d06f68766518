//! What is tried again, and what is not.

use super::client_test::{Heard, Reaction, failed, hearing, leads, one, options, put, run, server, status};
use super::*;
use crate::model::call::Answer;
use crate::model::request::{Failure, FailureClass, Request, RequestBody, ResponseBody};
use crate::model::subscription::Delivery;
use crate::model::{Change, Epoch, Filter, Lsn, NodeId, Operation, Read, ShardId, Since, Token};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use towline_net::StreamKind;

/// A server that answers this to all but the question who leads, and counts how often it did.
async fn answering(body: impl Fn(usize) -> Option<ResponseBody> + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = server(1, move |request| match request.body {
        RequestBody::Status => one(request.id, status(1, 1, true)),
        _ => match body(count.fetch_add(1, Ordering::Relaxed)) {
            Some(body) => one(request.id, body),
            None => Reaction::HangUp,
        },
    })
    .await;
    (address, asked)
}

/// The leader of several can't answer a linearizable read, and nobody else can: its clients asked again until their deadline, each time
/// over a new connection.
#[test]
fn a_leader_that_sends_on_to_itself_is_asked_once_and_not_left() {
    run(async {
        let to_itself = || {
            let (code, class, message) = (6104, FailureClass::ReRoute, "node 1 leads".into());
            let leader = Some(NodeId::new(1));
            ResponseBody::Failed(Failure { code, class, no_side_effects: true, message, leader })
        };
        let (leader, asked) = answering(move |_| Some(to_itself())).await;
        let client = Client::connect([leader], options()).await.unwrap();
        for times in 1..=3 {
            let error = client.namespace("default").get("k", Read::Linearizable).await.unwrap_err();
            assert_eq!((error.code().as_str(), asked.load(Ordering::Relaxed)), ("TW-6104", times));
            assert!(client.status().await.is_ok());
        }
        assert_eq!(client.stats().reconnects, 0);
    });
}

#[test]
fn what_changes_something_is_asked_again_only_if_it_was_certainly_not_done() {
    run(async {
        let done = || Some(ResponseBody::Answer(Answer::Done));
        let in_doubt = || Some(failed(8004, FailureClass::Retry, false));
        let refused = || Some(failed(8002, FailureClass::Retry, true));
        for (first, asked_again) in [(in_doubt(), false), (None, false), (refused(), true)] {
            let (answer, name) = (first.clone(), format!("{first:?}"));
            let (leader, asked) = answering(move |times| if times == 0 { answer.clone() } else { done() }).await;
            let client = Client::connect([leader], options()).await.unwrap();
            let dropped = client.drop_namespace("shop").await;
            assert_eq!(
                (dropped.is_ok(), asked.load(Ordering::Relaxed)),
                (asked_again, 1 + usize::from(asked_again)),
                "{name}"
            );
            // What can be done twice, is.
            let answer = first.clone();
            let (leader, asked) = answering(move |times| if times == 0 { answer.clone() } else { done() }).await;
            let client = Client::connect([leader], options()).await.unwrap();
            client.set_policy("shop", crate::model::Policy::default()).await.unwrap();
            assert_eq!(asked.load(Ordering::Relaxed), 2, "{name}");
        }
    });
}

fn beginning() -> Delivery {
    Delivery::of(&[], &Token::default()).unwrap()
}

fn change(lsn: u64) -> Delivery {
    let operations = vec![Operation::Delete { key: lsn.to_string().into() }];
    let (shard, epoch) = (ShardId::new(1024), Epoch::new(1, 1));
    let change = Change { shard, epoch, lsn: Lsn::new(lsn), time_micros: 0, operations };
    Delivery::of(std::slice::from_ref(&change), &change.token()).unwrap()
}

/// A server whose feeds say this, by the number of the subscription.
async fn feeding(say: impl Fn(usize) -> Vec<Delivery> + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = hearing(1, 0, move |heard| match heard {
        Heard::Request(Request { id, .. }) => one(id, status(1, 1, true)),
        Heard::Subscribe(subscribe) if subscribe.namespace == "default" => {
            Reaction::Deliver(say(count.fetch_add(1, Ordering::Relaxed)))
        }
        _ => Reaction::Answer(vec![]),
    })
    .await;
    (address, asked)
}

/// It was tried for ever: who asked for the next change never heard that something was wrong.
#[test]
fn a_feed_that_a_server_can_not_go_on_with_says_so_after_a_while_and_tries_again_when_it_is_asked() {
    run(async {
        let trouble = || {
            Delivery::Failed(Failure {
                code: 6204,
                class: FailureClass::Retry,
                no_side_effects: true,
                message: "the device can't read".into(),
                leader: None,
            })
        };
        let mended = Arc::new(Mutex::new(false));
        let is_mended = Arc::clone(&mended);
        let (leader, asked) = feeding(move |times| match times {
            0 => vec![beginning(), change(1), trouble()],
            _ if *is_mended.lock() => vec![beginning(), change(2)],
            _ => vec![beginning(), trouble()],
        })
        .await;
        let short = ClientOptions { connect_timeout: Duration::from_millis(300), ..options() };
        let client = Client::connect([leader], short).await.unwrap();
        let mut feed = client.namespace("default").subscribe(Since::Beginning, Filter::All).await.unwrap();
        assert_eq!(feed.next().await.unwrap().lsn, Lsn::new(1));
        for _ in 0..2 {
            let before = asked.load(Ordering::Relaxed);
            assert_eq!(feed.next().await.unwrap_err().code(), "TW-6204");
            assert!(asked.load(Ordering::Relaxed) > before + 1, "it was tried again");
        }
        *mended.lock() = true;
        assert_eq!(feed.next().await.unwrap().lsn, Lsn::new(2));
    });
}

#[test]
fn a_feed_opens_no_stream_but_its_own_and_ends_that_on_which_it_asked_who_leads() {
    run(async {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        let leader = hearing(1, 0, move |heard| match heard {
            Heard::Request(Request { id, .. }) => {
                told.lock().push("asked".to_owned());
                one(id, status(1, 1, true))
            }
            Heard::Subscribe(_) => {
                told.lock().push("subscribed".to_owned());
                Reaction::Deliver(vec![beginning(), change(1)])
            }
            Heard::Opened(StreamKind::Request) => {
                told.lock().push("requests".to_owned());
                Reaction::Answer(vec![])
            }
            Heard::Finished => {
                told.lock().push("finished".to_owned());
                Reaction::Answer(vec![])
            }
            _ => Reaction::Answer(vec![]),
        })
        .await;
        for (route, expected) in
            [(Route::Any, &["subscribed"][..]), (Route::Leader, &["asked", "finished", "requests", "subscribed"])]
        {
            let client = Client::connect([leader.clone()], ClientOptions { route, ..options() }).await.unwrap();
            heard.lock().clear();
            let mut feed = client.namespace("default").subscribe(Since::Beginning, Filter::All).await.unwrap();
            feed.next().await.unwrap();
            // Of two lanes, one overtakes the other.
            let mut heard = heard.lock().clone();
            heard.sort();
            assert_eq!(heard, expected);
        }
    });
}

#[test]
fn plain_text_goes_to_loopback_only_unless_it_is_asked_for_by_its_name() {
    run(async {
        let leader = server(1, leads(1)).await;
        let port = leader.rsplit_once(':').unwrap().1;
        // Linux connects to itself there, and it is no loopback address.
        let here = format!("0.0.0.0:{port}");
        let patient = ClientOptions { connect_timeout: Duration::from_secs(3600), ..options() };
        for route in [Route::Any, Route::Leader] {
            let error = Client::connect([here.clone()], ClientOptions { route, ..patient.clone() }).await.unwrap_err();
            assert_eq!((error.code().as_str(), error.class()), ("TW-6040", FailureClass::FixRequest), "{error}");
        }
        let named = ClientOptions { insecure_plaintext: true, ..patient.clone() };
        let client = Client::connect([here], named).await.unwrap();
        client.write(&put()).await.unwrap().await.unwrap();
        Client::connect([leader], patient).await.unwrap();
    });
}

/// I12, attacked.
#[cfg(feature = "mutants")]
#[test]
fn a_client_that_speaks_plain_text_to_anybody_is_noticed() {
    use crate::model::mutant::{Mutant, plant};
    run(async {
        let leader = server(1, leads(1)).await;
        let here = format!("0.0.0.0:{}", leader.rsplit_once(':').unwrap().1);
        plant(Some(Mutant::PlainTextAnywhere));
        let connected = Client::connect([here], options()).await;
        plant(None);
        assert!(connected.is_ok(), "what the test above refuses: {connected:?}");
    });
}

#[test]
fn a_namespace_that_does_not_exist_is_told_and_not_waited_for() {
    run(async {
        let leader = server(1, |request| one(request.id, failed(8102, FailureClass::FixRequest, true))).await;
        let patient = ClientOptions { connect_timeout: Duration::from_secs(3600), ..options() };
        let error = Client::connect([leader], patient).await.unwrap_err();
        assert_eq!(error.code(), "TW-8102");
    });
}

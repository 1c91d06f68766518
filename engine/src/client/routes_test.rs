//! To which server a request goes, where several lead: servers that speak the real protocol, and say what they are told to.

use super::client_test::{Reaction, failed, one, options, run, server, status};
use super::*;
use crate::model::call::{Answer, Call, ShardPlace};
use crate::model::request::{Direction, Failure, FailureClass, Request, RequestBody, ResponseBody};
use crate::model::{
    Epoch, Lsn, NamespaceDescriptor, NamespaceId, NodeId, Policy, Position, Read, Scan, ShardDescriptor, ShardId,
    Token, Write,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Two shards, led by these nodes; keys from "h" on are of the second one. As `node` says, which takes writes of what it leads.
fn places(node: u64, leaders: [u64; 2]) -> ResponseBody {
    let place = |index: usize, start: &str| ShardPlace {
        shard: ShardId::new(1024 * (2 + index as u64)),
        start: start.into(),
        leader: Some(NodeId::new(leaders[index])),
        serving: leaders[index] == node,
        applied: 0,
        failure: None,
    };
    ResponseBody::Answer(Answer::Shards(vec![place(0, ""), place(1, "h")]))
}

fn descriptor() -> NamespaceDescriptor {
    let id = NamespaceId::new(2);
    let shards = vec![ShardDescriptor { shard: ShardId::new(2048), namespace: id, start: vec![], end: vec![] }];
    NamespaceDescriptor { id, name: "orders".into(), policy: Policy::default(), shards }
}

fn values() -> ResponseBody {
    ResponseBody::Answer(Answer::Values(vec![Some((4, b"v".to_vec()))]))
}

fn sent_to(leader: u64) -> ResponseBody {
    let (code, class, message) = (8001, FailureClass::ReRoute, "another one leads".into());
    let leader = (leader > 0).then(|| NodeId::new(leader));
    ResponseBody::Failed(Failure { code, class, no_side_effects: true, message, leader })
}

/// What a node does about a call of a namespace; none: nothing at all. Node 1 leads the default namespace.
async fn node(number: u64, react: impl Fn(Call) -> Option<ResponseBody> + Send + Sync + 'static) -> String {
    server(number, move |Request { id, body, .. }| match body {
        RequestBody::Status => one(id, status(number, 1, number == 1)),
        RequestBody::Call(call) => react(call).map_or(Reaction::Answer(vec![]), |answer| one(id, answer)),
        _ => one(id, failed(2001, FailureClass::FixRequest, true)),
    })
    .await
}

/// The story of a bug: what is about no key went to the node that leads the default namespace, for ever.
#[test]
fn what_is_about_all_keys_goes_to_the_node_that_leads_them_all() {
    run(async {
        let first = node(1, |call| match call {
            Call::Shards => Some(places(1, [3, 3])),
            // Any server knows it.
            Call::Describe => Some(ResponseBody::Answer(Answer::Namespace(descriptor()))),
            _ => Some(sent_to(3)),
        })
        .await;
        let third = node(3, |call| match call {
            Call::Shards => Some(places(3, [3, 3])),
            Call::OpenSession => Some(ResponseBody::Answer(Answer::Session(vec![]))),
            Call::Scan { .. } => Some(ResponseBody::Answer(Answer::Page { entries: vec![], next: None })),
            Call::OpenSnapshot { .. } => {
                let token = Token::default().encode().unwrap().to_vec();
                Some(ResponseBody::Answer(Answer::Snapshot { snapshot: 1, token }))
            }
            _ => Some(ResponseBody::Answer(Answer::Done)),
        })
        .await;
        let client = Client::connect([first, third], options()).await.unwrap();
        let orders = client.namespace("orders");
        orders.scan(&Scan::all(), Read::Linearizable).await.unwrap();
        orders.snapshot(Read::Linearizable).await.unwrap();
        orders.open_session().await.unwrap().close().await.unwrap();
        assert_eq!(client.stats().reconnects, 0);
    });
}

/// The story of a bug: one server was asked who leads, and what it says was asked for ever, though it was refuted each time.
#[test]
fn a_node_that_is_cut_off_and_says_that_it_leads_is_left_for_the_one_that_does() {
    run(async {
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        let first = node(1, move |call| match call {
            Call::Shards if !cut.load(Ordering::Relaxed) => Some(places(1, [1, 1])),
            Call::Shards => Some(places(9, [1, 1])),
            _ if cut.load(Ordering::Relaxed) => Some(failed(8002, FailureClass::Retry, true)),
            _ => Some(values()),
        })
        .await;
        let cut = Arc::clone(&is_cut);
        let second = node(2, move |call| match call {
            Call::Shards if !cut.load(Ordering::Relaxed) => Some(places(2, [1, 1])),
            Call::Shards => Some(places(2, [2, 2])),
            _ => Some(values()),
        })
        .await;
        let client = Client::connect([first, second], options()).await.unwrap();
        let orders = client.namespace("orders");
        orders.get("k", Read::Linearizable).await.unwrap();
        is_cut.store(true, Ordering::Relaxed);
        orders.get("k", Read::Linearizable).await.unwrap().unwrap();
    });
}

/// The story of a bug: only of other namespaces than the default one it was looked whether another node leads by now.
#[test]
fn a_read_of_the_default_namespace_that_a_leader_does_not_answer_goes_to_the_one_that_leads_by_then() {
    run(async {
        let place = |node: u64, leader: u64| {
            let (shard, leader) = (ShardId::new(1024), Some(NodeId::new(leader)));
            let serving = leader == Some(NodeId::new(node));
            let place = ShardPlace { shard, start: Vec::new(), leader, serving, applied: 0, failure: None };
            ResponseBody::Answer(Answer::Shards(vec![place]))
        };
        let first = node(1, move |call| (call == Call::Shards).then(|| place(1, 1))).await;
        let second = node(2, move |call| Some(if call == Call::Shards { place(2, 2) } else { values() })).await;
        // A majority names it.
        let third = node(3, move |call| (call == Call::Shards).then(|| place(3, 2))).await;
        let client = Client::connect([first, second, third], options()).await.unwrap();
        client.namespace("default").get("k", Read::Linearizable).await.unwrap().unwrap();
        assert_eq!(client.node().await, Some(NodeId::new(2)));
    });
}

/// The story of a bug: which node is otherwise asked was taken from one of the connections, and the request went over another one.
#[test]
fn each_of_several_connections_goes_where_its_requests_belong() {
    run(async {
        let leads = Arc::new(AtomicBool::new(true));
        let (says, refuses) = (Arc::clone(&leads), Arc::clone(&leads));
        let (shard, epoch, lsn) = (ShardId::new(2048), Epoch::new(1, 1), Lsn::new(1));
        let position = move || ResponseBody::Answer(Answer::from(Position { shard, epoch, lsn }));
        // Node 1 leads all of "orders", and the default namespace until a write of it comes to it.
        let first = server(1, move |Request { id, namespace, body, .. }| match body {
            RequestBody::Status => one(id, status(1, 1, says.load(Ordering::Relaxed))),
            RequestBody::Call(Call::Shards) => one(id, places(1, [1, 1])),
            _ if namespace == "orders" => one(id, position()),
            _ => {
                refuses.store(false, Ordering::Relaxed);
                one(id, sent_to(2))
            }
        })
        .await;
        let second = server(2, move |Request { id, namespace, body, .. }| match body {
            RequestBody::Status => one(id, status(2, 2, true)),
            RequestBody::Call(Call::Shards) => one(id, places(2, [1, 1])),
            _ if namespace == "orders" => one(id, sent_to(1)),
            _ => one(id, position()),
        })
        .await;
        let client = Client::connect([first, second], ClientOptions { connections: 4, ..options() }).await.unwrap();
        // One of the connections goes over to node 2.
        let all = client.namespace("default");
        let write = || all.write_durable(Write::new().put("a", "1"));
        assert!(write().await.unwrap().await.is_err_and(|error| error.has_no_effect()));
        write().await.unwrap().await.unwrap();
        for number in 0..100 {
            let write = Write::new().put(format!("{number}"), "1");
            client.namespace("orders").write_durable(write).await.unwrap().await.unwrap();
        }
    });
}

/// The story of a bug: a plain read went to the node that leads the default namespace, which may have applied less than was written.
#[test]
fn a_plain_read_goes_where_the_writes_of_its_key_do() {
    run(async {
        let value = |version: u64| ResponseBody::Value { value: Some((version, b"v".to_vec())), applied: version };
        let answering = |number: u64| {
            server(number, move |Request { id, body, .. }| match body {
                RequestBody::Status => one(id, status(number, 1, number == 1)),
                RequestBody::Call(Call::Shards) => one(id, places(number, [1, 2])),
                RequestBody::Get { .. } => one(id, value(number)),
                RequestBody::ReadStream { .. } => {
                    one(id, ResponseBody::Events { events: vec![], head: number, more: false, applied: number })
                }
                _ => one(id, failed(2001, FailureClass::FixRequest, true)),
            })
        };
        let addresses = [answering(1).await, answering(2).await];
        let options = ClientOptions { namespace: "orders".into(), ..options() };
        let client = Client::connect(addresses, options).await.unwrap();
        for (key, leader) in [("a", 1), ("k", 2)] {
            assert_eq!(client.get(key.as_bytes()).await.unwrap().unwrap().version, leader, "{key}");
            let page = client.read_stream(key.as_bytes(), 1, Direction::Forward, 10).await.unwrap();
            assert_eq!(page.head, leader, "{key}");
        }
    });
}

/// The story of a bug: what any server knows was asked of nobody but the one that leads the default namespace.
#[test]
fn a_namespace_that_is_led_is_of_use_while_nobody_leads_the_default_one() {
    run(async {
        let answering = |number: u64| {
            server(number, move |Request { id, body, .. }| match body {
                RequestBody::Status => one(id, status(number, 9, false)),
                RequestBody::Call(Call::Shards) => one(id, places(number, [2, 2])),
                RequestBody::Call(Call::Describe) => one(id, ResponseBody::Answer(Answer::Namespace(descriptor()))),
                _ if number == 2 => one(id, values()),
                _ => one(id, sent_to(2)),
            })
        };
        let addresses = [answering(1).await, answering(2).await];
        let options = ClientOptions { namespace: "orders".into(), ..options() };
        let client = Client::connect(addresses, options).await.unwrap();
        let orders = client.namespace("orders");
        orders.descriptor().await.unwrap();
        orders.get("k", Read::Linearizable).await.unwrap().unwrap();
        assert_eq!((client.stats().reconnects, client.node().await), (0, Some(NodeId::new(1))));
    });
}

/// The story of a bug: each call that was given up had the question who leads given up as well, and its connections.
#[test]
fn who_leads_is_learnt_also_by_calls_that_have_little_time() {
    run(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let answering = |number: u64| {
            let asked = Arc::clone(&asked);
            node(number, move |call| match call {
                Call::Shards => {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Some(places(number, [2, 2]))
                }
                _ => (number == 2).then(values),
            })
        };
        // It takes connections, and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [answering(1).await, answering(2).await, silent.local_addr().unwrap().to_string()];
        let client = Client::connect(addresses, options()).await.unwrap();
        let orders = client.namespace("orders");
        let hasty = || tokio::time::timeout(Duration::from_millis(20), orders.get("k", Read::Linearizable));
        while hasty().await.is_err() {}
        assert_eq!(asked.load(Ordering::Relaxed), 2, "each once");
    });
}

/// It does not refuse a read, but waits for the others until the client's time is over.
#[test]
fn a_read_that_a_leader_does_not_answer_goes_to_the_one_that_leads_by_then() {
    run(async {
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        let first = node(1, |call| (call == Call::Shards).then(|| places(9, [1, 1]))).await;
        let second = node(2, move |call| match call {
            Call::Shards => Some(places(2, if cut.load(Ordering::Relaxed) { [2, 2] } else { [1, 1] })),
            _ => Some(values()),
        })
        .await;
        let client = Client::connect([first, second], options()).await.unwrap();
        let orders = client.namespace("orders");
        let reading = tokio::spawn(async move { orders.get("k", Read::Linearizable).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        is_cut.store(true, Ordering::Relaxed);
        reading.await.unwrap().unwrap().unwrap();
    });
}

#[test]
fn who_leads_instead_is_heard_from_a_refusal() {
    run(async {
        // Both have not heard of it, and node 1 refuses as it has.
        let first = node(1, |call| Some(if call == Call::Shards { places(9, [1, 1]) } else { sent_to(2) })).await;
        let second = node(2, |call| Some(if call == Call::Shards { places(9, [1, 1]) } else { values() })).await;
        let client = Client::connect([first, second], options()).await.unwrap();
        client.namespace("orders").get("k", Read::Linearizable).await.unwrap().unwrap();
    });
}

/// The story of a bug: the node that was wanted was taken for the one that answered, and the read given up in milliseconds.
#[test]
fn a_read_for_a_leader_that_is_away_is_asked_again() {
    run(async {
        let reads = AtomicUsize::new(0);
        let first = node(1, move |call| match call {
            Call::Shards => Some(places(1, [2, 2])),
            _ if reads.fetch_add(1, Ordering::Relaxed) < 3 => Some(sent_to(2)),
            _ => Some(values()),
        })
        .await;
        let client = Client::connect([first, "127.0.0.1:1".to_owned()], options()).await.unwrap();
        client.namespace("orders").get("k", Read::Linearizable).await.unwrap().unwrap();
    });
}

/// The story of a bug: each refusal made every request ask who leads what, and each refused write a new connection.
#[test]
fn a_shard_that_takes_no_writes_costs_no_connections_and_few_questions() {
    run(async {
        let asked = Arc::new(AtomicUsize::new(0));
        let (shard, epoch, lsn) = (ShardId::new(2048), Epoch::new(1, 1), Lsn::new(1));
        let position = move || ResponseBody::Answer(Answer::from(Position { shard, epoch, lsn }));
        let answering = |number: u64, asked: &Arc<AtomicUsize>| {
            let asked = Arc::clone(asked);
            node(number, move |call| match call {
                Call::Shards => {
                    asked.fetch_add(1, Ordering::Relaxed);
                    Some(places(9, [1, 2]))
                }
                _ if number == 2 => Some(failed(8002, FailureClass::Retry, true)),
                _ => Some(position()),
            })
        };
        let addresses = [answering(1, &asked).await, answering(2, &asked).await];
        let client = Client::connect(addresses, options()).await.unwrap();
        let mut first = JoinSet::new();
        for _ in 0..100 {
            let orders = client.namespace("orders");
            first.spawn(async move { orders.write_durable(Write::new().put("a", "1")).await.unwrap().await });
        }
        while let Some(written) = first.join_next().await {
            written.unwrap().unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "each server once");
        let begun = Instant::now();
        let orders = client.namespace("orders");
        for _ in 0..100 {
            let write = |key: &'static str| orders.write_durable(Write::new().put(key, "1"));
            assert!(write("k").await.unwrap().await.unwrap_err().has_no_effect());
            write("a").await.unwrap().await.unwrap();
        }
        let rounds = begun.elapsed().as_millis() / 100 + 1;
        let times = asked.load(Ordering::Relaxed) as u128;
        assert!(times <= 2 * (1 + rounds), "{times} questions in {:?}", begun.elapsed());
        assert_eq!(client.stats().reconnects, 0);
    });
}

/// The story of a bug: the whole time of a request was spent on a server that says nothing to the question who leads.
#[test]
fn who_does_not_say_who_leads_is_not_waited_for_until_the_request_has_no_time_left() {
    run(async {
        let connections = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&connections);
        let first = node(1, move |call| {
            told.lock().push(call.clone());
            (call != Call::Shards).then(values)
        })
        .await;
        let hasty = ClientOptions { request_timeout: Duration::from_millis(500), ..options() };
        let client = Client::connect([first], hasty).await.unwrap();
        let orders = client.namespace("orders");
        orders.get("k", Read::Linearizable).await.unwrap().unwrap();
        assert_eq!(client.stats().reconnects, 0);
        tokio::time::sleep(2 * routing::ASK_PAUSE).await;
        // It is asked again, over another connection than the one on which nothing came.
        orders.get("k", Read::Linearizable).await.unwrap().unwrap();
        let asked = connections.lock().iter().filter(|call| **call == Call::Shards).count();
        assert_eq!((asked, client.stats().reconnects), (2, 1));
    });
}

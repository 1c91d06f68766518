//! The leadership goes from one server to another, both of them well: the client goes after it, and no longer way than it must.

use super::client_test::{Heard, Reaction, failed, hearing, one, options, put, run, status, written};
use super::*;
use crate::model::NodeId;
use crate::model::request::{Failure, FailureClass, Request, RequestBody, ResponseBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::time::Instant;

fn sent_to(leader: u64) -> ResponseBody {
    let (class, message, leader) = (FailureClass::ReRoute, "another one leads".into(), Some(NodeId::new(leader)));
    ResponseBody::Failed(Failure { code: 8001, class, no_side_effects: true, message, leader })
}

/// What a server was asked.
#[derive(Debug, Default)]
struct Asked {
    connections: AtomicUsize,
    status: AtomicUsize,
}

impl Asked {
    fn now(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.status.load(Ordering::Relaxed))
    }
}

/// A server that does about a write, or a read, what this says, and says of itself that it takes writes, or does not.
async fn node(
    number: u64,
    serves: impl Fn() -> bool + Send + Sync + 'static,
    react: impl Fn() -> ResponseBody + Send + Sync + 'static,
) -> (String, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    let noted = Arc::clone(&asked);
    let address = hearing(number, 0, move |heard| match heard {
        Heard::Opened(_) => {
            noted.connections.fetch_add(1, Ordering::Relaxed);
            Reaction::Answer(vec![])
        }
        Heard::Request(Request { id, body: RequestBody::Status, .. }) => {
            noted.status.fetch_add(1, Ordering::Relaxed);
            one(id, status(number, number, serves()))
        }
        Heard::Request(Request { id, .. }) => one(id, react()),
        _ => Reaction::Answer(vec![]),
    })
    .await;
    (address, asked)
}

/// A server of several that lead in turn: it takes writes when it is the one, and sends on what it is asked otherwise.
async fn in_turn(number: u64, leader: &Arc<AtomicU64>) -> (String, Arc<Asked>) {
    let (leads, sends) = (Arc::clone(leader), Arc::clone(leader));
    let react = move || match sends.load(Ordering::Relaxed) {
        leader if leader == number => written(number),
        leader => sent_to(leader),
    };
    // Whoever was just made the leader says that it takes no writes yet, and has them wait.
    node(number, move || number == 1 && leads.load(Ordering::Relaxed) == 1, react).await
}

#[test]
fn the_node_that_a_refusal_names_is_asked_as_it_is_and_whoever_leads_again_over_the_connection_from_before() {
    run(async {
        let leader = Arc::new(AtomicU64::new(1));
        let (first, asked_first) = in_turn(1, &leader).await;
        let (third, asked_third) = in_turn(3, &leader).await;
        let (second, asked_second) = in_turn(2, &leader).await;
        let client = Client::connect([first, third, second], options()).await.unwrap();
        let write = || async {
            let receipt = client.write(&put()).await.unwrap();
            receipt.await.map(|written| written.lsn.get())
        };
        assert_eq!(write().await, Ok(1));
        let hand_over = async |to: u64| {
            leader.store(to, Ordering::Relaxed);
            assert_eq!(write().await.unwrap_err().class(), FailureClass::ReRoute);
            assert_eq!(write().await, Ok(to));
        };
        // Nobody has been at node 2 yet: it is looked for in the order of the addresses, and not asked how it is.
        hand_over(2).await;
        assert_eq!(asked_second.now(), (1, 0));
        let asked = || [asked_first.now(), asked_second.now(), asked_third.now()];
        hand_over(3).await;
        let before = asked();
        for to in [1, 2, 3, 1, 2] {
            hand_over(to).await;
        }
        assert_eq!(asked(), before, "no connection, no question");
    });
}

#[test]
fn what_is_refused_by_a_leader_that_names_the_next_one_is_asked_there_at_once() {
    run(async {
        let leads = Arc::new(AtomicU64::new(1));
        let gives_up = Arc::clone(&leads);
        let refuse = move || {
            gives_up.store(0, Ordering::Relaxed);
            sent_to(2)
        };
        let leading = Arc::clone(&leads);
        let (first, _) = node(1, move || leading.load(Ordering::Relaxed) == 1, refuse).await;
        let value = || ResponseBody::Value { value: Some((7, b"v".to_vec())), applied: 7 };
        let (second, _) = node(2, || false, value).await;
        let (mut times, mut all) = (0, Vec::new());
        // A pause is 20 ms at the least: one of several such reads is done in less, whatever else the machine does.
        while times < 10 {
            leads.store(1, Ordering::Relaxed);
            let client = Client::connect([&*first, &*second], options()).await.unwrap();
            let begun = Instant::now();
            client.get(b"k").await.unwrap().unwrap();
            all.push(begun.elapsed());
            times += 1;
        }
        assert!(all.iter().any(|took| took.as_millis() < 20), "{all:?}");
    });
}

/// Both were cut off from the one that leads by now.
#[test]
fn two_nodes_that_name_each_other_are_not_believed_for_ever() {
    run(async {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        let writes = move || {
            let is_first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            if is_first { written(1) } else { sent_to(2) }
        };
        let count = Arc::clone(&taken);
        let (first, _) = node(1, move || count.load(Ordering::Relaxed) == 0, writes).await;
        let (second, _) = node(2, || false, || sent_to(1)).await;
        let (third, _) = node(3, || true, || written(3)).await;
        let client = Client::connect([first, second, third], options()).await.unwrap();
        let mut all = Vec::new();
        for _ in 0..4 {
            let answer = client.write(&put()).await.unwrap().await;
            all.push(answer.map(|written| written.lsn.get()).map_err(|error| error.class()));
        }
        assert_eq!(all, [Ok(1), Err(FailureClass::ReRoute), Err(FailureClass::ReRoute), Ok(3)]);
    });
}

/// Whoever names a node that has gone since is not believed longer than it takes to find out.
#[test]
fn a_node_that_was_named_and_is_not_there_is_looked_for_no_longer_than_others() {
    run(async {
        let (first, _) = node(1, || false, || failed(2001, FailureClass::FixRequest, true)).await;
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let (second, _) = node(
            2,
            || true,
            move || {
                let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
                if is_first { sent_to(9) } else { written(2) }
            },
        )
        .await;
        let client = Client::connect([first, second], options()).await.unwrap();
        assert_eq!(client.write(&put()).await.unwrap().await.unwrap_err().class(), FailureClass::ReRoute);
        assert_eq!(client.write(&put()).await.unwrap().await.unwrap().lsn.get(), 2);
    });
}

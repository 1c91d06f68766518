//! Assignments by hand: who leads, who says so, and what is lost by it (nothing).

use crate::cluster::{Cluster, PATIENCE, batches, until};
use std::time::Duration;
use towline::client::{Assigned, Client, ClientError, ClientOptions, Route};
use towline::model::request::{Direction, FailureClass};
use towline::model::{Epoch, NodeId, Read, Write};
use towline::node::WriteRefused;
use towline::pipeline::WriteError;

/// Terms of a round, as the book has it.
const ROUND: u32 = 1 << 20;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

fn options(route: Route) -> ClientOptions {
    ClientOptions { route, request_timeout: PATIENCE, connect_timeout: PATIENCE, ..ClientOptions::default() }
}

/// Asks any of these servers.
async fn assign(addresses: &[String], leader: u64, within: Duration) -> Result<Assigned, ClientError> {
    let client = Client::connect(addresses.to_vec(), options(Route::Any)).await?;
    client.namespace("default").assign_leader(None, NodeId::new(leader), within).await
}

fn leads(cluster: &Cluster, index: usize) -> bool {
    cluster.server(index).node().is_serving()
}

fn epoch(cluster: &Cluster, index: usize) -> Epoch {
    let (version, term) = cluster.server(index).node().status().unwrap().epoch;
    Epoch { version, term }
}

fn known_leader(cluster: &Cluster, index: usize) -> Option<NodeId> {
    cluster.server(index).node().status().unwrap().leader
}

/// Appends these numbers, each acknowledged, by a client that finds the leader.
async fn append(client: &Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let event = Write::new().append("ledger", towline::model::Expect::Version(number.into()), number.to_string());
        loop {
            match client.namespace("default").write(&event).await.unwrap().await {
                Ok(written) => break written.outcome.applied().map(drop).unwrap(),
                // The client writes nothing twice by itself; of where to write it has heard.
                Err(refused) => assert!(refused.has_no_effect(), "{refused}"),
            }
        }
    }
}

async fn ledger(client: &Client) -> Vec<String> {
    let (mut all, mut from) = (Vec::new(), 1);
    loop {
        let space = client.namespace("default");
        let page =
            space.read_stream("ledger", from, Direction::Forward, (1000, 1 << 20), Read::Eventual).await.unwrap();
        from += page.events.len() as u64;
        all.extend(page.events.into_iter().map(|event| String::from_utf8(event.value).unwrap()));
        if !page.more {
            return all;
        }
    }
}

/// All three hold the same log, and have made the same of it.
fn stop_and_compare(mut cluster: Cluster) {
    let end = (0..3).map(|index| cluster.server(index).node().status().unwrap().end).max().unwrap();
    until("everybody applied everything", || (0..3).all(|index| cluster.applied(index) == end));
    let digests: Vec<_> = (0..3).map(|index| cluster.server(index).node().digest().unwrap()).collect();
    assert!(digests[0] == digests[1] && digests[0] == digests[2], "I4: {digests:?}");
    (0..3).for_each(|index| cluster.stop(index));
    let logs: Vec<_> = (0..3).map(|index| batches(&cluster.log_path(index))).collect();
    assert!(logs[0] == logs[1] && logs[0] == logs[2], "I2: the logs differ");
}

#[test]
fn i2_an_assignment_by_hand_replaces_a_leader_that_is_gone_and_hands_over_to_it_again_and_nothing_acknowledged_is_lost()
{
    let mut cluster = Cluster::new();
    let runtime = runtime();
    let client = runtime.block_on(Client::connect(cluster.addresses(), options(Route::Leader))).unwrap();
    runtime.block_on(append(&client, 0..50));
    cluster.stop(0);
    // The one that answers is another one than the one that shall lead.
    let addresses = [cluster.addresses()[2].clone()];
    let assigned = runtime.block_on(assign(&addresses, 2, PATIENCE)).unwrap();
    assert_eq!((assigned.leader, assigned.epoch), (NodeId::new(2), Epoch::new(1024, ROUND)));
    // The client that was there before finds the new leader by itself.
    runtime.block_on(append(&client, 50..100));
    assert_eq!(runtime.block_on(client.node()), Some(NodeId::new(2)));
    cluster.start(0);
    until("the old leader follows", || known_leader(&cluster, 0) == Some(NodeId::new(2)));
    let end = cluster.server(1).node().status().unwrap().end;
    until("it catches up", || cluster.applied(0) == end);
    let refused = cluster.server(0).node().default_namespace().put("k", "v").map(drop).unwrap_err();
    assert!(matches!(refused, WriteRefused::NotLeader(leader) if leader == NodeId::new(2)), "{refused}");
    assert!(!leads(&cluster, 0));
    // Handed over, while the leader lives: it follows from then on.
    let back = runtime.block_on(assign(&cluster.addresses(), 1, PATIENCE)).unwrap();
    assert_eq!(back.epoch, Epoch::new(1024, 3 * ROUND), "the next round that is node 1's own");
    runtime.block_on(append(&client, 100..150));
    assert_eq!(runtime.block_on(client.node()), Some(NodeId::new(1)));
    assert!(!leads(&cluster, 1));
    assert_eq!(known_leader(&cluster, 1), Some(NodeId::new(1)));
    let expected: Vec<_> = (0..150).map(|number| number.to_string()).collect();
    assert_eq!(runtime.block_on(ledger(&client)), expected);
    runtime.block_on(client.close()).unwrap();
    stop_and_compare(cluster);
}

#[test]
fn i3_a_node_that_reaches_no_majority_is_not_assigned_and_nothing_is_changed() {
    let mut cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    (0..20).for_each(|number| cluster.write_at(0, number));
    let before = epoch(&cluster, 0);
    until("the follower has promised", || epoch(&cluster, 2) == before);
    (0..2).for_each(|index| cluster.stop(index));
    let only = [cluster.addresses()[2].clone()];
    let error = run(assign(&only, 3, Duration::from_millis(300))).unwrap_err();
    assert_eq!((error.code().as_str(), error.class()), ("TW-8030", FailureClass::Retry), "{error}");
    assert_eq!(
        error.to_string(),
        "node 3 reaches 1 of 3 voters with the disks that have the votes, itself among them, and it takes 2: nothing was changed"
    );
    assert!(matches!(&error, ClientError::Refused(failure) if failure.no_side_effects));
    assert_eq!(epoch(&cluster, 2), before, "nothing was promised");
    // The leader of before comes back as if nothing had been asked.
    cluster.start(0);
    until("the leader serves again", || leads(&cluster, 0));
    assert_eq!(epoch(&cluster, 0), Epoch { term: before.term + 1, ..before });
    cluster.start(1);
    cluster.write_at(0, 20);
    stop_and_compare(cluster);
}

#[test]
fn an_assignment_waits_for_a_majority_as_long_as_it_may() {
    let mut cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    (0..20).for_each(|number| cluster.write_at(0, number));
    (0..2).for_each(|index| cluster.stop(index));
    let only = [cluster.addresses()[2].clone()];
    let waiting = std::thread::Builder::new().spawn(move || run(assign(&only, 3, PATIENCE))).unwrap();
    until("it is asked", || cluster.server(2).stats().assignments == 1);
    assert!(!leads(&cluster, 2));
    cluster.start(1);
    assert_eq!(waiting.join().unwrap().unwrap().leader, NodeId::new(3));
    cluster.write_at(2, 20);
    cluster.start(0);
    until("the first leader follows", || known_leader(&cluster, 0) == Some(NodeId::new(3)));
    stop_and_compare(cluster);
}

#[test]
fn i1_a_node_that_is_behind_adopts_the_best_log_before_it_leads() {
    let mut cluster = Cluster::without(2);
    until("the leader serves", || leads(&cluster, 0));
    (0..200).for_each(|number| cluster.write_at(0, number));
    let committed = cluster.server(0).node().status().unwrap().committed;
    until("node 2 has all of it", || cluster.server(1).node().status().unwrap().durable >= committed);
    cluster.stop(0);
    cluster.start(2);
    assert!(cluster.server(2).node().status().unwrap().end < committed);
    run(assign(&cluster.addresses(), 3, PATIENCE)).unwrap();
    assert!(cluster.server(2).node().status().unwrap().end > committed, "its own start follows what it has adopted");
    cluster.write_at(2, 200);
    cluster.start(0);
    stop_and_compare(cluster);
}

#[test]
fn i3_of_two_assignments_at_a_time_one_is_in_force_in_the_end_and_each_is_told_the_truth() {
    let cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    for round in 0..8 {
        let (one, other) = run(async {
            let addresses = cluster.addresses();
            let at_once = [2, 3].map(|node| assign(&addresses, node, PATIENCE));
            let [one, other] = at_once;
            tokio::join!(one, other)
        });
        let newest = [&one, &other].into_iter().flatten().max_by_key(|assigned| assigned.epoch).copied().unwrap();
        for told in [&one, &other] {
            match told {
                Ok(assigned) => assert!(assigned.epoch <= newest.epoch),
                Err(error) => assert_eq!(error.code(), "TW-8032", "{error}"),
            }
        }
        let leader = usize::try_from(newest.leader.get() - 1).unwrap();
        until("all know who leads", || (0..3).all(|index| known_leader(&cluster, index) == Some(newest.leader)));
        assert!((0..3).all(|index| leads(&cluster, index) == (index == leader)));
        assert_eq!(epoch(&cluster, leader), newest.epoch);
        cluster.write_at(leader, round);
    }
    stop_and_compare(cluster);
}

#[test]
fn i3_a_leader_that_was_replaced_while_it_was_away_does_not_come_back_as_one_however_often_it_restarts() {
    let mut cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    (0..20).for_each(|number| cluster.write_at(0, number));
    cluster.stop(0);
    let assigned = run(assign(&cluster.addresses(), 2, PATIENCE)).unwrap();
    until("node 3 has promised", || epoch(&cluster, 2) == assigned.epoch);
    // With the new leader away, the old one would only have to ask for more than node 3 has promised.
    cluster.stop(1);
    for _ in 0..3 {
        cluster.start(0);
        until("it was refused", || known_leader(&cluster, 0).is_none());
        assert!(epoch(&cluster, 0).term < ROUND && !leads(&cluster, 0));
        // It knows nobody to whom it could send a write on.
        let write = cluster.server(0).node().default_namespace().put("k", "v").unwrap();
        assert_eq!(write.wait_for(PATIENCE), Err(WriteError::NotLeader));
        cluster.stop(0);
    }
    cluster.start(0);
    cluster.start(1);
    until("the assigned one leads again", || leads(&cluster, 1));
    assert_eq!(epoch(&cluster, 1), Epoch { term: assigned.epoch.term + 1, ..assigned.epoch });
    cluster.write_at(1, 20);
    until("the old leader follows", || known_leader(&cluster, 0) == Some(NodeId::new(2)));
    stop_and_compare(cluster);
}

#[test]
fn i3_a_node_that_knows_too_little_is_refused_and_assigned_above_what_the_others_have_promised() {
    let mut cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    run(assign(&cluster.addresses(), 2, PATIENCE)).unwrap();
    until("node 1 has promised", || known_leader(&cluster, 0) == Some(NodeId::new(2)));
    cluster.write_at(1, 1);
    cluster.stop(0);
    // Of this one node 1 hears nothing, and of the two that are left when it is back only node 3 knows.
    let unheard = run(assign(&cluster.addresses(), 2, PATIENCE)).unwrap();
    assert_eq!(unheard.epoch.term, 4 * ROUND);
    until("node 3 has promised", || epoch(&cluster, 2) == unheard.epoch);
    cluster.stop(1);
    cluster.start(0);
    assert_eq!(epoch(&cluster, 0).term, ROUND);
    let assigned = run(assign(&cluster.addresses(), 1, PATIENCE)).unwrap();
    assert_eq!(
        assigned.epoch.term,
        6 * ROUND,
        "its own round above the first, the third, is below what node 3 has promised"
    );
    cluster.write_at(0, 2);
    cluster.start(1);
    stop_and_compare(cluster);
}

#[test]
fn whoever_was_assigned_leads_also_after_all_nodes_have_restarted() {
    let mut cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    let assigned = run(assign(&cluster.addresses(), 3, PATIENCE)).unwrap();
    cluster.write_at(2, 1);
    until("all know it", || (0..3).all(|index| known_leader(&cluster, index) == Some(NodeId::new(3))));
    (0..3).for_each(|index| cluster.stop(index));
    (0..3).for_each(|index| cluster.start(index));
    until("it leads", || leads(&cluster, 2));
    assert_eq!(epoch(&cluster, 2), Epoch { term: assigned.epoch.term + 1, ..assigned.epoch });
    cluster.write_at(2, 2);
    until("the others follow", || (0..2).all(|index| known_leader(&cluster, index) == Some(NodeId::new(3))));
    assert!(!leads(&cluster, 0), "the file names it: as the first one");
    stop_and_compare(cluster);
}

#[test]
fn who_does_not_vote_is_not_assigned_nor_is_a_shard_that_there_is_not() {
    let mut cluster = Cluster::new();
    until("the leader serves", || leads(&cluster, 0));
    let before = epoch(&cluster, 0);
    let error = run(assign(&cluster.addresses(), 4, PATIENCE)).unwrap_err();
    assert_eq!(error.code(), "TW-8101", "{error}");
    run(async {
        let client = Client::connect(cluster.addresses(), options(Route::Any)).await.unwrap();
        let space = client.namespace("default");
        let no_shard = Some(towline::model::ShardId::new(7));
        let error = space.assign_leader(no_shard, NodeId::new(1), PATIENCE).await.unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.to_string()),
            ("TW-8101", "name one of the namespace's shards: 1024".into())
        );
        let nowhere = client.namespace("nowhere").assign_leader(None, NodeId::new(1), PATIENCE).await.unwrap_err();
        assert_eq!(nowhere.class(), FailureClass::FixRequest);
        let shard = Some(towline::node::SHARD);
        assert_eq!(space.assign_leader(shard, NodeId::new(1), PATIENCE).await.unwrap().shard, towline::node::SHARD);
        client.close().await.unwrap();
    });
    assert!(epoch(&cluster, 0) > before);
    cluster.write_at(0, 1);
    (0..3).for_each(|index| cluster.stop(index));
}

//! Linearizable reads, by hand.

use super::replica_test::{A, B, C, World};
use super::{Input, ReadTicket};
use crate::model::{Epoch, Message, NodeId};

fn read(world: &mut World, leader: NodeId, ticket: u64) {
    world.node(leader).step(Input::Read(ReadTicket(ticket)));
}

/// What came of the reads at this node, in order.
fn answers(world: &mut World, id: NodeId) -> Vec<String> {
    world.node(id).said.iter().filter(|said| said.starts_with("Reads")).cloned().collect()
}

fn confirmed(ticket: u64, index: u64) -> String {
    format!("ReadsConfirmed {{ up_to: ReadTicket({ticket}), index: Lsn({index}) }}")
}

fn refused(ticket: u64) -> String {
    format!("ReadsRefused {{ up_to: ReadTicket({ticket}) }}")
}

fn asked(world: &mut World, leader: NodeId) -> usize {
    world.node(leader).sent.iter().filter(|(_, message)| matches!(message, Message::Confirm { .. })).count()
}

#[test]
fn a_read_is_answered_when_a_majority_has_confirmed_and_shows_what_was_committed_when_it_came() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.settle();
    read(&mut world, A, 1);
    assert!(answers(&mut world, A).is_empty(), "nobody has confirmed");
    world.propose(A, "two");
    world.settle();
    assert_eq!(world.committed(A), 3);
    assert_eq!(answers(&mut world, A), [confirmed(1, 2)]);
}

#[test]
fn one_round_serves_all_that_came_before_it_and_none_that_came_after() {
    let mut world = World::new();
    world.elect(A);
    for ticket in 1..=9 {
        read(&mut world, A, ticket);
    }
    assert_eq!(asked(&mut world, A), 2, "one question to each of the others");
    world.deliver();
    assert_eq!(answers(&mut world, A), [confirmed(1, 1), confirmed(9, 1)], "eight waited for the next round");
}

/// etcd #20418 and its like: a leader that was away serves what it knows.
#[test]
fn a_leader_that_another_has_followed_answers_no_read() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    world.cut(A, C);
    world.elect(B);
    world.propose(B, "newer than all that A knows");
    world.settle();
    read(&mut world, A, 1);
    world.settle();
    assert!(answers(&mut world, A).is_empty(), "a majority is needed: {:?}", world.node(A).said);
    world.connect(A, C);
    world.settle();
    assert_eq!(answers(&mut world, A), [refused(1)]);
    read(&mut world, A, 2);
    assert_eq!(answers(&mut world, A), [refused(1), refused(2)], "it leads no more");
    read(&mut world, B, 1);
    world.settle();
    assert_eq!(answers(&mut world, B), [confirmed(1, 3)]);
}

#[test]
fn a_leader_that_is_assigned_anew_refuses_the_reads_of_its_last_epoch() {
    let mut world = World::new();
    world.elect(A);
    read(&mut world, A, 7);
    read(&mut world, A, 8);
    world.assign(A);
    assert_eq!(answers(&mut world, A), [refused(8)]);
    world.deliver();
    assert_eq!(answers(&mut world, A), [refused(8)], "what was said to the last epoch's question is of no use");
}

/// Whoever comes to lead knows what those before it committed only when something of its own is.
#[test]
fn a_read_waits_for_the_first_commit_of_its_leader() {
    let mut world = World::new();
    world.elect(A);
    let epoch = world.assign(A).epoch;
    world.settle();
    for peer in [B, C] {
        // Its log is gone from the epoch's start on, and says so.
        world.cut(A, peer);
        let node = world.node(peer);
        node.log.batches.clear();
        node.log.durable = 0;
        node.crash(peer);
        world.connect(A, peer);
    }
    // Both say that, and A knows that its start is on no majority any more.
    for (to, message) in std::mem::take(&mut world.node(A).sent) {
        world.node(to).step(Input::Message { from: A, message });
        for (_, message) in std::mem::take(&mut world.node(to).sent) {
            world.node(A).step(Input::Message { from: to, message });
        }
    }
    let before = world.committed(A);
    world.node(A).step(Input::ActivationAccepted(epoch));
    assert_eq!(world.committed(A), before, "its start is not committed");
    read(&mut world, A, 1);
    assert_eq!(asked(&mut world, A), 0);
    world.settle();
    assert_eq!(answers(&mut world, A), [confirmed(1, 2)], "{:?}", world.node(A).said);
}

#[test]
fn what_others_say_and_what_was_said_to_another_question_counts_for_nothing() {
    let mut world = World::new();
    let epoch = world.elect(A);
    read(&mut world, A, 1);
    let older = Epoch { term: epoch.term - 1, ..epoch };
    for (from, epoch, round) in [(NodeId::new(9), epoch, 1), (B, epoch, 0), (B, epoch, 2), (C, older, 1)] {
        world.node(A).step(Input::Message { from, message: Message::Confirmed { epoch, round } });
    }
    assert!(answers(&mut world, A).is_empty());
    world.node(A).step(Input::Message { from: B, message: Message::Confirmed { epoch, round: 1 } });
    assert_eq!(answers(&mut world, A), [confirmed(1, 1)]);
}

#[test]
fn a_voter_that_comes_back_is_asked_again() {
    let mut world = World::new();
    world.elect(A);
    read(&mut world, A, 1);
    for peer in [B, C] {
        world.cut(A, peer);
    }
    world.settle();
    assert!(answers(&mut world, A).is_empty());
    world.connect(A, C);
    world.settle();
    assert_eq!(answers(&mut world, A), [confirmed(1, 1)]);
}

#[test]
fn a_replica_confirms_the_leader_that_it_promised_and_says_nothing_to_one_that_it_does_not_know() {
    let mut world = World::new();
    let epoch = world.elect(A);
    let newer = Epoch { term: epoch.term + 1, ..epoch };
    let mut say = |from, epoch| {
        world.node(C).step(Input::Message { from, message: Message::Confirm { epoch, round: 5 } });
        std::mem::take(&mut world.node(C).sent).pop()
    };
    assert_eq!(say(A, epoch), Some((A, Message::Confirmed { epoch, round: 5 })));
    assert_eq!(say(B, epoch), Some((B, Message::Refused { epoch, promised: epoch })), "one epoch, one leader");
    assert_eq!(say(A, newer), None);
}

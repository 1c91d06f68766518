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

fn questions(world: &mut World, id: NodeId) -> Vec<(NodeId, u64)> {
    let of = |(to, message): &(NodeId, Message)| match message {
        Message::ReadIndex { number, .. } => Some((*to, *number)),
        _ => None,
    };
    world.node(id).sent.iter().filter_map(of).collect()
}

#[test]
fn who_follows_asks_its_leader_and_shows_what_was_committed_when_the_read_came() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.settle();
    read(&mut world, C, 1);
    assert_eq!(questions(&mut world, C), [(A, 1)]);
    world.propose(A, "two");
    world.settle();
    assert_eq!(answers(&mut world, C), [confirmed(1, 2)], "{:?}", world.node(C).said);
    assert!(answers(&mut world, A).is_empty(), "nobody reads there");
}

#[test]
fn one_question_is_under_way_at_a_time_and_none_is_answered_by_one_before_it() {
    let mut world = World::new();
    world.elect(A);
    for ticket in 1..=9 {
        read(&mut world, C, ticket);
    }
    assert_eq!(questions(&mut world, C), [(A, 1)]);
    world.deliver();
    assert_eq!(answers(&mut world, C), [confirmed(1, 1), confirmed(9, 1)], "eight waited for the next question");
}

/// Mutant `join-round`.
#[test]
fn a_question_that_comes_while_a_majority_is_asked_waits_for_the_next_round() {
    let mut world = World::new();
    let epoch = world.elect(A);
    read(&mut world, A, 1); // At 1; B and C are asked.
    world.propose(A, "one");
    world.node(A).sent.retain(|(_, message)| !matches!(message, Message::Confirm { .. }));
    world.settle();
    assert_eq!(world.committed(A), 2);
    let mut hear = |from, message| {
        world.node(A).step(Input::Message { from, message });
        std::mem::take(&mut world.node(A).sent)
    };
    assert_eq!(hear(C, Message::ReadIndex { epoch, number: 5 }), []);
    let next = Message::Confirm { epoch, round: 2 };
    assert_eq!(hear(B, Message::Confirmed { epoch, round: 1 }), [(B, next.clone()), (C, next)]);
    let answer = Message::ReadIndexed { epoch, number: 5, index: Some(crate::model::Lsn::new(2)) };
    assert_eq!(hear(B, Message::Confirmed { epoch, round: 2 }), [(C, answer)]);
    assert_eq!(answers(&mut world, A), [confirmed(1, 1)]);
}

#[test]
fn a_question_has_no_answer_from_who_does_not_lead_or_does_not_serve_yet() {
    let mut world = World::new();
    let epoch = world.elect(A);
    let newer = Epoch { term: epoch.term + 1, ..epoch };
    let refused_index = |number, epoch| Some((C, Message::ReadIndexed { epoch, number, index: None }));
    let mut ask = |of, epoch| {
        world.node(of).step(Input::Message { from: C, message: Message::ReadIndex { epoch, number: 5 } });
        std::mem::take(&mut world.node(of).sent).pop()
    };
    assert_eq!(ask(B, epoch), refused_index(5, epoch));
    assert_eq!(ask(A, newer), refused_index(5, newer), "it leads another epoch");
    let stranger = NodeId::new(9);
    world.node(A).step(Input::Message { from: stranger, message: Message::ReadIndex { epoch, number: 5 } });
    let answer = std::mem::take(&mut world.node(A).sent);
    assert_eq!(answer, [(stranger, Message::ReadIndexed { epoch, number: 5, index: None })], "it is no member");
    let epoch = world.assign(A).epoch;
    world.node(A).sent.clear();
    world.node(A).step(Input::Message { from: C, message: Message::ReadIndex { epoch, number: 6 } });
    assert_eq!(std::mem::take(&mut world.node(A).sent).pop(), refused_index(6, epoch), "it takes no writes yet");
}

#[test]
fn who_follows_nobody_that_it_reaches_refuses_at_once_and_a_lost_connection_refuses_what_was_asked() {
    let mut world = World::new();
    read(&mut world, C, 1);
    assert_eq!(answers(&mut world, C), [refused(1)], "nobody leads");
    world.elect(A);
    read(&mut world, C, 2);
    read(&mut world, C, 3);
    world.cut(A, C);
    assert_eq!(answers(&mut world, C), [refused(1), refused(3)]);
    read(&mut world, C, 4);
    assert_eq!(answers(&mut world, C), [refused(1), refused(3), refused(4)]);
    world.connect(A, C);
    world.settle();
    read(&mut world, C, 5);
    // A connection that takes the place of another: what was asked on that is gone.
    world.node(C).step(Input::PeerUp(A, crate::model::DirectoryId::default()));
    assert_eq!(answers(&mut world, C).last(), Some(&refused(5)));
}

#[test]
fn a_new_leader_and_one_that_gives_up_refuse_what_the_old_one_was_asked() {
    let mut world = World::new();
    let epoch = world.elect(A);
    read(&mut world, C, 1);
    let question = Message::ReadIndex { epoch, number: 1 };
    world.node(C).sent.clear(); // It is on its way.
    world.elect(B);
    assert_eq!(answers(&mut world, C), [refused(1)], "it follows another one");
    // The answer to the old question comes late: it is none.
    world.node(C).step(Input::Message {
        from: A,
        message: Message::ReadIndexed { epoch, number: 1, index: Some(crate::model::Lsn::new(1)) },
    });
    assert_eq!(answers(&mut world, C), [refused(1)]);
    world.node(A).step(Input::Message { from: C, message: question });
    let answer = std::mem::take(&mut world.node(A).sent).pop();
    assert_eq!(answer, Some((C, Message::ReadIndexed { epoch, number: 1, index: None })));
    // One that leads no more says so to those who asked it.
    let epoch = world.node(B).replica.promise().epoch;
    world.node(B).step(Input::Message { from: C, message: Message::ReadIndex { epoch, number: 2 } });
    world.node(B).sent.clear();
    let newer = Epoch { term: epoch.term + 1, ..epoch };
    world.node(B).step(Input::Message { from: A, message: Message::Fence { epoch: newer, leader: A } });
    let sent = std::mem::take(&mut world.node(B).sent);
    assert!(sent.contains(&(C, Message::ReadIndexed { epoch, number: 2, index: None })), "{sent:?}");
}

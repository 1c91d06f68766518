//! A vote is a disk's: a node that comes back with an empty one has promised nothing that it knows of (O6).

use super::replica_test::{A, B, C, Node, World};
use super::{Input, LogView as _, Phase, ReadTicket};
use crate::model::{Assignment, DirectoryId, Epoch, Lsn, NodeId};

const NEW: DirectoryId = DirectoryId::new([9; 16]);

/// A node's disk is lost, and it comes back with an empty one.
fn empty(world: &mut World, id: NodeId) {
    let log = world.node(id).log.id;
    for other in [A, B, C].into_iter().filter(|other| *other != id) {
        world.cut(id, other);
    }
    *world.node(id) = Node::on(id, log, NEW);
    for other in [A, B, C].into_iter().filter(|other| *other != id) {
        world.node(id).step(Input::PeerUp(other, DirectoryId::default()));
        world.node(other).step(Input::PeerUp(id, NEW));
    }
}

/// The next assignment, in which that node's new disk has its vote, with the promises of the two others.
fn readmit(world: &mut World, leader: NodeId, id: NodeId) -> Assignment {
    let mut assignment = world.assignment(leader);
    assignment.fence.retain(|node| *node != id);
    assignment.directories.insert(id, NEW);
    assignment
}

fn activate(world: &mut World, leader: NodeId, assignment: Assignment) -> Epoch {
    let epoch = assignment.epoch;
    world.node(leader).step(Input::Assign(assignment));
    world.settle();
    world.node(leader).step(Input::ActivationAccepted(epoch));
    world.settle();
    epoch
}

#[test]
fn i1_what_another_disk_of_a_voter_acknowledges_does_not_commit() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    empty(&mut world, C);
    world.propose(A, "one");
    world.settle();
    let log = world.node(A).log.batches.clone();
    assert_eq!(world.node(C).log.batches, log, "it is fed like a learner");
    assert_eq!(world.committed(A), 1, "its word counts for nothing");
    // The voter that is left acknowledges, and it commits.
    world.connect(A, B);
    world.settle();
    assert_eq!([A, B, C].map(|id| world.committed(id)), [2, 2, 2]);
}

#[test]
fn i1_the_promise_of_another_disk_of_a_voter_is_not_enough() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    world.propose(A, "A and C alone have it");
    world.settle();
    assert_eq!(world.committed(A), 2);
    world.cut(A, C);
    empty(&mut world, C);
    world.cut(A, C);
    // B lacks it, and C knows of nothing. (With its old disk it would have had it.)
    let assignment = world.assignment(B);
    let epoch = assignment.epoch;
    world.node(B).step(Input::Assign(assignment));
    world.settle();
    assert_eq!(world.node(B).replica.phase(), Some(Phase::Fencing));
    // With the promise of A it has it.
    world.connect(A, B);
    world.settle();
    assert_eq!(world.node(B).replica.phase(), Some(Phase::Activating));
    world.node(B).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!(world.committed(B), 3, "what A and C had, and the epoch's start");
}

#[test]
fn a_disk_that_is_named_by_an_assignment_has_the_vote_and_the_one_before_has_none() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.settle();
    let old = world.node(C).clone();
    empty(&mut world, C);
    let assignment = readmit(&mut world, A, C);
    activate(&mut world, A, assignment);
    assert_eq!(world.committed(C), 3);
    world.cut(A, B);
    world.propose(A, "two");
    world.settle();
    assert_eq!(world.committed(A), 4, "by the new disk");
    // The old one is found again.
    for other in [A, B] {
        world.cut(C, other);
    }
    *world.node(C) = old;
    world.connect(A, C);
    world.propose(A, "three");
    world.settle();
    assert_eq!(world.committed(A), 4, "it has no vote any more");
}

#[test]
fn an_assignment_that_asks_for_every_promise_begins_with_the_last() {
    let mut world = World::new();
    world.cut(A, C);
    let assignment = Assignment { fence_quorum: 3, ..world.assignment(A) };
    world.node(A).step(Input::Assign(assignment));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing), "two of three");
    world.connect(A, C);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
}

#[test]
fn i7_another_disk_of_a_voter_confirms_no_read() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    empty(&mut world, C);
    world.settle();
    world.node(A).said.clear();
    world.node(A).step(Input::Read(ReadTicket(1)));
    world.settle();
    assert!(world.node(A).said.is_empty(), "{:?}", world.node(A).said);
    world.connect(A, B);
    world.settle();
    assert!(world.node(A).said.iter().any(|said| said.contains("ReadsConfirmed")), "{:?}", world.node(A).said);
}

/// Its disk has forgotten that it led that epoch, and the promises to it still stand.
#[test]
fn i2_an_epoch_that_was_begun_is_not_begun_again() {
    let mut world = World::new();
    let assignment = world.assign(A);
    world.settle();
    world.node(A).step(Input::ActivationAccepted(assignment.epoch));
    world.propose(A, "one");
    world.settle();
    empty(&mut world, A);
    let again = Assignment { fence_quorum: 3, directories: [(A, NEW)].into(), ..assignment.clone() };
    let directories =
        again.directories.clone().into_iter().chain([B, C].map(|id| (id, DirectoryId::default()))).collect();
    world.node(A).step(Input::Assign(Assignment { directories, ..again }));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), None);
    let told = format!("Superseded {{ promised: {:?} }}", assignment.epoch);
    assert!(world.node(A).said.contains(&told), "{:?}", world.node(A).said);
}

/// A leader that may not count itself: the disk that it leads from is not the one that has its vote.
#[test]
fn i1_a_leader_with_another_disk_counts_the_others_alone() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.settle();
    empty(&mut world, C);
    let assignment = world.assignment(C);
    let epoch = assignment.epoch;
    world.cut(B, C);
    world.node(C).step(Input::Assign(assignment));
    world.settle();
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Fencing), "A alone is no majority");
    world.node(C).step(Input::PeerUp(B, DirectoryId::default()));
    world.node(B).step(Input::PeerUp(C, NEW));
    world.settle();
    world.node(C).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!(world.committed(C), 3, "it took over what the others have");
    world.cut(B, C);
    world.propose(C, "two");
    world.settle();
    assert_eq!(world.committed(C), 3, "A alone is no majority");
    // Nor does it confirm its own reads.
    world.node(C).said.clear();
    world.node(C).step(Input::Read(ReadTicket(1)));
    world.settle();
    assert!(world.node(C).said.is_empty(), "I7: {:?}", world.node(C).said);
}

#[test]
fn i1_what_one_disk_acknowledged_is_not_counted_for_another() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    let old = world.node(C).clone();
    empty(&mut world, C);
    world.propose(A, "the new disk has it");
    world.settle();
    assert_eq!((world.node(C).log.end().lsn, world.committed(A)), (Lsn::new(2), 1));
    // The disk that has the vote is back, in the same epoch, and has the first record only.
    for other in [A, B] {
        world.cut(C, other);
    }
    *world.node(C) = old;
    world.node(A).step(Input::PeerUp(C, DirectoryId::default()));
    world.propose(A, "two");
    world.node(A).sync();
    assert_eq!(world.committed(A), 1, "it said nothing yet");
    world.node(C).step(Input::PeerUp(A, DirectoryId::default()));
    world.settle();
    assert_eq!(world.committed(A), 3);
}

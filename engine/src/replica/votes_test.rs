//! A vote is a disk's: a node that comes back with an empty one has promised nothing that it knows of (O6).

use super::replica_test::{A, B, C, Node, World};
use super::{Input, LogView as _, Phase, ReadTicket};
use crate::model::{
    Assignment, ControlRecord, DirectoryId, Epoch, EpochStart, LogId, LogPosition, Lsn, Message, NodeId,
};
use std::collections::BTreeMap;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

pub(super) const NEW: DirectoryId = DirectoryId::new([9; 16]);

/// A node's disk is lost, and it comes back with an empty one.
pub(super) fn empty(world: &mut World, id: NodeId) {
    let log = world.node(id).log.id;
    let is_own_master = world.node(id).replica.own_master;
    for other in [A, B, C].into_iter().filter(|other| *other != id) {
        world.cut(id, other);
    }
    *world.node(id) = Node::on(id, log, NEW);
    world.node(id).replica.own_master = is_own_master;
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

pub(super) fn activate(world: &mut World, leader: NodeId, assignment: Assignment) -> Epoch {
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

/// Three nodes, each its own master.
pub(super) fn own_masters() -> World {
    let mut world = World::new();
    [A, B, C].into_iter().for_each(|id| world.node(id).replica.own_master = true);
    world
}

pub(super) fn named(disks: &[(NodeId, DirectoryId)]) -> BTreeMap<NodeId, DirectoryId> {
    disks.iter().copied().collect()
}

pub(super) const OLD: DirectoryId = DirectoryId::new([0; 16]);

/// An epoch in which A leads, and these have the votes.
fn lead_by(world: &mut World, votes: &[(NodeId, DirectoryId)]) {
    let assignment = Assignment { directories: named(votes), ..world.assignment(A) };
    activate(world, A, assignment);
}

/// The two epochs by which the new disk of C has its vote.
const STEPS: [&[(NodeId, DirectoryId)]; 2] = [&[(A, OLD), (B, OLD)], &[(A, OLD), (B, OLD), (C, NEW)]];

/// A has given C's new disk its vote, and acknowledged a write with it alone; C's old disk is back in its place, and reaches nobody.
pub(super) fn with_an_old_disk_back() -> World {
    let mut world = own_masters();
    world.elect(A);
    let old = world.node(C).clone();
    empty(&mut world, C);
    STEPS.into_iter().for_each(|votes| lead_by(&mut world, votes));
    world.cut(A, B);
    world.propose(A, "A and the new disk have it");
    world.settle();
    assert_eq!(world.committed(A), 4);
    *world.node(C) = old;
    [A, B].into_iter().for_each(|other| world.cut(C, other));
    world
}

/// Its own log says that it has a vote. What its successor and node A acknowledged would be lost.
#[test]
fn i1_a_disk_that_is_put_back_in_the_place_of_its_successor_does_not_count_itself() {
    let mut world = with_an_old_disk_back();
    world.node(B).step(Input::PeerUp(C, OLD));
    world.node(C).step(Input::PeerUp(B, OLD));
    let assignment = world.assignment(C);
    let epoch = assignment.epoch;
    assert_eq!(assignment.directories[&C], OLD);
    world.node(C).step(Input::Assign(assignment));
    world.settle();
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Fencing), "the log of B names another disk");
    // With A they are enough, and what A has is taken over; and the votes are those of that log.
    world.node(A).step(Input::PeerUp(C, OLD));
    world.node(C).step(Input::PeerUp(A, OLD));
    world.settle();
    world.node(C).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!((world.committed(C), world.committed(B)), (5, 5));
    let votes = &world.node(C).replica.assignment().unwrap().directories;
    assert_eq!(*votes, named(&[(A, OLD), (B, OLD), (C, NEW)]));
}

/// Its log ends before the votes changed, and it is assigned: it goes by the log of the one that it hears.
#[test]
fn i1_a_leader_that_lacks_the_last_change_of_votes_counts_by_the_log_that_has_it() {
    let mut world = own_masters();
    world.elect(A);
    empty(&mut world, C);
    lead_by(&mut world, STEPS[0]);
    world.cut(A, B);
    world.cut(B, C);
    // It takes the promises of A and B; what begins with them reaches A and the new disk.
    let given = Assignment { directories: named(STEPS[1]), ..world.assignment(A) };
    let epoch = given.epoch;
    world.node(A).step(Input::Assign(given));
    world.node(A).step(Input::PeerUp(B, OLD));
    world.node(B).step(Input::PeerUp(A, OLD));
    world.hop();
    world.sync_all();
    world.hop();
    world.cut(A, B);
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.propose(A, "A and the new disk have it");
    world.settle();
    assert_eq!((world.committed(A), world.node(B).log.end().lsn), (4, Lsn::new(2)));
    world.cut(A, C);
    world.node(B).step(Input::PeerUp(C, NEW));
    world.node(C).step(Input::PeerUp(B, OLD));
    let assignment = world.assignment(B);
    let epoch = assignment.epoch;
    world.node(B).step(Input::Assign(assignment));
    world.settle();
    assert_eq!(world.node(B).replica.phase(), Some(Phase::Activating), "both have votes by the log of C");
    world.node(B).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!((world.committed(B), world.committed(C)), (5, 5));
}

#[test]
fn i1_votes_are_changed_only_by_who_serves_and_a_disk_is_not_replaced_by_another_at_once() {
    let mut world = own_masters();
    let epoch = world.elect(A);
    empty(&mut world, C);
    let swapped = named(&[(A, OLD), (B, OLD), (C, NEW)]);
    let at_once = Assignment { directories: swapped.clone(), ..world.assignment(A) };
    world.node(A).step(Input::Assign(at_once));
    assert_eq!(world.node(A).replica.promise().epoch, epoch, "it is none that can be followed");
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
    let taken = Assignment { directories: named(&[(A, OLD), (B, OLD)]), ..world.assignment(A) };
    activate(&mut world, A, taken);
    // One that has just started leads nobody: the votes stay as the log says.
    let given = Assignment { directories: swapped, ..world.assignment(B) };
    let epoch = given.epoch;
    world.node(B).step(Input::Assign(given));
    world.settle();
    world.node(B).step(Input::ActivationAccepted(epoch));
    world.settle();
    let votes = &world.node(B).replica.assignment().unwrap().directories;
    assert_eq!(*votes, named(&[(A, OLD), (B, OLD)]));
}

/// A restored backup begins a version of its own; its log tells of the disks of another cluster.
#[test]
fn what_the_log_says_of_another_version_or_lineage_is_not_whose_the_votes_are() {
    let mut world = own_masters();
    world.elect(A);
    let start = world.node(A).log.last_start().unwrap();
    let (log, version) = (start.assignment.log, start.assignment.epoch.version);
    assert_eq!(start.votes(log, version), Some(&named(&[(A, OLD), (B, OLD), (C, OLD)])));
    assert_eq!(start.votes(log, version + 1024), None);
    assert_eq!(start.votes(LogId::new(log.as_u128() + 1), version), None);
    let mut promised = |epoch: Epoch| {
        world.node(B).sent.clear();
        world.node(B).step(Input::Message { from: A, message: Message::Fence { epoch, leader: A } });
        world.node(B).sync();
        match world.node(B).sent.pop() {
            Some((_, Message::Promise { votes, .. })) => votes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(promised(Epoch::new(version, 700)).map(|votes| votes.len()), Some(3));
    assert_eq!(promised(Epoch::new(version + 1024, 1)), None);
}

/// A control record that is no epoch's start, and data that looks like one.
#[test]
fn only_the_start_of_an_epoch_says_whose_the_votes_are() {
    let log = LogId::new(7);
    let batch = |kind, raw| {
        let builder = BatchBuilder::new(log, kind, Epoch::new(1, 1), LogPosition::origin(log), 0);
        builder.block(Block::encode(raw, 1, Compression::Never)).seal().unwrap()
    };
    let mut world = own_masters();
    let assignment = world.assignment(A);
    let start = EpochStart { assignment, parent: LogPosition::origin(log) };
    let raw = ControlRecord::EpochStart(start.clone()).encode().unwrap();
    assert_eq!(EpochStart::in_batch(&batch(BatchKind::Control, raw.clone())), Some(start));
    assert_eq!(EpochStart::in_batch(&batch(BatchKind::Data, raw)), None);
    let other = ControlRecord::CloseSession { session: 1 }.encode().unwrap();
    assert_eq!(EpochStart::in_batch(&batch(BatchKind::Control, other)), None);
}

/// The same epoch, told twice to a leader whose disk was wiped in between: its log began anew, and what equalled it does no more.
#[test]
fn i1_what_equalled_the_log_of_a_leader_is_not_taken_to_equal_that_of_another_disk_of_it() {
    let mut world = World::new();
    let epoch = world.elect(A);
    world.propose(A, "one");
    world.deliver();
    let took = |world: &mut World| world.node(B).replica.took(epoch, Lsn::new(2));
    assert!(took(&mut world), "it is not durable yet");
    // A connection that breaks changes nothing.
    world.node(B).step(Input::PeerDown(A));
    world.node(B).step(Input::PeerUp(A, OLD));
    assert!(took(&mut world));
    world.node(B).step(Input::PeerDown(A));
    world.node(B).step(Input::PeerUp(A, NEW));
    assert!(!took(&mut world));
    world.node(B).sent.clear();
    world.node(B).sync();
    assert!(world.node(B).sent.is_empty(), "it acknowledges nothing: {:?}", world.node(B).sent);
}

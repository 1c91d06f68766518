//! Snapshots as a conversation of replicas: who offers one to whom, and what is never reset.

use super::replica_test::{A, B, C, Node, World};
use super::{Input, LogView, Output, Phase};
use crate::model::limits::QUORUM_LOST_AFTER_DEFAULT as BOUND;
use crate::model::{LogPosition, Lsn, Message, SnapshotId};
use std::time::Duration;

fn snapshot(at: LogPosition) -> SnapshotId {
    SnapshotId { at, chunks: 1, bytes: 1, digest: 7 }
}

/// The node's log begins behind this LSN.
pub(super) fn release(node: &mut Node, lsn: u64) {
    let to = node.log.position_at(Lsn::new(lsn)).unwrap();
    let before = node.log.batches.len();
    node.log.batches.retain(|batch| batch.last_lsn() > to.lsn);
    node.log.durable -= before - node.log.batches.len();
    node.log.start = to;
}

/// What the replica asked its driver for is answered: snapshots are of what is committed, and have one chunk.
pub(super) fn serve(world: &mut World) {
    for id in [A, B, C] {
        let node = world.node(id);
        for output in std::mem::take(&mut node.asked) {
            let input = match output {
                Output::TakeSnapshot { peer, epoch } => {
                    let at = node.log.position_at(node.replica.applicable()).unwrap();
                    Input::SnapshotTaken { peer, epoch, snapshot: snapshot(at) }
                }
                Output::ReadSnapshot { peer, epoch, snapshot, index } => {
                    Input::SnapshotRead { peer, epoch, snapshot, index, bytes: Some("s".into()) }
                }
                Output::StageSnapshot { snapshot } => Input::SnapshotWanted { snapshot, index: 0 },
                Output::StageChunk { snapshot, .. } => Input::SnapshotStaged(snapshot),
                Output::InstallSnapshot { snapshot } => Input::SnapshotInstalled(snapshot),
                other => panic!("{other:?}"),
            };
            node.step(input);
        }
    }
}

fn settle(world: &mut World) {
    for _ in 0..20 {
        world.settle();
        serve(world);
    }
}

/// A leads, and C, which has the first epoch's start alone, was cut off while A wrote and forgot.
pub(super) fn c_is_behind() -> World {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, C);
    world.cut(B, C);
    for text in ["two", "three", "four"] {
        world.propose(A, text);
    }
    world.settle();
    world
}

#[test]
fn a_follower_behind_the_logs_start_is_offered_what_is_applied_and_then_fed() {
    let mut world = c_is_behind();
    for id in [A, B] {
        release(world.node(id), 3);
    }
    world.node(A).crash(A); // What it had in memory is gone.
    for (x, y) in [(A, B), (A, C), (B, C)] {
        world.cut(x, y);
        world.connect(x, y);
    }
    let epoch = world.assign(A).epoch;
    settle(&mut world);
    world.node(A).step(Input::ActivationAccepted(epoch));
    settle(&mut world);
    let end = world.node(A).log.end();
    assert_eq!(world.node(C).log.end(), end);
    assert!(world.node(C).log.start.lsn >= Lsn::new(3), "it begins where the snapshot ends");
    assert_eq!(world.committed(C), end.lsn.get());
}

#[test]
fn i1_a_new_leader_that_lacks_what_the_best_log_released_is_given_a_snapshot_before_it_starts() {
    let mut world = c_is_behind();
    world.cut(A, B);
    release(world.node(B), 3);
    world.connect(B, C);
    let epoch = world.assign(C).epoch;
    settle(&mut world);
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Activating), "{:?}", world.node(C).said);
    let log = &world.node(C).log;
    assert_eq!((log.start.lsn, log.batches[0].epoch()), (Lsn::new(4), epoch), "behind the state, its own start");
    world.node(C).step(Input::ActivationAccepted(epoch));
    settle(&mut world);
    assert_eq!((world.committed(C), world.committed(B)), (5, 5));
}

/// It takes a part every four seconds, and its bound is five.
#[test]
fn a_new_leader_that_is_given_a_large_state_does_not_give_up_while_parts_come() {
    let mut world = c_is_behind();
    world.cut(A, B);
    release(world.node(B), 3);
    world.connect(B, C);
    world.assign(C);
    world.settle();
    let at = world.node(B).log.end();
    let large = SnapshotId { chunks: 9, ..snapshot(at) };
    let epoch = world.node(C).replica.promise().epoch;
    world.node(C).step(Input::Message { from: B, message: Message::SnapshotOffer { epoch, snapshot: large } });
    let mut now = Duration::ZERO;
    let mut wait = |world: &mut World, time: Duration| {
        let until = now + time;
        while let Some(at) = world.node(C).replica.next_tick().filter(|at| *at <= until) {
            now = now.max(at);
            world.node(C).step(Input::Tick(now));
        }
        now = until;
        world.node(C).replica.phase().is_some()
    };
    assert!(wait(&mut world, BOUND / 5 * 4));
    for index in 0..9 {
        let message = Message::SnapshotChunk { epoch, snapshot: large, index, bytes: "s".into() };
        world.node(C).step(Input::Message { from: B, message });
        assert!(wait(&mut world, BOUND / 5 * 4), "part {index}: {:?}", world.node(C).said);
    }
    // The same part again is no other one.
    let message = Message::SnapshotChunk { epoch, snapshot: large, index: 8, bytes: "s".into() };
    world.node(C).step(Input::Message { from: B, message });
    assert!(!wait(&mut world, BOUND / 5 * 4));
}

/// What it acknowledged would be gone, and the leader would count it all the same.
#[test]
fn i1_a_log_that_holds_the_snapshots_position_is_never_reset() {
    let mut world = World::new();
    let epoch = world.elect(A);
    for text in ["two", "three"] {
        world.propose(A, text);
    }
    world.settle();
    let (end, held) = (world.node(C).log.end(), world.node(C).log.position_at(Lsn::new(2)).unwrap());
    let offer = Message::SnapshotOffer { epoch, snapshot: snapshot(held) };
    world.node(C).step(Input::Message { from: A, message: offer });
    assert!(world.node(C).asked.is_empty(), "it takes nothing");
    assert!(
        matches!(&world.node(C).sent[..], [(A, Message::Mismatch { log, .. })] if log.end == end),
        "it says what it has"
    );
    settle(&mut world);
    assert_eq!(world.node(C).log.end(), end);
}

/// It is fed by a new leader, from further back, while the snapshot of the one before is being installed.
#[test]
fn i1_a_log_that_caught_up_while_the_state_was_replaced_stays() {
    let mut world = c_is_behind();
    let at = world.node(A).log.end();
    let epoch = world.node(C).replica.promise().epoch;
    world.connect(A, C);
    let c = world.node(C);
    c.step(Input::Message { from: A, message: Message::SnapshotOffer { epoch, snapshot: snapshot(at) } });
    c.step(Input::SnapshotStaged(snapshot(at)));
    c.sync();
    assert!(matches!(c.asked.pop(), Some(Output::InstallSnapshot { .. })), "the mark is durable");
    c.asked.clear();
    // It has them all, and does not know that they are committed.
    let batches = world.node(A).log.batches[1..].to_vec();
    let append = Message::Append { epoch, prev: world.node(C).log.end(), commit: Lsn::FIRST, batches };
    world.node(C).step(Input::Message { from: A, message: append });
    let end = world.node(C).log.end();
    assert_eq!((end, world.committed(C)), (at, 1));
    world.node(C).step(Input::SnapshotInstalled(snapshot(at)));
    settle(&mut world);
    assert_eq!((world.node(C).log.end(), world.node(C).log.start.lsn), (end, Lsn::ZERO));
}

#[test]
fn a_snapshot_of_an_epoch_that_is_over_or_of_somebody_else_is_not_taken() {
    let mut world = c_is_behind();
    let at = world.node(A).log.end();
    let epoch = world.node(C).replica.promise().epoch;
    let offer = Message::SnapshotOffer { epoch, snapshot: snapshot(at) };
    world.node(C).step(Input::Message { from: B, message: offer.clone() });
    assert!(world.node(C).asked.is_empty(), "B does not lead");
    world.connect(B, C);
    world.assign(B);
    world.deliver_to(C);
    world.node(C).step(Input::Message { from: A, message: offer });
    assert!(world.node(C).asked.is_empty());
    assert!(world.node(C).sent.iter().any(|(to, sent)| *to == A && matches!(sent, Message::Refused { .. })));
}

#[test]
fn nothing_that_is_not_committed_is_ever_offered() {
    let mut world = World::new();
    let epoch = world.elect(A);
    world.cut(A, B);
    world.cut(A, C);
    world.propose(A, "not committed");
    world.node(A).sync();
    world.connect(A, C);
    world.node(A).sent.clear();
    let end = world.node(A).log.end();
    world.node(A).step(Input::SnapshotTaken { peer: C, epoch, snapshot: snapshot(end) });
    assert!(world.node(A).sent.is_empty());
}

/// The leader's log begins behind the end of the follower's, and the leader has all of it in memory: the follower is fed from its end.
/// (Fed from the first batch on, it has no place for that, as its own log begins later, and says so, and again.) Seed 21.
#[test]
fn a_follower_that_only_the_leaders_memory_reaches_is_fed_from_its_end() {
    let mut world = World::new();
    world.elect(A);
    for text in ["two", "three"] {
        world.propose(A, text);
    }
    world.settle();
    world.cut(A, C);
    world.cut(B, C);
    world.propose(A, "four");
    world.settle();
    release(world.node(A), 4);
    release(world.node(C), 2);
    world.connect(A, C);
    for _ in 0..20 {
        let said = &world.node(C).sent;
        assert!(!said.iter().any(|(_, message)| matches!(message, Message::Mismatch { .. })), "{said:?}");
        world.hop();
        world.sync_all();
    }
    assert_eq!(world.node(C).log.end().lsn, Lsn::new(4));
    assert_eq!(world.committed(C), 4);
    assert!(world.node(A).asked.is_empty(), "no snapshot is needed");
}

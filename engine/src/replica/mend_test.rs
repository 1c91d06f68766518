//! Damage as a conversation of replicas: who gives whom what was there, and what nobody cuts off (faults D12 to D16).

use super::replica_test::{A, B, C, World};
use super::snapshot_test::release;
use super::{Input, LogView as _, Output, Phase, QuorumLost};
use crate::model::{Epoch, LogPosition, Lsn, Message, NodeId, SnapshotId};
use std::time::Duration;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

/// A led, and all have LSN 1 to 4, committed.
fn whole() -> World {
    let mut world = World::new();
    world.elect(A);
    for text in ["two", "three", "four"] {
        world.propose(A, text);
        world.settle();
    }
    assert_eq!([A, B, C].map(|id| world.committed(id)), [4, 4, 4]);
    world
}

fn damaged(world: &mut World, id: NodeId) -> Vec<(u64, u64)> {
    world.node(id).replica.damaged().iter().map(|(first, last)| (first.get(), last.get())).collect()
}

/// D12.
#[test]
fn a_follower_asks_its_leader_for_what_it_cannot_read_and_says_so_meanwhile() {
    let mut world = whole();
    world.node(B).rot(&[2, 4]);
    let said: Vec<_> = world.node(B).sent.iter().map(|(to, message)| (*to, message.clone())).collect();
    let told = |to| said.iter().any(|(other, said)| *other == to && matches!(said, Message::Damaged { .. }));
    assert!(told(A) && told(C));
    assert!(said.iter().any(|(to, said)| *to == A && matches!(said, Message::MendWanted { .. })));
    world.propose(A, "five");
    world.deliver();
    world.node(A).sync();
    world.node(B).sync();
    world.deliver();
    assert_eq!(world.committed(A), 4, "I1: what is behind damage is not acknowledged");
    world.settle();
    assert_eq!(damaged(&mut world, B), []);
    assert_eq!([A, B, C].map(|id| world.committed(id)), [5, 5, 5], "it is fed on");
}

/// Otherwise one old record that somebody reads ends all writes of a node alone, until it is opened again.
#[test]
fn who_votes_alone_goes_on_when_what_its_state_has_already_rots() {
    let mut world = World::voting(&[A]);
    world.elect(A);
    for text in ["two", "three", "four"] {
        world.propose(A, text);
        world.settle();
    }
    world.node(A).rot(&[2]);
    world.propose(A, "five");
    world.settle();
    assert_eq!(world.committed(A), 5);
}

/// D13.
#[test]
fn a_leader_asks_its_followers_and_feeds_a_slow_one_when_it_has_it_again() {
    let mut world = whole();
    world.cut(A, C);
    world.node(C).log.batches.truncate(2);
    world.node(C).log.durable = 2;
    world.node(C).crash(C);
    world.connect(B, C);
    world.node(A).rot(&[3]);
    world.connect(A, C);
    world.settle();
    assert_eq!(damaged(&mut world, A), []);
    let led = world.node(A).log.batches.clone();
    assert_eq!(world.node(C).log.batches, led);
}

/// D14.
#[test]
fn different_damage_on_all_voters_is_mended_by_whoever_has_it() {
    let mut world = whole();
    for (id, lsn) in [(A, 2), (B, 3), (C, 4)] {
        world.node(id).log.damaged = vec![Lsn::new(lsn)];
        world.node(id).crash(id);
    }
    for (x, y) in [(A, B), (A, C), (B, C)] {
        world.connect(x, y);
    }
    world.elect(B);
    assert_eq!([A, B, C].map(|id| damaged(&mut world, id)), [vec![], vec![], vec![]]);
    assert_eq!([A, B, C].map(|id| world.committed(id)), [5, 5, 5]);
}

/// D15.
#[test]
fn a_new_leader_without_a_record_takes_it_from_the_one_that_can_read_it() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, C);
    world.propose(A, "two");
    world.propose(A, "three");
    world.settle();
    assert_eq!(world.committed(A), 3);
    // B acknowledged both, and A has more behind them, which nobody else has.
    world.cut(A, B);
    world.cut(B, C);
    world.propose(A, "four");
    world.settle();
    world.node(A).log.damaged = vec![Lsn::new(2)];
    world.node(A).crash(A);
    world.connect(A, C);
    // C leads: of the two that have promised A has the best log, and can't read all of it.
    world.assign(C);
    world.settle();
    assert_ne!(world.node(C).replica.phase(), Some(Phase::Activating), "it waits rather than guess");
    assert_eq!(world.node(C).log.batches.len(), 1);
    world.connect(B, C);
    world.connect(A, B);
    world.settle();
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Activating));
    let ends = [A, B, C].map(|id| world.node(id).log.batches.len());
    assert_eq!(ends, [5, 5, 5], "with what A alone had, and the epoch's start");
    assert_eq!(damaged(&mut world, A), []);
}

/// D16.
#[test]
fn where_nobody_can_read_a_record_the_leader_gives_up_by_name_and_nobody_cuts_it_off() {
    let mut world = whole();
    for id in [A, B, C] {
        world.node(id).log.damaged = vec![Lsn::new(3)];
        world.node(id).crash(id);
    }
    for (x, y) in [(A, B), (A, C), (B, C)] {
        world.connect(x, y);
    }
    world.assign(B);
    world.settle();
    assert_eq!(world.node(B).replica.phase(), Some(Phase::Mending));
    let (mut now, mut said) = (Duration::ZERO, Vec::new());
    while let Some(at) = world.node(B).replica.next_tick() {
        now = now.max(at);
        let node = world.node(B);
        said.extend(node.replica.step(1, Input::Tick(now), &node.log));
    }
    assert!(matches!(said[..], [Output::SteppedDown { reason: QuorumLost::Damaged, .. }]), "{said:?}");
    for id in [A, B, C] {
        assert_eq!(damaged(&mut world, id), [(3, 3)]);
        assert_eq!(world.node(id).log.batches.len(), 4, "nothing is cut off");
    }
}

/// All have LSN 1 to 5, in an epoch that is over, and only this one still needs them: its state is at 2, the others have released theirs.
fn needed_by_one_state(id: NodeId) -> World {
    let mut world = whole();
    world.propose(A, "five");
    world.settle();
    world.elect(A);
    assert_eq!([A, B, C].map(|id| world.committed(id)), [6, 6, 6]);
    [A, B, C].into_iter().filter(|other| *other != id).for_each(|other| release(world.node(other), 5));
    world.node(id).log.damaged = vec![Lsn::new(3)];
    world
}

/// Where its log may be read up to says nothing of what its state has read.
#[test]
fn a_state_that_comes_upon_damage_on_its_way_is_given_anothers() {
    // It is being applied when a scrub finds it, and comes upon it then; or at once.
    for reads in [&[6, 2][..], &[2]] {
        let mut world = needed_by_one_state(B);
        for read in reads {
            world.node(B).step(Input::DamageFound { read: Lsn::new(*read) });
            world.settle();
        }
        let takes = world.node(A).asked.iter().any(|asked| matches!(asked, Output::TakeSnapshot { peer: B, .. }));
        assert!(takes, "it says that its log ends where it can be read");
        assert_eq!(world.node(B).replica.applicable(), Lsn::new(2));
        let (epoch, at) = (world.node(A).replica.promise().epoch, world.node(A).log.start);
        let snapshot = SnapshotId { at, chunks: 1, bytes: 1, digest: 1 };
        world.node(A).step(Input::SnapshotTaken { peer: B, epoch, snapshot });
        world.settle();
        let stages = |asked: &Output| matches!(asked, Output::StageSnapshot { .. });
        assert!(world.node(B).asked.iter().any(stages), "and takes it");
    }
}

/// Otherwise who waits for a write or a read there waits for ever.
#[test]
fn a_leader_at_work_whose_state_comes_upon_what_nobody_has_gives_up() {
    let mut world = needed_by_one_state(A);
    world.node(A).step(Input::DamageFound { read: Lsn::new(2) });
    world.settle();
    let mut now = Duration::ZERO;
    while let Some(at) = world.node(A).replica.next_tick() {
        now = now.max(at);
        world.node(A).step(Input::Tick(now));
    }
    assert!(world.node(A).said.iter().any(|said| said.contains("reason: Damaged")), "{:?}", world.node(A).said);
}

#[test]
fn what_does_not_fit_is_refused_and_counted_and_asked_for_elsewhere() {
    let mut world = whole();
    world.node(B).rot(&[3]);
    let wanted = world.node(B).sent.iter().find_map(|(_, message)| match message {
        Message::MendWanted { epoch, after, .. } => Some((*epoch, *after)),
        _ => None,
    });
    let (epoch, after): (Epoch, _) = wanted.expect("it asks");
    world.node(B).sent.clear();
    // It follows, and another batch was there.
    let block = Block::encode("other".into(), 1, Compression::Never);
    let log = world.node(A).replica.log_id;
    let other = BatchBuilder::new(log, BatchKind::Data, after.epoch, after, 1).block(block).seal().unwrap();
    world.node(B).step(Input::Message { from: A, message: Message::Mend { epoch, after, batches: vec![other] } });
    assert_eq!(world.node(B).replica.mends_refused(), 1);
    let asked = |(to, message): &(NodeId, Message)| *to == C && matches!(message, Message::MendWanted { .. });
    assert!(world.node(B).sent.iter().any(asked));
    world.settle();
    assert_eq!(damaged(&mut world, B), []);
}

/// Whether this node has asked that one for what it can't read, since what it said was last taken away.
fn has_asked(world: &mut World, node: NodeId, of: NodeId) -> bool {
    world.node(node).sent.iter().any(|(to, sent)| *to == of && matches!(sent, Message::MendWanted { .. }))
}

/// What was said of its log to its leader last.
fn end_told(world: &mut World, node: NodeId) -> Option<Lsn> {
    let told = |(to, sent): &(NodeId, Message)| match sent {
        Message::Mismatch { log, .. } if *to == A => Some(log.end.lsn),
        _ => None,
    };
    world.node(node).sent.iter().rev().find_map(told)
}

/// Its disk hangs, and its connection stands.
#[test]
fn a_leader_is_asked_though_somebody_else_was_before_and_has_not_answered() {
    let mut world = whole();
    world.cut(A, C);
    world.cut(B, C);
    world.node(C).log.damaged = vec![Lsn::new(3)];
    world.node(C).crash(C);
    world.connect(B, C);
    assert!(has_asked(&mut world, C, B));
    world.node(C).sent.clear();
    world.connect(A, C);
    assert!(has_asked(&mut world, C, A), "it promised A before it crashed");
    // And when another one leads by now.
    world.node(C).sent.clear();
    world.cut(A, C);
    world.assign(B);
    world.settle_promises();
    world.node(C).sent.clear();
    world.connect(A, C);
    assert!(!has_asked(&mut world, C, A), "it has asked its leader");
    world.elect(A);
    assert_eq!(damaged(&mut world, C), []);
}

/// It reads for others only what its disk holds, so it had nothing when it was asked.
#[test]
fn a_leader_asks_a_follower_again_when_that_has_made_it_durable() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, C);
    world.propose(A, "two");
    world.deliver();
    world.node(A).rot(&[2]);
    world.deliver();
    assert_eq!(damaged(&mut world, A), [(2, 2)], "B took it, and has not synced it");
    assert!(!has_asked(&mut world, A, B), "nobody is left to ask");
    world.node(B).sync();
    world.deliver_to(A);
    assert!(has_asked(&mut world, A, B));
    world.settle();
    assert_eq!(damaged(&mut world, A), []);
}

/// The same of a leader whose disk was slower than its follower's: it says so by what it tells to be committed.
#[test]
fn a_follower_asks_its_leader_again_when_more_is_committed() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, C);
    world.cut(B, C);
    world.propose(A, "two");
    world.deliver();
    world.node(B).sync();
    world.deliver_to(A);
    world.node(B).rot(&[2]);
    world.hop();
    world.hop();
    assert_eq!(damaged(&mut world, B), [(2, 2)], "A has not synced it");
    assert!(!has_asked(&mut world, B, A), "nobody is left to ask");
    // It asks for a state, which does not come.
    assert_eq!(end_told(&mut world, B), Some(Lsn::new(1)));
    world.node(B).sent.clear();
    world.node(A).sync();
    world.connect(A, C);
    for to in [C, A, C] {
        world.deliver_to(to);
    }
    world.node(C).sync();
    world.deliver_to(A);
    assert_eq!(world.committed(A), 2, "C has it, and B does not count");
    world.deliver_to(B);
    assert!(has_asked(&mut world, B, A));
    world.settle();
    assert_eq!(damaged(&mut world, B), []);
}

#[test]
fn what_a_leader_feeds_that_is_held_and_can_not_be_read_mends_it() {
    let mut world = whole();
    let epoch = world.node(A).replica.promise().epoch;
    let (prev, batch) = (world.node(A).log.position_at(Lsn::new(2)).unwrap(), world.node(A).log.batches[2].clone());
    let b = world.node(B);
    b.rot(&[3]);
    // The answer to what it asked for never comes; this does.
    b.sent.clear();
    b.step(Input::Message {
        from: A,
        message: Message::Append { epoch, prev, commit: Lsn::new(4), batches: vec![batch] },
    });
    b.sync();
    assert_eq!(damaged(&mut world, B), []);
}

/// Otherwise it would say that it has no place for them, be fed the same again, and so for ever.
#[test]
fn a_follower_takes_what_follows_its_log_though_what_it_released_comes_first() {
    let mut world = whole();
    release(world.node(B), 3);
    world.propose(A, "five");
    world.node(A).sent.clear();
    let epoch = world.node(A).replica.promise().epoch;
    let (prev, batches) =
        (world.node(A).log.position_at(Lsn::new(1)).unwrap(), world.node(A).log.batches[1..].to_vec());
    world
        .node(B)
        .step(Input::Message { from: A, message: Message::Append { epoch, prev, commit: Lsn::new(4), batches } });
    assert_eq!(world.node(B).log.end().lsn, Lsn::new(5));
    assert_eq!(end_told(&mut world, B), None, "it says nothing against it");
}

/// All that it could ask has been asked before its leader was at work, and nothing of what that sends fits.
#[test]
fn whoever_can_take_nothing_of_what_its_leader_feeds_asks_for_its_state_once() {
    let mut world = whole();
    let epoch = world.node(A).replica.promise().epoch;
    let after = world.node(B).log.position_at(Lsn::new(2)).unwrap();
    let b = world.node(B);
    let beyond = LogPosition { lsn: Lsn::new(9), ..b.log.end() };
    b.log.damaged = vec![Lsn::new(3)];
    b.crash(B);
    for peer in [A, C] {
        b.step(Input::PeerUp(peer, crate::model::DirectoryId::default()));
    }
    for peer in [A, C] {
        b.step(Input::Message { from: peer, message: Message::Mend { epoch, after, batches: vec![] } });
    }
    b.sent.clear();
    let append = Message::Append { epoch, prev: beyond, commit: Lsn::new(4), batches: vec![] };
    b.step(Input::Message { from: A, message: append });
    assert_eq!(world.node(B).sent.len(), 1, "{:?}", world.node(B).sent);
    assert_eq!(end_told(&mut world, B), Some(Lsn::new(2)));
}

/// Otherwise its leader takes it for one that has everything, and the snapshot that it waits for never comes.
#[test]
fn whoever_asked_for_a_state_says_until_it_has_it_that_its_log_ends_where_it_can_be_read() {
    let mut world = whole();
    let epoch = world.node(A).replica.promise().epoch;
    let after = world.node(B).log.position_at(Lsn::new(2)).unwrap();
    let b = world.node(B);
    let end = b.log.end();
    // Its state has nothing of what rots, and nobody has it any more.
    b.log.damaged = vec![Lsn::new(3)];
    b.crash(B);
    for peer in [A, C] {
        b.step(Input::PeerUp(peer, crate::model::DirectoryId::default()));
    }
    let append = |prev| Message::Append { epoch, prev, commit: Lsn::new(4), batches: vec![] };
    b.step(Input::Message { from: A, message: append(end) });
    for peer in [A, C] {
        b.step(Input::Message { from: peer, message: Message::Mend { epoch, after, batches: vec![] } });
    }
    assert_eq!(end_told(&mut world, B), Some(Lsn::new(2)), "it asks for a state");
    world.node(B).sent.clear();
    // What comes meanwhile and does not fit has it say once more how its log is.
    let beyond = LogPosition { lsn: Lsn::new(9), ..end };
    world.node(B).step(Input::Message { from: A, message: append(beyond) });
    assert_eq!(end_told(&mut world, B), Some(Lsn::new(2)));
}

//! Rules that only one order of events shows, each with the one that does.

use super::replica_test::{A, B, C, World};
use super::{Input, LogView as _, Output, Phase, Promise, ReadTicket, Verdict};
use crate::model::limits::{APPEND_BATCHES_MAX, QUORUM_LOST_AFTER_DEFAULT as BOUND};
use crate::model::{DirectoryId, Epoch, LogPosition, Lsn, Message, SnapshotId};
use std::time::Duration;

const OTHER_DISK: DirectoryId = DirectoryId::new([7; 16]);

/// A leads a first epoch that was not activated, and is assigned another one: what was accepted of the first comes late.
#[test]
fn i3_an_acceptance_is_of_one_epoch() {
    let mut world = World::new();
    let first = world.assign(A).epoch;
    world.settle();
    let second = world.assign(A).epoch;
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
    world.node(A).step(Input::ActivationAccepted(first));
    world.settle();
    assert_eq!((world.node(A).replica.phase(), world.committed(A)), (Some(Phase::Activating), 0));
    world.node(A).step(Input::ActivationAccepted(second));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
}

/// A led e1, B promised e2 to C, which refused A; by the time A hears that, it leads e3.
#[test]
fn a_refusal_is_of_one_epoch() {
    let mut world = World::new();
    let first = world.elect(A);
    let second = world.elect(C);
    world.elect(A);
    world.node(A).step(Input::Message { from: B, message: Message::Refused { epoch: first, promised: second } });
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
    world.propose(A, "one");
    world.settle();
    assert_eq!(world.committed(A), world.node(A).log.end().lsn.get());
}

/// C was a voter, so that its disk is named by the assignment, and its word is heard; it has no vote any more.
#[test]
fn i1_a_learner_counts_for_nothing() {
    let mut world = World::new();
    world.elect(A);
    let mut assignment = world.assignment(A);
    assignment.voters = vec![A, B];
    assignment.learners = vec![C];
    let epoch = assignment.epoch;
    world.node(A).step(Input::Assign(assignment));
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
    world.cut(A, B);
    world.cut(B, C);
    let before = world.committed(A);
    world.propose(A, "one");
    world.node(A).step(Input::Read(ReadTicket(1)));
    world.settle();
    assert_eq!(world.node(C).log.end(), world.node(A).log.end(), "it has it");
    assert_eq!(world.committed(A), before, "and that is no majority");
    let confirmed = |said: &String| said.contains("ReadsConfirmed");
    assert!(!world.node(A).said.iter().any(confirmed), "{:?}", world.node(A).said);
    // Nor is it one of those to fence.
    let mut next = world.assignment(A);
    (next.fence, next.voters, next.learners) = (vec![A, B], vec![A, B], vec![C]);
    next.directories.remove(&C);
    world.node(A).step(Input::Assign(next));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing));
    world.connect(A, B);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
}

/// A promised B an epoch. B's disk is lost; the one that came for it knows nothing of that epoch, and computes the same.
#[test]
fn i2_an_epoch_is_begun_by_one_disk_of_its_leader() {
    let mut world = World::new();
    let epoch = world.elect(B);
    world.node(A).crash(A);
    world.node(A).step(Input::PeerUp(B, OTHER_DISK));
    world.node(A).sent.clear();
    let fence = Message::Fence { epoch, leader: B };
    world.node(A).step(Input::Message { from: B, message: fence.clone() });
    world.node(A).sync();
    let said = std::mem::take(&mut world.node(A).sent);
    assert!(matches!(said[..], [(B, Message::Refused { .. })]), "{said:?}");
    let prev = world.node(A).log.end();
    let append = Message::Append { epoch, prev, commit: prev.lsn, batches: Vec::new() };
    world.node(A).step(Input::Message { from: B, message: append });
    let said = std::mem::take(&mut world.node(A).sent);
    assert!(matches!(said[..], [(B, Message::Refused { .. })]), "{said:?}");
    // The disk that it was promised to.
    world.node(A).step(Input::PeerDown(B));
    world.node(A).step(Input::PeerUp(B, DirectoryId::default()));
    world.node(A).step(Input::Message { from: B, message: fence });
    let said = std::mem::take(&mut world.node(A).sent);
    assert!(said.iter().any(|(_, message)| matches!(message, Message::Promise { .. })), "{said:?}");
}

#[test]
fn a_promise_is_written_and_read_as_the_golden_files_say() {
    let promise = Promise { epoch: Epoch::new(1 << 40, 77), leader: Some(C), disk: Some(OTHER_DISK) };
    let file = crate::golden::check("promise.bin", &promise.encode().unwrap());
    assert_eq!(Promise::decode(&file).unwrap(), promise);
    // Of releases before: whose disk that was is not known, and any is taken for it.
    let before = Promise { disk: None, ..promise };
    let file = crate::golden::check("promise_v1.bin", &before.encode().unwrap());
    assert_eq!(Promise::decode(&file).unwrap(), before);
    assert_eq!(before.verdict(promise.epoch, C, Some(DirectoryId::default())), Verdict::Kept);
    for cut in 0..file.len() {
        assert!(Promise::decode(&file[..cut]).is_err());
    }
}

/// C asks for a state, since nobody has what it can't read; while that is staged somebody gives it all the same, and it goes on.
#[test]
fn i7_what_is_staged_is_installed_only_if_it_is_needed_still() {
    let mut world = World::new();
    world.elect(A);
    for text in ["two", "three", "four", "five"] {
        world.propose(A, text);
    }
    world.settle();
    world.cut(B, C);
    let epoch = world.node(A).replica.promise().epoch;
    world.node(C).rot(&[3]);
    world.node(C).step(Input::DamageFound { read: Lsn::new(2) });
    let asked = std::mem::take(&mut world.node(C).sent);
    let snapshot =
        SnapshotId { at: world.node(A).log.position_at(Lsn::new(4)).unwrap(), chunks: 1, bytes: 1, digest: 7 };
    world.node(C).step(Input::Message { from: A, message: Message::SnapshotOffer { epoch, snapshot } });
    let stages = |asked: &[Output]| asked.iter().any(|asked| matches!(asked, Output::StageSnapshot { .. }));
    assert!(stages(&world.node(C).asked), "its state can't get on");
    // It is slow to give it.
    world.node(C).sent = asked;
    world.settle();
    assert_eq!(world.node(C).replica.damaged(), []);
    assert_eq!(world.node(C).replica.applicable(), Lsn::new(5));
    world.node(C).asked.clear();
    world.node(C).step(Input::SnapshotStaged(snapshot));
    world.node(C).sync();
    assert!(world.node(C).asked.is_empty(), "what is applied never becomes less: {:?}", world.node(C).asked);
}

/// The follower that is behind has one window, and a read that holds more batches than a message may is sent as several.
#[test]
fn all_that_was_read_for_a_follower_that_is_behind_is_sent() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, C);
    world.cut(B, C);
    let count = 2 * APPEND_BATCHES_MAX + 10;
    for _ in 0..count {
        world.propose(A, "x");
    }
    world.settle();
    let after = world.node(C).log.end();
    // Nothing of it is in memory.
    let epoch = world.elect(A);
    world.connect(A, C);
    world.deliver_to(C);
    world.node(C).sync();
    world.deliver_to(A);
    world.node(A).answer_reads();
    let appended = world.node(A).sent.iter().filter_map(|(to, message)| match message {
        Message::Append { batches, prev, epoch: of, .. } if *to == C && *of == epoch => Some((prev.lsn, batches.len())),
        _ => None,
    });
    let appended: Vec<_> = appended.filter(|(_, batches)| *batches > 0).collect();
    let full = APPEND_BATCHES_MAX as u64;
    let starts = [0, full, 2 * full].map(|skipped| Lsn::new(after.lsn.get() + skipped));
    assert_eq!(appended.iter().map(|(prev, _)| *prev).collect::<Vec<_>>(), starts);
    assert_eq!(appended.iter().map(|(_, batches)| batches).sum::<usize>(), count + 1);
    world.settle();
    assert_eq!(world.node(C).log.end(), world.node(A).log.end());
}

/// Many shards that are idle would hold memory for nobody.
#[test]
fn a_leader_keeps_nothing_in_memory_that_all_have() {
    let tail = |world: &mut World| world.node(A).replica.leadership.as_ref().map(|leadership| leadership.tail.len());
    let mut alone = World::voting(&[A]);
    alone.elect(A);
    alone.propose(A, "two");
    assert_eq!(tail(&mut alone), Some(1), "it is not durable yet");
    alone.settle();
    assert_eq!(tail(&mut alone), Some(0));
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "two");
    world.settle();
    assert_eq!(tail(&mut world), Some(0));
    world.cut(A, C);
    world.cut(B, C);
    world.propose(A, "three");
    world.settle();
    assert_eq!(tail(&mut world), Some(1), "who is away for a moment is fed from memory");
    world.connect(A, C);
    world.settle();
    assert_eq!(tail(&mut world), Some(0));
}

/// What was asked before is answered late, with nothing: of what is asked now that says nothing.
#[test]
fn an_answer_counts_for_the_question_that_it_answers() {
    let mut world = World::new();
    world.elect(B);
    world.cut(A, B);
    world.cut(A, C);
    world.propose(B, "two");
    world.settle();
    world.cut(B, C);
    world.connect(A, B);
    let epoch = world.assign(A).epoch;
    world.node(A).sync();
    world.deliver_to(B);
    world.node(B).sync();
    world.deliver_to(A);
    assert!(matches!(world.node(A).replica.phase(), Some(Phase::Adopting { .. })));
    let old = Message::Fetched { epoch, after: LogPosition::origin(world.node(A).log.id), batches: Vec::new() };
    world.node(A).said.clear();
    world.node(A).step(Input::Message { from: B, message: old });
    assert_eq!(world.node(A).said, Vec::<String>::new(), "its connection is as good as before");
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
}

/// A disk of its own that has no vote, or lacks what is committed, is none of a majority.
#[test]
fn writes_need_a_follower_that_is_behind_where_the_leaders_own_disk_does_not_count() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "two");
    world.settle();
    world.cut(A, C);
    world.cut(B, C);
    world.propose(A, "three");
    world.deliver();
    world.node(B).sync();
    world.deliver();
    world.node(A).sync();
    world.settle();
    world.connect(A, C);
    assert!(!world.node(A).replica.writes_need(C));
    world.node(A).rot(&[2]);
    assert!(world.node(A).replica.writes_need(C), "what it can't read it does not hold");
}

/// What was to be read of its own log for a moment can be read again; and another time it turns out to be damaged, and is mended. Nobody
/// says a word.
#[test]
fn a_new_leader_that_is_stuck_looks_again_as_time_passes() {
    for is_damage in [false, true] {
        let mut world = super::doubt_test::parted(B, [(A, C), (B, C)]);
        world.node(A).log.hidden = vec![Lsn::new(2)];
        world.connect(A, B);
        world.assign(A);
        world.settle();
        assert!(matches!(world.node(A).replica.phase(), Some(Phase::Adopting { .. })));
        if is_damage {
            world.node(A).rot(&[2]);
        } else {
            world.node(A).log.hidden.clear();
        }
        let mut now = Duration::ZERO;
        while let Some(at) = world.node(A).replica.next_tick().filter(|at| *at <= BOUND / 2) {
            now = now.max(at);
            world.node(A).step(Input::Tick(now));
        }
        world.settle();
        assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating), "{is_damage}: {:?}", world.node(A).said);
        assert_eq!(world.node(A).log.batches.len(), 4, "and nothing of it was cut off");
    }
}

/// The log is taken over, and more and more of it can't be read: each batch that is put again is progress.
#[test]
fn a_new_leader_that_mends_what_it_took_over_is_not_hurried() {
    let mut world = World::new();
    world.elect(B);
    for text in ["two", "three", "four", "five", "six", "seven"] {
        world.propose(B, text);
    }
    world.settle();
    world.cut(A, C);
    world.cut(B, C);
    world.propose(B, "eight");
    world.node(B).sync();
    world.cut(A, B);
    world.connect(A, B);
    world.assign(A);
    world.node(A).sync();
    world.deliver_to(B);
    world.node(B).sync();
    world.deliver_to(A);
    assert!(matches!(world.node(A).replica.phase(), Some(Phase::Adopting { .. })));
    let lost = [2, 3, 4, 5, 6, 7];
    world.node(A).rot(&lost);
    let whole = world.node(B).log.batches.clone();
    let wants_mend = |(_, message): &(_, Message)| matches!(message, Message::MendWanted { .. });
    world.node(A).sent.retain(|sent| !wants_mend(sent));
    world.deliver_to(B);
    world.node(B).answer_reads();
    world.deliver_to(A);
    world.node(A).sync();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Mending));
    let mut now = Duration::ZERO;
    for lsn in lost {
        let until = now + BOUND / 2;
        while let Some(at) = world.node(A).replica.next_tick().filter(|at| *at <= until) {
            now = now.max(at);
            world.node(A).step(Input::Tick(now));
        }
        now = until;
        assert!(world.node(A).replica.phase().is_some(), "before {lsn}: {:?}", world.node(A).said);
        let epoch = world.node(A).replica.promise().epoch;
        world.deliver_to(B);
        // Its answer is slow, and one batch at a time.
        world.node(B).sent.clear();
        let at = usize::try_from(lsn).unwrap();
        let message = Message::Mend { epoch, after: whole[at - 2].position(), batches: vec![whole[at - 1].clone()] };
        world.node(A).step(Input::Message { from: B, message });
        world.node(A).sync();
    }
    assert_eq!(world.node(A).replica.damaged(), []);
}

/// It refuses each of many messages that are on their way; what is behind the place where the two part is read once.
#[test]
fn of_many_messages_that_are_refused_the_first_has_it_read_where_the_logs_part() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    world.cut(A, C);
    world.propose(A, "lost");
    world.node(A).sync();
    world.elect(B);
    for _ in 0..4 * APPEND_BATCHES_MAX {
        world.propose(B, "x");
    }
    world.settle();
    // Nothing of it is in memory.
    world.elect(B);
    world.connect(A, B);
    world.deliver_to(A);
    world.node(A).sync();
    world.deliver_to(B);
    world.node(B).answer_reads();
    world.deliver_to(A);
    let refused = |(_, message): &(_, Message)| matches!(message, Message::Mismatch { .. });
    assert!(world.node(A).sent.iter().filter(|sent| refused(sent)).count() > 3);
    world.deliver_to(B);
    assert_eq!(
        world.node(B).reads.len(),
        1,
        "what is asked for in vain is counted, and whoever asks too often is cut off"
    );
    world.settle();
    assert_eq!(world.node(A).log.end(), world.node(B).log.end());
}

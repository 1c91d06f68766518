//! A leader without a majority, by hand, and against all that may happen to it.

use super::replica_test::{A, B, C, World};
use super::{Input, Phase, ReadTicket};
use crate::model::control_record::majority_of;
use crate::model::limits::QUORUM_LOST_AFTER_DEFAULT as BOUND;
use crate::model::{Assignment, DirectoryId, Epoch, Lsn, Message, NodeId};
use proptest::prelude::*;
use std::time::Duration;

/// Lets this much time pass for node A from `now` on, which is given every tick that it asks for, as it asks for it.
fn pass(world: &mut World, now: &mut Duration, time: Duration) {
    let until = *now + time;
    while let Some(at) = world.node(A).replica.next_tick().filter(|at| *at <= until) {
        *now = at.max(*now);
        world.node(A).step(Input::Tick(*now));
    }
    *now = until;
}

/// What was said of its leadership and of reads since the last time.
fn said(world: &mut World) -> Vec<String> {
    let said = std::mem::take(&mut world.node(A).said);
    said.into_iter().filter(|said| !said.starts_with("Commit")).collect()
}

fn stepped_down(epoch: Epoch, reason: &str) -> String {
    format!("SteppedDown {{ epoch: {epoch:?}, reason: {reason} }}")
}

fn serving() -> (World, Epoch) {
    let mut world = World::new();
    let epoch = world.elect(A);
    world.node(A).said.clear();
    (world, epoch)
}

fn cut_all(world: &mut World) {
    world.cut(A, B);
    world.cut(A, C);
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn an_idle_leader_that_has_its_majority_asks_for_no_tick_and_neither_does_a_follower() {
    let (mut world, _) = serving();
    assert_eq!([A, B, C].map(|id| world.node(id).replica.next_tick()), [None; 3]);
    world.cut(A, B);
    assert_eq!(world.node(A).replica.next_tick(), None, "two of three are a majority");
    world.propose(A, "something to wait for");
    assert!(world.node(A).replica.next_tick().is_some());
    world.settle();
    assert_eq!(world.node(A).replica.next_tick(), None);
}

#[test]
fn n2_a_leader_that_loses_its_voters_leads_for_the_bound_and_at_most_a_quarter_longer() {
    let (mut world, epoch) = serving();
    let mut now = ms(1_000_000);
    cut_all(&mut world);
    pass(&mut world, &mut now, BOUND - ms(1));
    assert_eq!(said(&mut world), [""; 0]);
    pass(&mut world, &mut now, BOUND / 4 + ms(1));
    assert_eq!(said(&mut world), [stepped_down(epoch, "VotersAway")]);
    assert_eq!((world.node(A).replica.phase(), world.node(A).replica.next_tick()), (None, None));
}

#[test]
fn voters_that_come_back_in_time_are_given_the_whole_bound_again() {
    let (mut world, _) = serving();
    let mut now = ms(0);
    for _ in 0..10 {
        cut_all(&mut world);
        pass(&mut world, &mut now, BOUND - ms(1));
        world.connect(A, C);
        pass(&mut world, &mut now, ms(7));
        world.settle();
    }
    assert_eq!(said(&mut world), [""; 0]);
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
}

#[test]
fn n3_a_leader_whose_writes_no_majority_makes_durable_steps_down_though_all_are_connected() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    world.propose(A, "B and C take it, and their disks hang");
    world.deliver();
    world.node(A).sync();
    pass(&mut world, &mut now, BOUND + BOUND / 4);
    assert_eq!(said(&mut world), [stepped_down(epoch, "NothingDurable")]);
}

#[test]
fn n3_a_leader_whose_reads_nobody_confirms_steps_down_and_refuses_them() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    world.node(A).step(Input::Read(ReadTicket(1)));
    world.node(A).step(Input::Read(ReadTicket(2)));
    pass(&mut world, &mut now, BOUND + BOUND / 4);
    let refused = "ReadsRefused { up_to: ReadTicket(2) }".to_owned();
    assert_eq!(said(&mut world), [refused, stepped_down(epoch, "NothingConfirmed")]);
}

/// A follower whose disk hangs answers reads all the same: they must not keep a leader whose writes wait for ever.
/// Nobody reads at the leader itself: a follower has asked, and others wait for its answer.
#[test]
fn n3_a_leader_whose_followers_reads_nobody_confirms_steps_down_and_tells_them() {
    let (mut world, epoch) = serving();
    world.node(A).step(Input::Message { from: C, message: Message::ReadIndex { epoch, number: 7 } });
    world.node(A).sent.clear();
    pass(&mut world, &mut ms(0), BOUND * 2);
    assert_eq!(said(&mut world), [stepped_down(epoch, "NothingConfirmed")]);
    let told = Message::ReadIndexed { epoch, number: 7, index: None };
    assert!(world.node(A).sent.contains(&(C, told)), "{:?}", world.node(A).sent);
}

/// Who is gone waits for nothing; and what was asked behind its question is asked for now.
#[test]
fn a_leader_does_not_step_down_for_the_reads_of_a_follower_that_is_gone() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    let asks = |world: &mut World| {
        world.node(A).step(Input::Message { from: C, message: Message::ReadIndex { epoch, number: 7 } });
        world.node(A).sent.clear();
    };
    asks(&mut world);
    world.cut(A, C);
    pass(&mut world, &mut now, BOUND * 2);
    assert_eq!((said(&mut world), world.node(A).replica.next_tick()), (Vec::new(), None));
    world.connect(A, C);
    world.settle();
    asks(&mut world);
    world.node(A).step(Input::Read(ReadTicket(1)));
    world.cut(A, C);
    let asked = world.node(A).sent.iter().any(|(to, sent)| *to == B && matches!(sent, Message::Confirm { .. }));
    assert!(asked, "{:?}", world.node(A).sent);
    world.settle();
    assert!(said(&mut world).iter().any(|said| said.starts_with("ReadsConfirmed")));
}

#[test]
fn d26_reads_that_are_confirmed_do_not_excuse_writes_that_wait() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    world.propose(A, "one");
    for ticket in 1..=100 {
        world.node(A).step(Input::Read(ReadTicket(ticket)));
        world.deliver();
        pass(&mut world, &mut now, BOUND / 50);
    }
    let ends: Vec<_> = said(&mut world).into_iter().filter(|said| said.starts_with("Stepped")).collect();
    assert_eq!(ends, [stepped_down(epoch, "NothingDurable")]);
}

/// The others committed without it, and it led on, with connections that stood: nobody heard of a write from it again.
#[test]
fn d26_a_leader_whose_own_disk_hangs_steps_down_though_the_others_commit_all_it_writes() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    for round in 0..8 {
        world.propose(A, "its disk hangs");
        world.deliver();
        world.node(B).sync();
        world.node(C).sync();
        world.deliver_to(A);
        assert_eq!(world.committed(A), round + 2, "two of three are a majority");
        pass(&mut world, &mut now, BOUND / 8);
    }
    pass(&mut world, &mut now, BOUND / 4 + ms(1));
    assert_eq!(said(&mut world), [stepped_down(epoch, "OwnDiskHangs")]);
}

/// D16: what the others committed can't be read here for the state, and whoever was asked for it never answers. Its voters are
/// connected, and nothing waits for them.
#[test]
fn d16_a_serving_leader_whose_state_can_not_get_over_damage_steps_down_and_says_why() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    world.propose(A, "two");
    world.deliver();
    world.node(A).sync();
    world.node(A).rot(&[2]);
    world.node(A).sent.clear();
    for id in [B, C] {
        world.node(id).sync();
    }
    world.deliver_to(A);
    let leader = &world.node(A).replica;
    let positions = [leader.end().lsn, leader.committed(), leader.applicable()];
    assert_eq!(positions, [2, 2, 1].map(Lsn::new), "the others held it, and nothing waits for them");
    pass(&mut world, &mut now, BOUND - ms(1));
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving), "somebody may yet be mended");
    pass(&mut world, &mut now, BOUND / 4 + ms(1));
    assert_eq!(said(&mut world), [stepped_down(epoch, "Damaged")]);
}

#[test]
fn a_leader_whose_own_disk_is_slow_leads_on_as_long_as_it_gets_anywhere() {
    let (mut world, _) = serving();
    let mut now = ms(0);
    for _ in 0..10 {
        world.propose(A, "slow");
        world.deliver();
        world.node(B).sync();
        world.node(C).sync();
        world.deliver_to(A);
        pass(&mut world, &mut now, BOUND - ms(1));
        world.node(A).sync();
    }
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
}

#[test]
fn a_leader_whose_writes_come_on_leads_on_however_slowly() {
    let (mut world, _) = serving();
    let mut now = ms(0);
    world.propose(A, "first");
    for round in 0..20 {
        world.deliver();
        world.node(A).sync();
        world.propose(A, "another"); // Something always waits.
        pass(&mut world, &mut now, BOUND - ms(1));
        world.node(C).sync();
        world.deliver_to(A);
        assert_eq!(world.committed(A), round + 2, "one of two");
    }
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
}

#[test]
fn a_leader_whose_reads_are_confirmed_leads_on_however_slowly() {
    let (mut world, _) = serving();
    let mut now = ms(0);
    world.node(A).step(Input::Read(ReadTicket(0)));
    for ticket in 1..20 {
        world.node(A).step(Input::Read(ReadTicket(ticket))); // It waits for the next round.
        pass(&mut world, &mut now, BOUND - ms(1));
        world.hop();
        world.hop();
        assert_eq!(said(&mut world).len(), 1, "a round is confirmed");
    }
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
}

#[test]
fn i1_i7_whoever_stepped_down_commits_and_confirms_nothing_and_keeps_its_log_and_its_promise() {
    let (mut world, epoch) = serving();
    let mut now = ms(0);
    world.propose(A, "in doubt");
    world.node(A).step(Input::Read(ReadTicket(1)));
    world.deliver();
    world.node(A).sync();
    let before = (world.committed(A), world.node(A).replica.promise(), world.node(A).replica.end());
    pass(&mut world, &mut now, BOUND * 2);
    said(&mut world);
    // What the others had to say comes now.
    world.settle();
    for from in [B, C] {
        for message in [Message::Appended { epoch, durable: Lsn::new(2) }, Message::Confirmed { epoch, round: 1 }] {
            world.node(A).step(Input::Message { from, message });
        }
    }
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.node(A).step(Input::Read(ReadTicket(2)));
    pass(&mut world, &mut now, BOUND * 2);
    assert_eq!(said(&mut world), ["ReadsRefused { up_to: ReadTicket(2) }"]);
    let after = (world.committed(A), world.node(A).replica.promise(), world.node(A).replica.end());
    assert_eq!((after, world.node(A).replica.proposal_position()), (before, None));
}

#[test]
fn i2_whoever_stepped_down_never_leads_that_epoch_again_and_loses_nothing_by_a_newer_one() {
    let mut world = World::new();
    let assignment = world.assign(A);
    let epoch = assignment.epoch;
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.settle();
    world.propose(A, "held by all, and known to nobody");
    world.deliver();
    for id in [B, C] {
        world.node(id).sync();
    }
    world.node(A).sent.clear();
    cut_all(&mut world);
    pass(&mut world, &mut ms(0), BOUND * 2);
    said(&mut world);
    world.node(A).step(Input::Assign(assignment));
    assert_eq!(said(&mut world), [format!("Superseded {{ promised: {epoch:?} }}")]);
    assert_eq!(world.node(A).replica.phase(), None);
    for peer in [B, C] {
        world.connect(A, peer);
    }
    world.elect(B);
    assert_eq!([A, B, C].map(|id| world.committed(id)), [3; 3], "its write among them");
}

#[test]
fn an_assignment_that_gets_no_quorum_ends_and_one_that_waits_for_the_control_plane_does_not() {
    for phase in [Phase::Fencing, Phase::Starting] {
        let mut world = World::new();
        let epoch = world.assign(A).epoch;
        if phase == Phase::Starting {
            world.settle_promises();
        }
        assert_eq!(world.node(A).replica.phase(), Some(phase));
        pass(&mut world, &mut ms(0), BOUND + BOUND / 4);
        assert_eq!(said(&mut world), [stepped_down(epoch, "NothingDurable")], "{phase:?}");
    }
    let mut world = World::new();
    world.assign(A);
    world.settle();
    assert_eq!(world.node(A).replica.next_tick(), None, "no voter can do anything about it");
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
}

#[test]
fn a_leader_that_fetches_a_large_log_is_given_the_bound_for_each_answer() {
    let (mut world, _) = serving();
    world.cut(A, B);
    for _ in 0..10 {
        world.propose(A, "more");
    }
    world.settle();
    world.node(B).said.clear();
    world.cut(A, C);
    world.connect(B, C);
    let epoch = world.assign(B).epoch;
    world.node(B).sync();
    world.deliver_to(C);
    world.node(C).sync();
    world.deliver_to(B);
    assert!(matches!(world.node(B).replica.phase(), Some(Phase::Adopting { .. })));
    let batches = world.node(C).log.batches.clone();
    let mut now = ms(0);
    for batch in batches.into_iter().filter(|batch| batch.first_lsn() > Lsn::new(1)) {
        while let Some(at) = world.node(B).replica.next_tick().filter(|at| *at < now + BOUND) {
            world.node(B).step(Input::Tick(at.max(now)));
        }
        now += BOUND;
        let after = world.node(B).replica.end();
        let message = Message::Fetched { epoch, after, batches: vec![batch] };
        world.node(B).step(Input::Message { from: C, message });
    }
    assert_eq!(world.node(B).replica.phase(), Some(Phase::Starting), "{:?}", world.node(B).said);
}

/// Nobody could lead in its place; and what its own disk does is no question of a quorum.
#[test]
fn a_leader_that_is_the_only_voter_is_never_without_a_majority_but_may_be_while_it_fences_others() {
    for fence in [vec![A], vec![A, B, C]] {
        let mut world = World::new();
        cut_all(&mut world);
        let fence_quorum = majority_of(fence.len());
        let directories = fence.iter().map(|id| (*id, DirectoryId::default())).collect();
        let alone =
            Assignment { voters: vec![A], fence: fence.clone(), fence_quorum, directories, ..world.assignment(A) };
        let epoch = alone.epoch;
        world.node(A).step(Input::Assign(alone));
        if fence.len() > 1 {
            pass(&mut world, &mut ms(0), BOUND * 2);
            assert_eq!(said(&mut world), [stepped_down(epoch, "VotersAway")]);
            continue;
        }
        assert_eq!(world.node(A).replica.next_tick(), None, "its disk is slow");
        world.settle();
        world.node(A).step(Input::ActivationAccepted(epoch));
        world.propose(A, "and slow again");
        world.node(A).step(Input::Read(ReadTicket(1)));
        assert_eq!(world.node(A).replica.next_tick(), None);
    }
}

#[test]
fn p4_a_process_that_stood_still_hears_the_others_before_it_gives_up() {
    let (mut world, _) = serving();
    let mut now = ms(0);
    world.propose(A, "one");
    pass(&mut world, &mut now, ms(100));
    now += Duration::from_secs(3_600);
    world.node(A).step(Input::Tick(now));
    assert_eq!(said(&mut world), [""; 0], "an hour in which it heard nothing counts as half of the bound");
    world.settle();
    assert_eq!(world.node(A).replica.next_tick(), None);
}

/// One thing that may happen to a leader of three.
#[derive(Debug, Clone, Copy)]
enum Move {
    Cut(bool),
    Connect(bool),
    Write,
    Read,
    Deliver,
    Sync(u8),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        any::<bool>().prop_map(Move::Cut),
        any::<bool>().prop_map(Move::Connect),
        Just(Move::Write),
        Just(Move::Read),
        Just(Move::Deliver),
        (0..3_u8).prop_map(Move::Sync),
        (1..6_000_u64).prop_map(Move::Pass),
        (1..500_u64).prop_map(Move::Pass),
    ];
    proptest::collection::vec(one, 1..80)
}

/// Since when each of the four waits has lasted, exactly.
#[derive(Debug, Default)]
struct Exact {
    waits: [Option<(Duration, u64)>; 4],
}

impl Exact {
    fn look(&mut self, now: Duration, at: [Option<u64>; 4]) {
        for (wait, at) in self.waits.iter_mut().zip(at) {
            match at {
                None => *wait = None,
                Some(reached) if wait.is_none_or(|(_, before)| before != reached) => *wait = Some((now, reached)),
                Some(_) => {}
            }
        }
    }

    fn longest(&self, now: Duration) -> Duration {
        self.waits.iter().flatten().map(|(since, _)| now - *since).max().unwrap_or_default()
    }
}

proptest! {
    #[test]
    fn a_leader_steps_down_when_a_wait_has_lasted_the_bound_and_never_leads_a_quarter_longer(moves in moves()) {
        let (mut world, _) = serving();
        let (mut now, mut exact, mut ticket, mut answered) = (ms(0), Exact::default(), 0, 0);
        let mut connected = [true, true];
        for step in moves {
            match step {
                Move::Cut(c) if std::mem::take(&mut connected[usize::from(c)]) => world.cut(A, if c { C } else { B }),
                Move::Connect(c) if !std::mem::replace(&mut connected[usize::from(c)], true) => {
                    world.connect(A, if c { C } else { B });
                }
                Move::Write => world.propose(A, "x"),
                Move::Read => {
                    ticket += 1;
                    world.node(A).step(Input::Read(ReadTicket(ticket)));
                }
                Move::Deliver => world.deliver(),
                Move::Sync(at) => world.node([A, B, C][usize::from(at)]).sync(),
                Move::Pass(millis) => pass(&mut world, &mut now, ms(millis)),
                _ => {}
            }
            for line in said(&mut world) {
                if let Some(rest) = line.strip_prefix("ReadsConfirmed { up_to: ReadTicket(") {
                    answered = rest.split(')').next().and_then(|number| number.parse().ok()).unwrap_or(answered);
                }
            }
            let replica = &world.node(A).replica;
            if replica.phase().is_none() {
                // It gave up at one of its ticks in the time that has just passed.
                prop_assert!(exact.longest(now) >= BOUND, "{exact:?} at {now:?}");
                return Ok(());
            }
            let (committed, end) = (replica.committed().get(), replica.end().lsn.get());
            let durable = replica.durable().lsn.get();
            let away = connected == [false; 2];
            exact.look(now, [
                away.then_some(0),
                (committed < end).then_some(committed),
                (durable < committed).then_some(durable),
                (answered < ticket).then_some(answered),
            ]);
            prop_assert!(exact.longest(now) < BOUND + BOUND / 4, "{exact:?} at {now:?}");
        }
    }
}

/// What such a follower lacks is read at once; for others it is read as those who write leave room for it.
#[test]
fn writes_wait_for_a_follower_that_is_behind_only_where_there_is_no_other_majority() {
    let mut world = World::new();
    world.cut(A, C);
    world.cut(B, C);
    let assigned = world.assign(A);
    assert!(world.node(A).replica.writes_need(B), "it does not serve yet");
    world.settle();
    world.node(A).step(Input::ActivationAccepted(assigned.epoch));
    world.propose(A, "two");
    world.settle();
    world.connect(A, C);
    let needs = |world: &mut World| [B, C].map(|follower| world.node(A).replica.writes_need(follower));
    assert_eq!(needs(&mut world), [true, false], "B has what is committed, and C has not");
    assert!(!world.node(A).replica.writes_need(NodeId::new(9)), "who has no vote");
    assert!(!world.node(B).replica.writes_need(C), "who does not lead");
    world.cut(A, B);
    assert_eq!(needs(&mut world), [true, true]);
    world.settle();
    assert_eq!(needs(&mut world), [false, true], "by now C has it");
    world.connect(A, B);
    world.settle();
    assert_eq!(needs(&mut world), [false, false]);
}

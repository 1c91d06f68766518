//! What is in doubt: whose the votes are, and what lies where a log is damaged and nothing of it is left by name. Nobody guesses.

use super::mend::{begins_by_state, first_boundary};
use super::replica_test::{A, B, C, World};
use super::snapshot_test::{release, serve};
use super::votes_test::{NEW, OLD, activate, empty, named, own_masters, with_an_old_disk_back};
use super::{Input, LogView as _, Phase, Promise, ReadPurpose, Replica};
use crate::model::limits::QUORUM_LOST_AFTER_DEFAULT as BOUND;
use crate::model::{
    Assignment, Chain, ControlRecord, DirectoryId, Epoch, EpochStart, LogPosition, Lsn, Message, NodeId,
};
use std::time::Duration;
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

/// What a leader says when all its time is over.
fn gives_up(world: &mut World, id: NodeId) -> Vec<String> {
    let (mut now, mut said) = (Duration::ZERO, Vec::new());
    while let Some(at) = world.node(id).replica.next_tick() {
        now = now.max(at);
        let node = world.node(id);
        said.extend(node.replica.step(1, Input::Tick(now), &node.log).iter().map(|output| format!("{output:?}")));
    }
    said
}

/// A has given C's new disk its vote, and acknowledged a write with it alone; C's old disk is back in its place, and reaches B.
fn put_back(b_reads_whose_the_votes_are: bool) -> (World, Epoch) {
    let mut world = with_an_old_disk_back();
    world.node(B).log.start_unread = !b_reads_whose_the_votes_are;
    world.node(B).step(Input::PeerUp(C, OLD));
    world.node(C).step(Input::PeerUp(B, OLD));
    let assignment = world.assignment(C);
    let epoch = assignment.epoch;
    world.node(C).step(Input::Assign(assignment));
    world.settle();
    (world, epoch)
}

/// The log of B is the best that C hears of, and the record that names the votes can't be read there. By C's own log both have one.
#[test]
fn i1_where_the_best_log_names_the_votes_and_they_are_not_told_nobody_is_counted() {
    let (mut world, _) = put_back(false);
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Fencing));
    let said = gives_up(&mut world, C);
    assert!(said.len() == 1 && said[0].contains("SteppedDown") && said[0].contains("Damaged"), "{said:?}");
    assert_eq!(world.node(B).log.batches.len(), 3);
}

/// An epoch has one start: whoever else has promised, and ends in that epoch, tells as well.
#[test]
fn votes_that_the_best_log_can_not_tell_are_told_by_another_of_the_same_epoch() {
    let (mut world, epoch) = put_back(false);
    world.node(A).log.start_unread = true;
    world.node(B).log.start_unread = false;
    world.node(A).step(Input::PeerUp(C, OLD));
    world.node(C).step(Input::PeerUp(A, OLD));
    // B is asked again.
    world.node(B).step(Input::Message { from: C, message: Message::Fence { epoch, leader: C } });
    world.settle();
    world.node(C).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!(
        (world.committed(C), world.committed(B)),
        (5, 5),
        "A has the best log, and B says by whom it is counted"
    );
}

/// A's log names everybody's disks, and these nodes came with other ones. Its start can't be read when A opens.
fn with_new_disks(ids: &[NodeId]) -> World {
    let mut world = own_masters();
    world.elect(A);
    world.propose(A, "one");
    world.settle();
    ids.iter().for_each(|id| empty(&mut world, *id));
    world.node(A).log.damaged = vec![Lsn::new(1)];
    world.node(A).crash(A);
    world.node(A).replica.own_master = true;
    let disk = |id: NodeId| if ids.contains(&id) { NEW } else { OLD };
    for (x, y) in [(B, C), (C, B), (A, B), (A, C)] {
        world.node(x).step(Input::PeerUp(y, disk(y)));
    }
    world
}

/// An assignment of A's that founds: it names the disks that are here, and takes every voter.
fn founding(world: &mut World, disks: &[(NodeId, DirectoryId)]) -> Assignment {
    Assignment { directories: named(disks), founding: true, fence_quorum: 3, ..world.assignment(A) }
}

/// Its log has records, and can't say whose the votes are: that is no log of which nothing is known. Those that it would found
/// with are two empty disks.
#[test]
fn i1_nobody_founds_on_a_log_whose_votes_it_can_not_read_nor_on_one_that_says_them() {
    let disks = [(A, OLD), (B, NEW), (C, NEW)];
    let mut world = with_new_disks(&[B, C]);
    let unread = founding(&mut world, &disks);
    activate(&mut world, A, unread);
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing));
    // It can be read, and names two disks that are gone: what they acknowledged is not here.
    world.node(A).log.damaged.clear();
    world.node(A).step(Input::DamageFound { read: Lsn::ZERO });
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing), "counted by what is read by now");
    let read = founding(&mut world, &disks);
    activate(&mut world, A, read);
    assert_eq!((world.node(A).replica.phase(), world.node(A).log.batches.len()), (Some(Phase::Fencing), 2));
    let said = gives_up(&mut world, A);
    assert!(said.len() == 1 && said[0].contains("SteppedDown"), "{said:?}");
}

/// The last voter is here before what names the votes is mended: the epoch is counted by those, and replaces nobody's disk.
#[test]
fn i1_an_epoch_that_was_to_found_on_what_is_mended_meanwhile_is_counted_by_that() {
    let mut world = with_new_disks(&[C]);
    let held = hold_mends(&mut world, A);
    assert!(!held.is_empty());
    let unread = founding(&mut world, &[(A, OLD), (B, OLD), (C, NEW)]);
    let epoch = unread.epoch;
    activate(&mut world, A, unread);
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing));
    held.into_iter().for_each(|(to, message)| world.node(to).step(Input::Message { from: A, message }));
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving));
    let start = world.node(A).log.last_start().unwrap();
    assert_eq!((start.assignment.epoch, start.assignment.founding), (epoch, false));
    assert_eq!(start.assignment.directories, named(&[(A, OLD), (B, OLD), (C, OLD)]));
}

/// As of the release that wrote no disks: that is founded on, and so is one that names too few to be counted.
#[test]
fn a_log_that_names_too_few_disks_is_founded_on() {
    for disks in [&[][..], &[(A, OLD)]] {
        let mut world = own_masters();
        let assignment = Assignment { directories: named(disks), ..world.assignment(A) };
        let Assignment { epoch, log, .. } = assignment;
        let parent = LogPosition::origin(log);
        let raw = ControlRecord::EpochStart(EpochStart { assignment, parent }).encode().unwrap();
        let block = Block::encode(raw, 1, Compression::Never);
        let batch = BatchBuilder::new(log, BatchKind::Control, epoch, parent, 0).block(block).seal().unwrap();
        let node = world.node(A);
        (node.log.batches, node.log.durable) = (vec![batch], 1);
        let promise = Promise { epoch, leader: Some(A), disk: None };
        node.replica = Replica::open(A, log, promise, Lsn::ZERO, &node.log).with_own_master();
        [B, C].into_iter().for_each(|peer| node.step(Input::PeerUp(peer, OLD)));
        let founding = founding(&mut world, &[(A, OLD), (B, OLD), (C, OLD)]);
        activate(&mut world, A, founding);
        assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving), "{disks:?}");
    }
}

/// What was on its way to one node and asks for what is damaged: held back.
fn hold_mends(world: &mut World, id: NodeId) -> Vec<(NodeId, Message)> {
    let sent = std::mem::take(&mut world.node(id).sent);
    let (held, rest) = sent.into_iter().partition(|(_, message)| matches!(message, Message::MendWanted { .. }));
    world.node(id).sent = rest;
    held
}

fn ends(world: &mut World) -> [u64; 3] {
    [A, B, C].map(|id| world.node(id).log.end().lsn.get())
}

fn whole_and_equal(world: &mut World) {
    let led = world.node(A).log.batches.clone();
    for id in [A, B, C] {
        assert_eq!(world.node(id).replica.damaged(), []);
        assert_eq!(world.node(id).log.batches, led, "node {id}");
    }
}

/// Epoch 1 is LSN 1 to 4, epoch 2 is 5 to 8, everywhere; C, which led it, has 9 as well. Nobody's state has anything.
fn two_epochs() -> World {
    let mut world = World::new();
    world.elect(A);
    for text in ["two", "three", "four"] {
        world.propose(A, text);
        world.settle();
    }
    world.elect(C);
    for text in ["six", "seven", "eight"] {
        world.propose(C, text);
        world.settle();
    }
    world.cut(A, C);
    world.cut(B, C);
    world.propose(C, "nine");
    world.settle();
    assert_eq!(ends(&mut world), [8, 8, 9]);
    [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
    world
}

/// The best log does not know where its last epoch begins, and names the first LSN of it that is left.
#[test]
fn i1_a_new_leader_cuts_nothing_off_because_damage_hides_where_an_epoch_begins() {
    let mut world = two_epochs();
    world.node(C).lose_names(C, &[5, 6]);
    assert_eq!(world.node(C).log.epochs()[1].1, Lsn::new(7), "the first that is known");
    world.connect(A, C);
    let held = hold_mends(&mut world, C);
    assert!(!held.is_empty());
    let epoch = world.assign(A).epoch;
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing), "C may lack what counted");
    world.connect(A, B);
    world.connect(B, C);
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.settle();
    assert_eq!(ends(&mut world), [10, 10, 9], "it took over what C alone had, and nobody dropped anything");
    held.into_iter().for_each(|(to, message)| world.node(to).step(Input::Message { from: C, message }));
    world.settle();
    whole_and_equal(&mut world);
}

/// C leads an epoch whose start nobody else has; A and B have all of epoch 2, of which nothing is left at C.
fn an_epoch_is_lost() -> World {
    let mut world = World::new();
    world.elect(A);
    for text in ["two", "three", "four"] {
        world.propose(A, text);
        world.settle();
    }
    world.elect(B);
    world.propose(B, "six");
    world.settle();
    world.assign(C);
    world.settle_promises();
    world.node(C).sync();
    assert_eq!(world.node(C).log.durable, 7);
    [(A, B), (A, C), (B, C)].into_iter().for_each(|(x, y)| world.cut(x, y));
    [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
    assert_eq!(ends(&mut world), [6, 6, 7]);
    world.node(C).lose_names(C, &[5, 6]);
    world
}

/// Of what lies between two epochs that it knows, the best log knows nothing. It may be what this one has.
#[test]
fn i1_a_new_leader_cuts_nothing_off_where_the_best_log_does_not_know_what_it_held() {
    let mut world = an_epoch_is_lost();
    world.connect(A, C);
    let held = hold_mends(&mut world, C);
    let epoch = world.assign(A).epoch;
    world.settle();
    world.connect(A, B);
    world.connect(B, C);
    world.settle_promises();
    assert!(matches!(world.node(A).replica.phase(), Some(Phase::Adopting { .. } | Phase::Starting)), "it asks");
    assert_eq!(world.node(A).log.batches.len(), 8, "what is behind the damage continues its own log");
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.settle();
    held.into_iter().for_each(|(to, message)| world.node(to).step(Input::Message { from: C, message }));
    world.settle();
    assert_eq!(ends(&mut world), [8, 8, 8], "the start of epoch 3 is taken over");
    whole_and_equal(&mut world);
}

/// As before; and what is behind the damage can't be read either: it waits, and nothing is cut off, until others have mended that.
#[test]
fn i1_a_new_leader_cuts_nothing_off_while_nobody_can_tell_what_the_best_log_held() {
    let mut world = an_epoch_is_lost();
    world.node(C).log.damaged.push(Lsn::new(7));
    world.node(C).crash(C);
    world.connect(A, C);
    world.assign(A);
    world.settle();
    world.connect(A, B);
    world.connect(B, C);
    world.settle();
    assert!(matches!(world.node(A).replica.phase(), Some(Phase::Adopting { .. })), "it waits");
    assert_eq!(ends(&mut world), [6, 6, 7]);
    assert!(gives_up(&mut world, A).iter().any(|said| said.contains("Damaged")));
}

/// Neither can read the last record of an epoch, and only B knows another one behind it. If A cut off its place, B alone would say that
/// there was a record, which was committed; and B may be away the next time.
#[test]
fn i1_a_new_leader_keeps_the_place_of_what_neither_it_nor_the_best_log_can_read() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "two");
    world.settle();
    world.assign(B);
    world.settle_promises();
    world.node(B).sync();
    [(A, B), (A, C), (B, C)].into_iter().for_each(|(x, y)| world.cut(x, y));
    [A, B].into_iter().for_each(|id| world.node(id).log.damaged = vec![Lsn::new(2)]);
    [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
    world.connect(A, B);
    let epoch = world.assign(A).epoch;
    world.settle();
    assert_eq!((ends(&mut world), world.node(A).replica.phase()), ([2, 3, 2], Some(Phase::Mending)));
    world.connect(A, C);
    world.connect(B, C);
    world.settle();
    world.node(A).step(Input::ActivationAccepted(epoch));
    world.settle();
    whole_and_equal(&mut world);
    assert_eq!(ends(&mut world), [4, 4, 4]);
}

/// Each of these begins an epoch, of which the other one has heard, and nobody has anything.
pub(super) fn begin_alone(world: &mut World, leaders: [(NodeId, NodeId); 2]) {
    for (leader, other) in leaders {
        world.connect(leader, other);
        world.assign(leader);
        world.deliver();
        world.sync_all();
        world.deliver_to(leader);
        world.node(leader).sync();
        world.cut(leader, other);
    }
}

/// All have what the first one wrote; then these begin epochs alone, and all restart, apart.
pub(super) fn parted(first: NodeId, leaders: [(NodeId, NodeId); 2]) -> World {
    let mut world = World::new();
    world.elect(first);
    world.propose(first, "two");
    world.settle();
    [(A, B), (A, C), (B, C)].into_iter().for_each(|(x, y)| world.cut(x, y));
    begin_alone(&mut world, leaders);
    [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
    world
}

/// As before; but B can read it, and A, which can't, knows it by name. If A cut it off, and fetched it again, it would tell of nothing in
/// between, and C might lead with it. B may have more of that epoch than A.
#[test]
fn i1_a_new_leader_keeps_what_it_can_not_read_and_the_best_log_has_until_that_has_given_it() {
    for (has_more, has_names) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut world = World::new();
        world.elect(B);
        world.cut(A, C);
        world.cut(B, C);
        world.propose(B, "two");
        world.settle();
        assert_eq!((ends(&mut world), world.committed(B)), ([2, 2, 1], 2));
        let two = world.node(A).log.batches[1].clone();
        world.cut(A, B);
        if has_more {
            world.propose(B, "three");
            world.settle();
        }
        begin_alone(&mut world, [(A, C), (B, C)]);
        assert_eq!(ends(&mut world), [3, 3 + u64::from(has_more), 1]);
        [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
        if !has_names {
            // Nor is it known by name what was there, as of a part of a footer that rots: but an open came upon nothing, so it is in no doubt.
            world.node(A).log.hidden = vec![Lsn::new(2)];
        }
        world.node(A).rot(&[2]);
        world.connect(A, B);
        world.assign(A);
        if has_names {
            while world.node(A).log.batches.len() == 3 && world.hop() {
                world.sync_all();
            }
            assert_eq!(ends(&mut world)[0], 2, "its own epoch lost, and nothing else");
        } else {
            world.node(A).sync();
            world.deliver_to(B);
            world.node(B).sync();
            world.deliver_to(A);
            let asks = |(to, message): &(NodeId, Message)| *to == B && matches!(message, Message::Fetch { .. });
            assert!(world.node(A).sent.iter().any(asks), "{:?}", world.node(A).sent);
            assert_eq!(ends(&mut world)[0], 3, "nothing is cut off before what was there is here");
        }
        world.cut(A, B);
        world.node(A).sync();
        world.connect(A, C);
        world.assign(C);
        world.settle();
        let begun = world.node(C).log.batches.get(1).cloned();
        assert!(begun.is_none_or(|batch| batch == two), "nothing is begun in the place of a record that counted");
        // Until B is there: it has it.
        world.connect(B, C);
        world.connect(A, B);
        world.settle();
        let epoch = world.node(C).replica.promise().epoch;
        world.node(C).step(Input::ActivationAccepted(epoch));
        world.settle();
        whole_and_equal(&mut world);
        assert_eq!(world.node(A).log.batches[1], two);
    }
}

/// The names of a part of its log can't be read at this moment, as of a segment whose footer the device refuses. That is no damage, and
/// was taken for a log without them.
#[test]
fn i1_a_new_leader_cuts_nothing_off_because_its_disk_does_not_say_what_is_there() {
    let mut world = parted(B, [(A, C), (B, C)]);
    world.node(A).log.hidden = vec![Lsn::new(2)];
    world.connect(A, B);
    world.assign(A);
    world.settle();
    assert_eq!(ends(&mut world)[0], 3, "nothing was cut off");
    world.node(A).log.hidden.clear();
    world.connect(A, C);
    world.settle();
    assert_eq!(
        world.node(A).replica.phase(),
        Some(Phase::Activating),
        "whoever promises next is a reason to look again"
    );
    assert_eq!(ends(&mut world)[0], 4);
}

/// What it can't read lost: it waited for it all the same, until it gave up.
#[test]
fn a_leader_that_waits_for_what_it_can_not_read_hears_of_a_better_log_in_which_something_else_is() {
    let mut world = parted(A, [(A, C), (B, C)]);
    assert_eq!(ends(&mut world), [3, 3, 2]);
    world.node(A).rot(&[3]);
    world.connect(A, C);
    world.assign(A);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Mending), "nobody has it");
    world.connect(A, B);
    world.settle();
    assert_eq!((world.node(A).replica.phase(), ends(&mut world)[0]), (Some(Phase::Activating), 4));
    assert_eq!(world.node(A).replica.damaged(), []);
}

/// Another one, whose disk hangs, has it as well, and would be asked first.
#[test]
fn a_new_leader_asks_the_one_whose_log_it_takes_over_for_what_it_can_not_read() {
    let mut world = parted(C, [(A, B), (C, B)]);
    assert_eq!(ends(&mut world), [3, 2, 3]);
    world.node(A).rot(&[2]);
    world.connect(A, B);
    world.connect(A, C);
    world.assign(A);
    let mut asked = Vec::new();
    for _ in 0..20 {
        // B answers no such question.
        asked.extend(hold_mends(&mut world, A).into_iter().map(|(to, message)| {
            if to == C {
                world.node(C).step(Input::Message { from: A, message });
            }
            to
        }));
        world.hop();
        world.sync_all();
    }
    assert!(asked.contains(&C), "{asked:?}");
    assert_eq!((world.node(A).replica.phase(), ends(&mut world)[0]), (Some(Phase::Activating), 4));
}

fn talk_to_the_end(world: &mut World) {
    for _ in 0..40 {
        let sent: usize = [A, B, C].map(|id| world.node(id).sent.len()).iter().sum();
        assert!(sent < 20, "no endless conversation");
        world.hop();
        world.sync_all();
        serve(world);
    }
    assert!(!world.hop(), "no endless conversation");
}

/// The epoch in which C's log ends is in its leader's as well, and ends there within C's damage.
#[test]
fn a_follower_is_fed_from_before_damage_in_which_its_leaders_log_parts_from_its_own() {
    let mut world = two_epochs();
    world.connect(A, B);
    world.elect(A);
    world.node(C).lose_names(C, &[7, 8]);
    assert_eq!(ends(&mut world), [9, 9, 9], "each with another record");
    world.connect(A, C);
    world.connect(B, C);
    talk_to_the_end(&mut world);
    whole_and_equal(&mut world);
    assert_eq!(ends(&mut world), [9, 9, 9]);
}

/// A and B lead without C: what C has behind the damage lost. Its leader's position lies in that damage, of which C can't say anything.
#[test]
fn a_follower_whose_damage_holds_its_leaders_position_is_fed_and_drops_what_lost() {
    // What lies behind the damage is there or not; what C's state has, durably, is less than what lies before it, or more.
    for (also_rots, applied) in [(None, 0), (None, 6), (Some(7), 0), (Some(7), 6)] {
        let mut world = an_epoch_is_lost();
        world.connect(A, B);
        world.elect(A);
        assert_eq!(ends(&mut world), [7, 7, 7], "each with another record");
        let node = world.node(C);
        node.log.damaged.extend(also_rots.map(Lsn::new));
        node.replica = Replica::open(C, node.log.id, node.replica.promise(), Lsn::new(applied), &node.log);
        world.connect(A, C);
        world.connect(B, C);
        talk_to_the_end(&mut world);
        whole_and_equal(&mut world);
        assert_eq!(ends(&mut world), [7, 7, 7]);
    }
}

/// The two logs part in what C lost, its leader has let go of all before that, and C's state needs it. What C can't say of its
/// leader's position it would say as often as it is asked: of each message that is on its way.
#[test]
fn a_follower_that_can_not_say_whether_its_leaders_position_fits_is_given_its_state() {
    for released in [7, 8] {
        let mut world = two_epochs();
        world.connect(A, B);
        world.elect(A);
        for text in ["ten", "eleven", "twelve"] {
            world.propose(A, text);
            world.settle();
        }
        [A, B].into_iter().for_each(|id| release(world.node(id), released));
        world.node(C).lose_names(C, &[7, 8]);
        let node = world.node(C);
        node.replica = Replica::open(C, node.log.id, node.replica.promise(), Lsn::new(3), &node.log);
        world.connect(A, C);
        world.connect(B, C);
        talk_to_the_end(&mut world);
        assert_eq!((ends(&mut world), world.committed(C)), ([12, 12, 12], 12), "{released}");
        assert_eq!(world.node(C).replica.damaged(), []);
    }
}

/// A leader sends what lies in a follower's damage in more than one message.
#[test]
fn a_follower_cuts_nothing_off_before_it_knows_that_what_is_behind_its_damage_lost() {
    let mut world = an_epoch_is_lost();
    world.connect(A, B);
    let epoch = world.elect(A);
    let fed = world.node(A).log.batches.clone();
    world.node(C).log.damaged.push(Lsn::new(7)); // Nor does that say what the damage leads to.
    world.node(C).crash(C);
    let node = world.node(C);
    node.step(Input::PeerUp(A, OLD));
    node.step(Input::Message { from: A, message: Message::Fence { epoch, leader: A } });
    node.sync();
    node.sent.clear();
    let append = |at: usize| Message::Append {
        epoch,
        prev: fed[at - 1].position(),
        commit: Lsn::ZERO,
        batches: vec![fed[at].clone()],
    };
    let says = |world: &mut World, message: Message| {
        world.node(C).step(Input::Message { from: A, message });
        std::mem::take(&mut world.node(C).sent)
    };
    says(&mut world, append(4));
    assert_eq!(says(&mut world, append(5)), [], "it has asked for what it can't read, and can't say yet");
    assert_eq!(ends(&mut world)[2], 7);
    // Its leader does not have what C has behind that.
    let after = fed[3].position();
    let said = says(&mut world, Message::Mend { epoch, after, batches: Vec::new() });
    assert!(matches!(said[..], [(A, Message::Mismatch { .. })]), "{said:?}");
    says(&mut world, append(4));
    assert_eq!((ends(&mut world)[2], world.node(C).replica.damaged()), (5, [].as_slice()));
}

fn sealed(behind: LogPosition, epoch: Epoch, text: &'static str, like: &Batch) -> Batch {
    let block = Block::encode(text.into(), 1, Compression::Never);
    BatchBuilder::new(like.log(), BatchKind::Data, epoch, behind, 1).block(block).seal().unwrap()
}

/// What B can't read, and the position behind which it is.
fn asks(world: &mut World) -> (Epoch, LogPosition, LogPosition) {
    let sent = std::mem::take(&mut world.node(B).sent);
    let asked = sent.into_iter().find_map(|(_, message)| match message {
        Message::MendWanted { epoch, after, to, .. } => Some((epoch, after, to)),
        _ => None,
    });
    asked.expect("it asks")
}

fn lost_by_b() -> (World, Vec<Batch>) {
    let mut world = two_epochs();
    world.node(B).lose_names(B, &[5, 6]);
    world.connect(A, B);
    let batches = world.node(A).log.batches.clone();
    (world, batches)
}

/// Of each of these the chain is right where it begins.
#[test]
fn i2_what_is_put_again_is_of_no_newer_epoch_and_leads_to_what_is_behind_it() {
    let (mut world, whole) = lost_by_b();
    let (epoch, after, to) = asks(&mut world);
    assert_eq!((after, to), (whole[3].position(), whole[6].position()), "the first that it knows");
    let newer = sealed(after, Epoch::new(epoch.version, 700), "newer", &whole[3]);
    world.node(B).step(Input::Message { from: A, message: Message::Mend { epoch, after, batches: vec![newer] } });
    assert_eq!((world.node(B).replica.mends_refused(), world.node(B).replica.damaged().len()), (1, 1));
    // A asks itself to be believed again.
    let nothing = Message::Damaged { epoch, ranges: Vec::new() };
    world.node(B).step(Input::Message { from: A, message: nothing });
    let (_, after, _) = asks(&mut world);
    let other = sealed(whole[4].position(), whole[4].epoch(), "other", &whole[3]);
    let batches = vec![whole[4].clone(), other];
    world.node(B).step(Input::Message { from: A, message: Message::Mend { epoch, after, batches } });
    assert_eq!(world.node(B).replica.mends_refused(), 2);
    world.settle();
    assert_eq!(world.node(B).replica.damaged(), []);
    assert_eq!(world.node(B).log.batches, whole);
}

#[test]
fn what_is_known_of_where_damage_ends_is_asked_for() {
    let (mut world, whole) = lost_by_b();
    world.node(B).log.has_footers = true;
    world.node(B).crash(B);
    world.node(B).step(Input::PeerUp(A, OLD));
    let (_, after, to) = asks(&mut world);
    assert_eq!((after, to), (whole[3].position(), whole[5].position()));
}

/// It had both positions when it was asked; when the disk answers it has dropped one.
#[test]
fn who_has_another_history_by_now_gives_nothing_of_what_it_read_for_a_peer() {
    let (mut world, whole) = lost_by_b();
    let (epoch, after, _) = asks(&mut world);
    let gone = LogPosition { chain: Chain::new(7), ..whole[5].position() };
    let gives = |world: &mut World, to| {
        let purpose = ReadPurpose::Mend { epoch, to };
        world.node(A).step(Input::LogRead { peer: B, purpose, after, batches: whole[4..6].to_vec() });
        match world.node(A).sent.pop() {
            Some((B, Message::Mend { batches, .. })) => batches.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gives(&mut world, whole[5].position()), 2);
    assert_eq!(gives(&mut world, gone), 0);
}

/// The best log has let go of what lies before a batch of two records that it can't read, behind which another epoch begins. Up to its first
/// LSN another log is certainly the same, and there no batch ends: it gives that batch, which is too much.
#[test]
fn a_new_leader_does_not_ask_again_and_again_for_what_does_not_help() {
    let mut world = World::new();
    world.elect(B);
    world.propose(B, "two");
    world.settle();
    world.cut(A, B);
    world.cut(A, C);
    let (epoch, prev) = world.node(B).replica.proposal_position().unwrap();
    let of = world.node(B).log.id;
    let block = Block::encode("three, four".into(), 2, Compression::Never);
    let batch = BatchBuilder::new(of, BatchKind::Data, epoch, prev, 1).block(block).seal().unwrap();
    world.node(B).step(Input::Propose(batch));
    world.settle();
    world.assign(B);
    world.settle_promises();
    world.node(B).sync();
    world.cut(B, C);
    world.node(B).log.damaged = vec![Lsn::new(3), Lsn::new(4)];
    release(world.node(B), 2);
    [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
    assert_eq!(ends(&mut world), [2, 5, 4]);
    [(A, B), (A, C), (B, C)].into_iter().for_each(|(x, y)| world.connect(x, y));
    let held = hold_mends(&mut world, B);
    world.assign(A);
    talk_to_the_end(&mut world);
    assert!(matches!(world.node(A).replica.phase(), Some(Phase::Adopting { .. })), "it waits");
    held.into_iter().for_each(|(to, message)| world.node(to).step(Input::Message { from: B, message }));
    talk_to_the_end(&mut world);
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
    assert_eq!(ends(&mut world), [6, 6, 6]);
}

/// A log that lost the end of a truncation: damage lies behind its end, where nobody looks for it.
#[test]
fn a_log_with_damage_behind_its_end_is_cut_off_there_before_it_takes_anything() {
    for leader in [A, C] {
        let mut world = World::new();
        world.elect(A);
        let of = world.node(C).log.end();
        world.node(C).lose_names(C, &[of.lsn.next().get()]);
        assert_eq!(world.node(C).replica.damaged(), [], "it is not the log's");
        [(A, C), (B, C)].into_iter().for_each(|(x, y)| world.cut(x, y));
        [(A, C), (B, C)].into_iter().for_each(|(x, y)| world.connect(x, y));
        world.elect(leader);
        whole_and_equal(&mut world);
        assert_eq!(ends(&mut world), [2, 2, 2]);
    }
}

/// B said that it has LSN 5, and can't read LSN 3 since.
#[test]
fn i1_what_a_follower_acknowledged_and_can_not_read_any_more_is_not_counted() {
    let mut world = World::new();
    world.elect(A);
    for text in ["two", "three", "four"] {
        world.propose(A, text);
        world.settle();
    }
    world.cut(A, C);
    world.cut(B, C);
    world.propose(A, "five");
    world.deliver();
    world.node(B).sync();
    world.deliver();
    assert_eq!(world.committed(A), 4, "its own disk lacks it");
    world.node(B).rot(&[3]);
    let held = hold_mends(&mut world, B);
    world.deliver();
    world.node(A).sync();
    assert_eq!(world.committed(A), 4, "one disk holds it whole");
    held.into_iter().for_each(|(to, message)| world.node(to).step(Input::Message { from: B, message }));
    world.settle();
    assert_eq!((world.committed(A), world.node(B).replica.damaged()), (5, [].as_slice()));
}

/// It could not read what its state needed next, for almost as long as it may; since then it waits for a majority, for a moment.
#[test]
fn a_leader_that_got_over_its_damage_is_not_measured_by_how_long_that_took() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "two");
    world.node(A).sync();
    world.node(A).rot(&[2]);
    let held = hold_mends(&mut world, A);
    world.settle();
    assert_eq!(world.committed(A), 2, "the others have it");
    let mut now = Duration::ZERO;
    let mut pass = |world: &mut World, until: Duration| {
        while let Some(at) = world.node(A).replica.next_tick().filter(|at| *at <= until) {
            now = now.max(at);
            world.node(A).step(Input::Tick(now));
        }
    };
    pass(&mut world, BOUND - Duration::from_millis(1));
    world.propose(A, "three");
    held.into_iter().for_each(|(to, message)| {
        world.node(to).step(Input::Message { from: A, message });
        world.node(to).answer_reads();
    });
    world.deliver_to(A);
    world.node(A).sync();
    assert_eq!(world.node(A).replica.damaged(), []);
    pass(&mut world, BOUND + BOUND / 2);
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Serving), "{:?}", world.node(A).said);
    // Otherwise it gives up, and says why.
    world.node(A).rot(&[3]);
    hold_mends(&mut world, A);
    world.settle();
    pass(&mut world, BOUND * 4);
    assert!(world.node(A).said.iter().any(|said| said.contains("reason: Damaged")), "{:?}", world.node(A).said);
}

#[test]
fn the_first_boundary_behind_an_lsn_is_found_among_few_and_many() {
    let at = |lsn: u64| LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(lsn), chain: Chain::new(lsn) };
    for known in [vec![0, 9], vec![0, 3, 9], vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9], vec![4, 5, 9], vec![9]] {
        let before = |lsn: Lsn| known.iter().rev().find(|known| **known <= lsn.get()).map(|known| at(*known));
        for lsn in 0..=9 {
            let right = *known.iter().find(|known| **known >= lsn).unwrap();
            assert_eq!(first_boundary(Lsn::new(lsn), at(9), before), at(right), "{lsn} in {known:?}");
        }
    }
}

#[test]
fn a_log_begins_by_the_states_word_where_nothing_else_names_a_position_in_damage() {
    let at = |lsn: u64| Some(LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(lsn), chain: Chain::new(lsn) });
    let damaged = [(Lsn::new(3), Lsn::new(5)), (Lsn::new(8), Lsn::new(8))];
    let begins = |state, known| begins_by_state(Lsn::new(state), known, &damaged);
    let right = [(2, at(1), false), (3, at(2), true), (4, None, true), (5, at(4), true), (5, at(5), false)];
    for (state, known, is_it) in right.into_iter().chain([(6, at(5), false), (8, at(7), true), (8, at(8), false)]) {
        assert_eq!(begins(state, known), is_it, "{state} behind {known:?}");
    }
}

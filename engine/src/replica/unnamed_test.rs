//! What a reader comes upon that can't be read, and of which no batch is known by name: nothing is in doubt, and nothing is lost.

use super::replica_test::{A, B, C, World};
use super::{Input, LogView as _, Output, Phase};
use crate::model::{Epoch, LogPosition, LogSummary, Lsn, Message, SnapshotId};
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

/// A and B have LSN 2 to 4, committed, and each the start of an epoch of its own behind that; C has the first record alone, and all are
/// apart. A can't read these, and has no name for them. Gives its log as it was, and an epoch before theirs that nobody began.
fn can_not_name(lost: &[u64]) -> (World, Vec<Batch>, Epoch) {
    let mut world = World::new();
    world.elect(B);
    world.cut(A, C);
    world.cut(B, C);
    for text in ["two", "three", "four"] {
        world.propose(B, text);
    }
    world.settle();
    assert_eq!(world.committed(B), 4);
    world.cut(A, B);
    let nobodys = world.assignment(C).epoch;
    super::doubt_test::begin_alone(&mut world, [(A, C), (B, C)]);
    [A, B, C].into_iter().for_each(|id| world.node(id).crash(id));
    let whole = world.node(A).log.batches.clone();
    world.node(A).log.hidden = lost.iter().map(|lsn| Lsn::new(*lsn)).collect();
    world.node(A).rot(lost);
    (world, whole, nobodys)
}

/// It asks B, whose log it takes over.
fn asks_for_what_has_no_name(lost: &[u64]) -> (World, Epoch, Vec<Batch>) {
    let (mut world, whole, _) = can_not_name(lost);
    world.connect(A, B);
    let epoch = world.assign(A).epoch;
    world.node(A).sync();
    world.deliver_to(B);
    world.node(B).sync();
    world.deliver_to(A);
    (world, epoch, whole)
}

/// What lies there behind what both have is another history, and the damage goes on.
#[test]
fn i2_nothing_is_put_again_but_what_both_logs_have() {
    let (mut world, epoch, whole) = asks_for_what_has_no_name(&[2, 3, 4, 5]);
    let theirs = world.node(B).log.batches.clone();
    assert_ne!(theirs[4], whole[4]);
    let fetched = Message::Fetched { epoch, after: whole[0].position(), batches: theirs[1..].to_vec() };
    world.node(A).step(Input::Message { from: B, message: fetched });
    assert_eq!((world.node(A).log.batches.clone(), world.node(A).log.damaged.clone()), (whole, vec![Lsn::new(5)]));
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
    assert_eq!(world.node(A).log.batches[..5], theirs[..5]);
}

/// All of it is put again before anything is cut off: also where one answer does not hold it all, and whoever gave it is gone then.
#[test]
fn i1_what_is_fetched_for_what_has_no_name_takes_the_place_of_nothing_else() {
    let (mut world, epoch, whole) = asks_for_what_has_no_name(&[2, 3, 4]);
    // Of what it asks for the first batch comes, and then B is gone.
    let after = whole[0].position();
    let asks = |(_, message): &(_, Message)| matches!(message, Message::Fetch { after: of, .. } if *of == after);
    assert!(world.node(A).sent.iter().any(asks), "{:?}", world.node(A).sent);
    let first = Message::Fetched { epoch, after, batches: vec![whole[1].clone()] };
    world.node(A).step(Input::Message { from: B, message: first });
    assert_eq!(world.node(A).log.batches, whole);
    world.node(A).sync();
    assert_eq!(world.node(A).replica.damaged(), [(Lsn::new(3), Lsn::new(4))]);
    let goes_on =
        |(_, message): &(_, Message)| matches!(message, Message::Fetch { after: of, .. } if *of == whole[1].position());
    assert!(world.node(A).sent.iter().any(goes_on), "{:?}", world.node(A).sent);
    world.cut(A, B);
    world.connect(A, C);
    world.settle();
    assert_eq!(world.node(A).log.batches, whole, "it waits: what lies there was acknowledged");
    assert_ne!(world.node(A).replica.phase(), Some(Phase::Activating));
    // B is there again.
    world.connect(A, B);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
    assert_eq!(world.node(A).log.batches[..4], whole[..4]);
    assert_eq!(world.node(A).replica.damaged(), []);
}

/// It cut off all that it can't read with the first batch that was fed to it, as B could not give it before: it was asked for a history that
/// ends as A's does.
#[test]
fn i1_a_follower_cuts_nothing_off_that_it_can_not_name_because_little_of_it_is_fed_at_a_time() {
    let (mut world, whole, epoch) = is_led_by_b(&[2, 3, 4]);
    append(&mut world, epoch, whole[0].position(), &whole[1..2]);
    assert_eq!(world.node(A).log.batches, whole);
    assert_eq!(world.node(A).log.damaged, [3, 4].map(Lsn::new), "it is put again");
    world.node(A).sync();
    // Nobody else may begin behind that.
    world.cut(A, B);
    world.connect(A, C);
    world.assign(C);
    world.settle();
    assert_ne!(world.node(C).replica.phase(), Some(Phase::Activating));
    assert_eq!(world.node(A).log.batches, whole);
    // With B there is all of it.
    world.connect(A, B);
    world.connect(B, C);
    world.settle();
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Activating));
    assert_eq!(world.node(C).log.batches[..4], whole[..4]);
}

/// In one message with what lost against it.
#[test]
fn i1_a_follower_cuts_off_what_lost_and_nothing_before_it_that_it_can_not_name() {
    let (mut world, whole, _) = can_not_name(&[2, 3, 4]);
    world.connect(A, B);
    let epoch = world.assign(B).epoch;
    world.node(B).sync();
    world.deliver_to(A);
    world.node(A).sync();
    let theirs = world.node(B).log.batches[1..5].to_vec();
    assert_ne!(theirs[3], whole[4]);
    let append = Message::Append { epoch, prev: whole[0].position(), commit: Lsn::FIRST, batches: theirs };
    world.node(A).step(Input::Message { from: B, message: append });
    assert_eq!(world.node(A).log.batches, whole[..4], "what is behind it is taken when that is there again");
    world.node(A).crash(A);
    assert_eq!(world.node(A).log.batches, whole[..4], "what was acknowledged did not go for a moment");
}

/// B, C and two more voters: C has another history behind LSN 2, which B's log, the best, does not know of.
#[test]
fn i2_nothing_is_put_again_but_what_the_best_log_and_the_one_that_gives_it_both_have() {
    let (mut world, whole, between) = can_not_name(&[2, 3, 4]);
    world.connect(A, B);
    world.connect(A, C);
    let epoch = world.assign(A).epoch;
    world.node(A).sync();
    let block = Block::encode("lost".into(), 1, Compression::Never);
    let other = BatchBuilder::new(whole[0].log(), BatchKind::Data, between, whole[1].position(), 1).block(block);
    let other = other.seal().unwrap();
    let log =
        LogSummary { end: other.position(), epochs: vec![(whole[0].epoch(), Lsn::FIRST), (between, Lsn::new(3))] };
    let promise = Message::Promise { epoch, log, suspect: None, committed: Lsn::FIRST, votes: None };
    world.node(A).step(Input::Message {
        from: B,
        message: Message::Damaged { epoch, ranges: vec![(Lsn::new(2), Lsn::new(2))] },
    });
    world.deliver_to(B);
    world.node(B).sync();
    world.node(C).sent.clear();
    world.node(A).sent.clear();
    world.deliver_to(A);
    world.node(A).step(Input::Message { from: C, message: promise });
    let after = whole[0].position();
    let asks =
        |(to, message): &(_, Message)| *to == C && matches!(message, Message::Fetch { after: of, .. } if *of == after);
    assert!(world.node(A).sent.iter().any(asks), "{:?}", world.node(A).sent);
    let fetched = Message::Fetched { epoch, after, batches: vec![whole[1].clone(), other] };
    world.node(A).step(Input::Message { from: C, message: fetched });
    assert_eq!(
        (world.node(A).log.batches.clone(), world.node(A).log.damaged.clone()),
        (whole, vec![Lsn::new(3), Lsn::new(4)])
    );
}

/// C has five records, and its state the first; it can't read 2 to 4, nor name them. It is led by A.
fn has_five_and_reads_one(is_told_what_is_committed: bool) -> (World, Epoch) {
    let mut world = World::new();
    let epoch = world.elect(A);
    for text in ["two", "three", "four", "five"] {
        world.propose(A, text);
    }
    world.settle();
    world.cut(B, C);
    if !is_told_what_is_committed {
        world.cut(A, C);
        world.node(C).crash(C);
    }
    world.node(C).log.hidden = [2, 3, 4].map(Lsn::new).to_vec();
    world.node(C).log.damaged = world.node(C).log.hidden.clone();
    world.node(C).step(Input::DamageFound { read: Lsn::FIRST });
    if !is_told_what_is_committed {
        world.connect(A, C);
        assert_eq!(world.committed(C), 0);
    }
    world.node(C).sent.clear();
    (world, epoch)
}

fn offer(world: &mut World, epoch: Epoch, at: LogPosition) -> SnapshotId {
    let snapshot = SnapshotId { at, chunks: 1, bytes: 1, digest: 7 };
    world.node(C).asked.clear();
    world.node(C).step(Input::Message { from: A, message: Message::SnapshotOffer { epoch, snapshot } });
    snapshot
}

/// What is behind it was acknowledged, and would be gone until it is fed again.
#[test]
fn i1_a_log_that_holds_the_snapshots_position_and_can_not_name_it_is_never_reset() {
    for is_told in [false, true] {
        let (mut world, epoch) = has_five_and_reads_one(is_told);
        let at = world.node(A).log.position_at(Lsn::new(3)).unwrap();
        let snapshot = offer(&mut world, epoch, at);
        assert!(matches!(world.node(C).asked[..], [Output::StageSnapshot { .. }]), "its state can't get on: {is_told}");
        world.node(C).step(Input::SnapshotStaged(snapshot));
        world.node(C).sync();
        world.node(C).step(Input::SnapshotInstalled(snapshot));
        world.node(C).sync();
        let log = &world.node(C).log;
        assert_eq!((log.start.lsn, log.end().lsn), (Lsn::ZERO, Lsn::new(5)), "{is_told}");
        assert_eq!(world.node(C).replica.applicable(), Lsn::new(3));
    }
}

/// What the state has durably says how far the log may go; while another's is installed there, it says nothing of this log.
#[test]
fn i1_nothing_of_a_log_is_given_up_while_the_state_becomes_another() {
    let (mut world, epoch) = has_five_and_reads_one(true);
    let at = world.node(A).log.position_at(Lsn::new(3)).unwrap();
    super::snapshot_test::release(world.node(A), 4);
    world.cut(A, C);
    world.connect(A, C);
    world.settle();
    let lost = Some((Lsn::new(2), Lsn::new(4)));
    assert_eq!(world.node(C).replica.unmendable(), lost, "A has let go of it");
    let snapshot = offer(&mut world, epoch, at);
    world.node(C).step(Input::SnapshotStaged(snapshot));
    world.node(C).sync();
    assert_eq!(world.node(C).replica.unmendable(), None);
    world.node(C).step(Input::SnapshotInstalled(snapshot));
    world.node(C).sync();
    assert_eq!(world.node(C).replica.unmendable(), lost);
}

/// A has a snapshot that does not bring C's state past what can't be read, and offered it again and again.
#[test]
fn whoever_is_offered_a_state_that_is_of_no_use_asks_for_it_no_more() {
    let (mut world, epoch) = has_five_and_reads_one(true);
    let first = world.node(A).log.position_at(Lsn::FIRST).unwrap();
    super::snapshot_test::release(world.node(A), 4);
    let says_how_far = |world: &mut World| {
        let said = std::mem::take(&mut world.node(C).sent);
        let ends = said.into_iter().filter_map(|(_, message)| match message {
            Message::Mismatch { log, .. } => Some(log.end.lsn.get()),
            _ => None,
        });
        ends.collect::<Vec<_>>()
    };
    world.cut(A, C);
    world.connect(A, C);
    world.deliver_to(A);
    world.deliver_to(C);
    assert_eq!(says_how_far(&mut world), [1], "it asks for a state");
    offer(&mut world, epoch, first);
    assert_eq!(says_how_far(&mut world), [5], "and now it says what its log is");
    offer(&mut world, epoch, first);
    assert_eq!(says_how_far(&mut world), [5]);
}

/// A and B, which leads: B has refused what A asked for, as its log does not end as A's does.
fn is_led_by_b(lost: &[u64]) -> (World, Vec<Batch>, Epoch) {
    let (mut world, whole, _) = can_not_name(lost);
    world.connect(A, B);
    let epoch = world.assign(B).epoch;
    world.node(B).sync();
    world.deliver_to(A);
    world.node(A).sync();
    world.deliver_to(B);
    world.node(B).answer_reads();
    world.deliver_to(A);
    (world, whole, epoch)
}

fn append(world: &mut World, epoch: Epoch, prev: LogPosition, batches: &[Batch]) {
    let message = Message::Append { epoch, prev, commit: Lsn::FIRST, batches: batches.to_vec() };
    world.node(A).step(Input::Message { from: B, message });
}

/// More of it than a message holds, and what lost right behind it. The second message comes before what was in the first one is put again,
/// and what comes behind that was dropped without a word.
#[test]
fn a_follower_that_was_given_a_part_says_from_where_on_it_is_to_be_fed_again() {
    for is_one_message in [false, true] {
        was_given_a_part(is_one_message);
    }
}

fn was_given_a_part(is_one_message: bool) {
    let (mut world, whole, epoch) = is_led_by_b(&[2, 3, 4]);
    let theirs = world.node(B).log.batches.clone();
    append(&mut world, epoch, whole[0].position(), &whole[1..2]);
    world.node(A).sync();
    append(&mut world, epoch, whole[1].position(), &whole[2..3]);
    world.node(A).sent.clear();
    if is_one_message {
        append(&mut world, epoch, whole[2].position(), &theirs[3..5]);
    } else {
        append(&mut world, epoch, whole[2].position(), &theirs[3..4]);
        append(&mut world, epoch, whole[3].position(), &theirs[4..5]);
    }
    world.node(A).sync();
    let says = |(_, message): &(_, Message)| matches!(message, Message::Mismatch { .. });
    assert!(world.node(A).sent.iter().any(says), "{:?}", world.node(A).sent);
    world.settle();
    assert_eq!(world.node(A).log.batches[..5], theirs[..5]);
    assert_eq!(world.node(A).replica.damaged(), []);
}

/// Its names are all that a reader came upon of it, or not even those: nobody read there yet, or no descriptor was left for a moment.
#[test]
fn i1_a_follower_cuts_nothing_off_whose_names_can_not_be_read() {
    let (mut world, whole, epoch) = is_led_by_b(&[2, 3, 4]);
    world.node(A).log.damaged = vec![Lsn::new(2)];
    world.node(A).step(Input::DamageFound { read: Lsn::ZERO });
    append(&mut world, epoch, whole[0].position(), &whole[1..4]);
    assert_eq!(world.node(A).log.batches, whole);
    assert!(world.node(A).log.damaged.is_empty(), "what is known as damage is put again");
}

/// As a rule what it can't read was committed, and it knows that. It is asked to lead all the same.
#[test]
fn a_new_leader_fetches_what_it_has_no_name_for_also_where_it_knows_that_it_was_committed() {
    let mut world = World::new();
    world.elect(B);
    world.cut(A, C);
    world.cut(B, C);
    for text in ["two", "three", "four"] {
        world.propose(B, text);
    }
    world.settle();
    assert_eq!((world.committed(A), world.committed(B)), (4, 4));
    world.cut(A, B);
    super::doubt_test::begin_alone(&mut world, [(A, C), (B, C)]);
    world.node(A).log.hidden = [2, 3, 4].map(Lsn::new).to_vec();
    world.node(A).rot(&[2, 3, 4]);
    world.connect(A, B);
    world.assign(A);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating), "{:?}", world.node(A).said);
    assert_eq!(world.node(A).replica.damaged(), []);
}

/// It asks those who promised for a state. One offers something older than what it needs, and was cut off for that.
#[test]
fn a_new_leader_that_is_offered_a_state_of_no_use_asks_the_next_one() {
    let (mut world, _) = has_five_and_reads_one(true);
    world.connect(B, C);
    let first = world.node(A).log.position_at(Lsn::FIRST).unwrap();
    for id in [A, B] {
        super::snapshot_test::release(world.node(id), 4);
    }
    let epoch = world.assign(C).epoch;
    for _ in 0..3 {
        world.node(C).sync();
        world.deliver_to(A);
        world.deliver_to(B);
        world.node(A).sync();
        world.node(B).sync();
        world.deliver_to(C);
    }
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Mending));
    world.deliver_to(A);
    world.deliver_to(B);
    let (asked, other) = if world.node(A).asked.is_empty() { (B, A) } else { (A, B) };
    assert!(!world.node(asked).asked.is_empty() && world.node(other).asked.is_empty());
    let snapshot = SnapshotId { at: first, chunks: 1, bytes: 1, digest: 7 };
    world.node(C).step(Input::Message { from: asked, message: Message::SnapshotOffer { epoch, snapshot } });
    assert!(!world.node(C).said.iter().any(|said| said.contains("Disconnect")), "{:?}", world.node(C).said);
    world.deliver_to(other);
    assert!(matches!(world.node(other).asked[..], [Output::TakeSnapshot { peer: C, .. }]));
}

/// What B had released it gave as a state, which A's log holds and could not name: it was offered the same again and again.
#[test]
fn whoever_was_given_a_state_in_what_it_can_not_name_goes_on_behind_it() {
    for leader in [A, B] {
        let (mut world, whole, _) = can_not_name(&[2, 3, 4]);
        super::snapshot_test::release(world.node(B), 4);
        world.node(B).crash(B);
        world.connect(A, B);
        world.assign(leader);
        for _ in 0..20 {
            world.settle();
            has_snapshots_at(&mut world, whole[3].position());
        }
        assert!(!world.node(A).said.iter().any(|said| said.contains("Disconnect")), "{:?}", world.node(A).said);
        assert_eq!(world.node(leader).replica.phase(), Some(Phase::Activating), "{leader}");
        assert_eq!(world.node(A).log.end(), world.node(B).log.end(), "{leader}");
        assert_eq!(world.node(A).replica.damaged(), [], "{leader}");
    }
}

/// Whoever is to give a snapshot has one, and of what ends here.
fn has_snapshots_at(world: &mut World, at: LogPosition) {
    let snapshot = SnapshotId { at, chunks: 1, bytes: 1, digest: 7 };
    for id in [A, B, C] {
        for output in std::mem::take(&mut world.node(id).asked) {
            if let Output::TakeSnapshot { peer, epoch } = output {
                world.node(id).step(Input::SnapshotTaken { peer, epoch, snapshot });
            } else {
                world.node(id).asked.push(output);
            }
        }
    }
    super::snapshot_test::serve(world);
}

/// What an open finds is in doubt, and where epochs begin is not exact then: yet the two logs end alike, or are the same behind that.
/// The log was reset to the snapshot, and what was acknowledged behind that was on one disk less.
#[test]
fn i1_a_log_in_doubt_that_is_the_givers_behind_the_snapshot_keeps_what_is_there() {
    for (leader, lsn) in [(B, 4), (C, 4), (B, 3), (C, 3)] {
        let mut world = World::new();
        world.elect(B);
        for text in ["two", "three", "four", "five"] {
            world.propose(B, text);
        }
        world.settle();
        for (x, y) in [(A, B), (A, C), (B, C)] {
            world.cut(x, y);
        }
        let at = world.node(B).log.position_at(Lsn::new(lsn)).unwrap();
        for id in [A, B] {
            super::snapshot_test::release(world.node(id), lsn);
            world.node(id).crash(id);
        }
        world.node(C).lose_names(C, &[2, 3, 4]);
        let held = world.node(C).log.batches.clone();
        for (x, y) in [(A, B), (A, C), (B, C)] {
            world.connect(x, y);
        }
        world.assign(leader);
        for _ in 0..20 {
            world.settle();
            has_snapshots_at(&mut world, at);
        }
        let epoch = world.node(B).replica.promise().epoch;
        let node = world.node(C);
        if (leader, lsn) == (B, 3) {
            // What it is fed next ends where nothing of its own log has a name.
            let message = Message::Append { epoch, prev: at, commit: at.lsn, batches: vec![held[3].clone()] };
            node.step(Input::Message { from: B, message });
        }
        assert_eq!((node.log.batches[..5] == held[..], node.log.start.lsn), (true, Lsn::ZERO), "{:?}", node.said);
        // What told so may be gone when a crash comes, and the log be cut off: an open goes by the mark then.
        let marks: Vec<_> = node.said.iter().filter(|said| said.starts_with("Mark")).collect();
        let is_marked = marks[0].contains(&format!("{at:?}"));
        // Unless it is known to be committed.
        assert_eq!((is_marked, marks[1].as_str()), (leader == C, "Mark, InstallMark(None)"), "{marks:?}");
        assert!(node.said.iter().all(|said| !said.starts_with("Reset")), "{:?}", node.said);
        // Its state has the part that nobody has, and its driver lets go of that.
        assert_eq!(node.replica.unmendable(), Some((Lsn::new(2), Lsn::new(4))), "{leader} {lsn}");
    }
}

/// The log knew no more where the snapshot was once it was opened again, and was offered the same for ever. It said, too, that it ended
/// there, and not in which epoch: whoever heard that closed the connection.
#[test]
fn a_log_in_doubt_is_fed_behind_where_its_state_is_and_says_in_which_epoch_that_is() {
    let mut world = World::new();
    world.elect(B);
    world.elect(B);
    for text in ["three", "four", "five"] {
        world.propose(B, text);
    }
    world.settle();
    for (x, y) in [(A, B), (A, C), (B, C)] {
        world.cut(x, y);
    }
    let node = world.node(A);
    node.lose_names(A, &[2, 3, 4]);
    let at = node.log.batches[3].position();
    let newest = node.log.epochs().into_iter().rfind(|(_, first)| *first <= at.lsn);
    assert!(newest.is_some_and(|(epoch, _)| epoch < at.epoch), "the start of its epoch has no name");
    let replica = super::Replica::open(A, node.log.id, node.replica.promise(), at.lsn, &node.log);
    node.replica = replica.with_state_at(at, &node.log);
    world.connect(A, B);
    world.assign(B);
    world.node(B).sync();
    world.deliver_to(A);
    world.node(A).sync();
    world.deliver_to(B);
    let theirs = world.node(B).log.batches.clone();
    let epoch = world.node(B).replica.promise().epoch;
    append(&mut world, epoch, LogPosition { lsn: Lsn::new(9), ..theirs[4].position() }, &[]);
    let told = world.node(A).sent.iter().find_map(|(_, message)| match message {
        Message::Mismatch { log, .. } => Some((log.clone(), message.clone())),
        _ => None,
    });
    let (told, message) = told.unwrap();
    assert_eq!((told.end, told.epochs.last().map(|(epoch, _)| *epoch)), (at, Some(at.epoch)));
    assert_eq!(Message::decode(&message.encode().unwrap()).unwrap(), message);
    world.settle();
    assert_eq!(world.node(A).log.end(), world.node(B).log.end());
}

/// One batch of its own log rots while a new leader is given what the others released, and is there again.
#[test]
fn a_new_leader_that_is_given_a_state_goes_on_with_it_when_damage_of_its_own_is_over() {
    let mut world = super::snapshot_test::c_is_behind();
    for id in [A, B] {
        super::snapshot_test::release(world.node(id), 3);
    }
    world.connect(A, C);
    world.connect(B, C);
    world.assign(C);
    world.settle();
    super::snapshot_test::serve(&mut world);
    world.settle();
    assert!(matches!(world.node(C).asked[..], [Output::StageSnapshot { .. }]), "{:?}", world.node(C).asked);
    world.node(C).rot(&[1]);
    world.node(C).log.damaged.clear();
    world.node(C).step(Input::DamageFound { read: Lsn::FIRST });
    for _ in 0..20 {
        world.settle();
        super::snapshot_test::serve(&mut world);
    }
    assert_eq!(world.node(C).replica.phase(), Some(Phase::Activating), "{:?}", world.node(C).said);
}

/// B leads, and A was given its state up to the fourth record, which A's log holds and can't name.
fn was_given_four() -> (World, Vec<Batch>, Epoch) {
    let (mut world, whole, epoch) = is_led_by_b(&[2, 3, 4]);
    let snapshot = SnapshotId { at: whole[3].position(), chunks: 1, bytes: 1, digest: 7 };
    world.node(A).step(Input::Message { from: B, message: Message::SnapshotOffer { epoch, snapshot } });
    world.node(A).step(Input::SnapshotStaged(snapshot));
    world.node(A).sync();
    // An open that found its mark, and can't name that position either, would let the log begin there.
    assert_eq!(world.node(A).said.last().map(String::as_str), Some("Mark, InstallMark(None)"));
    world.node(A).step(Input::SnapshotInstalled(snapshot));
    world.node(A).sync();
    assert_eq!((world.node(A).log.batches.len(), world.node(A).replica.applicable()), (5, Lsn::new(4)));
    (world, whole, epoch)
}

/// The mark of the one that is being installed was taken back: after a crash its state was taken for that of another log.
#[test]
fn a_log_that_is_cut_off_where_a_snapshot_was_keeps_the_mark_of_the_next_one() {
    let (mut world, whole, epoch) = was_given_four();
    let theirs = world.node(B).log.batches.clone();
    let at = LogPosition { lsn: Lsn::new(10), ..theirs[4].position() };
    let next = SnapshotId { at, chunks: 1, bytes: 1, digest: 8 };
    world.node(A).step(Input::Message { from: B, message: Message::SnapshotOffer { epoch, snapshot: next } });
    world.node(A).step(Input::SnapshotStaged(next));
    world.node(A).sync();
    append(&mut world, epoch, whole[3].position(), &theirs[4..5]);
    assert_eq!(world.node(A).log.start, whole[3].position());
    let last = world.node(A).said.iter().rfind(|said| said.starts_with("Reset")).unwrap();
    assert!(last.contains(&format!("{at:?}")), "{last}");
}

/// It is cut off there as any other, once it can name that itself.
#[test]
fn a_log_that_can_name_where_a_snapshot_was_keeps_what_is_before() {
    for is_synced in [false, true] {
        let (mut world, whole, epoch) = was_given_four();
        let theirs = world.node(B).log.batches.clone();
        append(&mut world, epoch, whole[0].position(), &theirs[1..4]);
        if is_synced {
            world.node(A).sync();
        }
        append(&mut world, epoch, whole[3].position(), &theirs[4..5]);
        world.settle();
        assert_eq!((world.node(A).log.start.lsn, &world.node(A).log.batches[..5]), (Lsn::ZERO, &theirs[..5]));
    }
}

/// It was fed more of that history by now, and said all the same that its log ends where the snapshot was.
#[test]
fn whoever_is_offered_what_its_log_can_name_says_where_that_ends() {
    let (mut world, epoch) = has_five_and_reads_one(true);
    let at = world.node(A).log.position_at(Lsn::new(4)).unwrap();
    let snapshot = offer(&mut world, epoch, at);
    world.node(C).step(Input::SnapshotStaged(snapshot));
    world.node(C).sync();
    world.node(C).step(Input::SnapshotInstalled(snapshot));
    world.node(C).sync();
    let ends = |world: &mut World| {
        let said = std::mem::take(&mut world.node(C).sent);
        said.into_iter().rev().find_map(|(_, message)| match message {
            Message::Mismatch { log, .. } => Some(log.end.lsn.get()),
            _ => None,
        })
    };
    assert_eq!(ends(&mut world), Some(4));
    let end = world.node(A).log.end();
    offer(&mut world, epoch, end);
    assert_eq!((ends(&mut world), world.node(C).asked.len()), (Some(5), 0));
}

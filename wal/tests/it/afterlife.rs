//! What ended stays ended, and what may be missing stays in doubt, whatever became of the segments that say so.

use bytes::Bytes;
use towline_wal::io::{Io, segment_name};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Chain, Entry, Epoch, HardStateKind, LogId, LogPosition, Lsn, Options};

use crate::damage::flip;
use crate::world::{Chance, PowerCut, World, batch, log, options};

fn eager() -> Options {
    Options { slack_segments: 0, ..options() }
}

fn promise(of: LogId, bytes: usize) -> Entry {
    Entry::HardState { log: of, kind: HardStateKind::Promise, bytes: Bytes::from(vec![7; bytes]) }
}

fn release_all(world: &mut World, of: LogId) {
    let before = world.core.end(of).lsn.next();
    world.submit(vec![Entry::Release { log: of, before }]).unwrap();
    world.run();
}

fn reopened(world: World, options: &Options) -> World {
    let mut disk = world.disk;
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    World::open(disk, options).unwrap()
}

#[test]
fn a_removed_log_does_not_come_back_by_a_record_that_compaction_had_to_keep() {
    let (removed, pins, sparse, filler, dense) = (log(1), log(3), log(2), log(4), log(5));
    // Large enough for a segment to be worth a copy of its own, and not one together with its neighbours.
    let eager = Options { segment_bytes: 256 << 10, ..eager() };
    let patient = Options { slack_segments: 1000, segment_bytes: 256 << 10, ..options() };
    let mut world = World::open(VirtualDisk::new(), &patient).unwrap();
    // 1: something of the log, and much that stays.
    world.append_synced(removed, 1, 100);
    world.append_synced_to_the_next_segment(pins);
    // 2: the log is reset, beside little that stays.
    let to = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(50), chain: Chain::new(7) };
    world.submit(vec![Entry::Reset { log: removed, to }]).unwrap();
    world.append_synced(sparse, 14, 5000);
    world.append_synced_to_the_next_segment(filler);
    // 3: the log is removed, beside much that stays for now.
    world.submit(vec![Entry::Remove { log: removed }]).unwrap();
    world.append_synced_to_the_next_segment(dense);
    release_all(&mut world, filler);
    // The second is written anew, and must keep the reset because of the first.
    let mut world = reopened(world, &eager);
    let bytes = |world: &mut World| world.disk.len(&segment_name(2)).unwrap();
    for _ in 0..10 {
        world.append_synced_to_the_next_segment(filler);
        release_all(&mut world, filler);
    }
    assert!(bytes(&mut world) < 256 << 10 && world.core.stats().retired < 15, "{:?}", world.core.stats());
    assert!(world.disk.list().unwrap().contains(&segment_name(1)));
    // Now the first and the third have nothing that lives.
    release_all(&mut world, pins);
    release_all(&mut world, dense);
    for _ in 0..3 {
        world.append_synced_to_the_next_segment(filler);
        release_all(&mut world, filler);
    }
    for _ in 0..3 {
        world = reopened(world, &eager);
        assert!(!world.core.logs().contains(&removed), "it starts at {:?}", world.core.start(removed));
        assert_eq!(world.lsns(sparse).len(), 14);
        world.run();
    }
}

#[test]
fn a_removed_log_does_not_come_back_because_only_one_of_two_records_is_copied() {
    let (removed, cut, pins, filler) = (log(1), log(2), log(3), log(4));
    let eager = Options { segment_bytes: 256 << 10, ..eager() };
    let patient = Options { slack_segments: 1000, segment_bytes: 256 << 10, ..options() };
    let mut world = World::open(VirtualDisk::new(), &patient).unwrap();
    // 1: a batch that will be cut off, and much that stays.
    world.append_synced(cut, 2, 100);
    while world.core.stats().active_segment == 1 {
        world.append_synced(pins, 1, 7500);
    }
    // 2: the cut, so that its records must be kept because of the first; and a log that begins with a reset.
    let to = world.core.position_at(cut, Lsn::new(1)).unwrap();
    world.submit(vec![Entry::Truncate { log: cut, to }]).unwrap();
    let to = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(50), chain: Chain::new(7) };
    world.submit(vec![Entry::Reset { log: removed, to }]).unwrap();
    world.append_synced(removed, 1, 100);
    world.append_synced_to_the_next_segment(filler);
    // 3: the log's end, which ended nothing but what is in the second.
    world.submit(vec![Entry::Remove { log: removed }]).unwrap();
    world.append_synced(log(5), 1, 100);
    world.append_synced_to_the_next_segment(filler);
    release_all(&mut world, filler);
    let mut world = reopened(world, &eager);
    world.run();
    let first = world.disk.len(&segment_name(1)).unwrap();
    assert!(world.core.stats().compactions > 0 && first == 256 << 10, "{:?}", world.core.stats());
    for _ in 0..3 {
        world = reopened(world, &eager);
        assert!(!world.core.logs().contains(&removed), "it starts at {:?}", world.core.start(removed));
        assert_eq!((world.lsns(cut), world.lsns(log(5))), (vec![1], vec![1]));
        world.run();
    }
}

#[test]
fn a_log_that_is_removed_while_all_of_it_still_waits_to_be_written_is_gone_for_good() {
    let (removed, pins, filler) = (log(1), log(2), log(3));
    for fill in 0..10 {
        let mut world = World::open(VirtualDisk::new(), &eager()).unwrap();
        world.append_synced(pins, fill, 4500);
        // One queue, of several groups: somewhere in it the segment ends.
        let to = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(50), chain: Chain::new(7) };
        world.submit(vec![promise(removed, 10)]).unwrap();
        world.submit(vec![Entry::Reset { log: removed, to }]).unwrap();
        world.append(filler, 1, 7000).unwrap();
        world.append(filler, 1, 7000).unwrap();
        world.submit(vec![Entry::Remove { log: removed }]).unwrap();
        world.run();
        for _ in 0..3 {
            world.append_synced_to_the_next_segment(filler);
            release_all(&mut world, filler);
        }
        for _ in 0..2 {
            world = reopened(world, &eager());
            assert!(!world.core.logs().contains(&removed), "{fill} batches before it");
            world.run();
        }
    }
}

#[test]
fn a_submission_is_not_torn_by_what_the_log_itself_says_in_front_of_it() {
    let (of, filler) = (log(1), log(4));
    for size in (3000..=4096).step_by(24) {
        let mut world = World::open(VirtualDisk::new(), &eager()).unwrap();
        world.append_synced(of, 1, 100);
        let kept = world.core.end(of);
        world.append_synced(of, 1, 100);
        let old = world.content();
        // A segment of which nothing lives but two hard states: each of them takes half of a group's directory.
        world.append_synced_to_the_next_segment(log(2));
        world.submit(vec![promise(log(6), 4096)]).unwrap();
        world.run();
        world.submit(vec![promise(log(7), 4096)]).unwrap();
        world.run();
        world.append_synced_to_the_next_segment(filler);
        let before = world.core.end(filler).lsn.next();
        world.submit(vec![Entry::Release { log: filler, before }]).unwrap();
        // The first group of what is said again is under way.
        world.take();
        let next = batch(of, kept, Epoch::new(1, 2), 1, 50);
        let cut = Entry::Truncate { log: of, to: kept };
        world.submit(vec![cut, promise(log(8), size), Entry::Batch(next)]).unwrap();
        world.cuts = Some(Vec::new());
        world.run();
        let new = world.content();
        for PowerCut { mut disk, .. } in world.cuts.take().into_iter().flatten() {
            disk.crash(CrashKind::DropAll, &mut |_| 0);
            let mut after = World::open(disk, &options()).unwrap();
            let there = after.content().logs.remove(&of);
            assert!([&old, &new].iter().any(|model| model.logs.get(&of) == there.as_ref()), "{size}: {there:?}");
        }
    }
}

/// A log of which an open dropped the second of two batches, which may have been acknowledged.
fn in_doubt() -> World {
    let mut world = World::new();
    world.append_synced(log(1), 1, 100);
    world.append(log(1), 1, 100).unwrap();
    while world.take() {}
    let mut tear = Chance::new(1);
    for _ in 0..1000 {
        let mut disk = world.disk.clone();
        disk.crash(CrashKind::Chance, &mut |n| tear.below(n));
        let world = World::open(disk, &options()).unwrap();
        if world.core.cuts().iter().any(|cut| cut.from == Lsn::new(2)) {
            return world;
        }
    }
    panic!("no write was torn");
}

#[test]
fn a_reset_leaves_in_doubt_what_was() {
    for (lsn, from) in [(0, 1), (1, 2), (45, 46)] {
        for segments in 0..3 {
            let mut world = in_doubt();
            let to = if lsn == 0 {
                LogPosition::origin(log(1))
            } else {
                LogPosition { epoch: Epoch::new(1, 3), lsn: Lsn::new(lsn), chain: Chain::new(9) }
            };
            world.submit(vec![Entry::Reset { log: log(1), to }]).unwrap();
            // So that the segment stays.
            world.append_synced(log(3), 1, 100);
            for _ in 0..segments {
                world.append_synced_to_the_next_segment(log(2));
                release_all(&mut world, log(2));
            }
            for _ in 0..3 {
                let cuts: Vec<u64> = world.core.cuts().iter().map(|cut| cut.from.get()).collect();
                assert_eq!(cuts, [from], "reset to {lsn}, {segments} segments later");
                world = reopened(world, &eager());
                world.run();
            }
            world.submit(vec![Entry::Settle { log: log(1) }]).unwrap();
            world.run();
            let world = reopened(world, &eager());
            assert!(world.core.cuts().is_empty());
        }
    }
}

#[test]
fn a_reset_is_durable_when_its_record_is() {
    let mut world = World::new();
    world.append_synced(log(1), 3, 100);
    let to = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(1000), chain: Chain::new(7) };
    world.submit(vec![Entry::Reset { log: log(1), to }]).unwrap();
    assert_eq!(world.core.end(log(1)), to);
    assert_eq!(world.core.durable_end(log(1)).lsn, Lsn::ZERO);
    while world.take() {}
    assert_eq!(world.core.durable_end(log(1)).lsn, Lsn::ZERO);
    world.run();
    assert_eq!(world.core.durable_end(log(1)), to);
    assert_eq!(world.core.written_end(log(1)), to);
}

#[test]
fn a_batch_that_is_written_again_behind_a_truncation_is_there_when_it_is() {
    let mut world = World::new();
    world.append_synced(log(1), 1, 100);
    let kept = world.core.end(log(1));
    let next = batch(log(1), kept, kept.epoch, 1, 100);
    world.submit(vec![Entry::Batch(next.clone())]).unwrap();
    while world.take() {}
    world.submit(vec![Entry::Truncate { log: log(1), to: kept }, Entry::Batch(next.clone())]).unwrap();
    // The first of the two is written, and then durable; what is of the log now is neither.
    let is_new = |world: &World| world.core.stats().groups > 3;
    while !is_new(&world) && !world.flying.is_empty() {
        world.finish(0);
        if !is_new(&world) {
            assert!(world.core.durable_end(log(1)).lsn <= kept.lsn, "a truncation lies between");
            let plan = world.core.plan_read(log(1), next.first_lsn(), 1).unwrap();
            assert!(plan.is_empty(), "{plan:?}");
            world.take();
        }
    }
    world.run();
    assert_eq!(world.core.durable_end(log(1)), next.position());
    assert_eq!(world.core.plan_read(log(1), next.first_lsn(), 1).unwrap().len(), 1);
}

#[test]
fn rot_of_the_last_group_of_a_log_that_was_idle_is_damage_and_no_torn_tail() {
    for idle in [false, true] {
        let mut world = World::new();
        world.append_synced(log(1), 2, 100);
        if idle {
            for _ in 0..3 {
                world.core.prove();
                world.run();
            }
            assert_eq!(world.core.stats().groups, 4, "the opening's, two, and one that proves them");
        }
        let extent = world.core.plan_read(log(1), Lsn::new(2), 1).unwrap().remove(0);
        let mut disk = world.disk;
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        flip(&mut disk, &segment_name(1), extent.offset + 150);
        let world = World::open(disk, &options()).unwrap();
        let damaged = world.core.damaged(log(1));
        assert_eq!(damaged, if idle { vec![(Lsn::new(2), Lsn::new(2))] } else { Vec::new() });
        assert!(world.core.cuts().iter().any(|cut| cut.from == Lsn::new(2)), "either way it is missing");
    }
}

#[test]
fn what_only_proves_takes_no_segment() {
    let mut world = World::new();
    loop {
        world.append_synced(log(1), 1, 3000);
        let before = (world.core.stats().active_segment, world.core.stats().groups);
        world.core.prove();
        world.run();
        let after = (world.core.stats().active_segment, world.core.stats().groups);
        assert_eq!(before.0, after.0);
        if before.1 == after.1 {
            // There was no room for it; the next append goes to the next segment.
            world.append_synced(log(1), 1, 3000);
            assert_eq!(world.core.stats().active_segment, before.0 + 1);
            break;
        }
    }
}

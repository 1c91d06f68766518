//! Batches put again where the log is damaged, from another copy (rows D12, D13 and D14 of the fault list).

use std::collections::BTreeMap;

use proptest::prelude::*;
use towline_wal::inspect::{inspect_io, verify_io};
use towline_wal::io::segment_name;
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Batch, Entry, Epoch, LogId, LogPosition, Lsn, Options, ReadError, SubmitError};

use crate::damage::{SEG, disk_with, flip, group_of, readable};
use crate::world::{Chance, PowerCut, World, batch, log, options};

/// All batches of a log.
fn copy_of(world: &mut World, of: LogId) -> Vec<Batch> {
    world.content().logs.remove(&of).unwrap_or_default()
}

fn mend(world: &mut World, copy: &Batch) -> Result<(), SubmitError> {
    for lsn in [copy.first_lsn().prev(), copy.last_lsn()] {
        world.core.load_index(&mut world.disk, copy.log(), lsn);
    }
    world.submit(vec![Entry::Mend(copy.clone())]).map(drop)
}

#[test]
fn a_damaged_batch_is_put_again_from_a_copy_and_the_log_goes_on() {
    let (mut disk, groups) = disk_with(4);
    let copies = copy_of(&mut World::open(disk.clone(), &options()).unwrap(), log(1));
    flip(&mut disk, SEG, group_of(&groups, 2).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);

    // Nothing but the very batch that was there.
    let other = batch(log(1), copies[0].position(), Epoch::new(1, 1), 1, 30);
    assert!(matches!(mend(&mut world, &other), Err(SubmitError::DoesNotFollow { .. })));
    assert!(matches!(mend(&mut world, &copies[2]), Err(SubmitError::NotDamaged { .. })));
    let longer = batch(log(1), copies[0].position(), Epoch::new(1, 1), 2, 30);
    assert!(matches!(mend(&mut world, &longer), Err(SubmitError::NotDamaged { .. })));

    mend(&mut world, &copies[1]).unwrap();
    assert!(world.core.damaged(log(1)).is_empty());
    let unwritten = world.core.plan_read(log(1), Lsn::new(2), 1000);
    assert!(matches!(unwritten, Err(ReadError::Corrupt { .. })), "it can't be read yet");
    world.run();
    assert_eq!(copy_of(&mut world, log(1)), copies);
    world.append_synced(log(1), 1, 100);
    assert_eq!(world.core.cuts().len(), 1, "that it was damaged is remembered until its owner says otherwise");
    world.submit(vec![Entry::Settle { log: log(1) }]).unwrap();
    world.run();
    for _ in 0..3 {
        // By a scan, and by a footer.
        world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
        assert!(world.report.is_intact() && world.core.cuts().is_empty(), "{:?}", world.report);
        assert_eq!(copy_of(&mut world, log(1))[..4], copies[..]);
        world.append_synced_to_the_next_segment(log(1));
    }
}

#[test]
fn a_batch_that_was_released_before_its_copy_came_is_left_alone() {
    let (mut disk, groups) = disk_with(4);
    let copies = copy_of(&mut World::open(disk.clone(), &options()).unwrap(), log(1));
    flip(&mut disk, SEG, group_of(&groups, 2).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    world.submit(vec![Entry::Release { log: log(1), before: Lsn::new(3) }]).unwrap();
    assert!(world.core.damaged(log(1)).is_empty());
    mend(&mut world, &copies[1]).unwrap();
    world.run();
    for _ in 0..2 {
        assert_eq!(world.core.start(log(1)).lsn, Lsn::new(2));
        assert_eq!(copy_of(&mut world, log(1)), copies[2..]);
        world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    }
}

#[test]
fn what_is_damaged_over_several_batches_of_which_nothing_is_known_is_put_again_one_by_one() {
    let (mut disk, groups) = disk_with(7);
    let copies = copy_of(&mut World::open(disk.clone(), &options()).unwrap(), log(1));
    // Of the batches 2 to 4 no directory is left; the last one is named by the group behind it.
    for lsn in 2..=5 {
        flip(&mut disk, SEG, group_of(&groups, lsn).offset + 40);
    }
    flip(&mut disk, SEG, group_of(&groups, 5).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(readable(&mut world, 7), [1, 6, 7]);
    assert_eq!(
        [1, 2].map(|from| world.core.mendable(&copies[from..])),
        [4, 0],
        "one behind the other, from the first on"
    );
    let early = mend(&mut world, &copies[2]).unwrap_err();
    assert!(matches!(early, SubmitError::DoesNotFollow { .. }), "what it follows is not known yet: {early}");
    mend(&mut world, &copies[1]).unwrap();
    mend(&mut world, &copies[2]).unwrap();
    let fork = batch(log(1), copies[2].position(), Epoch::new(1, 1), 1, 33);
    world.run();
    assert_eq!(readable(&mut world, 7), [1, 2, 3, 6, 7], "piece by piece");
    // What is behind the range does not follow this one.
    drop(fork);
    world.submit(vec![Entry::Mend(copies[3].clone()), Entry::Mend(copies[4].clone())]).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(copy_of(&mut world, log(1)), copies);
    // A log may be cut off at what was put again.
    world.submit(vec![Entry::Truncate { log: log(1), to: copies[2].position() }]).unwrap();
    world.append(log(1), 1, 50).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2, 3, 4]);
    assert!(world.core.damaged(log(1)).is_empty());
}

#[test]
fn a_batch_that_does_not_lead_to_what_lies_behind_the_damage_is_refused() {
    let (mut disk, groups) = disk_with(4);
    let copies = copy_of(&mut World::open(disk.clone(), &options()).unwrap(), log(1));
    for lsn in 2..=3 {
        flip(&mut disk, SEG, group_of(&groups, lsn).offset + 40);
    }
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
    // It follows the one before, and the one behind does not follow it.
    let fork = batch(log(1), copies[0].position(), Epoch::new(1, 1), 1, 33);
    assert!(matches!(mend(&mut world, &fork), Err(SubmitError::DoesNotFollow { .. })));
    assert_eq!((world.core.mendable(&[fork]), world.core.mendable(&copies[1..])), (0, 1));
    assert_eq!(world.core.position_at(log(1), Lsn::new(2)), None);
    mend(&mut world, &copies[1]).unwrap();
    world.run();
    assert_eq!(copy_of(&mut world, log(1)), copies);
}

#[test]
fn what_was_put_again_and_rots_in_its_turn_is_damaged_and_put_again() {
    let (mut disk, groups) = disk_with(3);
    let copies = copy_of(&mut World::open(disk.clone(), &options()).unwrap(), log(1));
    flip(&mut disk, SEG, group_of(&groups, 2).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    for _ in 0..3 {
        mend(&mut world, &copies[1]).unwrap();
        world.run();
        let extent = world.core.plan_read(log(1), Lsn::new(2), 1).unwrap()[0];
        flip(&mut world.disk, &segment_name(extent.segment), extent.offset + 100);
        assert!(world.core.note_damaged(&extent));
        assert!(!world.core.note_damaged(&extent), "it is not there any more");
        assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
        world.append_synced(log(2), 2, 10);
        world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
        assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
    }
}

/// What every log held before something rotted.
type Copies = BTreeMap<LogId, Vec<Batch>>;

/// Each batch of the copies is there as it was, or its range is damaged; in which logs so, and where.
fn damage_of(world: &mut World, copies: &Copies) -> Vec<(LogId, Lsn)> {
    let mut damaged = Vec::new();
    for (log, batches) in copies {
        let ranges = world.core.damaged(*log);
        for copy in batches {
            let (first, last) = (copy.first_lsn(), copy.last_lsn());
            world.core.load_index(&mut world.disk, *log, first);
            let planned = world.core.plan_read(*log, first, 1);
            let read = planned.ok().and_then(|plan| plan.first().copied()).map(|extent| extent.read(&mut world.disk));
            if let Some(Ok(read)) = &read {
                assert_eq!(read, copy, "log {log}: another batch at {first}");
            } else if read.is_none() {
                let told = ranges.iter().any(|(from, to)| *from <= last && *to >= first);
                assert!(told, "log {log}: {first} is missing and nobody says so: {ranges:?}");
            }
            if !matches!(read, Some(Ok(_))) {
                damaged.push((*log, first));
            }
        }
        let end = batches.last().map(Batch::position);
        assert!(end.is_none_or(|end| world.core.end(*log) == end), "log {log} ends elsewhere");
    }
    damaged
}

/// Logs over a few segments, at rest, and some of it rotten; never what would leave a tail in doubt.
fn rotten(chance: &mut Chance, options: &Options) -> (VirtualDisk, Copies) {
    let mut world = World::open(VirtualDisk::with_seed(chance.below(1 << 30)), options).unwrap();
    world.run();
    for _ in 0..40 + chance.below(60) {
        let bytes = 50 + usize::try_from(chance.below(2500)).unwrap();
        world.append_synced(log(1 + chance.below(3)), 1 + chance.below(2), bytes);
    }
    world.append_synced_to_the_next_segment(log(4));
    (1..=3).for_each(|n| world.append_synced(log(n), 1, 60));
    world.append_synced(log(4), 3, 60);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let copies = World::open(disk.clone(), options).unwrap().content().logs;
    let segments = inspect_io(&mut disk.clone()).unwrap().segments;
    for _ in 0..=chance.below(6) {
        let segment = &segments[usize::try_from(chance.below(segments.len() as u64 - 1)).unwrap()];
        let group = &segment.groups[usize::try_from(chance.below(segment.groups.len() as u64)).unwrap()];
        let file = segment_name(segment.number);
        match chance.below(4) {
            // A header: the group behind it says what was there.
            0 => flip(&mut disk, &file, group.offset + 40),
            _ => group.batches.iter().for_each(|batch| flip(&mut disk, &file, batch.offset + 110)),
        }
    }
    // Half of the time what an open can't see behind a footer.
    for segment in &segments {
        if chance.below(2) == 0 {
            disk.flip_bit(&segment_name(segment.number), (options.segment_bytes - 20) * 8);
        }
    }
    (disk, copies)
}

/// Has what a reader finds noted.
fn note_all(world: &mut World, copies: &Copies) {
    for copy in copies.values().flatten() {
        world.core.load_index(&mut world.disk, copy.log(), copy.first_lsn());
        if let Ok(plan) = world.core.plan_read(copy.log(), copy.first_lsn(), 1)
            && let Some(extent) = plan.first()
            && extent.read(&mut world.disk).is_err()
        {
            assert!(world.core.note_damaged(extent));
        }
    }
}

fn cut_off_or_let_go(world: &mut World, copies: &mut Copies, chance: &mut Chance) {
    let of = log(1 + chance.below(3));
    let Some(batches) = copies.get_mut(&of).filter(|batches| batches.len() > 4) else { return };
    let i = 1 + usize::try_from(chance.below(batches.len() as u64 - 2)).unwrap();
    let at: LogPosition = batches[i].position();
    world.core.load_index(&mut world.disk, of, at.lsn);
    if world.core.position_at(of, at.lsn) != Some(at) {
        return;
    }
    if chance.below(2) == 0 {
        world.submit(vec![Entry::Truncate { log: of, to: at }]).unwrap();
        batches.truncate(i + 1);
        if world.append(of, 1, 40).is_ok() {
            let prev = at;
            batches.push(batch(of, prev, prev.epoch, 1, 40));
        }
    } else {
        world.submit(vec![Entry::Release { log: of, before: at.lsn.next() }]).unwrap();
        let start = world.core.start(of).lsn;
        batches.retain(|batch| batch.last_lsn() > start);
    }
    world.run();
}

/// Everything is put again, in any order, with crashes at every change of the disk.
fn mended_lives(seed: u64) {
    let mut chance = Chance::new(seed);
    let index_bytes_max = if chance.below(2) == 0 { 0 } else { 1 << 20 };
    let slack_segments = u32::try_from(chance.below(3)).unwrap();
    let options = Options { index_bytes_max, slack_segments, ..options() };
    let (disk, mut copies) = rotten(&mut chance, &options);
    let mut world = World::open_rotten(disk, &options).unwrap();
    world.run();
    note_all(&mut world, &copies);
    loop {
        let before = damage_of(&mut world, &copies);
        let Some((of, first)) = before.get(usize::try_from(chance.below(before.len() as u64)).unwrap()).copied() else {
            break;
        };
        if chance.below(8) == 0 {
            cut_off_or_let_go(&mut world, &mut copies, &mut chance);
            continue;
        }
        let copy = copies[&of].iter().find(|copy| copy.first_lsn() == first).unwrap().clone();
        world.cuts = Some(Vec::new());
        let taken = mend(&mut world, &copy);
        world.run();
        let cuts = world.cuts.take().unwrap_or_default();
        let after = damage_of(&mut world, &copies);
        let expected: Vec<_> = before.iter().copied().filter(|damage| *damage != (of, first)).collect();
        match taken {
            Ok(()) => assert_eq!(after, expected),
            // Of a range of which nothing is known the first part comes first.
            Err(SubmitError::DoesNotFollow { .. }) => assert_eq!(after, before),
            Err(error) => panic!("{of} {first}: {error}"),
        }
        for PowerCut { mut disk, .. } in cuts {
            disk.crash(CrashKind::Chance, &mut |n| chance.below(n));
            let found = damage_of(&mut World::open_rotten(disk, &options).unwrap(), &copies);
            assert!(found == before || found == after, "{found:?} is neither {before:?} nor {after:?}");
        }
        if chance.below(3) == 0 {
            world.disk.crash(CrashKind::DropAll, &mut |_| 0);
            world = World::open_rotten(world.disk, &options).unwrap();
            assert_eq!(damage_of(&mut world, &copies), after, "what was acknowledged stays");
            note_all(&mut world, &copies);
        }
    }
    for log in copies.keys() {
        assert!(world.core.damaged(*log).is_empty(), "nothing is damaged any more, and nothing is said to be");
        world.append_synced(*log, 1, 50);
    }
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let verified = verify_io(&mut world.disk).unwrap();
    assert!(verified.damaged().is_empty(), "nor by who reads the files: {:?}", verified.damaged());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn every_crash_leaves_the_log_as_damaged_as_it_was_or_mended(seed: u64) {
        mended_lives(seed);
    }
}

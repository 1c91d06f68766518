//! What ends a log's records: releases, resets, removals; and what becomes of the segments that they leave empty.

use bytes::Bytes;
use towline_wal::io::{Io, IoOp, segment_name};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Chain, Entry, Epoch, HardStateKind, LogId, LogPosition, Lsn, Options, ReadError, SubmitError};

use crate::world::{Chance, SEGMENT, World, batch, log, options};

fn release(world: &mut World, of: LogId, before: u64) {
    world.core.load_index(&mut world.disk, of, Lsn::new(before).prev());
    let released = world.submit(vec![Entry::Release { log: of, before: Lsn::new(before) }]);
    assert!(released.is_ok(), "{released:?}: {:?}", world.core.stats());
    world.run();
}

fn promise(world: &mut World, of: LogId, text: &'static str) {
    let bytes = Bytes::from_static(text.as_bytes());
    world.submit(vec![Entry::HardState { log: of, kind: HardStateKind::Promise, bytes }]).unwrap();
    world.run();
}

fn segment_files(disk: &mut VirtualDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")).count()
}

/// Appends over as many rotations as asked for.
fn fill_segments(world: &mut World, of: LogId, count: u64) {
    for _ in 0..count {
        world.append_synced_to_the_next_segment(of);
    }
}

fn crashed(world: World, seed: u64) -> World {
    world.crash(CrashKind::DropAll, &mut Chance::new(seed)).unwrap()
}

#[test]
fn what_is_released_is_gone_and_stays_gone() {
    let mut world = World::new();
    world.append_synced(log(1), 10, 100);
    release(&mut world, log(1), 6);
    for _ in 0..2 {
        assert_eq!(world.lsns(log(1)), [6, 7, 8, 9, 10]);
        assert_eq!(world.core.start(log(1)).lsn, Lsn::new(5));
        let released = Err(ReadError::Released { log: log(1), start: Lsn::new(5) });
        assert_eq!(world.core.plan_read(log(1), Lsn::new(5), 100), released);
        world = crashed(world, 1);
    }
    // The position that the next batch follows is known, so the chain is checked over the edge.
    world.append_synced(log(1), 1, 100);
    assert_eq!(world.lsns(log(1)), [6, 7, 8, 9, 10, 11]);
}

#[test]
fn a_release_inside_a_batch_keeps_the_batch_and_one_beyond_what_is_durable_goes_no_further() {
    let mut world = World::new();
    world.append(log(1), 5, 100).unwrap();
    world.append(log(1), 5, 100).unwrap();
    world.run();
    release(&mut world, log(1), 8);
    assert_eq!(world.core.start(log(1)).lsn, Lsn::new(5), "down to a boundary");
    world.append(log(1), 5, 100).unwrap();
    world.submit(vec![Entry::Release { log: log(1), before: Lsn::new(1000) }]).unwrap();
    assert_eq!(world.core.start(log(1)).lsn, Lsn::new(10), "the third batch was not durable");
    world.run();
    assert_eq!(world.lsns(log(1)), [15]);
    // All of it: an empty log keeps its place.
    release(&mut world, log(1), 1000);
    let mut world = crashed(world, 2);
    assert!(world.lsns(log(1)).is_empty());
    assert_eq!(world.core.end(log(1)).lsn, Lsn::new(15));
}

#[test]
fn a_release_to_where_so_many_bytes_are_kept_keeps_no_more_and_not_much_less() {
    for index_bytes_max in [usize::MAX, 0] {
        let mut world = World::open(VirtualDisk::new(), &Options { index_bytes_max, ..options() }).unwrap();
        assert_eq!(world.core.boundary_keeping(log(1), 0), Lsn::ZERO, "a log that is not there");
        fill_segments(&mut world, log(1), 12);
        world.append_synced(log(1), 20, 500);
        let end = world.core.end(log(1)).lsn;
        assert_eq!(world.core.boundary_keeping(log(1), u64::MAX), Lsn::ZERO);
        assert_eq!(world.core.boundary_keeping(log(1), 0), end);
        let last_20 = world.core.boundary_keeping(log(1), 20 * 900);
        assert!(last_20 < end && end.get() - last_20.get() <= 20, "{last_20} of {end}");
        let bytes_max = 4 * SEGMENT;
        let to = world.core.boundary_keeping(log(1), bytes_max);
        release(&mut world, log(1), to.next().get());
        assert_eq!(world.core.start(log(1)).lsn, to, "it is a boundary");
        assert_eq!(world.core.boundary_keeping(log(1), bytes_max), to, "no more is left");
        assert!(world.core.boundary_keeping(log(1), bytes_max / 2) > to, "and more than half of it");
    }
}

#[test]
fn released_segments_are_used_again_and_the_space_stays_bounded() {
    let mut world = World::new();
    promise(&mut world, log(2), "kept from the first segment on");
    for _ in 0..40 {
        let end = world.append_synced_to_the_next_segment(log(1));
        release(&mut world, log(1), end.get());
    }
    let stats = world.core.stats();
    assert!(stats.retired >= 35, "{stats:?}");
    assert!(stats.segments <= 4, "{stats:?}");
    let files = segment_files(&mut world.disk);
    assert!(files <= 7, "{files} files");
    assert!(world.disk.used() <= 8 * SEGMENT);
    let content = world.content();
    let mut world = crashed(world, 3);
    assert!(world.report.is_intact(), "{:?}", world.report);
    assert!(world.content().same(&content));
    let kept = world.core.hard_state(log(2), HardStateKind::Promise).unwrap();
    assert_eq!(kept, "kept from the first segment on", "it moved ahead of each segment that went");
}

#[test]
fn a_log_that_is_never_released_holds_its_segments_and_no_others() {
    // Nothing is compacted here.
    let mut world = World::open(VirtualDisk::new(), &Options { slack_segments: 1000, ..options() }).unwrap();
    for _ in 0..8 {
        world.append_synced(log(2), 1, 50);
        world.append_synced_to_the_next_segment(log(1));
    }
    let end = world.core.end(log(1)).lsn;
    release(&mut world, log(1), end.get());
    // A batch of log 2 is in each of the first segments.
    assert_eq!(world.core.stats().retired, 0);
    assert_eq!(world.lsns(log(2)).len(), 8);
    release(&mut world, log(2), 8);
    assert!(world.core.stats().retired >= 6, "{:?}", world.core.stats());
    let mut world = crashed(world, 4);
    assert_eq!(world.lsns(log(2)), [8]);
    assert!(world.report.is_intact());
}

#[test]
fn a_reset_log_starts_behind_its_snapshot_and_keeps_its_hard_states() {
    let mut world = World::new();
    promise(&mut world, log(1), "promised");
    world.append_synced(log(1), 5, 100);
    let to = LogPosition { epoch: Epoch::new(2, 1), lsn: Lsn::new(1000), chain: Chain::new(77) };
    let next = batch(log(1), to, Epoch::new(2, 1), 1, 100);
    world.submit(vec![Entry::Reset { log: log(1), to }, Entry::Batch(next)]).unwrap();
    world.run();
    // Sealed, so that the next open reads a footer: it once forgot the hard states of a log that was reset.
    fill_segments(&mut world, log(2), 2);
    for seed in 0..2 {
        assert_eq!(world.lsns(log(1)), [1001]);
        assert_eq!(world.core.start(log(1)), to);
        assert_eq!(world.core.hard_state(log(1), HardStateKind::Promise).unwrap(), "promised");
        world = crashed(world, seed);
        assert!(world.report.segments_by_footer >= 2, "{:?}", world.report);
    }
}

#[test]
fn a_reset_to_before_the_first_record_must_be_to_the_origin() {
    let mut world = World::new();
    let to = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::ZERO, chain: Chain::new(1) };
    let refused = world.submit(vec![Entry::Reset { log: log(1), to }]);
    assert!(matches!(refused, Err(SubmitError::NotABoundary { .. })), "{refused:?}");
    world.submit(vec![Entry::Reset { log: log(1), to: LogPosition::origin(log(1)) }]).unwrap();
}

#[test]
fn a_removed_log_is_gone_with_its_hard_states_and_its_segments() {
    let mut world = World::new();
    promise(&mut world, log(1), "promised");
    fill_segments(&mut world, log(1), 3);
    world.submit(vec![Entry::Remove { log: log(1) }]).unwrap();
    world.run();
    fill_segments(&mut world, log(2), 2);
    for seed in 0..2 {
        assert_eq!(world.core.logs(), [log(2)]);
        assert_eq!(world.core.hard_state(log(1), HardStateKind::Promise), None);
        world = crashed(world, seed);
    }
    assert!(world.core.stats().segments <= 5, "{:?}", world.core.stats());
}

#[test]
fn what_is_not_here_or_not_in_order_is_refused_with_everything_beside_it() {
    let mut world = World::new();
    world.append_synced(log(1), 1, 10);
    let unknown = Err(SubmitError::UnknownLog { log: log(9) });
    assert_eq!(world.submit(vec![Entry::Remove { log: log(9) }]), unknown);
    assert_eq!(world.submit(vec![Entry::Release { log: log(9), before: Lsn::new(1) }]), unknown);
    let next = Entry::Batch(batch(log(1), world.core.end(log(1)), Epoch::new(1, 1), 1, 10));
    let refused = world.submit(vec![Entry::Remove { log: log(1) }, next]);
    assert_eq!(refused, Err(SubmitError::NotLast { log: log(1) }));
    assert_eq!(world.lsns(log(1)), [1]);
}

#[test]
fn the_dead_stay_dead_while_the_segments_that_killed_them_go() {
    // Batches in the first segments, a truncation in a later one, which is then itself of no use but for that.
    let mut world = World::new();
    world.append_synced(log(3), 1, 100);
    fill_segments(&mut world, log(1), 2);
    let to = world.core.position_at(log(1), Lsn::new(3)).unwrap();
    let next = batch(log(1), to, Epoch::new(1, 9), 1, 100);
    world.submit(vec![Entry::Truncate { log: log(1), to }, Entry::Batch(next)]).unwrap();
    world.run();
    release(&mut world, log(1), 4);
    fill_segments(&mut world, log(2), 6);
    let end = world.core.end(log(2)).lsn;
    release(&mut world, log(2), end.get());
    for seed in 0..3 {
        assert_eq!(world.lsns(log(1)), [4], "what the truncation cut off stays away");
        assert_eq!(world.lsns(log(3)), [1]);
        world = crashed(world, seed);
        assert!(world.report.is_intact(), "{:?}", world.report);
    }
}

#[test]
fn a_full_disk_takes_releases_and_goes_on_by_itself() {
    let mut world = World::new();
    world.run();
    fill_segments(&mut world, log(1), 3);
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    while world.append(log(1), 1, 4000).is_ok() {
        world.run();
    }
    assert_eq!(world.append(log(1), 1, 4000), Err(SubmitError::DiskFull));
    let end = world.core.end(log(1)).lsn;
    release(&mut world, log(1), end.get());
    assert!(world.core.stats().retired >= 2, "{:?}", world.core.stats());
    // Nobody restarted it, and nobody gave it room.
    for _ in 0..20 {
        let end = world.append_synced_to_the_next_segment(log(1));
        release(&mut world, log(1), end.get());
    }
    assert!(world.disk.used() <= used);
    assert!(world.core.poisoned().is_none());
}

#[test]
fn a_log_that_outgrew_the_index_is_read_from_everywhere_as_if_it_had_not() {
    let mut world = World::new();
    for i in 0..120 {
        world.append(log(1 + i % 2), 1 + u32::try_from(i % 3).unwrap(), 2000).unwrap();
        world.run();
    }
    let content = world.content();
    let folded = Options { index_bytes_max: 0, ..options() };
    world.disk.kill_process();
    let mut world = World::open(world.disk, &folded).unwrap();
    assert!(world.content().same(&content));
    for of in [log(1), log(2)] {
        let batches = content.logs.get(&of).unwrap();
        for max in [1, 5_000, 1 << 20] {
            for lsn in 1..=batches.last().unwrap().last_lsn().get() {
                world.core.load_index(&mut world.disk, of, Lsn::new(lsn));
                let plan = world.core.plan_read(of, Lsn::new(lsn), max).unwrap();
                let first = batches.iter().position(|batch| batch.last_lsn().get() >= lsn).unwrap();
                let there = &batches[first..first + plan.len()];
                assert!(!there.is_empty());
                for (extent, batch) in plan.iter().zip(there) {
                    assert_eq!(extent.read(&mut world.disk).unwrap().bytes(), batch.bytes());
                }
            }
        }
        for batch in batches {
            let at = batch.position();
            world.core.load_index(&mut world.disk, of, at.lsn);
            assert_eq!(world.core.position_at(of, at.lsn), Some(at));
        }
    }
}

#[test]
fn an_index_that_was_loaded_before_its_segment_went_is_not_taken() {
    let mut world = World::open(VirtualDisk::new(), &Options { index_bytes_max: 0, ..options() }).unwrap();
    fill_segments(&mut world, log(1), 3);
    let request = world.core.index_needed(log(1), Lsn::new(2)).unwrap();
    let index = request.load(&mut world.disk);
    let end = world.core.end(log(1)).lsn;
    release(&mut world, log(1), end.get());
    assert!(world.core.stats().retired > 0);
    let bytes = world.core.stats().index_bytes;
    world.core.install_index(index);
    assert_eq!(world.core.stats().index_bytes, bytes);
}

#[test]
fn a_sync_completes_behind_what_was_accepted_and_at_once_if_that_is_durable() {
    let mut world = World::new();
    world.run();
    assert_eq!(world.core.barrier(), Ok(None));
    world.append(log(1), 1, 10).unwrap();
    let queued = world.core.barrier().unwrap().unwrap();
    while world.take() {}
    let written = world.core.barrier().unwrap().unwrap();
    world.run();
    assert_eq!(world.acknowledged, Some(written));
    assert!(queued < written);
    assert_eq!(world.core.barrier(), Ok(None));
}

#[test]
fn a_segment_that_says_where_the_one_before_it_ends_stays_until_that_has_a_footer() {
    let mut world = World::new();
    world.append_synced(log(1), 3, 100);
    world.disk.kill_process();
    let mut world = World::open(world.disk, &options()).unwrap();
    // Everything is carried out but the footer of the first segment.
    let is_held = |op: &IoOp| matches!(op, IoOp::Seal { segment: 1, .. });
    let run = |world: &mut World| {
        loop {
            while world.take() {}
            let Some(i) = world.flying.iter().position(|request| !is_held(&request.op)) else { return };
            world.finish(i);
        }
    };
    while world.core.stats().active_segment < 5 {
        world.append(log(2), 1, 5000).unwrap();
        run(&mut world);
    }
    let end = world.core.end(log(2)).lsn;
    world.submit(vec![Entry::Release { log: log(2), before: end }]).unwrap();
    run(&mut world);
    let segments = world.disk.list().unwrap();
    assert!(segments.contains(&"0000000000000002.seg".to_owned()), "{segments:?}");
    assert!(world.core.stats().retired >= 1, "those behind it are gone: {:?}", world.core.stats());
    world.run();
    assert!(!world.disk.list().unwrap().contains(&"0000000000000002.seg".to_owned()));
}

#[test]
fn a_footer_found_in_the_cache_is_made_durable_before_the_next_segment_goes() {
    let mut world = World::new();
    world.append_synced(log(1), 3, 100);
    // A group that is never acknowledged, and torn.
    world.append(log(1), 1, 100).unwrap();
    while world.take() {}
    let Some(IoOp::Write { offset, .. }) = world.flying.iter().map(|request| request.op.clone()).next() else {
        panic!("the group is written: {:?}", world.flying);
    };
    world.disk.crash(CrashKind::KeepAll, &mut |_| 0);
    assert!(world.disk.flip_bit(&segment_name(1), (offset + 400) * 8));
    // The second life drops it, and dies between the writes of the footer and their sync.
    let mut world = World::open(world.disk, &options()).unwrap();
    assert_eq!(world.report.findings.len(), 1);
    while world.take() {}
    let seal = world.flying.iter().find_map(|request| match &request.op {
        IoOp::Seal { segment: 1, offset, slices, wipe } => Some((*offset, slices.clone(), wipe.clone())),
        _ => None,
    });
    let (offset, slices, wipe) = seal.unwrap();
    for at in wipe {
        world.disk.write_at(&segment_name(1), at, &[Bytes::from(vec![0; 4096])]).unwrap();
    }
    world.disk.write_at(&segment_name(1), offset, &slices).unwrap();
    // The third one believes the footer, and has no use for the second one's segment.
    let mut world = world.reopen().unwrap();
    assert_eq!(world.report.segments_by_footer, 1);
    world.run();
    assert!(world.core.stats().retired > 0);
    let mut world = crashed(world, 1);
    assert!(world.report.is_intact() && world.report.findings.is_empty(), "{:?}", world.report);
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
}

#[test]
fn a_first_segment_whose_first_group_is_torn_is_given_up_like_any_other() {
    let mut world = World::new();
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    // The header is good, and nothing else is.
    assert!(world.disk.flip_bit(&segment_name(1), (4096 + 40) * 8));
    let mut world = World::open(world.disk, &options()).unwrap();
    assert_eq!((world.report.headers_rebuilt, world.report.findings.len()), (0, 1));
    world.run();
    let stats = world.core.stats();
    assert_eq!((stats.retired, stats.segments, stats.active_segment), (1, 1, 2));
    world.append_synced(log(1), 3, 100);
    let mut world = crashed(world, 1);
    assert!(world.report.is_intact(), "{:?}", world.report);
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
}

#[test]
fn an_index_that_the_device_refused_to_read_is_read_again_and_meanwhile_not_called_damage() {
    let mut world = World::open(VirtualDisk::new(), &Options { index_bytes_max: 0, ..options() }).unwrap();
    fill_segments(&mut world, log(1), 3);
    let at = Lsn::new(2);
    for name in world.disk.list().unwrap() {
        world.disk.fail_reads(&name, 0..u64::MAX, 1_000_000);
    }
    world.core.load_index(&mut world.disk, log(1), at);
    let refused = world.core.plan_read(log(1), at, 1 << 20);
    assert!(matches!(refused, Err(ReadError::Io(_))), "{refused:?}");
    world.disk.clear_faults();
    world.core.load_index(&mut world.disk, log(1), at);
    assert!(world.core.plan_read(log(1), at, 1 << 20).is_ok());
    assert!(world.core.index_needed(log(1), at).is_none());
}

#[test]
fn a_segment_that_is_missing_is_missed_by_every_open_though_those_behind_it_are_long_gone() {
    let options = Options { slack_segments: 0, ..options() };
    let mut world = World::open(VirtualDisk::with_seed(2), &options).unwrap();
    for round in 0..30 {
        world.append_synced(log(7), 3, 6000);
        if round % 6 == 0 {
            world.append_synced(log(8), 3, 300);
        }
    }
    let before = world.core.end(log(7)).lsn;
    release(&mut world, log(7), before.get());
    world.append_synced(log(8), 1, 300);
    assert!(world.core.stats().compactions > 0);
    let mut disk = world.disk;
    disk.kill_process();
    let oldest = disk.list().unwrap().remove(0);
    disk.remove(&oldest).unwrap();
    // The second one finds the record of what the first one found, and a newest segment that does not say what was retired.
    for _ in 0..3 {
        let world = World::open(disk, &options).unwrap();
        assert_eq!(world.report.segments_missing, [1]);
        disk = world.disk;
        disk.kill_process();
    }
}

#[test]
fn a_batch_of_another_epoch_than_the_index_says_is_not_served() {
    let mut world = World::new();
    world.append_synced(log(1), 1, 100);
    let extent = world.core.plan_read(log(1), Lsn::FIRST, 1).unwrap()[0];
    assert!(extent.read(&mut world.disk).is_ok());
    let mut other = extent;
    other.epoch = Epoch::new(1, 7);
    assert!(matches!(other.read(&mut world.disk), Err(ReadError::Corrupt { .. })));
    assert!(world.core.cached(&extent).is_some() && world.core.cached(&other).is_none());
}

//! What bounds the space of a log: many ranges of live segments.

use bytes::Bytes;
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, HardStateKind, LogId, Options, SubmitError, limits};

use crate::world::{Chance, SEGMENT, World, log, options};

fn release_all(world: &mut World, of: LogId) -> Result<(), SubmitError> {
    let before = world.core.end(of).lsn.next();
    world.submit(vec![Entry::Release { log: of, before }]).map(drop)
}

/// A log that nobody releases has every fourth batch; what the others get is released at once.
fn trickle(world: &mut World, rounds: u64) {
    for _ in 0..rounds {
        for of in [1, 1, 2, 1] {
            world.append(log(of), 1, 4000).unwrap();
        }
        world.run();
        release_all(world, log(1)).unwrap();
    }
    world.run();
}

#[test]
fn one_log_that_is_never_released_pins_its_own_batches_and_nothing_else() {
    let options = Options { slack_segments: 2, index_bytes_max: 0, ..options() };
    let mut world = World::open(VirtualDisk::new(), &options).unwrap();
    let (mut kept, mut reopened_at) = (0, Vec::new());
    loop {
        trickle(&mut world, 40);
        kept += 40;
        let stats = world.core.stats();
        assert!(stats.segments_bytes <= 2 * stats.live_bytes + 8 * SEGMENT, "{stats:?}");
        assert!(stats.live_ranges_bytes <= stats.live_ranges_bytes_max, "{stats:?}");
        if stats.live_ranges >= 300 {
            break;
        }
        if stats.live_ranges >= 60 * (reopened_at.len() + 1) {
            reopened_at.push(stats.live_ranges);
            world.disk.crash(CrashKind::DropAll, &mut |_| 0);
            world = World::open(world.disk, &options).unwrap();
            assert!(world.report.is_intact(), "{:?}", world.report);
            assert_eq!(world.base.logs[&log(2)].len(), kept);
        }
    }
    assert!(reopened_at.len() >= 4, "{reopened_at:?}");
}

#[test]
fn where_no_more_holes_fit_a_header_what_is_dead_takes_no_room_all_the_same() {
    let options = Options { slack_segments: 2, index_bytes_max: 0, ..options() };
    let mut world = World::open(VirtualDisk::new(), &options).unwrap();
    let mut seen = 0;
    for _ in 0..6000 {
        trickle(&mut world, 10);
        let stats = world.core.stats();
        seen = seen.max(stats.live_ranges_bytes * 100 / stats.live_ranges_bytes_max);
        if seen > 98 {
            break;
        }
    }
    assert!(seen > 98, "{seen} % {:?}", world.core.stats());
    // Nothing of these stays.
    let before = world.core.stats();
    for _ in 0..400 {
        world.append_synced(log(1), 4, 5000);
        release_all(&mut world, log(1)).unwrap();
    }
    world.run();
    let after = world.core.stats();
    assert!(after.segments_bytes <= before.segments_bytes + 10 * SEGMENT, "{before:?} {after:?}");
    assert!(after.live_ranges_bytes <= after.live_ranges_bytes_max, "{after:?}");
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.report.is_intact());
    // Room in the header again: the small ones become large ones.
    world.append_synced(log(1), 1, 100);
    release_all(&mut world, log(2)).unwrap();
    world.run();
    assert!(world.core.stats().live_ranges < 10, "{:?}", world.core.stats());
}

#[test]
fn what_a_compaction_says_again_is_bounded() {
    let options = Options { segment_bytes: 1 << 20, group_bytes_max: 256 << 10, ..options() };
    let mut world = World::open(VirtualDisk::new(), &Options { slack_segments: 1000, ..options.clone() }).unwrap();
    let mut next = 10;
    while world.core.stats().active_segment <= 30 {
        let segment = world.core.stats().active_segment;
        for _ in 0..15 {
            let bytes = Bytes::from(vec![7; 4000]);
            world.submit(vec![Entry::HardState { log: log(next), kind: HardStateKind::Promise, bytes }]).unwrap();
            next += 1;
        }
        world.append_synced(log(2), 1, 300);
        while world.core.stats().active_segment == segment {
            world.append_synced(log(1), 1, 100_000);
        }
    }
    release_all(&mut world, log(1)).unwrap();
    world.run();
    let said = usize::try_from(next - 10).unwrap() * 4000;
    assert!(said > limits::RELOCATION_BYTES_MAX * 3 / 2, "{said}");
    world.disk.kill_process();
    let mut world = World::open(world.disk, &Options { slack_segments: 0, ..options }).unwrap();
    let mut queued = 0;
    while world.take() || !world.flying.is_empty() {
        queued = queued.max(world.core.stats().queue_bytes);
        if !world.take() && !world.flying.is_empty() {
            world.finish(0);
        }
    }
    assert!(queued <= limits::RELOCATION_BYTES_MAX + 10_000, "{queued}");
    let stats = world.core.stats();
    assert!(stats.compactions >= 2 && stats.segments <= 8, "{stats:?}");
    assert_eq!(world.content().hard.len(), usize::try_from(next - 10).unwrap());
}

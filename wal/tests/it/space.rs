//! What bounds the space of a log: many ranges of live segments, and a full disk over many lives.

use bytes::Bytes;
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, HardStateKind, LogId, Lsn, Options, SubmitError, WhenFull, limits};

use crate::world::{Chance, SEGMENT, World, batch, log, options};

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
    let options = Options { segment_bytes: 1 << 20, group_bytes_max: 256 << 10, slack_segments: 0, ..options() };
    let mut world = World::open(VirtualDisk::new(), &options).unwrap();
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
    let said = usize::try_from(next - 10).unwrap() * 4000;
    assert!(said > limits::RELOCATION_BYTES_MAX * 3 / 2, "{said}");
    release_all(&mut world, log(1)).unwrap();
    let mut queued = 0;
    while world.take() || !world.flying.is_empty() {
        while world.take() {}
        queued = queued.max(world.core.stats().queue_bytes);
        world.finish(0);
    }
    assert!(queued <= limits::RELOCATION_BYTES_MAX + 10_000, "{queued}");
    let stats = world.core.stats();
    assert!(stats.compactions >= 2 && stats.segments <= 8, "{stats:?}");
    assert_eq!(world.content().hard.len(), usize::try_from(next - 10).unwrap());
}

fn roomy() -> Options {
    Options { segments_ahead: limits::SEGMENTS_AHEAD_DEFAULT, ..options() }
}

/// A disk that batches have filled as far as they may, with two logs in each segment.
fn filled() -> World {
    let mut world = World::open(VirtualDisk::new(), &roomy()).unwrap();
    world.run();
    for _ in 0..3 {
        world.append_synced(log(2), 1, 300);
        world.append_synced_to_the_next_segment(log(1));
    }
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    while world.append(log(1), 1, 4000).is_ok() {
        world.run();
    }
    assert_eq!(world.append(log(1), 1, 4000), Err(SubmitError::DiskFull));
    assert!(world.core.stats().segments_ready >= 2, "{:?}", world.core.stats());
    world
}

/// A batch that waits for room, as the engine's do.
fn wait(world: &mut World, of: LogId) {
    let entry = Entry::Batch(batch(
        of,
        world.core.end(of),
        world.core.end(of).epoch.max(towline_wal::Epoch::new(1, 1)),
        1,
        4000,
    ));
    let ticket = world.core.submit_when(vec![entry.clone()], WhenFull::Wait).unwrap();
    world.submitted.push((ticket, entry));
}

fn idle(world: &mut World) -> Result<(), SubmitError> {
    world.submit(vec![Entry::Release { log: log(2), before: Lsn::FIRST }]).map(drop)
}

#[test]
fn on_a_full_disk_every_life_can_release_however_many_there_were() {
    for kind in [CrashKind::DropAll, CrashKind::KeepAll] {
        for steps in [0, 1, 2, 3, 5, 8, 13, 1000] {
            let mut world = filled();
            for life in 0..30 {
                // Each life says something that frees nothing, tries to write, and dies after so many steps.
                wait(&mut world, log(1));
                idle(&mut world).unwrap_or_else(|e| panic!("{steps} steps, life {life}: {e} {:?}", world.core.stats()));
                let vow = Bytes::from(vec![u8::try_from(life).unwrap(); 20]);
                drop(world.submit(vec![Entry::HardState { log: log(2), kind: HardStateKind::Promise, bytes: vow }]));
                for _ in 0..steps {
                    if !world.take() && !world.flying.is_empty() {
                        world.finish(0);
                    }
                }
                let mut chance = Chance::new(life);
                world.disk.crash(kind, &mut |n| chance.below(n));
                world = World::open(world.disk, &roomy()).unwrap();
                assert!(
                    world.report.writable && world.report.is_intact(),
                    "{steps} steps, life {life}: {:?}",
                    world.report
                );
            }
            release_all(&mut world, log(1)).unwrap();
            release_all(&mut world, log(2)).unwrap();
            world.run();
            assert!(world.core.stats().retired >= 3, "{steps}: {:?}", world.core.stats());
            for _ in 0..8 {
                world.append_synced_to_the_next_segment(log(1));
                release_all(&mut world, log(1)).unwrap();
                world.run();
            }
        }
    }
}

/// Power fails behind each change that an open makes, and behind each of those that the next one makes, and so on.
#[test]
fn an_open_that_dies_anywhere_leaves_room_for_the_next() {
    for stop in 1..40 {
        let mut disk = filled().disk;
        for life in 0..12 {
            disk.crash(CrashKind::DropAll, &mut |_| 0);
            let mut cuts = Vec::new();
            let before = disk.clone();
            let mut recorder = crate::world::Recorder { disk: &mut disk, cuts: &mut cuts };
            let (core, report) = towline_wal::LogCore::recover(&mut recorder, &roomy()).unwrap();
            assert!(report.writable && report.is_intact(), "{stop}, life {life}: {report:?}");
            drop(core);
            // Further on in each life, and from the start again.
            disk = cuts.into_iter().nth((stop * (life + 1)) % 17).unwrap_or(before);
        }
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        let mut world = World::open(disk, &roomy()).unwrap();
        assert!(world.report.writable, "{stop}: {:?}", world.report);
        release_all(&mut world, log(1)).unwrap();
        release_all(&mut world, log(2)).unwrap();
        world.run();
        world.append_synced_to_the_next_segment(log(1));
    }
}

#[test]
fn releases_that_free_nothing_never_use_up_the_room_of_those_that_do() {
    let mut world = filled();
    for i in 0..200 {
        idle(&mut world).unwrap_or_else(|e| panic!("release {i}: {e} {:?}", world.core.stats()));
        world.run();
        if i % 50 == 49 {
            world.disk.crash(CrashKind::DropAll, &mut |_| 0);
            world = World::open(world.disk, &roomy()).unwrap();
        }
    }
    release_all(&mut world, log(1)).unwrap();
    release_all(&mut world, log(2)).unwrap();
    world.run();
    world.append_synced_to_the_next_segment(log(1));
}

#[test]
fn a_release_goes_in_front_of_batches_that_wait_for_room() {
    let mut world = filled();
    for _ in 0..8 {
        wait(&mut world, log(1));
    }
    world.run();
    assert!(world.acknowledged_entries() < world.submitted.len(), "they wait");
    let before = world.core.durable_end(log(1)).lsn.next();
    world.submit(vec![Entry::Release { log: log(1), before }]).unwrap();
    world.submit(vec![Entry::Release { log: log(2), before: Lsn::new(4) }]).unwrap();
    world.run();
    assert_eq!(world.acknowledged_entries(), world.submitted.len(), "{:?}", world.core.stats());
    let content = world.content();
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let world = World::open(world.disk, &roomy()).unwrap();
    assert!(world.base.same(&content), "{:?}", world.base.differences(&content));
}

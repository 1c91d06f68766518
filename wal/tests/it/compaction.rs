//! Compaction: what is live stays, what is dead goes, and a crash at any step leaves one or the other.

use bytes::Bytes;
use towline_wal::inspect::verify_io;
use towline_wal::io::{Io, IoOp, IoRequest, execute};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Chain, Entry, Epoch, HardStateKind, LogCore, LogId, LogPosition, Lsn, Options};

use crate::world::{Chance, Model, SEGMENT, World, batch, log, options};

fn eager() -> Options {
    Options { slack_segments: 0, ..options() }
}

fn release_all(world: &mut World, of: LogId) {
    let before = world.core.end(of).lsn.next();
    world.submit(vec![Entry::Release { log: of, before }]).unwrap();
}

/// Log 1 fills segments; logs 2 and 3 have a batch here and there, so that no segment is ever dead.
fn sparse(segments: u64) -> World {
    let mut world = World::open(VirtualDisk::new(), &Options { slack_segments: 1000, ..options() }).unwrap();
    let bytes = Bytes::from_static(b"promised");
    world.submit(vec![Entry::HardState { log: log(2), kind: HardStateKind::Promise, bytes }]).unwrap();
    for i in 0..segments {
        world.append_synced(log(2 + i % 2), 1, 300);
        world.append_synced_to_the_next_segment(log(1));
    }
    release_all(&mut world, log(1));
    world.run();
    assert_eq!(world.core.stats().retired, 0);
    world
}

fn reopened(world: World, options: &Options) -> World {
    let mut disk = world.disk;
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    World::open(disk, options).unwrap()
}

#[test]
fn sparse_segments_become_one_and_everything_live_is_still_read() {
    for index_bytes_max in [0, 1 << 20] {
        let mut world = sparse(12);
        let content = world.content();
        let before = world.core.stats();
        let options = Options { index_bytes_max, ..eager() };
        world = reopened(world, &options);
        world.run();
        let after = world.core.stats();
        assert!(after.compactions >= 1, "{after:?}");
        assert!(after.segments <= 4, "{before:?} {after:?}");
        assert!(after.segments_bytes <= 2 * after.live_bytes + 3 * SEGMENT, "{after:?}");
        assert!(world.disk.used() <= 7 * SEGMENT, "{} bytes {:?} {after:?}", world.disk.used(), world.disk.list());
        for _ in 0..3 {
            assert!(world.content().same(&content), "{:?}", world.content().differences(&content));
            assert_eq!(world.core.hard_state(log(2), HardStateKind::Promise).unwrap(), "promised");
            assert!(world.report.is_intact(), "{:?}", world.report);
            let verified = verify_io(&mut world.disk).unwrap();
            assert!(verified.is_good() && verified.findings.is_empty(), "{verified:?}");
            world = reopened(world, &options);
        }
        // The logs go on behind what was moved.
        world.append_synced(log(2), 1, 100);
        world.append_synced(log(3), 1, 100);
        assert_eq!(world.lsns(log(2)), [1, 2, 3, 4, 5, 6, 7]);
    }
}

/// P2, as power cuts; processes are killed in `kills`.
#[test]
fn a_crash_at_any_step_of_a_compaction_loses_nothing() {
    for kind in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Chance] {
        for stop in 0..60 {
            let world = sparse(5);
            let mut world = reopened(world, &eager());
            let content = world.base.clone();
            for _ in 0..stop {
                if !world.take() && !world.flying.is_empty() {
                    world.finish(0);
                }
            }
            let mut chance = Chance::new(stop);
            world.disk.crash(kind, &mut |n| chance.below(n));
            let world = World::open(world.disk, &eager()).unwrap();
            assert!(world.base.same(&content), "step {stop}: {:?}", world.base.differences(&content));
            assert!(world.report.is_intact(), "step {stop}: {:?}", world.report);
        }
    }
}

/// Runs until a request of this kind is under way, and nothing else.
fn run_until(world: &mut World, wanted: fn(&IoOp) -> bool) -> usize {
    for _ in 0..10_000 {
        if let Some(i) = world.flying.iter().position(|request| wanted(&request.op)) {
            return i;
        }
        if !world.take() {
            assert!(!world.flying.is_empty(), "there is no such request");
            world.finish(0);
        }
    }
    panic!("there is no such request");
}

#[test]
fn what_dies_while_it_is_copied_does_not_come_back() {
    for with_truncation in [true, false] {
        let mut world = reopened(sparse(6), &eager());
        let copying = run_until(&mut world, |op| matches!(op, IoOp::Compact(_)));
        if with_truncation {
            let to = world.core.position_at(log(2), Lsn::new(1)).unwrap();
            let next = batch(log(2), to, Epoch::new(1, 5), 1, 50);
            world.submit(vec![Entry::Truncate { log: log(2), to }, Entry::Batch(next)]).unwrap();
        } else {
            world.submit(vec![Entry::Remove { log: log(2) }]).unwrap();
        }
        // Durable before the copy is done.
        for _ in 0..10 {
            if let Some(i) = world.flying.iter().position(|r| matches!(r.op, IoOp::Write { .. } | IoOp::Sync { .. })) {
                world.finish(i);
            }
            world.take();
        }
        world.finish(copying);
        world.run();
        assert!(world.core.stats().compactions >= 1);
        // The segment with the record that killed it would be dead by now, but for what it killed.
        for _ in 0..6 {
            world.append_synced_to_the_next_segment(log(4));
            release_all(&mut world, log(4));
            world.run();
        }
        let expected: &[u64] = if with_truncation { &[1, 2] } else { &[] };
        for _ in 0..3 {
            assert_eq!(world.lsns(log(2)), expected);
            assert!(world.report.is_intact(), "{:?}", world.report);
            world = reopened(world, &eager());
            world.run();
        }
    }
}

/// Carries out what may be carried out, until there is no more of that.
fn run_those(world: &mut World, may_run: fn(&IoOp) -> bool) {
    loop {
        while world.take() {}
        let Some(i) = world.flying.iter().position(|request| may_run(&request.op)) else { return };
        world.finish(i);
    }
}

#[test]
fn what_a_compacted_file_stands_for_is_not_called_gone_before_that_file_has_its_name() {
    let options = Options { segments_ahead: 3, ..eager() };
    let mut world = reopened(sparse(6), &options);
    let (second, third) = (world.lsns(log(2)), world.lsns(log(3)));
    run_those(&mut world, |op| !matches!(op, IoOp::Compact(_)));
    world.finish(0);
    world.take();
    assert!(matches!(world.flying[..], [IoRequest { op: IoOp::InstallCompacted { .. }, .. }]), "{:?}", world.flying);
    world.finish(0);
    // That name is not synced, nor any other that would take it along.
    let may_run = |op: &IoOp| matches!(op, IoOp::Write { .. } | IoOp::Sync { .. } | IoOp::Seal { .. });
    let (active, retired) = (world.core.stats().active_segment, world.core.stats().retired);
    while world.core.stats().active_segment == active {
        world.append(log(4), 1, 5000).unwrap();
        run_those(&mut world, may_run);
    }
    release_all(&mut world, log(4));
    run_those(&mut world, may_run);
    assert!(world.core.stats().retired > retired, "a segment went meanwhile: {:?}", world.core.stats());
    let mut world = reopened(world, &options);
    assert!(world.report.is_intact(), "{:?}", world.report);
    assert_eq!((world.lsns(log(2)), world.lsns(log(3))), (second, third));
}

#[test]
fn a_damaged_source_is_not_compacted_and_named() {
    let world = sparse(6);
    let mut disk = world.disk;
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    // In the middle of the third segment: a batch of log 1, dead or not; the copy trusts no file that is not whole.
    assert!(disk.flip_bit("0000000000000003.seg", 8 * 20_000));
    let mut world = World::open(disk, &eager()).unwrap();
    let content = world.base.clone();
    world.run();
    let stats = world.core.stats();
    assert!(stats.compactions_failed >= 1, "{stats:?}");
    assert!(world.core.poisoned().is_none());
    assert!(world.content().same(&content));
    assert!(world.disk.list().unwrap().contains(&"0000000000000003.seg".to_owned()));
}

#[test]
fn a_full_disk_gives_a_compaction_up_and_takes_appends() {
    let world = sparse(6);
    let mut disk = world.disk;
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut world = World::open(disk, &eager()).unwrap();
    let content = world.base.clone();
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    world.run();
    assert!(world.core.stats().compactions_failed >= 1, "{:?}", world.core.stats());
    assert!(world.core.poisoned().is_none());
    assert!(world.content().same(&content));
    let names = world.disk.list().unwrap();
    assert!(!names.iter().any(|name| name.ends_with(".new")), "what was begun is gone: {names:?}");
    world.append_synced(log(2), 1, 100);
}

#[test]
fn a_failed_rename_poisons_since_nobody_knows_which_file_is_there() {
    let mut world = reopened(sparse(6), &eager());
    let i = run_until(&mut world, |op| matches!(op, IoOp::InstallCompacted { .. }));
    let request = world.flying.remove(i);
    let failure = towline_wal::io::IoFailure::new(std::io::ErrorKind::Other, "rename", "x");
    world.core.on_io(request.id, Err(failure));
    assert!(world.core.poisoned().is_some());
}

#[test]
fn space_stays_bounded_under_random_work() {
    let mut world = World::open(VirtualDisk::with_seed(7), &eager()).unwrap();
    let mut chance = Chance::new(7);
    let mut model = Model::default();
    for _ in 0..400 {
        let of = log(chance.below(6));
        for _ in 0..4 {
            world.append(of, 1, 600 + usize::try_from(chance.below(3000)).unwrap()).unwrap();
        }
        world.run();
        // Five logs are short; the sixth is released rarely.
        if of != log(5) || chance.below(40) == 0 {
            let end = world.core.end(of).lsn.get();
            world.submit(vec![Entry::Release { log: of, before: Lsn::new(end.saturating_sub(6)) }]).unwrap();
            world.run();
        }
        let stats = world.core.stats();
        assert!(stats.segments_bytes <= 2 * stats.live_bytes + 8 * SEGMENT, "{stats:?}");
    }
    assert!(world.core.stats().compactions > 5, "{:?}", world.core.stats());
    world.submitted.iter().for_each(|(_, entry)| model.apply(entry));
    assert!(world.content().same(&model), "{:?}", world.content().differences(&model));
    let mut world = reopened(world, &eager());
    assert!(world.content().same(&model));
}

/// Something happens to one of four logs; they begin anew and end more often than in any life. An id that was removed is
/// not used again.
fn churn(world: &mut World, ids: &mut [u64; 4], chance: &mut Chance) {
    let id = &mut ids[usize::try_from(chance.below(4)).unwrap()];
    let of = log(*id);
    let end = world.core.end(of);
    let epoch = Epoch::new(1, end.epoch.term + 1);
    match chance.below(24) {
        0 if world.submit(vec![Entry::Remove { log: of }]).is_ok() => *id += 4,
        1 | 2 => {
            let lsn = Lsn::new((end.lsn.get() + 3).saturating_sub(chance.below(5)).max(1));
            let to = LogPosition { epoch, lsn, chain: Chain::new(chance.below(1 << 32)) };
            world.submit(vec![Entry::Reset { log: of, to }]).unwrap();
        }
        3 => {
            let back = Lsn::new(end.lsn.get().saturating_sub(chance.below(6))).max(world.core.start(of).lsn);
            world.core.load_index(&mut world.disk, of, back);
            let to = world.core.boundary_at_or_before(of, back).unwrap();
            world.submit(vec![Entry::Truncate { log: of, to }, Entry::Batch(batch(of, to, epoch, 1, 100))]).unwrap();
        }
        4 | 5 => {
            let before = Lsn::new(end.lsn.get().saturating_sub(chance.below(4)));
            world.core.load_index(&mut world.disk, of, before.prev());
            drop(world.submit(vec![Entry::Release { log: of, before }]));
        }
        6 => {
            let bytes = Bytes::from(chance.below(u64::MAX).to_le_bytes().to_vec());
            world.submit(vec![Entry::HardState { log: of, kind: HardStateKind::Promise, bytes }]).unwrap();
        }
        _ => drop(world.append(of, 1, 500 + usize::try_from(chance.below(11_000)).unwrap()).unwrap()),
    }
    world.run();
}

/// A record that ends something goes only when nothing on the disk says any more that it began: not in its own segment, and
/// not in an older one that this was moved into.
#[test]
fn what_ended_stays_ended_however_its_segments_are_moved() {
    let mut compactions = 0;
    for seed in 0..100 {
        let mut chance = Chance::new(seed);
        let mut world = World::open(VirtualDisk::with_seed(seed), &eager()).unwrap();
        let (mut model, mut seen, mut ids) = (Model::default(), 0, [0, 1, 2, 3]);
        for step in 0..300 {
            churn(&mut world, &mut ids, &mut chance);
            world.submitted.iter().skip(seen).for_each(|(_, entry)| model.apply(entry));
            seen = world.submitted.len();
            let mut disk = world.disk.clone();
            disk.crash(CrashKind::DropAll, &mut |_| 0);
            let index_bytes_max = if step % 2 == 0 { 0 } else { 1 << 20 };
            let again = World::open(disk, &Options { index_bytes_max, ..eager() }).unwrap();
            let differences = again.base.differences(&model);
            assert!(again.base.same(&model), "seed {seed}, step {step}: {differences:?} {:?}", again.report);
            if chance.below(40) == 0 {
                let stats = world.core.stats();
                assert_eq!(stats.compactions_failed, 0, "seed {seed}, step {step}");
                compactions += stats.compactions;
                (world, seen) = (again, 0);
            }
        }
    }
    assert!(compactions > 200, "{compactions}");
}

/// Says in a segment's footer, with all its checksums, that a log's first batches there are of another epoch.
fn forge_an_epoch(disk: &mut VirtualDisk, segment: u64, of: LogId, version: u64) {
    let name = towline_wal::io::segment_name(segment);
    let mut content = vec![0; usize::try_from(disk.len(&name).unwrap()).unwrap()];
    disk.read_at(&name, 0, &mut content).unwrap();
    let trailer = content.len() - 64;
    let number = |at: usize| u32::from_le_bytes(content[trailer + at..trailer + at + 4].try_into().unwrap()) as usize;
    let summary = number(32)..number(32) + number(40);
    let logs = summary.start + 32 + 4096;
    let log = content[logs..summary.end].windows(16).position(|w| w == of.as_u128().to_le_bytes()).unwrap();
    content[logs + log + 72..][..8].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&content[summary]);
    content[trailer + 44..][..4].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&content[trailer..trailer + 60]);
    content[trailer + 60..].copy_from_slice(&crc.to_le_bytes());
    disk.write_at(&name, 0, &[Bytes::from(content)]).unwrap();
    disk.sync_data(&name).unwrap();
}

/// What is moved becomes the truth: if the index says otherwise, one of the two is damaged, and both are left as they are.
#[test]
fn what_a_segment_holds_and_the_index_does_not_know_is_not_moved() {
    for index_bytes_max in [0, 1 << 20] {
        let mut world = sparse(12);
        world.run();
        forge_an_epoch(&mut world.disk, 11, log(2), 77);
        let (options, mut disk) = (Options { index_bytes_max, ..eager() }, world.disk);
        let end = LogPosition { epoch: Epoch::new(77, 1), ..world.core.end(log(2)) };
        for _ in 0..2 {
            disk.kill_process();
            let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
            assert_eq!(core.end(log(2)), end);
            while let Some(request) = core.poll_io() {
                let result = execute(&mut disk, &request);
                core.on_io(request.id, result);
            }
            assert!(core.stats().compactions_failed >= 1, "{:?}", core.stats());
            assert_eq!(core.end(log(2)), end);
        }
        assert!(!verify_io(&mut disk).unwrap().is_good(), "a scrub says so");
    }
}

//! D7: the sync of a directory fails once, the process ends, and what it was for is never durable, though the next life's sync
//! succeeds and the names are seen until power fails.

use towline_wal::io::{Io, IoOp, execute, segment_name};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, LogCore, OpenError, Options};

use crate::faults::{assert_nothing_is_lost, work_of_all_kinds};
use crate::losses::vow;
use crate::world::{Chance, World, options};

/// What is asked for, and how many of the request's syncs go well before the one of its name.
type Site = (&'static str, fn(&IoOp) -> bool, u64);

const SITES: [Site; 3] = [
    ("create", |op| matches!(op, IoOp::CreateSegment { .. }), 1),
    ("recycle", |op| matches!(op, IoOp::RecycleSegment { .. }), 0),
    ("names", |op| matches!(op, IoOp::SyncNames { .. }), 0),
];

fn eager() -> Options {
    Options { slack_segments: 0, ..options() }
}

fn marks(disk: &mut VirtualDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".unsynced"));
    names
}

/// Runs until one such request is under way, and nothing else.
fn run_until_asked(world: &mut World, is_wanted: fn(&IoOp) -> bool) -> usize {
    for round in 0..60 {
        work_of_all_kinds(world, round);
        while world.take() || !world.flying.is_empty() {
            let found = world.flying.iter().position(|request| is_wanted(&request.op));
            match world.flying.iter().position(|request| !is_wanted(&request.op)) {
                Some(other) => world.finish(other),
                None => {
                    if let Some(found) = found {
                        return found;
                    }
                }
            }
        }
    }
    unreachable!("it was never asked for")
}

/// A life behind the failure: everything that may take a name for durable, then power fails.
fn live_on(disk: VirtualDisk, told: &str) {
    let mut world = World::open(disk, &eager()).unwrap_or_else(|error| panic!("{told}: {error}"));
    assert_eq!(marks(&mut world.disk), [""; 0], "{told}: a sync vouches for all");
    for round in 0..6 {
        work_of_all_kinds(&mut world, round);
        world.run();
        assert_eq!(world.acknowledged_entries(), world.submitted.len(), "{told}");
        for seed in 0..3 {
            let mut disk = world.disk.clone();
            let mut chance = Chance::new(seed);
            disk.crash(if seed == 0 { CrashKind::DropAll } else { CrashKind::Chance }, &mut |n| chance.below(n));
            assert_nothing_is_lost(&world, disk, &format!("{told}, round {round}, seed {seed}"));
        }
    }
}

#[test]
fn a_name_whose_sync_failed_is_made_anew_by_the_next_life() {
    for (site, is_wanted, syncs) in SITES {
        let mut world = World::open(VirtualDisk::with_seed(11), &eager()).unwrap();
        let asked = run_until_asked(&mut world, is_wanted);
        world.disk.fail_sync_after(syncs);
        world.finish(asked);
        assert!(world.core.poisoned().is_some(), "{site}");
        let mut disk = world.disk;
        disk.kill_process();
        live_on(disk.clone(), site);
        // The next life's syncs may fail as well, and the life behind it is in doubt about the same names.
        let mut failed = 0;
        for failing in 0.. {
            let mut disk = disk.clone();
            disk.fail_sync_after(failing);
            match LogCore::recover(&mut disk, &eager()) {
                Err(OpenError::Io(_)) => failed += 1,
                Err(other) => panic!("{site}, sync {failing}: {other}"),
                Ok(_) => break,
            }
            disk.kill_process();
            live_on(disk, &format!("{site}, sync {failing} of the open fails"));
        }
        assert!(failed >= 2, "{site}: {failed}");
    }
}

/// The mark stands before the name does: whenever the process ends, whoever finds the name finds the mark, until the sync.
#[test]
fn a_name_is_marked_as_long_as_no_sync_vouches_for_it() {
    let install: Site = ("install", |op| matches!(op, IoOp::InstallCompacted { .. }), 0);
    for (site, is_wanted, _) in SITES.into_iter().chain([install]) {
        let mut world = World::open(VirtualDisk::with_seed(11), &eager()).unwrap();
        let asked = run_until_asked(&mut world, is_wanted);
        if site != "names" {
            assert_eq!(marks(&mut world.disk), [""; 0], "{site}: nothing is marked before");
        }
        world.cuts = Some(Vec::new());
        world.finish(asked);
        let mut cuts = world.cuts.take().unwrap();
        let marked = cuts.iter_mut().rposition(|cut| !marks(&mut cut.disk).is_empty()).unwrap();
        let vouched = usize::from(site != "install");
        assert_eq!(marked + vouched, cuts.len() - 1, "{site}: the last change takes the mark away, behind the sync");
        for (i, mut cut) in cuts.into_iter().enumerate() {
            let told = format!("{site}, change {i}");
            cut.disk.kill_process();
            for failing in 0..5 {
                let mut disk = cut.disk.clone();
                disk.fail_sync_after(failing);
                if LogCore::recover(&mut disk, &eager()).is_ok() {
                    break; // It has fewer syncs.
                }
                disk.kill_process();
                live_on(disk, &format!("{told}, and sync {failing} of the open fails"));
            }
            live_on(cut.disk, &told);
        }
    }
}

/// Segments are made on one thread and compacted ones installed on another. A sync that fails on one was for the other's name
/// too, and what the other syncs behind it vouches for nothing.
#[test]
fn a_sync_that_fails_on_one_thread_leaves_the_names_of_the_others_in_doubt() {
    let mut world = World::open(VirtualDisk::with_seed(11), &eager()).unwrap();
    let asked = run_until_asked(&mut world, |op| matches!(op, IoOp::SyncNames { .. }));
    let IoOp::SyncNames { segment } = world.flying[asked].op else { unreachable!("it was asked for") };
    let mark = segment_name(segment).replace(".seg", ".unsynced");
    // Under way on the other thread: it has its own name, and its sync fails.
    let mut other = world.flying[asked].clone();
    let names = world.disk.list().unwrap();
    let is_free = |number: &u64| !names.contains(&segment_name(*number));
    let next = (segment..).find(is_free).unwrap();
    other.op = IoOp::CreateSegment { segment: next, bytes: eager().segment_bytes };
    world.disk.fail_sync_after(1);
    execute(&mut world.disk, &other).unwrap_err();
    world.finish(asked);
    assert!(world.core.poisoned().is_some());
    assert!(marks(&mut world.disk).contains(&mark), "the installed one's sync proves nothing");
    let mut disk = world.disk;
    disk.kill_process();
    live_on(disk, "two threads");
}

/// An installation for which there is no room takes away no mark that a life before left.
#[test]
fn what_is_not_installed_for_want_of_room_leaves_an_old_mark() {
    let mut world = World::open(VirtualDisk::with_seed(11), &eager()).unwrap();
    let asked = run_until_asked(&mut world, |op| matches!(op, IoOp::CreateSegment { .. }));
    let mut asked = world.flying.swap_remove(asked);
    for was_in_doubt in [false, true] {
        let mut disk = VirtualDisk::new();
        let [name, mark] = [segment_name(7), "0000000000000007.unsynced".to_owned()];
        for file in ["0000000000000007.new", &name].into_iter().chain(was_in_doubt.then_some(mark.as_str())) {
            disk.create(file).unwrap();
        }
        disk.set_space(Some(disk.used()));
        for op in [IoOp::InstallCompacted { segment: 7 }, IoOp::CreateSegment { segment: 7, bytes: 1 << 16 }] {
            asked.op = op;
            let refused = execute(&mut disk, &asked).unwrap_err();
            assert!(refused.is_no_space(), "{refused}");
        }
        assert_eq!(disk.list().unwrap().contains(&mark), was_in_doubt);
    }
}

/// The first open makes the manifest: without its name the segments behind it are nobody's.
#[test]
fn a_manifest_whose_sync_failed_is_made_anew_by_the_next_life() {
    let mut failed = 0;
    for failing in 0..6 {
        let mut disk = VirtualDisk::new();
        disk.fail_sync_after(failing);
        failed += usize::from(LogCore::recover(&mut disk, &eager()).is_err());
        disk.kill_process();
        let mut world = World::open(disk, &eager()).unwrap();
        world.submit(vec![vow(b"7")]).unwrap();
        world.run();
        assert_eq!(marks(&mut world.disk), [""; 0], "{failing}");
        assert_eq!(world.acknowledged_entries(), 1);
        let mut disk = world.disk.clone();
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        assert_nothing_is_lost(&world, disk, &format!("sync {failing}"));
    }
    assert!(failed >= 4, "{failed}");
}

/// A full disk has room for no mark, and a retired segment's file is made the next one all the same; what the sync of that
/// leaves behind holds nothing.
#[test]
fn a_full_disk_has_its_segments_made_of_old_ones_without_a_mark() {
    let mut world = World::open(VirtualDisk::with_seed(11), &eager()).unwrap();
    let asked = run_until_asked(&mut world, |op| matches!(op, IoOp::RecycleSegment { .. }));
    let IoOp::RecycleSegment { to, .. } = world.flying[asked].op else { unreachable!("it was asked for") };
    world.disk.set_space(Some(world.disk.used()));
    let mut failing = world.disk.clone();
    let request = world.flying[asked].clone();
    world.finish(asked);
    assert!(world.core.poisoned().is_none());
    let names = world.disk.list().unwrap();
    assert!(names.contains(&segment_name(to)), "{names:?}");
    assert_eq!(marks(&mut world.disk), [""; 0]);
    failing.fail_sync_after(0);
    execute(&mut failing, &request).unwrap_err();
    failing.kill_process();
    failing.set_space(None);
    live_on(failing, "full");
}

/// A mark that lies there for nothing costs nothing.
#[test]
fn a_mark_without_its_name_is_taken_away() {
    let mut world = World::new();
    world.append_synced(crate::world::log(1), 3, 100);
    let mut disk = world.disk;
    disk.kill_process();
    for stem in ["0000000000000001", "0000000000000009", "MANIFEST"] {
        disk.create(&format!("{stem}.unsynced")).unwrap();
    }
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(marks(&mut world.disk), [""; 0]);
    assert_eq!(world.lsns(crate::world::log(1)), [1, 2, 3]);
    let release = Entry::Release { log: crate::world::log(1), before: towline_wal::Lsn::new(2) };
    world.submit(vec![release]).unwrap();
    world.run();
}

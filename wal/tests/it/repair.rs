//! Repair of a damaged directory: what it gives up, what it keeps, and that it can stop anywhere (rows D3, D12, D17 of the
//! fault list).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use towline_wal::inspect::{Batches, Wanted, inspect_io, verify_io};
use towline_wal::io::{Io, IoFailure, IoOp, LockOutcome, RealIo, segment_name};
use towline_wal::repair::{
    README_NAME, Repair, RepairAction, RepairError, RepairOptions, RepairPlan, Repaired, Unmendable,
};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, HardStateKind, LogCore, Lsn, OpenError, Wal};

use crate::damage::{SEG, disk_with, flip, group_of, long_disk, overwrite, read};
use crate::world::{Chance, SEGMENT, World, log, options};

const KEEP_TAIL: RepairOptions = RepairOptions { keep_tail: true };
const MANIFEST: &str = "MANIFEST";

/// A disk, and the refusal that it must meet.
type Case = (VirtualDisk, fn(&RepairError) -> bool);

fn repair(disk: &mut VirtualDisk, options: RepairOptions) -> Result<(RepairPlan, Repaired, VirtualDisk), RepairError> {
    let mut backup = VirtualDisk::new();
    let repair = Repair::begin(disk, options)?;
    let plan = repair.plan().clone();
    let repaired = repair.execute(&mut backup, "by a test")?;
    disk.kill_process();
    Ok((plan, repaired, backup))
}

fn whole(disk: &mut VirtualDisk, name: &str) -> Vec<u8> {
    let len = usize::try_from(disk.len(name).unwrap()).unwrap();
    read(disk, name, 0, len)
}

fn all_files(disk: &mut VirtualDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().unwrap();
    names.into_iter().map(|name| (name.clone(), whole(disk, &name))).collect()
}

/// Six batches of log 1, of which the third can't be read.
fn damaged_in_the_middle() -> VirtualDisk {
    let (mut disk, groups) = disk_with(6);
    flip(&mut disk, SEG, group_of(&groups, 3).batches[0].offset + 120);
    disk
}

fn range(first: u64, last: u64) -> (Lsn, Lsn) {
    (Lsn::new(first), Lsn::new(last))
}

#[test]
fn damage_in_the_middle_is_truncated_away_and_the_log_takes_batches_again() {
    let mut disk = damaged_in_the_middle();
    let before = all_files(&mut disk);
    let (plan, repaired, mut backup) = repair(&mut disk, RepairOptions::default()).unwrap();

    let [of] = &plan.logs[..] else { panic!("{plan:?}") };
    assert!(matches!(of.action, RepairAction::Truncate { to } if to.lsn == Lsn::new(2)), "{of:?}");
    assert_eq!((of.given_up.first, of.given_up.last, of.given_up_readable), (Lsn::new(3), Lsn::new(6), 3));
    assert_eq!((of.kept.map(|kept| (kept.first, kept.last)), of.cut_from), (Some(range(1, 2)), Lsn::new(3)));
    let said = plan.to_string();
    assert!(said.contains("LSN 3 can't be read: 0000000000000001.seg at byte"), "{said}");
    assert!(said.contains("truncated to LSN 2: LSN 3 to 6 are given up, 3 records of which could still"), "{said}");
    assert!(repaired.verified.is_good(), "{repaired:?}");

    for (name, bytes) in before.iter().filter(|(name, _)| plan.files.iter().any(|file| file.name == *name)) {
        assert_eq!(&whole(&mut backup, name), bytes, "the copy holds the old {name}");
    }
    assert_eq!(backup.list().unwrap(), [SEG, MANIFEST, README_NAME], "and nothing that was not touched");
    let text = String::from_utf8(whole(&mut backup, README_NAME)).unwrap();
    assert!(text.contains("by a test") && text.contains(&said), "{text}");

    let mut world = World::open(disk, &options()).unwrap();
    assert!(world.report.is_intact() && world.report.clean_close, "{:?}", world.report);
    assert_eq!(world.lsns(log(1)), [1, 2]);
    assert_eq!(world.core.cuts()[0].from, Lsn::new(3), "only its owner knows when it has everything again");
    world.append_synced(log(1), 3, 100);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2, 3, 4, 5]);
    assert_eq!(world.core.cuts()[0].from, Lsn::new(3));
}

#[test]
fn a_second_repair_has_nothing_to_do() {
    let mut disk = damaged_in_the_middle();
    repair(&mut disk, RepairOptions::default()).unwrap();
    let again = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
    assert!(again.plan().is_empty() && again.plan().unmendable.is_empty(), "{:?}", again.plan());
}

#[test]
fn a_sound_log_and_a_torn_one_have_nothing_to_repair() {
    let (mut disk, groups) = disk_with(3);
    let plan = Repair::begin(&mut disk.clone(), RepairOptions::default()).unwrap().plan().clone();
    assert!(plan.is_empty() && plan.torn.is_none());
    let end = group_of(&groups, 3).batches[0].offset + 120;
    flip(&mut disk, SEG, end);
    let seen = verify_io(&mut disk.clone()).unwrap();
    let torn = seen.torn().unwrap();
    assert!(seen.is_good(), "nobody was promised it");
    assert_eq!((torn.segment, torn.offset, torn.group), (1, group_of(&groups, 3).offset, group_of(&groups, 3).number));
    assert_eq!((seen.report.cuts[0].log, seen.report.cuts[0].from), (log(1), Lsn::new(3)));
    let plan = Repair::begin(&mut disk, RepairOptions::default()).unwrap().plan().clone();
    assert!(plan.is_empty() && plan.torn == Some(torn));
}

/// A long log with one batch of segment 2 damaged behind its good footer: the LSN of that batch.
fn hidden_damage() -> (VirtualDisk, Lsn) {
    let (mut disk, _) = long_disk();
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(1).groups;
    let batch = &groups[2].batches[0];
    flip(&mut disk, &segment_name(2), batch.offset + 200);
    (disk, batch.first)
}

#[test]
fn damage_behind_a_good_footer_is_found_and_told_by_a_cut_before_it_is_given_up() {
    let (mut disk, lost) = hidden_damage();
    let (opened, report) = LogCore::recover(&mut disk.clone(), &options()).unwrap();
    assert!(report.is_intact() && opened.cuts().is_empty(), "an open does not read what a footer speaks of");
    assert_eq!(verify_io(&mut disk.clone()).unwrap().damaged()[0].first, lost);

    let (plan, repaired, backup) = repair(&mut disk, RepairOptions::default()).unwrap();
    assert!(repaired.verified.is_good(), "{repaired:?}");
    let names: Vec<&str> = plan.files.iter().map(|file| file.name.as_str()).collect();
    assert!(names.starts_with(&[MANIFEST, &segment_name(2), &segment_name(3)]), "{names:?}");
    assert!(!names.contains(&SEG), "nothing of the first segment is given up");
    assert!(backup.used() >= SEGMENT * 3);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.lsns(log(1)).last(), Some(&lost.prev().get()));
    assert_eq!((world.core.cuts()[0].log, world.core.cuts()[0].from), (log(1), lost));
    world.append_synced_to_the_next_segment(log(1));
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.core.cuts()[0].from, lost);
}

#[test]
fn damage_behind_other_damage_of_the_same_log_is_found_too() {
    let (mut disk, lost) = hidden_damage();
    let first = inspect_io(&mut disk.clone()).unwrap().segments[0].groups[1].batches[0].clone();
    flip(&mut disk, SEG, first.offset + 200);
    // Without its footer it is scanned, and what is damaged there is known to every open.
    flip(&mut disk, SEG, SEGMENT - 6);
    let seen = verify_io(&mut disk).unwrap();
    assert_eq!(seen.report.damaged.len(), 1, "{seen:?}");
    assert_eq!(seen.damaged().iter().map(|range| range.first).collect::<Vec<_>>(), [first.first, lost]);
}

#[test]
fn with_keep_tail_damage_at_the_beginning_is_released_and_the_tail_stays() {
    let (mut disk, groups) = disk_with(5);
    flip(&mut disk, SEG, group_of(&groups, 1).batches[0].offset + 120);
    let (plan, ..) = repair(&mut disk.clone(), RepairOptions::default()).unwrap();
    assert_eq!((plan.logs[0].kept, plan.logs[0].given_up_readable), (None, 4), "without, the log is emptied");

    let (plan, repaired, _) = repair(&mut disk, KEEP_TAIL).unwrap();
    assert!(matches!(plan.logs[0].action, RepairAction::Release { to } if to.lsn == Lsn::new(1)), "{plan:?}");
    assert!(plan.to_string().contains("released up to LSN 1: LSN 1 is given up\n  LSN 2 to 5 are kept"), "{plan}");
    assert!(repaired.verified.is_good());
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.lsns(log(1)), [2, 3, 4, 5]);
    assert_eq!(world.core.start(log(1)).lsn, Lsn::new(1));
    assert_eq!(world.core.cuts()[0].from, Lsn::new(1));
    world.append_synced(log(1), 1, 10);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [2, 3, 4, 5, 6]);
}

#[test]
fn with_keep_tail_a_batch_whose_predecessor_is_unknown_goes_with_the_damage() {
    let (mut disk, groups) = disk_with(5);
    // The second group names what the first held; both lose their headers, and the third names the second's only.
    flip(&mut disk, SEG, group_of(&groups, 1).offset + 40);
    flip(&mut disk, SEG, group_of(&groups, 2).offset + 40);
    let (plan, repaired, _) = repair(&mut disk, KEEP_TAIL).unwrap();
    assert!(matches!(plan.logs[0].action, RepairAction::Release { to } if to.lsn == Lsn::new(2)), "{plan:?}");
    assert_eq!(plan.logs[0].given_up_readable, 1);
    assert!(repaired.verified.report.damaged.is_empty());
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.lsns(log(1)), [3, 4, 5]);
}

#[test]
fn with_keep_tail_damage_behind_good_batches_is_truncated_all_the_same() {
    let mut disk = damaged_in_the_middle();
    let (plan, ..) = repair(&mut disk, KEEP_TAIL).unwrap();
    assert!(matches!(plan.logs[0].action, RepairAction::Truncate { to } if to.lsn == Lsn::new(2)));
}

#[test]
fn each_damaged_log_is_repaired_and_the_others_are_left_alone() {
    let mut world = World::new();
    world.run();
    for _ in 0..4 {
        for n in 1..=3 {
            world.append_synced(log(n), 1, 100);
        }
    }
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    // Log 1 loses its second batch, log 3 its third.
    flip(&mut disk, SEG, groups[4].batches[0].offset + 120);
    flip(&mut disk, SEG, groups[9].batches[0].offset + 120);
    let (plan, repaired, _) = repair(&mut disk, RepairOptions::default()).unwrap();
    assert_eq!(plan.logs.iter().map(|of| of.log).collect::<Vec<_>>(), [log(1), log(3)]);
    assert!(repaired.verified.is_good());
    let mut world = World::open(disk, &options()).unwrap();
    let left: Vec<usize> = (1..=3).map(|n| world.lsns(log(n)).len()).collect();
    assert_eq!(left, [1, 4, 2]);
}

#[test]
fn a_lost_manifest_is_made_anew_where_the_segments_agree() {
    let (disk, _) = disk_with(3);
    let uuid = inspect_io(&mut disk.clone()).unwrap().directory_uuid;
    let manifest = whole(&mut disk.clone(), MANIFEST);
    for is_removed in [true, false] {
        let mut disk = disk.clone();
        if is_removed {
            disk.remove(MANIFEST).unwrap();
            // Somebody had begun to make one.
            disk.create("MANIFEST.new").unwrap();
        } else {
            flip(&mut disk, MANIFEST, 10);
        }
        disk.sync_dir().unwrap();
        assert!(matches!(LogCore::recover(&mut disk.clone(), &options()), Err(OpenError::Manifest { .. })));
        let (plan, repaired, mut backup) = repair(&mut disk, RepairOptions::default()).unwrap();
        assert!(plan.manifest.is_some() && plan.logs.is_empty() && plan.directory_uuid == uuid);
        assert!(repaired.verified.is_good());
        assert_eq!(backup.list().unwrap().contains(&MANIFEST.to_owned()), !is_removed);
        let says_remove = String::from_utf8(whole(&mut backup, README_NAME)).unwrap().contains("Remove MANIFEST");
        assert_eq!(says_remove, is_removed);
        assert_eq!(whole(&mut disk, MANIFEST), manifest);
        assert_eq!(World::open(disk, &options()).unwrap().lsns(log(1)), [1, 2, 3]);
    }
}

#[test]
fn a_lost_manifest_and_damage_are_repaired_together() {
    let mut disk = damaged_in_the_middle();
    disk.remove(MANIFEST).unwrap();
    disk.create("MANIFEST.new").unwrap();
    disk.sync_dir().unwrap();
    let (plan, repaired, _) = repair(&mut disk, RepairOptions::default()).unwrap();
    assert!(plan.manifest.is_some() && plan.logs.len() == 1);
    assert!(repaired.verified.is_good());
    assert_eq!(World::open(disk, &options()).unwrap().lsns(log(1)), [1, 2]);
}

#[test]
fn a_manifest_is_not_made_anew_from_segments_that_disagree_or_say_nothing() {
    let (mut disk, _) = disk_with(2);
    let mut other = World::open(VirtualDisk::with_seed(99), &options()).unwrap();
    other.append_synced(log(1), 40, 4000);
    let stray = whole(&mut other.disk, &segment_name(3));
    disk.remove(MANIFEST).unwrap();
    let mut mixed = disk.clone();
    mixed.create(&segment_name(3)).unwrap();
    overwrite(&mut mixed, &segment_name(3), 0, stray);
    flip(&mut disk, SEG, 30);
    for mut disk in [mixed, disk] {
        let before = all_files(&mut disk);
        let refused = Repair::begin(&mut disk, RepairOptions::default()).unwrap_err();
        assert!(matches!(refused, RepairError::NoManifest { .. }), "{refused}");
        assert_eq!(all_files(&mut disk), before, "nothing was changed");
    }
}

#[test]
fn what_no_open_takes_is_refused_with_its_reason_and_nothing_is_changed() {
    let (mut held, _) = disk_with(1);
    held.lock().unwrap();
    let (mut gone, _) = long_disk();
    gone.remove(&segment_name(2)).unwrap();
    gone.remove(&segment_name(3)).unwrap();
    let cases: [Case; 3] = [
        (VirtualDisk::new(), |e| matches!(e, RepairError::NotALog)),
        (held, |e| matches!(e, RepairError::Refused(OpenError::Locked { pid: Some(1) }))),
        (gone, |e| matches!(e, RepairError::Refused(OpenError::Missing { segment: 2 }))),
    ];
    for (mut disk, expected) in cases {
        let before = (all_files(&mut disk), disk.stats().writes);
        let refused = Repair::begin(&mut disk, RepairOptions::default()).unwrap_err();
        assert!(expected(&refused), "{refused:?}");
        assert_eq!((all_files(&mut disk), disk.stats().writes), before);
    }
}

#[test]
fn what_no_repair_mends_is_said() {
    let mut world = World::new();
    world.run();
    world.append_synced(log(1), 2, 100);
    let vow = Entry::HardState { log: log(5), kind: HardStateKind::Promise, bytes: Bytes::from_static(b"7") };
    world.submit(vec![vow]).unwrap();
    world.run();
    world.append_synced(log(1), 2, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    flip(&mut disk, SEG, groups[3].offset + 40);
    let plan = Repair::begin(&mut disk, RepairOptions::default()).unwrap().plan().clone();
    assert!(plan.is_empty());
    let [Unmendable::DoubtfulHardState { log: of, kind: HardStateKind::Promise }] = plan.unmendable[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(of, log(5));

    let (mut disk, _) = long_disk();
    disk.remove(&segment_name(2)).unwrap();
    disk.sync_dir().unwrap();
    let (plan, repaired, _) = repair(&mut disk, RepairOptions::default()).unwrap();
    assert!(plan.unmendable.contains(&Unmendable::MissingSegment { segment: 2 }), "{plan:?}");
    assert_eq!(repaired.verified.report.segments_missing, [2], "it is still missed");
    assert!(repaired.verified.damaged().is_empty(), "and no log has a hole any more");
    let mut world = World::open(disk, &options()).unwrap();
    world.append(log(1), 1, 10).expect("it takes batches again");
}

#[test]
fn a_copy_that_has_no_room_or_whose_place_is_taken_stops_the_repair_before_it_begins() {
    let disk = damaged_in_the_middle();
    let mut full = VirtualDisk::new();
    full.set_space(Some(SEGMENT * 2));
    let mut taken = VirtualDisk::new();
    taken.create("notes").unwrap();
    let cases: [Case; 2] = [
        (full, |e| matches!(e, RepairError::NoRoom { .. })),
        (taken, |e| matches!(e, RepairError::BackupExists { name } if name == "notes")),
    ];
    for (mut backup, expected) in cases {
        let mut disk = disk.clone();
        let (before, names) = (all_files(&mut disk), backup.list().unwrap());
        let refused = Repair::begin(&mut disk, RepairOptions::default()).unwrap().execute(&mut backup, "");
        assert!(refused.as_ref().is_err_and(expected), "{refused:?}");
        assert_eq!((all_files(&mut disk), backup.list().unwrap()), (before, names));
    }
}

#[test]
fn a_sector_that_cannot_be_read_does_not_keep_the_rest_from_being_copied() {
    let (mut disk, groups) = disk_with(4);
    let mut old = whole(&mut disk, SEG);
    let at = group_of(&groups, 2).offset;
    disk.fail_reads(SEG, at..at + 4096, u64::MAX);
    let (plan, repaired, mut backup) = repair(&mut disk, RepairOptions::default()).unwrap();
    assert_eq!(plan.logs[0].damaged[0].first, Lsn::new(2));
    assert!(repaired.verified.is_good());
    let at = usize::try_from(at).unwrap();
    old[at..at + 4096].fill(0);
    assert_eq!(whole(&mut backup, SEG), old, "what the medium does not give is zeroes");
    let [part] = &repaired.unread[..] else { panic!("{repaired:?}") };
    assert_eq!((part.file.as_str(), usize::try_from(part.offset).unwrap(), part.bytes), (SEG, at, 4096));
    let text = String::from_utf8(whole(&mut backup, README_NAME)).unwrap();
    assert!(text.contains(&format!("gaps:\n\n{part}\n\nKeep")), "{text}");
}

/// What a repair comes to if reads of the second group fail so many times from when its copy begins, and the copy.
fn with_reads_failing_in_the_copy(lost: &[usize], times: u64) -> (Result<Repaired, RepairError>, VirtualDisk, Vec<u8>) {
    let (mut disk, groups) = disk_with(4);
    for lsn in lost {
        flip(&mut disk, SEG, group_of(&groups, *lsn).batches[0].offset + 120);
    }
    let (before, old) = (all_files(&mut disk), whole(&mut disk, SEG));
    let at = group_of(&groups, 2).offset;
    let (mut backup, left) = (VirtualDisk::new(), Arc::new(AtomicU64::new(0)));
    let mut failing =
        Stopping { refuses: Some((at..at + 4096, Arc::clone(&left))), ..Stopping::after(&mut disk, u64::MAX) };
    let repair = Repair::begin(&mut failing, RepairOptions::default()).unwrap();
    left.store(times, Ordering::Relaxed);
    let repaired = repair.execute(&mut backup, "");
    assert_eq!(repaired.is_err(), all_files(&mut disk) == before, "all or nothing");
    (repaired, backup, old)
}

#[test]
fn a_read_that_fails_once_leaves_no_zeroes_in_the_copy() {
    // The large read fails, then that of the block.
    let (repaired, mut backup, old) = with_reads_failing_in_the_copy(&[3], 2);
    assert_eq!(repaired.unwrap().unread, []);
    assert_eq!(whole(&mut backup, SEG), old);
}

#[test]
fn what_could_be_read_and_cannot_be_copied_is_not_given_up() {
    let (refused, mut backup, _) = with_reads_failing_in_the_copy(&[3], u64::MAX);
    let Err(RepairError::Unread { range, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!((range.log, range.first), (log(1), Lsn::new(2)));
    assert!(!backup.list().unwrap().contains(&README_NAME.to_owned()), "the copy is not complete");
}

#[test]
fn files_of_retired_segments_are_left_as_they_are() {
    let mut world = World::new();
    world.append_synced(log(2), 1, 100);
    world.append_synced_to_the_next_segment(log(2));
    world.append_synced(log(1), 6, 100);
    world.append_synced_to_the_next_segment(log(1));
    world.submit(vec![Entry::Release { log: log(2), before: Lsn::new(u64::from(u32::MAX)) }]).unwrap();
    // Until the first file of a retired segment would be used again.
    let is_reuse = |op: &IoOp| matches!(op, IoOp::RecycleSegment { .. } | IoOp::DiscardSegment { .. });
    while !world.flying.iter().any(|request| is_reuse(&request.op)) {
        if !world.take() {
            world.finish(0);
        }
    }
    let mut disk = world.disk;
    disk.crash(CrashKind::KeepAll, &mut |_| 0);
    let seen = inspect_io(&mut disk.clone()).unwrap();
    assert!(seen.segments.iter().all(|segment| segment.number > 1) && disk.list().unwrap().contains(&SEG.to_owned()));
    let lost =
        seen.segments[0].groups.iter().flat_map(|group| &group.batches).filter(|b| b.log == log(1)).nth(2).unwrap();
    flip(&mut disk, &seen.segments[0].file, lost.offset + 120);
    // The repair has to make a segment of its own.
    for ready in seen.segments_ready {
        disk.remove(&segment_name(ready)).unwrap();
    }
    disk.sync_dir().unwrap();
    let old = whole(&mut disk, SEG);
    let (plan, repaired, mut backup) = repair(&mut disk, RepairOptions::default()).unwrap();
    assert!(repaired.verified.is_good() && !backup.list().unwrap().contains(&SEG.to_owned()), "{plan}");
    assert_eq!(whole(&mut disk, SEG), old);
    let mut world = World::open(disk, &options()).unwrap();
    world.run();
    assert!(!world.disk.list().unwrap().contains(&SEG.to_owned()), "the next life uses it");
    assert_eq!(world.lsns(log(1)), [1, 2]);
}

#[test]
fn on_real_files_the_copy_is_a_private_directory_beside_the_log() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (at, copy) = (dir.path().join("wal"), dir.path().join("copies/first"));
    let mut disk = damaged_in_the_middle();
    std::fs::create_dir(&at).unwrap();
    for (name, bytes) in all_files(&mut disk) {
        std::fs::write(at.join(name), bytes).unwrap();
    }
    let mut io = RealIo::new(&at);
    let begun = Repair::begin(&mut io, RepairOptions::default()).unwrap();
    let second = Repair::begin(&mut RealIo::new(&at), RepairOptions::default()).unwrap_err();
    assert!(matches!(second, RepairError::Refused(OpenError::Locked { .. })), "{second}");
    assert!(begun.execute(&mut RealIo::new(&copy), "now").unwrap().verified.is_good());
    drop(io);
    let names = RealIo::new(&copy).list().unwrap();
    assert_eq!(names, [SEG, MANIFEST, README_NAME], "and no lock");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read(copy.join(SEG)).unwrap(), whole(&mut disk, SEG));
    assert!(RealIo::new(&copy).free_bytes().unwrap().is_some_and(|bytes| bytes > 0));
    let (wal, report) = Wal::open(&at, options()).unwrap();
    assert!(report.is_intact());
    assert_eq!(wal.end(log(1)).lsn, Lsn::new(2));
}

/// A disk whose machine stops after so many changes.
struct Stopping<'a> {
    disk: &'a mut VirtualDisk,
    left: u64,
    /// Reads of a range of the first segment that fail, and how many still.
    refuses: Option<(Range<u64>, Arc<AtomicU64>)>,
}

impl<'a> Stopping<'a> {
    fn after(disk: &'a mut VirtualDisk, left: u64) -> Self {
        Self { disk, left, refuses: None }
    }

    fn step(&mut self, name: &str) -> Result<(), IoFailure> {
        let stopped = || IoFailure::new(std::io::ErrorKind::Other, "stop", name);
        self.left = self.left.checked_sub(1).ok_or_else(stopped)?;
        Ok(())
    }
}

impl Io for Stopping<'_> {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.disk.lock()
    }
    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.disk.list()
    }
    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.step(name).and_then(|()| self.disk.create(name))
    }
    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.disk.len(name)
    }
    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let end = offset + u64::try_from(buffer.len()).unwrap();
        let hit = self.refuses.as_ref().filter(|(at, _)| name == SEG && at.start < end && at.end > offset);
        if hit.is_some_and(|(_, left)| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
        }) {
            return Err(IoFailure::new(std::io::ErrorKind::Other, "read", name));
        }
        self.disk.read_at(name, offset, buffer)
    }
    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.step(name).and_then(|()| self.disk.write_at(name, offset, slices))
    }
    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.step(name).and_then(|()| self.disk.sync_data(name))
    }
    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.step(".").and_then(|()| self.disk.sync_dir())
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.step(from).and_then(|()| self.disk.rename(from, to))
    }
    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.step(name).and_then(|()| self.disk.remove(name))
    }
    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.disk.settle(name)
    }
    fn entropy(&mut self) -> u64 {
        self.disk.entropy()
    }
    fn process_id(&self) -> u32 {
        self.disk.process_id()
    }
}

/// Steps that a repair's log, or its copy, takes; a bound for the loops below.
const STEPS_MAX: u64 = 200;

#[test]
fn a_crash_anywhere_leaves_a_log_that_opens_or_can_be_repaired_again() {
    let (hidden, lost) = hidden_damage();
    let mut lost_manifest = damaged_in_the_middle();
    lost_manifest.remove(MANIFEST).unwrap();
    lost_manifest.sync_dir().unwrap();
    let worlds = [(damaged_in_the_middle(), Lsn::new(3)), (hidden, lost), (lost_manifest, Lsn::new(3))];
    for (which, (disk, lost)) in worlds.into_iter().enumerate() {
        let mut stops = 0;
        for steps in 0..STEPS_MAX {
            let mut done = false;
            for (kind, seed) in [(CrashKind::DropAll, 0), (CrashKind::KeepAll, 0), (CrashKind::Chance, steps + 1)] {
                let told = format!("world {which}, stopped after {steps} steps, {kind:?}, seed {seed}");
                let mut disk = disk.clone();
                let mut stopping = Stopping::after(&mut disk, steps);
                let repaired = Repair::begin(&mut stopping, RepairOptions::default())
                    .and_then(|repair| repair.execute(&mut VirtualDisk::new(), ""));
                done = repaired.is_ok();
                stops += u64::from(!done);
                let mut chance = Chance::new(seed);
                disk.crash(kind, &mut |n| chance.below(n));
                let (plan, repaired, _) = repair(&mut disk, RepairOptions::default()).expect(&told);
                assert!(!done || plan.is_empty(), "{told}: what was done stays done");
                assert!(repaired.verified.is_good(), "{told}: {repaired:?}");
                let mut world = World::open(disk, &options()).expect(&told);
                assert!(world.report.is_intact(), "{told}");
                assert_eq!(world.lsns(log(1)), (1..lost.get()).collect::<Vec<_>>(), "{told}");
                assert_eq!(world.core.cuts()[0].from, lost, "{told}");
                world.append(log(1), 1, 10).expect(&told);
            }
            if done {
                break;
            }
        }
        assert!((12..3 * STEPS_MAX).contains(&stops), "world {which}: {stops}");
    }
}

#[test]
fn the_copy_is_complete_before_the_log_changes() {
    let disk = damaged_in_the_middle();
    let old = whole(&mut disk.clone(), SEG);
    let mut failed = 0;
    for steps in 0..STEPS_MAX {
        let (mut disk, mut backup) = (disk.clone(), VirtualDisk::new());
        let before = (all_files(&mut disk), disk.stats().writes);
        let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
        let made = repair.execute(&mut Stopping::after(&mut backup, steps), "");
        if made.is_ok() {
            break;
        }
        failed += 1;
        assert!(matches!(made, Err(RepairError::Backup(_))), "{made:?}");
        assert_eq!((all_files(&mut disk), disk.stats().writes), before, "stopped after {steps} steps");
    }
    assert!((8..STEPS_MAX).contains(&failed), "{failed}");

    // Power fails at the log's very first change: the copy is all there.
    let (mut disk, mut backup) = (disk, VirtualDisk::new());
    let mut stopping = Stopping::after(&mut disk, 0);
    let stopped = Repair::begin(&mut stopping, RepairOptions::default()).unwrap().execute(&mut backup, "");
    assert!(matches!(stopped, Err(RepairError::Stopped(_))), "{stopped:?}");
    backup.crash(CrashKind::DropAll, &mut |_| 0);
    assert_eq!(backup.list().unwrap(), [SEG, MANIFEST, README_NAME]);
    assert_eq!(whole(&mut backup, SEG), old);
}

#[test]
fn the_steps_of_the_readme_bring_the_damaged_log_back() {
    for (mut disk, _) in [hidden_damage(), (damaged_in_the_middle(), Lsn::ZERO)] {
        let before = verify_io(&mut disk.clone()).unwrap();
        let (plan, _, mut backup) = repair(&mut disk, RepairOptions::default()).unwrap();
        assert_ne!(verify_io(&mut disk.clone()).unwrap(), before);
        for name in disk.list().unwrap() {
            if name.ends_with(".seg") && name > segment_name(plan.segment_last) {
                disk.remove(&name).unwrap();
            }
        }
        for (name, bytes) in all_files(&mut backup).into_iter().filter(|(name, _)| name != README_NAME) {
            disk.create(&name).unwrap();
            overwrite(&mut disk, &name, 0, bytes);
        }
        assert_eq!(verify_io(&mut disk).unwrap(), before);
    }
}

#[test]
fn batches_come_one_by_one_and_a_damaged_one_is_an_error_in_its_place() {
    let (disk, lost) = hidden_damage();
    let mut all = Batches::open_io(disk.clone(), Wanted::default()).unwrap();
    assert!(all.has_log(log(1)) && !all.has_log(log(7)));
    let lsns: Vec<Option<u64>> = all.by_ref().map(|batch| batch.ok().map(|batch| batch.first_lsn().get())).collect();
    assert_eq!(lsns.len(), 41, "of both logs");
    assert_eq!(lsns.iter().position(Option::is_none), Some(usize::try_from(lost.get()).unwrap() - 1));
    let wanted = Wanted { log: Some(log(1)), from: Lsn::new(3), to: Lsn::new(5) };
    let some: Vec<u64> =
        Batches::open_io(disk, wanted).unwrap().map(|batch| batch.unwrap().first_lsn().get()).collect();
    assert_eq!(some, [3, 4, 5]);

    let mut disk = damaged_in_the_middle();
    let damaged = |io, from, to| {
        let wanted = Wanted { log: Some(log(1)), from: Lsn::new(from), to: Lsn::new(to) };
        Batches::open_io(io, wanted).unwrap().damaged().iter().map(|range| range.first.get()).collect::<Vec<_>>()
    };
    assert_eq!(damaged(disk.clone(), 1, 9), [3]);
    assert!(damaged(disk.clone(), 4, 9).is_empty() && damaged(disk.clone(), 1, 2).is_empty());
    disk.remove(MANIFEST).unwrap();
    assert!(Batches::open_io(disk, Wanted::default()).is_err());
}

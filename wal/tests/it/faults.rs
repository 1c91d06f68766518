//! Failing syncs, full disks, refusals: what callers are told (rows D1, D6, D7, D8, D9, D11, D17, D21 and O4
//! of the fault list).

use std::io::ErrorKind;

use bytes::Bytes;
use towline_wal::inspect::inspect_io;
use towline_wal::io::{Io, IoOp};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{
    Chain, Entry, Epoch, HardStateKind, LogPosition, Lsn, OpenError, Options, ReadError, SubmitError, WalError,
    WhenFull,
};

use crate::world::{Chance, SEGMENT, World, batch, end_lsn, log, options};

/// D1.
#[test]
fn what_is_acknowledged_is_there_after_power_is_lost() {
    let mut world = World::new();
    world.append_synced(log(1), 5, 100);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2, 3, 4, 5]);
    assert_eq!(world.core.durable_end(log(1)), world.core.end(log(1)));
}

#[test]
fn nothing_is_acknowledged_before_its_sync() {
    let mut world = World::new();
    world.append(log(1), 1, 100).unwrap();
    while world.take() {}
    assert!(world.acknowledged.is_none());
    assert_eq!(world.core.durable_end(log(1)).lsn, Lsn::ZERO);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.lsns(log(1)).is_empty());
}

#[test]
fn what_waits_while_a_group_syncs_goes_in_one_group() {
    let mut world = World::new();
    world.run();
    let before = world.core.stats();
    world.append(log(0), 1, 10).unwrap();
    while world.take() {}
    for n in 1..=20 {
        world.append(log(n), 1, 10).unwrap();
    }
    world.run();
    let after = world.core.stats();
    assert_eq!((after.groups - before.groups, after.syncs - before.syncs), (2, 2));
}

/// D6.
#[test]
fn a_failed_sync_poisons_and_tells_every_waiter_and_the_reopened_log_shows_the_truth() {
    let mut world = World::new();
    world.append_synced(log(1), 2, 100);
    world.append(log(1), 1, 100).unwrap();
    world.take();
    world.append(log(1), 1, 100).unwrap();
    world.disk.fail_sync_after(0);
    world.run();
    assert_eq!(world.failed.len(), 2);
    assert!(world.failed.iter().all(|(_, error)| matches!(error, WalError::Poisoned(_))));
    assert!(matches!(world.append(log(1), 1, 1), Err(SubmitError::Poisoned(_))));
    assert!(world.core.poll_io().is_none(), "a poisoned log asks for nothing more");
    // The process restarts: the page cache still shows the group whose sync failed. It is not on the medium.
    let mut world = world.reopen().unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2]);
    world.append_synced(log(1), 1, 100);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
    assert!(world.report.is_intact());
}

/// D8: the half of a group that was written is nobody's.
#[test]
fn a_failed_write_poisons() {
    let mut world = World::new();
    world.run();
    world.append(log(1), 1, 5000).unwrap();
    world.disk.fail_write_after(0);
    world.run();
    assert!(matches!(world.failed[..], [(_, WalError::Poisoned(_))]));
    let mut world = world.crash(CrashKind::KeepAll, &mut Chance::new(1)).unwrap();
    assert!(world.lsns(log(1)).is_empty(), "half a group is no group");
}

/// D9.
#[test]
fn a_full_disk_refuses_and_reads_and_goes_on_when_there_is_room() {
    let mut world = World::new();
    world.run();
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    let mut accepted = 0;
    let refused = loop {
        match world.append(log(1), 1, 4000) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        world.run();
        assert!(accepted < 1000, "a full disk must refuse at some time");
    };
    assert_eq!(refused, SubmitError::DiskFull);
    assert!(world.core.poisoned().is_none());
    assert_eq!(world.acknowledged_entries(), accepted, "all that was accepted is acknowledged");
    assert_eq!(world.lsns(log(1)).len(), accepted, "reads go on");
    // Restarted on the full disk it opens, and reads.
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)).len(), accepted);
    world.disk.set_space(None);
    drop(world.append(log(1), 1, 4000)); // May be refused once more; that asks for room again.
    world.core.retry_preparation();
    world.run();
    world.append_synced(log(1), 3, 4000);
    assert!(world.lsns(log(1)).len() >= accepted + 3);
}

#[test]
fn what_may_wait_on_a_full_disk_is_durable_when_there_is_room() {
    let mut world = World::new();
    world.run();
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    while world.append(log(1), 1, 4000).is_ok() {
        world.run();
    }
    let mut waiting = 0;
    for _ in 0..20 {
        let end = world.core.end(log(1));
        let entry = Entry::Batch(batch(log(1), end, end.epoch, 1, 9000));
        let ticket = world.core.submit_when(vec![entry.clone()], WhenFull::Wait).unwrap();
        world.submitted.push((ticket, entry));
        world.run();
        waiting = world.submitted.len() - world.acknowledged_entries();
    }
    assert!(world.core.poisoned().is_none() && waiting > 0, "they wait");
    assert_eq!(world.append(log(1), 1, 4000), Err(SubmitError::DiskFull), "others are still refused");
    world.disk.set_space(None);
    world.core.retry_preparation();
    world.run();
    assert_eq!(world.acknowledged_entries(), world.submitted.len());
}

#[test]
fn a_full_disk_without_a_ready_segment_opens_for_reading_and_remembers_its_cuts() {
    let mut world = World::new();
    world.append_synced(log(1), 3, 100);
    // Unready the segment ahead, tear the tail, fill the disk.
    world.append(log(1), 1, 9000).unwrap();
    while world.take() {}
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    for name in world.disk.list().unwrap() {
        if name == "0000000000000002.seg" {
            world.disk.remove(&name).unwrap();
        }
    }
    world.disk.sync_dir().unwrap();
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    let mut world = World::open(world.disk, &options()).unwrap();
    assert!(!world.report.writable);
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
    assert_eq!(world.append(log(1), 1, 10), Err(SubmitError::DiskFull));
    world.disk.set_space(None);
    world.run();
    world.append_synced(log(1), 1, 10);
    assert_eq!(world.lsns(log(1)), [1, 2, 3, 4]);
}

#[test]
fn a_full_queue_is_busy_and_an_empty_one_takes_anything() {
    let mut world = World::open(VirtualDisk::new(), &Options { queue_bytes_max: 1000, ..options() }).unwrap();
    world.append(log(1), 1, 5000).unwrap();
    assert_eq!(world.append(log(1), 1, 10), Err(SubmitError::Busy { queue_bytes_max: 1000 }));
    world.run();
    world.append(log(1), 1, 10).unwrap();
}

#[test]
fn a_batch_of_another_history_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.append_synced(log(1), 2, 10);
    let end = world.core.end(log(1));
    let wrong = [
        LogPosition { lsn: Lsn::new(5), ..end },
        LogPosition { chain: Chain::new(1), ..end },
        LogPosition { epoch: Epoch::new(0, 1), ..end },
    ];
    let good = batch(log(2), LogPosition::origin(log(2)), Epoch::new(1, 1), 1, 1);
    for prev in wrong {
        let bad = batch(log(1), prev, Epoch::new(1, 1), 1, 1);
        let refused = world.submit(vec![Entry::Batch(good.clone()), Entry::Batch(bad)]);
        assert!(matches!(refused, Err(SubmitError::DoesNotFollow { .. })), "{refused:?}");
        assert_eq!((end_lsn(&world, log(1)), end_lsn(&world, log(2))), (Lsn::new(2), Lsn::ZERO));
    }
    let bad = Entry::Truncate { log: log(1), to: LogPosition { chain: Chain::new(1), ..end } };
    assert!(matches!(world.submit(vec![bad]), Err(SubmitError::NotABoundary { .. })));
    assert_eq!(world.submit(Vec::new()), Err(SubmitError::Empty));
    let large = Entry::HardState { log: log(1), kind: HardStateKind::Owner, bytes: Bytes::from(vec![0; 4097]) };
    assert!(matches!(world.submit(vec![large]), Err(SubmitError::TooLarge { .. })));
}

/// Otherwise an epoch that ended before the log begins, and the one behind it, are both said to begin there.
#[test]
fn a_log_that_is_cut_off_where_it_begins_tells_of_the_epoch_that_comes_next_and_no_other() {
    let mut world = World::new();
    world.append_synced(log(1), 6, 3000);
    let to = world.core.position_at(log(1), Lsn::new(4)).unwrap();
    world.submit(vec![Entry::Release { log: log(1), before: Lsn::new(5) }]).unwrap();
    world.submit(vec![Entry::Truncate { log: log(1), to }]).unwrap();
    let next = batch(log(1), to, Epoch::new(1, 2), 1, 10);
    world.submit(vec![Entry::Batch(next)]).unwrap();
    world.run();
    let told = [(Epoch::new(1, 2), Lsn::new(5))];
    assert_eq!(world.core.epochs(log(1)), told);
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.core.epochs(log(1)), told);
}

#[test]
fn a_truncated_suffix_does_not_come_back() {
    let mut world = World::new();
    world.append_synced(log(1), 6, 3000);
    let to = world.core.position_at(log(1), Lsn::new(2)).unwrap();
    world.submit(vec![Entry::Truncate { log: log(1), to }]).unwrap();
    world.run();
    assert_eq!(world.core.durable_end(log(1)), to);
    for _ in 0..3 {
        world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
        assert_eq!(world.lsns(log(1)), [1, 2]);
    }
    let other = batch(log(1), to, Epoch::new(1, 2), 1, 10);
    world.submit(vec![Entry::Batch(other)]).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
    assert_eq!(world.core.epochs(log(1)), [(Epoch::new(1, 1), Lsn::new(1)), (Epoch::new(1, 2), Lsn::new(3))]);
}

#[test]
fn a_truncation_that_overtakes_a_group_in_flight_wins() {
    let mut world = World::new();
    world.append_synced(log(1), 1, 10);
    let to = world.core.end(log(1));
    world.append(log(1), 1, 10).unwrap();
    world.take();
    world.submit(vec![Entry::Truncate { log: log(1), to }]).unwrap();
    world.append(log(1), 3, 10).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 4]);
}

#[test]
fn logs_live_through_many_segments_and_open_by_footers() {
    let mut world = World::new();
    for round in 0..40 {
        for n in 0..3 {
            world.append(log(n), 1, 3000).unwrap();
        }
        let bytes = Bytes::from(vec![round; 20]);
        world.submit(vec![Entry::HardState { log: log(9), kind: HardStateKind::Promise, bytes }]).unwrap();
        world.run();
    }
    let before = world.content();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.report.segments > 6);
    assert_eq!(world.report.segments_by_footer, world.report.segments - 1, "all but the last are known by footers");
    assert!(world.content().same(&before));
    // The tail was sealed by that open: now it too has a footer.
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.report.segments_by_footer, world.report.segments - 1);
    assert!(world.content().same(&before));
}

#[test]
fn closing_is_seen_by_the_next_open_and_refuses_submissions() {
    let mut world = World::new();
    world.append(log(1), 1, 10).unwrap();
    let ticket = world.core.begin_close();
    assert_eq!(world.append(log(1), 1, 10), Err(SubmitError::Closed));
    world.run();
    assert_eq!(world.acknowledged, Some(ticket));
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.report.clean_close);
    assert_eq!(world.lsns(log(1)), [1]);
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(!world.report.clean_close, "the second life did not close");
}

#[test]
fn a_read_before_the_start_and_past_the_end_is_said_not_guessed() {
    let mut world = World::new();
    world.append_synced(log(1), 3, 10);
    assert!(world.core.plan_read(log(1), Lsn::new(4), 1000).unwrap().is_empty());
    assert!(world.core.plan_read(log(7), Lsn::new(1), 1000).unwrap().is_empty());
    assert_eq!(world.core.plan_read(log(1), Lsn::new(2), 0).unwrap().len(), 1, "at least one batch");
    assert_eq!(world.core.plan_read(log(1), Lsn::new(1), 1 << 20).unwrap().len(), 3);
}

/// D17.
#[test]
fn a_read_error_that_goes_away_is_no_damage_and_one_that_stays_is_named() {
    let mut world = World::new();
    world.append_synced(log(1), 1, 10);
    let extent = world.core.plan_read(log(1), Lsn::new(1), 1000).unwrap()[0];
    let file = towline_wal::io::segment_name(extent.segment);
    world.disk.fail_reads(&file, extent.offset..extent.offset + 1, 1);
    assert!(extent.read(&mut world.disk).is_ok());
    world.disk.fail_reads(&file, extent.offset..extent.offset + 1, u64::MAX);
    let error = extent.read(&mut world.disk).unwrap_err();
    assert!(matches!(&error, ReadError::Corrupt { file: named, .. } if *named == file), "{error}");
}

/// O4.
#[test]
fn a_second_opener_is_told_who_holds_the_log() {
    let mut world = World::new();
    let refused = towline_wal::LogCore::recover(&mut world.disk, &options());
    assert!(matches!(refused, Err(OpenError::Locked { pid: Some(_) })));
}

/// D21: the manifest.
#[test]
fn a_missing_or_damaged_manifest_a_foreign_or_newer_one_refuses_and_changes_nothing() {
    let mut world = World::new();
    world.append_synced(log(1), 1, 10);
    world.disk.kill_process();
    let good = world.disk;

    let mut disk = good.clone();
    disk.remove("MANIFEST").unwrap();
    assert!(matches!(World::open(disk, &options()), Err(OpenError::Manifest { .. })));

    let mut disk = good.clone();
    disk.flip_bit("MANIFEST", 100);
    assert!(matches!(World::open(disk, &options()), Err(OpenError::Manifest { .. })));

    let other = Options { directory_uuid: Some([7; 16]), ..options() };
    assert!(matches!(World::open(good.clone(), &other), Err(OpenError::ForeignDirectory { .. })));

    let mut newer = vec![0; 64];
    let mut disk = good.clone();
    disk.read_at("MANIFEST", 0, &mut newer).unwrap();
    newer[4] = 2;
    let crc = crc32(&newer[..60]).to_le_bytes();
    newer[60..].copy_from_slice(&crc);
    disk.write_at("MANIFEST", 0, &[Bytes::from(newer)]).unwrap();
    assert!(matches!(World::open(disk, &options()), Err(OpenError::NewerFormat { found: 2, .. })));

    // A sound manifest, of a size that no segment has.
    for bytes in [4096_u64, (64 << 10) + 1, 1 << 40] {
        let mut odd = vec![0; 64];
        let mut disk = good.clone();
        disk.read_at("MANIFEST", 0, &mut odd).unwrap();
        odd[24..32].copy_from_slice(&bytes.to_le_bytes());
        let crc = crc32(&odd[..60]).to_le_bytes();
        odd[60..].copy_from_slice(&crc);
        disk.write_at("MANIFEST", 0, &[Bytes::from(odd)]).unwrap();
        assert!(matches!(World::open(disk, &options()), Err(OpenError::Manifest { .. })), "{bytes}");
    }

    // A segment of another directory under our name.
    let mut other = World::new().disk;
    let mut header = vec![0; 4096];
    other.read_at("0000000000000001.seg", 0, &mut header).unwrap();
    header[8..24].fill(9);
    let crc = crc32(&header[..4092]).to_le_bytes();
    header[4092..].copy_from_slice(&crc);
    let mut disk = good;
    disk.write_at("0000000000000001.seg", 0, &[Bytes::from(header)]).unwrap();
    let before = disk.stats();
    let mut kept = disk.clone();
    assert!(matches!(towline_wal::LogCore::recover(&mut kept, &options()), Err(OpenError::ForeignDirectory { .. })));
    assert_eq!(kept.stats().writes, before.writes, "nothing was written");
}

/// CRC-32 (IEEE), bit by bit: the tests' own, so that they don't ask the code under test.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn options_out_of_bounds_are_refused_by_name() {
    for segment_bytes in [0, SEGMENT - 4096, SEGMENT + 1, 2 << 30] {
        let refused = World::open(VirtualDisk::new(), &Options { segment_bytes, ..options() });
        assert!(matches!(refused, Err(OpenError::Options { option: "segment_bytes", .. })));
    }
}

#[test]
fn a_batch_can_be_read_once_it_is_written_and_not_before() {
    let mut world = World::new();
    world.run();
    world.append(log(1), 1, 10).unwrap();
    let planned = |world: &World| world.core.plan_read(log(1), Lsn::new(1), 1000).unwrap().len();
    assert_eq!(planned(&world), 0, "accepted");
    world.take();
    assert_eq!(planned(&world), 0, "being written");
    world.finish(0);
    assert_eq!((planned(&world), world.core.durable_end(log(1)).lsn), (1, Lsn::ZERO), "written, not durable");
    world.run();
    assert_eq!(world.core.durable_end(log(1)).lsn, Lsn::new(1));
}

#[test]
fn a_truncation_in_a_sealed_segment_holds_though_nothing_was_appended_behind_it() {
    let mut world = World::new();
    world.append_synced(log(1), 6, 3000);
    world.append_synced(log(2), 15, 4000);
    let to = world.core.position_at(log(1), Lsn::new(2)).unwrap();
    let before = world.core.stats().active_segment;
    world.submit(vec![Entry::Truncate { log: log(1), to }]).unwrap();
    world.append_synced(log(2), 30, 4000);
    assert!(before > 1 && world.core.stats().active_segment > before + 1);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.report.segments_by_footer, world.report.segments - 1);
    assert_eq!(world.lsns(log(1)), [1, 2]);
}

/// Work by which segments are made, given a new name, removed and compacted.
pub(crate) fn work_of_all_kinds(world: &mut World, round: u64) {
    world.append(log(1), 1, 200).unwrap();
    for _ in 0..8 {
        world.append(log(3), 1, 6000).unwrap();
    }
    if round % 3 == 2 {
        let before = world.core.durable_end(log(3)).lsn;
        world.core.load_index(&mut world.disk, log(3), before.prev());
        world.submit(vec![Entry::Release { log: log(3), before }]).unwrap();
    }
}

/// The reopened log shows a state that holds all that was acknowledged.
pub(crate) fn assert_nothing_is_lost(before: &World, disk: VirtualDisk, told: &str) {
    let mut after = World::open(disk, &options()).unwrap_or_else(|error| panic!("{told}: {error}"));
    let content = after.content();
    let states = before.states(before.acknowledged_entries(), before.submitted.len());
    assert!(states.iter().any(|n| before.model_after(*n).same(&content)), "{told}: {:?}", after.report);
    assert!(after.report.is_intact(), "{told}: {:?}", after.report);
    after.append_synced(log(2), 1, 100);
}

/// D7: the directory's sync fails once, and the next one would succeed without what the failed one was for. Of the ways in
/// which it fails one is the device's (EIO), one is that of a full disk; both leave in doubt which names there are.
#[test]
fn a_failed_sync_of_the_directory_is_final_whatever_it_was_for() {
    /// What is asked for, and how many of the request's syncs go well before.
    type Site = (&'static str, fn(&IoOp) -> bool, u64);
    let sites: [Site; 4] = [
        ("create", |op| matches!(op, IoOp::CreateSegment { .. }), 1),
        ("recycle", |op| matches!(op, IoOp::RecycleSegment { .. }), 0),
        ("names", |op| matches!(op, IoOp::SyncNames { .. }), 0),
        ("discard", |op| matches!(op, IoOp::DiscardSegment { .. }), 0),
    ];
    for (site, is_wanted, syncs) in sites {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            let told = format!("{site}, {kind}");
            let eager = Options { slack_segments: 0, ..options() };
            let mut world = World::open(VirtualDisk::with_seed(11), &eager).unwrap();
            let mut has_failed = false;
            for round in 0..60 {
                if has_failed {
                    break;
                }
                work_of_all_kinds(&mut world, round);
                while world.take() || !world.flying.is_empty() {
                    let Some(i) = world.flying.iter().position(|request| is_wanted(&request.op)) else {
                        if !world.flying.is_empty() {
                            world.finish(0);
                        }
                        continue;
                    };
                    if !has_failed {
                        world.disk.fail_sync_as_after(kind, syncs);
                        has_failed = true;
                    }
                    world.finish(i);
                }
            }
            assert!(has_failed && world.disk.stats().failed_syncs == 1, "{told}: it was never asked for");
            // A file that nobody wants may stay for want of room, and is removed later.
            let may_go_on = site == "discard" && kind == ErrorKind::StorageFull;
            assert!(world.core.poisoned().is_some() || may_go_on, "{told}");
            for seed in 0..16 {
                let mut disk = world.disk.clone();
                let mut chance = Chance::new(seed);
                let crash = if seed == 0 { CrashKind::DropAll } else { CrashKind::Chance };
                disk.crash(crash, &mut |n| chance.below(n));
                assert_nothing_is_lost(&world, disk, &format!("{told}, seed {seed}"));
            }
        }
    }
}

/// D11: from some moment on every call that changes something is refused, as on a file system that its own faults made
/// read-only. Who waits hears so, reads go on, an open says why it does not, and what was acknowledged is there later.
#[test]
fn a_file_system_that_becomes_read_only_stops_the_log_and_loses_nothing() {
    let (mut told, mut idle) = (0, 0);
    for moment in 0..120_usize {
        let mut world = World::open(VirtualDisk::with_seed(5), &Options { slack_segments: 0, ..options() }).unwrap();
        let mut steps = 0;
        for round in 0..4 {
            work_of_all_kinds(&mut world, round);
            while world.take() || !world.flying.is_empty() {
                if steps == moment {
                    world.disk.make_read_only();
                }
                steps += 1;
                if !world.flying.is_empty() {
                    world.finish(0);
                }
            }
            if world.core.poisoned().is_some() {
                break;
            }
        }
        let Some(failure) = world.core.poisoned().cloned() else {
            // It came behind the last thing that was to be done.
            idle += 1;
            continue;
        };
        assert_eq!(failure.kind, ErrorKind::ReadOnlyFilesystem, "moment {moment}");
        assert!(world.failed.iter().all(|(_, error)| *error == WalError::Poisoned(failure.clone())));
        assert_eq!(world.failed.is_empty(), world.acknowledged_entries() == world.submitted.len(), "moment {moment}");
        assert!(matches!(world.append(log(1), 1, 10), Err(SubmitError::Poisoned(_))));
        told += 1;
        // What is durable is read, by the log and by who only looks.
        let (durable, read) = (world.core.durable_end(log(1)).lsn, world.lsns(log(1)));
        assert!(read.last().copied().unwrap_or(0) >= durable.get(), "moment {moment}");
        inspect_io(&mut world.disk).unwrap();
        let mut disk = world.disk.clone();
        disk.kill_process();
        let refused = World::open(disk, &options()).map(drop).unwrap_err();
        let OpenError::Io(refused) = refused else { panic!("moment {moment}: {refused}") };
        assert_eq!(refused.kind, ErrorKind::ReadOnlyFilesystem, "moment {moment}");
        let mut disk = world.disk.clone();
        disk.clear_faults();
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        assert_nothing_is_lost(&world, disk, &format!("moment {moment}"));
    }
    assert!(told > 60, "{told} told, {idle} idle");
}

//! More than one thing lost at once, or the one thing that would have told of it (rows D5, D17 and
//! D22 of the fault list).

use bytes::Bytes;
use towline_wal::inspect::inspect_io;
use towline_wal::io::{Io, IoOp, segment_name};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{
    Batch, Entry, GroupRow, HardStateKind, LogCore, Lsn, OpenError, Options, ReadError, SubmitError, WalError, WhenFull,
};

use crate::damage::{SEG, disk_with, flip, group_of, long_disk, overwrite, read, readable, rows};
use crate::world::{Chance, SEGMENT, World, batch, log, options};

const FIRST_GROUP_AT: u64 = 4096;

pub(crate) fn vow(bytes: &'static [u8]) -> Entry {
    Entry::HardState { log: log(5), kind: HardStateKind::Promise, bytes: Bytes::from_static(bytes) }
}

#[test]
fn a_segment_whose_first_blocks_rot_is_not_taken_for_a_free_one() {
    for unreadable in [false, true] {
        let (mut disk, groups) = disk_with(4);
        assert_eq!(groups[1].offset, FIRST_GROUP_AT + 4096);
        if unreadable {
            disk.fail_reads(SEG, 0..8192, u64::MAX);
        } else {
            overwrite(&mut disk, SEG, 0, vec![0; 8192]);
        }
        let mut world = World::open(disk, &options()).unwrap();
        assert_eq!((world.report.headers_rebuilt, world.report.segments), (1, 1), "{:?}", world.report);
        // The opening group is gone, and the next one says that it held nothing of log 1.
        assert_eq!(readable(&mut world, 4), [1, 2, 3, 4]);
        world.append_synced_to_the_next_segment(log(2));
        let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
        assert_eq!(readable(&mut world, 4), [1, 2, 3, 4], "and nothing was written over them");
    }
}

/// D17, where the error stays.
#[test]
fn what_cannot_be_read_and_may_be_acknowledged_is_not_written_over() {
    let (mut disk, _) = disk_with(0);
    disk.fail_reads(SEG, 0..SEGMENT, u64::MAX);
    let before = disk.stats().writes;
    let refused = LogCore::recover(&mut disk, &options());
    assert!(matches!(refused, Err(OpenError::Io(_))), "{:?}", refused.err());
    assert_eq!(disk.stats().writes, before, "nothing was written");
}

/// D5.
#[test]
fn a_segment_whose_name_was_never_synced_is_not_written_to_before_it_is() {
    let mut world = World::new();
    world.run();
    // A process made the next but one, and died before it synced the directory.
    let mut disk = world.disk;
    disk.kill_process();
    disk.create(&segment_name(3)).unwrap();
    overwrite(&mut disk, &segment_name(3), 0, vec![0; usize::try_from(SEGMENT).unwrap()]);
    world = World::open(disk, &options()).unwrap();
    while world.core.stats().active_segment < 3 {
        world.append(log(1), 1, 5000).unwrap();
        // All but the preparation of further segments, which would sync the directory.
        loop {
            while world.take() {}
            let written = world.flying.iter().position(|r| !matches!(r.op, IoOp::CreateSegment { .. }));
            let Some(i) = written else { break };
            world.finish(i);
        }
    }
    let acknowledged = world.acknowledged_entries();
    assert_eq!(acknowledged, world.submitted.len());
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)).len(), acknowledged);
}

/// D22.
#[test]
fn groups_that_nothing_names_leave_every_promise_in_doubt() {
    // Byte 40: the header; byte 130: the directories.
    for byte in [40, 130] {
        lose_a_promise_and_what_repeats_it(byte);
    }
}

fn lose_a_promise_and_what_repeats_it(byte: u64) {
    let mut world = World::new();
    world.run();
    for promise in [vow(b"6"), vow(b"7")] {
        world.submit(vec![promise]).unwrap();
        world.run();
    }
    world.append_synced(log(1), 3, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    // The second promise's and the one behind it, which repeats it.
    flip(&mut disk, SEG, groups[2].offset + byte);
    flip(&mut disk, SEG, groups[3].offset + byte);
    let world = World::open(disk, &options()).unwrap();
    assert_eq!(world.core.hard_state(log(5), HardStateKind::Promise).as_deref(), Some(&b"6"[..]));
    assert!(world.report.doubtful_hard_states.contains(&(log(5), HardStateKind::Promise)), "{:?}", world.report);
    assert!(!world.report.is_intact());
}

#[test]
fn a_missing_segment_leaves_every_promise_in_doubt() {
    let mut world = World::new();
    world.submit(vec![vow(b"6")]).unwrap();
    world.append_synced(log(1), 40, 4000);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    disk.remove(&segment_name(2)).unwrap();
    disk.sync_dir().unwrap();
    let world = World::open(disk, &options()).unwrap();
    assert!(world.report.doubtful_hard_states.contains(&(log(5), HardStateKind::Promise)), "{:?}", world.report);
}

#[test]
fn a_batch_of_a_later_format_refuses_and_changes_nothing() {
    let (mut disk, groups) = disk_with(3);
    let at = group_of(&groups, 3).batches[0].offset;
    let mut header = read(&mut disk, SEG, at, 96);
    header[4] = 2;
    let crc = crc32fast::hash(&header[..92]);
    header[92..].copy_from_slice(&crc.to_le_bytes());
    overwrite(&mut disk, SEG, at, header);
    let before = disk.stats().writes;
    let refused = LogCore::recover(&mut disk, &options()).unwrap_err();
    assert!(matches!(&refused, OpenError::NewerFormat { file, found: 2, known: 1 } if file == SEG), "{refused}");
    assert_eq!(disk.stats().writes, before, "nothing was written");
}

#[test]
fn a_hole_between_the_last_segment_and_one_that_is_ready_refuses() {
    let (mut disk, last) = long_disk();
    disk.remove(&segment_name(last)).unwrap();
    let refused = LogCore::recover(&mut disk, &options()).unwrap_err();
    assert_eq!(refused, OpenError::Missing { segment: last });
}

#[test]
fn a_half_made_segment_before_a_ready_one_is_made_anew() {
    let options = Options { segments_ahead: 2, ..options() };
    let mut world = World::open(VirtualDisk::new(), &options).unwrap();
    world.run();
    world.append_synced(log(1), 1, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    world.disk.create(&segment_name(2)).unwrap();
    overwrite(&mut world.disk, &segment_name(2), 0, vec![0; 8192]);
    world.disk.sync_dir().unwrap();
    // Without room it stays as it is, and no open makes a hole of it.
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    let mut world = World::open(world.disk, &crate::world::options()).unwrap();
    assert!(!world.report.writable && world.append(log(1), 1, 100).is_err());
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    world.disk.set_space(None);
    world.core.retry_preparation();
    world.run();
    world.append_synced(log(1), 40, 4000);
    assert_eq!(world.lsns(log(1)).len(), 41);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)).len(), 41);
}

#[test]
fn a_lost_last_group_is_restored_from_the_next_segment_and_stays_where_it_is() {
    let (mut disk, last) = long_disk();
    let before = last - 1;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(usize::try_from(before - 1).unwrap()).groups;
    flip(&mut disk, &segment_name(before), 65530);
    flip(&mut disk, &segment_name(before), groups.last().unwrap().offset + 40);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G4]);
    assert_eq!(readable(&mut world, 40).len(), 40, "{:?}", world.report);
    // Known by name from now on: the next segments' footers must not say that they have it.
    for _ in 0..3 {
        world.append_synced_to_the_next_segment(log(2));
    }
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(readable(&mut world, 40).len(), 40, "{:?}", world.report);
    // The next segment has a footer now, and still it is asked for what it repeats.
    assert!(world.report.damaged.is_empty(), "{:?}", world.report);
}

/// Log 1 has four batches in the first segment and others behind the second one, which is gone: of these the third and the fourth have
/// rotted, with the footer. Gives them all.
fn nothing_names_the_third_and_the_fourth() -> (World, Vec<Batch>) {
    let mut world =
        World::open(VirtualDisk::new(), &Options { index_bytes_max: 0, slack_segments: 1000, ..options() }).unwrap();
    world.append_synced(log(1), 4, 4000);
    for _ in 0..2 {
        world.append_synced_to_the_next_segment(log(2));
    }
    world.append_synced(log(1), 2, 100);
    let before = world.core.end(log(2)).lsn.next();
    world.submit(vec![Entry::Release { log: log(2), before }]).unwrap();
    world.run();
    assert_eq!(world.core.stats().retired, 1);
    assert!(world.disk.len(&segment_name(2)).is_err());
    let groups = inspect_io(&mut world.disk.clone()).unwrap().segments.remove(0).groups;
    let third =
        groups.iter().find(|group| group.batches.iter().any(|batch| batch.first == Lsn::new(3))).unwrap().offset;
    overwrite(&mut world.disk, SEG, third, vec![0; usize::try_from(SEGMENT - third).unwrap()]);
    let whole = world.model_after(world.submitted.len()).logs.remove(&log(1)).unwrap();
    (world, whole)
}

/// The open knew from the footer what the segment's last groups held. The footer rots with them, and the segment behind, which would
/// tell of the last one, is gone: that is no file that can't be read for a moment, which would be asked for again for ever.
#[test]
fn what_a_segment_lost_is_damage_though_the_segment_behind_it_is_gone() {
    let (mut world, _) = nothing_names_the_third_and_the_fourth();
    for (lsn, is_there) in [(1, true), (2, true), (3, false), (4, false), (5, true)] {
        let lsn = Lsn::new(lsn);
        world.core.load_index(&mut world.disk, log(1), lsn);
        assert_eq!(world.core.index_needed(log(1), lsn), None);
        let planned = world.core.plan_read(log(1), lsn, 1);
        assert_eq!(planned.is_ok(), is_there, "{planned:?}");
        assert!(is_there || matches!(planned, Err(ReadError::Corrupt { .. })), "{planned:?}");
    }
}

/// It may name a batch there.
#[test]
fn a_log_begins_nowhere_while_its_index_can_not_be_read() {
    let (mut world, whole) = nothing_names_the_third_and_the_fourth();
    let begin = Entry::Begin { log: log(1), at: whole[2].position() };
    let index = world.core.index_needed(log(1), Lsn::new(3)).unwrap();
    world.core.install_index(index.load(&mut world.disk));
    assert!(world.core.plan_noting(log(1), Lsn::new(3), 1).is_err());
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(3), Lsn::new(4))]);
    // It was given up for others, and is looked up again.
    world.disk.fail_reads(SEG, 0..SEGMENT, u64::MAX);
    world.core.install_index(index.load(&mut world.disk));
    assert!(world.core.index_needed(log(1), Lsn::new(3)).is_some());
    let refused = world.core.submit(vec![begin.clone()]);
    assert!(matches!(refused, Err(SubmitError::NotABoundary { .. })), "{refused:?}");
    world.disk.clear_faults();
    world.core.load_index(&mut world.disk, log(1), Lsn::new(3));
    world.core.submit(vec![begin]).unwrap();
    world.run();
    assert_eq!(world.core.start(log(1)), whole[2].position());
}

#[test]
fn a_life_whose_first_group_is_gone_leaves_its_logs_in_doubt() {
    let (mut disk, groups) = disk_with(3);
    flip(&mut disk, SEG, group_of(&groups, 3).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.core.cuts().len(), 1);
    // The header of the life's first segment stays, the group that names the cut is gone.
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    overwrite(&mut world.disk, &segment_name(2), FIRST_GROUP_AT, vec![0; 4096]);
    let world = World::open(world.disk, &options()).unwrap();
    assert_eq!(world.core.cuts().len(), 1, "{:?}", world.report);
}

#[test]
fn an_open_that_drops_the_tails_of_many_logs_remembers_each() {
    let mut world = World::new();
    for n in 0..600 {
        world.append(log(n), 1, 10).unwrap();
        world.run();
    }
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let last = inspect_io(&mut disk.clone()).unwrap().segments.pop().unwrap();
    flip(&mut disk, &segment_name(last.number), last.groups.last().unwrap().offset + 40);
    let world = World::open(disk, &options()).unwrap();
    assert_eq!(world.core.cuts().len(), 599, "any of them may have been in it");
    // They are more than one group holds, and nobody is served before all are durable.
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.core.cuts().len(), 599);
}

#[test]
fn groups_dropped_behind_a_torn_one_leave_their_logs_in_doubt_too() {
    let options = Options { groups_in_flight: 3, ..options() };
    let mut world = World::open(VirtualDisk::new(), &options).unwrap();
    for n in [1, 2] {
        world.append_synced(log(n), 1, 100);
    }
    for n in [1, 2] {
        world.append(log(n), 1, 100).unwrap();
        while world.take() {}
        let written = world.flying.iter().position(|r| matches!(r.op, IoOp::Write { .. }));
        world.finish(written.unwrap());
    }
    world.disk.crash(CrashKind::KeepAll, &mut |_| 0);
    let mut disk = world.disk;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    flip(&mut disk, SEG, groups[3].batches[0].offset + 120);
    let world = World::open(disk, &options).unwrap();
    assert_eq!((rows(&world), world.report.groups_dropped), (vec![GroupRow::G3], 1));
    let cut: Vec<_> = world.core.cuts().iter().map(|cut| cut.log).collect();
    assert_eq!(cut, [log(1), log(2)]);
}

#[test]
fn a_full_disk_does_not_keep_a_log_from_closing_and_says_what_is_in_doubt() {
    let mut world = World::new();
    world.run();
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    while world.append(log(1), 1, 4000).is_ok() {
        world.run();
    }
    let mut waiting = None;
    for _ in 0..20 {
        let end = world.core.end(log(1));
        let entry = Entry::Batch(batch(log(1), end, end.epoch, 1, 9000));
        waiting = world.core.submit_when(vec![entry], WhenFull::Wait).ok().or(waiting);
        world.run();
    }
    let closing = world.core.begin_close();
    world.run();
    let told = |ticket| world.failed.iter().find(|(failed, _)| *failed == ticket).map(|(_, error)| error.clone());
    assert_eq!(told(waiting.unwrap()), Some(WalError::Closed), "accepted, so not refused");
    assert!(matches!(told(closing), Some(WalError::Refused(_))), "{:?}", told(closing));
}

#[test]
fn segments_missing_below_a_last_one_whose_header_is_lost_too_are_not_passed_over() {
    let (mut disk, last) = long_disk();
    for number in 2..last {
        disk.remove(&segment_name(number)).unwrap();
    }
    flip(&mut disk, &segment_name(last), 30);
    let world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.headers_rebuilt, 1);
    assert_eq!(world.report.segments_missing, (2..last).collect::<Vec<_>>());
    assert!(world.core.cuts().iter().any(|cut| cut.log == log(1)), "{:?}", world.report);
}

/// Found by the fuzzer: what seems torn in the last segment that is known is wiped, unless a free one turns out to hold groups.
#[test]
fn what_is_left_of_a_segment_stays_when_the_next_one_proves_that_it_was_not_the_last() {
    let mut world = World::new();
    world.append_synced(log(1), 40, 4000);
    world.append_synced_to_the_next_segment(log(1));
    world.append_synced(log(2), 4, 10);
    let last = world.core.stats().active_segment;
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let end = usize::try_from(SEGMENT).unwrap();
    // Of one the header, and of all groups but half of the first; of the next the header and the first group.
    flip(&mut disk, &segment_name(last - 1), 30);
    overwrite(&mut disk, &segment_name(last - 1), 8192, vec![0; end - 8192]);
    overwrite(&mut disk, &segment_name(last), 0, vec![0; 8192]);
    let left = read(&mut disk, &segment_name(last - 1), FIRST_GROUP_AT, 4096);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.headers_rebuilt, 2, "{:?}", world.report);
    let (there, damaged) = (world.lsns(log(2)), world.report.damaged.clone());
    assert!(!there.is_empty() && !damaged.is_empty(), "{:?}", world.report);
    world.run();
    assert_eq!(read(&mut world.disk, &segment_name(last - 1), FIRST_GROUP_AT, 4096), left);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(2)), there, "{:?}", world.report);
    assert_eq!(world.report.headers_rebuilt, 2, "{:?}", world.report);
}

#[test]
fn a_segment_is_sealed_also_by_one_whose_header_is_rebuilt() {
    let (mut disk, last) = long_disk();
    // Cut to nothing, below a segment that was activated though its header is lost: once durable, so not free.
    disk.create(&segment_name(last - 1)).unwrap();
    disk.sync_dir().unwrap();
    flip(&mut disk, &segment_name(last), 30);
    let world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.segments_missing, [last - 1]);
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.report.segments_missing, [last - 1]);
}

/// Log 1 fills segments and is released now and then, log 2, if it is there, has a batch in every eighth, and after each step
/// the header of the newest segment rots in a copy of the disk. How many compactions there were.
fn newest_header_rots_after_each_step(options: &Options, with_slow_log: bool) -> u64 {
    let mut world = World::open(VirtualDisk::new(), options).unwrap();
    for round in 0..32 {
        if with_slow_log && round % 8 == 3 {
            world.append_synced(log(2), 1, 300);
        }
        if with_slow_log && round % 16 == 15 {
            let before = world.core.start(log(2)).lsn.next().next();
            world.submit(vec![Entry::Release { log: log(2), before }]).unwrap();
        }
        world.append_synced_to_the_next_segment(log(1));
        // Several at once: what one segment retired is known from its records alone, and that segment goes next.
        if round % 3 == 2 {
            let before = world.core.end(log(1)).lsn;
            world.submit(vec![Entry::Release { log: log(1), before }]).unwrap();
            world.run();
        }
        let content = world.content();
        let mut disk = world.disk.clone();
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        flip(&mut disk, &segment_name(world.core.stats().active_segment), 100);
        for life in 0..2 {
            let found = World::open(disk, options);
            let mut world = found.unwrap_or_else(|error| panic!("round {round}, life {life}: {error}"));
            assert!(world.report.is_intact(), "round {round}, life {life}: {:?}", world.report);
            let now = world.content();
            assert!(now.same(&content), "round {round}, life {life}: {:?}", now.differences(&content));
            world.run();
            disk = world.disk;
            disk.crash(CrashKind::DropAll, &mut |_| 0);
        }
    }
    world.core.stats().compactions
}

#[test]
fn segments_that_were_retired_are_not_missed_when_the_newest_header_rots() {
    let options = Options { slack_segments: 1000, ..options() };
    assert_eq!(newest_header_rots_after_each_step(&options, true), 0);
}

#[test]
fn segments_that_were_retired_are_not_missed_when_the_only_header_rots() {
    newest_header_rots_after_each_step(&options(), false);
}

#[test]
fn segments_that_were_retired_are_not_missed_when_the_newest_header_rots_though_others_were_compacted() {
    assert!(newest_header_rots_after_each_step(&Options { slack_segments: 0, ..options() }, true) > 1);
}

/// A segment's header, a group's header and a record of a later format, each with the checksums that make it one: an older
/// program must not take what it can't read for rot, and cut or write over it.
#[test]
fn a_segment_a_group_or_a_record_of_a_later_format_refuses_and_changes_nothing() {
    let (disk, groups) = disk_with(3);
    let group = group_of(&groups, 3);
    let salt = read(&mut disk.clone(), SEG, group.offset + 8, 8);
    let of_group = |header: &mut Vec<u8>| {
        let crc = crc32fast::hash(&[&salt[..], &header[..124]].concat());
        header[124..].copy_from_slice(&crc.to_le_bytes());
    };

    let mut later_segment = disk.clone();
    let mut header = read(&mut later_segment, SEG, 0, 4096);
    header[4] = 3;
    let crc = crc32fast::hash(&header[..4092]);
    header[4092..].copy_from_slice(&crc.to_le_bytes());
    overwrite(&mut later_segment, SEG, 0, header);

    let mut later_group = disk.clone();
    let mut header = read(&mut later_group, SEG, group.offset, 128);
    header[4] = 2;
    of_group(&mut header);
    overwrite(&mut later_group, SEG, group.offset, header);

    let mut later_record = disk;
    let mut header = read(&mut later_record, SEG, group.offset, 128);
    let field = |header: &[u8], at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let directories = usize::try_from(field(&header, 68) + field(&header, 72)).unwrap();
    let mut records = read(&mut later_record, SEG, group.offset + 128, directories);
    // Its kind is behind all that are known.
    records[0] = 99;
    header[84..88].copy_from_slice(&crc32fast::hash(&records).to_le_bytes());
    of_group(&mut header);
    overwrite(&mut later_record, SEG, group.offset, [header, records].concat());

    let later = [("segment", later_segment, 3), ("group", later_group, 2), ("record", later_record, 2)];
    for (what, mut disk, found) in later {
        let before = disk.clone();
        let refused = LogCore::recover(&mut disk, &options()).map(drop).unwrap_err();
        let expected = OpenError::NewerFormat { file: SEG.to_owned(), found, known: found - 1 };
        assert_eq!(refused, expected, "{what}");
        assert_eq!(refused.code(), "TW-1202", "{what}");
        assert_eq!(disk.stats().writes, before.stats().writes, "{what}: nothing was written");
        assert_eq!(disk.list().unwrap(), before.clone().list().unwrap(), "{what}");
    }
}

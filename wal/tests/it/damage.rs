//! Each row of the recovery tables, made to happen (rows D3, D4, D12, D13, D18, D19,
//! D20, D21, D22, O3, O4 and O9 of the fault list).

use bytes::Bytes;
use towline_wal::inspect::{GroupView, inspect_io};
use towline_wal::io::{Io, segment_name};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, Epoch, GroupRow, HardStateKind, Lsn, OpenError, Options, ReadError};

use crate::world::{Chance, World, batch, log, options};

pub(crate) const SEG: &str = "0000000000000001.seg";

/// A log with batches 1 to `n`, each in a group of its own, on a disk whose process died.
pub(crate) fn disk_with(n: u64) -> (VirtualDisk, Vec<GroupView>) {
    let mut world = World::new();
    world.run();
    world.append_synced(log(1), n, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let groups = inspect_io(&mut world.disk.clone()).unwrap().segments.remove(0).groups;
    (world.disk, groups)
}

/// The group that holds LSN `lsn` of the log that [`disk_with`] makes: the first group is the opening one.
pub(crate) fn group_of(groups: &[GroupView], lsn: usize) -> &GroupView {
    &groups[lsn]
}

pub(crate) fn rows(world: &World) -> Vec<GroupRow> {
    world.report.findings.iter().map(|finding| finding.row).collect()
}

pub(crate) fn flip(disk: &mut VirtualDisk, file: &str, byte: u64) {
    assert!(disk.flip_bit(file, byte * 8 + 3));
}

pub(crate) fn overwrite(disk: &mut VirtualDisk, file: &str, at: u64, bytes: Vec<u8>) {
    disk.write_at(file, at, &[Bytes::from(bytes)]).unwrap();
    disk.sync_data(file).unwrap();
}

pub(crate) fn read(disk: &mut VirtualDisk, file: &str, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    disk.read_at(file, at, &mut bytes).unwrap();
    bytes
}

/// Which LSNs of log 1 can be read, one by one.
pub(crate) fn readable(world: &mut World, to: u64) -> Vec<u64> {
    let mut lsns = Vec::new();
    for lsn in 1..=to {
        let plan = world.core.plan_read(log(1), Lsn::new(lsn), 0).unwrap_or_default();
        if plan.first().is_some_and(|extent| extent.read(&mut world.disk).is_ok()) {
            lsns.push(lsn);
        }
    }
    lsns
}

#[test]
fn g1_and_g10_a_good_log_has_no_findings() {
    let (disk, _) = disk_with(3);
    let mut world = World::open(disk, &options()).unwrap();
    assert!(rows(&world).is_empty() && world.core.cuts().is_empty());
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
}

/// D12, and D13: who still needs that range is told `Corrupt`, and gets no bytes of it.
#[test]
fn g2_rot_in_a_batch_that_was_durable_damages_just_that_batch() {
    let (mut disk, groups) = disk_with(4);
    flip(&mut disk, SEG, group_of(&groups, 2).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G2]);
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
    assert_eq!(readable(&mut world, 4), [1, 3, 4]);
    let error = world.core.plan_read(log(1), Lsn::new(2), 1000).unwrap_err();
    assert!(matches!(&error, ReadError::Corrupt { file, .. } if file == SEG), "{error}");
    assert_eq!(world.core.cuts()[0].from, Lsn::new(2), "damage is something that is missing");
    assert!(world.append(log(1), 1, 10).is_err(), "a damaged log takes no batches");
    world.append(log(2), 1, 10).expect("other logs go on");
    // It is not healed by opening again.
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
}

#[test]
fn a_truncation_below_damage_makes_the_log_writable_again() {
    let (mut disk, groups) = disk_with(4);
    flip(&mut disk, SEG, group_of(&groups, 2).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    let to = world.core.position_at(log(1), Lsn::new(1)).unwrap();
    let next = batch(log(1), to, to.epoch, 1, 50);
    world.submit(vec![Entry::Truncate { log: log(1), to }, Entry::Batch(next)]).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.report.damaged.is_empty());
    assert_eq!(world.lsns(log(1)), [1, 2]);
    assert_eq!(world.core.cuts()[0].from, Lsn::new(2), "what was there is still missing");
}

#[test]
fn g2_a_directory_that_rots_is_read_from_the_next_group() {
    let (mut disk, groups) = disk_with(4);
    flip(&mut disk, SEG, group_of(&groups, 2).offset + 130);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G2]);
    assert_eq!(world.lsns(log(1)), [1, 2, 3, 4], "the batch itself is intact");
}

#[test]
fn g3_a_bad_last_group_is_dropped_and_the_cut_is_remembered() {
    let (mut disk, groups) = disk_with(3);
    flip(&mut disk, SEG, group_of(&groups, 3).batches[0].offset + 120);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G3]);
    assert_eq!(world.lsns(log(1)), [1, 2]);
    assert_eq!((world.core.cuts()[0].log, world.core.cuts()[0].from), (log(1), Lsn::new(3)));
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.core.cuts().len(), 1, "a second open still says so");
    assert!(rows(&world).is_empty(), "and looks no further than where the first ended the segment");
    // What was lost may be longer than what came back: batches and truncations alone end nothing.
    let end = world.append_synced_to_the_next_segment(log(1));
    let to = world.core.position_at(log(1), Lsn::new(1)).unwrap();
    world.submit(vec![Entry::Truncate { log: log(1), to }]).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(end > Lsn::new(3) && world.core.cuts().len() == 1, "only its owner knows when it has everything again");
    world.submit(vec![Entry::Settle { log: log(1) }]).unwrap();
    assert!(world.core.cuts().is_empty());
    world.run();
    world.append_synced_to_the_next_segment(log(1));
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.core.cuts().is_empty(), "a settled cut stays settled, also when its segment is known by its footer");
}

#[test]
fn g4_a_header_that_rots_loses_nothing_that_the_next_group_names() {
    let mut world = World::new();
    world.run();
    world.append_synced(log(1), 2, 100);
    let vow = Entry::HardState { log: log(5), kind: HardStateKind::Promise, bytes: Bytes::from_static(b"7") };
    world.submit(vec![vow]).unwrap();
    world.append(log(1), 1, 100).unwrap();
    world.run();
    world.append_synced(log(1), 2, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    flip(&mut disk, SEG, groups[3].offset + 40);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G4]);
    assert_eq!(world.lsns(log(1)), [1, 2, 3, 4, 5]);
    assert_eq!(world.report.doubtful_hard_states, [(log(5), HardStateKind::Promise)], "a promise is in doubt (D22)");
    assert!(!world.report.is_intact());
}

#[test]
fn g4_two_lost_groups_in_a_row_are_a_damaged_range() {
    let (mut disk, groups) = disk_with(5);
    flip(&mut disk, SEG, group_of(&groups, 2).offset + 40);
    flip(&mut disk, SEG, group_of(&groups, 3).offset + 40);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
    assert_eq!(readable(&mut world, 5), [1, 3, 4, 5]);
}

/// D4.
#[test]
fn g5_a_torn_last_header_ends_the_log_and_every_tail_is_in_doubt() {
    let (mut disk, groups) = disk_with(3);
    flip(&mut disk, SEG, group_of(&groups, 3).offset + 40);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G5]);
    assert_eq!(world.lsns(log(1)), [1, 2]);
    assert_eq!(world.core.cuts()[0].from, Lsn::new(3));
}

/// D18.
#[test]
fn g6_a_misdirected_write_over_a_durable_group_is_damage_with_an_alarm() {
    let (mut disk, groups) = disk_with(4);
    let other = read(&mut disk, SEG, group_of(&groups, 4).offset, 4096);
    overwrite(&mut disk, SEG, group_of(&groups, 2).offset, other);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G6]);
    assert!(world.report.findings[0].row.is_alarm());
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
    assert_eq!(readable(&mut world, 4), [1, 3, 4]);
}

#[test]
fn g7_a_misdirected_write_behind_the_end_ends_the_log_with_an_alarm() {
    let (mut disk, groups) = disk_with(3);
    let other = read(&mut disk, SEG, group_of(&groups, 1).offset, 4096);
    overwrite(&mut disk, SEG, group_of(&groups, 3).offset + 4096, other);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G7]);
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
}

/// D19.
#[test]
fn g8_a_group_that_the_device_acknowledged_and_lost_is_damage_with_an_alarm() {
    let (mut disk, groups) = disk_with(4);
    overwrite(&mut disk, SEG, group_of(&groups, 2).offset, vec![0; 4096]);
    let world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G8]);
    assert!(world.report.findings[0].row.is_alarm());
    assert_eq!(world.core.damaged(log(1)), [(Lsn::new(2), Lsn::new(2))]);
}

/// D3.
#[test]
fn g9_nothing_behind_a_hole_in_the_window_comes_back() {
    let options = Options { groups_in_flight: 3, ..options() };
    let mut world = World::open(VirtualDisk::new(), &options).unwrap();
    world.run();
    world.append_synced(log(1), 1, 100);
    // Two groups written, neither synced; the first is lost.
    for _ in 0..2 {
        world.append(log(1), 1, 100).unwrap();
        while world.take() {}
        let written = world.flying.iter().position(|r| matches!(r.op, towline_wal::io::IoOp::Write { .. }));
        world.finish(written.unwrap());
    }
    world.disk.crash(CrashKind::KeepAll, &mut |_| 0);
    let mut disk = world.disk;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    assert_eq!(groups.len(), 4, "the opening group, the durable one and two more");
    overwrite(&mut disk, SEG, groups[2].offset, vec![0; 4096]);
    let mut world = World::open(disk, &options).unwrap();
    assert_eq!(rows(&world), [GroupRow::G9]);
    assert_eq!(world.report.groups_dropped, 1);
    assert_eq!(world.lsns(log(1)), [1]);
    world.append_synced(log(1), 1, 100);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2]);
}

/// D20.
#[test]
fn bytes_of_an_earlier_use_of_a_file_are_never_taken_for_new() {
    // The file of a new segment still has good groups of an earlier activation of the same number.
    let (mut disk, groups) = disk_with(3);
    let stale = read(&mut disk, SEG, group_of(&groups, 2).offset, 8192);
    let mut fresh = World::open(VirtualDisk::with_seed(99), &options()).unwrap();
    fresh.run();
    fresh.append_synced(log(1), 1, 100);
    fresh.disk.crash(CrashKind::DropAll, &mut |_| 0);
    overwrite(&mut fresh.disk, SEG, group_of(&groups, 2).offset, stale);
    let mut world = World::open(fresh.disk, &options()).unwrap();
    assert_eq!(world.lsns(log(1)), [1]);
    assert!(rows(&world).is_empty(), "it is the end, as if it were blank");
}

/// A log over several segments, on a disk whose process died.
pub(crate) fn long_disk() -> (VirtualDisk, u64) {
    let mut world = World::new();
    world.append_synced(log(1), 40, 4000);
    world.append_synced(log(2), 1, 10);
    let last = world.core.stats().active_segment;
    assert!(last >= 4);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    (world.disk, last)
}

#[test]
fn a_sealed_header_that_rots_is_taken_from_its_copy() {
    let (mut disk, _) = long_disk();
    flip(&mut disk, &segment_name(2), 30);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.headers_rebuilt, 1);
    assert!(world.report.is_intact());
    assert_eq!(world.lsns(log(1)).len(), 40);
}

#[test]
fn a_sealed_header_without_a_copy_and_a_last_one_are_rebuilt_from_their_groups() {
    let (mut disk, last) = long_disk();
    flip(&mut disk, &segment_name(2), 30);
    flip(&mut disk, &segment_name(2), 65530);
    flip(&mut disk, &segment_name(last), 30);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.headers_rebuilt, 2);
    assert!(world.report.is_intact(), "{:?}", world.report);
    assert_eq!(world.lsns(log(1)).len(), 40);
}

/// D21: the footer.
#[test]
fn a_footer_that_rots_is_rebuilt_by_a_scan() {
    let (mut disk, _) = long_disk();
    flip(&mut disk, &segment_name(2), 65530);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.segments_by_footer, world.report.segments - 2);
    assert_eq!(world.lsns(log(1)).len(), 40);
}

#[test]
fn rot_in_a_sealed_segment_without_a_footer_is_damage_not_the_end() {
    let (mut disk, _) = long_disk();
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(1).groups;
    flip(&mut disk, &segment_name(2), 65530);
    // The last group of the segment: only the next segment's header proves it.
    flip(&mut disk, &segment_name(2), groups.last().unwrap().batches[0].offset + 200);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G2]);
    let lost = groups.last().unwrap().batches[0].first;
    assert_eq!(world.core.damaged(log(1)), [(lost, lost)]);
    assert_eq!(readable(&mut world, 40).len(), 39);
}

/// O9: a file that was deleted.
#[test]
fn a_missing_segment_is_a_damaged_range_and_the_rest_is_served() {
    let (mut disk, _) = long_disk();
    let gone = inspect_io(&mut disk.clone()).unwrap().segments.remove(1);
    let (first, last) = (gone.groups[0].batches[0].first, gone.groups.last().unwrap().batches[0].last);
    disk.remove(&segment_name(2)).unwrap();
    disk.sync_dir().unwrap();
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.report.segments_missing, [2]);
    let [(from, to)] = world.core.damaged(log(1))[..] else { panic!("one range: {:?}", world.report.damaged) };
    // The last group of a segment is named by the next: its batch is damaged by name, the others by the gap.
    assert_eq!((from, to), (first, last));
    let served = readable(&mut world, 40).len() as u64;
    assert_eq!(served, 40 - (last.get() - first.get() + 1));
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.core.damaged(log(1)), [(first, last)], "and stays so");
}

#[test]
fn two_missing_segments_in_a_row_with_nothing_to_name_them_refuse() {
    let (mut disk, _) = long_disk();
    disk.remove(&segment_name(2)).unwrap();
    disk.remove(&segment_name(3)).unwrap();
    let before = disk.stats().writes;
    let refused = towline_wal::LogCore::recover(&mut disk, &options());
    assert!(matches!(refused, Err(OpenError::Missing { segment: 2 })));
    assert_eq!(disk.stats().writes, before, "nothing was written");
}

/// O9: a file that was truncated.
#[test]
fn a_segment_cut_short_is_damage_where_it_was_durable() {
    let (mut disk, _) = long_disk();
    let name = segment_name(2);
    let half = read(&mut disk, &name, 0, 32 << 10);
    disk.create(&name).unwrap();
    overwrite(&mut disk, &name, 0, half);
    disk.sync_dir().unwrap();
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G2, GroupRow::G8], "half a group, then nothing");
    assert!(!world.core.damaged(log(1)).is_empty());
    let served = readable(&mut world, 40).len();
    assert!((25..40).contains(&served), "{served}");
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_where_it_was_durable() {
    let (mut disk, groups) = disk_with(4);
    let at = group_of(&groups, 2).offset;
    disk.fail_reads(SEG, at..at + 4096, u64::MAX);
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(rows(&world), [GroupRow::G4]);
    assert_eq!(readable(&mut world, 4), [1, 3, 4]);
}

/// O4, where the lock lies: the incarnation in headers and groups shows the intruder.
#[test]
fn two_writers_are_refused() {
    let (disk, _) = disk_with(2);
    // Two processes got past the lock: one lives through two opens, the other writes on in its first.
    let mut a = World::open(disk.clone(), &options()).unwrap().reopen().unwrap();
    a.run();
    let mut b = World::open(disk, &options()).unwrap();
    b.append_synced(log(1), 30, 4000);
    let stray = segment_name(4);
    let bytes = read(&mut b.disk, &stray, 0, 64 << 10);
    a.disk.kill_process();
    a.disk.create(&stray).unwrap();
    overwrite(&mut a.disk, &stray, 0, bytes);
    let refused = World::open(a.disk, &options());
    assert!(matches!(refused, Err(OpenError::TwoWriters { .. })), "{:?}", refused.err());
}

/// O3: two copies of one directory went on apart: same numbers everywhere, other batches. Each opens, since nothing in it says
/// that there is another; that neither's incarnation is newer tells whoever admits nodes, and files of both are not taken for
/// one history.
#[test]
fn a_segment_of_another_history_is_damage_where_the_two_meet() {
    let (disk, _) = disk_with(2);
    let mut a = World::open(disk.clone(), &options()).unwrap();
    a.append_synced(log(1), 20, 4000);
    let mut b = World::open(disk, &options()).unwrap();
    assert_eq!(a.report.directory_uuid, b.report.directory_uuid);
    assert_eq!(a.report.incarnation, b.report.incarnation);
    let end = b.core.end(log(1));
    b.submit(vec![Entry::Batch(batch(log(1), end, Epoch::new(1, 2), 1, 4000))]).unwrap();
    b.run();
    b.append_synced(log(1), 19, 4000);
    let last = a.core.stats().active_segment;
    assert_eq!(b.core.stats().active_segment, last);
    let stray = read(&mut b.disk, &segment_name(last), 0, 64 << 10);
    overwrite(&mut a.disk, &segment_name(last), 0, stray);
    a.disk.kill_process();
    let mut world = World::open(a.disk, &options()).unwrap();
    assert!(!world.core.damaged(log(1)).is_empty(), "{:?}", world.report);
    let met = world.core.damaged(log(1))[0].0;
    let before: Vec<u64> = (1..met.get()).collect();
    assert!(readable(&mut world, 22).starts_with(&before));
}

//! What an open doubts, and may not forget, or believe too early (rows D6, D17, D22 of the fault list).

use bytes::Bytes;
use towline_wal::inspect::{inspect_io, verify_io};
use towline_wal::io::{Io, IoFailure, IoOp, LockOutcome, segment_name};
use towline_wal::repair::{Repair, RepairOptions};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, HardStateKind, LogCore, Lsn, OpenError, Options, SubmitError};

use crate::damage::{SEG, disk_with, flip, group_of, long_disk, readable};
use crate::world::{Chance, Recorder, World, batch, log, options};

/// What becomes of a read: the file, the first byte, what was read.
type OnRead<'a> = &'a mut dyn FnMut(&str, u64, &mut [u8]) -> Result<(), IoFailure>;

/// A disk between which and the reader something goes wrong.
struct Noisy<'a> {
    disk: &'a mut VirtualDisk,
    on_read: OnRead<'a>,
}

impl Io for Noisy<'_> {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.disk.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.disk.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.disk.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let read = self.disk.read_at(name, offset, buffer)?;
        (self.on_read)(name, offset, buffer).map(|()| read)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.disk.write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.disk.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.disk.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.disk.remove(name)
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

#[test]
fn a_last_group_that_cannot_be_read_refuses_the_open_and_is_not_written_over() {
    let (mut disk, groups) = disk_with(3);
    let at = group_of(&groups, 3).offset;
    disk.fail_reads(SEG, at..at + 4096, u64::MAX);
    let before = disk.stats().writes;
    let refused = LogCore::recover(&mut disk, &options());
    assert!(matches!(refused, Err(OpenError::Io(_))), "{:?}", refused.err());
    assert_eq!(disk.stats().writes, before, "nothing was written");
    // It was acknowledged, and it is there as soon as the medium gives it.
    disk.kill_process();
    disk.clear_faults();
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
    assert!(world.core.cuts().is_empty());
}

#[test]
fn a_torn_group_is_not_believed_where_what_may_prove_it_cannot_be_read() {
    let (mut disk, groups) = disk_with(4);
    flip(&mut disk, SEG, group_of(&groups, 3).offset + 40);
    let at = group_of(&groups, 4).offset;
    disk.fail_reads(SEG, at..at + 4096, u64::MAX);
    let refused = LogCore::recover(&mut disk, &options());
    assert!(matches!(refused, Err(OpenError::Io(_))), "{:?}", refused.err());
}

#[test]
fn what_the_system_refuses_to_read_is_neither_damage_nor_the_end() {
    let (disk, groups) = disk_with(4);
    let end = groups.last().unwrap().offset + groups.last().unwrap().bytes;
    // The segment's header, a group that is proven, the last one, and what may lie behind it.
    for at in [0, group_of(&groups, 2).offset, group_of(&groups, 4).offset, end] {
        let mut disk = disk.clone();
        let before = disk.stats().writes;
        let mut refuse = |name: &str, from: u64, buffer: &mut [u8]| {
            let hit = name == SEG && from <= at && at < from + u64::try_from(buffer.len()).unwrap();
            let no_memory = || IoFailure::new(std::io::ErrorKind::OutOfMemory, "read", name);
            if hit { Err(no_memory()) } else { Ok(()) }
        };
        let refused = LogCore::recover(&mut Noisy { disk: &mut disk, on_read: &mut refuse }, &options());
        assert!(matches!(&refused, Err(OpenError::Io(failure)) if failure.is_refusal()), "{at}: {:?}", refused.err());
        assert_eq!(disk.stats().writes, before, "nothing was written");
        disk.kill_process();
        let mut world = World::open(disk, &options()).unwrap();
        assert_eq!(world.lsns(log(1)), [1, 2, 3, 4]);
    }
}

#[test]
fn one_flip_on_the_way_does_no_damage_for_good() {
    let (disk, groups) = disk_with(4);
    // Headers and batches, of a group that is proven and of the last one.
    let headers = [2, 4].map(|lsn| group_of(&groups, lsn).offset + 40);
    let batches = [2, 4].map(|lsn| group_of(&groups, lsn).batches[0].offset + 120);
    for at in headers.into_iter().chain(batches) {
        let (mut disk, mut flips) = (disk.clone(), 1);
        let mut flip_once = |name: &str, from: u64, buffer: &mut [u8]| {
            let byte = at.checked_sub(from).and_then(|i| buffer.get_mut(usize::try_from(i).unwrap()));
            if let Some(byte) = byte.filter(|_| name == SEG && flips > 0) {
                flips -= 1;
                *byte ^= 8;
            }
            Ok(())
        };
        let (core, report) =
            LogCore::recover(&mut Noisy { disk: &mut disk, on_read: &mut flip_once }, &options()).unwrap();
        assert_eq!(flips, 0, "byte {at} was read");
        assert!(report.is_intact() && report.findings.is_empty() && core.cuts().is_empty(), "{at}: {report:?}");
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        assert_eq!(World::open(disk, &options()).unwrap().lsns(log(1)), [1, 2, 3, 4]);
    }
}

#[test]
fn a_repair_gives_up_what_cannot_be_read_where_the_log_seems_torn_and_says_so() {
    let (mut disk, groups) = disk_with(3);
    let at = group_of(&groups, 3).offset;
    disk.fail_reads(SEG, at..at + 4096, u64::MAX);
    let found = verify_io(&mut disk).unwrap();
    assert!(!found.is_good() && found.torn().is_some(), "{found:?}");
    let mut backup = VirtualDisk::new();
    let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
    let (plan, words) = (repair.plan().clone(), repair.plan().to_string());
    assert!(!plan.is_empty() && words.contains("may have been acknowledged"), "{words}");
    assert!(plan.files.iter().any(|file| file.name == SEG), "{plan:?}");
    let repaired = repair.execute(&mut backup, "by a test").unwrap();
    assert!(repaired.verified.is_good() && backup.list().unwrap().contains(&SEG.to_owned()), "{repaired:?}");
    disk.kill_process();
    let mut world = World::open(disk, &options()).unwrap();
    assert_eq!(world.lsns(log(1)), [1, 2]);
    assert_eq!(world.core.cuts().iter().map(|cut| (cut.log, cut.from.get())).collect::<Vec<_>>(), [(log(1), 3)]);
}

fn vow(bytes: &'static [u8]) -> Entry {
    Entry::HardState { log: log(5), kind: HardStateKind::Promise, bytes: Bytes::from_static(bytes) }
}

const IN_DOUBT: [(u128, HardStateKind); 1] = [(5, HardStateKind::Promise)];

fn doubtful(world: &World) -> Vec<(u128, HardStateKind)> {
    world.report.doubtful_hard_states.iter().map(|(log, kind)| (log.as_u128(), *kind)).collect()
}

fn promise(world: &World) -> Option<Bytes> {
    world.core.hard_state(log(5), HardStateKind::Promise)
}

/// Promise 6 in the first segment, promise 7 in a group of the fourth, which rots.
fn disk_with_a_lost_promise() -> VirtualDisk {
    let mut world = World::new();
    world.submit(vec![vow(b"6")]).unwrap();
    world.run();
    for _ in 0..3 {
        world.append_synced_to_the_next_segment(log(1));
    }
    world.submit(vec![vow(b"7")]).unwrap();
    world.run();
    world.append_synced(log(1), 2, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let segments = inspect_io(&mut disk.clone()).unwrap().segments;
    let newest = segments.last().unwrap();
    let group = newest.groups.iter().find(|group| group.records.iter().any(|said| said.contains("Promise"))).unwrap();
    assert_eq!((newest.number, group.batches.len()), (4, 0));
    flip(&mut disk, &segment_name(4), group.offset + 40);
    disk
}

fn release(world: &mut World, of: u64) {
    let before = world.core.end(log(of)).lsn;
    world.submit(vec![Entry::Release { log: log(of), before }]).unwrap();
    world.run();
}

#[test]
fn a_promise_in_doubt_stays_in_doubt_however_often_it_is_said_again() {
    for slack_segments in [0, 1000] {
        let options = Options { slack_segments, ..options() };
        let mut world = World::open(disk_with_a_lost_promise(), &options).unwrap();
        for life in 0..8 {
            assert_eq!((doubtful(&world), promise(&world).as_deref()), (IN_DOUBT.to_vec(), Some(&b"6"[..])), "{life}");
            // What says the promise goes, and what says that it is in doubt: given up, or written anew.
            for settled in [1, 5] {
                world.submit(vec![Entry::Settle { log: log(settled) }]).unwrap();
            }
            for _ in 0..3 {
                world.append_synced_to_the_next_segment(log(1));
                if slack_segments == 0 {
                    world.append_synced(log(2), 1, 300);
                }
            }
            let retired = world.core.stats().retired;
            release(&mut world, 1);
            assert!(world.core.stats().retired > retired, "life {life}");
            world.disk.crash(CrashKind::DropAll, &mut |_| 0);
            world = World::open(world.disk, &options).unwrap();
        }
        world.submit(vec![vow(b"8")]).unwrap();
        world.run();
        for life in 0..3 {
            world.disk.crash(CrashKind::DropAll, &mut |_| 0);
            world = World::open(world.disk, &options).unwrap();
            assert_eq!((doubtful(&world), promise(&world).as_deref()), (Vec::new(), Some(&b"8"[..])), "life {life}");
            world.append_synced_to_the_next_segment(log(1));
            release(&mut world, 1);
        }
    }
}

#[test]
fn no_crash_makes_a_promise_in_doubt_certain() {
    let mut disk = disk_with_a_lost_promise();
    let mut cuts = Vec::new();
    LogCore::recover(&mut Recorder { disk: &mut disk, cuts: &mut cuts }, &options()).unwrap();
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut world = World::open(disk, &options()).unwrap();
    world.cuts = Some(Vec::new());
    release(&mut world, 1);
    assert!(world.core.stats().retired > 0);
    cuts.extend(world.cuts.take().unwrap().into_iter().map(|cut| cut.disk));
    for (i, mut disk) in cuts.into_iter().enumerate() {
        for kind in [CrashKind::DropAll, CrashKind::KeepAll] {
            disk.crash(kind, &mut |_| 0);
            let world = World::open(disk.clone(), &options()).unwrap();
            assert_eq!((doubtful(&world), promise(&world).as_deref()), (IN_DOUBT.to_vec(), Some(&b"6"[..])), "cut {i}");
        }
    }
}

#[test]
fn a_doubt_ends_with_a_newer_promise_and_with_the_log() {
    let mut world = World::open(disk_with_a_lost_promise(), &options()).unwrap();
    assert_eq!(doubtful(&world), IN_DOUBT);
    world.submit(vec![Entry::Remove { log: log(5) }]).unwrap();
    world.run();
    let world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(doubtful(&world).is_empty() && world.report.is_intact(), "{:?}", world.report);
}

#[test]
fn a_group_that_was_misread_once_is_whole_again_with_all_that_it_cut_off_and_wrote() {
    for reset in [false, true] {
        let mut world = World::new();
        world.append_synced(log(1), 6, 100);
        world.append_synced(log(2), 2, 4000);
        let to = world.core.position_at(log(1), Lsn::new(5)).unwrap();
        let cut = if reset { Entry::Reset { log: log(1), to } } else { Entry::Truncate { log: log(1), to } };
        let again = batch(log(1), to, to.epoch, 1, 200);
        world.submit(vec![cut, Entry::Batch(again.clone())]).unwrap();
        world.run();
        // Too large for what is left of the segment, of which the cut is the last group.
        assert_eq!(world.core.stats().active_segment, 1);
        world.append_synced(log(2), 1, 12_000);
        assert_eq!(world.core.stats().active_segment, 2);
        world.disk.crash(CrashKind::DropAll, &mut |_| 0);
        let mut disk = world.disk;
        let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
        let last = groups.last().unwrap();
        assert_eq!((last.records.len(), last.batches.len()), (1, 1));
        let header = last.offset + 40;
        // No footer: the segment is read by its groups.
        flip(&mut disk, SEG, 65_530);
        flip(&mut disk, SEG, header);
        let mut world = World::open(disk, &options()).unwrap();
        assert_eq!(world.core.end(log(1)), again.position(), "the next group names what is lost");
        world.run();
        world.disk.crash(CrashKind::DropAll, &mut |_| 0);
        flip(&mut world.disk, SEG, header);
        let mut world = World::open(world.disk, &options()).unwrap();
        assert!(world.report.segments_by_footer > 0, "{:?}", world.report);
        assert_eq!(world.core.end(log(1)), again.position(), "{:?}", world.report);
        assert_eq!(world.lsns(log(1)).last(), Some(&6));
    }
}

#[test]
fn nothing_is_appended_where_damage_lies_behind_the_end() {
    let mut world = World::new();
    world.append_synced_to_the_next_segment(log(1));
    world.append_synced(log(1), 1, 100);
    let to = world.core.end(log(1));
    world.append_synced_to_the_next_segment(log(1));
    world.submit(vec![Entry::Truncate { log: log(1), to }]).unwrap();
    world.run();
    world.append_synced(log(2), 1, 100);
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    // The boundary of the truncation is lost with its file.
    world.disk.remove(&segment_name(2)).unwrap();
    world.disk.sync_dir().unwrap();
    let mut world = World::open(world.disk, &options()).unwrap();
    let end = world.core.end(log(1));
    let damaged = world.core.damaged(log(1));
    assert!(damaged.iter().all(|(first, _)| *first > end.lsn) && !damaged.is_empty(), "{end}: {damaged:?}");
    let next = batch(log(1), end, end.epoch, 1, 100);
    let refused = world.submit(vec![Entry::Batch(next.clone())]);
    assert!(matches!(refused, Err(SubmitError::Damaged { .. })), "{refused:?}");
    let vowed = world.submit(vec![vow(b"1"), Entry::Batch(next.clone())]);
    assert!(matches!(vowed, Err(SubmitError::Damaged { .. })), "{vowed:?}");
    // What is behind the end is given up by a truncation to it.
    world.submit(vec![Entry::Truncate { log: log(1), to: end }, Entry::Batch(next)]).unwrap();
    world.run();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.core.damaged(log(1)).is_empty(), "{:?}", world.report);
    assert_eq!(world.lsns(log(1)).last(), Some(&end.lsn.next().get()));
}

#[test]
fn a_footer_whose_sync_failed_in_an_earlier_life_counts_as_missing() {
    let mut world = World::new();
    world.append_synced(log(1), 3, 100);
    world.append_synced(log(2), 2, 12_000);
    assert_eq!(world.core.stats().active_segment, 1);
    world.append(log(2), 1, 12_000).unwrap();
    loop {
        while world.take() {}
        if let Some(seal) = world.flying.iter().position(|request| matches!(request.op, IoOp::Seal { segment: 1, .. }))
        {
            world.disk.fail_sync_after(0);
            world.finish(seal);
            break;
        }
        world.finish(0);
    }
    assert!(world.core.poisoned().is_some());
    // The page cache has the footer, and takes it for written.
    let mut world = world.reopen().unwrap();
    assert_eq!(world.report.segments_by_footer, 1);
    world.submit(vec![Entry::Remove { log: log(2) }]).unwrap();
    // What a look for dead segments asks for is polled the next time.
    for _ in 0..3 {
        world.run();
    }
    assert!(world.core.poisoned().is_none());
    assert_eq!(world.core.stats().retired, 0, "the second segment alone says where the first one ends");
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.report.is_intact() && world.report.findings.is_empty(), "{:?}", world.report);
    world.run();
    assert!(world.core.stats().retired > 0, "the first one has a footer again");
    assert_eq!(world.lsns(log(1)), [1, 2, 3]);
}

#[test]
fn batches_of_a_lost_last_group_can_be_read_when_their_segment_is_folded() {
    let (mut disk, last) = long_disk();
    let before = last - 1;
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(usize::try_from(before - 1).unwrap()).groups;
    flip(&mut disk, &segment_name(before), 65_530);
    flip(&mut disk, &segment_name(before), groups.last().unwrap().offset + 40);
    let options = Options { index_bytes_max: 0, ..options() };
    for _ in 0..2 {
        let mut world = World::open(disk.clone(), &options).unwrap();
        world.run();
        assert!(world.core.damaged(log(1)).is_empty(), "{:?}", world.report);
        assert_eq!(world.lsns(log(1)).len(), 40);
        disk = world.disk;
        disk.crash(CrashKind::DropAll, &mut |_| 0);
    }
    // With its index in memory it could always be read.
    assert_eq!(readable(&mut World::open(disk, &crate::world::options()).unwrap(), 40).len(), 40);
}

#[test]
fn an_open_that_dies_between_its_first_groups_forgets_no_cut() {
    let mut world = World::new();
    for n in 0..600 {
        world.append(log(n), 1, 10).unwrap();
        world.run();
    }
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut disk = world.disk;
    let last = inspect_io(&mut disk.clone()).unwrap().segments.pop().unwrap();
    flip(&mut disk, &segment_name(last.number), last.groups.last().unwrap().offset + 40);
    let mut cuts = Vec::new();
    LogCore::recover(&mut Recorder { disk: &mut disk, cuts: &mut cuts }, &options()).unwrap();
    assert!(cuts.len() >= 6, "several groups, each written and synced");
    for (i, mut disk) in cuts.into_iter().enumerate() {
        for kind in [CrashKind::DropAll, CrashKind::KeepAll] {
            disk.crash(kind, &mut |_| 0);
            let world = World::open(disk.clone(), &options()).unwrap();
            assert_eq!(world.core.cuts().len(), 599, "cut {i}");
        }
    }
}

#[test]
fn a_promise_of_a_log_of_which_nothing_else_is_here_is_not_lost_without_a_word() {
    let mut world = World::new();
    world.run();
    let first = world.core.stats().groups;
    world.submit(vec![vow(b"7")]).unwrap();
    world.run();
    world.append_synced(log(1), 3, 100);
    let mut disk = world.disk;
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    // The promise's group, and the next one, which names it again.
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(0).groups;
    for group in groups.iter().filter(|group| [first + 1, first + 2].contains(&group.number)) {
        flip(&mut disk, SEG, group.offset + 40);
    }
    let world = World::open(disk, &options()).unwrap();
    assert!(!world.report.is_intact() && world.report.losses_unknown > 0, "{:?}", world.report);
    assert_eq!(world.core.hard_state(log(5), HardStateKind::Promise), None);
    assert!(world.core.doubtful_hard_states(log(5)).contains(&HardStateKind::Promise));
    assert!(world.core.doubtful_hard_states(log(77)).contains(&HardStateKind::Promise), "nor of any other");
}

//! A disk without room, a process without descriptors: nothing is lost, nothing spins, and what gives room back always has
//! some (row D9 of the fault list).

use std::io::ErrorKind;

use bytes::Bytes;
use towline_wal::io::{Io, IoFailure, IoOp, LockOutcome, execute};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, Epoch, HardStateKind, LogId, Lsn, Options, ReadError, SubmitError, WhenFull};

use crate::world::{Chance, SEGMENT, World, batch, log, options};

fn no_room(operation: &'static str) -> IoFailure {
    IoFailure::new(ErrorKind::StorageFull, operation, "a file")
}

/// EMFILE, the same number on every system that has it.
fn no_descriptor(operation: &'static str) -> IoFailure {
    IoFailure::from_error(&std::io::Error::from_raw_os_error(24), operation, "a file")
}

fn release_all(world: &mut World, of: LogId) -> Result<(), SubmitError> {
    let before = world.core.end(of).lsn.next();
    world.submit(vec![Entry::Release { log: of, before }]).map(drop)
}

fn hard_state(of: LogId, kind: HardStateKind, len: usize) -> Entry {
    Entry::HardState { log: of, kind, bytes: Bytes::from(vec![7; len]) }
}

/// Takes and finishes requests until one is wanted, which is taken out.
fn run_until(world: &mut World, wanted: fn(&IoOp) -> bool) -> towline_wal::io::IoRequest {
    for _ in 0..10_000 {
        if let Some(i) = world.flying.iter().position(|request| wanted(&request.op)) {
            return world.flying.remove(i);
        }
        if !world.take() {
            assert!(!world.flying.is_empty(), "there is no such request");
            world.finish(0);
        }
    }
    panic!("there is no such request");
}

/// Takes what the log asks for; it must not ask forever.
fn take_all(world: &mut World) {
    for _ in 0..100 {
        if !world.take() {
            return;
        }
    }
    panic!("it asks without end: {:?}", world.flying.last());
}

/// Batches fill the disk until they are refused.
fn fill(world: &mut World, of: LogId) {
    let used = world.disk.used();
    world.disk.set_space(Some(used));
    while world.append(of, 1, 4000).is_ok() {
        world.run();
    }
    assert_eq!(world.append(of, 1, 4000), Err(SubmitError::DiskFull));
}

fn with_segments(count: u64) -> World {
    let mut world = World::new();
    for _ in 0..count {
        world.append_synced_to_the_next_segment(log(1));
    }
    world
}

#[test]
fn a_name_that_finds_no_room_is_tried_again_later_and_the_file_is_used() {
    for (failure, was_renamed) in
        [(no_room("rename"), false), (no_descriptor("rename"), false), (no_descriptor("open"), true)]
    {
        let mut world = with_segments(3);
        release_all(&mut world, log(1)).unwrap();
        let request = run_until(&mut world, |op| matches!(op, IoOp::RecycleSegment { .. }));
        let IoOp::RecycleSegment { from, to } = request.op else { unreachable!() };
        if was_renamed {
            // The directory could not be opened to be synced.
            let name = towline_wal::io::segment_name;
            world.disk.rename(&name(from), &name(to)).unwrap();
        }
        world.core.on_io(request.id, Err(failure));
        take_all(&mut world);
        let again = |op: &IoOp| matches!(op, IoOp::RecycleSegment { .. } | IoOp::DiscardSegment { .. });
        assert!(!world.flying.iter().any(|request| again(&request.op)), "not at once");
        assert!(world.core.poisoned().is_none() && world.core.stats().disk_full);
        world.core.retry_preparation();
        world.run();
        assert!(world.core.poisoned().is_none() && !world.core.stats().disk_full);
        for _ in 0..5 {
            world.append_synced_to_the_next_segment(log(1));
        }
        let content = world.content();
        let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
        assert!(world.content().same(&content) && world.report.is_intact(), "{:?}", world.report);
    }
}

#[test]
fn a_sync_that_finds_no_room_is_a_failed_sync() {
    let mut world = with_segments(3);
    release_all(&mut world, log(1)).unwrap();
    let request = run_until(&mut world, |op| matches!(op, IoOp::RecycleSegment { .. }));
    let result = execute(&mut Refusing { disk: &mut world.disk, call: "sync_dir", failure: no_room("sync") }, &request);
    world.core.on_io(request.id, result);
    assert!(world.core.poisoned().is_some(), "whether the name is durable is unknown, and no later sync tells");
}

#[test]
fn a_footer_without_room_is_done_without() {
    let mut world = with_segments(1);
    world.append(log(2), 1, 3000).unwrap();
    world.append_synced_to_the_next_segment(log(1));
    while world.core.stats().active_segment < 4 {
        world.append(log(1), 1, 5000).unwrap();
        let seal = run_until(&mut world, |op| matches!(op, IoOp::Seal { .. } | IoOp::Sync { .. }));
        match seal.op {
            IoOp::Seal { .. } => world.core.on_io(seal.id, Err(no_room("write"))),
            _ => {
                let done = execute(&mut world.disk, &seal);
                world.core.on_io(seal.id, done);
            }
        }
    }
    world.run();
    assert!(world.core.poisoned().is_none());
    let content = world.content();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.content().same(&content) && world.report.is_intact(), "{:?}", world.report);
    assert!(world.report.segments_by_footer + 1 < world.report.segments, "{:?}", world.report);
}

#[test]
fn a_segment_for_which_there_is_no_room_is_not_begun() {
    let mut world = with_segments(2);
    fill(&mut world, log(1));
    assert_eq!(world.disk.stats().no_space, 0, "no write came that far");
    let names = world.disk.list().unwrap();
    assert!(!names.iter().any(|name| name.ends_with(".new")), "{names:?}");
}

#[test]
fn a_preparation_that_is_refused_anywhere_leaves_nothing_behind_and_is_tried_again() {
    for call in ["create", "write_at", "sync_data", "rename"] {
        for failure in [no_room, no_descriptor] {
            let mut world = World::new();
            world.append(log(1), 1, 10).unwrap();
            world.run();
            world.append_synced_to_the_next_segment(log(1));
            for _ in 0..8 {
                world.append(log(1), 1, 10_000).unwrap();
            }
            let request = run_until(&mut world, |op| matches!(op, IoOp::CreateSegment { .. }));
            let result = execute(&mut Refusing { disk: &mut world.disk, call, failure: failure("refused") }, &request);
            assert!(result.is_err(), "{call}");
            let names = world.disk.list().unwrap();
            assert!(!names.iter().any(|name| name.ends_with(".new")), "{call}: {names:?}");
            world.core.on_io(request.id, result);
            assert!(world.core.poisoned().is_none(), "{call}");
            world.core.retry_preparation();
            world.run();
            world.append_synced_to_the_next_segment(log(1));
        }
    }
}

#[test]
fn hard_states_leave_room_for_releases_and_releases_for_what_they_bring() {
    let mut world = with_segments(3);
    fill(&mut world, log(1));
    let mut refused = false;
    for _ in 0..1000 {
        let state = hard_state(log(1), HardStateKind::Promise, 100);
        refused = world.submit(vec![state]) == Err(SubmitError::DiskFull);
        if refused {
            break;
        }
        world.run();
    }
    assert!(refused, "a full disk refuses them too");
    // Releases that bring nothing take room too, and leave enough for the one retirement that they get at last.
    for _ in 0..1000 {
        let idle = Entry::Release { log: log(1), before: Lsn::FIRST };
        if world.core.submit(vec![idle]) == Err(SubmitError::DiskFull) {
            break;
        }
        world.run();
    }
    assert_eq!(world.core.stats().retired, 0);
    assert_eq!(release_all(&mut world, log(1)), Err(SubmitError::DiskFull));

    let mut world = with_segments(3);
    fill(&mut world, log(1));
    while world.submit(vec![hard_state(log(1), HardStateKind::Promise, 100)]).is_ok() {
        world.run();
    }
    release_all(&mut world, log(1)).unwrap();
    world.run();
    assert!(world.core.stats().retired >= 3, "{:?}", world.core.stats());
    world.append_synced_to_the_next_segment(log(1));
}

#[test]
fn what_must_be_said_again_does_not_stand_in_front_of_what_gives_room_back() {
    let mut world = World::new();
    // Much to be said again of the first segment, nothing of the others.
    for n in 0..3 {
        world.submit(vec![hard_state(log(10 + n), HardStateKind::Promise, 2500)]).unwrap();
    }
    for _ in 0..4 {
        world.append_synced_to_the_next_segment(log(1));
    }
    fill(&mut world, log(1));
    release_all(&mut world, log(1)).unwrap();
    world.run();
    assert!(world.core.stats().retired >= 4, "{:?}", world.core.stats());
    assert_eq!(world.acknowledged_entries(), world.submitted.len());
    for _ in 0..6 {
        world.append_synced_to_the_next_segment(log(1));
        release_all(&mut world, log(1)).unwrap();
        world.run();
    }
    let content = world.content();
    assert_eq!(content.hard.len(), 3);
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.content().same(&content));
}

#[test]
fn what_does_not_fit_is_not_said_again_until_there_is_room() {
    let mut world = World::open(VirtualDisk::new(), &Options { segment_bytes: 256 << 10, ..options() }).unwrap();
    // An eighth of the first segment, and more than batches leave of the last one.
    for n in 0..8 {
        world.submit(vec![hard_state(log(10 + n), HardStateKind::Promise, 4000)]).unwrap();
    }
    for _ in 0..3 {
        world.append_synced_to_the_next_segment(log(1));
    }
    fill(&mut world, log(1));
    let before = world.core.stats();
    release_all(&mut world, log(1)).unwrap();
    world.run();
    let stats = world.core.stats();
    assert!(stats.retired > before.retired && !stats.disk_full, "{stats:?}");
    world.append_synced_to_the_next_segment(log(1));
    release_all(&mut world, log(1)).unwrap();
    world.run();
    assert!(world.core.stats().segments <= 2, "{:?}", world.core.stats());
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.content().hard.len(), 8);
}

#[test]
fn what_gives_room_back_is_not_held_up_by_a_batch_that_does_not_fit() {
    let mut world = World::open(VirtualDisk::new(), &Options { segment_bytes: 512 << 10, ..options() }).unwrap();
    for _ in 0..3 {
        world.append_synced_to_the_next_segment(log(1));
    }
    fill(&mut world, log(1));
    // One group, as far as the bounds of a group go.
    release_all(&mut world, log(1)).unwrap();
    let entry = Entry::Batch(batch(log(2), world.core.end(log(2)), Epoch::new(1, 1), 1, 200_000));
    let ticket = world.core.submit_when(vec![entry.clone()], WhenFull::Wait).unwrap();
    world.submitted.push((ticket, entry));
    world.run();
    assert_eq!(world.acknowledged_entries(), world.submitted.len(), "{:?}", world.core.stats());
}

#[test]
fn what_takes_as_much_room_as_it_frees_is_not_said_again() {
    let mut world = World::new();
    for n in 0..8 {
        world.submit(vec![hard_state(log(10 + n), HardStateKind::Promise, 4000)]).unwrap();
    }
    for _ in 0..10 {
        world.append_synced_to_the_next_segment(log(1));
        release_all(&mut world, log(1)).unwrap();
        // Would not end, if each segment of hard states were dead by the next.
        world.run();
    }
    let stats = world.core.stats();
    assert!(stats.segments <= 6 && stats.retired > 5, "{stats:?}");
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert_eq!(world.content().hard.len(), 8);
    for n in 0..8 {
        world.submit(vec![hard_state(log(10 + n), HardStateKind::Promise, 10)]).unwrap();
    }
    world.append_synced_to_the_next_segment(log(1));
    release_all(&mut world, log(1)).unwrap();
    world.run();
    assert!(world.core.stats().segments <= 2, "{:?}", world.core.stats());
}

#[test]
fn a_release_goes_also_with_more_behind_it_than_fits() {
    let mut seen = 0;
    for eaten in 0..8 {
        let mut world = with_segments(3);
        fill(&mut world, log(1));
        let wait = |world: &mut World| {
            let end = world.core.end(log(2));
            let entry = Entry::Batch(batch(log(2), end, end.epoch.max(Epoch::new(1, 1)), 1, 7000));
            let ticket = world.core.submit_when(vec![entry.clone()], WhenFull::Wait).unwrap();
            world.submitted.push((ticket, entry));
        };
        for _ in 0..eaten {
            wait(&mut world);
            world.run();
        }
        if release_all(&mut world, log(1)).is_err() {
            continue;
        }
        seen += 1;
        for _ in 0..10 {
            wait(&mut world);
        }
        world.run();
        assert_eq!(world.acknowledged_entries(), world.submitted.len(), "{eaten}: {:?}", world.core.stats());
    }
    assert!(seen >= 2, "{seen} releases were accepted");
}

#[test]
fn a_compaction_that_may_not_have_its_name_is_given_up() {
    let mut world = World::open(VirtualDisk::new(), &Options { slack_segments: 0, ..options() }).unwrap();
    for _ in 0..6 {
        world.append_synced(log(2), 1, 300);
        world.append_synced_to_the_next_segment(log(1));
    }
    release_all(&mut world, log(1)).unwrap();
    let request = run_until(&mut world, |op| matches!(op, IoOp::InstallCompacted { .. }));
    let mut refusing = Refusing { disk: &mut world.disk, call: "rename", failure: no_room("rename") };
    let result = execute(&mut refusing, &request);
    world.core.on_io(request.id, result);
    let names = world.disk.list().unwrap();
    assert!(!names.iter().any(|name| name.ends_with(".new")), "{names:?}");
    assert!(world.core.poisoned().is_none() && world.core.stats().compactions_failed == 1);
    world.run();
    let content = world.content();
    let mut world = world.crash(CrashKind::DropAll, &mut Chance::new(1)).unwrap();
    assert!(world.content().same(&content) && world.report.is_intact());
}

#[test]
fn what_can_not_be_read_for_want_of_descriptors_is_not_called_damage() {
    let mut world = with_segments(2);
    let extent = world.core.plan_read(log(1), Lsn::FIRST, 1).unwrap()[0];
    let refused = IoFailure::new(ErrorKind::PermissionDenied, "open", "a file");
    for failure in [no_descriptor("open"), refused] {
        let read = extent.read(&mut Refusing { disk: &mut world.disk, call: "read_at", failure: failure.clone() });
        assert_eq!(read, Err(ReadError::Io(failure)));
    }
    let broken = IoFailure::new(ErrorKind::Other, "read", "a file");
    let read = extent.read(&mut Refusing { disk: &mut world.disk, call: "read_at", failure: broken });
    assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
    assert_eq!(SEGMENT, options().segment_bytes);
}

/// A disk that refuses one kind of call.
struct Refusing<'a> {
    disk: &'a mut VirtualDisk,
    call: &'static str,
    failure: IoFailure,
}

impl Refusing<'_> {
    fn ask(&self, call: &str) -> Result<(), IoFailure> {
        if call == self.call { Err(self.failure.clone()) } else { Ok(()) }
    }
}

impl Io for Refusing<'_> {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.disk.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.ask("create")?;
        self.disk.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.disk.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.ask("read_at")?;
        self.disk.read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.ask("write_at")?;
        self.disk.write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.ask("sync_data")?;
        self.disk.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.ask("sync_dir")?;
        self.disk.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.ask("rename")?;
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

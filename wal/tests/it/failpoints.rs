//! Every call that the log makes of its directory fails once, in three ways, wherever it is made: in an open, in work, in the
//! background, in a repair. What was acknowledged is there afterwards, and nobody panics (rows D6, D7 and D8 of the fault list).

use std::collections::BTreeSet;
use std::io::ErrorKind;

use bytes::Bytes;
use towline_wal::io::{Io, IoFailure, LockOutcome, execute};
use towline_wal::repair::{Repair, RepairOptions};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{
    Entry, Epoch, HardStateKind, LogCore, LogId, Lsn, OpenError, Options, SubmitError, Ticket, WalError,
};

use crate::damage::{SEG, disk_with, flip, group_of};
use crate::world::{Model, World, batch, log, options};

/// A disk of which one call fails.
struct Failing {
    disk: VirtualDisk,
    /// Calls until it fails; `None`: it has.
    left: Option<usize>,
    kind: ErrorKind,
    /// What failed.
    failed: Option<&'static str>,
}

impl Failing {
    fn call(&mut self, name: &'static str) -> Result<(), IoFailure> {
        let Some(left) = self.left else { return Ok(()) };
        self.left = left.checked_sub(1);
        if self.left.is_some() {
            return Ok(());
        }
        self.failed = Some(name);
        Err(IoFailure::new(self.kind, name, "a file"))
    }
}

impl Io for Failing {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.call("lock")?;
        self.disk.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.call("list")?;
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.call("create")?;
        self.disk.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.call("len")?;
        self.disk.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.call("read_at")?;
        self.disk.read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        if let Err(failure) = self.call("write_at") {
            // Some of it was written.
            let half = slices.len().div_ceil(2);
            self.disk.write_at(name, offset, slices.get(..half).unwrap_or_default())?;
            return Err(failure);
        }
        self.disk.write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        if let Err(failure) = self.call("sync_data") {
            // As Linux does it: what was to be synced is dropped, and the next sync says that all is well.
            self.disk.fail_sync_after(0);
            drop(self.disk.sync_data(name));
            return Err(failure);
        }
        self.disk.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        if let Err(failure) = self.call("sync_dir") {
            self.disk.fail_sync_after(0);
            drop(self.disk.sync_dir());
            return Err(failure);
        }
        self.disk.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.call("rename")?;
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.call("remove")?;
        self.disk.remove(name)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.call("settle")?;
        self.disk.settle(name)
    }

    fn free_bytes(&mut self) -> Result<Option<u64>, IoFailure> {
        self.call("free_bytes")?;
        self.disk.free_bytes()
    }

    fn entropy(&mut self) -> u64 {
        self.disk.entropy()
    }

    fn process_id(&self) -> u32 {
        self.disk.process_id()
    }
}

/// What was submitted, and how much of it acknowledged.
#[derive(Default)]
struct Told {
    entries: Vec<(Ticket, Entry)>,
    acknowledged: Option<Ticket>,
}

fn eager() -> Options {
    Options { slack_segments: 0, ..options() }
}

/// Submits, and carries everything out. `false`: the log takes no more.
fn say(core: &mut LogCore, io: &mut Failing, told: &mut Told, entries: Vec<Entry>) -> bool {
    // As drivers do now and then: what was refused is asked for again.
    core.retry_preparation();
    match core.submit(entries.clone()) {
        Ok(ticket) => told.entries.extend(entries.into_iter().map(|entry| (ticket, entry))),
        Err(SubmitError::DiskFull) => {}
        Err(SubmitError::Poisoned(_)) => return false,
        Err(error) => panic!("{error}"),
    }
    while let Some(request) = core.poll_io() {
        let result = execute(io, &request);
        core.on_io(request.id, result);
        core.check();
    }
    while let Some(done) = core.poll_completion() {
        match done.result {
            Ok(()) => told.acknowledged = Some(done.ticket),
            Err(WalError::Poisoned(_)) => return false,
            Err(error) => panic!("{error}"),
        }
    }
    true
}

fn append(core: &LogCore, of: LogId, bytes: usize) -> Entry {
    let end = core.end(of);
    Entry::Batch(batch(of, end, end.epoch.max(Epoch::new(1, 1)), 1, bytes))
}

/// All kinds of work, until the log takes no more.
fn work(core: &mut LogCore, io: &mut Failing, told: &mut Told) -> bool {
    let vow = Entry::HardState { log: log(2), kind: HardStateKind::Promise, bytes: Bytes::from_static(b"vow") };
    let mut goes = say(core, io, told, vec![vow]);
    for i in 0..24 {
        let next = append(core, log(1), 6000);
        goes = goes && say(core, io, told, vec![next]);
        if i % 6 == 0 {
            let next = append(core, log(2), 300);
            goes = goes && say(core, io, told, vec![next]);
        }
    }
    let before = core.end(log(1)).lsn;
    if goes && before > Lsn::FIRST {
        goes = say(core, io, told, vec![Entry::Release { log: log(1), before }]);
    }
    let to = core.boundary_at_or_before(log(2), Lsn::new(3));
    if let Some(to) = to.filter(|_| goes && core.end(log(2)).lsn > Lsn::new(3)) {
        goes = say(core, io, told, vec![Entry::Truncate { log: log(2), to }]);
    }
    let next = append(core, log(1), 6000);
    goes && say(core, io, told, vec![next])
}

/// Two lives of which the `n`th call fails; what failed, or `None` if there are not so many.
fn run(n: usize, kind: ErrorKind) -> Option<&'static str> {
    let mut io = Failing { disk: VirtualDisk::with_seed(3), left: Some(n), kind, failed: None };
    let mut told = Told::default();
    for _ in 0..2 {
        match LogCore::recover(&mut io, &eager()) {
            Ok((mut core, _)) => {
                work(&mut core, &mut io, &mut told);
            }
            Err(OpenError::Io(_)) => assert!(io.failed.is_some()),
            // A file that can't be measured or read is as one that is not what it should be.
            Err(error) => assert!(io.failed.is_some(), "{error}"),
        }
        io.disk.kill_process();
        if io.failed.is_some() {
            break;
        }
        if told.acknowledged.is_some() {
            // The second life does the same work behind the first.
            told.entries.retain(|(ticket, _)| Some(*ticket) <= told.acknowledged);
            let base = told.entries.drain(..).map(|(_, entry)| entry).collect::<Vec<_>>();
            return second_life(io, &base);
        }
    }
    let failed = io.failed?;
    check(io.disk, &[], &told, failed);
    Some(failed)
}

fn second_life(mut io: Failing, base: &[Entry]) -> Option<&'static str> {
    let mut told = Told::default();
    if let Ok((mut core, _)) = LogCore::recover(&mut io, &eager()) {
        work(&mut core, &mut io, &mut told);
    }
    let failed = io.failed?;
    check(io.disk, base, &told, failed);
    Some(failed)
}

/// After power fails, the log is what some prefix of the entries makes of it, at least what was acknowledged.
fn check(mut disk: VirtualDisk, base: &[Entry], told: &Told, failed: &str) {
    disk.clear_faults();
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut world = World::open(disk, &eager()).unwrap();
    assert!(world.report.is_intact(), "{failed}: {:?}", world.report);
    let content = world.content();
    let least = told.entries.iter().filter(|(ticket, _)| Some(*ticket) <= told.acknowledged).count();
    let found = (least..=told.entries.len()).any(|count| {
        let mut model = Model::default();
        base.iter().for_each(|entry| model.apply(entry));
        told.entries.iter().take(count).for_each(|(_, entry)| model.apply(entry));
        model.same(&content)
    });
    assert!(found, "{failed}: it is none of the states that it may be in: {:?}", world.report);
    // And it goes on.
    world.append_synced(log(2), 1, 100);
}

#[test]
fn each_call_fails_in_three_ways_and_nothing_acknowledged_is_lost() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull, ErrorKind::OutOfMemory] {
        let mut hit = BTreeSet::new();
        let mut n = 0;
        while let Some(failed) = run(n, kind) {
            hit.insert(failed);
            n += 1;
        }
        let all = [
            "create",
            "free_bytes",
            "len",
            "list",
            "lock",
            "read_at",
            "remove",
            "rename",
            "settle",
            "sync_data",
            "sync_dir",
            "write_at",
        ];
        assert_eq!(hit.into_iter().collect::<Vec<_>>(), all, "each kind of call was made, and failed");
        assert!(n > 300, "{n} calls are a small test");
    }
}

/// A repair of which the `n`th call fails; what failed, or `None` if there are not so many. Whatever it came to, another repair
/// finishes the work.
fn repair_of_which_a_call_fails(disk: VirtualDisk, n: usize, kind: ErrorKind) -> Option<&'static str> {
    let mut io = Failing { disk, left: Some(n), kind, failed: None };
    let mut backup = VirtualDisk::new();
    let repaired =
        Repair::begin(&mut io, RepairOptions::default()).and_then(|repair| repair.execute(&mut backup, "by a test"));
    if let Err(error) = repaired {
        assert!(io.failed.is_some(), "{error}");
    }
    let failed = io.failed?;
    let mut disk = io.disk;
    disk.clear_faults();
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap_or_else(|error| panic!("{failed}: {error}"));
    let repaired = repair.execute(&mut VirtualDisk::new(), "again").unwrap_or_else(|error| panic!("{failed}: {error}"));
    assert!(repaired.verified.is_good(), "{failed}: {repaired:?}");
    disk.kill_process();
    let mut world = World::open(disk, &options()).unwrap_or_else(|error| panic!("{failed}: {error}"));
    assert_eq!(world.lsns(log(1)), [1, 2], "{failed}: what is before the damage is there, and no more");
    assert_eq!(world.core.cuts()[0].from, Lsn::new(3), "{failed}");
    Some(failed)
}

#[test]
fn each_call_of_a_repair_fails_in_two_ways_and_another_repair_finishes_it() {
    let (mut damaged, groups) = disk_with(6);
    flip(&mut damaged, SEG, group_of(&groups, 3).batches[0].offset + 120);
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let mut hit = BTreeSet::new();
        let mut n = 0;
        while let Some(failed) = repair_of_which_a_call_fails(damaged.clone(), n, kind) {
            hit.insert(failed);
            n += 1;
        }
        for call in ["len", "list", "lock", "read_at", "settle", "sync_data", "sync_dir", "write_at"] {
            assert!(hit.contains(call), "{call} was made, and failed: {hit:?}");
        }
    }
}

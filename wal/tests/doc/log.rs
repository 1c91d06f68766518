// What examples of the documentation begin with and do not show: they include this file as a module. No target of its own.

use towline_wal::inspect::inspect_io;
use towline_wal::io::execute;
use towline_wal::vdisk::VirtualDisk;
use towline_wal::{Batch, BatchBuilder, BatchKind, Entry, Epoch, LogCore, LogId, LogPosition, Options, Wal};

/// The log that most of them speak of.
pub const LOG: LogId = LogId::new(1);

/// The smallest segments.
pub fn small() -> Options {
    Options { segment_bytes: 64 << 10, ..Options::default() }
}

/// A new log on a virtual disk.
pub fn created(options: &Options) -> (LogCore, VirtualDisk) {
    let mut disk = VirtualDisk::new();
    (LogCore::recover(&mut disk, options).unwrap().0, disk)
}

/// Carries out what the core asks for, until there is no more.
pub fn run(core: &mut LogCore, disk: &mut VirtualDisk) {
    while let Some(request) = core.poll_io() {
        let result = execute(disk, &request);
        core.on_io(request.id, result);
    }
}

fn batch_behind(log: LogId, end: LogPosition, record: &[u8]) -> Batch {
    BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), end, 0).seal_raw(record, 1).unwrap()
}

/// The next batch of a log.
pub fn batch(core: &LogCore, log: LogId, record: &[u8]) -> Batch {
    batch_behind(log, core.end(log), record)
}

/// Appends a batch, in a group of its own.
pub fn append(core: &mut LogCore, disk: &mut VirtualDisk, log: LogId, record: &[u8]) {
    core.submit(vec![Entry::Batch(batch(core, log, record))]).unwrap();
    run(core, disk);
}

fn killed_with(records: &[&[u8]]) -> VirtualDisk {
    let (mut core, mut disk) = created(&small());
    for record in records {
        append(&mut core, &mut disk, LOG, record);
    }
    disk.kill_process();
    disk
}

/// A log of three batches, whose process was killed.
pub fn three() -> VirtualDisk {
    killed_with(&[b"one", b"two", b"six"])
}

/// A log of more than two segments.
pub fn long() -> VirtualDisk {
    killed_with(&[&[7; 9000][..]; 12])
}

/// The log of three batches, of which the `nth` has rotted.
pub fn rotted(nth: usize) -> VirtualDisk {
    let mut disk = three();
    rot(&mut disk, nth);
    disk
}

/// Flips a bit of the payload of the `nth` batch.
pub fn rot(disk: &mut VirtualDisk, nth: usize) {
    let segment = inspect_io(disk).unwrap().segments.remove(0);
    let batch = segment.groups.iter().flat_map(|group| &group.batches).nth(nth - 1).unwrap();
    assert!(disk.flip_bit(&segment.file, (batch.offset + 112) * 8));
}

/// A new log on real files.
pub fn opened() -> (tempfile::TempDir, Wal) {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    (dir, wal)
}

/// The next batch of the log on real files.
pub fn next(wal: &Wal, record: &[u8]) -> Batch {
    batch_behind(LOG, wal.end(LOG), record)
}

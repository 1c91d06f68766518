//! Thousands of segments that one slow log pins (row D27 of the fault list): an open reads a little of each, and when the log
//! moves on at last they all go. (Open files are counted on real files, in `files`.)

use bytes::Bytes;
use towline_wal::io::{Io, IoFailure, LockOutcome, execute};
use towline_wal::vdisk::VirtualDisk;
use towline_wal::{Entry, Epoch, LogCore, LogId, Lsn, Options};

use crate::world::{SEGMENT, batch, log, options};

/// A disk that counts what is read.
struct Counting {
    disk: VirtualDisk,
    reads: u64,
    bytes: u64,
}

impl Io for Counting {
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
        self.reads += 1;
        self.bytes += u64::try_from(buffer.len()).unwrap();
        self.disk.read_at(name, offset, buffer)
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

/// Submits, and carries everything out.
fn say(core: &mut LogCore, io: &mut Counting, entry: Entry) {
    core.submit(vec![entry]).unwrap();
    while let Some(request) = core.poll_io() {
        let result = execute(io, &request);
        core.on_io(request.id, result);
    }
    while let Some(done) = core.poll_completion() {
        done.result.unwrap();
    }
}

fn append(core: &mut LogCore, io: &mut Counting, of: LogId, bytes: usize) {
    let end = core.end(of);
    say(core, io, Entry::Batch(batch(of, end, Epoch::new(1, 1), 1, bytes)));
}

fn eager() -> Options {
    Options { slack_segments: 0, index_bytes_max: 1 << 16, ..options() }
}

/// A log that fills so many segments, of which another, slow one needs none but the first.
fn pinned(segments: usize) -> Counting {
    let mut io = Counting { disk: VirtualDisk::new(), reads: 0, bytes: 0 };
    let (mut core, _) = LogCore::recover(&mut io, &eager()).unwrap();
    append(&mut core, &mut io, log(2), 100);
    while core.stats().segments < segments {
        // As many batches as a segment of this size holds.
        (0..4).for_each(|_| append(&mut core, &mut io, log(1), 12_000));
    }
    io.disk.kill_process();
    (io.reads, io.bytes) = (0, 0);
    io
}

#[test]
fn ten_thousand_segments_open_by_their_footers() {
    let mut io = pinned(10_000);
    let (mut core, report) = LogCore::recover(&mut io, &eager()).unwrap();
    assert!(report.is_intact() && report.segments >= 10_000, "{report:?}");
    assert!(report.segments_by_footer >= report.segments - 2, "{report:?}");
    // Its header, twice, and its footer, in two pieces; of the newest a whole segment.
    assert!(io.reads <= 5 * report.segments, "{} reads", io.reads);
    assert!(io.bytes <= report.segments * SEGMENT / 4, "{} bytes", io.bytes);
    assert!(core.stats().index_bytes <= 4 << 20, "{:?}", core.stats());
    core.load_index(&mut io, log(2), Lsn::FIRST);
    let first = core.plan_read(log(2), Lsn::FIRST, 0).unwrap()[0].read(&mut io).unwrap();
    assert_eq!(first.position(), core.end(log(2)));
}

#[test]
fn hundreds_of_segments_go_when_the_log_that_pins_them_moves_on() {
    let mut io = pinned(500);
    let (mut core, _) = LogCore::recover(&mut io, &eager()).unwrap();
    let before = core.end(log(1)).lsn;
    core.load_index(&mut io, log(1), before.prev());
    say(&mut core, &mut io, Entry::Release { log: log(1), before });
    for _ in 0..20 {
        append(&mut core, &mut io, log(1), 12_000);
    }
    let (stats, used) = (core.stats(), io.disk.used());
    assert!(stats.segments <= 16, "{stats:?}");
    assert!(used <= 32 * SEGMENT, "{used} bytes");
}

//! Any files as a log directory: refused with a reason and nothing written, or opened; then what was opened reads in
//! order, takes more, and holds the same when it is opened again.
//!
//! A directory drawn at random is refused at its first byte, so the files are those of a true log, changed: bytes
//! overwritten, files cut, lost, swapped or added, and checksums made to fit again where asked.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use towline_wal::io::{Io, execute};
use towline_wal::vdisk::VirtualDisk;
use towline_wal::{
    BatchBuilder, BatchKind, Block, Chain, Compression, Entry, Epoch, HardStateKind, LogCore, LogId, LogPosition, Lsn,
    OpenError, Options,
};

const BLOCK: u64 = 4096;
/// Room on the disk.
const DISK_BYTES_MAX: u64 = 4 << 20;
/// Changes of one input, and what is done then: more only make it slow.
const CHANGES_MAX: usize = 16;
const WORK_MAX: usize = 16;

#[derive(Arbitrary, Debug)]
struct Input {
    from: Start,
    /// Little of the index is in memory.
    folded: bool,
    changes: Vec<Change>,
    work: Vec<Work>,
}

/// What is done to the log once it is open.
#[derive(Arbitrary, Debug)]
enum Work {
    Append { log: u8, bytes: u16 },
    Release { log: u8, before: u8 },
    Truncate { log: u8, back: u8 },
    Reset { log: u8, lsn: u8 },
    Remove { log: u8 },
}

#[derive(Arbitrary, Debug)]
enum Start {
    Nothing,
    Closed,
    Killed,
    Compacted,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Overwrite {
        file: u8,
        at: u32,
        bytes: Vec<u8>,
        seal: bool,
    },
    /// One field of a group's or a segment's header, where the format has one.
    Field {
        file: u8,
        block: u8,
        at: u8,
        value: u64,
        seal: bool,
    },
    Cut {
        file: u8,
        len: u32,
    },
    Lose {
        file: u8,
    },
    Rename {
        file: u8,
        number: u8,
    },
    /// A block of one file over a block of another: misdirected writes, old bytes.
    CopyBlock {
        from: u8,
        from_block: u8,
        to: u8,
        to_block: u8,
        seal: bool,
    },
    Add {
        number: u8,
        bytes: Vec<u8>,
    },
}

fn options() -> Options {
    Options { segment_bytes: 64 << 10, segments_ahead: 1, slack_segments: 0, ..Options::default() }
}

/// A log of which most was released, so that the rest of it was moved together.
static COMPACTED_LOG: LazyLock<VirtualDisk> = LazyLock::new(|| {
    let mut disk = VirtualDisk::with_seed(2);
    let (mut core, _) = LogCore::recover(&mut disk, &options()).expect("a true log opens");
    let (short, long) = (LogId::new(7), LogId::new(8));
    for round in 0..30 {
        append(&mut core, &mut disk, short, 6000);
        if round % 6 == 0 {
            append(&mut core, &mut disk, long, 300);
        }
    }
    let to = core.position_at(long, Lsn::new(9)).expect("three records a batch");
    let before = core.end(short).lsn;
    core.submit(vec![Entry::Truncate { log: long, to }]).expect("a boundary");
    core.submit(vec![Entry::Release { log: short, before }]).expect("it is there");
    drive(&mut core, &mut disk);
    append(&mut core, &mut disk, long, 300);
    assert!(core.stats().compactions > 0, "this is what it is for: {:?}", core.stats());
    disk.kill_process();
    disk
});

/// A log of several segments and lives, with all kinds of records in it; and the same, closed in good order.
static TRUE_LOGS: LazyLock<(VirtualDisk, VirtualDisk)> = LazyLock::new(|| {
    let mut disk = VirtualDisk::with_seed(1);
    for life in 0..2 {
        let (mut core, _) = LogCore::recover(&mut disk, &options()).expect("a true log opens");
        for round in 0..6 {
            for log in [LogId::new(7), LogId::new(8)] {
                let before = core.end(log);
                append(&mut core, &mut disk, log, 4000 + 1500 * round);
                if round == 3 {
                    let cut = Entry::Truncate { log, to: before };
                    core.submit(vec![cut]).expect("a boundary");
                }
                let bytes = Bytes::from(vec![life; 40]);
                let vow = Entry::HardState { log, kind: HardStateKind::Promise, bytes };
                core.submit(vec![vow]).expect("there is room");
                drive(&mut core, &mut disk);
            }
        }
        disk.kill_process();
    }
    let killed = disk.clone();
    let (mut core, _) = LogCore::recover(&mut disk, &options()).expect("a true log opens");
    core.begin_close();
    drive(&mut core, &mut disk);
    disk.kill_process();
    (killed, disk)
});

fuzz_target!(|input: Input| run(input));

fn run(input: Input) {
    let mut disk = match input.from {
        Start::Nothing => VirtualDisk::with_seed(1),
        Start::Closed => TRUE_LOGS.1.clone(),
        Start::Killed => TRUE_LOGS.0.clone(),
        Start::Compacted => COMPACTED_LOG.clone(),
    };
    for change in input.changes.iter().take(CHANGES_MAX) {
        change.make(&mut disk);
    }
    // A changed manifest may ask for segments of a gibibyte.
    disk.set_space(Some(DISK_BYTES_MAX));
    let writes = disk.stats().writes;
    let options = if input.folded { Options { index_bytes_max: 0, ..options() } } else { options() };
    let mut core = match LogCore::recover(&mut disk, &options) {
        Ok((core, _)) => core,
        Err(OpenError::Io(_)) => return,
        Err(_) => {
            assert_eq!(disk.stats().writes, writes, "a directory that is refused is not touched");
            return;
        }
    };
    core.check();
    let mut ends = Vec::new();
    for log in core.logs() {
        read_all(&mut core, &mut disk, log);
        ends.push((log, core.end(log)));
    }
    for work in input.work.iter().take(WORK_MAX) {
        work.make(&mut core, &mut disk, &ends);
        core.check();
    }
    ends = core.logs().into_iter().map(|log| (log, core.durable_end(log))).collect();
    // It goes on, where it is not damaged; what it takes is there at the next open.
    for (log, end) in ends.iter_mut().take(3) {
        if append(&mut core, &mut disk, *log, 500) {
            let full = disk.stats().no_space > 0;
            assert!(full || core.durable_end(*log) == core.end(*log), "nothing failed, so it is durable");
            *end = core.durable_end(*log);
        }
    }
    core.check();
    disk.kill_process();
    let (mut core, _) = LogCore::recover(&mut disk, &options).expect("what was opened opens again, without room too");
    core.check();
    for (log, end) in ends {
        assert_eq!(core.end(log), end, "log {log} ends elsewhere at the next open");
        read_all(&mut core, &mut disk, log);
    }
}

impl Work {
    fn make(&self, core: &mut LogCore, disk: &mut VirtualDisk, logs: &[(LogId, LogPosition)]) {
        let log = |n: u8| logs.get(usize::from(n) % logs.len().max(1)).map_or(LogId::new(99), |(log, _)| *log);
        let entry = match *self {
            Self::Append { log: n, bytes } => {
                append(core, disk, log(n), usize::from(bytes % 9000));
                return;
            }
            Self::Release { log: n, before } => {
                let before = core.start(log(n)).lsn.advance(u64::from(before));
                core.load_index(disk, log(n), before.prev());
                Entry::Release { log: log(n), before }
            }
            Self::Truncate { log: n, back } => {
                let lsn = Lsn::new(core.end(log(n)).lsn.get().saturating_sub(u64::from(back)));
                core.load_index(disk, log(n), lsn);
                let Some(to) = core.boundary_at_or_before(log(n), lsn) else { return };
                Entry::Truncate { log: log(n), to }
            }
            Self::Reset { log: n, lsn } => {
                let epoch = core.end(log(n)).epoch;
                Entry::Reset {
                    log: log(n),
                    to: LogPosition { epoch, lsn: Lsn::new(u64::from(lsn)), chain: Chain::new(7) },
                }
            }
            Self::Remove { log: n } => Entry::Remove { log: log(n) },
        };
        // It may be refused; then nothing of it is done.
        drop(core.submit(vec![entry]));
        drive(core, disk);
    }
}

/// Appends one batch of so many bytes; `false` if the log takes none.
fn append(core: &mut LogCore, disk: &mut VirtualDisk, log: LogId, bytes: usize) -> bool {
    let end = core.end(log);
    let epoch = end.epoch.max(Epoch { version: 1, term: 1 });
    let raw: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).expect("small")).collect();
    let sealed = BatchBuilder::new(log, BatchKind::Data, epoch, end, 1)
        .block(Block::encode(Bytes::from(raw), 3, Compression::Never))
        .seal();
    // Behind the last LSN there is none.
    let Ok(batch) = sealed else { return false };
    let taken = core.submit(vec![Entry::Batch(batch)]).is_ok();
    drive(core, disk);
    taken
}

fn drive(core: &mut LogCore, disk: &mut VirtualDisk) {
    while let Some(request) = core.poll_io() {
        let result = execute(disk, &request);
        core.on_io(request.id, result);
    }
    while let Some(done) = core.poll_completion() {
        assert!(done.result.is_ok() || disk.stats().no_space > 0, "the disk failed nothing: {done:?}");
    }
}

/// Everything that a log holds, in order; where it is damaged it says so.
fn read_all(core: &mut LogCore, disk: &mut VirtualDisk, log: LogId) {
    let end = core.end(log);
    let mut position: Option<LogPosition> = Some(core.start(log));
    let mut from = core.start(log).lsn.next();
    while from <= end.lsn {
        core.load_index(disk, log, from);
        let Ok(extents) = core.plan_read(log, from, 1 << 16) else { return };
        if extents.is_empty() {
            return;
        }
        for extent in extents {
            let Ok(batch) = extent.read(disk) else { return };
            assert!(batch.log() == log && batch.first_lsn() <= from && from <= batch.last_lsn());
            if let Some(position) = position {
                assert!(batch.follows(&position), "batches of {log} at {from} do not follow each other");
            }
            position = Some(batch.position());
            from = batch.last_lsn().next();
        }
    }
    assert_eq!(position, Some(end));
}

impl Change {
    fn make(&self, disk: &mut VirtualDisk) {
        match self {
            Self::Overwrite { file, at, bytes, seal } => {
                let Some((name, mut content)) = pick(disk, *file) else { return };
                if content.is_empty() {
                    return;
                }
                let at = usize::try_from(*at).expect("32 bits fit") % content.len();
                for (to, from) in content[at..].iter_mut().zip(bytes) {
                    *to = *from;
                }
                put(disk, &name, content, seal.then_some(at));
            }
            Self::Field { file, block, at, value, seal } => {
                let Some((name, mut content)) = pick(disk, *file) else { return };
                let at = usize::from(*block) * 4096 + usize::from(*at) % 128;
                if let Some(field) = content.get_mut(at..at + 8) {
                    field.copy_from_slice(&value.to_le_bytes());
                    put(disk, &name, content, seal.then_some(at));
                }
            }
            Self::Cut { file, len } => {
                let Some((name, mut content)) = pick(disk, *file) else { return };
                content.truncate(usize::try_from(*len).expect("32 bits fit") % (content.len() + 1));
                put(disk, &name, content, None);
            }
            Self::Lose { file } => {
                if let Some((name, _)) = pick(disk, *file) {
                    disk.remove(&name).expect("it was there");
                }
            }
            Self::Rename { file, number } => {
                if let Some((name, _)) = pick(disk, *file) {
                    disk.rename(&name, &towline_wal::io::segment_name(u64::from(*number))).expect("it was there");
                }
            }
            Self::CopyBlock { from, from_block, to, to_block, seal } => {
                let Some((_, source)) = pick(disk, *from) else { return };
                let Some((name, mut content)) = pick(disk, *to) else { return };
                let (from, to) = (usize::from(*from_block) * 4096, usize::from(*to_block) * 4096);
                if let (Some(source), Some(to_bytes)) = (source.get(from..from + 4096), content.get_mut(to..to + 4096))
                {
                    to_bytes.copy_from_slice(source);
                    put(disk, &name, content, seal.then_some(to));
                }
            }
            Self::Add { number, bytes } => {
                put(disk, &towline_wal::io::segment_name(u64::from(*number)), bytes.clone(), None);
            }
        }
        disk.sync_dir().expect("this disk fails nothing");
    }
}

/// One of the files there are, with its bytes.
fn pick(disk: &mut VirtualDisk, number: u8) -> Option<(String, Vec<u8>)> {
    let names = disk.list().expect("this disk fails nothing");
    let name = names.get(usize::from(number) % names.len().max(1))?.clone();
    let len = disk.len(&name).expect("it is listed");
    let mut content = vec![0; usize::try_from(len).expect("small")];
    disk.read_at(&name, 0, &mut content).expect("it is listed");
    Some((name, content))
}

fn put(disk: &mut VirtualDisk, name: &str, mut content: Vec<u8>, seal: Option<usize>) {
    if let Some(at) = seal {
        seal_around(&mut content, at);
    }
    disk.create(name).expect("this disk is never full");
    disk.write_at(name, 0, &[Bytes::from(content)]).expect("this disk is never full");
    disk.sync_data(name).expect("this disk fails nothing");
}

/// Makes the checksums fit that cover the byte at `at`: a manifest's, a segment header's, or a group's.
fn seal_around(content: &mut [u8], at: usize) {
    let store = |content: &mut [u8], at: usize, crc: u32| content[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    let starts = |content: &[u8], at: usize, magic: &[u8]| content.get(at..at + 4) == Some(magic);
    if starts(content, 0, b"TWMF") && content.len() >= 64 {
        let crc = crc32fast::hash(&content[..60]);
        store(content, 60, crc);
        return;
    }
    let trailer = content.len().saturating_sub(64);
    if starts(content, trailer, b"TWFE") {
        let number = |content: &[u8], at: usize, len: usize| {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&content[trailer + at..trailer + at + len]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let summary = number(content, 32, 8);
        if at >= summary {
            let offsets = summary.saturating_add(number(content, 40, 4));
            let end = offsets.saturating_add(number(content, 48, 4));
            for (from, to, field) in [(summary, offsets, 44), (offsets, end, 52)] {
                if let Some(part) = content.get(from..to) {
                    let crc = crc32fast::hash(part);
                    store(content, trailer + field, crc);
                }
            }
            let crc = crc32fast::hash(&content[trailer..trailer + 60]);
            store(content, trailer + 60, crc);
            return;
        }
    }
    if starts(content, 0, b"TWSG") && at < 4096 && content.len() >= 4096 {
        let crc = crc32fast::hash(&content[..4092]);
        store(content, 4092, crc);
        return;
    }
    let block = usize::try_from(BLOCK).expect("small");
    let mut group = at / block * block;
    while !starts(content, group, b"TWGR") {
        if group == 0 {
            return;
        }
        group -= block;
    }
    let field = |content: &[u8], at: usize| {
        let bytes: [u8; 4] = content[group + at..group + at + 4].try_into().expect("four");
        usize::try_from(u32::from_le_bytes(bytes)).expect("32 bits fit")
    };
    if content.len() < group + 128 {
        return;
    }
    let directories = field(content, 68) + field(content, 72);
    if let Some(bytes) = content.get(group + 128..(group + 128).saturating_add(directories)) {
        let crc = crc32fast::hash(bytes);
        store(content, group + 84, crc);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&content[group + 8..group + 16]);
    crc.update(&content[group..group + 124]);
    store(content, group + 124, crc.finalize());
}

//! Opening a log of some GiB with its footers and without them, and reading it back, beside what the disk reads.

use crate::Run;
use crate::clock;
use crate::disk::{self, Aligned, Pool};
use crate::peers::Producer;
use crate::table::{Cell, Table, progress};
use anyhow::{Context as _, Result, ensure};
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_wal::{LogId, Lsn, OpenReport, Options, Pending, Wal};

/// Records of a batch, and bytes of a record.
const RECORDS: u32 = 64;
const RECORD_BYTES: usize = 1024;
/// Batches in flight while the log is made.
const WINDOW: usize = 64;
/// Bytes that one call reads back.
const READ_BYTES: usize = 4 << 20;
/// Bytes of one read of the bare disk.
const STEP_BYTES: usize = 1 << 20;
/// A footer's last bytes, and the magic that they start with (`docs/src/formats.md`).
const TRAILER_BYTES: u64 = 64;
const TRAILER_MAGIC: &[u8] = b"TWFE";

/// Prints one table.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let place = run.place()?;
    let directory = place.path().join("wal");
    progress(&format!("recovery: making a log of {} GiB", run.gib));
    let bytes = make(&directory, run.gib)?;
    let columns = ["what", "s", "MB/s", "of the disk", "segments by footer"];
    let mut table = Table::new(format!("recovery, {} GiB in batches of {RECORDS} records x 1 KiB", run.gib), &columns);
    let mut row = |what: &str, bytes: Option<u64>, took: Duration, disk: Option<f64>, note: String| {
        let rate = bytes.map(|bytes| bytes as f64 / took.as_secs_f64());
        table.row([
            what.into(),
            Cell::Number(took.as_secs_f64(), 3),
            rate.map_or(Cell::Nothing, |rate| Cell::Number(rate / 1e6, 0)),
            Cell::ratio(rate.zip(disk).map(|(rate, disk)| rate / disk)),
            note.into(),
        ]);
    };
    disk_rates(run, run.rounds, &directory, &mut row)?;
    // The disk again, just before what is compared with it: a host may keep in its memory what was read before.
    let disk_now = || disk_rates(run, 1, &directory, &mut |_, _, _, _, _| {});
    for warmth in [Warmth::Warm, Warmth::Cold] {
        warmth.make(&directory)?;
        let (wal, report, took) = open(run, &directory)?;
        row(&format!("open, all footers, page cache {}", warmth.name()), None, took, None, by_footer(&report));
        wal.close()?;
    }
    for warmth in [Warmth::Cold, Warmth::Warm] {
        let disk = disk_now()?;
        warmth.make(&directory)?;
        let (wal, _, _) = open(run, &directory)?;
        progress(&format!("recovery: reading it back, page cache {}", warmth.name()));
        let took = read_back(&wal, bytes)?;
        row(&format!("read back, page cache {}", warmth.name()), Some(bytes), took, Some(disk), String::new());
        wal.close()?;
    }
    for warmth in [Warmth::Cold, Warmth::Warm] {
        let disk = disk_now()?;
        let spoilt = spoil_footers(&directory)?;
        ensure!(spoilt > 0, "no footer was found");
        let in_files = warmth.make(&directory)?;
        progress(&format!("recovery: opening without {spoilt} footers, page cache {}", warmth.name()));
        let (wal, report, took) = open(run, &directory)?;
        let what = format!("open, {spoilt} footers missing, page cache {}", warmth.name());
        row(&what, Some(in_files), took, Some(disk), by_footer(&report));
        wal.close()?;
    }
    table.note(
        "Of the disk: of the best cold sequential read of the same files, in the three ways above, just before. Open without \
         footers: bytes of all files.",
    );
    table.print(run.json);
    Ok(())
}

/// Whether the files are in the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Warmth {
    Cold,
    Warm,
}

impl Warmth {
    const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }

    /// Makes it so for all files of a directory; their bytes.
    fn make(self, directory: &Path) -> Result<u64> {
        let bytes = disk::chill(directory)?;
        if self == Self::Warm {
            disk::read_through(files(directory)?.iter().map(PathBuf::as_path), false, &mut vec![0; STEP_BYTES])?;
        }
        Ok(bytes)
    }
}

/// Reads all files cold in three ways, so many times; the best rate.
fn disk_rates(
    run: &Run,
    rounds: usize,
    directory: &Path,
    row: &mut impl FnMut(&str, Option<u64>, Duration, Option<f64>, String),
) -> Result<f64> {
    let paths = files(directory)?;
    let half = paths.len() / 2;
    let (front, back) = paths.split_at_checked(half).unwrap_or_default();
    let all = [paths.as_slice()];
    let halves = [front, back];
    let ways: [(&str, bool, &[&[PathBuf]]); 3] = [
        ("disk: cold read, 1 MiB, buffered", false, &all),
        ("disk: cold read, 1 MiB, O_DIRECT", true, &all),
        ("disk: cold read, 1 MiB, O_DIRECT, two at a time", true, &halves),
    ];
    let mut best = 0.0_f64;
    for (what, is_direct, parts) in ways {
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..rounds {
            progress(&format!("recovery: {what}"));
            disk::chill(directory)?;
            clock::await_calm(run.pace.patience)?;
            let start = clock::now();
            bytes = read_parts(parts, is_direct)?;
            times.push(start.elapsed().as_secs_f64());
        }
        let took = Duration::try_from_secs_f64(crate::sample::median(times))?;
        best = best.max(bytes as f64 / took.as_secs_f64());
        row(what, Some(bytes), took, None, String::new());
    }
    Ok(best)
}

/// Reads the parts beside each other, each in order.
fn read_parts(parts: &[&[PathBuf]], is_direct: bool) -> Result<u64> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for part in parts {
            let body = move || {
                let mut buffer = Aligned::noise(STEP_BYTES);
                disk::read_through(part.iter().map(PathBuf::as_path), is_direct, buffer.bytes_mut())
            };
            threads.push(std::thread::Builder::new().name("reader".to_owned()).spawn_scoped(scope, body)?);
        }
        let mut bytes = 0;
        for thread in threads {
            bytes += thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        Ok(bytes)
    })
}

/// Makes a log and closes it; bytes of its batches.
fn make(directory: &Path, gib: u64) -> Result<u64> {
    let pool = Pool::new();
    let (wal, _) = Wal::open(directory, Options::default())?;
    let mut producer = Producer::new(&wal, 0, u64::MAX);
    let payload_bytes = RECORDS as usize * RECORD_BYTES;
    let mut pending: VecDeque<Pending> = VecDeque::new();
    for count in 0..(gib << 30) / payload_bytes as u64 {
        if pending.len() == WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            oldest.wait()?;
        }
        pending.push_back(producer.submit(pool.payload(count, payload_bytes), RECORDS)?);
    }
    wal.close()?;
    Ok(wal.stats().batch_bytes)
}

fn open(run: &Run, directory: &Path) -> Result<(Wal, OpenReport, Duration)> {
    clock::await_calm(run.pace.patience)?;
    let start = clock::now();
    let (wal, report) = Wal::open(directory, Options::default())?;
    Ok((wal, report, start.elapsed()))
}

fn by_footer(report: &OpenReport) -> String {
    format!("{} of {}", report.segments_by_footer, report.segments)
}

/// Reads the log from its start to its end.
fn read_back(wal: &Wal, bytes: u64) -> Result<Duration> {
    let log = LogId::new(1);
    let (mut next, mut seen) = (Lsn::FIRST, 0);
    let start = clock::now();
    loop {
        let batches = wal.read(log, next, READ_BYTES)?;
        let Some(last) = batches.last() else { break };
        next = last.last_lsn().next();
        seen += batches.iter().map(|batch| batch.bytes().len() as u64).sum::<u64>();
    }
    ensure!(seen == bytes, "read {seen} bytes of {bytes}");
    Ok(start.elapsed())
}

/// The segments, in order.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Writes noise over the last block of each segment that has a footer, durably; how many there were.
fn spoil_footers(directory: &Path) -> Result<usize> {
    let noise = Aligned::noise(disk::ALIGNMENT);
    let mut spoilt = 0;
    for path in files(directory)? {
        let file = File::options().read(true).write(true).open(&path)?;
        let len = file.metadata()?.len();
        let mut magic = vec![0; TRAILER_MAGIC.len()];
        let trailer = len.checked_sub(TRAILER_BYTES).context("a segment is shorter than a trailer")?;
        file.read_exact_at(&mut magic, trailer)?;
        if magic == TRAILER_MAGIC {
            file.write_all_at(noise.bytes(), len - disk::ALIGNMENT as u64)?;
            file.sync_all()?;
            spoilt += 1;
        }
    }
    Ok(spoilt)
}

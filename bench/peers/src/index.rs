//! What a log keeps in memory to know where its batches are.

use crate::Run;
use crate::disk::Pool;
use crate::peers::Producer;
use crate::table::{Cell, Table, progress};
use anyhow::{Context as _, Result};
use std::collections::VecDeque;
use towline_wal::{Options, Pending, Wal};

/// Bytes of a batch.
const SIZES: [usize; 3] = [1 << 10, 8 << 10, 64 << 10];
/// Batches after which the first figure is taken: few enough for none of them to be left out of memory.
const EARLY: u64 = 200_000;
/// Batches in flight while the log is made.
const WINDOW: usize = 512;
/// A log of this size is what the figures are for.
const GIB_FOR: u64 = 100;

/// Memory at one moment.
struct Moment {
    batches: u64,
    index_bytes: usize,
    rss_bytes: u64,
}

/// Prints one table, a row for each size of batches.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let columns = [
        "batches of",
        "batches",
        "bytes/batch, all in memory",
        "index MB at the end",
        "bytes/batch at the end",
        "index MB after reopening",
        "RSS MB before",
        "RSS MB at the end",
        "RSS MB after reopening",
        "100 GiB unbounded MB",
        "100 GiB as bounded MB",
    ];
    let mut table = Table::new(format!("index, {} GiB of one log", run.gib), &columns);
    for bytes in SIZES {
        let name = format!("index, batches of {bytes} B");
        if run.wants(&name) {
            progress(&name);
            row(run, bytes, &mut table)?;
        }
    }
    let options = Options::default();
    table.note(format!(
        "Bounded by Options::index_bytes_max ({} MiB by default) and one entry for each log and segment; loaded indexes of \
         older segments have a bound of their own. RSS holds the newest batches ({} MiB) and buffers too.",
        options.index_bytes_max >> 20,
        options.tail_cache_bytes >> 20,
    ));
    table.print(run.json);
    Ok(())
}

fn row(run: &Run, bytes: usize, table: &mut Table) -> Result<()> {
    let place = run.place()?;
    let directory = place.path().join("wal");
    let options = Options::default();
    let count = (run.gib << 30) / bytes as u64;
    let before = rss_bytes()?;
    let (early, end) = make(&directory, bytes, count)?;
    let (reopened, _) = Wal::open(&directory, options.clone())?;
    let (index_reopened, rss_reopened) = (reopened.stats().index_bytes, rss_bytes()?);
    drop(reopened);
    let each = early.index_bytes as f64 / early.batches as f64;
    let scale = GIB_FOR as f64 / run.gib as f64;
    let unbounded = each * end.batches as f64 * scale;
    // The newest batches, and an entry for each older segment.
    let segments = (GIB_FOR << 30) / options.segment_bytes;
    let bounded = unbounded.min(options.index_bytes_max as f64 + segments as f64 * each);
    let megabytes = |bytes: f64| Cell::Number(bytes / 1e6, 1);
    table.row([
        format!("{} KiB", bytes >> 10).into(),
        Cell::Number(end.batches as f64, 0),
        Cell::Number(each, 1),
        megabytes(end.index_bytes as f64),
        Cell::Number(end.index_bytes as f64 / end.batches as f64, 1),
        megabytes(index_reopened as f64),
        megabytes(before as f64),
        megabytes(end.rss_bytes as f64),
        megabytes(rss_reopened as f64),
        megabytes(unbounded),
        megabytes(bounded),
    ]);
    Ok(())
}

/// Makes a log; its memory early on, and at the end.
fn make(directory: &std::path::Path, bytes: usize, count: u64) -> Result<(Moment, Moment)> {
    let pool = Pool::new();
    let (wal, _) = Wal::open(directory, Options::default())?;
    let moment = |batches| -> Result<Moment> {
        Ok(Moment { batches, index_bytes: wal.stats().index_bytes, rss_bytes: rss_bytes()? })
    };
    let mut producer = Producer::new(&wal, 0, u64::MAX);
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut early = None;
    for number in 0..count {
        if pending.len() == WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            oldest.wait()?;
        }
        // The header of a batch is part of what it takes.
        let payload = pool.payload(number, bytes - towline_wal::limits::BATCH_HEADER_BYTES);
        pending.push_back(producer.submit(payload, 1)?);
        if number + 1 == EARLY.min(count) {
            early = Some(moment(number + 1)?);
        }
    }
    pending.into_iter().try_for_each(Pending::wait)?;
    let end = moment(count)?;
    wal.close()?;
    Ok((early.context("the log has no batches")?, end))
}

/// Bytes of memory that the process has in use.
fn rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the system tells no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

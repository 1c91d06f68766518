//! What a log keeps in memory to know where its batches are.

use crate::Run;
use crate::disk::Pool;
use crate::peers::Producer;
use crate::table::{Cell, Table, progress};
use crate::thin::ThinDisk;
use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use std::collections::VecDeque;
use towline_wal::io::{IoOp, execute, segment_name};
use towline_wal::{
    BatchBuilder, BatchKind, Entry, Epoch, LogCore, LogId, LogPosition, Options, Pending, Wal,
    limits::BATCH_HEADER_BYTES,
};

/// Bytes of a batch.
const SIZES: [usize; 3] = [1 << 10, 8 << 10, 64 << 10];
/// Batches after which the first figure is taken: few enough for none of them to be left out of memory.
const EARLY: u64 = 200_000;
/// Batches in flight while the log is made.
const WINDOW: usize = 512;
/// A log of this size is what the figures are for.
const GIB_FOR: u64 = 100;
/// Bytes of a batch, and how many logs take turns: of [`GIB_FOR`] GiB.
const AT_SIZE: [(usize, usize); 5] = [(1 << 10, 1), (8 << 10, 1), (64 << 10, 1), (8 << 10, 100), (8 << 10, 1000)];
/// Bytes submitted before the log is driven.
const STEP_BYTES: usize = 4 << 20;

/// Memory at one moment.
struct Moment {
    batches: u64,
    index_bytes: usize,
    rss_bytes: u64,
}

/// Prints two tables: a log on the disk, and the same state machine on a disk that forgets batches, at full size.
pub(crate) fn measure(run: &Run) -> Result<()> {
    on_disk(run)?;
    at_size(run)
}

fn at_size(run: &Run) -> Result<()> {
    let columns =
        ["batches of", "logs", "batches", "segments", "index MB at the end", "index MB after reopening", "damaged"];
    let title = format!("index, {GIB_FOR} GiB, on a disk in memory that forgets the batches of full segments");
    let mut table = Table::new(title, &columns);
    for (bytes, logs) in AT_SIZE {
        let name = format!("index at size, batches of {bytes} B, {logs} logs");
        if !run.wants(&name) {
            continue;
        }
        progress(&name);
        let options = Options::default();
        let mut disk = ThinDisk::default();
        let (batches, index_bytes) = make_thin(&mut disk, &options, bytes, logs)?;
        progress(&format!("{name}: reopening, {} MiB of it kept", disk.bytes() >> 20));
        let (core, report) = LogCore::recover(&mut disk, &options)?;
        let stats = core.stats();
        ensure!(report.batches == batches, "{} of {batches} batches were found again", report.batches);
        table.row([
            format!("{} KiB", bytes >> 10).into(),
            Cell::Number(logs as f64, 0),
            Cell::Number(batches as f64, 0),
            Cell::Number(stats.segments as f64, 0),
            Cell::Number(index_bytes as f64 / 1e6, 1),
            Cell::Number(stats.index_bytes as f64 / 1e6, 1),
            Cell::Number(report.damaged.len() as f64, 0),
        ]);
    }
    table
        .note("The same LogCore that the threads drive. Each log has an entry for each segment that holds some of it.");
    table.print(run.json);
    Ok(())
}

/// Makes and closes a log; its batches, and bytes of its index before the end.
fn make_thin(disk: &mut ThinDisk, options: &Options, bytes: usize, logs: usize) -> Result<(u64, usize)> {
    let pool = Pool::new();
    let (mut core, _) = LogCore::recover(disk, options)?;
    let mut ends: Vec<LogPosition> =
        (1..=logs).map(|log| Ok(LogPosition::origin(LogId::new(u128::try_from(log)?)))).collect::<Result<_>>()?;
    let count = (GIB_FOR << 30) / bytes as u64;
    let (mut memory, mut queued) = (BytesMut::new(), 0);
    for number in 0..count {
        let turn = usize::try_from(number)? % logs;
        let Some(end) = ends.get_mut(turn) else { break };
        let builder =
            BatchBuilder::new(LogId::new(u128::try_from(turn)? + 1), BatchKind::Data, Epoch::new(1, 1), *end, 0);
        let batch = builder.seal_raw_in(&mut memory, &pool.payload(number, bytes - BATCH_HEADER_BYTES), 1)?;
        *end = batch.position();
        queued += bytes;
        core.submit(vec![Entry::Batch(batch)])?;
        if queued >= STEP_BYTES {
            drive(&mut core, disk)?;
            queued = 0;
        }
    }
    drive(&mut core, disk)?;
    let index_bytes = core.stats().index_bytes;
    core.begin_close();
    drive(&mut core, disk)?;
    Ok((count, index_bytes))
}

/// Carries out all that the log asks for.
fn drive(core: &mut LogCore, disk: &mut ThinDisk) -> Result<()> {
    while let Some(request) = core.poll_io() {
        core.on_io(request.id, execute(disk, &request));
        if let IoOp::Seal { segment, offset, .. } = &request.op {
            disk.forget_batches(&segment_name(*segment), *offset);
        }
    }
    while let Some(done) = core.poll_completion() {
        done.result?;
    }
    Ok(())
}

fn on_disk(run: &Run) -> Result<()> {
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
        let payload = pool.payload(number, bytes - BATCH_HEADER_BYTES);
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

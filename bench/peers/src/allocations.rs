//! Allocations on the way of an append, counted by an allocator that otherwise does nothing of its own.

use crate::Run;
use crate::disk::Pool;
use crate::peers::{Ours, Producer, bytes_of_release_lag};
use crate::table::{Cell, Table, progress};
use anyhow::Result;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell as ThreadCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use towline_wal::{Entry, Pending};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of all threads since [`counting`](COUNTING) began.
static ALL: AtomicU64 = AtomicU64::new(0);
/// Whether they are counted: other modes pay one load for it.
static COUNTING: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Allocations of this thread.
    static OWN: ThreadCell<u64> = const { ThreadCell::new(0) };
}

/// The system's allocator; calls that give memory are counted, those that give it back are not.
struct Counting;

fn count() {
    if COUNTING.load(Ordering::Relaxed) == 1 {
        ALL.fetch_add(1, Ordering::Relaxed);
        OWN.with(|own| own.set(own.get() + 1));
    }
}

// SAFETY: each call is passed to the system's allocator as it is; counting touches no memory of the heap, since the
// thread-local is constant-initialised and has nothing to drop.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

fn own() -> u64 {
    OWN.with(ThreadCell::get)
}

const RECORD_BYTES: usize = 1024;
/// Batches before anything is counted, and batches that are counted.
const WARM_UP: u64 = 20_000;
const COUNTED: u64 = 40_000;

/// Records of a batch, and batches in flight.
const CELLS: [(u32, usize); 4] = [(1, 1), (1, 64), (64, 1), (64, 16)];

/// What was counted.
#[derive(Default)]
struct Counts {
    building: u64,
    submitting: u64,
    waiting: u64,
    all: u64,
    groups: u64,
}

/// Prints one table.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let columns = [
        "batch",
        "in flight",
        "records/group",
        "per record",
        "per group",
        "per batch: building",
        "submitting",
        "waiting",
        "the log's threads",
    ];
    let mut table = Table::new("allocations in steady state, records of 1 KiB", &columns);
    for (records, window) in CELLS {
        let name = format!("allocations, {records} records, {window} in flight");
        if !run.wants(&name) {
            continue;
        }
        progress(&name);
        let counts = cell(run, records, window)?;
        let batches = COUNTED as f64;
        let all_records = batches * f64::from(records);
        let own = counts.building + counts.submitting + counts.waiting;
        table.row([
            format!("{records} records").into(),
            Cell::Number(window as f64, 0),
            Cell::Number(all_records / counts.groups as f64, 1),
            Cell::Number(counts.all as f64 / all_records, 3),
            Cell::Number(counts.all as f64 / counts.groups as f64, 1),
            Cell::Number(counts.building as f64 / batches, 2),
            Cell::Number(counts.submitting as f64 / batches, 2),
            Cell::Number(counts.waiting as f64 / batches, 2),
            Cell::Number(counts.all.saturating_sub(own) as f64 / batches, 2),
        ]);
    }
    table.note(
        "Calls of alloc, alloc_zeroed and realloc. Payloads share memory that was there before; the log lets go of \
                what is old, and its segments are used again.",
    );
    table.print(run.json);
    Ok(())
}

fn cell(run: &Run, records: u32, window: usize) -> Result<Counts> {
    let place = run.place()?;
    let log = Ours::open(place.path(), 1)?;
    let pool = Pool::new();
    let mut producer = log.of(0);
    let mut pending = VecDeque::with_capacity(window);
    let mut counts = Counts::default();
    for number in 0..WARM_UP {
        append(&log, &mut producer, &pool, (records, window), number, &mut pending, &mut counts)?;
    }
    let groups = log.wal.stats().groups;
    ALL.store(0, Ordering::Relaxed);
    COUNTING.store(1, Ordering::Relaxed);
    counts = Counts::default();
    for number in 0..COUNTED {
        append(&log, &mut producer, &pool, (records, window), number, &mut pending, &mut counts)?;
    }
    pending.into_iter().try_for_each(Pending::wait)?;
    COUNTING.store(0, Ordering::Relaxed);
    counts.all = ALL.load(Ordering::Relaxed);
    counts.groups = log.wal.stats().groups - groups;
    Ok(counts)
}

fn append(
    log: &Ours,
    producer: &mut Producer<'_>,
    pool: &Pool,
    (records, window): (u32, usize),
    number: u64,
    pending: &mut VecDeque<Pending>,
    counts: &mut Counts,
) -> Result<()> {
    let before = own();
    if pending.len() == window
        && let Some(oldest) = pending.pop_front()
    {
        oldest.wait()?;
    }
    let waited = own();
    let payload = pool.payload(number, records as usize * RECORD_BYTES);
    let batch = if records == 1 { producer.record(&payload)? } else { producer.batch(payload, records)? };
    let built = own();
    // As a program does that cares: a record by itself goes the short way.
    pending.push_back(if records == 1 {
        log.wal.start_append(batch)?
    } else {
        log.wal.submit(vec![Entry::Batch(batch)])?
    });
    let every = bytes_of_release_lag(1) / 2 / (u64::from(records) * RECORD_BYTES as u64);
    if number.is_multiple_of(every) {
        producer.release(2 * every * u64::from(records))?;
    }
    counts.waiting += waited - before;
    counts.building += built - waited;
    counts.submitting += own() - built;
    Ok(())
}

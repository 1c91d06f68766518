//! Neighbours: what those of one namespace wait for, alone, and while somebody is loud in another one of the same node (fault U7).

use crate::engine::{Engine, key};
use crate::producers::{noise, payload};
use crate::report;
use anyhow::{Context as _, Result};
use comfy_table::Table;
use hdrhistogram::Histogram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::model::{Filter, Read, Scan, Since};
use towline::node::{Namespace, NamespaceOptions};

/// Who is measured: so many threads, each with one write and one read a tick.
const QUIET: u64 = 4;
const TICK: Duration = Duration::from_millis(4);
/// What the quiet ones write and read.
const QUIET_BYTES: usize = 256;
const QUIET_KEYS: u64 = 10_000;
/// Threads on one key.
const LOUD: u64 = 32;
/// What a scan of everything goes through.
const LOUD_VALUES: u64 = 300_000;
const LOUD_BYTES: usize = 1024;
/// Longer ones are told as this.
const LONGEST_MICROS: u64 = 100_000_000;

#[derive(Debug, Clone, Copy)]
enum Noise {
    Nobody,
    HotKey,
    ScanOfAll,
    IdleFeed,
}

struct Waits {
    writes: Histogram<u64>,
    reads: Histogram<u64>,
}

/// Waits of the quiet ones, so many seconds for each kind of noise.
///
/// # Errors
/// A write or a read failed.
pub fn measure(place: impl Fn() -> Result<TempDir>, seconds: u64) -> Result<Table> {
    let place = place()?;
    let engine = Engine::open(place.path())?;
    let loud = engine.node.create_namespace("loud", &NamespaceOptions::default())?;
    let pool = noise();
    let mut receipts = Vec::new();
    for number in 0..LOUD_VALUES {
        receipts.push(loud.put(key(0, number), payload(&pool, number, LOUD_BYTES))?);
    }
    for number in 0..QUIET * QUIET_KEYS {
        let value = payload(&pool, number, QUIET_BYTES);
        receipts.push(engine.space.put(key(number % QUIET, number / QUIET), value)?);
    }
    receipts.into_iter().try_for_each(|receipt| receipt.wait().map(drop))?;
    // What the load left behind is not the neighbours' noise.
    engine.node.compact()?;
    run(&engine, &loud, Noise::Nobody, Duration::from_secs(seconds))?;
    let (mut lines, mut alone) = (Vec::new(), None);
    for (name, noise) in [
        ("nobody", Noise::Nobody),
        ("32 threads that put one key", Noise::HotKey),
        ("a scan of everything, again and again", Noise::ScanOfAll),
        ("a feed from the beginning that nobody reads", Noise::IdleFeed),
        ("nobody", Noise::Nobody),
    ] {
        let waits = run(&engine, &loud, noise, Duration::from_secs(seconds))?;
        let of = |histogram: &Histogram<u64>| (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
        let ((write, write99), (read, read99)) = (of(&waits.writes), of(&waits.reads));
        let (first_write, first_read) = *alone.get_or_insert((write99, read99));
        lines.push([
            name.to_owned(),
            format!("{write} µs"),
            format!("{write99} µs"),
            report::ratio(write99, first_write),
            format!("{read} µs"),
            format!("{read99} µs"),
            report::ratio(read99, first_read),
        ]);
    }
    engine.close()?;
    Ok(report::table(["who is loud", "write", "p99", "ratio", "get", "p99", "ratio"], lines))
}

fn run(engine: &Engine, loud: &Namespace, noise: Noise, time: Duration) -> Result<Waits> {
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Waits { writes: histogram()?, reads: histogram()? });
    std::thread::scope(|scope| {
        let noisy = make(scope, loud, noise, &stop)?;
        let quiet: Vec<_> = (0..QUIET)
            .map(|thread| {
                let all = &all;
                scope.spawn(move || keep_quiet(&engine.space, thread, time, all))
            })
            .collect();
        let ended = quiet.into_iter().try_for_each(join);
        stop.store(true, Ordering::Relaxed);
        noisy.into_iter().try_for_each(join)?;
        ended
    })?;
    all.into_inner().ok().context("nobody panicked")
}

fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_MICROS, 3)?)
}

type Noisy<'scope> = Vec<ScopedJoinHandle<'scope, Result<()>>>;

fn make<'scope>(
    scope: &'scope Scope<'scope, '_>,
    loud: &'scope Namespace,
    noise: Noise,
    stop: &'scope AtomicBool,
) -> Result<Noisy<'scope>> {
    let goes_on = || !stop.load(Ordering::Relaxed);
    Ok(match noise {
        Noise::Nobody => Vec::new(),
        Noise::HotKey => {
            let hammer = move || -> Result<()> {
                while goes_on() {
                    loud.put("hot", vec![7; LOUD_BYTES])?.wait()?;
                }
                Ok(())
            };
            (0..LOUD).map(|_| scope.spawn(hammer)).collect()
        }
        Noise::ScanOfAll => vec![scope.spawn(move || {
            while goes_on() {
                let mut next = Some(Scan::all());
                while let Some(scan) = next.filter(|_| goes_on()) {
                    next = loud.scan(&scan, Read::Eventual)?.next;
                }
            }
            Ok(())
        })],
        Noise::IdleFeed => {
            let feed = loud.subscribe(Since::Oldest, Filter::All)?;
            vec![scope.spawn(move || {
                // Kept, and what it follows goes on.
                let feed = feed;
                let mut number = 0;
                while goes_on() {
                    loud.put(key(1, number % QUIET_KEYS), vec![7; LOUD_BYTES])?.wait()?;
                    number += 1;
                }
                drop(feed);
                Ok(())
            })]
        }
    })
}

/// A read and a write at each tick of the clock. A write's wait counts from its tick on, also if the one before came late.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn keep_quiet(space: &Namespace, thread: u64, time: Duration, all: &Mutex<Waits>) -> Result<()> {
    let (pool, start) = (noise(), Instant::now());
    let mut own = Waits { writes: histogram()?, reads: histogram()? };
    let micros = |since: Instant| u64::try_from(since.elapsed().as_micros());
    for number in 0_u32.. {
        let due = start + TICK * number;
        if due >= start + time {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let chosen = u64::from(number).wrapping_mul(7919) % QUIET_KEYS;
        let reading = Instant::now();
        space.get(key(thread, chosen), Read::Eventual)?.context("a key that was put")?;
        own.reads.saturating_record(micros(reading)?);
        space.put(key(thread, chosen), payload(&pool, chosen, QUIET_BYTES))?.wait()?;
        own.writes.saturating_record(micros(due)?);
    }
    let mut all = all.lock().ok().context("nobody panicked")?;
    all.writes.add(&own.writes)?;
    all.reads.add(&own.reads)?;
    Ok(())
}

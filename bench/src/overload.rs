//! Overload: three times as much is asked of the engine as it can do, and then less: what it does meanwhile and afterwards.

use crate::engine::{Engine, key};
use crate::producers::{noise, payload};
use anyhow::{Context as _, Result};
use comfy_table::Table;
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::model::Write;
use towline::node::WriteRefused;
use towline::pipeline::{Receipt, SubmitError, SubmitPolicy};

const PRODUCERS: u64 = 8;
const BYTES: usize = 1024;
/// Longer ones are told as this.
const LONGEST_MICROS: u64 = 100_000_000;

/// What came of one phase.
struct Phase {
    offered: u64,
    done: u64,
    refused: u64,
    took: Duration,
    micros: Histogram<u64>,
}

/// Measures what the engine can do, asks three times that of it, and then 0.7 of it, so many seconds each.
///
/// # Errors
/// A write failed for another reason than want of room.
pub fn measure(place: impl Fn() -> Result<TempDir>, seconds: u64) -> Result<Table> {
    let place = place()?;
    let engine = Engine::open(place.path())?;
    let can = engine.in_flight(PRODUCERS, 256, BYTES, 400_000)?.rate();
    let mut table = Table::new();
    table.set_header([
        "asked for",
        "for",
        "offered",
        "done",
        "of what it can",
        "refused (Busy)",
        "median",
        "p99",
        "longest",
    ]);
    let second = Duration::from_secs(1);
    for (name, share, time) in [
        ("0.7 of what it can", 0.7, second * 5),
        ("3 times", 3.0, Duration::from_secs(seconds)),
        ("0.7 again, the first second", 0.7, second),
        ("0.7 again, behind that", 0.7, second * 9),
    ] {
        let phase = run(&engine, can * share, time)?;
        let rate = phase.done as f64 / phase.took.as_secs_f64();
        let at = |share| format!("{} µs", phase.micros.value_at_quantile(share));
        table.add_row([
            name.to_owned(),
            format!("{} s", time.as_secs()),
            format!("{:.0}/s", phase.offered as f64 / phase.took.as_secs_f64()),
            format!("{rate:.0}/s"),
            format!("{:.2}", rate / can),
            format!("{:.0}/s", phase.refused as f64 / phase.took.as_secs_f64()),
            at(0.5),
            at(0.99),
            at(1.0),
        ]);
    }
    engine.close()?;
    Ok(table)
}

/// Each producer submits by the clock, whatever became of the writes before; who hears that there is no room lets that write go.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn run(engine: &Engine, rate: f64, time: Duration) -> Result<Phase> {
    let (offered, done, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let micros = Mutex::new(Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3)?);
    let pool = noise();
    let start = Instant::now();
    let each = rate / PRODUCERS as f64;
    let produce = |producer: u64| -> Result<()> {
        let mut waiting: VecDeque<(Instant, Receipt)> = VecDeque::new();
        let mut own = Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3)?;
        let mut number = 0;
        let mut settle = |waiting: &mut VecDeque<(Instant, Receipt)>, all: bool| -> Result<()> {
            while let Some((since, receipt)) = waiting.pop_front() {
                let patience = if all { Duration::from_secs(60) } else { Duration::ZERO };
                if receipt.wait_for(patience)?.is_none() {
                    waiting.push_front((since, receipt));
                    break;
                }
                own.saturating_record(u64::try_from(since.elapsed().as_micros())?);
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * each) as u64;
            while number < due {
                number += 1;
                offered.fetch_add(1, Ordering::Relaxed);
                let write = Write::new().put(key(producer, number % 100_000), payload(&pool, number, BYTES));
                match engine.space.write_when(write, SubmitPolicy::Fail) {
                    Ok(receipt) => waiting.push_back((Instant::now(), receipt)),
                    Err(WriteRefused::Submit(SubmitError::Busy(_))) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => return Err(error.into()),
                }
                if start.elapsed() >= time {
                    break;
                }
                // Otherwise the answers' times would be those of this loop.
                if number % 32 == 0 {
                    settle(&mut waiting, false)?;
                }
            }
            settle(&mut waiting, false)?;
            std::thread::park_timeout(Duration::from_micros(500));
        }
        settle(&mut waiting, true)?;
        micros.lock().ok().context("no producer panicked")?.add(&own)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let produce = &produce;
                scope.spawn(move || produce(producer))
            })
            .collect();
        producers
            .into_iter()
            .try_for_each(|producer| producer.join().map_err(|_| anyhow::anyhow!("a producer panicked"))?)
    })?;
    let took = start.elapsed();
    let micros = micros.into_inner().ok().context("no producer panicked")?;
    let [offered, done, refused] = [offered, done, refused].map(AtomicU64::into_inner);
    Ok(Phase { offered, done, refused, took, micros })
}

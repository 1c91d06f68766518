//! One producer that does not wait for each record: so many appends are in flight before the oldest is waited for.

use crate::Run;
use crate::disk::{self, Pool};
use crate::peers::Ours;
use crate::plain::{PlainLog, Receipt};
use crate::sample::{self, Phase, Sample, Tally, median, median_of};
use crate::table::{Cell, Table, progress};
use anyhow::Result;
use std::collections::VecDeque;

const WINDOWS: [usize; 5] = [1, 8, 64, 256, 1024];
const BYTES: usize = 1024;

/// Prints one table, a row for each window.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let pool = Pool::new();
    let columns = ["window", "ours MB/s", "plain MB/s", "ours/plain", "lowest", "highest", "ours cores", "plain cores"];
    let mut table = Table::new(format!("pipelined, one producer x {BYTES} B"), &columns);
    let mut all = Vec::new();
    for window in WINDOWS {
        let name = format!("pipelined, window {window}");
        if !run.wants(&name) {
            continue;
        }
        let (ours, plain) = rounds(run, &pool, window, &name)?;
        let ratios: Vec<f64> = ours.iter().zip(&plain).map(|(ours, plain)| ours.rate / plain.rate).collect();
        let megabytes = |samples: &[Sample]| median_of(samples, |sample| sample.rate * BYTES as f64 / 1e6);
        table.row([
            Cell::Number(window as f64, 0),
            Cell::Number(megabytes(&ours), 1),
            Cell::Number(megabytes(&plain), 1),
            Cell::Number(median(ratios.iter().copied()), 2),
            Cell::Number(ratios.iter().copied().fold(f64::INFINITY, f64::min), 2),
            Cell::Number(ratios.iter().copied().fold(0.0, f64::max), 2),
            Cell::Number(median_of(&ours, |sample| sample.cores), 2),
            Cell::Number(median_of(&plain, |sample| sample.cores), 2),
        ]);
        all.extend(ours.into_iter().chain(plain));
    }
    table.note("Both copy each record once from where the producer has it, checksum it, and write it once.");
    table.note(sample::noise(&all));
    table.print(run.json);
    Ok(())
}

/// Keeps `window` receipts of appends, and waits for the oldest.
fn in_flight<R>(
    window: usize,
    phase: &Phase,
    tally: &mut Tally,
    mut submit: impl FnMut(u64) -> Result<R>,
    wait: impl Fn(R) -> Result<()>,
) -> Result<()> {
    let mut receipts = VecDeque::with_capacity(window);
    let mut count = 0;
    while !phase.is_over() {
        if receipts.len() == window
            && let Some(oldest) = receipts.pop_front()
        {
            wait(oldest)?;
            tally.done(phase);
        }
        receipts.push_back(submit(count)?);
        count += 1;
    }
    receipts.into_iter().try_for_each(wait)
}

/// Ours and the plain thread, a sample of each for each round; who is first changes.
fn rounds(run: &Run, pool: &Pool, window: usize, name: &str) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let place = run.place()?;
    let (ours, plain) = (Ours::open(place.path(), 1)?, PlainLog::open(place.path())?);
    let mut producer = ours.of(0);
    let mut of_ours = || {
        let submit = |count| producer.start(&pool.payload(count, BYTES));
        let worker = |phase: &Phase, tally: &mut Tally| in_flight(window, phase, tally, submit, |it| Ok(it.wait()?));
        sample::run(vec![worker], run.pace)
    };
    let of_plain = || {
        let submit = |count| plain.append(&pool.payload(count, BYTES));
        let worker = |phase: &Phase, tally: &mut Tally| in_flight(window, phase, tally, submit, Receipt::wait);
        sample::run(vec![worker], run.pace)
    };
    disk::settle(place.path())?;
    let mut samples = (Vec::new(), Vec::new());
    for round in 0..run.rounds {
        progress(&format!("{name}, round {}", round + 1));
        if round % 2 == 0 {
            samples.0.push(of_ours()?);
        }
        samples.1.push(of_plain()?);
        if round % 2 == 1 {
            samples.0.push(of_ours()?);
        }
    }
    Ok(samples)
}

//! What one cell of one round came to, and what several rounds come to.

use crate::clock::{self, Usage};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Time before anything counts: files grow into use, threads have started.
const WARM_UP: Duration = Duration::from_millis(150);

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// One cell of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Operations a second.
    pub(crate) rate: f64,
    /// Seconds an operation took, half of them at most.
    pub(crate) p50: f64,
    /// And 99 of a hundred.
    pub(crate) p99: f64,
    /// Processors the whole process kept busy.
    pub(crate) cores: f64,
    /// Processors that others kept busy meanwhile.
    pub(crate) others: f64,
}

/// How long each cell is run, and how long it waits for a calm machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) time: Duration,
    pub(crate) patience: Duration,
}

/// The middle one of an odd number of figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of one figure of all rounds.
pub(crate) fn median_of(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(figure))
}

/// A sentence about the noise of a table's cells.
pub(crate) fn noise<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> String {
    let others: Vec<f64> = samples.into_iter().map(|sample| sample.others).collect();
    let most = others.iter().copied().fold(0.0, f64::max);
    format!("Others kept {:.2} processors busy meanwhile (median of all cells; at most {most:.2}).", median(others))
}

/// Tells the workers of a cell when their operations count, and when it is over.
#[derive(Debug)]
pub(crate) struct Phase(AtomicU8);

/// What one worker did while it counted.
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    last: Instant,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self { latencies: latencies()?, last: clock::now() })
    }

    /// An operation ended that began when the last one did.
    pub(crate) fn done(&mut self, phase: &Phase) {
        let now = clock::now();
        self.count(phase, now - self.last);
        self.last = now;
    }

    /// An operation ended that took so long.
    pub(crate) fn count(&mut self, phase: &Phase, took: Duration) {
        if phase.0.load(Ordering::Relaxed) == COUNTING {
            self.latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

impl Phase {
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }
}

/// Nanoseconds, from a tenth of a microsecond to two minutes, to three digits.
fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, 120_000_000_000, 3)?)
}

/// Runs workers, each on a thread of its own, until the time has passed.
///
/// # Errors
/// One of them failed.
pub(crate) fn run<W>(workers: Vec<W>, pace: Pace) -> Result<Sample>
where
    W: FnOnce(&Phase, &mut Tally) -> Result<()> + Send,
{
    clock::await_calm(pace.patience)?;
    let phase = Phase(AtomicU8::new(WARMING));
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, worker) in workers.into_iter().enumerate() {
            let phase = &phase;
            let body = move || -> Result<Histogram<u64>> {
                let mut tally = Tally::new()?;
                worker(phase, &mut tally)?;
                Ok(tally.latencies)
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{number}")).spawn_scoped(scope, body)?);
        }
        clock::pass(WARM_UP);
        let (start, usage) = (clock::now(), Usage::until_now()?);
        phase.0.store(COUNTING, Ordering::Relaxed);
        clock::pass(pace.time);
        phase.0.store(OVER, Ordering::Relaxed);
        let took = start.elapsed().as_secs_f64();
        let (cores, others) = Usage::until_now()?.cores_since(&usage);
        let mut all = latencies()?;
        for thread in threads {
            all.add(thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??)?;
        }
        Ok(Sample {
            rate: all.len() as f64 / took,
            p50: all.value_at_quantile(0.5) as f64 / 1e9,
            p99: all.value_at_quantile(0.99) as f64 / 1e9,
            cores,
            others,
        })
    })
}

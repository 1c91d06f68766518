//! What one cell of one round came to, and what several rounds come to.

use crate::clock::{self, Usage};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Time before anything counts: windows and buffers grow into use.
const WARM_UP: Duration = Duration::from_millis(200);

/// How long each cell is run, and how long it waits for a calm machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) time: Duration,
    pub(crate) patience: Duration,
}

/// One cell of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Of whatever is counted, a second.
    pub(crate) rate: f64,
    /// Processors the whole process kept busy.
    pub(crate) cores: f64,
    /// Processors that others kept busy meanwhile.
    pub(crate) others: f64,
}

impl Sample {
    /// Seconds of processor time for each that was counted.
    pub(crate) fn cost(&self) -> f64 {
        self.cores / self.rate
    }
}

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// Tells those who do the work when it counts, and when it is over.
#[derive(Debug, Default)]
pub(crate) struct Phase(AtomicU8);

// Relaxed throughout: what is counted a moment too early or too late is counted nonetheless once.
impl Phase {
    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }

    pub(crate) fn counts(&self) -> bool {
        self.0.load(Ordering::Relaxed) == COUNTING
    }

    /// Lets the work run for its time, and tells what `counter` rose by.
    pub(crate) fn run(&self, pace: Pace, counter: impl Fn() -> u64) -> Result<Sample> {
        self.0.store(WARMING, Ordering::Relaxed);
        clock::pass(WARM_UP);
        let (start, usage, before) = (clock::now(), Usage::until_now()?, counter());
        self.0.store(COUNTING, Ordering::Relaxed);
        clock::pass(pace.time);
        self.0.store(OVER, Ordering::Relaxed);
        let (took, count) = (start.elapsed().as_secs_f64(), counter() - before);
        let (cores, others) = Usage::until_now()?.cores_since(&usage);
        Ok(Sample { rate: count as f64 / took, cores, others })
    }
}

/// Nanoseconds, from a tenth of a microsecond to ten seconds, to three digits.
pub(crate) fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, 10_000_000_000, 3)?)
}

/// Counts a time.
pub(crate) fn record(latencies: &mut Histogram<u64>, took: Duration) {
    latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}

/// So many microseconds are not exceeded by that share of what was recorded.
pub(crate) fn micros(latencies: &Histogram<u64>, share: f64) -> f64 {
    latencies.value_at_quantile(share) as f64 / 1e3
}

/// The middle one of an odd number of figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios of single rounds, the lowest and the highest of them; nothing without something to compare with.
pub(crate) fn ratios(of: &[Sample], to: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<(f64, f64, f64)> {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| figure(of) / figure(to)).collect();
    let lowest = ratios.iter().copied().reduce(f64::min)?;
    let highest = ratios.iter().copied().reduce(f64::max)?;
    Some((median(ratios), lowest, highest))
}

/// A sentence about the noise of a table's cells.
pub(crate) fn noise<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> String {
    let others: Vec<f64> = samples.into_iter().map(|sample| sample.others).collect();
    let most = others.iter().copied().fold(0.0, f64::max);
    format!("Others kept {:.2} processors busy meanwhile (median of all cells; at most {most:.2}).", median(others))
}

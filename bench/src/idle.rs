//! The latency of one write on an idle machine, against one sync of the same disk.

use crate::device;
use crate::producers::{Producers, engine_writes, log_appends};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::path::Path;
use std::time::{Duration, Instant};

/// Operations of one kind before the next kind's turn: a machine shared with others changes its pace by the
/// second, and each kind gets the same share of it.
const TURN: u64 = 32;

/// Latencies in nanoseconds, one writer that waits for each write.
#[derive(Debug)]
pub struct Idle {
    /// A 4 KiB overwrite and `fdatasync`.
    pub sync: Histogram<u64>,
    /// An append to the bare log.
    pub log: Histogram<u64>,
    /// A write through one node: committed and applied.
    pub node: Histogram<u64>,
}

/// Measures all three in turns.
///
/// # Errors
/// Something can't be opened or written.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn idle(directory: &Path, bytes: usize, time: Duration) -> Result<Idle> {
    let directories = ["disk", "log", "node"].map(|name| directory.join(name));
    directories.iter().try_for_each(std::fs::create_dir)?;
    let [disk, log, node] = directories;
    let (disk, log, node) = (device::syncs(&disk)?, log_appends(&log, 1, bytes)?, engine_writes(&node, 1, bytes)?);
    let mut idle = Idle { sync: histogram()?, log: histogram()?, node: histogram()? };
    let start = Instant::now();
    while start.elapsed() < time {
        turn(&disk, &mut idle.sync)?;
        turn(&log, &mut idle.log)?;
        turn(&node, &mut idle.node)?;
    }
    Ok(idle)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn turn(producers: &Producers, latencies: &mut Histogram<u64>) -> Result<()> {
    for _ in 0..TURN {
        let start = Instant::now();
        producers.once()?;
        latencies.record(u64::try_from(start.elapsed().as_nanos())?)?;
    }
    Ok(())
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

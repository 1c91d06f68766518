//! Time, processor time, and waiting for time to pass.

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Now.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets time pass while other threads are measured.
#[expect(clippy::disallowed_methods, reason = "a benchmark runs for a time that was asked for")]
pub(crate) fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Processor time of the whole process, system calls included.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A moment, and the processor time used until then by this process and by all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    at: Instant,
    own: Duration,
    all: Duration,
}

impl Usage {
    /// Until now.
    pub(crate) fn until_now() -> Result<Self> {
        Ok(Self { at: now(), own: cpu(), all: cpu_of_all()? })
    }

    /// Processors that this process, and that others, kept busy since an earlier moment.
    pub(crate) fn cores_since(&self, earlier: &Self) -> (f64, f64) {
        let took = (self.at - earlier.at).as_secs_f64();
        let own = self.own.saturating_sub(earlier.own);
        let others = self.all.saturating_sub(earlier.all).saturating_sub(own);
        (own.as_secs_f64() / took, others.as_secs_f64() / took)
    }
}

/// Clock ticks a second in `/proc/stat`: the same on every system that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of everybody since the system started, that stolen by other guests included.
fn cpu_of_all() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("the system tells no processor times")?;
    let ticks = line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at: &usize| ticks.get(*at)).sum();
    Ok(Duration::try_from_secs_f64(busy as f64 / TICKS_PER_SECOND)?)
}

/// Waits until the machine is left alone, or patience is over: by others, and by what logs of this process still do behind the
/// cell before. With all processors taken, a thread that a sync has woken waits for the next tick of the scheduler: 4 ms
/// instead of 0.1.
pub(crate) fn await_calm(patience: Duration) -> Result<()> {
    /// Processors' worth of work that is calm.
    const CALM: f64 = 0.25;
    let start = now();
    let mut calm = 0;
    while calm < 2 && start.elapsed() < patience {
        let earlier = Usage::until_now()?;
        pass(Duration::from_millis(50));
        let (own, others) = Usage::until_now()?.cores_since(&earlier);
        calm = if own + others <= CALM { calm + 1 } else { 0 };
    }
    Ok(())
}

//! The directory at a bounded pace, for work in the background that nobody waits for.

#![expect(clippy::disallowed_methods, reason = "a pace is bytes against the clock; the log's core has none")]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::io::{Io, IoFailure, LockOutcome, RealIo};

/// Reads and writes as [`RealIo`] does, and waits in between so that it moves no more than so many bytes a second.
pub(super) struct PacedIo {
    io: RealIo,
    pace: Pace,
}

impl PacedIo {
    pub(super) fn new(io: RealIo, bytes_per_second: u64, stop: Arc<Stop>) -> Self {
        Self { io, pace: Pace::new(bytes_per_second, stop) }
    }

    fn moved(&mut self, bytes: usize, operation: &'static str, name: &str) -> Result<(), IoFailure> {
        let interrupted = || IoFailure::new(std::io::ErrorKind::Interrupted, operation, name);
        if self.pace.moved(bytes) { Ok(()) } else { Err(interrupted()) }
    }
}

/// Told to all who work at a pace, once.
#[derive(Debug, Default)]
pub(super) struct Stop {
    said: Mutex<bool>,
    heard: Condvar,
}

impl Stop {
    pub(super) fn say(&self) {
        *self.said.lock() = true;
        self.heard.notify_all();
    }

    /// Waits as long, or until it is said. Whether it was.
    fn wait(&self, time: Duration) -> bool {
        let mut said = self.said.lock();
        if !*said && !time.is_zero() {
            self.heard.wait_for(&mut said, time);
        }
        *said
    }
}

/// How fast something goes: bytes against the clock.
pub(super) struct Pace {
    bytes_per_second: u64,
    stop: Arc<Stop>,
    since: Instant,
    moved: u64,
}

/// A second is given in parts, so that a pause is not followed by a burst, and an end is noticed soon.
const WINDOW: Duration = Duration::from_millis(100);

impl Pace {
    pub(super) fn new(bytes_per_second: u64, stop: Arc<Stop>) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), stop, since: Instant::now(), moved: 0 }
    }

    /// Waits until as many bytes more fit the pace. `false`: stop.
    pub(super) fn moved(&mut self, bytes: usize) -> bool {
        self.moved += u64::try_from(bytes).unwrap_or(u64::MAX);
        loop {
            let due = Duration::from_secs_f64(as_f64(self.moved) / as_f64(self.bytes_per_second));
            let gone = self.since.elapsed();
            if self.stop.wait(due.saturating_sub(gone).min(WINDOW)) {
                return false;
            }
            if gone >= due {
                if gone >= WINDOW {
                    (self.since, self.moved) = (Instant::now(), 0);
                }
                return true;
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a pace is not exact")]
const fn as_f64(n: u64) -> f64 {
    n as f64
}

impl Io for PacedIo {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.io.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.io.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.io.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.io.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.moved(buffer.len(), "read", name)?;
        self.io.read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.moved(slices.iter().map(Bytes::len).sum(), "write", name)?;
        self.io.write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.io.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.io.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.io.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.io.remove(name)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.io.settle(name)
    }

    fn forget_cached(&mut self, name: &str, range: Range<u64>) {
        self.io.forget_cached(name, range);
    }

    fn entropy(&mut self) -> u64 {
        self.io.entropy()
    }

    fn process_id(&self) -> u32 {
        self.io.process_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_an_end_is_heard() {
        let stop = Arc::new(Stop::default());
        let begun = Instant::now();
        let mut pace = Pace::new(1 << 20, Arc::clone(&stop));
        for _ in 0..4 {
            assert!(pace.moved(16 << 10));
        }
        // 64 KiB at 1 MiB a second; slower is no error on a busy machine.
        assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
        stop.say();
        assert!(!pace.moved(1 << 30));
    }
}

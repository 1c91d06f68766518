//! One write made durable by io_uring: `O_DIRECT` with `RWF_DSYNC`, so many in flight.

use anyhow::{Context as _, Result, ensure};
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use crate::clock;

/// `RWF_DSYNC` of `pwritev2`(2).
const DSYNC: i32 = 2;

/// A ring that keeps so many writes of one buffer in flight.
pub(crate) struct Ring<'a> {
    ring: IoUring,
    file: &'a File,
    buffer: &'a [u8],
    /// When the write in each slot was submitted.
    started: Vec<Instant>,
}

impl<'a> Ring<'a> {
    pub(crate) fn new(file: &'a File, buffer: &'a [u8], in_flight: u32) -> Result<Self> {
        let ring = IoUring::new(in_flight.max(2)).context("the system offers no io_uring")?;
        Ok(Self { ring, file, buffer, started: vec![clock::now(); usize::try_from(in_flight)?] })
    }

    /// How many writes are kept in flight.
    pub(crate) fn slots(&self) -> usize {
        self.started.len()
    }

    /// Submits a write at `at` in a slot.
    pub(crate) fn write(&mut self, slot: usize, at: u64) -> Result<()> {
        let fd = types::Fd(self.file.as_raw_fd());
        let write = opcode::Write::new(fd, self.buffer.as_ptr(), u32::try_from(self.buffer.len())?)
            .offset(at)
            .rw_flags(DSYNC)
            .build()
            .user_data(slot as u64);
        if let Some(started) = self.started.get_mut(slot) {
            *started = clock::now();
        }
        // SAFETY: the file and the buffer are borrowed for as long as the ring lives, and nobody writes to the buffer;
        // who drops the ring has waited for what is in flight.
        unsafe { self.ring.submission().push(&write) }.context("the ring is full")?;
        self.ring.submit()?;
        Ok(())
    }

    /// Waits for a write to end: its slot, and how long it took.
    pub(crate) fn finish(&mut self) -> Result<(usize, Duration)> {
        loop {
            if let Some(entry) = self.ring.completion().next() {
                let written = entry.result();
                ensure!(usize::try_from(written) == Ok(self.buffer.len()), "a write by io_uring came to {written}");
                let slot = usize::try_from(entry.user_data())?;
                let took = self.started.get(slot).map_or(Duration::ZERO, Instant::elapsed);
                return Ok((slot, took));
            }
            self.ring.submit_and_wait(1)?;
        }
    }
}

//! The plain log thread: the least that makes records durable together, as the bar for a log that does more.
//!
//! One file, filled with zeroes ahead and used round and round; two buffers; one thread that writes and syncs the full
//! one while producers fill the other; one futex event for all who wait for a batch. Each record has its length and
//! its CRC. It has no recovery, no index, no rotation, no bound on what waits: it is no log, only its cost.

use crate::disk;
use anyhow::{Context as _, Result};
use parking_lot::{Condvar, Mutex};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Bytes of the file; a batch that does not fit behind the last one starts over.
const FILE_BYTES: u64 = 256 << 20;
/// Room that a buffer has from the start.
const BUFFER_BYTES: usize = 4 << 20;

/// Nobody sleeps on the event.
const PENDING: u32 = 0;
/// Somebody does, or is about to.
const SLEPT_ON: u32 = 1;
const DONE: u32 = 2;
/// The write or the sync failed.
const FAILED: u32 = 3;

/// What all who wait for one batch sleep on.
#[derive(Debug, Default)]
struct Event {
    /// Release/Acquire: whoever sees `DONE` runs after the sync.
    state: AtomicU32,
}

impl Event {
    fn set(&self, to: u32) {
        if self.state.swap(to, Ordering::Release) == SLEPT_ON {
            atomic_wait::wake_all(&raw const self.state);
        }
    }
}

/// A record that was taken: wait until it is durable.
#[derive(Debug)]
#[must_use = "a record is durable when somebody has waited for it"]
pub(crate) struct Receipt(Arc<Event>);

impl Receipt {
    pub(crate) fn wait(self) -> Result<()> {
        let state = &self.0.state;
        loop {
            match state.compare_exchange(PENDING, SLEPT_ON, Ordering::Acquire, Ordering::Acquire) {
                Err(DONE) => return Ok(()),
                Err(FAILED) => anyhow::bail!("the log thread failed"),
                Ok(_) | Err(_) => atomic_wait::wait(state, SLEPT_ON),
            }
        }
    }
}

/// What producers fill while the thread syncs.
#[derive(Debug)]
struct Filling {
    buffer: Vec<u8>,
    event: Arc<Event>,
    is_stopping: bool,
}

#[derive(Debug)]
struct Shared {
    filling: Mutex<Filling>,
    /// The buffer is not empty, or the log ends.
    work: Condvar,
}

/// The log. Dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct PlainLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl PlainLog {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let file = disk::filled(&directory.join("plain.log"), FILE_BYTES).context("making the plain log's file")?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        let filling = Filling { buffer, event: Arc::default(), is_stopping: false };
        let shared = Arc::new(Shared { filling: Mutex::new(filling), work: Condvar::new() });
        let thread = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("plain-log".to_owned()).spawn(move || write(&thread, &file))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Takes a record. The CRC is made by the producer, outside the lock.
    pub(crate) fn append(&self, record: &[u8]) -> Result<Receipt> {
        let len = u32::try_from(record.len())?;
        let crc = crc32fast::hash(record);
        let mut filling = self.shared.filling.lock();
        let was_empty = filling.buffer.is_empty();
        filling.buffer.extend_from_slice(&len.to_le_bytes());
        filling.buffer.extend_from_slice(&crc.to_le_bytes());
        filling.buffer.extend_from_slice(record);
        let receipt = Receipt(Arc::clone(&filling.event));
        drop(filling);
        if was_empty {
            self.shared.work.notify_one();
        }
        Ok(receipt)
    }
}

impl Drop for PlainLog {
    fn drop(&mut self) {
        self.shared.filling.lock().is_stopping = true;
        self.shared.work.notify_one();
        // A panic was reported by the thread that had it.
        drop(self.writer.take().map(JoinHandle::join));
    }
}

fn write(shared: &Shared, file: &File) {
    let mut full = Vec::with_capacity(BUFFER_BYTES);
    let mut at = 0;
    loop {
        let mut filling = shared.filling.lock();
        while filling.buffer.is_empty() {
            if filling.is_stopping {
                return;
            }
            shared.work.wait(&mut filling);
        }
        std::mem::swap(&mut filling.buffer, &mut full);
        let event = std::mem::take(&mut filling.event);
        drop(filling);
        let len = full.len() as u64;
        if at + len > FILE_BYTES {
            at = 0;
        }
        let written = file.write_all_at(&full, at).and_then(|()| file.sync_data());
        at += len;
        full.clear();
        event.set(if written.is_ok() { DONE } else { FAILED });
    }
}

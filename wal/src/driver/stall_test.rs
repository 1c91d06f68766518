//! A device that stops answering, on real files.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::Wal;
use crate::core::{Entry, LogCore, Options};
use crate::error::SubmitError;
use crate::format::batch::{Batch, BatchBuilder, BatchKind};
use crate::format::block::{Block, Compression};
use crate::format::ids::{Epoch, LogId, LogPosition, Lsn};
use crate::io::{Io, IoFailure, LockOutcome, RealIo};

const LOG: LogId = LogId::new(1);

/// Closed: syncs do not return.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut closed = self.is_closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
    }

    fn set(&self, closed: bool) {
        *self.is_closed.lock() = closed;
        self.opened.notify_all();
    }
}

/// The directory behind a gate: only what the writer uses.
struct Gated(RealIo, Arc<Gate>);

impl Io for Gated {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.0.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.0.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.0.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.0.read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.0.write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.1.pass();
        self.0.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.0.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.0.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.remove(name)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.settle(name)
    }

    fn entropy(&mut self) -> u64 {
        self.0.entropy()
    }

    fn process_id(&self) -> u32 {
        self.0.process_id()
    }
}

fn batch(prev: LogPosition) -> Batch {
    let block = Block::encode(Bytes::from(vec![7; 1000]), 1, Compression::Never);
    BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), prev, 1).block(block).seal().unwrap()
}

#[test]
fn a_device_that_hangs_is_seen_and_holds_up_nobody_but_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, queue_bytes_max: 20_000, ..Options::default() };
    let mut io = RealIo::new(dir.path());
    let (core, _) = LogCore::recover(&mut io, &options).unwrap();
    let gate = Arc::new(Gate::default());
    let wal = Wal::begin(core, &options, io.clone(), Box::new(Gated(io, Arc::clone(&gate)))).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    gate.set(true);
    let mut waiting = vec![wal.submit(vec![Entry::Batch(batch(wal.end(LOG)))]).unwrap()];
    // It is seen while it lasts, and for how long.
    while wal.io_under_way().is_none_or(|so_far| so_far < Duration::from_millis(20)) {
        std::thread::yield_now();
    }
    // Submissions are taken until the queue is full, and then refused at once; nobody is told that theirs is durable.
    let refused = loop {
        match wal.submit(vec![Entry::Batch(batch(wal.end(LOG)))]) {
            Ok(pending) => waiting.push(pending),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, SubmitError::Busy { queue_bytes_max: 20_000 });
    assert!(waiting.len() > 10 && waiting.iter().all(|pending| !pending.is_done()));
    // What is durable can be read.
    assert_eq!(wal.durable_end(LOG).lsn, Lsn::FIRST);
    assert!(!wal.read(LOG, Lsn::FIRST, 1).unwrap().is_empty());
    gate.set(false);
    let accepted = u64::try_from(waiting.len()).unwrap();
    waiting.into_iter().for_each(|pending| pending.wait().unwrap());
    assert_eq!(wal.durable_end(LOG).lsn, Lsn::new(1 + accepted));
    wal.close().unwrap();
    assert_eq!(wal.io_under_way(), None);
}

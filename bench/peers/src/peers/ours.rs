//! Ours: each producer has a log of its own in one set of files, and lets go of what is old, so that segments are used
//! again as they are in a log that runs for long.

use super::{Append, DurableLog};
use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use std::path::Path;
use towline_wal::{
    Batch, BatchBuilder, BatchKind, Block, Compression, Entry, Epoch, LogId, LogPosition, Lsn, Options, Pending, Wal,
};

/// Bytes that all producers together keep.
const KEPT_BYTES: u64 = 64 << 20;

/// The log, and how much each of its producers keeps.
pub(crate) struct Ours {
    pub(crate) wal: Wal,
    kept_bytes: u64,
}

/// Bytes that one of so many producers keeps.
pub(crate) const fn bytes_of_release_lag(producers: u64) -> u64 {
    KEPT_BYTES / producers
}

impl Ours {
    pub(crate) fn open(directory: &Path, producers: u64) -> Result<Self> {
        let (wal, _) = Wal::open(directory.join("wal"), Options::default()).context("opening the log")?;
        Ok(Self { wal, kept_bytes: bytes_of_release_lag(producers) })
    }

    pub(crate) fn of(&self, number: u64) -> Producer<'_> {
        Producer::new(&self.wal, number, self.kept_bytes)
    }
}

/// A producer: where its log ends, and what it may let go of.
pub(crate) struct Producer<'a> {
    wal: &'a Wal,
    log: LogId,
    end: LogPosition,
    /// What batches of one record are made in.
    memory: BytesMut,
    kept_bytes: u64,
    /// Bytes since `marks` moved.
    bytes: u64,
    /// Ends of the log, half of `kept_bytes` apart: the older one can be let go of.
    marks: [Lsn; 2],
}

impl<'a> Producer<'a> {
    pub(crate) fn new(wal: &'a Wal, number: u64, kept_bytes: u64) -> Self {
        let log = LogId::new(u128::from(number) + 1);
        let end = wal.end(log);
        let end = if end.lsn == Lsn::ZERO { LogPosition::origin(log) } else { end };
        Self { wal, log, end, memory: BytesMut::new(), kept_bytes, bytes: 0, marks: [end.lsn; 2] }
    }

    /// The batch that follows: so many records in one block.
    pub(crate) fn batch(&mut self, payload: Bytes, records: u32) -> Result<Batch> {
        let block = Block::encode(payload, records, Compression::Never);
        let epoch = Epoch::new(1, 1);
        let batch = BatchBuilder::new(self.log, BatchKind::Data, epoch, self.end, 0).block(block).seal()?;
        self.end = batch.position();
        Ok(batch)
    }

    /// Starts an append of one record, and releases what is old where it is time for that.
    pub(crate) fn start(&mut self, record: &[u8]) -> Result<Pending> {
        let pending = self.wal.start_append(self.record(record)?)?;
        self.let_go()?;
        Ok(pending)
    }

    /// The batch that follows: one record.
    pub(crate) fn record(&mut self, record: &[u8]) -> Result<Batch> {
        let builder = BatchBuilder::new(self.log, BatchKind::Data, Epoch::new(1, 1), self.end, 0);
        let batch = builder.seal_raw_in(&mut self.memory, record, 1)?;
        self.end = batch.position();
        self.bytes += batch.bytes().len() as u64;
        Ok(batch)
    }

    /// Lets go of all but the newest records.
    pub(crate) fn release(&self, kept: u64) -> Result<()> {
        let before = Lsn::new(self.end.lsn.get().saturating_sub(kept));
        if before > Lsn::ZERO {
            // Nobody waits for it: what is not released today is tomorrow.
            drop(self.wal.submit(vec![Entry::Release { log: self.log, before }])?);
        }
        Ok(())
    }

    /// Submits the batch that follows, and a release of what is old where it is time for one.
    pub(crate) fn submit(&mut self, payload: Bytes, records: u32) -> Result<Pending> {
        let batch = self.batch(payload, records)?;
        self.bytes += batch.bytes().len() as u64;
        let pending = self.wal.submit(vec![Entry::Batch(batch)])?;
        self.let_go()?;
        Ok(pending)
    }

    fn let_go(&mut self) -> Result<()> {
        if self.bytes * 2 >= self.kept_bytes {
            let [older, newer] = self.marks;
            if older > Lsn::ZERO {
                // Nobody waits for it: what is not released today is tomorrow.
                drop(self.wal.submit(vec![Entry::Release { log: self.log, before: older }])?);
            }
            (self.marks, self.bytes) = ([newer, self.end.lsn], 0);
        }
        Ok(())
    }
}

impl Append for Producer<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.wal.append(self.record(record)?)?;
        self.let_go()
    }
}

impl DurableLog for Ours {
    fn producer(&self, number: u64) -> Result<Box<dyn Append + '_>> {
        Ok(Box::new(self.of(number)))
    }

    fn written_per_byte(&self) -> Option<f64> {
        let stats = self.wal.stats();
        (stats.batch_bytes > 0).then(|| stats.group_bytes as f64 / stats.batch_bytes as f64)
    }

    fn syncs_per_record(&self) -> Option<f64> {
        let stats = self.wal.stats();
        (stats.entries > 0).then(|| stats.syncs as f64 / stats.entries as f64)
    }
}

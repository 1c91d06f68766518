//! The sequencer: one order for what many submit.

use super::submission::{Content, OWN_BLOCK_BYTES, Submission};
use crate::model::limits::{BATCH_BYTES_TARGET, BATCH_RECORDS_MAX, WRITE_BYTES_MAX};
use crate::model::{Epoch, LogId, LogPosition};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use towline_wal::limits::{BATCH_BLOCKS_MAX, BATCH_RAW_BYTES_MAX, COMPRESS_BYTES_MIN};
use towline_wal::{Batch, BatchBuilder, Block, Compression};

/// Small records are merged into blocks of about this many bytes: enough for the compressor to find what repeats.
const MERGED_BLOCK_BYTES: usize = 256 * 1024;
/// A batch is closed at this many bytes of records before compression: what shrinks well fills readers' memory,
/// not the disk.
const RAW_BYTES_TARGET: usize = 8 * BATCH_BYTES_TARGET;

/// Blocks of one record in a batch: what fits of large records; of control records as many.
const OWN_BLOCKS_MAX: usize = RAW_BYTES_TARGET / OWN_BLOCK_BYTES;

// Whatever is taken makes a legal batch: `seal` has no error of its own.
const _: () = {
    assert!(WRITE_BYTES_MAX <= BATCH_RAW_BYTES_MAX && RAW_BYTES_TARGET <= BATCH_RAW_BYTES_MAX);
    // Each record of its own block may close a merged block before it.
    assert!(2 * (OWN_BLOCKS_MAX + 1) + RAW_BYTES_TARGET / MERGED_BLOCK_BYTES < BATCH_BLOCKS_MAX);
    assert!(BATCH_RECORDS_MAX <= towline_wal::limits::BATCH_RECORDS_MAX);
};

/// Takes submissions in the order in which they come, and seals them into batches.
///
/// No I/O and no clock: it runs on the shard's thread, and in the simulator.
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, Operation, Record};
/// use towline::pipeline::{Sequencer, Submission};
/// let mut sequencer = Sequencer::new();
/// for (caller, key) in [(1, "a"), (2, "b")] {
///     let record = Record::of(vec![Operation::Delete { key: key.into() }]).encode()?;
///     sequencer.push(Submission::record(record, caller));
/// }
/// let log = LogId::new(1);
/// let sealed = sequencer.seal(log, Epoch::new(1, 1), LogPosition::origin(log), 0).expect("two wait");
/// assert_eq!(sealed.batch.header().record_count, 2);
/// assert_eq!(sealed.tokens, [1, 2]);
/// # Ok::<(), towline::model::RecordError>(())
/// ```
#[derive(Debug)]
pub struct Sequencer<T> {
    waiting: VecDeque<Submission<T>>,
    waiting_bytes: usize,
    last_micros: u64,
    pays: Pays,
}

/// A sealed batch, and who waits for its records, in LSN order.
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, Write};
/// use towline::pipeline::{Sealed, Sequencer, Submission};
/// let mut sequencer = Sequencer::new();
/// for (caller, value) in [("small", vec![0; 8]), ("large", vec![0; 32 << 10])] {
///     sequencer.push(Submission::record(Write::new().put(caller, value).record().encode()?, caller));
/// }
/// let log = LogId::new(1);
/// let sealed = sequencer.seal(log, Epoch::new(1, 1), LogPosition::origin(log), 0);
/// let Sealed { batch, tokens, spent } = sealed.expect("two wait");
/// // The first token is of the batch's first LSN, and so on.
/// assert_eq!((tokens, batch.first_lsn().next()), (vec!["small", "large"], batch.last_lsn()));
/// assert_eq!(spent.len(), 1, "the large one became a block of its own, and was not copied");
/// # Ok::<(), towline::model::RecordError>(())
/// ```
#[derive(Debug)]
pub struct Sealed<T> {
    /// The batch.
    pub batch: Batch,
    /// One token a record.
    pub tokens: Vec<T>,
    /// The buffers of the small records, which were copied.
    pub spent: Vec<BytesMut>,
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Sequencer<T> {
    /// One with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: VecDeque::new(), waiting_bytes: 0, last_micros: 0, pays: Pays { failed: 0, passed: 0 } }
    }

    /// Takes a submission.
    pub fn push(&mut self, submission: Submission<T>) {
        self.waiting_bytes += submission.bytes();
        self.waiting.push_back(submission);
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Seals what waits, up to a batch's limits, behind `prev`; none if nothing waits. Control records and others lie in
    /// batches apart, in the order in which they came. Time stamps never fall, whatever the clock says.
    pub fn seal(&mut self, log: LogId, epoch: Epoch, prev: LogPosition, now_micros: u64) -> Option<Sealed<T>> {
        let kind = self.waiting.front()?.kind();
        self.last_micros = self.last_micros.max(now_micros);
        let mut builder = BatchBuilder::new(log, kind, epoch, prev, self.last_micros);
        let (mut tokens, mut filled) = (Vec::with_capacity(self.waiting.len()), Filled::default());
        let mut spent = Vec::with_capacity(self.waiting.len());
        let room = self.waiting_bytes.min(MERGED_BLOCK_BYTES + OWN_BLOCK_BYTES);
        let mut merged = Merged { bytes: BytesMut::with_capacity(room), records: 0, pays: &mut self.pays };
        while let Some(submission) = self.waiting.pop_front_if(|next| next.kind() == kind && filled.has_room_for(next))
        {
            filled.add(&submission);
            self.waiting_bytes -= submission.bytes();
            match submission.content {
                Content::Record(record) => {
                    merged.add(&record);
                    spent.push(record);
                    if merged.bytes.len() >= MERGED_BLOCK_BYTES {
                        builder = merged.finish(builder);
                    }
                }
                Content::Block(block) | Content::Control(block) => builder = merged.finish(builder).block(block),
            }
            tokens.push(submission.token);
        }
        match merged.finish(builder).seal() {
            Ok(batch) => Some(Sealed { batch, tokens, spent }),
            Err(error) => {
                unreachable!("what has room in a batch makes one, behind a position of no later epoch: {error}")
            }
        }
    }

    /// Gives back who waits for what was not sealed.
    pub fn drain(&mut self) -> Vec<T> {
        self.waiting_bytes = 0;
        self.waiting.drain(..).map(Submission::into_token).collect()
    }
}

/// How full the batch in the making is.
#[derive(Debug, Default)]
struct Filled {
    records: u32,
    stored_bytes: usize,
    raw_bytes: usize,
    own_blocks: usize,
}

impl Filled {
    /// The first always has room: a write's limits keep within a batch's. Stored bytes are what the disk and the
    /// wire carry, raw bytes what every reader must hold: records that shrink well are bounded by the latter.
    fn has_room_for<T>(&self, next: &Submission<T>) -> bool {
        self.records == 0
            || (self.records < BATCH_RECORDS_MAX
                && self.own_blocks < OWN_BLOCKS_MAX
                && self.stored_bytes + next.bytes() <= BATCH_BYTES_TARGET
                && self.raw_bytes + next.raw_bytes() <= RAW_BYTES_TARGET)
    }

    fn add<T>(&mut self, next: &Submission<T>) {
        self.records += 1;
        self.stored_bytes += next.bytes();
        self.raw_bytes += next.raw_bytes();
        if !matches!(next.content, Content::Record(_)) {
            self.own_blocks += 1;
        }
    }
}

/// Whether it pays to compress, by what it did lately: records of one shard are often alike, and on noise a good part of this
/// thread's time would be spent for nothing.
#[derive(Debug)]
struct Pays {
    /// Blocks in a row that did not shrink.
    failed: u32,
    /// Blocks that were not tried since.
    passed: u32,
}

/// So many blocks in a row don't shrink until only one in so many is tried.
const PAYS_FAILED_MAX: u32 = 4;
const PAYS_TRIED_ONE_IN: u32 = 32;

impl Pays {
    fn encode(&mut self, raw: Bytes, records: u32) -> Block {
        if self.failed >= PAYS_FAILED_MAX {
            self.passed += 1;
            if self.passed < PAYS_TRIED_ONE_IN {
                return Block::encode(raw, records, Compression::Never);
            }
            self.passed = 0;
        }
        let length = raw.len();
        let block = Block::encode(raw, records, Compression::WhereItPays);
        // What is too short to be tried says nothing.
        if block.stored().len() < length {
            self.failed = 0;
        } else if length >= COMPRESS_BYTES_MIN {
            self.failed = self.failed.saturating_add(1);
        }
        block
    }
}

/// Small records on their way to one block.
#[derive(Debug)]
struct Merged<'a> {
    bytes: BytesMut,
    records: u32,
    pays: &'a mut Pays,
}

impl Merged<'_> {
    fn add(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.records += 1;
    }

    fn finish(&mut self, builder: BatchBuilder) -> BatchBuilder {
        if self.records == 0 {
            return builder;
        }
        let records = std::mem::take(&mut self.records);
        builder.block(self.pays.encode(self.bytes.split().freeze(), records))
    }
}

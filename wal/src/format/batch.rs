//! A batch: consecutive records of one log, encoded once. The same bytes lie on every disk and cross every wire.
//!
//! A batch is position-independent (it says nothing of files) and never changes. Its header is 96 bytes:
//!
//! | at | field | type | why |
//! |---|---|---|---|
//! | 0 | magic `TWBT` | 4 | a stray offset is recognised |
//! | 4 | format version, 1 | u8 | a newer batch is refused by name, not misread |
//! | 5 | kind: 0 data, 1 control | u8 | a replica treats control records before it decodes payloads |
//! | 6 | flags | u16 | none yet; unknown ones are refused |
//! | 8 | log id | u128 | a batch in the wrong log is found |
//! | 24 | epoch.version | u64 | |
//! | 32 | previous batch's epoch.version | u64 | logs are matched without reading the previous batch |
//! | 40 | epoch.term | u32 | |
//! | 44 | previous batch's epoch.term | u32 | |
//! | 48 | first LSN | u64 | |
//! | 56 | time stamp, µs since 1970 | u64 | for people and retention; decides nothing |
//! | 64 | record count | u32 | with the first LSN: the range |
//! | 68 | raw length of the payload's blocks | u32 | what a reader will need |
//! | 72 | stored length of the payload | u32 | where the batch ends |
//! | 76 | CRC-32 of the payload | u32 | made by the submitters, combined |
//! | 80 | chain | u64 | wrong predecessors are found, not only damage |
//! | 88 | block count | u32 | |
//! | 92 | CRC-32 of bytes 0..92 | u32 | checked before any length is believed |
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::block::Block;
use super::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use super::layout::{Fields, Front, PutFields, len_u32};
use crate::limits::{BATCH_BLOCKS_MAX, BATCH_HEADER_BYTES, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX};

const MAGIC: [u8; 4] = *b"TWBT";
/// The version of the batch format that this code writes.
pub const BATCH_VERSION: u8 = 1;
const CHAIN_AT: usize = 80;

/// What a batch's records are.
///
/// ```
/// use towline_wal::{Batch, BatchBuilder, BatchKind, Epoch, LogId, LogPosition};
/// let (log, mut end) = (LogId::new(1), LogPosition::origin(LogId::new(1)));
/// let mut batches = Vec::new();
/// for (kind, record) in [(BatchKind::Control, &b"node 2 leads"[..]), (BatchKind::Data, b"hello")] {
///     let batch = BatchBuilder::new(log, kind, Epoch::new(1, 1), end, 0).seal_raw(record, 1).unwrap();
///     end = batch.position();
///     batches.push(Batch::decode(batch.bytes().clone()).unwrap());
/// }
/// // Both have LSNs. What an application reads of its own is told by the header alone.
/// let data: Vec<_> = batches.iter().filter(|batch| batch.kind() == BatchKind::Data).collect();
/// assert_eq!((data.len(), data[0].first_lsn().get()), (1, 2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BatchKind {
    /// Records of the application.
    Data = 0,
    /// Records of the replication protocol.
    Control = 1,
}

/// A batch's header, as fields. The module's documentation has the layout.
///
/// ```
/// use std::io::Read;
/// use towline_wal::limits::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES};
/// use towline_wal::{Batch, BatchHeader};
/// # use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, LogPosition};
/// # let log = LogId::new(1);
/// # let start = LogPosition::origin(log);
/// # let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), start, 0).seal_raw(b"hello", 1).unwrap();
/// # let mut wire = &batch.bytes()[..];
/// // `wire` delivers batches one after another: each header says how many bytes there are to come.
/// let mut bytes = vec![0; BATCH_HEADER_BYTES];
/// wire.read_exact(&mut bytes).unwrap();
/// let header = BatchHeader::decode(&bytes).unwrap();
/// assert!(header.batch_len() <= BATCH_BYTES_MAX, "no header that decodes says more");
/// bytes.resize(header.batch_len(), 0);
/// wire.read_exact(&mut bytes[BATCH_HEADER_BYTES..]).unwrap();
/// assert_eq!(*Batch::decode(bytes.into()).unwrap().header(), header);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The log that the batch belongs to.
    pub log: LogId,
    /// What the records are.
    pub kind: BatchKind,
    /// Reserved; zero in version 1.
    pub flags: u16,
    /// The history that the batch belongs to.
    pub epoch: Epoch,
    /// The epoch of the batch before.
    pub prev_epoch: Epoch,
    /// Number of the first record.
    pub first_lsn: Lsn,
    /// Number of records, at least 1.
    pub record_count: u32,
    /// When it was sealed: microseconds since 1970, by the sealer's wall clock.
    pub time_micros: u64,
    /// Bytes of all blocks after decompression.
    pub raw_len: u32,
    /// Bytes of the payload as stored, block headers included.
    pub stored_len: u32,
    /// CRC-32 (IEEE) of the payload as stored.
    pub payload_crc: u32,
    /// Number of blocks, at least 1.
    pub block_count: u32,
    /// The chain at the batch's end.
    pub chain: Chain,
}

impl BatchHeader {
    /// Number of the last record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.first_lsn.advance(u64::from(self.record_count.saturating_sub(1)))
    }

    /// See [`Batch::follows`].
    pub(crate) fn follows(&self, previous: &LogPosition) -> bool {
        self.first_lsn == previous.lsn.next()
            && self.prev_epoch == previous.epoch
            && self.epoch >= previous.epoch
            && self.chain == self.chain_after(previous.chain)
    }

    /// The header's bytes with `chain`, without the CRC.
    fn unsealed(&self, chain: u64) -> Front<BATCH_HEADER_BYTES> {
        let mut out = Front::new();
        out.put_bytes(&MAGIC);
        out.put_u8(BATCH_VERSION);
        #[expect(clippy::as_conversions, reason = "the discriminant is the code on disk")]
        out.put_u8(self.kind as u8);
        out.put_u16(self.flags);
        out.put_u128(self.log.as_u128());
        out.put_u64(self.epoch.version);
        out.put_u64(self.prev_epoch.version);
        out.put_u32(self.epoch.term);
        out.put_u32(self.prev_epoch.term);
        out.put_u64(self.first_lsn.get());
        out.put_u64(self.time_micros);
        out.put_u32(self.record_count);
        out.put_u32(self.raw_len);
        out.put_u32(self.stored_len);
        out.put_u32(self.payload_crc);
        debug_assert_eq!(out.so_far().len(), CHAIN_AT);
        out.put_u64(chain);
        out.put_u32(self.block_count);
        out
    }

    /// The chain that this header makes behind `previous`.
    ///
    /// xxh3_64 over the previous chain (8 bytes) and the header with its chain and CRC fields zeroed. The header
    /// holds the payload's CRC, so the payload is in the chain too.
    #[must_use]
    pub fn chain_after(&self, previous: Chain) -> Chain {
        let mut hasher = Xxh3::new();
        hasher.update(&previous.get().to_le_bytes());
        hasher.update(self.unsealed(0).so_far());
        hasher.update(&[0; 4]);
        Chain::new(hasher.digest())
    }

    fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = self.unsealed(self.chain.get());
        let crc = crc32fast::hash(out.so_far());
        out.put_u32(crc);
        out.whole()
    }

    /// Reads the 96 bytes of a header: the first step of reading a batch from a file or a wire, which tells
    /// ([`BatchHeader::batch_len`]) how many bytes the batch has.
    ///
    /// # Errors
    /// [`BatchError`]: anything that is not a header of version 1 within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(bytes) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Truncated { have: bytes.len(), want: BATCH_HEADER_BYTES });
        };
        let (body, crc) = bytes.split_at(BATCH_HEADER_BYTES.saturating_sub(4));
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(BatchError::NotABatch);
        }
        if Fields::new(crc).u32() != Ok(crc32fast::hash(body)) {
            return Err(BatchError::HeaderCrc);
        }
        Self::fields(body).unwrap_or(Err(BatchError::NotABatch))
    }

    fn fields(body: &[u8]) -> Result<Result<Self, BatchError>, super::layout::Short> {
        let mut f = Fields::new(body);
        f.bytes(MAGIC.len())?;
        let version = f.u8()?;
        if version != BATCH_VERSION {
            return Ok(Err(BatchError::Version { found: version }));
        }
        let kind = match f.u8()? {
            0 => BatchKind::Data,
            1 => BatchKind::Control,
            _ => return Ok(Err(BatchError::Field { field: "kind" })),
        };
        let flags = f.u16()?;
        let log = LogId::new(f.u128()?);
        let (version, prev_version) = (f.u64()?, f.u64()?);
        let epoch = Epoch { version, term: f.u32()? };
        let prev_epoch = Epoch { version: prev_version, term: f.u32()? };
        let first_lsn = Lsn::new(f.u64()?);
        let time_micros = f.u64()?;
        let (record_count, raw_len, stored_len, payload_crc) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
        let chain = Chain::new(f.u64()?);
        let block_count = f.u32()?;
        let header = Self {
            log,
            kind,
            flags,
            epoch,
            prev_epoch,
            first_lsn,
            record_count,
            time_micros,
            raw_len,
            stored_len,
            payload_crc,
            block_count,
            chain,
        };
        Ok(header.within_limits().map(|()| header))
    }

    /// What is checked before a batch is sealed is checked after it is read, here.
    fn within_limits(&self) -> Result<(), BatchError> {
        let field = |field| Err(BatchError::Field { field });
        let payload_max = crate::limits::BATCH_BYTES_MAX.saturating_sub(BATCH_HEADER_BYTES);
        if self.flags != 0 {
            return field("flags");
        }
        if self.first_lsn == Lsn::ZERO || self.last_lsn() == Lsn::MAX {
            return field("first LSN");
        }
        if self.record_count == 0 || self.record_count > BATCH_RECORDS_MAX {
            return field("record count");
        }
        if self.block_count == 0 || usize::try_from(self.block_count).is_ok_and(|n| n > BATCH_BLOCKS_MAX) {
            return field("block count");
        }
        if usize::try_from(self.raw_len).is_ok_and(|n| n > BATCH_RAW_BYTES_MAX) {
            return field("raw length");
        }
        if usize::try_from(self.stored_len).is_ok_and(|n| n > payload_max) {
            return field("stored length");
        }
        if self.epoch < self.prev_epoch {
            return field("epoch");
        }
        Ok(())
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn batch_len(&self) -> usize {
        usize::try_from(self.stored_len).unwrap_or(usize::MAX).saturating_add(BATCH_HEADER_BYTES)
    }
}

/// Bytes that are not a good batch, or a batch that can't be sealed.
///
/// ```
/// use towline_wal::{Batch, BatchError};
/// # use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, LogPosition};
/// # let log = LogId::new(1);
/// # let start = LogPosition::origin(log);
/// # let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), start, 0).seal_raw(b"hello", 1).unwrap();
/// let good = batch.bytes();
/// let cut = good.slice(..good.len() - 1);
/// assert_eq!(Batch::decode(cut), Err(BatchError::Truncated { have: good.len() - 1, want: good.len() }));
/// let flipped = |at: usize| {
///     let mut bytes = good.to_vec();
///     bytes[at] ^= 1;
///     Batch::decode(bytes.into())
/// };
/// assert_eq!(flipped(good.len() - 1), Err(BatchError::PayloadCrc));
/// assert_eq!(flipped(64), Err(BatchError::HeaderCrc), "found before its record count is believed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Fewer bytes than the batch has.
    #[error("{have} bytes, and the batch has {want}")]
    Truncated {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// More bytes than the batch has: exactly one was expected.
    #[error("{extra} bytes behind the batch's end")]
    Trailing {
        /// Bytes too many.
        extra: usize,
    },
    /// No batch starts here.
    #[error("no batch starts here (no magic `TWBT`)")]
    NotABatch,
    /// A batch of a format that this build does not know.
    #[error("the batch has format version {found}, and this build reads 1")]
    Version {
        /// The version it says.
        found: u8,
    },
    /// The header's bytes changed since it was sealed.
    #[error("the batch header does not match its checksum")]
    HeaderCrc,
    /// The payload's bytes changed since it was sealed.
    #[error("the batch payload does not match its checksum")]
    PayloadCrc,
    /// A field has a value that no batch has.
    #[error("the batch's {field} is out of bounds")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// The payload's blocks are not what the header says.
    #[error("the batch's blocks do not add up to its header")]
    Blocks,
}

/// A validated batch: its bytes and its header. Cloning shares the bytes.
///
/// ```
/// use bytes::Bytes;
/// use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression, Epoch, LogId, LogPosition, Lsn};
/// let log = LogId::new(1);
/// let start = LogPosition::origin(log);
/// let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), start, 0)
///     .block(Block::encode(Bytes::from_static(b"two records"), 2, Compression::Never))
///     .seal()
///     .unwrap();
/// assert!(batch.follows(&start));
/// assert_eq!(batch.position().lsn, Lsn::new(2));
/// assert_eq!(Batch::decode(batch.bytes().clone()).unwrap(), batch);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// Checks bytes that must be exactly one batch: magic, version, checksums, lengths, the structure of its
    /// blocks. What is inside the blocks is the application's.
    ///
    /// # Errors
    /// [`BatchError`] says what is wrong; nothing was believed before its checksum was good.
    pub fn decode(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(&bytes)?;
        let want = header.batch_len();
        if bytes.len() < want {
            return Err(BatchError::Truncated { have: bytes.len(), want });
        }
        if bytes.len() > want {
            return Err(BatchError::Trailing { extra: bytes.len().saturating_sub(want) });
        }
        let payload = bytes.slice(BATCH_HEADER_BYTES..);
        if crc32fast::hash(&payload) != header.payload_crc {
            return Err(BatchError::PayloadCrc);
        }
        let batch = Self { header, bytes };
        batch.check_blocks()?;
        Ok(batch)
    }

    /// Raw length and record count of the batch are the sums over its blocks, which fill the payload.
    fn check_blocks(&self) -> Result<(), BatchError> {
        let mut payload = self.payload();
        let (mut raw_len, mut records) = (0_u64, 0_u64);
        for _ in 0..self.header.block_count {
            let block = Block::split_off(&mut payload).ok_or(BatchError::Blocks)?;
            raw_len = raw_len.saturating_add(u64::from(block.raw_len()));
            records = records.saturating_add(u64::from(block.record_count()));
        }
        let adds_up = raw_len == u64::from(self.header.raw_len) && records == u64::from(self.header.record_count);
        if adds_up && payload.is_empty() { Ok(()) } else { Err(BatchError::Blocks) }
    }

    fn payload(&self) -> Bytes {
        self.bytes.slice(BATCH_HEADER_BYTES..)
    }

    /// The header's fields.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The bytes, as they lie on disk and cross the wire.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The log that the batch belongs to.
    #[must_use]
    pub const fn log(&self) -> LogId {
        self.header.log
    }

    /// What the records are.
    #[must_use]
    pub const fn kind(&self) -> BatchKind {
        self.header.kind
    }

    /// The history that the batch belongs to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.header.epoch
    }

    /// Number of the first record.
    #[must_use]
    pub const fn first_lsn(&self) -> Lsn {
        self.header.first_lsn
    }

    /// Number of the last record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.header.last_lsn()
    }

    /// The batch's end.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        LogPosition { epoch: self.header.epoch, lsn: self.last_lsn(), chain: self.header.chain }
    }

    /// Whether this batch is a continuation of the history that ends at `previous` (I2): the next LSN, the previous
    /// epoch as it says, the chain over it, and no falling epoch.
    #[must_use]
    pub fn follows(&self, previous: &LogPosition) -> bool {
        self.header.follows(previous)
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let mut payload = self.payload();
        std::iter::from_fn(move || Block::split_off(&mut payload))
    }
}

/// The header's and the payload's CRC fields of bytes that start with a batch header.
pub(crate) fn crc_fields(bytes: &[u8]) -> (u32, u32) {
    let at = |offset| bytes.get(offset..).and_then(|rest| Fields::new(rest).u32().ok()).unwrap_or(0);
    (at(BATCH_HEADER_BYTES.saturating_sub(4)), at(CHAIN_AT.saturating_sub(4)))
}

/// Gathers blocks and seals them into a batch behind a position.
///
/// ```
/// use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Epoch, LogId, LogPosition};
/// let log = LogId::new(1);
/// let mut builder = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), LogPosition::origin(log), 0);
/// // What two submitters encoded, each on a thread of its own.
/// for (raw, records) in [("three records", 3), ("one", 1)] {
///     builder = builder.block(Block::encode(raw.into(), records, Compression::WhereItPays));
/// }
/// let (records, bytes) = (builder.record_count(), builder.encoded_len());
/// let batch = builder.seal().unwrap();
/// assert_eq!((batch.last_lsn().get(), batch.bytes().len()), (records, bytes));
/// assert_eq!(batch.blocks().map(|block| block.record_count()).collect::<Vec<_>>(), [3, 1]);
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    log: LogId,
    kind: BatchKind,
    epoch: Epoch,
    prev: LogPosition,
    time_micros: u64,
    blocks: Vec<Block>,
}

impl BatchBuilder {
    /// A batch that continues the history which ends at `prev`.
    #[must_use]
    pub const fn new(log: LogId, kind: BatchKind, epoch: Epoch, prev: LogPosition, time_micros: u64) -> Self {
        Self { log, kind, epoch, prev, time_micros, blocks: Vec::new() }
    }

    /// Adds a block behind the others.
    #[must_use]
    pub fn block(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }

    /// Number of records gathered so far.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        self.blocks.iter().map(|b| u64::from(b.record_count())).sum()
    }

    /// Bytes that the batch would have.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.blocks.iter().fold(BATCH_HEADER_BYTES, |sum, b| sum.saturating_add(b.encoded_len()))
    }

    /// Makes the batch: LSNs, checksums, chain.
    ///
    /// # Errors
    /// [`BatchError::Field`] for what exceeds a limit: no record, too many records, blocks or bytes, an epoch
    /// below that of `prev`.
    pub fn seal(self) -> Result<Batch, BatchError> {
        let sum = |f: fn(&Block) -> u32| self.blocks.iter().map(|b| u64::from(f(b))).sum::<u64>();
        let (raw_len, record_count) = (sum(Block::raw_len), sum(Block::record_count));
        let len = within_bounds(self.encoded_len())?;
        let mut bytes = Vec::with_capacity(len);
        bytes.put_zeroes(BATCH_HEADER_BYTES);
        for block in &self.blocks {
            block.put_header(&mut bytes);
            bytes.put_bytes(block.stored());
        }
        let header = self.finish(&mut bytes, raw_len, record_count, self.blocks.len())?;
        let batch = Batch { header, bytes: shared(bytes) };
        batch.check_blocks()?;
        Ok(batch)
    }

    /// Makes a batch of one block of `record_count` records, uncompressed: as `.block(Block::encode(..)).seal()` does, with
    /// one copy of the bytes and none in between.
    ///
    /// ```
    /// use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, LogPosition};
    /// let log = LogId::new(1);
    /// let start = LogPosition::origin(log);
    /// let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), start, 0).seal_raw(b"hello", 1).unwrap();
    /// assert_eq!(batch.last_lsn().get(), 1);
    /// ```
    ///
    /// # Errors
    /// As [`BatchBuilder::seal`]; also if there is a block already.
    pub fn seal_raw(self, raw: &[u8], record_count: u32) -> Result<Batch, BatchError> {
        let mut bytes = Vec::with_capacity(self.raw_len(raw)?);
        self.put_raw(&mut bytes, raw, record_count);
        let header = self.finish(&mut bytes, u64::from(len_u32(raw.len())), u64::from(record_count), 1)?;
        let batch = Batch { header, bytes: shared(bytes) };
        debug_assert!(batch.check_blocks().is_ok(), "what is sealed can be opened");
        Ok(batch)
    }

    /// As [`BatchBuilder::seal_raw`], in memory that the caller keeps for one batch after the other: it is allocated for some
    /// hundred kilobytes of them at once, and used again when none of them is needed any more. What it holds is discarded.
    ///
    /// A batch that is kept for long keeps those beside it in memory.
    ///
    /// ```
    /// use bytes::BytesMut;
    /// use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, LogPosition};
    /// let log = LogId::new(1);
    /// let mut end = LogPosition::origin(log);
    /// let mut memory = BytesMut::new();
    /// for record in [b"one", b"two"] {
    ///     let builder = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), end, 0);
    ///     end = builder.seal_raw_in(&mut memory, record, 1).unwrap().position();
    /// }
    /// assert_eq!(end.lsn.get(), 2);
    /// ```
    ///
    /// # Errors
    /// As [`BatchBuilder::seal_raw`].
    pub fn seal_raw_in(self, memory: &mut BytesMut, raw: &[u8], record_count: u32) -> Result<Batch, BatchError> {
        let len = self.raw_len(raw)?;
        memory.clear();
        if memory.capacity() < len {
            memory.reserve(len.max(MEMORY_BYTES));
        }
        self.put_raw(memory, raw, record_count);
        let header = self.finish(memory, u64::from(len_u32(raw.len())), u64::from(record_count), 1)?;
        let batch = Batch { header, bytes: memory.split().freeze() };
        debug_assert!(batch.check_blocks().is_ok(), "what is sealed can be opened");
        Ok(batch)
    }

    /// Bytes of a batch of these bytes alone.
    fn raw_len(&self, raw: &[u8]) -> Result<usize, BatchError> {
        if !self.blocks.is_empty() {
            return Err(BatchError::Field { field: "block count" });
        }
        let block = crate::limits::PAYLOAD_BLOCK_HEADER_BYTES.saturating_add(raw.len());
        within_bounds(BATCH_HEADER_BYTES.saturating_add(block))
    }

    /// Room for the header, and the one block.
    fn put_raw(&self, bytes: &mut impl PutFields, raw: &[u8], record_count: u32) {
        bytes.put_zeroes(BATCH_HEADER_BYTES);
        Block::put_raw_header(bytes, len_u32(raw.len()), record_count);
        bytes.put_bytes(raw);
    }

    /// Fills the header in front of the blocks.
    fn finish(
        &self,
        bytes: &mut [u8],
        raw_len: u64,
        record_count: u64,
        blocks: usize,
    ) -> Result<BatchHeader, BatchError> {
        let narrow = |n: u64, field| u32::try_from(n).map_err(|_| BatchError::Field { field });
        let mut header = BatchHeader {
            log: self.log,
            kind: self.kind,
            flags: 0,
            epoch: self.epoch,
            prev_epoch: self.prev.epoch,
            first_lsn: self.prev.lsn.next(),
            record_count: narrow(record_count, "record count")?,
            time_micros: self.time_micros,
            raw_len: narrow(raw_len, "raw length")?,
            stored_len: len_u32(bytes.len().saturating_sub(BATCH_HEADER_BYTES)),
            payload_crc: crc32fast::hash(bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default()),
            block_count: len_u32(blocks),
            chain: Chain::new(0),
        };
        header.within_limits()?;
        header.chain = header.chain_after(self.prev.chain);
        if let Some(front) = bytes.first_chunk_mut::<BATCH_HEADER_BYTES>() {
            front.copy_from_slice(&header.encode());
        }
        Ok(header)
    }
}

/// Bytes that are allocated at once for batches one after the other.
const MEMORY_BYTES: usize = 256 << 10;

/// Counted from the start: the log keeps it in two places, and should not have to allocate for that.
fn shared(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(bytes)
}

fn within_bounds(len: usize) -> Result<usize, BatchError> {
    if len > crate::limits::BATCH_BYTES_MAX {
        return Err(BatchError::Field { field: "stored length" });
    }
    Ok(len)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may index bytes that it made")]
#[path = "batch_test.rs"]
mod tests;

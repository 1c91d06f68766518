//! A block: what one submitter contributes to a batch, encoded and compressed once, on its own thread.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use bytes::Bytes;

use super::layout::{Fields, PutFields, len_u32};
use crate::limits::{BATCH_RAW_BYTES_MAX, COMPRESS_BYTES_MIN, COMPRESS_PERCENT_MAX, PAYLOAD_BLOCK_HEADER_BYTES};

/// How a block's bytes are stored.
///
/// ```
/// use towline_wal::{Block, Codec, Compression};
/// let small = Block::encode("hello".into(), 1, Compression::WhereItPays);
/// assert_eq!(small.codec(), Codec::Raw, "it would not shrink");
/// let large = Block::encode(vec![7; 100_000].into(), 1, Compression::WhereItPays);
/// let expected = if cfg!(feature = "zstd") { Codec::Zstd } else { Codec::Raw };
/// assert_eq!(large.codec(), expected);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    const fn from_u8(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Whether [`Block::encode`] may compress.
///
/// ```
/// use towline_wal::{Block, Compression};
/// let raw = bytes::Bytes::from(vec![7; 100_000]);
/// let [as_is, packed] = [Compression::Never, Compression::WhereItPays].map(|how| Block::encode(raw.clone(), 1, how));
/// assert_eq!(as_is.stored(), &raw);
/// assert!(packed.stored().len() <= raw.len(), "never more, and here a thousandth with the feature `zstd`");
/// assert_eq!(packed.decode(100_000).unwrap(), raw);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Store as it is.
    Never,
    /// zstd level 1, where the block is large enough and shrinks enough ([`crate::limits`]).
    #[default]
    WhereItPays,
}

/// Some consecutive records of a batch: their bytes, opaque to the log, and how many they are.
///
/// ```
/// use towline_wal::{Block, Codec, Compression};
/// let raw = bytes::Bytes::from(vec![7_u8; 10_000]);
/// let block = Block::encode(raw.clone(), 3, Compression::WhereItPays);
/// assert_eq!(block.raw_len(), 10_000);
/// assert_eq!(block.decode(1 << 20).unwrap(), raw);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    raw_len: u32,
    record_count: u32,
    codec: Codec,
    stored: Bytes,
}

/// A block that can't be read.
///
/// ```
/// use towline_wal::{Block, BlockError, Codec};
/// // Made by somebody who wants much memory of whoever reads it.
/// let hostile = Block::from_parts(Codec::Zstd, u32::MAX, 1, "tiny".into());
/// let refused = hostile.decode(1 << 20);
/// assert_eq!(refused, Err(BlockError::TooLarge { raw_len: u32::MAX, raw_len_max: 1 << 20 }));
/// let short = Block::from_parts(Codec::Raw, 5, 1, "tiny".into());
/// assert_eq!(short.decode(1 << 20), Err(BlockError::Malformed { codec: Codec::Raw, raw_len: 5 }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The block says it is larger than the reader allows.
    #[error("a block of {raw_len} bytes where at most {raw_len_max} are allowed")]
    TooLarge {
        /// Bytes after decompression, as the block's header says.
        raw_len: u32,
        /// What the caller allowed.
        raw_len_max: usize,
    },
    /// The stored bytes are not what the codec writes, or more or fewer bytes than the header says.
    #[error("a block's {codec:?} bytes do not decode to the {raw_len} bytes that its header says")]
    Malformed {
        /// The codec by which it should decode.
        codec: Codec,
        /// Bytes after decompression, as the block's header says.
        raw_len: u32,
    },
    /// This build has no decoder for the codec: build with the feature of that name.
    #[error("the block is compressed with zstd, and this build of towline-wal has no feature `zstd`")]
    NoZstd,
}

fn put_header(out: &mut impl PutFields, raw_len: u32, stored_len: u32, record_count: u32, codec: Codec) {
    out.put_u32(raw_len);
    out.put_u32(stored_len);
    out.put_u32(record_count);
    #[expect(clippy::as_conversions, reason = "the discriminant is the code on disk")]
    out.put_u8(codec as u8);
    out.put_zeroes(3);
}

impl Block {
    /// Makes a block of `record_count` records, compressed as the policy says and where it pays.
    #[must_use]
    pub fn encode(raw: Bytes, record_count: u32, policy: Compression) -> Self {
        let raw_len = len_u32(raw.len());
        if policy == Compression::WhereItPays
            && raw.len() >= COMPRESS_BYTES_MIN
            && let Some(stored) = compress(&raw)
        {
            return Self { raw_len, record_count, codec: Codec::Zstd, stored };
        }
        Self { raw_len, record_count, codec: Codec::Raw, stored: raw }
    }

    /// The records' bytes.
    ///
    /// The declared size is checked before anything is allocated, and the output is capped by it: a hostile
    /// block can't make the reader use more than `raw_len_max`.
    ///
    /// # Errors
    /// [`BlockError`]: too large, malformed, or a codec that this build does not have.
    pub fn decode(&self, raw_len_max: usize) -> Result<Bytes, BlockError> {
        let raw_len = self.raw_len;
        let len = usize::try_from(raw_len).unwrap_or(usize::MAX);
        if len > raw_len_max {
            return Err(BlockError::TooLarge { raw_len, raw_len_max });
        }
        match self.codec {
            Codec::Raw if self.stored.len() == len => Ok(self.stored.clone()),
            Codec::Raw => Err(BlockError::Malformed { codec: self.codec, raw_len }),
            Codec::Zstd => decompress(&self.stored, len).map(Bytes::from),
        }
    }

    /// How the bytes are stored.
    #[must_use]
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes after decompression.
    #[must_use]
    pub const fn raw_len(&self) -> u32 {
        self.raw_len
    }

    /// Records in the block.
    #[must_use]
    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    /// The bytes as they are stored and shipped.
    #[must_use]
    pub const fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// The same block from parts that were stored somewhere: a golden file, a test.
    #[must_use]
    pub const fn from_parts(codec: Codec, raw_len: u32, record_count: u32, stored: Bytes) -> Self {
        Self { raw_len, record_count, codec, stored }
    }

    pub(crate) fn put_header(&self, out: &mut Vec<u8>) {
        put_header(out, self.raw_len, len_u32(self.stored.len()), self.record_count, self.codec);
    }

    /// The header of an uncompressed block.
    pub(crate) fn put_raw_header(out: &mut impl PutFields, raw_len: u32, record_count: u32) {
        put_header(out, raw_len, raw_len, record_count, Codec::Raw);
    }

    pub(crate) fn encoded_len(&self) -> usize {
        self.stored.len().saturating_add(PAYLOAD_BLOCK_HEADER_BYTES)
    }

    /// Takes the next block off a payload. `None`: the bytes are no block.
    pub(crate) fn split_off(payload: &mut Bytes) -> Option<Self> {
        if payload.len() < PAYLOAD_BLOCK_HEADER_BYTES {
            return None;
        }
        let header = payload.split_to(PAYLOAD_BLOCK_HEADER_BYTES);
        let mut fields = Fields::new(&header);
        let raw_len = fields.u32().ok()?;
        let stored_len = usize::try_from(fields.u32().ok()?).ok()?;
        let record_count = fields.u32().ok()?;
        let codec = Codec::from_u8(fields.u8().ok()?)?;
        let fits = usize::try_from(raw_len).is_ok_and(|len| len <= BATCH_RAW_BYTES_MAX) && stored_len <= payload.len();
        // A raw block is stored as it is; a compressed one is smaller, otherwise it would have been stored raw.
        let shrinks = u64::try_from(stored_len).is_ok_and(|len| match codec {
            Codec::Raw => len == u64::from(raw_len),
            Codec::Zstd => len < u64::from(raw_len),
        });
        if !fields.zeroes(3).ok()? || !fits || !shrinks || record_count == 0 {
            return None;
        }
        let stored = payload.split_to(stored_len);
        Some(Self { raw_len, record_count, codec, stored })
    }
}

#[cfg(feature = "zstd")]
mod contexts {
    use std::cell::RefCell;

    // A zstd context costs about 1.3 MB to make and nothing to use again.
    thread_local! {
        pub(super) static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
        pub(super) static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
}

/// The level that keeps a core ahead of the disk; higher ones gain little on small blocks.
#[cfg(feature = "zstd")]
const ZSTD_LEVEL: i32 = 1;

/// Compressed bytes, if they are few enough. An encoder that fails leaves the block raw: nothing is lost by it.
#[cfg(feature = "zstd")]
fn compress(raw: &[u8]) -> Option<Bytes> {
    let enough = raw.len().checked_mul(COMPRESS_PERCENT_MAX)?.checked_div(100)?;
    contexts::COMPRESSOR.with_borrow_mut(|context| {
        if context.is_none() {
            // No memory for one: stored raw, below, and asked for again the next time.
            *context = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        // The output buffer is as large as what would still pay: compressing further is stopped by the encoder.
        let mut stored = Vec::with_capacity(enough);
        context.as_mut()?.compress_to_buffer(raw, &mut stored).ok()?;
        stored.shrink_to_fit();
        Some(Bytes::from(stored))
    })
}

#[cfg(not(feature = "zstd"))]
fn compress(_raw: &[u8]) -> Option<Bytes> {
    let _unused = COMPRESS_PERCENT_MAX;
    None
}

#[cfg(feature = "zstd")]
fn decompress(stored: &[u8], len: usize) -> Result<Vec<u8>, BlockError> {
    let malformed = || BlockError::Malformed { codec: Codec::Zstd, raw_len: len_u32(len) };
    contexts::DECOMPRESSOR.with_borrow_mut(|context| {
        if context.is_none() {
            // No memory for one: refused below like any block that does not decompress.
            *context = zstd::bulk::Decompressor::new().ok();
        }
        let raw = context.as_mut().ok_or_else(malformed)?.decompress(stored, len).map_err(|_| malformed())?;
        if raw.len() == len { Ok(raw) } else { Err(malformed()) }
    })
}

#[cfg(not(feature = "zstd"))]
fn decompress(_stored: &[u8], _len: usize) -> Result<Vec<u8>, BlockError> {
    Err(BlockError::NoZstd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "zstd")]
    #[test]
    fn a_block_that_shrinks_is_compressed_and_reads_back() {
        let raw = Bytes::from(b"towline ".repeat(4000));
        let block = Block::encode(raw.clone(), 9, Compression::WhereItPays);
        assert_eq!(block.codec(), Codec::Zstd);
        assert!(block.stored().len() < raw.len() / 10);
        assert_eq!(block.decode(raw.len()).unwrap(), raw);
    }

    #[test]
    fn a_small_block_and_one_that_does_not_shrink_stay_raw() {
        let small = Block::encode(Bytes::from(vec![0; 4095]), 1, Compression::WhereItPays);
        assert_eq!(small.codec(), Codec::Raw);
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert_eq!(Block::encode(Bytes::from(noise), 1, Compression::WhereItPays).codec(), Codec::Raw);
    }

    #[test]
    fn a_block_larger_than_the_reader_allows_is_refused_before_it_is_decoded() {
        let block = Block::from_parts(Codec::Zstd, u32::MAX, 1, Bytes::from_static(b"bomb"));
        assert_eq!(block.decode(1 << 20), Err(BlockError::TooLarge { raw_len: u32::MAX, raw_len_max: 1 << 20 }));
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn a_block_that_decodes_to_another_length_is_refused() {
        let raw = Bytes::from(vec![1; 8192]);
        let stored = Block::encode(raw, 1, Compression::WhereItPays).stored().clone();
        for wrong in [8191, 8193] {
            let block = Block::from_parts(Codec::Zstd, wrong, 1, stored.clone());
            assert_eq!(block.decode(1 << 20), Err(BlockError::Malformed { codec: Codec::Zstd, raw_len: wrong }));
        }
    }
}

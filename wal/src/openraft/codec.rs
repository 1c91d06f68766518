//! How entries and facts lie in the log: CBOR, behind a version.
//!
//! A block of entries is the version, 1, then of each entry its length (u32, little-endian) and its CBOR. A fact (vote,
//! committed, purged) is the version, 1, then its CBOR.
//!
//! CBOR is binary and describes itself: an application may add a field to its types and still read its log. Lengths stand
//! before the entries, so that a batch is cut in two without knowing what is in it.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::Fault;
use crate::format::batch::Batch;
use crate::format::block::{Block, Compression};
use crate::format::layout::{Fields, PutFields, Short, len_u32};
use crate::limits::{BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX, HARD_STATE_BYTES_MAX};

const VERSION: u8 = 1;
/// Stands in the place of a fact whose newest record is lost. To a build that does not know it, a version that is too new.
pub(super) const IN_DOUBT: &[u8] = &[u8::MAX];
/// Bytes of a block that holds one entry, without the entry.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 1 + 4;

impl From<Short> for Fault {
    fn from(_: Short) -> Self {
        Self::Malformed { why: "it ends too early" }
    }
}

/// Entries of one term, on their way into one batch.
#[derive(Debug)]
pub(super) struct Run {
    raw: Vec<u8>,
    count: u32,
}

impl Run {
    pub(super) fn new() -> Self {
        Self { raw: vec![VERSION], count: 0 }
    }

    /// Adds an entry's bytes.
    pub(super) fn push(&mut self, entry: &[u8]) {
        self.raw.put_u32(len_u32(entry.len()));
        self.raw.put_bytes(entry);
        self.count = self.count.saturating_add(1);
    }

    /// Whether another entry of so many bytes leaves the block within `bytes_max`.
    pub(super) const fn takes(&self, entry_bytes: usize, bytes_max: usize) -> bool {
        self.raw.len().saturating_add(4).saturating_add(entry_bytes) <= bytes_max && self.count < BATCH_RECORDS_MAX
    }

    pub(super) fn into_block(self) -> Block {
        Block::encode(Bytes::from(self.raw), self.count, Compression::WhereItPays)
    }
}

pub(super) fn encode_entry<E: Serialize>(entry: &E) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    ciborium::into_writer(entry, &mut bytes).map_err(|e| Fault::Encode { why: e.to_string() })?;
    Ok(bytes)
}

/// The bytes of each entry of a batch.
pub(super) fn entries_of(batch: &Batch) -> Result<Vec<Bytes>, Fault> {
    let mut entries = Vec::new();
    for block in batch.blocks() {
        let raw = block.decode(BATCH_RAW_BYTES_MAX)?;
        let mut fields = Fields::new(&raw);
        version(&mut fields)?;
        let before = entries.len();
        while !fields.is_empty() {
            let len = usize::try_from(fields.u32()?).map_err(|_| Short)?;
            entries.push(raw.slice_ref(fields.bytes(len)?));
        }
        if entries.len().checked_sub(before) != usize::try_from(block.record_count()).ok() {
            return Err(Fault::Malformed { why: "the block has another number of entries than it says" });
        }
    }
    Ok(entries)
}

/// The first entries of a batch, as a block of their own.
pub(super) fn head(entries: &[Bytes], count: usize) -> Block {
    let mut run = Run::new();
    entries.iter().take(count).for_each(|entry| run.push(entry));
    run.into_block()
}

/// All of the bytes are one value.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let mut rest = bytes;
    let value = ciborium::from_reader(&mut rest).map_err(|e| Fault::Decode { why: e.to_string() })?;
    if rest.is_empty() { Ok(value) } else { Err(Fault::Malformed { why: "more bytes follow the value" }) }
}

pub(super) fn encode_fact<T: Serialize>(fact: &T) -> Result<Bytes, Fault> {
    let mut bytes = vec![VERSION];
    bytes.put_bytes(&encode_entry(fact)?);
    if bytes.len() > HARD_STATE_BYTES_MAX {
        return Err(Fault::TooLarge { what: "a fact", bytes: bytes.len(), bytes_max: HARD_STATE_BYTES_MAX });
    }
    Ok(Bytes::from(bytes))
}

pub(super) fn decode_fact<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let mut fields = Fields::new(bytes);
    version(&mut fields)?;
    decode(fields.bytes(fields.remaining())?)
}

fn version(fields: &mut Fields<'_>) -> Result<(), Fault> {
    match fields.u8()? {
        VERSION => Ok(()),
        0 => Err(Fault::Malformed { why: "it has no version" }),
        found => Err(Fault::Newer { found }),
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may index bytes that it made")]
#[path = "codec_test.rs"]
mod tests;

//! `MANIFEST`: whose directory this is. Written once, by tmp, sync, rename and sync of the directory.
//!
//! | at | field | type | why |
//! |---|---|---|---|
//! | 0 | magic `TWMF` | 4 | |
//! | 4 | format version of the directory, 1 | u8 | an older release refuses a newer directory before it reads on |
//! | 5 | zero | 3 | |
//! | 8 | directory uuid | 16 | files of two directories never mix |
//! | 24 | bytes of a segment | u64 | |
//! | 32 | zero | 28 | |
//! | 60 | CRC-32 of bytes 0..60, frozen for all versions | u32 | |
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::layout::{Fields, PutFields, Short};

const MAGIC: [u8; 4] = *b"TWMF";
/// The version of the directory format that this code writes.
pub(crate) const MANIFEST_VERSION: u8 = 1;
/// Bytes of the file.
pub(crate) const MANIFEST_BYTES: usize = 64;
/// Name of the file.
pub(crate) const MANIFEST_NAME: &str = "MANIFEST";
/// Name of the file while it is written.
pub(crate) const MANIFEST_UNREADY_NAME: &str = "MANIFEST.new";

/// The manifest's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) directory: [u8; 16],
    pub(crate) segment_bytes: u64,
}

/// Why a file is not a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManifestFault {
    Damaged,
    Newer(u8),
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MANIFEST_BYTES);
        out.put_bytes(&MAGIC);
        out.put_u8(MANIFEST_VERSION);
        out.put_zeroes(3);
        out.put_bytes(&self.directory);
        out.put_u64(self.segment_bytes);
        out.put_zeroes(28);
        let crc = crc32fast::hash(&out);
        out.put_u32(crc);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestFault> {
        let bytes: &[u8; MANIFEST_BYTES] = bytes.try_into().map_err(|_| ManifestFault::Damaged)?;
        let (body, crc) = bytes.split_at(MANIFEST_BYTES.saturating_sub(4));
        if !body.starts_with(&MAGIC) || Fields::new(crc).u32() != Ok(crc32fast::hash(body)) {
            return Err(ManifestFault::Damaged);
        }
        Self::fields(body).unwrap_or(Err(ManifestFault::Damaged))
    }

    fn fields(body: &[u8]) -> Result<Result<Self, ManifestFault>, Short> {
        let mut f = Fields::new(body);
        f.bytes(MAGIC.len())?;
        let version = f.u8()?;
        if version != MANIFEST_VERSION {
            return Ok(Err(ManifestFault::Newer(version)));
        }
        let zero = f.zeroes(3)?;
        let manifest = Self { directory: f.array()?, segment_bytes: f.u64()? };
        Ok(if zero && f.zeroes(28)? { Ok(manifest) } else { Err(ManifestFault::Damaged) })
    }
}

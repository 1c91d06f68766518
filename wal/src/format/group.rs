//! A write group: what one commit writes. A header of 128 bytes, the directory, the batches, padding to 4 KiB.
//!
//! | at | field | type | why |
//! |---|---|---|---|
//! | 0 | magic `TWGR` | 4 | |
//! | 4 | format version, 1 | u8 | |
//! | 5 | flags: 1 closing, 2 beacon, 4 compacted | u8 | |
//! | 6 | zero | u16 | |
//! | 8 | salt of the segment's activation | u64 | bytes of an earlier use of the file never pass as new; and a segment whose header is lost is rebuilt from its groups |
//! | 16 | segment number | u64 | a misdirected write is recognised |
//! | 24 | offset in the segment | u64 | as above |
//! | 32 | group number | u64 | dense over the whole log; a hole is seen |
//! | 40 | incarnation of the writer | u64 | two writers are seen |
//! | 48 | durable-through: last group known durable when this was built | u64 | the proof of durability |
//! | 56 | compacted by (segment number), else 0 | u64 | |
//! | 64 | total length with padding | u32 | where the next group is |
//! | 68 | length of the own directory | u32 | |
//! | 72 | length of the repeated directory | u32 | |
//! | 76 | length of the batches | u32 | |
//! | 80 | number of batches | u32 | |
//! | 84 | CRC-32 of both directories | u32 | |
//! | 88 | xxh3_64 over each batch's header CRC and payload CRC | u64 | binds just these batches to this group: they are not salted, since they are shipped |
//! | 96 | zero | 28 | |
//! | 124 | CRC-32 of the salt and bytes 0..124 | u32 | |
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::batch::crc_fields;
use super::layout::{Fields, PutFields, Short, is_zero, len_u32, round_up};
use super::record::{Record, RecordError, decode_records};
use crate::limits::{BLOCK_BYTES, GROUP_HEADER_BYTES, NUMBERS_MAX};

const MAGIC: [u8; 4] = *b"TWGR";
/// The version of the group format that this code writes.
pub(crate) const GROUP_VERSION: u8 = 1;

/// What is special about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct GroupFlags {
    /// The writer closed the log in good order behind this.
    pub(crate) closing: bool,
    /// Written when idle, only to carry the last proof of durability.
    pub(crate) beacon: bool,
    /// Copied here by compaction.
    pub(crate) compacted: bool,
}

impl GroupFlags {
    fn code(self) -> u8 {
        u8::from(self.closing) | (u8::from(self.beacon) << 1) | (u8::from(self.compacted) << 2)
    }

    const fn from_code(code: u8) -> Option<Self> {
        if code > 7 {
            return None;
        }
        Some(Self { closing: code & 1 != 0, beacon: code & 2 != 0, compacted: code & 4 != 0 })
    }
}

/// A group's header, as fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) flags: GroupFlags,
    pub(crate) salt: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) durable_through: u64,
    pub(crate) compacted_by: u64,
    pub(crate) total_len: u32,
    pub(crate) own_len: u32,
    pub(crate) repeated_len: u32,
    pub(crate) batches_len: u32,
    pub(crate) batch_count: u32,
    pub(crate) directory_crc: u32,
    pub(crate) batches_sum: u64,
}

/// What stands at a place where a group might.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderSeen {
    /// A group of this activation, at its own place.
    Valid(GroupHeader),
    /// A good header of this activation that belongs elsewhere.
    Misplaced,
    /// Zeroes, or a group of an earlier use of the file.
    BlankOrOld,
    /// Neither.
    Bad,
    /// A good header of a later format.
    Newer(u8),
}

/// Where a group must be to be valid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) salt: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl GroupHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(GROUP_HEADER_BYTES);
        out.put_bytes(&MAGIC);
        out.put_u8(GROUP_VERSION);
        out.put_u8(self.flags.code());
        out.put_u16(0);
        for field in [self.salt, self.segment, self.offset, self.number] {
            out.put_u64(field);
        }
        for field in [self.incarnation, self.durable_through, self.compacted_by] {
            out.put_u64(field);
        }
        for field in [self.total_len, self.own_len, self.repeated_len, self.batches_len, self.batch_count] {
            out.put_u32(field);
        }
        out.put_u32(self.directory_crc);
        out.put_u64(self.batches_sum);
        out.put_zeroes(GROUP_HEADER_BYTES.saturating_sub(4).saturating_sub(out.len()));
        let crc = salted_crc(self.salt, &out);
        out.put_u32(crc);
        out
    }

    /// Looks at 128 bytes without regard to where they were found.
    pub(crate) fn decode(bytes: &[u8]) -> HeaderSeen {
        let Some(bytes) = bytes.first_chunk::<GROUP_HEADER_BYTES>() else {
            return HeaderSeen::Bad;
        };
        if is_zero(bytes) {
            return HeaderSeen::BlankOrOld;
        }
        Self::fields(bytes).unwrap_or(HeaderSeen::Bad)
    }

    fn fields(bytes: &[u8; GROUP_HEADER_BYTES]) -> Result<HeaderSeen, Short> {
        let mut f = Fields::new(bytes);
        let (magic, version, flags, zero) = (f.array::<4>()?, f.u8()?, f.u8()?, f.u16()?);
        let (salt, segment, offset, number) = (f.u64()?, f.u64()?, f.u64()?, f.u64()?);
        let (incarnation, durable_through, compacted_by) = (f.u64()?, f.u64()?, f.u64()?);
        let (total_len, own_len, repeated_len, batches_len) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
        let (batch_count, directory_crc, batches_sum) = (f.u32()?, f.u32()?, f.u64()?);
        let zeroes = f.zeroes(28)?;
        let (body, _) = bytes.split_at(GROUP_HEADER_BYTES.saturating_sub(4));
        if magic != MAGIC || f.u32()? != salted_crc(salt, body) {
            return Ok(HeaderSeen::Bad);
        }
        if version != GROUP_VERSION {
            return Ok(HeaderSeen::Newer(version));
        }
        let Some(flags) = GroupFlags::from_code(flags).filter(|_| zero == 0 && zeroes) else {
            return Ok(HeaderSeen::Bad);
        };
        let header = Self {
            flags,
            salt,
            segment,
            offset,
            number,
            incarnation,
            durable_through,
            compacted_by,
            total_len,
            own_len,
            repeated_len,
            batches_len,
            batch_count,
            directory_crc,
            batches_sum,
        };
        Ok(if header.is_consistent() { HeaderSeen::Valid(header) } else { HeaderSeen::Bad })
    }

    fn is_consistent(&self) -> bool {
        let parts = [self.own_len, self.repeated_len, self.batches_len].map(u64::from);
        let content = parts.iter().sum::<u64>().saturating_add(HEADER_LEN);
        u64::from(self.total_len) == round_up(content, BLOCK_BYTES)
            && self.durable_through < self.number
            && self.number.max(self.incarnation) <= NUMBERS_MAX
    }

    /// Whether these 128 bytes are a group of this activation at this place.
    pub(crate) fn decode_at(bytes: &[u8], place: Place) -> HeaderSeen {
        match Self::decode(bytes) {
            HeaderSeen::Valid(header) if header.salt != place.salt => HeaderSeen::BlankOrOld,
            HeaderSeen::Valid(header) if header.segment != place.segment || header.offset != place.offset => {
                HeaderSeen::Misplaced
            }
            seen => seen,
        }
    }

    /// The directories: this group's own and the repeated one. `Err(Malformed)`: they don't match their checksum.
    pub(crate) fn directories(&self, group: &[u8]) -> Result<(Vec<Record>, Vec<Record>), RecordError> {
        let mut f = Fields::new(group);
        f.bytes(GROUP_HEADER_BYTES)?;
        let len = |n: u32| usize::try_from(n).map_err(|_| Short);
        let both = f.bytes(len(self.own_len.saturating_add(self.repeated_len))?)?;
        if crc32fast::hash(both) != self.directory_crc {
            return Err(RecordError::Malformed);
        }
        let (own, repeated) = both.split_at_checked(len(self.own_len)?).ok_or(Short)?;
        Ok((decode_records(own)?, decode_records(repeated)?))
    }
}

#[expect(clippy::as_conversions, reason = "a constant that fits: usize to u64 in const context")]
const HEADER_LEN: u64 = GROUP_HEADER_BYTES as u64;

fn salted_crc(salt: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// The checksum over batches' checksums.
#[derive(Default)]
pub(crate) struct BatchesSum(Xxh3);

impl BatchesSum {
    /// Takes the next batch by its bytes.
    pub(crate) fn add(&mut self, batch: &[u8]) {
        let (header, payload) = crc_fields(batch);
        self.0.update(&header.to_le_bytes());
        self.0.update(&payload.to_le_bytes());
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// Bytes from a group's start to its first batch.
pub(crate) fn front_len(own_len: usize, repeated_len: usize) -> usize {
    GROUP_HEADER_BYTES.saturating_add(own_len).saturating_add(repeated_len)
}

/// What a group's header says beyond what its content says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupIdentity {
    pub(crate) flags: GroupFlags,
    pub(crate) place: Place,
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) durable_through: u64,
}

/// Encodes a group as slices to be written one after another: header and directories, the batches as they are,
/// padding. The records' offsets must already be those of the batches.
pub(crate) fn encode_group(
    identity: &GroupIdentity,
    own: &[Record],
    repeated: &[u8],
    batches: &[Bytes],
) -> (GroupHeader, Vec<Bytes>) {
    let own_len = own.iter().map(Record::encoded_len).sum::<usize>();
    let mut directory = Vec::with_capacity(own_len.saturating_add(repeated.len()));
    for record in own {
        record.encode(&mut directory);
    }
    directory.put_bytes(repeated);
    let mut sum = BatchesSum::default();
    let mut batches_len = 0_usize;
    for batch in batches {
        sum.add(batch);
        batches_len = batches_len.saturating_add(batch.len());
    }
    let content = u64::from(len_u32(front_len(own_len, repeated.len()).saturating_add(batches_len)));
    let total = round_up(content, BLOCK_BYTES);
    let header = GroupHeader {
        flags: identity.flags,
        salt: identity.place.salt,
        segment: identity.place.segment,
        offset: identity.place.offset,
        number: identity.number,
        incarnation: identity.incarnation,
        durable_through: identity.durable_through,
        compacted_by: if identity.flags.compacted { identity.place.segment } else { 0 },
        total_len: u32::try_from(total).unwrap_or(u32::MAX),
        own_len: len_u32(own_len),
        repeated_len: len_u32(repeated.len()),
        batches_len: len_u32(batches_len),
        batch_count: len_u32(batches.len()),
        directory_crc: crc32fast::hash(&directory),
        batches_sum: sum.finish(),
    };
    let mut front = header.encode();
    front.put_bytes(&directory);
    let mut slices = Vec::with_capacity(batches.len().saturating_add(2));
    slices.push(Bytes::from(front));
    slices.extend_from_slice(batches);
    let padding = usize::try_from(total.saturating_sub(content)).unwrap_or(0);
    if padding > 0 {
        slices.push(crate::io::zeroes(padding));
    }
    (header, slices)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may index bytes that it made")]
mod tests {
    use super::*;

    const PLACE: Place = Place { salt: 99, segment: 3, offset: 8192 };

    fn group() -> Vec<u8> {
        let identity = GroupIdentity {
            flags: GroupFlags::default(),
            place: PLACE,
            number: 12,
            incarnation: 2,
            durable_through: 11,
        };
        encode_group(&identity, &[Record::Retirement { segment: 1 }], &[], &[]).1.concat()
    }

    #[test]
    fn a_group_is_whole_blocks_and_valid_only_at_its_place_with_its_salt() {
        let bytes = group();
        assert_eq!(bytes.len(), 4096);
        assert!(matches!(GroupHeader::decode_at(&bytes, PLACE), HeaderSeen::Valid(_)));
        let elsewhere = [Place { segment: 4, ..PLACE }, Place { offset: 4096, ..PLACE }];
        assert!(elsewhere.iter().all(|p| GroupHeader::decode_at(&bytes, *p) == HeaderSeen::Misplaced));
        assert_eq!(GroupHeader::decode_at(&bytes, Place { salt: 98, ..PLACE }), HeaderSeen::BlankOrOld);
        assert_eq!(GroupHeader::decode_at(&[0; 4096], PLACE), HeaderSeen::BlankOrOld);
    }

    #[test]
    fn any_bit_flip_of_the_header_is_seen() {
        let good = group();
        for bit in 0..GROUP_HEADER_BYTES * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode_at(&bad, PLACE), HeaderSeen::Bad, "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_rot() {
        let mut bytes = group();
        bytes[4] = 2;
        let crc = salted_crc(99, &bytes[..124]).to_le_bytes();
        bytes[124..128].copy_from_slice(&crc);
        assert_eq!(GroupHeader::decode_at(&bytes, PLACE), HeaderSeen::Newer(2));
    }
}

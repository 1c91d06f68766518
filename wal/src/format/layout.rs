//! Little-endian fields, one after another: the only place that turns numbers into bytes and back.
//!
//! [`Fields`] never indexes and never overflows: a short input is [`Short`], whatever the bytes say.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

/// The bytes ended before the field did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// Reads fields off the front of a slice.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Short)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Short> {
        self.array().map(u128::from_le_bytes)
    }

    /// Reads `len` bytes that have no meaning yet: anything but zero was written by somebody who knows more.
    pub(crate) fn zeroes(&mut self, len: usize) -> Result<bool, Short> {
        Ok(is_zero(self.bytes(len)?))
    }
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_le_bytes(*chunk) == 0) && rest.iter().all(|b| *b == 0)
}

/// Appends fields to a buffer.
pub(crate) trait PutFields {
    fn put_u8(&mut self, value: u8);
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_u128(&mut self, value: u128);
    fn put_bytes(&mut self, bytes: &[u8]);
    fn put_zeroes(&mut self, len: usize);
}

impl PutFields for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_zeroes(&mut self, len: usize) {
        self.resize(self.len().saturating_add(len), 0);
    }
}

/// A length of something that limits.rs bounds below 4 GiB.
pub(crate) fn len_u32(len: usize) -> u32 {
    debug_assert!(u32::try_from(len).is_ok(), "limits.rs bounds every length below 4 GiB, this is {len}");
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// `len` up to the next multiple of `unit`.
pub(crate) const fn round_up(len: u64, unit: u64) -> u64 {
    len.div_ceil(unit).saturating_mul(unit)
}

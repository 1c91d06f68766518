//! Little-endian fields, one after another: the only place that turns numbers into bytes and back.
//!
//! [`Fields`] never indexes and never overflows: a short input is [`Short`], whatever the bytes say.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use bytes::BytesMut;

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
    fn put_bytes(&mut self, bytes: &[u8]);
    fn put_zeroes(&mut self, len: usize);

    fn put_u8(&mut self, value: u8) {
        self.put_bytes(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put_bytes(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put_bytes(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put_bytes(&value.to_le_bytes());
    }

    fn put_u128(&mut self, value: u128) {
        self.put_bytes(&value.to_le_bytes());
    }
}

/// Fields of a known length in all, on the stack.
pub(crate) struct Front<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Front<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// What was put so far.
    pub(crate) fn so_far(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// All of it, of which nothing may be missing.
    pub(crate) fn whole(self) -> [u8; N] {
        debug_assert_eq!(self.len, N, "every field was put");
        self.bytes
    }
}

impl<const N: usize> PutFields for Front<N> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        } else {
            debug_assert!(false, "{} more bytes behind {} of {N}", bytes.len(), self.len);
        }
    }

    fn put_zeroes(&mut self, len: usize) {
        self.len = self.len.saturating_add(len).min(N);
    }
}

impl PutFields for Vec<u8> {
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_zeroes(&mut self, len: usize) {
        self.resize(self.len().saturating_add(len), 0);
    }
}

impl PutFields for BytesMut {
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

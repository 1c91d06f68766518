//! Memory in which callers encode their records, given back when the sequencer has copied them.

use bytes::BytesMut;
use crossbeam::queue::ArrayQueue;
use std::fmt;

/// Buffers that wait for their next use. Together they hold [`Buffers::BYTES_MAX`] at the most.
///
/// Otherwise each small write would be allocated on its caller's thread and freed on the shard's.
///
/// ```
/// use towline::pipeline::Buffers;
/// let buffers = Buffers::new();
/// let mut buffer = buffers.take();
/// buffer.extend_from_slice(b"a record");
/// buffers.give_back(buffer);
/// assert!(buffers.take().is_empty());
/// ```
pub struct Buffers {
    free: ArrayQueue<BytesMut>,
}

/// As many are kept, of at most so many bytes each.
const KEPT: usize = 1024;
const KEPT_BYTES: usize = 4096;

impl Buffers {
    /// Bytes of all that are kept.
    pub const BYTES_MAX: usize = KEPT * KEPT_BYTES;

    /// None are kept yet.
    #[must_use]
    pub fn new() -> Self {
        Self { free: ArrayQueue::new(KEPT) }
    }

    /// An empty buffer.
    #[must_use]
    pub fn take(&self) -> BytesMut {
        self.free.pop().unwrap_or_default()
    }

    /// It is needed no more.
    pub fn give_back(&self, mut buffer: BytesMut) {
        buffer.clear();
        if (1..=KEPT_BYTES).contains(&buffer.capacity()) {
            // One that has no room is freed.
            drop(self.free.push(buffer));
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers").field("free", &self.free.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_used_again_and_neither_large_ones_nor_too_many_are_kept() {
        let buffers = Buffers::new();
        buffers.give_back(BytesMut::with_capacity(KEPT_BYTES + 1));
        buffers.give_back(BytesMut::new());
        assert_eq!(buffers.take().capacity(), 0);
        for _ in 0..KEPT + 10 {
            let mut buffer = BytesMut::with_capacity(64);
            buffer.extend_from_slice(b"used");
            buffers.give_back(buffer);
        }
        assert_eq!(buffers.free.len(), KEPT);
        let buffer = buffers.take();
        assert!(buffer.is_empty() && buffer.capacity() >= 64);
    }
}

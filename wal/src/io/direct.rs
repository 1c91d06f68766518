//! Writes past the page cache: from memory aligned as devices read it by themselves. A group is copied once either way; the
//! page cache's copy is followed by its bookkeeping, which `fdatasync` then waits for page by page (docs/src/measurements.md).

use std::fs::File;

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::limits::BLOCK_BYTES;

/// What opens a file past the page cache, where there is such a thing.
#[cfg(target_os = "linux")]
pub(super) const DIRECT: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
pub(super) const DIRECT: OFlags = OFlags::empty();

/// Bytes written by one call at the most.
const STAGE_BYTES: usize = 1 << 20;

/// Alignment in memory, in the file and of lengths that every device in use is content with.
const ALIGNMENT: usize = 4096;

/// Memory from which devices can read. A clone has its own.
#[derive(Debug, Default)]
pub(super) struct Stage {
    bytes: Vec<u8>,
}

impl Clone for Stage {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Stage {
    /// Whether a write can go past the page cache.
    pub(super) fn suits(offset: u64, slices: &[Bytes]) -> bool {
        let len: usize = slices.iter().map(Bytes::len).sum();
        len > 0 && len.is_multiple_of(ALIGNMENT) && offset.is_multiple_of(BLOCK_BYTES)
    }

    /// Room for `len` bytes, aligned.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let wanted = len + ALIGNMENT;
        if self.bytes.len() < wanted {
            self.bytes = vec![0; wanted.next_power_of_two().min(STAGE_BYTES + ALIGNMENT)];
        }
        let start = self.bytes.as_ptr().align_offset(ALIGNMENT);
        self.bytes.get_mut(start..start.saturating_add(len)).unwrap_or_default()
    }

    /// Writes the slices one behind another to a file that was opened with [`DIRECT`], of which they [suit](Self::suits) the
    /// demands.
    pub(super) fn write(&mut self, file: &File, offset: u64, slices: &[Bytes]) -> Result<(), rustix::io::Errno> {
        let mut left: usize = slices.iter().map(Bytes::len).sum();
        let mut source = slices.iter().flat_map(|slice| slice.chunks(ALIGNMENT));
        let mut from: &[u8] = &[];
        let mut at = offset;
        while left > 0 {
            let room = self.room(left.min(STAGE_BYTES));
            let mut filled = 0;
            while filled < room.len() {
                if from.is_empty() {
                    from = source.next().unwrap_or_default();
                }
                let n = from.len().min(room.len() - filled);
                let (now, later) = from.split_at(n);
                room.get_mut(filled..filled + n).unwrap_or_default().copy_from_slice(now);
                (filled, from) = (filled + n, later);
            }
            let mut done = 0;
            while let Some(rest) = room.get(done..).filter(|rest| !rest.is_empty()) {
                let to = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
                match rustix::io::pwrite(file, rest, to) {
                    Ok(0) => return Err(rustix::io::Errno::IO),
                    Ok(written) => done += written,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            left -= done;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn slices_of_any_length_arrive_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * STAGE_BYTES + ALIGNMENT).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let cuts = [0, 1, 4095, 4096, 5000, 70_000, STAGE_BYTES + 7, bytes.len()];
        let slices: Vec<Bytes> = cuts.windows(2).map(|w| Bytes::copy_from_slice(&bytes[w[0]..w[1]])).collect();
        assert!(Stage::suits(0, &slices) && !Stage::suits(512, &slices) && !Stage::suits(0, &slices[..2]));
        Stage::default().write(&file, 0, &slices).unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == bytes);
    }

    #[test]
    fn memory_is_aligned_whatever_was_asked_for_before() {
        let mut stage = Stage::default();
        for len in [4096, 8192, STAGE_BYTES, 4096] {
            let room = stage.room(len);
            assert_eq!((room.len(), room.as_ptr().align_offset(ALIGNMENT)), (len, 0));
        }
    }
}

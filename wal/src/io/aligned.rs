//! Memory aligned as devices read and write it by themselves.

/// Alignment in memory, in the file and of lengths that every device in use is content with.
pub(crate) const ALIGNMENT: usize = 4096;

/// Memory that is kept from one use to the next: new memory is slow, since the system fills it with zeroes page by page.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// The first `len` bytes of it, which hold what they held before, or zeroes.
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        let wanted = len.saturating_add(ALIGNMENT);
        if self.bytes.len() < wanted {
            // Twice what it was: who asks for a little more each time is not given new memory each time.
            self.bytes = vec![0; wanted.max(self.bytes.len().saturating_mul(2))];
            self.start = self.bytes.as_ptr().align_offset(ALIGNMENT);
        }
        self.len = len;
        self.bytes.get_mut(self.start..self.start.saturating_add(len)).unwrap_or_default()
    }
}

/// What was last asked for.
impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.start..self.start.saturating_add(self.len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_whatever_was_asked_for_before() {
        let mut memory = Aligned::default();
        for len in [4096, 8192, 512 << 10, 1 << 20, 0, 4096, 5000, 2 << 20] {
            let room = memory.room(len);
            assert_eq!((room.len(), room.as_ptr().align_offset(ALIGNMENT)), (len, 0));
            room.fill(7);
            assert!(memory.as_ref().len() == len && memory.as_ref().iter().all(|byte| *byte == 7));
        }
    }
}

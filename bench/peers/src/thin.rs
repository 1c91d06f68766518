//! A directory in memory that forgets the batches of full segments: for logs that no disk here has the room for. What an
//! open reads is kept: headers, the first block of each group, and footers.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use towline_wal::io::{Io, IoFailure, LockOutcome};

const BLOCK_BYTES: usize = 4096;

/// One file: its written blocks, by their numbers. The others hold zeroes.
#[derive(Debug, Default)]
struct Thin {
    len: u64,
    blocks: BTreeMap<u64, Bytes>,
    /// Blocks with which a write began.
    firsts: Vec<u64>,
}

/// The directory.
#[derive(Debug, Default)]
pub(crate) struct ThinDisk {
    files: BTreeMap<String, Thin>,
    entropy: u64,
}

fn block_of(at: u64) -> u64 {
    at / BLOCK_BYTES as u64
}

impl ThinDisk {
    fn file(&mut self, operation: &'static str, name: &str) -> Result<&mut Thin, IoFailure> {
        self.files.get_mut(name).ok_or_else(|| IoFailure::new(ErrorKind::NotFound, operation, name))
    }

    /// Forgets what lies before this byte, but for blocks with which a write began, and the first two: a segment's header and
    /// its first group are written as one.
    pub(crate) fn forget_batches(&mut self, name: &str, end: u64) {
        if let Some(file) = self.files.get_mut(name) {
            let firsts = std::mem::take(&mut file.firsts);
            let end = block_of(end);
            file.blocks.retain(|block, _| *block < 2 || *block >= end || firsts.binary_search(block).is_ok());
            // What is left shares the memory of whole groups otherwise.
            file.blocks.values_mut().for_each(|bytes| *bytes = Bytes::copy_from_slice(bytes));
        }
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.blocks.len() as u64 * BLOCK_BYTES as u64).sum()
    }
}

impl Io for ThinDisk {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        Ok(LockOutcome::Acquired)
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        Ok(self.files.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.files.insert(name.to_owned(), Thin::default());
        Ok(())
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        Ok(self.file("look at", name)?.len)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let file = self.file("read", name)?;
        let there = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..there).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let skip = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
            let count = rest.len().min(BLOCK_BYTES - skip);
            let Some(into) = rest.get_mut(..count) else { break };
            match file.blocks.get(&block_of(at)).and_then(|block| block.get(skip..skip + count)) {
                Some(bytes) => into.copy_from_slice(bytes),
                None => into.fill(0),
            }
            done += count;
        }
        Ok(there)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        let file = self.file("write", name)?;
        let first = block_of(offset);
        let skip = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or(0);
        let mut bytes = vec![0; skip];
        if let Some(before) = file.blocks.get(&first) {
            bytes.copy_from_slice(before.get(..skip).unwrap_or_default());
        }
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        let end = offset - skip as u64 + bytes.len() as u64;
        let in_last = bytes.len() % BLOCK_BYTES;
        if in_last > 0 {
            let behind = file.blocks.get(&block_of(end)).and_then(|block| block.get(in_last..));
            match behind {
                Some(behind) => bytes.extend_from_slice(behind),
                None => bytes.resize(bytes.len() + BLOCK_BYTES - in_last, 0),
            }
        }
        let bytes = Bytes::from(bytes);
        for at in (0..bytes.len()).step_by(BLOCK_BYTES) {
            file.blocks.insert(first + block_of(at as u64), bytes.slice(at..at + BLOCK_BYTES));
        }
        file.firsts.push(first);
        file.len = file.len.max(end);
        Ok(())
    }

    fn write_zeroes(&mut self, name: &str, len: u64) -> Result<(), IoFailure> {
        let file = self.file("write", name)?;
        file.blocks.retain(|block, _| *block >= block_of(len));
        file.len = file.len.max(len);
        Ok(())
    }

    fn sync_data(&mut self, _name: &str) -> Result<(), IoFailure> {
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        let missing = || IoFailure::new(ErrorKind::NotFound, "rename", from);
        let file = self.files.remove(from).ok_or_else(missing)?;
        self.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.files.remove(name).map(drop).ok_or_else(|| IoFailure::new(ErrorKind::NotFound, "remove", name))
    }

    fn settle(&mut self, _name: &str) -> Result<(), IoFailure> {
        Ok(())
    }

    fn entropy(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.entropy
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }
}

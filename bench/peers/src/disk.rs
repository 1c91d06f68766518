//! Files on the bare disk: filled with zeroes, past the page cache, read cold; and bytes to put into them.

use anyhow::{Context as _, Result};
use rustix::fs::{Advice, Mode, OFlags, fadvise};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What past the page cache must be aligned to: a page.
pub(crate) const ALIGNMENT: usize = 4096;

/// Bytes of noise that payloads are cut from.
const POOL_BYTES: usize = 4 << 20;

/// A file of real zeroes, durable.
pub(crate) fn filled(path: &Path, bytes: u64) -> Result<File> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeroes = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(zeroes.len());
        file.write_all(zeroes.get(..chunk).unwrap_or_default())?;
        left -= chunk as u64;
    }
    file.sync_all()?;
    Ok(file)
}

/// An existing file, past the page cache.
pub(crate) fn direct(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT;
    let file = rustix::fs::open(path, flags, Mode::empty()).context("opening a file past the page cache")?;
    Ok(File::from(file))
}

/// Waits until what was written so far, by anybody on this file system, is on the disk.
pub(crate) fn settle(directory: &Path) -> Result<()> {
    rustix::fs::syncfs(File::open(directory)?)?;
    Ok(())
}

/// Takes the files of a directory out of the page cache, and says how many bytes they have.
pub(crate) fn chill(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let file = match File::open(entry?.path()) {
            // A log that was closed a moment ago takes its temporary files away.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        bytes += file.metadata()?.len();
    }
    Ok(bytes)
}

/// Reads whole files one after the other in steps of `buffer`'s length, past the page cache if asked.
pub(crate) fn read_through<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
    is_direct: bool,
    buffer: &mut [u8],
) -> Result<u64> {
    let mut bytes = 0;
    for path in paths {
        let file = if is_direct { direct(path)? } else { File::open(path)? };
        let mut at = 0;
        loop {
            let read = file.read_at(buffer, at)?;
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        bytes += at;
    }
    Ok(bytes)
}

/// Bytes that start on a page, as reads and writes past the page cache need them.
#[derive(Debug)]
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    /// So many bytes of noise.
    pub(crate) fn noise(len: usize) -> Self {
        let mut bytes = noise(len + ALIGNMENT);
        let from = bytes.as_ptr().align_offset(ALIGNMENT);
        bytes.truncate(from + len);
        Self { bytes, from, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..self.from + self.len).unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.from..self.from + self.len).unwrap_or_default()
    }
}

/// Bytes that don't compress, the same in every run.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Noise that payloads are cut from, each at another place, so that no two are alike.
#[derive(Debug, Clone)]
pub(crate) struct Pool(bytes::Bytes);

impl Pool {
    pub(crate) fn new() -> Self {
        Self(noise(POOL_BYTES).into())
    }

    /// The `number`th payload of so many bytes; it shares the pool's memory.
    pub(crate) fn payload(&self, number: u64, bytes: usize) -> bytes::Bytes {
        let places = (self.0.len() - bytes).max(1) as u64;
        let at = usize::try_from(number.wrapping_mul(7919) % places).unwrap_or(0);
        self.0.slice(at..at + bytes)
    }
}

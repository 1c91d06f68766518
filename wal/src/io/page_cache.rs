//! What the machine's page cache is asked for. All of it is advice: where there is no way to give it, nothing is done.

use std::fs::File;
use std::ops::Range;

#[cfg(target_os = "linux")]
use crate::limits::BLOCK_BYTES;

/// Bytes asked for by one call: Linux takes advice to read ahead for a megabyte or so only, and does not tell.
#[cfg(target_os = "linux")]
const STEP_BYTES: u64 = 256 << 10;

/// Drops clean pages, so that the next read is from the medium. A file system in memory has none to differ from.
#[cfg(target_os = "linux")]
pub(super) fn forget(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap_or_default();
}

/// The same of a range of whole blocks.
#[cfg(target_os = "linux")]
pub(super) fn forget_range(file: &File, range: Range<u64>) {
    let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
    let len = range.end.next_multiple_of(BLOCK_BYTES).saturating_sub(start);
    if let Some(len) = std::num::NonZeroU64::new(len) {
        rustix::fs::fadvise(file, start, Some(len), rustix::fs::Advice::DontNeed).unwrap_or_default();
    }
}

/// Has the device begin to read a range; many requests at a time, which a reader that waits for each would not make.
#[cfg(target_os = "linux")]
pub(super) fn read_ahead(file: &File, range: Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let len = STEP_BYTES.min(range.end - at);
        rustix::fs::fadvise(file, at, std::num::NonZeroU64::new(len), rustix::fs::Advice::WillNeed).unwrap_or_default();
        at += len;
    }
}

/// Whether one block of a range is in the page cache, another one for each `probe`. A block that is not may come to be by being
/// asked for, so that the same one must not be asked for again: it would answer for all the others.
#[cfg(target_os = "linux")]
pub(super) fn seems_to_hold(file: &File, range: &Range<u64>, probe: u64) -> bool {
    let blocks = range.end.saturating_sub(range.start) / BLOCK_BYTES;
    // An odd step of about the golden ratio comes to all of them, far apart.
    let Some(block) = probe.wrapping_mul(0x9E37_79B9).checked_rem(blocks) else { return true };
    let (mut byte, at) = ([0], range.start.saturating_add(block.saturating_mul(BLOCK_BYTES)));
    let mut memory = [std::io::IoSliceMut::new(&mut byte)];
    rustix::io::preadv2(file, &mut memory, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) const fn seems_to_hold(_file: &File, _range: &Range<u64>, _probe: u64) -> bool {
    true
}

#[cfg(not(target_os = "linux"))]
pub(super) const fn forget(_file: &File) {}

#[cfg(not(target_os = "linux"))]
pub(super) const fn forget_range(_file: &File, _range: Range<u64>) {}

#[cfg(not(target_os = "linux"))]
pub(super) const fn read_ahead(_file: &File, _range: Range<u64>) {}

//! What the machine's page cache is asked for. All of it is advice: where there is no way to give it, nothing is done.

use std::fs::File;
use std::ops::Range;

/// Bytes asked for by one call: Linux takes advice to read ahead for a megabyte or so only, and does not tell.
#[cfg(target_os = "linux")]
const STEP_BYTES: u64 = 256 << 10;

/// Drops clean pages, so that the next read is from the medium. A file system in memory has none to differ from.
#[cfg(target_os = "linux")]
pub(super) fn forget(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap_or_default();
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

#[cfg(not(target_os = "linux"))]
pub(super) const fn forget(_file: &File) {}

#[cfg(not(target_os = "linux"))]
pub(super) const fn read_ahead(_file: &File, _range: Range<u64>) {}

//! Names that nothing vouches for yet.
//!
//! Where the sync of a directory fails, the next one may succeed and make nothing of what the first one was for durable (D7:
//! what failed is clean in the cache). So who gives a file its name marks the name before, by an empty file beside it, and
//! takes the mark away once a sync has vouched for the name, in the same process. A process that ends in between leaves the
//! mark, and the next life makes the name anew, by a change that its own sync is for.
//!
//! A sync is for the names of every thread that has the directory: behind one that failed none vouches for anything as long as
//! the log is open ([`DirectorySyncs`]), or the thread whose sync succeeded would take its mark away for a change that the failed one
//! was for.
//!
//! A mark is never synced itself: it is needed as long as the system's cache shows the name, and is there as long. What is
//! found after a power cut is on the medium.

use super::{FILL_BYTES, Io, IoFailure, segment_name, segment_number, unready_name};
use crate::format::manifest::{MANIFEST_NAME, MANIFEST_UNREADY_NAME};
use bytes::Bytes;

const SUFFIX: &str = ".unsynced";

/// The stem of a name, and what its file is called while it is made.
fn stem(name: &str) -> Option<(&str, String)> {
    if name == MANIFEST_NAME {
        return Some((name, MANIFEST_UNREADY_NAME.to_owned()));
    }
    segment_number(name).map(|number| (name.strip_suffix(".seg").unwrap_or(name), unready_name(number)))
}

fn mark_of(name: &str) -> String {
    format!("{}{SUFFIX}", stem(name).map_or(name, |(stem, _)| stem))
}

/// The name that a mark is of.
pub(crate) fn marked(mark: &str) -> Option<String> {
    let stem = mark.strip_suffix(SUFFIX)?;
    if stem == MANIFEST_NAME {
        return Some(stem.to_owned());
    }
    segment_number(&format!("{stem}.seg")).map(segment_name)
}

/// Whether nothing vouches for a name yet.
pub(crate) fn is_marked(io: &mut dyn Io, name: &str) -> bool {
    io.len(&mark_of(name)).is_ok()
}

/// Marks a name that a file is about to get, until [`vouch`].
///
/// # Errors
/// A full disk may have no room for the mark.
pub(crate) fn mark(io: &mut dyn Io, name: &str) -> Result<(), IoFailure> {
    io.create(&mark_of(name))
}

/// Marks a name, and gives it to a file.
///
/// # Errors
/// As for [`mark`]; or the file is gone.
pub(crate) fn name(io: &mut dyn Io, from: &str, to: &str) -> Result<(), IoFailure> {
    mark(io, to)?;
    io.rename(from, to)
}

/// A sync of the directory vouches for the name. One whose mark can't be taken away is made anew by the next life.
pub(crate) fn vouch(io: &mut dyn Io, name: &str) {
    drop(io.remove(&mark_of(name)));
}

/// Gives what a name stands for to a new file, synced, and the name to that: it may replace what comes back without it.
///
/// # Errors
/// As for each step, or there is no room for it twice. The name stands for the same bytes all the same.
pub(crate) fn make_anew(io: &mut dyn Io, name: &str) -> Result<(), IoFailure> {
    let Some((_, unready)) = stem(name) else { return Ok(()) };
    let copied = copy(io, name, &unready);
    if copied.is_err() {
        // Gives back what was taken of a full disk.
        drop(io.remove(&unready));
    }
    copied
}

fn copy(io: &mut dyn Io, name: &str, to: &str) -> Result<(), IoFailure> {
    let bytes = io.len(name)?;
    // The last of the room is not taken from others just to be given back.
    if io.free_bytes().ok().flatten().is_some_and(|free| free < bytes) {
        return Err(IoFailure::new(std::io::ErrorKind::StorageFull, "copy", name));
    }
    // What is copied was acknowledged: the medium's word is taken, not a cache's.
    io.settle(name)?;
    io.create(to)?;
    let (mut at, mut piece) = (0, vec![0; FILL_BYTES]);
    loop {
        let read = io.read_at(name, at, &mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        io.write_at(to, at, &[Bytes::copy_from_slice(bytes)])?;
        at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    // DURABLE: the bytes before the name (attacked by `a_name_whose_sync_failed_is_made_anew_by_the_next_life`).
    io.sync_data(to)?;
    io.rename(to, name)
}

/// The syncs of a directory, one at a time, by all who share it while the log is open. Behind one that failed none succeeds.
#[derive(Debug, Clone, Default)]
pub(crate) struct DirectorySyncs {
    failed: Option<IoFailure>,
}

impl DirectorySyncs {
    /// # Errors
    /// As for `sync`; or as the first that failed, and then it is not tried.
    pub(crate) fn run(&mut self, sync: impl FnOnce() -> Result<(), IoFailure>) -> Result<(), IoFailure> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let synced = sync();
        self.failed = synced.as_ref().err().cloned();
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_sync_that_failed_none_is_tried() {
        let mut syncs = DirectorySyncs::default();
        syncs.run(|| Ok(())).unwrap();
        let failure = IoFailure::new(std::io::ErrorKind::Other, "sync", ".");
        assert_eq!(syncs.run(|| Err(failure.clone())), Err(failure.clone()));
        assert_eq!(syncs.run(|| unreachable!("it would succeed, and prove nothing")), Err(failure));
    }

    #[test]
    fn a_mark_says_whose_it_is() {
        for name in [MANIFEST_NAME.to_owned(), segment_name(7), segment_name(u64::MAX >> 16)] {
            assert_eq!(marked(&mark_of(&name)), Some(name));
        }
        for other in ["7.unsynced", "LOCK.unsynced", "0000000000000007.seg", "0000000000000000.unsynced", ".unsynced"] {
            assert_eq!(marked(other), None, "{other}");
        }
    }
}

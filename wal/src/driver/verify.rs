//! Reading everything again, while the log works: rot is best found while other copies are good.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::Wal;
use super::paced::PacedIo;
use crate::core::Extent;
use crate::error::{ReadError, WalError};
use crate::format::ids::{LogId, Lsn};
use crate::io::{Io, segment_name};
use crate::recovery::report::DamagedRange;

/// What a verification has read so far.
///
/// ```
/// use std::ops::ControlFlow;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// wal.append(batch(b"one")).unwrap();
/// wal.append(batch(b"two")).unwrap();
/// let verified = wal.verify(1 << 30, |so_far| {
///     println!("{} bytes", so_far.bytes);
///     ControlFlow::Continue(())
/// });
/// let verified = verified.unwrap();
/// assert_eq!((verified.batches, verified.damaged.len()), (2, 0));
/// # wal.close().unwrap();
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Batches that are as they were written.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What can't be read, or is not what was written, in no order: also what the device refuses to read now.
    pub damaged: Vec<DamagedRange>,
}

/// Bytes of batches between two looks at the log.
const STEP_BYTES: usize = 1 << 20;

impl Wal {
    /// Reads every batch of every log from its file, checks it against its checksums, its chain and the index, and says
    /// what is damaged. Writers and readers go on; it reads at most `bytes_per_second`. After each MiB or so `progress` is
    /// told, and can end it.
    ///
    /// It repairs nothing: a damaged range is fetched from another copy, or cut off, by the log's owner.
    ///
    /// # Errors
    /// [`WalError::Closed`]: the log was closed before the end. [`WalError::Unread`]: the process has no descriptors left, or
    /// the system no memory; that is no damage.
    pub fn verify(
        &self,
        bytes_per_second: u64,
        mut progress: impl FnMut(&Verified) -> ControlFlow<()>,
    ) -> Result<Verified, WalError> {
        let mut io = PacedIo::new(self.io.clone(), bytes_per_second, Arc::clone(&self.stopping));
        let mut verified = Verified::default();
        let logs = self.state().core.logs();
        for log in logs {
            let mut next = self.state().core.start(log).lsn.next();
            while let Some(read) = self.verify_step(&mut io, log, (next, Lsn::MAX), &mut verified)? {
                if self.state().stopping {
                    return Err(WalError::Closed);
                }
                next = read;
                if progress(&verified).is_break() {
                    return Ok(verified);
                }
            }
        }
        Ok(verified)
    }

    /// As [`Wal::verify`], a part of one log: about a MiB of batches, at least one, from the one that holds `from` on and
    /// up to the one that holds `to`, or to the first that is damaged. What it found, and where to go on; `None`: there is no
    /// more. How fast is for the caller to say, who may stop in between, and hears of damage as soon as it is found. What of
    /// it [`Wal::damaged`] does not tell can't be put again ([`Entry::Mend`](crate::Entry::Mend)) in this life: the device
    /// refuses to read what would say which batches it holds.
    ///
    /// ```
    /// use towline_wal::Lsn;
    /// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
    /// # use set_up::*;
    /// # let (log, (dir, wal)) = (LOG, opened());
    /// # wal.append(next(&wal, b"one")).unwrap();
    /// # wal.append(next(&wal, b"two")).unwrap();
    /// // What is appended meanwhile has its turn the next time: a log that grows has no end.
    /// let (mut next, end, mut batches) = (Some(Lsn::FIRST), wal.end(log).lsn, 0);
    /// while let Some(from) = next {
    ///     let (verified, behind) = wal.verify_part(log, from, end).unwrap();
    ///     assert!(verified.damaged.is_empty());
    ///     (next, batches) = (behind, batches + verified.batches);
    /// }
    /// assert_eq!(batches, 2);
    /// # wal.close().unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Wal::verify`].
    pub fn verify_part(&self, log: LogId, from: Lsn, to: Lsn) -> Result<(Verified, Option<Lsn>), WalError> {
        let mut verified = Verified::default();
        let next = self.verify_step(&mut self.io.clone(), log, (from, to), &mut verified)?;
        if self.state().stopping {
            return Err(WalError::Closed);
        }
        Ok((verified, next.filter(|next| *next <= to)))
    }

    /// Reads some batches, none that begins behind `to`; where to go on, or `None` at the end.
    pub(super) fn verify_step(
        &self,
        io: &mut dyn Io,
        log: LogId,
        (from, to): (Lsn, Lsn),
        verified: &mut Verified,
    ) -> Result<Option<Lsn>, WalError> {
        let mut state = self.loaded(log, from);
        let plan = match state.core.plan_noting(log, from, STEP_BYTES) {
            Ok(plan) => plan,
            Err(ReadError::Released { start, .. }) => return Ok(Some(start.next())),
            Err(ReadError::Corrupt { log, first, last, file, offset }) => {
                verified.damaged.push(DamagedRange { log, first, last, file, offset });
                return Ok(after(last, from));
            }
            Err(ReadError::Io(failure)) if failure.is_refusal() => return Err(WalError::Unread(failure)),
            Err(ReadError::Io(_) | ReadError::NotLoaded { .. }) => {
                // The rest of the log can be read all the same. It is not noted: a device that comes back has all of it.
                let Some(unknown) = state.core.unknown_at(log, from) else { return Ok(None) };
                verified.damaged.push(unknown.of(log));
                return Ok(after(unknown.last, from));
            }
        };
        drop(state);
        let plan: Vec<_> = plan.into_iter().take_while(|extent| extent.first <= to).collect();
        let places: Vec<_> = plan.chunk_by(|one, next| one.segment == next.segment).filter_map(place).collect();
        let forget = |io: &mut dyn Io| places.iter().cloned().for_each(|(name, range)| io.forget_cached(&name, range));
        // What a cache holds may be good, and the medium not: then it is lost with the power. Nor is what is read here of use to
        // the cache.
        forget(io);
        let next = self.verify_extents(io, &plan, from, verified);
        forget(io);
        next
    }

    /// Up to the first that is damaged: a disk that dies takes its time for each, and whoever reads may have to end.
    fn verify_extents(
        &self,
        io: &mut dyn Io,
        plan: &[Extent],
        from: Lsn,
        verified: &mut Verified,
    ) -> Result<Option<Lsn>, WalError> {
        let mut next = None;
        for extent in plan {
            let mut read = extent.attempt(io).map_err(WalError::Unread)?;
            if read.is_none() {
                // What flipped on its way into a cache is not on the medium (D17).
                place(&[*extent]).into_iter().for_each(|(name, range)| io.forget_cached(&name, range));
                read = extent.attempt(io).map_err(WalError::Unread)?;
            }
            if read.is_none() && !self.is_still(extent) {
                // Released, cut off or moved while it was read: it is looked for again.
                return Ok(Some(next.unwrap_or(from)));
            }
            next = after(extent.last, from);
            if read.is_none() {
                self.state().core.note_damaged(extent);
                verified.damaged.push(extent.damaged().of(extent.log));
                return Ok(next);
            }
            verified.batches += 1;
            verified.bytes += u64::from(extent.len);
        }
        Ok(next)
    }

    /// Whether the batch is where it was.
    fn is_still(&self, extent: &Extent) -> bool {
        let state = self.loaded(extent.log, extent.first);
        !state.stopping
            && state
                .core
                .plan_read(extent.log, extent.first, 1)
                .is_ok_and(|plan| plan.first().is_some_and(|first| first.is_same(extent)))
    }
}

/// The file of extents that are all in one segment, and where in it they lie.
fn place(extents: &[Extent]) -> Option<(String, Range<u64>)> {
    let start = extents.iter().map(|extent| extent.offset).min()?;
    let end = extents.iter().map(|extent| extent.offset.saturating_add(u64::from(extent.len))).max()?;
    Some((segment_name(extents.first()?.segment), start..end))
}

/// The LSN behind what was looked at; `None`: there is none, as behind damage to an unknown end.
fn after(last: Lsn, from: Lsn) -> Option<Lsn> {
    Some(last.next()).filter(|next| *next > from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Options;
    use crate::format::batch::{BatchBuilder, BatchKind};
    use crate::format::ids::Epoch;

    /// Whether the first block of a segment is in the page cache.
    #[cfg(target_os = "linux")]
    fn is_cached(file: &std::fs::File) -> bool {
        let mut byte = [0];
        let mut memory = [std::io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(file, &mut memory, 1 << 20, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
    }

    /// Otherwise a log that fits the memory would be scrubbed there, and never on its disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_verification_reads_what_is_on_the_medium_and_leaves_nothing_in_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 16 << 20, tail_cache_bytes: 0, ..Options::default() };
        let (wal, _) = Wal::open(dir.path(), options).unwrap();
        let log = LogId::new(1);
        for _ in 0..8 {
            let record = vec![7; 500_000];
            let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), wal.end(log), 0);
            wal.append(batch.seal_raw(&record, 1).unwrap()).unwrap();
        }
        let name = segment_name(1);
        let file = std::fs::File::open(dir.path().join(&name)).unwrap();
        let read = || drop(wal.read(log, Lsn::FIRST, usize::MAX).unwrap());
        file.sync_all().unwrap();
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 1 << 20).unwrap();
        assert!(is_cached(&file));
        wal.io.clone().forget_cached(&name, 0..16 << 20);
        if is_cached(&file) {
            return; // A file system in memory.
        }
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 1 << 20).unwrap();
        read();
        assert!(is_cached(&file));
        let verified = wal.verify(u64::MAX, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(verified.batches, 8);
        assert!(!is_cached(&file));
        wal.close().unwrap();
    }

    #[test]
    fn a_verification_ends_behind_damage_to_an_unknown_end() {
        assert_eq!(after(Lsn::MAX, Lsn::MAX), None);
        assert_eq!(after(Lsn::FIRST, Lsn::FIRST), Some(Lsn::new(2)));
    }
}

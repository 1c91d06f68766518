//! Reading everything again, while the log works: rot is best found while other copies are good.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Wal;
use super::paced::PacedIo;
use crate::core::Extent;
use crate::error::{ReadError, WalError};
use crate::format::ids::{LogId, Lsn};
use crate::io::Io;
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
            while let Some(read) = self.verify_step(&mut io, log, next, &mut verified)? {
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

    /// Reads some batches; where to go on, or `None` at the end.
    pub(super) fn verify_step(
        &self,
        io: &mut dyn Io,
        log: LogId,
        from: Lsn,
        verified: &mut Verified,
    ) -> Result<Option<Lsn>, WalError> {
        let state = self.loaded(log, from);
        let plan = match state.core.plan_read(log, from, STEP_BYTES) {
            Ok(plan) => plan,
            Err(ReadError::Released { start, .. }) => return Ok(Some(start.next())),
            Err(ReadError::Corrupt { log, first, last, file, offset }) => {
                verified.damaged.push(DamagedRange { log, first, last, file, offset });
                return Ok(after(last, from));
            }
            Err(ReadError::Io(failure)) if failure.is_refusal() => return Err(WalError::Unread(failure)),
            Err(ReadError::Io(_) | ReadError::NotLoaded { .. }) => {
                // The rest of the log can be read all the same.
                let Some(unknown) = state.core.unknown_at(log, from) else { return Ok(None) };
                verified.damaged.push(unknown.of(log));
                return Ok(after(unknown.last, from));
            }
        };
        drop(state);
        let mut next = None;
        for extent in plan {
            match extent.read(io) {
                Ok(_) => {
                    verified.batches += 1;
                    verified.bytes += u64::from(extent.len);
                }
                Err(ReadError::Io(failure)) => return Err(WalError::Unread(failure)),
                Err(_) if self.is_still(&extent) => {
                    self.state().core.note_damaged(&extent);
                    verified.damaged.push(extent.damaged().of(extent.log));
                }
                // Released, cut off or moved while it was read: it is looked for again.
                Err(_) => return Ok(Some(next.unwrap_or(from))),
            }
            next = after(extent.last, from);
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

/// The LSN behind what was looked at; `None`: there is none, as behind damage to an unknown end.
fn after(last: Lsn, from: Lsn) -> Option<Lsn> {
    Some(last.next()).filter(|next| *next > from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_ends_behind_damage_to_an_unknown_end() {
        assert_eq!(after(Lsn::MAX, Lsn::MAX), None);
        assert_eq!(after(Lsn::FIRST, Lsn::FIRST), Some(Lsn::new(2)));
    }
}

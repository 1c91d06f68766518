//! Reading everything again, while the log works: rot is best found while other copies are good.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Wal;
use super::paced::PacedIo;
use crate::core::Extent;
use crate::error::{ReadError, WalError};
use crate::format::ids::{LogId, Lsn};
use crate::recovery::report::DamagedRange;

/// What a verification has read so far.
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
    /// [`WalError::Closed`]: the log was closed before the end.
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
            while let Some(read) = self.verify_step(&mut io, log, next, &mut verified) {
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
    fn verify_step(&self, io: &mut PacedIo, log: LogId, from: Lsn, verified: &mut Verified) -> Option<Lsn> {
        let state = self.loaded(log, from);
        let plan = match state.core.plan_read(log, from, STEP_BYTES) {
            Ok(plan) => plan,
            Err(ReadError::Released { start, .. }) => return Some(start.next()),
            Err(ReadError::Corrupt { log, first, last, file, offset }) => {
                verified.damaged.push(DamagedRange { log, first, last, file, offset });
                return Some(last.next());
            }
            Err(ReadError::Io(_) | ReadError::NotLoaded { .. }) => {
                // The rest of the log can be read all the same.
                let unknown = state.core.unknown_at(log, from)?;
                verified.damaged.push(unknown.of(log));
                return Some(unknown.last.next());
            }
        };
        drop(state);
        let mut next = None;
        for extent in plan {
            if extent.read(io).is_ok() {
                verified.batches += 1;
                verified.bytes += u64::from(extent.len);
            } else if self.is_still(&extent) {
                verified.damaged.push(extent.damaged().of(extent.log));
            } else {
                // Released, cut off or moved while it was read: it is looked for again.
                return Some(next.unwrap_or(from));
            }
            next = Some(extent.last.next());
        }
        next
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

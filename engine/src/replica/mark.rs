//! What the log says of an installation that is under way, and what becomes of it when a node opens.
//!
//! State and log are two things on a disk, and change one after the other. The order: the mark, durable; then the state, at
//! once and durable; then, in one submission, the log is reset behind the snapshot and the mark is taken back. So a
//! crash leaves the old state with the old log, or the new state with the old log and a mark that says why, or the new of both.

use crate::model::codec::{self, CodecError, Decode, Encode, Enveloped};
use crate::model::{Chain, Epoch, LogPosition, Lsn};
use bytes::Bytes;

/// The log's hard state of the kind *snapshot*: the snapshot that is being installed, if one is.
///
/// ```
/// use towline::model::{Chain, Epoch, LogPosition, Lsn};
/// use towline::replica::InstallMark;
/// let at = LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(9), chain: Chain::new(7) };
/// let mark = InstallMark(Some(at));
/// assert_eq!(InstallMark::decode(&mark.encode()?)?, mark);
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstallMark(
    /// Where the state and the log's beginning will be.
    pub Option<LogPosition>,
);

#[derive(Encode, Decode)]
struct InstallMarkV1 {
    at: Option<(u64, u32, u64, u64)>,
}

impl Enveloped for InstallMarkV1 {
    const KIND: u16 = 0x0402;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64;
}

impl InstallMark {
    /// None is being installed.
    pub const NONE: Self = Self(None);

    /// Its bytes, as hard state of the log.
    ///
    /// # Errors
    /// None in practice: the layout has a fixed size below its limit.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        let at = self.0.map(|at| (at.epoch.version, at.epoch.term, at.lsn.get(), at.chain.get()));
        codec::encode(&InstallMarkV1 { at })
    }

    /// The mark in these bytes.
    ///
    /// # Errors
    /// The bytes are not a mark of a version known here.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let v1: InstallMarkV1 = codec::decode(bytes)?;
        Ok(Self(v1.at.map(|(version, term, lsn, chain)| LogPosition {
            epoch: Epoch { version, term },
            lsn: Lsn::new(lsn),
            chain: Chain::new(chain),
        })))
    }

    /// How a node opens whose state holds everything up to `applied`, and whose log begins and ends there. `at_applied` is the
    /// log's position at the state's LSN, if a batch ends there or the log begins there.
    ///
    /// ```
    /// use towline::model::{Chain, Epoch, LogPosition, Lsn};
    /// use towline::replica::{InstallMark, Opening};
    /// let at = |lsn| LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(lsn), chain: Chain::new(lsn) };
    /// let opens = |mark, applied| InstallMark(mark).opening(at(applied), (at(3), at(5)), (applied <= 5).then_some(at(applied)));
    /// assert_eq!(opens(None, 4), Opening::Whole);
    /// assert_eq!(opens(None, 9), Opening::LogLost, "the log lost what the state holds");
    /// assert_eq!(opens(Some(at(9)), 9), Opening::Reset(at(9)), "unless the state came from elsewhere");
    /// assert_eq!(opens(Some(at(9)), 4), Opening::Forget, "the state was not replaced yet: it is offered again");
    /// assert_eq!(opens(None, 2), Opening::StateLost);
    /// ```
    #[must_use]
    pub fn opening(
        &self,
        applied: LogPosition,
        (start, end): (LogPosition, LogPosition),
        at_applied: Option<LogPosition>,
    ) -> Opening {
        match self.0 {
            Some(at) if at == applied && at_applied != Some(at) => Opening::Reset(at),
            _ if applied.lsn > end.lsn => Opening::LogLost,
            _ if applied.lsn < start.lsn => Opening::StateLost,
            Some(_) => Opening::Forget,
            None => Opening::Whole,
        }
    }
}

/// What is to be done when a node opens, before its replica is.
///
/// ```
/// use towline::model::{LogId, LogPosition};
/// use towline::replica::{InstallMark, Opening};
/// let origin = LogPosition::origin(LogId::new(1));
/// let opening = InstallMark::NONE.opening(origin, (origin, origin), Some(origin));
/// assert_eq!(opening, Opening::Whole, "of a new one, nothing");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opening {
    /// Nothing: the log holds what the state holds, and goes on behind it.
    Whole,
    /// The mark is taken back: it came to nothing, or to its end.
    Forget,
    /// The log is reset to here and the mark is taken back, durably: the state is the snapshot's already.
    Reset(LogPosition),
    /// The log lacks what the state holds: it is not the log that this state was made from.
    LogLost,
    /// The state lacks what the log holds no more.
    StateLost,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with this mark, state, log's start and log's end; LSN 0 for no mark. The snapshot is of another epoch than what the
    /// old log holds at its LSN.
    fn opens(mark: u64, applied: (u64, u32), start: u64, end: (u64, u32)) -> Opening {
        let at = |(lsn, term): (u64, u32)| LogPosition {
            epoch: Epoch { version: 1, term },
            lsn: Lsn::new(lsn),
            chain: Chain::new(lsn * 10 + u64::from(term)),
        };
        let mark = InstallMark((mark > 0).then(|| at((mark, 2))));
        let within = applied.0 >= start && applied.0 <= end.0;
        mark.opening(at(applied), (at((start, end.1)), at(end)), within.then(|| at((applied.0, end.1))))
    }

    #[test]
    fn every_crash_of_an_installation_leaves_the_old_the_new_or_what_is_finished() {
        // The snapshot is of LSN 9; before it the state was at 3, and the log went from 2 to 5 ...
        assert_eq!(opens(0, (3, 1), 2, (5, 1)), Opening::Whole, "before the mark");
        assert_eq!(opens(9, (3, 1), 2, (5, 1)), Opening::Forget, "before the state");
        assert_eq!(opens(9, (9, 2), 2, (5, 1)), Opening::Reset(at_9()), "before the reset");
        assert_eq!(opens(0, (9, 2), 9, (9, 2)), Opening::Whole, "after it");
        // ... or it had a longer one, which lost.
        assert_eq!(opens(9, (9, 2), 2, (12, 1)), Opening::Reset(at_9()), "there is another batch at that LSN");
        // A new leader fed it meanwhile, from a log that goes further back.
        assert_eq!(opens(9, (9, 2), 2, (12, 2)), Opening::Forget, "the log holds the snapshot's position");
        assert_eq!(opens(9, (11, 2), 2, (12, 2)), Opening::Forget, "and more was applied");
    }

    #[test]
    fn what_no_installation_explains_is_a_loss() {
        assert_eq!(opens(0, (9, 2), 2, (5, 1)), Opening::LogLost);
        assert_eq!(opens(8, (9, 2), 2, (5, 1)), Opening::LogLost, "another snapshot explains nothing");
        assert_eq!(opens(0, (3, 1), 9, (9, 2)), Opening::StateLost);
        assert_eq!(opens(9, (3, 1), 9, (9, 2)), Opening::StateLost, "the log was reset too early");
    }

    fn at_9() -> LogPosition {
        LogPosition { epoch: Epoch { version: 1, term: 2 }, lsn: Lsn::new(9), chain: Chain::new(92) }
    }

    #[test]
    fn the_mark_is_written_and_read_as_its_golden_file_says() {
        let file = crate::golden::check("install_mark.bin", &InstallMark(Some(at_9())).encode().unwrap());
        assert_eq!(InstallMark::decode(&file).unwrap(), InstallMark(Some(at_9())));
    }
}

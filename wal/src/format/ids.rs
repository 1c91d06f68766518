//! The words in which logs are spoken of: which log, where in it, in which history.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

/// Names a log for ever: its lineage.
///
/// Minted by the log's creator, the same on every replica, never used again for another log: a removal record
/// in an old segment would otherwise kill the batches of the new owner of the id.
///
/// ```
/// use towline_wal::LogId;
/// let log = LogId::new(0x2a);
/// assert_eq!(log.to_string(), "0000000000000000000000000000002a");
/// assert_eq!("2a".parse::<LogId>().unwrap(), log);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(u128);

impl LogId {
    /// Names a log by a number that its creator minted.
    #[must_use]
    pub const fn new(id: u128) -> Self {
        Self(id)
    }

    /// The number behind the name.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({:x})", self.0)
    }
}

/// The text was not a log id: 1 to 32 hexadecimal digits.
///
/// ```
/// use towline_wal::LogId;
/// let refused = "0x2a".parse::<LogId>().unwrap_err();
/// assert_eq!(refused.found, "0x2a");
/// assert_eq!(refused.to_string(), "a log id is 1 to 32 hexadecimal digits, this is \"0x2a\"");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a log id is 1 to 32 hexadecimal digits, this is {found:?}")]
pub struct LogIdParseError {
    /// The text as it was given.
    pub found: String,
}

impl FromStr for LogId {
    type Err = LogIdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || LogIdParseError { found: text.to_owned() };
        // `from_str_radix` takes a sign; an id has none.
        if text.is_empty() || text.len() > 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refused());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| refused())
    }
}

/// The number of a record in its log: dense, starting at 1.
///
/// There is no `Add`: a step has a name, so that `lsn + len` can't mean three things.
///
/// ```
/// use towline_wal::Lsn;
/// assert_eq!(Lsn::ZERO.next(), Lsn::FIRST);
/// assert_eq!(Lsn::new(7).distance_to(Lsn::new(10)), Some(3));
/// assert_eq!(Lsn::new(10).distance_to(Lsn::new(7)), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before the first record: the end of an empty log.
    pub const ZERO: Self = Self(0);
    /// The first record of a log.
    pub const FIRST: Self = Self(1);
    /// The largest number there is. No record has it: a batch that would reach it is refused.
    pub const MAX: Self = Self(u64::MAX);

    /// A record's number.
    #[must_use]
    pub const fn new(lsn: u64) -> Self {
        Self(lsn)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The record after this one. Stays at [`Lsn::MAX`], which no record has.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The record before this one. Stays at [`Lsn::ZERO`].
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// `n` records further on. Stays at [`Lsn::MAX`].
    #[must_use]
    pub const fn advance(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// How many steps from here to `other`, or `None` if `other` lies before this.
    #[must_use]
    pub const fn distance_to(self, other: Self) -> Option<u64> {
        other.0.checked_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

/// Which history a record belongs to; ordered as a pair, opaque to the log but for its order.
///
/// ```
/// use towline_wal::Epoch;
/// assert!(Epoch::new(2, 1) > Epoch::new(1, 9));
/// assert_eq!(Epoch::new(2, 1).to_string(), "2.1");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Rises when the log's home cluster changes.
    pub version: u64,
    /// Rises when the leader or the voters change within the home cluster.
    pub term: u32,
}

impl Epoch {
    /// Before the first epoch: that of an empty log.
    pub const ZERO: Self = Self { version: 0, term: 0 };

    /// An epoch by its two parts.
    #[must_use]
    pub const fn new(version: u64, term: u32) -> Self {
        Self { version, term }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version, self.term)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// Sums up a log's whole history up to a batch boundary in 64 bits.
///
/// Each batch's header carries the chain at its end, computed over the chain before it and the header, which
/// holds the payload's checksum. A batch behind the wrong predecessor is therefore found, not only a broken one.
/// It is a checksum, not a signature: it finds faults and mistakes, not forgers.
///
/// ```
/// use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, LogPosition};
/// let log = LogId::new(1);
/// let append = |record: &[u8], end: LogPosition| {
///     BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), end, 0).seal_raw(record, 1).unwrap()
/// };
/// let (one, other) = (append(b"a", LogPosition::origin(log)), append(b"b", LogPosition::origin(log)));
/// let next = append(b"c", one.position());
/// // The same epoch and the same LSN: only the chains tell that this is another history.
/// assert_ne!(one.position().chain, other.position().chain);
/// assert!(next.follows(&one.position()) && !next.follows(&other.position()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(u64);

impl Chain {
    /// The chain of an empty log. Seeded by the log's id, so that equal batches in two logs differ.
    #[must_use]
    pub fn origin(log: LogId) -> Self {
        let mut seed = [0_u8; 31];
        let (text, id) = seed.split_at_mut(15);
        text.copy_from_slice(b"towline chain 1");
        id.copy_from_slice(&log.as_u128().to_le_bytes());
        Self(xxh3_64(&seed))
    }

    /// A chain as it was read from a header, a record or a message.
    #[must_use]
    pub const fn new(chain: u64) -> Self {
        Self(chain)
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({self})")
    }
}

/// A batch boundary in one history: the place behind a batch, or the start of a log.
///
/// Two logs that have the same position are the same up to there, byte for byte (I2).
///
/// ```
/// use towline_wal::{LogId, LogPosition, Lsn};
/// let start = LogPosition::origin(LogId::new(1));
/// assert_eq!(start.lsn, Lsn::ZERO);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogPosition {
    /// The epoch of the batch that ends here.
    pub epoch: Epoch,
    /// The last record before the boundary.
    pub lsn: Lsn,
    /// The chain over everything before the boundary.
    pub chain: Chain,
}

impl LogPosition {
    /// Where an empty log ends.
    #[must_use]
    pub fn origin(log: LogId) -> Self {
        Self { epoch: Epoch::ZERO, lsn: Lsn::ZERO, chain: Chain::origin(log) }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.lsn, self.epoch, self.chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_id_reads_back_what_it_prints_and_nothing_else() {
        let id = LogId::new(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string().parse::<LogId>().unwrap(), id);
        for bad in ["", "+1", "-1", "g", "000000000000000000000000000000001"] {
            assert!(bad.parse::<LogId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn steps_stay_inside_the_numbers() {
        assert_eq!(Lsn::ZERO.prev(), Lsn::ZERO);
        assert_eq!(Lsn::MAX.next(), Lsn::MAX);
        assert_eq!(Lsn::new(5).advance(u64::MAX), Lsn::MAX);
    }

    #[test]
    fn origins_of_two_logs_differ() {
        assert_ne!(Chain::origin(LogId::new(1)), Chain::origin(LogId::new(2)));
    }
}

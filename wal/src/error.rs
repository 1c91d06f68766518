//! What can go wrong, said so that somebody can do something about it: an enum per operation, each with a class and
//! a stable code.

use crate::format::ids::{Chain, LogId, LogPosition, Lsn};
use crate::io::{IoFailure, Oddity};

/// What to do about an error.
///
/// ```
/// use towline_wal::{Entry, FaultClass, Options};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&Options { queue_bytes_max: 1000, ..options });
/// // The queue takes 1000 bytes.
/// let mut waited = 0;
/// for _ in 0..10 {
///     let entry = Entry::Batch(batch(&core, log, &[7; 300]));
///     while let Err(refused) = core.submit(vec![entry.clone()]) {
///         assert_eq!(refused.class(), FaultClass::Retry, "nothing else is worth another try");
///         run(&mut core, &mut disk);
///         waited += 1;
///     }
/// }
/// assert!(waited > 0 && core.end(log).lsn.get() == 10);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultClass {
    /// Try again, later.
    Retry,
    /// The caller asked for something that can't be.
    FixRequest,
    /// A person must do something: make room, stop the other process, upgrade.
    Operator,
    /// Bytes that were durable can't be read: refetch them from a copy.
    Damage,
    /// This log has stopped; reopen it.
    Reopen,
}

/// A submission was refused; nothing of it was taken.
///
/// ```
/// use towline_wal::{Entry, FaultClass, SubmitError};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// let batch = batch(b"hello");
/// wal.append(batch.clone()).unwrap();
/// let refused = wal.submit(vec![Entry::Batch(batch)]).unwrap_err();
/// assert!(matches!(refused, SubmitError::DoesNotFollow { end, .. } if end == wal.end(log)), "it was appended before");
/// assert_eq!((refused.code(), refused.class()), ("TW-1001", FaultClass::FixRequest));
/// # wal.close().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// A batch is not the continuation of its log.
    #[error("the batch of log {log} starts at LSN {first_lsn} behind chain {prev}, but the log ends at {end}: {why}")]
    DoesNotFollow {
        /// The log.
        log: LogId,
        /// The batch's first LSN.
        first_lsn: Lsn,
        /// The batch's own chain.
        prev: Chain,
        /// The log's accepted end, as this submission would have left it.
        end: LogPosition,
        /// Which of the rules it breaks.
        why: &'static str,
    },
    /// A truncation to a place that is not a batch boundary of the log's history.
    #[error("log {log} can't be truncated to {to}: no batch of its history ends there")]
    NotABoundary {
        /// The log.
        log: LogId,
        /// The boundary asked for.
        to: LogPosition,
    },
    /// An entry that no group or segment of this log can hold.
    #[error("an entry of {bytes} bytes, and this log takes at most {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Nothing to do was submitted.
    #[error("an empty submission has nothing to wait for")]
    Empty,
    /// More logs than one write-ahead log holds.
    #[error("a write-ahead log holds at most {logs_max} logs")]
    TooManyLogs {
        /// The bound.
        logs_max: usize,
    },
    /// Too much is accepted and not yet durable. Wait for a completion.
    #[error("the log's queue of {queue_bytes_max} bytes is full: the disk is slower than the submissions")]
    Busy {
        /// The bound.
        queue_bytes_max: usize,
    },
    /// No room for more on the disk. What was accepted has room; reads go on; submissions work again as soon
    /// as there is room.
    #[error("the disk is full")]
    DiskFull,
    /// A write or a sync failed. Nothing is acknowledged any more until the log is reopened.
    #[error("the log is poisoned: {0}")]
    Poisoned(IoFailure),
    /// The log is closing.
    #[error("the log is closed")]
    Closed,
    /// A log that is not here can't be released or removed.
    #[error("log {log} is not here")]
    UnknownLog {
        /// The log.
        log: LogId,
    },
    /// A release or a removal is the last that one submission says of a log.
    #[error("more is said of log {log} behind its release or removal in one submission")]
    NotLast {
        /// The log.
        log: LogId,
    },
    /// A range of this log is damaged and its tail with it: it takes no batches until it is repaired.
    #[error("log {log} is damaged from LSN {from}, and takes nothing until that is repaired")]
    Damaged {
        /// The log.
        log: LogId,
        /// First LSN of the damage.
        from: Lsn,
    },
    /// A batch was to be put again where not all that it holds is damaged.
    #[error("LSN {first} to {last} of log {log} is not damaged, or not all of it, and is not written again")]
    NotDamaged {
        /// The log.
        log: LogId,
        /// The batch's first LSN.
        first: Lsn,
        /// Its last.
        last: Lsn,
    },
}

impl SubmitError {
    /// A stable code, which has a page in the documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DoesNotFollow { .. } => "TW-1001",
            Self::NotABoundary { .. } => "TW-1002",
            Self::TooLarge { .. } => "TW-1003",
            Self::Empty => "TW-1004",
            Self::TooManyLogs { .. } => "TW-1005",
            Self::Busy { .. } => "TW-1006",
            Self::DiskFull => "TW-1007",
            Self::Poisoned(_) => "TW-1008",
            Self::Closed => "TW-1009",
            Self::Damaged { .. } => "TW-1010",
            Self::UnknownLog { .. } => "TW-1011",
            Self::NotLast { .. } => "TW-1012",
            Self::NotDamaged { .. } => "TW-1013",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::DoesNotFollow { .. }
            | Self::NotABoundary { .. }
            | Self::TooLarge { .. }
            | Self::UnknownLog { .. }
            | Self::NotLast { .. }
            | Self::NotDamaged { .. }
            | Self::Empty => FaultClass::FixRequest,
            Self::Busy { .. } => FaultClass::Retry,
            Self::TooManyLogs { .. } | Self::DiskFull => FaultClass::Operator,
            Self::Poisoned(_) | Self::Closed => FaultClass::Reopen,
            Self::Damaged { .. } => FaultClass::Damage,
        }
    }
}

/// An accepted submission will not be acknowledged. Whether it is durable is unknown until the log is reopened.
///
/// ```
/// use towline_wal::{FaultClass, SubmitError, WalError};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// let (one, two) = (batch(b"one"), batch(b"two"));
/// wal.append(one).unwrap();
/// match wal.append(two) {
///     // Nothing was taken: the log is as it was.
///     Err(WalError::Refused(SubmitError::DoesNotFollow { first_lsn, end, .. })) => assert_eq!(first_lsn, end.lsn),
///     other => panic!("both were made for the same place: {other:?}"),
/// }
/// let late = batch(b"three");
/// wal.close().unwrap();
/// assert_eq!(wal.append(late).unwrap_err().class(), FaultClass::Reopen);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// A write or a sync failed.
    #[error("the log is poisoned: {0}")]
    Poisoned(IoFailure),
    /// The log was dropped before this was durable.
    #[error("the log was closed before this was durable")]
    Closed,
    /// The submission was refused.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The system refuses to read, which says nothing about the files ([`IoFailure::is_refusal`]): only of
    /// [`Wal::verify`](crate::Wal::verify) and [`Wal::verify_part`](crate::Wal::verify_part).
    #[error(transparent)]
    Unread(IoFailure),
}

impl WalError {
    /// A stable code, which has a page in the documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Poisoned(_) => "TW-1008",
            Self::Closed => "TW-1009",
            Self::Refused(refused) => refused.code(),
            Self::Unread(_) => "TW-1103",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Poisoned(_) | Self::Closed => FaultClass::Reopen,
            Self::Refused(refused) => refused.class(),
            Self::Unread(_) => FaultClass::Retry,
        }
    }
}

/// Batches can't be read.
///
/// ```
/// use towline_wal::{FaultClass, LogCore, Lsn, ReadError};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let (core, _) = LogCore::recover(&mut disk, &options).unwrap();
/// let before = core.plan_read(log, Lsn::FIRST, 1 << 20).unwrap();
/// assert_eq!(before.len(), 1, "a read ends before damage");
/// let error = core.plan_read(log, Lsn::new(2), 1 << 20).unwrap_err();
/// assert_eq!((error.code(), error.class()), ("TW-1101", FaultClass::Damage));
/// let ReadError::Corrupt { first, last, .. } = error else { panic!("{error}") };
/// assert_eq!((first, last), (Lsn::new(2), Lsn::new(2)), "to be fetched from another copy");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The range was durable and is not readable now (I8: it is reported, never skipped).
    #[error("log {log}, LSN {first} to {last}: corrupt, in {file} at byte {offset}")]
    Corrupt {
        /// The log.
        log: LogId,
        /// First LSN that can't be read.
        first: Lsn,
        /// Last LSN that can't be read; [`Lsn::MAX`] if the log's end is unknown.
        last: Lsn,
        /// The file, or the name of the one that is missing.
        file: String,
        /// Byte in the file, 0 if unknown.
        offset: u64,
    },
    /// The log starts later: what was asked for was released, or came before a snapshot.
    #[error("log {log} starts behind LSN {start}")]
    Released {
        /// The log.
        log: LogId,
        /// The boundary at which the log now starts.
        start: Lsn,
    },
    /// The medium can't read at the moment.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// Only the segment's footer knows where the batches lie: load its index first. [`crate::Wal`] does that by itself.
    #[error("the index of segment {segment} is not in memory")]
    NotLoaded {
        /// The segment's number.
        segment: u64,
    },
}

impl ReadError {
    /// A stable code, which has a page in the documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "TW-1101",
            Self::Released { .. } => "TW-1102",
            Self::Io(_) => "TW-1103",
            Self::NotLoaded { .. } => "TW-1104",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Corrupt { .. } => FaultClass::Damage,
            Self::Released { .. } => FaultClass::FixRequest,
            Self::Io(_) | Self::NotLoaded { .. } => FaultClass::Retry,
        }
    }
}

/// The directory was not opened. Nothing in it was changed, unless it is `Io`, but that the directory and its `LOCK` are made
/// where they are missing.
///
/// ```
/// use towline_wal::vdisk::VirtualDisk;
/// use towline_wal::{FaultClass, LogCore, OpenError, Options};
/// let mut disk = VirtualDisk::new();
/// let odd = Options { segment_bytes: 1000, ..Options::default() };
/// let refused = LogCore::recover(&mut disk, &odd).unwrap_err();
/// assert!(matches!(refused, OpenError::Options { option: "segment_bytes", .. }));
///
/// let options = Options { segment_bytes: 64 << 10, ..Options::default() };
/// let (_running, _) = LogCore::recover(&mut disk, &options).unwrap();
/// let refused = LogCore::recover(&mut disk, &options).unwrap_err();
/// assert_eq!((refused.code(), refused.class()), ("TW-1201", FaultClass::Operator));
/// assert_eq!(refused.to_string(), "the log is held by process 1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("the log is held by {}", pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The holder, as it wrote itself down.
        pid: Option<u32>,
    },
    /// A file of a format that this build does not know.
    #[error("{file} has format version {found}, and this build reads {known}: it was written by a newer release")]
    NewerFormat {
        /// The file.
        file: String,
        /// The version it says.
        found: u8,
        /// The newest that this build knows.
        known: u8,
    },
    /// A file that belongs to another directory.
    #[error("{file} belongs to directory {found}, and this is {expected}")]
    ForeignDirectory {
        /// The file.
        file: String,
        /// The uuid in the file, as hexadecimal digits.
        found: String,
        /// The uuid expected.
        expected: String,
    },
    /// The manifest can't be used, and without it nothing says whose files these are.
    #[error("MANIFEST {why}; nothing was changed")]
    Manifest {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Segments are missing and no neighbour says which logs lost which range.
    #[error("segment {segment} is missing or unreadable, and so is what would tell which logs it held")]
    Missing {
        /// The segment's number.
        segment: u64,
    },
    /// The writers' incarnations fall along the log: two processes wrote it at once.
    #[error("{file} at byte {offset}: written by incarnation {found} behind incarnation {before}: two writers")]
    TwoWriters {
        /// The file.
        file: String,
        /// Byte in the file.
        offset: u64,
        /// The incarnation found there.
        found: u64,
        /// The one before it.
        before: u64,
    },
    /// An option out of bounds.
    #[error("option {option}: {why}")]
    Options {
        /// The option's name.
        option: &'static str,
        /// What it must be.
        why: &'static str,
    },
    /// What has the name of one of the log's files is no regular file.
    #[error("{file} is {what}, and not the log's own file; nothing was changed")]
    NotAFile {
        /// The name.
        file: String,
        /// What has it.
        what: Oddity,
    },
    /// The system refused.
    #[error(transparent)]
    Io(IoFailure),
}

impl From<IoFailure> for OpenError {
    fn from(failure: IoFailure) -> Self {
        match failure.what {
            Some(what) => Self::NotAFile { file: failure.file, what },
            None => Self::Io(failure),
        }
    }
}

impl OpenError {
    /// A stable code, which has a page in the documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "TW-1201",
            Self::NewerFormat { .. } => "TW-1202",
            Self::ForeignDirectory { .. } => "TW-1203",
            Self::Manifest { .. } => "TW-1204",
            Self::Missing { .. } => "TW-1205",
            Self::TwoWriters { .. } => "TW-1206",
            Self::Options { .. } => "TW-1207",
            Self::Io(_) => "TW-1208",
            Self::NotAFile { .. } => "TW-1209",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Options { .. } => FaultClass::FixRequest,
            Self::Missing { .. } => FaultClass::Damage,
            Self::Locked { .. }
            | Self::NewerFormat { .. }
            | Self::ForeignDirectory { .. }
            | Self::Manifest { .. }
            | Self::TwoWriters { .. }
            | Self::NotAFile { .. }
            | Self::Io(_) => FaultClass::Operator,
        }
    }
}

/// Why batches can't be had from outside.
///
/// ```
/// use towline_wal::inspect::{InspectError, batches};
/// use towline_wal::{FaultClass, LogId, OpenError};
/// let dir = tempfile::tempdir().unwrap();
/// let error = batches(dir.path(), LogId::new(1)).unwrap_err();
/// match &error {
///     InspectError::Open(OpenError::Manifest { why }) => assert!(why.starts_with("is missing")),
///     other => panic!("an empty directory is none of a log: {other:?}"),
/// }
/// assert_eq!((error.code(), error.class()), ("TW-1204", FaultClass::Operator));
/// assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "and nothing was made in it");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A batch can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl InspectError {
    /// A stable code, for people to look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Open(error) => error.code(),
            Self::Read(error) => error.code(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Open(error) => error.class(),
            Self::Read(error) => error.class(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inspection_says_what_an_open_or_a_read_would_say() {
        let read = ReadError::NotLoaded { segment: 1 };
        let error = InspectError::from(read.clone());
        assert_eq!((error.code(), error.class()), (read.code(), read.class()));
        let open = OpenError::Missing { segment: 1 };
        let error = InspectError::from(open.clone());
        assert_eq!((error.code(), error.class()), (open.code(), open.class()));
    }
}

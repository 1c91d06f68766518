//! What an open found, dropped, rebuilt: for the log file, the operator, and the engine's promises.

use crate::core::{Cut, DamagedSlot};
use crate::error::ReadError;
use crate::format::ids::{LogId, Lsn};
use crate::format::record::HardStateKind;
use crate::io::{IoFailure, segment_name};
use crate::recovery::table::GroupRow;

/// A range that was durable and can't be read (I8: reported, and never truncated away).
///
/// ```
/// use towline_wal::{LogCore, Lsn, ReadError};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let (core, report) = LogCore::recover(&mut disk, &options).unwrap();
/// let range = report.damaged[0].clone();
/// assert_eq!((range.log, range.first, range.last), (log, Lsn::new(2), Lsn::new(2)));
/// assert_eq!(range.file, "0000000000000001.seg");
/// // Whoever reads there is told the same.
/// assert_eq!(core.plan_read(log, Lsn::new(2), 1 << 20), Err(ReadError::from(range)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedRange {
    /// The log.
    pub log: LogId,
    /// First LSN.
    pub first: Lsn,
    /// Last LSN.
    pub last: Lsn,
    /// The file that held it, or should have.
    pub file: String,
    /// Byte in the file, 0 if unknown.
    pub offset: u64,
}

impl From<DamagedRange> for ReadError {
    fn from(DamagedRange { log, first, last, file, offset }: DamagedRange) -> Self {
        Self::Corrupt { log, first, last, file, offset }
    }
}

impl DamagedSlot {
    /// As it is reported, of its log.
    pub(crate) fn of(&self, log: LogId) -> DamagedRange {
        let Self { first, last, segment, offset } = *self;
        let file = if segment == 0 { "(unknown)".to_owned() } else { segment_name(segment) };
        DamagedRange { log, first, last, file, offset }
    }
}

/// A place in the files where the scan found something other than a good group.
///
/// ```
/// use towline_wal::LogCore;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let (_, report) = LogCore::recover(&mut disk, &options).unwrap();
/// let finding = report.findings[0];
/// assert!(!finding.row.is_end() && !finding.row.is_alarm());
/// let told = finding.to_string();
/// assert!(told.starts_with("0000000000000001.seg at byte"));
/// assert!(told.ends_with("some of it is damaged, and it had been durable"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it was.
    pub row: GroupRow,
    /// The segment's number.
    pub segment: u64,
    /// Byte in the segment.
    pub offset: u64,
    /// Number of the group that was expected there.
    pub group: u64,
}

/// What an open found. A torn tail, reported here, is a good open.
///
/// ```
/// use towline_wal::LogCore;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = three();
/// // `disk` holds a log of three batches, whose process was killed.
/// let (mut core, report) = LogCore::recover(&mut disk, &options).unwrap();
/// assert!(report.is_intact() && !report.clean_close);
/// assert_eq!((report.batches, report.incarnation), (3, 2));
/// core.begin_close();
/// run(&mut core, &mut disk);
/// disk.kill_process();
/// let (_, report) = LogCore::recover(&mut disk, &options).unwrap();
/// assert!(report.is_intact() && report.clean_close);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OpenReport {
    /// The directory was empty, and is a log now.
    pub created: bool,
    /// The last life closed the log in good order (also true of a new one).
    pub clean_close: bool,
    /// This life's number.
    pub incarnation: u64,
    /// The directory's uuid.
    pub directory_uuid: [u8; 16],
    /// Bytes of a segment, as the manifest says.
    pub segment_bytes: u64,
    /// Segments that hold groups.
    pub segments: u64,
    /// Of them, those known by their footers.
    pub segments_by_footer: u64,
    /// Of them, those whose header was rebuilt from a copy or from groups.
    pub headers_rebuilt: u64,
    /// Numbers of segments that should be there and are not.
    pub segments_missing: Vec<u64>,
    /// Groups accepted by the scan.
    pub groups: u64,
    /// Batches in the log.
    pub batches: u64,
    /// Everything that was not a good group or the clean end, in the order of the files.
    pub findings: Vec<Finding>,
    /// Good groups behind the end of the log, dropped with it.
    pub groups_dropped: u64,
    /// Suffixes in doubt, also those of earlier opens.
    pub cuts: Vec<Cut>,
    /// Ranges that can't be read.
    pub damaged: Vec<DamagedRange>,
    /// Hard states that stood in a damaged group, or may have stood in one of which nothing is known: what is known may be
    /// older than what was promised.
    pub doubtful_hard_states: Vec<(LogId, HardStateKind)>,
    /// How often something was found lost that had been durable, and of which nothing tells whose it was: records of any log may
    /// have been in it, also of one of which nothing else is here. Told as long as the place where it was is there.
    pub losses_unknown: u64,
    /// What can't be read where it decides what the logs hold: at the place where the files seem torn, or behind it, so that
    /// nobody knows whether it was acknowledged. An open is refused ([`crate::OpenError::Io`]) and changes nothing; who only
    /// reads goes on as if nothing were there.
    pub unread: Vec<IoFailure>,
    /// Truncations whose record was lost, and which the batches behind them prove.
    pub truncations_implied: u64,
    /// Whether there is room to write. If not, the log reads, and takes submissions as soon as there is.
    pub writable: bool,
}

impl OpenReport {
    /// Whether everything that is known to have been durable is there. (A cut, by itself, is no proof that anything is
    /// missing.)
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let nothing_lost = self.damaged.is_empty() && self.segments_missing.is_empty();
        let nothing_doubted = self.doubtful_hard_states.is_empty() && self.losses_unknown == 0;
        nothing_lost && nothing_doubted && self.unread.is_empty()
    }
}

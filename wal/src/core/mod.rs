//! [`LogCore`]: the log as a state machine. Submissions and results of I/O come in, requests for I/O and
//! completions go out; it starts no thread, opens no file and reads no clock.
//!
//! One rule a file: `submit` (what may be accepted), `gather` (what becomes a group), `rotate` (where it goes),
//! `complete` (what is durable, what is poisoned), `query` (what can be read), `check` (what always holds).

mod check;
mod complete;
mod gather;
pub(crate) mod index;
mod query;
mod rotate;
mod submit;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use crate::error::WalError;
use crate::format::batch::Batch;
use crate::format::footer::Footer;
use crate::format::ids::{Chain, LogId, LogPosition, Lsn};
use crate::format::record::{HardStateKind, Record};
use crate::format::segment::{LogFilesEnd, SegmentHeader};
use crate::io::{IoFailure, IoId, IoRequest};
use crate::limits;

pub use query::Extent;

/// How a log is laid out and bounded. Every field has a default from [`crate::limits`], which tell why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a segment. Takes effect when the directory is created; later the manifest's value stands.
    pub segment_bytes: u64,
    /// Bytes of batches gathered into one group, unless one batch is larger.
    pub group_bytes_max: usize,
    /// Bytes accepted and not yet durable, beyond which a submission is `Busy`.
    pub queue_bytes_max: usize,
    /// Segments kept ready beyond the active one.
    pub segments_ahead: u32,
    /// Groups written and not yet durable at a time. More than 1 lets one be written while another syncs, if
    /// the driver runs requests concurrently.
    pub groups_in_flight: u32,
    /// The directory's uuid, if the caller knows it: another directory is refused.
    pub directory_uuid: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            group_bytes_max: limits::GROUP_BYTES_DEFAULT,
            queue_bytes_max: limits::QUEUE_BYTES_DEFAULT,
            segments_ahead: limits::SEGMENTS_AHEAD_DEFAULT,
            groups_in_flight: limits::GROUPS_IN_FLIGHT_DEFAULT,
            directory_uuid: None,
        }
    }
}

/// One thing to put into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The continuation of its log.
    Batch(Batch),
    /// Cuts a log's suffix off: a follower whose tail lost.
    Truncate {
        /// The log.
        log: LogId,
        /// Its new end, a batch boundary of its history.
        to: LogPosition,
    },
    /// Sets one of a log's hard states. The newest of each kind stands.
    HardState {
        /// The log.
        log: LogId,
        /// Which.
        kind: HardStateKind,
        /// What; at most [`limits::HARD_STATE_BYTES_MAX`] bytes.
        bytes: Bytes,
    },
    /// Ends the log's [`Cut`]: its owner has everything again that may have been missing, from elsewhere, durably.
    Settle {
        /// The log.
        log: LogId,
    },
}

impl Entry {
    /// Bytes of the batch, if it is one.
    #[must_use]
    pub const fn batch_bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.bytes().len(),
            Self::Truncate { .. } | Self::HardState { .. } | Self::Settle { .. } => 0,
        }
    }
}

/// What becomes of a submission for which a full disk has no certain room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is refused with [`SubmitError::DiskFull`](crate::SubmitError::DiskFull): what is accepted becomes durable.
    Refuse,
    /// It is accepted, and waits until there is room: for who has decided already, and stops by itself at some bound.
    Wait,
}

/// Numbers a submission. Completions come in the order of tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

impl Ticket {
    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What became of a submission: durable, with everything before it, or in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completion {
    /// The submission.
    pub ticket: Ticket,
    /// `Ok`: durable.
    pub result: Result<(), WalError>,
}

/// From here on, records of a log may be missing that were once acknowledged: an open dropped a suffix without proof
/// that it never was, or found damage.
///
/// Who promises something about this log must say so. Only the log's owner can know when it has everything again
/// (it may be fed batch by batch, and crash in between), so a cut stands until it says [`Entry::Settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The log.
    pub log: LogId,
    /// First LSN in doubt.
    pub from: Lsn,
}

/// Counts since the open, for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Submissions accepted.
    pub submissions: u64,
    /// Entries accepted.
    pub entries: u64,
    /// Groups built.
    pub groups: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Bytes of batches put into groups.
    pub batch_bytes: u64,
    /// Bytes written in groups, with directories and padding.
    pub group_bytes: u64,
    /// Segments activated.
    pub rotations: u64,
    /// Bytes accepted and not yet durable.
    pub queue_bytes: usize,
    /// Number of the active segment; 0: none.
    pub active_segment: u64,
    /// Segments ready for rotation.
    pub segments_ready: usize,
    /// Whether the last preparation of a segment found no room.
    pub disk_full: bool,
    /// Whether a write or sync failed.
    pub poisoned: bool,
}

/// The log as a state machine.
///
/// Drive it so: [`LogCore::submit`]; then, until it returns `None`, [`LogCore::poll_io`], carry each request out
/// by [`crate::io::execute`] and report by [`LogCore::on_io`]; take [`LogCore::poll_completion`]s.
///
/// ```
/// use bytes::Bytes;
/// use towline_wal::vdisk::VirtualDisk;
/// use towline_wal::{io, Entry, HardStateKind, LogCore, LogId, Options};
/// let mut disk = VirtualDisk::new();
/// let options = Options { segment_bytes: 64 << 10, ..Options::default() };
/// let (mut core, report) = LogCore::recover(&mut disk, &options).unwrap();
/// assert!(report.created);
/// let vow = Entry::HardState { log: LogId::new(1), kind: HardStateKind::Promise, bytes: Bytes::from_static(b"7") };
/// let ticket = core.submit(vec![vow]).unwrap();
/// while let Some(request) = core.poll_io() {
///     let result = io::execute(&mut disk, &request);
///     core.on_io(request.id, result);
/// }
/// let done = core.poll_completion().unwrap();
/// assert_eq!((done.ticket, done.result), (ticket, Ok(())));
/// ```
#[derive(Debug)]
pub struct LogCore {
    options: Options,
    directory: [u8; 16],
    incarnation: u64,
    /// Feeds salts; seeded by the directory's entropy at the open.
    salts: u64,
    index: Index,
    life: Life,
    // submit
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    next_ticket: u64,
    // gather
    in_flight: VecDeque<InFlight>,
    next_group: u64,
    repeat: Vec<u8>,
    closing: Option<Ticket>,
    /// The first group of this life is due, also if nothing is submitted: it makes the incarnation and the cuts
    /// durable.
    opening: bool,
    // rotate
    active: Option<Active>,
    /// Where the log ends while no segment is active: the next one's header says so.
    end: LogFilesEnd,
    live: BTreeSet<u64>,
    ready: BTreeSet<u64>,
    preparing: Option<(IoId, u64)>,
    no_room: bool,
    retry_preparation: bool,
    seals: VecDeque<IoRequest>,
    sealing: BTreeSet<IoId>,
    // complete
    next_io: u64,
    syncing: Option<Syncing>,
    durable_group: u64,
    completions: VecDeque<Completion>,
    stats: Stats,
}

pub(crate) use index::{DamagedSlot, Index, Slot};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Life {
    Running,
    Closed,
    Poisoned(IoFailure),
}

/// An entry accepted and in no group yet.
#[derive(Debug)]
struct Queued {
    item: Item,
    /// The submission that ends with this entry.
    ticket: Option<Ticket>,
}

#[derive(Debug)]
enum Item {
    Batch { batch: Batch, before: LogPosition },
    Record(Record),
}

impl Item {
    fn directory_len(&self) -> usize {
        match self {
            Self::Batch { .. } => crate::format::record::BATCH_RECORD_BYTES,
            Self::Record(record) => record.encoded_len(),
        }
    }

    fn batch_len(&self) -> usize {
        match self {
            Self::Batch { batch, .. } => batch.bytes().len(),
            Self::Record(_) => 0,
        }
    }

    /// What the entry counts against the queue's bound.
    fn weight(&self) -> usize {
        self.directory_len() + self.batch_len()
    }
}

/// A group built and not yet durable.
#[derive(Debug)]
struct InFlight {
    number: u64,
    segment: u64,
    /// The write under way; `None`: written.
    writing: Option<IoId>,
    batches: Vec<(LogId, Lsn, Chain)>,
    tickets: Vec<Ticket>,
    weight: usize,
    closing: bool,
}

#[derive(Debug)]
struct Syncing {
    id: IoId,
    /// The last group that was written when the sync was asked for: it proves nothing about later ones.
    through: u64,
}

/// The segment that groups go to.
#[derive(Debug)]
struct Active {
    header: SegmentHeader,
    offset: u64,
    last_group: u64,
    footer: Footer,
}

/// What recovery hands over to the state machine.
pub(crate) struct Recovered {
    pub(crate) options: Options,
    pub(crate) directory: [u8; 16],
    pub(crate) incarnation: u64,
    pub(crate) entropy: u64,
    pub(crate) index: Index,
    pub(crate) end: LogFilesEnd,
    pub(crate) live: BTreeSet<u64>,
    pub(crate) ready: BTreeSet<u64>,
    pub(crate) repeat: Vec<u8>,
    /// The last segment's footer, if it can be written now.
    pub(crate) seal: Option<(SegmentHeader, Footer)>,
}

impl LogCore {
    pub(crate) fn new(from: Recovered) -> Self {
        let mut core = Self {
            options: from.options,
            directory: from.directory,
            incarnation: from.incarnation,
            salts: from.entropy,
            index: from.index,
            life: Life::Running,
            queue: VecDeque::new(),
            queue_bytes: 0,
            next_ticket: 1,
            in_flight: VecDeque::new(),
            next_group: from.end.group + 1,
            repeat: from.repeat,
            closing: None,
            opening: true,
            active: None,
            end: from.end,
            live: from.live,
            ready: from.ready,
            preparing: None,
            no_room: false,
            retry_preparation: false,
            seals: VecDeque::new(),
            sealing: BTreeSet::new(),
            next_io: 1,
            syncing: None,
            durable_group: from.end.group,
            completions: VecDeque::new(),
            stats: Stats::default(),
        };
        if let Some((header, footer)) = from.seal {
            core.seal(&header, &footer);
        }
        core
    }

    /// The next request for I/O, or `None` until something is submitted or reported.
    pub fn poll_io(&mut self) -> Option<IoRequest> {
        if matches!(self.life, Life::Poisoned(_)) {
            return None;
        }
        let next = self.poll_sync().or_else(|| self.poll_write());
        let next = next.or_else(|| self.seals.pop_front());
        next.or_else(|| self.poll_preparation())
    }

    fn io_id(&mut self) -> IoId {
        let id = IoId(self.next_io);
        self.next_io += 1;
        id
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }
}

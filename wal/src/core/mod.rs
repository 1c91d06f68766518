//! [`LogCore`]: the log as a state machine. Submissions and results of I/O come in, requests for I/O and
//! completions go out; it starts no thread, opens no file and reads no clock.
//!
//! One rule a file: `submit` (what may be accepted), `gather` (what becomes a group), `rotate` (where it goes),
//! `complete` (what is durable, what is poisoned), `reclaim` (what may go), `compact` (what is written anew, so that the
//! rest may go), `query` (what can be read), `mend` (what is put again where it is damaged), `check` (what always holds).

mod check;
mod compact;
mod complete;
mod gather;
pub(crate) mod index;
mod live_set;
mod mend;
mod query;
mod reclaim;
mod rotate;
pub(crate) mod segment_index;
pub(crate) mod segments;
mod submit;
mod tail_cache;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::error::WalError;
use crate::format::batch::Batch;
use crate::format::footer::Footer;
use crate::format::ids::{LogId, LogPosition, Lsn};
use crate::format::record::{HardStateKind, Record};
use crate::format::segment::{LogFilesEnd, SegmentHeader};
use crate::io::{IoFailure, IoId, IoRequest};
use crate::limits;
use compact::Compaction;
use segment_index::IndexCache;
use tail_cache::TailCache;

pub use query::Extent;

/// How a log is laid out and bounded. Every field has a default from [`crate::limits`], which tell why.
///
/// ```
/// use towline_wal::vdisk::VirtualDisk;
/// use towline_wal::{LogCore, Options};
/// let mut disk = VirtualDisk::new();
/// let small = Options { segment_bytes: 64 << 10, ..Options::default() };
/// LogCore::recover(&mut disk, &small).unwrap();
/// disk.kill_process();
/// let (_, report) = LogCore::recover(&mut disk, &Options::default()).unwrap();
/// assert_eq!(report.segment_bytes, 64 << 10, "that with which the directory was made");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a segment. Takes effect when the directory is created; later the manifest's value stands.
    pub segment_bytes: u64,
    /// Bytes of batches gathered into one group, unless one batch is larger.
    pub group_bytes_max: usize,
    /// Bytes accepted and not yet durable, beyond which a submission is `Busy`. What [`crate::Wal::append`] and
    /// [`crate::Wal::start_append`] have left to be accepted may be as much again.
    pub queue_bytes_max: usize,
    /// Segments kept ready beyond the active one. With fewer than the default a full disk leaves room for fewer opens.
    pub segments_ahead: u32,
    /// Groups written and not yet durable at a time. More than 1 lets one be written while another syncs, if
    /// the driver runs requests concurrently.
    pub groups_in_flight: u32,
    /// Bytes of index in memory for batches, 56 each; of what is older, one entry a log and segment is kept, and who reads
    /// it waits for the segment's footer.
    pub index_bytes_max: usize,
    /// Bytes of the newest batches that are kept in memory for who follows a log's end.
    pub tail_cache_bytes: usize,
    /// Dead bytes, in segments, that are left alone. Beyond these, and half of what is live, the segments with least life
    /// in them are written anew, so that the log takes at most about twice the room of what is live.
    pub slack_segments: u32,
    /// Bytes a second that compaction reads and writes on real files.
    pub background_bytes_per_second: u64,
    /// Segments are written past the page cache, where the file system can do that. What is read again soon is in the tail
    /// cache; what is not does not push anything else out.
    pub direct_writes: bool,
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
            index_bytes_max: limits::INDEX_BYTES_DEFAULT,
            tail_cache_bytes: limits::TAIL_CACHE_BYTES_DEFAULT,
            slack_segments: limits::SLACK_SEGMENTS_DEFAULT,
            background_bytes_per_second: limits::BACKGROUND_BYTES_PER_SECOND_DEFAULT,
            direct_writes: true,
            directory_uuid: None,
        }
    }
}

/// One thing to put into the log.
///
/// ```
/// use towline_wal::{Entry, HardStateKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// // A crash leaves both of these or none.
/// let kind = HardStateKind::Owner;
/// let both = vec![Entry::Batch(batch(b"hello")), Entry::HardState { log, kind, bytes: "seen 1".into() }];
/// wal.submit(both).unwrap().wait().unwrap();
/// assert_eq!(wal.durable_end(log).lsn.get(), 1);
/// assert_eq!(wal.hard_state(log, kind).unwrap(), "seen 1");
/// # wal.close().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The continuation of its log.
    Batch(Batch),
    /// A batch of the log's history again, from another copy, where it is damaged ([`LogCore::damaged`]). All that it holds must
    /// be damaged, and it must fit what is known before and behind it. What is damaged over several batches is put again one
    /// after the other, the first one first. What was released meanwhile is left alone.
    Mend(Batch),
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
    /// Lets records go that nobody will read again: all before an LSN, down to a batch boundary, and of what is durable.
    /// Their room is used again when nothing else is in their segments.
    Release {
        /// The log.
        log: LogId,
        /// The first LSN that is still wanted.
        before: Lsn,
    },
    /// Lets everything go up to a position that the log can't name: it lies in damage, and whoever says this has from elsewhere what
    /// was there. Nothing behind it is touched, so it must be what the log held. (Released further already: nothing.)
    Begin {
        /// The log.
        log: LogId,
        /// Behind what it begins from here on.
        at: LogPosition,
    },
    /// Discards what the log holds and lets it start elsewhere: behind a snapshot. Its hard states stay.
    Reset {
        /// The log.
        log: LogId,
        /// Where it starts now.
        to: LogPosition,
    },
    /// Removes the log with all that is known of it. Its id must never be used again.
    Remove {
        /// The log.
        log: LogId,
    },
}

impl Entry {
    /// Bytes of the batch, if it is one.
    #[must_use]
    pub const fn batch_bytes(&self) -> usize {
        match self {
            Self::Batch(batch) | Self::Mend(batch) => batch.bytes().len(),
            _ => 0,
        }
    }

    /// The log that it is about.
    #[must_use]
    pub const fn log(&self) -> LogId {
        match self {
            Self::Batch(batch) | Self::Mend(batch) => batch.log(),
            Self::Truncate { log, .. }
            | Self::HardState { log, .. }
            | Self::Settle { log }
            | Self::Release { log, .. }
            | Self::Begin { log, .. }
            | Self::Reset { log, .. }
            | Self::Remove { log } => *log,
        }
    }
}

/// What becomes of a submission for which a full disk has no certain room.
///
/// ```
/// use towline_wal::{Entry, SubmitError, WhenFull};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// run(&mut core, &mut disk);
/// disk.set_space(Some(disk.used()));
/// let refused = loop {
///     let next = vec![Entry::Batch(batch(&core, log, &[7; 9000]))];
///     match core.submit_when(next, WhenFull::Refuse) {
///         Ok(_) => run(&mut core, &mut disk),
///         Err(refused) => break refused,
///     }
/// };
/// assert_eq!(refused, SubmitError::DiskFull);
/// // Who can't take back what it decided has it waited for.
/// let next = vec![Entry::Batch(batch(&core, log, b"decided"))];
/// assert!(core.submit_when(next, WhenFull::Wait).is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It is refused with [`SubmitError::DiskFull`](crate::SubmitError::DiskFull): what is accepted becomes durable.
    Refuse,
    /// It is accepted, and waits until there is room: for who has decided already, and stops by itself at some bound.
    Wait,
}

/// Numbers a submission. Completions come in the order of tickets.
///
/// ```
/// use towline_wal::Entry;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// let tickets = [b"one", b"two"].map(|record| core.submit(vec![Entry::Batch(batch(&core, log, record))]).unwrap());
/// assert!(tickets[0] < tickets[1]);
/// run(&mut core, &mut disk);
/// let done: Vec<_> = std::iter::from_fn(|| core.poll_completion()).map(|done| done.ticket).collect();
/// assert_eq!(done, tickets);
/// ```
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
///
/// ```
/// use towline_wal::{Entry, FaultClass};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// core.submit(vec![Entry::Batch(batch(&core, log, b"hello"))]).unwrap();
/// while let Some(request) = core.poll_io() {
///     if matches!(request.op, towline_wal::io::IoOp::Sync { .. }) {
///         disk.fail_sync_after(0);
///     }
///     let result = towline_wal::io::execute(&mut disk, &request);
///     core.on_io(request.id, result);
/// }
/// // The sync failed: whether the batch is there, the next open tells.
/// let in_doubt = core.poll_completion().unwrap().result.unwrap_err();
/// assert_eq!((in_doubt.code(), in_doubt.class()), ("TW-1008", FaultClass::Reopen));
/// ```
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
///
/// ```
/// use towline_wal::{Entry, LogCore, Lsn};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
/// let cut = core.cuts()[0];
/// assert_eq!((cut.log, cut.from), (log, Lsn::new(2)));
/// // The owner drops what is behind the damage, has it again from another copy, and only then says so.
/// let to = core.position_at(log, cut.from.prev()).unwrap();
/// core.submit(vec![Entry::Truncate { log, to }]).unwrap();
/// for record in [b"two", b"six"] {
///     append(&mut core, &mut disk, log, record);
/// }
/// core.submit(vec![Entry::Settle { log }]).unwrap();
/// run(&mut core, &mut disk);
/// assert!(core.cuts().is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The log.
    pub log: LogId,
    /// First LSN in doubt.
    pub from: Lsn,
}

/// Counts since the open, for metrics and tests.
///
/// ```
/// use towline_wal::Entry;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// for _ in 0..100 {
///     core.submit(vec![Entry::Batch(batch(&core, log, b"hello"))]).unwrap();
/// }
/// run(&mut core, &mut disk);
/// let stats = core.stats();
/// assert_eq!(stats.submissions, 100);
/// assert!(stats.syncs < 5, "what waits together is synced together");
/// assert!(stats.group_bytes > stats.batch_bytes, "by directories and padding");
/// ```
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
    /// Bytes written with groups: their directories and padding, the header of a segment, which goes out with its first group,
    /// and the block of zeroes behind a group in a file that is used again.
    pub group_bytes: u64,
    /// Segments activated.
    pub rotations: u64,
    /// Segments that held nothing any more, and were given up.
    pub retired: u64,
    /// Segments in use.
    pub segments: usize,
    /// Bytes of their files.
    pub segments_bytes: u64,
    /// Bytes in them that are live: batches that are still their logs', and what is said of them.
    pub live_bytes: u64,
    /// Ranges of consecutive numbers that the segments in use make.
    pub live_ranges: usize,
    /// Bytes of a segment's header that name them.
    pub live_ranges_bytes: usize,
    /// The most that these may be. Nearly there, what is compacted makes fewer holes among the numbers: the space stays
    /// bounded, but segments stay more, and smaller, which an open has to read. Release what is kept for long.
    pub live_ranges_bytes_max: usize,
    /// Compactions finished.
    pub compactions: u64,
    /// Compactions given up: no room, or something could not be read.
    pub compactions_failed: u64,
    /// Bytes in memory for batches, those of loaded indexes included.
    pub index_bytes: usize,
    /// Bytes of the newest batches in memory.
    pub tail_cache_bytes: usize,
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
    /// See [`OpenReport::losses_unknown`](crate::OpenReport::losses_unknown).
    losses_unknown: u64,
    tail: TailCache,
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
    /// The last group of the lives before.
    opened_behind: u64,
    /// The first group of this life is due, also if nothing is submitted: it makes the incarnation and the cuts
    /// durable.
    opening: bool,
    /// The last group holds something, and no later one says that it was durable.
    is_unproven: bool,
    /// A group is due that says so.
    beacon: bool,
    // rotate
    active: Option<Active>,
    /// Where the log ends while no segment is active: the next one's header says so.
    end: LogFilesEnd,
    segments: Segments,
    /// Prepared, and whether nothing but zeroes is in it.
    ready: BTreeMap<u64, Content>,
    preparing: Option<Preparing>,
    /// Retired segments, whose files are to be used again or removed.
    spare: VecDeque<Spare>,
    /// Something may have become dead.
    reclaim_due: bool,
    /// Live bytes that died since somebody looked.
    freed_bytes: u64,
    compaction: Option<Compaction>,
    no_room: bool,
    retry_preparation: bool,
    /// Not even the change of a name found room.
    spares_wait: bool,
    seals: VecDeque<IoRequest>,
    sealing: BTreeMap<IoId, u64>,
    // complete
    next_io: u64,
    syncing: Option<Syncing>,
    durable_group: u64,
    completions: VecDeque<Completion>,
    stats: Stats,
}

pub(crate) use mend::Edge;

use index::Mark;
pub(crate) use index::{DamagedSlot, Freed, HardState, Index, Run, Slot};
pub use segment_index::{IndexRequest, SegmentIndex};
pub(crate) use segments::{Segment, Segments};

/// What a segment file holds before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zeroes,
    /// Bytes of an earlier use: behind each group a block of zeroes is written, which ends the scan of the next open.
    OldBytes,
}

/// A file under way to be used, or to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Preparing {
    id: IoId,
    what: Preparation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preparation {
    Create { segment: u64 },
    Recycle { from: u64, to: u64 },
    Discard { segment: u64 },
}

/// A file that held a retired segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) segment: u64,
    /// It has the size of a segment, and its blocks are written.
    pub(crate) is_whole: bool,
}

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
    /// Whether a group may end behind it: with a submission's last entry, and with whatever the log itself says.
    ends_unit: bool,
}

#[derive(Debug)]
enum Item {
    Batch {
        batch: Batch,
        /// What it continues; `None`: it mends the log.
        before: Option<LogPosition>,
    },
    Record {
        record: Record,
        /// The lowest segment that holds what it kills.
        kills_from: Option<u64>,
    },
    /// Nothing: somebody waits for what is before it.
    Barrier,
    /// Nothing: a compaction begins when what is before it is durable.
    Compaction,
}

impl Item {
    fn is_hard_state(&self, of: LogId, which: HardStateKind) -> bool {
        matches!(self, Self::Record { record: Record::HardState { log, kind, .. }, .. } if (*log, *kind) == (of, which))
    }

    fn directory_len(&self) -> usize {
        match self {
            Self::Batch { .. } => crate::format::record::BATCH_RECORD_BYTES,
            Self::Record { record, .. } => record.encoded_len(),
            Self::Barrier | Self::Compaction => 0,
        }
    }

    fn batch_len(&self) -> usize {
        match self {
            Self::Batch { batch, .. } => batch.bytes().len(),
            Self::Record { .. } | Self::Barrier | Self::Compaction => 0,
        }
    }

    /// What it adds to the segment's footer, at most.
    fn footer_growth(&self) -> usize {
        match self {
            Self::Batch { .. } => crate::format::footer::FOOTER_BYTES_PER_BATCH,
            Self::Record { .. } | Self::Barrier | Self::Compaction => self.directory_len(),
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
    marks: Vec<Mark>,
    tickets: Vec<Ticket>,
    /// Segments that its records retire.
    retires: Vec<u64>,
    /// The compaction that waits may begin behind it.
    compacts: bool,
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
    content: Content,
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
    pub(crate) losses_unknown: u64,
    pub(crate) end: LogFilesEnd,
    pub(crate) segments: Segments,
    pub(crate) ready: BTreeSet<u64>,
    pub(crate) spare: Vec<Spare>,
    pub(crate) repeat: Vec<u8>,
    /// Footers that are missing, and can be written now, with the places of groups behind the end.
    pub(crate) seals: Vec<(SegmentHeader, Footer, Vec<u64>)>,
}

impl LogCore {
    pub(crate) fn new(from: Recovered) -> Self {
        let tail = TailCache::new(from.options.tail_cache_bytes);
        let mut core = Self {
            options: from.options,
            directory: from.directory,
            incarnation: from.incarnation,
            salts: from.entropy,
            index: from.index,
            losses_unknown: from.losses_unknown,
            tail,
            life: Life::Running,
            queue: VecDeque::new(),
            queue_bytes: 0,
            next_ticket: 1,
            in_flight: VecDeque::new(),
            next_group: from.end.group + 1,
            repeat: from.repeat,
            closing: None,
            opened_behind: from.end.group,
            opening: true,
            is_unproven: false,
            beacon: false,
            active: None,
            end: from.end,
            segments: from.segments,
            ready: from.ready.into_iter().map(|number| (number, Content::OldBytes)).collect(),
            preparing: None,
            spare: from.spare.into(),
            reclaim_due: true,
            freed_bytes: 0,
            compaction: None,
            no_room: false,
            spares_wait: false,
            retry_preparation: false,
            seals: VecDeque::new(),
            sealing: BTreeMap::new(),
            next_io: 1,
            syncing: None,
            durable_group: from.end.group,
            completions: VecDeque::new(),
            stats: Stats::default(),
        };
        core.index.cache = IndexCache::default();
        for (header, footer, wipe) in from.seals {
            core.seal(&header, &footer, wipe);
        }
        core.fold();
        core
    }

    /// The next request for I/O, or `None` until something is submitted or reported.
    pub fn poll_io(&mut self) -> Option<IoRequest> {
        if matches!(self.life, Life::Poisoned(_)) {
            return None;
        }
        // What others do meanwhile comes before a write: where something always waits to be written, it would never begin.
        let next = self.poll_sync().or_else(|| self.poll_background()).or_else(|| self.poll_write());
        // A write looks for what may go, and that may have something done in the background.
        next.or_else(|| self.poll_background())
    }

    fn poll_background(&mut self) -> Option<IoRequest> {
        // What footers wipe out is remembered by the first group of this life.
        let seal = if self.durable_group > self.opened_behind { self.seals.pop_front() } else { None };
        seal.or_else(|| self.poll_preparation()).or_else(|| self.poll_compaction())
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

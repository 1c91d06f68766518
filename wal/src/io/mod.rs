//! What the log asks of a directory of files: a small synchronous trait, the requests of [`crate::LogCore`], and the
//! one function that carries a request out.
//!
//! [`RealIo`] implements it on a real directory, [`crate::vdisk::VirtualDisk`] in memory with every fault.

mod ahead;
mod aligned;
mod direct;
mod directory;
pub(crate) mod names;
mod page_cache;
mod real;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::compaction::CompactionPlan;
use crate::core::IndexRequest;
use crate::limits::{BLOCK_BYTES, NUMBERS_MAX};

pub(crate) use aligned::Aligned;
pub use real::RealIo;

/// A failed operation on a file. Cheap to clone: every waiter of a poisoned log gets it.
///
/// ```
/// use towline_wal::io::Io;
/// use towline_wal::vdisk::VirtualDisk;
/// let mut disk = VirtualDisk::new();
/// disk.create("a").unwrap();
/// disk.set_space(Some(0));
/// let full = disk.write_at("a", 0, &["hello".into()]).unwrap_err();
/// assert!(full.is_no_space(), "nothing is in doubt");
/// let missing = disk.len("b").unwrap_err();
/// assert!(!missing.is_no_space() && !missing.is_refusal(), "that is told of the file");
/// assert_eq!((missing.operation, missing.file.as_str()), ("measure", "b"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {file}: {}", Why { kind: *.kind, os_code: *.os_code, what: *.what })]
#[non_exhaustive]
pub struct IoFailure {
    /// What the system said.
    pub kind: std::io::ErrorKind,
    /// What was attempted, as a verb.
    pub operation: &'static str,
    /// The file's name within the directory.
    pub file: String,
    /// The system's own number for the error, where there was one.
    pub os_code: Option<i32>,
    /// Of a sync: nothing that comes later proves anything about what it was for.
    is_final: bool,
    /// What the file is, where it is none that is opened: a symbolic link, a pipe and the like.
    pub what: Option<Oddity>,
}

impl IoFailure {
    /// A failure of `operation` on `file`.
    #[must_use]
    pub fn new(kind: std::io::ErrorKind, operation: &'static str, file: &str) -> Self {
        Self { kind, operation, file: file.to_owned(), os_code: None, what: None, is_final: false }
    }

    /// The same, from the system's error.
    #[must_use]
    pub fn from_error(error: &std::io::Error, operation: &'static str, file: &str) -> Self {
        Self { os_code: error.raw_os_error(), ..Self::new(error.kind(), operation, file) }
    }

    /// What has the name is no file of a log.
    fn not_a_file(file: &str, what: Oddity) -> Self {
        Self { what: Some(what), ..Self::new(std::io::ErrorKind::InvalidInput, "open", file) }
    }

    /// Whether the disk or the quota is full: nothing is in doubt, there is just no room.
    #[must_use]
    pub const fn is_no_space(&self) -> bool {
        !self.is_final && matches!(self.kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }

    /// Whether the process or the system ran out of descriptors or memory, or the caller may not do this: it says nothing
    /// about the file.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let kinds = [std::io::ErrorKind::OutOfMemory, std::io::ErrorKind::PermissionDenied];
        !self.is_final && (self.os_code.is_some_and(real::is_exhaustion) || kinds.contains(&self.kind))
    }

    /// Whether a footer is not on the medium: it is not needed, and nothing else is in doubt.
    pub(crate) fn is_without_footer(&self) -> bool {
        self.operation == CONFIRM
    }

    /// Of a sync that was begun, also a full disk or want of memory leaves in doubt what was to be made durable: a later sync
    /// proves nothing.
    fn of_sync(self) -> Self {
        Self { is_final: self.operation != "open", ..self }
    }
}

/// The operation of [`IoOp::ConfirmFooter`].
const CONFIRM: &str = "find the footer of";

/// What has a file's name and is no regular file. Links are not followed: behind one lies a file of another directory, which
/// this one's lock does not keep others from. Who opens a pipe waits until somebody writes to it.
///
/// ```
/// use towline_wal::io::{Io, Oddity, RealIo, segment_name};
/// let dir = tempfile::tempdir().unwrap();
/// # std::fs::write(dir.path().join("elsewhere"), b"").unwrap();
/// let name = segment_name(1);
/// std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join(&name)).unwrap();
/// let refused = RealIo::new(dir.path()).list().unwrap_err();
/// assert_eq!((refused.file, refused.what), (name, Some(Oddity::Link)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oddity {
    /// A symbolic link.
    Link,
    /// A directory, a pipe, a socket, a device.
    Special,
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "a symbolic link",
            Self::Special => "not a regular file",
        })
    }
}

struct Why {
    kind: std::io::ErrorKind,
    os_code: Option<i32>,
    what: Option<Oddity>,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.what, self.os_code) {
            (Some(what), _) => write!(f, "it is {what}"),
            (None, Some(code)) => write!(f, "{} (os error {code})", self.kind),
            (None, None) => self.kind.fmt(f),
        }
    }
}

/// What came of asking for the directory's lock.
///
/// ```
/// use towline_wal::io::{Io, LockOutcome};
/// use towline_wal::vdisk::VirtualDisk;
/// let mut disk = VirtualDisk::new();
/// assert_eq!(disk.lock(), Ok(LockOutcome::Acquired));
/// match disk.lock() {
///     Ok(LockOutcome::HeldBy(Some(pid))) => assert_eq!(pid, disk.process_id()),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockOutcome {
    /// It is ours until the `Io` goes away.
    Acquired,
    /// Another holds it; the process id that it wrote, if it could be read.
    HeldBy(Option<u32>),
}

/// One directory of files. Names are plain file names; there are no sub-directories.
///
/// Writes are durable after `sync_data` returned success, names after `sync_dir` did; nothing else is promised.
///
/// ```
/// use towline_wal::io::{Io, IoFailure};
/// use towline_wal::vdisk::{CrashKind, VirtualDisk};
/// /// The bytes before the name: a file that is there is whole.
/// fn put(io: &mut dyn Io, name: &str, bytes: &'static str) -> Result<(), IoFailure> {
///     io.create("unready")?;
///     io.write_at("unready", 0, &[bytes.into()])?;
///     io.sync_data("unready")?;
///     io.rename("unready", name)?;
///     io.sync_dir()
/// }
/// let mut disk = VirtualDisk::new();
/// put(&mut disk, "note", "hello").unwrap();
/// disk.crash(CrashKind::DropAll, &mut |_| 0);
/// assert_eq!(disk.list().unwrap(), ["note"]);
/// assert_eq!(disk.len("note").unwrap(), 5);
/// ```
pub trait Io {
    /// Takes the directory's lock, by file `LOCK`, and creates the directory and the file where missing.
    ///
    /// # Errors
    /// The file can't be made or locked for a reason other than that another holds it.
    fn lock(&mut self) -> Result<LockOutcome, IoFailure>;

    /// All names in the directory, sorted.
    ///
    /// # Errors
    /// The directory can't be read, or a name of a log's in it is a symbolic link or otherwise no regular file. A directory
    /// that does not exist is empty.
    fn list(&mut self) -> Result<Vec<String>, IoFailure>;

    /// Names are looked up again from here on: beside a writer, another file may have come to one that was read.
    fn look_again(&mut self) {}

    /// Makes an empty file, or empties the one that is there.
    ///
    /// # Errors
    /// No room, no permission.
    fn create(&mut self, name: &str) -> Result<(), IoFailure>;

    /// Bytes of the file.
    ///
    /// # Errors
    /// No such file.
    fn len(&mut self, name: &str) -> Result<u64, IoFailure>;

    /// Fills `buffer` from `offset`; returns how many bytes there were before the file's end.
    ///
    /// # Errors
    /// No such file, or the medium can't read.
    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure>;

    /// Writes all slices one after another at `offset`. On error any part of them may have been written.
    ///
    /// # Errors
    /// No room, or the medium can't write.
    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure>;

    /// Writes zeroes over the whole file's first `len` bytes, which are whole blocks: a segment being prepared, that
    /// nobody reads soon.
    ///
    /// # Errors
    /// No room, or the medium can't write.
    fn write_zeroes(&mut self, name: &str, len: u64) -> Result<(), IoFailure> {
        fill_by_writes(self, name, len)
    }

    /// Makes the file's bytes and length durable (fdatasync).
    ///
    /// # Errors
    /// The bytes written since the last successful sync may be lost, and no later sync proves anything about them.
    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure>;

    /// Makes the directory's names durable, those that other clones gave as well.
    ///
    /// # Errors
    /// Names made, changed or removed since the last successful sync may be lost. No later sync proves anything about them:
    /// every one behind it fails, too, of this and of its clones.
    fn sync_dir(&mut self) -> Result<(), IoFailure>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// No such file.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure>;

    /// Removes a name.
    ///
    /// # Errors
    /// No such file.
    fn remove(&mut self, name: &str) -> Result<(), IoFailure>;

    /// Makes what is written durable and forgets cached copies, so that the next read tells what is on the medium. A
    /// cache may hold bytes whose sync failed in an earlier life; recovery must not take them for durable.
    ///
    /// # Errors
    /// The sync failed.
    fn settle(&mut self, name: &str) -> Result<(), IoFailure>;

    /// These bytes of the file will be read soon: the device may begin. Only a hint.
    fn will_read(&mut self, _name: &str, _range: Range<u64>) {}

    /// What a cache holds of these bytes is to be dropped: who reads them next wants to know what is on the medium, or nobody will
    /// read them soon. Only a hint.
    fn forget_cached(&mut self, _name: &str, _range: Range<u64>) {}

    /// As [`Io::read_at`], for much that is read in order and hardly again soon: a real directory reads whole blocks into
    /// memory aligned to them past the page cache, unless they are in it.
    ///
    /// # Errors
    /// As for [`Io::read_at`].
    fn read_once(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.read_at(name, offset, buffer)
    }

    /// Says that the first `len` bytes of a file, or all if there are fewer, will be [taken](Io::take_read) next: a real
    /// directory reads them meanwhile.
    fn begin_read(&mut self, _name: &str, _len: u64) {}

    /// The first `len` bytes of a file, if reading them was [begun](Io::begin_read) and nothing went wrong. What did is told by
    /// reading them otherwise.
    fn take_read(&mut self, _name: &str, _len: usize) -> Option<Bytes> {
        None
    }

    /// Bytes that new files may take in the directory, or where it would be made; `None`: unknown.
    ///
    /// # Errors
    /// The file system can't be asked.
    fn free_bytes(&mut self) -> Result<Option<u64>, IoFailure> {
        Ok(None)
    }

    /// Unpredictable bits, for salts and uuids.
    fn entropy(&mut self) -> u64;

    /// The number that this holder writes into `LOCK`.
    fn process_id(&self) -> u32;
}

/// Numbers a request; rises.
///
/// ```
/// use std::collections::BTreeMap;
/// use towline_wal::io::execute;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// # core.submit(vec![towline_wal::Entry::Batch(batch(&core, log, b"hello"))]).unwrap();
/// // Requests may be under way together, and end in any order: each is reported by its number.
/// let mut under_way = BTreeMap::new();
/// loop {
///     under_way.extend(std::iter::from_fn(|| core.poll_io()).map(|request| (request.id, request)));
///     let Some((id, newest)) = under_way.pop_last() else { break };
///     core.on_io(id, execute(&mut disk, &newest));
/// }
/// assert_eq!(core.durable_end(log).lsn.get(), 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub(crate) u64);

impl fmt::Display for IoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One thing to do with files. Whoever drives the core carries it out by [`execute`] and reports the result by
/// [`crate::LogCore::on_io`]; requests that were polled and not reported yet may run at the same time.
///
/// ```
/// use towline_wal::io::{IoRequest, execute};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// # core.submit(vec![towline_wal::Entry::Batch(batch(&core, log, b"hello"))]).unwrap();
/// // One batch waits.
/// let (before, mut written) = (core.stats().group_bytes, 0);
/// while let Some(request) = core.poll_io() {
///     let IoRequest { id, op, .. } = &request;
///     println!("{id}: {} bytes, in the background: {}", op.bytes(), op.is_background());
///     written += if op.is_background() { 0 } else { op.bytes() };
///     let result = execute(&mut disk, &request);
///     core.on_io(request.id, result);
/// }
/// assert_eq!(written, core.stats().group_bytes - before);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoRequest {
    /// For the report.
    pub id: IoId,
    /// What to do.
    pub op: IoOp,
}

/// What to do with files.
///
/// ```
/// use towline_wal::io::{IoOp, execute};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// # core.submit(vec![towline_wal::Entry::Batch(batch(&core, log, b"hello"))]).unwrap();
/// // One batch waits. It is durable when the sync behind its write has returned.
/// let mut steps = Vec::new();
/// while let Some(request) = core.poll_io() {
///     match &request.op {
///         IoOp::Write { .. } => steps.push("write"),
///         IoOp::Sync { .. } => steps.push("sync"),
///         _ => {} // Segments being made: nobody waits for these.
///     }
///     let result = execute(&mut disk, &request);
///     core.on_io(request.id, result);
/// }
/// assert!(steps.ends_with(&["write", "sync"]), "{steps:?}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoOp {
    /// Write the slices one after another.
    Write {
        /// The segment's number.
        segment: u64,
        /// Where the first slice goes.
        offset: u64,
        /// What to write.
        slices: Vec<Bytes>,
    },
    /// Make everything written to the segment durable.
    Sync {
        /// The segment's number.
        segment: u64,
    },
    /// Write and sync a footer: nobody waits for it, and a missing one is rebuilt.
    Seal {
        /// The segment's number.
        segment: u64,
        /// Where the footer goes.
        offset: u64,
        /// The footer.
        slices: Vec<Bytes>,
        /// Blocks to fill with zeroes: groups that an open dropped, which must not be found again when no neighbour tells any
        /// more where the segment ended.
        wipe: Vec<u64>,
    },
    /// Make a footer durable that an earlier life wrote, or find that it is not on the medium.
    ConfirmFooter(IndexRequest),
    /// Make a segment of real zeroes, synced, then give it its name, synced.
    CreateSegment {
        /// The segment's number.
        segment: u64,
        /// Its size.
        bytes: u64,
    },
    /// Give a retired segment's file the name of one to come. Its bytes stay: the next activation's salt tells them from
    /// its own.
    RecycleSegment {
        /// The retired segment's number.
        from: u64,
        /// The number to come.
        to: u64,
    },
    /// Write what is live in some segments as one, beside them, and sync it. It may fail: nothing stands on it yet.
    Compact(Arc<CompactionPlan>),
    /// Give the file of [`IoOp::Compact`] the name of the segment, in place of the one that has it. Quick: no sync. Who reads
    /// by a plan made before may find other bytes, and asks again: so a driver with threads does this and reports it in one
    /// step that no new plan can fall into.
    InstallCompacted {
        /// The segment's number.
        segment: u64,
    },
    /// Make the name of [`IoOp::InstallCompacted`] durable.
    SyncNames {
        /// The segment's number.
        segment: u64,
    },
    /// Remove a retired segment's file.
    DiscardSegment {
        /// The segment's number.
        segment: u64,
    },
}

impl IoOp {
    /// Whether this belongs on a thread of its own: no acknowledgement waits for it.
    #[must_use]
    pub const fn is_background(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Sync { .. })
    }

    /// What it does, in a word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Sync { .. } => "sync",
            Self::Seal { .. } => "seal",
            Self::ConfirmFooter(_) => "confirm_footer",
            Self::CreateSegment { .. } => "create_segment",
            Self::RecycleSegment { .. } => "recycle_segment",
            Self::Compact(_) => "compact",
            Self::InstallCompacted { .. } => "install_compacted",
            Self::SyncNames { .. } => "sync_names",
            Self::DiscardSegment { .. } => "discard_segment",
        }
    }

    /// Bytes that it writes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Write { slices, .. } | Self::Seal { slices, .. } => {
                slices.iter().map(|s| u64::try_from(s.len()).unwrap_or(u64::MAX)).sum()
            }
            Self::Sync { .. } | Self::RecycleSegment { .. } | Self::DiscardSegment { .. } => 0,
            Self::ConfirmFooter(_) | Self::InstallCompacted { .. } | Self::SyncNames { .. } => 0,
            Self::CreateSegment { bytes, .. } => *bytes,
            Self::Compact(plan) => plan.bytes,
        }
    }
}

/// A segment's file name.
#[must_use]
pub fn segment_name(segment: u64) -> String {
    format!("{segment:016}.seg")
}

/// The name under which a segment is filled with zeroes, before it gets its own.
pub(crate) fn unready_name(segment: u64) -> String {
    format!("{segment:016}.new")
}

/// The segment's number, if the name is that of a segment.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() >= 16 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = if plain {
        digits.parse().ok()?
    } else {
        return None;
    };
    // `00000000000000042.seg` is not ours, though it is a number; and 0 stands for no segment.
    (segment_name(number) == name && (1..=NUMBERS_MAX).contains(&number)).then_some(number)
}

/// Whether the name is that of a segment that was being filled.
pub(crate) fn is_unready_name(name: &str) -> bool {
    name.strip_suffix(".new").is_some_and(|stem| segment_number(&format!("{stem}.seg")).is_some())
}

/// Carries a request out: the thread driver and the simulator share it, so what is simulated is what runs.
///
/// # Errors
/// What the system said; to be reported by [`crate::LogCore::on_io`] as it is.
pub fn execute(io: &mut dyn Io, request: &IoRequest) -> Result<(), IoFailure> {
    #[cfg(feature = "tracing")]
    let _span = tracing::trace_span!("log_io", op = request.op.name(), bytes = request.op.bytes()).entered();
    match &request.op {
        IoOp::Write { segment, offset, slices } => io.write_at(&segment_name(*segment), *offset, slices),
        // DURABLE: every acknowledgement of the log stands on this sync and no other (attacked by
        // `what_is_acknowledged_is_there_after_power_is_lost`).
        IoOp::Sync { segment } => io.sync_data(&segment_name(*segment)),
        IoOp::Seal { segment, offset, slices, wipe } => {
            let name = segment_name(*segment);
            for at in wipe {
                io.write_at(&name, *at, &[zeroes(BLOCK)])?;
            }
            io.write_at(&name, *offset, slices)?;
            io.sync_data(&name).map_err(IoFailure::of_sync)
        }
        IoOp::ConfirmFooter(request) => {
            let name = segment_name(request.segment);
            // A sync of pages whose write failed before finds nothing to do, and proves nothing: only the medium tells.
            io.settle(&name).map_err(IoFailure::of_sync)?;
            let there = crate::recovery::index::from_footer(io, request).is_some();
            there.then_some(()).ok_or_else(|| IoFailure::new(std::io::ErrorKind::NotFound, CONFIRM, &name))
        }
        IoOp::CreateSegment { segment, bytes } => create_segment(io, *segment, *bytes),
        IoOp::RecycleSegment { from, to } => recycle_segment(io, *from, *to),
        IoOp::Compact(plan) => crate::compaction::write(io, plan),
        IoOp::InstallCompacted { segment } => {
            let (unready, name) = (unready_name(*segment), segment_name(*segment));
            let was_in_doubt = names::is_marked(io, &name);
            let installed = names::name(io, &unready, &name);
            if installed.as_ref().is_err_and(IoFailure::is_no_space) {
                drop(io.remove(&unready));
                take_back_mark(io, &name, was_in_doubt);
            }
            installed
        }
        // DURABLE: the compacted segment's name, before the retirement of any that it stands for (attacked by
        // `every_crash_leaves_a_state_that_holds_all_that_was_acknowledged`).
        IoOp::SyncNames { segment } => sync_name(io, *segment),
        IoOp::DiscardSegment { segment } => {
            match io.remove(&segment_name(*segment)) {
                // It was missing already.
                Err(failure) if failure.kind == std::io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            io.sync_dir().map_err(IoFailure::of_sync)
        }
    }
}

const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_BYTES);

/// Bytes of zeroes per write when a segment is filled.
const FILL_BYTES: usize = 1 << 20;
static ZEROES: Zeroes = Zeroes([0; FILL_BYTES]);

/// Aligned as devices want it of memory that they read by themselves.
#[repr(align(4096))]
struct Zeroes([u8; FILL_BYTES]);

/// `len` zeroes, at most a filling's worth, without a copy.
pub(crate) fn zeroes(len: usize) -> Bytes {
    Bytes::from_static(ZEROES.0.get(..len).unwrap_or(&ZEROES.0))
}

/// Fills before naming: a segment that has its name has its room. Real zeroes, since the first write to an
/// unwritten extent costs a commit of the file system's journal at each sync.
fn create_segment(io: &mut dyn Io, segment: u64, bytes: u64) -> Result<(), IoFailure> {
    // The last of the room is not taken from others just to be given back. Who can't say how much there is may try.
    if io.free_bytes().ok().flatten().is_some_and(|free| free < bytes) {
        return Err(IoFailure::new(std::io::ErrorKind::StorageFull, "create", &segment_name(segment)));
    }
    let (unready, name) = (unready_name(segment), segment_name(segment));
    let was_in_doubt = names::is_marked(io, &name);
    let named = fill_and_name(io, &unready, segment, bytes);
    if named.is_err() {
        // Gives back what was taken of a full disk. If it can't be removed, the next attempt or open removes it.
        drop(io.remove(&unready));
        take_back_mark(io, &name, was_in_doubt);
        return named;
    }
    // DURABLE: a group in a file whose name is lost would be lost with it (attacked by
    // `every_crash_leaves_a_state_that_holds_all_that_was_acknowledged`).
    sync_name(io, segment)
}

/// A name was not given after all. A mark that a life before left, whose disk had no room to make the name anew, stays.
fn take_back_mark(io: &mut dyn Io, name: &str, was_in_doubt: bool) {
    if !was_in_doubt {
        names::vouch(io, name);
    }
}

fn recycle_segment(io: &mut dyn Io, from: u64, to: u64) -> Result<(), IoFailure> {
    let (old, new) = (segment_name(from), segment_name(to));
    let named = match names::name(io, &old, &new) {
        // This is how a full disk goes on, and it may have no room for the mark.
        Err(failure) if failure.is_no_space() => io.rename(&old, &new),
        named => named,
    };
    match named {
        // An attempt before this one got so far, and was refused the rest.
        Err(failure) if failure.kind == std::io::ErrorKind::NotFound && io.len(&new).is_ok() => {}
        named => named?,
    }
    // DURABLE: a group in a file whose new name is lost would be lost with it (attacked by
    // `every_crash_leaves_a_state_that_holds_all_that_was_acknowledged`).
    sync_name(io, to).inspect_err(|_| {
        // D7, where there is no mark: nobody is to find a name that no later sync vouches for. It holds nothing.
        drop(io.remove(&new));
    })
}

/// Makes a segment's new name durable.
fn sync_name(io: &mut dyn Io, segment: u64) -> Result<(), IoFailure> {
    io.sync_dir().map_err(IoFailure::of_sync)?;
    names::vouch(io, &segment_name(segment));
    Ok(())
}

fn fill_and_name(io: &mut dyn Io, unready: &str, segment: u64, bytes: u64) -> Result<(), IoFailure> {
    // First: the segment may take the last of the room.
    names::mark(io, &segment_name(segment))?;
    io.create(unready)?;
    fill(io, unready, bytes)?;
    // DURABLE: the zeroes first, then the name; otherwise a name could stand for a shorter file (attacked by
    // `every_crash_leaves_a_state_that_holds_all_that_was_acknowledged`). Where the disk is found full only here, the file
    // goes and nothing is in doubt.
    io.sync_data(unready)?;
    io.rename(unready, &segment_name(segment))
}

pub(crate) fn fill(io: &mut dyn Io, name: &str, bytes: u64) -> Result<(), IoFailure> {
    debug_assert_eq!(bytes % BLOCK_BYTES, 0, "segments are whole blocks");
    io.write_zeroes(name, bytes)
}

fn fill_by_writes<T: Io + ?Sized>(io: &mut T, name: &str, bytes: u64) -> Result<(), IoFailure> {
    let mut at = 0;
    while at < bytes {
        let len = usize::try_from(bytes - at).map_or(FILL_BYTES, |rest| rest.min(FILL_BYTES));
        io.write_at(name, at, &[zeroes(len)])?;
        at += u64::try_from(len).unwrap_or(u64::MAX);
    }
    Ok(())
}

/// Reads exactly `len` bytes, once more if the first attempt failed: some read errors are transient.
///
/// # Errors
/// The second failure, or `UnexpectedEof`.
pub(crate) fn read_exact(io: &mut dyn Io, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, IoFailure> {
    let mut buffer = vec![0; len];
    let read = match io.read_at(name, offset, &mut buffer) {
        Ok(read) => read,
        Err(_) => io.read_at(name, offset, &mut buffer)?,
    };
    if read < len {
        return Err(IoFailure::new(std::io::ErrorKind::UnexpectedEof, "read", name));
    }
    Ok(buffer)
}

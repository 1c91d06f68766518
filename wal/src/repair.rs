//! Making a damaged directory whole for what is left of it: what can't be read any more is given up, by the same entries
//! by which an owner would do it, after a copy of every file that held something of it.
//!
//! It never says that nothing is missing: each log keeps its [`Cut`](crate::Cut), until its owner settles it. It changes no
//! byte of a file by hand, but for a manifest that is lost: that is made anew from the segments' headers, where they agree.
//!
//! [`Repair::begin`] takes the directory's lock and finds out what is to do, [`Repair::plan`] says it, and
//! [`Repair::execute`] does it. [`dry_run`] only finds it out, and touches nothing.
//!
//! ```
//! use towline_wal::repair::{Repair, RepairOptions};
//! use towline_wal::vdisk::VirtualDisk;
//! use towline_wal::{LogCore, Options};
//! let mut disk = VirtualDisk::new();
//! let options = Options { segment_bytes: 64 << 10, ..Options::default() };
//! LogCore::recover(&mut disk, &options).unwrap();
//! disk.kill_process();
//! let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
//! assert!(repair.plan().is_empty());
//! ```

mod backup;
mod plan;

use crate::core::{Entry, LogCore, Options, Ticket};
use crate::error::{FaultClass, OpenError, SubmitError, WalError};
use crate::format::manifest::{MANIFEST_NAME, MANIFEST_UNREADY_NAME, Manifest};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader, SegmentHeaderFault};
use crate::inspect::{VerifyReport, batches_max, look_by, read_all, verify_io};
use crate::io::{Io, IoFailure, LockOutcome, execute, read_exact, segment_name, segment_number};
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::recovery::create;
use crate::recovery::report::DamagedRange;
use crate::recovery::survey::{Reader, Survey, read_manifest, survey};

pub use backup::{README_NAME, Unread, restore_steps};
pub use plan::{BackupFile, LogRepair, LsnRange, ManifestRepair, RepairAction, RepairPlan, Unmendable};

/// What kind of repair is wanted.
///
/// ```
/// use towline_wal::repair::{RepairAction, RepairOptions, dry_run};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(1);
/// // `disk` holds a log of three batches. The first one has rotted.
/// let plan = dry_run(&mut disk, RepairOptions::default()).unwrap();
/// assert_eq!(plan.logs[0].kept, None);
/// let plan = dry_run(&mut disk, RepairOptions { keep_tail: true }).unwrap();
/// assert!(matches!(plan.logs[0].action, RepairAction::Release { to } if to.lsn.get() == 1));
/// assert_eq!(plan.logs[0].kept.unwrap().records(), 2);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairOptions {
    /// Where nothing good lies before the damage, keep what lies behind it, and not what lies before, which is nothing.
    pub keep_tail: bool,
}

/// A repair that was looked at and not carried out yet. It holds the directory's lock: what was found stays as it is.
///
/// ```
/// use towline_wal::LogCore;
/// use towline_wal::repair::{Repair, RepairOptions};
/// use towline_wal::vdisk::VirtualDisk;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
/// println!("{}", repair.plan());
/// let mut copy = VirtualDisk::new(); // on another disk, best
/// let repaired = repair.execute(&mut copy, "in an example").unwrap();
/// assert!(repaired.verified.is_good());
/// disk.kill_process();
/// let (core, _) = LogCore::recover(&mut disk, &options).unwrap();
/// assert_eq!((core.end(log).lsn.get(), core.cuts()[0].from.get()), (1, 2), "what is lost is not forgotten");
/// ```
pub struct Repair<'a> {
    io: &'a mut dyn Io,
    survey: Survey,
    plan: RepairPlan,
}

impl std::fmt::Debug for Repair<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repair").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Why a repair did not come about. Unless it says otherwise, the log is as it was.
///
/// ```
/// use towline_wal::FaultClass;
/// use towline_wal::io::Io;
/// use towline_wal::repair::{Repair, RepairError, RepairOptions};
/// use towline_wal::vdisk::VirtualDisk;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// let nothing = Repair::begin(&mut VirtualDisk::new(), RepairOptions::default()).unwrap_err();
/// assert_eq!(nothing, RepairError::NotALog);
///
/// let mut copy = VirtualDisk::new();
/// copy.create("a file of somebody's").unwrap();
/// let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
/// let refused = repair.execute(&mut copy, "in an example").unwrap_err();
/// assert_eq!((refused.code(), refused.class()), ("TW-1303", FaultClass::FixRequest));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// There is neither a manifest nor a segment.
    #[error("this is not the directory of a log")]
    NotALog,
    /// The directory is refused by every open, and a repair has nothing to go by either.
    #[error("{0}; a repair can't help there, and nothing was changed")]
    Refused(OpenError),
    /// The manifest can't be used, and the segments don't say what stood in it.
    #[error("MANIFEST {manifest}, and it can't be made anew: {why}; nothing was changed")]
    NoManifest {
        /// What is wrong with it.
        manifest: &'static str,
        /// Why the segments don't help.
        why: &'static str,
    },
    /// The place for the copy is taken.
    #[error("the directory for the copy holds something already ({name}); nothing was changed")]
    BackupExists {
        /// A file in it.
        name: String,
    },
    /// The disk has no room for the copy, and for the log to go on.
    #[error("the copy and the repair need {needed} bytes, and {free} are free; nothing was changed")]
    NoRoom {
        /// Bytes wanted.
        needed: u64,
        /// Bytes there.
        free: u64,
    },
    /// The copy could not be made.
    #[error("the copy could not be made, and nothing was changed: {0}")]
    Backup(IoFailure),
    /// The copy would have zeroes where something could still be read when the damage was looked for.
    #[error("{} at byte {} can't be read now, and held LSN {} to {} of log {}, which could be read before; the log \
        is as it was: run it again, with another directory for the copy", part.file, part.offset, range.first, range.last, range.log)]
    Unread {
        /// What could not be read.
        part: Unread,
        /// The first batch in it.
        range: DamagedRange,
    },
    /// The log did not take what would repair it. The copy is complete; a part of the repair may be done. Run it again.
    #[error("the log did not take it: {0}; the copy is complete, and the repair may be run again")]
    Interrupted(WalError),
    /// The log could not be opened for the repair, or not be read after it. The copy is complete; run it again.
    #[error("{0}; the copy is complete, and the repair may be run again")]
    Stopped(OpenError),
}

impl RepairError {
    /// A stable code, which has a page in the documentation.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotALog => "TW-1301",
            Self::Refused(refused) => refused.code(),
            Self::NoManifest { .. } => "TW-1302",
            Self::BackupExists { .. } => "TW-1303",
            Self::NoRoom { .. } => "TW-1304",
            Self::Backup(_) => "TW-1305",
            Self::Interrupted(_) => "TW-1306",
            Self::Stopped(_) => "TW-1307",
            Self::Unread { .. } => "TW-1308",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Refused(refused) | Self::Stopped(refused) => refused.class(),
            Self::Interrupted(error) => error.class(),
            Self::Unread { .. } => FaultClass::Retry,
            Self::NotALog | Self::BackupExists { .. } => FaultClass::FixRequest,
            Self::NoManifest { .. } => FaultClass::Damage,
            Self::NoRoom { .. } | Self::Backup(_) => FaultClass::Operator,
        }
    }
}

/// What came of a repair.
///
/// ```
/// use towline_wal::repair::{Repair, RepairOptions};
/// use towline_wal::vdisk::VirtualDisk;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted.
/// let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
/// let repaired = repair.execute(&mut VirtualDisk::new(), "in an example").unwrap();
/// assert!(repaired.verified.is_good() && repaired.unread.is_empty());
/// assert_eq!(repaired.verified.batches_good, 1, "the one before the damage");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// What a verification says now. It is good unless something was damaged that no repair mends.
    pub verified: VerifyReport,
    /// What the copy has zeroes for. Nothing in it could be read before, either, of what the log holds.
    pub unread: Vec<Unread>,
}

impl<'a> Repair<'a> {
    /// Takes the directory's lock, reads everything, and decides what is to do. Nothing is changed.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn begin(io: &'a mut dyn Io, options: RepairOptions) -> Result<Self, RepairError> {
        // Before the lock, which would make a file and even the directory.
        names(io)?;
        if let LockOutcome::HeldBy(pid) = io.lock().map_err(refused)? {
            return Err(RepairError::Refused(OpenError::Locked { pid }));
        }
        let (mut survey, anew) = look(io, Reader::Repairer)?;
        let plan = decide(&mut survey, io, anew, options)?;
        Ok(Self { io, survey, plan })
    }

    /// What there is to do.
    #[must_use]
    pub const fn plan(&self) -> &RepairPlan {
        &self.plan
    }

    /// Copies what is given up into `backup`, an empty or missing directory; then makes the manifest, if it is lost; then
    /// opens the log, lets the damage go and closes it in good order; then verifies it. `made` is said in the copy's README:
    /// when and by what it was made.
    ///
    /// # Errors
    /// [`RepairError`]. A crash on the way leaves a directory that opens, or that can be repaired again.
    pub fn execute(self, backup: &mut dyn Io, made: &str) -> Result<Repaired, RepairError> {
        let Self { io, mut survey, plan } = self;
        let unread = backup::make(io, backup, &plan, &survey, made)?;
        // DURABLE: from here on the log changes, and all that it loses by it is durable elsewhere (attacked by
        // `the_copy_is_complete_before_the_log_changes`).
        let options = Options {
            segment_bytes: plan.segment_bytes,
            directory_uuid: Some(plan.directory_uuid),
            ..Options::default()
        };
        if plan.manifest.is_some() {
            create(io, &options).map_err(RepairError::Stopped)?;
            // It has its name now.
            survey.leftovers.retain(|name| name != MANIFEST_UNREADY_NAME);
        }
        // Files of retired segments stay as they are: the next open uses them, and the way back has them.
        survey.spare.clear();
        if !plan.logs.is_empty() || !plan.unread.is_empty() {
            let (mut core, _) = LogCore::begin_life(io, &options, survey).map_err(RepairError::Stopped)?;
            let interrupted = RepairError::Interrupted;
            for log in &plan.logs {
                let entry = entry(&mut core, io, log);
                core.submit(vec![entry]).map_err(|refused| interrupted(refused.into()))?;
            }
            let closing = core.begin_close();
            complete(&mut core, io, closing).map_err(interrupted)?;
        }
        let verified = verify_io(io).map_err(RepairError::Stopped)?;
        Ok(Repaired { verified, unread })
    }
}

/// What [`Repair::begin`] would decide, found without the lock and without a write: also where nothing can be written, and
/// beside a writer, which may change what it is about.
///
/// # Errors
/// [`RepairError`], but that a lock which is held is none.
pub fn dry_run(io: &mut dyn Io, options: RepairOptions) -> Result<RepairPlan, RepairError> {
    let mut anew = None;
    let mut survey = look_by(io, &mut |io| {
        names(io)?;
        let (survey, why) = look(io, Reader::Guest)?;
        anew = why;
        Ok(survey)
    })?;
    decide(&mut survey, io, anew, options)
}

/// The directory's names, if it is that of a log.
fn names(io: &mut dyn Io) -> Result<Vec<String>, RepairError> {
    let names = io.list().map_err(refused)?;
    let is_log = names.iter().any(|name| name == MANIFEST_NAME || segment_number(name).is_some());
    if is_log { Ok(names) } else { Err(RepairError::NotALog) }
}

/// What is there; and why the manifest is to be made anew, if so.
fn look(io: &mut dyn Io, reader: Reader) -> Result<(Survey, Option<&'static str>), RepairError> {
    let (manifest, anew) = match read_manifest(io, None) {
        Ok(Some(manifest)) => (manifest, None),
        Ok(None) => return Err(RepairError::NotALog),
        Err(OpenError::Manifest { why }) => (agreed_manifest(io, why)?, Some(why)),
        Err(error) => return Err(RepairError::Refused(error)),
    };
    let survey = survey(io, manifest, reader, batches_max()).map_err(RepairError::Refused)?;
    Ok((survey, anew))
}

fn decide(
    survey: &mut Survey,
    io: &mut dyn Io,
    anew: Option<&'static str>,
    options: RepairOptions,
) -> Result<RepairPlan, RepairError> {
    find_hidden_damage(survey, io).map_err(RepairError::Refused)?;
    let names = names(io)?;
    plan::make(survey, io, &names, anew, options).map_err(refused)
}

fn refused(failure: impl Into<OpenError>) -> RepairError {
    RepairError::Refused(failure.into())
}

/// What a lost manifest said, where every segment's header says the same.
fn agreed_manifest(io: &mut dyn Io, manifest: &'static str) -> Result<Manifest, RepairError> {
    let no = |why| Err(RepairError::NoManifest { manifest, why });
    let mut agreed: Option<Manifest> = None;
    for name in io.list().map_err(refused)?.iter().filter(|name| segment_number(name).is_some()) {
        // A header that can't be read says nothing; the others do.
        let Ok(block) = read_exact(io, name, 0, SEGMENT_HEADER_BYTES) else { continue };
        let header = match SegmentHeader::decode(&block) {
            Ok(header) => header,
            Err(SegmentHeaderFault::Newer(found)) => {
                let file = name.clone();
                return Err(refused(OpenError::NewerFormat { file, found, known: SEGMENT_VERSION }));
            }
            Err(SegmentHeaderFault::Blank | SegmentHeaderFault::Bad) => continue,
        };
        let said = Manifest { directory: header.directory, segment_bytes: header.segment_bytes };
        if agreed.is_some_and(|agreed| agreed != said) {
            return no("the segments belong to different directories, or differ in size");
        }
        agreed = Some(said);
    }
    let Some(agreed) = agreed else { return no("no segment has a good header") };
    let in_bounds = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&agreed.segment_bytes);
    if !in_bounds || !agreed.segment_bytes.is_multiple_of(BLOCK_BYTES) {
        return no("the segments name a size out of bounds");
    }
    Ok(agreed)
}

/// An open believes a good footer and does not read what it speaks of. A repair reads it: what is damaged there is
/// damaged like anything else, and, before it is given up, is told by a cut.
fn find_hidden_damage(survey: &mut Survey, io: &mut dyn Io) -> Result<(), OpenError> {
    for (log, range) in read_all(survey, io, &mut |_| {})?.bad {
        let state = survey.replay.index.log(log);
        state.damaged.push(range);
        state.cut = Some(state.cut.map_or(range.first, |cut| cut.min(range.first)));
    }
    Ok(())
}

/// What lets a log's damage go.
fn entry(core: &mut LogCore, io: &mut dyn Io, repair: &LogRepair) -> Entry {
    let log = repair.log;
    match repair.action {
        RepairAction::Truncate { to } => {
            core.load_index(io, log, to.lsn);
            Entry::Truncate { log, to }
        }
        RepairAction::Release { to } => {
            core.load_index(io, log, to.lsn);
            Entry::Release { log, before: to.lsn.next() }
        }
    }
}

/// Writes until the submission is durable, and does nothing else: a life that is only for the repair seals no segment,
/// makes none ahead and uses none again, so that the copy is all it takes to go back.
fn complete(core: &mut LogCore, io: &mut dyn Io, ticket: Ticket) -> Result<(), WalError> {
    loop {
        while let Some(done) = core.poll_completion() {
            if done.ticket == ticket {
                return done.result;
            }
        }
        let request = core.poll_sync().or_else(|| core.poll_write()).or_else(|| core.poll_preparation());
        let Some(request) = request else {
            // It has no room, and told so before anything was taken.
            return Err(SubmitError::DiskFull.into());
        };
        let result = execute(io, &request);
        core.on_io(request.id, result);
    }
}

/// The files of segments, by their numbers.
fn segment_file(names: &[String], segment: u64) -> Option<String> {
    let name = segment_name(segment);
    names.binary_search(&name).is_ok().then_some(name)
}

//! [`VirtualDisk`]: a disk in memory that loses, tears, rots and fails as disks do, and always the same way for the
//! same chance.
//!
//! What was written and not synced is kept per 512-byte sector, in versions; a [`VirtualDisk::crash`] decides for
//! each sector which version survives, or a part of one. Names are durable by `sync_dir` alone. What a failed sync was for
//! is seen until power fails, and no later sync makes it durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use bytes::Bytes;

use crate::io::names::DirectorySyncs;
use crate::io::{Io, IoFailure, LockOutcome};

const SECTOR: usize = 512;
const SECTORS_PER_PAGE: usize = 4096 / SECTOR;

/// Where the bytes of a write go that a device puts in the wrong place, and calls good.
///
/// ```
/// use towline_wal::io::Io;
/// use towline_wal::vdisk::{Misplaced, VirtualDisk};
/// let mut disk = VirtualDisk::new();
/// disk.create("a").unwrap();
/// disk.write_at("a", 0, &["old".into()]).unwrap();
/// disk.misplace_write_after(0, Misplaced::Nowhere);
/// disk.write_at("a", 0, &["new".into()]).unwrap(); // called good
/// disk.sync_data("a").unwrap(); // and this too
/// let mut found = [0; 3];
/// disk.read_at("a", 0, &mut found).unwrap();
/// assert_eq!(&found, b"old");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misplaced {
    /// Nowhere: what was there before stays.
    Nowhere,
    /// To another place, which loses what it held.
    At {
        /// The file; without it, the bytes are nowhere.
        name: String,
        /// Byte offset in it.
        offset: u64,
    },
}

/// What a disk did and lost.
///
/// ```
/// use towline_wal::vdisk::CrashKind;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let (mut core, mut disk) = created(&options);
/// let before = disk.stats();
/// append(&mut core, &mut disk, log, b"hello");
/// let after = disk.stats();
/// assert!(after.writes > before.writes && after.syncs > before.syncs);
/// disk.crash(CrashKind::DropAll, &mut |_| 0);
/// assert_eq!((disk.stats().crashes, disk.stats().lossy_crashes), (1, 0), "all of it was synced");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskStats {
    /// Writes.
    pub writes: u64,
    /// Syncs of files that succeeded.
    pub syncs: u64,
    /// Syncs that failed by a fault.
    pub failed_syncs: u64,
    /// Crashes.
    pub crashes: u64,
    /// Crashes that lost at least one unsynced sector.
    pub lossy_crashes: u64,
    /// Bytes of unsynced sectors that a crash lost.
    pub lost_bytes: u64,
    /// Sectors of which a crash left a part.
    pub torn_sectors: u64,
    /// Changes of names that a crash lost.
    pub lost_names: u64,
    /// Writes refused for lack of room.
    pub no_space: u64,
    /// Reads failed by a fault.
    pub failed_reads: u64,
}

/// What a power cut does to what was not synced.
///
/// ```
/// use towline_wal::io::Io;
/// use towline_wal::vdisk::{CrashKind, VirtualDisk};
/// let mut disk = VirtualDisk::new();
/// disk.create("a").unwrap();
/// disk.sync_dir().unwrap();
/// disk.write_at("a", 0, &[vec![7; 8192].into()]).unwrap(); // never synced
/// let left = |kind, chance: u64| {
///     let mut disk = disk.clone();
///     disk.crash(kind, &mut |_| chance);
///     disk.len("a").unwrap()
/// };
/// assert_eq!((left(CrashKind::DropAll, 0), left(CrashKind::KeepAll, 0)), (0, 8192));
/// assert_eq!((left(CrashKind::Pages, 0), left(CrashKind::Pages, 1)), (0, 8192), "as the chance says, of each page");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CrashKind {
    /// Everything unsynced is lost.
    DropAll,
    /// Everything unsynced survives: the process died, the machine did not.
    KeepAll,
    /// Each sector by itself is kept, dropped or torn; each change of a name kept or dropped.
    Chance,
    /// Each change of a name and each page of 4 KiB is dropped (0) or kept as it was last written (1): few enough questions
    /// that all answers can be tried.
    Pages,
}

#[derive(Debug, Clone, Default)]
struct VirtualFile {
    /// What survives anything.
    durable: Vec<u8>,
    /// Length as seen; the durable length is that of `durable`.
    len: usize,
    /// Per sector the versions written since the last successful sync, oldest first.
    pending: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    /// Sectors whose sync failed: reads see them, no later sync writes them.
    doomed: BTreeMap<usize, [u8; SECTOR]>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put { name: String, file: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl NameChange {
    /// Makes the change; the file that had a name by it before.
    fn make(&self, names: &mut BTreeMap<String, u64>) -> Option<u64> {
        match self {
            Self::Put { name, file } => names.insert(name.clone(), *file),
            Self::Remove { name } => names.remove(name),
            // If the name that it changes was lost, the file has neither.
            Self::Rename { from, to } => names.remove(from).and_then(|file| names.insert(to.clone(), file)),
        }
    }

    fn is_of(&self, of: &str) -> bool {
        match self {
            Self::Put { name, .. } | Self::Remove { name } => name == of,
            Self::Rename { from, to } => from == of || to == of,
        }
    }

    fn shares_a_name_with(&self, other: &Self) -> bool {
        match self {
            Self::Put { name, .. } | Self::Remove { name } => other.is_of(name),
            Self::Rename { from, to } => other.is_of(from) || other.is_of(to),
        }
    }
}

/// A directory of files in memory. Cloning takes a snapshot.
///
/// ```
/// use towline_wal::io::Io;
/// use towline_wal::vdisk::{CrashKind, VirtualDisk};
/// let mut disk = VirtualDisk::new();
/// disk.create("a").unwrap();
/// disk.sync_dir().unwrap();
/// disk.write_at("a", 0, &["never synced".into()]).unwrap();
/// disk.crash(CrashKind::DropAll, &mut |_| 0);
/// assert_eq!(disk.len("a").unwrap(), 0);
/// assert_eq!(disk.stats().lost_bytes, 512);
/// ```
#[derive(Debug, Clone, Default)]
pub struct VirtualDisk {
    files: BTreeMap<u64, VirtualFile>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes that the directory's sync was for when it failed, oldest first: seen, and made durable by no later sync.
    doomed_name_changes: Vec<NameChange>,
    /// Changes since the last sync of the directory.
    name_changes: Vec<NameChange>,
    next_file: u64,
    locked: bool,
    /// Of the process that has the disk.
    directory_syncs: DirectorySyncs,
    entropy: u64,
    space: Option<u64>,
    is_read_only: bool,
    fail_syncs: BTreeMap<u64, ErrorKind>,
    fail_writes: BTreeSet<u64>,
    misplaced: BTreeMap<u64, Misplaced>,
    sync_count: u64,
    write_count: u64,
    bad_reads: Vec<BadRead>,
    stats: DiskStats,
}

#[derive(Debug, Clone)]
struct BadRead {
    name: String,
    from: u64,
    to: u64,
    times: u64,
}

impl VirtualDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk whose [`Io::entropy`] starts from `seed`.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self { entropy: seed, ..Self::default() }
    }

    /// Power fails. `chance(n)` returns a number below `n`; it is asked in a fixed order, so equal chances make equal
    /// disks.
    pub fn crash(&mut self, kind: CrashKind, chance: &mut dyn FnMut(u64) -> u64) {
        self.stats.crashes += 1;
        self.kill_process();
        self.crash_names(kind, chance);
        let lost_before = self.stats.lost_bytes;
        let mut files = std::mem::take(&mut self.files);
        for file in files.values_mut() {
            self.crash_file(file, kind, chance);
        }
        files.retain(|file, _| self.names.values().any(|named| named == file));
        self.files = files;
        self.stats.lossy_crashes += u64::from(self.stats.lost_bytes > lost_before);
    }

    fn crash_names(&mut self, kind: CrashKind, chance: &mut dyn FnMut(u64) -> u64) {
        let mut names = std::mem::take(&mut self.durable_names);
        let doomed = std::mem::take(&mut self.doomed_name_changes).into_iter().map(|change| (change, true));
        let pending = std::mem::take(&mut self.name_changes).into_iter().map(|change| (change, false));
        for (change, is_doomed) in doomed.chain(pending) {
            let kept = match kind {
                CrashKind::DropAll => false,
                CrashKind::KeepAll => !is_doomed,
                CrashKind::Chance => chance(2) == 0,
                CrashKind::Pages => chance(2) == 1,
            };
            if !kept {
                self.stats.lost_names += 1;
                continue;
            }
            change.make(&mut names);
        }
        self.durable_names.clone_from(&names);
        self.names = names;
    }

    fn crash_file(&mut self, file: &mut VirtualFile, kind: CrashKind, chance: &mut dyn FnMut(u64) -> u64) {
        self.stats.lost_bytes += u64::try_from(file.doomed.len() * SECTOR).unwrap_or(0);
        file.doomed.clear();
        let old_len = file.durable.len();
        let (mut kept_len, mut long) = (old_len, file.durable.clone());
        long.resize(file.len.max(old_len).next_multiple_of(SECTOR), 0);
        let mut page = (usize::MAX, false);
        for (sector, versions) in std::mem::take(&mut file.pending) {
            if kind == CrashKind::Pages && page.0 != sector / SECTORS_PER_PAGE {
                page = (sector / SECTORS_PER_PAGE, chance(2) == 1);
            }
            let choices = u64::try_from(versions.len()).unwrap_or(0);
            let kept = match kind {
                CrashKind::DropAll => 0,
                CrashKind::KeepAll => choices,
                CrashKind::Chance => chance(choices + 1),
                CrashKind::Pages => {
                    if page.1 {
                        choices
                    } else {
                        0
                    }
                }
            };
            if kept < choices {
                self.stats.lost_bytes += u64::try_from(SECTOR).unwrap_or(0);
            }
            let torn = kind == CrashKind::Chance && kept > 0 && chance(8) == 0;
            let Some(version) = usize::try_from(kept).ok().and_then(|n| n.checked_sub(1)).and_then(|n| versions.get(n))
            else {
                continue;
            };
            let cut = if torn { usize::try_from(chance(511)).unwrap_or(0) + 1 } else { SECTOR };
            self.stats.torn_sectors += u64::from(torn);
            let at = sector * SECTOR;
            if let (Some(to), Some(from)) = (long.get_mut(at..at + cut), version.get(..cut)) {
                to.copy_from_slice(from);
            }
            kept_len = kept_len.max((at + SECTOR).min(file.len));
        }
        if kind == CrashKind::KeepAll {
            kept_len = file.len;
        }
        long.truncate(kept_len.max(old_len.min(file.len)));
        file.len = long.len();
        file.durable = long;
    }

    /// The process died and the machine did not: everything written stays, the lock is free.
    pub fn kill_process(&mut self) {
        self.locked = false;
        self.directory_syncs = DirectorySyncs::default();
    }

    /// The `n`th sync from now fails (0: the next), once; what it should have made durable never will be.
    pub fn fail_sync_after(&mut self, n: u64) {
        self.fail_sync_as_after(ErrorKind::Other, n);
    }

    /// As [`VirtualDisk::fail_sync_after`], with this error.
    pub fn fail_sync_as_after(&mut self, kind: ErrorKind, n: u64) {
        self.fail_syncs.insert(self.sync_count + n, kind);
    }

    /// From now on, as after a system has found its disk at fault: whatever changes a file or a name is refused. Until
    /// faults are [cleared](VirtualDisk::clear_faults).
    pub const fn make_read_only(&mut self) {
        self.is_read_only = true;
    }

    /// The `n`th write from now fails (0: the next), once, with half of it written.
    pub fn fail_write_after(&mut self, n: u64) {
        self.fail_writes.insert(self.write_count + n);
    }

    /// The `n`th write from now (0: the next) is called good, and its bytes are nowhere, or somewhere else.
    pub fn misplace_write_after(&mut self, n: u64, place: Misplaced) {
        self.misplaced.insert(self.write_count + n, place);
    }

    /// Takes back every fault that was ordered and has not happened yet, and gives back all room.
    pub fn clear_faults(&mut self) {
        self.fail_syncs.clear();
        self.fail_writes.clear();
        self.misplaced.clear();
        self.bad_reads.clear();
        self.is_read_only = false;
        self.space = None;
    }

    /// Bounds the bytes of all files together; `None`: no bound. Once they are all taken, there is no room for a new name either.
    pub const fn set_space(&mut self, bytes: Option<u64>) {
        self.space = bytes;
    }

    /// Bytes of all files together that have a name, or had one durably.
    #[must_use]
    pub fn used(&self) -> u64 {
        let named = self.files.iter().filter(|(file, _)| self.has_a_name(**file));
        named.map(|(_, file)| u64::try_from(file.len).unwrap_or(u64::MAX)).sum()
    }

    fn sync_names(&mut self) -> Result<(), IoFailure> {
        self.may_write("sync", ".")?;
        let fails = self.fail_syncs.remove(&self.sync_count);
        self.sync_count += 1;
        if let Some(kind) = fails {
            self.doomed_name_changes.append(&mut self.name_changes);
            self.stats.failed_syncs += 1;
            return Err(IoFailure::new(kind, "sync", "."));
        }
        let changes = std::mem::take(&mut self.name_changes);
        // What was made of those names since is durable, and no crash brings back what was before.
        self.doomed_name_changes.retain(|doomed| !changes.iter().any(|change| change.shares_a_name_with(doomed)));
        for file in changes.iter().filter_map(|change| change.make(&mut self.durable_names)).collect::<Vec<_>>() {
            self.forget_if_gone(file);
        }
        Ok(())
    }

    fn has_a_name(&self, file: u64) -> bool {
        self.names.values().chain(self.durable_names.values()).any(|named| *named == file)
    }

    /// Forgets a file that has no name any more, and that no crash can bring back: one that keeps the change by which it came,
    /// and not the one by which it went, does.
    fn forget_if_gone(&mut self, file: u64) {
        let brings_back = |change: &NameChange| matches!(change, NameChange::Put { file: put, .. } if *put == file);
        let mut changes = self.doomed_name_changes.iter().chain(&self.name_changes);
        if !changes.any(brings_back) && !self.has_a_name(file) {
            self.files.remove(&file);
        }
    }

    /// Inverts one bit of a file, on the medium and in every cache. `false`: there is no such bit.
    pub fn flip_bit(&mut self, name: &str, bit: u64) -> bool {
        let Some(file) = self.names.get(name).and_then(|file| self.files.get_mut(file)) else {
            return false;
        };
        let Ok(at) = usize::try_from(bit / 8) else {
            return false;
        };
        let mask = 1_u8 << (bit % 8);
        if at >= file.len {
            return false;
        }
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= mask;
        }
        let pending = file.pending.get_mut(&(at / SECTOR)).into_iter().flatten();
        for sector in pending.chain(file.doomed.get_mut(&(at / SECTOR))) {
            if let Some(byte) = sector.get_mut(at % SECTOR) {
                *byte ^= mask;
            }
        }
        true
    }

    /// The next `times` reads that touch the range fail.
    pub fn fail_reads(&mut self, name: &str, range: std::ops::Range<u64>, times: u64) {
        self.bad_reads.push(BadRead { name: name.to_owned(), from: range.start, to: range.end, times });
    }

    /// What the disk did and lost.
    #[must_use]
    pub const fn stats(&self) -> DiskStats {
        self.stats
    }

    fn may_write(&self, operation: &'static str, name: &str) -> Result<(), IoFailure> {
        if self.is_read_only { Err(IoFailure::new(ErrorKind::ReadOnlyFilesystem, operation, name)) } else { Ok(()) }
    }

    fn file(&mut self, operation: &'static str, name: &str) -> Result<&mut VirtualFile, IoFailure> {
        let file = self.names.get(name).and_then(|file| self.files.get_mut(file));
        file.ok_or_else(|| IoFailure::new(ErrorKind::NotFound, operation, name))
    }
}

impl VirtualFile {
    fn sector(&self, sector: usize) -> [u8; SECTOR] {
        let newest = self.pending.get(&sector).and_then(|versions| versions.last());
        if let Some(bytes) = newest.or_else(|| self.doomed.get(&sector)) {
            return *bytes;
        }
        let mut bytes = [0; SECTOR];
        let stored = self.durable.get(sector * SECTOR..).unwrap_or_default();
        for (to, from) in bytes.iter_mut().zip(stored) {
            *to = *from;
        }
        bytes
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = at % SECTOR;
            let (now, later) = rest.split_at(rest.len().min(SECTOR - within));
            // What is overwritten whole need not be read.
            let mut sector = if now.len() == SECTOR { [0; SECTOR] } else { self.sector(at / SECTOR) };
            if let Some(to) = sector.get_mut(within..within + now.len()) {
                to.copy_from_slice(now);
            }
            // Most sectors are written once between two syncs: an empty Vec would make room for four at the first.
            self.pending.entry(at / SECTOR).or_insert_with(|| Vec::with_capacity(1)).push(sector);
            at += now.len();
            rest = later;
        }
        self.len = self.len.max(at);
    }

    fn sync(&mut self) {
        self.durable.resize(self.len.next_multiple_of(SECTOR).max(self.durable.len()), 0);
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let to = self.durable.get_mut(sector * SECTOR..(sector + 1) * SECTOR);
            if let (Some(to), Some(from)) = (to, versions.last()) {
                to.copy_from_slice(from);
            }
            self.doomed.remove(&sector);
        }
        self.durable.truncate(self.len);
    }
}

impl Io for VirtualDisk {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        // The holder's number is written into it.
        self.may_write("open", "LOCK")?;
        if self.locked {
            return Ok(LockOutcome::HeldBy(Some(self.process_id())));
        }
        self.locked = true;
        Ok(LockOutcome::Acquired)
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        Ok(self.names.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.may_write("create", name)?;
        if self.space.is_some_and(|space| self.used() >= space) {
            self.stats.no_space += 1;
            return Err(IoFailure::new(ErrorKind::StorageFull, "create", name));
        }
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, VirtualFile::default());
        self.names.insert(name.to_owned(), file);
        self.name_changes.push(NameChange::Put { name: name.to_owned(), file });
        Ok(())
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.file("measure", name).map(|file| u64::try_from(file.len).unwrap_or(u64::MAX))
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let end = offset + u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let hit = |bad: &BadRead| bad.name == name && bad.times > 0 && bad.from < end && bad.to > offset;
        if let Some(bad) = self.bad_reads.iter_mut().find(|bad| hit(bad)) {
            bad.times -= 1;
            self.stats.failed_reads += 1;
            return Err(IoFailure::new(ErrorKind::Other, "read", name));
        }
        let file = self.file("read", name)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let len = buffer.len().min(file.len.saturating_sub(start));
        let mut done = 0;
        while done < len {
            let at = start + done;
            let sector = file.sector(at / SECTOR);
            let from = sector.get(at % SECTOR..).unwrap_or_default();
            let to = buffer.get_mut(done..len).unwrap_or_default();
            let n = from.len().min(to.len());
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
            done += n;
        }
        Ok(len)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.may_write("write", name)?;
        self.stats.writes += 1;
        let fails = self.fail_writes.remove(&self.write_count);
        let misplaced = self.misplaced.remove(&self.write_count);
        self.write_count += 1;
        let space = self.space;
        // Not for every write of a disk of many files.
        let used = if space.is_some() { self.used() } else { 0 };
        let bytes = slices.concat();
        let (name, offset) = match &misplaced {
            None => (name, offset),
            Some(Misplaced::At { name, offset }) if self.names.contains_key(name) => (name.as_str(), *offset),
            Some(_) => return Ok(()),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let file = self.file("write", name)?;
        let growth = (start + bytes.len()).saturating_sub(file.len);
        let growth = u64::try_from(growth).unwrap_or(u64::MAX);
        if space.is_some_and(|space| growth > 0 && used + growth > space) {
            self.stats.no_space += 1;
            return Err(IoFailure::new(ErrorKind::StorageFull, "write", name));
        }
        if fails {
            file.write(start, bytes.get(..bytes.len() / 2).unwrap_or_default());
            return Err(IoFailure::new(ErrorKind::Other, "write", name));
        }
        file.write(start, &bytes);
        Ok(())
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.may_write("sync", name)?;
        let fails = self.fail_syncs.remove(&self.sync_count);
        self.sync_count += 1;
        let file = self.file("sync", name)?;
        if let Some(kind) = fails {
            // As Linux does: the pages are clean now, and not on the medium.
            for (sector, versions) in std::mem::take(&mut file.pending) {
                file.doomed.extend(versions.last().map(|bytes| (sector, *bytes)));
            }
            self.stats.failed_syncs += 1;
            return Err(IoFailure::new(kind, "sync", name));
        }
        file.sync();
        self.stats.syncs += 1;
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        let mut syncs = std::mem::take(&mut self.directory_syncs);
        let synced = syncs.run(|| self.sync_names());
        self.directory_syncs = syncs;
        synced
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.may_write("rename", from)?;
        let file = self.names.remove(from).ok_or_else(|| IoFailure::new(ErrorKind::NotFound, "rename", from))?;
        self.names.insert(to.to_owned(), file);
        self.name_changes.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.may_write("remove", name)?;
        let file = self.names.remove(name).ok_or_else(|| IoFailure::new(ErrorKind::NotFound, "remove", name))?;
        self.name_changes.push(NameChange::Remove { name: name.to_owned() });
        self.forget_if_gone(file);
        Ok(())
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.sync_data(name)?;
        let file = self.file("settle", name)?;
        file.doomed.clear();
        file.len = file.len.min(file.durable.len());
        Ok(())
    }

    fn free_bytes(&mut self) -> Result<Option<u64>, IoFailure> {
        Ok(self.space.map(|space| space.saturating_sub(self.used())))
    }

    fn entropy(&mut self) -> u64 {
        // splitmix64, as for salts: any spread will do, and the same run draws the same numbers.
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.entropy;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn process_id(&self) -> u32 {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_after(kind: CrashKind, answer: u64) -> Vec<String> {
        let mut disk = VirtualDisk::new();
        for name in ["a", "b"] {
            disk.create(name).unwrap();
        }
        disk.sync_dir().unwrap();
        disk.rename("a", "c").unwrap();
        disk.remove("b").unwrap();
        disk.create("d").unwrap();
        disk.fail_sync_after(0);
        disk.sync_dir().unwrap_err();
        assert_eq!(disk.list().unwrap(), ["c", "d"], "they are seen");
        disk.sync_dir().unwrap_err();
        disk.kill_process();
        // A name made anew is a change of its own.
        disk.create("d").unwrap();
        disk.create("e").unwrap();
        disk.sync_dir().unwrap();
        disk.crash(kind, &mut |_| answer);
        disk.list().unwrap()
    }

    #[test]
    fn what_a_failed_sync_of_the_directory_was_for_is_made_durable_by_no_later_one() {
        assert_eq!(names_after(CrashKind::DropAll, 0), ["a", "b", "d", "e"]);
        assert_eq!(names_after(CrashKind::KeepAll, 0), ["a", "b", "d", "e"]);
        assert_eq!(names_after(CrashKind::Chance, 1), ["a", "b", "d", "e"]);
        assert_eq!(names_after(CrashKind::Chance, 0), ["c", "d", "e"], "or it was durable all the same");
    }
}

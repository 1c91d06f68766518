//! The directory of files that a real log lives in.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{IoSlice, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::ahead::Ahead;
use super::aligned::ALIGNMENT;
use super::direct::{DIRECT, Stage, is_aligned};
use super::directory::{Directory, FileId, LOCK, Opened};
use super::names::DirectorySyncs;
use super::page_cache;
use super::{Io, IoFailure, LockOutcome, segment_number};

/// Files in one real directory, opened once and shared by its clones: each thread has its own clone.
///
/// Directories are made with mode 0700 and files with 0600: a log holds whatever the application wrote. The directory is
/// looked up when its lock is taken, or when it is first read, and stays that one wherever it is moved to. The lock, once
/// taken, is held until the last clone goes away.
///
/// ```
/// use towline_wal::io::{Io, LockOutcome, RealIo};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// // The log is open.
/// let mut io = RealIo::new(dir.path());
/// assert_eq!(io.lock(), Ok(LockOutcome::HeldBy(Some(std::process::id()))));
/// wal.close().unwrap();
/// assert_eq!(io.lock(), Ok(LockOutcome::Acquired));
/// assert!(io.list().unwrap().contains(&"MANIFEST".to_owned()));
/// ```
#[derive(Clone, Debug)]
pub struct RealIo {
    shared: Arc<Shared>,
    stage: Stage,
    written: Written,
    reader: Reader,
}

/// The segment that a clone last wrote to, past the page cache and through it: to sync it takes no other descriptor, of which
/// the process may have none left.
#[derive(Clone, Debug, Default)]
struct Written {
    directly: Option<NamedFile>,
    through_cache: Option<NamedFile>,
}

/// What a clone keeps of its reads past the page cache. Others begin with nothing: what an open has read would stay open, and
/// its room taken, for as long as the log is.
#[derive(Debug, Default)]
struct Reader {
    /// The segment that was last read so.
    last: Option<Opened>,
    ahead: Ahead,
}

impl Clone for Reader {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A segment that a clone keeps open by itself.
#[derive(Clone, Debug)]
struct NamedFile {
    name: String,
    opened: Opened,
    /// Of [`Shared::names`]: after any change of a name it is looked up again.
    names: u64,
}

/// The directory's lock, as long as this lives.
#[derive(Debug)]
struct Held(Arc<File>);

impl Drop for Held {
    fn drop(&mut self) {
        // A child that has not come to run its own program yet has the descriptor too, and would hold the lock until then. If
        // this fails, closing the file gives it back.
        drop(self.0.unlock());
    }
}

#[derive(Debug)]
struct Shared {
    directory: Directory,
    read_only: bool,
    /// Whether segments are written past the page cache; not any more once the file system refused.
    direct: AtomicBool,
    /// Counts changes of names.
    names: AtomicU64,
    syncs: Mutex<DirectorySyncs>,
    /// Counts looks into the page cache.
    probes: AtomicU64,
    files: Mutex<OpenFiles>,
    lock: Mutex<Option<Held>>,
}

/// Files kept open: the one being written, those being made, and the last few that somebody read. A log of any size
/// leaves the process its descriptors.
const OPEN_FILES_MAX: usize = 64;

/// Open files by name, each with the time of its last use.
#[derive(Debug, Default)]
struct OpenFiles {
    files: BTreeMap<String, (Opened, u64)>,
    uses: u64,
}

impl OpenFiles {
    fn get(&mut self, name: &str) -> Option<Opened> {
        self.uses += 1;
        let (file, used) = self.files.get_mut(name)?;
        *used = self.uses;
        Some(file.clone())
    }

    fn insert(&mut self, name: &str, file: Opened) {
        self.uses += 1;
        self.files.insert(name.to_owned(), (file, self.uses));
        if self.files.len() > OPEN_FILES_MAX {
            let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.remove(&name));
        }
    }

    fn remove(&mut self, name: &str) -> Option<Opened> {
        self.files.remove(name).map(|(file, _)| file)
    }
}

/// Bytes that the device is asked to begin with, behind those that are read once through the page cache.
const READ_AHEAD_BYTES: u64 = 8 << 20;

impl Shared {
    /// What is kept, if it is the file that has the name.
    fn kept(&self, kept: &mut Option<NamedFile>, name: &str) -> Option<Arc<File>> {
        let kept = kept.as_mut().filter(|kept| kept.name == name)?;
        // Acquire, and release where it is counted: a name that was seen to change is looked up again.
        let names = self.names.load(Ordering::Acquire);
        if kept.names != names {
            if !self.directory.is_named(name, kept.opened.id) {
                return None;
            }
            kept.names = names;
        }
        Some(Arc::clone(&kept.opened.file))
    }

    /// Opens a segment past the page cache; `None`: it can't be.
    fn open_directly(&self, name: &str, access: OFlags) -> Result<Option<Opened>, IoFailure> {
        match self.directory.open(name, access | DIRECT, "open") {
            Ok(opened) => Ok(Some(opened)),
            Err(failure) if failure.os_code.is_some_and(is_unsupported) => {
                self.direct.store(false, Ordering::Relaxed);
                Ok(None)
            }
            // Who made the file has another descriptor of it.
            Err(failure) if failure.os_code.is_some_and(is_exhaustion) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn goes_past_the_cache(&self, name: &str) -> bool {
        self.direct.load(Ordering::Relaxed) && segment_number(name).is_some()
    }

    /// A segment to write to past the page cache; `None`: it can't be.
    fn to_write(&self, kept: &mut Option<NamedFile>, name: &str) -> Result<Option<Arc<File>>, IoFailure> {
        if !self.goes_past_the_cache(name) {
            return Ok(None);
        }
        if let Some(file) = self.kept(kept, name) {
            return Ok(Some(file));
        }
        let names = self.names.load(Ordering::Acquire);
        let Some(opened) = self.open_directly(name, OFlags::WRONLY)? else { return Ok(None) };
        let file = Arc::clone(&opened.file);
        *kept = Some(NamedFile { name: name.to_owned(), opened, names });
        Ok(Some(file))
    }

    /// A segment to read past the page cache, if it is the file that is read through it: beside a writer, another one may have
    /// come to its name, or none. `None`: it can't be.
    fn to_read(&self, last: &mut Option<Opened>, name: &str, cached: FileId) -> Option<Arc<File>> {
        if !self.goes_past_the_cache(name) {
            return None;
        }
        if last.as_ref().is_none_or(|last| last.id != cached) {
            // Whatever is wrong with the name, there is a descriptor to read the file by.
            *last = Some(self.open_directly(name, OFlags::RDONLY).ok().flatten().filter(|file| file.id == cached)?);
        }
        last.as_ref().map(|last| Arc::clone(&last.file))
    }
}

impl RealIo {
    /// A directory to read and write. Nothing is touched yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self::with(dir.into(), false)
    }

    /// A directory only to read: for inspection beside a running writer.
    #[must_use]
    pub fn read_only(dir: impl Into<PathBuf>) -> Self {
        Self::with(dir.into(), true)
    }

    fn with(dir: PathBuf, read_only: bool) -> Self {
        let (files, direct) = (Mutex::new(OpenFiles::default()), AtomicBool::new(!DIRECT.is_empty()));
        let (directory, names) = (Directory::at(dir), AtomicU64::new(0));
        let (syncs, probes, lock) = (Mutex::default(), AtomicU64::default(), Mutex::new(None));
        let shared = Shared { directory, read_only, direct, names, syncs, probes, files, lock };
        Self::of(Arc::new(shared))
    }

    fn of(shared: Arc<Shared>) -> Self {
        Self { shared, stage: Stage::default(), written: Written::default(), reader: Reader::default() }
    }

    /// Writes and reads segments through the page cache, as a file system does that has no other way.
    #[must_use]
    pub fn buffered(self) -> Self {
        self.shared.direct.store(false, Ordering::Relaxed);
        self
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.shared.directory.path()
    }

    fn file(&self, name: &str) -> Result<Opened, IoFailure> {
        let mut files = self.shared.files.lock();
        if let Some(file) = files.get(name) {
            return Ok(file);
        }
        let access = if self.shared.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let file = self.shared.directory.open(name, access, "open")?;
        files.insert(name, file.clone());
        Ok(file)
    }

    /// A file to write to through the page cache.
    fn file_to_write(&mut self, name: &str) -> Result<Arc<File>, IoFailure> {
        let kept = &mut self.written.through_cache;
        if let Some(file) = self.shared.kept(kept, name) {
            return Ok(file);
        }
        let names = self.shared.names.load(Ordering::Acquire);
        let opened = self.file(name)?;
        let file = Arc::clone(&opened.file);
        // No others: a file that is removed takes its room as long as it is open.
        if segment_number(name).is_some() {
            self.written.through_cache = Some(NamedFile { name: name.to_owned(), opened, names });
        }
        Ok(file)
    }

    /// Whether it was written past the page cache; `false`: nothing that counts was, and it is to be written through it.
    fn write_directly(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<bool, IoFailure> {
        if !Stage::suits(offset, slices) {
            return Ok(false);
        }
        let Some(file) = self.shared.to_write(&mut self.written.directly, name)? else {
            return Ok(false);
        };
        match self.stage.write(&file, offset, slices) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.shared.direct.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(IoFailure::from_error(&error.into(), "write", name)),
        }
    }

    /// Reads whole blocks past the page cache, as many bytes as there are up to the file's last whole block; none where that
    /// does not work.
    fn read_directly(
        &mut self,
        name: &str,
        cached: FileId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, IoFailure> {
        let Some(file) = self.shared.to_read(&mut self.reader.last, name, cached) else { return Ok(0) };
        let mut done = 0_usize;
        while done.is_multiple_of(ALIGNMENT)
            && let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty())
        {
            match rustix::io::pread(&*file, rest, offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX))) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.shared.direct.store(false, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(IoFailure::from_error(&error.into(), "read", name)),
            }
        }
        Ok(done)
    }

    /// Past the page cache: copying zeroes through it took a third of a busy log's processor time, and pushed out
    /// what readers of the log may still want (docs/src/measurements.md).
    fn write_zeroes_directly(&self, name: &str, len: u64) -> Result<(), IoFailure> {
        let failed = |error: Errno| IoFailure::from_error(&error.into(), "fill", name);
        let file = self.shared.directory.open(name, OFlags::WRONLY | DIRECT, "fill")?.file;
        let mut at = 0;
        while at < len {
            let chunk = super::zeroes(usize::try_from(len - at).unwrap_or(usize::MAX));
            match rustix::io::pwrite(&*file, &chunk, at) {
                Ok(0) => return Err(failed(Errno::IO)),
                Ok(written) => at += u64::try_from(written).unwrap_or(u64::MAX),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Gives the directory's lock back; the files stay open.
    pub(crate) fn unlock(&self) {
        *self.shared.lock.lock() = None;
    }

    /// Another file, or none, is to have the name. What is open of the one that has it takes its room until it is closed.
    fn forget(&mut self, name: &str) {
        let Written { directly, through_cache } = &mut self.written;
        for kept in [directly, through_cache] {
            kept.take_if(|kept| kept.name == name);
        }
        self.shared.names.fetch_add(1, Ordering::Release);
        self.shared.files.lock().remove(name);
    }
}

/// Whether the system's number for an error says that there are no descriptors left, or no memory.
pub(super) fn is_exhaustion(code: i32) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS].map(Errno::raw_os_error).contains(&code)
}

/// Whether the system's number for an error says that there is no way past the page cache.
fn is_unsupported(code: i32) -> bool {
    [Errno::INVAL, Errno::OPNOTSUPP].map(Errno::raw_os_error).contains(&code)
}

impl Io for RealIo {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        let failed = |operation| move |e: std::io::Error| IoFailure::from_error(&e, operation, LOCK);
        self.shared.directory.make().map_err(failed("create the directory of"))?;
        self.look_again();
        let file = self.shared.directory.open(LOCK, OFlags::RDWR | OFlags::CREATE, "open")?.file;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a courtesy: unreadable means unknown.
                let pid = (&*file).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Ok(LockOutcome::HeldBy(pid));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock")(e)),
        }
        let held = Held(Arc::clone(&file));
        file.set_len(0).map_err(failed("empty"))?;
        // A full disk must not keep anybody from opening: the pid is only told to a second opener.
        drop(writeln!(&*file, "{}", self.process_id()));
        *self.shared.lock.lock() = Some(held);
        Ok(LockOutcome::Acquired)
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.shared.directory.list()
    }

    fn look_again(&mut self) {
        self.reader.ahead.cancel();
        self.shared.names.fetch_add(1, Ordering::Release);
        self.shared.files.lock().files.clear();
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.forget(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let file = self.shared.directory.open(name, flags, "create")?;
        self.shared.files.lock().insert(name, file);
        Ok(())
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.file(name)?.file.metadata().map(|m| m.len()).map_err(|e| IoFailure::from_error(&e, "measure", name))
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let file = self.file(name)?.file;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match file.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(IoFailure::from_error(&e, "read", name)),
            }
        }
        Ok(done)
    }

    fn read_once(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        let mut done = 0;
        let range = offset..offset.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        // Another block each time, whoever asks: one that was asked for may have come to be in the cache by that.
        let probe = self.shared.probes.fetch_add(1, Ordering::Relaxed);
        let cached = self.file(name)?;
        if !page_cache::seems_to_hold(&cached.file, &range, probe) {
            if is_aligned(offset, buffer) {
                done = self.read_directly(name, cached.id, offset, buffer)?;
            }
            if done == 0 {
                self.will_read(name, range.start..range.end.saturating_add(READ_AHEAD_BYTES));
            }
        }
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        Ok(done.saturating_add(self.read_at(name, at, buffer.get_mut(done..).unwrap_or_default())?))
    }

    fn begin_read(&mut self, name: &str, len: u64) {
        // What goes wrong is found by who reads it.
        let len = self.len(name).unwrap_or(0).min(len);
        self.reader.ahead.begin(Self::of(Arc::clone(&self.shared)), name, usize::try_from(len).unwrap_or(0));
    }

    fn take_read(&mut self, name: &str, len: usize) -> Option<Bytes> {
        self.reader.ahead.take(name, len)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.reader.ahead.cancel();
        if self.write_directly(name, offset, slices)? {
            return Ok(());
        }
        let file = self.file_to_write(name)?;
        let mut at = offset;
        let mut views: Vec<IoSlice<'_>> = slices.iter().map(|s| IoSlice::new(s)).collect();
        let mut rest: &mut [IoSlice<'_>] = &mut views;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // One vectored write for a group: the system takes at most 1,024 slices a call.
            let batch = rest.get(..rest.len().min(1024)).unwrap_or_default();
            match rustix::io::pwritev(&*file, batch, at) {
                Ok(0) => return Err(IoFailure::new(std::io::ErrorKind::WriteZero, "write", name)),
                Ok(n) => {
                    at = at.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(IoFailure::from_error(&e.into(), "write", name)),
            }
        }
        Ok(())
    }

    fn write_zeroes(&mut self, name: &str, len: u64) -> Result<(), IoFailure> {
        if !self.shared.direct.load(Ordering::Relaxed) {
            return super::fill_by_writes(self, name, len);
        }
        match self.write_zeroes_directly(name, len) {
            // Not every file system does that.
            Err(failure) if failure.os_code.is_some_and(is_unsupported) => super::fill_by_writes(self, name, len),
            written => written,
        }
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        let Written { directly, through_cache } = &mut self.written;
        let kept = self.shared.kept(directly, name).or_else(|| self.shared.kept(through_cache, name));
        let file = kept.map_or_else(|| self.file(name).map(|opened| opened.file), Ok)?;
        file.sync_data().map_err(|e| IoFailure::from_error(&e, "sync", name))
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        // One at a time: who is behind a failure must not have begun before it was told.
        let mut syncs = self.shared.syncs.lock();
        syncs.run(|| self.shared.directory.sync().map_err(|e| IoFailure::from_error(&e, "sync", ".")))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.reader.ahead.cancel();
        let renamed = self.shared.directory.rename(from, to);
        renamed.map_err(|e| IoFailure::from_error(&e, "rename", from))?;
        self.shared.names.fetch_add(1, Ordering::Release);
        let mut files = self.shared.files.lock();
        files.remove(to);
        if let Some(file) = files.remove(from) {
            files.insert(to, file);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.reader.ahead.cancel();
        self.forget(name);
        self.shared.directory.remove(name).map_err(|e| IoFailure::from_error(&e, "remove", name))
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.reader.ahead.cancel();
        self.sync_data(name)?;
        // Pages whose write-back failed are clean in the cache and not on the medium. Advice may be ignored (by a
        // file system in memory, say); then there is no medium to differ from.
        page_cache::forget(&self.file(name)?.file);
        Ok(())
    }

    fn will_read(&mut self, name: &str, range: Range<u64>) {
        // What goes wrong is found by who reads it.
        if let Ok(file) = self.file(name) {
            page_cache::read_ahead(&file.file, range);
        }
    }

    fn forget_cached(&mut self, name: &str, range: Range<u64>) {
        // As above.
        if let Ok(file) = self.file(name) {
            page_cache::forget_range(&file.file, range);
        }
    }

    fn free_bytes(&mut self) -> Result<Option<u64>, IoFailure> {
        let free = self.shared.directory.free_bytes();
        free.map(Some).map_err(|e| IoFailure::from_error(&e, "measure the room of", "."))
    }

    fn entropy(&mut self) -> u64 {
        // The standard library's hash keys come from the system's random source; each call of `new` has its own.
        RandomState::new().hash_one(std::process::id())
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn blocks(byte: u8, count: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![byte; count * 4096])]
    }

    fn read(io: &mut RealIo, name: &str, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(io.read_at(name, offset, &mut bytes).unwrap(), len);
        bytes
    }

    #[test]
    fn writes_past_the_cache_and_through_it_see_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let name = crate::io::segment_name(1);
        for mut io in [RealIo::new(dir.path()), RealIo::new(dir.path()).buffered()] {
            io.create(&name).unwrap();
            io.write_zeroes(&name, 1 << 20).unwrap();
            io.write_at(&name, 0, &blocks(1, 2)).unwrap();
            assert_eq!(read(&mut io, &name, 0, 8192), [1; 8192]);
            // Too short for the device: through the cache, into a block that was written past it.
            io.write_at(&name, 4000, &[Bytes::from_static(&[2; 200])]).unwrap();
            assert_eq!(read(&mut io, &name, 4000, 200), [2; 200]);
            io.write_at(&name, 4096, &blocks(3, 1)).unwrap();
            io.sync_data(&name).unwrap();
            let mut expected = [vec![1; 4000], vec![2; 96], vec![3; 4096]].concat();
            expected.resize(12_288, 0);
            assert_eq!(read(&mut io, &name, 0, 12_288), expected);
        }
    }

    #[test]
    fn what_is_read_once_is_what_is_there_wherever_it_begins_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let name = crate::io::segment_name(1);
        // Not whole blocks, as a file is that was cut short.
        let content: Vec<u8> = (0..3 * 4096 + 1000_usize).map(|i| (i % 251) as u8).collect();
        std::fs::write(dir.path().join(&name), &content).unwrap();
        for mut io in [RealIo::new(dir.path()), RealIo::new(dir.path()).buffered()] {
            let mut memory = crate::io::Aligned::default();
            for offset in [0, 1, 4096, 8192, 12_288, 13_287, 13_288, 16_384, 20_000] {
                for len in [0, 1, 100, 4096, 5000, 8192, 16_384, 20_480] {
                    // Out of the page cache, and in it.
                    for warm in [false, true] {
                        io.settle(&name).unwrap();
                        let mut through = vec![0; len];
                        let there = if warm { io.read_at(&name, offset, &mut through).unwrap() } else { 0 };
                        let room = memory.room(len);
                        room.fill(0xAA);
                        let read = io.read_once(&name, offset, room).unwrap();
                        let from = usize::try_from(offset).unwrap().min(content.len());
                        let expected = &content[from..content.len().min(from + len)];
                        assert_eq!(&room[..read], expected, "{len} bytes from {offset}");
                        assert!(!warm || there == read);
                    }
                }
            }
        }
        let missing = RealIo::new(dir.path()).read_once("0000000000000002.seg", 0, &mut [0; 4096]).unwrap_err();
        assert_eq!(missing.kind, std::io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_read_once_is_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let name = crate::io::segment_name(1);
        let (mut writer, mut memory) = (RealIo::new(dir.path()), crate::io::Aligned::default());
        let mut reader = writer.clone();
        writer.create(&name).unwrap();
        writer.write_zeroes(&name, 16_384).unwrap();
        writer.settle(&name).unwrap();
        for round in 1..20_u8 {
            // Past the cache, then through it, not synced: the pages are dirty.
            writer.write_at(&name, 4096, &blocks(round, 1)).unwrap();
            writer.write_at(&name, 10_000, &[Bytes::copy_from_slice(&[round; 100])]).unwrap();
            let room = memory.room(16_384);
            assert_eq!(reader.read_once(&name, 0, room).unwrap(), 16_384);
            assert_eq!(room[4096..8192], [round; 4096]);
            assert_eq!(room[10_000..10_100], [round; 100]);
        }
        // Another file under the name, as compaction installs one.
        let spare = crate::io::segment_name(2);
        writer.create(&spare).unwrap();
        writer.write_at(&spare, 0, &blocks(99, 4)).unwrap();
        writer.settle(&spare).unwrap();
        writer.rename(&spare, &name).unwrap();
        let room = memory.room(16_384);
        assert_eq!(reader.read_once(&name, 0, room).unwrap(), 16_384);
        assert_eq!(room, [99; 16_384]);
    }

    #[test]
    fn what_is_read_beside_a_writer_is_of_one_file_until_names_are_looked_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let (name, spare) = (crate::io::segment_name(1), crate::io::segment_name(2));
        let (mut writer, mut memory) = (RealIo::new(dir.path()), crate::io::Aligned::default());
        let mut guest = RealIo::read_only(dir.path());
        for (file, byte) in [(&name, 1), (&spare, 9)] {
            writer.create(file).unwrap();
            writer.write_at(file, 0, &blocks(byte, 16)).unwrap();
        }
        assert_eq!(read(&mut guest, &name, 0, 4096), [1; 4096]);
        // Nothing of it is in the page cache; then a compacted file gets its name.
        writer.settle(&name).unwrap();
        writer.settle(&spare).unwrap();
        writer.rename(&spare, &name).unwrap();
        let room = memory.room(65_536);
        assert_eq!(guest.read_once(&name, 0, room).unwrap(), 65_536);
        assert_eq!(room, [1; 65_536]);
        guest.look_again();
        assert_eq!(guest.read_once(&name, 0, room).unwrap(), 65_536);
        assert_eq!(room, [9; 65_536]);
        assert_eq!(read(&mut guest, &name, 0, 4096), [9; 4096]);
    }

    #[test]
    fn the_lock_is_given_back_also_while_a_child_has_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let mut io = RealIo::new(dir.path());
        for is_dropped in [false, true] {
            assert_eq!(io.lock().unwrap(), LockOutcome::Acquired);
            // What a child shares between its fork and its own program.
            let child = io.shared.lock.lock().as_ref().unwrap().0.try_clone().unwrap();
            let pid = std::process::id();
            assert_eq!(RealIo::new(dir.path()).lock().unwrap(), LockOutcome::HeldBy(Some(pid)));
            if is_dropped {
                io = RealIo::new(dir.path());
            } else {
                io.unlock();
            }
            assert_eq!(RealIo::new(dir.path()).lock().unwrap(), LockOutcome::Acquired);
            drop(child);
        }
    }

    #[test]
    fn what_was_begun_to_be_read_is_not_taken_after_a_change_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let (name, spare) = (crate::io::segment_name(1), crate::io::segment_name(2));
        let mut io = RealIo::new(dir.path());
        for (file, byte) in [(&name, 1), (&spare, 2)] {
            io.create(file).unwrap();
            io.write_at(file, 0, &blocks(byte, 2)).unwrap();
        }
        io.begin_read(&name, 1 << 20);
        assert_eq!(io.take_read(&name, 8192).unwrap(), vec![1; 8192], "as much as there is");
        type Change<'a> = &'a dyn Fn(&mut RealIo);
        let changes: [Change<'_>; 4] = [
            &|io| io.write_at(&name, 0, &blocks(3, 1)).unwrap(),
            &|io| io.settle(&name).unwrap(),
            &|io| io.rename(&spare, &name).unwrap(),
            &|io| io.remove(&name).unwrap(),
        ];
        for change in changes {
            io.begin_read(&name, 8192);
            change(&mut io);
            assert!(io.take_read(&name, 8192).is_none());
        }
    }

    #[test]
    fn a_name_that_came_to_another_file_is_written_there() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut other) = (RealIo::new(dir.path()), RealIo::new(dir.path()));
        other.shared = Arc::clone(&writer.shared);
        let (name, spare) = (crate::io::segment_name(1), crate::io::segment_name(2));
        for file in [&name, &spare] {
            other.create(file).unwrap();
            other.write_zeroes(file, 8192).unwrap();
        }
        writer.write_at(&name, 0, &blocks(1, 1)).unwrap();
        // As a compaction does on its own thread.
        other.rename(&spare, &name).unwrap();
        writer.write_at(&name, 4096, &blocks(2, 1)).unwrap();
        assert_eq!(read(&mut other, &name, 0, 8192), [vec![0; 4096], vec![2; 4096]].concat());
    }
}

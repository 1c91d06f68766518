//! The directory itself: opened once, so that what is done in it is done where its lock is, whatever its path comes to name
//! later.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::{IoFailure, Oddity, is_unready_name, names, segment_number};
use crate::format::manifest::{MANIFEST_NAME, MANIFEST_UNREADY_NAME};

pub(super) const LOCK: &str = "LOCK";

/// A directory by its path, and what was found there when it was first needed.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    opened: Mutex<Option<Arc<File>>>,
}

/// An open file.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    pub(super) id: FileId,
}

/// Which file it is: as long as it is open, no other one has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(stat: &Stat) -> Self {
        Self { device: widened(stat.st_dev), inode: widened(stat.st_ino) }
    }
}

/// Systems have these numbers in integers of several kinds.
fn widened(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

fn oddity(kind: FileType) -> Option<Oddity> {
    match kind {
        FileType::RegularFile => None,
        FileType::Symlink => Some(Oddity::Link),
        _ => Some(Oddity::Special),
    }
}

impl Directory {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path, opened: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it where it is missing, and is the one that has the path now.
    pub(super) fn make(&self) -> std::io::Result<()> {
        create_durably(&self.path)?;
        *self.opened.lock() = Some(Arc::new(self.find()?));
        Ok(())
    }

    fn find(&self) -> std::io::Result<File> {
        let path = if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(File::from(retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?))
    }

    fn handle(&self) -> std::io::Result<Arc<File>> {
        let mut opened = self.opened.lock();
        if let Some(opened) = &*opened {
            return Ok(Arc::clone(opened));
        }
        Ok(Arc::clone(opened.insert(Arc::new(self.find()?))))
    }

    /// Opens a regular file, and nothing else: behind a link it would be one of another directory, a pipe would hold who opens
    /// it until somebody writes to it.
    pub(super) fn open(&self, name: &str, flags: OFlags, operation: &'static str) -> Result<Opened, IoFailure> {
        let failed = |error: std::io::Error| IoFailure::from_error(&error, operation, name);
        let directory = self.handle().map_err(failed)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let private = Mode::RUSR | Mode::WUSR;
        let file = match retry_on_intr(|| rustix::fs::openat(&*directory, name, flags, private)) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(IoFailure::not_a_file(name, Oddity::Link)),
            // Directories, and pipes that nobody reads, are not opened to write.
            Err(Errno::ISDIR | Errno::NXIO) => return Err(IoFailure::not_a_file(name, Oddity::Special)),
            Err(error) => return Err(failed(error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        match oddity(FileType::from_raw_mode(stat.st_mode)) {
            None => Ok(Opened { file: Arc::new(file), id: FileId::of(&stat) }),
            Some(what) => Err(IoFailure::not_a_file(name, what)),
        }
    }

    /// Whether the file has the name; this takes no descriptor.
    pub(super) fn is_named(&self, name: &str, file: FileId) -> bool {
        self.handle().is_ok_and(|directory| {
            rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| FileId::of(&stat) == file)
        })
    }

    /// All names, sorted. One of a log's own that is no file refuses: nothing else would, where what can't be opened is taken
    /// for damage.
    pub(super) fn list(&self) -> Result<Vec<String>, IoFailure> {
        let failed = |error: std::io::Error| IoFailure::from_error(&error, "list", ".");
        let directory = match self.handle() {
            Ok(directory) => directory,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&*directory).map_err(|error| failed(error.into()))? {
            let entry = entry.map_err(|error| failed(error.into()))?;
            // A name that is not UTF-8 is not one of ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            if is_of_a_log(name) {
                let kind = match entry.file_type() {
                    FileType::Unknown => match rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        // A writer has given it up meanwhile.
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(failed(error.into())),
                    },
                    known => known,
                };
                if let Some(what) = oddity(kind) {
                    return Err(IoFailure::not_a_file(name, what));
                }
            }
            names.push(name.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        let directory = self.handle()?;
        Ok(rustix::fs::renameat(&*directory, from, &*directory, to)?)
    }

    pub(super) fn remove(&self, name: &str) -> std::io::Result<()> {
        Ok(rustix::fs::unlinkat(&*self.handle()?, name, AtFlags::empty())?)
    }

    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.handle()?.sync_all()
    }

    /// Of the file system on which it is, or would be made.
    pub(super) fn free_bytes(&self) -> std::io::Result<u64> {
        let stat = match self.handle() {
            Ok(directory) => rustix::fs::fstatvfs(&*directory)?,
            Err(_) => {
                let there = self.path.ancestors().find(|path| path.exists());
                let there = there.filter(|path| !path.as_os_str().is_empty());
                rustix::fs::statvfs(there.unwrap_or_else(|| Path::new(".")))?
            }
        };
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn is_of_a_log(name: &str) -> bool {
    [LOCK, MANIFEST_NAME, MANIFEST_UNREADY_NAME].contains(&name)
        || segment_number(name).is_some()
        || is_unready_name(name)
        || names::marked(name).is_some()
}

/// Makes a directory and those above it that are missing, each durable in its parent before anything is put inside;
/// otherwise a power cut could take a log whose files were all synced. One that is there and holds nothing may be of a
/// process that did not live to sync it.
fn create_durably(dir: &Path) -> std::io::Result<()> {
    let made = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    if !made || dir.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !dir.is_dir() {
        if !parent.is_dir() {
            create_durably(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    File::open(parent)?.sync_all()
}

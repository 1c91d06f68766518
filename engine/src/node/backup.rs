//! Backups: the state of one moment, and the logs that led there, in a folder of files; and back.
//!
//! ```text
//! BACKUP            what is in it; written last, so that a folder without it is none
//! state/…           RocksDB's files, of one moment
//! log/<shard>.log   the batches of each shard's log up to that moment, each behind its length (u32, little-endian)
//! ```
//!
//! Everything that is promised goes along: sessions (a request that was executed is not executed again), the history that a
//! feed can read, the followers, the policies. What a restored node writes is another history than what the old one may have
//! written since: it begins a new version of every shard's epochs, so that a position of the one is never taken for one of
//! the other.

use super::NodeOptions;
use super::hosting::ShardHandle;
use super::identity::{self, Identity, IdentityError};
use super::pins::Pin;
use super::positions::Waited;
use super::shard::{after, now, wall_micros};
use crate::control::{Catalog, CatalogError, ConfigMaster};
use crate::model::catalog_record::CatalogRecord;
use crate::model::codec::{self, CodecError};
use crate::model::limits::LOG_QUEUE_BYTES;
use crate::model::request::FailureClass;
use crate::model::{
    BackupFile, BackupLog, BackupManifest, BackupPosition, Budget, Chain, Epoch, LogId, LogPosition, Lsn, NodeId,
    ShardId,
};
use crate::replica::Promise;
use crate::state::{RocksStore, StoreError, applied_of};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use towline_wal::limits::BATCH_BYTES_MAX;
use towline_wal::{Batch, BatchError, Entry, HardStateKind, ReadError as LogReadError, Wal, WalError};

/// The file that makes a folder a backup.
const MANIFEST: &str = "BACKUP";
const MANIFEST_TEMPORARY: &str = "BACKUP.new";
const STATE: &str = "state";
const LOG: &str = "log";
/// Bytes read at a time, and between two looks at the pace.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Bytes of batches on their way to a new log.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Versions of a shard's homes are a cluster's ordinal apart.
const NEXT_VERSION: u64 = 1024;

/// How a backup is taken.
///
/// ```
/// use towline::node::{BackupOptions, Node, NodeOptions, restore, verify_backup};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let (backup, again) = (directory.path().join("backup"), directory.path().join("again"));
/// let report = node.backup(&backup, &BackupOptions::default().bytes_per_second(50 << 20))?;
/// assert_eq!(verify_backup(&backup)?, report);
/// restore(&backup, &again)?;
/// Node::open(NodeOptions::alone(again))?.close()?;
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct BackupOptions {
    /// Bytes a second that are read at the most, beside what the node does; none: as many as there are.
    pub bytes_per_second: Option<u64>,
}

impl BackupOptions {
    /// At this pace at the most.
    #[must_use]
    pub const fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }
}

/// What a backup or a restored directory holds.
///
/// ```
/// use towline::node::{BackupOptions, Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let written = node.default_namespace().put("a", "1")?.wait()?;
/// let report = node.backup(&directory.path().join("backup"), &BackupOptions::default())?;
/// let held = report.shards.iter().find(|(shard, _)| *shard == written.shard);
/// assert!(held.is_some_and(|(_, last)| *last >= written.lsn), "what was acknowledged before is in it");
/// assert!(report.namespaces == 1 && report.bytes > 0);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// When the backup was taken: microseconds since 1970.
    pub time_micros: u64,
    /// Namespaces.
    pub namespaces: usize,
    /// Each shard, and the last record of it.
    pub shards: Vec<(ShardId, Lsn)>,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Why there is no backup, or nothing was restored.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6301 | fix the request | name a directory that is not there yet |
/// | TW-6302 | fix the request | name a folder that holds a whole backup |
/// | TW-6303 | damage | the backup is damaged at that file: take another one |
/// | TW-6304 | operator | what the operating system says |
/// | TW-6305 | retry | a namespace was dropped meanwhile, or the node is closed |
/// | TW-6306 | the state's own | the state can't be copied or opened: see [`StoreError`] |
/// | TW-6307 | damage, or retry | the log can't be read: repair it; or the device can't read at the moment |
/// | TW-6308, TW-6309 | operator | the new log can't be opened or written: as the sentence says |
/// | TW-6310 | fix the request | back up a node that is alone |
///
/// ```
/// use towline::model::request::FailureClass;
/// use towline::node::{BackupError, BackupOptions, Node, NodeOptions, restore, verify_backup};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let (backup, again) = (directory.path().join("backup"), directory.path().join("again"));
/// node.backup(&backup, &BackupOptions::default())?;
/// std::fs::write(backup.join("log/1024.log"), "rotten")?;
/// match verify_backup(&backup) {
///     Err(BackupError::Damaged { path, .. }) => assert!(path.ends_with("log/1024.log")),
///     other => panic!("{other:?}"),
/// }
/// let error = restore(&backup, &again).unwrap_err();
/// assert_eq!((error.code(), error.class()), (6303, FailureClass::Damage));
/// assert!(!again.exists(), "what was begun is removed");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The directory is there already.
    #[error("{} is there already: name a directory that is not", .0.display())]
    Exists(PathBuf),
    /// The folder is no backup, or not a whole one.
    #[error("{} is no whole backup: {source}", .path.display())]
    NotABackup {
        /// The file that says what is in it.
        path: PathBuf,
        /// What is wrong with that.
        source: ManifestError,
    },
    /// A file of the backup is not what it was.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Several nodes vote: one of them alone can't be restored.
    #[error("node {0} is one of several: this release backs up only a node that is alone")]
    NotAlone(NodeId),
    /// The node was closed, or a namespace dropped, while the backup was taken.
    #[error("the node was closed, or a namespace dropped, while the backup was taken")]
    Interrupted,
    /// The state can't be copied or opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] LogReadError),
    /// The new log can't be opened.
    #[error(transparent)]
    OpenLog(#[from] towline_wal::OpenError),
    /// The new log can't be written.
    #[error(transparent)]
    WriteLog(#[from] WalError),
}

/// What is wrong with a backup's manifest.
///
/// ```
/// use towline::node::{BackupError, BackupOptions, ManifestError, Node, NodeOptions, verify_backup};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let backup = directory.path().join("backup");
/// node.backup(&backup, &BackupOptions::default())?;
/// # node.close()?;
/// // A copy of it was broken off: what says what is in it came last, and is cut short.
/// let manifest = backup.join("BACKUP");
/// std::fs::write(&manifest, &std::fs::read(&manifest)?[..20])?;
/// let Err(BackupError::NotABackup { path, source }) = verify_backup(&backup) else { panic!("it is no backup") };
/// assert!(path == manifest && matches!(source, ManifestError::Codec(_)));
/// std::fs::remove_file(&manifest)?;
/// let missing = verify_backup(&backup).unwrap_err();
/// assert!(matches!(missing, BackupError::NotABackup { source: ManifestError::Io(_), .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not one.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Its catalog contradicts itself.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// It names a file outside of the backup.
    #[error("it names the file {0:?}")]
    Path(String),
}

impl BackupError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Exists(_) => 6301,
            Self::NotABackup { .. } => 6302,
            Self::Damaged { .. } => 6303,
            Self::Io { .. } => 6304,
            Self::Interrupted => 6305,
            Self::Store(_) => 6306,
            Self::Log(_) => 6307,
            Self::OpenLog(_) => 6308,
            Self::WriteLog(_) => 6309,
            Self::NotAlone(_) => 6310,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Exists(_) | Self::NotABackup { .. } | Self::NotAlone(_) => FailureClass::FixRequest,
            Self::Damaged { .. } => FailureClass::Damage,
            Self::Interrupted => FailureClass::Retry,
            Self::Store(store) => store.class(),
            // As of a feed that reads it.
            Self::Log(LogReadError::Io(_)) => FailureClass::Retry,
            Self::Log(_) => FailureClass::Damage,
            Self::Io { .. } | Self::OpenLog(_) | Self::WriteLog(_) => FailureClass::Operator,
        }
    }
}

impl From<IdentityError> for BackupError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Io { path, source } => Self::Io { path, source },
            other => Self::Io { path: PathBuf::new(), source: io::Error::other(other) },
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    |source| BackupError::Io { path, source }
}

impl super::Node {
    /// Takes a backup while the node serves: everything that was acknowledged before this was called is in it.
    ///
    /// ```
    /// use towline::model::Read;
    /// use towline::node::{BackupOptions, Node, NodeOptions, restore};
    /// let directory = tempfile::tempdir()?;
    /// let (data, backup, again) = ["data", "backup", "again"].map(|name| directory.path().join(name)).into();
    /// let node = Node::open(NodeOptions::alone(&data))?;
    /// node.default_namespace().put("a", "1")?.wait()?;
    /// node.backup(&backup, &BackupOptions::default())?;
    /// node.close()?;
    ///
    /// restore(&backup, &again)?;
    /// let node = Node::open(NodeOptions::alone(&again))?;
    /// assert!(node.default_namespace().get("a", Read::Linearizable)?.is_some());
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`BackupError`]; what was begun is removed again.
    pub fn backup(&self, to: &Path, options: &BackupOptions) -> Result<BackupReport, BackupError> {
        let _span = tracing::info_span!("backup", to = %to.display()).entered();
        if !self.shared.host.is_alone() {
            return Err(BackupError::NotAlone(self.shared.host.node));
        }
        create_alone(to)?;
        let taken = self.take_backup(to, options);
        if taken.is_err()
            && let Err(error) = fs::remove_dir_all(to)
        {
            tracing::warn!(%error, path = %to.display(), "what there is of a backup could not be removed");
        }
        taken
    }

    fn take_backup(&self, to: &Path, options: &BackupOptions) -> Result<BackupReport, BackupError> {
        let shared = &self.shared;
        let wal = &*shared.host.wal;
        // Pinned first: what leads to the state that is copied next stays until it is copied as well.
        let nothing_goes = shared.letting_go.read();
        let (catalog, shards) = shared.registry.catalog_and_shards().ok_or(BackupError::Interrupted)?;
        let unlimited = Budget { bytes: u64::MAX, age: Duration::MAX };
        let pins: Vec<(Arc<ShardHandle>, Pin)> =
            shards.into_iter().map(|shard| (Arc::clone(&shard), shard.pins.pin(Lsn::ZERO, unlimited))).collect();
        drop(nothing_goes);
        for (shard, _) in &pins {
            // Who was answered as soon as a write was durable finds it in the backup, too.
            let durable = wal.durable_end(shard.log).lsn;
            let century = after(Duration::MAX);
            if shard.positions.wait(century, |positions| positions.applied() >= durable) != Waited::Reached {
                return Err(BackupError::Interrupted);
            }
        }
        let state = to.join(STATE);
        shared.gate.with(|store| store.checkpoint(&state)).ok_or(BackupError::Interrupted)??;
        let mut pace = Pace::new(options.bytes_per_second);
        let mut files = Vec::new();
        let names = fs::read_dir(&state).map_err(failed(&state))?;
        for entry in names {
            let name = entry.map_err(failed(&state))?.file_name().to_string_lossy().into_owned();
            files.push(check_in(to, format!("{STATE}/{name}"), &mut pace)?);
        }
        identity::sync_directory(&state).map_err(failed(&state))?;
        // Opened as a restored node would: what can't be is no backup. It is closed before anything else is done.
        let copied = RocksStore::open_read_only(&state)?;
        let log = to.join(LOG);
        identity::create_durably(&log)?;
        let mut logs = Vec::new();
        for (shard, _pin) in &pins {
            let id = shard.descriptor.shard;
            let start = wal.start_of(shard.log);
            let applied = applied_of(&copied, id)?;
            let end = applied.unwrap_or(start);
            if applied.is_none() && start.lsn > Lsn::ZERO {
                return Err(BackupError::Interrupted);
            }
            let file = format!("{LOG}/{id}.log");
            copy_log(wal, shard.log, (start.lsn, end.lsn), &to.join(&file), &mut pace)
                .map_err(|error| if is_up(shared, shard) { error } else { BackupError::Interrupted })?;
            files.push(check_in(to, file.clone(), &mut pace)?);
            logs.push(BackupLog { shard: id, start: position(&start), end: position(&end), file });
        }
        drop(copied);
        if !pins.iter().all(|(shard, _)| is_up(shared, shard)) {
            // A namespace was dropped: the copies may have it half.
            return Err(BackupError::Interrupted);
        }
        identity::sync_directory(&log).map_err(failed(&log))?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let manifest = BackupManifest {
            cluster: shared.identity.cluster,
            node: shared.identity.node,
            time_micros: wall_micros(),
            segment_bytes: shared.segment_bytes,
            catalog: catalog.snapshot(),
            logs,
            files,
        };
        write_manifest(to, &manifest)?;
        Ok(report(&manifest))
    }
}

/// Looks at a backup: whether it is whole, and every byte of it is what it was.
///
/// # Errors
/// See [`BackupError`]: it says which file is not.
pub fn verify_backup(backup: &Path) -> Result<BackupReport, BackupError> {
    let _span = tracing::info_span!("verify_backup", backup = %backup.display()).entered();
    let manifest = read_manifest(backup)?;
    let mut pace = Pace::new(None);
    for file in &manifest.files {
        check_out(backup, file, &mut pace)?;
    }
    Ok(report(&manifest))
}

/// Makes a data directory of a backup. The directory appears when it is whole, and not before.
///
/// # Errors
/// See [`BackupError`]; what was begun is removed again. If only the last sync fails, the directory is there, and may be gone
/// after a power cut. A crash leaves what was begun under a name that ends in `.restoring-` and a number.
pub fn restore(backup: &Path, directory: &Path) -> Result<BackupReport, BackupError> {
    if directory.exists() {
        return Err(BackupError::Exists(directory.to_owned()));
    }
    let manifest = read_manifest(backup)?;
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A name of its own: another restoration at the same time, or one that a crash left, is not this one's to remove.
    let making = directory.with_file_name(format!("{name}.restoring-{}", uuid::Uuid::now_v7().simple()));
    create_alone(&making)?;
    let made = make(backup, &making, &manifest).and_then(|()| {
        fs::rename(&making, directory).map_err(failed(directory))?;
        let parent =
            directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        identity::sync_directory(parent).map_err(failed(parent))
    });
    if let Err(error) = made {
        if let Err(error) = fs::remove_dir_all(&making) {
            tracing::warn!(%error, path = %making.display(), "what there is of a restored directory could not be removed");
        }
        return Err(error);
    }
    Ok(report(&manifest))
}

/// Everything of a data directory.
fn make(backup: &Path, directory: &Path, manifest: &BackupManifest) -> Result<(), BackupError> {
    let mut pace = Pace::new(None);
    let state = directory.join(STATE);
    identity::create_durably(&state)?;
    for file in &manifest.files {
        check_out(backup, file, &mut pace)?;
        if let Some((STATE, name)) = place_of(&file.path) {
            let to = state.join(name);
            fs::copy(backup.join(&file.path), &to).map_err(failed(&to))?;
            File::open(&to).and_then(|copy| copy.sync_all()).map_err(failed(&to))?;
        }
    }
    identity::sync_directory(&state).map_err(failed(&state))?;
    let mut options = NodeOptions::alone(directory).log;
    (options.segment_bytes, options.queue_bytes_max) = (manifest.segment_bytes, LOG_QUEUE_BYTES);
    let (wal, _) = Wal::open(directory.join("wal"), options)?;
    let log_of = |shard: ShardId| ConfigMaster::lineage(manifest.cluster, shard);
    for log in &manifest.logs {
        restore_log(&wal, log_of(log.shard), backup, log, manifest)?;
    }
    super::control_log::begin(&wal, log_of(super::open::CATALOG), &CatalogRecord::Snapshot(manifest.catalog.clone()))?;
    wal.close()?;
    let directory_id = *uuid::Uuid::now_v7().as_bytes();
    let identity = Identity { cluster: manifest.cluster, node: manifest.node, directory: directory_id };
    identity::write(directory, &identity)?;
    identity::sync_directory(directory).map_err(failed(directory))
}

fn restore_log(
    wal: &Wal,
    log: LogId,
    backup: &Path,
    entry: &BackupLog,
    manifest: &BackupManifest,
) -> Result<(), BackupError> {
    let path = backup.join(&entry.file);
    let damaged = |what| BackupError::Damaged { path: path.clone(), what };
    let start = log_position(&entry.start);
    if start.lsn > Lsn::ZERO {
        wal.reset(log, start)?;
    }
    let mut file = BufReader::with_capacity(CHUNK_BYTES, File::open(&path).map_err(failed(&path))?);
    let (mut pending, mut waiting_bytes) = (VecDeque::new(), 0);
    let mut end = wal.end(log);
    while end.lsn < Lsn::new(entry.end.lsn) {
        let mut length = [0; 4];
        file.read_exact(&mut length).map_err(failed(&path))?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > BATCH_BYTES_MAX {
            return Err(damaged("a batch is longer than one can be"));
        }
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).map_err(failed(&path))?;
        let batch = Batch::decode(Bytes::from(bytes)).map_err(|_: BatchError| damaged("a batch can't be read"))?;
        if batch.log() != log || !batch.follows(&end) {
            return Err(damaged("a batch does not follow the one before it"));
        }
        end = batch.position();
        waiting_bytes += length;
        pending.push_back((wal.submit(vec![Entry::Batch(batch)]).map_err(WalError::from)?, length));
        // Few at a time: what waits is in memory.
        while waiting_bytes > WAITING_BYTES_MAX
            && let Some((first, bytes)) = pending.pop_front()
        {
            first.wait()?;
            waiting_bytes -= bytes;
        }
    }
    pending.into_iter().try_for_each(|(last, _)| last.wait())?;
    if end != log_position(&entry.end) && entry.end.lsn > 0 {
        return Err(damaged("the log ends elsewhere than the state that it led to"));
    }
    // A new version, and a term of its own: whatever else goes on from this backup is told apart from what goes on here.
    let version = (end.epoch.version / NEXT_VERSION + 1) * NEXT_VERSION;
    let draw = uuid::Uuid::now_v7().as_u64_pair().1;
    let term = u32::try_from(draw & 0x3fff_ffff).unwrap_or(0);
    let promise = Promise { epoch: Epoch { version, term }, leader: Some(manifest.node), disk: None };
    let bytes = match promise.encode() {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a promise has a fixed length: {error}"),
    };
    wal.submit(vec![Entry::HardState { log, kind: HardStateKind::Promise, bytes }]).map_err(WalError::from)?.wait()?;
    Ok(())
}

/// Copies a log's batches behind one position up to another.
fn copy_log(wal: &Wal, log: LogId, (start, end): (Lsn, Lsn), to: &Path, pace: &mut Pace) -> Result<(), BackupError> {
    let mut file = BufWriter::with_capacity(CHUNK_BYTES, File::create(to).map_err(failed(to))?);
    let mut next = start.next();
    while next <= end {
        let batches = wal.read(log, next, CHUNK_BYTES)?;
        if batches.is_empty() {
            return Err(BackupError::Interrupted);
        }
        for batch in batches.iter().take_while(|batch| batch.last_lsn() <= end) {
            next = batch.last_lsn().next();
            let length = u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX).to_le_bytes();
            file.write_all(&length).and_then(|()| file.write_all(batch.bytes())).map_err(failed(to))?;
            pace.took(batch.bytes().len());
        }
    }
    let file = file.into_inner().map_err(|error| failed(to)(error.into_error()))?;
    file.sync_all().map_err(failed(to))
}

/// Syncs a file, and reads what is in it.
fn check_in(folder: &Path, path: String, pace: &mut Pace) -> Result<BackupFile, BackupError> {
    let full = folder.join(&path);
    File::open(&full).and_then(|file| file.sync_all()).map_err(failed(&full))?;
    let (bytes, crc) = read_through(&full, pace)?;
    Ok(BackupFile { path, bytes, crc })
}

/// Whether a file is what it was.
fn check_out(folder: &Path, file: &BackupFile, pace: &mut Pace) -> Result<(), BackupError> {
    let path = folder.join(&file.path);
    let found = read_through(&path, pace)?;
    let damaged = |what| Err(BackupError::Damaged { path: path.clone(), what });
    match found {
        (bytes, _) if bytes != file.bytes => damaged("it has another length"),
        (_, crc) if crc != file.crc => damaged("its bytes are others"),
        _ => Ok(()),
    }
}

fn read_through(path: &Path, pace: &mut Pace) -> Result<(u64, u32), BackupError> {
    let mut file = File::open(path).map_err(failed(path))?;
    let (mut chunk, mut crc, mut bytes) = (vec![0; CHUNK_BYTES], crc32fast::Hasher::new(), 0_u64);
    loop {
        let read = file.read(&mut chunk).map_err(failed(path))?;
        let Some(read) = chunk.get(..read).filter(|read| !read.is_empty()) else { break };
        crc.update(read);
        bytes += read.len() as u64;
        pace.took(read.len());
    }
    Ok((bytes, crc.finalize()))
}

fn write_manifest(to: &Path, manifest: &BackupManifest) -> Result<(), BackupError> {
    let (path, temporary) = (to.join(MANIFEST), to.join(MANIFEST_TEMPORARY));
    let source = |source| BackupError::NotABackup { path: path.clone(), source: ManifestError::Codec(source) };
    let bytes = codec::encode(manifest).map_err(source)?;
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    written.map_err(failed(&temporary))?;
    fs::rename(&temporary, &path).map_err(failed(&path))?;
    identity::sync_directory(to).map_err(failed(to))
}

fn read_manifest(backup: &Path) -> Result<BackupManifest, BackupError> {
    let path = backup.join(MANIFEST);
    let read = || {
        let manifest: BackupManifest = codec::decode(&fs::read(&path)?)?;
        Catalog::from_snapshot(manifest.catalog.clone())?;
        let named = manifest.files.iter().map(|file| &file.path).chain(manifest.logs.iter().map(|log| &log.file));
        for name in named {
            if place_of(name).is_none() {
                return Err(ManifestError::Path(name.clone()));
            }
        }
        Ok(manifest)
    };
    read().map_err(|source| BackupError::NotABackup { path: path.clone(), source })
}

/// A file's folder and name, if it may be one of a backup's: two plain parts, and the folder one of the two that there are.
fn place_of(path: &str) -> Option<(&str, &str)> {
    let (folder, name) = path.split_once('/')?;
    let is_plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
    (matches!(folder, STATE | LOG) && is_plain).then_some((folder, name))
}

/// Makes a directory that nobody else has made.
fn create_alone(path: &Path) -> Result<(), BackupError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    identity::create_durably(parent)?;
    match fs::create_dir(path) {
        Ok(()) => identity::sync_directory(parent).map_err(failed(parent)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(BackupError::Exists(path.to_owned())),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Whether a shard is one of the node's still.
fn is_up(shared: &super::Shared, shard: &Arc<ShardHandle>) -> bool {
    shared.registry.shards().iter().any(|up| Arc::ptr_eq(up, shard))
}

fn report(manifest: &BackupManifest) -> BackupReport {
    BackupReport {
        time_micros: manifest.time_micros,
        namespaces: manifest.catalog.namespaces.len(),
        shards: manifest.logs.iter().map(|log| (log.shard, Lsn::new(log.end.lsn))).collect(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
    }
}

const fn position(at: &LogPosition) -> BackupPosition {
    BackupPosition { version: at.epoch.version, term: at.epoch.term, lsn: at.lsn.get(), chain: at.chain.get() }
}

const fn log_position(at: &BackupPosition) -> LogPosition {
    let epoch = Epoch { version: at.version, term: at.term };
    LogPosition { epoch, lsn: Lsn::new(at.lsn), chain: Chain::new(at.chain) }
}

/// Keeps to so many bytes a second.
struct Pace {
    bytes_per_second: Option<u64>,
    since: std::time::Instant,
    taken: u64,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|bytes| *bytes > 0), since: now(), taken: 0 }
    }

    fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        let Some(pace) = self.bytes_per_second else { return };
        let due = Duration::from_secs_f64(self.taken as f64 / pace as f64);
        let ahead = due.saturating_sub(now().saturating_duration_since(self.since));
        if ahead > Duration::from_millis(1) {
            pause(ahead);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "node is the floor that has threads; this one is the caller's own")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_no_file_outside_of_the_two_folders() {
        assert_eq!(place_of("state/CURRENT"), Some((STATE, "CURRENT")));
        assert_eq!(place_of("log/1024.log"), Some((LOG, "1024.log")));
        let outside = [
            "",
            "state",
            "state/",
            "state//etc/passwd",
            "/etc/passwd",
            "state/../x",
            "state/..",
            "log/a/b",
            "other/x",
            "state/.",
            "./state/x",
            "state/a\\b",
            "log/a\0b",
        ];
        for path in outside {
            assert_eq!(place_of(path), None, "{path:?}");
        }
    }
}

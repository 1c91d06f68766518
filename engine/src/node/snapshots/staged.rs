//! The parts of a snapshot that are here already, in a file beside the state.
//!
//! ```text
//! OFFER   which snapshot (kind 0x0502); without it there is none
//! PARTS   one part behind the other, in the order in which they came:
//!         u64 the digest's lower half   u32 which part   u32 its length   u32 its CRC-32   u32 the CRC-32 of this head
//!         then the part
//! ```
//!
//! What a crash or a damaged disk leaves of it is found when it is opened: what is whole stays, and what is not comes once more.
//! A part that is damaged later is found before anything is made of it (D24).

use crate::model::codec::{self, CodecError, Decode, Encode, Enveloped};
use crate::model::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use crate::model::request::FailureClass;
use crate::model::{Chain, Epoch, LogId, LogPosition, Lsn, ShardDescriptor, SnapshotId};
use crate::node::identity::{self, IdentityError, sync_directory};
use crate::state::{ApplyError, PartsCheck, SnapshotError};
use bytes::Bytes;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use towline_wal::io::IoFailure;

const OFFER: &str = "OFFER";
const OFFER_UNREADY: &str = "OFFER.new";
const PARTS: &str = "PARTS";
const HEAD_BYTES: usize = 24;
/// Bytes after which the file is synced: what a power cut takes away is no more than this.
const SYNC_BYTES: u64 = 32 << 20;

/// Why nothing more is staged, or what is can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum StagedError {
    /// A disk with less room than the rest of the snapshot, and the state that is made of it, take.
    #[error("a snapshot of {bytes} bytes is offered: it needs {needed} bytes, and {free} are free in {}", .path.display())]
    NoRoom { path: PathBuf, bytes: u64, needed: u64, free: u64 },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", .path.display())]
    Offer { path: PathBuf, source: CodecError },
    /// It is not the one that is wanted, or lacks parts.
    #[error("{} does not hold all parts of the snapshot at {at}", .path.display())]
    Missing { path: PathBuf, at: Lsn },
    #[error("part {index} of the snapshot in {} is damaged", .path.display())]
    Damaged { path: PathBuf, index: u32 },
    #[error(transparent)]
    State(#[from] SnapshotError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("the node closes")]
    Closing,
}

impl StagedError {
    pub(super) const fn code(&self) -> u16 {
        match self {
            Self::NoRoom { .. } => 6601,
            Self::Io { .. } => 6602,
            Self::Offer { .. } | Self::Missing { .. } | Self::Damaged { .. } => 6603,
            Self::State(_) | Self::Apply(_) => 6604,
            Self::Closing => 6605,
        }
    }

    /// Whether nothing is known to be wrong with what is staged.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => IoFailure::from_error(source, "read", PARTS).is_refusal(),
            Self::Closing => true,
            _ => false,
        }
    }

    pub(super) const fn class(&self) -> FailureClass {
        match self {
            Self::NoRoom { .. } | Self::Io { .. } => FailureClass::Operator,
            Self::State(SnapshotError::Store(store)) => store.class(),
            Self::Apply(apply) => apply.class(),
            Self::Offer { .. } | Self::Missing { .. } | Self::Damaged { .. } | Self::State(_) => FailureClass::Damage,
            Self::Closing => FailureClass::Retry,
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StagedError + use<> {
    let path = path.to_owned();
    |source| StagedError::Io { path, source }
}

impl From<IdentityError> for StagedError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Io { path, source } => Self::Io { path, source },
            other => Self::Io { path: PathBuf::new(), source: io::Error::other(other) },
        }
    }
}

#[derive(Encode, Decode)]
struct OfferV1 {
    version: u64,
    term: u32,
    lsn: u64,
    chain: u64,
    chunks: u32,
    bytes: u64,
    digest: u128,
}

impl Enveloped for OfferV1 {
    const KIND: u16 = 0x0502;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64;
}

fn encode_offer(id: &SnapshotId) -> Result<Bytes, CodecError> {
    let SnapshotId { at, chunks, bytes, digest } = *id;
    let (version, term) = (at.epoch.version, at.epoch.term);
    codec::encode(&OfferV1 { version, term, lsn: at.lsn.get(), chain: at.chain.get(), chunks, bytes, digest })
}

/// None: it is of no snapshot that there can be.
fn decode_offer(bytes: &[u8]) -> Result<Option<SnapshotId>, CodecError> {
    let OfferV1 { version, term, lsn, chain, chunks, bytes, digest } = codec::decode(bytes)?;
    let at = LogPosition { epoch: Epoch { version, term }, lsn: Lsn::new(lsn), chain: Chain::new(chain) };
    let id = SnapshotId { at, chunks, bytes, digest };
    Ok(id.is_possible().then_some(id))
}

/// Where a part lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    length: u32,
    crc: u32,
}

/// A snapshot, as far as it is here.
#[derive(Debug)]
pub(super) struct Staged {
    directory: PathBuf,
    id: SnapshotId,
    parts: File,
    places: Vec<Option<Place>>,
    /// All before this one are here.
    lowest: usize,
    /// Bytes of the parts that are here.
    bytes: u64,
    /// Where the file goes on.
    end: u64,
    unsynced: u64,
    /// What is here is of no use: a sync failed, or it is not what was offered.
    has_failed: bool,
}

/// What came of looking at all of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Whole,
    /// So many parts are damaged, and come once more.
    Damaged(usize),
    /// Each part is as it came, and the whole is not what was offered: nothing of it is left.
    NotWhatWasOffered,
}

impl Staged {
    /// Of which snapshot a directory holds parts, if of one. They are not looked at: there may be many.
    pub(super) fn offered(directory: &Path) -> Result<Option<SnapshotId>, StagedError> {
        let offer = directory.join(OFFER);
        let offered = match fs::read(&offer) {
            Ok(offered) => offered,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&offer)(error)),
        };
        let Some(id) = decode_offer(&offered).map_err(|source| StagedError::Offer { path: offer.clone(), source })?
        else {
            return Err(StagedError::Missing { path: offer, at: Lsn::ZERO });
        };
        Ok(Some(id))
    }

    /// What is in a directory, if it is the beginning of a snapshot. All of it is read: between two parts it asks whether to go on.
    pub(super) fn open(directory: &Path, goes_on: impl FnMut() -> bool) -> Result<Option<Self>, StagedError> {
        let Some(id) = Self::offered(directory)? else { return Ok(None) };
        let path = directory.join(PARTS);
        let parts = OpenOptions::new().read(true).write(true).open(&path).map_err(failed(&path))?;
        let mut staged = Self::of(directory, id, parts);
        let is_done = staged.look(goes_on).map_err(failed(&path))?;
        if is_done { Ok(Some(staged)) } else { Err(StagedError::Closing) }
    }

    fn of(directory: &Path, id: SnapshotId, parts: File) -> Self {
        let directory = directory.to_owned();
        Self { directory, id, parts, places: Vec::new(), lowest: 0, bytes: 0, end: 0, unsynced: 0, has_failed: false }
    }

    /// Begins with this one. What was there of another is gone first: parts are never taken for those of another snapshot.
    pub(super) fn make(directory: &Path, id: SnapshotId) -> Result<Self, StagedError> {
        identity::create_durably(directory)?;
        remove_files(directory)?;
        let path = directory.join(PARTS);
        let made = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let parts = made.map_err(failed(&path))?;
        let (unready, offer) = (directory.join(OFFER_UNREADY), directory.join(OFFER));
        let bytes = encode_offer(&id).map_err(|source| StagedError::Offer { path: offer.clone(), source })?;
        let written = File::create(&unready).and_then(|file| {
            file.write_all_at(&bytes, 0)?;
            file.sync_all()
        });
        written.map_err(failed(&unready))?;
        fs::rename(&unready, &offer).map_err(failed(&offer))?;
        sync_directory(directory).map_err(failed(directory))?;
        Ok(Self::of(directory, id, parts))
    }

    pub(super) const fn id(&self) -> SnapshotId {
        self.id
    }

    /// Bytes of the parts that are here.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that it still takes on this disk: of what is not here, and of the state that is made of all of it.
    pub(super) const fn needs(&self) -> u64 {
        self.id.bytes.saturating_sub(self.bytes).saturating_add(self.id.bytes)
    }

    /// The first part that is not here.
    pub(super) fn wanted(&self) -> Option<u32> {
        u32::try_from(self.lowest).ok().filter(|next| *next < self.id.chunks)
    }

    /// Takes a part; false if it is not the one that is wanted.
    pub(super) fn add(&mut self, index: u32, part: &[u8]) -> Result<bool, StagedError> {
        if self.wanted() != Some(index) || part.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            return Ok(false);
        }
        if self.unsynced >= SYNC_BYTES {
            self.sync()?;
        }
        let (length, crc) = (u32::try_from(part.len()).unwrap_or(u32::MAX), crc32fast::hash(part));
        let head = self.head(index, length, crc);
        let path = self.directory.join(PARTS);
        let offset = self.end + HEAD_BYTES as u64;
        let written = self.parts.write_all_at(&head, self.end).and_then(|()| self.parts.write_all_at(part, offset));
        written.map_err(failed(&path))?;
        self.note(index, Place { offset, length, crc });
        self.end = offset + u64::from(length);
        self.unsynced += u64::from(length);
        Ok(true)
    }

    fn note(&mut self, index: u32, place: Place) {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if self.places.len() <= index {
            self.places.resize(index.saturating_add(1), None);
        }
        if let Some(there) = self.places.get_mut(index) {
            let before = there.replace(place).map_or(0, |before| u64::from(before.length));
            self.bytes = self.bytes - before + u64::from(place.length);
        }
        while self.places.get(self.lowest).is_some_and(Option::is_some) {
            self.lowest += 1;
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(gone) = self.places.get_mut(index).and_then(Option::take) {
            self.bytes -= u64::from(gone.length);
            self.lowest = self.lowest.min(index);
        }
    }

    fn head(&self, index: u32, length: u32, crc: u32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let lower = self.id.digest.to_le_bytes();
        for (to, from) in head.iter_mut().zip(
            lower.iter().take(8).chain(&index.to_le_bytes()).chain(&length.to_le_bytes()).chain(&crc.to_le_bytes()),
        ) {
            *to = *from;
        }
        if let Some((body, sum)) = head.split_last_chunk_mut::<4>() {
            *sum = crc32fast::hash(body).to_le_bytes();
        }
        head
    }

    /// Everything that was added is durable.
    pub(super) fn sync(&mut self) -> Result<(), StagedError> {
        // DURABLE: before it is said that all parts are here: the state is replaced by them, and a crash in the middle of that
        // needs them again (attacked by `whatever_a_crash_leaves_of_a_replacement_is_finished_at_the_next_opening`).
        if let Err(error) = self.parts.sync_data() {
            self.has_failed = true;
            return Err(failed(&self.directory.join(PARTS))(error));
        }
        self.unsynced = 0;
        Ok(())
    }

    /// Begins anew, if what is here is of no use. After a sync that failed, what is in memory may never have reached the disk, and no
    /// later sync says so. Whether it did begin anew.
    pub(super) fn renew(&mut self) -> Result<bool, StagedError> {
        let has_failed = self.has_failed;
        if has_failed {
            *self = Self::make(&self.directory.clone(), self.id)?;
        }
        Ok(has_failed)
    }

    /// Finds the parts in the file. Behind a head that is none nothing is known: it ends there. Whether it came to the end.
    fn look(&mut self, mut goes_on: impl FnMut() -> bool) -> io::Result<bool> {
        let length = self.parts.metadata()?.len();
        let mut buffer = Vec::new();
        while let Some((index, place)) = self.head_at(self.end, length)? {
            if !goes_on() {
                return Ok(false);
            }
            buffer.resize(usize::try_from(place.length).unwrap_or(usize::MAX), 0);
            self.parts.read_exact_at(&mut buffer, place.offset)?;
            if crc32fast::hash(&buffer) == place.crc {
                self.note(index, place);
            } else {
                let directory = self.directory.display();
                tracing::warn!(index, %directory, "a staged part of a snapshot is damaged: it comes once more");
            }
            self.end = place.offset + u64::from(place.length);
        }
        if self.end < length {
            self.parts.set_len(self.end)?;
        }
        Ok(true)
    }

    fn head_at(&self, offset: u64, length: u64) -> io::Result<Option<(u32, Place)>> {
        let mut head = [0; HEAD_BYTES];
        let behind = offset + HEAD_BYTES as u64;
        if behind > length {
            return Ok(None);
        }
        self.parts.read_exact_at(&mut head, offset)?;
        let number =
            |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
        let (index, part_length, crc) = (number(8), number(12), number(16));
        let is_one = head == self.head(index, part_length, crc)
            && index < self.id.chunks
            && part_length as usize <= SNAPSHOT_CHUNK_BYTES_MAX
            && behind + u64::from(part_length) <= length;
        Ok(is_one.then_some((index, Place { offset: behind, length: part_length, crc })))
    }

    /// A part, as it lies on the disk; none if it is not what came.
    fn read(&self, index: usize) -> Result<Option<Vec<u8>>, StagedError> {
        let Some(place) = self.places.get(index).copied().flatten() else { return Ok(None) };
        let mut part = vec![0; usize::try_from(place.length).unwrap_or(usize::MAX)];
        match self.parts.read_exact_at(&mut part, place.offset) {
            Ok(()) => Ok((crc32fast::hash(&part) == place.crc).then_some(part)),
            // A device that can't read a part has damaged it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(EIO) => Ok(None),
            Err(error) => Err(failed(&self.directory.join(PARTS))(error)),
        }
    }

    /// Looks at every part as it lies on the disk, before anything is made of it: those that are damaged come once more.
    /// That may take long: between two of them it asks whether to go on.
    pub(super) fn check(
        &mut self,
        shard: &ShardDescriptor,
        log: LogId,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<Checked, StagedError> {
        let (mut check, mut damaged, mut is_ours) = (PartsCheck::new(shard, log, self.id.at), Vec::new(), true);
        for index in 0..self.places.len() {
            if !goes_on() {
                return Err(StagedError::Closing);
            }
            match self.read(index)? {
                None => damaged.push(index),
                Some(part) if damaged.is_empty() && is_ours => is_ours = check.add(&part).is_ok(),
                Some(_) => {}
            }
        }
        if !damaged.is_empty() {
            damaged.iter().for_each(|index| self.forget(*index));
            return Ok(Checked::Damaged(damaged.len()));
        }
        if is_ours && check.end().is_ok_and(|found| found == self.id) {
            return Ok(Checked::Whole);
        }
        // If that fails now, it is done before anything else.
        self.has_failed = true;
        self.renew()?;
        Ok(Checked::NotWhatWasOffered)
    }

    /// Shows all parts in order, each as it was checked.
    pub(super) fn each(&self, mut show: impl FnMut(&[u8]) -> Result<(), StagedError>) -> Result<(), StagedError> {
        if self.wanted().is_some() {
            return Err(StagedError::Missing { path: self.directory.clone(), at: self.id.at.lsn });
        }
        for index in 0..self.places.len() {
            let Some(part) = self.read(index)? else {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                return Err(StagedError::Damaged { path: self.directory.join(PARTS), index });
            };
            show(&part)?;
        }
        Ok(())
    }

    /// It is not needed any more.
    pub(super) fn remove(self) -> Result<(), StagedError> {
        remove_files(&self.directory)
    }
}

/// First what says that there is something.
pub(super) fn remove_files(directory: &Path) -> Result<(), StagedError> {
    for name in [OFFER, OFFER_UNREADY, PARTS] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(directory).map_err(failed(directory))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(())
}

const EIO: i32 = 5;

#[cfg(test)]
#[path = "staged_test.rs"]
mod tests;

//! A shard's state as bytes: all that apply needs to go on, in chunks, and back again.
//!
//! A chunk is a list of entries: the family as u8 (its place in [`Family::ALL`]), the lengths of key and value as u32, key,
//! value. Entries come by family and key, so that two nodes with the same state make the same chunks, and one that began to
//! fetch from the first goes on with the second. Values, events, heads, sessions and rejected records are in it, and of *meta*
//! what the log said: the applied position and the last `EpochStart`. What a node knows for itself (who follows its feed by
//! a name, and how far) is not: it is about that node's log.

use super::change_set::ChangeSet;
use super::key;
use super::read::applied_of;
use super::store::{Family, Order, Store, StoreError, View};
use crate::model::mutant::{Mutant, planted};
use crate::model::{LogId, LogPosition, ShardDescriptor, SnapshotId};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::ControlFlow;
use xxhash_rust::xxh3::Xxh3;

/// Why a snapshot is not installed. Nothing of it was.
///
/// ```
/// use towline::model::{LogId, NamespaceId, ShardDescriptor, ShardId};
/// use towline::state::{MemStore, SnapshotError, install_snapshot, take_snapshot};
/// # let log = LogId::new(1);
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// let nothing = take_snapshot(&MemStore::new(), &shard, log, 1024).unwrap_err();
/// assert_eq!(nothing, SnapshotError::Empty);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Nothing was applied yet: there is nothing that the log would not have.
    #[error("nothing was applied yet")]
    Empty,
    /// A chunk is not a list of entries of this shard, in order.
    #[error("chunk {index} of the snapshot is not what was written")]
    Chunk {
        /// Which.
        index: usize,
    },
    /// It says of another log or another position than was offered.
    #[error("the snapshot is of another position than was offered")]
    Position,
    /// The state can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes a snapshot of what a shard holds, as of the position up to which it is applied: on a view that does not change
/// meanwhile. A chunk is full at `chunk_bytes`; one entry is always whole.
///
/// ```
/// use towline::state::{Applier, MemStore, digest, install_snapshot, take_snapshot};
/// # use towline::model::{Epoch, LogId, NamespaceId, ShardDescriptor, ShardId, Write};
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let log = LogId::new(1);
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut applier = Applier::open(MemStore::new(), shard.clone(), log)?;
/// # let block = Block::encode(Write::new().put("k", "v").into_record().encode()?, 1, Compression::Never);
/// # let origin = applier.applied();
/// # applier.apply(&[BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), origin, 0).block(block).seal()?])?;
/// // `applier` applied a write.
/// let (id, chunks) = take_snapshot(applier.store(), &shard, log, 1024)?;
/// assert_eq!(id.at, applier.applied());
/// let mut copy = MemStore::new();
/// install_snapshot(&mut copy, &shard, log, &id, &chunks)?;
/// assert_eq!(digest(&copy)?, digest(applier.store())?);
/// assert_eq!(Applier::open(copy, shard, log)?.applied(), id.at, "and the log goes on behind it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Nothing was applied yet, or the state can't be read.
pub fn take_snapshot<V: View + ?Sized>(
    view: &V,
    shard: &ShardDescriptor,
    log: LogId,
    chunk_bytes: usize,
) -> Result<(SnapshotId, Vec<Bytes>), SnapshotError> {
    let at = applied_of(view, shard.shard)?.ok_or(SnapshotError::Empty)?;
    let mut chunks = Vec::new();
    each_chunk(view, shard, log, chunk_bytes, None, &mut |_, chunk| {
        chunks.push(chunk);
        ControlFlow::Continue(())
    })?;
    Ok((id_of(at, &chunks), chunks))
}

/// Where a chunk begins: at this entry. What is in a chunk hangs on nothing but where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChunkStart {
    family: Family,
    key: Vec<u8>,
}

/// Shows the chunks of a view, from this one on, until the visitor has enough. At most one of them is in memory.
pub(super) fn each_chunk<V: View + ?Sized>(
    view: &V,
    shard: &ShardDescriptor,
    log: LogId,
    chunk_bytes: usize,
    from: Option<&ChunkStart>,
    visit: &mut dyn FnMut(ChunkStart, Bytes) -> ControlFlow<()>,
) -> Result<(), SnapshotError> {
    let mut filling: Option<(ChunkStart, BytesMut)> = None;
    let mut put = |family: Family, key: &[u8], value: &[u8]| {
        if let Some((start, chunk)) = filling.take_if(|(_, chunk)| chunk.len() >= chunk_bytes) {
            visit(start, chunk.freeze())?;
        }
        let (_, chunk) = filling
            .get_or_insert_with(|| (ChunkStart { family, key: key.to_vec() }, BytesMut::with_capacity(chunk_bytes)));
        write_entry(chunk, family, key, value);
        ControlFlow::Continue(())
    };
    let is_before = |family: Family| from.is_some_and(|from| from.family > family);
    for family in logical().filter(|family| !is_before(*family)) {
        if family == Family::Sessions && planted(Mutant::ForgetSessions) {
            continue;
        }
        let (start, end) = key::bounds(shard, log, family);
        let begins = from.filter(|from| from.family == family).map_or(start, |from| from.key.clone());
        let mut has_enough = false;
        view.scan(family, &begins, Order::Ascending, &mut |key, value| {
            if key >= end.as_slice() {
                return ControlFlow::Break(());
            }
            let going_on = put(family, key, value);
            has_enough = going_on.is_break();
            going_on
        })?;
        if has_enough {
            return Ok(());
        }
    }
    for key in of_the_log(shard) {
        if from.is_some_and(|from| from.family == Family::Meta && from.key > key) {
            continue;
        }
        if let Some(value) = view.get(Family::Meta, &key)?
            && put(Family::Meta, &key, &value).is_break()
        {
            return Ok(());
        }
    }
    if let Some((start, chunk)) = filling {
        // Whether the visitor has enough does not matter any more.
        let _last = visit(start, chunk.freeze());
    }
    Ok(())
}

/// Looks at the entries of chunks, one chunk after the other: whether they are this shard's, in order, and of that position.
#[derive(Debug)]
pub(super) struct ChunkReader<'a> {
    shard: &'a ShardDescriptor,
    log: LogId,
    at: LogPosition,
    last: Option<(Family, Vec<u8>)>,
    next: usize,
    has_position: bool,
    /// Where the keys of the last entry's family lie.
    bounds: Option<(Family, Vec<u8>, Vec<u8>)>,
}

impl<'a> ChunkReader<'a> {
    pub(super) const fn new(shard: &'a ShardDescriptor, log: LogId, at: LogPosition) -> Self {
        Self { shard, log, at, last: None, next: 0, has_position: false, bounds: None }
    }

    /// Shows the entries of the next chunk.
    pub(super) fn read(
        &mut self,
        chunk: &[u8],
        mut show: impl FnMut(Family, &[u8], &[u8]),
    ) -> Result<(), SnapshotError> {
        let damaged = SnapshotError::Chunk { index: self.next };
        let [applied_key, epoch_start_key] = of_the_log(self.shard);
        let mut rest = chunk;
        while !rest.is_empty() {
            let (family, key, value) = read_entry(&mut rest).ok_or_else(|| damaged.clone())?;
            let is_ours = if family == Family::Meta {
                key == applied_key || key == epoch_start_key
            } else {
                if self.bounds.as_ref().is_none_or(|(of, ..)| *of != family) {
                    let (start, end) = key::bounds(self.shard, self.log, family);
                    self.bounds = Some((family, start, end));
                }
                self.bounds.as_ref().is_some_and(|(_, start, end)| key >= &start[..] && key < &end[..])
            };
            let is_in_order = self.last.as_ref().is_none_or(|(last, last_key)| (*last, &last_key[..]) < (family, key));
            if !is_ours || !is_in_order {
                return Err(damaged);
            }
            if key == applied_key && family == Family::Meta {
                if key::read_applied(value)? != (self.log, self.at) {
                    return Err(SnapshotError::Position);
                }
                self.has_position = true;
            }
            show(family, key, value);
            match &mut self.last {
                Some((last, last_key)) => {
                    *last = family;
                    last_key.clear();
                    last_key.extend_from_slice(key);
                }
                last => *last = Some((family, key.to_vec())),
            }
        }
        self.next += 1;
        Ok(())
    }

    /// Everything a snapshot holds is there only with the position that it is of.
    pub(super) fn end(self) -> Result<(), SnapshotError> {
        if self.has_position { Ok(()) } else { Err(SnapshotError::Position) }
    }
}

/// Replaces all that a shard holds by a snapshot, in one change: whatever fails, nothing changed. The chunks are those of
/// [`StagedSnapshot::verified`]; what they say is checked all the same, since a peer wrote it.
///
/// # Errors
/// See [`SnapshotError`].
pub fn install_snapshot<S: Store>(
    store: &mut S,
    shard: &ShardDescriptor,
    log: LogId,
    id: &SnapshotId,
    chunks: &[Bytes],
) -> Result<(), SnapshotError> {
    let mut changes = ChangeSet::default();
    without_what_is_there(&mut changes, shard, log);
    let mut reader = ChunkReader::new(shard, log, id.at);
    for chunk in chunks {
        reader.read(chunk, |family, key, value| changes.put(family, key, value))?;
    }
    reader.end()?;
    store.commit(&changes)?;
    Ok(())
}

/// Everything goes that a shard holds, but for what the log said last of its position.
pub(super) fn without_what_is_there(changes: &mut ChangeSet, shard: &ShardDescriptor, log: LogId) {
    for family in logical() {
        let (start, end) = key::bounds(shard, log, family);
        changes.delete_range(family, start, end);
    }
    changes.delete(Family::Meta, key::epoch_start_key(shard.shard));
}

/// What of a snapshot is here: its chunks, in order, each with its checksum, as they lie in a file beside the state.
///
/// It knows of no file: whoever keeps it writes what it is given, and after a crash fills it again from what is left.
///
/// ```
/// use towline::model::{Chain, Epoch, LogPosition, Lsn, SnapshotId};
/// use towline::state::{MemStore, StagedSnapshot, take_snapshot};
/// # use towline::model::{LogId, NamespaceId, ShardDescriptor, ShardId, Write};
/// # use towline::state::Applier;
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let log = LogId::new(1);
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut applier = Applier::open(MemStore::new(), shard.clone(), log)?;
/// # let block = Block::encode(Write::new().put("k", "v").into_record().encode()?, 1, Compression::Never);
/// # let origin = applier.applied();
/// # applier.apply(&[BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), origin, 0).block(block).seal()?])?;
/// let (id, chunks) = take_snapshot(applier.store(), &shard, log, 1)?; // A chunk for each entry.
/// let mut staged = StagedSnapshot::new(id);
/// assert_eq!(staged.wanted(), Some(0));
/// for (index, chunk) in (0..).zip(&chunks) {
///     staged.add(index, chunk.clone());
/// }
/// assert_eq!(staged.wanted(), None);
/// staged.verify();
/// assert_eq!(staged.verified(), Some(&chunks[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct StagedSnapshot {
    id: SnapshotId,
    chunks: Vec<Bytes>,
    sums: Vec<u32>,
    is_verified: bool,
}

impl StagedSnapshot {
    /// Nothing of it yet.
    #[must_use]
    pub const fn new(id: SnapshotId) -> Self {
        Self { id, chunks: Vec::new(), sums: Vec::new(), is_verified: false }
    }

    /// Which snapshot.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.id
    }

    /// Takes a chunk, if it is the next one.
    pub fn add(&mut self, index: u32, bytes: Bytes) {
        if self.wanted() == Some(index) {
            self.sums.push(crc32fast::hash(&bytes));
            self.chunks.push(bytes);
        }
    }

    /// Which chunk is missing; none, if all are here.
    #[must_use]
    pub fn wanted(&self) -> Option<u32> {
        u32::try_from(self.chunks.len()).ok().filter(|next| *next < self.id.chunks)
    }

    /// Looks at what is here as it lies on the disk: from the first damaged chunk on it is forgotten, and fetched again. If each
    /// is what came and the whole is not what was offered, all of it is (D24).
    pub fn verify(&mut self) {
        let damaged = self.chunks.iter().zip(&self.sums).position(|(chunk, sum)| crc32fast::hash(chunk) != *sum);
        if let Some(index) = damaged.filter(|_| !planted(Mutant::TrustStaged)) {
            self.keep(index);
        }
        if self.wanted().is_some() {
            return;
        }
        self.is_verified = id_of(self.id.at, &self.chunks) == self.id || planted(Mutant::TrustStaged);
        if !self.is_verified {
            self.keep(0);
        }
    }

    /// What is behind so many chunks is lost.
    pub fn keep(&mut self, chunks: usize) {
        self.chunks.truncate(chunks);
        self.sums.truncate(chunks);
        self.is_verified &= self.wanted().is_none();
    }

    /// All of it, if [`verify`](Self::verify) found it to be what was offered.
    #[must_use]
    pub fn verified(&self) -> Option<&[Bytes]> {
        self.is_verified.then_some(&self.chunks)
    }

    /// A byte changes where it lies (the simulator's doing).
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn rot(&mut self, index: usize, at: usize) {
        if let Some(chunk) = self.chunks.get_mut(index).filter(|chunk| !chunk.is_empty()) {
            let mut bytes = chunk.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1;
            *chunk = bytes.into();
        }
    }

    /// How many chunks are here.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// The families that all replicas have alike.
fn logical() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| *family != Family::Meta)
}

/// The keys of what the log said of itself, in order.
fn of_the_log(shard: &ShardDescriptor) -> [Vec<u8>; 2] {
    [key::applied_key(shard.shard), key::epoch_start_key(shard.shard)]
}

fn id_of(at: LogPosition, chunks: &[Bytes]) -> SnapshotId {
    let mut whole = Whole::default();
    chunks.iter().for_each(|chunk| whole.add(chunk));
    whole.id(at)
}

/// What all chunks add up to, one after the other.
#[derive(Default)]
pub(super) struct Whole {
    hasher: Xxh3,
    chunks: u32,
    bytes: u64,
}

impl Whole {
    pub(super) fn add(&mut self, chunk: &[u8]) {
        let bytes = chunk.len() as u64;
        self.hasher.update(&bytes.to_le_bytes());
        self.hasher.update(chunk);
        self.chunks = self.chunks.saturating_add(1);
        self.bytes += bytes;
    }

    pub(super) fn id(&self, at: LogPosition) -> SnapshotId {
        SnapshotId { at, chunks: self.chunks, bytes: self.bytes, digest: self.hasher.digest128() }
    }
}

fn write_entry(out: &mut BytesMut, family: Family, key: &[u8], value: &[u8]) {
    let number = Family::ALL.iter().position(|other| *other == family).unwrap_or(0);
    out.put_u8(u8::try_from(number).unwrap_or(u8::MAX));
    for part in [key, value] {
        // Keys and values are bounded far below this.
        out.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
    }
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

fn read_entry<'a>(rest: &mut &'a [u8]) -> Option<(Family, &'a [u8], &'a [u8])> {
    let (head, body) = rest.split_first_chunk::<9>()?;
    let [number, k0, k1, k2, k3, v0, v1, v2, v3] = *head;
    let length = |bytes: [u8; 4]| usize::try_from(u32::from_le_bytes(bytes)).ok();
    let (key, body) = body.split_at_checked(length([k0, k1, k2, k3])?)?;
    let (value, body) = body.split_at_checked(length([v0, v1, v2, v3])?)?;
    *rest = body;
    Some((*Family::ALL.get(usize::from(number))?, key, value))
}

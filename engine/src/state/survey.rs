//! A snapshot that is looked at part by part, by who gives it and by who takes it: neither ever has more than one part in memory.

use super::read::applied_of;
use super::snapshot::{ChunkReader, ChunkStart, SnapshotError, Whole, each_chunk};
use super::store::View;
use crate::model::{LogId, LogPosition, ShardDescriptor, SnapshotId};
use bytes::Bytes;
use std::ops::ControlFlow;

/// Which snapshot a view makes, and where each of its chunks begins: so a single one is read again.
#[derive(Debug)]
pub(crate) struct Survey {
    id: SnapshotId,
    /// Of each chunk where it begins, and its CRC-32.
    chunks: Vec<(ChunkStart, u32)>,
    chunk_bytes: usize,
}

impl Survey {
    /// Reads all of a view that does not change. `go_on` is told the bytes of each chunk; none comes of it if that says no.
    pub(crate) fn of<V: View + ?Sized>(
        view: &V,
        shard: &ShardDescriptor,
        log: LogId,
        chunk_bytes: usize,
        mut go_on: impl FnMut(usize) -> bool,
    ) -> Result<Option<Self>, SnapshotError> {
        let at = applied_of(view, shard.shard)?.ok_or(SnapshotError::Empty)?;
        let (mut whole, mut chunks, mut is_ended) = (Whole::default(), Vec::new(), false);
        each_chunk(view, shard, log, chunk_bytes, None, &mut |start, chunk| {
            whole.add(&chunk);
            chunks.push((start, crc32fast::hash(&chunk)));
            if go_on(chunk.len()) {
                return ControlFlow::Continue(());
            }
            is_ended = true;
            ControlFlow::Break(())
        })?;
        Ok((!is_ended).then(|| Self { id: whole.id(at), chunks, chunk_bytes }))
    }

    pub(crate) const fn id(&self) -> SnapshotId {
        self.id
    }

    /// A chunk, read again from the same view.
    ///
    /// # Errors
    /// There is none of this number; or it is not what it was: then the view is damaged.
    pub(crate) fn chunk<V: View + ?Sized>(
        &self,
        view: &V,
        shard: &ShardDescriptor,
        log: LogId,
        index: u32,
    ) -> Result<Bytes, SnapshotError> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let missing = SnapshotError::Chunk { index: place };
        let Some((start, crc)) = self.chunks.get(place) else { return Err(missing) };
        let mut found = None;
        each_chunk(view, shard, log, self.chunk_bytes, Some(start), &mut |_, chunk| {
            found = Some(chunk);
            ControlFlow::Break(())
        })?;
        found.filter(|chunk| crc32fast::hash(chunk) == *crc).ok_or(missing)
    }
}

/// Looks at all parts that were taken, in order, before any of them is used.
pub(crate) struct PartsCheck<'a> {
    reader: ChunkReader<'a>,
    whole: Whole,
    at: LogPosition,
}

impl<'a> PartsCheck<'a> {
    pub(crate) fn new(shard: &'a ShardDescriptor, log: LogId, at: LogPosition) -> Self {
        Self { reader: ChunkReader::new(shard, log, at), whole: Whole::default(), at }
    }

    /// The next part.
    ///
    /// # Errors
    /// It is not a list of entries of this shard, in order.
    pub(crate) fn add(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        self.whole.add(chunk);
        self.reader.read(chunk, |_, _, _| {})
    }

    /// Which snapshot they are.
    ///
    /// # Errors
    /// They don't say of which position.
    pub(crate) fn end(self) -> Result<SnapshotId, SnapshotError> {
        self.reader.end()?;
        Ok(self.whole.id(self.at))
    }
}

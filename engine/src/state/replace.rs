//! A shard's state on disk is replaced by a snapshot, in pieces: a whole state fits in no change.
//!
//! The first change takes everything away and says *replacing* where the applied position stood; the last one writes the new
//! position there, and with it what the log said last. Changes reach the disk in their order (the state's flushes are atomic), so
//! what a crash leaves is the old state, or the new one, or one that says of itself that it is half: then all of it is done once
//! more, from the parts that are still there. Nobody may read in between.

use super::change_set::ChangeSet;
use super::key;
use super::snapshot::{ChunkReader, SnapshotError, without_what_is_there};
use super::store::{Family, Store, StoreError, View};
use crate::model::{LogId, LogPosition, ShardDescriptor, ShardId};

/// Bytes of one change: some milliseconds of work.
const PIECE_BYTES: usize = 4 << 20;

/// A replacement that is under way.
pub(crate) struct Replacement<'a, S> {
    store: &'a mut S,
    reader: ChunkReader<'a>,
    piece: ChangeSet,
    /// What the log said: with the last change only.
    last: ChangeSet,
}

impl<'a, S: Store> Replacement<'a, S> {
    /// Takes away what there is. From here on the state is of no position, until it is [`finish`](Self::finish)ed.
    pub(crate) fn begin(
        store: &'a mut S,
        shard: &'a ShardDescriptor,
        log: LogId,
        at: LogPosition,
    ) -> Result<Self, SnapshotError> {
        let mut piece = ChangeSet::default();
        piece.put(Family::Meta, key::applied_key(shard.shard), key::replacing_entry(log, at));
        without_what_is_there(&mut piece, shard, log);
        store.commit(&piece)?;
        piece.clear();
        Ok(Self { store, reader: ChunkReader::new(shard, log, at), piece, last: ChangeSet::default() })
    }

    /// The next part.
    pub(crate) fn add(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let (piece, last) = (&mut self.piece, &mut self.last);
        self.reader.read(chunk, |family, key, value| {
            let changes = if family == Family::Meta { &mut *last } else { &mut *piece };
            changes.put(family, key, value);
        })?;
        if self.piece.bytes() >= PIECE_BYTES {
            self.store.commit(&self.piece)?;
            self.piece.clear();
        }
        Ok(())
    }

    /// All parts are there: the state is the snapshot's. It is durable with the next flush.
    pub(crate) fn finish(self) -> Result<(), SnapshotError> {
        let Self { store, reader, piece, last } = self;
        reader.end()?;
        store.commit(&piece)?;
        Ok(store.commit(&last)?)
    }
}

/// The snapshot that was replacing a shard's state when that ended, if one was.
pub(crate) fn replacing_of<V: View + ?Sized>(
    view: &V,
    shard: ShardId,
) -> Result<Option<(LogId, LogPosition)>, StoreError> {
    let entry = view.get(Family::Meta, &key::applied_key(shard))?;
    entry.map_or(Ok(None), |entry| key::read_replacing(&entry))
}

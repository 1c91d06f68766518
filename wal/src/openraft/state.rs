//! What the writer and the readers of a log share.

use std::collections::VecDeque;
use std::sync::Arc;

use openraft::{LogId as EntryId, RaftTypeConfig};
use parking_lot::Mutex;

use super::codec;
use super::fault::Fault;
use crate::driver::Wal;
use crate::format::batch::Batch;
use crate::format::ids::{Epoch, LogId, LogPosition, Lsn};

/// The LSN of an index: indexes start at 0, LSNs at 1.
pub(super) const fn lsn_of(index: u64) -> Lsn {
    Lsn::new(index).next()
}

/// The epoch of a term: a term of 32 bits is the epoch's, and what does not fit goes into the version, which is compared
/// first. So epochs are in the order of terms, and none is lost.
pub(super) const fn epoch_of(term: u64) -> Epoch {
    #[expect(clippy::cast_possible_truncation, clippy::as_conversions, reason = "the other half is the version")]
    Epoch::new(term >> 32, term as u32)
}

/// A batch that was accepted and can't be read from the log yet.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// Numbers what this store submitted.
    pub(super) submission: u64,
    pub(super) batch: Batch,
}

/// What changes. Only the one [`LogStore`](super::LogStore) of a log changes it, and the calls that say what is durable.
pub(super) struct State<C: RaftTypeConfig> {
    pub(super) purged: Option<EntryId<C::NodeId>>,
    /// The last entry behind what is purged, if there is one.
    pub(super) last: Option<EntryId<C::NodeId>>,
    pub(super) committed: Option<EntryId<C::NodeId>>,
    /// It goes with the next submission.
    pub(super) committed_is_news: bool,
    /// Accepted and not durable, in the order of LSNs. All of it lies in the log's queue as well, which is bounded.
    pub(super) unsettled: VecDeque<Unsettled>,
    pub(super) submissions: u64,
    /// Counts what took entries away: who read at the same time looks again.
    pub(super) revision: u64,
}

impl<C: RaftTypeConfig> State<C> {
    /// The last entry, be it purged.
    pub(super) fn end(&self) -> Option<&EntryId<C::NodeId>> {
        self.last.as_ref().or(self.purged.as_ref())
    }

    /// The index behind the last entry that can be read.
    pub(super) fn end_index(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.index.saturating_add(1))
    }

    pub(super) fn is_purged(&self, index: u64) -> bool {
        self.purged.as_ref().is_some_and(|purged| index <= purged.index)
    }

    /// A submission is durable, and those before it.
    pub(super) fn settle(&mut self, submission: u64) {
        while self.unsettled.pop_front_if(|unsettled| unsettled.submission <= submission).is_some() {}
    }
}

/// One log of a [`Wal`], as raft's.
pub(super) struct Shared<C: RaftTypeConfig> {
    pub(super) wal: Arc<Wal>,
    pub(super) log: LogId,
    /// Its own `Arc`: the calls that wait in the log must not keep the log alive. Taken before the log's own lock, never
    /// while that is held.
    pub(super) state: Arc<Mutex<State<C>>>,
}

impl<C: RaftTypeConfig> Shared<C> {
    /// The batch that holds an LSN.
    pub(super) fn batch_at(&self, lsn: Lsn) -> Result<Batch, Fault> {
        let holds = |batch: &Batch| batch.first_lsn() <= lsn && lsn <= batch.last_lsn();
        let unsettled = self.state.lock().unsettled.iter().map(|u| &u.batch).find(|batch| holds(batch)).cloned();
        if let Some(batch) = unsettled {
            return Ok(batch);
        }
        let read = self.wal.read(self.log, lsn, 1)?.into_iter().next();
        read.filter(holds).ok_or_else(|| Fault::Hole { index: lsn.prev().get() })
    }

    /// The entries of a batch that lie in a range of indexes, each of them the one that must be there.
    pub(super) fn decode(&self, batch: &Batch, from: u64, to: u64) -> Result<Vec<C::Entry>, Fault> {
        let mut entries = Vec::new();
        for (bytes, index) in codec::entries_of(batch)?.iter().zip(batch.first_lsn().prev().get()..) {
            if index < from || index >= to {
                continue;
            }
            let entry: C::Entry = codec::decode(bytes)?;
            let id = openraft::RaftLogId::get_log_id(&entry);
            if id.index != index || epoch_of(id.leader_id.term) != batch.epoch() {
                return Err(Fault::Malformed { why: "the entry is not the one that its place in the log says" });
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The id of the entry at an index, which is there.
    pub(super) fn id_at(&self, batch: &Batch, index: u64) -> Result<EntryId<C::NodeId>, Fault> {
        let entries = self.decode(batch, index, index.saturating_add(1))?;
        let entry = entries.first().ok_or(Fault::Hole { index })?;
        Ok(openraft::RaftLogId::get_log_id(entry).clone())
    }

    /// Where a log begins that has nothing before an index: there is no history to continue.
    pub(super) fn anchor(&self, before: u64, epoch: Epoch) -> LogPosition {
        if before == 0 {
            return LogPosition::origin(self.log);
        }
        LogPosition { epoch, lsn: Lsn::new(before), chain: LogPosition::origin(self.log).chain }
    }
}

//! What reads the log: batches from memory or from the files, checked to be one history, decoded to entries.

use std::future::poll_fn;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::task::Poll;

use openraft::{ErrorSubject, ErrorVerb, RaftTypeConfig, StorageError, Violation};

use super::fault::{Fault, violation};
use super::state::{Shared, lsn_of};
use crate::format::batch::Batch;
use crate::format::ids::LogPosition;

/// Bytes that are read before other tasks of the runtime have a turn, and that one message of a leader carries; a batch
/// at the least.
pub(super) const READ_BYTES: usize = 1 << 20;

/// What there was of a range at one moment.
struct View {
    first: u64,
    end: u64,
    revision: u64,
    /// Accepted and not durable: in memory, behind what is read from the log.
    unsettled: Vec<Batch>,
}

/// Indexes from, and before which.
pub(super) fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (first, end)
}

impl<C: RaftTypeConfig> Shared<C> {
    /// The entries of a range that are there, up to about so many bytes.
    pub(super) async fn read(
        &self,
        first: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        loop {
            let view = self.view(first, end);
            match self.collect(&view, bytes_max).await {
                Ok(entries) => return Ok(entries),
                // Entries were taken away in the mean time. Otherwise it is damage.
                Err(_) if self.state.lock().revision != view.revision => {}
                Err((index, fault)) => {
                    return Err(fault.into_storage(ErrorSubject::LogIndex(index), ErrorVerb::Read));
                }
            }
        }
    }

    /// As [`Shared::read`], and the first one must be there.
    pub(super) async fn read_from(&self, first: u64, end: u64) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        let entries = self.read(first, end, READ_BYTES).await?;
        let got = entries.first().map(|entry| openraft::RaftLogId::get_log_id(entry).index);
        if first < end && got != Some(first) {
            return Err(violation(ErrorSubject::LogIndex(first), Violation::LogIndexNotFound { want: first, got }));
        }
        Ok(entries)
    }

    fn view(&self, first: u64, end: u64) -> View {
        let state = self.state.lock();
        let purged = state.purged.as_ref().map_or(0, |purged| purged.index.saturating_add(1));
        // LSNs up to the start are gone; the start's number is the index behind them.
        let first = first.max(purged).max(self.wal.start_of(self.log).lsn.get());
        let end = end.min(state.end_index());
        let wanted = state.unsettled.iter().map(|unsettled| &unsettled.batch);
        let wanted = wanted.filter(|batch| batch.last_lsn() >= lsn_of(first) && batch.first_lsn().prev().get() < end);
        View { first, end, revision: state.revision, unsettled: wanted.cloned().collect() }
    }

    async fn collect(&self, view: &View, bytes_max: usize) -> Result<Vec<C::Entry>, (u64, Fault)> {
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        let (mut next, mut at): (u64, Option<LogPosition>) = (view.first, None);
        let in_memory = view.unsettled.first().map_or(u64::MAX, |batch| batch.first_lsn().prev().get());
        while next < view.end && bytes < bytes_max {
            let batches = if next >= in_memory {
                view.unsettled.clone()
            } else {
                let read = self.wal.read(self.log, lsn_of(next), READ_BYTES).map_err(|e| (next, e.into()))?;
                read.into_iter().filter(|batch| batch.first_lsn().prev().get() < in_memory).collect()
            };
            let before = next;
            for batch in batches {
                let (first, behind) = (batch.first_lsn().prev().get(), batch.last_lsn().get());
                if behind <= next || next >= view.end || bytes >= bytes_max {
                    continue;
                }
                // Two moments may have been read, of which the second has another history.
                if first > next || at.is_some_and(|at| !batch.follows(&at)) {
                    return Err((next, Fault::Hole { index: next }));
                }
                entries.extend(self.decode(&batch, next, view.end).map_err(|fault| (next, fault))?);
                bytes = bytes.saturating_add(batch.bytes().len());
                (next, at) = (behind, Some(batch.position()));
            }
            if next == before {
                return Err((next, Fault::Hole { index: next }));
            }
            if next < view.end {
                others_first().await;
            }
        }
        Ok(entries)
    }
}

/// Gives other tasks a turn: files are read on the runtime's thread.
async fn others_first() {
    let mut asked = false;
    poll_fn(|context| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Reads the entries of a log, beside its store and other readers. Clone it for each task.
///
/// ```
/// use openraft::RaftLogReader;
/// use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
/// use towline_wal::openraft::LogStore;
/// # use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
/// # use std::io::Cursor;
/// # use std::sync::Arc;
/// # use towline_wal::{Options, Wal};
/// # openraft::declare_raft_types!(pub Types: D = String, R = String);
/// # let dir = tempfile::tempdir().unwrap();
/// # let open = || Arc::new(Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap().0);
/// # let entry = |index| {
/// #     let log_id = LogId::new(CommittedLeaderId::new(1, 7), index);
/// #     Entry { log_id, payload: EntryPayload::Normal("hello".to_owned()) }
/// # };
/// # let log = towline_wal::LogId::new(1);
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut store: LogStore<Types> = LogStore::open(open(), log).unwrap();
/// let mut reader = store.get_log_reader().await; // for a task of its own
/// store.blocking_append((0..4).map(entry)).await.unwrap();
/// let entries = reader.try_get_log_entries(1..=2).await.unwrap();
/// assert_eq!(entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [1, 2]);
/// store.purge(entry(1).log_id).await.unwrap();
/// assert_eq!(reader.try_get_log_entries(..).await.unwrap().len(), 2, "what is purged is gone for readers too");
/// # });
/// ```
#[derive(Clone)]
pub struct LogReader<C: RaftTypeConfig> {
    pub(super) shared: Arc<Shared<C>>,
}

#[cfg(test)]
#[path = "read_test.rs"]
mod tests;

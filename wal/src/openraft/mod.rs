//! Storage for [openraft](https://docs.rs/openraft): its log, vote, committed and purged ids in one log of a
//! [`Wal`]. The log may share its files, and so its syncs, with any number of others.
//!
//! The two types to know: [`LogStore`], which openraft owns and writes by; and [`LogReader`], which its replication reads
//! by. The state machine and its snapshots are the application's.
//!
//! - Index *i* is LSN *i* + 1, since LSNs start at 1. An entry is one record.
//! - The entries of one append are one batch where they share a term and fit 1 MiB, otherwise several: a batch costs 168
//!   bytes and a checksum, and compresses what it holds as a whole. Its epoch is the entries' term.
//! - A vote is durable when `save_vote` returns, entries are when the callback of `append` is called. Neither holds the
//!   thread while the disk works.
//! - `save_committed` costs no sync of its own: it goes with the next submission, and at the latest when the store is
//!   dropped. A crash may forget the last ones, which openraft allows.
//! - `truncate` in the middle of a batch writes the kept half of it again, in the same write group as the truncation, and is
//!   durable when it returns: a snapshot that contradicts what it took away may be installed next.
//! - `purge` is exact for readers; room is given back by whole batches. If the log does not have the entry with that id, all
//!   of it goes: nothing here continues what the snapshot stands for.
//! - `append` and `truncate` wait while the queue of the [`Wal`] is full. Every other error is for good, and openraft stops
//!   at it: open the [`Wal`] again. A full disk is such an error.
//! - Reading uses the runtime's thread, for 1 MiB at a time; a truncation reads one batch. The newest batches are in memory.
//!
//! A store whose newest vote is lost to damage does not open (TW-1408): an older one would let the node vote twice in a term.
//! Nor does one whose last purged id is.
//!
//! What an open of the [`Wal`] cuts off at the end of a log is taken for what it nearly always is, entries and votes that were
//! never acknowledged: nothing behind it proves that they were. Whoever distrusts the medium looks at [`LogStore::in_doubt`].
//!
//! ```
//! use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
//! use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftLogReader, Vote};
//! use std::io::Cursor;
//! use std::sync::Arc;
//! use towline_wal::openraft::LogStore;
//! use towline_wal::{Options, Wal};
//!
//! openraft::declare_raft_types!(pub Types: D = String, R = String);
//!
//! # let dir = tempfile::tempdir().unwrap();
//! let (wal, _report) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
//! let wal = Arc::new(wal);
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut store: LogStore<Types> = LogStore::open(Arc::clone(&wal), towline_wal::LogId::new(1)).unwrap();
//! store.save_vote(&Vote::new(1, 7)).await.unwrap();
//! let log_id = LogId::new(CommittedLeaderId::new(1, 7), 0);
//! let entry = Entry { log_id, payload: EntryPayload::Normal("hello".to_owned()) };
//! store.blocking_append([entry]).await.unwrap(); // as openraft does it; durable now
//! assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id));
//! assert_eq!(store.try_get_log_entries(0..).await.unwrap().len(), 1);
//! # });
//! wal.close().unwrap();
//! ```
#![expect(clippy::result_large_err, reason = "openraft's error is as large as it is, and its traits return it")]

mod codec;
mod fault;
mod read;
mod state;
mod write;

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    ErrorSubject, ErrorVerb, LogId as EntryId, LogState, OptionalSend, RaftLogReader, RaftTypeConfig, StorageError,
    Vote,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::core::Entry;
use crate::driver::Wal;
use crate::format::ids::LogId;
use crate::format::record::HardStateKind;
use fault::Fault;
use state::{Shared, State, lsn_of};
use write::{COMMITTED, PURGED, VOTE};

pub use read::LogReader;

/// The log storage of one raft node: give it to `openraft::Raft::new`.
///
/// It is the only one that writes its log: at most one store of a log is open at a time, and nobody else submits to it.
///
/// ```
/// use openraft::Vote;
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
/// let wal = open();
/// let mut store: LogStore<Types> = LogStore::open(Arc::clone(&wal), log).unwrap();
/// store.save_vote(&Vote::new(1, 7)).await.unwrap();
/// store.blocking_append([entry(0), entry(1)]).await.unwrap();
/// drop(store);
/// wal.close().unwrap();
///
/// // After a restart the node knows whom it voted for, and where its log ends.
/// let mut store: LogStore<Types> = LogStore::open(open(), log).unwrap();
/// assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(1, 7)));
/// assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(entry(1).log_id));
/// assert_eq!(store.in_doubt(), None);
/// # });
/// ```
pub struct LogStore<C: RaftTypeConfig> {
    shared: Arc<Shared<C>>,
}

impl<C: RaftTypeConfig> LogStore<C> {
    /// Takes a log of a [`Wal`] as raft's. A log that is not there is an empty one. Reads at most one batch.
    ///
    /// # Errors
    /// The log's end can't be read, something is missing from its middle, it holds what this adapter did not write, or its
    /// newest vote or purged id is lost (TW-1408): then the node may have promised what it does not know of. It joins anew,
    /// under another id and in another log, or in this one after [`Wal::remove_log`].
    pub fn open(wal: Arc<Wal>, log: LogId) -> Result<Self, StorageError<C::NodeId>> {
        let unread = |fault: Fault| fault.into_storage(ErrorSubject::Store, ErrorVerb::Read);
        let danger = "this node may have promised what it does not know of, and would vote twice";
        certain(&wal, log, VOTE, Fault::InDoubt { fact: "vote", danger })
            .map_err(|fault| fault.into_storage(ErrorSubject::Vote, ErrorVerb::Read))?;
        // With it went, for all that is known, the new beginning behind a snapshot. That of what was committed costs nothing:
        // openraft commits it again.
        let danger = "entries that a snapshot replaced may be here again";
        certain(&wal, log, PURGED, Fault::InDoubt { fact: "purged id", danger }).map_err(unread)?;
        let purged = fact(&wal, log, PURGED).map_err(unread)?;
        let committed: Option<Option<EntryId<C::NodeId>>> = fact(&wal, log, COMMITTED).map_err(unread)?;
        fact_of_vote::<C>(&wal, log)?;
        let state = State {
            purged,
            last: None,
            committed: committed.flatten(),
            committed_is_news: false,
            unsettled: VecDeque::new(),
            submissions: 0,
            revision: 0,
        };
        let shared = Shared { wal, log, state: Arc::new(Mutex::new(state)) };
        let last = shared.last_stored().map_err(|fault| fault.into_storage(ErrorSubject::Logs, ErrorVerb::Read))?;
        shared.state.lock().last = last;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The first index from which on the medium may have lost what it once had acknowledged: entries, and a vote that was
    /// saved behind the last of what is left. `None`: the open of the [`Wal`] cut nothing off, and found no damage.
    ///
    /// A crash while something was being written makes a doubt as well, and without a medium that lies it is unfounded: what
    /// later writes prove to be lost, a vote too, [`LogStore::open`] refuses or a read reports.
    /// It stands until the application submits [`Entry::Settle`] for the log.
    #[must_use]
    pub fn in_doubt(&self) -> Option<u64> {
        let cuts = self.shared.wal.cuts();
        cuts.iter().find(|cut| cut.log == self.shared.log).map(|cut| cut.from.prev().get())
    }

    fn reader(&self) -> LogReader<C> {
        LogReader { shared: Arc::clone(&self.shared) }
    }
}

/// Whether what is known of a fact is the newest that was saved; else why not.
fn certain(wal: &Wal, log: LogId, kind: HardStateKind, lost: Fault) -> Result<(), Fault> {
    if wal.hard_state(log, kind).is_some_and(|bytes| bytes == codec::IN_DOUBT) {
        return Err(lost);
    }
    if wal.doubtful_hard_states(log).contains(&kind) {
        // The other logs go on, and the record of an older one may be written anew where a later open takes it for the
        // newest: this stands in its place, for every open to come. If it is not taken, or lost in a crash, the next open
        // finds the damage as this one did.
        let mark = Entry::HardState { log, kind, bytes: Bytes::from_static(codec::IN_DOUBT) };
        drop(wal.submit(vec![mark]));
        return Err(lost);
    }
    Ok(())
}

fn fact<T: DeserializeOwned>(wal: &Wal, log: LogId, kind: HardStateKind) -> Result<Option<T>, Fault> {
    wal.hard_state(log, kind).map(|bytes| codec::decode_fact(&bytes)).transpose()
}

fn fact_of_vote<C: RaftTypeConfig>(wal: &Wal, log: LogId) -> Result<Option<Vote<C::NodeId>>, StorageError<C::NodeId>> {
    fact(wal, log, VOTE).map_err(|fault| fault.into_storage(ErrorSubject::Vote, ErrorVerb::Read))
}

impl<C: RaftTypeConfig> Shared<C> {
    /// The id of the last entry that is not purged.
    fn last_stored(&self) -> Result<Option<EntryId<C::NodeId>>, Fault> {
        let purged = self.state.lock().purged.clone();
        let (start, end) = (self.wal.start_of(self.log).lsn, self.wal.end(self.log).lsn);
        if let Some(purged) = purged.filter(|purged| start > lsn_of(purged.index)) {
            return Err(Fault::Hole { index: purged.index.saturating_add(1) });
        }
        if end <= start || self.state.lock().is_purged(end.prev().get()) {
            return Ok(None);
        }
        let batch = self.batch_at(end)?;
        self.id_at(&batch, end.prev().get()).map(Some)
    }
}

impl<C: RaftTypeConfig> RaftLogReader<C> for LogReader<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        let (first, end) = read::bounds(&range);
        self.shared.read(first, end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        first: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.shared.read_from(first, end).await
    }
}

impl<C: RaftTypeConfig> RaftLogReader<C> for LogStore<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.reader().try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(
        &mut self,
        first: u64,
        end: u64,
    ) -> Result<Vec<C::Entry>, StorageError<C::NodeId>> {
        self.reader().limited_get_log_entries(first, end).await
    }
}

impl<C: RaftTypeConfig> RaftLogStorage<C> for LogStore<C> {
    type LogReader = LogReader<C>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<C::NodeId>> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged.clone(), last_log_id: state.end().cloned() })
    }

    async fn get_log_reader(&mut self) -> LogReader<C> {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let fault = |fault: Fault| fault.into_storage(ErrorSubject::Vote, ErrorVerb::Write);
        let fact = codec::encode_fact(vote).map_err(fault)?;
        self.shared.save(VOTE, fact).await.map_err(fault)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<C::NodeId>>, StorageError<C::NodeId>> {
        fact_of_vote::<C>(&self.shared.wal, self.shared.log)
    }

    async fn save_committed(&mut self, committed: Option<EntryId<C::NodeId>>) -> Result<(), StorageError<C::NodeId>> {
        let mut state = self.shared.state.lock();
        state.committed_is_news |= state.committed != committed;
        state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<EntryId<C::NodeId>>, StorageError<C::NodeId>> {
        Ok(self.shared.state.lock().committed.clone())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError<C::NodeId>>
    where
        I: IntoIterator<Item = C::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let pieces = self.shared.pieces(entries)?;
        self.shared.append(pieces, callback).await
    }

    async fn truncate(&mut self, log_id: EntryId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        self.shared.truncate(log_id).await
    }

    async fn purge(&mut self, log_id: EntryId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        self.shared.purge(log_id).await
    }
}

impl<C: RaftTypeConfig> Drop for LogStore<C> {
    fn drop(&mut self) {
        // If the log takes it no more, openraft does without: it commits again what it has not heard of.
        drop(self.shared.submit_committed());
    }
}

impl<C: RaftTypeConfig> Debug for LogStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("log", &self.shared.log).field("wal", &self.shared.wal).finish_non_exhaustive()
    }
}

impl<C: RaftTypeConfig> Debug for LogReader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("log", &self.shared.log).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
mod power_test;

//! What changes the log: one submission for what must not be torn apart by a crash.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::LogFlushed;
use openraft::{
    AsyncRuntime, ErrorSubject, ErrorVerb, LogId as EntryId, RaftLogId, RaftTypeConfig, StorageError, Violation,
};
use parking_lot::Mutex;

use super::codec::{self, ENTRY_OVERHEAD_BYTES, Run};
use super::fault::{Fault, violation};
use super::state::{Shared, State, Unsettled, epoch_of, lsn_of};
use crate::core::{Entry, WhenFull};
use crate::driver::Pending;
use crate::error::{SubmitError, WalError};
use crate::format::batch::{Batch, BatchBuilder, BatchKind};
use crate::format::block::Block;
use crate::format::ids::{LogPosition, Lsn};
use crate::format::record::HardStateKind;
use crate::limits::{BATCH_HEADER_BYTES, BATCH_RAW_BYTES_MAX, PAYLOAD_BLOCK_HEADER_BYTES};

/// What a voter promised.
pub(super) const VOTE: HardStateKind = HardStateKind::Promise;
/// Up to where a snapshot stands for the entries.
pub(super) const PURGED: HardStateKind = HardStateKind::Snapshot;
pub(super) const COMMITTED: HardStateKind = HardStateKind::Owner;

/// Bytes of entries in one batch, unless one entry is larger: a batch is what a reader decodes to get at one entry, and
/// what a truncation in its middle writes again.
const BATCH_BYTES: usize = 1 << 20;

/// The first and the longest wait for room in the log's queue: about a sync of a fast and of a slow disk.
const QUEUE_WAIT: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];

/// Entries of one term that become one batch.
pub(super) struct Piece<C: RaftTypeConfig> {
    first: u64,
    last: EntryId<C::NodeId>,
    block: Block,
}

/// Calls back once, from whichever of an append's batches is the last.
type Callback<C> = Arc<Mutex<Option<LogFlushed<C>>>>;

impl<C: RaftTypeConfig> Shared<C> {
    /// See [`RaftLogStorage::append`](openraft::storage::RaftLogStorage::append).
    pub(super) async fn append(
        &self,
        pieces: Vec<Piece<C>>,
        flushed: LogFlushed<C>,
    ) -> Result<(), StorageError<C::NodeId>> {
        let Some(last) = pieces.len().checked_sub(1) else {
            flushed.log_io_completed(Ok(()));
            return Ok(());
        };
        let flushed: Callback<C> = Arc::new(Mutex::new(Some(flushed)));
        for (i, piece) in pieces.into_iter().enumerate() {
            let subject = ErrorSubject::Log(piece.last.clone());
            // Completions are in the order of submissions: when the last is durable, all are.
            let flushed = (i == last).then_some(&flushed);
            self.when_taken(|| self.append_piece(&piece, flushed))
                .await
                .map_err(|fault| fault.into_storage(subject, ErrorVerb::Write))?;
        }
        Ok(())
    }

    /// Encodes entries and checks that they continue the log. Nothing is written yet.
    pub(super) fn pieces(
        &self,
        entries: impl IntoIterator<Item = C::Entry>,
    ) -> Result<Vec<Piece<C>>, StorageError<C::NodeId>> {
        let (purged, mut prev) = {
            let state = self.state.lock();
            (state.purged.clone(), state.end().cloned())
        };
        let overhead = BATCH_HEADER_BYTES + PAYLOAD_BLOCK_HEADER_BYTES;
        let bytes_max = self.wal.batch_bytes_max().saturating_sub(overhead).min(BATCH_RAW_BYTES_MAX);
        let mut pieces: Vec<Piece<C>> = Vec::new();
        let mut run: Option<(u64, EntryId<C::NodeId>, Run)> = None;
        for entry in entries {
            let id = entry.get_log_id().clone();
            if prev == purged && purged.as_ref().is_some_and(|purged| id.index <= purged.index) {
                // A snapshot stands for it: nobody may ever read it.
                continue;
            }
            follows(prev.as_ref(), &id)?;
            let fault = |fault: Fault| fault.into_storage(ErrorSubject::Log(id.clone()), ErrorVerb::Write);
            let bytes = codec::encode_entry(&entry).map_err(fault)?;
            if bytes.len().saturating_add(ENTRY_OVERHEAD_BYTES) > bytes_max {
                let bytes_max = bytes_max.saturating_sub(ENTRY_OVERHEAD_BYTES);
                return Err(fault(Fault::TooLarge { what: "an entry", bytes: bytes.len(), bytes_max }));
            }
            let batch_bytes = BATCH_BYTES.min(bytes_max);
            let goes_on = |(_, last, run): &(u64, EntryId<C::NodeId>, Run)| {
                last.leader_id.term == id.leader_id.term && run.takes(bytes.len(), batch_bytes)
            };
            if let Some((first, last, run)) = run.take_if(|run| !goes_on(run)) {
                pieces.push(Piece { first, last, block: run.into_block() });
            }
            let (_, last, run) = run.get_or_insert_with(|| (id.index, id.clone(), Run::new()));
            run.push(&bytes);
            last.clone_from(&id);
            prev = Some(id);
        }
        pieces.extend(run.map(|(first, last, run)| Piece { first, last, block: run.into_block() }));
        Ok(pieces)
    }

    fn append_piece(&self, piece: &Piece<C>, flushed: Option<&Callback<C>>) -> Result<(), Fault> {
        let mut state = self.state.lock();
        let mut entries = Vec::new();
        let mut end = self.wal.end(self.log);
        if end.lsn != lsn_of(piece.first).prev() {
            // Only in front of the first entry behind a snapshot, or of all: `follows` saw to that.
            end = self
                .anchor(piece.first, state.purged.as_ref().map(|id| epoch_of(id.leader_id.term)).unwrap_or_default());
            entries.push(Entry::Reset { log: self.log, to: end });
        }
        let batch = self.seal(end, piece.last.leader_id.term, piece.block.clone())?;
        entries.push(Entry::Batch(batch.clone()));
        let flushed = flushed.map(Arc::clone);
        self.submit(&mut state, entries, Some(batch), move |result| {
            if let Some(flushed) = flushed.and_then(|flushed| flushed.lock().take()) {
                flushed
                    .log_io_completed(result.map_err(|error| io::Error::other(format!("{}: {error}", error.code()))));
            }
        })?;
        state.last = Some(piece.last.clone());
        Ok(())
    }

    /// See [`RaftLogStorage::truncate`](openraft::storage::RaftLogStorage::truncate).
    pub(super) async fn truncate(&self, since: EntryId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let subject = ErrorSubject::Log(since.clone());
        let (purged, end) = {
            let state = self.state.lock();
            (state.purged.clone(), state.end_index())
        };
        if since.index >= end {
            return Ok(());
        }
        if purged.as_ref().is_some_and(|purged| since.index <= purged.index) {
            let first_conflict_log_id = since;
            return Err(violation(
                subject,
                Violation::AppliedWontConflict { last_applied: purged, first_conflict_log_id },
            ));
        }
        let fault = |fault: Fault| fault.into_storage(subject.clone(), ErrorVerb::Delete);
        let truncate = || self.truncation(since.index).and_then(|cut| self.cut(&cut));
        self.when_taken(truncate).await.map_err(fault)?;
        self.durable().await.map_err(fault)
    }

    /// Waits until all that was submitted is durable. openraft truncates before it has the application install a snapshot that
    /// contradicts what is here: were the snapshot durable first, and power lost, this node would count entries for its own
    /// that contradict what is committed, and could be elected by their terms.
    async fn durable(&self) -> Result<(), Fault> {
        for pending in self.wal.start_sync()? {
            pending.await?;
        }
        Ok(())
    }

    /// What becomes of the log when it ends before an index.
    fn truncation(&self, index: u64) -> Result<Truncation<C>, Fault> {
        let start = self.wal.start_of(self.log);
        let end = Lsn::new(index);
        if end <= start.lsn {
            return Ok(Truncation { to: start, head: None, last: None });
        }
        let batch = self.batch_at(end)?;
        let last = self.id_at(&batch, index.saturating_sub(1))?;
        let last = Some(last).filter(|last| !self.state.lock().is_purged(last.index));
        if batch.last_lsn() == end {
            return Ok(Truncation { to: batch.position(), head: None, last });
        }
        let before = self.wal.boundary_at_or_before(self.log, batch.first_lsn().prev());
        let to = before.filter(|to| batch.follows(to)).ok_or(Fault::Hole { index })?;
        let kept = to.lsn.distance_to(end).and_then(|kept| usize::try_from(kept).ok()).unwrap_or(0);
        let block = codec::head(&codec::entries_of(&batch)?, kept);
        let head = BatchBuilder::new(self.log, BatchKind::Data, batch.epoch(), to, 0).block(block).seal()?;
        Ok(Truncation { to, head: Some(head), last })
    }

    fn cut(&self, cut: &Truncation<C>) -> Result<(), Fault> {
        let mut state = self.state.lock();
        // In one submission, which is one group: what is kept was acknowledged, and a crash between the two would lose it.
        let mut entries = vec![Entry::Truncate { log: self.log, to: cut.to }];
        entries.extend(cut.head.clone().map(Entry::Batch));
        let kept = state.unsettled.partition_point(|unsettled| unsettled.batch.last_lsn() <= cut.to.lsn);
        let lost = state.unsettled.split_off(kept);
        if let Err(fault) = self.submit(&mut state, entries, cut.head.clone(), |_| {}) {
            state.unsettled.extend(lost);
            return Err(fault);
        }
        state.last.clone_from(&cut.last);
        state.revision += 1;
        Ok(())
    }

    /// See [`RaftLogStorage::purge`](openraft::storage::RaftLogStorage::purge).
    pub(super) async fn purge(&self, upto: EntryId<C::NodeId>) -> Result<(), StorageError<C::NodeId>> {
        let fault = |fault: Fault| fault.into_storage(ErrorSubject::Log(upto.clone()), ErrorVerb::Delete);
        let fact = codec::encode_fact(&upto).map_err(fault)?;
        let is_ours = self.has(&upto).map_err(fault)?;
        self.when_taken(|| self.release(&upto, is_ours, &fact)).await.map_err(fault)
    }

    /// Whether the log had the entry with this id, or has it: what is behind it continues it. Reads at most one batch.
    fn has(&self, id: &EntryId<C::NodeId>) -> Result<bool, Fault> {
        let (purged, end) = {
            let state = self.state.lock();
            (state.purged.clone(), state.end().cloned())
        };
        let Some(end) = end.filter(|end| id.index <= end.index) else { return Ok(false) };
        if id.index == end.index {
            return Ok(*id == end);
        }
        // What lies before is older than what is purged; nobody asks for more of it.
        if let Some(purged) = purged.filter(|purged| id.index <= purged.index) {
            return Ok(*id == purged);
        }
        let start = self.wal.start_of(self.log).lsn;
        if lsn_of(id.index) <= start {
            // The first append of all was of later entries.
            let first = self.id_at(&self.batch_at(start.next())?, start.get())?;
            return Ok(follows(Some(id), &first).is_ok());
        }
        let batch = self.batch_at(lsn_of(id.index))?;
        Ok(self.id_at(&batch, id.index)? == *id)
    }

    /// `is_ours`: see [`Shared::has`].
    fn release(&self, upto: &EntryId<C::NodeId>, is_ours: bool, fact: &Bytes) -> Result<(), Fault> {
        let mut state = self.state.lock();
        if state.purged.as_ref().is_some_and(|purged| upto.index < purged.index) {
            return Ok(());
        }
        // Exact, whatever batches lie around it; and ahead of what it allows: torn apart by a crash, it hides too much, not
        // too little.
        let mut entries = vec![self.fact(PURGED, fact.clone())];
        let keeps = is_ours && state.last.as_ref().is_some_and(|last| upto.index < last.index);
        if is_ours {
            entries.push(Entry::Release { log: self.log, before: lsn_of(upto.index).next() });
        } else {
            // A snapshot of somebody who is ahead, or of another history: by the index alone, entries would stay that
            // contradict it, and nothing that follows it could be appended. What is here has no continuation.
            let to = self.anchor(upto.index.saturating_add(1), epoch_of(upto.leader_id.term));
            entries.push(Entry::Reset { log: self.log, to });
        }
        self.submit(&mut state, entries, None, |_| {})?;
        if !keeps {
            state.last = None;
            state.unsettled.clear();
        }
        state.purged = Some(upto.clone());
        state.revision += 1;
        Ok(())
    }

    /// Stores a fact; it is durable when this returns.
    pub(super) async fn save(&self, kind: HardStateKind, fact: Bytes) -> Result<(), Fault> {
        let submit = || -> Result<Pending, Fault> {
            let mut state = self.state.lock();
            let mut entries = self.committed_news(&state)?;
            entries.push(self.fact(kind, fact.clone()));
            let pending = self.wal.submit(entries)?;
            state.committed_is_news = false;
            Ok(pending)
        };
        Ok(self.when_taken(submit).await?.await?)
    }

    /// Hands in what waited for a submission to go with.
    pub(super) fn submit_committed(&self) -> Result<(), Fault> {
        let mut state = self.state.lock();
        let entries = self.committed_news(&state)?;
        if !entries.is_empty() {
            self.wal.submit_with(entries, WhenFull::Refuse, |_| {})?;
            state.committed_is_news = false;
        }
        Ok(())
    }

    /// Everything that changes entries. `batch` can be read from now on, and from the log when it is durable.
    fn submit(
        &self,
        state: &mut State<C>,
        entries: Vec<Entry>,
        batch: Option<Batch>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) -> Result<(), Fault> {
        let mut all = self.committed_news(state)?;
        all.extend(entries);
        let submission = state.submissions;
        let settles = Arc::clone(&self.state);
        self.wal.submit_with(all, WhenFull::Refuse, move |result| {
            if result.is_ok() {
                settles.lock().settle(submission);
            }
            done(result);
        })?;
        state.submissions += 1;
        state.committed_is_news = false;
        state.unsettled.extend(batch.map(|batch| Unsettled { submission, batch }));
        Ok(())
    }

    fn committed_news(&self, state: &State<C>) -> Result<Vec<Entry>, Fault> {
        if !state.committed_is_news {
            return Ok(Vec::new());
        }
        Ok(vec![self.fact(COMMITTED, codec::encode_fact(&state.committed)?)])
    }

    const fn fact(&self, kind: HardStateKind, bytes: Bytes) -> Entry {
        Entry::HardState { log: self.log, kind, bytes }
    }

    fn seal(&self, end: LogPosition, term: u64, block: Block) -> Result<Batch, Fault> {
        Ok(BatchBuilder::new(self.log, BatchKind::Data, epoch_of(term), end, 0).block(block).seal()?)
    }

    /// Submits again while the queue is full, which it is by others as well: raft stops for good at any error. The disk
    /// drains it, or fails, and then the log says so; no deadline of ours makes that better known.
    async fn when_taken<T>(&self, submit: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
        let [mut wait, longest] = QUEUE_WAIT;
        loop {
            match submit() {
                Err(Fault::Submit(SubmitError::Busy { .. })) => C::AsyncRuntime::sleep(wait).await,
                taken => return taken,
            }
            wait = wait.saturating_mul(2).min(longest);
        }
    }
}

/// The log as a truncation leaves it.
struct Truncation<C: RaftTypeConfig> {
    to: LogPosition,
    /// What is kept of the batch that it cuts in two.
    head: Option<Batch>,
    last: Option<EntryId<C::NodeId>>,
}

/// Whether an entry may stand behind another, or be the first of all.
fn follows<N: openraft::NodeId>(prev: Option<&EntryId<N>>, next: &EntryId<N>) -> Result<(), StorageError<N>> {
    let Some(prev) = prev else { return Ok(()) };
    let subject = ErrorSubject::Log(next.clone());
    if next.index != prev.index.saturating_add(1) {
        let (prev, next) = (Some(prev.clone()), next.clone());
        return Err(violation(subject, Violation::LogsNonConsecutive { prev, next }));
    }
    if next.leader_id.term < prev.leader_id.term {
        let (higher_index_log_id, lower_index_log_id) = (next.clone(), prev.clone());
        return Err(violation(subject, Violation::DirtyLog { higher_index_log_id, lower_index_log_id }));
    }
    Ok(())
}

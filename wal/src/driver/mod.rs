//! [`Wal`]: the log on real files, with threads of its own.

mod fetch;
mod inbox;
mod paced;
mod pending;
mod stopwatch;
mod sync;
mod tail;
mod threads;
mod verify;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::core::{Cut, Entry, Extent, LogCore, Options, Stats, Ticket, WhenFull};
use crate::error::{OpenError, ReadError, SubmitError, WalError};
use crate::format::batch::Batch;
use crate::format::ids::{Epoch, LogId, LogPosition, Lsn};
use crate::format::record::HardStateKind;
use crate::io::{Io, IoFailure, IoRequest, RealIo};
use crate::recovery::report::OpenReport;
use fetch::{Fetch, Kept};
use inbox::Inbox;
use paced::{PacedIo, Stop};
use pending::Waiters;
use tail::Tails;
use threads::{Background, Driver, Notifications, Shared, State, Taken};

pub use pending::Pending;
pub use tail::{Tail, TailError};
pub use verify::Verified;

/// A log on real files. Share it by `Arc`; all of it takes `&self`.
///
/// Dropping it stops its threads without a closing group: what was acknowledged is durable, the next open
/// finds an unclean end. [`Wal::close`] ends in good order.
///
/// ```
/// use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, Lsn, Options, Wal};
/// let dir = tempfile::tempdir().unwrap();
/// let options = Options { segment_bytes: 1 << 20, ..Options::default() };
/// let (wal, report) = Wal::open(dir.path(), options.clone()).unwrap();
/// assert!(report.created);
/// let log = LogId::new(1);
/// let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), wal.end(log), 0).seal_raw(b"hello", 1).unwrap();
/// wal.append(batch.clone()).unwrap(); // durable now
/// wal.close().unwrap();
///
/// let (wal, report) = Wal::open(dir.path(), options).unwrap();
/// assert!(report.clean_close && report.is_intact());
/// assert_eq!(wal.read(log, Lsn::FIRST, 1 << 20).unwrap(), [batch]);
/// ```
pub struct Wal {
    shared: Arc<Shared>,
    io: RealIo,
    /// For reads of many batches.
    kept: Kept,
    background_bytes_per_second: u64,
    /// What is done in the background is to be given up.
    stopping: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What closing came to. Held while it is going on.
    closed: Mutex<Option<Result<(), WalError>>>,
}

/// How a thread is started.
type Spawn<'a> = dyn FnMut(std::thread::Builder, Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> + 'a;

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("dir", &self.io.dir()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in `dir`, or makes one there. The directory is made if it is missing.
    ///
    /// # Errors
    /// [`OpenError`]; unless it is `Io`, nothing in the directory was changed, but that its lock was taken and given back.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Self, OpenReport), OpenError> {
        let io = RealIo::new(dir.as_ref());
        let mut io = if options.direct_writes { io } else { io.buffered() };
        let (core, report) = LogCore::recover(&mut io, &options)?;
        // Clones: what an open keeps for its own reads goes with it.
        let begun = Self::begin(core, &options, io.clone(), Box::new(io.clone()), &mut |thread, run| thread.spawn(run));
        let wal = begun?;
        Ok((wal, report))
    }

    /// As [`Wal::open`], with the directory as the writer sees it in other hands.
    #[cfg(all(test, feature = "openraft", not(shuttle)))]
    pub(crate) fn open_with(
        dir: &Path,
        options: &Options,
        writes: impl FnOnce(RealIo) -> Box<dyn Io + Send>,
    ) -> Result<Self, OpenError> {
        let mut io = RealIo::new(dir);
        let (core, _) = LogCore::recover(&mut io, options)?;
        Self::begin(core, options, io.clone(), writes(io), &mut |thread, run| thread.spawn(run))
    }

    /// `writes`: the directory again, for what waiters wait for.
    fn begin(
        core: LogCore,
        options: &Options,
        io: RealIo,
        writes: Box<dyn Io + Send>,
        spawn: &mut Spawn<'_>,
    ) -> Result<Self, OpenError> {
        let waiters = Waiters::new(options.group_bytes_max);
        let state =
            State { core, waiters, tails: Tails::default(), stopping: false, last_entries: 0, taken: Taken::default() };
        let (prepare_to, prepare_from) = sync::unbounded();
        let (compact_to, compact_from) = sync::unbounded();
        let (notifier, notifications) = threads::notifier();
        let background = Background { prepare: prepare_to, compact: compact_to };
        let driver = Driver { io: writes, background, notifier };
        let shared = Arc::new(Shared::new(state, Inbox::new(options), driver));
        let wal = Self {
            shared,
            io,
            kept: Kept::default(),
            background_bytes_per_second: options.background_bytes_per_second,
            stopping: Arc::new(Stop::default()),
            threads: Mutex::new(Vec::new()),
            closed: Mutex::new(None),
        };
        let started = wal.start(spawn, prepare_from, compact_from, notifications);
        if let Err(error) = started {
            // The others wait for what nobody would ask of them; dropping `wal` waits for them.
            wal.shared.disband();
            return Err(OpenError::Io(IoFailure::from_error(&error, "start the threads of", ".")));
        }
        Ok(wal)
    }

    fn start(
        &self,
        spawn: &mut Spawn<'_>,
        prepare_from: sync::Receiver<IoRequest>,
        compact_from: sync::Receiver<IoRequest>,
        notifications: Notifications,
    ) -> std::io::Result<()> {
        let (shared, io) = (Arc::clone(&self.shared), self.io.clone());
        let mut begin = |name: &str, run: Box<dyn FnOnce() + Send>| -> std::io::Result<()> {
            let thread = spawn(std::thread::Builder::new().name(name.to_owned()), run)?;
            self.threads.lock().push(thread);
            Ok(())
        };
        begin("wal-prepare", Box::new(move || threads::prepare(&shared, io, &prepare_from)))?;
        let (shared, stopping) = (Arc::clone(&self.shared), Arc::clone(&self.stopping));
        let io = PacedIo::new(self.io.clone(), self.background_bytes_per_second, stopping);
        begin("wal-compact", Box::new(move || threads::compact(&shared, io, &compact_from)))?;
        begin("wal-notify", Box::new(move || threads::notify(&notifications)))?;
        let shared = Arc::clone(&self.shared);
        begin("wal-write", Box::new(move || threads::write(&shared)))
    }

    /// Accepts entries in order; wait for the result, or don't. If they fit a group (`group_bytes_max`), a crash leaves all of
    /// them or none.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing of the submission was taken.
    pub fn submit(&self, entries: Vec<Entry>) -> Result<Pending, SubmitError> {
        let bytes = entries.iter().map(Entry::batch_bytes).sum();
        self.submit_to(entries, WhenFull::Refuse, |waiters, ticket| waiters.join(ticket, bytes))
    }

    /// Accepts entries in order, and calls `done` when they are durable or in doubt: once, on a thread of the log, in
    /// the order of submissions. A call should be short, since later ones and writes may wait for it, and must
    /// neither panic nor wait for this log.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing of the submission was taken, and `done` is dropped without a call.
    pub fn submit_with(
        &self,
        entries: Vec<Entry>,
        full: WhenFull,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) -> Result<(), SubmitError> {
        let done = Box::new(done);
        self.submit_to(entries, full, |waiters, ticket| waiters.call(ticket, done))
    }

    fn submit_to<T>(
        &self,
        entries: Vec<Entry>,
        full: WhenFull,
        wait: impl FnOnce(&mut Waiters, Ticket) -> T,
    ) -> Result<T, SubmitError> {
        let _failing = self.shared.failing();
        let mut state = self.state();
        for entry in &entries {
            // A truncation must know the boundary that it is to, a beginning that there is none, and what is put again what is around it.
            let around = match entry {
                Entry::Truncate { log, to: at } | Entry::Begin { log, at } => [Some((*log, at.lsn)), None],
                Entry::Mend(batch) => [batch.first_lsn().prev(), batch.last_lsn()].map(|lsn| Some((batch.log(), lsn))),
                _ => continue,
            };
            for (log, lsn) in around.into_iter().flatten() {
                drop(state);
                state = self.loaded(log, lsn);
            }
        }
        if state.stopping {
            return Err(SubmitError::Closed);
        }
        // What the same thread left before comes first.
        let ticket = if state.take_in(&self.shared.inbox) {
            state.core.submit_when(entries, full)
        } else {
            Err(state.core.busy())
        };
        let waiting = match ticket {
            Ok(ticket) => Ok(wait(&mut state.waiters, ticket)),
            // Their call goes when the lock has: dropping it may run code of theirs, which may ask the log.
            Err(refused) => Err(refused),
        };
        drop(state);
        self.shared.signal();
        waiting
    }

    /// Appends one batch and waits until it is durable.
    ///
    /// # Errors
    /// [`WalError::Refused`]: nothing was taken. Others: in doubt until the log is reopened.
    pub fn append(&self, batch: Batch) -> Result<(), WalError> {
        self.shared.append(batch)
    }

    /// Appends one batch; wait for the result, or await it. Batches of one thread are accepted in the order of its calls.
    /// Cheaper than [`Wal::submit`], since whether the batch is refused is not known before the end: then waiting says so.
    /// What is submitted, synced or closed after this call comes behind it; [`Wal::end`] may not know of it yet.
    ///
    /// ```
    /// # use towline_wal::{BatchBuilder, BatchKind, Epoch, LogId, Options, Wal};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    /// let log = LogId::new(1);
    /// let mut end = wal.end(log);
    /// let mut under_way = Vec::new();
    /// for record in [b"one", b"two"] {
    ///     let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), end, 0).seal_raw(record, 1).unwrap();
    ///     end = batch.position();
    ///     under_way.push(wal.start_append(batch).unwrap());
    /// }
    /// for pending in under_way {
    ///     pending.wait().unwrap();
    /// }
    /// assert_eq!(wal.durable_end(log), end);
    /// ```
    ///
    /// # Errors
    /// [`SubmitError::Busy`], [`SubmitError::Closed`]: nothing was taken. Any of [`SubmitError`], `Busy` too, may also be what
    /// waiting comes to; then what this thread started behind it in the same log does not follow, and is refused as well.
    pub fn start_append(&self, batch: Batch) -> Result<Pending, SubmitError> {
        self.shared.start_append(batch)
    }

    /// Whole batches, from the one that contains `from`, up to about `max_bytes` but at least one; none at the end of
    /// what is written.
    ///
    /// # Errors
    /// [`ReadError`]: released, corrupt.
    pub fn read(&self, log: LogId, from: Lsn, max_bytes: usize) -> Result<Vec<Batch>, ReadError> {
        let mut failed: Option<Box<(Extent, ReadError)>> = None;
        loop {
            let mut state = self.loaded(log, from);
            let plan = state.core.plan_noting(log, from, max_bytes)?;
            let cached = plan.iter().map(|extent| state.core.cached(extent)).collect();
            drop(state);
            if let Some(failed) = failed.take().filter(|it| plan.first().is_some_and(|first| first.is_same(&it.0))) {
                // From here on it is known, until another copy of it is put there.
                if matches!(failed.1, ReadError::Corrupt { .. }) {
                    self.state().core.note_damaged(&failed.0);
                }
                return Err(failed.1);
            }
            match Fetch::new(self.io.clone(), &self.kept).run(&plan, cached) {
                Ok(batches) => return Ok(batches),
                // It may have been released, or compaction may have moved it, since it was planned.
                Err(first) => failed = Some(first),
            }
        }
    }

    /// The log, with what it takes in memory to speak of `lsn`: the files are read without its lock.
    fn loaded(&self, log: LogId, lsn: Lsn) -> sync::MutexGuard<'_, State> {
        loop {
            let state = self.state();
            let Some(request) = state.core.index_needed(log, lsn) else { return state };
            drop(state);
            let index = request.load(&mut self.io.clone());
            let partial = index.is_partial();
            let mut state = self.state();
            state.core.install_index(index);
            // What could not be read is not waited for: who asks for it hears of that.
            if partial || state.core.index_needed(log, lsn).is_none() {
                return state;
            }
        }
    }

    /// Lets records go that nobody will read again: those before `before`, down to a batch boundary. Waits until that is
    /// durable. See [`Entry::Release`].
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn release(&self, log: LogId, before: Lsn) -> Result<(), WalError> {
        self.submit(vec![Entry::Release { log, before }])?.wait()
    }

    /// Lets everything go up to a position that lies in damage and that nothing in the log names; waits until that is durable.
    /// See [`Entry::Begin`].
    ///
    /// # Errors
    /// As [`Wal::append`]; [`SubmitError::NotABoundary`] where the log has a batch, or can't have had this one.
    pub fn begin_at(&self, log: LogId, at: LogPosition) -> Result<(), WalError> {
        self.submit(vec![Entry::Begin { log, at }])?.wait()
    }

    /// Ends the log's history at an earlier batch boundary, and waits until that is durable. See [`Entry::Truncate`].
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn truncate_suffix(&self, log: LogId, to: LogPosition) -> Result<(), WalError> {
        self.submit(vec![Entry::Truncate { log, to }])?.wait()
    }

    /// Discards what a log holds and lets it start at `anchor`; waits until that is durable. See [`Entry::Reset`].
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn reset(&self, log: LogId, anchor: LogPosition) -> Result<(), WalError> {
        self.submit(vec![Entry::Reset { log, to: anchor }])?.wait()
    }

    /// Removes a log for ever, and waits until that is durable. See [`Entry::Remove`].
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub fn remove_log(&self, log: LogId) -> Result<(), WalError> {
        self.submit(vec![Entry::Remove { log }])?.wait()
    }

    /// Waits until everything that was accepted before is durable.
    ///
    /// # Errors
    /// [`WalError`]: the log failed, or is closed.
    pub fn sync(&self) -> Result<(), WalError> {
        self.start_sync()?.into_iter().try_for_each(Pending::wait)
    }

    /// As [`Wal::sync`], to be awaited: all of them. None: everything is durable already.
    pub(crate) fn start_sync(&self) -> Result<Vec<Pending>, WalError> {
        let _failing = self.shared.failing();
        let mut state = self.state();
        if state.stopping {
            return Err(WalError::Closed);
        }
        let is_taken = state.take_in(&self.shared.inbox);
        let left = if is_taken { Vec::new() } else { self.shared.inbox.under_way() };
        let ticket = state.core.barrier()?;
        let pending = ticket.map(|ticket| state.waiters.join(ticket, 0));
        drop(state);
        self.shared.signal();
        Ok(pending.into_iter().chain(left).collect())
    }

    /// Ends the log in good order: what was accepted becomes durable, then a closing group, then the threads end
    /// and the directory's lock is free. A second call waits for that, and says the same.
    ///
    /// # Errors
    /// [`WalError`]: the log could not write its end. It is closed all the same.
    pub fn close(&self) -> Result<(), WalError> {
        let mut closed = self.closed.lock();
        if let Some(result) = &*closed {
            return result.clone();
        }
        let _failing = self.shared.failing();
        let pending = {
            let mut state = self.state();
            if state.stopping {
                // Only a log whose writer is gone stops before it is closed.
                let failed = state.core.poisoned().cloned().map_or(WalError::Closed, WalError::Poisoned);
                drop(state);
                self.stop();
                *closed = Some(Err(failed.clone()));
                return Err(failed);
            }
            state.take_in_the_last(&self.shared.inbox);
            let ticket = state.core.begin_close();
            state.waiters.begin_next();
            state.waiters.join(ticket, 0)
        };
        self.shared.signal();
        let result = pending.wait();
        self.stop();
        *closed = Some(result.clone());
        result
    }

    fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        let over = state.ready_tails();
        drop(state);
        pending::wake_all(over);
        self.stopping.say();
        self.shared.signal();
        let threads = std::mem::take(&mut *self.threads.lock());
        // If one of them drops the log, in somebody's call, they end when that call has, and the lock goes with the last.
        let own = std::thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == own) {
            return;
        }
        for thread in threads {
            // A panic was reported by the thread that had it; the log is closed either way.
            drop(thread.join());
        }
        self.io.unlock();
    }

    /// For how long the write or sync has been under way that waiters wait for; `None`: none is. A device that stalls is seen
    /// here while it does: submissions are accepted as long as the queue has room, and nobody is told anything.
    ///
    /// ```
    /// # use towline_wal::{Options, Wal};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    /// # wal.sync().unwrap();
    /// # wal.close().unwrap();
    /// assert_eq!(wal.io_under_way(), None);
    /// ```
    #[must_use]
    pub fn io_under_way(&self) -> Option<Duration> {
        self.shared.stopwatch.running()
    }

    fn state(&self) -> sync::MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// See [`LogCore::end`].
    #[must_use]
    pub fn end(&self, log: LogId) -> LogPosition {
        self.state().core.end(log)
    }

    /// See [`LogCore::written_end`].
    #[must_use]
    pub fn written_end(&self, log: LogId) -> LogPosition {
        self.state().core.written_end(log)
    }

    /// See [`LogCore::durable_end`].
    #[must_use]
    pub fn durable_end(&self, log: LogId) -> LogPosition {
        self.state().core.durable_end(log)
    }

    /// See [`LogCore::start`].
    #[must_use]
    pub fn start_of(&self, log: LogId) -> LogPosition {
        self.state().core.start(log)
    }

    /// See [`LogCore::position_at`].
    #[must_use]
    pub fn position_at(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        self.loaded(log, lsn).core.position_at(log, lsn)
    }

    /// See [`LogCore::boundary_at_or_before`].
    #[must_use]
    pub fn boundary_at_or_before(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        self.loaded(log, lsn).core.boundary_at_or_before(log, lsn)
    }

    /// See [`LogCore::boundary_keeping`].
    #[must_use]
    pub fn boundary_keeping(&self, log: LogId, bytes_max: u64) -> Lsn {
        self.state().core.boundary_keeping(log, bytes_max)
    }

    /// See [`LogCore::epochs`].
    #[must_use]
    pub fn epochs(&self, log: LogId) -> Vec<(Epoch, Lsn)> {
        self.state().core.epochs(log)
    }

    /// See [`LogCore::hard_state`].
    #[must_use]
    pub fn hard_state(&self, log: LogId, kind: HardStateKind) -> Option<Bytes> {
        self.state().core.hard_state(log, kind)
    }

    /// See [`LogCore::doubtful_hard_states`].
    #[must_use]
    pub fn doubtful_hard_states(&self, log: LogId) -> Vec<HardStateKind> {
        self.state().core.doubtful_hard_states(log)
    }

    /// See [`LogCore::logs`].
    #[must_use]
    pub fn logs(&self) -> Vec<LogId> {
        self.state().core.logs()
    }

    /// See [`LogCore::cuts`].
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        self.state().core.cuts()
    }

    /// See [`LogCore::cut_of`].
    #[must_use]
    pub fn cut_of(&self, log: LogId) -> Option<Lsn> {
        self.state().core.cut_of(log)
    }

    /// See [`LogCore::damaged`].
    #[must_use]
    pub fn damaged(&self, log: LogId) -> Vec<(Lsn, Lsn)> {
        self.state().core.damaged(log)
    }

    /// See [`LogCore::damage_end`].
    #[must_use]
    pub fn damage_end(&self, log: LogId, last: Lsn) -> Option<LogPosition> {
        self.state().core.damage_end(log, last)
    }

    /// See [`LogCore::mendable`].
    #[must_use]
    pub fn mendable(&self, batches: &[Batch]) -> usize {
        // What is around them, as when they are submitted.
        let around =
            batches.iter().flat_map(|batch| [batch.first_lsn().prev(), batch.last_lsn()].map(|lsn| (batch, lsn)));
        around.for_each(|(batch, lsn)| drop(self.loaded(batch.log(), lsn)));
        self.state().core.mendable(batches)
    }

    /// See [`LogCore::stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().core.stats()
    }

    /// See [`LogCore::is_disk_full`].
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.state().core.is_disk_full()
    }

    /// See [`LogCore::incarnation`].
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.state().core.incarnation()
    }

    /// See [`LogCore::directory_uuid`].
    #[must_use]
    pub fn directory_uuid(&self) -> [u8; 16] {
        self.state().core.directory_uuid()
    }

    /// See [`LogCore::batch_bytes_max`].
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        self.state().core.batch_bytes_max()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(all(test, shuttle))]
mod model_test;
#[cfg(all(test, not(shuttle)))]
mod stall_test;

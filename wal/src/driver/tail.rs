//! Following a log's end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Wal;
use crate::core::LogCore;
use crate::error::{FaultClass, ReadError, WalError};
use crate::format::batch::Batch;
use crate::format::ids::{LogId, LogPosition, Lsn};

/// Reads a log in order, and waits at its end for more: see [`Wal::tail`].
///
/// ```
/// use std::time::Duration;
/// use towline_wal::Lsn;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// let mut tail = wal.tail(log, Lsn::FIRST);
/// for record in [b"one", b"two"] {
///     wal.append(batch(record)).unwrap();
/// }
/// let batches = tail.next_within(1 << 20, Duration::from_secs(60)).unwrap();
/// assert_eq!((batches.len(), tail.next_lsn()), (2, Lsn::new(3)));
/// assert!(tail.next_within(1 << 20, Duration::ZERO).unwrap().is_empty(), "there is no more yet");
/// # drop(tail);
/// # wal.close().unwrap();
/// ```
#[derive(Debug)]
pub struct Tail<'a> {
    wal: &'a Wal,
    log: LogId,
    next: Lsn,
    /// The end of what was read, if something was.
    at: Option<LogPosition>,
    /// Names this tail among those that wait.
    id: u64,
}

/// Why a log can't be followed any further.
///
/// ```
/// use std::time::Duration;
/// use towline_wal::{FaultClass, LogPosition, Lsn, TailError, WalError};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (log, (dir, wal)) = (LOG, opened());
/// # let batch = |record: &[u8]| next(&wal, record);
/// wal.append(batch(b"one")).unwrap();
/// let mut tail = wal.tail(log, Lsn::FIRST);
/// let at = tail.next_within(1 << 20, Duration::from_secs(60)).unwrap()[0].position();
/// wal.truncate_suffix(log, LogPosition::origin(log)).unwrap();
/// // What was handed on is no more: whoever has it must take it back.
/// let cut = tail.next_within(1 << 20, Duration::ZERO).unwrap_err();
/// assert_eq!(cut, TailError::Cut { log, at });
/// assert_eq!((cut.code(), cut.class()), ("TW-1105", FaultClass::FixRequest), "it takes another tail");
///
/// let mut tail = wal.tail(log, Lsn::FIRST);
/// wal.close().unwrap();
/// assert_eq!(tail.next_within(1 << 20, Duration::ZERO), Err(TailError::Ended(WalError::Closed)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// What comes next can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log was truncated, reset or removed below what this tail has read already.
    #[error("log {log} was cut below {at}, which was read before")]
    Cut {
        /// The log.
        log: LogId,
        /// The end of what was read.
        at: LogPosition,
    },
    /// No more can come: the log failed, or is closed.
    #[error(transparent)]
    Ended(#[from] WalError),
}

impl TailError {
    /// A stable code, for people to look up.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read(error) => error.code(),
            Self::Cut { .. } => "TW-1105",
            Self::Ended(error) => error.code(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Read(error) => error.class(),
            // This tail says the same for ever: another one begins where the log is now.
            Self::Cut { .. } => FaultClass::FixRequest,
            Self::Ended(error) => error.class(),
        }
    }
}

/// Those who wait at the ends of logs.
#[derive(Debug, Default)]
pub(super) struct Tails {
    waiting: Vec<Waiting>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    log: LogId,
    next: Lsn,
    waker: Waker,
}

impl Tails {
    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those for whom there is something, or nothing to come: wake them without the lock.
    pub(super) fn ready(&mut self, core: &LogCore, stopping: bool) -> Vec<Waker> {
        let over = stopping || core.is_over();
        let ready = |waiting: &mut Waiting| {
            let end = core.durable_end(waiting.log).lsn;
            // Beyond the end's next it waits for what was cut off.
            over || end >= waiting.next || end.next() < waiting.next
        };
        self.waiting.extract_if(.., ready).map(|waiting| waiting.waker).collect()
    }

    fn wait(&mut self, waiting: Waiting) {
        self.forget(waiting.id);
        self.waiting.push(waiting);
    }

    fn forget(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.id != id);
    }
}

impl Wal {
    /// Follows a log from an LSN on: what is durable, batch by batch, then what becomes it.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use std::time::Duration;
    /// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Epoch, LogId, Lsn, Options, Wal};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    /// # let log = LogId::new(1);
    /// # let block = Block::encode(Bytes::from_static(b"hello"), 1, Compression::Never);
    /// # let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), wal.end(log), 0).block(block).seal().unwrap();
    /// let mut tail = wal.tail(log, Lsn::FIRST);
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| wal.append(batch).unwrap());
    ///     let batches = tail.next_within(1 << 20, Duration::from_secs(60)).unwrap();
    ///     assert_eq!(batches[0].first_lsn(), Lsn::FIRST);
    /// });
    /// ```
    #[must_use]
    pub fn tail(&self, log: LogId, from: Lsn) -> Tail<'_> {
        let mut state = self.state();
        state.tails.next_id += 1;
        Tail { wal: self, log, next: from.max(Lsn::FIRST), at: None, id: state.tails.next_id }
    }
}

impl Tail<'_> {
    /// The LSN that comes next.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The next durable batches, about `max_bytes` of them but at least one; waits for it as a future. Nothing is lost if
    /// the future is dropped.
    ///
    /// # Errors
    /// [`TailError`]; it comes again when asked again, unless what stood in the way is gone.
    pub async fn next(&mut self, max_bytes: usize) -> Result<Vec<Batch>, TailError> {
        poll_fn(|context| self.poll_next(max_bytes, context)).await
    }

    /// As [`Tail::next`], holding the thread, for so long; then it is empty.
    ///
    /// # Errors
    /// As [`Tail::next`].
    #[expect(clippy::disallowed_methods, reason = "how long a thread waits is a matter of the clock")]
    pub fn next_within(&mut self, max_bytes: usize, time: Duration) -> Result<Vec<Batch>, TailError> {
        let until = Instant::now().checked_add(time);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(read) = self.poll_next(max_bytes, &mut context) {
                return read;
            }
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Ok(Vec::new()),
                Some(left) => std::thread::park_timeout(left),
                None => std::thread::park(),
            }
        }
    }

    /// The future behind [`Tail::next`].
    pub fn poll_next(&mut self, max_bytes: usize, context: &mut Context<'_>) -> Poll<Result<Vec<Batch>, TailError>> {
        if !self.has_more(context)? {
            return Poll::Pending;
        }
        let mut batches = self.wal.read(self.log, self.next, max_bytes)?;
        let state = self.wal.state();
        // Not by its LSN alone: what was read may have been cut off, and something else be durable in its place.
        while batches.pop_if(|batch| !state.core.is_durable(self.log, &batch.position())).is_some() {}
        drop(state);
        let Some(first) = batches.first() else {
            // It was cut in between. The next look tells.
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        if let Some(at) = self.at.filter(|at| !first.follows(at)) {
            return Poll::Ready(Err(TailError::Cut { log: self.log, at }));
        }
        if let Some(last) = batches.last() {
            (self.at, self.next) = (Some(last.position()), last.last_lsn().next());
        }
        Poll::Ready(Ok(batches))
    }

    /// Whether there is something to read; if not, who asks is woken when there is.
    fn has_more(&self, context: &Context<'_>) -> Result<bool, TailError> {
        let mut state = self.wal.state();
        let durable = state.core.durable_end(self.log);
        if let Some(at) = self.at.filter(|at| durable.lsn < at.lsn || (durable.lsn == at.lsn && durable != *at)) {
            return Err(TailError::Cut { log: self.log, at });
        }
        if durable.lsn >= self.next {
            return Ok(true);
        }
        if let Some(failure) = state.core.poisoned() {
            return Err(WalError::Poisoned(failure.clone()).into());
        }
        if state.stopping || state.core.is_over() {
            return Err(WalError::Closed.into());
        }
        let Self { id, log, next, .. } = *self;
        state.tails.wait(Waiting { id, log, next, waker: context.waker().clone() });
        Ok(false)
    }
}

impl Drop for Tail<'_> {
    fn drop(&mut self) {
        self.wal.state().tails.forget(self.id);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

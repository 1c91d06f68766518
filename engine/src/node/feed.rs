//! Feeds: what took effect, in order, to whoever subscribed to it.
//!
//! A feed reads the log up to what is applied, and leaves out what had no effect. It asks for more when its subscriber
//! does: a slow one costs no memory, only a log that is kept for it.

use super::error::ReadError;
use super::hosting::ShardHandle;
use super::namespace::{Namespace, Snapshot};
use super::pins::Pin;
use super::shard::{after, now};
use crate::model::request::FailureClass;
use crate::model::{Budget, Change, Epoch, Filter, Lsn, Operation, Read, Record, ShardId, Since, Token};
use crate::state;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use towline_wal::limits::BATCH_RAW_BYTES_MAX;
use towline_wal::{Batch, BatchKind, ReadError as LogReadError};

/// Bytes of the log that are read at a time, as they are stored.
const READ_BYTES: usize = 1024 * 1024;

/// Why a feed does not go on.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6201 | fix the request | what lies there was released: begin with a snapshot ([`Namespace::snapshot_and_feed`]), or at `oldest` |
/// | TW-6202 | fix the request | the history that the token tells was lost: begin anew |
/// | TW-6203 | fix the request | subscribe to a shard that the namespace has |
/// | TW-6204 | damage, or retry | the log can't be read there: repair it; or the device can't read at the moment |
/// | TW-610x, TW-52xx | | see [`ReadError`] |
///
/// ```
/// use towline::model::{Epoch, Filter, Read, Scan, Since, Token};
/// use towline::node::{FeedError, Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let stock = node.default_namespace();
/// # let written = stock.put("apple", "7")?.wait()?;
/// # let kept = Token::at(written.shard, Epoch::new(1, 1), written.lsn);
/// // A projection kept this token. What it saw there was lost with a disk, and another write lies there by now.
/// let error = stock.subscribe(Since::Token(kept), Filter::All).unwrap_err();
/// assert_eq!(error.code(), 6202);
/// let (known, mut feed) = match error {
///     // It begins anew: with what is there, and what comes behind it.
///     FeedError::PositionLost { .. } | FeedError::Compacted { .. } => {
///         stock.snapshot_and_feed(Read::Linearizable, Filter::All, |snapshot| snapshot.scan(&Scan::all()))?
///     }
///     other => return Err(other.into()),
/// };
/// assert_eq!(known.entries.len(), 1);
/// # assert!(feed.wait_for(std::time::Duration::ZERO)?.is_none());
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// What comes next was released.
    #[error("shard {shard} keeps records from LSN {oldest} on: what was asked for is released")]
    Compacted {
        /// The shard.
        shard: ShardId,
        /// The first record that can be read.
        oldest: Lsn,
    },
    /// The log has another history at that position than the token tells.
    #[error("shard {shard} no longer has LSN {lsn} of epoch {epoch}: what was written there was lost")]
    PositionLost {
        /// The shard.
        shard: ShardId,
        /// The epoch that the token tells.
        epoch: Epoch,
        /// And the position.
        lsn: Lsn,
    },
    /// The namespace has no such shard.
    #[error("the namespace has no shard {0}")]
    UnknownShard(ShardId),
    /// The log can't be read.
    #[error("shard {shard}: {source}")]
    Log {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: LogReadError,
    },
    /// A batch can't be taken apart, which its replica took.
    #[error("shard {shard}, LSN {lsn}: the batch can't be taken apart")]
    Content {
        /// The shard.
        shard: ShardId,
        /// The batch's first LSN.
        lsn: Lsn,
    },
    /// The node is closed, the shard has stopped, the namespace was dropped (everything that was applied was delivered before), or
    /// the state can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl FeedError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Compacted { .. } => 6201,
            Self::PositionLost { .. } => 6202,
            Self::UnknownShard(_) => 6203,
            Self::Log { .. } | Self::Content { .. } => 6204,
            Self::Read(read) => read.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Compacted { .. } | Self::PositionLost { .. } | Self::UnknownShard(_) => FailureClass::FixRequest,
            Self::Log { source: LogReadError::Io(_), .. } => FailureClass::Retry,
            Self::Log { .. } | Self::Content { .. } => FailureClass::Damage,
            Self::Read(read) => read.class(),
        }
    }
}

/// A subscription: the changes of a namespace, each once, in the order of each shard (I6).
///
/// Of several shards the changes come interleaved, each shard's in order. What a feed has delivered, [`Feed::token`]
/// tells: a subscriber that stores it together with what it made of the changes goes on exactly there, also after
/// `kill -9`.
///
/// ```
/// use towline::model::{Expect, Filter, Since};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let orders = node.namespace("default")?;
/// orders.append("order-42", Expect::Absent, "placed")?.wait()?;
///
/// let mut feed = orders.subscribe(Since::Beginning, Filter::Prefix("order-".into()))?;
/// let first = feed.wait()?;
/// assert_eq!(first.operations[0].key().as_ref(), b"order-42");
///
/// let saved = feed.token().to_string();
/// orders.append("order-43", Expect::Absent, "placed")?.wait()?;
/// let mut resumed = orders.subscribe(Since::Token(saved.parse()?), Filter::Prefix("order-".into()))?;
/// assert_eq!(resumed.wait()?.operations[0].key().as_ref(), b"order-43");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Feed {
    namespace: Namespace,
    filter: Filter,
    cursors: Vec<Cursor>,
    /// Whose turn it is.
    turn: usize,
    /// Read, and not looked at.
    batches: VecDeque<(usize, Batch)>,
    /// Looked at, and not delivered: all of one batch.
    ready: VecDeque<Step>,
    key: u64,
    parked: Option<(std::thread::ThreadId, Waker)>,
}

/// Where the feed is in one shard.
#[derive(Debug)]
struct Cursor {
    shard: Arc<ShardHandle>,
    /// The first record that is not read yet.
    next: Lsn,
    /// The last record that was delivered, or passed over before one that was.
    delivered: (Epoch, Lsn),
    pin: Pin,
    /// A position that the log had not reached when the feed began: whether it is of this history shows when it has.
    unproven: Option<(Epoch, Lsn)>,
}

#[derive(Debug)]
enum Step {
    Change(usize, Change),
    /// Everything up to here is delivered, or of no interest.
    Passed(usize, Epoch, Lsn),
}

impl Namespace {
    /// Subscribes to what takes effect from some moment on.
    ///
    /// # Errors
    /// What lies there is released, or of a history that was lost; there is no such shard; the node is closed.
    pub fn subscribe(&self, since: Since, filter: Filter) -> Result<Feed, FeedError> {
        self.subscribe_within(since, filter, Budget::default())
    }

    /// As [`Namespace::subscribe`]; the log is kept for it within this budget.
    ///
    /// # Errors
    /// As [`Namespace::subscribe`].
    pub fn subscribe_within(&self, since: Since, filter: Filter, budget: Budget) -> Result<Feed, FeedError> {
        self.subscribe_each(filter, |_| since.clone(), budget)
    }

    /// From a moment of its own in each shard.
    pub(super) fn subscribe_each(
        &self,
        filter: Filter,
        since: impl Fn(&ShardHandle) -> Since,
        budget: Budget,
    ) -> Result<Feed, FeedError> {
        let shards = self.shards_of(&filter)?;
        let mut cursors = Vec::with_capacity(shards.len());
        for shard in shards {
            let since = since(&shard);
            cursors.push(self.cursor(shard, &since, budget)?);
        }
        Ok(Feed {
            namespace: self.clone(),
            filter,
            cursors,
            turn: 0,
            batches: VecDeque::new(),
            ready: VecDeque::new(),
            key: new_key(),
            parked: None,
        })
    }

    /// Loads what is there at one moment, and subscribes to everything that comes behind it: nothing is missed, and
    /// nothing comes twice. What comes while it is loaded is kept within the default [`Budget`].
    ///
    /// ```
    /// use towline::model::{Filter, Read, Scan};
    /// # use towline::node::{Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// # let stock = node.namespace("default")?;
    /// # stock.put("apple", "7")?.wait()?;
    /// let (mut known, mut feed) = stock.snapshot_and_feed(Read::Linearizable, Filter::All, |snapshot| {
    ///     let mut known = std::collections::BTreeMap::new();
    ///     let mut next = Some(Scan::all());
    ///     while let Some(scan) = next {
    ///         let page = snapshot.scan(&scan)?;
    ///         known.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
    ///         next = page.next;
    ///     }
    ///     Ok(known)
    /// })?;
    /// # assert_eq!(known.len(), 1);
    /// # assert!(feed.wait_for(std::time::Duration::ZERO)?.is_none());
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Namespace::snapshot`] and [`Namespace::subscribe`].
    pub fn snapshot_and_feed<T>(
        &self,
        read: Read,
        filter: Filter,
        load: impl FnOnce(&Snapshot<'_>) -> Result<T, ReadError>,
    ) -> Result<(T, Feed), FeedError> {
        // The feed first, and with it its pins: what comes behind the snapshot is kept within the budget, also while it is
        // loaded.
        let mut feed = self.subscribe(Since::Now, filter)?;
        let (loaded, token) = self.snapshot(read, |snapshot| {
            let token = snapshot.token()?;
            Ok((load(snapshot)?, token))
        })?;
        feed.skip_to(&token);
        Ok((loaded, feed))
    }

    pub(super) fn shards_of(&self, filter: &Filter) -> Result<Vec<Arc<ShardHandle>>, FeedError> {
        let all = self.shards();
        let chosen = match filter {
            Filter::All | Filter::Prefix(_) => all.iter().map(Arc::clone).collect(),
            Filter::Key(key) => all.get(self.index_of(key)).map(Arc::clone).into_iter().collect(),
            Filter::Shard(wanted) => {
                let found = all.iter().find(|shard| shard.descriptor.shard == *wanted);
                vec![Arc::clone(found.ok_or(FeedError::UnknownShard(*wanted))?)]
            }
        };
        Ok(chosen)
    }

    fn cursor(&self, shard: Arc<ShardHandle>, since: &Since, budget: Budget) -> Result<Cursor, FeedError> {
        let wal = self.wal();
        let id = shard.descriptor.shard;
        // Pinned before it is looked at, and nothing is let go in between: what is there then stays.
        let nothing_goes = self.letting_go();
        let pin = shard.pins.pin(Lsn::ZERO, budget);
        let start = wal.start_of(shard.log);
        let (epoch, lsn) = match since {
            Since::Beginning => (Epoch::ZERO, Lsn::ZERO),
            Since::Oldest => (start.epoch, start.lsn),
            Since::Now => {
                let applied = shard.positions.applied();
                let at = wal.boundary_at_or_before(shard.log, applied);
                (at.map_or(Epoch::ZERO, |at| at.epoch), applied)
            }
            Since::Token(token) => {
                let (epoch, lsn) = token.get(id).unwrap_or((Epoch::ZERO, Lsn::ZERO));
                self.check_history(&shard, epoch, lsn)?;
                (epoch, lsn)
            }
        };
        if lsn < start.lsn {
            return Err(FeedError::Compacted { shard: id, oldest: start.lsn.next() });
        }
        pin.move_to(lsn);
        drop(nothing_goes);
        let unproven = (lsn > wal.end(shard.log).lsn).then_some((epoch, lsn));
        Ok(Cursor { shard, next: lsn.next(), delivered: (epoch, lsn), pin, unproven })
    }

    /// Whether the log still has this position, as far as it can tell.
    pub(super) fn check_history(&self, shard: &ShardHandle, epoch: Epoch, lsn: Lsn) -> Result<(), FeedError> {
        match self.epoch_at(shard, lsn) {
            Some(found) if lsn > Lsn::ZERO && found != epoch => {
                Err(FeedError::PositionLost { shard: shard.descriptor.shard, epoch, lsn })
            }
            _ => Ok(()),
        }
    }
}

/// By which somebody is called whenever a shard's positions move, and nobody else.
pub(super) fn new_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Feed {
    /// Waits for the next change.
    ///
    /// # Errors
    /// See [`FeedError`]. Nothing was passed over: what was delivered before is all.
    pub fn wait(&mut self) -> Result<Change, FeedError> {
        loop {
            if let Some(change) = self.wait_until(None)? {
                return Ok(change);
            }
        }
    }

    /// Waits for the next change for so long at the most; none means not yet.
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub fn wait_for(&mut self, timeout: Duration) -> Result<Option<Change>, FeedError> {
        self.wait_until(Some(after(timeout)))
    }

    /// The next change. Safe to cancel: a change that was not handed out comes next.
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub async fn next(&mut self) -> Result<Change, FeedError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Feed::next`], for whoever polls: reading the log may touch the disk.
    ///
    /// # Errors
    /// As [`Feed::wait`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Change, FeedError>> {
        self.poll_within(context, &mut usize::MAX.clone())
    }

    /// Everything up to here was delivered, or is of no interest: a feed that begins here goes on exactly behind it.
    #[must_use]
    pub fn token(&self) -> Token {
        let mut token = Token::default();
        for Cursor { shard, delivered: (epoch, lsn), .. } in &self.cursors {
            token.extend(&Token::at(shard.descriptor.shard, *epoch, *lsn));
        }
        token
    }

    pub(super) const fn filter(&self) -> &Filter {
        &self.filter
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<Option<Change>, FeedError> {
        let waker = self.own_waker();
        loop {
            if let Poll::Ready(change) = self.poll_next(&mut Context::from_waker(&waker)) {
                return change.map(Some);
            }
            match deadline.map(|deadline| deadline.saturating_duration_since(now())) {
                None => std::thread::park(),
                Some(Duration::ZERO) => return Ok(None),
                Some(left) => std::thread::park_timeout(left),
            }
        }
    }

    /// Wakes the thread that waits.
    fn own_waker(&mut self) -> Waker {
        struct Parked(Thread);
        impl Wake for Parked {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let thread = std::thread::current();
        match &self.parked {
            Some((id, waker)) if *id == thread.id() => waker.clone(),
            _ => {
                let (id, waker) = (thread.id(), Waker::from(Arc::new(Parked(thread))));
                self.parked = Some((id, waker.clone()));
                waker
            }
        }
    }

    /// As [`Feed::poll_next`], looking at so many batches at the most: whoever polls for others must come to an end, however much
    /// there is that its filter does not admit. Then it asks to be polled again.
    pub(super) fn poll_within(
        &mut self,
        context: &mut Context<'_>,
        batches: &mut usize,
    ) -> Poll<Result<Change, FeedError>> {
        // Twice: what moved before the calls were asked for calls nobody.
        for is_last in [false, true] {
            match self.advance_within(batches) {
                Ok(Some(change)) => return Poll::Ready(Ok(change)),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(None) if *batches == 0 => {
                    context.waker().wake_by_ref();
                    break;
                }
                Ok(None) if is_last => {}
                Ok(None) => {
                    self.cursors.iter().for_each(|cursor| cursor.shard.positions.call(self.key, context.waker()));
                }
            }
        }
        Poll::Pending
    }

    /// Whether there is something to look at, or an end; nothing is read. Otherwise the waker is called when there is.
    #[cfg(feature = "client")]
    pub(crate) fn poll_there(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_there = |feed: &Self| {
            let has_come =
                |cursor: &Cursor| cursor.shard.positions.has_ended() || cursor.shard.positions.applied() >= cursor.next;
            !feed.ready.is_empty() || !feed.batches.is_empty() || feed.cursors.iter().any(has_come)
        };
        if !is_there(self) {
            self.cursors.iter().for_each(|cursor| cursor.shard.positions.call(self.key, context.waker()));
            // Once more, as in `poll_next`.
            if !is_there(self) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// None: nothing more is there, or so many batches were looked at.
    pub(crate) fn advance_within(&mut self, batches: &mut usize) -> Result<Option<Change>, FeedError> {
        loop {
            match self.ready.pop_front() {
                Some(Step::Change(index, change)) => {
                    self.deliver(index, change.epoch, change.lsn);
                    return Ok(Some(change));
                }
                Some(Step::Passed(index, epoch, lsn)) => {
                    self.deliver(index, epoch, lsn);
                    // Not with each record: others look at it.
                    if let Some(cursor) = self.cursors.get(index) {
                        cursor.pin.move_to(lsn);
                    }
                }
                None => {
                    if *batches == 0 {
                        return Ok(None);
                    }
                    if let Some((index, batch)) = self.batches.front() {
                        *batches -= 1;
                        let steps = self.look_at(*index, batch)?;
                        // Only now: what could not be looked at is looked at again, and never passed over.
                        self.batches.pop_front();
                        self.ready = steps;
                    } else if !self.read()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, index: usize, epoch: Epoch, lsn: Lsn) {
        if let Some(cursor) = self.cursors.get_mut(index) {
            cursor.delivered = (epoch, lsn);
        }
    }

    /// Behind this position, of what is not read yet.
    fn skip_to(&mut self, token: &Token) {
        for cursor in &mut self.cursors {
            if let Some((epoch, lsn)) = token.get(cursor.shard.descriptor.shard).filter(|(_, lsn)| *lsn >= cursor.next)
            {
                (cursor.next, cursor.delivered) = (lsn.next(), (epoch, lsn));
                cursor.pin.move_to(lsn);
            }
        }
    }

    /// Reads on in the next shard that has something; false if none has.
    fn read(&mut self) -> Result<bool, FeedError> {
        for _ in 0..self.cursors.len() {
            let index = self.turn;
            self.turn = (self.turn + 1) % self.cursors.len();
            let Some(cursor) = self.cursors.get_mut(index) else { break };
            // Before the position: what was applied before the end was applied.
            let has_ended = cursor.shard.positions.has_ended();
            let applied = cursor.shard.positions.applied();
            if cursor.next > applied {
                if has_ended {
                    return Err(self.namespace.has_ended(&cursor.shard).into());
                }
                continue;
            }
            let id = cursor.shard.descriptor.shard;
            if let Some((epoch, lsn)) = cursor.unproven
                && applied >= lsn
            {
                // What was beyond the log's end when the feed began is there by now, and may be of another history.
                self.namespace.check_history(&cursor.shard, epoch, lsn)?;
                cursor.unproven = None;
            }
            let batches = match self.namespace.wal().read(cursor.shard.log, cursor.next, READ_BYTES) {
                Ok(batches) => batches,
                Err(LogReadError::Released { start, .. }) => {
                    return Err(FeedError::Compacted { shard: id, oldest: start.next() });
                }
                Err(source) => {
                    if matches!(source, LogReadError::Corrupt { .. }) {
                        // Another node may have it: then the next try finds it.
                        cursor.shard.events.send(super::shard::Event::DamageFound);
                    }
                    return Err(FeedError::Log { shard: id, source });
                }
            };
            for batch in batches.into_iter().take_while(|batch| batch.last_lsn() <= applied) {
                cursor.next = batch.last_lsn().next();
                self.batches.push_back((index, batch));
            }
            if !self.batches.is_empty() {
                return Ok(true);
            }
            // It was applied, so it was there: by now the log is gone, or may not be read any more.
            return Err(self.namespace.has_ended(&cursor.shard).into());
        }
        Ok(false)
    }

    /// Takes a batch apart: what took effect, and is of interest.
    fn look_at(&self, index: usize, batch: &Batch) -> Result<VecDeque<Step>, FeedError> {
        let mut steps = VecDeque::new();
        let Some(cursor) = self.cursors.get(index) else { return Ok(steps) };
        let (epoch, last, skip_to) = (batch.epoch(), batch.last_lsn(), cursor.delivered.1);
        if batch.kind() == BatchKind::Data {
            let (shard, log) = (cursor.shard.descriptor.shard, cursor.shard.log);
            let id = self.namespace.id();
            let first = batch.first_lsn();
            let (rejected, known_from) = self.namespace.with_store(Some(&cursor.shard), |store| {
                let rejected = state::rejected(store, id, log, first, last)?;
                // Behind the other: what was forgotten in between is told by this.
                Ok((rejected, state::rejected_known_from(store, id, log)?))
            })?;
            if first < known_from {
                return Err(FeedError::Compacted { shard, oldest: known_from });
            }
            let mut rejected = rejected.into_iter().peekable();
            let time_micros = batch.header().time_micros;
            let bad = || FeedError::Content { shard, lsn: first };
            let (mut lsn, mut left) = (first, BATCH_RAW_BYTES_MAX);
            for block in batch.blocks() {
                let mut raw = block.decode(left).map_err(|_| bad())?;
                left = left.saturating_sub(raw.len());
                while !raw.is_empty() {
                    let mut record = Record::decode(&mut raw).map_err(|_| bad())?;
                    let had_no_effect = rejected.next_if_eq(&lsn).is_some();
                    if !had_no_effect && lsn > skip_to {
                        record.operations.retain(|operation: &Operation| self.filter.admits(operation));
                        if !record.operations.is_empty() {
                            let operations = record.operations;
                            let change = Change { shard, epoch, lsn, time_micros, operations };
                            steps.push_back(Step::Change(index, change));
                        }
                    }
                    lsn = lsn.next();
                }
            }
        }
        steps.push_back(Step::Passed(index, epoch, last));
        Ok(steps)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.cursors.iter().for_each(|cursor| cursor.shard.positions.forget(self.key));
    }
}

#[cfg(test)]
#[path = "feed_test.rs"]
mod tests;

//! One namespace of a node, as a program uses it.

use super::Shared;
use super::completion::Completion;
use super::error::{ReadError, WriteRefused};
use super::hosting::ShardHandle;
use super::namespaces::Served;
use super::positions::{Positions, Waited};
use super::read_index::Confirmation;
use super::shard::after;
use super::stages::Arrived;
#[cfg(feature = "client")]
use crate::model::call::Reach;
use crate::model::limits::KEY_BYTES_MAX;
use crate::model::request::Direction;
use crate::model::{
    Epoch, Expect, LogPosition, Lsn, NamespaceDescriptor, NamespaceId, Operation, Page, Read, Record, Scan, ShardId,
    Token, Value, Write,
};
use crate::pipeline::{Completer, Position, Receipt, Submission, SubmitPolicy};
use crate::shard::CrossShard;
use crate::state::{self, RocksSnapshot, RocksStore, StreamRead, View};
use bytes::Bytes;
#[cfg(any(feature = "cluster", feature = "client"))]
use crossbeam::channel::Receiver;
use crossbeam::channel::bounded;
use parking_lot::{MutexGuard, RwLockReadGuard};
#[cfg(any(feature = "cluster", feature = "client"))]
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use towline_wal::Wal;

/// How long a read waits for the position that it must show, unless it is asked otherwise.
pub const READ_WITHIN_DEFAULT: Duration = Duration::from_secs(10);
/// Between two questions to a leader that nobody knows.
const UNLED_PAUSE_MIN: Duration = Duration::from_millis(1);
const UNLED_PAUSE_MAX: Duration = Duration::from_millis(100);

/// A namespace: keys with values, streams of events, in one or several shards.
///
/// It is a handle: cloning it is cheap, threads share it, and it outlives the node, saying then that it is closed.
///
/// ```
/// use towline::model::{Expect, Read, Scan, Write};
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let shop = node.namespace("default")?;
///
/// let paid = shop.append("order-42", Expect::Absent, "paid")?.wait()?;
/// shop.write(Write::new().put("stock/apple", "7").delete("stock/pear"))?.wait()?;
///
/// assert_eq!(shop.get("stock/apple", Read::Linearizable)?.map(|found| found.value), Some("7".into()));
/// assert_eq!(shop.scan(&Scan::prefix("stock/"), Read::AtLeast(paid.token()))?.entries.len(), 1);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Namespace {
    shared: Arc<Shared>,
    served: Arc<Served>,
    read_within: Duration,
}

/// One moment of a namespace: everything that is read of it belongs together, however much is written meanwhile.
///
/// ```
/// use towline::model::{Read, Scan};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let shop = node.default_namespace();
/// shop.put("stock/apple", "7")?.wait()?;
/// shop.snapshot(Read::Linearizable, |snapshot| {
///     let before = snapshot.get("stock/apple")?;
///     // Somebody buys an apple meanwhile.
///     shop.put("stock/apple", "6").unwrap().wait().unwrap();
///     assert_eq!(snapshot.get("stock/apple")?, before);
///     assert_eq!(snapshot.scan(&Scan::prefix("stock/"))?.entries[0].value, "7");
///     Ok(())
/// })?;
/// assert_eq!(shop.get("stock/apple", Read::Linearizable)?.map(|found| found.value), Some("6".into()));
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Snapshot<'a> {
    namespace: &'a Namespace,
    rocks: RocksSnapshot<'a>,
}

impl Namespace {
    pub(super) const fn new(shared: Arc<Shared>, served: Arc<Served>) -> Self {
        Self { shared, served, read_within: READ_WITHIN_DEFAULT }
    }

    /// What it is: its name, its policy, its shards.
    #[must_use]
    pub fn descriptor(&self) -> NamespaceDescriptor {
        self.served.descriptor.read().clone()
    }

    /// Its id: never that of another one, also when it is dropped.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.served.id
    }

    /// The same, whose reads wait so long at the most for a position that they must show.
    #[must_use]
    pub fn reading_within(mut self, time: Duration) -> Self {
        self.read_within = time;
        self
    }

    /// Submits a [`Write`] (or a [`Record`]), waiting for room in the queue. The receipt says when it is committed and applied here; while
    /// a majority of the voters can't be reached, that is not soon.
    ///
    /// # Errors
    /// The write is not legal or touches two shards, another node leads, the namespace was dropped, or the node is
    /// closing or has stopped.
    pub fn write(&self, write: impl AsRef<Record>) -> Result<Receipt, WriteRefused> {
        self.write_when(write, SubmitPolicy::Wait)
    }

    /// As [`Namespace::write`], saying what happens when the queue is full.
    ///
    /// # Errors
    /// As [`Namespace::write`]; there is no room, and it was not to wait, or not so long.
    pub fn write_when(&self, write: impl AsRef<Record>, policy: SubmitPolicy) -> Result<Receipt, WriteRefused> {
        let (shard, prepared) = self.prepare(write.as_ref())?;
        let (receipt, completer) = shard.queue.gathering().pair();
        let submission = prepared.for_token(Arrived::now(Completion::Receipt(completer)));
        shard.queue.submit(submission, policy).map_err(|(error, _)| self.refused(shard, error.into()))?;
        Ok(receipt)
    }

    /// As [`Namespace::write_when`], of a write that can't be rejected; answered as soon as it is durable on this node.
    /// Among several nodes that is before it is committed: it is lost if this node is, and what came of it is never told.
    ///
    /// # Errors
    /// As [`Namespace::write_when`]; the write has conditions, or is a request of a session.
    pub fn write_durable(
        &self,
        write: impl AsRef<Record>,
        policy: SubmitPolicy,
    ) -> Result<Receipt<Position>, WriteRefused> {
        self.write_unconditionally(write.as_ref(), policy, Completion::Durable)
    }

    /// As [`Namespace::write_when`], of a write that can't be rejected; answered as soon as it has its place in the log,
    /// *before it is durable*: a crash loses what was written just before it. Nothing that lies before it in its shard is lost
    /// alone: what is there after a crash is the beginning of what was written.
    ///
    /// ```
    /// use towline::model::{Read, Write};
    /// use towline::pipeline::SubmitPolicy;
    /// # use towline::node::{Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// let samples = node.namespace("default")?;
    /// let mut last = None;
    /// for number in 0..1000 {
    ///     let write = Write::new().put(format!("sample-{number}"), "x");
    ///     last = Some(samples.write_buffered(write, SubmitPolicy::Wait)?.wait()?);
    /// }
    /// // From here on all of them are durable, and seen:
    /// let token = last.map(|position| position.token()).unwrap_or_default();
    /// assert!(samples.get("sample-0", Read::AtLeast(token))?.is_some());
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Namespace::write_when`]; the write has conditions, or is a request of a session.
    pub fn write_buffered(
        &self,
        write: impl AsRef<Record>,
        policy: SubmitPolicy,
    ) -> Result<Receipt<Position>, WriteRefused> {
        self.write_unconditionally(write.as_ref(), policy, Completion::Buffered)
    }

    fn write_unconditionally(
        &self,
        record: &Record,
        policy: SubmitPolicy,
        completion: impl FnOnce(Completer<Position>) -> Completion,
    ) -> Result<Receipt<Position>, WriteRefused> {
        check_unconditional(record)?;
        let (shard, prepared) = self.prepare(record)?;
        let (receipt, completer) = shard.queue.gathering().pair();
        let submitted = shard.queue.submit(prepared.for_token(Arrived::now(completion(completer))), policy);
        submitted.map_err(|(error, _)| self.refused(shard, error.into()))?;
        Ok(receipt)
    }

    /// Appends one event to a stream: short for a [`Write`] of it.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub fn append(
        &self,
        stream: impl Into<Bytes>,
        expect: Expect,
        event: impl Into<Bytes>,
    ) -> Result<Receipt, WriteRefused> {
        self.write(Write::new().append(stream, expect, event))
    }

    /// Sets one key: short for a [`Write`] of it.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Receipt, WriteRefused> {
        self.write(Write::new().put(key, value))
    }

    /// Removes one key: short for a [`Write`] of it.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub fn delete(&self, key: impl Into<Bytes>) -> Result<Receipt, WriteRefused> {
        self.write(Write::new().delete(key))
    }

    /// Checks, routes and encodes a write: what can be said of it before it is queued.
    pub(super) fn prepare(&self, record: &Record) -> Result<(&Arc<ShardHandle>, Submission<()>), WriteRefused> {
        let shard = match self.route(record) {
            Ok(shard) => shard,
            Err(crossed) => {
                // Otherwise keys that are none would be told as keys of two shards.
                record.check()?;
                return Err(crossed.into());
            }
        };
        self.check_writable(shard)?;
        let mut buffer = self.shared.host.buffers.take();
        record.encode_into(&mut buffer)?;
        Ok((shard, Submission::encoded(buffer, ())))
    }

    /// As [`Namespace::prepare`], with who will hear of it.
    #[cfg(feature = "client")]
    pub(crate) fn prepare_for(&self, record: &Record, reach: Option<Reach>) -> Result<Prepared, WriteRefused> {
        let is_awaited = !matches!(reach, Some(Reach::Buffered | Reach::Durable));
        if !is_awaited {
            check_unconditional(record)?;
        }
        let (shard, submission) = self.prepare(record)?;
        let (taken, completion) = if is_awaited {
            let (receipt, completer) = shard.queue.gathering().pair();
            (Taken::Applied(receipt), Completion::Receipt(completer))
        } else {
            let (receipt, completer) = shard.queue.gathering().pair();
            let is_durable = reach == Some(Reach::Durable);
            let completion = if is_durable { Completion::Durable(completer) } else { Completion::Buffered(completer) };
            (Taken::Placed(receipt), completion)
        };
        let submission = submission.for_token(Arrived::now(completion));
        Ok(Prepared { space: self.clone(), shard: Arc::clone(shard), taken, submission })
    }

    pub(super) fn check_writable(&self, shard: &ShardHandle) -> Result<(), WriteRefused> {
        // As long as nobody is known to lead, the queue decides: it turns away what it can't seal.
        if let Some(other) = shard.positions.leader().filter(|leader| *leader != self.shared.host.node) {
            return Err(WriteRefused::NotLeader(other));
        }
        if self.is_dropped() { Err(WriteRefused::Dropped) } else { Ok(()) }
    }

    /// The shard that a write touches.
    pub(super) fn route(&self, record: &Record) -> Result<&Arc<ShardHandle>, CrossShard> {
        let index = self.served.map.route_index(record)?;
        let Some(shard) = self.served.shards.get(index) else { unreachable!("the map is of these shards") };
        Ok(shard)
    }

    /// Why a shard's queue took nothing: it knows only that it is closed.
    pub(super) fn refused(&self, shard: &ShardHandle, error: WriteRefused) -> WriteRefused {
        if self.is_dropped() {
            return WriteRefused::Dropped;
        }
        match (&error, shard.health.failure()) {
            (WriteRefused::Submit(crate::pipeline::SubmitError::Closed), Some(reason)) => {
                WriteRefused::Stopped { shard: shard.descriptor.shard, reason }
            }
            _ => error,
        }
    }

    /// What a key holds, and its version.
    ///
    /// # Errors
    /// The key is none, the position is not reached in time, or the state can't be read.
    pub fn get(&self, key: impl AsRef<[u8]>, read: Read) -> Result<Option<Value>, ReadError> {
        let key = check_key(key.as_ref())?;
        let shard = self.served.map.index_of(key);
        self.reach(&read, Some(shard))?;
        self.with_store(self.shard(shard), |store| get(store, self.id(), key))
    }

    /// What each of these keys holds, all at one moment, in the order in which they are asked for.
    ///
    /// # Errors
    /// As [`Namespace::get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        read: Read,
    ) -> Result<Vec<Option<Value>>, ReadError> {
        self.multi_get_within(keys, read, usize::MAX).map(Option::unwrap_or_default)
    }

    /// None: the values have more bytes than that.
    pub(super) fn multi_get_within<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        read: Read,
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<Value>>>, ReadError> {
        let keys: Vec<K> = keys.into_iter().collect();
        let mut shards: Vec<_> = keys.iter().map(|key| self.served.map.index_of(key.as_ref())).collect();
        shards.sort_unstable();
        shards.dedup();
        shards.iter().try_for_each(|shard| self.reach(&read, Some(*shard)))?;
        let shards: Vec<_> = shards.into_iter().filter_map(|index| self.shard(index)).collect();
        self.at_one_moment(Some(&shards), |snapshot| snapshot.multi_get_within(&keys, bytes_max))
    }

    /// One page of keys and values, all of one moment. The page says how to go on; the next one is of a later moment.
    ///
    /// # Errors
    /// The position is not reached in time, or the state can't be read.
    pub fn scan(&self, scan: &Scan, read: Read) -> Result<Page, ReadError> {
        self.reach(&read, None)?;
        self.with_store(None, |store| Ok(state::scan_values(store, self.id(), scan)?))
    }

    /// Events of a stream, forward from version `from`, or backward from it (0: from the end): its version and its events
    /// are of one moment. At most `events_max` events, and about `bytes_max` bytes; one event is always returned whole.
    ///
    /// # Errors
    /// The name is none, the position is not reached in time, or the state can't be read.
    pub fn read_stream(
        &self,
        stream: impl AsRef<[u8]>,
        from: u64,
        direction: Direction,
        (events_max, bytes_max): (usize, usize),
        read: Read,
    ) -> Result<StreamRead, ReadError> {
        let stream = check_key(stream.as_ref())?;
        let shard = self.served.map.index_of(stream);
        self.reach(&read, Some(shard))?;
        let shards: Vec<_> = self.shard(shard).into_iter().collect();
        self.at_one_moment(Some(&shards), |snapshot| {
            snapshot.read_stream(stream, from, direction, (events_max, bytes_max))
        })
    }

    /// Reads several things of one moment: what `read` asks of the snapshot belongs together. The snapshot keeps old
    /// versions on the disk, so it lasts as long as `look` only; and the node is not closed before that ends.
    ///
    /// ```
    /// use towline::model::{Read, Write};
    /// # use towline::node::{Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// # let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// # let bank = node.namespace("default")?;
    /// bank.write(Write::new().put("anna", "30").put("bert", "70"))?.wait()?;
    /// let (anna, bert, at) = bank.snapshot(Read::Linearizable, |snapshot| {
    ///     Ok((snapshot.get("anna")?, snapshot.get("bert")?, snapshot.token()?))
    /// })?;
    /// # assert!(anna.is_some() && bert.is_some() && at.positions().count() == 1);
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The position is not reached in time, or what `look` says.
    pub fn snapshot<T>(
        &self,
        read: Read,
        look: impl FnOnce(&Snapshot<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        self.reach(&read, None)?;
        self.at_one_moment(None, look)
    }

    /// What a reader shows to see everything that is applied here now.
    #[must_use]
    pub fn token(&self) -> Token {
        let mut token = Token::default();
        for shard in &self.served.shards {
            let at = self.shared.host.wal.position_at(shard.log, shard.positions.applied());
            if let Some(at) = at {
                token.extend(&Token::at(shard.descriptor.shard, at.epoch, at.lsn));
            }
        }
        token
    }

    /// The digest of each shard, and the position that it is of.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn digest(&self) -> Result<Vec<(ShardId, LogPosition, [u8; 16])>, ReadError> {
        self.at_one_moment(None, |snapshot| {
            let digest = |shard: &Arc<ShardHandle>| {
                let (at, digest) = state::digest_of(&snapshot.rocks, &shard.descriptor, shard.log)?;
                Ok((shard.descriptor.shard, at, digest))
            };
            self.served.shards.iter().map(digest).collect()
        })
    }

    pub(super) fn shards(&self) -> &[Arc<ShardHandle>] {
        &self.served.shards
    }

    /// As long as this is held nothing is let go of the logs.
    pub(super) fn letting_go(&self) -> RwLockReadGuard<'_, ()> {
        self.shared.letting_go.read()
    }

    /// It has an end when the node begins to close.
    #[cfg(any(feature = "cluster", feature = "client"))]
    pub(super) fn closing(&self) -> &Receiver<Infallible> {
        &self.shared.closing
    }

    pub(super) fn following(&self) -> MutexGuard<'_, ()> {
        self.served.following.lock()
    }

    pub(super) fn index_of(&self, key: &[u8]) -> usize {
        self.served.map.index_of(key)
    }

    #[cfg(any(feature = "cluster", feature = "client"))]
    pub(super) fn node(&self) -> crate::model::NodeId {
        self.shared.host.node
    }

    #[cfg(any(feature = "cluster", feature = "client"))]
    pub(super) fn is_alone(&self) -> bool {
        self.shared.host.is_alone()
    }

    pub(super) fn wal(&self) -> &Wal {
        &self.shared.host.wal
    }

    /// The epoch of a shard's log at a position; none if that is released, or there is nothing yet.
    pub(super) fn epoch_at(&self, shard: &ShardHandle, lsn: Lsn) -> Option<Epoch> {
        let wal = self.wal();
        if lsn < wal.start_of(shard.log).lsn || lsn > wal.end(shard.log).lsn {
            return None;
        }
        wal.epochs(shard.log).iter().rev().find(|(_, first)| *first <= lsn).map(|(epoch, _)| *epoch)
    }

    /// Why nothing more comes from a shard that has ended.
    pub(super) fn has_ended(&self, shard: &ShardHandle) -> ReadError {
        if self.is_dropped() {
            return ReadError::Dropped;
        }
        match shard.health.failure() {
            Some(reason) => ReadError::Stopped { shard: shard.descriptor.shard, reason },
            None => ReadError::Closed,
        }
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.served.is_dropped.load(Ordering::SeqCst)
    }

    /// How far the shard is in which this key lies.
    #[cfg(any(feature = "client", feature = "cluster"))]
    pub(super) fn applied_of(&self, key: &[u8]) -> Lsn {
        self.shard(self.index_of(key)).map_or(Lsn::ZERO, |shard| shard.positions.applied())
    }

    fn shard(&self, index: usize) -> Option<&ShardHandle> {
        self.served.shards.get(index).map(|shard| &**shard)
    }

    /// Reads the state, of this shard, or of all.
    pub(super) fn with_store<T>(
        &self,
        shard: Option<&ShardHandle>,
        read: impl FnOnce(&Arc<RocksStore>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let _span = tracing::trace_span!("read", namespace = %self.served.id).entered();
        let shards = shard.as_ref().map(std::slice::from_ref);
        let before = self.replaced(shards)?;
        let found = self.shared.gate.with(read).ok_or(ReadError::Closed)?;
        // Behind the read as well: what it found may be of two states, also where that made it fail.
        if self.replaced(shards)? != before {
            return Err(self.is_replaced(shards));
        }
        // Behind the read: what is removed at this moment must not be told half.
        if self.is_dropped() { Err(ReadError::Dropped) } else { found }
    }

    /// Looks at these shards, or at all.
    fn at_one_moment<T>(
        &self,
        shards: Option<&[&ShardHandle]>,
        look: impl FnOnce(&Snapshot<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let before = self.replaced(shards)?;
        let look_at = |store: &Arc<RocksStore>| {
            let snapshot = Snapshot { namespace: self, rocks: store.snapshot() };
            // Of one state, if none came between: what is written from here on is not in it.
            if self.replaced(shards)? != before {
                return Err(self.is_replaced(shards));
            }
            look(&snapshot)
        };
        let _span = tracing::trace_span!("read", namespace = %self.served.id).entered();
        let found = self.shared.gate.with(look_at).ok_or(ReadError::Closed)?;
        if self.is_dropped() { Err(ReadError::Dropped) } else { found }
    }

    /// How often the states of these shards were replaced by snapshots of other nodes. Of others nothing is asked: one that is being
    /// replaced holds up nobody who reads what lies beside it.
    fn replaced(&self, shards: Option<&[&ShardHandle]>) -> Result<u64, ReadError> {
        if self.shared.host.is_alone() {
            return Ok(0);
        }
        let of = |shard: &ShardHandle| shard.positions.replaced();
        let replaced: Option<u64> = match shards {
            Some(shards) => shards.iter().map(|shard| of(shard)).sum(),
            None => self.served.shards.iter().map(|shard| of(shard)).sum(),
        };
        replaced.ok_or_else(|| self.is_replaced(shards))
    }

    fn is_replaced(&self, shards: Option<&[&ShardHandle]>) -> ReadError {
        let all: Vec<&ShardHandle> = match shards {
            Some(shards) => shards.to_vec(),
            None => self.served.shards.iter().map(|shard| &**shard).collect(),
        };
        let shard = all.iter().find(|shard| shard.positions.replaced().is_none()).or_else(|| all.first()).copied();
        // One that stopped in the middle of it says so.
        match shard.filter(|shard| shard.health.failure().is_some()) {
            Some(failed) => self.has_ended(failed),
            None => ReadError::Replaced { shard: shard.map_or(super::SHARD, |shard| shard.descriptor.shard) },
        }
    }

    /// Waits until one shard, or all, show what the read must show.
    fn reach(&self, read: &Read, shard: Option<usize>) -> Result<(), ReadError> {
        if matches!(read, Read::Eventual) {
            return Ok(());
        }
        let _span = tracing::trace_span!("reach", namespace = %self.served.id, ?read).entered();
        let shards = match shard {
            Some(index) => self.served.shards.get(index..=index).unwrap_or_default(),
            None => &self.served.shards[..],
        };
        shards.iter().try_for_each(|shard| match read {
            Read::AtLeast(token) => self.reach_token(shard, token),
            Read::MaxStaleness(staleness) if !self.shared.host.is_alone() => self.reach_fresh(shard, *staleness),
            _ => self.reach_newest(shard),
        })
    }

    fn reach_token(&self, shard: &ShardHandle, token: &Token) -> Result<(), ReadError> {
        let id = shard.descriptor.shard;
        let Some((epoch, lsn)) = token.get(id) else { return Ok(()) };
        let deadline = after(self.read_within);
        match shard.positions.wait(deadline, |positions| positions.applied() >= lsn) {
            Waited::Reached => {}
            Waited::Ended => return Err(self.has_ended(shard)),
            Waited::TimedOut => {
                let applied = shard.positions.applied();
                return Err(ReadError::NotYet { shard: id, wanted: lsn, applied });
            }
        }
        match self.epoch_at(shard, lsn) {
            Some(found) if found != epoch => Err(ReadError::PositionLost { shard: id, epoch, lsn }),
            // Of what was released nothing can be said, and nothing need be: it was committed.
            _ => Ok(()),
        }
    }

    /// Waits until everything that was acknowledged before now is applied here. Among several nodes a majority says first that this
    /// one still leads: otherwise another one may have acknowledged more.
    fn reach_newest(&self, shard: &ShardHandle) -> Result<(), ReadError> {
        let deadline = after(self.read_within);
        loop {
            self.reach_serving(shard, deadline)?;
            if self.shared.host.is_alone() {
                // What it acknowledges as written it has applied; not so what a caller waited for until it is durable, and no longer.
                return self.reach_applied(shard, shard.positions.told_durable(), deadline);
            }
            let (sender, confirmed) = bounded(1);
            let ticket = shard.confirm(move |confirmation| drop(sender.send(confirmation)));
            match confirmed.recv_deadline(deadline) {
                Ok(Confirmation::At(index)) => return self.reach_applied(shard, index, deadline),
                // It led when it was looked at: maybe it leads again soon, or somebody else is known to.
                Ok(Confirmation::Refused) => drop(shard.positions.wait(after(UNLED_PAUSE_MIN), |_| false)),
                Ok(Confirmation::Ended) => return Err(self.has_ended(shard)),
                Err(_) => {
                    shard.reads.forget(ticket);
                    return Err(ReadError::Unconfirmed { shard: shard.descriptor.shard });
                }
            }
        }
    }

    /// Waits until what is applied here shows all that was acknowledged so long before now: it is known to, or the leader said what is
    /// newest, and that is applied.
    fn reach_fresh(&self, shard: &ShardHandle, staleness: Duration) -> Result<(), ReadError> {
        let deadline = after(self.read_within);
        let mut pause = UNLED_PAUSE_MIN;
        while !shard.is_fresh(staleness) {
            let (sender, confirmed) = bounded(1);
            let ticket = shard.confirm(move |confirmation| drop(sender.send(confirmation)));
            match confirmed.recv_deadline(deadline) {
                Ok(Confirmation::At(index)) => {
                    // What others heard before may be applied sooner, and do as well.
                    let is_shown = |positions: &Positions| positions.applied() >= index || shard.is_fresh(staleness);
                    return match shard.positions.wait(deadline, is_shown) {
                        Waited::Reached => Ok(()),
                        Waited::Ended => Err(self.has_ended(shard)),
                        Waited::TimedOut => Err(shard.too_old(staleness)),
                    };
                }
                Ok(Confirmation::Ended) => return Err(self.has_ended(shard)),
                Ok(Confirmation::Refused) => {}
                Err(_) => shard.reads.forget(ticket),
            }
            // Nobody leads, as far as this node knows. What was heard before may still do for what waits here.
            let looked_again = deadline.min(after(pause));
            match shard.positions.wait(looked_again, |_| shard.is_fresh(staleness)) {
                Waited::Reached => {}
                Waited::Ended => return Err(self.has_ended(shard)),
                Waited::TimedOut if looked_again < deadline => pause = (pause * 2).min(UNLED_PAUSE_MAX),
                Waited::TimedOut => return Err(shard.too_old(staleness)),
            }
        }
        Ok(())
    }

    /// Waits until this node leads the shard, and what was committed before its epoch is applied.
    fn reach_serving(&self, shard: &ShardHandle, deadline: Instant) -> Result<(), ReadError> {
        let host = &self.shared.host;
        if let Some(leader) = shard.positions.leader().filter(|leader| *leader != host.node) {
            return Err(ReadError::NotLeader(leader));
        }
        let is_newest = |positions: &Positions| positions.serving().is_some_and(|start| positions.applied() >= start);
        match shard.positions.wait(deadline, is_newest) {
            Waited::Reached => Ok(()),
            Waited::Ended => Err(self.has_ended(shard)),
            Waited::TimedOut => Err(self.not_yet(shard, host.end(shard.log))),
        }
    }

    fn reach_applied(&self, shard: &ShardHandle, index: Lsn, deadline: Instant) -> Result<(), ReadError> {
        match shard.positions.wait(deadline, |positions| positions.applied() >= index) {
            Waited::Reached => Ok(()),
            Waited::Ended => Err(self.has_ended(shard)),
            Waited::TimedOut => Err(self.not_yet(shard, index)),
        }
    }

    fn not_yet(&self, shard: &ShardHandle, wanted: Lsn) -> ReadError {
        ReadError::NotYet { shard: shard.descriptor.shard, wanted, applied: shard.positions.applied() }
    }
}

/// A write that only wants room in its queue. Dropped, it has no effect.
#[cfg(feature = "client")]
pub(crate) struct Prepared {
    space: Namespace,
    shard: Arc<ShardHandle>,
    taken: Taken,
    submission: Submission<Arrived<Completion>>,
}

/// The receipt of a write that was queued.
#[cfg(feature = "client")]
#[derive(Debug)]
pub(crate) enum Taken {
    Applied(Receipt),
    Placed(Receipt<Position>),
}

#[cfg(feature = "client")]
impl Prepared {
    /// Queues it, without waiting; gives it back where there is no room, or never will be.
    pub(crate) fn submit(self) -> Result<Taken, Box<(WriteRefused, Self)>> {
        let Self { space, shard, taken, submission } = self;
        match shard.queue.submit(submission, SubmitPolicy::Fail) {
            Ok(()) => Ok(taken),
            Err((error, submission)) => {
                let refused = space.refused(&shard, error.into());
                Err(Box::new((refused, Self { space, shard, taken, submission })))
            }
        }
    }
}

/// Whoever does not wait until it is applied never hears what came of it.
pub(super) fn check_unconditional(record: &Record) -> Result<(), WriteRefused> {
    let is_conditional = |operation: &Operation| match operation {
        Operation::Append { expect, .. } => *expect != Expect::Any,
        _ => false,
    };
    let has_conditions = !record.preconditions.is_empty() || record.operations.iter().any(is_conditional);
    if has_conditions || record.request.session != 0 { Err(WriteRefused::NeedsOutcome) } else { Ok(()) }
}

impl Snapshot<'_> {
    /// What a key holds, and its version.
    ///
    /// # Errors
    /// The key is none, or the state can't be read.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, ReadError> {
        get(&self.rocks, self.namespace.id(), check_key(key.as_ref())?)
    }

    /// None: the values have more bytes than that.
    pub(super) fn multi_get_within<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        bytes_max: usize,
    ) -> Result<Option<Vec<Option<Value>>>, ReadError> {
        let (mut found, mut bytes) = (Vec::with_capacity(keys.len()), 0_usize);
        for key in keys {
            let value = self.get(key.as_ref())?;
            bytes = bytes.saturating_add(value.as_ref().map_or(0, |value| value.value.len()));
            if bytes > bytes_max {
                return Ok(None);
            }
            found.push(value);
        }
        Ok(Some(found))
    }

    /// One page of keys and values: all pages of one snapshot belong together.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn scan(&self, scan: &Scan) -> Result<Page, ReadError> {
        Ok(state::scan_values(&self.rocks, self.namespace.id(), scan)?)
    }

    /// Events of a stream, as [`Namespace::read_stream`].
    ///
    /// # Errors
    /// The name is none, or the state can't be read.
    pub fn read_stream(
        &self,
        stream: impl AsRef<[u8]>,
        from: u64,
        direction: Direction,
        (events_max, bytes_max): (usize, usize),
    ) -> Result<StreamRead, ReadError> {
        let (stream, namespace) = (check_key(stream.as_ref())?, self.namespace.id());
        Ok(state::read_stream(&self.rocks, namespace, stream, from, direction, events_max, bytes_max)?)
    }

    /// The position that it is of, in each shard.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn token(&self) -> Result<Token, ReadError> {
        let mut token = Token::default();
        for shard in &self.namespace.served.shards {
            if let Some(at) = state::applied_of(&self.rocks, shard.descriptor.shard)? {
                token.extend(&Token::at(shard.descriptor.shard, at.epoch, at.lsn));
            }
        }
        Ok(token)
    }
}

fn get<V: View + ?Sized>(view: &V, namespace: NamespaceId, key: &[u8]) -> Result<Option<Value>, ReadError> {
    let found = state::get_value(view, namespace, key)?;
    Ok(found.map(|(version, value)| Value { version, value }))
}

fn check_key(key: &[u8]) -> Result<&[u8], ReadError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(ReadError::Key { bytes: key.len() });
    }
    Ok(key)
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("namespace", &self.namespace.id()).finish_non_exhaustive()
    }
}

//! Snapshots for others: taken of the state as backups are, kept while somebody fetches them, and read part by part.
//!
//! What is kept is bounded three ways. A snapshot that nobody asked for in a while goes, and so does one of which hardly anything
//! is sent in many hours ([`Kept`]): until then the disk holds files of RocksDB that it would have let go. There are two of a
//! shard at the most, and so many of all shards; whoever needs another one waits. And of the log behind one so many bytes are
//! kept; where that is less than what was written since, whoever fetched it is offered a newer one.

use super::kept::Kept;
use super::pace::Pace;
use super::{Answer, RETRY_PAUSE, SnapshotCounters, all, answer};
use crate::model::limits::SNAPSHOT_CHUNK_BYTES;
use crate::model::{Budget, Epoch, LogPosition, Lsn, NodeId, ShardId, SnapshotId};
use crate::node::hosting::{Host, ShardHandle};
use crate::node::identity::{self, IdentityError, sync_directory};
use crate::node::pins::Pin;
use crate::node::shard::{after, now};
use crate::node::{Inbox, Shared};
use crate::replica::Input;
use crate::state::{RocksOptions, RocksStore, SnapshotError, StoreError, Survey, applied_of};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Of each shard: one that is fetched, and one for who can't be fed behind that any more.
const KEPT_MAX: usize = 2;
/// Of all shards. Each is a RocksDB of its own, with up to 1,024 files open; a node that leads two hundred shards, and whose peer
/// came back with an empty disk, would have no descriptor left for its own.
const GIVEN_MAX: usize = 16;
/// Each part is read once or twice: a small cache is enough.
const CACHE_BYTES: usize = 8 << 20;
const GIVEN: &str = "given";
const UNREADY: &str = "unready";

/// Who asks.
pub(in crate::node) struct Ask {
    pub(in crate::node) shard: ShardId,
    pub(in crate::node) events: Inbox,
    pub(in crate::node) counters: Arc<SnapshotCounters>,
    pub(in crate::node) peer: NodeId,
    pub(in crate::node) session: u64,
    /// As long as that connection stands, and there is somebody to answer to.
    pub(in crate::node) here: Weak<()>,
}

pub(in crate::node) enum GiveOrder {
    /// A peer needs a snapshot.
    Take {
        ask: Ask,
        epoch: Epoch,
    },
    /// It asks for a part.
    Read {
        ask: Ask,
        epoch: Epoch,
        snapshot: SnapshotId,
        index: u32,
    },
    /// Shards are served from now on. What a former life was giving is found, and kept, before the other end hears of its end.
    Begin(Sender<Infallible>),
    End,
}

impl GiveOrder {
    fn taken_by(&self) -> Option<(NodeId, ShardId)> {
        if let Self::Take { ask, .. } = self { Some((ask.peer, ask.shard)) } else { None }
    }

    /// Whether somebody waits for what comes of it.
    fn is_wanted(&self) -> bool {
        match self {
            Self::Take { ask, .. } | Self::Read { ask, .. } => ask.here.strong_count() > 0,
            Self::Begin(_) | Self::End => true,
        }
    }

    /// Whether it asks for this one, of which there may be a newer one of the same shard.
    fn asks_for(&self, given: &Given, is_newest: bool) -> bool {
        match self {
            Self::Take { ask, .. } => ask.shard == given.shard() && is_newest,
            Self::Read { snapshot, .. } => given.survey.as_ref().is_some_and(|survey| survey.id() == *snapshot),
            Self::Begin(_) | Self::End => false,
        }
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error(transparent)]
    Directory(#[from] IdentityError),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] SnapshotError),
    /// The node closes, or the shard is gone.
    #[error("the node closes, or the shard is gone")]
    Ended,
    /// There are as many as there may be, and none of them was sent as a whole.
    #[error("as many are being fetched as may be at a time")]
    Full,
}

/// A snapshot that others fetch.
struct Given {
    path: PathBuf,
    store: Arc<RocksStore>,
    at: LogPosition,
    /// What a part is read by; none of one of a former life that nobody asked for yet.
    survey: Option<Survey>,
    pin: Pin,
    kept: Kept,
    handle: Arc<ShardHandle>,
}

/// What keeps the log behind one whose files are gone, for the nodes that were sent all of it.
struct Followed {
    until: Instant,
    shard: ShardId,
    nodes: Vec<NodeId>,
    bytes: u64,
    _pin: Pin,
}

pub(in crate::node) struct GiverThread {
    shared: Arc<Shared>,
    orders: Receiver<GiveOrder>,
    /// What came before the rest of them.
    line: VecDeque<GiveOrder>,
    directory: PathBuf,
    pace: Pace,
    given: Vec<Given>,
    /// Of those whose files are gone, until when: whoever was sent one may be installing it, and needs the log behind it.
    pins: Vec<Followed>,
    /// At most one of a peer.
    later: Vec<(Instant, GiveOrder)>,
}

impl GiverThread {
    pub(in crate::node) fn new(shared: Arc<Shared>, orders: Receiver<GiveOrder>) -> Self {
        let directory = all(&shared.host.directory);
        let pace = Pace::new(shared.host.snapshots.bytes_per_second);
        let (line, given, pins, later) = (VecDeque::new(), Vec::new(), Vec::new(), Vec::new());
        Self { shared, orders, line, directory, pace, given, pins, later }
    }

    /// Runs until it is told to end.
    pub(in crate::node) fn run(mut self) {
        loop {
            match self.next_order() {
                Ok(GiveOrder::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(order) => self.carry_out(order),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.let_go();
            let due = now();
            while let Some(place) = self.later.iter().position(|(at, _)| *at <= due) {
                let (_, order) = self.later.swap_remove(place);
                self.carry_out(order);
            }
        }
    }

    fn next_order(&mut self) -> Result<GiveOrder, RecvTimeoutError> {
        if let Some(order) = self.line.pop_front() {
            return Ok(order);
        }
        match self.next_deadline() {
            Some(at) => self.orders.recv_deadline(at),
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ends = self.given.iter().map(|given| given.kept.ends());
        let pins = self.pins.iter().map(|followed| followed.until);
        self.later.iter().map(|(at, _)| *at).chain(ends).chain(pins).min()
    }

    fn carry_out(&mut self, order: GiveOrder) {
        if !order.is_wanted() {
            return;
        }
        match order {
            GiveOrder::Take { ask, epoch } => match self.offer(&ask) {
                Ok(snapshot) => {
                    let input = Input::SnapshotTaken { peer: ask.peer, epoch, snapshot };
                    answer(&ask.events, Answer::Given { peer: ask.peer, session: ask.session, input });
                }
                Err(GiveError::Ended) => {}
                Err(error) => {
                    let by @ (peer, shard) = (ask.peer, ask.shard);
                    if matches!(error, GiveError::Full) {
                        tracing::debug!(%peer, %shard, "a snapshot is taken when there is room: {error}");
                    } else {
                        tracing::error!(%peer, %shard, %error, "no snapshot can be taken: it is tried again");
                    }
                    self.later.retain(|(_, order)| order.taken_by() != Some(by));
                    self.later.push((after(RETRY_PAUSE), GiveOrder::Take { ask, epoch }));
                }
            },
            GiveOrder::Read { ask, epoch, snapshot, index } => {
                let bytes = self.read(&ask, snapshot, index);
                let took = bytes.as_ref().map_or(0, bytes::Bytes::len);
                let input = Input::SnapshotRead { peer: ask.peer, epoch, snapshot, index, bytes };
                answer(&ask.events, Answer::Given { peer: ask.peer, session: ask.session, input });
                // Behind the answer, or a slow rate keeps whoever waits for it from all progress. The others' reads and writes of the
                // disk, and their bytes on the wire, have the rest; a node that closes is told so by the next order.
                self.pace.took(took, &self.shared.closing);
            }
            GiveOrder::Begin(done) => {
                self.find();
                drop(done);
            }
            GiveOrder::End => {}
        }
    }

    /// The newest snapshot behind which the log goes on, or a new one.
    fn offer(&mut self, ask: &Ask) -> Result<SnapshotId, GiveError> {
        let handle = self.handle(ask.shard).ok_or(GiveError::Ended)?;
        let wal = Arc::clone(&self.shared.host.wal);
        let goes_on = |given: &Given| {
            given.handle.descriptor.shard == ask.shard && wal.position_at(handle.log, given.at.lsn) == Some(given.at)
        };
        let place = match self.given.iter().rposition(goes_on) {
            Some(place) => place,
            None => self.take(&handle)?,
        };
        let id = match self.given.get(place).and_then(|given| given.survey.as_ref()) {
            Some(survey) => survey.id(),
            None => self.survey(place)?,
        };
        if let Some(given) = self.given_of(id).and_then(|place| self.given.get_mut(place)) {
            given.kept.offer(ask.peer, now());
            given.pin.touch();
        }
        SnapshotCounters::add(&ask.counters.given, 1);
        tracing::info!(
            peer = %ask.peer, shard = %ask.shard, at = %id.at.lsn, chunks = id.chunks, bytes = id.bytes,
            "a snapshot is offered: the log holds no more what this node needs"
        );
        Ok(id)
    }

    fn handle(&self, shard: ShardId) -> Option<Arc<ShardHandle>> {
        self.shared.registry.shards().into_iter().find(|handle| handle.descriptor.shard == shard)
    }

    /// The place of the one that others call so.
    fn given_of(&self, snapshot: SnapshotId) -> Option<usize> {
        self.given.iter().position(|given| given.survey.as_ref().is_some_and(|survey| survey.id() == snapshot))
    }

    /// How many there are of a shard.
    fn count_of(&self, shard: ShardId) -> usize {
        self.given.iter().filter(|given| given.shard() == shard).count()
    }

    /// Reads all of one once: what it is has to be said before the first part of it is. Between two parts those are read that
    /// others ask for: it may take hours, and each of them would wait as long for its next one.
    fn survey(&mut self, place: usize) -> Result<SnapshotId, GiveError> {
        let Some(given) = self.given.get(place) else { return Err(GiveError::Ended) };
        let (store, handle) = (Arc::clone(&given.store), Arc::clone(&given.handle));
        let closing = self.shared.closing.clone();
        let surveyed = Survey::of(&*store, &handle.descriptor, handle.log, SNAPSHOT_CHUNK_BYTES, |bytes| {
            let goes_on = self.pace.took(bytes, &closing);
            self.answer_reads();
            goes_on
        })?;
        let survey = surveyed.ok_or(GiveError::Ended)?;
        let id = survey.id();
        // Not by its place: one that could not be read may be gone meanwhile, and stood before it.
        if let Some(given) = self.given.iter_mut().find(|given| Arc::ptr_eq(&given.store, &store)) {
            given.survey = Some(survey);
            // Its files are those of the whole node: now it is known how much of that is this shard's.
            given.pin = self.shared.host.pin_behind(&handle, given.at.lsn, id.bytes);
            given.kept = Kept::since(now()); // Nobody could ask for it before.
        }
        Ok(id)
    }

    /// The parts that are asked for at this moment. What comes while they are read waits for the next time, or who asks for one
    /// after the other would hold up everything else. The other orders stay in line.
    fn answer_reads(&mut self) {
        self.gather();
        for _ in 0..self.line.len() {
            match self.line.pop_front() {
                Some(order @ GiveOrder::Read { .. }) => self.carry_out(order),
                Some(order) => self.line.push_back(order),
                None => return,
            }
        }
    }

    /// Of orders of one peer to take a snapshot of one shard the last one does.
    fn gather(&mut self) {
        for order in self.orders.try_iter() {
            if let Some(by) = order.taken_by() {
                self.line.retain(|other| other.taken_by() != Some(by));
            }
            self.line.push_back(order);
        }
    }

    /// Takes one of what is applied; its place among those that are kept.
    fn take(&mut self, handle: &Arc<ShardHandle>) -> Result<usize, GiveError> {
        let shard = handle.descriptor.shard;
        if self.count_of(shard) < KEPT_MAX {
            self.make_room()?;
        }
        // Pinned first: what comes behind the state that is copied stays.
        let nothing_goes = self.shared.letting_go.read();
        let whole = handle.pins.pin(Lsn::ZERO, Budget { bytes: u64::MAX, age: Duration::MAX });
        drop(nothing_goes);
        identity::create_durably(&self.directory)?;
        let unready = self.directory.join(format!("{UNREADY}-{shard}"));
        remove_all(&unready)?;
        self.shared.gate.with(|store| store.checkpoint(&unready)).ok_or(GiveError::Ended)??;
        let at = {
            let store = open(&unready)?;
            applied_of(&store, shard)?.ok_or(SnapshotError::Empty)?
        };
        let path = self.directory.join(format!("{GIVEN}-{shard}-{}", at.lsn));
        remove_all(&path)?;
        fs::rename(&unready, &path).map_err(|source| GiveError::Io { path: path.clone(), source })?;
        sync_directory(&self.directory).map_err(|source| GiveError::Io { path: self.directory.clone(), source })?;
        let given = self.keep(path, handle, at)?;
        drop(whole);
        // The oldest makes room.
        while self.count_of(shard) >= KEPT_MAX
            && let Some(oldest) = self.given.iter().position(|given| given.shard() == shard)
        {
            self.remove(oldest, "there is a newer one");
        }
        self.given.push(given);
        Ok(self.given.len() - 1)
    }

    /// Room for one more: of those that were sent as a whole the one goes that nobody has asked for longest. One that is being
    /// fetched stays, though nobody asks for it at the moment: what is there of it at the other end would be of no use.
    fn make_room(&mut self) -> Result<(), GiveError> {
        let due = now();
        while self.given.len() >= GIVEN_MAX {
            let sent = self.given.iter().enumerate().filter(|(_, given)| given.is_sent(due));
            let place = sent.min_by_key(|(_, given)| given.kept.asked()).map(|(place, _)| place);
            self.remove(place.ok_or(GiveError::Full)?, "it is sent, and another one needs room");
        }
        Ok(())
    }

    /// The files of one go, and so does what keeps the log behind it, unless somebody is installing it.
    fn remove(&mut self, place: usize, why: &str) {
        let given = self.given.remove(place);
        let (shard, id) = (given.shard(), given.survey.as_ref().map(Survey::id));
        let nodes = id.map(|id| given.kept.sent_to(id.chunks)).unwrap_or_default();
        let bytes = id.map_or(0, |id| id.bytes);
        // Whoever was sent several installs one after the other.
        let others = self.pins.iter().filter(|followed| followed.nodes.iter().any(|node| nodes.contains(node)));
        let before: u64 = others.map(|followed| followed.bytes).sum();
        let until = given.kept.is_followed_until(before.saturating_add(bytes));
        let pin = given.remove(why);
        if nodes.is_empty() {
            return;
        }
        self.pins.push(Followed { until, shard, nodes, bytes, _pin: pin });
        if self.pins.iter().filter(|followed| followed.shard == shard).count() > KEPT_MAX {
            let oldest = self.pins.iter().position(|followed| followed.shard == shard);
            oldest.into_iter().for_each(|oldest| drop(self.pins.remove(oldest)));
        }
    }

    fn keep(&self, path: PathBuf, handle: &Arc<ShardHandle>, at: LogPosition) -> Result<Given, GiveError> {
        let store = Arc::new(open(&path)?);
        let pin = self.shared.host.pin_behind(handle, at.lsn, bytes_in(&path));
        let handle = Arc::clone(handle);
        Ok(Given { path, store, at, survey: None, pin, kept: Kept::since(now()), handle })
    }

    fn read(&mut self, ask: &Ask, snapshot: SnapshotId, index: u32) -> Option<bytes::Bytes> {
        let place = self.given_of(snapshot)?;
        let given = self.given.get_mut(place)?;
        given.pin.touch();
        let survey = given.survey.as_ref()?;
        match survey.chunk(&*given.store, &given.handle.descriptor, given.handle.log, index) {
            Ok(bytes) => {
                given.kept.give(ask.peer, index, now());
                SnapshotCounters::add(&ask.counters.given_bytes, bytes.len() as u64);
                if index == snapshot.chunks - 1 {
                    tracing::info!(peer = %ask.peer, shard = %ask.shard, at = %snapshot.at.lsn, "a snapshot's last part is sent");
                } else {
                    tracing::debug!(peer = %ask.peer, shard = %ask.shard, at = %snapshot.at.lsn, index, "a part of a snapshot");
                }
                Some(bytes)
            }
            Err(error) => {
                let at = snapshot.at.lsn;
                tracing::error!(shard = %ask.shard, %at, index, %error, "a snapshot can't be read: another one is taken");
                self.remove(place, "it can't be read");
                None
            }
        }
    }

    /// What nobody asks for any more. Whoever waits in line does ask, however long others were at work before: otherwise two
    /// shards that are fetched at a time would throw away each other's.
    fn let_go(&mut self) {
        self.gather();
        let due = now();
        for place in 0..self.given.len() {
            let given = &self.given[place];
            let is_newest = !self.given[place + 1..].iter().any(|other| other.shard() == given.shard());
            let is_asked = || self.line.iter().any(|order| order.is_wanted() && order.asks_for(given, is_newest));
            if given.kept.ends() <= due && is_asked() {
                self.given[place].kept.ask(due);
            }
        }
        while let Some(place) = self.given.iter().position(|given| given.kept.ends() <= due) {
            self.remove(place, "nobody fetches it");
        }
        self.pins.retain(|followed| followed.until > due);
    }

    /// What a former life was giving: who fetched that goes on, if the log still goes on behind it. What can't be read goes.
    fn find(&mut self) {
        // Not there: none was ever given or taken.
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.map_while(Result::ok) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let shard =
                name.strip_prefix(GIVEN).and_then(|rest| rest.strip_prefix('-')?.split_once('-')?.0.parse().ok());
            let handle = shard.and_then(|shard| self.handle(ShardId::new(shard)));
            let has_room = |handle: &Arc<ShardHandle>| self.count_of(handle.descriptor.shard) < KEPT_MAX;
            let handle = handle.filter(|handle| has_room(handle) && self.given.len() < GIVEN_MAX);
            let of_a_giver = name.starts_with(GIVEN) || name.starts_with(UNREADY);
            match handle {
                Some(handle) => match self.found(path.clone(), &handle) {
                    Ok(given) => {
                        let (shard, at) = (handle.descriptor.shard, given.at.lsn);
                        tracing::info!(%shard, %at, "a snapshot of a former life is kept for who fetches it");
                        self.given.push(given);
                        self.given.sort_by_key(|given| given.at.lsn);
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a snapshot of a former life is of no use");
                        removed(&path);
                    }
                },
                _ if of_a_giver => removed(&path),
                _ => {}
            }
        }
    }

    fn found(&self, path: PathBuf, handle: &Arc<ShardHandle>) -> Result<Given, GiveError> {
        let at = applied_of(&open(&path)?, handle.descriptor.shard)?.ok_or(SnapshotError::Empty)?;
        if self.shared.host.wal.position_at(handle.log, at.lsn) != Some(at) {
            return Err(GiveError::Ended);
        }
        self.keep(path, handle, at)
    }
}

impl Given {
    fn shard(&self) -> ShardId {
        self.handle.descriptor.shard
    }

    fn is_sent(&self, now: Instant) -> bool {
        self.survey.as_ref().is_some_and(|survey| self.kept.is_sent(survey.id().chunks, now))
    }

    /// Its files go; what keeps the log behind it is given back.
    fn remove(self, why: &str) -> Pin {
        let Self { path, store, at, pin, .. } = self;
        drop(store);
        tracing::info!(at = %at.lsn, why, "a snapshot is let go");
        removed(&path);
        pin
    }
}

fn removed(path: &Path) {
    if let Err(error) = remove_all(path) {
        tracing::warn!(path = %path.display(), %error, "what there is of a snapshot could not be removed");
    }
}

fn remove_all(path: &Path) -> Result<(), GiveError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(GiveError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Host {
    /// Keeps the log behind a snapshot of so many bytes. Also behind a large one, of which the log runs on for long while it is sent; as
    /// long as it is kept, and no longer.
    fn pin_behind(&self, handle: &ShardHandle, at: Lsn, bytes: u64) -> Pin {
        let bytes = self.snapshots.log_bytes.max(bytes.saturating_mul(2));
        handle.pins.pin(at, Budget { bytes, age: Duration::MAX })
    }
}

fn open(path: &Path) -> Result<RocksStore, StoreError> {
    let options = RocksOptions { block_cache_bytes: CACHE_BYTES, ..RocksOptions::default() };
    RocksStore::open_read_only_with(path, &options)
}

/// What the files of a folder hold; what can't be looked at counts for nothing.
fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
#[path = "giver_test.rs"]
mod tests;

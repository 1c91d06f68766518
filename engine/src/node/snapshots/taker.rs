//! A snapshot from another node: its parts are staged on the disk, looked at, and then the state is replaced by them.

use super::staged::{Checked, Staged, StagedError, remove_files};
use super::{Answer, PartWaits, RETRY_PAUSE, SnapshotCounters, answer, taken};
use crate::model::{LogId, Lsn, NodeId, ShardDescriptor, ShardId, SnapshotId};
use crate::node::applier::ApplyStage;
use crate::node::positions::Positions;
use crate::node::shard::{after, now};
use crate::node::{Inbox, Shared};
use crate::replica::Input;
use crate::state::{Applier, Replacement, RocksWriter, SnapshotError, StoreError};
use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// The shard that takes.
#[derive(Clone)]
pub(in crate::node) struct Taking {
    pub(in crate::node) node: NodeId,
    pub(in crate::node) shard: ShardId,
    pub(in crate::node) log: LogId,
    pub(in crate::node) events: Inbox,
    pub(in crate::node) stage: Arc<Mutex<ApplyStage>>,
    pub(in crate::node) positions: Arc<Positions>,
    pub(in crate::node) counters: Arc<SnapshotCounters>,
}

pub(in crate::node) enum TakeOrder {
    /// Keep the parts of this one, instead of those of any other.
    Stage {
        taking: Taking,
        snapshot: SnapshotId,
    },
    /// A part.
    Part {
        taking: Taking,
        snapshot: SnapshotId,
        index: u32,
        bytes: Bytes,
        #[expect(dead_code, reason = "dropped with the order: from then on it waits no more")]
        waits: PartWaits,
    },
    /// All of them are looked at.
    Check {
        taking: Taking,
        snapshot: SnapshotId,
    },
    /// The state becomes what is staged.
    Replace {
        taking: Taking,
        snapshot: SnapshotId,
    },
    /// Nobody needs it any more: the shard has what is in it.
    Forget {
        taking: Taking,
        snapshot: SnapshotId,
    },
    End,
}

impl TakeOrder {
    const fn of(&self) -> Option<(&Taking, &SnapshotId)> {
        match self {
            Self::Stage { taking, snapshot }
            | Self::Part { taking, snapshot, .. }
            | Self::Check { taking, snapshot }
            | Self::Replace { taking, snapshot }
            | Self::Forget { taking, snapshot } => Some((taking, snapshot)),
            Self::End => None,
        }
    }
}

/// What is being taken for a shard.
struct Staging {
    staged: Staged,
    told: Instant,
}

pub(in crate::node) struct TakerThread {
    shared: Arc<Shared>,
    orders: Receiver<TakeOrder>,
    /// What came during long work, before the rest of them.
    line: VecDeque<TakeOrder>,
    staging: BTreeMap<ShardId, Staging>,
    /// Whose snapshot is being looked at, or made its state: either may take long.
    at_work_for: Option<ShardId>,
    /// At most one of a shard: it is tried again then.
    later: BTreeMap<ShardId, (Instant, TakeOrder)>,
    /// What was said last of what does not work.
    told: BTreeMap<ShardId, String>,
}

impl TakerThread {
    pub(in crate::node) fn new(shared: Arc<Shared>, orders: Receiver<TakeOrder>) -> Self {
        Self {
            shared,
            orders,
            line: VecDeque::new(),
            at_work_for: None,
            staging: BTreeMap::new(),
            later: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Runs until it is told to end.
    pub(in crate::node) fn run(mut self) {
        loop {
            match self.next_order() {
                Ok(TakeOrder::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(order) => self.carry_out(order),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let due: Vec<ShardId> =
                self.later.iter().filter(|(_, (at, _))| *at <= now()).map(|(shard, _)| *shard).collect();
            for shard in due {
                if let Some((_, order)) = self.later.remove(&shard) {
                    self.carry_out(order);
                }
            }
        }
    }

    fn next_order(&mut self) -> Result<TakeOrder, RecvTimeoutError> {
        if let Some(order) = self.line.pop_front() {
            return Ok(order);
        }
        match self.later.values().map(|(at, _)| *at).min() {
            Some(at) => self.orders.recv_deadline(at),
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn carry_out(&mut self, order: TakeOrder) {
        let Some((taking, snapshot)) = order.of().map(|(taking, snapshot)| (taking.clone(), *snapshot)) else { return };
        if matches!(order, TakeOrder::Stage { .. }) {
            // What was under way of another one is over.
            self.later.remove(&taking.shard);
        }
        let done = match &order {
            TakeOrder::Stage { .. } => self.stage(&taking, snapshot),
            TakeOrder::Part { index, bytes, .. } => self.part(&taking, snapshot, *index, bytes),
            TakeOrder::Check { .. } => self.go_on(&taking, snapshot),
            TakeOrder::Replace { .. } => self.replace(&taking, snapshot),
            TakeOrder::Forget { .. } => self.forget(&taking, snapshot),
            TakeOrder::End => Ok(()),
        };
        match done {
            Ok(()) => drop(self.told.remove(&taking.shard)),
            Err(StagedError::Closing) => {}
            Err(error) if matches!(order, TakeOrder::Forget { .. }) => {
                tracing::warn!(shard = %taking.shard, %error, "what is left of a snapshot could not be removed");
            }
            Err(error) if matches!(order, TakeOrder::Replace { .. }) && !is_full(&error) && !error.may_pass() => {
                let code = error.code();
                let reason = format!("the state can't be replaced by a snapshot: {error} (TW-{code}); reopen the node");
                answer(&taking.events, Answer::Failed(reason));
            }
            Err(error) => {
                let (said, node, shard) = (error.to_string(), taking.node, taking.shard);
                if self.told.insert(shard, said.clone()).is_none_or(|before| before != said) {
                    let (code, class) = (error.code(), error.class());
                    tracing::error!(%node, %shard, code, ?class, "no snapshot can be taken now: {said}; it is tried again");
                }
                // Of a part: be it here by now or not, it is looked at what is.
                let order = match order {
                    TakeOrder::Part { .. } => TakeOrder::Check { taking, snapshot },
                    order => order,
                };
                self.later.insert(shard, (after(RETRY_PAUSE), order));
            }
        }
    }

    /// Begins with a snapshot, or goes on with it.
    fn stage(&mut self, taking: &Taking, snapshot: SnapshotId) -> Result<(), StagedError> {
        let directory = taken(&self.shared.host.directory, taking.shard);
        let there = match self.staging.remove(&taking.shard) {
            Some(staging) => Some(staging.staged),
            None => match Staged::open(&directory, || !self.is_closing()) {
                Ok(there) => there,
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => {
                    tracing::warn!(shard = %taking.shard, %error, "what was staged of a snapshot is of no use: it begins anew");
                    None
                }
            },
        };
        let staged = match there.filter(|there| there.id() == snapshot) {
            Some(staged) => staged,
            None => Staged::make(&directory, snapshot)?,
        };
        let (at, bytes, found) = (snapshot.at.lsn, snapshot.bytes, staged.bytes());
        let free = free_bytes(&directory)?;
        let needed = staged.needs();
        self.staging.insert(taking.shard, Staging { staged, told: now() });
        if needed > free {
            return Err(StagedError::NoRoom { path: directory, bytes, needed, free });
        }
        tracing::info!(
            node = %taking.node, shard = %taking.shard, %at, bytes, found,
            "a snapshot is taken: the leader's log holds no more what this node lacks"
        );
        self.go_on(taking, snapshot)
    }

    fn part(&mut self, taking: &Taking, snapshot: SnapshotId, index: u32, bytes: &Bytes) -> Result<(), StagedError> {
        let Some(staging) = self.staging.get_mut(&taking.shard).filter(|it| it.staged.id() == snapshot) else {
            return Ok(());
        };
        if staging.staged.renew()? {
            return self.go_on(taking, snapshot);
        }
        if !staging.staged.add(index, bytes)? {
            // It was asked for twice, by two offers: whoever asks once more for what comes next is answered twice from then on.
            return Ok(());
        }
        SnapshotCounters::add(&taking.counters.taken_bytes, bytes.len() as u64);
        if now().saturating_duration_since(staging.told) >= PROGRESS {
            staging.told = now();
            let (here, of) = (staging.staged.bytes(), snapshot.bytes);
            tracing::info!(node = %taking.node, shard = %taking.shard, here, of, "a snapshot is being taken");
        }
        self.go_on(taking, snapshot)
    }

    /// Asks for the next part; if all are here, they are synced and looked at.
    fn go_on(&mut self, taking: &Taking, snapshot: SnapshotId) -> Result<(), StagedError> {
        let Some(staging) = self.staging.get_mut(&taking.shard).filter(|it| it.staged.id() == snapshot) else {
            return Ok(());
        };
        let staged = &mut staging.staged;
        if staged.renew()? {
            tracing::error!(node = %taking.node, shard = %taking.shard, "a snapshot is fetched anew: what was here of it is of no use");
        }
        if staged.wanted().is_none() && self.at_work_for.is_some() {
            // One after the other; and not while nobody can read the state of another shard.
            self.line.push_back(TakeOrder::Check { taking: taking.clone(), snapshot });
            return Ok(());
        }
        if staged.wanted().is_none() {
            let (node, shard, at) = (taking.node, taking.shard, snapshot.at.lsn);
            match self.check(taking)? {
                Checked::Whole => {
                    tracing::info!(%node, %shard, %at, "all parts of a snapshot are here");
                    answer(&taking.events, Answer::Taken(Input::SnapshotStaged(snapshot)));
                    return Ok(());
                }
                Checked::Damaged(parts) => {
                    SnapshotCounters::add(&taking.counters.damaged_parts, parts as u64);
                    tracing::error!(%node, %shard, parts, "staged parts of a snapshot are damaged: they come once more");
                }
                Checked::NotWhatWasOffered => {
                    SnapshotCounters::add(&taking.counters.damaged_parts, u64::from(snapshot.chunks));
                    tracing::error!(%node, %shard, %at, "a snapshot is not what was offered: it comes once more");
                    // Not at once: whoever gives it may give it so again.
                    let order = TakeOrder::Check { taking: taking.clone(), snapshot };
                    self.later.insert(taking.shard, (after(RETRY_PAUSE), order));
                    return Ok(());
                }
            }
        }
        let wanted = self.staging.get(&taking.shard).and_then(|staging| staging.staged.wanted());
        if let Some(index) = wanted {
            answer(&taking.events, Answer::Taken(Input::SnapshotWanted { snapshot, index }));
        }
        Ok(())
    }

    /// Looks at all that is staged for a shard, once it is durable.
    fn check(&mut self, taking: &Taking) -> Result<Checked, StagedError> {
        let missing = || StagedError::Missing { path: taken(&self.shared.host.directory, taking.shard), at: Lsn::ZERO };
        let mut staging = self.staging.remove(&taking.shard).ok_or_else(missing)?;
        let staged = &mut staging.staged;
        let descriptor = descriptor(taking);
        self.at_work_for = Some(taking.shard);
        let checked = staged.sync().and_then(|()| staged.check(&descriptor, taking.log, || self.goes_on()));
        self.at_work_for = None;
        self.staging.insert(taking.shard, staging);
        checked
    }

    /// In the middle of long work: what can't wait for its end is done. Whether to go on.
    fn goes_on(&mut self) -> bool {
        self.take_parts();
        !self.is_closing()
    }

    fn is_closing(&self) -> bool {
        matches!(self.shared.closing.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Its parts go from the disk, unless another one is staged by now.
    fn forget(&mut self, taking: &Taking, snapshot: SnapshotId) -> Result<(), StagedError> {
        let directory = taken(&self.shared.host.directory, taking.shard);
        let there = match self.staging.get(&taking.shard) {
            Some(staging) => Some(staging.staged.id()),
            None => Staged::offered(&directory)?,
        };
        if there.is_none_or(|there| there == snapshot) {
            self.staging.remove(&taking.shard);
            self.later.remove(&taking.shard);
            remove_files(&directory)?;
            tracing::info!(node = %taking.node, shard = %taking.shard, at = %snapshot.at.lsn, "a snapshot is not needed any more");
        }
        Ok(())
    }

    /// The mark is in the log, and nobody applies.
    fn replace(&mut self, taking: &Taking, snapshot: SnapshotId) -> Result<(), StagedError> {
        let missing =
            StagedError::Missing { path: taken(&self.shared.host.directory, taking.shard), at: snapshot.at.lsn };
        let is_it = self.staging.get(&taking.shard).is_some_and(|it| it.staged.id() == snapshot);
        let staging = if is_it { self.staging.remove(&taking.shard) } else { None };
        let Some(staging) = staging else { return Err(missing) };
        let began = now();
        self.at_work_for = Some(taking.shard);
        let replaced = self.replace_by(taking, &staging.staged);
        self.at_work_for = None;
        if let Err(error) = replaced {
            self.staging.insert(taking.shard, staging);
            return Err(error);
        }
        SnapshotCounters::add(&taking.counters.installed, 1);
        let took = now().saturating_duration_since(began);
        tracing::info!(
            node = %taking.node, shard = %taking.shard, at = %snapshot.at.lsn, bytes = snapshot.bytes, ?took,
            "the state is replaced by a snapshot"
        );
        if let Err(error) = staging.staged.remove() {
            tracing::warn!(shard = %taking.shard, %error, "the parts of a snapshot that is installed could not be removed");
        }
        answer(&taking.events, Answer::Replaced(snapshot));
        Ok(())
    }

    fn replace_by(&mut self, taking: &Taking, staged: &Staged) -> Result<(), StagedError> {
        let mut stage = taking.stage.lock();
        let (shard, log) = (stage.applier.shard().clone(), taking.log);
        // Whoever reads from here on is told to come again.
        taking.positions.begin_replacing();
        let store = Arc::clone(stage.applier.store_mut().shared());
        replace(stage.applier.store_mut(), &shard, log, staged, || self.goes_on())?;
        // DURABLE: before the log is reset, which then holds nothing any more that would lead there (attacked by
        // `whatever_a_crash_leaves_of_a_replacement_is_finished_at_the_next_opening`).
        store.flush().map_err(SnapshotError::from)?;
        let applier = Applier::open(RocksWriter::new(store), shard, log)?;
        stage.applier = applier.with_seed(self.shared.host.seed);
        Ok(())
    }

    /// Parts for other shards, while one's are looked at, or its state is replaced. That may take longer than whoever gives a snapshot
    /// keeps one that nobody asks for, and then what is here of theirs would be of no use. So it is with one that is offered again.
    /// What comes for the shard itself waits.
    fn take_parts(&mut self) {
        self.line.extend(self.orders.try_iter());
        for _ in 0..self.line.len() {
            let Some(order) = self.line.pop_front() else { return };
            let is_others = order.of().is_some_and(|(taking, _)| Some(taking.shard) != self.at_work_for);
            match order {
                TakeOrder::Part { .. } | TakeOrder::Stage { .. } if is_others => self.carry_out(order),
                order => self.line.push_back(order),
            }
        }
    }
}

/// Replaces a shard's state by what is staged, part by part; not durable yet. What is begun and not finished is so at the next
/// opening.
pub(super) fn replace(
    writer: &mut RocksWriter,
    shard: &ShardDescriptor,
    log: LogId,
    staged: &Staged,
    mut goes_on: impl FnMut() -> bool,
) -> Result<(), StagedError> {
    let mut replacement = Replacement::begin(writer, shard, log, staged.id().at)?;
    staged.each(|part| {
        if !goes_on() {
            return Err(StagedError::Closing);
        }
        Ok(replacement.add(part)?)
    })?;
    Ok(replacement.finish()?)
}

fn descriptor(taking: &Taking) -> ShardDescriptor {
    taking.stage.lock().applier.shard().clone()
}

fn is_full(error: &StagedError) -> bool {
    matches!(error, StagedError::State(SnapshotError::Store(StoreError::DiskFull { .. } | StoreError::Stalled)))
}

fn free_bytes(directory: &std::path::Path) -> Result<u64, StagedError> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|error| StagedError::Io { path: directory.to_owned(), source: error.into() })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
#[path = "taker_test.rs"]
mod tests;

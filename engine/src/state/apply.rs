//! Apply: batches into the state, in LSN order, each record once, everything of one call in one change.

use super::change_set::ChangeSet;
use super::decodable::{BatchContentError, Content, walk};
use super::effects::Effects;
use super::key;
use super::store::{Family, Store, StoreError, View};
use crate::model::mutant::{Mutant, planted};
use crate::model::request::FailureClass;
use crate::model::{ControlRecord, Epoch, EpochStart, LogId, LogPosition, Lsn, Outcome, ShardDescriptor, ShardId};
use bytes::Bytes;
use towline_wal::Batch;

/// What became of one record.
///
/// ```
/// use towline::model::{Epoch, Expect, Outcome, Rejection, Write};
/// use towline::pipeline::{Sequencer, Submission};
/// # use towline::model::{LogId, NamespaceId, ShardDescriptor, ShardId};
/// # use towline::state::{Applier, MemStore};
/// # let log = LogId::new(1);
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut applier = Applier::open(MemStore::new(), shard, log)?;
/// let mut sequencer = Sequencer::new();
/// let lock = Write::new().expect("lock", Expect::Absent).put("lock", "taken");
/// for caller in ["anna", "bert"] {
///     sequencer.push(Submission::record(lock.record().encode()?, caller));
/// }
/// let sealed = sequencer.seal(log, Epoch::new(1, 1), applier.applied(), 0).expect("two wait");
/// let applied = applier.apply(&[sealed.batch])?;
/// assert_eq!(applied[0].outcome, Some(Outcome::Applied { version: 1 }));
/// assert_eq!(applied[1].outcome, Some(Outcome::Rejected(Rejection::Precondition { index: 0, actual: 1 })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its outcome; none for a record of replication itself.
    pub outcome: Option<Outcome>,
    /// Where the request was executed, if that was before this record: this one is a retry of it.
    pub executed: Option<(Epoch, Lsn)>,
}

/// Why a batch can't be applied. Nothing of the call was.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5401 | retry | apply what lies between, from the log |
/// | TW-5402, TW-5403 | operator | another log's state lies in this directory: move it away |
/// | TW-5404 | damage | the state is of a history that the log no longer has: rebuild it |
/// | TW-52xx, TW-53xx | | see [`StoreError`], [`BatchContentError`] |
///
/// ```
/// use towline::model::{Epoch, Lsn, request::FailureClass};
/// use towline::state::ApplyError;
/// # use towline::model::{LogId, LogPosition, NamespaceId, ShardDescriptor, ShardId, Write};
/// # use towline::state::{Applier, MemStore};
/// # use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};
/// # let log = LogId::new(1);
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let mut applier = Applier::open(MemStore::new(), shard, log)?;
/// # let put = Write::new().put("k", "v").into_record().encode()?;
/// # let batch_behind = |prev: LogPosition| {
/// #     let block = Block::encode(put.clone(), 1, Compression::Never);
/// #     BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), prev, 0).block(block).seal()
/// # };
/// let first = batch_behind(applier.applied())?;
/// let second = batch_behind(first.position())?;
/// let error = applier.apply(&[second.clone()]).unwrap_err();
/// assert_eq!(error, ApplyError::NotNext { applied: Lsn::ZERO, found: Lsn::new(2) });
/// assert_eq!((error.code(), error.class()), (5401, FailureClass::Retry));
/// // What lies between comes from the log. Nothing was done by the first try.
/// assert_eq!(applier.apply(&[first, second])?.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The batch is not the next one.
    #[error("the batch at LSN {found} is not the next one: the state holds LSN {applied}")]
    NotNext {
        /// What the state holds.
        applied: Lsn,
        /// The batch's first LSN.
        found: Lsn,
    },
    /// The state belongs to another log.
    #[error("the state is of log {found}, not of log {wanted}")]
    ForeignLog {
        /// The log wanted.
        wanted: LogId,
        /// The log found.
        found: LogId,
    },
    /// The log's `EpochStart` is of another shard.
    #[error("the epoch that starts at LSN {lsn} is of shard {found}, not of shard {wanted}")]
    ForeignShard {
        /// The LSN of the `EpochStart`.
        lsn: Lsn,
        /// The shard applied here.
        wanted: ShardId,
        /// The shard found.
        found: ShardId,
    },
    /// The state was made from a batch that ended at the same LSN and was another one (I2).
    #[error("the state is of another history: it holds {applied}, the log {found}")]
    Diverged {
        /// What the state holds.
        applied: LogPosition,
        /// What the log says of that LSN.
        found: LogPosition,
    },
    /// What the batch holds can't be applied by this release.
    #[error(transparent)]
    Content(#[from] BatchContentError),
    /// The state can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApplyError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::NotNext { .. } => 5401,
            Self::ForeignLog { .. } => 5402,
            Self::ForeignShard { .. } => 5403,
            Self::Diverged { .. } => 5404,
            Self::Content(content) => content.code(),
            Self::Store(store) => store.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::NotNext { .. } => FailureClass::Retry,
            Self::ForeignLog { .. } | Self::ForeignShard { .. } => FailureClass::Operator,
            Self::Diverged { .. } => FailureClass::Damage,
            Self::Content(content) => content.class(),
            Self::Store(store) => store.class(),
        }
    }

    /// As [`StoreError::remedy`].
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Store(store) => store.remedy(),
            Self::NotNext { .. }
            | Self::ForeignLog { .. }
            | Self::ForeignShard { .. }
            | Self::Diverged { .. }
            | Self::Content(_) => "",
        }
    }
}

/// Applies a shard's batches to its state.
///
/// The applied position is part of each change: what is on disk always knows how far it is, so that a replay
/// after a crash begins exactly there (otherwise a record would take effect twice).
///
/// ```
/// use towline::model::{Epoch, LogId, LogPosition, NamespaceId, Operation, Outcome, Record, ShardDescriptor, ShardId};
/// use towline::state::{Applier, MemStore, get_value};
/// use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// let (log, namespace) = (LogId::new(1), NamespaceId::new(1));
/// let shard = ShardDescriptor { shard: ShardId::new(1), namespace, start: vec![], end: vec![] };
/// let mut applier = Applier::open(MemStore::new(), shard, log)?;
///
/// let record = Record::of(vec![Operation::Put { key: "k".into(), value: "v".into() }]).encode()?;
/// let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), applier.applied(), 0)
///     .block(Block::encode(record, 1, Compression::Never))
///     .seal()?;
/// let applied = applier.apply(std::slice::from_ref(&batch))?;
/// assert_eq!(applied[0].outcome, Some(Outcome::Applied { version: 1 }));
/// assert_eq!(get_value(applier.store(), namespace, b"k")?, Some((1, "v".into())));
/// assert!(applier.apply(&[batch])?.is_empty(), "once");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Applier<S> {
    store: S,
    shard: ShardDescriptor,
    log: LogId,
    applied: LogPosition,
    /// Of one call; kept for its memory.
    changes: ChangeSet,
}

impl<S: Store> Applier<S> {
    /// The applier of a shard's state, which may be new. What the log last said of the shard's keys stands over
    /// `shard`.
    ///
    /// # Errors
    /// The state is of another log, or can't be read.
    pub fn open(store: S, shard: ShardDescriptor, log: LogId) -> Result<Self, ApplyError> {
        let applied = match store.get(Family::Meta, &key::applied_key(shard.shard))? {
            Some(entry) if !planted(Mutant::ApplyTwice) => {
                let (found, applied) = key::read_applied(&entry)?;
                if found != log {
                    return Err(ApplyError::ForeignLog { wanted: log, found });
                }
                applied
            }
            _ => LogPosition::origin(log),
        };
        let changes = ChangeSet::seeded(xxhash_rust::xxh3::xxh3_64(&log.as_u128().to_le_bytes()));
        let mut applier = Self { store, shard, log, applied, changes };
        if let Some((lsn, start)) = applier.epoch_start()? {
            applier.shard = applier.own_shard(lsn, &start)?;
        }
        Ok(applier)
    }

    /// The seed that it has.
    #[cfg(all(test, feature = "node"))]
    pub(crate) const fn seed(&self) -> u64 {
        self.changes.seed()
    }

    /// Takes a seed for the table of changes that no client can know, so that none can choose keys that collide there. No outcome
    /// hangs on it.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.changes = ChangeSet::seeded(seed);
        self
    }

    /// Applies batches in one change: the outcomes, in LSN order. Batches that are applied already are passed
    /// over, and have no outcome here.
    ///
    /// # Errors
    /// See [`ApplyError`]; the state is then as it was.
    pub fn apply(&mut self, batches: &[Batch]) -> Result<Vec<Applied>, ApplyError> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.clear();
        let outcomes = self.apply_to(&mut changes, batches);
        self.changes = changes;
        outcomes
    }

    fn apply_to(&mut self, changes: &mut ChangeSet, batches: &[Batch]) -> Result<Vec<Applied>, ApplyError> {
        let records = batches.iter().map(|batch| batch.header().record_count as usize).sum();
        let mut outcomes = Vec::with_capacity(records);
        let (mut applied, mut shard) = (self.applied, self.shard.clone());
        for batch in batches {
            if batch.last_lsn() <= applied.lsn {
                let found = batch.position();
                if found.lsn == applied.lsn && found != applied {
                    return Err(ApplyError::Diverged { applied, found });
                }
                continue;
            }
            if batch.log() != self.log {
                return Err(ApplyError::ForeignLog { wanted: self.log, found: batch.log() });
            }
            if !batch.follows(&applied) {
                return Err(ApplyError::NotNext { applied: applied.lsn, found: batch.first_lsn() });
            }
            walk(batch, |lsn, content| {
                let mut effects = Effects { store: &self.store, changes: &mut *changes, shard: &shard, log: self.log };
                let mut executed = None;
                let outcome = match content {
                    Content::Record(record, _) if record.request.session == 0 => Some(effects.operations(lsn, record)?),
                    Content::Record(record, fingerprint) => {
                        let found = effects.request(batch.epoch(), lsn, record, fingerprint)?;
                        executed = (found.lsn != lsn).then_some((found.epoch, found.lsn));
                        Some(found.outcome)
                    }
                    Content::Control(ControlRecord::OpenSession { sessions_max }, _) => {
                        Some(effects.open_session(batch.epoch(), lsn, *sessions_max)?)
                    }
                    Content::Control(ControlRecord::CloseSession { session }, _) => {
                        Some(effects.close_session(*session)?)
                    }
                    Content::Control(ControlRecord::Trim { sessions_before, rejected_before }, _) => {
                        Some(effects.trim(*sessions_before, *rejected_before)?)
                    }
                    Content::Control(ControlRecord::EpochStart(start), raw) => {
                        shard = self.own_shard(lsn, start)?;
                        self.note_epoch_start(lsn, raw, changes);
                        None
                    }
                };
                outcomes.push(Applied { lsn, outcome, executed });
                Ok::<(), ApplyError>(())
            })?;
            applied = batch.position();
        }
        if applied != self.applied {
            let entry = key::applied_entry(self.log, applied);
            changes.put(Family::Meta, key::applied_key(self.shard.shard), entry);
            self.store.commit(changes)?;
            self.applied = applied;
            self.shard = shard;
        }
        Ok(outcomes)
    }

    /// The state, to flush it.
    pub const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Gives the state back.
    #[must_use]
    pub fn into_store(self) -> S {
        self.store
    }

    /// How far the state is.
    #[must_use]
    pub const fn applied(&self) -> LogPosition {
        self.applied
    }

    /// What the shard holds, as the log last said.
    #[must_use]
    pub const fn shard(&self) -> &ShardDescriptor {
        &self.shard
    }

    /// The state.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The last `EpochStart` applied, and its LSN.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn epoch_start(&self) -> Result<Option<(Lsn, EpochStart)>, ApplyError> {
        last_epoch_start(&self.store, self.shard.shard)
    }

    fn own_shard(&self, lsn: Lsn, start: &EpochStart) -> Result<ShardDescriptor, ApplyError> {
        let found = &start.assignment.shard;
        if (found.shard, found.namespace) == (self.shard.shard, self.shard.namespace) {
            return Ok(found.clone());
        }
        Err(ApplyError::ForeignShard { lsn, wanted: self.shard.shard, found: found.shard })
    }

    fn note_epoch_start(&self, lsn: Lsn, raw: &Bytes, changes: &mut ChangeSet) {
        let key = key::epoch_start_key(self.shard.shard);
        changes.put(Family::Meta, key, key::epoch_start_entry(lsn, raw));
    }
}

/// The last `EpochStart` of a shard that a state holds, and its LSN: for who reads beside the applier.
pub(crate) fn last_epoch_start(view: &impl View, shard: ShardId) -> Result<Option<(Lsn, EpochStart)>, ApplyError> {
    let Some(entry) = view.get(Family::Meta, &key::epoch_start_key(shard))? else {
        return Ok(None);
    };
    let (lsn, envelope) = key::read_epoch_start(&entry)?;
    let record = ControlRecord::decode(envelope).map_err(|source| BatchContentError::Control { lsn, source })?;
    match record {
        ControlRecord::EpochStart(start) => Ok(Some((lsn, start))),
        _ => Err(StoreError::Entry { family: Family::Meta.name(), found: 1, bytes: entry.len() }.into()),
    }
}

//! Committed batches into the state, outcomes to whoever waits for them, in bulk.
//!
//! Each shard has an [`ApplyStage`], used by one thread at a time: by one of the appliers' own, and by the shard's
//! sequencer while nothing else is going on (a hand-over costs more than a small write).

use super::completion::Completion;
use super::positions::Positions;
use super::shard::{Event, now};
use super::stages::Stages;
use super::stats::Counters;
use super::unapplied::{ApplyTask, Part, Portion, answers};
use crate::model::limits::CATCH_UP_READ_BYTES;
use crate::model::{LogPosition, Lsn, Outcome};
use crate::state::{Applier, ApplyError, RocksWriter, StoreError};
use crossbeam::channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use towline_wal::{Batch, ReadError, Wal};

/// What a task came to: the position applied, or why the shard stops.
pub(super) type Applied = Result<LogPosition, ApplierError>;

/// Why nothing more can be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ApplierError {
    /// A batch can't be applied, or the state can't be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A committed batch can't be read from the log.
    #[error("a committed batch can't be read: {0}")]
    Read(#[from] ReadError),
    /// The log has no batch where one was committed.
    #[error("the log has no batch behind LSN {after} that ends at or before LSN {until}, which is committed")]
    Missing { after: Lsn, until: Lsn },
}

/// The applier with what it needs: the one way into the state.
pub(super) struct ApplyStage {
    pub(super) applier: Applier<RocksWriter>,
    pub(super) wal: Arc<Wal>,
    pub(super) log: towline_wal::LogId,
    pub(super) positions: Arc<Positions>,
    pub(super) counters: Arc<Counters>,
    pub(super) stages: Arc<Stages>,
}

impl ApplierError {
    fn is_full_disk(&self) -> bool {
        matches!(self, Self::Apply(ApplyError::Store(StoreError::DiskFull { .. })))
    }

    /// What whoever runs the node does about it, to be read behind the error.
    pub(super) const fn remedy(&self) -> &'static str {
        match self {
            Self::Apply(error) => error.remedy(),
            Self::Read(_) | Self::Missing { .. } => "",
        }
    }
}

/// What came of applying.
pub(super) enum Attempt {
    Done(Applied),
    /// The state takes no writes for a moment, and the caller was not to wait: nothing was applied.
    Stalled(Vec<Part>),
    /// The disk of the state is full: nothing was applied, and everybody still waits.
    Full(ApplyTask),
    /// The log can't be read at this moment, and nothing is known to be wrong with it: no descriptor was left, perhaps.
    Unread(ApplyTask, ReadError),
}

impl Attempt {
    /// Of what was to be read between two positions, and applied.
    fn of_range(after: Lsn, until: Lsn, applied: Applied) -> Self {
        match applied {
            Err(error) if error.is_full_disk() => Self::Full(ApplyTask::Range { after, until }),
            Err(ApplierError::Read(ReadError::Io(failure))) if failure.is_refusal() => {
                Self::Unread(ApplyTask::Range { after, until }, ReadError::Io(failure))
            }
            applied => Self::Done(applied),
        }
    }
}

impl ApplyStage {
    fn task(&mut self, task: ApplyTask) -> Attempt {
        match task {
            ApplyTask::Parts(parts) => {
                let applied = self.apply(&parts);
                self.answer(parts, applied)
            }
            ApplyTask::Range { after, until } => Attempt::of_range(after, until, self.range(after, until)),
            #[cfg(test)]
            ApplyTask::Explode => std::panic::panic_any("on purpose"),
        }
    }

    /// Applies these batches, unless the state would make the caller wait.
    pub(super) fn attempt(&mut self, parts: Vec<Part>) -> Attempt {
        self.applier.store_mut().set_waits(false);
        let applied = self.apply(&parts);
        self.applier.store_mut().set_waits(true);
        match applied {
            Err(ApplyError::Store(StoreError::Stalled)) => Attempt::Stalled(parts),
            applied => self.answer(parts, applied),
        }
    }

    fn apply(&mut self, parts: &[Part]) -> Result<Vec<crate::state::Applied>, ApplyError> {
        let batches: Vec<Batch> = parts.iter().map(|part| part.batch.clone()).collect();
        let from = now();
        let applied = self.apply_batches(&batches)?;
        self.stages.applied(parts.iter().map(|part| &part.times), from, now());
        Ok(applied)
    }

    fn apply_batches(&mut self, batches: &[Batch]) -> Result<Vec<crate::state::Applied>, ApplyError> {
        let _span = tracing::trace_span!("apply", log = %self.log, batches = batches.len()).entered();
        let applied = self.applier.apply(batches)?;
        let bytes = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
        let had_outcome = applied.iter().filter_map(|applied| applied.outcome);
        let (records, rejected) = had_outcome.fold((0, 0), |(records, rejected), outcome| {
            (records + 1, rejected + u64::from(matches!(outcome, Outcome::Rejected(_))))
        });
        self.counters.applied(batches.len() as u64, bytes, records, rejected);
        Ok(applied)
    }

    /// Everybody hears what became of their write; the position is seen by then, so that who reads after an answer
    /// reads the write.
    fn answer(&self, parts: Vec<Part>, applied: Result<Vec<crate::state::Applied>, ApplyError>) -> Attempt {
        let outcomes = match applied.map_err(ApplierError::from) {
            Ok(outcomes) => outcomes,
            // They are committed: what comes of them is known once there is room.
            Err(error) if error.is_full_disk() => return Attempt::Full(ApplyTask::Parts(parts)),
            Err(error) => {
                Completion::unknown_all(parts.into_iter().flat_map(|part| part.completions));
                return Attempt::Done(Err(error));
            }
        };
        let position = self.publish();
        Completion::written(answers(self.applier.shard().shard, parts, outcomes));
        Attempt::Done(Ok(position))
    }

    fn range(&mut self, after: Lsn, until: Lsn) -> Applied {
        let mut batches = self.wal.read(self.log, after.next(), CATCH_UP_READ_BYTES)?;
        let mut portion = Portion::new(CATCH_UP_READ_BYTES);
        batches.retain(|batch| batch.last_lsn() <= until && portion.takes(batch));
        if batches.is_empty() {
            return Err(ApplierError::Missing { after, until });
        }
        self.apply_batches(&batches)?;
        Ok(self.publish())
    }

    fn publish(&self) -> LogPosition {
        let position = self.applier.applied();
        self.positions.set_applied(position.lsn);
        position
    }
}

/// What an applier is told.
pub(super) enum ApplyOrder {
    /// A task of one shard, and whom to tell when it is done.
    Apply {
        stage: Arc<Mutex<ApplyStage>>,
        task: ApplyTask,
        events: super::Inbox,
        /// The shard has not ended before this is done.
        alive: Sender<Infallible>,
    },
    /// No shard has any more.
    End,
}

pub(super) struct ApplierThread {
    pub(super) orders: Receiver<ApplyOrder>,
}

impl ApplierThread {
    /// What its thread is called.
    pub(super) const NAME: &'static str = "towline-apply";

    /// Runs until it is told to end.
    pub(super) fn run(self) {
        while let Ok(ApplyOrder::Apply { stage, task, events, alive }) = self.orders.recv() {
            // One shard's panic is that shard's end: the others go on. What it left half done is in no state: a change is
            // made in one step.
            let attempt = catch_unwind(AssertUnwindSafe(|| {
                // Free: the shard's sequencer applies only while no task is out.
                stage.lock().task(task)
            }));
            drop(stage);
            drop(alive);
            events.send(attempt.map_or(Event::Panicked(Self::NAME), Event::Applied));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::APPLY_RAW_BYTES_MAX;
    use crate::model::{Epoch, LogId, NamespaceId, Operation, Record, ShardDescriptor};
    use crate::node::SHARD;
    use crate::state::RocksStore;
    use bytes::Bytes;
    use towline_wal::io::IoFailure;
    use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Entry, Options};

    /// A replay of what shrinks well had 1 MiB of the log, and all that it holds, in one change.
    #[test]
    fn a_replay_is_applied_in_portions_that_are_bounded_uncompressed_and_none_is_left_out() {
        const VALUE: usize = 3 << 20;
        const COUNT: u64 = 20;
        let directory = tempfile::tempdir().unwrap();
        let log = LogId::new(1);
        let (wal, _) = Wal::open(directory.path().join("log"), Options::default()).unwrap();
        let mut prev = LogPosition::origin(log);
        for number in 0..COUNT {
            let value = Bytes::from(vec![7; VALUE]);
            let record = Record::of(vec![Operation::Put { key: number.to_string().into(), value }]).encode().unwrap();
            let block = Block::encode(record, 1, Compression::WhereItPays);
            let builder = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), prev, 0);
            let batch = builder.block(block).seal().unwrap();
            prev = batch.position();
            wal.submit(vec![Entry::Batch(batch)]).unwrap().wait().unwrap();
        }
        let store = Arc::new(RocksStore::open(&directory.path().join("state")).unwrap());
        let namespace = NamespaceId::new(1);
        let shard = ShardDescriptor { shard: SHARD, namespace, start: Vec::new(), end: Vec::new() };
        let mut stage = ApplyStage {
            applier: Applier::open(RocksWriter::new(store), shard, log).unwrap(),
            wal: Arc::new(wal),
            log,
            positions: Arc::new(Positions::new(Lsn::ZERO)),
            counters: Arc::default(),
            stages: Arc::default(),
        };
        let (mut applied, mut portions) = (Lsn::ZERO, 0);
        while applied < prev.lsn {
            let reached = stage.range(applied, prev.lsn).unwrap().lsn;
            let raw_bytes = (reached.get() - applied.get()) as usize * VALUE;
            assert!(raw_bytes < APPLY_RAW_BYTES_MAX + VALUE, "{raw_bytes} bytes at once");
            assert_eq!(stage.positions.applied(), reached);
            (applied, portions) = (reached, portions + 1);
        }
        assert!(portions < COUNT, "several go together: {portions}");
        let until = Lsn::new(applied.get() + 1);
        assert!(matches!(stage.range(applied, until), Err(ApplierError::Missing { .. })));
    }

    /// It was the shard's end, although nothing is wrong with the log.
    #[test]
    fn what_the_system_refuses_to_read_is_tried_again_and_what_is_damaged_is_not() {
        let (after, until) = (Lsn::FIRST, Lsn::new(9));
        let no_descriptor = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let refused = ReadError::Io(IoFailure::from_error(&no_descriptor, "open", "a segment"));
        let again = Attempt::of_range(after, until, Err(ApplierError::Read(refused)));
        let Attempt::Unread(ApplyTask::Range { after: from, until: to }, _) = again else {
            panic!("it is tried again")
        };
        assert_eq!((from, to), (after, until));
        let damaged =
            ReadError::Corrupt { log: LogId::new(1), first: after, last: after, file: "a segment".into(), offset: 0 };
        let ended = Attempt::of_range(after, until, Err(ApplierError::Read(damaged)));
        assert!(matches!(ended, Attempt::Done(Err(ApplierError::Read(ReadError::Corrupt { .. })))));
    }
}

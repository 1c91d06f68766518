//! Committed batches into the state, outcomes to whoever waits for them, in bulk.
//!
//! [`ApplyStage`] is used by one thread at a time: by the applier's own, and by the shard's while nothing else is
//! going on (a hand-over costs more than a small write).

use super::completion::Completion;
use super::shard::{Event, Positions};
use super::unapplied::{ApplyTask, Part, answers};
use crate::model::LogPosition;
use crate::model::Lsn;
use crate::model::limits::CATCH_UP_READ_BYTES;
use crate::state::{Applier, ApplyError, RocksWriter, StoreError};
use crossbeam::channel::Receiver;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
}

/// What came of applying without waiting.
pub(super) enum Attempt {
    Done(Applied),
    /// The state takes no writes for a moment: nothing was applied.
    Stalled(Vec<Part>),
}

impl ApplyStage {
    fn task(&mut self, task: ApplyTask) -> Applied {
        match task {
            ApplyTask::Parts(parts) => {
                let applied = self.apply(&parts);
                self.answer(parts, applied)
            }
            ApplyTask::Range { after, until } => self.range(after, until),
        }
    }

    /// Applies these batches, unless the state would make the caller wait.
    pub(super) fn attempt(&mut self, parts: Vec<Part>) -> Attempt {
        self.applier.store_mut().set_waits(false);
        let applied = self.apply(&parts);
        self.applier.store_mut().set_waits(true);
        match applied {
            Err(ApplyError::Store(StoreError::Stalled)) => Attempt::Stalled(parts),
            applied => Attempt::Done(self.answer(parts, applied)),
        }
    }

    fn apply(&mut self, parts: &[Part]) -> Result<Vec<crate::state::Applied>, ApplyError> {
        let batches: Vec<Batch> = parts.iter().map(|part| part.batch.clone()).collect();
        self.applier.apply(&batches)
    }

    /// Everybody hears what became of their write; the position is seen by then, so that who reads after an answer
    /// reads the write.
    fn answer(&self, parts: Vec<Part>, applied: Result<Vec<crate::state::Applied>, ApplyError>) -> Applied {
        let outcomes = match applied {
            Ok(outcomes) => outcomes,
            Err(error) => {
                parts.into_iter().flat_map(|part| part.completions).for_each(Completion::unknown);
                return Err(error.into());
            }
        };
        let position = self.publish();
        Completion::written(answers(parts, outcomes));
        Ok(position)
    }

    fn range(&mut self, after: Lsn, until: Lsn) -> Applied {
        let mut batches = self.wal.read(self.log, after.next(), CATCH_UP_READ_BYTES)?;
        batches.retain(|batch| batch.last_lsn() <= until);
        if batches.is_empty() {
            return Err(ApplierError::Missing { after, until });
        }
        self.applier.apply(&batches)?;
        Ok(self.publish())
    }

    fn publish(&self) -> LogPosition {
        let position = self.applier.applied();
        self.positions.applied.store(position.lsn.get(), Ordering::Release);
        position
    }
}

pub(super) struct ApplierThread {
    pub(super) stage: Arc<Mutex<ApplyStage>>,
    pub(super) tasks: Receiver<ApplyTask>,
    pub(super) events: super::Inbox,
}

impl ApplierThread {
    /// Runs until the shard's thread hangs up; then flushes the state, so that the next open replays little.
    pub(super) fn run(self) {
        while let Ok(task) = self.tasks.recv() {
            // Free: the shard's thread applies only while no task is out.
            let applied = self.stage.lock().task(task);
            self.events.send(Event::Applied(applied));
        }
        if let Err(error) = self.stage.lock().applier.store().shared().flush() {
            tracing::warn!(%error, "the state was not flushed; the log replays it");
        }
    }
}

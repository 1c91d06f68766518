//! The applier's thread: committed batches into the state, outcomes to whoever waits for them, in bulk.

use super::completion::{Completion, Written};
use super::shard::Event;
use crate::model::limits::CATCH_UP_READ_BYTES;
use crate::model::{LogPosition, Lsn};
use crate::state::{Applier, ApplyError, RocksStore};
use crossbeam::channel::Receiver;
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
}

/// A batch with those who wait for its records.
pub(super) struct Part {
    pub(super) batch: Batch,
    pub(super) completions: Vec<Completion>,
}

/// One task of the applier.
pub(super) enum ApplyTask {
    /// Apply these batches.
    Parts(Vec<Part>),
    /// Read from the log behind `after`, and apply what ends at or before `until`.
    Range { after: Lsn, until: Lsn },
}

/// The state that the applier writes and readers share.
pub(super) type NodeState = Arc<RocksStore>;

pub(super) struct ApplierThread {
    pub(super) applier: Applier<NodeState>,
    pub(super) wal: Arc<Wal>,
    pub(super) log: towline_wal::LogId,
    pub(super) tasks: Receiver<ApplyTask>,
    pub(super) events: super::Inbox,
}

impl ApplierThread {
    /// Runs until the shard's thread hangs up; then flushes the state, so that the next open replays little.
    pub(super) fn run(mut self) {
        while let Ok(task) = self.tasks.recv() {
            let result = match task {
                ApplyTask::Parts(parts) => self.parts(parts),
                ApplyTask::Range { after, until } => self.range(after, until),
            };
            self.events.send(Event::Applied(result.map(|()| self.applier.applied())));
        }
        if let Err(error) = self.applier.store().flush() {
            tracing::warn!(%error, "the state was not flushed; the log replays it");
        }
    }

    fn parts(&mut self, parts: Vec<Part>) -> Result<(), ApplierError> {
        let batches: Vec<Batch> = parts.iter().map(|part| part.batch.clone()).collect();
        let outcomes = match self.applier.apply(&batches) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                parts.into_iter().flat_map(|part| part.completions).for_each(Completion::unknown);
                return Err(error.into());
            }
        };
        let mut outcomes = outcomes.into_iter();
        for part in parts {
            let epoch = part.batch.epoch();
            let count = part.batch.header().record_count as usize;
            let mut completions = part.completions.into_iter();
            for applied in outcomes.by_ref().take(count) {
                if let (Some(completion), Some(outcome)) = (completions.next(), applied.outcome) {
                    completion.written(Written { epoch, lsn: applied.lsn, outcome });
                }
            }
        }
        Ok(())
    }

    fn range(&mut self, after: Lsn, until: Lsn) -> Result<(), ApplierError> {
        let mut batches = self.wal.read(self.log, after.next(), CATCH_UP_READ_BYTES)?;
        batches.retain(|batch| batch.last_lsn() <= until);
        self.applier.apply(&batches)?;
        Ok(())
    }
}

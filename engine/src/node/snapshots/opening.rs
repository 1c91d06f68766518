//! What a crash in the middle of a replacement left is finished before the shard is served.

use super::staged::{Staged, StagedError, remove_files};
use super::{taken, taker};
use crate::model::request::FailureClass;
use crate::model::{LogId, LogPosition, Lsn, ShardDescriptor};
use crate::node::hosting::Host;
use crate::node::open::OpenError;
use crate::replica::{InstallMark, LogView, Opening};
use crate::state::{RocksStore, RocksWriter, SnapshotError, replacing_of};
use std::path::PathBuf;
use std::sync::Arc;
use towline_wal::{Entry, HardStateKind, WalError};

/// A crash came while the state was being replaced by a snapshot, and that can't be finished: it is neither the old nor the
/// new one.
///
/// ```
/// use towline::node::{HalfReplaced, OpenError};
/// // What is wrong with the parts, which lie in the directory `snapshots`, its sentence says.
/// fn half(error: &OpenError) -> Option<&HalfReplaced> {
///     if let OpenError::HalfReplaced(half) = error { Some(half) } else { None }
/// }
/// # let directory = tempfile::tempdir()?;
/// # std::fs::write(directory.path().join("file"), "")?;
/// # let refused = towline::node::Node::open(towline::node::NodeOptions::alone(directory.path().join("file")));
/// # assert!(half(&refused.map(drop).unwrap_err()).is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error(
    "the state was being replaced by a snapshot at LSN {at} when the node ended, and that can't be finished: {source}"
)]
pub struct HalfReplaced {
    at: Lsn,
    class: FailureClass,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl HalfReplaced {
    fn of(at: Lsn, error: StagedError) -> Self {
        Self { at, class: error.class(), source: Box::new(error) }
    }

    pub(in crate::node) const fn class(&self) -> FailureClass {
        self.class
    }
}

/// The state is whole again, if the parts are.
pub(in crate::node) fn finish(
    host: &Host,
    store: &Arc<RocksStore>,
    shard: &ShardDescriptor,
    log: LogId,
) -> Result<(), OpenError> {
    // Of another log: who opens the state says so.
    let Some((_, at)) = replacing_of(&**store, shard.shard)?.filter(|(found, _)| *found == log) else { return Ok(()) };
    let directory = taken(&host.directory, shard.shard);
    let half = |error: StagedError| OpenError::HalfReplaced(HalfReplaced::of(at.lsn, error));
    tracing::info!(shard = %shard.shard, at = %at.lsn, "the state was being replaced by a snapshot: that is finished first");
    let staged = Staged::open(&directory, || true).map_err(half)?.filter(|staged| staged.id().at == at);
    let staged = staged.ok_or_else(|| half(missing(directory, at.lsn)))?;
    let mut writer = RocksWriter::new(Arc::clone(store));
    taker::replace(&mut writer, shard, log, &staged, || true).map_err(half)?;
    // DURABLE: before the log is reset (attacked by
    // `whatever_a_crash_leaves_of_a_replacement_is_finished_at_the_next_opening`).
    store.flush().map_err(|error| half(SnapshotError::from(error).into()))?;
    Ok(())
}

fn missing(path: PathBuf, at: Lsn) -> StagedError {
    StagedError::Missing { path, at }
}

/// The log goes with the state: if a snapshot replaced that, it begins there. Then nothing of one is under way any more.
pub(in crate::node) fn settle(
    host: &Host,
    shard: &ShardDescriptor,
    log: LogId,
    applied: LogPosition,
    view: &dyn LogView,
) -> Result<(), OpenError> {
    let mark = host.wal.hard_state(log, HardStateKind::Snapshot);
    let unread = |source| HalfReplaced { at: applied.lsn, class: FailureClass::Damage, source: Box::new(source) };
    let mark = mark.map_or(Ok(InstallMark::NONE), |bytes| InstallMark::decode(&bytes)).map_err(unread)?;
    let (start, end) = (view.start(), view.end());
    let no_mark =
        || InstallMark::NONE.encode().map(|bytes| Entry::HardState { log, kind: HardStateKind::Snapshot, bytes });
    let entries = match mark.opening(applied, (start, end), view.position_at(applied.lsn)) {
        Opening::Whole => Vec::new(),
        Opening::Forget => vec![no_mark()?],
        Opening::Reset(to) => {
            tracing::info!(shard = %shard.shard, at = %to.lsn, "the state came from a snapshot: the log begins behind it");
            vec![Entry::Reset { log, to }, no_mark()?]
        }
        Opening::LogLost => return Err(OpenError::RolledBack { applied: applied.lsn, end: end.lsn }),
        Opening::StateLost => return Err(OpenError::StateLost { applied: applied.lsn, start: start.lsn }),
    };
    if !entries.is_empty() {
        host.wal.submit(entries).map_err(WalError::from)?.wait()?;
    }
    // One that is not newer than the state is of no use any more.
    let directory = taken(&host.directory, shard.shard);
    let is_over = match Staged::offered(&directory) {
        Ok(offered) => offered.is_some_and(|offered| offered.at.lsn <= applied.lsn),
        // Whoever is offered it again looks again.
        Err(error) if error.may_pass() => false,
        Err(error) => {
            tracing::warn!(shard = %shard.shard, %error, "what was staged of a snapshot is of no use: it is removed");
            true
        }
    };
    if is_over && let Err(error) = remove_files(&directory) {
        tracing::warn!(shard = %shard.shard, %error, "the parts of a snapshot could not be removed");
    }
    Ok(())
}

#[cfg(test)]
#[path = "opening_test.rs"]
mod tests;

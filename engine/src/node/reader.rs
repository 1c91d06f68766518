//! The log's reader: cold reads for followers that are behind, away from the sequencers' threads.

use super::shard::Event;
use crate::model::{LogPosition, NodeId};
use crate::replica::ReadPurpose;
use crossbeam::channel::Receiver;
use std::sync::Arc;
use towline_wal::{LogId, ReadError, Wal};

/// Read batches behind a position, for a peer.
pub(super) struct ReadTask {
    pub(super) log: LogId,
    pub(super) events: super::Inbox,
    pub(super) peer: NodeId,
    pub(super) session: u64,
    pub(super) purpose: ReadPurpose,
    pub(super) after: LogPosition,
    pub(super) bytes_max: usize,
}

pub(super) enum ReadOrder {
    Read(ReadTask),
    End,
}

pub(super) struct ReaderThread {
    pub(super) wal: Arc<Wal>,
    pub(super) orders: Receiver<ReadOrder>,
}

impl ReaderThread {
    /// Runs until it is told to end.
    pub(super) fn run(self) {
        while let Ok(ReadOrder::Read(task)) = self.orders.recv() {
            let ReadTask { log, events, peer, session, purpose, after, bytes_max } = task;
            let batches = match self.wal.read(log, after.lsn.next(), bytes_max) {
                Ok(batches) => batches,
                Err(error) => {
                    if matches!(error, ReadError::Corrupt { .. }) {
                        events.send(Event::DamageFound);
                    }
                    // A follower never gets bad bytes (D13); it stays where it is until the range is there again.
                    tracing::error!(%peer, after = %after.lsn, %error, "the log can't be read for a follower");
                    Vec::new()
                }
            };
            events.send(Event::LogRead { peer, session, purpose, after, batches });
        }
    }
}

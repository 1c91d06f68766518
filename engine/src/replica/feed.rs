//! What a leader sends its followers: batches as they are sealed, many in flight, bounded by bytes; from memory
//! while a follower is near, from the log when it is behind.

use super::progress::Progress;
use super::{LogView, Output, ReadPurpose, Replica};
use crate::model::limits::{APPEND_BATCHES_MAX, BATCH_BYTES_TARGET, CATCH_UP_READ_BYTES, TAIL_BYTES};
use crate::model::{LogPosition, Lsn, Message, NodeId};
use std::collections::VecDeque;
use towline_wal::Batch;

impl Replica {
    pub(super) fn feed_all(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leadership) = &self.leadership else { return };
        if !leadership.is_feeding() {
            return;
        }
        let peers: Vec<NodeId> = leadership.progress.keys().copied().collect();
        for peer in peers {
            self.feed(peer, log, out);
        }
        self.trim_tail();
    }

    /// Sends one follower what its window takes.
    pub(super) fn feed(&mut self, peer: NodeId, log: &dyn LogView, out: &mut Vec<Output>) {
        let (end, commit) = (self.end, self.committed);
        let Some(leadership) = self.leadership.as_mut().filter(|l| l.is_feeding()) else { return };
        let epoch = leadership.assignment.epoch;
        let Some(progress) = leadership.progress.get_mut(&peer).filter(|p| p.is_connected()) else { return };
        while let Some(prev) = progress.sent() {
            let waits = progress.is_reading() || progress.awaits_snapshot();
            if prev.lsn >= end.lsn || progress.window() == 0 || waits {
                break;
            }
            let batches = from_tail(&leadership.tail, prev.lsn, progress.window());
            let Some(last) = batches.last().map(Batch::position) else {
                if prev.lsn < log.start().lsn {
                    progress.note_gap();
                    out.push(Output::TakeSnapshot { peer, epoch });
                    break;
                }
                // Not in memory: from the log, as far as it is written there. What was adopted a moment ago may not
                // be; then nothing comes, and it is fed when it is durable.
                progress.note_reading(true);
                let bytes_max = CATCH_UP_READ_BYTES.min(progress.window());
                out.push(Output::ReadLog { peer, after: prev, bytes_max, purpose: ReadPurpose::CatchUp });
                break;
            };
            let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
            progress.note_sent(last, bytes, commit);
            out.push(Output::Send { to: peer, message: Message::Append { epoch, prev, commit, batches } });
        }
        if let Some(prev) = progress.sent().filter(|_| progress.wants_commit(commit)) {
            progress.note_sent(prev, 0, commit);
            let message = Message::Append { epoch, prev, commit, batches: Vec::new() };
            out.push(Output::Send { to: peer, message });
        }
    }

    /// Batches came from the log for a follower that is behind.
    pub(super) fn feed_read(
        &mut self,
        peer: NodeId,
        after: LogPosition,
        batches: Vec<Batch>,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let (commit, end) = (self.committed, self.end);
        let Some(leadership) = self.leadership.as_mut() else { return };
        let epoch = leadership.assignment.epoch;
        let Some(progress) = leadership.progress.get_mut(&peer) else { return };
        if !progress.is_connected() || !progress.is_reading() || progress.sent() != Some(after) {
            return; // Asked before the connection was lost, or before feeding began again elsewhere.
        }
        progress.note_reading(false);
        let fits = batches.first().is_some_and(|batch| batch.follows(&after));
        if fits && batches.last().is_some_and(|last| last.last_lsn() <= end.lsn) {
            // A read is bounded by bytes, a message by its batches as well: small ones take several.
            let mut prev = after;
            for batches in batches.chunks(APPEND_BATCHES_MAX) {
                let bytes = batches.iter().map(|batch| batch.bytes().len()).sum();
                let last = batches.last().map_or(prev, Batch::position);
                progress.note_sent(last, bytes, commit);
                let message = Message::Append { epoch, prev, commit, batches: batches.to_vec() };
                out.push(Output::Send { to: peer, message });
                prev = last;
            }
            self.feed(peer, log, out);
        } else if after.lsn < log.start().lsn {
            self.feed(peer, log, out); // It was released since.
        }
    }

    /// Drops from memory what all who are fed have (where nobody is, everything), and where the rest is too much the oldest batches; but
    /// none that is not durable here: those can't be read yet. So a leader keeps nothing while all is well and nobody writes.
    pub(super) fn trim_tail(&mut self) {
        let durable = self.durable.lsn;
        let Some(leadership) = self.leadership.as_mut() else { return };
        let had_by_all = leadership.progress.values().map(Progress::durable).min().unwrap_or(Lsn::MAX);
        let may_go = |batch: &mut Batch, is_too_much: bool| {
            batch.last_lsn() <= durable && (is_too_much || batch.last_lsn() <= had_by_all)
        };
        loop {
            let is_too_much = leadership.tail_bytes > TAIL_BYTES;
            let Some(batch) = leadership.tail.pop_front_if(|batch| may_go(batch, is_too_much)) else { break };
            leadership.tail_bytes -= batch.bytes().len();
            leadership.tail_after = Some(batch.position());
        }
        if leadership.tail.is_empty() {
            leadership.tail = VecDeque::new(); // Thousands of idle shards hold no room for it either.
        }
    }
}

/// The batches behind `lsn` that are in memory, as many as one message takes; none if the first is not there.
fn from_tail(tail: &VecDeque<Batch>, lsn: Lsn, window: usize) -> Vec<Batch> {
    let first = tail.partition_point(|batch| batch.first_lsn() <= lsn);
    let mut batches = Vec::new();
    let mut bytes = 0;
    for batch in tail.range(first..).take(APPEND_BATCHES_MAX) {
        let fits = bytes + batch.bytes().len() <= window.min(BATCH_BYTES_TARGET);
        let follows = batches.last().map_or(lsn, Batch::last_lsn).next() == batch.first_lsn();
        if !follows || !(fits || batches.is_empty()) {
            break;
        }
        bytes += batch.bytes().len();
        batches.push(batch.clone());
    }
    batches
}

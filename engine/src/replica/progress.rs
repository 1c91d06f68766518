//! What a leader knows of one follower: what it was sent, what it holds, what is on the way.

use crate::model::limits::FOLLOWER_WINDOW_BYTES;
use crate::model::{LogPosition, Lsn};
use std::collections::VecDeque;

/// A follower (or learner), as its leader sees it.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    connected: bool,
    /// Whether what it says is the word of the disk that has the vote (I1, I3), if it has one.
    counts: bool,
    /// Everything up to here was sent on the present connection; none until the follower's promise is here.
    sent: Option<LogPosition>,
    /// The most that was ever sent on the present connection: when feeding begins again further back, what was sent before
    /// may be acknowledged all the same.
    reached: Lsn,
    /// Durable there and equal to this leader's log, said in this epoch.
    durable: Lsn,
    /// The commit position that it was told last; none until it is told one, since feeding began (again).
    commit_told: Option<Lsn>,
    /// Sent and not yet durable there: last LSN and bytes of each message.
    in_flight: VecDeque<(Lsn, usize)>,
    in_flight_bytes: usize,
    /// A read of the log for it is under way.
    reading: bool,
    /// It needs what the log holds no more: it is sent nothing until it has a snapshot and says so.
    awaits_snapshot: bool,
}

impl Progress {
    pub(super) const fn new(connected: bool, counts: bool) -> Self {
        Self {
            connected,
            counts,
            sent: None,
            reached: Lsn::ZERO,
            durable: Lsn::ZERO,
            commit_told: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            reading: false,
            awaits_snapshot: false,
        }
    }

    /// A connection came: what was on the way is unknown, so the follower is asked again. Another disk holds nothing of what the
    /// one before acknowledged.
    pub(super) fn connect(&mut self, counts: bool) {
        let durable = if counts == self.counts { self.durable } else { Lsn::ZERO };
        *self = Self { durable, ..Self::new(true, counts) };
    }

    /// The connection went. What was acknowledged counts: it is on that disk.
    pub(super) fn disconnect(&mut self) {
        *self = Self { durable: self.durable, ..Self::new(false, self.counts) };
    }

    /// What of it counts for a majority.
    pub(super) const fn counted(&self) -> Lsn {
        if self.counts { self.durable } else { Lsn::ZERO }
    }

    pub(super) const fn counts(&self) -> bool {
        self.counts
    }

    /// Before an epoch begins it may turn out that other disks have the votes.
    pub(super) const fn note_counts(&mut self, counts: bool) {
        self.counts = counts;
    }

    /// The follower said how its log ends, and from where it may have lost something: what it said before about
    /// more than that no longer counts.
    pub(super) fn lower_durable(&mut self, end: Lsn, suspect: Option<Lsn>) {
        self.durable = self.durable.min(end).min(suspect.map_or(end, Lsn::prev));
    }

    /// Sending begins (again) behind this position.
    pub(super) fn restart_at(&mut self, position: LogPosition) {
        self.sent = Some(position);
        self.reached = self.reached.max(position.lsn);
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.reading = false;
        self.awaits_snapshot = false;
        self.commit_told = None;
    }

    /// Notes a message that was sent, up to `position`.
    pub(super) fn note_sent(&mut self, position: LogPosition, bytes: usize, commit: Lsn) {
        self.sent = Some(position);
        self.reached = self.reached.max(position.lsn);
        self.commit_told = Some(commit);
        if bytes > 0 {
            self.in_flight.push_back((position.lsn, bytes));
            self.in_flight_bytes += bytes;
        }
    }

    /// Notes what the follower says is durable; false if it was never sent that far.
    pub(super) fn note_durable(&mut self, durable: Lsn) -> bool {
        if self.sent.is_none() {
            return true; // Said before its promise: an answer to a connection that is gone.
        }
        if durable > self.reached {
            return false;
        }
        self.durable = self.durable.max(durable);
        while let Some((last, bytes)) = self.in_flight.front().copied() {
            if last > durable {
                break;
            }
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
        true
    }

    pub(super) const fn note_reading(&mut self, reading: bool) {
        self.reading = reading;
    }

    /// It is sent no batches from here on: the log lacks those that come next.
    pub(super) const fn note_gap(&mut self) {
        self.awaits_snapshot = true;
    }

    /// It is fed again; if the log lacks what it needs, that is found out again.
    pub(super) const fn end_gap(&mut self) {
        self.awaits_snapshot = false;
    }

    /// It was offered a snapshot, or said that it has something, which may make it acknowledge so much.
    pub(super) fn note_offered(&mut self, at: Lsn) {
        self.reached = self.reached.max(at);
    }

    pub(super) const fn awaits_snapshot(&self) -> bool {
        self.awaits_snapshot
    }

    pub(super) const fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) const fn is_reading(&self) -> bool {
        self.reading
    }

    pub(super) const fn sent(&self) -> Option<LogPosition> {
        self.sent
    }

    pub(super) const fn durable(&self) -> Lsn {
        self.durable
    }

    /// Bytes that may be sent now; the window is full when it is 0.
    pub(super) const fn window(&self) -> usize {
        FOLLOWER_WINDOW_BYTES.saturating_sub(self.in_flight_bytes)
    }

    /// What of it decides what its leader does next, as a hash.
    #[cfg(feature = "sim")]
    pub(super) fn fingerprint(&self, into: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let Self {
            connected,
            counts,
            sent,
            reached,
            durable,
            commit_told,
            in_flight,
            in_flight_bytes: _,
            reading,
            awaits_snapshot,
        } = self;
        reached.hash(into);
        (
            (connected, counts),
            sent.map(|at| (at.lsn, at.epoch, at.chain)),
            durable,
            commit_told,
            in_flight,
            reading,
            awaits_snapshot,
        )
            .hash(into);
    }

    /// Whether a message with nothing but the commit position is worth sending: the follower is idle, and does
    /// not know it. (A busy one learns it with its next batches.)
    ///
    /// One that was told none yet is always worth it, though nothing be committed: it may hold all of the log already, and its
    /// answer is how the leader learns so. Otherwise a leader whose start is durable everywhere might wait for ever.
    pub(super) fn wants_commit(&self, commit: Lsn) -> bool {
        let untold = self.commit_told.is_none_or(|told| told < commit);
        self.connected && self.sent.is_some() && !self.awaits_snapshot && self.in_flight.is_empty() && untold
    }
}

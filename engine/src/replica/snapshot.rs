//! A follower, or a new leader, that needs what another's log holds no more: it gets the state, and the log behind it.
//!
//! Who has it offers it (`SnapshotOffer`), who needs it asks for one part after the other (`SnapshotWanted`,
//! `SnapshotChunk`). What is sent is only what was applied, so committed. Parts are kept by the driver; when it has all of
//! them, durably, and they are what was offered, they are installed: see [`InstallMark`] for the order.
//!
//! **Nothing that counted is lost by it (I1).** The log is reset to the snapshot's position S only if it does not hold S and does
//! not know S, or more, to be committed. A log without S ends before it, and then gains; or it holds another batch at
//! that LSN, and whatever is behind that belongs to a history without S: it was never committed, and never can be,
//! since every leader's log holds what is committed. Nor can what this replica acknowledged count against S: who
//! acknowledged to a leader matched that leader's log, which holds S. So it does not matter in which epoch the
//! snapshot was offered, or whether this replica promised another since. The promise itself is hard state, and stays.

use super::mark::InstallMark;
use super::{DisconnectReason, LogView, LogWrite, Output, Phase, Purpose, Replica};
use crate::model::mutant::{Mutant, planted};
use crate::model::{Epoch, LogPosition, Lsn, Message, NodeId, SnapshotId};
use bytes::Bytes;

/// A snapshot that this replica is fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetching {
    pub(super) from: NodeId,
    pub(super) snapshot: SnapshotId,
    /// How many of its parts came: all before one came before it.
    chunks: u32,
}

/// A snapshot that is being installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Installing {
    pub(super) snapshot: SnapshotId,
    /// The log was found to hold its position, and what is behind that stays; though what told so may be forgotten meanwhile.
    pub(super) is_held: bool,
}

impl Replica {
    /// The driver took a snapshot for a peer.
    pub(super) fn snapshot_taken(
        &mut self,
        peer: NodeId,
        epoch: Epoch,
        snapshot: SnapshotId,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        // The log must go on where the snapshot ends; and only what is committed is ever given away (I1).
        let fits = self.position_at(snapshot.at.lsn, log) == Some(snapshot.at) && snapshot.at.lsn <= self.committed;
        if epoch != self.promise.epoch || !self.connected.contains_key(&peer) {
            return;
        }
        if let Some(leadership) = &mut self.leadership {
            let Some(progress) = leadership.progress.get_mut(&peer).filter(|p| p.awaits_snapshot()) else { return };
            if !fits {
                progress.end_gap(); // When it is fed next, another one is asked for.
                return;
            }
            progress.note_offered(snapshot.at.lsn);
        } else if self.promise.leader != Some(peer) || !fits {
            return;
        }
        out.push(Output::Send { to: peer, message: Message::SnapshotOffer { epoch, snapshot } });
    }

    /// A peer asks for a part.
    pub(super) fn snapshot_asked(
        &self,
        from: NodeId,
        epoch: Epoch,
        (snapshot, index): (SnapshotId, u32),
        out: &mut Vec<Output>,
    ) {
        if self.gives_snapshots_to(from, epoch) {
            out.push(Output::ReadSnapshot { peer: from, epoch, snapshot, index });
        }
    }

    /// The driver read a part; none if it has that snapshot no more: then another one is taken.
    pub(super) fn snapshot_read(
        &mut self,
        peer: NodeId,
        epoch: Epoch,
        (snapshot, index): (SnapshotId, u32),
        bytes: Option<Bytes>,
        out: &mut Vec<Output>,
    ) {
        if !self.gives_snapshots_to(peer, epoch) || !self.connected.contains_key(&peer) {
            return;
        }
        out.push(match bytes {
            Some(bytes) => Output::Send { to: peer, message: Message::SnapshotChunk { epoch, snapshot, index, bytes } },
            None => Output::TakeSnapshot { peer, epoch },
        });
    }

    fn gives_snapshots_to(&self, peer: NodeId, epoch: Epoch) -> bool {
        let needs = match &self.leadership {
            Some(leadership) => leadership.progress.get(&peer).is_some_and(super::progress::Progress::awaits_snapshot),
            None => self.promise.leader == Some(peer),
        };
        epoch == self.promise.epoch && needs
    }

    /// A snapshot is offered: by the leader of the promised epoch, or to a leader by the one whose log it takes over.
    pub(super) fn snapshot_offered(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        snapshot: SnapshotId,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        if epoch != self.promise.epoch || !self.takes_snapshots_from(from) {
            if epoch < self.promise.epoch {
                let message = Message::Refused { epoch, promised: self.promise.epoch };
                out.push(Output::Send { to: from, message });
            }
            return;
        }
        if self.installing.is_some() {
            return; // Whoever leads then hears where the log ends when that is over.
        }
        if self.needs(&snapshot, log) {
            self.fetching = Some(Fetching { from, snapshot, chunks: 0 });
            out.push(Output::StageSnapshot { snapshot });
        } else if self.leadership.is_some() && self.damage.state_of() == Some(from) {
            self.no_state_of(from, log, out); // Somebody else's is newer, perhaps.
        } else if self.leadership.is_some() {
            // It had said what it has, and was offered that: then the two logs can't be compared.
            out.push(Output::Disconnect { peer: from, reason: DisconnectReason::MissingBatches });
        } else if self.position_at(snapshot.at.lsn, log).is_none_or(|ours| ours == snapshot.at) {
            // If it was asked for that: it would give the same again, and does not bring the state past what can't be read.
            self.no_state_of(from, log, out);
            if self.position_at(snapshot.at.lsn, log) == Some(snapshot.at) {
                // It is committed, as its leader offers it. And where it said that its log ends, it need not be fed from.
                self.learn_commit(snapshot.at.lsn, out);
                self.named = self.named.filter(|named| named.lsn >= snapshot.at.lsn);
            }
            self.say_log(log, out);
        } else {
            out.push(Output::Disconnect { peer: from, reason: DisconnectReason::ContradictsCommitted });
        }
    }

    fn takes_snapshots_from(&self, from: NodeId) -> bool {
        match &self.leadership {
            Some(leadership) => match leadership.phase {
                Phase::Adopting { source, .. } => {
                    source == from || leadership.asked.is_some_and(|(asked, ..)| asked == from)
                }
                Phase::Mending => self.damage.state_of() == Some(from),
                _ => false,
            },
            None => self.promise.leader == Some(from),
        }
    }

    /// Whether the snapshot has what this replica lacks: otherwise its log would lose what it holds behind it (I1). Or what its
    /// log has and can't give its state: then the log stays as it is.
    fn needs(&self, snapshot: &SnapshotId, log: &dyn LogView) -> bool {
        let holds = self.holds(snapshot.at, log);
        let lacks = snapshot.at.lsn > self.committed && !holds;
        lacks || (holds && self.damage.bars(snapshot.at.lsn))
    }

    /// The driver wants a part of what it stages.
    pub(super) fn snapshot_wanted(&self, snapshot: SnapshotId, index: u32, out: &mut Vec<Output>) {
        let Some(fetching) = self.fetching.filter(|fetching| fetching.snapshot == snapshot) else { return };
        let message = Message::SnapshotWanted { epoch: self.promise.epoch, snapshot, index };
        out.push(Output::Send { to: fetching.from, message });
    }

    /// A part came.
    pub(super) fn snapshot_chunk(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        (snapshot, index): (SnapshotId, u32),
        bytes: Bytes,
        out: &mut Vec<Output>,
    ) {
        let is_it = |fetching: &&mut Fetching| fetching.from == from && fetching.snapshot == snapshot;
        if let Some(fetching) = self.fetching.as_mut().filter(is_it).filter(|_| epoch == self.promise.epoch) {
            fetching.chunks = fetching.chunks.max(index.saturating_add(1));
            out.push(Output::StageChunk { snapshot, index, bytes });
        }
    }

    /// How much of a state that is on its way is here: a leader that waits for it comes nearer with each part.
    pub(super) fn state_fetched(&self) -> u64 {
        let parts = self.fetching.map_or(0, |fetching| u64::from(fetching.chunks));
        if self.installing.is_some() { u64::MAX } else { parts }
    }

    /// All parts are here, durably, and are what was offered.
    pub(super) fn snapshot_staged(&mut self, snapshot: SnapshotId, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(Fetching { from, .. }) = self.fetching.take_if(|fetching| fetching.snapshot == snapshot) else {
            return;
        };
        if self.installing.is_some() {
            return;
        }
        if !self.needs(&snapshot, log) {
            self.go_on(log, out);
            return;
        }
        let is_held = self.holds(snapshot.at, log) || self.shares(snapshot.at, from, log);
        self.installing = Some(Installing { snapshot, is_held });
        if planted(Mutant::ResetEarly) {
            out.push(Output::InstallSnapshot { snapshot });
            self.reset(snapshot.at, out);
            return;
        }
        // One that the log holds needs none: it stays, also where an open can't name that position. What another's log tells of that may
        // not be true of who leads when it opens, and what is cut off meanwhile is told by no mark.
        let mark = mark(Some(snapshot.at).filter(|at| !self.holds(*at, log)));
        // DURABLE: before the state is replaced, or a log that ends before its state is taken for one that lost its end
        // (attacked by `a_crash_at_any_step_of_an_installation_leaves_a_node_that_opens_and_catches_up`).
        self.persist(LogWrite::Mark(mark), Purpose::Mark, out);
    }

    /// The mark is durable: from here on a crash is understood.
    pub(super) fn marked(&self, out: &mut Vec<Output>) {
        if let Some(Installing { snapshot, .. }) = self.installing {
            out.push(Output::InstallSnapshot { snapshot });
        }
    }

    /// The state is the snapshot's, durably. The log begins behind it, unless it was fed meanwhile from one that goes further
    /// back, and holds all of that already: then it stays as it is.
    pub(super) fn snapshot_installed(&mut self, snapshot: SnapshotId, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(Installing { is_held, .. }) = self.installing.take_if(|it| it.snapshot == snapshot) else { return };
        let at = snapshot.at;
        self.damage.state_is_at(at.lsn);
        let is_held = self.holds(at, log) || (is_held && at.lsn <= self.end.lsn);
        if at.lsn <= self.committed || is_held {
            // From here on it can say where that is, so that it is fed behind it.
            self.named = Some(at).filter(|at| is_held && self.position_at(at.lsn, log).is_none());
            self.persist(LogWrite::Mark(mark(None)), Purpose::Reset(at), out);
        } else {
            self.reset(at, out);
        }
        self.learn_commit(at.lsn, out);
    }

    /// Lets the log begin behind a snapshot: with this the end moves to where it may not have been.
    pub(super) fn reset(&mut self, to: LogPosition, out: &mut Vec<Output>) {
        assert!(to.lsn >= self.committed, "I2: a reset to {} below committed {}", to.lsn, self.committed);
        assert!(self.leadership.as_ref().is_none_or(|l| !l.is_feeding()), "I1: a leader's log holds what is committed");
        (self.end, self.named) = (to, None);
        // Nothing of what is now the log is certainly on the disk until this is.
        self.durable = LogPosition::origin(self.log_id);
        self.matched = self.matched.min(to.lsn);
        self.suspect = self.suspect.map(|_| to.lsn.next());
        if self.damage.cut_off(Lsn::ZERO) {
            self.announce_damage(out);
        }
        if let Some(leadership) = &mut self.leadership {
            leadership.tail.clear();
            leadership.tail_bytes = 0;
        }
        // The mark of one that is being installed, where this cuts the log off: the state may become that before a crash.
        let mark = mark(self.installing.map(|installing| installing.snapshot.at));
        self.persist(LogWrite::Reset { to, mark }, Purpose::Reset(to), out);
    }

    /// The installation is over: whoever leads hears where the log ends now, and this one, if it leads, goes on adopting.
    pub(super) fn was_reset(&mut self, to: LogPosition, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        if to.lsn > self.durable.lsn && self.position_at(to.lsn, log) == Some(to) {
            self.durable = to;
        }
        if self.leadership.is_some() {
            self.adopt_again(now_micros, log, out);
        } else {
            self.say_log(log, out);
        }
    }

    fn go_on(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        if self.leadership.is_none() {
            self.say_log(log, out);
        }
    }

    /// Says what the log is, so that the leader begins to feed it where the two logs part.
    pub(super) fn say_log(&self, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leader) = self.promise.leader.filter(|leader| self.connected.contains_key(leader)) else { return };
        let message = Message::Mismatch { epoch: self.promise.epoch, prev: self.end.lsn, log: self.summary_told(log) };
        out.push(Output::Send { to: leader, message });
    }
}

fn mark(at: Option<LogPosition>) -> Bytes {
    match InstallMark(at).encode() {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a mark has a fixed size: {error}"),
    }
}

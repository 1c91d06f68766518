//! What a follower accepts, and what it says.

use super::mend::Fed;
use super::{DisconnectReason, LogView, LogWrite, Output, Promise, Purpose, ReadPurpose, Replica, Verdict};
use crate::model::limits::{APPEND_BATCHES_MAX, CATCH_UP_READ_BYTES};
use crate::model::mutant::{Mutant, planted};
use crate::model::{DirectoryId, Epoch, LogPosition, Lsn, Message, NodeId};
use towline_wal::Batch;

impl Replica {
    pub(super) fn message(
        &mut self,
        from: NodeId,
        message: Message,
        now_micros: u64,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        match message {
            Message::Fence { epoch, leader } => self.fenced(from, epoch, leader, log, out),
            Message::Append { epoch, prev, commit, batches } => {
                self.accept(from, epoch, prev, commit, batches, log, out);
            }
            Message::Fetch { epoch, after, bytes_max } => self.fetch(from, epoch, after, bytes_max, log, out),
            Message::Promise { epoch, log: summary, suspect, votes, .. } => {
                self.promise_received(from, epoch, summary, suspect, votes, now_micros, log, out);
            }
            Message::Refused { epoch, promised } => self.refused(epoch, promised, out),
            Message::Appended { epoch, durable } => self.acknowledged(from, epoch, durable, log, out),
            Message::Mismatch { epoch, prev, log: summary } => {
                self.mismatched(from, epoch, (prev, &summary), log, out);
            }
            Message::Fetched { epoch, after, batches } => {
                self.fetched(from, epoch, after, batches, now_micros, log, out);
            }
            Message::Confirm { epoch, round } => self.confirm(from, epoch, round, out),
            Message::Confirmed { epoch, round } => self.confirmed(from, epoch, round, out),
            Message::ReadIndex { epoch, number } => self.read_index(from, epoch, number, out),
            Message::ReadIndexed { epoch, number, index } => self.read_indexed(from, epoch, (number, index), out),
            Message::SnapshotOffer { epoch, snapshot } => self.snapshot_offered(from, epoch, snapshot, log, out),
            Message::SnapshotWanted { epoch, snapshot, index } => {
                self.snapshot_asked(from, epoch, (snapshot, index), out);
            }
            Message::SnapshotChunk { epoch, snapshot, index, bytes } => {
                self.snapshot_chunk(from, epoch, (snapshot, index), bytes, out);
            }
            Message::Damaged { ranges, .. } => self.damage_told(from, ranges, now_micros, log, out),
            Message::MendWanted { epoch, after, to, bytes_max } => {
                self.mend_wanted(from, epoch, after, to, bytes_max, log, out);
            }
            Message::Mend { after, batches, .. } => self.mend_received(from, after, batches, log, out),
        }
    }

    /// I3: promises to accept nothing older than `epoch`, if nothing newer was promised.
    fn fenced(&mut self, from: NodeId, epoch: Epoch, leader: NodeId, log: &dyn LogView, out: &mut Vec<Output>) {
        if epoch.term == u32::MAX {
            // Nobody could ever lead after it.
            out.push(Output::Disconnect { peer: from, reason: DisconnectReason::ImpossibleEpoch });
            return;
        }
        let verdict = if leader == from { self.verdict(epoch, from) } else { Verdict::Refused };
        match verdict {
            Verdict::Refused => {
                let message = Message::Refused { epoch, promised: self.promise.epoch };
                out.push(Output::Send { to: from, message });
            }
            Verdict::New => {
                let disk = self.connected.get(&leader).copied();
                self.make_promise(Promise { epoch, leader: Some(leader), disk }, out);
                if planted(Mutant::SkipPromiseSync) {
                    self.say_promise(from, log, out);
                }
            }
            Verdict::Kept => {
                let pending = |purpose: &Purpose| matches!(purpose, Purpose::Promise(_));
                if !self.under_way.iter().any(|(_, purpose)| pending(purpose)) {
                    self.say_promise(from, log, out);
                }
            }
        }
    }

    /// What the promise says to a peer that leads an epoch.
    pub(super) fn verdict(&self, epoch: Epoch, from: NodeId) -> Verdict {
        self.promise.verdict(epoch, from, self.connected.get(&from).copied())
    }

    /// Binds this replica to a newer epoch. Who led before leads no more; nothing older is accepted from here on,
    /// though the promise is said only when it is durable.
    pub(super) fn make_promise(&mut self, promise: Promise, out: &mut Vec<Output>) {
        assert!(promise.epoch > self.promise.epoch, "I3: promises only rise");
        let led = self.end_leadership(out);
        self.refuse_questions(out);
        self.promise = promise;
        self.fetching = None;
        self.damage.ask_all_again();
        self.damage.owes_nothing();
        if !planted(Mutant::KeepMatched) {
            self.matched = Lsn::ZERO;
        }
        self.told_since_doubt = None;
        self.led_from = promise.leader.and_then(|leader| self.connected.get(&leader).copied());
        match promise.encode() {
            // DURABLE: said only after this is synced (attacked by `a_promise_is_said_only_when_it_is_durable`).
            Ok(bytes) => self.persist(LogWrite::Promise(bytes), Purpose::Promise(promise), out),
            Err(error) => unreachable!("a promise has a fixed size: {error}"),
        }
        if led {
            // Behind the promise: what this leads to must come after it, in the log too.
            out.push(Output::Superseded { promised: promise.epoch });
        }
    }

    /// The promise is durable: the leader hears it, or (if this is the leader) counts it.
    pub(super) fn promised(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        match self.promise.leader {
            Some(leader) if leader == self.id => self.own_promise_durable(now_micros, log, out),
            Some(leader) => {
                self.say_promise(leader, log, out);
                self.seek_mend(log, out); // Whoever leads now is asked as well.
            }
            None => {}
        }
    }

    pub(super) fn say_promise(&self, to: NodeId, log: &dyn LogView, out: &mut Vec<Output>) {
        let message = Message::Promise {
            epoch: self.promise.epoch,
            log: self.summary(log),
            suspect: self.suspect,
            committed: self.committed,
            votes: self.own_votes(log),
        };
        out.push(Output::Send { to, message });
    }

    /// Takes a leader's batches: only of the promised epoch and its leader, only behind what this log holds.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn accept(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        prev: LogPosition,
        commit: Lsn,
        batches: Vec<Batch>,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        if self.verdict(epoch, from) != Verdict::Kept && !planted(Mutant::IgnorePromise) {
            let message = Message::Refused { epoch, promised: self.promise.epoch };
            out.push(Output::Send { to: from, message });
            return;
        }
        let (released, prev) = self.behind_what_is_released(prev, &batches, log);
        let ours = self.position_at(prev.lsn, log);
        let fits = ours == Some(prev) || (planted(Mutant::SkipChainCheck) && ours.is_some());
        if !fits {
            // It is at work, whatever it sends.
            self.told_since_doubt.get_or_insert(commit);
            let had_said = self.damage.state_of().is_some();
            self.seek_mend(log, out);
            let says = had_said || self.damage.state_of().is_none(); // Otherwise it just has: that it needs its state.
            if says && !self.awaits_mend_at(prev.lsn, log) {
                let message = Message::Mismatch { epoch, prev: prev.lsn, log: self.summary_told(log) };
                out.push(Output::Send { to: from, message });
            }
            return;
        }
        let Some(last) = self.take(from, epoch, prev, &batches[released..], log, out) else { return };
        let before = self.matched;
        self.matched = before.max(last.lsn);
        self.damage.matches(from, before, self.matched);
        self.told_since_doubt.get_or_insert(commit);
        let ours = if planted(Mutant::CommitUnmatched) { self.end.lsn } else { self.matched };
        let before = self.committed;
        self.learn_commit(commit.min(ours), out);
        if self.damage.sound_to() >= before && self.committed > before {
            self.ask_again_for_damage(from, self.committed, log, out);
        }
        self.seek_mend(log, out); // The leader is at work now, and may have the state for it.
        self.settle_doubt(out);
        let nothing_to_sync = self.under_way.iter().all(|(_, purpose)| matches!(purpose, Purpose::Settle));
        if nothing_to_sync || planted(Mutant::AcknowledgeBeforeSync) {
            self.acknowledge(out);
        }
    }

    /// Takes those of a leader's batches that may be, behind what this log holds; gives what they end at. None: they are not believed.
    fn take(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        prev: LogPosition,
        batches: &[Batch],
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) -> Option<LogPosition> {
        let (mut last, mut mending) = (prev, self.mending());
        for (i, batch) in batches.iter().enumerate() {
            let fits = batch.follows(&last) && batch.log() == self.log_id && batch.epoch() <= epoch;
            if !fits && !planted(Mutant::SkipChainCheck) {
                let reason = DisconnectReason::BrokenChain;
                out.push(Output::Disconnect { peer: from, reason });
                return None;
            }
            let before = last;
            match self.compare(from, &batches[i..], log) {
                Fed::Here => {
                    last = batch.position();
                    self.mend_by(batch, &mut mending, log, out);
                    continue; // Already here, byte for byte: the chain says so.
                }
                Fed::Unknown => break,
                Fed::Another => {}
            }
            if before.lsn < self.end.lsn {
                if before.lsn < self.committed {
                    // I2: one of the two holds what never was; neither may overwrite the other.
                    out.push(Output::Disconnect { peer: from, reason: DisconnectReason::ContradictsCommitted });
                    return None;
                }
                let is_mended = mending.as_ref().is_some_and(|mending| mending.next == before.lsn.next());
                let is_known = is_mended || self.position_at(before.lsn, log) == Some(before);
                if !is_known && !planted(Mutant::SkipChainCheck) {
                    self.owes_answer_for_mend();
                    break; // It is mended up to there first.
                }
                self.truncate(before, out); // A suffix that lost.
            }
            if self.damage.sound_to() < batch.last_lsn() {
                break; // It is mended first, and says then where its log ends.
            }
            last = batch.position();
            self.append(batch.clone(), out);
        }
        Some(last)
    }

    /// What was released here a leader may still have in its memory: how many batches of it come first, and what they end at.
    fn behind_what_is_released(&self, prev: LogPosition, batches: &[Batch], log: &dyn LogView) -> (usize, LogPosition) {
        if prev.lsn >= self.durable.lsn || self.position_at(prev.lsn, log) == Some(prev) {
            return (0, prev);
        }
        let start = log.start().lsn;
        let released = batches.iter().take_while(|batch| batch.last_lsn() <= start).count();
        (released, batches[..released].last().map_or(prev, Batch::position))
    }

    /// Says how much of the leader's log is durable here (I1: only what a sync made so).
    pub(super) fn acknowledge(&self, out: &mut Vec<Output>) {
        let Some(leader) = self.promise.leader else { return };
        let synced = if planted(Mutant::AcknowledgeBeforeSync) { self.end.lsn } else { self.durable.lsn };
        let sound = if planted(Mutant::AcknowledgeDamaged) { Lsn::MAX } else { self.damage.sound_to() };
        let matched = if planted(Mutant::AcknowledgeUnmatched) { synced } else { self.matched };
        let durable = matched.min(synced).min(sound);
        if leader != self.id && self.connected.contains_key(&leader) && self.matched > Lsn::ZERO {
            let message = Message::Appended { epoch: self.promise.epoch, durable };
            out.push(Output::Send { to: leader, message });
        }
    }

    pub(super) fn learn_commit(&mut self, commit: Lsn, out: &mut Vec<Output>) {
        if commit > self.committed {
            self.committed = commit;
            out.push(Output::Commit(commit));
        }
    }

    /// A new leader lacks batches that this replica has.
    fn fetch(
        &self,
        from: NodeId,
        epoch: Epoch,
        after: LogPosition,
        bytes_max: u32,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        if self.verdict(epoch, from) != Verdict::Kept {
            let message = Message::Refused { epoch, promised: self.promise.epoch };
            out.push(Output::Send { to: from, message });
        } else if self.position_at(after.lsn, log) == Some(after) || self.can_read_behind(after.lsn, log) {
            let purpose = ReadPurpose::Fetch(epoch);
            let bytes_max = (bytes_max as usize).min(CATCH_UP_READ_BYTES);
            out.push(Output::ReadLog { peer: from, after, bytes_max, purpose });
        } else if after.lsn < log.start().lsn {
            out.push(Output::TakeSnapshot { peer: from, epoch });
        } else {
            out.push(Output::Send { to: from, message: Message::Fetched { epoch, after, batches: Vec::new() } });
        }
    }

    pub(super) fn peer_up(&mut self, peer: NodeId, directory: DirectoryId, log: &dyn LogView, out: &mut Vec<Output>) {
        self.connected.insert(peer, directory);
        self.forget_questions(peer, out);
        if self.promise.leader == Some(peer)
            && self.led_from.replace(directory).is_some_and(|before| before != directory)
        {
            // I1: its log began anew with its disk, in the same epoch perhaps.
            self.matched = Lsn::ZERO;
            self.told_since_doubt = None;
        }
        self.damage_peer_up(peer, log, out);
        if let Some(leadership) = &mut self.leadership {
            leadership.connect(peer, directory);
            let message = Message::Fence { epoch: leadership.epoch(), leader: self.id };
            out.push(Output::Send { to: peer, message });
            self.ask_again(peer, out);
        }
    }

    pub(super) fn peer_down(&mut self, peer: NodeId, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        self.connected.remove(&peer);
        self.forget_questions(peer, out);
        self.fetching = self.fetching.filter(|fetching| fetching.from != peer);
        self.damage_peer_down(peer, log, out);
        if self.leadership.is_some() {
            self.lost_peer(peer, now_micros, log, out);
        }
    }

    pub(super) fn log_read(
        &mut self,
        peer: NodeId,
        purpose: ReadPurpose,
        after: LogPosition,
        mut batches: Vec<Batch>,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        match purpose {
            ReadPurpose::CatchUp => self.feed_read(peer, after, batches, log, out),
            ReadPurpose::Fetch(epoch)
                if epoch == self.promise.epoch && batches.is_empty() && after.lsn < log.start().lsn =>
            {
                out.push(Output::TakeSnapshot { peer, epoch }); // It was released since.
            }
            ReadPurpose::Fetch(epoch) if epoch == self.promise.epoch => {
                batches.truncate(APPEND_BATCHES_MAX); // A read is bounded by bytes, a message by both.
                out.push(Output::Send { to: peer, message: Message::Fetched { epoch, after, batches } });
            }
            ReadPurpose::Fetch(_) => {} // Asked in an epoch that is over.
            ReadPurpose::Mend { epoch, to } => {
                // It may have dropped that meanwhile, and hold something else there.
                let is_same = self.position_at(to.lsn, log) == Some(to) || planted(Mutant::TrustMend);
                batches.retain(|batch| is_same && batch.last_lsn() <= to.lsn);
                batches.truncate(APPEND_BATCHES_MAX);
                out.push(Output::Send { to: peer, message: Message::Mend { epoch, after, batches } });
            }
        }
    }
}

//! One node of the model: the real replica over a log in memory, with what of it is on the disk.

use super::scope::node_id;
use crate::model::{Assignment, DirectoryId, Epoch, EpochStart, LogId, LogPosition, Lsn, Message, NodeId, SnapshotId};
use crate::replica::{
    DisconnectReason, Input, InstallMark, LogView, LogWrite, Opening, Output, Phase, Promise, ReadPurpose, Replica,
    Ticket,
};
use crate::sim::Violation;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};
use xxhash_rust::xxh3::Xxh3;

/// What can happen at one node.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// A message comes.
    Hears {
        from: NodeId,
        message: Message,
    },
    /// The oldest write under way becomes durable, and is reported.
    Syncs,
    /// The oldest read of the log that was asked for is done.
    Reads,
    /// The control plane assigns the shard to this node.
    Assigned(Assignment),
    /// It accepted the activation.
    Accepted(Epoch),
    /// The sequencer seals a batch.
    Writes,
    /// A peer is there, with this disk.
    Up(NodeId, DirectoryId),
    Down(NodeId),
    /// The node starts again. Of the writes under way the first `survive` had reached the disk.
    Crashes {
        survive: u8,
    },
    /// The leader waited too long for a majority.
    GivesUp,
    /// The node's state is durable as far as it is applied, and the log before that is released.
    Releases,
    /// The node starts again, with an empty disk.
    Empties,
    /// The batch at this place of the disk can't be read any more, and the node comes upon that.
    Rots {
        at: u8,
    },
    /// The node starts again, without the last batch that was durable, and knows that it may lack it.
    Loses,
}

/// What the world hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Sends { to: NodeId, message: Message },
    Commits(Lsn),
    Reports(Epoch),
    Disconnects { peer: NodeId, reason: DisconnectReason },
    StepsDown(Epoch),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) replica: Replica,
    pub(super) log: ModelLog,
    /// Reads of the log under way, in order.
    pub(super) reads: VecDeque<(NodeId, LogPosition, ReadPurpose)>,
    /// What its state holds, durably. (A state that is never released or replaced need not be on the disk.)
    state: LogPosition,
    /// How many disks it has had before.
    disks: u8,
    /// Whether nobody but the logs says whose disks have the votes.
    own_master: bool,
    /// The newest epoch whose promise was said, if the disk does not hold it: a promise that a crash would break.
    said: Epoch,
}

/// A log in memory, and what of it is durable.
#[derive(Debug, Clone)]
pub(super) struct ModelLog {
    id: LogId,
    /// Where it begins.
    pub(super) start: LogPosition,
    pub(super) durable_start: LogPosition,
    mark: InstallMark,
    /// As the replica sees it: with what is on its way to the disk.
    pub(super) accepted: Vec<Batch>,
    pub(super) durable: Vec<Batch>,
    pub(super) promise: Promise,
    pub(super) suspect: Option<Lsn>,
    /// Batches on the disk that can't be read; each has one record.
    pub(super) damaged: Vec<Lsn>,
    /// An open found some of it: nothing is appended until it is put again.
    refuses: bool,
    /// Whether what an open finds damaged is not known by name, but for the log's end.
    hides: bool,
    /// Whether what rots is not known by name from then on: nothing is in doubt, and where each epoch begins is known until an open.
    forgets: bool,
    /// What is not.
    hidden: Vec<Lsn>,
    /// What of the damaged is cut off, though not yet on the disk: what is appended there is something else, or that anew.
    cut_off: Vec<Lsn>,
    pub(super) under_way: VecDeque<(Ticket, LogWrite)>,
}

impl LogView for ModelLog {
    fn start(&self) -> LogPosition {
        self.start
    }

    fn end(&self) -> LogPosition {
        self.accepted.last().map_or(self.start, Batch::position)
    }

    fn durable_end(&self) -> LogPosition {
        self.durable.last().map_or(self.durable_start, Batch::position)
    }

    fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
        self.boundary_at_or_before(lsn).filter(|at| at.lsn == lsn)
    }

    fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        let ends = self.known().rev().map(Batch::position);
        ends.chain([self.start]).find(|at| at.lsn <= lsn)
    }

    fn epochs(&self) -> Vec<(Epoch, Lsn)> {
        let of = |batch: &Batch| (batch.epoch(), batch.first_lsn());
        let is_exact = self.suspect.is_none();
        let mut epochs: Vec<_> =
            if is_exact { self.accepted.iter().map(of).collect() } else { self.known().map(of).collect() };
        epochs.dedup_by_key(|(epoch, _)| *epoch);
        epochs
    }

    fn suspect(&self) -> Option<Lsn> {
        self.suspect
    }

    fn damaged(&self) -> Vec<(Lsn, Lsn)> {
        // What is cut off is not damaged any more, though it is on the disk still.
        let here = self.damaged.iter().filter(|lsn| !self.cut_off.contains(lsn)).filter(|lsn| {
            let durable = self.durable.iter().find(|batch| batch.first_lsn() == **lsn);
            durable.is_some_and(|batch| self.accepted.contains(batch))
        });
        here.map(|lsn| (*lsn, *lsn)).collect()
    }

    fn mendable(&self, batches: &[Batch]) -> usize {
        let fits = |batch: &&Batch| {
            let at = batch.position();
            let next = self.accepted.iter().find(|next| next.first_lsn() == at.lsn.next());
            let leads_on = next.is_none_or(|next| self.damaged.contains(&next.first_lsn()) || next.follows(&at));
            self.damaged.contains(&at.lsn) && leads_on && self.position_at(at.lsn).is_none_or(|there| there == at)
        };
        batches.iter().take_while(fits).count()
    }

    fn last_start(&self) -> Option<EpochStart> {
        let (at, start) = self.accepted.iter().rev().find_map(|it| Some((it.last_lsn(), EpochStart::in_batch(it)?)))?;
        (!self.damaged.contains(&at)).then_some(start)
    }
}

/// What a node's disk calls itself.
pub(super) fn directory(node: NodeId, disks: u8) -> DirectoryId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&node.get().to_le_bytes());
    bytes[8] = disks;
    DirectoryId::new(bytes)
}

impl ModelLog {
    /// The batches that are known by name.
    fn known(&self) -> impl DoubleEndedIterator<Item = &Batch> {
        self.accepted.iter().filter(|batch| !self.hidden.contains(&batch.last_lsn()))
    }

    /// Whether what the disk holds at this LSN goes, by a write that is on its way.
    fn is_being_cut_off(&self, lsn: Lsn) -> bool {
        self.under_way.iter().any(|(_, write)| match write {
            LogWrite::Truncate(to) => lsn > to.lsn,
            LogWrite::Reset { .. } => true,
            _ => false,
        })
    }

    /// What an open finds damaged is not known by name: the log's end is, by where the next group was to lie.
    fn hide(&mut self) {
        let is_last = |lsn: &Lsn| self.durable.last().is_some_and(|last| last.last_lsn() == *lsn);
        let names_lost = self.damaged.iter().filter(|lsn| self.hides && !is_last(lsn));
        self.hidden = names_lost.copied().collect();
    }

    fn empty(id: LogId) -> Self {
        Self {
            id,
            start: LogPosition::origin(id),
            durable_start: LogPosition::origin(id),
            mark: InstallMark::NONE,
            accepted: Vec::new(),
            durable: Vec::new(),
            promise: Promise::NONE,
            suspect: None,
            damaged: Vec::new(),
            refuses: false,
            hides: false,
            forgets: false,
            hidden: Vec::new(),
            cut_off: Vec::new(),
            under_way: VecDeque::new(),
        }
    }

    fn accept(&mut self, ticket: Ticket, write: LogWrite) -> Result<(), Violation> {
        match &write {
            LogWrite::Append(batch) if !batch.follows(&self.end()) => {
                return Err(Violation::new("I2", format!("{} does not follow the log's end", batch.position())));
            }
            LogWrite::Append(_) if self.refuses && !LogView::damaged(self).is_empty() => {
                return Err(Violation::new("I8", "something is appended to a log that an open found damaged".into()));
            }
            LogWrite::Append(batch) => self.accepted.push(batch.clone()),
            LogWrite::Mend(batch) => {
                let at = batch.position();
                if !self.accepted.contains(batch) || !self.damaged.contains(&at.lsn) {
                    return Err(Violation::new("I2", format!("{at} is put again, and it is not what was there")));
                }
                self.hidden.retain(|lsn| *lsn != at.lsn);
            }
            LogWrite::Truncate(to) if self.position_at(to.lsn) != Some(*to) => {
                return Err(Violation::new("I2", format!("the log is cut off at {to}, which it does not know")));
            }
            LogWrite::Truncate(to) => {
                self.accepted.retain(|batch| batch.last_lsn() <= to.lsn);
                self.hidden.retain(|lsn| *lsn <= to.lsn);
                self.cut_off =
                    self.damaged.iter().copied().filter(|lsn| *lsn > to.lsn || self.cut_off.contains(lsn)).collect();
            }
            LogWrite::Reset { to, .. } => {
                self.accepted.clear();
                self.hidden.clear();
                self.start = *to;
            }
            LogWrite::Promise(_) | LogWrite::Settle | LogWrite::Mark(_) => {}
        }
        self.under_way.push_back((ticket, write));
        Ok(())
    }

    /// The oldest write under way reaches the disk.
    fn sync(&mut self) -> Option<Ticket> {
        let (ticket, write) = self.under_way.pop_front()?;
        match write {
            LogWrite::Append(batch) => self.durable.push(batch),
            LogWrite::Mend(batch) => {
                self.damaged.retain(|lsn| *lsn != batch.last_lsn());
                // What is found later does not keep the write-ahead log from growing.
                self.refuses &= !self.damaged.is_empty();
            }
            LogWrite::Truncate(to) => {
                self.durable.retain(|batch| batch.last_lsn() <= to.lsn);
                self.damaged.retain(|lsn| *lsn <= to.lsn);
                self.cut_off.retain(|lsn| *lsn <= to.lsn);
            }
            LogWrite::Promise(bytes) => self.promise = Promise::decode(&bytes).unwrap_or(self.promise),
            LogWrite::Settle => self.suspect = None,
            LogWrite::Mark(bytes) => self.mark = InstallMark::decode(&bytes).unwrap_or(self.mark),
            LogWrite::Reset { to, mark } => {
                self.reset(to);
                self.mark = InstallMark::decode(&mark).unwrap_or(InstallMark::NONE);
            }
        }
        Some(ticket)
    }

    /// What is on the disk begins here, and there is no mark any more.
    fn reset(&mut self, to: LogPosition) {
        self.durable.clear();
        self.damaged.clear();
        (self.durable_start, self.mark) = (to, InstallMark::NONE);
        self.suspect = self.suspect.map(|_| to.lsn.next());
    }

    /// What can be read behind a position: what is durable, and was not truncated since.
    fn read(&self, after: LogPosition) -> Vec<Batch> {
        let is_known = self.position_at(after.lsn) == Some(after) || self.hidden.contains(&after.lsn);
        if !is_known || self.start != self.durable_start {
            return Vec::new();
        }
        let same = self.accepted.iter().zip(&self.durable).take_while(|(one, other)| one == other);
        let batches = same.map(|(batch, _)| batch).filter(|batch| batch.first_lsn() > after.lsn);
        batches.take_while(|batch| !self.damaged.contains(&batch.first_lsn())).cloned().collect()
    }
}

impl Node {
    pub(super) fn new(place: usize, id: LogId) -> Self {
        let (log, node, origin) = (ModelLog::empty(id), node_id(place), LogPosition::origin(id));
        let replica = Replica::open(node, id, Promise::NONE, Lsn::ZERO, &log).on_directory(directory(node, 0));
        Self {
            id: node,
            replica,
            log,
            reads: VecDeque::new(),
            state: origin,
            disks: 0,
            own_master: false,
            said: Epoch::ZERO,
        }
    }

    /// The same node, whose log does not know by name what an open finds damaged.
    pub(super) const fn with_names_lost(mut self, hides: bool) -> Self {
        self.log.hides = hides;
        self
    }

    /// The same node, whose log does not know what rots by name either.
    pub(super) const fn with_names_forgotten(mut self, forgets: bool) -> Self {
        (self.log.forgets, self.log.hides) = (forgets, self.log.hides || forgets);
        self
    }

    /// The same node, which is its own master.
    pub(super) fn with_own_master(mut self) -> Self {
        (self.replica, self.own_master) = (self.replica.with_own_master(), true);
        self
    }

    /// The disk that it has.
    pub(super) fn directory(&self) -> DirectoryId {
        directory(self.id, self.disks)
    }

    /// One thing happens, and all that follows from it at this node.
    pub(super) fn step(&mut self, happening: Happening) -> Result<Vec<Effect>, Violation> {
        let mut effects = Vec::new();
        let input = match happening {
            Happening::Hears { from, message } => Input::Message { from, message },
            Happening::Syncs => match self.log.sync() {
                Some(ticket) => Input::Persisted(ticket),
                None => return Ok(effects),
            },
            Happening::Reads => match self.reads.pop_front() {
                Some((peer, after, purpose)) => Input::LogRead { peer, purpose, after, batches: self.log.read(after) },
                None => return Ok(effects),
            },
            Happening::Rots { at } => {
                let batch = self.log.durable.get(usize::from(at));
                self.log.damaged.extend(batch.map(Batch::first_lsn));
                self.log.damaged.sort_unstable();
                // The log's end is known, and so is what is being written.
                let last = self.log.durable.last().map(Batch::first_lsn);
                let is_written = self.log.under_way.iter().any(|(_, write)| !matches!(write, LogWrite::Promise(_)));
                let forgotten = batch.map(Batch::first_lsn).filter(|lsn| self.log.forgets && Some(*lsn) != last);
                self.log.hidden.extend(forgotten.filter(|_| !is_written));
                // Nobody reads what is being cut off.
                let cut_off = batch.map(Batch::first_lsn).filter(|lsn| self.log.is_being_cut_off(*lsn));
                self.log.cut_off.extend(cut_off);
                // It has applied no more than it must have: whoever applies may come upon it.
                Input::DamageFound { read: self.state.lsn }
            }
            Happening::Assigned(assignment) => Input::Assign(assignment),
            Happening::Accepted(epoch) => Input::ActivationAccepted(epoch),
            Happening::Writes => match self.sealed() {
                Some(batch) => Input::Propose(batch),
                None => return Ok(effects),
            },
            Happening::Up(peer, directory) => Input::PeerUp(peer, directory),
            Happening::Down(peer) => Input::PeerDown(peer),
            Happening::GivesUp => return self.give_up(),
            Happening::Crashes { survive } => {
                for _ in 0..survive {
                    self.log.sync();
                }
                self.open()?;
                return Ok(effects);
            }
            Happening::Releases => {
                let damaged = self.log.damaged();
                self.release();
                if self.log.damaged() == damaged {
                    return Ok(effects);
                }
                // It has applied no more than it must have: whoever applies may come upon it.
                Input::DamageFound { read: self.state.lsn }
            }
            Happening::Empties => {
                self.disks += 1;
                let ModelLog { id, hides, forgets, .. } = self.log;
                self.log = ModelLog { hides, forgets, ..ModelLog::empty(id) };
                (self.state, self.said) = (LogPosition::origin(self.log.id), Epoch::ZERO);
                self.open()?;
                return Ok(effects);
            }
            Happening::Loses => {
                let lost = self.log.durable.pop().map(|batch| batch.first_lsn());
                self.log.damaged.retain(|lsn| Some(*lsn) != lost);
                self.log.suspect = self.log.suspect.into_iter().chain(lost).min();
                self.open()?;
                return Ok(effects);
            }
        };
        let of = if let Input::Message { message: Message::Append { epoch, .. }, .. } = &input {
            Some(*epoch)
        } else {
            None
        };
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.outputs(input)? {
                inputs.extend(self.answer(&output));
                self.execute(output, of, &mut effects)?;
            }
        }
        if self.said <= self.log.promise.epoch {
            self.said = Epoch::ZERO;
        }
        Ok(effects)
    }

    /// Time passes, as much as it takes.
    fn give_up(&mut self) -> Result<Vec<Effect>, Violation> {
        let (mut effects, mut now) = (Vec::new(), Duration::ZERO);
        while let Some(at) = self.replica.next_tick() {
            now = now.max(at);
            for output in self.outputs(Input::Tick(now))? {
                self.execute(output, None, &mut effects)?;
            }
            if effects.iter().any(|effect| matches!(effect, Effect::StepsDown(_))) {
                break;
            }
        }
        Ok(effects)
    }

    /// An assertion of the replica that fails is a violation like any other.
    fn outputs(&mut self, input: Input) -> Result<Vec<Output>, Violation> {
        let Self { replica, log, .. } = self;
        catch_unwind(AssertUnwindSafe(|| replica.step(0, input, log))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Violation::assertion(text.unwrap_or_else(|| "a panic without words".into()))
        })
    }

    /// Executes an output of a step; `of` is the epoch of the append that it follows from.
    fn execute(&mut self, output: Output, of: Option<Epoch>, to: &mut Vec<Effect>) -> Result<(), Violation> {
        match output {
            Output::Persist { ticket, write } => {
                let said = self.said.max(self.log.promise.epoch);
                if matches!(write, LogWrite::Append(_)) && of.is_some_and(|epoch| epoch < said) {
                    let what =
                        format!("it takes a batch from epoch {}, and promised epoch {}", of.unwrap_or_default(), said);
                    return Err(Violation::new("I3", what));
                }
                self.log.accept(ticket, write)?;
            }
            Output::Send { to: peer, message } => {
                if let Message::Appended { durable, .. } = &message
                    && let Some(lsn) = self.log.damaged.iter().find(|lsn| *lsn <= durable)
                {
                    let what = format!("it acknowledges up to {durable}, and can't read {lsn}");
                    return Err(Violation::new("I1", what));
                }
                if let Message::Promise { epoch, .. } = &message {
                    self.said = self.said.max(*epoch);
                }
                to.push(Effect::Sends { to: peer, message });
            }
            Output::ReadLog { peer, after, purpose, .. } => self.reads.push_back((peer, after, purpose)),
            Output::Commit(lsn) => to.push(Effect::Commits(lsn)),
            Output::Activated(epoch) => to.push(Effect::Reports(epoch)),
            Output::Disconnect { peer, reason } => to.push(Effect::Disconnects { peer, reason }),
            Output::SteppedDown { epoch, .. } => {
                if self.replica.phase().is_some() {
                    let what = format!("the leader of epoch {} says that it leads no more, and leads", epoch.term);
                    return Err(Violation::new("I1", what));
                }
                to.push(Effect::StepsDown(epoch));
            }
            // Answered already.
            Output::TakeSnapshot { .. }
            | Output::ReadSnapshot { .. }
            | Output::StageSnapshot { .. }
            | Output::StageChunk { .. }
            | Output::InstallSnapshot { .. } => {}
            // Nobody reads here.
            Output::Serving(_)
            | Output::Superseded { .. }
            | Output::ReadsConfirmed { .. }
            | Output::ReadsRefused { .. } => {}
        }
        Ok(())
    }

    /// The batch that the sequencer seals next.
    fn sealed(&self) -> Option<Batch> {
        let (epoch, end) = self.replica.proposal_position()?;
        let block = Block::encode("x".into(), 1, Compression::Never);
        BatchBuilder::new(self.log.id, BatchKind::Data, epoch, end, 0).block(block).seal().ok()
    }

    /// What the driver does about a snapshot takes no time here, and a snapshot is one chunk: the messages are what other
    /// things happen between, and the writes to the log.
    fn answer(&mut self, output: &Output) -> Option<Input> {
        match *output {
            Output::TakeSnapshot { peer, epoch } => {
                let at = self.log.position_at(self.replica.applicable())?;
                let snapshot = SnapshotId { at, chunks: 1, bytes: 1, digest: at.chain.get().into() };
                snapshot.is_possible().then_some(Input::SnapshotTaken { peer, epoch, snapshot })
            }
            Output::ReadSnapshot { peer, epoch, snapshot, index } => {
                Some(Input::SnapshotRead { peer, epoch, snapshot, index, bytes: Some("s".into()) })
            }
            Output::StageSnapshot { snapshot } => Some(Input::SnapshotWanted { snapshot, index: 0 }),
            Output::StageChunk { snapshot, .. } => Some(Input::SnapshotStaged(snapshot)),
            Output::InstallSnapshot { snapshot } => {
                self.state = snapshot.at;
                Some(Input::SnapshotInstalled(snapshot))
            }
            _ => None,
        }
    }

    /// Up to where the log may be released, if it holds anything before that.
    pub(super) fn releasable(&self) -> Option<LogPosition> {
        let applicable = self.replica.applicable();
        // Where nothing of the log names it any more, the state does.
        let at = self.log.position_at(applicable).or_else(|| Some(self.state).filter(|at| at.lsn == applicable))?;
        let (start, is_settled) = (self.log.start, self.log.start == self.log.durable_start);
        (is_settled && at.lsn > start.lsn && at.lsn >= self.state.lsn).then_some(at)
    }

    fn release(&mut self) {
        let Some(to) = self.releasable() else { return };
        let ModelLog { start, durable_start, accepted, durable, damaged, hidden, .. } = &mut self.log;
        damaged.retain(|lsn| *lsn > to.lsn);
        hidden.retain(|lsn| *lsn > to.lsn);
        (*start, *durable_start, self.state) = (to, to, to);
        accepted.retain(|batch| batch.last_lsn() > to.lsn);
        durable.retain(|batch| batch.last_lsn() > to.lsn);
    }

    /// The process starts again, from the disk. Unless a log was released or reset, its state held nothing yet: so the replica
    /// knows of no commit.
    fn open(&mut self) -> Result<(), Violation> {
        let log = &mut self.log;
        log.under_way.clear();
        self.reads.clear();
        (log.accepted, log.start) = (log.durable.clone(), log.durable_start);
        // As the write-ahead log has it: what an open finds damaged is in doubt from there on.
        log.suspect = log.suspect.into_iter().chain(log.damaged.first().copied()).min();
        log.refuses = !log.damaged.is_empty();
        log.cut_off.clear();
        log.hide();
        let opening = log.mark.opening(self.state, (log.start, log.end()), log.position_at(self.state.lsn));
        match opening {
            Opening::Whole => {}
            Opening::Forget => log.mark = InstallMark::NONE,
            Opening::Reset(to) => {
                log.reset(to);
                (log.accepted, log.start) = (Vec::new(), to);
            }
            Opening::LogLost | Opening::StateLost => {
                let what =
                    format!("it opens with its state at {}, and its log from {}: {opening:?}", self.state, log.start);
                return Err(Violation::new("I1", what));
            }
        }
        let replica = Replica::open(self.id, self.log.id, self.log.promise, self.state.lsn, &self.log);
        let replica = replica.on_directory(self.directory()).with_state_at(self.state, &self.log);
        self.replica = if self.own_master { replica.with_own_master() } else { replica };
        Ok(())
    }

    /// The same for two nodes that will do the same.
    pub(super) fn fingerprint(&self) -> u128 {
        // The replica says what disk it is on, and whether the node is its own master.
        let Self { id: _, replica, log, reads, state, disks: _, own_master: _, said } = self;
        let ModelLog {
            id: _,
            start,
            durable_start,
            mark,
            accepted,
            durable,
            promise,
            suspect,
            damaged,
            refuses,
            hides: _,
            forgets: _,
            hidden,
            cut_off,
            under_way,
        } = log;
        let mut into = Xxh3::new();
        replica.fingerprint(&mut into);
        for batches in [accepted, durable] {
            batches.len().hash(&mut into);
            batches.iter().for_each(|batch| position(&batch.position(), &mut into));
        }
        for at in [Some(*state), Some(*start), Some(*durable_start), mark.0] {
            at.is_some().hash(&mut into);
            at.iter().for_each(|at| position(at, &mut into));
        }
        (damaged, hidden, cut_off, *refuses && !damaged.is_empty()).hash(&mut into);
        (promise.epoch, promise.leader, suspect, said, under_way.len(), reads.len()).hash(&mut into);
        for (_, write) in under_way {
            match write {
                LogWrite::Append(batch) => position(&batch.position(), &mut into),
                LogWrite::Mend(batch) => {
                    6_u8.hash(&mut into);
                    position(&batch.position(), &mut into);
                }
                LogWrite::Truncate(to) => {
                    1_u8.hash(&mut into);
                    position(to, &mut into);
                }
                LogWrite::Promise(bytes) => (2_u8, &bytes[..]).hash(&mut into),
                LogWrite::Settle => 3_u8.hash(&mut into),
                LogWrite::Mark(bytes) => (4_u8, &bytes[..]).hash(&mut into),
                LogWrite::Reset { to, mark } => {
                    (5_u8, &mark[..]).hash(&mut into);
                    position(to, &mut into);
                }
            }
        }
        for (peer, after, purpose) in reads {
            let (epoch, to) = match purpose {
                ReadPurpose::CatchUp => (None, None),
                ReadPurpose::Fetch(epoch) => (Some(epoch), None),
                ReadPurpose::Mend { epoch, to } => (Some(epoch), Some(to)),
            };
            (peer, epoch, to.is_some()).hash(&mut into);
            to.iter().for_each(|to| position(to, &mut into));
            position(after, &mut into);
        }
        into.digest128()
    }

    pub(super) fn is_serving(&self) -> bool {
        self.replica.phase() == Some(Phase::Serving)
    }

    /// What one node takes, roughly: its own size and what its collections hold.
    pub(super) fn bytes(&self) -> usize {
        let batches = self.log.accepted.capacity() + self.log.durable.capacity() + self.log.under_way.capacity();
        size_of::<Self>() + batches * size_of::<Batch>() + if self.replica.phase().is_some() { 2048 } else { 256 }
    }
}

fn position(at: &LogPosition, into: &mut impl Hasher) {
    (at.lsn, at.epoch, at.chain).hash(into);
}

//! The phases of a leader: fence, adopt, start, activate, serve.

use super::adopt::{self, PromisedLog, Told};
use super::commit::majority_durable;
use super::progress::Progress;
use super::quorum::{Quorum, QuorumLost};
use super::reads::Reads;
use super::votes::Asked;
use super::{DisconnectReason, LogView, Output, Promise, Purpose, Replica};
use crate::model::control_record::majority_of;
use crate::model::limits::CATCH_UP_READ_BYTES;
use crate::model::mutant::{Mutant, planted};
use crate::model::{
    Assignment, ControlRecord, DirectoryId, Epoch, EpochStart, LogPosition, LogSummary, Lsn, Message, NodeId,
};
use std::collections::{BTreeMap, VecDeque};
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

/// How far a leader is.
///
/// ```
/// use towline::replica::{Input, LogWrite, Output, Phase, Promise, Replica};
/// # use towline::model::{Epoch, Lsn, NodeId};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/replica.rs")); }
/// # use set_up::*;
/// # let (me, peer) = (ME, PEER);
/// # let mut master = master(&[me]);
/// # let mut log = Memory(master.log(), vec![]);
/// # let assignment = master.assign(me, Epoch::ZERO).ok_or("no epoch is left")?;
/// # let epoch = assignment.epoch;
/// let mut replica = Replica::open(me, master.log(), Promise::NONE, Lsn::ZERO, &log);
/// # let mut step = |input| {
/// #     let mut tickets = vec![];
/// #     for output in replica.step(0, input, &log) {
/// #         if let Output::Persist { ticket, write } = output {
/// #             tickets.push(ticket);
/// #             if let LogWrite::Append(batch) = write { log.1.push(batch) }
/// #         }
/// #     }
/// #     (replica.phase(), tickets)
/// # };
/// // `step` says the phase, and the tickets of what is to be made durable. This is the only voter.
/// let (phase, promise) = step(Input::Assign(assignment));
/// assert_eq!(phase, Some(Phase::Fencing));
/// let (phase, start) = step(Input::Persisted(promise[0]));
/// assert_eq!(phase, Some(Phase::Starting));
/// assert_eq!(step(Input::Persisted(start[0])).0, Some(Phase::Activating));
/// assert_eq!(step(Input::ActivationAccepted(epoch)).0, Some(Phase::Serving));
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for the promises of a majority of the voters to fence.
    Fencing,
    /// Fetching what the best log among the promises has and this one lacks.
    Adopting {
        /// From whom.
        source: NodeId,
        /// To where.
        target: LogPosition,
    },
    /// Waiting for another's copy of what can't be read in the own log.
    Mending,
    /// Waiting until the `EpochStart` is durable on a majority of the new voters.
    Starting,
    /// Waiting until the control plane accepts the activation.
    Activating,
    /// Taking writes.
    Serving,
}

/// What a replica holds while it leads.
#[derive(Debug, Clone)]
pub(super) struct Leadership {
    /// What it leads by.
    pub(super) assignment: Assignment,
    pub(super) wanted: Asked,
    /// Nobody who promised can read whose the votes are.
    pub(super) votes_unknown: bool,
    pub(super) phase: Phase,
    pub(super) promises: BTreeMap<NodeId, PromisedLog>,
    /// Who was asked for what is to be adopted, up to where its log is the one that is, and behind which position.
    pub(super) asked: Option<(NodeId, Lsn, LogPosition)>,
    /// Behind which own position it was asked to see whether the two logs are the same up to there.
    pub(super) probed: Option<LogPosition>,
    /// Behind which own position it was asked for what can't be read here, and up to where that is the same in both logs.
    pub(super) mends_behind: Option<(LogPosition, Lsn)>,
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// Where this epoch's `EpochStart` ends, once it is written.
    pub(super) start: Option<Lsn>,
    /// Recent batches, adopted ones among them: all that are not durable here, and as many more as fit.
    pub(super) tail: VecDeque<Batch>,
    pub(super) tail_bytes: usize,
    /// Where what was dropped of those ends.
    pub(super) tail_after: Option<LogPosition>,
    pub(super) reads: Reads,
    pub(super) quorum: Quorum,
}

impl Leadership {
    pub(super) const fn epoch(&self) -> Epoch {
        self.assignment.epoch
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn connect(&mut self, peer: NodeId, directory: DirectoryId) {
        let counts = counts(&self.assignment.directories, peer, directory);
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.connect(counts);
        }
    }

    pub(super) fn followers(&self) -> Vec<(NodeId, bool, Lsn)> {
        self.progress.iter().map(|(node, p)| (*node, p.is_connected(), p.durable())).collect()
    }

    /// The log ends at `lsn` now: what is kept of what was behind it was adopted, and has lost to a better log since.
    pub(super) fn truncate_tail(&mut self, lsn: Lsn) {
        while let Some(batch) = self.tail.pop_back_if(|last| last.last_lsn() > lsn) {
            self.tail_bytes -= batch.bytes().len();
        }
        self.tail_after = self.tail_after.filter(|after| after.lsn <= lsn);
    }

    /// Whether followers may be fed: the log is adopted, and has this epoch's start.
    pub(super) const fn is_feeding(&self) -> bool {
        self.start.is_some()
    }
}

/// I1, I3: whether a node's word counts where it has a vote. The vote is of the disk that the assignment names: another one of
/// the same node has promised nothing that it knows of, and does not hold what the first acknowledged.
pub(super) fn counts(votes: &BTreeMap<NodeId, DirectoryId>, node: NodeId, directory: DirectoryId) -> bool {
    votes.get(&node) == Some(&directory) || planted(Mutant::VoteAfterAmnesia)
}

impl Replica {
    /// Begins to lead an epoch: binds itself, then asks the others to.
    ///
    /// An assignment that is not newer than the promise changes nothing: the control plane hears `Superseded` and assigns again.
    /// Nor does one that nobody could follow, and of that nothing is heard, since it is whoever made it that is wrong: one for
    /// another node or log, one that contradicts itself, one that replaces a vote's disk at once.
    pub(super) fn assign(&mut self, assignment: Assignment, _log: &dyn LogView, out: &mut Vec<Output>) {
        let epoch = assignment.epoch;
        if assignment.leader != self.id || assignment.log != self.log_id || assignment.check().is_err() {
            return;
        }
        if epoch <= self.promise.epoch {
            out.push(Output::Superseded { promised: self.promise.epoch });
            return;
        }
        let Ok(changes) = self.changes_votes(&assignment) else { return };
        // Who led before and leads again was not superseded: what it sealed stays in its log, unless another led between and the
        // log that is adopted lacks it; then a truncation says so.
        self.end_leadership(out);
        self.make_promise(Promise { epoch, leader: Some(self.id), disk: Some(self.directory) }, out);
        let others: std::collections::BTreeSet<NodeId> =
            [&assignment.fence, &assignment.voters, &assignment.learners].into_iter().flatten().copied().collect();
        let mut progress = BTreeMap::new();
        for peer in others.into_iter().filter(|peer| *peer != self.id) {
            let directory = self.connected.get(&peer);
            let counts = directory.is_some_and(|directory| counts(&assignment.directories, peer, *directory));
            progress.insert(peer, Progress::new(directory.is_some(), counts));
            if directory.is_some() {
                out.push(Output::Send { to: peer, message: Message::Fence { epoch, leader: self.id } });
            }
        }
        self.leadership = Some(Box::new(Leadership {
            wanted: Asked::new(&assignment, changes),
            votes_unknown: false,
            assignment,
            phase: Phase::Fencing,
            promises: BTreeMap::new(),
            asked: None,
            probed: None,
            mends_behind: None,
            progress,
            start: None,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_after: None,
            reads: Reads::default(),
            quorum: Quorum::default(),
        }));
    }

    pub(super) fn own_promise_durable(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        self.count_own_promise(log);
        self.try_adopt(now_micros, log, out);
    }

    fn count_own_promise(&mut self, log: &dyn LogView) {
        let (id, directory, suspect, votes) = (self.id, self.directory, self.suspect, self.own_votes(log));
        let log = self.summary(log);
        if let Some(leadership) = &mut self.leadership {
            let counts = counts(&leadership.assignment.directories, id, directory);
            let damaged = self.damage.ranges().to_vec();
            let own = PromisedLog { log, damaged, suspect, votes, counts };
            leadership.promises.insert(id, own);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn promise_received(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        summary: LogSummary,
        suspect: Option<Lsn>,
        votes: Option<BTreeMap<NodeId, DirectoryId>>,
        now_micros: u64,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let boundary = self.boundary_at_or_before(summary.end.lsn, log);
        let Some(leadership) = self.leadership.as_mut().filter(|l| l.epoch() == epoch) else { return };
        if summary.end.epoch >= epoch && leadership.start.is_none() {
            // I2: an epoch has one history, and this one was begun, by this node's disk that is lost.
            self.end_leadership(out);
            out.push(Output::Superseded { promised: summary.end.epoch });
            return;
        }
        let Some(progress) = leadership.progress.get_mut(&from) else { return };
        let has = summary.end.lsn.min(self.end.lsn);
        progress.lower_durable(summary.end.lsn, suspect);
        let counts = progress.counts();
        // What it said of that came before: with the connection, and whenever it was more.
        let damaged = self.damage.of_peer(from).to_vec();
        leadership.promises.insert(from, PromisedLog { log: summary, damaged, suspect, votes, counts });
        if leadership.start.is_some() {
            // Late, or again: it is fed from where its log ends; should the logs differ there, it says so.
            progress.restart_at(boundary);
            progress.note_offered(has); // Also what this log can't name at present: it may acknowledge that.
            self.feed(from, log, out);
        } else if leadership.phase == Phase::Fencing {
            self.try_adopt(now_micros, log, out);
        } else if leadership.phase == Phase::Mending {
            self.adopt_better(now_micros, log, out);
        } else {
            self.adopt_if_stuck(now_micros, log, out);
        }
    }

    /// While it waits for what it can't read: in a better log something else may be there. Not while its own becomes another: what it
    /// has promised of that is of before (I1), and it looks again then.
    fn adopt_better(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let is_reset = self.under_way.iter().any(|(_, purpose)| matches!(purpose, Purpose::Reset(_)));
        if is_reset || self.installing.is_some() {
            return;
        }
        self.count_own_promise(log);
        self.try_adopt(now_micros, log, out);
        if self.phase() == Some(Phase::Mending) {
            self.seek_mend(log, out); // Whoever promised now may have it.
        }
    }

    /// With enough promises, takes over the best log (I1): fetches what it lacks, drops what lost.
    fn try_adopt(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let id = self.id;
        let Ok((named_by, votes)) = self.count_by_logs(log) else { return };
        let Some(leadership) = self.leadership.as_mut() else { return };
        let Assignment { fence, fence_quorum, voters, .. } = &leadership.assignment;
        let new_voters = (voters, majority_of(voters.len()));
        let (fence, needed) = if planted(Mutant::FenceNewVoters) { new_voters } else { (fence, *fence_quorum) };
        if !leadership.promises.contains_key(&id) || !adopt::enough(fence, needed, &votes, &leadership.promises) {
            return;
        }
        // Also of who has no vote: whose the votes are is in no log before all that was committed.
        let source = named_by.unwrap_or_else(|| adopt::best(id, fence, &leadership.promises));
        let Some(theirs) = leadership.promises.get(&source).cloned() else { return };
        let ours = self.summary(log);
        if source == id || adopt::rank(&theirs.log) <= adopt::rank(&ours) {
            if !self.mends_first(log, out) {
                self.start_epoch(now_micros, log, out);
            }
            return;
        }
        if self.leadership.as_ref().is_some_and(|leadership| leadership.assignment.founding) {
            // I1: whose logs these are is not known here, so nor is how many of the voters that acknowledged to them are left.
            self.step_down(QuorumLost::Bettered, out);
            return;
        }
        let Some(common) = self.drop_what_lost(source, &ours, &theirs, log, out) else { return };
        if self.mends_first(log, out) {
            return; // Nothing is appended behind damage.
        }
        if let Some(leadership) = &mut self.leadership {
            leadership.phase = Phase::Adopting { source, target: theirs.log.end };
        }
        if planted(Mutant::StartBeforeAdoption) {
            self.start_epoch(now_micros, log, out);
            return;
        }
        self.fetch_from(common, out);
    }

    /// Cuts off what is not in the log that is taken over; gives the position behind which that is asked for. None: not yet.
    fn drop_what_lost(
        &mut self,
        source: NodeId,
        ours: &LogSummary,
        theirs: &PromisedLog,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) -> Option<LogPosition> {
        // What it can't read it knows all the same: where its epochs begin. Only a log in doubt may have learnt less when it was opened.
        let unknown = if self.suspect.is_some() { self.damage.ranges() } else { &[] };
        let told = Told { log: ours, damaged: unknown };
        let shared = adopt::common_point(told, theirs.told()).max(self.shared_by_name(ours, theirs.told(), log));
        if let Some(last) = adopt::may_share_more(told, theirs.told(), shared) {
            if !self.mends_first(log, out) {
                self.probe(source, theirs.log.end, last, log, out);
            }
            return None;
        }
        let told_from = adopt::told_from(&theirs.log);
        // Where they share no epoch, and the other begins later: nothing tells where they part, so nothing is cut off. It is
        // asked for what is behind the last that is certain, and offers a snapshot, if it has that no more.
        let is_unknown = shared == Lsn::ZERO && told_from > Lsn::FIRST && self.committed < told_from;
        let common = self.boundary_at_or_before(if is_unknown { self.committed } else { shared }, log);
        let next = common.lsn.next();
        let is_unnamed = unknown.iter().any(|(first, last)| *first <= next && next <= *last);
        let is_held = shared >= log.start().lsn && common.lsn < shared.min(self.end.lsn);
        if !is_unknown && is_held && !is_unnamed {
            // I1: what lies there is in both logs, and its names can't be read here: it is put again, or can be read in a moment. Of
            // damage without names that an open came upon, the log is in doubt.
            let is_damage = self.damage.sound_to() < shared && self.damage.sound_to() >= common.lsn;
            if is_damage {
                self.mend_behind((common, shared), source, theirs.log.end, out);
            } else if !self.mends_first(log, out) {
                self.wait_for_names(source, theirs.log.end);
            }
            return None;
        }
        if common.lsn < self.end.lsn && !is_unknown {
            if common.lsn < self.committed {
                // Unless it is only that it can't be read here.
                if !self.mends_first(log, out) {
                    let reason = DisconnectReason::ContradictsCommitted;
                    out.push(Output::Disconnect { peer: source, reason });
                }
                return None;
            }
            self.truncate(common, out);
        }
        Some(common)
    }

    /// What is behind `after` can't be read here, and is not known by name, so that who lacks what follows can't tell whether it has it. It
    /// is fetched, and put again in its place; nothing is cut off before all of it is here (I1).
    fn mend_behind(
        &mut self,
        (after, shared): (LogPosition, Lsn),
        source: NodeId,
        target: LogPosition,
        out: &mut Vec<Output>,
    ) {
        if let Some(leadership) = self.leadership.as_mut() {
            leadership.phase = Phase::Adopting { source, target };
        }
        self.fetch_from(after, out);
        if let Some(leadership) = self.leadership.as_mut() {
            leadership.mends_behind = leadership.asked.map(|_| (after, shared));
        }
    }

    /// Nobody is asked for anything: what is missing is the own disk's to give. It is looked again as time passes, and when somebody
    /// promises.
    fn wait_for_names(&mut self, source: NodeId, target: LogPosition) {
        if let Some(leadership) = self.leadership.as_mut() {
            (leadership.asked, leadership.probed, leadership.mends_behind) = (None, None, None);
            leadership.phase = Phase::Adopting { source, target };
        }
    }

    /// How far the other log is certainly the same, by what this one knows by name, also where it can't read that. I1: what it tells of
    /// itself says less, and less would be cut off of what it held: then one disk less would say that it was there, until it is fetched again.
    fn shared_by_name(&self, ours: &LogSummary, theirs: Told<'_>, log: &dyn LogView) -> Lsn {
        let known = |(index, (epoch, _)): (usize, &(Epoch, Lsn))| {
            let own_last = ours.epochs.get(index + 1).map_or(ours.end.lsn, |(_, next)| next.prev());
            let known = self.boundary_at_or_before(theirs.last_certain_of(*epoch)?.min(own_last), log);
            (known.epoch == *epoch).then_some(known.lsn)
        };
        ours.epochs.iter().enumerate().rev().find_map(known).unwrap_or(Lsn::ZERO)
    }

    /// Nothing is cut off before it is known whether the other log had it, which ends its damage with `last`: what is behind that says
    /// so, if it continues the own log. Otherwise this waits until the other is mended, from here perhaps, and says its log anew.
    fn probe(&mut self, source: NodeId, target: LogPosition, last: Lsn, log: &dyn LogView, out: &mut Vec<Output>) {
        let after = self.position_at(last, log).filter(|after| after.lsn >= self.committed);
        let Some(leadership) = self.leadership.as_mut() else { return };
        leadership.phase = Phase::Adopting { source, target };
        (leadership.asked, leadership.probed, leadership.mends_behind) = (None, None, None);
        if let Some(after) = after {
            (leadership.asked, leadership.probed) = (Some((source, target.lsn, after)), Some(after));
            let bytes_max = u32::try_from(CATCH_UP_READ_BYTES).unwrap_or(u32::MAX);
            out.push(Output::Send {
                to: source,
                message: Message::Fetch { epoch: self.promise.epoch, after, bytes_max },
            });
        }
    }

    /// A log that can't be read in part is not led from: its followers could not be fed, nor its state made (I1).
    fn mends_first(&mut self, log: &dyn LogView, out: &mut Vec<Output>) -> bool {
        if self.damage.is_none() || planted(Mutant::LeadDamaged) {
            return false;
        }
        if let Some(leadership) = &mut self.leadership {
            leadership.phase = Phase::Mending;
        }
        self.seek_mend(log, out);
        true
    }

    /// Asks for what is behind `after` in the log that is adopted: whose log it is, or, where that can't read it, whoever else
    /// has promised and has the same (one intact copy is enough). Nobody: it waits for more promises, and for somebody to be mended.
    fn fetch_from(&mut self, after: LogPosition, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut() else { return };
        let Phase::Adopting { source, target } = leadership.phase else { return };
        let Some(best) = leadership.promises.get(&source).map(PromisedLog::told) else { return };
        let next = after.lsn.next();
        let shared = |promise: &PromisedLog| adopt::common_point(promise.told(), best).min(target.lsn);
        let others = leadership.promises.iter().map(|(node, promise)| (*node, shared(promise)));
        let may = |node: &NodeId| self.connected.contains_key(node) && !self.damage.is_damaged_at(*node, next);
        let first = std::iter::once((source, target.lsn)).filter(|(node, _)| may(node));
        let found = first.chain(others.filter(|(node, to)| *to >= next && may(node))).next();
        leadership.asked = found.map(|(node, to)| (node, to, after));
        (leadership.probed, leadership.mends_behind) = (None, None);
        if let Some((to, ..)) = leadership.asked {
            let bytes_max = u32::try_from(CATCH_UP_READ_BYTES).unwrap_or(u32::MAX);
            out.push(Output::Send { to, message: Message::Fetch { epoch: self.promise.epoch, after, bytes_max } });
        }
    }

    /// Looks again for what nobody had.
    pub(super) fn adopt_if_stuck(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let leadership = self.leadership.as_deref();
        let is_stuck = |l: &Leadership| match l.phase {
            Phase::Adopting { .. } => l.asked.is_none(),
            Phase::Fencing => l.votes_unknown,
            _ => false,
        };
        if leadership.is_some_and(is_stuck) {
            self.adopt_again(now_micros, log, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn fetched(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        after: LogPosition,
        batches: Vec<Batch>,
        now_micros: u64,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let Some(leadership) = self.leadership.as_ref().filter(|l| l.epoch() == epoch) else { return };
        if leadership.phase == Phase::Mending {
            self.no_state_of(from, log, out);
            return;
        }
        let Phase::Adopting { target, .. } = leadership.phase else { return };
        // An answer to what was asked before says nothing of this.
        let Some((_, to, _)) = leadership.asked.filter(|(of, _, behind)| *of == from && *behind == after) else {
            return;
        };
        if let Some((_, shared)) = leadership.mends_behind.filter(|(behind, _)| *behind == after) {
            let mut mending = self.mending().filter(|mending| mending.next == after.lsn.next());
            // I2: behind that the logs may be different ones, and the damage goes on: this one's and the best, or the best and the one
            // that was asked.
            let all_have = batches.iter().take_while(|batch| batch.last_lsn() <= shared.min(to));
            all_have.for_each(|batch| self.mend_by(batch, &mut mending, log, out));
            self.wait_for_mend(); // Until that is durable, which is a reason to look again.
            return;
        }
        if leadership.probed == Some(after) {
            let may_follow =
                |batch: &Batch| batch.follows(&after) && batch.log() == self.log_id && batch.epoch() < epoch;
            let continues = batches.first().is_some_and(|batch| may_follow(batch) && batch.last_lsn() <= to);
            if !continues || self.position_at(after.lsn, log) != Some(after) || after.lsn < self.committed {
                self.wait_for_mend();
                return;
            }
            if after.lsn < self.end.lsn {
                self.truncate(after, out);
            }
        }
        if batches.is_empty() && self.damage.is_damaged_at(from, after.lsn.next()) {
            // It came upon that when it read, and said so.
            self.fetch_from(self.end, out);
            return;
        }
        if batches.is_empty() {
            out.push(Output::Disconnect { peer: from, reason: DisconnectReason::MissingBatches });
            return;
        }
        if after != self.end {
            return;
        }
        let before = self.end;
        for batch in batches {
            if self.end.lsn >= target.lsn || batch.last_lsn() > to {
                break;
            }
            if !batch.follows(&self.end) || batch.log() != self.log_id || batch.epoch() >= epoch {
                out.push(Output::Disconnect { peer: from, reason: DisconnectReason::BrokenChain });
                return;
            }
            // Kept in memory, too: the followers lack it as well, and till it is durable here it can't be read from the log.
            self.lead_append(batch, out);
        }
        self.trim_tail();
        if self.end.lsn >= target.lsn {
            if !self.mends_first(log, out) {
                self.start_epoch(now_micros, log, out);
            }
            return;
        }
        if self.end == before {
            self.wait_for_mend(); // Whoever has no more of it than that would be asked for the same, again and again.
            return;
        }
        self.fetch_from(self.end, out);
    }

    /// What was asked for did not help: nobody is asked until somebody says something else, or time has passed.
    fn wait_for_mend(&mut self) {
        if let Some(leadership) = &mut self.leadership {
            leadership.asked = None;
        }
    }

    /// Writes the `EpochStart` behind the adopted log: in the same order of the same log, so that the epoch is
    /// never durable without the entries that it stands on.
    fn start_epoch(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leadership) = &self.leadership else { return };
        let assignment = leadership.assignment.clone();
        let epoch = assignment.epoch;
        let record = ControlRecord::EpochStart(EpochStart { assignment, parent: self.end });
        let batch = record.encode().map_err(|error| error.to_string()).and_then(|raw| {
            BatchBuilder::new(self.log_id, BatchKind::Control, epoch, self.end, now_micros)
                .block(Block::encode(raw, 1, Compression::Never))
                .seal()
                .map_err(|error| error.to_string())
        });
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => unreachable!("an assignment that was checked fits a batch: {error}"),
        };
        if let Some(leadership) = &mut self.leadership {
            leadership.phase = Phase::Starting;
            leadership.start = Some(batch.last_lsn());
        }
        self.lead_append(batch, out);
        self.restart_followers(log);
        self.feed_all(log, out);
    }

    /// Every follower that promised is fed from where its log ended then.
    fn restart_followers(&mut self, log: &dyn LogView) {
        let Some(leadership) = &self.leadership else { return };
        let ends: Vec<_> = leadership.promises.iter().map(|(node, promise)| (*node, promise.log.end.lsn)).collect();
        for (node, end) in ends {
            let boundary = self.boundary_at_or_before(end, log);
            let progress = self.leadership.as_mut().and_then(|l| l.progress.get_mut(&node));
            if let Some(progress) = progress.filter(|progress| progress.is_connected()) {
                progress.restart_at(boundary);
                progress.note_offered(end.min(self.end.lsn)); // As above.
            }
        }
    }

    /// Takes a batch that the sequencer sealed behind the present end.
    pub(super) fn propose(&mut self, batch: Batch, log: &dyn LogView, out: &mut Vec<Output>) {
        assert_eq!(self.phase(), Some(Phase::Serving), "the sequencer seals only while writes are taken");
        assert!(batch.follows(&self.end), "the sequencer seals behind the log's end");
        self.lead_append(batch, out);
        self.feed_all(log, out);
    }

    fn lead_append(&mut self, batch: Batch, out: &mut Vec<Output>) {
        if let Some(leadership) = &mut self.leadership {
            leadership.tail_bytes += batch.bytes().len();
            leadership.tail.push_back(batch.clone());
        }
        self.append(batch, out);
    }

    /// Something became durable, here or at a follower: the phase or the commit position may move.
    pub(super) fn advance_leader(&mut self, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut() else { return };
        let Some(start) = leadership.start else { return };
        // Nobody who votes alone is to be fed, or told what it has: what its state has already may rot, and it goes on.
        let is_alone = leadership.assignment.voters[..] == [self.id];
        let sound = if is_alone { self.damage.readable_to() } else { self.damage.sound_to() };
        let sound = self.durable.lsn.min(sound);
        let own_counts = counts(&leadership.assignment.directories, self.id, self.directory);
        let own = (self.id, if own_counts { sound } else { Lsn::ZERO });
        let durable: Vec<(NodeId, Lsn)> = leadership
            .assignment
            .voters
            .iter()
            .map(|voter| leadership.progress.get(voter).map_or(own, |progress| (*voter, progress.counted())))
            .collect();
        let secured = majority_durable(self.id, &durable);
        leadership.quorum.note_secured(secured);
        if leadership.phase == Phase::Starting && secured >= start {
            leadership.phase = Phase::Activating;
            out.push(Output::Activated(leadership.assignment.epoch));
        }
        // I1, I3: nothing of an epoch commits before it is activated, and nothing older by its own count.
        let activated = leadership.phase == Phase::Serving || planted(Mutant::CommitBeforeActivation);
        if planted(Mutant::CommitOldEpoch) && !activated {
            let older = secured.min(start.prev());
            self.learn_commit(older, out);
        } else if activated && secured >= start {
            self.learn_commit(secured.min(self.end.lsn), out);
            self.begin_round(out);
        }
        self.feed_all(log, out);
    }

    pub(super) fn activation_accepted(&mut self, epoch: Epoch, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut() else { return };
        if leadership.epoch() != epoch || leadership.phase != Phase::Activating {
            return;
        }
        leadership.phase = Phase::Serving;
        out.push(Output::Serving(epoch));
        self.advance_leader(log, out);
    }

    pub(super) fn acknowledged(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        durable: Lsn,
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let Some(leadership) = self.leadership.as_mut().filter(|l| l.epoch() == epoch) else { return };
        let Some(progress) = leadership.progress.get_mut(&from) else { return };
        if progress.note_durable(durable) {
            self.ask_again_for_damage(from, durable, log, out);
            self.advance_leader(log, out);
        } else {
            out.push(Output::Disconnect { peer: from, reason: DisconnectReason::ImpossibleAcknowledgement });
        }
    }

    /// The follower's log differs where it was fed: feeding begins again where the two logs part.
    pub(super) fn mismatched(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        (refused, theirs): (Lsn, &LogSummary),
        log: &dyn LogView,
        out: &mut Vec<Output>,
    ) {
        let ours = self.summary(log);
        let damaged = self.damage.of_peer(from);
        let end = theirs.end.lsn;
        let theirs = Told { log: theirs, damaged };
        let shared = adopt::common_point(Told { log: &ours, damaged: self.damage.ranges() }, theirs);
        // Where its log ends it has a position, whatever is damaged. Where this log has nothing before the damage, it would offer a
        // snapshot, again and again, to one that needs none; and what the other has just refused it may have released since.
        let is_hidden = |at: &Lsn| shared != end && *at >= log.start().lsn && *at != refused;
        let from_where = Some(adopt::before_damage(damaged, shared)).filter(is_hidden);
        let common = self.boundary_at_or_before(from_where.unwrap_or(shared), log);
        let Some(leadership) = self.leadership.as_mut().filter(|l| l.epoch() == epoch) else { return };
        // Of several messages on their way each is refused: what is behind there is being read already.
        let is_read = |progress: &Progress| progress.is_reading() && progress.sent() == Some(common);
        let progress = leadership.progress.get_mut(&from).filter(|progress| !is_read(progress));
        if let Some(progress) = progress.filter(|_| leadership.start.is_some()) {
            progress.restart_at(common);
            progress.note_offered(end.min(self.end.lsn)); // As above.
            self.feed(from, log, out);
        }
    }

    /// A peer promised a newer epoch: this leader is out of date.
    ///
    /// Only an answer to the present epoch counts: one to an earlier epoch of this very leader names a promise
    /// that may be its own.
    pub(super) fn refused(&mut self, epoch: Epoch, promised: Epoch, out: &mut Vec<Output>) {
        if self.leadership.as_ref().is_some_and(|leadership| leadership.epoch() == epoch) {
            self.end_leadership(out);
            out.push(Output::Superseded { promised });
        }
    }

    pub(super) fn lost_peer(&mut self, peer: NodeId, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut() else { return };
        if let Some(progress) = leadership.progress.get_mut(&peer) {
            progress.disconnect();
        }
        let asked = leadership.asked.is_some_and(|(of, ..)| of == peer);
        let adopting_from = matches!(leadership.phase, Phase::Adopting { source, .. } if source == peer || asked);
        if leadership.start.is_none() {
            leadership.promises.remove(&peer);
        }
        if adopting_from {
            self.adopt_again(now_micros, log, out);
        }
    }

    /// What was fetched so far is a part of the best log; who has the best one now is asked for the rest.
    pub(super) fn adopt_again(&mut self, now_micros: u64, log: &dyn LogView, out: &mut Vec<Output>) {
        let Some(leadership) = self.leadership.as_mut().filter(|l| !l.is_feeding()) else { return };
        leadership.phase = Phase::Fencing;
        leadership.asked = None;
        if leadership.promises.contains_key(&self.id) {
            self.count_own_promise(log);
            self.try_adopt(now_micros, log, out);
        }
    }
}

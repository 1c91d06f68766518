//! The replica as a conversation: three replicas with logs in memory, messages delivered by hand.

use super::{Input, InstallMark, LogView, LogWrite, Output, Phase, Promise, Replica, Ticket};
use crate::control::ConfigMaster;
use crate::model::{
    Assignment, ClusterId, DirectoryId, Epoch, EpochStart, LogId, LogPosition, LogSummary, Lsn, Message, NamespaceId,
    NodeId, ShardDescriptor, ShardId,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use towline_wal::{Batch, BatchBuilder, BatchKind, Block, Compression};

/// A log in memory: batches, and how many of them are durable.
#[derive(Debug, Clone)]
pub(super) struct TestLog {
    pub(super) id: LogId,
    pub(super) start: LogPosition,
    pub(super) batches: Vec<Batch>,
    pub(super) durable: usize,
    pub(super) suspect: Option<Lsn>,
    pub(super) damaged: Vec<Lsn>,
    /// Of these, damaged as well, nothing is known by name.
    pub(super) hidden: Vec<Lsn>,
    /// Where such damage ends is known all the same.
    pub(super) has_footers: bool,
    /// The record that says whose the votes are can't be read at this moment.
    pub(super) start_unread: bool,
}

impl TestLog {
    fn position(&self, count: usize) -> LogPosition {
        count.checked_sub(1).map_or(self.start, |last| self.batches[last].position())
    }

    fn known(&self) -> impl DoubleEndedIterator<Item = LogPosition> {
        (0..=self.batches.len()).map(|count| self.position(count)).filter(|at| !self.hidden.contains(&at.lsn))
    }
}

impl LogView for TestLog {
    fn start(&self) -> LogPosition {
        self.start
    }
    fn end(&self) -> LogPosition {
        self.position(self.batches.len())
    }
    fn durable_end(&self) -> LogPosition {
        self.position(self.durable)
    }
    fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
        self.known().find(|position| position.lsn == lsn)
    }
    fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        self.known().rfind(|position| position.lsn <= lsn)
    }
    fn epochs(&self) -> Vec<(Epoch, Lsn)> {
        let mut epochs: Vec<(Epoch, Lsn)> = Vec::new();
        // While nothing is in doubt, what a reader can't read any more is in the index all the same.
        let is_known = |batch: &&Batch| self.suspect.is_none() || !self.hidden.contains(&batch.last_lsn());
        for batch in self.batches.iter().filter(is_known) {
            if epochs.last().is_none_or(|(epoch, _)| *epoch != batch.epoch()) {
                epochs.push((batch.epoch(), batch.first_lsn()));
            }
        }
        epochs
    }
    fn suspect(&self) -> Option<Lsn> {
        self.suspect
    }
    fn damaged(&self) -> Vec<(Lsn, Lsn)> {
        self.damaged.iter().map(|lsn| (*lsn, *lsn)).collect()
    }
    fn damage_end(&self, last: Lsn) -> Option<LogPosition> {
        let at = self.batches.iter().map(Batch::position).find(|at| at.lsn == last)?;
        (self.has_footers && self.hidden.contains(&last)).then_some(at)
    }
    fn mendable(&self, batches: &[Batch]) -> usize {
        let fits = |batch: &&Batch| {
            let at = batch.position();
            let next = self.batches.iter().find(|next| next.first_lsn() == at.lsn.next());
            let leads_on = next.is_none_or(|next| self.hidden.contains(&next.last_lsn()) || next.follows(&at));
            let is_there = self.position_at(at.lsn).is_none_or(|there| there == at);
            self.damaged.contains(&at.lsn) && is_there && leads_on
        };
        batches.iter().take_while(fits).count()
    }

    fn last_start(&self) -> Option<EpochStart> {
        let (at, start) = self.batches.iter().rev().find_map(|it| Some((it.last_lsn(), EpochStart::in_batch(it)?)))?;
        (!self.start_unread && !self.damaged.contains(&at)).then_some(start)
    }
}

/// One node: a replica, its log, and what it has not synced.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) replica: Replica,
    pub(super) log: TestLog,
    promise: Promise,
    unsynced: Vec<Ticket>,
    pub(super) sent: Vec<(NodeId, Message)>,
    pub(super) reads: Vec<(NodeId, LogPosition, super::ReadPurpose)>,
    pub(super) said: Vec<String>,
    /// What it asked for snapshots' sake.
    pub(super) asked: Vec<Output>,
}

impl Node {
    fn new(id: NodeId, log: LogId) -> Self {
        Self::on(id, log, DirectoryId::default())
    }

    pub(super) fn on(id: NodeId, log: LogId, directory: DirectoryId) -> Self {
        let start = LogPosition::origin(log);
        let log = TestLog {
            id: log,
            start,
            batches: Vec::new(),
            durable: 0,
            suspect: None,
            damaged: Vec::new(),
            hidden: Vec::new(),
            has_footers: false,
            start_unread: false,
        };
        let replica = Replica::open(id, log.id, Promise::NONE, Lsn::ZERO, &log).on_directory(directory);
        Self {
            replica,
            log,
            promise: Promise::NONE,
            unsynced: Vec::new(),
            sent: Vec::new(),
            reads: Vec::new(),
            said: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// These batches, each of one record, can't be read any more, and the driver comes upon that.
    pub(super) fn rot(&mut self, lsns: &[u64]) {
        self.log.damaged = lsns.iter().map(|lsn| Lsn::new(*lsn)).collect();
        self.step(Input::DamageFound { read: self.replica.applicable() });
    }

    /// The same, and nothing is left of them by name. What an open finds is in doubt.
    pub(super) fn lose_names(&mut self, id: NodeId, lsns: &[u64]) {
        self.log.damaged = lsns.iter().map(|lsn| Lsn::new(*lsn)).collect();
        self.log.hidden = self.log.damaged.clone();
        self.log.suspect = self.log.damaged.first().copied();
        self.crash(id);
    }

    /// Loses what was not synced, and opens again.
    pub(super) fn crash(&mut self, id: NodeId) {
        self.log.batches.truncate(self.log.durable);
        self.unsynced.clear();
        self.sent.clear();
        self.reads.clear();
        let applied = self.log.start.lsn; // What was released is in the state.
        self.replica = Replica::open(id, self.log.id, self.promise, applied, &self.log);
    }

    pub(super) fn step(&mut self, input: Input) {
        let outputs = self.replica.step(1, input, &self.log);
        for output in outputs {
            match output {
                Output::Persist { ticket, write } => {
                    match write {
                        LogWrite::Append(batch) => {
                            let end = self.log.end();
                            assert!(batch.follows(&end), "the replica appends behind the log's end");
                            let is_free = self.log.damaged.iter().all(|lsn| *lsn <= end.lsn);
                            assert!(is_free, "the log takes nothing where something damaged lies behind its end");
                            self.log.batches.push(batch);
                        }
                        LogWrite::Truncate(to) => {
                            assert_eq!(self.log.position_at(to.lsn), Some(to), "it knows where it is cut off");
                            self.log.batches.retain(|batch| batch.last_lsn() <= to.lsn);
                            self.log.durable = self.log.durable.min(self.log.batches.len());
                            self.log.damaged.retain(|lsn| *lsn <= to.lsn);
                            self.log.hidden.retain(|lsn| *lsn <= to.lsn);
                        }
                        LogWrite::Promise(bytes) => self.promise = Promise::decode(&bytes).unwrap(),
                        LogWrite::Mend(batch) => {
                            assert!(self.log.batches.contains(&batch), "what is put again is what was there");
                            self.log.damaged.retain(|lsn| *lsn < batch.first_lsn() || *lsn > batch.last_lsn());
                            self.log.hidden.retain(|lsn| *lsn != batch.last_lsn());
                        }
                        LogWrite::Settle => self.log.suspect = None,
                        LogWrite::Mark(mark) => {
                            self.said.push(format!("Mark, {:?}", InstallMark::decode(&mark).unwrap()));
                        }
                        LogWrite::Reset { to, mark } => {
                            self.said.push(format!("Reset, {:?}", InstallMark::decode(&mark).unwrap()));
                            self.log.batches.clear();
                            (self.log.start, self.log.durable) = (to, 0);
                            (self.log.damaged, self.log.hidden) = (Vec::new(), Vec::new());
                        }
                    }
                    self.unsynced.push(ticket);
                }
                Output::Send { to, message } => self.sent.push((to, message)),
                Output::ReadLog { peer, after, purpose, .. } => self.reads.push((peer, after, purpose)),
                asked @ (Output::TakeSnapshot { .. }
                | Output::ReadSnapshot { .. }
                | Output::StageSnapshot { .. }
                | Output::StageChunk { .. }
                | Output::InstallSnapshot { .. }) => self.asked.push(asked),
                other => self.said.push(format!("{other:?}")),
            }
        }
    }

    pub(super) fn sync(&mut self) {
        self.log.durable = self.log.batches.len();
        for ticket in std::mem::take(&mut self.unsynced) {
            self.step(Input::Persisted(ticket));
        }
    }

    pub(super) fn answer_reads(&mut self) {
        for (peer, after, purpose) in std::mem::take(&mut self.reads) {
            let batches = self.log.batches[..self.log.durable].iter();
            let batches = batches.filter(|batch| batch.first_lsn() > after.lsn);
            let batches = batches.take_while(|batch| !self.log.damaged.contains(&batch.first_lsn())).cloned().collect();
            self.step(Input::LogRead { peer, purpose, after, batches });
        }
    }
}

pub(super) struct World {
    nodes: BTreeMap<NodeId, Node>,
    master: ConfigMaster,
}

pub(super) const A: NodeId = NodeId::new(1);
pub(super) const B: NodeId = NodeId::new(2);
pub(super) const C: NodeId = NodeId::new(3);

impl World {
    pub(super) fn new() -> Self {
        Self::voting(&[A, B, C])
    }

    /// Of these nodes alone vote.
    pub(super) fn voting(voters: &[NodeId]) -> Self {
        let shard = ShardDescriptor {
            shard: ShardId::new(1),
            namespace: NamespaceId::new(1),
            start: Vec::new(),
            end: Vec::new(),
        };
        let mut master = ConfigMaster::new(ClusterId::new([1; 16]), shard, voters);
        for id in voters {
            master.meet(*id, DirectoryId::default());
        }
        master.note_votes(Some(voters.iter().map(|id| (*id, DirectoryId::default())).collect()));
        let nodes = [A, B, C].map(|id| (id, Node::new(id, master.log()))).into();
        let mut world = Self { nodes, master };
        for (x, y) in [(A, B), (A, C), (B, C)] {
            world.connect(x, y);
        }
        world
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn connect(&mut self, x: NodeId, y: NodeId) {
        self.node(x).step(Input::PeerUp(y, DirectoryId::default()));
        self.node(y).step(Input::PeerUp(x, DirectoryId::default()));
    }

    pub(super) fn cut(&mut self, x: NodeId, y: NodeId) {
        for (one, other) in [(x, y), (y, x)] {
            self.node(one).sent.retain(|(to, _)| *to != other);
            self.node(one).step(Input::PeerDown(other));
        }
    }

    /// The next assignment, which nobody has heard of.
    pub(super) fn assignment(&mut self, leader: NodeId) -> Assignment {
        let promised = self.nodes.values().map(|node| node.replica.promise().epoch).max().unwrap();
        self.master.assign(leader, promised).unwrap()
    }

    pub(super) fn assign(&mut self, leader: NodeId) -> Assignment {
        let assignment = self.assignment(leader);
        self.node(leader).step(Input::Assign(assignment.clone()));
        assignment
    }

    /// Each message that is on its way arrives, and no answer to it; whether there was one.
    pub(super) fn hop(&mut self) -> bool {
        let sent: Vec<_> = [A, B, C].map(|id| (id, std::mem::take(&mut self.node(id).sent))).into();
        let mut moved = false;
        for (from, (to, message)) in sent.into_iter().flat_map(|(from, sent)| sent.into_iter().map(move |s| (from, s)))
        {
            moved = true;
            self.node(to).step(Input::Message { from, message });
        }
        [A, B, C].into_iter().for_each(|id| self.node(id).answer_reads());
        moved
    }

    /// All disks sync at one time.
    pub(super) fn sync_all(&mut self) {
        [A, B, C].into_iter().for_each(|id| self.node(id).sync());
    }

    /// Delivers every message and answers every read, without any sync.
    pub(super) fn deliver(&mut self) {
        loop {
            let mut moved = false;
            for id in [A, B, C] {
                self.node(id).answer_reads();
                for (to, message) in std::mem::take(&mut self.node(id).sent) {
                    moved = true;
                    self.node(to).step(Input::Message { from: id, message });
                }
            }
            if !moved {
                break;
            }
        }
    }

    /// Delivers what was sent to one node, and no more.
    pub(super) fn deliver_to(&mut self, to: NodeId) {
        for from in [A, B, C] {
            let node = self.node(from);
            let (due, rest) = std::mem::take(&mut node.sent).into_iter().partition(|(receiver, _)| *receiver == to);
            node.sent = rest;
            for (_, message) in due as Vec<(NodeId, Message)> {
                self.node(to).step(Input::Message { from, message });
            }
        }
    }

    /// Everybody promises, durably, and says so; nothing more becomes durable.
    pub(super) fn settle_promises(&mut self) {
        self.deliver();
        for id in [A, B, C] {
            self.node(id).sync();
        }
        self.deliver();
    }

    /// Delivers and syncs until nothing moves.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            self.deliver();
            for id in [A, B, C] {
                self.node(id).sync();
            }
        }
    }

    pub(super) fn elect(&mut self, leader: NodeId) -> Epoch {
        let epoch = self.assign(leader).epoch;
        self.settle();
        assert_eq!(self.node(leader).replica.phase(), Some(Phase::Activating));
        self.node(leader).step(Input::ActivationAccepted(epoch));
        self.settle();
        epoch
    }

    pub(super) fn propose(&mut self, leader: NodeId, text: &'static str) {
        let node = self.node(leader);
        let (epoch, prev) = node.replica.proposal_position().expect("the leader serves");
        let block = Block::encode(Bytes::from_static(text.as_bytes()), 1, Compression::Never);
        let batch = BatchBuilder::new(node.log.id, BatchKind::Data, epoch, prev, 1).block(block).seal().unwrap();
        node.step(Input::Propose(batch));
    }

    pub(super) fn committed(&mut self, id: NodeId) -> u64 {
        self.node(id).replica.committed().get()
    }
}

#[test]
fn a_write_commits_when_a_majority_synced_it_and_not_before() {
    let mut world = World::new();
    world.elect(A);
    assert_eq!(world.committed(A), 1, "the epoch's start");
    world.propose(A, "one");
    world.deliver();
    assert_eq!(world.committed(A), 1, "I1: nobody synced it");
    world.node(A).sync();
    world.deliver();
    assert_eq!(world.committed(A), 1, "I1: one of three synced it");
    world.node(C).sync();
    world.deliver();
    assert_eq!(world.committed(A), 2);
    assert_eq!(world.committed(C), 2, "an idle follower is told");
}

#[test]
fn followers_commit_for_a_leader_with_a_slow_disk_but_it_applies_nothing_that_its_own_disk_may_lose() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.deliver();
    world.node(B).sync();
    world.node(C).sync();
    world.deliver();
    assert_eq!(world.committed(A), 2);
    assert_eq!(world.node(A).replica.applicable(), Lsn::new(1));
}

#[test]
fn a_promise_is_said_only_when_it_is_durable() {
    let mut world = World::new();
    let epoch = world.assign(A).epoch;
    world.node(A).sync();
    world.deliver();
    assert!(world.node(B).sent.is_empty(), "I3: B has not synced its promise");
    world.node(B).crash(B);
    world.node(B).promise = Promise::NONE;
    assert!(world.node(B).replica.promise().epoch <= epoch);
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Fencing));
}

#[test]
fn i3_a_fenced_replica_refuses_batches_of_the_epoch_before() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    world.elect(B);
    world.propose(A, "too late");
    let refused = |node: &Node| node.said.iter().any(|said| said.contains("Superseded"));
    world.deliver();
    assert!(refused(world.node(A)), "C promised the newer epoch: {:?}", world.node(A).said);
    assert_eq!(world.node(A).replica.phase(), None);
}

#[test]
fn i1_a_new_leader_fetches_what_only_the_others_hold() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.deliver();
    world.node(B).sync();
    world.node(C).sync();
    world.deliver();
    assert_eq!(world.committed(A), 2);
    for peer in [B, C] {
        world.cut(A, peer);
    }
    world.node(A).crash(A); // Its disk never had the write.
    assert_eq!(world.node(A).log.end().lsn, Lsn::new(1));
    for peer in [B, C] {
        world.connect(A, peer);
    }
    world.elect(A);
    let fetched = world.node(A).log.batches[1].clone();
    assert_eq!(fetched, world.node(B).log.batches[1]);
    assert_eq!(world.committed(A), 3, "the fetched write and the epoch's start");
}

#[test]
fn i2_a_suffix_that_lost_is_truncated_and_the_logs_are_equal_again() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    world.cut(A, C);
    world.propose(A, "nobody else has this");
    world.propose(A, "nor this");
    world.node(A).sync();
    world.elect(B);
    world.propose(B, "this one counts");
    world.settle();
    world.connect(A, B);
    world.connect(A, C);
    world.settle();
    let logs: Vec<_> = [A, B, C].map(|id| world.node(id).log.batches.clone()).into();
    assert_eq!(logs[0], logs[1]);
    assert_eq!(logs[1], logs[2]);
    assert_eq!(world.committed(B), 3);
}

#[test]
fn nothing_commits_before_the_activation_is_accepted() {
    let mut world = World::new();
    world.assign(A);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
    assert_eq!([A, B, C].map(|id| world.committed(id)), [0, 0, 0]);
    assert!(world.node(A).replica.proposal_position().is_none());
}

#[test]
fn a_leader_that_two_configuration_files_claim_wins_one_majority_only() {
    let mut world = World::new();
    let mut other = world.master.clone();
    let ours = world.master.assign(A, Epoch::ZERO).unwrap();
    let theirs = other.assign(B, Epoch::ZERO).unwrap();
    assert_eq!(ours.epoch, theirs.epoch);
    world.node(A).step(Input::Assign(ours));
    world.node(B).step(Input::Assign(theirs));
    world.settle();
    let activating = [A, B].map(|id| world.node(id).replica.phase() == Some(Phase::Activating));
    assert_ne!(activating, [true, true], "I3: one epoch has one leader");
}

#[test]
fn a_follower_that_was_away_is_fed_from_the_log_and_told_the_commit_position() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, C);
    for text in ["one", "two", "three"] {
        world.propose(A, text);
    }
    world.settle();
    assert_eq!(world.committed(A), 4);
    world.node(C).crash(C);
    world.connect(A, C);
    world.settle();
    let leaders = world.node(A).log.batches.clone();
    assert_eq!(world.node(C).log.batches, leaders);
    assert_eq!(world.committed(C), 4);
}

/// Found by exhaustive search: a follower's connection broke, so that it promised twice on the next one, once when its promise
/// was durable and once when it was asked. At the second the leader began again with a read of its log, and took the
/// acknowledgement of what it had sent before for one of what was never sent.
#[test]
fn an_acknowledgement_that_was_on_its_way_when_feeding_began_again_is_believed() {
    let mut world = World::new();
    world.elect(A);
    let epoch = world.elect(A);
    let end = LogPosition::origin(world.node(A).log.id);
    let log = LogSummary { end, epochs: Vec::new() };
    let promise = Message::Promise { epoch, log, suspect: None, committed: Lsn::ZERO, votes: None };
    let leader = world.node(A);
    leader.said.clear();
    leader.step(Input::Message { from: B, message: promise.clone() });
    leader.answer_reads();
    let fed = Some((epoch, Lsn::new(2)));
    assert!(leader.sent.iter().any(|(to, message)| *to == B && message.appends() == fed));
    leader.step(Input::Message { from: B, message: promise });
    leader.step(Input::Message { from: B, message: Message::Appended { epoch, durable: Lsn::FIRST } });
    assert!(leader.said.is_empty(), "{:?}", leader.said);
    leader.step(Input::Message { from: B, message: Message::Appended { epoch, durable: Lsn::new(3) } });
    assert!(leader.said.iter().any(|said| said.contains("ImpossibleAcknowledgement")), "{:?}", leader.said);
}

/// Found by exhaustive search: a follower crashed when the first epoch's start had reached its disk, and before it said so.
/// Fed from where its log ended, it was sent nothing: nothing was behind that, and nothing was committed that it could have
/// been told. Its answer was what the leader waited for.
#[test]
fn a_follower_that_comes_back_with_all_of_the_log_is_asked_about_it_though_nothing_is_committed() {
    let mut world = World::new();
    world.cut(A, C);
    world.assign(A);
    world.deliver();
    world.node(A).sync();
    world.node(B).sync();
    world.deliver();
    world.node(A).sync();
    world.cut(A, B);
    world.node(B).log.durable = 1;
    world.node(B).crash(B);
    assert_eq!(world.node(B).log.end().lsn, Lsn::FIRST, "it holds the epoch's start");
    world.connect(A, B);
    world.settle();
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Activating));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_closes_the_connection() {
    let mut world = World::new();
    let epoch = world.elect(A);
    let message = Message::Appended { epoch, durable: Lsn::new(99) };
    world.node(A).step(Input::Message { from: B, message });
    assert!(world.node(A).said.iter().any(|said| said.contains("ImpossibleAcknowledgement")));
    assert_eq!(world.committed(A), 1);
}

/// A driver acts on each output before it looks at the next: what a supersession leads to must not reach the log
/// before the promise that caused it.
#[test]
fn i3_a_newer_promise_goes_to_the_log_before_the_supersession_is_told() {
    let mut world = World::new();
    let epoch = world.elect(A);
    let newer = Epoch { term: epoch.term + 1, ..epoch };
    let node = world.node(A);
    let message = Message::Fence { epoch: newer, leader: B };
    let outputs = node.replica.step(1, Input::Message { from: B, message }, &node.log);
    let at = |wanted: fn(&Output) -> bool| outputs.iter().position(wanted).unwrap();
    let persist = at(|output| matches!(output, Output::Persist { write: LogWrite::Promise(_), .. }));
    assert!(persist < at(|output| matches!(output, Output::Superseded { .. })));
}

/// A follower that lost a suffix which it had acknowledged, and opened again with the rest.
fn lose_suffix(world: &mut World, id: NodeId, kept: usize) {
    let node = world.node(id);
    node.log.batches.truncate(kept);
    node.log.durable = kept;
    node.log.suspect = Some(node.log.end().lsn.next());
    node.crash(id);
}

#[test]
fn i1_the_doubt_about_a_log_ends_only_when_all_that_it_may_have_lost_is_back() {
    let mut world = World::new();
    world.elect(A);
    for text in ["one", "two", "three"] {
        world.propose(A, text);
    }
    world.settle();
    world.cut(A, C);
    lose_suffix(&mut world, C, 2);
    world.connect(A, C);
    // The first of the two lost batches comes back, and the connection is gone.
    world.deliver();
    let append = world.node(A).log.batches[2].clone();
    let (epoch, prev) = (world.node(A).replica.promise().epoch, world.node(A).log.position(2));
    world.cut(A, C);
    lose_suffix(&mut world, C, 2);
    let message = Message::Append { epoch, prev, commit: Lsn::new(4), batches: vec![append] };
    world.node(C).step(Input::Message { from: A, message });
    world.node(C).sync();
    assert_eq!(world.node(C).log.end().lsn, Lsn::new(3));
    assert!(world.node(C).log.suspect.is_some(), "LSN 4 is committed, was acknowledged here, and is missing");
    world.connect(A, C);
    world.settle();
    assert_eq!(world.node(C).log.suspect, None, "everything is back");
}

#[test]
fn i1_the_doubt_about_a_log_outlives_an_epoch_whose_start_it_does_not_hold() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "one");
    world.settle();
    world.cut(A, C);
    world.cut(B, C);
    lose_suffix(&mut world, C, 0);
    let epoch = world.elect(B);
    // The new leader's first words, before it knows what is committed; then the connection is gone.
    let (first, prev) = (world.node(B).log.batches[0].clone(), world.node(B).log.position(0));
    world.node(C).step(Input::Message { from: B, message: Message::Fence { epoch, leader: B } });
    world.node(C).sync();
    let message = Message::Append { epoch, prev, commit: Lsn::ZERO, batches: vec![first] };
    world.node(C).step(Input::Message { from: B, message });
    world.node(C).sync();
    assert_eq!(world.node(C).log.end().lsn, Lsn::new(1));
    assert!(world.node(C).log.suspect.is_some(), "what an earlier epoch committed is not back");
    world.connect(B, C);
    world.settle();
    assert_eq!(world.node(C).log.suspect, None, "it holds the start of B's epoch, behind all that could be lost");
}

#[test]
fn i1_a_leader_counts_no_acknowledgement_of_what_its_follower_lost_since() {
    let mut world = World::new();
    world.elect(A);
    world.cut(A, B);
    world.propose(A, "one");
    world.deliver();
    world.node(C).sync();
    world.deliver();
    assert_eq!(world.committed(A), 1, "A's own disk is slow: one of three has it");
    world.cut(A, C);
    lose_suffix(&mut world, C, 1);
    world.connect(A, C);
    // The promise is said again; what A sends after it is not synced.
    world.deliver();
    world.node(A).sync();
    world.deliver();
    assert_eq!(world.committed(A), 1, "C lost it: only A has it");
    world.node(C).sync();
    world.deliver();
    assert_eq!(world.committed(A), 2);
}

#[test]
fn a_peer_that_asks_for_the_last_of_all_epochs_or_for_another_history_loses_its_connection() {
    let mut world = World::new();
    let epoch = world.elect(A);
    world.propose(A, "one");
    world.settle();
    let last = Epoch { term: u32::MAX, ..epoch };
    world.node(B).step(Input::Message { from: C, message: Message::Fence { epoch: last, leader: C } });
    assert!(world.node(B).said.iter().any(|said| said.contains("ImpossibleEpoch")), "{:?}", world.node(B).said);
    // A's own history, but for the committed batch: B keeps what is committed.
    let (log, prev) = (world.node(B).log.id, world.node(B).log.position(1));
    let block = Block::encode(Bytes::from_static(b"another"), 1, Compression::Never);
    let other = BatchBuilder::new(log, BatchKind::Data, epoch, prev, 1).block(block.clone()).seal().unwrap();
    let message = Message::Append { epoch, prev, commit: Lsn::ZERO, batches: vec![other] };
    world.node(B).step(Input::Message { from: A, message });
    assert!(world.node(B).said.iter().any(|said| said.contains("ContradictsCommitted")), "{:?}", world.node(B).said);
    let end = world.node(B).log.end();
    // And a batch of an epoch above the message's, or of another log, breaks the chain.
    let above = Epoch { term: epoch.term + 1, ..epoch };
    for batch in [
        BatchBuilder::new(log, BatchKind::Data, above, end, 1).block(block.clone()).seal().unwrap(),
        BatchBuilder::new(LogId::new(77), BatchKind::Data, epoch, end, 1).block(block).seal().unwrap(),
    ] {
        world.node(B).said.clear();
        let message = Message::Append { epoch, prev: end, commit: Lsn::ZERO, batches: vec![batch] };
        world.node(B).step(Input::Message { from: A, message });
        assert!(world.node(B).said.iter().any(|said| said.contains("BrokenChain")), "{:?}", world.node(B).said);
    }
    assert_eq!(world.node(B).log.end(), end);
}

/// A leader that begins a new epoch while it knows less than `B`'s summary says, with its fetch sent.
fn adopting(world: &mut World, theirs: LogSummary) -> Epoch {
    let epoch = world.assign(A).epoch;
    world.node(A).sync();
    world.node(A).sent.clear();
    let message = Message::Promise { epoch, log: theirs, suspect: None, committed: Lsn::ZERO, votes: None };
    world.node(A).step(Input::Message { from: B, message });
    epoch
}

#[test]
fn a_leader_takes_over_no_batch_of_another_log_or_of_its_own_epoch() {
    for wrong in ["log", "epoch", "nothing"] {
        let mut world = World::new();
        let old = world.elect(A);
        let (log, end) = (world.node(A).log.id, world.node(A).log.end());
        let longer = batch_of(log, old, end).position();
        let summary = LogSummary { end: longer, epochs: vec![(old, Lsn::FIRST)] };
        let epoch = adopting(&mut world, summary);
        let batch = match wrong {
            "log" => batch_of(LogId::new(77), old, end),
            "epoch" => batch_of(log, epoch, end),
            _ => batch_of(log, old, end),
        };
        let message = Message::Fetched { epoch, after: end, batches: vec![batch] };
        world.node(A).step(Input::Message { from: B, message });
        let said = world.node(A).said.iter().any(|said| said.contains("BrokenChain"));
        assert_eq!(said, wrong != "nothing", "{wrong}: {:?}", world.node(A).said);
        assert_eq!(world.node(A).log.batches.len() > 1, wrong == "nothing", "{wrong}");
    }
}

fn batch_of(log: LogId, epoch: Epoch, prev: LogPosition) -> Batch {
    let block = Block::encode(Bytes::from_static(b"two"), 1, Compression::Never);
    BatchBuilder::new(log, BatchKind::Data, epoch, prev, 1).block(block).seal().unwrap()
}

/// A leader keeps in memory what it adopts; what it had from a log that lost to a better one since would be the first that fits.
#[test]
fn i2_a_leader_feeds_nothing_that_it_had_fetched_from_a_log_that_lost() {
    let mut world = World::new();
    let old = world.elect(A);
    let (log, end) = (world.node(A).log.id, world.node(A).log.end());
    let [between, later] = [1, 2].map(|more| Epoch { term: old.term + more, ..old });
    world.master.assign(A, later).unwrap();
    let lost = batch_of(log, between, end);
    let longer = batch_of(log, between, lost.position()).position();
    let epoch =
        adopting(&mut world, LogSummary { end: longer, epochs: vec![(old, Lsn::FIRST), (between, Lsn::new(2))] });
    world
        .node(A)
        .step(Input::Message { from: B, message: Message::Fetched { epoch, after: end, batches: vec![lost] } });
    world.cut(A, B);
    let won = batch_of(log, later, end);
    let theirs = LogSummary { end: won.position(), epochs: vec![(old, Lsn::FIRST), (later, Lsn::new(2))] };
    let promise = |log| Message::Promise { epoch, log, suspect: None, committed: Lsn::ZERO, votes: None };
    world.node(A).step(Input::Message { from: C, message: promise(theirs) });
    let fetched = Message::Fetched { epoch, after: end, batches: vec![won.clone()] };
    world.node(A).step(Input::Message { from: C, message: fetched });
    assert_eq!(world.node(A).replica.phase(), Some(Phase::Starting));
    world.connect(A, B);
    world.node(A).sent.clear();
    let theirs = LogSummary { end, epochs: vec![(old, Lsn::FIRST)] };
    world.node(A).step(Input::Message { from: B, message: promise(theirs) });
    let fed = world.node(A).sent.iter().find_map(|(to, message)| match message {
        Message::Append { prev, batches, .. } if *to == B => Some((*prev, batches.clone())),
        _ => None,
    });
    let (prev, batches) = fed.unwrap();
    assert_eq!((prev, batches.len(), &batches[0]), (end, 2, &won), "and the epoch's start");
}

#[test]
fn i2_a_leader_drops_nothing_committed_for_a_log_that_contradicts_it() {
    let mut world = World::new();
    let old = world.elect(A);
    world.propose(A, "one");
    world.settle();
    assert_eq!(world.committed(A), 2);
    let end = world.node(A).log.end();
    // A history that left A's before the committed write, in an epoch between.
    let between = Epoch { term: old.term + 1, ..old };
    world.master.assign(A, old).unwrap();
    let theirs = LogSummary {
        end: LogPosition { epoch: between, lsn: Lsn::new(5), chain: end.chain },
        epochs: vec![(old, Lsn::FIRST), (between, Lsn::new(2))],
    };
    adopting(&mut world, theirs);
    assert!(world.node(A).said.iter().any(|said| said.contains("ContradictsCommitted")), "{:?}", world.node(A).said);
    assert_eq!(world.node(A).log.end(), end);
}

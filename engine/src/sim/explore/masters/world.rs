//! A state of this world, what may happen in it, and what must hold.

use super::Masters;
use crate::control::ConfigMaster;
use crate::model::control_record::majority_of;
use crate::model::{
    Assignment, ClusterId, DirectoryId, Epoch, LogId, LogPosition, Lsn, NamespaceId, NodeId, ShardDescriptor, ShardId,
};
use crate::replica::{DisconnectReason, LogView as _};
use crate::sim::Violation;
use crate::sim::explore::node::{Happening, Node};
use crate::sim::explore::scope::node_id;
use crate::sim::explore::steps::{Facts, Outcome, Steps};
use std::collections::VecDeque;
use std::hash::Hash;
use xxhash_rust::xxh3::Xxh3;

pub(super) const VOTERS: usize = 3;
const PAIRS: [(usize, usize); VOTERS] = [(0, 1), (0, 2), (1, 2)];
const CLUSTER: ClusterId = ClusterId::new([0xc1; 16]);

/// One choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The oldest message on the way from one node to another arrives.
    Deliver(usize, usize),
    /// A connection stands again.
    Connect(usize, usize),
    /// A connection breaks.
    Break(usize, usize),
    /// An operator assigns the shard to this node.
    Hand(usize),
    /// A node that led last, or was to lead first, asks for the next term.
    Renew(usize),
    /// A leader does the next step to the votes of the disks that are here.
    Readmit(usize),
    /// The leader seals a batch.
    Write(usize),
    /// A node starts again, with an empty disk; the one before goes to the shelf.
    Empty(usize),
    /// A node starts again, with the disk from the shelf; the one before goes there.
    Return(usize),
    /// A node starts again.
    Crash(usize),
    /// A leader has waited too long for a majority.
    GiveUp(usize),
    /// A batch rots on a node's disk, the one at this place.
    Rot(usize, usize),
}

impl Action {
    pub(super) const fn pack(self) -> u16 {
        let (kind, a, b) = match self {
            Self::Deliver(from, to) => (0, from, to),
            Self::Connect(low, high) => (1, low, high),
            Self::Break(low, high) => (2, low, high),
            Self::Hand(node) => (3, node, 0),
            Self::Renew(node) => (4, node, 0),
            Self::Readmit(node) => (5, node, 0),
            Self::Write(node) => (6, node, 0),
            Self::Empty(node) => (7, node, 0),
            Self::Return(node) => (8, node, 0),
            Self::Crash(node) => (9, node, 0),
            Self::GiveUp(node) => (10, node, 0),
            Self::Rot(node, at) => (11, node, at),
        };
        (kind << 8 | a << 4 | b) as u16
    }

    pub(super) const fn unpack(packed: u16) -> Self {
        let (a, b) = ((packed >> 4 & 0xf) as usize, (packed & 0xf) as usize);
        match packed >> 8 {
            0 => Self::Deliver(a, b),
            1 => Self::Connect(a, b),
            2 => Self::Break(a, b),
            3 => Self::Hand(a),
            4 => Self::Renew(a),
            5 => Self::Readmit(a),
            6 => Self::Write(a),
            7 => Self::Empty(a),
            8 => Self::Return(a),
            9 => Self::Crash(a),
            11 => Self::Rot(a, b),
            _ => Self::GiveUp(a),
        }
    }

    /// Whether it happens only if somebody, or bad luck, wants it to.
    const fn is_of_chance(self) -> bool {
        !matches!(self, Self::Deliver(..) | Self::Connect(..) | Self::Readmit(_))
    }
}

/// Three nodes by their states' numbers, the disks that are not in their places, connections, and what may still happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) nodes: [u32; VOTERS],
    /// Of each node the one with the disk that is on the shelf.
    shelf: [Option<u32>; VOTERS],
    up: u8,
    left: [u8; 8],
    /// The highest position that any replica ever called committed, by its number.
    pub(super) committed: Option<u16>,
    /// Messages on the way: sender, receiver and happening; in order of directions, and of sending in each.
    messages: Vec<(u8, u8, u32)>,
}

const HANDS: usize = 0;
const WRITES: usize = 1;
const EMPTIES: usize = 2;
const RETURNS: usize = 3;
const CRASHES: usize = 4;
const BREAKS: usize = 5;
const ENDS: usize = 6;
const ROTS: usize = 7;
/// So many batches of a log may rot, from its first: a choice has four bits for which.
const PLACES: usize = 16;

pub(super) fn lineage() -> LogId {
    ConfigMaster::lineage(CLUSTER, ShardId::new(1))
}

impl World {
    /// The first of the nodes leads, and all have what it began with.
    pub(super) fn first(masters: &Masters, steps: &mut Steps) -> Result<Self, Violation> {
        let log = lineage();
        let left = masters.clone().counts().map(|(_, count)| *count);
        let nodes = std::array::from_fn(|at| steps.add_node(Node::new(at, log).with_own_master()));
        let mut world = Self { nodes, shelf: [None; VOTERS], up: 0, left, committed: None, messages: Vec::new() };
        for (low, high) in PAIRS {
            world.connect(steps, low, high)?;
        }
        if let Some(first) = world.master(steps, 0).assign(node_id(0), Epoch::ZERO) {
            world.happens(steps, 0, Happening::Assigned(first))?;
        }
        world = world.delivered(steps)?;
        if masters.emptied {
            let last = VOTERS - 1;
            world.shelf[last] = Some(world.nodes[last]);
            world.restart(steps, last, Happening::Empties)?;
            world = world.delivered(steps)?;
        }
        Ok(world)
    }

    /// The world when everything that is on the way has arrived, on one path of many.
    fn delivered(mut self, steps: &mut Steps) -> Result<Self, Violation> {
        while let Some((from, to, _)) = self.messages.first().copied() {
            self = self.after(steps, Action::Deliver(usize::from(from), usize::from(to)))?;
        }
        Ok(self)
    }

    /// The master that this node is of its own: what it knows is what its log says, who is connected, and what those have promised.
    fn master(&self, steps: &Steps, node: usize) -> ConfigMaster {
        let shard =
            ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
        let mut master = ConfigMaster::new(CLUSTER, shard, &std::array::from_fn::<_, VOTERS, _>(node_id));
        for (peer, disk) in self.reached(steps, node) {
            master.meet(peer, disk);
        }
        let version = steps.facts(self.nodes[node]).promised.version;
        let start = steps.node(self.nodes[node]).log.last_start();
        master.note_votes(start.and_then(|start| start.votes(lineage(), version).cloned()));
        master
    }

    /// The voters that a node reaches, with their disks, itself among them.
    fn reached(&self, steps: &Steps, node: usize) -> Vec<(NodeId, DirectoryId)> {
        let reached = (0..VOTERS).filter(|other| *other == node || self.is_up(node, *other));
        reached.map(|other| (node_id(other), steps.node(self.nodes[other]).directory())).collect()
    }

    fn reaches_enough(&self, steps: &Steps, node: usize, master: &ConfigMaster) -> bool {
        let reached = self.reached(steps, node);
        reached.iter().filter(|(voter, disk)| master.counts(*voter, *disk)).count() >= master.needed()
    }

    /// What an operator's node asks for, and what one at its start does.
    fn assignment(&self, steps: &Steps, node: usize, by_hand: bool) -> Option<Assignment> {
        let mut master = self.master(steps, node);
        let facts = steps.facts(self.nodes[node]);
        let promised_to = steps.node(self.nodes[node]).replica.promise().leader;
        let may = by_hand || (!facts.leads && master.leads_at_start(node_id(node), node_id(0), promised_to));
        if !may || facts.serves || !self.reaches_enough(steps, node, &master) {
            return None;
        }
        for (peer, _) in self.reached(steps, node) {
            master.note_promised(steps.facts(self.nodes[crate::sim::explore::scope::place(peer)]).promised);
        }
        if by_hand {
            master.assign_by_hand(node_id(node), facts.promised)
        } else {
            master.assign(node_id(node), facts.promised)
        }
    }

    /// The next step of a leader to the votes of the disks that are here, if one is to be done.
    fn step_to_votes(&self, steps: &Steps, node: usize) -> Option<Assignment> {
        let facts = steps.facts(self.nodes[node]);
        let reached = self.reached(steps, node);
        if !facts.serves || reached.len() < VOTERS {
            return None;
        }
        let votes = &steps.node(self.nodes[node]).replica.assignment()?.directories;
        if reached.iter().all(|(voter, disk)| votes.get(voter) == Some(disk)) {
            return None;
        }
        let mut master = self.master(steps, node);
        master.note_votes(Some(votes.clone()));
        master.readmit(node_id(node), facts.promised)
    }

    /// Everything that may happen next.
    pub(super) fn choices(&self, steps: &Steps, into: &mut Vec<Action>) {
        into.clear();
        let mut last = None;
        for (from, to, _) in &self.messages {
            if last.replace((*from, *to)) != Some((*from, *to)) {
                into.push(Action::Deliver(usize::from(*from), usize::from(*to)));
            }
        }
        for (low, high) in PAIRS {
            if !self.is_up(low, high) {
                into.push(Action::Connect(low, high));
            } else if self.left[BREAKS] > 0 {
                into.push(Action::Break(low, high));
            }
        }
        for node in 0..VOTERS {
            let facts = steps.facts(self.nodes[node]);
            let choices = [
                (self.left[HANDS] > 0 && self.assignment(steps, node, true).is_some(), Action::Hand(node)),
                (self.left[HANDS] > 0 && self.assignment(steps, node, false).is_some(), Action::Renew(node)),
                (self.step_to_votes(steps, node).is_some(), Action::Readmit(node)),
                (self.left[WRITES] > 0 && facts.serves, Action::Write(node)),
                (self.left[EMPTIES] > 0 && self.shelf[node].is_none(), Action::Empty(node)),
                (self.left[RETURNS] > 0 && self.shelf[node].is_some(), Action::Return(node)),
                (self.left[CRASHES] > 0, Action::Crash(node)),
                (self.left[ENDS] > 0 && facts.waits, Action::GiveUp(node)),
            ];
            into.extend(choices.into_iter().filter(|(may, _)| *may).map(|(_, action)| action));
            if self.left[ROTS] > 0 {
                into.extend((0..PLACES).filter(|at| self.may_rot(steps, node, *at)).map(|at| Action::Rot(node, at)));
            }
        }
    }

    /// Whether another node has that batch, and can read it.
    fn may_rot(&self, steps: &Steps, node: usize, at: usize) -> bool {
        let facts = steps.facts(self.nodes[node]);
        let Some(position) = facts.durable.get(at).copied() else { return false };
        let lsn = steps.position(position).lsn;
        let has = |facts: &Facts| Facts::holds(&facts.durable, lsn, position) && !facts.damaged.contains(&lsn);
        let others = (0..VOTERS).filter(|other| *other != node).map(|other| steps.facts(self.nodes[other]));
        has(facts) && Facts::holds(&facts.accepted, lsn, position) && others.into_iter().any(has)
    }

    pub(super) fn is_quiet(choices: &[Action]) -> bool {
        choices.iter().all(|choice| choice.is_of_chance())
    }

    /// The world after one choice; what it breaks is a violation.
    pub(super) fn after(&self, steps: &mut Steps, action: Action) -> Result<Self, Violation> {
        let mut world = self.clone();
        match action {
            Action::Deliver(from, to) => {
                let on_the_way =
                    world.messages.iter().position(|(f, t, _)| (usize::from(*f), usize::from(*t)) == (from, to));
                if let Some(at) = on_the_way {
                    let (.., happening) = world.messages.remove(at);
                    world.step(steps, to, happening)?;
                }
            }
            Action::Connect(low, high) => world.connect(steps, low, high)?,
            Action::Break(low, high) => {
                world.left[BREAKS] -= 1;
                world.disconnect(steps, low, high)?;
            }
            Action::Hand(node) | Action::Renew(node) => {
                world.left[HANDS] -= 1;
                if let Some(assignment) = self.assignment(steps, node, matches!(action, Action::Hand(_))) {
                    world.happens(steps, node, Happening::Assigned(assignment))?;
                }
            }
            Action::Readmit(node) => {
                if let Some(assignment) = self.step_to_votes(steps, node) {
                    world.happens(steps, node, Happening::Assigned(assignment))?;
                }
            }
            Action::Write(node) => {
                world.left[WRITES] -= 1;
                world.happens(steps, node, Happening::Writes)?;
            }
            Action::Empty(node) => {
                world.left[EMPTIES] -= 1;
                world.shelf[node] = Some(world.nodes[node]);
                world.restart(steps, node, Happening::Empties)?;
            }
            Action::Return(node) => {
                world.left[RETURNS] -= 1;
                if let Some(kept) = world.shelf[node].replace(world.nodes[node]) {
                    world.nodes[node] = kept;
                }
                world.restart(steps, node, Happening::Crashes { survive: 0 })?;
            }
            Action::Crash(node) => {
                world.left[CRASHES] -= 1;
                world.restart(steps, node, Happening::Crashes { survive: 0 })?;
            }
            Action::Rot(node, at) => {
                world.left[ROTS] -= 1;
                let at = u8::try_from(at).unwrap_or(u8::MAX);
                world.happens(steps, node, Happening::Rots { at })?;
            }
            Action::GiveUp(node) => {
                world.left[ENDS] -= 1;
                world.happens(steps, node, Happening::GivesUp)?;
            }
        }
        world.check_logs(steps)?;
        world.forget(steps)?;
        Ok(world)
    }

    /// Drops answers that will be heard without effect, whenever that is: worlds that differ in nothing else are the same.
    fn forget(&mut self, steps: &mut Steps) -> Result<(), Violation> {
        let mut at = 0;
        while let Some((_, to, happening)) = self.messages.get(at).copied() {
            let node = self.nodes[usize::from(to)];
            let over = steps.answers(happening).is_some_and(|epoch| steps.facts(node).leads_no_more(epoch));
            if over && matches!(steps.step(node, happening)?, (same, []) if same == node) {
                self.messages.remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    fn restart(&mut self, steps: &mut Steps, node: usize, how: Happening) -> Result<(), Violation> {
        self.happens(steps, node, how)?;
        for other in (0..VOTERS).filter(|other| *other != node) {
            if self.is_up(node, other) {
                self.cut(node, other);
                self.happens(steps, other, Happening::Down(node_id(node)))?;
            }
        }
        // At once: to be away longer is that nothing of what is said arrives.
        PAIRS
            .into_iter()
            .filter(|(low, high)| [*low, *high].contains(&node))
            .try_for_each(|(low, high)| self.connect(steps, low, high))
    }

    fn happens(&mut self, steps: &mut Steps, node: usize, what: Happening) -> Result<(), Violation> {
        let what = steps.add_happening(what);
        self.step(steps, node, what)
    }

    /// One thing happens at a node, and what its master says to that.
    fn step(&mut self, steps: &mut Steps, node: usize, happening: u32) -> Result<(), Violation> {
        let mut happenings = VecDeque::from([happening]);
        let mut broken = Vec::new();
        while let Some(happening) = happenings.pop_front() {
            let (next, outcomes) = steps.step(self.nodes[node], happening)?;
            self.nodes[node] = next;
            let outcomes = outcomes.to_vec();
            for outcome in outcomes {
                match outcome {
                    Outcome::Sends { to, happening } => self.send(node, to, happening),
                    Outcome::Commits(position) => self.commits(steps, node, position)?,
                    Outcome::Reports(epoch) => {
                        let mut master = self.master(steps, node);
                        master.note_promised(steps.facts(self.nodes[node]).promised);
                        if master.accept_activation(epoch) {
                            self.check_activation(steps, node, epoch)?;
                            happenings.push_back(steps.add_happening(Happening::Accepted(epoch)));
                        }
                    }
                    Outcome::Disconnects { peer, reason } => broken.push((peer, reason)),
                    Outcome::StepsDown(_) => {}
                }
            }
        }
        for (peer, reason) in broken {
            if reason != DisconnectReason::MissingBatches {
                let what = format!("node {} closes the connection to node {}: {reason}", node + 1, peer + 1);
                return Err(Violation::new("protocol", what));
            }
            self.disconnect(steps, node, peer)?;
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, happening: u32) {
        if self.is_up(from, to) {
            let (from, to) = (from as u8, to as u8);
            let at = self.messages.partition_point(|(f, t, _)| (*f, *t) <= (from, to));
            self.messages.insert(at, (from, to, happening));
        }
    }

    fn connect(&mut self, steps: &mut Steps, low: usize, high: usize) -> Result<(), Violation> {
        self.up |= bit(low, high);
        let [low_is_up, high_is_up] =
            [low, high].map(|node| Happening::Up(node_id(node), steps.node(self.nodes[node]).directory()));
        self.happens(steps, low, high_is_up)?;
        self.happens(steps, high, low_is_up)
    }

    fn disconnect(&mut self, steps: &mut Steps, one: usize, other: usize) -> Result<(), Violation> {
        if self.is_up(one, other) {
            self.cut(one, other);
            self.happens(steps, one, Happening::Down(node_id(other)))?;
            self.happens(steps, other, Happening::Down(node_id(one)))?;
        }
        Ok(())
    }

    fn cut(&mut self, one: usize, other: usize) {
        self.up &= !bit(one, other);
        let between = |from: u8, to: u8| bit(usize::from(from), usize::from(to)) == bit(one, other);
        self.messages.retain(|(from, to, _)| !between(*from, *to));
    }

    const fn is_up(&self, one: usize, other: usize) -> bool {
        self.up & bit(one, other) != 0
    }

    /// The happening of the oldest message on the way.
    pub(super) fn oldest(&self, from: usize, to: usize) -> Option<u32> {
        let of = |(f, t, _): &&(u8, u8, u32)| (usize::from(*f), usize::from(*t)) == (from, to);
        self.messages.iter().find(of).map(|(.., happening)| *happening)
    }

    /// The hash by which a world that was met is known again.
    pub(super) fn key(&self) -> u128 {
        let mut into = Xxh3::new();
        self.hash(&mut into);
        into.digest128()
    }

    /// I2: all that is ever committed is one history. I1: it is durable on a majority of as many disks as there are voters.
    fn commits(&mut self, steps: &Steps, node: usize, position: u16) -> Result<(), Violation> {
        let at = steps.position(position);
        let known_lsn = self.committed.map_or(Lsn::ZERO, |known| steps.position(known).lsn);
        let one_history = self.committed.is_none_or(|known| {
            let longer = at.lsn > known_lsn;
            let (history, lsn, held) = if longer { (position, known_lsn, known) } else { (known, at.lsn, position) };
            Facts::holds(steps.history(history), lsn, held)
        });
        if !one_history {
            let what = format!("node {} commits {}, beside another history that is committed", node + 1, text(&at));
            return Err(Violation::new("I2", what));
        }
        if at.lsn > known_lsn {
            let disks = self.nodes.iter().copied().chain(self.shelf.into_iter().flatten());
            let holders = disks.filter(|disk| Facts::holds(&steps.facts(*disk).durable, at.lsn, position)).count();
            if holders < majority_of(VOTERS) {
                let what = format!("node {} commits {}, durable on {holders} disks", node + 1, text(&at));
                return Err(Violation::new("I1", what));
            }
            self.committed = Some(position);
        }
        Ok(())
    }

    /// I1: whoever leads has what was committed in epochs before.
    fn check_activation(&self, steps: &Steps, node: usize, epoch: Epoch) -> Result<(), Violation> {
        let Some(known) = self.committed else { return Ok(()) };
        let at = steps.position(known);
        // One that hears late of an epoch that is over commits nothing but what the next one took over.
        if at.epoch > epoch || Facts::holds(&steps.facts(self.nodes[node]).accepted, at.lsn, known) {
            return Ok(());
        }
        let (epoch, at) = (number(epoch), text(&at));
        Err(Violation::new(
            "I1",
            format!("epoch {epoch} is activated, and the log of its leader lacks {at}, which is committed"),
        ))
    }

    /// I2: what a replica calls committed is that in its log.
    fn check_logs(&self, steps: &Steps) -> Result<(), Violation> {
        let history = self.committed.map_or(&[][..], |known| steps.history(known));
        for (node, state) in self.nodes.iter().enumerate() {
            let facts = steps.facts(*state);
            let place = usize::try_from(facts.committed.prev().get()).unwrap_or(usize::MAX);
            let holds = |theirs: &u16| Facts::holds(&facts.accepted, facts.committed, *theirs);
            if facts.committed > Lsn::ZERO && !history.get(place).is_some_and(holds) {
                let what =
                    format!("node {} calls LSN {} committed, and its log is another there", node + 1, facts.committed);
                return Err(Violation::new("I2", what));
            }
        }
        Ok(())
    }

    /// Nothing is left to happen: whoever serves has fed all.
    pub(super) fn check_quiet(&self, steps: &Steps) -> Result<(), Violation> {
        let newest = self.nodes.map(|node| steps.facts(node).promised).into_iter().max();
        let serving = self.nodes.iter().map(|node| steps.facts(*node)).find(|facts| facts.serves);
        let Some(led) = serving.filter(|facts| Some(facts.promised) == newest) else { return Ok(()) };
        // Whoever had the rest may have another disk by now.
        if self.nodes.iter().any(|node| !steps.facts(*node).damaged.is_empty()) {
            return Ok(());
        }
        for (node, state) in self.nodes.iter().enumerate() {
            let facts = steps.facts(*state);
            if facts.durable != led.accepted || facts.accepted != led.accepted {
                let (held, all) = (facts.durable.len(), led.accepted.len());
                let what = format!("nothing is left to happen, and node {} holds {held} of {all} batches", node + 1);
                return Err(Violation::new("liveness", what));
            }
        }
        Ok(())
    }
}

const fn bit(one: usize, other: usize) -> u8 {
    1 << (one + other - 1)
}

/// An epoch's number in a story: its round, and the term in that.
pub(super) fn number(epoch: Epoch) -> String {
    format!("{}.{}", epoch.term >> 20, epoch.term & 0xf_ffff)
}

/// A position, in a story: its LSN and its epoch's number.
pub(super) fn text(at: &LogPosition) -> String {
    format!("{}@{}", at.lsn, number(at.epoch))
}

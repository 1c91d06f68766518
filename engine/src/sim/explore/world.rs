//! A state of the whole world, and what may happen in it.

use super::judge;
use super::master;
use super::node::{Happening, Node};
use super::scope::{NODES, Scope, Turn, node_id, place};
use super::steps::{Facts, Outcome, Steps};
use crate::control::ConfigMaster;
use crate::model::control_record::majority_of;
use crate::model::{ClusterId, Epoch, LogId, NodeId, ShardId};
use crate::replica::DisconnectReason;
use crate::sim::Violation;
use xxhash_rust::xxh3::xxh3_128;

/// Pairs of nodes, low before high.
const PAIRS: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];

/// One choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The master makes the next assignment.
    Assign,
    /// It accepts that this assignment is activated.
    Accept(usize),
    /// The leader of this assignment hears so.
    Tell(usize),
    /// The oldest message on the way from one node to another arrives.
    Deliver(usize, usize),
    /// It arrives, and will once more.
    Repeat(usize, usize),
    /// The one behind it arrives first.
    Overtake(usize, usize),
    /// The oldest write under way becomes durable.
    Sync(usize),
    /// A node starts again; of its writes under way so many reached the disk.
    Crash(usize, u8),
    /// A node starts again, and lacks the last batch that was durable.
    Lose(usize),
    /// A connection breaks.
    Break(usize, usize),
    /// A connection stands again.
    Connect(usize, usize),
    /// The leader seals a batch.
    Write(usize),
    /// The oldest read of a log is done.
    Read(usize),
    /// A leader has waited too long for a majority.
    GiveUp(usize),
    /// A node releases its log.
    Release(usize),
    /// A node releases what nobody can mend: its state has it.
    LetGo(usize),
    /// A node starts again, with an empty disk.
    Empty(usize),
    /// A batch rots on a node's disk, the one at this place.
    Rot(usize, u8),
}

impl Action {
    /// Two bytes: the search keeps one for each state.
    pub(super) const fn pack(self) -> u16 {
        let (kind, a, b) = match self {
            Self::Assign => (0, 0, 0),
            Self::Accept(turn) => (1, turn, 0),
            Self::Tell(turn) => (2, turn, 0),
            Self::Deliver(from, to) => (3, from, to),
            Self::Repeat(from, to) => (3, from, 1 << 4 | to),
            Self::Overtake(from, to) => (3, from, 2 << 4 | to),
            Self::Sync(node) => (4, node, 0),
            Self::Crash(node, survive) => (5, node, survive as usize),
            Self::Lose(node) => (6, node, 0),
            Self::Break(low, high) => (7, low, high),
            Self::Connect(low, high) => (8, low, high),
            Self::Write(node) => (9, node, 0),
            Self::Read(node) => (10, node, 0),
            Self::GiveUp(node) => (11, node, 0),
            Self::Release(node) => (12, node, 0),
            Self::LetGo(node) => (15, node, 0),
            Self::Empty(node) => (13, node, 0),
            Self::Rot(node, at) => (14, node, at as usize),
        };
        (kind << 12 | a << 8 | b) as u16
    }

    pub(super) const fn unpack(packed: u16) -> Self {
        let (kind, a, b) = (packed >> 12, (packed >> 8 & 0xf) as usize, (packed & 0xff) as usize);
        match kind {
            0 => Self::Assign,
            1 => Self::Accept(a),
            2 => Self::Tell(a),
            3 if b >> 4 == 1 => Self::Repeat(a, b & 0xf),
            3 if b >> 4 == 2 => Self::Overtake(a, b & 0xf),
            3 => Self::Deliver(a, b),
            4 => Self::Sync(a),
            5 => Self::Crash(a, (packed & 0xff) as u8),
            6 => Self::Lose(a),
            7 => Self::Break(a, b),
            8 => Self::Connect(a, b),
            9 => Self::Write(a),
            10 => Self::Read(a),
            11 => Self::GiveUp(a),
            12 => Self::Release(a),
            13 => Self::Empty(a),
            15 => Self::LetGo(a),
            _ => Self::Rot(a, (packed & 0xff) as u8),
        }
    }
}

/// The world: four nodes by their states' numbers, connections, the master, and what the judge remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct World {
    pub(super) nodes: [u32; NODES],
    /// Connections that stand, by pair.
    up: u8,
    /// How many assignments were made.
    pub(super) assigned: u8,
    /// Which were reported as activated and may be accepted, by bit.
    reported: u8,
    /// Which were accepted, by bit.
    pub(super) accepted: u8,
    /// Of which the leader is still to hear so.
    untold: u8,
    /// In which epochs a batch was written.
    written: u8,
    crashes: u8,
    breaks: u8,
    losses: u8,
    repeats: u8,
    overtakes: u8,
    ends: u8,
    releases: u8,
    empties: u8,
    /// How many assignments were made before each node's disk was lost last: those are of another one.
    pub(super) lost: [u8; NODES],
    rots: u8,
    /// The highest position that any replica ever called committed; 0 before the first, else its number and one.
    pub(super) committed: u16,
    /// Messages on the way: direction (sender, receiver) and happening; in order of directions, and of sending in each.
    pub(super) messages: Vec<(u8, u32)>,
}

/// What does not change in a search.
pub(super) struct Fixed<'a> {
    pub(super) scope: &'a Scope,
    pub(super) log: LogId,
}

impl<'a> Fixed<'a> {
    pub(super) fn new(scope: &'a Scope) -> Self {
        Self { scope, log: ConfigMaster::lineage(ClusterId::new([0xc1; 16]), ShardId::new(1)) }
    }
}

impl World {
    /// Empty nodes, connected; nothing is assigned.
    pub(super) fn first(fixed: &Fixed<'_>, steps: &mut Steps) -> Result<Self, Violation> {
        let mut world = Self {
            nodes: std::array::from_fn(|at| {
                let node = Node::new(at, fixed.log).with_names_lost(fixed.scope.hides);
                steps.add_node(node.with_names_forgotten(fixed.scope.forgets))
            }),
            crashes: fixed.scope.crashes,
            breaks: fixed.scope.breaks,
            losses: fixed.scope.losses,
            repeats: fixed.scope.repeats,
            overtakes: fixed.scope.overtakes,
            ends: fixed.scope.ends,
            releases: fixed.scope.releases,
            empties: fixed.scope.empties,
            rots: fixed.scope.rots,
            ..Self::default()
        };
        for (low, high) in PAIRS {
            if fixed.scope.talk(low, high) {
                world.connect(fixed, steps, low, high)?;
            }
        }
        world.settle(fixed, steps)
    }

    /// Leads the first epochs of the script to their end, on one path of many.
    fn settle(mut self, fixed: &Fixed<'_>, steps: &mut Steps) -> Result<Self, Violation> {
        let mut choices = Vec::new();
        loop {
            self.choices(fixed, steps, &mut choices);
            let assigns = usize::from(self.assigned) < fixed.scope.settled;
            let next = choices.iter().copied().find(|choice| match choice {
                Action::Assign => assigns,
                other => self.assigned > 0 && !Self::is_quiet(&[*other]),
            });
            match next {
                Some(action) if fixed.scope.settled > 0 => self = self.after(fixed, steps, action)?,
                _ => return Ok(self),
            }
        }
    }

    /// Everything that may happen next.
    pub(super) fn choices(&self, fixed: &Fixed<'_>, steps: &Steps, into: &mut Vec<Action>) {
        let scope = fixed.scope;
        into.clear();
        let mut last = None;
        for (direction, _) in &self.messages {
            let (from, to) = (usize::from(direction >> 4), usize::from(direction & 0xf));
            if last.replace(*direction) == Some(*direction) {
                continue;
            }
            into.push(Action::Deliver(from, to));
            into.extend((self.repeats > 0).then_some(Action::Repeat(from, to)));
            // Two that are the same overtake one another without effect.
            let (first, second) = (self.waiting(from, to, 0), self.waiting(from, to, 1));
            if self.overtakes > 0 && second.is_some() && first != second {
                into.push(Action::Overtake(from, to));
            }
        }
        into.extend((0..NODES).filter(|node| steps.facts(self.nodes[*node]).under_way > 0).map(Action::Sync));
        into.extend((0..NODES).filter(|node| steps.facts(self.nodes[*node]).reads).map(Action::Read));
        into.extend(PAIRS.into_iter().filter(|(low, high)| scope.talk(*low, *high)).filter_map(|(low, high)| {
            if !self.is_up(low, high) {
                return Some(Action::Connect(low, high));
            }
            (self.breaks > 0).then_some(Action::Break(low, high))
        }));
        into.extend((0..scope.turns.len()).filter(|turn| self.reported >> turn & 1 == 1).map(Action::Accept));
        into.extend((0..scope.turns.len()).filter(|turn| self.untold >> turn & 1 == 1).map(Action::Tell));
        if usize::from(self.assigned) < scope.turns.len() {
            into.push(Action::Assign);
        }
        for node in 0..NODES {
            let facts = steps.facts(self.nodes[node]);
            let turn = master::turn_of(facts.promised);
            if facts.serves
                && turn.is_some_and(|turn| turn < usize::from(scope.writes) && self.written >> turn & 1 == 0)
            {
                into.push(Action::Write(node));
            }
            if self.crashes > 0 {
                into.extend((0..=facts.under_way).map(|survive| Action::Crash(node, survive)));
            }
            if self.ends > 0 && facts.waits {
                into.push(Action::GiveUp(node));
            }
            if self.releases > 0 && facts.releases {
                into.push(Action::Release(node));
            }
            if facts.lets_go {
                into.push(Action::LetGo(node));
            }
            if self.losses > 0 && !facts.durable.is_empty() {
                into.push(Action::Lose(node));
            }
            if self.empties > 0 && facts.promised > Epoch::ZERO && self.may_lose_disk(fixed, node) {
                into.push(Action::Empty(node));
            }
            if self.rots > 0 {
                into.extend(self.rotting(scope, steps, node).map(|at| Action::Rot(node, at)));
            }
        }
    }

    /// The batches of a node's disk that may rot: another that it talks to has them.
    fn rotting<'a>(&self, scope: &Scope, steps: &'a Steps, node: usize) -> impl Iterator<Item = u8> + use<'a> {
        let others: Vec<&Facts> = (0..NODES)
            .filter(|other| *other != node && scope.talk(node.min(*other), node.max(*other)))
            .map(|other| steps.facts(self.nodes[other]))
            .collect();
        let facts = steps.facts(self.nodes[node]);
        facts.durable.iter().skip(facts.gone).enumerate().filter_map(move |(at, position)| {
            let lsn = steps.position(*position).lsn;
            let has = |facts: &Facts| {
                let is_kept = Facts::holds(&facts.accepted, lsn, *position); // And not being cut off.
                is_kept && Facts::holds(&facts.durable, lsn, *position) && !facts.damaged.contains(&lsn)
            };
            let may = has(facts) && others.iter().any(|other| has(other));
            u8::try_from(at).ok().filter(|_| may)
        })
    }

    /// Whether the assignment that a node was to be fenced by, and the newest one, keep a majority without its disk.
    fn may_lose_disk(&self, fixed: &Fixed<'_>, node: usize) -> bool {
        let newest = usize::from(self.assigned).checked_sub(1);
        [master::activated(self.accepted), newest].into_iter().flatten().all(|turn| {
            let voters = fixed.scope.voters(turn);
            let keeps = |voter: &&NodeId| place(**voter) != node && !self.is_lost(**voter, turn);
            voters.iter().filter(keeps).count() >= majority_of(voters.len())
        })
    }

    /// Whether a voter's disk is another than the one that had the vote in this assignment.
    pub(super) fn is_lost(&self, voter: NodeId, turn: usize) -> bool {
        turn < usize::from(self.lost[place(voter)])
    }

    /// Whether anything happens without a fault, a write or a new assignment.
    pub(super) fn is_quiet(choices: &[Action]) -> bool {
        choices.iter().all(|choice| {
            use Action::{Assign, Break, Crash, Empty, GiveUp, Lose, Overtake, Release, Repeat, Rot, Write};
            let fault = matches!(choice, Break(..) | Crash(..) | Empty(_) | GiveUp(_) | Lose(_) | Release(_) | Rot(..));
            let fault = fault || matches!(choice, Repeat(..) | Overtake(..));
            fault || matches!(choice, Assign | Write(_))
        })
    }

    /// The world after one choice; what it breaks is a violation.
    pub(super) fn after(&self, fixed: &Fixed<'_>, steps: &mut Steps, action: Action) -> Result<Self, Violation> {
        let mut world = self.clone();
        match action {
            Action::Assign => {
                let turn = usize::from(self.assigned);
                let disk = |node: NodeId| steps.node(self.nodes[place(node)]).directory();
                let lost = |node: NodeId, turn: usize| self.is_lost(node, turn);
                let assignment = master::assignment(fixed, turn, self.accepted, disk, lost);
                world.assigned += 1;
                world.reported &= master::acceptable(world.assigned);
                world.happens(fixed, steps, place(assignment.leader), Happening::Assigned(assignment))?;
            }
            Action::Accept(turn) => {
                world.reported &= !(1 << turn);
                world.accepted |= 1 << turn;
                world.untold |= 1 << turn;
                judge::on_accept(fixed, steps, &world, turn)?;
            }
            Action::Tell(turn) => {
                world.untold &= !(1 << turn);
                let leader = place(fixed.scope.turns[turn].leader);
                world.happens(fixed, steps, leader, Happening::Accepted(master::epoch(turn)))?;
            }
            Action::Deliver(from, to) => world.hear(fixed, steps, (from, to), 0)?,
            Action::Overtake(from, to) => {
                world.overtakes -= 1;
                world.hear(fixed, steps, (from, to), 1)?;
            }
            Action::Repeat(from, to) => {
                world.repeats -= 1;
                if let Some(happening) = self.waiting(from, to, 0) {
                    world.step(fixed, steps, to, happening)?;
                }
            }
            Action::Read(node) => world.happens(fixed, steps, node, Happening::Reads)?,
            Action::Sync(node) => world.happens(fixed, steps, node, Happening::Syncs)?,
            Action::GiveUp(node) => {
                world.ends -= 1;
                world.happens(fixed, steps, node, Happening::GivesUp)?;
            }
            Action::LetGo(node) => world.happens(fixed, steps, node, Happening::Releases)?,
            Action::Release(node) => {
                world.releases -= 1;
                world.happens(fixed, steps, node, Happening::Releases)?;
            }
            Action::Rot(node, at) => {
                world.rots -= 1;
                world.happens(fixed, steps, node, Happening::Rots { at })?;
            }
            Action::Crash(node, survive) => {
                world.crashes -= 1;
                world.restart(fixed, steps, node, Happening::Crashes { survive })?;
            }
            Action::Lose(node) => {
                world.losses -= 1;
                world.restart(fixed, steps, node, Happening::Loses)?;
            }
            Action::Empty(node) => {
                world.empties -= 1;
                world.lost[node] = world.assigned;
                world.restart(fixed, steps, node, Happening::Empties)?;
            }
            Action::Break(low, high) => {
                world.breaks -= 1;
                world.disconnect(fixed, steps, low, high)?;
            }
            Action::Connect(low, high) => world.connect(fixed, steps, low, high)?,
            Action::Write(node) => {
                if let Some(turn) = master::turn_of(steps.facts(self.nodes[node]).promised) {
                    world.written |= 1 << turn;
                }
                world.happens(fixed, steps, node, Happening::Writes)?;
            }
        }
        judge::after(fixed, steps, &world)?;
        world.forget(fixed, steps)?;
        Ok(world)
    }

    /// Drops what will be heard without effect, whenever that is: answers to a leader in an epoch that it no longer leads.
    /// Worlds that differ in nothing else are the same. (That it has none is seen here, by the step itself.)
    fn forget(&mut self, fixed: &Fixed<'_>, steps: &mut Steps) -> Result<(), Violation> {
        for (turn, Turn { leader, .. }) in fixed.scope.turns.iter().enumerate() {
            if steps.facts(self.nodes[place(*leader)]).leads_no_more(master::epoch(turn)) {
                self.untold &= !(1 << turn);
            }
        }
        let mut at = 0;
        while let Some((direction, happening)) = self.messages.get(at).copied() {
            let node = self.nodes[usize::from(direction & 0xf)];
            let over = steps.answers(happening).is_some_and(|epoch| steps.facts(node).leads_no_more(epoch));
            if over && matches!(steps.step(node, happening)?, (same, []) if same == node) {
                self.messages.remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// A node starts again: its connections are gone, and what it was about to say to the master or to hear from it.
    fn restart(&mut self, fixed: &Fixed<'_>, steps: &mut Steps, node: usize, how: Happening) -> Result<(), Violation> {
        for (turn, Turn { leader, .. }) in fixed.scope.turns.iter().enumerate() {
            if place(*leader) == node {
                self.untold &= !(1 << turn);
                self.reported &= !(1 << turn);
            }
        }
        self.happens(fixed, steps, node, how)?;
        for other in 0..NODES {
            let (low, high) = (node.min(other), node.max(other));
            if low != high && self.is_up(low, high) {
                self.cut(low, high);
                self.happens(fixed, steps, other, Happening::Down(node_id(node)))?;
            }
        }
        Ok(())
    }

    fn happens(&mut self, fixed: &Fixed<'_>, steps: &mut Steps, node: usize, what: Happening) -> Result<(), Violation> {
        let what = steps.add_happening(what);
        self.step(fixed, steps, node, what)
    }

    fn step(&mut self, fixed: &Fixed<'_>, steps: &mut Steps, node: usize, happening: u32) -> Result<(), Violation> {
        let (next, outcomes) = steps.step(self.nodes[node], happening)?;
        self.nodes[node] = next;
        let mut broken = Vec::new();
        let mut commits = None;
        for outcome in outcomes {
            match *outcome {
                Outcome::Sends { to, happening } => self.send(node, to, happening),
                Outcome::Commits(position) => commits = Some(position),
                Outcome::Reports(epoch) => {
                    let reported = master::turn_of(epoch).map_or(0, |turn| 1 << turn);
                    self.reported |= reported & master::acceptable(self.assigned);
                }
                Outcome::Disconnects { peer, reason } => broken.push((peer, reason)),
                // What it had reported, the master may accept all the same: then nobody leads that epoch.
                Outcome::StepsDown(_) => {}
            }
        }
        if let Some(position) = commits {
            self.committed = judge::on_commit(fixed, steps, self, node, position)?;
        }
        for (peer, reason) in broken {
            if reason != DisconnectReason::MissingBatches {
                let what = format!("node {} closes the connection to node {}: {reason}", node + 1, peer + 1);
                return Err(Violation::new("protocol", what));
            }
            self.disconnect(fixed, steps, node.min(peer), node.max(peer))?;
        }
        Ok(())
    }

    /// A message arrives, behind which so many older ones are on the way.
    fn hear(
        &mut self,
        fixed: &Fixed<'_>,
        steps: &mut Steps,
        (from, to): (usize, usize),
        behind: usize,
    ) -> Result<(), Violation> {
        let direction = direction(from, to);
        let Some(first) = self.messages.iter().position(|(of, _)| *of == direction) else { return Ok(()) };
        let (_, happening) = self.messages.remove(first + behind);
        self.step(fixed, steps, to, happening)
    }

    fn send(&mut self, from: usize, to: usize, happening: u32) {
        if !self.is_up(from.min(to), from.max(to)) {
            return; // There is no connection that would carry it.
        }
        let direction = direction(from, to);
        let at = self.messages.partition_point(|(of, _)| *of <= direction);
        self.messages.insert(at, (direction, happening));
    }

    fn connect(&mut self, fixed: &Fixed<'_>, steps: &mut Steps, low: usize, high: usize) -> Result<(), Violation> {
        self.up |= 1 << pair(low, high);
        let up = |node: usize| Happening::Up(node_id(node), steps.node(self.nodes[node]).directory());
        let (low_is_up, high_is_up) = (up(low), up(high));
        self.happens(fixed, steps, low, high_is_up)?;
        self.happens(fixed, steps, high, low_is_up)
    }

    fn disconnect(&mut self, fixed: &Fixed<'_>, steps: &mut Steps, low: usize, high: usize) -> Result<(), Violation> {
        if !self.is_up(low, high) {
            return Ok(());
        }
        self.cut(low, high);
        self.happens(fixed, steps, low, Happening::Down(node_id(high)))?;
        self.happens(fixed, steps, high, Happening::Down(node_id(low)))
    }

    fn cut(&mut self, low: usize, high: usize) {
        self.up &= !(1 << pair(low, high));
        self.messages.retain(|(of, _)| *of != direction(low, high) && *of != direction(high, low));
    }

    fn is_up(&self, low: usize, high: usize) -> bool {
        self.up >> pair(low, high) & 1 == 1
    }

    /// The happening of a message on the way, behind so many older ones.
    pub(super) fn waiting(&self, from: usize, to: usize, behind: usize) -> Option<u32> {
        let direction = direction(from, to);
        self.messages.iter().filter(|(of, _)| *of == direction).nth(behind).map(|(_, happening)| *happening)
    }

    /// As words, for the list of worlds to look at.
    pub(super) fn write(&self, into: &mut Vec<u32>) {
        let Self {
            nodes,
            up,
            assigned,
            reported,
            accepted,
            untold,
            written,
            crashes,
            breaks,
            losses,
            repeats,
            overtakes,
            ends,
            releases,
            empties,
            lost,
            rots,
            committed,
            messages,
        } = self;
        into.extend(nodes);
        let bytes = |a: u8, b: u8, c: u8, d: u8| u32::from_le_bytes([a, b, c, d]);
        into.push(bytes(*up, *assigned, *reported, *accepted));
        into.push(bytes(*untold, *written, *crashes, *breaks));
        into.push(u32::from(*committed) << 16 | u32::from(*ends) << 8 | u32::from(*losses));
        let lost = lost.iter().rev().fold(0, |word, lost| word << 4 | u32::from(*lost));
        into.push(u32::from(*rots) << 24 | u32::from(*empties) << 16 | lost);
        let often = *releases << 4 | *repeats << 2 | *overtakes;
        into.push(u32::from(often) << 24 | messages.len() as u32);
        for (direction, happening) in messages {
            assert!(*happening < 1 << 24, "more than 16 million happenings do not fit beside a direction");
            into.push(u32::from(*direction >> 4 << 2 | *direction & 3) << 24 | happening);
        }
    }

    /// What [`World::write`] wrote at the front, and how many words that was.
    pub(super) fn read(words: &[u32]) -> (Self, usize) {
        let [a, b, c, e, d] = [4, 5, 6, 7, 8].map(|at| words[at]);
        let [up, assigned, reported, accepted] = a.to_le_bytes();
        let [untold, written, crashes, breaks] = b.to_le_bytes();
        let end = 9 + (d & 0x00ff_ffff) as usize;
        let message = |word: &u32| {
            let direction = (word >> 24) as u8;
            (direction >> 2 << 4 | direction & 3, word & 0x00ff_ffff)
        };
        let world = Self {
            nodes: [words[0], words[1], words[2], words[3]],
            up,
            assigned,
            reported,
            accepted,
            untold,
            written,
            crashes,
            breaks,
            losses: (c & 0xff) as u8,
            ends: (c >> 8 & 0xff) as u8,
            releases: (d >> 28) as u8,
            repeats: (d >> 26 & 3) as u8,
            overtakes: (d >> 24 & 3) as u8,
            rots: (e >> 24) as u8,
            empties: (e >> 16) as u8,
            lost: std::array::from_fn(|at| (e >> (4 * at) & 0xf) as u8),
            committed: (c >> 16) as u16,
            messages: words[9..end].iter().map(message).collect(),
        };
        (world, end)
    }

    /// The hash by which a world that was met is known again.
    pub(super) fn key(words: &[u32], bytes: &mut Vec<u8>) -> u128 {
        bytes.clear();
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        xxh3_128(bytes)
    }
}

const fn direction(from: usize, to: usize) -> u8 {
    (from << 4 | to) as u8
}

fn pair(low: usize, high: usize) -> usize {
    PAIRS.iter().position(|pair| *pair == (low, high)).unwrap_or(0)
}

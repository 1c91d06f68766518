//! Every state of a node and every happening that was met, by number; and what a happening makes of a node, remembered.
//!
//! A step of the replica depends on nothing but the replica, its log and the input: so the same step is executed once,
//! however many worlds it occurs in. A world is then a handful of numbers.

use super::ids::Ids;
use super::node::{Effect, Happening, Node, directory};
use super::scope::{NODES, Scope, place};
use crate::model::{Assignment, Epoch, LogPosition, Lsn, Message};
use crate::replica::{DisconnectReason, LogWrite};
use crate::sim::Violation;
use std::hash::{Hash, Hasher};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What a step does to the world.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Sends {
        to: usize,
        happening: u32,
    },
    /// Up to this position, by its number.
    Commits(u16),
    Reports(Epoch),
    Disconnects {
        peer: usize,
        reason: DisconnectReason,
    },
    StepsDown(Epoch),
}

/// What the judge, and the choice of what may happen, see of a node's state.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) accepted: Box<[u16]>,
    pub(super) durable: Box<[u16]>,
    pub(super) promised: Epoch,
    pub(super) committed: Lsn,
    pub(super) suspect: Option<Lsn>,
    pub(super) damaged: Box<[Lsn]>,
    pub(super) under_way: u8,
    pub(super) reads: bool,
    /// A snapshot is being installed.
    pub(super) installs: bool,
    /// Its log may be released.
    pub(super) releases: bool,
    /// What nobody can mend of it may go.
    pub(super) lets_go: bool,
    /// It leads, and can't mend what nobody has: it gives up when its time is over.
    pub(super) gives_up: bool,
    /// How many of the durable batches it has released.
    pub(super) gone: usize,
    pub(super) leads: bool,
    pub(super) serves: bool,
    /// It leads, and waits for a majority.
    pub(super) waits: bool,
}

impl Facts {
    /// Whether this node will never lead the epoch (again).
    pub(super) fn leads_no_more(&self, epoch: Epoch) -> bool {
        self.promised > epoch || (self.promised == epoch && !self.leads)
    }

    /// Whether a log with these positions holds this one.
    pub(super) fn holds(log: &[u16], lsn: Lsn, position: u16) -> bool {
        usize::try_from(lsn.prev().get()).ok().and_then(|at| log.get(at)) == Some(&position)
    }
}

#[derive(Debug)]
struct Step {
    node: u32,
    outcomes: Box<[Outcome]>,
}

#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Whether writes are durable at once.
    prompt: bool,
    /// Whether reads of the log take time.
    reads: bool,
    /// Whether nodes are the same only if they are so in everything, tickets too: what a test compares with.
    pub(super) verbatim: bool,
    node_ids: Ids,
    nodes: Vec<Node>,
    facts: Vec<Facts>,
    happening_ids: Ids,
    happenings: Vec<Happening>,
    /// Of each that answers a leader, in which epoch.
    answers: Vec<Option<Epoch>>,
    /// The numbers of those that occur in almost every world.
    frequent: [Option<u32>; FREQUENT],
    step_ids: Ids,
    /// What each came to; one that breaks an invariant comes to nothing else.
    steps: Vec<Result<Step, Violation>>,
    position_ids: Ids,
    positions: Vec<LogPosition>,
    /// The log that ends at each position.
    histories: Vec<Box<[u16]>>,
}

impl Steps {
    pub(super) fn new(scope: &Scope) -> Self {
        Self { prompt: scope.prompt, reads: scope.reads, ..Self::default() }
    }

    /// Of a world in which nothing that a disk does takes time.
    pub(super) fn prompt() -> Self {
        Self { prompt: true, ..Self::default() }
    }

    pub(super) fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn facts(&self, id: u32) -> &Facts {
        &self.facts[id as usize]
    }

    pub(super) fn happening(&self, id: u32) -> &Happening {
        &self.happenings[id as usize]
    }

    /// The epoch of the leader that this answers, if it is an answer.
    pub(super) fn answers(&self, id: u32) -> Option<Epoch> {
        self.answers[id as usize]
    }

    /// The position of this number; every batch of the model has one record, so that its LSN is its place in the log.
    pub(super) fn position(&self, number: u16) -> LogPosition {
        self.positions[usize::from(number)]
    }

    /// The log that ends there.
    pub(super) fn history(&self, number: u16) -> &[u16] {
        &self.histories[usize::from(number)]
    }

    pub(super) const fn executed(&self) -> usize {
        self.steps.len()
    }

    pub(super) const fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn add_node(&mut self, node: Node) -> u32 {
        let key = if self.verbatim { xxh3_128(format!("{node:?}").as_bytes()) } else { node.fingerprint() };
        let (id, new) = self.node_ids.number(key);
        if new {
            let facts = self.facts_of(&node);
            self.facts.push(facts);
            self.nodes.push(node);
        }
        id
    }

    fn facts_of(&mut self, node: &Node) -> Facts {
        let mut positions = |start: LogPosition, batches: &[towline_wal::Batch]| {
            // What was released, or is behind a snapshot, is the history of where the log begins: others had it.
            let mut numbers = Vec::new();
            if start.lsn > Lsn::ZERO {
                let (number, _) = self.position_ids.number(key_of(&start));
                numbers.extend_from_slice(&self.histories[number as usize]);
            }
            for at in batches.iter().map(towline_wal::Batch::position) {
                let (number, new) = self.position_ids.number(key_of(&at));
                numbers.push(u16::try_from(number).unwrap_or(u16::MAX));
                if new {
                    self.positions.push(at);
                    self.histories.push(numbers.as_slice().into());
                }
            }
            numbers.into_boxed_slice()
        };
        let accepted = positions(node.log.start, &node.log.accepted);
        let durable = positions(node.log.durable_start, &node.log.durable);
        Facts {
            accepted,
            promised: node.replica.promise().epoch,
            committed: node.replica.committed(),
            suspect: node.log.suspect,
            damaged: node.log.damaged.as_slice().into(),
            under_way: u8::try_from(node.log.under_way.len()).unwrap_or(u8::MAX),
            reads: !node.reads.is_empty(),
            installs: node
                .log
                .under_way
                .iter()
                .any(|(_, write)| matches!(write, LogWrite::Mark(_) | LogWrite::Reset { .. })),
            releases: node.releasable().is_some(),
            gives_up: node.replica.phase().is_some() && node.replica.unmendable().is_some(),
            gone: durable.len() - node.log.durable.len(),
            lets_go: node.releasable().zip(node.replica.unmendable()).is_some_and(|(at, (first, _))| at.lsn >= first),
            leads: node.replica.phase().is_some(),
            serves: node.is_serving(),
            waits: node.replica.next_tick().is_some(),
            durable,
        }
    }

    pub(super) fn add_happening(&mut self, happening: Happening) -> u32 {
        let place = frequent(&happening);
        if let Some(id) = place.and_then(|place| *self.frequent.get(place)?) {
            return id;
        }
        let (id, new) = self.happening_ids.number(key(&happening));
        if let Some(frequent) = place.and_then(|place| self.frequent.get_mut(place)) {
            *frequent = Some(id);
        }
        if new {
            self.answers.push(answers(&happening));
            self.happenings.push(happening);
        }
        id
    }

    /// What the happening makes of the node; executed if it never was.
    pub(super) fn step(&mut self, node: u32, happening: u32) -> Result<(u32, &[Outcome]), Violation> {
        let (id, new) = self.step_ids.number(u128::from(node) << 32 | u128::from(happening));
        if new {
            let step = self.execute(node, happening);
            self.steps.push(step);
        }
        match &self.steps[id as usize] {
            Ok(step) => Ok((step.node, &step.outcomes)),
            Err(violation) => Err(violation.clone()),
        }
    }

    fn execute(&mut self, node: u32, happening: u32) -> Result<Step, Violation> {
        let mut stepped = self.node(node).clone();
        let from = stepped.id;
        let mut effects = stepped.step(self.happening(happening).clone())?;
        loop {
            let next = if !self.reads && !stepped.reads.is_empty() {
                Happening::Reads
            } else if self.prompt && !stepped.log.under_way.is_empty() {
                Happening::Syncs
            } else {
                break;
            };
            effects.extend(stepped.step(next)?);
        }
        let next = self.add_node(stepped);
        let mut outcomes = Vec::new();
        for effect in effects {
            outcomes.push(match effect {
                Effect::Sends { to, message } => {
                    Outcome::Sends { to: place(to), happening: self.add_happening(Happening::Hears { from, message }) }
                }
                Effect::Commits(lsn) => {
                    // A position that is no index is in no log either.
                    let at = usize::try_from(lsn.prev().get()).ok();
                    let Some(position) = at.and_then(|at| self.facts(next).accepted.get(at)) else {
                        return Err(Violation::new("I2", format!("{from} commits LSN {lsn}, which its log lacks")));
                    };
                    Outcome::Commits(*position)
                }
                Effect::Reports(epoch) => Outcome::Reports(epoch),
                Effect::Disconnects { peer, reason } => Outcome::Disconnects { peer: place(peer), reason },
                Effect::StepsDown(epoch) => Outcome::StepsDown(epoch),
            });
        }
        Ok(Step { node: next, outcomes: outcomes.into() })
    }

    /// What all of it takes, roughly.
    pub(super) fn bytes(&self) -> usize {
        let sets = [&self.node_ids, &self.happening_ids, &self.step_ids].map(Ids::bytes).iter().sum::<usize>();
        let nodes = self.nodes.iter().map(|node| node.bytes() + size_of::<Facts>() + 16).sum::<usize>();
        let outcomes =
            self.steps.iter().flatten().map(|step| size_of::<Step>() + size_of_val(&*step.outcomes)).sum::<usize>();
        sets + nodes + outcomes + self.happenings.len() * (size_of::<Happening>() + 128)
    }
}

/// The epoch of the leader that a message answers.
const fn answers(happening: &Happening) -> Option<Epoch> {
    let Happening::Hears { message, .. } = happening else { return None };
    match message {
        Message::Promise { epoch, .. }
        | Message::Refused { epoch, .. }
        | Message::Appended { epoch, .. }
        | Message::Mismatch { epoch, .. }
        | Message::Fetched { epoch, .. }
        | Message::Confirmed { epoch, .. }
        | Message::ReadIndexed { epoch, .. } => Some(*epoch),
        // A snapshot is spoken of both ways: by who leads, and to who leads.
        Message::Fence { .. }
        | Message::Append { .. }
        | Message::Fetch { .. }
        | Message::Confirm { .. }
        | Message::ReadIndex { .. }
        | Message::SnapshotOffer { .. }
        | Message::SnapshotWanted { .. }
        | Message::SnapshotChunk { .. }
        // And of damage by anybody.
        | Message::Damaged { .. }
        | Message::MendWanted { .. }
        | Message::Mend { .. } => None,
    }
}

const fn key_of(at: &LogPosition) -> u128 {
    (at.chain.get() as u128) << 64 | at.lsn.get() as u128
}

const FREQUENT: usize = 32;

/// A place in the list of frequent ones, which spares the hash.
fn frequent(happening: &Happening) -> Option<usize> {
    match happening {
        Happening::Syncs => Some(0),
        Happening::Reads => Some(FREQUENT - 1),
        Happening::GivesUp => Some(FREQUENT - 2),
        Happening::Releases => Some(FREQUENT - 3),
        Happening::Writes => Some(1),
        Happening::Loses => Some(2),
        // Of the first disk.
        Happening::Up(peer, disk) if *disk == directory(*peer, 0) => Some(3 + place(*peer)),
        Happening::Down(peer) => Some(3 + NODES + place(*peer)),
        Happening::Crashes { survive } => Some(3 + 2 * NODES + usize::from(*survive)).filter(|at| *at < FREQUENT - 3),
        Happening::Hears { .. }
        | Happening::Assigned(_)
        | Happening::Accepted(_)
        | Happening::Up(..)
        | Happening::Empties
        | Happening::Rots { .. } => None,
    }
}

/// The same for two happenings that do the same.
pub(super) fn key(happening: &Happening) -> u128 {
    let mut into = Xxh3::new();
    match happening {
        Happening::Hears { from, message } => {
            (0_u8, from).hash(&mut into);
            hash_message(message, &mut into);
        }
        Happening::Syncs => 1_u8.hash(&mut into),
        Happening::Assigned(assignment) => {
            let Assignment { epoch, leader, voters, fence, fence_quorum, directories, .. } = assignment;
            (2_u8, epoch, leader, voters, fence, fence_quorum, directories).hash(&mut into);
        }
        Happening::Accepted(epoch) => (3_u8, epoch).hash(&mut into),
        Happening::Writes => 4_u8.hash(&mut into),
        Happening::Up(peer, disk) => (5_u8, peer, disk).hash(&mut into),
        Happening::Down(peer) => (6_u8, peer).hash(&mut into),
        Happening::Crashes { survive } => (7_u8, survive).hash(&mut into),
        Happening::Loses => 8_u8.hash(&mut into),
        Happening::Reads => 9_u8.hash(&mut into),
        Happening::GivesUp => 10_u8.hash(&mut into),
        Happening::Releases => 11_u8.hash(&mut into),
        Happening::Empties => 12_u8.hash(&mut into),
        Happening::Rots { at } => (13_u8, at).hash(&mut into),
    }
    into.digest128()
}

/// A message's bytes on the wire are all of it.
fn hash_message(message: &Message, into: &mut impl Hasher) {
    match message.encode() {
        Ok(bytes) => bytes.hash(into),
        Err(error) => unreachable!("a replica says only what can be encoded: {error}"),
    }
}

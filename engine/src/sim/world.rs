//! The simulated world: nodes, links, clients, a control plane and a source of faults, in one thread and virtual
//! time. The log, the connection, the replica, the sequencer and apply are the real ones.

use super::chance::Chance;
use super::checker::{Acknowledged, Checker, Violation};
use super::event::{Agenda, Event};
use super::fault::{FaultKind, Totals};
use super::master::ScriptedMaster;
use super::node::SimNode;
use super::reads::Reads;
use super::script::Script;
use super::sessions::{Heard, Sessions};
use super::state::{SimStore, StateKind};
use super::swarm::Swarm;
use crate::model::{ClusterId, Epoch, LogId, LogPosition, Lsn, NamespaceId, NodeId, Outcome, ShardDescriptor, ShardId};
use crate::replica::Input;
use std::collections::VecDeque;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use towline_wal::Options;

/// What a seed must have done before it may end.
const SIMULATED_MIN: Duration = Duration::from_secs(60);
const ACKNOWLEDGED_MIN: u64 = 2_000;
const FAULTS_MIN: u64 = 10;
/// A seed that has not done it by then is stuck: that is a failure.
const SIMULATED_MAX: Duration = Duration::from_secs(900);

/// The log's own check walks its whole index: once in so many events.
const DEEP_CHECK_EVERY: u64 = 4096;

/// Nodes of the world; a few of them vote.
const NODES: u64 = 5;

pub(super) const SHARD: ShardId = ShardId::new(1024);
pub(super) const NAMESPACE: NamespaceId = NamespaceId::new(1);

/// How one seed ends.
///
/// ```
/// use towline::sim::run_seed;
/// let run = run_seed(7, true);
/// assert_eq!(run.violation, None);
/// let totals = &run.totals;
/// let faults: u64 = totals.faults.values().sum();
/// assert!(totals.simulated_ms >= 60_000 && totals.acknowledged >= 2_000 && faults >= 10);
/// let told = run.story.iter().filter(|line| line.contains("fault: ")).count();
/// assert_eq!(told as u64, faults, "each is a line of the story");
/// ```
#[derive(Debug)]
pub struct Run {
    /// What it did.
    pub totals: Totals,
    /// A hash over every event: the same seed gives the same, in every build.
    pub trace_hash: u64,
    /// The story, where it was asked for.
    pub story: Vec<String>,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) swarm: Swarm,
    pub(super) agenda: Agenda,
    pub(super) nodes: BTreeMap<NodeId, SimNode>,
    pub(super) ids: Vec<NodeId>,
    /// Nodes that something happened to in this turn: they may have something to do.
    pub(super) touched: BTreeSet<NodeId>,
    pub(super) options: Options,
    pub(super) shard: ShardDescriptor,
    pub(super) cluster: ClusterId,
    pub(super) log: LogId,
    pub(super) master: ScriptedMaster,
    pub(super) script: Script,
    /// Links that stand, by the pair of nodes (low, high).
    pub(super) links: BTreeMap<(NodeId, NodeId), u64>,
    pub(super) next_link: u64,
    /// The time at which the last bytes of a direction arrive: a stream does not overtake itself.
    pub(super) arrivals: BTreeMap<(u64, NodeId), Duration>,
    /// Until when nothing gets from one node to another.
    pub(super) cuts: BTreeMap<(NodeId, NodeId), Duration>,
    /// Until when a node is isolated, the last one that was.
    pub(super) isolated_until: Duration,
    /// Until when nothing moves on a link.
    pub(super) stalls: BTreeMap<u64, Duration>,
    pub(super) checker: Checker,
    pub(super) totals: Totals,
    pub(super) next_write: u64,
    pub(super) sessions: Sessions,
    pub(super) reads: Reads,
    pub(super) healed: bool,
    pub(super) corruption_next: bool,
    /// The next chunk of a snapshot that is kept is damaged.
    pub(super) rot_next: bool,
    /// What ever rotted on any disk: the first LSN of each batch, and where it ends.
    pub(super) rotted: Vec<(Lsn, LogPosition)>,
    pub(super) trace_hash: u64,
    pub(super) story: Option<Vec<String>>,
    /// Inputs that follow from the step that is being executed.
    pub(super) inputs: VecDeque<(NodeId, u64, Input)>,
    pub(super) stepping: bool,
}

/// Runs one seed to its end, with states in memory.
#[must_use]
pub fn run_seed(seed: u64, tell: bool) -> Run {
    run_to_its_end(World::new(seed, tell))
}

/// The same, with states of this kind. It leaves the same trace.
///
/// # Errors
/// A sentence: this build has no such state.
pub fn run_seed_with(seed: u64, kind: StateKind, tell: bool) -> Result<Run, String> {
    kind.check()?;
    let mut world = World::new(seed, tell);
    world.nodes.values_mut().for_each(|node| node.store = SimStore::new(kind));
    Ok(run_to_its_end(world))
}

fn run_to_its_end(mut world: World) -> Run {
    let violation = world.run().err();
    world.totals.seeds = 1;
    world.totals.simulated_ms = u64::try_from(world.agenda.now().as_millis()).unwrap_or(u64::MAX);
    world.totals.acknowledged = world.checker.acknowledged_count();
    Run { totals: world.totals, trace_hash: world.trace_hash, story: world.story.unwrap_or_default(), violation }
}

/// The one shard.
pub(super) const fn shard() -> ShardDescriptor {
    ShardDescriptor { shard: SHARD, namespace: NAMESPACE, start: Vec::new(), end: Vec::new() }
}

impl World {
    pub(super) fn new(seed: u64, tell: bool) -> Self {
        let mut chance = Chance::new(seed);
        let swarm = Swarm::draw(&mut chance);
        let ids: Vec<NodeId> = (1..=NODES).map(NodeId::new).collect();
        let cluster = ClusterId::new([0xc1; 16]);
        let quorum_bound = Duration::from_millis(swarm.quorum_ms);
        let mut founders = ids.clone();
        for _ in 0..chance.pick(&[2, 2, 2, 1, 0]).unwrap_or(2) {
            let out = chance.below(founders.len() as u64);
            founders.remove(usize::try_from(out).unwrap_or(0));
        }
        let mut master = ScriptedMaster::new(cluster, shard(), founders);
        let nodes: BTreeMap<_, _> = ids.iter().map(|id| (*id, SimNode::new(*id, quorum_bound))).collect();
        nodes.iter().for_each(|(id, node)| master.register(*id, node.directory()));
        Self {
            agenda: Agenda::default(),
            nodes,
            ids,
            touched: BTreeSet::new(),
            // Of all segments but one what they hold is read from them again when somebody asks.
            options: Options { segment_bytes: 256 * 1024, index_bytes_max: 0, ..Options::default() },
            log: master.log(),
            shard: shard(),
            cluster,
            master,
            script: Script::default(),
            links: BTreeMap::new(),
            next_link: 0,
            arrivals: BTreeMap::new(),
            cuts: BTreeMap::new(),
            isolated_until: Duration::ZERO,
            stalls: BTreeMap::new(),
            checker: Checker::default(),
            totals: Totals::default(),
            next_write: 1,
            sessions: Sessions::new(swarm.sessions),
            reads: Reads::default(),
            healed: false,
            corruption_next: false,
            rot_next: false,
            rotted: Vec::new(),
            trace_hash: 0,
            story: tell.then(Vec::new),
            inputs: VecDeque::new(),
            stepping: false,
            swarm,
            chance,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        self.begin();
        self.agenda.schedule(Duration::from_millis(self.swarm.fault_every_ms), Event::Fault);
        while !self.is_done() {
            if self.agenda.now() > SIMULATED_MAX {
                return Err(Violation::new("liveness", format!("the seed is stuck: {:?}", self.totals)));
            }
            self.turn()?;
        }
        self.heal()?;
        self.judge()
    }

    /// Every node starts, the control plane looks, clients write; nothing breaks yet.
    pub(super) fn begin(&mut self) {
        let swarm = format!("{:?}", self.swarm);
        self.tell(|| swarm);
        for node in self.ids.clone() {
            self.agenda.schedule(Duration::ZERO, Event::Start { node });
        }
        for client in 0..self.swarm.clients {
            self.agenda.schedule(Duration::from_millis(5 + client), Event::Write { client });
            self.agenda.schedule(Duration::from_millis(7 + client), Event::Read { client });
        }
        self.agenda.schedule(Duration::from_millis(3), Event::Look);
    }

    fn is_done(&self) -> bool {
        self.agenda.now() >= SIMULATED_MIN
            && self.checker.acknowledged_count() >= ACKNOWLEDGED_MIN
            && self.totals.faults.values().sum::<u64>() >= FAULTS_MIN
    }

    /// Handles one event, and lets everything that follows from it happen.
    pub(super) fn turn(&mut self) -> Result<(), Violation> {
        let Some(event) = self.agenda.next() else {
            return Err(Violation::new("liveness", "nothing is left to happen".into()));
        };
        self.totals.events += 1;
        self.note(&event);
        let handled_by = event.handled_by();
        if let Some(node) = handled_by.filter(|node| self.nodes[node].paused) {
            self.put_off(node, event);
            return Ok(());
        }
        self.touched.extend(handled_by);
        self.handle(event)?;
        while let Some(id) = self.touched.pop_first() {
            self.pump(id)?;
        }
        if self.totals.events.is_multiple_of(DEEP_CHECK_EVERY) {
            self.check_logs();
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Deliver { link, from, to, bytes } => self.deliver(link, from, to, &bytes)?,
            Event::Io { node, life, request, result } => self.io_done(node, life, &request, result),
            Event::Tick { node, life } => self.tick(node, life)?,
            Event::Dial { low, high } => self.dial(low, high)?,
            Event::Broken { node, peer, link } => self.lose_peer(node, peer, link)?,
            Event::Apply { node, life } => self.apply(node, life)?,
            Event::Flush { node, life } => self.flush_state(node, life)?,
            Event::Answer { node, life, input } => self.answer(node, life, *input)?,
            Event::Snapshot { node, life, step } => self.snapshot_step(node, life, step)?,
            Event::Scrub { node, life } => self.scrub(node, life)?,
            Event::Assign { node, assignment } => {
                if self.nodes[&node].running.is_some() {
                    self.step(node, Input::Assign(*assignment))?;
                }
            }
            Event::Report { node, life, epoch } => self.report(node, life, epoch),
            Event::Accepted { node, life, epoch } => {
                if self.is_alive(node, life) {
                    self.step(node, Input::ActivationAccepted(epoch))?;
                }
            }
            Event::Superseded { node, promised } => self.hear_superseded(node, promised)?,
            Event::SteppedDown { node, epoch } => self.hear_stepped_down(node, epoch),
            Event::Look => {
                self.witness_waits()?;
                self.look();
            }
            Event::Hasten => self.hasten(),
            Event::Write { client } => self.write(client),
            Event::Read { client } => self.read(client)?,
            Event::Fault => self.fault()?,
            Event::PowerCut { kind, victims, tries } => self.power_cut(kind, victims, tries)?,
            Event::Start { node } => self.start(node)?,
            Event::Resume { node, life } => self.resume(node, life),
            Event::Recover { node } => self.node(node).slowness = 1,
        }
        Ok(())
    }

    /// The same seed, the same trace: every event and its time go into one hash.
    fn note(&mut self, event: &Event) {
        let now = u64::try_from(self.agenda.now().as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; 48];
        let words = std::iter::once(now).chain(event.fingerprint());
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        self.trace_hash = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, self.trace_hash);
        self.tell(|| event.line());
    }

    /// Adds a line to the story, where one is told.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.agenda.now();
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.6} {}", now.as_secs_f64(), line()));
        }
    }

    fn check_logs(&mut self) {
        for running in self.nodes.values().filter_map(|node| node.running.as_ref()) {
            running.log.check();
        }
    }

    pub(super) fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        let ids = &self.ids;
        ids.iter().flat_map(|low| ids.iter().filter(move |high| low < high).map(move |high| (*low, *high))).collect()
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut SimNode {
        match self.nodes.get_mut(&id) {
            Some(node) => node,
            None => unreachable!("nodes are never removed: {id}"),
        }
    }

    pub(super) fn is_alive(&self, id: NodeId, life: u64) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.life == life && node.running.is_some())
    }

    /// A node that takes writes now: of several that believe they lead, mostly the newest.
    pub(super) fn serving(&mut self) -> Option<NodeId> {
        let position = |id: &NodeId| self.nodes.get(id)?.running.as_ref()?.replica.proposal_position();
        let mut serving: Vec<(Epoch, NodeId)> =
            self.ids.iter().filter_map(|id| position(id).map(|(epoch, _)| (epoch, *id))).collect();
        serving.sort_unstable();
        match serving.len() {
            0 | 1 => serving.first().map(|(_, id)| *id),
            _ if self.chance.per_mille(800) => serving.last().map(|(_, id)| *id),
            _ => self.chance.pick(&serving).map(|(_, id)| id),
        }
    }

    pub(super) fn answered(
        &mut self,
        write: u64,
        (epoch, lsn): (Epoch, Lsn),
        outcome: Option<Outcome>,
    ) -> Result<(), Violation> {
        if self.sessions.hear(write, (epoch, lsn), outcome)? == Heard::Nothing {
            return Ok(());
        }
        match outcome {
            Some(outcome) => {
                self.reads.tell(self.agenda.now(), lsn);
                let applied = matches!(outcome, Outcome::Applied { .. });
                self.checker.on_acknowledged(write, Acknowledged { lsn, applied })
            }
            None => {
                self.totals.in_doubt += 1;
                Ok(())
            }
        }
    }

    pub(super) fn count(&mut self, kind: FaultKind) {
        self.totals.count(kind);
        self.tell(|| format!("fault: {}", kind.name()));
    }
}

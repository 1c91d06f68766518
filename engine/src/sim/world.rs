//! The simulated world: nodes, links, clients, a control plane and a source of faults, in one thread and virtual
//! time. The log, the connection, the replica, the sequencer and apply are the real ones.

use super::chance::Chance;
use super::checker::{Acknowledged, Checker, Violation};
use super::event::{Agenda, Event};
use super::fault::{FaultKind, Totals};
use super::node::{ShardLog, SimNode};
use super::sessions::{Heard, Sessions};
use crate::control::ConfigMaster;
use crate::model::{ClusterId, Epoch, LogId, LogPosition, Lsn, NamespaceId, NodeId, Outcome, ShardDescriptor, ShardId};
use crate::replica::{Input, LogView, Phase};
use crate::state::MemStore;
use std::collections::VecDeque;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use towline_wal::Options;
use towline_wal::vdisk::VirtualDisk;

/// What a seed must have done before it may end.
const SIMULATED_MIN: Duration = Duration::from_secs(20);
const ACKNOWLEDGED_MIN: u64 = 500;
const CRASHES_WITH_LOSS_MIN: u64 = 3;
const LEADER_RESTARTS_MIN: u64 = 1;
/// A seed that has not done it by then is stuck: that is a failure.
const SIMULATED_MAX: Duration = Duration::from_secs(120);
/// When faults stop, everything must converge within this time (liveness).
const CONVERGENCE_MAX: Duration = Duration::from_secs(30);

/// The log's own check walks its whole index: once in so many events.
const DEEP_CHECK_EVERY: u64 = 1024;

pub(super) const CLIENTS: u64 = 4;
pub(super) const SHARD: ShardId = ShardId::new(1024);
pub(super) const NAMESPACE: NamespaceId = NamespaceId::new(1);

/// How one seed ends.
///
/// ```
/// use towline::sim::run_seed;
/// let run = run_seed(7, true);
/// assert_eq!(run.violation, None);
/// let totals = &run.totals;
/// assert!(totals.acknowledged >= 500 && totals.crashes_with_loss >= 3 && totals.leader_restarts >= 1);
/// let told = run.story.iter().filter(|line| line.contains("fault: ")).count();
/// assert_eq!(told as u64, totals.faults.values().sum::<u64>(), "each is a line of the story");
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
    pub(super) agenda: Agenda,
    pub(super) nodes: BTreeMap<NodeId, SimNode>,
    pub(super) ids: Vec<NodeId>,
    pub(super) options: Options,
    pub(super) shard: ShardDescriptor,
    pub(super) cluster: ClusterId,
    pub(super) log: LogId,
    pub(super) master: ConfigMaster,
    /// Whom the control plane wants to lead.
    pub(super) leader: NodeId,
    /// Links that stand, by the pair of nodes (low, high).
    pub(super) links: BTreeMap<(NodeId, NodeId), u64>,
    pub(super) next_link: u64,
    /// The time at which the last bytes of a direction arrive: a stream does not overtake itself.
    pub(super) arrivals: BTreeMap<(u64, NodeId), Duration>,
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(super) checker: Checker,
    pub(super) totals: Totals,
    pub(super) next_write: u64,
    pub(super) sessions: Sessions,
    pub(super) healed: bool,
    /// How often the seed wants a fault, in milliseconds between two.
    pub(super) fault_every_ms: u64,
    pub(super) corruption_next: bool,
    pub(super) trace_hash: u64,
    pub(super) story: Option<Vec<String>>,
    /// Inputs that follow from the step that is being executed.
    pub(super) inputs: VecDeque<(NodeId, u64, Input)>,
    pub(super) stepping: bool,
}

/// Runs one seed to its end.
#[must_use]
pub fn run_seed(seed: u64, tell: bool) -> Run {
    let mut world = World::new(seed, tell);
    let violation = world.run().err();
    world.totals.seeds = 1;
    world.totals.simulated_ms = u64::try_from(world.agenda.now().as_millis()).unwrap_or(u64::MAX);
    world.totals.acknowledged = world.checker.acknowledged_count();
    Run { totals: world.totals, trace_hash: world.trace_hash, story: world.story.unwrap_or_default(), violation }
}

impl World {
    fn new(seed: u64, tell: bool) -> Self {
        let mut chance = Chance::new(seed);
        let ids: Vec<NodeId> = (1..=3).map(NodeId::new).collect();
        let cluster = ClusterId::new([0xc1; 16]);
        let shard = ShardDescriptor { shard: SHARD, namespace: NAMESPACE, start: Vec::new(), end: Vec::new() };
        let master = ConfigMaster::new(cluster, shard.clone(), &ids);
        let node = |id: &NodeId| SimNode {
            id: *id,
            life: 0,
            disk: VirtualDisk::with_seed(id.get()),
            store: MemStore::new(),
            running: None,
            before: None,
            writes: 0,
            slowness: 1,
        };
        let options = Options { segment_bytes: 256 * 1024, ..Options::default() };
        Self {
            agenda: Agenda::default(),
            nodes: ids.iter().map(|id| (*id, node(id))).collect(),
            leader: chance.pick(&ids).unwrap_or(NodeId::new(1)),
            ids,
            options,
            log: master.log(),
            shard,
            cluster,
            master,
            links: BTreeMap::new(),
            next_link: 0,
            arrivals: BTreeMap::new(),
            cuts: BTreeSet::new(),
            checker: Checker::default(),
            totals: Totals::default(),
            next_write: 1,
            sessions: Sessions::new(),
            healed: false,
            fault_every_ms: chance.between(300, 3000),
            corruption_next: false,
            trace_hash: 0,
            story: tell.then(Vec::new),
            inputs: VecDeque::new(),
            stepping: false,
            chance,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        for node in self.ids.clone() {
            self.agenda.schedule(Duration::ZERO, Event::Start { node });
        }
        for client in 0..CLIENTS {
            self.agenda.schedule(Duration::from_millis(5 + client), Event::Write { client });
        }
        self.agenda.schedule(Duration::from_millis(self.fault_every_ms), Event::Fault);
        while !self.is_done() {
            if self.agenda.now() > SIMULATED_MAX {
                return Err(Violation::new("liveness", format!("the seed is stuck: {:?}", self.totals)));
            }
            self.turn()?;
        }
        self.heal()?;
        self.judge()
    }

    fn is_done(&self) -> bool {
        self.agenda.now() >= SIMULATED_MIN
            && self.checker.acknowledged_count() >= ACKNOWLEDGED_MIN
            && self.totals.crashes_with_loss >= CRASHES_WITH_LOSS_MIN
            && self.totals.leader_restarts >= LEADER_RESTARTS_MIN
    }

    /// Handles one event, and lets everything that follows from it happen.
    fn turn(&mut self) -> Result<(), Violation> {
        let Some(event) = self.agenda.next() else {
            return Err(Violation::new("liveness", "nothing is left to happen".into()));
        };
        self.totals.events += 1;
        self.note(&event);
        self.handle(event)?;
        for id in self.ids.clone() {
            self.pump(id)?;
        }
        self.check()
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Deliver { link, from, to, bytes } => self.deliver(link, from, to, &bytes),
            Event::Io { node, life, request, result } => {
                self.io_done(node, life, &request, result);
                Ok(())
            }
            Event::Tick { node, life } => self.tick(node, life),
            Event::Dial { low, high } => self.dial(low, high),
            Event::Apply { node, life } => self.apply(node, life),
            Event::Flush { node, life } => {
                self.flush_state(node, life);
                Ok(())
            }
            Event::Accept { node, life, epoch } => {
                if self.is_alive(node, life) && self.master.accept_activation(epoch) {
                    self.totals.epochs += 1;
                    self.step(node, Input::ActivationAccepted(epoch))?;
                }
                Ok(())
            }
            Event::Assign { node, life, promised } => self.assign(node, life, promised),
            Event::Write { client } => {
                self.write(client);
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::PowerCut { kind, victims, tries } => self.power_cut(kind, victims, tries),
            Event::Start { node } => self.start(node),
            Event::Heal { low, high } => {
                self.cuts.remove(&(low, high));
                self.agenda.schedule(Duration::from_millis(1), Event::Dial { low, high });
                Ok(())
            }
            Event::Recover { node } => {
                self.node(node).slowness = 1;
                Ok(())
            }
        }
    }

    /// The same seed, the same trace: every event and its time go into one hash.
    fn note(&mut self, event: &Event) {
        let now = self.agenda.now();
        let line = match event {
            Event::Deliver { link, from, to, bytes } => {
                let total: usize = bytes.iter().map(bytes::Bytes::len).sum();
                format!("link {link}: {total} bytes from node {from} reach node {to}")
            }
            Event::Io { node, life, request, .. } => format!("node {node}.{life}: disk finished {:?}", request.id),
            other => format!("{other:?}"),
        };
        let mut seeded = xxhash_rust::xxh3::Xxh3::with_seed(self.trace_hash);
        seeded.update(&u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        seeded.update(line.as_bytes());
        self.trace_hash = seeded.digest();
        self.tell(|| line);
    }

    /// Adds a line to the story, where one is told.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.agenda.now();
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.6} {}", now.as_secs_f64(), line()));
        }
    }

    /// I1, I2 and I4 after every step, seen from outside.
    fn check(&mut self) -> Result<(), Violation> {
        let deep = self.totals.events.is_multiple_of(DEEP_CHECK_EVERY);
        for id in self.ids.clone() {
            let log = self.log;
            let SimNode { running: Some(running), disk, .. } = self.node(id) else { continue };
            running.replica.check();
            if deep {
                running.log.check();
            }
            let committed = running.replica.committed();
            let mut boundaries = Vec::new();
            let view = ShardLog::new(&mut running.log, disk, log);
            let mut at = view.boundary_at_or_before(committed);
            while let Some(position) = at.filter(|position| position.lsn > running.checked) {
                boundaries.push(position);
                at = view.boundary_at_or_before(position.lsn.prev());
            }
            for position in boundaries.into_iter().rev() {
                let ids = self.ids.clone();
                let holders = ids.into_iter().filter(|holder| self.holds_durably(*holder, position)).count();
                if self.checker.on_commit(id, position, holders, self.ids.len())? {
                    self.totals.batches += 1;
                }
            }
            if let Some(running) = &mut self.node(id).running {
                running.checked = committed;
            }
        }
        Ok(())
    }

    /// Whether a node's disk certainly holds the log up to this position, running or not.
    fn holds_durably(&mut self, id: NodeId, position: LogPosition) -> bool {
        let log = self.log;
        let SimNode { running, before, disk, .. } = self.node(id);
        let Some(core) = running.as_mut().map(|running| &mut running.log).or(before.as_mut()) else { return false };
        let view = ShardLog::new(core, disk, log);
        let durable = view.durable_end();
        durable == position || (position.lsn < durable.lsn && view.position_at(position.lsn) == Some(position))
    }

    /// Faults stop; within a bound every node runs, holds all that was committed, and has applied it.
    fn heal(&mut self) -> Result<(), Violation> {
        self.healed = true;
        self.tell(|| "faults stop".into());
        self.cuts.clear();
        for id in self.ids.clone() {
            self.node(id).slowness = 1;
        }
        for (low, high) in self.pairs() {
            self.agenda.schedule(Duration::from_millis(1), Event::Dial { low, high });
        }
        let limit = self.agenda.now() + CONVERGENCE_MAX;
        while !self.has_converged() {
            if self.agenda.now() > limit {
                return Err(Violation::new("liveness", format!("no convergence within {CONVERGENCE_MAX:?}")));
            }
            self.turn()?;
        }
        Ok(())
    }

    fn has_converged(&self) -> bool {
        let Some(last) = self.checker.last_committed() else { return false };
        let serving = |id: &NodeId| {
            let running = self.nodes[id].running.as_ref();
            running.is_some_and(|running| running.replica.phase() == Some(Phase::Serving))
        };
        let same = |id: &NodeId| {
            let running = self.nodes[id].running.as_ref();
            running.is_some_and(|running| {
                running.applier.applied() == last
                    && running.replica.end() == last
                    && running.replica.durable() == last
                    && running.unanswered.is_empty()
            })
        };
        self.ids.iter().any(serving) && self.ids.iter().all(same)
    }

    /// In the end: every acknowledged write is in every node's state as often as it was promised.
    fn judge(&mut self) -> Result<(), Violation> {
        let mut digests = BTreeSet::new();
        for id in self.ids.clone() {
            let Some(running) = &self.nodes[&id].running else { continue };
            let effects = super::workload::effects(running.applier.store());
            self.checker.at_the_end(id, &effects)?;
            let digest = crate::state::digest(running.applier.store())
                .map_err(|error| Violation::new("I4", format!("node {id} has no digest: {error}")))?;
            digests.insert(digest);
        }
        if digests.len() == 1 {
            return Ok(());
        }
        Err(Violation::new("I4", format!("the nodes end with {} different digests", digests.len())))
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

    /// The node that takes writes now.
    pub(super) fn serving(&self) -> Option<NodeId> {
        let serves = |id: &&NodeId| {
            let running = self.nodes.get(id).and_then(|node| node.running.as_ref());
            running.is_some_and(|running| running.replica.proposal_position().is_some())
        };
        self.ids.iter().find(serves).copied()
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

    fn assign(&mut self, node: NodeId, life: u64, promised: Epoch) -> Result<(), Violation> {
        if !self.is_alive(node, life) || self.leader != node {
            return Ok(());
        }
        self.assign_now(node, promised)
    }

    pub(super) fn assign_now(&mut self, node: NodeId, promised: Epoch) -> Result<(), Violation> {
        let Some(assignment) = self.master.assign(node, promised) else {
            return Err(Violation::new("I3", "there is no newer epoch".to_owned()));
        };
        self.tell(|| format!("the control plane assigns epoch {} to node {node}", assignment.epoch));
        self.step(node, Input::Assign(assignment))
    }
}

//! What the control plane does and when: it plans changes, makes some at bad moments, and replaces a leader that can't
//! lead.
//!
//! The master itself keeps the rules of an assignment; the script only draws.

use super::checker::Violation;
use super::event::Event;
use super::fault::FaultKind;
use super::master::Answer;
use super::mischief::Death;
use super::world::World;
use crate::model::control_record::majority_of;
use crate::model::{Epoch, Lsn, NodeId};
use crate::replica::{Input, Phase};
use std::collections::VecDeque;
use std::time::Duration;

/// The fewest voters that the script leaves a shard.
const VOTERS_MIN: usize = 2;
/// A learner this near to the leader's end is made a voter: the pause is short then.
const NEAR: u64 = 64;
/// How much longer the control plane waits for a leader that is there, and does not serve yet.
const WORK: Duration = Duration::from_secs(2);

/// One change that is planned.
#[derive(Debug, Clone, Copy)]
enum Change {
    Learn(NodeId),
    /// Of a learner, once it is near.
    Promote(NodeId),
    /// To a voter, once it is near, while the leader serves: the pause is short then.
    Transfer(NodeId),
    Remove(NodeId),
}

/// How an assignment gets to its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// After a while, and now and then never.
    Sent,
    /// In this very moment.
    AtOnce,
}

/// Where the script stands.
#[derive(Debug, Default)]
pub(super) struct Script {
    plan: VecDeque<Change>,
    /// Since when the newest assignment is not served.
    idle_since: Option<Duration>,
    patience: Duration,
    /// Until when nobody reaches the control plane.
    away_until: Duration,
    /// Answers to reports of activation that will be lost or late.
    answers_lost: u64,
}

impl Script {
    pub(super) fn heal(&mut self) {
        *self = Self { idle_since: self.idle_since, ..Self::default() };
    }
}

impl World {
    /// The control plane looks at the shard: it assigns for the first time, goes on with its plan, or replaces a
    /// leader that is dead or cut off from a majority.
    pub(super) fn look(&mut self) {
        let pause = self.chance.between(40, 120);
        self.agenda.schedule(Duration::from_millis(pause), Event::Look);
        let now = self.agenda.now();
        if now < self.script.away_until {
            return;
        }
        let Some(newest) = self.master.newest() else {
            let voters = self.master.fence().to_vec();
            if let Some(leader) = self.chance.pick(&voters) {
                self.issue(leader, voters, Vec::new(), Delivery::Sent);
            }
            return;
        };
        let (leader, epoch) = (newest.leader, newest.epoch);
        if self.is_led(leader, epoch) {
            self.script.idle_since = None;
            // A voter whose disk was lost has its vote again with the next assignment: of the disk that it has now.
            if self.master.lacks_a_disk() && (self.healed || self.chance.per_mille(300)) {
                let (voters, learners) = (self.master.newest_voters().to_vec(), self.master.learners().to_vec());
                self.issue(leader, voters, learners, Delivery::Sent);
            } else {
                self.go_on();
            }
            return;
        }
        let there = self.can_lead(leader, self.master.newest_voters());
        let patience = self.script.patience + if there { WORK } else { Duration::ZERO };
        if now.saturating_sub(*self.script.idle_since.get_or_insert(now)) >= patience {
            self.replace_leader();
        }
    }

    /// Whether the newest assignment is served, by a leader that can talk to a majority.
    fn is_led(&self, leader: NodeId, epoch: Epoch) -> bool {
        let position = self.nodes[&leader].running.as_ref().and_then(|running| running.replica.proposal_position());
        position.is_some_and(|(serving, _)| serving == epoch) && self.talks_to(leader, self.master.newest_voters())
    }

    /// Whether a node could lead these voters now, as far as one sees from outside.
    fn can_lead(&self, leader: NodeId, voters: &[NodeId]) -> bool {
        self.talks_to(leader, voters) && self.talks_to(leader, self.master.fence())
    }

    fn talks_to(&self, leader: NodeId, voters: &[NodeId]) -> bool {
        let awake = |id: NodeId| self.nodes[&id].running.is_some() && !self.nodes[&id].paused;
        let heard = |voter: &&NodeId| **voter == leader || (awake(**voter) && self.can_talk(leader, **voter));
        awake(leader) && voters.iter().filter(heard).count() >= majority_of(voters.len())
    }

    /// The leader is given up: another voter leads, or the same one anew.
    fn replace_leader(&mut self) {
        let newest = self.healed || self.chance.per_mille(400);
        let voters = if newest { self.master.newest_voters() } else { self.master.fence() }.to_vec();
        let able: Vec<NodeId> = voters.iter().copied().filter(|id| self.can_lead(*id, &voters)).collect();
        let wise = self.healed || self.chance.per_mille(850);
        let among = if wise && !able.is_empty() { &able } else { &voters };
        if let Some(leader) = self.chance.pick(among) {
            let learners = self.master.learners().to_vec();
            self.issue(leader, voters, learners, Delivery::Sent);
        }
    }

    /// Assigns: from here on it is the newest, whether it arrives or not.
    fn issue(&mut self, leader: NodeId, voters: Vec<NodeId>, learners: Vec<NodeId>, delivery: Delivery) {
        let assignment = self.master.assign(leader, voters, learners);
        self.totals.assignments += 1;
        self.script.idle_since = Some(self.agenda.now());
        let patience = self.chance.latency(self.swarm.patience_ms);
        self.script.patience = Duration::from_millis(if self.healed { patience.min(1_000) } else { patience });
        let is_lost = delivery == Delivery::Sent && !self.healed && self.chance.per_mille(30);
        self.tell(|| {
            let list = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let (voters, learners) = (list(&assignment.voters), list(&assignment.learners));
            let fence = list(&assignment.fence);
            format!(
                "the control plane assigns epoch {} to node {leader}: voters {voters}; learners {learners}; fence {fence}{}",
                assignment.epoch,
                if is_lost { "; it is lost" } else { "" }
            )
        });
        if is_lost {
            return;
        }
        let delay = match delivery {
            Delivery::Sent => Duration::from_micros(self.chance.latency(2_000)),
            Delivery::AtOnce => Duration::ZERO,
        };
        self.agenda.schedule(delay, Event::Assign { node: leader, assignment: Box::new(assignment) });
    }

    /// A leader says that its epoch is ready, and goes on asking until it hears.
    pub(super) fn report(&mut self, node: NodeId, life: u64, epoch: Epoch) {
        let asks = self.nodes[&node].running.as_ref().is_some_and(|running| {
            running.replica.phase() == Some(Phase::Activating) && running.replica.promise().epoch == epoch
        });
        if !asks || !self.is_alive(node, life) {
            return;
        }
        let again = || Event::Report { node, life, epoch };
        let pause = self.chance.between(100, 600);
        if self.agenda.now() < self.script.away_until {
            self.agenda.schedule(Duration::from_millis(pause), again());
            return;
        }
        let before = self.master.fence().to_vec();
        match self.master.hear_activated(epoch) {
            Answer::Refused => {
                self.tell(|| format!("epoch {epoch} of node {node} is not the newest: it is not activated"));
                return; // It will hear of the newer epoch from its peers.
            }
            Answer::Accepted => {
                self.totals.epochs += 1;
                self.totals.voter_changes += u64::from(before != self.master.fence());
                self.tell(|| format!("epoch {epoch} of node {node} is activated"));
            }
            Answer::AcceptedBefore => {}
        }
        self.agenda.schedule(Duration::from_millis(pause), again());
        let mut delay = Duration::from_micros(self.chance.latency(1_000));
        if let Some(left) = self.script.answers_lost.checked_sub(1) {
            self.script.answers_lost = left;
            self.count(FaultKind::AcceptanceLost);
            if self.chance.per_mille(500) {
                return;
            }
            delay = Duration::from_millis(self.chance.between(50, 5_000));
        }
        self.agenda.schedule(delay, Event::Accepted { node, life, epoch });
    }

    /// A leader says that a newer epoch is promised. It is news only if that is its own assignment, promised in an
    /// earlier life: then it gets another.
    pub(super) fn hear_superseded(&mut self, node: NodeId, promised: Epoch) -> Result<(), Violation> {
        if !self.master.has_made(promised) {
            let what = format!("node {node} knows of epoch {promised}, which the control plane never assigned");
            return Err(Violation::new("I3", what));
        }
        let now = self.agenda.now();
        let Some(newest) = self.master.newest().filter(|_| now >= self.script.away_until) else { return Ok(()) };
        if newest.leader == node && promised == newest.epoch {
            let (voters, learners) = (newest.voters.clone(), newest.learners.clone());
            self.issue(node, voters, learners, Delivery::Sent);
        }
        Ok(())
    }

    /// A leader says that it could not reach a majority: somebody else leads, if anybody can.
    pub(super) fn hear_stepped_down(&mut self, node: NodeId, epoch: Epoch) {
        let is_newest = self.master.newest().is_some_and(|newest| newest.leader == node && newest.epoch == epoch);
        if is_newest && self.agenda.now() >= self.script.away_until {
            self.replace_leader();
        }
    }

    /// A node that starts asks whether it leads. What it hears may be what it promised before it died.
    pub(super) fn ask_for_assignment(&mut self, id: NodeId) {
        let is_away = self.agenda.now() < self.script.away_until;
        let asks = !is_away && self.chance.per_mille(700);
        if let Some(newest) = self.master.newest().filter(|newest| asks && newest.leader == id).cloned() {
            let delay = Duration::from_micros(self.chance.latency(2_000));
            self.agenda.schedule(delay, Event::Assign { node: id, assignment: Box::new(newest) });
        }
    }

    /// Nodes that are neither voters nor learners.
    fn outsiders(&self) -> Vec<NodeId> {
        let (voters, learners) = (self.master.newest_voters(), self.master.learners());
        self.ids.iter().copied().filter(|id| !voters.contains(id) && !learners.contains(id)).collect()
    }

    /// The next change of the plan, while all is well.
    fn go_on(&mut self) {
        if self.healed || !self.chance.per_mille(600) {
            return;
        }
        let Some(change) = self.script.plan.front().copied() else { return };
        let (leader, mut voters) = (self.leader(), self.master.newest_voters().to_vec());
        let mut learners = self.master.learners().to_vec();
        let mut next = leader;
        match change {
            Change::Learn(id) if !voters.contains(&id) && !learners.contains(&id) => learners.push(id),
            Change::Promote(id) if !voters.contains(&id) => {
                if !self.is_near(leader, id) {
                    // It waits for the learner, though not for one that is gone for long.
                    if self.chance.per_mille(20) {
                        self.script.plan.pop_front();
                    }
                    return;
                }
                voters.push(id);
            }
            Change::Transfer(id) if voters.contains(&id) && id != leader => {
                if !self.is_near(leader, id) {
                    if self.chance.per_mille(20) {
                        self.script.plan.pop_front();
                    }
                    return;
                }
                next = id;
            }
            Change::Remove(id) if voters.contains(&id) && voters.len() > VOTERS_MIN => {
                voters.retain(|voter| *voter != id);
                if self.chance.per_mille(300) {
                    learners.push(id);
                }
                if id == leader {
                    next = self.chance.pick(&voters).unwrap_or(leader);
                }
            }
            _ => {
                self.script.plan.pop_front();
                return; // Overtaken by what was assigned since.
            }
        }
        self.script.plan.pop_front();
        self.issue(next, voters, learners, Delivery::Sent);
    }

    fn is_near(&self, leader: NodeId, learner: NodeId) -> bool {
        self.nodes[&leader].running.as_ref().is_some_and(|running| {
            let end = running.replica.end().lsn;
            let durable = running.replica.followers().into_iter().find(|(id, ..)| *id == learner);
            durable.is_some_and(|(_, connected, durable): (_, _, Lsn)| {
                connected && durable.distance_to(end).is_some_and(|behind| behind <= NEAR)
            })
        })
    }

    /// The control plane does something, at a bad moment.
    pub(super) fn assign_badly(&mut self, kind: FaultKind) -> Result<(), Violation> {
        let now = self.agenda.now();
        if now < self.script.away_until || self.master.newest().is_none() {
            return Ok(());
        }
        let (voters, learners) = (self.master.newest_voters().to_vec(), self.master.learners().to_vec());
        let outsiders = self.outsiders();
        let Some(voter) = self.chance.pick(&voters) else { return Ok(()) };
        let newcomer = self.chance.pick(if outsiders.is_empty() { &learners } else { &outsiders });
        match kind {
            FaultKind::LeaderMove => {
                self.count(kind);
                if self.chance.per_mille(500) {
                    self.script.plan.push_back(Change::Transfer(voter));
                    return Ok(());
                }
                let kept = if self.chance.per_mille(200) { Vec::new() } else { learners };
                self.issue(voter, voters, kept, Delivery::Sent);
            }
            FaultKind::LearnerAdded => {
                if let Some(id) = self.chance.pick(&outsiders) {
                    self.count(kind);
                    self.script.plan.push_back(Change::Learn(id));
                }
            }
            FaultKind::VoterAdded => self.add_voter(newcomer),
            FaultKind::VoterRemoved if voters.len() > VOTERS_MIN => {
                self.count(kind);
                if self.chance.per_mille(500) {
                    self.script.plan.push_back(Change::Remove(voter));
                } else {
                    let rest = without(&voters, voter);
                    let leader = self.chance.pick(&rest).unwrap_or(voter);
                    self.issue(leader, rest, learners, Delivery::Sent);
                }
            }
            FaultKind::VoterReplaced => self.replace_voter(voter, newcomer),
            FaultKind::AllReplaced => self.replace_all(&voters, outsiders),
            FaultKind::Hasty => {
                self.count(kind);
                self.draw_assignment();
                let delay = Duration::from_micros(self.chance.latency(3_000));
                self.agenda.schedule(delay, Event::Hasten);
            }
            FaultKind::AssignedToDead => return self.assign_to_dead(&voters),
            FaultKind::AssignedAtDeath => return self.assign_at_death(&voters),
            FaultKind::AcceptanceLost => self.script.answers_lost += self.chance.between(1, 3),
            FaultKind::MasterAway => {
                self.count(kind);
                self.script.away_until = now + Duration::from_millis(self.chance.between(200, 5_000));
            }
            _ => {}
        }
        Ok(())
    }

    fn add_voter(&mut self, newcomer: Option<NodeId>) {
        let Some(id) = newcomer else { return };
        self.count(FaultKind::VoterAdded);
        if self.chance.per_mille(700) {
            self.script.plan.extend([Change::Learn(id), Change::Promote(id)]);
            return;
        }
        // At once, however far behind it is.
        let mut voters = self.master.newest_voters().to_vec();
        voters.push(id);
        let leader = if self.chance.per_mille(200) { id } else { self.leader() };
        let learners = self.master.learners().to_vec();
        self.issue(leader, voters, learners, Delivery::Sent);
    }

    fn replace_voter(&mut self, voter: NodeId, newcomer: Option<NodeId>) {
        let voters = self.master.newest_voters().to_vec();
        let Some(id) = newcomer else { return };
        self.count(FaultKind::VoterReplaced);
        match self.chance.below(3) {
            0 => self.script.plan.extend([Change::Learn(id), Change::Promote(id), Change::Remove(voter)]),
            1 => self.script.plan.extend([Change::Remove(voter), Change::Learn(id), Change::Promote(id)]),
            _ => {
                let mut rest = without(&voters, voter);
                rest.push(id);
                let leader = self.chance.pick(&rest).unwrap_or(id);
                let learners = self.master.learners().to_vec();
                self.issue(leader, rest, learners, Delivery::Sent);
            }
        }
    }

    /// Every voter's place is taken by a node that had none, the last ones' by the first that went.
    fn replace_all(&mut self, voters: &[NodeId], outsiders: Vec<NodeId>) {
        if outsiders.is_empty() {
            return;
        }
        self.count(FaultKind::AllReplaced);
        let mut newcomers = VecDeque::from(outsiders);
        for voter in voters {
            let Some(id) = newcomers.pop_front() else { break };
            self.script.plan.extend([Change::Learn(id), Change::Promote(id), Change::Remove(*voter)]);
            newcomers.push_back(*voter);
        }
    }

    /// The second of two assignments in quick succession.
    pub(super) fn hasten(&mut self) {
        if !self.healed && self.agenda.now() >= self.script.away_until {
            self.draw_assignment();
        }
    }

    /// Any legal assignment at all.
    fn draw_assignment(&mut self) {
        let mut voters = self.master.newest_voters().to_vec();
        if self.chance.per_mille(600) {
            voters = self.ids.clone();
            let size =
                usize::try_from(self.chance.between(VOTERS_MIN as u64, self.ids.len() as u64)).unwrap_or(VOTERS_MIN);
            while voters.len() > size {
                let out = self.chance.below(voters.len() as u64);
                voters.remove(usize::try_from(out).unwrap_or(0));
            }
        }
        let learners = if self.chance.per_mille(300) { self.ids.clone() } else { self.master.learners().to_vec() };
        let delivery = if self.chance.per_mille(300) { Delivery::AtOnce } else { Delivery::Sent };
        if let Some(leader) = self.chance.pick(&voters) {
            self.issue(leader, voters, learners, delivery);
        }
    }

    fn assign_to_dead(&mut self, voters: &[NodeId]) -> Result<(), Violation> {
        let is_away = |id: &&NodeId| self.nodes[id].running.is_none() || self.nodes[id].paused;
        let away: Vec<NodeId> = voters.iter().filter(is_away).copied().collect();
        let Some(dead) = self.chance.pick(if away.is_empty() { voters } else { &away }) else { return Ok(()) };
        self.count(FaultKind::AssignedToDead);
        if away.is_empty() {
            self.stop(dead, Death::Process)?;
        }
        let learners = self.master.learners().to_vec();
        self.issue(dead, voters.to_vec(), learners, Delivery::Sent);
        Ok(())
    }

    fn assign_at_death(&mut self, voters: &[NodeId]) -> Result<(), Violation> {
        let leader = self.leader();
        let Some(next) = self.chance.pick(&without(voters, leader)) else { return Ok(()) };
        self.count(FaultKind::AssignedAtDeath);
        let death = if self.chance.per_mille(500) { Death::Process } else { Death::Power };
        let learners = self.master.learners().to_vec();
        if self.chance.per_mille(500) {
            self.stop(leader, death)?;
            self.issue(next, voters.to_vec(), learners, Delivery::AtOnce);
        } else {
            // It hears, binds itself, and is gone.
            self.issue(leader, voters.to_vec(), learners, Delivery::AtOnce);
            let hears = self.nodes[&leader].running.is_some() && !self.nodes[&leader].paused;
            if let Some(newest) = self.master.newest().filter(|_| hears).cloned() {
                self.step(leader, Input::Assign(newest))?;
                self.pump(leader)?;
            }
            self.stop(leader, death)?;
        }
        Ok(())
    }
}

fn without(nodes: &[NodeId], node: NodeId) -> Vec<NodeId> {
    nodes.iter().copied().filter(|other| *other != node).collect()
}

//! Clients that read: of whoever believes that it leads, of who follows, and what may be a little old of anybody.
//!
//! What a linearizable read shows is no older than anything that anybody was told before it was asked for: the writes that were
//! answered by then, and what earlier reads showed. What may be `t` old shows no less than what anybody was told `t` before. One log
//! orders all writes and every state is a prefix of it, so to compare positions is to check the whole history.

use super::checker::Violation;
use super::event::Event;
use super::world::World;
use crate::model::{Lsn, NodeId};
use crate::replica::{Input, ReadTicket};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The oldest that a read may allow, in milliseconds.
const STALENESS_MAX_MS: u64 = 3_000;

/// All reads that have no answer, and what anybody was told, and when.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    waiting: BTreeMap<(NodeId, ReadTicket), Waiting>,
    /// Rising in both; of what is older than any read allows, the last.
    told: VecDeque<(Duration, Lsn)>,
}

#[derive(Debug)]
struct Waiting {
    /// What anybody knew when it was asked for, or as long before as it allows.
    must_show: Lsn,
    /// What the replica says that it must show, once it is confirmed.
    index: Option<Lsn>,
    /// When it came, by the node's own clock.
    asked: Duration,
    /// It came to a node that does not lead, which asks another.
    is_asked_elsewhere: bool,
}

impl Reads {
    /// Somebody was told of this.
    pub(super) fn tell(&mut self, now: Duration, lsn: Lsn) {
        if self.newest() < lsn {
            self.told.push_back((now, lsn));
        }
        let horizon = now.saturating_sub(Duration::from_millis(STALENESS_MAX_MS));
        while self.told.get(1).is_some_and(|(when, _)| *when < horizon) {
            self.told.pop_front();
        }
    }

    fn newest(&self) -> Lsn {
        self.told.back().map_or(Lsn::ZERO, |(_, lsn)| *lsn)
    }

    /// What anybody was told before then.
    fn told_before(&self, then: Duration) -> Lsn {
        self.told.iter().rev().find(|(when, _)| *when < then).map_or(Lsn::ZERO, |(_, lsn)| *lsn)
    }

    /// Whether a read at this node waits until its leader is confirmed, and it is this node that leads.
    pub(super) fn waits_for_confirmation(&self, node: NodeId) -> bool {
        let mut of_node = self.waiting.range((node, ReadTicket(0))..=(node, ReadTicket(u64::MAX)));
        of_node.any(|(_, waiting)| waiting.index.is_none() && !waiting.is_asked_elsewhere)
    }

    /// How many have neither an answer nor a refusal.
    pub(super) fn unanswered(&self) -> usize {
        self.waiting.values().filter(|waiting| waiting.index.is_none()).count()
    }

    /// A node dies, and what it was asked with it.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.waiting.retain(|(asked, _), _| *asked != node);
    }
}

impl World {
    pub(super) fn read(&mut self, client: u64) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let pause = Duration::from_micros(self.chance.latency(self.swarm.pause_micros));
        self.agenda.schedule(pause, Event::Read { client });
        let (ids, anywhere, old) = (self.ids.clone(), self.chance.per_mille(400), self.chance.per_mille(500));
        let asked = if anywhere { self.chance.pick(&ids) } else { self.serving() };
        // A process that stands still hears of it when it goes on; by then its client has given up.
        let is_awake = |node: &NodeId| self.nodes.get(node).is_some_and(|node| node.running.is_some() && !node.paused);
        let Some(node) = asked.filter(is_awake) else { return Ok(()) };
        if anywhere && old {
            let most = if self.chance.per_mille(500) { 20 } else { STALENESS_MAX_MS };
            let staleness = Duration::from_millis(self.chance.below(most));
            return self.read_stale(node, staleness);
        }
        self.ask(node, self.reads.newest())
    }

    fn ask(&mut self, node: NodeId, must_show: Lsn) -> Result<(), Violation> {
        self.reads.next += 1;
        let ticket = ReadTicket(self.reads.next);
        let asked = self.clock_of(node);
        let is_asked_elsewhere =
            self.nodes[&node].running.as_ref().is_some_and(|running| running.replica.phase().is_none());
        self.reads.waiting.insert((node, ticket), Waiting { must_show, index: None, asked, is_asked_elsewhere });
        self.step(node, Input::Read(ticket))
    }

    /// Reads what is that old at the most: at once where that is known, and else as any read.
    fn read_stale(&mut self, node: NodeId, staleness: Duration) -> Result<(), Violation> {
        let must_show = self.reads.told_before(self.agenda.now().saturating_sub(staleness));
        let clock = self.clock_of(node);
        let Some(running) = &mut self.node(node).running else { return Ok(()) };
        let applied = running.applier.applied().lsn;
        if !running.freshness.covers(clock, staleness, applied) {
            return self.ask(node, must_show);
        }
        self.totals.stale_reads += 1;
        if applied < must_show {
            let what = format!(
                "node {node} shows LSN {applied} to a read that allows {staleness:?}, and {must_show} was told before that"
            );
            return Err(Violation::new("I7", what));
        }
        self.reads.tell(self.agenda.now(), applied);
        Ok(())
    }

    /// What a node's clock shows: of three, one is slow and one fast by one in a hundred.
    fn clock_of(&self, node: NodeId) -> Duration {
        let now = self.agenda.now();
        match node.get() % 3 {
            0 => now - now / 100,
            1 => now,
            _ => now + now / 100,
        }
    }

    pub(super) fn reads_confirmed(&mut self, node: NodeId, up_to: ReadTicket, index: Lsn) -> Result<(), Violation> {
        let now = self.clock_of(node);
        let mut asked = None;
        for (_, waiting) in self.reads.waiting.range_mut((node, ReadTicket(0))..=(node, up_to)) {
            if waiting.index.is_none() {
                waiting.index = Some(index);
                asked = Some(waiting.asked); // Of the newest, in the end.
            }
        }
        if let Some(running) = &mut self.node(node).running {
            running.waits.reads_answered += 1;
            if let Some(asked) = asked {
                running.freshness.confirmed(asked, now, index);
            }
        }
        self.serve_reads(node)
    }

    pub(super) fn reads_refused(&mut self, node: NodeId, up_to: ReadTicket) {
        let is_refused = |asked: NodeId, ticket: ReadTicket, waiting: &Waiting| {
            asked == node && ticket <= up_to && waiting.index.is_none()
        };
        self.reads.waiting.retain(|(asked, ticket), waiting| !is_refused(*asked, *ticket, waiting));
    }

    /// Serves the reads whose position is applied.
    pub(super) fn serve_reads(&mut self, node: NodeId) -> Result<(), Violation> {
        let Some(running) = self.nodes[&node].running.as_ref() else { return Ok(()) };
        let (applied, leads) = (running.applier.applied().lsn, running.replica.phase().is_some());
        let of_node = (node, ReadTicket(0))..=(node, ReadTicket(u64::MAX));
        let ready: Vec<_> = self
            .reads
            .waiting
            .range(of_node)
            .filter(|(_, waiting)| waiting.index.is_some_and(|index| index <= applied))
            .map(|(key, waiting)| (*key, waiting.must_show))
            .collect();
        for (key, must_show) in ready {
            self.reads.waiting.remove(&key);
            self.totals.reads += 1;
            self.totals.follower_reads += u64::from(!leads);
            if applied < must_show {
                let what =
                    format!("node {node} shows LSN {applied} to a read, and {must_show} was told before it came");
                return Err(Violation::new("I7", what));
            }
            self.reads.tell(self.agenda.now(), applied);
        }
        Ok(())
    }
}

//! Clients that read, of whoever believes that it leads.
//!
//! What a linearizable read shows is no older than anything that anybody was told before it was asked for: the writes that were
//! answered by then, and what earlier reads showed. One log orders all writes and every state is a prefix of it, so to
//! compare positions is to check the whole history.

use super::checker::Violation;
use super::event::Event;
use super::world::World;
use crate::model::{Lsn, NodeId};
use crate::replica::{Input, ReadTicket};
use std::collections::BTreeMap;
use std::time::Duration;

/// All reads that have no answer, and the newest that anybody was told.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    waiting: BTreeMap<(NodeId, ReadTicket), Waiting>,
    told: Lsn,
}

#[derive(Debug)]
struct Waiting {
    /// What anybody knew when it was asked for.
    must_show: Lsn,
    /// What the replica says that it must show, once it is confirmed.
    index: Option<Lsn>,
}

impl Reads {
    /// Somebody was told of this.
    pub(super) fn tell(&mut self, lsn: Lsn) {
        self.told = self.told.max(lsn);
    }

    /// Whether a read at this node waits until its leader is confirmed.
    pub(super) fn waits_for_confirmation(&self, node: NodeId) -> bool {
        let mut of_node = self.waiting.range((node, ReadTicket(0))..=(node, ReadTicket(u64::MAX)));
        of_node.any(|(_, waiting)| waiting.index.is_none())
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
        // A process that stands still hears of it when it goes on; by then its client has given up.
        let Some(node) = self.serving().filter(|node| !self.nodes[node].paused) else { return Ok(()) };
        self.reads.next += 1;
        let ticket = ReadTicket(self.reads.next);
        let waiting = Waiting { must_show: self.reads.told, index: None };
        self.reads.waiting.insert((node, ticket), waiting);
        self.step(node, Input::Read(ticket))
    }

    pub(super) fn reads_confirmed(&mut self, node: NodeId, up_to: ReadTicket, index: Lsn) -> Result<(), Violation> {
        if let Some(running) = &mut self.node(node).running {
            running.waits.reads_answered += 1;
        }
        for (_, waiting) in self.reads.waiting.range_mut((node, ReadTicket(0))..=(node, up_to)) {
            waiting.index.get_or_insert(index);
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
        let Some(applied) = self.nodes[&node].running.as_ref().map(|running| running.applier.applied().lsn) else {
            return Ok(());
        };
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
            if applied < must_show {
                let what =
                    format!("node {node} shows LSN {applied} to a read, and {must_show} was told before it came");
                return Err(Violation::new("I7", what));
            }
            self.reads.tell(applied);
        }
        Ok(())
    }
}

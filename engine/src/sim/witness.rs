//! What the world checks of its nodes from outside, while they run and when faults are over.

use super::checker::{Checker, Violation};
use super::event::Event;
use super::node::{ShardLog, SimNode};
use super::world::World;
use crate::model::{Assignment, Epoch, LogPosition, Lsn, NodeId};
use crate::replica::{LogView, Phase};
use std::collections::BTreeSet;
use std::time::Duration;

/// When faults stop, everything must converge within this time (liveness).
const CONVERGENCE_MAX: Duration = Duration::from_secs(30);

impl World {
    /// I1, I2, I3: a replica has learnt, in an epoch, that more is committed.
    pub(super) fn witness_commit(&mut self, id: NodeId) -> Result<(), Violation> {
        let log = self.log;
        let SimNode { running: Some(running), disk, .. } = self.node(id) else { return Ok(()) };
        let (committed, epoch) = (running.replica.committed(), running.replica.promise().epoch);
        let before = std::mem::replace(&mut running.checked, committed);
        let view = ShardLog::new(&mut running.log, disk, log);
        let mut boundaries = Vec::new();
        let mut at = view.boundary_at_or_before(committed);
        while let Some(position) = at.filter(|position| position.lsn > before) {
            boundaries.push(position);
            at = view.boundary_at_or_before(position.lsn.prev());
        }
        for position in boundaries.into_iter().rev() {
            if self.checker.on_commit(id, position)? {
                self.witness_first(id, position, epoch)?;
            }
        }
        Ok(())
    }

    /// Nobody committed this batch before: then the epoch in which it happens is activated, and a majority of the
    /// epoch's voters hold it.
    ///
    /// Its own voters, and not those of whatever was activated since: a leader that was superseded, and does not
    /// know it, may still hear of what a majority held before it promised away.
    fn witness_first(&mut self, id: NodeId, position: LogPosition, epoch: Epoch) -> Result<(), Violation> {
        let Some(Assignment { voters, directories, .. }) = self.master.in_force(epoch).cloned() else {
            let what = format!("node {id} commits LSN {} in epoch {epoch}, which is not activated", position.lsn);
            return Err(Violation::new("I3", what));
        };
        // Of the disk that has the vote; one that was lost meanwhile held it as far as its log went.
        let holds = |voter: &&NodeId| match directories.get(voter) {
            Some(disk) if *disk == self.nodes[*voter].directory() => self.holds_durably(**voter, position),
            Some(disk) => self.nodes[*voter].lost.get(disk).is_some_and(|lost| lost.held(position)),
            None => false,
        };
        let holders = voters.iter().filter(holds).count();
        self.totals.batches += 1;
        Checker::on_first_commit(id, position, holders, voters.len())
    }

    /// Whether a node's disk certainly holds the log up to this position, running or not.
    pub(super) fn holds_durably(&mut self, id: NodeId, position: LogPosition) -> bool {
        let log = self.log;
        let SimNode { running, before, disk, .. } = self.node(id);
        let Some(core) = running.as_mut().map(|running| &mut running.log).or(before.as_mut()) else { return false };
        let view = ShardLog::new(core, disk, log);
        let durable = view.durable_end();
        // What it released it had; while a reset is under way nothing is certainly there.
        let released = view.start();
        if position.lsn <= released.lsn && released.lsn <= durable.lsn {
            return true;
        }
        durable == position || (position.lsn < durable.lsn && view.position_at(position.lsn) == Some(position))
    }

    /// Faults stop; within a bound the shard takes writes, and every member holds and has applied all that was
    /// committed.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.healed = true;
        self.tell(|| "faults stop".into());
        self.cuts.clear();
        self.stalls.clear();
        self.script.heal();
        for id in self.ids.clone() {
            let node = self.node(id);
            node.slowness = 1;
            let life = node.life;
            self.agenda.schedule(Duration::ZERO, Event::Resume { node: id, life });
            self.agenda.schedule(Duration::from_secs(2), Event::Scrub { node: id, life });
        }
        for (low, high) in self.pairs() {
            self.agenda.schedule(Duration::from_millis(1), Event::Dial { low, high });
        }
        let limit = self.agenda.now() + CONVERGENCE_MAX;
        while !self.has_converged() {
            if self.agenda.now() > limit {
                let missing = self.what_is_missing();
                return Err(Violation::new(
                    "liveness",
                    format!("no convergence within {CONVERGENCE_MAX:?}: {missing}"),
                ));
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Voters and learners of the last activated assignment: those who must have everything in the end.
    fn members(&self) -> Vec<NodeId> {
        let Some(activated) = self.master.activated() else { return Vec::new() };
        activated.voters.iter().chain(&activated.learners).copied().collect()
    }

    fn has_converged(&self) -> bool {
        let Some(last) = self.checker.last_committed() else { return false };
        let Some(activated) = self.master.activated().filter(|_| self.master.is_settled()) else { return false };
        let leads = self.nodes[&activated.leader].running.as_ref().is_some_and(|running| {
            running.replica.phase() == Some(Phase::Serving) && running.replica.promise().epoch == activated.epoch
        });
        leads && self.reads.unanswered() == 0 && self.members().iter().all(|id| self.has_everything(*id, last))
    }

    fn has_everything(&self, id: NodeId, last: LogPosition) -> bool {
        self.nodes[&id].running.as_ref().is_some_and(|running| {
            running.applier.applied() == last
                && running.replica.end() == last
                && running.replica.durable() == last
                && running.replica.damaged().is_empty()
                && running.unanswered.is_empty()
        })
    }

    fn what_is_missing(&self) -> String {
        let last = self.checker.last_committed();
        let members = self.members();
        let state = |id: &NodeId| {
            let Some(running) = &self.nodes[id].running else { return format!("node {id} is down") };
            let replica = &running.replica;
            format!(
                "node {id} ({}) promised {}, phase {:?}, end {}, durable {}, applied {}, unanswered {}, damaged {:?}",
                if members.contains(id) { "member" } else { "removed" },
                replica.promise().epoch,
                replica.phase(),
                replica.end().lsn,
                replica.durable().lsn,
                running.applier.applied().lsn,
                running.unanswered.len(),
                replica.damaged()
            )
        };
        let nodes: Vec<_> = self.ids.iter().map(state).collect();
        let last = last.map_or(Lsn::ZERO, |last| last.lsn);
        let newest = self.master.newest().map(|newest| (newest.epoch, newest.leader));
        format!("committed {last}, newest assignment {newest:?}; {}", nodes.join("; "))
    }

    /// In the end: every acknowledged write is in every member's state as often as it was promised, and none is
    /// twice in the state of a node that was removed.
    pub(super) fn judge(&mut self) -> Result<(), Violation> {
        let members = self.members();
        let mut digests = BTreeSet::new();
        for id in self.ids.clone() {
            let Some(running) = &self.nodes[&id].running else { continue };
            let effects = super::workload::effects(running.applier.store());
            Checker::none_twice(id, &effects)?;
            if !members.contains(&id) {
                continue;
            }
            self.checker.at_the_end(id, &effects)?;
            let digest = crate::state::digest(running.applier.store())
                .map_err(|error| Violation::new("I4", format!("node {id} has no digest: {error}")))?;
            digests.insert(digest);
        }
        if digests.len() == 1 {
            return Ok(());
        }
        Err(Violation::new("I4", format!("the members end with {} different digests", digests.len())))
    }
}

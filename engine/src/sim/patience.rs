//! That nobody waits in vain: a leader without a majority gives up within its bound, and then answers nobody any more.
//!
//! It is watched from outside, by what clients wait for and how far positions have come, and not by what the replica notes of its
//! voters.

use super::checker::Violation;
use super::world::World;
use crate::model::{Epoch, Lsn, NodeId};
use crate::replica::Phase;
use std::time::Duration;

/// How much later than the bound a leader may give up: a part of the bound between two ticks, which is added to this, then the
/// time between two looks.
const SLACK: Duration = Duration::from_millis(500);

/// Since when the clients of a node wait, and nothing moves.
#[derive(Debug, Default)]
pub(super) struct Waits {
    writes: Option<(Duration, Moved)>,
    reads: Option<(Duration, Moved)>,
    /// Reads that were answered.
    pub(super) reads_answered: u64,
}

/// What says, when it changes, that a node does not wait in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    epoch: Epoch,
    phase: Option<Phase>,
    /// The commit position, or the number of reads that were answered.
    done: u64,
    /// Before it serves: its log, and what the others hold of it.
    logs: Vec<Lsn>,
    /// The most that had promised this epoch. Who promises, is lost and promises again is no move.
    promises: usize,
}

impl World {
    /// A leader has given up: whoever waits for a write that is not known to be committed hears that its outcome is unknown, and
    /// what was not sealed never will be.
    pub(super) fn doubt(&mut self, id: NodeId, epoch: Epoch) -> Result<(), Violation> {
        let Some(running) = &mut self.node(id).running else { return Ok(()) };
        running.stepped_down = Some(epoch);
        let (committed, queued) = (running.replica.committed(), running.sequencer.drain());
        self.forget_behind(id, committed)?;
        queued.into_iter().try_for_each(|write| self.answered(write, (Epoch::ZERO, Lsn::ZERO), None))
    }

    /// Who said that it leads an epoch no more does not.
    pub(super) fn leads_no_more(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(running) = &self.nodes[&id].running else { return Ok(()) };
        let leads = running.replica.phase().map(|_| running.replica.promise().epoch);
        if leads.is_none() || leads > running.stepped_down {
            return Ok(());
        }
        let what = format!("node {id} leads epoch {leads:?}, and said that it does no more");
        Err(Violation::new("I1", what))
    }

    /// No client waits longer at a node that reaches no majority than the bound says; at one that has given up none waits at all.
    pub(super) fn witness_waits(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        let bound = Duration::from_millis(self.swarm.quorum_ms);
        for id in self.ids.clone() {
            let reading = self.reads.waits_for_confirmation(id);
            let node = self.node(id);
            let is_paused = node.paused;
            let Some(running) = &mut node.running else { continue };
            let replica = &running.replica;
            let (phase, committed) = (replica.phase(), replica.committed());
            let longest = if phase.is_some() { bound + bound / 4 + SLACK } else { Duration::ZERO };
            let moved = |done: u64| Moved {
                epoch: replica.promise().epoch,
                phase,
                done,
                logs: if phase == Some(Phase::Serving) {
                    Vec::new()
                } else {
                    let others = replica.followers().into_iter().map(|(_, _, durable)| durable);
                    let mended = replica.damaged().iter().map(|(first, last)| Lsn::new(last.get() - first.get()));
                    others.chain([replica.end().lsn]).chain(mended).collect()
                },
                promises: replica.promises(),
            };
            let is_sealed = |(_, first, writes): &(Epoch, Lsn, Vec<u64>)| {
                first.distance_to(committed).is_none_or(|reached| reached + 1 < writes.len() as u64)
            };
            let writing = running.sequencer.queued_bytes() > 0 || running.unanswered.iter().any(is_sealed);
            // A process that stands still answers nobody; and a leader that is ready waits for the control plane.
            let excused = is_paused || phase == Some(Phase::Activating);
            let (writes, reads) = (moved(committed.get()), moved(running.waits.reads_answered));
            let waits = &mut running.waits;
            let written = since(&mut waits.writes, writes, writing && !excused, now);
            let read = since(&mut waits.reads, reads, reading && !excused, now);
            for (what, waited) in [("write", written), ("read", read)] {
                if waited > longest {
                    let what = format!(
                        "a {what} waits at node {id} for {waited:?}, which leads without a majority, or not at all"
                    );
                    return Err(Violation::new("liveness", what));
                }
            }
        }
        Ok(())
    }
}

/// How long it has waited without a move.
fn since(waits: &mut Option<(Duration, Moved)>, mut moved: Moved, is_waiting: bool, now: Duration) -> Duration {
    if let Some((_, before)) = waits.as_ref().filter(|(_, before)| before.epoch == moved.epoch) {
        moved.promises = moved.promises.max(before.promises);
    }
    if !is_waiting {
        *waits = None;
    } else if waits.as_ref().is_none_or(|(_, before)| *before != moved) {
        *waits = Some((now, moved));
    }
    waits.as_ref().map_or(Duration::ZERO, |(since, _)| now.saturating_sub(*since))
}

//! The invariants, seen from outside: of the disks, the logs and the master, never of what a leader believes.
//!
//! - I1: what is committed is durable on a majority of the voters of the epoch that commits it, and from then on of those of
//!   the last activated one; and it is in the log of each leader from its activation on.
//! - I2: all that is ever committed is one history; every replica's log has it up to what that replica calls committed.
//! - I3: nothing commits in an epoch before its activation was accepted. (That no batch is accepted from an epoch below a
//!   promise that was said, a node's own step sees: `node`.)
//! - When nothing is left to happen, the newest leader serves, and all its voters hold and know all of it.

use super::master;
use super::scope::place;
use super::steps::{Facts, Steps};
use super::world::{Fixed, World};
use crate::model::control_record::majority_of;
use crate::model::{LogPosition, Lsn, NodeId};
use crate::sim::Violation;

/// A replica says that this position, of its log, is committed. Gives what the world then calls committed.
pub(super) fn on_commit(
    fixed: &Fixed<'_>,
    steps: &Steps,
    world: &World,
    node: usize,
    position: u16,
) -> Result<u16, Violation> {
    let (at, id) = (steps.position(position), node + 1);
    let known = known(world);
    let known_lsn = known.map_or(Lsn::ZERO, |known| steps.position(known).lsn);
    let one_history = match known {
        Some(known) if at.lsn <= known_lsn => Facts::holds(steps.history(known), at.lsn, position),
        Some(known) => Facts::holds(steps.history(position), known_lsn, known),
        None => true,
    };
    if !one_history {
        return Err(Violation::new(
            "I2",
            format!("node {id} commits {}, beside another history that is committed", text(&at)),
        ));
    }
    if at.lsn <= known_lsn {
        return Ok(world.committed);
    }
    let promised = steps.facts(world.nodes[node]).promised;
    let Some(turn) = master::turn_of(promised).filter(|turn| world.accepted >> turn & 1 == 1) else {
        let what = format!("node {id} commits {} in epoch {}, which is not activated", text(&at), promised.term);
        return Err(Violation::new("I3", what));
    };
    let voters = fixed.scope.voters(turn);
    let holders = holders(steps, world, voters, turn, at.lsn, position);
    if holders < majority_of(voters.len()) {
        let what = format!("node {id} commits {}, durable on {holders} of {} voters", text(&at), voters.len());
        return Err(Violation::new("I1", what));
    }
    Ok(position + 1)
}

/// The master accepts an activation.
pub(super) fn on_accept(fixed: &Fixed<'_>, steps: &Steps, world: &World, turn: usize) -> Result<(), Violation> {
    let (Some(known), Some(turn_of)) = (known(world), fixed.scope.turns.get(turn)) else { return Ok(()) };
    let at = steps.position(known);
    let leader = place(turn_of.leader);
    if Facts::holds(&steps.facts(world.nodes[leader]).accepted, at.lsn, known) {
        return Ok(());
    }
    let what =
        format!("epoch {} is activated, and the log of its leader lacks {}, which is committed", turn + 1, text(&at));
    Err(Violation::new("I1", what))
}

/// After every choice.
pub(super) fn after(fixed: &Fixed<'_>, steps: &Steps, world: &World) -> Result<(), Violation> {
    let Some(known) = known(world) else { return Ok(()) };
    let (at, history) = (steps.position(known), steps.history(known));
    for (node, state) in world.nodes.iter().enumerate() {
        let facts = steps.facts(*state);
        let place = usize::try_from(facts.committed.prev().get()).unwrap_or(usize::MAX);
        let same = facts.committed == Lsn::ZERO
            || history.get(place).is_some_and(|theirs| Facts::holds(&facts.accepted, facts.committed, *theirs));
        if !same {
            let what =
                format!("node {} calls LSN {} committed, and its log is another there", node + 1, facts.committed);
            return Err(Violation::new("I2", what));
        }
    }
    let Some(turn) = master::activated(world.accepted) else { return Ok(()) };
    let voters = fixed.scope.voters(turn);
    let holders = holders(steps, world, voters, turn, at.lsn, known);
    if holders < majority_of(voters.len()) {
        let what = format!(
            "{} is committed, and durable on {holders} of the {} voters of epoch {} now",
            text(&at),
            voters.len(),
            turn + 1
        );
        return Err(Violation::new("I1", what));
    }
    let Some(leader) = fixed.scope.turns.get(turn).map(|turn| place(turn.leader)) else { return Ok(()) };
    let facts = steps.facts(world.nodes[leader]);
    if facts.leads && facts.promised == master::epoch(turn) && !Facts::holds(&facts.accepted, at.lsn, known) {
        let what = format!("{} is committed, and the leader of epoch {} lacks it", text(&at), turn + 1);
        return Err(Violation::new("I1", what));
    }
    Ok(())
}

/// Nothing is left to happen but faults, writes and new assignments.
pub(super) fn when_quiet(fixed: &Fixed<'_>, steps: &Steps, world: &World) -> Result<(), Violation> {
    let Some(turn) = usize::from(world.assigned).checked_sub(1) else { return Ok(()) };
    let Some(leader) = fixed.scope.turns.get(turn).map(|turn| place(turn.leader)) else { return Ok(()) };
    let led = steps.facts(world.nodes[leader]);
    if !led.leads || led.promised != master::epoch(turn) {
        return Ok(()); // It crashed since: the next assignment is due.
    }
    if led.gives_up {
        return Ok(()); // When its time is over: likewise.
    }
    let stuck = |what: String| Err(Violation::new("liveness", format!("nothing is left to happen, and {what}")));
    if !led.serves {
        let phase = steps.node(world.nodes[leader]).replica.phase();
        return stuck(format!("the leader of epoch {} does not serve: {phase:?}", turn + 1));
    }
    for voter in fixed.scope.voters(turn) {
        let facts = steps.facts(world.nodes[place(*voter)]);
        let end = Lsn::new(led.accepted.len() as u64);
        if let Some(lsn) = facts.damaged.first() {
            return stuck(format!("node {} can't read LSN {lsn}", voter.get()));
        }
        if facts.durable != led.accepted || facts.accepted != led.accepted || facts.committed != end {
            return stuck(format!(
                "node {} holds {} of {} batches, and knows {} as committed",
                voter.get(),
                facts.durable.len(),
                led.accepted.len(),
                facts.committed
            ));
        }
    }
    Ok(())
}

const fn known(world: &World) -> Option<u16> {
    world.committed.checked_sub(1)
}

/// How many of these voters hold the position durably. One whose copy rots counts: it is asked to keep its place, and to get it
/// again; what it acknowledges meanwhile, its own step sees (`node`).
///
/// One that says from where it may lack something counts: what is
/// asked of it is that it goes on saying so until it holds it again. So does one whose disk was lost since it had the vote: fewer
/// than a majority are, and of the others nothing is forgiven.
fn holders(steps: &Steps, world: &World, voters: &[NodeId], turn: usize, lsn: Lsn, position: u16) -> usize {
    let holds = |voter: &&NodeId| {
        let facts = steps.facts(world.nodes[place(**voter)]);
        Facts::holds(&facts.durable, lsn, position)
            || facts.suspect.is_some_and(|from| from <= lsn)
            || world.is_lost(**voter, turn)
    };
    voters.iter().filter(holds).count()
}

/// A position, in a story: its LSN and its epoch's number.
pub(super) fn text(at: &LogPosition) -> String {
    format!("{}@{}", at.lsn, at.epoch.term)
}

//! Snapshots in the simulated world: a crash at each step of one, and what is left of it.

use super::event::Event;
use super::mischief::Death;
use super::snapshots::SnapshotStep;
use super::world::World;
use crate::model::{Lsn, NodeId};
use std::time::Duration;

/// A world without faults: its leader has released its log, and one voter was away meanwhile and starts now.
fn behind(chunk_bytes: usize) -> (World, NodeId, NodeId) {
    let mut world = World::new(11, false);
    world.swarm.quorum_ms = 60_000;
    world.nodes.values_mut().for_each(|node| node.quorum_bound = Duration::from_secs(60));
    (world.swarm.release_per_mille, world.swarm.kept_bytes, world.swarm.chunk_bytes) = (1_000, 0, chunk_bytes);
    world.begin();
    let leader = loop {
        world.turn().unwrap();
        if let Some(leader) = world.serving().filter(|_| world.master.is_settled()) {
            break leader;
        }
    };
    run_for(&mut world, Duration::from_millis(500));
    let voter = *world.master.fence().iter().find(|voter| **voter != leader).unwrap();
    world.stop(voter, Death::Power).unwrap();
    let away = world.agenda.now() + Duration::from_secs(3);
    while world.agenda.now() < away {
        let event = world.agenda.next().unwrap();
        if matches!(event, Event::Start { node } if node == voter) {
            continue;
        }
        world.agenda.schedule(Duration::ZERO, event);
        world.turn().unwrap();
    }
    // Its leader starts anew, and has nothing in memory.
    world.stop(leader, Death::Process).unwrap();
    world.agenda.schedule(Duration::from_millis(50), Event::Start { node: voter });
    // Nothing more is, so that the snapshot that is begun is the one that is gone on with.
    world.swarm.release_per_mille = 0;
    (world, leader, voter)
}

fn run_for(world: &mut World, time: Duration) {
    let until = world.agenda.now() + time;
    while world.agenda.now() < until {
        world.turn().unwrap();
    }
}

fn run_until(world: &mut World, what: &str, is_so: impl Fn(&World) -> bool) {
    let until = world.agenda.now() + Duration::from_secs(60);
    while !is_so(world) {
        assert!(world.agenda.now() < until, "{what}");
        world.turn().unwrap();
    }
}

fn converges(mut world: World) {
    world.heal().unwrap();
    world.judge().unwrap();
}

fn start_of(world: &World, node: NodeId) -> Lsn {
    world.nodes[&node].running.as_ref().map_or(Lsn::ZERO, |running| running.log.start(world.log).lsn)
}

#[test]
fn a_voter_that_needs_what_the_log_holds_no_more_is_given_the_state_and_the_log_behind_it() {
    let (mut world, _, voter) = behind(2_000);
    run_until(&mut world, "a snapshot", |world| world.totals.snapshots > 0);
    run_until(&mut world, "a log behind it", |world| start_of(world, voter) > Lsn::ZERO);
    assert!(world.nodes[&voter].staging.is_none(), "nothing is left over");
    converges(world);
}

/// What the next event is about.
fn is_step(event: &Event, node: NodeId, wanted: SnapshotStep) -> bool {
    matches!(event, Event::Snapshot { node: at, step, .. } if *at == node && *step == wanted)
}

/// Lets events happen up to the one that is looked for, which does not.
fn run_up_to(world: &mut World, node: NodeId, wanted: SnapshotStep) {
    let until = world.agenda.now() + Duration::from_secs(60);
    while !world.agenda.peek().is_some_and(|event| is_step(event, node, wanted)) {
        assert!(world.agenda.now() < until, "{wanted:?} never comes");
        world.turn().unwrap();
    }
    world.agenda.next();
}

#[test]
fn a_crash_at_any_step_of_an_installation_leaves_a_node_that_opens_and_catches_up() {
    let mut resumed = 0;
    for death in [Death::Power, Death::Process] {
        for step in [SnapshotStep::Sync, SnapshotStep::Install, SnapshotStep::Flush] {
            let (mut world, _, voter) = behind(2_000);
            run_up_to(&mut world, voter, step);
            let before = world.totals.snapshots;
            world.stop(voter, death).unwrap();
            run_until(&mut world, "a snapshot all the same", |world| world.totals.snapshots > before);
            resumed += world.totals.snapshots_resumed;
            converges(world);
        }
    }
    assert!(resumed > 0, "chunks that are there are not fetched again");
}

/// The state is new, and the log is not: the mark says why, and the reset is made up for.
#[test]
fn p2_a_crash_between_the_state_and_the_log_is_finished_when_the_node_opens() {
    for death in [Death::Power, Death::Process] {
        let (mut world, _, voter) = behind(20_000);
        run_up_to(&mut world, voter, SnapshotStep::Flush);
        world.flush(voter);
        let applied = world.nodes[&voter].running.as_ref().unwrap().applier.applied().lsn;
        world.stop(voter, death).unwrap();
        assert!(world.nodes[&voter].before.as_ref().unwrap().end(world.log).lsn < applied, "the log is the old one");
        run_until(&mut world, "it opens", |world| world.nodes[&voter].running.is_some());
        assert_eq!(start_of(&world, voter), applied);
        converges(world);
    }
}

#[test]
fn d24_a_chunk_that_rots_where_it_is_kept_is_fetched_again() {
    let (mut world, _, voter) = behind(200);
    run_until(&mut world, "a first chunk", |world| {
        world.nodes[&voter].staging.as_ref().is_some_and(|staging| !staging.snapshot.is_empty())
    });
    world.rot_next = true;
    run_until(&mut world, "a snapshot", |world| world.totals.snapshots > 0);
    assert!(!world.rot_next);
    converges(world);
}

#[cfg(feature = "mutants")]
#[test]
fn a_state_without_sessions_one_that_nobody_verified_and_a_log_that_is_reset_too_early_are_noticed() {
    use crate::model::mutant::{Mutant, plant};
    for mutant in [Mutant::ForgetSessions, Mutant::TrustStaged, Mutant::ResetEarly] {
        let (mut world, _, voter) = behind(2_000);
        world.rot_next = mutant == Mutant::TrustStaged;
        plant(Some(mutant));
        if mutant == Mutant::ResetEarly {
            // The log is reset, durably, and the state is the old one: then the power fails.
            run_up_to(&mut world, voter, SnapshotStep::Install);
            let flushed = world.nodes[&voter].flushed();
            run_until(&mut world, "the reset", |world| {
                let running = world.nodes[&voter].running.as_ref();
                start_of(world, voter) > flushed
                    && running.is_some_and(|running| running.log.durable_end(world.log).lsn > flushed)
            });
            world.stop(voter, Death::Power).unwrap();
        }
        let until = world.agenda.now() + Duration::from_secs(20);
        let noticed = std::iter::from_fn(|| (world.agenda.now() < until).then(|| world.turn())).find_map(Result::err);
        plant(None);
        assert!(noticed.is_some(), "{}", mutant.name());
    }
}

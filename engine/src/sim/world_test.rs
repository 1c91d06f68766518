//! The world's own rules, one at a time: a simulator that does not do what it says proves nothing.

use super::event::Event;
use super::fault::FaultKind;
use super::mischief::Death;
use super::world::World;
use crate::model::{Lsn, NodeId};
use crate::replica::Input;
use std::time::Duration;

/// A world without faults, in which the first leader serves.
fn serving() -> (World, NodeId) {
    serving_alone_for(Duration::from_secs(60))
}

/// The same, where leaders go on for so long without a majority; logs keep everything.
fn serving_alone_for(bound: Duration) -> (World, NodeId) {
    let mut world = World::new(11, false);
    world.swarm.quorum_ms = u64::try_from(bound.as_millis()).unwrap();
    world.swarm.release_per_mille = 0;
    world.nodes.values_mut().for_each(|node| node.quorum_bound = bound);
    world.begin();
    let leader = loop {
        world.turn().unwrap();
        if let Some(leader) = world.serving().filter(|_| world.master.is_settled()) {
            break leader;
        }
    };
    run_for(&mut world, Duration::from_millis(500));
    (world, leader)
}

fn run_for(world: &mut World, time: Duration) {
    let until = world.agenda.now() + time;
    while world.agenda.now() < until {
        world.turn().unwrap();
    }
}

fn cut_off(world: &mut World, id: NodeId) {
    let until = world.agenda.now() + Duration::from_secs(60);
    for other in world.ids.clone().into_iter().filter(|other| *other != id) {
        world.cuts.extend([((id, other), until), ((other, id), until)]);
    }
}

fn end(world: &World, id: NodeId) -> Lsn {
    world.nodes[&id].running.as_ref().unwrap().replica.end().lsn
}

fn other_voter(world: &World, leader: NodeId) -> NodeId {
    *world.master.fence().iter().find(|voter| **voter != leader).unwrap()
}

/// A node looked at its timers first when the time for a Hello would have been over, though the Hello had long come: by then no
/// Ping had gone for five seconds, and each link that was idle broke, at all nodes, and again five seconds later.
#[test]
fn links_stand_for_as_long_as_nothing_breaks_them() {
    let (mut world, _) = serving();
    run_for(&mut world, Duration::from_secs(20));
    assert_eq!(world.next_link, 10, "one for each pair");
}

#[test]
fn p4_a_paused_process_handles_nothing_and_afterwards_all_that_waited_in_order() {
    let (mut world, leader) = serving();
    let voter = other_voter(&world, leader);
    world.node(voter).paused = true;
    let before = end(&world, voter);
    run_for(&mut world, Duration::from_secs(1));
    assert_eq!(end(&world, voter), before, "it takes nothing");
    assert!(end(&world, leader) > before, "the others go on");
    assert!(!world.nodes[&voter].put_off.is_empty());
    let life = world.nodes[&voter].life;
    world.resume(voter, life);
    assert!(world.nodes[&voter].put_off.is_empty() && !world.nodes[&voter].paused);
    run_for(&mut world, Duration::from_millis(500));
    assert!(end(&world, voter) > before, "it goes on as if nothing had been");
}

#[test]
fn n3_behind_a_one_way_cut_a_node_is_heard_and_hears_nothing() {
    let (mut world, leader) = serving();
    let voter = other_voter(&world, leader);
    world.cuts.insert((leader, voter), world.agenda.now() + Duration::from_secs(2));
    run_for(&mut world, Duration::from_millis(50)); // What was in flight arrives.
    let before = end(&world, voter);
    run_for(&mut world, Duration::from_millis(900));
    assert_eq!(end(&world, voter), before);
    assert!(!world.can_talk(leader, voter) && !world.can_talk(voter, leader), "a conversation needs both ways");
    run_for(&mut world, Duration::from_secs(2));
    assert!(world.can_talk(leader, voter));
    assert!(end(&world, voter) > before, "what was held up arrives in order, or is sent again on a new link");
}

#[test]
fn n5_who_is_cut_off_holds_half_a_link_until_it_finds_out() {
    let (mut world, leader) = serving();
    let voter = other_voter(&world, leader);
    world.cuts.insert((leader, voter), world.agenda.now() + Duration::from_secs(1));
    world.drop_link(leader, voter).unwrap();
    let holds =
        |world: &World, id: NodeId, peer: NodeId| world.nodes[&id].running.as_ref().unwrap().peers.contains_key(&peer);
    assert!(!holds(&world, leader, voter), "who closes it, knows");
    assert!(holds(&world, voter, leader), "nobody could tell the other");
    assert!(!world.can_talk(leader, voter));
    run_for(&mut world, Duration::from_secs(2));
    assert!(world.can_talk(leader, voter), "they connect again when the cut is over");
}

#[test]
fn without_faults_the_shard_gets_another_leader_when_its_leader_stays_away() {
    let (mut world, leader) = serving();
    world.stop(leader, Death::Power).unwrap();
    let epoch = world.master.newest().unwrap().epoch;
    // It does not come back: whoever was to start it does not.
    let until = world.agenda.now() + Duration::from_secs(20);
    while world.agenda.now() < until {
        let event = world.agenda.next().unwrap();
        if !matches!(event, Event::Start { node } if node == leader) {
            world.agenda.schedule(Duration::ZERO, event);
            world.turn().unwrap();
        }
    }
    assert!(world.master.newest().unwrap().epoch > epoch && world.master.is_settled());
    assert!(world.serving().is_some_and(|next| next != leader));
}

/// Found by a seed: a leader was cut off, another led and wrote, then the first led again without having heard of it.
/// Its suffix was truncated, and those who waited for it were answered with what stood at their LSNs since.
#[test]
fn who_waits_for_a_batch_that_is_truncated_is_not_told_of_the_one_in_its_place() {
    let (mut world, leader) = serving();
    let waiting = |world: &World| world.nodes[&leader].running.as_ref().unwrap().unanswered.len();
    cut_off(&mut world, leader);
    while world.master.newest().unwrap().leader == leader || !world.master.is_settled() {
        world.turn().unwrap();
    }
    run_for(&mut world, Duration::from_secs(1)); // The other one writes.
    assert!(waiting(&world) > 0, "it still takes writes");
    let voters = world.master.fence().to_vec();
    let again = world.master.assign(leader, voters, Vec::new());
    world.step(leader, Input::Assign(again)).unwrap();
    assert!(waiting(&world) > 0, "it leads again, and knows of nobody between");
    world.cuts.clear();
    for (low, high) in world.pairs() {
        world.agenda.schedule(Duration::from_millis(1), Event::Dial { low, high });
    }
    let truncated = world.totals.truncations;
    // Whoever holds half a link finds out first.
    let until = world.agenda.now() + Duration::from_secs(10);
    while world.serving() != Some(leader) && world.agenda.now() < until {
        run_for(&mut world, Duration::from_millis(100));
    }
    assert_eq!(world.serving(), Some(leader));
    assert!(world.totals.truncations > truncated);
    world.heal().unwrap();
    world.judge().unwrap();
}

const BOUND: Duration = Duration::from_secs(1);

#[test]
fn n2_whoever_waits_at_a_leader_that_is_cut_off_hears_within_its_bound_and_another_leads() {
    let (mut world, leader) = serving_alone_for(BOUND);
    cut_off(&mut world, leader);
    let phase = |world: &World| world.nodes[&leader].running.as_ref().unwrap().replica.phase();
    run_for(&mut world, BOUND - Duration::from_millis(100));
    assert!(phase(&world).is_some(), "not before");
    let in_doubt = world.totals.in_doubt;
    run_for(&mut world, BOUND / 4 + Duration::from_millis(150));
    let running = world.nodes[&leader].running.as_ref().unwrap();
    assert_eq!((phase(&world), running.unanswered.len()), (None, 0));
    assert!(world.totals.in_doubt > in_doubt && !world.reads.waits_for_confirmation(leader));
    run_for(&mut world, Duration::from_secs(5));
    assert!(world.serving().is_some_and(|next| next != leader));
    world.heal().unwrap();
    world.judge().unwrap();
}

/// The control plane may have nobody else: it goes on assigning, and somebody leads as soon as anybody can.
#[test]
fn while_nobody_reaches_a_majority_nobody_leads_for_long_and_afterwards_somebody_does() {
    let (mut world, _) = serving_alone_for(BOUND);
    for id in world.ids.clone() {
        cut_off(&mut world, id);
    }
    run_for(&mut world, Duration::from_secs(20));
    assert!(world.totals.stepped_down > 3, "{}", world.totals.stepped_down);
    assert_eq!(world.serving(), None);
    world.heal().unwrap();
    world.judge().unwrap();
}

#[cfg(feature = "mutants")]
#[test]
fn a_leader_that_never_gives_up_one_that_goes_on_and_one_that_forgets_its_reads_are_noticed() {
    use crate::model::mutant::{Mutant, plant};
    for mutant in [Mutant::NeverStepDown, Mutant::LeadAfterSteppingDown, Mutant::ForgetReads] {
        let (mut world, leader) = serving_alone_for(BOUND);
        cut_off(&mut world, leader);
        plant(Some(mutant));
        let until = world.agenda.now() + BOUND * 3;
        let noticed = std::iter::from_fn(|| (world.agenda.now() < until).then(|| world.turn())).find_map(Result::err);
        plant(None);
        let invariant = noticed.map(|violation| violation.invariant);
        let expected = if mutant == Mutant::LeadAfterSteppingDown { "I1" } else { "liveness" };
        assert_eq!(invariant, Some(expected), "{}", mutant.name());
    }
}

#[test]
fn a_seed_leaves_the_same_trace_twice_and_another_seed_another() {
    let trace = |seed| {
        let mut world = World::new(seed, false);
        world.begin();
        run_for(&mut world, Duration::from_secs(3));
        world.trace_hash
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

/// Found by seed 50,991: what was damaged went with the rest of a log that its state had, and the replica was not told. It asked for
/// it for ever, from where its log had no position.
#[test]
fn damage_that_is_released_with_the_rest_is_no_damage_any_more() {
    let (mut world, leader) = serving();
    let voter = other_voter(&world, leader);
    run_for(&mut world, Duration::from_secs(2));
    cut_off(&mut world, voter); // Whoever it asks does not answer.
    while world.nodes[&voter].rotten.is_empty() {
        world.rot(FaultKind::BitFlip);
    }
    let life = world.nodes[&voter].life;
    world.scrub(voter, life).unwrap();
    let damaged = |world: &World| world.nodes[&voter].running.as_ref().unwrap().replica.damaged().to_vec();
    assert_eq!(damaged(&world), world.nodes[&voter].rotten);
    world.flush(voter);
    let flushed = world.nodes[&voter].flushed();
    world.release_to(voter, flushed).unwrap();
    assert_eq!(damaged(&world), []);
    world.heal().unwrap();
}

/// Found by seed 52,184: the same batch rotted on two disks, and the third, which had it, was lost: no leader could ever start on it.
#[test]
fn a_disk_is_not_lost_that_has_the_only_copy_of_what_rotted_elsewhere() {
    let (mut world, leader) = serving();
    run_for(&mut world, Duration::from_secs(1));
    let voter = other_voter(&world, leader);
    let at = world.nodes[&leader].running.as_ref().unwrap().replica.durable();
    world.rotted.push((at.lsn, at));
    for id in world.ids.clone().into_iter().filter(|id| *id != voter) {
        world.node(id).rotten.push((at.lsn, at.lsn));
    }
    while !world.holds_durably(voter, at) {
        world.turn().unwrap();
    }
    let is_emptied = |world: &World| world.totals.faults.contains_key(&FaultKind::DiskEmptied);
    world.lose_disk(voter).unwrap();
    assert!(!is_emptied(&world));
    world.node(leader).rotten.clear(); // Now its leader has it as well.
    world.lose_disk(voter).unwrap();
    assert!(is_emptied(&world));
}

//! What a planned change of leader costs: how often messages go there and back, and how often disks sync, while no write is taken.

use super::replica_test::{A, B, C, World};
use super::{Input, Phase};
use crate::model::NodeId;

/// Ways of messages, and syncs one after the other.
#[derive(Debug, PartialEq, Eq)]
struct Pause {
    ways: u32,
    syncs: u32,
}

/// Hands the leadership over; counts from the moment at which the old leader hears of it until the new one is ready.
fn transfer(world: &mut World, to: NodeId) -> Pause {
    let epoch = world.assign(to).epoch;
    let mut pause = Pause { ways: 0, syncs: 0 };
    while world.node(to).replica.phase() != Some(Phase::Activating) {
        if world.hop() {
            pause.ways += 1;
        } else {
            world.sync_all();
            pause.syncs += 1;
        }
        assert!(pause.ways + pause.syncs < 20, "{pause:?}");
    }
    world.node(to).step(Input::ActivationAccepted(epoch));
    assert!(world.node(to).replica.proposal_position().is_some());
    assert_eq!(world.node(A).replica.phase(), None);
    pause
}

/// Fence and promise, `EpochStart` and acknowledgement: each is one way there, a sync everywhere, and one way back.
#[test]
fn the_pause_of_a_transfer_to_a_voter_that_has_everything_is_two_rounds_and_two_syncs() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "known to all");
    world.settle();
    assert_eq!(transfer(&mut world, B), Pause { ways: 4, syncs: 2 });
    world.settle();
    assert_eq!([A, B, C].map(|id| world.committed(id)), [3; 3]);
}

/// Under load the old leader has more than the new one: that is fetched, and becomes durable with the epoch's start.
#[test]
fn what_is_under_way_at_a_transfer_costs_one_round_more_and_no_sync() {
    let mut world = World::new();
    world.elect(A);
    world.propose(A, "on its way when the leadership goes");
    world.node(A).sent.clear();
    let pause = transfer(&mut world, B);
    assert_eq!(pause, Pause { ways: 6, syncs: 2 });
    world.settle();
    assert_eq!([A, B, C].map(|id| world.committed(id)), [3; 3], "it was not lost");
}

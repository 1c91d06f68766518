//! Random work, power cuts at any point, reopened again and again (I1; rows D1 to D5 of the fault list).

use proptest::prelude::*;
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, Epoch, HardStateKind, Options};

use crate::world::{Chance, World, batch, log, options};

/// One step of work.
fn step(world: &mut World, chance: &mut Chance) {
    match chance.below(10) {
        0..=3 => submit_batches(world, chance),
        4 => submit_hard_state(world, chance),
        5 => submit_truncation(world, chance),
        6..=7 => drop(world.take()),
        _ => {
            if !world.flying.is_empty() {
                let i = usize::try_from(chance.below(world.flying.len() as u64)).unwrap();
                world.finish(i);
            }
        }
    }
}

fn submit_batches(world: &mut World, chance: &mut Chance) {
    let mut entries = Vec::new();
    let of = log(chance.below(4));
    let mut end = world.core.end(of);
    for _ in 0..=chance.below(3) {
        let term = u32::try_from(chance.below(12) / 11).unwrap();
        let epoch = Epoch::new(1, end.epoch.term.max(1) + term);
        let next = batch(of, end, epoch, 1 + u32::try_from(chance.below(5)).unwrap(), chance.below(6000) as usize);
        end = next.position();
        entries.push(Entry::Batch(next));
    }
    world.submit(entries).unwrap();
}

fn submit_hard_state(world: &mut World, chance: &mut Chance) {
    let bytes = vec![chance.below(256) as u8; chance.below(200) as usize].into();
    world.submit(vec![Entry::HardState { log: log(chance.below(4)), kind: HardStateKind::Promise, bytes }]).unwrap();
}

fn submit_truncation(world: &mut World, chance: &mut Chance) {
    let of = log(chance.below(4));
    let back = towline_wal::Lsn::new(world.core.end(of).lsn.get().saturating_sub(chance.below(12)));
    let to = world.core.boundary_at_or_before(of, back).unwrap();
    // A new history goes on in a higher epoch, so that no position stands for two batches.
    let epoch = Epoch::new(1, world.core.end(of).epoch.term + 1);
    let next = batch(of, to, epoch, 1, 100);
    world.submit(vec![Entry::Truncate { log: of, to }, Entry::Batch(next)]).unwrap();
}

/// The reopened log shows the state after some number of entries, at least the acknowledged ones: what was not
/// acknowledged is there whole or not at all, and nothing is there without everything before it.
fn assert_is_a_state_of(before: &World, after: &mut World) {
    let content = after.content();
    let least = before.acknowledged_entries();
    let states = least..=before.submitted.len();
    let found = states.clone().find(|n| before.model_after(*n).same(&content));
    assert!(found.is_some(), "the reopened log is none of the states {states:?}: {:?}", after.report);
    assert!(after.report.is_intact(), "an honest disk damages nothing: {:?}", after.report);
    assert!(after.report.incarnation > before.report.incarnation);
}

fn life(world: World, chance: &mut Chance) -> World {
    let mut world = world;
    for _ in 0..chance.below(120) {
        step(&mut world, chance);
    }
    let kind = match chance.below(4) {
        0 => CrashKind::DropAll,
        1 => CrashKind::KeepAll,
        _ => CrashKind::Chance,
    };
    let mut disk = world.disk.clone();
    disk.crash(kind, &mut |n| chance.below(n));
    let options = Options { groups_in_flight: 1 + u32::try_from(chance.below(4)).unwrap(), ..options() };
    let mut after = World::open(disk, &options).unwrap();
    assert_is_a_state_of(&world, &mut after);

    // Opened once more without work between, it is the same.
    let mut disk = after.disk.clone();
    disk.crash(CrashKind::DropAll, &mut |_| 0);
    let mut again = World::open(disk, &options).unwrap();
    assert!(again.content().same(&after.base), "a second open shows the same");
    assert_eq!(again.core.cuts(), after.core.cuts(), "what the first open dropped is remembered");
    again
}

fn lives(seed: u64) {
    let mut chance = Chance::new(seed);
    let options = Options { groups_in_flight: 1 + u32::try_from(chance.below(4)).unwrap(), ..options() };
    let mut world = World::open(VirtualDisk::with_seed(seed), &options).unwrap();
    for _ in 0..4 {
        world = life(world, &mut chance);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_crash_leaves_a_state_that_holds_all_that_was_acknowledged(seed: u64) {
        lives(seed);
    }
}

#[test]
fn a_crash_during_the_first_open_leaves_a_directory_that_opens() {
    // Each sync of the open is where power fails, in turn.
    for failing in 0..8 {
        for seed in 0..20 {
            let mut disk = VirtualDisk::new();
            disk.fail_sync_after(failing);
            drop(towline_wal::LogCore::recover(&mut disk, &options()));
            let mut chance = Chance::new(seed);
            disk.crash(CrashKind::Chance, &mut |n| chance.below(n));
            disk.clear_faults();
            let world = World::open(disk, &options()).unwrap();
            assert!(world.report.is_intact() && world.report.writable);
        }
    }
}

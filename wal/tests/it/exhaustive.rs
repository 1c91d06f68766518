//! Everything at small scope: each sequence of up to four operations, power failing behind each change that the last one
//! makes to the disk, with nothing kept and with each subset of six of the pages and names that were not synced.

use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, Epoch, Lsn, Options};

use crate::world::{Model, PowerCut, World, batch, log, options};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Accepted, and not yet carried out.
    Append,
    Sync,
    Roll,
    Truncate,
    Release,
    /// A segment's worth of what is released at once, beside a batch that stays: after two of them there is something to
    /// compact.
    Compact,
}

const ALL: [Operation; 6] =
    [Operation::Append, Operation::Sync, Operation::Roll, Operation::Truncate, Operation::Release, Operation::Compact];

fn eager() -> Options {
    Options { slack_segments: 0, ..options() }
}

fn carry_out(world: &mut World, operation: Operation) {
    let of = log(1);
    match operation {
        Operation::Append => drop(world.append(of, 2, 3000).unwrap()),
        Operation::Sync => world.run(),
        Operation::Roll => drop(world.append_synced_to_the_next_segment(log(2))),
        Operation::Truncate => {
            let (start, end) = (world.core.start(of).lsn, world.core.end(of));
            let back = end.lsn.prev().max(start);
            world.core.load_index(&mut world.disk, of, back);
            let to = world.core.boundary_at_or_before(of, back).unwrap();
            let next = batch(of, to, Epoch::new(1, end.epoch.term + 1), 1, 500);
            world.submit(vec![Entry::Truncate { log: of, to }, Entry::Batch(next)]).unwrap();
        }
        Operation::Release => {
            let before = world.core.end(of).lsn;
            world.core.load_index(&mut world.disk, of, before.prev());
            world.submit(vec![Entry::Release { log: of, before }]).unwrap();
        }
        Operation::Compact => {
            for _ in 0..2 {
                world.append_synced(of, 1, 200);
                world.append_synced_to_the_next_segment(log(3));
            }
            let before = world.core.end(log(3)).lsn;
            world.submit(vec![Entry::Release { log: log(3), before }]).unwrap();
            world.run();
        }
    }
}

/// Opens what each subset of the first six answers leaves of a disk; how many that were.
fn assert_each_subset_is_a_state(world: &World, cut: &PowerCut) -> usize {
    let PowerCut { disk, acknowledged, submitted } = cut;
    let states: Vec<Model> =
        world.states(*acknowledged, *submitted).into_iter().map(|n| world.model_after(n)).collect();
    let mut questions = 0;
    let mut subset = 0_u64;
    loop {
        let mut crashed = disk.clone();
        let mut asked = 0;
        crashed.crash(CrashKind::Pages, &mut |_| {
            asked += 1;
            if asked <= 6 { subset >> (asked - 1) & 1 } else { 0 }
        });
        questions = questions.max(asked.min(6));
        let mut after = World::open(crashed, &eager()).unwrap();
        let content = after.content();
        let found = states.iter().any(|state| state.same(&content));
        assert!(found && after.report.is_intact(), "subset {subset:b}: {:?}", after.report);
        subset += 1;
        if subset >= 1 << questions {
            return 1 << questions;
        }
    }
}

/// What was done in all sequences together.
#[derive(Default)]
struct Done {
    opens: usize,
    /// In the last operation of a sequence, where power fails.
    compactions: u64,
    acknowledged: usize,
}

/// All sequences that begin so.
fn sequences(begun: &[Operation], done: &mut Done) {
    let mut world = World::open(VirtualDisk::with_seed(5), &eager()).unwrap();
    // Something is there to be truncated and released.
    world.append_synced(log(1), 2, 1000);
    world.append_synced(log(1), 1, 1000);
    assert_eq!(world.core.end(log(1)).lsn, Lsn::new(3));
    let (last, before) = begun.split_last().unwrap();
    before.iter().for_each(|operation| carry_out(&mut world, *operation));
    let (acknowledged, compactions) = (world.acknowledged_entries(), world.core.stats().compactions);
    world.cuts = Some(Vec::new());
    carry_out(&mut world, *last);
    world.run();
    assert!(world.failed.is_empty() && world.acknowledged_entries() == world.submitted.len(), "{begun:?}");
    let cuts = world.cuts.take().unwrap();
    done.opens += cuts.iter().map(|cut| assert_each_subset_is_a_state(&world, cut)).sum::<usize>();
    done.compactions += world.core.stats().compactions - compactions;
    // Acknowledged before the last change, so that some cut would find it lost.
    done.acknowledged += cuts.last().map_or(0, |cut| cut.acknowledged - acknowledged);
    if begun.len() < 4 {
        for next in ALL {
            sequences(&[begun, &[next]].concat(), done);
        }
    }
}

#[test]
fn all_that_begin_with_an_append() {
    assert_done(Operation::Append);
}

#[test]
fn all_that_begin_with_a_sync() {
    assert_done(Operation::Sync);
}

#[test]
fn all_that_begin_with_a_roll() {
    assert_done(Operation::Roll);
}

#[test]
fn all_that_begin_with_a_truncation() {
    assert_done(Operation::Truncate);
}

#[test]
fn all_that_begin_with_a_release() {
    assert_done(Operation::Release);
}

#[test]
fn all_that_begin_with_a_compaction() {
    assert_done(Operation::Compact);
}

/// A scope that shrinks unseen proves nothing.
fn assert_done(first: Operation) {
    let mut done = Done::default();
    sequences(&[first], &mut done);
    assert!(done.opens >= 30_000, "{} states of the disk", done.opens);
    assert!(done.compactions >= 30, "{} compactions where power failed", done.compactions);
    assert!(done.acknowledged >= 200, "{} entries acknowledged where power failed", done.acknowledged);
}

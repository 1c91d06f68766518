//! A device that does what it is asked for and does not say so for long, or says so and has not been asked in that order, or
//! does nothing any more (rows D25 and D26 of the fault list): results come late and in any order, and power fails while they
//! are out.

use towline_wal::io::{IoFailure, IoOp, IoRequest, execute};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Lsn, Options, SubmitError};

use crate::crashes::{Ids, assert_is_one_of, submit_something};
use crate::world::{Chance, World, log, options};

/// A request that was taken, and what came of it if the device has done it.
struct Withheld {
    request: IoRequest,
    result: Option<Result<(), IoFailure>>,
}

/// A log, and what it is not told yet.
struct Stalled {
    world: World,
    withheld: Vec<Withheld>,
}

impl Stalled {
    fn open(disk: VirtualDisk, options: &Options) -> Self {
        Self { world: World::open(disk, options).unwrap(), withheld: Vec::new() }
    }

    fn take(&mut self) -> bool {
        let request = self.world.core.poll_io();
        let taken = request.is_some();
        self.withheld.extend(request.map(|request| Withheld { request, result: None }));
        taken
    }

    /// The device does it, and does not say so.
    fn perform(&mut self, i: usize) {
        let Withheld { request, result } = &mut self.withheld[i];
        // A driver reports this one in the step in which it does it.
        if result.is_none() && !matches!(request.op, IoOp::InstallCompacted { .. }) {
            *result = Some(execute(&mut self.world.disk, request));
        }
    }

    /// The log is told, of what the device had done long before or does only now.
    fn tell(&mut self, i: usize) {
        let Withheld { request, result } = self.withheld.remove(i);
        let result = result.unwrap_or_else(|| execute(&mut self.world.disk, &request));
        self.world.core.on_io(request.id, result);
        self.world.settle_completions();
    }

    fn any(&self, chance: &mut Chance) -> Option<usize> {
        usize::try_from(chance.below(u64::try_from(self.withheld.len()).unwrap()))
            .ok()
            .filter(|i| *i < self.withheld.len())
    }

    /// Power fails in a copy: everything acknowledged is there, nothing in part.
    fn cut(&self, options: &Options, chance: &mut Chance) {
        let mut disk = self.world.disk.clone();
        let kind =
            [CrashKind::Chance, CrashKind::DropAll, CrashKind::KeepAll][usize::try_from(chance.below(3)).unwrap()];
        disk.crash(kind, &mut |n| chance.below(n));
        let mut after = World::open(disk, options).unwrap();
        let world = &self.world;
        let states = world.states(world.acknowledged_entries(), world.submitted.len());
        assert_is_one_of(world, &states, &mut after);
    }
}

#[test]
fn results_that_come_late_and_in_any_order_acknowledge_nothing_too_early_and_lose_nothing() {
    let (mut cuts, mut late, mut compactions) = (0, 0, 0);
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let groups_in_flight = 1 + u32::try_from(chance.below(4)).unwrap();
        let slack_segments = u32::try_from(chance.below(2)).unwrap();
        let options = Options { groups_in_flight, slack_segments, ..options() };
        let mut stalled = Stalled::open(VirtualDisk::with_seed(seed), &options);
        let mut ids = Ids::default();
        for _ in 0..8 {
            // The device says nothing.
            for _ in 0..chance.below(40) {
                match chance.below(8) {
                    0..=2 => submit_something(&mut stalled.world, &mut ids, &mut chance),
                    3..=4 => drop(stalled.take()),
                    5..=6 => {
                        if let Some(i) = stalled.any(&mut chance) {
                            stalled.perform(i);
                        }
                    }
                    _ => {
                        stalled.cut(&options, &mut chance);
                        cuts += 1;
                    }
                }
            }
            late += stalled.withheld.iter().filter(|withheld| withheld.result.is_some()).count();
            // All is said, in whatever order; what the log asks for meanwhile may be done at once.
            for _ in 0..200 {
                if chance.below(3) == 0 {
                    stalled.take();
                }
                let Some(i) = stalled.any(&mut chance) else { break };
                stalled.tell(i);
                if chance.below(8) == 0 {
                    stalled.cut(&options, &mut chance);
                    cuts += 1;
                }
            }
        }
        while stalled.take() || !stalled.withheld.is_empty() {
            if !stalled.withheld.is_empty() {
                stalled.tell(0);
            }
        }
        let world = &stalled.world;
        assert!(world.failed.is_empty() && world.acknowledged_entries() == world.submitted.len(), "seed {seed}");
        compactions += world.core.stats().compactions;
    }
    assert!(cuts > 4000 && late > 1000 && compactions > 20, "{cuts} cuts, {late} late, {compactions} compactions");
}

/// D26: with threads, on real files, `a_device_that_hangs_is_seen_and_holds_up_nobody_but_who_waits_for_it` shows the same.
#[test]
fn a_device_that_never_answers_again_is_told_from_nothing_and_takes_no_memory() {
    let options = Options { queue_bytes_max: 40_000, ..options() };
    let mut stalled = Stalled::open(VirtualDisk::new(), &options);
    while stalled.take() || !stalled.withheld.is_empty() {
        stalled.tell(0);
    }
    stalled.world.append_synced(log(1), 3, 1000);
    let refused = loop {
        if let Err(refused) = stalled.world.append(log(1), 1, 1000) {
            break refused;
        }
        stalled.take();
    };
    assert_eq!(refused, SubmitError::Busy { queue_bytes_max: 40_000 });
    while stalled.take() {}
    // One group, one sync at most, and what runs in the background: no more, however long it takes.
    assert!(stalled.withheld.len() <= 4, "{} requests are out", stalled.withheld.len());
    for _ in 0..1000 {
        assert!(!stalled.take() && stalled.world.append(log(2), 1, 1000).is_err());
    }
    assert!(stalled.world.core.stats().queue_bytes <= 42_000, "{:?}", stalled.world.core.stats());
    assert_eq!(stalled.world.acknowledged_entries(), 3);
    assert_eq!(stalled.world.lsns(log(1)), [1, 2, 3], "what is durable is read");
    assert_eq!(stalled.world.core.durable_end(log(1)).lsn, Lsn::new(3));
    for seed in 0..20 {
        stalled.cut(&options, &mut Chance::new(seed));
    }
}

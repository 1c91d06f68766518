//! A device that calls a write good and puts its bytes elsewhere, or nowhere: what is served is right, and what is not served
//! is named, at both places (rows D18, a misdirected write, and D19, a lost one, of the fault list).

use bytes::Bytes;
use towline_wal::vdisk::{CrashKind, Misplaced, VirtualDisk};
use towline_wal::{Entry, HardStateKind, LogCore, OpenError, Options};

use crate::evidence::Layout;
use crate::world::{Model, World, log, options};

/// Two logs over three segments. The last groups are written after any write that goes astray here: a device that loses
/// the very last ones leaves nothing by which a log could know.
fn work(world: &mut World) {
    world.run();
    let vow = Entry::HardState { log: log(1), kind: HardStateKind::Promise, bytes: Bytes::from_static(b"vow") };
    world.submit(vec![vow]).unwrap();
    world.run();
    for _ in 0..3 {
        world.append_synced(log(1), 2, 700);
        world.append_synced_to_the_next_segment(log(2));
    }
    world.append_synced(log(1), 3, 700);
}

fn tail(world: &mut World) {
    world.append_synced(log(1), 2, 100);
    world.append_synced(log(2), 2, 100);
}

fn places() -> Vec<Misplaced> {
    let at = |segment: u64, offset: u64| Misplaced::At { name: format!("{segment:016}.seg"), offset };
    let mut places = vec![Misplaced::Nowhere];
    for segment in 1..=4 {
        // Its header, its first groups, its middle, where its footer lies.
        places.extend([0, 4096, 8192, 12_288, 32_768, 57_344, 61_440].map(|offset| at(segment, offset)));
    }
    places
}

fn world() -> World {
    let options = Options { slack_segments: 0, ..options() };
    World::open(VirtualDisk::with_seed(3), &options).unwrap()
}

/// What the log held in the end, if all writes had been where they belong, and the disk with them.
fn good() -> (Model, VirtualDisk, u64) {
    let mut world = world();
    work(&mut world);
    let writes = world.disk.stats().writes;
    tail(&mut world);
    let content = world.content();
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    (content, world.disk, writes)
}

#[test]
fn no_misplaced_write_is_served_or_goes_unsaid() {
    let (good, mut whole, writes) = good();
    let layout = Layout::of(&whole);
    let before = world().disk.stats().writes;
    assert!(writes - before > 30, "{writes} writes are a small test");
    let (mut opened, mut refused) = (0, 0);
    for n in 0..writes - before {
        for place in places() {
            let mut world = world();
            world.disk.misplace_write_after(n, place.clone());
            work(&mut world);
            tail(&mut world);
            let mut disk = world.disk;
            disk.crash(CrashKind::DropAll, &mut |_| 0);
            let harm = layout.harm_between(&mut whole, &mut disk);
            match LogCore::recover(&mut disk, &options()) {
                Ok((mut core, report)) => {
                    let verdict = harm.judge(&mut core, &report, &mut disk, &good);
                    assert!(verdict.is_ok(), "write {n} at {place:?}: {verdict:?}, {report:?}");
                    opened += 1;
                }
                Err(OpenError::Missing { .. } | OpenError::TwoWriters { .. }) => refused += 1,
                Err(error) => panic!("write {n} at {place:?}: {error}"),
            }
        }
    }
    assert!(opened > 900 && refused == 0, "{opened} opened, {refused} refused");
}

//! Every bit of a small directory, flipped alone: what is served is right, what is not served is named, and nothing that had
//! been durable is cut off (I8; rows D12 and D21 of the fault list).

use bytes::Bytes;
use towline_wal::io::Io;
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{Entry, Epoch, LogCore, OpenError, Options};

use crate::damage::{SEG, overwrite};
use crate::evidence::{Layout, PROMISE};
use crate::world::{Model, SEGMENT, World, batch, log, options};

/// Two logs, a hard state, a truncation, in one segment.
fn small_world() -> World {
    let mut world = World::new();
    world.run();
    world.append_synced(log(1), 2, 60);
    world.append_synced(log(2), 1, 60);
    let vow = Entry::HardState { log: log(1), kind: PROMISE, bytes: Bytes::from_static(b"vow") };
    world.submit(vec![vow]).unwrap();
    world.run();
    let to = world.core.position_at(log(1), towline_wal::Lsn::new(1)).unwrap();
    let next = batch(log(1), to, Epoch::new(1, 2), 2, 60);
    world.submit(vec![Entry::Truncate { log: log(1), to }, Entry::Batch(next)]).unwrap();
    world.run();
    world
}

fn left_by(mut world: World) -> (VirtualDisk, Model) {
    world.append_synced(log(1), 1, 60);
    world.append_synced(log(2), 1, 60);
    let model = world.content();
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    (world.disk, model)
}

/// The segment as a crash leaves it: an open knows it by nothing but its groups.
fn torn_disk() -> (VirtualDisk, Model) {
    left_by(small_world())
}

/// The segment sealed, and another behind it: some 8 KiB that are not zero.
fn small_disk() -> (VirtualDisk, Model) {
    let mut world = small_world().reopen().unwrap();
    world.run();
    left_by(world)
}

/// The same, and the footer was lost before.
fn small_disk_without_footer() -> (VirtualDisk, Model) {
    let (mut disk, model) = small_disk();
    overwrite(&mut disk, SEG, SEGMENT - 64, vec![0; 64]);
    (disk, model)
}

/// Three logs of which one filled segments and was released, so that the others' batches were moved together.
fn compacted_disk() -> (VirtualDisk, Model) {
    let eager = Options { slack_segments: 0, ..options() };
    let mut world = World::open(VirtualDisk::new(), &eager).unwrap();
    let vow = Entry::HardState { log: log(1), kind: PROMISE, bytes: Bytes::from_static(b"vow") };
    world.submit(vec![vow]).unwrap();
    for i in 0..4 {
        world.append_synced(log(1 + i % 2), 1, 60);
        world.append_synced_to_the_next_segment(log(3));
    }
    let before = world.core.end(log(3)).lsn;
    world.submit(vec![Entry::Release { log: log(3), before }]).unwrap();
    world.run();
    world.append_synced(log(1), 1, 60);
    world.run();
    assert!(world.core.stats().compactions > 0, "{:?}", world.core.stats());
    let model = world.content();
    world.disk.crash(CrashKind::DropAll, &mut |_| 0);
    (world.disk, model)
}

/// The bits to flip: all of every byte that is not zero, one of every 32 bytes that are.
fn bits(disk: &mut VirtualDisk) -> Vec<(String, u64)> {
    let mut bits = Vec::new();
    for name in disk.list().unwrap() {
        let len = disk.len(&name).unwrap();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        disk.read_at(&name, 0, &mut bytes).unwrap();
        let used = bytes.iter().any(|b| *b != 0);
        for (at, byte) in bytes.iter().enumerate().filter(|_| used) {
            let at = at as u64;
            match byte {
                0 if at.is_multiple_of(32) => bits.push((name.clone(), at * 8 + at / 32 % 8)),
                0 => {}
                _ => bits.extend((0..8).map(|bit| (name.clone(), at * 8 + bit))),
            }
        }
    }
    bits
}

/// Flips each of the bits alone; how often the directory was refused for it.
fn flip_each(disk: &VirtualDisk, good: &Model, bits: impl Iterator<Item = (String, u64)>) -> usize {
    let layout = Layout::of(disk);
    let mut refused = 0;
    for (name, bit) in bits {
        let mut flipped = disk.clone();
        assert!(flipped.flip_bit(&name, bit));
        match LogCore::recover(&mut flipped, &options()) {
            Ok((mut core, report)) => {
                let harm = layout.harmed_at(&name, bit / 8..bit / 8 + 1);
                let verdict = harm.judge(&mut core, &report, &mut flipped, good);
                assert!(verdict.is_ok(), "{name} bit {bit}: {verdict:?}, {report:?}");
            }
            Err(OpenError::Manifest { .. }) => refused += 1,
            Err(error) => panic!("{name} bit {bit}: {error}"),
        }
    }
    refused
}

#[test]
fn no_single_bit_flip_is_served_or_goes_unsaid() {
    for (mut disk, good) in [small_disk(), small_disk_without_footer(), torn_disk()] {
        let bits = bits(&mut disk);
        assert!(bits.len() > 8000, "{} bits are a small test", bits.len());
        let refused = flip_each(&disk, &good, bits.into_iter());
        assert!(refused >= 64, "a damaged manifest is refused");
    }
}

#[test]
fn no_single_bit_flip_of_a_compacted_log_is_served_or_goes_unsaid() {
    let (mut disk, good) = compacted_disk();
    let bits = bits(&mut disk);
    assert!(bits.len() > 8000, "{} bits are a small test", bits.len());
    // All of the compacted segment; of the others, which hold old bytes of earlier uses too, some.
    let some =
        bits.into_iter().enumerate().filter(|(i, (name, _))| name.starts_with("0000000000000001.") || i % 16 == 0);
    flip_each(&disk, &good, some.map(|(_, bit)| bit));
}

/// All 524,288 bits of a directory's 64 KiB, in four parts: header, groups, zeroes, footer. Once the segment is the last one,
/// once it is sealed.
fn flip_all_of_a_quarter(quarter: u64) {
    for (disk, good) in [torn_disk(), small_disk()] {
        let bits = quarter * SEGMENT * 2..(quarter + 1) * SEGMENT * 2;
        flip_each(&disk, &good, bits.map(|bit| (SEG.to_owned(), bit)));
    }
}

#[test]
fn no_bit_of_64_kib_1() {
    flip_all_of_a_quarter(0);
}

#[test]
fn no_bit_of_64_kib_2() {
    flip_all_of_a_quarter(1);
}

#[test]
fn no_bit_of_64_kib_3() {
    flip_all_of_a_quarter(2);
}

#[test]
fn no_bit_of_64_kib_4() {
    flip_all_of_a_quarter(3);
}

use super::*;
use crate::core::{Entry, LogCore, Options};
use crate::format::batch::{BatchBuilder, BatchKind};
use crate::format::block::{Block, Compression};
use crate::format::footer::{TRAILER_BYTES, Trailer};
use crate::io::{execute, read_exact};
use crate::vdisk::VirtualDisk;

const LOG: LogId = LogId::new(1);
const SEGMENT: u64 = 64 << 10;

fn options() -> Options {
    Options { segment_bytes: SEGMENT, segments_ahead: 1, ..Options::default() }
}

/// Appends a batch of one record in a group of its own, durably.
fn append(core: &mut LogCore, io: &mut dyn Io, bytes: usize) {
    let block = Block::encode(vec![7; bytes].into(), 1, Compression::Never);
    let batch = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), core.end(LOG), 0).block(block);
    core.submit(vec![Entry::Batch(batch.seal().unwrap())]).unwrap();
    while let Some(request) = core.poll_io() {
        let result = execute(io, &request);
        core.on_io(request.id, result);
    }
}

/// Forty batches in several segments.
fn long_disk() -> VirtualDisk {
    let mut disk = VirtualDisk::new();
    let (mut core, _) = LogCore::recover(&mut disk, &options()).unwrap();
    (0..40).for_each(|_| append(&mut core, &mut disk, 4000));
    disk
}

/// The batches of segment 2, and the byte of its footer at which the offsets lie.
fn second(disk: &VirtualDisk) -> (Vec<BatchView>, u64) {
    let groups = inspect_io(&mut disk.clone()).unwrap().segments.remove(1).groups;
    let trailer = read_exact(&mut disk.clone(), &segment_name(2), SEGMENT - 64, TRAILER_BYTES).unwrap();
    let trailer = Trailer::decode(&trailer).unwrap();
    let at = trailer.offset + u64::from(trailer.summary_len);
    (groups.into_iter().flat_map(|group| group.batches).collect(), at)
}

/// What a verification says of a log of which nothing but footers is known.
fn verify_folded(disk: &mut VirtualDisk) -> VerifyReport {
    let survey = look_with(disk, 0).unwrap();
    assert!(survey.replay.index.get(LOG).unwrap().runs.len() > 2, "older segments are known by their footers");
    report(survey, disk, &mut |_| {}).unwrap()
}

/// The LSNs that a log opened on the disk can't read, which must be told in their places.
fn unread(mut disk: VirtualDisk) -> Vec<u64> {
    disk.kill_process();
    let options = Options { index_bytes_max: 0, ..options() };
    let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
    let (mut next, mut unread) = (Lsn::FIRST, Vec::new());
    while next <= core.end(LOG).lsn {
        core.load_index(&mut disk, LOG, next);
        let read = core.plan_read(LOG, next, 0).and_then(|plan| {
            let extent = plan.first().expect("the end is not reached");
            assert_eq!(extent.first, next, "nothing is passed over");
            extent.read(&mut disk)
        });
        next = match read {
            Ok(batch) => batch.last_lsn().next(),
            Err(ReadError::Corrupt { first, last, .. }) => {
                unread.extend(first.get()..=last.get());
                last.next()
            }
            Err(other) => panic!("{other}"),
        };
    }
    unread
}

fn ranges(found: &VerifyReport) -> Vec<(u64, u64, u64)> {
    found.damaged().iter().map(|range| (range.first.get(), range.last.get(), range.offset)).collect()
}

#[test]
fn a_batch_that_rots_with_its_footers_offsets_is_damage() {
    let disk = long_disk();
    let (batches, offsets) = second(&disk);
    let one = |batch: &BatchView| (batch.first.get(), batch.last.get(), batch.offset);
    for batch in [&batches[0], &batches[3], batches.last().unwrap()] {
        let mut disk = disk.clone();
        assert!(disk.flip_bit(&segment_name(2), offsets * 8));
        assert_eq!(ranges(&verify_folded(&mut disk)), [], "the groups say what the footer does not");
        assert!(disk.flip_bit(&segment_name(2), (batch.offset + 200) * 8));
        let found = verify_folded(&mut disk);
        assert!(!found.is_good() && found.batches_good == 39, "{found:?}");
        assert_eq!(ranges(&found), [one(batch)]);
        assert_eq!(unread(disk), [batch.first.get()], "and a read says the same");
    }
}

#[test]
fn batches_that_neither_footer_nor_group_name_are_damage() {
    let disk = long_disk();
    let (batches, offsets) = second(&disk);
    let last = batches.len() - 1;
    // Nothing repeats the last group within its segment; of two others in a row, the second only is repeated.
    for (lost, told) in [(vec![last], last), (vec![2, 3], 2)] {
        let mut disk = disk.clone();
        assert!(disk.flip_bit(&segment_name(2), offsets * 8));
        for lost in lost {
            // The header of the group, a block before its only batch.
            let group = batches[lost].offset / 4096 * 4096;
            assert!(disk.flip_bit(&segment_name(2), (group + 40) * 8));
        }
        let found = verify_folded(&mut disk);
        let lsn = batches[told].first.get();
        assert!(!found.is_good() && found.batches_good == 39, "{found:?}");
        assert_eq!(ranges(&found), [(lsn, lsn, 0)]);
        assert!(!found.findings.is_empty());
        assert_eq!(unread(disk.clone()), [lsn], "and a read says the same");

        let all: Vec<_> = Batches {
            survey: look_with(&mut disk, 0).unwrap(),
            io: disk,
            wanted: Wanted::default(),
            segments: (1..=9).collect(),
            parts: Vec::new().into_iter(),
        }
        .collect();
        let missed = all.iter().position(Result::is_err).unwrap();
        assert_eq!((all.len(), missed), (40, usize::try_from(lsn).unwrap() - 1), "an error in its place");
    }
}

#[test]
fn what_the_device_refuses_to_read_is_damage_and_what_it_refuses_once_is_not() {
    let disk = long_disk();
    let (batches, offsets) = second(&disk);
    let group = batches.last().unwrap().offset / 4096 * 4096;
    for (times, lost) in [(1, 0), (u64::MAX, 1)] {
        let mut disk = disk.clone();
        disk.fail_reads(&segment_name(2), offsets..offsets + 1, times);
        disk.fail_reads(&segment_name(2), group..group + 4096, times);
        let found = verify_folded(&mut disk);
        assert_eq!((found.batches_good, found.damaged().len()), (40 - lost, usize::try_from(lost).unwrap()));
    }
}

#[test]
fn a_group_that_rots_behind_a_good_footer_is_told_and_nothing_is_missing() {
    let mut disk = long_disk();
    assert_eq!(verify_io(&mut disk).unwrap().findings, []);
    let (batches, _) = second(&disk);
    let group = batches[2].offset / 4096 * 4096;
    assert!(disk.flip_bit(&segment_name(2), (group + 40) * 8));
    let found = verify_io(&mut disk).unwrap();
    assert!(found.is_good() && found.batches_good == 40);
    let [finding] = found.findings[..] else { panic!("{found:?}") };
    assert_eq!((finding.row, finding.segment, finding.offset), (GroupRow::G4, 2, group));
}

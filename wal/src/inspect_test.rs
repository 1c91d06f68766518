use std::cell::Cell;

use super::*;
use crate::core::{Entry, LogCore, Options};
use crate::format::batch::{BatchBuilder, BatchKind};
use crate::format::block::{Block, Compression};
use crate::format::footer::{TRAILER_BYTES, Trailer};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::io::{IoFailure, LockOutcome, execute, read_exact};
use crate::vdisk::VirtualDisk;

const LOG: LogId = LogId::new(1);
const SEGMENT: u64 = 64 << 10;

fn options() -> Options {
    Options { segment_bytes: SEGMENT, segments_ahead: 1, ..Options::default() }
}

/// Appends a batch of one record in a group of its own, durably.
fn append(core: &mut LogCore, io: &mut dyn Io, log: LogId, bytes: usize) {
    let block = Block::encode(vec![7; bytes].into(), 1, Compression::Never);
    let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), core.end(log), 0).block(block);
    submit(core, io, Entry::Batch(batch.seal().unwrap()));
}

/// Submits an entry, and does all there is to do.
fn submit(core: &mut LogCore, io: &mut dyn Io, entry: Entry) {
    core.submit(vec![entry]).unwrap();
    while let Some(request) = core.poll_io() {
        let result = execute(io, &request);
        core.on_io(request.id, result);
    }
}

/// Forty batches in several segments.
fn long_disk() -> VirtualDisk {
    let mut disk = VirtualDisk::new();
    let (mut core, _) = LogCore::recover(&mut disk, &options()).unwrap();
    (0..40).for_each(|_| append(&mut core, &mut disk, LOG, 4000));
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
    // Nothing repeats the last group within its segment, and the next one's first group is lost too; of two others in a row, the second only is repeated.
    for (lost, told) in [(vec![last], last), (vec![2, 3], 2)] {
        let mut disk = disk.clone();
        assert!(disk.flip_bit(&segment_name(2), offsets * 8));
        assert!(told != last || disk.flip_bit(&segment_name(3), (4096 + 130) * 8));
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

/// A disk on which a log is at work: so much is done before a file is read.
struct Beside<W> {
    disk: VirtualDisk,
    core: LogCore,
    work: W,
}

impl<W: FnMut(&mut LogCore, &mut VirtualDisk, &str)> Io for Beside<W> {
    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        (self.work)(&mut self.core, &mut self.disk, name);
        self.disk.read_at(name, offset, buffer)
    }
    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.disk.list()
    }
    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.disk.len(name)
    }
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        unreachable!("a guest takes no lock")
    }
    fn create(&mut self, _: &str) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn write_at(&mut self, _: &str, _: u64, _: &[bytes::Bytes]) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn sync_data(&mut self, _: &str) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn rename(&mut self, _: &str, _: &str) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn remove(&mut self, _: &str) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn settle(&mut self, _: &str) -> Result<(), IoFailure> {
        unreachable!("a guest changes nothing")
    }
    fn entropy(&mut self) -> u64 {
        unreachable!("a guest makes nothing")
    }
    fn process_id(&self) -> u32 {
        unreachable!("a guest takes no lock")
    }
}

#[test]
fn a_segment_that_grows_while_it_is_read_is_not_damaged() {
    for begun in 1..=12 {
        let beside = || {
            let mut disk = VirtualDisk::new();
            let options = Options { segment_bytes: 12 << 20, ..Options::default() };
            let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
            (0..begun).for_each(|_| append(&mut core, &mut disk, LOG, 100_000));
            // An image is read in pieces of 1 MiB. Here and there one ends before what the next one proves.
            let work = |core: &mut LogCore, disk: &mut VirtualDisk, name: &str| {
                if name == segment_name(1) && core.stats().active_segment == 1 {
                    (0..4).for_each(|_| append(core, disk, LOG, 100_000));
                }
            };
            Beside { disk, core, work }
        };
        let once = look_once(&mut beside(), batches_max()).unwrap().replay.report;
        assert!(once.is_intact() && once.findings.is_empty(), "{begun}: {once:?}");
        let found = verify_io(&mut beside()).unwrap();
        assert!(found.is_good() && found.report.findings.is_empty(), "{begun}: {found:?}");
        assert!(found.batches_good > begun, "what was there before is seen");
        let seen = inspect_io(&mut beside()).unwrap();
        assert!(seen.report.is_intact() && seen.segments.iter().all(|segment| segment.findings.is_empty()), "{begun}");
    }
}

#[test]
fn what_is_given_up_and_used_again_while_it_is_looked_at_is_not_damaged() {
    const OTHER: LogId = LogId::new(2);
    // Before the first look, or between it and the reading; with a little that lives on, or nothing.
    for (is_late, is_compacted) in [(false, false), (false, true), (true, false), (true, true)] {
        let told = format!("late: {is_late}, compacted: {is_compacted}");
        let mut disk = VirtualDisk::new();
        let options = Options { slack_segments: 0, ..options() };
        let (mut core, _) = LogCore::recover(&mut disk, &options).unwrap();
        for i in 0..60 {
            append(&mut core, &mut disk, LOG, 4000);
            if is_compacted && i % 8 == 0 {
                append(&mut core, &mut disk, OTHER, 100);
            }
        }
        let (is_begun, is_done) = (Cell::new(!is_late), Cell::new(false));
        let mut reads = 0;
        let work = |core: &mut LogCore, disk: &mut VirtualDisk, name: &str| {
            reads += u32::from(name.ends_with(".seg"));
            if is_begun.get() && reads > 3 && !is_done.replace(true) {
                let before = core.end(LOG).lsn.next();
                submit(core, disk, Entry::Release { log: LOG, before });
                (0..30).for_each(|_| append(core, disk, LOG, 4000));
                let stats = core.stats();
                assert_eq!((stats.retired > 0, stats.compactions > 0), (true, is_compacted));
            }
        };
        let io = &mut Beside { disk, core, work };
        let found = verify_with(io, &mut |_| is_begun.set(true)).expect(&told);
        assert!(is_done.get() && found.is_good() && found.findings.is_empty(), "{told}: {found:?}");
        assert!(is_late || found.batches_good > 0, "{told}");
    }
}

#[test]
fn a_segment_that_was_compacted_is_gone_also_for_who_has_its_old_file_open() {
    const OTHER: LogId = LogId::new(2);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RealIo::new(dir.path());
    let options = Options { slack_segments: 0, ..options() };
    let (mut core, _) = LogCore::recover(&mut writer, &options).unwrap();
    for i in 0..60 {
        append(&mut core, &mut writer, LOG, 4000);
        if i % 8 == 0 {
            append(&mut core, &mut writer, OTHER, 100);
        }
    }
    let [mut guest, mut other] = [(); 2].map(|()| RealIo::read_only(dir.path()));
    let survey = look_once(&mut guest, batches_max()).unwrap();
    look_once(&mut other, batches_max()).unwrap();
    let before = core.end(LOG).lsn.next();
    submit(&mut core, &mut writer, Entry::Release { log: LOG, before });
    (0..30).for_each(|_| append(&mut core, &mut writer, LOG, 4000));
    assert!(core.stats().compactions > 0);

    let salt = |io: &mut RealIo, number: u64| {
        let block = read_exact(io, &segment_name(number), 0, SEGMENT_HEADER_BYTES).ok()?;
        SegmentHeader::decode(&block).ok().map(|header| header.salt)
    };
    let replaced: Vec<u64> = survey
        .headers
        .iter()
        .filter_map(|(number, header)| {
            salt(&mut writer, *number).is_some_and(|salt| salt != header.salt).then_some(*number)
        })
        .collect();
    assert!(!replaced.is_empty());
    let later = look_with(&mut other, batches_max()).unwrap();
    for number in replaced {
        assert_eq!(salt(&mut guest, number), Some(survey.headers[&number].salt), "it is still open");
        assert!(survey.is_gone(&mut guest, number).unwrap());
        assert_eq!(salt(&mut writer, number), Some(later.headers[&number].salt), "another look sees what is there now");
    }
}

#[test]
fn one_look_serves_the_view_the_logs_and_the_batches_as_often_as_wanted() {
    let mut disk = long_disk();
    let view = inspect_io(&mut disk.clone()).unwrap();
    let survey = look_with(&mut disk, 0).unwrap();
    // Whoever looked once has seen it: what is gone now is not asked for.
    disk.remove("MANIFEST").unwrap();
    let (wanted, segments, parts) = (Wanted::default(), VecDeque::new(), Vec::new().into_iter());
    let mut batches = Batches { io: disk, survey, wanted, segments, parts };
    assert_eq!(batches.logs(), [(LOG, Lsn::FIRST, Lsn::new(40), 40)]);
    for _ in 0..2 {
        batches.restart(wanted);
        assert_eq!(batches.by_ref().filter(Result::is_ok).count(), 40);
        batches.restart(Wanted { log: Some(LOG), from: Lsn::new(30), ..wanted });
        assert_eq!(batches.by_ref().next().unwrap().unwrap().first_lsn(), Lsn::new(30));
    }
    let mut numbers = Vec::new();
    let seen = batches.directory(&mut |segment| {
        numbers.push(segment.number);
        if segment.number < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert_eq!((seen.unwrap().directory_uuid, numbers), (view.directory_uuid, vec![1, 2, 3]));
}

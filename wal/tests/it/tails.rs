//! Following a log's end, reading it from memory, and verifying it while it works.

use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use towline_wal::{
    Batch, DamagedRange, Entry, Epoch, FaultClass, LogPosition, Lsn, Options, ReadError, SubmitError, Tail, TailError,
    Verified, Wal, WalError,
};

use crate::world::{World, batch, log};

fn small() -> Options {
    Options { segment_bytes: 1 << 20, segments_ahead: 1, ..Options::default() }
}

fn append(wal: &Wal, n: u64, bytes: usize) -> LogPosition {
    let end = wal.end(log(n));
    let next = batch(log(n), end, end.epoch.max(Epoch::new(1, 1)), 1, bytes);
    let at = next.position();
    wal.append(next).unwrap();
    at
}

const LONG: Duration = Duration::from_secs(60);

fn read_to(tail: &mut Tail<'_>, last: u64) -> usize {
    let mut count = 0;
    while tail.next_lsn() <= Lsn::new(last) {
        let batches = tail.next_within(4000, LONG).unwrap();
        assert!(!batches.is_empty(), "nothing came in a minute");
        count += batches.len();
    }
    count
}

#[test]
fn a_tail_gets_everything_once_and_in_order_from_where_it_began() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    for _ in 0..5 {
        append(&wal, 1, 1000);
    }
    std::thread::scope(|scope| {
        for from in [1, 3, 6, 100] {
            let mut tail = wal.tail(log(1), Lsn::new(from));
            scope.spawn(move || assert_eq!(read_to(&mut tail, 200), 201 - usize::try_from(from).unwrap()));
        }
        let mut other = wal.tail(log(2), Lsn::FIRST);
        for _ in 0..195 {
            append(&wal, 1, 1000);
        }
        assert_eq!(other.next_within(100, Duration::from_millis(1)), Ok(Vec::new()), "nothing came for that log");
    });
}

#[test]
fn a_tail_waits_as_a_future_and_hears_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    append(&wal, 1, 100);
    let mut tail = wal.tail(log(1), Lsn::FIRST);
    std::thread::scope(|scope| {
        let follower = scope.spawn(move || {
            let mut count = 0;
            loop {
                match pollster(tail.next(1 << 20)) {
                    Ok(batches) => count += batches.len(),
                    Err(end) => return (count, end),
                }
            }
        });
        append(&wal, 1, 100);
        append(&wal, 1, 100);
        wal.close().unwrap();
        let (count, end) = follower.join().unwrap();
        assert_eq!((count, end.class()), (3, FaultClass::Reopen), "all there was, then the end");
        assert_eq!(end, TailError::Ended(WalError::Closed));
    });
}

/// Runs a future on this thread.
fn pollster<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn a_tail_hears_that_what_it_read_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let ends: Vec<LogPosition> = (0..5).map(|_| append(&wal, 1, 100)).collect();
    for regrown in [false, true] {
        let mut tail = wal.tail(log(1), Lsn::FIRST);
        read_to(&mut tail, 5);
        let at = wal.end(log(1));
        wal.truncate_suffix(log(1), ends[1]).unwrap();
        if regrown {
            let epoch = Epoch::new(1, 9);
            for _ in 0..5 {
                let next = batch(log(1), wal.end(log(1)), epoch, 1, 100);
                wal.append(next).unwrap();
            }
        }
        let cut = TailError::Cut { log: log(1), at };
        assert_eq!(tail.next_within(1 << 20, LONG), Err(cut.clone()));
        assert_eq!((cut.code(), cut.class()), ("TW-1105", FaultClass::FixRequest));
        while !regrown && wal.end(log(1)).lsn < Lsn::new(5) {
            append(&wal, 1, 100);
        }
    }
    wal.release(log(1), Lsn::new(4)).unwrap();
    let released = TailError::Read(ReadError::Released { log: log(1), start: Lsn::new(3) });
    assert_eq!((released.code(), released.class()), ("TW-1102", FaultClass::FixRequest));
    assert_eq!(wal.tail(log(1), Lsn::FIRST).next_within(1, LONG), Err(released));
}

#[test]
fn the_newest_batches_are_read_from_memory_and_are_the_right_ones() {
    let mut world = World::new();
    world.append_synced(log(1), 10, 500);
    let plan = world.core.plan_read(log(1), Lsn::new(8), 1 << 20).unwrap();
    assert!(plan.iter().all(|extent| world.core.cached(extent).unwrap() == extent.read(&mut world.disk).unwrap()));
    // Cut off and written anew: the old one is still in memory, and is not taken for the new one.
    let to = world.core.position_at(log(1), Lsn::new(8)).unwrap();
    let next = batch(log(1), to, Epoch::new(1, 7), 1, 500);
    world.submit(vec![Entry::Truncate { log: log(1), to }, Entry::Batch(next.clone())]).unwrap();
    world.run();
    let plan = world.core.plan_read(log(1), Lsn::new(9), 1 << 20).unwrap();
    assert_eq!(plan.iter().map(|extent| world.core.cached(extent)).collect::<Vec<_>>(), [Some(next)]);
    assert!(world.core.stats().tail_cache_bytes > 5000);
}

/// D12 and D13: found by a scrub while the log works, and answered `Corrupt`.
#[test]
fn a_log_that_works_is_verified_and_its_damage_named() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing from memory: a verification is about the files.
    let (wal, _) = Wal::open(dir.path(), Options { tail_cache_bytes: 0, ..small() }).unwrap();
    for _ in 0..60 {
        append(&wal, 1, 20_000);
        append(&wal, 2, 20_000);
    }
    let mut looks = 0;
    let verified = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                append(&wal, 3, 1000);
            }
        });
        wal.verify(u64::MAX, |_| {
            looks += 1;
            ControlFlow::Continue(())
        })
    })
    .unwrap();
    assert!(verified.damaged.is_empty() && verified.batches >= 120 && verified.bytes > 120 * 20_000);
    assert!(looks >= 2);
    let stopped = wal.verify(u64::MAX, |_| ControlFlow::Break(())).unwrap();
    assert!(stopped.batches < verified.batches);

    let file = dir.path().join("0000000000000001.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let verified = wal.verify(u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    let [damaged] = &verified.damaged[..] else { panic!("one batch is damaged: {:?}", verified.damaged) };
    assert_eq!(damaged.file, "0000000000000001.seg");
    assert!((damaged.offset..damaged.offset + 21_000).contains(&u64::try_from(at).unwrap()));
    assert!(matches!(wal.read(damaged.log, damaged.first, 1), Err(ReadError::Corrupt { .. })));
}

/// As a scrub does that has a pace of its own, and begins in the middle.
#[test]
fn a_log_is_verified_part_by_part_each_batch_once_and_what_is_appended_meanwhile_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { tail_cache_bytes: 0, ..small() }).unwrap();
    let boundaries: Vec<_> = (0..150).map(|_| append(&wal, 1, 20_000).lsn).collect();
    let (middle, end) = (boundaries[70], boundaries[149]);
    let file = dir.path().join("0000000000000001.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    for _ in 0..2 {
        let (mut parts, mut batches, mut damaged) = (0, 0, Vec::new());
        for (from, to) in [(middle.next(), end), (Lsn::FIRST, middle)] {
            let mut next = Some(from);
            while let Some(from) = next {
                let (verified, behind) = wal.verify_part(log(1), from, to).unwrap();
                assert!(behind.is_none_or(|behind| behind > from && behind <= to));
                (parts, batches, next) = (parts + 1, batches + verified.batches, behind);
                damaged.extend(verified.damaged);
                append(&wal, 1, 20_000);
            }
        }
        // Also when it is known.
        assert_eq!((batches, damaged.len()), (149, 1));
        assert!(parts >= 4, "about a MiB at a time: {parts}");
    }
    assert_eq!(wal.verify_part(log(7), Lsn::FIRST, Lsn::MAX).unwrap(), (Verified::default(), None));
    wal.close().unwrap();
    assert_eq!(wal.verify_part(log(1), Lsn::FIRST, end), Err(WalError::Closed));
}

#[test]
fn a_verification_names_what_the_device_refuses_and_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 << 10, index_bytes_max: 0, tail_cache_bytes: 0, ..small() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    while wal.stats().rotations < 80 {
        append(&wal, 1, 9000);
    }
    let verify = || wal.verify(u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    // More segments than files are kept open: the third is opened anew when it is read.
    let (file, aside) = (dir.path().join("0000000000000003.seg"), dir.path().join("aside"));
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let verified = verify();
    let [range] = &verified.damaged[..] else { panic!("{verified:?}") };
    let records = range.first.distance_to(range.last).unwrap() + 1;
    assert_eq!((range.log, range.file.as_str(), range.offset), (log(1), "0000000000000003.seg", 0));
    assert_eq!(verified.batches + records, wal.end(log(1)).lsn.get(), "all others are read, those behind it too");
    assert_eq!(wal.damaged(log(1)), [], "which batches it holds nobody knows, and the device may come back");
    assert!(matches!(wal.read(log(1), range.first, 1), Err(ReadError::Io(_))));
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    assert!(verify().damaged.is_empty(), "nothing of it is remembered");
}

/// A log of which a footer is gone, and groups with what the next ones repeat of them; and what it held.
fn without_names(dir: &Path, batch_bytes: usize) -> (Wal, Vec<Batch>) {
    zeroed(dir, batch_bytes, 24 << 10..64 << 10)
}

/// The same, and which bytes of a segment, beside the footer.
fn zeroed(dir: &Path, batch_bytes: usize, bytes: Range<u64>) -> (Wal, Vec<Batch>) {
    let options = Options { segment_bytes: 64 << 10, index_bytes_max: 0, tail_cache_bytes: 0, ..small() };
    let (wal, _) = Wal::open(dir, options).unwrap();
    let mut batches = Vec::new();
    while wal.stats().rotations < 80 {
        // Some epochs begin and end in what is lost.
        let epoch = Epoch::new(1, u32::try_from(1 + batches.len() / 4).unwrap());
        let next = batch(log(1), wal.end(log(1)), epoch, 1, batch_bytes);
        batches.push(next.clone());
        wal.append(next).unwrap();
    }
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("0000000000000003.seg")).unwrap();
    for Range { start, end } in [bytes, 60 << 10..64 << 10] {
        file.write_all_at(&vec![0; usize::try_from(end - start).unwrap()], start).unwrap();
    }
    (wal, batches)
}

/// Whoever began to read in its middle had it noted from there on, and what comes before was neither a batch nor damage: so nobody was
/// asked for it, nor for the rest, which follows it.
#[test]
fn a_reader_that_begins_in_the_middle_of_what_nothing_names_has_all_of_it_noted() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, batches) = without_names(dir.path(), 2000);
    // Not one of which something tells where it lay.
    let (first, last) = unnamed(&wal);
    let noted = wal.damaged(log(1));
    assert!(first < last && wal.position_at(log(1), first.prev()).is_some(), "{noted:?}");
    let again = |lsn: u64| Entry::Mend(batches[usize::try_from(lsn).unwrap() - 1].clone());
    let lost = noted.iter().flat_map(|(first, to)| first.get()..=to.get());
    wal.submit(lost.map(again).collect()).unwrap().wait().unwrap();
    assert_eq!(wal.damaged(log(1)), []);
    let read = wal.read(log(1), first, 1).unwrap();
    assert!(read[..] == batches[usize::try_from(first.get()).unwrap() - 1..][..1], "byte by byte");
}

/// The last range that nothing names, from one LSN to another; all that comes before it has been read, and noted.
fn unnamed(wal: &Wal) -> (Lsn, Lsn) {
    let is_lost = |lsn: &u64| matches!(wal.read(log(1), Lsn::new(*lsn), 1), Err(ReadError::Corrupt { offset: 0, .. }));
    let last = (1..=wal.end(log(1)).lsn.get()).rev().find(is_lost).map(Lsn::new).unwrap();
    *wal.damaged(log(1)).iter().find(|(first, to)| *first <= last && last <= *to).unwrap()
}

fn epochs_rise(wal: &Wal) -> bool {
    let start = wal.start_of(log(1));
    let epochs = wal.epochs(log(1));
    epochs.is_sorted_by(|(a, at), (b, next)| a < b && at < next)
        && epochs.first().is_some_and(|(epoch, first)| *epoch >= start.epoch && *first == start.lsn.next())
}

/// Nobody has it any more but the state of whoever owns the log. A release needs a batch that is known to end there, and the next one
/// that is may not be what the state has.
#[test]
fn a_log_begins_where_its_owner_says_in_what_nothing_names_and_nowhere_else() {
    // To the segment's end, or with good batches behind it.
    for (is_mended, end) in [(false, 64), (true, 64), (false, 48), (true, 48)] {
        let dir = tempfile::tempdir().unwrap();
        let (wal, batches) = zeroed(dir.path(), 2000, 24 << 10..end << 10);
        let (first, last) = unnamed(&wal);
        // The last batch of an epoch: what comes next begins another one. Or one of an epoch that began in what is lost, and goes on behind.
        let place = if end == 64 { (first.get() + 6) / 4 * 4 } else { first.get() + 3 };
        assert!(place < last.get(), "{first} to {last}");
        let held = |lsn: u64| &batches[usize::try_from(lsn).unwrap() - 1];
        let at = held(place).position();
        let refused = |at: LogPosition| {
            let error = WalError::Refused(SubmitError::NotABoundary { log: log(1), to: at });
            assert_eq!(wal.begin_at(log(1), at), Err(error), "{at}");
        };
        refused(LogPosition { epoch: held(last.get() + 9).epoch(), ..at });
        refused(LogPosition { epoch: Epoch::new(1, 1), ..at });
        refused(LogPosition { lsn: last.next(), ..at });
        refused(LogPosition { lsn: wal.end(log(1)).lsn.next(), ..at });
        let known = wal.position_at(log(1), last.next()).unwrap();
        refused(LogPosition { epoch: Epoch::new(1, 2), ..known });
        wal.begin_at(log(1), at).unwrap();
        wal.begin_at(log(1), held(first.get() + 1).position()).unwrap();
        assert_eq!(wal.start_of(log(1)), at, "it goes no way back");
        assert!(epochs_rise(&wal), "{:?}", &wal.epochs(log(1))[..3]);
        assert!(matches!(wal.read(log(1), at.lsn, 1), Err(ReadError::Released { start, .. }) if start == at.lsn));
        assert_eq!(wal.damaged(log(1)).first(), Some(&(at.lsn.next(), last)));
        wal.verify(u64::MAX, |_| ControlFlow::Continue(())).unwrap();
        let mend_all = |wal: &Wal| {
            let again = wal.damaged(log(1)).into_iter().flat_map(|(first, last)| first.get()..=last.get());
            wal.submit(again.map(|lsn| Entry::Mend(held(lsn).clone())).collect()).unwrap().wait().unwrap();
            assert_eq!((wal.damaged(log(1)), epochs_rise(wal)), (vec![], true), "{:?}", &wal.epochs(log(1))[..3]);
        };
        if is_mended {
            mend_all(&wal);
        }
        let (end, damaged) = (wal.end(log(1)), wal.damaged(log(1)));
        wal.close().unwrap();
        let (wal, _) = Wal::open(dir.path(), Options { index_bytes_max: 0, ..small() }).unwrap();
        assert_eq!((wal.start_of(log(1)), wal.end(log(1)), wal.damaged(log(1))), (at, end, damaged));
        assert!(epochs_rise(&wal), "{:?}", &wal.epochs(log(1))[..3]);
        if !is_mended {
            mend_all(&wal);
        }
        let mut read = wal.read(log(1), at.lsn.next(), usize::MAX).unwrap();
        while let Some(next) = read.last().map(|last| last.last_lsn().next()).filter(|next| *next <= end.lsn) {
            read.extend(wal.read(log(1), next, usize::MAX).unwrap());
        }
        let left = &batches[usize::try_from(at.lsn.get()).unwrap()..];
        assert_eq!(read.len(), left.len(), "{is_mended} {at} {last} {:?}", read.last().map(Batch::position));
        assert!(read[..] == *left, "byte by byte");
        wal.close().unwrap();
    }
}

/// A scrub named the range, and whoever looked at the log's damage found none, so nobody asked for it.
#[test]
fn d12_what_no_footer_and_no_group_names_is_damage_that_can_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, batches) = without_names(dir.path(), 9000);
    let verify = || wal.verify(u64::MAX, |_| ControlFlow::Continue(())).unwrap();
    let verified = verify();
    let is_gap = |range: &&DamagedRange| (range.file.as_str(), range.offset) == ("0000000000000003.seg", 0);
    assert_eq!(verified.damaged.iter().filter(is_gap).count(), 1, "nothing tells where it lies: {verified:?}");
    let told = wal.damaged(log(1));
    let is_told = |lsn: u64| told.iter().any(|(first, last)| first.get() <= lsn && last.get() >= lsn);
    let lost: Vec<u64> = verified.damaged.iter().flat_map(|range| range.first.get()..=range.last.get()).collect();
    assert!(lost.iter().all(|lsn| is_told(*lsn)), "{told:?} of {verified:?}");
    assert_eq!(verify().damaged.len(), told.len(), "each once, also when it is known");
    // Another copy has it.
    let again = |lsn: &u64| Entry::Mend(batches[usize::try_from(*lsn).unwrap() - 1].clone());
    wal.submit(lost.iter().map(again).collect()).unwrap().wait().unwrap();
    assert_eq!((wal.damaged(log(1)), verify().damaged), (vec![], vec![]));
    assert!(wal.read(log(1), Lsn::FIRST, usize::MAX).unwrap() == batches, "byte by byte");
}

#[test]
fn what_a_log_needs_no_more_is_said_by_calls_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let at = append(&wal, 1, 100);
    append(&wal, 1, 100);
    wal.sync().unwrap();
    wal.truncate_suffix(log(1), at).unwrap();
    wal.release(log(1), Lsn::new(2)).unwrap();
    assert_eq!(wal.start_of(log(1)), at);
    let anchor = LogPosition { lsn: Lsn::new(50), ..at };
    wal.reset(log(1), anchor).unwrap();
    assert_eq!(wal.end(log(1)), anchor);
    wal.remove_log(log(1)).unwrap();
    let unknown = SubmitError::UnknownLog { log: log(1) };
    assert_eq!(wal.remove_log(log(1)), Err(WalError::Refused(unknown)));
    wal.close().unwrap();
    assert_eq!(wal.sync(), Err(WalError::Closed));
}

//! The log on real files, with its threads.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use towline_wal::{Entry, Epoch, LogPosition, Lsn, OpenError, Options, SubmitError, Wal, WhenFull, inspect};

use crate::world::{batch, log};

fn small() -> Options {
    Options { segment_bytes: 1 << 20, segments_ahead: 1, ..Options::default() }
}

fn append(wal: &Wal, n: u64, bytes: usize) -> LogPosition {
    let end = wal.end(log(n));
    let next = batch(log(n), end, Epoch::new(1, 1), 1, bytes);
    let at = next.position();
    wal.append(next).unwrap();
    at
}

#[test]
fn many_threads_append_and_read_and_everything_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert!(report.created && report.clean_close && report.writable);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let wal = &wal;
            scope.spawn(move || {
                for i in 1..=50 {
                    assert_eq!(append(wal, n, 1000).lsn, Lsn::new(i));
                    assert_eq!(wal.durable_end(log(n)).lsn, Lsn::new(i));
                }
                assert_eq!(wal.read(log(n), Lsn::FIRST, 1 << 20).unwrap().len(), 50);
            });
        }
    });
    let ends: Vec<LogPosition> = (0..16).map(|n| wal.end(log(n))).collect();
    assert!(wal.stats().syncs <= wal.stats().submissions);
    drop(wal);
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert!(!report.clean_close && report.is_intact() && report.findings.is_empty());
    assert_eq!((0..16).map(|n| wal.end(log(n))).collect::<Vec<_>>(), ends);
    wal.close().unwrap();
    wal.close().unwrap();
    let verified = inspect::verify(dir.path()).unwrap();
    assert!(verified.is_good() && verified.report.clean_close);
    assert_eq!(verified.batches_good, 16 * 50);
    assert_eq!(inspect::batches(dir.path(), log(3)).unwrap().len(), 50);
}

#[test]
fn a_call_is_made_once_and_in_order_when_its_submission_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let (to, from) = mpsc::channel();
    let mut end = LogPosition::origin(log(1));
    for i in 0..100 {
        let next = batch(log(1), end, Epoch::new(1, 1), 1, 10);
        end = next.position();
        let to = to.clone();
        wal.submit_with(vec![Entry::Batch(next)], WhenFull::Refuse, move |result| to.send((i, result)).unwrap())
            .unwrap();
    }
    drop(to);
    let told: Vec<_> = from.iter().collect();
    assert_eq!(told, (0..100).map(|i| (i, Ok(()))).collect::<Vec<_>>());
}

/// O4.
#[test]
fn a_second_opener_is_told_the_pid_and_a_closed_log_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let refused = Wal::open(dir.path(), small()).unwrap_err();
    assert_eq!(refused, OpenError::Locked { pid: Some(std::process::id()) });
    assert!(refused.to_string().contains(&std::process::id().to_string()));
    wal.close().unwrap();
    assert_eq!(wal.submit(vec![]).unwrap_err(), SubmitError::Closed);
    let (again, report) = Wal::open(dir.path(), small()).unwrap();
    assert!(report.clean_close);
    assert_eq!(again.incarnation(), 2);
}

#[test]
fn files_are_private_to_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("wal");
    let (wal, _) = Wal::open(&inner, small()).unwrap();
    append(&wal, 1, 10);
    assert_eq!(std::fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&inner).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn inspection_beside_a_running_writer_takes_no_lock_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let appended = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                append(&wal, 1, 5000);
                appended.fetch_add(1, Ordering::Release);
            }
        });
        for _ in 0..5 {
            let before = appended.load(Ordering::Acquire);
            let seen = inspect::verify(dir.path()).unwrap();
            assert!(seen.batches_good >= before, "what was acknowledged is seen");
            assert!(seen.report.is_intact());
        }
    });
    let logs = inspect::logs(dir.path()).unwrap();
    assert_eq!(logs, [(log(1), Lsn::new(1), Lsn::new(200), 200)]);
}

#[test]
fn a_directory_that_is_not_a_log_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(inspect::inspect(dir.path()), Err(OpenError::Manifest { .. })));
    assert!(matches!(inspect::inspect(dir.path().join("missing")), Err(OpenError::Manifest { .. })));
}

#[test]
fn a_panic_in_a_call_is_not_the_logs() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for n in 0..20 {
        let next = batch(log(n), LogPosition::origin(log(n)), Epoch::new(1, 1), 1, 10);
        wal.submit_with(vec![Entry::Batch(next)], WhenFull::Refuse, |_| panic!("the caller's")).unwrap();
    }
    append(&wal, 99, 10);
    std::panic::set_hook(hook);
    wal.close().unwrap();
}

#[test]
fn a_call_may_be_the_last_to_hold_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let wal = Arc::new(wal);
    let (to, from) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let next = batch(log(1), LogPosition::origin(log(1)), Epoch::new(1, 1), 1, 10);
    let held = Arc::clone(&wal);
    let call = move |result| {
        gone.recv().unwrap();
        drop(held);
        to.send(result).unwrap();
    };
    wal.submit_with(vec![Entry::Batch(next)], WhenFull::Refuse, call).unwrap();
    drop(wal);
    go.send(()).unwrap();
    assert_eq!(from.recv().unwrap(), Ok(()));
    // The threads end by themselves, and the directory is free.
    let opened = (0..1_000_000).any(|_| {
        std::thread::yield_now();
        Wal::open(dir.path(), small()).is_ok()
    });
    assert!(opened);
}

#[test]
fn every_close_says_what_the_first_came_to() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let closing: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (wal.close(), Wal::open(dir.path(), small()).is_ok()))).collect();
        closing.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|(closed, _)| closed.is_ok()));
    assert!(results.iter().any(|(_, opened)| *opened), "after a close returns, the lock is free");
}

#[test]
fn compaction_runs_beside_writers_and_readers() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { slack_segments: 0, segment_bytes: 256 << 10, ..small() };
    let (wal, _) = Wal::open(dir.path(), options.clone()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let kept = std::thread::scope(|scope| {
        let (wal, done) = (&wal, &done);
        let reader = scope.spawn(move || {
            let mut rounds = 0_u64;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                let mut next = Lsn::FIRST;
                loop {
                    // A segment that is replaced or gone while it is read must not be seen by who reads.
                    let batches = wal.read(log(2), next, 10_000).unwrap();
                    let Some(last) = batches.last() else { break };
                    assert_eq!(batches[0].first_lsn(), next);
                    next = last.last_lsn().next();
                }
                rounds += 1;
            }
        });
        let mut kept = 0;
        while wal.stats().compactions < 3 && kept < 2000 {
            append(wal, 2, 500);
            kept += 1;
            let end = (0..12).map(|_| append(wal, 1, 20_000)).last().unwrap();
            wal.release(log(1), end.lsn).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        kept
    });
    let stats = wal.stats();
    assert!(stats.compactions >= 3 && stats.compactions_failed == 0, "{stats:?}");
    wal.close().unwrap();
    let (wal, report) = Wal::open(dir.path(), options).unwrap();
    assert!(report.is_intact() && report.clean_close, "{report:?}");
    let read: usize = wal.read(log(2), Lsn::FIRST, usize::MAX).unwrap().len();
    assert_eq!(u64::try_from(read).unwrap(), kept);
}

#[test]
fn a_log_closes_at_once_though_a_compaction_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Options { slack_segments: 0, background_bytes_per_second: 1, segment_bytes: 256 << 10, ..small() };
    let (wal, _) = Wal::open(dir.path(), slow.clone()).unwrap();
    for _ in 0..6 {
        append(&wal, 2, 500);
        let end = (0..12).map(|_| append(&wal, 1, 20_000)).last().unwrap();
        wal.release(log(1), end.lsn).unwrap();
    }
    wal.close().unwrap();
    assert_eq!(wal.stats().compactions, 0);
    let (wal, report) = Wal::open(dir.path(), slow).unwrap();
    assert!(report.is_intact() && report.clean_close);
    assert_eq!(wal.read(log(2), Lsn::FIRST, usize::MAX).unwrap().len(), 6);
}

/// D27: of files that are open; the segments themselves are counted in `decay`.
#[test]
#[cfg(target_os = "linux")]
fn a_log_of_many_segments_leaves_the_process_its_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 << 10, ..small() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    while wal.stats().rotations < 100 {
        append(&wal, 1, 9000);
    }
    let mut next = Lsn::FIRST;
    while let Some(batch) = wal.read(log(1), next, 1).unwrap().pop() {
        next = batch.last_lsn().next();
    }
    let own = dir.path().to_owned();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let count = open.filter(|file| file.starts_with(&own)).count();
    assert!(count <= 70, "{count} files are open");
}

#[test]
fn what_was_started_comes_before_what_the_same_thread_does_next() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let mut end = LogPosition::origin(log(1));
    let mut next = || {
        let batch = batch(log(1), end, Epoch::new(1, 1), 1, 100);
        end = batch.position();
        batch
    };
    for round in 1..=200 {
        let started = wal.start_append(next()).unwrap();
        // It follows what was started, which may not have been looked at yet.
        let submitted = wal.submit(vec![Entry::Batch(next())]).unwrap();
        let last = wal.start_append(next()).unwrap();
        wal.sync().unwrap();
        assert_eq!(wal.durable_end(log(1)).lsn, Lsn::new(3 * round), "a sync is behind all of them");
        for pending in [started, submitted, last] {
            pending.wait().unwrap();
        }
    }
    let under_way: Vec<_> = (0..50).map(|_| wal.start_append(next()).unwrap()).collect();
    wal.close().unwrap();
    under_way.into_iter().for_each(|pending| pending.wait().unwrap());
    assert_eq!(wal.durable_end(log(1)).lsn, Lsn::new(650));
    assert!(matches!(wal.start_append(next()), Err(SubmitError::Closed)));
}

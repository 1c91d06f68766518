//! Backups: taken while the node serves, whole or refused, and everything that was promised is there again.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use towline::model::request::FailureClass;
use towline::model::{Expect, Filter, Outcome, Policy, Read, Rejection, Retention, Scan, Since, Write};
use towline::node::{
    BackupError, BackupOptions, FollowerOptions, NamespaceOptions, Node, NodeOptions, ReadError, restore, verify_backup,
};

fn open(directory: &Path) -> Node {
    Node::open(NodeOptions::alone(directory)).unwrap()
}

fn places(directory: &tempfile::TempDir) -> (PathBuf, PathBuf, PathBuf) {
    let at = |name| directory.path().join(name);
    (at("data"), at("backup"), at("again"))
}

#[test]
fn i5_a_restored_node_has_values_history_sessions_followers_and_namespaces_and_writes_another_history() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, again) = places(&directory);
    let node = open(&data);
    let forever = Policy { retention: Retention::Forever, ..Policy::default() };
    let options = NamespaceOptions::default().policy(forever).split_at(["m"]);
    let space = node.create_namespace("space", &options).unwrap();
    for key in ["a", "z"] {
        space.put(key, "1").unwrap().wait().unwrap();
        space.append(key, Expect::Any, "event").unwrap().wait().unwrap();
    }
    let session = space.open_session().unwrap();
    let number = session.next_number().unwrap();
    let kept = session.state();
    let write = Write::new().append("s", Expect::Any, "once");
    let first = session.retry(number, &write).unwrap().wait().unwrap();
    let mut follower = space.follow("mailer", &FollowerOptions::since(Since::Beginning)).unwrap();
    follower.wait().unwrap();
    follower.acknowledge().unwrap();
    let digests = space.digest().unwrap();
    let report = node.backup(&backup, &BackupOptions::default()).unwrap();
    assert_eq!((report.namespaces, report.shards.len()), (2, 3));
    let late = space.put("late", "not in it").unwrap().wait().unwrap();
    node.close().unwrap();

    assert_eq!(verify_backup(&backup).unwrap(), report);
    assert_eq!(restore(&backup, &again).unwrap(), report);
    assert!(matches!(restore(&backup, &again), Err(BackupError::Exists(_))));
    let node = open(&again);
    let space = node.namespace("space").unwrap();
    assert_eq!(space.descriptor().policy, forever);
    for ((shard, at, digest), (of, before, expected)) in space.digest().unwrap().into_iter().zip(digests) {
        assert_eq!((shard, digest), (of, expected), "I4");
        assert!(at.lsn >= before.lsn);
    }
    assert!(space.get("late", Read::Linearizable).unwrap().is_none());
    assert_eq!(space.resume_session(kept).retry(number, &write).unwrap().wait().unwrap(), first, "not a second time");
    let mut feed = space.subscribe(Since::Beginning, Filter::All).unwrap();
    let count = std::iter::from_fn(|| feed.wait_for(Duration::ZERO).unwrap()).count();
    assert_eq!(count, 5, "the whole history");
    let mut follower = space.follow("mailer", &FollowerOptions::since(Since::Beginning)).unwrap();
    assert_eq!(std::iter::from_fn(|| follower.wait_for(Duration::ZERO).unwrap()).count(), 4);
    // As many records as the old node had: the same numbers, another history.
    for _ in 0..20 {
        space.put("b", "new").unwrap().wait().unwrap();
    }
    let stale = space.get("late", Read::AtLeast(late.token()));
    assert!(matches!(stale, Err(ReadError::PositionLost { .. })), "{stale:?}");
    node.close().unwrap();
    open(&again).close().unwrap();
}

#[test]
fn i5_a_session_of_the_history_that_was_lost_is_not_taken_for_one_of_the_restored() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, again) = places(&directory);
    let node = open(&data);
    node.backup(&backup, &BackupOptions::default()).unwrap();
    let lost = node.default_namespace().open_session().unwrap().state();
    node.close().unwrap();
    restore(&backup, &again).unwrap();
    let node = open(&again);
    let space = node.default_namespace();
    // As many as there are LSNs between the two: without the epoch in it one of them would have the id.
    let opened: Vec<_> = (0..8).map(|_| space.open_session().unwrap()).collect();
    let stale = space.resume_session(lost).write(Write::new().put("k", "lost")).unwrap().wait().unwrap();
    assert_eq!(stale.outcome, Outcome::Rejected(Rejection::SessionExpired));
    assert_eq!(opened[0].write(Write::new().put("k", "new")).unwrap().wait().unwrap().shard, stale.shard);
    node.close().unwrap();
}

#[test]
fn of_restorations_to_one_place_at_the_same_time_one_is_made_and_the_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, again) = places(&directory);
    let node = open(&data);
    node.default_namespace().put("k", "v").unwrap().wait().unwrap();
    node.backup(&backup, &BackupOptions::default()).unwrap();
    node.close().unwrap();
    let made = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..4).map(|_| scope.spawn(|| restore(&backup, &again))).collect();
        tries.into_iter().map(|one| one.join().unwrap()).filter(Result::is_ok).count()
    });
    assert_eq!(made, 1);
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    open(&again).close().unwrap();
}

#[test]
fn a_backup_that_is_taken_under_load_is_of_one_moment_in_each_shard() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, again) = places(&directory);
    let node = open(&data);
    let space = node.create_namespace("space", &NamespaceOptions::default().split_at(["m"])).unwrap();
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = std::thread::scope(|scope| {
        for key in ["a", "z"] {
            let (space, stop, acknowledged) = (&space, &stop, &acknowledged);
            scope.spawn(move || {
                let mut number = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    let value = number.to_string();
                    let write = Write::new().put(key, value.clone()).append(key, Expect::Any, value);
                    space.write(write).unwrap().wait().unwrap();
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while acknowledged.load(Ordering::SeqCst) < 200 {
            std::thread::yield_now();
        }
        let before = acknowledged.load(Ordering::SeqCst);
        node.backup(&backup, &BackupOptions::default()).unwrap();
        stop.store(true, Ordering::SeqCst);
        before
    });
    node.close().unwrap();
    restore(&backup, &again).unwrap();
    let node = open(&again);
    let space = node.namespace("space").unwrap();
    let mut there = 0;
    space
        .snapshot(Read::Linearizable, |snapshot| {
            for entry in snapshot.scan(&Scan::all())?.entries {
                let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                let bounds = (usize::MAX, usize::MAX);
                let read = snapshot.read_stream(&entry.key, 1, towline::model::request::Direction::Forward, bounds)?;
                assert_eq!((read.head, read.events.len() as u64), (number, number), "value and stream belong together");
                there += number;
            }
            Ok(())
        })
        .unwrap();
    assert!(there >= before, "I1: what was acknowledged before the backup began: {there} of {before}");
    node.close().unwrap();
}

#[test]
fn what_is_no_whole_backup_or_is_damaged_is_refused_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, again) = places(&directory);
    let node = open(&data);
    let space = node.default_namespace();
    for number in 0..100 {
        space.put(format!("key-{number}"), vec![7; 1000]).unwrap().wait().unwrap();
    }
    node.backup(&backup, &BackupOptions::default()).unwrap();
    assert!(matches!(node.backup(&backup, &BackupOptions::default()), Err(BackupError::Exists(_))));
    node.close().unwrap();
    let mut files = Vec::new();
    for folder in ["", "state", "log"] {
        for entry in fs::read_dir(backup.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 5);
    let refused = |what: &str| {
        assert!(verify_backup(&backup).is_err(), "{what}");
        assert!(restore(&backup, &again).is_err(), "{what}");
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{what}: {left:?}");
    };
    for path in files {
        let whole = fs::read(&path).unwrap();
        // A checkpoint shares its files with the state: the copy is changed, not the node's own.
        let replace = |content: &[u8]| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, content).unwrap();
        };
        if !whole.is_empty() {
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            replace(&flipped);
            refused(&format!("{} flipped", path.display()));
            replace(&whole[..whole.len() - 1]);
            refused(&format!("{} cut", path.display()));
        }
        fs::remove_file(&path).unwrap();
        refused(&format!("{} gone", path.display()));
        fs::write(&path, &whole).unwrap();
    }
    verify_backup(&backup).unwrap();
    restore(&backup, &again).unwrap();
    open(&again).close().unwrap();
    assert!(matches!(verify_backup(&data), Err(BackupError::NotABackup { .. })));
}

/// The story of a bug: what a feed called damage was an operator's matter to a backup.
#[test]
fn a_backup_of_a_damaged_log_is_not_made_and_says_that_it_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, _) = places(&directory);
    let mut options = NodeOptions::alone(&data);
    options.log.tail_cache_bytes = 0; // The newest batches come from the disk, too.
    let node = Node::open(options).unwrap();
    let value: Vec<u8> = (0..200_u32).map(|at| (at * 7919 % 251) as u8).collect();
    node.default_namespace().put("key", value.clone()).unwrap().wait().unwrap();
    let mut segments: Vec<_> = fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    let place = |path: &PathBuf| fs::read(path).unwrap().windows(16).position(|bytes| *bytes == value[..16]);
    let (path, at) = segments.iter().find_map(|path| Some((path, place(path)?))).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"rotten", at as u64).unwrap();

    let error = node.backup(&backup, &BackupOptions::default()).unwrap_err();
    assert!(matches!(&error, BackupError::Log(_)), "{error}");
    assert_eq!((error.code(), error.class()), (6307, FailureClass::Damage));
    assert!(!backup.exists());
    node.close().unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads clocks")]
fn a_backup_keeps_to_its_pace() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup, _) = places(&directory);
    let node = open(&data);
    for number in 0..20_u8 {
        let mut value = vec![0_u8; 10_000];
        value.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7919 % 251) as u8 ^ number);
        node.default_namespace().put(vec![number + 1], value).unwrap().wait().unwrap();
    }
    let (began, pace) = (Instant::now(), 2_000_000);
    let report = node.backup(&backup, &BackupOptions::default().bytes_per_second(pace)).unwrap();
    let least = Duration::from_secs_f64(report.bytes as f64 / pace as f64);
    assert!(began.elapsed() >= least.mul_f64(0.8), "{} bytes in {:?}", report.bytes, began.elapsed());
    node.close().unwrap();
}

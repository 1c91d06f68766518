//! What people and programs do to a directory of files behind a log's back.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use towline_wal::{Epoch, LogPosition, Lsn, OpenError, Options, SubmitError, Wal, WalError};

use crate::world::{batch, log};

fn small() -> Options {
    Options { segment_bytes: 256 << 10, segments_ahead: 1, ..Options::default() }
}

/// A log of four segments, closed in good order; each batch is a record of 20,000 bytes.
fn closed(dir: &Path) -> LogPosition {
    let (wal, _) = Wal::open(dir, small()).unwrap();
    while wal.stats().rotations < 4 {
        append(&wal).unwrap();
    }
    wal.close().unwrap();
    wal.end(log(1))
}

fn append(wal: &Wal) -> Result<(), WalError> {
    wal.append(batch(log(1), wal.end(log(1)), Epoch::new(1, 1), 1, 20_000))
}

/// The segment files that hold something, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    names.sort_unstable();
    names.truncate(4);
    names
}

fn bytes_of(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files.into_iter().filter(|path| !path.ends_with("LOCK")).map(|path| (path.clone(), fs::read(path).ok())).collect()
}

/// How many batches from the first on can be read, and whether what follows is called damage.
fn readable(wal: &Wal) -> (u64, bool) {
    let (mut next, mut count) = (Lsn::FIRST, 0);
    loop {
        match wal.read(log(1), next, 1) {
            Ok(batches) if batches.is_empty() => return (count, false),
            Ok(batches) => {
                next = batches.last().unwrap().last_lsn().next();
                count += u64::try_from(batches.len()).unwrap();
            }
            Err(_) => return (count, true),
        }
    }
}

#[test]
fn a_deleted_segment_is_missed_by_its_number_and_the_others_are_read() {
    for n in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let end = closed(dir.path());
        fs::remove_file(&segments(dir.path())[n]).unwrap();
        let before = bytes_of(dir.path());
        let missing = u64::try_from(n + 1).unwrap();
        match Wal::open(dir.path(), small()) {
            Ok((wal, report)) => {
                assert_eq!((report.segments_missing.clone(), report.cuts.len()), (vec![missing], 1), "{report:?}");
                let (count, is_damaged) = readable(&wal);
                assert!(is_damaged && count < end.lsn.get() && wal.end(log(1)) == end);
                assert!(wal.read(log(1), end.lsn, 1).unwrap().len() == 1, "the newest batch is served");
            }
            Err(OpenError::Missing { segment, .. }) => {
                assert_eq!(segment, missing);
                assert!(before == bytes_of(dir.path()), "a refused open changes nothing");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_truncated_file_is_damage_where_it_ended_and_the_rest_is_read() {
    for part in [0, 1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let end = closed(dir.path());
        let file = &segments(dir.path())[1];
        let len = fs::metadata(file).unwrap().len();
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(len * part / 4).unwrap();
        let before = bytes_of(dir.path());
        match Wal::open(dir.path(), small()) {
            Ok((wal, report)) => {
                assert!(!report.is_intact(), "{part} quarters are left, and nobody says so: {report:?}");
                let (count, is_damaged) = readable(&wal);
                assert!(count > 0 && is_damaged && count < end.lsn.get());
                assert_eq!(wal.end(log(1)), end, "what lies behind the damage is known");
            }
            Err(OpenError::Missing { segment, .. }) => {
                assert_eq!(segment, 2);
                assert!(before == bytes_of(dir.path()), "a refused open changes nothing");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn junk_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let end = closed(dir.path());
    let numbered = ["1.seg", "000000000000000x.seg", "0000000000000000.seg", "0000000000000002.seg.bak"];
    let junk = ["notes.txt", ".DS_Store", "lost+found"].into_iter().chain(numbered);
    let junk: Vec<&str> = junk.collect();
    for name in &junk {
        fs::write(dir.path().join(name), b"junk").unwrap();
    }
    fs::create_dir(dir.path().join("0000000000000002.seg.d")).unwrap();
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe.seg")), b"junk").unwrap();
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((readable(&wal).1, wal.end(log(1))), (false, end));
    for name in junk {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"junk", "{name}");
    }
}

#[test]
fn a_segment_behind_a_symbolic_link_is_the_segment_and_a_link_to_nowhere_is_said() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let end = closed(dir.path());
    let file = segments(dir.path())[0].clone();
    let moved = elsewhere.path().join("moved");
    fs::copy(&file, &moved).unwrap();
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&moved, &file).unwrap();
    let (wal, report) = Wal::open(dir.path(), small()).unwrap();
    assert!(report.is_intact() && readable(&wal) == (end.lsn.get(), false), "{report:?}");
    wal.close().unwrap();
    fs::remove_file(&moved).unwrap();
    assert!(matches!(Wal::open(dir.path(), small()), Err(OpenError::Io(_) | OpenError::Missing { .. })));
}

#[test]
fn a_copy_of_the_directory_opens_and_is_told_apart_by_its_lives_only() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let end = closed(dir.path());
    for (path, bytes) in bytes_of(dir.path()) {
        fs::write(copy.path().join(path.file_name().unwrap()), bytes.unwrap()).unwrap();
    }
    let (first, second) = (Wal::open(dir.path(), small()).unwrap().0, Wal::open(copy.path(), small()).unwrap().0);
    // The same directory to anybody who asks: who owns it must not let both speak.
    assert_eq!(first.directory_uuid(), second.directory_uuid());
    assert_eq!((first.incarnation(), second.incarnation()), (2, 2));
    assert_eq!((first.end(log(1)), second.end(log(1))), (end, end));
    second.close().unwrap();
    assert_eq!(Wal::open(copy.path(), small()).unwrap().0.incarnation(), 3);
}

#[test]
fn a_directory_that_is_removed_under_a_log_stops_it_within_a_segment_or_two() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("log");
    let (wal, _) = Wal::open(&gone, small()).unwrap();
    append(&wal).unwrap();
    // The log may be making a segment meanwhile.
    assert!((0..1000).any(|_| fs::remove_dir_all(&gone).is_ok()));
    let failed = (0..60).find_map(|_| append(&wal).err());
    let failed = failed.expect("a log without a directory must not go on for ever");
    assert!(matches!(failed, WalError::Poisoned(_) | WalError::Refused(SubmitError::Poisoned(_))), "{failed}");
    assert!(wal.stats().poisoned);
    assert!(wal.close().is_err());
    // Nothing was made anew behind the owner's back.
    assert!(!gone.exists());
}

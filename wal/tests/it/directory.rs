//! What people and programs do to a directory of files behind a log's back.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use towline_wal::io::{Io as _, Oddity, RealIo, segment_name};
use towline_wal::repair::{RepairError, RepairOptions, dry_run};
use towline_wal::{Epoch, LogPosition, Lsn, OpenError, Options, SubmitError, Wal, WalError, inspect};

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

/// Runs a test again in a process of its own, with so many descriptors; whether this is that process.
fn is_alone(test: &str, descriptors: u32) -> bool {
    const ALONE: &str = "TOWLINE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let run = format!("ulimit -n {descriptors} && exec \"$0\" --exact directory::{test}");
    let alone = Command::new("sh").args(["-c", &run]).arg(std::env::current_exe().unwrap()).env(ALONE, "1").output();
    let alone = alone.unwrap();
    let said = [alone.stdout, alone.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(alone.status.success() && said.contains("1 passed"), "{said}");
    false
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

/// What must refuse a name that is none of a regular file, and say so.
fn refuses(dir: &Path, name: &str, what: Oddity) {
    let expected = OpenError::NotAFile { file: name.to_owned(), what };
    assert_eq!(Wal::open(dir, small()).unwrap_err(), expected);
    assert_eq!(inspect::inspect(dir).unwrap_err(), expected);
    assert_eq!(inspect::verify(dir).unwrap_err(), expected);
    assert_eq!(inspect::logs(dir).unwrap_err(), expected);
    let refused = dry_run(&mut RealIo::read_only(dir), RepairOptions::default()).unwrap_err();
    assert_eq!(refused, RepairError::Refused(expected.clone()));
    let said = expected.to_string();
    assert!(said.contains(name) && said.contains(&what.to_string()), "{said}");
}

#[test]
fn symbolic_links_among_the_files_are_refused_and_neither_followed_nor_emptied() {
    let names = ["LOCK", "MANIFEST", "MANIFEST.new", "0000000000000001.seg", "0000000000000009.seg"];
    for name in names.into_iter().chain(["0000000000000009.new"]) {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        closed(dir.path());
        let (file, target) = (dir.path().join(name), elsewhere.path().join("target"));
        for is_there in [true, false] {
            fs::copy(dir.path().join("MANIFEST"), &target).unwrap();
            if file.exists() {
                fs::rename(&file, &target).unwrap();
            }
            let content = fs::read(&target).unwrap();
            symlink(&target, &file).unwrap();
            if !is_there {
                fs::remove_file(&target).unwrap();
            }
            let before = bytes_of(dir.path());
            refuses(dir.path(), name, Oddity::Link);
            assert!(before == bytes_of(dir.path()), "{name}: a refused open changes nothing");
            assert_eq!(fs::read(&target).ok(), is_there.then_some(content), "{name}: nor what the link names");
            fs::remove_file(&file).unwrap();
            if is_there {
                fs::rename(&target, &file).unwrap();
            }
        }
    }
}

#[test]
fn pipes_and_directories_among_the_files_are_refused_and_nobody_waits_for_them() {
    for name in ["LOCK", "MANIFEST", "0000000000000001.seg", "0000000000000009.seg", "0000000000000009.new"] {
        let dir = tempfile::tempdir().unwrap();
        closed(dir.path());
        let file = dir.path().join(name);
        drop(fs::remove_file(&file));
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        refuses(dir.path(), name, Oddity::Special);
        for mut io in [RealIo::read_only(dir.path()), RealIo::new(dir.path())] {
            assert_eq!(io.len(name).unwrap_err().what, Some(Oddity::Special));
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        refuses(dir.path(), name, Oddity::Special);
    }
}

#[test]
fn a_link_that_appears_under_an_open_log_is_not_written_through() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = elsewhere.path().join("target");
    fs::write(&target, [7; 4096]).unwrap();
    let mut io = RealIo::new(dir.path());
    io.lock().unwrap();
    for name in ["0000000000000001.seg", "0000000000000001.new"] {
        symlink(&target, dir.path().join(name)).unwrap();
        let block = [bytes::Bytes::from(vec![0; 4096])];
        let refusals = [
            io.create(name).unwrap_err(),
            io.write_at(name, 0, &block).unwrap_err(),
            io.write_zeroes(name, 4096).unwrap_err(),
            io.read_at(name, 0, &mut [0; 10]).unwrap_err(),
            io.sync_data(name).unwrap_err(),
        ];
        assert!(refusals.iter().all(|refusal| refusal.what == Some(Oddity::Link)), "{refusals:?}");
        assert_eq!(refusals[0].to_string(), format!("open {name}: it is a symbolic link"));
    }
    assert_eq!(fs::read(&target).unwrap(), [7; 4096]);
}

#[test]
fn the_directory_itself_may_be_behind_a_symbolic_link() {
    let base = tempfile::tempdir().unwrap();
    let (real, link) = (base.path().join("real"), base.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let end = closed(&link);
    let (wal, report) = Wal::open(&real, small()).unwrap();
    assert!(report.is_intact());
    assert_eq!(wal.end(log(1)), end);
    assert!(matches!(Wal::open(&link, small()), Err(OpenError::Locked { .. })), "it is the same one");
}

/// Appends until so many segments more were begun.
fn append_segments(wal: &Wal, count: u64) {
    let until = wal.stats().rotations + count;
    while wal.stats().rotations < until {
        append(wal).unwrap();
    }
}

#[test]
fn a_log_whose_directory_is_moved_away_goes_on_there_and_leaves_the_one_that_took_its_place_alone() {
    let base = tempfile::tempdir().unwrap();
    let (data, old) = (base.path().join("data"), base.path().join("old"));
    let (wal, _) = Wal::open(&data, small()).unwrap();
    append_segments(&wal, 1);
    fs::rename(&data, &old).unwrap();
    let other = closed(&data);
    let before = bytes_of(&data);
    append_segments(&wal, 4);
    wal.release(log(1), wal.end(log(1)).lsn).unwrap();
    append_segments(&wal, 4);
    wal.close().unwrap();
    assert!(before == bytes_of(&data), "it is another log's");
    let (again, report) = Wal::open(&old, small()).unwrap();
    assert!(report.is_intact() && report.clean_close);
    assert_eq!(again.end(log(1)), wal.end(log(1)));
    assert_eq!(Wal::open(&data, small()).unwrap().0.end(log(1)), other);
}

#[test]
fn a_log_of_a_relative_path_stays_where_it_is_when_the_process_goes_elsewhere() {
    if !is_alone("a_log_of_a_relative_path_stays_where_it_is_when_the_process_goes_elsewhere", 200) {
        return;
    }
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::env::set_current_dir(here.path()).unwrap();
    let (wal, _) = Wal::open("log", small()).unwrap();
    append_segments(&wal, 1);
    std::env::set_current_dir(there.path()).unwrap();
    append_segments(&wal, 4);
    wal.close().unwrap();
    assert!(fs::read_dir(there.path()).unwrap().next().is_none());
    assert!(inspect::verify(here.path().join("log")).unwrap().is_good());
}

#[test]
fn what_is_being_written_is_synced_when_the_process_has_no_descriptor_left() {
    if !is_alone("what_is_being_written_is_synced_when_the_process_has_no_descriptor_left", 200) {
        return;
    }
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let ios = [RealIo::new(dirs[0].path()), RealIo::new(dirs[1].path()).buffered()];
    for mut io in ios {
        io.lock().unwrap();
        for number in 1..=80 {
            io.create(&segment_name(number)).unwrap();
        }
        let name = segment_name(1);
        let block = || [bytes::Bytes::from(vec![7; 4096])];
        io.write_at(&name, 0, &block()).unwrap();
        // A reader comes by all the others, and another segment is made meanwhile.
        for number in 2..=80 {
            assert_eq!(io.clone().len(&segment_name(number)).unwrap(), 0);
        }
        io.clone().rename(&segment_name(80), &segment_name(81)).unwrap();
        let taken: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        let refused = io.len(&name).unwrap_err();
        assert!(refused.is_refusal() && !taken.is_empty(), "{refused}");
        io.sync_data(&name).unwrap();
        io.write_at(&name, 4096, &block()).unwrap();
        io.sync_data(&name).unwrap();
        io.sync_dir().unwrap();
        drop(taken);
        assert_eq!(io.len(&name).unwrap(), 8192);
    }
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

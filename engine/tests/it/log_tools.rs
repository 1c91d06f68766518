//! `towline wal`: what its commands print, and how they end.

use bytes::Bytes;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use towline::model::{Operation, Record};
use towline_wal::inspect::{self, GroupView};
use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Entry, Epoch, HardStateKind, LogId, Lsn, Options, Wal};

const LOG: LogId = LogId::new(7);
const SEG: &str = "0000000000000001.seg";

fn options() -> Options {
    Options { segment_bytes: 256 << 10, segments_ahead: 1, ..Options::default() }
}

fn put(n: u64, value: &[u8]) -> Record {
    let key = Bytes::from(format!("key-{n}"));
    Record::of(vec![Operation::Put { key, value: Bytes::copy_from_slice(value) }])
}

/// A log in `wal` below a directory, each of its records in a batch and a group of its own; not closed in good order.
struct World {
    directory: tempfile::TempDir,
    records: Vec<Bytes>,
}

impl World {
    fn of(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(directory.path().join("wal"), options()).unwrap();
        let mut records = Vec::new();
        for (n, value) in (1..).zip(values) {
            let record = put(n, &value).encode().unwrap();
            let block = Block::encode(record.clone(), 1, Compression::Never);
            let batch = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), wal.end(LOG), 0).block(block);
            wal.append(batch.seal().unwrap()).unwrap();
            records.push(record);
        }
        Self { directory, records }
    }

    fn new() -> Self {
        Self::of((1..=6).map(|n| format!("value {n}").into_bytes()))
    }

    fn wal(&self) -> PathBuf {
        self.directory.path().join("wal")
    }

    fn groups(&self) -> Vec<GroupView> {
        inspect::inspect(self.wal()).unwrap().segments.remove(0).groups
    }

    /// Six records, of which one can't be read.
    fn damaged(lsn: usize) -> (Self, u64) {
        let world = Self::new();
        // The first group is the opening one.
        let at = world.groups()[lsn].batches[0].offset;
        world.spoil(SEG, at + 120);
        (world, at)
    }

    fn spoil(&self, file: &str, at: u64) {
        let file = File::options().read(true).write(true).open(self.wal().join(file)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 8], at).unwrap();
    }

    /// Runs `towline wal` on the directory above the log's.
    fn run(&self, command: &str, more: &[&str]) -> Ran {
        wal(command, self.directory.path(), more)
    }

    fn bytes(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.wal()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.file_name().unwrap() != "LOCK");
        files.sort();
        files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
    }

    /// When each file, and the directory, was last changed.
    fn times(&self) -> Vec<(PathBuf, std::time::SystemTime)> {
        let files = fs::read_dir(self.wal()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.chain([self.wal()]).collect();
        files.sort();
        files.into_iter().map(|file| (file.clone(), fs::metadata(file).unwrap().modified().unwrap())).collect()
    }

    /// The copies beside the log.
    fn backups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("repair-")).collect()
    }
}

struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code().unwrap(), out: output.stdout, err }
    }
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// Every line of it is an object.
    fn objects(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn program(command: &str, directory: &Path, more: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_towline"));
    program.args(["wal", command]).arg(directory).args(more).stdin(Stdio::null());
    program
}

fn wal(command: &str, directory: &Path, more: &[&str]) -> Ran {
    program(command, directory, more).output().unwrap().into()
}

#[test]
fn verify_ends_with_0_for_a_sound_log_and_for_a_torn_one_of_which_it_tells_where() {
    let world = World::new();
    let ran = world.run("verify", &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.text().contains("good, 6 batches read") && ran.err.is_empty(), "{}", ran.text());

    let last = world.groups().pop().unwrap();
    world.spoil(SEG, last.batches[0].offset + 120);
    let ran = world.run("verify", &[]);
    let place = format!("{SEG} at byte {}, group {}: torn", last.offset, last.number);
    assert!(ran.code == 0 && ran.text().contains(&place), "{}", ran.text());
    assert!(ran.text().contains("records may be missing from LSN 6 on; the next open records that"), "{}", ran.text());
    let [object] = &world.run("verify", &["--json"]).objects()[..] else { panic!() };
    assert_eq!((&object["good"], &object["torn"]["segment"]), (&true.into(), &1.into()));
    assert_eq!((&object["torn"]["offset"], &object["torn"]["group"]), (&last.offset.into(), &last.number.into()));
    assert_eq!(object["cuts"], serde_json::json!([{ "log": LOG.to_string(), "from_lsn": 6 }]));
}

#[test]
fn verify_ends_with_3_for_damage_with_each_range_its_file_and_its_offset() {
    let (world, at) = World::damaged(3);
    let ran = world.run("verify", &[]);
    let range = format!("log {LOG}, LSN 3 to 3: can't be read, {SEG} at byte {at}");
    assert!(ran.code == 3 && ran.text().contains(&range), "{}", ran.text());
    let ran = world.run("verify", &["--json"]);
    assert_eq!(ran.code, 3);
    let range = &ran.objects()[0]["damaged"][0];
    assert_eq!((&range["first_lsn"], &range["file"], &range["offset"]), (&3.into(), &SEG.into(), &at.into()));

    fs::remove_file(world.wal().join("MANIFEST")).unwrap();
    let ran = world.run("verify", &[]);
    assert!(ran.code == 3 && ran.err.contains("MANIFEST is missing, though there are segments"), "{}", ran.err);
}

#[test]
fn verify_ends_with_1_where_it_cannot_be_done() {
    let empty = tempfile::tempdir().unwrap();
    for directory in [empty.path().to_owned(), empty.path().join("none")] {
        let ran = wal("verify", &directory, &[]);
        assert!(ran.code == 1 && ran.err.contains("this is not the directory of a log"), "{}", ran.err);
    }
    let world = World::new();
    let mut manifest = fs::read(world.wal().join("MANIFEST")).unwrap();
    manifest[4] = 99;
    let crc = crc32fast::hash(&manifest[..60]);
    manifest[60..].copy_from_slice(&crc.to_le_bytes());
    fs::write(world.wal().join("MANIFEST"), manifest).unwrap();
    let ran = world.run("verify", &["--json"]);
    assert_eq!(ran.code, 1);
    let failed: Value = serde_json::from_str(ran.err.trim()).unwrap();
    assert!(failed["error"].as_str().unwrap().contains("newer release"), "{failed}");
}

#[test]
fn inspect_shows_segments_and_logs_and_more_where_it_is_asked() {
    let world = World::new();
    let (wal, _) = Wal::open(world.wal(), options()).unwrap();
    let vow = Entry::HardState { log: LOG, kind: HardStateKind::Promise, bytes: Bytes::from_static(b"7") };
    wal.submit(vec![vow]).unwrap().wait().unwrap();
    wal.close().unwrap();

    let text = world.run("inspect", &[]).text().to_owned();
    assert!(text.contains("2 segments of 256.0 KiB") && text.contains("closed in good order"), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.iter().any(|row| row.starts_with(&["1", "1", "7", "1", "7", "6"])), "segment 1: {text}");
    assert!(rows.contains(&vec![&LOG.to_string(), "1", "6", "6"]), "{text}");
    assert!(!text.contains("promise") && !text.contains("sha256"), "{text}");

    let text = world.run("inspect", &["--groups"]).text().to_owned();
    assert!(text.contains(&format!("log {LOG}: hard state Promise of 1 bytes")), "{text}");
    assert!(text.contains("closed in good order in life 2"), "{text}");
    let log = LOG.to_string();
    for more in [&["--batches"][..], &["--log", &log][..]] {
        let objects = world.run("inspect", &[more, &["--json"]].concat()).objects();
        let (segments, batches) = (
            objects.iter().filter(|object| object.get("life").is_some()).count(),
            objects.iter().filter(|object| object.get("sha256").is_some()).count(),
        );
        assert_eq!((segments, batches), (2, 6));
    }
    assert!(world.run("inspect", &["--records"]).text().contains("put key-3 = value 3"));
    assert_eq!(world.run("inspect", &["--log", "99"]).code, 1);
}

#[test]
fn inspect_prints_no_control_characters_of_a_record_and_goes_on_behind_batches_of_others() {
    let world = World::of([b"\x1b[2J\n1  put".to_vec()]);
    let other = LogId::new(3);
    let (wal, _) = Wal::open(world.wal(), options()).unwrap();
    let last = put(9, b"behind it").encode().unwrap();
    for bytes in [Bytes::from_static(b"not the engine's"), last] {
        let block = Block::encode(bytes, 1, Compression::Never);
        let batch = BatchBuilder::new(other, BatchKind::Data, Epoch::new(1, 1), wal.end(other), 0).block(block);
        wal.append(batch.seal().unwrap()).unwrap();
    }
    wal.close().unwrap();
    let log = LOG.to_string();
    let ran = world.run("inspect", &["--records", "--log", &log]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.text().contains('\x1b'), "{}", ran.text());
    let told: Vec<&str> = ran.text().lines().filter(|line| line.contains("put key-1")).collect();
    assert_eq!(told, ["  1  put key-1 = \\u{1b}[2J\\n1  put"]);

    let ran = world.run("inspect", &["--records"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""), "as a dump ends");
    assert!(ran.text().contains("\n  LSN 1 to 1: not records that this build reads: "), "{}", ran.text());
    assert!(ran.text().contains("  2  put key-9 = behind it"), "{}", ran.text());
    let objects = world.run("inspect", &["--records", "--json"]).objects();
    assert_eq!(objects.iter().filter(|object| object.get("not_read").is_some()).count(), 1);
}

#[test]
fn repair_asks_and_where_there_is_nobody_to_ask_it_changes_nothing() {
    let (world, _) = World::damaged(3);
    let before = world.bytes();
    let ran = world.run("repair", &[]);
    assert!(ran.code == 1 && ran.err.contains("say --yes to do this"), "{}", ran.err);
    assert!(ran.text().contains("the log is truncated to LSN 2: LSN 3 to 6 are given up"), "{}", ran.text());
    let ran = world.run("repair", &["--dry-run"]);
    assert!(ran.code == 3 && ran.text().contains("LSN 1 to 2 are kept"), "{}", ran.text());
    assert!(world.bytes() == before && world.backups().is_empty());
}

#[test]
fn a_dry_run_of_a_repair_writes_nothing_and_needs_no_lock() {
    let (world, _) = World::damaged(3);
    let lock = world.wal().join("LOCK");
    fs::write(&lock, "somebody").unwrap();
    let (before, times) = (world.bytes(), world.times());
    let says_it = || {
        let ran = world.run("repair", &["--dry-run"]);
        let plan = "the log is truncated to LSN 2: LSN 3 to 6 are given up";
        assert!(ran.code == 3 && ran.text().contains(plan), "{}{}", ran.text(), ran.err);
    };
    says_it();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "somebody");
    // Beside whoever has it.
    let held = File::options().write(true).open(&lock).unwrap();
    held.lock().unwrap();
    says_it();
    drop(held);
    assert_eq!(world.times(), times);
    // Where nothing can be written. (Who may do anything is not kept from it by that.)
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o400)).unwrap();
    says_it();
    fs::remove_file(&lock).unwrap();
    says_it();
    assert!(!lock.exists() && world.bytes() == before && world.backups().is_empty());

    let empty = tempfile::tempdir().unwrap();
    let ran = wal("repair", &empty.path().join("none"), &["--dry-run"]);
    assert!(ran.code == 1 && ran.err.contains("not the directory of a log"), "{}", ran.err);
    assert!(fs::read_dir(empty.path()).unwrap().next().is_none());
    let sound = World::new();
    let ran = sound.run("repair", &["--dry-run"]);
    assert!(ran.code == 0 && ran.text().contains("nothing that a repair mends is damaged"), "{}", ran.text());
}

#[test]
fn a_directory_whose_name_is_not_text_is_told_as_well_as_it_can_be() {
    let (world, _) = World::damaged(3);
    let odd = world.directory.path().join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    fs::create_dir(&odd).unwrap();
    fs::rename(world.wal(), odd.join("wal")).unwrap();
    for command in ["verify", "inspect", "dump"] {
        let ran = wal(command, &odd, &["--json"]);
        assert_eq!(ran.code, 3, "{command}: {}", ran.err);
        let told = command == "dump" || ran.objects()[0]["directory"].as_str().unwrap().ends_with("odd-\u{fffd}/wal");
        assert!(told, "{}", ran.text());
    }
    let ran = wal("repair", &odd, &["--json", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for object in ran.objects() {
        assert!(object["directory"].as_str().unwrap().ends_with("odd-\u{fffd}/wal"), "{object}");
        assert!(object["backup"].as_str().unwrap().contains("odd-\u{fffd}/repair-"), "{object}");
    }
}

#[test]
fn what_is_no_file_of_the_log_is_refused_by_its_name_and_nobody_waits_for_it() {
    for (name, is_link) in [("MANIFEST", true), (SEG, true), ("LOCK", true), ("MANIFEST", false), (SEG, false)] {
        let world = World::new();
        let (file, target) = (world.wal().join(name), world.directory.path().join("target"));
        fs::rename(&file, &target).unwrap();
        let what = if is_link { "a symbolic link" } else { "not a regular file" };
        if is_link {
            symlink(&target, &file).unwrap();
        } else {
            assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        }
        let content = fs::read(&target).unwrap();
        let commands =
            [("verify", &[][..]), ("inspect", &[]), ("dump", &[]), ("repair", &["--dry-run"]), ("repair", &[])];
        for (command, more) in commands {
            let ran = world.run(command, more);
            let said = format!("{name} is {what}, and not the log's own file");
            assert!(ran.code == 1 && ran.err.contains(&said), "{command}: {}{}", ran.text(), ran.err);
        }
        assert!(fs::read(&target).unwrap() == content, "{name}");
    }
}

#[test]
fn repair_copies_what_it_gives_up_and_leaves_a_log_that_is_good() {
    let (world, _) = World::damaged(3);
    let before = world.bytes();
    let ran = world.run("repair", &["--yes"]);
    assert!(ran.code == 0 && ran.text().contains("good, 2 batches read"), "{}{}", ran.text(), ran.err);
    let [backup] = &world.backups()[..] else { panic!("{:?}", world.backups()) };
    assert!(backup.to_string_lossy().ends_with("Z-1"), "its time and its life: {}", backup.display());
    let old = before.iter().find(|(file, _)| file.ends_with(SEG)).unwrap();
    assert!(fs::read(backup.join(SEG)).unwrap() == old.1);
    assert!(fs::read_to_string(backup.join("README.txt")).unwrap().contains("How to go back"));

    assert_eq!(world.run("verify", &[]).code, 0);
    let again = world.run("repair", &[]);
    assert!(again.code == 0 && again.text().contains("nothing that a repair mends is damaged"), "{}", again.text());
    let (wal, report) = Wal::open(world.wal(), options()).unwrap();
    assert!(report.is_intact());
    assert_eq!((wal.end(LOG).lsn, wal.cuts()[0].from), (Lsn::new(2), Lsn::new(3)));
}

#[test]
fn repair_speaks_json_keeps_a_tail_and_makes_a_lost_manifest_anew() {
    let (world, _) = World::damaged(1);
    fs::remove_file(world.wal().join("MANIFEST")).unwrap();
    let backup = world.directory.path().join("copy");
    let more = ["--yes", "--keep-tail", "--json", "--backup", backup.to_str().unwrap()];
    let ran = world.run("repair", &more);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let [plan, repaired] = &ran.objects()[..] else { panic!("{}", ran.text()) };
    assert_eq!((&plan["event"], &plan["logs"][0]["action"]), (&"plan".into(), &"release".into()));
    assert_eq!(plan["manifest"], "is missing, though there are segments");
    assert_eq!((&repaired["event"], &repaired["good"]), (&"repaired".into(), &true.into()));
    assert!(backup.join("README.txt").exists());
    let kept = inspect::batches(world.wal(), LOG).unwrap();
    assert_eq!((kept.first().unwrap().first_lsn(), kept.len()), (Lsn::new(2), 5));
}

#[test]
fn repair_refuses_a_log_in_use_a_copy_that_exists_and_what_it_cannot_help() {
    let (world, _) = World::damaged(3);
    let before = world.bytes();
    fs::create_dir(world.directory.path().join("copy")).unwrap();
    let copy = world.directory.path().join("copy");
    let ran = world.run("repair", &["--yes", "--backup", copy.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("exists already"), "{}", ran.err);

    let held = File::options().write(true).open(world.wal().join("LOCK")).unwrap();
    held.lock().unwrap();
    let ran = world.run("repair", &["--yes"]);
    assert!(ran.code == 1 && ran.err.contains("held by"), "{}", ran.err);
    drop(held);
    assert_eq!(world.bytes(), before);

    let ran = wal("repair", &copy, &["--yes"]);
    assert!(ran.code == 1 && ran.err.contains("not the directory of a log"), "{}", ran.err);
    assert!(fs::read_dir(&copy).unwrap().next().is_none(), "not even a lock is made there");

    // Long enough for five segments, of which two in a row go.
    let world = World::of((0..100).map(|_| vec![b'x'; 10_000]));
    for gone in [2, 3] {
        fs::remove_file(world.wal().join(format!("{gone:016}.seg"))).unwrap();
    }
    let before = world.bytes();
    let ran = world.run("repair", &["--yes"]);
    assert!(ran.code == 1 && ran.err.contains("segment 2 is missing") && ran.err.contains("can't help"), "{}", ran.err);
    assert!(world.bytes() == before);
    assert_eq!(world.run("verify", &[]).code, 3);
}

#[test]
fn dump_prints_records_in_three_ways_and_between_bounds() {
    let world = World::of([b"plain".to_vec(), b"two\nlines \xff".to_vec(), b"third".to_vec()]);
    let log = LOG.to_string();
    let ran = world.run("dump", &["--log", &log]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.text(), "1  put key-1 = plain\n2  put key-2 = two\\nlines \\xff\n3  put key-3 = third\n");
    let ran = world.run("dump", &["--from", "2", "--to", "2"]);
    assert_eq!(ran.text(), format!("{LOG}  2  put key-2 = two\\nlines \\xff\n"));
    for more in [&["--json"][..], &["--format", "json"][..]] {
        let objects = world.run("dump", more).objects();
        assert_eq!(objects.iter().map(|object| object["lsn"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(objects[0]["operations"][0]["value"], "plain");
    }
    let raw = world.run("dump", &["--format", "raw", "--from", "2"]);
    assert_eq!(raw.out, world.records[1..].concat());
    assert_eq!(world.run("dump", &["--log", "99"]).code, 1);
}

#[test]
fn dump_tells_what_is_damaged_leaves_it_out_and_ends_with_3() {
    let (world, at) = World::damaged(3);
    let ran = world.run("dump", &[]);
    assert_eq!((ran.code, ran.text().lines().count()), (3, 5));
    assert_eq!(ran.err, format!("towline wal dump: log {LOG}, LSN 3 to 3: can't be read, {SEG} at byte {at}\n"));
    assert_eq!(world.run("dump", &["--from", "4"]).code, 0, "there is no damage among what is wanted");
    let ran = world.run("dump", &["--json"]);
    let told: Value = serde_json::from_str(ran.err.trim()).unwrap();
    assert_eq!((ran.code, &told["event"], &told["first_lsn"]), (3, &"damaged".into(), &3.into()));
}

#[test]
fn dump_ends_well_when_its_reader_goes_away() {
    let world = World::of((0..100).map(|_| vec![b'x'; 10_000]));
    let mut dump = program("dump", &world.wal(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(dump.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with(&format!("{LOG}  1  put key-1 = xxx")));
    let ran = Ran::from(dump.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

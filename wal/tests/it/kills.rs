//! A process that is killed while it works, and while it opens (rows P1 and P2 of the fault list): this test binary runs
//! itself anew, reads what the other acknowledged from a pipe, and kills it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use towline_wal::{Batch, Entry, Epoch, LogId, LogPosition, Lsn, OpenError, Options, Wal};

use crate::world::{Chance, batch, log};

const DIRECTORY: &str = "TOWLINE_WAL_KILLS";
/// Three logs that keep everything, beside one that fills segments and is released.
const KEPT: std::ops::RangeInclusive<u64> = 1..=3;
const RELEASED: u64 = 4;

fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        group_bytes_max: 16 << 10,
        segments_ahead: 1,
        slack_segments: 0,
        ..Options::default()
    }
}

/// The only batch that there may be behind a position: whoever reads it knows each of its bytes.
fn next_of(of: LogId, end: LogPosition) -> Batch {
    let bytes = if of == log(RELEASED) { 9000 } else { 100 + (end.lsn.get() as usize * 37) % 700 };
    batch(of, end, Epoch::new(1, 1), 1, bytes)
}

/// Says something to who reads the pipe.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
}

#[test]
#[ignore = "the process that is killed: another test runs it"]
fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    // Behind what the harness has begun to say.
    say("\nopens");
    let (wal, _) = Wal::open(dir, small()).unwrap();
    say("works");
    let mut compactions = 0;
    for round in 0_u64.. {
        let mut pending = Vec::new();
        for of in KEPT.map(log) {
            pending.push((of, wal.submit(vec![Entry::Batch(next_of(of, wal.end(of)))]).unwrap(), wal.end(of)));
        }
        for (of, waits, at) in pending {
            waits.wait().unwrap();
            say(&format!("ack {} {}", of.as_u128(), at.lsn.get()));
        }
        let of = log(RELEASED);
        for _ in 0..3 {
            wal.append(next_of(of, wal.end(of))).unwrap();
            say(&format!("ack {RELEASED} {}", wal.end(of).lsn.get()));
        }
        if round % 4 == 3 {
            let before = wal.end(of).lsn;
            say(&format!("releases {}", before.get()));
            wal.release(of, before).unwrap();
        }
        let stats = wal.stats();
        if stats.compactions > compactions {
            compactions = stats.compactions;
            say(&format!("compacted {}", stats.retired));
        }
    }
}

/// What the killed ones said, all lives together.
#[derive(Default)]
struct Heard {
    acknowledged: BTreeMap<u64, u64>,
    /// Records before this one may be gone.
    released: u64,
    compactions: u64,
}

impl Heard {
    /// Takes a line. The test harness of the other process says things too.
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["ack", of, lsn] => drop(self.acknowledged.insert(of.parse().unwrap(), lsn.parse().unwrap())),
            ["releases", before] => self.released = before.parse().unwrap(),
            ["compacted", retired] => self.compactions += u64::from(retired.parse::<u64>().unwrap() > 0),
            _ => {}
        }
    }
}

fn begin(dir: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::the_process_that_is_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Reads on up to a line; what is acknowledged on the way counts.
fn hear_until(out: &mut BufReader<ChildStdout>, heard: &mut Heard, wanted: &str) {
    let mut line = String::new();
    while line.trim_end() != wanted {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the other process ended by itself");
        heard.take(&line);
    }
}

/// SIGKILL, and everything that the other said before it.
fn kill(mut child: Child, out: BufReader<ChildStdout>, heard: &mut Heard) {
    child.kill().unwrap();
    // What was on its way in the pipe was said, and so it holds.
    out.lines().for_each(|line| heard.take(&line.unwrap()));
    child.wait().unwrap();
}

/// Everything acknowledged is there, and what is there is right to the last byte.
fn assert_is_whole(dir: &Path, heard: &Heard, told: &str) {
    let (wal, report) = Wal::open(dir, small()).unwrap_or_else(|error| panic!("{told}: {error}"));
    assert!(report.is_intact() && report.cuts.is_empty(), "{told}: {report:?}");
    for of in KEPT.chain([RELEASED]) {
        let (start, end) = (wal.start_of(log(of)), wal.end(log(of)));
        let acknowledged = heard.acknowledged.get(&of).copied().unwrap_or(0);
        assert!(end.lsn.get() >= acknowledged, "{told}: log {of} ends at {}, {acknowledged} was acknowledged", end.lsn);
        let released = if of == RELEASED { heard.released.saturating_sub(1) } else { 0 };
        assert!(start.lsn.get() <= released, "{told}: log {of} starts behind {}", start.lsn);
        let mut at = start;
        while at.lsn < end.lsn {
            let batches = wal.read(log(of), at.lsn.next(), 1 << 20).unwrap_or_else(|error| panic!("{told}: {error}"));
            assert!(!batches.is_empty(), "{told}: log {of} has nothing behind {at}");
            for found in batches {
                assert!(found == next_of(log(of), at), "{told}: log {of} behind {at}: {found:?}");
                at = found.position();
            }
        }
        assert_eq!(at, end, "{told}: log {of}");
    }
    wal.close().unwrap_or_else(|error| panic!("{told}: {error}"));
}

/// P1 and P2: at work, with segments that are made, retired, used again and compacted, and while it opens. And O4: as long as
/// it lives, nobody else opens the directory.
#[test]
fn a_process_killed_at_any_moment_has_lost_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("wal");
    let mut heard = Heard::default();
    let mut chance = Chance::new(1);
    for round in 0..24 {
        let (child, mut out) = begin(&dir);
        let told = if round % 3 == 2 {
            // Somewhere in its open.
            hear_until(&mut out, &mut heard, "opens");
            let turns = chance.below(1 << (round % 12));
            (0..turns).for_each(|_| std::thread::yield_now());
            format!("round {round}, {turns} turns into the open")
        } else {
            hear_until(&mut out, &mut heard, "works");
            if round == 0 {
                let refused = Wal::open(&dir, small()).map(drop).unwrap_err();
                assert_eq!(refused, OpenError::Locked { pid: Some(child.id()) });
            }
            let lines = chance.below(400);
            let mut line = String::new();
            for _ in 0..lines {
                line.clear();
                assert_ne!(out.read_line(&mut line).unwrap(), 0, "the other process ended by itself");
                heard.take(&line);
            }
            format!("round {round}, {lines} lines")
        };
        kill(child, out, &mut heard);
        assert_is_whole(&dir, &heard, &told);
    }
    assert!(heard.compactions > 0 && heard.released > 0, "{:?}", heard.acknowledged);
    assert!(heard.acknowledged.values().all(|lsn| Lsn::new(*lsn) > Lsn::new(100)), "{:?}", heard.acknowledged);
}

//! Full disks, real ones: small file systems in memory, which a process of its own mounts in a namespace of its own.
//!
//! Where user namespaces are not allowed there is no such file system, and these tests say so and end.

use crate::noise::noise;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use towline::model::{Read, Write};
use towline::node::{Node, NodeOptions, WriteRefused};
use towline::pipeline::{Disk, Receipt, SubmitError, SubmitPolicy};

/// Where the inner process finds its node.
const DIRECTORY: &str = "TOWLINE_FULL_DISK_DIRECTORY";
const VALUE_BYTES: usize = 32 << 10;
/// Of values that lie in files of their own in the state.
const LARGE_BYTES: usize = 200 << 10;

/// Runs a test of this program by itself, in a directory of which a part lies on a file system of so many MiB.
pub(crate) fn inside(test: &str, part: &str, mebibytes: usize) {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mkdir -p "$1/$2" && mount -t tmpfs -o size="$3"m tmpfs "$1/$2" || exit 77
        exec "$4" --exact "$5" --ignored --nocapture"#;
    let size = mebibytes.to_string();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([directory.path(), Path::new(part), Path::new(&size)])
        .args([std::env::current_exe().unwrap(), PathBuf::from(test)])
        .env(DIRECTORY, directory.path())
        .output();
    let no_namespaces = match &output {
        Err(_) => true,
        Ok(output) => output.status.code() == Some(77) || String::from_utf8_lossy(&output.stderr).contains("unshare"),
    };
    if no_namespaces {
        eprintln!("skipped: no user namespaces here, so no small file system: {output:?}");
        return;
    }
    let output = output.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

/// Where the inner test finds its directory.
pub(crate) fn directory() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).expect("the outer test names it"))
}

/// Writes until the disk is full, a part of which is taken; there is room once that is gone. Everything that was taken is there in the end.
#[expect(clippy::disallowed_methods, reason = "a test reads clocks")]
fn writes_until_full_and_after(part: &str, full: Disk, ballast_mebibytes: usize, value_bytes: usize) {
    let value = |number| noise(number, value_bytes);
    let directory = directory();
    let ballast = directory.join(part).join("ballast");
    std::fs::write(&ballast, vec![0; ballast_mebibytes << 20]).unwrap();
    let node = Node::open(NodeOptions::alone(&directory)).unwrap();
    let namespace = node.default_namespace();
    let deadline = Instant::now() + Duration::from_secs(120);
    let (mut receipts, mut number) = (Vec::<Receipt>::new(), 0);
    let refused = loop {
        assert!(Instant::now() < deadline, "the disk of the {full} never was full");
        let write = Write::new().put(number.to_string(), value(number));
        match namespace.write_when(write, SubmitPolicy::WaitFor(Duration::from_secs(30))) {
            Ok(receipt) => receipts.push(receipt),
            Err(refused) => break refused,
        }
        number += 1;
    };
    assert!(matches!(refused, WriteRefused::Submit(SubmitError::DiskFull(disk)) if disk == full), "{refused}");
    assert_eq!(node.failure(), None);
    assert_eq!(node.stats().unwrap().shards[0].full_disk, Some(full));
    assert_eq!(namespace.get("0", Read::Eventual).unwrap().unwrap().value, value(0), "reads go on");
    let last = receipts.last().unwrap();
    assert_eq!(last.wait_for(Duration::from_millis(100)), Ok(None), "what was taken waits");

    std::fs::remove_file(ballast).unwrap();
    for receipt in receipts {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(receipt.wait_for(left).unwrap().is_some(), "what was taken is written when there is room");
    }
    let resumed = loop {
        match namespace.put("resumed", "yes") {
            Ok(receipt) => break receipt,
            Err(WriteRefused::Submit(SubmitError::DiskFull(_))) if Instant::now() < deadline => {
                std::thread::yield_now()
            }
            Err(refused) => panic!("{refused}"),
        }
    };
    resumed.wait().unwrap();
    let (_, digest) = node.digest().unwrap();
    node.close().unwrap();
    let node = Node::open(NodeOptions::alone(&directory)).unwrap();
    for number in 0..number {
        let found = node.default_namespace().get(number.to_string(), Read::Linearizable).unwrap().unwrap();
        assert_eq!(found.value, value(number));
    }
    assert_eq!(node.digest().unwrap().1, digest);
    node.close().unwrap();
}

/// Fault D10.
#[test]
fn while_the_disk_of_the_state_is_full_reads_go_on_and_what_was_taken_is_written_when_there_is_room() {
    inside("full_disk::inner_state", "state", 152);
}

#[test]
#[ignore = "part of the test above, which makes its file system"]
fn inner_state() {
    writes_until_full_and_after("state", Disk::State, 144, VALUE_BYTES);
}

/// Fault D10, where a flush writes files of large values.
#[test]
fn the_same_holds_of_values_that_lie_in_files_of_their_own() {
    inside("full_disk::inner_state_of_large_values", "state", 152);
}

#[test]
#[ignore = "part of the test above, which makes its file system"]
fn inner_state_of_large_values() {
    writes_until_full_and_after("state", Disk::State, 144, LARGE_BYTES);
}

/// Fault D9, as the engine's callers see it.
#[test]
fn while_the_disk_of_the_log_is_full_reads_go_on_and_what_was_taken_is_written_when_there_is_room() {
    inside("full_disk::inner_log", "wal", 864);
}

#[test]
#[ignore = "part of the test above, which makes its file system"]
fn inner_log() {
    writes_until_full_and_after("wal", Disk::Log, 512, VALUE_BYTES);
}

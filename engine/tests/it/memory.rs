//! Fault P6: large values, a feed, scans and a backup at one time, in a process of their own whose memory is looked at.

use crate::noise::noise;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use towline::model::{Filter, Read, Scan, Since, Write};
use towline::node::{BackupOptions, Node, NodeOptions, WriteRefused, restore, verify_backup};
use towline::pipeline::{SubmitError, SubmitPolicy};

/// Where the inner process finds its node.
const DIRECTORY: &str = "TOWLINE_MEMORY_DIRECTORY";
const VALUE_BYTES: usize = 16 << 20;
const VALUES: u64 = 40;
/// What a process may have had in memory at the most: a container of that size would not have killed it.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// Looks every few milliseconds at what this process has in memory, without its program and files: those the system can let go.
struct Watch {
    most: Arc<AtomicU64>,
}

impl Watch {
    fn begin() -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let seen = Arc::downgrade(&most);
        let look = move || {
            while let Some(most) = seen.upgrade() {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
                let kibibytes = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
                most.fetch_max(kibibytes << 10, Ordering::SeqCst);
                drop(most);
                std::thread::park_timeout(Duration::from_millis(3));
            }
        };
        std::thread::Builder::new().spawn(look).unwrap();
        Self { most }
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::SeqCst)
    }
}

#[test]
fn i10_the_largest_values_are_written_read_followed_and_copied_within_256_mib() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::inside", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory.path())
        // Otherwise glibc keeps what was freed for later, in each thread's arena, as soon as a large piece was freed once.
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn inside() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("the outer test names it"));
    let mut options = NodeOptions::alone(directory.join("node"));
    options.state.block_cache_bytes = 8 << 20;
    options.log.tail_cache_bytes = 1 << 20;
    options.queue_bytes = 1 << 20;
    options.state.unflushed_bytes = 16 << 20;
    options.unapplied_bytes = 16 << 20;
    options.state.background_threads = 2;
    let node = Node::open(options).unwrap();
    let space = node.default_namespace();
    let watch = Watch::begin();
    let after = |what: &str| eprintln!("{what}: {} MiB", watch.most() >> 20);
    after("open");

    // Who does not wait for room is told that there is none.
    let mut refused = false;
    let mut receipts = Vec::new();
    for number in 0..VALUES {
        let write = || Write::new().put(number.to_string(), noise(number, VALUE_BYTES));
        let receipt = match space.write_when(write(), SubmitPolicy::Fail) {
            Err(WriteRefused::Submit(SubmitError::Busy(_))) => {
                refused = true;
                space.write(write()).unwrap()
            }
            taken => taken.unwrap(),
        };
        receipts.push(receipt);
    }
    receipts.into_iter().for_each(|receipt| assert!(receipt.wait().is_ok()));
    assert!(refused, "more than fits was taken");
    after("written");

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut feed = space.subscribe(Since::Oldest, Filter::All).unwrap();
            let mut last = 0;
            while last + 1 < VALUES {
                let change = feed.wait().unwrap();
                for operation in change.operations {
                    let number: u64 = std::str::from_utf8(operation.key()).unwrap().parse().unwrap();
                    last = last.max(number);
                }
            }
        });
        scope.spawn(|| {
            let mut scan = Scan::all();
            let mut found = 0;
            loop {
                let page = space.scan(&scan, Read::Linearizable).unwrap();
                found += page.entries.len();
                match page.next {
                    Some(next) => scan = next,
                    None => break,
                }
            }
            assert!(found as u64 >= VALUES);
        });
        node.backup(&directory.join("backup"), &BackupOptions::default()).unwrap();
    });
    after("read, followed and copied");
    for number in [0, VALUES - 1] {
        assert_eq!(
            space.get(number.to_string(), Read::Linearizable).unwrap().unwrap().value,
            noise(number, VALUE_BYTES)
        );
    }
    node.close().unwrap();
    verify_backup(&directory.join("backup")).unwrap();
    restore(&directory.join("backup"), &directory.join("restored")).unwrap();
    let most = watch.most();
    assert!(most <= MEMORY_BYTES_MAX, "{} MiB", most >> 20);

    let restored = Node::open(NodeOptions::alone(directory.join("restored"))).unwrap();
    let found = restored.default_namespace().get("7", Read::Linearizable).unwrap().unwrap();
    assert_eq!(found.value, noise(7, VALUE_BYTES), "files of large values are part of a backup");
    restored.close().unwrap();
}

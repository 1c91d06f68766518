//! What a scrub finds, whom it tells, and how it ends.

use super::*;
use crate::model::{Policy, Retention};
use crate::node::{Node, NodeOptions};
use crossbeam::channel::{Sender, bounded};
use std::path::Path;

const VALUE_BYTES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that no compression makes less of, others for each number.
pub(in crate::node) fn noise(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(step).flatten().take(VALUE_BYTES).collect()
}

/// Puts it under its number, in a batch of its own.
pub(in crate::node) fn put(node: &Node, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let receipt = node.default_namespace().put(format!("key-{number}"), noise(number)).unwrap();
        assert!(receipt.wait_for(PATIENCE).unwrap().is_some(), "an answer in time");
    }
}

/// A bit of it becomes another one in the node's log.
pub(in crate::node) fn rot(directory: &Path, number: u64) {
    rot_bytes(directory, &noise(number)[..64]);
}

/// A bit of the 41st of these bytes becomes another one.
fn rot_bytes(directory: &Path, wanted: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    for entry in std::fs::read_dir(directory.join("wal")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(wanted.len()).position(|window| window == wanted) else { continue };
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[bytes[at + 40] ^ 4], at as u64 + 40).unwrap();
        return;
    }
    panic!("the log does not have {wanted:?}");
}

/// One that nobody runs, at full speed; it ends when the other part goes.
fn scrubber(node: &Node) -> (Scrubber, Sender<Infallible>) {
    let (end, ended) = bounded(0);
    (Scrubber::new(Arc::clone(&node.shared), u64::MAX, Duration::ZERO, ended), end)
}

fn open(directory: &Path) -> Node {
    Node::open(NodeOptions::alone(directory)).unwrap()
}

pub(in crate::node) fn until(what: &str, holds: impl Fn() -> bool) {
    let start = now();
    while !holds() {
        assert!(now().saturating_duration_since(start) < PATIENCE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// There is nobody who could give it again, and nothing that is in the state is lost by it: it must not cost the writes.
#[test]
fn d12_a_node_that_is_alone_says_what_has_rotted_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    put(&node, 0..20);
    let (scrubber, _open) = scrubber(&node);
    assert_eq!(scrubber.pass().unwrap().damaged, 0);
    rot(directory.path(), 7);
    rot(directory.path(), 11);
    assert_eq!(scrubber.pass().unwrap().damaged, 2);
    until("the shard says so", || node.stats().unwrap().shards[0].damaged_ranges == 2);
    put(&node, 20..25);
    assert_eq!(scrubber.pass().unwrap().damaged, 2, "as long as it is there");
    let scrub = node.stats().unwrap().scrub;
    assert_eq!((scrub.passes, scrub.damaged_ranges, scrub.last_pass_damaged_ranges), (3, 4, 2));
    assert!(scrub.last_pass.is_some() && scrub.bytes > 60 * VALUE_BYTES as u64);
    assert_eq!(node.failure(), None);
    node.close().unwrap();
}

#[test]
fn what_was_released_is_no_damage_though_it_has_rotted() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    put(&node, 0..20);
    let (scrubber, _open) = scrubber(&node);
    for number in [3, 7] {
        rot(directory.path(), number);
    }
    assert_eq!(scrubber.pass().unwrap().damaged, 2, "both are there");
    until("the shard says so", || node.stats().unwrap().shards[0].damaged_ranges == 2);
    // As the keeper does.
    let policy = Policy { retention: Retention::bytes(5 * VALUE_BYTES as u64), ..Policy::default() };
    node.set_policy(crate::node::NAMESPACE_NAME, policy).unwrap();
    node.shared.gate.with(|store| store.flush()).unwrap().unwrap();
    let (_, under_way) = node.shared.release_logs(&node.shared.everybody());
    under_way.map_or(Ok(()), towline_wal::Pending::wait).unwrap();
    // No scrub has to find that: the next one ends in a week.
    until("the shard says that it is whole again", || node.stats().unwrap().shards[0].damaged_ranges == 0);
    assert_eq!(scrubber.pass().unwrap().damaged, 0);
    node.close().unwrap();
}

#[test]
fn what_is_left_of_a_range_is_what_the_log_still_has() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    put(&node, 0..3);
    rot(directory.path(), 1);
    let (log, wal) = (node.shared.registry.shards()[0].log, &node.shared.host.wal);
    let (verified, _) = wal.verify_part(log, Lsn::FIRST, Lsn::MAX).unwrap();
    let mut range = verified.damaged[0].clone();
    (range.first, range.last) = (Lsn::new(10), Lsn::new(19));
    let left = |start, end| {
        still_there(range.clone(), (Lsn::new(start), Lsn::new(end))).map(|left| (left.first.get(), left.last.get()))
    };
    assert_eq!(left(0, 100), Some((10, 19)));
    assert_eq!((left(9, 19), left(10, 18)), (Some((10, 19)), Some((11, 18))));
    assert_eq!((left(18, 100), left(19, 100)), (Some((19, 19)), None), "released");
    assert_eq!((left(0, 10), left(0, 9)), (Some((10, 10)), None), "cut off");
    assert_eq!(left(0, 0), None, "a log that is gone");
    node.close().unwrap();
}

/// Otherwise a node that is started anew before a pass ends would read the same beginning for ever, and never the rest.
#[test]
fn a_pass_begins_anywhere_and_reads_every_batch_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    node.create_namespace("another", &crate::node::NamespaceOptions::default().split_at(["m"])).unwrap();
    put(&node, 0..30);
    let (scrubber, _open) = scrubber(&node);
    let whole = scrubber.pass().unwrap();
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let first = scrubber.stretches()[0];
        places.insert((first.log, first.behind));
        assert_eq!(scrubber.pass().unwrap(), whole, "from {first:?}");
    }
    assert!(places.len() > 5, "{places:?}");
    node.close().unwrap();
}

#[test]
fn a_node_closes_at_once_in_the_middle_of_a_pass_and_reads_no_faster_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    (options.scrub_bytes_per_second, options.scrub_pause) = (1, Duration::ZERO);
    let node = Node::open(options).unwrap();
    put(&node, 0..300);
    until("it has begun", || node.stats().unwrap().scrub.bytes > 0);
    let scrub = node.stats().unwrap().scrub;
    assert!(scrub.bytes < 300 * VALUE_BYTES as u64 && scrub.passes == 0, "the second part is days away: {scrub:?}");
    let begun = now();
    node.close().unwrap();
    assert!(now().saturating_duration_since(begun) < Duration::from_secs(20));
}

#[test]
fn at_no_bytes_a_second_nothing_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(directory.path());
    options.scrub_bytes_per_second = 0;
    let node = Node::open(options).unwrap();
    assert_eq!(node.threads.lock().as_ref().unwrap().attendants(), 1, "the keeper");
    node.close().unwrap();
}

/// What rots there keeps the node from opening again, so whoever runs it must hear of it before.
#[test]
fn d12_what_rots_in_the_log_of_the_namespaces_is_told_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let name: String = noise(1).iter().map(|byte| char::from(b'a' + byte % 26)).take(60).collect();
    node.create_namespace(&name, &crate::node::NamespaceOptions::default()).unwrap();
    put(&node, 0..3);
    rot_bytes(directory.path(), name.as_bytes());
    let (scrubber, _open) = scrubber(&node);
    assert_eq!(scrubber.pass().unwrap().damaged, 1);
    assert_eq!(node.stats().unwrap().scrub.damaged_ranges, 1);
    assert!(node.stats().unwrap().shards.iter().all(|shard| shard.damaged_ranges == 0), "it is of no shard");
    node.close().unwrap();
}

/// Otherwise a node without descriptors would read on as fast as it can, or call what it could not read good.
#[test]
fn a_part_that_the_system_refuses_to_read_is_read_again_after_a_pause() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    let (mut scrubber, end) = scrubber(&node);
    scrubber.refused_pause = Duration::from_millis(50);
    let log = node.shared.registry.shards()[0].log;
    let refused = || {
        let failure = towline_wal::io::IoFailure::new(std::io::ErrorKind::OutOfMemory, "read", "1.seg");
        Err(WalError::Unread(failure))
    };
    let (mut next, mut passed) = (Some(Lsn::new(2)), Passed::default());
    let begun = now();
    assert_eq!(scrubber.part_read(log, refused(), &mut next, &mut passed), Some(0));
    assert!(now().saturating_duration_since(begun) >= scrubber.refused_pause);
    assert_eq!((next, passed), (Some(Lsn::new(2)), Passed::default()), "there it goes on, and nothing was read");
    let mut passed = Passed::default();
    assert_eq!(scrubber.part_read(log, Err(WalError::Closed), &mut next, &mut passed), None);
    scrubber.refused_pause = Duration::from_secs(3600);
    drop(end);
    assert_eq!(scrubber.part_read(log, refused(), &mut next, &mut passed), None, "the node closes in the middle of it");
    node.close().unwrap();
}

/// What an opening finds is in the way of a new epoch, and nobody has it: only an operator can decide.
#[test]
fn a_node_that_is_alone_and_opens_a_damaged_log_says_what_gives_the_damage_up() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path());
    put(&node, 0..5);
    node.close().unwrap();
    rot(directory.path(), 2);
    let node = open(directory.path());
    until("its shard stops", || node.failure().is_some());
    let reason = node.failure().unwrap();
    assert!(reason.contains("no other node has it") && reason.contains("`towline wal repair`"), "{reason}");
    node.close().unwrap();
}

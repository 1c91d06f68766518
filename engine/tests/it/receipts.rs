//! P9: very many receipts under way, kept in every way, and the node closes in the middle.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use towline::model::{Outcome, Read, Scan};
use towline::node::{Namespace, Node, NodeOptions, WriteRefused};
use towline::pipeline::{Receipt, SubmitError, WriteError, Written};

/// At the least.
const RECEIPTS: usize = 100_000;
const PRODUCERS: usize = 4;
/// More than one producer writes.
const APART: usize = 10_000_000;

/// What was heard of a write, by the key that it put.
type Heard = Vec<(usize, Result<Written, WriteError>)>;

fn open(directory: &Path, close_within: Duration) -> Node {
    let mut options = NodeOptions::alone(directory);
    options.close_within = close_within;
    // So many are under way at one time.
    (options.queue_slots, options.queue_bytes) = (RECEIPTS, 64 << 20);
    // And most of them still in the queue when the end comes.
    options.unapplied_bytes = 256 << 10;
    Node::open(options).unwrap()
}

fn name(number: usize) -> String {
    format!("{number:08}")
}

/// Waits in each of the two ways.
fn wait(number: usize, receipt: Receipt) -> Result<Written, WriteError> {
    match receipt.wait_for(Duration::ZERO).transpose() {
        // Whoever heard it hears the same again.
        Some(early) => {
            assert_eq!(receipt.wait(), early, "{number}");
            early
        }
        None if number.is_multiple_of(2) => receipt.wait(),
        None => receipt.wait_for(Duration::from_secs(60)).map(|heard| heard.expect("an answer")),
    }
}

/// Writes until the node takes no more: the number that it refused.
fn produce(space: &Namespace, numbers: std::ops::RangeFrom<usize>, give: impl Fn(usize, Receipt)) -> usize {
    for number in numbers {
        match space.put(name(number), name(number)) {
            Ok(receipt) => give(number, receipt),
            Err(WriteRefused::Submit(SubmitError::Closed)) => return number,
            Err(other) => panic!("{number}: {other}"),
        }
    }
    unreachable!("there is always a next number")
}

fn content(space: &Namespace) -> BTreeMap<String, u64> {
    let (mut found, mut next) = (BTreeMap::new(), Some(Scan::all()));
    while let Some(scan) = next {
        let page = space.scan(&scan, Read::Linearizable).unwrap();
        for entry in page.entries {
            assert_eq!(entry.key, entry.value);
            found.insert(String::from_utf8(entry.key.to_vec()).unwrap(), entry.version);
        }
        next = page.next;
    }
    found
}

#[test]
fn i1_each_of_very_many_receipts_has_one_outcome_that_holds_also_when_the_node_closes_in_the_middle() {
    assert_eq!(heard_at_a_close(Duration::from_secs(60)), [0, 0], "it finished what it took");
}

/// What is queued then is refused, and what is sealed is in doubt.
#[test]
fn i1_each_of_very_many_receipts_has_one_outcome_that_holds_also_when_the_node_closes_at_once() {
    let [closed, unknown] = heard_at_a_close(Duration::ZERO);
    assert!(closed > 0, "{closed} refused, {unknown} in doubt");
}

/// How many heard that they have no effect, and how many that nobody knows.
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn heard_at_a_close(close_within: Duration) -> [usize; 2] {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path(), close_within);
    let space = node.default_namespace();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let (middle, in_the_middle) = mpsc::channel();
    let (heard, refused, kept) = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for producer in 0..PRODUCERS {
            let (space, middle, runtime) = (&space, middle.clone(), &runtime);
            let (to_waiter, waiting) = mpsc::channel::<(usize, Receipt)>();
            let waiter = scope.spawn(move || -> Heard {
                waiting.into_iter().map(|(number, receipt)| (number, wait(number, receipt))).collect()
            });
            let share = RECEIPTS / PRODUCERS;
            let numbers = producer * APART..;
            let enough = numbers.start + share - 1;
            let producing = scope.spawn(move || {
                let (to_futures, futures) = mpsc::channel();
                let refused = produce(space, numbers, |number, receipt| {
                    match number % 3 {
                        0 => to_waiter.send((number, receipt)).unwrap(),
                        1 => {
                            let polled = async move {
                                let mut receipt = receipt;
                                let heard = (&mut receipt).await;
                                assert_eq!(receipt.wait(), heard, "{number}");
                                (number, heard)
                            };
                            to_futures.send(runtime.spawn(polled)).unwrap();
                        }
                        _ => drop(receipt),
                    }
                    if number == enough {
                        middle.send(()).unwrap();
                    }
                });
                drop(to_futures);
                let polled: Vec<_> = futures.into_iter().collect();
                (refused, polled)
            });
            threads.push((waiter, producing));
        }
        // So many were taken; each goes on until it is refused, so that the end comes in the middle.
        for _ in 0..PRODUCERS {
            in_the_middle.recv().unwrap();
        }
        node.close().unwrap();
        let (mut heard, mut refused, mut kept) = (Heard::new(), Vec::new(), 0);
        for (waiter, producing) in threads {
            let (of_producer, polled) = producing.join().unwrap();
            refused.push(of_producer);
            kept += polled.len();
            heard.extend(polled.into_iter().map(|polled| runtime.block_on(polled).unwrap()));
            let waited = waiter.join().unwrap();
            kept += waited.len();
            heard.extend(waited);
        }
        (heard, refused, kept)
    });
    assert_eq!(heard.len(), kept);

    let node = open(directory.path(), Duration::from_secs(60));
    let there = content(&node.default_namespace());
    let (mut applied, mut closed, mut unknown) = (BTreeMap::new(), 0, 0);
    for (number, outcome) in heard {
        let version = there.get(&name(number));
        match outcome {
            Ok(written) => {
                assert_eq!(written.outcome, Outcome::Applied { version: written.lsn.get() }, "{number}");
                assert_eq!(version, Some(&written.lsn.get()), "I1: {number} was acknowledged");
                let other = applied.insert(written.lsn, number);
                assert_eq!(other, None, "I6: {number} heard the outcome of another one");
            }
            Err(WriteError::Closed) => {
                assert_eq!(version, None, "{number} has no effect, it was said");
                closed += 1;
            }
            Err(WriteError::Unknown) => unknown += 1,
            Err(other) => panic!("{number}: {other}"),
        }
    }
    for number in refused {
        assert_eq!(there.get(&name(number)), None, "{number} was refused");
    }
    assert!(!applied.is_empty());
    node.close().unwrap();
    [closed, unknown]
}

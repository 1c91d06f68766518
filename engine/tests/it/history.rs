//! What clients saw, and whether one copy of the data could have shown it to them.
//!
//! All of them write one register, and each write has its place in the log, which its answer tells; a read tells the place of the write
//! that it shows. So the order is known, and a history is linearizable if that order agrees with time: what begins when something has
//! ended stands behind it. Each writer appends its numbers to a stream of its own in the same write: they are there once each, in order.

use std::collections::BTreeMap;
use std::time::Duration;

/// One answer; times are those of the test's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) begun: Duration,
    pub(crate) ended: Duration,
    /// A write's own place, or that of the write that a read shows; 0: nothing was written.
    pub(crate) place: u64,
    pub(crate) value: String,
    pub(crate) is_write: bool,
}

/// Why no single copy could have shown this.
pub(crate) fn contradiction(seen: &[Seen]) -> Option<String> {
    let mut written: BTreeMap<u64, &Seen> = BTreeMap::new();
    for write in seen.iter().filter(|seen| seen.is_write) {
        if let Some(other) = written.insert(write.place, write) {
            return Some(format!("two writes at one place: {other:?}, {write:?}"));
        }
    }
    for read in seen.iter().filter(|seen| !seen.is_write) {
        if let Some(write) = written.get(&read.place).filter(|write| write.value != read.value) {
            return Some(format!("a value that was not written there: {write:?}, {read:?}"));
        }
        if let Some(write) = written.get(&read.place).filter(|write| read.ended < write.begun) {
            return Some(format!("read before it was written: {read:?}, {write:?}"));
        }
    }
    let mut by_end: Vec<&Seen> = seen.iter().collect();
    by_end.sort_by_key(|seen| seen.ended);
    let mut by_begin: Vec<&Seen> = seen.iter().collect();
    by_begin.sort_by_key(|seen| seen.begun);
    let (mut ended, mut newest) = (by_end.into_iter().peekable(), None::<&Seen>);
    for later in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < later.begun) {
            if newest.is_none_or(|newest| earlier.place > newest.place) {
                newest = Some(earlier);
            }
        }
        let Some(newest) = newest else { continue };
        if later.place < newest.place || (later.is_write && later.place == newest.place) {
            return Some(format!("it began when the other had ended, and stands before it: {later:?}, {newest:?}"));
        }
    }
    None
}

/// What is wrong with a stream to which a writer appended 1, 2, 3 and so on, of which these were acknowledged.
pub(crate) fn not_once_each(found: &[u64], acknowledged: &[u64]) -> Option<String> {
    if let Some(pair) = found.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Some(format!("I5, I6: {} is followed by {}", pair[0], pair[1]));
    }
    let lost: Vec<_> = acknowledged.iter().filter(|number| found.binary_search(number).is_err()).collect();
    (!lost.is_empty()).then(|| format!("I1: acknowledged and lost: {lost:?}"))
}

fn op(is_write: bool, (begun, ended): (u64, u64), place: u64, value: &str) -> Seen {
    let (begun, ended) = (Duration::from_millis(begun), Duration::from_millis(ended));
    Seen { begun, ended, place, value: value.to_owned(), is_write }
}

#[test]
fn a_history_that_one_copy_explains_is_taken() {
    // The read overlaps both writes and shows either; that of 3 is of a write that nobody heard of.
    let writes = [op(true, (0, 10), 1, "a"), op(true, (5, 20), 2, "b")];
    for (place, value) in [(1, "a"), (2, "b"), (3, "c"), (0, "")] {
        let history = [&writes[..], &[op(false, (6, 8), place, value)]].concat();
        assert_eq!(contradiction(&history), None, "{value}");
    }
    assert_eq!(not_once_each(&[1, 2, 4], &[1, 4]), None, "2 took effect though nobody heard so");
}

#[test]
fn a_history_that_no_single_copy_explains_is_refused() {
    let write = |times, place, value| op(true, times, place, value);
    let read = |times, place, value| op(false, times, place, value);
    let contradictions = [
        ("stale", vec![write((0, 10), 1, "a"), write((11, 20), 2, "b"), read((21, 22), 1, "a")]),
        ("backwards", vec![write((0, 90), 2, "b"), read((1, 2), 2, "b"), read((3, 4), 1, "a")]),
        ("lost", vec![write((0, 10), 1, "a"), read((11, 12), 0, "")]),
        ("from the future", vec![read((1, 2), 1, "a"), write((3, 9), 1, "a")]),
        ("another value", vec![write((0, 10), 1, "a"), read((11, 12), 1, "b")]),
        ("twice", vec![write((0, 10), 1, "a"), write((0, 10), 1, "b")]),
        ("writes out of order", vec![write((0, 10), 2, "a"), write((11, 20), 1, "b")]),
        ("a write behind a read of it", vec![read((0, 1), 5, "x"), write((2, 3), 4, "y")]),
    ];
    for (what, history) in contradictions {
        assert!(contradiction(&history).is_some(), "{what}");
    }
    assert!(not_once_each(&[1, 2, 2], &[]).is_some(), "twice");
    assert!(not_once_each(&[1, 3, 2], &[]).is_some(), "overtaken");
    assert!(not_once_each(&[1, 3], &[1, 2]).is_some(), "lost");
}

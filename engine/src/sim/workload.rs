//! What simulated clients write, and how its traces are found in a state.
//!
//! Every write has a number, and its only lasting trace that matters is one event whose value is that number: in
//! the end each acknowledged write is found once in the streams, each rejected one never, and none twice.

use super::chance::Chance;
use super::world::NAMESPACE;
use crate::model::request::Direction;
use crate::model::{Expect, Operation, Precondition, Record, Target};
use crate::state::{Store, read_stream};
use bytes::Bytes;
use std::collections::BTreeMap;

const STREAMS: u64 = 8;
const KEYS: u64 = 16;

fn stream(number: u64) -> Bytes {
    Bytes::from(format!("stream-{number}"))
}

/// The record of one write, with up to `value_max` bytes besides its number.
pub(super) fn record(chance: &mut Chance, write: u64, value_max: u64) -> Record {
    let value = Bytes::copy_from_slice(&write.to_le_bytes());
    let expect = match chance.below(10) {
        0 => Expect::Version(chance.below(60)),
        1 => Expect::Absent,
        _ => Expect::Any,
    };
    let append = Operation::Append {
        stream: stream(chance.below(STREAMS)),
        expect,
        metadata: Bytes::from(vec![0x5a; usize::try_from(chance.below(value_max)).unwrap_or(0)]),
        value: value.clone(),
    };
    let mut record = Record::of(vec![append]);
    let key = Bytes::from(format!("key-{}", chance.below(KEYS)));
    match chance.below(6) {
        0 => record.operations.push(Operation::Put { key, value }),
        1 => record.operations.push(Operation::Delete { key }),
        2 => record.preconditions.push(Precondition { target: Target::Key, key, expect: Expect::Present }),
        3 => {
            let end = Bytes::from(format!("key-{}", chance.below(KEYS)));
            record.operations.push(Operation::DeleteRange { start: key, end });
        }
        _ => {}
    }
    record
}

/// How often each write is in the state.
pub(super) fn effects<S: Store>(store: &S) -> BTreeMap<u64, u64> {
    let mut effects = BTreeMap::new();
    for number in 0..STREAMS {
        let mut from = 1;
        loop {
            let read = read_stream(store, NAMESPACE, &stream(number), from, Direction::Forward, 1000, usize::MAX);
            let Ok(read) = read else { break };
            for event in &read.events {
                let write = event.value.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                *effects.entry(write).or_default() += 1;
                from = event.version + 1;
            }
            if !read.more {
                break;
            }
        }
    }
    effects
}

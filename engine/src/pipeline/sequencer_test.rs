//! The sequencer keeps the order, the limits, and one token a record.

use super::{Sequencer, Submission};
use crate::model::limits::{BATCH_BYTES_TARGET, BATCH_RECORDS_MAX};
use crate::model::{Epoch, LogId, LogPosition, Operation, Record};
use bytes::Bytes;
use proptest::prelude::*;
use towline_wal::Batch;

const EPOCH: Epoch = Epoch { version: 1, term: 1 };

fn record(number: usize, bytes: usize) -> Bytes {
    let key = Bytes::from(format!("{number:08}"));
    Record::of(vec![Operation::Put { key, value: vec![1; bytes].into() }]).encode().unwrap()
}

fn records_of(batch: &Batch) -> Vec<Bytes> {
    let mut records = Vec::new();
    for block in batch.blocks() {
        let mut raw = block.decode(64 << 20).unwrap();
        while !raw.is_empty() {
            records.push(Record::decode(&mut raw).unwrap().encode().unwrap());
        }
    }
    records
}

fn seal_all(sequencer: &mut Sequencer<usize>) -> Vec<(Batch, Vec<usize>)> {
    let log = LogId::new(3);
    let mut prev = LogPosition::origin(log);
    let mut sealed = Vec::new();
    while let Some(next) = sequencer.seal(log, EPOCH, prev, 7) {
        assert!(next.batch.follows(&prev));
        prev = next.batch.position();
        sealed.push((next.batch, next.tokens));
    }
    sealed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_was_pushed_comes_out_in_order_with_one_token_a_record(
        sizes in prop::collection::vec(prop_oneof![0_usize..300, 10_000_usize..40_000], 1..120)
    ) {
        let mut sequencer = Sequencer::new();
        let pushed: Vec<Bytes> = sizes.iter().enumerate().map(|(n, bytes)| record(n, *bytes)).collect();
        for (number, bytes) in pushed.iter().enumerate() {
            sequencer.push(Submission::record(bytes.clone(), number));
        }
        let sealed = seal_all(&mut sequencer);
        let mut found = Vec::new();
        let mut tokens = Vec::new();
        for (batch, mine) in sealed {
            prop_assert_eq!(batch.header().record_count as usize, mine.len());
            found.extend(records_of(&batch));
            tokens.extend(mine);
        }
        prop_assert_eq!(found, pushed);
        prop_assert_eq!(tokens, (0..sizes.len()).collect::<Vec<_>>());
        prop_assert_eq!(sequencer.queued_bytes(), 0);
    }
}

#[test]
fn a_batch_ends_at_its_limits_of_bytes_and_records() {
    let mut sequencer = Sequencer::new();
    for number in 0..BATCH_RECORDS_MAX as usize + 10 {
        sequencer.push(Submission::record(record(number, 1), number));
    }
    let sealed = seal_all(&mut sequencer);
    assert_eq!(sealed[0].1.len(), BATCH_RECORDS_MAX as usize);
    assert_eq!(sealed[1].1.len(), 10);
    for number in 0..3 * BATCH_BYTES_TARGET / 10_000 {
        sequencer.push(Submission::record(record(number, 10_000), number));
    }
    for (batch, _) in seal_all(&mut sequencer) {
        assert!(batch.header().raw_len as usize <= BATCH_BYTES_TARGET);
    }
}

#[test]
fn a_record_over_the_target_makes_its_own_batch() {
    let mut sequencer = Sequencer::new();
    sequencer.push(Submission::record(record(0, 2 * BATCH_BYTES_TARGET), 0));
    sequencer.push(Submission::record(record(1, 1), 1));
    let counts: Vec<usize> = seal_all(&mut sequencer).iter().map(|(_, tokens)| tokens.len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 2);
}

#[test]
fn time_stamps_never_fall_when_the_clock_does() {
    let log = LogId::new(3);
    let mut sequencer = Sequencer::new();
    sequencer.push(Submission::record(record(0, 1), 0));
    let first = sequencer.seal(log, EPOCH, LogPosition::origin(log), 100).unwrap();
    sequencer.push(Submission::record(record(1, 1), 1));
    let second = sequencer.seal(log, EPOCH, first.batch.position(), 50).unwrap();
    assert_eq!(second.batch.header().time_micros, 100);
}

#[test]
fn draining_gives_back_everyone_who_waits() {
    let mut sequencer = Sequencer::new();
    for number in 0..3 {
        sequencer.push(Submission::record(record(number, 1), number));
    }
    assert_eq!(sequencer.drain(), [0, 1, 2]);
    assert_eq!(sequencer.queued_bytes(), 0);
}

#[test]
fn records_that_shrink_to_nothing_do_not_make_a_batch_that_no_reader_may_hold() {
    let mut sequencer = Sequencer::new();
    for number in 0..6 {
        sequencer.push(Submission::record(record(number, 15 << 20), number));
    }
    for number in 6..3006 {
        sequencer.push(Submission::record(record(number, 20_000), number));
    }
    let sealed = seal_all(&mut sequencer);
    assert_eq!(sealed.iter().map(|(_, tokens)| tokens.len()).sum::<usize>(), 3006);
    for (batch, tokens) in &sealed {
        assert!(tokens.len() == 1 || batch.header().raw_len as usize <= 8 * BATCH_BYTES_TARGET);
    }
}

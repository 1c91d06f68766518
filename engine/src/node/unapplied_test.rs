use super::*;
use crate::model::{Epoch, LogId, LogPosition, Outcome, Rejection};
use crate::node::SHARD;
use crate::pipeline::{Receipt, WriteError};
use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;
use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

const LOG: LogId = LogId::new(1);

fn batch(prev: LogPosition, bytes: usize) -> Batch {
    let block = Block::encode(Bytes::from(vec![7; bytes]), 2, Compression::Never);
    BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), prev, 0).block(block).seal().unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        bytes: usize,
    },
    Truncate {
        back: usize,
    },
    /// So many more of the log's batches are committed and durable, and one task is taken and done.
    Apply {
        more: usize,
        bytes_max: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1_usize..400).prop_map(|bytes| Step::Push { bytes }),
        1 => (0_usize..4).prop_map(|back| Step::Truncate { back }),
        3 => (0_usize..6, 1_usize..600).prop_map(|(more, bytes_max)| Step::Apply { more, bytes_max }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// A follower far behind: whatever was forgotten, each task begins where the last one ended, and none is missing.
    #[test]
    fn tasks_follow_one_another_without_a_gap_however_little_fits(
        steps in prop::collection::vec(any_step(), 1..120), bytes_max in 1_usize..2_000,
    ) {
        let mut unapplied = Unapplied::new(bytes_max);
        let mut log: Vec<Batch> = Vec::new();
        let (mut applied, mut applicable) = (0_usize, 0_usize);
        let end = |log: &[Batch], count: usize| {
            count.checked_sub(1).map_or_else(|| LogPosition::origin(LOG), |last| log[last].position())
        };
        for step in steps.into_iter().chain([Step::Apply { more: usize::MAX, bytes_max: 100 }; 1]) {
            match step {
                Step::Push { bytes } => {
                    let batch = batch(end(&log, log.len()), bytes);
                    unapplied.push(batch.clone(), Vec::new(), times());
                    log.push(batch);
                    let one = log.last().unwrap().bytes().len();
                    prop_assert!(unapplied.bytes() <= bytes_max.max(one), "{} bytes", unapplied.bytes());
                }
                Step::Truncate { back } => {
                    log.truncate(log.len().saturating_sub(back).max(applicable));
                    unapplied.truncate(end(&log, log.len()).lsn);
                }
                Step::Apply { more, bytes_max } => {
                    applicable = applicable.saturating_add(more).min(log.len());
                    let upto = end(&log, applicable).lsn;
                    match unapplied.take(end(&log, applied).lsn, upto, bytes_max) {
                        Some(ApplyTask::Parts(parts)) => for part in parts {
                            prop_assert_eq!(&part.batch, &log[applied]);
                            applied += 1;
                        }
                        Some(ApplyTask::Range { after, until }) => {
                            prop_assert_eq!(after, end(&log, applied).lsn);
                            prop_assert!(until <= upto && until > after);
                            applied = log.iter().filter(|batch| batch.last_lsn() <= until).count();
                            prop_assert_eq!(end(&log, applied).lsn, until, "a boundary");
                        }
                        Some(ApplyTask::Explode) => unreachable!("nobody asked for it"),
                        None => prop_assert_eq!(applied, applicable, "something is left to apply"),
                    }
                    unapplied.forget(end(&log, applied).lsn);
                }
            }
            prop_assert!(applied <= applicable);
        }
    }
}

#[test]
fn a_batch_that_somebody_waits_for_is_not_forgotten() {
    let mut unapplied = Unapplied::new(1);
    let first = batch(LogPosition::origin(LOG), 10);
    let (receipt, completer) = Receipt::pair();
    unapplied.push(first.clone(), vec![Completion::Receipt(completer)], times());
    unapplied.push(batch(first.position(), 10), Vec::new(), times());
    assert!(!unapplied.nobody_waits());
    assert_eq!(receipt.wait_for(Duration::ZERO), Ok(None));
    assert!(
        matches!(unapplied.take(Lsn::ZERO, first.last_lsn(), 1), Some(ApplyTask::Parts(parts)) if parts.len() == 1)
    );
}

#[test]
fn whoever_waits_for_a_suffix_that_lost_hears_that_it_is_unknown() {
    let mut unapplied = Unapplied::new(1000);
    let first = batch(LogPosition::origin(LOG), 10);
    let (kept, completer) = Receipt::pair();
    unapplied.push(first.clone(), vec![Completion::Receipt(completer)], times());
    let (lost, completer) = Receipt::pair();
    unapplied.push(batch(first.position(), 10), vec![Completion::Receipt(completer)], times());
    unapplied.truncate(first.last_lsn());
    assert_eq!(lost.wait_for(Duration::ZERO), Err(WriteError::Unknown));
    assert_eq!(kept.wait_for(Duration::ZERO), Ok(None));
    unapplied.doubt(Lsn::ZERO);
    assert_eq!(kept.wait_for(Duration::ZERO), Err(WriteError::Unknown));
}

/// What becomes of a record of these tests: decided by its LSN, so that another record's answer is seen to be wrong.
fn outcome_of(lsn: Lsn) -> Outcome {
    match lsn.get() % 3 {
        0 => Outcome::Rejected(Rejection::StreamVersion { index: 0, actual: lsn.get() }),
        _ => Outcome::Applied { version: lsn.get() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// I6: a new leader applies what it took over, of which nobody waits, together with the first writes of its own.
    #[test]
    fn who_waits_hears_of_their_own_record_and_of_no_other(
        batches in prop::collection::vec((any::<bool>(), any::<bool>()), 1..20), skipped in 0_usize..3,
    ) {
        let (mut parts, mut outcomes, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        let mut end = LogPosition::origin(LOG);
        for (has_waiters, is_control) in batches {
            let batch = batch(end, 10);
            end = batch.position();
            let mut completions = Vec::new();
            for lsn in (batch.first_lsn().get()..=batch.last_lsn().get()).map(Lsn::new) {
                let outcome = (!is_control).then(|| outcome_of(lsn));
                outcomes.push(Applied { lsn, outcome, executed: None });
                if has_waiters {
                    let (receipt, completer) = Receipt::pair();
                    completions.push(Completion::Receipt(completer));
                    waiting.push((lsn, outcome, receipt));
                }
            }
            parts.push(Part { batch, completions, times: times(), wants_durable: false });
        }
        // Batches that were applied already have no outcome.
        let skipped = (skipped * 2).min(outcomes.len());
        outcomes.drain(..skipped);
        let first = outcomes.first().map(|applied| applied.lsn);
        Completion::written(answers(SHARD, parts, outcomes));
        for (lsn, outcome, receipt) in waiting {
            let told = receipt.wait();
            match outcome.filter(|_| first.is_some_and(|first| lsn >= first)) {
                Some(outcome) => prop_assert_eq!(told, Ok(Written { shard: SHARD, epoch: Epoch::new(1, 1), lsn, outcome })),
                None => prop_assert_eq!(told, Err(WriteError::Unknown)),
            }
        }
    }
}

#[test]
fn who_waits_for_less_than_apply_hears_when_that_is_reached_and_never_twice() {
    let mut unapplied = Unapplied::new(1 << 20);
    let log = LogId::new(1);
    let mut prev = LogPosition::origin(log);
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let raw = Bytes::from_static(b"abc");
        let builder = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), prev, 0);
        let batch = builder.block(Block::encode(raw, 3, Compression::Never)).seal().unwrap();
        prev = batch.position();
        let ((written, one), (durable, two), (buffered, three)) = (Receipt::pair(), Receipt::pair(), Receipt::pair());
        let mut completions = vec![Completion::Receipt(one), Completion::Durable(two), Completion::Buffered(three)];
        let first = Position { shard: SHARD, epoch: batch.epoch(), lsn: batch.first_lsn() };
        Completion::reached(&mut completions, Reached::Placed, &first);
        let placed = buffered.wait_for(Duration::ZERO).unwrap().unwrap();
        assert_eq!(placed.lsn, Lsn::new(first.lsn.get() + 2));
        assert_eq!(durable.wait_for(Duration::ZERO), Ok(None));
        waiting.push((written, durable));
        unapplied.push(batch, completions, times());
    }
    let told = std::cell::Cell::new(Lsn::ZERO);
    unapplied.durable(SHARD, Lsn::new(5), &Stages::default(), |lsn| {
        assert_eq!(
            waiting[0].1.wait_for(Duration::ZERO),
            Ok(None),
            "whoever reads after the answer finds how far that is"
        );
        told.set(lsn);
    });
    assert_eq!(told.get(), Lsn::new(3));
    assert_eq!(waiting[0].1.wait_for(Duration::ZERO).unwrap().unwrap().lsn, Lsn::new(2));
    assert_eq!(waiting[1].1.wait_for(Duration::ZERO), Ok(None), "its batch is not durable as a whole");
    assert!(!unapplied.nobody_waits());
    let Some(ApplyTask::Parts(parts)) = unapplied.take(Lsn::ZERO, Lsn::new(6), usize::MAX) else {
        panic!("two batches")
    };
    let outcome = Some(Outcome::Applied { version: 1 });
    let outcomes = (1..=6).map(|lsn| Applied { lsn: Lsn::new(lsn), outcome, executed: None }).collect();
    Completion::written(answers(SHARD, parts, outcomes));
    for (number, (written, durable)) in (0..).zip(waiting) {
        assert_eq!(written.wait().unwrap().lsn, Lsn::new(1 + 3 * number));
        assert_eq!(durable.wait().unwrap().lsn, Lsn::new(2 + 3 * number));
    }
}

#[test]
fn what_was_only_placed_is_in_doubt_for_nobody_and_what_was_not_durable_is() {
    let (buffered, one) = Receipt::<Position>::pair();
    let (durable, two) = Receipt::<Position>::pair();
    let mut completions = vec![Completion::Buffered(one), Completion::Durable(two)];
    let first = Position { shard: SHARD, epoch: Epoch::new(1, 1), lsn: Lsn::FIRST };
    Completion::reached(&mut completions, Reached::Placed, &first);
    completions.into_iter().for_each(Completion::unknown);
    assert_eq!(buffered.wait(), Ok(first));
    assert_eq!(durable.wait(), Err(WriteError::Unknown));
}

/// What shrinks well was little in the log, and all of it at one time in memory.
#[test]
fn a_task_is_bounded_in_what_its_batches_are_uncompressed() {
    const RAW: usize = 6 << 20;
    let mut unapplied = Unapplied::new(1 << 20);
    let mut prev = LogPosition::origin(LOG);
    for _ in 0..10 {
        let block = Block::encode(Bytes::from(vec![0; RAW]), 1, Compression::WhereItPays);
        let batch = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), prev, 0).block(block).seal().unwrap();
        prev = batch.position();
        unapplied.push(batch, Vec::new(), times());
    }
    let mut applied = Lsn::ZERO;
    while applied < prev.lsn {
        let Some(ApplyTask::Parts(parts)) = unapplied.take(applied, prev.lsn, 4 << 20) else { panic!("they are here") };
        assert!(parts.len() * RAW < APPLY_RAW_BYTES_MAX + RAW, "{} at once", parts.len());
        applied = parts.last().unwrap().batch.last_lsn();
    }
}

fn times() -> Times {
    Times::new(None, now())
}

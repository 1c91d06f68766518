//! What an append allocates once the log is at work: something for each group, nothing for each record.
//!
//! A program of its own, since it counts all that its threads allocate.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::alloc::System;
use std::collections::VecDeque;

use bytes::BytesMut;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use towline_wal::{BatchBuilder, BatchKind, Entry, Epoch, LogId, LogPosition, Lsn, Options, Pending, Wal};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LOG: LogId = LogId::new(1);
/// Appends under way at a time.
const WINDOW: usize = 1024;
/// Records before anything is counted, and records that are counted.
const WARM_UP: u64 = 30_000;
const COUNTED: u64 = 30_000;
/// Allocations for a group, whatever is in it; measured: about 40.
const PER_GROUP: u64 = 60;

struct Producer<'a> {
    wal: &'a Wal,
    end: LogPosition,
    memory: BytesMut,
    pending: VecDeque<Pending>,
}

impl Producer<'_> {
    fn append(&mut self, record: &[u8]) {
        if self.pending.len() == WINDOW {
            self.pending.pop_front().into_iter().for_each(|oldest| oldest.wait().unwrap());
        }
        let builder = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), self.end, 0);
        let batch = builder.seal_raw_in(&mut self.memory, record, 1).unwrap();
        self.end = batch.position();
        self.pending.push_back(self.wal.start_append(batch).unwrap());
        // What is old goes, so that segments are used again.
        if self.end.lsn.get().is_multiple_of(10_000) {
            let before = Lsn::new(self.end.lsn.get() - 5_000);
            drop(self.wal.submit(vec![Entry::Release { log: LOG, before }]).unwrap());
        }
    }
}

#[test]
fn a_log_at_work_allocates_nothing_for_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 8 << 20, tail_cache_bytes: 1 << 20, ..Options::default() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    let end = LogPosition::origin(LOG);
    let mut producer = Producer { wal: &wal, end, memory: BytesMut::new(), pending: VecDeque::with_capacity(WINDOW) };
    for _ in 0..WARM_UP {
        producer.append(&[7; 100]);
    }
    let groups = wal.stats().groups;
    let counted = Region::new(ALLOCATOR);
    for _ in 0..COUNTED {
        producer.append(&[7; 100]);
    }
    let change = counted.change();
    let groups = wal.stats().groups - groups;
    let allocations = u64::try_from(change.allocations + change.reallocations).unwrap();
    println!("{COUNTED} records in {groups} groups: {allocations} allocations");
    // A hundredth of the records: what grows by doubling, the producer's memory, segments.
    assert!(allocations <= PER_GROUP * groups + COUNTED / 100, "{allocations} for {COUNTED} in {groups} groups");
    assert!(groups * 10 < COUNTED, "groups of so few records would hide it");
}

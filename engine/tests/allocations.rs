//! What a write allocates once a node is at work: its receipt, and something for each batch. And what a message of few bytes, from
//! who means ill, makes its reader allocate.
//!
//! A program of its own, since it counts all that its threads allocate (what RocksDB allocates, in C++, is not counted).

#![cfg(feature = "node")]
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::collections::VecDeque;
use towline::model::call::Call;
use towline::model::codec::{ENVELOPE_BYTES, decode, encode};
use towline::model::request::{Request, RequestBody};
use towline::model::{Expect, Read, Record, Write};
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions};
use towline::pipeline::Receipt;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Writes under way at a time.
const WINDOW: usize = 512;
/// Writes before anything is counted, and writes that are counted.
const WARM_UP: usize = 30_000;
const COUNTED: usize = 30_000;
/// Allocations for a batch, whatever is in it; measured: 57.
const PER_BATCH: u64 = 100;

/// What an idle shard may hold; some 16 KiB were measured (docs/src/measurements.md).
const SHARD_BYTES_MAX: usize = 20 << 10;

struct Producer {
    space: Namespace,
    waiting: VecDeque<Receipt>,
}

impl Producer {
    fn write(&mut self, record: &Record) {
        if self.waiting.len() == WINDOW {
            let oldest = self.waiting.pop_front();
            assert!(oldest.is_none_or(|oldest| oldest.wait().is_ok()));
        }
        self.waiting.push_back(self.space.write(record).unwrap());
    }
}

#[test]
fn a_write_at_work_allocates_its_receipt_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let mut producer = Producer { space: node.default_namespace(), waiting: VecDeque::with_capacity(WINDOW) };
    // Made beforehand: what a caller gives is its own.
    let records: Vec<Record> = (0..WINDOW)
        .map(|number| {
            let (key, stream) = (format!("key-{number:06}"), format!("stream-{:02}", number % 16));
            Write::new().put(key, vec![7; 200]).append(stream, Expect::Any, vec![8; 100]).as_ref().clone()
        })
        .collect();
    let some = |number: usize| &records[number % WINDOW];
    (0..WARM_UP).for_each(|number| producer.write(some(number)));
    let batches = || node.stats().unwrap().shards[0].batches;
    let (before, region) = (batches(), Region::new(ALLOCATOR));
    (0..COUNTED).for_each(|number| producer.write(some(number)));
    let change = region.change();
    let allocations = (change.allocations + change.reallocations) as u64;
    let batches = batches() - before;
    let writes = COUNTED as u64;
    println!("{allocations} allocations for {writes} writes in {batches} batches");
    assert!(
        allocations <= writes + batches * PER_BATCH,
        "{allocations} allocations for {writes} writes in {batches} batches"
    );
    assert!(producer.waiting.into_iter().all(|receipt| receipt.wait().is_ok()));
    node.close().unwrap();
}

/// Ten thousand of them on a node are the aim: what each has beforehand counts (and what RocksDB has for each, in C++, is a key).
#[test]
fn an_idle_shard_holds_little_also_when_it_was_written_to() {
    const SHARDS: usize = 500;
    let directory = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
    let splits = NamespaceOptions::default().split_at((1..SHARDS).map(|number| format!("{number:03}")));
    // What comes once, and not for each shard, has come with the first.
    let mut spaces = ["first", "second"].map(|name| (name, None));
    let mut each = Vec::new();
    for (name, made) in &mut spaces {
        let region = Region::new(ALLOCATOR);
        let space = node.create_namespace(name, &splits).unwrap();
        for round in 0..2_u8 {
            let put = |number| space.put(format!("{number:03}"), vec![round; 100]).unwrap();
            let receipts: Vec<_> = (0..SHARDS).map(put).collect();
            receipts.into_iter().for_each(|receipt| assert!(receipt.wait().is_ok()));
        }
        let change = region.change();
        each.push(change.bytes_allocated.saturating_sub(change.bytes_deallocated) / SHARDS);
        *made = Some(space);
    }
    println!("{each:?} bytes of each shard");
    assert!(each[1] <= SHARD_BYTES_MAX, "{each:?} bytes of each shard");
    node.close().unwrap();
}

/// bincode believes a length up to its limit, and makes room for it before it looks whether so much is there.
#[test]
fn a_message_of_few_bytes_that_announces_many_asks_for_little() {
    let keys = vec![b"k".to_vec(); 3];
    let read = (&Read::Eventual).try_into().unwrap();
    for body in [RequestBody::Write { record: vec![7; 24] }, RequestBody::Call(Call::MultiGet { keys, read })] {
        let honest = encode(&Request { id: 1, deadline_ms: 0, namespace: "n".into(), body }).unwrap().to_vec();
        let mut refused = 0;
        for at in ENVELOPE_BYTES..honest.len() - 8 {
            for announced in [1_u64 << 16, 1 << 20, 30 << 20, 60 << 20] {
                let mut bytes = honest.clone();
                bytes[at..at + 8].copy_from_slice(&announced.to_le_bytes());
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&bytes[..8]);
                hasher.update(&bytes[ENVELOPE_BYTES..]);
                bytes[8..ENVELOPE_BYTES].copy_from_slice(&hasher.finalize().to_le_bytes());
                let region = Region::new(ALLOCATOR);
                refused += usize::from(decode::<Request>(&bytes).is_err());
                let allocated = region.change().bytes_allocated;
                assert!(allocated <= 128 << 10, "{} bytes made {allocated}, announcing {announced}", bytes.len());
            }
        }
        assert!(refused > 0);
    }
}

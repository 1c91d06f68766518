//! Bytes that are small on the wire and large when decompressed (N10): what a follower spends on the batches of a leader that
//! means no good. Nothing else that crosses the wire is compressed, and nothing at all before the peer is known.
//!
//! A program of its own, since it counts what its process holds.

#![cfg(feature = "node")]
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};
use towline::model::Message;
use towline::state::check_batch;
use towline_wal::{
    Batch, BatchBuilder, BatchKind, Block, BlockError, Codec, Epoch, LogId, LogPosition, limits::BATCH_RAW_BYTES_MAX,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tests of one process would count each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOG: LogId = LogId::new(1);
/// The largest block of a frame of zstd.
const RUN_BYTES: usize = 128 << 10;
/// A frame's header by RFC 8878: the magic number, no flag set, and a window of 2 MiB, or of 2 TiB: the largest that can be
/// said.
const SMALL_WINDOW: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 11 << 3];
const GIANT_WINDOW: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 31 << 3];
/// What decompression costs beside its output: a context of zstd, which each thread makes once, and the test's own.
const BESIDE: usize = 8 << 20;

/// A frame of runs of one byte: four bytes for each 128 KiB.
fn frame(header: &[u8], runs: usize) -> Bytes {
    let mut out = header.to_vec();
    for run in 1..=runs {
        let last = u32::from(run == runs);
        let block = u32::try_from(RUN_BYTES).unwrap() << 3 | 1 << 1 | last;
        out.extend_from_slice(&block.to_le_bytes()[..3]);
        out.push(0x5a);
    }
    out.into()
}

fn batch(raw_len: usize, stored: Bytes) -> Batch {
    let block = Block::from_parts(Codec::Zstd, u32::try_from(raw_len).unwrap(), 1, stored);
    BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), LogPosition::origin(LOG), 0).block(block).seal().unwrap()
}

/// A batch as it comes from a peer: one of a message's.
fn received(batch: Batch) -> Batch {
    let origin = LogPosition::origin(LOG);
    let message = Message::Append { epoch: batch.epoch(), prev: origin, commit: origin.lsn, batches: vec![batch] };
    match Message::decode(&message.encode().unwrap()).unwrap() {
        Message::Append { mut batches, .. } => batches.pop().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The most that the process ever held, zstd's own memory included, which is not Rust's; none where the system does not tell.
fn most_held() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()? << 10)
}

/// Checks a batch as a follower does before it keeps it: it is refused, and all that was allocated for that is so much at most.
fn assert_refused(what: &str, raw_len: usize, stored: Bytes, allocated_max: usize) {
    let (length, batch) = (stored.len(), received(batch(raw_len, stored)));
    let (before, region) = (most_held(), Region::new(ALLOCATOR));
    let checked = check_batch(&batch);
    let allocated = region.change().bytes_allocated;
    println!("{what}: {length} bytes on the wire, {allocated} allocated");
    assert!(checked.is_err(), "{what}: {checked:?}");
    assert!(allocated <= allocated_max + (64 << 10), "{what}: {allocated} bytes");
    if let (Some(before), Some(after)) = (before, most_held()) {
        let grew = after - before;
        assert!(grew <= allocated_max + BESIDE, "{what}: the process grew by {grew} bytes");
    }
}

#[test]
fn a_bomb_costs_no_more_than_what_it_says_it_is_and_no_more_than_a_batch_may_be() {
    let _alone = alone();
    let mebibytes = |count: usize| count << 20;
    // Once before anything is counted: a thread's context.
    assert!(check_batch(&batch(mebibytes(1), frame(&SMALL_WINDOW, 8))).is_err());

    let kilobyte = frame(&SMALL_WINDOW, 254);
    assert!(kilobyte.len() <= 1024, "{} bytes that are {} MiB", kilobyte.len(), 254 / 8);
    assert_refused("says 8 KiB, is 31 MiB", 8 << 10, kilobyte.clone(), 8 << 10);
    assert_refused("says 8 KiB, is 10 GiB", 400 << 10, frame(&SMALL_WINDOW, 80_000), 400 << 10);
    assert_refused("says what it is, 31 MiB", 254 * RUN_BYTES, kilobyte.clone(), BATCH_RAW_BYTES_MAX);
    assert_refused("a window of 2 TiB", mebibytes(1), frame(&GIANT_WINDOW, 8), mebibytes(1));
    let of_a_dictionary = [&[0x28, 0xb5, 0x2f, 0xfd, 1, 11 << 3, 7][..], &frame(&SMALL_WINDOW, 8)[6..]].concat();
    assert_refused("a dictionary that nobody has", mebibytes(1), of_a_dictionary.into(), mebibytes(1));
    let trailing = [&frame(&SMALL_WINDOW, 8)[..], b"junk"].concat();
    assert_refused("junk behind it", mebibytes(1), trailing.into(), mebibytes(1));
    // A second frame within the first is a record's bytes, and nobody decompresses those.
    let nested = [&SMALL_WINDOW[..], &(u32::try_from(kilobyte.len()).unwrap() << 3 | 1).to_le_bytes()[..3], &kilobyte];
    let nested = Block::from_parts(Codec::Zstd, u32::try_from(kilobyte.len()).unwrap(), 1, nested.concat().into());
    assert_eq!(nested.decode(1 << 20).unwrap(), kilobyte);
}

#[test]
fn a_block_that_says_more_than_a_batch_may_hold_is_refused_before_a_byte_is_decompressed() {
    let _alone = alone();
    for raw_len in [BATCH_RAW_BYTES_MAX + 1, 0x7fff_ffff, 0xffff_ffff] {
        let raw_len = u32::try_from(raw_len).unwrap();
        let block = Block::from_parts(Codec::Zstd, raw_len, 1, frame(&SMALL_WINDOW, 254));
        let region = Region::new(ALLOCATOR);
        let refused = block.decode(BATCH_RAW_BYTES_MAX);
        let allocated = region.change().bytes_allocated;
        assert_eq!(refused, Err(BlockError::TooLarge { raw_len, raw_len_max: BATCH_RAW_BYTES_MAX }));
        assert!(allocated <= 64 << 10, "{allocated} bytes");
    }
}

/// Each of a message's batches may be as large as a batch may be. They are looked at one after the other.
#[test]
fn a_message_of_bombs_costs_as_much_as_the_largest_of_them() {
    let _alone = alone();
    let Some(before) = most_held() else { return };
    let largest = frame(&SMALL_WINDOW, 254);
    for _ in 0..16 {
        assert!(check_batch(&received(batch(254 * RUN_BYTES, largest.clone()))).is_err());
    }
    let grew = most_held().unwrap() - before;
    assert!(grew <= BATCH_RAW_BYTES_MAX + BESIDE, "the process grew by {grew} bytes");
}

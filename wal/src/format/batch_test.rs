use bytes::Bytes;

use super::*;
use crate::format::block::{Codec, Compression};

fn block(text: &'static str, records: u32) -> Block {
    Block::encode(Bytes::from_static(text.as_bytes()), records, Compression::Never)
}

fn batch(prev: LogPosition, epoch: Epoch) -> Batch {
    BatchBuilder::new(LogId::new(7), BatchKind::Data, epoch, prev, 1_700_000_000_000_000)
        .block(block("first", 2))
        .block(block("second", 1))
        .seal()
        .unwrap()
}

fn start() -> LogPosition {
    LogPosition::origin(LogId::new(7))
}

#[test]
fn a_batch_reads_back_with_its_blocks() {
    let sealed = batch(start(), Epoch::new(1, 2));
    let read = Batch::decode(sealed.bytes().clone()).unwrap();
    assert_eq!(read, sealed);
    assert_eq!((read.first_lsn(), read.last_lsn()), (Lsn::new(1), Lsn::new(3)));
    let texts: Vec<Bytes> = read.blocks().map(|b| b.decode(100).unwrap()).collect();
    assert_eq!(texts, ["first", "second"]);
}

#[test]
fn a_batch_follows_exactly_one_history() {
    let first = batch(start(), Epoch::new(1, 1));
    let second = batch(first.position(), Epoch::new(1, 2));
    assert!(first.follows(&start()) && second.follows(&first.position()));
    assert!(!second.follows(&start()));
    let other = LogPosition { chain: Chain::new(1), ..first.position() };
    assert!(!second.follows(&other), "wrong chain");
    let other = LogPosition { epoch: Epoch::new(1, 0), ..first.position() };
    assert!(!second.follows(&other), "wrong previous epoch");
    assert!(!first.follows(&LogPosition::origin(LogId::new(8))), "another log's origin");
}

#[test]
fn every_single_bit_flip_is_refused() {
    let good = batch(start(), Epoch::new(1, 1)).bytes().to_vec();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Batch::decode(Bytes::from(bad)).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_any_trailing_byte_is_refused() {
    let good = batch(start(), Epoch::new(1, 1)).bytes().clone();
    for len in 0..good.len() {
        assert!(Batch::decode(good.slice(..len)).is_err(), "{len} bytes");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert_eq!(Batch::decode(Bytes::from(longer)), Err(BatchError::Trailing { extra: 1 }));
}

#[test]
fn a_newer_version_is_named_not_misread() {
    let mut bytes = batch(start(), Epoch::new(1, 1)).bytes().to_vec();
    bytes[4] = 2;
    let crc = crc32fast::hash(&bytes[..92]).to_le_bytes();
    bytes[92..96].copy_from_slice(&crc);
    assert_eq!(Batch::decode(Bytes::from(bytes)), Err(BatchError::Version { found: 2 }));
}

#[test]
fn an_empty_batch_and_a_falling_epoch_cannot_be_sealed() {
    let builder = BatchBuilder::new(LogId::new(7), BatchKind::Data, Epoch::new(1, 1), start(), 0);
    assert_eq!(builder.seal(), Err(BatchError::Field { field: "record count" }));
    let end = batch(start(), Epoch::new(2, 1)).position();
    let builder = BatchBuilder::new(LogId::new(7), BatchKind::Data, Epoch::new(1, 9), end, 0).block(block("x", 1));
    assert_eq!(builder.seal(), Err(BatchError::Field { field: "epoch" }));
}

#[test]
fn blocks_that_do_not_add_up_are_refused() {
    // A block that claims to grow by being stored, and one with bytes behind it.
    let grown = Block::from_parts(Codec::Raw, 1, 1, Bytes::from_static(b"xx"));
    let builder = BatchBuilder::new(LogId::new(7), BatchKind::Data, Epoch::new(1, 1), start(), 0).block(grown);
    assert_eq!(builder.seal(), Err(BatchError::Blocks));
}

#[test]
fn a_batch_sealed_from_bytes_is_the_one_sealed_from_their_block() {
    let builder = || BatchBuilder::new(LogId::new(7), BatchKind::Data, Epoch::new(1, 1), start(), 5);
    let (mut memory, mut sealed) = (BytesMut::new(), Vec::new());
    for bytes in [&b""[..], b"x", &[9; 70_000]] {
        let block = Block::encode(Bytes::copy_from_slice(bytes), 3, Compression::Never);
        let batch = builder().seal_raw(bytes, 3).unwrap();
        assert_eq!(batch, builder().block(block).seal().unwrap());
        assert_eq!(Batch::decode(batch.bytes().clone()).unwrap(), batch);
        memory.extend_from_slice(b"something that was left in it");
        let inside = builder().seal_raw_in(&mut memory, bytes, 3).unwrap();
        assert_eq!(inside, batch);
        sealed.push(inside);
    }
    for (bytes, batch) in [&b""[..], b"x", &[9; 70_000]].iter().zip(&sealed) {
        assert_eq!(&builder().seal_raw(bytes, 3).unwrap(), batch, "the memory of one batch is not another's");
    }
    assert!(builder().seal_raw(b"x", 0).is_err() && builder().seal_raw_in(&mut memory, b"x", 0).is_err());
    assert!(builder().seal_raw(&vec![0; BATCH_RAW_BYTES_MAX + 1], 1).is_err());
    let block = Block::encode(Bytes::from_static(b"x"), 1, Compression::Never);
    assert_eq!(builder().block(block).seal_raw(b"y", 1), Err(BatchError::Field { field: "block count" }));
}

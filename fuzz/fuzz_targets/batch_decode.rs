//! Any bytes as a batch: refused with a reason, or a batch that encodes to the same bytes again.
//!
//! The first byte says how the rest is taken. Bit 0: the checksums are made to fit first, since bytes that were
//! drawn at random never get past them; bit 1: the magic and the version as well, and the length.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use towline_wal::{Batch, BatchBuilder, BatchHeader, Block, Chain, LogPosition};

const HEADER: usize = 96;
/// What a reader of this target is ready to hold of one block.
const BLOCK_BYTES_MAX: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let mut bytes = rest.to_vec();
    if how & 1 != 0 && bytes.len() >= HEADER {
        if how & 2 != 0 {
            bytes[..5].copy_from_slice(b"TWBT\x01");
            let stored = u32::try_from(bytes.len() - HEADER).expect("an input is small");
            bytes[72..76].copy_from_slice(&stored.to_le_bytes());
        }
        let payload = crc32fast::hash(&bytes[HEADER..]);
        bytes[76..80].copy_from_slice(&payload.to_le_bytes());
        let header = crc32fast::hash(&bytes[..92]);
        bytes[92..96].copy_from_slice(&header.to_le_bytes());
    }
    let bytes = Bytes::from(bytes);
    if let Ok(batch) = Batch::decode(bytes.clone()) {
        holds(&batch, &bytes);
    }
});

/// What must be true of everything that was accepted.
fn holds(batch: &Batch, bytes: &Bytes) {
    assert_eq!(batch.bytes(), bytes, "a batch is exactly the bytes it was read from");
    let header = batch.header();
    assert_eq!(BatchHeader::decode(bytes).as_ref(), Ok(header));
    assert_eq!(header.batch_len(), bytes.len());
    assert_eq!(batch.position().lsn, header.last_lsn());

    let blocks: Vec<Block> = batch.blocks().collect();
    assert_eq!(blocks.len(), usize::try_from(header.block_count).expect("bounded"));
    let records: u64 = blocks.iter().map(|block| u64::from(block.record_count())).sum();
    assert_eq!(records, u64::from(header.record_count));
    for block in &blocks {
        if let Ok(raw) = block.decode(BLOCK_BYTES_MAX) {
            assert!(raw.len() <= BLOCK_BYTES_MAX);
            assert_eq!(raw.len(), usize::try_from(block.raw_len()).expect("bounded"));
        }
    }

    // Sealed again behind a predecessor that could have been: all but the chain, and the CRC over it, is the same.
    let before = LogPosition { epoch: header.prev_epoch, lsn: header.first_lsn.prev(), chain: Chain::new(0) };
    let again = blocks
        .into_iter()
        .fold(BatchBuilder::new(header.log, header.kind, header.epoch, before, header.time_micros), BatchBuilder::block)
        .seal()
        .expect("what was accepted can be sealed");
    assert_eq!(again.bytes()[..80], bytes[..80]);
    assert_eq!(again.bytes()[88..92], bytes[88..92]);
    assert_eq!(again.bytes()[HEADER..], bytes[HEADER..]);
    assert!(again.follows(&before));
}

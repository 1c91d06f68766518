//! Golden vectors: the bytes of every format, as files. Each is read back to the values that made it, and the values
//! are encoded to it again, byte for byte.
//!
//! `TOWLINE_BLESS=1` writes them anew; a changed file needs a raised format version, so CI refuses to bless.

use std::path::PathBuf;

use bytes::Bytes;

use super::batch::{Batch, BatchBuilder, BatchKind};
use super::block::{Block, Codec, Compression};
use super::footer::{Footer, Summary, TRAILER_BYTES, Trailer};
use super::group::{GroupFlags, GroupHeader, GroupIdentity, HeaderSeen, Place, encode_group};
use super::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use super::manifest::Manifest;
use super::record::{BatchEntry, HardStateKind, Record, decode_records, repeat_records};
use super::segment::{LogFilesEnd, SegmentHeader};

const LOG: LogId = LogId::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const DIRECTORY: [u8; 16] = *b"directory uuid 1";

/// The golden file's bytes; written first if asked for.
fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden/v1").join(name);
    if std::env::var_os("TOWLINE_BLESS").is_some_and(|bless| bless == "1") {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI reads golden files, it never writes them");
        std::fs::write(&path, fresh).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of a version that is written no more.
fn of_before(name: &str) -> Vec<u8> {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/golden/v1").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn check(name: &str, fresh: &[u8]) -> Vec<u8> {
    let stored = golden(name, fresh);
    assert!(stored == fresh, "{name}: what is encoded now differs from the golden file: raise the format's version");
    stored
}

fn raw_batch() -> Batch {
    BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 2), LogPosition::origin(LOG), 1_700_000_000_123_456)
        .block(Block::encode(Bytes::from_static(b"first record"), 1, Compression::Never))
        .block(Block::encode(Bytes::from_static(b"second and third"), 2, Compression::Never))
        .seal()
        .unwrap()
}

fn compressible() -> Bytes {
    Bytes::from(b"the same words again and again; ".repeat(256))
}

fn control_batch_of(block: Block) -> Batch {
    BatchBuilder::new(LOG, BatchKind::Control, Epoch::new(2, 1), raw_batch().position(), 1_700_000_000_200_000)
        .block(block)
        .seal()
        .unwrap()
}

fn position() -> LogPosition {
    LogPosition { epoch: Epoch::new(2, 3), lsn: Lsn::new(9), chain: Chain::new(0x1122_3344_5566_7788) }
}

fn records() -> Vec<Record> {
    let at = position();
    let (first, last) = (Lsn::new(4), Lsn::new(9));
    vec![
        Record::Batch(BatchEntry { log: LOG, first, last, epoch: at.epoch, offset: 8192, len: 200, chain: at.chain }),
        Record::Truncate { log: LOG, to: at },
        Record::Remove { log: LOG },
        Record::Anchor { log: LOG, at },
        Record::Reset { log: LOG, to: at },
        Record::HardState { log: LOG, kind: HardStateKind::Promise, bytes: Bytes::from_static(b"a promise") },
        Record::HardState { log: LOG, kind: HardStateKind::Assignment, bytes: Bytes::from_static(b"an assignment") },
        Record::HardState { log: LOG, kind: HardStateKind::Snapshot, bytes: Bytes::new() },
        Record::HardState { log: LOG, kind: HardStateKind::Owner, bytes: Bytes::from_static(b"what the owner keeps") },
        Record::Cut { log: LOG, from: Lsn::new(10) },
        Record::Retirement { segment: 5 },
        Record::Closing { incarnation: 6 },
        Record::Mention { log: LOG, kind: HardStateKind::Promise },
    ]
}

fn segment() -> SegmentHeader {
    SegmentHeader {
        directory: DIRECTORY,
        number: 42,
        first_group: 1001,
        salt: 0x5a17_5a17_5a17_5a17,
        predecessor: LogFilesEnd { segment: 41, group: 1000, offset: 0x003f_0000 },
        incarnation: 7,
        segment_bytes: 64 << 20,
        live: vec![(3, 3), (10, 42)],
        sources: vec![5, 6],
    }
}

/// Where the batch of [`group`] lies.
fn entry() -> BatchEntry {
    let batch = raw_batch();
    let (first, last, at) = (batch.first_lsn(), batch.last_lsn(), batch.position());
    // The header, a batch's and a promise's record, and both as they are repeated.
    let offset = 8192 + 128 + 72 + 41 + 72 + 32;
    BatchEntry { log: LOG, first, last, epoch: at.epoch, offset, len: 156, chain: at.chain }
}

fn group_records() -> Vec<Record> {
    let vow = Record::HardState { log: LOG, kind: HardStateKind::Promise, bytes: Bytes::from_static(b"a promise") };
    vec![Record::Batch(entry()), vow]
}

fn place() -> Place {
    Place { salt: segment().salt, segment: 42, offset: 8192 }
}

fn group() -> (GroupHeader, Vec<u8>) {
    let identity = GroupIdentity {
        flags: GroupFlags { closing: true, beacon: false, compacted: false },
        place: place(),
        number: 1002,
        incarnation: 7,
        durable_through: 1001,
    };
    let own = group_records();
    let (header, slices) = encode_group(&identity, &own, &repeat_records(&own), &[raw_batch().bytes().clone()]);
    (header, slices.concat())
}

fn footer() -> Footer {
    let mut footer = Footer::default();
    (footer.last_group, footer.end) = (1002, 12288);
    footer.record(&Record::Truncate { log: LogId::new(2), to: position() });
    footer.batch(entry(), LogPosition::origin(LOG));
    let next = control_batch_of(Block::encode(Bytes::from_static(b"x"), 1, Compression::Never));
    let (first, last, at) = (next.first_lsn(), next.last_lsn(), next.position());
    footer.batch(BatchEntry { first, last, epoch: at.epoch, chain: at.chain, ..entry() }, raw_batch().position());
    footer
}

#[test]
fn a_raw_batch_is_the_golden_one() {
    let stored = check("batch-raw.bin", raw_batch().bytes());
    assert_eq!(Batch::decode(Bytes::from(stored)).unwrap(), raw_batch());
}

/// Another release of zstd may compress otherwise: what must stay is that the stored bytes read, and that a batch of
/// these very bytes is encoded the same.
#[cfg(feature = "zstd")]
#[test]
fn a_compressed_batch_reads_as_the_golden_one() {
    let fresh = control_batch_of(Block::encode(compressible(), 3, Compression::WhereItPays));
    let stored = Batch::decode(Bytes::from(golden("batch-zstd.bin", fresh.bytes()))).unwrap();
    let block = stored.blocks().next().unwrap();
    assert_eq!((block.codec(), block.record_count(), block.raw_len()), (Codec::Zstd, 3, 8192));
    assert_eq!(block.decode(1 << 20).unwrap(), compressible());
    let again = Block::from_parts(Codec::Zstd, 8192, 3, block.stored().clone());
    assert_eq!(control_batch_of(again).bytes(), stored.bytes());
    assert!(stored.follows(&raw_batch().position()));
}

#[cfg(not(feature = "zstd"))]
#[test]
fn a_compressed_batch_is_refused_by_name_without_the_feature() {
    let stored = Batch::decode(Bytes::from(golden("batch-zstd.bin", b""))).unwrap();
    let refused = stored.blocks().next().unwrap().decode(1 << 20);
    assert_eq!(refused, Err(super::block::BlockError::NoZstd));
    assert!(!compressible().is_empty() && Codec::Raw != Codec::Zstd);
}

#[test]
fn local_records_are_the_golden_ones() {
    let mut fresh = Vec::new();
    records().iter().for_each(|record| record.encode(&mut fresh));
    let stored = check("records.bin", &fresh);
    assert_eq!(decode_records(&stored).unwrap(), records());
}

/// A kind that came after the others: their bytes stay as they were.
#[test]
fn a_settled_record_is_the_golden_one() {
    let mut fresh = Vec::new();
    Record::Settled { log: LOG }.encode(&mut fresh);
    let stored = check("record-settled.bin", &fresh);
    assert_eq!(decode_records(&stored).unwrap(), [Record::Settled { log: LOG }]);
}

/// As above.
#[test]
fn a_record_of_what_is_gone_is_the_golden_one() {
    let (gone, mut fresh) = (Record::Gone { first: 3, last: 9 }, Vec::new());
    gone.encode(&mut fresh);
    let stored = check("record-gone.bin", &fresh);
    assert_eq!(decode_records(&stored).unwrap(), [gone]);
}

/// As above.
#[test]
fn a_record_of_what_was_put_again_is_the_golden_one() {
    let (mended, mut fresh) = (Record::Mended(entry()), Vec::new());
    mended.encode(&mut fresh);
    let stored = check("record-mended.bin", &fresh);
    assert_eq!(decode_records(&stored).unwrap(), [mended]);
}

#[test]
fn a_group_is_the_golden_one() {
    let (header, fresh) = group();
    let stored = check("group.bin", &fresh);
    assert_eq!(GroupHeader::decode_at(&stored, place()), HeaderSeen::Valid(header));
    let (own, repeated) = header.directories(&stored).unwrap();
    assert_eq!(own, group_records());
    assert_eq!(repeated, decode_records(&repeat_records(&own)).unwrap());
    let at = entry().offset as usize - 8192;
    assert_eq!(Batch::decode(Bytes::from(stored[at..at + 156].to_vec())).unwrap(), raw_batch());
}

#[test]
fn a_segment_header_is_the_golden_one() {
    let stored = check("segment-header-2.bin", &segment().encode());
    assert_eq!(SegmentHeader::decode(&stored), Ok(segment()));
    assert_eq!(SegmentHeader::decode(&of_before("segment-header.bin")), Ok(segment()), "version 1");
}

#[test]
fn a_footer_is_the_golden_one() {
    let (offset, fresh) = footer().encode(&segment());
    footer_is_read(&check("footer-segment-2.bin", &fresh), offset);
    // Its copy of the segment's header is of version 1.
    footer_is_read(&of_before("footer.bin"), offset);
}

fn footer_is_read(stored: &[u8], offset: u64) {
    let trailer = Trailer::decode(&stored[stored.len() - TRAILER_BYTES..]).unwrap();
    assert_eq!((trailer.offset, trailer.segment, trailer.directory), (offset, 42, DIRECTORY));
    let (summary, rest) = stored.split_at(trailer.summary_len as usize);
    let offsets = &rest[..trailer.offsets_len as usize];
    assert_eq!((trailer.summary_crc, trailer.offsets_crc), (crc32fast::hash(summary), crc32fast::hash(offsets)));
    let summary = Summary::decode(summary).unwrap();
    assert_eq!(summary.header, segment());
    assert!(summary.records.iter().eq(footer().records()));
    assert_eq!((summary.last_group, summary.end, trailer.batches()), (1002, 12288, 2));
    let made = footer();
    let batches: Vec<_> = made.logs.values().map(|log| log.batches.clone()).collect();
    assert_eq!(summary.offsets(offsets), Some(batches));
    let read: Vec<_> = summary.logs.iter().map(|log| (log.log, log.before, log.end, log.bytes)).collect();
    let end = made.logs[&LOG].batches[1].position();
    assert_eq!(read, [(LOG, LogPosition::origin(LOG), end, 2 * 156)]);
}

#[test]
fn a_manifest_is_the_golden_one() {
    let manifest = Manifest { directory: DIRECTORY, segment_bytes: 64 << 20 };
    let stored = check("manifest.bin", &manifest.encode());
    assert_eq!(Manifest::decode(&stored), Ok(manifest));
}

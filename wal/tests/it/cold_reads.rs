//! Reads of much that is not in memory: many batches by one read of the file, past the page cache.

use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;

use towline_wal::inspect;
use towline_wal::{Batch, Epoch, LogPosition, Lsn, Options, ReadError, Wal};

use crate::world::{batch, log};

const SEGMENT_BYTES: u64 = 16 << 20;

/// Nothing from memory: every read is of the files.
fn cold() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, tail_cache_bytes: 0, ..Options::default() }
}

/// Appends batches of sizes in turn, to this log and now and then to another; all of this one's.
fn fill(wal: &Wal, sizes: &[usize], count: usize) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut end, mut other) = (LogPosition::origin(log(1)), LogPosition::origin(log(2)));
    let mut under_way = Vec::new();
    for i in 0..count {
        let next = batch(log(1), end, Epoch::new(1, 1), 1, sizes[i % sizes.len()]);
        end = next.position();
        batches.push(next.clone());
        under_way.push(wal.start_append(next).unwrap());
        if i % 7 == 0 {
            let next = batch(log(2), other, Epoch::new(1, 1), 1, 3000);
            other = next.position();
            under_way.push(wal.start_append(next).unwrap());
        }
        if under_way.len() > 16 {
            under_way.drain(..).for_each(|pending| pending.wait().unwrap());
        }
    }
    under_way.drain(..).for_each(|pending| pending.wait().unwrap());
    batches
}

/// All of the log by reads of so many bytes.
fn read_all(wal: &Wal, max_bytes: usize) -> Vec<Batch> {
    let (mut all, mut next) = (Vec::new(), Lsn::FIRST);
    loop {
        let batches = wal.read(log(1), next, max_bytes).unwrap();
        let Some(last) = batches.last() else { return all };
        next = last.last_lsn().next();
        all.extend(batches);
    }
}

#[test]
fn large_reads_give_what_small_ones_do() {
    // Batches that are dense in the file, larger than what is read at once, and of both kinds.
    for sizes in [&[60_000, 1, 4000, 9000][..], &[5 << 20, 6 << 20], &[100, 5 << 20, 200_000]] {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = Wal::open(dir.path(), cold()).unwrap();
        let written = fill(&wal, sizes, (24 << 20) * sizes.len() / sizes.iter().sum::<usize>());
        assert!(wal.stats().rotations > 0, "a read crosses from one segment to the next");
        for max_bytes in [1, 300_000, 3 << 20, 9 << 20, usize::MAX] {
            assert!(read_all(&wal, max_bytes) == written, "sizes {sizes:?}, {max_bytes} bytes at once");
        }
        let options = cold();
        drop(wal);
        let (wal, _) = Wal::open(dir.path(), options).unwrap();
        let all = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| read_all(&wal, 8 << 20))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(all.iter().all(|all| *all == written), "several readers at a time");
    }
}

#[test]
fn a_large_read_ends_before_damage_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), cold()).unwrap();
    let written = fill(&wal, &[40_000, 50_000], 250);
    wal.close().unwrap();
    let damaged = Lsn::new(101);
    flip(dir.path(), damaged);
    let (wal, report) = Wal::open(dir.path(), cold()).unwrap();
    let lsns = |batches: &[Batch]| -> RangeInclusive<u64> {
        batches.first().unwrap().first_lsn().get()..=batches.last().unwrap().last_lsn().get()
    };
    let before = wal.read(log(1), Lsn::new(50), 6 << 20).unwrap();
    assert_eq!(lsns(&before), 50..=100, "what was read before the damage is good: {report:?}");
    assert!(before[..] == written[49..100]);
    match wal.read(log(1), damaged, 6 << 20).unwrap_err() {
        ReadError::Corrupt { log: of, first, last, file, .. } => {
            assert_eq!((of, first, last), (log(1), damaged, damaged));
            assert_eq!(file, "0000000000000001.seg");
        }
        other => panic!("{other}"),
    }
    let behind = wal.read(log(1), damaged.next(), 6 << 20).unwrap();
    assert!(behind.len() > 50 && behind[..] == written[101..101 + behind.len()]);
}

/// Flips a bit in the middle of a batch.
fn flip(dir: &Path, lsn: Lsn) {
    let batches = inspect::batches(dir, log(1)).unwrap();
    let wanted = batches.iter().find(|batch| batch.first_lsn() == lsn).unwrap().bytes().clone();
    let path = dir.join("0000000000000001.seg");
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(SEGMENT_BYTES).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes.windows(96).position(|window| *window == wanted[..96]).unwrap() + wanted.len() / 2;
    file.write_all_at(&[bytes[at] ^ 1], u64::try_from(at).unwrap()).unwrap();
    file.sync_all().unwrap();
}

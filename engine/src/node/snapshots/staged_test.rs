//! What is left of staged parts after a crash, and after damage.

use super::*;
use crate::model::{Expect, NamespaceId, ShardId, Write};
use crate::pipeline::Sequencer;
use crate::state::{Applier, MemStore, take_snapshot};

fn shard() -> ShardDescriptor {
    ShardDescriptor { shard: ShardId::new(1024), namespace: NamespaceId::new(1), start: vec![], end: vec![] }
}

const LOG: u128 = 7;

/// A snapshot of some parts.
fn snapshot(values: u32) -> (SnapshotId, Vec<Bytes>) {
    let log = LogId::new(LOG);
    let mut applier = Applier::open(MemStore::new(), shard(), log).unwrap();
    let mut sequencer = Sequencer::new();
    for number in 0..values {
        let write = Write::new().append(format!("stream-{number}"), Expect::Any, vec![0; 100]);
        sequencer.push(crate::pipeline::Submission::record(write.into_record().encode().unwrap(), ()));
    }
    let sealed = sequencer.seal(log, Epoch::new(1, 1), applier.applied(), 0).unwrap();
    applier.apply(&[sealed.batch]).unwrap();
    take_snapshot(applier.store(), &shard(), log, 500).unwrap()
}

fn staged(directory: &Path, id: SnapshotId, parts: &[Bytes]) -> Staged {
    let mut staged = Staged::make(directory, id).unwrap();
    for (index, part) in (0..).zip(parts) {
        assert_eq!(staged.wanted(), Some(index));
        assert!(staged.add(index, part).unwrap());
    }
    staged
}

fn check(staged: &mut Staged) -> Checked {
    staged.check(&shard(), LogId::new(LOG), || true).unwrap()
}

impl Staged {
    /// What is here can't be read, or can again.
    pub(in crate::node::snapshots) fn set_readable(&mut self, is: bool) {
        let parts = OpenOptions::new().read(is).write(true).open(self.directory.join(PARTS));
        self.parts = parts.unwrap();
    }
}

fn rot(directory: &Path, at: usize) {
    let path = directory.join(PARTS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_here_already_is_there_again_after_a_crash_and_a_torn_end_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (id, parts) = snapshot(20);
    assert!(parts.len() > 4);
    let here = staged(directory.path(), id, &parts[..3]);
    let whole = here.end;
    drop(here);
    let torn = OpenOptions::new().write(true).open(directory.path().join(PARTS)).unwrap();
    torn.write_all_at(&parts[3][..20], whole).unwrap();
    let mut again = Staged::open(directory.path(), || true).unwrap().unwrap();
    assert_eq!((again.id(), again.wanted(), again.end), (id, Some(3), whole));
    for (index, part) in (0..).zip(&parts) {
        again.add(index, part).unwrap();
    }
    assert!(!again.add(2, &parts[2]).unwrap(), "it has that");
    assert_eq!(again.wanted(), None);
    assert_eq!(check(&mut again), Checked::Whole);
    assert_eq!(again.bytes(), id.bytes);
    let mut read = Vec::new();
    again
        .each(|part| {
            read.push(Bytes::from(part.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(read, parts);
    again.remove().unwrap();
    assert!(Staged::open(directory.path(), || true).unwrap().is_none());
}

/// D24.
#[test]
fn a_damaged_part_is_refused_and_it_alone_comes_once_more() {
    let (id, parts) = snapshot(20);
    for is_open in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut here = staged(directory.path(), id, &parts);
        let second = here.places[1].unwrap().offset;
        rot(directory.path(), usize::try_from(second).unwrap() + 7);
        if is_open {
            assert_eq!(check(&mut here), Checked::Damaged(1));
        } else {
            drop(here);
            here = Staged::open(directory.path(), || true).unwrap().unwrap();
        }
        assert_eq!(here.wanted(), Some(1));
        assert!(here.add(1, &parts[1]).unwrap());
        assert_eq!(here.wanted(), None, "no other");
        assert_eq!(check(&mut here), Checked::Whole);
        // The one that came later stands for it, also after a crash.
        drop(here);
        let mut here = Staged::open(directory.path(), || true).unwrap().unwrap();
        assert_eq!(check(&mut here), Checked::Whole);
    }
}

#[test]
fn a_damaged_head_ends_the_file_and_what_was_behind_it_comes_once_more() {
    let directory = tempfile::tempdir().unwrap();
    let (id, parts) = snapshot(20);
    let here = staged(directory.path(), id, &parts);
    let second = here.places[1].unwrap().offset;
    drop(here);
    rot(directory.path(), usize::try_from(second).unwrap() - HEAD_BYTES + 9);
    let here = Staged::open(directory.path(), || true).unwrap().unwrap();
    assert_eq!(here.wanted(), Some(1));
}

#[test]
fn parts_that_are_not_what_was_offered_are_thrown_away_and_those_of_another_are_never_mixed_in() {
    let directory = tempfile::tempdir().unwrap();
    let (id, parts) = snapshot(20);
    let other = SnapshotId { digest: id.digest ^ 1, ..id };
    let mut here = staged(directory.path(), other, &parts);
    assert_eq!(check(&mut here), Checked::NotWhatWasOffered);
    assert_eq!((here.wanted(), here.bytes()), (Some(0), 0));
    drop(here);
    // A file of parts under another offer: the heads tell.
    drop(staged(directory.path(), id, &parts));
    fs::write(directory.path().join(OFFER), encode_offer(&other).unwrap()).unwrap();
    assert_eq!(Staged::open(directory.path(), || true).unwrap().unwrap().wanted(), Some(0));
}

#[test]
fn the_offer_is_written_and_read_as_its_golden_file_says() {
    let at = LogPosition { epoch: Epoch::new(3, 2), lsn: Lsn::new(77), chain: Chain::new(5) };
    let id = SnapshotId { at, chunks: 9, bytes: 9_000_000, digest: 0xfeed_beef };
    let file = crate::golden::check("snapshot_offer_file.bin", &encode_offer(&id).unwrap());
    assert_eq!(decode_offer(&file).unwrap(), Some(id));
    let impossible = encode_offer(&SnapshotId { chunks: 0, ..id }).unwrap();
    assert_eq!(decode_offer(&impossible).unwrap(), None);
}

#[test]
fn what_lies_in_the_file_of_parts_is_as_its_golden_file_says() {
    let directory = tempfile::tempdir().unwrap();
    let at = LogPosition { epoch: Epoch::new(3, 2), lsn: Lsn::new(77), chain: Chain::new(5) };
    let id = SnapshotId { at, chunks: 2, bytes: 9, digest: 0xfeed_beef };
    drop(staged(directory.path(), id, &[Bytes::from("abcd"), Bytes::from("efghi")]));
    crate::golden::check("snapshot_parts_file.bin", &fs::read(directory.path().join(PARTS)).unwrap());
}

/// With no descriptor left it was thrown away, and all of it fetched again.
#[test]
fn what_the_system_refuses_for_a_moment_says_nothing_about_what_is_staged() {
    let error = |errno: rustix::io::Errno| StagedError::Io {
        path: PathBuf::new(),
        source: io::Error::from_raw_os_error(errno.raw_os_error()),
    };
    assert!(error(rustix::io::Errno::MFILE).may_pass() && error(rustix::io::Errno::NOMEM).may_pass());
    assert!(!error(rustix::io::Errno::IO).may_pass());
    let missing = StagedError::Missing { path: PathBuf::new(), at: Lsn::FIRST };
    assert!(!missing.may_pass() && StagedError::Closing.may_pass());
}

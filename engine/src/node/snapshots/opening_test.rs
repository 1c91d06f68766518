//! A crash at each step of a replacement.

use super::*;
use crate::model::limits::SNAPSHOT_CHUNK_BYTES;
use crate::model::{ClusterId, Expect, Read, SnapshotId};
use crate::node::{Node, NodeOptions, SHARD};
use crate::state::{Replacement, Survey};
use std::path::Path;
use towline_wal::{Options, Wal};

fn options(directory: &Path) -> NodeOptions {
    NodeOptions { cluster: Some(ClusterId::new([9; 16])), ..NodeOptions::alone(directory) }
}

/// A node that wrote so many values of 100 KB, and its state's digest.
fn written(directory: &Path, values: u32) -> (LogPosition, [u8; 16]) {
    let node = Node::open(options(directory)).unwrap();
    let space = node.default_namespace();
    for number in 0..values {
        space.put(format!("key-{number}"), noise(number)).unwrap().wait().unwrap();
        space.append("stream", Expect::Any, number.to_string()).unwrap().wait().unwrap();
    }
    let digest = node.digest().unwrap();
    node.close().unwrap();
    digest
}

fn noise(seed: u32) -> Vec<u8> {
    (0..25_000_u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes()).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Where the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Staged,
    Marked,
    Half,
    Replaced,
    Reset,
}

/// Everything up to this step, in the directory of a node that is closed.
fn carry_out(
    directory: &Path,
    shard: &ShardDescriptor,
    log: LogId,
    (id, parts): &(SnapshotId, Vec<bytes::Bytes>),
    until: Step,
) {
    let mut staged = Staged::make(&taken(directory, shard.shard), *id).unwrap();
    (0..).zip(parts).for_each(|(index, part)| assert!(staged.add(index, part).unwrap()));
    staged.sync().unwrap();
    if until < Step::Marked {
        return;
    }
    let (wal, _) = Wal::open(directory.join("wal"), Options::default()).unwrap();
    let mark = |at| Entry::HardState { log, kind: HardStateKind::Snapshot, bytes: InstallMark(at).encode().unwrap() };
    wal.submit(vec![mark(Some(id.at))]).unwrap().wait().unwrap();
    let store = Arc::new(RocksStore::open(&directory.join("state")).unwrap());
    let mut writer = RocksWriter::new(Arc::clone(&store));
    if until == Step::Half {
        let mut replacement = Replacement::begin(&mut writer, shard, log, id.at).unwrap();
        parts.iter().take(parts.len() / 2).for_each(|part| replacement.add(part).unwrap());
    } else if until > Step::Half {
        taker::replace(&mut writer, shard, log, &staged, || true).unwrap();
    }
    store.flush().unwrap();
    if until == Step::Reset {
        wal.submit(vec![Entry::Reset { log, to: id.at }, mark(None)]).unwrap().wait().unwrap();
    }
    wal.close().unwrap();
}

/// Attacks the order: mark, state, log.
#[test]
fn whatever_a_crash_leaves_of_a_replacement_is_finished_at_the_next_opening() {
    let directory = tempfile::tempdir().unwrap();
    let (source, old) = (directory.path().join("source"), directory.path().join("old"));
    let (at, newest) = written(&source, 120);
    let (_, before) = written(&old, 3);
    let store = RocksStore::open_read_only(&source.join("state")).unwrap();
    let shard = crate::control::Catalog::initial().namespaces().next().unwrap().shards[0].clone();
    let log = crate::control::ConfigMaster::lineage(ClusterId::new([9; 16]), SHARD);
    let survey = Survey::of(&store, &shard, log, SNAPSHOT_CHUNK_BYTES, |_| true).unwrap().unwrap();
    let part = |index| survey.chunk(&store, &shard, log, index).unwrap();
    let snapshot = (survey.id(), (0..survey.id().chunks).map(part).collect::<Vec<_>>());
    assert!(snapshot.0.at == at && snapshot.1.len() > 8, "{:?}", snapshot.0);
    for step in [Step::Staged, Step::Marked, Step::Half, Step::Replaced, Step::Reset] {
        let crashed = directory.path().join(format!("{step:?}"));
        copy(&old, &crashed);
        carry_out(&crashed, &shard, log, &snapshot, step);
        if step == Step::Half {
            let broken = directory.path().join("broken");
            copy(&crashed, &broken);
            let parts = taken(&broken, shard.shard).join("PARTS");
            let mut bytes = std::fs::read(&parts).unwrap();
            bytes[2_000_000] ^= 1;
            std::fs::write(parts, bytes).unwrap();
            let refused = Node::open(options(&broken)).map(drop).unwrap_err();
            assert_eq!((refused.code(), refused.class()), (6030, FailureClass::Damage), "{refused}");
        }
        let node = Node::open(options(&crashed)).unwrap();
        let is_new = step >= Step::Half;
        let digest = node.digest().unwrap().1;
        assert_eq!(digest, if is_new { newest } else { before }, "{step:?}: one of the two, whole");
        assert_eq!(node.shared.host.wal.start_of(log), if is_new { at } else { LogPosition::origin(log) }, "{step:?}");
        assert_eq!(taken(&crashed, shard.shard).join("OFFER").exists(), !is_new, "{step:?}: only what is of use stays");
        let space = node.default_namespace();
        space.put("after", "it goes on").unwrap().wait().unwrap();
        assert!(space.get("after", Read::Linearizable).unwrap().is_some());
        node.close().unwrap();
        // And it stays so.
        let node = Node::open(options(&crashed)).unwrap();
        assert_eq!(node.default_namespace().get("key-100", Read::Linearizable).unwrap().is_some(), is_new);
        node.close().unwrap();
    }
}

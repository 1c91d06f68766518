use std::collections::BTreeMap;
use std::io::Cursor;

use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, LogId as EntryId, Membership, RaftLogId, Vote};

use super::*;
use crate::format::batch::{BatchBuilder, BatchKind};
use crate::format::golden_test::check;
use crate::format::ids::{Epoch, LogId, LogPosition};

openraft::declare_raft_types!(
    /// Raft as its users have it, but for the type of what they write.
    Types:
        D = String,
        R = u64,
);

fn id(index: u64) -> EntryId<u64> {
    EntryId::new(CommittedLeaderId::new(3, 2), index)
}

/// One of each kind that openraft has.
fn entries() -> Vec<Entry<Types>> {
    let nodes = BTreeMap::from([(1, BasicNode::new("one:1")), (2, BasicNode::new("two:2"))]);
    let payloads = [
        EntryPayload::Membership(Membership::new(vec![[1].into(), [1, 2].into()], nodes)),
        EntryPayload::Blank,
        EntryPayload::Normal("text".to_owned()),
    ];
    payloads.into_iter().zip(7..).map(|(payload, index)| Entry { log_id: id(index), payload }).collect()
}

fn raw_block() -> Block {
    let mut run = Run::new();
    entries().iter().for_each(|entry| run.push(&encode_entry(entry).unwrap()));
    run.into_block()
}

fn batch_of(raw: &[u8], records: u32) -> Batch {
    let log = LogId::new(1);
    let block = Block::encode(Bytes::copy_from_slice(raw), records, Compression::Never);
    let start = LogPosition::origin(log);
    BatchBuilder::new(log, BatchKind::Data, Epoch::new(0, 3), start, 0).block(block).seal().unwrap()
}

#[test]
fn golden_entries_read_back_and_keep_their_bytes() {
    let raw = check("raft-entries.bin", &raw_block().decode(1 << 20).unwrap());
    let stored = entries_of(&batch_of(&raw, 3)).unwrap();
    let read: Vec<Entry<Types>> = stored.iter().map(|bytes| decode(bytes).unwrap()).collect();
    assert_eq!(read, entries());
}

#[test]
fn golden_facts_read_back_and_keep_their_bytes() {
    let vote = Vote::new_committed(4, 2_u64);
    assert_eq!(decode_fact::<Vote<u64>>(&check("raft-vote.bin", &encode_fact(&vote).unwrap())).unwrap(), vote);
    let purged = check("raft-log-id.bin", &encode_fact(&id(9)).unwrap());
    assert_eq!(decode_fact::<EntryId<u64>>(&purged).unwrap(), id(9));
    // What was committed may be nothing, and is written as an id otherwise.
    assert_eq!(encode_fact(&Some(id(9))).unwrap(), purged);
    assert_eq!(decode_fact::<Option<EntryId<u64>>>(&encode_fact(&None::<EntryId<u64>>).unwrap()).unwrap(), None);
}

#[test]
fn the_head_of_a_batch_is_its_first_entries_as_they_were() {
    let stored = entries_of(&batch_of(&raw_block().decode(1 << 20).unwrap(), 3)).unwrap();
    for count in 1..=3 {
        let head = head(&stored, count);
        let kept = entries_of(&batch_of(&head.decode(1 << 20).unwrap(), head.record_count())).unwrap();
        assert_eq!(kept, &stored[..count]);
    }
}

#[test]
fn bytes_that_were_changed_are_refused_or_read_and_never_more_than_that() {
    let raw = raw_block().decode(1 << 20).unwrap();
    let read = |bytes: &[u8]| {
        for entry in entries_of(&batch_of(bytes, 3))? {
            let entry: Entry<Types> = decode(&entry)?;
            assert!(!entry.get_log_id().to_string().is_empty());
        }
        Ok::<(), Fault>(())
    };
    for len in 0..raw.len() {
        assert!(read(&raw[..len]).is_err(), "{len} bytes of {}", raw.len());
        for bit in 0..8 {
            let mut changed = raw.to_vec();
            changed[len] ^= 1 << bit;
            drop(read(&changed));
        }
    }
    assert!(matches!(read(b"\x02"), Err(Fault::Newer { found: 2 })));
}

#[test]
fn a_fact_too_large_for_the_log_is_refused_and_what_json_loses_is_kept() {
    let large = encode_fact(&"x".repeat(HARD_STATE_BYTES_MAX));
    assert!(matches!(large, Err(Fault::TooLarge { .. })), "{large:?}");
    let odd = (f64::INFINITY, BTreeMap::from([((1, 2), 3)]));
    assert_eq!(decode::<(f64, BTreeMap<(i32, i32), i32>)>(&encode_entry(&odd).unwrap()).unwrap(), odd);
}

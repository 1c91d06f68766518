//! How much of the logs an opening after a crash would have to replay, and when that is enough.
//!
//! The bound on the state's memory does not bound it: who overwrites few keys fills the log and not the memory.

use super::Shared;
use crate::model::{Lsn, ShardId};
use std::collections::BTreeMap;

/// What is known of each shard: where it was when everything up to there was flushed, or nothing was known yet.
#[derive(Debug)]
pub(super) struct Unflushed {
    bytes_max: u64,
    marks: BTreeMap<ShardId, Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    applied: Lsn,
    /// Bytes of batches applied since the node was opened.
    bytes: u64,
}

impl Unflushed {
    /// So many bytes of batches may have to be replayed, of all logs together.
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, marks: BTreeMap::new() }
    }

    /// Whether the state is to be flushed now.
    ///
    /// What lies before a mark may not be flushed either, but is less than half: then the mark was made.
    pub(super) fn is_enough(&mut self, shared: &Shared) -> bool {
        let mut all = 0;
        let shards = shared.registry.shards();
        for shard in &shards {
            let id = shard.descriptor.shard;
            let (bytes, applied) = (shard.counters.bytes(), shard.positions.applied());
            let mark = self.marks.entry(id).or_insert(Mark { applied: Lsn::ZERO, bytes: 0 });
            // RocksDB flushes by itself as well. It is asked when something depends on it.
            if bytes.saturating_sub(mark.bytes) >= self.bytes_max / 8 {
                let flushed = shared.gate.with(|store| store.persisted_applied(id));
                if flushed.is_some_and(|found| found.is_ok_and(|found| found.is_some_and(|at| at.lsn >= mark.applied)))
                {
                    *mark = Mark { applied, bytes };
                }
            }
            all += bytes.saturating_sub(mark.bytes);
        }
        self.marks.retain(|id, _| shards.iter().any(|shard| shard.descriptor.shard == *id));
        all >= self.bytes_max / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, NodeOptions};

    /// A gigabyte of writes to few keys was a gigabyte to replay.
    #[test]
    fn few_keys_that_are_overwritten_are_flushed_once_there_is_much_to_replay() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let space = node.default_namespace();
        let mut unflushed = Unflushed::new(80_000);
        let mut flushes = 0;
        for number in 0..400 {
            // Not alike, so that they don't shrink.
            let value: Vec<u8> = (0..1000_u32).map(|at| (at.wrapping_mul(number + 7) >> 5).to_le_bytes()[0]).collect();
            space.put("key", value).unwrap().wait().unwrap();
            if unflushed.is_enough(&node.shared) {
                node.shared.gate.with(|store| store.flush()).unwrap().unwrap();
                flushes += 1;
            }
        }
        assert!((4..=16).contains(&flushes), "{flushes} flushes of 400,000 bytes, each within 80,000");
        node.close().unwrap();
    }
}

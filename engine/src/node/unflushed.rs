//! How much of the logs an opening after a crash would have to replay, and when that is enough.
//!
//! The bound on the state's memory does not bound it: who overwrites few keys fills the log and not the memory.

use super::Shared;
use super::hosting::ShardHandle;
use super::rest::Awake;
use crate::model::{Lsn, ShardId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How far each shard was when it was flushed, and since.
#[derive(Debug)]
pub(super) struct Unflushed {
    bytes_max: u64,
    shards: BTreeMap<ShardId, Marks>,
    /// Bytes that are not flushed, of all of them as they were seen last.
    bytes: u64,
}

#[derive(Debug, Default)]
struct Marks {
    /// Everything up to here is flushed.
    flushed: Mark,
    /// Where it was since, in steps; ascending.
    behind: VecDeque<Mark>,
    /// Bytes of batches applied, as they were seen last.
    seen: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    applied: Lsn,
    /// Bytes of batches applied since the node was opened.
    bytes: u64,
}

/// A step is this part of the bound.
const STEPS: u64 = 32;
/// More are not kept, should nothing be flushed for long.
const STEPS_MAX: usize = 128;
/// A smaller bound would have the state flushed all the time.
const BYTES_MIN: u64 = 64 << 10;

impl Unflushed {
    /// So many bytes of batches may have to be replayed, of all logs together.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max: bytes_max.max(BYTES_MIN), shards: BTreeMap::new(), bytes: 0 }
    }

    /// Whether the state is to be flushed now: at half, since what is written until the next look comes on top. Those that are
    /// not `awake` are as they were.
    pub(super) fn is_enough(&mut self, shared: &Shared, awake: &[Awake]) -> bool {
        for shard in awake.iter().flat_map(|awake| &awake.shards) {
            let marks = self.shards.entry(shard.descriptor.shard).or_default();
            let now = Mark::of(shard);
            self.bytes += now.bytes.saturating_sub(std::mem::replace(&mut marks.seen, now.bytes));
            let last = marks.behind.back().unwrap_or(&marks.flushed);
            if now.bytes.saturating_sub(last.bytes) >= self.bytes_max / STEPS && marks.behind.len() < STEPS_MAX {
                marks.behind.push_back(now);
            }
        }
        if self.shards.len() > shared.registry.count() {
            let known: BTreeSet<_> = shared.registry.shards().iter().map(|shard| shard.descriptor.shard).collect();
            self.shards.retain(|id, _| known.contains(id));
            self.count();
        }
        if self.bytes < self.bytes_max / 2 {
            return false;
        }
        // RocksDB flushes by itself as well. It is asked only now, when something depends on it.
        for (shard, marks) in self.shards.iter_mut().filter(|(_, marks)| !marks.behind.is_empty()) {
            let flushed = shared.gate.with(|store| store.persisted_applied(*shard));
            // What can't be read is not known to be flushed: it is asked for once more.
            let flushed = flushed.and_then(Result::ok).flatten().map_or(Lsn::ZERO, |flushed| flushed.lsn);
            while let Some(mark) = marks.behind.pop_front_if(|mark| mark.applied <= flushed) {
                marks.flushed = mark;
            }
        }
        self.count();
        self.bytes >= self.bytes_max / 2
    }

    /// Where the shards are: what a flush that begins after this will hold.
    pub(super) fn begin(shared: &Shared) -> Flush {
        Flush(shared.registry.shards().iter().map(|shard| (shard.descriptor.shard, Mark::of(shard))).collect())
    }

    /// That flush is finished.
    pub(super) fn end(&mut self, flush: Flush) {
        for (shard, mark) in flush.0 {
            let marks = self.shards.entry(shard).or_default();
            marks.flushed = mark;
            marks.seen = marks.seen.max(mark.bytes);
            marks.behind.retain(|other| other.bytes > mark.bytes);
        }
        self.count();
    }

    fn count(&mut self) {
        self.bytes = self.shards.values().map(|marks| marks.seen.saturating_sub(marks.flushed.bytes)).sum();
    }
}

/// A flush under way.
pub(super) struct Flush(Vec<(ShardId, Mark)>);

impl Mark {
    fn of(shard: &ShardHandle) -> Self {
        // In this order: what is counted is applied, or a moment later.
        Self { bytes: shard.counters.bytes(), applied: shard.positions.applied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{NamespaceOptions, Node, NodeOptions};

    fn noise(number: u32) -> Vec<u8> {
        // Not alike, so that they don't shrink.
        (0..1000_u32).map(|at| (at.wrapping_mul(number + 7) >> 5).to_le_bytes()[0]).collect()
    }

    /// A gigabyte of writes to few keys was a gigabyte to replay; then, of many shards none was enough by itself, and it was
    /// flushed at each look.
    #[test]
    fn few_keys_that_are_overwritten_in_many_shards_are_flushed_once_there_is_much_to_replay() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let splits = NamespaceOptions::default().split_at(["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
        let space = node.create_namespace("space", &splits).unwrap();
        let mut unflushed = Unflushed::new(80_000);
        let mut flushes = 0;
        for number in 0..400 {
            space.put(format!("{}", number % 10), noise(number)).unwrap().wait().unwrap();
            if unflushed.is_enough(&node.shared, &node.shared.everybody()) {
                let flush = Unflushed::begin(&node.shared);
                node.shared.gate.with(|store| store.flush()).unwrap().unwrap();
                unflushed.end(flush);
                flushes += 1;
            }
        }
        assert!((8..=11).contains(&flushes), "{flushes} flushes of 400,000 bytes, one for each 40,000");
        // What was flushed by somebody else is found.
        for number in 0..39 {
            space.put("0", noise(number)).unwrap().wait().unwrap();
            unflushed.is_enough(&node.shared, &node.shared.everybody());
        }
        node.shared.gate.with(|store| store.flush()).unwrap().unwrap();
        space.put("0", noise(40)).unwrap().wait().unwrap();
        space.put("0", noise(41)).unwrap().wait().unwrap();
        assert!(!unflushed.is_enough(&node.shared, &node.shared.everybody()));
        node.close().unwrap();
    }
}

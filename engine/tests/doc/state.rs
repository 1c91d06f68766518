// What examples of the documentation begin with and do not show: they include this file as a module. No target of its own.

use std::error::Error;
use towline::model::{Epoch, LogId, NamespaceId, Outcome, ShardDescriptor, ShardId, Write};
use towline::state::{Applier, MemStore};
use towline_wal::{BatchBuilder, BatchKind, Block, Compression};

const LOG: LogId = LogId::new(1);
/// The namespace of what is applied.
pub const NAMESPACE: NamespaceId = NamespaceId::new(1);

/// An empty state in memory.
pub fn empty() -> Result<Applier<MemStore>, Box<dyn Error>> {
    let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NAMESPACE, start: vec![], end: vec![] };
    Ok(Applier::open(MemStore::new(), shard, LOG)?)
}

/// Applies a write, in a batch of its own.
pub fn apply(applier: &mut Applier<MemStore>, write: Write) -> Result<Outcome, Box<dyn Error>> {
    let block = Block::encode(write.record().encode()?, 1, Compression::Never);
    let batch = BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), applier.applied(), 0).block(block).seal()?;
    Ok(applier.apply(&[batch])?[0].outcome.ok_or("a write has an outcome")?)
}

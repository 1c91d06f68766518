// What examples of the documentation begin with and do not show: they include this file as a module. No target of its own.

use towline::control::ConfigMaster;
use towline::model::{ClusterId, DirectoryId, Epoch, LogId, LogPosition, Lsn, NamespaceId, NodeId, ShardDescriptor, ShardId};
use towline::replica::LogView;
use towline_wal::Batch;

/// The nodes.
pub const ME: NodeId = NodeId::new(1);
pub const PEER: NodeId = NodeId::new(2);

/// Assigns a shard to these voters.
pub fn master(voters: &[NodeId]) -> ConfigMaster {
    let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
    let mut master = ConfigMaster::new(ClusterId::new([7; 16]), shard, voters);
    master.note_votes(Some(voters.iter().map(|voter| (*voter, DirectoryId::default())).collect()));
    voters.iter().for_each(|voter| master.meet(*voter, DirectoryId::default()));
    master
}

/// A log in memory, all of it durable.
pub struct Memory(pub LogId, pub Vec<Batch>);

impl Memory {
    fn ends(&self) -> impl DoubleEndedIterator<Item = LogPosition> {
        std::iter::once(LogPosition::origin(self.0)).chain(self.1.iter().map(Batch::position))
    }
}

impl LogView for Memory {
    fn start(&self) -> LogPosition {
        LogPosition::origin(self.0)
    }
    fn end(&self) -> LogPosition {
        self.ends().next_back().unwrap_or(LogPosition::origin(self.0))
    }
    fn durable_end(&self) -> LogPosition {
        self.end()
    }
    fn position_at(&self, lsn: Lsn) -> Option<LogPosition> {
        self.ends().find(|end| end.lsn == lsn)
    }
    fn boundary_at_or_before(&self, lsn: Lsn) -> Option<LogPosition> {
        self.ends().rfind(|end| end.lsn <= lsn)
    }
    fn epochs(&self) -> Vec<(Epoch, Lsn)> {
        let mut epochs: Vec<_> = self.1.iter().map(|batch| (batch.epoch(), batch.first_lsn())).collect();
        epochs.dedup_by_key(|(epoch, _)| *epoch);
        epochs
    }
    fn suspect(&self) -> Option<Lsn> {
        None
    }
    fn damaged(&self) -> Vec<(Lsn, Lsn)> {
        Vec::new()
    }
}

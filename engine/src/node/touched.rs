//! What a read must show, waited for without holding a thread: by those who ask from elsewhere.

use super::Namespace;
use super::hosting::ShardHandle;
use super::read_index::{Confirmation, ReadIndex};
use crate::model::call::Call;
use crate::model::{Lsn, Token};
use crate::replica::ReadTicket;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The shards that a read touches.
pub(super) struct Touched<'a> {
    space: &'a Namespace,
    shards: Vec<&'a Arc<ShardHandle>>,
}

impl Namespace {
    /// The shards that a call touches: those of its keys, or all.
    pub(super) fn touched(&self, call: &Call) -> Touched<'_> {
        let all = self.shards();
        let indexes: BTreeSet<usize> = match call {
            Call::MultiGet { keys, .. } => keys.iter().map(|key| self.index_of(key)).collect(),
            Call::ReadStream { stream, .. } => BTreeSet::from([self.index_of(stream)]),
            _ => (0..all.len()).collect(),
        };
        Touched { space: self, shards: indexes.into_iter().filter_map(|index| all.get(index)).collect() }
    }
}

impl Touched<'_> {
    /// Whether everything up to the token is applied here.
    pub(super) fn shows(&self, token: &Token) -> bool {
        let is_shown = |shard: &&Arc<ShardHandle>| {
            token.get(shard.descriptor.shard).is_none_or(|(_, lsn)| shard.positions.applied() >= lsn)
        };
        self.shards.iter().all(is_shown)
    }

    /// Whether a linearizable read here asks other nodes: there are some, and none of them is known to lead.
    pub(super) fn asks_others(&self) -> bool {
        let node = self.space.node();
        let may_lead = |shard: &&Arc<ShardHandle>| {
            shard.positions.leader().is_none_or(|leader| leader == node) && !shard.positions.has_ended()
        };
        !self.space.is_alone() && self.shards.iter().all(may_lead)
    }

    /// Whether writes are taken here, in all of them.
    pub(super) fn leads(&self) -> bool {
        self.shards.iter().all(|shard| shard.positions.serving().is_some())
    }

    /// The nodes that lead them, as far as it is known here.
    pub(super) fn leaders(&self) -> BTreeSet<crate::model::NodeId> {
        self.shards.iter().filter_map(|shard| shard.positions.leader()).collect()
    }

    /// One of which that is not so.
    pub(super) fn without(&self, is_so: impl Fn(&ShardHandle) -> bool) -> Option<&ShardHandle> {
        self.shards.iter().find(|shard| !is_so(shard)).map(|shard| &***shard)
    }

    /// Asks what [`Read::Linearizable`](crate::model::Read::Linearizable) asks of others: once these positions are
    /// [applied](Self::has), shard by shard, every read shows all that was acknowledged before. None where it does not lead, or
    /// no answer came.
    pub(super) async fn confirmed(&self, end: tokio::time::Instant) -> Option<Vec<Lsn>> {
        if !self.leads() {
            return None;
        }
        self.newest(end).await
    }

    /// Whether what is applied here is known to be no older than that.
    pub(super) fn is_fresh(&self, staleness: std::time::Duration) -> bool {
        // All are asked: each looks ahead for itself.
        self.shards.iter().filter(|shard| !shard.is_fresh(staleness)).count() == 0
    }

    /// Whether other nodes have a say in what is newest.
    pub(super) fn has_others(&self) -> bool {
        !self.space.is_alone()
    }

    /// As [`Self::confirmed`], of those who lead, wherever they are.
    pub(super) async fn newest(&self, end: tokio::time::Instant) -> Option<Vec<Lsn>> {
        let mut positions = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (sender, confirmed) = tokio::sync::oneshot::channel();
            let ticket = shard.confirm(move |confirmation| drop(sender.send(confirmation)));
            // Also when whoever waits is dropped.
            let _forgotten = Forgotten { reads: &shard.reads, ticket };
            match tokio::time::timeout_at(end, confirmed).await {
                Ok(Ok(Confirmation::At(index))) => positions.push(index),
                _ => return None,
            }
        }
        Some(positions)
    }

    /// Whether everything up to these positions is applied, shard by shard.
    pub(super) fn has(&self, positions: &[Lsn]) -> bool {
        self.shards.iter().zip(positions).all(|(shard, lsn)| shard.positions.applied() >= *lsn)
    }
}

/// A read that is waited for, until this is dropped.
struct Forgotten<'a> {
    reads: &'a ReadIndex,
    ticket: ReadTicket,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.reads.forget(self.ticket);
    }
}

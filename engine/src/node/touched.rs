//! What a read must show, waited for without holding a thread: by those who ask from elsewhere.

use super::Namespace;
use super::hosting::ShardHandle;
use super::read_index::{Confirmation, ReadIndex};
use crate::model::call::Call;
use crate::model::{Lsn, Token};
use crate::replica::ReadTicket;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

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
    /// [applied](Self::has), every read shows all that was acknowledged before. None where it does not lead, or no answer came.
    pub(super) async fn confirmed(&self, end: tokio::time::Instant) -> Option<Vec<(&ShardHandle, Lsn)>> {
        if !self.leads() {
            return None;
        }
        self.newest(|_| true, end).await
    }

    /// Whether what is applied here is known to be no older than that.
    pub(super) fn is_fresh(&self, staleness: Duration) -> bool {
        // All are asked: each looks ahead for itself.
        self.shards.iter().filter(|shard| !shard.is_fresh(staleness)).count() == 0
    }

    /// Whether other nodes have a say in what is newest.
    pub(super) fn has_others(&self) -> bool {
        !self.space.is_alone()
    }

    /// Whether a shard has stopped, or its node: nothing is to be waited for.
    pub(super) fn has_ended(&self) -> bool {
        self.shards.iter().any(|shard| shard.positions.has_ended())
    }

    /// As [`Self::confirmed`], of those who lead, wherever they are, for the shards of which that is not known already.
    pub(super) async fn refreshed(
        &self,
        staleness: Duration,
        end: tokio::time::Instant,
    ) -> Option<Vec<(&ShardHandle, Lsn)>> {
        self.newest(|shard| !shard.is_fresh(staleness), end).await
    }

    async fn newest(
        &self,
        wanted: impl Fn(&ShardHandle) -> bool,
        end: tokio::time::Instant,
    ) -> Option<Vec<(&ShardHandle, Lsn)>> {
        let ask = |shard: &&'_ Arc<ShardHandle>| {
            let (sender, confirmed) = tokio::sync::oneshot::channel();
            let ticket = shard.confirm(move |confirmation| drop(sender.send(confirmation)));
            (ticket, confirmed)
        };
        // All at a time. Those whose answers nobody waits for any more are forgotten, also when whoever waits is dropped.
        let asked: Vec<_> = self
            .shards
            .iter()
            .filter(|shard| wanted(shard))
            .map(|shard| {
                let (ticket, confirmed) = ask(shard);
                (&***shard, Forgotten { reads: &shard.reads, ticket }, confirmed)
            })
            .collect();
        let mut positions = Vec::with_capacity(asked.len());
        for (shard, _forgotten, confirmed) in asked {
            match tokio::time::timeout_at(end, confirmed).await {
                Ok(Ok(Confirmation::At(index))) => positions.push((shard, index)),
                _ => return None,
            }
        }
        Some(positions)
    }

    /// Whether everything up to these positions is applied.
    pub(super) fn has(&self, positions: &[(&ShardHandle, Lsn)]) -> bool {
        positions.iter().all(|(shard, lsn)| shard.positions.applied() >= *lsn)
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

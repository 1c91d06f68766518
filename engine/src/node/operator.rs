//! What an operator asks of a node: that it leads.

use super::assigning::AssignWaiter;
use super::hosting::ShardHandle;
use super::shard::Event;
use super::{Namespace, Node, failure};
use crate::model::call::Answer;
use crate::model::request::Failure;
use crate::model::{Epoch, NodeId, ShardId};
use crossbeam::channel::{RecvTimeoutError, bounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a shard's thread may take to say that the time is over.
const SHARD_WITHIN: Duration = Duration::from_secs(2);

impl Node {
    /// Has this node lead a shard of the namespace, and waits until it does.
    pub(super) fn assign_leader(
        &self,
        space: &Namespace,
        shard: Option<ShardId>,
        leader: NodeId,
        end: Instant,
    ) -> Result<Answer, Failure> {
        let shard = one_of(space.shards(), shard)?;
        let host = &self.shared.host;
        if leader != host.node {
            let voters = host.voters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let sentence = format!("this is node {}, and node {leader} can't be asked: there are {voters}", host.node);
            return Err(failure::bad_request(&sentence));
        }
        let (answer, answered) = bounded(1);
        shard.events.send(Event::Assign(AssignWaiter { deadline: end, answer }));
        let id = shard.descriptor.shard;
        match answered.recv_deadline(end + SHARD_WITHIN) {
            Ok(Ok(Epoch { version, term })) => Ok(Answer::Assigned { shard: id, leader, epoch: (version, term) }),
            Ok(Err(error)) => Err(failure::not_assigned(&error)),
            Err(RecvTimeoutError::Timeout) => Err(failure::unknown()),
            // It has ended; what had begun may stand.
            Err(RecvTimeoutError::Disconnected) => Err(Failure { no_side_effects: false, ..failure::closing() }),
        }
    }
}

fn one_of(shards: &[Arc<ShardHandle>], wanted: Option<ShardId>) -> Result<&ShardHandle, Failure> {
    let found = match wanted {
        Some(id) => shards.iter().find(|shard| shard.descriptor.shard == id),
        None if shards.len() == 1 => shards.first(),
        None => None,
    };
    found.map(|shard| &**shard).ok_or_else(|| {
        let all = shards.iter().map(|shard| shard.descriptor.shard.to_string()).collect::<Vec<_>>().join(", ");
        failure::bad_request(&format!("name one of the namespace's shards: {all}"))
    })
}

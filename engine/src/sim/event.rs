//! What is still to happen, in order of virtual time.

use super::fault::FaultKind;
use crate::model::{Epoch, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use towline_wal::io::{IoFailure, IoRequest};

/// One thing that will happen. Events of a node carry its *life*: those of an earlier one are void.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes arrive at the end of a link.
    Deliver { link: u64, from: NodeId, to: NodeId, bytes: Vec<Bytes> },
    /// A disk finished a request; the result is there already if it happened when it was asked.
    Io { node: NodeId, life: u64, request: IoRequest, result: Option<Result<(), IoFailure>> },
    /// A connection's timers are due.
    Tick { node: NodeId, life: u64 },
    /// The two nodes try to connect.
    Dial { low: NodeId, high: NodeId },
    /// The applier of a node takes what may be applied.
    Apply { node: NodeId, life: u64 },
    /// A node's state reaches its disk.
    Flush { node: NodeId, life: u64 },
    /// The control plane answers a report of activation.
    Accept { node: NodeId, life: u64, epoch: Epoch },
    /// The control plane assigns the shard.
    Assign { node: NodeId, life: u64, promised: Epoch },
    /// A client writes.
    Write { client: u64 },
    /// Something breaks.
    Fault,
    /// The power fails at these nodes, as soon as one of them writes.
    PowerCut { kind: FaultKind, victims: Vec<NodeId>, tries: u32 },
    /// A node starts.
    Start { node: NodeId },
    /// A cut between two nodes heals.
    Heal { low: NodeId, high: NodeId },
    /// A slow disk is quick again.
    Recover { node: NodeId },
}

/// Events by time; those of one moment in the order in which they were scheduled.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    now: Duration,
    sequence: u64,
    events: BTreeMap<(Duration, u64), Event>,
}

impl Agenda {
    pub(super) const fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.events.insert((self.now + after, self.sequence), event);
        self.sequence += 1;
    }

    /// The next event; time moves to it.
    pub(super) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}

//! What is still to happen, in order of virtual time.

use super::fault::FaultKind;
use super::snapshots::SnapshotStep;
use crate::model::{Assignment, Epoch, NodeId};
use crate::replica::Input;
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
    /// A timer of a connection or of the replica is due.
    Tick { node: NodeId, life: u64 },
    /// The two nodes try to connect.
    Dial { low: NodeId, high: NodeId },
    /// A node learns that a link is gone.
    Broken { node: NodeId, peer: NodeId, link: u64 },
    /// The applier of a node takes what may be applied.
    Apply { node: NodeId, life: u64 },
    /// A node's state reaches its disk.
    Flush { node: NodeId, life: u64 },
    /// What a replica asked of its driver is there.
    Answer { node: NodeId, life: u64, input: Box<Input> },
    /// A node is a step further with a snapshot that it is given.
    Snapshot { node: NodeId, life: u64, step: SnapshotStep },
    /// All of a node's log is read.
    Scrub { node: NodeId, life: u64 },
    /// An assignment reaches its leader.
    Assign { node: NodeId, assignment: Box<Assignment> },
    /// A leader reports (again) that its epoch is ready to be activated.
    Report { node: NodeId, life: u64, epoch: Epoch },
    /// The control plane's consent reaches the leader.
    Accepted { node: NodeId, life: u64, epoch: Epoch },
    /// The control plane hears that a leader was superseded.
    Superseded { node: NodeId, promised: Epoch },
    /// The control plane hears that a leader could not reach a majority, and leads no more.
    SteppedDown { node: NodeId, epoch: Epoch },
    /// The control plane looks at the shard, and goes on with what it plans.
    Look,
    /// The script assigns again, at once.
    Hasten,
    /// A client writes.
    Write { client: u64 },
    /// A client reads.
    Read { client: u64 },
    /// Something breaks.
    Fault,
    /// The power fails at these nodes, as soon as one of them writes.
    PowerCut { kind: FaultKind, victims: Vec<NodeId>, tries: u32 },
    /// A node starts.
    Start { node: NodeId },
    /// A paused process goes on.
    Resume { node: NodeId, life: u64 },
    /// A slow disk is quick again.
    Recover { node: NodeId },
}

impl Event {
    /// Whose process handles it: while that is paused, it waits.
    pub(super) const fn handled_by(&self) -> Option<NodeId> {
        match self {
            Self::Deliver { to: node, .. }
            | Self::Io { node, .. }
            | Self::Tick { node, .. }
            | Self::Broken { node, .. }
            | Self::Apply { node, .. }
            | Self::Flush { node, .. }
            | Self::Answer { node, .. }
            | Self::Snapshot { node, .. }
            | Self::Scrub { node, .. }
            | Self::Assign { node, .. }
            | Self::Report { node, .. }
            | Self::Accepted { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// What the trace knows it by, and what it knows of it. None of it depends on the build or the machine.
    pub(super) fn fingerprint(&self) -> [u64; 5] {
        match self {
            Self::Deliver { link, from, to, bytes } => {
                let total: usize = bytes.iter().map(Bytes::len).sum();
                [1, *link, from.get(), to.get(), total as u64]
            }
            Self::Io { node, life, result, .. } => [2, node.get(), *life, u64::from(result.is_some()), 0],
            Self::Tick { node, life } => [3, node.get(), *life, 0, 0],
            Self::Dial { low, high } => [4, low.get(), high.get(), 0, 0],
            Self::Broken { node, peer, link } => [5, node.get(), peer.get(), *link, 0],
            Self::Apply { node, life } => [6, node.get(), *life, 0, 0],
            Self::Flush { node, life } => [7, node.get(), *life, 0, 0],
            Self::Assign { node, assignment } => [8, node.get(), assignment.epoch.term.into(), 0, 0],
            Self::Report { node, life, epoch } => [9, node.get(), *life, epoch.term.into(), 0],
            Self::Accepted { node, life, epoch } => [10, node.get(), *life, epoch.term.into(), 0],
            Self::Superseded { node, promised } => [11, node.get(), promised.term.into(), 0, 0],
            Self::Look => [12, 0, 0, 0, 0],
            Self::Hasten => [13, 0, 0, 0, 0],
            Self::Write { client } => [14, *client, 0, 0, 0],
            Self::Fault => [15, 0, 0, 0, 0],
            Self::PowerCut { kind, victims, tries } => [16, *kind as u64, victims.len() as u64, u64::from(*tries), 0],
            Self::Start { node } => [17, node.get(), 0, 0, 0],
            Self::Resume { node, life } => [18, node.get(), *life, 0, 0],
            Self::Recover { node } => [19, node.get(), 0, 0, 0],
            Self::Read { client } => [20, *client, 0, 0, 0],
            Self::Answer { node, life, .. } => [22, node.get(), *life, 0, 0],
            Self::Snapshot { node, life, step } => [23, node.get(), *life, *step as u64, 0],
            Self::Scrub { node, life } => [24, node.get(), *life, 0, 0],
            Self::SteppedDown { node, epoch } => [21, node.get(), epoch.term.into(), 0, 0],
        }
    }

    /// Its line in a story.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Deliver { link, from, to, bytes } => {
                let total: usize = bytes.iter().map(Bytes::len).sum();
                format!("link {link}: {total} bytes from node {from} reach node {to}")
            }
            Self::Io { node, life, request, .. } => format!("node {node}.{life}: disk finished {:?}", request.id),
            Self::Assign { node, assignment } => {
                format!("the assignment of epoch {} reaches node {node}", assignment.epoch)
            }
            Self::Answer { node, life, .. } => format!("node {node}.{life}: a part of a snapshot"),
            other => format!("{other:?}"),
        }
    }
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

    /// What happens next.
    #[cfg(test)]
    pub(super) fn peek(&self) -> Option<&Event> {
        self.events.first_key_value().map(|(_, event)| event)
    }

    /// The next event; time moves to it.
    pub(super) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}

//! A path through the worlds, in sentences.

use super::judge::text;
use super::node::Happening;
use super::scope::Scope;
use super::steps::{Outcome, Steps};
use super::world::{Action, Fixed, World};
use crate::model::{Message, NodeId};
use crate::replica::{LogWrite, Promise};
use crate::sim::Violation;

/// The story of a path that ends in a violation. Positions are `LSN@epoch`.
pub(super) fn tell(fixed: &Fixed<'_>, steps: &mut Steps, path: &[Action], end: &Violation) -> Vec<String> {
    let mut lines = Vec::new();
    if fixed.scope.settled > 0 {
        lines.push(format!("      the first {} epochs are settled", fixed.scope.settled));
    }
    let Ok(mut world) = World::first(fixed, steps) else { return vec![end.to_string()] };
    for (number, action) in path.iter().enumerate() {
        let line = format!("{:>4}. {}", number + 1, sentence(fixed.scope, steps, &world, *action));
        lines.push(line + &consequences(steps, &world, *action));
        match world.after(fixed, steps, *action) {
            Ok(after) => world = after,
            Err(_) => break,
        }
    }
    lines.push(format!("      {end}"));
    lines
}

fn sentence(scope: &Scope, steps: &Steps, world: &World, action: Action) -> String {
    let leader = |turn: usize| scope.turns.get(turn).map_or(0, |turn| turn.leader.get());
    let heard = |from: usize, to: usize, behind: usize| {
        let message = world.waiting(from, to, behind).map(|id| steps.happening(id));
        let said = if let Some(Happening::Hears { message, .. }) = message { said(message) } else { "nothing".into() };
        format!("node {} hears from node {}: {said}", to + 1, from + 1)
    };
    match action {
        Action::Assign => {
            let turn = usize::from(world.assigned);
            let voters = nodes(scope.voters(turn));
            format!("the master assigns epoch {} to node {}, with voters {voters}", turn + 1, leader(turn))
        }
        Action::Accept(turn) => format!("the master accepts that epoch {} is activated", turn + 1),
        Action::Tell(turn) => format!("node {} hears that epoch {} is accepted", leader(turn), turn + 1),
        Action::Deliver(from, to) => heard(from, to, 0),
        Action::Repeat(from, to) => format!("{} (and will once more)", heard(from, to, 0)),
        Action::Overtake(from, to) => format!("{} (before what was sent before)", heard(from, to, 1)),
        Action::Sync(node) => {
            let write = steps.node(world.nodes[node]).log.under_way.front().map(|(_, write)| written(write));
            format!("node {} syncs {}", node + 1, write.unwrap_or_default())
        }
        Action::Crash(node, survive) => {
            let under_way = &steps.node(world.nodes[node]).log.under_way;
            let part = |from: usize, to: usize| {
                let writes: Vec<_> = under_way.range(from..to).map(|(_, write)| written(write)).collect();
                if writes.is_empty() { "nothing".to_owned() } else { writes.join(", ") }
            };
            let kept = usize::from(survive).min(under_way.len());
            let (kept, lost) = (part(0, kept), part(kept, under_way.len()));
            format!("node {} crashes and starts again: lost {lost}; reached the disk untold: {kept}", node + 1)
        }
        Action::Lose(node) => {
            format!("node {} starts again without the end of what was durable, and says so", node + 1)
        }
        Action::Empty(node) => format!("node {} starts again with an empty disk", node + 1),
        Action::Break(low, high) => format!("the connection of nodes {} and {} breaks", low + 1, high + 1),
        Action::Connect(low, high) => format!("nodes {} and {} connect", low + 1, high + 1),
        Action::Read(node) => format!("node {} has read its log", node + 1),
        Action::Write(node) => format!("node {} seals a batch", node + 1),
        Action::Release(node) => format!("node {} releases its log as far as it is applied", node + 1),
        Action::LetGo(node) => format!("node {} gives up what nobody can mend, and its state has", node + 1),
        Action::Rot(node, at) => format!("batch {} rots on the disk of node {}, which finds it", at + 1, node + 1),
        Action::GiveUp(node) => format!("node {} has waited too long for a majority", node + 1),
    }
}

/// What the node that acts then says and commits.
fn consequences(steps: &mut Steps, world: &World, action: Action) -> String {
    let (node, happening) = match action {
        Action::Deliver(from, to) | Action::Repeat(from, to) | Action::Overtake(from, to) => {
            let behind = usize::from(matches!(action, Action::Overtake(..)));
            match world.waiting(from, to, behind) {
                Some(id) => (to, id),
                None => return String::new(),
            }
        }
        Action::Sync(node) => (node, steps.add_happening(Happening::Syncs)),
        Action::Read(node) => (node, steps.add_happening(Happening::Reads)),
        Action::Write(node) => (node, steps.add_happening(Happening::Writes)),
        Action::GiveUp(node) => (node, steps.add_happening(Happening::GivesUp)),
        Action::Rot(node, at) => (node, steps.add_happening(Happening::Rots { at })),
        _ => return String::new(),
    };
    let outcomes =
        steps.step(world.nodes[node], happening).map_or_else(|_| Vec::new(), |(_, outcomes)| outcomes.to_vec());
    let mut told: Vec<String> = Vec::new();
    for outcome in outcomes {
        told.push(match outcome {
            Outcome::Sends { to, happening } => match steps.happening(happening) {
                Happening::Hears { message, .. } => format!("tells node {} {}", to + 1, said(message)),
                _ => continue,
            },
            Outcome::Commits(position) => format!("commits {}", text(&steps.position(position))),
            Outcome::Reports(epoch) => format!("reports epoch {} as activated", epoch.term),
            Outcome::Disconnects { peer, reason } => format!("disconnects node {}: {reason}", peer + 1),
            Outcome::StepsDown(epoch) => format!("leads epoch {} no more", epoch.term),
        });
    }
    if told.is_empty() { String::new() } else { format!("; it {}", told.join(", ")) }
}

pub(super) fn said(message: &Message) -> String {
    let batches = |batches: &[towline_wal::Batch]| {
        let ends: Vec<_> = batches.iter().map(|batch| text(&batch.position())).collect();
        if ends.is_empty() { "no batch".to_owned() } else { ends.join(" ") }
    };
    match message {
        Message::Fence { epoch, .. } => format!("Fence epoch {}", epoch.term),
        Message::Promise { epoch, log, suspect, votes, .. } => {
            let doubt = suspect.map_or_else(String::new, |from| format!(", in doubt from {from}"));
            let votes = votes.iter().flatten().map(|(node, disk)| format!(" {}.{}", node.get(), disk.as_bytes()[8]));
            let votes = votes.collect::<String>();
            let by = if votes.is_empty() { votes } else { format!(", by the disks{votes}") };
            format!("Promise epoch {}, log ends at {}{doubt}{by}", epoch.term, text(&log.end))
        }
        Message::Refused { epoch, promised } => format!("Refused epoch {}, promised {}", epoch.term, promised.term),
        Message::Append { epoch, prev, commit, batches: list } => {
            format!("Append epoch {}, behind {}: {}; committed {commit}", epoch.term, text(prev), batches(list))
        }
        Message::Appended { epoch, durable } => format!("Appended epoch {}, durable {durable}", epoch.term),
        Message::Mismatch { epoch, prev, log } => {
            format!("Mismatch epoch {}, at {prev}, log ends at {}", epoch.term, text(&log.end))
        }
        Message::Fetch { epoch, after, .. } => format!("Fetch epoch {}, behind {}", epoch.term, text(after)),
        Message::Fetched { epoch, after, batches: list } => {
            format!("Fetched epoch {}, behind {}: {}", epoch.term, text(after), batches(list))
        }
        Message::Confirm { epoch, round } => format!("Confirm epoch {}, round {round}", epoch.term),
        Message::Confirmed { epoch, round } => format!("Confirmed epoch {}, round {round}", epoch.term),
        Message::SnapshotOffer { epoch, snapshot } => {
            format!("SnapshotOffer epoch {}, at {}", epoch.term, text(&snapshot.at))
        }
        Message::SnapshotWanted { epoch, snapshot, .. } => {
            format!("SnapshotWanted epoch {}, at {}", epoch.term, text(&snapshot.at))
        }
        Message::SnapshotChunk { epoch, snapshot, .. } => {
            format!("SnapshotChunk epoch {}, at {}", epoch.term, text(&snapshot.at))
        }
        Message::Damaged { ranges, .. } if ranges.is_empty() => "Damaged: nothing any more".into(),
        Message::Damaged { ranges, .. } => {
            let ranges: Vec<_> = ranges.iter().map(|(first, last)| format!("{first} to {last}")).collect();
            format!("Damaged: {}", ranges.join(", "))
        }
        Message::MendWanted { after, to, .. } => format!("MendWanted behind {}, to {}", text(after), text(to)),
        Message::ReadIndex { number, .. } => format!("ReadIndex {number}"),
        Message::ReadIndexed { number, index, .. } => {
            format!("ReadIndexed {number}: {}", index.map_or_else(|| "refused".to_owned(), |index| index.to_string()))
        }
        Message::Mend { after, batches: list, .. } => format!("Mend behind {}: {}", text(after), batches(list)),
    }
}

fn written(write: &LogWrite) -> String {
    match write {
        LogWrite::Append(batch) => format!("batch {}", text(&batch.position())),
        LogWrite::Mend(batch) => format!("batch {} again", text(&batch.position())),
        LogWrite::Truncate(to) => format!("the truncation to {}", text(to)),
        LogWrite::Promise(bytes) => match Promise::decode(bytes) {
            Ok(promise) => format!("the promise of epoch {}", promise.epoch.term),
            Err(error) => format!("a promise: {error}"),
        },
        LogWrite::Mark(_) => "the mark of a snapshot".into(),
        LogWrite::Reset { to, .. } => format!("the log's beginning behind {}", text(to)),
        LogWrite::Settle => "the end of its doubt".into(),
    }
}

fn nodes(ids: &[NodeId]) -> String {
    let ids: Vec<_> = ids.iter().map(|id| id.get().to_string()).collect();
    ids.join(", ")
}

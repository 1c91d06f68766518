//! The search of this world, breadth first, and the story of a path that ends badly.

use super::Masters;
use super::world::{Action, VOTERS, World, number};
use crate::sim::Violation;
use crate::sim::explore::ids::Ids;
use crate::sim::explore::node::Happening;
use crate::sim::explore::scope::EPOCHS_MAX;
use crate::sim::explore::search::Found;
use crate::sim::explore::steps::{Outcome, Steps};
use crate::sim::explore::story::said;

/// Searches it to its end, to the first violation, or to so many states.
pub(in crate::sim::explore) fn explore_masters(masters: &Masters, states_max: usize) -> Found {
    let mut search =
        Search { masters, states_max, steps: Steps::prompt(), seen: Ids::default(), paths: Vec::new(), found: empty() };
    let ended = search.run();
    search.end(ended)
}

struct Search<'a> {
    masters: &'a Masters,
    states_max: usize,
    steps: Steps,
    seen: Ids,
    /// From which state each was first met, and by what.
    paths: Vec<(u32, u16)>,
    found: Found,
}

const fn empty() -> Found {
    Found {
        states: 0,
        transitions: 0,
        depth: 0,
        steps: 0,
        node_states: 0,
        activated: [0; EPOCHS_MAX],
        quiet: 0,
        installing: 0,
        committed: 0,
        bytes: 0,
        complete: false,
        violation: None,
        story: Vec::new(),
    }
}

impl Search<'_> {
    /// Whether it came to the end; or by which path to what.
    fn run(&mut self) -> Result<bool, (Vec<Action>, Violation)> {
        let first = World::first(self.masters, &mut self.steps).map_err(|violation| (Vec::new(), violation))?;
        self.seen.number(first.key());
        self.paths.push((0, 0));
        let (mut layer, mut next, mut choices, mut state) = (vec![first], Vec::new(), Vec::new(), 0_u32);
        while !layer.is_empty() {
            for world in &layer {
                world.choices(&self.steps, &mut choices);
                self.note(world, &choices).map_err(|violation| (self.path_to(state), violation))?;
                for choice in &choices {
                    self.found.transitions += 1;
                    let after = world.after(&mut self.steps, *choice).map_err(|violation| {
                        let mut path = self.path_to(state);
                        path.push(*choice);
                        (path, violation)
                    })?;
                    if self.seen.number(after.key()).1 {
                        self.paths.push((state, choice.pack()));
                        next.push(after);
                    }
                }
                state += 1;
                if self.seen.len() >= self.states_max {
                    return Ok(false);
                }
            }
            let worlds = (layer.capacity() + next.capacity()) * size_of::<World>();
            self.found.bytes = self.found.bytes.max(worlds);
            self.found.depth += usize::from(!next.is_empty());
            layer = std::mem::take(&mut next);
        }
        Ok(true)
    }

    fn note(&mut self, world: &World, choices: &[Action]) -> Result<(), Violation> {
        // By how many disks have the votes in the epoch that somebody serves in: those of two, and those of three.
        for node in world.nodes {
            let node = self.steps.node(node);
            if let Some(assignment) = node.replica.assignment().filter(|_| node.is_serving()) {
                self.found.activated[usize::from(assignment.directories.len() == VOTERS)] += 1;
            }
        }
        if let Some(known) = world.committed {
            self.found.committed = self.found.committed.max(self.steps.position(known).lsn.get());
        }
        if !World::is_quiet(choices) {
            return Ok(());
        }
        self.found.quiet += 1;
        world.check_quiet(&self.steps)
    }

    fn path_to(&self, mut state: u32) -> Vec<Action> {
        let mut path = Vec::new();
        while state != 0 {
            let (from, by) = self.paths[state as usize];
            path.push(Action::unpack(by));
            state = from;
        }
        path.reverse();
        path
    }

    fn end(mut self, ended: Result<bool, (Vec<Action>, Violation)>) -> Found {
        let mut found = std::mem::replace(&mut self.found, empty());
        match ended {
            Ok(complete) => found.complete = complete,
            Err((path, violation)) => {
                found.depth = path.len();
                found.story = self.tell(&path, &violation);
                found.violation = Some(violation);
            }
        }
        (found.states, found.steps, found.node_states) = (self.seen.len(), self.steps.executed(), self.steps.nodes());
        found.bytes += self.seen.bytes() + self.paths.capacity() * size_of::<(u32, u16)>() + self.steps.bytes();
        found
    }

    fn tell(&mut self, path: &[Action], end: &Violation) -> Vec<String> {
        let emptied =
            if self.masters.emptied { "; node 3 has another disk than it began with, and was fed" } else { "" };
        let mut lines = vec![format!("      node 1 leads, and all have what it began with{emptied}")];
        let Ok(mut world) = World::first(self.masters, &mut self.steps) else { return vec![end.to_string()] };
        for (at, action) in path.iter().enumerate() {
            let sentence = self.sentence(&world, *action);
            match world.after(&mut self.steps, *action) {
                Ok(after) => {
                    lines.push(format!("{:>4}. {sentence}{}", at + 1, self.consequences(&after, *action)));
                    world = after;
                }
                Err(_) => lines.push(format!("{:>4}. {sentence}", at + 1)),
            }
        }
        lines.push(format!("      {end}"));
        lines
    }

    fn sentence(&mut self, world: &World, action: Action) -> String {
        match action {
            Action::Deliver(from, to) => {
                let Some(happening) = world.oldest(from, to) else { return String::new() };
                let heard = match self.steps.happening(happening) {
                    Happening::Hears { message, .. } => said(message),
                    _ => String::new(),
                };
                let outcomes =
                    self.steps.step(world.nodes[to], happening).map_or_else(|_| Vec::new(), |(_, told)| told.to_vec());
                let answers = outcomes.into_iter().filter_map(|outcome| match outcome {
                    Outcome::Sends { to, happening } => match self.steps.happening(happening) {
                        Happening::Hears { message, .. } => {
                            Some(format!("; it tells node {} {}", to + 1, said(message)))
                        }
                        _ => None,
                    },
                    Outcome::Reports(epoch) => Some(format!("; epoch {} is activated", number(epoch))),
                    _ => None,
                });
                format!("node {} hears from node {}: {heard}{}", to + 1, from + 1, answers.collect::<String>())
            }
            Action::Connect(low, high) => format!("nodes {} and {} connect", low + 1, high + 1),
            Action::Break(low, high) => format!("the connection of nodes {} and {} breaks", low + 1, high + 1),
            Action::Hand(node) => format!("an operator assigns node {}", node + 1),
            Action::Renew(node) => format!("node {} asks for the next term", node + 1),
            Action::Readmit(node) => format!("node {} does a step to the votes of the disks that are here", node + 1),
            Action::Write(node) => format!("node {} seals a batch", node + 1),
            Action::Empty(node) => format!("node {} starts again with an empty disk", node + 1),
            Action::Return(node) => format!("node {} starts again with the disk that it had before", node + 1),
            Action::Crash(node) => format!("node {} starts again", node + 1),
            Action::Rot(node, at) => format!("the batch at place {at} of node {} rots", node + 1),
            Action::GiveUp(node) => format!("node {} has waited too long for a majority", node + 1),
        }
    }

    /// Whose votes an assignment then names.
    fn consequences(&self, after: &World, action: Action) -> String {
        let (Action::Hand(node) | Action::Renew(node) | Action::Readmit(node)) = action else { return String::new() };
        let Some(assignment) = self.steps.node(after.nodes[node]).replica.assignment() else { return String::new() };
        let disks =
            assignment.directories.iter().map(|(voter, disk)| format!(" {}.{}", voter.get(), disk.as_bytes()[8]));
        format!(": epoch {}, by the disks{}", number(assignment.epoch), disks.collect::<String>())
    }
}

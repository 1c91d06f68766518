//! The search: breadth first, so that the first violation found is a shortest one.

use super::ids::Ids;
use super::judge;
use super::scope::{EPOCHS_MAX, Scope};
use super::steps::Steps;
use super::story;
use super::world::{Action, Fixed, World};
use crate::sim::Violation;

/// What a search found.
///
/// ```
/// use towline::sim::{Scope, explore};
/// let found = explore(&"1:1".parse::<Scope>()?);
/// assert!(found.complete && found.violation.is_none());
/// assert!(found.transitions >= found.states - 1, "each state but the first was reached by one");
/// assert!(found.activated[0] > 0 && found.quiet > 0, "it says what it came by");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone)]
pub struct Found {
    /// Different states of the world.
    pub states: usize,
    /// Choices that were followed.
    pub transitions: usize,
    /// The most choices from the first state to any, or to what is broken.
    pub depth: usize,
    /// Different steps of a node that were executed.
    pub steps: usize,
    /// Different states of a node.
    pub node_states: usize,
    /// States in which the activation of the first epoch, the second and so on was accepted.
    pub activated: [u64; EPOCHS_MAX],
    /// States in which nothing was left to happen but faults, writes and new assignments.
    pub quiet: u64,
    /// States in which a snapshot was being installed.
    pub installing: u64,
    /// The most batches that were committed in a state.
    pub committed: u64,
    /// Bytes of its tables.
    pub bytes: usize,
    /// Whether there was nothing left to search.
    pub complete: bool,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// How it came to it, a line a choice.
    pub story: Vec<String>,
}

/// Where each state was first met: from which one, by what.
#[derive(Debug, Default)]
struct Paths {
    from: Vec<u32>,
    by: Vec<u16>,
}

impl Paths {
    fn to(&self, mut state: u32) -> Vec<Action> {
        let mut path = Vec::new();
        while state != 0 {
            path.push(Action::unpack(self.by[state as usize]));
            state = self.from[state as usize];
        }
        path.reverse();
        path
    }
}

/// Searches a scope to its end, to the first violation, or to its limit of states.
#[must_use]
pub fn explore(scope: &Scope) -> Found {
    let mut search = Search {
        fixed: Fixed::new(scope),
        steps: Steps::new(scope),
        seen: Ids::default(),
        paths: Paths::default(),
        transitions: 0,
        depth: 0,
        activated: [0; EPOCHS_MAX],
        quiet: 0,
        installing: 0,
        committed: 0,
        layers_bytes: 0,
    };
    let ended = search.run();
    search.found(ended)
}

struct Search<'a> {
    fixed: Fixed<'a>,
    steps: Steps,
    seen: Ids,
    paths: Paths,
    transitions: usize,
    depth: usize,
    activated: [u64; EPOCHS_MAX],
    quiet: u64,
    installing: u64,
    committed: u64,
    layers_bytes: usize,
}

/// How a search ended.
enum Ended {
    Searched,
    AtLimit,
    Violated { path: Vec<Action>, violation: Violation },
}

impl Search<'_> {
    fn run(&mut self) -> Ended {
        let first = match World::first(&self.fixed, &mut self.steps) {
            Ok(first) => first,
            Err(violation) => return Ended::Violated { path: Vec::new(), violation },
        };
        let (mut layer, mut next, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        first.write(&mut layer);
        self.seen.number(World::key(&layer, &mut bytes));
        self.paths.from.push(0);
        self.paths.by.push(0);
        let (mut state, mut choices, mut words) = (0_u32, Vec::new(), Vec::new());
        while !layer.is_empty() {
            let mut rest = layer.as_slice();
            while !rest.is_empty() {
                let (world, length) = World::read(rest);
                rest = &rest[length..];
                world.choices(&self.fixed, &self.steps, &mut choices);
                if let Err(violation) = self.note(&world, &choices) {
                    return Ended::Violated { path: self.paths.to(state), violation };
                }
                for choice in &choices {
                    self.transitions += 1;
                    let after = match world.after(&self.fixed, &mut self.steps, *choice) {
                        Ok(after) => after,
                        Err(violation) => {
                            let mut path = self.paths.to(state);
                            path.push(*choice);
                            return Ended::Violated { path, violation };
                        }
                    };
                    words.clear();
                    after.write(&mut words);
                    if self.seen.number(World::key(&words, &mut bytes)).1 {
                        self.paths.from.push(state);
                        self.paths.by.push(choice.pack());
                        next.extend_from_slice(&words);
                    }
                }
                state += 1;
                if self.seen.len() >= self.fixed.scope.states_max {
                    return Ended::AtLimit;
                }
            }
            self.layers_bytes = self.layers_bytes.max((layer.capacity() + next.capacity()) * size_of::<u32>());
            self.depth += usize::from(!next.is_empty());
            std::mem::swap(&mut layer, &mut next);
            next.clear();
        }
        Ended::Searched
    }

    /// Counts what a state is, and judges it if it is an end.
    fn note(&mut self, world: &World, choices: &[Action]) -> Result<(), Violation> {
        for (turn, count) in self.activated.iter_mut().enumerate() {
            *count += u64::from(world.accepted >> turn & 1);
        }
        if let Some(known) = world.committed.checked_sub(1) {
            self.committed = self.committed.max(self.steps.position(known).lsn.get());
        }
        let installs = |node: &u32| self.steps.facts(*node).installs;
        self.installing += u64::from(world.nodes.iter().any(installs));
        if !World::is_quiet(choices) {
            return Ok(());
        }
        self.quiet += 1;
        judge::when_quiet(&self.fixed, &self.steps, world)
    }

    fn found(mut self, ended: Ended) -> Found {
        let complete = matches!(ended, Ended::Searched);
        let (mut violation, mut story) = (None, Vec::new());
        if let Ended::Violated { path, violation: broken } = ended {
            self.depth = path.len();
            story = story::tell(&self.fixed, &mut self.steps, &path, &broken);
            violation = Some(broken);
        }
        let paths = self.paths.from.capacity() * size_of::<u32>() + self.paths.by.capacity() * size_of::<u16>();
        Found {
            states: self.seen.len(),
            transitions: self.transitions,
            depth: self.depth,
            steps: self.steps.executed(),
            node_states: self.steps.nodes(),
            activated: self.activated,
            quiet: self.quiet,
            installing: self.installing,
            committed: self.committed,
            bytes: self.seen.bytes() + paths + self.layers_bytes + self.steps.bytes(),
            complete,
            violation,
            story,
        }
    }
}

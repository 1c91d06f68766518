//! The command `towline sim model`: searches scopes, prints how much there was of each, and a verdict.

use super::masters::{Masters, explore_masters};
use super::scope::Scope;
use super::search::{Found, explore};
use crate::model::mutant::Mutant;
use crate::sim::say;
use std::time::Duration;

/// What is searched: a script of assignments, or what nodes decide that are their own masters.
///
/// ```
/// use towline::sim::Search;
/// for text in ["=1:123 2:123 writes 1", "masters hands 1 writes 1"] {
///     assert_eq!(text.parse::<Search>()?.to_string(), text);
/// }
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Search {
    /// By a script.
    Script(Scope),
    /// By the nodes.
    Masters(Masters),
}

impl Search {
    /// Searches it to its end, to the first violation, or to so many states.
    #[must_use]
    pub fn explore(&self, states_max: usize) -> Found {
        match self {
            Self::Script(scope) => explore(&Scope { states_max, ..scope.clone() }),
            Self::Masters(masters) => explore_masters(masters, states_max),
        }
    }

    /// What is counted as activated: the epochs of the script; or, of those without one, in which two disks have the votes, and three.
    fn activated<'a>(&self, found: &'a Found) -> &'a [u64] {
        let epochs = if let Self::Script(scope) = self { scope.epochs() } else { 2 };
        found.activated.get(..epochs).unwrap_or(&found.activated)
    }
}

impl std::str::FromStr for Search {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("masters") { text.parse().map(Self::Masters) } else { text.parse().map(Self::Script) }
    }
}

impl std::fmt::Display for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Script(scope) => scope.fmt(f),
            Self::Masters(masters) => masters.fmt(f),
        }
    }
}

/// The small scopes: about a minute on one core.
const QUICK: &[&str] = &[
    "1:12 2:12 writes 2 crashes 1 breaks 1 losses 1",
    "1:12 2:12 1:12 writes 3 crashes 1 breaks 1 reads",
    "1:123 2:123 writes 2 reads",
    "1:123 2:123 writes 2 crashes 1",
    "=1:123 2:123 1:123 writes 1",
    "1:12 2:123 3:23 writes 3",
    "=1:123 2:1234 2:234 writes 1",
    "1:12 2:12 1:12 writes 3 crashes 1 breaks 1 ends 2",
    "1:123 2:123 writes 2 ends 1",
    "=1:12 2:123 writes 1 crashes 1 releases 1",
    "=1:12 3:123 writes 1 crashes 1 releases 2",
    "=1:123 2:123 writes 2 empties 1 prompt",
    "1:12 2:12 writes 2 crashes 1 rots 1",
    "1:12 2:12 writes 2 crashes 1 rots 1 hides",
    "1:12 2:12 1:12 writes 1 crashes 1 rots 1 hides prompt",
    "1:12 2:12 writes 1 crashes 1 releases 2 rots 1",
    "1:12 2:12 1:12 writes 1 crashes 1 rots 1 forgets prompt",
    "1:12 2:12 writes 1 crashes 1 releases 2 rots 1 forgets",
    "1:123 2:123 writes 1 rots 1 prompt",
    "1:12 2:12 writes 2 crashes 1 breaks 1 repeats 1 overtakes 1",
    "1:12 2:12 1:12 writes 2 repeats 2 overtakes 2",
    "masters emptied hands 1 returns 1",
    "masters hands 1 writes 1 ends 1 rots 1",
];
/// And the large ones, with them about eight minutes. Each has what the others lack.
const LARGE: &[&str] = &[
    "1:12 2:12 1:12 writes 3 crashes 1 breaks 1 losses 1",
    "1:123 2:123 writes 2 losses 1",
    "1:123 2:123 writes 2 breaks 1",
    "=1:123 3:234 3:234 writes 1",
    "=1:123 2:1234 writes 2 crashes 1",
    "=1:123 =2:1234 3:234 writes 3",
    "=1:123 2:1234 2:234 writes 1 crashes 1 prompt",
    "=1:123 2:1234 2:234 writes 1 breaks 1 prompt",
    "=1:123 2:123 1:123 writes 1 ends 1",
    "1:123 2:123 writes 1 breaks 1 ends 1",
    "=1:123 2:123 writes 1 breaks 1 releases 1",
    "=1:123 3:123 1:123 writes 1 releases 1",
    "=1:123 2:123 1:123 writes 1 empties 1 prompt",
    "1:123 2:123 releases 2 rots 1 prompt",
    "=1:12 3:123 writes 1 releases 1 rots 1",
    "=1:123 2:123 writes 2 empties 1",
    "1:12 2:12 writes 1 crashes 1 rots 2",
    "1:12 2:12 writes 1 crashes 1 releases 1 rots 2",
    "1:12 2:12 writes 1 crashes 1 releases 1 rots 2 forgets",
    "1:12 2:12 writes 2 crashes 1 rots 2 forgets",
    "=1:12 2:123 writes 1 crashes 1 releases 1 rots 1 forgets",
    "=1:12 3:123 writes 1 releases 1 rots 1 forgets",
    "1:123 2:123 releases 2 rots 1 forgets prompt",
    "1:123 2:123 writes 1 breaks 1 rots 1 prompt",
    "1:123 2:123 writes 1 repeats 1 overtakes 1 prompt",
    "=1:123 2:123 1:123 writes 1 repeats 1 overtakes 1 prompt",
    "=1:123 2:1234 2:234 writes 1 repeats 1 prompt",
    "=1:123 2:1234 2:234 writes 1 overtakes 1 prompt",
    "=1:12 2:123 writes 1 repeats 1 overtakes 1 releases 1",
    "1:12 2:12 writes 1 crashes 1 repeats 1 overtakes 1 rots 1",
    "masters hands 2 writes 1 ends 1",
];
/// Where a planted bug is looked for.
const HUNT: &[&str] = &[
    "1:12 2:12 writes 2 crashes 1 breaks 1 losses 1",
    "1:12 2:12 writes 1 ends 1",
    "1:12 2:12 1:12 writes 1 crashes 1 rots 1 hides prompt",
    "=1:123 2:123 1:123 2:123 writes 1 prompt",
    "1:12 2:12 writes 2 crashes 1 rots 1",
    "1:123 2:123 writes 1 breaks 1 rots 1 prompt",
    "1:123 2:123 writes 2",
    "1:123 2:123 writes 2 crashes 1",
    "1:123 2:123 writes 2 losses 1",
    "=1:123 2:123 1:123 writes 1",
    "=1:123 3:234 3:234 writes 1",
    "=1:123 2:1234 2:234 writes 1",
    "1:12 2:123 3:23 writes 3",
    "=1:123 2:123 writes 2 empties 1 prompt",
    "masters emptied hands 1 returns 1",
];
/// A hunt gives each scope up at so many states, and begins again with more.
const HUNT_STATES_MAX: [usize; 2] = [100_000, 3_000_000];

/// Searches every order of events of a few nodes, epochs and faults.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Search the small scopes only: about a minute instead of eight.
    #[arg(long)]
    pub quick: bool,
    /// Search this scope alone: leader and voters of each epoch (= before those that are over), then `writes`, `crashes`,
    /// `breaks`, `losses`, `repeats` and `overtakes` (of messages), `ends` (of leaders that give up), `releases` (of logs), `empties` (of disks) and `rots` (of batches) with how many, `hides` for rot that leaves nothing known by name once the log is opened anew, `forgets` for the same at once, `prompt` for disks that take no time, `reads` for reads of the log that do. Or `masters`, where each node is its own, then
    /// `hands` (assignments), `writes`, `empties`, `returns` (of disks that were replaced), `crashes`, `breaks`, `ends` and `rots`.
    #[arg(long, value_name = "TEXT")]
    pub scope: Option<Search>,
    /// Give a search up at so many states; then it proves nothing.
    #[arg(long, default_value_t = 100_000_000)]
    pub states_max: usize,
    /// Plant a bug (needs the feature `mutants`), and tell a shortest story of what it breaks.
    #[arg(long)]
    pub mutant: Option<String>,
    /// Plant each bug that concerns the replica in turn, and tell which are found.
    #[arg(long, conflicts_with = "mutant")]
    pub mutants: bool,
    /// Print an object of JSON for each search instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command; `clock` tells the time since any moment.
pub(in crate::sim) fn run_model(args: &ModelArgs, clock: &dyn Fn() -> Duration) -> Result<bool, String> {
    if args.mutants {
        return hunt_all(args.json, clock);
    }
    if let Some(name) = &args.mutant {
        return hunt(name, args.scope.as_ref(), if args.json { Told::Json } else { Told::Story }, clock);
    }
    let scopes = scopes(args)?;
    let mut unfinished = 0;
    for scope in &scopes {
        let begun = clock();
        let found = scope.explore(args.states_max);
        let took = clock().saturating_sub(begun);
        let text = if args.json { json(scope, &found, took) } else { report(scope, &found, took) };
        say(&mut std::io::stdout(), &text);
        unfinished += usize::from(!found.complete);
    }
    if !args.json {
        let searched = scopes.len() - unfinished;
        say(&mut std::io::stdout(), &format!("{searched} scopes searched to their end, {unfinished} not"));
    }
    Ok(unfinished == 0)
}

/// Plants each bug of the replicas' agreement in turn, and looks for it.
fn hunt_all(json: bool, clock: &dyn Fn() -> Duration) -> Result<bool, String> {
    let told = if json { Told::Json } else { Told::Line };
    let mut missed = Vec::new();
    for mutant in Mutant::ALL.into_iter().filter(|mutant| mutant.is_of_replica()) {
        if !hunt(mutant.name(), None, told, clock)? {
            missed.push(mutant.name());
        }
    }
    if !json {
        let missed = if missed.is_empty() { "none".to_owned() } else { missed.join(", ") };
        say(&mut std::io::stdout(), &format!("planted bugs that were not found: {missed}"));
    }
    Ok(missed.is_empty())
}

/// How a hunt is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// What is broken, and how it comes to that.
    Story,
    Line,
    Json,
}

/// Plants a bug, and looks for it in one scope after the other: first a little of each, then more.
fn hunt(name: &str, only: Option<&Search>, told: Told, clock: &dyn Fn() -> Duration) -> Result<bool, String> {
    crate::sim::plant(name)?;
    let (begun, mut states) = (clock(), 0);
    let scopes = match only {
        Some(scope) => vec![scope.clone()],
        None => HUNT.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
    };
    for states_max in HUNT_STATES_MAX {
        for scope in &scopes {
            let found = scope.explore(states_max);
            states += found.states;
            let Some(violation) = &found.violation else { continue };
            let (took, depth) = (clock().saturating_sub(begun).as_secs_f64(), found.depth);
            if told == Told::Story {
                say(&mut std::io::stdout(), &found.story.join("\n"));
            }
            let text = if told == Told::Json {
                let (scope, violation, story) = (scope.to_string(), violation.to_string(), &found.story);
                format!(
                    "{{\"mutant\":{name:?},\"found\":true,\"states\":{states},\"seconds\":{took:.1},\"depth\":{depth},\
                     \"scope\":{scope:?},\"violation\":{violation:?},\"story\":{story:?}}}"
                )
            } else {
                let found = format!("found after {states} states, {took:.1} s, {depth} choices deep in {scope}");
                format!("{name:<26}{found}: {violation}")
            };
            say(&mut std::io::stdout(), &text);
            return Ok(true);
        }
    }
    let took = clock().saturating_sub(begun).as_secs_f64();
    let text = if told == Told::Json {
        format!("{{\"mutant\":{name:?},\"found\":false,\"states\":{states},\"seconds\":{took:.1}}}")
    } else {
        format!("{name:<26}NOT FOUND in {states} states, {took:.1} s")
    };
    say(&mut std::io::stdout(), &text);
    Ok(false)
}

fn scopes(args: &ModelArgs) -> Result<Vec<Search>, String> {
    let large = if args.quick { &[] } else { LARGE };
    match &args.scope {
        Some(scope) => Ok(vec![scope.clone()]),
        None => QUICK.iter().chain(large).map(|text| text.parse()).collect(),
    }
}

fn json(scope: &Search, found: &Found, took: Duration) -> String {
    let Found { states, transitions, depth, steps, node_states, complete, story, bytes, .. } = found;
    let (scope, seconds) = (scope.to_string(), took.as_secs_f64());
    let violation =
        found.violation.as_ref().map_or_else(|| "null".to_owned(), |what| format!("{:?}", what.to_string()));
    format!(
        "{{\"scope\":{scope:?},\"states\":{states},\"transitions\":{transitions},\"depth\":{depth},\"seconds\":{seconds:.1},\
         \"bytes\":{bytes},\"steps\":{steps},\"node_states\":{node_states},\"complete\":{complete},\
         \"violation\":{violation},\"story\":{story:?}}}"
    )
}

fn report(scope: &Search, found: &Found, took: Duration) -> String {
    let Found { states, transitions, depth, steps, node_states, quiet, installing, committed, .. } = found;
    let activated: Vec<_> = scope.activated(found).iter().map(u64::to_string).collect();
    let mut text = format!(
        "{scope}\n  {states} states, {transitions} transitions, depth {depth}, {:.1} s, {} MiB\n  \
         {steps} steps of {node_states} states of a node; epochs activated in {} states; {quiet} ends; {installing} with a snapshot; {committed} batches\n",
        took.as_secs_f64(),
        found.bytes >> 20,
        activated.join(", "),
    );
    for line in &found.story {
        text.push_str(line);
        text.push('\n');
    }
    let verdict = match (&found.violation, found.complete) {
        (Some(_), _) => "BROKEN: the story above is one of the shortest",
        (None, true) => "searched to its end: nothing is broken",
        (None, false) => "GIVEN UP at its limit of states",
    };
    format!("{text}  {verdict}")
}

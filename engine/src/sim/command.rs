//! The command `towline sim`: many seeds, their totals, and a verdict.

use super::explore::{ModelArgs, run_model};
use super::fault::{FaultKind, Totals};
use super::state::StateKind;
use super::world::{Run, run_seed_with};
use clap::Parser;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

/// From this many seeds on, a kind of fault that was never drawn is a failure: the run proves less than it says.
const SEEDS_THAT_DRAW_ALL: u64 = 50;
/// One seed in so many is run twice, and must leave the same trace.
const REPEATED: u64 = 100;

/// Runs the simulator over many seeds.
#[derive(Debug, Clone, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What else to do than to run seeds.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub first: u64,
    /// Run this one seed only, and tell its story.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Tell the story (of one seed: `--seed` tells it anyway).
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Plant a bug (needs the feature `mutants`), and stop at the first seed that notices.
    #[arg(long)]
    pub mutant: Option<String>,
    /// Where nodes keep their states.
    #[arg(long, value_enum, default_value_t)]
    pub state: StateKind,
    /// Print the totals as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What the simulator does besides running seeds.
#[derive(Debug, Clone, clap::Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Searches every order of events of a few nodes, epochs and faults.
    Model(ModelArgs),
}

/// Runs the command. The exit code is 0 when no seed failed (with `--mutant`: when one did).
///
/// `clock` tells the time since any moment: how long a search took is printed.
///
/// ```
/// use clap::Parser;
/// use std::process::ExitCode;
/// use std::time::Duration;
/// use towline::sim::{Args, run};
/// let args = Args::try_parse_from(["towline sim", "--first", "8", "--seeds", "1"])?;
/// assert_eq!(run(&args, &|| Duration::ZERO), ExitCode::SUCCESS, "and the totals are printed");
/// assert!(Args::try_parse_from(["towline sim", "--seeds", "0"]).is_err(), "which would prove nothing");
/// # Ok::<(), clap::Error>(())
/// ```
#[must_use]
pub fn run(args: &Args, clock: &dyn Fn() -> Duration) -> ExitCode {
    let good = match &args.command {
        Some(Command::Model(args)) => run_model(args, clock),
        None => execute(args),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            say(&mut std::io::stderr(), &format!("towline sim: {sentence}"));
            ExitCode::from(2)
        }
    }
}

fn execute(args: &Args) -> Result<bool, String> {
    args.state.check()?;
    let caught = |seed, tell| caught(seed, args.state, tell);
    if let Some(name) = &args.mutant {
        plant(name)?;
    }
    if let Some(seed) = args.seed {
        let run = caught(seed, true);
        let story = run.story.join("\n");
        say(&mut std::io::stdout(), &story);
        say(&mut std::io::stdout(), &format!("trace hash {:016x}", run.trace_hash));
        let failed = run.violation.is_some();
        report(args, &run.totals, &[(seed, run.violation.map(|v| v.to_string()))]);
        return Ok(failed == args.mutant.is_some());
    }
    let (mut totals, mut failures) = (Totals::default(), Vec::new());
    for seed in args.first..args.first.saturating_add(args.seeds) {
        let run = caught(seed, false);
        totals.add(&run.totals);
        let mut violation = run.violation.map(|violation| violation.to_string());
        if violation.is_none() && seed % REPEATED == 0 && caught(seed, false).trace_hash != run.trace_hash {
            violation = Some("determinism: the same seed left another trace".into());
        }
        if violation.is_some() {
            failures.push((seed, violation));
        }
        if args.mutant.is_some() && !failures.is_empty() {
            break;
        }
    }
    report(args, &totals, &failures);
    if args.mutant.is_some() {
        return Ok(!failures.is_empty());
    }
    let missing = totals.missing();
    let proves_all = args.seeds < SEEDS_THAT_DRAW_ALL || missing.is_empty();
    if !proves_all {
        let names: Vec<_> = missing.into_iter().map(FaultKind::name).collect();
        say(&mut std::io::stderr(), &format!("never drawn in {} seeds: {}", args.seeds, names.join(", ")));
    }
    Ok(failures.is_empty() && proves_all)
}

/// One seed; an assertion that fails in it is a violation like any other.
fn caught(seed: u64, state: StateKind, tell: bool) -> Run {
    let run = catch_unwind(AssertUnwindSafe(|| run_seed_with(seed, state, tell)));
    let run = run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(text.unwrap_or_else(|| "a panic without words".into()))
    });
    run.unwrap_or_else(|text| Run {
        totals: Totals { seeds: 1, ..Totals::default() },
        trace_hash: 0,
        story: Vec::new(),
        violation: Some(super::Violation::assertion(text)),
    })
}

#[cfg(feature = "mutants")]
pub(super) fn plant(name: &str) -> Result<(), String> {
    use crate::model::mutant::{Mutant, plant};
    let mutant = Mutant::ALL.into_iter().find(|mutant| mutant.name() == name);
    let Some(mutant) = mutant else {
        let names: Vec<_> = Mutant::ALL.into_iter().map(Mutant::name).collect();
        return Err(format!("there is no mutant {name:?}; there are {}", names.join(", ")));
    };
    plant(Some(mutant));
    Ok(())
}

#[cfg(not(feature = "mutants"))]
pub(super) fn plant(name: &str) -> Result<(), String> {
    Err(format!("mutant {name:?} can't be planted: this program was built without the feature `mutants`"))
}

fn report(args: &Args, totals: &Totals, failures: &[(u64, Option<String>)]) {
    let text = if args.json { json(totals, failures) } else { table(totals, failures) };
    say(&mut std::io::stdout(), &text);
}

fn table(totals: &Totals, failures: &[(u64, Option<String>)]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: u64| {
        text.push_str(&format!("{name:<32}{value:>14}\n"));
    };
    row("seeds", totals.seeds);
    row("simulated seconds", totals.simulated_ms / 1000);
    row("events", totals.events);
    row("writes submitted", totals.submitted);
    row("writes acknowledged", totals.acknowledged);
    row("writes in doubt", totals.in_doubt);
    row("reads served", totals.reads);
    row("of them, by a follower", totals.follower_reads);
    row("reads that may be old, at once", totals.stale_reads);
    row("batches committed", totals.batches);
    row("assignments", totals.assignments);
    row("epochs activated", totals.epochs);
    row("changes of voters", totals.voter_changes);
    row("leaders without a majority", totals.stepped_down);
    row("crashes", totals.crashes);
    row("crashes that lost bytes", totals.crashes_with_loss);
    row("leader restarts", totals.leader_restarts);
    row("truncated suffixes", totals.truncations);
    row("logs adopted", totals.adoptions);
    row("logs released", totals.releases);
    row("snapshots installed", totals.snapshots);
    row("snapshots resumed", totals.snapshots_resumed);
    row("batches put again", totals.mended);
    for kind in FaultKind::ALL {
        row(&format!("fault: {}", kind.name()), totals.faults.get(&kind).copied().unwrap_or(0));
    }
    for (seed, violation) in failures {
        if let Some(violation) = violation {
            let again = format!("  again, with its story: towline sim --seed {seed}\n");
            text.push_str(&format!("seed {seed} FAILED: {violation}\n{again}"));
        }
    }
    let failed = failures.iter().filter(|(_, violation)| violation.is_some()).count();
    text + &format!("{} passed, {failed} failed", totals.seeds.saturating_sub(failed as u64))
}

fn json(totals: &Totals, failures: &[(u64, Option<String>)]) -> String {
    let faults: Vec<_> = FaultKind::ALL
        .into_iter()
        .map(|kind| format!("{:?}:{}", kind.name(), totals.faults.get(&kind).copied().unwrap_or(0)))
        .collect();
    let failed: Vec<_> = failures
        .iter()
        .filter_map(|(seed, violation)| violation.as_ref().map(|v| format!("{{\"seed\":{seed},\"violation\":{v:?}}}")))
        .collect();
    format!(
        "{{\"seeds\":{},\"simulated_ms\":{},\"events\":{},\"submitted\":{},\"acknowledged\":{},\"in_doubt\":{},\
         \"reads\":{},\"follower_reads\":{},\"stale_reads\":{},\"batches\":{},\"assignments\":{},\"epochs\":{},\"voter_changes\":{},\"stepped_down\":{},\"crashes\":{},\"crashes_with_loss\":{},\"leader_restarts\":{},\
         \"truncations\":{},\"adoptions\":{},\"releases\":{},\"snapshots\":{},\"snapshots_resumed\":{},\"mended\":{},\"faults\":{{{}}},\"failures\":[{}]}}",
        totals.seeds,
        totals.simulated_ms,
        totals.events,
        totals.submitted,
        totals.acknowledged,
        totals.in_doubt,
        totals.reads,
        totals.follower_reads,
        totals.stale_reads,
        totals.batches,
        totals.assignments,
        totals.epochs,
        totals.voter_changes,
        totals.stepped_down,
        totals.crashes,
        totals.crashes_with_loss,
        totals.leader_restarts,
        totals.truncations,
        totals.adoptions,
        totals.releases,
        totals.snapshots,
        totals.snapshots_resumed,
        totals.mended,
        faults.join(","),
        failed.join(",")
    )
}

/// Prints; a closed pipe is the reader's choice, not our failure.
pub(super) fn say(to: &mut dyn std::io::Write, text: &str) {
    drop(writeln!(to, "{text}"));
}

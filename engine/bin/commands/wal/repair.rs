//! `towline wal repair DIR`: says what it would do, asks, and does it.

use super::{damage_object, log_directory, path_object, verify};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, hex};
use serde_json::Value;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use towline_wal::io::RealIo;
use towline_wal::repair::{
    LogRepair, LsnRange, README_NAME, Repair, RepairAction, RepairError, RepairOptions, RepairPlan, Unmendable, Unread,
    dry_run,
};

pub(super) const CODES: &str = "What is given up is copied first, with a text that says how to go back. A repair never \
    says that nothing is missing: each repaired log goes on saying from where records may be missing, until its owner \
    has them again.\n\n\
    Exit codes: 0 nothing is damaged, or not any more; 1 it was not done; \
    3 something is damaged still (also with --dry-run).";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A log directory, or a node's data directory; nothing may have it open, but for --dry-run
    directory: PathBuf,
    /// Where nothing good lies before the damage, keep what lies behind it, and let the log start there
    #[arg(long)]
    keep_tail: bool,
    /// Do it without a question
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Say what would be done, and end; nothing is written, and no lock taken
    #[arg(long)]
    dry_run: bool,
    /// The directory for the copy, which must not exist [default: repair-<time>-<life> beside the log]
    #[arg(long, value_name = "DIR")]
    backup: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let directory = log_directory(&args.directory);
    let failed = |error: RepairError| {
        Failure::new(Exit::Failed, anyhow::Error::new(error).context(directory.display().to_string()))
    };
    let options = RepairOptions { keep_tail: args.keep_tail };
    let now = jiff::Timestamp::now();
    let tell = |plan: &RepairPlan| {
        let backup = match &args.backup {
            Some(named) => named.clone(),
            None => beside(&directory)?.join(format!("repair-{}-{}", now.strftime("%Y%m%dT%H%M%SZ"), plan.life)),
        };
        output.both(|| plan_object(&directory, &backup, plan), || plan_words(&directory, &backup, plan))?;
        Ok::<_, Failure>(backup)
    };
    let verdict = |plan: &RepairPlan| {
        let is_good = plan.is_empty() && plan.unmendable.is_empty();
        if is_good { ExitCode::SUCCESS } else { ExitCode::from(3) }
    };
    if args.dry_run {
        let plan = dry_run(&mut RealIo::read_only(&directory), options).map_err(failed)?;
        tell(&plan)?;
        return Ok(verdict(&plan));
    }
    let mut io = RealIo::new(&directory);
    let repair = Repair::begin(&mut io, options).map_err(failed)?;
    let backup = tell(repair.plan())?;
    if repair.plan().is_empty() {
        return Ok(verdict(repair.plan()));
    }
    if backup.exists() {
        let sentence = format!("{} exists already; nothing was changed", backup.display());
        return Err(Failure::say(Exit::Failed, sentence));
    }
    if !args.yes {
        confirm(output)?;
    }
    let made = format!("{}, by towline {}", now.strftime("%FT%TZ"), env!("CARGO_PKG_VERSION"));
    let repaired = repair.execute(&mut RealIo::new(&backup), &made).map_err(failed)?;
    let found = &repaired.verified;
    output.both(
        || {
            let mut object = verify::object(&directory, found);
            if let Value::Object(object) = &mut object {
                object.insert("event".to_owned(), "repaired".into());
                object.insert("backup".to_owned(), path_object(&backup));
                let unread: Vec<_> = repaired.unread.iter().map(unread_object).collect();
                object.insert("backup_zeroes".to_owned(), unread.into());
            }
            object
        },
        || {
            let copy = format!("repaired; the copy is {}, read its {README_NAME}", backup.display());
            let gaps: String = repaired.unread.iter().map(|part| format!("\n  {part}")).collect();
            format!("{copy}{gaps}\n{}", verify::words(&directory, found))
        },
    )?;
    Ok(if found.is_good() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn unread_object(part: &Unread) -> Value {
    serde_json::json!({ "file": part.file, "offset": part.offset, "bytes": part.bytes })
}

/// The directory in which the log's own lies.
fn beside(directory: &Path) -> Result<PathBuf, Failure> {
    let whole = directory.canonicalize()?;
    Ok(whole.parent().unwrap_or(&whole).to_owned())
}

/// Asks on the terminal; anything but a yes is a no.
fn confirm(output: Output) -> Result<(), Failure> {
    if output.is_json() || !std::io::stdin().is_terminal() {
        let sentence = "there is nobody to ask: say --yes to do this, or --dry-run to only see it; nothing was changed";
        return Err(Failure::say(Exit::Failed, sentence));
    }
    let mut stderr = anstream::stderr().lock();
    write!(stderr, "\nDo this? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::say(Exit::Failed, "not confirmed; nothing was changed"))
}

fn plan_words(directory: &Path, backup: &Path, plan: &RepairPlan) -> String {
    let where_to = if plan.is_empty() { String::new() } else { format!("\nthe copy would be {}", backup.display()) };
    format!("{}:\n{plan}{where_to}", directory.display())
}

fn plan_object(directory: &Path, backup: &Path, plan: &RepairPlan) -> Value {
    let files: Vec<_> =
        plan.files.iter().map(|file| serde_json::json!({ "name": file.name, "bytes": file.bytes })).collect();
    serde_json::json!({
        "event": "plan", "directory": path_object(directory), "directory_uuid": hex(&plan.directory_uuid), "life": plan.life,
        "segment_bytes": plan.segment_bytes, "segment_last": plan.segment_last,
        "manifest": plan.manifest.map(|manifest| manifest.why),
        "logs": plan.logs.iter().map(log_object).collect::<Vec<_>>(),
        "torn": plan.torn.map(|torn| torn.to_string()),
        "not_mended": plan.unmendable.iter().map(Unmendable::to_string).collect::<Vec<_>>(),
        "backup": path_object(backup), "copied": files,
    })
}

fn log_object(repair: &LogRepair) -> Value {
    let range = |range: LsnRange| serde_json::json!({ "first_lsn": range.first.get(), "last_lsn": range.last.get() });
    let action = match repair.action {
        RepairAction::Truncate { .. } => "truncate",
        _ => "release",
    };
    serde_json::json!({
        "log": repair.log.to_string(), "damaged": repair.damaged.iter().map(damage_object).collect::<Vec<_>>(),
        "action": action, "to_lsn": repair.action.boundary().lsn.get(), "kept": repair.kept.map(range), "given_up": range(repair.given_up),
        "given_up_readable": repair.given_up_readable, "cut_from_lsn": repair.cut_from.get(),
    })
}

//! `towline wal`: what can be done with a log directory without a node.
//!
//! | where | what |
//! |---|---|
//! | [`inspect`] | what lies in it |
//! | [`verify`] | whether all of it can be read |
//! | [`dump`] | the records, one after another |
//! | [`repair`] | gives up what can't be read any more, after a copy and a question |

mod dump;
mod inspect;
mod records;
mod repair;
mod verify;

pub(crate) use inspect::BatchLine;

use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use towline_wal::{DamagedRange, OpenError};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print what lies in a log directory: its segments and its logs, and what is in them
    Inspect(inspect::Args),
    /// Read and check all that the logs of a directory hold
    #[command(after_help = verify::CODES)]
    Verify(verify::Args),
    /// Give up what can't be read any more, so that the log takes batches again; after a copy, and a question
    #[command(after_help = repair::CODES)]
    Repair(repair::Args),
    /// Print the records of a log directory, one after another
    #[command(after_help = dump::CODES)]
    Dump(dump::Args),
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Inspect(_) => "wal inspect",
            Self::Verify(_) => "wal verify",
            Self::Repair(_) => "wal repair",
            Self::Dump(_) => "wal dump",
        }
    }

    pub(crate) const fn speaks_json(&self) -> bool {
        match self {
            Self::Inspect(args) => args.format.json,
            Self::Verify(args) => args.format.json,
            Self::Repair(args) => args.format.json,
            Self::Dump(args) => args.speaks_json(),
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Repair(args) => repair::run(args),
        Command::Dump(args) => dump::run(args),
    }
}

/// A node keeps its log in `wal` below its data directory; both can be named.
fn log_directory(named: &Path) -> PathBuf {
    let below = named.join("wal");
    if !is_log(named) && is_log(&below) { below } else { named.to_owned() }
}

/// Whether a directory has anything of a log in it, its manifest lost or not.
fn is_log(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            name == "MANIFEST" || name.to_string_lossy().ends_with(".seg")
        })
    })
}

/// A directory that can't be looked at is a failure; one that is damaged is not healthy.
fn refused(directory: &Path, error: OpenError) -> Failure {
    let is_damage = match &error {
        OpenError::Missing { .. } | OpenError::TwoWriters { .. } => true,
        // Without anything of a log in it, it is a wrong path.
        OpenError::Manifest { .. } => is_log(directory),
        _ => false,
    };
    let exit = if is_damage { Exit::Unhealthy } else { Exit::Failed };
    Failure::new(exit, anyhow::Error::new(error).context(directory.display().to_string()))
}

/// A path as JSON has it: text, whatever is in it that is none.
fn path_object(path: &Path) -> Value {
    path.display().to_string().into()
}

/// Damage as JSON.
fn damage_object(range: &DamagedRange) -> Value {
    serde_json::json!({
        "log": range.log.to_string(), "first_lsn": range.first.get(), "last_lsn": range.last.get(),
        "file": range.file, "offset": range.offset,
    })
}

/// Damage in words.
fn damage_words(range: &DamagedRange) -> String {
    let DamagedRange { log, first, last, file, offset, .. } = range;
    format!("log {log}, LSN {first} to {last}: can't be read, {file} at byte {offset}")
}

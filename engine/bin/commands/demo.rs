//! `towline demo`.

use crate::demo::{Plan, play};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A CSV file with a header line, plain or packed with zstd; it should have 20,000 rows or more
    #[arg(long, value_name = "FILE", default_value = "bench/data/flights-2013-01.csv.zst")]
    data: PathBuf,
    /// The column that names each row's stream
    #[arg(long, value_name = "NAME", default_value = "tailnum")]
    key_column: String,
    /// Keep the nodes' directories, and say where they are
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let plan = Plan { data: args.data, key_column: args.key_column, keep: args.keep, is_quiet: output.is_json() };
    let mut terminate = signal(SignalKind::terminate())?;
    // Whichever way this ends, the demonstration is dropped, and its processes and directories with it.
    let figures = tokio::select! {
        figures = play(&plan) => figures?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::say(Exit::Failed, "interrupted")),
        _ = terminate.recv() => return Err(Failure::say(Exit::Failed, "terminated")),
    };
    output.both(|| figures.object(), || figures.table())?;
    Ok(ExitCode::SUCCESS)
}

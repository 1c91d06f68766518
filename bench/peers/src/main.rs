//! `bench-wal`: the write-ahead log beside its peers and beside the bare disk, in one run, as tables of ratios.
//!
//! Every mode measures what it compares in turns, so that all of them see the same machine: its single figures move
//! with whoever shares it, its ratios hardly do.

#![deny(unsafe_op_in_unsafe_fn)]

mod allocations;
mod blocking;
mod clock;
mod device;
mod disk;
mod index;
mod large;
mod peers;
mod pipelined;
mod plain;
mod recovery;
mod sample;
mod table;
mod thin;
mod uring;

use anyhow::{Result, ensure};
use clap::Parser;
use sample::Pace;
use std::path::PathBuf;
use std::time::Duration;

/// Measures the write-ahead log beside its peers. Without a mode: `--blocking --pipelined --large`.
#[derive(Debug, Parser)]
#[command(name = "bench-wal")]
struct Args {
    /// Threads that each wait until a record is durable: ours beside its peers.
    #[arg(long)]
    blocking: bool,
    /// One producer with a window of appends in flight: ours beside the plain log thread.
    #[arg(long)]
    pipelined: bool,
    /// Batches of 256 KiB and more: ours beside what the disk takes.
    #[arg(long)]
    large: bool,
    /// Ways to make a group durable on the bare disk.
    #[arg(long)]
    device: bool,
    /// Opening a log with and without footers, and reading it back.
    #[arg(long)]
    recovery: bool,
    /// Memory of the index.
    #[arg(long)]
    index: bool,
    /// Allocations for each record and group.
    #[arg(long)]
    allocations: bool,
    /// All modes.
    #[arg(long)]
    all: bool,
    /// Seconds for each cell of a round (a quarter of it for those of `--device`).
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds: all that is compared takes its turn in each; medians are printed.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that each cell waits at the most until others leave the processors alone.
    #[arg(long, default_value_t = 5.0)]
    patience: f64,
    /// GiB of log for `--recovery` and `--index`.
    #[arg(long, default_value_t = 2)]
    gib: u64,
    /// Measure only the cells whose name contains this, as in `--only "64 threads"` or `--only okaywal`; what a ratio
    /// needs is measured with it.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the files are put, and removed again; it decides which disk is measured.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Print JSON, a line for each row.
    #[arg(long)]
    json: bool,
}

/// What every mode is given.
struct Run {
    pace: Pace,
    rounds: usize,
    gib: u64,
    only: Option<String>,
    directory: PathBuf,
    json: bool,
}

impl Run {
    fn wants(&self, cell: &str) -> bool {
        self.only.as_ref().is_none_or(|part| cell.contains(part.as_str()))
    }

    /// A directory of its own on the disk that is measured.
    fn place(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("towline-bench-wal-").tempdir_in(&self.directory)?)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rounds % 2 == 1, "an odd number of rounds has a median");
    let none = ![
        args.blocking,
        args.pipelined,
        args.large,
        args.device,
        args.recovery,
        args.index,
        args.allocations,
        args.all,
    ]
    .contains(&true);
    let run = Run {
        pace: Pace {
            time: Duration::try_from_secs_f64(args.seconds)?,
            patience: Duration::try_from_secs_f64(args.patience)?,
        },
        rounds: args.rounds,
        gib: args.gib,
        only: args.only,
        directory: args.directory,
        json: args.json,
    };
    type Mode = fn(&Run) -> Result<()>;
    let modes: [(bool, Mode); 7] = [
        (args.blocking || none, blocking::measure),
        (args.pipelined || none, pipelined::measure),
        (args.large || none, large::measure),
        (args.device, device::measure),
        (args.recovery, recovery::measure),
        (args.index, index::measure),
        (args.allocations, allocations::measure),
    ];
    for (wanted, mode) in modes {
        if wanted || args.all {
            mode(&run)?;
        }
    }
    Ok(())
}

//! `bench-repl`: replicated writes of three nodes on loopback, beside etcd, NATS JetStream, Redis and PostgreSQL, in one run,
//! as a table, and as ratios beside the goals.
//!
//! Every system is started anew for each round, and all take their turns, so that they see the same machine: its single
//! figures move with whoever shares it, its ratios hardly do. Servers are processes of their own; the clients, each on a
//! connection of its own, are this process.

#![forbid(unsafe_code)]

mod bounds;
mod catch_up;
#[path = "../../peers/src/clock.rs"]
mod clock;
mod disk;
mod follower;
mod goals;
mod handover;
mod load;
mod process;
mod rounds;
mod systems;
#[path = "../../peers/src/table.rs"]
mod table;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use futures_util::future::{Either, select};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;
use systems::{Peer, Programs};
use tokio::signal::unix::{SignalKind, signal};

/// Measures replicated writes beside other systems.
#[derive(Debug, Parser)]
#[command(name = "bench-repl")]
struct Args {
    /// One short round: whether everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Seconds for each row of a round; rows with one client take half of it.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Rounds: all that is compared takes its turn in each; medians are printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that each row waits at the most until the processors are left alone.
    #[arg(long, default_value_t = 2.0)]
    patience: f64,
    /// GiB of writes that a follower misses and catches up with; 0 leaves that out, `--quick` takes a quarter at the most.
    #[arg(long, value_name = "GIB", default_value_t = 4.0)]
    catch_up_gib: f64,
    /// Measure nothing but how fast a follower catches up.
    #[arg(long)]
    only_catch_up: bool,
    /// Measure only the systems whose name contains this, as in `--only Redis`; ratios need Towline, too.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the files are put, and removed again; it decides which disk is measured.
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// Our program; by default the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    towline: Option<PathBuf>,
    /// Where `.make/repl-peers` has put the others.
    #[arg(long, value_name = "PATH", default_value = "/nonexistent")]
    peers: PathBuf,
    /// Print JSON, a line for each row.
    #[arg(long)]
    json: bool,
}

/// What a follower misses in a quick round.
const QUICK_GIB: f64 = 0.25;

/// What every row is given.
struct Run {
    time: Duration,
    warm_up: Duration,
    patience: Duration,
    rounds: usize,
    only: Option<String>,
    /// Bytes that a follower misses.
    catch_up: u64,
    only_catch_up: bool,
    directory: PathBuf,
    programs: Programs,
    json: bool,
}

impl Run {
    fn wants(&self, peer: Peer) -> bool {
        self.only.as_ref().is_none_or(|part| peer.name().contains(part.as_str()))
    }

    fn catches_up(&self) -> bool {
        self.catch_up > 0 && self.wants(Peer::Towline)
    }

    /// A directory of its own on the disk that is measured.
    fn place(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("towline-bench-repl-").tempdir_in(&self.directory)?)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.rounds % 2 == 1, "an odd number of rounds has a median");
    let towline = match args.towline {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("towline"),
    };
    ensure!(towline.is_file(), "there is no {}", towline.display());
    let directory = args.directory.unwrap_or_else(std::env::temp_dir).canonicalize()?;
    /// `TMPFS_MAGIC` of the kernel's `linux/magic.h`.
    const TMPFS: i64 = 0x0102_1994;
    let memory = rustix::fs::statfs(&directory)?.f_type == TMPFS;
    ensure!(!memory, "{} lies in memory: --directory takes one on a disk", directory.display());
    let (time, rounds) = if args.quick { (1.0, 1) } else { (args.seconds, args.rounds) };
    let time = Duration::try_from_secs_f64(time)?;
    let gib_fit = args.catch_up_gib == 0.0 || (0.01..=64.0).contains(&args.catch_up_gib);
    ensure!(gib_fit, "--catch-up-gib takes 0, or 0.01 to 64");
    let gib = if args.quick { args.catch_up_gib.min(QUICK_GIB) } else { args.catch_up_gib };
    let run = Run {
        time,
        warm_up: time / 8,
        patience: Duration::try_from_secs_f64(args.patience)?,
        rounds,
        only: args.only,
        catch_up: (gib * f64::from(1 << 30)) as u64,
        only_catch_up: args.only_catch_up,
        directory,
        programs: Programs { towline, fetched: args.peers },
        json: args.json,
    };
    // The main thread starts the servers: the system ends them when the thread that started them does.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(until_interrupted(&run))
}

/// Who is told to end ends the servers, and removes their files: they are many gigabytes.
async fn until_interrupted(run: &Run) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (interrupted, terminated) = (pin!(interrupt.recv()), pin!(terminate.recv()));
    let measured = pin!(rounds::measure(run));
    match select(measured, select(interrupted, terminated)).await {
        Either::Left((measured, _)) => measured,
        Either::Right(_) => bail!("interrupted"),
    }
}

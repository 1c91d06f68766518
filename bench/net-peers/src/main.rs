//! `bench-net`: the transport beside bare sockets, bare TLS, gRPC and NATS, over loopback, in one run, as tables of ratios.
//!
//! Every mode measures what it compares in turns, so that all of them see the same machine: its single figures move
//! with whoever shares it, its ratios hardly do. Each side of a connection has a runtime with one thread.

#![deny(unsafe_op_in_unsafe_fn)]

#[path = "../../../net/tests/attacks/mod.rs"]
mod attacks;
mod bulk;
mod calls;
#[path = "../../peers/src/clock.rs"]
mod clock;
mod control;
mod flood;
mod heap;
mod idle;
mod line;
mod peers;
mod sample;
#[path = "../../peers/src/table.rs"]
mod table;
mod wire;

use anyhow::{Result, ensure};
use clap::Parser;
use sample::Pace;
use std::path::PathBuf;
use std::time::Duration;

/// Measures the transport beside its peers. Without a mode: all of them.
#[derive(Debug, Parser)]
#[command(name = "bench-net")]
struct Args {
    /// Messages of 64 KiB, one way: beside a bare copy over TCP, and over TLS.
    #[arg(long)]
    bulk: bool,
    /// Requests and answers of 128 bytes, 64 in flight: beside gRPC, NATS and bare frames.
    #[arg(long)]
    calls: bool,
    /// What a message of the control lane waits for beside a stream that fills the connection.
    #[arg(long)]
    control: bool,
    /// Memory and processor time of connections that do nothing.
    #[arg(long)]
    idle: bool,
    /// What an honest client keeps beside strangers by the thousands, for each thing that they may do, and what they cost.
    #[arg(long)]
    flood: bool,
    /// Seconds for each cell of a round.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds: all that is compared takes its turn in each; medians are printed.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that each cell waits at the most until others leave the processors alone.
    #[arg(long, default_value_t = 5.0)]
    patience: f64,
    /// Connections for `--idle`: each takes two descriptors.
    #[arg(long, default_value_t = 4000)]
    connections: usize,
    /// Strangers for each row of `--flood`: as many, at most, as the limit on open files leaves.
    #[arg(long, default_value_t = 10_000)]
    strangers: usize,
    /// Strangers that come in a second.
    #[arg(long, default_value_t = 2000)]
    arrivals: u32,
    /// Be the strangers of a row: `--flood` starts this program once more for it, so that its server's memory is counted
    /// alone.
    #[arg(long, hide = true, value_name = "ROW")]
    stranger: Option<String>,
    /// Where to.
    #[arg(long, hide = true, requires = "stranger")]
    at: Option<std::net::SocketAddr>,
    /// Megabits a second of the slow line of `--control`.
    #[arg(long, default_value_t = 1000)]
    line: u32,
    /// The server of NATS; without one that starts, NATS is left out, and that is said.
    #[arg(long, value_name = "PROGRAM", default_value = "nats-server")]
    nats: PathBuf,
    /// Measure only the cells whose name contains this, as in `--only TLS` or `--only towline`; what a ratio needs is then
    /// to be named too.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print JSON, a line for each row.
    #[arg(long)]
    json: bool,
}

/// What every mode is given.
struct Run {
    pace: Pace,
    rounds: usize,
    connections: usize,
    line: u32,
    strangers: usize,
    arrivals: u32,
    nats: PathBuf,
    only: Option<String>,
    json: bool,
}

impl Run {
    fn wants(&self, cell: &str) -> bool {
        self.only.as_ref().is_none_or(|part| cell.contains(part.as_str()))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(row), Some(at)) = (&args.stranger, args.at) {
        return flood::come(row, at, args.strangers, args.arrivals);
    }
    ensure!(args.rounds % 2 == 1, "an odd number of rounds has a median");
    let all = ![args.bulk, args.calls, args.control, args.idle, args.flood].contains(&true);
    let run = Run {
        pace: Pace {
            time: Duration::try_from_secs_f64(args.seconds)?,
            patience: Duration::try_from_secs_f64(args.patience)?,
        },
        rounds: args.rounds,
        connections: args.connections,
        line: args.line,
        strangers: args.strangers,
        arrivals: args.arrivals,
        nats: args.nats,
        only: args.only,
        json: args.json,
    };
    type Mode = fn(&Run) -> Result<()>;
    let modes: [(bool, Mode); 5] = [
        (args.bulk, bulk::measure),
        (args.calls, calls::measure),
        (args.control, control::measure),
        (args.idle, idle::measure),
        (args.flood, flood::measure),
    ];
    for (wanted, mode) in modes {
        if wanted || all {
            mode(&run)?;
        }
    }
    Ok(())
}

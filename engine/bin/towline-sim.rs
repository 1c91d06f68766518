//! The simulator alone: quick to build, since it needs neither RocksDB nor tokio. `towline sim` is the same.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    towline::sim::run(&towline::sim::Args::parse())
}

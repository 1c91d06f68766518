//! The simulator alone: quick to build, since it needs neither RocksDB nor tokio. `towline sim` is the same.

#![expect(clippy::disallowed_methods, reason = "the program is a driver: it measures how long a search took")]

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let begun = std::time::Instant::now();
    towline::sim::run(&towline::sim::Args::parse(), &|| begun.elapsed())
}

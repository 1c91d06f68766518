//! The program `towline`: serves a node, loads data, reads it back, looks into logs, simulates, demonstrates.
//!
//! | where | what |
//! |---|---|
//! | [`commands`] | one file a command: its arguments, what it does, what it prints |
//! | [`csv_rows`] | a CSV file as rows, each with its exact bytes and its line |
//! | [`load`] | the loader: resumable, every row once |
//! | [`demo`] | three processes, kills in the middle, and the comparison at the end |
//! | [`output`], [`progress`], [`failure`], [`parent`] | how the program speaks, and how it ends |
//!
//! Exit codes: 0 good, 1 failed, 2 usage (a configuration that does not hold included), 3 not healthy or damaged.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "the program is a driver: it reads clocks and measures")]

mod commands;
mod csv_rows;
mod demo;
mod failure;
mod load;
mod output;
mod parent;
mod progress;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = commands::Cli::parse().command;
    let (name, json) = (command.name(), command.speaks_json());
    match commands::run(command) {
        Ok(code) => code,
        Err(failure) => failure.tell(name, json),
    }
}

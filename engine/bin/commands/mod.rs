//! The commands, one file each.

mod cert;
mod demo;
mod digest;
mod get;
mod load;
mod serve;
mod servers;
mod shard;
mod status;
mod stream;
mod wal;

pub(crate) use wal::BatchLine;

use crate::failure::Failure;
use clap::{Parser, Subcommand};
use std::future::Future;
use std::process::ExitCode;

/// Ordered logs of writes, durable, and copied identically to the nodes of a cluster
///
/// Exit codes: 0 good, 1 failed, 2 usage, 3 not healthy or damaged.
#[derive(Debug, Parser)]
#[command(name = "towline", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node until it is told to stop (SIGTERM or Ctrl-C; a second one means now)
    Serve(serve::Args),
    /// Append each row of a CSV file to the stream that one of its columns names; again adds nothing twice
    Load(load::Args),
    /// Print a key's value
    Get(get::Args),
    /// Print a stream's events, in order
    Stream(stream::Args),
    /// Print each node's applied position and the digest of its state
    Digest(digest::Args),
    /// Print how each node is
    Status(status::Args),
    /// Say which node leads a shard
    #[command(subcommand)]
    Shard(shard::Command),
    /// Make certificates for TLS: an authority, nodes, clients
    #[command(subcommand)]
    Cert(cert::Command),
    /// Look into a log directory, also while a node runs on it; repair one that is damaged
    #[command(subcommand)]
    Wal(wal::Command),
    /// Simulate whole clusters, faults and all, from seeds
    Sim(towline::sim::Args),
    /// Three nodes on this machine, real data, kills in the middle, and the comparison at the end
    Demo(demo::Args),
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Serve(_) => "serve",
            Self::Load(_) => "load",
            Self::Get(_) => "get",
            Self::Stream(_) => "stream",
            Self::Digest(_) => "digest",
            Self::Status(_) => "status",
            Self::Shard(command) => command.name(),
            Self::Cert(command) => command.name(),
            Self::Wal(command) => command.name(),
            Self::Sim(_) => "sim",
            Self::Demo(_) => "demo",
        }
    }

    pub(crate) const fn speaks_json(&self) -> bool {
        match self {
            Self::Serve(args) => args.format.json,
            Self::Load(args) => args.format.json,
            Self::Get(args) => args.format.json,
            Self::Stream(args) => args.format.json,
            Self::Digest(args) => args.format.json,
            Self::Status(args) => args.format.json,
            Self::Shard(command) => command.speaks_json(),
            Self::Cert(command) => command.speaks_json(),
            Self::Wal(command) => command.speaks_json(),
            Self::Sim(args) => args.json,
            Self::Demo(args) => args.format.json,
        }
    }
}

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Load(args) => asynchronously(load::run(args)),
        Command::Get(args) => asynchronously(get::run(args)),
        Command::Stream(args) => asynchronously(stream::run(args)),
        Command::Digest(args) => asynchronously(digest::run(args)),
        Command::Status(args) => asynchronously(status::run(args)),
        Command::Shard(command) => asynchronously(shard::run(command)),
        Command::Cert(command) => cert::run(&command),
        Command::Wal(command) => wal::run(&command),
        Command::Sim(args) => {
            let begun = std::time::Instant::now();
            Ok(towline::sim::run(&args, &|| begun.elapsed()))
        }
        Command::Demo(args) => asynchronously(demo::run(args)),
    }
}

fn asynchronously(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(command);
    // A read of standard input, say, must not hold the end up.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_of_all_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_json() {
        let mut pending = vec![Cli::command()];
        while let Some(command) = pending.pop() {
            pending.extend(command.get_subcommands().cloned());
            let is_leaf = command.get_subcommands().next().is_none();
            let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
            assert!(!is_leaf || has_json, "{}", command.get_name());
        }
    }
}

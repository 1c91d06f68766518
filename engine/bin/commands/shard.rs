//! `towline shard assign`: which node leads, by hand. Exit code 3: the node does not serve yet, and the assignment stands.

use super::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};
use clap::Subcommand;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use towline::client::ClientError;
use towline::model::{NodeId, ShardId};

/// TW-8031: promised, and not in force in time.
const UNFINISHED: u16 = 8031;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a node the leader of a shard now, whoever leads it, alive or not; also how leadership is handed over as planned
    Assign(Assign),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Assign {
    /// The node that shall lead
    #[arg(long, value_name = "NODE")]
    leader: u64,
    /// The shard, by its number [default: the namespace's only one]
    #[arg(long, value_name = "ID")]
    shard: Option<u64>,
    /// How long to wait until it leads, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    within: u64,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    format: Format,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Assign(_) => "shard assign",
        }
    }

    pub(crate) const fn speaks_json(&self) -> bool {
        match self {
            Self::Assign(assign) => assign.format.json,
        }
    }
}

pub(crate) async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Assign(assign) => run_assign(assign).await,
    }
}

async fn run_assign(assign: Assign) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let client = assign.servers.any().await?;
    let namespace = client.namespace(&assign.servers.namespace);
    let (shard, leader) = (assign.shard.map(ShardId::new), NodeId::new(assign.leader));
    let assigned = namespace.assign_leader(shard, leader, Duration::from_secs(assign.within)).await;
    let assigned = assigned.map_err(|error| failed(&error))?;
    let (shard, epoch, took) = (assigned.shard, assigned.epoch, begun.elapsed());
    Output::new(assign.format).both(
        || {
            serde_json::json!({
                "shard": shard.get(),
                "leader": leader.get(),
                "serving": true,
                "epoch": { "version": epoch.version, "term": epoch.term },
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            })
        },
        || format!("node {leader} leads shard {shard} in epoch {epoch}, after {:.3} s", took.as_secs_f64()),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &ClientError) -> Failure {
    let stands = matches!(error, ClientError::Refused(failure) if failure.code == UNFINISHED);
    let exit = if stands { Exit::Unhealthy } else { Exit::Failed };
    Failure::say(exit, format!("{}: {error}", error.code()))
}

//! `towline shard assign`: which node leads, by hand. Exit code 3: the node does not serve yet, and the assignment stands.
//! `towline shard list`: who leads what, as each server knows it. Exit code 3: a server does not answer, or knows no leader of one, or
//! one has stopped there.

use super::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, count, table};
use clap::Subcommand;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use towline::client::{ClientError, Route};
use towline::model::call::ShardPlace;
use towline::model::{NodeId, ShardId};

/// TW-8031: promised, and not in force in time.
const UNFINISHED: u16 = 8031;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a node the leader of a shard now, whoever leads it, alive or not; also how leadership is handed over as planned
    Assign(Assign),
    /// The shards of a namespace, and who leads each, as each server knows it
    List(List),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    format: Format,
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
            Self::List(_) => "shard list",
        }
    }

    pub(crate) const fn speaks_json(&self) -> bool {
        match self {
            Self::Assign(assign) => assign.format.json,
            Self::List(list) => list.format.json,
        }
    }
}

pub(crate) async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Assign(assign) => run_assign(assign).await,
        Command::List(list) => run_list(list).await,
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

async fn run_list(list: List) -> Result<ExitCode, Failure> {
    let output = Output::new(list.format);
    let options = list.servers.options(Route::Any)?;
    let (mut rows, mut is_healthy) = (Vec::new(), true);
    for address in &list.servers.addr {
        let asked = match Servers::one(address, &options).await {
            Ok(client) => client.namespace(&list.servers.namespace).shards().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(places) => {
                is_healthy &= places.iter().all(|place| place.leader.is_some() && place.failure.is_none());
                output.object(|| object(address, &places))?;
                rows.extend(places.iter().map(|place| row(address, place)));
            }
            Err(error) => {
                is_healthy = false;
                output.object(|| serde_json::json!({ "address": address, "error": error.to_string() }))?;
                output.text(|| format!("{address}: {error}"))?;
            }
        }
    }
    if !rows.is_empty() {
        output.text(|| table(&["address", "shard", "from key", "leader", "here", "applied"], rows))?;
    }
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn row(address: &str, place: &ShardPlace) -> Vec<String> {
    let here = match &place.failure {
        Some(reason) => format!("has stopped: {reason}"),
        None if place.serving => "leads".to_owned(),
        None => "follows".to_owned(),
    };
    vec![
        address.to_owned(),
        place.shard.to_string(),
        place.start.escape_ascii().to_string(),
        place.leader.map_or_else(|| "unknown".to_owned(), |leader| leader.to_string()),
        here,
        count(place.applied),
    ]
}

fn object(address: &str, places: &[ShardPlace]) -> serde_json::Value {
    let shards: Vec<_> = places
        .iter()
        .map(|place| {
            serde_json::json!({
                "shard": place.shard.get(),
                "start": place.start.escape_ascii().to_string(),
                "leader": place.leader.map(NodeId::get),
                "serving": place.serving,
                "applied": place.applied,
                "failure": place.failure,
            })
        })
        .collect();
    serde_json::json!({ "address": address, "shards": shards })
}

fn failed(error: &ClientError) -> Failure {
    let stands = matches!(error, ClientError::Refused(failure) if failure.code == UNFINISHED);
    let exit = if stands { Exit::Unhealthy } else { Exit::Failed };
    Failure::say(exit, format!("{}: {error}", error.code()))
}

//! `towline status`. Exit code 3: a server does not answer, or knows no leader, or leads and takes no writes.

use super::servers::Servers;
use crate::failure::Failure;
use crate::output::{Format, Output, count, size, table};
use std::process::ExitCode;
use towline::client::Route;
use towline::model::request::ServerStatus;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let options = args.servers.options(Route::Any)?;
    let (mut rows, mut is_healthy) = (Vec::new(), true);
    for address in &args.servers.addr {
        let asked = match Servers::one(address, &options).await {
            Ok(client) => client.status().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(status) => {
                is_healthy &= status.serving || status.leader.is_some_and(|leader| leader != status.node);
                output.object(|| object(address, &status))?;
                rows.push(row(address, &status));
            }
            Err(error) => {
                is_healthy = false;
                output.object(|| serde_json::json!({ "address": address, "error": error.to_string() }))?;
                output.text(|| format!("{address}: {error}"))?;
            }
        }
    }
    if !rows.is_empty() {
        let header = ["address", "node", "role", "epoch", "end", "durable", "committed", "applied", "log", "sent"];
        output.text(|| table(&header, rows))?;
    }
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn row(address: &str, status: &ServerStatus) -> Vec<String> {
    let role = match status.leader {
        Some(_) if status.serving => "leads".to_owned(),
        Some(leader) if leader == status.node => "leads, takes no writes yet".to_owned(),
        Some(leader) => format!("follows {leader}"),
        None => "knows no leader".to_owned(),
    };
    vec![
        address.to_owned(),
        status.node.to_string(),
        role,
        format!("{}.{}", status.epoch.0, status.epoch.1),
        count(status.end),
        count(status.durable),
        count(status.committed),
        count(status.applied),
        size(status.log_bytes),
        size(status.wire_bytes_sent),
    ]
}

fn object(address: &str, status: &ServerStatus) -> serde_json::Value {
    let followers: Vec<_> = status
        .followers
        .iter()
        .map(|f| serde_json::json!({ "node": f.node.get(), "connected": f.connected, "durable": f.durable }))
        .collect();
    serde_json::json!({
        "address": address,
        "node": status.node.get(),
        "leader": status.leader.map(towline::model::NodeId::get),
        "serving": status.serving,
        "epoch": { "version": status.epoch.0, "term": status.epoch.1 },
        "end": status.end,
        "durable": status.durable,
        "committed": status.committed,
        "applied": status.applied,
        "wire_bytes_sent": status.wire_bytes_sent,
        "log_bytes": status.log_bytes,
        "batch_bytes_raw": status.batch_bytes.0,
        "batch_bytes": status.batch_bytes.1,
        "followers": followers,
    })
}

//! `towline digest`: with several servers also whether those at one position have one digest.

use super::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, hex, table};
use std::collections::BTreeMap;
use std::process::ExitCode;
use towline::client::{ClientError, ClientOptions, Route, StateDigest};
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
    let (mut rows, mut by_position) = (Vec::new(), BTreeMap::new());
    let (mut differ, mut failed) = (None, None);
    for address in &args.servers.addr {
        let (status, at) = match ask(&options, address).await {
            Ok(answers) => answers,
            Err(error) => {
                failed = Some(Failure::new(Exit::Failed, error));
                continue;
            }
        };
        let (node, epoch, digest) = (status.node.get(), at.epoch.to_string(), hex(&at.digest));
        let first = by_position.entry(at.applied).or_insert_with(|| (node, digest.clone()));
        if first.1 != digest {
            let other = first.0;
            differ =
                Some(format!("nodes {other} and {node} differ at position {}: one of them is damaged", at.applied));
        }
        output.object(|| {
            serde_json::json!({
                "address": address, "node": node, "epoch": epoch, "applied": at.applied.get(), "digest": digest,
            })
        })?;
        rows.push(vec![node.to_string(), epoch, at.applied.to_string(), digest]);
    }
    // What was found is told first, whatever it means.
    output.text(|| table(&["node", "epoch", "applied", "digest"], rows))?;
    if let Some(sentence) = differ {
        return Err(Failure::say(Exit::Unhealthy, sentence));
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn ask(options: &ClientOptions, address: &str) -> Result<(ServerStatus, StateDigest), ClientError> {
    let client = Servers::one(address, options).await?;
    Ok((client.status().await?, client.digest().await?))
}

//! `towline get KEY`.

use super::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, json_bytes, readable};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The key
    key: String,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let found = args.servers.any().await?.get(args.key.as_bytes()).await?;
    let Some(found) = found else {
        return Err(Failure::say(Exit::Failed, format!("there is no key {:?}", args.key)));
    };
    Output::new(args.format).both(
        || serde_json::json!({ "key": args.key, "version": found.version, "value": json_bytes(&found.value) }),
        || readable(&found.value),
    )?;
    Ok(ExitCode::SUCCESS)
}

//! `towline stream KEY`.

use super::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::load::Origin;
use crate::output::{Format, Output, hex, json_bytes, readable};
use std::process::ExitCode;
use towline::model::request::{Direction, StreamEvent};

/// Events asked for at a time.
const PAGE: u32 = 1000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The stream's name
    key: String,
    /// The first version to print
    #[arg(long, default_value_t = 1, value_name = "N")]
    from: u64,
    /// How many events to print at the most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let client = args.servers.any().await?;
    let output = Output::new(args.format);
    let (mut from, mut left) = (args.from.max(1), args.limit.unwrap_or(u64::MAX));
    while left > 0 {
        let events_max = u32::try_from(left).unwrap_or(u32::MAX).min(PAGE);
        let page = client.read_stream(args.key.as_bytes(), from, Direction::Forward, events_max).await?;
        if page.head == 0 {
            return Err(Failure::say(Exit::Failed, format!("there is no stream {:?}", args.key)));
        }
        for event in &page.events {
            output.both(|| object(event), || format!("{:>6}  {}", event.version, readable(&event.value)))?;
        }
        left -= page.events.len() as u64;
        match page.events.last() {
            Some(last) if page.more => from = last.version + 1,
            _ => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn object(event: &StreamEvent) -> serde_json::Value {
    let origin = Origin::decode(&event.metadata)
        .map(|origin| serde_json::json!({ "file_sha256": hex(&origin.file), "row": origin.row }));
    serde_json::json!({
        "version": event.version,
        "lsn": event.lsn,
        "value": json_bytes(&event.value),
        "metadata": hex(&event.metadata),
        "origin": origin,
    })
}

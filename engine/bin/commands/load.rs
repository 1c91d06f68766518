//! `towline load FILE --key-column NAME`.

use super::servers::Servers;
use crate::failure::{Exit, Failure};
use crate::load::{Counters, Ended, LoadOptions, Summary, Survey, load, survey};
use crate::output::{Format, Output, count, hex, pairs};
use crate::parent;
use crate::progress::Progress;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use towline::client::{Client, ClientOptions, Route};

/// How often the progress is told.
const TICK: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A CSV file with a header line, plain or packed with zstd
    file: PathBuf,
    /// The column that names each row's stream
    #[arg(long, value_name = "NAME")]
    key_column: String,
    /// Rows a second at the most [default: as fast as it goes]
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
    /// Rows sent and not yet acknowledged, at the most
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,
    /// Leave out the first rows: of a file that was mended where a load of it had stopped (to the loader, a mended
    /// file is another file, of which nothing is stored)
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip_rows: u64,
    /// How long to look for a leader that is away, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    patience: u64,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    /// End when standard input ends
    #[arg(long, hide = true)]
    with_parent: bool,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    pub(crate) format: Format,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.001 => Ok(number),
        _ => Err("a number above zero is expected".to_owned()),
    }
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Failure> {
    if args.with_parent {
        parent::end_with_standard_input()?;
    }
    let surveyed = survey(&args.file, &args.key_column)?;
    let client = Client::connect(args.servers.addr.clone(), client_options(&args)?).await?;
    let options = LoadOptions {
        path: args.file.clone(),
        key_column: args.key_column.clone(),
        rate: args.rate,
        in_flight_max: args.in_flight as usize,
        skip_rows: args.skip_rows,
    };
    let counters = Arc::new(Counters::default());
    stop_on_signal(Arc::clone(&counters));
    let loading = Box::pin(load(&client, &options, &surveyed, &counters));
    let result = show(&args, &surveyed, &counters, loading).await;
    let summary = result.map_err(|ended| Failure::new(Exit::Failed, ended))?;
    tell(&args, &surveyed, &counters, &client, &summary)?;
    let position = summary.position;
    match summary.ended {
        None => Ok(ExitCode::SUCCESS),
        Some(ended) => {
            let next = match &ended {
                Ended::Row(_) => format!("mend the file and load the rest with --skip-rows {position}"),
                _ => "the same command goes on behind them".to_owned(),
            };
            let why = Failure::new(Exit::Failed, ended).sentence();
            Err(Failure::say(Exit::Failed, format!("{why}; all rows up to {position} are stored: {next}")))
        }
    }
}

fn client_options(args: &Args) -> Result<ClientOptions, Failure> {
    // Reads of tails have places beside the appends.
    let in_flight_max = args.in_flight as usize + 256;
    let connect_timeout = Duration::from_secs(args.patience);
    Ok(ClientOptions { in_flight_max, connect_timeout, ..args.servers.options(Route::Leader)? })
}

/// The first signal: what was sent is settled. The second means now.
fn stop_on_signal(counters: Arc<Counters>) {
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if counters.stop.swap(true, Ordering::Relaxed) {
                std::process::exit(Exit::Failed as i32);
            }
        }
    });
}

fn at(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Runs the load and tells how far it is: a bar, lines, or JSON.
async fn show<T>(args: &Args, surveyed: &Survey, counters: &Counters, loading: impl Future<Output = T>) -> T {
    let output = Output::new(args.format);
    let mut progress = Progress::new(surveyed.rows, 0, args.quiet || output.is_json());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::pin!(loading);
    loop {
        tokio::select! {
            done = &mut loading => {
                progress.finish();
                return done;
            }
            _ = ticks.tick() => {
                if !args.quiet && output.object(|| feed("progress", surveyed, counters)).is_err() {
                    // Nobody reads the progress any more; the load goes on.
                    ticks = interval(Duration::from_secs(3600));
                }
                let in_doubt = at(&counters.in_doubt);
                let word = if in_doubt == 0 { String::new() } else { format!("{in_doubt} receipts in doubt") };
                progress.show(at(&counters.skipped) + at(&counters.stored), &word);
            }
        }
    }
}

/// One line of the feed; the demonstration reads it too.
fn feed(event: &str, surveyed: &Survey, counters: &Counters) -> Value {
    let (skipped, stored) = (at(&counters.skipped), at(&counters.stored));
    serde_json::json!({
        "event": event,
        "rows_total": surveyed.rows,
        "acked": skipped + stored,
        "skipped": skipped,
        "sent": at(&counters.sent),
        "in_flight": at(&counters.in_flight),
        "in_doubt": at(&counters.in_doubt),
    })
}

fn tell(
    args: &Args,
    surveyed: &Survey,
    counters: &Counters,
    client: &Client,
    summary: &Summary,
) -> Result<(), Failure> {
    let (skipped, stored, in_doubt) = (at(&counters.skipped), at(&counters.stored), at(&counters.in_doubt));
    let seconds = summary.elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { stored as f64 / seconds } else { 0.0 };
    let millis = |quantile| summary.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let (p50, p99, reconnects) = (millis(0.5), millis(0.99), client.stats().reconnects);
    let object = || {
        let mut object = feed("done", surveyed, counters);
        let more = serde_json::json!({
            "file_sha256": hex(&surveyed.file),
            "position": summary.position,
            "streams": surveyed.streams.len(),
            "stored": stored,
            "found": summary.found,
            "rejected": at(&counters.rejected),
            "reconnects": reconnects,
            "seconds": seconds,
            "acked_per_second": rate,
            "latency_ms": { "p50": p50, "p99": p99 },
        });
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    };
    let text = || {
        let streams = count(surveyed.streams.len() as u64);
        pairs(&[
            ("rows", format!("{} in {streams} streams", count(surveyed.rows))),
            ("there before", count(skipped)),
            ("stored", format!("{} in {seconds:.1} s, {rate:.0} a second", count(stored))),
            ("latency", format!("p50 {p50:.2} ms, p99 {p99:.2} ms")),
            ("receipts in doubt", format!("{in_doubt}; {} rows were found stored by reading", summary.found)),
            ("reconnects", reconnects.to_string()),
        ])
    };
    Output::new(args.format).both(object, text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_above_zero() {
        assert_eq!(positive("2.5"), Ok(2.5));
        for wrong in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(positive(wrong).is_err(), "{wrong}");
        }
    }
}

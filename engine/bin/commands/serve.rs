//! `towline serve --config FILE`.

use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};
use crate::parent;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use towline::model::request::FailureClass;
use towline::node::{Config, OpenError, ServeError, serve};
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's configuration (TOML)
    #[arg(long, env = "TOWLINE_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Tell more on standard error (finer: TOWLINE_LOG, as in `TOWLINE_LOG=towline=trace`)
    #[arg(long)]
    verbose: bool,
    /// End when standard input ends
    #[arg(long, hide = true)]
    with_parent: bool,
    #[command(flatten)]
    pub(crate) format: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::new(args.format);
    let config = Config::read(&args.config).map_err(|error| Failure::new(Exit::Usage, error))?;
    tell(args);
    raise_file_limit();
    if args.with_parent {
        parent::end_with_standard_input()?;
    }
    // The signals are caught before anything is opened.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let (opened, mut opening) = tokio::sync::oneshot::channel();
    let path = config.clone();
    std::thread::Builder::new().name("towline-open".into()).spawn(move || drop(opened.send(serve(&path))))?;
    // A recovery may take its time: the first signal closes what it opens, the second ends the process.
    let mut told = false;
    let server = runtime.block_on(async {
        loop {
            tokio::select! {
                server = &mut opening => return server.ok(),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if std::mem::replace(&mut told, true) {
                std::process::exit(Exit::Failed as i32);
            }
        }
    });
    let ended = || Failure::say(Exit::Failed, "the node ended by a panic while it opened");
    let server = server.ok_or_else(ended)?.map_err(unhealthy)?;
    let (node, address) = (config.node.get(), server.address());
    // Nobody may listen to what a server says: that is no reason to end.
    let tell = |event: &str, sentence: String| {
        let object = || serde_json::json!({ "event": event, "node": node, "address": address.to_string() });
        if let Err(error) = output.both(object, || sentence) {
            tracing::debug!(%error, "standard output is closed");
        }
    };
    tell("listening", format!("listening on {address}"));
    let failure = runtime.block_on(async {
        if told {
            return None;
        }
        tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            reason = server.failed() => Some(reason),
        }
    });
    tell("closing", "closing; once more means now".to_owned());
    let closing = std::thread::Builder::new().name("towline-close".into()).spawn(|| server.shutdown())?;
    let closed = runtime.block_on(async {
        let finished = tokio::task::spawn_blocking(|| closing.join());
        tokio::select! {
            finished = finished => Some(finished),
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        }
    });
    match closed {
        Some(Ok(Ok(result))) => {
            if let Some(reason) = failure {
                return Err(Failure::say(Exit::Failed, format!("the node has stopped: {reason}")));
            }
            result?;
            tell("closed", "closed".to_owned());
            Ok(ExitCode::SUCCESS)
        }
        Some(_) => Err(Failure::say(Exit::Failed, "the node ended by a panic while it closed")),
        // Nothing acknowledged is lost by that: the next open recovers, as after a power cut.
        None => std::process::exit(Exit::Failed as i32),
    }
}

/// As many open files as the system lets this process have: connections must not take those of the state.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, files = ?limit.current, "the limit on open files stays as it is");
    }
}

/// A directory that does not open is a failure, also another node's: the configuration names the wrong one. One that is damaged,
/// that two have written or that went back in time is not healthy.
fn unhealthy(error: ServeError) -> Failure {
    let is_not_what_it_was = match &error {
        ServeError::Open(OpenError::RolledBack { .. }) => true,
        // Its manifest is not readable, or says that two have written.
        ServeError::Open(OpenError::Log(log)) => matches!(log.code(), "TW-1204" | "TW-1206"),
        _ => false,
    };
    let is_ill = is_not_what_it_was || error.class() == FailureClass::Damage;
    Failure::new(if is_ill { Exit::Unhealthy } else { Exit::Failed }, error)
}

/// Standard error, one event a line, from `info` on; colours on a terminal only (and not with NO_COLOR).
fn tell(args: &Args) {
    let default = if args.verbose { "debug" } else { "info" };
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if args.format.json {
        subscriber.json().init();
    } else {
        subscriber.init();
    }
}

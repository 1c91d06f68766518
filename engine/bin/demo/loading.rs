//! [`Loading`]: a `towline load` in a process of its own, and how far it says it is.

use super::cluster::last_words;
use super::process::Process;
use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::ChildStdout;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How often the feed is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long a load may take for its end when all rows are acknowledged.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Loading {
    process: Process,
    feed: Arc<Mutex<Value>>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Loading {
    pub(super) fn start(arguments: &[String], log: PathBuf) -> Result<Self> {
        let (process, output) = Process::start("the load", arguments, &log)?;
        let feed = Arc::new(Mutex::new(Value::Null));
        let (latest, output) = (Arc::clone(&feed), output.context("the load has no output")?);
        // Owned by this: it ends with the pipe, and is joined in `finish`.
        let reader = Builder::new().name("demo-load-feed".into()).spawn(move || follow(output, &latest))?;
        Ok(Self { process, feed, reader: Some(reader), log })
    }

    /// A figure of the last line of the feed; 0 before the first.
    pub(super) fn figure(&self, name: &str) -> u64 {
        self.feed.lock().get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Waits until the feed is as wanted; it is looked at by `show` meanwhile.
    pub(super) async fn until(
        &mut self,
        wanted: &str,
        is_so: impl Fn(&Self) -> bool,
        mut show: impl FnMut(u64),
    ) -> Result<()> {
        while !is_so(self) {
            show(self.figure("acked"));
            if let Some(status) = self.process.ended()? {
                bail!("the load ended ({status}) before {wanted}; {}", last_words(&self.log));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits for its good end, and returns its summary.
    pub(super) async fn finish(mut self, mut show: impl FnMut(u64)) -> Result<Value> {
        let mut quiet_since = (0, std::time::Instant::now());
        let status = loop {
            let acked = self.figure("acked");
            show(acked);
            if let Some(status) = self.process.ended()? {
                break status;
            }
            if acked != quiet_since.0 {
                quiet_since = (acked, std::time::Instant::now());
            }
            if quiet_since.1.elapsed() > PATIENCE {
                bail!("the load has not moved for {} s; {}", PATIENCE.as_secs(), last_words(&self.log));
            }
            tokio::time::sleep(LOOK).await;
        };
        if let Some(reader) = self.reader.take() {
            // The child's exit status is the verdict; its reader only ends with its output.
            tokio::task::spawn_blocking(move || reader.join()).await.ok();
        }
        if !status.success() {
            bail!("the load failed ({status}); {}", last_words(&self.log));
        }
        Ok(self.feed.lock().clone())
    }
}

/// Keeps the newest line. One that does not parse was cut by the end of the process; a pipe that can't be read has no more of them.
fn follow(output: ChildStdout, latest: &Mutex<Value>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Ok(value) = serde_json::from_str(&line) {
            *latest.lock() = value;
        }
    }
}

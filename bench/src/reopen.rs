//! Opening a node whose process was killed: what the log replays, and where the time goes.
//!
//! A child process ([`write_until_killed`]) writes until its log has what is asked for, and goes on writing until SIGKILL.
//! What no flush of the state held is not what the child believes: it is what the opened node had applied when it answered.

use crate::engine::key;
use crate::process::Memory;
use crate::producers::{await_serving, noise, payload};
use crate::report::{mebibytes, seconds, table};
use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use towline::model::Read;
use towline::node::{Node, NodeOptions};
use towline::pipeline::Receipt;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Producers of the child, and receipts that each has under way.
const PRODUCERS: u64 = 4;
const UNDER_WAY: usize = 1024;
/// Keys of a child that overwrites the same ones, for each producer.
const KEYS_OVERWRITTEN: u64 = 16;
/// The command of the child; hidden, since it is of no use to people.
pub const CHILD: &str = "write-until-killed";

/// What a child writes, and with what bound on what its state keeps unflushed.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Bytes of the log before it is killed.
    pub log_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// The same few keys again and again; otherwise each key once.
    pub overwrites: bool,
    /// `RocksOptions::unflushed_bytes`, and no bound on what is replayed; none: the defaults.
    pub unflushed_bytes: Option<usize>,
}

impl Load {
    fn options(&self, directory: &Path) -> NodeOptions {
        let mut options = NodeOptions::alone(directory);
        if let Some(bytes) = self.unflushed_bytes {
            options.state.unflushed_bytes = bytes;
            options.replay_bytes_max = u64::MAX;
        }
        options
    }
}

/// What one opening did.
#[derive(Debug, Clone, Copy)]
struct Reopened {
    /// Of the log, what no flush of the state held.
    unflushed: u64,
    /// Until the log was open.
    log: Duration,
    /// From there until `Node::open` returned: the state, the threads.
    state: Duration,
    /// From there until a linearizable read answered: the replay.
    replay: Duration,
    /// Memory of the process at the most, beyond what it had before.
    memory: u64,
}

/// Ways to have much to replay, each written, killed and opened: as a table.
///
/// # Errors
/// The child or the opening fails.
pub fn measure(place: impl Fn() -> Result<tempfile::TempDir>, log_bytes: u64, value_bytes: usize) -> Result<Table> {
    let load = Load { log_bytes, value_bytes, overwrites: false, unflushed_bytes: None };
    // Entries of small values take several times their room in the log.
    let wide = Some(usize::try_from(log_bytes.saturating_mul(8))?);
    let loads = [
        ("each key once", load),
        ("the same 64 keys again and again", Load { overwrites: true, ..load }),
        ("each key once, bounds beyond the log", Load { unflushed_bytes: wide, ..load }),
        ("the same 64 keys, bounds beyond the log", Load { overwrites: true, unflushed_bytes: wide, ..load }),
    ];
    let mut lines = Vec::new();
    for (what, load) in loads {
        let place = place()?;
        kill(place.path(), &load)?;
        let found = reopen(place.path(), &load)?;
        let whole = found.log + found.state + found.replay;
        let pace = found.unflushed as f64 / 1e6 / found.replay.as_secs_f64();
        lines.push([
            what.to_owned(),
            mebibytes(found.unflushed),
            seconds(whole),
            seconds(found.log),
            seconds(found.state),
            seconds(found.replay),
            format!("{pace:.0} MB/s"),
            mebibytes(found.memory),
        ]);
    }
    let header = ["killed after", "not flushed", "to a read", "log", "state", "replay", "replayed", "peak memory"];
    Ok(table(header, lines))
}

/// Starts a child, lets it write, kills it.
fn kill(directory: &Path, load: &Load) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).arg(directory);
    command.args(["--log-bytes", &load.log_bytes.to_string(), "--value-bytes", &load.value_bytes.to_string()]);
    if load.overwrites {
        command.arg("--overwrites");
    }
    if let Some(bytes) = load.unflushed_bytes {
        command.args(["--unflushed-bytes", &bytes.to_string()]);
    }
    // It ends with its input: otherwise it would outlive a parent that failed.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    let heard = match child.stdout.take() {
        Some(output) => BufReader::new(output).read_line(&mut said).map(drop),
        None => Ok(()),
    };
    // SIGKILL: nothing is closed, nothing is flushed.
    child.kill()?;
    child.wait()?;
    heard?;
    ensure!(said.trim() == READY, "the child ended early: {said:?}");
    Ok(())
}

const READY: &str = "ready";

/// The child: writes, says so when there is enough, and goes on.
///
/// # Errors
/// A write fails; or the parent is gone.
pub fn write_until_killed(directory: &Path, load: &Load) -> Result<()> {
    let node = Node::open(load.options(directory))?;
    await_serving(|| node.is_serving())?;
    let (space, pool, is_orphan) = (node.default_namespace(), noise(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut nothing = Vec::new();
            // Whatever comes of it: there is no parent any more.
            drop(std::io::stdin().read_to_end(&mut nothing));
            is_orphan.store(true, Ordering::SeqCst);
        });
        let write = |producer: u64| {
            let mut waiting = VecDeque::with_capacity(UNDER_WAY);
            for number in 0_u64.. {
                if is_orphan.load(Ordering::SeqCst) {
                    break;
                }
                if waiting.len() == UNDER_WAY
                    && let Some(oldest) = waiting.pop_front()
                {
                    let oldest: Receipt = oldest;
                    oldest.wait()?;
                }
                let name = if load.overwrites { number % KEYS_OVERWRITTEN } else { number };
                let value = payload(&pool, number * 64 + producer, load.value_bytes);
                waiting.push_back(space.put(key(producer, name), value)?);
                if producer == 0 && number % 1000 == 0 && node.stats()?.log.batch_bytes >= load.log_bytes {
                    // Once is enough to be heard, and more does no harm.
                    println!("{READY}");
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let producers: Vec<_> = (0..PRODUCERS).map(|producer| scope.spawn(move || write(producer))).collect();
        producers
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a producer panicked"))?)
    })
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn reopen(directory: &Path, load: &Load) -> Result<Reopened> {
    Memory::forget_peak()?;
    let before = Memory::now()?.resident;
    let marks = Arc::<Marks>::default();
    let start = Instant::now();
    let node = tracing::subscriber::with_default(Arc::clone(&marks), || Node::open(load.options(directory)))?;
    let opened = start.elapsed();
    let found = node.default_namespace().reading_within(Duration::from_secs(600)).get(key(0, 0), Read::Linearizable)?;
    let read = start.elapsed();
    let memory = Memory::now()?.peak.saturating_sub(before);
    ensure!(found.is_some(), "the first key was acknowledged");
    let log = marks.0.get().context("the node says when its log is open")?.duration_since(start);
    let unflushed = node.stats()?.shards.first().context("one shard")?.bytes;
    node.close()?;
    Ok(Reopened { unflushed, log, state: opened - log, replay: read - opened, memory })
}

/// Hears when a node's log is open: the node tells that to whoever traces it.
#[derive(Debug, Default)]
struct Marks(OnceLock<Instant>);

impl Subscriber for Marks {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "towline::node::open"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    fn event(&self, _: &Event<'_>) {
        self.0.get_or_init(Instant::now);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

//! What shards cost that nobody writes to: time to make and to open them, memory, threads, processor time, and what a write to one of
//! them waits for meanwhile.
//!
//! Each number of shards has two processes of its own ([`CHILD`]), one that makes them and one that opens them again: what an
//! allocator keeps of one must not count for the other.

use crate::process::{Memory, processor_time, threads};
use crate::producers::{noise, payload};
use crate::report::{ratio, seconds, table};
use anyhow::{Result, ensure};
use comfy_table::Table;
use hdrhistogram::Histogram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::node::{Namespace, NamespaceOptions, Node, NodeOptions};

/// The command of the child; hidden, since it is of no use to people.
pub const CHILD: &str = "idle-shards-child";
/// Shards of one namespace: some namespaces have them together, as tenants would.
const OF_A_NAMESPACE: u64 = 1000;
/// Until what an opening began in the background is done.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// Bytes of a write, how many there are, and how many of one node before the other's turn.
const WRITE_BYTES: usize = 1024;
const WRITES: u64 = 4096;
const TURN: u64 = 32;
/// Between two looks whether all serve: each asks every shard.
const LOOKS_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Make,
    Open,
}

/// One line for each number of shards, that of the default namespace among them.
///
/// # Errors
/// A child fails.
pub fn measure(place: impl Fn() -> Result<TempDir>, counts: &[u64], idle: Duration) -> Result<[Table; 2]> {
    let (mut costs, mut waits, mut alone) = (Vec::new(), Vec::new(), None);
    for count in counts.iter().copied() {
        let place = place()?;
        let made = child(place.path(), count, Step::Make, idle)?;
        let opened = child(place.path(), count, Step::Open, idle)?;
        let (made_with, opened_with) = *alone.get_or_insert((made.resident, opened.resident));
        let each = |resident: u64, base: u64| match count.saturating_sub(counts[0]) {
            0 => String::new(),
            more => format!("{:.1} KiB", resident.saturating_sub(base) as f64 / 1024.0 / more as f64),
        };
        costs.push([
            count.to_string(),
            seconds(made.took),
            each(made.resident, made_with),
            seconds(opened.took),
            each(opened.resident, opened_with),
            format!("{:.0} MiB", opened.resident as f64 / f64::from(1 << 20)),
            opened.threads.to_string(),
            format!("{:.2} %", 100.0 * opened.processor.as_secs_f64() / idle.as_secs_f64()),
        ]);
        let [(one, one99), (many, many99)] = opened.waits;
        waits.push([
            count.to_string(),
            format!("{one} µs"),
            format!("{many} µs"),
            ratio(many, one),
            format!("{one99} µs"),
            format!("{many99} µs"),
            ratio(many99, one99),
        ]);
    }
    let head = ["shards", "made in", "memory each", "opened in", "memory each", "memory", "threads", "of a core, idle"];
    let head_of_waits = ["shards", "p50 with one", "with all", "ratio", "p99 with one", "with all", "ratio"];
    Ok([table(head, costs), table(head_of_waits, waits)])
}

/// What a child tells.
struct Told {
    took: Duration,
    resident: u64,
    threads: u64,
    processor: Duration,
    /// p50 and p99 in microseconds of a node with one shard, and of the one with all.
    waits: [(u64, u64); 2],
}

fn child(directory: &Path, shards: u64, step: Step, idle: Duration) -> Result<Told> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).arg(directory).arg(shards.to_string());
    if step == Step::Open {
        command.arg("--idle-seconds").arg(idle.as_secs().to_string());
    }
    let output = command.output()?;
    let (said, cried) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{step:?} of {shards} shards failed: {cried}");
    let numbers: Vec<u64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [took, resident, threads, processor, one, one99, many, many99] = numbers[..] else {
        anyhow::bail!("the child said {said:?}")
    };
    let (took, processor) = (Duration::from_micros(took), Duration::from_micros(processor));
    Ok(Told { took, resident, threads, processor, waits: [(one, one99), (many, many99)] })
}

/// The child: makes the shards and closes; or, given how long to look at them idle, opens them again.
///
/// # Errors
/// The node can't be opened, or a write failed.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn run_child(directory: &Path, shards: u64, idle: Option<Duration>) -> Result<()> {
    let start = Instant::now();
    let node = Node::open(NodeOptions::alone(directory.join("all")))?;
    if idle.is_none() {
        make(&node, shards)?;
    }
    await_all(&node, shards)?;
    let took = start.elapsed();
    std::thread::sleep(SETTLES_WITHIN);
    let (resident, threads) = (Memory::now()?.resident, threads()?);
    let (mut processor, mut waits) = (Duration::ZERO, [(0, 0); 2]);
    if let Some(idle) = idle {
        let before = processor_time()?;
        std::thread::sleep(idle);
        processor = processor_time()? - before;
        let one = Node::open(NodeOptions::alone(directory.join("one")))?;
        await_all(&one, 1)?;
        waits = waits_of([&one.default_namespace(), &node.default_namespace()])?;
        one.close()?;
    }
    node.close()?;
    let [(one, one99), (many, many99)] = waits;
    let (took, processor) = (took.as_micros(), processor.as_micros());
    println!("{took} {resident} {threads} {processor} {one} {one99} {many} {many99}");
    Ok(())
}

fn make(node: &Node, shards: u64) -> Result<()> {
    let mut left = shards.saturating_sub(1);
    for number in 0_u64.. {
        let some = left.min(OF_A_NAMESPACE);
        if some == 0 {
            break;
        }
        let points = (1..some).map(|point| format!("{point:04}"));
        node.create_namespace(&format!("tenants-{number}"), &NamespaceOptions::default().split_at(points))?;
        left -= some;
    }
    Ok(())
}

/// Waits until every shard takes writes.
#[expect(clippy::disallowed_methods, reason = "each look asks every shard: not too often")]
fn await_all(node: &Node, shards: u64) -> Result<()> {
    loop {
        let stats = node.stats()?.shards;
        ensure!(stats.len() as u64 == shards, "{} shards, not {shards}", stats.len());
        if stats.iter().all(|shard| shard.is_serving) {
            return Ok(());
        }
        let failed = stats.iter().find_map(|shard| shard.failure.clone());
        ensure!(failed.is_none(), "a shard has stopped: {failed:?}");
        std::thread::sleep(LOOKS_EVERY);
    }
}

/// Durable writes, each waited for, in turns: whatever else the machine does is felt by both.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn waits_of(spaces: [&Namespace; 2]) -> Result<[(u64, u64); 2]> {
    let pool = noise();
    let mut waits = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
    for turn in 0..WRITES / TURN {
        for (space, waits) in spaces.iter().zip(&mut waits) {
            for number in turn * TURN..(turn + 1) * TURN {
                let start = Instant::now();
                space.put(format!("{number:06}"), payload(&pool, number, WRITE_BYTES))?.wait()?;
                waits.record(u64::try_from(start.elapsed().as_micros())?)?;
            }
        }
    }
    let of = |histogram: &Histogram<u64>| (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
    Ok([of(&waits[0]), of(&waits[1])])
}

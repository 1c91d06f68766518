//! What shards cost that nobody writes to, on each of three nodes that have them all: memory, threads, processor time, and bytes on the
//! wire between them. Each node is a process of its own ([`CHILD`]).

use crate::process::{Memory, processor_time, threads};
use crate::report::{seconds, table};
use anyhow::{Context as _, Result, ensure};
use comfy_table::Table;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::node::{Config, Node, serve};

/// The command of the child; hidden, since it is of no use to people.
pub const CHILD: &str = "idle-shards-node";
const NODES: usize = 3;
/// Shards of one namespace.
const OF_A_NAMESPACE: u64 = 1000;
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// One line for each node and number of shards, those of the default namespace among them.
///
/// # Errors
/// A child fails.
pub fn measure(place: impl Fn() -> Result<TempDir>, counts: &[u64], idle: Duration) -> Result<Table> {
    let (mut lines, mut bases) = (Vec::new(), None);
    for count in counts.iter().copied() {
        let place = place()?;
        let told = nodes(place.path(), count, idle)?;
        let bases: &Vec<u64> = bases.get_or_insert_with(|| told.iter().map(|told| told.resident).collect());
        for (number, (told, base)) in told.iter().zip(bases).enumerate() {
            let each = told.resident.saturating_sub(*base) as f64 / 1024.0;
            let each = match count.saturating_sub(counts[0]) {
                0 => String::new(),
                more => format!("{:.1} KiB", each / more as f64),
            };
            lines.push([
                count.to_string(),
                (number + 1).to_string(),
                seconds(told.took),
                each,
                format!("{:.0} MiB", told.resident as f64 / f64::from(1 << 20)),
                told.threads.to_string(),
                format!("{:.2} %", 100.0 * told.processor.as_secs_f64() / idle.as_secs_f64()),
                format!("{:.0} B/s", told.wire as f64 / idle.as_secs_f64()),
            ]);
        }
    }
    let head = ["shards", "node", "all led after", "memory each", "memory", "threads", "of a core, idle", "sent, idle"];
    Ok(table(head, lines))
}

struct Told {
    took: Duration,
    resident: u64,
    threads: u64,
    processor: Duration,
    wire: u64,
}

/// Ends with its input, so that none outlives a parent that failed.
struct Running {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Running {
    fn hear(&mut self) -> Result<Vec<u64>> {
        let mut said = String::new();
        self.says.read_line(&mut said)?;
        ensure!(!said.is_empty(), "a node ended early");
        Ok(said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

fn nodes(directory: &Path, shards: u64, idle: Duration) -> Result<Vec<Told>> {
    // Held together while they are chosen, so that they differ.
    let held: Vec<_> = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports: Vec<_> = held.iter().map(|held| Ok(held.local_addr()?.port().to_string())).collect::<Result<_>>()?;
    drop(held);
    let mut running = Vec::new();
    for node in 1..=NODES {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(CHILD).arg(directory).args([node.to_string(), shards.to_string()]);
        command.args(["--ports", &ports.join(","), "--idle-seconds", &idle.as_secs().to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let says = BufReader::new(child.stdout.take().context("it is piped")?);
        running.push(Running { child, says });
    }
    // Each says when all shards are led; then they are idle together.
    let took: Vec<_> = running.iter_mut().map(Running::hear).collect::<Result<_>>()?;
    for node in &mut running {
        node.child.stdin.as_mut().context("it is piped")?.write_all(b"\n")?;
    }
    let mut told = Vec::new();
    for (node, took) in running.iter_mut().zip(took) {
        let ([took], [resident, threads, processor, wire]) = (&took[..], &node.hear()?[..]) else {
            anyhow::bail!("a node said other numbers")
        };
        let (took, processor) = (Duration::from_micros(*took), Duration::from_micros(*processor));
        told.push(Told { took, resident: *resident, threads: *threads, processor, wire: *wire });
    }
    for mut node in running {
        drop(node.child.stdin.take());
        ensure!(node.child.wait()?.success(), "a node was not closed cleanly");
    }
    Ok(told)
}

/// The child: one node of three.
///
/// # Errors
/// The node can't be opened, or fails.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn run_child(directory: &Path, node: u64, shards: u64, ports: &[u16], idle: Duration) -> Result<()> {
    let start = Instant::now();
    let path = directory.join(format!("node-{node}.toml"));
    let server = serve(&Config::parse(&path, &configuration(node, shards, ports)?)?)?;
    while !knows_all(server.node(), shards)? {
        std::thread::sleep(LOOKS_EVERY);
    }
    println!("{}", start.elapsed().as_micros());
    let (mut input, mut go) = (std::io::stdin(), [0]);
    input.read_exact(&mut go)?;
    std::thread::sleep(SETTLES_WITHIN);
    let sent = || server.node().status().map(|status| status.wire_bytes_sent).context("the shard says how it is");
    let (before, sent_before) = (processor_time()?, sent()?);
    std::thread::sleep(idle);
    let (processor, wire) = (processor_time()? - before, sent()? - sent_before);
    println!("{} {} {} {wire}", Memory::now()?.resident, threads()?, processor.as_micros());
    // Until the others are done as well.
    input.read_to_end(&mut Vec::new())?;
    Ok(server.shutdown()?)
}

/// Whether each shard has a leader, whose first record is applied here.
fn knows_all(node: &Node, shards: u64) -> Result<bool> {
    let stats = node.stats()?.shards;
    ensure!(stats.len() as u64 == shards, "{} shards, not {shards}", stats.len());
    let failed = stats.iter().find_map(|shard| shard.failure.clone());
    ensure!(failed.is_none(), "a shard has stopped: {failed:?}");
    Ok(stats.iter().all(|shard| shard.applied.get() > 0))
}

fn configuration(node: u64, shards: u64, ports: &[u16]) -> Result<String> {
    let own = ports.get(usize::try_from(node)?.wrapping_sub(1)).context("a port for each node")?;
    let mut text = format!(
        "cluster = \"0193aabb-ccdd-7eff-8000-010203040506\"\nnode_id = {node}\ndata_dir = \"node-{node}\"\n\
         listen = \"127.0.0.1:{own}\"\nshard = {{ leader = 1 }}\nlimits = {{ quorum_seconds = 600 }}\n"
    );
    for (number, port) in ports.iter().enumerate() {
        write!(text, "[[node]]\nid = {}\naddress = \"127.0.0.1:{port}\"\n", number + 1)?;
    }
    let mut left = shards.saturating_sub(1);
    for number in 0_u64.. {
        let some = left.min(OF_A_NAMESPACE);
        if some == 0 {
            break;
        }
        write!(text, "[[namespace]]\nname = \"tenants-{number}\"\nshards = {some}\n")?;
        left -= some;
    }
    Ok(text)
}

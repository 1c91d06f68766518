//! [`Cluster`]: three nodes, their files, and how they are asked.

use super::process::Process;
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::client::{Client, ClientOptions, Route};
use towline::model::request::ServerStatus;

/// The nodes, by their place in [`Cluster`].
pub(super) const LEADER: usize = 0;
pub(super) const FOLLOWER: usize = 2;
pub(super) const NODES: usize = 3;

/// Small enough that the zero-filled segments of three nodes are quickly made.
/// How long anything may take that should take a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// Fields end in this order: first the processes, then their directory.
#[derive(Debug)]
pub(super) struct Cluster {
    nodes: Vec<DemoNode>,
    /// Bytes sent between nodes by the lives that have ended.
    wire_bytes_ended: u64,
    directory: Directory,
}

#[derive(Debug)]
struct DemoNode {
    address: String,
    process: Option<Process>,
    client: Option<Client>,
}

#[derive(Debug)]
enum Directory {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Cluster {
    /// Finds ports and writes the configuration files; nothing runs yet.
    pub(super) fn prepare(keep: bool) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("towline-demo-").tempdir()?;
        let directory = if keep { Directory::Kept(temporary.keep()) } else { Directory::Temporary(temporary) };
        // All ports are held until each is known, so that no two are the same.
        let held: Vec<_> = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let mut nodes = Vec::new();
        for listener in &held {
            nodes.push(DemoNode { address: listener.local_addr()?.to_string(), process: None, client: None });
        }
        let cluster = Self { nodes, wire_bytes_ended: 0, directory };
        let voters: String = (0..NODES).map(|node| cluster.voter(node)).collect();
        for node in 0..NODES {
            let text = format!(
                "cluster = \"{}\"\nnode_id = {}\ndata_dir = \"node-{}\"\nlisten = \"{}\"\n\n\
                 [shard]\nleader = {}\n{voters}",
                CLUSTER,
                node + 1,
                node + 1,
                cluster.nodes[node].address,
                LEADER + 1,
            );
            fs::write(cluster.config(node), text)?;
        }
        Ok(cluster)
    }

    /// Starts a node; it may take its time to be of use.
    pub(super) fn start(&mut self, node: usize) -> Result<()> {
        let config = self.config(node);
        let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let (process, _output) = Process::start(&format!("node {}", node + 1), arguments, &self.log(node))?;
        self.nodes[node].process = Some(process);
        Ok(())
    }

    /// kill -9.
    pub(super) async fn kill(&mut self, node: usize) -> Result<()> {
        let sent = self.status(node).await.map_or(0, |status| status.wire_bytes_sent);
        self.wire_bytes_ended += sent;
        self.kill_unasked(node)
    }

    /// kill -9 of a node that can't be asked for its figures first.
    pub(super) fn kill_unasked(&mut self, node: usize) -> Result<()> {
        self.nodes[node].client = None;
        let process = self.nodes[node].process.take().context("the node does not run")?;
        process.kill()
    }

    pub(super) fn note_wire_bytes(&mut self, bytes: u64) {
        self.wire_bytes_ended += bytes;
    }

    pub(super) fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        self.nodes[node].process.as_ref().context("the node does not run")?.signal(signal)
    }

    /// Stops all nodes in good order.
    pub(super) async fn stop(&mut self) -> Result<()> {
        for node in 0..NODES {
            self.signal(node, Signal::TERM)?;
        }
        for node in 0..NODES {
            self.nodes[node].client = None;
            let Some(mut process) = self.nodes[node].process.take() else { continue };
            let status = process.end(PATIENCE).await?;
            if !status.success() {
                bail!("node {} did not stop in good order: {status}; {}", node + 1, self.last_words(node));
            }
        }
        Ok(())
    }

    /// How a node is, if it answers.
    pub(super) async fn status(&mut self, node: usize) -> Option<ServerStatus> {
        self.client(node).await.ok()?.status().await.ok()
    }

    /// A client of this node alone.
    pub(super) async fn client(&mut self, node: usize) -> Result<Client> {
        if let Some(client) = &self.nodes[node].client {
            return Ok(client.clone());
        }
        let timeout = Duration::from_secs(5);
        let options = ClientOptions {
            route: Route::Any,
            request_timeout: timeout,
            connect_timeout: Duration::from_millis(500),
            ..ClientOptions::default()
        };
        let client = Client::connect([self.nodes[node].address.as_str()], options).await?;
        self.nodes[node].client = Some(client.clone());
        Ok(client)
    }

    /// Waits until a node is as wanted; fails if it ends, or takes too long.
    pub(super) async fn until(
        &mut self,
        node: usize,
        wanted: &str,
        is_so: impl Fn(&ServerStatus) -> bool,
    ) -> Result<ServerStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.status(node).await.filter(&is_so) {
                return Ok(status);
            }
            let process = self.nodes[node].process.as_mut().context("the node does not run")?;
            if let Some(status) = process.ended()? {
                bail!("node {} ended ({status}) before it {wanted}; {}", node + 1, self.last_words(node));
            }
            if begun.elapsed() > PATIENCE {
                bail!(
                    "node {} does not come so far that it {wanted} in {} s; {}",
                    node + 1,
                    PATIENCE.as_secs(),
                    self.last_words(node)
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Addresses of all nodes, as `--addr` takes them.
    pub(super) fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.address.as_str()).collect::<Vec<_>>().join(",")
    }

    pub(super) const fn wire_bytes_ended(&self) -> u64 {
        self.wire_bytes_ended
    }

    pub(super) fn path(&self) -> &Path {
        match &self.directory {
            Directory::Temporary(directory) => directory.path(),
            Directory::Kept(path) => path,
        }
    }

    pub(super) fn data(&self, node: usize) -> PathBuf {
        self.path().join(format!("node-{}", node + 1))
    }

    fn config(&self, node: usize) -> PathBuf {
        self.path().join(format!("node-{}.toml", node + 1))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.path().join(format!("node-{}.log", node + 1))
    }

    fn voter(&self, node: usize) -> String {
        format!("\n[[node]]\nid = {}\naddress = \"{}\"\n", node + 1, self.nodes[node].address)
    }

    /// The end of what a node said, for the sentence that says that it failed.
    fn last_words(&self, node: usize) -> String {
        last_words(&self.log(node))
    }
}

/// The last line of a file.
pub(super) fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().map_or_else(|| "it said nothing".to_owned(), |line| format!("it said last: {line}"))
}

/// Any uuid does; this one is easily known again in a log.
const CLUSTER: &str = "0193aabb-ccdd-7eff-8000-00000000de30";

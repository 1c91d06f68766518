//! Three processes of the program, and the remote client.

use super::{Client, Programs, System, ports, until_ready};
use crate::load::Case;
use crate::process::{Process, User, command};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::BoxFuture;
use rustix::fs::{Advice, fadvise};
use rustix::process::Signal;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use towline::client::{self, ClientOptions, Namespace, Route, Session};
use towline::model::request::ServerStatus;
use towline::model::{NodeId, Write};

/// How long a node may take until it leads.
const HANDOVER_MAX: Duration = Duration::from_secs(20);
/// Nodes.
const NODES: usize = 3;

/// Node 1 leads.
pub(crate) struct Towline {
    program: PathBuf,
    directory: PathBuf,
    addresses: Vec<String>,
    processes: Vec<Process>,
}

impl Towline {
    /// `more` is added to each node's configuration.
    pub(crate) async fn start(programs: &Programs, directory: &Path, more: &str) -> Result<Self> {
        let addresses: Vec<String> = ports::<NODES>()?.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut nodes = String::new();
        for (index, address) in addresses.iter().enumerate() {
            nodes.push_str(&format!("\n[[node]]\nid = {}\naddress = \"{address}\"\n", index + 1));
        }
        for (index, address) in addresses.iter().enumerate() {
            let node = index + 1;
            let text = format!(
                "cluster = \"0193aabb-ccdd-7eff-8000-00000000be40\"\nnode_id = {node}\ndata_dir = \"node-{node}\"\n\
                 listen = \"{address}\"\n\n[shard]\nleader = 1\n{nodes}\n{more}"
            );
            std::fs::write(directory.join(format!("node-{node}.toml")), text)?;
        }
        let (program, directory) = (programs.towline.clone(), directory.to_owned());
        let mut towline = Self { program, directory, addresses, processes: Vec::new() };
        for _ in 0..NODES {
            towline.start_next()?;
        }
        let address = towline.addresses[0].clone();
        until_ready(&mut towline.processes, async || {
            let status = connect_to(&address).await?.status().await?;
            let whole = status.followers.iter().filter(|follower| follower.connected).count() == NODES - 1;
            ensure!(status.serving && whole, "{status:?}");
            Ok(())
        })
        .await?;
        Ok(towline)
    }

    /// Starts the first node that does not run, as it was configured.
    pub(crate) fn start_next(&mut self) -> Result<()> {
        let node = self.processes.len() + 1;
        let config = self.directory.join(format!("node-{node}.toml"));
        let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        let command = command(&self.program, None, &User::Same, arguments);
        self.processes.push(Process::start(command, Signal::KILL, self.said(node))?);
        Ok(())
    }

    /// Kills the last node that runs.
    pub(crate) fn end_last(&mut self) {
        drop(self.processes.pop());
    }

    /// What a node has said.
    fn said(&self, node: usize) -> PathBuf {
        self.directory.join(format!("node-{node}.log"))
    }

    /// Fails if a snapshot was taken: then it is not the log that a follower was fed from.
    pub(crate) fn check_fed_from_log(&self) -> Result<()> {
        for node in 1..=NODES {
            let said = std::fs::read_to_string(self.said(node))?;
            ensure!(!said.contains("a snapshot is"), "node {node} has to do with a snapshot: the log was not kept");
        }
        Ok(())
    }

    /// The page cache forgets the leader's log, as if it were of yesterday.
    pub(crate) fn cool_log(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.directory.join("node-1/wal"))? {
            // A segment may be retired meanwhile.
            if let Ok(file) = File::open(entry?.path()) {
                fadvise(&file, 0, None, Advice::DontNeed)?;
            }
        }
        Ok(())
    }

    /// A client that asks the leader how it is.
    pub(crate) async fn watch(&self) -> Result<client::Client> {
        connect_to(self.addresses.first().context("there is no node")?).await
    }
}

/// A client of the node at this address.
async fn connect_to(address: &str) -> Result<client::Client> {
    let options = ClientOptions { route: Route::Any, ..ClientOptions::default() };
    Ok(client::Client::connect([address], options).await?)
}

/// Of the last node, what its leader knows to be durable there.
pub(crate) fn durable_at_last(status: &ServerStatus) -> Option<u64> {
    let follower = status.followers.iter().max_by_key(|follower| follower.node)?;
    Some(follower.durable)
}

impl System for Towline {
    fn hand_over(&self, node: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let client = client::Client::connect(self.addresses.iter().cloned(), ClientOptions::default()).await?;
            let leader = NodeId::new(node);
            Ok(client.namespace("default").assign_leader(None, leader, HANDOVER_MAX).await.map(drop)?)
        })
    }

    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn connect(&self, case: Case) -> BoxFuture<'_, Result<Arc<dyn Client>>> {
        Box::pin(async move {
            let client = client::Client::connect(self.addresses.iter().cloned(), ClientOptions::default()).await?;
            let space = client.namespace("default");
            if case.session {
                return Ok(Arc::new(Once(space.open_session().await?)) as Arc<dyn Client>);
            }
            Ok(Arc::new(Plain(space)) as Arc<dyn Client>)
        })
    }
}

/// Writes without a number.
struct Plain(Namespace);

impl Client for Plain {
    fn write(&self, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { Ok(self.0.put(key, value).await?.await.map(drop)?) })
    }
}

/// Writes of a session: each is executed once.
struct Once(Session);

impl Client for Once {
    fn write(&self, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { Ok(self.0.write(Write::new().put(key, value)).await.map(drop)?) })
    }
}

//! Three processes of the program, and the remote client.

use super::{Client, Programs, System, ports, until_ready};
use crate::load::Case;
use crate::process::{Process, User, command};
use anyhow::{Result, ensure};
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use towline::client::{self, ClientOptions, Namespace, Route, Session};
use towline::model::request::ServerStatus;
use towline::model::{NodeId, Write};

/// How long a node may take until it leads.
const HANDOVER_MAX: Duration = Duration::from_secs(20);

/// Node 1 leads.
pub(super) struct Towline {
    addresses: Vec<String>,
    processes: Vec<Process>,
}

impl Towline {
    pub(super) async fn start(programs: &Programs, directory: &Path) -> Result<Self> {
        let addresses: Vec<String> = ports::<3>()?.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut nodes = String::new();
        for (index, address) in addresses.iter().enumerate() {
            nodes.push_str(&format!("\n[[node]]\nid = {}\naddress = \"{address}\"\n", index + 1));
        }
        let mut processes = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let node = index + 1;
            let config = directory.join(format!("node-{node}.toml"));
            let text = format!(
                "cluster = \"0193aabb-ccdd-7eff-8000-00000000be40\"\nnode_id = {node}\ndata_dir = \"node-{node}\"\n\
                 listen = \"{address}\"\n\n[shard]\nleader = 1\n{nodes}"
            );
            std::fs::write(&config, text)?;
            let arguments = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
            let command = command(&programs.towline, None, &User::Same, arguments);
            let log = directory.join(format!("node-{node}.log"));
            processes.push(Process::start(command, Signal::KILL, log)?);
        }
        let mut towline = Self { addresses, processes };
        let address = towline.addresses[0].clone();
        until_ready(&mut towline.processes, async || {
            let status = status(&address).await?;
            let whole = status.followers.iter().filter(|follower| follower.connected).count() == 2;
            ensure!(status.serving && whole, "{status:?}");
            Ok(())
        })
        .await?;
        Ok(towline)
    }
}

/// How the node at this address is.
async fn status(address: &str) -> Result<ServerStatus> {
    let options = ClientOptions { route: Route::Any, ..ClientOptions::default() };
    Ok(client::Client::connect([address], options).await?.status().await?)
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

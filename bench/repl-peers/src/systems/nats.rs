//! NATS JetStream: a stream with three replicas in files, asked at the stream's leader.

use super::{Client, Programs, System, ports, until_ready};
use crate::load::Case;
use crate::process::{Process, User, command};
use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use futures_util::future::BoxFuture;
use rustix::process::Signal;
use std::path::Path;
use std::sync::Arc;

/// When the servers sync what they have written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sync {
    /// Before it is acknowledged.
    Always,
    /// Every two minutes.
    Default,
}

/// The stream's leader is the first of the processes.
pub(super) struct Nats {
    leader: u16,
    processes: Vec<Process>,
}

impl Nats {
    pub(super) async fn start(programs: &Programs, directory: &Path, sync: Sync) -> Result<Self> {
        let (program, libraries) = programs.find("nats-server")?;
        let [a, b, c, x, y, z] = ports()?;
        let (clients, peers) = ([a, b, c], [x, y, z]);
        let routes = peers.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let sync = match sync {
            Sync::Always => "sync_interval: always",
            Sync::Default => "",
        };
        let mut processes = Vec::new();
        for at in 0..3 {
            let text = format!(
                "server_name: n{at}\nlisten: \"127.0.0.1:{}\"\n\
                 jetstream {{ store_dir: \"{}\", max_file_store: 16G\n{sync} }}\n\
                 cluster {{ name: bench, listen: \"127.0.0.1:{}\", routes: [{routes}] }}\n",
                clients[at],
                directory.join(format!("n{at}")).display(),
                peers[at],
            );
            let config = directory.join(format!("n{at}.conf"));
            std::fs::write(&config, text)?;
            let command = command(&program, libraries.as_deref(), &User::Same, ["-c".as_ref(), config.as_os_str()]);
            processes.push(Process::start(command, Signal::KILL, directory.join(format!("n{at}.log")))?);
        }
        let leader = until_ready(&mut processes, async || {
            let context = jetstream::new(async_nats::connect(format!("127.0.0.1:{}", clients[0])).await?);
            let config = stream::Config {
                name: "bench".to_owned(),
                subjects: vec!["bench".to_owned()],
                num_replicas: 3,
                storage: stream::StorageType::File,
                ..stream::Config::default()
            };
            let mut stream = context.get_or_create_stream(config).await?;
            let cluster = stream.info().await?.cluster.clone().context("no cluster")?;
            let current = cluster.replicas.iter().filter(|replica| replica.current).count() == 2;
            ensure!(current, "{cluster:?}");
            let name = cluster.leader.context("the stream has no leader")?;
            (0..3).find(|at| name == format!("n{at}")).context("an unknown leader")
        })
        .await?;
        processes.swap(0, leader);
        Ok(Self { leader: clients[leader], processes })
    }
}

impl System for Nats {
    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn connect(&self, _: Case) -> BoxFuture<'_, Result<Arc<dyn Client>>> {
        Box::pin(async move {
            let client = async_nats::connect(format!("127.0.0.1:{}", self.leader)).await?;
            Ok(Arc::new(Connection(jetstream::new(client))) as Arc<dyn Client>)
        })
    }
}

struct Connection(jetstream::Context);

impl Client for Connection {
    fn write(&self, _key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        // One subject: an index by key would cost the server more, and a log needs none.
        Box::pin(async move { Ok(self.0.publish("bench", value.into()).await?.await.map(drop)?) })
    }
}

//! Redis: a master and two replicas that sync every command; SET and WAIT 1 go to the master in one message.

use super::{Client, Programs, System, ports, until_ready};
use crate::load::Case;
use crate::process::{Process, User, command};
use anyhow::{Result, ensure};
use futures_util::future::BoxFuture;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;
use std::path::Path;
use std::sync::Arc;

/// The master is the first of the processes.
pub(super) struct Redis {
    master: u16,
    processes: Vec<Process>,
}

impl Redis {
    pub(super) async fn start(programs: &Programs, directory: &Path) -> Result<Self> {
        let (program, libraries) = programs.find("redis-server")?;
        let ports = ports::<3>()?;
        let master = ports[0];
        let mut processes = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            let data = directory.join(format!("n{at}"));
            std::fs::create_dir(&data)?;
            let (port, data) = (port.to_string(), data.display().to_string());
            let mut arguments = vec!["--port", &port, "--bind", "127.0.0.1", "--dir", &data, "--save", ""];
            arguments.extend(["--appendonly", "yes", "--appendfsync", "always"]);
            let of = format!("127.0.0.1 {master}");
            if at > 0 {
                arguments.extend(["--replicaof", &of]);
            }
            let command = command(&program, libraries.as_deref(), &User::Same, arguments);
            processes.push(Process::start(command, Signal::KILL, directory.join(format!("n{at}.log")))?);
        }
        until_ready(&mut processes, async || {
            let mut connection = connect(master).await?;
            let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
            ensure!(info.matches("state=online").count() == 2, "{info}");
            Ok(())
        })
        .await?;
        Ok(Self { master, processes })
    }
}

async fn connect(port: u16) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&patient).await?)
}

impl System for Redis {
    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn connect(&self, _: Case) -> BoxFuture<'_, Result<Arc<dyn Client>>> {
        Box::pin(async move { Ok(Arc::new(Connection(connect(self.master).await?)) as Arc<dyn Client>) })
    }
}

struct Connection(MultiplexedConnection);

impl Client for Connection {
    fn write(&self, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut both = redis::pipe();
            both.cmd("SET").arg(key).arg(value).ignore().cmd("WAIT").arg(1).arg(0);
            let (replicas,): (u64,) = both.query_async(&mut self.0.clone()).await?;
            ensure!(replicas >= 1, "no replica has it");
            Ok(())
        })
    }
}

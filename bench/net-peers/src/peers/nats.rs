//! NATS: requests by the client's own multiplexed inbox, answered by a second client; between them the server, a process of
//! its own, whose processor time is not ours.

use super::Caller;
use crate::wire::Ends;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const SUBJECT: &str = "towline.bench";

/// Two clients and their server.
#[derive(Clone)]
pub(crate) struct Nats {
    client: async_nats::Client,
    _server: Arc<Process>,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Nats {
    pub(crate) fn open(ends: &Ends, program: &Path) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let process = Command::new(program)
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let process = Arc::new(Process(process));
        let answering = ends.server.block_on(ends.server.spawn(connect(port)))??;
        let mut requests = ends.server.block_on(answering.subscribe(SUBJECT))?;
        ends.server.block_on(answering.flush())?;
        ends.server.spawn(async move {
            while let Some(request) = requests.next().await {
                if let Some(reply) = request.reply
                    && answering.publish(reply, request.payload).await.is_err()
                {
                    return;
                }
            }
        });
        let client = ends.client.block_on(ends.client.spawn(connect(port)))??;
        Ok(Self { client, _server: process })
    }
}

/// Connects as soon as the server is there.
async fn connect(port: u16) -> Result<async_nats::Client> {
    let options = async_nats::ConnectOptions::new().connection_timeout(Duration::from_secs(2));
    let mut attempts = 0;
    loop {
        match options.clone().connect(format!("127.0.0.1:{port}")).await {
            Err(_) if attempts < 50 => tokio::time::sleep(Duration::from_millis(100)).await,
            connected => return Ok(connected?),
        }
        attempts += 1;
    }
}

impl Caller for Nats {
    async fn call(&self, request: Bytes) -> Result<Bytes> {
        Ok(self.client.request(SUBJECT, request).await?.payload)
    }
}

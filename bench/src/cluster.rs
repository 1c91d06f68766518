//! Three nodes on loopback, on one disk: what agreement costs.

use crate::producers::{Producers, await_serving};
use anyhow::Result;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use towline::node::{Config, ServerHandle, serve};

/// Producers on the leader's node; each write is durable on a majority and applied on the leader when it returns.
///
/// # Errors
/// The nodes can't be started, or no leader takes writes within ten seconds.
pub fn writes(directory: &Path, producers: u64, bytes: usize) -> Result<Producers> {
    let held = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    let ports = held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<std::io::Result<Vec<_>>>()?;
    drop(held);
    let mut servers: Vec<ServerHandle> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let mut text = format!(
            "cluster = \"0193aabb-ccdd-7eff-8000-010203040506\"\nnode_id = {}\ndata_dir = \"node-{index}\"\n\
             listen = \"127.0.0.1:{port}\"\n\n[shard]\nleader = 1\n",
            index + 1
        );
        for (peer, port) in ports.iter().enumerate() {
            text.push_str(&format!("\n[[node]]\nid = {}\naddress = \"127.0.0.1:{port}\"\n", peer + 1));
        }
        servers.push(serve(&Config::parse(&directory.join("node.toml"), &text)?)?);
    }
    let servers = Arc::new(servers);
    let leader = Arc::clone(&servers);
    await_serving(|| leader.first().is_some_and(|server| server.node().is_serving()))?;
    Ok(Producers::writing(producers, bytes, move |record| {
        let leader = servers.first().ok_or_else(|| anyhow::anyhow!("there is no server"))?;
        Ok(leader.node().default_namespace().write(record)?.wait().map(drop)?)
    }))
}

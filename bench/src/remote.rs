//! The remote client over loopback beside the embedding program, in one process: what the door costs.

use crate::engine::{Engine, durable, key};
use crate::producers::{await_serving, noise, payload};
use crate::report;
use anyhow::Result;
use comfy_table::Table;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline::client::{Client, ClientOptions};
use towline::node::{Config, serve};

/// So many callers, each waiting for its write, of these bytes.
const CALLERS: u64 = 64;
const BYTES: usize = 1024;

/// Durable writes of 64 callers, in turns: embedded, by one client whose connection they share, and by a client for each.
///
/// # Errors
/// A write failed.
pub fn measure(place: impl Fn() -> Result<TempDir>, writes: u64, rounds: u32) -> Result<Table> {
    let mut lines = Vec::new();
    for round in 1..=rounds {
        let directory = place()?;
        let engine = Engine::open(directory.path())?;
        let embedded = durable(&engine, CALLERS, BYTES, writes)?.rate();
        engine.close()?;
        let shared = remote(&place()?, writes, 1)?;
        let own = remote(&place()?, writes, CALLERS)?;
        for (name, rate) in [("embedded", embedded), ("one client", shared), ("64 clients", own)] {
            lines.push([round.to_string(), name.to_owned(), format!("{rate:.0}/s"), format!("{:.2}", rate / embedded)]);
        }
    }
    Ok(report::table(["round", "64 callers x 1 KiB, durable", "rate", "of embedded"], lines))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn remote(place: &TempDir, writes: u64, clients: u64) -> Result<f64> {
    let text = "cluster = \"0193aabb-ccdd-7eff-8000-010203040506\"\nnode_id = 1\ndata_dir = \"data\"\nlisten = \"127.0.0.1:0\"\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = \"127.0.0.1:7400\" }]";
    let server = serve(&Config::parse(&place.path().join("node.toml"), text)?)?;
    await_serving(|| server.node().is_serving())?;
    let address = server.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let took = runtime.block_on(async {
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(Client::connect([address.clone()], ClientOptions::default()).await?);
        }
        let pool = Arc::new(noise());
        let start = Instant::now();
        let mut callers = Vec::new();
        for caller in 0..CALLERS {
            let client = &connected[usize::try_from(caller % clients)?];
            let (space, pool) = (client.namespace("default"), Arc::clone(&pool));
            callers.push(tokio::spawn(async move {
                for number in 0..writes / CALLERS {
                    let value = payload(&pool, number * CALLERS + caller, BYTES);
                    space.put(key(caller, number), value).await?.await?;
                }
                Ok::<_, anyhow::Error>(())
            }));
        }
        for caller in callers {
            caller.await??;
        }
        Ok::<Duration, anyhow::Error>(start.elapsed())
    })?;
    drop(runtime);
    server.shutdown()?;
    Ok((writes / CALLERS * CALLERS) as f64 / took.as_secs_f64())
}

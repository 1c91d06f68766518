//! The remote client over loopback beside the embedding program, in one process: what the door costs.

use crate::engine::{Engine, durable, key};
use crate::process::processor_time;
use crate::producers::{await_serving, noise, payload};
use crate::report;
use anyhow::Result;
use comfy_table::Table;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use towline::client::{Client, ClientOptions};
use towline::node::{Config, NodeOptions, serve};

/// So many callers, each waiting for its write, of these bytes.
const CALLERS: u64 = 64;
const BYTES: usize = 1024;

/// Durable writes of 64 callers, in turns: embedded, by a client of the node in its process, by one client whose connection they share,
/// and by a client for each; and as many round trips over bare sockets.
///
/// # Errors
/// A write failed.
pub fn measure(place: impl Fn() -> Result<TempDir>, writes: u64, rounds: u32) -> Result<Table> {
    let mut lines = Vec::new();
    for round in 1..=rounds {
        let directory = place()?;
        let engine = Engine::open(directory.path())?;
        let before = processor_time()?;
        let rate = durable(&engine, CALLERS, BYTES, writes)?.rate();
        let embedded = Cost { rate, processor: (processor_time()? - before) / u32::try_from(writes)? };
        engine.close()?;
        let here = through(&place()?, writes, Asked::Here)?;
        let shared = through(&place()?, writes, Asked::Elsewhere { clients: 1 })?;
        let own = through(&place()?, writes, Asked::Elsewhere { clients: CALLERS })?;
        let bare = echo(writes)?;
        for (name, cost) in [
            ("embedded: threads", embedded),
            ("a client of the node in its process", here),
            ("one client", shared),
            ("64 clients", own),
            ("bare TCP, 64 connections: 1 KiB there, 64 bytes back", bare),
        ] {
            lines.push([
                round.to_string(),
                name.to_owned(),
                format!("{:.0}/s", cost.rate),
                format!("{:.2}", cost.rate / embedded.rate),
                format!("{:.1} µs", cost.processor.as_secs_f64() * 1e6),
            ]);
        }
    }
    let heads = ["round", "64 callers x 1 KiB, durable", "rate", "of embedded", "processor time each"];
    Ok(report::table(heads, lines))
}

/// What callers had done in a second, and what one of it cost both ends.
#[derive(Debug, Clone, Copy)]
struct Cost {
    rate: f64,
    processor: Duration,
}

/// Whom the callers ask.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// A node in their own process, by the same calls.
    Here,
    /// A server, over loopback.
    Elsewhere { clients: u64 },
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn through(place: &TempDir, writes: u64, asked: Asked) -> Result<Cost> {
    let text = "cluster = \"0193aabb-ccdd-7eff-8000-010203040506\"\nnode_id = 1\ndata_dir = \"data\"\nlisten = \"127.0.0.1:0\"\n\
                shard = { leader = 1 }\nnode = [{ id = 1, address = \"127.0.0.1:7400\" }]";
    let server = serve(&Config::parse(&place.path().join("node.toml"), text)?)?;
    await_serving(|| server.node().is_serving())?;
    let address = server.address().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (took, processor) = runtime.block_on(async {
        let (mut connected, options) = (Vec::new(), ClientOptions::default);
        match asked {
            Asked::Here => {
                let node = NodeOptions::alone(place.path().join("here"));
                connected.push(Client::open(node, options()).await?);
            }
            Asked::Elsewhere { clients } => {
                for _ in 0..clients {
                    connected.push(Client::connect([address.clone()], options()).await?);
                }
            }
        }
        let clients = connected.len() as u64;
        let pool = Arc::new(noise());
        let (start, before) = (Instant::now(), processor_time()?);
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
        Ok::<_, anyhow::Error>((start.elapsed(), processor_time()? - before))
    })?;
    drop(runtime);
    server.shutdown()?;
    let writes = writes / CALLERS * CALLERS;
    Ok(Cost { rate: writes as f64 / took.as_secs_f64(), processor: processor / u32::try_from(writes)? })
}

/// As much over loopback with nothing behind it: what sockets and threads cost alone.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn echo(requests: u64) -> Result<Cost> {
    let of = |threads| tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let (server, clients) = (of(2)?, of(2)?);
    let listener = server.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    server.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            drop(socket.set_nodelay(true));
            tokio::spawn(async move {
                let mut request = vec![0; BYTES];
                while socket.read_exact(&mut request).await.is_ok() && socket.write_all(&[7; 64]).await.is_ok() {}
            });
        }
    });
    let (took, processor) = clients.block_on(async {
        let mut sockets = Vec::new();
        for _ in 0..CALLERS {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            sockets.push(socket);
        }
        let (start, before) = (Instant::now(), processor_time()?);
        let callers: Vec<_> = sockets
            .into_iter()
            .map(|mut socket| {
                tokio::spawn(async move {
                    let mut answer = [0; 64];
                    for _ in 0..requests / CALLERS {
                        socket.write_all(&[7; BYTES]).await?;
                        socket.read_exact(&mut answer).await?;
                    }
                    Ok::<_, std::io::Error>(())
                })
            })
            .collect();
        for caller in callers {
            caller.await??;
        }
        Ok::<_, anyhow::Error>((start.elapsed(), processor_time()? - before))
    })?;
    let requests = requests / CALLERS * CALLERS;
    Ok(Cost { rate: requests as f64 / took.as_secs_f64(), processor: processor / u32::try_from(requests)? })
}

//! Connections that do nothing but their heartbeat: what each holds of our memory, and what it costs the processor.

use crate::Run;
use crate::clock::{self, Usage};
use crate::heap;
use crate::table::{Cell, Table, progress};
use crate::wire::{Ends, Security};
use anyhow::{Result, ensure};
use std::time::Duration;
use towline_net::driver::EventSink;

/// Some heartbeats: buffers have grown to what they need.
const SETTLE: Duration = Duration::from_secs(3);
/// In which the processor time is taken.
const WATCH: Duration = Duration::from_secs(5);

/// What so many connections hold.
#[derive(Debug, Clone, Copy)]
struct Held {
    heap: f64,
    cores: f64,
}

/// Prints one table: sockets alone, and with the transport on them.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let columns = ["each end holds", "heap B", "of it the transport's", "CPU us/s"];
    let mut table = Table::new(format!("{} idle connections, both ends in this process", run.connections), &columns);
    for security in [Security::Plain, Security::Tls] {
        let names = match security {
            Security::Plain => ["TCP, sockets alone", "TCP, towline-net"],
            Security::Tls => ["TLS, sessions alone", "TLS, towline-net"],
        };
        if !names.iter().any(|name| run.wants(name)) {
            continue;
        }
        let alone = hold(run, security, false)?;
        let ours = hold(run, security, true)?;
        for (name, held, transport) in [(names[0], alone, None), (names[1], ours, Some(ours.heap - alone.heap))] {
            table.row([
                Cell::from(name),
                Cell::Number(held.heap, 0),
                transport.map_or(Cell::Nothing, |bytes| Cell::Number(bytes, 0)),
                Cell::Number(held.cores * 1e6, 1),
            ]);
        }
    }
    table.note("A connection has two ends: twice this where both are ours. The kernel's buffers are not in it.");
    table.print(run.json);
    Ok(())
}

fn hold(run: &Run, security: Security, with_transport: bool) -> Result<Held> {
    progress(&format!("idle, {security:?}, {}", if with_transport { "transport" } else { "sockets alone" }));
    let ends = Ends::new()?;
    // Once before it counts: what is made once stays out of it.
    let mut bare = vec![ends.connect(security)?];
    let mut handles = Vec::with_capacity(run.connections);
    bare.reserve(run.connections);
    heap::begin();
    for _ in 0..run.connections {
        let wire = ends.connect(security)?;
        if with_transport {
            handles.push(ends.run(wire, EventSink::callback(|_| ()), EventSink::callback(|_| ()))?);
        } else {
            bare.push(wire);
        }
    }
    clock::pass(SETTLE);
    let each = 1.0 / (2.0 * run.connections as f64);
    let heap = heap::live() as f64 * each;
    let before = Usage::until_now()?;
    clock::pass(WATCH);
    let (cores, _) = Usage::until_now()?.cores_since(&before);
    heap::stop();
    ensure!(
        handles.iter().all(|(client, server)| !client.is_closed() && !server.is_closed()),
        "a connection ended by itself"
    );
    Ok(Held { heap, cores: cores * each })
}

//! Messages of 64 KiB, one way, as many as go: the transport beside a bare copy of the same bytes.

use crate::Run;
use crate::clock;
use crate::sample::{self, Phase, Sample, median, ratios};
use crate::table::{Cell, Table, progress};
use crate::wire::{End, Ends, Security};
use anyhow::Result;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use towline_net::driver::{ConnectionHandle, EventSink};
use towline_net::{Event, Lane, SendFlags, StreamKind};

const MESSAGE_BYTES: usize = 64 << 10;
/// What the transport's own read buffer grows to.
const READ_BYTES: usize = 256 << 10;

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `write_all` and `read`, and nothing else.
    Bare,
    /// The transport checksums each payload on both sides.
    Checked,
    /// The payload has checksums of its own, as batches of the log have.
    Checksummed,
}

const WAYS: [Way; 3] = [Way::Bare, Way::Checked, Way::Checksummed];

const fn name(security: Security, way: Way) -> &'static str {
    match (security, way) {
        (Security::Plain, Way::Bare) => "bare TCP",
        (Security::Plain, Way::Checked) => "towline-net",
        (Security::Plain, Way::Checksummed) => "towline-net, payload has its own checksums",
        (Security::Tls, Way::Bare) => "bare TLS (tokio-rustls)",
        (Security::Tls, Way::Checked) => "towline-net, TLS",
        (Security::Tls, Way::Checksummed) => "towline-net, TLS, payload has its own checksums",
    }
}

/// Prints one table, a row for each way.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let columns = ["way", "MB/s", "of bare", "lowest", "highest", "CPU ms/GB", "CPU of bare", "cores"];
    let mut table = Table::new("bulk, messages of 64 KiB one way", &columns);
    let mut all = Vec::new();
    for security in [Security::Plain, Security::Tls] {
        let ways: Vec<Way> = WAYS.into_iter().filter(|way| run.wants(name(security, *way))).collect();
        let samples = rounds(run, security, &ways)?;
        let bare = ways.iter().position(|way| *way == Way::Bare).and_then(|at| samples.get(at));
        for (way, own) in ways.iter().zip(&samples) {
            let bare = bare.map_or(&[][..], Vec::as_slice);
            let rates = ratios(own, bare, |sample| sample.rate);
            table.row([
                Cell::from(name(security, *way)),
                Cell::Number(median(own.iter().map(|sample| sample.rate / 1e6)), 0),
                Cell::ratio(rates.map(|(median, ..)| median)),
                Cell::ratio(rates.map(|(_, lowest, _)| lowest)),
                Cell::ratio(rates.map(|(.., highest)| highest)),
                Cell::Number(median(own.iter().map(|sample| sample.cost() * 1e12)), 0),
                Cell::ratio(ratios(own, bare, Sample::cost).map(|(median, ..)| median)),
                Cell::Number(median(own.iter().map(|sample| sample.cores)), 2),
            ]);
        }
        all.extend(samples.into_iter().flatten());
    }
    table.note(sample::noise(&all));
    table.print(run.json);
    Ok(())
}

/// Samples of each way, one for each round; who is first changes.
fn rounds(run: &Run, security: Security, ways: &[Way]) -> Result<Vec<Vec<Sample>>> {
    let ends = Ends::new()?;
    let mut samples = vec![Vec::new(); ways.len()];
    for round in 0..run.rounds {
        progress(&format!("bulk, {security:?}, round {}", round + 1));
        let mut turns: Vec<_> = ways.iter().zip(&mut samples).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for (way, samples) in turns {
            clock::await_calm(run.pace.patience)?;
            let (phase, received) = (Arc::new(Phase::default()), Arc::new(AtomicU64::new(0)));
            let wire = ends.connect(security)?;
            let flow = match way {
                Way::Bare => bare(&ends, wire, &phase, &received),
                Way::Checked => transport(&ends, wire, SendFlags::default(), &phase, &received)?,
                Way::Checksummed => transport(&ends, wire, SendFlags { checksummed: true }, &phase, &received)?,
            };
            samples.push(phase.run(run.pace, || received.load(Ordering::Relaxed))?);
            flow.end(&ends)?;
        }
    }
    Ok(samples)
}

/// Bytes on their way.
pub(crate) struct Flow {
    sender: tokio::task::JoinHandle<Result<()>>,
    handles: Option<(ConnectionHandle, ConnectionHandle)>,
}

impl Flow {
    /// Waits until nothing runs any more.
    pub(crate) fn end(self, ends: &Ends) -> Result<()> {
        ends.client.block_on(self.sender)??;
        if let Some((client, server)) = self.handles {
            client.close();
            ends.client.block_on(client.closed());
            ends.server.block_on(server.closed());
        }
        Ok(())
    }
}

/// Begins a bare copy.
pub(crate) fn bare(ends: &Ends, wire: (End, End), phase: &Arc<Phase>, received: &Arc<AtomicU64>) -> Flow {
    let (mut client, mut server) = wire;
    let received = Arc::clone(received);
    ends.server.spawn(async move {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count) = server.read(&mut buffer).await
            && count > 0
        {
            received.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
    let phase = Arc::clone(phase);
    let sender = ends.client.spawn(async move {
        let message = vec![0x5a; MESSAGE_BYTES];
        while !phase.is_over() {
            client.write_all(&message).await?;
        }
        Ok(client.shutdown().await?)
    });
    Flow { sender, handles: None }
}

/// Begins a stream of messages whose consumer is done with each at once.
fn transport(
    ends: &Ends,
    wire: (End, End),
    flags: SendFlags,
    phase: &Arc<Phase>,
    received: &Arc<AtomicU64>,
) -> Result<Flow> {
    let received = Arc::clone(received);
    let consumer = EventSink::callback_with_handle(move |handle, event| {
        if let Event::Message { stream, bytes, charge, .. } = event {
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            drop(bytes);
            handle.consumed(stream, charge);
        }
    });
    let handles = ends.run(wire, EventSink::callback(|_| ()), consumer)?;
    fill(ends, handles, flags, phase)
}

/// Keeps a bulk stream of a connection full.
pub(crate) fn fill(
    ends: &Ends,
    handles: (ConnectionHandle, ConnectionHandle),
    flags: SendFlags,
    phase: &Arc<Phase>,
) -> Result<Flow> {
    let stream = handles.0.open(StreamKind::Snapshot, Lane::Bulk)?;
    let (client, phase) = (handles.0.clone(), Arc::clone(phase));
    let sender = ends.client.spawn(async move {
        let message = Bytes::from(vec![0x5a; MESSAGE_BYTES]);
        while !phase.is_over() {
            client.send(stream, message.clone(), flags).await?;
        }
        Ok(())
    });
    Ok(Flow { sender, handles: Some(handles) })
}

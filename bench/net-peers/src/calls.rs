//! Requests and answers of 128 bytes, 64 in flight: the transport beside its peers.

use crate::Run;
use crate::clock;
use crate::peers::{Caller, Open, Peer};
use crate::sample::{self, Pace, Phase, Sample, latencies, median, micros, ratios, record};
use crate::table::{Cell, Table, progress};
use crate::wire::Ends;
use anyhow::{Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BYTES: usize = 128;
const IN_FLIGHT: usize = 64;

/// What is known of a peer.
struct Row {
    peer: Peer,
    samples: Vec<Sample>,
    latencies: Histogram<u64>,
}

/// Prints one table, a row for each peer.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let columns = [
        "peer",
        "calls/s",
        "p50 us",
        "p99 us",
        "CPU us/call",
        "a stream each ÷ it",
        "lowest",
        "highest",
        "one stream ÷ it",
        "lowest ",
        "highest ",
    ];
    let mut table = Table::new(format!("calls, {BYTES} B there and back, {IN_FLIGHT} in flight"), &columns);
    let ends = Ends::new()?;
    let open = Open::new(&ends, &run.nats)?;
    if let Err(reason) = &open.nats {
        table.note(format!("NATS is left out: {reason:#}."));
    }
    let mut rows = Vec::new();
    for peer in Peer::ALL {
        if run.wants(peer.name()) && (peer != Peer::Nats || open.nats.is_ok()) {
            rows.push(Row { peer, samples: Vec::new(), latencies: latencies()? });
        }
    }
    for round in 0..run.rounds {
        progress(&format!("calls, round {}", round + 1));
        for row in &mut rows {
            clock::await_calm(run.pace.patience)?;
            row.samples.push(turn(&ends, &open, row.peer, run.pace, &mut row.latencies)?);
        }
        rows.reverse();
    }
    rows.sort_by_key(|row| Peer::ALL.iter().position(|peer| *peer == row.peer));
    let of = |peer| rows.iter().find(|row| row.peer == peer).map_or(&[][..], |row| row.samples.as_slice());
    for row in &rows {
        let each = ratios(of(Peer::StreamEach), &row.samples, |sample| sample.rate);
        let one = ratios(of(Peer::OneStream), &row.samples, |sample| sample.rate);
        table.row([
            Cell::from(row.peer.name()),
            Cell::Number(median(row.samples.iter().map(|sample| sample.rate)), 0),
            Cell::Number(micros(&row.latencies, 0.5), 0),
            Cell::Number(micros(&row.latencies, 0.99), 0),
            Cell::Number(median(row.samples.iter().map(|sample| sample.cost() * 1e6)), 1),
            Cell::ratio(each.map(|(median, ..)| median)),
            Cell::ratio(each.map(|(_, lowest, _)| lowest)),
            Cell::ratio(each.map(|(.., highest)| highest)),
            Cell::ratio(one.map(|(median, ..)| median)),
            Cell::ratio(one.map(|(_, lowest, _)| lowest)),
            Cell::ratio(one.map(|(.., highest)| highest)),
        ]);
    }
    table.note("The server of NATS is a process of its own: its processor time counts as others'.");
    table.note(sample::noise(rows.iter().flat_map(|row| &row.samples)));
    table.print(run.json);
    Ok(())
}

fn turn(ends: &Ends, open: &Open, peer: Peer, pace: Pace, latencies: &mut Histogram<u64>) -> Result<Sample> {
    match (peer, &open.nats) {
        (Peer::StreamEach, _) => call(ends, &open.stream_each, pace, latencies),
        (Peer::OneStream, _) => call(ends, &open.one_stream, pace, latencies),
        (Peer::Frames, _) => call(ends, &open.frames, pace, latencies),
        (Peer::Grpc, _) => call(ends, &open.grpc, pace, latencies),
        (Peer::Nats, Ok(nats)) => call(ends, nats, pace, latencies),
        (Peer::Nats, Err(reason)) => anyhow::bail!("{reason:#}"),
    }
}

/// So many tasks that each call, wait for the answer, and call again.
fn call<C: Caller>(ends: &Ends, caller: &C, pace: Pace, all: &mut Histogram<u64>) -> Result<Sample> {
    let (phase, count) = (Arc::new(Phase::default()), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..IN_FLIGHT {
        let (caller, phase, count, mut own) = (caller.clone(), Arc::clone(&phase), Arc::clone(&count), latencies()?);
        tasks.push(ends.client.spawn(async move {
            let request = Bytes::from(vec![0x5a; BYTES]);
            while !phase.is_over() {
                let start = clock::now();
                let answer = caller.call(request.clone()).await?;
                ensure!(answer == request, "another answer");
                count.fetch_add(1, Ordering::Relaxed);
                if phase.counts() {
                    record(&mut own, start.elapsed());
                }
            }
            Ok(own)
        }));
    }
    let sample = phase.run(pace, || count.load(Ordering::Relaxed))?;
    for task in tasks {
        all.add(ends.client.block_on(task)??)?;
    }
    Ok(sample)
}

//! What a small message of the control lane waits for, there and back, beside a stream that fills the connection.

use crate::Run;
use crate::bulk;
use crate::clock;
use crate::line;
use crate::sample::{self, Phase, Sample, latencies, median, micros, record};
use crate::table::{Cell, Table, progress};
use crate::wire::{End, Ends, Security, config};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use towline_net::driver::{ConnectionHandle, EventSink};
use towline_net::{Event, Lane, SendFlags, StreamKind};

/// Between the answer and the next.
const PAUSE: Duration = Duration::from_millis(1);
const BEAT: &[u8] = b"0123456789abcdef";

/// What the connection is, and where the beat goes.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    security: Security,
    line: Line,
    beat: Beat,
}

/// What lies between the two ends.
#[derive(Debug, Clone, Copy)]
enum Line {
    Loopback,
    /// The server's kernel keeps so many bytes that the server has not read.
    Bounded(usize),
    /// So many bits a second, as the arguments say.
    Slow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    /// Bare bytes over a socket of their own, beside a bare copy: what the machine itself costs.
    Bare,
    /// A stream of this lane, beside a bulk stream of the same connection.
    In(Lane),
}

const CASES: [Case; 8] = [
    Case { name: "bare TCP, a socket for itself", security: Security::Plain, line: Line::Loopback, beat: Beat::Bare },
    Case { name: "control lane", security: Security::Plain, line: Line::Loopback, beat: Beat::In(Lane::Control) },
    Case { name: "bulk lane", security: Security::Plain, line: Line::Loopback, beat: Beat::In(Lane::Bulk) },
    Case {
        name: "control lane, receive buffer 256 KiB",
        security: Security::Plain,
        line: Line::Bounded(256 << 10),
        beat: Beat::In(Lane::Control),
    },
    Case { name: "control lane, TLS", security: Security::Tls, line: Line::Loopback, beat: Beat::In(Lane::Control) },
    Case {
        name: "control lane, TLS, receive buffer 256 KiB",
        security: Security::Tls,
        line: Line::Bounded(256 << 10),
        beat: Beat::In(Lane::Control),
    },
    Case {
        name: "control lane, slow line",
        security: Security::Plain,
        line: Line::Slow,
        beat: Beat::In(Lane::Control),
    },
    Case { name: "bulk lane, slow line", security: Security::Plain, line: Line::Slow, beat: Beat::In(Lane::Bulk) },
];

struct Row {
    case: Case,
    idle: Histogram<u64>,
    busy: Histogram<u64>,
    samples: Vec<Sample>,
}

/// Prints one table, a row for each place of the beat.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let columns =
        ["beat", "idle p50", "idle p99", "busy p50", "busy p99", "beats", "MB/s", "frame", "goal", "p99 ÷ goal"];
    let mut table =
        Table::new("a beat there and back, idle and beside a full stream of the connection, in us", &columns);
    let ends = Ends::new()?;
    let mut rows = Vec::new();
    for case in CASES {
        if run.wants(case.name) {
            rows.push(Row { case, idle: latencies()?, busy: latencies()?, samples: Vec::new() });
        }
    }
    for round in 0..run.rounds {
        progress(&format!("control, round {}", round + 1));
        for row in &mut rows {
            turn(run, &ends, row)?;
        }
    }
    for row in &rows {
        let rate = median(row.samples.iter().map(|sample| sample.rate));
        let frame = f64::from(config(1).limits.frame_bytes_max) / rate * 1e6;
        let goal = 2.0 * frame + micros(&row.idle, 0.5);
        let p99 = micros(&row.busy, 0.99);
        table.row([
            Cell::from(row.case.name),
            Cell::Number(micros(&row.idle, 0.5), 0),
            Cell::Number(micros(&row.idle, 0.99), 0),
            Cell::Number(micros(&row.busy, 0.5), 0),
            Cell::Number(p99, 0),
            Cell::Number(row.busy.len() as f64, 0),
            Cell::Number(rate / 1e6, 0),
            Cell::Number(frame, 0),
            Cell::Number(goal, 0),
            Cell::Number(p99 / goal, 2),
        ]);
    }
    table.note(format!(
        "frame: 128 KiB at the rate beside it; goal: two of them and the idle p50. The slow line: {} Mbit/s.",
        run.line
    ));
    table.note(sample::noise(rows.iter().flat_map(|row| &row.samples)));
    table.print(run.json);
    Ok(())
}

fn turn(run: &Run, ends: &Ends, row: &mut Row) -> Result<()> {
    let connect = || match row.case.line {
        Line::Loopback => ends.connect(row.case.security),
        Line::Bounded(bytes) => ends.connect_through(row.case.security, Some(bytes), Ok),
        Line::Slow => ends.connect_through(row.case.security, None, |server| line::slow(server, run.line)),
    };
    clock::await_calm(run.pace.patience)?;
    let phase = Arc::new(Phase::default());
    let received = Arc::new(AtomicU64::new(0));
    match row.case.beat {
        Beat::Bare => {
            let beats = bare_beats(ends, connect()?, &phase)?;
            phase.run(run.pace, || 0)?;
            let beaten = ends.client.block_on(beats)??;
            row.idle.add(beaten.0)?;
            let phase = Arc::new(Phase::default());
            let flow = bulk::bare(ends, connect()?, &phase, &received);
            let beats = bare_beats(ends, beaten.1, &phase)?;
            row.samples.push(phase.run(run.pace, || received.load(Ordering::Relaxed))?);
            row.busy.add(ends.client.block_on(beats)??.0)?;
            flow.end(ends)
        }
        Beat::In(lane) => {
            let (sender, answers) = tokio::sync::mpsc::unbounded_channel();
            let sink = EventSink::callback_with_handle(move |handle, event| {
                if let Event::Message { stream, charge, .. } = event {
                    handle.consumed(stream, charge);
                    // Nobody waits for the last one.
                    let _last = sender.send(());
                }
            });
            let (client, server) = ends.run(connect()?, sink, consumer(&received))?;
            let (histogram, answers) = {
                let beats = beats(ends, &client, lane, &phase, answers)?;
                phase.run(run.pace, || 0)?;
                ends.client.block_on(beats)??
            };
            row.idle.add(histogram)?;
            let phase = Arc::new(Phase::default());
            let flow = bulk::fill(ends, (client.clone(), server), SendFlags::default(), &phase)?;
            let beats = beats(ends, &client, lane, &phase, answers)?;
            row.samples.push(phase.run(run.pace, || received.load(Ordering::Relaxed))?);
            let (histogram, _) = ends.client.block_on(beats)??;
            row.busy.add(histogram)?;
            flow.end(ends)
        }
    }
}

/// Sends beats back, and counts all else.
fn consumer(received: &Arc<AtomicU64>) -> EventSink {
    let received = Arc::clone(received);
    EventSink::callback_with_handle(move |handle, event| {
        if let Event::Message { stream, bytes, charge, .. } = event {
            if bytes.len() == BEAT.len() {
                // What can't be sent any more is of a connection that has ended.
                let _ended = handle.try_send(stream, bytes, SendFlags::default());
            } else {
                received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                drop(bytes);
            }
            handle.consumed(stream, charge);
        }
    })
}

/// A task that beats: what it measured, and what it used, for the next.
type Beating<T> = JoinHandle<Result<(Histogram<u64>, T)>>;
type Answers = tokio::sync::mpsc::UnboundedReceiver<()>;

fn beats(
    ends: &Ends,
    client: &ConnectionHandle,
    lane: Lane,
    phase: &Arc<Phase>,
    mut answers: Answers,
) -> Result<Beating<Answers>> {
    let stream = client.open(StreamKind::Control, lane)?;
    let (client, phase, mut own) = (client.clone(), Arc::clone(phase), latencies()?);
    Ok(ends.client.spawn(async move {
        while !phase.is_over() {
            let start = clock::now();
            client.send(stream, Bytes::from_static(BEAT), SendFlags::default()).await?;
            answers.recv().await.context("the connection has ended")?;
            if phase.counts() {
                record(&mut own, start.elapsed());
            }
            tokio::time::sleep(PAUSE).await;
        }
        client.finish(stream);
        Ok((own, answers))
    }))
}

fn bare_beats(ends: &Ends, (mut client, mut server): (End, End), phase: &Arc<Phase>) -> Result<Beating<(End, End)>> {
    let (phase, mut own) = (Arc::clone(phase), latencies()?);
    let echo = ends.server.spawn(async move {
        let mut beat = [0; BEAT.len()];
        // An empty beat is the end.
        while server.read_exact(&mut beat).await.is_ok() && beat != [0; BEAT.len()] {
            server.write_all(&beat).await?;
        }
        Ok::<End, anyhow::Error>(server)
    });
    Ok(ends.client.spawn(async move {
        let mut beat = [0; BEAT.len()];
        while !phase.is_over() {
            let start = clock::now();
            client.write_all(BEAT).await?;
            client.read_exact(&mut beat).await?;
            if phase.counts() {
                record(&mut own, start.elapsed());
            }
            tokio::time::sleep(PAUSE).await;
        }
        client.write_all(&[0; BEAT.len()]).await?;
        Ok((own, (client, echo.await??)))
    }))
}

//! How long nobody's write is answered while the leadership goes from one node to another, both of them well.

use crate::disk::Disk;
use crate::load::{Case, VALUE_BYTES};
use crate::rounds::median;
use crate::systems::{Client, System};
use crate::table::{Cell, Table};
use crate::{Run, clock};
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Handovers of a round, and how long the writer is left alone before each.
const HANDOVERS: u64 = 20;
const CALM: Duration = Duration::from_millis(200);
/// Round trips of a bare connection.
const TRIPS: usize = 2_000;

/// What one round came to, in milliseconds.
#[derive(Debug)]
pub(crate) struct Handovers {
    pauses: Vec<f64>,
    /// From one answer to the next while nothing happens: its median.
    usual: f64,
    trip: f64,
    sync: f64,
}

/// Measures the system with one client, which writes without a pause; a node after the other is made the leader.
pub(crate) async fn measure(run: &Run, disk: &Disk, system: &dyn System) -> Result<Handovers> {
    let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let client = system.connect(Case::of(1, 1)).await?;
    let writer = tokio::spawn(write(client, Arc::clone(&over), Arc::clone(&answers)));
    tokio::time::sleep(run.warm_up).await;
    let mut commands = Vec::new();
    for number in 0..HANDOVERS {
        tokio::time::sleep(CALM).await;
        let begin = clock::now();
        // Node 1 leads first, and is the next one behind node 3.
        system.hand_over((number + 1) % 3 + 1).await.context("a handover")?;
        commands.push((begin, clock::now()));
    }
    tokio::time::sleep(CALM).await;
    over.store(true, Ordering::Relaxed);
    writer.await??;
    let answers = std::mem::take(&mut *answers.lock());
    let gaps: Vec<(Instant, Instant)> =
        answers.windows(2).filter_map(|two| Some((*two.first()?, *two.last()?))).collect();
    let milliseconds = |(from, to): &(Instant, Instant)| to.duration_since(*from).as_secs_f64() * 1e3;
    // The longest that any part of the command falls into: what the disk does long after that is not of it.
    let pauses = commands.iter().filter_map(|(begin, end)| {
        let own = gaps.iter().filter(|(from, to)| from <= end && to >= begin);
        own.map(milliseconds).reduce(f64::max)
    });
    let pauses = pauses.collect();
    let usual = median(gaps.iter().map(milliseconds)).context("nothing was answered")?;
    Ok(Handovers { pauses, usual, trip: round_trip().await?, sync: disk.sync()? })
}

async fn write(client: Arc<dyn Client>, over: Arc<AtomicBool>, answers: Arc<Mutex<Vec<Instant>>>) -> Result<()> {
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        // Who is asked to write by a leader that leads no more asks the next one: that is a part of the pause.
        if client.write(format!("key-{:06}", number % 1000), vec![0x5a; VALUE_BYTES]).await.is_ok() {
            answers.lock().push(clock::now());
        }
    }
    Ok(())
}

/// Milliseconds that a few bytes take to another task of this process and back, over loopback: the median.
async fn round_trip() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut bytes = [0; 64];
        for _ in 0..TRIPS {
            stream.read_exact(&mut bytes).await?;
            stream.write_all(&bytes).await?;
        }
        anyhow::Ok(())
    });
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut bytes, mut trips) = ([0; 64], Vec::with_capacity(TRIPS));
    for _ in 0..TRIPS {
        let begun = clock::now();
        stream.write_all(&bytes).await?;
        stream.read_exact(&mut bytes).await?;
        trips.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    echo.await??;
    median(trips).context("there was no round trip")
}

/// One row: the pause beside what it should be at the most.
pub(crate) fn table(rounds: &[Handovers]) -> Table {
    let columns = [
        "one client",
        "p50 ms",
        "p90 ms",
        "longest ms",
        "usual ms",
        "a round trip ms",
        "a sync ms",
        "3 trips + 2 syncs ms",
        "of it",
    ];
    let mut table = Table::new("the leadership is handed over (goal: p50 at most 3 round trips and 2 syncs)", &columns);
    if rounds.is_empty() {
        return table;
    }
    let mut pauses: Vec<f64> = rounds.iter().flat_map(|round| round.pauses.iter().copied()).collect();
    pauses.sort_by(f64::total_cmp);
    let at = |share: usize| pauses.get((pauses.len() * share / 100).min(pauses.len().saturating_sub(1))).copied();
    let middle = |figure: fn(&Handovers) -> f64| median(rounds.iter().map(figure));
    let figure = |value: Option<f64>| value.map_or(Cell::Nothing, |value| Cell::Number(value, 3));
    let bound = middle(|round| 3.0 * round.trip + 2.0 * round.sync);
    table.row([
        Cell::from(format!("{} handovers", pauses.len())),
        figure(at(50)),
        figure(at(90)),
        figure(at(100)),
        figure(middle(|round| round.usual)),
        figure(middle(|round| round.trip)),
        figure(middle(|round| round.sync)),
        figure(bound),
        Cell::ratio(at(50).zip(bound).map(|(pause, bound)| pause / bound)),
    ]);
    table.note(
        "The pause is the client's: the longest time between two answers that a part of the command falls into; one connection to each node.",
    );
    table
}

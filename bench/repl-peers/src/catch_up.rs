//! How fast a follower that was away takes from the leader's log what it lacks, and what the leader's clients notice of it.

use crate::bounds::{self, Bounds};
use crate::load::{Case, Load, Random, Sample};
use crate::process::{Process, processor_time};
use crate::rounds::median;
use crate::systems::{System, Towline, durable_at_last};
use crate::table::{Cell, Table, progress};
use crate::{Run, clock};
use anyhow::{Context as _, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of each value that the follower misses.
const VALUE_BYTES: usize = 64 << 10;
/// As many keys are written, one after the other: the state has a GiB at the most, the log all of it.
const KEYS: u64 = 16 << 10;
/// Who writes them.
const WRITERS: Case = Case::of(4, 16);
/// Who loads the leader meanwhile.
const LOAD: Case = Case::of(16, 1);
/// How often the leader is asked how far the follower is.
const LOOK: Duration = Duration::from_millis(20);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// So many times the bytes must be free: logs and states of three nodes, files beside them.
const ROOM: u64 = 8;

/// One round.
#[derive(Debug)]
pub(crate) struct CatchUp {
    bounds: Bounds,
    /// While nothing else happens, and with a load.
    caught: [Caught; 2],
    /// Of the load: the follower is away, it catches up, it has all.
    stretches: [Sample; 3],
}

/// One way back.
#[derive(Debug)]
struct Caught {
    /// Of the log that it lacked.
    bytes: u64,
    /// From the start of its process until the first of them is durable there, and until all are.
    first: Duration,
    took: Duration,
    /// Processors that each of the two kept busy.
    leader: f64,
    follower: f64,
    /// Bytes that the leader read from the disk, and that the follower read and wrote.
    leader_read: u64,
    follower_read: u64,
    follower_wrote: u64,
}

impl Caught {
    /// Bytes a second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64()
    }
}

impl CatchUp {
    /// What part it is of what the slowest of disk and loopback does.
    pub(crate) fn of_least(&self) -> f64 {
        self.caught[0].rate() / self.bounds.least()
    }

    /// How long 99 of 100 writes wait before, by how long meanwhile.
    pub(crate) fn p99_ratio(&self) -> f64 {
        let [before, meanwhile, _] = &self.stretches;
        before.p99 / meanwhile.p99
    }
}

/// Measures three nodes of its own, which keep as much of their logs as this needs.
pub(crate) async fn measure(run: &Run, round: usize) -> Result<CatchUp> {
    let (bytes, say) = (run.catch_up, |what: &str| progress(&format!("round {round}: catching up, {what}")));
    check_room(run)?;
    let place = run.place()?;
    let keep = bytes + bytes / 4 + (256 << 20);
    let config = format!("[log]\nretention_bytes = {keep}\nfollower_bytes = {keep}\n");
    let mut nodes = Towline::start(&run.programs, place.path(), &config).await?;
    say("a follower is away");
    let missed = miss(run, &mut nodes).await?;
    say("what disk and loopback do");
    let bounds = bounds::measure(&run.directory, bytes)?;
    say("it is back");
    let (idle, _) = come_back(&mut nodes, &missed, None).await?;
    say("a follower is away again");
    let missed = miss(run, &mut nodes).await?;
    say("the leader is loaded");
    let load = Load::begin(&nodes, LOAD).await?;
    tokio::time::sleep(run.warm_up).await;
    let before = load.measure(nodes.processes(), run.time).await?;
    say("it is back, the leader is loaded");
    let (loaded, meanwhile) = come_back(&mut nodes, &missed, Some(&load)).await?;
    let after = load.measure(nodes.processes(), run.time).await?;
    load.end().await?;
    nodes.check_fed_from_log()?;
    let meanwhile = meanwhile.context("the load was not measured")?;
    Ok(CatchUp { bounds, caught: [idle, loaded], stretches: [before, meanwhile, after] })
}

/// Fails if logs, states and files would not fit the disk.
pub(crate) fn check_room(run: &Run) -> Result<()> {
    let disk = rustix::fs::statvfs(&run.directory)?;
    let (free, needed, place) = (disk.f_bavail * disk.f_frsize, run.catch_up * ROOM, run.directory.display());
    ensure!(free >= needed, "{needed} bytes are needed in {place}, {free} are free: --catch-up-gib takes less");
    Ok(())
}

/// Bytes that the leader had written when its follower went.
struct Missed {
    from: u64,
}

/// Ends the last node, and has the others write.
async fn miss(run: &Run, nodes: &mut Towline) -> Result<Missed> {
    let watch = nodes.watch().await?;
    nodes.end_last();
    let from = watch.status().await?.batch_bytes.1;
    let (next, count) = (Arc::new(AtomicU64::new(0)), run.catch_up / VALUE_BYTES as u64);
    let mut tasks = Vec::new();
    for _ in 0..WRITERS.clients {
        let client = nodes.connect(WRITERS).await?;
        for _ in 0..WRITERS.in_flight {
            let (client, next) = (Arc::clone(&client), Arc::clone(&next));
            tasks.push(tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(());
                    }
                    let value = Random::new(number).bytes(VALUE_BYTES);
                    client.write(format!("missed-{:06}", number % KEYS), value).await?;
                }
            }));
        }
    }
    for task in tasks {
        task.await?.context("a write that the follower is to miss")?;
    }
    // What the writes have left to do, RocksDB above all, is no part of what comes.
    clock::await_calm(run.patience * 5)?;
    Ok(Missed { from })
}

/// Starts it again, and waits until all that the leader had by then is durable there; with a load, what that did meanwhile.
async fn come_back(nodes: &mut Towline, missed: &Missed, load: Option<&Load>) -> Result<(Caught, Option<Sample>)> {
    let watch = nodes.watch().await?;
    let status = watch.status().await?;
    let (target, bytes) = (status.end, status.batch_bytes.1 - missed.from);
    let before = durable_at_last(&status).context("the leader knows no follower")?;
    nodes.cool_log()?;
    let leader = |nodes: &Towline| used(nodes.processes().first().context("nobody leads")?);
    let leader_before = leader(nodes)?;
    let start = clock::now();
    nodes.start_next()?;
    let caught = async {
        let mut first = None;
        loop {
            let durable = durable_at_last(&watch.status().await?).context("the leader knows no follower")?;
            if durable > before {
                first.get_or_insert_with(|| start.elapsed());
            }
            if durable >= target {
                let took = start.elapsed();
                return Ok((first.unwrap_or(took), took));
            }
            ensure!(start.elapsed() < PATIENCE, "the follower has {durable} of {target} after {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
    };
    let ((first, took), sample) = match load {
        None => (caught.await?, None),
        Some(load) => {
            let (sample, caught) = load.measure_while(nodes.processes(), caught).await?;
            (caught, Some(sample))
        }
    };
    let leader_after = leader(nodes)?;
    // All that it ever did is of this.
    let follower = used(nodes.processes().last().context("nobody follows")?)?;
    let cores = |time: Duration| time.as_secs_f64() / took.as_secs_f64();
    let caught = Caught {
        bytes,
        first,
        took,
        leader: cores(leader_after.time.saturating_sub(leader_before.time)),
        follower: cores(follower.time),
        leader_read: leader_after.read - leader_before.read,
        follower_read: follower.read,
        follower_wrote: follower.wrote,
    };
    Ok((caught, sample))
}

/// What a process has used until now.
struct Used {
    time: Duration,
    read: u64,
    wrote: u64,
}

fn used(process: &Process) -> Result<Used> {
    let (read, wrote) = process.disk_bytes()?;
    Ok(Used { time: processor_time(std::slice::from_ref(process))?, read, wrote })
}

const MIB: f64 = (1 << 20) as f64;

/// How fast, and beside what.
pub(crate) fn table(run: &Run, rounds: &[CatchUp]) -> Table {
    let columns = [
        "what",
        "MiB/s",
        "lowest",
        "highest",
        "of the slowest",
        "of all at once",
        "s",
        "s until the first",
        "cores, leader",
        "cores, follower",
        "leader reads",
        "follower reads",
        "follower writes",
    ];
    let gib = run.catch_up as f64 / f64::from(1 << 30);
    let title = format!("a follower lacks {gib} GiB, in values of {} KiB, and catches up", VALUE_BYTES >> 10);
    let mut table = Table::new(title, &columns);
    if rounds.is_empty() {
        return table;
    }
    let figures = |of: &dyn Fn(&CatchUp) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let rates = |rates: &[f64]| {
        let number = |value: Option<f64>| value.map_or(Cell::Nothing, |rate| Cell::Number(rate / MIB, 0));
        let (lowest, highest) = (rates.iter().copied().reduce(f64::min), rates.iter().copied().reduce(f64::max));
        [median(rates.iter().copied()), lowest, highest].map(number)
    };
    type Bound = (&'static str, fn(&Bounds) -> f64);
    let bounds: [Bound; 4] = [
        ("disk, read from its beginning to its end", |bounds| bounds.read),
        ("loopback, one connection", |bounds| bounds.loopback),
        ("disk, written and synced", |bounds| bounds.write),
        ("these three at once", |bounds| bounds.at_once),
    ];
    for (name, bound) in bounds {
        let cells = rates(&figures(&|round| bound(&round.bounds)));
        let of_least = median(figures(&|round| bound(&round.bounds) / round.bounds.least()));
        let empty = std::iter::repeat_n(Cell::Nothing, columns.len() - 5);
        table.row([Cell::from(name)].into_iter().chain(cells).chain([Cell::ratio(of_least)]).chain(empty));
    }
    for (at, name) in ["the follower", "the follower, while the leader is loaded"].into_iter().enumerate() {
        let middle = |of: &dyn Fn(&Caught) -> f64| median(rounds.iter().map(|round| of(&round.caught[at])));
        let figure = |value: Option<f64>| value.map_or(Cell::Nothing, |value| Cell::Number(value, 2));
        let each = |of: &dyn Fn(&Caught) -> u64| middle(&|caught| of(caught) as f64 / caught.bytes as f64);
        let by = |bound: fn(&Bounds) -> f64| median(figures(&|round| round.caught[at].rate() / bound(&round.bounds)));
        let cells = rates(&figures(&|round| round.caught[at].rate()));
        let more = [
            by(Bounds::least),
            by(|bounds| bounds.at_once),
            middle(&|caught| caught.took.as_secs_f64()),
            middle(&|caught| caught.first.as_secs_f64()),
            middle(&|caught| caught.leader),
            middle(&|caught| caught.follower),
            each(&|caught| caught.leader_read),
            each(&|caught| caught.follower_read),
            each(&|caught| caught.follower_wrote),
        ];
        table.row([Cell::from(name)].into_iter().chain(cells).chain(more.map(figure)));
    }
    table.note(
        "Goal: 0.80 of the slowest of the first three. From the start of its process until all is durable there.",
    );
    table.note("Reads and writes are those of the disk, by the bytes that the follower lacked: logs and states alike.");
    table
}

/// What the clients notice.
pub(crate) fn load_table(rounds: &[CatchUp]) -> Table {
    let columns = ["16 clients", "op/s", "p50 ms", "p99 ms", "p99, of before", "lowest", "highest", "cores, others"];
    let mut table = Table::new("meanwhile the leader is loaded (goal: p99 less than 2.00 of before)", &columns);
    if rounds.is_empty() {
        return table;
    }
    let names = ["the follower is away", "it catches up", "it has caught up"];
    for (at, name) in names.into_iter().enumerate() {
        let middle = |of: fn(&Sample) -> f64| median(rounds.iter().map(|round| of(&round.stretches[at])));
        let figure = |value: Option<f64>, decimals| value.map_or(Cell::Nothing, |value| Cell::Number(value, decimals));
        let ratios = || rounds.iter().map(|round| round.stretches[at].p99 / round.stretches[0].p99);
        table.row([
            Cell::from(name),
            figure(middle(|sample| sample.rate), 0),
            figure(middle(|sample| sample.p50), 2),
            figure(middle(|sample| sample.p99), 2),
            Cell::ratio(median(ratios())),
            Cell::ratio(ratios().reduce(f64::min)),
            Cell::ratio(ratios().reduce(f64::max)),
            figure(middle(|sample| sample.others), 2),
        ]);
    }
    table
}

//! The rounds, and the table of them.

use crate::catch_up;
use crate::disk::Disk;
use crate::follower::{self, Stopped};
use crate::goals;
use crate::handover::{self, Handovers};
use crate::load::{Case, Load, Sample, VALUE_BYTES};
use crate::systems::{Peer, System};
use crate::table::{Cell, Table, progress};
use crate::{Run, clock};
use anyhow::{Context as _, Result, bail};

/// One system with so many clients, and what each round of it came to.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) peer: Peer,
    pub(crate) case: Case,
    pub(crate) samples: Vec<Sample>,
    /// Milliseconds that a sync of the bare disk took before each.
    pub(crate) syncs: Vec<f64>,
    /// Why there are none.
    pub(crate) missing: Option<String>,
}

impl Row {
    const fn new(peer: Peer, case: Case) -> Self {
        Self { peer, case, samples: Vec::new(), syncs: Vec::new(), missing: None }
    }

    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(figure))
    }

    fn who(&self) -> String {
        let Case { clients, in_flight, session } = self.case;
        let each = if in_flight > 1 { format!(" × {in_flight} in flight") } else { String::new() };
        format!("{clients}{each}{}", if session { ", each a session" } else { "" })
    }
}

/// The middle one of an odd number of figures.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// Who writes to a system, in this order.
fn cases(peer: Peer) -> Vec<Case> {
    let mut cases = vec![Case::of(1, 1), Case::of(64, 1)];
    if peer == Peer::Towline {
        cases.push(Case { session: true, ..Case::of(64, 1) });
        cases.extend([Case::of(512, 1), Case::of(8, 64)]);
    }
    cases
}

/// Prints the table, and the goals beside it.
pub(crate) async fn measure(run: &Run) -> Result<()> {
    if run.catches_up() {
        catch_up::check_room(run)?; // Not when all else has been measured.
    }
    let mut rows = Vec::new();
    let peers = || Peer::ALL.into_iter().filter(|peer| run.wants(*peer) && !run.only_catch_up);
    for peer in peers() {
        rows.extend(cases(peer).into_iter().map(|case| Row::new(peer, case)));
    }
    let (disk, mut stopped, mut handed_over) = (Disk::new(&run.directory)?, Vec::new(), Vec::new());
    let mut caught_up = Vec::new();
    for round in 1..=run.rounds {
        let mut turns: Vec<Peer> = peers().collect();
        if round % 2 == 0 {
            turns.reverse();
        }
        for peer in turns {
            let mut own: Vec<&mut Row> = rows.iter_mut().filter(|row| row.peer == peer).collect();
            if own.iter().any(|row| row.missing.is_some()) {
                continue;
            }
            match turn(run, &disk, round, peer, &mut own).await {
                Ok(found) => found.into_iter().for_each(|(one, other)| {
                    stopped.push(one);
                    handed_over.push(other);
                }),
                Err(failure) if peer == Peer::Towline => return Err(failure),
                Err(failure) => {
                    progress(&format!("{} is left out: {failure:#}", peer.name()));
                    own.iter_mut().for_each(|row| row.missing = Some(format!("{failure:#}")));
                }
            }
        }
        if run.catches_up() {
            caught_up.push(catch_up::measure(run, round).await.context("a follower that was away")?);
        }
    }
    table(run, &rows).print(run.json);
    goals::table(&rows, &caught_up).print(run.json);
    follower::table(&stopped).print(run.json);
    handover::table(&handed_over).print(run.json);
    catch_up::table(run, &caught_up).print(run.json);
    catch_up::load_table(&caught_up).print(run.json);
    Ok(())
}

/// A system's turn in a round: started anew, all its rows, ended.
async fn turn(
    run: &Run,
    disk: &Disk,
    round: usize,
    peer: Peer,
    rows: &mut [&mut Row],
) -> Result<Option<(Stopped, Handovers)>> {
    progress(&format!("round {round}: {} starts", peer.name()));
    let place = run.place()?;
    let system = peer.start(&run.programs, place.path()).await?;
    for row in rows.iter_mut() {
        progress(&format!("round {round}: {}, clients: {}", peer.name(), row.who()));
        clock::await_calm(run.patience)?;
        row.syncs.push(disk.sync()?);
        let sample = stretch(run, system.as_ref(), row.case).await;
        row.samples.push(sample.with_context(|| format!("clients: {}", row.who()))?);
    }
    if peer != Peer::Towline {
        return Ok(None);
    }
    progress(&format!("round {round}: {}, one follower stopped", peer.name()));
    let stopped = follower::measure(run, system.as_ref()).await.context("with a follower stopped")?;
    progress(&format!("round {round}: {}, handovers", peer.name()));
    clock::await_calm(run.patience)?;
    Ok(Some((stopped, handover::measure(run, disk, system.as_ref()).await.context("handed over")?)))
}

async fn stretch(run: &Run, system: &dyn System, case: Case) -> Result<Sample> {
    let load = Load::begin(system, case).await?;
    tokio::time::sleep(run.warm_up).await;
    let time = if case.clients == 1 { run.time / 2 } else { run.time };
    let sample = load.measure(system.processes(), time).await?;
    load.end().await?;
    if sample.rate == 0.0 {
        bail!("no write was answered");
    }
    Ok(sample)
}

fn table(run: &Run, rows: &[Row]) -> Table {
    let columns = [
        "system",
        "clients",
        "op/s",
        "lowest",
        "highest",
        "p50 ms",
        "p99 ms",
        "cores, servers",
        "cores, clients",
        "a sync before, ms",
        "when acknowledged",
    ];
    let title = format!("three nodes on loopback, one disk, {VALUE_BYTES} B a write, medians of {} rounds", run.rounds);
    let mut table = Table::new(title, &columns);
    for row in rows {
        let figure = |value: Option<f64>, decimals| value.map_or(Cell::Nothing, |value| Cell::Number(value, decimals));
        let rates = || row.samples.iter().map(|sample| sample.rate);
        table.row([
            Cell::from(row.peer.name()),
            Cell::from(row.who()),
            figure(row.median(|sample| sample.rate), 0),
            figure(rates().reduce(f64::min), 0),
            figure(rates().reduce(f64::max), 0),
            figure(row.median(|sample| sample.p50), 2),
            figure(row.median(|sample| sample.p99), 2),
            figure(row.median(|sample| sample.servers), 2),
            figure(row.median(|sample| sample.clients), 2),
            figure(median(row.syncs.iter().copied()), 2),
            Cell::from(if row.missing.is_some() { "left out, see below" } else { row.peer.acknowledged() }),
        ]);
    }
    for peer in Peer::ALL {
        let missing = rows.iter().filter(|row| row.peer == peer).find_map(|row| row.missing.as_ref());
        if let Some(reason) = missing {
            table.note(format!("{} is left out: {reason}.", peer.name()));
        }
    }
    let syncs = || rows.iter().flat_map(|row| row.syncs.iter().copied());
    if let (Some(least), Some(middle), Some(most)) =
        (syncs().reduce(f64::min), median(syncs()), syncs().reduce(f64::max))
    {
        table.note(format!(
            "4 KiB synced to the disk just before took {middle:.2} ms (median of all rows; {least:.2} to {most:.2})."
        ));
    }
    let others = || rows.iter().flat_map(|row| &row.samples).map(|sample| sample.others);
    if let (Some(middle), Some(most)) = (median(others()), others().reduce(f64::max)) {
        table.note(format!(
            "Others kept {middle:.2} processors busy meanwhile (median of all rows; at most {most:.2})."
        ));
    }
    table
}

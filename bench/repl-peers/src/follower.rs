//! What a follower that stands still costs: committed throughput, and memory of the leader.

use crate::Run;
use crate::load::{Case, Load, Sample};
use crate::rounds::median;
use crate::systems::System;
use crate::table::{Cell, Table};
use anyhow::{Context as _, Result};
use rustix::process::Signal;

/// Stretches of one load: all nodes well, then the last one stopped, and again as long, then it goes on.
#[derive(Debug)]
pub(crate) struct Stopped {
    stretches: [Sample; 4],
}

const NAMES: [&str; 4] = ["three nodes", "one follower stopped", "still stopped", "it goes on, and catches up"];

/// Measures the system with 64 clients; its first process leads, its last one is stopped.
pub(crate) async fn measure(run: &Run, system: &dyn System) -> Result<Stopped> {
    let servers = system.processes();
    let follower = servers.last().context("there is no follower")?;
    let load = Load::begin(system, Case::of(64, 1)).await?;
    tokio::time::sleep(run.warm_up).await;
    let well = load.measure(servers, run.time).await?;
    follower.signal(Signal::STOP)?;
    let stopped = load.measure(servers, run.time).await?;
    let longer = load.measure(servers, run.time).await?;
    follower.signal(Signal::CONT)?;
    let again = load.measure(servers, run.time).await?;
    load.end().await?;
    Ok(Stopped { stretches: [well, stopped, longer, again] })
}

/// A row for each stretch.
pub(crate) fn table(rounds: &[Stopped]) -> Table {
    let columns = ["64 clients", "op/s", "of before", "lowest", "highest", "p50 ms", "p99 ms", "leader's memory MiB"];
    let mut table = Table::new("a follower stands still (goal: at least 0.90 of before)", &columns);
    if rounds.is_empty() {
        return table;
    }
    for (at, name) in NAMES.into_iter().enumerate() {
        let middle = |figure: fn(&Sample) -> f64| median(rounds.iter().map(|round| figure(&round.stretches[at])));
        let ratios = || rounds.iter().map(|round| round.stretches[at].rate / round.stretches[0].rate);
        let figure = |value: Option<f64>, decimals| value.map_or(Cell::Nothing, |value| Cell::Number(value, decimals));
        table.row([
            Cell::from(name),
            figure(middle(|sample| sample.rate), 0),
            Cell::ratio(median(ratios())),
            Cell::ratio(ratios().reduce(f64::min)),
            Cell::ratio(ratios().reduce(f64::max)),
            figure(middle(|sample| sample.p50), 2),
            figure(middle(|sample| sample.p99), 2),
            figure(middle(|sample| sample.resident as f64 / f64::from(1 << 20)), 0),
        ]);
    }
    table
}

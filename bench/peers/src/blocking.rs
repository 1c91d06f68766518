//! Threads that each append a record, wait until it is durable, and append the next.

use crate::Run;
use crate::disk::{self, Pool};
use crate::peers::{Append, Peer};
use crate::sample::{self, Phase, Sample, Tally, median, median_of};
use crate::table::{Cell, Table, progress};
use anyhow::Result;

/// Threads, and bytes of a record.
const CELLS: [(u64, usize); 4] = [(1, 1024), (8, 1024), (64, 1024), (64, 128)];

/// What one log came to in all rounds.
struct Measured {
    peer: Peer,
    samples: Vec<Sample>,
    written_per_byte: Option<f64>,
    syncs_per_record: Option<f64>,
}

/// Prints a table for each cell.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let pool = Pool::new();
    for (threads, bytes) in CELLS {
        let title = format!("blocking, {threads} threads x {bytes} B");
        // `--only` may name the cell, or a log in every cell.
        let is_wanted = |peer: &Peer| run.wants(&format!("{title}: {}", peer.name()));
        if Peer::ALL.iter().any(is_wanted) {
            let peers = Peer::ALL.into_iter().filter(|peer| *peer == Peer::Ours || is_wanted(peer));
            let all = cell(run, &pool, &title, (threads, bytes), peers.collect())?;
            print(run, title, &all);
        }
    }
    Ok(())
}

/// All logs are open from the first round to the last: nothing is made or removed while one of them is measured.
fn cell(
    run: &Run,
    pool: &Pool,
    title: &str,
    (threads, bytes): (u64, usize),
    peers: Vec<Peer>,
) -> Result<Vec<Measured>> {
    let place = run.place()?;
    let logs = peers.iter().map(|peer| peer.open(place.path(), threads)).collect::<Result<Vec<_>>>()?;
    let mut producers = Vec::new();
    for log in &logs {
        producers.push((0..threads).map(|number| log.producer(number)).collect::<Result<Vec<_>>>()?);
    }
    let mut all: Vec<Measured> = peers
        .into_iter()
        .map(|peer| Measured { peer, samples: Vec::new(), written_per_byte: None, syncs_per_record: None })
        .collect();
    disk::settle(place.path())?;
    for round in 0..run.rounds {
        // Another one is first in each round, and every other round goes backwards: nobody always runs behind the same one.
        for turn in 0..all.len() {
            let turn = if round % 2 == 0 { turn } else { all.len() - 1 - turn };
            let turn = (turn + round) % all.len();
            let (Some(measured), Some(producers)) = (all.get_mut(turn), producers.get_mut(turn)) else { continue };
            progress(&format!("{title}, round {}: {}", round + 1, measured.peer.name()));
            let workers = producers.iter_mut().enumerate().map(|(number, producer)| {
                move |phase: &Phase, tally: &mut Tally| work(producer.as_mut(), pool, number, bytes, phase, tally)
            });
            measured.samples.push(sample::run(workers.collect(), run.pace)?);
        }
    }
    for (log, measured) in logs.iter().zip(&mut all) {
        measured.written_per_byte = log.written_per_byte();
        measured.syncs_per_record = log.syncs_per_record();
    }
    Ok(all)
}

fn work(
    producer: &mut dyn Append,
    pool: &Pool,
    number: usize,
    bytes: usize,
    phase: &Phase,
    tally: &mut Tally,
) -> Result<()> {
    let mut count = number as u64;
    while !phase.is_over() {
        producer.append(&pool.payload(count, bytes))?;
        tally.done(phase);
        count += 64;
    }
    Ok(())
}

fn print(run: &Run, title: String, all: &[Measured]) {
    let ours = all.first().map(|measured| measured.samples.clone()).unwrap_or_default();
    let ratio_to = |samples: &[Sample]| median(ours.iter().zip(samples).map(|(ours, peer)| ours.rate / peer.rate));
    let columns = [
        "log",
        "op/s",
        "p50 us",
        "p99 us",
        "cores",
        "CPU us/op",
        "written/byte",
        "syncs/op",
        "ours/it",
        "lowest",
        "highest",
    ];
    let mut table = Table::new(title, &columns);
    for Measured { peer, samples, written_per_byte, syncs_per_record } in all {
        let ratios = || ours.iter().zip(samples).map(|(ours, peer)| ours.rate / peer.rate);
        let compared = |ratio: f64| Cell::ratio((*peer != Peer::Ours).then_some(ratio));
        table.row([
            peer.name().into(),
            Cell::Number(median_of(samples, |sample| sample.rate), 0),
            Cell::Number(median_of(samples, |sample| sample.p50) * 1e6, 0),
            Cell::Number(median_of(samples, |sample| sample.p99) * 1e6, 0),
            Cell::Number(median_of(samples, |sample| sample.cores), 2),
            Cell::Number(median_of(samples, |sample| sample.cores / sample.rate) * 1e6, 1),
            Cell::ratio(*written_per_byte),
            Cell::ratio(*syncs_per_record),
            compared(ratio_to(samples)),
            compared(ratios().fold(f64::INFINITY, f64::min)),
            compared(ratios().fold(0.0, f64::max)),
        ]);
    }
    let published = all.iter().filter(|measured| measured.peer.is_published());
    let best = published.min_by(|a, b| ratio_to(&a.samples).total_cmp(&ratio_to(&b.samples)));
    if let Some(best) = best {
        table.note(format!("Best published log: {}; ours/it {:.2}.", best.peer.name(), ratio_to(&best.samples)));
    }
    table.note(sample::noise(all.iter().flat_map(|measured| &measured.samples)));
    table.print(run.json);
}

//! Large batches in flight, beside what the disk takes when somebody does nothing but write to it.

use crate::Run;
use crate::disk::{self, Aligned, Pool};
use crate::peers::{Ours, Producer};
use crate::sample::{self, Phase, Sample, Tally, median, median_of};
use crate::table::{Cell, Table, progress};
use anyhow::Result;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use towline_wal::Pending;

/// Bytes of a batch, and how many are in flight.
const CELLS: [(usize, usize); 4] = [(256 << 10, 8), (256 << 10, 32), (1 << 20, 4), (1 << 20, 16)];
/// Bytes of the file that the bare disk writes round and round.
const FILE_BYTES: u64 = 1 << 30;
/// What the log writes at once at the most, and so what the disk is asked to write at once.
const GROUP_BYTES: usize = 4 << 20;

/// A way of writing to the bare disk, in order.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    is_direct: bool,
    /// Bytes of a write.
    bytes: usize,
    /// Writes between syncs.
    writes: u64,
}

const WAYS: [Way; 4] = [
    Way { name: "buffered, 4 MiB, fdatasync after each", is_direct: false, bytes: GROUP_BYTES, writes: 1 },
    Way { name: "buffered, 1 MiB, fdatasync after 64", is_direct: false, bytes: 1 << 20, writes: 64 },
    Way { name: "O_DIRECT, 4 MiB, fdatasync after each", is_direct: true, bytes: GROUP_BYTES, writes: 1 },
    AS_FIO,
];

/// What `fio --rw=write --bs=1M --direct=1 --fsync=64` does, the bar of the goal; the syncs take it some hundredths.
const AS_FIO: Way = Way { name: "O_DIRECT, 1 MiB, fdatasync after 64", is_direct: true, bytes: 1 << 20, writes: 64 };

/// Prints one table: the ways of the bare disk, then the log's cells with their shares of the disk's best.
pub(crate) fn measure(run: &Run) -> Result<()> {
    if !run.wants("large") {
        return Ok(());
    }
    let pool = Pool::new();
    let mut disk_rates: Vec<Vec<Sample>> = vec![Vec::new(); WAYS.len()];
    let mut log_rates: Vec<Vec<Sample>> = vec![Vec::new(); CELLS.len()];
    let place = run.place()?;
    // A file for each: what is written past the page cache throws the other's pages out of it.
    let files = ["buffered", "direct"].map(|name| place.path().join(name));
    files.iter().try_for_each(|path| disk::filled(path, FILE_BYTES).map(drop))?;
    let [buffered, direct] = files;
    let log = Ours::open(place.path(), 1)?;
    let mut producer = log.of(0);
    disk::settle(place.path())?;
    for round in 0..run.rounds {
        progress(&format!("large batches, round {}", round + 1));
        for (way, rates) in WAYS.into_iter().zip(&mut disk_rates) {
            rates.push(of_disk(run, if way.is_direct { &direct } else { &buffered }, way)?);
        }
        for ((bytes, window), rates) in CELLS.into_iter().zip(&mut log_rates) {
            rates.push(of_ours(run, &pool, &mut producer, bytes, window)?);
        }
    }
    let columns = [
        "what",
        "MB/s",
        "of the best buffered",
        "of the best O_DIRECT",
        "of 1 MiB O_DIRECT",
        "lowest",
        "highest",
        "cores",
    ];
    let mut table = Table::new("large batches, one producer: share of the disk's sequential durable writes", &columns);
    let best = |is_direct: bool| -> Vec<f64> {
        let fitting = WAYS.iter().zip(&disk_rates).filter(|(way, _)| way.is_direct == is_direct);
        let rates: Vec<&Vec<Sample>> = fitting.map(|(_, rates)| rates).collect();
        let in_round = |round: usize| rates.iter().filter_map(|all| all.get(round)).map(|s| s.rate).fold(0.0, f64::max);
        (0..run.rounds).map(in_round).collect()
    };
    let (buffered, direct) = (best(false), best(true));
    let as_fio = WAYS.iter().zip(&disk_rates).find(|(way, _)| way.name == AS_FIO.name);
    let as_fio: Vec<f64> = as_fio.map(|(_, rates)| rates.iter().map(|s| s.rate).collect()).unwrap_or_default();
    let shares =
        |samples: &[Sample], of: &[f64]| -> Vec<f64> { samples.iter().zip(of).map(|(s, b)| s.rate / b).collect() };
    let rows = WAYS.iter().map(|way| format!("disk: {}", way.name)).zip(&disk_rates);
    let logs = CELLS.iter().map(|(bytes, window)| format!("log: {} KiB batches, {window} in flight", bytes >> 10));
    for (name, samples) in rows.chain(logs.zip(&log_rates)) {
        let of_fio = shares(samples, &as_fio);
        table.row([
            name.into(),
            Cell::Number(median_of(samples, |sample| sample.rate) / 1e6, 0),
            Cell::Number(median(shares(samples, &buffered)), 2),
            Cell::Number(median(shares(samples, &direct)), 2),
            Cell::Number(median(of_fio.iter().copied()), 2),
            Cell::Number(of_fio.iter().copied().fold(f64::INFINITY, f64::min), 2),
            Cell::Number(of_fio.iter().copied().fold(0.0, f64::max), 2),
            Cell::Number(median_of(samples, |sample| sample.cores), 2),
        ]);
    }
    table.note("Lowest and highest are of the share of writes of 1 MiB with O_DIRECT in the same round.");
    table.note(sample::noise(disk_rates.iter().chain(&log_rates).flatten()));
    table.print(run.json);
    Ok(())
}

/// A sample whose rate is in bytes a second.
fn in_bytes(sample: Sample, bytes: usize) -> Sample {
    Sample { rate: sample.rate * bytes as f64, ..sample }
}

fn of_disk(run: &Run, path: &Path, way: Way) -> Result<Sample> {
    let file = if way.is_direct { disk::direct(path)? } else { File::options().read(true).write(true).open(path)? };
    let buffer = Aligned::noise(way.bytes);
    let worker = |phase: &Phase, tally: &mut Tally| {
        let (mut at, mut unsynced) = (0, 0);
        while !phase.is_over() {
            file.write_all_at(buffer.bytes(), at)?;
            at = (at + way.bytes as u64) % FILE_BYTES;
            unsynced += 1;
            if unsynced == way.writes {
                file.sync_data()?;
                (0..unsynced).for_each(|_| tally.done(phase));
                unsynced = 0;
            }
        }
        Ok(())
    };
    Ok(in_bytes(sample::run(vec![worker], run.pace)?, way.bytes))
}

/// Batches of records of 1 KiB. The producer has made them in memory of their own: nothing is copied before the write.
fn of_ours(run: &Run, pool: &Pool, producer: &mut Producer<'_>, bytes: usize, window: usize) -> Result<Sample> {
    let worker = |phase: &Phase, tally: &mut Tally| {
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let mut count = 0;
        while !phase.is_over() {
            if pending.len() == window
                && let Some(oldest) = pending.pop_front()
            {
                oldest.wait()?;
                tally.done(phase);
            }
            pending.push_back(producer.submit(pool.payload(count, bytes), u32::try_from(bytes >> 10)?)?);
            count += 1;
        }
        Ok(pending.into_iter().try_for_each(Pending::wait)?)
    };
    Ok(in_bytes(sample::run(vec![worker], run.pace)?, bytes))
}

//! Ways to make a group durable on the bare disk: a file that was filled with zeroes, written in order, round and round.

use crate::Run;
use crate::disk::{self, Aligned};
use crate::sample::{self, Pace, Phase, Sample, Tally, median, median_of};
use crate::table::{Cell, Table, progress};
use crate::uring::Ring;
use anyhow::Result;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const FILE_BYTES: u64 = 256 << 20;

/// Bytes of a group. 1,000: groups that are not padded, so that each one writes a block again that holds durable bytes.
const SIZES: [usize; 6] = [1000, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// How one group becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Buffered,
    BufferedDsync,
    Direct,
    DirectDsync,
    RingDirectDsync,
}

const WAYS: [(Way, &str); 5] = [
    (Way::Buffered, "pwrite, fdatasync"),
    (Way::BufferedDsync, "pwritev2 RWF_DSYNC"),
    (Way::Direct, "O_DIRECT pwrite, fdatasync"),
    (Way::DirectDsync, "O_DIRECT pwritev2 RWF_DSYNC"),
    (Way::RingDirectDsync, "io_uring O_DIRECT RWF_DSYNC"),
];

impl Way {
    const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectDsync | Self::RingDirectDsync)
    }
}

/// Prints a table for each size: every way with one and two groups in flight, as ratios to the first way.
pub(crate) fn measure(run: &Run) -> Result<()> {
    for bytes in SIZES {
        let title = format!("device, groups of {bytes} B");
        let wanted = |(way, name): &(Way, &str)| {
            let fits = !way.is_direct() || bytes.is_multiple_of(disk::ALIGNMENT);
            fits && run.wants(&format!("{title}: {name}"))
        };
        let cells: Vec<_> = WAYS.into_iter().filter(wanted).flat_map(|way| [(way, 1_u32), (way, 2)]).collect();
        let mut all: Vec<Vec<Sample>> = vec![Vec::new(); cells.len()];
        let place = run.place()?;
        // A file for each: what is written past the page cache throws the other's pages out of it.
        let files = ["buffered", "direct"].map(|name| place.path().join(name));
        files.iter().try_for_each(|path| disk::filled(path, FILE_BYTES).map(drop))?;
        let [buffered, direct] = files;
        for round in 0..run.rounds {
            progress(&format!("{title}, round {}", round + 1));
            for (((way, _), in_flight), samples) in cells.iter().zip(&mut all) {
                let path = if way.is_direct() { &direct } else { &buffered };
                samples.push(cell(run, path, *way, *in_flight, bytes)?);
            }
        }
        let columns = ["way", "in flight", "groups/s", "MB/s", "p50 us", "p99 us", "rate/first", "p50/first"];
        let mut table = Table::new(title, &columns);
        let first = all.first().cloned().unwrap_or_default();
        for (((_, name), in_flight), samples) in cells.iter().zip(&all) {
            let ratio =
                |figure: fn(&Sample) -> f64| median(samples.iter().zip(&first).map(|(s, f)| figure(s) / figure(f)));
            table.row([
                (*name).into(),
                Cell::Number(f64::from(*in_flight), 0),
                Cell::Number(median_of(samples, |sample| sample.rate), 0),
                Cell::Number(median_of(samples, |sample| sample.rate * bytes as f64 / 1e6), 0),
                Cell::Number(median_of(samples, |sample| sample.p50) * 1e6, 0),
                Cell::Number(median_of(samples, |sample| sample.p99) * 1e6, 0),
                Cell::Number(ratio(|sample| sample.rate), 2),
                Cell::Number(ratio(|sample| sample.p50), 2),
            ]);
        }
        table.note(sample::noise(all.iter().flatten()));
        table.print(run.json);
    }
    Ok(())
}

fn cell(run: &Run, path: &Path, way: Way, in_flight: u32, bytes: usize) -> Result<Sample> {
    let file = if way.is_direct() { disk::direct(path)? } else { File::options().read(true).write(true).open(path)? };
    let buffer = Aligned::noise(bytes);
    let places = FILE_BYTES / bytes as u64;
    let next = AtomicU64::new(0);
    let at = || next.fetch_add(1, Ordering::Relaxed) % places * bytes as u64;
    let pace = Pace { time: run.pace.time / 4, ..run.pace };
    if way == Way::RingDirectDsync {
        let worker =
            |phase: &Phase, tally: &mut Tally| by_ring(Ring::new(&file, buffer.bytes(), in_flight)?, at, phase, tally);
        return sample::run(vec![worker], pace);
    }
    let worker = |phase: &Phase, tally: &mut Tally| {
        while !phase.is_over() {
            make_durable(&file, way, buffer.bytes(), at())?;
            tally.done(phase);
        }
        Ok(())
    };
    sample::run((0..in_flight).map(|_| worker).collect(), pace)
}

fn make_durable(file: &File, way: Way, bytes: &[u8], at: u64) -> Result<()> {
    if matches!(way, Way::Buffered | Way::Direct) {
        file.write_all_at(bytes, at)?;
        return Ok(file.sync_data()?);
    }
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match pwritev2(file, &[IoSlice::new(rest)], at + done as u64, ReadWriteFlags::DSYNC) {
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn by_ring(mut ring: Ring<'_>, at: impl Fn() -> u64, phase: &Phase, tally: &mut Tally) -> Result<()> {
    let slots = ring.slots();
    (0..slots).try_for_each(|slot| ring.write(slot, at()))?;
    while !phase.is_over() {
        let (slot, took) = ring.finish()?;
        tally.count(phase, took);
        ring.write(slot, at())?;
    }
    (0..slots).try_for_each(|_| ring.finish().map(drop))
}

//! A year of flights: each row is one append with one receipt, to the stream of its aircraft.

use crate::engine::{Bare, Engine, together};
use crate::process::Memory;
use crate::report::{mebibytes, rate, seconds, table};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use comfy_table::Table;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use towline::model::Expect;

/// The column that names the stream, as in the example `flights`.
const TAIL: usize = 11;
const PRODUCERS: u64 = 64;
/// Receipts of the one loader that does not wait for each, as in the example.
const UNDER_WAY: usize = 512;

/// A row, and the stream that it goes to.
type Row = (Bytes, Bytes);

/// Appends all rows of a file, zstd-packed CSV with a header line, in two ways, beside bare RocksDB: as a table.
///
/// # Errors
/// The file can't be read, or an append fails.
pub fn measure(place: impl Fn() -> Result<tempfile::TempDir>, file: &Path) -> Result<Table> {
    let rows = rows(file)?;
    let count = rows.len() as u64;
    let dealt = deal(&rows);
    let waiting = |engine: &Engine| {
        let (took, _) = together(PRODUCERS, |producer| {
            let rows = dealt.get(usize::try_from(producer)?).context("a share for each")?;
            for (stream, row) in rows {
                engine.space.append(stream.clone(), Expect::Any, row.clone())?.wait()?.outcome.applied()?;
            }
            Ok(())
        })?;
        Ok(took)
    };
    let (took, memory) = engine(&place, count, waiting)?;
    let bare = bare(&place, &dealt)?;
    let in_flight = engine(&place, count, |engine| under_way(engine, &rows))?;
    let ratio = bare.as_secs_f64() / took.as_secs_f64();
    let line = |what: &str, (took, memory): (Duration, Grown), others: [String; 2]| {
        let [bare, ratio] = others;
        let memory = format!("{} ({})", mebibytes(memory.peak), mebibytes(memory.before));
        [what.to_owned(), seconds(took), rate(count, took), memory, bare, ratio]
    };
    let lines = vec![
        line(
            &format!("{count} appends, {PRODUCERS} producers, each waits"),
            (took, memory),
            [seconds(bare), format!("{ratio:.2}")],
        ),
        line(&format!("the same, one producer, {UNDER_WAY} receipts"), in_flight, [String::new(), String::new()]),
    ];
    Ok(table(["a year of flights", "engine", "rows", "peak memory (before)", "bare RocksDB", "ratio"], lines))
}

/// Memory of the process at the most, and before the node was opened: the rows lie in it.
#[derive(Debug, Clone, Copy)]
struct Grown {
    peak: u64,
    before: u64,
}

/// One engine of its own for one way to load it; all rows are in its feed afterwards.
fn engine(
    place: impl Fn() -> Result<tempfile::TempDir>,
    count: u64,
    load: impl Fn(&Engine) -> Result<Duration>,
) -> Result<(Duration, Grown)> {
    let place = place()?;
    Memory::forget_peak()?;
    let before = Memory::now()?.resident;
    let engine = Engine::open(place.path())?;
    let took = load(&engine)?;
    let peak = Memory::now()?.peak;
    engine.feed(count)?;
    ensure!(engine.node.stats()?.shards.iter().all(|shard| shard.records == count), "each row once");
    engine.close()?;
    Ok((took, Grown { peak, before }))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn under_way(engine: &Engine, rows: &[Row]) -> Result<Duration> {
    let start = Instant::now();
    let mut waiting = VecDeque::with_capacity(UNDER_WAY);
    for (stream, row) in rows {
        if waiting.len() == UNDER_WAY
            && let Some(oldest) = waiting.pop_front()
        {
            let oldest: towline::pipeline::Receipt = oldest;
            oldest.wait()?.outcome.applied()?;
        }
        waiting.push_back(engine.space.append(stream.clone(), Expect::Any, row.clone())?);
    }
    for receipt in waiting {
        receipt.wait()?.outcome.applied()?;
    }
    Ok(start.elapsed())
}

/// The same rows as events and heads in RocksDB, synced each; the version is counted by the producer, not looked up.
fn bare(place: impl Fn() -> Result<tempfile::TempDir>, dealt: &[Vec<Row>]) -> Result<Duration> {
    let place = place()?;
    let bare = Bare::open(place.path())?;
    let (took, _) = together(PRODUCERS, |producer| {
        let mut versions = BTreeMap::<&Bytes, u64>::new();
        for (stream, row) in dealt.get(usize::try_from(producer)?).context("a share for each")? {
            let version = versions.entry(stream).and_modify(|version| *version += 1).or_insert(1);
            bare.append_many([(stream.clone(), *version, row.clone())])?;
        }
        Ok(())
    })?;
    Ok(took)
}

fn rows(file: &Path) -> Result<Vec<Row>> {
    let packed = File::open(file).with_context(|| file.display().to_string())?;
    let text = Bytes::from(std::io::read_to_string(zstd::stream::read::Decoder::new(packed)?)?);
    let lines = std::str::from_utf8(&text)?.lines().skip(1);
    let row = |line: &str| {
        let stream = line.split(',').nth(TAIL).with_context(|| format!("a tail number in {line:?}"))?;
        // Copies: a slice of the text would keep all of it.
        Ok((Bytes::copy_from_slice(stream.as_bytes()), Bytes::copy_from_slice(line.as_bytes())))
    };
    lines.map(row).collect()
}

/// Each stream to one producer, in its order, so that none has much more to do than another: the longest streams first, each
/// to who has least so far.
fn deal(rows: &[Row]) -> Vec<Vec<Row>> {
    let mut lengths = BTreeMap::<&Bytes, usize>::new();
    rows.iter().for_each(|(stream, _)| *lengths.entry(stream).or_default() += 1);
    let mut longest: Vec<_> = lengths.into_iter().collect();
    longest.sort_by_key(|(_, length)| Reverse(*length));
    let mut loads: Vec<usize> = vec![0; PRODUCERS as usize];
    let mut owners = BTreeMap::new();
    for (stream, length) in longest {
        let least = (0..loads.len()).min_by_key(|producer| loads[*producer]).unwrap_or(0);
        loads[least] += length;
        owners.insert(stream, least);
    }
    let mut dealt = vec![Vec::new(); PRODUCERS as usize];
    for row in rows {
        dealt[owners[&row.0]].push(row.clone());
    }
    dealt
}

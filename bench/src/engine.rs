//! The embedded engine beside bare RocksDB and the bare log: what a program that embeds it would compare.

use crate::producers::{await_serving, noise, payload};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rocksdb::{DB, IteratorMode, WriteOptions};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use towline::model::{Filter, Read, Scan, Since, Write};
use towline::node::{Namespace, Node, NodeOptions};
use towline::pipeline::SubmitPolicy;
use towline::state::{Family, RocksOptions, StatisticsLevel};

/// What one measurement did.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Operations.
    pub operations: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl Measured {
    /// Operations a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.took.as_secs_f64()
    }

    /// Megabytes of values a second.
    #[must_use]
    pub fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64()
    }
}

/// A store that values are written to and read from.
pub trait Store: Send + Sync {
    /// Writes one value, and waits until it is durable.
    ///
    /// # Errors
    /// It failed.
    fn put_durably(&self, key: Bytes, value: Bytes) -> Result<()>;

    /// Writes many values, and waits until the last one is readable, durable or not.
    ///
    /// # Errors
    /// It failed.
    fn put_buffered(&self, values: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<()>;

    /// The length of a value.
    ///
    /// # Errors
    /// It failed, or is not there.
    fn get(&self, key: &[u8]) -> Result<usize>;

    /// Reads so many values from a key on: their number.
    ///
    /// # Errors
    /// It failed.
    fn scan(&self, from: &[u8], count: usize) -> Result<usize>;
}

/// The engine on one node.
#[derive(Debug)]
pub struct Engine {
    pub(crate) node: Node,
    pub(crate) space: Namespace,
}

impl Engine {
    /// Opens it.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(directory: &Path) -> Result<Self> {
        let node = Node::open(NodeOptions::alone(directory))?;
        await_serving(|| node.is_serving())?;
        let space = node.default_namespace();
        Ok(Self { node, space })
    }

    /// Several producers, each with so many receipts under way.
    ///
    /// # Errors
    /// A write failed.
    pub fn in_flight(&self, producers: u64, receipts: usize, bytes: usize, writes: u64) -> Result<Measured> {
        let pool = noise();
        shared_out(producers, writes, bytes, |producer, share| {
            let mut waiting = VecDeque::with_capacity(receipts);
            for number in 0..share {
                if waiting.len() == receipts
                    && let Some(oldest) = waiting.pop_front()
                {
                    let oldest: towline::pipeline::Receipt = oldest;
                    oldest.wait()?;
                }
                let (key, value) = (key(producer, number), payload(&pool, number * 64 + producer, bytes));
                waiting.push_back(self.space.put(key, value)?);
            }
            waiting.into_iter().try_for_each(|receipt| receipt.wait().map(drop))?;
            Ok(())
        })
    }

    /// Everything that was written, by a feed from the beginning.
    ///
    /// # Errors
    /// The feed does not go on.
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    pub fn feed(&self, records: u64) -> Result<Measured> {
        let start = Instant::now();
        let mut feed = self.space.subscribe(Since::Oldest, Filter::All)?;
        let mut bytes = 0_u64;
        for _ in 0..records {
            let change = feed.wait_for(Duration::from_secs(30))?.context("as many records as were written")?;
            bytes += change.operations.iter().map(operation_bytes).sum::<u64>();
        }
        Ok(Measured { operations: records, bytes, took: start.elapsed() })
    }

    /// Closes it.
    ///
    /// # Errors
    /// It was not closed cleanly.
    pub fn close(self) -> Result<()> {
        Ok(self.node.close()?)
    }
}

fn operation_bytes(operation: &towline::model::Operation) -> u64 {
    match operation {
        towline::model::Operation::Put { value, .. } => value.len() as u64,
        _ => 0,
    }
}

impl Store for Engine {
    fn put_durably(&self, key: Bytes, value: Bytes) -> Result<()> {
        self.space.put(key, value)?.wait()?;
        Ok(())
    }

    fn put_buffered(&self, values: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<()> {
        let mut last = None;
        for (key, value) in values {
            last = Some(self.space.write_buffered(Write::new().put(key, value), SubmitPolicy::Wait)?);
        }
        if let Some(last) = last {
            let token = last.wait()?.token();
            self.space.get("none", Read::AtLeast(token))?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<usize> {
        let found = self.space.get(key, Read::Linearizable)?.context("it was written")?;
        Ok(found.value.len())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<usize> {
        let page = self.space.scan(&Scan::range(from..).limit(count), Read::Linearizable)?;
        Ok(page.entries.len())
    }
}

/// RocksDB by itself, with the options that the engine gives its families.
pub struct Bare {
    pub(crate) db: DB,
}

impl Bare {
    /// Opens it.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(directory: &Path) -> Result<Self> {
        // What it counts of itself is the engine's wish.
        let mut engine = RocksOptions::default();
        engine.statistics = StatisticsLevel::Off;
        let (mut options, mut blocks) = engine.family(Family::Values);
        blocks.set_block_cache(&engine.cache());
        options.set_block_based_table_factory(&blocks);
        // Opened by the options of its one family alone, it takes those of the database from them as well.
        options.create_if_missing(true);
        options.set_db_write_buffer_size(engine.unflushed_bytes);
        options.set_max_background_jobs(engine.background_threads);
        options.set_max_open_files(engine.open_files_max);
        options.set_bytes_per_sync(1 << 20);
        Ok(Self { db: DB::open(&options, directory)? })
    }
}

impl Store for Bare {
    fn put_durably(&self, key: Bytes, value: Bytes) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.db.put_opt(key, value, &options)?)
    }

    fn put_buffered(&self, values: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<()> {
        for (key, value) in values {
            self.db.put(key, value)?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<usize> {
        let found = self.db.get(key)?.context("it was written")?;
        Ok(found.len())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<usize> {
        let entries = self.db.iterator(IteratorMode::From(from, rocksdb::Direction::Forward));
        let mut found = 0;
        for entry in entries.take(count) {
            let (key, value) = entry?;
            found += usize::from(!key.is_empty() && !value.is_empty());
        }
        Ok(found)
    }
}

/// Producers that wait for each write.
///
/// # Errors
/// A write failed.
pub fn durable(store: &dyn Store, producers: u64, bytes: usize, writes: u64) -> Result<Measured> {
    let pool = noise();
    shared_out(producers, writes, bytes, |producer, share| {
        (0..share).try_for_each(|number| {
            store.put_durably(key(producer, number), payload(&pool, number * 64 + producer, bytes))
        })
    })
}

/// One producer that waits for none.
///
/// # Errors
/// A write failed.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn buffered(store: &dyn Store, bytes: usize, writes: u64) -> Result<Measured> {
    let pool = noise();
    let start = Instant::now();
    store.put_buffered(&mut (0..writes).map(|number| (key(0, number), payload(&pool, number, bytes))))?;
    Ok(Measured { operations: writes, bytes: writes * bytes as u64, took: start.elapsed() })
}

/// Reads of keys in no order, which [`buffered`] wrote.
///
/// # Errors
/// A read failed.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn gets(store: &dyn Store, written: u64, reads: u64) -> Result<Measured> {
    let start = Instant::now();
    let mut bytes = 0_u64;
    for number in 0..reads {
        bytes += store.get(&key(0, number.wrapping_mul(2_654_435_761) % written))? as u64;
    }
    Ok(Measured { operations: reads, bytes, took: start.elapsed() })
}

/// Scans of so many values each, from keys in no order: counted by value.
///
/// # Errors
/// A scan failed.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn scans(store: &dyn Store, written: u64, scans: u64, count: usize) -> Result<Measured> {
    let start = Instant::now();
    let mut found = 0_u64;
    for number in 0..scans {
        found += store.scan(&key(0, number.wrapping_mul(2_654_435_761) % (written / 2)), count)? as u64;
    }
    ensure!(found == scans * count as u64, "as many as were asked for");
    Ok(Measured { operations: found, bytes: 0, took: start.elapsed() })
}

pub(crate) fn key(producer: u64, number: u64) -> Bytes {
    Bytes::from(format!("{producer:04}-{number:09}"))
}

/// Writes that are shared out among producers.
fn shared_out(
    producers: u64,
    writes: u64,
    bytes: usize,
    work: impl Fn(u64, u64) -> Result<()> + Sync,
) -> Result<Measured> {
    let share = writes / producers;
    let (took, _) = together(producers, |producer| work(producer, share))?;
    let operations = share * producers;
    Ok(Measured { operations, bytes: operations * bytes as u64, took })
}

/// Threads that begin at one moment: how long it took until the last was done, and what each says, in the order of their
/// numbers.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn together<T: Send>(threads: u64, work: impl Fn(u64) -> Result<T> + Sync) -> Result<(Duration, Vec<T>)> {
    let barrier = Barrier::new(usize::try_from(threads)? + 1);
    std::thread::scope(|scope| {
        let (barrier, work) = (&barrier, &work);
        let begin = |number| {
            scope.spawn(move || {
                barrier.wait();
                work(number)
            })
        };
        let threads: Vec<_> = (0..threads).map(begin).collect();
        barrier.wait();
        let start = Instant::now();
        let said =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a producer panicked"))?);
        let said = said.collect::<Result<Vec<_>>>()?;
        Ok((start.elapsed(), said))
    })
}

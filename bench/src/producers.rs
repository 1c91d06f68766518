//! Blocking producers: each thread writes, waits until that is durable (or applied), writes again.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use towline::model::{Operation, Record};
use towline::node::{Node, NodeOptions};
use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Epoch, LogId, LogPosition, Options, Wal};

/// A number of producers that can be set to work.
pub struct Producers {
    count: u64,
    work: Arc<dyn Fn(u64, u64) -> Result<()> + Send + Sync>,
}

impl Producers {
    /// Producers that do something of their own: it is given a producer's number and how often.
    pub fn new(count: u64, work: impl Fn(u64, u64) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { count, work: Arc::new(work) }
    }

    /// Producers that set keys to noise, each waiting for each write.
    pub fn writing(count: u64, bytes: usize, write: impl Fn(&Record) -> Result<()> + Send + Sync + 'static) -> Self {
        let pool = noise();
        Self::new(count, move |producer, times| {
            for number in 0..times {
                let key = Bytes::from(format!("{producer:04}-{:06}", number % 100_000));
                let value = payload(&pool, number * 64 + producer, bytes);
                write(&Record::of(vec![Operation::Put { key, value }]))?;
            }
            Ok(())
        })
    }

    /// The first producer does one operation, on the caller's thread.
    ///
    /// # Errors
    /// It failed.
    pub fn once(&self) -> Result<()> {
        (self.work)(0, 1)
    }

    /// Does `operations` in all, shared among the producers, and says how long it took from the moment when all
    /// of them stood ready.
    ///
    /// # Errors
    /// A producer failed.
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    pub fn run(&self, operations: u64) -> Result<Duration> {
        let barrier = Arc::new(Barrier::new(usize::try_from(self.count)? + 1));
        let mut threads = Vec::new();
        for producer in 0..self.count {
            let share = operations / self.count + u64::from(producer < operations % self.count);
            let (barrier, work) = (Arc::clone(&barrier), Arc::clone(&self.work));
            let body = move || {
                barrier.wait();
                work(producer, share)
            };
            threads.push(std::thread::Builder::new().name(format!("producer-{producer}")).spawn(body)?);
        }
        barrier.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a producer panicked"))??;
        }
        Ok(start.elapsed())
    }
}

/// Bytes of noise that payloads are cut from, each at another place: so that no two are alike.
const POOL_BYTES: usize = 4 << 20;

/// The `number`th payload of so many bytes out of a pool of noise.
pub(crate) fn payload(pool: &Bytes, number: u64, bytes: usize) -> Bytes {
    let places = (pool.len() - bytes) as u64;
    let at = usize::try_from(number.wrapping_mul(7919) % places).unwrap_or(0);
    pool.slice(at..at + bytes)
}

/// Bytes that don't compress, the same in every run.
pub(crate) fn noise() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).unwrap_or(0)
    };
    (0..POOL_BYTES).map(step).collect::<Vec<u8>>().into()
}

/// Durable appends to the bare log: each producer has a log of its own in one file set.
///
/// # Errors
/// The log can't be opened.
pub fn log_appends(directory: &Path, producers: u64, bytes: usize) -> Result<Producers> {
    let (wal, _) = Wal::open(directory, Options::default()).context("opening the log")?;
    let wal = Arc::new(wal);
    let pool = noise();
    let epoch = Epoch { version: 1, term: 1 };
    let work = move |producer: u64, count: u64| {
        let log = LogId::new(u128::from(producer) + 1);
        for number in 0..count {
            let end = wal.end(log);
            let end = if end.lsn == towline_wal::Lsn::ZERO { LogPosition::origin(log) } else { end };
            let block = Block::encode(payload(&pool, number, bytes), 1, Compression::Never);
            let batch = BatchBuilder::new(log, BatchKind::Data, epoch, end, 0).block(block).seal()?;
            wal.append(batch)?;
        }
        Ok(())
    };
    Ok(Producers::new(producers, work))
}

/// Writes through the whole engine on one node: each is committed and applied when it returns.
///
/// # Errors
/// The node can't be opened, or does not take writes within ten seconds.
pub fn engine_writes(directory: &Path, producers: u64, bytes: usize) -> Result<Producers> {
    let node = Arc::new(Node::open(NodeOptions::alone(directory))?);
    await_serving(|| node.is_serving())?;
    let namespace = node.default_namespace();
    Ok(Producers::writing(producers, bytes, move |record| {
        // The namespace is a handle: the node is what is held open.
        let _open = &node;
        Ok(namespace.write(record)?.wait().map(drop)?)
    }))
}

/// Waits until a node takes writes.
///
/// # Errors
/// It does not within ten seconds.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock, and waits for a server")]
pub fn await_serving(is_serving: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is_serving() {
        ensure!(start.elapsed() < Duration::from_secs(10), "no node takes writes after ten seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

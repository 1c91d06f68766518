//! Clients that write, and what a stretch of their time came to.

use crate::clock::{self, Usage};
use crate::process::{self, Process};
use crate::systems::{Client, System};
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Of every value.
pub(crate) const VALUE_BYTES: usize = 1024;
/// As many keys are written, again and again.
const KEYS: u64 = 100_000;
/// How often the memory of a server is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) clients: usize,
    /// Writes that each client has unanswered.
    pub(crate) in_flight: usize,
    /// Each client numbers its writes, and each is executed once however often it is sent. Of ours only.
    pub(crate) session: bool,
}

impl Case {
    pub(crate) const fn of(clients: usize, in_flight: usize) -> Self {
        Self { clients, in_flight, session: false }
    }
}

/// One stretch of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Writes answered a second.
    pub(crate) rate: f64,
    /// Milliseconds that half of the writes, and that 99 of 100, did not exceed.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Processors that the servers, and that the clients, kept busy.
    pub(crate) servers: f64,
    pub(crate) clients: f64,
    /// Processors that everybody else kept busy meanwhile.
    pub(crate) others: f64,
    /// Most memory that the first server had, bytes.
    pub(crate) resident: u64,
}

/// Clients at work; each awaits its answer before it writes again.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    latencies: Vec<Arc<Mutex<Histogram<u64>>>>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Connects, each client for itself, and begins.
    pub(crate) async fn begin(system: &dyn System, case: Case) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..case.clients {
            clients.push(system.connect(case).await.context("a client")?);
        }
        let over = Arc::new(AtomicBool::new(false));
        let (mut latencies, mut tasks) = (Vec::new(), Vec::new());
        for (number, client) in clients.iter().enumerate() {
            for place in 0..case.in_flight {
                let own = Arc::new(Mutex::new(histogram()?));
                latencies.push(Arc::clone(&own));
                let seed = (number * case.in_flight + place) as u64;
                tasks.push(tokio::spawn(write(Arc::clone(client), seed, Arc::clone(&over), own)));
            }
        }
        Ok(Self { over, latencies, tasks })
    }

    /// What these clients do from now on for that time.
    pub(crate) async fn measure(&self, servers: &[Process], time: Duration) -> Result<Sample> {
        let passed = async {
            tokio::time::sleep(time).await;
            Ok(())
        };
        self.measure_while(servers, passed).await.map(|(sample, ())| sample)
    }

    /// What these clients do from now on until that is done, and what came of it.
    pub(crate) async fn measure_while<T>(
        &self,
        servers: &[Process],
        what: impl Future<Output = Result<T>>,
    ) -> Result<(Sample, T)> {
        for own in &self.latencies {
            own.lock().reset();
        }
        let (start, usage, before) = (clock::now(), Usage::until_now()?, process::processor_time(servers)?);
        let (mut what, mut resident) = (pin!(what), 0);
        let came = loop {
            let done = tokio::time::timeout(LOOK, what.as_mut()).await;
            resident = resident.max(servers.first().map_or(Ok(0), Process::resident)?);
            if let Ok(came) = done {
                break came?;
            }
        };
        let took = start.elapsed().as_secs_f64();
        let spent = process::processor_time(servers)?.saturating_sub(before).as_secs_f64() / took;
        let (clients, others) = Usage::until_now()?.cores_since(&usage);
        let mut all = histogram()?;
        for own in &self.latencies {
            all.add(&*own.lock())?;
        }
        let ms = |share| all.value_at_quantile(share) as f64 / 1e6;
        let sample = Sample {
            rate: all.len() as f64 / took,
            p50: ms(0.5),
            p99: ms(0.99),
            servers: spent,
            clients,
            others: (others - spent).max(0.0),
            resident,
        };
        Ok((sample, came))
    }

    /// Lets every write be answered, and fails if one was refused.
    pub(crate) async fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

async fn write(
    client: Arc<dyn Client>,
    seed: u64,
    over: Arc<AtomicBool>,
    own: Arc<Mutex<Histogram<u64>>>,
) -> Result<()> {
    let mut random = Random::new(seed);
    while !over.load(Ordering::Relaxed) {
        let key = format!("key-{:06}", random.draw() % KEYS);
        // Nothing in it compresses, and no two are alike.
        let value = random.bytes(VALUE_BYTES);
        let start = clock::now();
        client.write(key, value).await?;
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        own.lock().saturating_record(took);
    }
    Ok(())
}

/// Nanoseconds, from a microsecond to a minute, to three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1000, 60_000_000_000, 3)?)
}

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x2545_f491_4f6c_dd1d))
    }

    /// So many bytes, in eights.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count / 8).flat_map(|_| self.draw().to_le_bytes()).collect()
    }

    pub(crate) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

//! What RocksDB counts and measures of itself, read at one time.

use rocksdb::Options;
use rocksdb::statistics::{Histogram, StatsLevel, Ticker};

/// What RocksDB counts of itself.
///
/// ```
/// use towline::node::{Node, NodeOptions};
/// use towline::state::StatisticsLevel;
/// # let directory = tempfile::tempdir()?;
/// let mut options = NodeOptions::alone(directory.path());
/// options.state.statistics = StatisticsLevel::Counters;
/// let node = Node::open(options)?;
/// let state = node.stats()?.state;
/// println!("of {} blocks {} were read from files", state.cache_hits + state.cache_misses, state.cache_misses);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StatisticsLevel {
    /// Nothing: what is counted is 0.
    Off,
    /// How often and how much, but not how long.
    Counters,
    /// How long as well.
    #[default]
    Times,
}

/// RocksDB in numbers. Counters and times begin at 0 with each opening; those of its work are 0 where
/// [`RocksOptions::statistics`](super::RocksOptions::statistics) has them off.
///
/// ```
/// use towline::state::{ChangeSet, Family, RocksStore, Store, View};
/// let directory = tempfile::tempdir()?;
/// let mut store = RocksStore::open(&directory.path().join("state"))?;
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"k", vec![7; 100_000]);
/// store.commit(&changes)?;
/// let before = store.stats()?;
/// assert!(before.memory_bytes > 100_000 && before.file_bytes == 0, "a crash would take it away");
/// store.flush()?;
/// let after = store.stats()?;
/// assert!(after.memory_bytes < before.memory_bytes && after.file_bytes > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StateStats {
    /// Bytes of entries in memory, not flushed yet.
    pub memory_bytes: u64,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Files of large values ([`RocksOptions::large_value_bytes`](super::RocksOptions::large_value_bytes)): at most one more with
    /// each flush. Many small ones cost a file each, and nothing else; [`Node::compact`](crate::node::Node::compact) merges them.
    pub large_value_files: u64,
    /// Bytes of blocks in memory.
    pub cache_bytes: u64,
    /// Bytes that compactions have to rewrite.
    pub compaction_pending_bytes: u64,
    /// Flushes and compactions that failed.
    pub background_errors: u64,
    /// Snapshots that are held: they keep old versions on the disk.
    pub snapshots: u64,
    /// Whether writes wait for flushes or compactions.
    pub is_write_stopped: bool,
    /// Blocks that a read found in memory.
    pub cache_hits: u64,
    /// Blocks that a read did not find there.
    pub cache_misses: u64,
    /// Files that a read did not have to look at, since a filter said so.
    pub filter_hits: u64,
    /// Bytes that flushes wrote.
    pub flushed_bytes: u64,
    /// Bytes that compactions read.
    pub compaction_read_bytes: u64,
    /// Bytes that compactions wrote.
    pub compaction_written_bytes: u64,
    /// Microseconds for which changes were held up, all together, for flushes and compactions to catch up.
    pub stall_micros: u64,
    /// A key that was read.
    pub get: RocksTimes,
    /// The first entry of a scan that was found.
    pub seek: RocksTimes,
    /// A change that was written, of one batch or many; without what computes it.
    pub commit: RocksTimes,
    /// A flush of one family.
    pub flush: RocksTimes,
    /// A compaction.
    pub compaction: RocksTimes,
    /// A read of a file.
    pub file_read: RocksTimes,
    /// A change that was held up.
    pub stall: RocksTimes,
}

/// How long something took, in microseconds, as RocksDB has measured it: its quantiles are estimates within buckets.
///
/// ```
/// use towline::state::{ChangeSet, Family, RocksOptions, RocksStore, StatisticsLevel, Store};
/// let directory = tempfile::tempdir()?;
/// let mut options = RocksOptions::default();
/// options.statistics = StatisticsLevel::Times;
/// let mut store = RocksStore::open_with(&directory.path().join("state"), &options)?;
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"k", b"v");
/// store.commit(&changes)?;
/// let commit = store.stats()?.commit;
/// assert!(commit.count == 1 && commit.median <= commit.max);
/// println!("a change takes {} µs, of a hundred one takes {}", commit.median, commit.p99);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RocksTimes {
    /// How often.
    pub count: u64,
    /// Half of them took so long at the most.
    pub median: u64,
    /// 95 of a hundred.
    pub p95: u64,
    /// 99 of a hundred.
    pub p99: u64,
    /// The longest.
    pub max: u64,
    /// All together.
    pub sum: u64,
}

/// Where RocksDB counts: it shares that with the options it was opened with.
pub(super) struct Statistics(Options);

impl Statistics {
    /// Those of a database that is opened with these options, which are prepared for it.
    pub(super) fn of(database: &mut Options, level: StatisticsLevel) {
        let level = match level {
            StatisticsLevel::Off => return,
            StatisticsLevel::Counters => StatsLevel::ExceptHistogramOrTimers,
            // Without those that look at the clock inside locks and for each block that is compressed.
            StatisticsLevel::Times => StatsLevel::ExceptDetailedTimers,
        };
        database.enable_statistics();
        database.set_statistics_level(level);
    }

    /// The statistics of the database that was opened with these options.
    pub(super) const fn new(database: Options) -> Self {
        Self(database)
    }

    /// Adds what was counted.
    pub(super) fn tell(&self, stats: &mut StateStats) {
        let count = |ticker| self.0.get_ticker_count(ticker);
        stats.cache_hits = count(Ticker::BlockCacheHit);
        stats.cache_misses = count(Ticker::BlockCacheMiss);
        stats.filter_hits = count(Ticker::BloomFilterUseful);
        stats.flushed_bytes = count(Ticker::FlushWriteBytes);
        stats.compaction_read_bytes = count(Ticker::CompactReadBytes);
        stats.compaction_written_bytes = count(Ticker::CompactWriteBytes);
        stats.stall_micros = count(Ticker::StallMicros);
        stats.get = self.times(Histogram::DbGet);
        stats.seek = self.times(Histogram::DbSeek);
        stats.commit = self.times(Histogram::DbWrite);
        stats.flush = self.times(Histogram::FlushTime);
        stats.compaction = self.times(Histogram::CompactionTime);
        stats.file_read = self.times(Histogram::SstReadMicros);
        stats.stall = self.times(Histogram::WriteStall);
    }

    fn times(&self, of: Histogram) -> RocksTimes {
        let found = self.0.get_histogram_data(of);
        RocksTimes {
            count: found.count(),
            median: whole(found.median()),
            p95: whole(found.p95()),
            p99: whole(found.p99()),
            max: whole(found.max()),
            sum: found.sum(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "microseconds: never below 0, and a cast saturates"
)]
const fn whole(micros: f64) -> u64 {
    micros as u64
}

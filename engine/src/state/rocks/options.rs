//! How RocksDB is set up: every option that is not its default, with the reason.

use super::statistics::{Statistics, StatisticsLevel};
use crate::state::store::Family;
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, LruCacheOptions, Options};

/// What a node may spend on its state. The rest follows from it.
///
/// ```
/// use towline::state::{RocksOptions, RocksStore};
/// let directory = tempfile::tempdir()?;
/// let mut options = RocksOptions::default();
/// options.block_cache_bytes = 16 << 20;
/// let store = RocksStore::open_with(&directory.path().join("state"), &options)?;
/// assert_eq!(store.stats()?.file_bytes, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RocksOptions {
    /// Bytes of blocks kept in memory, indexes and filters included.
    pub block_cache_bytes: usize,
    /// Bytes of all families' unflushed entries together, in memory.
    pub unflushed_bytes: usize,
    /// Threads that flush and compact.
    pub background_threads: i32,
    /// Files kept open.
    pub open_files_max: i32,
    /// Values from this size on lie in files of their own: written and moved less, read by their keys faster, and slower in the
    /// order of keys.
    pub large_value_bytes: u64,
    /// What RocksDB counts and measures of itself.
    pub statistics: StatisticsLevel,
}

impl Default for RocksOptions {
    /// 64 MiB of cache, 64 MiB unflushed, half the cores and two at the least, 1,024 files, all statistics.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            block_cache_bytes: 64 << 20,
            unflushed_bytes: 64 << 20,
            background_threads: i32::try_from(cores / 2).unwrap_or(i32::MAX).max(2),
            open_files_max: 1024,
            large_value_bytes: LARGE_VALUE_BYTES,
            statistics: StatisticsLevel::default(),
        }
    }
}

/// RocksDB's own log of what it does, in bytes a file, and how many files: enough to read after a failure.
const INFO_LOG_BYTES: usize = 4 << 20;
const INFO_LOG_FILES: usize = 4;
/// Ten bits a key: one look in a hundred at a file that does not hold the key.
const BLOOM_BITS: f64 = 10.0;
const BLOCK_BYTES: usize = 16 << 10;
/// What RocksDB gives every compressor that has no window.
const ZSTD_WINDOW_BITS: i32 = -14;
const ZSTD_LEVEL: i32 = 1;
/// Flushed files that are compacted together.
const FLUSHED_FILES: i32 = 8;
/// Bytes of each part of the cache, at the least; RocksDB's own choice is 512 KiB. What is larger than its part is thrown out as
/// soon as it is read: the filter of a file is one block, of megabytes when the file is full of small entries, and each read of
/// a key would read all of it from the disk.
const CACHE_PART_BYTES: usize = 16 << 20;
/// Values from this size on lie in files of their own.
const LARGE_VALUE_BYTES: u64 = 64 << 10;
/// Of each such file.
const BLOB_FILE_BYTES: u64 = 64 << 20;
/// What lives in the oldest of these files, this part of them, moves on when a compaction passes it, and a compaction comes once
/// half of it is garbage. A larger part is written again and again, and saves no room.
pub(super) const BLOB_OLD: f64 = 0.1;
const BLOB_GARBAGE: f64 = 0.5;
/// Each file is compacted within this time, whatever is written: what was deleted goes, and small files of large values merge.
const COMPACTED_WITHIN_SECONDS: u64 = 30 * 24 * 60 * 60;
/// Parts of a large cache: two to this power.
const CACHE_PARTS_POWER_MAX: u32 = 6;

impl RocksOptions {
    /// The options of the database, as RocksDB takes them: for benches, which put them beside others.
    #[doc(hidden)]
    #[must_use]
    pub fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // With its log off, families flushed one by one would be of different positions after a crash.
        options.set_atomic_flush(true);
        options.set_db_write_buffer_size(self.unflushed_bytes);
        options.set_max_background_jobs(self.background_threads);
        options.set_max_open_files(self.open_files_max);
        options.set_max_log_file_size(INFO_LOG_BYTES);
        options.set_keep_log_file_num(INFO_LOG_FILES);
        // Dirty pages go out as they come, not in one burst that our log's syncs would wait behind.
        options.set_bytes_per_sync(1 << 20);
        // Statistics for its planner, at the price of opening every file at open.
        options.set_skip_stats_update_on_db_open(true);
        Statistics::of(&mut options, self.statistics);
        options
    }

    pub(super) fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = self.cache();
        let describe = |family: Family| {
            let (mut options, mut blocks) = self.family(family);
            blocks.set_block_cache(&cache);
            options.set_block_based_table_factory(&blocks);
            ColumnFamilyDescriptor::new(family.name(), options)
        };
        Family::ALL.into_iter().map(describe).collect()
    }

    /// The cache that all families share: for benches as well.
    #[doc(hidden)]
    #[must_use]
    pub fn cache(&self) -> Cache {
        let power = (self.block_cache_bytes / CACHE_PART_BYTES).max(1).ilog2().min(CACHE_PARTS_POWER_MAX);
        let mut options = LruCacheOptions::default();
        options.set_capacity(self.block_cache_bytes);
        options.set_num_shard_bits(i32::try_from(power).unwrap_or(0));
        Cache::new_lru_cache_opts(&options)
    }

    /// The options of one family, and those of its tables, which lack the cache that all share: for benches as well.
    #[doc(hidden)]
    #[must_use]
    pub fn family(&self, family: Family) -> (Options, BlockBasedOptions) {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_size(BLOCK_BYTES);
        // Counted against the cache, so that memory has one bound (I10); the newest files' stay in.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // Events are read in ranges, which a filter of whole keys does not help.
        if family != Family::Events {
            blocks.set_bloom_filter(BLOOM_BITS, false);
        }
        let mut options = Options::default();
        // Most bytes lie at the bottom, written once and read seldom; the levels above are rewritten often.
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        // A tenth less of the processor for a write than level 3, and no larger.
        options.set_bottommost_compression_options(ZSTD_WINDOW_BITS, ZSTD_LEVEL, 0, 0, true);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_write_buffer_size(self.unflushed_bytes / 2);
        // One fills while the others flush: a flush that takes its time does not stop the applier at once.
        options.set_max_write_buffer_number(4);
        // As many bytes as the first level holds (256 MiB): each compaction rewrites what is below once for all of them. With 4, as
        // RocksDB has it, a third more is written; a read looks at a filter or two more.
        options.set_level_zero_file_num_compaction_trigger(FLUSHED_FILES);
        options.set_periodic_compaction_seconds(COMPACTED_WITHIN_SECONDS);
        if matches!(family, Family::Values | Family::Events) {
            // Otherwise each compaction rewrites large values, and holds one of each of its files in memory, with the block that
            // it makes of it: of the largest values hundreds of megabytes (fault P6).
            options.set_enable_blob_files(true);
            options.set_min_blob_size(self.large_value_bytes);
            options.set_blob_file_size(BLOB_FILE_BYTES);
            options.set_blob_compression_type(DBCompressionType::Lz4);
            options.set_enable_blob_gc(true);
            options.set_blob_gc_age_cutoff(BLOB_OLD);
            options.set_blob_gc_force_threshold(BLOB_GARBAGE);
        }
        (options, blocks)
    }
}

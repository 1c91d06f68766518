//! What each option of the state's RocksDB costs and brings: the engine's set, and beside it the same with one option changed.
//!
//! Measured in processor time of the whole process, background threads included, and in bytes: both say the same on a busy
//! machine as on a quiet one.

use crate::process::{processor_time, written_bytes};
use crate::producers::{noise, payload};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, DataBlockIndexType,
    FlushOptions, Options, WaitForCompactOptions, WriteBatch, WriteOptions,
};
use std::path::Path;
use std::time::Duration;
use towline::state::{Family, RocksOptions};

/// One option, changed.
#[derive(Debug, Clone, Copy)]
pub struct Variation {
    /// What is different from the engine's set.
    pub name: &'static str,
    /// Of the database, the family, and its tables.
    change: fn(&mut Options, &mut Options, &mut BlockBasedOptions),
}

/// The engine's set first, then what it was compared with.
pub const VARIATIONS: &[Variation] = &[
    Variation { name: "the engine's set", change: |_, _, _| {} },
    Variation {
        name: "zstd of level 3 at the bottom",
        change: |_, options, _| bottom(options, DBCompressionType::Zstd, 3),
    },
    Variation { name: "lz4 everywhere", change: |_, options, _| bottom(options, DBCompressionType::Lz4, 0) },
    Variation {
        name: "no compression",
        change: |_, options, _| {
            options.set_compression_type(DBCompressionType::None);
            bottom(options, DBCompressionType::None, 0);
        },
    },
    Variation { name: "write buffers of 16 MiB", change: |_, options, _| options.set_write_buffer_size(16 << 20) },
    Variation { name: "write buffers of 64 MiB", change: |_, options, _| options.set_write_buffer_size(64 << 20) },
    Variation {
        name: "compaction of 4 flushed files",
        change: |_, options, _| options.set_level_zero_file_num_compaction_trigger(4),
    },
    Variation {
        name: "compaction of 12 flushed files",
        change: |_, options, _| options.set_level_zero_file_num_compaction_trigger(12),
    },
    Variation {
        name: "universal compaction",
        change: |_, options, _| options.set_compaction_style(DBCompactionStyle::Universal),
    },
    Variation {
        name: "levels of fixed sizes",
        change: |_, options, _| options.set_level_compaction_dynamic_level_bytes(false),
    },
    Variation { name: "blocks of 4 KiB", change: |_, _, blocks| blocks.set_block_size(4 << 10) },
    Variation { name: "blocks of 32 KiB", change: |_, _, blocks| blocks.set_block_size(32 << 10) },
    Variation {
        name: "a hash index in blocks",
        change: |_, _, blocks| blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash),
    },
    Variation { name: "no filters", change: |_, _, blocks| blocks.set_bloom_filter(0.0, false) },
    Variation { name: "ribbon filters", change: |_, _, blocks| blocks.set_ribbon_filter(10.0) },
    Variation {
        name: "direct flushes and compactions",
        change: |_, options, _| options.set_use_direct_io_for_flush_and_compaction(true),
    },
    Variation {
        name: "one memtable writer at a time",
        change: |_, options, _| options.set_allow_concurrent_memtable_write(false),
    },
    Variation { name: "no blob files", change: |_, options, _| options.set_enable_blob_files(false) },
    Variation { name: "blob files from 512 B on", change: |_, options, _| options.set_min_blob_size(512) },
    Variation { name: "blob files from 4 KiB on", change: |_, options, _| options.set_min_blob_size(4 << 10) },
    Variation { name: "blob files cleaned at every age", change: |_, options, _| options.set_blob_gc_age_cutoff(1.0) },
    Variation {
        name: "statistics without times",
        change: |database, _, _| database.set_statistics_level(StatsLevel::ExceptHistogramOrTimers),
    },
    Variation { name: "no statistics", change: |database, _, _| database.set_statistics_level(StatsLevel::DisableAll) },
];

fn bottom(options: &mut Options, compression: DBCompressionType, level: i32) {
    options.set_bottommost_compression_type(compression);
    options.set_bottommost_compression_options(-14, level, 0, 0, level > 0);
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Load {
    /// Values of 1 KiB that don't shrink, each key twice, in no order.
    Values,
    /// Rows of text at the ends of 16 streams.
    Events,
    /// Values of 256 KiB that don't shrink, each key twice, in no order.
    Large,
}

/// What one set of options did with one load.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Microseconds of processor time for each record written, until nothing is left to compact.
    pub write_micros: f64,
    /// Bytes written to the device for each byte of the user's.
    pub write_amplification: f64,
    /// Bytes of files for each byte that is live.
    pub space_amplification: f64,
    /// Microseconds of processor time for each value that is read, of keys in no order.
    pub get_micros: f64,
    /// The same of all of them in the order of their keys.
    pub scan_micros: f64,
}

/// A large value.
const LARGE_BYTES: usize = 256 << 10;
/// Records in a change, as a busy engine makes them.
const RECORDS_OF_A_CHANGE: u64 = 64;

/// Loads a database and reads from it.
///
/// # Errors
/// RocksDB fails, or the system does not say what was used.
pub fn measure(directory: &Path, variation: &Variation, load: Load, rows: &[Bytes], records: u64) -> Result<Cost> {
    let family = match load {
        Load::Values | Load::Large => Family::Values,
        Load::Events => Family::Events,
    };
    let engine = RocksOptions::default();
    let (mut database, (mut options, mut blocks)) = (engine.database(), engine.family(family));
    blocks.set_block_cache(&engine.cache());
    (variation.change)(&mut database, &mut options, &mut blocks);
    options.set_block_based_table_factory(&blocks);
    let db = DB::open_cf_descriptors(&database, directory, [ColumnFamilyDescriptor::new(family.name(), options)])?;
    let handle = db.cf_handle(family.name()).context("it was just made")?;
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);

    let pool = noise();
    let (key_of, value_of): (fn(u64, u64) -> Vec<u8>, _) = match load {
        Load::Values | Load::Large => {
            (|number, records| format!("{:012}", scattered(number, records / 2)).into_bytes(), None)
        }
        Load::Events => (|number, _| format!("stream-{:02}-{:012}", number % 16, number / 16).into_bytes(), Some(rows)),
    };
    let value = |number: u64| match value_of {
        None => payload(&pool, number, if load == Load::Large { LARGE_BYTES } else { 1024 }),
        Some(rows) => rows.get(number as usize % rows.len()).cloned().unwrap_or_default(),
    };
    let (before, mut written, mut live) = (Used::now()?, 0, 0);
    let records_of_a_change = if load == Load::Large { 4 } else { RECORDS_OF_A_CHANGE };
    for first in (0..records).step_by(records_of_a_change as usize) {
        let mut batch = WriteBatch::default();
        for number in first..records.min(first + records_of_a_change) {
            let (key, value) = (key_of(number, records), value(number));
            let bytes = (key.len() + value.len()) as u64;
            written += bytes;
            live += if load != Load::Events && number >= records / 2 { 0 } else { bytes };
            batch.put_cf(handle, key, value);
        }
        db.write_opt(batch, &unlogged)?;
    }
    let mut flush = FlushOptions::default();
    flush.set_wait(true);
    db.flush_cfs_opt(&[handle], &flush)?;
    db.wait_for_compact(&WaitForCompactOptions::default())?;
    let after = Used::now()?;
    let bytes_of =
        |property: &str| Ok::<_, rocksdb::Error>(db.property_int_value_cf(handle, property)?.unwrap_or_default());
    let files = bytes_of("rocksdb.live-sst-files-size")? + bytes_of("rocksdb.total-blob-file-size")?;

    let reads = records / 4;
    for number in 0..reads {
        let found = db.get_pinned_cf(handle, key_of(scattered(number, records), records))?;
        ensure!(found.is_some(), "what was written is there");
    }
    let read = Used::now()?;
    let mut entries = db.raw_iterator_cf(handle);
    let mut scanned = 0;
    entries.seek_to_first();
    while let Some((key, value)) = entries.item() {
        scanned += u64::from(!key.is_empty() && !value.is_empty());
        entries.next();
    }
    entries.status()?;
    let walked = Used::now()?;
    Ok(Cost {
        write_micros: micros(after.processor - before.processor) / records as f64,
        write_amplification: (after.written - before.written) as f64 / written as f64,
        space_amplification: files as f64 / live as f64,
        get_micros: micros(read.processor - after.processor) / reads as f64,
        scan_micros: micros(walked.processor - read.processor) / scanned as f64,
    })
}

/// Each of `count` numbers once for each round of `number`, in no order: the multiplier has no factor in common with a count
/// that is not a multiple of it.
const fn scattered(number: u64, count: u64) -> u64 {
    number.wrapping_mul(2_654_435_761) % count
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What this process used so far.
struct Used {
    processor: Duration,
    written: u64,
}

impl Used {
    fn now() -> Result<Self> {
        Ok(Self { processor: processor_time()?, written: written_bytes()? })
    }
}

//! raft-engine: each producer a region, each record an entry, `write` with `sync`. As it comes; and with its files
//! filled ahead (`prefill_for_recycle`), which it does only on request, and where it is much faster.

use super::{Append, DurableLog};
use anyhow::Result;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use std::path::Path;

struct RaftEngine(Engine);

pub(super) fn open(directory: &Path, is_prefilled: bool) -> Result<impl DurableLog + use<>> {
    let name = if is_prefilled { "raft-engine-prefilled" } else { "raft-engine" };
    let config = Config {
        dir: directory.join(name).to_string_lossy().into_owned(),
        target_file_size: ReadableSize::mb(64),
        purge_threshold: ReadableSize::gb(1),
        prefill_for_recycle: is_prefilled,
        prefill_limit: is_prefilled.then(|| ReadableSize::gb(1)),
        ..Config::default()
    };
    Ok(RaftEngine(Engine::open(config)?))
}

/// Entries are byte strings that start with their index.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.first_chunk().map_or(0, |index| u64::from_le_bytes(*index))
    }
}

struct Region<'a> {
    engine: &'a Engine,
    number: u64,
    index: u64,
    batch: LogBatch,
}

impl DurableLog for RaftEngine {
    fn producer(&self, number: u64) -> Result<Box<dyn Append + '_>> {
        Ok(Box::new(Region { engine: &self.0, number: number + 1, index: 0, batch: LogBatch::default() }))
    }
}

impl Append for Region<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.index += 1;
        let mut value = Vec::with_capacity(record.len());
        value.extend_from_slice(&self.index.to_le_bytes());
        value.extend_from_slice(record.get(8..).unwrap_or_default());
        let entry = BytesValue { value, ..BytesValue::default() };
        self.batch.add_entries::<Entries>(self.number, &[entry])?;
        self.engine.write(&mut self.batch, true)?;
        Ok(())
    }
}

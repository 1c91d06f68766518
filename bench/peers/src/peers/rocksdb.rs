//! RocksDB: puts with a synced WAL. The log file is one that was used before, so its blocks are there already, and no flush
//! falls into a cell: what is measured is the WAL and the memtable that comes with it.

use super::{Append, DurableLog};
use anyhow::Result;
use rocksdb::{DB, Options, WriteOptions};
use std::path::Path;

struct RocksDb(DB);

/// Log files filled before, and their bytes: the one that is written to has room for the cells of a run.
const FILLED: usize = 3;
const FILLED_BYTES: usize = 160 << 20;

pub(super) fn open(directory: &Path) -> Result<impl DurableLog + use<>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_recycle_log_file_num(4);
    options.set_write_buffer_size(1 << 30);
    let db = DB::open(&options, directory.join("rocksdb"))?;
    let value = vec![0; 64 << 10];
    for _ in 0..FILLED {
        for i in 0..FILLED_BYTES / value.len() {
            db.put((i as u64).to_le_bytes(), &value)?;
        }
        // The next log file is one that a flush made obsolete.
        db.flush()?;
    }
    Ok(RocksDb(db))
}

struct Writer<'a> {
    db: &'a DB,
    options: WriteOptions,
    key: [u8; 16],
    count: u64,
}

impl DurableLog for RocksDb {
    fn producer(&self, number: u64) -> Result<Box<dyn Append + '_>> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let mut key = [0; 16];
        if let Some(front) = key.first_chunk_mut() {
            *front = number.to_le_bytes();
        }
        Ok(Box::new(Writer { db: &self.0, options, key, count: 0 }))
    }
}

impl Append for Writer<'_> {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        self.count += 1;
        if let Some(back) = self.key.last_chunk_mut() {
            *back = self.count.swap_bytes().to_le_bytes();
        }
        Ok(self.db.put_opt(self.key, record, &self.options)?)
    }
}

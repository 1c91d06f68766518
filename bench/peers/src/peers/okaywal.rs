//! okaywal: each record an entry of one chunk; `commit` returns when it is synced. Files of 64 MiB instead of its 1 MiB.

use super::{Append, DurableLog};
use anyhow::Result;
use okaywal::{Configuration, LogVoid, WriteAheadLog};
use std::path::Path;

struct Okaywal(WriteAheadLog);

pub(super) fn open(directory: &Path) -> Result<impl DurableLog + use<>> {
    let configuration = Configuration::default_for(directory.join("okaywal"))
        .preallocate_bytes(64 << 20)
        .checkpoint_after_bytes(60 << 20)
        .buffer_bytes(64 << 10);
    Ok(Okaywal(configuration.open(LogVoid)?))
}

impl DurableLog for Okaywal {
    fn producer(&self, _number: u64) -> Result<Box<dyn Append + '_>> {
        Ok(Box::new(self))
    }
}

impl Append for &Okaywal {
    fn append(&mut self, record: &[u8]) -> Result<()> {
        let mut writer = self.0.begin_entry()?;
        writer.write_chunk(record)?;
        writer.commit()?;
        Ok(())
    }
}

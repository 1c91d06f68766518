//! What the disk does by itself, just before a row is measured: others may share it.

use crate::clock;
use anyhow::Result;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 256;
const TIME: Duration = Duration::from_millis(250);

/// A file whose blocks are written again, one after the other, each synced.
pub(crate) struct Disk(File);

impl Disk {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        for block in 0..BLOCKS {
            file.write_all_at(&[0x5a; BLOCK], block * BLOCK as u64)?;
        }
        file.sync_all()?;
        Ok(Self(file))
    }

    /// Milliseconds that one takes, the mean.
    pub(crate) fn sync(&self) -> Result<f64> {
        let (start, mut syncs) = (clock::now(), 0);
        while start.elapsed() < TIME {
            self.0.write_all_at(&[0xa5; BLOCK], syncs % BLOCKS * BLOCK as u64)?;
            self.0.sync_data()?;
            syncs += 1;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3 / syncs as f64)
    }
}

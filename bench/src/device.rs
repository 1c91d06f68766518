//! What the disk itself does: the floor under every durable write.

use crate::producers::Producers;
use anyhow::Result;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Blocks overwritten in turn.
const BLOCKS: u64 = 4096;
const BLOCK_BYTES: usize = 4096;

/// One writer that overwrites a written block and calls `fdatasync`, again and again.
///
/// # Errors
/// The file can't be made.
pub fn syncs(directory: &Path) -> Result<Producers> {
    let path = directory.join("blocks");
    let mut file = File::create(&path)?;
    let block = [7_u8; BLOCK_BYTES];
    for _ in 0..BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(Producers::new(1, move |_, count| {
        for number in 0..count {
            file.write_all_at(&block, number % BLOCKS * BLOCK_BYTES as u64)?;
            file.sync_data()?;
        }
        Ok(())
    }))
}

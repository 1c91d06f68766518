//! A feed of what no cache holds: beside the disk that reads the same files in order.

use crate::engine::{Engine, Measured};
use anyhow::{Context as _, Result};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a cold feed did, and a cold read of its log's files.
#[derive(Debug, Clone, Copy)]
pub struct Cold {
    /// The feed, from the beginning to the end.
    pub feed: Measured,
    /// The files of the log, read one after the other, a megabyte at a time.
    pub files: Measured,
}

/// Writes so many values of so many bytes, closes, takes the log out of the page cache, and follows it from the beginning.
///
/// # Errors
/// A write failed, the feed does not go on, or the system says so.
pub fn measure(place: &Path, records: u64, bytes: usize) -> Result<Cold> {
    let engine = Engine::open(place)?;
    engine.in_flight(4, 256, bytes, records)?;
    engine.close()?;
    let log = place.join("wal");
    chill(&log)?;
    let files = read_in_order(&log)?;
    let engine = Engine::open(place)?;
    // What the opening read is cold again.
    chill(&log)?;
    let feed = engine.feed(records)?;
    engine.close()?;
    Ok(Cold { feed, files })
}

fn paths(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    paths.sort();
    Ok(paths)
}

/// Takes the files of a log out of the page cache.
fn chill(directory: &Path) -> Result<()> {
    for path in paths(directory)? {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn read_in_order(directory: &Path) -> Result<Measured> {
    let mut buffer = vec![0; 1 << 20];
    let (start, mut bytes, mut operations) = (Instant::now(), 0, 0);
    for path in paths(directory)? {
        let mut file = File::open(&path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => (bytes, operations) = (bytes + read as u64, operations + 1),
            }
        }
    }
    Ok(Measured { operations, bytes, took: start.elapsed() })
}

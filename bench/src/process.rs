//! What the operating system says of this process and of a directory: memory, bytes written, bytes on the disk.

use anyhow::{Context as _, Result};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now (`VmRSS`).
    pub resident: u64,
    /// At the most, since the process began or [`Memory::forget_peak`] (`VmHWM`).
    pub peak: u64,
}

impl Memory {
    /// Of now.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn now() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = |name: &str| Ok::<_, anyhow::Error>(field(&status, name)? * 1024);
        Ok(Self { resident: line("VmRSS:")?, peak: line("VmHWM:")? })
    }

    /// From here on the peak is that of what comes.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn forget_peak() -> Result<()> {
        std::fs::write("/proc/self/clear_refs", "5").context("forgetting the peak of the memory")
    }
}

/// Processor time of all threads of this process since it began, in steps of 10 ms.
///
/// # Errors
/// The system does not tell.
pub fn processor_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 14 and 15, in ticks; the second, the name, may hold spaces and ends with the last bracket.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("the times of the process");
    Ok(Duration::from_millis(10 * (ticks()? + ticks()?)))
}

/// Threads of this process.
///
/// # Errors
/// The system does not tell.
pub fn threads() -> Result<u64> {
    field(&std::fs::read_to_string("/proc/self/status")?, "Threads:")
}

/// Bytes that this process caused to be written to devices since it began: what it wrote past the page cache, and pages
/// that it made dirty.
///
/// # Errors
/// The system does not tell.
pub fn written_bytes() -> Result<u64> {
    field(&std::fs::read_to_string("/proc/self/io")?, "write_bytes:")
}

/// The same, once nothing more is written for two seconds; two minutes at the most.
///
/// # Errors
/// As [`written_bytes`].
#[expect(clippy::disallowed_methods, reason = "there is no event for a background that has nothing to do")]
pub fn written_bytes_at_rest() -> Result<u64> {
    /// A housekeeping block is no work.
    const STILL_BYTES: u64 = 256 << 10;
    let start = Instant::now();
    let mut before = written_bytes()?;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = written_bytes()?;
        if now - before < STILL_BYTES || start.elapsed() > Duration::from_secs(120) {
            return Ok(now);
        }
        before = now;
    }
}

/// Bytes that the files below a directory take on the disk.
///
/// # Errors
/// A directory can't be read.
#[cfg(unix)]
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes += disk_bytes(&entry.path())?,
            Ok(found) => bytes += found.blocks() * 512,
            // Its owner removed it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// The number behind a name in one of the system's lists.
fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    let number = line.split_whitespace().next().with_context(|| format!("no number behind {name}"))?;
    Ok(number.parse()?)
}

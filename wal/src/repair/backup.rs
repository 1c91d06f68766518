//! The copy of what a repair gives up: whole files, durable before the log changes, and a text that says how to go back.

use std::fmt;

use bytes::Bytes;

use super::{RepairError, RepairPlan};
use crate::format::manifest::MANIFEST_NAME;
use crate::inspect::good_batch_within;
use crate::io::{Io, IoFailure, read_exact, segment_name, segment_number};
use crate::recovery::survey::Survey;

/// The text that completes a copy: one without it is not complete.
pub const README_NAME: &str = "README.txt";

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A part of a file that the medium did not give: zeroes in the copy.
///
/// ```
/// use towline_wal::repair::{Repair, RepairOptions};
/// use towline_wal::vdisk::VirtualDisk;
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = three();
/// # let seen = towline_wal::inspect::inspect_io(&mut disk).unwrap();
/// # let group = seen.segments[0].groups.iter().filter(|group| !group.batches.is_empty()).nth(1).unwrap();
/// # disk.fail_reads("0000000000000001.seg", group.offset..group.offset + group.bytes, u64::MAX);
/// // `disk` holds a log of three batches. The medium does not give the second one any more.
/// let repair = Repair::begin(&mut disk, RepairOptions::default()).unwrap();
/// let repaired = repair.execute(&mut VirtualDisk::new(), "in an example").unwrap();
/// let [gap] = &repaired.unread[..] else { panic!("{repaired:?}") };
/// assert_eq!((gap.segment, gap.bytes), (1, 4096), "the copy has zeroes for this block, and all the others");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unread {
    /// The file.
    pub file: String,
    /// The segment's number.
    pub segment: u64,
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} could not be read from byte {} on, {} bytes: zeroes in the copy",
            self.file, self.offset, self.bytes
        )
    }
}

/// Makes the copy in an empty directory. What could not be read is zeroes there, but for what could be before.
pub(super) fn make(
    io: &mut dyn Io,
    to: &mut dyn Io,
    plan: &RepairPlan,
    survey: &Survey,
    made: &str,
) -> Result<Vec<Unread>, RepairError> {
    if let Some(name) = to.list().map_err(RepairError::Backup)?.into_iter().next() {
        return Err(RepairError::BackupExists { name });
    }
    // The log may need a segment to say what it gives up, on the same disk most likely.
    let needed = plan.backup_bytes().saturating_add(plan.segment_bytes);
    if let Some(free) = to.free_bytes().map_err(RepairError::Backup)?.filter(|free| *free < needed) {
        return Err(RepairError::NoRoom { needed, free });
    }
    let unread = copy_all(io, to, plan).map_err(RepairError::Backup)?;
    for part in &unread {
        // Without the copy, the repair would give up for good what another attempt may still read.
        let range = part.offset..part.offset.saturating_add(part.bytes);
        if let Some(range) = good_batch_within(survey, io, part.segment, &range) {
            return Err(RepairError::Unread { part: part.clone(), range });
        }
    }
    complete(to, &readme(plan, made, &unread)).map_err(RepairError::Backup)?;
    Ok(unread)
}

fn copy_all(io: &mut dyn Io, to: &mut dyn Io, plan: &RepairPlan) -> Result<Vec<Unread>, IoFailure> {
    // Makes the directory, durably.
    to.lock()?;
    let mut unread = Vec::new();
    for file in &plan.files {
        copy(io, to, &file.name, file.bytes, &mut unread)?;
    }
    Ok(unread)
}

fn complete(to: &mut dyn Io, text: &str) -> Result<(), IoFailure> {
    // The names before the text that says they are there.
    to.sync_dir()?;
    put(to, README_NAME, &mut |to, name| to.write_at(name, 0, &[Bytes::from(text.to_owned())]))?;
    // A directory of files, and no log that could be opened: nobody needs its lock.
    drop(to.remove("LOCK"));
    to.sync_dir()
}

fn copy(io: &mut dyn Io, to: &mut dyn Io, name: &str, bytes: u64, unread: &mut Vec<Unread>) -> Result<(), IoFailure> {
    put(to, name, &mut |to, unready| {
        let mut at = 0;
        while at < bytes {
            let len = usize::try_from(bytes - at).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
            let chunk = read(io, name, at, len, unread)?;
            to.write_at(unready, at, &[Bytes::from(chunk)])?;
            at += u64::try_from(len).unwrap_or(u64::MAX);
        }
        Ok(())
    })
}

/// Reads a part of a file; blocks that the medium can't read, twice, are zeroes.
fn read(io: &mut dyn Io, name: &str, at: u64, len: usize, unread: &mut Vec<Unread>) -> Result<Vec<u8>, IoFailure> {
    let mut chunk = vec![0; len];
    if io.read_at(name, at, &mut chunk).is_ok_and(|read| read == len) {
        return Ok(chunk);
    }
    // A damaged sector is why we are here: its neighbours are copied all the same.
    for (i, block) in (0_u64..).zip(chunk.chunks_mut(4096)) {
        let offset = at + i * 4096;
        match read_exact(io, name, offset, block.len()) {
            Ok(bytes) => block.copy_from_slice(&bytes),
            Err(failure) => {
                // All else that is copied has been read a moment ago.
                let Some(segment) = segment_number(name) else { return Err(failure) };
                block.fill(0);
                note(unread, name, segment, offset, u64::try_from(block.len()).unwrap_or(u64::MAX));
            }
        }
    }
    Ok(chunk)
}

/// One range for blocks beside one another.
fn note(unread: &mut Vec<Unread>, file: &str, segment: u64, offset: u64, bytes: u64) {
    match unread.last_mut().filter(|last| last.segment == segment && last.offset + last.bytes == offset) {
        Some(last) => last.bytes += bytes,
        None => unread.push(Unread { file: file.to_owned(), segment, offset, bytes }),
    }
}

type Fill<'a> = &'a mut dyn FnMut(&mut dyn Io, &str) -> Result<(), IoFailure>;

/// Makes a file that has its name only once it is whole.
fn put(to: &mut dyn Io, name: &str, fill: Fill<'_>) -> Result<(), IoFailure> {
    let unready = format!("{name}.new");
    to.create(&unready)?;
    fill(to, &unready)?;
    // DURABLE: the bytes before the name, in every file of the copy; otherwise a name could stand for a part of what was
    // given up (attacked by `the_copy_is_complete_before_the_log_changes`).
    to.sync_data(&unready)?;
    to.rename(&unready, name)
}

/// How to undo a repair, step by step.
#[must_use]
pub fn restore_steps(plan: &RepairPlan) -> Vec<String> {
    let last = segment_name(plan.segment_last);
    let mut steps = vec![
        "Stop whatever has the log open.".to_owned(),
        format!("In the log's directory, move away every segment with a higher number than {last}."),
        format!("Copy the files of this directory, but for {README_NAME}, over those in the log's directory."),
    ];
    if plan.files.iter().all(|file| file.name != MANIFEST_NAME) {
        steps.push("Remove MANIFEST from the log's directory: there was none.".to_owned());
    }
    steps
}

fn readme(plan: &RepairPlan, made: &str, unread: &[Unread]) -> String {
    let zeroes: String = unread.iter().map(|part| format!("{part}\n")).collect();
    let zeroes = if unread.is_empty() { zeroes } else { format!("\nThis copy has gaps:\n\n{zeroes}") };
    let uuid: String = plan.directory_uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let steps = (1..).zip(restore_steps(plan)).map(|(i, step)| format!("{i}. {step}\n")).collect::<String>();
    format!(
        "A copy of files of a write-ahead log, as they were before a repair.\n\
         \n\
         made       {made}\n\
         directory  {uuid}, last written to by its life {}\n\
         \n\
         What the repair did:\n\
         \n\
         {plan}\n\
         {zeroes}\
         \n\
         Keep this until every log named above has again, from another replica, what it lost.\n\
         \n\
         How to go back, as long as nothing was started on the log since the repair (what was written since would be\n\
         lost with it, promises included):\n\
         \n\
         {steps}",
        plan.life
    )
}

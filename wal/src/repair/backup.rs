//! The copy of what a repair gives up: whole files, durable before the log changes, and a text that says how to go back.

use bytes::Bytes;

use super::{RepairError, RepairPlan};
use crate::io::{Io, IoFailure, segment_name};

/// The text that completes a copy: one without it is not complete.
pub const README_NAME: &str = "README.txt";

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes the copy in an empty directory.
pub(super) fn make(io: &mut dyn Io, to: &mut dyn Io, plan: &RepairPlan, made: &str) -> Result<(), RepairError> {
    if let Some(name) = to.list().map_err(RepairError::Backup)?.into_iter().next() {
        return Err(RepairError::BackupExists { name });
    }
    let text = readme(plan, made);
    // The log may need a segment to say what it gives up, on the same disk most likely.
    let needed = plan.backup_bytes().saturating_add(plan.segment_bytes);
    if let Some(free) = to.free_bytes().map_err(RepairError::Backup)?.filter(|free| *free < needed) {
        return Err(RepairError::NoRoom { needed, free });
    }
    copy_all(io, to, plan, &text).map_err(RepairError::Backup)
}

fn copy_all(io: &mut dyn Io, to: &mut dyn Io, plan: &RepairPlan, text: &str) -> Result<(), IoFailure> {
    // Makes the directory, durably.
    to.lock()?;
    for file in &plan.files {
        copy(io, to, &file.name, file.bytes)?;
    }
    // The names before the text that says they are there.
    to.sync_dir()?;
    put(to, README_NAME, &mut |to, name| to.write_at(name, 0, &[Bytes::from(text.to_owned())]))?;
    // A directory of files, and no log that could be opened: nobody needs its lock.
    drop(to.remove("LOCK"));
    to.sync_dir()
}

fn copy(io: &mut dyn Io, to: &mut dyn Io, name: &str, bytes: u64) -> Result<(), IoFailure> {
    put(to, name, &mut |to, unready| {
        let mut at = 0;
        while at < bytes {
            let len = usize::try_from(bytes - at).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
            let chunk = read(io, name, at, len)?;
            to.write_at(unready, at, &[Bytes::from(chunk)])?;
            at += u64::try_from(len).unwrap_or(u64::MAX);
        }
        Ok(())
    })
}

/// Reads a part of a file; blocks that the medium can't read are zeroes.
fn read(io: &mut dyn Io, name: &str, at: u64, len: usize) -> Result<Vec<u8>, IoFailure> {
    let mut chunk = vec![0; len];
    if io.read_at(name, at, &mut chunk).is_ok_and(|read| read == len) {
        return Ok(chunk);
    }
    // A damaged sector is why we are here: its neighbours are copied all the same.
    for (i, block) in (0_u64..).zip(chunk.chunks_mut(4096)) {
        if io.read_at(name, at + i * 4096, block).is_err() {
            block.fill(0);
        }
    }
    Ok(chunk)
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
    if plan.files.iter().all(|file| file.name != crate::format::manifest::MANIFEST_NAME) {
        steps.push("Remove MANIFEST from the log's directory: there was none.".to_owned());
    }
    steps
}

fn readme(plan: &RepairPlan, made: &str) -> String {
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

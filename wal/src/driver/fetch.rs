//! Batches from the files: one by one, or with one read for many that lie close together.

use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::core::Extent;
use crate::error::ReadError;
use crate::format::batch::Batch;
use crate::io::{Aligned, Io, RealIo, segment_name};
use crate::limits::BLOCK_BYTES;

/// Bytes of one read for many batches, about.
const SPAN_BYTES: u64 = 4 << 20;
/// For less it is not worth it to go past the page cache, where who reads it again soon would find it.
const SPAN_BYTES_MIN: u64 = 1 << 20;
/// Less is read by a call or two anyway.
const READ_AHEAD_BYTES_MIN: u64 = 256 << 10;

/// Memory that is kept from one read to the next.
pub(super) type Kept = Mutex<Option<Aligned>>;

/// Reads planned batches.
pub(super) struct Fetch<'a> {
    io: RealIo,
    kept: &'a Kept,
    memory: Aligned,
    /// What of the segment at hand is in the memory.
    held: Range<u64>,
    /// Before this byte of it, batches are read one by one: together they could not be.
    singly: u64,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(io: RealIo, kept: &'a Kept) -> Self {
        let memory = kept.lock().take().unwrap_or_default();
        Self { io, kept, memory, held: 0..0, singly: 0 }
    }

    /// The batches, those from memory that were there, up to the first that can't be read.
    ///
    /// # Errors
    /// Why the first of all can't be read.
    pub(super) fn run(
        &mut self,
        plan: &[Extent],
        cached: Vec<Option<Batch>>,
    ) -> Result<Vec<Batch>, Box<(Extent, ReadError)>> {
        #[cfg(feature = "tracing")]
        let _span = tracing::trace_span!("log_read", batches = plan.len()).entered();
        let mut batches = Vec::with_capacity(plan.len());
        let wanted: Vec<(&Extent, Option<Batch>)> = plan.iter().zip(cached).collect();
        for run in wanted.chunk_by(|(a, here), (b, there)| a.segment == b.segment && here.is_some() == there.is_some())
        {
            let dense = self.prepare(run);
            for (i, (extent, here)) in run.iter().enumerate() {
                if dense && !self.holds(extent) && extent.offset >= self.singly {
                    self.fill(run.get(i..).unwrap_or_default());
                }
                let batch = here.clone().or_else(|| self.held_batch(extent));
                match batch.map_or_else(|| extent.read(&mut self.io), Ok) {
                    Ok(batch) => batches.push(batch),
                    // What was read before the damage is good.
                    Err(_) if !batches.is_empty() => return Ok(batches),
                    Err(error) => return Err(Box::new((**extent, error))),
                }
            }
        }
        Ok(batches)
    }

    /// Whether batches one behind the other are to be read many at a time. If not, but they are many bytes, has the device begin
    /// with all of them.
    fn prepare(&mut self, run: &[(&Extent, Option<Batch>)]) -> bool {
        (self.held, self.singly) = (0..0, 0);
        let Some(((first, None), (last, _))) = run.first().zip(run.last()) else { return false };
        let range = first.offset..end(last);
        let span = range.end.saturating_sub(range.start);
        let bytes: u64 = run.iter().map(|(extent, _)| u64::from(extent.len)).sum();
        let dense = span >= SPAN_BYTES_MIN && bytes >= span / 2 && run.len() > 1;
        if !dense && span >= READ_AHEAD_BYTES_MIN {
            self.io.will_read(&segment_name(first.segment), range);
        }
        dense
    }

    fn holds(&self, extent: &Extent) -> bool {
        self.held.start <= extent.offset && end(extent) <= self.held.end
    }

    /// Reads as many of the first batches as make a span. If that does not work they are read one by one, and so is one that is
    /// more than a span by itself, with the device told of all of it.
    fn fill(&mut self, run: &[(&Extent, Option<Batch>)]) {
        self.held = 0..0;
        let Some((first, _)) = run.first() else { return };
        let name = segment_name(first.segment);
        let start = first.offset / BLOCK_BYTES * BLOCK_BYTES;
        let ends = run.iter().map(|(extent, _)| end(extent));
        let Some(end) = ends.take_while(|end| end.saturating_sub(start) <= SPAN_BYTES).last() else {
            self.io.will_read(&name, start..end(first));
            self.singly = end(first);
            return;
        };
        let whole = end.next_multiple_of(BLOCK_BYTES).saturating_sub(start);
        let room = self.memory.room(usize::try_from(whole).unwrap_or(0));
        // What goes wrong is found by who reads a batch by itself.
        let read = self.io.read_once(&name, start, room).unwrap_or(0);
        self.held = start..start.saturating_add(u64::try_from(read).unwrap_or(0));
        if self.held.end < end {
            self.singly = end;
        }
    }

    /// The batch, if it is in the memory and good. It has memory of its own: who keeps it does not keep others.
    fn held_batch(&self, extent: &Extent) -> Option<Batch> {
        let start = usize::try_from(extent.offset.checked_sub(self.held.start)?).ok()?;
        let bytes = self.memory.as_ref().get(start..start.checked_add(extent.bytes_len())?)?;
        if !self.holds(extent) {
            return None;
        }
        extent.verify(Bytes::copy_from_slice(bytes))
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        let mut kept = self.kept.lock();
        if kept.as_ref().is_none_or(|kept| kept.as_ref().len() < self.memory.as_ref().len()) {
            *kept = Some(std::mem::take(&mut self.memory));
        }
    }
}

fn end(extent: &Extent) -> u64 {
    extent.offset.saturating_add(u64::from(extent.len))
}

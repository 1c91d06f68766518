//! Writes past the page cache: from memory aligned as devices read it by themselves. A group is copied once either way; the
//! page cache's copy is followed by its bookkeeping, which `fdatasync` then waits for page by page (docs/src/measurements.md).

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::aligned::{ALIGNMENT, Aligned};
use crate::limits::BLOCK_BYTES;

/// What opens a file past the page cache, where there is such a thing.
#[cfg(target_os = "linux")]
pub(super) const DIRECT: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
pub(super) const DIRECT: OFlags = OFlags::empty();

/// Bytes written by one call, about, and less than twice that: the device waits for the copy of the first piece, and each call
/// costs (docs/src/measurements.md).
const PIECE_BYTES: usize = 512 << 10;

/// Writes of fewer bytes are copied and written by who asks: waking somebody takes longer than it saves.
const HELPED_BYTES_MIN: usize = 2 * PIECE_BYTES;

/// Whether the device can write the file's bytes from the place on into this memory by itself.
pub(super) fn is_aligned(offset: u64, memory: &[u8]) -> bool {
    !memory.is_empty()
        && memory.len().is_multiple_of(ALIGNMENT)
        && memory.as_ptr().align_offset(ALIGNMENT) == 0
        && offset.is_multiple_of(BLOCK_BYTES)
}

/// Writes from memory of its own, and large writes with a helper: one copies while what the other has copied goes to the
/// device. A clone has its own of both.
#[derive(Debug, Default)]
pub(super) struct Stage {
    room: Room,
    helper: Option<Helper>,
}

impl Clone for Stage {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Stage {
    /// Whether a write can go past the page cache.
    pub(super) fn suits(offset: u64, slices: &[Bytes]) -> bool {
        let len: usize = slices.iter().map(Bytes::len).sum();
        len > 0 && len.is_multiple_of(ALIGNMENT) && offset.is_multiple_of(BLOCK_BYTES)
    }

    /// Writes the slices one behind another to a file that was opened with [`DIRECT`], of which they [suit](Self::suits) the
    /// demands. Nothing is being written any more when this returns.
    pub(super) fn write(&mut self, file: &Arc<File>, offset: u64, slices: &[Bytes]) -> Result<(), Errno> {
        let len: usize = slices.iter().map(Bytes::len).sum();
        if len >= HELPED_BYTES_MIN && self.helper.is_none() {
            // Without a helper it only takes longer.
            self.helper = Helper::start().ok();
        }
        let Some(helper) = self.helper.as_ref().filter(|_| len >= HELPED_BYTES_MIN) else {
            return self.room.write(file, offset, slices, pieces(len, 0, 1));
        };
        helper.begin(Task { file: Arc::clone(file), offset, slices: slices.to_vec(), len })?;
        let own = self.room.write(file, offset, slices, pieces(len, 0, 2));
        helper.end().and(own)
    }
}

/// Where the pieces of a write of `len` bytes lie: of one size, but for the last, an even number of them if there are several,
/// and of these every `step`th from the one numbered `first` on.
fn pieces(len: usize, first: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    let count = if len < HELPED_BYTES_MIN { 1 } else { len / HELPED_BYTES_MIN * 2 };
    let bytes = len.div_ceil(count).next_multiple_of(ALIGNMENT);
    (first * bytes..len).step_by(step * bytes).map(move |start| start..len.min(start + bytes))
}

/// What a helper does every second piece of.
struct Task {
    file: Arc<File>,
    offset: u64,
    slices: Vec<Bytes>,
    len: usize,
}

/// A thread that writes every second piece, for as long as this lives.
#[derive(Debug)]
struct Helper {
    /// `None`: it is to end.
    tasks: Option<Sender<Task>>,
    results: Receiver<Result<(), Errno>>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    fn start() -> std::io::Result<Self> {
        let (tasks, to_do) = unbounded::<Task>();
        let (done, results) = unbounded();
        let help = move || {
            let mut room = Room::default();
            for Task { file, offset, slices, len } in to_do {
                let result = room.write(&file, offset, &slices, pieces(len, 1, 2));
                // Before it is told: who hears of the end of the write may count on the memory being free.
                drop((file, slices));
                if done.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("wal-write-help".to_owned()).spawn(help)?;
        Ok(Self { tasks: Some(tasks), results, thread: Some(thread) })
    }

    fn begin(&self, task: Task) -> Result<(), Errno> {
        self.tasks.as_ref().and_then(|tasks| tasks.send(task).ok()).ok_or(Errno::IO)
    }

    /// Waits for what was begun.
    fn end(&self) -> Result<(), Errno> {
        self.results.recv().unwrap_or(Err(Errno::IO))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.tasks.take());
        // A panic in it was printed by the panic hook, and failed its write.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// Memory from which a thread writes.
#[derive(Debug, Default)]
struct Room {
    memory: Aligned,
}

impl Room {
    /// Writes those pieces of what the slices hold one behind another.
    fn write(
        &mut self,
        file: &File,
        offset: u64,
        slices: &[Bytes],
        pieces: impl Iterator<Item = Range<usize>>,
    ) -> Result<(), Errno> {
        for piece in pieces {
            let room = self.memory.room(piece.len());
            copy(slices, piece.start, room);
            let mut done = 0;
            while let Some(rest) = room.get(done..).filter(|rest| !rest.is_empty()) {
                let to = offset.saturating_add(u64::try_from(piece.start + done).unwrap_or(u64::MAX));
                match rustix::io::pwrite(file, rest, to) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(written) => done += written,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Fills the room from the place `start` on of what the slices hold one behind another.
fn copy(slices: &[Bytes], start: usize, room: &mut [u8]) {
    let (mut skip, mut room) = (start, room);
    for slice in slices {
        let from = slice.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(slice.len());
        let n = from.len().min(room.len());
        let (now, later) = room.split_at_mut(n);
        now.copy_from_slice(from.get(..n).unwrap_or_default());
        room = later;
        if room.is_empty() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Slices of many lengths, and what they hold one behind another.
    fn content(len: usize) -> (Vec<u8>, Vec<Bytes>) {
        let bytes: Vec<u8> = (0..len).map(|i| u8::try_from((i / 7 + i / 4096) % 251).unwrap()).collect();
        let cuts = [0, 1, 4095, 4096, 5000, 5000, 70_000, PIECE_BYTES + 7, 3 * PIECE_BYTES, len];
        let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= len).chain([len]).collect();
        let slices = cuts.windows(2).map(|w| Bytes::copy_from_slice(&bytes[w[0]..w[1]])).collect();
        (bytes, slices)
    }

    #[test]
    fn slices_of_any_length_arrive_in_order() {
        let mut stage = Stage::default();
        let some = [ALIGNMENT, PIECE_BYTES, HELPED_BYTES_MIN - ALIGNMENT];
        let many = [0, 1, 2, 3, 127, 128, 129].map(|blocks| HELPED_BYTES_MIN + blocks * ALIGNMENT);
        let large = [4 * PIECE_BYTES - ALIGNMENT, 4 * PIECE_BYTES, 9 * PIECE_BYTES + ALIGNMENT];
        for len in some.into_iter().chain(many).chain(large) {
            let mut file = tempfile::tempfile().unwrap();
            let (bytes, slices) = content(len);
            assert!(Stage::suits(0, &slices) && !Stage::suits(512, &slices));
            stage.write(&Arc::new(file.try_clone().unwrap()), 8192, &slices).unwrap();
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert!(found.len() == 8192 + len && found[8192..] == bytes, "{len} bytes");
            assert!(slices.iter().all(|slice| slice.is_empty() || slice.is_unique()), "nothing is held on to");
        }
    }

    #[test]
    fn pieces_are_whole_blocks_and_both_sides_have_as_many() {
        for blocks in 1..3000 {
            let len = blocks * ALIGNMENT;
            let all: Vec<Range<usize>> = pieces(len, 0, 1).collect();
            assert_eq!(all.first().unwrap().start, 0);
            assert_eq!(all.last().unwrap().end, len);
            assert!(all.windows(2).all(|w| w[0].end == w[1].start && w[0].len() >= w[1].len()));
            assert!(all.iter().all(|piece| piece.len().is_multiple_of(ALIGNMENT)));
            assert!(all.iter().all(|piece| piece.len() <= HELPED_BYTES_MIN));
            let (own, helped) = (pieces(len, 0, 2).count(), pieces(len, 1, 2).count());
            assert_eq!(own + helped, all.len());
            assert!(all.len() == 1 || own == helped, "{len} bytes");
        }
    }

    #[test]
    fn what_either_side_is_refused_fails_the_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = Arc::new(File::open(file.path()).unwrap());
        let (_, slices) = content(4 * PIECE_BYTES);
        let mut stage = Stage::default();
        assert_eq!(stage.write(&read_only, 0, &slices), Err(Errno::BADF));
        assert!(slices.iter().all(|slice| slice.is_empty() || slice.is_unique()), "nothing is being written any more");
        // Only the helper's pieces lie beyond the largest offset that there is.
        let writable = Arc::new(File::options().write(true).open(file.path()).unwrap());
        let offset = u64::try_from(i64::MAX).unwrap() / 4096 * 4096 - u64::try_from(PIECE_BYTES).unwrap();
        let (_, slices) = content(HELPED_BYTES_MIN);
        stage.write(&writable, offset, &slices).unwrap_err();
        let (bytes, slices) = content(HELPED_BYTES_MIN);
        stage.write(&writable, 0, &slices).unwrap();
        assert!(std::fs::read(file.path()).unwrap() == bytes, "an error is not left for the next write");
    }
}

//! A file that a thread of its own reads while another one is looked at.

use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

use super::aligned::Aligned;
use super::{Io, RealIo};

/// Bytes of one read.
const STEP_BYTES: usize = 1 << 20;

/// The file that is being read, and memory for the next. A clone has its own of both.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    coming: Option<Coming>,
    home: Home,
}

#[derive(Debug)]
struct Coming {
    name: String,
    /// `None`: not to be read, or not all of it. Who reads it otherwise is told why.
    thread: JoinHandle<Option<Bytes>>,
}

/// Where memory goes when it has been looked at.
type Home = Arc<Mutex<Option<Aligned>>>;

impl Clone for Ahead {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Ahead {
    /// Begins to read the first `len` bytes of a file.
    pub(super) fn begin(&mut self, mut io: RealIo, name: &str, len: usize) {
        self.cancel();
        let (file, home) = (name.to_owned(), Arc::clone(&self.home));
        let run = move || {
            let kept = home.lock().take();
            let mut read = Read { memory: kept.unwrap_or_default(), home };
            for (i, step) in read.memory.room(len).chunks_mut(STEP_BYTES).enumerate() {
                let at = u64::try_from(i.saturating_mul(STEP_BYTES)).ok()?;
                io.read_once(&file, at, step).ok().filter(|read| *read == step.len())?;
            }
            Some(Bytes::from_owner(read))
        };
        // Without a thread it is read when it is asked for.
        let thread = std::thread::Builder::new().name("wal-read-ahead".to_owned()).spawn(run);
        self.coming = thread.ok().map(|thread| Coming { name: name.to_owned(), thread });
    }

    /// What was read, if it was all of that, once.
    pub(super) fn take(&mut self, name: &str, len: usize) -> Option<Bytes> {
        let coming = self.coming.take_if(|coming| coming.name == name)?;
        coming.thread.join().ok().flatten().filter(|bytes| bytes.len() == len)
    }

    /// Waits for what was begun, and forgets it.
    pub(super) fn cancel(&mut self) {
        drop(self.coming.take().map(|coming| coming.thread.join()));
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Memory that goes home when nobody looks at it any more.
#[derive(Debug)]
struct Read {
    memory: Aligned,
    home: Home,
}

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref()
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        *self.home.lock() = Some(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_is_what_is_there_and_its_memory_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let io = RealIo::new(dir.path());
        let content =
            |seed: usize| -> Vec<u8> { (0..3 * STEP_BYTES + 8192).map(|i| ((i + seed) % 251) as u8).collect() };
        let mut ahead = Ahead::default();
        let mut places = Vec::new();
        for seed in 1..4 {
            let name = format!("{seed}.seg");
            std::fs::write(dir.path().join(&name), content(seed)).unwrap();
            ahead.begin(io.clone(), &name, content(seed).len());
            assert!(ahead.take("other.seg", 1).is_none(), "another file does not end it");
            let bytes = ahead.take(&name, content(seed).len()).unwrap();
            assert!(bytes == content(seed), "file {seed}");
            assert!(ahead.take(&name, content(seed).len()).is_none(), "it is read again after that");
            places.push(bytes.as_ptr());
        }
        assert_eq!(places[0], places[1]);
        assert_eq!(places[1], places[2]);
    }

    #[test]
    fn what_is_not_all_there_is_not_read_ahead() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.seg"), vec![7; 5000]).unwrap();
        let io = RealIo::new(dir.path());
        let mut ahead = Ahead::default();
        ahead.begin(io.clone(), "1.seg", 5000);
        assert_eq!(ahead.take("1.seg", 5000).unwrap(), vec![7; 5000]);
        ahead.begin(io.clone(), "1.seg", 8192);
        assert!(ahead.take("1.seg", 8192).is_none());
        ahead.begin(io.clone(), "1.seg", 4096);
        assert!(ahead.take("1.seg", 5000).is_none(), "it has grown");
        ahead.begin(io, "2.seg", 4096);
        assert!(ahead.take("2.seg", 4096).is_none());
    }
}

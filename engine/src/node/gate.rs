//! The state, as long as the node is open: handles outlive the node, its files must not.

use crate::state::RocksStore;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Lets readers at the state until it is closed; then it waits for those that are inside.
#[derive(Debug)]
pub(super) struct Gate {
    store: RwLock<Option<Arc<RocksStore>>>,
    /// Nobody comes in any more; the last who leaves takes the store away, if who closed it did not wait so long.
    is_closed: AtomicBool,
}

impl Gate {
    pub(super) const fn new(store: Arc<RocksStore>) -> Self {
        Self { store: RwLock::new(Some(store)), is_closed: AtomicBool::new(false) }
    }

    /// What `read` makes of the state; none if it is closed.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Arc<RocksStore>) -> T) -> Option<T> {
        if self.is_closed.load(Ordering::SeqCst) {
            return None;
        }
        // Goes behind the lock, also if `read` panics: the files must not stay held.
        let _leaving = Leaving(self);
        // Recursive: a reader that reads within its own read must not wait for one who wants to close.
        let store = self.store.read_recursive();
        store.as_ref().map(read)
    }

    /// Takes the state away, once nobody reads it any more; false if somebody still does at the deadline: then it goes when
    /// that ends.
    pub(super) fn close(&self, deadline: Instant) -> bool {
        self.is_closed.store(true, Ordering::SeqCst);
        match self.store.try_write_until(deadline) {
            Some(mut store) => {
                drop(store.take());
                true
            }
            // Once more: the last who left may have found this one waiting.
            None => self.store.try_write().is_some_and(|mut store| {
                drop(store.take());
                true
            }),
        }
    }
}

/// One who read, and may be the last.
struct Leaving<'a>(&'a Gate);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.0.is_closed.load(Ordering::SeqCst)
            && let Some(mut store) = self.0.store.try_write()
        {
            drop(store.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn who_is_inside_keeps_the_state_nobody_else_comes_in_and_the_last_one_closes_the_files() {
        last_one_inside(|| {});
    }

    #[test]
    fn the_last_one_closes_the_files_also_if_it_panics() {
        last_one_inside(|| std::panic::panic_any("of a program's own"));
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads clocks")]
    fn last_one_inside(end: fn()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let gate = Arc::new(Gate::new(Arc::new(RocksStore::open(&path).unwrap())));
        let ((told, inside), (leave, wait)) = (channel(), channel::<()>());
        let reader = Arc::clone(&gate);
        let reading = std::thread::Builder::new().spawn(move || {
            reader.with(|_| {
                told.send(()).unwrap();
                wait.recv().unwrap();
                let came_in_again = reader.with(|_| ()).is_some();
                end();
                came_in_again
            })
        });
        inside.recv().unwrap();
        assert!(!gate.close(Instant::now()), "somebody reads");
        assert!(gate.with(|_| ()).is_none(), "nobody else comes in");
        assert!(RocksStore::open(&path).is_err(), "its files are held");
        leave.send(()).unwrap();
        // None: it panicked.
        assert!(matches!(reading.unwrap().join().ok(), None | Some(Some(false))));
        RocksStore::open(&path).unwrap();
    }
}

//! What all shards of a node together may have on its way to the log.
//!
//! The log's queue is one, and has a bound; a replica's decision can't be taken back, and its thread must not wait. So a shard looks here
//! before it takes a step that may write much: the bound leaves room for the largest step of each thread that may take one at
//! this moment.

use crate::model::limits::UNDURABLE_BYTES_MAX;
use crate::pipeline::Bell;
use crate::pipeline::sync::{AtomicUsize, Mutex, Ordering};
use std::sync::Arc;

/// Bytes given to the log and not yet durable.
///
/// Who finds no room leaves its bell *before* it looks once more, and who gives room back looks for bells *after* that, both in
/// one order of all (SeqCst): so either the one finds room, or the other finds the bell.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    held: AtomicUsize,
    waiting: AtomicUsize,
    bells: Mutex<Vec<Arc<Bell>>>,
}

impl LogBudget {
    /// Whether there is room for a step; otherwise this bell is rung when there is.
    pub(super) fn has_room(&self, bell: &Arc<Bell>) -> bool {
        if self.is_free() {
            return true;
        }
        {
            let mut bells = self.bells.lock();
            if !bells.iter().any(|other| Arc::ptr_eq(other, bell)) {
                bells.push(Arc::clone(bell));
                self.waiting.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.is_free()
    }

    /// So many bytes are on their way, until what is returned is dropped: by the log, when it is done with them.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Taken {
        self.held.fetch_add(bytes, Ordering::SeqCst);
        Taken { budget: Arc::clone(self), bytes }
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 && self.is_free() {
            let bells = std::mem::take(&mut *self.bells.lock());
            self.waiting.fetch_sub(bells.len(), Ordering::SeqCst);
            bells.iter().for_each(|bell| bell.ring());
        }
    }

    fn is_free(&self) -> bool {
        self.held.load(Ordering::SeqCst) <= UNDURABLE_BYTES_MAX
    }
}

/// Bytes on their way to the log.
#[derive(Debug)]
pub(super) struct Taken {
    budget: Arc<LogBudget>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::model::ShardId;
    use crate::pipeline::Ready;

    #[test]
    fn who_finds_no_room_is_called_when_there_is_and_only_then() {
        let (ready, budget) = (Ready::new(), Arc::<LogBudget>::default());
        let bells = [1, 2].map(|shard| ready.bell(ShardId::new(shard)));
        assert!(budget.has_room(&bells[0]));
        let (most, few, rest) = (budget.take(UNDURABLE_BYTES_MAX), budget.take(5), budget.take(5));
        assert!(!budget.has_room(&bells[0]) && !budget.has_room(&bells[1]) && !budget.has_room(&bells[0]));
        drop(few);
        assert_eq!(ready.next(), None);
        drop(rest);
        assert_eq!([ready.next(), ready.next(), ready.next()], [Some(ShardId::new(1)), Some(ShardId::new(2)), None]);
        assert!(budget.has_room(&bells[1]));
        drop(most);
    }
}

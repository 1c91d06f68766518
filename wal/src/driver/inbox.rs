//! Where callers that wait leave their batches: handing one over takes a lock for a push, never the lock under which the log
//! works. Whoever holds that one next takes in all that lie here.
//!
//! With one lock for all, 64 blocking callers spun on it, and yielded to each other, while the writer built a group.

use std::mem;
use std::sync::Arc;

use super::pending::{Event, Pending};
use super::sync::Mutex;
use crate::core::Options;
use crate::error::{SubmitError, WalError};
use crate::format::batch::Batch;

/// A batch that nobody has looked at yet, and whom to tell.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) batch: Batch,
    pub(super) teller: Teller,
}

/// Whom to tell of a batch that was left. Who shares its event must not hear 'durable' if this is dropped on the way, in a
/// panic: then they are in doubt.
#[derive(Debug)]
pub(super) struct Teller {
    event: Arc<Event>,
    /// Its number among those of the event: a refusal concerns one of them.
    place: u32,
    is_done: bool,
}

impl Teller {
    /// The batch was refused.
    pub(super) fn refuse(mut self, error: SubmitError) {
        self.is_done = true;
        self.event.refuse(self.place, error);
    }

    /// The batch was accepted: the event stands for it.
    pub(super) fn accepted(mut self) -> Arc<Event> {
        self.is_done = true;
        Arc::clone(&self.event)
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if !self.is_done {
            self.event.doubt(WalError::Closed);
        }
    }
}

#[derive(Debug)]
pub(super) struct Inbox {
    inside: Mutex<Inside>,
    /// Bytes of batches that share an event at the most: those of a group, or the first of them would wait for the groups of
    /// the others.
    event_bytes_max: usize,
    /// Bytes of batches that lie here at the most.
    queue_bytes_max: usize,
    /// Events that nobody joins any more and that were not taken: those for all that the log accepts while nothing becomes
    /// durable, and some for what it refuses.
    past_max: usize,
}

#[derive(Debug)]
struct Inside {
    left: Vec<Left>,
    /// Bytes of their batches.
    left_bytes: usize,
    /// What those who come now wait for; it has a part for this place until nobody joins it any more.
    event: Arc<Event>,
    /// How many wait for it, and bytes of their batches.
    count: u32,
    bytes: usize,
    /// Those before it that nobody joins any more.
    past: Vec<Arc<Event>>,
    is_closed: bool,
}

impl Inside {
    /// Who comes now waits for another event.
    fn next_event(&mut self) {
        if self.count > 0 {
            (self.count, self.bytes) = (0, 0);
            self.past.push(mem::replace(&mut self.event, Arc::new(Event::new())));
        }
    }
}

impl Inbox {
    pub(super) fn new(options: &Options) -> Self {
        let (event_bytes_max, queue_bytes_max) = (options.group_bytes_max, options.queue_bytes_max);
        let inside = Inside {
            left: Vec::new(),
            left_bytes: 0,
            event: Arc::new(Event::new()),
            count: 0,
            bytes: 0,
            past: Vec::new(),
            is_closed: false,
        };
        let past_max = 4 * (queue_bytes_max / event_bytes_max.max(1) + 1);
        Self { inside: Mutex::new(inside), event_bytes_max, queue_bytes_max, past_max }
    }

    pub(super) fn leave(&self, batch: Batch) -> Result<Pending, SubmitError> {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return Err(SubmitError::Closed);
        }
        let bytes = batch.bytes().len();
        let left_bytes = inside.left_bytes.saturating_add(bytes);
        let is_full = inside.left_bytes > 0 && left_bytes > self.queue_bytes_max;
        if is_full || inside.past.len() >= self.past_max {
            return Err(SubmitError::Busy { queue_bytes_max: self.queue_bytes_max });
        }
        inside.left_bytes = left_bytes;
        if inside.bytes.saturating_add(bytes) > self.event_bytes_max {
            inside.next_event();
        }
        inside.bytes = inside.bytes.saturating_add(bytes);
        let place = inside.count;
        inside.count += 1;
        let event = Arc::clone(&inside.event);
        let teller = Teller { event: Arc::clone(&event), place, is_done: false };
        inside.left.push(Left { batch, teller });
        Ok(Pending::left(event, place))
    }

    /// Takes what lies here into an empty buffer, if it is no more than so many bytes; others may join who waits for the same
    /// event. `false`: it stays, which makes the next ones wait or hear that the log is busy.
    pub(super) fn take(&self, into: &mut Vec<Left>, bytes_max: usize) -> bool {
        let mut inside = self.inside.lock();
        if inside.left_bytes > bytes_max {
            return false;
        }
        inside.left_bytes = 0;
        mem::swap(&mut inside.left, into);
        true
    }

    /// Takes what lies here into empty buffers, if it is no more than so many bytes, before a group is built: who comes now
    /// waits for a later one. Also the events that nobody joins any more, each with a part to be ended when what lay here was
    /// accepted or refused.
    pub(super) fn take_all(&self, into: &mut Vec<Left>, events: &mut Vec<Arc<Event>>, bytes_max: usize) {
        let mut inside = self.inside.lock();
        if inside.left_bytes > bytes_max {
            return;
        }
        inside.next_event();
        inside.left_bytes = 0;
        mem::swap(&mut inside.left, into);
        mem::swap(&mut inside.past, events);
    }

    /// What all wait for whose batches were left until now, and not in vain: a refusal is its caller's.
    pub(super) fn under_way(&self) -> Vec<Pending> {
        let inside = self.inside.lock();
        let current = (inside.count > 0).then_some(&inside.event);
        inside.past.iter().chain(current).map(|event| Pending::of_all(Arc::clone(event))).collect()
    }

    /// Nothing can be left here any more.
    pub(super) fn close(&self) {
        self.inside.lock().is_closed = true;
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use super::*;
    use crate::format::batch::{BatchBuilder, BatchKind};
    use crate::format::ids::{Epoch, LogId, LogPosition};

    fn batch(bytes: usize) -> Batch {
        let start = LogPosition::origin(LogId::new(1));
        BatchBuilder::new(LogId::new(1), BatchKind::Data, Epoch::new(1, 1), start, 0)
            .seal_raw(&vec![1; bytes], 1)
            .unwrap()
    }

    #[test]
    fn what_lies_there_is_bounded_until_it_is_taken_and_one_batch_always_fits() {
        let options = Options { queue_bytes_max: 3000, ..Options::default() };
        let inbox = Inbox::new(&options);
        let (mut left, mut events) = (Vec::new(), Vec::new());
        for round in 0..3 {
            let pending = [inbox.leave(batch(1000)).unwrap(), inbox.leave(batch(1000)).unwrap()];
            assert_eq!(inbox.leave(batch(1000)).unwrap_err(), SubmitError::Busy { queue_bytes_max: 3000 });
            if round == 1 {
                inbox.take_all(&mut left, &mut events, usize::MAX);
            } else {
                assert!(!inbox.take(&mut left, 2000) && left.is_empty(), "where there is no room it stays");
                assert!(inbox.take(&mut left, 3000));
            }
            assert_eq!(left.len(), pending.len());
            left.clear();
        }
        assert!(inbox.leave(batch(9000)).is_ok());
        inbox.close();
        assert_eq!(inbox.leave(batch(1)).unwrap_err(), SubmitError::Closed);
    }
}

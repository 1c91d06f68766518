//! Where callers that wait leave their batches: handing one over takes a lock for a push, never the lock under which the log
//! works. Whoever holds that one next takes in all that lie here.
//!
//! With one lock for all, 64 blocking callers spun on it, and yielded to each other, while the writer built a group
//! (`docs/src/measurements.md`).

use std::mem;
use std::sync::Arc;

use super::pending::{Event, Pending};
use super::sync::Mutex;
use crate::core::Options;
use crate::error::SubmitError;
use crate::format::batch::Batch;

/// A batch that nobody has looked at yet, and whom to tell.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) batch: Batch,
    pub(super) event: Arc<Event>,
    /// Its number among those of the event: a refusal concerns one of them.
    pub(super) place: u32,
}

#[derive(Debug)]
pub(super) struct Inbox {
    inside: Mutex<Inside>,
    /// Bytes of batches that share an event at the most: those of a group, or the first of them would wait for the groups of
    /// the others.
    event_bytes_max: usize,
    /// Bytes of batches that lie here at the most.
    queue_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inside {
    left: Vec<Left>,
    /// Bytes of their batches.
    left_bytes: usize,
    /// What those who come now wait for.
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
            self.past.push(mem::take(&mut self.event));
        }
    }
}

impl Inbox {
    pub(super) fn new(options: &Options) -> Self {
        let (event_bytes_max, queue_bytes_max) = (options.group_bytes_max, options.queue_bytes_max);
        Self { inside: Mutex::new(Inside::default()), event_bytes_max, queue_bytes_max }
    }

    pub(super) fn leave(&self, batch: Batch) -> Result<Pending, SubmitError> {
        let mut inside = self.inside.lock();
        if inside.is_closed {
            return Err(SubmitError::Closed);
        }
        let bytes = batch.bytes().len();
        let left_bytes = inside.left_bytes.saturating_add(bytes);
        if inside.left_bytes > 0 && left_bytes > self.queue_bytes_max {
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
        inside.left.push(Left { batch, event: Arc::clone(&event), place });
        Ok(Pending::left(event, place))
    }

    /// Takes what lies here into an empty buffer; others may join who waits for the same event.
    pub(super) fn take(&self, into: &mut Vec<Left>) {
        let mut inside = self.inside.lock();
        inside.left_bytes = 0;
        mem::swap(&mut inside.left, into);
    }

    /// Takes what lies here into empty buffers, before a group is built: who comes now waits for a later one. Also the events
    /// that nobody joins any more.
    pub(super) fn take_all(&self, into: &mut Vec<Left>, events: &mut Vec<Arc<Event>>) {
        let mut inside = self.inside.lock();
        inside.next_event();
        inside.left_bytes = 0;
        mem::swap(&mut inside.left, into);
        mem::swap(&mut inside.past, events);
    }

    /// Nothing can be left here any more.
    pub(super) fn close(&self) {
        self.inside.lock().is_closed = true;
    }
}

//! The way to a shard: events, in order, and a ring.
//!
//! A node has thousands of shards, and most of them hear nothing for long: what waits for one lies in a list that has room for a
//! few then (a channel's piece is of 31).

use super::completion::Completion;
use super::shard::Event;
use super::stages::Arrived;
use crate::pipeline::{Bell, SubmissionQueue};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Events for which room is kept, where there were more for once.
const ROOM_KEPT: usize = 32;

/// Where whoever has something for a shard leaves it.
#[derive(Clone)]
pub(super) struct Inbox {
    events: Arc<Mutex<List>>,
    pub(super) queue: Arc<SubmissionQueue<Arrived<Completion>>>,
    pub(super) bell: Arc<Bell>,
}

/// The other end, which the shard has. When it is dropped nobody hears any more.
pub(super) struct Events(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    events: VecDeque<Event>,
    has_ended: bool,
}

impl Inbox {
    /// Both ends, for a shard with this queue and bell.
    pub(super) fn new(queue: Arc<SubmissionQueue<Arrived<Completion>>>, bell: Arc<Bell>) -> (Self, Events) {
        let events = Arc::<Mutex<List>>::default();
        (Self { events: Arc::clone(&events), queue, bell }, Events(events))
    }

    /// Delivers an event. When the shard has ended there is nobody to hear it, and nothing is lost by that: whoever
    /// waited was told when it ended.
    pub(super) fn send(&self, event: Event) {
        self.deliver(event);
    }

    /// The same: whether the shard is there to hear it.
    pub(super) fn deliver(&self, event: Event) -> bool {
        let mut list = self.events.lock();
        if list.has_ended {
            // Who waits for an answer to it hears by its drop, which is not done under the lock.
            drop(list);
            return false;
        }
        list.events.push_back(event);
        drop(list);
        self.bell.ring();
        true
    }
}

impl Events {
    /// The next one, if there is one.
    pub(super) fn next(&self) -> Option<Event> {
        let mut list = self.0.lock();
        let event = list.events.pop_front();
        if event.is_none() && list.events.capacity() > ROOM_KEPT {
            list.events.shrink_to(ROOM_KEPT);
        }
        event
    }

    /// Whether none is there.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().events.is_empty()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut list = self.0.lock();
        list.has_ended = true;
        let left = std::mem::take(&mut list.events);
        drop(list);
        // As above.
        drop(left);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

//! What waits for one peer while the send buffer of its connection, which all shards share, is full.
//!
//! A shard alone sends no more than its window. Many together can send more than the connection takes at a time: a follower that was
//! away lacks something in each of them. So what finds no room waits here, in order, until the connection says that there is some; and
//! what would be read from the log for that peer is not read before. Batches are shared with what the leader keeps anyway. Only who
//! reads nothing at all, and so makes this too long, is disconnected.

use crate::model::limits::PEER_BACKLOG_BYTES_MAX;
use crate::model::{LogPosition, Message};
use crate::replica::ReadPurpose;
use bytes::Bytes;
use std::collections::VecDeque;

/// One thing that waits.
#[derive(Debug)]
pub(super) enum Waits {
    Message(Message),
    /// One that is on its way but for room.
    Encoded(Bytes),
    /// Batches behind a position that are to be read, and for what.
    Read(LogPosition, usize, ReadPurpose),
}

/// What waits for one peer.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Waits>,
    bytes: usize,
}

/// Counted for each, whatever it holds.
const OVERHEAD: usize = 64;

impl Waits {
    fn cost(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Message(message) => message.bytes_carried(),
                Self::Encoded(bytes) => bytes.len(),
                Self::Read(..) => 0,
            }
    }
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts it behind all others; false if that is more than may wait.
    #[must_use]
    pub(super) fn push(&mut self, waits: Waits) -> bool {
        self.bytes += waits.cost();
        self.waiting.push_back(waits);
        self.bytes <= PEER_BACKLOG_BYTES_MAX
    }

    /// What is next.
    pub(super) fn pop(&mut self) -> Option<Waits> {
        let next = self.waiting.pop_front()?;
        self.bytes -= next.cost();
        Some(next)
    }

    /// It found no room yet.
    pub(super) fn put_back(&mut self, waits: Waits) {
        self.bytes += waits.cost();
        self.waiting.push_front(waits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, LogId};

    fn message(term: u32) -> Waits {
        Waits::Message(Message::Refused { epoch: Epoch::new(1, term), promised: Epoch::new(1, term) })
    }

    fn term(waits: Option<Waits>) -> Option<u32> {
        match waits? {
            Waits::Message(Message::Refused { epoch, .. }) => Some(epoch.term),
            Waits::Message(..) => unreachable!("nothing else was put in"),
            Waits::Encoded(bytes) => Some(bytes.len() as u32),
            Waits::Read(..) => Some(0),
        }
    }

    #[test]
    fn what_waits_keeps_its_order_and_its_count_of_bytes() {
        let mut backlog = Backlog::default();
        assert!(backlog.push(message(1)));
        assert!(backlog.push(Waits::Read(LogPosition::origin(LogId::new(1)), 1, ReadPurpose::CatchUp)));
        assert!(backlog.push(message(2)));
        // The first one was encoded meanwhile, and found no room.
        drop(backlog.pop().unwrap());
        backlog.put_back(Waits::Encoded(vec![0; 33].into()));
        assert_eq!(backlog.bytes, 33 + 3 * OVERHEAD);
        assert_eq!([(); 4].map(|()| term(backlog.pop())), [Some(33), Some(0), Some(2), None]);
        assert_eq!((backlog.bytes, backlog.is_empty()), (0, true));
    }

    #[test]
    fn no_more_waits_than_the_bound_says_however_small_each_is() {
        let mut backlog = Backlog::default();
        let taken = (1..).take_while(|_| backlog.push(Waits::Encoded(vec![0; 36].into()))).count();
        assert_eq!(taken, PEER_BACKLOG_BYTES_MAX / 100);
        let mut of_messages = Backlog::default();
        let taken = (1..).take_while(|_| of_messages.push(message(1))).count();
        assert_eq!(taken, PEER_BACKLOG_BYTES_MAX / OVERHEAD);
    }
}

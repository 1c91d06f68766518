//! Reads that wait until a majority confirms that this node still leads: many wait, and one question is asked for all of them.
//!
//! Whoever reads leaves a [`Waiter`] and rings the shard once; the shard takes the newest ticket, and the replica's answer is for
//! all up to it ([`Input::Read`](crate::replica::Input::Read)).

use crate::model::Lsn;
use crate::replica::ReadTicket;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// What a read hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// What was acknowledged before the read came is at most here.
    At(Lsn),
    /// This node does not lead, or not any more.
    Refused,
    /// The shard has ended.
    Ended,
}

type Waiter = Box<dyn FnOnce(Confirmation) + Send>;

/// The reads of one shard that wait.
#[derive(Default)]
pub(super) struct ReadIndex {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    newest: u64,
    /// By ticket.
    waiters: BTreeMap<u64, Waiter>,
    /// The shard was rung, and has not looked yet.
    is_rung: bool,
    has_ended: bool,
}

impl std::fmt::Debug for ReadIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadIndex").field("waiting", &self.waiting.lock().waiters.len()).finish_non_exhaustive()
    }
}

impl ReadIndex {
    /// Takes a read. Its waiter is called once, by the shard's thread or at once, unless the read is [forgotten](Self::forget)
    /// before; `ring` is called if nobody rang the shard since it looked.
    pub(super) fn ask(&self, waiter: impl FnOnce(Confirmation) + Send + 'static, ring: impl FnOnce()) -> ReadTicket {
        let mut waiting = self.waiting.lock();
        waiting.newest += 1;
        let ticket = waiting.newest;
        if waiting.has_ended {
            drop(waiting);
            waiter(Confirmation::Ended);
            return ReadTicket(ticket);
        }
        waiting.waiters.insert(ticket, Box::new(waiter));
        let was_rung = std::mem::replace(&mut waiting.is_rung, true);
        drop(waiting);
        if !was_rung {
            ring();
        }
        ReadTicket(ticket)
    }

    /// Nobody waits for this any more.
    pub(super) fn forget(&self, ticket: ReadTicket) {
        let forgotten = self.waiting.lock().waiters.remove(&ticket.0);
        drop(forgotten);
    }

    /// The newest read that waits, for the shard that was rung.
    pub(super) fn take(&self) -> Option<ReadTicket> {
        let mut waiting = self.waiting.lock();
        waiting.is_rung = false;
        waiting.waiters.last_key_value().map(|(ticket, _)| ReadTicket(*ticket))
    }

    /// Answers the reads up to a ticket.
    pub(super) fn answer(&self, up_to: ReadTicket, confirmation: &Confirmation) {
        let answered = {
            let mut waiting = self.waiting.lock();
            let rest = waiting.waiters.split_off(&up_to.0.saturating_add(1));
            std::mem::replace(&mut waiting.waiters, rest)
        };
        answered.into_values().for_each(|waiter| waiter(confirmation.clone()));
    }

    /// Nothing is confirmed any more: who waits hears it, and who comes.
    pub(super) fn end(&self) {
        self.waiting.lock().has_ended = true;
        self.answer(ReadTicket(u64::MAX), &Confirmation::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    /// A read, and whether the shard was rung for it.
    fn ask(reads: &ReadIndex) -> (ReadTicket, Receiver<Confirmation>, bool) {
        let (sender, answer) = channel();
        let mut rung = false;
        let ticket = reads.ask(move |confirmation| drop(sender.send(confirmation)), || rung = true);
        (ticket, answer, rung)
    }

    #[test]
    fn one_ring_and_one_answer_serve_all_that_wait() {
        let reads = ReadIndex::default();
        let (_, first, rung) = ask(&reads);
        assert!(rung);
        let (second_ticket, second, rung) = ask(&reads);
        assert!(!rung, "the shard has not looked yet");
        assert_eq!(reads.take(), Some(second_ticket));
        let (third_ticket, third, rung) = ask(&reads);
        assert!(rung, "it looked before this one came");
        reads.answer(second_ticket, &Confirmation::At(Lsn::new(7)));
        assert_eq!(
            (first.recv(), second.recv()),
            (Ok(Confirmation::At(Lsn::new(7))), Ok(Confirmation::At(Lsn::new(7))))
        );
        assert!(third.try_recv().is_err(), "what was confirmed may be older than it");
        reads.answer(third_ticket, &Confirmation::Refused);
        assert_eq!(third.recv(), Ok(Confirmation::Refused));
        assert_eq!(reads.take(), None);
    }

    #[test]
    fn one_that_is_forgotten_is_not_called_and_the_others_are() {
        let reads = ReadIndex::default();
        let (gone, forgotten, _) = ask(&reads);
        let (_, waiting, _) = ask(&reads);
        reads.forget(gone);
        assert!(forgotten.recv().is_err(), "its waiter is dropped");
        reads.end();
        assert_eq!(waiting.recv(), Ok(Confirmation::Ended));
        let (_, late, rung) = ask(&reads);
        assert_eq!((late.recv(), rung), (Ok(Confirmation::Ended), false), "and whoever comes later");
    }

    /// The answer of a waiter may ask again: not under the lock.
    #[test]
    fn who_is_answered_may_ask_again_at_once() {
        let reads = Arc::new(ReadIndex::default());
        let (sender, answer) = channel();
        let again = Arc::clone(&reads);
        let asks_again = move |_| {
            let _ticket = again.ask(move |last| drop(sender.send(last)), || ());
        };
        let ticket = reads.ask(asks_again, || ());
        reads.answer(ticket, &Confirmation::Refused);
        reads.end();
        assert_eq!(answer.recv(), Ok(Confirmation::Ended));
    }
}

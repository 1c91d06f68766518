//! The three threads of a log, all owned and joined by [`super::Wal`]:
//! `wal-write` writes and syncs groups, one after another; `wal-prepare` makes segments and writes footers;
//! `wal-notify` wakes who waits and runs their calls where that would delay the next group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use parking_lot::{Condvar, Mutex};

use super::pending::Waiter;
use crate::core::{LogCore, Ticket};
use crate::error::WalError;
use crate::io::{IoRequest, RealIo, execute};

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// There may be something for `wal-write` to do.
    pub(super) work: Condvar,
}

pub(super) struct State {
    pub(super) core: LogCore,
    /// Who waits, in the order of tickets, which is that of completions.
    pub(super) waiters: VecDeque<(Ticket, Waiter)>,
    pub(super) stopping: bool,
}

/// Waiters of one group, with what became of their submissions.
pub(super) type Told = Vec<(Waiter, Result<(), WalError>)>;

/// How often a full disk is asked again for room.
const RETRY_PREPARATION: Duration = Duration::from_millis(200);
/// Waiters that are woken by the writer itself: handing them over would cost more than waking them.
const WAKE_INLINE_MAX: usize = 2;

impl State {
    fn told(&mut self) -> Told {
        let mut told = Vec::new();
        while let Some(completion) = self.core.poll_completion() {
            while let Some((ticket, waiter)) = self.waiters.pop_front_if(|(ticket, _)| *ticket <= completion.ticket) {
                debug_assert_eq!(ticket, completion.ticket, "every ticket has a waiter and completes in order");
                told.push((waiter, completion.result.clone()));
            }
        }
        told
    }
}

/// The writer's way to `wal-notify`.
pub(super) struct Notifier {
    told: Sender<Told>,
    /// Batches of waiters handed over and not yet told: only the writer adds, only the notifier takes away.
    /// Release/Acquire: whoever sees 0 runs after the calls of all that were handed over.
    outstanding: Arc<AtomicUsize>,
}

/// The other end: what `wal-notify` serves.
pub(super) struct Notifications {
    told: Receiver<Told>,
    outstanding: Arc<AtomicUsize>,
}

/// Both ends. Bounded by the queue of the log: who is told was accepted within `queue_bytes_max`.
pub(super) fn notifier() -> (Notifier, Notifications) {
    let (sender, receiver) = channel::unbounded();
    let outstanding = Arc::new(AtomicUsize::new(0));
    (Notifier { told: sender, outstanding: Arc::clone(&outstanding) }, Notifications { told: receiver, outstanding })
}

impl Notifier {
    /// Tells them here when that delays hardly anybody, since a hand-over costs a thread switch, which is a good part of a
    /// sync: the log is idle and every earlier call has run (calls come in the order of tickets), or there are few
    /// and none of them runs code of its own.
    fn tell(&self, told: Told, idle: bool) {
        let calls = told.iter().any(|(waiter, _)| matches!(waiter, Waiter::Call(_)));
        let in_turn = idle && self.outstanding.load(Ordering::Acquire) == 0;
        if told.len() <= WAKE_INLINE_MAX && (in_turn || !calls) {
            told.into_iter().for_each(|(waiter, result)| waiter.tell(result));
            return;
        }
        self.hand_over(told);
    }

    fn hand_over(&self, told: Told) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        if let Err(unsent) = self.told.send(told) {
            // It lives as long as this end does; should it not, nobody must wait for ever.
            unsent.0.into_iter().for_each(|(waiter, result)| waiter.tell(result));
        }
    }
}

/// `wal-write`: the next I/O is chosen before the waiters of the last are told, and starts right after.
pub(super) fn write(shared: &Shared, mut io: RealIo, prepare: &Sender<IoRequest>, notifier: &Notifier) {
    let mut state = shared.state.lock();
    loop {
        let told = state.told();
        let request = state.core.poll_io();
        if told.is_empty() && request.is_none() {
            if state.stopping {
                break;
            }
            shared.work.wait(&mut state);
            continue;
        }
        drop(state);
        if !told.is_empty() {
            notifier.tell(told, request.is_none());
        }
        match request {
            Some(request) if request.op.is_background() => {
                // The channel has no bound of its own: the core asks for one preparation at a time, and for one
                // footer a segment. It is closed only when this thread is done.
                drop(prepare.send(request));
                state = shared.state.lock();
            }
            Some(request) => {
                let result = execute(&mut io, &request);
                state = shared.state.lock();
                state.core.on_io(request.id, result);
            }
            None => state = shared.state.lock(),
        }
    }
    let left = std::mem::take(&mut state.waiters);
    drop(state);
    // Behind all that were handed over: answers come in the order of tickets to the end.
    notifier.hand_over(left.into_iter().map(|(_, waiter)| (waiter, Err(WalError::Closed))).collect());
}

/// `wal-prepare`.
pub(super) fn prepare(shared: &Shared, mut io: RealIo, requests: &Receiver<IoRequest>) {
    loop {
        match requests.recv_timeout(RETRY_PREPARATION) {
            Ok(request) => {
                let result = execute(&mut io, &request);
                shared.state.lock().core.on_io(request.id, result);
                shared.work.notify_one();
            }
            Err(RecvTimeoutError::Timeout) => {
                let mut state = shared.state.lock();
                if state.core.stats().disk_full {
                    state.core.retry_preparation();
                    drop(state);
                    shared.work.notify_one();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// `wal-notify`.
pub(super) fn notify(from: &Notifications) {
    for told in &from.told {
        told.into_iter().for_each(|(waiter, result)| waiter.tell(result));
        from.outstanding.fetch_sub(1, Ordering::Release);
    }
}

//! The four threads of a log, all owned and joined by [`super::Wal`]:
//! `wal-write` writes and syncs groups, one after another, unless a lone caller does; `wal-prepare` makes segments and writes
//! footers; `wal-compact` copies what is live out of segments that hold little of it, at a bounded pace; `wal-notify` wakes
//! who waits and runs their calls where that would delay the next group.

use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::inbox::{Inbox, Left};
use super::paced::PacedIo;
use super::pending::{Event, Pending, Waiter, Waiters, wake_all};
use super::stopwatch::Stopwatch;
use super::sync::{
    AtomicBool, AtomicUsize, BoundedSender, Mutex, MutexGuard, Ordering, Receiver, RecvTimeoutError, Sender, bounded,
    is_panicking, thread,
};
use super::tail::Tails;
use crate::core::LogCore;
use crate::error::{SubmitError, WalError};
use crate::format::batch::Batch;
use crate::io::{Io, IoFailure, IoOp, IoRequest, execute};
use crate::limits::GROUPS_TOLD_MAX;

pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) inbox: Inbox,
    /// Who holds this carries out what the log asks for: `wal-write`, or a caller who found the log idle. Locked before
    /// `state`. `None`: the log has ended.
    driver: Mutex<Option<Driver>>,
    /// Of the I/O for which waiters wait.
    pub(super) stopwatch: Stopwatch,
    writer: OnceLock<thread::Thread>,
    /// Whether `wal-write` is to look again. What others do with the token of `unpark` on its thread, in calls that they are
    /// told by, must not lose that.
    is_signalled: AtomicBool,
}

impl Shared {
    pub(super) fn new(state: State, inbox: Inbox, driver: Driver) -> Self {
        let driver = Mutex::new(Some(driver));
        Self {
            state: Mutex::new(state),
            inbox,
            driver,
            stopwatch: Stopwatch::new(),
            writer: OnceLock::new(),
            is_signalled: AtomicBool::new(false),
        }
    }

    /// Gives up what carries requests out, which ends the threads that wait for some. Nothing is carried out any more.
    pub(super) fn disband(&self) {
        *self.driver.lock() = None;
    }

    /// A thread of the log, or a caller who led it, panicked: what it was doing is unknown, and nobody must wait for it.
    fn fail(&self) {
        self.state.lock().core.fail(IoFailure::new(
            std::io::ErrorKind::Other,
            "go on after a panic in a thread of",
            ".",
        ));
        self.signal();
    }

    /// For who changes the log: if that ends in a panic, so does the log. Made before any lock is taken.
    pub(super) const fn failing(&self) -> Failing<'_> {
        Failing(self)
    }

    /// There may be something for `wal-write` to do. After the change, and better without the lock.
    pub(super) fn signal(&self) {
        // Release, and acquire where it is taken: who sees it sees the change.
        self.is_signalled.store(true, Ordering::Release);
        // Before it has begun it looks for itself.
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Has a batch accepted, and waits until it is durable.
    pub(super) fn append(&self, batch: Batch) -> Result<(), WalError> {
        let pending = self.inbox.leave(batch)?;
        if !self.lead(&pending) {
            self.help();
        }
        pending.wait()
    }

    /// Leaves a batch to be accepted.
    pub(super) fn start_append(&self, batch: Batch) -> Result<Pending, SubmitError> {
        let pending = self.inbox.leave(batch)?;
        self.help();
        Ok(pending)
    }

    fn help(&self) {
        let _failing = self.failing();
        // Checking what was left is work that needs not wait for the writer, nor the writer for it.
        if let Some(mut state) = self.state.try_lock() {
            state.take_in(&self.inbox);
        }
        self.signal();
    }

    /// Has a caller who is alone write and sync by itself: two switches of threads would take it a good part of a sync's
    /// time. Whoever comes meanwhile signals `wal-write`, which goes on. `false`: nothing was done.
    fn lead(&self, pending: &Pending) -> bool {
        let _failing = self.failing();
        let Some(mut driver) = self.driver.try_lock() else { return false };
        let Some(driver) = driver.as_mut() else { return false };
        let mut state = self.state.lock();
        if !state.is_lonely() || state.stopping {
            return false;
        }
        loop {
            state = driver.tell(self, state, Teller::Caller);
            let is_done = pending.is_done();
            let Some(request) = state.poll_io(&self.inbox) else { return true };
            let is_others = is_done && !request.op.is_background();
            state = driver.carry_out(self, state, request);
            if is_others {
                drop(state);
                self.signal();
                return true;
            }
        }
    }
}

pub(super) struct State {
    pub(super) core: LogCore,
    pub(super) waiters: Waiters,
    pub(super) tails: Tails,
    pub(super) stopping: bool,
    /// Entries of the last group: the next one is likely to have as many.
    pub(super) last_entries: usize,
    pub(super) taken: Taken,
}

/// What was taken out of the inbox: empty between two calls, and kept for its room.
#[derive(Default)]
pub(super) struct Taken {
    left: Vec<Left>,
    events: Vec<Arc<Event>>,
}

/// Waiters of one group, with what became of their submissions.
pub(super) type Told = Vec<(Waiter, Result<(), WalError>)>;

/// How often a full disk is asked again for room, and a log looked at that may have become idle.
const LOOK: Duration = Duration::from_millis(200);
/// Waiters that are woken by the writer itself: handing them over would cost more than waking them.
const WAKE_INLINE_MAX: usize = 2;
/// Entries of a group from which on its waiters, many on one event, are woken by `wal-notify` while the next group goes to the
/// device: waking 64 threads takes as long as a sync. Callers then fall into two halves that take turns, which keeps both the
/// device and the processors busy; with fewer callers it would only double the syncs (docs/src/measurements.md).
const HAND_OVER_ENTRIES: usize = if cfg!(shuttle) { 2 } else { 16 };

/// Bytes that wait from which on the next group goes to the device first: no waiter that is told now makes it better.
const HAND_OVER_BYTES: usize = 1 << 20;

impl State {
    /// Whether there is one caller at most, as far as the last group tells.
    const fn is_lonely(&self) -> bool {
        self.last_entries <= 1
    }

    fn told(&mut self) -> Told {
        let mut told = Vec::new();
        while let Some(completion) = self.core.poll_completion() {
            told.extend(self.waiters.complete(completion));
        }
        told
    }

    /// Those at the ends of logs for whom there is something now.
    pub(super) fn ready_tails(&mut self) -> Vec<Waker> {
        if self.tails.is_empty() { Vec::new() } else { self.tails.ready(&self.core, self.stopping) }
    }

    /// Accepts what was left for it. `false`: there is no room for it before something is durable, and it stays where it is.
    pub(super) fn take_in(&mut self, inbox: &Inbox) -> bool {
        let is_taken = inbox.take(&mut self.taken.left, self.core.inbox_room());
        self.accept_taken();
        is_taken
    }

    /// Accepts what was left for it, once, though that be as much again as its queue takes: it ends.
    pub(super) fn take_in_the_last(&mut self, inbox: &Inbox) {
        inbox.take(&mut self.taken.left, usize::MAX);
        self.accept_taken();
    }

    /// Accepts all that was left for it, so that the next group can be built; if there is no room for it, later.
    fn take_in_all(&mut self, inbox: &Inbox) {
        inbox.take_all(&mut self.taken.left, &mut self.taken.events, self.core.inbox_room());
        self.accept_taken();
        self.taken.events.drain(..).for_each(|event| event.part_done(Ok(())));
    }

    fn accept_taken(&mut self) {
        for Left { batch, teller } in self.taken.left.drain(..) {
            match self.core.take_in(batch) {
                Ok(ticket) => self.waiters.share(ticket, &teller.accepted()),
                Err(refused) => teller.refuse(refused),
            }
        }
    }

    /// Refuses what was left for it: it ends.
    fn refuse_all(&mut self, inbox: &Inbox) {
        inbox.take_all(&mut self.taken.left, &mut self.taken.events, usize::MAX);
        self.taken.left.drain(..).for_each(|left| left.teller.refuse(SubmitError::Closed));
        self.taken.events.drain(..).for_each(|event| event.part_done(Ok(())));
    }

    fn poll_io(&mut self, inbox: &Inbox) -> Option<IoRequest> {
        if self.core.may_write() || self.core.is_over() {
            self.take_in_all(inbox);
        }
        let entries = self.core.entries_queued();
        let request = self.core.poll_io()?;
        if matches!(request.op, IoOp::Write { .. }) {
            self.waiters.begin_next();
            self.last_entries = entries;
        }
        Some(request)
    }
}

/// The writer's way to `wal-notify`.
pub(super) struct Notifier {
    told: BoundedSender<Told>,
    /// Lots of waiters handed over and not yet told: only who drives the log adds, only the notifier takes away.
    /// Release/Acquire: whoever sees 0 runs after the calls of all that were handed over.
    outstanding: Arc<AtomicUsize>,
}

/// The other end: what `wal-notify` serves.
pub(super) struct Notifications {
    told: Receiver<Told>,
    outstanding: Arc<AtomicUsize>,
}

/// Both ends. Who is told has left the queue of the log, and makes room there for others: so this has a bound of its own, at
/// which writes wait for calls that take long.
pub(super) fn notifier() -> (Notifier, Notifications) {
    let (sender, receiver) = bounded(if cfg!(shuttle) { 1 } else { GROUPS_TOLD_MAX });
    let outstanding = Arc::new(AtomicUsize::new(0));
    (Notifier { told: sender, outstanding: Arc::clone(&outstanding) }, Notifications { told: receiver, outstanding })
}

impl Notifier {
    /// Tells them here when that delays hardly anybody, since a hand-over costs a thread switch, which is a good part of a
    /// sync: the log is idle and every earlier call has run (calls come in the order of tickets), or there are few
    /// and none of them runs code of its own.
    fn tell(&self, told: Told, idle: bool, teller: Teller) {
        if told.is_empty() {
            return;
        }
        let calls = told.iter().any(|(waiter, _)| waiter.is_call());
        let in_turn = idle && teller == Teller::Writer && self.outstanding.load(Ordering::Acquire) == 0;
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

/// On which thread waiters are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Writer,
    /// A caller's: nobody else's calls are run there.
    Caller,
}

/// What it takes to carry out what the log asks for.
pub(super) struct Driver {
    pub(super) io: Box<dyn Io + Send>,
    pub(super) background: Background,
    pub(super) notifier: Notifier,
}

impl Driver {
    /// Tells the waiters of what has completed. If they are few, they are told before the next group is built: who submits
    /// again at once goes with it.
    fn tell<'a>(&self, shared: &'a Shared, mut state: MutexGuard<'a, State>, teller: Teller) -> MutexGuard<'a, State> {
        let told = state.told();
        let tails = state.ready_tails();
        if told.is_empty() && tails.is_empty() {
            return state;
        }
        let idle = !state.core.has_unwritten();
        let many = state.last_entries >= HAND_OVER_ENTRIES || state.core.bytes_queued() >= HAND_OVER_BYTES;
        drop(state);
        if many && !told.is_empty() {
            self.notifier.hand_over(told);
        } else {
            self.notifier.tell(told, idle, teller);
        }
        wake_all(tails);
        if teller == Teller::Writer && !many {
            // Those who were woken on this processor submit again before the next group is built, and go with it.
            thread::yield_now();
        }
        shared.state.lock()
    }

    fn carry_out<'a>(
        &mut self,
        shared: &'a Shared,
        state: MutexGuard<'a, State>,
        request: IoRequest,
    ) -> MutexGuard<'a, State> {
        drop(state);
        if request.op.is_background() {
            self.background.take(request);
            return shared.state.lock();
        }
        shared.stopwatch.start();
        let result = execute(&mut *self.io, &request);
        shared.stopwatch.stop();
        let mut state = shared.state.lock();
        state.core.on_io(request.id, result);
        state
    }
}

/// Whoever drops this in a panic has the log fail: its waiters are told. Made before any lock is taken, so dropped without one.
pub(super) struct Failing<'a>(&'a Shared);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if is_panicking() {
            self.0.fail();
        }
    }
}

/// The same for `wal-write`: nobody is left to tell them.
struct WriteFailing<'a>(&'a Shared);

impl Drop for WriteFailing<'_> {
    fn drop(&mut self) {
        if !is_panicking() {
            return;
        }
        self.0.fail();
        self.0.disband();
        let mut state = self.0.state.lock();
        state.stopping = true;
        self.0.inbox.close();
        state.refuse_all(&self.0.inbox);
        let (told, tails) = (state.told(), state.ready_tails());
        drop(state);
        told.into_iter().for_each(|(waiter, result)| waiter.tell(result));
        wake_all(tails);
    }
}

/// `wal-write`.
pub(super) fn write(shared: &Shared) {
    let _failing = WriteFailing(shared);
    // Nobody else sets it.
    drop(shared.writer.set(thread::current()));
    loop {
        // Before it looks: who changes something after that signals again.
        shared.is_signalled.swap(false, Ordering::AcqRel);
        let mut held = shared.driver.lock();
        let Some(driver) = held.as_mut() else { return };
        let mut state = shared.state.lock();
        loop {
            let waits_alone = state.is_lonely() && !state.core.has_unwritten();
            if !waits_alone {
                state = driver.tell(shared, state, Teller::Writer);
            }
            let Some(request) = state.poll_io(&shared.inbox) else { break };
            if waits_alone && !request.op.is_background() {
                state = driver.tell(shared, state, Teller::Writer);
            }
            state = driver.carry_out(shared, state, request);
        }
        if state.stopping {
            state = driver.tell(shared, state, Teller::Writer);
            shared.inbox.close();
            state.refuse_all(&shared.inbox);
            let left: Told = state.waiters.drain().map(|waiter| (waiter, Err(WalError::Closed))).collect();
            drop(state);
            // Behind all that were handed over: answers come in the order of tickets to the end.
            driver.notifier.hand_over(left);
            // What it holds ends the other threads.
            *held = None;
            return;
        }
        let (told, tails) = (state.told(), state.ready_tails());
        if told.iter().any(|(waiter, _)| waiter.is_call()) {
            let idle = !state.core.has_unwritten();
            drop(state);
            driver.notifier.tell(told, idle, Teller::Writer);
            drop(held);
        } else {
            // Who is alone, and is told now, finds the place free, and carries out by itself what it submits next.
            drop(state);
            drop(held);
            told.into_iter().for_each(|(waiter, result)| waiter.tell(result));
        }
        wake_all(tails);
        while !shared.is_signalled.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

/// The writer's ways to who works in the background. They are closed only when the writer is done, and have no bounds of
/// their own: the core asks for one preparation and one step of a compaction at a time, and for one footer a segment.
pub(super) struct Background {
    pub(super) prepare: Sender<IoRequest>,
    pub(super) compact: Sender<IoRequest>,
}

impl Background {
    fn take(&self, request: IoRequest) {
        let long = matches!(request.op, IoOp::Compact(_) | IoOp::InstallCompacted { .. } | IoOp::SyncNames { .. });
        drop(if long { self.compact.send(request) } else { self.prepare.send(request) });
    }
}

/// `wal-compact`.
pub(super) fn compact(shared: &Shared, mut io: PacedIo, requests: &Receiver<IoRequest>) {
    let _failing = Failing(shared);
    for request in requests {
        let mut state;
        let result = if let IoOp::InstallCompacted { .. } = &request.op {
            // Nobody may plan a read by the old index and carry it out on the new file. A log that has failed keeps the old
            // one: it hears no more of what became of its requests.
            state = shared.state.lock();
            if state.core.poisoned().is_some() {
                continue;
            }
            execute(&mut io, &request)
        } else {
            let result = execute(&mut io, &request);
            state = shared.state.lock();
            result
        };
        state.core.on_io(request.id, result);
        drop(state);
        shared.signal();
    }
}

/// `wal-prepare`.
pub(super) fn prepare(shared: &Shared, mut io: impl Io, requests: &Receiver<IoRequest>) {
    let _failing = Failing(shared);
    // Written when it was looked at last.
    let mut groups = 0;
    loop {
        match requests.recv_timeout(LOOK) {
            Ok(request) => {
                let result = execute(&mut io, &request);
                shared.state.lock().core.on_io(request.id, result);
                shared.signal();
            }
            Err(RecvTimeoutError::Timeout) => {
                let mut state = shared.state.lock();
                let (written, disk_full) = (state.core.groups_written(), state.core.is_disk_full());
                state.core.retry_preparation();
                let proves = written == groups && state.core.prove();
                groups = written;
                drop(state);
                if disk_full || proves {
                    shared.signal();
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

//! A device that stops answering, threads that panic or can't be started, and calls that meddle with the thread that runs
//! them; on real files.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{Verified, Wal};
use crate::core::{Entry, LogCore, Options, WhenFull};
use crate::error::{SubmitError, WalError};
use crate::format::batch::{Batch, BatchBuilder, BatchKind};
use crate::format::block::{Block, Compression};
use crate::format::ids::{Epoch, LogId, LogPosition, Lsn};
use crate::io::{Io, IoFailure, LockOutcome, RealIo};

const LOG: LogId = LogId::new(1);

/// Closed: syncs do not return.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    /// Writes panic.
    is_broken: Mutex<bool>,
    /// Reads find no memory.
    refuses_reads: Mutex<bool>,
    /// The medium can't be read; and how often that was tried.
    failing: Mutex<Option<u32>>,
    /// So often a cache has to be emptied before it holds what is on the medium.
    stale_caches: Mutex<u32>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut closed = self.is_closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
    }

    fn set(&self, closed: bool) {
        *self.is_closed.lock() = closed;
        self.opened.notify_all();
    }
}

/// The directory behind a gate: only what the writer uses.
struct Gated(RealIo, Arc<Gate>);

fn spawn(thread: std::thread::Builder, run: Box<dyn FnOnce() + Send>) -> std::io::Result<JoinHandle<()>> {
    thread.spawn(run)
}

impl Io for Gated {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.0.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.0.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.0.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        if *self.1.refuses_reads.lock() {
            return Err(IoFailure::new(std::io::ErrorKind::OutOfMemory, "read", name));
        }
        if let Some(failed) = self.1.failing.lock().as_mut() {
            *failed += 1;
            return Err(IoFailure::new(std::io::ErrorKind::Other, "read", name));
        }
        let read = self.0.read_at(name, offset, buffer)?;
        if let Some(last) = buffer.last_mut().filter(|_| *self.1.stale_caches.lock() > 0) {
            *last ^= 1;
        }
        Ok(read)
    }

    fn forget_cached(&mut self, _name: &str, _range: std::ops::Range<u64>) {
        let mut left = self.1.stale_caches.lock();
        *left = left.saturating_sub(1);
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        assert!(!*self.1.is_broken.lock(), "the device's driver is broken");
        self.0.write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.1.pass();
        self.0.sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.0.sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.0.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.remove(name)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.settle(name)
    }

    fn entropy(&mut self) -> u64 {
        self.0.entropy()
    }

    fn process_id(&self) -> u32 {
        self.0.process_id()
    }
}

fn batch(prev: LogPosition) -> Batch {
    let block = Block::encode(Bytes::from(vec![7; 1000]), 1, Compression::Never);
    BatchBuilder::new(LOG, BatchKind::Data, Epoch::new(1, 1), prev, 1).block(block).seal().unwrap()
}

/// D26.
#[test]
fn a_device_that_hangs_is_seen_and_holds_up_nobody_but_who_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, queue_bytes_max: 20_000, ..Options::default() };
    let mut io = RealIo::new(dir.path());
    let (core, _) = LogCore::recover(&mut io, &options).unwrap();
    let gate = Arc::new(Gate::default());
    let gated = Box::new(Gated(io.clone(), Arc::clone(&gate)));
    let wal = Wal::begin(core, &options, io, gated, &mut spawn).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    gate.set(true);
    let mut waiting = vec![wal.submit(vec![Entry::Batch(batch(wal.end(LOG)))]).unwrap()];
    // It is seen while it lasts, and for how long.
    while wal.io_under_way().is_none_or(|so_far| so_far < Duration::from_millis(20)) {
        std::thread::yield_now();
    }
    // Submissions are taken until the queue is full, and then refused at once; nobody is told that theirs is durable.
    let refused = loop {
        match wal.submit(vec![Entry::Batch(batch(wal.end(LOG)))]) {
            Ok(pending) => waiting.push(pending),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, SubmitError::Busy { queue_bytes_max: 20_000 });
    assert!(waiting.len() > 10 && waiting.iter().all(|pending| !pending.is_done()));
    // What is durable can be read.
    assert_eq!(wal.durable_end(LOG).lsn, Lsn::FIRST);
    assert!(!wal.read(LOG, Lsn::FIRST, 1).unwrap().is_empty());
    gate.set(false);
    let accepted = u64::try_from(waiting.len()).unwrap();
    waiting.into_iter().for_each(|pending| pending.wait().unwrap());
    assert_eq!(wal.durable_end(LOG).lsn, Lsn::new(1 + accepted));
    wal.close().unwrap();
    assert_eq!(wal.io_under_way(), None);
}

#[test]
fn what_is_started_while_a_device_hangs_is_bounded_and_the_rest_hears_that_it_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, queue_bytes_max: 20_000, ..Options::default() };
    let mut io = RealIo::new(dir.path());
    let (core, _) = LogCore::recover(&mut io, &options).unwrap();
    let gate = Arc::new(Gate::default());
    let gated = Box::new(Gated(io.clone(), Arc::clone(&gate)));
    let wal = Arc::new(Wal::begin(core, &options, io, gated, &mut spawn).unwrap());
    let first = batch(LogPosition::origin(LOG));
    let mut end = first.position();
    wal.append(first).unwrap();
    gate.set(true);
    let (mut waiting, mut busy) = (Vec::new(), 0);
    while busy < 1000 {
        let next = batch(end);
        let at = next.position();
        match wal.start_append(next) {
            Ok(pending) => {
                waiting.push(pending);
                end = at;
            }
            Err(refused) => {
                assert_eq!(refused, SubmitError::Busy { queue_bytes_max: 20_000 });
                busy += 1;
            }
        }
        if waiting.len() >= 50 {
            gate.set(false);
            panic!("as much again as the queue takes lies before it, and no more");
        }
    }
    // Nor does a submission overtake what lies there, or an append wait to hear that it was refused.
    assert!(matches!(wal.submit(vec![Entry::Batch(batch(end))]), Err(SubmitError::Busy { .. })));
    let appends = Arc::clone(&wal);
    let appended = within_a_minute(move || appends.append(batch(end)));
    assert_eq!(appended, Err(WalError::Refused(SubmitError::Busy { queue_bytes_max: 20_000 })));
    // A sync is behind all of it.
    let syncs = Arc::clone(&wal);
    let (synced, syncs_end) = channel();
    let thread = std::thread::Builder::new()
        .spawn(move || {
            syncs.sync().unwrap();
            synced.send(syncs.durable_end(LOG)).unwrap();
        })
        .unwrap();
    assert!(syncs_end.try_recv().is_err());
    gate.set(false);
    for pending in waiting {
        pending.wait().unwrap();
    }
    assert_eq!(wal.durable_end(LOG), end, "what was taken was taken in order, and nothing of it is refused later");
    assert!(syncs_end.recv().unwrap().lsn > Lsn::FIRST);
    thread.join().unwrap();
    wal.append(batch(end)).unwrap();
    wal.close().unwrap();
}

#[test]
fn what_lies_before_a_queue_on_a_full_disk_keeps_nothing_that_gives_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, queue_bytes_max: 20_000, ..Options::default() };
    let mut io = RealIo::new(dir.path());
    let (core, _) = LogCore::recover(&mut io, &options).unwrap();
    let gate = Arc::new(Gate::default());
    let gated = Box::new(Gated(io.clone(), Arc::clone(&gate)));
    let wal = Wal::begin(core, &options, io, gated, &mut spawn).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    gate.set(true);
    while wal.submit(vec![Entry::Batch(batch(wal.end(LOG)))]).is_ok() {}
    let left = wal.start_append(batch(wal.end(LOG))).unwrap();
    let release = || wal.submit(vec![Entry::Release { log: LOG, before: Lsn::FIRST }]);
    assert!(matches!(release(), Err(SubmitError::Busy { .. })), "it would overtake what was left");
    wal.state().core.find_no_room();
    let released = release();
    gate.set(false);
    released.unwrap().wait().unwrap();
    // Refused for want of room, or taken if there was some.
    drop(left.wait());
    wal.close().unwrap();
}

#[test]
fn a_sync_waits_for_what_lies_before_a_full_queue() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, queue_bytes_max: 5000, ..Options::default() };
    let mut io = RealIo::new(dir.path());
    let (core, _) = LogCore::recover(&mut io, &options).unwrap();
    let gate = Arc::new(Gate::default());
    let gated = Box::new(Gated(io.clone(), Arc::clone(&gate)));
    let wal = Arc::new(Wal::begin(core, &options, io, gated, &mut spawn).unwrap());
    let mut end = LogPosition::origin(LOG);
    for _ in 0..20 {
        gate.set(true);
        let mut waiting = Vec::new();
        while let Ok(pending) = wal.start_append(batch(end)) {
            waiting.push(pending);
            end = batch(end).position();
        }
        let syncs = Arc::clone(&wal);
        let (ready, readies) = channel();
        let thread = std::thread::Builder::new()
            .spawn(move || {
                ready.send(()).unwrap();
                syncs.sync().unwrap();
                syncs.durable_end(LOG)
            })
            .unwrap();
        readies.recv().unwrap();
        gate.set(false);
        let durable = thread.join().unwrap();
        assert!(durable.lsn >= end.lsn, "a sync returned at {durable}, before {end} was durable");
        waiting.into_iter().for_each(|pending| pending.wait().unwrap());
    }
    wal.close().unwrap();
}

#[test]
fn calls_that_take_long_hold_up_writes_and_not_memory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, queue_bytes_max: 20_000, ..Options::default() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    let gate = Arc::new(Gate::default());
    gate.set(true);
    let (mut accepted, mut refused_in_a_row) = (0_usize, 0);
    // Until nothing becomes durable any more, so that nothing more is accepted.
    while refused_in_a_row < 200 {
        let (passes, next) = (Arc::clone(&gate), batch(wal.end(LOG)));
        match wal.submit_with(vec![Entry::Batch(next)], WhenFull::Refuse, move |_| passes.pass()) {
            Ok(()) => (accepted, refused_in_a_row) = (accepted + 1, 0),
            Err(refused) => {
                assert!(matches!(refused, SubmitError::Busy { .. }));
                refused_in_a_row += 1;
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        if accepted >= 5000 {
            gate.set(false);
            panic!("calls pile up");
        }
    }
    gate.set(false);
    wal.close().unwrap();
}

/// Asks the log when it goes.
struct AsksAtItsEnd(Arc<Wal>);

impl Drop for AsksAtItsEnd {
    fn drop(&mut self) {
        assert!(!self.0.stats().poisoned);
    }
}

#[test]
fn a_call_that_is_refused_may_ask_the_log_when_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    let wal = Arc::new(wal);
    let refused = within_a_minute(move || {
        let asks = AsksAtItsEnd(Arc::clone(&wal));
        let call = move |_| drop(asks);
        wal.submit_with(Vec::new(), WhenFull::Refuse, call)
    });
    assert_eq!(refused, Err(SubmitError::Empty));
}

/// Bytes whose owner panics when they go.
struct PanicsAtItsEnd(Vec<u8>);

impl AsRef<[u8]> for PanicsAtItsEnd {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for PanicsAtItsEnd {
    fn drop(&mut self) {
        panic!("an owner of bytes that panics");
    }
}

#[test]
fn nobody_hears_durable_of_a_batch_that_a_panic_took_away() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let mut io = RealIo::new(dir.path());
    let (core, _) = LogCore::recover(&mut io, &options).unwrap();
    let gate = Arc::new(Gate::default());
    let gated = Box::new(Gated(io.clone(), Arc::clone(&gate)));
    let wal = Wal::begin(core, &options, io, gated, &mut spawn).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    gate.set(true);
    // It goes to the device, which hangs: what comes now is taken in by others than the writer.
    let first = wal.submit(vec![Entry::Batch(batch(wal.end(LOG)))]).unwrap();
    while wal.io_under_way().is_none() {
        std::thread::yield_now();
    }
    // Refused, which drops its bytes; behind it, one that follows.
    let stray = batch(LogPosition::origin(LogId::new(2)));
    let stray = batch(stray.position());
    let owned = Bytes::from_owner(PanicsAtItsEnd(stray.bytes().to_vec()));
    let held = wal.state();
    let lost =
        [Batch::decode(owned).unwrap(), batch(held.core.end(LOG))].map(|left| wal.shared.inbox.leave(left).unwrap());
    drop(held);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wal.submit(vec![])));
    panicked.unwrap_err();
    gate.set(false);
    for pending in lost {
        pending.wait().unwrap_err();
    }
    first.wait().unwrap_err();
    wal.close().unwrap_err();
}

#[test]
fn a_verification_that_is_refused_its_reads_says_so_and_calls_nothing_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    let gate = Arc::new(Gate::default());
    let mut gated = Gated(RealIo::new(dir.path()), Arc::clone(&gate));
    let mut verified = Verified::default();
    *gate.refuses_reads.lock() = true;
    let refused = wal.verify_step(&mut gated, LOG, (Lsn::FIRST, Lsn::MAX), &mut verified).unwrap_err();
    assert!(matches!(refused, WalError::Unread(_)) && refused.code() == "TW-1103", "{refused}");
    assert_eq!(verified, Verified::default());
    *gate.refuses_reads.lock() = false;
    wal.verify_step(&mut gated, LOG, (Lsn::FIRST, Lsn::MAX), &mut verified).unwrap();
    assert_eq!((verified.batches, verified.damaged), (1, vec![]));
}

/// D17: one retry, from the medium; what is read twice alike is damaged.
#[test]
fn d17_what_flips_on_its_way_into_a_cache_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    let gate = Arc::new(Gate::default());
    let mut gated = Gated(RealIo::new(dir.path()), Arc::clone(&gate));
    for (stale, damaged) in [(1, 0), (2, 0), (3, 1)] {
        let mut verified = Verified::default();
        *gate.stale_caches.lock() = stale;
        wal.verify_step(&mut gated, LOG, (Lsn::FIRST, Lsn::MAX), &mut verified).unwrap();
        assert_eq!((verified.batches, verified.damaged.len()), (1 - damaged, damaged as usize), "{stale}");
    }
}

/// A disk that dies takes seconds for each, and a node that closes waits for a scrub: it read all of a part, each batch four times.
#[test]
fn d26_a_part_ends_at_the_first_batch_that_can_t_be_read_twice() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, tail_cache_bytes: 0, ..Options::default() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    let mut end = LogPosition::origin(LOG);
    for _ in 0..50 {
        let next = batch(end);
        end = next.position();
        wal.append(next).unwrap();
    }
    let gate = Arc::new(Gate::default());
    let mut gated = Gated(RealIo::new(dir.path()), Arc::clone(&gate));
    let mut verified = Verified::default();
    *gate.failing.lock() = Some(0);
    for number in 1..=2 {
        let next = wal.verify_step(&mut gated, LOG, (Lsn::new(number), Lsn::MAX), &mut verified).unwrap();
        assert_eq!(next, Some(Lsn::new(number + 1)), "where to go on");
        assert_eq!((verified.batches, verified.damaged.len() as u64), (0, number));
    }
    assert_eq!(*gate.failing.lock(), Some(4), "each twice");
    *gate.failing.lock() = None;
    assert_eq!(wal.verify_step(&mut gated, LOG, (Lsn::new(3), Lsn::MAX), &mut verified).unwrap(), Some(Lsn::new(51)));
    assert_eq!((verified.batches, verified.damaged.len()), (48, 2));
}

/// What another thread comes to; it must not take for ever.
fn within_a_minute<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (to, from): (_, Receiver<T>) = channel();
    let thread = std::thread::Builder::new().spawn(move || to.send(run())).unwrap();
    let result = from.recv_timeout(Duration::from_secs(60)).unwrap();
    thread.join().unwrap().unwrap();
    result
}

#[test]
fn a_panic_below_the_log_is_told_to_all_who_wait() {
    for alone in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        let mut io = RealIo::new(dir.path());
        let (core, _) = LogCore::recover(&mut io, &options).unwrap();
        let gate = Arc::new(Gate::default());
        let gated = Box::new(Gated(io.clone(), Arc::clone(&gate)));
        let wal = Arc::new(Wal::begin(core, &options, io, gated, &mut spawn).unwrap());
        wal.append(batch(LogPosition::origin(LOG))).unwrap();
        *gate.is_broken.lock() = true;
        let waits = Arc::clone(&wal);
        let result = within_a_minute(move || {
            let next = batch(waits.end(LOG));
            if alone {
                // The caller itself writes, most of the time, and has the panic.
                let appended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waits.append(next)));
                return appended.unwrap_or(Err(WalError::Closed));
            }
            waits.submit(vec![Entry::Batch(next)]).unwrap().wait()
        });
        result.unwrap_err();
        let later = Arc::clone(&wal);
        let refused = within_a_minute(move || later.append(batch(later.end(LOG))));
        refused.unwrap_err();
        let ends = Arc::clone(&wal);
        within_a_minute(move || ends.close()).unwrap_err();
        let end = wal.durable_end(LOG);
        drop(wal);
        // What was acknowledged is there.
        let (wal, _) = Wal::open(dir.path(), options).unwrap();
        assert!(wal.durable_end(LOG).lsn >= end.lsn);
    }
}

#[test]
fn a_log_whose_threads_cannot_be_started_does_not_open_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, ..Options::default() };
    for fails in 0..4 {
        let mut io = RealIo::new(dir.path());
        let (core, _) = LogCore::recover(&mut io, &options).unwrap();
        let options = options.clone();
        let begun = within_a_minute(move || {
            let mut count = 0;
            let mut spawn = |thread: std::thread::Builder, run: Box<dyn FnOnce() + Send>| {
                count += 1;
                if count > fails { Err(std::io::ErrorKind::WouldBlock.into()) } else { thread.spawn(run) }
            };
            Wal::begin(core, &options, io.clone(), Box::new(io), &mut spawn).map(drop)
        });
        assert!(begun.is_err(), "thread {fails} was not there");
    }
    // The lock is free.
    Wal::open(dir.path(), options).unwrap();
}

#[test]
fn a_call_that_parks_its_thread_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    let wal = Arc::new(wal);
    for _ in 0..20 {
        let (started, starts) = channel();
        let done = move |_| {
            started.send(()).unwrap();
            // Whatever wakes it is gone for the log's own thread.
            std::thread::park_timeout(Duration::from_millis(20));
        };
        wal.submit_with(vec![Entry::Batch(batch(wal.end(LOG)))], WhenFull::Refuse, done).unwrap();
        starts.recv().unwrap();
        let appends = Arc::clone(&wal);
        within_a_minute(move || appends.append(batch(appends.end(LOG)))).unwrap();
    }
    wal.close().unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it waits for a thread that looks now and then")]
fn a_log_that_is_idle_proves_its_last_group() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    wal.append(batch(LogPosition::origin(LOG))).unwrap();
    // The opening's group may come with the first batch, or before it.
    let written = wal.stats().groups;
    let idle = std::time::Instant::now();
    while wal.stats().groups == written {
        assert!(idle.elapsed() < Duration::from_secs(60), "nothing proves it");
        std::thread::sleep(Duration::from_millis(10));
    }
    wal.close().unwrap();
}

//! The log's own threads, and callers, in many orders of their steps: nobody sleeps for ever, and who is told "durable" has it.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::sync::Arc;

use bytes::Bytes;
use shuttle::thread;

use super::inbox::Inbox;
use super::pending::Waiters;
use super::sync::{AtomicUsize, Mutex, Ordering, unbounded};
use super::tail::Tails;
use super::threads::{self, Background, Driver, Shared, State, Taken};
use crate::core::{Entry, LogCore, Options, WhenFull};
use crate::error::{SubmitError, WalError};
use crate::format::batch::{Batch, BatchBuilder, BatchKind};
use crate::format::block::{Block, Compression};
use crate::format::ids::{Epoch, LogId, LogPosition, Lsn};
use crate::io::{Io, IoFailure, LockOutcome};
use crate::vdisk::{CrashKind, VirtualDisk};

/// Schedules tried, of each kind.
const SCHEDULES: usize = 5000;
/// Places at which the scheduler that looks for rare orders may switch.
const DEPTH: usize = 3;

#[derive(Clone)]
struct SharedDisk(Arc<Mutex<VirtualDisk>>);

impl Io for SharedDisk {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.0.lock().lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.0.lock().list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.lock().create(name)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.0.lock().len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.0.lock().read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        self.0.lock().write_at(name, offset, slices)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.lock().sync_data(name)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        self.0.lock().sync_dir()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        self.0.lock().rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.lock().remove(name)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.0.lock().settle(name)
    }

    fn entropy(&mut self) -> u64 {
        self.0.lock().entropy()
    }

    fn process_id(&self) -> u32 {
        self.0.lock().process_id()
    }
}

/// A log, its threads, and what they share.
struct Model {
    shared: Arc<Shared>,
    disk: SharedDisk,
    threads: Vec<thread::JoinHandle<()>>,
}

fn options() -> Options {
    // So small that two batches fill a group.
    Options { segment_bytes: 64 << 10, group_bytes_max: 700, segments_ahead: 1, ..Options::default() }
}

fn batch(log: LogId, prev: LogPosition) -> Batch {
    let block = Block::encode(Bytes::from(vec![7; 200]), 1, Compression::Never);
    BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), prev, 1).block(block).seal().unwrap()
}

impl Model {
    fn start(fail_sync: Option<u64>) -> Self {
        let mut disk = VirtualDisk::new();
        let (core, _) = LogCore::recover(&mut disk, &options()).unwrap();
        if let Some(n) = fail_sync {
            disk.fail_sync_after(n);
        }
        let waiters = Waiters::new(options().group_bytes_max);
        let state =
            State { core, waiters, tails: Tails::default(), stopping: false, last_entries: 0, taken: Taken::default() };
        let disk = SharedDisk(Arc::new(Mutex::new(disk)));
        let (prepare_to, prepare_from) = unbounded();
        let (compact_to, _) = unbounded();
        let (notifier, notifications) = threads::notifier();
        let background = Background { prepare: prepare_to, compact: compact_to };
        let driver = Driver { io: Box::new(disk.clone()), background, notifier };
        let shared = Arc::new(Shared::new(state, Inbox::new(&options()), driver));
        let (s, io) = (Arc::clone(&shared), disk.clone());
        let prepares = thread::spawn(move || threads::prepare(&s, io, &prepare_from));
        let notifies = thread::spawn(move || threads::notify(&notifications));
        let s = Arc::clone(&shared);
        let writes = thread::spawn(move || threads::write(&s));
        Self { shared, disk, threads: vec![prepares, notifies, writes] }
    }

    /// What would be there if power failed now.
    fn after_a_power_cut(&self) -> LogCore {
        let mut disk = self.disk.0.lock().clone();
        disk.clear_faults();
        disk.crash(CrashKind::DropAll, &mut |_| 0);
        LogCore::recover(&mut disk, &options()).unwrap().0
    }

    fn stop(self) {
        self.shared.state.lock().stopping = true;
        self.shared.signal();
        for thread in self.threads {
            thread.join().unwrap();
        }
        assert_eq!(self.shared.append(batch(LogId::new(9), LogPosition::origin(LogId::new(9)))), Err(closed()));
    }

    /// Appends to a log of its own, checking each receipt; how many were durable.
    fn append(&self, log: LogId, count: u64) -> u64 {
        let mut at = LogPosition::origin(log);
        for n in 0..count {
            let next = batch(log, at);
            let end = next.position();
            match self.shared.append(next) {
                Ok(()) => assert!(self.after_a_power_cut().end(log).lsn >= end.lsn, "called durable and is not"),
                Err(_) => return n,
            }
            at = end;
        }
        count
    }
}

fn closed() -> WalError {
    WalError::Refused(SubmitError::Closed)
}

fn check(run: fn()) {
    shuttle::check_random(run, SCHEDULES);
    shuttle::check_pct(run, SCHEDULES, DEPTH);
}

#[test]
fn blocking_callers_are_each_told_once_it_is_durable() {
    check(|| {
        let model = Arc::new(Model::start(None));
        let callers: Vec<_> = (1..=3)
            .map(|n| {
                let model = Arc::clone(&model);
                thread::spawn(move || assert_eq!(model.append(LogId::new(n), 2), 2))
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        Arc::into_inner(model).unwrap().stop();
    });
}

#[test]
fn who_is_refused_hears_of_it_and_nobody_else_does() {
    check(|| {
        let model = Arc::new(Model::start(None));
        let good = Arc::clone(&model);
        let good = thread::spawn(move || assert_eq!(good.append(LogId::new(1), 2), 2));
        let bad = Arc::clone(&model);
        let bad = thread::spawn(move || {
            // It continues what is not there.
            let log = LogId::new(2);
            let refused = bad.shared.append(batch(log, batch(log, LogPosition::origin(log)).position()));
            assert!(matches!(refused, Err(WalError::Refused(SubmitError::DoesNotFollow { .. }))), "{refused:?}");
        });
        good.join().unwrap();
        bad.join().unwrap();
        Arc::into_inner(model).unwrap().stop();
    });
}

#[test]
fn calls_and_receipts_of_other_submissions_keep_their_turn() {
    check(|| {
        let model = Arc::new(Model::start(None));
        let blocking = Arc::clone(&model);
        let blocking = thread::spawn(move || assert_eq!(blocking.append(LogId::new(1), 2), 2));
        let calls = Arc::new(AtomicUsize::new(0));
        let log = LogId::new(2);
        let mut at = LogPosition::origin(log);
        for n in 0..3 {
            let next = batch(log, at);
            at = next.position();
            let mut state = model.shared.state.lock();
            let ticket = state.core.submit_when(vec![Entry::Batch(next)], WhenFull::Refuse).unwrap();
            let counted = Arc::clone(&calls);
            state.waiters.call(
                ticket,
                Box::new(move |result| {
                    assert_eq!(result, Ok(()));
                    assert_eq!(counted.fetch_add(1, Ordering::SeqCst), n, "calls come in the order of submissions");
                }),
            );
            drop(state);
            model.shared.signal();
        }
        blocking.join().unwrap();
        let mut state = model.shared.state.lock();
        let ticket = state.core.barrier().unwrap();
        let pending = ticket.map(|ticket| state.waiters.join(ticket, 0));
        drop(state);
        model.shared.signal();
        pending.map_or(Ok(()), super::Pending::wait).unwrap();
        assert_eq!(model.after_a_power_cut().end(log).lsn, Lsn::new(3));
        Arc::into_inner(model).unwrap().stop();
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    });
}

#[test]
fn receipts_of_one_thread_come_true_in_order() {
    check(|| {
        let model = Arc::new(Model::start(None));
        let other = Arc::clone(&model);
        let other = thread::spawn(move || assert_eq!(other.append(LogId::new(2), 2), 2));
        let log = LogId::new(1);
        let mut at = LogPosition::origin(log);
        let mut under_way = Vec::new();
        for _ in 0..4 {
            let next = batch(log, at);
            at = next.position();
            under_way.push((at.lsn, model.shared.start_append(next).unwrap()));
        }
        // It does not follow, and nobody else suffers.
        let refused = model.shared.start_append(batch(log, LogPosition::origin(log))).unwrap();
        for (lsn, pending) in under_way {
            pending.wait().unwrap();
            assert!(model.after_a_power_cut().end(log).lsn >= lsn, "called durable and is not");
        }
        assert!(matches!(refused.wait(), Err(WalError::Refused(SubmitError::DoesNotFollow { .. }))));
        other.join().unwrap();
        Arc::into_inner(model).unwrap().stop();
    });
}

#[test]
fn a_failed_sync_is_told_to_all_who_wait_and_to_all_who_come_later() {
    check(|| {
        // The opening's group is synced, or one of the first.
        let model = Arc::new(Model::start(Some(3)));
        let callers: Vec<_> = (1..=3)
            .map(|n| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.append(LogId::new(n), 4))
            })
            .collect();
        let durable: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        let is_poisoned = model.shared.state.lock().core.poisoned().is_some();
        // It may have been one that prepares a segment, told only when everybody had their answer from syncs of other files.
        assert!(is_poisoned || durable == 12);
        if is_poisoned {
            let late = LogId::new(4);
            assert!(model.shared.append(batch(late, LogPosition::origin(late))).is_err(), "after a failed sync");
        }
        Arc::into_inner(model).unwrap().stop();
    });
}

#[test]
fn who_comes_while_the_log_stops_is_told_so() {
    check(|| {
        let model = Model::start(None);
        let callers: Vec<_> = (1..=2)
            .map(|n| {
                let shared = Arc::clone(&model.shared);
                let log = LogId::new(n);
                thread::spawn(move || shared.append(batch(log, LogPosition::origin(log))))
            })
            .collect();
        model.stop();
        for caller in callers {
            let told = caller.join().unwrap();
            assert!(matches!(told, Ok(()) | Err(WalError::Closed)) || told == Err(closed()), "{told:?}");
        }
    });
}

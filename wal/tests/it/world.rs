//! A log on a virtual disk, driven one request at a time, with a record of everything that was submitted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use towline_wal::io::{Io, IoFailure, IoOp, IoRequest, LockOutcome, execute};
use towline_wal::vdisk::{CrashKind, VirtualDisk};
use towline_wal::{
    Batch, BatchBuilder, BatchKind, Block, Compression, Entry, Epoch, HardStateKind, LogCore, LogId, LogPosition, Lsn,
    OpenError, OpenReport, Options, SubmitError, Ticket, WalError,
};

/// xorshift64*: the same seed, the same run.
#[derive(Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n.max(1)
    }
}

pub(crate) const SEGMENT: u64 = 64 << 10;

pub(crate) fn options() -> Options {
    Options { segment_bytes: SEGMENT, group_bytes_max: 8 << 10, segments_ahead: 1, ..Options::default() }
}

pub(crate) fn log(n: u64) -> LogId {
    LogId::new(u128::from(n))
}

/// A batch of `records` records and about `bytes` bytes behind `prev`.
pub(crate) fn batch(log: LogId, prev: LogPosition, epoch: Epoch, records: u32, bytes: usize) -> Batch {
    let text = format!("{log} behind {prev} ");
    let raw: Vec<u8> = text.bytes().cycle().take(bytes.max(1)).collect();
    let block = Block::encode(Bytes::from(raw), records, Compression::Never);
    BatchBuilder::new(log, BatchKind::Data, epoch, prev, 1).block(block).seal().unwrap()
}

/// All that is known of the logs: what a reopened one must show.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Model {
    pub(crate) logs: BTreeMap<LogId, Vec<Batch>>,
    /// Where each log starts, one without batches too.
    pub(crate) starts: BTreeMap<LogId, Lsn>,
    pub(crate) hard: BTreeMap<(LogId, HardStateKind), Bytes>,
}

impl Model {
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Release { log, before } => drop(self.starts.insert(*log, before.prev())),
            Entry::Reset { log, to } => drop(self.starts.insert(*log, to.lsn)),
            Entry::Remove { log } => drop(self.starts.remove(log)),
            other => drop(self.starts.entry(other.log()).or_insert(Lsn::ZERO)),
        }
        match entry {
            Entry::Batch(batch) => self.logs.entry(batch.log()).or_default().push(batch.clone()),
            Entry::Truncate { log, to } => {
                self.logs.entry(*log).or_default().retain(|batch| batch.last_lsn() <= to.lsn);
            }
            Entry::HardState { log, kind, bytes } => drop(self.hard.insert((*log, *kind), bytes.clone())),
            Entry::Settle { .. } => {}
            Entry::Release { log, before } => {
                self.logs.entry(*log).or_default().retain(|batch| batch.last_lsn() >= *before);
            }
            Entry::Reset { log, .. } => drop(self.logs.insert(*log, Vec::new())),
            Entry::Remove { log } => {
                self.logs.remove(log);
                self.hard.retain(|(of, _), _| of != log);
            }
            _ => unreachable!("no other entries are made here"),
        }
    }

    pub(crate) fn end(&self, log: LogId) -> LogPosition {
        let last = self.logs.get(&log).and_then(|batches| batches.last());
        last.map_or_else(|| LogPosition::origin(log), Batch::position)
    }

    fn content(&self) -> impl PartialEq + '_ {
        let logs: BTreeMap<_, _> = self.logs.iter().filter(|(_, batches)| !batches.is_empty()).collect();
        // A log that starts with its first record and has none is as good as not there.
        let starts: BTreeMap<_, _> = self.starts.iter().filter(|(_, start)| **start > Lsn::ZERO).collect();
        (logs, &self.hard, starts)
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        self.content() == other.content()
    }

    /// What is not the same: log by log the LSNs at which batches end here, and there.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let ends = |model: &Self, log: &LogId| {
            let batches = model.logs.get(log).map_or(&[][..], Vec::as_slice);
            batches.iter().map(|batch| (batch.epoch().term, batch.last_lsn().get())).collect::<Vec<_>>()
        };
        let logs: BTreeSet<LogId> = self.logs.keys().chain(other.logs.keys()).copied().collect();
        let logs = logs.iter().map(|log| (log, ends(self, log), ends(other, log))).filter(|(_, a, b)| a != b);
        let mut found: Vec<String> = logs.map(|(log, a, b)| format!("log {log}: {a:?} and {b:?}")).collect();
        if self.starts != other.starts {
            found.push(format!("starts: {:?} and {:?}", self.starts, other.starts));
        }
        if self.hard != other.hard {
            found.push(format!("hard states: {:?} and {:?}", self.hard, other.hard));
        }
        found
    }
}

pub(crate) struct World {
    pub(crate) disk: VirtualDisk,
    pub(crate) core: LogCore,
    pub(crate) report: OpenReport,
    /// Requests taken and not finished. A write is executed when it is taken, a sync when it finishes.
    pub(crate) flying: Vec<IoRequest>,
    /// Everything submitted in this life, in order, with its ticket.
    pub(crate) submitted: Vec<(Ticket, Entry)>,
    pub(crate) acknowledged: Option<Ticket>,
    pub(crate) failed: Vec<(Ticket, WalError)>,
    /// What the log held at the open.
    pub(crate) base: Model,
    /// If wanted: each change of the disk, where power may fail.
    pub(crate) cuts: Option<Vec<PowerCut>>,
}

/// The disk behind one change, and how many entries had been acknowledged and submitted before it.
pub(crate) struct PowerCut {
    pub(crate) disk: VirtualDisk,
    pub(crate) acknowledged: usize,
    pub(crate) submitted: usize,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::open(VirtualDisk::new(), &options()).unwrap()
    }

    pub(crate) fn open(disk: VirtualDisk, options: &Options) -> Result<Self, OpenError> {
        let mut world = Self::open_rotten(disk, options)?;
        world.base = world.content();
        Ok(world)
    }

    /// As [`Self::open`], where footers may hide what can't be read: the log's content is not asked for.
    pub(crate) fn open_rotten(mut disk: VirtualDisk, options: &Options) -> Result<Self, OpenError> {
        let (core, report) = LogCore::recover(&mut disk, options)?;
        Ok(Self {
            disk,
            core,
            report,
            flying: Vec::new(),
            submitted: Vec::new(),
            acknowledged: None,
            failed: Vec::new(),
            base: Model::default(),
            cuts: None,
        })
    }

    /// Reads everything back through the log, checking each chain on the way. Stops at damage.
    pub(crate) fn content(&mut self) -> Model {
        let mut model = Model::default();
        for log in self.core.logs() {
            let mut at = self.core.start(log);
            let batches = model.logs.entry(log).or_default();
            loop {
                self.core.load_index(&mut self.disk, log, at.lsn.next());
                let Ok(plan) = self.core.plan_read(log, at.lsn.next(), 1 << 14) else { break };
                if plan.is_empty() {
                    break;
                }
                for extent in plan {
                    let batch = extent.read(&mut self.disk).unwrap();
                    assert!(batch.follows(&at), "log {log}: {} does not follow {at}", batch.first_lsn());
                    at = batch.position();
                    batches.push(batch);
                }
            }
            if self.core.damaged(log).is_empty() && self.core.written_end(log) == self.core.end(log) {
                assert_eq!(at, self.core.end(log), "log {log} can be read to its end");
            }
            for kind in [HardStateKind::Promise, HardStateKind::Assignment, HardStateKind::Snapshot] {
                model.hard.extend(self.core.hard_state(log, kind).map(|bytes| ((log, kind), bytes)));
            }
            model.starts.insert(log, self.core.start(log).lsn);
        }
        model
    }

    /// The state after the first `n` entries of this life.
    pub(crate) fn model_after(&self, n: usize) -> Model {
        let mut model = self.base.clone();
        self.submitted.iter().take(n).for_each(|(_, entry)| model.apply(entry));
        model
    }

    /// After how many entries of this life, of the first `submitted`, a crash may leave the log: never in the midst of a
    /// submission that fits a group.
    pub(crate) fn states(&self, least: usize, submitted: usize) -> Vec<usize> {
        let ticket = |i: usize| self.submitted.get(i).map(|(ticket, _)| *ticket);
        let is_between = |n: &usize| {
            let within =
                n.checked_sub(1).and_then(ticket).filter(|before| *n < submitted && Some(*before) == ticket(*n));
            within.is_none_or(|ticket| !self.fits_a_group(ticket))
        };
        (least..=submitted).filter(is_between).collect()
    }

    /// Whether a submission's batches are no more than a group gathers; a single one always has a group.
    fn fits_a_group(&self, of: Ticket) -> bool {
        let entries =
            self.submitted.iter().skip_while(|(ticket, _)| *ticket < of).take_while(|(ticket, _)| *ticket == of);
        let batches: Vec<usize> = entries.map(|(_, entry)| entry.batch_bytes()).filter(|bytes| *bytes > 0).collect();
        batches.len() <= 1 || batches.iter().sum::<usize>() <= options().group_bytes_max
    }

    pub(crate) fn submit(&mut self, entries: Vec<Entry>) -> Result<Ticket, SubmitError> {
        let ticket = self.core.submit(entries.clone())?;
        for mut entry in entries {
            if let Entry::Release { log, before } = &mut entry {
                // As far as it went.
                *before = self.core.start(*log).lsn.next();
            }
            self.submitted.push((ticket, entry));
        }
        self.core.check();
        Ok(ticket)
    }

    /// Appends a batch to a log's accepted end.
    pub(crate) fn append(&mut self, log: LogId, records: u32, bytes: usize) -> Result<Ticket, SubmitError> {
        let end = self.core.end(log);
        let epoch = end.epoch.max(Epoch::new(1, 1));
        self.submit(vec![Entry::Batch(batch(log, end, epoch, records, bytes))])
    }

    fn execute(&mut self, request: &IoRequest) -> Result<(), IoFailure> {
        if self.cuts.is_none() {
            return execute(&mut self.disk, request);
        }
        let mut disks = Vec::new();
        let result = execute(&mut Recorder { disk: &mut self.disk, cuts: &mut disks }, request);
        let (acknowledged, submitted) = (self.acknowledged_entries(), self.submitted.len());
        let cuts = disks.into_iter().map(|disk| PowerCut { disk, acknowledged, submitted });
        self.cuts.get_or_insert_default().extend(cuts);
        result
    }

    /// Takes the next request; what is a write happens now.
    pub(crate) fn take(&mut self) -> bool {
        let Some(request) = self.core.poll_io() else {
            return false;
        };
        if let IoOp::Write { .. } = request.op
            && let Err(failure) = self.execute(&request)
        {
            self.core.on_io(request.id, Err(failure));
            self.settle_completions();
            return true;
        }
        self.flying.push(request);
        true
    }

    /// Finishes the `i`th request under way.
    pub(crate) fn finish(&mut self, i: usize) {
        let request = self.flying.remove(i);
        let written = matches!(request.op, IoOp::Write { .. });
        let result = if written { Ok(()) } else { self.execute(&request) };
        self.core.on_io(request.id, result);
        self.settle_completions();
    }

    pub(crate) fn settle_completions(&mut self) {
        self.core.check();
        while let Some(done) = self.core.poll_completion() {
            match done.result {
                Ok(()) => {
                    assert!(self.acknowledged < Some(done.ticket), "completions are in the order of tickets");
                    self.acknowledged = Some(done.ticket);
                }
                Err(error) => self.failed.push((done.ticket, error)),
            }
        }
    }

    /// Carries everything out, in order, until nothing is left to do.
    pub(crate) fn run(&mut self) {
        loop {
            while self.take() {}
            if self.flying.is_empty() {
                self.settle_completions();
                return;
            }
            self.finish(0);
        }
    }

    /// Entries of this life that were acknowledged.
    pub(crate) fn acknowledged_entries(&self) -> usize {
        self.submitted.iter().filter(|(ticket, _)| Some(*ticket) <= self.acknowledged).count()
    }

    /// Power fails; the log is opened again.
    pub(crate) fn crash(mut self, kind: CrashKind, chance: &mut Chance) -> Result<Self, OpenError> {
        self.disk.crash(kind, &mut |n| chance.below(n));
        Self::open(self.disk, &options())
    }

    /// The process dies; what it wrote is still in the machine's cache.
    pub(crate) fn reopen(mut self) -> Result<Self, OpenError> {
        self.disk.kill_process();
        Self::open(self.disk, &options())
    }

    /// Appends `n` batches to one log, each acknowledged in a group of its own.
    pub(crate) fn append_synced(&mut self, log: LogId, n: u64, bytes: usize) {
        for _ in 0..n {
            self.append(log, 1, bytes).unwrap();
            self.run();
        }
    }

    /// Appends until the log is in another segment; the LSN of its end.
    pub(crate) fn append_synced_to_the_next_segment(&mut self, log: LogId) -> Lsn {
        let before = self.core.stats().active_segment;
        while self.core.stats().active_segment == before {
            self.append_synced(log, 1, 5000);
        }
        self.core.end(log).lsn
    }

    pub(crate) fn lsns(&mut self, of: LogId) -> Vec<u64> {
        let content = self.content();
        content.logs.get(&of).map_or_else(Vec::new, |batches| batches.iter().map(|b| b.last_lsn().get()).collect())
    }
}

pub(crate) fn end_lsn(world: &World, of: LogId) -> Lsn {
    world.core.end(of).lsn
}

/// A disk that remembers what it was like behind each change.
pub(crate) struct Recorder<'a> {
    pub(crate) disk: &'a mut VirtualDisk,
    pub(crate) cuts: &'a mut Vec<VirtualDisk>,
}

impl Recorder<'_> {
    fn changed<T>(&mut self, result: Result<T, IoFailure>) -> Result<T, IoFailure> {
        self.cuts.push(self.disk.clone());
        result
    }
}

impl Io for Recorder<'_> {
    fn lock(&mut self) -> Result<LockOutcome, IoFailure> {
        self.disk.lock()
    }

    fn list(&mut self) -> Result<Vec<String>, IoFailure> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> Result<(), IoFailure> {
        let result = self.disk.create(name);
        self.changed(result)
    }

    fn len(&mut self, name: &str) -> Result<u64, IoFailure> {
        self.disk.len(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, IoFailure> {
        self.disk.read_at(name, offset, buffer)
    }

    fn write_at(&mut self, name: &str, offset: u64, slices: &[Bytes]) -> Result<(), IoFailure> {
        let result = self.disk.write_at(name, offset, slices);
        self.changed(result)
    }

    fn sync_data(&mut self, name: &str) -> Result<(), IoFailure> {
        let result = self.disk.sync_data(name);
        self.changed(result)
    }

    fn sync_dir(&mut self) -> Result<(), IoFailure> {
        let result = self.disk.sync_dir();
        self.changed(result)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), IoFailure> {
        let result = self.disk.rename(from, to);
        self.changed(result)
    }

    fn remove(&mut self, name: &str) -> Result<(), IoFailure> {
        let result = self.disk.remove(name);
        self.changed(result)
    }

    fn settle(&mut self, name: &str) -> Result<(), IoFailure> {
        self.disk.settle(name)
    }

    fn entropy(&mut self) -> u64 {
        self.disk.entropy()
    }

    fn process_id(&self) -> u32 {
        self.disk.process_id()
    }
}

//! What is there, and where to read it.

use bytes::Bytes;

use super::index::LogState;
use super::live_set::{self, LiveSet};
use super::segment_index::{IndexCache, IndexEntry, IndexRequest, SegmentIndex};
use super::{Cut, DamagedSlot, Life, LogCore, Slot, Stats};
use crate::error::ReadError;
use crate::format::batch::Batch;
use crate::format::ids::{Chain, Epoch, LogId, LogPosition, Lsn};
use crate::format::record::HardStateKind;
use crate::io::{Io, IoFailure, segment_name};
use crate::limits::BATCH_BYTES_MAX;

/// Where one batch lies, and which it must be.
///
/// ```
/// use towline_wal::{LogCore, Lsn};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = three();
/// // `disk` holds a log of three batches.
/// let (core, _) = LogCore::recover(&mut disk, &options).unwrap();
/// let plan = core.plan_read(log, Lsn::new(2), 1 << 20).unwrap();
/// assert_eq!((plan.len(), plan[0].first, plan[0].segment), (2, Lsn::new(2), 1));
/// // The files are read without the core: another thread may do it.
/// let batch = plan[0].read(&mut disk).unwrap();
/// assert_eq!(batch.blocks().next().unwrap().decode(100).unwrap(), "two");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// The segment's number.
    pub segment: u64,
    /// Byte in the segment.
    pub offset: u64,
    /// Bytes of the batch.
    pub len: u32,
    /// The log.
    pub log: LogId,
    /// First LSN of the batch.
    pub first: Lsn,
    /// Last LSN of the batch.
    pub last: Lsn,
    /// Its epoch.
    pub epoch: Epoch,
    /// The chain at its end.
    pub chain: Chain,
    /// What it continues, as far as the index knows.
    pub before: Option<LogPosition>,
}

impl Extent {
    pub(crate) fn of(log: LogId, slot: &Slot) -> Self {
        let Slot { segment, offset, len, first, last, epoch, chain } = *slot;
        Self { segment, offset: u64::from(offset), len, log, first, last, epoch, chain, before: None }
    }

    pub(crate) fn entry(log: LogId, state: &LogState, segment: u64, entry: &IndexEntry) -> Self {
        let IndexEntry { first, last, chain, offset, len } = *entry;
        let epoch = state.epoch_of(first);
        Self { segment, offset: u64::from(offset), len, log, first, last, epoch, chain, before: None }
    }

    /// Reads the batch and checks that it is the one: bytes, log, LSNs, epoch, chain, and what it continues.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if it is not, or if the medium can't read it, twice; [`ReadError::Io`] if the system refused
    /// in a way that says nothing about the file ([`IoFailure::is_refusal`](crate::io::IoFailure::is_refusal)).
    pub fn read(&self, io: &mut dyn Io) -> Result<Batch, ReadError> {
        // One more attempt: what flips on the way is not damage.
        for _ in 0..2 {
            if let Some(batch) = self.attempt(io)? {
                return Ok(batch);
            }
        }
        Err(self.corrupt())
    }

    /// One read: `None` if the bytes are not the batch, or the medium can't read them.
    pub(crate) fn attempt(&self, io: &mut dyn Io) -> Result<Option<Batch>, IoFailure> {
        if self.bytes_len() > BATCH_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; self.bytes_len()];
        match io.read_at(&segment_name(self.segment), self.offset, &mut bytes) {
            Ok(read) if read == bytes.len() => Ok(self.verify(Bytes::from(bytes))),
            Err(failure) if failure.is_refusal() => Err(failure),
            // What stays so is told as corrupt, with its range.
            _ => Ok(None),
        }
    }

    /// The batch, if these bytes are it. In which way they are not plays no part: the range can't be read.
    pub(crate) fn verify(&self, bytes: Bytes) -> Option<Batch> {
        Batch::decode(bytes).ok().filter(|batch| self.is(batch))
    }

    fn is(&self, batch: &Batch) -> bool {
        let at = batch.position();
        (batch.log(), batch.first_lsn()) == (self.log, self.first)
            && (at.epoch, at.chain) == (self.epoch, self.chain)
            && self.before.is_none_or(|before| batch.follows(&before))
    }

    /// Whether both are the same batch at the same place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Self { before: None, ..*self } == Self { before: None, ..*other }
    }

    const fn end(&self) -> LogPosition {
        LogPosition { epoch: self.epoch, lsn: self.last, chain: self.chain }
    }

    pub(crate) fn bytes_len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    fn corrupt(&self) -> ReadError {
        let Self { log, first, last, segment, offset, .. } = *self;
        ReadError::Corrupt { log, first, last, file: segment_name(segment), offset }
    }
}

impl LogCore {
    /// The end of what was accepted.
    #[must_use]
    pub fn end(&self, log: LogId) -> LogPosition {
        self.index.end(log)
    }

    /// The end of what was written, and can be read.
    #[must_use]
    pub fn written_end(&self, log: LogId) -> LogPosition {
        self.index.get(log).map_or_else(|| LogPosition::origin(log), |state| state.written)
    }

    /// The end of what is durable.
    #[must_use]
    pub fn durable_end(&self, log: LogId) -> LogPosition {
        self.index.get(log).map_or_else(|| LogPosition::origin(log), |state| state.durable)
    }

    /// Whether a batch that ends at this position is the log's, and durable.
    pub(crate) fn is_durable(&self, log: LogId, at: &LogPosition) -> bool {
        self.index.get(log).is_some_and(|state| state.is_durable(at))
    }

    /// Where the log starts: its origin, or behind what was released.
    #[must_use]
    pub fn start(&self, log: LogId) -> LogPosition {
        self.index.get(log).map_or_else(|| LogPosition::origin(log), |state| state.start)
    }

    /// The position at `lsn`, if a batch ends there or the log starts there. Inside a segment whose index is not loaded
    /// ([`LogCore::index_needed`]) only the last boundary is known.
    #[must_use]
    pub fn position_at(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        self.index.position_at(log, lsn)
    }

    /// The last batch boundary at or before `lsn`; `None` before the log's start. Inside a segment whose index is not
    /// loaded ([`LogCore::index_needed`]) it is an earlier one.
    #[must_use]
    pub fn boundary_at_or_before(&self, log: LogId, lsn: Lsn) -> Option<LogPosition> {
        self.index.boundary_at_or_before(log, lsn)
    }

    /// Where to release a log ([`Entry::Release`](super::Entry::Release), before the LSN behind this one) so that about so
    /// many bytes of it are kept, never more than `bytes_max`: a boundary of batches among the newer part of the log, of
    /// segments among the older. The log's start, if it has no more than that.
    #[must_use]
    pub fn boundary_keeping(&self, log: LogId, bytes_max: u64) -> Lsn {
        self.index.get(log).map_or(Lsn::ZERO, |state| state.boundary_keeping(bytes_max))
    }

    /// What must be loaded before the log's boundaries around `lsn`, or the batch that holds it, are known. Only of logs
    /// that outgrew [`Options::index_bytes_max`](super::Options::index_bytes_max).
    #[must_use]
    pub fn index_needed(&self, log: LogId, lsn: Lsn) -> Option<IndexRequest> {
        self.index_request(self.index.index_needed(log, lsn)?)
    }

    pub(super) fn index_request(&self, number: u64) -> Option<IndexRequest> {
        let segment = self.segments.get(number)?;
        Some(IndexRequest {
            directory: self.directory,
            segment: number,
            salt: segment.salt,
            segment_bytes: self.options.segment_bytes,
            first_group: segment.first_group,
            last_group: segment.last_group,
            compacted: segment.compacted,
        })
    }

    /// Takes a loaded index, if the segment is still the one that it was loaded from.
    pub fn install_index(&mut self, index: SegmentIndex) {
        if self.segments.get(index.segment).is_some_and(|segment| segment.salt == index.salt) {
            self.index.cache.insert(index);
        }
    }

    /// Loads what is needed to speak of `lsn`: for who drives the log on one thread.
    pub fn load_index(&mut self, io: &mut dyn Io, log: LogId, lsn: Lsn) {
        if let Some(request) = self.index_needed(log, lsn) {
            self.install_index(request.load(io));
        }
    }

    /// The epochs of the log's batches, each with the first LSN it has here, oldest first.
    #[must_use]
    pub fn epochs(&self, log: LogId) -> Vec<(Epoch, Lsn)> {
        self.index.get(log).map_or_else(Vec::new, |state| state.epochs().collect())
    }

    /// The newest accepted hard state of a kind.
    #[must_use]
    pub fn hard_state(&self, log: LogId, kind: HardStateKind) -> Option<Bytes> {
        self.index.get(log)?.hard.get(&kind).map(|hard| hard.bytes.clone())
    }

    /// The kinds of hard state of which the log's newest one may be lost: in this life or an earlier one, an open found
    /// something damaged that held one, or may have. What [`LogCore::hard_state`] tells is then perhaps older than what was
    /// promised; until the log's owner sets one of that kind. Of a log that is not here, all kinds, if something was found lost
    /// in this life of which nothing tells whose it was.
    #[must_use]
    pub fn doubtful_hard_states(&self, log: LogId) -> Vec<HardStateKind> {
        match self.index.get(log) {
            Some(state) => state.doubts.keys().copied().collect(),
            // Whatever was lost may have been the only thing that told of it.
            None if self.losses_unknown > 0 => HardStateKind::ALL.to_vec(),
            None => Vec::new(),
        }
    }

    /// All logs, in the order of their ids.
    #[must_use]
    pub fn logs(&self) -> Vec<LogId> {
        self.index.iter().map(|(log, _)| log).collect()
    }

    /// The logs from which something may be missing, and from where: what an open dropped without proof that it was
    /// never acknowledged, or found damaged, in this life or an earlier one; until [`Entry::Settle`](super::Entry::Settle).
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        self.index.iter().filter_map(|(log, state)| state.cut.map(|from| Cut { log, from })).collect()
    }

    /// From where something may be missing of one log, as [`LogCore::cuts`] tells it of all.
    #[must_use]
    pub fn cut_of(&self, log: LogId) -> Option<Lsn> {
        self.index.get(log).and_then(|state| state.cut)
    }

    /// Ranges of the log that were durable and can't be read: what the open found, and what a reader found since
    /// ([`LogCore::note_damaged`]), and nobody put again ([`Entry::Mend`](super::Entry::Mend)).
    #[must_use]
    pub fn damaged(&self, log: LogId) -> Vec<(Lsn, Lsn)> {
        self.index.get(log).map_or_else(Vec::new, |s| s.still_damaged().iter().map(|d| (d.first, d.last)).collect())
    }

    /// Where to read whole batches, from the one that contains `from`, up to about `max_bytes` but at least one;
    /// empty at the end of what is written. Damage ends the plan before it, or is the answer if it comes first.
    ///
    /// # Errors
    /// [`ReadError::Released`] before the log's start, [`ReadError::Corrupt`] on damage, [`ReadError::NotLoaded`] in a
    /// segment whose index is not in memory ([`LogCore::index_needed`]).
    pub fn plan_read(&self, log: LogId, from: Lsn, max_bytes: usize) -> Result<Vec<Extent>, ReadError> {
        let Some(state) = self.index.get(log) else {
            return Ok(Vec::new());
        };
        if from <= state.start.lsn && state.start.lsn > Lsn::ZERO {
            return Err(ReadError::Released { log, start: state.start.lsn });
        }
        let mut plan = Plan { extents: Vec::new(), bytes: 0, next: from, is_ended: false };
        let ended = self.plan_parts(log, state, &mut plan, max_bytes);
        let error = ended.err().or_else(|| damage_between(log, state, plan.next, plan.next));
        match error {
            Some(error) if plan.extents.is_empty() => Err(error),
            _ => Ok(plan.extents),
        }
    }

    /// What was put again, and what was never gone, as they come. `Err`: the plan can't go on behind it.
    fn plan_parts(&self, log: LogId, state: &LogState, plan: &mut Plan, bytes_max: usize) -> Result<(), ReadError> {
        loop {
            let before = plan.next;
            if let Some(mended) = state.mends.at(plan.next) {
                let extent = Some(Extent::of(log, &mended.slot)).filter(|_| mended.is_written);
                plan.extend(state, &self.index.cache, extent.into_iter(), bytes_max);
            } else {
                let until = state.mends.next_behind(plan.next);
                self.plan_runs(log, state, plan, until, bytes_max)?;
                if !plan.is_ended {
                    let slots = state.slots.iter().skip(state.slot_at(plan.next)).map(|slot| Extent::of(log, slot));
                    let slots = slots.take_while(|at| at.last <= state.written.lsn && at.first < until);
                    plan.extend(state, &self.index.cache, slots, bytes_max);
                }
            }
            if plan.is_ended || plan.next == before {
                return Ok(());
            }
        }
    }

    /// The part of a plan that lies in folded segments, before `until`. `Err`: it can't go on behind it.
    fn plan_runs(
        &self,
        log: LogId,
        state: &LogState,
        plan: &mut Plan,
        until: Lsn,
        bytes_max: usize,
    ) -> Result<(), ReadError> {
        while let Some(run) = state.run_at(plan.next).filter(|run| run.first < until && plan.next < until) {
            if let Some(error) = damage_between(log, state, plan.next, plan.next.max(run.first)) {
                return Err(error);
            }
            let segment = run.segment;
            let entries = self.index.cache.entries(segment, log).ok_or(ReadError::NotLoaded { segment })?;
            let mut gap = None;
            let known = run.batches(plan.next, entries).map_while(|part| part.map_err(|range| gap = Some(range)).ok());
            let known = known.take_while(|entry| entry.first < until);
            let known = known.map(|entry| Extent::entry(log, state, segment, entry));
            plan.extend(state, &self.index.cache, known, bytes_max);
            if plan.is_ended || plan.next >= until {
                return Ok(());
            }
            if let Some((first, last)) = gap.filter(|(first, _)| *first < until) {
                if let Some(failure) = self.index.cache.failure(segment) {
                    return Err(ReadError::Io(failure.clone()));
                }
                // The segment's groups don't say where these are: its footer was lost, and some of the groups.
                return Err(ReadError::Corrupt { log, first, last, file: segment_name(segment), offset: 0 });
            }
        }
        Ok(())
    }

    /// The first range that ends at or behind `from` and no index tells, in the segment that should hold it: all of it, also where it
    /// begins before that. Otherwise what lies before it would be known neither as a batch nor as damage.
    pub(crate) fn unknown_at(&self, log: LogId, from: Lsn) -> Option<DamagedSlot> {
        let run = self.index.get(log)?.run_at(from)?;
        let entries = self.index.cache.entries(run.segment, log).unwrap_or_default();
        let (first, last) = run.batches(run.first, entries).filter_map(Result::err).find(|(_, last)| *last >= from)?;
        Some(DamagedSlot { first, last, segment: run.segment, offset: 0 })
    }

    /// The batch, if it is one of the newest, which are in memory.
    #[must_use]
    pub fn cached(&self, extent: &Extent) -> Option<Batch> {
        let batch = self.tail.get(extent.segment, extent.offset)?;
        extent.is(batch).then(|| batch.clone())
    }

    /// Whether nothing becomes durable any more: the log is closed, or has failed.
    pub(crate) const fn is_over(&self) -> bool {
        !matches!(self.life, Life::Running)
    }

    /// Counts since the open.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let live = LiveSet::of(self.segments.iter().map(|(number, _)| number));
        Stats {
            live_ranges: live.ranges(),
            live_ranges_bytes: live.bytes(),
            live_ranges_bytes_max: live_set::bytes_max(self.options.segment_bytes),
            queue_bytes: self.queue_bytes,
            active_segment: self.active.as_ref().map_or(0, |active| active.header.number),
            segments_ready: self.ready.len(),
            disk_full: self.no_room,
            segments: self.segments.len(),
            segments_bytes: self.segments.iter().map(|(_, segment)| segment.bytes).sum(),
            live_bytes: self.segments.iter().map(|(_, segment)| segment.live_bytes).sum(),
            index_bytes: self.index_bytes(),
            tail_cache_bytes: self.tail.bytes(),
            poisoned: matches!(self.life, Life::Poisoned(_)),
            ..self.stats
        }
    }

    fn index_bytes(&self) -> usize {
        let logs: usize = self.index.iter().map(|(_, state)| state.index_bytes()).sum();
        logs + self.index.cache.bytes()
    }

    /// Whether the disk has no room ([`Stats::disk_full`]): [`LogCore::stats`] counts what each log has, and this asks none of them.
    #[must_use]
    pub const fn is_disk_full(&self) -> bool {
        self.no_room
    }

    /// Groups written ([`Stats::groups`]), by itself.
    pub(crate) const fn groups_written(&self) -> u64 {
        self.stats.groups
    }

    /// This life of the directory: rises at every open.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The directory's uuid.
    #[must_use]
    pub const fn directory_uuid(&self) -> [u8; 16] {
        self.directory
    }
}

/// What a read will read, as it grows.
struct Plan {
    extents: Vec<Extent>,
    bytes: usize,
    /// The LSN behind it.
    next: Lsn,
    /// It is full, or damage follows: nothing may be added behind what was left out.
    is_ended: bool,
}

impl Plan {
    /// Adds what fits, up to damage.
    fn extend(
        &mut self,
        state: &LogState,
        cache: &IndexCache,
        extents: impl Iterator<Item = Extent>,
        bytes_max: usize,
    ) {
        for extent in extents {
            let fits = self.extents.is_empty() || self.bytes.saturating_add(extent.bytes_len()) <= bytes_max;
            if !fits || damage_between(extent.log, state, self.next, extent.last).is_some() {
                self.is_ended = true;
                return;
            }
            self.bytes = self.bytes.saturating_add(extent.bytes_len());
            self.next = extent.last.next();
            let last = self.extents.last().filter(|last| last.last == extent.first.prev());
            let before = last.map(Extent::end).or_else(|| state.position_at(extent.log, extent.first.prev(), cache));
            self.extents.push(Extent { before, ..extent });
        }
    }
}

fn damage_between(log: LogId, state: &LogState, first: Lsn, last: Lsn) -> Option<ReadError> {
    let range = state.damage_between(first, last)?;
    let file = if range.segment == 0 { "(unknown)".to_owned() } else { segment_name(range.segment) };
    Some(ReadError::Corrupt { log, first: range.first, last: range.last, file, offset: range.offset })
}

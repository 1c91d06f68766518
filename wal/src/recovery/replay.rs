//! From directories back to the index: the same operations as at submission, with the chain checked at each batch.
//! What does not fit is damage, never a silent skip.

use std::collections::{BTreeMap, BTreeSet};

use super::numbers::Numbers;
use super::report::OpenReport;
use super::scan::{Scanned, ScannedGroup, is_entry};
use crate::core::index::room_of;
use crate::core::{DamagedSlot, Edge, HardState, Index, IndexRequest, LogCore, Run, Segment, Segments, Slot};
use crate::error::OpenError;
use crate::format::batch::Batch;
use crate::format::footer::{Footer, Summary, SummaryLog};
use crate::format::ids::{LogId, LogPosition, Lsn};
use crate::format::manifest::Manifest;
use crate::format::record::{BatchEntry, HardStateKind, Record};
use crate::io::{Io, IoFailure, read_exact, segment_name};

/// A group that is lost: the next one repeats what it held.
#[derive(Debug, Clone, Copy)]
struct Lost {
    number: u64,
    segment: u64,
}

/// Gathers the state of all logs, segment by segment.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) index: Index,
    pub(crate) report: OpenReport,
    /// The tail segment's content, for its footer and for the next group's repeated directory.
    pub(crate) footer: Footer,
    pub(crate) last_own: Vec<Record>,
    pub(crate) incarnation: u64,
    pub(crate) clean: bool,
    /// What each segment that was read is, and what it must outlive.
    pub(crate) segments: Segments,
    pub(crate) manifest: Option<Manifest>,
    /// Numbers that were live once and are no more, as far as records and headers tell.
    pub(crate) retired: Numbers,
    lost: Option<Lost>,
    /// Batches that are known by the segments' summaries only.
    folded: u64,
    /// Logs that had no batch since something unknown was lost: their tails are in doubt.
    suspects: BTreeSet<LogId>,
    doubts: Doubts,
    /// A life began, and what its open dropped may not be told to the end: power failed between the groups that tell it.
    pub(crate) is_opening: bool,
    /// More than one group tells it: one that is not full may have been cut short by its segment's end. What comes behind it says
    /// that it was not.
    pub(crate) is_telling: bool,
    /// A read that the system refused, of something that decides.
    pub(crate) refused: Option<IoFailure>,
    /// The last LSN of what is damaged in each log. All between the log's end and there is.
    damaged_to: BTreeMap<LogId, Lsn>,
    /// The last LSN of what a release took back of each log, as of another history.
    dropped: BTreeMap<LogId, Lsn>,
}

/// Hard states that are in doubt, each with the order in which it came to be.
#[derive(Debug, Default)]
struct Doubts {
    since: BTreeMap<(LogId, HardStateKind), u64>,
    next: u64,
}

impl Doubts {
    fn insert(&mut self, log: LogId, kind: HardStateKind) {
        self.since.entry((log, kind)).or_insert(self.next);
        self.next += 1;
    }

    fn remove(&mut self, log: LogId, kind: HardStateKind) {
        self.since.remove(&(log, kind));
    }

    fn remove_log(&mut self, log: LogId) {
        HardStateKind::ALL.into_iter().for_each(|kind| self.remove(log, kind));
    }

    /// The oldest first.
    fn take(&mut self) -> Vec<(LogId, HardStateKind)> {
        let mut doubts: Vec<_> = std::mem::take(&mut self.since).into_iter().collect();
        doubts.sort_unstable_by_key(|(_, since)| *since);
        doubts.into_iter().map(|(doubt, _)| doubt).collect()
    }
}

impl Replay {
    pub(crate) fn new(manifest: Manifest) -> Self {
        Self { manifest: Some(manifest), ..Self::default() }
    }

    /// Two writers would each have their own incarnation, and the lower one would come back.
    pub(crate) fn incarnation(&mut self, found: u64, segment: u64, offset: u64) -> Result<(), OpenError> {
        let before = self.incarnation;
        if found < before {
            return Err(OpenError::TwoWriters { file: segment_name(segment), offset, found, before });
        }
        self.incarnation = found;
        Ok(())
    }

    /// Takes what a scan found in a segment.
    pub(crate) fn scanned(&mut self, io: &mut dyn Io, segment: u64, items: Vec<Scanned>) -> Result<(), OpenError> {
        self.footer = Footer::default();
        for item in items {
            match item {
                Scanned::Gap { first, last } => {
                    if first < last && !self.is_compacted(segment) {
                        // The next group names the last of them only.
                        self.doubt_hard_states();
                    }
                    self.lose(Lost { number: last, segment });
                }
                Scanned::Group(group) => self.group(io, segment, *group)?,
            }
        }
        Ok(())
    }

    fn group(&mut self, io: &mut dyn Io, segment: u64, group: ScannedGroup) -> Result<(), OpenError> {
        let header = group.header;
        self.incarnation(header.incarnation, segment, header.offset)?;
        self.report.groups += 1;
        self.clean = header.flags.closing;
        let Some(own) = group.own else {
            // What it repeated of the group before is gone with it.
            self.lose(Lost { number: header.number, segment });
            return Ok(());
        };
        let is_full = self.is_full(header.own_len);
        let may_go_on = is_full || (self.is_telling && !own.is_empty());
        self.is_opening &= Self::tells_doubts_only(&own) && may_go_on;
        self.is_telling = self.is_opening;
        self.restore_lost(io, segment, header.number, &group.repeated);
        let mut batches = group.batches.into_iter();
        for record in &own {
            match record {
                Record::Batch(entry) => self.batch(io, entry, segment, batches.next().flatten().as_ref(), true),
                Record::Mended(entry) => {
                    if batches.next().flatten().is_some() {
                        self.mend(io, entry, segment, true);
                    }
                }
                other => self.record(io, other, segment, true),
            }
        }
        self.last_own = own;
        Ok(())
    }

    fn tells_doubts_only(own: &[Record]) -> bool {
        own.iter().all(|record| matches!(record, Record::Cut { .. } | Record::Mention { .. }))
    }

    /// Whether a group that tells doubts ended because not one more fitted its directory.
    fn is_full(&self, own_len: u32) -> bool {
        let one_more = Record::Cut { log: LogId::new(0), from: Lsn::ZERO }.encoded_len();
        let max = self.manifest.map_or(0, |manifest| LogCore::directory_bytes_max(manifest.segment_bytes));
        usize::try_from(own_len).unwrap_or(usize::MAX).saturating_add(one_more) > max
    }

    /// Something that had been durable is lost. The next group may say what.
    pub(crate) fn lose_unknown(&mut self) {
        self.suspects = self.index.iter().map(|(log, _)| log).collect();
        self.lost = None;
    }

    /// Whether a lost group waits to be named by the next one.
    pub(crate) const fn has_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Something was lost of which nothing is known: any log's hard states may have been in it, and what is known of
    /// them may be older. One that is found later is certain again.
    pub(crate) fn doubt_hard_states(&mut self) {
        self.report.losses_unknown += 1;
        for (log, _) in self.index.iter() {
            for kind in HardStateKind::ALL {
                self.doubts.insert(log, kind);
            }
        }
    }

    fn lose(&mut self, lost: Lost) {
        if self.lost.is_some() {
            self.doubt_hard_states();
        }
        self.lose_unknown();
        self.lost = Some(lost);
        self.last_own = Vec::new();
    }

    /// The lost group's directory, as the group behind it repeats it: its batches may be intact all the same.
    fn restore_lost(&mut self, io: &mut dyn Io, segment: u64, number: u64, repeated: &[Record]) {
        let Some(lost) = self.lost.take() else { return };
        // Compaction numbers groups with holes; the first of a compacted segment repeats what was before the segment.
        let is_compacted = |s: &Segment| s.compacted && s.first_group == lost.number + 1;
        if lost.number + 1 != number && !self.segments.get(segment).is_some_and(is_compacted) {
            self.doubt_hard_states();
            return;
        }
        // They lie in the lost group's segment, so not in the footer of the one that is being read: taken by that, when the lost
        // group can be read again, they would take effect behind it, once more, and without its batches.
        let gather = lost.segment == segment;
        for record in repeated {
            match record {
                Record::Mention { log, kind } => self.doubts.insert(*log, *kind),
                Record::Batch(entry) => {
                    let batch = self.read_entry(io, lost.segment, entry);
                    self.batch(io, entry, lost.segment, batch.as_ref(), gather);
                }
                Record::Mended(entry) => {
                    if self.read_entry(io, lost.segment, entry).is_some() {
                        self.mend(io, entry, lost.segment, gather);
                    }
                }
                other => self.record(io, other, lost.segment, gather),
            }
        }
    }

    fn is_compacted(&self, segment: u64) -> bool {
        self.segments.get(segment).is_some_and(|segment| segment.compacted)
    }

    /// Takes a segment by its footer, which a good checksum vouches for; with the offsets, batch by batch.
    pub(crate) fn summary(
        &mut self,
        io: &mut dyn Io,
        segment: u64,
        summary: &Summary,
        offsets: Option<Vec<Vec<BatchEntry>>>,
    ) {
        for record in summary.records.iter().filter(|record| !matches!(record, Record::Mended(_))) {
            self.record(io, record, segment, false);
        }
        let mut offsets = offsets.map(Vec::into_iter);
        for log in &summary.logs {
            self.join(io, log.log, &log.before, segment);
            match offsets.as_mut().map(|logs| logs.next().unwrap_or_default()) {
                Some(entries) => entries.iter().for_each(|entry| self.batch_behind(entry, segment)),
                None => self.run_behind(log, segment),
            }
        }
        for record in &summary.records {
            if let Record::Mended(entry) = record {
                self.mend(io, entry, segment, false);
            }
        }
        self.last_own = Vec::new();
        self.clean = false;
        // It got a footer when the life was under way, or when an open had seen what it lacked.
        self.is_opening = false;
    }

    /// Loads what must be known before the log's boundaries around `lsn` are.
    fn load(&mut self, io: &mut dyn Io, log: LogId, lsn: Lsn) {
        let Some(number) = self.index.index_needed(log, lsn) else { return };
        if let Some(request) = self.index_request(number) {
            self.index.cache.insert(request.load(io));
            self.note_refusal(self.index.cache.failure(number).cloned());
        }
    }

    /// What the system refuses to read says nothing about the file: what follows from it must not become the truth.
    fn note_refusal(&mut self, failure: Option<IoFailure>) {
        self.refused = self.refused.take().or_else(|| failure.filter(IoFailure::is_refusal));
    }

    /// The batch at the place that a directory names, if it is there. Once more, if not: what flips on the way is not damage.
    fn read_entry(&mut self, io: &mut dyn Io, segment: u64, entry: &BatchEntry) -> Option<Batch> {
        let len = usize::try_from(entry.len).ok().filter(|len| *len <= crate::limits::BATCH_BYTES_MAX)?;
        for _ in 0..2 {
            match read_exact(io, &segment_name(segment), u64::from(entry.offset), len) {
                Ok(bytes) => {
                    if let Some(batch) = Batch::decode(bytes.into()).ok().filter(|batch| is_entry(batch, entry)) {
                        return Some(batch);
                    }
                }
                Err(failure) => self.note_refusal(Some(failure)),
            }
        }
        None
    }

    /// How to read a segment's index again.
    pub(crate) fn index_request(&self, number: u64) -> Option<IndexRequest> {
        let (segment, manifest) = (self.segments.get(number)?, self.manifest?);
        Some(IndexRequest {
            directory: manifest.directory,
            segment: number,
            salt: segment.salt,
            segment_bytes: manifest.segment_bytes,
            first_group: segment.first_group,
            last_group: segment.last_group,
            compacted: segment.compacted,
        })
    }

    /// All batches of a log in a segment, whose predecessor is known only by its LSN.
    fn run_behind(&mut self, log: &SummaryLog, segment: u64) {
        let (first, end) = (log.before.lsn.next(), self.index.end(log.log));
        self.gap(log.log, end.lsn, first);
        if first <= end.lsn || log.epochs.first().is_some_and(|(epoch, _)| *epoch < end.epoch) {
            self.damage(log.log, first, log.end.lsn, segment, 0);
            return;
        }
        self.suspects.remove(&log.log);
        let state = self.index.log(log.log);
        self.folded += u64::from(log.batches) + u64::try_from(state.fold(u64::MAX)).unwrap_or(0);
        let bytes = room_of(u64::from(log.batches), u64::from(log.bytes));
        state.push_run(Run { segment, first, end: log.end, bytes }, &log.epochs);
    }

    /// A batch whose predecessor is known only by its LSN.
    fn batch_behind(&mut self, entry: &BatchEntry, segment: u64) {
        let end = self.index.end(entry.log);
        self.gap(entry.log, end.lsn, entry.first);
        if entry.first <= end.lsn || entry.epoch < end.epoch {
            // Neither is ever written: what says so can't be believed about its place in the log.
            self.damage(entry.log, entry.first, entry.last, segment, u64::from(entry.offset));
            return;
        }
        self.push(entry, segment);
    }

    /// What lies between the log's end and the first record of what comes next was there, whether that is believed or not.
    fn gap(&mut self, log: LogId, end: Lsn, first: Lsn) {
        // All between the end and the last that is damaged is known to be.
        let known = self.damaged_to.get(&log).map_or(end, |to| end.max(*to));
        if known.next() < first {
            self.damage(log, known.next(), first.prev(), 0, 0);
        }
    }

    fn push(&mut self, entry: &BatchEntry, segment: u64) {
        self.suspects.remove(&entry.log);
        self.index.log(entry.log).push(Slot::placed(entry, segment));
    }

    /// Takes a batch: good (`Some`), or known by name only and unreadable.
    fn batch(&mut self, io: &mut dyn Io, entry: &BatchEntry, segment: u64, batch: Option<&Batch>, gather: bool) {
        let log = entry.log;
        match batch {
            Some(batch) => {
                if !batch.follows(&self.index.end(log)) {
                    self.rejoin(io, batch, segment);
                }
                if self.index.end(log).lsn.next() < entry.first {
                    let edge = Edge::Before(Box::new(*batch.header()));
                    self.index.log(log).mends.note_edge(entry.first.prev(), edge);
                }
            }
            None => {
                if entry.first <= self.index.end(log).lsn {
                    self.cut_back(io, log, entry.first.prev(), segment);
                }
                self.gap(log, self.index.end(log).lsn, entry.first);
                self.damage(log, entry.first, entry.last, segment, u64::from(entry.offset));
            }
        }
        let before = self.index.end(log);
        self.batch_behind(entry, segment);
        if gather {
            self.footer.batch(*entry, before);
        }
    }

    /// What was put again where the log was damaged. What is damaged there is found again at each open, or not even looked at,
    /// behind a good footer: the newer batch counts.
    fn mend(&mut self, io: &mut dyn Io, entry: &BatchEntry, segment: u64, gather: bool) {
        self.load(io, entry.log, entry.last);
        let there = self.index.position_at(entry.log, entry.last);
        let Some(state) = self.index.get_mut(entry.log) else { return };
        // Of what was released or cut off since, or is of another history than what is there, it says nothing any more.
        let is_of_log = entry.last <= state.end().lsn && entry.first > state.start.lsn;
        if is_of_log && there.is_none_or(|there| there == entry.position()) {
            drop(state.mend(Slot::placed(entry, segment), true));
            if gather {
                self.footer.record(&Record::Mended(*entry));
            }
        }
    }

    /// A good batch that is not the continuation of what is known: something between is lost. If it continues an
    /// earlier boundary, that was a truncation.
    fn rejoin(&mut self, io: &mut dyn Io, batch: &Batch, segment: u64) {
        let log = batch.log();
        self.load(io, log, batch.first_lsn().prev());
        let before = self.index.position_at(log, batch.first_lsn().prev());
        if let Some(before) = before.filter(|at| batch.follows(at)) {
            self.truncate(log, before, segment);
            self.report.truncations_implied += 1;
            return;
        }
        self.mismatch(io, log, batch.first_lsn(), segment);
    }

    fn release(&mut self, log: LogId, at: LogPosition, segment: u64) {
        let end = self.index.end(log).lsn;
        let state = self.index.log(log);
        drop(state.release(at));
        if state.first_epoch().is_some_and(|epoch| epoch < at.epoch) {
            // No epoch ever falls: what is left is of another history than what was released. It was damaged as long as that was
            // there, and is so behind it too.
            let last = self.damaged_to.get(&log).map_or(end, |to| end.max(*to));
            self.truncate(log, at, segment);
            // What of it comes again, in the history that was released, is good: only the rest is told at the end.
            self.dropped.insert(log, last);
        }
    }

    fn truncate(&mut self, log: LogId, to: LogPosition, segment: u64) {
        // Of a log that is not there nothing can be cut off, and it is not to appear by that.
        let Some(state) = self.index.get_mut(log) else { return };
        if let Some(from) = state.truncate(to).lowest(segment) {
            self.segments.kill(segment, from);
        }
        self.forget_beyond(log, to.lsn);
    }

    /// Nothing of the log is left behind `lsn`.
    fn forget_beyond(&mut self, log: LogId, lsn: Lsn) {
        for known in [&mut self.damaged_to, &mut self.dropped] {
            known.entry(log).and_modify(|last| *last = lsn.min(*last));
        }
    }

    /// The history that a footer's first batch continues must be the one that is known.
    fn join(&mut self, io: &mut dyn Io, log: LogId, before: &LogPosition, segment: u64) {
        if self.index.log(log).end() == *before {
            return;
        }
        self.load(io, log, before.lsn);
        if self.index.end(log).lsn < before.lsn {
            self.index.log(log).mends.note_edge(before.lsn, Edge::At(*before));
        }
        if self.index.has(log, before) {
            self.truncate(log, *before, segment);
            self.report.truncations_implied += 1;
            return;
        }
        self.mismatch(io, log, before.lsn.next(), segment);
    }

    /// What is known ends before `first`, or is of another history: the range between is damaged.
    fn mismatch(&mut self, io: &mut dyn Io, log: LogId, first: Lsn, segment: u64) {
        let end = self.index.end(log).lsn;
        if end.next() < first {
            return; // `batch_behind` reports the gap.
        }
        self.load(io, log, first.prev().prev());
        let kept = self.index.boundary_at_or_before(log, first.prev().prev()).map_or(Lsn::ZERO, |at| at.lsn);
        self.cut_back(io, log, kept, segment);
    }

    /// Takes back what is known behind the last boundary at or before `lsn`.
    fn cut_back(&mut self, io: &mut dyn Io, log: LogId, lsn: Lsn, segment: u64) {
        self.load(io, log, lsn);
        if let Some(at) = self.index.boundary_at_or_before(log, lsn) {
            self.truncate(log, at, segment);
            if at.lsn < lsn {
                self.damage(log, at.lsn.next(), lsn, segment, 0);
            }
        }
    }

    fn record(&mut self, io: &mut dyn Io, record: &Record, segment: u64, gather: bool) {
        match record {
            Record::Truncate { log, to } => {
                // In a segment of which only the footer's summary was read, the record is believed.
                let believed = self.index.index_needed(*log, to.lsn).is_some();
                if believed || self.index.end(*log) == *to || self.index.has(*log, to) {
                    self.truncate(*log, *to, segment);
                } else if to.lsn < self.index.end(*log).lsn {
                    // The boundary itself is lost; what lies behind it must not come back.
                    self.cut_back(io, *log, to.lsn, segment);
                } else {
                    // Nothing is known behind the boundary but damage, which is over there.
                    self.truncate(*log, *to, segment);
                }
            }
            Record::Remove { log } => {
                if let Some(from) = self.index.remove(*log).lowest(segment) {
                    self.segments.kill(segment, from);
                }
                self.suspects.remove(log);
                self.doubts.remove_log(*log);
                self.forget_beyond(*log, Lsn::ZERO);
            }
            Record::Anchor { log, at } => self.release(*log, *at, segment),
            Record::Reset { log, to } => {
                if let Some(from) = self.index.log(*log).reset(*log, *to).lowest(segment) {
                    self.segments.kill(segment, from);
                }
                self.suspects.remove(log);
                self.forget_beyond(*log, Lsn::ZERO);
            }
            Record::HardState { log, kind, bytes } => {
                let hard = HardState { bytes: bytes.clone(), segment };
                self.index.log(*log).hard.insert(*kind, hard);
                self.doubts.remove(*log, *kind);
            }
            Record::Cut { log, from } => {
                let state = self.index.log(*log);
                state.cut = Some(state.cut.map_or(*from, |cut| cut.min(*from)));
            }
            Record::Settled { log } => {
                if let Some(from) = self.index.get_mut(*log).and_then(|state| state.settle(segment)) {
                    self.segments.kill(segment, from);
                }
            }
            Record::Batch(_) | Record::Mended(_) | Record::Retirement { .. } | Record::Gone { .. } => {}
            // An open before this one, or whoever said the hard state again, doubted it.
            Record::Mention { log, kind } => self.doubts.insert(*log, *kind),
            Record::Closing { .. } => {}
        }
        if let Some(state) = record.log().and_then(|log| self.index.get_mut(log)) {
            state.place_record(record, segment);
        }
        if gather {
            self.footer.record(record);
        }
    }

    fn damage(&mut self, log: LogId, first: Lsn, last: Lsn, segment: u64, offset: u64) {
        let damaged = &mut self.index.log(log).damaged;
        // Most of it comes in the order of the log: then none that is there reaches so far.
        let to = self.damaged_to.entry(log).or_insert(Lsn::ZERO);
        if last <= *to && damaged.iter().any(|range| range.first <= first && range.last >= last) {
            return;
        }
        *to = last.max(*to);
        damaged.push(DamagedSlot { first, last, segment, offset });
    }

    /// The scan ended with a cut: what it held, if known, or else the tail of every log, is in doubt.
    pub(crate) fn cut(&mut self, records: Option<&[Record]>) {
        match records {
            None => self.suspects = self.index.iter().map(|(log, _)| log).collect(),
            Some(records) => self.suspects.extend(records.iter().filter_map(Record::log)),
        }
        self.clean = false;
    }

    /// Everything is replayed: turns what is still in doubt into cuts, and completes the report.
    pub(crate) fn finish(&mut self) {
        if self.lost.take().is_some() {
            self.doubt_hard_states();
        }
        self.report.doubtful_hard_states = self.doubts.take();
        for (log, kind) in &self.report.doubtful_hard_states {
            // The first group of this life says it again.
            self.index.log(*log).doubts.insert(*kind, 0);
        }
        if self.is_opening {
            // Nobody was served before all of it was durable, so no log has grown since.
            self.suspects = self.index.iter().map(|(log, _)| log).collect();
        }
        for (log, last) in std::mem::take(&mut self.dropped) {
            let end = self.index.end(log).lsn;
            self.gap(log, end, last.next());
        }
        for log in std::mem::take(&mut self.suspects) {
            let state = self.index.log(log);
            let from = state.end().lsn.next();
            state.cut = Some(state.cut.map_or(from, |cut| cut.min(from)));
        }
        for (_, state) in self.index.iter_mut() {
            // Also when the damage is truncated away: what was there is still missing.
            state.all_are_mended();
            for range in &state.damaged {
                state.cut = Some(state.cut.map_or(range.first, |cut| cut.min(range.first)));
            }
        }
        for (log, state) in self.index.iter() {
            self.report.cuts.extend(state.cut.map(|from| crate::core::Cut { log, from }));
            self.report.damaged.extend(state.damaged.iter().map(|range| range.of(log)));
        }
        self.report.clean_close = self.clean;
        self.report.batches = self.folded;
        for (_, state) in self.index.iter() {
            self.report.batches += u64::try_from(state.slots.len()).unwrap_or(u64::MAX);
            for run in &state.runs {
                self.segments.moved(0, run.segment, run.bytes);
            }
            for slot in state.slots.iter().chain(state.mends.slots()) {
                self.segments.moved(0, slot.segment, slot.room());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::{Chain, Epoch};
    use crate::vdisk::VirtualDisk;

    fn id(n: u64) -> LogId {
        LogId::new(u128::from(n))
    }

    /// Without end, and always the same.
    fn chance(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        }
    }

    #[test]
    fn what_is_in_doubt_is_told_once_and_in_the_order_in_which_it_came_to_be() {
        let mut below = chance(3);
        for _ in 0..200 {
            let (mut doubts, mut plain) = (Doubts::default(), Vec::new());
            for _ in 0..60 {
                let doubt = (id(below(6)), HardStateKind::ALL[usize::try_from(below(4)).unwrap()]);
                if below(3) == 0 {
                    doubts.remove(doubt.0, doubt.1);
                    plain.retain(|other| *other != doubt);
                } else {
                    doubts.insert(doubt.0, doubt.1);
                    if !plain.contains(&doubt) {
                        plain.push(doubt);
                    }
                }
            }
            assert_eq!(doubts.take(), plain);
        }
    }

    #[test]
    fn damage_inside_of_damage_is_not_told_again_in_whichever_order_it_is_found() {
        let mut below = chance(5);
        for _ in 0..200 {
            let (mut replay, mut plain) = (Replay::default(), Vec::<(Lsn, Lsn)>::new());
            for _ in 0..40 {
                let first = 1 + below(50);
                let (first, last) = (Lsn::new(first), Lsn::new(first + below(5)));
                if below(10) == 0 {
                    replay.index.log(id(1)).truncate(LogPosition { lsn: first, ..LogPosition::origin(id(1)) });
                    plain.retain(|(start, _)| *start <= first);
                    plain.iter_mut().for_each(|(_, end)| *end = first.min(*end));
                }
                replay.damage(id(1), first, last, 1, 0);
                if !plain.iter().any(|(start, end)| *start <= first && *end >= last) {
                    plain.push((first, last));
                }
            }
            let damaged = &replay.index.log(id(1)).damaged;
            assert_eq!(damaged.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>(), plain);
        }
    }

    fn at(term: u32, lsn: u64) -> LogPosition {
        LogPosition { epoch: Epoch::new(1, term), lsn: Lsn::new(lsn), chain: Chain::new(lsn) }
    }

    /// Of log 1 the segment holds the batches behind one position, up to another, and only its footer is read.
    fn run(replay: &mut Replay, segment: u64, before: LogPosition, end: LogPosition) {
        let epochs = vec![(end.epoch, before.lsn.next())];
        let log = SummaryLog { log: id(1), before, end, epochs, batches: 1, bytes: 100 };
        replay.join(&mut VirtualDisk::new(), id(1), &before, segment);
        replay.run_behind(&log, segment);
    }

    fn release(replay: &mut Replay, at: LogPosition) {
        replay.record(&mut VirtualDisk::new(), &Record::Anchor { log: id(1), at }, 9, true);
    }

    /// The end of log 1, and each of its records that is damaged.
    fn state(replay: &Replay) -> (LogPosition, Vec<u64>) {
        let damaged = &replay.index.get(id(1)).expect("it is known").damaged;
        let mut lsns: Vec<_> = damaged.iter().flat_map(|range| range.first.get()..=range.last.get()).collect();
        lsns.sort_unstable();
        (replay.index.end(id(1)), lsns)
    }

    #[test]
    fn what_is_not_believed_leaves_no_gap_before_it_that_could_be_written_to() {
        let origin = LogPosition::origin(id(1));
        let mut replay = Replay::default();
        run(&mut replay, 1, origin, at(9, 6));
        run(&mut replay, 2, at(1, 9), at(1, 12));
        run(&mut replay, 3, at(1, 15), at(1, 16));
        assert_eq!(state(&replay), (at(9, 6), (7..=16).collect()));
        // What is cut off and comes again is told again.
        replay.truncate(id(1), at(9, 6), 4);
        run(&mut replay, 4, at(1, 8), at(1, 9));
        assert_eq!(state(&replay), (at(9, 6), (7..=9).collect()));
        // One batch of which only the name is left.
        let (first, last) = (Lsn::new(12), Lsn::new(13));
        let entry =
            BatchEntry { log: id(1), first, last, epoch: Epoch::new(1, 9), offset: 0, len: 9, chain: Chain::new(1) };
        replay.batch(&mut VirtualDisk::new(), &entry, 5, None, true);
        assert_eq!(state(&replay).1, (7..=13).collect::<Vec<_>>());
    }

    #[test]
    fn another_history_than_the_one_that_was_released_does_not_come_back_when_that_is_gone() {
        let origin = LogPosition::origin(id(1));
        for forgotten in [false, true] {
            let mut replay = Replay::default();
            if !forgotten {
                run(&mut replay, 1, origin, at(9, 6));
            }
            run(&mut replay, 2, at(1, 9), at(1, 12));
            run(&mut replay, 3, at(1, 15), at(1, 16));
            release(&mut replay, at(9, 6));
            replay.finish();
            assert_eq!(state(&replay), (at(9, 6), (7..=16).collect()), "forgotten: {forgotten}");
            assert_eq!(replay.index.get(id(1)).unwrap().start, at(9, 6));
        }
        // The epoch that counts is that of what is left, not of what was lost before it.
        let mut replay = Replay::default();
        run(&mut replay, 1, origin, at(1, 3));
        run(&mut replay, 2, at(3, 9), at(3, 12));
        release(&mut replay, at(2, 6));
        replay.finish();
        assert_eq!(state(&replay), (at(3, 12), (7..=9).collect()));
        // A lost segment cut off the old history and began the new one, of which more is there.
        let mut replay = Replay::default();
        run(&mut replay, 1, origin, at(5, 10));
        release(&mut replay, at(6, 7));
        run(&mut replay, 3, at(6, 8), at(6, 12));
        replay.finish();
        assert_eq!(state(&replay), (at(6, 12), vec![8]), "what is there is not damaged");
        // What is released has a name in a run that goes on with a newer epoch, and is of another history all the same.
        let mut replay = Replay::default();
        let epochs = vec![(at(1, 1).epoch, Lsn::new(1)), (at(5, 1).epoch, Lsn::new(18))];
        let log = SummaryLog { log: id(1), before: origin, end: at(5, 20), epochs, batches: 20, bytes: 100 };
        replay.join(&mut VirtualDisk::new(), id(1), &origin, 1);
        replay.run_behind(&log, 1);
        release(&mut replay, at(3, 16));
        run(&mut replay, 3, at(6, 25), at(6, 30));
        replay.finish();
        assert_eq!(state(&replay), (at(6, 30), (17..=25).collect()));
    }

    #[test]
    fn a_truncation_or_settlement_of_an_unknown_log_makes_none() {
        for with_lsn in [false, true] {
            let mut replay = Replay::default();
            let to = if with_lsn {
                LogPosition { epoch: Epoch::new(1, 1), lsn: Lsn::new(7), chain: Chain::new(5) }
            } else {
                LogPosition::origin(id(1))
            };
            let disk = &mut VirtualDisk::new();
            replay.record(disk, &Record::Remove { log: id(1) }, 1, true);
            replay.record(disk, &Record::Truncate { log: id(1), to }, 2, true);
            replay.record(disk, &Record::Settled { log: id(1) }, 2, true);
            replay.finish();
            assert_eq!(replay.index.len(), 0);
        }
    }
}

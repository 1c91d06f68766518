//! What is written anew: segments of which little is live, a few at a time, as one that takes the place of the lowest.
//!
//! A compaction goes in steps, and a crash between any two of them leaves either the old segments or the new one:
//! 1. What only its sources say and is still true is said again at the log's head, as before a retirement; behind it, a
//!    mark in the queue. What is live is noted now: when the mark is durable, everything that made the rest dead is, too.
//! 2. The live batches are copied to a file of their own ([`crate::io::IoOp::Compact`]), which takes as long as it takes.
//! 3. The file takes the name of the lowest source ([`crate::io::IoOp::InstallCompacted`]), and the index follows. Its header
//!    names the sources: they count no more.
//! 4. When the name is durable, the other sources are retired like any segment.
//!
//! What dies after step 1 is copied all the same, so whatever killed it must outlive the new file ([`Compaction::late`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::live_set::{self, LiveSet};
use super::reclaim::is_worth;
use super::{Item, Life, LogCore, Queued, Segment};
use crate::compaction::{CompactionPlan, LiveRange, Source};
use crate::format::record::Record;
use crate::io::{IoFailure, IoId, IoOp, IoRequest};
use crate::limits::{BLOCK_BYTES, COMPACTION_SOURCES_MAX, RELOCATION_BYTES_MAX};

/// A compaction under way.
#[derive(Debug)]
pub(super) struct Compaction {
    plan: Arc<CompactionPlan>,
    sources: BTreeSet<u64>,
    step: Step,
    /// Segments with records that killed something in the sources after the plan was made.
    late: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Until the mark is durable.
    Marked,
    Copy(Option<IoId>),
    Install(Option<IoId>),
    Sync(Option<IoId>),
}

impl Compaction {
    pub(super) fn takes(&self, segment: u64) -> bool {
        self.sources.contains(&segment)
    }

    /// What is in the plan may be copied.
    pub(super) fn begin(&mut self) {
        if self.step == Step::Marked {
            self.step = Step::Copy(None);
        }
    }

    pub(super) fn note_kill(&mut self, killer: u64, from: u64) {
        if self.sources.last().is_some_and(|last| from <= *last) {
            self.late.insert(killer);
        }
    }
}

/// Segments that would make one, and what that would bring.
#[derive(Clone, Copy)]
struct Window {
    first: u64,
    count: usize,
    freed: u64,
    /// What of a header it takes, or leaves, to name the segments that there would be.
    live_bytes: usize,
}

impl LogCore {
    /// Begins a compaction, if the log takes much more room than what is live in it.
    pub(super) fn consider_compaction(&mut self) {
        // Without a segment ahead, what is left of the active one is for what gives room back.
        if self.compaction.is_some() || !self.next_segment_is_ready() || !self.takes_too_much() {
            return;
        }
        let Some(window) = self.window() else { return };
        let sources: Vec<u64> = self.sources_of(&window).collect();
        let relocated: Vec<Record> = sources
            .iter()
            .flat_map(|source| self.index.iter().flat_map(|(log, state)| state.records_in(log, *source)))
            .collect();
        let Some(plan) = self.plan_compaction(&sources) else {
            self.leave_alone(&sources);
            return;
        };
        relocated.into_iter().for_each(|record| self.enqueue(record));
        self.queue.push_back(Queued { item: Item::Compaction, ticket: None, ends_unit: true });
        let sources = sources.into_iter().collect();
        self.compaction = Some(Compaction { plan: Arc::new(plan), sources, step: Step::Marked, late: BTreeSet::new() });
    }

    fn takes_too_much(&self) -> bool {
        let slack = u64::from(self.options.slack_segments) * self.options.segment_bytes;
        let sealed = self.segments.iter().filter(|(_, s)| s.last_group > 0 && !s.retiring);
        let (bytes, live) = sealed.fold((0, 0), |(bytes, live), (_, s)| (bytes + s.bytes, live + s.live_bytes));
        bytes > live + live / 2 + slack
    }

    /// The neighbours that free most, for at most as much copying: of all behind which a header has room for the live segments,
    /// and for which not too much must be said again. Where that room is nearly used up, those first that give some of it back.
    fn window(&self) -> Option<Window> {
        // A retired one's records must be gone before what stands for it is compacted again.
        if self.segments.iter().any(|(_, segment)| segment.retiring) {
            return None;
        }
        let (live, live_bytes_max) = (self.segments.staying(), live_set::bytes_max(self.options.segment_bytes));
        let is_tight = live.bytes() > live_bytes_max / 4 * 3;
        let mut windows = self.windows(&live, is_tight);
        windows.retain(|window| window.live_bytes <= live_bytes_max.max(live.bytes()));
        let shrinks = |window: &Window| if is_tight { live.bytes().saturating_sub(window.live_bytes) } else { 0 };
        // Of equal ones the first, and of these the shortest.
        windows.sort_by_key(|window| Reverse((shrinks(window), window.freed)));
        let says = if windows.is_empty() { BTreeMap::new() } else { self.bytes_said_by_segment() };
        windows.into_iter().find(|window| {
            let again: usize = self.sources_of(window).filter_map(|source| says.get(&source)).sum();
            // Writers wait behind what is said again.
            again <= RELOCATION_BYTES_MAX && is_worth(again, window.freed)
        })
    }

    fn windows(&self, live: &LiveSet, is_tight: bool) -> Vec<Window> {
        let sealed: Vec<(u64, &Segment)> = self.segments.iter().collect();
        let may = |number: u64, segment: &Segment| {
            segment.last_group > 0
                && !segment.is_left_alone()
                && !self.sealing.values().any(|sealing| *sealing == number)
        };
        let mut windows = Vec::new();
        for start in 0..sealed.len() {
            let (mut live_room, mut bytes) = (0, 0);
            let candidates = sealed.iter().skip(start).take(COMPACTION_SOURCES_MAX);
            let candidates = candidates.take_while(|(number, segment)| may(*number, segment));
            let Some(first) = sealed.get(start).map(|(number, _)| *number) else { continue };
            for (i, (last, segment)) in candidates.enumerate() {
                (live_room, bytes) = (live_room + segment.live_bytes, bytes + segment.bytes);
                let size = compacted_size(live_room);
                if size > self.options.segment_bytes {
                    break;
                }
                let count = u64::try_from(i + 1).unwrap_or(u64::MAX);
                let live_bytes = live.bytes_without(first + 1, *last);
                // Many small ones are worth a copy too: each of them costs an open its part.
                let pays = size * 2 <= bytes
                    || (count >= 8 && bytes <= count * self.options.segment_bytes / 8)
                    || (is_tight && live_bytes < live.bytes());
                if pays && size < bytes {
                    let freed = bytes - size;
                    windows.push(Window { first, count: i + 1, freed, live_bytes });
                }
            }
        }
        windows
    }

    fn sources_of(&self, window: &Window) -> impl Iterator<Item = u64> {
        self.segments.iter().map(|(number, _)| number).skip_while(|number| *number < window.first).take(window.count)
    }

    /// Of each segment the bytes of what only it says, by one look at each log.
    fn bytes_said_by_segment(&self) -> BTreeMap<u64, usize> {
        let mut said = BTreeMap::new();
        for (log, state) in self.index.iter() {
            for segment in state.said_in() {
                let bytes: usize = state.records_in(log, segment).iter().map(Record::encoded_len).sum();
                *said.entry(segment).or_insert(0) += bytes;
            }
        }
        said
    }

    /// `None`: something in these segments is not as it should be.
    fn plan_compaction(&mut self, numbers: &[u64]) -> Option<CompactionPlan> {
        // All or none: of two records that kill, the later may have ended what the earlier one says.
        let kills = |number: &u64| self.segments.get(*number).map(|segment| &segment.victims);
        let keeps_kills = numbers.iter().filter_map(kills).flatten().any(|victim| !numbers.contains(victim));
        let mut sources = Vec::with_capacity(numbers.len());
        for number in numbers {
            let segment = self.segments.get(*number)?;
            let mut live = Vec::new();
            for (log, state) in self.index.iter() {
                // What was put again stays where it is until it is released.
                let mends = state.mends.slots().map(|slot| slot.segment);
                if state.damaged.iter().map(|range| range.segment).chain(mends).any(|segment| segment == *number) {
                    return None;
                }
                let range = state.live_in(*number).ok()?;
                live.extend(range.map(|(before, end)| LiveRange { log, before, end }));
            }
            let (salt, last_group) = (segment.salt, segment.last_group);
            sources.push(Source { segment: *number, salt, last_group, live });
        }
        let live_bytes = numbers.iter().filter_map(|n| self.segments.get(*n)).map(|s| s.live_bytes).sum();
        Some(CompactionPlan {
            directory: self.directory,
            segment_bytes: self.options.segment_bytes,
            number: *numbers.first()?,
            salt: self.salt(),
            keeps_kills,
            live: self.segments.ranges(),
            sources,
            bytes: compacted_size(live_bytes),
        })
    }

    fn leave_alone(&mut self, sources: &[u64]) {
        self.stats.compactions_failed += 1;
        for source in sources {
            if let Some(segment) = self.segments.get_mut(*source) {
                segment.is_stubborn = true;
            }
        }
    }

    /// The next step of the compaction.
    pub(super) fn poll_compaction(&mut self) -> Option<IoRequest> {
        if !matches!(self.life, Life::Running) || self.closing.is_some() {
            return None;
        }
        let id = IoId(self.next_io);
        let compaction = self.compaction.as_mut()?;
        let segment = compaction.plan.number;
        let op = match &mut compaction.step {
            Step::Copy(under_way @ None) => {
                *under_way = Some(id);
                IoOp::Compact(Arc::clone(&compaction.plan))
            }
            Step::Install(under_way @ None) => {
                *under_way = Some(id);
                IoOp::InstallCompacted { segment }
            }
            Step::Sync(under_way @ None) => {
                *under_way = Some(id);
                IoOp::SyncNames { segment }
            }
            _ => return None,
        };
        self.next_io += 1;
        Some(IoRequest { id, op })
    }

    /// `Some`: the result of a step; `Err` if nothing can be said any more of which file has the segment's name.
    pub(super) fn on_compaction(&mut self, id: IoId, result: &Result<(), IoFailure>) -> Option<Result<(), IoFailure>> {
        let compaction = self.compaction.as_mut()?;
        match compaction.step {
            Step::Copy(Some(copy)) if copy == id => {
                if let Err(failure) = result {
                    let sources: Vec<u64> = compaction.sources.iter().copied().collect();
                    self.compaction = None;
                    if failure.is_no_space() {
                        // The next release, or the next footer, is the time to try again.
                        self.stats.compactions_failed += 1;
                    } else {
                        self.leave_alone(&sources);
                    }
                } else {
                    compaction.step = Step::Install(None);
                }
                Some(Ok(()))
            }
            Step::Install(Some(install)) if install == id => {
                if result.as_ref().is_err_and(IoFailure::is_no_space) {
                    // The old file has its name still.
                    self.compaction = None;
                    self.stats.compactions_failed += 1;
                    return Some(Ok(()));
                }
                if result.is_ok() {
                    compaction.step = Step::Sync(None);
                    self.on_installed();
                }
                Some(result.clone())
            }
            Step::Sync(Some(sync)) if sync == id => {
                if result.is_ok() {
                    self.on_named();
                }
                Some(result.clone())
            }
            _ => None,
        }
    }

    fn on_installed(&mut self) {
        let Some(compaction) = &self.compaction else { return };
        let (plan, sources) = (Arc::clone(&compaction.plan), compaction.sources.clone());
        let (target, last) = (plan.number, sources.last().copied().unwrap_or(plan.number));
        self.index.fold(last);
        for (_, state) in self.index.iter_mut() {
            state.merge_runs(&sources, target);
        }
        for source in &sources {
            self.index.cache.forget(*source);
        }
        let compacted = Segment {
            salt: plan.salt,
            first_group: self.segments.get(target).map_or(0, |segment| segment.first_group),
            last_group: plan.sources.last().map_or(0, |source| source.last_group),
            bytes: plan.bytes,
            has_footer: true,
            compacted: true,
            ..Segment::default()
        };
        self.segments.replace(target, &sources, compacted);
        // What waits to be said of the sources is said of what stands for them.
        for queued in &mut self.queue {
            if let Item::Record { kills_from: Some(from), .. } = &mut queued.item
                && (target..=last).contains(from)
            {
                *from = target;
            }
        }
    }

    fn on_named(&mut self) {
        let Some(compaction) = self.compaction.take() else { return };
        let target = compaction.plan.number;
        self.segments.cleansed(target, &compaction.late, compaction.plan.keeps_kills);
        self.stats.compactions += 1;
        // Nothing goes behind the closing group; the next open knows by the new header what the others are.
        if self.closing.is_some() {
            return;
        }
        for source in compaction.sources.into_iter().filter(|source| *source != target) {
            self.enqueue(Record::Retirement { segment: source });
        }
        self.reclaim_due = true;
    }
}

/// Bytes of the file that is made of so many live bytes, at most: header, footer's front, the zeroes between, padding of
/// groups.
fn compacted_size(live: u64) -> u64 {
    live + live / 16 + 6 * BLOCK_BYTES
}

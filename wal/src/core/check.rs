//! What always holds; checked after every step in simulation and debug builds.

use std::collections::BTreeMap;

use super::{Life, LogCore};
use crate::format::ids::LogPosition;

impl LogCore {
    /// Asserts the log's invariants.
    ///
    /// # Panics
    /// When one is broken: the log must not go on, it could harm data.
    pub fn check(&self) {
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for (log, state) in self.index.iter() {
            let end = state.end();
            // Behind a reset that is not durable nothing is.
            let none = |at: &LogPosition| *at == LogPosition::origin(log);
            let from_start = |at: &LogPosition| none(at) || state.start.lsn <= at.lsn;
            assert!(from_start(&state.durable) && from_start(&state.written), "log {log}: durable from its start on");
            assert!(state.durable.lsn <= state.written.lsn, "log {log}: durable ≤ written");
            assert!(state.written.lsn <= end.lsn, "log {log}: written ≤ end");
            for at in [&state.durable, &state.written].into_iter().filter(|at| !none(at)) {
                let there = self.index.has(log, at) || self.index.index_needed(log, at.lsn).is_some();
                assert!(there, "log {log}: {at} is a boundary of its history");
            }
            let in_order = state.slots.iter().is_sorted_by(|a, b| a.last < b.first && a.epoch <= b.epoch);
            assert!(in_order, "log {log}: in order");
            let runs = state.runs.iter();
            let in_order = runs.is_sorted_by(|a, b| a.end.lsn < b.first && a.segment < b.segment);
            assert!(in_order && state.runs.iter().all(|run| run.first <= run.end.lsn), "log {log}: in order");
            for run in &state.runs {
                *live.entry(run.segment).or_insert(0) += run.bytes;
            }
            for slot in state.slots.iter().filter(|slot| slot.segment != 0) {
                *live.entry(slot.segment).or_insert(0) += slot.room();
            }
            for slot in state.mends.slots().filter(|slot| slot.segment != 0) {
                *live.entry(slot.segment).or_insert(0) += slot.room();
            }
            assert!(state.mends.is_in_order(), "log {log}: what was put again is in order");
            let unplaced = state.slots.partition_point(|slot| slot.segment != 0);
            assert!(state.slots.iter().skip(unplaced).all(|slot| slot.segment == 0), "log {log}: placed in order");
        }
        for (number, segment) in self.segments.iter() {
            let live = live.remove(&number).unwrap_or(0);
            assert_eq!(segment.live_bytes, live, "segment {number}: what is live in it is counted");
            assert!(live == 0 || !segment.retiring, "segment {number} is live and goes");
        }
        assert!(live.keys().all(|number| self.segments.missing(*number)), "no batch lies in a segment that is gone");
        let mut number = self.durable_group;
        for group in &self.in_flight {
            number += 1;
            assert_eq!(group.number, number, "groups in flight are consecutive");
        }
        if !matches!(self.life, Life::Poisoned(_)) {
            assert_eq!(self.next_group, number + 1, "no group number is used twice");
            let queued: usize = self.queue.iter().map(|queued| queued.item.weight()).sum();
            let flying: usize = self.in_flight.iter().map(|group| group.weight).sum();
            assert_eq!(self.queue_bytes, queued + flying, "what is accepted and not durable is counted");
        }
        if let Some(active) = &self.active {
            let ahead = self.ready.keys().next().is_none_or(|n| *n > active.header.number);
            assert!(ahead, "ready segments lie ahead");
            let end = active.offset + active.footer.room_with(0);
            assert!(end <= active.header.segment_bytes, "the active segment has room for its footer");
        }
    }
}

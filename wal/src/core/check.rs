//! What always holds; checked after every step in simulation and debug builds.

use super::{Life, LogCore};

impl LogCore {
    /// Asserts the log's invariants.
    ///
    /// # Panics
    /// When one is broken: the log must not go on, it could harm data.
    pub fn check(&self) {
        for (log, state) in self.index.iter() {
            let end = state.end();
            assert!(state.start.lsn <= state.durable.lsn, "log {log}: durable from its start on");
            assert!(state.durable.lsn <= state.written.lsn, "log {log}: durable ≤ written");
            assert!(state.written.lsn <= end.lsn, "log {log}: written ≤ end");
            for at in [&state.durable, &state.written] {
                assert!(state.has(at), "log {log}: {at} is a boundary of its history");
            }
            assert!(state.slots.is_sorted_by(|a, b| a.last < b.first && a.epoch <= b.epoch), "log {log}: in order");
            let unplaced = state.slots.partition_point(|slot| slot.segment != 0);
            assert!(state.slots.iter().skip(unplaced).all(|slot| slot.segment == 0), "log {log}: placed in order");
        }
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
            assert!(self.ready.first().is_none_or(|n| *n > active.header.number), "ready segments lie ahead");
            let end = active.offset + active.footer.room_with(0);
            assert!(end <= active.header.segment_bytes, "the active segment has room for its footer");
        }
    }
}

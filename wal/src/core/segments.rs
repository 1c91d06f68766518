//! The segments that hold groups: what of each is live, and what must outlive what.

use std::collections::{BTreeMap, BTreeSet};

use super::live_set::LiveSet;

/// A segment that was activated, and is not retired.
#[derive(Debug, Clone, Default)]
pub(crate) struct Segment {
    pub(crate) salt: u64,
    pub(crate) first_group: u64,
    /// 0: it is the active one, or the first of all, and no group of it ever counted.
    pub(crate) last_group: u64,
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// [`room_of`](super::index::room_of) the batches in it that are still their logs'.
    pub(crate) live_bytes: u64,
    /// Segments that hold what a record in this one killed. It must outlive their files, otherwise the dead come back.
    pub(crate) victims: BTreeSet<u64>,
    /// Its footer is durable.
    pub(crate) has_footer: bool,
    /// The open found a footer. Whoever wrote it may have died before it was synced.
    pub(crate) footer_was_found: bool,
    /// Something in it could not be read.
    pub(crate) is_damaged: bool,
    pub(crate) compacted: bool,
    /// A compaction of it failed, and would again.
    pub(crate) is_stubborn: bool,
    /// The record that retires it was accepted.
    pub(crate) retiring: bool,
}

impl Segment {
    /// It is not to be compacted.
    pub(crate) const fn is_left_alone(&self) -> bool {
        self.is_stubborn || self.is_damaged
    }

    /// Nothing in it is of use any more, as far as it knows itself, unless it is the active one.
    pub(crate) fn is_dead(&self) -> bool {
        self.live_bytes == 0 && self.victims.is_empty() && !self.retiring
    }
}

/// All of them, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Segments {
    map: BTreeMap<u64, Segment>,
}

impl Segments {
    pub(crate) fn get(&self, number: u64) -> Option<&Segment> {
        self.map.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Segment> {
        self.map.get_mut(&number)
    }

    pub(crate) fn insert(&mut self, number: u64, segment: Segment) {
        self.map.insert(number, segment);
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.map.remove(&number);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &Segment)> {
        self.map.iter().map(|(number, segment)| (*number, segment))
    }

    pub(crate) fn missing(&self, number: u64) -> bool {
        !self.map.contains_key(&number)
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// A live batch lies in `to` now, and no more in `from` (0: it was nowhere).
    pub(crate) fn moved(&mut self, from: u64, to: u64, bytes: u64) {
        if let Some(segment) = self.map.get_mut(&to) {
            segment.live_bytes += bytes;
        }
        if let Some(segment) = self.map.get_mut(&from) {
            segment.live_bytes -= bytes;
        }
    }

    /// Batches are live no more. Whether a segment has none left.
    pub(crate) fn freed(&mut self, bytes: &BTreeMap<u64, u64>) -> bool {
        let mut emptied = false;
        for (number, bytes) in bytes {
            let Some(segment) = self.map.get_mut(number) else { continue };
            assert!(segment.live_bytes >= *bytes, "segment {number}: what is freed was live");
            segment.live_bytes -= bytes;
            emptied |= segment.live_bytes == 0;
        }
        emptied
    }

    /// A record in `killer` killed something in segments from `from` on.
    pub(crate) fn kill(&mut self, killer: u64, from: u64) {
        let victims: Vec<u64> = self.map.range(from..killer).map(|(number, _)| *number).collect();
        if let Some(segment) = self.map.get_mut(&killer) {
            segment.victims.extend(victims);
        }
    }

    /// A segment stands for several now, of which it was the lowest: what it must outlive, they had to.
    pub(crate) fn replace(&mut self, target: u64, sources: &BTreeSet<u64>, compacted: Segment) {
        let mut compacted = compacted;
        for source in sources {
            let Some(segment) = self.map.get_mut(source) else { continue };
            compacted.live_bytes += std::mem::take(&mut segment.live_bytes);
            compacted.victims.extend(std::mem::take(&mut segment.victims));
            segment.retiring = true;
        }
        compacted.victims.retain(|victim| !sources.contains(victim));
        // What they killed in a source lies in the target now, which outlives the source's file.
        for (_, segment) in self.map.iter_mut().filter(|(number, _)| !sources.contains(number)) {
            if !segment.victims.is_disjoint(sources) {
                segment.victims.insert(target);
            }
        }
        self.map.insert(target, compacted);
    }

    /// A segment was written anew without what had been dead in it: only what was killed since is still there. If it had to
    /// keep records that kill, those that were over are there too, and who ended them must go on outliving it.
    pub(crate) fn cleansed(&mut self, target: u64, late: &BTreeSet<u64>, keeps_kills: bool) {
        // Also if what they killed is gone by now: they were kept when it was there.
        if keeps_kills {
            return;
        }
        for (number, segment) in &mut self.map {
            if *number != target && late.contains(number) {
                segment.victims.insert(target);
            } else {
                segment.victims.remove(&target);
            }
        }
    }

    /// The segment's file is gone, and what it held with it.
    pub(crate) fn forget_victim(&mut self, number: u64) {
        for segment in self.map.values_mut() {
            segment.victims.remove(&number);
        }
    }

    /// Those that are not on their way out.
    pub(super) fn staying(&self) -> LiveSet {
        LiveSet::of(self.iter().filter(|(_, segment)| !segment.retiring).map(|(number, _)| number))
    }

    /// The numbers as ranges of consecutive ones.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        ranges(self.map.keys().copied())
    }
}

/// Numbers, which rise, as ranges of consecutive ones.
pub(crate) fn ranges(numbers: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_numbers_become_ranges() {
        assert_eq!(ranges([1, 2, 3, 5, 7, 8].into_iter()), [(1, 3), (5, 5), (7, 8)]);
        assert!(ranges([].into_iter()).is_empty());
    }

    #[test]
    fn a_record_that_kills_outlives_the_segments_from_the_first_victim_on() {
        let mut segments = Segments::default();
        for number in [1, 3, 4, 6] {
            segments.insert(number, Segment::default());
        }
        segments.kill(6, 2);
        assert_eq!(segments.get(6).unwrap().victims, BTreeSet::from([3, 4]));
        segments.forget_victim(3);
        assert_eq!(segments.get(6).unwrap().victims, BTreeSet::from([4]));
    }

    #[test]
    fn a_record_that_kills_outlives_what_its_victim_was_moved_into() {
        for keeps_kills in [true, false] {
            let mut segments = Segments::default();
            for number in [1, 7, 10, 11] {
                segments.insert(number, Segment::default());
            }
            segments.kill(10, 1);
            segments.kill(11, 10);
            let sources = BTreeSet::from([7, 10]);
            segments.replace(7, &sources, Segment::default());
            assert_eq!(segments.get(7).unwrap().victims, BTreeSet::from([1]));
            // The file of what the target killed may go before the target has its name for good.
            segments.forget_victim(1);
            segments.cleansed(7, &BTreeSet::new(), keeps_kills);
            segments.forget_victim(10);
            let left = if keeps_kills { BTreeSet::from([7]) } else { BTreeSet::new() };
            assert_eq!(segments.get(11).unwrap().victims, left);
        }
    }
}

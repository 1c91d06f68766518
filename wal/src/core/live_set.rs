//! The numbers of the segments that are there, as ranges, and the bytes that a segment's header takes to name them: a hole
//! for which there is no room there is not made.

use std::collections::BTreeMap;

use super::segments::ranges;
use crate::format::record::Record;
use crate::format::segment::range_bytes;
use crate::limits::LIVE_BYTES_KEPT_MAX;

/// Numbers of segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LiveSet {
    /// First to last of each range; between two of them lies at least one number.
    ranges: BTreeMap<u64, u64>,
    bytes: usize,
}

/// Bytes of a header that the live segments may take, where segments are of this size.
///
/// In small ones what is gone is the tighter bound: it is said again, a record a range, with each retirement, and must fit a
/// directory; otherwise it would fill the segments that it empties.
pub(super) fn bytes_max(segment_bytes: u64) -> usize {
    let gone = Record::Gone { first: 1, last: 1 }.encoded_len();
    // A range takes at least two.
    LIVE_BYTES_KEPT_MAX.min(2 * (super::LogCore::directory_bytes_max(segment_bytes) / gone))
}

impl LiveSet {
    /// Of numbers that rise.
    pub(super) fn of(numbers: impl Iterator<Item = u64>) -> Self {
        let mut set = Self::default();
        let mut before = 0;
        for (first, last) in ranges(numbers) {
            set.bytes += range_bytes(before, first, last);
            set.ranges.insert(first, last);
            before = last;
        }
        set
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The highest number below this one.
    pub(super) fn before(&self, number: u64) -> Option<u64> {
        self.ranges.range(..number).next_back().map(|(_, last)| (*last).min(number - 1))
    }

    /// Bytes without all from the first to the last.
    pub(super) fn bytes_without(&self, first: u64, last: u64) -> usize {
        let (mut bytes, mut before) = (self.bytes, self.end_before(self.touched(first)));
        let mut kept = before;
        for (start, end) in self.ranges.range(self.touched(first)..) {
            bytes -= range_bytes(before, *start, *end);
            before = *end;
            for (start, end) in left_of((*start, *end), (first, last)) {
                bytes += range_bytes(kept, start, end);
                kept = end;
            }
            // Behind the first one that is as it was, so are all.
            if *start > last {
                break;
            }
        }
        bytes
    }

    /// Takes all from the first to the last out.
    pub(super) fn remove(&mut self, first: u64, last: u64) {
        self.bytes = self.bytes_without(first, last);
        let touched: Vec<(u64, u64)> = self.ranges.range(self.touched(first)..=last).map(|(a, b)| (*a, *b)).collect();
        for range in touched {
            self.ranges.remove(&range.0);
            self.ranges.extend(left_of(range, (first, last)));
        }
    }

    /// The first number of the range that holds this one, or of the next.
    fn touched(&self, number: u64) -> u64 {
        let holding = self.ranges.range(..=number).next_back().filter(|(_, last)| number <= **last);
        holding.map_or(number, |(first, _)| *first)
    }

    fn end_before(&self, first: u64) -> u64 {
        self.ranges.range(..first).next_back().map_or(0, |(_, last)| *last)
    }
}

/// What is left of a range without another.
fn left_of((start, end): (u64, u64), (first, last): (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    let low = (start, end.min(first.saturating_sub(1)));
    let high = (start.max(last.saturating_add(1)), end);
    [low, high].into_iter().filter(|(start, end)| start <= end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_left_is_counted_as_if_it_had_always_been_so() {
        let mut state = 29_u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..500 {
            // Gaps of one byte and of two.
            let step = [1, 70, 300][usize::try_from(below(3)).unwrap()];
            let mut numbers: BTreeSet<u64> = (0..below(40)).map(|n| 1 + n * (1 + below(2) * step)).collect();
            let mut set = LiveSet::of(numbers.iter().copied());
            for _ in 0..10 {
                let first = 1 + below(90);
                let last = first + below(9);
                let without = set.bytes_without(first, last);
                numbers.retain(|number| !(first..=last).contains(number));
                set.remove(first, last);
                assert_eq!(without, set.bytes());
                assert_eq!(set, LiveSet::of(numbers.iter().copied()), "without {first} to {last}");
                let at = 1 + below(90);
                assert_eq!(set.before(at), numbers.range(..at).next_back().copied());
            }
        }
    }
}

//! A set of segment numbers, kept as ranges: it takes no more room than what told of them, and to pass over a range takes
//! one step, however long a file claims that it is.

use std::collections::BTreeMap;

/// Segment numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// First to last of each range; between two of them lies at least one number.
    ranges: BTreeMap<u64, u64>,
}

impl Numbers {
    pub(crate) fn insert(&mut self, number: u64) {
        self.insert_range(number, number);
    }

    /// All from the first to the last; none if they are not in this order.
    pub(crate) fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut from, mut to) = (first, last);
        while let Some((start, end)) = self.range_at_or_before(to.saturating_add(1)).filter(|(_, end)| {
            // Touching is as good as overlapping.
            end.saturating_add(1) >= from
        }) {
            self.ranges.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.ranges.insert(from, to);
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.range_at_or_before(number).is_some_and(|(_, last)| number <= last)
    }

    /// The lowest number from this one on that is not in the set; `None`: there is none.
    pub(crate) fn next_outside(&self, from: u64) -> Option<u64> {
        match self.range_at_or_before(from).filter(|(_, last)| from <= *last) {
            Some((_, last)) => last.checked_add(1),
            None => Some(from),
        }
    }

    /// The numbers from the first to the last that are not in the set, lowest first.
    pub(crate) fn outside(&self, first: u64, last: u64) -> impl Iterator<Item = u64> {
        let within = move |number: &u64| *number <= last;
        let next = move |number: &u64| number.checked_add(1).and_then(|from| self.next_outside(from)).filter(within);
        std::iter::successors(self.next_outside(first).filter(within), next)
    }

    /// The ranges between the first and the last that are not in the set.
    pub(crate) fn ranges_outside(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut from = first;
        let inside = self.ranges.iter().map(|(first, last)| (*first, *last)).filter(move |(_, end)| *end >= first);
        inside.chain([(u64::MAX, u64::MAX)]).filter_map(move |(start, end)| {
            let to = start.saturating_sub(1).min(last);
            let outside = (from <= to && from < start).then_some((from, to));
            from = from.max(end.saturating_add(1));
            outside
        })
    }

    fn range_at_or_before(&self, number: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=number).next_back().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_say_the_same_as_one_number_after_another() {
        let mut state = 7_u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..500 {
            let (mut numbers, mut plain) = (Numbers::default(), BTreeSet::new());
            for _ in 0..below(12) {
                let first = below(40);
                let last = first + below(6);
                numbers.insert_range(first, last);
                plain.extend(first..=last);
            }
            let outside: Vec<u64> = (0..60).filter(|number| !plain.contains(number)).collect();
            assert_eq!(numbers.outside(0, 59).collect::<Vec<_>>(), outside, "{numbers:?}");
            assert!((0..60).all(|number| numbers.contains(number) == plain.contains(&number)), "{numbers:?}");
            let apart =
                numbers.ranges.iter().zip(numbers.ranges.keys().skip(1)).all(|((_, last), next)| last + 1 < *next);
            assert!(apart, "{numbers:?}");
        }
    }

    #[test]
    fn the_longest_range_is_passed_in_one_step() {
        let mut numbers = Numbers::default();
        numbers.insert_range(9, 8);
        assert_eq!(numbers, Numbers::default());
        numbers.insert_range(2, u64::MAX);
        assert_eq!(numbers.outside(0, u64::MAX).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(numbers.next_outside(5), None);
        numbers.insert_range(0, 1);
        assert_eq!(numbers.ranges.len(), 1);
    }
}

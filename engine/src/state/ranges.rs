//! Ranges of keys that went, none over another: which of them holds a key is one look.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Ranges of one family that went, each with the last step that took it away.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges {
    /// Start (included) to end (excluded) and step; none overlap.
    apart: BTreeMap<Vec<u8>, Rest>,
}

/// The end of a range, and the step that took it away.
type Rest = (Vec<u8>, u32);

impl Ranges {
    /// A range that goes now, over whatever went before.
    pub(super) fn add(&mut self, start: &[u8], end: &[u8], step: u32) {
        let before_end = (Bound::Unbounded, Bound::Excluded(end));
        let overlapping =
            self.apart.range::<[u8], _>(before_end).rev().take_while(|(_, (other, _))| &other[..] > start);
        let were: Vec<_> = overlapping.map(|(other, rest)| (other.clone(), rest.clone())).collect();
        for (other_start, (other_end, other_step)) in &were {
            self.apart.remove(other_start);
            if &other_start[..] < start {
                self.apart.insert(other_start.clone(), (start.to_vec(), *other_step));
            }
            if &other_end[..] > end {
                self.apart.insert(end.to_vec(), (other_end.clone(), *other_step));
            }
        }
        self.apart.insert(start.to_vec(), (end.to_vec(), step));
    }

    /// All of these, which went later.
    pub(super) fn add_all(&mut self, younger: &Self) {
        younger.apart.iter().for_each(|(start, (end, step))| self.add(start, end, *step));
    }

    /// The last step that took this key away, if one did.
    pub(super) fn step_of(&self, key: &[u8]) -> Option<u32> {
        let before = (Bound::Unbounded, Bound::Included(key));
        let (_, (end, step)) = self.apart.range::<[u8], _>(before).next_back()?;
        (key < &end[..]).then_some(*step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_key_has_the_last_range_that_holds_it(
            ranges in prop::collection::vec((0_u8..30, 0_u8..30), 0..40), split in any::<prop::sample::Index>(),
        ) {
            let (mut old, mut young) = (Ranges::default(), Ranges::default());
            let split = split.index(ranges.len() + 1);
            for (step, (start, end)) in (0_u32..).zip(ranges.iter()).filter(|(_, (start, end))| start < end) {
                let side = if (step as usize) < split { &mut old } else { &mut young };
                side.add(&[*start], &[*end], step);
            }
            old.add_all(&young);
            for key in 0..30 {
                let holds = |(_, (start, end)): &(u32, &(u8, u8))| *start <= key && key < *end;
                let last = (0_u32..).zip(ranges.iter()).filter(holds).last().map(|(step, _)| step);
                prop_assert_eq!(old.step_of(&[key]), last, "key {}", key);
                // Of a longer key it is the same.
                prop_assert_eq!(old.step_of(&[key, 0]), last);
            }
            let mut behind: Option<Vec<u8>> = None;
            for (start, (end, _)) in &old.apart {
                prop_assert!(start < end && behind.is_none_or(|behind| &behind <= start), "none lies over another");
                behind = Some(end.clone());
            }
        }
    }
}

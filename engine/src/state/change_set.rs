//! Changes to a state in the making: one piece of memory that is filled, committed and used again.

use super::ranges::Ranges;
use super::store::Family;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Changes, in the order in which they are to be made.
///
/// Keys and values lie one behind the other in one piece of memory, and a table finds a key's last change: once it has grown to
/// what a batch needs, nothing is allocated for a change (only a range that goes takes memory of its own).
///
/// ```
/// use towline::state::{ChangeSet, Family};
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"a", b"1");
/// changes.delete_range(Family::Values, b"a", b"c");
/// changes.put(Family::Values, b"b", b"2");
/// assert_eq!(changes.get(Family::Values, b"a"), Some(None));
/// assert_eq!(changes.get(Family::Values, b"b"), Some(Some(&b"2"[..])));
/// assert_eq!(changes.get(Family::Values, b"c"), None);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ChangeSet {
    /// Of each step the key and the value, or the start and the end of a range.
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// For each key its last step. It is only asked for keys and never walked through, so no result hangs on its order.
    last: HashTable<u32>,
    /// By family: up to the last savepoint, and since. What is younger hides what is older, so that a way back costs nothing:
    /// undone in one place, the ranges of all records before would be moved there and back for each record that is rejected.
    ranges: BTreeMap<Family, Ranges>,
    young_ranges: BTreeMap<Family, Ranges>,
    seed: u64,
}

/// What is done, as it lies in memory.
#[derive(Debug, Clone, Copy)]
struct Step {
    hash: u64,
    /// Where its bytes begin.
    start: usize,
    key_bytes: usize,
    value_bytes: usize,
    /// The step before it of the same key; `NONE` if there is none.
    before: u32,
    family: Family,
    kind: Kind,
    /// A later step of the same key makes this one void.
    is_void: bool,
}

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

/// One change, to be made behind those before it.
///
/// ```
/// use towline::state::{Change, ChangeSet, Family};
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"a", b"1");
/// changes.put(Family::Values, b"a", b"2");
/// changes.delete(Family::Values, b"b");
/// let family = Family::Values;
/// let to_be_done: Vec<_> = changes.changes().collect();
/// // A store makes them in this order; what the second put made void is not made at all.
/// assert_eq!(to_be_done, [Change::Put { family, key: b"a", value: b"2" }, Change::Delete { family, key: b"b" }]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change<'a> {
    /// A key gets a value.
    Put {
        /// Where it lies.
        family: Family,
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// A key goes.
    Delete {
        /// Where it lies.
        family: Family,
        /// The key.
        key: &'a [u8],
    },
    /// The keys of a range go.
    DeleteRange {
        /// Where they lie.
        family: Family,
        /// The first of them.
        start: &'a [u8],
        /// The first behind them.
        end: &'a [u8],
    },
}

/// A moment to which changes can go back, until the next one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Savepoint {
    steps: usize,
    bytes: usize,
}

/// Memory that is kept for the next use; what one large change needed beyond that is given back.
const KEPT_BYTES: usize = 8 << 20;
const KEPT_STEPS: usize = 128 << 10;
/// Keys for which the table always has room.
const KEYS_MIN: usize = 512;

impl ChangeSet {
    /// Changes whose table is built with this seed: one that clients can't know, so that they can't choose keys that collide.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    #[cfg(all(test, feature = "node"))]
    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Sets a key.
    pub fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.put_written(
            family,
            |bytes| bytes.extend_from_slice(key.as_ref()),
            |bytes| bytes.extend_from_slice(value.as_ref()),
        );
    }

    /// Sets a key: both are written to where they are kept, behind what is there.
    pub(super) fn put_written(
        &mut self,
        family: Family,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        key(&mut self.bytes);
        let middle = self.bytes.len();
        value(&mut self.bytes);
        self.step(family, Kind::Put, start, middle);
    }

    /// Removes a key.
    pub fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key.as_ref());
        self.step(family, Kind::Delete, start, self.bytes.len());
    }

    /// Removes the keys from `start` (included) to `end` (excluded), however many there are: their number is the
    /// store's matter, and costs no memory here (I10).
    pub fn delete_range(&mut self, family: Family, start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) {
        let (from, to) = (start.as_ref(), end.as_ref());
        if from >= to {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(from);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(to);
        let number = self.next_number();
        self.young_ranges.entry(family).or_default().add(from, to, number);
        self.push(family, Kind::DeleteRange, start, middle, 0, NONE);
    }

    /// What these changes say of a key: nothing, or its new value or absence.
    #[must_use]
    pub fn get(&self, family: Family, key: &[u8]) -> Option<Option<&[u8]>> {
        let (step, range) = (self.last_step(family, key), self.range_of(family, key));
        match (step, range) {
            (Some(step), range) if range.is_none_or(|range| range < step) => {
                let step = self.steps.get(step as usize)?;
                Some((step.kind == Kind::Put).then(|| self.value(step)))
            }
            (_, range) => range.map(|_| None),
        }
    }

    /// What is to be done, in order. What a later change of the same key makes void is left out.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.steps.iter().filter(|step| !step.is_void).map(|step| {
            let (family, key, value) = (step.family, self.key(step), self.value(step));
            match step.kind {
                Kind::Put => Change::Put { family, key, value },
                Kind::Delete => Change::Delete { family, key },
                Kind::DeleteRange => Change::DeleteRange { family, start: key, end: value },
            }
        })
    }

    /// The keys of a family that these changes give a value, in the order in which they were set.
    pub fn values(&self, family: Family) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.steps.iter().enumerate().filter_map(move |(number, step)| {
            let counts = step.family == family && step.kind == Kind::Put && !step.is_void;
            let key = self.key(step);
            let is_there = counts && self.range_of(family, key).is_none_or(|range| (range as usize) < number);
            is_there.then(|| (key, self.value(step)))
        })
    }

    /// Bytes of their keys and values.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many there are, those that are void by now among them.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Forgets all changes, and keeps the memory for the next.
    pub fn clear(&mut self) {
        let used = self.last.len().max(KEYS_MIN);
        self.bytes.clear();
        self.steps.clear();
        self.last.clear();
        self.ranges.clear();
        self.young_ranges.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.steps.shrink_to(KEPT_STEPS);
        // To clear a table takes as long as it is large, however little is in it.
        if self.last.capacity() > 8 * used {
            self.last.shrink_to(2 * used, |_| 0);
        }
    }

    /// A moment to go back to. It is the only one: of those before it nothing is known any more.
    pub(super) fn savepoint(&mut self) -> Savepoint {
        for (family, young) in std::mem::take(&mut self.young_ranges) {
            self.ranges.entry(family).or_default().add_all(&young);
        }
        Savepoint { steps: self.steps.len(), bytes: self.bytes.len() }
    }

    /// Forgets what was changed since.
    pub(super) fn roll_back(&mut self, to: Savepoint) {
        while self.steps.len() > to.steps {
            let Some(step) = self.steps.pop() else { break };
            if step.kind == Kind::DeleteRange {
                continue;
            }
            let number = self.next_number();
            if let Ok(mut entry) = self.last.find_entry(step.hash, |found| *found == number) {
                if step.before == NONE {
                    entry.remove();
                } else {
                    *entry.get_mut() = step.before;
                }
            }
            if let Some(before) = self.steps.get_mut(step.before as usize) {
                before.is_void = false;
            }
        }
        self.young_ranges.clear();
        self.bytes.truncate(to.bytes);
    }

    /// The step whose bytes were just written.
    fn step(&mut self, family: Family, kind: Kind, start: usize, middle: usize) {
        let number = self.next_number();
        let key = self.bytes.get(start..middle).unwrap_or_default();
        let hash = self.hash(family, key);
        let (steps, bytes) = (&self.steps, &self.bytes);
        let is_same = |found: &u32| is_of(steps, bytes, *found, hash, family, key);
        let before = match self.last.find_mut(hash, is_same) {
            Some(found) => std::mem::replace(found, number),
            None => {
                let rehash = |found: &u32| steps.get(*found as usize).map_or(0, |step| step.hash);
                self.last.insert_unique(hash, number, rehash);
                NONE
            }
        };
        if let Some(before) = self.steps.get_mut(before as usize) {
            before.is_void = true;
        }
        self.push(family, kind, start, middle, hash, before);
    }

    fn push(&mut self, family: Family, kind: Kind, start: usize, middle: usize, hash: u64, before: u32) {
        let (key_bytes, value_bytes) = (middle - start, self.bytes.len() - middle);
        self.steps.push(Step { hash, start, key_bytes, value_bytes, before, family, kind, is_void: false });
    }

    /// The number of the step that comes next.
    fn next_number(&self) -> u32 {
        match u32::try_from(self.steps.len()) {
            Ok(number) if number < NONE => number,
            _ => unreachable!("a batch is bounded to far fewer operations"),
        }
    }

    fn last_step(&self, family: Family, key: &[u8]) -> Option<u32> {
        if self.steps.is_empty() {
            return None;
        }
        let hash = self.hash(family, key);
        self.last.find(hash, |found| is_of(&self.steps, &self.bytes, *found, hash, family, key)).copied()
    }

    fn range_of(&self, family: Family, key: &[u8]) -> Option<u32> {
        let step = |ranges: &BTreeMap<Family, Ranges>| ranges.get(&family)?.step_of(key);
        step(&self.young_ranges).or_else(|| step(&self.ranges))
    }

    fn key(&self, step: &Step) -> &[u8] {
        self.bytes.get(step.start..step.start + step.key_bytes).unwrap_or_default()
    }

    fn value(&self, step: &Step) -> &[u8] {
        let start = step.start + step.key_bytes;
        self.bytes.get(start..start + step.value_bytes).unwrap_or_default()
    }

    fn hash(&self, family: Family, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed.wrapping_add(family as u64))
    }
}

/// Whether a step is of this key.
fn is_of(steps: &[Step], bytes: &[u8], number: u32, hash: u64, family: Family, key: &[u8]) -> bool {
    steps.get(number as usize).is_some_and(|step| {
        let found = bytes.get(step.start..step.start + step.key_bytes);
        step.hash == hash && step.family == family && found == Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Do {
        Put(u8),
        Delete(u8),
        DeleteRange(u8, u8),
        Save,
        RollBack,
    }

    fn any_change() -> impl Strategy<Value = Do> {
        prop_oneof![
            4 => (0_u8..20).prop_map(Do::Put),
            2 => (0_u8..20).prop_map(Do::Delete),
            3 => (0_u8..20, 0_u8..20).prop_map(|(a, b)| Do::DeleteRange(a, b)),
            1 => Just(Do::Save),
            1 => Just(Do::RollBack),
        ]
    }

    type Expected = BTreeMap<u8, Option<Vec<u8>>>;

    fn apply(changes: &mut ChangeSet, expected: &mut Expected, change: &Do, value: u8) {
        match change {
            Do::Put(key) => {
                changes.put(Family::Values, [*key], [value]);
                expected.insert(*key, Some(vec![value]));
            }
            Do::Delete(key) => {
                changes.delete(Family::Values, [*key]);
                expected.insert(*key, None);
            }
            Do::DeleteRange(a, b) => {
                changes.delete_range(Family::Values, [*a], [*b]);
                (*a..*b).for_each(|key| drop(expected.insert(key, None)));
            }
            Do::Save | Do::RollBack => {}
        }
    }

    /// What the changes make of a state in which each key has the value 255.
    fn made(changes: &ChangeSet) -> Expected {
        let mut state: BTreeMap<Vec<u8>, Vec<u8>> = (0..20).map(|key| (vec![key], vec![255])).collect();
        for change in changes.changes() {
            match change {
                Change::Put { key, value, .. } => drop(state.insert(key.to_vec(), value.to_vec())),
                Change::Delete { key, .. } => drop(state.remove(key)),
                Change::DeleteRange { start, end, .. } => state.retain(|key, _| &key[..] < start || &key[..] >= end),
            }
        }
        (0..20).map(|key| (key, state.get(&vec![key]).cloned())).collect()
    }

    proptest! {
        #[test]
        fn changes_say_of_each_key_what_the_last_of_them_did_also_after_going_back(
            steps in prop::collection::vec(any_change(), 0..60), again in prop::collection::vec(any_change(), 0..20),
        ) {
            let mut changes = ChangeSet::seeded(7);
            for round in [steps, again] {
                changes.clear();
                let mut expected = Expected::new();
                let mut saved = (changes.savepoint(), expected.clone());
                for (value, step) in (0_u8..).zip(&round) {
                    match step {
                        Do::Save => saved = (changes.savepoint(), expected.clone()),
                        Do::RollBack => {
                            changes.roll_back(saved.0);
                            expected = saved.1.clone();
                        }
                        _ => apply(&mut changes, &mut expected, step, value),
                    }
                    // A range of another family hides nothing here.
                    for key in 0..20 {
                        prop_assert_eq!(changes.get(Family::Events, &[key]), None);
                        let found = changes.get(Family::Values, &[key]).map(|value| value.map(<[u8]>::to_vec));
                        prop_assert_eq!(found, expected.get(&key).cloned(), "key {} after {:?}", key, step);
                    }
                }
                for (key, found) in made(&changes) {
                    prop_assert_eq!(found, expected.get(&key).cloned().unwrap_or_else(|| Some(vec![255])), "key {}", key);
                }
                let values: BTreeMap<u8, Vec<u8>> =
                    changes.values(Family::Values).map(|(key, value)| (key[0], value.to_vec())).collect();
                let with_value = expected.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
                prop_assert_eq!(values, with_value.collect::<BTreeMap<_, _>>());
                prop_assert_eq!(changes.values(Family::Heads).count(), 0);
            }
        }
    }

    /// A record of one range over everything, which is rejected, moved all ranges of the records before it, there and back.
    #[test]
    fn a_rejected_range_leaves_those_before_it_where_they_are() {
        let mut changes = ChangeSet::default();
        for number in 0..20_000_u32 {
            let (start, end) = ((2 * number).swap_bytes().to_le_bytes(), (2 * number + 1).swap_bytes().to_le_bytes());
            changes.delete_range(Family::Values, start, end);
        }
        for _ in 0..20_000 {
            let before = changes.savepoint();
            changes.delete_range(Family::Values, [0], [255]);
            assert_eq!(changes.get(Family::Values, &[1, 1]), Some(None));
            changes.roll_back(before);
        }
        assert_eq!(changes.get(Family::Values, &[1, 1]), None);
        assert_eq!(changes.get(Family::Values, &4_u32.swap_bytes().to_le_bytes()), Some(None));
    }

    #[test]
    fn memory_of_a_large_change_is_given_back_and_that_of_a_usual_one_kept() {
        let mut changes = ChangeSet::default();
        changes.put(Family::Values, b"large", vec![0; 2 * KEPT_BYTES]);
        changes.clear();
        assert!(changes.bytes.capacity() <= KEPT_BYTES && changes.is_empty());
        changes.put(Family::Values, b"usual", vec![0; KEPT_BYTES / 2]);
        changes.clear();
        assert!(changes.bytes.capacity() >= KEPT_BYTES / 2);
        assert_eq!(changes.get(Family::Values, b"usual"), None);
    }
}

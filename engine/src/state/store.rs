//! What a state is kept in: ordered families of keys and values, and atomic changes to them.

use crate::model::request::FailureClass;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;

/// A family of the state. All but [`Family::Meta`] are logical content, and part of the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// Current values by key.
    Values,
    /// Events by stream and version.
    Events,
    /// The version of each stream.
    Heads,
    /// Clients' sessions, and what came of their requests.
    Sessions,
    /// LSNs of records that had no effect.
    Rejected,
    /// What this node knows of its shards: applied positions, assignments in force. Not part of the digest.
    Meta,
}

impl Family {
    /// All of them, in digest order, `Meta` last.
    pub const ALL: [Self; 6] = [Self::Values, Self::Events, Self::Heads, Self::Sessions, Self::Rejected, Self::Meta];

    /// Its name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Events => "events",
            Self::Heads => "heads",
            Self::Sessions => "sessions",
            Self::Rejected => "rejected",
            Self::Meta => "meta",
        }
    }
}

/// Which way a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// From the bound up.
    Ascending,
    /// From the bound down.
    Descending,
}

/// The state can't be read or written.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5201 | operator | look at the reason: permissions, a full disk, another process |
/// | TW-5202 | operator | as above; after a background error of RocksDB, reopen the node |
/// | TW-5203 | damage | the log is intact: rebuild the state from it, or from a copy |
/// | TW-5204 | operator | this release is too old for the directory: install the newer one |
/// | TW-5205 | damage | as TW-5203 |
/// | TW-5206 | retry | flushes and compactions have to catch up first |
/// | TW-5207 | operator | make room on the disk of the state; what waits goes on by itself |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The state's directory can't be opened.
    #[error("the state in {} can't be opened: {reason}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What RocksDB or the system said.
        reason: String,
    },
    /// The backend refuses.
    #[error("{what} the state: {reason}")]
    Backend {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// The backend found its files damaged (fault D23).
    #[error("{what} the state: its files are damaged: {reason}")]
    Damaged {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// The state has a family that this release does not know: a newer release wrote it.
    #[error("the state in {} has the family `{family}`, which this release does not know: a newer one wrote it", path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// The family.
        family: String,
    },
    /// An entry is not what this release writes.
    #[error("an entry of family `{family}` can't be read (format {found}, {bytes} bytes)")]
    Entry {
        /// The family.
        family: &'static str,
        /// The format version in its first byte, 0 if it is empty.
        found: u8,
        /// Its length.
        bytes: usize,
    },
    /// The backend would make the writer wait, who asked not to. Nothing was written.
    #[error("the state takes no writes for a moment: flushes and compactions have to catch up")]
    Stalled,
    /// The disk of the state is full (fault D10). Nothing was written; once there is room, the same may be done again.
    #[error("{what} the state: its disk is full: {reason}")]
    DiskFull {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

impl StoreError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Open { .. } => 5201,
            Self::Backend { .. } => 5202,
            Self::Damaged { .. } => 5203,
            Self::Newer { .. } => 5204,
            Self::Entry { .. } => 5205,
            Self::Stalled => 5206,
            Self::DiskFull { .. } => 5207,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Open { .. } | Self::Backend { .. } | Self::Newer { .. } | Self::DiskFull { .. } => {
                FailureClass::Operator
            }
            Self::Damaged { .. } | Self::Entry { .. } => FailureClass::Damage,
            Self::Stalled => FailureClass::Retry,
        }
    }

    /// What whoever runs the node does about it, to be read behind the error; empty, if the error says it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Entry { .. } => {
                "; the log is whole: close the node, move its directory `state` away and open it again, and the state is made \
                 anew from the log (or, if the log was released, restore a backup)"
            }
            Self::Backend { .. } => {
                "; the log is whole, and what the state lacks comes from it when the node is opened again; if it does not \
                 open, move its directory `state` away, and all of it does (or, if the log was released, restore a backup)"
            }
            Self::Open { .. } | Self::Newer { .. } | Self::Stalled | Self::DiskFull { .. } => "",
        }
    }
}

/// Called with each entry of a scan; it says whether to go on.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered families, read.
pub trait View {
    /// Shows the value of a key, where it lies; false if there is none.
    ///
    /// # Errors
    /// The state can't be read.
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError>;

    /// The value of a key.
    ///
    /// # Errors
    /// The state can't be read.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut found = None;
        self.show(family, key, &mut |value| found = Some(value.to_vec()))?;
        Ok(found)
    }

    /// Visits entries from `from` on: ascending it is the first key that may be visited, descending the last.
    ///
    /// # Errors
    /// The state can't be read.
    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// Ordered families that change atomically.
pub trait Store: View {
    /// Makes all of these changes, or none.
    ///
    /// # Errors
    /// The state can't be written; nothing changed.
    fn commit(&mut self, changes: ChangeSet) -> Result<(), StoreError>;
}

impl<V: View + ?Sized> View for &V {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        (**self).show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        (**self).scan(family, from, order, visit)
    }
}

impl<V: View + ?Sized> View for Arc<V> {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        (**self).show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        (**self).scan(family, from, order, visit)
    }
}

/// Changes, by family: first what goes by range, then what keys become.
///
/// ```
/// use towline::state::{ChangeSet, Family};
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"a".to_vec(), b"1".to_vec());
/// changes.delete_range(Family::Values, b"a".to_vec(), b"c".to_vec());
/// changes.put(Family::Values, b"b".to_vec(), b"2".to_vec());
/// assert_eq!(changes.get(Family::Values, b"a"), Some(None));
/// assert_eq!(changes.get(Family::Values, b"b"), Some(Some(&b"2"[..])));
/// assert_eq!(changes.get(Family::Values, b"c"), None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeSet {
    families: BTreeMap<Family, FamilyChanges>,
}

/// The changes of one family. A range is taken away first; what is in `entries` came after it, or lies outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct FamilyChanges {
    /// Start (included) to end (excluded); they neither overlap nor touch.
    ranges: BTreeMap<Vec<u8>, Vec<u8>>,
    entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl ChangeSet {
    /// Sets a key.
    pub fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.families.entry(family).or_default().entries.insert(key, Some(value));
    }

    /// Removes a key.
    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.families.entry(family).or_default().entries.insert(key, None);
    }

    /// Removes the keys from `start` (included) to `end` (excluded), however many there are: their number is the
    /// store's matter, and costs no memory here (I10).
    pub fn delete_range(&mut self, family: Family, start: Vec<u8>, end: Vec<u8>) {
        if start < end {
            self.families.entry(family).or_default().delete_range(start, end);
        }
    }

    /// What these changes say of a key: nothing, or its new value or absence.
    #[must_use]
    pub fn get(&self, family: Family, key: &[u8]) -> Option<Option<&[u8]>> {
        let changes = self.families.get(&family)?;
        match changes.entries.get(key) {
            Some(entry) => Some(entry.as_deref()),
            None => changes.is_in_a_range(key).then_some(None),
        }
    }

    /// Takes other changes, which came after these.
    pub fn extend(&mut self, other: Self) {
        for (family, later) in other.families {
            let changes = self.families.entry(family).or_default();
            later.ranges.into_iter().for_each(|(start, end)| changes.delete_range(start, end));
            changes.entries.extend(later.entries);
        }
    }

    /// The ranges that go, ascending in each family: to be taken away before the entries are set.
    pub fn ranges(&self) -> impl Iterator<Item = (Family, &[u8], &[u8])> {
        self.families.iter().flat_map(|(family, changes)| {
            changes.ranges.iter().map(|(start, end)| (*family, start.as_slice(), end.as_slice()))
        })
    }

    /// What keys become, ascending in each family: a value, or none where the key goes.
    pub fn entries(&self) -> impl Iterator<Item = (Family, &[u8], Option<&[u8]>)> {
        self.families.iter().flat_map(|(family, changes)| {
            changes.entries.iter().map(|(key, value)| (*family, key.as_slice(), value.as_deref()))
        })
    }
}

impl FamilyChanges {
    fn delete_range(&mut self, mut start: Vec<u8>, mut end: Vec<u8>) {
        let covered = (Bound::Included(start.as_slice()), Bound::Excluded(end.as_slice()));
        let superseded: Vec<_> = self.entries.range::<[u8], _>(covered).map(|(key, _)| key.clone()).collect();
        superseded.iter().for_each(|key| drop(self.entries.remove(key)));
        // Ranges that overlap or touch become one: those that begin at or before the new end, and end at or
        // behind the new start.
        let reach = (Bound::Unbounded, Bound::Included(end.as_slice()));
        let touching = self.ranges.range::<[u8], _>(reach).rev().take_while(|(_, other)| **other >= start);
        let touching: Vec<_> = touching.map(|(other, _)| other.clone()).collect();
        for other_start in touching {
            if let Some(other_end) = self.ranges.remove(&other_start) {
                end = end.max(other_end);
                start = start.min(other_start);
            }
        }
        self.ranges.insert(start, end);
    }

    fn is_in_a_range(&self, key: &[u8]) -> bool {
        let before = (Bound::Unbounded, Bound::Included(key));
        self.ranges.range::<[u8], _>(before).next_back().is_some_and(|(_, end)| key < end.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Change {
        Put(u8),
        Delete(u8),
        DeleteRange(u8, u8),
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0_u8..20).prop_map(Change::Put),
            (0_u8..20).prop_map(Change::Delete),
            (0_u8..20, 0_u8..20).prop_map(|(a, b)| Change::DeleteRange(a, b)),
        ]
    }

    fn apply(changes: &mut ChangeSet, change: &Change, value: u8) {
        match change {
            Change::Put(key) => changes.put(Family::Values, vec![*key], vec![value]),
            Change::Delete(key) => changes.delete(Family::Values, vec![*key]),
            Change::DeleteRange(a, b) => changes.delete_range(Family::Values, vec![*a], vec![*b]),
        }
    }

    proptest! {
        #[test]
        fn changes_say_of_each_key_what_the_last_of_them_did(
            first in prop::collection::vec(any_change(), 0..20), then in prop::collection::vec(any_change(), 0..20),
        ) {
            let mut expected: BTreeMap<u8, Option<Vec<u8>>> = BTreeMap::new();
            let (mut changes, mut later) = (ChangeSet::default(), ChangeSet::default());
            for (value, change) in (0_u8..).zip(first.iter().chain(&then)) {
                let target = if usize::from(value) < first.len() { &mut changes } else { &mut later };
                apply(target, change, value);
                match change {
                    Change::Put(key) => drop(expected.insert(*key, Some(vec![value]))),
                    Change::Delete(key) => drop(expected.insert(*key, None)),
                    Change::DeleteRange(a, b) => (*a..*b).for_each(|key| drop(expected.insert(key, None))),
                }
            }
            changes.extend(later);
            for key in 0..20 {
                let found = changes.get(Family::Values, &[key]).map(|value| value.map(<[u8]>::to_vec));
                prop_assert_eq!(found, expected.get(&key).cloned(), "key {}", key);
            }
            let ranges: Vec<_> = changes.ranges().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].2 < pair[1].1), "ranges are apart: {:?}", ranges);
        }
    }
}

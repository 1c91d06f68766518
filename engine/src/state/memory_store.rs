//! A state in memory, for the simulator and for tests: it forgets what was not flushed, as RocksDB does with its
//! own log off.

use super::change_set::{Change, ChangeSet};
use super::store::{Family, Order, Store, StoreError, View, Visitor};
use std::collections::BTreeMap;
use std::ops::Bound;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A [`Store`] of ordered maps.
///
/// [`MemStore::flush`] marks what survives a [`MemStore::crash`]: all families and the applied position together.
///
/// ```
/// use towline::state::{ChangeSet, Family, MemStore, Store, View};
/// let mut store = MemStore::new();
/// let mut changes = ChangeSet::default();
/// changes.put(Family::Values, b"k", b"v");
/// store.commit(&changes)?;
/// store.crash();
/// assert_eq!(store.get(Family::Values, b"k")?, None, "it was not flushed");
/// # Ok::<(), towline::state::StoreError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    families: BTreeMap<Family, Entries>,
    running: u128,
    /// What each change since the last flush replaced, oldest first: a flush costs nothing, a crash what it undoes.
    unflushed: Vec<(Family, Vec<u8>, Option<Vec<u8>>)>,
}

impl MemStore {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A digest kept up to date with every change: the sum over all logical entries of a hash of each. It is
    /// compared after every step of a simulation, where [`digest`](super::digest) would read the whole state.
    #[must_use]
    pub const fn running_digest(&self) -> u128 {
        self.running
    }

    /// Makes everything so far survive a crash.
    pub fn flush(&mut self) {
        self.unflushed.clear();
    }

    /// Goes back to the last flush.
    pub fn crash(&mut self) {
        let unflushed = std::mem::take(&mut self.unflushed);
        for (family, key, old) in unflushed.into_iter().rev() {
            self.replace(family, &key, old);
        }
    }

    /// Sets or removes one entry; gives back the old one.
    fn replace(&mut self, family: Family, key: &[u8], value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let entries = self.families.entry(family).or_default();
        let old = match value {
            Some(value) => {
                self.running = self.running.wrapping_add(entry_hash(family, key, &value));
                entries.insert(key.to_vec(), value)
            }
            None => entries.remove(key),
        };
        if let Some(old) = &old {
            self.running = self.running.wrapping_sub(entry_hash(family, key, old));
        }
        old
    }

    fn change(&mut self, family: Family, key: &[u8], value: Option<Vec<u8>>) {
        let old = self.replace(family, key, value);
        self.unflushed.push((family, key.to_vec(), old));
    }
}

fn entry_hash(family: Family, key: &[u8], value: &[u8]) -> u128 {
    if family == Family::Meta {
        return 0;
    }
    let mut bytes = Vec::with_capacity(family.name().len() + 8 + key.len() + value.len());
    bytes.extend_from_slice(family.name().as_bytes());
    bytes.extend_from_slice(&(key.len() as u64).to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    xxhash_rust::xxh3::xxh3_128(&bytes)
}

impl View for MemStore {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let found = self.families.get(&family).and_then(|entries| entries.get(key));
        Ok(found.map(|value| look(value)).is_some())
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let Some(entries) = self.families.get(&family) else { return Ok(()) };
        let mut visits = |(key, value): (&Vec<u8>, &Vec<u8>)| visit(key, value);
        // Whether the visitor broke off tells nobody here anything.
        let _ended = match order {
            Order::Ascending => {
                entries.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).try_for_each(&mut visits)
            }
            Order::Descending => {
                entries.range::<[u8], _>((Bound::Unbounded, Bound::Included(from))).rev().try_for_each(&mut visits)
            }
        };
        Ok(())
    }
}

impl Store for MemStore {
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
        for change in changes.changes() {
            match change {
                Change::Put { family, key, value } => self.change(family, key, Some(value.to_vec())),
                Change::Delete { family, key } => self.change(family, key, None),
                Change::DeleteRange { family, start, end } => {
                    let within = (Bound::Included(start), Bound::Excluded(end));
                    let entries = self.families.entry(family).or_default();
                    let keys: Vec<_> = entries.range::<[u8], _>(within).map(|(key, _)| key.clone()).collect();
                    keys.iter().for_each(|key| self.change(family, key, None));
                }
            }
        }
        Ok(())
    }
}

//! Numbers for what was met before, by 128 bits of hash.

use hashbrown::HashTable;

/// A set of keys that numbers them in the order of their arrival.
///
/// The keys are hashes: two things with one hash would be taken for one. Of 100 million states that happens once in 10²² runs.
#[derive(Debug, Default)]
pub(super) struct Ids {
    table: HashTable<u32>,
    keys: Vec<u128>,
}

impl Ids {
    /// The number of this key, and whether it is new.
    pub(super) fn number(&mut self, key: u128) -> (u32, bool) {
        let keys = &self.keys;
        let same = |id: &u32| keys.get(*id as usize) == Some(&key);
        let entry = self.table.entry(mix(key), same, |id| keys.get(*id as usize).map_or(0, |key| mix(*key)));
        match entry {
            hashbrown::hash_table::Entry::Occupied(entry) => (*entry.get(), false),
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let id = u32::try_from(keys.len()).unwrap_or(u32::MAX);
                entry.insert(id);
                self.keys.push(key);
                (id, true)
            }
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<u128>() + self.table.capacity() * 8 / 7 * (size_of::<u32>() + 1)
    }
}

/// Spreads a key: some are small numbers.
const fn mix(key: u128) -> u64 {
    let folded = (key ^ (key >> 64)) as u64;
    let spread = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    spread ^ (spread >> 32)
}

//! The digest: what two replicas compare (I4).

use super::key;
use super::store::{Family, Order, StoreError, View};
use crate::model::{Chain, Epoch, LogPosition, Lsn, ShardId};
use std::ops::ControlFlow;
use xxhash_rust::xxh3::Xxh3;

/// A hash of the logical content in canonical order: each family but `Meta`, its entries by key, every length
/// before its bytes, the number of entries after them. Not of RocksDB's bytes, and nothing that a node keeps for
/// itself. xxh3, 128 bits: it finds accidents, not an adversary.
///
/// # Errors
/// The state can't be read.
pub fn digest<V: View + ?Sized>(view: &V) -> Result<[u8; 16], StoreError> {
    let mut hasher = Xxh3::new();
    for family in Family::ALL.into_iter().filter(|family| *family != Family::Meta) {
        hasher.update(family.name().as_bytes());
        let mut count = 0_u64;
        view.scan(family, &[], Order::Ascending, &mut |key, value| {
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            count += 1;
            ControlFlow::Continue(())
        })?;
        hasher.update(&count.to_le_bytes());
    }
    Ok(hasher.digest128().to_le_bytes())
}

/// The digest together with the position that it is of: on a snapshot the two belong together. A state into which
/// nothing was applied says LSN 0, and no epoch or chain.
///
/// # Errors
/// The state can't be read.
pub fn digest_at<V: View + ?Sized>(view: &V, shard: ShardId) -> Result<(LogPosition, [u8; 16]), StoreError> {
    let applied = match view.get(Family::Meta, &key::applied_key(shard))? {
        Some(entry) => key::read_applied(&entry)?.1,
        None => LogPosition { epoch: Epoch::ZERO, lsn: Lsn::ZERO, chain: Chain::new(0) },
    };
    Ok((applied, digest(view)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ChangeSet, MemStore, Store};

    #[test]
    fn two_releases_give_one_content_one_digest() {
        let mut store = MemStore::new();
        let mut changes = ChangeSet::default();
        changes.put(Family::Values, b"k".to_vec(), b"v".to_vec());
        changes.put(Family::Heads, b"s".to_vec(), b"h".to_vec());
        changes.put(Family::Meta, b"m".to_vec(), b"of this node".to_vec());
        store.commit(changes).unwrap();
        crate::golden::check("state_digest.bin", &digest(&store).unwrap());
    }

    #[test]
    fn what_moves_between_key_and_value_or_families_changes_the_digest() {
        let of = |family, key: &[u8], value: &[u8]| {
            let (mut store, mut changes) = (MemStore::new(), ChangeSet::default());
            changes.put(family, key.to_vec(), value.to_vec());
            store.commit(changes).unwrap();
            (digest(&store).unwrap(), store.running_digest())
        };
        let one = of(Family::Values, b"ab", b"c");
        for other in [of(Family::Values, b"a", b"bc"), of(Family::Heads, b"ab", b"c"), of(Family::Values, b"abc", b"")]
        {
            assert!(one.0 != other.0 && one.1 != other.1);
        }
    }
}

//! The digest: what two replicas compare (I4).

use super::key;
use super::read::applied_of;
use super::store::{Family, Order, StoreError, View};
use crate::model::{Chain, Epoch, LogId, LogPosition, Lsn, ShardDescriptor};
use std::ops::ControlFlow;
use xxhash_rust::xxh3::Xxh3;

/// A hash of the logical content in canonical order: each family but `Meta`, its entries by key, every length
/// before its bytes, the number of entries after them. Not of RocksDB's bytes, and nothing that a node keeps for
/// itself. xxh3, 128 bits: it finds accidents, not an adversary.
///
/// # Errors
/// The state can't be read.
pub fn digest<V: View + ?Sized>(view: &V) -> Result<[u8; 16], StoreError> {
    digest_within(view, |_| (Vec::new(), None))
}

/// The digest of what one shard holds, together with the position that it is of: on a snapshot the two belong together. A
/// state into which nothing was applied says LSN 0, and no epoch or chain. If there is only this shard, it is the digest of
/// everything.
///
/// # Errors
/// The state can't be read.
pub fn digest_of<V: View + ?Sized>(
    view: &V,
    shard: &ShardDescriptor,
    log: LogId,
) -> Result<(LogPosition, [u8; 16]), StoreError> {
    let nothing = LogPosition { epoch: Epoch::ZERO, lsn: Lsn::ZERO, chain: Chain::new(0) };
    let applied = applied_of(view, shard.shard)?.unwrap_or(nothing);
    let digest = digest_within(view, |family| {
        let (start, end) = key::bounds(shard, log, family);
        (start, Some(end))
    })?;
    Ok((applied, digest))
}

fn digest_within<V: View + ?Sized>(
    view: &V,
    bounds: impl Fn(Family) -> (Vec<u8>, Option<Vec<u8>>),
) -> Result<[u8; 16], StoreError> {
    let mut hasher = Xxh3::new();
    for family in Family::ALL.into_iter().filter(|family| *family != Family::Meta) {
        hasher.update(family.name().as_bytes());
        let (start, end) = bounds(family);
        let mut count = 0_u64;
        view.scan(family, &start, Order::Ascending, &mut |key, value| {
            if end.as_ref().is_some_and(|end| key >= end.as_slice()) {
                return ControlFlow::Break(());
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ChangeSet, MemStore, Store};

    #[test]
    fn two_releases_give_one_content_one_digest() {
        let mut store = MemStore::new();
        let mut changes = ChangeSet::default();
        changes.put(Family::Values, b"k", b"v");
        changes.put(Family::Heads, b"s", b"h");
        changes.put(Family::Meta, b"m", b"of this node");
        store.commit(&changes).unwrap();
        crate::golden::check("state_digest.bin", &digest(&store).unwrap());
    }

    #[test]
    fn what_moves_between_key_and_value_or_families_changes_the_digest() {
        let of = |family, key: &[u8], value: &[u8]| {
            let (mut store, mut changes) = (MemStore::new(), ChangeSet::default());
            changes.put(family, key, value);
            store.commit(&changes).unwrap();
            (digest(&store).unwrap(), store.running_digest())
        };
        let one = of(Family::Values, b"ab", b"c");
        for other in [of(Family::Values, b"a", b"bc"), of(Family::Heads, b"ab", b"c"), of(Family::Values, b"abc", b"")]
        {
            assert!(one.0 != other.0 && one.1 != other.1);
        }
    }
}

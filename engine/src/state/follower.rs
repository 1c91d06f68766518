//! Followers of a feed, by name: how far each is. Of this node only, and not part of the digest.

use super::change_set::ChangeSet;
use super::key;
use super::store::{Family, Order, StoreError, View};
use crate::model::{Epoch, Lsn, ShardId};
use std::ops::ControlFlow;

/// How far a follower is in one shard, and what is kept for it.
///
/// ```
/// use towline::model::{Epoch, Lsn, ShardId};
/// use towline::state::{ChangeSet, FollowerEntry, MemStore, Store, followers, forget_follower, put_follower};
/// let (mut store, shard) = (MemStore::new(), ShardId::new(1024));
/// let done = FollowerEntry::new(Epoch::new(1024, 1), Lsn::new(7), 1_385_856_000_000_000, 1 << 30, 3600);
/// let mut changes = ChangeSet::default();
/// put_follower(&mut changes, shard, "mailer", &done);
/// store.commit(&changes)?;
/// assert_eq!(followers(&store, shard)?, [("mailer".to_owned(), done)]);
/// assert!(followers(&store, ShardId::new(2048))?.is_empty(), "each shard has its own");
///
/// forget_follower(&mut changes, shard, "mailer");
/// store.commit(&changes)?;
/// assert!(followers(&store, shard)?.is_empty());
/// # Ok::<(), towline::state::StoreError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerEntry {
    /// The epoch of the last record that it is done with.
    pub epoch: Epoch,
    /// That record.
    pub lsn: Lsn,
    /// When it said so: microseconds since 1970.
    pub micros: u64,
    /// Bytes of the log that are kept for it.
    pub budget_bytes: u64,
    /// How long it may stay where it is.
    pub budget_seconds: u64,
}

impl FollowerEntry {
    /// A follower that is done with everything up to a record.
    #[must_use]
    pub const fn new(epoch: Epoch, lsn: Lsn, micros: u64, budget_bytes: u64, budget_seconds: u64) -> Self {
        Self { epoch, lsn, micros, budget_bytes, budget_seconds }
    }
}

/// The followers of a shard, by name.
///
/// # Errors
/// The state can't be read.
pub fn followers<V: View + ?Sized>(view: &V, shard: ShardId) -> Result<Vec<(String, FollowerEntry)>, StoreError> {
    let prefix = key::follower_key(shard, "");
    let (mut found, mut failed) = (Vec::new(), None);
    view.scan(Family::Meta, &prefix, Order::Ascending, &mut |at, entry| {
        let Some(name) = at.strip_prefix(&prefix[..]) else { return ControlFlow::Break(()) };
        let bad = || StoreError::Entry { family: Family::Meta.name(), found: 0, bytes: at.len() };
        let name = std::str::from_utf8(name).map_err(|_| bad());
        match name.and_then(|name| Ok((name.to_owned(), key::read_follower(entry)?))) {
            Ok(follower) => {
                found.push(follower);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(found), Err)
}

/// Notes how far a follower is in a shard.
pub fn put_follower(changes: &mut ChangeSet, shard: ShardId, name: &str, follower: &FollowerEntry) {
    changes.put(Family::Meta, key::follower_key(shard, name), key::follower_entry(follower));
}

/// Forgets a follower in a shard.
pub fn forget_follower(changes: &mut ChangeSet, shard: ShardId, name: &str) {
    changes.delete(Family::Meta, key::follower_key(shard, name));
}

//! A namespace is gone: nothing of it stays in the state.

use super::change_set::ChangeSet;
use super::key;
use super::store::Family;
use crate::model::{NamespaceId, ShardId};

/// The changes that remove everything that the state holds of a namespace and its shards.
///
/// ```
/// use towline::model::{NamespaceId, ShardId};
/// use towline::state::clear_namespace;
/// let changes = clear_namespace(NamespaceId::new(7), [ShardId::new(2048)]);
/// assert_eq!(changes.changes().count(), 6, "one range of each family");
/// ```
#[must_use]
pub fn clear_namespace(namespace: NamespaceId, shards: impl IntoIterator<Item = ShardId>) -> ChangeSet {
    let mut changes = ChangeSet::default();
    let (start, end) = (key::user_key(namespace, &[]), key::after_namespace(namespace));
    for family in Family::ALL.into_iter().filter(|family| *family != Family::Meta) {
        changes.delete_range(family, start.clone(), end.clone());
    }
    for shard in shards {
        let (start, end) = key::shard_bounds(shard);
        changes.delete_range(Family::Meta, start, end);
    }
    changes
}

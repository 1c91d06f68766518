//! The map of a namespace.

use crate::model::limits::{KEY_BYTES_MAX, SHARDS_OF_NAMESPACE_MAX};
use crate::model::request::FailureClass;
use crate::model::{NamespaceId, Operation, Record, ShardDescriptor, ShardId};
use std::fmt;

/// The shards of one namespace: each key belongs to exactly one.
///
/// ```
/// use towline::model::{NamespaceId, Operation, Record, ShardId};
/// use towline::shard::ShardMap;
/// let shards = [10, 11].map(ShardId::new);
/// let map = ShardMap::split(NamespaceId::new(1), &[b"m".to_vec()], &shards)?;
/// assert_eq!(map.shard_of(b"apple"), ShardId::new(10));
/// assert_eq!(map.shard_of(b"m"), ShardId::new(11), "a split point is the first key of the shard that begins there");
///
/// let put = |key: &'static str| Operation::Put { key: key.into(), value: "v".into() };
/// assert_eq!(map.route(&Record::of(vec![put("a"), put("b")])), Ok(ShardId::new(10)));
/// let refused = map.route(&Record::of(vec![put("a"), put("z")])).unwrap_err();
/// assert_eq!(refused.to_string(), "a write stays within one shard: \"a\" is of shard 10, \"z\" of shard 11");
/// # Ok::<(), towline::shard::MapError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// Ascending: the first begins at the empty key, each other where the one before ends, the last has no end.
    shards: Vec<ShardDescriptor>,
}

/// Why shards are not a map.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5501 to TW-5503 | fix the request | mend the split points |
/// | TW-5504 | damage | what was read was written by something else |
///
/// ```
/// use towline::model::{NamespaceId, ShardId};
/// use towline::shard::{MapError, ShardMap};
/// let points = ["m", "g"].map(|point| point.as_bytes().to_vec());
/// let refused = ShardMap::split(NamespaceId::new(1), &points, &[1, 2, 3].map(ShardId::new)).unwrap_err();
/// assert_eq!(refused, MapError::Order { index: 1 }, "\"g\" is not above \"m\"");
/// assert_eq!(refused.code(), 5502);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// No shard, more than the limit, or another number than there are ids.
    #[error("a namespace has 1 to {SHARDS_OF_NAMESPACE_MAX} shards, not {0}")]
    Count(usize),
    /// A split point is empty or not above the one before.
    #[error("split point {index} is empty, or not above the one before: they must ascend")]
    Order {
        /// Which one, from 0.
        index: usize,
    },
    /// A split point is longer than a key.
    #[error("split point {index} has {bytes} bytes; a key has {KEY_BYTES_MAX} at the most")]
    KeyTooLong {
        /// Which one, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// Shards that leave a gap, overlap, or are of different namespaces.
    #[error("shard {0} does not begin where the one before it ends")]
    Gap(ShardId),
}

impl MapError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Count(_) => 5501,
            Self::Order { .. } => 5502,
            Self::KeyTooLong { .. } => 5503,
            Self::Gap(_) => 5504,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Gap(_) => FailureClass::Damage,
            _ => FailureClass::FixRequest,
        }
    }
}

/// A write that would touch two shards (TW-5505): it could not be one step, and is refused. Write to each by itself, or
/// split the namespace elsewhere.
///
/// ```
/// use towline::model::{NamespaceId, ShardId, Write};
/// use towline::shard::ShardMap;
/// let map = ShardMap::split(NamespaceId::new(1), &[b"m".to_vec()], &[1, 2].map(ShardId::new))?;
/// let refused = map.route(Write::new().delete_range("a", "z").record()).unwrap_err();
/// assert_eq!(refused.other, (b"m".to_vec(), ShardId::new(2)), "there the range would have to be cut");
/// assert!(map.route(Write::new().delete_range("a", "m").record()).is_ok());
/// # Ok::<(), towline::shard::MapError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossShard {
    /// The write's first key, and its shard.
    pub first: (Vec<u8>, ShardId),
    /// A key of the same write, and its shard: another one. Of a range that ends in another shard it is where that
    /// one begins.
    pub other: (Vec<u8>, ShardId),
}

impl CrossShard {
    /// Its stable code: `TW-` and these four digits.
    pub const CODE: u16 = 5505;
}

impl fmt::Display for CrossShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((first, shard), (other, of)) = (&self.first, &self.other);
        let (first, other) = (first.escape_ascii(), other.escape_ascii());
        write!(f, "a write stays within one shard: \"{first}\" is of shard {shard}, \"{other}\" of shard {of}")
    }
}

impl std::error::Error for CrossShard {}

impl ShardMap {
    /// One shard for each stretch between split points, `shards` being their ids in order: one more than split points.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn split(namespace: NamespaceId, points: &[Vec<u8>], shards: &[ShardId]) -> Result<Self, MapError> {
        if shards.len() != points.len().saturating_add(1) {
            return Err(MapError::Count(shards.len()));
        }
        let starts = std::iter::once(&[][..]).chain(points.iter().map(Vec::as_slice));
        let ends = points.iter().map(Vec::as_slice).chain([&[][..]]);
        let bounds = starts.zip(ends);
        let describe = |(shard, (start, end)): (&ShardId, (&[u8], &[u8]))| ShardDescriptor {
            shard: *shard,
            namespace,
            start: start.to_vec(),
            end: end.to_vec(),
        };
        Self::new(shards.iter().zip(bounds).map(describe).collect())
    }

    /// The map of these shards.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn new(shards: Vec<ShardDescriptor>) -> Result<Self, MapError> {
        if shards.is_empty() || shards.len() > SHARDS_OF_NAMESPACE_MAX {
            return Err(MapError::Count(shards.len()));
        }
        for (index, point) in shards.iter().skip(1).map(|shard| &shard.start).enumerate() {
            if point.len() > KEY_BYTES_MAX {
                return Err(MapError::KeyTooLong { index, bytes: point.len() });
            }
        }
        let (mut begins, mut namespace) = (&[][..], None);
        let last = shards.len().saturating_sub(1);
        for (index, shard) in shards.iter().enumerate() {
            if shard.start != begins || namespace.is_some_and(|known| known != shard.namespace) {
                return Err(MapError::Gap(shard.shard));
            }
            // Only the last one has no end, and ends ascend with the starts that they are.
            let is_last = index == last;
            if shard.end.is_empty() != is_last || (!is_last && shard.end <= shard.start) {
                return Err(MapError::Order { index });
            }
            (begins, namespace) = (&shard.end, Some(shard.namespace));
        }
        let mut ids: Vec<_> = shards.iter().map(|shard| shard.shard).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair.first() == pair.last()).and_then(|pair| pair.first()) {
            Some(twice) => Err(MapError::Gap(*twice)),
            None => Ok(Self { shards }),
        }
    }

    /// The shards, in the order of their keys.
    #[must_use]
    pub fn shards(&self) -> &[ShardDescriptor] {
        &self.shards
    }

    /// Which of the shards, from 0, holds this key or stream.
    #[must_use]
    pub fn index_of(&self, key: &[u8]) -> usize {
        // The first begins at the empty key, so there is always one that begins at or before the key.
        self.shards.partition_point(|shard| shard.start.as_slice() <= key).saturating_sub(1)
    }

    /// The shard that holds this key or stream.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "`index_of` is the place of one of them")]
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        self.shards[self.index_of(key)].shard
    }

    /// The one shard that a write touches, its preconditions included.
    ///
    /// # Errors
    /// It touches several.
    pub fn route(&self, record: &Record) -> Result<ShardId, CrossShard> {
        self.route_index(record).map(|index| self.shards.get(index).map_or(ShardId::new(0), |shard| shard.shard))
    }

    /// As [`ShardMap::route`]: which of the shards, from 0. A write without any key is of the first.
    ///
    /// # Errors
    /// As [`ShardMap::route`].
    pub fn route_index(&self, record: &Record) -> Result<usize, CrossShard> {
        if self.shards.len() == 1 {
            return Ok(0);
        }
        let preconditions = record.preconditions.iter().map(|precondition| &precondition.key);
        let mut keys = record.operations.iter().map(Operation::key).chain(preconditions);
        let Some(first) = keys.next() else { return Ok(0) };
        let index = self.index_of(first);
        let crosses = |key: &[u8], other: usize| {
            let of = |index: usize| self.shards.get(index).map_or(ShardId::new(0), |shard| shard.shard);
            CrossShard { first: (first.to_vec(), of(index)), other: (key.to_vec(), of(other)) }
        };
        for key in keys {
            let other = self.index_of(key);
            if other != index {
                return Err(crosses(key, other));
            }
        }
        for operation in &record.operations {
            let Operation::DeleteRange { start, end } = operation else { continue };
            let next = self.shards.get(index).map_or(&[][..], |shard| &shard.end);
            if start < end && !next.is_empty() && end.as_ref() > next {
                return Err(crosses(next, index.saturating_add(1)));
            }
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expect, Precondition, Target};
    use proptest::prelude::*;

    const NS: NamespaceId = NamespaceId::new(1);

    fn map(points: &[&str]) -> Result<ShardMap, MapError> {
        let points: Vec<_> = points.iter().map(|point| point.as_bytes().to_vec()).collect();
        let shards: Vec<_> = (0..=points.len() as u64).map(ShardId::new).collect();
        ShardMap::split(NS, &points, &shards)
    }

    #[test]
    fn split_points_that_do_not_ascend_or_are_no_keys_are_refused_and_named() {
        assert!(matches!(map(&["b", "a"]), Err(MapError::Order { index: 1 })));
        assert!(matches!(map(&["a", "a"]), Err(MapError::Order { index: 1 })));
        assert!(matches!(map(&[""]), Err(MapError::Order { index: 0 })));
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        assert!(matches!(map(&["a", &long]), Err(MapError::KeyTooLong { index: 1, .. })));
        assert!(matches!(ShardMap::split(NS, &[], &[]), Err(MapError::Count(0))));
        let many: Vec<_> = (0..SHARDS_OF_NAMESPACE_MAX as u64 + 1).map(ShardId::new).collect();
        let points: Vec<_> = (1..many.len()).map(|n| format!("{n:08}").into_bytes()).collect();
        assert!(matches!(ShardMap::split(NS, &points, &many), Err(MapError::Count(_))));
    }

    #[test]
    fn shards_with_a_gap_an_overlap_or_one_id_twice_are_no_map() {
        let shard = |id, start: &str, end: &str| ShardDescriptor {
            shard: ShardId::new(id),
            namespace: NS,
            start: start.into(),
            end: end.into(),
        };
        assert!(ShardMap::new(vec![shard(1, "", "m"), shard(2, "m", "")]).is_ok());
        assert!(matches!(ShardMap::new(vec![shard(1, "", "m"), shard(2, "n", "")]), Err(MapError::Gap(_))));
        assert!(matches!(ShardMap::new(vec![shard(1, "", "m"), shard(1, "m", "")]), Err(MapError::Gap(_))));
        assert!(ShardMap::new(vec![shard(1, "a", "")]).is_err());
        assert!(ShardMap::new(vec![shard(1, "", "z")]).is_err());
        let foreign = ShardDescriptor { namespace: NamespaceId::new(2), ..shard(2, "m", "") };
        assert!(matches!(ShardMap::new(vec![shard(1, "", "m"), foreign]), Err(MapError::Gap(_))));
    }

    #[test]
    fn a_precondition_or_a_range_that_reaches_into_another_shard_is_refused() {
        let map = map(&["m"]).unwrap();
        let mut record = Record::of(vec![Operation::Delete { key: "a".into() }]);
        record.preconditions.push(Precondition { target: Target::Key, key: "z".into(), expect: Expect::Present });
        let crossed = map.route(&record).unwrap_err();
        assert_eq!((crossed.first.0.as_slice(), crossed.other.0.as_slice()), (&b"a"[..], &b"z"[..]));
        let range = |start: &'static str, end: &'static str| {
            map.route(&Record::of(vec![Operation::DeleteRange { start: start.into(), end: end.into() }]))
        };
        assert_eq!(range("a", "m"), Ok(ShardId::new(0)), "the end is not in it");
        assert_eq!(range("m", "zz"), Ok(ShardId::new(1)));
        assert_eq!(range("z", "a"), Ok(ShardId::new(1)), "an empty range touches nothing else");
        assert_eq!(range("a", "n").unwrap_err().other, (b"m".to_vec(), ShardId::new(1)));
    }

    proptest! {
        #[test]
        fn every_key_is_in_the_one_shard_whose_bounds_hold_it(
            mut points in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..4), 0..6),
            key in prop::collection::vec(any::<u8>(), 0..5),
        ) {
            let points: Vec<Vec<u8>> = std::mem::take(&mut points).into_iter().collect();
            let ids: Vec<_> = (0..=points.len() as u64).map(ShardId::new).collect();
            let map = ShardMap::split(NS, &points, &ids).unwrap();
            let holds = |shard: &&ShardDescriptor| {
                shard.start <= key && (shard.end.is_empty() || key < shard.end)
            };
            let holders: Vec<_> = map.shards().iter().filter(holds).map(|shard| shard.shard).collect();
            prop_assert_eq!(holders, vec![map.shard_of(&key)]);
            prop_assert_eq!(ShardMap::new(map.shards().to_vec()).unwrap(), map);
        }
    }
}

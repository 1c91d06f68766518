//! Ids that must not be confused: each a type of its own.

use super::codec::{Decode, Encode};
use std::fmt;

/// A node of a cluster, as its configuration numbers it. Never reused for another disk.
///
/// ```
/// use towline::model::NodeId;
/// let mut voters = [3, 1, 2].map(NodeId::new);
/// voters.sort(); // as an assignment lists them
/// assert_eq!(voters[0].get(), 1);
/// assert_eq!(format!("node {}", voters[2]), "node 3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeId(u64);

/// A shard, unique across clusters: a counter and the ordinal of the cluster that made it.
///
/// ```
/// use towline::control::{Catalog, DEFAULT_SHARD};
/// use towline::model::{Policy, ShardId};
/// let mut catalog = Catalog::initial();
/// catalog.apply(catalog.create("orders", Policy::default(), &[])?)?;
/// let orders = catalog.named("orders").map(|namespace| namespace.shards[0].shard);
/// assert_eq!(DEFAULT_SHARD, ShardId::new(1024), "counter 1, ordinal 0");
/// assert_eq!(orders, Some(ShardId::new(2 * 1024)));
/// # Ok::<(), towline::control::CatalogError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ShardId(u64);

/// A namespace, as the control plane numbered it. State keys begin with it.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::Policy;
/// let mut catalog = Catalog::initial();
/// catalog.apply(catalog.create("orders", Policy::default(), &[])?)?;
/// let first = catalog.named("orders").ok_or("it was made")?.id;
/// catalog.apply(catalog.drop_namespace("orders")?)?;
/// catalog.apply(catalog.forget(first)?)?;
/// catalog.apply(catalog.create("orders", Policy::default(), &[])?)?;
/// let second = catalog.named("orders").ok_or("it was made again")?.id;
/// assert!(second > first, "the same name, and none of the old keys");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NamespaceId(u32);

/// A cluster's uuid, in the order in which its text is written.
///
/// ```
/// use towline::control::ConfigMaster;
/// use towline::model::{ClusterId, ShardId};
/// let (ours, theirs) = (ClusterId::new([0x2a; 16]), ClusterId::new([0x2b; 16]));
/// assert_eq!(ours.to_string(), "2a2a2a2a-2a2a-2a2a-2a2a-2a2a2a2a2a2a");
/// let shard = ShardId::new(1024);
/// let (one, other) = (ConfigMaster::lineage(ours, shard), ConfigMaster::lineage(theirs, shard));
/// assert_ne!(one, other, "shards of one number in two clusters have logs of their own");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterId([u8; 16]);

/// A data directory, by the number that was drawn when it was made.
///
/// A vote is a directory's, not a node's: who comes back with an empty disk has promised nothing that it knows of, and holds
/// nothing of what it acknowledged.
///
/// ```
/// use towline::model::DirectoryId;
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let before = DirectoryId::new(node.identity().directory);
/// node.close()?;
///
/// // The disk was lost, and the node begins with an empty one.
/// std::fs::remove_dir_all(directory.path())?;
/// let node = Node::open(NodeOptions::alone(directory.path()))?;
/// assert_ne!(DirectoryId::new(node.identity().directory), before);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct DirectoryId([u8; 16]);

macro_rules! number_id {
    ($name:ident, $inner:ty) => {
        impl $name {
            /// The id with this number.
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// Its number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(NodeId, u64);
number_id!(ShardId, u64);
number_id!(NamespaceId, u32);

macro_rules! uuid_id {
    ($name:ident) => {
        impl $name {
            /// The one with these uuid bytes.
            #[must_use]
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The uuid's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid(&self.0, f)
            }
        }
    };
}

uuid_id!(ClusterId);
uuid_id!(DirectoryId);

/// The usual text of a uuid: 8-4-4-4-12 hexadecimal digits.
fn uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_prints_as_a_uuid() {
        let id = ClusterId::new([0x01, 0x93, 0xaa, 0xbb, 0xcc, 0xdd, 0x7e, 0xff, 0x80, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(id.to_string(), "0193aabb-ccdd-7eff-8000-010203040506");
    }
}

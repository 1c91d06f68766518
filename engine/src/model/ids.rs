//! Ids that must not be confused: each a type of its own.

use super::codec::{Decode, Encode};
use std::fmt;

/// A node of a cluster, as its configuration numbers it. Never reused for another disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NodeId(u64);

/// A shard, unique across clusters: a counter and the ordinal of the cluster that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ShardId(u64);

/// A namespace, as the control plane numbered it. State keys begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct NamespaceId(u32);

/// A cluster's uuid, in the order in which its text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterId([u8; 16]);

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

impl ClusterId {
    /// The cluster with these uuid bytes.
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

impl fmt::Display for ClusterId {
    /// The usual text of a uuid: 8-4-4-4-12 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
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

//! Which shard holds a key, and which one takes a write.
//!
//! No I/O, no clock. The type to know is [`ShardMap`]: the shards of one namespace in the order of their keys, without a
//! gap and without an overlap. Splits and merges will make new maps of it.

mod map;

pub use map::{CrossShard, MapError, ShardMap};

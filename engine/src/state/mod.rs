//! What the records did: values, streams, their versions, and how far the log is applied.
//!
//! This floor decides no order and reads no clock. [`Applier`] is the one writer; [`Store`] is what it writes
//! into: RocksDB (`RocksStore`, with the feature `node`) or memory ([`MemStore`], for the simulator). The two
//! types to know are those: `Applier` and `Store`.

mod apply;
#[cfg(test)]
mod apply_test;
mod decodable;
mod digest;
mod effects;
mod key;
mod memory_store;
mod read;
#[cfg(feature = "node")]
mod rocks;
mod store;

pub use apply::{Applied, Applier, ApplyError};
pub use decodable::{BatchContentError, check_batch, check_record};
pub use digest::{digest, digest_at};
pub use memory_store::MemStore;
pub use read::{StreamRead, get_value, read_stream};
#[cfg(feature = "node")]
pub use rocks::{RocksOptions, RocksSnapshot, RocksStore, RocksWriter};
pub use store::{ChangeSet, Family, Order, Store, StoreError, View, Visitor};

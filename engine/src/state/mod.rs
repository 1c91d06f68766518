//! What the records did: values, streams, their versions, and how far the log is applied.
//!
//! This floor decides no order and reads no clock. [`Applier`] is the one writer; [`Store`] is what it writes
//! into: RocksDB (`RocksStore`, with the feature `node`) or memory ([`MemStore`], for the simulator). The two
//! types to know are those: `Applier` and `Store`.

mod apply;
#[cfg(test)]
mod apply_test;
mod change_set;
mod clear;
mod decodable;
mod digest;
mod effects;
mod follower;
mod key;
mod memory_store;
mod ranges;
mod read;
#[cfg(any(feature = "node", test))]
mod replace;
#[cfg(test)]
mod replace_test;
#[cfg(feature = "node")]
mod rocks;
mod sessions;
#[cfg(test)]
mod sessions_test;
mod snapshot;
#[cfg(test)]
mod snapshot_test;
mod store;
#[cfg(any(feature = "node", test))]
mod survey;

pub use crate::model::StreamRead;
#[cfg(feature = "node")]
pub(crate) use apply::last_epoch_start;
pub use apply::{Applied, Applier, ApplyError};
pub use change_set::{Change, ChangeSet};
pub use clear::clear_namespace;
#[cfg(feature = "node")]
pub(crate) use decodable::epoch_start_of;
pub use decodable::{BatchContentError, check_batch};
pub use digest::{digest, digest_of};
pub use follower::{FollowerEntry, followers, forget_follower, put_follower};
pub use memory_store::MemStore;
pub use read::{
    applied_of, get_value, has_rejected, has_sessions, read_stream, rejected, rejected_known_from, scan_values,
};
#[cfg(feature = "node")]
pub(crate) use replace::{Replacement, replacing_of};
#[cfg(all(feature = "node", feature = "sim"))]
pub(crate) use rocks::CrashingStore;
#[cfg(feature = "node")]
pub use rocks::{RocksOptions, RocksSnapshot, RocksStore, RocksTimes, RocksWriter, StateStats, StatisticsLevel};
pub use snapshot::{SnapshotError, StagedSnapshot, install_snapshot, take_snapshot};
pub use store::{Family, Order, Store, StoreError, View, Visitor};
#[cfg(feature = "node")]
pub(crate) use survey::{PartsCheck, Survey};

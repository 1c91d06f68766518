//! The cluster's metadata, and who assigns shards.
//!
//! [`Catalog`] is the metadata. [`ConfigMaster`] assigns: for now a leader, named by a configuration file at first and by hand
//! from then on, and a fixed set of voters from that file. It stands behind the interface that the replicated control plane will
//! use: it makes [`Assignment`]s whose epochs only rise, hears that one was superseded or is activated, and accepts an activation
//! only while it is the newest.
//!
//! [`Assignment`]: crate::model::Assignment

mod catalog;
mod config_master;

pub use catalog::{Catalog, CatalogError, DEFAULT_NAME, DEFAULT_NAMESPACE, DEFAULT_SHARD};
pub use config_master::ConfigMaster;

//! What the benchmarks measure: producers that write and wait, against the disk, the log, one node, three nodes.
//!
//! The program `bench-engine` puts the embedded engine beside bare RocksDB; its modes look at one thing each ([`reopen`],
//! [`amplification`], [`year`], [`session_load`], [`overload`],
//! [`neighbours`], [`remote`], [`cold`], [`idle_shards`], [`idle_cluster`]). The program `bench-state` puts the options of the state's RocksDB beside others.
//! The program `towline-bench` prints them as one table of ratios; the criterion benches time the same producers.

#![forbid(unsafe_code)]

pub mod amplification;
pub mod cluster;
#[cfg(target_os = "linux")]
pub mod cold;
pub mod device;
pub mod engine;
pub mod idle;
pub mod idle_cluster;
pub mod idle_shards;
pub mod neighbours;
pub mod overload;
pub mod process;
pub mod producers;
pub mod remote;
pub mod reopen;
pub mod report;
pub mod session_load;
pub mod state;
pub mod year;

//! Tests of the engine across its floors: one node, three nodes, real files, real sockets on loopback.

#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[cfg(feature = "cli")]
mod access;
mod assign;
#[cfg(feature = "cli")]
mod assign_processes;
mod backups;
#[cfg(feature = "cli")]
mod bad_disk;
mod broken_state;
mod cancel;
mod catch_up;
#[cfg(feature = "cli")]
mod chaos;
mod cluster;
mod crash;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod disk_faults;
mod embedded;
#[cfg(feature = "cli")]
mod emptied;
mod erasure;
mod errors;
mod feeds;
mod full_disk;
mod held;
#[cfg(feature = "cli")]
mod history;
mod hostile_keys;
mod limits;
mod linear_reads;
#[cfg(feature = "cli")]
mod log_tools;
mod many_shards;
#[cfg(target_os = "linux")]
mod memory;
mod mends;
mod namespaces;
mod noise;
#[cfg(feature = "cli")]
mod processes;
#[cfg(feature = "cli")]
mod proxy;
mod races;
mod raw;
mod receipts;
mod remote;
mod requests;
mod sessions;
mod skew;
#[cfg(feature = "cli")]
mod snapshot_processes;
mod snapshots;
mod spans;
mod stopped_follower;
mod switch;
#[cfg(feature = "cli")]
mod tls;
mod untaken;

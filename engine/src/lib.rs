//! Towline keeps ordered logs of writes, makes them durable, and keeps identical copies of them.
//!
//! This crate is the engine: embedded in a process it is a storage backend (`node`), and with `cluster` and
//! `client` it is a replicated server and its remote client. Without any feature it is the sans-IO floors alone:
//! no RocksDB, no tokio, no C code.
//!
//! Read it from the bottom: [`model`] has the words, [`pipeline`] makes batches of writes, [`replica`] agrees on
//! them, [`state`] remembers what they did. `node` joins them with the log (`towline-wal`) and the network
//! (`towline-net`); `sim` joins the very same code with virtual disks, networks and time.
//!
//! Invariants have numbers, I1 to I12 (`docs/src/architecture.md`); a search for `I3` walks the argument.

#![forbid(unsafe_code)]

#[cfg(test)]
mod golden;

pub mod control;
pub mod model;
pub mod pipeline;
pub mod replica;
pub mod shard;
pub mod state;

#[cfg(feature = "node")]
pub mod node;
/// What of the node runs in models of its threads, which need no RocksDB.
#[cfg(all(test, shuttle, not(feature = "node")))]
mod node {
    mod log_budget;
    mod log_budget_model_test;
    mod positions;
    mod positions_model_test;
}

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "sim")]
pub mod sim;

/// The guide's programs, as tests.
#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../../docs/src/embedding.md")]
mod guide {}

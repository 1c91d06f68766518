//! The deterministic simulator: the real log, connection, replica, sequencer and apply, in one thread, with
//! virtual disks, links and time, and faults drawn from a seed.
//!
//! [`run_seed`] runs one seed to its end and says what it did and what broke; [`run`] is the command
//! `towline sim`. The same seed gives the same trace, on any machine and in any build: nothing in here, or in the
//! code under it, reads a clock, a random source or the order of a hash map.
//!
//! The world is a pool of five nodes. A scripted control plane changes the leader, the voters and the learners of the
//! one shard, at the worst moments it can draw, and yet never assigns what the protocol forbids.
//!
//! States are in memory, or in a real RocksDB beside that ([`StateKind`]): the trace is the same.
//!
//! A seed lives at least 60 simulated seconds, 2,000 acknowledged writes and 10 faults; then faults stop, and the
//! members of the last activated assignment must converge. I1 to I6 are checked while it runs, from outside
//! ([`Violation`]).

use command::{plant, say};

mod chance;
mod checker;
mod command;
mod drive;
mod event;
mod explore;
mod fault;
mod master;
mod mischief;
mod network;
mod node;
mod patience;
mod reads;
mod rot;
mod script;
mod sessions;
mod snapshots;
#[cfg(test)]
mod snapshots_test;
mod state;
#[cfg(test)]
mod state_test;
mod swarm;
mod witness;
mod workload;
mod world;
#[cfg(test)]
mod world_test;

pub use checker::Violation;
pub use command::{Args, Command, run};
pub use explore::{Found, Masters, ModelArgs, Scope, Search, explore};
pub use fault::{FaultKind, Totals};
pub use state::StateKind;
pub use world::{Run, run_seed, run_seed_with};

//! The deterministic simulator: the real log, connection, replica, sequencer and apply, in one thread, with
//! virtual disks, links and time, and faults drawn from a seed.
//!
//! [`run_seed`] runs one seed to its end and says what it did and what broke; [`run`] is the command
//! `towline sim`. The same seed gives the same trace, on any machine and in any build: nothing in here, or in the
//! code under it, reads a clock, a random source or the order of a hash map.
//!
//! A seed lives at least 20 simulated seconds, 500 acknowledged writes, three crashes that lose unsynced bytes,
//! and one restart of the leader; then faults stop and everything must converge. I1, I2 and I4 are checked after
//! every step, from outside ([`Violation`]).

use command::{plant, say};

mod chance;
mod checker;
mod command;
mod drive;
mod event;
mod explore;
mod fault;
mod mischief;
mod network;
mod node;
mod sessions;
mod workload;
mod world;

pub use checker::Violation;
pub use command::{Args, Command, run};
pub use explore::{Found, ModelArgs, Scope, explore};
pub use fault::{FaultKind, Totals};
pub use world::{Run, run_seed};

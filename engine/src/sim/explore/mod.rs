//! Exhaustive search at small scope: every order of events of a few nodes, epochs and faults.
//!
//! The replica is the real one, stepped as the node steps it; log, connections and master are small models of theirs. Where
//! [`run_seed`](super::run_seed) draws one path through a large world, [`explore`] follows all paths through a small one. A
//! [`Scope`] says how small; what it finds is [`Found`].
//!
//! What the model takes for granted: a connection keeps the order of its messages, and comes and goes for both ends at one
//! moment; writes become durable in order; reads of the log see what is durable when they are done; a node that starts again
//! has applied nothing.
//!
//! Open these in order: `scope` (what may happen), `world` (a state and its choices), `judge` (what must hold), `node` (the
//! replica in it), `steps` (why it is quick), `search`; `masters` (a world without a master that
//! knows of all assignments).

mod command;
#[cfg(test)]
mod explore_test;
mod ids;
mod judge;
mod master;
mod masters;
mod node;
mod scope;
mod search;
mod steps;
mod story;
mod world;

pub(in crate::sim) use command::run_model;
pub use command::{ModelArgs, Search};
pub use masters::Masters;
pub use scope::Scope;
pub use search::{Found, explore};

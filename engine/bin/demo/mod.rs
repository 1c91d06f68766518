//! The demonstration: three processes on loopback, real data, kills in the middle, and the comparison at the end.
//!
//! It plays a story ([`script`]) with a [`cluster`] of real `towline serve` processes and a real `towline load`
//! ([`loading`]); what it claims at the end it reads from the logs by `towline wal inspect` and from the CSV file
//! ([`check`]), not from the program's own counters. Every [`process`] it started ends with it, however it ends.

mod check;
mod cluster;
mod figures;
mod loading;
mod process;
mod script;

pub(crate) use script::{Plan, play};

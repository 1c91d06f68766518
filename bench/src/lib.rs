//! What the benchmarks measure: producers that write and wait, against the disk, the log, one node, three nodes.
//!
//! The program `towline-bench` prints them as one table of ratios; the criterion benches time the same producers.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod device;
pub mod idle;
pub mod producers;

//! The tests of the transport, in one binary.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]
#![expect(clippy::expect_used, reason = "a test that can't go on should say where")]

mod codes;
mod flow;
mod golden;
mod handshake;
mod hostile;
mod properties;
mod skew;
mod states;
mod streams;
mod world;

#[cfg(feature = "tokio")]
mod budget;
#[cfg(feature = "tokio")]
mod chaos;
#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "tls")]
mod identities;
#[cfg(feature = "tokio")]
mod listener;
#[cfg(all(feature = "tls", feature = "mutants"))]
mod mutants;
#[cfg(feature = "tokio")]
mod network;
#[cfg(feature = "tls")]
mod tls;

//! The tests of the transport, in one binary.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]
#![expect(clippy::expect_used, reason = "a test that can't go on should say where")]

mod flow;
mod golden;
mod handshake;
mod hostile;
mod properties;
mod streams;
mod world;

#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "tls")]
mod identities;
#[cfg(feature = "tls")]
mod tls;

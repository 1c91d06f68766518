//! A transport for messages between processes that may be a metre or an ocean apart: framed, versioned,
//! multiplexed over one byte stream, with credits and lanes. Payloads are opaque to it; any protocol of messages
//! can use it. It is not an RPC framework, and it does not encrypt: TLS is a layer below (feature `tls`).
//!
//! Two types to know: [`Connection`] is the protocol as a state machine, to which bytes and time are given and from
//! which events and bytes are taken; it has no socket, no clock and no random source, so a simulator can run it.
//! `driver::ConnectionHandle` (feature `tokio`) is one that runs over a socket.
//!
//! The bytes are specified in the book, chapter 'The protocol'. What it defends against is in the project's list of faults,
//! rows N5 to N9, N12, N15 and N16; the tests name them.
//!
//! ```
//! use std::time::Duration;
//! use bytes::Bytes;
//! use towline_net::{Connection, ConnectionConfig, Event, Identity, Lane, Role, SendFlags, Side, StreamKind};
//!
//! let now = Duration::ZERO;
//! let who = |node| Identity { cluster: [7; 16], node, directory: [node as u8; 16], incarnation: 1, role: Role::Node };
//! let mut dialer = Connection::new(Side::Dialer, ConnectionConfig::new(who(1), [1; 16]), now)?;
//! let mut acceptor = Connection::new(Side::Acceptor, ConnectionConfig::new(who(2), [2; 16]), now)?;
//!
//! // A network without distance: what one hands out, the other gets.
//! fn exchange(a: &mut Connection, b: &mut Connection, now: Duration) {
//!     loop {
//!         let (from_a, from_b) = (a.poll_transmit(now, 1 << 20), b.poll_transmit(now, 1 << 20));
//!         if from_a.is_none() && from_b.is_none() { break }
//!         for bytes in from_a.into_iter().flatten() { b.receive(now, &bytes).unwrap() }
//!         for bytes in from_b.into_iter().flatten() { a.receive(now, &bytes).unwrap() }
//!     }
//! }
//! exchange(&mut dialer, &mut acceptor, now);
//! assert!(matches!(dialer.poll_event(), Some(Event::Ready { .. })));
//! assert!(matches!(acceptor.poll_event(), Some(Event::Ready { .. })));
//!
//! let stream = dialer.open(StreamKind::Request, Lane::Request)?;
//! dialer.send(stream, Bytes::from_static(b"are you well?"), SendFlags::default())?;
//! exchange(&mut dialer, &mut acceptor, now);
//! assert!(matches!(acceptor.poll_event(), Some(Event::Opened { .. })));
//! let Some(Event::Message { stream, bytes, charge, .. }) = acceptor.poll_event() else { panic!("a message") };
//! assert_eq!(&bytes[..], b"are you well?");
//! acceptor.consumed(stream, charge); // the credit goes back to the dialer
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod frame;
pub mod hello;
pub mod limits;
pub mod mutant;

mod connection;
mod credit;
mod error;
mod event;
mod identity;
mod lane;
mod rtt;
mod stats;
mod stream;

#[cfg(feature = "tokio")]
pub mod driver;

pub use connection::{Connection, ConnectionConfig, Landing, Side};
pub use error::{ConfigError, ConnectionError, FaultClass, GoAwayCode, OpenError, ResetCode, SendError};
pub use event::Event;
pub use frame::{StreamId, StreamKind};
pub use identity::{Features, Identity, PeerHello, ProtocolRange, Role};
pub use lane::Lane;
pub use limits::{Limits, PeerLimits};
pub use rtt::RttEstimate;
pub use stats::Stats;
pub use stream::SendFlags;

/// The protocol versions that this build speaks.
pub const PROTOCOL: ProtocolRange = ProtocolRange::new(1, 1);

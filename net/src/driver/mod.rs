//! The tokio driver: moves the bytes of a [`Connection`](crate::Connection) over any `AsyncRead + AsyncWrite`.
//!
//! [`spawn`] starts one task for a connection and hands out a [`ConnectionHandle`], whose methods are synchronous
//! and do not block (threads of the data path call them); [`connect`] and [`Listener`] do it for TCP. Events go to an
//! [`EventSink`]: a callback, or a bounded channel.
//!
//! ```
//! use towline_net::driver::{self, EventSink};
//! use towline_net::{ConnectionConfig, Event, Identity, Lane, Role, SendFlags, Side, StreamKind};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let who = |node| Identity { cluster: [7; 16], node, directory: [node as u8; 16], incarnation: 1, role: Role::Node };
//! let (one, other) = tokio::io::duplex(1 << 16);
//! let (sink, mut events) = EventSink::channel(16);
//! let server = driver::spawn(other, Side::Acceptor, ConnectionConfig::new(who(2), [2; 16]), sink)?;
//! let client = driver::spawn(one, Side::Dialer, ConnectionConfig::new(who(1), [1; 16]), EventSink::callback(|_| ()))?;
//! client.ready().await?;
//! let stream = client.open(StreamKind::Request, Lane::Request)?;
//! client.send(stream, "hello".into(), SendFlags::default()).await?;
//! while let Some(event) = events.recv().await {
//!     if let Event::Message { stream, bytes, charge, .. } = event {
//!         assert_eq!(&bytes[..], b"hello");
//!         server.consumed(stream, charge);
//!         break;
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission;
mod budget;
mod handle;
mod listener;
mod listener_stats;
mod sink;
mod socket;
mod task;
#[cfg(feature = "tls")]
pub mod tls;

pub use admission::network_of;
pub use budget::{Held, MemoryBudget};
pub use handle::ConnectionHandle;
pub use listener::{Incoming, Listener, ListenerOptions};
pub use listener_stats::{ListenerStats, ReasonCounts};
pub use sink::{EventReceiver, EventSink};
pub use socket::{DriverError, connect, dial, tune};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{ConnectionConfig, Side};
use crate::error::ConfigError;

/// Runs a connection over `io` in a task of the current tokio runtime.
///
/// # Errors
/// [`ConfigError`]: the configuration can't work; nothing was started.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn spawn<T>(io: T, side: Side, config: ConnectionConfig, sink: EventSink) -> Result<ConnectionHandle, ConfigError>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    task::spawn(io, side, config, sink, None, None)
}

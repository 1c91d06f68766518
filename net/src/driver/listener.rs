//! [`Listener`]: accepts TCP connections, as many as it may.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::{ConnectionConfig, Side};
use crate::error::{ConfigError, ConnectionError};
use crate::frame::{FrameHeader, FrameKind};
use crate::hello::{HelloAck, Refusal};

use super::{ConnectionHandle, EventSink, task, tune};

/// How many connections a listener takes.
///
/// ```
/// use towline_net::driver::{self, EventSink, Listener, ListenerOptions};
/// use towline_net::{ConnectionError, FaultClass};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let options = ListenerOptions { pending_max: 1, ..ListenerOptions::default() };
/// let listener = Listener::bind("127.0.0.1:0".parse()?, options).await?;
/// let address = listener.local_addr()?;
/// # let silent = tokio::net::TcpStream::connect(address).await?;
/// let stranger = listener.accept().await?; // It says nothing, and holds the one place.
/// let client = driver::connect(address, config(1), EventSink::callback(|_| ())).await?;
/// let refused = tokio::select! {
///     result = client.ready() => result.unwrap_err(),
///     _ = listener.accept() => panic!("there is no place"),
/// };
/// assert!(matches!(refused, ConnectionError::Refused { code: 3020, .. }));
/// assert_eq!(refused.class(), FaultClass::Retry);
/// drop(stranger); // Its place is free again.
/// # let again = driver::connect(address, config(1), EventSink::callback(|_| ())).await?;
/// # let server = listener.accept().await?.spawn(config(2), EventSink::callback(|_| ()))?;
/// # assert_eq!(again.ready().await?.identity.node, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// At a time.
    pub connections_max: usize,
    /// At a time before their handshake is over: strangers.
    pub pending_max: usize,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self { connections_max: 4096, pending_max: 1024 }
    }
}

/// A listening socket. Over its bounds it answers by a refusal with code 3020 (`Busy`) and closes.
///
/// ```
/// use towline_net::driver::{self, EventSink, Listener, ListenerOptions};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let listener = Listener::bind("127.0.0.1:0".parse()?, ListenerOptions::default()).await?;
/// let address = listener.local_addr()?;
/// let client = driver::connect(address, config(1), EventSink::callback(|_| ())).await?;
/// let server = listener.accept().await?.spawn(config(2), EventSink::callback(|_| ()))?;
/// assert_eq!(server.ready().await?.identity.node, 1);
/// assert_eq!(client.ready().await?.identity.node, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// What a listener did so far.
///
/// ```
/// use towline_net::driver::{self, EventSink, Listener, ListenerOptions};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let options = ListenerOptions { connections_max: 1, ..ListenerOptions::default() };
/// let listener = Listener::bind("127.0.0.1:0".parse()?, options).await?;
/// let address = listener.local_addr()?;
/// let client = driver::connect(address, config(1), EventSink::callback(|_| ())).await?;
/// let server = listener.accept().await?.spawn(config(2), EventSink::callback(|_| ()))?;
/// let second = driver::connect(address, config(3), EventSink::callback(|_| ())).await?;
/// tokio::select! {
///     refused = second.ready() => assert!(refused.is_err()),
///     _ = listener.accept() => panic!("there is room for one"),
/// }
/// let stats = listener.stats();
/// assert_eq!((stats.accepted, stats.refused, stats.failed), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Connections handed out.
    pub accepted: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Times the system failed to accept (out of descriptors, aborted by the peer).
    pub failed: u64,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr, options: ListenerOptions) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::bind(address).await?,
            connections: Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS))),
            pending: Arc::new(Semaphore::new(options.pending_max.min(Semaphore::MAX_PERMITS))),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ListenerStats {
        // Relaxed: figures for people, which order nothing.
        ListenerStats {
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Waits for a connection that may be. Faults that pass (no descriptors left, a connection aborted) are counted
    /// and waited out (P7).
    ///
    /// Cancellation: no connection that was handed out is lost; one that was just taken from the system is closed.
    ///
    /// # Errors
    /// The listening socket itself is broken.
    pub async fn accept(&self) -> io::Result<Incoming> {
        loop {
            let (socket, address) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let connection = Arc::clone(&self.connections).try_acquire_owned();
            let pending = Arc::clone(&self.pending).try_acquire_owned();
            let (Ok(connection), Ok(pending)) = (connection, pending) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                refuse(&socket);
                continue;
            };
            if tune(&socket).is_err() {
                self.failed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.accepted.fetch_add(1, Ordering::Relaxed);
            let tickets = Tickets { connection: Some(connection), pending: Some(pending) };
            return Ok(Incoming { socket, address, tickets });
        }
    }
}

/// An accepted connection that does not run yet. Dropped, it is closed.
///
/// ```
/// use towline_net::ConnectionError;
/// use towline_net::driver::{self, EventSink, Listener, ListenerOptions};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let listener = Listener::bind("127.0.0.1:0".parse()?, ListenerOptions::default()).await?;
/// # let address = listener.local_addr()?;
/// let client = driver::connect(address, config(1), EventSink::callback(|_| ())).await?;
/// let incoming = listener.accept().await?;
/// assert!(incoming.peer_addr().ip().is_loopback(), "known before a byte of it is read");
/// let server = incoming.spawn(config(2), EventSink::callback(|_| ()))?;
/// assert_eq!(client.ready().await?.identity.node, 2);
///
/// let unwanted = driver::connect(address, config(3), EventSink::callback(|_| ())).await?;
/// drop(listener.accept().await?);
/// assert_eq!(unwanted.ready().await, Err(ConnectionError::TransportEnded));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Incoming {
    socket: TcpStream,
    address: SocketAddr,
    tickets: Tickets,
}

impl Incoming {
    /// The peer's address.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        self.address
    }

    /// Runs the connection.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration can't work; the socket is closed.
    pub fn spawn(self, config: ConnectionConfig, sink: EventSink) -> Result<ConnectionHandle, ConfigError> {
        task::spawn(self.socket, Side::Acceptor, config, sink, self.tickets)
    }

    #[cfg(feature = "tls")]
    pub(super) fn into_parts(self) -> (TcpStream, SocketAddr, Tickets) {
        (self.socket, self.address, self.tickets)
    }

    /// Runs the connection over what `wrap` makes of the socket, such as TLS. The listener's bounds hold it all the
    /// while, so `wrap` should have a deadline ([`tls::accept`](super::tls) has).
    ///
    /// Cancellation: the socket is closed.
    ///
    /// # Errors
    /// What `wrap` says, or the configuration.
    pub async fn spawn_over<T, E, F>(
        self,
        config: ConnectionConfig,
        sink: EventSink,
        wrap: impl FnOnce(TcpStream) -> F,
    ) -> Result<ConnectionHandle, E>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
        E: From<ConfigError>,
        F: Future<Output = Result<T, E>>,
    {
        let io = wrap(self.socket).await?;
        Ok(task::spawn(io, Side::Acceptor, config, sink, self.tickets)?)
    }
}

/// A connection's places within its listener's bounds; given back when dropped.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    #[expect(dead_code, reason = "held for its drop")]
    connection: Option<OwnedSemaphorePermit>,
    pending: Option<OwnedSemaphorePermit>,
}

impl Tickets {
    pub(super) fn handshake_is_over(&mut self) {
        self.pending = None;
    }
}

/// One write to an empty socket buffer, which does not block. Best effort: a refusal costs no task and no memory.
fn refuse(socket: &TcpStream) {
    let payload = HelloAck::Refusal(Refusal::new(ConnectionError::Busy.code())).encode();
    let header = FrameHeader::for_payload(FrameKind::HelloAck.to_wire(), &payload, 0).encode(0);
    drop(SockRef::from(socket).send(&[&header[..], &payload].concat()));
}

/// How long to wait when the system can't accept.
const RETRY: Duration = Duration::from_millis(50);

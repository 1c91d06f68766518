//! [`Listener`]: accepts TCP connections, as many as it may.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::connection::{ConnectionConfig, Side};
use crate::error::{ConfigError, ConnectionError};
use crate::frame::{FrameHeader, FrameKind};
use crate::hello::{HelloAck, Refusal};

use super::admission::{Admission, Ticket};
use super::{ConnectionHandle, EventSink, ListenerStats, task, tune};

/// How many connections a listener takes.
///
/// A stranger, whose handshake is not over, costs some 9 KiB, and 19 KiB if it sends the longest Hello there is
/// ([`Connection`](crate::Connection) says of what), for as long as `hello_timeout` lets it: by default all strangers together
/// 17 MiB (N15). Within TLS, which comes before, it costs 6 KiB, and 70 KiB if it sends the longest certificates there may
/// be: together 62 MiB. What one address may take leaves room for others, so that one that is
/// full of silent strangers does not shut out the rest. Addresses of one IPv6 /64 count as one.
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
    /// At a time from one address.
    pub address_connections_max: usize,
    /// At a time from one address before their handshake is over.
    pub address_pending_max: usize,
}

impl ListenerOptions {
    /// Of so many connections in all a quarter may be strangers, 896 at most, and a quarter may come from one address; of
    /// the strangers a quarter. So no bound is out of reach, however few connections there may be: a limit on open files may
    /// leave few.
    ///
    /// ```
    /// use towline_net::driver::ListenerOptions;
    /// let few = ListenerOptions::for_connections(128);
    /// assert_eq!((few.connections_max, few.pending_max), (128, 32));
    /// assert_eq!((few.address_connections_max, few.address_pending_max), (32, 8));
    /// ```
    #[must_use]
    pub const fn for_connections(connections_max: usize) -> Self {
        let quarter = connections_max / 4;
        let pending_max = at_least_one(if quarter < STRANGERS_MAX { quarter } else { STRANGERS_MAX });
        Self {
            connections_max,
            pending_max,
            address_connections_max: at_least_one(quarter),
            address_pending_max: at_least_one(pending_max / 4),
        }
    }
}

/// Within TLS one may cost 70 KiB: all of them together stay below 64 MiB.
const STRANGERS_MAX: usize = 896;

const fn at_least_one(places: usize) -> usize {
    if places == 0 { 1 } else { places }
}

impl Default for ListenerOptions {
    /// Of 4,096 connections.
    fn default() -> Self {
        Self::for_connections(4096)
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
    admission: Arc<Admission>,
}

impl Listener {
    /// Listens on `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr, options: ListenerOptions) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the old process's connections to be forgotten. On Windows it means something else.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, admission: Admission::new(options) })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> ListenerStats {
        self.admission.counters.read(self.admission.held())
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
                    self.admission.counters.failed();
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let Some(ticket) = self.admission.admit(address.ip()) else {
                refuse(&socket);
                continue;
            };
            if tune(&socket).is_err() {
                self.admission.counters.failed();
                continue;
            }
            return Ok(Incoming { socket, address, ticket });
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
    ticket: Ticket,
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
        task::spawn(self.socket, Side::Acceptor, config, sink, Some(self.ticket), None)
    }

    #[cfg(feature = "tls")]
    pub(super) fn into_parts(self) -> (TcpStream, SocketAddr, Ticket) {
        (self.socket, self.address, self.ticket)
    }

    /// Runs the connection over what `wrap` makes of the socket, such as TLS. The listener's bounds hold it all the
    /// while, so `wrap` should have a deadline (`tls::accept` has).
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
        Ok(task::spawn(io, Side::Acceptor, config, sink, Some(self.ticket), None)?)
    }
}

/// One write to an empty socket buffer, which does not block. Best effort: a refusal costs no task and no memory.
fn refuse(socket: &TcpStream) {
    let payload = HelloAck::Refusal(Refusal::new(ConnectionError::Busy.code())).encode();
    let header = FrameHeader::for_payload(FrameKind::HelloAck.to_wire(), &payload, 0).encode(0);
    drop(SockRef::from(socket).send(&[&header[..], &payload].concat()));
}

/// Connections that the kernel keeps until they are accepted. One that finds no room there tries again after a second: with
/// the usual 128 a burst of strangers costs each honest client that.
const BACKLOG: u32 = 1024;

/// How long to wait when the system can't accept.
const RETRY: Duration = Duration::from_millis(50);

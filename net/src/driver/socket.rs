//! TCP sockets: their options, and dialling.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{ConnectionConfig, Side};
use crate::error::{ConfigError, FaultClass};

use super::{ConnectionHandle, EventSink, spawn};

/// Why no connection was begun.
///
/// ```
/// use towline_net::{ConfigError, FaultClass};
/// use towline_net::driver::{self, DriverError, EventSink};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let silent = tokio::net::TcpSocket::new_v4()?;
/// # silent.bind("127.0.0.1:0".parse()?)?;
/// # let address = silent.local_addr()?;
/// // Nobody listens at `address`. A later attempt may find somebody.
/// match driver::connect(address, config(1), EventSink::callback(|_| ())).await {
///     Err(DriverError::Connect { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused),
///     other => panic!("{other:?}"),
/// }
/// // This one will never work, and is not tried.
/// let mut wrong = config(1);
/// wrong.idle_timeout = wrong.ping_interval;
/// let error = driver::connect(address, wrong, EventSink::callback(|_| ())).await.unwrap_err();
/// assert!(matches!(error, DriverError::Config(ConfigError::Times { .. })));
/// assert_eq!((error.code(), error.class()), (3104, FaultClass::FixRequest));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The peer could not be reached, or not in time. Try again with back-off.
    #[error("cannot connect to {address}")]
    Connect {
        /// The peer's address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl DriverError {
    /// The stable number: in logs, in the documentation.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Connect { .. } => 3131,
            Self::Config(config) => config.code(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> FaultClass {
        match self {
            Self::Connect { .. } => FaultClass::Retry,
            Self::Config(config) => config.class(),
        }
    }
}

/// Bytes that may wait in the kernel unsent. More would undo the lanes: what lies there can't be overtaken.
const NOTSENT_LOWAT: u32 = 128 << 10;

/// Sets the options that every connection wants: TCP_NODELAY, and on Linux TCP_NOTSENT_LOWAT.
///
/// # Errors
/// What the system says.
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(socket).set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    Ok(())
}

/// Connects a tuned socket within `config.hello_timeout`; for TLS, or to look at the socket first.
///
/// Cancellation: the socket is closed.
///
/// # Errors
/// [`DriverError::Connect`].
pub async fn dial(address: SocketAddr, config: &ConnectionConfig) -> Result<TcpStream, DriverError> {
    let failed = |source| DriverError::Connect { address, source };
    let socket = timeout(config.hello_timeout, TcpStream::connect(address))
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    tune(&socket).map_err(failed)?;
    Ok(socket)
}

/// Connects and runs the connection. The handshake goes on in the task: see
/// [`ConnectionHandle::ready`].
///
/// Cancellation: nothing was started, or the handle is dropped and the connection closes.
///
/// # Errors
/// [`DriverError`].
pub async fn connect(
    address: SocketAddr,
    config: ConnectionConfig,
    sink: EventSink,
) -> Result<ConnectionHandle, DriverError> {
    config.validate()?;
    let socket = dial(address, &config).await?;
    Ok(spawn(socket, Side::Dialer, config, sink)?)
}

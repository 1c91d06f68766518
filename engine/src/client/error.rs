//! What can go wrong for a client, and what is known then.

use crate::model::codec::CodecError;
use crate::model::request::{Failure, FailureClass};
use crate::model::{NumberError, RecordError};
use std::net::SocketAddr;
use std::time::Duration;

/// Why a call failed. Of a write it means that nothing was sent: it has no effect.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-7001 | fix the request | give one address at the least |
/// | TW-7002 | retry | no server answered, or none leads: look at the servers |
/// | TW-7003 | retry | the server did not answer in time |
/// | TW-7004 | retry | the connection ended before the answer |
/// | TW-7005 | fix the request | the write is not legal |
/// | TW-7006 | fix the request | the request is larger than the server takes |
/// | TW-7007 | operator | the server answers what this release does not understand |
/// | TW-6113, TW-6114, TW-6118 | | see [`NumberError`] |
/// | TW-7008 | operator | a certificate is not accepted, the server's or the client's: the sentence says whose |
/// | TW-7009 | fix the request | the client was closed: connect anew |
/// | TW-6040 | fix the request | give credentials for TLS; or, where nobody is between, set `insecure_plaintext` |
/// | the server's | the server's | see [`Failure`] |
///
/// ```
/// use std::time::Duration;
/// use towline::client::{Client, ClientError, ClientOptions};
/// use towline::model::request::FailureClass;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // Nobody listens there.
/// let options = ClientOptions { connect_timeout: Duration::from_millis(20), ..ClientOptions::default() };
/// let error = Client::connect(["127.0.0.1:1"], options).await.unwrap_err();
/// match &error {
///     ClientError::Unreachable { tried, .. } => assert!(tried[0].starts_with("127.0.0.1:1: "), "{tried:?}"),
///     other => panic!("{other}"),
/// }
/// assert_eq!((error.code().as_str(), error.class()), ("TW-7002", FailureClass::Retry));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no address to connect to.
    #[error("no address to connect to was given")]
    NoAddress,
    /// No server that can be used was found in time.
    #[error("no server that can be used was found in {}: {}", seconds(.waited), .tried.join("; "))]
    Unreachable {
        /// How long it was looked for.
        waited: Duration,
        /// What became of each address at the last attempt.
        tried: Vec<String>,
    },
    /// Certificates are in the way at an address or more, and no other server was reached. It is said at once: waiting
    /// mends nothing.
    #[error("no server was reached, and a certificate is not accepted: {}", .tried.join("; "))]
    Untrusted {
        /// What became of each address.
        tried: Vec<String>,
    },
    /// Others could read and change what is said to this address over plain TCP: it was not dialled.
    #[error("{address} is not loopback: dialling it takes credentials for TLS, or `insecure_plaintext`")]
    Plaintext {
        /// What an address that was given was found to be.
        address: SocketAddr,
    },
    /// No answer in time.
    #[error("no answer in {}", seconds(.waited))]
    Deadline {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection ended before the answer.
    #[error("the connection ended before the answer")]
    ConnectionLost,
    /// The write is not legal.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The session gives it no number, or not this one.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// The request is too large for the server, or can't be encoded.
    #[error("the request can't be sent: {0}")]
    TooLarge(String),
    /// The answer is not one of a request like this.
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
    /// The client was closed.
    #[error("the client was closed")]
    Closed,
    /// The server says why it does not do it.
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl ClientError {
    /// What the server says, if it was a server that said something.
    pub(super) const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            _ => None,
        }
    }

    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::NoAddress => "TW-7001".into(),
            Self::Unreachable { .. } => "TW-7002".into(),
            Self::Deadline { .. } => "TW-7003".into(),
            Self::ConnectionLost => "TW-7004".into(),
            Self::Record(_) => "TW-7005".into(),
            Self::Number(number) => format!("TW-{:04}", number.code()),
            Self::TooLarge(_) => "TW-7006".into(),
            Self::Answer(_) => "TW-7007".into(),
            Self::Untrusted { .. } => "TW-7008".into(),
            Self::Closed => "TW-7009".into(),
            Self::Plaintext { .. } => "TW-6040".into(),
            Self::Refused(failure) => format!("TW-{:04}", failure.code),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::NoAddress | Self::Plaintext { .. } | Self::Closed => FailureClass::FixRequest,
            Self::Record(_) | Self::Number(_) | Self::TooLarge(_) => FailureClass::FixRequest,
            Self::Unreachable { .. } | Self::Deadline { .. } | Self::ConnectionLost => FailureClass::Retry,
            Self::Answer(_) | Self::Untrusted { .. } => FailureClass::Operator,
            Self::Refused(failure) => failure.class,
        }
    }
}

impl From<CodecError> for ClientError {
    fn from(error: CodecError) -> Self {
        Self::TooLarge(error.to_string())
    }
}

/// Why a write that was sent has no outcome.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-7101 | retry | it may or may not take effect, now or later: read what became of it, or write again with the version expected |
/// | the server's | the server's | it has no effect and never will: see [`Failure`] |
///
/// ```
/// use towline::client::{Client, ClientOptions, Route, WriteError};
/// use towline::model::{Write, request::FailureClass};
/// # #[cfg(feature = "cluster")] {
/// # use towline::node::{Config, serve};
/// # let directory = tempfile::tempdir()?;
/// # let text = "cluster = '0193aabb-ccdd-7eff-8000-010203040506'\nnode_id = 1\ndata_dir = 'data'\nlisten = '127.0.0.1:0'\n\
/// #     shard = { leader = 1 }\nnode = [{ id = 1, address = '127.0.0.1:7400' }]";
/// # let server = serve(&Config::parse(&directory.path().join("node.toml"), text)?)?;
/// # let address = server.address().to_string();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let options = ClientOptions { namespace: "nobody".to_owned(), route: Route::Any, ..ClientOptions::default() };
/// let client = Client::connect([address], options).await?;
/// let error = client.write(Write::new().put("a", "1").record()).await?.await.unwrap_err();
/// match &error {
///     WriteError::Refused(failure) => eprintln!("{}: {}", error.code(), failure.message),
///     // It may have taken effect: see `UnknownCause`.
///     WriteError::Unknown { cause } => panic!("{cause}"),
///     _ => panic!("{error}"),
/// }
/// assert!(error.has_no_effect() && error.class() == FailureClass::FixRequest);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # server.shutdown()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It may or may not take effect, now or later.
    #[error("the outcome of the write is unknown: {cause}")]
    Unknown {
        /// Why nothing more is known.
        cause: UnknownCause,
    },
    /// It has no effect, and never will: the server says so.
    #[error("{}", .0.message)]
    Refused(Failure),
}

/// Why nothing is known of a write.
///
/// ```
/// use towline::client::{Client, ClientOptions, Route, UnknownCause, WriteError};
/// use towline::model::{Expect, Write};
/// # use towline_net::driver::{EventSink, Listener, ListenerOptions};
/// # use towline_net::{ConnectionConfig, Event, Identity, Role};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let listener = Listener::bind("127.0.0.1:0".parse()?, ListenerOptions::default()).await?;
/// # let address = listener.local_addr()?.to_string();
/// # tokio::spawn(async move {
/// #     let incoming = listener.accept().await.unwrap();
/// #     let sink = EventSink::callback_with_handle(|handle, event| {
/// #         if matches!(event, Event::Message { .. }) {
/// #             handle.close();
/// #         }
/// #     });
/// #     let identity = Identity { cluster: [7; 16], node: 1, directory: [1; 16], incarnation: 1, role: Role::Node };
/// #     let _held = incoming.spawn(ConnectionConfig::new(identity, [9; 16]), sink).unwrap();
/// #     std::future::pending::<()>().await;
/// # });
/// // This server goes away with the write in its hands.
/// let client = Client::connect([address], ClientOptions { route: Route::Any, ..ClientOptions::default() }).await?;
/// let write = Write::new().append("order-42", Expect::Absent, "placed");
/// match client.write(write.record()).await?.await {
///     // Placed or not, the same write can be written again: it expects that nothing is there.
///     Err(error @ WriteError::Unknown { cause: UnknownCause::ConnectionLost }) => assert!(!error.has_no_effect()),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownCause {
    /// The connection ended before the answer.
    #[error("the connection ended before the answer")]
    ConnectionLost,
    /// The answer did not come in time; it may still take effect.
    #[error("no answer in {}", seconds(.0))]
    Deadline(Duration),
    /// The server does not know either.
    #[error("{}", .0.message)]
    Server(Failure),
    /// The answer is not one to a write.
    #[error("the server's answer is not understood")]
    Answer,
}

impl WriteError {
    /// What the server says of it, if it was a server that said something.
    pub(super) const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) | Self::Unknown { cause: UnknownCause::Server(failure) } => Some(failure),
            Self::Unknown { .. } => None,
        }
    }

    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Unknown { .. } => "TW-7101".into(),
            Self::Refused(failure) => format!("TW-{:04}", failure.code),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Unknown { .. } => FailureClass::Retry,
            Self::Refused(failure) => failure.class,
        }
    }

    /// Whether the write has certainly no effect, and never will have.
    #[must_use]
    pub const fn has_no_effect(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

fn seconds(time: &Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

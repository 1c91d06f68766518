//! TLS 1.3 around the byte stream, both sides authenticated by certificates of the given roots. No session without
//! a client certificate, no early data, no resumption.
//!
//! [`Endpoint`] is for peers that certificates name ([`CertifiedIdentity`]): what they say in a Hello must be the same,
//! and both credentials and the list of those revoked can change while it runs. [`accept`] and [`connect`] with
//! [`Credentials`] are the layer below: chains and host names alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::driver::DriverError;
use crate::error::{ConfigError, ConnectionError, FaultClass};

mod credentials;
mod endpoint;
mod files;
mod identity;
mod judge;
mod revoked;
mod watched;

pub use credentials::Credentials;
pub use endpoint::{Cut, Endpoint, Look, Peer};
pub use files::{CredentialFiles, FileError};
pub use identity::{CertifiedIdentity, IdentityError, PeerCertificate, Subject};
pub use revoked::{Revoked, RevokedError};

/// Why there is no TLS session. Meant for this side's log; the peer hears an alert and no more.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-3142 | retry | plain text where TLS was awaited: give the peer credentials; or it is a busy server, which says so in plain text |
/// | TW-3201 | operator | certificate and key must be a pair, PEM or DER, of a kind that ring knows |
/// | TW-3202 | operator | name one authority or more |
/// | TW-3203 | operator, or retry | the handshake failed by what has no number of its own: the sentence says why |
/// | TW-3204 | retry | the peer did not end its handshake in time |
/// | TW-3205 | operator | this certificate names nobody: make one with `towline cert` |
/// | TW-3206 | operator | a host to dial must be a name or an address |
/// | TW-3207 | operator | this side's own certificate has ended, or is not of an authority that it believes itself |
/// | TW-3208 | operator | a certificate of somebody else came in place of this side's |
/// | TW-3209 | operator | the peer does not believe this side's certificate: its log says why |
/// | TW-3215 | operator | the peer shows no certificate: give it one |
/// | TW-3216 | operator | the peer's certificate has ended, or not begun: renew it, or mend a clock |
/// | TW-3217 | operator | the peer's certificate is of no authority that is believed here |
/// | TW-3218 | operator | the peer's certificate is of another host, node or cluster than was looked for, or of no node |
/// | TW-3219 | operator | the peer, or its certificate, is revoked |
/// | all others | | of a file see [`FileError`], of a connection [`ConnectionError`] |
///
/// ```
/// use std::time::Duration;
/// use towline_net::FaultClass;
/// use towline_net::driver::tls::{self, Credentials, Distrust, TlsError};
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # use authority::*;
/// # let authority = Authority::new();
/// # let credentials = |name| {
/// #     let (certificate, key) = authority.issue(name);
/// #     Credentials { chain: vec![certificate], key, roots: vec![authority.root()] }
/// # };
/// # let (client, server) = (credentials("client.test"), credentials("server.test"));
/// # let (one, other) = tokio::io::duplex(1 << 16);
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // The server's certificate is for `server.test`.
/// let within = Duration::from_secs(5);
/// let (client, server_end) = tokio::join!(
///     tls::connect(one, client.client_config()?, "elsewhere.test".try_into()?, within),
///     tls::accept(other, server.server_config()?, within),
/// );
/// let Err(error @ TlsError::Untrusted { why: Distrust::Names, .. }) = client else { panic!("it looked for somebody else") };
/// assert_eq!((error.code(), error.class()), (3218, FaultClass::Operator));
/// assert!(matches!(server_end, Err(TlsError::Handshake(_))), "it heard an alert");
/// // A side that believes nobody is found out before there is a peer.
/// let believes_nobody = Credentials { roots: vec![], ..server };
/// assert!(matches!(believes_nobody.server_config(), Err(TlsError::Roots(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificates or the key can't be used.
    #[error("certificates or key cannot be used")]
    Credentials(#[source] rustls::Error),
    /// The roots can't be used.
    #[error("root certificates cannot be used")]
    Roots(#[source] rustls::server::VerifierBuilderError),
    /// The handshake failed by what is none of the others: the path, versions, a certificate's purpose.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The peer's certificate is not believed.
    #[error("TLS handshake failed")]
    Untrusted {
        /// What is wrong with it.
        why: Distrust,
        /// In the words of rustls.
        source: rustls::Error,
    },
    /// What came is no TLS. Of a peer that dials: it has no credentials. Of one that was dialled: neither has it; or it is busy,
    /// which it says in plain text, so try again.
    #[error("what came is no TLS: plain text, it seems")]
    PlainText,
    /// The handshake did not end in time.
    #[error("TLS handshake did not end in time")]
    Timeout,
    /// This side's certificate, or the peer's, names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What is to be dialled is no host.
    #[error("{name:?} is neither the name of a host nor an address")]
    HostName {
        /// What was to be dialled.
        name: String,
    },
    /// This side's own certificate would not be let in by itself.
    #[error("this side's own certificate can't be used")]
    Own(#[source] rustls::Error),
    /// Credentials that should be renewed came for somebody else.
    #[error("the certificate is of {found}, and this is {expected}")]
    Somebody {
        /// Who this side is.
        expected: CertifiedIdentity,
        /// Whom the new certificate names.
        found: CertifiedIdentity,
    },
    /// The peer refused this side's certificate. Only the peer's log says why.
    #[error("the peer does not accept this side's certificate (TLS alert {alert:?})")]
    RefusedByPeer {
        /// All that it said.
        alert: AlertDescription,
    },
    /// A file can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no path to the peer.
    #[error(transparent)]
    Dial(#[from] DriverError),
    /// Within TLS, the handshake of the connection failed.
    #[error("the connection with {who} failed")]
    Connection {
        /// Whom the peer's certificate names.
        who: CertifiedIdentity,
        /// Why.
        source: ConnectionError,
    },
    /// The connection's configuration can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Why a certificate is not believed.
///
/// ```
/// use std::time::Duration;
/// use towline_net::driver::tls::{self, Credentials, Distrust, TlsError};
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # use authority::*;
/// # let (ours, foreign) = (Authority::new(), Authority::new());
/// # let credentials = |by: &Authority, name| {
/// #     let (certificate, key) = by.issue(name);
/// #     Credentials { chain: vec![certificate], key, roots: vec![ours.root()] }
/// # };
/// # let (client, server) = (credentials(&foreign, "client.test"), credentials(&ours, "server.test"));
/// # let (one, other) = tokio::io::duplex(1 << 16);
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // The client's certificate is of another authority than the server believes.
/// let within = Duration::from_secs(5);
/// let (_, accepted) = tokio::join!(
///     tls::connect(one, client.client_config()?, "server.test".try_into()?, within),
///     tls::accept(other, server.server_config()?, within),
/// );
/// let Err(TlsError::Untrusted { why, .. }) = accepted else { panic!("it is a stranger") };
/// assert_eq!(why, Distrust::Authority);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Distrust {
    /// There is none.
    NoCertificate,
    /// It has ended, or not begun.
    Dates,
    /// No authority that is believed issued it.
    Authority,
    /// It names another host, node or cluster than was looked for, or no node where one was.
    Names,
    /// It, or whom it names, is revoked.
    Revoked,
}

impl TlsError {
    /// The stable number; 0 for what has none: a path that there is not, a configuration that can't work.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Credentials(_) => 3201,
            Self::Roots(_) => 3202,
            Self::Handshake(_) => 3203,
            Self::Untrusted { why, .. } => match why {
                Distrust::NoCertificate => 3215,
                Distrust::Dates => 3216,
                Distrust::Authority => 3217,
                Distrust::Names => 3218,
                Distrust::Revoked => 3219,
            },
            Self::PlainText => 3142,
            Self::Timeout => 3204,
            Self::Identity(_) => 3205,
            Self::HostName { .. } => 3206,
            Self::Own(_) => 3207,
            Self::Somebody { .. } => 3208,
            Self::RefusedByPeer { .. } => 3209,
            Self::File(file) => file.code(),
            Self::Connection { source, .. } => source.code(),
            Self::Dial(_) | Self::Config(_) => 0,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> FaultClass {
        match self {
            Self::Handshake(source) if is_about_trust(source) => FaultClass::Operator,
            Self::Handshake(_) | Self::PlainText | Self::Timeout | Self::Dial(_) => FaultClass::Retry,
            Self::Connection { source, .. } => source.class(),
            Self::File(file) => file.class(),
            _ => FaultClass::Operator,
        }
    }

    /// The error and its causes in one line, each said once.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let cause = match self {
            Self::Handshake(source) => of_tls(source),
            Self::Untrusted { source, .. } | Self::Own(source) | Self::Credentials(source) => Some(source),
            _ => None,
        };
        if let Some(error) = cause {
            return format!("{text}: {}", judge::reason(error));
        }
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let said = cause.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = cause.source();
        }
        text
    }
}

/// What rustls says within an error of a stream.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether a certificate, or the versions and ciphers of both sides, are in the way.
fn is_about_trust(error: &io::Error) -> bool {
    use rustls::Error::{AlertReceived, InvalidCertificate, PeerIncompatible};
    matches!(of_tls(error), Some(AlertReceived(_) | InvalidCertificate(_) | PeerIncompatible(_)))
}

fn handshake(error: io::Error) -> TlsError {
    use rustls::Error::InvalidMessage;
    use rustls::InvalidMessage::{InvalidContentType, UnknownProtocolVersion};
    match of_tls(&error) {
        Some(InvalidMessage(InvalidContentType | UnknownProtocolVersion)) => TlsError::PlainText,
        _ => match error.downcast() {
            Ok(of_tls) => judge::distrust(of_tls),
            Err(of_the_path) => TlsError::Handshake(of_the_path),
        },
    }
}

/// The accepting side's handshake, within a bound. Give what it returns to [`spawn`](super::spawn), or call it in
/// [`Incoming::spawn_over`](super::Incoming::spawn_over).
///
/// Cancellation: the byte stream is closed.
///
/// # Errors
/// [`TlsError::Handshake`], [`TlsError::Untrusted`], [`TlsError::Identity`], [`TlsError::PlainText`], [`TlsError::Timeout`].
pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    config: Arc<ServerConfig>,
    within: Duration,
) -> Result<tokio_rustls::server::TlsStream<T>, TlsError> {
    let shaking = TlsAcceptor::from(config).accept(io);
    timeout(within, shaking).await.map_err(|_| TlsError::Timeout)?.map_err(handshake)
}

/// The dialling side's handshake with the server of that name, within a bound.
///
/// Cancellation: the byte stream is closed.
///
/// # Errors
/// [`TlsError::Handshake`], [`TlsError::Untrusted`], [`TlsError::Identity`], [`TlsError::PlainText`], [`TlsError::Timeout`].
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    within: Duration,
) -> Result<tokio_rustls::client::TlsStream<T>, TlsError> {
    let shaking = TlsConnector::from(config).connect(name, io);
    timeout(within, shaking).await.map_err(|_| TlsError::Timeout)?.map_err(handshake)
}

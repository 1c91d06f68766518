//! What a client's connections run over: plain TCP, or TLS where [`ClientOptions::tls`](super::ClientOptions) says so.

use super::options::ClientOptions;
use crate::model::mutant::{Mutant, planted};
use crate::model::request::Failure;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;
#[cfg(feature = "tls")]
use towline_net::FaultClass;
#[cfg(feature = "tls")]
use towline_net::driver::tls::{CertifiedIdentity, CredentialFiles, Credentials, Endpoint, Peer, TlsError};
use towline_net::driver::{self, ConnectionHandle, EventSink};
use towline_net::{ConnectionConfig, PeerHello};

/// Why a server at an address can't be used.
#[derive(Debug)]
pub(super) enum Miss {
    /// For now; a sentence.
    NotNow(String),
    /// As long as nobody mends a certificate; a sentence.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "without certificates, none is in the way"))]
    Untrusted(String),
    /// As long as the client's options stay as they are: it was not dialled, since nothing would protect what is said.
    Plaintext(SocketAddr),
    /// The server says no, and would say so again.
    Refused(Failure),
}

impl From<String> for Miss {
    fn from(sentence: String) -> Self {
        Self::NotNow(sentence)
    }
}

/// A client's credentials for TLS: its certificate and key, and whose certificates it believes. Clones share them.
///
/// The servers' certificates must be of nodes of the client's own cluster, and for the host of the address that is
/// dialled. Credentials from files are read again when they have changed, before the next connection is made.
///
/// ```
/// use towline::client::{ClientTls, CredentialFiles};
/// // A directory as `towline cert client` writes it.
/// let missing = ClientTls::open(CredentialFiles::in_directory("nowhere")).unwrap_err();
/// assert_eq!(missing.code(), 3211);
/// assert!(missing.to_string().starts_with("nowhere/certificate.pem: "), "{missing}");
/// ```
#[cfg(feature = "tls")]
#[derive(Debug, Clone)]
pub struct ClientTls {
    endpoint: Arc<Endpoint>,
}

#[cfg(feature = "tls")]
impl ClientTls {
    /// Of credentials in memory.
    ///
    /// # Errors
    /// [`TlsError`]: they can't be used, or name nobody.
    pub fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self { endpoint: Arc::new(Endpoint::new(credentials)?) })
    }

    /// Of files.
    ///
    /// # Errors
    /// [`TlsError`]: a file can't be read, or what is in it can't be used.
    pub fn open(files: CredentialFiles) -> Result<Self, TlsError> {
        Ok(Self { endpoint: Arc::new(Endpoint::open(files)?) })
    }

    /// Who the client is.
    #[must_use]
    pub fn identity(&self) -> &CertifiedIdentity {
        self.endpoint.identity()
    }
}

/// The same credentials, not equal ones.
#[cfg(feature = "tls")]
impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
    }
}

#[cfg(feature = "tls")]
impl Eq for ClientTls {}

/// Reads what has changed in the files of the credentials.
pub(super) async fn renew(options: &ClientOptions) {
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        let endpoint = Arc::clone(&tls.endpoint);
        // What can't be used is no reason to stop: the old credentials are in force, and if they have ended as well,
        // the server's refusal says so.
        drop(tokio::task::spawn_blocking(move || endpoint.look()).await);
    }
    #[cfg(not(feature = "tls"))]
    let _nothing_to_renew = options;
}

/// Connects to `address`, which was found under the name `host`, and waits until the server said who it is.
pub(super) async fn connect(
    address: SocketAddr,
    host: &str,
    options: &ClientOptions,
    config: ConnectionConfig,
    sink: EventSink,
) -> Result<(ConnectionHandle, PeerHello), Miss> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        let peer = Peer::host(host).map_err(miss)?;
        let handle = tls.endpoint.connect(address, peer, config, sink).await.map_err(miss)?;
        let hello = handle.peer().ok_or_else(|| "the connection ended".to_owned())?;
        return Ok((handle, hello));
    }
    #[cfg(not(feature = "tls"))]
    let _no_names_without_certificates = host;
    // I12: what nobody protects goes no further than this machine, unless it is asked for by its name.
    if !address.ip().is_loopback() && !options.insecure_plaintext && !planted(Mutant::PlainTextAnywhere) {
        return Err(Miss::Plaintext(address));
    }
    let handle = driver::connect(address, config, sink).await.map_err(|error| sentence(&error))?;
    let hello = handle.ready().await.map_err(|error| sentence(&error))?;
    Ok((handle, hello))
}

#[cfg(feature = "tls")]
fn miss(error: TlsError) -> Miss {
    match error.class() {
        FaultClass::Operator => Miss::Untrusted(error.sentence()),
        _ => Miss::NotNow(error.sentence()),
    }
}

/// An error and its sources in one line.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

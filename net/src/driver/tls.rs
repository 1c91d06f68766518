//! TLS 1.3 around the byte stream, both sides authenticated by certificates of the given roots. No session without
//! a client certificate, no early data.
//!
//! What a certificate says is not yet compared with what the Hello says: that is for the layer that knows the names.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::ConfigError;

/// Why there is no TLS session. Meant for this side's log; the peer hears an alert and no more.
///
/// ```
/// use std::time::Duration;
/// use towline_net::driver::tls::{self, Credentials, TlsError};
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
/// let Err(TlsError::Handshake(source)) = client else { panic!("it looked for somebody else") };
/// assert_eq!(source.kind(), std::io::ErrorKind::InvalidData);
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
    /// The handshake failed: the peer, its certificate, or the path.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The handshake did not end in time.
    #[error("TLS handshake did not end in time")]
    Timeout,
    /// The connection's configuration can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Who this side is, and whom it believes.
///
/// ```
/// use std::time::Duration;
/// use towline_net::driver::tls::{self, Credentials};
/// # use towline_net::{Side, driver::{self, EventSink}};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # use authority::*;
/// # let authority = Authority::new();
/// # let root = authority.root();
/// # let (certificate, key) = authority.issue("client.test");
/// # let client = Credentials { chain: vec![certificate], key, roots: vec![root.clone()] }.client_config()?;
/// # let (certificate, key) = authority.issue("server.test");
/// # let (one, other) = tokio::io::duplex(1 << 16);
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // `certificate` is for `server.test`; the authority whose own is `root` issued it, and the client's.
/// let server = Credentials { chain: vec![certificate], key, roots: vec![root] }.server_config()?;
/// let within = Duration::from_secs(5);
/// let (client, server) = tokio::join!(
///     tls::connect(one, client, "server.test".try_into()?, within),
///     tls::accept(other, server, within),
/// );
/// // A connection runs over the two as over sockets.
/// let server = driver::spawn(server?, Side::Acceptor, config(2), EventSink::callback(|_| ()))?;
/// let client = driver::spawn(client?, Side::Dialer, config(1), EventSink::callback(|_| ()))?;
/// assert_eq!(client.ready().await?.identity.node, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Credentials {
    /// This side's certificate, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// Issuers whose certificates the peer may show.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Credentials {
    /// For the accepting side. Make it once and share it.
    ///
    /// # Errors
    /// [`TlsError`]: something of it can't be used.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.root_store()?), Arc::clone(&provider))
            .build()
            .map_err(TlsError::Roots)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Credentials)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(TlsError::Credentials)?;
        // A replayed early message would be a second effect.
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }

    /// For the dialling side. Make it once and share it.
    ///
    /// # Errors
    /// [`TlsError`]: something of it can't be used.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Credentials)?
            .with_root_certificates(self.root_store()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(TlsError::Credentials)?;
        config.enable_early_data = false;
        Ok(Arc::new(config))
    }

    fn root_store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(root.clone()).map_err(TlsError::Credentials)?;
        }
        Ok(store)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The accepting side's handshake, within a bound. Give what it returns to [`spawn`](super::spawn), or call it in
/// [`Incoming::spawn_over`](super::Incoming::spawn_over).
///
/// Cancellation: the byte stream is closed.
///
/// # Errors
/// [`TlsError::Handshake`], [`TlsError::Timeout`].
pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    config: Arc<ServerConfig>,
    within: Duration,
) -> Result<tokio_rustls::server::TlsStream<T>, TlsError> {
    let handshake = TlsAcceptor::from(config).accept(io);
    timeout(within, handshake).await.map_err(|_| TlsError::Timeout)?.map_err(TlsError::Handshake)
}

/// The dialling side's handshake with the server of that name, within a bound.
///
/// Cancellation: the byte stream is closed.
///
/// # Errors
/// [`TlsError::Handshake`], [`TlsError::Timeout`].
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    within: Duration,
) -> Result<tokio_rustls::client::TlsStream<T>, TlsError> {
    let handshake = TlsConnector::from(config).connect(name, io);
    timeout(within, handshake).await.map_err(|_| TlsError::Timeout)?.map_err(TlsError::Handshake)
}

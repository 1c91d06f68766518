//! [`Credentials`]: who a side is and whom it believes, in memory.

use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::TlsError;

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
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.root_store()?), provider)
            .build()
            .map_err(TlsError::Roots)?;
        self.server_config_with(verifier)
    }

    pub(super) fn server_config_with(
        &self,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Credentials)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(TlsError::Credentials)?;
        // A replayed early message would be a second effect.
        config.max_early_data_size = 0;
        // A session that is resumed is not asked for its certificate again: one that has ended or was revoked since
        // would be let in. Connections live long; a full handshake for each costs little.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
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
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    pub(super) fn root_store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(root.clone()).map_err(TlsError::Credentials)?;
        }
        Ok(store)
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

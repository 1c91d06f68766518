//! What a node's connections run over: plain TCP, or TLS where the configuration has a section `[tls]`. Who is refused,
//! is refused here, and told in one sentence.

use super::config::Config;
use super::refusals::Refusals;
use crate::model::mutant::{Mutant, planted};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;
#[cfg(feature = "tls")]
use towline_net::driver::tls::{CertifiedIdentity, CredentialFiles, Endpoint, Peer, Subject, TlsError};
use towline_net::driver::{self, ConnectionHandle, EventSink, Incoming};
use towline_net::{ConnectionConfig, ConnectionError};

/// Makes the connections of a node. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    refusals: Arc<Refusals>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<Endpoint>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error(transparent)]
    Driver(#[from] driver::DriverError),
    #[cfg(feature = "tls")]
    #[error("{}", .0.sentence())]
    Tls(#[from] TlsError),
}

impl Transport {
    /// Of a configuration whose address was found to be `address`.
    pub(super) fn open(config: &Config) -> Result<Self, super::ServeError> {
        #[cfg(feature = "tls")]
        return Ok(Self {
            refusals: Arc::default(),
            tls: config.tls.as_ref().map(|tls| open(config, tls)).transpose()?,
        });
        #[cfg(not(feature = "tls"))]
        match &config.tls {
            None => Ok(Self { refusals: Arc::default() }),
            Some(_) => Err(super::ServeError::NoTls),
        }
    }

    /// Whether that address may be listened on (I12): the configuration may have named a host, or been changed since it was
    /// read.
    pub(super) fn may_listen(&self, config: &Config, address: SocketAddr) -> Result<(), super::ServeError> {
        let is_let = config.tls.is_some() || config.insecure_plaintext || planted(Mutant::PlainTextAnywhere);
        if is_let || address.ip().is_loopback() {
            return Ok(());
        }
        Err(super::ServeError::Plaintext { address: address.to_string() })
    }

    /// Looks at the files of the credentials from now on.
    pub(super) fn watch(&self, runtime: &Runtime, config: &Config) {
        #[cfg(feature = "tls")]
        if let (Some(endpoint), Some(tls)) = (&self.tls, &config.tls) {
            runtime.spawn(watch(Arc::clone(endpoint), tls.reload));
        }
        #[cfg(not(feature = "tls"))]
        let _nothing_to_watch = (runtime, config);
    }

    /// Runs a connection that came in, once its peer is known; with TLS, whom its certificate names. None: it was
    /// refused, and that was told.
    pub(super) async fn accept(
        &self,
        incoming: Incoming,
        config: ConnectionConfig,
        sink: EventSink,
    ) -> Option<(ConnectionHandle, Option<String>)> {
        let address = incoming.peer_addr();
        #[cfg(feature = "tls")]
        if let Some(endpoint) = &self.tls {
            return match endpoint.accept_named(incoming, config, sink).await {
                Ok((handle, named)) => Some((handle, Some(named.to_string()))),
                Err(error) => {
                    let reason = error.sentence();
                    // Probes and scans come all day, and end without a word.
                    if is_silent_end(&error) {
                        tracing::debug!(%address, "nobody came: {reason}");
                    } else {
                        self.refused(address, error.code(), &reason);
                    }
                    None
                }
            };
        }
        let handle = match incoming.spawn(config, sink) {
            Ok(handle) => handle,
            Err(error) => {
                tracing::error!(%error, "the transport's configuration is not legal");
                return None;
            }
        };
        match handle.ready().await {
            Ok(_) => Some((handle, None)),
            Err(error @ (ConnectionError::TransportEnded | ConnectionError::HelloTimeout)) => {
                tracing::debug!(%address, "nobody came: {error}");
                None
            }
            Err(error) => {
                self.refused(address, error.code(), &error);
                None
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "node is the floor that reads clocks")]
    fn refused(&self, address: SocketAddr, code: u16, reason: &dyn std::fmt::Display) {
        self.refusals.tell(Instant::now(), address, code, reason);
    }

    /// Dials a node. With TLS the connection is ready, and its peer is that node.
    pub(super) async fn dial(
        &self,
        address: SocketAddr,
        config: ConnectionConfig,
        sink: EventSink,
    ) -> Result<ConnectionHandle, TransportError> {
        #[cfg(feature = "tls")]
        if let (Some(endpoint), Some(node)) = (&self.tls, config.expect_node) {
            return Ok(endpoint.connect(address, Peer::Node(node), config, sink).await?);
        }
        Ok(driver::connect(address, config, sink).await?)
    }
}

impl TransportError {
    /// Whether a person has to do something about it.
    pub(super) fn needs_operator(&self) -> bool {
        match self {
            Self::Driver(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.class() == towline_net::FaultClass::Operator,
        }
    }
}

/// Whether a peer went away before it said anything that could be refused.
#[cfg(feature = "tls")]
fn is_silent_end(error: &TlsError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        TlsError::Handshake(source) => {
            matches!(source.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
        }
        _ => false,
    }
}

#[cfg(feature = "tls")]
fn open(config: &Config, tls: &super::config::TlsConfig) -> Result<Arc<Endpoint>, super::ServeError> {
    let endpoint = Endpoint::open(CredentialFiles {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        authorities: tls.authorities.clone(),
        revoked: tls.revoked.clone(),
    })?;
    let expected = CertifiedIdentity::new(*config.cluster.as_bytes(), Subject::Node(config.node.get()));
    let expected = expected.map_err(TlsError::Identity)?;
    if *endpoint.identity() != expected {
        return Err(TlsError::Somebody { expected, found: endpoint.identity().clone() }.into());
    }
    tracing::info!(identity = %expected, "connections run over TLS");
    Ok(Arc::new(endpoint))
}

/// For as long as the node's runtime is there.
#[cfg(feature = "tls")]
async fn watch(endpoint: Arc<Endpoint>, every: std::time::Duration) {
    loop {
        tokio::time::sleep(every).await;
        let looking = Arc::clone(&endpoint);
        let Ok(look) = tokio::task::spawn_blocking(move || looking.look()).await else { return };
        match look {
            Ok(look) => {
                if look.is_renewed {
                    tracing::info!("the TLS credentials have changed: the new ones are in force");
                }
                for cut in look.cut {
                    tracing::warn!(who = %cut.who, address = %cut.address, "a connection was cut: {}", cut.why);
                }
            }
            Err(error) => {
                let (code, reason) = (error.code(), error.sentence());
                tracing::error!("the new TLS credentials are refused, the old ones stay: TW-{code}: {reason}");
            }
        }
    }
}

/// Host names of configurations resolve to this.
pub(super) async fn resolve(address: &str) -> io::Result<SocketAddr> {
    let unresolved = || io::Error::new(io::ErrorKind::NotFound, "the address does not resolve");
    tokio::net::lookup_host(address).await?.next().ok_or_else(unresolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TEXT: &str = r#"cluster = "0193aabb-ccdd-7eff-8000-010203040506"
node_id = 1
data_dir = "data"
listen = "localhost:0"
[shard]
leader = 1
namespace = "default"
[[node]]
id = 1
address = "127.0.0.1:7401"
"#;

    /// A configuration names `localhost`, and what that is found to be is another machine's to say.
    fn listens(prefix: &str, address: &str) -> Result<(), u16> {
        let config = Config::parse(Path::new("node.toml"), &format!("{prefix}{TEXT}")).unwrap();
        let transport = Transport::open(&config).unwrap();
        transport.may_listen(&config, address.parse().unwrap()).map_err(|error| error.code())
    }

    #[test]
    fn plain_text_is_listened_for_on_loopback_only_unless_it_is_asked_for_by_its_name() {
        assert_eq!(listens("", "127.0.0.1:7"), Ok(()));
        assert_eq!(listens("", "[::1]:7"), Ok(()));
        assert_eq!(listens("", "10.0.0.1:7"), Err(6033));
        assert_eq!(listens("", "0.0.0.0:7"), Err(6033));
        assert_eq!(listens("insecure_plaintext = true\n", "10.0.0.1:7"), Ok(()));
    }

    /// I12, attacked.
    #[cfg(feature = "mutants")]
    #[test]
    fn a_node_that_listens_anywhere_is_noticed() {
        use crate::model::mutant::plant;
        plant(Some(Mutant::PlainTextAnywhere));
        let found = listens("", "10.0.0.1:7");
        plant(None);
        assert_eq!(found, Ok(()), "what the test above refuses");
    }
}

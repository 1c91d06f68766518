//! Two ends of a connection over loopback, each in a runtime of its own with one thread; and what is needed for TLS.

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use towline_net::driver::{self, ConnectionHandle, EventSink, tls};
use towline_net::{ConnectionConfig, Identity, Role, Side};

/// A byte stream of either kind, so that what is compared differs by nothing else.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// One end of a byte stream.
pub(crate) type End = Box<dyn ByteStream>;

/// What lies between the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    Plain,
    Tls,
}

/// Where the two ends live.
pub(crate) struct Ends {
    pub(crate) client: Runtime,
    pub(crate) server: Runtime,
    client_config: Arc<ClientConfig>,
    server_config: Arc<ServerConfig>,
}

const PATIENCE: Duration = Duration::from_secs(10);
/// The name in the server's certificate.
const SERVER: &str = "server.test";

impl Ends {
    pub(crate) fn new() -> Result<Self> {
        let runtime = |name: &str| Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        let authority = Authority::new()?;
        Ok(Self {
            client: runtime("client")?,
            server: runtime("server")?,
            client_config: authority.issue("client.test")?.client_config()?,
            server_config: authority.issue(SERVER)?.server_config()?,
        })
    }

    /// A listening socket in the server's runtime.
    pub(crate) fn listen(&self) -> Result<(TcpListener, SocketAddr)> {
        let listener = self.server.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// A new byte stream, client's end first: tuned as the driver tunes its own, handshake over.
    pub(crate) fn connect(&self, security: Security) -> Result<(End, End)> {
        self.connect_through(security, None, Ok)
    }

    /// As [`Self::connect`], by way of the address that `detour` makes of the server's, and with so many bytes at most that
    /// lie with the server's kernel.
    pub(crate) fn connect_through(
        &self,
        security: Security,
        receive_buffer: Option<usize>,
        detour: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    ) -> Result<(End, End)> {
        let (listener, address) = self.listen()?;
        let address = detour(address)?;
        let config = Arc::clone(&self.server_config);
        let accepting = self.server.spawn(async move {
            let (socket, _) = listener.accept().await?;
            driver::tune(&socket)?;
            if let Some(bytes) = receive_buffer {
                // The kernel doubles what it is asked for.
                SockRef::from(&socket).set_recv_buffer_size(bytes / 2)?;
            }
            Ok::<End, anyhow::Error>(match security {
                Security::Plain => Box::new(socket),
                Security::Tls => Box::new(tls::accept(socket, config, PATIENCE).await?),
            })
        });
        let config = Arc::clone(&self.client_config);
        let dialling = self.client.spawn(async move {
            let socket = TcpStream::connect(address).await?;
            driver::tune(&socket)?;
            Ok::<End, anyhow::Error>(match security {
                Security::Plain => Box::new(socket),
                Security::Tls => Box::new(tls::connect(socket, config, SERVER.try_into()?, PATIENCE).await?),
            })
        });
        let client = self.client.block_on(dialling).context("the client's end")??;
        let server = self.server.block_on(accepting).context("the server's end")??;
        Ok((client, server))
    }

    /// Runs the transport over two ends, until both are ready.
    pub(crate) fn run(
        &self,
        (client, server): (End, End),
        client_sink: EventSink,
        server_sink: EventSink,
    ) -> Result<(ConnectionHandle, ConnectionHandle)> {
        let server = {
            let _inside = self.server.enter();
            driver::spawn(server, Side::Acceptor, config(2), server_sink)?
        };
        let client = {
            let _inside = self.client.enter();
            driver::spawn(client, Side::Dialer, config(1), client_sink)?
        };
        self.client.block_on(client.ready())?;
        self.server.block_on(server.ready())?;
        Ok((client, server))
    }
}

/// The defaults, for a node of this number.
pub(crate) fn config(node: u8) -> ConnectionConfig {
    let who = Identity { cluster: [7; 16], node: node.into(), directory: [node; 16], incarnation: 1, role: Role::Node };
    ConnectionConfig::new(who, [node; 16])
}

/// Issues the certificates of both ends.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn issue(&self, name: &str) -> Result<tls::Credentials> {
        self.sign(CertificateParams::new([name.to_owned()])?)
    }

    /// Of the cluster that [`crate::attacks::config`] names.
    pub(crate) fn node(&self, number: u64) -> Result<tls::Credentials> {
        let mut params = CertificateParams::new([])?;
        let uri = format!("towline://07070707-0707-0707-0707-070707070707/node/{number}");
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<tls::Credentials> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(tls::Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![self.0.der().clone()],
        })
    }
}

//! [`Endpoint`]: one side's credentials in force, the connections made with them, and how both are renewed.
//!
//! Lock order: `live`, for the time of a copy of its list or of a look at each connection in it; within it `in_force`, for
//! the time of a clone, and a connection's own. A chain takes some 100 microseconds to judge: that is done while no lock is
//! held. What is in force changes first and the list is copied after; a connection enters it only by what is in force
//! then, and is judged once more where that has changed. Otherwise it would live on by what was believed before.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ServerConfig};
use tokio::time::Instant;

use super::credentials::Credentials;
use super::files::{Contents, CredentialFiles};
use super::identity::{CertifiedIdentity, PeerCertificate, Subject, earliest_end};
use super::judge::{Dialling, Judge, reason};
use super::revoked::Revoked;
use super::watched::{Watched, alert_of};
use super::{TlsError, accept, connect};
use crate::connection::{ConnectionConfig, Side};
use crate::driver::admission::Ticket;
use crate::driver::handle::WeakHandle;
use crate::driver::{ConnectionHandle, EventSink, Incoming, dial, task};
use crate::identity::Role;
use crate::mutant::{Mutant, planted};

/// Whom a dialer looks for.
///
/// ```
/// use towline_net::driver::tls::Peer;
/// assert_eq!(Peer::Node(3).to_string(), "node 3");
/// assert_eq!(Peer::host("db.example")?.to_string(), "db.example");
/// assert_eq!(Peer::host("::1")?.to_string(), "::1");
/// assert!(Peer::host("no host").is_err());
/// # Ok::<(), towline_net::driver::tls::TlsError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Peer {
    /// The node of this number: its certificate must say so, whatever address it is found at.
    Node(u64),
    /// Any node of the cluster whose certificate is for this host.
    Host(ServerName<'static>),
}

impl Peer {
    /// Any node at this host: a name, or an address without brackets.
    ///
    /// # Errors
    /// [`TlsError::HostName`]: it is neither.
    pub fn host(name: &str) -> Result<Self, TlsError> {
        let parsed = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::HostName { name: name.to_owned() })?;
        Ok(Self::Host(parsed))
    }
}

/// One side of TLS whose peers are named by their certificates ([`CertifiedIdentity`]): it accepts and dials, and
/// lets a Hello say nothing else than the certificate does.
///
/// What it believes can be renewed while it runs ([`Self::renew`], or [`Self::look`] where it was opened from files);
/// connections whose peers are let in no more end then.
///
/// ```
/// use towline_net::driver::tls::{Endpoint, Peer, Revoked, TlsError};
/// use towline_net::driver::{EventSink, Listener, ListenerOptions};
/// use towline_net::{ConnectionConfig, Identity, Role};
/// # use towline_net::driver::tls::Credentials;
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # use authority::*;
/// # let authority = Authority::new();
/// # let credentials = |who: &str| {
/// #     let (certificate, key) = authority.issue(&format!("towline://07070707-0707-0707-0707-070707070707/{who}"));
/// #     Credentials { chain: vec![certificate], key, roots: vec![authority.root()] }
/// # };
/// # let config = |node, role| {
/// #     let identity = Identity { cluster: [7; 16], node, directory: [1; 16], incarnation: 1, role };
/// #     ConnectionConfig::new(identity, [node as u8; 16])
/// # };
/// # let silent = || EventSink::callback(|_| ());
/// # let incoming = async |listener: &Listener| listener.accept().await.unwrap();
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// // Certificates for node 1 and node 2 of one cluster.
/// let (one, two) = (credentials("node/1"), credentials("node/2"));
/// let (dialer, acceptor) = (Endpoint::new(&one)?, Endpoint::new(&two)?);
/// let listener = Listener::bind("127.0.0.1:0".parse()?, ListenerOptions::default()).await?;
/// let address = listener.local_addr()?;
/// let accepting = async { acceptor.accept_named(incoming(&listener).await, config(2, Role::Node), silent()).await };
/// let dialling = dialer.connect(address, Peer::Node(2), config(1, Role::Node), silent());
/// let (client, server) = tokio::join!(dialling, accepting);
/// let (client, (server, named)) = (client?, server?);
/// assert_eq!(named.to_string(), "towline://07070707-0707-0707-0707-070707070707/node/1");
/// assert_eq!(server.peer().map(|peer| peer.identity.node), Some(1), "as its certificate says");
///
/// // Node 1 is revoked: its connection ends, and no other is made.
/// let cut = acceptor.renew(&two, "towline://07070707-0707-0707-0707-070707070707/node/1".parse()?)?;
/// assert_eq!(cut.len(), 1);
/// client.closed().await;
/// let accepting = async { acceptor.accept(incoming(&listener).await, config(2, Role::Node), silent()).await };
/// let dialling = dialer.connect(address, Peer::Node(2), config(1, Role::Node), silent());
/// let (client, server) = tokio::join!(dialling, accepting);
/// assert!(matches!(client, Err(TlsError::RefusedByPeer { .. })), "it heard an alert, and no reason");
/// assert!(server.unwrap_err().sentence().contains("is revoked"));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Endpoint {
    own: CertifiedIdentity,
    in_force: RwLock<Arc<InForce>>,
    live: Mutex<Vec<Arc<Live>>>,
    /// Where it was opened from, and what was found there the last time.
    files: Option<(CredentialFiles, Mutex<Result<Contents, String>>)>,
}

struct InForce {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    judge: Arc<Judge>,
}

/// A connection, and what its peer showed.
struct Live {
    chain: Vec<CertificateDer<'static>>,
    /// Whom we dialled; none: we were.
    dialled: Option<Peer>,
    ends: SystemTime,
    who: CertifiedIdentity,
    address: SocketAddr,
    connection: WeakHandle,
    /// A look found that it has ended, or cut it. Relaxed: the lock of the list orders it.
    is_done: AtomicBool,
}

/// A connection that was cut.
///
/// ```
/// # use towline_net::driver::tls::{Cut, Endpoint, Revoked};
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # let authority = authority::Authority::new();
/// # let (certificate, key) = authority.issue("towline://07070707-0707-0707-0707-070707070707/node/1");
/// # let mine = towline_net::driver::tls::Credentials { chain: vec![certificate], key, roots: vec![authority.root()] };
/// # let endpoint = Endpoint::new(&mine)?;
/// let cut: Vec<Cut> = endpoint.renew(&mine, Revoked::default())?;
/// for cut in &cut {
///     eprintln!("the connection of {} at {} was cut: {}", cut.who, cut.address, cut.why);
/// }
/// assert!(cut.is_empty(), "nobody was connected");
/// # Ok::<(), towline_net::driver::tls::TlsError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Cut {
    /// Whose it was.
    pub who: CertifiedIdentity,
    /// Where the peer was.
    pub address: SocketAddr,
    /// Why; a sentence for the log.
    pub why: String,
}

/// What a look at the files found.
///
/// ```
/// # use towline_net::driver::tls::Endpoint;
/// # mod authority { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/authority.rs")); }
/// # let authority = authority::Authority::new();
/// # let (certificate, key) = authority.issue("towline://07070707-0707-0707-0707-070707070707/node/1");
/// # let mine = towline_net::driver::tls::Credentials { chain: vec![certificate], key, roots: vec![authority.root()] };
/// # let endpoint = Endpoint::new(&mine)?;
/// let look = endpoint.look()?;
/// assert!(!look.is_renewed && look.cut.is_empty(), "there is no file to look at, and nobody is connected");
/// # Ok::<(), towline_net::driver::tls::TlsError>(())
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Look {
    /// They had changed, and what they hold is in force now.
    pub is_renewed: bool,
    /// Connections that were cut: by what is new, or because a certificate has ended since.
    pub cut: Vec<Cut>,
}

impl Endpoint {
    /// Of credentials in memory, with nobody revoked.
    ///
    /// # Errors
    /// [`TlsError`]: they can't be used, name nobody, have ended, or (a node's) are not of an issuer that is believed.
    pub fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        Self::with(credentials, Revoked::default(), None)
    }

    /// Of files.
    ///
    /// # Errors
    /// As [`Self::new`], and [`TlsError::File`].
    pub fn open(files: CredentialFiles) -> Result<Self, TlsError> {
        let contents = files.contents()?;
        let (credentials, revoked) = files.parse(&contents)?;
        Self::with(&credentials, revoked, Some((files, Mutex::new(Ok(contents)))))
    }

    fn with(
        credentials: &Credentials,
        revoked: Revoked,
        files: Option<(CredentialFiles, Mutex<Result<Contents, String>>)>,
    ) -> Result<Self, TlsError> {
        let own = own_identity(credentials)?;
        let in_force = InForce::new(&own, credentials, revoked)?;
        Ok(Self { own, in_force: RwLock::new(Arc::new(in_force)), live: Mutex::default(), files })
    }

    /// Who this side is.
    #[must_use]
    pub const fn identity(&self) -> &CertifiedIdentity {
        &self.own
    }

    /// Puts other credentials in force, and cuts the connections of all whom they let in no more.
    ///
    /// # Errors
    /// As [`Self::new`], and [`TlsError::Somebody`]: they are of another identity. The old ones stay in force.
    pub fn renew(&self, credentials: &Credentials, revoked: Revoked) -> Result<Vec<Cut>, TlsError> {
        let found = own_identity(credentials)?;
        if found != self.own {
            return Err(TlsError::Somebody { expected: self.own.clone(), found });
        }
        let in_force = Arc::new(InForce::new(&self.own, credentials, revoked)?);
        *self.in_force.write() = Arc::clone(&in_force);
        if planted(Mutant::KeepRevoked) {
            return Ok(Vec::new());
        }
        Ok(self.sweep(|live| in_force.judge(live)))
    }

    /// Looks whether the files have changed, and renews if they have; cuts the connections of those whose
    /// certificates have ended. It reads files: away from threads that move bytes.
    ///
    /// # Errors
    /// As [`Self::renew`], and [`TlsError::File`]: what the files hold now can't be used, and the old credentials stay
    /// in force. Each such state is told once, not at every look.
    pub fn look(&self) -> Result<Look, TlsError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(UnixTime::now().as_secs());
        let ended = self.sweep(|live| {
            let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
            if live.ends < now { Err(expired) } else { Ok(()) }
        });
        let Some((files, seen)) = &self.files else { return Ok(Look { is_renewed: false, cut: ended }) };
        let mut seen = seen.lock();
        let contents = match files.contents() {
            Ok(contents) => contents,
            Err(error) => {
                let sentence = error.to_string();
                if matches!(&*seen, Err(told) if *told == sentence) {
                    return Ok(Look { is_renewed: false, cut: ended });
                }
                *seen = Err(sentence);
                return Err(error.into());
            }
        };
        if matches!(&*seen, Ok(known) if *known == contents) {
            return Ok(Look { is_renewed: false, cut: ended });
        }
        let parsed = files.parse(&contents);
        *seen = Ok(contents);
        let (credentials, revoked) = parsed?;
        let mut cut = ended;
        cut.extend(self.renew(&credentials, revoked)?);
        Ok(Look { is_renewed: true, cut })
    }

    /// Shakes hands with a peer that dialled, first by TLS, then by Hello: together within `config.hello_timeout`.
    /// Its Hello must say who its certificate names. The listener's bounds hold it all the while.
    ///
    /// Cancellation: the socket is closed.
    ///
    /// # Errors
    /// [`TlsError`]: why the peer is not let in, or did not come.
    pub async fn accept(
        &self,
        incoming: Incoming,
        config: ConnectionConfig,
        sink: EventSink,
    ) -> Result<ConnectionHandle, TlsError> {
        self.accept_named(incoming, config, sink).await.map(|(handle, _)| handle)
    }

    /// As [`Self::accept`], and whom the peer's certificate names.
    ///
    /// Cancellation: the socket is closed.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn accept_named(
        &self,
        incoming: Incoming,
        config: ConnectionConfig,
        sink: EventSink,
    ) -> Result<(ConnectionHandle, CertifiedIdentity), TlsError> {
        let begun = Instant::now();
        let in_force = Arc::clone(&self.in_force.read());
        let (socket, address, mut ticket) = incoming.into_parts();
        let accepted = accept(socket, Arc::clone(&in_force.server), config.hello_timeout).await;
        let stream = accepted.inspect_err(|error| ticket.failed_below(error.code()))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let hands = Hands { chain, dialled: None, address, in_force, begun };
        self.introduce(stream, hands, Side::Acceptor, config, sink, Some(ticket)).await
    }

    /// Dials, and shakes hands by TLS and by Hello. What is dialled is a node; its Hello must say the number that its
    /// certificate does.
    ///
    /// Cancellation: the socket is closed.
    ///
    /// # Errors
    /// [`TlsError`]: why there is no connection. [`TlsError::RefusedByPeer`] if it was the peer who refused.
    pub async fn connect(
        &self,
        address: SocketAddr,
        peer: Peer,
        config: ConnectionConfig,
        sink: EventSink,
    ) -> Result<ConnectionHandle, TlsError> {
        let begun = Instant::now();
        config.validate()?;
        let in_force = Arc::clone(&self.in_force.read());
        let socket = dial(address, &config).await?;
        let mut client = ClientConfig::clone(&in_force.client);
        let verifier = Dialling { judge: Arc::clone(&in_force.judge), peer: peer.clone() };
        client.dangerous().set_certificate_verifier(Arc::new(verifier));
        let name = match &peer {
            Peer::Host(name) => name.clone(),
            // The judge asks for the number; nothing is told to who listens on the way.
            Peer::Node(_) => ServerName::from(address.ip()),
        };
        let stream = connect(socket, Arc::new(client), name, config.hello_timeout).await.map_err(refusal)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let (stream, alert) = Watched::new(stream);
        let hands = Hands { chain, dialled: Some(peer), address, in_force, begun };
        let connected = self.introduce(stream, hands, Side::Dialer, config, sink, None).await;
        match (connected, alert.get()) {
            (Err(TlsError::Connection { .. }), Some(alert)) => Err(TlsError::RefusedByPeer { alert: *alert }),
            (connected, _) => connected.map(|(handle, _)| handle),
        }
    }

    /// The handshake by Hello, held to what the certificate says.
    async fn introduce<T>(
        &self,
        stream: T,
        hands: Hands,
        side: Side,
        mut config: ConnectionConfig,
        sink: EventSink,
        ticket: Option<Ticket>,
    ) -> Result<(ConnectionHandle, CertifiedIdentity), TlsError>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
    {
        let Hands { chain, dialled, address, in_force, begun } = hands;
        let end_entity = chain.first().ok_or(TlsError::Credentials(rustls::Error::NoCertificatesPresented))?;
        let who = PeerCertificate::read(end_entity)?.identity;
        // I12: what the peer says of itself is what its certificate proves, or it is not answered.
        config.expect_cluster = Some(who.cluster);
        match who.subject {
            _ if planted(Mutant::AnyHello) => {}
            Subject::Node(number) => {
                config.expect_node = Some(number);
                config.expect_role = Some(Role::Node);
            }
            Subject::Client(_) => config.expect_role = Some(Role::Client),
        }
        // One bound for both handshakes; a moment is left where TLS took all of it.
        config.hello_timeout = config.hello_timeout.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        let ends = earliest_end(&chain);
        let handle = task::spawn(stream, side, config, sink, ticket, Some(ends))?;
        let live = Live {
            chain,
            dialled,
            ends,
            who: who.clone(),
            address,
            connection: handle.downgrade(),
            is_done: AtomicBool::new(false),
        };
        self.enter(Arc::new(live), in_force);
        match handle.ready().await {
            Ok(_) => Ok((handle, who)),
            Err(source) => Err(TlsError::Connection { who, source }),
        }
    }

    fn enter(&self, entry: Arc<Live>, mut judged_by: Arc<InForce>) {
        loop {
            let mut live = self.live.lock();
            let in_force = Arc::clone(&self.in_force.read());
            if Arc::ptr_eq(&in_force, &judged_by) {
                // Those that have ended leave when the list would grow: on average no connection costs more than one look.
                if live.len() == live.capacity() {
                    live.retain(|live| !live.connection.lend().is_closed());
                }
                live.push(entry);
                return;
            }
            drop(live);
            if in_force.judge(&entry).is_err() {
                entry.connection.lend().close();
                return;
            }
            judged_by = in_force;
        }
    }

    /// Ends the connections that do not pass, and tells of those whose own tasks ended them for the same reason.
    fn sweep(&self, passes: impl Fn(&Live) -> Result<(), rustls::Error>) -> Vec<Cut> {
        let mut cut = Vec::new();
        let now = self.live.lock().clone();
        for live in &now {
            let connection = live.connection.lend();
            if connection.is_closed() && !connection.has_lost_its_certificate() {
                live.is_done.store(true, Ordering::Relaxed);
            } else if let Err(why) = passes(live) {
                connection.close();
                cut.push(Cut { who: live.who.clone(), address: live.address, why: reason(&why) });
                live.is_done.store(true, Ordering::Relaxed);
            }
        }
        self.live.lock().retain(|live| !live.is_done.load(Ordering::Relaxed));
        cut
    }
}

/// What two handshakes hand on to each other.
struct Hands {
    chain: Vec<CertificateDer<'static>>,
    dialled: Option<Peer>,
    address: SocketAddr,
    in_force: Arc<InForce>,
    begun: Instant,
}

impl InForce {
    fn new(own: &CertifiedIdentity, credentials: &Credentials, revoked: Revoked) -> Result<Self, TlsError> {
        let judge = Arc::new(Judge::new(own.cluster, credentials, revoked)?);
        let server = credentials.server_config_with(Arc::clone(&judge) as _)?;
        let client = credentials.client_config()?;
        let now = UnixTime::now();
        if let Subject::Node(number) = own.subject {
            // A node's peers believe what it believes: refused by itself, it would be refused by all of them.
            judge.dialer(&credentials.chain, now).map_err(TlsError::Own)?;
            judge.acceptor(&credentials.chain, &Peer::Node(number), now).map_err(TlsError::Own)?;
        } else if earliest_end(&credentials.chain) < SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs()) {
            return Err(TlsError::Own(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)));
        }
        Ok(Self { server, client, judge })
    }

    fn judge(&self, live: &Live) -> Result<(), rustls::Error> {
        match &live.dialled {
            None => self.judge.dialer(&live.chain, UnixTime::now()),
            Some(peer) => self.judge.acceptor(&live.chain, peer, UnixTime::now()),
        }
    }
}

fn own_identity(credentials: &Credentials) -> Result<CertifiedIdentity, TlsError> {
    let own = credentials.chain.first().ok_or(TlsError::Credentials(rustls::Error::NoCertificatesPresented))?;
    Ok(PeerCertificate::read(own)?.identity)
}

/// A handshake that the peer ended says so.
fn refusal(error: TlsError) -> TlsError {
    match error {
        TlsError::Handshake(source) => match alert_of(&source) {
            Some(alert) => TlsError::RefusedByPeer { alert },
            None => TlsError::Handshake(source),
        },
        other => other,
    }
}

/// No key, and none of the certificates' bytes.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("own", &self.own.to_string()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;
    use crate::identity::Identity;

    /// A renewal judges each chain anew, a tenth of a millisecond for each: ten thousand of them were a second in which no
    /// connection could be made.
    #[tokio::test]
    async fn the_list_of_connections_is_free_while_they_are_judged() {
        let name = "towline://07070707-0707-0707-0707-070707070707/node/1";
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        let credentials = Credentials {
            chain: vec![params.signed_by(&key, &authority).unwrap().der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![authority.der().clone()],
        };
        let endpoint = Endpoint::new(&credentials).unwrap();
        let who = Identity { cluster: [7; 16], node: 1, directory: [1; 16], incarnation: 1, role: Role::Node };
        let (one, _other) = tokio::io::duplex(1 << 12);
        let config = ConnectionConfig::new(who, [1; 16]);
        let handle = task::spawn(one, Side::Dialer, config, EventSink::callback(|_| ()), None, None).unwrap();
        endpoint.live.lock().push(Arc::new(Live {
            chain: credentials.chain.clone(),
            dialled: None,
            ends: SystemTime::UNIX_EPOCH,
            who: endpoint.identity().clone(),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            connection: handle.downgrade(),
            is_done: AtomicBool::new(false),
        }));
        let judged = std::cell::Cell::new(0);
        let cut = endpoint.sweep(|_| {
            judged.set(judged.get() + 1);
            assert!(endpoint.live.try_lock().is_some(), "another connection may be entered meanwhile");
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired))
        });
        assert_eq!((judged.get(), cut.len(), endpoint.live.lock().len()), (1, 1, 0));
        assert!(handle.is_closed());
    }
}

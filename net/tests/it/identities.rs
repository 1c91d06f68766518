//! Peers that their certificates name (N13, N16): who is let in, who is not, and who is put out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use towline_net::driver::tls::{self, CredentialFiles, Credentials, Endpoint, Peer, PeerCertificate, TlsError};
use towline_net::driver::{self, ConnectionHandle, EventSink, Listener, ListenerOptions};
use towline_net::{ConnectionConfig, ConnectionError, FaultClass, GoAwayCode, Identity, Role, Side};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_secs(5);
const CLUSTER: [u8; 16] = [7; 16];
const OURS: &str = "towline://07070707-0707-0707-0707-070707070707";
pub(crate) const OTHERS: &str = "towline://08080808-0808-0808-0808-080808080808";

pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

/// One certificate in PEM, and its key.
struct Pem {
    certificate: String,
    key: String,
    authority: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn issue(&self, identity: &str) -> Credentials {
        self.issue_with(identity, |_| ())
    }

    /// A certificate that this authority issued, whose holder believes this authority.
    pub(crate) fn issue_with(&self, identity: &str, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = named(identity);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![self.0.der().clone()],
        }
    }

    fn pem(&self, identity: &str) -> Pem {
        let key = KeyPair::generate().unwrap();
        let certificate = named(identity).signed_by(&key, &self.0).unwrap();
        Pem { certificate: certificate.pem(), key: key.serialize_pem(), authority: self.0.pem() }
    }
}

fn named(identity: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::DnsName("server.test".try_into().unwrap()));
    params.subject_alt_names.push(SanType::URI(identity.try_into().unwrap()));
    params
}

pub(crate) fn node(number: u64) -> String {
    format!("{OURS}/node/{number}")
}

pub(crate) fn client(name: &str) -> String {
    format!("{OURS}/client/{name}")
}

pub(crate) fn hello(node: u64, role: Role) -> ConnectionConfig {
    let identity = Identity { cluster: CLUSTER, node, directory: [1; 16], incarnation: 1, role };
    ConnectionConfig { expect_cluster: Some(CLUSTER), ..ConnectionConfig::new(identity, [node as u8; 16]) }
}

pub(crate) fn silent() -> EventSink {
    EventSink::callback(|_| ())
}

pub(crate) async fn listen() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenerOptions::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) type Connected = Result<ConnectionHandle, TlsError>;

/// Node 1, or a client, dials node 2.
pub(crate) async fn meet(
    dialer: &Endpoint,
    acceptor: &Endpoint,
    peer: Peer,
    says: ConnectionConfig,
) -> (Connected, Connected) {
    let (listener, address) = listen().await;
    let accepting = async { acceptor.accept(listener.accept().await.unwrap(), hello(2, Role::Node), silent()).await };
    let dialling = dialer.connect(address, peer, says, silent());
    timeout(PATIENCE, Box::pin(async { tokio::join!(dialling, accepting) })).await.expect("bounded")
}

/// Somebody with these credentials, who believes whatever certificate it is shown of `authority` for `server.test`,
/// dials and says this. What node 2 tells its log and counts, and what the stranger hears.
async fn intrude(
    acceptor: &Endpoint,
    stranger: &Credentials,
    says: ConnectionConfig,
) -> (TlsError, Vec<(u16, u64)>, ConnectionError) {
    let (listener, address) = listen().await;
    let config = stranger.client_config().unwrap();
    let accepting = async { acceptor.accept(listener.accept().await.unwrap(), hello(2, Role::Node), silent()).await };
    let intruding = async {
        let socket = driver::dial(address, &says).await.unwrap();
        let name = ServerName::try_from("server.test").unwrap();
        let stream = tls::connect(socket, config, name, WITHIN).await.unwrap();
        driver::spawn(stream, Side::Dialer, says, silent()).unwrap().ready().await.unwrap_err()
    };
    let (heard, told) = timeout(PATIENCE, async { tokio::join!(intruding, accepting) }).await.expect("bounded");
    (told.unwrap_err(), listener.stats().handshakes_failed.iter().collect(), heard)
}

#[tokio::test]
async fn a_node_dials_a_node_by_its_number_and_a_client_by_a_host_of_its_certificate() {
    let authority = Authority::new("ours");
    let acceptor = Endpoint::new(&authority.issue(&node(2))).unwrap();
    let dialer = Endpoint::new(&authority.issue(&node(1))).unwrap();
    let (one, two) = meet(&dialer, &acceptor, Peer::Node(2), hello(1, Role::Node)).await;
    assert_eq!(one.unwrap().peer().unwrap().identity.node, 2);
    assert_eq!(two.unwrap().peer().unwrap().identity.node, 1);

    let loader = Endpoint::new(&authority.issue(&client("loader"))).unwrap();
    let says = hello(0, Role::Client);
    let by_name = meet(&loader, &acceptor, Peer::host("server.test").unwrap(), says).await;
    assert!(by_name.0.is_ok() && by_name.1.is_ok());
    let (wrong_name, _) = meet(&loader, &acceptor, Peer::host("elsewhere.test").unwrap(), says).await;
    let error = wrong_name.unwrap_err();
    assert!(error.sentence().contains("not valid for name"), "{}", error.sentence());
    assert_eq!((error.code(), error.class()), (3218, FaultClass::Operator));
}

#[tokio::test]
async fn nobody_comes_in_whose_certificate_does_not_hold_or_names_another_and_hears_no_reason() {
    let (ours, foreign, posing) = (Authority::new("ours"), Authority::new("foreign"), Authority::new("ours"));
    let own = ours.issue(&node(2));
    let acceptor = Endpoint::new(&own).unwrap();
    acceptor.renew(&own, client("leaving").parse().unwrap()).unwrap();
    let believing = |credentials: Credentials| Credentials { roots: vec![ours.0.der().clone()], ..credentials };
    let expired = ours.issue_with(&node(1), |params| params.not_after = date_time_ymd(2001, 1, 1));
    let not_yet = ours.issue_with(&node(1), |params| params.not_before = date_time_ymd(3001, 1, 1));
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let certificate = named(&node(1)).self_signed(&key).unwrap();
        Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![],
        }
    };
    let for_servers = ours.issue_with(&node(1), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let two_names = ours.issue_with(&node(1), |params| {
        params.subject_alt_names.push(SanType::URI(node(3).as_str().try_into().unwrap()));
    });
    let (as_node, as_client) = (hello(1, Role::Node), hello(0, Role::Client));
    let cases = [
        ("expired", expired, as_node, 3216, "expired"),
        ("not yet valid", not_yet, as_node, 3216, "not valid yet"),
        ("of another authority", foreign.issue(&node(1)), as_node, 3217, "UnknownIssuer"),
        ("of another authority with our name", posing.issue(&node(1)), as_node, 3217, "BadSignature"),
        ("self-signed", self_signed, as_node, 3217, "UnknownIssuer"),
        ("not for dialling", for_servers, as_node, 3203, "extended key usage"),
        ("of nobody", ours.issue("https://elsewhere.test"), as_node, 3205, "names neither a node nor a client"),
        ("of two", two_names, as_node, 3205, "names more than one"),
        ("of another cluster", ours.issue(&format!("{OTHERS}/node/1")), as_node, 3218, "is of another cluster"),
        ("revoked", ours.issue(&client("leaving")), as_client, 3219, "is revoked"),
        ("of another node", ours.issue(&node(3)), as_node, 3014, "the peer is node 1, expected was node 3"),
        ("a client's, as a node", ours.issue(&client("a")), as_node, 3026, "says it is a Node, expected was a Client"),
        ("a node's, as a client", ours.issue(&node(1)), as_client, 3026, "says it is a Client, expected was a Node"),
    ];
    for (what, credentials, says, code, reason) in cases {
        let (told, counted, heard) = intrude(&acceptor, &believing(credentials), says).await;
        assert!(told.sentence().contains(reason), "{what}: {}", told.sentence());
        assert_eq!((told.code(), counted), (code, vec![(code, 1)]), "{what}: it is told and counted by its cause");
        let class = if code == 3014 { FaultClass::Reroute } else { FaultClass::Operator };
        assert_eq!(told.class(), class, "{what}");
        // An alert ends the byte stream, and a refusal is a number.
        let is_bare = match code {
            3014 | 3026 => matches!(heard, ConnectionError::Refused { code: said, theirs: None, .. } if said == code),
            _ => heard == ConnectionError::TransportEnded,
        };
        assert!(is_bare, "{what}: {heard:?}");
    }
}

#[tokio::test]
async fn a_dialer_hangs_up_on_whoever_is_not_the_node_that_it_looks_for() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let dialer = Endpoint::new(&ours.issue(&node(1))).unwrap();
    let expired = ours.issue_with(&node(2), |params| params.not_after = date_time_ymd(2001, 1, 1));
    let cases = [
        ("expired", expired, hello(2, Role::Node), 3216, "expired"),
        ("of another authority", foreign.issue(&node(2)), hello(2, Role::Node), 3217, "UnknownIssuer"),
        ("of another node", ours.issue(&node(3)), hello(3, Role::Node), 3218, "is not node 2, which was dialled"),
        ("of another cluster", ours.issue(&format!("{OTHERS}/node/2")), hello(2, Role::Node), 3218, "another cluster"),
        ("a client's", ours.issue(&client("a")), hello(2, Role::Node), 3218, "is no node"),
        ("another Hello", ours.issue(&node(2)), hello(3, Role::Node), 3014, "the peer is node 3, expected was node 2"),
    ];
    for (what, credentials, says, code, reason) in cases {
        let (listener, address) = listen().await;
        let posing = Credentials { roots: vec![ours.0.der().clone()], ..credentials }.server_config().unwrap();
        let accepting = async {
            let socket = |socket| tls::accept(socket, posing, WITHIN);
            let handle = listener.accept().await.unwrap().spawn_over(says, silent(), socket).await;
            match handle {
                Ok(handle) => Some(handle.closed().await),
                Err(_) => None,
            }
        };
        let dialling = dialer.connect(address, Peer::Node(2), hello(1, Role::Node), silent());
        let (dialled, heard) =
            timeout(PATIENCE, Box::pin(async { tokio::join!(dialling, accepting) })).await.expect("bounded");
        let error = dialled.unwrap_err();
        assert!(error.sentence().contains(reason), "{what}: {}", error.sentence());
        assert_eq!(error.code(), code, "{what}");
        let is_bare = heard.is_none_or(|end| end == ConnectionError::ClosedByPeer { code: GoAwayCode(3014) });
        assert!(is_bare, "{what}");
    }
}

/// The refusal comes after the dialer's part of the handshake is over.
#[tokio::test]
async fn a_dialer_whose_certificate_is_refused_is_told_so_and_not_that_the_stream_ended() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let acceptor = Endpoint::new(&ours.issue(&node(2))).unwrap();
    let mut stranger = foreign.issue(&client("a"));
    stranger.roots.push(ours.0.der().clone());
    let dialer = Endpoint::new(&stranger).unwrap();
    let (dialled, accepted) =
        meet(&dialer, &acceptor, Peer::host("server.test").unwrap(), hello(0, Role::Client)).await;
    assert!(matches!(dialled, Err(TlsError::RefusedByPeer { .. })), "{dialled:?}");
    assert!(accepted.unwrap_err().sentence().contains("UnknownIssuer"));
}

#[tokio::test]
async fn a_tls_client_of_version_1_2_and_one_without_a_certificate_are_refused() {
    let authority = Authority::new("ours");
    let acceptor = Endpoint::new(&authority.issue(&node(2))).unwrap();
    // A ClientHello as clients of TLS 1.2 send it: no list of versions. It offers a suite, groups and signatures.
    let mut body = vec![3, 3];
    body.extend([0x5a; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend([0, 18, 0, 10, 0, 4, 0, 2, 0, 0x1d, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4]);
    let mut hello_1_2 = vec![0x16, 3, 1, 0, (body.len() + 4) as u8, 1, 0, 0, body.len() as u8];
    hello_1_2.extend(body);
    let (listener, address) = listen().await;
    let accepting = async { acceptor.accept(listener.accept().await.unwrap(), hello(2, Role::Node), silent()).await };
    let old = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&hello_1_2).await.unwrap();
        let mut answer = Vec::new();
        drop(socket.read_to_end(&mut answer).await);
        answer
    };
    let (answer, accepted) = timeout(PATIENCE, async { tokio::join!(old, accepting) }).await.expect("bounded");
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 70], "one fatal alert: the version");
    let said = accepted.unwrap_err().sentence();
    assert!(said.contains("peer is incompatible"), "{said}");

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let nobody = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let accepting = async { acceptor.accept(listener.accept().await.unwrap(), hello(2, Role::Node), silent()).await };
    let dialling = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let stream = tls::connect(socket, nobody.into(), "server.test".try_into().unwrap(), WITHIN).await.unwrap();
        driver::spawn(stream, Side::Dialer, hello(0, Role::Client), silent()).unwrap().ready().await
    };
    let (heard, accepted) =
        timeout(PATIENCE, Box::pin(async { tokio::join!(dialling, accepting) })).await.expect("bounded");
    assert_eq!(heard, Err(ConnectionError::TransportEnded));
    let error = accepted.unwrap_err();
    assert!(error.sentence().contains("no certificates"), "{}", error.sentence());
    assert_eq!((error.code(), error.class()), (3215, FaultClass::Operator));
    let failed = listener.stats().handshakes_failed;
    assert_eq!(failed.iter().collect::<Vec<_>>(), [(3203, 1), (3215, 1)], "the old version, and no certificate");
}

#[tokio::test]
async fn plain_text_on_a_port_of_tls_and_tls_on_a_port_of_plain_text_end_within_the_bound_of_the_handshake() {
    let authority = Authority::new("ours");
    let acceptor = Endpoint::new(&authority.issue(&node(2))).unwrap();
    let dialer = Endpoint::new(&authority.issue(&node(1))).unwrap();
    let (listener, address) = listen().await;
    let accepting = async { acceptor.accept(listener.accept().await.unwrap(), hello(2, Role::Node), silent()).await };
    let plain = async {
        let handle = driver::connect(address, hello(1, Role::Node), silent()).await.unwrap();
        handle.ready().await
    };
    let (heard, accepted) = timeout(WITHIN, async { tokio::join!(plain, accepting) }).await.expect("in time");
    assert_eq!(heard, Err(ConnectionError::SpeaksTls), "not only that the byte stream ended");
    let error = accepted.unwrap_err();
    assert_eq!((error.code(), error.class()), (3142, FaultClass::Retry), "a busy listener speaks plain text, too");
    assert!(error.sentence().contains("what came is no TLS"), "{}", error.sentence());
    assert_eq!(listener.stats().handshakes_failed.iter().collect::<Vec<_>>(), [(3142, 1)]);

    let accepting = async {
        let handle = listener.accept().await.unwrap().spawn(hello(2, Role::Node), silent()).unwrap();
        handle.ready().await
    };
    let dialling = dialer.connect(address, Peer::Node(2), hello(1, Role::Node), silent());
    let (dialled, heard) =
        timeout(WITHIN, Box::pin(async { tokio::join!(dialling, accepting) })).await.expect("in time");
    assert!(matches!(dialled, Err(TlsError::Handshake(_))), "{dialled:?}");
    assert_eq!(heard, Err(ConnectionError::SpeaksTls));
    let failed = listener.stats().handshakes_failed;
    assert_eq!(failed.iter().collect::<Vec<_>>(), [(3140, 1), (3142, 1)]);
    assert_eq!(listener.stats().abandoned, 0, "each has its reason");
}

/// N15: TLS and Hello together take no longer than one of them may.
#[tokio::test]
async fn a_peer_that_says_nothing_within_tls_is_cut_at_the_one_bound_of_both_handshakes() {
    let authority = Authority::new("ours");
    let acceptor = Endpoint::new(&authority.issue(&node(2))).unwrap();
    let quiet = authority.issue(&node(1)).client_config().unwrap();
    let (listener, address) = listen().await;
    let bound = Duration::from_millis(400);
    let accepting = async {
        let config = ConnectionConfig { hello_timeout: bound, ..hello(2, Role::Node) };
        let incoming = listener.accept().await.unwrap();
        let begun = tokio::time::Instant::now();
        (acceptor.accept(incoming, config, silent()).await, begun.elapsed())
    };
    let dialling = async {
        let socket = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(bound / 2).await;
        let stream = tls::connect(socket, quiet, "server.test".try_into().unwrap(), WITHIN).await.unwrap();
        tokio::time::sleep(bound * 2).await;
        drop(stream);
    };
    let ((), (accepted, took)) =
        timeout(PATIENCE, Box::pin(async { tokio::join!(dialling, accepting) })).await.expect("bounded");
    assert!(
        matches!(accepted, Err(TlsError::Connection { source: ConnectionError::HelloTimeout, .. })),
        "{accepted:?}"
    );
    assert!(took < bound + bound / 3, "{took:?}");
}

#[tokio::test]
async fn who_is_revoked_is_cut_and_comes_in_no_more_while_the_others_stay() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("old"));
    let mut own = ours.issue(&node(2));
    own.roots.push(foreign.0.der().clone());
    let acceptor = Endpoint::new(&own).unwrap();
    let mut old = foreign.issue(&client("old"));
    old.roots.push(ours.0.der().clone());
    let leaving = ours.issue(&client("leaving"));
    let serial = PeerCertificate::read(&leaving.chain[0]).unwrap().serial;
    let says = hello(0, Role::Client);
    let host = || Peer::host("server.test").unwrap();
    let connect =
        async |credentials: &Credentials| meet(&Endpoint::new(credentials).unwrap(), &acceptor, host(), says).await;
    let stays = connect(&ours.issue(&client("stays"))).await;
    for how in ["identity", "serial", "authority"] {
        let credentials = if how == "authority" { &old } else { &leaving };
        let (client, server) = connect(credentials).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        let revoked = match how {
            "identity" => format!("{OURS}/client/leaving"),
            "serial" => format!("serial:{serial}"),
            _ => String::new(),
        };
        let new = if how == "authority" {
            Credentials { roots: vec![ours.0.der().clone()], key: own.key.clone_key(), chain: own.chain.clone() }
        } else {
            Credentials { roots: own.roots.clone(), key: own.key.clone_key(), chain: own.chain.clone() }
        };
        let cut = acceptor.renew(&new, revoked.parse().unwrap()).unwrap();
        assert_eq!(cut.len(), 1, "{how}");
        let end = timeout(PATIENCE, client.closed()).await.expect("it is cut");
        assert_eq!(end, ConnectionError::ClosedByPeer { code: GoAwayCode::CLOSED }, "{how}: and not why");
        assert!(server.is_closed());
        let (client, server) = connect(credentials).await;
        assert!(matches!(client, Err(TlsError::RefusedByPeer { .. })), "{how}: {client:?}");
        server.unwrap_err();
        acceptor.renew(&own, tls::Revoked::default()).unwrap();
    }
    assert!(!stays.0.unwrap().is_closed() && !stays.1.unwrap().is_closed());
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("towline-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> CredentialFiles {
        CredentialFiles { revoked: Some(self.0.join("revoked.txt")), ..CredentialFiles::in_directory(&self.0) }
    }

    fn write(&self, pem: &Pem) {
        let files = self.files();
        std::fs::write(&files.certificate, &pem.certificate).unwrap();
        std::fs::write(&files.authorities, &pem.authority).unwrap();
        write_secret(&files.key, &pem.key);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn files_that_have_changed_are_taken_and_broken_ones_are_told_once_and_change_nothing() {
    let authority = Authority::new("ours");
    let directory = Directory::new("reload");
    let files = directory.files();
    let revoked = files.revoked.clone().unwrap();
    directory.write(&authority.pem(&node(2)));
    std::fs::write(&revoked, "# nobody\n").unwrap();
    let acceptor = Endpoint::open(files.clone()).unwrap();
    let loader = Endpoint::new(&authority.issue(&client("loader"))).unwrap();
    let connect = async || {
        let (client, _) = meet(&loader, &acceptor, Peer::host("server.test").unwrap(), hello(0, Role::Client)).await;
        client.is_ok()
    };
    assert!(connect().await);
    let look = acceptor.look().unwrap();
    assert!(!look.is_renewed);

    type Break<'a> = Box<dyn Fn() + 'a>;
    let key_of_another = authority.pem(&node(2)).key;
    let of_another = authority.pem(&node(3));
    let ended = || {
        let key = KeyPair::generate().unwrap();
        let mut params = named(&node(2));
        params.not_after = date_time_ymd(2001, 1, 1);
        let certificate = params.signed_by(&key, &authority.0).unwrap();
        Pem { certificate: certificate.pem(), key: key.serialize_pem(), authority: authority.0.pem() }
    };
    let breaks: [(&str, u16, Break<'_>); 7] = [
        ("no PEM", 3213, Box::new(|| std::fs::write(&files.certificate, "half a cert").unwrap())),
        ("no file", 3211, Box::new(|| std::fs::remove_file(&files.authorities).unwrap())),
        ("another key", 3201, Box::new(|| write_secret(&files.key, &key_of_another))),
        (
            "an open key",
            3212,
            Box::new(|| {
                use std::os::unix::fs::PermissionsExt as _;
                std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o640)).unwrap();
            }),
        ),
        ("a broken list", 3214, Box::new(|| std::fs::write(&revoked, "loader").unwrap())),
        ("another node's", 3208, Box::new(|| directory.write(&of_another))),
        ("one that has ended", 3207, Box::new(|| directory.write(&ended()))),
    ];
    for (what, code, change) in breaks {
        change();
        let error = acceptor.look().unwrap_err();
        assert_eq!(error.code(), code, "{what}: {}", error.sentence());
        assert!(!acceptor.look().unwrap().is_renewed, "{what}: told once");
        assert!(connect().await, "{what}: the old ones serve");
        directory.write(&authority.pem(&node(2)));
        std::fs::write(&revoked, "# nobody\n").unwrap();
        assert!(acceptor.look().unwrap().is_renewed, "{what}: mended");
        assert!(connect().await, "{what}: the new ones serve");
    }
    std::fs::write(&revoked, format!("{OURS}/client/loader")).unwrap();
    assert!(acceptor.look().unwrap().is_renewed);
    assert!(!connect().await);
}

#[tokio::test]
async fn a_connection_whose_certificate_ends_while_it_runs_is_cut() {
    let authority = Authority::new("ours");
    let acceptor = Endpoint::new(&authority.issue(&node(2))).unwrap();
    let short = authority.issue_with(&client("short"), |params| {
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(UnixTime::now().as_secs() + 2);
    });
    let dialer = Endpoint::new(&short).unwrap();
    let (client, _server) = meet(&dialer, &acceptor, Peer::host("server.test").unwrap(), hello(0, Role::Client)).await;
    let client = client.unwrap();
    assert!(acceptor.look().unwrap().cut.is_empty(), "it still holds");
    let cut = timeout(PATIENCE, async {
        loop {
            if let Some(cut) = acceptor.look().unwrap().cut.pop() {
                return cut;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(cut.await.expect("it ends").who.to_string(), format!("{OURS}/client/short"));
    timeout(PATIENCE, client.closed()).await.expect("and its other side hears of it");
}

/// A node looks at its files every few seconds, and cut whose certificate had ended. A client looks before it connects: a
/// connection that went on and on had a server whose certificate had ended long ago.
#[tokio::test]
async fn a_client_that_never_looks_leaves_a_server_whose_certificate_ends() {
    let authority = Authority::new("ours");
    let short = authority.issue_with(&node(2), |params| {
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(UnixTime::now().as_secs() + 2);
    });
    let acceptor = Endpoint::new(&short).unwrap();
    let dialer = Endpoint::new(&authority.issue(&client("loader"))).unwrap();
    let says = ConnectionConfig { ping_interval: Duration::from_millis(100), ..hello(0, Role::Client) };
    let (client, server) = meet(&dialer, &acceptor, Peer::host("server.test").unwrap(), says).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    let reason = timeout(PATIENCE, client.closed()).await.expect("it ends");
    assert_eq!((reason.code(), reason.class()), (3143, FaultClass::Retry), "{reason}");
    let heard = timeout(PATIENCE, server.closed()).await.expect("and the other side hears why");
    assert_eq!(heard, ConnectionError::ClosedByPeer { code: GoAwayCode(3143) });
    assert_eq!(heard.class(), FaultClass::Retry);
    let cut = timeout(PATIENCE, async {
        loop {
            if let Some(cut) = dialer.look().unwrap().cut.pop() {
                return cut;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let cut = cut.await.expect("who looks is told of it");
    assert_eq!(cut.who.to_string(), node(2));
    assert!(dialer.look().unwrap().cut.is_empty(), "once");
}

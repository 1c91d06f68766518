//! TLS around the driver (N13).

use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::time::timeout;
use towline_net::driver::tls::{self, Credentials, TlsError};
use towline_net::driver::{self, EventSink, Listener, ListenerOptions};
use towline_net::{Event, Lane, Side, StreamKind};

use crate::world::{config, plain};

const PATIENCE: Duration = Duration::from_secs(20);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, believes: &Self) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![believes.0.der().clone()],
        }
    }
}

async fn listen() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenerOptions::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Whether a session comes about, seen from both ends.
async fn meet(client: Credentials, server: Credentials, name: &'static str) -> (bool, bool) {
    let (listener, address) = listen().await;
    let (client, server) = (client.client_config().unwrap(), server.server_config().unwrap());
    let accepting = async {
        let incoming = listener.accept().await.unwrap();
        let (sink, mut events) = EventSink::channel(16);
        let handle = incoming
            .spawn_over(config(Side::Acceptor), sink, |socket| tls::accept(socket, server, Duration::from_secs(5)))
            .await;
        let Ok(handle) = handle else { return false };
        while let Some(event) = events.recv().await {
            if let Event::Message { stream, bytes, charge, .. } = event {
                handle.consumed(stream, charge);
                handle.send(stream, bytes, plain()).await.unwrap();
            }
        }
        true
    };
    let dialling = async {
        let socket = driver::dial(address, &config(Side::Dialer)).await.unwrap();
        let server_name = ServerName::try_from(name).unwrap();
        let stream = tls::connect(socket, client, server_name, Duration::from_secs(5)).await;
        let Ok(stream) = stream else { return false };
        let (sink, mut events) = EventSink::channel(16);
        let handle = driver::spawn(stream, Side::Dialer, config(Side::Dialer), sink).unwrap();
        if handle.ready().await.is_err() {
            return false;
        }
        let stream = handle.open(StreamKind::Request, Lane::Request).unwrap();
        for number in 0..20_u8 {
            handle.send(stream, vec![number; 10_000].into(), plain()).await.unwrap();
        }
        let mut echoed = 0;
        while let Some(event) = events.recv().await {
            if let Event::Message { stream, bytes, charge, .. } = event {
                assert_eq!(bytes, vec![echoed; 10_000]);
                handle.consumed(stream, charge);
                echoed += 1;
                if echoed == 20 {
                    break;
                }
            }
        }
        handle.close();
        echoed == 20
    };
    timeout(PATIENCE, async { tokio::join!(dialling, accepting) }).await.expect("bounded")
}

#[tokio::test]
async fn two_sides_of_one_authority_talk_over_tls() {
    let authority = Authority::new();
    let (client, server) = (authority.issue("client.test", &authority), authority.issue("server.test", &authority));
    assert_eq!(meet(client, server, "server.test").await, (true, true));
}

#[tokio::test]
async fn a_wrong_name_or_a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issue = |by: &Authority, name, believes| by.issue(name, believes);
    let wrong_name = meet(
        issue(&authority, "client.test", &authority),
        issue(&authority, "server.test", &authority),
        "elsewhere.test",
    );
    assert_eq!(wrong_name.await, (false, false));
    let foreign_server =
        meet(issue(&authority, "client.test", &authority), issue(&other, "server.test", &authority), "server.test");
    assert_eq!(foreign_server.await, (false, false));
    let foreign_client =
        meet(issue(&other, "client.test", &authority), issue(&authority, "server.test", &authority), "server.test");
    assert_eq!(foreign_client.await, (false, false));
}

/// N15, with TLS.
#[tokio::test]
async fn a_stranger_that_says_nothing_is_cut_at_the_bound_of_the_tls_handshake() {
    let authority = Authority::new();
    let server = authority.issue("server.test", &authority).server_config().unwrap();
    let (_silent, other) = tokio::io::duplex(1 << 10);
    let end = tls::accept(other, server, Duration::from_millis(20)).await;
    assert!(matches!(end, Err(TlsError::Timeout)));
}

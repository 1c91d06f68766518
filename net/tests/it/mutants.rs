//! I12, attacked: what a stranger tries, and that each rule against it is one that a test would miss. Each planted bug
//! ([`Mutant`]) lets one attack or more through; without one none comes through.

use std::net::SocketAddr;
use std::time::Duration;

use rcgen::date_time_ymd;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use towline_net::driver::tls::{self, Credentials, Endpoint, Peer};
use towline_net::driver::{self, Listener, ListenerOptions};
use towline_net::frame::FrameHeader;
use towline_net::mutant::{Mutant, plant};
use towline_net::{Connection, ConnectionConfig, ConnectionError, Role, Side};

use crate::identities::{Authority, OTHERS, PATIENCE, client, hello, listen, meet, node, silent};
use crate::world::config;

/// The planted bug is taken out again, also where a test fails.
struct Planted;

impl Planted {
    fn new(mutant: Option<Mutant>) -> Self {
        plant(mutant);
        Self
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        plant(None);
    }
}

/// Whether node 2 takes a stranger with these credentials for a peer when it says this.
async fn comes_in(ours: &Authority, stranger: Credentials, says: ConnectionConfig, revoked: &str) -> bool {
    let own = ours.issue(&node(2));
    let acceptor = Endpoint::new(&own).unwrap();
    acceptor.renew(&own, revoked.parse().unwrap()).unwrap();
    let stranger = Credentials { roots: vec![ours.0.der().clone()], ..stranger };
    let (listener, address) = listen().await;
    let accepting = async {
        let incoming = listener.accept().await.unwrap();
        acceptor.accept(incoming, hello(2, Role::Node), silent()).await.is_ok()
    };
    let (_, is_in) = timeout(PATIENCE, Box::pin(async { tokio::join!(intrude(address, &stranger, says), accepting) }))
        .await
        .expect("bounded");
    is_in
}

/// Shows these credentials and says this, whoever it is.
async fn intrude(address: SocketAddr, stranger: &Credentials, says: ConnectionConfig) {
    let socket = driver::dial(address, &says).await.unwrap();
    let name = "server.test".try_into().unwrap();
    let stream = tls::connect(socket, stranger.client_config().unwrap(), name, PATIENCE).await.unwrap();
    drop(driver::spawn(stream, Side::Dialer, says, silent()).unwrap().ready().await);
}

/// Whether a connection lives on whose peer is revoked meanwhile.
async fn stays(ours: &Authority) -> bool {
    let own = ours.issue(&node(2));
    let (acceptor, dialer) = (Endpoint::new(&own).unwrap(), Endpoint::new(&ours.issue(&client("leaves"))).unwrap());
    let (_client, server) = meet(&dialer, &acceptor, Peer::host("server.test").unwrap(), hello(0, Role::Client)).await;
    acceptor.renew(&own, client("leaves").parse().unwrap()).unwrap();
    !server.unwrap().is_closed()
}

/// Whether two who say nothing are held where there is a place for one.
async fn two_hold_the_place_of_one() -> bool {
    let options = ListenerOptions { pending_max: 1, address_pending_max: 2, ..ListenerOptions::default() };
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let address = listener.local_addr().unwrap();
    let _first = TcpStream::connect(address).await.unwrap();
    let _held = listener.accept().await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    let mut refusal = Vec::new();
    tokio::select! {
        _ = second.read_to_end(&mut refusal) => false,
        _ = listener.accept() => true,
    }
}

/// Whether bytes are awaited for a first frame that is longer than any Hello.
fn keeps_a_long_hello() -> bool {
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
    let header = FrameHeader { length: 1 << 30, ..FrameHeader::for_payload(1, b"", 0) };
    acceptor.receive(Duration::ZERO, &header.encode(0)).is_ok()
}

/// Whether who says nothing is still waited for after an hour.
fn waits_for_ever() -> bool {
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
    acceptor.tick(Duration::from_secs(3600));
    acceptor.closed_reason() != Some(&ConnectionError::HelloTimeout)
}

/// The attacks that come through.
async fn through() -> Vec<&'static str> {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let as_node = hello(1, Role::Node);
    let expired = ours.issue_with(&node(1), |params| params.not_after = date_time_ymd(2001, 1, 1));
    let other_cluster = ours.issue(&format!("{OTHERS}/node/1"));
    let mut of_the_other = as_node;
    of_the_other.identity.cluster = [8; 16];
    // What it expects of node 2 is its own business.
    of_the_other.expect_cluster = None;
    let attacks = [
        ("another node's Hello", comes_in(&ours, ours.issue(&node(3)), as_node, "").await),
        ("a node's Hello, by a client", comes_in(&ours, ours.issue(&client("a")), as_node, "").await),
        ("another authority", comes_in(&ours, foreign.issue(&node(1)), as_node, "").await),
        ("another cluster", comes_in(&ours, other_cluster, of_the_other, "").await),
        ("an end in 2001", comes_in(&ours, expired, as_node, "").await),
        ("revoked", comes_in(&ours, ours.issue(&node(1)), as_node, &node(1)).await),
        ("revoked while connected", stays(&ours).await),
        ("a second stranger in one place", two_hold_the_place_of_one().await),
        ("a Hello of a gibibyte", keeps_a_long_hello()),
        ("an hour of silence", waits_for_ever()),
    ];
    attacks.into_iter().filter(|(_, is_through)| *is_through).map(|(what, _)| what).collect()
}

#[tokio::test]
async fn no_stranger_comes_through_and_each_rule_against_one_is_missed_when_it_is_gone() {
    assert_eq!(through().await, [""; 0], "I12, with every rule in its place");
    let honest = Authority::new("ours");
    assert!(comes_in(&honest, honest.issue(&node(1)), hello(1, Role::Node), "").await, "and the honest one does");
    for mutant in Mutant::ALL {
        let _out_again = Planted::new(Some(mutant));
        let expected: &[&str] = match mutant {
            Mutant::AnyHello => &["another node's Hello", "a node's Hello, by a client"],
            Mutant::AnyAuthority => &["another authority", "an end in 2001"],
            Mutant::AnyCluster => &["another cluster"],
            Mutant::StoppedClock => &["an end in 2001"],
            Mutant::IgnoreRevoked => &["revoked", "revoked while connected"],
            Mutant::KeepRevoked => &["revoked while connected"],
            Mutant::LongHello => &["a Hello of a gibibyte"],
            Mutant::PatientGreeting => &["an hour of silence"],
            Mutant::AnyNumberOfStrangers => &["a second stranger in one place"],
            other => panic!("nothing attacks {other:?}"),
        };
        assert_eq!(through().await, expected, "{mutant:?}: the same attacks notice it, and no other");
    }
}

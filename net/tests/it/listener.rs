//! How many a listener takes, and what it says of those that it did not, and of those that ended.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use towline_net::driver::{self, ConnectionHandle, EventSink, Listener, ListenerOptions, ListenerStats};
use towline_net::hello::HelloAck;
use towline_net::{ConnectionConfig, ConnectionError, Role, Side};

use crate::world::config;

const PATIENCE: Duration = Duration::from_secs(20);

async fn listen(options: ListenerOptions) -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The whole of 127.0.0.0/8 is this machine: neighbours with addresses of their own.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// What a stranger hears: the code of a refusal.
async fn refusal(mut socket: TcpStream) -> u16 {
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    match HelloAck::decode(&answer[24..]).unwrap() {
        HelloAck::Refusal(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// Waits for a connection that there is no place for, until it has been turned away.
async fn turned_away(listener: &Listener, socket: TcpStream) -> u16 {
    tokio::select! {
        code = refusal(socket) => code,
        _ = listener.accept() => panic!("there is no place"),
    }
}

fn assert_balanced(stats: &ListenerStats) {
    let over = stats.abandoned + stats.handshakes_failed.total() + stats.ended.total();
    assert_eq!(stats.accepted, stats.connections + over, "{stats:?}");
    assert_eq!(stats.greeted + stats.pending, stats.connections + stats.ended.total(), "{stats:?}");
}

/// N15.
#[tokio::test]
async fn by_default_nine_hundred_strangers_are_held_and_no_address_holds_all_places() {
    let options = ListenerOptions::default();
    assert_eq!(options.pending_max, 896);
    assert!(options.address_pending_max < options.pending_max);
    assert!(options.address_connections_max < options.connections_max);
}

/// With 1,024 open files a node took some hundred connections, and one address 2,048 of them.
#[tokio::test]
async fn one_address_takes_a_quarter_of_the_places_however_few_there_are() {
    for connections in [1, 2, 7, 128, 512, 4096, 1 << 20] {
        let options = ListenerOptions::for_connections(connections);
        assert!(options.pending_max <= connections.div_ceil(4) && options.pending_max <= 896, "{options:?}");
        assert!(options.address_connections_max <= connections.div_ceil(4), "{options:?}");
        assert!(options.address_pending_max <= options.pending_max.div_ceil(4), "{options:?}");
        assert!(options.address_pending_max >= 1 && options.address_connections_max >= 1, "{options:?}");
    }
    let (listener, address) = listen(ListenerOptions::for_connections(8)).await;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let client = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ())).await.unwrap();
        let server = listener.accept().await.unwrap().spawn(config(Side::Acceptor), EventSink::callback(|_| ()));
        let server = server.unwrap();
        server.ready().await.unwrap();
        clients.push(client);
        servers.push(server);
    }
    assert_eq!(turned_away(&listener, TcpStream::connect(address).await.unwrap()).await, 3020);
    assert_eq!(listener.stats().refused_address_connections, 1, "six places are left, for others");
    let _neighbour = connect_from(3, address).await;
    listener.accept().await.unwrap();
}

/// A stranger that opened one connection after the other, and said nothing, had every place: nobody else came in.
#[tokio::test]
async fn an_address_full_of_silent_strangers_is_refused_and_its_neighbours_are_not() {
    let (listener, address) = listen(ListenerOptions { address_pending_max: 2, ..ListenerOptions::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push((connect_from(2, address).await, listener.accept().await.unwrap()));
    }
    let third = connect_from(2, address).await;
    assert_eq!(turned_away(&listener, third).await, ConnectionError::Busy.code());

    let _neighbour = connect_from(3, address).await;
    let incoming = listener.accept().await.unwrap();
    assert_eq!(incoming.peer_addr().ip(), Ipv4Addr::new(127, 0, 0, 3));
    let stats = listener.stats();
    assert_eq!((stats.refused, stats.refused_address_pending, stats.pending), (1, 1, 3));

    // A place that is given up is one for the next from there.
    silent.pop();
    let _next = connect_from(2, address).await;
    listener.accept().await.unwrap();
    assert_balanced(&listener.stats());
}

#[tokio::test]
async fn each_reason_of_a_refusal_is_counted_by_itself() {
    let sinks = || EventSink::callback(|_| ());
    let roomy = ListenerOptions::default();
    for (options, needs_handshake) in [
        (ListenerOptions { connections_max: 1, ..roomy }, true),
        (ListenerOptions { pending_max: 1, ..roomy }, false),
        (ListenerOptions { address_connections_max: 1, ..roomy }, true),
        (ListenerOptions { address_pending_max: 1, ..roomy }, false),
    ] {
        let (listener, address) = listen(options).await;
        let client = driver::connect(address, config(Side::Dialer), sinks()).await.unwrap();
        let incoming = listener.accept().await.unwrap();
        if needs_handshake {
            let server = incoming.spawn(config(Side::Acceptor), sinks()).unwrap();
            server.ready().await.unwrap();
            let next = TcpStream::connect(address).await.unwrap();
            assert_eq!(turned_away(&listener, next).await, 3020);
            server.close();
            server.closed().await;
        } else {
            let next = TcpStream::connect(address).await.unwrap();
            assert_eq!(turned_away(&listener, next).await, 3020);
            drop(incoming);
        }
        drop(client);
        let stats = listener.stats();
        let by_reason = [
            stats.refused_connections,
            stats.refused_pending,
            stats.refused_address_connections,
            stats.refused_address_pending,
        ];
        let expected = [
            u64::from(options.connections_max == 1),
            u64::from(options.pending_max == 1),
            u64::from(options.address_connections_max == 1),
            u64::from(options.address_pending_max == 1),
        ];
        assert_eq!((by_reason, stats.refused), (expected, 1), "{options:?}");
        assert_balanced(&stats);
        assert_eq!(stats.connections, 0);
    }
}

/// A listener knew of two numbers, accepted and refused: what was wrong with a thousand strangers was in nobody's books.
#[tokio::test]
async fn how_each_connection_ended_is_counted_by_its_code_and_nothing_is_lost() {
    let (listener, address) = listen(ListenerOptions::default()).await;
    let mut server = config(Side::Acceptor);
    server.hello_timeout = Duration::from_millis(50);
    let accept = async || listener.accept().await.unwrap().spawn(server, EventSink::callback(|_| ())).unwrap();
    let end = async |handle: ConnectionHandle| timeout(PATIENCE, handle.closed()).await.unwrap();

    let silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(end(accept().await).await, ConnectionError::HelloTimeout);
    drop(silent);

    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[0x5a; 100]).await.unwrap();
    assert_eq!(end(accept().await).await.code(), 3001);

    let mut stranger = config(Side::Dialer);
    stranger.identity.cluster = [9; 16];
    let stranger = driver::connect(address, stranger, EventSink::callback(|_| ())).await.unwrap();
    assert_eq!(end(accept().await).await, ConnectionError::WrongCluster);
    assert!(stranger.ready().await.is_err());

    let tls = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[0x5a; 194]].concat();
    let mut lacks_our_credentials = TcpStream::connect(address).await.unwrap();
    lacks_our_credentials.write_all(&tls).await.unwrap();
    assert_eq!(end(accept().await).await, ConnectionError::SpeaksTls);

    // The code with the highest number of those without a hole: it was in nobody's books.
    let part = ConnectionConfig { expect_role: Some(Role::Client), ..server };
    let node = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ())).await.unwrap();
    let handle = listener.accept().await.unwrap().spawn(part, EventSink::callback(|_| ())).unwrap();
    assert_eq!(end(handle).await.code(), 3026);
    assert!(node.ready().await.is_err());

    drop(TcpStream::connect(address).await.unwrap());
    drop(listener.accept().await.unwrap());

    let client = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ())).await.unwrap();
    let handle = accept().await;
    handle.ready().await.unwrap();
    client.ready().await.unwrap();
    let stats = listener.stats();
    assert_eq!((stats.greeted, stats.connections, stats.pending), (1, 1, 0));
    drop(client);
    assert!(end(handle).await.is_orderly());

    let stats = listener.stats();
    assert_eq!(
        stats.handshakes_failed.iter().collect::<Vec<_>>(),
        [(3001, 1), (3011, 1), (3013, 1), (3026, 1), (3140, 1)]
    );
    assert_eq!(stats.ended.iter().collect::<Vec<_>>(), [(3022, 1)], "closed by the peer");
    assert_eq!((stats.accepted, stats.abandoned, stats.greeted, stats.connections), (7, 1, 1, 0));
    assert_balanced(&stats);
}

/// The kernel kept 128 connections until they were accepted. A burst of strangers filled that in a millisecond, and an honest
/// client that came then tried again after a second.
#[tokio::test]
async fn a_burst_of_connections_waits_in_the_kernel_until_it_is_accepted() {
    let (listener, address) = listen(ListenerOptions::default()).await;
    let mut sockets = Vec::new();
    for number in 0..900 {
        let connecting = timeout(PATIENCE, TcpStream::connect(address)).await;
        sockets.push(connecting.unwrap_or_else(|_| panic!("number {number} found no room")).unwrap());
    }
    assert_eq!(listener.stats().accepted, 0);
}

/// The places of a connection whose callback panics come back, and its end is counted.
#[tokio::test]
async fn a_place_comes_back_however_its_connection_ends() {
    let (listener, address) = listen(ListenerOptions { connections_max: 1, ..ListenerOptions::default() }).await;
    let _client = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ())).await.unwrap();
    let sink = EventSink::callback(|_| panic!("a callback that fails, by intention"));
    let server = listener.accept().await.unwrap().spawn(config(Side::Acceptor), sink).unwrap();
    assert_eq!(timeout(PATIENCE, server.closed()).await.unwrap(), ConnectionError::TransportEnded);
    assert_balanced(&listener.stats());
    assert_eq!(listener.stats().connections, 0);
    let _next = TcpStream::connect(address).await.unwrap();
    listener.accept().await.unwrap();
}

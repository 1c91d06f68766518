//! The driver over loopback.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};
use towline_net::driver::{self, ConnectionHandle, EventReceiver, EventSink, Incoming, Listener, ListenerOptions};
use towline_net::hello::HelloAck;
use towline_net::{
    ConnectionConfig, ConnectionError, Event, GoAwayCode, Lane, Limits, ProtocolRange, SendError, Side, StreamKind,
};

use crate::world::{config, plain};

const PATIENCE: Duration = Duration::from_secs(20);

fn wide(side: Side) -> ConnectionConfig {
    ConnectionConfig { limits: Limits::default(), ..config(side) }
}

async fn listen(options: ListenerOptions) -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

struct Pair {
    client: ConnectionHandle,
    client_events: EventReceiver,
    server: ConnectionHandle,
    server_events: EventReceiver,
}

async fn pair(client: ConnectionConfig, server: ConnectionConfig) -> Pair {
    let (listener, address) = listen(ListenerOptions::default()).await;
    let (client_sink, client_events) = EventSink::channel(8);
    let (server_sink, server_events) = EventSink::channel(8);
    let (client, incoming) = tokio::join!(driver::connect(address, client, client_sink), listener.accept());
    let incoming: Incoming = incoming.unwrap();
    let server = incoming.spawn(server, server_sink).unwrap();
    let client = client.unwrap();
    client.ready().await.unwrap();
    server.ready().await.unwrap();
    Pair { client, client_events, server, server_events }
}

async fn next_message(events: &mut EventReceiver, handle: &ConnectionHandle) -> Option<Bytes> {
    while let Some(event) = events.recv().await {
        if let Event::Message { stream, bytes, charge, .. } = event {
            handle.consumed(stream, charge);
            return Some(bytes);
        }
    }
    None
}

#[tokio::test]
async fn messages_go_both_ways_over_tcp() {
    let mut pair = pair(wide(Side::Dialer), wide(Side::Acceptor)).await;
    let stream = pair.client.open(StreamKind::Request, Lane::Request).unwrap();
    pair.client.send(stream, "question".into(), plain()).await.unwrap();
    assert_eq!(next_message(&mut pair.server_events, &pair.server).await.unwrap(), "question");
    pair.server.try_send(stream, "answer".into(), plain()).unwrap();
    assert_eq!(next_message(&mut pair.client_events, &pair.client).await.unwrap(), "answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_mebibytes_pass_within_bounded_buffers() {
    let mut pair = pair(wide(Side::Dialer), wide(Side::Acceptor)).await;
    let stream = pair.client.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let client = pair.client.clone();
    let sender = tokio::spawn(async move {
        let piece = Bytes::from(vec![0x5a; 1 << 20]);
        for _ in 0..200 {
            client.send(stream, piece.clone(), plain()).await.unwrap();
            assert!(client.queued_bytes() <= Limits::default().send_buffer_max);
        }
        client.finish(stream);
    });
    let mut received = 0;
    while received < 200 {
        let message = timeout(PATIENCE, next_message(&mut pair.server_events, &pair.server)).await.unwrap().unwrap();
        assert_eq!(message.len(), 1 << 20);
        received += 1;
    }
    sender.await.unwrap();
    let stats = pair.client.stats();
    assert!(stats.frames_sent >= 1600, "in frames of 128 KiB");
}

/// N6: the receiver's channel is full and nobody takes anything; the sender's memory stays bounded, pings go on.
#[tokio::test]
async fn a_server_that_takes_no_events_stops_the_sender_and_not_the_heartbeat() {
    let mut client = config(Side::Dialer);
    let mut server = config(Side::Acceptor);
    for config in [&mut client, &mut server] {
        config.ping_interval = Duration::from_millis(20);
        config.idle_timeout = Duration::from_secs(10);
    }
    let pair = pair(client, server).await;
    let stream = pair.client.open(StreamKind::Replication, Lane::Replication).unwrap();
    let mut sent = 0_usize;
    while pair.client.try_send(stream, vec![0; 4_000].into(), plain()) != Err(SendError::Full) || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        pair.client.send_capacity(stream) >= 4_000
    } {
        sent += 4_000;
        assert!(sent < 1 << 20, "the sender is never told to wait");
    }
    assert!(pair.server.stats().unconsumed_bytes <= 16 << 10);
    let before = pair.client.stats().frames_received;
    let pongs = async {
        while pair.client.stats().frames_received < before + 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, pongs).await.expect("heartbeats go on");
    assert!(pair.client.stats().rtt.is_some());
    let waiting = tokio::spawn({
        let client = pair.client.clone();
        async move { client.send(stream, vec![0; 4_000].into(), plain()).await }
    });
    // A waiting sender hears of the end.
    pair.client.close();
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), Err(SendError::ConnectionClosed));
}

#[test]
fn threads_without_tokio_send_consume_and_get_events_by_callback() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (to_test, from_server) = mpsc::channel();
    let (client, server) = runtime.block_on(async {
        let (listener, address) = listen(ListenerOptions::default()).await;
        let client_side = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ()));
        let (client, incoming) = tokio::join!(client_side, listener.accept());
        let sink = EventSink::callback(move |event| drop(to_test.send(event)));
        let server = incoming.unwrap().spawn(config(Side::Acceptor), sink).unwrap();
        let client = client.unwrap();
        client.ready().await.unwrap();
        (client, server)
    });
    // From here on this thread knows nothing of tokio. Far more than the windows hold goes through.
    let stream = client.open(StreamKind::Replication, Lane::Replication).unwrap();
    let (mut sent, mut received) = (0, 0);
    while received < 200 {
        while sent < 200 && client.try_send(stream, vec![sent; 4_000].into(), plain()).is_ok() {
            sent += 1;
        }
        let event = from_server.recv_timeout(PATIENCE).unwrap();
        if let Event::Message { stream, bytes, charge, .. } = event {
            assert_eq!(bytes, vec![received; 4_000]);
            received += 1;
            server.consumed(stream, charge);
        }
    }
}

#[tokio::test]
async fn the_last_handle_dropped_closes_the_connection_for_both() {
    let Pair { client, client_events, server, mut server_events } =
        pair(config(Side::Dialer), config(Side::Acceptor)).await;
    drop(client);
    let reason = timeout(PATIENCE, server.closed()).await.unwrap();
    assert_eq!(reason, ConnectionError::ClosedByPeer { code: GoAwayCode::CLOSED });
    let mut last = None;
    while let Some(event) = server_events.recv().await {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Closed { reason }));
    drop(client_events);
}

/// The peer's answers to a flood lie in the kernel, behind them the last word, and at the other end what the peer still says:
/// a socket that is closed then is reset, and what has not been sent yet is gone.
#[tokio::test]
async fn who_is_slow_to_read_and_still_speaks_hears_why_it_ends() {
    let (listener, address) = listen(ListenerOptions::default()).await;
    let wire = TcpSocket::new_v4().unwrap();
    wire.set_recv_buffer_size(4 << 10).unwrap();
    let (wire, incoming) = tokio::join!(wire.connect(address), listener.accept());
    let (mut wire, (one, mut near)) = (wire.unwrap(), tokio::io::duplex(1 << 20));
    let (sink, _events) = EventSink::channel(64);
    let server = incoming.unwrap().spawn(wide(Side::Acceptor), sink).unwrap();
    let client = driver::spawn(one, Side::Dialer, wide(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    let greeted = async { tokio::join!(client.ready(), server.ready()) };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut wire) => panic!("nobody closes"),
        _ = greeted => {}
    }
    let stream = server.open(StreamKind::Request, Lane::Request).unwrap();
    server.try_send(stream, vec![7; 64 << 10].into(), plain()).unwrap();
    let is_sent = async {
        while server.queued_bytes() > 0 {
            yield_now().await;
        }
    };
    timeout(PATIENCE, is_sent).await.unwrap();
    // It ends, and has no turn before more has come than it reads at a time.
    server.close();
    while wire.try_write(&[0; 64 << 10]).is_ok() {}
    let carry = async move {
        // An error is the end of the wire too.
        drop(tokio::io::copy_bidirectional(&mut near, &mut wire).await);
        drop(near);
    };
    let reason = timeout(PATIENCE, async { tokio::join!(client.closed(), carry).0 }).await.unwrap();
    assert_eq!(reason, ConnectionError::ClosedByPeer { code: GoAwayCode::CLOSED });
    assert_eq!(server.closed().await, ConnectionError::ClosedHere);
}

/// A server, and what keeps its peer there: it has greeted, and then nothing goes between them.
async fn greeted_and_silent(config: impl Fn(Side) -> ConnectionConfig) -> (ConnectionHandle, impl Sized) {
    let ((one, mut near), (mut far, other)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
    let server = driver::spawn(other, Side::Acceptor, config(Side::Acceptor), EventSink::callback(|_| ())).unwrap();
    let client = driver::spawn(one, Side::Dialer, config(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    let greeted = async { tokio::join!(client.ready(), server.ready()) };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => panic!("nobody closes"),
        _ = greeted => {}
    }
    (server, (client, near, far))
}

/// Whoever waits for the end dials again, or has another answer.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_silent_peer_is_not_waited_for() {
    let quiet = Duration::from_secs(10);
    let patient = |side| {
        let often = Duration::from_millis(20);
        ConnectionConfig { ping_interval: often, idle_timeout: quiet, ..config(side) }
    };
    let (server, _silent) = greeted_and_silent(patient).await;
    let cut = Instant::now();
    assert_eq!(server.closed().await, ConnectionError::IdleTimeout);
    assert!(cut.elapsed() < quiet + Duration::from_millis(500), "{:?}", cut.elapsed());
}

/// Its place, its memory and whoever waits for the end are not a peer's to keep.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_close_is_waited_for_a_second_and_one_that_was_told_nothing_not_at_all() {
    let (mut far, other) = tokio::io::duplex(1 << 16);
    let server = driver::spawn(other, Side::Acceptor, wide(Side::Acceptor), EventSink::callback(|_| ())).unwrap();
    let begun = Instant::now();
    far.write_all(&[0; 64]).await.unwrap();
    assert!(matches!(server.closed().await, ConnectionError::HeaderChecksum { .. }));
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());

    let (server, _silent) = greeted_and_silent(wide).await;
    let begun = Instant::now();
    server.close();
    server.closed().await;
    assert!((900..1100).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

/// Neither has room for its last word before the other reads.
#[tokio::test(start_paused = true)]
async fn two_that_end_at_once_with_much_on_its_way_do_not_wait_for_each_other() {
    let (one, other) = tokio::io::duplex(4 << 10);
    let server = driver::spawn(other, Side::Acceptor, wide(Side::Acceptor), EventSink::callback(|_| ())).unwrap();
    let client = driver::spawn(one, Side::Dialer, wide(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    client.ready().await.unwrap();
    server.ready().await.unwrap();
    let streams = [&client, &server].map(|side| side.open(StreamKind::Request, Lane::Request).unwrap());
    // So much that neither has sent all of it at any moment.
    let keeps_full = |side: &ConnectionHandle, stream| {
        while side.try_send(stream, vec![7; 64 << 10].into(), plain()).is_ok() {}
    };
    for _ in 0..20 {
        keeps_full(&client, streams[0]);
        keeps_full(&server, streams[1]);
        yield_now().await;
    }
    assert!(client.queued_bytes() > 0 && server.queued_bytes() > 0);
    let begun = Instant::now();
    client.close();
    server.close();
    tokio::join!(client.closed(), server.closed());
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

/// More events than are delivered at a time lie before the end, and the peer does not close.
#[tokio::test(start_paused = true)]
async fn the_own_side_hears_of_the_end_before_the_peer_does() {
    let ((one, mut near), (mut far, other)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
    let (hears, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut messages = 0;
    let sink = EventSink::callback_with_handle(move |handle, event| match event {
        Event::Message { .. } => {
            messages += 1;
            if messages == 1000 {
                handle.close();
            }
        }
        Event::Closed { .. } => hears.send(Instant::now()).unwrap(),
        _ => {}
    });
    let server = driver::spawn(other, Side::Acceptor, wide(Side::Acceptor), sink).unwrap();
    let client = driver::spawn(one, Side::Dialer, wide(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    let says = async {
        client.ready().await.unwrap();
        let stream = client.open(StreamKind::Request, Lane::Request).unwrap();
        for _ in 0..4000 {
            client.send(stream, "x".into(), plain()).await.unwrap();
        }
        while !server.is_closed() {
            yield_now().await;
        }
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => panic!("nobody closes"),
        () = says => {}
    }
    let begun = Instant::now();
    let told = heard.recv().await.unwrap();
    assert!(told.duration_since(begun) < Duration::from_millis(100), "{:?}", told.duration_since(begun));
    server.closed().await;
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_end_does_not_wait_for_events_that_nobody_takes() {
    let (one, other) = tokio::io::duplex(1 << 16);
    let (sink, mut events) = EventSink::channel(1);
    let server = driver::spawn(other, Side::Acceptor, config(Side::Acceptor), sink).unwrap();
    let client = driver::spawn(one, Side::Dialer, config(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    client.ready().await.unwrap();
    client.open(StreamKind::Request, Lane::Request).unwrap();
    client.close();
    timeout(PATIENCE, client.closed()).await.unwrap();
    timeout(PATIENCE, server.closed()).await.unwrap();
    // They are there all the same.
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Event::Closed { .. })), "{last:?}");
}

#[tokio::test]
async fn a_receiver_of_events_that_is_dropped_closes_the_connection() {
    let Pair { client, client_events, server, server_events } =
        pair(config(Side::Dialer), config(Side::Acceptor)).await;
    drop(server_events);
    // Whatever comes next shows that nobody listens.
    let stream = client.open(StreamKind::Request, Lane::Request).unwrap();
    client.try_send(stream, "x".into(), plain()).unwrap();
    assert!(timeout(PATIENCE, client.closed()).await.unwrap().is_orderly());
    assert_eq!(timeout(PATIENCE, server.closed()).await.unwrap(), ConnectionError::ClosedHere);
    drop(client_events);
}

#[tokio::test]
async fn a_panic_in_the_callback_ends_the_connection_and_nobody_waits_for_ever() {
    let (one, other) = tokio::io::duplex(1 << 16);
    let sink = EventSink::callback(|_| panic!("a callback that fails, by intention"));
    let client = driver::spawn(one, Side::Dialer, config(Side::Dialer), sink).unwrap();
    let server = driver::spawn(other, Side::Acceptor, config(Side::Acceptor), EventSink::callback(|_| ())).unwrap();
    assert_eq!(timeout(PATIENCE, client.closed()).await.unwrap(), ConnectionError::TransportEnded);
    timeout(PATIENCE, server.closed()).await.unwrap();
}

#[tokio::test]
async fn a_callback_gets_the_handle_with_its_first_event_and_does_not_keep_the_connection_open() {
    let (one, other) = tokio::io::duplex(1 << 16);
    let echo = EventSink::callback_with_handle(|handle, event| {
        if let Event::Message { stream, bytes, charge, .. } = event {
            handle.consumed(stream, charge);
            handle.try_send(stream, bytes, plain()).unwrap();
        }
    });
    let server = driver::spawn(other, Side::Acceptor, config(Side::Acceptor), echo).unwrap();
    let (sink, mut events) = EventSink::channel(8);
    let client = driver::spawn(one, Side::Dialer, config(Side::Dialer), sink).unwrap();
    client.ready().await.unwrap();
    let stream = client.open(StreamKind::Request, Lane::Request).unwrap();
    client.send(stream, "echo".into(), plain()).await.unwrap();
    assert_eq!(timeout(PATIENCE, next_message(&mut events, &client)).await.unwrap().unwrap(), "echo");
    drop(server);
    assert!(timeout(PATIENCE, client.closed()).await.unwrap().is_orderly());
}

/// N12.
#[tokio::test]
async fn a_refusal_reaches_the_dialer_with_both_ranges() {
    let (listener, address) = listen(ListenerOptions::default()).await;
    let mut client = config(Side::Dialer);
    client.protocol = ProtocolRange::new(2, 3);
    let client_side = driver::connect(address, client, EventSink::callback(|_| ()));
    let (client, incoming) = tokio::join!(client_side, listener.accept());
    let server = incoming.unwrap().spawn(config(Side::Acceptor), EventSink::callback(|_| ())).unwrap();
    let reason = client.unwrap().ready().await.unwrap_err();
    assert!(
        matches!(reason, ConnectionError::Refused { code: 3015, theirs: Some(theirs), .. } if theirs == ProtocolRange::new(1, 1)),
        "{reason:?}"
    );
    assert!(server.ready().await.is_err());
}

/// N15.
#[tokio::test]
async fn silent_strangers_are_cut_at_the_bound_and_their_places_are_free_again() {
    let (listener, address) =
        listen(ListenerOptions { connections_max: 10, pending_max: 2, ..ListenerOptions::default() }).await;
    let mut server = config(Side::Acceptor);
    server.hello_timeout = Duration::from_millis(50);
    let mut strangers = Vec::new();
    for _ in 0..2 {
        strangers.push(TcpStream::connect(address).await.unwrap());
    }
    let handles = [listener.accept().await.unwrap(), listener.accept().await.unwrap()]
        .map(|incoming| incoming.spawn(server, EventSink::callback(|_| ())).unwrap());
    for handle in &handles {
        assert_eq!(timeout(PATIENCE, handle.closed()).await.unwrap(), ConnectionError::HelloTimeout);
    }
    let mut rest = Vec::new();
    strangers[0].read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "a stranger hears nothing");
    // An honest one after them.
    let client_side = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ()));
    let (client, incoming) = tokio::join!(client_side, listener.accept());
    let _server = incoming.unwrap().spawn(config(Side::Acceptor), EventSink::callback(|_| ())).unwrap();
    client.unwrap().ready().await.unwrap();
}

#[tokio::test]
async fn over_its_bound_a_listener_refuses_as_busy_and_goes_on() {
    let (listener, address) =
        listen(ListenerOptions { connections_max: 1, pending_max: 1, ..ListenerOptions::default() }).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let held = listener.accept().await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    let accepting = tokio::spawn(async move {
        let incoming = listener.accept().await.unwrap();
        (incoming.peer_addr(), listener.stats().refused)
    });
    let mut answer = Vec::new();
    second.read_to_end(&mut answer).await.unwrap();
    let HelloAck::Refusal(refusal) = HelloAck::decode(&answer[24..]).unwrap() else { panic!("a refusal") };
    assert_eq!(refusal.code, ConnectionError::Busy.code());
    drop(held);
    first.write_all(b"closed by now").await.ok();
    let third = TcpStream::connect(address).await.unwrap();
    let (peer, refused) = timeout(PATIENCE, accepting).await.unwrap().unwrap();
    assert_eq!((peer, refused), (third.local_addr().unwrap(), 1));
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_an_error_with_the_address() {
    let (listener, address) = listen(ListenerOptions::default()).await;
    drop(listener);
    let error = driver::connect(address, config(Side::Dialer), EventSink::callback(|_| ())).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {address}"));
}

#[tokio::test]
async fn a_cancelled_send_has_queued_nothing() {
    let mut pair = pair(config(Side::Dialer), config(Side::Acceptor)).await;
    let stream = pair.client.open(StreamKind::Replication, Lane::Replication).unwrap();
    let mut queued = 0;
    // The server holds all credit: sooner or later a send waits, and is dropped while it does.
    while timeout(Duration::from_millis(50), pair.client.send(stream, vec![7; 4_000].into(), plain())).await.is_ok() {
        queued += 1;
    }
    pair.client.finish(stream);
    let mut received = 0;
    loop {
        match timeout(PATIENCE, pair.server_events.recv()).await.unwrap() {
            Some(Event::Message { stream, charge, .. }) => {
                received += 1;
                pair.server.consumed(stream, charge);
            }
            Some(Event::Finished { .. }) => break,
            Some(_) => {}
            None => panic!("the connection ended"),
        }
    }
    assert_eq!(received, queued);
}

/// A byte stream that counts how often somebody looks for bytes to read.
struct Counted {
    io: DuplexStream,
    looks: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A refused message once woke the task, which offered room to the sender, who was refused again: both ran for as long as
/// the peer took nothing.
#[tokio::test]
async fn a_sender_that_waits_for_room_keeps_nobody_busy() {
    let (io, far) = tokio::io::duplex(1 << 12);
    let looks = Arc::new(AtomicUsize::new(0));
    let (sink, _nobody_takes_them) = EventSink::channel(1);
    let _server = driver::spawn(far, Side::Acceptor, config(Side::Acceptor), sink).unwrap();
    let counted = Counted { io, looks: Arc::clone(&looks) };
    let client = driver::spawn(counted, Side::Dialer, config(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    client.ready().await.unwrap();
    let stream = client.open(StreamKind::Replication, Lane::Replication).unwrap();
    let sending = client.clone();
    let sender =
        tokio::spawn(async move { while sending.send(stream, vec![0; 4000].into(), plain()).await.is_ok() {} });
    let quiet = async {
        let mut rounds = 0;
        loop {
            let (before, refused) = (looks.load(Ordering::Relaxed), client.stats().sends_refused);
            for _ in 0..1000 {
                yield_now().await;
            }
            rounds += 1;
            let seen = looks.load(Ordering::Relaxed) - before;
            if refused > 0 && seen < 100 {
                return;
            }
            assert!(rounds < 20, "{seen} looks in a thousand turns of the scheduler, and nothing to do");
        }
    };
    timeout(PATIENCE, quiet).await.unwrap();
    sender.abort();
}

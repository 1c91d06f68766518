//! Thousands of peers that mean no good, over real sockets: what they cost in memory, that each is cut in time and for
//! the right reason, and that an honest one beside them goes on (N6, N7, N9, N15).
//!
//! A program of its own, since it counts all that its process allocates. The attackers are plain sockets of the standard
//! library, which allocate nothing, so what is counted is the server's.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
#![expect(clippy::disallowed_methods, reason = "real sockets, in real time")]

mod attacks;
#[cfg(feature = "tls")]
#[expect(unreachable_pub, reason = "what examples of the documentation include has names of its own there")]
#[path = "doc/authority.rs"]
mod authority;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Builder;
use tokio::time::timeout;
use towline_net::driver::{self, ConnectionHandle, EventReceiver, EventSink, Listener, ListenerOptions, ListenerStats};
use towline_net::frame::FrameHeader;
use towline_net::{
    Connection, ConnectionConfig, ConnectionError, Event, Lane, Limits, SendFlags, Side, StreamId, StreamKind,
};

use attacks::{Attack, LIMITS, hello};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tests of one process would count each other, the making and the end of their runtimes included.
static ALONE: Mutex<()> = Mutex::new(());

fn alone<R>(runtime: &mut Builder, test: impl Future<Output = R>) -> R {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(test)
}

fn two_workers() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2);
    builder
}

const PATIENCE: Duration = Duration::from_secs(20);
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a stranger may cost by itself: a quarter of what the bar says, so that TLS below it has room.
const STRANGER_BYTES_MAX: u64 = 16 << 10;

/// Bytes that the process has allocated and not given back.
fn held() -> u64 {
    let stats = ALLOCATOR.stats();
    // A growth in place counts among the bytes allocated, and a second time among those reallocated.
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated) as u64
}

fn config(side: Side) -> ConnectionConfig {
    ConnectionConfig {
        hello_timeout: HELLO_TIMEOUT,
        ping_interval: IDLE_TIMEOUT / 3,
        idle_timeout: IDLE_TIMEOUT,
        ..attacks::config(side)
    }
}

/// Takes whoever comes, and sends back what they say.
async fn serve(listener: Arc<Listener>) {
    loop {
        let incoming = listener.accept().await.unwrap();
        let echo = EventSink::callback_with_handle(|handle, event| {
            if let Event::Message { stream, bytes, charge, .. } = event {
                handle.consumed(stream, charge);
                handle.try_send(stream, bytes, SendFlags::default()).ok();
            }
        });
        let handle = incoming.spawn(config(Side::Acceptor), echo).unwrap();
        tokio::spawn(async move { handle.closed().await });
    }
}

/// An honest client that asks one question after the other.
struct Honest {
    handle: ConnectionHandle,
    events: EventReceiver,
    stream: StreamId,
}

impl Honest {
    async fn connect(address: SocketAddr) -> Self {
        let (sink, events) = EventSink::channel(16);
        let mut patient = config(Side::Dialer);
        // It is not the one that is tested: a machine that is busy elsewhere must not end it.
        (patient.hello_timeout, patient.idle_timeout) = (PATIENCE, PATIENCE);
        let handle = driver::connect(address, patient, sink).await.unwrap();
        handle.ready().await.unwrap();
        let stream = handle.open(StreamKind::Request, Lane::Request).unwrap();
        Self { handle, events, stream }
    }

    async fn ask(&mut self) {
        self.handle.send(self.stream, Bytes::from_static(&[7; 1000]), SendFlags::default()).await.unwrap();
        loop {
            match timeout(PATIENCE, self.events.recv()).await.unwrap() {
                Some(Event::Message { stream, charge, .. }) => return self.handle.consumed(stream, charge),
                Some(Event::Closed { reason }) => panic!("an honest client was cut off: {reason}"),
                Some(_) => {}
                None => panic!("no answer"),
            }
        }
    }

    /// Questions answered in a second.
    async fn rate(&mut self, within: Duration) -> f64 {
        let (begin, mut count) = (Instant::now(), 0_u32);
        while begin.elapsed() < within {
            self.ask().await;
            count += 1;
        }
        f64::from(count) / begin.elapsed().as_secs_f64()
    }
}

fn over(stats: &ListenerStats) -> u64 {
    stats.handshakes_failed.total() + stats.ended.total()
}

async fn listen(options: ListenerOptions) -> (Arc<Listener>, SocketAddr) {
    let listener = Arc::new(Listener::bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(Arc::clone(&listener)));
    (listener, address)
}

/// 1,980 attackers in all, which are 3,960 descriptors.
const OF_EACH: usize = 220;

const EVERYBODY: ListenerOptions = ListenerOptions {
    connections_max: 1 << 14,
    pending_max: 1 << 14,
    address_connections_max: 1 << 14,
    address_pending_max: 1 << 14,
};

#[test]
fn two_thousand_attackers_are_cut_in_time_by_name_and_cost_what_was_stated() {
    let share = alone(&mut two_workers(), siege());
    // How much of it is a figure, and `make bench-net ARGS=--flood` measures it.
    assert!(share > 0.0, "an honest client beside them is served");
}

/// Lets them all come, looks that they are cut in time, for the right reasons and at the stated price, and says what share
/// of its throughput an honest client kept.
async fn siege() -> f64 {
    let (listener, address) = listen(EVERYBODY).await;
    let mut honest = Honest::connect(address).await;
    honest.rate(Duration::from_millis(100)).await;
    let before = held();
    let by_themselves = honest.rate(Duration::from_millis(300)).await;

    let stop = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let scripts = Attack::ALL.map(|attack| (attack, attack.bytes()));
            let mut sockets = Vec::with_capacity(OF_EACH * scripts.len());
            for (attack, bytes) in scripts.iter().cycle().take(OF_EACH * scripts.len()) {
                let mut socket = TcpStream::connect(address).unwrap();
                socket.set_nonblocking(true).unwrap();
                // The server may have closed before the last byte.
                socket.write_all(bytes).ok();
                sockets.push((*attack, socket));
            }
            let hello = hello();
            for byte in hello[1..].iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                for (_, socket) in sockets.iter_mut().filter(|(attack, _)| *attack == Attack::Drip) {
                    socket.write_all(&[*byte]).ok();
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    // While they come, while they sit there, until the last is cut.
    let attackers = (OF_EACH * Attack::ALL.len()) as u64;
    let (begin, mut most, mut last_came) = (Instant::now(), 0, Duration::ZERO);
    let mut rates = Vec::new();
    while over(&listener.stats()) < attackers {
        assert!(begin.elapsed() < PATIENCE, "{:?}", listener.stats());
        rates.push(honest.rate(Duration::from_millis(50)).await);
        most = held().saturating_sub(before).max(most);
        if listener.stats().accepted <= attackers {
            last_came = begin.elapsed();
        }
    }
    let took = begin.elapsed();
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();

    let stats = listener.stats();
    for attack in Attack::ALL {
        let (code, is_greeted) = attack.code();
        let counts = if is_greeted { stats.ended } else { stats.handshakes_failed };
        let expected = Attack::ALL.iter().filter(|other| other.code() == attack.code()).count() * OF_EACH;
        assert_eq!(counts.of(code), expected as u64, "{attack:?}: {stats:?}");
    }
    assert_eq!((stats.connections, stats.pending), (1, 0), "the honest one is left");
    let bound = last_came + HELLO_TIMEOUT.max(IDLE_TIMEOUT) + Duration::from_secs(3);
    assert!(took < bound, "cut within their bound: {took:?} of {bound:?}");
    // Those that fill their windows cost twice these in messages and as much to read into, all others what a stranger costs.
    let stated = attackers * STRANGER_BYTES_MAX + 2 * OF_EACH as u64 * 4 * LIMITS.connection_window;
    assert!(most <= stated, "{most} bytes held, stated are {stated}");

    rates.sort_by(f64::total_cmp);
    let (median, share) = (rates[rates.len() / 2], rates[rates.len() / 2] / by_themselves);
    println!(
        "{attackers} attackers, the last after {last_came:.1?}, all cut after {took:.1?}; {} KiB held at most; \
         an honest client: {by_themselves:.0} questions a second alone, {median:.0} beside them ({:.0} %)",
        most >> 10,
        share * 100.0
    );
    share
}

/// N15. With the defaults, one address: its strangers have the places of one address and not one more, all others are
/// turned away at once, and a neighbour comes in.
#[test]
fn three_thousand_silent_connections_of_one_address_leave_room_for_a_neighbour() {
    alone(&mut two_workers(), async {
        let (listener, address) = listen(ListenerOptions::default()).await;
        let most = ListenerOptions::default().address_pending_max as u64;
        let before = held();
        let flood =
            std::thread::spawn(move || (0..3000).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>());
        let neighbour = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        neighbour.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
        neighbour.connect(&address.into()).unwrap();
        let mut neighbour = TcpStream::from(neighbour);
        neighbour.write_all(&hello()).unwrap();
        neighbour.set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            let mut header = [0; 24];
            neighbour.read_exact(&mut header).map(|()| (header, neighbour))
        });
        let (header, _neighbour) = answer.await.unwrap().unwrap();
        let header = FrameHeader::decode(&header, 0).unwrap();
        assert!(header.length > 100, "a welcome, no refusal");

        let mut silent = flood.join().unwrap();
        let begin = Instant::now();
        while listener.stats().accepted + listener.stats().refused < 3001 {
            assert!(begin.elapsed() < PATIENCE, "{:?}", listener.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(listener.stats().pending <= most);
            assert!(held().saturating_sub(before) <= most * STRANGER_BYTES_MAX + (1 << 20));
        }
        let stats = listener.stats();
        assert!(stats.refused_address_pending > 0, "{stats:?}");
        assert_eq!(stats.refused, stats.refused_address_pending, "{stats:?}");
        // The last of them was turned away in so many words, or cut.
        let mut answer = Vec::new();
        let last = silent.last_mut().unwrap();
        last.set_read_timeout(Some(PATIENCE)).unwrap();
        last.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty() || answer.len() == 24 + 8 + 4 + 6, "{answer:?}");
        while listener.stats().pending > 0 {
            assert!(begin.elapsed() < PATIENCE, "{:?}", listener.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stats = listener.stats();
        assert_eq!(stats.handshakes_failed.of(ConnectionError::HelloTimeout.code()), stats.handshakes_failed.total());
    });
}

/// P7. A process out of descriptors accepts nobody, and is back as soon as it has one: who waits in the kernel meanwhile
/// gets in.
#[test]
fn a_listener_out_of_descriptors_says_so_and_goes_on_when_there_are_some() {
    alone(&mut two_workers(), async {
        let (listener, address) = listen(ListenerOptions::default()).await;
        // Made before, so that it needs none.
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let mut all = Vec::with_capacity(1 << 15);
        while all.len() < all.capacity()
            && let Ok(file) = std::fs::File::open("/dev/null")
        {
            all.push(file);
        }
        if all.len() == all.capacity() {
            println!("there are more descriptors than this test wants to use up");
            return;
        }
        client.connect(&address.into()).unwrap();
        let begin = Instant::now();
        while listener.stats().failed == 0 {
            assert!(begin.elapsed() < PATIENCE, "{:?}", listener.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It waits between two attempts: a system that is short of something is not also kept busy.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let stats = listener.stats();
        assert!(stats.accepted == 0 && stats.failed <= 20, "{stats:?}");
        drop(all);
        let mut client = TcpStream::from(client);
        client.write_all(&hello()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut header = [0; 24];
        tokio::task::spawn_blocking(move || client.read_exact(&mut header)).await.unwrap().unwrap();
        let stats = listener.stats();
        assert_eq!((stats.accepted, stats.greeted), (1, 1));
    });
}

/// The clock of a test that moves it goes on only when no task has anything to do.
async fn all_are_idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// N15, without sockets, of which a process may not have as many: the driver over pipes, in a time that only the test
/// moves.
#[test]
fn ten_thousand_connections_that_say_half_a_hello_cost_little_each_and_end_at_the_bound() {
    alone(Builder::new_current_thread().start_paused(true), async {
        const STRANGERS: usize = 10_000;
        let hello = hello();
        let mut pipes = Vec::with_capacity(STRANGERS);
        let mut servers = Vec::with_capacity(STRANGERS);
        // A pipe holds what was not read; this is what it costs by itself.
        let before_pipes = held();
        for _ in 0..STRANGERS {
            pipes.push(tokio::io::duplex(256));
        }
        let before = held();
        let pipe_bytes = (before - before_pipes) / STRANGERS as u64;
        let mut strangers = Vec::with_capacity(STRANGERS);
        for (ours, theirs) in pipes {
            servers.push(
                driver::spawn(ours, Side::Acceptor, config(Side::Acceptor), EventSink::callback(|_| ())).unwrap(),
            );
            strangers.push(theirs);
        }
        for stranger in &mut strangers {
            tokio::io::AsyncWriteExt::write_all(stranger, &hello[..hello.len() - 1]).await.unwrap();
        }
        all_are_idle().await;
        let each = (held() - before) / STRANGERS as u64;
        println!("a stranger costs {each} bytes, beside {pipe_bytes} of its pipe");
        assert!(each <= STRANGER_BYTES_MAX, "{each} bytes for a stranger");
        let begin = tokio::time::Instant::now();
        for server in &servers {
            assert_eq!(server.closed().await, ConnectionError::HelloTimeout);
        }
        assert!(begin.elapsed() <= HELLO_TIMEOUT + Duration::from_millis(100), "{:?}", begin.elapsed());
        drop((servers, strangers));
        all_are_idle().await;
        let left = held().saturating_sub(before_pipes) / STRANGERS as u64;
        assert!(left < 256, "{left} bytes of each are still there");
    });
}

/// As many strangers as a listener takes by default, each with the longest Hello there is but its last byte, in one piece:
/// what the documentation of `ListenerOptions` says that they cost.
#[test]
fn all_strangers_together_cost_what_is_stated_also_with_the_longest_hello() {
    alone(Builder::new_current_thread().start_paused(true), async {
        let strangers = ListenerOptions::default().pending_max;
        let almost = longest_hello_but_one_byte();
        let mut pipes = Vec::with_capacity(strangers);
        let mut servers = Vec::with_capacity(strangers);
        for _ in 0..strangers {
            let (ours, mut theirs) = tokio::io::duplex(8192);
            // Before anything is counted: what lies in a pipe would lie in the kernel.
            tokio::io::AsyncWriteExt::write_all(&mut theirs, &almost).await.unwrap();
            pipes.push((Some(ours), theirs));
        }
        let before = held();
        for (ours, _) in &mut pipes {
            let (ours, sink) = (ours.take().unwrap(), EventSink::callback(|_| ()));
            servers.push(driver::spawn(ours, Side::Acceptor, config(Side::Acceptor), sink).unwrap());
        }
        all_are_idle().await;
        let all = held() - before;
        println!("{strangers} strangers with the longest Hello: {} KiB each", (all / strangers as u64) >> 10);
        assert!(all <= 17 << 20, "{all} bytes");
        assert!(servers.iter().all(|server| server.stats().bytes_received == almost.len() as u64));
    });
}

fn longest_hello_but_one_byte() -> Vec<u8> {
    let payload = [config(Side::Dialer).hello().encode(), vec![0xff, 0xee, 0xff, 0xff]].concat();
    let header = FrameHeader { length: 4096, ..FrameHeader::for_payload(1, &payload, 0) };
    [&header.encode(0)[..], &payload, &vec![0; 4095 - payload.len()]].concat()
}

/// The connection by itself, whatever drives it.
#[test]
fn a_connection_by_itself_keeps_no_more_than_a_hello_before_the_handshake_is_over() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const STRANGERS: usize = 2_000;
    let almost = longest_hello_but_one_byte();
    let mut connections = Vec::with_capacity(STRANGERS);
    let before = held();
    for _ in 0..STRANGERS {
        let mut connection = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
        for byte in almost.chunks(1) {
            connection.receive(Duration::ZERO, byte).unwrap();
        }
        connections.push(connection);
    }
    let each = (held() - before) / STRANGERS as u64;
    println!("the longest Hello but its last byte, byte by byte: {each} bytes");
    assert!(each <= 2 * 4096, "{each} bytes");
}

/// A connection kept the 256 KiB to which its first large message had made it grow, for as long as it lived.
#[test]
fn what_a_burst_made_a_connection_grow_to_is_given_back_when_it_is_idle() {
    alone(Builder::new_current_thread().start_paused(true), async {
        const PIPE_BYTES: usize = 1 << 16;
        let wide = |side| ConnectionConfig { limits: Limits::DEFAULT, ..config(side) };
        let (one, other) = tokio::io::duplex(PIPE_BYTES);
        let consumer = EventSink::callback_with_handle(|handle, event| {
            if let Event::Message { stream, charge, .. } = event {
                handle.consumed(stream, charge);
            }
        });
        let server = driver::spawn(other, Side::Acceptor, wide(Side::Acceptor), consumer).unwrap();
        let client = driver::spawn(one, Side::Dialer, wide(Side::Dialer), EventSink::callback(|_| ())).unwrap();
        client.ready().await.unwrap();
        let stream = client.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
        tokio::time::sleep(IDLE_TIMEOUT).await;
        let before = held();
        let mut most = 0;
        for _ in 0..8 {
            client.send(stream, vec![7; 1 << 20].into(), SendFlags::default()).await.unwrap();
            all_are_idle().await;
            most = held().saturating_sub(before).max(most);
        }
        for _ in 0..10_000 {
            client.send(stream, Bytes::new(), SendFlags::default()).await.unwrap();
        }
        all_are_idle().await;
        assert_eq!(server.stats().messages_received, 10_008);
        // Some heartbeats.
        tokio::time::sleep(2 * IDLE_TIMEOUT).await;
        assert!(!client.is_closed() && !server.is_closed());
        let left = held().saturating_sub(before);
        println!("a burst: {} KiB; of both ends are left {left} bytes", most >> 10);
        assert!(most >= 128 << 10, "{most} bytes: it was no burst");
        assert!(left <= PIPE_BYTES as u64 + (16 << 10), "{left} bytes are still there, those of the pipe among them");
    });
}

/// What a stranger costs within TLS, before anybody is known: rustls' own, and what the driver's Hello costs comes after it.
#[cfg(feature = "tls")]
mod over_tls {
    use super::*;

    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use towline_net::driver::tls::{self, Credentials};

    use crate::authority::Authority;

    const STRANGERS: usize = 300;
    const PIPE_BYTES: usize = 1 << 17;
    /// 64 KiB of a message in parts, which is rustls' bound, and its session.
    const TLS_STRANGER_BYTES_MAX: u64 = 70 << 10;

    fn credentials(authority: &Authority, name: &str) -> Credentials {
        let (certificate, key) = authority.issue(name);
        Credentials { chain: vec![certificate], key, roots: vec![authority.root()] }
    }

    fn records(message: &[u8]) -> Vec<u8> {
        let record = |piece: &[u8]| {
            let [high, low] = [(piece.len() >> 8) as u8, piece.len() as u8];
            [&[0x16, 3, 1, high, low][..], piece].concat()
        };
        message.chunks(1 << 14).flat_map(record).collect()
    }

    /// A ClientHello of so many bytes, but the last of them.
    fn unfinished_client_hello(length: u16) -> Vec<u8> {
        let [high, low] = [(length >> 8) as u8, length as u8];
        let mut message = vec![1, 0, high, low];
        message.resize(4 + usize::from(length) - 1, 0x5a);
        records(&message)
    }

    /// A pipe through which as much has gone as ever will, so that its memory does not count.
    async fn used_pipe() -> (DuplexStream, DuplexStream) {
        let (mut one, mut other) = tokio::io::duplex(PIPE_BYTES);
        let mut all = vec![0; PIPE_BYTES];
        for _ in 0..2 {
            one.write_all(&all).await.unwrap();
            other.read_exact(&mut all).await.unwrap();
            (one, other) = (other, one);
        }
        (one, other)
    }

    /// Bytes that each of the strangers costs the accepting side who do that with their end of the pipe.
    async fn each_costs(authority: &Authority, stranger: impl AsyncFn(&mut DuplexStream)) -> u64 {
        let server = credentials(authority, "server.test").server_config().unwrap();
        let mut pipes = Vec::with_capacity(STRANGERS);
        for _ in 0..STRANGERS {
            pipes.push(used_pipe().await);
        }
        let (mut theirs, mut accepting) = (Vec::with_capacity(STRANGERS), Vec::with_capacity(STRANGERS));
        let before = held();
        for (ours, other) in pipes {
            accepting.push(tokio::spawn(tls::accept(ours, Arc::clone(&server), HELLO_TIMEOUT)));
            theirs.push(other);
        }
        for other in &mut theirs {
            stranger(other).await;
        }
        all_are_idle().await;
        let each = held().saturating_sub(before) / STRANGERS as u64;
        assert!(accepting.iter().all(|task| !task.is_finished()), "none was refused so far: all of it is held");
        for accepted in accepting {
            assert!(matches!(accepted.await.unwrap(), Err(tls::TlsError::Timeout)), "cut at the bound");
        }
        each
    }

    /// N15. Silent ones, those that stop after a ClientHello, with the longest of all messages, and with a certificate as
    /// long as may be, once both sides have keys.
    #[test]
    fn a_stranger_within_tls_costs_what_is_stated() {
        alone(Builder::new_current_thread().start_paused(true), async {
            let authority = Authority::new();
            let silent = each_costs(&authority, async |_| ()).await;
            let longest = unfinished_client_hello(65_500);
            let first = each_costs(&authority, async |pipe| pipe.write_all(&longest).await.unwrap()).await;

            let mut many = credentials(&authority, "client.test");
            let certificate = many.chain[0].clone();
            many.chain.resize(60_000 / certificate.len(), certificate);
            let many = many.client_config().unwrap();
            let late = each_costs(&authority, async |pipe| {
                let mut client = ClientConnection::new(Arc::clone(&many), "server.test".try_into().unwrap()).unwrap();
                let mut said = Vec::new();
                client.write_tls(&mut said).unwrap();
                pipe.write_all(&said).await.unwrap();
                while client.is_handshaking() {
                    let mut answer = [0; 4096];
                    let count = pipe.read(&mut answer).await.unwrap();
                    client.read_tls(&mut &answer[..count]).unwrap();
                    client.process_new_packets().unwrap();
                }
                said.clear();
                while client.wants_write() {
                    client.write_tls(&mut said).unwrap();
                }
                // All of the certificates but the end of their last record.
                let most = said.len().min(60_000) - 1000;
                pipe.write_all(&said[..most]).await.unwrap();
            });
            let late = late.await;

            let nobody = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            let nobody = Arc::new(nobody);
            let hello = each_costs(&authority, async |pipe| {
                let mut client = ClientConnection::new(Arc::clone(&nobody), "server.test".try_into().unwrap()).unwrap();
                let mut said = Vec::new();
                client.write_tls(&mut said).unwrap();
                pipe.write_all(&said).await.unwrap();
            });
            let hello = hello.await;
            println!("within TLS a stranger costs: {silent} bytes silent, {hello} after a ClientHello,");
            println!("{first} with the longest ClientHello, {late} with the longest certificates");
            for each in [silent, hello, first, late] {
                assert!(each <= TLS_STRANGER_BYTES_MAX, "{each} bytes");
                assert!(each * ListenerOptions::default().pending_max as u64 <= 64 << 20, "{each} bytes, together");
            }
        });
    }
}

//! What an honest client keeps of its throughput beside strangers by the thousands that mean no good, what they cost in memory,
//! and as what they are counted. The strangers are another process: this one's heap is the server's and the honest client's.

use crate::Run;
use crate::attacks::{self, Attack};
use crate::clock;
use crate::heap;
use crate::sample::{latencies, median, micros, record};
use crate::table::{Cell, Table, progress};
use crate::wire::{Authority, Ends};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use towline_net::driver::tls::{Endpoint, Peer};
use towline_net::driver::{self, ConnectionHandle, EventSink, Listener, ListenerOptions, ListenerStats};
use towline_net::{ConnectionConfig, Event, Lane, SendFlags, Side, StreamKind};

const QUESTION_BYTES: usize = 1000;
/// Questions of the honest client that wait for their answers.
const IN_FLIGHT: usize = 8;
/// What it may take until the last stranger is cut: the handshake's bound, and much more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between the last stranger and the next question: sockets are closed by the thousands.
const SETTLE: Duration = Duration::from_millis(500);
/// Files of this process beside the strangers' sockets.
const FILES_BESIDE: u64 = 200;

/// What the strangers of a row do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stranger {
    Plain(Attack),
    /// Silence, measured when all of them have come and nobody is cut.
    Sitting,
    /// Silence, at a listener with the bounds that it has by default.
    Bounded,
    TlsSilence,
    /// A ClientHello; the server's answer is not read.
    TlsHello,
    /// The longest message of a handshake that there is, but its last byte.
    TlsLongest,
}

impl Stranger {
    fn all() -> Vec<Self> {
        let plain = Attack::ALL.into_iter().map(Self::Plain);
        plain.chain([Self::Sitting, Self::Bounded, Self::TlsSilence, Self::TlsHello, Self::TlsLongest]).collect()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plain(Attack::Silence) => "silence",
            Self::Plain(Attack::GiantLength) => "a giant length",
            Self::Plain(Attack::Drip) => "a byte a second",
            Self::Plain(Attack::BadChecksum) => "a bad checksum",
            Self::Plain(Attack::Garbage) => "garbage",
            Self::Plain(Attack::HalfHello) => "half a Hello",
            Self::Plain(Attack::Overrun) => "more than was granted",
            Self::Plain(Attack::Streams) => "more streams than were granted",
            Self::Plain(Attack::FullWindow) => "windows filled, nothing ended",
            Self::Sitting => "silence, while all of them sit there",
            Self::Bounded => "silence, with the default bounds",
            Self::TlsSilence => "TLS: silence",
            Self::TlsHello => "TLS: a ClientHello, and silence",
            Self::TlsLongest => "TLS: the longest ClientHello but a byte",
        }
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::TlsSilence | Self::TlsHello | Self::TlsLongest)
    }

    fn bytes(self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Plain(attack) => attack.bytes(),
            Self::Sitting | Self::Bounded | Self::TlsSilence => Vec::new(),
            Self::TlsHello => client_hello()?,
            Self::TlsLongest => longest_client_hello(),
        })
    }
}

fn client_hello() -> Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), "server.test".try_into()?)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

/// As long as what rustls keeps of a message in parts, 65,535 bytes with the headers of its records, lets it be.
fn longest_client_hello() -> Vec<u8> {
    const LENGTH: u16 = 65_500;
    let [high, low] = [(LENGTH >> 8) as u8, LENGTH as u8];
    let mut message = vec![1, 0, high, low];
    message.resize(4 + usize::from(LENGTH) - 1, 0x5a);
    let records = message.chunks(1 << 14);
    records.flat_map(|piece| [&[0x16, 3, 1, (piece.len() >> 8) as u8, piece.len() as u8][..], piece].concat()).collect()
}

/// The strangers of a row, in a process of their own: they come, say what they have to say, and stay until the other process
/// closes the pipe. Who drips says a byte of a Hello each second.
pub(crate) fn come(row: &str, at: SocketAddr, strangers: usize, arrivals: u32) -> Result<()> {
    all_files()?;
    let stranger = Stranger::all().into_iter().find(|stranger| stranger.name() == row).context("no such row")?;
    let drips = stranger == Stranger::Plain(Attack::Drip);
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::Builder::new().name("over".into()).spawn(move || {
        // Closed, or broken: either way it is over.
        let _end = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    })?;
    let (bytes, hello) = (stranger.bytes()?, attacks::hello());
    let mut sockets = Vec::with_capacity(strangers);
    let (begin, mut dripped) = (clock::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(arrivals)) as usize;
        while sockets.len() < due.min(strangers) {
            let mut socket = TcpStream::connect(at)?;
            socket.set_nonblocking(true)?;
            // The server may have closed before the last byte.
            let _cut = socket.write_all(&bytes);
            sockets.push(socket);
        }
        let second = begin.elapsed().as_secs() as usize;
        if drips && second > dripped {
            dripped = second;
            for socket in &mut sockets {
                let _cut = socket.write_all(hello.get(second..=second).unwrap_or_default());
            }
        }
        clock::pass(Duration::from_millis(if sockets.len() < strangers { 2 } else { 50 }));
    }
    Ok(())
}

/// Raises this process's limit on open files as far as it may; tells how many there are.
fn all_files() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// One row of one round.
struct Measured {
    alone: Histogram<u64>,
    beside: Histogram<u64>,
    alone_rate: f64,
    beside_rate: f64,
    heap: i64,
    stats: ListenerStats,
}

/// Prints one table, a row for each thing that strangers do.
pub(crate) fn measure(run: &Run) -> Result<()> {
    let files = all_files()?;
    let strangers = run.strangers.min(usize::try_from(files.saturating_sub(FILES_BESIDE))?);
    let columns = [
        "strangers",
        "calls/s alone",
        "beside",
        "of alone",
        "lowest",
        "p99 us alone",
        "beside",
        "of alone",
        "heap MiB",
        "KiB each",
        "counted as (code: how many)",
    ];
    let title = format!("an honest client beside {strangers} strangers, {} a second", run.arrivals);
    let mut table = Table::new(title, &columns);
    for stranger in Stranger::all() {
        if !run.wants(stranger.name()) {
            continue;
        }
        let mut rounds = Vec::new();
        for round in 0..run.rounds {
            progress(&format!("flood, {}, round {}", stranger.name(), round + 1));
            clock::await_calm(run.pace.patience)?;
            rounds.push(round_of(run, stranger, strangers)?);
        }
        let Some(last) = rounds.last() else { continue };
        let p99 = |histogram: &Histogram<u64>| micros(histogram, 0.99);
        let shares = || rounds.iter().map(|round| round.beside_rate / round.alone_rate);
        let heap = rounds.iter().map(|round| round.heap).max().unwrap_or(0) as f64;
        table.row([
            Cell::from(stranger.name()),
            Cell::Number(median(rounds.iter().map(|round| round.alone_rate)), 0),
            Cell::Number(median(rounds.iter().map(|round| round.beside_rate)), 0),
            Cell::Number(median(shares()), 2),
            Cell::Number(shares().fold(f64::MAX, f64::min), 2),
            Cell::Number(median(rounds.iter().map(|round| p99(&round.alone))), 0),
            Cell::Number(median(rounds.iter().map(|round| p99(&round.beside))), 0),
            Cell::Number(median(rounds.iter().map(|round| p99(&round.beside) / p99(&round.alone))), 2),
            Cell::Number(heap / f64::from(1 << 20), 1),
            Cell::Number(heap / 1024.0 / strangers as f64, 1),
            Cell::from(reasons(&last.stats)),
        ]);
    }
    table.note(format!(
        "Questions of {QUESTION_BYTES} bytes and their echo, {IN_FLIGHT} in flight. Heap: the most, over what there was alone. \
         One process serves and asks, another one holds the strangers' sockets: three busy threads."
    ));
    table.print(run.json);
    Ok(())
}

fn reasons(stats: &ListenerStats) -> String {
    let mut parts: Vec<String> =
        stats.handshakes_failed.iter().map(|(code, count)| format!("{code}: {count}")).collect();
    parts.extend(stats.ended.iter().map(|(code, count)| format!("{code}: {count}")));
    if stats.refused > 0 {
        parts.push(format!("no place: {}", stats.refused));
    }
    if stats.pending > 0 {
        parts.push(format!("pending: {}", stats.pending));
    }
    parts.join(", ")
}

/// The strangers' process; it ends when its pipe does.
struct Strangers(Child);

impl Strangers {
    fn start(run: &Run, row: Stranger, at: SocketAddr, strangers: usize) -> Result<Self> {
        // At the lowest priority: strangers have processors of their own. What the server spends on them counts, what they spend does not.
        let child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .args(["--stranger", row.name(), "--at", &at.to_string()])
            .args(["--strangers", &strangers.to_string(), "--arrivals", &run.arrivals.to_string()])
            .stdin(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        ensure!(self.0.wait()?.success(), "the strangers' process failed");
        Ok(())
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        // Closing the pipe ends it, should this process have failed.
        drop(self.0.stdin.take());
    }
}

fn round_of(run: &Run, stranger: Stranger, strangers: usize) -> Result<Measured> {
    let ends = Ends::new()?;
    let authority = Authority::new()?;
    let places = strangers + 64;
    let everybody = ListenerOptions {
        connections_max: places,
        pending_max: places,
        address_connections_max: places,
        address_pending_max: places,
    };
    let options = if stranger == Stranger::Bounded { ListenerOptions::default() } else { everybody };
    let listener = ends.server.block_on(Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), options))?;
    let (listener, address) = (Arc::new(listener), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let address = SocketAddr::new(address.ip(), listener.local_addr()?.port());
    let sits = stranger == Stranger::Sitting;
    let mut server = attacks::config(Side::Acceptor);
    if sits {
        server.hello_timeout = PATIENCE;
    }
    let tls = stranger.is_tls().then(|| Endpoint::new(&authority.node(2)?).map_err(anyhow::Error::from)).transpose()?;
    ends.server.spawn(serve(Arc::clone(&listener), server, tls.map(Arc::new)));

    let mut honest = Honest::connect(&ends, address, stranger.is_tls().then_some(&authority))?;
    honest.ask_until(&ends, |begin| begin.elapsed() >= Duration::from_millis(300))?;
    // Counted all the time, for it costs something.
    heap::begin();
    let (mut alone, before) = honest.ask_until(&ends, |begin| begin.elapsed() >= run.pace.time)?;
    let held = heap::live();
    let come = Strangers::start(run, stranger, address, strangers)?;
    let is_over = |stats: ListenerStats| {
        let over = stats.handshakes_failed.total() + stats.ended.total() + stats.abandoned + stats.refused;
        over >= strangers as u64
    };
    let mut most = 0;
    if sits {
        let begin = clock::now();
        while listener.stats().pending < strangers as u64 {
            ensure!(begin.elapsed() < PATIENCE, "not all have come: {:?}", listener.stats());
            clock::pass(Duration::from_millis(20));
        }
    }
    let (beside, beside_rate) = honest.ask_until(&ends, |begin| {
        most = most.max(heap::live() - held);
        let took = begin.elapsed();
        took >= PATIENCE || took >= run.pace.time && (sits || is_over(listener.stats()))
    })?;
    let stats = listener.stats();
    ensure!(sits || is_over(stats), "not all were cut in time: {stats:?}");
    if let Stranger::Plain(attack) = stranger {
        let (code, is_greeted) = attack.code();
        let counted = if is_greeted { stats.ended } else { stats.handshakes_failed };
        ensure!(counted.of(code) == strangers as u64, "not all were cut for {code}: {stats:?}");
    }
    come.end()?;
    // Before and after: the machine is not the same for long.
    clock::pass(SETTLE);
    let (again, after) = honest.ask_until(&ends, |begin| begin.elapsed() >= run.pace.time)?;
    heap::stop();
    alone.add(again)?;
    let alone_rate = before.midpoint(after);
    Ok(Measured { alone, beside, alone_rate, beside_rate, heap: most, stats })
}

/// Takes whoever comes, and sends back what they say.
async fn serve(listener: Arc<Listener>, config: ConnectionConfig, tls: Option<Arc<Endpoint>>) -> Result<()> {
    loop {
        let incoming = listener.accept().await?;
        let echo = EventSink::callback_with_handle(|handle, event| {
            if let Event::Message { stream, bytes, charge, .. } = event {
                handle.consumed(stream, charge);
                // What can't be sent any more is of a connection that has ended.
                let _ended = handle.try_send(stream, bytes, SendFlags::default());
            }
        });
        let tls = tls.clone();
        tokio::spawn(async move {
            let handle = match tls {
                Some(tls) => tls.accept(incoming, config, echo).await.ok(),
                None => incoming.spawn(config, echo).ok(),
            };
            if let Some(handle) = handle {
                handle.closed().await;
            }
        });
    }
}

/// A client that always has some questions on their way.
struct Honest {
    handle: ConnectionHandle,
    answers: tokio::sync::mpsc::UnboundedReceiver<()>,
    stream: towline_net::StreamId,
}

impl Honest {
    fn connect(ends: &Ends, address: SocketAddr, authority: Option<&Authority>) -> Result<Self> {
        let (sender, answers) = tokio::sync::mpsc::unbounded_channel();
        let sink = EventSink::callback_with_handle(move |handle, event| {
            if let Event::Message { stream, charge, .. } = event {
                handle.consumed(stream, charge);
                // Nobody waits for the last ones.
                let _last = sender.send(());
            }
        });
        // It is not the one that is tried.
        let config = ConnectionConfig { idle_timeout: PATIENCE, ..attacks::config(Side::Dialer) };
        let handle = ends.client.block_on(async {
            match authority {
                Some(authority) => {
                    let endpoint = Endpoint::new(&authority.node(1)?)?;
                    Ok(endpoint.connect(address, Peer::Node(2), config, sink).await?)
                }
                None => Ok::<_, anyhow::Error>(driver::connect(address, config, sink).await?),
            }
        })?;
        ends.client.block_on(handle.ready())?;
        let stream = handle.open(StreamKind::Request, Lane::Request)?;
        Ok(Self { handle, answers, stream })
    }

    /// Asks until it is told to stop, which is asked some times a second: how long each answer took, and how many came in a
    /// second.
    fn ask_until(&mut self, ends: &Ends, mut is_over: impl FnMut(Instant) -> bool) -> Result<(Histogram<u64>, f64)> {
        const LOOK: Duration = Duration::from_millis(20);
        let Self { handle, answers, stream } = self;
        ends.client.block_on(async {
            let (mut own, mut waiting) = (latencies()?, VecDeque::with_capacity(IN_FLIGHT));
            let (begin, mut look, mut count) = (clock::now(), clock::now(), 0_u32);
            let question = Bytes::from_static(&[7; QUESTION_BYTES]);
            for _ in 0..IN_FLIGHT {
                waiting.push_back(clock::now());
                handle.send(*stream, question.clone(), SendFlags::default()).await?;
            }
            while let Some(asked) = waiting.pop_front() {
                if tokio::time::timeout(PATIENCE, answers.recv()).await?.is_none() {
                    bail!("the honest client was cut off");
                }
                let now = clock::now();
                record(&mut own, now - asked);
                count += 1;
                if now - look >= LOOK {
                    look = now;
                    if is_over(begin) {
                        break;
                    }
                }
                waiting.push_back(now);
                handle.send(*stream, question.clone(), SendFlags::default()).await?;
            }
            let rate = f64::from(count) / begin.elapsed().as_secs_f64();
            for _ in waiting {
                answers.recv().await.context("the honest client was cut off")?;
            }
            Ok((own, rate))
        })
    }
}

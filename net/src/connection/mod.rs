//! [`Connection`]: the protocol as a state machine. Bytes and time in, events and bytes out.
//!
//! In the order a reader wants it: `handshake` (Hello to Ready), `receive` (bytes to frames), `landing` (the same
//! without a copy), `dispatch` (a frame's
//! effect), `streams` (open, send, finish, reset, consumed), `transmit` (what goes next), `liveness` (time),
//! `closing` (drain and end), `check` (what must be true).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::credit::{ReceiveCredit, SendCredit};
use crate::error::{ConfigError, ConnectionError, GoAwayCode};
use crate::event::Event;
use crate::frame::{FrameKind, StreamId, StreamKind};
use crate::identity::PeerHello;
use crate::lane::{Lane, LaneQueue};
use crate::limits::FRAME_BYTES_CEILING;
use crate::stats::Stats;
use crate::stream::Stream;

mod check;
mod closing;
mod config;
mod dispatch;
mod handshake;
mod landing;
mod liveness;
mod receive;
mod streams;
mod transmit;

pub use config::ConnectionConfig;
pub use landing::Landing;

use liveness::Liveness;
use receive::Inbound;

/// Which end of the byte stream this is.
///
/// ```
/// use towline_net::{Connection, Lane, Side, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let now = NOW;
/// let mut dialer = Connection::new(Side::Dialer, config(1), now)?;
/// let mut acceptor = Connection::new(Side::Acceptor, config(2), now)?;
/// assert!(acceptor.poll_transmit(now, 4096).is_none(), "it waits to be spoken to");
/// let hello = dialer.poll_transmit(now, 4096).ok_or("a dialer speaks first")?;
/// acceptor.receive(now, &hello.concat())?;
/// # exchange(&mut dialer, &mut acceptor, now);
/// // After the handshake both may open streams.
/// assert_eq!(dialer.open(StreamKind::Request, Lane::Request)?.get(), 1);
/// assert_eq!(acceptor.open(StreamKind::Request, Lane::Request)?.get(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a byte stream has two ends")]
pub enum Side {
    /// It connected, speaks first and opens streams with odd numbers.
    Dialer,
    /// It was connected to, and opens streams with even numbers.
    Acceptor,
}

/// One connection: many streams of messages over one ordered stream of bytes.
///
/// It does no I/O and reads no clock. Whoever drives it moves bytes from the wire to [`Self::receive`] and from
/// [`Self::poll_transmit`] to the wire, takes events by [`Self::poll_event`], and calls [`Self::tick`] at
/// [`Self::next_deadline`]. After any call both polls may have something new. Times are since any origin that the
/// caller keeps for the life of the connection.
///
/// Memory (I10) for a peer is bounded by twice `connection_window` (what it was granted, in buffers that grow by
/// doubling) and four times `send_buffer_max` (what it does not take). Before [`Event::Ready`] it is one Hello, in a buffer
/// of less than twice [`HELLO_BYTES_MAX`](crate::limits::HELLO_BYTES_MAX), and this side's own of some 200 bytes. Whoever
/// drives it has buffers of its own: the tokio driver 4 KiB to read into, 12 KiB while it doubles them for a stranger that
/// fills them, 256 KiB at most for a peer.
///
/// ```
/// use towline_net::{Connection, ConnectionError, Event, Side};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # let now = NOW;
/// # let mut acceptor = Connection::new(Side::Acceptor, config(2), now)?;
/// let mut dialer = Connection::new(Side::Dialer, config(1), now)?;
/// // Bytes go out, and the answer comes in, in pieces of any size.
/// let hello = dialer.poll_transmit(now, 128 << 10).unwrap_or_default().concat();
/// # acceptor.receive(now, &hello)?;
/// # let answer = said(&mut acceptor, now);
/// for bytes in answer.chunks(10) {
///     dialer.receive(now, bytes)?;
/// }
/// assert!(matches!(dialer.poll_event(), Some(Event::Ready { .. })));
/// // From here on the peer is silent. Time goes from deadline to deadline: a Ping, and as no Pong comes, the end.
/// while let Some(deadline) = dialer.next_deadline() {
///     dialer.tick(deadline);
///     dialer.poll_transmit(deadline, 128 << 10);
/// }
/// assert_eq!(dialer.closed_reason(), Some(&ConnectionError::IdleTimeout));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    side: Side,
    config: ConnectionConfig,
    phase: Phase,
    peer: Option<PeerHello>,
    /// Seeds the CRC of every header but those of Hello and HelloAck.
    session_seed: Option<u32>,
    streams: BTreeMap<StreamId, Stream>,
    lanes: [LaneQueue; 4],
    next_local: u32,
    next_remote: u32,
    /// Streams that this side may open.
    open_credit: SendCredit,
    /// Streams that the peer may open.
    accept_credit: ReceiveCredit,
    /// Bytes that this side may send.
    send_credit: SendCredit,
    /// Bytes that the peer may send.
    receive_credit: ReceiveCredit,
    inbound: Inbound,
    outbound: Outbound,
    liveness: Liveness,
    /// This side said GoAway, or will.
    drains_here: Option<GoAwayCode>,
    /// The peer said GoAway.
    drains_there: bool,
    events: VecDeque<Event>,
    stats: Stats,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// Until the peer's Hello or HelloAck.
    Greeting,
    Ready,
    Closed(ConnectionError),
}

/// Control frames that wait for their turn: one place for each kind or stream, so that a peer that makes us answer
/// and does not read can't make it grow.
#[derive(Debug, Default)]
struct Outbound {
    sequence: u32,
    hello: Option<(FrameKind, Vec<u8>)>,
    go_away: Option<GoAwayCode>,
    ping: Option<u64>,
    /// The peer's last Ping; an older one that is not answered yet is forgotten.
    pong: Option<u64>,
    opens: VecDeque<(StreamId, StreamKind, Lane)>,
    resets: BTreeSet<StreamId>,
    credits: BTreeSet<StreamId>,
    /// Said after the end: a refusal or the last GoAway.
    farewell: Option<Farewell>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Farewell {
    Refusal(Vec<u8>),
    GoAway(GoAwayCode),
}

impl Connection {
    /// A connection at its beginning. A dialer has its Hello to transmit; an acceptor says nothing before it heard one.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration can't work.
    pub fn new(side: Side, config: ConnectionConfig, now: Duration) -> Result<Self, ConfigError> {
        config.validate()?;
        let limits = config.limits;
        let mut outbound = Outbound::default();
        if side == Side::Dialer {
            outbound.hello = Some((FrameKind::Hello, config.hello().encode()));
        }
        Ok(Self {
            side,
            config,
            phase: Phase::Greeting,
            peer: None,
            session_seed: None,
            streams: BTreeMap::new(),
            lanes: Default::default(),
            next_local: if side == Side::Dialer { 1 } else { 2 },
            next_remote: if side == Side::Dialer { 2 } else { 1 },
            open_credit: SendCredit::new(0),
            accept_credit: ReceiveCredit::new(u64::from(limits.streams_max)),
            send_credit: SendCredit::new(0),
            receive_credit: ReceiveCredit::new(limits.connection_window),
            inbound: Inbound::default(),
            outbound,
            liveness: Liveness::new(now, &config),
            drains_here: None,
            drains_there: false,
            events: VecDeque::new(),
            stats: Stats::default(),
        })
    }

    /// The next event, if any. What is not taken stays: the queue holds at most what the peer was granted, and a few
    /// events for each stream.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Some(id) = event.stream()
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.events_queued -= 1;
            self.retire_if_over(id);
        }
        Some(event)
    }

    /// Which end this is.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// What the handshake agreed, once it is over.
    #[must_use]
    pub const fn peer(&self) -> Option<&PeerHello> {
        self.peer.as_ref()
    }

    /// Whether the connection has ended. [`Self::poll_transmit`] may still hold a last word, and
    /// [`Self::poll_event`] what came before the end.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Whether streams can be opened and messages sent.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Why it has ended.
    #[must_use]
    pub const fn closed_reason(&self) -> Option<&ConnectionError> {
        match &self.phase {
            Phase::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            queued_bytes: self.queued_bytes(),
            unconsumed_bytes: self.receive_credit.unconsumed(),
            streams_open: self.streams.len() as u64,
            rtt: self.liveness.rtt,
            ..self.stats
        }
    }

    /// The longest payload of a frame, agreed; before that this side's own wish.
    fn frame_bytes_max(&self) -> u32 {
        let agreed = self.peer.map_or(self.config.limits.frame_bytes_max, |peer| peer.limits.frame_bytes_max);
        agreed.min(FRAME_BYTES_CEILING)
    }

    fn push_event(&mut self, event: Event) {
        if let Some(id) = event.stream()
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.events_queued += 1;
        }
        self.events.push_back(event);
    }
}

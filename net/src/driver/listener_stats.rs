//! [`ListenerStats`]: what a listener did so far, by reason.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::admission::Held;

/// What a listener did so far. All but the gauges `pending` and `connections` only rises.
///
/// Nothing is lost between the figures: `accepted` is what runs or waits to (`connections`), and what has ended:
/// `abandoned`, the sum of `handshakes_failed` and the sum of `ended`.
///
/// ```
/// use towline_net::driver::{self, EventSink, Listener, ListenerOptions};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let options = ListenerOptions { connections_max: 1, ..ListenerOptions::default() };
/// let listener = Listener::bind("127.0.0.1:0".parse()?, options).await?;
/// let address = listener.local_addr()?;
/// let client = driver::connect(address, config(1), EventSink::callback(|_| ())).await?;
/// let server = listener.accept().await?.spawn(config(2), EventSink::callback(|_| ()))?;
/// let second = driver::connect(address, config(3), EventSink::callback(|_| ())).await?;
/// tokio::select! {
///     refused = second.ready() => assert!(refused.is_err()),
///     _ = listener.accept() => panic!("there is room for one"),
/// }
/// let stats = listener.stats();
/// assert_eq!((stats.accepted, stats.refused, stats.failed), (1, 1, 0));
/// assert_eq!(stats.refused_connections, 1, "for want of a place, not of an honest face");
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Connections that got a place.
    pub accepted: u64,
    /// Connections refused because there were too many: the sum of the four below.
    pub refused: u64,
    /// Of these: as many connections were open as the listener takes.
    pub refused_connections: u64,
    /// Of these: as many were still within their handshake as the listener takes.
    pub refused_pending: u64,
    /// Of these: as many were open from the same address as the listener takes of one.
    pub refused_address_connections: u64,
    /// Of these: as many from the same address were still within their handshake.
    pub refused_address_pending: u64,
    /// Times the system failed to accept (out of descriptors, aborted by the peer).
    pub failed: u64,
    /// Given up before a connection ran: not wanted, reset by now, or what `spawn_over` was to put below it failed.
    pub abandoned: u64,
    /// Handshakes that came to their end.
    pub greeted: u64,
    /// Connections that ended before: strangers, by what was wrong with them. TLS is part of their handshake.
    pub handshakes_failed: ReasonCounts,
    /// Connections that ended after their handshake, by the reason.
    pub ended: ReasonCounts,
    /// Open now.
    pub connections: u64,
    /// Of these, within their handshake.
    pub pending: u64,
}

/// How often what happened, by the [code](crate::ConnectionError::code) of the reason; of a handshake of TLS that failed, by the
/// code that `tls::TlsError` has.
///
/// ```
/// use towline_net::ConnectionError;
/// use towline_net::driver::{EventSink, Listener, ListenerOptions};
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let listener = Listener::bind("127.0.0.1:0".parse()?, ListenerOptions::default()).await?;
/// let mut lost = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
/// let server = listener.accept().await?.spawn(config(2), EventSink::callback(|_| ()))?;
/// lost.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await?;
/// assert_eq!(server.closed().await, ConnectionError::HeaderChecksum { sequence: 0 });
/// let failed = listener.stats().handshakes_failed;
/// assert_eq!((failed.of(3001), failed.total()), (1, 1));
/// assert_eq!(failed.iter().collect::<Vec<_>>(), [(3001, 1)]);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReasonCounts([u64; CODES.len()]);

impl Default for ReasonCounts {
    fn default() -> Self {
        Self([0; CODES.len()])
    }
}

impl ReasonCounts {
    /// How often it was this code.
    #[must_use]
    pub fn of(&self, code: u16) -> u64 {
        self.iter().find(|(counted, _)| *counted == code).map_or(0, |(_, count)| count)
    }

    /// How often it was any.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The codes that happened, in their order, each with how often.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        CODES.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl fmt::Debug for ReasonCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// What a connection that a listener took can end by, in order: the codes of [`ConnectionError`](crate::ConnectionError), and those of a handshake of
/// TLS that failed.
const CODES: [u16; 38] = [
    3001, 3002, 3003, 3004, 3005, 3006, 3007, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 3015, 3016, 3017, 3018, 3019,
    3020, 3021, 3022, 3023, 3024, 3025, 3026, 3027, 3140, 3142, 3143, 3203, 3204, 3205, 3215, 3216, 3217, 3218, 3219,
];

/// Why one that connected got no place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turned {
    Connections,
    Pending,
    AddressConnections,
    AddressPending,
}

/// The figures as they rise. Relaxed everywhere: they are for people, and order nothing.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    failed: AtomicU64,
    abandoned: AtomicU64,
    greeted: AtomicU64,
    turned: [AtomicU64; 4],
    handshakes_failed: Tally,
    ended: Tally,
}

impl Counters {
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn greeted(&self) {
        self.greeted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn turned_away(&self, reason: Turned) {
        self.turned[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn handshake_failed(&self, code: u16) {
        self.handshakes_failed.count(code);
    }

    pub(super) fn ended(&self, code: u16) {
        self.ended.count(code);
    }

    pub(super) fn read(&self, held: Held) -> ListenerStats {
        let [connections, pending, address_connections, address_pending] = self.turned.each_ref().map(value);
        ListenerStats {
            accepted: value(&self.accepted),
            refused: connections + pending + address_connections + address_pending,
            refused_connections: connections,
            refused_pending: pending,
            refused_address_connections: address_connections,
            refused_address_pending: address_pending,
            failed: value(&self.failed),
            abandoned: value(&self.abandoned),
            greeted: value(&self.greeted),
            handshakes_failed: self.handshakes_failed.read(),
            ended: self.ended.read(),
            connections: held.connections as u64,
            pending: held.pending as u64,
        }
    }
}

/// One figure for each code.
#[derive(Debug)]
struct Tally([AtomicU64; CODES.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CODES.len()])
    }
}

impl Tally {
    fn count(&self, code: u16) {
        let place = CODES.binary_search(&code);
        debug_assert!(place.is_ok(), "TW-{code} is counted nowhere");
        if let Some(count) = place.ok().and_then(|place| self.0.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> ReasonCounts {
        ReasonCounts(self.0.each_ref().map(value))
    }
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

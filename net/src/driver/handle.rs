//! [`ConnectionHandle`]: a connection as the rest of the program holds it.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::{ConnectionError, GoAwayCode, OpenError, ResetCode, SendError};
use crate::frame::{StreamId, StreamKind};
use crate::identity::PeerHello;
use crate::lane::Lane;
use crate::stats::Stats;
use crate::stream::SendFlags;

use super::budget::{Account, Held};

/// What handle and task share. Lock order: `core` alone; nothing else is locked, awaited or called back while it is
/// held. It is held for the time of copying a read into the connection (a fraction of a millisecond) at most.
pub(super) struct Shared {
    pub(super) core: Mutex<Connection>,
    /// Something may be there to transmit.
    pub(super) wake: Notify,
    /// Room in the send buffer, or the end.
    pub(super) room: Notify,
    pub(super) stage: watch::Sender<Stage>,
    /// The budget that it is enrolled in.
    pub(super) account: OnceLock<Account>,
    origin: Instant,
}

#[derive(Clone)]
pub(super) enum Stage {
    Handshake,
    Ready(PeerHello),
    /// The task is over and the byte stream released.
    Ended(ConnectionError),
}

impl Shared {
    pub(super) fn new(core: Connection, origin: Instant) -> Self {
        let (stage, _) = watch::channel(Stage::Handshake);
        Self {
            core: Mutex::new(core),
            wake: Notify::new(),
            room: Notify::new(),
            stage,
            account: OnceLock::new(),
            origin,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ended(_))
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn instant(&self, time: Duration) -> Instant {
        self.origin + time
    }
}

/// A connection that runs in a task of its own. Clones share it; when the last one is dropped, it closes.
///
/// All methods but the three `async` ones return at once and may be called from any thread, also from the event
/// callback.
///
/// ```
/// use towline_net::driver::{self, EventSink};
/// use towline_net::{ConnectionError, Event, GoAwayCode, Lane, SendFlags, Side, StreamKind};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
/// # use set_up::*;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let (one, other) = tokio::io::duplex(1 << 16);
/// # let (sink, mut events) = EventSink::channel(16);
/// let server = driver::spawn(other, Side::Acceptor, config(2), sink)?;
/// let client = driver::spawn(one, Side::Dialer, config(1), EventSink::callback(|_| ()))?;
/// assert_eq!(client.ready().await?.identity.node, 2);
/// let stream = client.open(StreamKind::Request, Lane::Request)?;
/// // A thread that knows nothing of tokio sends by a clone.
/// let clone = client.clone();
/// let sending = std::thread::spawn(move || clone.try_send(stream, "hello".into(), SendFlags::default()));
/// sending.join().map_err(|_| "it panicked")??;
/// # while let Some(event) = events.recv().await {
/// #     if let Event::Message { bytes, .. } = event {
/// #         assert_eq!(bytes, "hello");
/// #         break;
/// #     }
/// # }
/// assert_eq!(server.stats().messages_received, 1);
/// drop(client); // The last one: the connection ends.
/// assert_eq!(server.closed().await, ConnectionError::ClosedByPeer { code: GoAwayCode::CLOSED });
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ConnectionHandle {
    owner: Arc<Owner>,
}

/// Closes the connection when nobody can use it any more.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.core.lock().close();
        self.shared.wake.notify_one();
    }
}

impl ConnectionHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { owner: Arc::new(Owner { shared }) }
    }

    /// For the task, which must not keep the connection open.
    pub(super) fn downgrade(&self) -> WeakHandle {
        WeakHandle { owner: Arc::downgrade(&self.owner), shared: Arc::clone(&self.owner.shared) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    fn act<R>(&self, action: impl FnOnce(&mut Connection) -> R) -> R {
        let result = action(&mut self.owner.shared.core.lock());
        self.owner.shared.wake.notify_one();
        result
    }

    fn ask<R>(&self, question: impl FnOnce(&Connection) -> R) -> R {
        question(&self.owner.shared.core.lock())
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open(&self, kind: StreamKind, lane: Lane) -> Result<StreamId, OpenError> {
        self.act(|core| core.open(kind, lane))
    }

    /// Queues a message, or says that there is no room.
    ///
    /// # Errors
    /// As [`Connection::send`]; after [`SendError::Full`] an [`Event::Writable`](crate::Event::Writable) follows.
    pub fn try_send(&self, stream: StreamId, bytes: Bytes, flags: SendFlags) -> Result<(), SendError> {
        let result = self.owner.shared.core.lock().send(stream, bytes, flags);
        // A refused message leaves nothing to transmit. Woken for it, the task would offer room to a sender that has just
        // been refused, who would ask again, and so on for as long as the socket takes nothing.
        if result.is_ok() {
            self.owner.shared.wake.notify_one();
        }
        result
    }

    /// Queues a message, waiting for room in the send buffer. Done means queued, not received.
    ///
    /// Cancellation: dropped before it is done, nothing was queued. It has no deadline of its own: it ends at the
    /// latest when the connection does, which a silent peer can't put off.
    ///
    /// # Errors
    /// As [`Connection::send`], but never [`SendError::Full`].
    pub async fn send(&self, stream: StreamId, bytes: Bytes, flags: SendFlags) -> Result<(), SendError> {
        loop {
            // Enrolled before the attempt; otherwise room that comes between the two would be missed.
            let room = self.owner.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.try_send(stream, bytes.clone(), flags) {
                Err(SendError::Full) => room.await,
                other => return other,
            }
        }
    }

    /// Ends this side's half of a stream after what is queued.
    pub fn finish(&self, stream: StreamId) {
        self.act(|core| core.finish(stream));
    }

    /// Ends a stream abruptly.
    pub fn reset(&self, stream: StreamId, code: ResetCode) {
        self.act(|core| core.reset(stream, code));
    }

    /// The consumer is done with `charge` bytes; see [`Connection::consumed`].
    ///
    /// # Panics
    /// As there.
    pub fn consumed(&self, stream: StreamId, charge: usize) {
        self.act(|core| core.consumed(stream, charge));
    }

    /// Drains: no new streams, the end with the last open one.
    pub fn go_away(&self, reason: GoAwayCode) {
        self.act(|core| core.go_away(reason));
    }

    /// Ends the connection. What is queued is dropped; [`Self::closed`] tells when the byte stream is released: when the peer has
    /// heard it, or after a second.
    pub fn close(&self) {
        self.act(Connection::close);
    }

    /// How long a message [`Self::try_send`] takes now.
    #[must_use]
    pub fn send_capacity(&self, stream: StreamId) -> usize {
        self.ask(|core| core.send_capacity(stream))
    }

    /// Bytes queued for sending.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.ask(Connection::queued_bytes)
    }

    /// Counts bytes that the program holds for this connection (an answer that waits for room) in the
    /// [budget](super::MemoryBudget) that it is enrolled in, as long as what is returned lives. Without a budget, and for less than
    /// 64 KiB, it does nothing.
    ///
    /// ```
    /// use towline_net::driver::{self, EventSink, MemoryBudget};
    /// use towline_net::Side;
    /// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/connection.rs")); }
    /// # use set_up::*;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let (io, _peer) = tokio::io::duplex(1 << 16);
    /// let connection = driver::spawn(io, Side::Dialer, config(1), EventSink::callback(|_| ()))?;
    /// let budget = MemoryBudget::new(64 << 20);
    /// budget.enroll(&connection, "10.0.0.7");
    /// let answer = vec![0; 1 << 20];
    /// let held = connection.hold(answer.len());
    /// assert_eq!(budget.held(), 1 << 20);
    /// drop((answer, held));
    /// assert_eq!(budget.held(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hold(&self, bytes: usize) -> Held {
        self.owner.shared.account.get().map_or_else(Held::nothing, |account| account.hold(bytes))
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.ask(Connection::stats)
    }

    /// What the handshake agreed, once it is over.
    #[must_use]
    pub fn peer(&self) -> Option<PeerHello> {
        self.ask(|core| core.peer().copied())
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ask(Connection::is_closed)
    }

    #[cfg(feature = "tls")]
    pub(super) fn has_lost_its_certificate(&self) -> bool {
        self.ask(|core| core.closed_reason() == Some(&ConnectionError::CertificateEnded))
    }

    /// Waits for the end of the handshake, which `hello_timeout` bounds.
    ///
    /// Cancellation: without effect.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn ready(&self) -> Result<PeerHello, ConnectionError> {
        let mut stage = self.owner.shared.stage.subscribe();
        let stage = stage.wait_for(|stage| !matches!(stage, Stage::Handshake)).await;
        match stage.as_deref() {
            Ok(Stage::Ready(peer)) => Ok(*peer),
            Ok(Stage::Ended(reason)) => Err(reason.clone()),
            Ok(Stage::Handshake) | Err(_) => Err(ConnectionError::TransportEnded),
        }
    }

    /// Waits until the connection has ended and its byte stream is released, and says why it ended.
    ///
    /// Cancellation: without effect. It waits for ever on a connection that nobody closes, by intention.
    pub async fn closed(&self) -> ConnectionError {
        let mut stage = self.owner.shared.stage.subscribe();
        let stage = stage.wait_for(|stage| matches!(stage, Stage::Ended(_))).await;
        match stage.as_deref() {
            Ok(Stage::Ended(reason)) => reason.clone(),
            Ok(_) | Err(_) => ConnectionError::TransportEnded,
        }
    }
}

/// A handle that does not count.
pub(super) struct WeakHandle {
    owner: Weak<Owner>,
    shared: Arc<Shared>,
}

impl WeakHandle {
    /// A handle for the time of a call. After the last one was dropped the connection is closed already, and one
    /// more owner closes nothing.
    pub(super) fn lend(&self) -> ConnectionHandle {
        match self.owner.upgrade() {
            Some(owner) => ConnectionHandle { owner },
            None => ConnectionHandle::new(Arc::clone(&self.shared)),
        }
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, peer) = self.ask(|core| (core.side(), core.peer().map(|peer| peer.identity.node)));
        f.debug_struct("ConnectionHandle").field("side", &side).field("peer_node", &peer).finish_non_exhaustive()
    }
}

//! [`Link`]: one connection with one request stream, and who waits for which answer.

use super::options::ClientOptions;
use super::routing::Part;
use super::transport::{Miss, connect};
use crate::model::NodeId;
use crate::model::codec;
use crate::model::from_client::{CANCEL, Cancel};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::request::{Failure, FailureClass, Response, ResponseBody, code};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use towline_net::driver::{ConnectionHandle, EventSink};
use towline_net::{ConnectionConfig, Event, Identity, Lane, Limits, Role, SendError, SendFlags, StreamId, StreamKind};

/// What became of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The server answered.
    Body(ResponseBody),
    /// It will not be heard any more: the connection ended.
    ConnectionLost,
}

/// Who waits for an answer. The place among the requests in flight is given back with the answer, not with the
/// caller's patience: otherwise a server that answers nothing would be sent ever more.
#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Answer>,
    _place: OwnedSemaphorePermit,
    /// What it is about, if it was sent here for that.
    part: Option<Part>,
}

/// What all connections of a client have heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) bytes: AtomicU64,
    /// The node that is to be asked instead, as the last server said that sent a request elsewhere; 0: it did not say.
    named: AtomicU64,
}

impl Heard {
    /// The node that is to be asked instead of the one that sent the last request elsewhere, if it said so.
    pub(super) fn named(&self) -> Option<NodeId> {
        // Relaxed: a hint.
        let named = self.named.load(Ordering::Relaxed);
        (named > 0).then(|| NodeId::new(named))
    }
}

/// Lock order: each alone. No waiters: the connection has ended, and nobody may begin to wait.
#[derive(Debug)]
struct Routes {
    waiters: Mutex<Option<BTreeMap<u64, Waiter>>>,
    /// Each feed's stream, and where its deliveries go; bounded by the stream's window, which the feed gives back.
    feeds: Mutex<BTreeMap<StreamId, UnboundedSender<(Bytes, usize)>>>,
    /// The stream of requests; none: nothing was asked yet, or nothing more will be.
    requests: Mutex<Option<StreamId>>,
    /// The node at the other end.
    node: OnceLock<NodeId>,
    /// The server says that another one is to be asked: now, and perhaps not for ever.
    is_sent_on: AtomicBool,
    /// Nothing more can be asked here.
    is_ending: AtomicBool,
    /// Another server named this one, and it has answered nothing since: what it says of who leads is not better.
    is_on_trial: AtomicBool,
    /// Bytes of answers received, of all the client's connections, for people.
    heard: Arc<Heard>,
}

/// One connection. When it is dropped, it closes; what was in flight is lost, and told so.
#[derive(Debug)]
pub(super) struct Link {
    handle: ConnectionHandle,
    node: NodeId,
    /// Whether the server takes [`Cancel`]s.
    takes_cancels: bool,
    routes: Arc<Routes>,
    next_id: AtomicU64,
}

impl Link {
    /// Connects, and shakes hands. Bytes of answers are added to `bytes_received`.
    ///
    /// # Errors
    /// A sentence: it is collected for the caller who waits for any of several addresses.
    pub(super) async fn open(
        address: SocketAddr,
        host: &str,
        options: &ClientOptions,
        heard: &Arc<Heard>,
    ) -> Result<Self, Miss> {
        let identity = Identity { cluster: [0; 16], node: 0, directory: [0; 16], incarnation: 1, role: Role::Client };
        let mut config = ConnectionConfig::new(identity, *uuid::Uuid::now_v7().as_bytes());
        config.limits = Limits::for_messages(MESSAGE_BYTES_MAX as u64);
        config.features.offered = CANCEL;
        let routes = Arc::new(Routes {
            waiters: Mutex::new(Some(BTreeMap::new())),
            feeds: Mutex::default(),
            requests: Mutex::default(),
            node: OnceLock::new(),
            is_sent_on: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            is_on_trial: AtomicBool::new(false),
            heard: Arc::clone(heard),
        });
        let events = Arc::clone(&routes);
        let sink = EventSink::callback_with_handle(move |handle, event| events.on_event(handle, event));
        let (handle, peer) = connect(address, host, options, config, sink).await?;
        let node = *routes.node.get_or_init(|| NodeId::new(peer.identity.node));
        let takes_cancels = peer.features & CANCEL != 0;
        Ok(Self { handle, node, takes_cancels, routes, next_id: AtomicU64::new(1) })
    }

    /// The stream of requests, opened for the first of them.
    fn requests(&self) -> Result<StreamId, SendFailure> {
        let mut requests = self.routes.requests.lock();
        if let Some(stream) = *requests {
            return Ok(stream);
        }
        let opened = self.handle.open(StreamKind::Request, Lane::Request);
        let stream = opened.map_err(|_| {
            // Nothing can be asked here: another connection is made, and not this one tried for ever.
            self.routes.is_ending.store(true, Ordering::Relaxed);
            SendFailure::ConnectionLost
        })?;
        *requests = Some(stream);
        Ok(stream)
    }

    /// Nothing more is asked here: what is under way is not answered any more.
    pub(super) fn end_requests(&self) {
        if let Some(stream) = self.routes.requests.lock().take() {
            self.handle.finish(stream);
        }
    }

    /// Ends it now; otherwise it ends when nobody has it any more.
    pub(super) fn close(&self) {
        self.handle.close();
    }

    /// The node at the other end.
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    /// Whether it can be used for the next request.
    pub(super) fn is_usable(&self) -> bool {
        // Relaxed: a hint. A request that goes out all the same is answered all the same.
        !self.routes.is_sent_on.load(Ordering::Relaxed) && self.is_open()
    }

    /// Whether it can be used again, should the server be the one to ask again.
    pub(super) fn is_open(&self) -> bool {
        !self.routes.is_ending.load(Ordering::Relaxed) && !self.handle.is_closed()
    }

    /// This one is found to lead instead of the server at the other end, which may not know it.
    pub(super) fn leads_no_more(&self, leader: NodeId) {
        self.routes.heard.named.store(leader.get(), Ordering::Relaxed);
        self.routes.is_sent_on.store(true, Ordering::Relaxed);
    }

    /// Another server named this one as the one to ask.
    pub(super) fn try_again(&self) {
        self.routes.is_on_trial.store(true, Ordering::Relaxed);
        self.routes.is_sent_on.store(false, Ordering::Relaxed);
    }

    /// Sends a request made for the id that this hands to `encode`, and waits for room in the send buffer only. Should it be
    /// refused, that is noted of the part that it is about.
    ///
    /// Cancellation: the request was not sent.
    ///
    /// # Errors
    /// It was certainly not sent; [`SendFailure::NoRoom`] if there was no room until `deadline`.
    pub(super) async fn send(
        &self,
        place: OwnedSemaphorePermit,
        part: Option<Part>,
        deadline: Instant,
        encode: impl FnOnce(u64) -> Result<Bytes, codec::CodecError>,
    ) -> Result<Awaited, SendFailure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let bytes = encode(id).map_err(SendFailure::Codec)?;
        let stream = self.requests()?;
        let (answer, receiver) = oneshot::channel();
        // Enrolled before it is sent; otherwise an answer could come that nobody is known to wait for.
        match self.routes.waiters.lock().as_mut() {
            Some(waiters) => drop(waiters.insert(id, Waiter { answer, _place: place, part })),
            None => return Err(SendFailure::ConnectionLost),
        }
        let enrolled = Enrolled { routes: &self.routes, id };
        // Out of time, the transport has queued nothing.
        match timeout_at(deadline, self.handle.send(stream, bytes, SendFlags::default())).await {
            Ok(Ok(())) => {
                std::mem::forget(enrolled);
                let cancelling = Cancelling { handle: self.handle.clone(), stream, id };
                Ok(Awaited {
                    answer: receiver,
                    cancelling: self.takes_cancels.then_some(cancelling),
                    dropped: WhenDropped::Cancel,
                })
            }
            Ok(Err(error @ SendError::TooLong { .. })) => Err(SendFailure::TooLong(error)),
            Ok(Err(_)) => Err(SendFailure::ConnectionLost),
            Err(_) => Err(SendFailure::NoRoom),
        }
    }
}

/// Who waits for the answer of a request that is not sent yet. Dropped, nobody does: otherwise its place among the requests in flight
/// would be taken for as long as the connection lives.
struct Enrolled<'a> {
    routes: &'a Routes,
    id: u64,
}

impl Drop for Enrolled<'_> {
    fn drop(&mut self) {
        if let Some(waiters) = self.routes.waiters.lock().as_mut() {
            waiters.remove(&self.id);
        }
    }
}

/// The answer to a request that was sent, to come.
#[derive(Debug)]
pub(super) struct Awaited {
    answer: oneshot::Receiver<Answer>,
    /// None: the server knows no such thing, or there is an answer.
    cancelling: Option<Cancelling>,
    dropped: WhenDropped,
}

/// What becomes of a request whose answer nobody waits for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenDropped {
    /// It need not be done, unless it has begun.
    Cancel,
    /// It goes its way.
    Leave,
}

#[derive(Debug)]
struct Cancelling {
    handle: ConnectionHandle,
    stream: StreamId,
    id: u64,
}

impl Awaited {
    /// It goes its way, whoever hears of it.
    pub(super) fn left_when_dropped(mut self) -> Self {
        self.dropped = WhenDropped::Leave;
        self
    }

    /// Asks the server not to begin it. The answer says what came of it.
    pub(super) fn cancel(&self) {
        let Some(Cancelling { handle, stream, id }) = &self.cancelling else { return };
        if let Ok(bytes) = codec::encode(&Cancel { id: *id }) {
            // Without room, or a connection, the request ends in its own time.
            let _unsent = handle.try_send(*stream, bytes, SendFlags::default());
        }
    }
}

impl Future for Awaited {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let answer = Pin::new(&mut self.answer).poll(context);
        if answer.is_ready() {
            self.cancelling = None;
        }
        // A sender dropped without a word went with its connection.
        answer.map(|answer| answer.unwrap_or(Answer::ConnectionLost))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.dropped == WhenDropped::Cancel {
            self.cancel();
        }
    }
}

impl Link {
    /// Asks for something whose answer nobody waits for; if there is no room for it, it is not asked.
    pub(super) fn tell(&self, encode: impl FnOnce(u64) -> Result<Bytes, codec::CodecError>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let (Ok(stream), Ok(bytes)) = (self.requests(), encode(id)) {
            // It need not arrive.
            let _sent = self.handle.try_send(stream, bytes, SendFlags::default());
        }
    }

    /// Opens a stream for a feed, and asks for it.
    ///
    /// # Errors
    /// It was not asked.
    pub(super) async fn open_feed(
        &self,
        request: Bytes,
    ) -> Result<(StreamId, UnboundedReceiver<(Bytes, usize)>), SendFailure> {
        let stream = self.handle.open(StreamKind::Feed, Lane::Bulk).map_err(|_| SendFailure::ConnectionLost)?;
        let (sender, deliveries) = unbounded_channel();
        self.routes.feeds.lock().insert(stream, sender);
        match self.handle.send(stream, request, SendFlags::default()).await {
            Ok(()) => Ok((stream, deliveries)),
            Err(error @ SendError::TooLong { .. }) => Err(SendFailure::TooLong(error)),
            Err(_) => Err(SendFailure::ConnectionLost),
        }
    }

    /// Deliveries of a feed were taken.
    pub(super) fn consumed(&self, stream: StreamId, charge: usize) {
        self.handle.consumed(stream, charge);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.handle.close();
    }
}

/// Why a request was not sent.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// It can't be encoded.
    Codec(codec::CodecError),
    /// The server does not take it.
    TooLong(SendError),
    /// There is no connection any more.
    ConnectionLost,
    /// The server took too little of what was sent before it.
    NoRoom,
}

impl Routes {
    fn on_event(&self, handle: &ConnectionHandle, event: Event) {
        match event {
            Event::Message { stream, bytes, charge, .. } if !self.is_of_requests(stream) => {
                self.heard.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let feed = self.feeds.lock().get(&stream).cloned();
                // Gone: what it left behind is taken by nobody.
                if feed.is_none_or(|feed| feed.send((bytes, charge)).is_err()) {
                    handle.consumed(stream, charge);
                }
            }
            Event::Message { stream, bytes, charge, .. } => {
                handle.consumed(stream, charge);
                self.heard.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                match codec::decode::<Response>(&bytes) {
                    Ok(response) => self.answer(response),
                    // Whose answer that was is not known, and would never be.
                    Err(_) => handle.close(),
                }
            }
            // The stream of requests is for ever: without it nothing is answered.
            Event::Finished { stream } | Event::Reset { stream, .. } if self.is_of_requests(stream) => {
                handle.close();
            }
            Event::Finished { stream } | Event::Reset { stream, .. } => drop(self.feeds.lock().remove(&stream)),
            Event::GoAway { .. } => self.is_ending.store(true, Ordering::Relaxed),
            Event::Closed { .. } => self.end(),
            _ => {}
        }
    }

    fn is_of_requests(&self, stream: StreamId) -> bool {
        *self.requests.lock() == Some(stream)
    }

    /// Whether another server is to be asked from now on. A leader that sends on to itself can't do what was asked, and nobody else can.
    fn sends_elsewhere(&self, failure: &Failure) -> bool {
        let leads_itself = failure.leader.is_some() && failure.leader == self.node.get().copied();
        // Also of what may have been done: another one leads.
        let is_elsewhere = failure.class == FailureClass::ReRoute || failure.leader.is_some();
        is_elsewhere && !leads_itself || matches!(failure.code, code::NOT_SERVING | code::CLOSING)
    }

    fn answer(&self, response: Response) {
        let waiter = self.waiters.lock().as_mut().and_then(|waiters| waiters.remove(&response.id));
        // Noted before anybody hears of the answer: what is asked next goes elsewhere.
        match &response.body {
            ResponseBody::Failed(failure) if self.sends_elsewhere(failure) => {
                self.sent_on(waiter.as_ref().and_then(|waiter| waiter.part.as_ref()), failure);
            }
            ResponseBody::Failed(_) => {}
            _ => self.is_on_trial.store(false, Ordering::Relaxed),
        }
        if let Some(waiter) = waiter {
            // Nobody may wait any more: the caller gave up, and said so by dropping its end.
            drop(waiter.answer.send(Answer::Body(response.body)));
        }
    }

    fn sent_on(&self, part: Option<&Part>, failure: &Failure) {
        if failure.code == code::CLOSING {
            self.is_ending.store(true, Ordering::Relaxed);
        }
        match part.zip(self.node.get()) {
            Some((part, node)) if !part.sent_on(*node, failure) => return,
            Some(_) => {}
            None => {
                // Two that name each other would be believed for ever.
                let is_better = !self.is_on_trial.load(Ordering::Relaxed);
                let named = failure.leader.filter(|_| is_better).map_or(0, NodeId::get);
                self.heard.named.store(named, Ordering::Relaxed);
            }
        }
        self.is_sent_on.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        // Whoever is connected next is asked how it is.
        self.heard.named.store(0, Ordering::Relaxed);
        self.feeds.lock().clear();
        for (_, waiter) in self.waiters.lock().take().into_iter().flatten() {
            // As above.
            drop(waiter.answer.send(Answer::ConnectionLost));
        }
    }
}

//! What clients ask: each of their connections, until it ends.
//!
//! A client's writes are taken in order; its reads wait for none of them, a few at a time.

use super::access::{Access, Admitted};
use super::calls::{Asked, ITEMS_BYTES_MAX, ITEMS_MAX};
use super::completion::{Callback, Completion};
use super::deliveries::Subscriber;
use super::failure;
use super::hosting::ShardHandle;
use super::namespace::check_unconditional;
use super::server::Server;
use super::stages::Arrived;
use super::{Error, Namespace, ReadError, WriteRefused};
use crate::model::call::{Answer, Call, Reach};
use crate::model::codec;
use crate::model::request::{Failure, Request, RequestBody, Response, ResponseBody};
use crate::model::{Position, Read, Record, Token, Written};
use crate::pipeline::{Receipt, Submission, SubmitError, SubmitPolicy, WriteError};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use towline_net::driver::{ConnectionHandle, EventReceiver};
use towline_net::{Event as NetEvent, ResetCode, SendError, SendFlags, StreamId, StreamKind};

/// How long a write waits between two looks at a full queue. The connection reads nothing meanwhile: that is the
/// back-pressure its client feels.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);
/// Reads of one client that are worked on at a time: each may hold [`ITEMS_BYTES_MAX`] in memory, until its client took the
/// answer.
const READS_OF_A_CLIENT: usize = 4;
/// How long a read waits for the position that it must show, whatever its client says.
const READ_WITHIN_MAX: Duration = Duration::from_secs(60);
/// Between two looks whether a position is applied.
const SHOWN_PAUSE_MIN: Duration = Duration::from_millis(1);
const SHOWN_PAUSE_MAX: Duration = Duration::from_millis(16);
/// How long a client may take to make room for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Records from this size on are prepared away from the threads that move bytes.
const LARGE_RECORD_BYTES: usize = 16 * 1024;

impl Server {
    /// One client's connection, until it ends.
    pub(super) async fn client(self, access: Access, handle: ConnectionHandle, mut events: EventReceiver) {
        // Bounded by the connection's credit, which goes back with each answer.
        let (writes, writes_waiting) = unbounded_channel();
        tokio::spawn(self.clone().write_in_order(writes_waiting));
        let (reads, reads_waiting) = unbounded_channel();
        let reading = tokio::spawn(self.clone().read_in_turns(access.clone(), reads_waiting));
        // What a client that is gone has asked is of no use to anybody.
        let _reading = AtWork(reading.abort_handle());
        let mut streams: BTreeMap<StreamId, Arc<Half>> = BTreeMap::new();
        // None: its first message has not come. Dropped, it ends.
        let mut feeds: BTreeMap<StreamId, Option<AtWork>> = BTreeMap::new();
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::Opened { stream, kind: StreamKind::Request, .. } => {
                    streams.insert(stream, Arc::new(Half { handle: handle.clone(), stream }));
                }
                NetEvent::Opened { stream, kind: StreamKind::Feed, .. } => {
                    // Of one that failed behind its client's END nothing more is heard.
                    feeds.retain(|_, feed| feed.as_ref().is_none_or(|feed| !feed.0.is_finished()));
                    feeds.insert(stream, None);
                }
                NetEvent::Opened { stream, .. } => handle.reset(stream, ResetCode::REFUSED),
                NetEvent::Message { stream, bytes, charge, .. } if feeds.contains_key(&stream) => {
                    handle.consumed(stream, charge);
                    match feeds.get_mut(&stream) {
                        Some(feed @ None) => {
                            let subscriber = Subscriber { handle: handle.clone(), stream };
                            let delivering = tokio::spawn(self.clone().deliver(access.clone(), subscriber, bytes));
                            *feed = Some(AtWork(delivering.abort_handle()));
                        }
                        // One subscription a stream.
                        _ => {
                            feeds.remove(&stream);
                            handle.reset(stream, ResetCode::REFUSED);
                        }
                    }
                }
                NetEvent::Message { stream, bytes, charge, .. } => {
                    let Some(half) = streams.get(&stream).map(Arc::clone) else {
                        handle.consumed(stream, charge);
                        continue;
                    };
                    let reply = Reply { half, charge };
                    match codec::decode::<Request>(&bytes) {
                        Ok(request) => {
                            let id = request.id;
                            match access.admit(request) {
                                Ok(request) => self.request(request, reply, &writes, &reads),
                                Err(denied) => reply.send(id, ResponseBody::Failed(denied)),
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a client's request can't be read: its connection is closed");
                            handle.close();
                        }
                    }
                }
                // Our half ends with the last answer that is still to come on it.
                NetEvent::Finished { stream } if streams.contains_key(&stream) => drop(streams.remove(&stream)),
                // Whoever subscribed has no more to say.
                NetEvent::Finished { stream } if feeds.get(&stream).is_some_and(Option::is_some) => {}
                NetEvent::Finished { stream } | NetEvent::Reset { stream, .. } => {
                    streams.remove(&stream);
                    if feeds.remove(&stream).is_some() {
                        handle.finish(stream);
                    }
                }
                NetEvent::Closed { .. } => break,
                _ => {}
            }
        }
    }

    fn request(
        &self,
        request: Admitted<Request>,
        reply: Reply,
        writes: &UnboundedSender<WaitingWrite>,
        reads: &UnboundedSender<WaitingRead>,
    ) {
        let Request { id, deadline_ms, namespace, body } = request.into_inner();
        let within = Duration::from_millis(u64::from(deadline_ms));
        let (record, reach) = match body {
            RequestBody::Write { record } => (record, None),
            RequestBody::Call(Call::Write { record, reach }) => (record, Some(reach)),
            read => {
                let within = if deadline_ms == 0 { READ_WITHIN_MAX } else { within.min(READ_WITHIN_MAX) };
                // Closed only when this connection's task is ended, and the connection with it; as below.
                let end = Instant::now() + within;
                return drop(reads.send(WaitingRead { id, namespace, end, body: read, reply }));
            }
        };
        let space = match self.node.namespace(&namespace) {
            Ok(space) => space,
            Err(error) => {
                let unknown = || failure::unknown_namespace(&namespace);
                let failure = reach.map_or_else(unknown, |_| failure::of(&error.into()));
                return reply.send(id, ResponseBody::Failed(failure));
            }
        };
        let deadline = (deadline_ms > 0).then(|| Instant::now() + within);
        drop(writes.send(WaitingWrite { id, space, record, reach, deadline, reply }));
    }

    async fn write_in_order(self, mut waiting: UnboundedReceiver<WaitingWrite>) {
        while let Some(write) = waiting.recv().await {
            self.write(write).await;
        }
    }

    async fn write(&self, write: WaitingWrite) {
        let WaitingWrite { id, space, record, reach, deadline, reply } = write;
        let is_large = record.len() >= LARGE_RECORD_BYTES;
        let prepare = move || prepare(&space, record, reach);
        let prepared = if is_large {
            // It is compressed on its way: not on a thread that moves bytes.
            tokio::task::spawn_blocking(prepare).await.unwrap_or_else(|_| Err(failure::closing()))
        } else {
            prepare()
        };
        let (shard, prepared) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return reply.send(id, ResponseBody::Failed(failure)),
        };
        let reply = Arc::new(reply);
        let (completion, placed) = completion(&shard, id, reach, &reply);
        let mut submission = prepared.for_token(Arrived::now(completion));
        let failure = loop {
            if !self.node.is_serving() {
                break failure::not_serving(&self.node, self.leader);
            }
            let refused = match shard.queue.submit(submission, SubmitPolicy::Fail) {
                Ok(()) => {
                    if let Some(receipt) = placed {
                        tokio::spawn(async move { reply.send(id, answered(receipt.await)) });
                    }
                    return;
                }
                Err((refused, back)) => {
                    submission = back;
                    refused
                }
            };
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            if !matches!(refused, SubmitError::Busy(_)) || is_late || reply.half.handle.is_closed() {
                break refusal(reach, refused.into());
            }
            tokio::time::sleep(FULL_QUEUE_PAUSE).await;
        };
        submission.into_token().caller.forget();
        reply.send(id, ResponseBody::Failed(failure));
    }

    /// Reads touch the disk: they are done away from the threads that move bytes, a few at a time.
    async fn read_in_turns(self, access: Access, mut waiting: UnboundedReceiver<WaitingRead>) {
        // Of two kinds, so that those who wait for a position hold up nobody who does not.
        let turns = [READS_OF_A_CLIENT; 2].map(|turns| Arc::new(Semaphore::new(turns)));
        // Dropped with this, when the client is gone, and what they do with them.
        let mut at_work = JoinSet::new();
        let mut waiting_for_position: VecDeque<WaitingRead> = VecDeque::new();
        loop {
            let held = waiting_for_position.pop_front_if(|_| turns[1].available_permits() > 0);
            let read = match held {
                Some(read) => read,
                None => tokio::select! {
                    read = waiting.recv() => match read {
                        Some(read) => read,
                        None => return,
                    },
                    Some(_) = at_work.join_next() => continue,
                },
            };
            let kind = usize::from(read.token().is_some());
            if kind == 1 && turns[1].available_permits() == 0 {
                waiting_for_position.push_back(read);
                continue;
            }
            let Ok(turn) = Arc::clone(&turns[kind]).acquire_owned().await else { return };
            let (server, access) = (self.clone(), access.clone());
            at_work.spawn(async move {
                server.read(&access, read).await;
                drop(turn);
            });
        }
    }

    async fn read(self, access: &Access, read: WaitingRead) {
        let WaitingRead { id, namespace, end, body, reply } = read;
        self.wait_until_shown(&namespace, &body, end).await;
        let within = end.saturating_duration_since(Instant::now());
        let answered = match &body {
            // How the server is must be told also while nothing else goes on.
            RequestBody::Status => self.answer(&namespace, body, within),
            // They wait for the log, and not for one another's places.
            RequestBody::Call(Call::OpenSession | Call::CloseSession { .. }) => {
                let asked = tokio::task::spawn_blocking(move || self.answer(&namespace, body, within));
                match tokio::time::timeout_at(end, asked).await {
                    Ok(answered) => answered.unwrap_or_else(|_| Err(failure::unknown())),
                    Err(_) => Err(failure::unknown()),
                }
            }
            _ => {
                let reading = Arc::clone(&self.reading);
                match reading.acquire().await {
                    Ok(_permit) => {
                        let answered = tokio::task::spawn_blocking(move || self.answer(&namespace, body, within)).await;
                        answered.unwrap_or_else(|_| Err(failure::unknown()))
                    }
                    Err(_) => Err(failure::closing()),
                }
            }
        };
        let answered = answered.map(|answer| access.shown(answer));
        reply.send_in_turn(id, answered.unwrap_or_else(ResponseBody::Failed)).await;
    }

    /// Waits for the position that a read must show, before it takes a place among those that are worked on.
    async fn wait_until_shown(&self, name: &str, body: &RequestBody, end: Instant) {
        let Some(token) = token_of(body) else { return };
        // Neither is told here: the read itself finds it, and says so.
        let (Ok(space), Ok(token)) = (self.node.namespace(name), Token::decode(token)) else { return };
        let mut pause = SHOWN_PAUSE_MIN;
        while !space.shows(&token) && Instant::now() < end {
            tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
            pause = (pause * 2).min(SHOWN_PAUSE_MAX);
        }
    }

    fn answer(&self, name: &str, body: RequestBody, within: Duration) -> Result<ResponseBody, Failure> {
        let body = match body {
            RequestBody::Call(call) => {
                return Asked { node: &self.node, name, within }.answer(call).map(ResponseBody::Answer);
            }
            body => body,
        };
        let space = self.node.namespace(name).map_err(|_| failure::unknown_namespace(name))?;
        let applied = self.shard.positions.applied().get();
        let failed = |error: ReadError| failure::read(&error);
        match body {
            RequestBody::Get { key } => {
                let found = space.get(&key, Read::Eventual).map_err(failed)?;
                Ok(ResponseBody::Value { value: found.map(|found| (found.version, found.value.into())), applied })
            }
            RequestBody::ReadStream { stream, from, direction, events_max } => {
                let bounds = ((events_max as usize).min(ITEMS_MAX), ITEMS_BYTES_MAX);
                let read = space.read_stream(&stream, from, direction, bounds, Read::Eventual);
                let read = read.map_err(failed)?;
                Ok(ResponseBody::Events { events: read.events, head: read.head, more: read.more, applied })
            }
            RequestBody::Digest => {
                let (at, digest) = self.node.digest().map_err(failed)?;
                let epoch = (at.epoch.version, at.epoch.term);
                Ok(ResponseBody::Digest { epoch, applied: at.lsn.get(), digest })
            }
            RequestBody::Status => self.node.status().map(ResponseBody::Status).ok_or_else(failure::closing),
            other => Err(failure::bad_request(&format!("{other:?} is not a read"))),
        }
    }
}

/// What can be said of a write before it is queued.
fn prepare(
    space: &Namespace,
    record: Vec<u8>,
    reach: Option<Reach>,
) -> Result<(Arc<ShardHandle>, Submission<()>), Failure> {
    let record = decode(record)?;
    if matches!(reach, Some(Reach::Buffered | Reach::Durable)) {
        check_unconditional(&record).map_err(|refused| refusal(reach, refused))?;
    }
    let (shard, submission) = space.prepare(&record).map_err(|refused| refusal(reach, refused))?;
    Ok((Arc::clone(shard), submission))
}

/// Who hears of it, and the receipt of one that is answered before it is applied.
fn completion(
    shard: &ShardHandle,
    id: u64,
    reach: Option<Reach>,
    reply: &Arc<Reply>,
) -> (Completion, Option<Receipt<Position>>) {
    let completion = match reach {
        Some(Reach::Buffered) => Completion::Buffered,
        Some(Reach::Durable) => Completion::Durable,
        _ => {
            let answer = Arc::clone(reply);
            let is_call = reach.is_some();
            let body = move |result| if is_call { answered(result) } else { written(result) };
            return (Completion::Callback(Callback::new(move |result| answer.send(id, body(result)))), None);
        }
    };
    let (receipt, completer) = shard.queue.gathering().pair();
    (completion(completer), Some(receipt))
}

/// To a call as the embedding program hears it; to a plain write by the server's own codes.
fn refusal(reach: Option<Reach>, refused: WriteRefused) -> Failure {
    if reach.is_some() { failure::of(&refused.into()) } else { failure::refused(&refused) }
}

fn answered<T: Into<Answer>>(result: Result<T, WriteError>) -> ResponseBody {
    match result {
        Ok(found) => ResponseBody::Answer(found.into()),
        Err(error) => ResponseBody::Failed(failure::of(&Error::from(error))),
    }
}

fn decode(record: Vec<u8>) -> Result<Record, Failure> {
    let mut bytes = Bytes::from(record);
    let record = Record::decode(&mut bytes).map_err(|error| failure::bad_request(&error.to_string()))?;
    if bytes.is_empty() { Ok(record) } else { Err(failure::bad_request("bytes follow the record")) }
}

fn written(result: Result<Written, WriteError>) -> ResponseBody {
    match result {
        Ok(written) => ResponseBody::Written {
            epoch: (written.epoch.version, written.epoch.term),
            lsn: written.lsn.get(),
            outcome: written.outcome,
        },
        Err(error) => ResponseBody::Failed(failure::write(&error)),
    }
}

/// A feed, or reads, at work: they end when their client is gone.
struct AtWork(AbortHandle);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A write that waits for its turn in the queue.
struct WaitingWrite {
    id: u64,
    space: Namespace,
    record: Vec<u8>,
    /// None: a plain write, which is answered as such.
    reach: Option<Reach>,
    /// The client gives up then: not submitted by that time, it has no effect.
    deadline: Option<Instant>,
    reply: Reply,
}

/// A read that waits for its turn; and whatever else waits and is no write.
struct WaitingRead {
    id: u64,
    namespace: String,
    /// Its client gives up then.
    end: Instant,
    body: RequestBody,
    reply: Reply,
}

impl WaitingRead {
    fn token(&self) -> Option<&[u8]> {
        token_of(&self.body)
    }
}

/// The position that a read must show, if it must show one.
fn token_of(body: &RequestBody) -> Option<&[u8]> {
    match body {
        RequestBody::Call(call) => call.token(),
        _ => None,
    }
}

/// Our half of a client's stream; finished when nobody has anything to say on it any more.
struct Half {
    handle: ConnectionHandle,
    stream: StreamId,
}

impl Drop for Half {
    fn drop(&mut self) {
        self.handle.finish(self.stream);
    }
}

/// Where an answer goes.
struct Reply {
    half: Arc<Half>,
    charge: usize,
}

impl Reply {
    /// Sends the answer of a write; the request's credit goes back with it. These are small: a client whose buffer
    /// they fill reads none of them, and loses its connection rather than cost memory.
    fn send(&self, id: u64, body: ResponseBody) {
        let half = &self.half;
        let sent = codec::encode(&Response { id, body })
            .map(|bytes| half.handle.try_send(half.stream, bytes, SendFlags::default()));
        self.done(id, matches!(sent, Ok(Ok(()) | Err(SendError::StreamClosed))));
    }

    /// Sends the answer of a read, which may have to wait for room; the request's credit goes back with it.
    async fn send_in_turn(&self, id: u64, body: ResponseBody) {
        let half = &self.half;
        let sent = match codec::encode(&Response { id, body }) {
            Ok(bytes) => {
                let sending = half.handle.send(half.stream, bytes, SendFlags::default());
                matches!(tokio::time::timeout(ANSWER_TIMEOUT, sending).await, Ok(Ok(()) | Err(SendError::StreamClosed)))
            }
            Err(_) => false,
        };
        self.done(id, sent);
    }

    /// An answer on a stream that the client has reset is wanted by nobody; what else could not be sent ends the
    /// connection, since its client would wait for it.
    fn done(&self, id: u64, sent: bool) {
        if !sent {
            tracing::warn!(id, "an answer could not be sent: the client's connection is closed");
            self.half.handle.close();
        }
        self.half.handle.consumed(self.half.stream, self.charge);
    }
}

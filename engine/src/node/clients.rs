//! What clients ask: each of their connections, until it ends.
//!
//! A client's writes are taken in order; its reads wait for none of them, a few at a time.

use super::access::{Access, Admitted};
use super::calls::{self, Asked, LARGE_RECORD_BYTES, answered, written};
use super::completion::{Callback, Completion};
use super::deliveries::Subscriber;
use super::failure;
use super::feed::new_key;
use super::held::{SNAPSHOT_IDLE_MAX, Snapshots};
use super::hosting::ShardHandle;
use super::line::{Key, Line, Turn};
use super::namespace::check_unconditional;
use super::positions::Positions;
use super::server::Server;
use super::stages::Arrived;
use super::{Namespace, WriteRefused};
use crate::model::call::{Answer, Call, Reach, ReadAt};
use crate::model::codec::{self, CodecError};
use crate::model::from_client::{Cancel, FromClient};
use crate::model::request::{Failure, FailureClass, Request, RequestBody, Response, ResponseBody};
use crate::model::{NodeId, Position, Record, ShardId};
use crate::pipeline::{Receipt, Submission, SubmitError, SubmitPolicy};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use towline_net::driver::{ConnectionHandle, EventReceiver};
use towline_net::{Event as NetEvent, ResetCode, SendError, SendFlags, StreamId, StreamKind};

/// How long a write waits between two looks at a full queue. The connection reads nothing meanwhile: that is the
/// back-pressure its client feels.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);
/// How long the writes of a shard wait for its node to lead, which has begun to, and how long at the most between two looks.
const COMES_TO_LEAD_WITHIN: Duration = Duration::from_secs(1);
const COMES_TO_LEAD_PAUSE: Duration = Duration::from_millis(20);
/// Reads of one client that are worked on at a time: each may hold an answer's bytes in memory, until there is room for it in the
/// connection's send buffer, which its client empties. The server's memory budget counts them.
const READS_OF_A_CLIENT: usize = 4;
/// How long a read waits for the position that it must show, whatever its client says.
const READ_WITHIN_MAX: Duration = Duration::from_secs(60);
/// Bytes of the send buffer that the answers of reads leave to those of writes; and how often that is looked at.
const ROOM_FOR_WRITES: usize = 4 << 20;
const LITTLE_QUEUED: u64 = 64 << 10;
const ROOM_PAUSE_MIN: Duration = Duration::from_millis(1);
const ROOM_PAUSE_MAX: Duration = Duration::from_millis(50);
/// How long a client may take to make room for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Server {
    /// One client's connection, until it ends.
    pub(super) async fn client(self, access: Access, handle: ConnectionHandle, mut events: EventReceiver) {
        let lines = Lines::new();
        let _closing = Closing(Arc::clone(&lines.writes));
        tokio::spawn(self.clone().write_in_order(Arc::clone(&lines.writes), Arc::clone(&lines.holds)));
        let reading = tokio::spawn(self.clone().read_in_turns(access.clone(), lines.reads.clone()));
        // What a client that is gone has asked is of no use to anybody.
        let _reading = AtWork(reading.abort_handle());
        let mut streams: BTreeMap<StreamId, Arc<Half>> = BTreeMap::new();
        let mut feeds = Feeds::default();
        while let Some(event) = events.recv().await {
            match event {
                NetEvent::Opened { stream, kind: StreamKind::Request, .. } => {
                    streams.insert(stream, Arc::new(Half { handle: handle.clone(), stream }));
                }
                NetEvent::Opened { stream, kind: StreamKind::Feed, .. } => feeds.open(stream),
                NetEvent::Opened { stream, .. } => handle.reset(stream, ResetCode::REFUSED),
                NetEvent::Message { stream, bytes, charge, .. } if feeds.0.contains_key(&stream) => {
                    handle.consumed(stream, charge);
                    match feeds.0.get_mut(&stream) {
                        Some(feed @ None) => {
                            let subscriber = Subscriber { handle: handle.clone(), stream };
                            let delivering = tokio::spawn(self.clone().deliver(access.clone(), subscriber, bytes));
                            *feed = Some(AtWork(delivering.abort_handle()));
                        }
                        // One subscription a stream.
                        _ => {
                            feeds.0.remove(&stream);
                            handle.reset(stream, ResetCode::REFUSED);
                        }
                    }
                }
                NetEvent::Message { stream, bytes, charge, .. } => {
                    let Some(half) = streams.get(&stream).map(Arc::clone) else {
                        handle.consumed(stream, charge);
                        continue;
                    };
                    let reply = Reply::new(half, charge, &self.requests);
                    match FromClient::decode(&bytes) {
                        Ok(message) => self.message(&access, message, reply, &lines),
                        Err(error @ CodecError::Kind { .. }) => {
                            // Not louder: a client can have it said as often as it likes.
                            tracing::debug!(%error, "a message on a stream of requests is none: the stream is refused");
                            drop((reply, streams.remove(&stream)));
                            handle.reset(stream, ResetCode::REFUSED);
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
                NetEvent::Finished { stream } if feeds.0.get(&stream).is_some_and(Option::is_some) => {}
                NetEvent::Finished { stream } | NetEvent::Reset { stream, .. } => {
                    streams.remove(&stream);
                    if feeds.0.remove(&stream).is_some() {
                        handle.finish(stream);
                    }
                }
                NetEvent::Closed { .. } => break,
                _ => {}
            }
        }
    }

    fn message(&self, access: &Access, message: FromClient, reply: Reply, lines: &Lines) {
        match message {
            FromClient::Request(request) => {
                let id = request.id;
                match access.admit(request) {
                    Ok(request) => self.request(request, reply, lines),
                    Err(denied) => reply.fail(id, denied),
                }
            }
            FromClient::Newer(head) => reply.fail(head.id, failure::not_understood()),
            FromClient::Cancel(Cancel { id }) => lines.cancel((reply.half.stream, id)),
        }
    }

    fn request(&self, request: Admitted<Request>, reply: Reply, lines: &Lines) {
        let Request { id, deadline_ms, namespace, body } = request.into_inner();
        let within = Duration::from_millis(u64::from(deadline_ms));
        let key = (reply.half.stream, id);
        let (record, reach) = match body {
            RequestBody::Write { record } => (record, None),
            RequestBody::Call(Call::Write { record, reach }) => (record, Some(reach)),
            mut body => {
                calls::settle_shown(&self.node, &namespace, &mut body);
                let within = if deadline_ms == 0 { READ_WITHIN_MAX } else { within.min(READ_WITHIN_MAX) };
                let read = WaitingRead { id, namespace, end: Instant::now() + within, body, reply };
                return lines.reads[read.kind()].push(key, read);
            }
        };
        let space = match self.node.namespace(&namespace) {
            Ok(space) => space,
            Err(error) => {
                let unknown = || failure::unknown_namespace(&namespace);
                return reply.fail(id, reach.map_or_else(unknown, |_| failure::of(&error.into())));
            }
        };
        let deadline = (deadline_ms > 0).then(|| Instant::now() + within);
        let (came, reply) = (Instant::now(), Arc::new(reply));
        let write = WaitingWrite { id, space, work: Work::Record(record), reach, deadline, came, reply };
        let write = if lines.writes.is_idle() { self.submit_now(write, &lines.holds) } else { Some(write) };
        if let Some(write) = write {
            lines.writes.push(key, write);
        }
    }

    /// Submits a write where it came: nobody has to be woken for it. It comes back if that takes a while.
    fn submit_now(&self, write: WaitingWrite, holds: &Holds) -> Option<WaitingWrite> {
        let WaitingWrite { id, space, work, reach, deadline, came, reply } = write;
        let record = match work {
            Work::Record(record) if record.len() < LARGE_RECORD_BYTES => record,
            work => return Some(WaitingWrite { id, space, work, reach, deadline, came, reply }),
        };
        let (shard, prepared) = match prepare(&space, record, reach) {
            Ok(prepared) => prepared,
            Err(failure) => {
                reply.fail(id, failure);
                return None;
            }
        };
        if !self.node.takes_writes_of(&shard) {
            if self.held_until(holds, &shard).is_some_and(|until| came < until) {
                let work = Work::Prepared(shard, prepared);
                return Some(WaitingWrite { id, space, work, reach, deadline, came, reply });
            }
            reply.fail(id, failure::not_serving(&self.node, &shard));
            return None;
        }
        holds.forget(shard.descriptor.shard);
        let (completion, placed) = completion(self.node.identity().node, &shard, id, reach, &reply);
        match shard.queue.submit(prepared.for_token(Arrived::now(completion)), SubmitPolicy::Fail) {
            Ok(()) => {
                answer_when_placed(self.node.identity().node, placed, &shard, id, reply);
                None
            }
            Err((refused, back)) => {
                let (token, submission) = back.without_token();
                token.caller.forget();
                if matches!(refused, SubmitError::Busy(_)) {
                    let work = Work::Prepared(shard, submission);
                    return Some(WaitingWrite { id, space, work, reach, deadline, came, reply });
                }
                reply.fail(id, refusal(reach, refused.into()));
                None
            }
        }
    }

    /// Until when writes of a shard are held that does not take them now; none are where somebody else leads, or it has ended.
    fn held_until(&self, holds: &Holds, shard: &ShardHandle) -> Option<Instant> {
        let id = shard.descriptor.shard;
        if self.node.comes_to_lead(shard) {
            return Some(holds.since(id) + COMES_TO_LEAD_WITHIN);
        }
        holds.forget(id);
        None
    }

    async fn write_in_order(self, waiting: Arc<Line<WaitingWrite>>, holds: Arc<Holds>) {
        while let Some((turn, write)) = waiting.next().await {
            self.write(turn, write, &holds).await;
        }
    }

    /// Submits a write; until it is submitted it can be cancelled.
    async fn write(&self, turn: Turn<WaitingWrite>, write: WaitingWrite, holds: &Holds) {
        let WaitingWrite { id, space, work, reach, deadline, came, reply } = write;
        let prepared = match work {
            Work::Prepared(shard, submission) => Ok((shard, submission)),
            Work::Record(record) if record.len() < LARGE_RECORD_BYTES => prepare(&space, record, reach),
            // It is compressed on its way: not on a thread that moves bytes.
            Work::Record(record) => tokio::task::spawn_blocking(move || prepare(&space, record, reach))
                .await
                .unwrap_or_else(|_| Err(failure::closing())),
        };
        let (shard, prepared) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => return reply.fail(id, failure),
        };
        let (completion, placed) = completion(self.node.identity().node, &shard, id, reach, &reply);
        let mut submission = prepared.for_token(Arrived::now(completion));
        // Since it came at the latest: those behind it have waited as long.
        let given_up = deadline.into_iter().fold(came + COMES_TO_LEAD_WITHIN, Instant::min);
        let failure = loop {
            if turn.is_stopped() {
                break failure::cancelled();
            }
            if !self.node.takes_writes_of(&shard) {
                // Whoever was sent here by the leader before is not sent away again.
                let held_until = self.held_until(holds, &shard).map(|until| until.min(given_up));
                if held_until.is_none_or(|until| until <= Instant::now()) || reply.half.handle.is_closed() {
                    break failure::not_serving(&self.node, &shard);
                }
                let leads = shard.positions.reach(new_key(), |positions| positions.serving().is_some());
                // Out of time, whether it is to be waited for is looked at again.
                drop(tokio::time::timeout(COMES_TO_LEAD_PAUSE, leads).await);
                continue;
            }
            holds.forget(shard.descriptor.shard);
            let refused = match shard.queue.submit(submission, SubmitPolicy::Fail) {
                Ok(()) => {
                    return answer_when_placed(self.node.identity().node, placed, &shard, id, reply);
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
        reply.fail(id, failure);
    }

    /// Reads touch the disk: they are done away from the threads that move bytes, a few at a time.
    async fn read_in_turns(self, access: Access, [at_once, behind_a_position, asked]: [Arc<Line<WaitingRead>>; 3]) {
        let snapshots = Snapshots::new(Arc::clone(&self.snapshots), SNAPSHOT_IDLE_MAX);
        let guest = Guest { access, snapshots: Arc::new(snapshots) };
        // Of three kinds, so that those who wait for a position, or for what other nodes say, hold up nobody who does not.
        tokio::join!(
            self.read_each(&guest, at_once),
            self.read_each(&guest, behind_a_position),
            self.read_each(&guest, asked)
        );
    }

    async fn read_each(&self, guest: &Guest, waiting: Arc<Line<WaitingRead>>) {
        let turns = Arc::new(Semaphore::new(READS_OF_A_CLIENT));
        // Dropped with this, when the client is gone, and what they do with them.
        let mut at_work = JoinSet::new();
        while let Ok(turn) = Arc::clone(&turns).acquire_owned().await
            && let Some((stoppable, read)) = waiting.next().await
        {
            while at_work.try_join_next().is_some() {}
            let (server, guest) = (self.clone(), guest.clone());
            at_work.spawn(async move {
                server.read(guest, stoppable, read).await;
                drop(turn);
            });
        }
    }

    async fn read(self, guest: Guest, turn: Turn<WaitingRead>, read: WaitingRead) {
        let Guest { access, snapshots } = guest;
        let WaitingRead { id, namespace, end, mut body, reply } = read;
        if let RequestBody::Call(Call::AssignLeader { leader, .. }) = &body {
            if let Some(address) = self.address_of_another(*leader) {
                return reply.send(id, ResponseBody::Answer(Answer::Elsewhere { node: *leader, address }));
            }
            // A figure for people, which orders nothing.
            self.assignments.fetch_add(1, Ordering::Relaxed);
            tracing::info!(node = %leader, %namespace, "{access} assigns this node by hand");
        }
        let begun = tokio::select! {
            biased;
            () = turn.stopped() => None,
            place = self.place(Asked { node: &self.node, name: &namespace, end, snapshots: &snapshots }, &mut body) => Some(place),
        };
        // What has begun ends by itself.
        drop(turn);
        let (answered, place) = match begun {
            None => (Err(failure::cancelled()), None),
            Some(place) => self.read_now(namespace, body, end, snapshots, place).await,
        };
        let answered = answered.map(|answer| access.shown(answer));
        // One that can't be put into bytes ends the connection, where it would be sent: its client would wait for it.
        let bytes = codec::encode(&Response { id, body: answered.unwrap_or_else(ResponseBody::Failed) }).ok();
        let _held = reply.half.handle.hold(bytes.as_ref().map_or(0, Bytes::len));
        // Not before: an answer that nobody counts takes the place of one that is worked on.
        drop(place);
        reply.send_in_turn(id, bytes).await;
    }

    /// Waits until a read can begin, and for its place among those that are worked on, if it takes one.
    async fn place(&self, asked: Asked<'_>, body: &mut RequestBody) -> Option<OwnedSemaphorePermit> {
        asked.wait_until_shown(body).await;
        match &*body {
            // How the server is must be told also while nothing else goes on.
            RequestBody::Status => None,
            // They wait for the log, and hold up no read; while it stands still, few of them may hold threads.
            RequestBody::Call(Call::OpenSession | Call::CloseSession { .. } | Call::AssignLeader { .. }) => {
                let place = Arc::clone(&self.opening).acquire_owned();
                tokio::time::timeout_at(asked.end, place).await.ok().and_then(Result::ok)
            }
            // Nobody closes it.
            _ => Arc::clone(&self.reading).acquire_owned().await.ok(),
        }
    }

    /// An answer, and the place that it holds until it is counted elsewhere.
    async fn read_now(
        self,
        namespace: String,
        body: RequestBody,
        end: Instant,
        snapshots: Arc<Snapshots>,
        place: Option<OwnedSemaphorePermit>,
    ) -> (Result<ResponseBody, Failure>, Option<OwnedSemaphorePermit>) {
        if matches!(body, RequestBody::Status) {
            return (self.status(&namespace).await, place);
        }
        let respond =
            move |body| Asked { node: &self.node, name: &namespace, end, snapshots: &snapshots }.respond(body);
        let is_of_session = matches!(body, RequestBody::Call(Call::OpenSession | Call::CloseSession { .. }));
        let is_assignment = matches!(body, RequestBody::Call(Call::AssignLeader { .. }));
        if (is_of_session || is_assignment) && place.is_none() {
            return (Err(Failure { no_side_effects: true, ..failure::unknown() }), None);
        }
        // The place goes along: where nobody waits for the answer any more, both end with it.
        let asked = tokio::task::spawn_blocking(move || (respond(body), place));
        // Others end in their own time: what reads could wait for is there, and an assignment says itself how far it is.
        let answered = if is_of_session { tokio::time::timeout_at(end, asked).await.ok() } else { Some(asked.await) };
        answered.and_then(Result::ok).unwrap_or_else(|| (Err(failure::unknown()), None))
    }

    /// On no thread: it must be told also while all of them are busy.
    async fn status(&self, namespace: &str) -> Result<ResponseBody, Failure> {
        self.node.namespace(namespace).map_err(|_| failure::unknown_namespace(namespace))?;
        self.node.status_soon().await.map(ResponseBody::Status).ok_or_else(failure::closing)
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
    node: NodeId,
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
            let positions = Arc::clone(&shard.positions);
            let body = move |result| if is_call { answered(result) } else { written(result) };
            let call = move |result| answer.send(id, naming(body(result), &positions, node));
            return (Completion::Callback(Callback::new(call)), None);
        }
    };
    let (receipt, completer) = shard.queue.gathering().pair();
    (completion(completer), Some(receipt))
}

/// Answers a write that is answered before it is applied.
fn answer_when_placed(
    node: NodeId,
    placed: Option<Receipt<Position>>,
    shard: &ShardHandle,
    id: u64,
    reply: Arc<Reply>,
) {
    if let Some(receipt) = placed {
        let positions = Arc::clone(&shard.positions);
        tokio::spawn(async move { reply.send(id, naming(answered(receipt.await), &positions, node)) });
    }
}

/// Names who leads instead, where nothing came of a write because its shard is led no more: its client need not look for it.
fn naming(mut body: ResponseBody, positions: &Positions, this: NodeId) -> ResponseBody {
    if let ResponseBody::Failed(failure) = &mut body
        && matches!(failure.class, FailureClass::ReRoute | FailureClass::Retry)
        && positions.serving().is_none()
    {
        failure.leader = failure.leader.or_else(|| positions.leader().filter(|leader| *leader != this));
    }
    body
}

/// To a call as the embedding program hears it; to a plain write by the server's own codes.
fn refusal(reach: Option<Reach>, refused: WriteRefused) -> Failure {
    if reach.is_some() { failure::of(&refused.into()) } else { failure::refused(&refused) }
}

fn decode(record: Vec<u8>) -> Result<Record, Failure> {
    let mut bytes = Bytes::from(record);
    let record = Record::decode(&mut bytes).map_err(|error| failure::bad_request(&error.to_string()))?;
    if bytes.is_empty() { Ok(record) } else { Err(failure::bad_request("bytes follow the record")) }
}

/// A feed, or reads, at work: they end when their client is gone.
struct AtWork(AbortHandle);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The feeds of one client. None: its first message has not come. Dropped, it ends.
#[derive(Default)]
struct Feeds(BTreeMap<StreamId, Option<AtWork>>);

impl Feeds {
    fn open(&mut self, stream: StreamId) {
        // Of one that failed behind its client's END nothing more is heard.
        self.0.retain(|_, feed| feed.as_ref().is_none_or(|feed| !feed.0.is_finished()));
        self.0.insert(stream, None);
    }
}

/// One client: what it may do, and what is held for it.
#[derive(Clone)]
struct Guest {
    access: Access,
    snapshots: Arc<Snapshots>,
}

/// What one client has asked, and waits for its turn: bounded by the connection's credit, which goes back with each answer.
struct Lines {
    writes: Arc<Line<WaitingWrite>>,
    holds: Arc<Holds>,
    /// Those that can be done at once, those that wait for a position, and those for which other nodes are asked.
    reads: [Arc<Line<WaitingRead>>; 3],
}

impl Lines {
    fn new() -> Self {
        Self { writes: Line::new(), holds: Arc::default(), reads: [Line::new(), Line::new(), Line::new()] }
    }

    /// Answers what has not begun. A number that nobody knows is of a request that is answered.
    fn cancel(&self, key: Key) {
        let (_, id) = key;
        if let Some(write) = self.writes.cancel(key) {
            write.reply.fail(id, failure::cancelled());
        }
        for read in self.reads.iter().filter_map(|line| line.cancel(key)) {
            read.reply.fail(id, failure::cancelled());
        }
    }
}

/// The shards whose writes a client's line is held for, and since when. All writes of one are given up at one moment, and until it
/// serves no other is held: each of them by itself would hold up those of every other shard anew.
///
/// Lock order: alone.
#[derive(Debug, Default)]
struct Holds(Mutex<BTreeMap<ShardId, Instant>>);

impl Holds {
    /// Since when a shard was found not to take writes; since now, if it was not.
    fn since(&self, shard: ShardId) -> Instant {
        *self.0.lock().entry(shard).or_insert_with(Instant::now)
    }

    /// It takes writes, or they go elsewhere: the next time is another one.
    fn forget(&self, shard: ShardId) {
        self.0.lock().remove(&shard);
    }
}

/// No more writes come: those that came before still go their way.
struct Closing(Arc<Line<WaitingWrite>>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A write that waits for its turn in the queue.
struct WaitingWrite {
    id: u64,
    space: Namespace,
    work: Work,
    /// None: a plain write, which is answered as such.
    reach: Option<Reach>,
    /// The client gives up then: not submitted by that time, it has no effect.
    deadline: Option<Instant>,
    came: Instant,
    reply: Arc<Reply>,
}

/// What is to be submitted.
enum Work {
    /// As it came.
    Record(Vec<u8>),
    /// There was no room for it in this queue.
    Prepared(Arc<ShardHandle>, Submission<()>),
}

/// The lines in which reads stand, by what they wait for.
const AT_ONCE: usize = 0;
const BEHIND_A_POSITION: usize = 1;
const ASKED: usize = 2;

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
    /// Which line it stands in.
    fn kind(&self) -> usize {
        let RequestBody::Call(call) = &self.body else { return AT_ONCE };
        match call.read() {
            Some(ReadAt::AtLeast { .. }) => BEHIND_A_POSITION,
            // On a node that votes alone they wait for nobody.
            Some(ReadAt::Linearizable | ReadAt::MaxStaleness { .. }) => ASKED,
            _ => AT_ONCE,
        }
    }
}

/// Our half of a client's stream; finished when nobody has anything to say on it any more.
struct Half {
    handle: ConnectionHandle,
    stream: StreamId,
}

impl Half {
    /// Waits until an answer of this length leaves room for those of writes, which wait for none; or there is little before it.
    async fn leaves_room(&self, length: usize) {
        let mut pause = ROOM_PAUSE_MIN;
        while self.handle.send_capacity(self.stream) < length.saturating_add(ROOM_FOR_WRITES)
            && self.handle.queued_bytes() > LITTLE_QUEUED
            && !self.handle.is_closed()
        {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ROOM_PAUSE_MAX);
        }
    }
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
    /// Requests of all clients that have no answer yet, this one among them.
    unanswered: Arc<AtomicUsize>,
}

impl Drop for Reply {
    fn drop(&mut self) {
        // A figure for people, which orders nothing.
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.half.handle.consumed(self.half.stream, self.charge);
    }
}

impl Reply {
    fn new(half: Arc<Half>, charge: usize, unanswered: &Arc<AtomicUsize>) -> Self {
        unanswered.fetch_add(1, Ordering::Relaxed);
        Self { half, charge, unanswered: Arc::clone(unanswered) }
    }

    fn fail(&self, id: u64, failure: Failure) {
        self.send(id, ResponseBody::Failed(failure));
    }

    /// Sends the answer of a write; the request's credit goes back with this. These are small, and reads leave room for them: a
    /// client that has not even taken so many loses its connection rather than cost memory.
    fn send(&self, id: u64, body: ResponseBody) {
        let half = &self.half;
        let sent = codec::encode(&Response { id, body })
            .map(|bytes| half.handle.try_send(half.stream, bytes, SendFlags::default()));
        self.done(id, matches!(sent, Ok(Ok(()) | Err(SendError::StreamClosed))));
    }

    /// Sends the answer of a read, which may have to wait for room; the request's credit goes back with it. None: it can't be said.
    async fn send_in_turn(&self, id: u64, bytes: Option<Bytes>) {
        let half = &self.half;
        let sent = match bytes {
            Some(bytes) => {
                let sending = async {
                    half.leaves_room(bytes.len()).await;
                    half.handle.send(half.stream, bytes, SendFlags::default()).await
                };
                matches!(tokio::time::timeout(ANSWER_TIMEOUT, sending).await, Ok(Ok(()) | Err(SendError::StreamClosed)))
            }
            None => false,
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;
    use crate::pipeline::WriteError;

    /// A client whose subscriptions all fail would fill the server's memory with them.
    #[test]
    fn feeds_that_have_ended_are_forgotten_when_another_is_opened() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut feeds = Feeds::default();
            let running = tokio::spawn(std::future::pending::<()>());
            feeds.0.insert(StreamId::new(1), Some(AtWork(running.abort_handle())));
            for number in 2..10 {
                feeds.open(StreamId::new(number));
                let ended = tokio::spawn(std::future::ready(()));
                feeds.0.insert(StreamId::new(number), Some(AtWork(ended.abort_handle())));
                ended.await.unwrap();
            }
            feeds.open(StreamId::new(10));
            feeds.open(StreamId::new(11));
            let left: Vec<_> = feeds.0.keys().map(|stream| stream.get()).collect();
            assert_eq!(left, [1, 10, 11], "what delivers, and what has not begun");
        });
    }

    #[test]
    fn a_write_of_which_nothing_came_as_its_shard_is_led_no_more_names_who_leads() {
        let (this, other) = (NodeId::new(1), NodeId::new(2));
        let leader = |error, positions: &Positions| match naming(written(Err(error)), positions, this) {
            ResponseBody::Failed(failure) => failure.leader,
            body => panic!("{body:?}"),
        };
        let positions = Positions::new(Lsn::ZERO).led_by(other);
        assert_eq!(leader(WriteError::Unknown, &positions), Some(other));
        assert_eq!(leader(WriteError::NotLeader, &positions), Some(other));
        positions.set_serving(Some(Lsn::FIRST));
        assert_eq!(leader(WriteError::Unknown, &positions), None, "it leads itself");
        positions.set_serving(None);
        positions.set_leader(Some(this));
        assert_eq!(leader(WriteError::Unknown, &positions), None, "nobody is sent to where it was");
    }
}

//! What a client and a server say to one another, and how a stream begins.
//!
//! Each is one envelope ([`super::codec`]). On a connection of role *client* one stream of kind *request* carries
//! [`Request`]s, each answered by one [`Response`] with its id, in any order. On a connection between nodes one
//! stream of kind *replication* per shard begins with a [`StreamHello`] and then carries
//! [`Message`](super::message::Message)s.

use super::call::{Answer, Call};
use super::codec::{Decode, Encode, Enveloped};
use super::ids::{NodeId, ShardId};
use super::limits::MESSAGE_BYTES_MAX;
use super::outcome::Outcome;

/// The first message of a replication stream: which shard's log it is about.
///
/// ```
/// use towline::model::codec::{decode, encode};
/// use towline::model::{LogId, ReplicationStream, ShardId, request::StreamHello};
/// let (shard, log) = (ShardId::new(1024), LogId::new(7));
/// let hello: StreamHello = decode(&ReplicationStream::new(shard, log).greeting()?)?;
/// assert_eq!(hello, StreamHello { shard, log: log.as_u128() });
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamHello {
    /// The shard.
    pub shard: ShardId,
    /// Its log's lineage; one that differs is another shard by the same number, and is refused.
    pub log: u128,
}

impl Enveloped for StreamHello {
    const KIND: u16 = 0x0202;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 256;
}

/// One request of a client.
///
/// ```
/// use towline::model::codec::{decode, encode};
/// use towline::model::request::{Request, RequestBody};
/// let get = RequestBody::Get { key: b"colour".to_vec() };
/// let asked = Request { id: 1, deadline_ms: 500, namespace: "default".into(), body: get };
/// let bytes = encode(&asked)?;
/// assert_eq!(decode::<Request>(&bytes)?, asked);
/// assert!(decode::<Request>(&[&bytes[..], b"x"].concat()).is_err(), "an envelope is one request, and no more");
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    /// The client's number for it: the response carries it.
    pub id: u64,
    /// How long the client waits, in milliseconds from when the server has it; 0: as long as the server allows.
    pub deadline_ms: u32,
    /// The namespace it is about.
    pub namespace: String,
    /// What is asked.
    pub body: RequestBody,
}

/// What a client asks. The order of the variants is part of the format.
///
/// ```
/// use towline::model::request::RequestBody;
/// use towline::model::{Record, Write};
/// let record = Write::new().put("colour", "blue").into_record();
/// let body = RequestBody::Write { record: record.encode()?.to_vec() };
/// // The server checks the record once more: it came from a client.
/// let RequestBody::Write { record: bytes } = body else { return Err("a write was asked".into()) };
/// assert_eq!(Record::decode(&mut bytes.into())?, record);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum RequestBody {
    /// Writes one record (its bytes as [`super::record`] lays them out).
    Write {
        /// The record.
        record: Vec<u8>,
    },
    /// Reads a key's value as applied on the server asked.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Reads events of a stream as applied on the server asked.
    ReadStream {
        /// The stream's name.
        stream: Vec<u8>,
        /// The first version wanted; with `Direction::Backward`, the last (0: from the stream's end).
        from: u64,
        /// Which way.
        direction: Direction,
        /// How many events at the most; the server may send fewer, and says that there are more.
        events_max: u32,
    },
    /// The digest of the state as applied on the server asked.
    Digest,
    /// How the server is.
    Status,
    /// What the embedded engine is asked too.
    Call(Call),
}

/// Which way a stream is read.
///
/// ```
/// use towline::model::request::Direction;
/// use towline::state::read_stream;
/// # use towline::model::{Expect, Outcome, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// # for event in ["ordered", "paid", "sent"] {
/// #     apply(&mut applier, Write::new().append_with("order-42", Expect::Any, "till 3", event))?;
/// # }
/// # let view = applier.store();
/// // "ordered", "paid" and "sent" were appended.
/// let newest = read_stream(view, namespace, b"order-42", 0, Direction::Backward, 1, 1024)?;
/// assert_eq!((newest.events[0].value.as_slice(), newest.more), (&b"sent"[..], true));
/// let behind_the_first = read_stream(view, namespace, b"order-42", 2, Direction::Forward, 10, 1024)?;
/// let values: Vec<_> = behind_the_first.events.iter().map(|event| event.value.as_slice()).collect();
/// assert_eq!(values, [&b"paid"[..], b"sent"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Direction {
    /// From old to new.
    Forward,
    /// From new to old.
    Backward,
}

/// The answer to one request.
///
/// ```
/// use std::collections::HashMap;
/// use towline::model::codec::{decode, encode};
/// use towline::model::request::{Response, ResponseBody};
/// let absent = ResponseBody::Value { value: None, applied: 9 };
/// # let arrived = [2, 1].map(|id| encode(&Response { id, body: absent.clone() }));
/// // What was asked, by number: the answers come in any order.
/// let mut waiting = HashMap::from([(1, "colour"), (2, "size")]);
/// for bytes in arrived {
///     let Response { id, body } = decode(&bytes?)?;
///     assert!(waiting.remove(&id).is_some());
///     assert_eq!(body, absent);
/// }
/// assert!(waiting.is_empty());
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Response {
    /// The request's number.
    pub id: u64,
    /// What came of it.
    pub body: ResponseBody,
}

/// What a server answers. The order of the variants is part of the format.
///
/// ```
/// use towline::model::Outcome;
/// use towline::model::request::ResponseBody;
/// /// The LSN of a write that took effect.
/// fn written(body: ResponseBody) -> Result<u64, String> {
///     match body {
///         ResponseBody::Written { lsn, outcome, .. } => {
///             outcome.applied().map(|_| lsn).map_err(|rejection| rejection.to_string())
///         }
///         ResponseBody::Failed(failure) => Err(format!("TW-{}: {}", failure.code, failure.message)),
///         other => Err(format!("that is no answer to a write: {other:?}")),
///     }
/// }
/// let outcome = Outcome::Applied { version: 7 };
/// assert_eq!(written(ResponseBody::Written { epoch: (1024, 1), lsn: 7, outcome }), Ok(7));
/// assert!(written(ResponseBody::Value { value: None, applied: 7 }).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum ResponseBody {
    /// The write is committed and applied on the server asked.
    Written {
        /// The epoch it lies in: version and term.
        epoch: (u64, u32),
        /// Its LSN.
        lsn: u64,
        /// Its outcome.
        outcome: Outcome,
    },
    /// A key's value, with its version; none if it is absent.
    Value {
        /// Version and value.
        value: Option<(u64, Vec<u8>)>,
        /// The position applied on the server when it was read.
        applied: u64,
    },
    /// Events of a stream.
    Events {
        /// The events.
        events: Vec<StreamEvent>,
        /// The stream's version: its last event's number, 0 if it has none.
        head: u64,
        /// Whether there are more in the direction asked.
        more: bool,
        /// The position applied on the server when it was read.
        applied: u64,
    },
    /// The state's digest at the applied position.
    Digest {
        /// The epoch of the position: version and term.
        epoch: (u64, u32),
        /// The position applied.
        applied: u64,
        /// The digest.
        digest: [u8; 16],
    },
    /// How the server is.
    Status(ServerStatus),
    /// The request failed.
    Failed(Failure),
    /// The answer to a call.
    Answer(Answer),
}

/// One event of a stream.
///
/// ```
/// use towline::model::request::{Direction, StreamEvent};
/// use towline::state::read_stream;
/// # use towline::model::{Expect, Outcome, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// # apply(&mut applier, Write::new().put("till-3", "open"))?;
/// # for event in ["ordered", "paid", "sent"] {
/// #     apply(&mut applier, Write::new().append_with("order-42", Expect::Any, "till 3", event))?;
/// # }
/// # let view = applier.store();
/// let mut read = read_stream(view, namespace, b"order-42", 1, Direction::Forward, 10, 1024)?;
/// let StreamEvent { version, lsn, metadata, value } = read.events.remove(0);
/// assert_eq!((value, metadata), (b"ordered".to_vec(), b"till 3".to_vec()));
/// assert_eq!((version, lsn), (1, 2), "the stream's first event, by the shard's second write");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamEvent {
    /// Its number in the stream, from 1.
    pub version: u64,
    /// The LSN of the record that appended it.
    pub lsn: u64,
    /// Where it came from.
    pub metadata: Vec<u8>,
    /// The event.
    pub value: Vec<u8>,
}

/// How a server is.
///
/// ```
/// use towline::model::codec::{decode, encode};
/// use towline::model::request::{FollowerStatus, Response, ResponseBody, ServerStatus};
/// # use towline::model::NodeId;
/// # let follower = |node, durable| FollowerStatus { node: NodeId::new(node), connected: true, durable };
/// # let status = ServerStatus {
/// #     node: NodeId::new(1), leader: Some(NodeId::new(1)), serving: true, epoch: (1024, 1), end: 100, durable: 100,
/// #     committed: 97, applied: 97, wire_bytes_sent: 0, log_bytes: 0, batch_bytes: (0, 0),
/// #     followers: vec![follower(2, 97), follower(3, 40)],
/// # };
/// # let bytes = encode(&Response { id: 1, body: ResponseBody::Status(status) })?;
/// // `bytes` is the answer to `RequestBody::Status`.
/// let Response { body: ResponseBody::Status(status), .. } = decode(&bytes)? else { return Err("another answer".into()) };
/// assert!(status.serving && status.leader == Some(status.node), "writes go to this one");
/// assert_eq!(status.end - status.committed, 3, "records that are on their way to a majority");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ServerStatus {
    /// The node asked.
    pub node: NodeId,
    /// The leader that it knows, if any.
    pub leader: Option<NodeId>,
    /// Whether it takes writes.
    pub serving: bool,
    /// The epoch: version and term.
    pub epoch: (u64, u32),
    /// The log's end.
    pub end: u64,
    /// The log's durable end.
    pub durable: u64,
    /// The commit position as known here.
    pub committed: u64,
    /// The applied position.
    pub applied: u64,
    /// Bytes sent to other nodes since the start, framing included.
    pub wire_bytes_sent: u64,
    /// Bytes written to the log's files since the start, with directories and padding.
    pub log_bytes: u64,
    /// Bytes of batches appended since the start: before compression, and as they lie in the log.
    pub batch_bytes: (u64, u64),
    /// The followers that a leader knows.
    pub followers: Vec<FollowerStatus>,
}

/// A follower, as its leader sees it.
///
/// ```
/// use towline::model::request::{FollowerStatus, ServerStatus};
/// # use towline::model::NodeId;
/// # let follower = |node, durable| FollowerStatus { node: NodeId::new(node), connected: true, durable };
/// # let status = ServerStatus {
/// #     node: NodeId::new(1), leader: Some(NodeId::new(1)), serving: true, epoch: (1024, 1), end: 100, durable: 100,
/// #     committed: 97, applied: 97, wire_bytes_sent: 0, log_bytes: 0, batch_bytes: (0, 0),
/// #     followers: vec![follower(2, 97), follower(3, 40)],
/// # };
/// // `status` is a leader's: which of its followers is how far behind?
/// let behind = |follower: &FollowerStatus| (follower.node.get(), status.end.saturating_sub(follower.durable));
/// let worst = status.followers.iter().map(behind).max_by_key(|(_, behind)| *behind);
/// assert_eq!(worst, Some((3, 60)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FollowerStatus {
    /// The node.
    pub node: NodeId,
    /// Whether a connection to it is open.
    pub connected: bool,
    /// Its durable position that equals the leader's log.
    pub durable: u64,
}

/// Why a request failed.
///
/// ```
/// use towline::model::NodeId;
/// use towline::model::request::{Failure, FailureClass, code};
/// /// Whom to ask next, if the request can be tried again as it is.
/// fn next(failure: &Failure, asked: NodeId) -> Option<NodeId> {
///     match failure.class {
///         FailureClass::Retry => Some(asked),
///         FailureClass::ReRoute => failure.leader,
///         _ => None,
///     }
/// }
/// let moved = Failure {
///     code: code::NOT_SERVING, class: FailureClass::ReRoute, no_side_effects: true,
///     message: "node 2 leads".into(), leader: Some(NodeId::new(2)),
/// };
/// assert_eq!(next(&moved, NodeId::new(1)), Some(NodeId::new(2)));
/// assert!(moved.no_side_effects, "so that this is no second try of a write that may have taken effect");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// The stable code: `TW-` and these four digits.
    pub code: u16,
    /// What the client can do.
    pub class: FailureClass,
    /// Whether the write has certainly not taken effect, and will not.
    pub no_side_effects: bool,
    /// A sentence for people.
    pub message: String,
    /// The leader, where another node is the one to ask.
    pub leader: Option<NodeId>,
}

/// Codes of failures that a client acts on, whatever their class. The server's codes are TW-8xxx (a table in
/// `node/failure.rs`); a client's own are TW-7xxx.
pub mod code {
    /// The leader does not take writes yet, or no more: look for the leader again.
    pub const NOT_SERVING: u16 = 8002;
    /// The node is closing: look for the leader again.
    pub const CLOSING: u16 = 8005;
}

/// What one can do about a failure.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::Policy;
/// use towline::model::request::FailureClass;
/// let refused = Catalog::initial().create("", Policy::default(), &[]).unwrap_err();
/// let advice = match refused.class() {
///     FailureClass::Retry | FailureClass::ReRoute => "again, here or elsewhere",
///     FailureClass::FixRequest => "never again as it is",
///     FailureClass::Operator => "tell who runs it",
///     _ => "stop, and keep everything",
/// };
/// assert_eq!(advice, "never again as it is");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum FailureClass {
    /// Try again, the same request, after a pause.
    Retry,
    /// Ask another node.
    ReRoute,
    /// The request itself is wrong.
    FixRequest,
    /// An operator is needed.
    Operator,
    /// Data is damaged.
    Damage,
}

impl Enveloped for Request {
    const KIND: u16 = 0x0301;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}

impl Enveloped for Response {
    const KIND: u16 = 0x0302;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}

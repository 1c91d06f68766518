//! What a client and a server say to one another, and how a stream begins.
//!
//! Each is one envelope ([`super::codec`]). On a connection of role *client* one stream of kind *request* carries
//! [`Request`]s, each answered by one [`Response`] with its id, in any order. On a connection between nodes one
//! stream of kind *replication* per shard begins with a [`StreamHello`] and then carries
//! [`Message`](super::message::Message)s.

use super::codec::{Decode, Encode, Enveloped};
use super::ids::{NodeId, ShardId};
use super::limits::MESSAGE_BYTES_MAX;
use super::outcome::Outcome;

/// The first message of a replication stream: which shard's log it is about.
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
}

/// Which way a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Direction {
    /// From old to new.
    Forward,
    /// From new to old.
    Backward,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Response {
    /// The request's number.
    pub id: u64,
    /// What came of it.
    pub body: ResponseBody,
}

/// What a server answers. The order of the variants is part of the format.
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
}

/// One event of a stream.
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

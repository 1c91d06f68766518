//! What a client asks of a namespace, as the embedded engine is asked it: the calls of [`crate::node::Namespace`] as messages.
//!
//! A [`Call`] is the body of a [`Request`](super::request::Request), whose namespace it is about, and an [`Answer`] that of the
//! response. They are read where they came from: everything in them is checked again by the server.

use super::codec::{Decode, Encode};
use super::ids::{NodeId, ShardId};
use super::namespace::{NamespaceDescriptor, Policy};
use super::outcome::Outcome;
use super::read::Read;
use super::request::{Direction, StreamEvent};
use super::scan::Scan;
use super::token::{Token, TokenError};
use super::written::{Position, Written};
use towline_wal::{Epoch, Lsn};

/// What is asked. The order of the variants is part of the format.
///
/// ```
/// use towline::model::call::{Call, Reach};
/// use towline::model::codec::{decode, encode};
/// use towline::model::request::{Request, RequestBody};
/// use towline::model::Write;
/// let record = Write::new().put("stock/apple", "7").record().encode()?.to_vec();
/// let body = RequestBody::Call(Call::Write { record, reach: Reach::Applied });
/// let request = Request { id: 1, deadline_ms: 500, namespace: "shop".into(), body };
/// assert_eq!(decode::<Request>(&encode(&request)?)?, request);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Call {
    /// Writes one record (its bytes as [`super::record`] lays them out), and is answered when it has come so far.
    Write {
        /// The record.
        record: Vec<u8>,
        /// How far.
        reach: Reach,
    },
    /// Reads what keys hold, all at one moment.
    MultiGet {
        /// The keys.
        keys: Vec<Vec<u8>>,
        /// How new it must be.
        read: ReadAt,
    },
    /// Reads a page of keys and values.
    Scan {
        /// Which, and how many.
        scan: Scan,
        /// How new it must be.
        read: ReadAt,
    },
    /// Reads events of a stream.
    ReadStream {
        /// The stream's name.
        stream: Vec<u8>,
        /// The first version wanted; with `Direction::Backward`, the last (0: from the stream's end).
        from: u64,
        /// Which way.
        direction: Direction,
        /// How many events at the most; the server may send fewer, and says that there are more.
        events_max: u32,
        /// How many bytes of them, about; one event is always sent whole.
        bytes_max: u32,
        /// How new it must be.
        read: ReadAt,
    },
    /// Where the namespace's shards are applied.
    Token,
    /// Opens a session in all shards of the namespace.
    OpenSession,
    /// Closes one.
    CloseSession {
        /// Its id in each shard.
        ids: Vec<(ShardId, u128)>,
    },
    /// What the namespace is.
    Describe,
    /// What all namespaces are.
    Namespaces,
    /// Makes the request's namespace.
    CreateNamespace {
        /// Its policy.
        policy: Policy,
        /// Where its shards begin, but for the first.
        split_points: Vec<Vec<u8>>,
    },
    /// Calls it otherwise.
    RenameNamespace {
        /// How.
        to: String,
    },
    /// Sets its policy.
    SetPolicy {
        /// Which.
        policy: Policy,
    },
    /// Removes it, and all that it holds.
    DropNamespace,
    /// Holds one moment of the namespace, to be looked at by [`Call::Look`]: until it is closed, nobody looked for a minute, or the
    /// connection ends.
    OpenSnapshot {
        /// How new it must be.
        read: ReadAt,
    },
    /// Looks at a moment that is held.
    Look {
        /// Its number, of the answer to [`Call::OpenSnapshot`] on this connection.
        snapshot: u64,
        /// For what.
        look: Look,
    },
    /// Holds it no more.
    CloseSnapshot {
        /// Its number.
        snapshot: u64,
    },
    /// Who follows, and how far each is.
    Followers,
    /// Keeps nothing for a follower any more.
    ForgetFollower {
        /// Its name.
        name: String,
    },
    /// A follower is done with everything up to a position.
    Acknowledge {
        /// Its name.
        follower: String,
        /// The seat that it was given ([`Delivery::Seated`](super::subscription::Delivery::Seated)).
        seat: u64,
        /// The bytes of its token ([`Token::encode`]).
        token: Vec<u8>,
    },
    /// Makes a node the leader of a shard of the namespace, whoever leads it. That node is asked: another one says where it is.
    AssignLeader {
        /// Which shard; none: the namespace's only one.
        shard: Option<ShardId>,
        /// Which node.
        leader: NodeId,
    },
    /// Where the namespace's shards begin, and who leads each, as far as the node knows that is asked.
    Shards,
}

/// What is looked for in a moment that is held. The order of the variants is part of the format.
///
/// ```
/// use towline::model::Scan;
/// use towline::model::call::{Call, Look};
/// let look = Look::Scan { scan: Scan::prefix("stock/") };
/// // It waits for nothing: the moment is chosen.
/// assert_eq!(Call::Look { snapshot: 1, look }.read(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Look {
    /// What keys hold.
    MultiGet {
        /// The keys.
        keys: Vec<Vec<u8>>,
    },
    /// A page of keys and values.
    Scan {
        /// Which, and how many.
        scan: Scan,
    },
    /// Events of a stream, as [`Call::ReadStream`] asks for them.
    ReadStream {
        /// The stream's name.
        stream: Vec<u8>,
        /// The first version wanted; with `Direction::Backward`, the last (0: from the stream's end).
        from: u64,
        /// Which way.
        direction: Direction,
        /// How many events at the most.
        events_max: u32,
        /// How many bytes of them, about.
        bytes_max: u32,
    },
}

/// How far a write has come when it is answered. The order of the variants is part of the format.
///
/// ```
/// use towline::model::call::Reach;
/// // What a lone node answers first: a write that it could still lose.
/// assert!(Reach::Buffered < Reach::Durable && Reach::Durable < Reach::Applied);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[non_exhaustive]
pub enum Reach {
    /// It has its place in the log, and is not durable.
    Buffered,
    /// It is durable on the node that answers.
    Durable,
    /// It is committed, and applied on the node that answers.
    Applied,
}

/// How new a read must be: [`Read`] as a message. The order of the variants is part of the format.
///
/// ```
/// use towline::model::call::ReadAt;
/// use towline::model::{Epoch, Lsn, Read, ShardId, Token};
/// let token = Token::at(ShardId::new(1024), Epoch::new(1, 1), Lsn::new(7));
/// let sent = ReadAt::try_from(&Read::AtLeast(token.clone()))?;
/// assert_eq!(Read::try_from(sent)?, Read::AtLeast(token));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum ReadAt {
    /// As new as the server has it.
    Eventual,
    /// Not older than this.
    AtLeast {
        /// The token's bytes ([`Token::encode`]).
        token: Vec<u8>,
    },
    /// Not older than anything that was answered before.
    Linearizable,
    /// Not older than anything that was answered so long before.
    MaxStaleness {
        /// How long, in microseconds.
        micros: u64,
    },
}

/// What is answered. The order of the variants is part of the format.
///
/// ```
/// use towline::model::call::Answer;
/// use towline::model::request::ResponseBody;
/// use towline::model::{Outcome, ShardId};
/// let outcome = Outcome::Applied { version: 7 };
/// let body = ResponseBody::Answer(Answer::Written { shard: ShardId::new(1024), epoch: (1024, 1), lsn: 7, outcome });
/// let ResponseBody::Answer(answer) = body else { panic!("a write was asked") };
/// assert_eq!(answer.written().map(|written| written.lsn.get()), Some(7));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Answer {
    /// The write is committed, and applied on the server.
    Written {
        /// The shard that it lies in.
        shard: ShardId,
        /// The epoch: version and term.
        epoch: (u64, u32),
        /// Its LSN.
        lsn: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// The write has its place, and is as durable as was asked.
    Placed {
        /// The shard that it lies in.
        shard: ShardId,
        /// The epoch: version and term.
        epoch: (u64, u32),
        /// Its LSN.
        lsn: u64,
    },
    /// What each key holds: version and value.
    Values(Vec<Option<(u64, Vec<u8>)>>),
    /// A page of keys.
    Page {
        /// Key, version and value of each, in the order asked.
        entries: Vec<(Vec<u8>, u64, Vec<u8>)>,
        /// How to go on; none: there is nothing more.
        next: Option<Scan>,
    },
    /// Events of a stream.
    Events {
        /// The events.
        events: Vec<StreamEvent>,
        /// The stream's version: its last event's number, 0 if it has none.
        head: u64,
        /// Whether there are more in the direction asked.
        more: bool,
    },
    /// A token's bytes ([`Token::encode`]).
    Token(Vec<u8>),
    /// The session's id in each shard.
    Session(Vec<(ShardId, u128)>),
    /// A namespace.
    Namespace(NamespaceDescriptor),
    /// All of them.
    Namespaces(Vec<NamespaceDescriptor>),
    /// It is done.
    Done,
    /// A moment is held.
    Snapshot {
        /// Its number on this connection.
        snapshot: u64,
        /// The bytes of the token that says which moment ([`Token::encode`]).
        token: Vec<u8>,
    },
    /// Who follows: of each, in each shard, its name, the shard, the last record that it is done with, the last that there is, and
    /// whether somebody follows by this name now.
    Followers(Vec<(String, ShardId, u64, u64, bool)>),
    /// The node leads, and takes writes.
    Assigned {
        /// The shard.
        shard: ShardId,
        /// The node.
        leader: NodeId,
        /// The epoch that began with it: version and term.
        epoch: (u64, u32),
    },
    /// Another node is to be asked.
    Elsewhere {
        /// Which.
        node: NodeId,
        /// Its address, as the configuration of the node that answers has it.
        address: String,
    },
    /// The namespace's shards, in the order of their keys.
    Shards(Vec<ShardPlace>),
}

/// A shard, as one node knows it. The order of the fields is part of the format.
///
/// ```
/// use towline::model::call::ShardPlace;
/// use towline::model::{NodeId, ShardId};
/// # let (shard, leader) = (ShardId::new(2048), Some(NodeId::new(2)));
/// # let told = [ShardPlace { shard, start: vec![], leader, serving: false, applied: 7, failure: None }];
/// // `told` is the answer of a node to `Call::Shards`.
/// let leads = |place: &ShardPlace| place.leader == Some(NodeId::new(2));
/// assert_eq!(told.iter().filter(|place| leads(place)).map(|place| place.shard).collect::<Vec<_>>(), [ShardId::new(2048)]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShardPlace {
    /// The shard.
    pub shard: ShardId,
    /// Its first key: empty, of the first shard.
    pub start: Vec<u8>,
    /// Who leads it, if the node knows that.
    pub leader: Option<NodeId>,
    /// Whether the node itself takes writes of it.
    pub serving: bool,
    /// Up to where the node has applied its log.
    pub applied: u64,
    /// Why it has stopped on the node, if it has.
    pub failure: Option<String>,
}

impl Call {
    /// How new a read must be, if it is one that says so.
    #[must_use]
    pub const fn read(&self) -> Option<&ReadAt> {
        match self {
            Self::MultiGet { read, .. }
            | Self::Scan { read, .. }
            | Self::ReadStream { read, .. }
            | Self::OpenSnapshot { read } => Some(read),
            _ => None,
        }
    }

    /// As [`Call::read`], to be changed.
    pub const fn read_mut(&mut self) -> Option<&mut ReadAt> {
        match self {
            Self::MultiGet { read, .. }
            | Self::Scan { read, .. }
            | Self::ReadStream { read, .. }
            | Self::OpenSnapshot { read } => Some(read),
            _ => None,
        }
    }
}

impl TryFrom<&Read> for ReadAt {
    type Error = super::CodecError;

    fn try_from(read: &Read) -> Result<Self, super::CodecError> {
        Ok(match read {
            Read::Eventual => Self::Eventual,
            Read::AtLeast(token) => Self::AtLeast { token: token.encode()?.to_vec() },
            Read::Linearizable => Self::Linearizable,
            Read::MaxStaleness(staleness) => {
                Self::MaxStaleness { micros: u64::try_from(staleness.as_micros()).unwrap_or(u64::MAX) }
            }
        })
    }
}

impl TryFrom<ReadAt> for Read {
    type Error = TokenError;

    fn try_from(read: ReadAt) -> Result<Self, TokenError> {
        Ok(match read {
            ReadAt::Eventual => Self::Eventual,
            ReadAt::AtLeast { token } => Self::AtLeast(Token::decode(&token)?),
            ReadAt::Linearizable => Self::Linearizable,
            ReadAt::MaxStaleness { micros } => Self::MaxStaleness(std::time::Duration::from_micros(micros)),
        })
    }
}

impl From<Written> for Answer {
    fn from(Written { shard, epoch, lsn, outcome }: Written) -> Self {
        Self::Written { shard, epoch: (epoch.version, epoch.term), lsn: lsn.get(), outcome }
    }
}

impl From<Position> for Answer {
    fn from(Position { shard, epoch, lsn }: Position) -> Self {
        Self::Placed { shard, epoch: (epoch.version, epoch.term), lsn: lsn.get() }
    }
}

impl Answer {
    /// What came of a write, if it is that.
    #[must_use]
    pub const fn written(&self) -> Option<Written> {
        match self {
            Self::Written { shard, epoch: (version, term), lsn, outcome } => {
                let epoch = Epoch { version: *version, term: *term };
                Some(Written { shard: *shard, epoch, lsn: Lsn::new(*lsn), outcome: *outcome })
            }
            _ => None,
        }
    }

    /// Where a write lies, if it is that.
    #[must_use]
    pub const fn placed(&self) -> Option<Position> {
        match self {
            Self::Placed { shard, epoch: (version, term), lsn } => {
                let epoch = Epoch { version: *version, term: *term };
                Some(Position { shard: *shard, epoch, lsn: Lsn::new(*lsn) })
            }
            _ => None,
        }
    }
}

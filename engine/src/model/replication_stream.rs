//! How a replication stream is read: first who it is about, then messages; and which bytes are still owed.
//!
//! No I/O: the driver (`node`, or the simulator) hands in what the connection delivered, and returns the
//! connection's credit when this says so. Credit for appended batches goes back when they are durable, so that a
//! slow disk slows its leader without a queue in between.

use super::codec::{self, CodecError};
use super::ids::ShardId;
use super::message::{Message, MessageError};
use super::request::StreamHello;
use bytes::Bytes;
use std::collections::VecDeque;
use towline_wal::{Epoch, LogId, Lsn};

/// One replication stream, as its receiver sees it.
///
/// ```
/// use towline::model::{Epoch, LogId, Lsn, Received, ReplicationStream, ShardId};
/// let (shard, log) = (ShardId::new(1024), LogId::new(1));
/// let mut stream = ReplicationStream::new(shard, log);
/// let theirs = ReplicationStream::new(shard, log).greeting()?;
/// assert_eq!(stream.receive(&theirs)?, Received::Greeting);
///
/// // Batches up to LSN 8 were taken: 4000 bytes of the window, which go back when those are durable.
/// let epoch = Epoch::new(1024, 1);
/// assert_eq!(stream.charge(Some((epoch, Lsn::new(8))), 4000), 0);
/// assert_eq!(stream.settle(epoch, Lsn::new(7)), 0);
/// assert_eq!(stream.settle(epoch, Lsn::new(8)), 4000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ReplicationStream {
    shard: ShardId,
    log: LogId,
    greeted: bool,
    /// Epoch and last LSN of appended batches that are not durable yet, and what they hold of the window.
    owed: VecDeque<(Epoch, Lsn, usize)>,
}

/// What came.
///
/// ```
/// use towline::model::{Epoch, LogId, Message, NodeId, Received, ReplicationStream, ShardId};
/// let mut stream = ReplicationStream::new(ShardId::new(1024), LogId::new(1));
/// let fence = Message::Fence { epoch: Epoch::new(1024, 1), leader: NodeId::new(2) };
/// let (mut greeted, mut said) = (false, vec![]);
/// for bytes in [stream.greeting()?, fence.encode()?] {
///     match stream.receive(&bytes)? {
///         Received::Greeting => greeted = true, // From here on the replica may speak to the peer.
///         Received::Message(message) => said.push(message),
///         newer => return Err(format!("not known here: {newer:?}").into()),
///     }
/// }
/// assert_eq!((greeted, said), (true, vec![fence]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// The stream is about our shard: the peer can be spoken to.
    Greeting,
    /// A message.
    Message(Message),
}

/// Why the stream can't go on.
///
/// ```
/// use towline::model::{LogId, ReplicationStream, ShardId, StreamError};
/// let shard = ShardId::new(1024);
/// let mut ours = ReplicationStream::new(shard, LogId::new(1));
/// // The peer's shard has the same number, and is of another cluster.
/// let theirs = ReplicationStream::new(shard, LogId::new(2)).greeting()?;
/// match ours.receive(&theirs) {
///     Err(StreamError::WrongLog { our_log, their_log, .. }) => assert_ne!(our_log, their_log),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The greeting is not one.
    #[error("the stream's greeting: {0}")]
    Greeting(#[from] CodecError),
    /// A message is not one.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Another shard, or another log by the same number.
    #[error(
        "the stream is about shard {theirs} with log {their_log}; here it is shard {ours} with log {our_log}: the peer is of another \
         cluster, or names other namespaces in its configuration"
    )]
    WrongLog {
        /// The shard here.
        ours: ShardId,
        /// The log here.
        our_log: LogId,
        /// The shard named.
        theirs: ShardId,
        /// The log named.
        their_log: LogId,
    },
}

impl ReplicationStream {
    /// A stream about this shard's log.
    #[must_use]
    pub const fn new(shard: ShardId, log: LogId) -> Self {
        Self { shard, log, greeted: false, owed: VecDeque::new() }
    }

    /// The greeting that our side sends first.
    ///
    /// # Errors
    /// None in practice: its layout has a fixed size.
    pub fn greeting(&self) -> Result<Bytes, CodecError> {
        codec::encode(&StreamHello { shard: self.shard, log: self.log.as_u128() })
    }

    /// Which shard a stream is about whose greeting this is: for whoever did not open it.
    ///
    /// ```
    /// use towline::model::{LogId, ReplicationStream, ShardId};
    /// let greeting = ReplicationStream::new(ShardId::new(2048), LogId::new(1)).greeting()?;
    /// assert_eq!(ReplicationStream::greeted_shard(&greeting), Ok(ShardId::new(2048)));
    /// # Ok::<(), towline::model::CodecError>(())
    /// ```
    ///
    /// # Errors
    /// It is no greeting.
    pub fn greeted_shard(bytes: &Bytes) -> Result<ShardId, CodecError> {
        codec::decode::<StreamHello>(bytes).map(|hello| hello.shard)
    }

    /// Reads one message of the connection.
    ///
    /// # Errors
    /// See [`StreamError`]; the stream is then to be reset.
    pub fn receive(&mut self, bytes: &Bytes) -> Result<Received, StreamError> {
        if self.greeted {
            return Ok(Received::Message(Message::decode(bytes)?));
        }
        let hello: StreamHello = codec::decode(bytes)?;
        if hello.shard != self.shard || hello.log != self.log.as_u128() {
            return Err(StreamError::WrongLog {
                ours: self.shard,
                our_log: self.log,
                theirs: hello.shard,
                their_log: LogId::new(hello.log),
            });
        }
        self.greeted = true;
        Ok(Received::Greeting)
    }

    /// Takes account of a message that the replica was given: what it holds of the window is kept until its batches
    /// are durable, if the log took any (`taken`: the epoch and last LSN); returns what goes back at once.
    pub fn charge(&mut self, taken: Option<(Epoch, Lsn)>, charge: usize) -> usize {
        match taken {
            Some((epoch, last)) => {
                self.owed.push_back((epoch, last, charge));
                0
            }
            None => charge,
        }
    }

    /// What goes back now: batches durable here, and batches of an epoch that is over.
    pub fn settle(&mut self, promised: Epoch, durable: Lsn) -> usize {
        let mut settled = 0;
        while let Some((epoch, last, charge)) = self.owed.front().copied() {
            if epoch == promised && last > durable {
                break;
            }
            self.owed.pop_front();
            settled += charge;
        }
        settled
    }
}

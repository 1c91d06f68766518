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
#[derive(Debug)]
pub struct ReplicationStream {
    shard: ShardId,
    log: LogId,
    greeted: bool,
    /// Epoch and last LSN of appended batches that are not durable yet, and what they hold of the window.
    owed: VecDeque<(Epoch, Lsn, usize)>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// The stream is about our shard: the peer can be spoken to.
    Greeting,
    /// A message.
    Message(Message),
}

/// Why the stream can't go on.
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
    #[error("the stream is about shard {theirs} with log {their_log}; here it is shard {ours} with log {our_log}")]
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

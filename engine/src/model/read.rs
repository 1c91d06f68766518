//! How new a read must be.

use super::request::StreamEvent;
use super::token::Token;
use bytes::Bytes;
use std::time::Duration;

/// What a key holds.
///
/// ```
/// use towline::model::{Expect, Outcome, Value, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// # apply(&mut applier, Write::new().put("stock", "7"))?;
/// # let (version, value) = towline::state::get_value(applier.store(), namespace, b"stock")?.ok_or("it was put")?;
/// # let seen = Value { version, value };
/// // `seen` was read. What is made of it is written only if nobody was quicker.
/// let left = std::str::from_utf8(&seen.value)?.parse::<u32>()? - 1;
/// let sell = || Write::new().put("stock", left.to_string()).expect("stock", Expect::Version(seen.version));
/// assert_eq!(apply(&mut applier, sell())?, Outcome::Applied { version: 2 });
/// assert!(apply(&mut applier, sell())?.applied().is_err(), "the second one saw what is no longer so");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its version: the LSN of the write that set it.
    pub version: u64,
    /// What it was set to.
    pub value: Bytes,
}

/// What a read shows at the least (I7).
///
/// ```
/// use towline::model::{Read, Token};
/// let own_writes = Read::AtLeast(Token::default());
/// assert_ne!(own_writes, Read::Linearizable);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Read {
    /// What this node has applied, at once: never anything that is not committed, and maybe not the newest. A node that was
    /// just opened replays its log, so it may show less than before.
    Eventual,
    /// Everything up to the token's position in the shards that are read, whatever node wrote it.
    AtLeast(Token),
    /// Everything that was acknowledged to anybody before the read began.
    Linearizable,
    /// Everything that was acknowledged to anybody so long before the read began, or earlier: from any node, at once where that is
    /// known to be so, and else behind a question to the leader. No clocks of different nodes are compared; the node's own
    /// must run (it counts what the machine was suspended, and may not what a virtual machine was stopped). Zero is as
    /// [`Read::Linearizable`], and any node that follows answers it.
    MaxStaleness(Duration),
}

/// Some events of a stream.
///
/// ```
/// use towline::model::request::Direction;
/// use towline::state::read_stream;
/// # use towline::model::{Epoch, Expect, LogId, NamespaceId, ShardDescriptor, ShardId, Write};
/// # use towline::state::{Applier, MemStore};
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let (log, namespace) = (LogId::new(1), NamespaceId::new(1));
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace, start: vec![], end: vec![] };
/// # let mut applier = Applier::open(MemStore::new(), shard, log)?;
/// # let events = ["placed", "paid", "sent"].into_iter();
/// # let record = events.fold(Write::new(), |write, event| write.append("order-42", Expect::Any, event)).into_record();
/// # let block = Block::encode(record.encode()?, 1, Compression::Never);
/// # let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), applier.applied(), 0).block(block).seal()?;
/// # applier.apply(&[batch])?;
/// # let state = applier.store();
/// // Three events were appended, and two at a time are wanted.
/// let first = read_stream(state, namespace, b"order-42", 1, Direction::Forward, 2, 1 << 20)?;
/// assert!(first.head == 3 && first.more && first.events[1].value == b"paid");
/// let next = first.events[1].version + 1;
/// let rest = read_stream(state, namespace, b"order-42", next, Direction::Forward, 2, 1 << 20)?;
/// assert!(!rest.more && rest.events[0].value == b"sent");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamRead {
    /// The events, in the direction asked.
    pub events: Vec<StreamEvent>,
    /// The stream's version; 0 if it has no event.
    pub head: u64,
    /// Whether there are more in that direction.
    pub more: bool,
}

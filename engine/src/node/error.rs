//! What can go wrong when a node is asked for something, and what one can do about it.

use super::control_log::CatalogLogError;
use super::{BackupError, CloseError, FeedError, FollowError, OpenError, SessionError};
use crate::control::CatalogError;
use crate::model::codec::CodecError;
use crate::model::request::FailureClass;
use crate::model::{Epoch, Lsn, NodeId, NumberError, RecordError, ShardId};
use crate::pipeline::{SubmitError, WriteError};
use crate::shard::CrossShard;
use crate::state::StoreError;
use std::time::Duration;
use towline_wal::FaultClass;

/// Anything that a node says instead of an answer: what each call's own error widens into.
///
/// It has no codes of its own: the table at each error that it holds says what its codes mean and what to do.
///
/// ```
/// use towline::model::{Read, Write};
/// use towline::node::{Error, Node, NodeOptions};
/// fn greet(node: &Node) -> Result<Option<u64>, Error> {
///     let people = node.namespace("default")?;
///     people.write(Write::new().put("name", "Ada"))?.wait()?;
///     Ok(people.get("name", Read::Linearizable)?.map(|found| found.version))
/// }
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # assert!(greet(&node)?.is_some());
/// let unknown = Error::from(node.namespace("nobody").unwrap_err());
/// assert!(!unknown.is_retryable() && unknown.has_no_side_effects());
/// assert_eq!(unknown.code(), 5513);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A write was not taken.
    #[error(transparent)]
    Refused(#[from] WriteRefused),
    /// A write was taken, and has no outcome.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A read has no answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A feed does not go on.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A session does not begin.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// There is no backup, or nothing was restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Nobody follows by this name now.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The namespaces did not change, or there is none of that name.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The node was not closed cleanly.
    #[error(transparent)]
    Close(#[from] CloseError),
}

impl Error {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Open(open) => open.code(),
            Self::Refused(refused) => refused.code(),
            Self::Write(write) => write.code(),
            Self::Read(read) => read.code(),
            Self::Feed(feed) => feed.code(),
            Self::Session(session) => session.code(),
            Self::Backup(backup) => backup.code(),
            Self::Follow(follow) => follow.code(),
            Self::Namespace(namespace) => namespace.code(),
            Self::Close(close) => close.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Open(open) => open.class(),
            Self::Refused(refused) => refused.class(),
            Self::Write(write) => write.class(),
            Self::Read(read) => read.class(),
            Self::Feed(feed) => feed.class(),
            Self::Session(session) => session.class(),
            Self::Backup(backup) => backup.class(),
            Self::Follow(follow) => follow.class(),
            Self::Namespace(namespace) => namespace.class(),
            Self::Close(close) => close.class(),
        }
    }

    /// Whether the same again, after a pause, may do.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.class() == FailureClass::Retry
    }

    /// Whether nothing was changed by what failed, and nothing will be.
    #[must_use]
    pub const fn has_no_side_effects(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Read(_) | Self::Feed(_) => true,
            // A follower that comes for the first time may have been written down.
            Self::Follow(_) => false,
            Self::Write(write) => write.has_no_side_effects(),
            Self::Namespace(namespace) => namespace.has_no_side_effects(),
            Self::Open(_) | Self::Close(_) | Self::Session(_) | Self::Backup(_) => false,
        }
    }
}

/// Why a write was not taken: it has no effect.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6111 | fix the request | make a legal write of it: the sentence says what is not |
/// | TW-6112 | fix the request | use `write`, and wait for its answer |
/// | TW-6115 | re-route | write at the node that leads |
/// | TW-6116 | fix the request | use another namespace |
/// | TW-6117 | operator | close the node and open it again |
/// | TW-6113, TW-6114, TW-6118 | | see [`NumberError`] |
/// | TW-5505 | fix the request | see [`CrossShard`] |
/// | TW-51xx | | see [`SubmitError`] |
///
/// ```
/// use towline::model::{Write, request::FailureClass};
/// use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let refused = node.default_namespace().write(Write::new().put("", "an empty key")).unwrap_err();
/// assert_eq!((refused.code(), refused.class()), (6111, FailureClass::FixRequest));
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteRefused {
    /// It is not a legal write.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It would touch two shards.
    #[error(transparent)]
    CrossShard(#[from] CrossShard),
    /// It has conditions, or is a request of a session: whoever does not wait until it is applied would never hear what came
    /// of them.
    #[error("a write with conditions, or of a session, is answered when it is applied, not before: use `write`")]
    NeedsOutcome,
    /// The session gives it no number, or not this one.
    #[error(transparent)]
    Number(#[from] NumberError),
    /// The queue has no room, or is closed.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Another node leads; this one will not take writes.
    #[error("node {0} leads the shard: write there")]
    NotLeader(NodeId),
    /// The namespace was dropped.
    #[error("the namespace was dropped")]
    Dropped,
    /// The shard has stopped by itself.
    #[error("the shard {shard} has stopped: {reason}; close the node and open it again")]
    Stopped {
        /// Which one.
        shard: ShardId,
        /// Why.
        reason: String,
    },
}

impl WriteRefused {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Record(_) => 6111,
            Self::CrossShard(_) => CrossShard::CODE,
            Self::NeedsOutcome => 6112,
            Self::Number(number) => number.code(),
            Self::Submit(submit) => submit.code(),
            Self::NotLeader(_) => 6115,
            Self::Dropped => 6116,
            Self::Stopped { .. } => 6117,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Record(_) | Self::CrossShard(_) | Self::NeedsOutcome | Self::Number(_) | Self::Dropped => {
                FailureClass::FixRequest
            }
            Self::Submit(submit) => submit.class(),
            Self::NotLeader(_) => FailureClass::ReRoute,
            Self::Stopped { .. } => FailureClass::Operator,
        }
    }
}

/// Why a read has no answer.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6101 | fix the request | ask for a key that can be one |
/// | TW-6102 | retry | the node has not come so far yet: ask again, or a node that has |
/// | TW-6103 | fix the request | what the token told is gone after a loss: begin anew without it |
/// | TW-6104 | re-route | ask the leader, or for less than linearizable |
/// | TW-6105, TW-6106 | fix the request | open the node, or another namespace |
/// | TW-6107 | operator | close the node and open it again |
/// | TW-6109 | retry | ask another node, or ask again |
/// | TW-6110 | retry | ask again, another node, or for what may be older |
/// | TW-52xx | | see [`StoreError`] |
///
/// ```
/// use towline::model::{Read, request::FailureClass};
/// use towline::node::{Node, NodeOptions, ReadError};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let error = node.default_namespace().get("", Read::Eventual).unwrap_err();
/// assert!(matches!(error, ReadError::Key { bytes: 0 }) && error.class() == FailureClass::FixRequest);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A key is empty, or longer than a key may be.
    #[error("a key has 1 to {limit} bytes, this has {bytes}", limit = crate::model::limits::KEY_BYTES_MAX)]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// The position was not reached in time.
    #[error("shard {shard} has applied LSN {applied}, and LSN {wanted} was not reached in time")]
    NotYet {
        /// The shard.
        shard: ShardId,
        /// What was wanted.
        wanted: Lsn,
        /// What is applied.
        applied: Lsn,
    },
    /// The log has another history at that position than the token tells.
    #[error("shard {shard} no longer has LSN {lsn} of epoch {epoch}: what was written there was lost")]
    PositionLost {
        /// The shard.
        shard: ShardId,
        /// The epoch that the token tells.
        epoch: Epoch,
        /// And the position.
        lsn: Lsn,
    },
    /// Only the leader can say what is newest.
    #[error("node {0} leads the shard: only there a read is linearizable")]
    NotLeader(NodeId),
    /// No majority of the voters confirmed in time that this node still leads: another one may.
    #[error("shard {shard}: no majority of the voters confirmed in time that this node still leads it")]
    Unconfirmed {
        /// The shard.
        shard: ShardId,
    },
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
    /// The namespace was dropped.
    #[error("the namespace was dropped")]
    Dropped,
    /// The shard has stopped by itself: only what it had applied can be read, by [`Read::Eventual`](crate::model::Read).
    #[error("the shard {shard} has stopped: {reason}; close the node and open it again")]
    Stopped {
        /// Which one.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// The state is being replaced by a snapshot of another node, or was while this was read: it would be a mix of two.
    #[error("the state of shard {shard} is being replaced by a snapshot of another node: ask again, or another node")]
    Replaced {
        /// The shard.
        shard: ShardId,
    },
    /// Nobody who leads could be asked in time, or what was said is not applied yet; and what is applied here may be older than the
    /// read allows.
    #[error(
        "shard {shard}: what is applied here may be older than {allowed:?}, and what is newest was not known and applied in time ({})",
        known(*.age)
    )]
    TooOld {
        /// The shard.
        shard: ShardId,
        /// How old it may be.
        allowed: Duration,
        /// How old it is at the most, if that is known.
        age: Option<Duration>,
    },
    /// The state can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn known(age: Option<Duration>) -> String {
    age.map_or_else(
        || "its age is not known".to_owned(),
        |age| format!("it is {:.1} s old at the most", age.as_secs_f64()),
    )
}

impl ReadError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Key { .. } => 6101,
            Self::NotYet { .. } => 6102,
            Self::PositionLost { .. } => 6103,
            Self::NotLeader(_) => 6104,
            Self::Closed => 6105,
            Self::Dropped => 6106,
            Self::Stopped { .. } => 6107,
            Self::Unconfirmed { .. } => 6108,
            Self::Replaced { .. } => 6109,
            Self::TooOld { .. } => 6110,
            Self::Store(store) => store.code(),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::NotYet { .. } | Self::Unconfirmed { .. } | Self::Replaced { .. } | Self::TooOld { .. } => {
                FailureClass::Retry
            }
            Self::NotLeader(_) => FailureClass::ReRoute,
            Self::Stopped { .. } => FailureClass::Operator,
            Self::Key { .. } | Self::PositionLost { .. } | Self::Closed | Self::Dropped => FailureClass::FixRequest,
            Self::Store(store) => store.class(),
        }
    }
}

/// Why namespaces did not change, or one was not found.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6401 | fix the request | change namespaces on a node that is alone |
/// | TW-6402 | operator | the namespace is made: see why its shard does not come up, close the node and open it again |
/// | TW-6403, TW-6404 | operator | the namespace is dropped: the next opening removes what is left of it |
/// | TW-6405 | fix the request | open the node |
/// | TW-55xx | | nothing was changed: see [`CatalogError`] |
/// | TW-10xx | retry, operator or damage | nothing was changed: see [`towline_wal::SubmitError`] |
/// | the log's, TW-641x | | the change may or may not be made: see [`CatalogLogError`] |
///
/// ```
/// use towline::control::CatalogError;
/// use towline::node::{NamespaceError, NamespaceOptions, Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let options = NamespaceOptions::default();
/// let orders = match node.namespace("orders") {
///     Err(NamespaceError::Catalog(CatalogError::Unknown(name))) => node.create_namespace(&name, &options)?,
///     found => found?,
/// };
/// // Of two who do this at one time, one hears that it is there by now.
/// let refused = node.create_namespace("orders", &options).unwrap_err();
/// assert!(matches!(refused, NamespaceError::Catalog(CatalogError::Exists(_))) && refused.has_no_side_effects());
/// assert_eq!(node.namespace("orders")?.id(), orders.id());
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The change can't be made; nothing was.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The log takes nothing at the moment; nothing was changed.
    #[error("the log takes no change of the namespaces at the moment: {0}")]
    Refused(towline_wal::SubmitError),
    /// The log of the catalog can't be written: it may or may not be made.
    #[error(transparent)]
    Log(CatalogLogError),
    /// Several nodes vote: then none of them alone decides.
    #[error("node {0} is one of several: this release changes namespaces only on a node that is alone")]
    NotAlone(NodeId),
    /// The change is made, and a shard did not come up.
    #[error("the namespace is made, and one of its shards does not come up: {0}")]
    Shard(Box<OpenError>),
    /// The change is made, and what the namespace held is not all removed; the next opening goes on with it.
    #[error("the namespace is dropped, and what it held is removed at the next opening: {0}")]
    Leftover(StoreError),
    /// The same, of the log.
    #[error("the namespace is dropped, and its log is removed at the next opening: {0}")]
    LeftoverLog(towline_wal::WalError),
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}

impl From<CatalogLogError> for NamespaceError {
    fn from(error: CatalogLogError) -> Self {
        match error {
            CatalogLogError::Catalog(catalog) => Self::Catalog(catalog),
            CatalogLogError::Write(towline_wal::WalError::Refused(refused)) => Self::Refused(refused),
            other => Self::Log(other),
        }
    }
}

impl NamespaceError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Catalog(catalog) => catalog.code(),
            Self::Refused(refused) => log_code(refused.code()),
            Self::Log(log) => log.code(),
            Self::NotAlone(_) => 6401,
            // Not what the cause says: that would read as if nothing had been changed.
            Self::Shard(_) => 6402,
            Self::Leftover(_) => 6403,
            Self::LeftoverLog(_) => 6404,
            Self::Closed => 6405,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Catalog(catalog) => catalog.class(),
            Self::NotAlone(_) | Self::Closed => FailureClass::FixRequest,
            Self::Refused(refused) => log_class(refused.class()),
            Self::Log(log) => log.class(),
            Self::Shard(_) | Self::Leftover(_) | Self::LeftoverLog(_) => FailureClass::Operator,
        }
    }

    /// Whether nothing was changed, and nothing will be.
    #[must_use]
    pub const fn has_no_side_effects(&self) -> bool {
        matches!(self, Self::Catalog(_) | Self::Refused(_) | Self::NotAlone(_) | Self::Closed)
    }
}

/// The number in a code of the log's: of `TW-1007` it is 1007.
pub(super) const fn log_code(code: &str) -> u16 {
    let (_, digits) = code.split_at("TW-".len());
    match u16::from_str_radix(digits, 10) {
        Ok(number) => number,
        // A code of the log's is always that and four digits, literally in its source.
        Err(_) => unreachable!(),
    }
}

/// What one can do where the log says what is wrong.
pub(super) const fn log_class(fault: FaultClass) -> FailureClass {
    match fault {
        FaultClass::Retry => FailureClass::Retry,
        FaultClass::Damage => FailureClass::Damage,
        // A log that has stopped is opened again with its node. And who asks the log for what can't be is the engine, not
        // its caller: it can't mend that.
        _ => FailureClass::Operator,
    }
}

/// What one can do where bytes are not the structure that they should be: a newer release may have written them.
pub(super) const fn bytes_class(error: &CodecError) -> FailureClass {
    match error {
        CodecError::Version { .. } => FailureClass::Operator,
        _ => FailureClass::Damage,
    }
}

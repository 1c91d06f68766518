//! What is known of a write: that it took its place, or what came of it.

use super::ids::ShardId;
use super::outcome::Outcome;
use super::token::Token;
use towline_wal::{Epoch, Lsn};

/// A write that is committed, and applied on the node that answers.
///
/// ```
/// use towline::model::{Expect, Outcome, Read, Write};
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let shop = node.default_namespace();
/// let lock = Write::new().expect("lock", Expect::Absent).put("lock", "me");
/// let written = shop.write(&lock)?.wait()?;
/// assert_eq!(written.outcome, Outcome::Applied { version: written.lsn.get() });
/// // Who is handed the token sees the lock, or what came behind it.
/// let found = shop.get("lock", Read::AtLeast(written.token()))?;
/// assert_eq!(found.map(|found| found.version), Some(written.lsn.get()));
///
/// let second = shop.write(&lock)?.wait()?;
/// assert!(second.lsn > written.lsn && second.outcome.applied().is_err(), "written as well, without an effect");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The shard that it lies in.
    pub shard: ShardId,
    /// The epoch that it lies in.
    pub epoch: Epoch,
    /// Its LSN.
    pub lsn: Lsn,
    /// What came of it.
    pub outcome: Outcome,
}

/// Where a write lies in its shard's log, of which it is not said that it is committed, nor what comes of it.
///
/// ```
/// use towline::model::{Read, Write};
/// use towline::pipeline::SubmitPolicy;
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let samples = node.default_namespace();
/// let durable = samples.write_durable(Write::new().put("sample", "1"), SubmitPolicy::Wait)?.wait()?;
/// let buffered = samples.write_buffered(Write::new().put("sample", "2"), SubmitPolicy::Wait)?.wait()?;
/// assert!(durable.lsn < buffered.lsn, "each has its place");
/// // Neither is known to be applied. A read that must show them waits until they are:
/// let found = samples.get("sample", Read::AtLeast(buffered.token()))?;
/// assert_eq!(found.map(|found| found.value), Some("2".into()));
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The shard.
    pub shard: ShardId,
    /// The epoch.
    pub epoch: Epoch,
    /// The LSN. After a crash another write may lie there, in a later epoch.
    pub lsn: Lsn,
}

impl Position {
    /// What a reader shows to see this write, and everything before it in its shard; refused as lost, if it was.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::at(self.shard, self.epoch, self.lsn)
    }
}

impl Written {
    /// What a reader shows to see this write, and everything before it in its shard.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::at(self.shard, self.epoch, self.lsn)
    }
}

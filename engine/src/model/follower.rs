//! Followers: subscribers that are known by name, also when they are away.

use super::change::{Filter, Since};
use super::ids::ShardId;
use std::time::Duration;
use towline_wal::Lsn;

/// How much of a log is kept for one who reads it slowly. Beyond it the log goes, and the reader hears that it did.
///
/// ```
/// use towline::model::{Filter, Since};
/// use towline::node::Budget;
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let orders = node.default_namespace();
/// let budget = Budget { bytes: 64 << 20, ..Budget::default() };
/// let feed = orders.subscribe_within(Since::Now, Filter::All, budget)?;
/// assert_eq!(node.stats()?.shards[0].pins, 1, "from here on the log is kept for it, 64 MiB at the most");
/// drop(feed);
/// assert_eq!(node.stats()?.shards[0].pins, 0);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of each shard's log behind the reader's position.
    pub bytes: u64,
    /// How long a reader may stay where it is.
    pub age: Duration,
}

impl Default for Budget {
    /// Four gibibytes, a day.
    fn default() -> Self {
        Self { bytes: 4 << 30, age: Duration::from_secs(24 * 60 * 60) }
    }
}

/// Where a follower begins the first time, and what is kept for it while it is away.
///
/// ```
/// use std::time::Duration;
/// use towline::model::{Filter, Since};
/// use towline::node::{Budget, FollowerOptions, Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let options = FollowerOptions::since(Since::Beginning)
///     .filter(Filter::Prefix("order-".into()))
///     .budget(Budget { bytes: 1 << 30, age: Duration::from_secs(3600) });
/// let mut mailer = node.default_namespace().follow("mailer", &options)?;
/// node.default_namespace().put("order-1", "paid")?.wait()?;
/// assert_eq!(mailer.wait()?.operations.len(), 1);
/// mailer.acknowledge()?;
/// # drop(mailer);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerOptions {
    /// Where it begins when the node does not know it yet.
    pub first: Since,
    /// What it wants to see.
    pub filter: Filter,
    /// How much of the log is kept for it.
    pub budget: Budget,
}

impl FollowerOptions {
    /// From there on the first time, everything, within the default budget.
    #[must_use]
    pub fn since(first: Since) -> Self {
        Self { first, filter: Filter::All, budget: Budget::default() }
    }

    /// Only this.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Within this budget.
    #[must_use]
    pub const fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }
}

/// A follower, as the node knows it.
///
/// ```
/// use towline::model::Since;
/// use towline::node::FollowerOptions;
/// # use towline::node::{Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let orders = node.default_namespace();
/// let mut mailer = orders.follow("mailer", &FollowerOptions::since(Since::Now))?;
/// let first = orders.put("order-1", "paid")?.wait()?;
/// mailer.wait()?;
/// mailer.acknowledge()?;
/// drop(mailer);
/// orders.put("order-2", "paid")?.wait()?;
///
/// let known = &orders.followers()[0];
/// assert!(known.name == "mailer" && !known.is_here && known.done == first.lsn);
/// assert_eq!(known.done.distance_to(known.applied), Some(1), "it is so many records behind");
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerState {
    /// Its name.
    pub name: String,
    /// The shard.
    pub shard: ShardId,
    /// The last record that it is done with.
    pub done: Lsn,
    /// The last record there is.
    pub applied: Lsn,
    /// Whether somebody follows by this name now.
    pub is_here: bool,
}

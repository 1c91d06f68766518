//! Namespaces: what one is called, how long its history is kept, which shards it has.

use super::codec::{Decode, Encode};
use super::control_record::ShardDescriptor;
use super::ids::NamespaceId;
use super::limits::{NAMESPACE_NAME_BYTES_MAX, SESSION_IDLE_SECONDS_DEFAULT, SESSIONS_DEFAULT};
use std::time::Duration;

/// How long a namespace's history stays in the log, and with it what a feed can read again. What the history did (the
/// values, the streams' events) stays in any case.
///
/// The log also keeps what a crash would have to replay, and what a named follower of the feed still needs within its
/// budget.
///
/// ```
/// use std::time::Duration;
/// use towline::control::Catalog;
/// use towline::model::{Policy, Retention};
/// let week = Duration::from_secs(7 * 24 * 60 * 60);
/// // A week, and of that not more than 10 GiB of each shard.
/// let retention = Retention::Bounded { bytes: 10 << 30, age_seconds: week.as_secs() };
/// let mut catalog = Catalog::initial();
/// let change = catalog.set_policy("default", Policy { retention, ..Policy::default() })?;
/// catalog.apply(change)?;
/// let policy = catalog.named("default").map(|namespace| namespace.policy);
/// assert_eq!(policy.map(|policy| policy.retention), Some(retention));
/// assert_ne!(retention, Retention::age(week), "which lets the bytes grow");
/// # Ok::<(), towline::control::CatalogError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Retention {
    /// For ever: a feed can always begin at the beginning.
    Forever,
    /// As long as both bounds allow; at least one should be given, none keeps nothing that is not needed.
    Bounded {
        /// Bytes of the log of each shard.
        bytes: u64,
        /// How old the newest record of what goes is, by the clock of the node that wrote it.
        age_seconds: u64,
    },
}

impl Retention {
    /// At most so many bytes of each shard's log.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self::Bounded { bytes, age_seconds: u64::MAX }
    }

    /// Not longer than this.
    #[must_use]
    pub const fn age(age: Duration) -> Self {
        Self::Bounded { bytes: u64::MAX, age_seconds: age.as_secs() }
    }
}

/// What an operator decides of a namespace.
///
/// ```
/// use towline::model::{Policy, Retention};
/// let ledger = Policy { retention: Retention::Forever, ..Policy::default() };
/// assert_eq!(Policy::default().retention, Retention::bytes(1 << 30));
/// # assert_ne!(ledger, Policy::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Policy {
    /// How long its history is kept.
    pub retention: Retention,
    /// Sessions that each shard knows at one time.
    pub sessions_max: u64,
    /// How long a session that is not used is known at the least, by the clock of the node that writes. What comes of one later
    /// is refused as expired, never executed.
    pub session_idle_seconds: u64,
}

impl Default for Policy {
    /// A gibibyte of history a shard: enough for followers that were away for a while, and no disk fills by itself. A
    /// million sessions, each for a week.
    fn default() -> Self {
        Self {
            retention: Retention::bytes(1 << 30),
            sessions_max: SESSIONS_DEFAULT,
            session_idle_seconds: SESSION_IDLE_SECONDS_DEFAULT,
        }
    }
}

/// A namespace, as the catalog has it.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::Policy;
/// use towline::shard::ShardMap;
/// let mut catalog = Catalog::initial();
/// catalog.apply(catalog.create("orders", Policy::default(), &[b"m".to_vec()])?)?;
/// let orders = catalog.named("orders").ok_or("it was made")?;
/// let map = ShardMap::new(orders.shards.clone())?;
/// assert_eq!(map.shard_of(b"zebra"), orders.shards[1].shard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NamespaceDescriptor {
    /// Its id: never given to another one.
    pub id: NamespaceId,
    /// What it is called now.
    pub name: String,
    /// What was decided of it.
    pub policy: Policy,
    /// Its shards, in the order of their keys.
    pub shards: Vec<ShardDescriptor>,
}

impl NamespaceDescriptor {
    /// The shard that a key or a stream lies in; none: its shards don't cover all keys.
    ///
    /// ```
    /// use towline::control::Catalog;
    /// use towline::model::Policy;
    /// let mut catalog = Catalog::initial();
    /// catalog.apply(catalog.create("orders", Policy::default(), &[b"m".to_vec()])?)?;
    /// let orders = catalog.named("orders").expect("it was made");
    /// assert_eq!(orders.shard_of(b"apple"), orders.shards.first());
    /// assert_eq!(orders.shard_of(b"m"), orders.shards.last());
    /// # Ok::<(), towline::control::CatalogError>(())
    /// ```
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> Option<&ShardDescriptor> {
        let behind = self.shards.partition_point(|shard| shard.start.as_slice() <= key);
        self.shards.get(behind.checked_sub(1)?)
    }
}

/// How a namespace is made.
///
/// ```
/// use towline::model::{Policy, Retention};
/// use towline::node::{NamespaceOptions, Node, NodeOptions};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// let policy = Policy { retention: Retention::Forever, ..Policy::default() };
/// let ledger = node.create_namespace("ledger", &NamespaceOptions::default().policy(policy).split_at(["h", "p"]))?;
/// assert_eq!(ledger.descriptor().shards.len(), 3);
/// # node.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct NamespaceOptions {
    /// How long its history is kept.
    pub policy: Policy,
    /// Where its shards begin, but for the first: ascending keys. None: one shard.
    pub split_points: Vec<Vec<u8>>,
}

impl NamespaceOptions {
    /// With this policy.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// One shard more than there are split points: each shard is written in an order of its own, and can be written
    /// beside the others.
    #[must_use]
    pub fn split_at<K: Into<Vec<u8>>>(mut self, points: impl IntoIterator<Item = K>) -> Self {
        self.split_points = points.into_iter().map(Into::into).collect();
        self
    }
}

/// A name that is none (TW-5511): give one of letters, digits, dots, dashes and underscores.
///
/// ```
/// use towline::model::namespace::{BadName, check_name};
/// let refused = check_name("orders/eu");
/// assert_eq!(refused, Err(BadName { name: "orders/eu".into() }));
/// let sentence = refused.map_err(|refused| refused.to_string());
/// assert!(sentence.is_err_and(|text| text.starts_with("\"orders/eu\" is no name of a namespace")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no name of a namespace: 1 to {NAMESPACE_NAME_BYTES_MAX} letters, digits, dots, dashes and underscores \
     of ASCII, the first a letter or a digit, and this has {} bytes",
    name.len()
)]
pub struct BadName {
    /// What was given.
    pub name: String,
}

impl BadName {
    /// Its stable code: `TW-` and these four digits.
    pub const CODE: u16 = 5511;
}

/// Whether this can be the name of a namespace.
///
/// ```
/// use towline::model::namespace::check_name;
/// assert!(check_name("orders.eu-1").is_ok());
/// assert!(check_name("").is_err() && check_name("-x").is_err() && check_name("a/b").is_err());
/// ```
///
/// # Errors
/// It can't.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let goes_on = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if begins && goes_on && name.len() <= NAMESPACE_NAME_BYTES_MAX {
        return Ok(());
    }
    Err(BadName { name: name.to_owned() })
}

//! What travels on a stream of kind *feed*: one [`Subscribe`] or [`Follow`] from the client, then [`Delivery`] after delivery from the
//! server, as long as the client consumes them.

use super::change::{Change, Filter, Since};
use super::codec::{CodecError, Decode, Encode, Enveloped};
use super::follower::{Budget, FollowerOptions};
use super::ids::ShardId;
use super::limits::MESSAGE_BYTES_MAX;
use super::record::{Record, RecordError};
use super::request::Failure;
use super::token::{Token, TokenError};
use bytes::Bytes;
use std::time::Duration;
use towline_wal::{Epoch, Lsn};

/// What is to be delivered, and from where on: the first and only message of the client.
///
/// ```
/// use towline::model::codec::{decode, encode};
/// use towline::model::subscription::Subscribe;
/// use towline::model::{Filter, Since};
/// let wanted = Subscribe::new("orders", &Since::Beginning, &Filter::Prefix("order-".into()))?;
/// let Subscribe { namespace, since, filter } = decode(&encode(&wanted)?)?;
/// assert_eq!((namespace.as_str(), Since::try_from(since)?), ("orders", Since::Beginning));
/// assert_eq!(Filter::from(filter), Filter::Prefix("order-".into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Subscribe {
    /// The namespace.
    pub namespace: String,
    /// From where on.
    pub since: SinceAt,
    /// What of it.
    pub filter: FilterAt,
}

/// [`Since`] as a message. The order of the variants is part of the format.
///
/// ```
/// use towline::model::Since;
/// use towline::model::subscription::SinceAt;
/// assert_eq!(SinceAt::try_from(&Since::Now)?, SinceAt::Now);
/// assert!(Since::try_from(SinceAt::Token { token: b"not one".to_vec() }).is_err());
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum SinceAt {
    /// From the first record on.
    Beginning,
    /// From the oldest that is kept.
    Oldest,
    /// What comes from now on.
    Now,
    /// What lies behind a token.
    Token {
        /// The token's bytes ([`Token::encode`]).
        token: Vec<u8>,
    },
}

/// [`Filter`] as a message. The order of the variants is part of the format.
///
/// ```
/// use towline::model::Filter;
/// use towline::model::subscription::FilterAt;
/// assert_eq!(Filter::from(FilterAt::from(&Filter::Key("a".into()))), Filter::Key("a".into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum FilterAt {
    /// Everything.
    All,
    /// What touches this key or stream.
    Key(Vec<u8>),
    /// What touches a key or stream that begins so.
    Prefix(Vec<u8>),
    /// What lies in this shard.
    Shard(ShardId),
}

/// Some changes, and where the feed is behind them; or why it ends. The first has no changes: it says where the feed begins. The
/// order of the variants is part of the format.
///
/// ```
/// use towline::model::subscription::{Delivered, Delivery};
/// use towline::model::{Change, Epoch, Lsn, Operation, ShardId};
/// let operations = vec![Operation::Delete { key: "a".into() }];
/// let (shard, epoch) = (ShardId::new(1024), Epoch::new(1, 1));
/// let change = Change { shard, epoch, lsn: Lsn::new(7), time_micros: 0, operations };
/// let delivery = Delivery::of(&[change.clone()], &change.token())?;
/// let Delivery::Changes { changes, .. } = delivery else { panic!("nothing failed") };
/// assert_eq!(Change::try_from(changes[0].clone())?, change);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Delivery {
    /// Changes, in the order of each shard.
    Changes {
        /// The changes.
        changes: Vec<Delivered>,
        /// The bytes of the token behind them ([`Token::encode`]): whoever comes back with it misses nothing and sees nothing twice.
        token: Vec<u8>,
    },
    /// The feed does not go on.
    Failed(Failure),
    /// Whoever follows has this seat: the first that is delivered on a stream that began with [`Follow`], and on no other.
    Seated {
        /// It is asked for with what the follower is done with ([`Call::Acknowledge`](super::call::Call::Acknowledge)).
        seat: u64,
    },
}

/// [`Change`] as a message.
///
/// ```
/// use towline::model::subscription::Delivered;
/// use towline::model::{Change, ShardId};
/// // Bytes that are no record, from a server that is none of ours.
/// let delivered = Delivered { shard: ShardId::new(1024), epoch: (1, 1), lsn: 7, time_micros: 0, record: b"?".to_vec() };
/// assert!(Change::try_from(delivered).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Delivered {
    /// The shard that it lies in.
    pub shard: ShardId,
    /// The epoch: version and term.
    pub epoch: (u64, u32),
    /// Its LSN.
    pub lsn: u64,
    /// When the leader took it, in microseconds since 1970.
    pub time_micros: u64,
    /// The operations that the filter admits, as a record of their own ([`super::record`]).
    pub record: Vec<u8>,
}

/// Subscribes by a name, under which the server keeps how far the subscriber is: sent instead of a [`Subscribe`].
///
/// ```
/// use towline::model::codec::{decode, encode};
/// use towline::model::subscription::{Follow, FollowAt};
/// use towline::model::{FollowerOptions, Since};
/// let wanted = Follow::new("orders", "mailer", &FollowerOptions::since(Since::Beginning), FollowAt::Known)?;
/// let found: Follow = decode(&encode(&wanted)?)?;
/// assert_eq!(found.options()?, FollowerOptions::since(Since::Beginning));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Follow {
    /// The namespace.
    pub namespace: String,
    /// The follower's name.
    pub follower: String,
    /// Where it begins when the server does not know it yet.
    pub first: SinceAt,
    /// What it wants to see.
    pub filter: FilterAt,
    /// How much of each shard's log is kept for it, in bytes.
    pub budget_bytes: u64,
    /// And for how long while it stays where it is, in seconds.
    pub budget_seconds: u64,
    /// Where it goes on.
    pub at: FollowAt,
}

/// Where a follower goes on. The order of the variants is part of the format.
///
/// ```
/// use towline::model::Token;
/// use towline::model::subscription::FollowAt;
/// let behind = FollowAt::Behind { token: Token::default().encode()?.to_vec() };
/// assert_ne!(behind, FollowAt::Known);
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum FollowAt {
    /// Behind what it was done with.
    Known,
    /// Behind a token. What it was done with stays as it is: its connection was lost, and it goes on where it was.
    Behind {
        /// The token's bytes ([`Token::encode`]).
        token: Vec<u8>,
    },
    /// Behind a token, which is what it is done with from now on.
    Seek {
        /// The token's bytes.
        token: Vec<u8>,
    },
}

impl Enveloped for Follow {
    const KIND: u16 = 0x0306;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 1024 * 1024;
}

impl Follow {
    /// By this name, in this namespace.
    ///
    /// # Errors
    /// A token names more shards than a namespace may have.
    pub fn new(
        namespace: impl Into<String>,
        follower: impl Into<String>,
        options: &FollowerOptions,
        at: FollowAt,
    ) -> Result<Self, CodecError> {
        Ok(Self {
            namespace: namespace.into(),
            follower: follower.into(),
            first: SinceAt::try_from(&options.first)?,
            filter: FilterAt::from(&options.filter),
            budget_bytes: options.budget.bytes,
            budget_seconds: options.budget.age.as_secs(),
            at,
        })
    }

    /// Where it begins the first time, what it wants to see, and what is kept for it.
    ///
    /// # Errors
    /// The token from which it is to begin is none.
    pub fn options(&self) -> Result<FollowerOptions, TokenError> {
        let budget = Budget { bytes: self.budget_bytes, age: Duration::from_secs(self.budget_seconds) };
        let options = FollowerOptions::since(Since::try_from(self.first.clone())?);
        Ok(options.filter(Filter::from(self.filter.clone())).budget(budget))
    }
}

impl Enveloped for Subscribe {
    const KIND: u16 = 0x0303;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 1024 * 1024;
}

impl Enveloped for Delivery {
    const KIND: u16 = 0x0304;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}

impl Subscribe {
    /// For this namespace.
    ///
    /// # Errors
    /// The token names more shards than a namespace may have.
    pub fn new(namespace: impl Into<String>, since: &Since, filter: &Filter) -> Result<Self, CodecError> {
        Ok(Self { namespace: namespace.into(), since: SinceAt::try_from(since)?, filter: FilterAt::from(filter) })
    }
}

impl Delivery {
    /// These changes, and the position behind them.
    ///
    /// # Errors
    /// The token names more shards than a namespace may have, or a change is no legal record.
    pub fn of(changes: &[Change], token: &Token) -> Result<Self, RecordOrToken> {
        let changes = changes.iter().map(Delivered::try_from).collect::<Result<_, _>>()?;
        Ok(Self::Changes { changes, token: token.encode()?.to_vec() })
    }
}

/// Why a delivery can't be made.
///
/// ```
/// use towline::model::subscription::Delivery;
/// use towline::model::{Change, Epoch, Lsn, ShardId, Token};
/// let (shard, epoch) = (ShardId::new(1024), Epoch::new(1, 1));
/// let of_nothing = Change { shard, epoch, lsn: Lsn::new(7), time_micros: 0, operations: vec![] };
/// assert!(Delivery::of(&[of_nothing], &Token::default()).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordOrToken {
    /// A change is no legal record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The token is too large.
    #[error(transparent)]
    Token(#[from] CodecError),
}

impl TryFrom<&Since> for SinceAt {
    type Error = CodecError;

    fn try_from(since: &Since) -> Result<Self, CodecError> {
        Ok(match since {
            Since::Beginning => Self::Beginning,
            Since::Oldest => Self::Oldest,
            Since::Now => Self::Now,
            Since::Token(token) => Self::Token { token: token.encode()?.to_vec() },
        })
    }
}

impl TryFrom<SinceAt> for Since {
    type Error = TokenError;

    fn try_from(since: SinceAt) -> Result<Self, TokenError> {
        Ok(match since {
            SinceAt::Beginning => Self::Beginning,
            SinceAt::Oldest => Self::Oldest,
            SinceAt::Now => Self::Now,
            SinceAt::Token { token } => Self::Token(Token::decode(&token)?),
        })
    }
}

impl From<&Filter> for FilterAt {
    fn from(filter: &Filter) -> Self {
        match filter {
            Filter::All => Self::All,
            Filter::Key(key) => Self::Key(key.to_vec()),
            Filter::Prefix(prefix) => Self::Prefix(prefix.to_vec()),
            Filter::Shard(shard) => Self::Shard(*shard),
        }
    }
}

impl From<FilterAt> for Filter {
    fn from(filter: FilterAt) -> Self {
        match filter {
            FilterAt::All => Self::All,
            FilterAt::Key(key) => Self::Key(key.into()),
            FilterAt::Prefix(prefix) => Self::Prefix(prefix.into()),
            FilterAt::Shard(shard) => Self::Shard(shard),
        }
    }
}

impl TryFrom<&Change> for Delivered {
    type Error = RecordError;

    fn try_from(change: &Change) -> Result<Self, RecordError> {
        Ok(Self {
            shard: change.shard,
            epoch: (change.epoch.version, change.epoch.term),
            lsn: change.lsn.get(),
            time_micros: change.time_micros,
            record: Record::of(change.operations.clone()).encode()?.to_vec(),
        })
    }
}

impl TryFrom<Delivered> for Change {
    type Error = RecordError;

    fn try_from(delivered: Delivered) -> Result<Self, RecordError> {
        let (version, term) = delivered.epoch;
        let record = Record::decode(&mut Bytes::from(delivered.record))?;
        Ok(Self {
            shard: delivered.shard,
            epoch: Epoch { version, term },
            lsn: Lsn::new(delivered.lsn),
            time_micros: delivered.time_micros,
            operations: record.operations,
        })
    }
}

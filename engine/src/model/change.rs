//! What a subscriber sees: the records that took effect, in order.

use super::ids::ShardId;
use super::operation::Operation;
use super::token::Token;
use bytes::Bytes;
use towline_wal::{Epoch, Lsn};

/// One record that took effect, as far as it is of interest.
///
/// ```
/// use towline::model::{Change, Token};
/// # use towline::model::{Epoch, Lsn, Operation, ShardId};
/// # let change = |lsn| Change {
/// #     shard: ShardId::new(1024),
/// #     epoch: Epoch::new(1024, 1),
/// #     lsn: Lsn::new(lsn),
/// #     time_micros: 0,
/// #     operations: vec![Operation::Delete { key: "saw".into() }],
/// # };
/// # let changes = [change(7), change(9)];
/// // `changes` came from a feed: what it handled, the subscriber keeps as one token.
/// let mut handled = Token::default();
/// for change in &changes {
///     handled.extend(&change.token());
/// }
/// assert_eq!(handled, changes[1].token(), "the last one of a shard stands for all before it");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The shard that it lies in: changes of one shard come in the order of their LSNs.
    pub shard: ShardId,
    /// The epoch.
    pub epoch: Epoch,
    /// Its LSN.
    pub lsn: Lsn,
    /// When its batch was sealed: microseconds since 1970, by the clock of the node that did.
    pub time_micros: u64,
    /// What it did, of the keys and streams that were subscribed to.
    pub operations: Vec<Operation>,
}

impl Change {
    /// What a reader shows to see this change, and everything before it in its shard.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::at(self.shard, self.epoch, self.lsn)
    }
}

/// Where a subscription begins, in each shard.
///
/// ```
/// use towline::model::{Since, Token, TokenError};
/// # use towline::model::{Epoch, Lsn, ShardId};
/// /// A subscriber that kept nothing begins at the beginning.
/// fn since(kept: Option<&str>) -> Result<Since, TokenError> {
///     kept.map_or(Ok(Since::Beginning), |text| text.parse().map(Since::Token))
/// }
/// let handled = Token::at(ShardId::new(1024), Epoch::new(1024, 1), Lsn::new(7));
/// assert_eq!(since(Some(&handled.to_string()))?, Since::Token(handled));
/// assert_eq!(since(None)?, Since::Beginning);
/// # Ok::<(), TokenError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Since {
    /// At the first record there ever was: refused as compacted, if that was released.
    Beginning,
    /// At the oldest record that is still in the log.
    Oldest,
    /// With the first record that is not applied yet.
    Now,
    /// Behind the token's position. A shard that the token does not name is subscribed to from its beginning.
    Token(Token),
}

/// What of a namespace is of interest.
///
/// ```
/// use towline::model::{Filter, Operation};
/// let saw = Operation::Delete { key: "tool/saw".into() };
/// assert!(Filter::Prefix("tool/".into()).admits(&saw) && !Filter::Key("tool".into()).admits(&saw));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// Everything.
    All,
    /// One key, or the stream of that name.
    Key(Bytes),
    /// The keys and streams that begin with this.
    Prefix(Bytes),
    /// One shard.
    Shard(ShardId),
}

impl Filter {
    /// Whether an operation touches what is of interest.
    #[must_use]
    pub fn admits(&self, operation: &Operation) -> bool {
        let key = operation.key();
        match (self, operation) {
            (Self::All | Self::Shard(_), _) => true,
            (Self::Key(wanted), Operation::DeleteRange { start, end }) => start <= wanted && wanted < end,
            (Self::Key(wanted), _) => key == wanted,
            (Self::Prefix(prefix), Operation::DeleteRange { start, end }) => {
                let behind = super::scan::after_prefix(prefix);
                end > prefix && behind.is_none_or(|behind| start.as_ref() < behind.as_slice())
            }
            (Self::Prefix(prefix), _) => key.starts_with(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn short() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff)], 1..3).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn a_deleted_range_is_of_interest_just_if_it_holds_a_key_that_is(
            start in short(), end in short(), wanted in short(),
        ) {
            let range = Operation::DeleteRange { start: start.clone(), end: end.clone() };
            prop_assert_eq!(Filter::Key(wanted.clone()).admits(&range), start <= wanted && wanted < end);
            // Any key with the prefix that is in the range: the smallest that may be is one of these two.
            let first = if start.starts_with(&wanted) { start.clone() } else { wanted.clone() };
            let holds = start < end && first >= start && first < end;
            prop_assert_eq!(Filter::Prefix(wanted).admits(&range) && start < end, holds);
        }
    }
}

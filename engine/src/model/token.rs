//! Session tokens: where a reader must be at the least.

use super::codec::{self, CodecError, Decode, Encode, Enveloped};
use super::ids::ShardId;
use super::limits::SHARDS_MAX;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use towline_wal::{Epoch, Lsn};

/// A position in each of some shards: a read that is given it shows everything up to there (I7).
///
/// It carries the epochs too: after a loss, a position that is no longer in the log is said to be lost, never taken for
/// another one of the same number. As text it can travel in a header or a cookie.
///
/// ```
/// use towline::model::{Epoch, Lsn, ShardId, Token};
/// let mut token = Token::at(ShardId::new(1024), Epoch::new(1024, 3), Lsn::new(7));
/// token.extend(&Token::at(ShardId::new(2048), Epoch::new(1024, 1), Lsn::new(9)));
/// token.extend(&Token::at(ShardId::new(1024), Epoch::new(1024, 3), Lsn::new(5)));
/// assert_eq!(token.get(ShardId::new(1024)), Some((Epoch::new(1024, 3), Lsn::new(7))), "it never goes back");
/// let text = token.to_string();
/// assert_eq!(text.parse::<Token>()?, token);
/// assert!("towline-x".parse::<Token>().is_err());
/// # Ok::<(), towline::model::TokenError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Token {
    positions: BTreeMap<ShardId, (Epoch, Lsn)>,
}

/// What a token's text begins with.
const PREFIX: &str = "towline-";

/// A text that is no token (TW-5521): hand on the whole text of one, as it is.
///
/// ```
/// use towline::model::{Token, TokenError};
/// let cookie = Token::default().to_string();
/// assert!(cookie.parse::<Token>().is_ok());
/// assert_eq!("session=1".parse::<Token>(), Err(TokenError::Text));
/// let cut = &cookie[..cookie.len() - 2];
/// assert!(matches!(cut.parse::<Token>(), Err(TokenError::Bytes(_))), "a byte less: the envelope notices");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is no text of one.
    #[error("a token is `{PREFIX}` and an even number of hexadecimal digits")]
    Text,
    /// Its bytes are none of one.
    #[error("the token can't be read: {0}")]
    Bytes(#[from] CodecError),
    /// A shard twice, or not ascending.
    #[error("the token names its shards out of order")]
    Order,
}

impl TokenError {
    /// Its stable code: `TW-` and these four digits.
    pub const CODE: u16 = 5521;
}

/// The layout, version 1: shard, version, term, LSN; ascending by shard.
#[derive(Encode, Decode)]
struct TokenV1 {
    positions: Vec<(ShardId, u64, u32, u64)>,
}

impl Enveloped for TokenV1 {
    const KIND: u16 = 0x0701;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64 * SHARDS_MAX;
}

impl Token {
    /// The token of one position.
    #[must_use]
    pub fn at(shard: ShardId, epoch: Epoch, lsn: Lsn) -> Self {
        Self { positions: BTreeMap::from([(shard, (epoch, lsn))]) }
    }

    /// The position that it holds of a shard.
    #[must_use]
    pub fn get(&self, shard: ShardId) -> Option<(Epoch, Lsn)> {
        self.positions.get(&shard).copied()
    }

    /// All its positions, by shard.
    pub fn positions(&self) -> impl Iterator<Item = (ShardId, Epoch, Lsn)> {
        self.positions.iter().map(|(shard, (epoch, lsn))| (*shard, *epoch, *lsn))
    }

    /// Takes what another one holds, where that is further.
    pub fn extend(&mut self, other: &Self) {
        for (shard, position) in &other.positions {
            let own = self.positions.entry(*shard).or_insert(*position);
            *own = (*position).max(*own);
        }
    }

    /// Its bytes: an envelope ([`super::codec`]).
    ///
    /// # Errors
    /// It names more shards than a namespace may have.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        codec::encode(&self.body())
    }

    /// What [`Token::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are no token.
    pub fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let TokenV1 { positions } = codec::decode(bytes)?;
        if !positions.is_sorted_by(|(one, ..), (other, ..)| one < other) {
            return Err(TokenError::Order);
        }
        let position = |(shard, version, term, lsn)| (shard, (Epoch { version, term }, Lsn::new(lsn)));
        Ok(Self { positions: positions.into_iter().map(position).collect() })
    }

    fn body(&self) -> TokenV1 {
        let positions = self.positions().map(|(shard, epoch, lsn)| (shard, epoch.version, epoch.term, lsn.get()));
        TokenV1 { positions: positions.collect() }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        codec::write_text(f, PREFIX, &self.body())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::decode(&codec::bytes_of_text(PREFIX, text).ok_or(TokenError::Text)?)
    }
}

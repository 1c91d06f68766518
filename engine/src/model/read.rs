//! How new a read must be.

use super::token::Token;
use bytes::Bytes;

/// What a key holds.
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
}

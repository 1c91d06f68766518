//! How new a read must be.

use super::token::Token;
use bytes::Bytes;

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
}

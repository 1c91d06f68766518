//! What came of a write: decided at apply, the same on every replica.

use super::codec::{Decode, Encode};

/// The answer to one record.
///
/// ```
/// use towline::model::{Expect, Outcome, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// let paid = || Write::new().append("order-42", Expect::Absent, "paid");
/// assert_eq!(apply(&mut applier, paid())?, Outcome::Applied { version: 1 });
/// match apply(&mut applier, paid())? {
///     Outcome::Applied { version } => println!("event {version} of the stream"),
///     Outcome::Rejected(why) => {
///         assert_eq!(why.to_string(), "operation 0 expected another version of its stream: it is 1 (0: no event)");
///     }
///     newer => return Err(format!("not known here: {newer:?}").into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum Outcome {
    /// It took effect.
    Applied {
        /// The version that its last operation produced: of a key, this record's LSN; of a stream, its last
        /// event's number; 0 where the operation leaves nothing that has a version.
        version: u64,
    },
    /// It had no effect: a condition did not hold.
    Rejected(Rejection),
}

impl Outcome {
    /// The version that it produced, or why it had no effect.
    ///
    /// ```
    /// use towline::model::{Outcome, Rejection};
    /// assert_eq!(Outcome::Applied { version: 7 }.applied(), Ok(7));
    /// assert_eq!(Outcome::Rejected(Rejection::Retired).applied(), Err(Rejection::Retired));
    /// ```
    ///
    /// # Errors
    /// It had no effect.
    pub const fn applied(self) -> Result<u64, Rejection> {
        match self {
            Self::Applied { version } => Ok(version),
            Self::Rejected(rejection) => Err(rejection),
        }
    }
}

impl Rejection {
    /// Whether this is what came of the request, decided once and kept; otherwise it was not executed by this try.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Precondition { .. } | Self::StreamVersion { .. })
    }
}

/// Why a record had no effect.
///
/// ```
/// use towline::model::{Expect, Outcome, Rejection, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// let write = Write::new().append("order-42", Expect::Version(3), "paid");
/// let rejection = apply(&mut applier, write)?.applied();
/// assert_eq!(rejection, Err(Rejection::StreamVersion { index: 0, actual: 0 }));
///
/// // A condition that failed is what came of the request, however often it is tried again; the others say that it was not
/// // executed, so that the caller may do something about it.
/// assert!(Rejection::StreamVersion { index: 0, actual: 0 }.is_final());
/// assert!(!Rejection::OutOfOrder { after: 6 }.is_final(), "try 6 again, then this one");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// A precondition did not hold.
    #[error("precondition {index} does not hold: the version is {actual} (0: absent)")]
    Precondition {
        /// Which of the write's preconditions, from 0.
        index: u32,
        /// The version found; 0 means absent.
        actual: u64,
    },
    /// An append expected another version of its stream.
    #[error("operation {index} expected another version of its stream: it is {actual} (0: no event)")]
    StreamVersion {
        /// Which of the write's operations, from 0.
        index: u32,
        /// The stream's version just before that operation; 0 means no event.
        actual: u64,
    },
    /// The shard does not know the session: it was never opened, or it expired. Whether an earlier try of the same request
    /// took effect can't be said any more.
    #[error("the shard does not know the session: it expired, or was never opened")]
    SessionExpired,
    /// The request would overtake another one of its session: try that one again first, then this one.
    #[error("request {after} of the session, which comes before this one, has not been executed")]
    OutOfOrder {
        /// The one that comes before it.
        after: u64,
    },
    /// The session said that it does not wait for this request any more: what came of it is forgotten.
    #[error("the session no longer waits for this request: what came of it is forgotten")]
    Retired,
    /// The session used the number for another request. What came of that one is not told for this one, which is not executed.
    #[error("the session used this number for another request")]
    NumberReused,
    /// The shard knows as many sessions as it may.
    #[error("the shard knows {limit} sessions, as many as it may")]
    TooManySessions {
        /// How many that is.
        limit: u64,
    },
}

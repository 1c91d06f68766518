//! What a write does, and on what condition.

use bytes::Bytes;

/// One effect of a write. All operations of a write, or none, take effect.
///
/// ```
/// use towline::model::{Expect, Operation};
/// let put = Operation::Put { key: "colour".into(), value: "blue".into() };
/// let event = Operation::Append {
///     stream: "order-42".into(), expect: Expect::Version(3), metadata: Default::default(), value: "paid".into(),
/// };
/// assert_eq!(put.key().as_ref(), b"colour");
/// assert_eq!(event.key().as_ref(), b"order-42");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Sets a key's value. Its version becomes the record's LSN.
    Put {
        /// The key, 1 to [`KEY_BYTES_MAX`](super::limits::KEY_BYTES_MAX) bytes.
        key: Bytes,
        /// The value, at most [`VALUE_BYTES_MAX`](super::limits::VALUE_BYTES_MAX) bytes; may be empty.
        value: Bytes,
    },
    /// Removes a key; one that is absent stays so.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Removes all keys from `start` (included) to `end` (excluded).
    DeleteRange {
        /// The first key removed.
        start: Bytes,
        /// The first key kept.
        end: Bytes,
    },
    /// Appends one event to a stream; its version is one more than the last event's, the first is 1.
    Append {
        /// The stream's name, 1 to [`KEY_BYTES_MAX`](super::limits::KEY_BYTES_MAX) bytes.
        stream: Bytes,
        /// What the stream's version must be just before this operation.
        expect: Expect,
        /// Where the event came from; kept beside the value, not in it.
        metadata: Bytes,
        /// The event.
        value: Bytes,
    },
    /// Removes the events of a stream before a version; the stream's version stays.
    TrimStream {
        /// The stream's name.
        stream: Bytes,
        /// The first version kept.
        before: u64,
    },
    /// Removes a stream with all its events; its next event is version 1 again.
    DeleteStream {
        /// The stream's name.
        stream: Bytes,
    },
}

/// What the version of a key or a stream must be for a write to take effect.
///
/// ```
/// use towline::model::Expect;
/// // What is absent has version 0.
/// assert!(Expect::Absent.admits(0) && !Expect::Absent.admits(7));
/// assert!(Expect::Present.admits(7) && !Expect::Present.admits(0));
/// // Of two writers that both saw version 7, one changes it to 8, and the other is refused.
/// assert!(Expect::Version(7).admits(7) && !Expect::Version(7).admits(8));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// Anything, also nothing.
    Any,
    /// There is none: the key is not set, the stream has no event.
    Absent,
    /// There is one, of whatever version.
    Present,
    /// Exactly this version: of a key, the LSN of the record that set it; of a stream, its last event's number.
    Version(u64),
}

/// What a precondition looks at.
///
/// ```
/// use towline::model::{Expect, Target, Write};
/// let write = Write::new()
///     .put("order-42", "paid")
///     .expect("order-42", Expect::Present)
///     .expect_stream("order-42", Expect::Version(3));
/// let targets: Vec<_> = write.record().preconditions.iter().map(|condition| condition.target).collect();
/// assert_eq!(targets, [Target::Key, Target::Stream], "a key and a stream of one name are two things");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A key of the current values.
    Key,
    /// The head of a stream.
    Stream,
}

/// A condition on a key that the write need not touch, evaluated at apply, in LSN order, on every replica alike.
///
/// ```
/// use towline::model::{Expect, Outcome, Rejection, Write};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/state.rs")); }
/// # use set_up::*;
/// # let (mut applier, namespace) = (empty()?, NAMESPACE);
/// let close = || Write::new().put("shop", "closed").expect("lock", Expect::Absent);
/// assert_eq!(apply(&mut applier, close())?, Outcome::Applied { version: 1 });
/// apply(&mut applier, Write::new().put("lock", "mine"))?;
/// // The key of the condition need not be one of those that are written.
/// let refused = Outcome::Rejected(Rejection::Precondition { index: 0, actual: 2 });
/// assert_eq!(apply(&mut applier, close())?, refused);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// Whether `key` names a key or a stream.
    pub target: Target,
    /// The key or the stream's name.
    pub key: Bytes,
    /// What its version must be.
    pub expect: Expect,
}

impl Operation {
    /// The key or stream that routes this operation to its shard (of a range, its start).
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::DeleteRange { start: key, .. } => key,
            Self::Append { stream, .. } | Self::TrimStream { stream, .. } | Self::DeleteStream { stream } => stream,
        }
    }
}

impl Expect {
    /// Whether a version satisfies this; 0 means absent.
    #[must_use]
    pub const fn admits(self, actual: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => actual == 0,
            Self::Present => actual != 0,
            Self::Version(wanted) => actual == wanted,
        }
    }
}

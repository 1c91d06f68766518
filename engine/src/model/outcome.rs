//! What came of a write: decided at apply, the same on every replica.

use super::codec::{Decode, Encode};

/// The answer to one record.
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

/// Why a record had no effect.
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
}

//! What goes wrong, as openraft wants to hear it: what was touched, what was done to it, and why not.

use std::fmt::Display;

use openraft::{AnyError, DefensiveError, ErrorSubject, ErrorVerb, NodeId, StorageError, StorageIOError, Violation};

use crate::error::{ReadError, SubmitError, WalError};
use crate::format::batch::BatchError;
use crate::format::block::BlockError;

/// Why something can't be stored or read.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Wal(#[from] WalError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the type's own serialization fails: {why}")]
    Encode { why: String },
    #[error("{what} of {bytes} bytes, and this log takes at most {bytes_max}")]
    TooLarge { what: &'static str, bytes: usize, bytes_max: usize },
    #[error("the entries make no batch: {0}")]
    Batch(#[from] BatchError),
    #[error("what is stored is not what this adapter writes: {why}")]
    Malformed { why: &'static str },
    #[error("what is stored does not decode to the type that is asked for: {why}")]
    Decode { why: String },
    #[error("the block can't be read: {0}")]
    Block(#[from] BlockError),
    #[error("stored in version {found}, and this build reads 1")]
    Newer { found: u8 },
    #[error("the log does not go on from index {index}, where it must")]
    Hole { index: u64 },
    #[error(
        "the newest {fact} may be lost to damage: {danger}; it must join anew, with an empty log and under another id"
    )]
    InDoubt { fact: &'static str, danger: &'static str },
}

impl Fault {
    /// A stable code, which has a page in the documentation.
    const fn code(&self) -> &'static str {
        match self {
            Self::Submit(error) => error.code(),
            Self::Wal(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Encode { .. } => "TW-1401",
            Self::TooLarge { .. } => "TW-1402",
            Self::Batch(_) => "TW-1403",
            Self::Malformed { .. } | Self::Block(_) => "TW-1404",
            Self::Decode { .. } => "TW-1405",
            Self::Newer { .. } => "TW-1406",
            Self::Hole { .. } => "TW-1407",
            Self::InDoubt { .. } => "TW-1408",
        }
    }

    pub(super) fn into_storage<N: NodeId>(self, subject: ErrorSubject<N>, verb: ErrorVerb) -> StorageError<N> {
        storage(subject, verb, format_args!("{}: {self}", self.code()))
    }
}

fn storage<N: NodeId>(subject: ErrorSubject<N>, verb: ErrorVerb, why: impl Display) -> StorageError<N> {
    StorageIOError::new(subject, verb, AnyError::error(why)).into()
}

/// Something that a correct caller never asks for.
pub(super) fn violation<N: NodeId>(subject: ErrorSubject<N>, violation: Violation<N>) -> StorageError<N> {
    DefensiveError::new(subject, violation).into()
}

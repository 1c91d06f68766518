//! What can go wrong for a client, and what is known then.

use crate::model::RecordError;
use crate::model::codec::CodecError;
use crate::model::request::{Failure, FailureClass};
use std::time::Duration;

/// Why a call failed. Of a write it means that nothing was sent: it has no effect.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-7001 | fix the request | give one address at the least |
/// | TW-7002 | retry | no server answered, or none leads: look at the servers |
/// | TW-7003 | retry | the server did not answer in time |
/// | TW-7004 | retry | the connection ended before the answer |
/// | TW-7005 | fix the request | the write is not legal |
/// | TW-7006 | fix the request | the request is larger than the server takes |
/// | TW-7007 | operator | the server answers what this release does not understand |
/// | the server's | the server's | see [`Failure`] |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no address to connect to.
    #[error("no address to connect to was given")]
    NoAddress,
    /// No server that can be used was found in time.
    #[error("no server that can be used was found in {}: {}", seconds(.waited), .tried.join("; "))]
    Unreachable {
        /// How long it was looked for.
        waited: Duration,
        /// What became of each address at the last attempt.
        tried: Vec<String>,
    },
    /// No answer in time.
    #[error("no answer in {}", seconds(.waited))]
    Deadline {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection ended before the answer.
    #[error("the connection ended before the answer")]
    ConnectionLost,
    /// The write is not legal.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The request is too large for the server, or can't be encoded.
    #[error("the request can't be sent: {0}")]
    TooLarge(String),
    /// The answer is not one of a request like this.
    #[error("the server's answer is not understood: {0}")]
    Answer(String),
    /// The server says why it does not do it.
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl ClientError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::NoAddress => "TW-7001".into(),
            Self::Unreachable { .. } => "TW-7002".into(),
            Self::Deadline { .. } => "TW-7003".into(),
            Self::ConnectionLost => "TW-7004".into(),
            Self::Record(_) => "TW-7005".into(),
            Self::TooLarge(_) => "TW-7006".into(),
            Self::Answer(_) => "TW-7007".into(),
            Self::Refused(failure) => format!("TW-{:04}", failure.code),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::NoAddress | Self::Record(_) | Self::TooLarge(_) => FailureClass::FixRequest,
            Self::Unreachable { .. } | Self::Deadline { .. } | Self::ConnectionLost => FailureClass::Retry,
            Self::Answer(_) => FailureClass::Operator,
            Self::Refused(failure) => failure.class,
        }
    }
}

impl From<CodecError> for ClientError {
    fn from(error: CodecError) -> Self {
        Self::TooLarge(error.to_string())
    }
}

/// Why a write that was sent has no outcome.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-7101 | retry | it may or may not take effect, now or later: read what became of it, or write again with the version expected |
/// | the server's | the server's | it has no effect and never will: see [`Failure`] |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It may or may not take effect, now or later.
    #[error("the outcome of the write is unknown: {cause}")]
    Unknown {
        /// Why nothing more is known.
        cause: UnknownCause,
    },
    /// It has no effect, and never will: the server says so.
    #[error("{}", .0.message)]
    Refused(Failure),
}

/// Why nothing is known of a write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownCause {
    /// The connection ended before the answer.
    #[error("the connection ended before the answer")]
    ConnectionLost,
    /// The answer did not come in time; it may still take effect.
    #[error("no answer in {}", seconds(.0))]
    Deadline(Duration),
    /// The server does not know either.
    #[error("{}", .0.message)]
    Server(Failure),
    /// The answer is not one to a write.
    #[error("the server's answer is not understood")]
    Answer,
}

impl WriteError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Unknown { .. } => "TW-7101".into(),
            Self::Refused(failure) => format!("TW-{:04}", failure.code),
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Unknown { .. } => FailureClass::Retry,
            Self::Refused(failure) => failure.class,
        }
    }

    /// Whether the write has certainly no effect, and never will have.
    #[must_use]
    pub const fn has_no_effect(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

fn seconds(time: &Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

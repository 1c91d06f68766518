//! The words of the engine: ids, operations, records, control records, messages, outcomes, limits.
//!
//! This floor has no behaviour beyond validation. It owns two formats: the *record* ([`record`], laid out by
//! hand, stored in every batch) and the *envelope* of messages ([`codec`], the only module that names bincode).
//! The two types to know are [`Record`], one write as it lies in the log, and [`Operation`], what it does.
//!
//! The log's own words ([`Lsn`], [`Epoch`], [`LogPosition`]) are defined by `towline-wal` and re-exported here.

pub mod backup_record;
pub mod call;
#[cfg(test)]
mod call_test;
pub mod catalog_record;
pub mod change;
pub mod codec;
pub mod control_record;
pub mod follower;
#[cfg(test)]
mod format_test;
pub mod from_client;
pub mod ids;
pub mod limits;
pub mod message;
pub mod mutant;
pub mod namespace;
pub mod operation;
pub mod outcome;
pub mod read;
pub mod record;
pub mod replication_stream;
pub mod request;
pub mod scan;
#[cfg(any(feature = "node", feature = "client"))]
mod session_numbers;
mod session_state;
mod snapshot_id;
pub mod subscription;
pub mod token;
pub mod write;
pub mod written;

pub use backup_record::{BackupFile, BackupLog, BackupManifest, BackupPosition};
pub use catalog_record::{CatalogChange, CatalogRecord, CatalogSnapshot};
pub use change::{Change, Filter, Since};
pub use codec::CodecError;
pub use control_record::{Assignment, ControlKind, ControlRecord, EpochStart, ShardDescriptor, session_id};
pub use follower::{Budget, FollowerOptions, FollowerState};
pub use ids::{ClusterId, DirectoryId, NamespaceId, NodeId, ShardId};
pub use message::{LogSummary, Message};
pub use namespace::{NamespaceDescriptor, NamespaceOptions, Policy, Retention};
pub use operation::{Expect, Operation, Precondition, Target};
pub use outcome::{Outcome, Rejection};
pub use read::{Read, StreamRead, Value};
pub use record::{Record, RecordError, RequestId};
pub use replication_stream::{Received, ReplicationStream, StreamError};
pub use scan::{KeyValue, Page, Scan};
#[cfg(any(feature = "node", feature = "client"))]
pub use session_numbers::NumberError;
#[cfg(feature = "client")]
pub(crate) use session_numbers::Numbered;
#[cfg(any(feature = "node", feature = "client"))]
pub(crate) use session_numbers::Numbers;
pub use session_state::{Sent, SessionState, SessionStateError};
pub use snapshot_id::SnapshotId;
pub use token::{Token, TokenError};
pub use towline_wal::{Chain, Epoch, LogId, LogPosition, Lsn};
pub use write::Write;
pub use written::{Position, Written};

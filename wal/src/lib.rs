//! A write-ahead log that holds many ordered logs in one set of files: one sync makes all of them durable.
//!
//! It owns the [`Batch`]: consecutive records encoded, checksummed and compressed once; the same bytes lie on every
//! disk and cross every wire. It never looks inside a batch's blocks, never deletes what was not released, and knows
//! nothing of replication.
//!
//! The two types to know: [`Wal`], a log on real files with threads of its own; and [`LogCore`], the same log as a
//! state machine without I/O, which [`Wal`] drives on files and a simulator on a [`vdisk::VirtualDisk`].
//!
//! ```
//! use bytes::Bytes;
//! use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Entry, Epoch, LogId, Lsn, Options, Wal};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let options = Options { segment_bytes: 1 << 20, ..Options::default() };
//! let (wal, _report) = Wal::open(dir.path(), options).unwrap();
//!
//! let log = LogId::new(1);
//! let block = Block::encode(Bytes::from_static(b"hello"), 1, Compression::WhereItPays);
//! let batch = BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), wal.end(log), 0).block(block).seal().unwrap();
//! wal.submit(vec![Entry::Batch(batch)]).unwrap().wait().unwrap(); // durable now
//!
//! let batches = wal.read(log, Lsn::FIRST, 1 << 20).unwrap();
//! assert_eq!(batches[0].blocks().next().unwrap().decode(100).unwrap(), "hello");
//! wal.close().unwrap();
//! ```
#![forbid(unsafe_code)]

pub mod driver;
pub mod inspect;
pub mod io;
pub mod limits;
#[cfg(feature = "openraft")]
pub mod openraft;
pub mod repair;
pub mod vdisk;

mod compaction;
mod core;
mod error;
mod format;
mod recovery;

pub use crate::compaction::CompactionPlan;
pub use crate::core::{
    Completion, Cut, Entry, Extent, IndexRequest, LogCore, Options, SegmentIndex, Stats, Ticket, WhenFull,
};
pub use crate::driver::{Pending, Tail, TailError, Verified, Wal};
pub use crate::error::{FaultClass, OpenError, ReadError, SubmitError, WalError};
pub use crate::format::batch::{BATCH_VERSION, Batch, BatchBuilder, BatchError, BatchHeader, BatchKind};
pub use crate::format::block::{Block, BlockError, Codec, Compression};
pub use crate::format::ids::{Chain, Epoch, LogId, LogIdParseError, LogPosition, Lsn};
pub use crate::format::record::HardStateKind;
pub use crate::recovery::report::{DamagedRange, Finding, OpenReport};
pub use crate::recovery::table::GroupRow;

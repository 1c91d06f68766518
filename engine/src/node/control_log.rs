//! The log of the catalog, of a node that is alone: each change is durable before it is made.
//!
//! It is one log among those of the shards, with one record to a batch: a change, or a snapshot of everything. A
//! snapshot is written after so many changes, and what lies before it is released.

use super::error::{bytes_class, log_class, log_code};
use crate::control::{Catalog, CatalogError};
use crate::model::catalog_record::{CatalogChange, CatalogRecord};
use crate::model::codec::CodecError;
use crate::model::limits::{CATALOG_BYTES_MAX, CATALOG_CHANGES_MAX};
use crate::model::request::FailureClass;
use crate::model::{Epoch, LogId, LogPosition, Lsn};
use bytes::Bytes;
use std::sync::Arc;
use towline_wal::{
    Batch, BatchBuilder, BatchKind, Block, BlockError, Compression, Entry, ReadError, SubmitError, Wal, WalError,
};

/// Bytes of one read while the log is replayed: at least one record is always returned whole.
const READ_BYTES: usize = 1024 * 1024;
/// Who writes this log is held apart by the directory's lock, not by epochs.
const EPOCH: Epoch = Epoch { version: 1024, term: 1 };

/// Why the catalog can't be read or written.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-6411 | damage, or operator | keep the log and ask for help; or a newer release wrote it: install that |
/// | TW-6412 | damage | keep the log, ask for help |
/// | TW-6413 | damage | repair the log, or restore the directory |
/// | TW-55xx | | see [`CatalogError`]; at an opening it is damage: the log was written by something else |
/// | TW-10xx, TW-11xx | retry, operator or damage | see [`SubmitError`], [`WalError`], [`ReadError`] |
///
/// ```
/// use towline::model::request::FailureClass;
/// use towline::node::{CatalogLogError, Error, Node, NodeOptions, OpenError};
/// # use towline::control::ConfigMaster;
/// # use towline::model::{Epoch, Lsn, ShardId};
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression, Wal};
/// # let directory = tempfile::tempdir()?;
/// # let node = Node::open(NodeOptions::alone(directory.path()))?;
/// # let log = ConfigMaster::lineage(node.identity().cluster, ShardId::new(0));
/// # node.close()?;
/// # let (wal, _) = Wal::open(directory.path().join("wal"), NodeOptions::alone(directory.path()).log)?;
/// # let block = Block::encode("not a change".into(), 1, Compression::Never);
/// # let batch = BatchBuilder::new(log, BatchKind::Control, Epoch::new(1024, 1), wal.end(log), 0).block(block).seal()?;
/// # wal.append(batch)?;
/// # wal.close()?;
/// // Something else wrote into the log of the namespaces. What it means is not guessed: the node stays closed.
/// let refused = Node::open(NodeOptions::alone(directory.path())).map(drop).unwrap_err();
/// match &refused {
///     OpenError::Catalog(CatalogLogError::Record { lsn, .. }) => assert_eq!(lsn.get(), 1),
///     other => panic!("{other}"),
/// }
/// let error = Error::from(refused);
/// assert_eq!((error.code(), error.class()), (6411, FailureClass::Damage));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogLogError {
    /// The change can't be made.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The log can't be read.
    #[error("the catalog's log can't be read: {0}")]
    Read(#[from] ReadError),
    /// The log takes no more.
    #[error("the catalog's log takes nothing: {0}")]
    Refused(#[from] SubmitError),
    /// The log can't be written.
    #[error("the catalog's log can't be written: {0}")]
    Write(#[from] WalError),
    /// A record of it is not one.
    #[error("the catalog's log holds at LSN {lsn} what this release can't read: {source}")]
    Record {
        /// Where.
        lsn: Lsn,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A block of it is damaged, in a way that its checksums don't show.
    #[error("the catalog's log holds at LSN {lsn} a block that can't be read: {source}")]
    Block {
        /// Where.
        lsn: Lsn,
        /// What is wrong with it.
        source: BlockError,
    },
    /// The catalog may have lost changes that were durable.
    #[error(
        "the catalog's log is damaged behind LSN {0}: namespaces that were made or dropped there would be forgotten; \
         repair the log, or restore the directory"
    )]
    Damaged(Lsn),
}

impl CatalogLogError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Catalog(catalog) => catalog.code(),
            Self::Read(read) => log_code(read.code()),
            Self::Refused(refused) => log_code(refused.code()),
            Self::Write(write) => log_code(write.code()),
            Self::Record { .. } => 6411,
            Self::Block { .. } => 6412,
            Self::Damaged(_) => 6413,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Catalog(catalog) => catalog.class(),
            Self::Read(read) => log_class(read.class()),
            Self::Refused(refused) => log_class(refused.class()),
            Self::Write(write) => log_class(write.class()),
            Self::Record { source, .. } => bytes_class(source),
            Self::Block { .. } | Self::Damaged(_) => FailureClass::Damage,
        }
    }
}

/// The catalog, and the log that it comes from.
#[derive(Debug)]
pub(super) struct ControlLog {
    wal: Arc<Wal>,
    log: LogId,
    catalog: Catalog,
    /// Changes behind the last snapshot.
    changes: usize,
}

/// Begins a catalog's log with a record: of a directory that is being made.
pub(super) fn begin(wal: &Wal, log: LogId, record: &CatalogRecord) -> Result<(), WalError> {
    let end = wal.end(log);
    let raw = match record.encode() {
        Ok(raw) => raw,
        Err(error) => unreachable!("it was read from a manifest, which holds no larger one: {error}"),
    };
    wal.append(sealed(log, end, raw))
}

fn sealed(log: LogId, end: LogPosition, raw: Bytes) -> Batch {
    let block = Block::encode(raw, 1, Compression::WhereItPays);
    let builder = BatchBuilder::new(log, BatchKind::Control, EPOCH, end, super::shard::wall_micros());
    match builder.block(block).seal() {
        Ok(batch) => batch,
        Err(error) => unreachable!("one record of a bounded size makes a batch: {error}"),
    }
}

impl ControlLog {
    /// Reads the catalog back.
    pub(super) fn open(wal: Arc<Wal>, log: LogId, losses_unknown: u64) -> Result<Self, CatalogLogError> {
        if let Some((first, _)) = wal.damaged(log).first() {
            return Err(CatalogLogError::Damaged(first.prev()));
        }
        if wal.cut_of(log).is_some() {
            // What a power cut dropped was on its way. Nobody else has a copy that could say more, so the doubt is over; unless
            // something was lost of which nothing is known: that may have been a change.
            if losses_unknown > 0 {
                return Err(CatalogLogError::Damaged(wal.end(log).lsn));
            }
            wal.submit(vec![Entry::Settle { log }])?.wait()?;
        }
        let mut own = Self { wal, log, catalog: Catalog::initial(), changes: 0 };
        let (mut next, end) = (own.wal.start_of(log).lsn.next(), own.wal.end(log).lsn);
        while next <= end {
            let batches = own.wal.read(log, next, READ_BYTES)?;
            if batches.is_empty() {
                return Err(CatalogLogError::Damaged(next.prev()));
            }
            for batch in batches {
                next = batch.last_lsn().next();
                for block in batch.blocks() {
                    let lsn = batch.first_lsn();
                    let raw =
                        block.decode(2 * CATALOG_BYTES_MAX).map_err(|source| CatalogLogError::Block { lsn, source })?;
                    own.take(CatalogRecord::decode(&raw).map_err(|source| CatalogLogError::Record { lsn, source })?)?;
                }
            }
        }
        Ok(own)
    }

    /// As it is.
    pub(super) const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Makes a change: it is durable when this returns.
    pub(super) fn change(&mut self, change: CatalogChange) -> Result<(), CatalogLogError> {
        let mut after = self.catalog.clone();
        after.apply(change.clone())?;
        self.append(&CatalogRecord::Change(change))?;
        self.catalog = after;
        self.changes += 1;
        if self.changes >= CATALOG_CHANGES_MAX
            && let Err(error) = self.shorten()
        {
            // The change is made all the same; the next one tries again.
            tracing::warn!(%error, "the catalog's log was not shortened");
        }
        Ok(())
    }

    /// Writes everything as one record, and lets go what lies before it.
    fn shorten(&mut self) -> Result<(), CatalogLogError> {
        self.append(&CatalogRecord::Snapshot(self.catalog.snapshot()))?;
        self.changes = 0;
        let snapshot = self.wal.end(self.log).lsn;
        Ok(self.wal.release(self.log, snapshot)?)
    }

    fn append(&self, record: &CatalogRecord) -> Result<(), CatalogLogError> {
        let end = self.wal.end(self.log);
        let raw = record.encode().map_err(|source| CatalogLogError::Record { lsn: end.lsn.next(), source })?;
        Ok(self.wal.append(sealed(self.log, end, raw))?)
    }

    fn take(&mut self, record: CatalogRecord) -> Result<(), CatalogError> {
        match record {
            CatalogRecord::Change(change) => {
                self.changes += 1;
                self.catalog.apply(change)
            }
            CatalogRecord::Snapshot(snapshot) => {
                self.changes = 0;
                self.catalog = Catalog::from_snapshot(snapshot)?;
                Ok(())
            }
        }
    }
}

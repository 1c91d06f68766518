//! What a state is kept in: ordered families of keys and values, and atomic changes to them.

use super::change_set::ChangeSet;
use crate::model::request::FailureClass;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// A family of the state. All but [`Family::Meta`] are logical content, and part of the digest.
///
/// ```
/// use towline::state::{ChangeSet, Family, MemStore, Store, View};
/// let (mut store, mut changes) = (MemStore::new(), ChangeSet::default());
/// changes.put(Family::Meta, b"k", b"of this node");
/// store.commit(&changes)?;
/// assert_eq!(store.running_digest(), MemStore::new().running_digest(), "nodes may differ in it");
///
/// changes.put(Family::Values, b"k", b"of every replica");
/// store.commit(&changes)?;
/// assert_ne!(store.running_digest(), MemStore::new().running_digest());
/// assert_eq!(store.get(Family::Meta, b"k")?, Some(b"of this node".to_vec()), "each family has keys of its own");
/// # Ok::<(), towline::state::StoreError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// Current values by key.
    Values,
    /// Events by stream and version.
    Events,
    /// The version of each stream.
    Heads,
    /// Clients' sessions, and what came of their requests.
    Sessions,
    /// LSNs of records that had no effect.
    Rejected,
    /// What this node knows of its shards: applied positions, assignments in force. Not part of the digest.
    Meta,
}

impl Family {
    /// All of them, in digest order, `Meta` last.
    pub const ALL: [Self; 6] = [Self::Values, Self::Events, Self::Heads, Self::Sessions, Self::Rejected, Self::Meta];

    /// Its name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Events => "events",
            Self::Heads => "heads",
            Self::Sessions => "sessions",
            Self::Rejected => "rejected",
            Self::Meta => "meta",
        }
    }
}

/// Which way a scan goes.
///
/// ```
/// use std::ops::ControlFlow;
/// use towline::state::{ChangeSet, Family, MemStore, Order, Store, StoreError, View};
/// let (mut store, mut changes) = (MemStore::new(), ChangeSet::default());
/// for key in [b"a", b"c", b"e"] {
///     changes.put(Family::Values, key, b"");
/// }
/// store.commit(&changes)?;
/// let keys = |from: &[u8], order| {
///     let mut keys = Vec::new();
///     store.scan(Family::Values, from, order, &mut |key, _| {
///         keys.push(key.to_vec());
///         ControlFlow::Continue(())
///     })?;
///     Ok::<_, StoreError>(keys)
/// };
/// // The bound need not be there itself.
/// assert_eq!(keys(b"b", Order::Ascending)?, [b"c", b"e"]);
/// assert_eq!(keys(b"c", Order::Descending)?, [b"c", b"a"]);
/// # Ok::<(), StoreError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// From the bound up.
    Ascending,
    /// From the bound down.
    Descending,
}

/// The state can't be read or written.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5201 | operator | look at the reason: permissions, a full disk, another process |
/// | TW-5202 | operator | as above; after a background error of RocksDB, reopen the node |
/// | TW-5203 | damage | the log is intact: rebuild the state from it, or from a copy |
/// | TW-5204 | operator | this release is too old for the directory: install the newer one |
/// | TW-5205 | damage | as TW-5203 |
/// | TW-5206 | retry | flushes and compactions have to catch up first |
/// | TW-5207 | operator | make room on the disk of the state; what waits goes on by itself |
///
/// ```
/// use towline::model::request::FailureClass;
/// use towline::state::{ChangeSet, FollowerEntry, MemStore, Store, StoreError, followers, put_follower};
/// # use towline::model::{Epoch, Lsn, ShardId};
/// # use towline::state::{Change, Family};
/// # let (mut store, mut changes, shard) = (MemStore::new(), ChangeSet::default(), ShardId::new(1024));
/// # let entry = FollowerEntry::new(Epoch::new(1, 1), Lsn::FIRST, 0, 0, 0);
/// put_follower(&mut changes, shard, "mailer", &entry);
/// // Before it reaches the disk, something changes what is stored.
/// # let Some(Change::Put { family, key, .. }) = changes.changes().next() else { panic!("it is put") };
/// # let key = key.to_vec();
/// # changes.put(Family::Meta, key, b"rotten");
/// store.commit(&changes)?;
/// let error = followers(&store, shard).unwrap_err();
/// assert!(matches!(error, StoreError::Entry { family: "meta", bytes: 6, .. }));
/// assert_eq!((error.code(), error.class()), (5205, FailureClass::Damage));
/// assert!(error.remedy().contains("the log is whole"), "{error}{}", error.remedy());
/// # Ok::<(), StoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The state's directory can't be opened.
    #[error("the state in {} can't be opened: {reason}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What RocksDB or the system said.
        reason: String,
    },
    /// The backend refuses.
    #[error("{what} the state: {reason}")]
    Backend {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// The backend found its files damaged (fault D23).
    #[error("{what} the state: its files are damaged: {reason}")]
    Damaged {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// The state has a family that this release does not know: a newer release wrote it.
    #[error("the state in {} has the family `{family}`, which this release does not know: a newer one wrote it", path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// The family.
        family: String,
    },
    /// An entry is not what this release writes.
    #[error("an entry of family `{family}` can't be read (format {found}, {bytes} bytes)")]
    Entry {
        /// The family.
        family: &'static str,
        /// The format version in its first byte, 0 if it is empty.
        found: u8,
        /// Its length.
        bytes: usize,
    },
    /// The backend would make the writer wait, who asked not to. Nothing was written.
    #[error("the state takes no writes for a moment: flushes and compactions have to catch up")]
    Stalled,
    /// The disk of the state is full (fault D10). Nothing was written; once there is room, the same may be done again.
    #[error("{what} the state: its disk is full: {reason}")]
    DiskFull {
        /// What was tried.
        what: &'static str,
        /// What it said.
        reason: String,
    },
}

impl StoreError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Open { .. } => 5201,
            Self::Backend { .. } => 5202,
            Self::Damaged { .. } => 5203,
            Self::Newer { .. } => 5204,
            Self::Entry { .. } => 5205,
            Self::Stalled => 5206,
            Self::DiskFull { .. } => 5207,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Open { .. } | Self::Backend { .. } | Self::Newer { .. } | Self::DiskFull { .. } => {
                FailureClass::Operator
            }
            Self::Damaged { .. } | Self::Entry { .. } => FailureClass::Damage,
            Self::Stalled => FailureClass::Retry,
        }
    }

    /// What whoever runs the node does about it, to be read behind the error; empty, if the error says it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Entry { .. } => {
                "; the log is whole: close the node, move its directory `state` away and open it again, and the state is made \
                 anew from the log (if that was released: from a backup, or from the other nodes into an empty directory)"
            }
            Self::Backend { .. } => {
                "; the log is whole, and what the state lacks comes from it when the node is opened again; if it does not \
                 open, move its directory `state` away, and all of it does (if the log was released: from a backup, or from \
                 the other nodes into an empty directory)"
            }
            Self::Open { .. } | Self::Newer { .. } | Self::Stalled | Self::DiskFull { .. } => "",
        }
    }
}

/// Called with each entry of a scan; it says whether to go on.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered families, read.
///
/// ```
/// use std::ops::ControlFlow;
/// use towline::state::{ChangeSet, Family, MemStore, Order, Store, StoreError, View};
/// // Of a store, of a snapshot, of a state in memory alike.
/// fn count<V: View + ?Sized>(view: &V, family: Family) -> Result<usize, StoreError> {
///     let mut found = 0;
///     view.scan(family, b"", Order::Ascending, &mut |_, _| {
///         found += 1;
///         ControlFlow::Continue(())
///     })?;
///     Ok(found)
/// }
/// # let (mut store, mut changes) = (MemStore::new(), ChangeSet::default());
/// changes.put(Family::Values, b"a", b"17 bytes of value");
/// changes.put(Family::Values, b"b", b"");
/// store.commit(&changes)?;
/// assert_eq!((count(&store, Family::Values)?, count(&store, Family::Events)?), (2, 0));
/// let mut length = 0;
/// assert!(store.show(Family::Values, b"a", &mut |value| length = value.len())?);
/// assert_eq!(length, 17, "looked at where it lies: nothing was copied");
/// # Ok::<(), StoreError>(())
/// ```
pub trait View {
    /// Shows the value of a key, where it lies; false if there is none.
    ///
    /// # Errors
    /// The state can't be read.
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError>;

    /// The value of a key.
    ///
    /// # Errors
    /// The state can't be read.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut found = None;
        self.show(family, key, &mut |value| found = Some(value.to_vec()))?;
        Ok(found)
    }

    /// Visits entries from `from` on: ascending it is the first key that may be visited, descending the last.
    ///
    /// # Errors
    /// The state can't be read.
    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// Ordered families that change atomically.
///
/// ```
/// use towline::state::{Applier, ChangeSet, MemStore, Store, StoreError, View};
/// # use towline::model::{Epoch, LogId, LogPosition, NamespaceId, ShardDescriptor, ShardId, Write};
/// # use towline::state::{Family, Order, Visitor};
/// # use towline_wal::{BatchBuilder, BatchKind, Block, Compression};
/// # let log = LogId::new(1);
/// # let shard = ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: vec![], end: vec![] };
/// # let put = Write::new().put("k", "v").into_record().encode()?;
/// # let batch_behind = |prev: LogPosition| {
/// #     let block = Block::encode(put.clone(), 1, Compression::Never);
/// #     BatchBuilder::new(log, BatchKind::Data, Epoch::new(1, 1), prev, 0).block(block).seal()
/// # };
/// # let first = batch_behind(LogPosition::origin(log))?;
/// # let second = batch_behind(first.position())?;
/// struct Counted {
///     store: MemStore,
///     commits: usize,
/// }
/// impl Store for Counted {
///     fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError> {
///         self.commits += 1;
///         self.store.commit(changes)
///     }
/// }
/// # impl View for Counted {
/// #     fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
/// #         self.store.show(family, key, look)
/// #     }
/// #     fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
/// #         self.store.scan(family, from, order, visit)
/// #     }
/// # }
/// let mut applier = Applier::open(Counted { store: MemStore::new(), commits: 0 }, shard, log)?;
/// applier.apply(&[first, second])?;
/// assert_eq!(applier.store().commits, 1, "values, versions and position of two batches are one change");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Store: View {
    /// Makes all of these changes, in order, or none.
    ///
    /// # Errors
    /// The state can't be written; nothing changed.
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), StoreError>;
}

impl<V: View + ?Sized> View for &V {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        (**self).show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        (**self).scan(family, from, order, visit)
    }
}

impl<V: View + ?Sized> View for Arc<V> {
    fn show(&self, family: Family, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        (**self).show(family, key, look)
    }

    fn scan(&self, family: Family, from: &[u8], order: Order, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        (**self).scan(family, from, order, visit)
    }
}

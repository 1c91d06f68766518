//! What a state is kept in: ordered families of keys and values, and atomic changes to them.

use super::change_set::ChangeSet;
use crate::model::request::FailureClass;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// A family of the state. All but [`Family::Meta`] are logical content, and part of the digest.
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
                 anew from the log (or, if the log was released, restore a backup)"
            }
            Self::Backend { .. } => {
                "; the log is whole, and what the state lacks comes from it when the node is opened again; if it does not \
                 open, move its directory `state` away, and all of it does (or, if the log was released, restore a backup)"
            }
            Self::Open { .. } | Self::Newer { .. } | Self::Stalled | Self::DiskFull { .. } => "",
        }
    }
}

/// Called with each entry of a scan; it says whether to go on.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered families, read.
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

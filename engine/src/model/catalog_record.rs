//! Catalog records: what the log of the catalog holds, one to a control batch.
//!
//! A change, or a snapshot of everything that the changes before it left. Recovery takes the last snapshot and the
//! changes behind it. Each is an envelope ([`super::codec`]).

use super::codec::{self, CodecError, Decode, Encode, Enveloped};
use super::ids::NamespaceId;
use super::limits::CATALOG_BYTES_MAX;
use super::namespace::{NamespaceDescriptor, Policy};
use bytes::Bytes;

/// One step of the catalog. Ids are in it, so that whoever takes it ends up with the same.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::{CatalogChange, Policy};
/// let (mut here, mut there) = (Catalog::initial(), Catalog::initial());
/// let change = here.create("orders", Policy::default(), &[b"m".to_vec()])?;
/// here.apply(change.clone())?;
/// there.apply(change)?;
/// assert_eq!(here, there, "with the same ids");
///
/// let id = here.named("orders").ok_or("it was made")?.id;
/// assert_eq!(here.rename("orders", "sales")?, CatalogChange::Rename { id, name: "sales".into() });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[non_exhaustive]
pub enum CatalogChange {
    /// A namespace begins.
    Create(NamespaceDescriptor),
    /// It is called otherwise.
    Rename {
        /// Which one.
        id: NamespaceId,
        /// Its new name.
        name: String,
    },
    /// Something else was decided of it.
    SetPolicy {
        /// Which one.
        id: NamespaceId,
        /// From here on.
        policy: Policy,
    },
    /// It ends: nobody reaches it any more, and what it held is to go.
    Drop {
        /// Which one.
        id: NamespaceId,
    },
    /// Nothing is left of what a dropped one held.
    Forget {
        /// Which one.
        id: NamespaceId,
    },
}

/// Everything that the catalog holds.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::Policy;
/// let mut catalog = Catalog::initial();
/// catalog.apply(catalog.create("orders", Policy::default(), &[])?)?;
/// catalog.apply(catalog.drop_namespace("orders")?)?;
/// let snapshot = catalog.snapshot();
/// assert_eq!((snapshot.namespaces.len(), snapshot.dropped.len()), (1, 1));
/// assert_eq!(Catalog::from_snapshot(snapshot.clone())?, catalog);
///
/// let mut wrong = snapshot;
/// wrong.next_namespace = 1;
/// assert!(Catalog::from_snapshot(wrong).is_err(), "it holds ids that were not given yet");
/// # Ok::<(), towline::control::CatalogError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CatalogSnapshot {
    /// The number of the next namespace.
    pub next_namespace: u32,
    /// The counter of the next shard.
    pub next_shard: u64,
    /// Namespaces, ascending by id.
    pub namespaces: Vec<NamespaceDescriptor>,
    /// Those that are dropped and not forgotten, ascending by id.
    pub dropped: Vec<NamespaceDescriptor>,
}

impl Enveloped for CatalogChange {
    const KIND: u16 = 0x0601;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = CATALOG_BYTES_MAX;
}

impl Enveloped for CatalogSnapshot {
    const KIND: u16 = 0x0602;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = CATALOG_BYTES_MAX;
}

/// One record of the catalog's log.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::{CatalogRecord, Policy};
/// let mut catalog = Catalog::initial();
/// let mut written = vec![CatalogRecord::Snapshot(catalog.snapshot()).encode()?];
/// let change = catalog.create("orders", Policy::default(), &[])?;
/// written.push(CatalogRecord::Change(change.clone()).encode()?);
/// catalog.apply(change)?;
///
/// let mut opened = Catalog::initial();
/// for bytes in &written {
///     match CatalogRecord::decode(bytes)? {
///         CatalogRecord::Snapshot(all) => opened = Catalog::from_snapshot(all)?,
///         CatalogRecord::Change(change) => opened.apply(change)?,
///         newer => return Err(format!("not known here: {newer:?}").into()),
///     }
/// }
/// assert_eq!(opened, catalog);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatalogRecord {
    /// One step.
    Change(CatalogChange),
    /// Where everything before it led.
    Snapshot(CatalogSnapshot),
}

impl CatalogRecord {
    /// Its bytes: an envelope.
    ///
    /// # Errors
    /// It is larger than a catalog may be.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        match self {
            Self::Change(change) => codec::encode(change),
            Self::Snapshot(snapshot) => codec::encode(snapshot),
        }
    }

    /// The record in these bytes.
    ///
    /// # Errors
    /// They are not one that this release knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let kind = bytes.first_chunk::<2>().map_or(0, |field| u16::from_le_bytes(*field));
        if kind == CatalogSnapshot::KIND {
            return codec::decode(bytes).map(Self::Snapshot);
        }
        codec::decode(bytes).map(Self::Change)
    }
}

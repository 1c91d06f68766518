//! The catalog: which namespaces there are, and which shards each has.
//!
//! A state machine without I/O. A question ([`Catalog::create`] and the like) is checked and becomes a [`CatalogChange`];
//! once that is durable, [`Catalog::apply`] makes it true. Both sides check by the same rules, so that a log that holds
//! a change which could not have been asked for is told apart from one that does not.

use crate::model::catalog_record::{CatalogChange, CatalogSnapshot};
use crate::model::codec::CodecError;
use crate::model::limits::{CATALOG_BYTES_MAX, NAMESPACES_MAX, SHARDS_MAX, SHARDS_OF_NAMESPACE_MAX};
use crate::model::namespace::{BadName, check_name};
use crate::model::request::FailureClass;
use crate::model::{NamespaceDescriptor, NamespaceId, Policy, ShardDescriptor, ShardId};
use crate::shard::{MapError, ShardMap};
use std::collections::BTreeMap;

/// Shards are numbered by a counter and the ordinal of the cluster that made them, which is 0 here.
const CLUSTER_ORDINALS: u64 = 1024;

/// All namespaces of a node or a cluster.
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::Policy;
/// let mut catalog = Catalog::initial();
/// let change = catalog.create("orders", Policy::default(), &[b"m".to_vec()])?;
/// catalog.apply(change)?;
/// assert_eq!(catalog.named("orders").map(|namespace| namespace.shards.len()), Some(2));
/// assert!(catalog.create("orders", Policy::default(), &[]).is_err(), "the name is taken");
/// # Ok::<(), towline::control::CatalogError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    namespaces: BTreeMap<NamespaceId, NamespaceDescriptor>,
    /// Those that ended, until nothing is left of what they held.
    dropped: BTreeMap<NamespaceId, NamespaceDescriptor>,
    names: BTreeMap<String, NamespaceId>,
    next_namespace: u32,
    next_shard: u64,
}

/// Why the catalog does not change.
///
/// | code | class | what to do |
/// |---|---|---|
/// | TW-5501 to TW-5503, TW-5511 to TW-5514 | fix the request | as the sentence says |
/// | TW-5515 | operator | fewer namespaces, fewer or shorter split points |
/// | TW-5504, TW-5516 | damage | the catalog's log was written by something else: keep it, ask for help |
///
/// ```
/// use towline::control::Catalog;
/// use towline::model::request::FailureClass;
/// use towline::model::{CatalogChange, NamespaceId, Policy};
/// let mut catalog = Catalog::initial();
/// let refused = catalog.create("a/b", Policy::default(), &[]).unwrap_err();
/// assert_eq!((refused.code(), refused.class()), (5511, FailureClass::FixRequest));
///
/// // No question leads to this change: in the catalog's log it is damage, and nobody's mistake.
/// let refused = catalog.apply(CatalogChange::Forget { id: NamespaceId::new(9) }).unwrap_err();
/// assert_eq!((refused.code(), refused.class()), (5516, FailureClass::Damage));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The name is taken.
    #[error("there is a namespace {0:?} already")]
    Exists(String),
    /// There is no such namespace.
    #[error("there is no namespace {0:?}")]
    Unknown(String),
    /// The default namespace stays as it is.
    #[error("the namespace {DEFAULT_NAME:?} can't be renamed or dropped: every node has it")]
    Default,
    /// The split points make no shards.
    #[error(transparent)]
    Map(#[from] MapError),
    /// There is no room for more.
    #[error("the catalog holds at most {limit} {what}, and this would make {wanted}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How much.
        limit: usize,
        /// How much it would be.
        wanted: usize,
    },
    /// A change that could not have been asked for.
    #[error("the catalog's log says what can't be: {0}")]
    Contradiction(&'static str),
}

impl CatalogError {
    /// Its stable code: `TW-` and these four digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Name(_) => BadName::CODE,
            Self::Exists(_) => 5512,
            Self::Unknown(_) => 5513,
            Self::Default => 5514,
            Self::Map(map) => map.code(),
            Self::Full { .. } => 5515,
            Self::Contradiction(_) => 5516,
        }
    }

    /// What one can do about it.
    #[must_use]
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Name(_) | Self::Exists(_) | Self::Unknown(_) | Self::Default => FailureClass::FixRequest,
            Self::Map(map) => map.class(),
            Self::Full { .. } => FailureClass::Operator,
            Self::Contradiction(_) => FailureClass::Damage,
        }
    }
}

/// The namespace that every node has.
pub const DEFAULT_NAMESPACE: NamespaceId = NamespaceId::new(1);
/// What it is called.
pub const DEFAULT_NAME: &str = "default";
/// Its shard.
pub const DEFAULT_SHARD: ShardId = ShardId::new(CLUSTER_ORDINALS);

impl Catalog {
    /// The default namespace with one shard, and nothing else.
    #[must_use]
    pub fn initial() -> Self {
        let shard =
            ShardDescriptor { shard: DEFAULT_SHARD, namespace: DEFAULT_NAMESPACE, start: Vec::new(), end: Vec::new() };
        let name = DEFAULT_NAME.to_owned();
        let shards = vec![shard];
        let default =
            NamespaceDescriptor { id: DEFAULT_NAMESPACE, name: name.clone(), policy: Policy::default(), shards };
        Self {
            namespaces: BTreeMap::from([(DEFAULT_NAMESPACE, default)]),
            dropped: BTreeMap::new(),
            names: BTreeMap::from([(name, DEFAULT_NAMESPACE)]),
            next_namespace: DEFAULT_NAMESPACE.get().saturating_add(1),
            next_shard: 2,
        }
    }

    /// The change that makes a namespace with one shard for each stretch between `split_points`.
    ///
    /// # Errors
    /// The name is none or taken, the split points do not ascend, or there is no room.
    pub fn create(&self, name: &str, policy: Policy, split_points: &[Vec<u8>]) -> Result<CatalogChange, CatalogError> {
        if split_points.len() >= SHARDS_OF_NAMESPACE_MAX {
            return Err(MapError::Count(split_points.len().saturating_add(1)).into());
        }
        let id = NamespaceId::new(self.next_namespace);
        let counters = self.next_shard..self.next_shard.saturating_add(split_points.len() as u64).saturating_add(1);
        let shards: Vec<_> = counters.map(|counter| ShardId::new(counter.saturating_mul(CLUSTER_ORDINALS))).collect();
        let map = ShardMap::split(id, split_points, &shards)?;
        let shards = map.shards().to_vec();
        self.checked(CatalogChange::Create(NamespaceDescriptor { id, name: name.to_owned(), policy, shards }))
    }

    /// The change that calls a namespace otherwise.
    ///
    /// # Errors
    /// There is none of that name, or it is the default one, or the new name is none or taken.
    pub fn rename(&self, from: &str, to: &str) -> Result<CatalogChange, CatalogError> {
        let id = self.id(from)?;
        self.checked(CatalogChange::Rename { id, name: to.to_owned() })
    }

    /// The change that decides otherwise of a namespace.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn set_policy(&self, name: &str, policy: Policy) -> Result<CatalogChange, CatalogError> {
        let id = self.id(name)?;
        self.checked(CatalogChange::SetPolicy { id, policy })
    }

    /// The change that ends a namespace.
    ///
    /// # Errors
    /// There is none of that name, or it is the default one.
    pub fn drop_namespace(&self, name: &str) -> Result<CatalogChange, CatalogError> {
        let id = self.id(name)?;
        self.checked(CatalogChange::Drop { id })
    }

    /// The change that says that nothing is left of what a dropped namespace held.
    ///
    /// # Errors
    /// It is not dropped.
    pub fn forget(&self, id: NamespaceId) -> Result<CatalogChange, CatalogError> {
        self.checked(CatalogChange::Forget { id })
    }

    /// The namespace of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&NamespaceDescriptor> {
        self.names.get(name).and_then(|id| self.namespaces.get(id))
    }

    /// The namespace of this id.
    #[must_use]
    pub fn get(&self, id: NamespaceId) -> Option<&NamespaceDescriptor> {
        self.namespaces.get(&id)
    }

    /// All namespaces, by id.
    pub fn namespaces(&self) -> impl Iterator<Item = &NamespaceDescriptor> {
        self.namespaces.values()
    }

    /// Those that ended, and hold something still.
    pub fn dropped(&self) -> impl Iterator<Item = &NamespaceDescriptor> {
        self.dropped.values()
    }

    /// Everything, as one record.
    #[must_use]
    pub fn snapshot(&self) -> CatalogSnapshot {
        CatalogSnapshot {
            next_namespace: self.next_namespace,
            next_shard: self.next_shard,
            namespaces: self.namespaces.values().cloned().collect(),
            dropped: self.dropped.values().cloned().collect(),
        }
    }

    /// The catalog of a snapshot.
    ///
    /// # Errors
    /// It holds what no catalog does.
    pub fn from_snapshot(snapshot: CatalogSnapshot) -> Result<Self, CatalogError> {
        let CatalogSnapshot { next_namespace, next_shard, namespaces, dropped } = snapshot;
        let mut catalog = Self {
            namespaces: BTreeMap::new(),
            dropped: BTreeMap::new(),
            names: BTreeMap::new(),
            next_namespace,
            next_shard,
        };
        for (namespace, is_dropped) in
            namespaces.into_iter().map(|live| (live, false)).chain(dropped.into_iter().map(|gone| (gone, true)))
        {
            let is_numbered = namespace.id.get() < next_namespace
                && namespace.shards.iter().all(|shard| shard.shard.get() / CLUSTER_ORDINALS < next_shard);
            let is_known =
                catalog.namespaces.contains_key(&namespace.id) || catalog.dropped.contains_key(&namespace.id);
            if !is_numbered || is_known {
                return Err(CatalogError::Contradiction("an id that was not given yet, or twice"));
            }
            check_shards(&namespace)?;
            if is_dropped {
                catalog.dropped.insert(namespace.id, namespace);
                continue;
            }
            check_name(&namespace.name)?;
            if catalog.names.insert(namespace.name.clone(), namespace.id).is_some() {
                return Err(CatalogError::Contradiction("a name that two namespaces have"));
            }
            catalog.namespaces.insert(namespace.id, namespace);
        }
        if catalog.names.get(DEFAULT_NAME) != Some(&DEFAULT_NAMESPACE) {
            return Err(CatalogError::Contradiction("no default namespace"));
        }
        Ok(catalog)
    }

    /// Makes a change that is durable.
    ///
    /// # Errors
    /// It does not fit what is there; then nothing changed.
    pub fn apply(&mut self, change: CatalogChange) -> Result<(), CatalogError> {
        let change = self.checked(change)?;
        match change {
            CatalogChange::Create(namespace) => {
                self.next_namespace = namespace.id.get().saturating_add(1);
                let last = namespace.shards.iter().map(|shard| shard.shard.get() / CLUSTER_ORDINALS).max();
                self.next_shard = self.next_shard.max(last.unwrap_or(0).saturating_add(1));
                self.names.insert(namespace.name.clone(), namespace.id);
                self.namespaces.insert(namespace.id, namespace);
            }
            CatalogChange::Rename { id, name } => {
                if let Some(namespace) = self.namespaces.get_mut(&id) {
                    self.names.remove(&namespace.name);
                    self.names.insert(name.clone(), id);
                    namespace.name = name;
                }
            }
            CatalogChange::SetPolicy { id, policy } => {
                if let Some(namespace) = self.namespaces.get_mut(&id) {
                    namespace.policy = policy;
                }
            }
            CatalogChange::Drop { id } => {
                if let Some(namespace) = self.namespaces.remove(&id) {
                    self.names.remove(&namespace.name);
                    self.dropped.insert(id, namespace);
                }
            }
            CatalogChange::Forget { id } => drop(self.dropped.remove(&id)),
        }
        Ok(())
    }

    fn id(&self, name: &str) -> Result<NamespaceId, CatalogError> {
        self.names.get(name).copied().ok_or_else(|| CatalogError::Unknown(name.to_owned()))
    }

    /// The one place that says which change fits which catalog.
    fn checked(&self, change: CatalogChange) -> Result<CatalogChange, CatalogError> {
        let known = |id: &NamespaceId| {
            self.namespaces.get(id).ok_or(CatalogError::Contradiction("a change of a namespace that is not there"))
        };
        match &change {
            CatalogChange::Create(namespace) => {
                self.check_new_name(&namespace.name)?;
                if namespace.id.get() != self.next_namespace {
                    return Err(CatalogError::Contradiction("a namespace with a number that is not the next one"));
                }
                check_shards(namespace)?;
                let counters = namespace.shards.iter().map(|shard| shard.shard.get() / CLUSTER_ORDINALS);
                if !counters.enumerate().all(|(i, counter)| counter == self.next_shard.saturating_add(i as u64)) {
                    return Err(CatalogError::Contradiction("a shard with a number that is not the next one"));
                }
                self.check_room(namespace)?;
            }
            CatalogChange::Rename { id, name } => {
                let namespace = known(id)?;
                if *id == DEFAULT_NAMESPACE {
                    return Err(CatalogError::Default);
                }
                if namespace.name != *name {
                    self.check_new_name(name)?;
                }
            }
            CatalogChange::SetPolicy { id, .. } => drop(known(id)?),
            CatalogChange::Drop { id } => {
                known(id)?;
                if *id == DEFAULT_NAMESPACE {
                    return Err(CatalogError::Default);
                }
            }
            CatalogChange::Forget { id } => {
                if !self.dropped.contains_key(id) {
                    return Err(CatalogError::Contradiction("the end of a namespace that is not dropped"));
                }
            }
        }
        Ok(change)
    }

    fn check_new_name(&self, name: &str) -> Result<(), CatalogError> {
        check_name(name)?;
        if self.names.contains_key(name) {
            return Err(CatalogError::Exists(name.to_owned()));
        }
        Ok(())
    }

    /// A snapshot of all must fit one record, and ids must be left.
    fn check_room(&self, more: &NamespaceDescriptor) -> Result<(), CatalogError> {
        let count = self.namespaces.len().saturating_add(self.dropped.len());
        let full = |what, limit, wanted| Err(CatalogError::Full { what, limit, wanted });
        if count >= NAMESPACES_MAX {
            return full("namespaces", NAMESPACES_MAX, count.saturating_add(1));
        }
        if more.id.get() == u32::MAX {
            let ids = u32::MAX as usize;
            return full("namespaces in all its life", ids.saturating_sub(1), ids);
        }
        let held = self.namespaces.values().chain(self.dropped.values());
        let shards = held.fold(more.shards.len(), |sum, namespace| sum.saturating_add(namespace.shards.len()));
        if shards > SHARDS_MAX {
            return full("shards", SHARDS_MAX, shards);
        }
        let mut all = self.snapshot();
        all.namespaces.push(more.clone());
        match crate::model::codec::encode(&all) {
            Ok(_) => Ok(()),
            Err(CodecError::TooLarge { value, .. }) => {
                full("bytes of names and split points", CATALOG_BYTES_MAX, value)
            }
            // There is no other reason, the encoder says; were there one, the length would not be known.
            Err(_) => full("bytes of names and split points", CATALOG_BYTES_MAX, usize::MAX),
        }
    }
}

fn check_shards(namespace: &NamespaceDescriptor) -> Result<(), CatalogError> {
    ShardMap::new(namespace.shards.clone())?;
    if namespace.shards.iter().any(|shard| shard.namespace != namespace.id) {
        return Err(CatalogError::Contradiction("a shard of another namespace"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "catalog_test.rs"]
mod tests;

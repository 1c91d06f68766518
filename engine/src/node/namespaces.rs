//! Which namespaces a node has: made, found, renamed, dropped.

use super::control_log::ControlLog;
use super::error::NamespaceError;
use super::gate::Gate;
use super::hosting::{Host, ShardHandle};
use super::namespace::Namespace;
use super::shard::now;
use super::{Node, OpenError};
use crate::control::{Catalog, CatalogError};
use crate::model::catalog_record::CatalogChange;
use crate::model::{NamespaceDescriptor, NamespaceId, NamespaceOptions, Policy};
use crate::shard::ShardMap;
use crate::state::{RocksStore, Store as _, clear_namespace};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use towline_wal::{SubmitError as LogRefused, WalError};

/// The namespaces of a node that are up.
#[derive(Debug)]
pub(super) struct Registry {
    /// Who changes namespaces does it one after another, until the node closes.
    control: Mutex<Option<ControlLog>>,
    /// A node that is one of several changes none: its configuration says which there are.
    may_change: bool,
    up: RwLock<Up>,
}

#[derive(Debug, Default)]
struct Up {
    by_name: BTreeMap<String, NamespaceId>,
    by_id: BTreeMap<NamespaceId, Arc<Served>>,
}

/// One namespace that is up.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) id: NamespaceId,
    pub(super) map: ShardMap,
    /// In the order of the map.
    pub(super) shards: Vec<Arc<ShardHandle>>,
    /// What may change.
    pub(super) descriptor: RwLock<NamespaceDescriptor>,
    pub(super) is_dropped: AtomicBool,
    /// Followers come one after another: of two by one new name, the second finds the first.
    pub(super) following: Mutex<()>,
}

impl Registry {
    /// The registry of a node that has these namespaces; they come up by [`Registry::bring_up`].
    pub(super) fn new(control: ControlLog, may_change: bool) -> Self {
        Self { control: Mutex::new(Some(control)), may_change, up: RwLock::default() }
    }

    /// Brings all namespaces up; nothing serves them before all of them are known to come up.
    pub(super) fn bring_up(&self, host: &Host, store: &Arc<RocksStore>) -> Result<(), OpenError> {
        let catalog = self.control.lock().as_ref().map_or_else(Catalog::initial, |control| control.catalog().clone());
        let mut all = Vec::new();
        for namespace in catalog.namespaces() {
            let prepare = |shard: &crate::model::ShardDescriptor| host.prepare(store, shard.clone());
            // Whatever may fail comes first: who is served must be known.
            ShardMap::new(namespace.shards.clone()).map_err(CatalogError::from)?;
            all.push((namespace.clone(), namespace.shards.iter().map(prepare).collect::<Result<Vec<_>, _>>()?));
        }
        for (namespace, prepared) in all {
            let shards = prepared.into_iter().map(|shard| host.serve(shard)).collect();
            self.insert(namespace, shards)?;
        }
        Ok(())
    }

    fn insert(
        &self,
        descriptor: NamespaceDescriptor,
        shards: Vec<Arc<ShardHandle>>,
    ) -> Result<Arc<Served>, CatalogError> {
        let map = ShardMap::new(descriptor.shards.clone())?;
        let (id, name) = (descriptor.id, descriptor.name.clone());
        let descriptor = RwLock::new(descriptor);
        let served = Arc::new(Served {
            id,
            map,
            shards,
            descriptor,
            is_dropped: AtomicBool::new(false),
            following: Mutex::new(()),
        });
        let mut up = self.up.write();
        up.by_name.insert(name, id);
        up.by_id.insert(id, Arc::clone(&served));
        Ok(served)
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<Served>> {
        let up = self.up.read();
        up.by_name.get(name).and_then(|id| up.by_id.get(id)).map(Arc::clone)
    }

    /// Every namespace, by id.
    pub(super) fn all(&self) -> Vec<Arc<Served>> {
        self.up.read().by_id.values().map(Arc::clone).collect()
    }

    /// Every shard.
    pub(super) fn shards(&self) -> Vec<Arc<ShardHandle>> {
        self.all().iter().flat_map(|served| served.shards.iter().map(Arc::clone)).collect()
    }

    /// All shards, each with the name of its namespace.
    #[cfg(feature = "cluster")]
    pub(super) fn named_shards(&self) -> Vec<(String, Arc<ShardHandle>)> {
        let of = |served: &Arc<Served>| {
            let name = served.descriptor.read().name.clone();
            served.shards.iter().map(|shard| (name.clone(), Arc::clone(shard))).collect::<Vec<_>>()
        };
        self.all().iter().flat_map(of).collect()
    }

    /// How many shards there are.
    pub(super) fn count(&self) -> usize {
        self.up.read().by_id.values().map(|served| served.shards.len()).sum()
    }

    /// The catalog, and the shards that are up, of one moment; none if the node is closed.
    pub(super) fn catalog_and_shards(&self) -> Option<(Catalog, Vec<Arc<ShardHandle>>)> {
        let control = self.control.lock();
        let catalog = control.as_ref()?.catalog().clone();
        Some((catalog, self.shards()))
    }

    /// No namespace changes any more; one that is being changed is finished first.
    pub(super) fn close(&self) {
        drop(self.control.lock().take());
    }

    /// Goes on with what an earlier life dropped.
    pub(super) fn finish_drops(&self, host: &Host, gate: &Gate) -> Result<(), NamespaceError> {
        let mut control = self.control.lock();
        let Some(control) = control.as_mut() else { return Ok(()) };
        let dropped: Vec<_> = control.catalog().dropped().cloned().collect();
        dropped.into_iter().try_for_each(|namespace| remove(control, host, gate, &namespace))
    }
}

/// Removes what a dropped namespace held, of which no shard is up.
fn remove(
    control: &mut ControlLog,
    host: &Host,
    gate: &Gate,
    namespace: &NamespaceDescriptor,
) -> Result<(), NamespaceError> {
    let cleared = gate.with(|store| {
        let changes = clear_namespace(namespace.id, namespace.shards.iter().map(|shard| shard.shard));
        crate::state::RocksWriter::new(Arc::clone(store)).commit(&changes)?;
        // Before the catalog forgets it: otherwise a crash leaves in the state what nobody knows of.
        store.flush()
    });
    cleared.ok_or(NamespaceError::Closed)?.map_err(NamespaceError::Leftover)?;
    for shard in &namespace.shards {
        match host.wal.remove_log(host.log_of(shard.shard)) {
            // An earlier try came so far.
            Ok(()) | Err(WalError::Refused(LogRefused::UnknownLog { .. })) => {}
            Err(error) => return Err(NamespaceError::LeftoverLog(error)),
        }
    }
    let forget = control.catalog().forget(namespace.id)?;
    Ok(control.change(forget)?)
}

impl Node {
    /// The namespace of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn namespace(&self, name: &str) -> Result<Namespace, NamespaceError> {
        match self.shared.registry.named(name) {
            Some(served) => Ok(Namespace::new(Arc::clone(&self.shared), served)),
            None => Err(CatalogError::Unknown(name.to_owned()).into()),
        }
    }

    /// All namespaces, in the order in which they were made.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceDescriptor> {
        self.shared.registry.all().iter().map(|served| served.descriptor.read().clone()).collect()
    }

    /// Makes a namespace. It is durable when this returns.
    ///
    /// ```
    /// use towline::model::{Policy, Retention};
    /// use towline::node::{NamespaceOptions, Node, NodeOptions};
    /// # let directory = tempfile::tempdir()?;
    /// let node = Node::open(NodeOptions::alone(directory.path()))?;
    /// let options = NamespaceOptions::default()
    ///     .policy(Policy { retention: Retention::Forever, ..Policy::default() })
    ///     .split_at(["h", "p"]);
    /// let orders = node.create_namespace("orders", &options)?;
    /// assert_eq!(orders.descriptor().shards.len(), 3);
    /// # node.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The name is none or taken, the split points do not ascend, there is no room for more, or the node is one of
    /// several.
    pub fn create_namespace(&self, name: &str, options: &NamespaceOptions) -> Result<Namespace, NamespaceError> {
        let mut control = self.control()?;
        let control = control.as_mut().ok_or(NamespaceError::Closed)?;
        let change = control.catalog().create(name, options.policy, &options.split_points)?;
        let CatalogChange::Create(namespace) = change.clone() else { unreachable!("`create` makes it") };
        control.change(change)?;
        let (registry, host) = (&self.shared.registry, &self.shared.host);
        let prepare = |store: &Arc<RocksStore>| {
            namespace.shards.iter().map(|shard| host.prepare(store, shard.clone())).collect::<Result<Vec<_>, _>>()
        };
        let prepared = self.shared.gate.with(prepare).ok_or(NamespaceError::Closed)?;
        let prepared = prepared.map_err(|error| NamespaceError::Shard(Box::new(error)))?;
        let shards = prepared.into_iter().map(|shard| host.serve(shard)).collect();
        let served = registry.insert(namespace, shards)?;
        Ok(Namespace::new(Arc::clone(&self.shared), served))
    }

    /// Calls a namespace otherwise. Handles of it stay good.
    ///
    /// # Errors
    /// There is none of that name, or it is the default one; the new name is none or taken; the node is one of several.
    pub fn rename_namespace(&self, from: &str, to: &str) -> Result<(), NamespaceError> {
        let mut control = self.control()?;
        let control = control.as_mut().ok_or(NamespaceError::Closed)?;
        let change = control.catalog().rename(from, to)?;
        control.change(change)?;
        let mut up = self.shared.registry.up.write();
        if let Some(id) = up.by_name.remove(from) {
            if let Some(served) = up.by_id.get(&id) {
                to.clone_into(&mut served.descriptor.write().name);
            }
            up.by_name.insert(to.to_owned(), id);
        }
        Ok(())
    }

    /// Decides otherwise of a namespace, from here on.
    ///
    /// # Errors
    /// There is none of that name; the node is one of several.
    pub fn set_policy(&self, name: &str, policy: Policy) -> Result<(), NamespaceError> {
        let mut control = self.control()?;
        let control = control.as_mut().ok_or(NamespaceError::Closed)?;
        let change = control.catalog().set_policy(name, policy)?;
        control.change(change)?;
        if let Some(served) = self.shared.registry.named(name) {
            served.descriptor.write().policy = policy;
            served.shards.iter().for_each(|shard| shard.rest.disturb());
        }
        Ok(())
    }

    /// Drops a namespace: nobody reaches it any more, and everything that it held is removed, in the state and in the
    /// log. It is durable as soon as this says nothing of an error in the catalog, however it goes on: what is left is
    /// removed at the next opening. Who waits for a write of it hears that it was not
    /// taken, or that its outcome is unknown.
    ///
    /// # Errors
    /// There is none of that name, or it is the default one; the node is one of several; or what it held is not all
    /// removed yet.
    pub fn drop_namespace(&self, name: &str) -> Result<(), NamespaceError> {
        let mut control = self.control()?;
        let control = control.as_mut().ok_or(NamespaceError::Closed)?;
        let change = control.catalog().drop_namespace(name)?;
        control.change(change)?;
        let (registry, host) = (&self.shared.registry, &self.shared.host);
        let Some(served) = registry.named(name) else { return Ok(()) };
        {
            // Whoever writes beside the log, as followers do, has done so before this, or sees it.
            let _nobody_follows = served.following.lock();
            served.is_dropped.store(true, Ordering::SeqCst);
        }
        {
            let mut up = registry.up.write();
            up.by_name.remove(name);
            up.by_id.remove(&served.id);
        }
        served.shards.iter().for_each(|shard| shard.close(now()));
        served.shards.iter().for_each(|shard| shard.wait_for_the_end());
        let namespace = served.descriptor.read().clone();
        remove(control, host, &self.shared.gate, &namespace)
    }

    fn control(&self) -> Result<MutexGuard<'_, Option<ControlLog>>, NamespaceError> {
        let registry = &self.shared.registry;
        if !registry.may_change {
            return Err(NamespaceError::NotAlone(self.shared.host.node));
        }
        Ok(registry.control.lock())
    }
}

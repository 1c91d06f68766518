//! The namespaces that a configuration names: of several nodes without a control plane each has the same, from its file.
//!
//! A namespace's number, and those of its shards, follow from its place in the file. So the order there is for ever, and what a
//! directory holds is looked at before anything is served: a shard that another file numbers otherwise would take one's keys for
//! another's. Nodes whose files differ find that when they speak of the shard
//! ([`ConfigMaster::named_log`](crate::control::ConfigMaster::named_log)).

use super::NamespaceOptions;
use super::control_log::{CatalogLogError, ControlLog};
use super::open::OpenError;
use crate::control::{Catalog, CatalogError};
use crate::model::limits::SHARDS_OF_NAMESPACE_MAX;
use crate::model::{NamespaceDescriptor, Policy};
use std::fmt;

/// A namespace, as every node's configuration names it.
///
/// ```
/// use towline::node::NamespaceLayout;
/// let orders = NamespaceLayout::evenly("orders", 4);
/// assert_eq!(orders.split_points, [b"\x40\0", b"\x80\0", b"\xc0\0"], "for keys whose first bytes are spread evenly");
/// let names = NamespaceLayout::split_at("names", ["h", "p"]);
/// assert_eq!(names.shards(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceLayout {
    /// What it is called.
    pub name: String,
    /// Where its shards begin, but for the first: ascending keys.
    pub split_points: Vec<Vec<u8>>,
}

impl NamespaceLayout {
    /// With so many shards, as if every pair of first bytes were as likely in a key as any other.
    #[must_use]
    pub fn evenly(name: impl Into<String>, shards: usize) -> Self {
        let shards = shards.clamp(1, SHARDS_OF_NAMESPACE_MAX);
        let point = |number: usize| {
            let first = number * (1 << 16) / shards;
            // Of less than two bytes: the number is below that of the shards.
            [first >> 8, first & 0xff].into_iter().filter_map(|byte| u8::try_from(byte).ok()).collect()
        };
        Self { name: name.into(), split_points: (1..shards).map(point).collect() }
    }

    /// With a shard before, between and behind these keys.
    #[must_use]
    pub fn split_at<K: Into<Vec<u8>>>(name: impl Into<String>, points: impl IntoIterator<Item = K>) -> Self {
        let options = NamespaceOptions::default().split_at(points);
        Self { name: name.into(), split_points: options.split_points }
    }

    /// How many shards it has.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.split_points.len() + 1
    }
}

/// A configuration and a directory that name different namespaces (TW-6028): name them as they were named first, and new ones
/// behind those; or open another directory.
///
/// ```
/// use towline::node::{NamespaceLayout, Node, NodeOptions, OpenError};
/// # let directory = tempfile::tempdir()?;
/// let mut options = NodeOptions::alone(directory.path());
/// options.namespaces = vec![NamespaceLayout::evenly("orders", 4)];
/// Node::open(options.clone())?.close()?;
/// options.namespaces = vec![NamespaceLayout::evenly("orders", 8)];
/// match Node::open(options) {
///     Err(OpenError::NamespacesDiffer(differ)) => assert!(differ.to_string().ends_with(
///         "has \"orders\" with 4 shards as namespace 2, and the configuration names \"orders\" with 8 shards"
///     ), "{differ}"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacesDiffer {
    number: u32,
    /// Name and number of shards.
    found: Option<(String, usize)>,
    named: Option<(String, usize)>,
}

impl NamespacesDiffer {
    fn new(found: Option<&NamespaceDescriptor>, named: Option<&NamespaceDescriptor>) -> Self {
        let told = |space: &NamespaceDescriptor| (space.name.clone(), space.shards.len());
        let number = found.or(named).map_or(0, |space| space.id.get());
        Self { number, found: found.map(told), named: named.map(told) }
    }
}

impl fmt::Display for NamespacesDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |of: &Option<(String, usize)>| match of {
            Some((name, 1)) => format!("{name:?} with 1 shard"),
            Some((name, shards)) => format!("{name:?} with {shards} shards"),
            None => "none".to_owned(),
        };
        write!(
            f,
            "the directory has {} as namespace {}, and the configuration names ",
            told(&self.found),
            self.number
        )?;
        if self.found == self.named {
            return write!(f, "the same, split at other keys or made after others");
        }
        f.write_str(&told(&self.named))
    }
}

impl std::error::Error for NamespacesDiffer {}

/// The catalog that a list of namespaces makes, from nothing.
pub(super) fn catalog_of(layouts: &[NamespaceLayout]) -> Result<Catalog, CatalogError> {
    let mut catalog = Catalog::initial();
    for NamespaceLayout { name, split_points } in layouts {
        catalog.apply(catalog.create(name, Policy::default(), split_points)?)?;
    }
    Ok(catalog)
}

/// Makes what a directory has of namespaces what the configuration of one of several nodes names: those that it does not have
/// yet are made, and anything else that differs is an error, before anything is changed.
pub(super) fn settle(control: &mut ControlLog, layouts: &[NamespaceLayout]) -> Result<(), OpenError> {
    let wanted = catalog_of(layouts).map_err(CatalogLogError::Catalog)?;
    let mut known = control.catalog().clone();
    if let Some(gone) = known.dropped().next() {
        return Err(NamespacesDiffer::new(Some(gone), None).into());
    }
    if let Some(extra) = known.namespaces().find(|space| wanted.get(space.id).is_none()) {
        return Err(NamespacesDiffer::new(Some(extra), None).into());
    }
    let mut changes = Vec::new();
    for named in wanted.namespaces() {
        if known.get(named.id).is_none() {
            let points: Vec<_> = named.shards.iter().skip(1).map(|shard| shard.start.clone()).collect();
            let change = known.create(&named.name, Policy::default(), &points).map_err(CatalogLogError::Catalog)?;
            known.apply(change.clone()).map_err(CatalogLogError::Catalog)?;
            changes.push(change);
        }
        // Of its policy nothing is said in the file.
        let found = known.get(named.id);
        if found.is_none_or(|found| (&found.name, &found.shards) != (&named.name, &named.shards)) {
            return Err(NamespacesDiffer::new(found, Some(named)).into());
        }
    }
    // Each is durable before a shard of it is served: otherwise another file could number it otherwise after a crash.
    changes.into_iter().try_for_each(|change| control.change(change))?;
    Ok(())
}

/// The same of a node that is alone, which may have others as well, made by whoever asked for them.
pub(super) fn settle_alone(control: &mut ControlLog, layouts: &[NamespaceLayout]) -> Result<(), OpenError> {
    for layout in layouts {
        let points: Vec<&[u8]> = layout.split_points.iter().map(Vec::as_slice).collect();
        match control.catalog().named(&layout.name) {
            Some(found) if found.shards.iter().skip(1).map(|shard| &shard.start[..]).eq(points.iter().copied()) => {}
            Some(found) => {
                let named = (layout.name.clone(), layout.shards());
                return Err(NamespacesDiffer { named: Some(named), ..NamespacesDiffer::new(Some(found), None) }.into());
            }
            None => {
                let change = control.catalog().create(&layout.name, Policy::default(), &layout.split_points);
                control.change(change.map_err(CatalogLogError::Catalog)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;
    use crate::node::{Node, NodeOptions};
    use std::path::Path;

    /// One of three, the others away.
    fn open(directory: &Path, layouts: &[NamespaceLayout]) -> Result<Node, OpenError> {
        let voters = [1, 2, 3].map(NodeId::new).to_vec();
        Node::open(NodeOptions { voters, namespaces: layouts.to_vec(), ..NodeOptions::alone(directory) })
    }

    fn differ(opened: Result<Node, OpenError>) -> String {
        match opened {
            Err(error @ OpenError::NamespacesDiffer(_)) => {
                assert_eq!(error.code(), 6028);
                error.to_string()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shards_are_split_evenly_and_each_begins_above_the_one_before() {
        for shards in [1, 2, 3, 16, 1000, SHARDS_OF_NAMESPACE_MAX] {
            let layout = NamespaceLayout::evenly("space", shards);
            assert_eq!(layout.shards(), shards);
            assert!(layout.split_points.iter().all(|point| point.len() == 2));
            catalog_of(&[layout]).unwrap();
        }
    }

    #[test]
    fn a_directory_takes_new_namespaces_behind_its_own_and_refuses_any_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let of = |name: &str, shards| NamespaceLayout::evenly(name, shards);
        let (orders, names) = (of("orders", 4), NamespaceLayout::split_at("names", ["h", "p"]));
        open(directory.path(), std::slice::from_ref(&orders)).unwrap().close().unwrap();
        let node = open(directory.path(), &[orders.clone(), names.clone()]).unwrap();
        assert_eq!(node.namespaces().iter().map(|space| space.shards.len()).collect::<Vec<_>>(), [1, 4, 3]);
        node.close().unwrap();
        let refused = |layouts: &[NamespaceLayout]| differ(open(directory.path(), layouts));
        let said = refused(&[names.clone(), orders.clone()]);
        assert!(
            said.contains("has \"orders\" with 4 shards as namespace 2") && said.ends_with("\"names\" with 3 shards"),
            "{said}"
        );
        let said = refused(std::slice::from_ref(&orders));
        assert!(said.contains("has \"names\" with 3 shards as namespace 3") && said.ends_with("names none"), "{said}");
        let said = refused(&[orders.clone(), NamespaceLayout::split_at("names", ["h", "q"])]);
        assert!(said.ends_with("names the same, split at other keys or made after others"), "{said}");
        open(directory.path(), &[orders, names]).unwrap().close().unwrap();
    }

    #[test]
    fn a_shard_whose_state_is_being_replaced_holds_up_nobody_who_reads_another() {
        use crate::model::{Read, Scan};
        let directory = tempfile::tempdir().unwrap();
        let node = open(directory.path(), &[NamespaceLayout::split_at("orders", ["m"])]).unwrap();
        let space = node.namespace("orders").unwrap();
        let replaced = &space.shards()[1];
        replaced.positions.begin_replacing();
        assert_eq!(space.get("a", Read::Eventual).unwrap(), None);
        assert_eq!(space.multi_get(["a", "b"], Read::Eventual).unwrap().len(), 2);
        let codes = [
            space.get("z", Read::Eventual).map(drop),
            space.multi_get(["a", "z"], Read::Eventual).map(drop),
            space.scan(&Scan::all(), Read::Eventual).map(drop),
            space.with_store(Some(replaced), |_| Ok(())),
        ];
        assert_eq!(codes.map(|read| read.unwrap_err().code()), [6109; 4]);
        replaced.positions.end_replacing();
        assert!(space.scan(&Scan::all(), Read::Eventual).is_ok());
        node.close().unwrap();
    }

    /// A namespace that another node does not have would be numbered otherwise there.
    #[test]
    fn what_was_made_while_a_node_was_alone_counts_only_if_the_file_would_make_the_same() {
        let alone = || {
            let directory = tempfile::tempdir().unwrap();
            let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
            (directory, node)
        };
        let orders = NamespaceLayout::split_at("orders", ["m"]);
        let (directory, node) = alone();
        node.create_namespace("orders", &NamespaceOptions::default().split_at(["m"])).unwrap();
        node.close().unwrap();
        differ(open(directory.path(), &[]));
        open(directory.path(), std::slice::from_ref(&orders)).unwrap().close().unwrap();
        let (directory, node) = alone();
        node.create_namespace("gone", &NamespaceOptions::default()).unwrap();
        node.drop_namespace("gone").unwrap();
        node.close().unwrap();
        differ(open(directory.path(), &[orders]));
    }
}

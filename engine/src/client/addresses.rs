//! [`Addresses`]: where the servers are, and which node was found at which address.

use crate::model::NodeId;
use parking_lot::Mutex;
use std::fmt;

/// The addresses of a cluster's servers, in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Addresses {
    all: Vec<String>,
    /// Of each, the node that answered there last.
    nodes: Mutex<Vec<Option<NodeId>>>,
}

impl Addresses {
    pub(super) fn new(all: Vec<String>) -> Self {
        let nodes = Mutex::new(vec![None; all.len()]);
        Self { all, nodes }
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them: first those at which this node was found, then the others.
    pub(super) fn in_order(&self, first: Option<NodeId>) -> impl Iterator<Item = &str> {
        let nodes = self.nodes.lock().clone();
        let is_first = move |index: usize| first.is_some() && nodes.get(index).copied().flatten() == first;
        let (first, others): (Vec<_>, Vec<_>) = self.all.iter().enumerate().partition(|(index, _)| is_first(*index));
        first.into_iter().chain(others).map(|(_, address)| address.as_str())
    }

    /// This node answers there.
    pub(super) fn note(&self, address: &str, node: NodeId) {
        let mut nodes = self.nodes.lock();
        let found = self.all.iter().zip(nodes.iter_mut()).filter(|(known, _)| *known == address);
        found.for_each(|(_, known)| *known = Some(node));
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_looked_for_first_where_it_was_found_last() {
        let addresses = Addresses::new(vec!["a:1".into(), "b:1".into(), "c:1".into()]);
        let order = |node: u64| addresses.in_order(Some(NodeId::new(node))).collect::<Vec<_>>();
        assert_eq!(order(2), ["a:1", "b:1", "c:1"], "nobody was found anywhere");
        addresses.note("b:1", NodeId::new(2));
        addresses.note("c:1", NodeId::new(3));
        assert_eq!(order(2), ["b:1", "a:1", "c:1"]);
        assert_eq!(order(3), ["c:1", "a:1", "b:1"]);
        addresses.note("c:1", NodeId::new(2));
        assert_eq!(order(3), ["a:1", "b:1", "c:1"], "another one answers there by now");
        assert_eq!(addresses.in_order(None).collect::<Vec<_>>(), ["a:1", "b:1", "c:1"]);
    }
}

//! [`Spares`]: connections to servers that have sent on what they were asked, for when they are to be asked again: a handover back
//! is as quick then as the servers are.

use super::link::Link;
use crate::model::NodeId;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Spares {
    links: Mutex<Vec<Arc<Link>>>,
    /// As many as are kept.
    max: usize,
}

impl Spares {
    pub(super) const fn new(max: usize) -> Self {
        Self { links: Mutex::new(Vec::new()), max }
    }

    /// Keeps it, if it may be of use and there is room.
    pub(super) fn keep(&self, link: Arc<Link>) {
        let mut links = self.links.lock();
        links.retain(|link| link.is_open());
        if link.is_open() && links.len() < self.max {
            links.push(link);
        }
    }

    /// One to this node, which was named as the one to ask.
    pub(super) fn take(&self, node: NodeId) -> Option<Arc<Link>> {
        let mut links = self.links.lock();
        links.retain(|link| link.is_open());
        let index = links.iter().position(|link| link.node() == node)?;
        let link = links.swap_remove(index);
        link.try_again();
        Some(link)
    }

    /// Ends them all.
    pub(super) fn close(&self) {
        self.links.lock().drain(..).for_each(|link| link.close());
    }
}

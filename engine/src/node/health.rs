//! Why a shard, or the node, has stopped by itself, for whoever runs it.

use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

type Call = Box<dyn FnOnce(String) + Send>;

/// The first reason for which a shard stopped, or one of a node's; shared by its threads and its owner.
#[derive(Clone, Default)]
pub(super) struct Health {
    state: Arc<Mutex<State>>,
    /// Of the node, where this is a shard's: what stops one of its shards is wrong with the node.
    node: Option<Arc<Self>>,
}

#[derive(Default)]
struct State {
    failure: Option<String>,
    calls: Vec<Call>,
}

impl Health {
    /// A shard's, on this node.
    pub(super) fn of_a_shard(node: &Arc<Self>) -> Self {
        Self { state: Arc::default(), node: Some(Arc::clone(node)) }
    }

    /// It stops for this reason, and the node with it. Only the first one counts: the others follow from it.
    pub(super) fn fail(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return;
        }
        state.failure = Some(reason.to_owned());
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        calls.into_iter().for_each(|call| call(reason.to_owned()));
        if let Some(node) = &self.node {
            node.fail(reason);
        }
    }

    /// The reason, if it stopped.
    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Calls with the reason once it stops; at once if it has.
    #[cfg(feature = "cluster")]
    pub(super) fn on_failure(&self, call: impl FnOnce(String) + Send + 'static) {
        let mut state = self.state.lock();
        match state.failure.clone() {
            Some(reason) => {
                drop(state);
                call(reason);
            }
            None => state.calls.push(Box::new(call)),
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.failure()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_a_shard_stops_the_node_and_the_first_reason_counts() {
        let node = Arc::<Health>::default();
        let [one, other] = [(); 2].map(|()| Health::of_a_shard(&node));
        one.fail("the disk");
        one.fail("and what follows from it");
        assert_eq!((one.failure().as_deref(), node.failure().as_deref()), (Some("the disk"), Some("the disk")));
        assert_eq!(other.failure(), None);
    }
}

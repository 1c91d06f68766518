//! [`Routing`]: which node leads what, as servers said: what is about a key goes to the one that leads its shard.

use super::servers::About;
use crate::model::NodeId;
use crate::model::call::ShardPlace;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The namespaces of which something is known.
#[derive(Debug, Default)]
pub(super) struct Routing(Mutex<BTreeMap<String, Known>>);

#[derive(Debug)]
struct Known {
    /// In the order of their keys; none: a server said nothing of them, and what is otherwise asked is asked.
    places: Vec<ShardPlace>,
    /// The node that is asked about whatever has no other one.
    home: Option<NodeId>,
    /// How often servers had sent something elsewhere by then: once more, and it may be somebody else who leads.
    sent_on: u64,
}

/// Where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the node that is otherwise asked.
    Home,
    /// To this one.
    To(NodeId),
    /// It is to be asked.
    Unknown,
}

impl Routing {
    /// Where what is about this goes, if that was learnt since servers last sent something elsewhere.
    pub(super) fn way(&self, namespace: &str, about: &About, sent_on: u64) -> Way {
        let known = self.0.lock();
        let Some(known) = known.get(namespace).filter(|known| known.sent_on == sent_on) else { return Way::Unknown };
        let place = match about {
            About::Nothing => None,
            About::Key(key) => {
                let behind = known.places.partition_point(|place| place.start.as_slice() <= key.as_slice());
                behind.checked_sub(1).and_then(|index| known.places.get(index))
            }
            About::Shard(shard) => known.places.iter().find(|place| place.shard == *shard),
        };
        let leader = place.and_then(|place| place.leader).filter(|leader| Some(*leader) != known.home);
        leader.map_or(Way::Home, Way::To)
    }

    /// What a server said of a namespace's shards.
    pub(super) fn learn(&self, namespace: &str, places: Vec<ShardPlace>, home: Option<NodeId>, sent_on: u64) {
        self.0.lock().insert(namespace.to_owned(), Known { places, home, sent_on });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ShardId;

    #[test]
    fn a_key_goes_to_the_leader_of_its_shard_until_a_server_sends_something_elsewhere() {
        let routing = Routing::default();
        let place = |number: u64, start: &str, leader: u64| ShardPlace {
            shard: ShardId::new(1024 * number),
            start: start.into(),
            leader: (leader > 0).then(|| NodeId::new(leader)),
            serving: false,
            applied: 0,
            failure: None,
        };
        let key = |key: &str| About::Key(key.into());
        assert_eq!(routing.way("orders", &key("a"), 0), Way::Unknown);
        let places = vec![place(2, "", 1), place(3, "h", 2), place(4, "p", 0)];
        routing.learn("orders", places, Some(NodeId::new(1)), 0);
        assert_eq!(routing.way("orders", &key("a"), 0), Way::Home, "the one that is asked anyway");
        assert_eq!(routing.way("orders", &key("h"), 0), Way::To(NodeId::new(2)));
        assert_eq!(routing.way("orders", &key("oz"), 0), Way::To(NodeId::new(2)));
        assert_eq!(routing.way("orders", &key("p"), 0), Way::Home, "nobody knows who leads it");
        assert_eq!(routing.way("orders", &About::Shard(ShardId::new(3072)), 0), Way::To(NodeId::new(2)));
        assert_eq!(routing.way("orders", &About::Nothing, 0), Way::Home);
        assert_eq!(routing.way("orders", &key("h"), 1), Way::Unknown);
        assert_eq!(routing.way("others", &key("h"), 0), Way::Unknown);
    }
}

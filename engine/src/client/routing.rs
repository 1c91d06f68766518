//! [`Routing`]: which node leads what, as servers said: what is about a key goes to the one that leads its shard.
//!
//! What was said holds until something is refused: from then on the shard that it was about is in doubt, and the next request
//! about that shard asks all servers again. Whatever is about other shards goes its way meanwhile, as it did before.

use super::pauses::Pauses;
use super::servers::About;
use crate::model::call::ShardPlace;
use crate::model::limits::SHARDS_OF_NAMESPACE_MAX;
use crate::model::request::{Failure, code};
use crate::model::{NodeId, ShardId};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

/// Servers are not asked more often than that who leads the shards of a namespace, whatever they refuse: the answer may be
/// large. It is more where their answers bring nothing new.
pub(super) const ASK_PAUSE: Duration = Duration::from_millis(100);

/// Namespaces of which something is remembered while nothing is asked of them.
const NAMESPACES_MAX: usize = 1024;

/// The namespaces of which something is known.
#[derive(Debug, Default)]
pub(super) struct Routing(Mutex<BTreeMap<String, Arc<Ways>>>);

impl Routing {
    /// What is known of this one.
    pub(super) fn of(&self, namespace: &str) -> Arc<Ways> {
        let mut all = self.0.lock();
        if let Some(ways) = all.get(namespace) {
            return Arc::clone(ways);
        }
        if all.len() >= NAMESPACES_MAX {
            // A program may ask for any number of names, also of such as there are not. Of those it is asked again.
            all.retain(|_, ways| Arc::strong_count(ways) > 1);
        }
        Arc::clone(all.entry(namespace.to_owned()).or_default())
    }

    /// All nodes to which something goes.
    pub(super) fn leaders(&self) -> BTreeSet<NodeId> {
        let all: Vec<_> = self.0.lock().values().map(Arc::clone).collect();
        let leaders = |ways: Arc<Ways>| ways.known.lock().places.iter().filter_map(|place| place.leader).collect();
        all.into_iter().flat_map(|ways| -> BTreeSet<NodeId> { leaders(ways) }).collect()
    }
}

/// What is known of one namespace.
#[derive(Debug, Default)]
pub(super) struct Ways {
    known: Mutex<Known>,
    /// Whoever asks the servers has it. Taken before the other.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    /// In the order of their keys; none: nobody said anything of them, and what is otherwise asked is asked.
    places: Vec<Place>,
    /// Since when it may be another one that leads, of whatever shard. Each place has its own.
    doubted: Option<Instant>,
    /// Nobody is asked before then; none: nobody was asked yet.
    next: Option<Instant>,
    pauses: Pauses,
}

impl Default for Known {
    fn default() -> Self {
        Self { places: Vec::new(), doubted: None, next: None, pauses: Pauses::new() }
    }
}

#[derive(Debug)]
struct Place {
    shard: ShardId,
    start: Vec<u8>,
    leader: Option<NodeId>,
    doubted: Option<Instant>,
    /// When the one that led before named this leader.
    named: Option<Instant>,
}

/// What one server says of a namespace's shards.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) node: NodeId,
    /// None: it does not say.
    pub(super) places: Vec<ShardPlace>,
}

impl Told {
    /// Whether each key has its place in it. Foreign bytes: whatever else it were, keys would be looked up in it.
    fn is_table(&self) -> bool {
        let begins = self.places.first().is_some_and(|first| first.start.is_empty());
        let ascends = self.places.is_sorted_by(|one, next| one.start < next.start);
        let shards: BTreeSet<_> = self.places.iter().map(|place| place.shard).collect();
        begins && ascends && shards.len() == self.places.len() && shards.len() <= SHARDS_OF_NAMESPACE_MAX
    }
}

/// That part of a namespace that a request is about, and where it was sent: of that something is learnt when it is refused.
#[derive(Debug, Clone)]
pub(super) struct Part {
    ways: Arc<Ways>,
    /// None: of no shard in particular.
    shard: Option<ShardId>,
    /// Who leads it, as far as is known: there it goes; none: to the one that is otherwise asked.
    pub(super) leader: Option<NodeId>,
}

impl Ways {
    /// The turn to ask.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    /// Whether the servers may be asked now.
    pub(super) fn may_be_asked(&self) -> bool {
        self.known.lock().next.is_none_or(|next| Instant::now() >= next)
    }

    /// Whether the servers are asked before something goes its way that is about this.
    pub(super) fn is_to_be_asked(&self, about: &About) -> bool {
        let known = self.known.lock();
        known.next.is_none_or(|next| Instant::now() >= next && known.is_doubted(about))
    }

    /// Where what is about this goes.
    pub(super) fn part(self: &Arc<Self>, about: &About) -> Part {
        let known = self.known.lock();
        let (shard, leader) = match about {
            About::All => known.whole(),
            about => known.place(about).map_or((None, None), |place| (Some(place.shard), place.leader)),
        };
        Part { ways: Arc::clone(self), shard, leader }
    }

    /// What servers said of the namespace's shards that were asked at this moment.
    pub(super) fn learn(&self, asked: Instant, told: Vec<Told>) {
        let mut known = self.known.lock();
        if told.is_empty() && known.places.is_empty() {
            // Nobody answered: it is asked again. Who answers and does not say it is not, until something is refused.
            known.doubted = Some(Instant::now());
        }
        let told: Vec<_> = told.into_iter().filter(Told::is_table).collect();
        if let Some(table) = told.first() {
            let is_new = known.replace(asked, &told, table);
            if is_new {
                known.pauses = Pauses::new();
            }
            known.doubted = known.doubted.filter(|doubted| *doubted > asked);
        }
        known.next = Some(Instant::now() + known.pauses.next().max(ASK_PAUSE));
    }
}

impl Known {
    fn place(&self, about: &About) -> Option<&Place> {
        match about {
            About::Nothing | About::All => None,
            About::Key(key) => {
                let behind = self.places.partition_point(|place| place.start.as_slice() <= key.as_slice());
                behind.checked_sub(1).and_then(|index| self.places.get(index))
            }
            About::Shard(shard) => self.places.iter().find(|place| place.shard == *shard),
        }
    }

    /// The only shard, and who leads all that there are.
    fn whole(&self) -> (Option<ShardId>, Option<NodeId>) {
        let shard = match self.places.as_slice() {
            [only] => Some(only.shard),
            _ => None,
        };
        let first = self.places.first().and_then(|place| place.leader);
        (shard, first.filter(|_| self.places.iter().all(|place| place.leader == first)))
    }

    fn is_doubted(&self, about: &About) -> bool {
        let is_of_place = match about {
            About::All => self.places.iter().any(|place| place.doubted.is_some()),
            about => self.place(about).is_some_and(|place| place.doubted.is_some()),
        };
        is_of_place || self.doubted.is_some()
    }

    /// Takes what was said in the place of what was known; whether it is something else.
    fn replace(&mut self, asked: Instant, told: &[Told], table: &Told) -> bool {
        let mut voices = BTreeMap::<ShardId, BTreeMap<NodeId, (bool, usize)>>::new();
        for one in told {
            for place in &one.places {
                let voices = voices.entry(place.shard).or_default();
                if let Some(leader) = place.leader {
                    voices.entry(leader).or_default().1 += 1;
                }
                if place.serving {
                    voices.entry(one.node).or_default().0 = true;
                }
            }
        }
        // Who says of itself that it takes writes; among several (one of them was cut off, and does not know it yet), and where
        // nobody does, who is named most often.
        let best = |shard: ShardId| {
            let voices = voices.get(&shard)?;
            voices.iter().max_by_key(|(node, voice)| (**voice, Reverse(**node))).map(|(node, _)| *node)
        };
        let place = |place: &ShardPlace| {
            let heard = self.places.iter().find(|known| known.shard == place.shard);
            // What was refused since it was asked is newer, and so is who was named.
            let since = |of: fn(&Place) -> Option<Instant>| heard.and_then(of).filter(|at| *at > asked);
            let (doubted, named) = (since(|known| known.doubted), since(|known| known.named));
            let is_newer = doubted.or(named).is_some();
            let leader = if is_newer { heard.and_then(|known| known.leader) } else { best(place.shard) };
            Place { shard: place.shard, start: place.start.clone(), leader, doubted, named }
        };
        let places: Vec<_> = table.places.iter().map(place).collect();
        let of = |places: &[Place]| places.iter().map(|place| (place.shard, place.leader)).collect::<Vec<_>>();
        let is_new = of(&places) != of(&self.places);
        self.places = places;
        is_new
    }
}

impl Place {
    /// The node to which it went has refused it (none: another one than was wanted), and said who leads.
    fn refuted(&mut self, by: Option<NodeId>, leader: Option<NodeId>, now: Instant) {
        let is_believed = by.is_some() && by == self.leader;
        match leader {
            // Who led knows best to whom it gave way: that one is asked, and not first everybody. If it refuses as well, everybody is:
            // two that name each other would be asked for ever.
            Some(leader) if is_believed && self.named.is_none_or(|before| now - before > ASK_PAUSE) => {
                self.leader = Some(leader);
                self.named = Some(now);
            }
            // That was heard already, and what was sent before is refused still.
            Some(leader) if by.is_some() && !is_believed && self.leader == Some(leader) => {}
            _ => {
                self.doubted = Some(now);
                self.leader = leader.or(self.leader);
            }
        }
    }
}

impl Part {
    /// A node has sent it elsewhere. Says whether nothing more is to be asked over that connection.
    pub(super) fn sent_on(&self, by: NodeId, failure: &Failure) -> bool {
        let is_known = self.refuted(by, failure.leader);
        let is_elsewhere = match self.leader {
            // It is at the end that was wanted: to connect anew would come to the same node.
            Some(node) => node != by,
            // It leads what is otherwise asked, as far as anybody knows; of that nothing was said.
            None => !is_known,
        };
        is_elsewhere || failure.code == code::CLOSING
    }

    /// Notes it, and who leads instead, if that was said; whether anything is known of the namespace.
    fn refuted(&self, by: NodeId, leader: Option<NodeId>) -> bool {
        let mut known = self.ways.known.lock();
        let now = Instant::now();
        match known.places.iter_mut().find(|place| Some(place.shard) == self.shard) {
            Some(place) => {
                place.refuted(Some(by).filter(|by| self.leader.is_none_or(|wanted| wanted == *by)), leader, now)
            }
            None => known.doubted = Some(now),
        }
        !known.places.is_empty()
    }
}

#[cfg(test)]
#[path = "routing_test.rs"]
mod tests;

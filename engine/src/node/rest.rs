//! Which shards the keeper looks at: of thousands most have nothing new since its last look, and cost it no more than that
//! question.

use super::Shared;
use super::hosting::ShardHandle;
use super::namespaces::Served;
use crate::model::Lsn;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;

/// When a shard is to be looked at again, if nothing is applied to it before. The smaller the sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Again {
    /// The next time.
    Soon,
    /// Not before this moment.
    At(Instant),
    /// Not before something is applied to it.
    Never,
}

/// What the keeper remembers of its last look at a shard; nothing: it is looked at the next time.
#[derive(Debug, Default)]
pub(super) struct Rest(Mutex<Option<Looked>>);

#[derive(Debug, Clone, Copy)]
struct Looked {
    /// What was applied to it by then. Read before anything else is, so that a look that misses something is not the last.
    applied: Lsn,
    again: Again,
}

impl Rest {
    /// Something was decided about the shard that is in none of its batches.
    pub(super) fn disturb(&self) {
        *self.0.lock() = None;
    }

    /// Whether it is to be looked at now; if so, that is taken to happen.
    fn is_over(&self, applied: Lsn, now: Instant) -> bool {
        let mut looked = self.0.lock();
        let rests = looked.is_some_and(|looked| {
            let is_due = match looked.again {
                Again::Soon => true,
                Again::At(at) => at <= now,
                Again::Never => false,
            };
            looked.applied == applied && !is_due
        });
        if !rests {
            // Before it is looked at: whoever disturbs it meanwhile takes this away.
            *looked = Some(Looked { applied, again: Again::Never });
        }
        !rests
    }

    /// What came of a look; the soonest counts.
    pub(super) fn look(&self, again: Again) {
        if let Some(looked) = &mut *self.0.lock() {
            looked.again = looked.again.min(again);
        }
    }
}

/// Shards of one namespace that are to be looked at.
#[derive(Debug)]
pub(super) struct Awake {
    pub(super) served: Arc<Served>,
    pub(super) shards: Vec<Arc<ShardHandle>>,
}

impl Shared {
    /// The shards that are to be looked at now.
    pub(super) fn awake(&self, now: Instant) -> Vec<Awake> {
        self.those(|shard| shard.rest.is_over(shard.positions.applied(), now) | shard.positions.unmendable().is_some())
    }

    /// All of them, whether they rest or not.
    #[cfg(test)]
    pub(super) fn everybody(&self) -> Vec<Awake> {
        self.those(|_| true)
    }

    fn those(&self, wanted: impl Fn(&ShardHandle) -> bool) -> Vec<Awake> {
        let of = |served: Arc<Served>| {
            let shards: Vec<_> = served.shards.iter().filter(|shard| wanted(shard)).map(Arc::clone).collect();
            (!shards.is_empty()).then_some(Awake { served, shards })
        };
        self.registry.all().into_iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::shard::now;
    use std::time::Duration;

    #[test]
    fn a_shard_rests_until_something_is_applied_its_time_comes_or_somebody_disturbs_it() {
        let (rest, start) = (Rest::default(), now());
        let later = start + Duration::from_secs(5);
        assert!(rest.is_over(Lsn::new(0), start), "it was never looked at");
        assert!(!rest.is_over(Lsn::new(0), start));
        assert!(rest.is_over(Lsn::new(1), start), "something was applied");
        rest.look(Again::At(later));
        rest.look(Again::Never);
        assert!(!rest.is_over(Lsn::new(1), start));
        assert!(rest.is_over(Lsn::new(1), later));
        rest.look(Again::Soon);
        rest.look(Again::At(later));
        assert!(rest.is_over(Lsn::new(1), start), "the soonest counts");
        rest.disturb();
        rest.look(Again::Never);
        assert!(rest.is_over(Lsn::new(1), start), "what was decided during a look was not seen by it");
    }

    /// Otherwise ten thousand idle shards would each be asked for their log, their sessions and their followers once a second.
    #[test]
    fn of_many_shards_only_those_are_looked_at_to_which_something_was_applied() {
        use crate::node::{NamespaceOptions, Node, NodeOptions};
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let splits = (1..50).map(|number| format!("{number:02}"));
        let space = node.create_namespace("space", &NamespaceOptions::default().split_at(splits)).unwrap();
        for number in 0..50 {
            space.put(format!("{number:02}"), "v").unwrap().wait().unwrap();
        }
        // What the keeper itself has looked at by now is as good.
        let shared = &node.shared;
        let (mut trimmer, mut looks) = (crate::node::trimmer::Trimmer::default(), 0);
        loop {
            let awake = shared.awake(now());
            if awake.is_empty() {
                break;
            }
            looks += 1;
            assert!(looks < 100, "{awake:?} never rest");
            shared.release_logs(&awake).1.map_or(Ok(()), towline_wal::Pending::wait).unwrap();
            trimmer.look(shared, &awake, now());
        }
        space.put("07", "w").unwrap().wait().unwrap();
        let awake = shared.awake(now() + Duration::from_millis(1));
        let found: Vec<_> =
            awake.iter().flat_map(|awake| &awake.shards).map(|shard| shard.descriptor.start.clone()).collect();
        assert!(found.is_empty() || found == [b"07"], "{found:?}: the one, unless the keeper was quicker");
        node.close().unwrap();
    }
}

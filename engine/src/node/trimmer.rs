//! Sessions that nobody uses any more, and rejections that no feed can ask for: proposed to be forgotten.
//!
//! Only proposed: what is forgotten is decided by the record in the log, on every replica alike. How long ago something was,
//! a monotonic clock tells.

use super::Shared;
use super::completion::Completion;
use super::hosting::ShardHandle;
use super::rest::{Again, Awake};
use super::stages::Arrived;
use crate::model::{ControlRecord, Lsn, NamespaceId, Outcome, Policy, ShardId};
use crate::pipeline::{Receipt, Submission, SubmitPolicy};
use crate::state::{has_rejected, has_sessions};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// A session's idle time is told in so many steps: what is expired is known that much later at the most.
const STEPS: u32 = 32;
/// How often one that does not serve is asked whether it does.
const NOT_SERVING_PAUSE: Duration = Duration::from_secs(30);

/// What it remembers of the past; after a restart it begins anew, and sessions live a little longer.
#[derive(Debug, Default)]
pub(super) struct Trimmer {
    shards: BTreeMap<ShardId, Past>,
}

#[derive(Debug, Default)]
struct Past {
    /// When how much was applied: ascending.
    samples: VecDeque<(Instant, Lsn)>,
    /// What came of the last record, if it is not known yet.
    proposed: Option<Proposed>,
    /// Others are left to look at, or nothing is known of that.
    more: bool,
    round: Round,
    /// What was proposed last.
    sessions_before: Lsn,
    rejected_before: Lsn,
}

#[derive(Debug)]
struct Proposed {
    receipt: Receipt,
    /// Or of rejections only.
    is_of_sessions: bool,
}

/// A record looks at a bounded number of sessions, so it takes several to look at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Round {
    /// One may be under way that began in another life, or with a record of which nothing is known.
    #[default]
    Unknown,
    /// One is under way, and began by asking for sessions that were last used before this.
    Since(Lsn),
    /// All were looked at.
    Over,
}

impl Trimmer {
    /// Looks at these shards.
    pub(super) fn look(&mut self, shared: &Shared, awake: &[Awake], now: Instant) {
        for Awake { served, shards } in awake {
            let policy = served.descriptor.read().policy;
            for shard in shards {
                let past = self.shards.entry(shard.descriptor.shard).or_default();
                past.look(shared, served.id, shard, policy, now);
                shard.rest.look(past.again(shard, policy, now));
            }
        }
        if self.shards.len() > shared.registry.count() {
            let known: BTreeSet<_> = shared.registry.shards().iter().map(|shard| shard.descriptor.shard).collect();
            self.shards.retain(|shard, _| known.contains(shard));
        }
    }
}

impl Past {
    fn look(&mut self, shared: &Shared, namespace: NamespaceId, shard: &ShardHandle, policy: Policy, now: Instant) {
        let Some(start) = shard.positions.serving() else { return };
        let applied = shard.positions.applied();
        if applied < start {
            return; // What a replay has not come to yet was used, maybe.
        }
        // A record takes away a bounded number of sessions; that there are more says its outcome. One that was not taken, or of
        // which nothing is known, is proposed again.
        if let Some(proposed) = self.proposed.take() {
            match proposed.receipt.wait_for(Duration::ZERO) {
                Ok(None) => {
                    self.proposed = Some(proposed);
                    return;
                }
                Ok(Some(_)) if !proposed.is_of_sessions => {}
                Ok(Some(written)) => self.looked_at(written.outcome == Outcome::Applied { version: 1 }),
                Err(_) => (self.more, self.round) = (true, Round::Unknown),
            }
        }
        let sessions_before = self.used_before(applied, policy.session_idle_seconds, now);
        // What a feed may still read is known; `Retention::Forever` keeps all of it.
        let rejected_before = shared.host.wal.start_of(shard.log).lsn.next();
        if sessions_before <= self.sessions_before && rejected_before <= self.rejected_before && !self.more {
            return;
        }
        let is_worth = shared.gate.with(|store| {
            let is_later = sessions_before > self.sessions_before || self.more;
            let of_sessions = is_later && has_sessions(store, namespace, shard.log)?;
            let of_rejected = has_rejected(store, namespace, shard.log, rejected_before)?;
            Ok::<_, crate::state::StoreError>((of_sessions, of_rejected))
        });
        let Some(Ok((is_of_sessions, of_rejected))) = is_worth else {
            self.more = true; // What can't be read now is asked for once more.
            return;
        };
        if is_of_sessions || of_rejected {
            // To look at sessions for the sake of rejections would be in vain.
            let record_before = if is_of_sessions { sessions_before } else { Lsn::ZERO };
            let record = ControlRecord::Trim { sessions_before: record_before, rejected_before };
            let Some(receipt) = propose(shard, &record) else {
                self.more = true;
                return;
            };
            self.proposed = Some(Proposed { receipt, is_of_sessions });
            if is_of_sessions && self.round == Round::Over {
                self.round = Round::Since(sessions_before);
            }
        }
        (self.sessions_before, self.rejected_before, self.more) = (sessions_before, rejected_before, false);
    }

    /// When there is something to see, though nothing is applied meanwhile.
    fn again(&self, shard: &ShardHandle, policy: Policy, now: Instant) -> Again {
        // Whoever comes to serve applies nothing by that.
        let Some(start) = shard.positions.serving() else { return Again::At(now + NOT_SERVING_PAUSE) };
        let applied = shard.positions.applied();
        if self.more || self.proposed.is_some() || applied < start {
            return Again::Soon;
        }
        let idle = Duration::from_secs(policy.session_idle_seconds);
        let is_noted = self.samples.back().is_none_or(|(_, lsn)| *lsn == applied);
        let step = self.samples.back().filter(|_| !is_noted).and_then(|(at, _)| at.checked_add(idle / STEPS));
        let end = self.samples.front().and_then(|(at, _)| at.checked_add(idle));
        step.into_iter().chain(end).min().map_or(Again::Never, Again::At)
    }

    /// A record was applied, and there are others to look at in this round; or there are not.
    fn looked_at(&mut self, others: bool) {
        if others {
            self.more = true;
            return;
        }
        // Whom it looked at before it asked for as much as now is looked at again.
        self.more = match self.round {
            Round::Unknown => true,
            Round::Since(before) => before < self.sessions_before,
            Round::Over => false,
        };
        self.round = Round::Over;
    }

    /// Before which record everything lies that was applied longer ago than this.
    fn used_before(&mut self, applied: Lsn, idle_seconds: u64, now: Instant) -> Lsn {
        let idle = Duration::from_secs(idle_seconds);
        let since = |at: &Instant| now.saturating_duration_since(*at);
        if self.samples.back().is_none_or(|(at, _)| since(at) >= idle / STEPS) {
            self.samples.push_back((now, applied));
        }
        let mut before = self.sessions_before;
        while let Some((_, lsn)) = self.samples.pop_front_if(|(at, _)| since(at) >= idle) {
            before = before.max(lsn.next());
        }
        before
    }
}

/// What will be told of it, if it was taken.
fn propose(shard: &ShardHandle, record: &ControlRecord) -> Option<Receipt> {
    let bytes = record.encode().ok()?;
    let (receipt, completer) = Receipt::pair();
    let submission = Submission::control(bytes, Arrived::now(Completion::Receipt(completer)));
    shard.queue.submit(submission, SubmitPolicy::Fail).is_ok().then_some(receipt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expect, Rejection, Write};
    use crate::node::{NamespaceOptions, Node, NodeOptions};

    #[test]
    fn what_was_applied_longer_ago_than_the_idle_time_is_known_by_samples() {
        let (mut past, start) = (Past::default(), crate::node::shard::now());
        let mut at =
            |seconds: u64, lsn: u64| past.used_before(Lsn::new(lsn), 3200, start + Duration::from_secs(seconds)).get();
        assert_eq!(at(0, 10), 0);
        assert_eq!(at(50, 15), 0, "within one step");
        assert_eq!(at(100, 20), 0);
        assert_eq!(at(3199, 30), 0);
        assert_eq!(at(3200, 40), 11);
        assert_eq!(at(9000, 60), 31);
    }

    /// A round that ended with a later bound than it began with had not looked at its first sessions by that one.
    #[test]
    fn a_round_that_began_by_asking_for_less_or_in_another_life_is_followed_by_another() {
        let mut past = Past { sessions_before: Lsn::new(50), ..Past::default() };
        past.looked_at(false);
        assert!(past.more && past.round == Round::Over, "it began in another life");
        past.round = Round::Since(Lsn::new(50));
        past.looked_at(true);
        assert!(past.more && past.round == Round::Since(Lsn::new(50)));
        past.sessions_before = Lsn::new(60);
        past.looked_at(false);
        assert!(past.more && past.round == Round::Over);
        past.round = Round::Since(Lsn::new(60));
        past.looked_at(false);
        assert!(!past.more);
    }

    #[test]
    fn a_session_that_is_not_used_expires_and_one_that_is_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let policy = Policy { session_idle_seconds: 3200, ..Policy::default() };
        let space = node.create_namespace("space", &NamespaceOptions::default().policy(policy)).unwrap();
        let (used, idle) = (space.open_session().unwrap(), space.open_session().unwrap());
        let write = Write::new().append("s", Expect::Any, "x");
        let number = idle.next_number().unwrap();
        idle.retry(number, &write).unwrap().wait().unwrap();
        let mut trimmer = Trimmer::default();
        let start = crate::node::shard::now();
        let mut look =
            |seconds: u64| trimmer.look(&node.shared, &node.shared.everybody(), start + Duration::from_secs(seconds));
        look(1000);
        used.write(&write).unwrap().wait().unwrap();
        look(1200);
        look(4150);
        assert!(space.get("k", crate::model::Read::Linearizable).unwrap().is_none());
        let again = idle.retry(number, &write).unwrap().wait().unwrap();
        assert_eq!(again.outcome, Outcome::Applied { version: 1 }, "not yet");
        look(4200);
        let gone = idle.retry(number, &write).unwrap().wait().unwrap();
        assert_eq!(gone.outcome, Outcome::Rejected(Rejection::SessionExpired), "never executed again");
        assert_eq!(used.write(&write).unwrap().wait().unwrap().outcome, Outcome::Applied { version: 3 });
        node.close().unwrap();
    }

    /// That there is more was forgotten when the next proposal was refused.
    #[test]
    fn what_is_left_behind_a_full_trim_goes_later_also_when_the_queue_takes_nothing_in_between() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions::alone(directory.path())).unwrap();
        let policy = Policy { session_idle_seconds: 3200, ..Policy::default() };
        let space = node.create_namespace("space", &NamespaceOptions::default().policy(policy)).unwrap();
        let shard = node.shared.registry.named("space").unwrap().shards[0].clone();
        let open = ControlRecord::OpenSession { sessions_max: u64::MAX };
        let opened: Vec<_> = (0..10_020).map(|_| space.control(&shard, &open).unwrap()).collect();
        opened.into_iter().for_each(|receipt| assert!(receipt.wait().is_ok()));
        let mut trimmer = Trimmer::default();
        let start = crate::node::shard::now();
        let look = |trimmer: &mut Trimmer, seconds: u64| {
            trimmer.look(&node.shared, &node.shared.everybody(), start + Duration::from_secs(seconds));
            // What was proposed is applied.
            space.get("k", crate::model::Read::Linearizable).unwrap();
            space.put("k", "v").unwrap().wait().unwrap();
        };
        let left = || {
            let known = |store: &std::sync::Arc<crate::state::RocksStore>| has_sessions(store, space.id(), shard.log);
            node.shared.gate.with(known).unwrap().unwrap()
        };
        look(&mut trimmer, 0);
        look(&mut trimmer, 4000);
        assert!(left(), "20 of them");
        assert!(shard.queue.set_full(crate::pipeline::Disk::State, true));
        trimmer.look(&node.shared, &node.shared.everybody(), start + Duration::from_secs(4001));
        assert!(shard.queue.set_full(crate::pipeline::Disk::State, false));
        look(&mut trimmer, 4002);
        assert!(!left());
        node.close().unwrap();
    }
}

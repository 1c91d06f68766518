//! What of a replica decides what it does next, as a hash: an exhaustive search takes two replicas for one by it.
//!
//! Every field is named here, so that a new one does not compile before it is decided whether it counts. One that is
//! left out by mistake makes the search blind; one that is left in without need makes it slow.

use super::adopt::PromisedLog;
use super::leader::Leadership;
use super::{Phase, Purpose, Replica};
use crate::model::{Assignment, LogPosition, Lsn, SnapshotId};
use std::hash::{Hash, Hasher};
use towline_wal::Batch;

impl Replica {
    /// Feeds the hash.
    ///
    /// Tickets are left out: they rise by one, so that how many writes are under way says all that matters of them.
    /// So is what nothing reads any more: the first commit position that was told, once the log is whole.
    pub(crate) fn fingerprint(&self, into: &mut impl Hasher) {
        let Self {
            id,
            directory,
            log_id: _,
            promise,
            end,
            durable,
            committed,
            matched,
            damage,
            mends_refused: _,
            suspect,
            told_since_doubt,
            led_from,
            leadership,
            questions,
            fetching,
            installing,
            named,
            connected,
            next_ticket: _,
            under_way,
            quorum_bound: _,
            own_master,
        } = self;
        (id, directory, promise.epoch, promise.leader, promise.disk).hash(into);
        position(end, into);
        position(durable, into);
        damage.hash(into);
        (committed, matched, suspect, told_since_doubt.filter(|_| suspect.is_some()), connected).hash(into);
        for snapshot in [fetching.map(|fetching| fetching.snapshot), installing.map(|it| it.snapshot)] {
            snapshot.is_some().hash(into);
            if let Some(SnapshotId { at, chunks, bytes, digest }) = snapshot {
                position(&at, into);
                (chunks, bytes, digest).hash(into);
            }
        }
        installing.map(|installing| installing.is_held).hash(into);
        named.is_some().hash(into);
        named.iter().for_each(|at| position(at, into));
        // It is asked only whether what was matched still is.
        let was_told = *matched > Lsn::ZERO || (suspect.is_some() && told_since_doubt.is_some());
        (led_from.filter(|_| was_told), own_master).hash(into);
        fetching.map(|fetching| fetching.from).hash(into);
        questions.hash(into);
        under_way.len().hash(into);
        for (_, purpose) in under_way {
            match purpose {
                Purpose::Extend(to) => position(to, into),
                Purpose::Truncate => 1_u8.hash(into),
                Purpose::Settle => 2_u8.hash(into),
                Purpose::Mended(first, last) => (6_u8, first, last).hash(into),
                Purpose::Mark => 4_u8.hash(into),
                Purpose::Reset(to) => {
                    5_u8.hash(into);
                    position(to, into);
                }
                Purpose::Promise(promise) => (3_u8, promise.epoch, promise.leader, promise.disk).hash(into),
            }
        }
        leadership.is_some().hash(into);
        if let Some(leadership) = leadership {
            leadership.fingerprint(into);
        }
    }
}

impl Leadership {
    /// The promises are read until the epoch's start is written, and never again. For how long a majority was out of reach decides
    /// when the leader gives up, and nothing else: the search lets it at any moment at which it waits for one.
    fn fingerprint(&self, into: &mut impl Hasher) {
        let Self {
            assignment,
            wanted,
            votes_unknown: _, // The promises say it.
            phase,
            promises,
            asked,
            probed,
            mends_behind,
            progress,
            start,
            tail,
            tail_bytes: _,
            tail_after,
            reads,
            quorum: _,
        } = self;
        let Assignment {
            log: _,
            epoch,
            leader,
            voters,
            learners,
            fence,
            fence_quorum,
            directories,
            founding,
            shard: _,
        } = assignment;
        let asked = asked.filter(|_| start.is_none());
        asked.map(|(of, to, after)| (of, to, after.lsn, after.epoch, after.chain)).hash(into);
        tail_after.map(|at| (at.lsn, at.epoch, at.chain)).hash(into);
        mends_behind.filter(|_| start.is_none()).map(|(_, shared)| shared).hash(into);
        for at in [*probed, mends_behind.map(|(after, _)| after)] {
            at.filter(|_| start.is_none()).map(|at| (at.lsn, at.epoch, at.chain)).hash(into);
        }
        (epoch, leader, voters, learners, fence, fence_quorum, directories, founding, start).hash(into);
        match phase {
            Phase::Fencing => 0_u8.hash(into),
            Phase::Adopting { source, target } => {
                (1_u8, source).hash(into);
                position(target, into);
            }
            Phase::Starting => 2_u8.hash(into),
            Phase::Activating => 3_u8.hash(into),
            Phase::Serving => 4_u8.hash(into),
            Phase::Mending => 5_u8.hash(into),
        }
        if start.is_none() {
            wanted.fingerprint(into);
            promises.len().hash(into);
            for (node, promise) in promises {
                let PromisedLog { log, damaged, suspect, votes, counts } = promise;
                (node, counts, suspect, &log.epochs, votes, damaged).hash(into);
                position(&log.end, into);
            }
        }
        progress.len().hash(into);
        for (node, progress) in progress {
            node.hash(into);
            progress.fingerprint(into);
        }
        reads.fingerprint(into);
        tail.len().hash(into);
        for batch in tail {
            position(&Batch::position(batch), into);
        }
    }
}

fn position(at: &LogPosition, into: &mut impl Hasher) {
    (at.lsn, at.epoch, at.chain).hash(into);
}

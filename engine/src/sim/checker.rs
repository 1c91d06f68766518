//! The judge: it sees every node from outside, after every step, and knows what was promised.
//!
//! - I2: at most one batch is ever committed at one LSN. The checker keeps the first commit of each batch
//!   boundary, and compares every replica's with it, by chain (which is a hash of all bytes before it).
//! - I1: when a batch commits, a majority of the voters hold it durably; and whatever was acknowledged is in the
//!   log and in the state of every node in the end.
//! - I4: two replicas that applied the same LSN have the same digest.

use crate::model::control_record::majority_of;
use crate::model::{LogPosition, Lsn, NodeId};
use std::collections::BTreeMap;

/// A broken invariant, in words.
///
/// ```
/// use std::ops::Range;
/// use towline::sim::{Violation, run_seed};
/// fn prove(seeds: Range<u64>) -> Result<(), Violation> {
///     for seed in seeds {
///         run_seed(seed, false).violation.map_or(Ok(()), Err)?;
///     }
///     Ok(())
/// }
/// prove(1..2)?;
/// # Ok::<(), Violation>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which invariant (`I1` and so on), or `liveness`, or `assertion`.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

impl Violation {
    /// An assertion of the code under test that failed.
    pub(super) const fn assertion(what: String) -> Self {
        Self { invariant: "assertion", what }
    }

    pub(super) const fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) lsn: Lsn,
    pub(super) applied: bool,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    /// The committed history: each batch boundary, by its last LSN.
    committed: BTreeMap<Lsn, LogPosition>,
    /// The digest at each applied boundary, from the first replica that reached it.
    digests: BTreeMap<Lsn, (u128, NodeId)>,
    /// What clients were told, by the write's number.
    acknowledged: BTreeMap<u64, Acknowledged>,
}

impl Checker {
    /// A replica says that this boundary is committed; true if nobody said so before.
    pub(super) fn on_commit(&mut self, node: NodeId, at: LogPosition) -> Result<bool, Violation> {
        match self.committed.get(&at.lsn) {
            Some(known) if *known == at => Ok(false),
            Some(known) => Err(Violation::new(
                "I2",
                format!("node {node} commits {at:?}, but {known:?} was committed at that LSN before"),
            )),
            None => {
                self.committed.insert(at.lsn, at);
                Ok(true)
            }
        }
    }

    /// It was the first to say so: `holders` of the `voters` of its epoch hold the boundary durably.
    pub(super) fn on_first_commit(
        node: NodeId,
        at: LogPosition,
        holders: usize,
        voters: usize,
    ) -> Result<(), Violation> {
        if holders >= majority_of(voters) {
            return Ok(());
        }
        let what = format!("node {node} commits LSN {}, which {holders} of {voters} hold durably", at.lsn);
        Err(Violation::new("I1", what))
    }

    /// A replica applied up to this boundary.
    pub(super) fn on_applied(&mut self, node: NodeId, lsn: Lsn, digest: u128) -> Result<(), Violation> {
        let (known, first) = *self.digests.entry(lsn).or_insert((digest, node));
        if known == digest {
            return Ok(());
        }
        let what = format!("at LSN {lsn} node {node} has digest {digest:032x}, node {first} had {known:032x}");
        Err(Violation::new("I4", what))
    }

    /// A client was told the outcome of its write.
    pub(super) fn on_acknowledged(&mut self, write: u64, told: Acknowledged) -> Result<(), Violation> {
        if self.acknowledged.insert(write, told).is_some() {
            return Err(Violation::new("I5", format!("write {write} was acknowledged twice")));
        }
        if self.committed.range(told.lsn..).next().is_none() {
            let what = format!("write {write} was acknowledged at LSN {}, which nobody committed", told.lsn);
            return Err(Violation::new("I1", what));
        }
        Ok(())
    }

    /// The last committed boundary.
    pub(super) fn last_committed(&self) -> Option<LogPosition> {
        self.committed.last_key_value().map(|(_, at)| *at)
    }

    pub(super) fn acknowledged_count(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// In the end: `effects` maps each write's number to how often it is in the state.
    pub(super) fn at_the_end(&self, node: NodeId, effects: &BTreeMap<u64, u64>) -> Result<(), Violation> {
        for (write, told) in &self.acknowledged {
            let found = effects.get(write).copied().unwrap_or(0);
            let wanted = u64::from(told.applied);
            if found != wanted {
                let what = format!(
                    "write {write}, acknowledged at LSN {} (applied: {}), is {found} times in the state of node {node}",
                    told.lsn, told.applied
                );
                return Err(Violation::new("I1", what));
            }
        }
        Ok(())
    }

    /// In the end, on any node: nothing took effect twice.
    pub(super) fn none_twice(node: NodeId, effects: &BTreeMap<u64, u64>) -> Result<(), Violation> {
        match effects.iter().find(|(_, times)| **times > 1) {
            Some((write, times)) => {
                let what = format!("write {write} took effect {times} times on node {node}");
                Err(Violation::new("I5", what))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Chain, Epoch};

    const NODE: NodeId = NodeId::new(1);

    fn at(lsn: u64, chain: u64) -> LogPosition {
        LogPosition { epoch: Epoch { version: 1, term: 1 }, lsn: Lsn::new(lsn), chain: Chain::new(chain) }
    }

    #[test]
    fn i2_two_batches_committed_at_one_lsn_are_a_violation() {
        let mut checker = Checker::default();
        assert!(checker.on_commit(NODE, at(5, 1)).unwrap());
        assert!(!checker.on_commit(NODE, at(5, 1)).unwrap());
        assert_eq!(checker.on_commit(NODE, at(5, 2)).unwrap_err().invariant, "I2");
    }

    #[test]
    fn i1_a_commit_that_a_minority_holds_is_a_violation() {
        assert_eq!(Checker::on_first_commit(NODE, at(5, 1), 1, 3).unwrap_err().invariant, "I1");
        assert_eq!(Checker::on_first_commit(NODE, at(5, 1), 2, 4).unwrap_err().invariant, "I1", "half of four is none");
        Checker::on_first_commit(NODE, at(5, 1), 2, 3).unwrap();
    }

    #[test]
    fn i4_two_digests_at_one_lsn_are_a_violation() {
        let mut checker = Checker::default();
        checker.on_applied(NODE, Lsn::new(3), 7).unwrap();
        assert_eq!(checker.on_applied(NodeId::new(2), Lsn::new(3), 8).unwrap_err().invariant, "I4");
    }

    #[test]
    fn i1_an_acknowledged_write_that_is_gone_and_i5_one_that_is_there_twice_are_violations() {
        let mut checker = Checker::default();
        checker.on_commit(NODE, at(5, 1)).unwrap();
        checker.on_acknowledged(1, Acknowledged { lsn: Lsn::new(5), applied: true }).unwrap();
        assert_eq!(checker.at_the_end(NODE, &BTreeMap::new()).unwrap_err().invariant, "I1");
        checker.at_the_end(NODE, &BTreeMap::from([(1, 1)])).unwrap();
        assert_eq!(Checker::none_twice(NODE, &BTreeMap::from([(1, 1), (2, 2)])).unwrap_err().invariant, "I5");
    }
}

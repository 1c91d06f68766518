//! The commit rule: durable on a majority of the voters of an activated epoch (I1, I3).

use crate::model::control_record::majority_of;
use crate::model::mutant::{Mutant, planted};
use crate::model::{Lsn, NodeId};

/// The highest position that a majority of the voters holds durably.
///
/// `durable` gives, of each voter, the durable end *that is known to equal this leader's log in this epoch*;
/// acknowledgements of older epochs do not count. The caller applies the result only when the epoch is
/// activated and the result is not before the epoch's start: a batch of an older epoch commits by the first
/// commit of the new one, never by its own count.
pub(super) fn majority_durable(leader: NodeId, durable: &[(NodeId, Lsn)]) -> Lsn {
    if planted(Mutant::CommitWithoutMajority) {
        return durable.iter().find(|(voter, _)| *voter == leader).map_or(Lsn::ZERO, |(_, lsn)| *lsn);
    }
    let mut ends: Vec<Lsn> = durable.iter().map(|(_, lsn)| *lsn).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    let majority = majority_of(ends.len());
    ends.get(majority - 1).copied().unwrap_or(Lsn::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ends: &[u64]) -> Lsn {
        let durable: Vec<_> = ends.iter().enumerate().map(|(i, lsn)| (NodeId::new(i as u64), Lsn::new(*lsn))).collect();
        majority_durable(NodeId::new(0), &durable)
    }

    #[test]
    fn the_middle_one_of_three_is_what_a_majority_holds() {
        assert_eq!(of(&[9, 4, 7]), Lsn::new(7));
        assert_eq!(of(&[9, 0, 0]), Lsn::ZERO);
        assert_eq!(of(&[0, 5, 6]), Lsn::new(5), "the leader's own disk is one vote, not a condition");
    }

    #[test]
    fn an_even_number_of_voters_needs_more_than_half() {
        assert_eq!(of(&[9, 8, 2, 1]), Lsn::new(2));
        assert_eq!(of(&[3]), Lsn::new(3));
        assert_eq!(of(&[]), Lsn::ZERO);
    }

    #[test]
    fn every_position_that_the_rule_gives_is_held_by_a_majority_and_none_higher_is() {
        for a in 0..5 {
            for b in 0..5 {
                for c in 0..5 {
                    let commit = of(&[a, b, c]).get();
                    let holders = |lsn: u64| [a, b, c].iter().filter(|end| **end >= lsn).count();
                    assert!(holders(commit) >= 2 && holders(commit + 1) < 2, "{a} {b} {c} -> {commit}");
                }
            }
        }
    }
}

//! What each damage means: two tables as pure functions. The unit test walks every combination of inputs and wants
//! exactly one row for each.

/// A row of the table of groups.
///
/// ```
/// use towline_wal::{GroupRow, LogCore};
/// # mod set_up { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/log.rs")); }
/// # use set_up::*;
/// # let (options, log) = (small(), LOG);
/// # let mut disk = rotted(2);
/// // `disk` holds a log of three batches. The second one has rotted; and now the last one, of which nothing proves that it
/// // was ever acknowledged.
/// # rot(&mut disk, 3);
/// let (core, report) = LogCore::recover(&mut disk, &options).unwrap();
/// let rows: Vec<GroupRow> = report.findings.iter().map(|finding| finding.row).collect();
/// assert_eq!(rows, [GroupRow::G2, GroupRow::G3]);
/// assert!(!rows[0].is_end() && rows[1].is_end(), "the log ends before what is torn, and never before what was durable");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GroupRow {
    /// Good: accept.
    G1,
    /// Rot in a group that had been durable: its failing batches are damaged.
    G2,
    /// A bad group that nothing proves durable: dropped, with everything behind it.
    G3,
    /// Header rot in a group that had been durable: go on at the next good group; the gap is damaged.
    G4,
    /// A torn header: dropped, with everything behind it, whether or not good groups follow.
    G5,
    /// A misdirected write over a group that had been durable: as G4, with an alarm.
    G6,
    /// A misdirected write behind the end: as G3, with an alarm.
    G7,
    /// The device acknowledged a sync and lost the group: as G4, with an alarm.
    G8,
    /// A hole inside the window of groups in flight: dropped, with everything behind it.
    G9,
    /// Nothing there and nothing behind it: the end.
    G10,
}

impl GroupRow {
    /// All rows, in order.
    pub const ALL: [Self; 10] =
        [Self::G1, Self::G2, Self::G3, Self::G4, Self::G5, Self::G6, Self::G7, Self::G8, Self::G9, Self::G10];

    /// Whether an operator should look at the device.
    #[must_use]
    pub const fn is_alarm(self) -> bool {
        matches!(self, Self::G6 | Self::G7 | Self::G8)
    }

    /// Whether the log's files end here.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::G3 | Self::G5 | Self::G7 | Self::G9 | Self::G10)
    }
}

/// What stands at the place of the next group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupSeen {
    /// V g: a valid header here, and everything in the group is good.
    Good,
    /// V b: a valid header here, and some of the group is bad.
    BadContent,
    /// M: a good header that belongs elsewhere.
    Misplaced,
    /// O: blank, or of an earlier use of the file.
    BlankOrOld,
    /// X: neither.
    BadHeader,
}

/// The inputs of the table of groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupEvidence {
    pub(crate) seen: GroupSeen,
    /// P: something proves that this group had been durable.
    pub(crate) proven: bool,
    /// L: a later good group of the same activation exists.
    pub(crate) later: bool,
}

/// The conditions of each row, disjoint and complete.
fn holds(row: GroupRow, e: &GroupEvidence) -> bool {
    use GroupSeen::{BadContent, BadHeader, BlankOrOld, Good, Misplaced};
    match row {
        GroupRow::G1 => e.seen == Good,
        GroupRow::G2 => e.seen == BadContent && e.proven,
        GroupRow::G3 => e.seen == BadContent && !e.proven,
        GroupRow::G4 => e.seen == BadHeader && e.proven,
        GroupRow::G5 => e.seen == BadHeader && !e.proven,
        GroupRow::G6 => e.seen == Misplaced && e.proven,
        GroupRow::G7 => e.seen == Misplaced && !e.proven,
        GroupRow::G8 => e.seen == BlankOrOld && e.proven,
        GroupRow::G9 => e.seen == BlankOrOld && !e.proven && e.later,
        GroupRow::G10 => e.seen == BlankOrOld && !e.proven && !e.later,
    }
}

/// The row for a group.
pub(crate) fn group_row(evidence: &GroupEvidence) -> GroupRow {
    let row = GroupRow::ALL.into_iter().find(|row| holds(*row, evidence));
    let Some(row) = row else { unreachable!("the table is complete: {evidence:?}") };
    row
}

/// What stands where a segment's header should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentSeen {
    Valid,
    Bad,
    /// Blank, or the header of an earlier use of the file.
    BlankOrOld,
}

/// The inputs of the table of segment headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentEvidence {
    pub(crate) seen: SegmentSeen,
    /// A later segment was activated.
    pub(crate) sealed: bool,
    /// The copy beside the footer is good.
    pub(crate) copy: bool,
    /// A group says which segment and activation it is of: at the first place, or, in a sealed segment, at any. (In one
    /// that seems free, a later group is proof only if it says that groups of this segment were durable.)
    pub(crate) groups: bool,
}

/// What to do about a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentRow {
    /// Use it.
    Use,
    /// The copy is good: use the copy.
    UseCopy,
    /// Rebuild it from the groups, which carry the activation's salt.
    Rebuild,
    /// Sealed, and nothing tells what it held: a damaged range.
    Damaged,
    /// Never activated, or not durably: free for use.
    Free,
}

impl SegmentRow {
    const ALL: [Self; 5] = [Self::Use, Self::UseCopy, Self::Rebuild, Self::Damaged, Self::Free];
}

fn segment_holds(row: SegmentRow, e: &SegmentEvidence) -> bool {
    let valid = e.seen == SegmentSeen::Valid;
    match row {
        SegmentRow::Use => valid,
        SegmentRow::UseCopy => !valid && e.copy,
        SegmentRow::Rebuild => !valid && e.groups && !e.copy,
        SegmentRow::Damaged => !valid && e.sealed && !e.copy && !e.groups,
        SegmentRow::Free => !valid && !e.sealed && !e.copy && !e.groups,
    }
}

/// The row for a segment's header.
pub(crate) fn segment_row(evidence: &SegmentEvidence) -> SegmentRow {
    let row = SegmentRow::ALL.into_iter().find(|row| segment_holds(*row, evidence));
    let Some(row) = row else { unreachable!("the table is complete: {evidence:?}") };
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [bool; 2] = [false, true];

    #[test]
    fn every_combination_of_group_evidence_has_exactly_one_row_and_every_row_one_combination() {
        use GroupSeen::{BadContent, BadHeader, BlankOrOld, Good, Misplaced};
        let mut used = Vec::new();
        for seen in [Good, BadContent, Misplaced, BlankOrOld, BadHeader] {
            for proven in BOTH {
                for later in BOTH {
                    let e = GroupEvidence { seen, proven, later };
                    let rows: Vec<_> = GroupRow::ALL.into_iter().filter(|row| holds(*row, &e)).collect();
                    assert_eq!(rows.len(), 1, "{e:?}: {rows:?}");
                    assert_eq!(group_row(&e), rows[0]);
                    used.push(rows[0]);
                }
            }
        }
        assert!(GroupRow::ALL.iter().all(|row| used.contains(row)));
    }

    #[test]
    fn nothing_that_was_proven_durable_ends_the_log() {
        use GroupSeen::{BadContent, BadHeader, BlankOrOld, Good, Misplaced};
        for seen in [Good, BadContent, Misplaced, BlankOrOld, BadHeader] {
            for later in BOTH {
                assert!(!group_row(&GroupEvidence { seen, proven: true, later }).is_end());
            }
        }
    }

    #[test]
    fn every_combination_of_segment_evidence_has_exactly_one_row_and_every_row_one_combination() {
        let mut used = Vec::new();
        for seen in [SegmentSeen::Valid, SegmentSeen::Bad, SegmentSeen::BlankOrOld] {
            for bits in 0..8 {
                let [sealed, copy, groups] = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0];
                let e = SegmentEvidence { seen, sealed, copy, groups };
                let rows: Vec<_> = SegmentRow::ALL.into_iter().filter(|row| segment_holds(*row, &e)).collect();
                assert_eq!(rows.len(), 1, "{e:?}: {rows:?}");
                used.push(rows[0]);
            }
        }
        assert!(SegmentRow::ALL.iter().all(|row| used.contains(row)));
    }
}

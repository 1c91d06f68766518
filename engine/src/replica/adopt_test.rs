//! I1, adoption: the newest epoch wins, suspects are waited out, and forks are found.

use super::adopt::{PromisedLog, Told, best, enough, may_share_more, told_from};
use crate::model::{Chain, DirectoryId, Epoch, LogPosition, LogSummary, Lsn, NodeId};
use std::collections::BTreeMap;

const fn epoch(term: u32) -> Epoch {
    Epoch { version: 1, term }
}

fn log(epochs: &[(u32, u64)], end: u64) -> LogSummary {
    let last = epochs.last().map_or(Epoch::ZERO, |(term, _)| epoch(*term));
    LogSummary {
        end: LogPosition { epoch: last, lsn: Lsn::new(end), chain: Chain::new(end) },
        epochs: epochs.iter().map(|(term, start)| (epoch(*term), Lsn::new(*start))).collect(),
    }
}

/// Of logs that can be read.
fn common_point(ours: &LogSummary, theirs: &LogSummary) -> Lsn {
    damaged_point((ours, &[]), (theirs, &[])).0
}

/// Where two logs part, and whether they may share more.
fn damaged_point(ours: (&LogSummary, &[(u64, u64)]), theirs: (&LogSummary, &[(u64, u64)])) -> (Lsn, bool) {
    let lsns = |ranges: &[(u64, u64)]| -> Vec<(Lsn, Lsn)> {
        ranges.iter().map(|(first, last)| (Lsn::new(*first), Lsn::new(*last))).collect()
    };
    let (our_damage, their_damage) = (lsns(ours.1), lsns(theirs.1));
    let ours = Told { log: ours.0, damaged: &our_damage };
    let theirs = Told { log: theirs.0, damaged: &their_damage };
    let shared = super::adopt::common_point(ours, theirs);
    (shared, may_share_more(ours, theirs, shared).is_some())
}

fn promises(logs: Vec<(u64, LogSummary, Option<u64>)>) -> BTreeMap<NodeId, PromisedLog> {
    logs.into_iter()
        .map(|(node, log, suspect)| {
            let suspect = suspect.map(Lsn::new);
            (NodeId::new(node), PromisedLog { log, damaged: Vec::new(), suspect, votes: None, counts: true })
        })
        .collect()
}

/// Whose disks have the votes.
fn named(numbers: &[u64]) -> BTreeMap<NodeId, DirectoryId> {
    numbers.iter().map(|node| (NodeId::new(*node), DirectoryId::default())).collect()
}

fn voters(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId::new).collect()
}

#[test]
fn the_newest_epoch_beats_the_longest_log() {
    let all = promises(vec![(1, log(&[(1, 1)], 90), None), (2, log(&[(1, 1), (2, 11)], 12), None)]);
    assert_eq!(best(NodeId::new(1), &voters(&[1, 2, 3]), &all), NodeId::new(2));
}

#[test]
fn of_two_logs_of_one_epoch_the_longer_wins_and_a_tie_stays_at_home() {
    let all =
        promises(vec![(1, log(&[(1, 1)], 9), None), (2, log(&[(1, 1)], 10), None), (3, log(&[(1, 1)], 10), None)]);
    assert_eq!(best(NodeId::new(1), &voters(&[1, 2, 3]), &all), NodeId::new(2));
    assert_eq!(best(NodeId::new(3), &voters(&[1, 2, 3]), &all), NodeId::new(3));
}

#[test]
fn a_promise_of_a_node_that_is_not_fenced_does_not_count() {
    let all = promises(vec![(1, log(&[(1, 1)], 9), None), (9, log(&[(5, 1)], 99), None)]);
    assert!(!enough(&voters(&[1, 2, 3]), 2, &named(&[1, 2, 3]), &all));
    assert_eq!(best(NodeId::new(1), &voters(&[1, 2, 3]), &all), NodeId::new(1));
}

#[test]
fn a_voter_that_may_have_lost_a_suffix_is_waited_out() {
    let fence = voters(&[1, 2, 3]);
    let mut all = promises(vec![(1, log(&[(1, 1)], 9), None), (2, log(&[(1, 1)], 5), Some(6))]);
    assert!(!enough(&fence, 2, &named(&[1, 2, 3]), &all), "one whole log of three proves nothing about LSN 6");
    all.extend(promises(vec![(3, log(&[(1, 1)], 9), None)]));
    assert!(enough(&fence, 2, &named(&[1, 2, 3]), &all));
    let cut = promises(vec![
        (1, log(&[(1, 1)], 9), Some(10)),
        (2, log(&[(1, 1)], 5), Some(6)),
        (3, log(&[(1, 1)], 7), Some(8)),
    ]);
    assert!(enough(&fence, 2, &named(&[1, 2, 3]), &cut), "all have spoken: nobody is left to ask");
}

/// One voter's disk has no vote any more, and none has it yet: or one has it by an epoch that was lost with the end of a log.
#[test]
fn i1_where_no_disk_of_a_voter_has_its_vote_it_is_heard_all_the_same_and_not_counted() {
    let fence = voters(&[1, 2, 3]);
    let mut all = promises(vec![(2, log(&[(1, 1)], 9), None), (3, log(&[(1, 1)], 5), Some(6))]);
    assert!(!enough(&fence, 2, &named(&[2, 3]), &all), "the third may have been given its vote by what was lost");
    all.extend(promises(vec![(1, log(&[], 0), None)]));
    all.get_mut(&NodeId::new(1)).unwrap().counts = false;
    assert!(enough(&fence, 2, &named(&[2, 3]), &all), "it was not");
    assert!(!enough(&fence, 2, &named(&[1, 2, 3]), &all), "the disk that has it has not spoken");
    assert!(!enough(&fence, 3, &named(&[2, 3]), &all), "as many as the assignment asks for");
}

#[test]
fn two_logs_part_where_the_highest_epoch_that_both_hold_ends_in_the_shorter_one() {
    let ours = log(&[(1, 1), (3, 11)], 20);
    assert_eq!(common_point(&ours, &log(&[(1, 1), (3, 11)], 15)), Lsn::new(15));
    assert_eq!(common_point(&ours, &log(&[(1, 1), (2, 8)], 30)), Lsn::new(7), "epoch 2 began in mid-epoch 1");
    assert_eq!(common_point(&ours, &log(&[(1, 1), (2, 14)], 30)), Lsn::new(10), "ours left epoch 1 first");
    assert_eq!(common_point(&ours, &log(&[], 0)), Lsn::ZERO);
    assert_eq!(common_point(&ours, &log(&[(1, 1), (3, 9)], 30)), Lsn::new(8), "another history by the same number");
}

/// A log that begins later, behind what was released or behind a snapshot, has the first of its epochs from there on only.
#[test]
fn a_log_that_begins_later_parts_where_it_would_if_it_were_whole() {
    let ours = log(&[(1, 1), (3, 11)], 20);
    assert_eq!(common_point(&ours, &log(&[(1, 6), (2, 8)], 30)), Lsn::new(7));
    assert_eq!(common_point(&ours, &log(&[(3, 15)], 17)), Lsn::new(17), "it holds what it acknowledged");
    assert_eq!(common_point(&log(&[(3, 15)], 17), &ours), Lsn::new(17));
    assert_eq!(common_point(&ours, &log(&[(3, 25)], 30)), Lsn::new(20), "though it begins behind our end");
    assert_eq!(common_point(&ours, &log(&[(4, 25)], 30)), Lsn::ZERO, "nothing that both name");
    assert_eq!([told_from(&ours), told_from(&log(&[(4, 25)], 30))], [Lsn::new(1), Lsn::new(25)]);
}

/// What a log names as the first LSN of an epoch, behind damage of which it knows nothing, is not where that begins; and an epoch of
/// which nothing else is left is not named at all.
#[test]
fn i1_an_epoch_is_the_same_though_damage_hides_where_it_begins() {
    let ours = log(&[(3, 1), (4, 5)], 25);
    let hidden = log(&[(3, 1), (4, 7)], 30);
    let gap: &[(u64, u64)] = &[(5, 6)];
    assert_eq!(damaged_point((&ours, &[]), (&hidden, gap)), (Lsn::new(25), false));
    assert_eq!(damaged_point((&hidden, gap), (&ours, &[])), (Lsn::new(25), false));
    assert_eq!(damaged_point((&log(&[(3, 1), (4, 5)], 6), &[]), (&hidden, gap)), (Lsn::new(6), false));
    assert_eq!(common_point(&ours, &hidden), Lsn::new(4), "what is not damaged names it rightly");
    let too_early = log(&[(3, 1), (4, 4)], 25);
    assert_eq!(damaged_point((&too_early, &[]), (&hidden, gap)).0, Lsn::new(3), "it begins where both know another");
    // Epoch 4 is lost wholly, or the end of epoch 3 is: what may be a copy of that is not cut off.
    let lost = log(&[(3, 1), (5, 7)], 30);
    for of in [log(&[(3, 1), (4, 5)], 6), log(&[(3, 1)], 6), log(&[(3, 1), (4, 5)], 9)] {
        assert_eq!(damaged_point((&of, &[]), (&lost, gap)), (Lsn::new(4), true), "{of:?}");
    }
    let other = log(&[(2, 1)], 6);
    assert_eq!(
        damaged_point((&other, &[]), (&lost, gap)),
        (Lsn::ZERO, false),
        "of an older epoch it is something else"
    );
    // Nor is it known that ours is another where it is ours that is damaged; but then nothing is lost by that.
    assert_eq!(damaged_point((&lost, gap), (&log(&[(3, 1), (6, 7)], 7), &[])), (Lsn::new(4), false));
}

#[test]
fn i1_the_log_of_another_disk_is_not_chosen_and_its_promise_not_counted() {
    let fence = voters(&[1, 2, 3]);
    let mut all = promises(vec![(1, log(&[(1, 1)], 9), None), (2, log(&[(2, 1)], 99), None)]);
    all.get_mut(&NodeId::new(2)).unwrap().counts = false;
    assert!(!enough(&fence, 2, &named(&[1, 2, 3]), &all));
    assert_eq!(best(NodeId::new(1), &fence, &all), NodeId::new(1));
    all.extend(promises(vec![(3, log(&[(1, 1)], 9), None)]));
    assert!(
        enough(&fence, 2, &named(&[1, 2, 3]), &all) && !enough(&fence, 3, &named(&[1, 2, 3]), &all),
        "as many as the assignment asks for"
    );
}

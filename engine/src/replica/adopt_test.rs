//! I1, adoption: the newest epoch wins, suspects are waited out, and forks are found.

use super::adopt::{PromisedLog, best, common_point, enough, told_from};
use crate::model::{Chain, Epoch, LogPosition, LogSummary, Lsn, NodeId};
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

fn promises(logs: Vec<(u64, LogSummary, Option<u64>)>) -> BTreeMap<NodeId, PromisedLog> {
    logs.into_iter()
        .map(|(node, log, suspect)| {
            (NodeId::new(node), PromisedLog { log, suspect: suspect.map(Lsn::new), votes: None, counts: true })
        })
        .collect()
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
    assert!(!enough(&voters(&[1, 2, 3]), 2, &all));
    assert_eq!(best(NodeId::new(1), &voters(&[1, 2, 3]), &all), NodeId::new(1));
}

#[test]
fn a_voter_that_may_have_lost_a_suffix_is_waited_out() {
    let fence = voters(&[1, 2, 3]);
    let mut all = promises(vec![(1, log(&[(1, 1)], 9), None), (2, log(&[(1, 1)], 5), Some(6))]);
    assert!(!enough(&fence, 2, &all), "one whole log of three proves nothing about LSN 6");
    all.extend(promises(vec![(3, log(&[(1, 1)], 9), None)]));
    assert!(enough(&fence, 2, &all));
    let cut = promises(vec![
        (1, log(&[(1, 1)], 9), Some(10)),
        (2, log(&[(1, 1)], 5), Some(6)),
        (3, log(&[(1, 1)], 7), Some(8)),
    ]);
    assert!(enough(&fence, 2, &cut), "all have spoken: nobody is left to ask");
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

#[test]
fn i1_the_log_of_another_disk_is_not_chosen_and_its_promise_not_counted() {
    let fence = voters(&[1, 2, 3]);
    let mut all = promises(vec![(1, log(&[(1, 1)], 9), None), (2, log(&[(2, 1)], 99), None)]);
    all.get_mut(&NodeId::new(2)).unwrap().counts = false;
    assert!(!enough(&fence, 2, &all));
    assert_eq!(best(NodeId::new(1), &fence, &all), NodeId::new(1));
    all.extend(promises(vec![(3, log(&[(1, 1)], 9), None)]));
    assert!(enough(&fence, 2, &all) && !enough(&fence, 3, &all), "as many as the assignment asks for");
}

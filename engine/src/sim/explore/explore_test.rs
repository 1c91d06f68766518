//! The search itself: that it sees what it should, and takes for one only what is one.

use super::command::Search;
use super::scope::{NODES, Scope};
use super::search::explore;
use super::steps::{Steps, key};
use super::world::{Action, Fixed, World};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use xxhash_rust::xxh3::Xxh3;

fn search(text: &str) -> Search {
    text.parse().unwrap()
}

fn scope(text: &str) -> Scope {
    text.parse().unwrap()
}

#[test]
fn i1_i2_i3_hold_in_every_order_of_two_epochs_of_two_nodes_with_a_fault_of_each_kind() {
    let found = explore(&scope("1:12 2:12 writes 2 crashes 1 breaks 1 losses 1"));
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    assert!(found.complete && found.states > 10_000, "{found:?}");
    assert!(found.activated[..2].iter().all(|states| *states > 0) && found.quiet > 0, "it came by all: {found:?}");
    assert_eq!(found.committed, 4, "two starts and two writes");
}

#[test]
fn i1_i2_i3_hold_whenever_a_leader_gives_up_while_it_waits_for_a_majority() {
    let found = explore(&scope("1:12 2:12 writes 2 breaks 1 ends 2"));
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    let without = explore(&scope("1:12 2:12 writes 2 breaks 1"));
    assert!(found.complete && found.states > 2 * without.states, "{} and {}", found.states, without.states);
    assert!(found.activated[1] > without.activated[1], "{found:?}");
}

/// The third voter is new: it is given a snapshot by a leader that released its log, or leads, and gets one before it starts.
#[test]
fn i1_i2_i3_hold_when_logs_are_released_and_a_new_voter_is_given_a_snapshot_or_a_new_leader_is() {
    for text in ["=1:12 2:123 writes 1 crashes 1 releases 1", "=1:12 3:123 writes 1 crashes 1 releases 2"] {
        let found = explore(&scope(text));
        assert_eq!(found.violation, None, "{}", found.story.join("\n"));
        assert!(found.complete && found.installing > 1_000, "{found:?}");
    }
}

/// Rot of which an open finds nothing by name: an epoch's start, or the end of the one before.
/// Of what a reader comes upon: nothing is in doubt. (The last one: a leader closed the connection to who has what it can't name itself.)
#[test]
fn i1_i2_i3_hold_when_a_reader_comes_upon_rot_that_leaves_nothing_known_by_name() {
    for text in [
        "1:12 2:12 writes 1 crashes 1 rots 1 forgets",
        "1:12 2:12 1:12 writes 1 crashes 1 rots 1 forgets prompt",
        "1:12 2:12 writes 1 breaks 1 rots 1 forgets prompt",
        "1:12 2:12 writes 1 crashes 1 releases 2 rots 1 forgets",
    ] {
        let found = explore(&scope(text));
        assert!(found.complete && found.violation.is_none(), "{text}: {found:?}");
    }
}

#[test]
fn i1_i2_i3_hold_when_rot_leaves_nothing_known_by_name_of_what_two_nodes_wrote() {
    let found = explore(&scope("1:12 2:12 writes 2 crashes 1 rots 1 hides"));
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    assert!(found.complete && found.states > 10_000, "{found:?}");
}

/// The same, with a third epoch, whose leader may hold what the other can't tell.
#[test]
fn i1_i2_i3_hold_when_rot_leaves_nothing_known_by_name_between_epochs() {
    let found = explore(&scope("1:12 2:12 1:12 writes 1 crashes 1 rots 1 hides prompt"));
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    assert!(found.complete && found.states > 1_000, "{found:?}");
}

#[test]
fn two_searches_of_one_scope_count_the_same() {
    let scope = scope("=1:123 2:123 writes 1");
    let counts = [explore(&scope), explore(&scope)].map(|f| (f.states, f.transitions, f.depth, f.steps, f.node_states));
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn a_search_that_is_given_up_is_not_called_complete() {
    let found = explore(&Scope { states_max: 100, ..scope("1:123 2:123") });
    assert!(!found.complete && found.violation.is_none());
}

#[test]
fn a_scope_that_makes_no_sense_is_refused() {
    for bad in [
        "",
        "writes 1",
        "1",
        "1:23",
        "12:12",
        "5:5",
        "1:15",
        "1:1 crashes",
        "1:1 crashes x",
        "1:1 overtakes 4",
        "1:1 nonsense",
    ] {
        assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
    }
}

#[test]
fn i1_i2_hold_among_nodes_that_are_their_own_masters_whoever_is_assigned() {
    let found = search("masters hands 1 writes 1 ends 1").explore(1_000_000);
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    assert!(found.complete && found.states > 4_000 && found.quiet > 0 && found.committed == 3, "{found:?}");
    // By both steps the disk that is here comes to its vote.
    let found = search("masters hands 1 ends 1 rots 1").explore(1_000_000);
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    assert!(found.complete && found.quiet > 0, "{found:?}");
    let found = search("masters emptied").explore(1_000_000);
    assert_eq!(found.violation, None, "{}", found.story.join("\n"));
    assert!(found.complete && found.activated[0] > 0 && found.activated[1] > 0, "{found:?}");
}

#[test]
fn a_disk_that_is_put_back_is_searched_for_until_the_limit_of_states_and_nothing_is_broken() {
    let found = search("masters emptied hands 1 returns 1").explore(20_000);
    assert!(found.violation.is_none() && !found.complete, "{found:?}");
}

/// Every world of a scope, by what it is and not by its numbers.
fn worlds(scope: &Scope, verbatim: bool) -> BTreeSet<u128> {
    let fixed = Fixed::new(scope);
    let mut steps = Steps::new(scope);
    steps.verbatim = verbatim;
    let first = World::first(&fixed, &mut steps).unwrap();
    let mut seen = BTreeSet::new();
    let mut open = vec![first];
    let (mut found, mut choices, mut bytes) = (BTreeSet::new(), Vec::new(), Vec::new());
    while let Some(world) = open.pop() {
        let mut into = Xxh3::new();
        world.nodes.iter().for_each(|node| steps.node(*node).fingerprint().hash(&mut into));
        for (direction, happening) in &world.messages {
            (direction, key(steps.happening(*happening))).hash(&mut into);
        }
        let committed = world.committed.checked_sub(1).map(|known| steps.position(known).chain);
        let mut rest = world.clone();
        (rest.nodes, rest.committed) = ([0; NODES], 0);
        rest.messages.clear();
        (committed, format!("{rest:?}")).hash(&mut into);
        found.insert(into.digest128());
        world.choices(&fixed, &steps, &mut choices);
        for choice in &choices {
            let after = world.after(&fixed, &mut steps, *choice).unwrap();
            let mut words = Vec::new();
            after.write(&mut words);
            assert_eq!(World::read(&words), (after.clone(), words.len()), "a world is read as it was written");
            assert_eq!(Action::unpack(choice.pack()), *choice);
            if seen.insert(World::key(&words, &mut bytes)) {
                open.push(after);
            }
        }
    }
    found
}

/// A replica's hash leaves out tickets and what nothing reads any more. Should it leave out too much, two replicas would be
/// taken for one that go on differently, and what only the second leads to would be missed.
#[test]
fn a_search_that_takes_replicas_for_one_by_their_hash_comes_to_the_same_worlds_as_one_by_all_they_are() {
    for text in [
        "1:12 2:12 writes 1 crashes 1",
        "1:12 2:12 writes 1 losses 1",
        "1:12 2:12 writes 1 breaks 1",
        "1:12 2:12 writes 1 crashes 1 repeats 1 overtakes 1",
        "1:12 2:12 writes 1 breaks 1 ends 1",
        "=1:123 2:23 writes 1",
        "=1:12 3:123 writes 1 releases 1",
        "=1:123 2:123 empties 1 prompt",
        "1:12 2:12 writes 1 rots 1",
        "1:12 2:12 crashes 1 rots 1 hides prompt",
    ] {
        let scope = scope(text);
        let (by_hash, verbatim) = (worlds(&scope, false), worlds(&scope, true));
        assert!(by_hash.len() > 100);
        assert!(by_hash == verbatim, "{text}: {} worlds by hash, {} verbatim", by_hash.len(), verbatim.len());
        assert_eq!(explore(&scope).states, by_hash.len(), "breadth first or depth first");
    }
}

#[cfg(feature = "mutants")]
mod planted {
    use super::*;
    use crate::model::mutant::{Mutant, plant};

    /// The scope in which each bug shows early. The others take more states than a test has time for: `make mutants`.
    fn early() -> BTreeMap<Mutant, &'static str> {
        let two = "1:12 2:12 writes 2 crashes 1 breaks 1 losses 1";
        BTreeMap::from([
            (Mutant::CommitWithoutMajority, two),
            (Mutant::AcknowledgeBeforeSync, two),
            (Mutant::SkipAdoption, two),
            (Mutant::IgnorePromise, two),
            (Mutant::CommitBeforeActivation, two),
            (Mutant::SkipFence, two),
            (Mutant::StartBeforeAdoption, two),
            (Mutant::CommitOldEpoch, two),
            (Mutant::AcknowledgeUnmatched, "=1:123 2:123 1:123 2:123 writes 1 prompt"),
            (Mutant::SettleEarly, two),
            (Mutant::SkipPromiseSync, "1:123 2:123 crashes 1"),
            (Mutant::LeadAfterSteppingDown, "1:12 2:12 writes 1 ends 1"),
            (Mutant::VoteAfterAmnesia, "=1:123 2:123 writes 2 empties 1 prompt"),
            (Mutant::TruncateDamage, "1:12 2:12 rots 1"),
            (Mutant::AcknowledgeDamaged, "1:12 2:12 rots 1"),
            (Mutant::LeadDamaged, "1:12 2:12 crashes 1 rots 1"),
            (Mutant::CutOffUntold, "1:12 2:12 1:12 writes 1 crashes 1 rots 1 hides prompt"),
            (Mutant::TrustMend, "1:123 2:123 breaks 1 rots 1 prompt"),
            (Mutant::SwapVotes, "masters emptied hands 1 returns 1"),
        ])
    }

    #[test]
    fn each_rule_that_is_removed_breaks_an_invariant_in_a_small_scope() {
        for (mutant, text) in early() {
            plant(Some(mutant));
            let found = search(text).explore(400_000);
            plant(None);
            assert!(found.violation.is_some(), "{}: {} states", mutant.name(), found.states);
        }
    }

    #[test]
    fn the_story_of_a_violation_is_the_shortest_one() {
        plant(Some(Mutant::CommitWithoutMajority));
        let found = explore(&scope("1:12"));
        plant(None);
        let story = found.story.join("\n");
        assert!(story.starts_with("   1. the master assigns epoch 1 to node 1, with voters 1, 2\n"), "{story}");
        assert!(story.ends_with("I1: node 1 commits 1@1, durable on 1 of 2 voters"), "{story}");
        assert_eq!(found.depth, 8, "{story}");
    }
}

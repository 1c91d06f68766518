use super::*;
use crate::model::NamespaceId;
use proptest::prelude::*;

fn master(voters: u64) -> ConfigMaster {
    let shard =
        ShardDescriptor { shard: ShardId::new(1), namespace: NamespaceId::new(1), start: Vec::new(), end: Vec::new() };
    // Not numbered from 0, nor without gaps: a round is of a place among the voters.
    let voters: Vec<_> = (0..voters).map(voter).collect();
    ConfigMaster::new(ClusterId::new([1; 16]), shard, &voters)
}

fn voter(place: u64) -> NodeId {
    NodeId::new(3 + 5 * place)
}

/// Whose round that term is of.
fn owner(voters: u64, term: u32) -> NodeId {
    voter(u64::from(term / ROUND_TERMS) % voters)
}

const fn epoch(term: u32) -> Epoch {
    Epoch { version: FIRST_VERSION, term }
}

/// What a node may know: terms of the first rounds and of the last, their first and last ones, and others.
fn terms() -> impl Strategy<Value = u32> {
    let edge = (prop_oneof![0..20_u32, 4076..4096_u32], 0..6_u32);
    let edges = edge.prop_map(|(round, beside)| (round * ROUND_TERMS).wrapping_add(beside).wrapping_sub(3));
    prop_oneof![edges, any::<u32>()]
}

proptest! {
    #[test]
    fn a_restart_is_the_next_term_of_its_round_or_none(voters in 2..8_u64, own in terms(), noted in terms()) {
        let mut master = master(voters);
        master.note_promised(epoch(noted));
        let highest = own.max(noted);
        match master.assign(owner(voters, own), epoch(own)) {
            Some(assigned) => {
                prop_assert_eq!(assigned.epoch, epoch(highest + 1));
                prop_assert_eq!(assigned.epoch.term / ROUND_TERMS, own / ROUND_TERMS);
                prop_assert!(assigned.check().is_ok());
                prop_assert!(master.accept_activation(assigned.epoch));
            }
            None => prop_assert!(highest >= u32::MAX - 1 || (highest + 1) / ROUND_TERMS > own / ROUND_TERMS),
        }
    }

    #[test]
    fn an_assignment_by_hand_begins_a_round_above_all_that_is_known(
        voters in 1..8_u64, place in 0..8_u64, own in terms(), noted in terms(),
    ) {
        let mut master = master(voters);
        master.note_promised(epoch(noted));
        let (leader, highest) = (voter(place % voters), own.max(noted));
        match master.assign_by_hand(leader, epoch(own)) {
            Some(assigned) => {
                prop_assert!(assigned.epoch > epoch(highest));
                prop_assert_eq!(assigned.epoch.term % ROUND_TERMS, 0);
                // No further than the turn of each voter takes.
                prop_assert!(u64::from(assigned.epoch.term / ROUND_TERMS - highest / ROUND_TERMS) <= voters);
                prop_assert_eq!(assigned.leader, leader);
                prop_assert!(assigned.check().is_ok());
                prop_assert!(master.accept_activation(assigned.epoch));
            }
            None => prop_assert!(u64::from(highest / ROUND_TERMS) + voters > u64::from(u32::MAX / ROUND_TERMS)),
        }
    }

    /// Otherwise two operators could bind each half of the voters to another leader of one epoch, and neither would ever lead.
    #[test]
    fn no_two_nodes_ever_assign_themselves_one_epoch_by_hand(
        voters in 2..8_u64, one in 0..8_u64, other in 1..8_u64, known in terms(), apart in 0..3_u32, restarts in 0..9_u32,
    ) {
        // What the two know is near enough that they meet.
        let heard = known.saturating_add(apart * ROUND_TERMS);
        let (one, other) = (one % voters, (one + 1 + other % (voters - 1)) % voters);
        let mut masters = [master(voters), master(voters)];
        let by_hand = |master: &mut ConfigMaster, place, known| {
            let first = master.assign_by_hand(voter(place), epoch(known))?.epoch;
            let again = (0..restarts).map_while(|_| Some(master.assign(voter(place), first)?.epoch)).last();
            Some((first, again.unwrap_or(first)))
        };
        let [a, b] = &mut masters;
        let found = (by_hand(a, one, known), by_hand(b, other, heard));
        if let (Some((from, to)), Some((other_from, other_to))) = found {
            prop_assert!(to < other_from || other_to < from, "{from} to {to}, {other_from} to {other_to}");
        }
    }

    #[test]
    fn no_number_of_restarts_comes_above_an_assignment_by_hand_that_knew_of_the_first(
        voters in 2..8_u64, place in 0..8_u64, own in terms(), restarts in 1..50_u32,
    ) {
        let (mut stale, mut operator) = (master(voters), master(voters));
        if let Some(by_hand) = operator.assign_by_hand(voter(place % voters), epoch(own)) {
            for _ in 0..restarts {
                if let Some(restarted) = stale.assign(owner(voters, own), epoch(own)) {
                    prop_assert!(restarted.epoch < by_hand.epoch);
                }
            }
            // Also once it has heard of it: then another one leads.
            prop_assert!(!stale.is_of_the_same_round(by_hand.epoch));
            stale.note_promised(by_hand.epoch);
            prop_assert_eq!(stale.assign(owner(voters, own), epoch(own)), None);
        }
    }

    /// Otherwise whoever was superseded between two attempts would come above its successor.
    #[test]
    fn no_node_renews_a_round_of_another(voters in 2..8_u64, place in 0..8_u64, own in terms()) {
        let (mut master, other) = (master(voters), voter(place % voters));
        if own >= ROUND_TERMS && other != owner(voters, own) {
            prop_assert_eq!(master.assign(other, epoch(own)), None);
        }
    }
}

#[test]
fn a_leader_whose_disk_forgot_its_terms_renews_above_them() {
    let mut master = master(3);
    let first = master.assign(voter(1), Epoch::ZERO).unwrap();
    assert!(master.is_of_the_same_round(epoch(7)));
    master.note_promised(epoch(7));
    assert!(!master.accept_activation(first.epoch));
    assert_eq!(master.assign(voter(1), first.epoch).unwrap().epoch, epoch(8));
}

#[test]
fn who_votes_alone_goes_on_from_round_to_round() {
    let mut master = master(1);
    let last = ROUND_TERMS - 1;
    assert_eq!(master.assign(voter(0), epoch(last)).unwrap().epoch, epoch(ROUND_TERMS));
    assert_eq!(master.assign_by_hand(voter(0), epoch(last)).unwrap().epoch.term, 2 * ROUND_TERMS);
    assert!(master.leads_at_start(voter(0), voter(0), Some(voter(4))));
}

#[test]
fn who_was_promised_last_leads_at_the_start_and_before_any_promise_the_one_of_the_file() {
    let mut master = master(3);
    let [one, two] = [0, 1].map(voter);
    assert!(master.leads_at_start(one, one, None) && !master.leads_at_start(two, one, None));
    assert!(master.leads_at_start(two, one, Some(two)) && !master.leads_at_start(one, one, Some(two)));
    assert_eq!(master.assign_by_hand(NodeId::new(1), Epoch::ZERO), None, "it does not vote");
}

fn disks(of: &[(u64, u8)]) -> BTreeMap<NodeId, DirectoryId> {
    of.iter().map(|(place, disk)| (voter(*place), DirectoryId::new([*disk; 16]))).collect()
}

#[test]
fn a_log_without_an_epoch_begins_with_every_voter_and_then_a_majority_of_their_disks_is_enough() {
    let mut master = master(3);
    let here = disks(&[(0, 1), (1, 2), (2, 3)]);
    here.iter().for_each(|(node, disk)| master.meet(*node, *disk));
    master.meet(NodeId::new(99), DirectoryId::default());
    assert_eq!(master.needed(), 3);
    let first = master.assign(voter(0), Epoch::ZERO).unwrap();
    assert_eq!((first.check(), first.fence_quorum, &first.directories), (Ok(()), 3, &here));

    master.note_votes(Some(here.clone()));
    assert_eq!(master.needed(), 2);
    let next = master.assign_by_hand(voter(1), first.epoch).unwrap();
    assert_eq!((next.fence_quorum, next.directories), (2, here), "also of a voter that is not here");
    // One whose vote was taken away has none; where no majority is named, nothing is known.
    master.note_votes(Some(disks(&[(0, 1), (1, 2)])));
    assert_eq!((master.needed(), master.counts(voter(2), DirectoryId::new([3; 16]))), (2, false));
    for unknown in [disks(&[(0, 1)]), BTreeMap::new()] {
        master.note_votes(Some(unknown));
        assert_eq!(master.needed(), 3);
    }
}

#[test]
fn i1_a_voter_with_another_disk_has_its_vote_in_two_steps() {
    let mut master = master(3);
    master.note_votes(Some(disks(&[(0, 1), (1, 2), (2, 3)])));
    let [other, own] = [9, 3].map(|disk| DirectoryId::new([disk; 16]));
    assert!(master.counts(voter(2), own) && !master.counts(voter(2), other));
    disks(&[(0, 1), (1, 2), (2, 9)]).into_iter().for_each(|(node, disk)| master.meet(node, disk));
    let kept = master.assign(voter(0), Epoch::ZERO).unwrap();
    assert_eq!((kept.fence_quorum, kept.directories[&voter(2)]), (2, own));
    let taken = master.readmit(voter(0), kept.epoch).unwrap();
    assert_eq!((taken.check(), taken.fence_quorum, taken.founding), (Ok(()), 2, false));
    assert_eq!(taken.directories, disks(&[(0, 1), (1, 2)]), "first nobody has it");
    let kept = master.assign(voter(0), taken.epoch).unwrap();
    assert_eq!(kept.directories[&voter(2)], own, "until the log says so");
    master.note_votes(Some(taken.directories));
    assert!(!master.counts(voter(2), own) && !master.counts(voter(2), other));
    let given = master.readmit(voter(0), kept.epoch).unwrap();
    assert_eq!((given.check(), given.fence_quorum, given.directories[&voter(2)]), (Ok(()), 2, other));
    // Two voters at once, each by its own step.
    master.note_votes(Some(disks(&[(0, 7), (1, 2)])));
    let both = master.readmit(voter(1), given.epoch).unwrap();
    assert_eq!(both.directories, disks(&[(1, 2), (2, 9)]));
}

#[test]
fn who_votes_alone_votes_with_any_disk() {
    let mut master = master(1);
    master.note_votes(Some(disks(&[(0, 1)])));
    master.meet(voter(0), DirectoryId::new([2; 16]));
    let assignment = master.assign(voter(0), Epoch::ZERO).unwrap();
    assert_eq!((assignment.fence_quorum, assignment.directories), (1, disks(&[(0, 2)])));
}

/// Two nodes whose configurations differ in any of it don't replicate to one another; those of another release do.
#[test]
fn what_a_shard_is_called_depends_on_all_that_its_keys_depend_on_and_is_for_ever() {
    let shard = |number, namespace, start: &str, end: &str| ShardDescriptor {
        shard: ShardId::new(number),
        namespace: NamespaceId::new(namespace),
        start: start.into(),
        end: end.into(),
    };
    let log = LogId::new(7);
    let named = |name, shard: &ShardDescriptor| ConfigMaster::named_log(log, name, shard);
    let orders = named("orders", &shard(2048, 2, "a", "m"));
    let others = [
        named("names", &shard(2048, 2, "a", "m")),
        named("orders", &shard(2048, 3, "a", "m")),
        named("orders", &shard(2048, 2, "b", "m")),
        named("orders", &shard(2048, 2, "a", "n")),
        named("orders", &shard(2048, 2, "am", "")),
        ConfigMaster::named_log(LogId::new(8), "orders", &shard(2048, 2, "a", "m")),
    ];
    assert!(!others.contains(&orders));
    assert_eq!(orders.as_u128(), 30_981_790_025_691_867_604_620_600_029_106_322_650);
    assert_eq!(named("default", &shard(1024, 1, "", "")), log);
}

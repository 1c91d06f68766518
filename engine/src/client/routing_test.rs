use super::*;
use crate::model::request::FailureClass;

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

fn shard(number: u64) -> ShardId {
    ShardId::new(1024 * number)
}

/// A shard from this key on, led by this node (0: it is not known), as a node says that does not serve it.
fn place(number: u64, start: &str, leader: u64) -> ShardPlace {
    ShardPlace {
        shard: shard(number),
        start: start.into(),
        leader: (leader > 0).then(|| node(leader)),
        serving: false,
        applied: 0,
        failure: None,
    }
}

fn serving(place: ShardPlace) -> ShardPlace {
    ShardPlace { serving: true, ..place }
}

fn told(by: u64, places: Vec<ShardPlace>) -> Told {
    Told { node: node(by), places }
}

fn key(key: &str) -> About {
    About::Key(key.into())
}

fn ways(places: Vec<ShardPlace>) -> Arc<Ways> {
    let ways = Routing::default().of("orders");
    ways.learn(Instant::now(), vec![told(1, places)]);
    ways
}

fn to(ways: &Arc<Ways>, about: &About) -> Option<u64> {
    ways.part(about).leader.map(NodeId::get)
}

fn refusal(leader: u64) -> Failure {
    let leader = (leader > 0).then(|| node(leader));
    let class = FailureClass::ReRoute;
    Failure { code: 8001, class, no_side_effects: true, message: String::new(), leader }
}

#[test]
fn a_key_goes_to_the_leader_of_its_shard_and_whoever_is_asked_anyway_has_those_of_which_nobody_knows_it() {
    let routing = Routing::default();
    assert!(routing.of("orders").is_to_be_asked(&key("a")));
    let places = vec![place(2, "", 1), place(3, "h", 2), place(4, "p", 0)];
    routing.of("orders").learn(Instant::now(), vec![told(1, places)]);
    let ways = routing.of("orders");
    assert!(!ways.is_to_be_asked(&key("a")) && routing.of("others").is_to_be_asked(&key("a")));
    assert_eq!(to(&ways, &key("a")), Some(1));
    assert_eq!(to(&ways, &key("h")), Some(2));
    assert_eq!(to(&ways, &key("oz")), Some(2));
    assert_eq!(to(&ways, &key("p")), None, "nobody knows who leads it");
    assert_eq!(to(&ways, &About::Shard(shard(3))), Some(2));
    assert_eq!(to(&ways, &About::All), None, "several lead");
    assert_eq!(routing.leaders(), BTreeSet::from([node(1), node(2)]));
}

#[test]
fn what_is_about_all_keys_goes_to_the_node_that_leads_all_of_them() {
    let two = ways(vec![place(2, "", 3), place(3, "h", 3)]);
    assert_eq!(to(&two, &About::All), Some(3));
    let one = ways(vec![place(2, "", 3)]);
    assert_eq!(to(&one, &About::All), Some(3));
    // What is refused of the only shard is refused of it.
    one.part(&About::All).sent_on(node(3), &refusal(2));
    assert_eq!(to(&one, &key("a")), Some(2));
}

/// The story of a bug: one server was asked, and a node that is cut off does not know who leads instead of it.
#[test]
fn who_says_of_itself_that_it_takes_writes_is_believed_and_of_several_the_one_that_others_name() {
    let learnt = |all: Vec<Told>| {
        let ways = Routing::default().of("orders");
        ways.learn(Instant::now(), all);
        to(&ways, &key("a"))
    };
    let says = |by: u64, leader: u64| told(by, vec![place(2, "", leader)]);
    let serves = |by: u64| told(by, vec![serving(place(2, "", by))]);
    assert_eq!(learnt(vec![says(1, 1), serves(2), says(3, 1)]), Some(2), "the others have not heard of it yet");
    assert_eq!(learnt(vec![serves(1), serves(2), says(3, 2)]), Some(2), "one of them is cut off");
    assert_eq!(learnt(vec![serves(2), says(3, 2), serves(1)]), Some(2));
    assert_eq!(learnt(vec![says(1, 1), says(2, 3), says(3, 3)]), Some(3), "nobody serves");
    assert_eq!(learnt(vec![says(1, 0), says(2, 0)]), None);
}

/// The story of a bug: each refusal made everything unknown, of all namespaces, and every request asked for itself.
#[test]
fn what_is_refused_puts_one_shard_in_doubt_and_servers_are_not_asked_more_often_for_that() {
    let ways = ways(vec![place(2, "", 1), place(3, "h", 2)]);
    let refused = ways.part(&key("h"));
    assert!(!refused.sent_on(node(2), &refusal(0)), "it was asked where it should be: no other connection is better");
    assert!(refused.sent_on(node(1), &refusal(0)), "it was not");
    assert!(!ways.part(&key("a")).sent_on(node(1), &refusal(0)), "that is the one for all else");
    let is_asked_until = |about: &About| {
        let begun = Instant::now();
        while !ways.is_to_be_asked(about) {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::yield_now();
        }
        begun.elapsed()
    };
    assert!(is_asked_until(&key("h")) > ASK_PAUSE / 2);
    ways.learn(Instant::now(), vec![told(1, vec![place(2, "", 1), place(3, "h", 2)])]);
    refused.sent_on(node(2), &refusal(0));
    assert!(is_asked_until(&key("h")) > ASK_PAUSE / 2);
    assert!(!ways.is_to_be_asked(&key("a")), "of another shard nothing was refused");
    assert_eq!(to(&ways, &key("h")), Some(2), "meanwhile what is known holds");
}

#[test]
fn a_refusal_says_who_leads_and_what_was_asked_before_it_says_nothing_against_that() {
    let places = || vec![place(2, "", 1), place(3, "h", 2)];
    let ways = ways(places());
    let asked = Instant::now();
    let refused = ways.part(&key("h"));
    refused.sent_on(node(2), &refusal(3));
    assert_eq!(to(&ways, &key("h")), Some(3));
    ways.learn(asked, vec![told(1, places())]);
    assert_eq!(to(&ways, &key("h")), Some(3));
    ways.learn(Instant::now(), vec![told(1, places())]);
    assert_eq!(to(&ways, &key("h")), Some(2));
    ways.learn(Instant::now(), Vec::new());
    assert_eq!(to(&ways, &key("h")), Some(2), "nobody answered");
}

#[test]
fn whom_the_leader_names_is_asked_at_once_and_all_are_when_that_one_refuses_as_well() {
    let ways = ways(vec![place(2, "", 1)]);
    let wait_until_asking_is_allowed = || {
        let begun = Instant::now();
        while begun.elapsed() < 4 * ASK_PAUSE {
            std::thread::yield_now();
        }
    };
    wait_until_asking_is_allowed();
    let (first, late) = (ways.part(&key("a")), ways.part(&key("b")));
    first.sent_on(node(1), &refusal(2));
    assert_eq!((to(&ways, &key("a")), ways.is_to_be_asked(&key("a"))), (Some(2), false));
    // What was under way is refused with the same words, or with none; that is no news of the one that was named.
    late.sent_on(node(1), &refusal(2));
    assert_eq!((to(&ways, &key("a")), ways.is_to_be_asked(&key("a"))), (Some(2), false));
    ways.part(&key("a")).sent_on(node(2), &refusal(1));
    assert!(ways.is_to_be_asked(&key("a")), "they name each other");
    // Somebody else than was wanted has answered: it is not the one that is believed.
    let ways = self::ways(vec![place(2, "", 1)]);
    wait_until_asking_is_allowed();
    ways.part(&key("a")).sent_on(node(3), &refusal(2));
    assert!(ways.is_to_be_asked(&key("a")));
}

#[test]
fn names_that_were_asked_for_once_are_not_kept_for_ever() {
    let routing = Routing::default();
    let held = routing.of("held");
    for number in 0..10 * NAMESPACES_MAX {
        routing.of(&number.to_string());
    }
    assert!(routing.0.lock().len() <= NAMESPACES_MAX);
    assert!(Arc::ptr_eq(&held, &routing.of("held")), "in use");
}

#[test]
fn what_is_no_table_of_keys_is_not_believed() {
    let many = |count: usize| (0..count).map(|n| place(n as u64, &format!("{n:04}"), 2)).collect::<Vec<_>>();
    let from_the_first = |mut places: Vec<ShardPlace>| {
        places[0].start.clear();
        places
    };
    let largest = from_the_first(many(SHARDS_OF_NAMESPACE_MAX));
    assert_eq!(to(&ways(largest), &key("5")), Some(2));
    for wrong in [
        vec![],
        many(3),
        from_the_first(many(SHARDS_OF_NAMESPACE_MAX + 1)),
        vec![place(2, "", 2), place(3, "p", 2), place(4, "h", 2)],
        vec![place(2, "", 2), place(3, "h", 2), place(4, "h", 2)],
        vec![place(2, "", 2), place(2, "h", 2)],
    ] {
        assert_eq!(to(&ways(wrong.clone()), &key("5")), None, "{} places", wrong.len());
        let known = ways(vec![place(2, "", 3)]);
        known.learn(Instant::now(), vec![told(1, wrong)]);
        assert_eq!(to(&known, &key("5")), Some(3), "it stays as it was");
    }
}

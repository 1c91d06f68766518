use super::*;
use crate::model::call::{Look, Reach, ReadAt};
use crate::model::namespace::{NamespaceDescriptor, Policy};
use crate::model::request::Direction;
use crate::model::subscription::Subscribe;
use crate::model::{Filter, NamespaceId, NodeId, Scan, Since};

const SHOP: &str = "shop";

/// What a request takes of somebody who may do nothing else; none: nothing. Written down a second time, and without `_`.
fn expected(body: &RequestBody) -> &'static [Verb] {
    use Verb::{Assign, Manage, Observe, Read, Subscribe, Write};
    match body {
        RequestBody::Status => &[],
        RequestBody::Digest => &[Observe],
        RequestBody::Write { .. } => &[Write],
        RequestBody::Get { .. } | RequestBody::ReadStream { .. } => &[Read],
        RequestBody::Call(call) => match call {
            Call::Write { .. } | Call::OpenSession | Call::CloseSession { .. } => &[Write],
            Call::MultiGet { .. } | Call::Scan { .. } | Call::ReadStream { .. } | Call::Token => &[Read],
            Call::OpenSnapshot { .. } | Call::Look { .. } | Call::CloseSnapshot { .. } => &[Read],
            Call::Followers | Call::ForgetFollower { .. } | Call::Acknowledge { .. } => &[Subscribe],
            Call::Describe | Call::Shards => &[Read, Write, Subscribe, Manage, Assign],
            Call::AssignLeader { .. } => &[Assign],
            Call::Namespaces => &[],
            Call::CreateNamespace { .. }
            | Call::RenameNamespace { .. }
            | Call::SetPolicy { .. }
            | Call::DropNamespace => &[Manage],
        },
    }
}

fn every_body() -> Vec<RequestBody> {
    let (record, key, read) = (b"r".to_vec(), b"k".to_vec(), ReadAt::Eventual);
    let calls = [
        Call::Write { record: record.clone(), reach: Reach::Applied },
        Call::MultiGet { keys: vec![key.clone()], read: read.clone() },
        Call::Scan { scan: Scan::all(), read: read.clone() },
        Call::ReadStream {
            stream: key.clone(),
            from: 1,
            direction: Direction::Forward,
            events_max: 1,
            bytes_max: 1,
            read,
        },
        Call::Token,
        Call::OpenSession,
        Call::CloseSession { ids: vec![] },
        Call::Describe,
        Call::Namespaces,
        Call::CreateNamespace { policy: Policy::default(), split_points: vec![] },
        Call::RenameNamespace { to: SHOP.into() },
        Call::SetPolicy { policy: Policy::default() },
        Call::DropNamespace,
        Call::OpenSnapshot { read: ReadAt::Eventual },
        Call::Look { snapshot: 1, look: Look::MultiGet { keys: vec![] } },
        Call::CloseSnapshot { snapshot: 1 },
        Call::Followers,
        Call::ForgetFollower { name: "f".into() },
        Call::Acknowledge { follower: "f".into(), seat: 1, token: vec![] },
        Call::AssignLeader { shard: None, leader: NodeId::new(1) },
        Call::Shards,
    ];
    let plain = [
        RequestBody::Write { record },
        RequestBody::Get { key: key.clone() },
        RequestBody::ReadStream { stream: key, from: 1, direction: Direction::Forward, events_max: 1 },
        RequestBody::Digest,
        RequestBody::Status,
    ];
    plain.into_iter().chain(calls.map(RequestBody::Call)).collect()
}

/// One who may do nothing but these, and the door at which that is counted.
fn who_may(allowed: &'static [(Verb, Option<&'static str>)]) -> (Door, Access) {
    let door =
        Door::new(
            move |_: &Caller, action: &Action<'_>| {
                if allowed.contains(&(action.verb, action.namespace)) { Decision::Allow } else { Decision::Deny }
            },
        );
    let access = door.of(Caller::new(None, "127.0.0.1:1".parse().unwrap()));
    (door, access)
}

/// Each verb alone, where it applies.
const EACH: [&[(Verb, Option<&str>)]; 6] = [
    &[(Verb::Read, Some(SHOP))],
    &[(Verb::Write, Some(SHOP))],
    &[(Verb::Subscribe, Some(SHOP))],
    &[(Verb::Manage, Some(SHOP))],
    &[(Verb::Assign, Some(SHOP))],
    &[(Verb::Observe, None)],
];

fn request(namespace: &str, body: RequestBody) -> Request {
    Request { id: 7, deadline_ms: 0, namespace: namespace.into(), body }
}

#[test]
fn every_request_is_let_in_by_the_verbs_that_it_takes_and_by_no_other_and_nowhere_else() {
    for body in every_body() {
        let takes = expected(&body);
        for allowed in EACH {
            let (door, access) = who_may(allowed);
            let here = access.admit(request(SHOP, body.clone()));
            let may = takes.is_empty() || takes.contains(&allowed[0].0);
            assert_eq!(here.is_ok(), may, "{body:?} with {allowed:?}");
            assert_eq!(door.denied(), u64::from(!may));
            let elsewhere = access.admit(request("shop-2", body.clone()));
            let is_of_none = matches!(body, RequestBody::Digest | RequestBody::Status)
                || matches!(body, RequestBody::Call(Call::Namespaces));
            assert_eq!(elsewhere.is_ok(), may && is_of_none, "{body:?} with {allowed:?}");
        }
        let (_, nobody) = who_may(&[]);
        assert_eq!(nobody.admit(request(SHOP, body)).is_ok(), takes.is_empty());
    }
}

#[test]
fn a_feed_takes_subscribe() {
    for allowed in EACH {
        let (_, access) = who_may(allowed);
        let of = |name: &str| Subscribe::new(name, &Since::Now, &Filter::All).unwrap();
        let admitted = |name| access.admit_feed(of(name), |wanted| &wanted.namespace).is_ok();
        assert_eq!(admitted(SHOP), allowed[0].0 == Verb::Subscribe, "{allowed:?}");
        assert!(!admitted("shop-2"));
    }
}

/// Otherwise one could take a namespace away from its owner, or put one over a name that is not one's own.
#[test]
fn renaming_takes_both_names() {
    let rename = |access: &Access, from: &str, to: &str| {
        access.admit(request(from, RequestBody::Call(Call::RenameNamespace { to: to.into() }))).is_ok()
    };
    let (_, one) = who_may(&[(Verb::Manage, Some(SHOP))]);
    assert!(!rename(&one, SHOP, "other") && !rename(&one, "other", SHOP));
    let (_, both) = who_may(&[(Verb::Manage, Some(SHOP)), (Verb::Manage, Some("other"))]);
    assert!(rename(&both, SHOP, "other"));
}

#[test]
fn namespaces_are_listed_for_whoever_may_do_anything_there_and_for_nobody_else() {
    let descriptor = |id, name: &str| NamespaceDescriptor {
        id: NamespaceId::new(id),
        name: name.into(),
        policy: Policy::default(),
        shards: vec![],
    };
    let all = vec![descriptor(1, "default"), descriptor(2, SHOP), descriptor(3, "shop-2")];
    for allowed in EACH {
        let (_, access) = who_may(allowed);
        let shown = access.shown(ResponseBody::Answer(Answer::Namespaces(all.clone())));
        let expected = if allowed[0].0 == Verb::Observe { vec![] } else { vec![descriptor(2, SHOP)] };
        assert_eq!(shown, ResponseBody::Answer(Answer::Namespaces(expected)), "{allowed:?}");
    }
}

#[test]
fn who_may_not_observe_hears_who_leads_and_nothing_else() {
    let status = ServerStatus {
        node: NodeId::new(1),
        leader: Some(NodeId::new(2)),
        serving: true,
        epoch: (1024, 7),
        end: 1,
        durable: 2,
        committed: 3,
        applied: 4,
        wire_bytes_sent: 5,
        log_bytes: 6,
        batch_bytes: (7, 8),
        followers: vec![crate::model::request::FollowerStatus { node: NodeId::new(3), connected: true, durable: 9 }],
    };
    let (_, observer) = who_may(&[(Verb::Observe, None)]);
    assert_eq!(observer.shown(ResponseBody::Status(status.clone())), ResponseBody::Status(status.clone()));
    let (_, other) = who_may(&[(Verb::Read, Some(SHOP))]);
    let ResponseBody::Status(shown) = other.shown(ResponseBody::Status(status)) else { panic!("a status") };
    assert_eq!(
        (shown.node, shown.leader, shown.serving, shown.epoch),
        (NodeId::new(1), Some(NodeId::new(2)), true, (1024, 7))
    );
    let numbers = [shown.end, shown.durable, shown.committed, shown.applied, shown.wire_bytes_sent, shown.log_bytes];
    assert_eq!((numbers, shown.batch_bytes, shown.followers.len()), ([0; 6], (0, 0), 0));
}

#[test]
fn a_denial_says_what_was_asked_and_never_what_a_client_sent_as_a_name() {
    let (_, access) = who_may(&[]);
    let denied = |name: &str| access.admit(request(name, RequestBody::Call(Call::DropNamespace))).unwrap_err();
    let failure = denied(SHOP);
    assert_eq!(failure.message, "this client is not allowed to manage in namespace \"shop\"");
    assert_eq!((failure.code, failure.no_side_effects), (8007, true));
    assert_eq!(
        denied("x\nTW-0000: all is well").message,
        "this client is not allowed to manage in what is no namespace"
    );
    assert_eq!(denied(&"x".repeat(1 << 20)).message.len(), denied("").message.len());
}

#[test]
fn denials_are_told_once_a_second_with_those_that_were_not() {
    let (denials, begun) = (Denials::default(), now());
    let told: Vec<_> =
        [0, 1, 500, 999, 1000, 1001, 5000].map(|ms| denials.count(begun + Duration::from_millis(ms))).into();
    assert_eq!(told, [Some(0), None, None, None, Some(3), None, Some(1)]);
    assert_eq!(denials.count.load(Ordering::Relaxed), 7);
}

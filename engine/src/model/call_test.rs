//! The client's calls and feeds as bytes: golden vectors, and bytes that are none.

use super::call::{Answer, Call, Look, Reach, ReadAt, ShardPlace};
use super::codec::{self, Enveloped};
use super::request::{Direction, Failure, FailureClass, Request, RequestBody, Response, ResponseBody, StreamEvent};
use super::subscription::{Delivered, Delivery, FilterAt, Follow, FollowAt, SinceAt, Subscribe};
use super::*;
use crate::golden;

fn token() -> Token {
    let mut token = Token::at(ShardId::new(1024), Epoch { version: 1024, term: 7 }, Lsn::new(99));
    token.extend(&Token::at(ShardId::new(2048), Epoch { version: 1024, term: 8 }, Lsn::new(3)));
    token
}

fn namespace() -> NamespaceDescriptor {
    let shard = ShardDescriptor {
        shard: ShardId::new(2048),
        namespace: NamespaceId::new(2),
        start: Vec::new(),
        end: Vec::new(),
    };
    let policy = Policy { retention: Retention::Forever, sessions_max: 10, session_idle_seconds: 20 };
    NamespaceDescriptor { id: NamespaceId::new(2), name: "orders".into(), policy, shards: vec![shard] }
}

fn calls() -> Vec<(&'static str, Call)> {
    let at_least = || ReadAt::AtLeast { token: token().encode().unwrap().to_vec() };
    let record = Write::new().put("a", "1").record().encode().unwrap().to_vec();
    let policy = namespace().policy;
    vec![
        ("write", Call::Write { record, reach: Reach::Durable }),
        ("multi_get", Call::MultiGet { keys: vec![b"a".to_vec(), b"b".to_vec()], read: at_least() }),
        ("scan", Call::Scan { scan: Scan::prefix("a").reverse().limit(7).bytes(8), read: ReadAt::Linearizable }),
        (
            "multi_get_stale",
            Call::MultiGet { keys: vec![b"a".to_vec()], read: ReadAt::MaxStaleness { micros: 1_500_000 } },
        ),
        (
            "read_stream",
            Call::ReadStream {
                stream: b"s".to_vec(),
                from: 4,
                direction: Direction::Backward,
                events_max: 10,
                bytes_max: 11,
                read: ReadAt::Eventual,
            },
        ),
        ("token", Call::Token),
        ("open_session", Call::OpenSession),
        ("close_session", Call::CloseSession { ids: vec![(ShardId::new(1024), 0xfeed)] }),
        ("describe", Call::Describe),
        ("namespaces", Call::Namespaces),
        ("create_namespace", Call::CreateNamespace { policy, split_points: vec![b"m".to_vec()] }),
        ("rename_namespace", Call::RenameNamespace { to: "b".into() }),
        ("set_policy", Call::SetPolicy { policy }),
        ("drop_namespace", Call::DropNamespace),
        ("open_snapshot", Call::OpenSnapshot { read: at_least() }),
        ("look_multi_get", Call::Look { snapshot: 3, look: Look::MultiGet { keys: vec![b"a".to_vec()] } }),
        ("look_scan", Call::Look { snapshot: 3, look: Look::Scan { scan: Scan::prefix("a") } }),
        (
            "look_read_stream",
            Call::Look {
                snapshot: 3,
                look: Look::ReadStream {
                    stream: b"s".to_vec(),
                    from: 4,
                    direction: Direction::Forward,
                    events_max: 10,
                    bytes_max: 11,
                },
            },
        ),
        ("close_snapshot", Call::CloseSnapshot { snapshot: 3 }),
        ("followers", Call::Followers),
        ("forget_follower", Call::ForgetFollower { name: "mailer".into() }),
        (
            "acknowledge",
            Call::Acknowledge { follower: "mailer".into(), seat: 5, token: token().encode().unwrap().to_vec() },
        ),
        ("assign_leader", Call::AssignLeader { shard: Some(ShardId::new(1024)), leader: NodeId::new(2) }),
        ("assign_leader_of_the_only_shard", Call::AssignLeader { shard: None, leader: NodeId::new(2) }),
        ("shards", Call::Shards),
    ]
}

fn place(failure: Option<String>) -> ShardPlace {
    let (shard, leader) = (ShardId::new(2048), failure.is_none().then_some(NodeId::new(3)));
    ShardPlace { shard, start: b"m".to_vec(), leader, serving: false, applied: 11, failure }
}

fn answers() -> Vec<(&'static str, Answer)> {
    let (shard, epoch) = (ShardId::new(1024), (1024, 7));
    let event = StreamEvent { version: 4, lsn: 11, metadata: b"m".to_vec(), value: b"v".to_vec() };
    let entries = vec![(b"a".to_vec(), 3, b"1".to_vec())];
    vec![
        ("written", Answer::Written { shard, epoch, lsn: 11, outcome: Outcome::Applied { version: 11 } }),
        ("placed", Answer::Placed { shard, epoch, lsn: 11 }),
        ("values", Answer::Values(vec![Some((3, b"1".to_vec())), None])),
        ("page", Answer::Page { entries, next: Some(Scan::range("b".."c")) }),
        ("events", Answer::Events { events: vec![event], head: 9, more: true }),
        ("token", Answer::Token(token().encode().unwrap().to_vec())),
        ("session", Answer::Session(vec![(shard, 0xfeed)])),
        ("namespace", Answer::Namespace(namespace())),
        ("namespaces", Answer::Namespaces(vec![namespace()])),
        ("done", Answer::Done),
        ("snapshot", Answer::Snapshot { snapshot: 3, token: token().encode().unwrap().to_vec() }),
        ("followers", Answer::Followers(vec![("mailer".into(), shard, 9, 11, true)])),
        ("assigned", Answer::Assigned { shard, leader: NodeId::new(2), epoch }),
        ("elsewhere", Answer::Elsewhere { node: NodeId::new(2), address: "db-2:7400".into() }),
        ("shards", Answer::Shards(vec![place(None), place(Some("its disk failed".into()))])),
    ]
}

fn both<T: Enveloped + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let file = golden::check(&format!("{name}.bin"), &codec::encode(value).unwrap());
    assert_eq!(&codec::decode::<T>(&file).unwrap(), value, "{name}");
}

#[test]
fn every_call_and_answer_is_written_and_read_as_its_golden_file_says() {
    for (name, call) in calls() {
        let body = RequestBody::Call(call);
        both(&format!("call_{name}"), &Request { id: 7, deadline_ms: 1500, namespace: "orders".into(), body });
    }
    for (name, answer) in answers() {
        both(&format!("answer_{name}"), &Response { id: 7, body: ResponseBody::Answer(answer) });
    }
}

#[test]
fn a_subscription_and_its_deliveries_are_written_and_read_as_the_golden_files_say() {
    for (name, since, filter) in [
        ("subscribe_token", Since::Token(token()), Filter::Prefix("order-".into())),
        ("subscribe_beginning", Since::Beginning, Filter::All),
        ("subscribe_oldest", Since::Oldest, Filter::Key("a".into())),
        ("subscribe_now", Since::Now, Filter::Shard(ShardId::new(1024))),
    ] {
        let subscribe = Subscribe::new("orders", &since, &filter).unwrap();
        both(name, &subscribe);
        assert_eq!((Since::try_from(subscribe.since).unwrap(), Filter::from(subscribe.filter)), (since, filter));
    }
    let change = Change {
        shard: ShardId::new(1024),
        epoch: Epoch { version: 1024, term: 7 },
        lsn: Lsn::new(99),
        time_micros: 1_700_000_000_000_000,
        operations: vec![
            Operation::Put { key: "a".into(), value: "1".into() },
            Operation::Append { stream: "s".into(), expect: Expect::Any, metadata: "m".into(), value: "e".into() },
        ],
    };
    let delivery = Delivery::of(std::slice::from_ref(&change), &token()).unwrap();
    both("delivery_changes", &delivery);
    let Delivery::Changes { changes, .. } = delivery else { panic!("{delivery:?}") };
    assert_eq!(Change::try_from(changes[0].clone()).unwrap(), change);
    let failure = Failure {
        code: 6201,
        class: FailureClass::FixRequest,
        no_side_effects: true,
        message: "released".into(),
        leader: None,
    };
    both("delivery_failed", &Delivery::Failed(failure));
    both("delivery_seated", &Delivery::Seated { seat: 5 });
}

#[test]
fn every_way_to_follow_is_written_and_read_as_its_golden_file_says() {
    let bytes = || token().encode().unwrap().to_vec();
    let ways = [
        ("follow_known", FollowAt::Known),
        ("follow_behind", FollowAt::Behind { token: bytes() }),
        ("follow_seek", FollowAt::Seek { token: bytes() }),
    ];
    let budget = Budget { bytes: 1 << 30, age: std::time::Duration::from_secs(3600) };
    let options = FollowerOptions::since(Since::Token(token())).filter(Filter::Prefix("order-".into())).budget(budget);
    for (name, at) in ways {
        let follow = Follow::new("orders", "mailer", &options, at).unwrap();
        both(name, &follow);
        assert_eq!(follow.options().unwrap(), options);
    }
}

#[test]
fn what_is_no_token_no_record_and_no_envelope_is_an_error() {
    assert!(Read::try_from(ReadAt::AtLeast { token: b"?".to_vec() }).is_err());
    assert!(Since::try_from(SinceAt::Token { token: Vec::new() }).is_err());
    let delivered =
        Delivered { shard: ShardId::new(1), epoch: (1, 1), lsn: 1, time_micros: 0, record: vec![0xff; 100] };
    assert!(Change::try_from(delivered).is_err());
    let bytes = codec::encode(&Subscribe::new("orders", &Since::Now, &Filter::All).unwrap()).unwrap();
    for length in 0..bytes.len() {
        assert!(codec::decode::<Subscribe>(&bytes[..length]).is_err(), "cut at {length}");
    }
    assert_eq!(FilterAt::from(&Filter::All), FilterAt::All);
}

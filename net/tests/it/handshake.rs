//! From the first byte to Ready, or to a refusal.

use std::time::Duration;

use towline_net::hello::{Hello, HelloAck, MAGIC};
use towline_net::{
    ConfigError, Connection, ConnectionConfig, ConnectionError, Event, FaultClass, Features, Identity, Limits,
    ProtocolRange, Role, Side,
};

use crate::world::{ACCEPTOR_NONCE, CLUSTER, World, config, events, frame, frames, session_seed, take};

fn end_of(connection: &mut Connection) -> ConnectionError {
    match events(connection).pop() {
        Some(Event::Closed { reason }) => reason,
        other => panic!("not closed: {other:?}"),
    }
}

#[test]
fn two_sides_that_fit_are_ready_and_know_each_other() {
    let mut world = World::new(config(Side::Dialer), config(Side::Acceptor));
    world.settle();
    let Some(Event::Ready { peer }) = world.dialer.poll_event() else { panic!("the dialer is ready") };
    assert_eq!((peer.identity.node, peer.protocol), (2, 1));
    let Some(Event::Ready { peer }) = world.acceptor.poll_event() else { panic!("the acceptor is ready") };
    assert_eq!((peer.identity.node, peer.protocol), (1, 1));
}

#[test]
fn the_acceptor_says_nothing_before_it_heard_a_hello() {
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
    assert!(acceptor.poll_transmit(Duration::ZERO, 1 << 20).is_none());
}

#[test]
fn the_smaller_frame_maximum_and_the_smaller_highest_version_count() {
    let mut dialer = config(Side::Dialer);
    dialer.protocol = ProtocolRange::new(1, 4);
    dialer.limits.frame_bytes_max = 4096;
    let mut acceptor = config(Side::Acceptor);
    acceptor.protocol = ProtocolRange::new(2, 9);
    acceptor.protocol_cap = Some(3);
    let mut world = World::new(dialer, acceptor);
    world.settle();
    for side in [&world.dialer, &world.acceptor] {
        let peer = side.peer().expect("ready");
        assert_eq!((peer.protocol, peer.limits.frame_bytes_max), (3, 1024));
    }
}

/// N12.
#[test]
fn no_version_in_common_is_refused_in_the_frozen_form_naming_both_ranges() {
    let mut dialer = config(Side::Dialer);
    dialer.protocol = ProtocolRange::new(2, 3);
    let mut world = World::new(dialer, config(Side::Acceptor));
    world.settle();
    let (ours, theirs) = (ProtocolRange::new(1, 1), ProtocolRange::new(2, 3));
    assert_eq!(end_of(&mut world.acceptor), ConnectionError::VersionMismatch { ours, theirs });
    assert_eq!(end_of(&mut world.dialer), ConnectionError::Refused { code: 3015, ours: theirs, theirs: Some(ours) });
    let [(_, payload)] = &frames(&world.back, |_| 0)[..] else { panic!("one frame came back") };
    let HelloAck::Refusal(refusal) = HelloAck::decode(payload).unwrap() else { panic!("a refusal") };
    assert_eq!((refusal.ours, refusal.theirs), (Some(ours), Some(theirs)));
}

/// N16.
#[test]
fn a_peer_of_another_cluster_is_refused_before_anything_else_is_said() {
    let mut dialer = config(Side::Dialer);
    dialer.identity.cluster = [9; 16];
    // Its versions do not fit either: the cluster comes first.
    dialer.protocol = ProtocolRange::new(7, 7);
    dialer.expect_cluster = None;
    let mut world = World::new(dialer, config(Side::Acceptor));
    world.settle();
    assert_eq!(end_of(&mut world.acceptor), ConnectionError::WrongCluster);
    let end = end_of(&mut world.dialer);
    assert!(matches!(end, ConnectionError::Refused { code: 3013, theirs: None, .. }), "{end:?}");
    assert_eq!(end.class(), FaultClass::Reroute);
    // Magic, one tag of six bytes, nothing about who we are.
    assert_eq!(world.back.len(), 24 + MAGIC.len() + 4 + 6);
}

#[test]
fn a_dialer_that_reaches_another_cluster_or_another_node_leaves_and_says_why() {
    let mut acceptor = config(Side::Acceptor);
    acceptor.identity.cluster = [9; 16];
    acceptor.expect_cluster = None;
    let mut world = World::new(config(Side::Dialer), acceptor);
    world.settle();
    assert_eq!(end_of(&mut world.dialer), ConnectionError::WrongCluster);
    let end = end_of(&mut world.acceptor);
    assert!(matches!(end, ConnectionError::ClosedByPeer { code } if code.0 == 3013), "{end:?}");

    let mut dialer = config(Side::Dialer);
    dialer.expect_node = Some(5);
    let mut world = World::new(dialer, config(Side::Acceptor));
    world.settle();
    assert_eq!(end_of(&mut world.dialer), ConnectionError::WrongNode { expected: 5, found: 2 });
}

#[test]
fn a_client_that_does_not_know_its_cluster_yet_is_let_in() {
    let mut dialer = config(Side::Dialer);
    dialer.expect_cluster = None;
    dialer.identity = Identity { cluster: [0; 16], role: Role::Client, ..dialer.identity };
    let mut world = World::new(dialer, config(Side::Acceptor));
    world.settle();
    assert!(world.dialer.is_ready());
}

/// Only a client may leave its cluster open, and nobody looked: where no cluster was expected, two nodes that had none
/// took each other for neighbours.
#[test]
fn a_node_that_says_no_cluster_is_refused_also_where_none_is_expected() {
    let now = Duration::ZERO;
    for expect_cluster in [None, Some(CLUSTER)] {
        for role in [Role::Node, Role::Unknown(9)] {
            let mut hello = config(Side::Dialer).hello();
            hello.identity = Identity { cluster: [0; 16], role, ..hello.identity };
            let ours = ConnectionConfig { expect_cluster, ..config(Side::Acceptor) };
            let mut acceptor = Connection::new(Side::Acceptor, ours, now).unwrap();
            let end = acceptor.receive(now, &frame(0, 0, 1, 0, 0, 0, &hello.encode())).unwrap_err();
            assert!(matches!(end, ConnectionError::HelloMalformed { .. }), "{role:?}: {end:?}");
            let answer = HelloAck::decode(&take(&mut acceptor, now)[24..]).unwrap();
            assert!(matches!(answer, HelloAck::Refusal(refusal) if refusal.code == 3018), "{answer:?}");

            // The same of an acceptor, which hears why.
            let ours = ConnectionConfig { expect_cluster, ..config(Side::Dialer) };
            let mut dialer = Connection::new(Side::Dialer, ours, now).unwrap();
            take(&mut dialer, now);
            hello.nonce = ACCEPTOR_NONCE;
            let welcome = HelloAck::Welcome { version: 1, hello };
            let end = dialer.receive(now, &frame(0, 0, 2, 0, 0, 0, &welcome.encode())).unwrap_err();
            assert!(matches!(end, ConnectionError::HelloMalformed { .. }), "{role:?}: {end:?}");
            let [(header, code)] = &frames(&take(&mut dialer, now), |_| session_seed())[..] else { panic!("a word") };
            assert_eq!((header.kind, &code[..2]), (9, &3018_u16.to_le_bytes()[..]));
        }
    }
}

/// `Role::Unknown(1)` could be configured. On the wire it is the byte of a node, and the peer took it for one.
#[test]
fn an_identity_that_a_peer_would_take_for_another_one_is_refused_before_it_is_said() {
    let sound = config(Side::Dialer).identity;
    for role in [Role::Unknown(1), Role::Unknown(2)] {
        let broken = ConnectionConfig { identity: Identity { role, ..sound }, ..config(Side::Dialer) };
        assert!(matches!(broken.validate(), Err(ConfigError::Identity { .. })), "{role:?}");
    }
    for (role, may) in [(Role::Node, false), (Role::Unknown(9), false), (Role::Client, true)] {
        let identity = Identity { cluster: [0; 16], role, ..sound };
        let lost = ConnectionConfig { identity, ..config(Side::Dialer) };
        assert_eq!(lost.validate().is_ok(), may, "{role:?}");
        assert_eq!(Connection::new(Side::Dialer, lost, Duration::ZERO).is_ok(), may, "{role:?}");
    }
}

#[test]
fn features_that_one_side_needs_and_the_other_lacks_are_refused_and_others_are_intersected() {
    let mut dialer = config(Side::Dialer);
    dialer.features = Features { needed: 0b01, offered: 0b11 };
    let mut acceptor = config(Side::Acceptor);
    acceptor.features = Features { needed: 0, offered: 0b110 };
    let mut world = World::new(dialer, acceptor);
    world.settle();
    assert_eq!(end_of(&mut world.acceptor), ConnectionError::FeatureMissing { missing: 0b01 });

    dialer.features.needed = 0;
    let mut world = World::new(dialer, acceptor);
    world.settle();
    assert_eq!(world.dialer.peer().map(|peer| peer.features), Some(0b10));
}

/// N12.
#[test]
fn unknown_tags_are_skipped_and_known_ones_come_once_whole_and_all() {
    let hello = config(Side::Dialer).hello();
    let payload = hello.encode();
    let with = |tail: &[u8]| [&payload[..], tail].concat();
    assert_eq!(Hello::decode(&with(&[0xff, 0xee, 3, 0, 1, 2, 3])), Ok(hello));
    assert!(Hello::decode(&with(&[1, 0, 4, 0, 1, 0, 1, 0])).is_err(), "a tag twice");
    assert!(Hello::decode(&with(&[99, 0, 0xff, 0xff])).is_err(), "a value cut off");
    assert!(Hello::decode(&with(&[99, 0])).is_err(), "a tag cut off");
    assert!(Hello::decode(&payload[..payload.len() - 20]).is_err(), "no nonce");
    assert!(Hello::decode(b"HTTP/1.1").is_err(), "no magic");
}

#[test]
fn a_hello_that_can_not_be_read_is_refused_and_bytes_that_are_none_get_no_answer() {
    let now = Duration::ZERO;
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), now).unwrap();
    assert!(acceptor.receive(now, &frame(0, 0, 1, 0, 0, 0, b"TOWLINE\0")).is_err());
    let answer = take(&mut acceptor, now);
    let HelloAck::Refusal(refusal) = HelloAck::decode(&answer[24..]).unwrap() else { panic!("a refusal") };
    assert_eq!(refusal.code, 3018);

    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), now).unwrap();
    let garbage = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
    assert_eq!(acceptor.receive(now, garbage), Err(ConnectionError::HeaderChecksum { sequence: 0 }));
    assert!(take(&mut acceptor, now).is_empty());
}

#[test]
fn limits_of_a_peer_that_do_not_fit_each_other_are_refused() {
    let mut hello = config(Side::Dialer).hello();
    hello.limits.stream_window = 1;
    let now = Duration::ZERO;
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), now).unwrap();
    let end = acceptor.receive(now, &frame(0, 0, 1, 0, 0, 0, &hello.encode()));
    assert!(matches!(end, Err(ConnectionError::LimitsUnusable { .. })), "{end:?}");
}

#[test]
fn a_configuration_that_can_not_work_is_refused_by_name() {
    let broken = [
        ConnectionConfig { limits: Limits { stream_window: 1000, ..Limits::default() }, ..config(Side::Dialer) },
        ConnectionConfig { protocol_cap: Some(0), ..config(Side::Dialer) },
        ConnectionConfig { features: Features { needed: 1, offered: 0 }, ..config(Side::Dialer) },
        ConnectionConfig { idle_timeout: Duration::ZERO, ..config(Side::Dialer) },
    ];
    let errors = broken.map(|config| config.validate().unwrap_err());
    assert!(
        matches!(
            errors,
            [
                ConfigError::Limits { .. },
                ConfigError::Protocol { .. },
                ConfigError::Features { .. },
                ConfigError::Times { .. }
            ]
        ),
        "{errors:?}"
    );
}

/// N15.
#[test]
fn half_a_hello_byte_by_byte_ends_at_the_bound_whatever_drips_in() {
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
    let mut dialer = Connection::new(Side::Dialer, config(Side::Dialer), Duration::ZERO).unwrap();
    let hello = take(&mut dialer, Duration::ZERO);
    for (second, byte) in hello[..5].iter().enumerate() {
        let now = Duration::from_secs(second as u64);
        acceptor.tick(now);
        acceptor.receive(now, &[*byte]).unwrap();
    }
    assert_eq!(acceptor.next_deadline(), Some(Duration::from_secs(5)));
    acceptor.tick(Duration::from_secs(5));
    assert_eq!(end_of(&mut acceptor), ConnectionError::HelloTimeout);
}

#[test]
fn frames_are_tied_to_their_session() {
    // The same dialer's stream, recorded, and played to an acceptor with another nonce (N14).
    let mut world = World::ready();
    let stream = world.dialer.open(towline_net::StreamKind::Request, towline_net::Lane::Request).unwrap();
    world.dialer.send(stream, "pay 100".into(), crate::world::plain()).unwrap();
    world.settle();
    let mut other = config(Side::Acceptor);
    other.nonce = [0x33; 16];
    let mut acceptor = Connection::new(Side::Acceptor, other, Duration::ZERO).unwrap();
    let end = acceptor.receive(Duration::ZERO, &world.there);
    assert_eq!(end, Err(ConnectionError::HeaderChecksum { sequence: 1 }));
    assert!(!events(&mut acceptor).iter().any(|event| matches!(event, Event::Message { .. } | Event::Opened { .. })));
}

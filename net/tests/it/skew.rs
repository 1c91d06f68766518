//! Two releases that talk (N12): what an older one skips, and what it refuses by name.

use std::time::Duration;

use towline_net::frame::FrameKind;
use towline_net::hello::{HelloAck, Refusal};
use towline_net::{
    Connection, ConnectionConfig, ConnectionError, Event, FaultClass, Features, GoAwayCode, Lane, OpenError,
    ProtocolRange, ResetCode, Role, Side, StreamKind,
};

use crate::world::{ACCEPTOR_NONCE, World, config, consume, events, frame, frames, plain, session_seed, take};

const NOW: Duration = Duration::ZERO;

fn speaks(side: Side, lowest: u16, highest: u16) -> ConnectionConfig {
    ConnectionConfig { protocol: ProtocolRange::new(lowest, highest), ..config(side) }
}

fn meet(dialer: ConnectionConfig, acceptor: ConnectionConfig) -> World {
    let mut world = World::new(dialer, acceptor);
    world.settle();
    world
}

/// A frame of a ready dialer to a ready acceptor, the number as given.
fn tell(world: &mut World, number: u32, kind: u8, stream: u32, payload: &[u8]) -> Result<(), ConnectionError> {
    world.acceptor.receive(world.now, &frame(session_seed(), number, kind, 0, 0, stream, payload))
}

#[test]
fn a_release_that_still_speaks_our_version_is_met_in_it_whoever_dials() {
    for (dialer, acceptor) in [((1, 2), (1, 1)), ((1, 1), (1, 2)), ((1, 7), (1, 1)), ((1, u16::MAX), (1, 1))] {
        let mut world = meet(speaks(Side::Dialer, dialer.0, dialer.1), speaks(Side::Acceptor, acceptor.0, acceptor.1));
        for side in [&world.dialer, &world.acceptor] {
            assert_eq!(side.peer().map(|peer| peer.protocol), Some(1), "{dialer:?} and {acceptor:?}");
        }
        let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
        world.dialer.send(stream, "old words".into(), plain()).unwrap();
        world.settle();
        assert_eq!(consume(&mut world.acceptor), ["old words"]);
    }
}

#[test]
fn a_release_that_has_given_up_our_version_is_refused_naming_both_ranges_whoever_dials() {
    for (dialer, acceptor) in [((2, 3), (1, 1)), ((1, 1), (2, 3))] {
        let world = meet(speaks(Side::Dialer, dialer.0, dialer.1), speaks(Side::Acceptor, acceptor.0, acceptor.1));
        let range = |(lowest, highest)| ProtocolRange::new(lowest, highest);
        let mismatch = ConnectionError::VersionMismatch { ours: range(acceptor), theirs: range(dialer) };
        assert_eq!(world.acceptor.closed_reason(), Some(&mismatch));
        let refused = ConnectionError::Refused { code: 3015, ours: range(dialer), theirs: Some(range(acceptor)) };
        assert_eq!(world.dialer.closed_reason(), Some(&refused));
        for side in [&world.dialer, &world.acceptor] {
            assert_eq!(side.closed_reason().map(ConnectionError::class), Some(FaultClass::Operator));
        }
    }
}

/// An acceptor of a later release that chose what the dialer does not speak is not believed.
#[test]
fn a_version_that_was_not_offered_is_not_taken() {
    let mut hello = speaks(Side::Acceptor, 1, 3).hello();
    hello.nonce = ACCEPTOR_NONCE;
    for version in [0, 2, 3] {
        let mut dialer = Connection::new(Side::Dialer, speaks(Side::Dialer, 1, 1), NOW).unwrap();
        take(&mut dialer, NOW);
        let welcome = HelloAck::Welcome { version, hello }.encode();
        let end = dialer.receive(NOW, &frame(0, 0, 2, 0, 0, 0, &welcome)).unwrap_err();
        assert!(matches!(end, ConnectionError::HelloMalformed { .. }), "version {version}: {end:?}");
        let [(header, code)] = &frames(&take(&mut dialer, NOW), |_| session_seed())[..] else { panic!("a word") };
        assert_eq!((header.kind, &code[..2]), (FrameKind::GoAway.to_wire(), &3018_u16.to_le_bytes()[..]));
    }
}

#[test]
fn feature_bits_that_nobody_here_knows_are_left_out_if_offered_and_refused_if_needed() {
    const NEWEST: u64 = 1 << 63;
    for newer in [Side::Dialer, Side::Acceptor] {
        let configs = |needed| {
            [Side::Dialer, Side::Acceptor].map(|side| {
                let features = if side == newer {
                    Features { needed, offered: NEWEST | 1 }
                } else {
                    Features { needed: 0, offered: 1 }
                };
                ConnectionConfig { features, ..config(side) }
            })
        };
        let [dialer, acceptor] = configs(0);
        let world = meet(dialer, acceptor);
        for side in [&world.dialer, &world.acceptor] {
            assert_eq!(side.peer().map(|peer| peer.features), Some(1));
        }
        let [dialer, acceptor] = configs(NEWEST);
        let world = meet(dialer, acceptor);
        let missing = ConnectionError::FeatureMissing { missing: NEWEST };
        assert_eq!(world.acceptor.closed_reason(), Some(&missing), "the acceptor finds it, whoever needs it");
        assert!(matches!(world.dialer.closed_reason(), Some(ConnectionError::Refused { code: 3016, .. })));
    }
}

#[test]
fn a_hello_a_welcome_and_a_refusal_with_tags_of_a_later_release_are_read() {
    // Tag 999 of three bytes, and one that fills the rest of the 4,096.
    let with_news = |mut payload: Vec<u8>| {
        payload.extend([0xe7, 3, 3, 0, 1, 2, 3]);
        let rest = 4096 - payload.len() - 4;
        payload.extend([0xe8, 3]);
        payload.extend((rest as u16).to_le_bytes());
        payload.resize(4096, 0xee);
        payload
    };
    let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), NOW).unwrap();
    let hello = with_news(config(Side::Dialer).hello().encode());
    acceptor.receive(NOW, &frame(0, 0, 1, 0, 0, 0, &hello)).unwrap();
    assert_eq!(acceptor.peer().map(|peer| peer.identity.node), Some(1));

    let answer = |payload: Vec<u8>| {
        let mut dialer = Connection::new(Side::Dialer, config(Side::Dialer), NOW).unwrap();
        take(&mut dialer, NOW);
        let end = dialer.receive(NOW, &frame(0, 0, 2, 0, 0, 0, &with_news(payload)));
        (end, dialer.peer().map(|peer| peer.identity.node))
    };
    let welcome = HelloAck::Welcome { version: 1, hello: config(Side::Acceptor).hello() };
    assert_eq!(answer(welcome.encode()), (Ok(()), Some(2)));
    let (end, _) = answer(HelloAck::Refusal(Refusal::new(3777)).encode());
    let end = end.unwrap_err();
    assert!(matches!(end, ConnectionError::Refused { code: 3777, .. }), "{end:?}");
    assert_eq!(end.class(), FaultClass::Operator, "a reason of a later release");
}

#[test]
fn a_known_tag_of_another_length_is_no_hello_of_any_release() {
    let payload = config(Side::Dialer).hello().encode();
    let mut rest = 8;
    while rest < payload.len() {
        let length = usize::from(u16::from_le_bytes([payload[rest + 2], payload[rest + 3]]));
        let mut longer = payload.clone();
        longer.insert(rest + 4 + length, 0);
        longer[rest + 2] += 1;
        let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), NOW).unwrap();
        let end = acceptor.receive(NOW, &frame(0, 0, 1, 0, 0, 0, &longer)).unwrap_err();
        assert!(matches!(end, ConnectionError::HelloMalformed { .. }), "tag {}: {end:?}", payload[rest]);
        rest += 4 + length;
    }
}

#[test]
fn every_kind_of_frame_from_128_on_is_skipped_and_counted_also_within_a_message() {
    let mut world = World::ready();
    let seed = session_seed();
    tell(&mut world, 1, FrameKind::Open.to_wire(), 1, &[1, 0, 0, 0]).unwrap();
    let part = |number, flags, bytes: &[u8]| frame(seed, number, 4, 0, flags, 1, bytes);
    world.acceptor.receive(NOW, &part(2, 1, b"first half, ")).unwrap();
    let unconsumed = world.acceptor.stats().unconsumed_bytes;
    for (number, kind) in (3..).zip(128..=u8::MAX) {
        tell(&mut world, number, kind, u32::from(kind), &[kind; 500]).unwrap();
        world.acceptor.check();
    }
    let stats = world.acceptor.stats();
    assert_eq!((stats.frames_skipped, stats.unconsumed_bytes), (128, unconsumed), "they cost no credit");
    world.acceptor.receive(NOW, &part(131, 0, b"second half")).unwrap();
    assert_eq!(consume(&mut world.acceptor), ["first half, second half"]);
}

#[test]
fn every_unknown_kind_of_frame_below_128_is_refused_by_name_and_the_peer_hears_it() {
    for kind in (0..128).filter(|kind| FrameKind::from_wire(*kind).is_none()) {
        let mut world = World::ready();
        assert_eq!(tell(&mut world, 1, kind, 0, b""), Err(ConnectionError::UnknownKind { kind }));
        world.settle();
        let heard = ConnectionError::ClosedByPeer { code: GoAwayCode(3004) };
        assert_eq!(world.dialer.closed_reason(), Some(&heard));
        assert_eq!(heard.class(), FaultClass::Operator, "the same again is in vain");
    }
}

#[test]
fn reset_codes_that_nobody_here_knows_reach_the_layer_above_as_they_are() {
    for code in [5, 255, 256, 0x7fff_ffff, u32::MAX] {
        let mut world = World::ready();
        let stream = world.dialer.open(StreamKind::Feed, Lane::Bulk).unwrap();
        world.settle();
        world.dialer.reset(stream, ResetCode(code));
        world.settle();
        let last = events(&mut world.acceptor).pop();
        assert_eq!(last, Some(Event::Reset { stream, code: ResetCode(code) }));
        assert!(world.acceptor.is_ready() && world.dialer.is_ready());
        assert_eq!(world.dialer.stats().streams_open, 0);
    }
}

#[test]
fn a_goaway_with_an_unknown_code_drains_up_to_15_and_ends_the_connection_above() {
    for code in [4, 15] {
        let mut world = World::ready();
        tell(&mut world, 1, FrameKind::GoAway.to_wire(), 0, &goaway(code)).unwrap();
        assert_eq!(events(&mut world.acceptor), [Event::GoAway { reason: GoAwayCode(code) }]);
        assert_eq!(world.acceptor.open(StreamKind::Feed, Lane::Bulk), Err(OpenError::Draining));
    }
    for (code, class) in [
        (0, FaultClass::Retry),
        (17, FaultClass::Retry),
        (2999, FaultClass::Retry),
        (3026, FaultClass::Operator),
        (u32::MAX, FaultClass::Operator),
    ] {
        let mut world = World::ready();
        let end = tell(&mut world, 1, FrameKind::GoAway.to_wire(), 0, &goaway(code)).unwrap_err();
        assert_eq!(end, ConnectionError::ClosedByPeer { code: GoAwayCode(code) });
        assert_eq!((end.class(), end.is_orderly()), (class, false), "code {code}");
        assert!(take(&mut world.acceptor, NOW).is_empty(), "the peer has had the last word");
    }
}

fn goaway(code: u32) -> Vec<u8> {
    [code.to_le_bytes(), [0; 4]].concat()
}

#[test]
fn a_role_of_a_later_release_is_told_and_is_no_reason_to_refuse() {
    for byte in [0, 3, 255] {
        let mut dialer = config(Side::Dialer);
        dialer.identity.role = Role::Unknown(byte);
        let world = meet(dialer, config(Side::Acceptor));
        assert_eq!(world.acceptor.peer().map(|peer| peer.identity.role), Some(Role::Unknown(byte)));
    }
}

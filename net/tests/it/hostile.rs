//! Bytes that nobody honest sends: an error with a reason and a closed connection, never a panic.

use std::time::Duration;

use towline_net::frame::{FrameFlags, FrameHeader};
use towline_net::{Connection, ConnectionError, Event, Lane, Side, StreamKind};

use crate::world::{World, config, events, frame, plain, session_seed};

fn after_ready(bytes: &[u8]) -> Result<(), ConnectionError> {
    let mut world = World::ready();
    let end = world.acceptor.receive(Duration::ZERO, bytes);
    world.acceptor.check();
    end
}

fn says(kind: u8, lane: u8, flags: u16, stream: u32, payload: &[u8]) -> Result<(), ConnectionError> {
    after_ready(&frame(session_seed(), 1, kind, lane, flags, stream, payload))
}

/// N9: the length is compared before anything is allocated or awaited.
#[test]
fn giant_lengths_are_refused_at_the_header() {
    for length in [1025, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        for kind in [4, 3, 200] {
            let header = FrameHeader { length, ..FrameHeader::for_payload(kind, b"", 1) };
            let end = after_ready(&header.encode(session_seed()));
            assert_eq!(end, Err(ConnectionError::FrameTooLong { length, max: 1024 }), "kind {kind}");
        }
        let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
        let length = length.max(4097);
        let header = FrameHeader { length, ..FrameHeader::for_payload(1, b"", 0) };
        let end = acceptor.receive(Duration::ZERO, &header.encode(0));
        assert_eq!(end, Err(ConnectionError::FrameTooLong { length, max: 4096 }));
    }
}

/// N12: kinds below 128 must be known, others are passed over.
#[test]
fn unknown_frame_kinds_below_128_end_the_connection_and_others_are_skipped() {
    assert_eq!(says(10, 0, 0, 0, b"?"), Err(ConnectionError::UnknownKind { kind: 10 }));
    assert_eq!(says(127, 0, 0, 0, b"?"), Err(ConnectionError::UnknownKind { kind: 127 }));
    assert_eq!(says(128, 77, !2, 12345, b"from the future"), Ok(()));
    let mut spoilt = frame(session_seed(), 1, 255, 0, 0, 0, b"from the future");
    spoilt[30] ^= 1;
    assert_eq!(after_ready(&spoilt), Err(ConnectionError::PayloadChecksum { sequence: 1 }), "skipped, not unread");

    let mut world = World::ready();
    world.acceptor.receive(Duration::ZERO, &frame(session_seed(), 1, 128, 0, 0, 0, &[0; 1000])).unwrap();
    assert_eq!(world.acceptor.stats().frames_skipped, 1);
    assert_eq!(events(&mut world.acceptor), []);
}

#[test]
fn frames_that_can_not_be_are_refused_by_name() {
    use ConnectionError::{Malformed, StreamState};
    let malformed = |end: Result<(), ConnectionError>| assert!(matches!(end, Err(Malformed { .. })), "{end:?}");
    malformed(says(1, 0, 0, 0, b""));
    malformed(says(2, 0, 0, 0, b""));
    malformed(says(3, 0, 0, 0, &[1, 0, 0, 0])); // a stream without a number
    malformed(says(3, 4, 0, 1, &[1, 0, 0, 0])); // an unknown lane
    malformed(says(3, 0, 0, 1, &[1, 0, 0, 1])); // reserved bytes
    malformed(says(3, 0, 0, 1, &[1, 0]));
    malformed(says(5, 0, 0, 1, &[0; 9]));
    malformed(says(5, 0, 8, 1, &[0; 8])); // a stream count for a stream
    malformed(says(6, 0, 0, 0, &[0; 4]));
    malformed(says(7, 0, 1, 0, &[0; 8])); // a flag where there is none
    malformed(says(7, 2, 0, 0, &[0; 8])); // a lane where there is none
    malformed(says(9, 0, 0, 3, &[0; 8]));
    let state = |end: Result<(), ConnectionError>| assert!(matches!(end, Err(StreamState { .. })), "{end:?}");
    state(says(4, 0, 0, 1, b"x")); // data on a stream that never was
    state(says(4, 0, 0, 0, b"x"));
    state(says(5, 0, 0, 7, &[0; 8]));
    state(says(6, 0, 0, 2, &[0; 4])); // one of ours that we did not open
    state(says(3, 0, 0, 2, &[1, 0, 0, 0])); // with our parity
    state(says(3, 0, 0, 3, &[1, 0, 0, 0])); // with a hole
}

#[test]
fn data_that_its_stream_does_not_allow_is_refused() {
    let (more, end, checksummed) = (FrameFlags::MORE.0, FrameFlags::END.0, FrameFlags::CHECKSUMMED.0);
    let cases: &[&[(u8, u16, &[u8])]] = &[
        &[(3, 0, b"x")],                            // on another lane
        &[(2, end, b""), (2, 0, b"x")],             // after the end
        &[(2, end, b""), (2, end, b"")],            // twice the end
        &[(2, end, b"x")],                          // an end with data
        &[(2, more, b"x"), (2, end, b"")],          // an end within a message
        &[(2, more, b"")],                          // empty fragments
        &[(2, more, b"x"), (2, 0, b"")],            //
        &[(2, more, b"x"), (2, checksummed, b"x")], // fragments that disagree
        &[(2, 16, b"x")],                           // an unknown flag
    ];
    for case in cases {
        let mut world = World::ready();
        let mut result = world.acceptor.receive(world.now, &frame(session_seed(), 1, 3, 2, 0, 1, &[1, 0, 0, 0]));
        for (number, (lane, flags, payload)) in case.iter().enumerate() {
            assert_eq!(result, Ok(()));
            result = world
                .acceptor
                .receive(world.now, &frame(session_seed(), number as u32 + 2, 4, *lane, *flags, 1, payload));
        }
        assert!(matches!(result, Err(ConnectionError::StreamState { .. })), "{case:?}: {result:?}");
        assert!(!events(&mut world.acceptor).iter().any(|event| matches!(event, Event::Message { .. })));
    }
}

/// N8: a hole, a repeat, an exchange of two whole frames.
#[test]
fn frames_that_are_missing_repeated_or_exchanged_are_found() {
    let ping = |number| frame(session_seed(), number, 7, 0, 0, 0, &[0; 8]);
    assert_eq!(after_ready(&[ping(1), ping(2)].concat()), Ok(()));
    assert_eq!(after_ready(&[ping(1), ping(1)].concat()), Err(ConnectionError::Sequence { expected: 2, found: 1 }));
    assert_eq!(after_ready(&[ping(1), ping(3)].concat()), Err(ConnectionError::Sequence { expected: 2, found: 3 }));
    assert_eq!(after_ready(&[ping(2), ping(1)].concat()), Err(ConnectionError::Sequence { expected: 1, found: 2 }));
}

/// N8: whichever bit is wrong, the connection closes and nothing wrong is delivered.
#[test]
fn any_single_damaged_byte_closes_the_connection_and_is_never_delivered() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    world.dialer.send(stream, "first message".into(), plain()).unwrap();
    world.dialer.send(stream, vec![0x5a; 1500].into(), plain()).unwrap();
    world.dialer.finish(stream);
    world.settle();
    let honest = events(&mut world.acceptor);
    let bytes = world.there.clone();
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (position % 8);
        let mut acceptor = Connection::new(Side::Acceptor, config(Side::Acceptor), Duration::ZERO).unwrap();
        let end = acceptor.receive(Duration::ZERO, &damaged);
        assert!(end.is_err(), "damage at {position} was not seen");
        let mut seen = events(&mut acceptor);
        assert!(matches!(seen.pop(), Some(Event::Closed { .. })));
        seen.retain(|event| !matches!(event, Event::Ready { .. }));
        assert_eq!(seen, honest[..seen.len()], "damage at {position} was delivered");
    }
}

#[test]
fn a_resetting_peer_gets_one_event_for_a_stream_however_often_it_resets() {
    let mut world = World::ready();
    world.acceptor.receive(world.now, &frame(session_seed(), 1, 3, 2, 0, 1, &[1, 0, 0, 0])).unwrap();
    world.acceptor.receive(world.now, &frame(session_seed(), 2, 6, 0, 0, 1, &[1, 0, 0, 0])).unwrap();
    let end = world.acceptor.receive(world.now, &frame(session_seed(), 3, 6, 0, 0, 1, &[1, 0, 0, 0]));
    assert!(matches!(end, Err(ConnectionError::StreamState { .. })), "{end:?}");
}

/// A client without credentials at a port of TLS heard that the byte stream had ended, and nothing else.
#[test]
fn a_server_of_tls_that_answers_a_hello_by_an_alert_is_known_by_it_however_its_bytes_come() {
    let alert = [0x15, 3, 3, 0, 2, 2, 50];
    for cut in 0..=alert.len() {
        let mut dialer = Connection::new(Side::Dialer, config(Side::Dialer), Duration::ZERO).unwrap();
        let (first, second) = alert.split_at(cut);
        dialer.receive(Duration::ZERO, first).unwrap();
        dialer.receive(Duration::ZERO, second).unwrap();
        dialer.transport_ended();
        assert_eq!(dialer.closed_reason(), Some(&ConnectionError::SpeaksTls), "cut at {cut}");
    }
    for other in [&alert[..4], &[0x15, 3, 3, 0xff, 2, 2, 50], &[0x15, 2, 3, 0, 2, 2, 50], &[0x48, 3, 3, 0, 2, 2, 50]] {
        let mut dialer = Connection::new(Side::Dialer, config(Side::Dialer), Duration::ZERO).unwrap();
        dialer.receive(Duration::ZERO, other).unwrap();
        dialer.transport_ended();
        assert_eq!(dialer.closed_reason(), Some(&ConnectionError::TransportEnded), "{other:?}");
    }
}

//! Streams, lanes, liveness and the end, as conversations.

use std::time::Duration;

use bytes::Bytes;
use towline_net::frame::FrameKind;
use towline_net::{
    ConnectionError, Event, GoAwayCode, Lane, OpenError, ResetCode, SendError, SendFlags, Side, StreamId, StreamKind,
};

use crate::world::{World, config, consume, events, frame, frames, plain, session_seed, take};

#[test]
fn a_message_of_many_frames_arrives_whole_and_as_it_was() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let message: Bytes = (0..10_000_u32).map(|i| i as u8).collect();
    world.dialer.send(stream, message.clone(), plain()).unwrap();
    world.dialer.send(stream, Bytes::new(), SendFlags { checksummed: true }).unwrap();
    world.settle();
    let events = events(&mut world.acceptor);
    assert_eq!(
        events,
        [
            Event::Opened { stream, kind: StreamKind::Snapshot, lane: Lane::Bulk },
            Event::Message { stream, bytes: message, charge: 10_064, checksummed: false },
            Event::Message { stream, bytes: Bytes::new(), charge: 64, checksummed: true },
        ]
    );
}

#[test]
fn payloads_are_handed_out_without_a_copy() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let message = Bytes::from(vec![7; 1000]);
    world.dialer.send(stream, message.clone(), plain()).unwrap();
    let slices = world.dialer.poll_transmit(world.now, 1 << 20).unwrap();
    assert!(slices.iter().any(|slice| slice.as_ptr() == message.as_ptr()));
}

#[test]
fn each_half_of_a_stream_ends_by_itself() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    world.dialer.send(stream, "question".into(), plain()).unwrap();
    world.dialer.finish(stream);
    assert_eq!(world.dialer.send(stream, "more".into(), plain()), Err(SendError::StreamClosed));
    world.settle();
    assert_eq!(consume(&mut world.acceptor), ["question"]);
    world.acceptor.send(stream, "answer".into(), plain()).unwrap();
    world.acceptor.finish(stream);
    world.settle();
    assert_eq!(consume(&mut world.dialer), ["answer"]);
    assert_eq!((world.dialer.stats().streams_open, world.acceptor.stats().streams_open), (0, 0));
}

#[test]
fn streams_end_and_begin_for_ever_within_the_bound_of_open_ones() {
    let mut world = World::ready();
    for round in 0..100 {
        let stream =
            world.dialer.open(StreamKind::Request, Lane::Request).unwrap_or_else(|error| panic!("{round}: {error}"));
        world.dialer.send(stream, "x".into(), plain()).unwrap();
        world.dialer.finish(stream);
        world.acceptor.finish(stream);
        world.settle();
        world.acceptor.finish(stream);
        consume(&mut world.acceptor);
        world.acceptor.finish(stream);
        world.settle();
        consume(&mut world.dialer);
        consume(&mut world.acceptor);
        world.settle();
    }
    let opened: Vec<_> = std::iter::from_fn(|| world.dialer.open(StreamKind::Feed, Lane::Bulk).ok()).collect();
    assert!((14..=16).contains(&opened.len()), "{}", opened.len());
    assert_eq!(world.dialer.open(StreamKind::Feed, Lane::Bulk), Err(OpenError::StreamsExhausted));
}

#[test]
fn a_reset_drops_what_is_queued_tells_the_other_side_and_leaks_no_credit() {
    let mut world = World::ready();
    for _ in 0..50 {
        let stream = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
        world.dialer.send(stream, vec![1; 10_000].into(), plain()).unwrap();
        // Some fragments go out, then the sender changes its mind.
        let part = world.dialer.poll_transmit(world.now, 3_000).unwrap().concat();
        world.acceptor.receive(world.now, &part).unwrap();
        world.dialer.reset(stream, ResetCode::CANCELLED);
        world.settle();
        let events = events(&mut world.acceptor);
        assert_eq!(events.last(), Some(&Event::Reset { stream, code: ResetCode::CANCELLED }));
        assert!(!events.iter().any(|event| matches!(event, Event::Message { .. })));
        world.settle();
    }
    assert_eq!(world.acceptor.stats().unconsumed_bytes, 0);
    assert_eq!((world.dialer.stats().streams_open, world.acceptor.stats().streams_open), (0, 0));
    let stream = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    world.dialer.send(stream, vec![1; 12 << 10].into(), plain()).unwrap();
    world.settle();
    assert_eq!(consume(&mut world.acceptor).len(), 1, "the whole window is there again");
}

#[test]
fn a_receiver_that_resets_is_not_bothered_by_what_was_under_way() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    world.dialer.send(stream, vec![1; 5_000].into(), plain()).unwrap();
    let part = world.dialer.poll_transmit(world.now, 3_000).unwrap().concat();
    world.acceptor.receive(world.now, &part).unwrap();
    world.acceptor.reset(stream, ResetCode::INTERNAL);
    let rest = take(&mut world.dialer, world.now);
    world.acceptor.receive(world.now, &rest).unwrap();
    world.settle();
    assert!(
        !events(&mut world.acceptor).iter().any(|event| matches!(event, Event::Message { .. } | Event::Reset { .. }))
    );
    assert_eq!(events(&mut world.dialer), [Event::Reset { stream, code: ResetCode::INTERNAL }]);
    assert_eq!(world.acceptor.stats().unconsumed_bytes, 0);
    assert!(world.acceptor.stats().bytes_discarded > 0);
    assert_eq!((world.dialer.stats().streams_open, world.acceptor.stats().streams_open), (0, 0));
}

/// N12.
#[test]
fn a_stream_of_an_unknown_kind_is_reset_and_the_connection_lives() {
    let mut world = World::ready();
    let open = frame(session_seed(), 1, 3, 2, 0, 1, &[99, 0, 0, 0]);
    world.acceptor.receive(world.now, &open).unwrap();
    assert_eq!(events(&mut world.acceptor), []);
    let said = frames(&take(&mut world.acceptor, world.now), |_| session_seed());
    let (header, payload) = &said[0];
    assert_eq!((header.kind, header.stream, &payload[..]), (FrameKind::Reset.to_wire(), 1, &[3, 0, 0, 0][..]));
    assert!(world.acceptor.is_ready());
}

#[test]
fn urgent_lanes_overtake_and_a_bulk_message_delays_them_by_one_frame_at_most() {
    let mut world = World::ready();
    let lanes = [Lane::Bulk, Lane::Request, Lane::Replication, Lane::Control];
    let streams = lanes.map(|lane| world.dialer.open(StreamKind::Control, lane).unwrap());
    world.dialer.send(streams[0], vec![0; 10_000].into(), plain()).unwrap();
    // The bulk message has begun.
    let mut bytes = world.dialer.poll_transmit(world.now, 500).unwrap().concat();
    for stream in streams {
        world.dialer.send(stream, vec![1; 2_000].into(), plain()).unwrap();
    }
    let begun = bytes.len();
    bytes.extend(take(&mut world.dialer, world.now));
    let all = frames(&bytes, |_| session_seed());
    let data: Vec<u8> =
        frames(&bytes[begun..], |_| session_seed()).iter().filter(|(h, _)| h.kind == 4).map(|(h, _)| h.lane).collect();
    assert!(data.is_sorted(), "{data:?}");
    assert!(all.iter().all(|(header, _)| header.length <= 1024));
}

#[test]
fn within_a_lane_a_busy_stream_does_not_starve_the_others() {
    let mut world = World::ready();
    let busy = world.dialer.open(StreamKind::Feed, Lane::Bulk).unwrap();
    let modest = world.dialer.open(StreamKind::Feed, Lane::Bulk).unwrap();
    for _ in 0..4 {
        world.dialer.send(busy, vec![0; 3_000].into(), plain()).unwrap();
    }
    world.dialer.send(modest, vec![1; 100].into(), plain()).unwrap();
    // By now 'busy' may have had one turn of 16 KiB.
    let mut other = World::ready();
    std::mem::swap(&mut other.dialer, &mut world.dialer);
    let bytes = take(&mut other.dialer, other.now);
    let position = frames(&bytes, |_| session_seed())
        .iter()
        .position(|(header, _)| header.stream == modest.get() && header.kind == 4);
    let before: u32 =
        frames(&bytes, |_| session_seed())[..position.unwrap()].iter().map(|(header, _)| header.length).sum();
    assert!(before <= (16 << 10) + 1024, "{before} bytes went before");
}

#[test]
fn pings_measure_the_round_trip_and_silence_ends_the_connection_in_three_intervals() {
    let mut world = World::ready();
    world.now = Duration::from_secs(1);
    world.dialer.tick(world.now);
    let ping = take(&mut world.dialer, world.now);
    world.acceptor.receive(world.now + Duration::from_millis(15), &ping).unwrap();
    let pong = take(&mut world.acceptor, world.now);
    world.dialer.receive(world.now + Duration::from_millis(30), &pong).unwrap();
    let rtt = world.dialer.stats().rtt.expect("a sample");
    assert_eq!(
        (rtt.latest, rtt.smoothed, rtt.smallest),
        (Duration::from_millis(30), Duration::from_millis(30), Duration::from_millis(30))
    );

    // The peer vanishes (N5). Time goes from deadline to deadline.
    let mut now = Duration::from_millis(1030);
    for step in 0.. {
        assert!(step < 100, "nobody notices the silence");
        let Some(deadline) = world.dialer.next_deadline() else { break };
        now = now.max(deadline);
        world.dialer.tick(now);
        let _lost = take(&mut world.dialer, now);
    }
    assert_eq!(now, Duration::from_millis(4030));
    assert_eq!(events(&mut world.dialer), [Event::Closed { reason: ConnectionError::IdleTimeout }]);
}

#[test]
fn an_idle_pair_keeps_itself_alive() {
    let mut world = World::ready();
    for step in 0..100 {
        world.now = Duration::from_millis(step * 500);
        world.dialer.tick(world.now);
        world.acceptor.tick(world.now);
        world.settle();
    }
    assert!(world.dialer.is_ready() && world.acceptor.is_ready());
}

#[test]
fn a_connection_that_drains_takes_no_new_streams_finishes_the_old_ones_and_ends() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    world.dialer.send(stream, "last question".into(), plain()).unwrap();
    world.dialer.finish(stream);
    world.settle();
    world.acceptor.go_away(GoAwayCode::RESTART);
    // This one crosses the GoAway.
    let late = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    world.settle();
    let events_there = events(&mut world.dialer);
    assert!(events_there.contains(&Event::GoAway { reason: GoAwayCode::RESTART }), "{events_there:?}");
    assert!(events_there.contains(&Event::Reset { stream: late, code: ResetCode::REFUSED }), "{events_there:?}");
    assert_eq!(world.dialer.open(StreamKind::Request, Lane::Request), Err(OpenError::Draining));
    assert_eq!(consume(&mut world.acceptor), ["last question"]);
    world.acceptor.send(stream, "last answer".into(), plain()).unwrap();
    world.acceptor.finish(stream);
    world.settle();
    assert_eq!(consume(&mut world.dialer), ["last answer"]);
    assert_eq!(world.acceptor.closed_reason(), Some(&ConnectionError::Drained));
    assert!(world.dialer.closed_reason().is_some_and(ConnectionError::is_orderly));
}

/// It said GoAway 2 and 16 in one breath, so that an Open on its way was lost without a Reset: its opener could not know that it
/// had not been looked at.
#[test]
fn an_open_that_crosses_the_drain_of_an_idle_connection_is_refused_by_a_reset() {
    for has_ping_under_way in [false, true] {
        let mut world = World::ready();
        if has_ping_under_way {
            world.now = Duration::from_secs(1);
            world.acceptor.tick(world.now);
        }
        world.acceptor.go_away(GoAwayCode::RESTART);
        let drain = take(&mut world.acceptor, world.now);
        assert!(!world.acceptor.is_closed(), "it does not know yet that the other side knows");
        let late = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
        let crossing = take(&mut world.dialer, world.now);
        world.dialer.receive(world.now, &drain).unwrap();
        world.acceptor.receive(world.now, &crossing).unwrap();
        world.settle();
        let told = events(&mut world.dialer);
        assert!(told.contains(&Event::Reset { stream: late, code: ResetCode::REFUSED }), "{told:?}");
        assert_eq!(world.acceptor.closed_reason(), Some(&ConnectionError::Drained));
        let there = world.dialer.closed_reason();
        assert!(there.is_some_and(ConnectionError::is_orderly), "{has_ping_under_way}: {there:?}");
    }
}

/// Who drains and hears nothing any more does not wait for ever.
#[test]
fn a_drain_of_a_peer_that_is_gone_ends_by_its_silence() {
    let mut world = World::ready();
    world.acceptor.go_away(GoAwayCode::RESTART);
    let mut now = world.now;
    while let Some(deadline) = world.acceptor.next_deadline() {
        now = now.max(deadline);
        take(&mut world.acceptor, now);
        world.acceptor.tick(now);
    }
    assert_eq!(world.acceptor.closed_reason(), Some(&ConnectionError::IdleTimeout));
}

#[test]
fn close_tells_the_peer_and_ends_both_sides_in_order() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    world.dialer.send(stream, "not sent any more".into(), plain()).unwrap();
    world.dialer.close();
    world.settle();
    assert_eq!(events(&mut world.dialer), [Event::Closed { reason: ConnectionError::ClosedHere }]);
    let reason = ConnectionError::ClosedByPeer { code: GoAwayCode::CLOSED };
    assert_eq!(events(&mut world.acceptor), [Event::Closed { reason }]);
    assert_eq!(world.dialer.send(stream, "x".into(), plain()), Err(SendError::ConnectionClosed));
    assert_eq!(world.dialer.open(StreamKind::Request, Lane::Request), Err(OpenError::ConnectionClosed));
    world.dialer.consumed(stream, 100);
}

#[test]
fn nothing_is_opened_before_the_handshake_is_over() {
    let mut world = World::new(config(Side::Dialer), config(Side::Acceptor));
    assert_eq!(world.dialer.open(StreamKind::Request, Lane::Request), Err(OpenError::NotReady));
    assert_eq!(world.dialer.send(StreamId::new(1), "x".into(), plain()), Err(SendError::ConnectionClosed));
}

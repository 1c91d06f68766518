//! Credits: what a receiver may be made to hold, and that nobody waits for ever.

use std::time::Duration;

use bytes::Bytes;
use towline_net::frame::{FrameFlags, FrameKind};
use towline_net::{Connection, ConnectionConfig, ConnectionError, Event, Lane, SendError, Side, StreamId, StreamKind};

use crate::world::{World, config, consume, events, frame, frames, plain, session_seed, small_limits, take};

/// N6.
#[test]
fn a_consumer_that_stops_costs_both_sides_bounded_memory() {
    let mut world = World::ready();
    let limits = small_limits();
    let stream = world.dialer.open(StreamKind::Replication, Lane::Replication).unwrap();
    let mut sent = 0_u64;
    let mut refused = false;
    for _ in 0..10_000 {
        match world.dialer.send(stream, vec![0; 1_000].into(), plain()) {
            Ok(()) => sent += 1_000,
            Err(error) => {
                assert_eq!(error, SendError::Full);
                refused = true;
            }
        }
        world.settle();
    }
    assert!(refused);
    assert!(world.dialer.queued_bytes() <= limits.send_buffer_max);
    assert!(world.acceptor.stats().unconsumed_bytes <= limits.stream_window);
    assert!(sent <= limits.send_buffer_max + limits.stream_window);
    assert_eq!(world.dialer.stats().stream_stalls, 1, "one wait, counted once");

    // It wakes up: everything comes, in order, and the sender hears of room.
    let mut received = 0;
    loop {
        let messages = consume(&mut world.acceptor);
        if messages.is_empty() {
            break;
        }
        received += messages.iter().map(|message| message.len() as u64).sum::<u64>();
        world.settle();
    }
    assert_eq!(received, sent);
    assert!(events(&mut world.dialer).contains(&Event::Writable { stream }));
}

/// By their numbers the first would hear of room first every time, fill it, and the last would never find any.
#[test]
fn who_was_refused_first_hears_of_room_first() {
    let mut world = World::ready();
    let streams = [(); 3].map(|()| world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap());
    let filler = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let fill = |world: &mut World, stream| while world.dialer.send(stream, vec![0; 4_000].into(), plain()).is_ok() {};
    let writable = |world: &mut World| -> Vec<_> {
        let events = events(&mut world.dialer);
        events
            .into_iter()
            .filter_map(|event| if let Event::Writable { stream } = event { Some(stream) } else { None })
            .collect()
    };
    fill(&mut world, filler);
    for refused in [[2, 1, 0], [1, 0, 2]] {
        for stream in refused.map(|place| streams[place]) {
            // Refused twice it still has one place.
            fill(&mut world, stream);
            fill(&mut world, stream);
        }
        let mut heard = Vec::new();
        while heard.is_empty() {
            world.settle();
            consume(&mut world.acceptor);
            world.settle();
            heard = writable(&mut world);
        }
        let expected: Vec<_> = std::iter::once(filler).chain(refused.map(|place| streams[place])).collect();
        assert_eq!(heard, expected);
        fill(&mut world, filler);
    }
}

#[test]
fn a_stopped_stream_does_not_stop_the_others() {
    let mut world = World::ready();
    let stopped = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let alive = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    for _ in 0..20 {
        world.dialer.send(stopped, vec![0; 4_000].into(), plain()).unwrap();
    }
    let mut received = 0;
    for _ in 0..100 {
        world.dialer.send(alive, vec![1; 4_000].into(), plain()).unwrap();
        world.settle();
        while let Some(event) = world.acceptor.poll_event() {
            if let Event::Message { stream, charge, .. } = event
                && stream == alive
            {
                received += 1;
                world.acceptor.consumed(stream, charge);
            }
        }
        world.settle();
    }
    assert_eq!(received, 100);
}

#[test]
fn credit_comes_back_by_consumption_and_by_nothing_else() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Replication, Lane::Replication).unwrap();
    for _ in 0..30 {
        world.dialer.send(stream, vec![0; 1_000].into(), plain()).unwrap();
    }
    world.settle();
    let before = world.back.len();
    let taken = events(&mut world.acceptor);
    world.settle();
    assert_eq!(world.back.len(), before, "taking an event is not consuming it");
    let Some(Event::Message { charge, .. }) = taken.last() else { panic!("messages came") };
    // An eighth of 16 KiB is 2,048: one message is not enough, two are.
    world.acceptor.consumed(stream, *charge);
    world.settle();
    assert_eq!(world.back.len(), before);
    world.acceptor.consumed(stream, *charge);
    world.settle();
    let said = frames(&world.back[before..], |_| session_seed());
    let (header, payload) = &said[0];
    assert_eq!((header.kind, header.stream), (FrameKind::Credit.to_wire(), stream.get()));
    assert_eq!(payload[..], ((16 << 10) + 2 * 1_064_u64).to_le_bytes(), "absolute: window and consumed");
}

/// Two streams in parts could use up the connection's credit, and neither ever be complete.
#[test]
fn messages_that_together_exceed_the_connection_window_all_arrive() {
    let mut world = World::ready();
    let streams: Vec<StreamId> =
        (0..12).map(|_| world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap()).collect();
    for stream in &streams {
        world.dialer.send(*stream, vec![0; 12 << 10].into(), plain()).unwrap();
    }
    let mut received = 0;
    for _ in 0..20 {
        world.settle();
        received += consume(&mut world.acceptor).len();
    }
    assert_eq!(received, 12);
}

#[test]
fn a_large_message_is_not_starved_of_the_connections_credit_by_small_ones() {
    let mut world = World::ready();
    let open = |world: &mut World, lane| world.dialer.open(StreamKind::Feed, lane).unwrap();
    // Fill the connection's window.
    let fillers: Vec<StreamId> = (0..4).map(|_| open(&mut world, Lane::Request)).collect();
    for filler in &fillers {
        for _ in 0..20 {
            world.dialer.send(*filler, vec![0; 900].into(), plain()).unwrap();
        }
    }
    world.settle();
    let large = open(&mut world, Lane::Request);
    world.dialer.send(large, vec![1; 12 << 10].into(), plain()).unwrap();
    let mut rounds = 0;
    loop {
        rounds += 1;
        assert!(rounds < 100, "the large message never came");
        // One message is consumed, and at once more small ones want its credit.
        let Some(event) = world.acceptor.poll_event() else { panic!("messages wait") };
        if let Event::Message { stream, charge, bytes, .. } = event {
            world.acceptor.consumed(stream, charge);
            if bytes.len() == 12 << 10 {
                break;
            }
            let _full = world.dialer.send(stream, vec![0; 900].into(), plain());
        }
        world.settle();
    }
}

#[test]
fn control_gets_through_when_the_connections_window_is_used_up_by_others() {
    let mut world = World::ready();
    for _ in 0..6 {
        let stream = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
        for _ in 0..15 {
            world.dialer.send(stream, vec![0; 1_000].into(), plain()).unwrap();
        }
    }
    world.settle();
    let heartbeat = world.dialer.open(StreamKind::Control, Lane::Control).unwrap();
    world.dialer.send(heartbeat, vec![9; 3_000].into(), plain()).unwrap();
    world.settle();
    assert!(world.dialer.stats().connection_stalls > 0);
    assert!(
        events(&mut world.acceptor)
            .iter()
            .any(|event| matches!(event, Event::Message { bytes, .. } if bytes.len() == 3_000))
    );
}

#[test]
fn a_full_buffer_of_one_lane_leaves_room_in_the_others() {
    let mut world = World::ready();
    let bulk = world.dialer.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let accepted = (0..1_000).take_while(|_| world.dialer.send(bulk, vec![0; 4_000].into(), plain()).is_ok()).count();
    assert!(accepted < 1_000, "the buffer has no bound");
    assert!(world.dialer.send_capacity(bulk) < 4_000);
    let urgent = world.dialer.open(StreamKind::Replication, Lane::Replication).unwrap();
    assert_eq!(world.dialer.send_capacity(urgent), 12 << 10);
    assert_eq!(world.dialer.send(urgent, vec![0; 4_000].into(), plain()), Ok(()));
    let too_long = world.dialer.send(urgent, vec![0; (12 << 10) + 1].into(), plain());
    assert_eq!(too_long, Err(SendError::TooLong { length: (12 << 10) + 1, max: 12 << 10 }));
}

/// A peer by hand, with the session's seed and its own frame numbers.
struct Hostile {
    sequence: u32,
}

impl Hostile {
    fn says(
        &mut self,
        acceptor: &mut Connection,
        kind: u8,
        lane: u8,
        flags: u16,
        stream: u32,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        self.sequence += 1;
        acceptor.receive(Duration::ZERO, &frame(session_seed(), self.sequence, kind, lane, flags, stream, payload))
    }
}

/// N7.
#[test]
fn a_peer_that_overruns_a_stream_is_cut_off_before_the_bytes_are_kept() {
    let mut world = World::ready();
    let mut hostile = Hostile { sequence: 0 };
    hostile.says(&mut world.acceptor, 3, 2, 0, 1, &[1, 0, 0, 0]).unwrap();
    let mut end = Ok(());
    for _ in 0..20 {
        end = end.and_then(|()| hostile.says(&mut world.acceptor, 4, 2, 0, 1, &[0; 1024]));
    }
    let Err(ConnectionError::FlowViolation { stream, used, granted }) = end else { panic!("{end:?}") };
    assert_eq!((stream.get(), used, granted), (1, 16 * 1088, 16 << 10));
    let farewell = frames(&take(&mut world.acceptor, world.now), |_| session_seed());
    let (header, payload) = &farewell[0];
    assert_eq!((header.kind, &payload[..4]), (FrameKind::GoAway.to_wire(), &3008_u32.to_le_bytes()[..]));
}

/// N7.
#[test]
fn a_peer_that_overruns_the_connection_over_many_streams_is_cut_off() {
    let mut world = World::ready();
    let mut hostile = Hostile { sequence: 0 };
    let mut end = Ok(());
    for number in 0..8 {
        let stream = 2 * number + 1;
        end = end.and_then(|()| hostile.says(&mut world.acceptor, 3, 2, 0, stream, &[1, 0, 0, 0]));
        for _ in 0..15 {
            end = end.and_then(|()| hostile.says(&mut world.acceptor, 4, 2, 0, stream, &[0; 1000]));
        }
    }
    assert!(
        matches!(end, Err(ConnectionError::FlowViolation { stream, .. }) if stream == StreamId::CONNECTION),
        "{end:?}"
    );
}

#[test]
fn a_message_longer_than_announced_is_cut_off_though_the_window_would_hold_it() {
    let mut world = World::ready();
    let mut hostile = Hostile { sequence: 0 };
    hostile.says(&mut world.acceptor, 3, 2, 0, 1, &[1, 0, 0, 0]).unwrap();
    let mut end = Ok(());
    for _ in 0..14 {
        end = end.and_then(|()| hostile.says(&mut world.acceptor, 4, 2, FrameFlags::MORE.0, 1, &[0; 1024]));
    }
    assert_eq!(end, Err(ConnectionError::MessageTooLong { stream: StreamId::new(1), max: 12 << 10 }));
}

#[test]
fn a_peer_that_opens_more_streams_than_granted_is_cut_off_however_fast_it_ends_them() {
    // CVE-2023-44487, 'rapid reset': open and reset cost the peer nothing, and would cost us an event each.
    let mut world = World::ready();
    let mut hostile = Hostile { sequence: 0 };
    let mut end = Ok(());
    for number in 0..20 {
        let stream = 2 * number + 1;
        end = end.and_then(|()| hostile.says(&mut world.acceptor, 3, 2, 0, stream, &[1, 0, 0, 0]));
        end = end.and_then(|()| hostile.says(&mut world.acceptor, 6, 0, 0, stream, &[1, 0, 0, 0]));
    }
    assert_eq!(end, Err(ConnectionError::StreamsExceeded { granted: 16 }));
}

#[test]
fn empty_messages_cost_credit_too() {
    let mut world = World::ready();
    let mut hostile = Hostile { sequence: 0 };
    hostile.says(&mut world.acceptor, 3, 2, 0, 1, &[1, 0, 0, 0]).unwrap();
    let mut count = 0;
    while count < 10_000 && hostile.says(&mut world.acceptor, 4, 2, 0, 1, &[]).is_ok() {
        count += 1;
    }
    assert_eq!(count, (16 << 10) / 64);
}

#[test]
fn a_peer_that_pings_and_never_reads_has_one_answer_queued() {
    let mut world = World::ready();
    let mut hostile = Hostile { sequence: 0 };
    for token in 0..10_000_u64 {
        hostile.says(&mut world.acceptor, 7, 0, 0, 0, &token.to_le_bytes()).unwrap();
    }
    let said = frames(&take(&mut world.acceptor, world.now), |_| session_seed());
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].1, 9_999_u64.to_le_bytes());
}

#[test]
fn consumption_of_more_than_was_delivered_grants_nothing() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Feed, Lane::Bulk).unwrap();
    world.dialer.send(stream, Bytes::from_static(b"x"), plain()).unwrap();
    world.settle();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.acceptor.consumed(stream, 1 << 30)));
    assert_eq!(caught.is_err(), cfg!(debug_assertions));
}

/// A peer that answers pings and takes nothing holds what waits for it, but not for ever.
#[test]
fn a_peer_that_takes_nothing_for_too_long_loses_its_connection_though_it_answers_pings() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    for _ in 0..40 {
        world.dialer.send(stream, vec![0; 1_000].into(), plain()).unwrap();
    }
    let mut closed_at = None;
    for second in 0..60 {
        world.now = Duration::from_secs(second);
        world.dialer.tick(world.now);
        world.acceptor.tick(world.now);
        world.settle();
        if world.dialer.is_closed() {
            closed_at = Some(second);
            break;
        }
    }
    assert!(matches!(closed_at, Some(29..=32)), "closed after {closed_at:?} s");
    let ended = events(&mut world.dialer)
        .into_iter()
        .any(|event| matches!(event, Event::Closed { reason: ConnectionError::StallTimeout, .. }));
    assert!(ended);
}

#[test]
fn a_peer_that_takes_a_little_now_and_then_keeps_its_connection() {
    let mut world = World::ready();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    for _ in 0..100 {
        world.dialer.send(stream, vec![0; 1_000].into(), plain()).unwrap();
    }
    for second in 0..200 {
        world.now = Duration::from_secs(second);
        world.dialer.tick(world.now);
        world.acceptor.tick(world.now);
        if second % 20 == 0 {
            consume(&mut world.acceptor);
        }
        world.settle();
    }
    assert!(!world.dialer.is_closed());
}

/// The stall was no deadline: who pings seldom looked for one as seldom.
#[test]
fn a_stall_is_found_in_its_time_however_seldom_pings_go() {
    let hour = Duration::from_secs(3600);
    let patient = |side| ConnectionConfig { ping_interval: hour, idle_timeout: 3 * hour, ..config(side) };
    let mut world = World::new(patient(Side::Dialer), patient(Side::Acceptor));
    world.settle();
    let stream = world.dialer.open(StreamKind::Request, Lane::Request).unwrap();
    for _ in 0..40 {
        world.dialer.send(stream, vec![0; 1_000].into(), plain()).unwrap();
    }
    world.settle();
    world.dialer.tick(world.now);
    let deadline = world.dialer.next_deadline().unwrap();
    assert_eq!(deadline, patient(Side::Dialer).stall_timeout);
    world.dialer.tick(deadline);
    assert_eq!(world.dialer.closed_reason(), Some(&ConnectionError::StallTimeout));
}

//! The driver over a bad network: peers that vanish, ways that are cut, bytes that change, a path that is thin.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use towline_net::driver::{self, ConnectionHandle, EventReceiver, EventSink, Listener, ListenerOptions};
use towline_net::{
    ConnectionConfig, ConnectionError, Event, FaultClass, GoAwayCode, Lane, Limits, SendError, Side, StreamKind,
};

use crate::chaos::{Chaos, Random};
use crate::world::{config, plain};

const PATIENCE: Duration = Duration::from_secs(20);
const PING: Duration = Duration::from_millis(200);
/// What a machine that does other things may add to a bound.
const SLACK: Duration = Duration::from_millis(1500);

struct Link {
    chaos: Chaos,
    client: ConnectionHandle,
    server: ConnectionHandle,
    server_events: EventReceiver,
}

fn quick(side: Side) -> ConnectionConfig {
    ConnectionConfig { ping_interval: PING, idle_timeout: PING * 3, ..config(side) }
}

async fn link(seed: u64, configs: impl Fn(Side) -> ConnectionConfig) -> Link {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), ListenerOptions::default()).await.unwrap();
    let chaos = Chaos::before(listener.local_addr().unwrap(), seed).await;
    let client_side = driver::connect(chaos.address, configs(Side::Dialer), EventSink::callback(|_| ()));
    let (client, incoming) = tokio::join!(client_side, listener.accept());
    let (sink, server_events) = EventSink::channel(64);
    let (client, server) = (client.unwrap(), incoming.unwrap().spawn(configs(Side::Acceptor), sink).unwrap());
    client.ready().await.unwrap();
    server.ready().await.unwrap();
    Link { chaos, client, server, server_events }
}

async fn end(handle: &ConnectionHandle) -> ConnectionError {
    timeout(PATIENCE, handle.closed()).await.unwrap()
}

/// N5.
#[tokio::test]
async fn a_peer_that_vanished_is_found_by_both_within_three_ping_intervals() {
    let link = link(1, quick).await;
    // Some life first: the bound counts from the last byte that was heard.
    tokio::time::sleep(PING * 2).await;
    assert!(!link.client.is_closed() && !link.server.is_closed());
    link.chaos.there.cut();
    link.chaos.back.cut();
    let begin = Instant::now();
    assert_eq!(end(&link.client).await, ConnectionError::IdleTimeout);
    assert_eq!(end(&link.server).await, ConnectionError::IdleTimeout);
    assert!(begin.elapsed() <= PING * 3 + SLACK, "{:?}", begin.elapsed());
}

/// N3, N5: bytes go one way only. Who hears nothing finds it, and tells the other, whom it still reaches.
#[tokio::test]
async fn a_cut_of_either_way_is_found_by_who_hears_nothing_and_the_other_is_told() {
    for cuts_there in [true, false] {
        let link = link(2, quick).await;
        let (deaf, other) = if cuts_there { (&link.server, &link.client) } else { (&link.client, &link.server) };
        if cuts_there {
            link.chaos.there.cut()
        } else {
            link.chaos.back.cut()
        };
        let begin = Instant::now();
        assert_eq!(end(deaf).await, ConnectionError::IdleTimeout);
        let heard = end(other).await;
        assert_eq!(heard, ConnectionError::ClosedByPeer { code: GoAwayCode(3012) });
        assert_eq!(heard.class(), FaultClass::Retry);
        assert!(begin.elapsed() <= PING * 3 + SLACK, "{:?}", begin.elapsed());
    }
}

/// A slow path is no dead one: pings take longer than their interval, and nobody is cut off for it.
#[tokio::test]
async fn a_delay_within_the_bound_is_measured_and_ends_nothing() {
    let link = link(3, quick).await;
    let delay = Duration::from_millis(120);
    link.chaos.there.delay(delay);
    link.chaos.back.delay(delay);
    tokio::time::sleep(PING * 8).await;
    assert!(!link.client.is_closed() && !link.server.is_closed());
    let rtt = link.client.stats().rtt.expect("pongs came");
    assert!(rtt.latest >= delay * 2, "{rtt:?}");
}

#[tokio::test]
async fn a_reset_of_the_path_ends_both_as_something_to_try_again() {
    let link = link(4, config).await;
    link.chaos.reset();
    for handle in [&link.client, &link.server] {
        let reason = end(handle).await;
        assert_eq!((&reason, reason.class()), (&ConnectionError::TransportEnded, FaultClass::Retry));
    }
}

/// N8: TCP's sum of 16 bits lets one in some ten thousand damaged pieces through. Here each one passes.
#[tokio::test]
async fn a_damaged_byte_is_never_delivered_and_ends_the_connection_as_damage_for_both() {
    const MESSAGES: u8 = 20;
    // Open, then messages of 1,000 bytes, each in one frame.
    let bytes = 28 + u64::from(MESSAGES) * 1024;
    let mut random = Random(0x70ff_11e5);
    for round in 0..25 {
        let mut link = link(random.next(), config).await;
        let at = random.next() % bytes;
        link.chaos.there.damage_after(at);
        let stream = link.client.open(StreamKind::Replication, Lane::Replication).unwrap();
        for number in 0..MESSAGES {
            let sent = link.client.send(stream, vec![number; 1000].into(), plain()).await;
            // It may have heard of the end by then.
            assert!(matches!(sent, Ok(()) | Err(SendError::ConnectionClosed)), "round {round}: {sent:?}");
        }
        let mut next = 0;
        let reason = loop {
            match timeout(PATIENCE, link.server_events.recv()).await.unwrap() {
                Some(Event::Message { stream, bytes, charge, .. }) => {
                    assert_eq!(bytes, Bytes::from(vec![next; 1000]), "round {round}: damage at {at} was delivered");
                    next += 1;
                    link.server.consumed(stream, charge);
                }
                Some(Event::Closed { reason }) => break reason,
                Some(_) => {}
                None => panic!("round {round}: no end was told"),
            }
        };
        assert_eq!(reason.class(), FaultClass::Damage, "round {round}, damage at {at}: {reason}");
        assert!(u64::from(next) <= at.saturating_sub(28) / 1024, "round {round}: what came after the damage");
        let heard = end(&link.client).await;
        assert_eq!(heard.class(), FaultClass::Damage, "round {round}: {heard}");
    }
}

/// N6.
#[tokio::test]
async fn over_a_thin_path_memory_is_bounded_and_heartbeats_overtake_bulk() {
    let limits = Limits { frame_bytes_max: 16 << 10, ..Limits::default() };
    let mut link = link(5, |side| ConnectionConfig { limits, ..config(side) }).await;
    // A tenth of it is what the kernel and one frame may hold up a heartbeat by.
    link.chaos.there.limit(2 << 20);
    let bulk = link.client.open(StreamKind::Snapshot, Lane::Bulk).unwrap();
    let beats = link.client.open(StreamKind::Control, Lane::Control).unwrap();
    let mut refused = false;
    while !refused {
        refused = link.client.try_send(bulk, vec![0; 1 << 20].into(), plain()) == Err(SendError::Full);
        assert!(link.client.queued_bytes() <= limits.send_buffer_max);
    }
    // By turn it would come after all that: 32 MiB, or 16 seconds.
    link.client.try_send(beats, "alive".into(), plain()).unwrap();
    let begin = Instant::now();
    let mut taken = 0;
    loop {
        match timeout(PATIENCE, link.server_events.recv()).await.unwrap() {
            Some(Event::Message { stream, .. }) if stream == beats => break,
            // A consumer that gives no credit back.
            Some(Event::Message { charge, .. }) => taken += charge as u64,
            Some(Event::Closed { reason }) => panic!("a slow peer is no dead one: {reason}"),
            _ => {}
        }
        assert!(taken <= limits.stream_window);
    }
    let waited = begin.elapsed();
    assert!(waited < Duration::from_secs(4), "a heartbeat took {waited:?}");
    assert!(link.server.stats().unconsumed_bytes <= limits.stream_window);
    assert!(link.chaos.there.bytes_passed() < 12 << 20, "it did not just wait for its turn");
}

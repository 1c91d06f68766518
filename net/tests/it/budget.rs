//! Many connections within one budget.

use std::time::Duration;

use tokio::time::timeout;
use towline_net::driver::{self, ConnectionHandle, EventReceiver, EventSink, MemoryBudget};
use towline_net::{ConnectionConfig, ConnectionError, Event, GoAwayCode, Lane, Limits, Side, StreamId, StreamKind};

use crate::world::{config, plain};

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// A connection that a budget counts, and its peer, which takes events only when it is asked to.
struct Pair {
    ours: ConnectionHandle,
    our_events: EventReceiver,
    peer: ConnectionHandle,
    _peer_events: EventReceiver,
}

async fn pair(budget: &MemoryBudget, owner: &str) -> Pair {
    let wide = |side| ConnectionConfig { limits: Limits::default(), ..config(side) };
    let (one, other) = tokio::io::duplex(64 << 10);
    let (sink, our_events) = EventSink::channel(4096);
    let ours = driver::spawn(one, Side::Acceptor, wide(Side::Acceptor), sink).unwrap();
    budget.enroll(&ours, owner);
    let (sink, _peer_events) = EventSink::channel(4096);
    let peer = driver::spawn(other, Side::Dialer, wide(Side::Dialer), sink).unwrap();
    ours.ready().await.unwrap();
    peer.ready().await.unwrap();
    Pair { ours, our_events, peer, _peer_events }
}

impl Pair {
    async fn ended(&self) -> ConnectionError {
        timeout(PATIENCE, self.ours.closed()).await.unwrap()
    }

    /// Sends so many MiB to the peer, which has a window of 32 MiB: what is beyond that waits here. It may end meanwhile.
    async fn send(&self, mebibytes: usize) {
        let stream = self.ours.open(StreamKind::Request, Lane::Request).unwrap();
        for _ in 0..mebibytes {
            let _of_one_that_ended = self.ours.send(stream, vec![7; MIB].into(), plain()).await;
            // So that what the peer takes does not wait here first.
            while self.ours.queued_bytes() > 0 && self.ours.stats().stream_stalls == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn who_takes_nothing_ends_and_who_holds_little_stays() {
    let budget = MemoryBudget::new(40 << 20);
    let modest = pair(&budget, "modest").await;
    modest.send(2).await;
    let greedy = [pair(&budget, "greedy").await, pair(&budget, "greedy").await, pair(&budget, "greedy").await];
    // The peers take what their windows hold, then 18 MiB wait here for each.
    for one in &greedy {
        one.send(50).await;
    }
    until("it fits", || budget.ended() > 0 && budget.held() <= 40 << 20).await;
    assert_eq!(budget.ended(), 1, "two of them fit");
    let ended: Vec<_> = greedy.iter().filter(|one| one.ours.is_closed()).collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].ended().await, ConnectionError::MemoryExceeded);
    let heard = timeout(PATIENCE, ended[0].peer.closed()).await.unwrap();
    assert_eq!(heard, ConnectionError::ClosedByPeer { code: GoAwayCode(3027) });
    assert!(!modest.ours.is_closed());
    for one in &greedy {
        one.ours.close();
        one.ended().await;
    }
    until("what ended holds nothing", || budget.held() == 0).await;
}

#[tokio::test]
async fn what_came_and_is_not_consumed_counts_until_it_is() {
    let budget = MemoryBudget::new(10 << 20);
    let mut pair = pair(&budget, "a").await;
    let stream = pair.peer.open(StreamKind::Request, Lane::Request).unwrap();
    for _ in 0..8 {
        pair.peer.send(stream, vec![7; MIB].into(), plain()).await.unwrap();
    }
    until("all have come", || budget.held() >= 8 << 20).await;
    let mut consumed: Vec<(StreamId, usize)> = Vec::new();
    while consumed.len() < 8 {
        if let Event::Message { stream, charge, .. } = timeout(PATIENCE, pair.our_events.recv()).await.unwrap().unwrap()
        {
            consumed.push((stream, charge));
        }
    }
    assert!(budget.held() >= 8 << 20, "delivered is not consumed");
    for (stream, charge) in consumed {
        pair.ours.consumed(stream, charge);
    }
    until("nothing is held", || budget.held() == 0).await;
    for _ in 0..11 {
        let _of_one_that_ended = pair.peer.try_send(stream, vec![7; MIB].into(), plain());
    }
    assert_eq!(pair.ended().await, ConnectionError::MemoryExceeded);
    assert_eq!((budget.ended(), budget.held()), (1, 0));
}

/// Nobody else is to end for it, while its peer is still to hear that it has ended.
#[tokio::test(start_paused = true)]
async fn what_a_connection_held_counts_no_more_once_it_ends() {
    let budget = MemoryBudget::new(10 << 20);
    let wide = |side| ConnectionConfig { limits: Limits::default(), ..config(side) };
    let ((one, mut near), (mut far, other)) = (tokio::io::duplex(64 << 10), tokio::io::duplex(64 << 10));
    let (sink, _our_events) = EventSink::channel(4096);
    let ours = driver::spawn(other, Side::Acceptor, wide(Side::Acceptor), sink).unwrap();
    budget.enroll(&ours, "a");
    let peer = driver::spawn(one, Side::Dialer, wide(Side::Dialer), EventSink::callback(|_| ())).unwrap();
    let sends = async {
        peer.ready().await.unwrap();
        let stream = peer.open(StreamKind::Request, Lane::Request).unwrap();
        peer.send(stream, vec![7; 8 * MIB].into(), plain()).await.unwrap();
        until("all has come", || budget.held() >= 8 << 20).await;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => panic!("nobody closes"),
        () = sends => {}
    }
    ours.close();
    let begun = tokio::time::Instant::now();
    until("nothing is held", || budget.held() == 0).await;
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    assert_eq!(ours.closed().await, ConnectionError::ClosedHere);
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_the_program_holds_counts_and_one_that_has_ended_is_not_counted() {
    let budget = MemoryBudget::new(10 << 20);
    let pair = pair(&budget, "a").await;
    let held = pair.ours.hold(8 * MIB);
    assert_eq!((budget.held(), pair.ours.is_closed()), (8 << 20, false));
    let more = pair.ours.hold(3 * MIB);
    assert_eq!(pair.ended().await, ConnectionError::MemoryExceeded);
    until("it is gone", || budget.held() == 0).await;
    drop((held, more));
    budget.enroll(&pair.ours, "a");
    drop(pair.ours.hold(8 * MIB));
    assert_eq!((budget.held(), budget.ended()), (0, 1));
    assert!(format!("{budget:?}").contains("held: 0"), "nothing was enrolled");
}
